/*
 * What a nexus is told and what stops it: unit attentions, reservations, the stopped and the
 * protected unit, views that change on a command's way, and the order of these checks.
 */
#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus a, b;

/* The same unit behind two LUNs would not be one: LUN 0 and LUN 1 are two units. */
static int up_on(const char *spec)
{
	fx_init(&fx);
	fx_add_disk(&fx, spec, 512, false);
	fx_add_disk(&fx, "ram:16M", 512, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	assert_int_equal(scsi_target_add_lun(fx.target, 1, fx.lus[1]), 0);
	fx_start(&fx);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	return 0;
}

static int up(void **state)
{
	return up_on("fault:volatile=on:ram:16M");
}

static int attend(void)
{
	for (uint8_t lun = 0; lun < 2; lun++) {
		fx_take_power_on(&a, lun);
		fx_take_power_on(&b, lun);
	}
	return 0;
}

static int up_attended(void **state)
{
	up(state);
	return attend();
}

static int up_hanging(void **state)
{
	up_on("fault:rule=flush;hang:ram:16M");
	return attend();
}

static int up_hanging_writes(void **state)
{
	up_on("fault:rule=write;hang:ram:16M");
	return attend();
}

static int up_failing_above(void **state)
{
	up_on("fault:rule=write@256K-512K;eio:ram:16M");
	return attend();
}

static int up_failing(void **state)
{
	up_on("fault:rule=flush;eio:ram:16M");
	return attend();
}

static int down(void **state)
{
	fx_close(&a);
	fx_close(&b);
	fx_down(&fx);
	return 0;
}

/* ---- Views that the test publishes ---- */

struct publish {
	struct unit_op op;
	uint64_t holder, size;
	unsigned flags;
	enum lu_work work;
	sem_t sem;
	int err;
};

static int publish_edit(struct unit_op *op, struct unit_view *next)
{
	struct publish *p = container_of(op, struct publish, op);

	next->holder = p->holder;
	next->flags = p->flags;
	lu_state_edit(next)->work = low_u8(p->work);
	if (p->size != 0)
		next->size = p->size;
	return 0;
}

static void publish_done(struct unit_op *op, int err)
{
	struct publish *p = container_of(op, struct publish, op);

	p->err = err;
	sem_post(&p->sem);
}

static void publish_run(void *arg)
{
	unit_publish(&((struct publish *)arg)->op);
}

static void publish(struct publish *p, unsigned changes, uint64_t origin)
{
	p->op = (struct unit_op){.unit = fx.units[0],
				 .loop = fx.loop,
				 .nexus_id = origin,
				 .edit = publish_edit,
				 .changes = changes,
				 .done = publish_done};
	sem_init(&p->sem, 0, 0);
	fx_call(&fx, publish_run, p);
	fx_wait(&p->sem);
	assert_int_equal(p->err, 0);
	sem_destroy(&p->sem);
}

/* ---- Commands ---- */

static struct fx_task *tur(struct fx_nexus *n)
{
	return FX_CMD(n, 0, 0x00, 0, 0, 0, 0, 0);
}

static void expect_ready(struct fx_nexus *n)
{
	struct fx_task *ft = tur(n);

	fx_good(ft);
	fx_task_free(ft);
}

static void expect_sense(struct fx_nexus *n, uint8_t key, uint8_t asc, uint8_t ascq)
{
	struct fx_task *ft = tur(n);

	fx_sense(ft, key, asc, ascq);
	fx_task_free(ft);
}

static void expect_conflict(struct fx_task *ft)
{
	assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(ft->t.sense_len, 0);
	fx_task_free(ft);
}

static void expect_requested(struct fx_nexus *n, uint8_t key, uint8_t asc, uint8_t ascq)
{
	struct fx_task *ft = FX_CMD(n, 18, 0x03, 0, 0, 0, 18, 0);

	fx_good(ft);
	assert_int_equal(ft->data[2], key);
	assert_int_equal(ft->data[12], asc);
	assert_int_equal(ft->data[13], ascq);
	fx_task_free(ft);
}

static void start_stop(struct fx_nexus *n, uint8_t byte_4)
{
	struct fx_task *ft = FX_CMD(n, 0, 0x1b, 0, 0, 0, byte_4, 0);

	fx_good(ft);
	fx_task_free(ft);
}

/* ---- Unit attentions ---- */

static void each_nexus_hears_once_of_each_lun(void **state)
{
	fx_take_power_on(&a, 0);
	expect_ready(&a);
	fx_take_power_on(&a, 1);
	fx_take_power_on(&b, 1);
	expect_sense(&b, 0x6, 0x29, 0x00);
	expect_ready(&b);
	expect_ready(&a);
}

static void a_new_nexus_hears_again(void **state)
{
	struct fx_nexus c;

	fx_open(&fx, &c);
	expect_sense(&c, 0x6, 0x29, 0x00);
	fx_close(&c);
	fx_open(&fx, &c);
	expect_sense(&c, 0x6, 0x29, 0x00);
	fx_close(&c);
}

static void inquiry_and_report_luns_leave_it_alone(void **state)
{
	struct fx_task *ft = FX_CMD(&a, 96, 0x12, 0, 0, 0, 96, 0);

	fx_good(ft);
	fx_task_free(ft);
	ft = FX_CMD(&a, 64, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0);
	fx_good(ft);
	fx_task_free(ft);
	expect_sense(&a, 0x6, 0x29, 0x00);
	expect_ready(&a);
}

static void request_sense_tells_and_clears_it(void **state)
{
	expect_requested(&a, 0x6, 0x29, 0x00);
	expect_requested(&a, 0x0, 0x00, 0x00);
	expect_ready(&a);
	expect_sense(&b, 0x6, 0x29, 0x00);
}

static void a_malformed_command_leaves_it_alone(void **state)
{
	struct fx_task *ft = FX_CMD(&a, 0, 0x00, 1, 0, 0, 0, 0);

	fx_bad_field(ft, 1, 0);
	fx_task_free(ft);
	expect_sense(&a, 0x6, 0x29, 0x00);
}

/* Power on first, then the change of size, which the one who made it does not hear of. */
static void they_are_told_in_order_of_precedence(void **state)
{
	struct publish p = {.size = 8 * MiB};
	struct fx_task *ft;

	fx_take_power_on(&a, 0);
	publish(&p, UNIT_CHANGED_SIZE, a.nexus.id);
	expect_ready(&a);
	expect_sense(&b, 0x6, 0x29, 0x00);
	expect_requested(&b, 0x6, 0x2a, 0x09);
	expect_ready(&b);
	publish(&p, UNIT_CHANGED_SIZE, 0);
	expect_sense(&a, 0x6, 0x2a, 0x09);
	expect_sense(&b, 0x6, 0x2a, 0x09);
	ft = FX_CMD(&a, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
	fx_good(ft);
	assert_int_equal(load_be32(ft->data), 8 * MiB / 512 - 1);
	fx_task_free(ft);
}

/* By nobody: everybody hears of it. */
static void all_changes_are_told_in_their_order(void **state)
{
	static const uint8_t want[][2] = {{0x28, 0x00}, {0x2a, 0x09}, {0x2a, 0x01}, {0x2a, 0x02},
					  {0x2a, 0x10}, {0x3f, 0x03}, {0x3f, 0x05}};
	struct publish p = {.size = 8 * MiB};

	publish(&p,
		UNIT_CHANGED_SIZE | UNIT_CHANGED_MEDIUM | UNIT_CHANGED_PROTECTION |
			LU_CHANGED_MODE | LU_CHANGED_LOG | LU_CHANGED_TIMESTAMP |
			LU_CHANGED_INQUIRY | LU_CHANGED_IDENTIFIER,
		0);
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		expect_sense(&a, 0x6, want[i][0], want[i][1]);
		expect_requested(&b, 0x6, want[i][0], want[i][1]);
	}
	expect_ready(&a);
	expect_ready(&b);
}

static void each_change_is_told_by_its_own_name(void **state)
{
	static const struct {
		unsigned change;
		uint8_t asc, ascq;
	} rows[] = {
		{UNIT_CHANGED_SIZE, 0x2a, 0x09},       {UNIT_CHANGED_MEDIUM, 0x28, 0x00},
		{UNIT_CHANGED_PROTECTION, 0x2a, 0x01}, {LU_CHANGED_MODE, 0x2a, 0x01},
		{LU_CHANGED_LOG, 0x2a, 0x02},          {LU_CHANGED_TIMESTAMP, 0x2a, 0x10},
		{LU_CHANGED_INQUIRY, 0x3f, 0x03},      {LU_CHANGED_IDENTIFIER, 0x3f, 0x05},
	};
	struct publish p = {.size = 8 * MiB};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		publish(&p, rows[i].change, a.nexus.id);
		expect_sense(&b, 0x6, rows[i].asc, rows[i].ascq);
		expect_ready(&b);
		expect_ready(&a);
	}
}

/* ---- Reservations ---- */

static void a_conflict_comes_first_and_clears_nothing(void **state)
{
	struct publish p = {0};
	struct fx_task *ft;

	p.holder = a.nexus.id;
	publish(&p, 0, a.nexus.id);
	fx_take_power_on(&a, 0);
	expect_ready(&a);
	expect_conflict(tur(&b));
	ft = fx_rw(&b, 0x2a, 0, 1);
	fx_expect_out(ft, 512);
	fx_run(&fx, ft);
	assert_int_equal(ft->moved, 0);
	fx_residual(ft, 512, 0);
	expect_conflict(ft);
	ft = FX_CMD(&b, 96, 0x12, 0, 0, 0, 96, 0);
	fx_good(ft);
	fx_task_free(ft);
	p.holder = 0;
	publish(&p, 0, a.nexus.id);
	expect_sense(&b, 0x6, 0x29, 0x00);
	expect_ready(&b);
}

/* ---- START STOP UNIT ---- */

static void a_stopped_unit_is_not_ready_for_anyone(void **state)
{
	struct fx_task *ft;

	start_stop(&a, 0x00);
	expect_sense(&a, 0x2, 0x04, 0x02);
	expect_sense(&b, 0x2, 0x04, 0x02);
	expect_requested(&b, 0x2, 0x04, 0x02);
	ft = fx_rw(&b, 0x28, 0, 1);
	fx_expect_in(ft, 512);
	fx_run(&fx, ft);
	fx_sense(ft, 0x2, 0x04, 0x02);
	fx_task_free(ft);
	ft = FX_CMD(&b, 96, 0x12, 0, 0, 0, 96, 0);
	fx_good(ft);
	fx_task_free(ft);
	ft = FX_CMD(&b, 96, 0x1a, 0, 0x3f, 0, 96, 0);
	fx_good(ft);
	fx_task_free(ft);
	start_stop(&b, 0x00);
	start_stop(&b, 0x01);
	expect_ready(&a);
	expect_ready(&b);
	start_stop(&b, 0x01);
	expect_ready(&a);
}

static uint64_t flushes(void)
{
	static struct unit_stats stats;

	unit_stats_read(fx.units[0], &stats);
	return stats.op[IO_FLUSH].ops;
}

static void stopping_flushes_unless_told_not_to(void **state)
{
	start_stop(&a, 0x00);
	assert_int_equal(flushes(), 1);
	start_stop(&a, 0x01);
	start_stop(&a, 0x04);
	start_stop(&a, 0x05);
	assert_int_equal(flushes(), 1);
	expect_ready(&a);
}

/* REQUEST SENSE says why the unit is not ready before it tells of a unit attention. */
static void a_stopped_unit_keeps_its_unit_attentions(void **state)
{
	struct publish p = {.size = 8 * MiB, .flags = UNIT_STOPPED};

	publish(&p, UNIT_CHANGED_SIZE, 0);
	expect_requested(&a, 0x2, 0x04, 0x02);
	expect_requested(&a, 0x2, 0x04, 0x02);
	p.flags = 0;
	publish(&p, 0, 0);
	expect_requested(&a, 0x6, 0x2a, 0x09);
	expect_ready(&a);
	expect_sense(&b, 0x6, 0x2a, 0x09);
}

/* A write that others end while the cache is being flushed would be in nobody's flush. */
static void nothing_is_written_behind_the_flush_of_a_stop(void **state)
{
	struct fx_task *stop, *write;

	stop = fx_task_new(&a, (const uint8_t[]){0x1b, 0, 0, 0, 0, 0}, 6);
	fx_submit(&fx, stop);
	fx_settle(&fx);
	assert_false(stop->finished);
	write = fx_rw(&b, 0x2a, 0, 1);
	fx_expect_out(write, 512);
	fx_run(&fx, write);
	fx_sense(write, 0x2, 0x04, 0x02);
	fx_task_free(write);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(stop);
	fx_good(stop);
	fx_task_free(stop);
	assert_int_equal(flushes(), 1);
}

/* Nor one that was in the store when the disk was stopped. */
static void a_stop_flushes_what_was_under_way(void **state)
{
	struct fx_task *stop, *write = fx_rw(&b, 0x2a, 0, 1);

	fx_expect_out(write, 512);
	fx_submit(&fx, write);
	fx_settle(&fx);
	stop = fx_task_new(&a, (const uint8_t[]){0x1b, 0, 0, 0, 0, 0}, 6);
	fx_submit(&fx, stop);
	fx_settle(&fx);
	assert_false(write->finished);
	assert_false(stop->finished);
	assert_int_equal(flushes(), 0);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(write);
	fx_good(write);
	fx_task_free(write);
	fx_finish_wait(stop);
	fx_good(stop);
	fx_task_free(stop);
	assert_int_equal(flushes(), 1);
	expect_sense(&b, 0x2, 0x04, 0x02);
}

static void a_stop_whose_flush_fails_says_so(void **state)
{
	struct fx_task *ft = FX_CMD(&a, 0, 0x1b, 0, 0, 0, 0, 0);

	fx_sense(ft, 0x3, 0x0c, 0x00);
	fx_task_free(ft);
	start_stop(&a, 0x04);
	start_stop(&a, 0x01);
}

static void a_disk_has_nothing_to_eject_and_no_power_conditions(void **state)
{
	struct fx_task *ft = FX_CMD(&a, 0, 0x1b, 0, 0, 0, 0x02, 0);

	fx_bad_field(ft, 4, 1);
	fx_task_free(ft);
	ft = FX_CMD(&a, 0, 0x1b, 0, 0, 0, 0x10, 0);
	fx_bad_field(ft, 4, 4);
	fx_task_free(ft);
	expect_ready(&a);
}

/* ---- Why a unit is not ready: the first of several reasons ---- */

static void a_lost_disk_comes_first(void **state)
{
	struct publish p = {.flags = UNIT_MISSING | UNIT_STOPPED | UNIT_REWRITING |
				     UNIT_WRITE_PROTECTED,
			    .work = WORK_FORMAT};
	struct fx_task *ft;

	publish(&p, 0, 0);
	expect_sense(&a, 0x2, 0x04, 0x03);
	expect_requested(&a, 0x2, 0x04, 0x03);
	expect_requested(&b, 0x2, 0x04, 0x03);
	ft = FX_CMD(&a, 96, 0x12, 0, 0, 0, 96, 0);
	fx_good(ft);
	fx_task_free(ft);
	p.flags &= ~(unsigned)UNIT_MISSING;
	publish(&p, 0, 0);
	expect_sense(&a, 0x2, 0x04, 0x04);
	expect_requested(&b, 0x2, 0x04, 0x04);
	p.flags = UNIT_STOPPED;
	p.work = WORK_NONE;
	publish(&p, 0, 0);
	expect_sense(&a, 0x2, 0x04, 0x02);
	p.flags = 0;
	publish(&p, 0, 0);
	expect_ready(&a);
}

/* And how far the work is. */
static void a_disk_that_is_rewritten(void **state)
{
	static const uint8_t informs[][12] = {
		{0x12}, {0xa0}, {0x03}, {0xa3, 0x05}, {0xa3, 0x0c}, {0xa3, 0x0d}, {0xa3, 0x0f},
	};
	struct publish p = {.flags = UNIT_REWRITING, .work = WORK_SANITIZE};
	struct fx_task *ft;

	publish(&p, 0, 0);
	ft = FX_CMD(&a, 18, 0x03, 0, 0, 0, 18, 0);
	fx_good(ft);
	assert_int_equal(ft->data[2], 0x2);
	assert_int_equal(ft->data[12], 0x04);
	assert_int_equal(ft->data[13], 0x1b);
	assert_int_equal(ft->data[15], 0x80); /* SKSV */
	fx_task_free(ft);
	ft = FX_CMD(&a, 255, 0x03, 1, 0, 0, 255, 0);
	fx_good(ft);
	assert_memory_equal(ft->data, "\x72\x02\x04\x1b\0\0\0\x08\x02\x06\0\0\x80", 13);
	fx_task_free(ft);
	for (size_t i = 0; i < ARRAY_LEN(informs); i++) {
		ft = fx_cmd(&a, informs[i], 12, 0);
		fx_good(ft);
		fx_task_free(ft);
	}
	ft = FX_CMD(&a, 0, 0x16, 0, 0, 0, 0, 0);
	fx_sense(ft, 0x2, 0x04, 0x1b);
	fx_task_free(ft);
	p.work = WORK_SANITIZE_FAILED;
	publish(&p, 0, 0);
	expect_sense(&b, 0x3, 0x31, 0x03);
	expect_requested(&b, 0x3, 0x31, 0x03);
}

/* ---- Protection that comes and goes ---- */

static void a_protection_by_software(void **state)
{
	struct publish p = {.flags = UNIT_SOFT_PROTECTED};
	struct fx_task *ft;

	publish(&p, 0, 0);
	ft = fx_rw(&a, 0x2a, 0, 1);
	fx_expect_out(ft, 512);
	fx_run(&fx, ft);
	fx_sense(ft, 0x7, 0x27, 0x02);
	fx_task_free(ft);
	expect_ready(&a);
	p.flags |= UNIT_WRITE_PROTECTED;
	publish(&p, 0, 0);
	ft = fx_rw(&a, 0x2a, 0, 1);
	fx_expect_out(ft, 512);
	fx_run(&fx, ft);
	fx_sense(ft, 0x7, 0x27, 0x00);
	fx_task_free(ft);
	p.flags = 0;
	publish(&p, 0, 0);
}

static void a_write_protected_view(void **state)
{
	struct publish p = {.flags = UNIT_WRITE_PROTECTED};
	struct fx_task *ft;

	publish(&p, 0, 0);
	ft = fx_rw(&a, 0x2a, 0, 1);
	fx_expect_out(ft, 512);
	fx_run(&fx, ft);
	fx_sense(ft, 0x7, 0x27, 0x00);
	fx_task_free(ft);
	ft = FX_CMD(&a, 4, 0x1a, 8, 0x3f, 0, 4, 0);
	fx_good(ft);
	assert_int_equal(ft->data[2], 0x90);
	fx_task_free(ft);
	p.flags = 0;
	publish(&p, 0, 0);
	ft = fx_rw(&a, 0x2a, 0, 1);
	fx_expect_out(ft, 512);
	fx_run(&fx, ft);
	fx_good(ft);
	fx_task_free(ft);
}

/* ---- The view changes while a write waits for its data ---- */

static struct fx_task *write_that_waits(struct fx_nexus *n, uint32_t nblocks)
{
	struct fx_task *ft = fx_rw(n, 0x8a, 0, nblocks);

	ft->moves = FX_HOLD;
	memset(ft->data, 0xdd, nblocks * 512);
	fx_expect_out(ft, nblocks * 512);
	fx_submit(&fx, ft);
	assert_true(ft->nheld != 0);
	return ft;
}

static void expect_zeros(uint32_t nblocks)
{
	struct fx_task *ft = fx_rw(&a, 0x88, 0, nblocks);

	fx_expect_in(ft, nblocks * 512);
	fx_run(&fx, ft);
	fx_good(ft);
	for (uint32_t i = 0; i < nblocks * 512; i++)
		assert_int_equal(ft->data[i], 0);
	fx_task_free(ft);
}

static void a_write_that_lost_its_reservation(void **state)
{
	struct publish p = {0};
	struct fx_task *ft = write_that_waits(&b, 1);

	p.holder = a.nexus.id;
	publish(&p, 0, a.nexus.id);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	expect_conflict(ft);
	expect_zeros(1);
}

static void a_write_whose_view_changed_in_nothing_that_matters(void **state)
{
	struct publish p = {0};
	struct fx_task *ft = write_that_waits(&b, 2 * SCSI_SEG_MAX / 512);

	publish(&p, 0, a.nexus.id);
	publish(&p, 0, a.nexus.id);
	fx_release(&fx, ft);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
}

static void a_write_to_a_disk_that_shrank(void **state)
{
	struct publish p = {.size = 512};
	struct fx_task *ft = write_that_waits(&b, 2);

	publish(&p, UNIT_CHANGED_SIZE, b.nexus.id);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_information(ft, 1);
	fx_task_free(ft);
}

static void a_write_to_a_disk_that_was_stopped(void **state)
{
	struct fx_task *ft = write_that_waits(&b, 1);

	start_stop(&a, 0);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_sense(ft, 0x2, 0x04, 0x02);
	fx_task_free(ft);
	start_stop(&a, 1);
	expect_zeros(1);
}

/* One segment is in the store already: no checks from the start, but none is written past the
 * holder either. */
static void the_second_segment_meets_a_reservation(void **state)
{
	struct publish p = {0};
	struct fx_task *ft = write_that_waits(&b, 2 * SCSI_SEG_MAX / 512);

	fx_release(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	p.holder = a.nexus.id;
	publish(&p, 0, a.nexus.id);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	expect_conflict(ft);
}

/* Nor does it hear of anything in the middle of its data: the next command does. */
static void the_second_segment_meets_a_unit_attention(void **state)
{
	struct publish p = {.size = 8 * MiB};
	struct fx_task *ft = write_that_waits(&b, 2 * SCSI_SEG_MAX / 512);

	fx_release(&fx, ft);
	fx_settle(&fx);
	publish(&p, UNIT_CHANGED_SIZE, 0);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
	expect_sense(&b, 0x6, 0x2a, 0x09);
}

/* While none of it is in the store, it does. */
static void a_write_without_any_data_yet_meets_a_unit_attention(void **state)
{
	struct publish p = {.size = 8 * MiB};
	struct fx_task *ft = write_that_waits(&b, 1);

	publish(&p, UNIT_CHANGED_SIZE, 0);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_sense(ft, 0x6, 0x2a, 0x09);
	fx_task_free(ft);
	expect_ready(&b);
	expect_sense(&a, 0x6, 0x2a, 0x09);
	expect_zeros(1);
}

/* The first segment waits for its range lock while the second fails. INFORMATION will say that the
 * first was written, so it must be, although the view changed while it waited. */
static struct range_lock held;

static void hold_run(void *arg)
{
	held = (struct range_lock){.len = SCSI_SEG_MAX, .exclusive = true, .loop = fx.loop};
	assert_true(range_lock(unit_bdev(fx.units[0]), &held));
}

static void let_go_run(void *arg)
{
	range_unlock(&held);
}

static void what_lies_below_a_failed_segment_is_written(void **state)
{
	struct publish p = {.flags = UNIT_LOCKS_ARMED};
	const uint32_t len = 2 * SCSI_SEG_MAX;
	struct fx_task *write, *read;

	publish(&p, 0, 0);
	fx_call(&fx, hold_run, NULL);
	write = fx_rw(&a, 0x8a, 0, len / 512);
	fx_expect_out(write, len);
	memset(write->data, 0xdd, len);
	fx_submit(&fx, write);
	fx_settle(&fx);
	assert_false(write->finished);
	publish(&p, 0, 0);
	fx_call(&fx, let_go_run, NULL);
	fx_finish_wait(write);
	fx_sense(write, 0x3, 0x0c, 0x00);
	fx_information(write, SCSI_SEG_MAX / 512);
	read = fx_rw(&a, 0x88, 0, SCSI_SEG_MAX / 512);
	fx_expect_in(read, SCSI_SEG_MAX);
	fx_run(&fx, read);
	fx_good(read);
	assert_memory_equal(read->data, write->data, SCSI_SEG_MAX);
	fx_task_free(read);
	fx_task_free(write);
}

#define TEST(t, setup) cmocka_unit_test_setup_teardown(t, setup, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(each_nexus_hears_once_of_each_lun, up),
		TEST(a_new_nexus_hears_again, up),
		TEST(inquiry_and_report_luns_leave_it_alone, up),
		TEST(request_sense_tells_and_clears_it, up),
		TEST(a_malformed_command_leaves_it_alone, up),
		TEST(they_are_told_in_order_of_precedence, up),
		TEST(all_changes_are_told_in_their_order, up_attended),
		TEST(each_change_is_told_by_its_own_name, up_attended),
		TEST(a_conflict_comes_first_and_clears_nothing, up),
		TEST(a_stopped_unit_is_not_ready_for_anyone, up_attended),
		TEST(stopping_flushes_unless_told_not_to, up_attended),
		TEST(a_stopped_unit_keeps_its_unit_attentions, up_attended),
		TEST(nothing_is_written_behind_the_flush_of_a_stop, up_hanging),
		TEST(a_stop_flushes_what_was_under_way, up_hanging_writes),
		TEST(a_stop_whose_flush_fails_says_so, up_failing),
		TEST(a_disk_has_nothing_to_eject_and_no_power_conditions, up_attended),
		TEST(a_lost_disk_comes_first, up_attended),
		TEST(a_disk_that_is_rewritten, up_attended),
		TEST(a_protection_by_software, up_attended),
		TEST(a_write_protected_view, up_attended),
		TEST(a_write_that_lost_its_reservation, up_attended),
		TEST(a_write_whose_view_changed_in_nothing_that_matters, up_attended),
		TEST(a_write_to_a_disk_that_shrank, up_attended),
		TEST(a_write_to_a_disk_that_was_stopped, up_attended),
		TEST(the_second_segment_meets_a_reservation, up_attended),
		TEST(the_second_segment_meets_a_unit_attention, up_attended),
		TEST(a_write_without_any_data_yet_meets_a_unit_attention, up_attended),
		TEST(what_lies_below_a_failed_segment_is_written, up_failing_above),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
