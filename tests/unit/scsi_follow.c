/*
 * A nexus that comes while an earlier one of the same two ports still has a task in a store: it opens,
 * its other units are at work, and what changes the disk comes behind what the store had.
 */
#include "scsi_fixture.h"

#define NEXUSES 4

static struct fx fx;
static struct fx_nexus nexuses[NEXUSES];

/* Two disks, the first of which hangs in what it writes. */
static void up(void)
{
	fx_init(&fx);
	fx_add_disk(&fx, "fault:rule=write;hang:ram:16M", 512, false);
	fx_add_disk(&fx, "ram:16M", 512, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	assert_int_equal(scsi_target_add_lun(fx.target, 1, fx.lus[1]), 0);
	fx_start(&fx);
}

static struct fx_nexus *come(unsigned i, const char *initiator)
{
	struct fx_nexus *n = &nexuses[i];

	fx_nexus_init(&fx, n);
	str_format(n->nexus.initiator, sizeof(n->nexus.initiator), "%s", initiator);
	fx_call(&fx, fx_open_run, n);
	fx_wait(&n->sem);
	assert_int_equal(n->err, 0);
	return n;
}

static struct fx_nexus *come_first(void)
{
	struct fx_nexus *n = come(0, "a");

	fx_take_power_on(n, 0);
	fx_take_power_on(n, 1);
	return n;
}

static void go(struct fx_nexus *n)
{
	fx_call(&fx, fx_close_run, n);
	fx_settle(&fx);
}

static void gone(struct fx_nexus *n)
{
	fx_wait(&n->sem);
	assert_true(n->closed);
	sem_destroy(&n->sem);
}

static struct fx_task *start(struct fx_nexus *n, uint8_t lun, uint8_t opcode, enum scsi_attr attr,
			     uint8_t fill)
{
	struct fx_task *ft = fx_rw(n, opcode, 0, 1);

	ft->t.lun[1] = lun;
	ft->t.attr = attr;
	memset(ft->data, fill, 512);
	if (opcode == 0x8a)
		fx_expect_out(ft, 512);
	else
		fx_expect_in(ft, 512);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	return ft;
}

static struct fx_task *start_write(struct fx_nexus *n, uint8_t fill)
{
	return start(n, 0, 0x8a, SCSI_SIMPLE, fill);
}

static void release(void)
{
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_settle(&fx);
}

static void aborted(struct fx_task *ft)
{
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
}

static void answered(struct fx_task *ft)
{
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
}

/* After the unit attention, which is told when its turn has come. */
static void attended(struct fx_task *ft)
{
	fx_finish_wait(ft);
	fx_sense(ft, 0x6, 0x29, 0x00);
	fx_task_free(ft);
}

static void disk_begins_with(struct fx_nexus *n, uint8_t fill)
{
	struct fx_task *ft = start(n, 0, 0x88, SCSI_SIMPLE, 0);

	fx_finish_wait(ft);
	fx_good(ft);
	assert_int_equal(ft->data[0], fill);
	fx_task_free(ft);
}

static void what_hung_comes_first(void **state)
{
	struct fx_nexus *old, *new;
	struct fx_task *hung, *first, *second;

	up();
	old = come_first();
	hung = start_write(old, 1);
	go(old);
	assert_false(old->closed || hung->finished);
	new = come(1, "a");
	first = start_write(new, 2);
	second = start_write(new, 3);
	assert_false(first->finished || second->finished);
	release();
	aborted(hung);
	gone(old);
	attended(first);
	release();
	answered(second);
	disk_begins_with(new, 3);
	fx_close(new);
	fx_down(&fx);
}

static void other_units_and_views_wait_for_nobody(void **state)
{
	struct fx_nexus *old, *new;
	struct fx_task *hung, *inquiry;

	up();
	old = come_first();
	hung = start_write(old, 1);
	go(old);
	new = come(1, "a");
	fx_take_power_on(new, 1);
	answered(start(new, 1, 0x8a, SCSI_SIMPLE, 2));
	inquiry = FX_CMD(new, 36, 0x12, 0, 0, 0, 36, 0);
	fx_good(inquiry);
	fx_task_free(inquiry);
	release();
	aborted(hung);
	gone(old);
	fx_close(new);
	fx_down(&fx);
}

static void other_ports_wait_for_nobody(void **state)
{
	struct fx_nexus *old, *other;
	struct fx_task *hung;

	up();
	old = come_first();
	hung = start_write(old, 1);
	go(old);
	other = come(1, "b");
	fx_take_power_on(other, 0);
	disk_begins_with(other, 0);
	release();
	aborted(hung);
	gone(old);
	fx_close(other);
	fx_down(&fx);
}

/* Those in the middle have nothing in the store: they go, and whoever comes next waits all the same. */
static void a_row_of_them(void **state)
{
	struct fx_nexus *old, *last;
	struct fx_task *hung, *ft;

	up();
	old = come_first();
	hung = start_write(old, 1);
	go(old);
	for (unsigned i = 1; i < 3; i++) {
		struct fx_nexus *n = come(i, "a");

		ft = start_write(n, (uint8_t)(i + 1));
		assert_false(ft->finished);
		go(n);
		aborted(ft);
		gone(n);
	}
	last = come(3, "a");
	ft = start_write(last, 9);
	assert_false(ft->finished);
	release();
	aborted(hung);
	gone(old);
	attended(ft);
	disk_begins_with(last, 1);
	fx_close(last);
	fx_down(&fx);
}

/* Two of them hang, each at its own unit; one is done before the other. */
static void two_that_hang(void **state)
{
	struct fx_nexus *first, *second, *third;
	struct fx_task *hung[2], *waits[2];

	fx_init(&fx);
	for (unsigned i = 0; i < 2; i++) {
		fx_add_disk(&fx, "fault:rule=write;hang:ram:16M", 512, false);
		assert_int_equal(scsi_target_add_lun(fx.target, (uint16_t)i, fx.lus[i]), 0);
	}
	fx_start(&fx);
	first = come_first();
	hung[0] = start_write(first, 1);
	go(first);
	second = come(1, "a");
	fx_take_power_on(second, 1);
	hung[1] = start(second, 1, 0x8a, SCSI_SIMPLE, 2);
	go(second);
	third = come(2, "a");
	for (uint8_t i = 0; i < 2; i++)
		waits[i] = start(third, i, 0x8a, SCSI_SIMPLE, 3);
	assert_int_equal(store_fault_release(fx.stores[1]), 0);
	aborted(hung[1]);
	gone(second);
	attended(waits[1]);
	assert_false(waits[0]->finished);
	release();
	aborted(hung[0]);
	gone(first);
	attended(waits[0]);
	fx_close(third);
	fx_down(&fx);
}

static void head_of_queue_waits_too_and_is_the_first(void **state)
{
	struct fx_nexus *old, *new;
	struct fx_task *hung, *simple, *head;

	up();
	old = come_first();
	hung = start_write(old, 1);
	go(old);
	new = come(1, "a");
	simple = start(new, 0, 0x88, SCSI_SIMPLE, 0);
	head = start(new, 0, 0x88, SCSI_HEAD_OF_QUEUE, 0);
	assert_false(simple->finished || head->finished);
	release();
	aborted(hung);
	gone(old);
	attended(head);
	answered(simple);
	fx_close(new);
	fx_down(&fx);
}

static void it_is_lost_while_it_waits(void **state)
{
	struct fx_nexus *old, *new;
	struct fx_task *hung, *waits;

	up();
	old = come_first();
	hung = start_write(old, 1);
	go(old);
	new = come(1, "a");
	waits = start_write(new, 2);
	go(new);
	aborted(waits);
	gone(new);
	assert_false(old->closed);
	release();
	aborted(hung);
	gone(old);
	fx_down(&fx);
}

struct function {
	struct scsi_tmf tmf;
	sem_t sem;
	bool done;
};

static void function_done(struct scsi_tmf *tmf, enum scsi_tmf_response response)
{
	struct function *f = container_of(tmf, struct function, tmf);

	CHECK(response == SCSI_TMF_COMPLETE);
	f->done = true;
	sem_post(&f->sem);
}

static void function_run(void *arg)
{
	scsi_tmf_run(&((struct function *)arg)->tmf);
}

static void begin(struct function *f, struct fx_nexus *n, enum scsi_tmf_function what)
{
	*f = (struct function){
		.tmf = {.nexus = &n->nexus, .function = what, .tag = 1, .done = function_done}};
	sem_init(&f->sem, 0, 0);
	fx_call(&fx, function_run, f);
	fx_settle(&fx);
}

static void ended(struct function *f)
{
	fx_wait(&f->sem);
	assert_true(f->done);
	sem_destroy(&f->sem);
}

/* Its own tasks are aborted where they wait. A reset is one of all, what hangs included. */
static void functions_while_it_waits(void **state)
{
	static const enum scsi_tmf_function of_its_own[] = {SCSI_ABORT_TASK, SCSI_ABORT_TASK_SET};
	struct fx_nexus *old, *new, *other;
	struct fx_task *hung, *waits;
	struct function f;

	up();
	old = come_first();
	hung = start_write(old, 1);
	go(old);
	new = come(1, "a");
	for (size_t i = 0; i < ARRAY_LEN(of_its_own); i++) {
		waits = start_write(new, 2);
		begin(&f, new, of_its_own[i]);
		ended(&f);
		aborted(waits);
	}
	waits = start_write(new, 2);
	begin(&f, new, SCSI_LU_RESET);
	aborted(waits);
	assert_false(f.done);
	release();
	ended(&f);
	aborted(hung);
	gone(old);
	other = come(2, "b");
	fx_take_power_on(other, 0);
	disk_begins_with(other, 1);
	fx_close(new);
	fx_close(other);
	fx_down(&fx);
}

/* The reservation of the old one ends when it is gone, so it is not in the way of the new one. */
static void a_reservation(void **state)
{
	struct fx_nexus *old, *new;
	struct fx_task *hung, *ft;

	up();
	old = come_first();
	ft = FX_CMD(old, 0, 0x16, 0, 0, 0, 0, 0);
	fx_good(ft);
	fx_task_free(ft);
	hung = start_write(old, 1);
	go(old);
	new = come(1, "a");
	ft = start_write(new, 2);
	assert_false(ft->finished);
	release();
	aborted(hung);
	gone(old);
	attended(ft);
	disk_begins_with(new, 1);
	fx_close(new);
	fx_down(&fx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_hung_comes_first),
		cmocka_unit_test(other_units_and_views_wait_for_nobody),
		cmocka_unit_test(other_ports_wait_for_nobody),
		cmocka_unit_test(a_row_of_them),
		cmocka_unit_test(two_that_hang),
		cmocka_unit_test(head_of_queue_waits_too_and_is_the_first),
		cmocka_unit_test(it_is_lost_while_it_waits),
		cmocka_unit_test(functions_while_it_waits),
		cmocka_unit_test(a_reservation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
