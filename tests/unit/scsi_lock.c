/*
 * Locks of tasks at the wrong moment: a segment that waits for one while the task fails or is
 * aborted, and locks that are disarmed under the hands of who has just got one.
 */
#include "scsi_fixture.h"

#define WRITE_16   0x8a
#define READ_16    0x88
#define ORWRITE_16 0x8b

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

static void lost_while_its_lock_is_on_its_way(void **state)
{
	struct fx_task *ft;

	up("ram:16M");
	for (uint32_t nblocks = 1; nblocks <= 2 * BLOCKS_OF_A_SEG; nblocks *= 2) {
		fx_call(&fx, hold_run, NULL);
		ft = command(&other, ORWRITE_16, 0, nblocks, 7);
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
	}
	down();
}

/* ---- Disarmed with the lock in hand ---- */

struct disarming {
	struct unit_op op;
	sem_t sem;
};

static int disarm_edit(struct unit_op *op, struct unit_view *next)
{
	next->flags &= ~(unsigned)UNIT_LOCKS_ARMED;
	return 0;
}

/* The grant gets there while the channel is closed, before the new view. */
static void disarm_act(struct unit_op *op)
{
	range_unlock(&held);
	unit_op_acted(op, 0);
}

static void disarm_done(struct unit_op *op, int err)
{
	assert_int_equal(err, 0);
	sem_post(&container_of(op, struct disarming, op)->sem);
}

static void disarm_run(void *arg)
{
	struct disarming *d = arg;

	d->op = (struct unit_op){.unit = fx.units[0],
				 .loop = fx.loop,
				 .act = disarm_act,
				 .edit = disarm_edit,
				 .done = disarm_done};
	unit_quiesce(&d->op);
}

static void disarm(void)
{
	struct disarming d;

	sem_init(&d.sem, 0, 0);
	fx_call(&fx, disarm_run, &d);
	fx_wait(&d.sem);
	sem_destroy(&d.sem);
}

static bool is_armed(void)
{
	return (itl_view(nexus.nexus.luns[0])->flags & UNIT_LOCKS_ARMED) != 0;
}

static void locks_are_taken_anew(void **state)
{
	struct fx_task *ft, *caw;
	uint64_t granted;

	up("ram:16M");
	for (uint32_t nblocks = 1; nblocks <= 2 * BLOCKS_OF_A_SEG; nblocks *= 2) {
		run_good(command(&nexus, WRITE_16, 0, nblocks, 1));
		fx_call(&fx, hold_run, NULL);
		ft = command(&nexus, ORWRITE_16, 0, nblocks, 6);
		fx_submit(&fx, ft);
		fx_settle(&fx);
		assert_false(ft->finished);
		granted = range_lock_use(unit_bdev(fx.units[0])).granted;
		disarm();
		good(ft);
		assert_true(range_lock_use(unit_bdev(fx.units[0])).granted >= granted + 2);
		assert_true(is_armed());
		expect(0, nblocks, 7);
	}
	/* And that of a whole command. */
	run_good(command(&nexus, WRITE_16, 0, 255, 1));
	fx_call(&fx, hold_run, NULL);
	caw = fx_rw(&other, 0x89, 0, 0);
	caw->t.cdb[13] = 255;
	memset(caw->data, 1, 255 * 512);
	memset(caw->data + 255 * 512, 2, 255 * 512);
	fx_expect_out(caw, 2 * 255 * 512);
	fx_submit(&fx, caw);
	fx_settle(&fx);
	assert_false(caw->finished);
	disarm();
	good(caw);
	assert_true(is_armed());
	expect(0, 255, 2);
	down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_lies_below_a_failed_segment_waits_for_its_lock),
		cmocka_unit_test(lost_while_its_lock_is_on_its_way),
		cmocka_unit_test(locks_are_taken_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
