/*
 * LUNs that come and go while nexuses use the target: what each hears, what becomes of its tasks,
 * and nexuses that open or are lost in the middle of it. Other INQUIRY data as well.
 */
#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus a, b;

/* LUN 0 and 1 are there; disks 2 and 3 are for later. */
static void up_on(const char *spec)
{
	fx_init(&fx);
	fx_add_disk(&fx, "ram:16M", 512, false);
	fx_add_disk(&fx, spec, 512, false);
	fx_add_disk(&fx, "ram:8M", 512, false);
	fx_add_disk(&fx, "ram:4M", 512, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	assert_int_equal(scsi_target_add_lun(fx.target, 1, fx.lus[1]), 0);
	fx_start(&fx);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	for (uint8_t lun = 0; lun < 2; lun++) {
		fx_take_power_on(&a, lun);
		fx_take_power_on(&b, lun);
	}
}

static int up(void **state)
{
	up_on("ram:16M");
	return 0;
}

static int up_hanging(void **state)
{
	up_on("fault:rule=any;hang:ram:16M");
	return 0;
}

static int down(void **state)
{
	fx_close(&a);
	fx_close(&b);
	fx_down(&fx);
	return 0;
}

/* ---- Changes ---- */

struct change {
	struct scsi_lun_op op;
	sem_t sem;
	int err;
	bool done;
	unsigned at; /* how many were done before */
};

static unsigned ndone;

static void change_done(struct scsi_lun_op *op, int err)
{
	struct change *c = container_of(op, struct change, op);

	c->err = err;
	c->at = ndone++;
	c->done = true;
	sem_post(&c->sem);
}

static void change_init(struct change *c, uint16_t lun, struct scsi_lu *lu)
{
	*c = (struct change){.op = {.target = fx.target,
				    .lun = lun,
				    .lu = lu,
				    .loop = fx.loop,
				    .done = change_done}};
	sem_init(&c->sem, 0, 0);
}

static void change_run(void *arg)
{
	scsi_target_change_lun(&((struct change *)arg)->op);
}

static void change_begin(struct change *c, uint16_t lun, struct scsi_lu *lu)
{
	change_init(c, lun, lu);
	fx_call(&fx, change_run, c);
	fx_settle(&fx);
}

static int change_end(struct change *c)
{
	fx_wait(&c->sem);
	sem_destroy(&c->sem);
	return c->err;
}

static int change(uint16_t lun, struct scsi_lu *lu)
{
	struct change c;

	change_begin(&c, lun, lu);
	return change_end(&c);
}

/* ---- Commands ---- */

static struct fx_task *at(struct fx_nexus *n, uint8_t lun, const uint8_t *cdb, uint8_t cdb_len,
			  uint32_t expected)
{
	struct fx_task *ft = fx_task_new(n, cdb, cdb_len);

	ft->t.lun[1] = lun;
	if (expected != 0)
		fx_expect_in(ft, expected);
	fx_run(&fx, ft);
	return ft;
}

#define AT(n, lun, expected, ...) \
	at(n, lun, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), expected)

static void ready(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = AT(n, lun, 0, 0, 0, 0, 0, 0, 0);

	fx_good(ft);
	fx_task_free(ft);
}

static void told(struct fx_nexus *n, uint8_t lun, uint8_t key, uint8_t asc, uint8_t ascq)
{
	struct fx_task *ft = AT(n, lun, 0, 0, 0, 0, 0, 0, 0);

	fx_sense(ft, key, asc, ascq);
	fx_task_free(ft);
}

static void not_there(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = AT(n, lun, 96, 0x12, 0, 0, 0, 96, 0);

	fx_good(ft);
	assert_int_equal(ft->data[0], 0x7f);
	fx_task_free(ft);
	told(n, lun, 0x5, 0x25, 0x00);
}

/* The LUNs that REPORT LUNS lists, as a set of bits. */
static unsigned luns(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = AT(n, lun, 512, 0xa0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0);
	unsigned set = 0;

	fx_good(ft);
	for (uint32_t i = 8; i < 8 + load_be32(ft->data); i += 8)
		set |= 1u << ft->data[i + 1];
	fx_task_free(ft);
	return set;
}

static uint32_t blocks(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = AT(n, lun, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
	uint32_t last;

	fx_good(ft);
	last = load_be32(ft->data);
	fx_task_free(ft);
	return last + 1;
}

/* ---- A LUN comes ---- */

static void all_hear_of_a_lun_that_comes(void **state)
{
	assert_int_equal(luns(&a, 0), 0x3);
	assert_int_equal(change(5, fx.lus[2]), 0);
	told(&a, 0, 0x6, 0x3f, 0x0e);
	ready(&a, 0);
	told(&b, 1, 0x6, 0x3f, 0x0e);
	ready(&b, 1);
	assert_int_equal(luns(&a, 0), 0x23);
	assert_int_equal(luns(&b, 5), 0x23);
	/* What INQUIRY said there before is not true any more. */
	told(&a, 5, 0x6, 0x29, 0x00);
	told(&a, 5, 0x6, 0x3f, 0x03);
	ready(&a, 5);
	assert_int_equal(blocks(&a, 5), 8 * MiB / 512);
}

/* VPD page 86h, LUICLR. */
static void once_at_any_lun(void **state)
{
	assert_int_equal(change(5, fx.lus[2]), 0);
	told(&a, 0, 0x6, 0x3f, 0x0e);
	ready(&a, 1);
	ready(&a, 0);
	told(&b, 1, 0x6, 0x3f, 0x0e);
	ready(&b, 0);
}

static void report_luns_says_it_as_well(void **state)
{
	struct fx_task *ft;

	assert_int_equal(change(5, fx.lus[2]), 0);
	ft = AT(&a, 0, 96, 0x12, 0, 0, 0, 96, 0);
	fx_good(ft);
	fx_task_free(ft);
	ft = AT(&a, 0, 512, 0xa0, 0, 9, 0, 0, 0, 0, 0, 2, 0, 0, 0);
	fx_bad_field(ft, 2, 7);
	fx_task_free(ft);
	assert_int_equal(luns(&a, 1), 0x23);
	ready(&a, 0);
	ready(&a, 1);
	told(&b, 0, 0x6, 0x3f, 0x0e);
}

static void request_sense_says_it_too(void **state)
{
	struct fx_task *ft;

	assert_int_equal(change(5, fx.lus[2]), 0);
	ft = AT(&a, 1, 18, 0x03, 0, 0, 0, 18, 0);
	fx_good(ft);
	assert_int_equal(ft->data[2], 0x6);
	assert_int_equal(ft->data[12], 0x3f);
	assert_int_equal(ft->data[13], 0x0e);
	fx_task_free(ft);
	ready(&a, 0);
	ready(&a, 1);
}

static void a_target_that_had_none(void **state)
{
	struct scsi_target *first = fx.target, *empty;
	struct fx_nexus n;

	assert_int_equal(scsi_target_create(&empty, "iqn.2026-11.test:empty"), 0);
	fx.target = empty;
	fx_open(&fx, &n);
	assert_int_equal(luns(&n, 0), 0);
	assert_int_equal(change(255, fx.lus[2]), 0);
	assert_int_equal(change(0, fx.lus[3]), 0);
	told(&n, 255, 0x6, 0x29, 0x00);
	told(&n, 255, 0x6, 0x3f, 0x03);
	told(&n, 255, 0x6, 0x3f, 0x0e);
	ready(&n, 255);
	fx_close(&n);
	scsi_target_destroy(empty);
	fx.target = first;
}

/* ---- A LUN goes ---- */

static void all_hear_of_a_lun_that_goes(void **state)
{
	assert_int_equal(change(1, NULL), 0);
	told(&a, 0, 0x6, 0x3f, 0x0e);
	ready(&a, 0);
	not_there(&a, 1);
	told(&b, 0, 0x6, 0x3f, 0x0e);
	not_there(&b, 1);
	assert_int_equal(luns(&b, 1), 0x1);
}

static void another_disk_in_its_place(void **state)
{
	assert_int_equal(blocks(&a, 1), 16 * MiB / 512);
	assert_int_equal(change(1, NULL), 0);
	assert_int_equal(change(1, fx.lus[3]), 0);
	told(&a, 1, 0x6, 0x29, 0x00);
	told(&a, 1, 0x6, 0x3f, 0x03);
	ready(&a, 1);
	assert_int_equal(blocks(&a, 1), 4 * MiB / 512);
	told(&a, 0, 0x6, 0x3f, 0x0e);
	ready(&a, 0);
}

/* Even the disk that was there before has lost what the nexus had at it. */
static void the_same_disk_again(void **state)
{
	assert_int_equal(change(1, NULL), 0);
	assert_int_equal(change(1, fx.lus[1]), 0);
	told(&a, 1, 0x6, 0x29, 0x00);
	told(&a, 1, 0x6, 0x3f, 0x03);
	ready(&a, 1);
}

static struct fx_task *begin(struct fx_nexus *n, uint8_t opcode, enum scsi_attr attr,
			     uint32_t nblocks, enum fx_moves moves)
{
	struct fx_task *ft = fx_rw(n, opcode, 0, nblocks);

	ft->t.lun[1] = 1;
	ft->t.attr = attr;
	ft->moves = moves;
	if (opcode == 0x8a)
		fx_expect_out(ft, nblocks * 512);
	else if (opcode == 0x88)
		fx_expect_in(ft, nblocks * 512);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	return ft;
}

/* Answered, so that nobody waits for it in vain. */
static void lost_its_lu(struct fx_task *ft)
{
	fx_finish_wait(ft);
	fx_sense(ft, 0x5, 0x25, 0x00);
	assert_false(ft->aborted);
	fx_residual(ft, ft->t.reads ? ft->t.expected_in : ft->t.expected_out, 0);
	fx_task_free(ft);
}

#define SEGS(n) ((n)*SCSI_SEG_MAX / 512)

static void tasks_in_the_store_come_back_first(void **state)
{
	struct fx_task *ft[6];
	struct change c;

	ft[0] = begin(&a, 0x88, SCSI_SIMPLE, 1, FX_AT_ONCE);
	ft[1] = begin(&b, 0x8a, SCSI_SIMPLE, SEGS(5), FX_LATER);
	ft[2] = begin(&a, 0x91, SCSI_SIMPLE, 0, FX_AT_ONCE);
	ft[3] = begin(&a, 0x8a, SCSI_ORDERED, 1, FX_AT_ONCE);
	ft[4] = begin(&a, 0x88, SCSI_SIMPLE, 1, FX_AT_ONCE);
	ft[5] = begin(&b, 0x88, SCSI_SIMPLE, SEGS(3), FX_AT_ONCE);
	change_begin(&c, 1, NULL);
	assert_false(c.done);
	/* Those at the barrier need not wait. */
	lost_its_lu(ft[3]);
	lost_its_lu(ft[4]);
	assert_false(ft[0]->finished || ft[1]->finished || ft[2]->finished || ft[5]->finished);
	told(&a, 1, 0x5, 0x25, 0x00);
	told(&a, 0, 0x6, 0x3f, 0x0e);
	ready(&a, 0);
	assert_int_equal(store_fault_release(fx.stores[1]), 0);
	lost_its_lu(ft[0]);
	lost_its_lu(ft[1]);
	lost_its_lu(ft[2]);
	lost_its_lu(ft[5]);
	assert_int_equal(change_end(&c), 0);
}

static void a_write_that_waits_for_its_data(void **state)
{
	struct fx_task *ft = begin(&a, 0x8a, SCSI_SIMPLE, SEGS(3), FX_HOLD);

	assert_int_equal(change(1, NULL), 0);
	assert_int_equal(ft->ncancelled, 2);
	lost_its_lu(ft);
}

/* The work goes on without anybody to answer to, and is found there when the disk is back. */
static void work_on_the_whole_disk_goes_on(void **state)
{
	struct fx_task *ft = fx_task_new(&a, (const uint8_t[]){0x04, 0, 0, 0, 0, 0}, 6);
	unsigned tries = 0;

	ft->t.lun[1] = 1;
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	assert_int_equal(change(1, NULL), 0);
	lost_its_lu(ft);
	assert_int_equal(change(1, fx.lus[1]), 0);
	told(&b, 1, 0x6, 0x29, 0x00);
	told(&b, 1, 0x6, 0x3f, 0x03);
	told(&b, 1, 0x2, 0x04, 0x04);
	for (bool ready = false; !ready; tries++) {
		/* Each of its writes hangs. */
		(void)store_fault_release(fx.stores[1]);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		ft = AT(&b, 1, 0, 0, 0, 0, 0, 0, 0);
		ready = ft->t.status == SCSI_GOOD;
		assert_true(ready || (ft->t.sense[12] == 0x04 && tries < 1000));
		fx_task_free(ft);
	}
}

static void lent_memory_that_is_leaving(void **state)
{
	struct fx_task *ft = begin(&a, 0x88, SCSI_SIMPLE, SEGS(2), FX_HOLD);
	struct change c;

	assert_true(ft->finished);
	assert_int_equal(ft->nlent, 2);
	change_begin(&c, 1, NULL);
	assert_false(c.done);
	fx_release(&fx, ft);
	fx_settle(&fx);
	assert_false(c.done);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(change_end(&c), 0);
}

/* The same unit at another target: what the nexus had reserved here is free there. */
static void a_reservation_goes_with_it(void **state)
{
	struct scsi_target *first = fx.target, *other;
	struct fx_nexus n;
	struct fx_task *ft;

	assert_int_equal(scsi_target_create(&other, "iqn.2026-11.test:other"), 0);
	assert_int_equal(scsi_target_add_lun(other, 0, fx.lus[1]), 0);
	fx.target = other;
	fx_open(&fx, &n);
	fx.target = first;
	fx_take_power_on(&n, 0);
	ft = AT(&a, 1, 0, 0x16, 0, 0, 0, 0, 0);
	fx_good(ft);
	fx_task_free(ft);
	ft = AT(&n, 0, 0, 0, 0, 0, 0, 0, 0);
	assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
	fx_task_free(ft);
	assert_int_equal(change(1, NULL), 0);
	ready(&n, 0);
	fx_close(&n);
	scsi_target_destroy(other);
}

/* ---- What cannot be done, and several at once ---- */

static void what_cannot_be_done(void **state)
{
	assert_int_equal(change(0, fx.lus[2]), -EEXIST);
	assert_int_equal(change(7, NULL), -ENOENT);
	assert_int_equal(change(256, fx.lus[2]), -EINVAL);
	assert_int_equal(change(256, NULL), -EINVAL);
	/* One number for each LU. */
	assert_int_equal(change(7, fx.lus[1]), -EEXIST);
	assert_int_equal(scsi_target_add_lun(fx.target, 7, fx.lus[1]), -EEXIST);
	ready(&a, 0);
	assert_int_equal(luns(&a, 0), 0x3);
}

static void many_run(void *arg)
{
	struct change *c = arg;

	for (unsigned i = 0; i < 6; i++)
		scsi_target_change_lun(&c[i].op);
}

static void one_after_another(void **state)
{
	struct change c[6];

	change_init(&c[0], 5, fx.lus[2]);
	change_init(&c[1], 5, fx.lus[3]);
	change_init(&c[2], 5, NULL);
	change_init(&c[3], 5, fx.lus[3]);
	change_init(&c[4], 1, NULL);
	change_init(&c[5], 1, fx.lus[2]);
	ndone = 0;
	fx_call(&fx, many_run, c);
	assert_int_equal(change_end(&c[0]), 0);
	assert_int_equal(change_end(&c[1]), -EEXIST);
	for (unsigned i = 2; i < 6; i++)
		assert_int_equal(change_end(&c[i]), 0);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(c[i].at, i);
	assert_int_equal(luns(&a, 0), 0x23);
	told(&a, 5, 0x6, 0x29, 0x00);
	told(&a, 5, 0x6, 0x3f, 0x03);
	assert_int_equal(blocks(&a, 5), 4 * MiB / 512);
}

/* ---- Nexuses that come and go meanwhile ---- */

static void a_nexus_that_is_lost_meanwhile(void **state)
{
	struct fx_task *ft = begin(&a, 0x88, SCSI_SIMPLE, 1, FX_AT_ONCE);
	struct change c, back;

	change_begin(&c, 1, NULL);
	change_begin(&back, 1, fx.lus[3]);
	fx_call(&fx, fx_close_run, &a);
	fx_settle(&fx);
	assert_false(c.done || a.closed || ft->finished);
	assert_int_equal(store_fault_release(fx.stores[1]), 0);
	fx_finish_wait(ft);
	fx_task_free(ft);
	fx_wait(&a.sem);
	assert_true(a.closed);
	assert_int_equal(change_end(&c), 0);
	assert_int_equal(change_end(&back), 0);
	fx_open(&fx, &a);
	fx_take_power_on(&a, 1);
	assert_int_equal(blocks(&a, 1), 4 * MiB / 512);
}

/* It closes first, and the change finds it on its way out. */
static void a_nexus_that_was_leaving(void **state)
{
	struct fx_task *ft = begin(&a, 0x88, SCSI_SIMPLE, 1, FX_AT_ONCE);
	struct change c[2];

	fx_call(&fx, fx_close_run, &a);
	change_begin(&c[0], 5, fx.lus[2]);
	change_begin(&c[1], 1, NULL);
	assert_true(c[0].done);
	assert_false(c[1].done || a.closed);
	assert_int_equal(store_fault_release(fx.stores[1]), 0);
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
	fx_wait(&a.sem);
	assert_true(a.closed);
	assert_int_equal(change_end(&c[0]), 0);
	assert_int_equal(change_end(&c[1]), 0);
	fx_open(&fx, &a);
	assert_int_equal(luns(&a, 0), 0x21);
}

struct storm {
	struct fx_nexus n[4];
	struct change c[4];
};

/* All in one turn, in this order; nothing has arrived anywhere yet. */
static void storm_run(void *arg)
{
	struct storm *s = arg;

	nexus_open(&s->n[0].nexus);
	scsi_target_change_lun(&s->c[0].op);
	nexus_open(&s->n[1].nexus);
	scsi_target_change_lun(&s->c[1].op);
	nexus_open(&s->n[2].nexus);
	nexus_close(&s->n[0].nexus);
	scsi_target_change_lun(&s->c[2].op);
	nexus_close(&s->n[2].nexus);
	nexus_open(&s->n[3].nexus);
	scsi_target_change_lun(&s->c[3].op);
	nexus_close(&s->n[3].nexus);
}

static void nexuses_that_open_and_close_meanwhile(void **state)
{
	struct storm s;

	for (unsigned i = 0; i < 4; i++)
		fx_nexus_init(&fx, &s.n[i]);
	change_init(&s.c[0], 5, fx.lus[2]);
	change_init(&s.c[1], 1, NULL);
	change_init(&s.c[2], 1, fx.lus[3]);
	change_init(&s.c[3], 0, NULL);
	fx_call(&fx, storm_run, &s);
	for (unsigned i = 0; i < 4; i++) {
		fx_wait(&s.n[i].sem);
		assert_int_equal(s.n[i].closed, i != 1);
		assert_int_equal(change_end(&s.c[i]), 0);
	}
	assert_int_equal(s.n[1].err, 0);
	assert_int_equal(luns(&s.n[1], 0), 0x22);
	assert_int_equal(luns(&a, 0), 0x22);
	fx_close(&s.n[1]);
	for (unsigned i = 0; i < 4; i++)
		if (i != 1)
			sem_destroy(&s.n[i].sem);
}

static void nobody_is_there_to_hear(void **state)
{
	fx_close(&a);
	fx_close(&b);
	assert_int_equal(change(1, NULL), 0);
	assert_int_equal(change(6, fx.lus[3]), 0);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	assert_int_equal(luns(&a, 0), 0x41);
	fx_take_power_on(&a, 6);
	ready(&a, 6);
}

/* ---- Other INQUIRY data ---- */

struct rename {
	struct scsi_inquiry_op op;
	struct scsi_lu *lu;
	sem_t sem;
	int err;
};

static void rename_done(struct unit_op *op, int err)
{
	struct rename *r = container_of(op, struct rename, op.op);

	r->err = err;
	sem_post(&r->sem);
}

static void rename_run(void *arg)
{
	struct rename *r = arg;

	scsi_lu_set_inquiry(r->lu, &r->op);
}

static int rename_lu(struct scsi_lu *lu, const struct scsi_lu_config *config)
{
	struct rename r = {.lu = lu,
			   .op = {.op = {.loop = fx.loop, .done = rename_done}, .config = *config}};

	sem_init(&r.sem, 0, 0);
	fx_call(&fx, rename_run, &r);
	fx_wait(&r.sem);
	sem_destroy(&r.sem);
	return r.err;
}

static void expect_names(struct fx_nexus *n, uint8_t lun, const char *names)
{
	struct fx_task *ft = AT(n, lun, 96, 0x12, 0, 0, 0, 96, 0);

	fx_good(ft);
	assert_memory_equal(ft->data + 8, names, 28);
	fx_task_free(ft);
}

static void all_hear_of_other_names(void **state)
{
	const struct scsi_lu_config all = {.vendor = "ACME", .product = "ROCKET", .revision = "7"};
	const struct scsi_lu_config one = {.product = "WING"};
	const struct scsi_lu_config wrong = {.product = "WHEEL", .vendor = "NINE CHAR"};

	assert_int_equal(rename_lu(fx.lus[1], &all), 0);
	told(&a, 1, 0x6, 0x3f, 0x03);
	ready(&a, 1);
	told(&b, 1, 0x6, 0x3f, 0x03);
	ready(&b, 1);
	ready(&a, 0);
	expect_names(&a, 1, "ACME    ROCKET          7   ");
	assert_int_equal(rename_lu(fx.lus[1], &one), 0);
	expect_names(&b, 1, "ACME    WING            7   ");
	told(&b, 1, 0x6, 0x3f, 0x03);
	assert_int_equal(rename_lu(fx.lus[1], &wrong), -EINVAL);
	expect_names(&b, 1, "ACME    WING            7   ");
	ready(&b, 1);
}

#define TEST(t)      cmocka_unit_test_setup_teardown(t, up, down)
#define HANG_TEST(t) cmocka_unit_test_setup_teardown(t, up_hanging, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_hear_of_a_lun_that_comes),
		TEST(once_at_any_lun),
		TEST(report_luns_says_it_as_well),
		TEST(request_sense_says_it_too),
		TEST(a_target_that_had_none),
		TEST(all_hear_of_a_lun_that_goes),
		TEST(another_disk_in_its_place),
		TEST(the_same_disk_again),
		HANG_TEST(tasks_in_the_store_come_back_first),
		HANG_TEST(work_on_the_whole_disk_goes_on),
		TEST(a_write_that_waits_for_its_data),
		TEST(lent_memory_that_is_leaving),
		TEST(a_reservation_goes_with_it),
		TEST(what_cannot_be_done),
		TEST(one_after_another),
		HANG_TEST(a_nexus_that_is_lost_meanwhile),
		HANG_TEST(a_nexus_that_was_leaving),
		TEST(nexuses_that_open_and_close_meanwhile),
		TEST(nobody_is_there_to_hear),
		TEST(all_hear_of_other_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
