/*
 * A nexus that is lost while its tasks are somewhere: at the barrier, waiting for data, in the
 * store, in a control operation, leaving. Each ends once, unanswered; the nexus closes when, and
 * only when, none of its I/O is in the store.
 */
#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus nexus;

static void up(const char *spec)
{
	fx_up(&fx, spec, 512);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
}

static void close_begin(void)
{
	fx_call(&fx, fx_close_run, &nexus);
	fx_settle(&fx);
}

static void close_end(void)
{
	fx_wait(&nexus.sem);
	assert_true(nexus.closed);
	sem_destroy(&nexus.sem);
}

static void release(void)
{
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_settle(&fx);
}

static struct fx_task *begin(uint8_t opcode, uint32_t nblocks, enum fx_moves moves)
{
	struct fx_task *ft = fx_rw(&nexus, opcode, 0, nblocks);

	ft->moves = moves;
	if (opcode == 0x8a)
		fx_expect_out(ft, nblocks * 512);
	else if (opcode == 0x88)
		fx_expect_in(ft, nblocks * 512);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	return ft;
}

static void aborted(struct fx_task *ft)
{
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
}

#define SEGS(n) ((n)*SCSI_SEG_MAX / 512)

static void in_the_store(uint8_t opcode, uint32_t nblocks)
{
	struct fx_task *ft;

	up("fault:rule=any;hang:ram:16M");
	ft = begin(opcode, nblocks, FX_LATER);
	assert_false(ft->finished);
	close_begin();
	assert_false(nexus.closed);
	assert_false(ft->finished);
	release();
	aborted(ft);
	close_end();
	fx_down(&fx);
}

static void reads_in_the_store(void **state)
{
	in_the_store(0x88, 1);
	in_the_store(0x88, SEGS(5));
}

static void writes_in_the_store(void **state)
{
	in_the_store(0x8a, 1);
	in_the_store(0x8a, SEGS(5));
}

static void flush_in_the_store(void **state)
{
	in_the_store(0x91, 0);
}

static void a_write_that_waits_for_its_data(void **state)
{
	struct fx_task *ft;

	up("ram:16M");
	ft = begin(0x8a, SEGS(3), FX_HOLD);
	assert_int_equal(ft->nheld, 2);
	close_begin();
	assert_int_equal(ft->ncancelled, 2);
	aborted(ft);
	close_end();
	fx_down(&fx);
}

/* The transport needs its time to let go, and the task waits for that. */
static void a_write_whose_data_cannot_be_called_back_at_once(void **state)
{
	struct fx_task *ft;

	up("ram:16M");
	ft = begin(0x8a, SEGS(3), FX_HOLD);
	ft->cancel_sticks = true;
	close_begin();
	assert_int_equal(ft->ncancelled, 2);
	assert_false(ft->finished || nexus.closed);
	fx_release(&fx, ft);
	assert_false(ft->finished || nexus.closed);
	fx_release(&fx, ft);
	aborted(ft);
	close_end();
	fx_down(&fx);
}

/* One segment waits for data, the other is in the store. */
static void a_write_in_two_places(void **state)
{
	struct fx_task *ft;

	up("fault:rule=write;hang:ram:16M");
	ft = begin(0x8a, SEGS(3), FX_HOLD);
	fx_release(&fx, ft);
	fx_settle(&fx);
	close_begin();
	assert_int_equal(ft->ncancelled, 1);
	assert_false(ft->finished || nexus.closed);
	release();
	aborted(ft);
	close_end();
	fx_down(&fx);
}

/* Data that leaves does not keep the nexus: the task ends, and its memory comes back later. */
static void a_read_whose_data_is_leaving(void **state)
{
	struct fx_task *ft;

	up("fault::ram:16M");
	ft = begin(0x88, SEGS(3), FX_HOLD);
	ft->cancel_sticks = true;
	assert_int_equal(ft->nheld, 2);
	close_begin();
	close_end();
	assert_true(ft->finished && ft->aborted);
	assert_int_equal(ft->ncancelled, 2);
	fx_release(&fx, ft);
	fx_release(&fx, ft);
	aborted(ft);
	fx_down(&fx);
}

static void a_read_that_has_ended_but_is_still_leaving(void **state)
{
	struct fx_task *ft;

	up("fault::ram:16M");
	ft = begin(0x88, SEGS(2), FX_HOLD);
	assert_true(ft->finished);
	close_begin();
	close_end();
	assert_int_equal(ft->ncancelled, 0);
	fx_release(&fx, ft);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
	fx_down(&fx);
}

/* The store's own memory does keep it, whether the task was aborted or had ended. */
static void lent_memory_that_is_leaving(void **state)
{
	for (uint32_t nsegs = 2; nsegs <= 3; nsegs++) {
		struct fx_task *ft;

		up("ram:16M");
		ft = begin(0x88, SEGS(nsegs), FX_HOLD);
		ft->cancel_sticks = true;
		assert_int_equal(ft->nlent, 2);
		close_begin();
		assert_true(ft->finished);
		assert_false(nexus.closed);
		fx_release(&fx, ft);
		fx_settle(&fx);
		assert_false(nexus.closed);
		fx_release(&fx, ft);
		fx_finish_wait(ft);
		assert_int_equal(ft->aborted, nsegs == 3);
		close_end();
		fx_task_free(ft);
		fx_down(&fx);
	}
}

static void tasks_at_the_barrier(void **state)
{
	struct fx_task *first, *waiting[4];

	up("fault:rule=read;hang:ram:16M");
	first = begin(0x88, 1, FX_LATER);
	for (unsigned i = 0; i < ARRAY_LEN(waiting); i++) {
		waiting[i] = fx_rw(&nexus, 0x8a, 0, 1);
		waiting[i]->t.attr = i & 1 ? SCSI_SIMPLE : SCSI_ORDERED;
		fx_expect_out(waiting[i], 512);
		fx_submit(&fx, waiting[i]);
	}
	close_begin();
	assert_false(first->finished || nexus.closed);
	for (unsigned i = 0; i < ARRAY_LEN(waiting); i++) {
		assert_int_equal(waiting[i]->moved, 0);
		aborted(waiting[i]);
	}
	release();
	aborted(first);
	close_end();
	fx_down(&fx);
}

/* START STOP UNIT waits at the steward behind an operation that does not end yet. */
struct gate {
	struct unit_op op;
	sem_t sem;
};

static void gate_act(struct unit_op *op)
{
}

static void gate_done(struct unit_op *op, int err)
{
	sem_post(&container_of(op, struct gate, op)->sem);
}

static void gate_close(void *arg)
{
	unit_quiesce(&((struct gate *)arg)->op);
}

static void gate_open(void *arg)
{
	unit_op_acted(&((struct gate *)arg)->op, 0);
}

static void gate_init(struct gate *g)
{
	g->op = (struct unit_op){
		.unit = fx.units[0], .loop = fx.loop, .act = gate_act, .done = gate_done};
	sem_init(&g->sem, 0, 0);
	fx_call(&fx, gate_close, g);
	fx_settle(&fx);
}

static void gate_fini(struct gate *g)
{
	fx_call(&fx, gate_open, g);
	fx_wait(&g->sem);
	sem_destroy(&g->sem);
}

static void a_control_operation_that_waits(void **state)
{
	struct gate g;
	struct fx_task *ft;

	up("ram:16M");
	gate_init(&g);
	ft = fx_task_new(&nexus, (const uint8_t[]){0x1b, 0, 0, 0, 0x05, 0}, 6);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	close_begin();
	aborted(ft);
	close_end();
	gate_fini(&g);
	fx_down(&fx);
}

/* I/O that is parked because the unit is closed has not reached the store, and ends at once. */
static void parked_in_a_closed_channel(void **state)
{
	struct gate g;
	struct fx_task *read, *write, *flush;

	up("ram:16M");
	gate_init(&g);
	read = begin(0x88, SEGS(3), FX_LATER);
	write = begin(0x8a, SEGS(3), FX_LATER);
	flush = begin(0x91, 0, FX_LATER);
	assert_int_equal(write->moved, 2 * SCSI_SEG_MAX);
	assert_false(read->finished || write->finished || flush->finished);
	close_begin();
	aborted(read);
	aborted(write);
	aborted(flush);
	close_end();
	gate_fini(&g);
	fx_down(&fx);
}

static void parked_and_let_go(void **state)
{
	struct gate g;
	struct fx_task *ft;

	up("ram:16M");
	gate_init(&g);
	ft = begin(0x8a, SEGS(5), FX_LATER);
	assert_false(ft->finished);
	gate_fini(&g);
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
	fx_close(&nexus);
	fx_down(&fx);
}

/* Another nexus's I/O hangs: it does not keep this one. */
static void other_nexuses_do_not_hold_it_up(void **state)
{
	struct fx_nexus other;
	struct fx_task *ft;

	up("fault:rule=read;hang:ram:16M");
	fx_open(&fx, &other);
	fx_take_power_on(&other, 0);
	ft = fx_rw(&other, 0x88, 0, 1);
	fx_expect_in(ft, 512);
	fx_submit(&fx, ft);
	fx_close(&nexus);
	assert_false(ft->finished);
	release();
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
	fx_close(&other);
	fx_down(&fx);
}

/* ---- Opening ---- */

static void a_target_without_luns(void **state)
{
	struct fx_task *ft;

	fx_init(&fx);
	fx_start(&fx);
	fx_open(&fx, &nexus);
	ft = FX_CMD(&nexus, 96, 0x12, 0, 0, 0, 96, 0);
	fx_good(ft);
	assert_int_equal(ft->data[0], 0x7f);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 64, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0);
	fx_good(ft);
	assert_int_equal(load_be32(ft->data), 0);
	assert_int_equal(ft->moved, 8);
	fx_task_free(ft);
	/* All logical units: the well-known one is always there. */
	ft = FX_CMD(&nexus, 64, 0xa0, 0, 2, 0, 0, 0, 0, 0, 0, 64, 0, 0);
	fx_good(ft);
	assert_int_equal(ft->moved, 16);
	assert_memory_equal(ft->data, ((const uint8_t[16]){[3] = 8, [8] = 0xc1, [9] = 0x01}), 16);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 0, 0x00, 0, 0, 0, 0, 0);
	fx_sense(ft, 0x5, 0x25, 0x00);
	fx_task_free(ft);
	fx_close(&nexus);
	fx_down(&fx);
}

static void open_and_close_run(void *arg)
{
	nexus_open(&nexus.nexus);
	nexus_close(&nexus.nexus);
	assert_false(nexus.closed);
}

static void closed_before_it_was_open(void **state)
{
	fx_up(&fx, "ram:16M", 512);
	fx_nexus_init(&fx, &nexus);
	nexus.err = 77;
	fx_call(&fx, open_and_close_run, NULL);
	close_end();
	assert_int_equal(nexus.err, 77);
	fx_down(&fx);
}

static void losing_a_nexus_needs_no_memory(void **state)
{
	fx_up(&fx, "ram:16M", 512);
	fx_open(&fx, &nexus);
	assert_non_null(nexus.nexus.luns[0]->abort.parts);
	fx_close(&nexus);
	fx_down(&fx);
}

static void identifiers_are_never_the_same(void **state)
{
	struct fx_nexus n[3];

	fx_up(&fx, "ram:16M", 512);
	for (unsigned i = 0; i < ARRAY_LEN(n); i++) {
		fx_open(&fx, &n[i]);
		assert_true(n[i].nexus.id != 0);
		for (unsigned j = 0; j < i; j++)
			assert_true(n[i].nexus.id != n[j].nexus.id);
	}
	for (unsigned i = 0; i < ARRAY_LEN(n); i++)
		fx_close(&n[i]);
	fx_down(&fx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_in_the_store),
		cmocka_unit_test(writes_in_the_store),
		cmocka_unit_test(flush_in_the_store),
		cmocka_unit_test(a_write_that_waits_for_its_data),
		cmocka_unit_test(a_write_whose_data_cannot_be_called_back_at_once),
		cmocka_unit_test(a_write_in_two_places),
		cmocka_unit_test(a_read_whose_data_is_leaving),
		cmocka_unit_test(a_read_that_has_ended_but_is_still_leaving),
		cmocka_unit_test(lent_memory_that_is_leaving),
		cmocka_unit_test(tasks_at_the_barrier),
		cmocka_unit_test(a_control_operation_that_waits),
		cmocka_unit_test(parked_in_a_closed_channel),
		cmocka_unit_test(parked_and_let_go),
		cmocka_unit_test(other_nexuses_do_not_hold_it_up),
		cmocka_unit_test(a_target_without_luns),
		cmocka_unit_test(closed_before_it_was_open),
		cmocka_unit_test(losing_a_nexus_needs_no_memory),
		cmocka_unit_test(identifiers_are_never_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
