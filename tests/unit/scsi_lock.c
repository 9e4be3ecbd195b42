/*
 * Locks of tasks at the wrong moment: a segment that waits for one while the task fails or is
 * aborted, locks that are disarmed under the hands of who has just got one, and views that change
 * while one is held.
 */
#include "scsi_fixture.h"

#define WRITE_16   0x8a
#define READ_16    0x88
#define ORWRITE_16 0x8b
#define CAW        0x89

#define BLOCKS_OF_A_SEG (SCSI_SEG_MAX / 512)

static struct fx fx;
static struct fx_nexus nexus, other;

static struct fx_task *command(struct fx_nexus *fn, uint8_t opcode, uint64_t lba, uint32_t nblocks,
			       uint8_t fill)
{
	struct fx_task *ft = fx_rw(fn, opcode, lba, nblocks);

	memset(ft->data, fill, nblocks * 512);
	fx_expect_out(ft, nblocks * 512);
	return ft;
}

/* Compares with `old`, and writes `new`. */
static struct fx_task *caw(struct fx_nexus *fn, uint8_t nblocks, uint32_t block_size, uint8_t old,
			   uint8_t new)
{
	const uint32_t len = nblocks * block_size;
	struct fx_task *ft = fx_rw(fn, CAW, 0, 0);

	ft->t.cdb[13] = nblocks;
	memset(ft->data, old, len);
	memset(ft->data + len, new, len);
	fx_expect_out(ft, 2 * len);
	return ft;
}

static void good(struct fx_task *ft)
{
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
}

static void run_good(struct fx_task *ft)
{
	fx_submit(&fx, ft);
	good(ft);
}

/* With locks that are armed. */
static void up(const char *spec)
{
	fx_up(&fx, spec, 512);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
	fx_open(&fx, &other);
	fx_take_power_on(&other, 0);
	run_good(command(&nexus, ORWRITE_16, 8 * BLOCKS_OF_A_SEG, 1, 1));
}

static void down(void)
{
	assert_int_equal(range_lock_use(unit_bdev(fx.units[0])).held, 0);
	fx_close(&other);
	fx_close(&nexus);
	fx_down(&fx);
}

static void expect(uint64_t lba, uint32_t nblocks, uint8_t byte)
{
	struct fx_task *ft = fx_rw(&nexus, READ_16, lba, nblocks);

	fx_expect_in(ft, nblocks * 512);
	fx_run(&fx, ft);
	fx_good(ft);
	for (uint32_t i = 0; i < nblocks * 512; i++)
		assert_int_equal(ft->data[i], byte);
	fx_task_free(ft);
}

/* ---- The lock of somebody else ---- */

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

/* The first segment waits for its lock while the second fails. INFORMATION will say that the first
 * was done, so it must be. */
static void what_lies_below_a_failed_segment_waits_for_its_lock(void **state)
{
	struct fx_task *ft;

	up("fault:rule=read@256K-512K;eio:ram:16M");
	fx_call(&fx, hold_run, NULL);
	ft = command(&nexus, ORWRITE_16, 0, 2 * BLOCKS_OF_A_SEG, 5);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	fx_call(&fx, let_go_run, NULL);
	fx_finish_wait(ft);
	fx_sense(ft, 0x3, 0x11, 0x00);
	fx_information(ft, BLOCKS_OF_A_SEG);
	fx_task_free(ft);
	expect(0, BLOCKS_OF_A_SEG, 5);
	down();
}

/* ---- Aborted while the lock is on its way ---- */

static struct loop_msg after_the_abort;

/* Between the ABORT's arrival at the steward and at the channel. */
static void let_go_then(struct loop_msg *msg)
{
	range_unlock(&held);
}

static void close_and_let_go_run(void *arg)
{
	fx_close_run(arg);
	after_the_abort.run = let_go_then;
	loop_post(fx.loop, &after_the_abort);
}

/* Of a segment, of a command, and of a plain write. */
static void lost_while_its_lock_is_on_its_way(void **state)
{
	static const uint8_t opcodes[] = {ORWRITE_16, CAW, WRITE_16};
	struct fx_task *ft;

	up("ram:16M");
	for (uint32_t i = 0; i < 3 * 10; i++) {
		const uint8_t opcode = opcodes[i % 3];
		const uint32_t nblocks = 1u << i / 3;

		fx_call(&fx, hold_run, NULL);
		ft = opcode == CAW ? caw(&other, low_u8(nblocks / 3 + 1), 512, 0, 7)
				   : command(&other, opcode, 0, nblocks, 7);
		fx_submit(&fx, ft);
		fx_settle(&fx);
		assert_false(ft->finished);
		fx_call(&fx, close_and_let_go_run, &other);
		fx_finish_wait(ft);
		assert_true(ft->aborted);
		fx_task_free(ft);
		fx_wait(&other.sem);
		fx_settle(&fx);
		assert_int_equal(range_lock_use(unit_bdev(fx.units[0])).held, 0);
		fx_open(&fx, &other);
		fx_take_power_on(&other, 0);
		/* And to nobody: the first stripe is free for another. */
		run_good(command(&nexus, ORWRITE_16, 0, 1, 0));
	}
	expect(0, 2 * BLOCKS_OF_A_SEG, 0);
	down();
}

/* ---- Views that change ---- */

struct change {
	struct unit_op op;
	unsigned clear, set; /* flags */
	uint64_t holder;
	void (*while_closed)(void); /* while the channel is; NULL: it is not */
	sem_t sem;
};

static int change_edit(struct unit_op *op, struct unit_view *next)
{
	const struct change *c = container_of(op, struct change, op);

	next->flags = (next->flags & ~c->clear) | c->set;
	next->holder = c->holder;
	return 0;
}

static void change_act(struct unit_op *op)
{
	container_of(op, struct change, op)->while_closed();
	unit_op_acted(op, 0);
}

static void change_done(struct unit_op *op, int err)
{
	CHECK(err == 0);
	sem_post(&container_of(op, struct change, op)->sem);
}

static void change_run(void *arg)
{
	struct change *c = arg;

	c->op = (struct unit_op){.unit = fx.units[0],
				 .loop = fx.loop,
				 .nexus_id = c->op.nexus_id,
				 .changes = c->op.changes,
				 .act = change_act,
				 .edit = change_edit,
				 .done = change_done};
	if (c->while_closed != NULL)
		unit_quiesce(&c->op);
	else
		unit_publish(&c->op);
}

static void change(struct change c)
{
	sem_init(&c.sem, 0, 0);
	fx_call(&fx, change_run, &c);
	fx_wait(&c.sem);
	sem_destroy(&c.sem);
}

/* The grant gets there while the channel is closed, before the new view. */
static void grant(void)
{
	range_unlock(&held);
}

static void disarm(void)
{
	change((struct change){.clear = UNIT_LOCKS_ARMED, .while_closed = grant});
}

/* The grant finds the new view. */
static void disarm_then_grant(void)
{
	change((struct change){.clear = UNIT_LOCKS_ARMED});
	fx_call(&fx, let_go_run, NULL);
}

static bool is_armed(void)
{
	return (itl_view(nexus.nexus.luns[0])->flags & UNIT_LOCKS_ARMED) != 0;
}

static uint64_t granted(void)
{
	return range_lock_use(unit_bdev(fx.units[0])).granted;
}

/* ---- Disarmed with the lock in hand ---- */

static void taken_anew(void (*disarm_and_grant)(void))
{
	struct fx_task *ft;
	uint64_t before;

	for (uint32_t nblocks = 1; nblocks <= 2 * BLOCKS_OF_A_SEG; nblocks *= 2) {
		run_good(command(&nexus, WRITE_16, 0, nblocks, 1));
		fx_call(&fx, hold_run, NULL);
		ft = command(&nexus, ORWRITE_16, 0, nblocks, 6);
		fx_submit(&fx, ft);
		fx_settle(&fx);
		assert_false(ft->finished);
		before = granted();
		disarm_and_grant();
		good(ft);
		assert_true(granted() >= before + 2);
		assert_true(is_armed());
		expect(0, nblocks, 7);
	}
	/* And that of a whole command. */
	run_good(command(&nexus, WRITE_16, 0, 255, 1));
	fx_call(&fx, hold_run, NULL);
	ft = caw(&other, 255, 512, 1, 2);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	disarm_and_grant();
	good(ft);
	assert_true(is_armed());
	expect(0, 255, 2);
}

static void locks_are_taken_anew(void **state)
{
	up("ram:16M");
	taken_anew(disarm);
	taken_anew(disarm_then_grant);
	down();
}

/* The first segment waits for its lock, the second has failed. */
static struct fx_task *hanging;

static void hang_and_grant(void)
{
	scsi_task_run(&hanging->t);
	grant();
}

/* Locks are disarmed under the first segment and cannot be armed anew. That is what is told, not the
 * error behind it: to the initiator that would say that the first segment was written. */
static void locks_that_cannot_be_taken_anew(void **state)
{
	struct fx_task *ft;

	up("fault:rule=read@256K-512K;eio,rule=write@8M-9M;hang;count=1:ram:16M");
	fx_call(&fx, hold_run, NULL);
	ft = command(&nexus, ORWRITE_16, 0, 2 * BLOCKS_OF_A_SEG, 5);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	hanging = command(&other, WRITE_16, 16 * 1024, 1, 5);
	change((struct change){.clear = UNIT_LOCKS_ARMED, .while_closed = hang_and_grant});
	fx_finish_wait(ft);
	assert_int_equal(ft->t.status, SCSI_BUSY);
	fx_task_free(ft);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	good(hanging);
	expect(0, BLOCKS_OF_A_SEG, 0);
	down();
}

/* ---- Another view, and the locks stay armed ---- */

static struct fx_task *waits_for_the_lock(uint8_t opcode)
{
	struct fx_task *ft = opcode == CAW ? caw(&nexus, 255, 512, 0, 6)
					   : command(&nexus, opcode, 0, BLOCKS_OF_A_SEG, 6);

	fx_call(&fx, hold_run, NULL);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	return ft;
}

/* The lock comes right before the new view, or behind it. */
static void change_and_grant(struct change c, bool behind)
{
	c.while_closed = behind ? NULL : grant;
	change(c);
	if (behind)
		fx_call(&fx, let_go_run, NULL);
}

static void before_the_first_read(uint8_t opcode, bool behind)
{
	struct fx_task *ft;
	uint64_t before;

	up("ram:16M");
	/* A reservation. */
	ft = waits_for_the_lock(opcode);
	change_and_grant((struct change){.holder = other.nexus.id}, behind);
	fx_finish_wait(ft);
	assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
	fx_task_free(ft);
	change((struct change){.holder = 0});
	/* A unit attention. */
	ft = waits_for_the_lock(opcode);
	change_and_grant(
		(struct change){.op = {.changes = LU_CHANGED_MODE, .nexus_id = other.nexus.id}},
		behind);
	fx_finish_wait(ft);
	fx_sense(ft, 0x6, 0x2a, 0x01);
	fx_task_free(ft);
	expect(0, BLOCKS_OF_A_SEG, 0);
	/* Nothing that concerns it: the lock is kept. */
	before = granted();
	ft = waits_for_the_lock(opcode);
	change_and_grant((struct change){.holder = 0}, behind);
	good(ft);
	assert_int_equal(granted(), before + 2);
	expect(0, 255, 6);
	down();
}

/* Between the lock and the first read the command is checked once more. */
static void another_view_before_the_first_read(void **state)
{
	before_the_first_read(ORWRITE_16, false);
	before_the_first_read(ORWRITE_16, true);
	before_the_first_read(CAW, false);
	before_the_first_read(CAW, true);
}

/* The first segment waits for others' lock, the second has failed; then the view changes. The first
 * is written all the same, for INFORMATION says so. */
static void another_view_below_a_failed_segment(void **state)
{
	static const uint8_t opcodes[] = {WRITE_16, ORWRITE_16};

	for (size_t i = 0; i < ARRAY_LEN(opcodes); i++) {
		struct fx_task *ft;

		up("fault:rule=write@256K-512K;eio,rule=read@256K-512K;eio:ram:16M");
		fx_call(&fx, hold_run, NULL);
		ft = command(&nexus, opcodes[i], 0, 2 * BLOCKS_OF_A_SEG, 5);
		fx_submit(&fx, ft);
		fx_settle(&fx);
		assert_false(ft->finished);
		change_and_grant((struct change){.op = {.changes = LU_CHANGED_MODE,
							.nexus_id = other.nexus.id}},
				 true);
		fx_finish_wait(ft);
		fx_sense(ft, 0x3, opcodes[i] == WRITE_16 ? 0x0c : 0x11, 0x00);
		fx_information(ft, BLOCKS_OF_A_SEG);
		fx_task_free(ft);
		/* Now it is told. */
		ft = FX_CMD(&nexus, 0, 0x00, 0, 0, 0, 0, 0);
		fx_sense(ft, 0x6, 0x2a, 0x01);
		fx_task_free(ft);
		expect(0, BLOCKS_OF_A_SEG, 5);
		down();
	}
}

static void expect_4096(uint32_t nblocks, uint8_t byte)
{
	struct fx_task *ft = fx_rw(&other, READ_16, 0, nblocks);

	fx_expect_in(ft, nblocks * 4096);
	fx_run(&fx, ft);
	fx_good(ft);
	for (uint32_t i = 0; i < nblocks * 4096; i++)
		assert_int_equal(ft->data[i], byte);
	fx_task_free(ft);
}

/* Between the first read and the write: who may not write any more has not written a byte, and for
 * whom nothing has changed goes on, whatever the unit attention that waits for it. */
static void another_view_before_the_write(void **state)
{
	static const struct change changes[] = {{.op = {.changes = LU_CHANGED_MODE}},
						{.set = UNIT_SOFT_PROTECTED},
						{.set = UNIT_STOPPED},
						{.holder = 1}};

	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		struct change c = changes[i];
		struct fx_task *ft;

		fx_up(&fx, "fault:rule=read@64K-68K;hang;count=1:ram:16M", 4096);
		fx_open(&fx, &nexus);
		fx_take_power_on(&nexus, 0);
		fx_open(&fx, &other);
		fx_take_power_on(&other, 0);
		ft = caw(&nexus, 32, 4096, 0, 9);
		fx_submit(&fx, ft);
		while (range_lock_use(unit_bdev(fx.units[0])).held != 1)
			fx_settle(&fx);
		fx_settle(&fx);
		assert_false(ft->finished);
		c.op.nexus_id = other.nexus.id;
		if (c.holder != 0)
			c.holder = other.nexus.id;
		change(c);
		assert_int_equal(store_fault_release(fx.stores[0]), 0);
		fx_finish_wait(ft);
		if (c.holder != 0)
			assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
		else if (c.set == UNIT_SOFT_PROTECTED)
			fx_sense(ft, 0x7, 0x27, 0x00);
		else if (c.set == UNIT_STOPPED)
			fx_sense(ft, 0x2, 0x04, 0x02);
		else
			fx_good(ft);
		change((struct change){.clear = UNIT_SOFT_PROTECTED | UNIT_STOPPED});
		expect_4096(32, ft->t.status == SCSI_GOOD ? 9 : 0);
		fx_task_free(ft);
		down();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_lies_below_a_failed_segment_waits_for_its_lock),
		cmocka_unit_test(lost_while_its_lock_is_on_its_way),
		cmocka_unit_test(locks_are_taken_anew),
		cmocka_unit_test(locks_that_cannot_be_taken_anew),
		cmocka_unit_test(another_view_before_the_first_read),
		cmocka_unit_test(another_view_below_a_failed_segment),
		cmocka_unit_test(another_view_before_the_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
