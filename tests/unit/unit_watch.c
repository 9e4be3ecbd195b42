/*
 * The watch on simulated loops, over a store that the test steers: what becomes of each thing that a
 * store can have to tell, what is told to whom and how often, and that the watch stops at any
 * moment. (Hanging probes and real files: unit_watch_threads.c.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* cmocka wants those first. */
#include <cmocka.h>

#include "loop/sim.h"
#include "store/impl.h"
#include "unit/impl.h"

#include <errno.h>

#define NLOOPS   3
#define SIZE     (4 * MiB)
#define INTERVAL UINT64_C(5000000000)
#define SECOND   UINT64_C(1000000000)
#define EVENTS   (UNIT_EVENT_UNLINKED + 1)

/* ---- The store ---- */

static struct unit *unit;

static struct {
	struct store_status status;
	int probe_err, resize_err;
	int io_err[IO_NOPS]; /* every io of that kind ends so */
	bool hold;           /* io stays in the store */
	struct io *held;
	unsigned nprobes;
	bool opened_read_only;
	bool asks_again; /* each probe finds that it is asked for another meanwhile */
} steer;

static int steered_open(struct store **out, struct loop_set *set,
			const struct store_type *const *types, char *rest,
			const struct store_config *config, struct diag *d)
{
	*out = calloc(1, sizeof(**out));
	(*out)->info = (struct store_info){
		.size = SIZE,
		.logical_block = 512,
		.discard_granularity = 512,
		.read_only = steer.opened_read_only,
	};
	return 0;
}

static void steered_close(struct store *s)
{
	free(s);
}

static int steered_probe(struct store *s, struct store_status *status)
{
	bool read_only = status->read_only;

	steer.nprobes++;
	if (steer.asks_again)
		unit_watch_now(unit);
	*status = steer.status;
	status->read_only |= read_only;
	return steer.probe_err;
}

static int steered_resize(struct store *s, uint64_t size)
{
	if (steer.resize_err != 0)
		return steer.resize_err;
	if (steer.status.size < s->info.size)
		return -ERANGE;
	if (size != 0)
		steer.status.size = size;
	s->info.size = steer.status.size;
	return 0;
}

static void steered_io(struct store *s, struct io *io)
{
	if (steer.hold)
		steer.held = io;
	else
		io_end(io, steer.io_err[io->op]);
}

static const struct store_type store_steered = {
	.name = "steered",
	.open = steered_open,
	.close = steered_close,
	.resize = steered_resize,
	.probe = steered_probe,
	.read = steered_io,
	.write = steered_io,
	.flush = steered_io,
	.discard = steered_io,
	.zero = steered_io,
};

/* ---- A unit with a nexus on each loop ---- */

struct actor {
	struct unit_attach ua;
	bool attached;
	unsigned size, medium, protection, other; /* how often it was told */
};

static struct loop_set *set;
static struct actor actors[NLOOPS];
static unsigned told[EVENTS], stopped;
static uint8_t data[4096];

static void time_is_up(struct loop_timer *timer)
{
}

/* Not longer, either: without a timer of its own the clock would leap to the next one. */
static void run_for(uint64_t ns)
{
	struct loop_timer timer;

	loop_timer_init(&timer, loop_set_at(set, 0), time_is_up);
	assert_int_equal(loop_timer_start(&timer, ns), 0);
	while (loop_timer_running(&timer))
		assert_true(sim_step(set));
}

static void attached(struct unit_attach *ua, int err)
{
	container_of(ua, struct actor, ua)->attached = err == 0;
}

static void changed(struct unit_attach *ua, unsigned changes, uint64_t origin)
{
	struct actor *a = container_of(ua, struct actor, ua);
	unsigned known = UNIT_CHANGED_SIZE | UNIT_CHANGED_MEDIUM | UNIT_CHANGED_PROTECTION;

	a->size += (changes & UNIT_CHANGED_SIZE) != 0;
	a->medium += (changes & UNIT_CHANGED_MEDIUM) != 0;
	a->protection += (changes & UNIT_CHANGED_PROTECTION) != 0;
	a->other += (changes & ~known) != 0 || origin != 0;
}

static void make_unit(bool read_only)
{
	static const struct store_type *const types[] = {&store_steered, &store_ram, NULL};
	static const struct unit_identity identity = {.serial = "test"};
	struct bdev_config bconfig = {.block_size = 512};
	struct store_config sconfig = {.size = 0};
	struct store *store;
	struct bdev *bdev;

	memset(&steer, 0, sizeof(steer));
	memset(told, 0, sizeof(told));
	stopped = 0;
	steer.status = (struct store_status){.size = SIZE, .allocated = 1000, .available = 2000};
	steer.opened_read_only = read_only;
	assert_int_equal(store_open(&store, set, types, "steered:", &sconfig, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bconfig, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &identity, 1), 0);
	for (unsigned i = 0; i < NLOOPS; i++) {
		actors[i] = (struct actor){.ua = {.nexus_id = i + 1,
						  .loop = loop_set_at(set, i),
						  .attached = attached,
						  .changed = changed}};
		unit_attach(unit, &actors[i].ua);
	}
	sim_run(set, UINT64_MAX);
	for (unsigned i = 0; i < NLOOPS; i++)
		assert_true(actors[i].attached);
}

static void happened(void *arg, struct unit *u, enum unit_event event)
{
	assert_ptr_equal(arg, &told);
	assert_ptr_equal(u, unit);
	assert_ptr_equal(loop_self(), loop_set_at(set, 1));
	told[event]++;
}

static void start(void)
{
	const struct unit_watch_config config = {
		.interval_ns = INTERVAL, .event = happened, .arg = &told};

	assert_int_equal(unit_watch_start(unit, &config), 0);
}

static void has_stopped(void *arg)
{
	assert_ptr_equal(arg, &stopped);
	assert_ptr_equal(loop_self(), loop_set_at(set, 2));
	stopped++;
}

static void drop_unit(void)
{
	for (unsigned i = 0; i < NLOOPS; i++)
		unit_detach(&actors[i].ua);
	unit_destroy(unit);
}

static void stop_and_drop(void)
{
	unsigned probes;

	unit_watch_stop(unit, loop_set_at(set, 2), has_stopped, &stopped);
	sim_run(set, UINT64_MAX); /* it ends: no timer runs any more */
	assert_int_equal(stopped, 1);
	probes = steer.nprobes;
	unit_watch_now(unit);
	sim_run(set, UINT64_MAX);
	assert_int_equal(steer.nprobes, probes);
	drop_unit();
}

static int set_up(void **state)
{
	if (sim_create(&set, NLOOPS, 1) != 0)
		return -1;
	make_unit(false);
	start();
	run_for(SECOND);
	return 0;
}

static int tear_down(void **state)
{
	stop_and_drop();
	loop_set_destroy(set);
	return 0;
}

/* ---- I/O ---- */

struct job {
	struct unit_task ut;
	struct unit_io uio;
	struct iovec iov;
	bool done;
};

static void job_cancel(struct unit_task *ut)
{
}

static void job_done(struct unit_io *uio)
{
	container_of(uio, struct job, uio)->done = true;
}

static void job_start(struct job *j, unsigned loop, enum io_op op, uint64_t off)
{
	*j = (struct job){.ut = {.nexus_id = loop + 1, .cancel = job_cancel}};
	j->iov = (struct iovec){.iov_base = data, .iov_len = 512};
	j->uio = (struct unit_io){
		.io = {.op = op, .off = off, .len = 512, .iov = &j->iov, .niov = 1},
		.task = &j->ut,
		.done = job_done,
	};
	unit_task_begin(actors[loop].ua.channel, &j->ut);
	unit_submit(&j->uio);
}

static int io_at(unsigned loop, enum io_op op, uint64_t off)
{
	struct job j;

	job_start(&j, loop, op, off);
	while (!j.done)
		assert_true(sim_step(set));
	unit_task_end(&j.ut);
	return j.uio.io.result;
}

static int io(enum io_op op)
{
	return io_at(0, op, 0);
}

static const struct unit_view *view(void)
{
	return channel_view(actors[0].ua.channel);
}

static bool flag(unsigned flag)
{
	for (unsigned i = 1; i < NLOOPS; i++)
		assert_int_equal(channel_view(actors[i].ua.channel)->flags, view()->flags);
	return (view()->flags & flag) != 0;
}

#define expect_told(size_times, medium_times, protection_times)                        \
	do {                                                                           \
		for (unsigned actor_ = 0; actor_ < NLOOPS; actor_++) {                 \
			assert_int_equal(actors[actor_].size, size_times);             \
			assert_int_equal(actors[actor_].medium, medium_times);         \
			assert_int_equal(actors[actor_].protection, protection_times); \
			assert_int_equal(actors[actor_].other, 0);                     \
		}                                                                      \
	} while (0)

/* Event, how often, ...: and nothing else. */
#define expect_events(...)                                                        \
	do {                                                                      \
		const struct {                                                    \
			unsigned event, times;                                    \
		} rows_[] = {__VA_ARGS__};                                        \
		unsigned sum_ = 0, all_ = 0;                                      \
		for (size_t i_ = 0; i_ < ARRAY_LEN(rows_); i_++) {                \
			assert_int_equal(told[rows_[i_].event], rows_[i_].times); \
			sum_ += rows_[i_].times;                                  \
		}                                                                 \
		for (size_t i_ = 0; i_ < EVENTS; i_++)                            \
			all_ += told[i_];                                         \
		assert_int_equal(all_, sum_);                                     \
	} while (0)

/* ---- Tests ---- */

static void nothing_is_new(void **state)
{
	struct unit_usage usage = unit_usage(unit);

	assert_int_equal(steer.nprobes, 1); /* at once */
	assert_int_equal(usage.allocated, 1000);
	assert_int_equal(usage.available, 2000);
	steer.status.available = 1;
	run_for(10 * INTERVAL);
	assert_in_range(steer.nprobes, 9, 12);
	assert_int_equal(unit_usage(unit).available, 1);
	assert_int_equal(view()->generation, 1);
	expect_told(0, 0, 0);
	expect_events({0, 0});
}

static void unknown_usage(void **state)
{
	stop_and_drop();
	make_unit(false);
	assert_true(unit_usage(unit).allocated == UINT64_MAX);
	assert_true(unit_usage(unit).available == UINT64_MAX);
	start();
}

static void grows(void **state)
{
	assert_int_equal(io_at(2, IO_WRITE, SIZE), -ERANGE);
	steer.status.size = 3 * SIZE + 511; /* the last partial block does not count */
	run_for(INTERVAL + SECOND);
	assert_int_equal(view()->size, 3 * SIZE);
	assert_int_equal(bdev_nblocks(unit_bdev(unit)), 3 * SIZE / 512);
	assert_int_equal(io_at(2, IO_WRITE, 3 * SIZE - 512), 0);
	assert_int_equal(io_at(1, IO_READ, 3 * SIZE), -ERANGE);
	steer.status.size++;
	run_for(3 * INTERVAL);
	assert_int_equal(view()->size, 3 * SIZE + 512);
	run_for(3 * INTERVAL);
	expect_told(2, 0, 0);
	expect_events({UNIT_EVENT_GREW, 2});
}

static void grows_when_asked(void **state)
{
	steer.status.size = 2 * SIZE;
	unit_watch_now(unit);
	unit_watch_now(unit);
	run_for(SECOND / 2);
	assert_int_equal(view()->size, 2 * SIZE);
	assert_int_equal(steer.nprobes, 2); /* twice asked at once is once */
	expect_told(1, 0, 0);
}

/* What cannot be taken over now is taken over later. */
static void grows_at_the_second_attempt(void **state)
{
	steer.status.size = 2 * SIZE;
	steer.resize_err = -EIO;
	run_for(2 * INTERVAL);
	assert_int_equal(view()->size, SIZE);
	expect_told(0, 0, 0);
	steer.resize_err = 0;
	run_for(2 * INTERVAL);
	assert_int_equal(view()->size, 2 * SIZE);
	expect_told(1, 0, 0);
}

/* It waits for no I/O: a disk with one that hangs can still grow. */
static void grows_while_io_hangs(void **state)
{
	struct job j;

	steer.hold = true;
	job_start(&j, 0, IO_READ, 0);
	steer.status.size = 2 * SIZE;
	run_for(2 * INTERVAL);
	assert_int_equal(view()->size, 2 * SIZE);
	expect_told(1, 0, 0);
	assert_false(j.done);
	steer.hold = false;
	assert_int_equal(io_at(1, IO_READ, 2 * SIZE - 512), 0);
	io_end(steer.held, 0);
	while (!j.done)
		assert_true(sim_step(set));
	unit_task_end(&j.ut);
}

static void never_shrinks(void **state)
{
	steer.status.size = SIZE / 2;
	run_for(3 * INTERVAL);
	assert_int_equal(view()->size, SIZE);
	assert_true(flag(UNIT_WRITE_PROTECTED));
	assert_int_equal(io(IO_READ), 0);
	assert_int_equal(io(IO_WRITE), -EROFS);
	expect_told(0, 0, 1);
	expect_events({UNIT_EVENT_SHRUNK, 1});
	steer.status.size = SIZE;
	run_for(3 * INTERVAL);
	assert_false(flag(UNIT_WRITE_PROTECTED));
	assert_int_equal(io(IO_WRITE), 0);
	expect_told(0, 0, 2);
	expect_events({UNIT_EVENT_SHRUNK, 1}, {UNIT_EVENT_WRITABLE, 1});
	steer.status.size = SIZE - 1;
	run_for(3 * INTERVAL);
	expect_events({UNIT_EVENT_SHRUNK, 2}, {UNIT_EVENT_WRITABLE, 1});
}

static void lost_and_back(void **state)
{
	steer.probe_err = -ENXIO; /* the system's word for it */
	for (unsigned op = 0; op < IO_NOPS; op++)
		steer.io_err[op] = -ENXIO;
	assert_int_equal(io(IO_READ), -ENODEV);
	run_for(SECOND / 2); /* at once, not after an interval */
	assert_true(flag(UNIT_MISSING));
	expect_events({UNIT_EVENT_LOST, 1});
	memset(steer.io_err, 0, sizeof(steer.io_err));
	assert_int_equal(io(IO_READ), -ENODEV); /* the view says so, the store is not asked */
	assert_int_equal(io(IO_FLUSH), -ENODEV);
	run_for(3 * INTERVAL);
	expect_told(0, 0, 0);
	steer.probe_err = 0;
	run_for(INTERVAL + SECOND);
	assert_false(flag(UNIT_MISSING));
	assert_int_equal(io(IO_READ), 0);
	assert_int_equal(io(IO_FLUSH), 0);
	expect_told(0, 1, 0);
	expect_events({UNIT_EVENT_LOST, 1}, {UNIT_EVENT_BACK, 1});
	assert_false(flag(UNIT_WRITE_PROTECTED));
}

static void back_with_another_size(void **state)
{
	steer.probe_err = -ENODEV;
	run_for(2 * INTERVAL);
	steer.status.size = 2 * SIZE;
	run_for(2 * INTERVAL);
	assert_int_equal(view()->size, SIZE);
	steer.probe_err = 0;
	run_for(2 * INTERVAL);
	assert_int_equal(view()->size, 2 * SIZE);
	expect_told(1, 1, 0);
	expect_events({UNIT_EVENT_LOST, 1}, {UNIT_EVENT_BACK, 1}, {UNIT_EVENT_GREW, 1});
}

static void what_cannot_be_found_out_changes_nothing(void **state)
{
	steer.status.read_only = true;
	steer.status.size = 2 * SIZE;
	steer.probe_err = -EACCES;
	run_for(3 * INTERVAL);
	assert_int_equal(view()->generation, 1);
	assert_int_equal(unit_usage(unit).available, 2000);
	expect_events({0, 0});
}

static void read_only_and_writable(void **state)
{
	steer.status.read_only = true;
	steer.io_err[IO_WRITE] = -EPERM; /* as an immutable file has it */
	assert_int_equal(io(IO_WRITE), -EROFS);
	run_for(SECOND / 2);
	assert_true(flag(UNIT_WRITE_PROTECTED));
	expect_told(0, 0, 1);
	expect_events({UNIT_EVENT_READ_ONLY, 1});
	run_for(3 * INTERVAL);
	steer.status.read_only = false;
	steer.io_err[IO_WRITE] = 0;
	run_for(2 * INTERVAL);
	assert_int_equal(io(IO_WRITE), 0);
	expect_told(0, 0, 2);
	expect_events({UNIT_EVENT_READ_ONLY, 1}, {UNIT_EVENT_WRITABLE, 1});
}

struct control {
	struct unit_op op;
	bool done;
	int err;
};

static void control_done(struct unit_op *op, int err)
{
	struct control *c = container_of(op, struct control, op);

	assert_ptr_equal(loop_self(), op->loop);
	c->done = true;
	c->err = err;
}

static void control_init(struct control *c)
{
	*c = (struct control){
		.op = {.unit = unit, .loop = loop_set_at(set, 0), .done = control_done}};
}

static int control_run(struct control *c)
{
	while (!c->done)
		assert_true(sim_step(set));
	return c->err;
}

static int protect(enum unit_protection protection)
{
	struct control c;

	control_init(&c);
	unit_protect(&c.op, protection);
	return control_run(&c);
}

/* Two reasons, and each ends by itself. */
static void asked_for_and_necessary(void **state)
{
	assert_int_equal(protect(UNIT_READ_ONLY), 0);
	assert_int_equal(io(IO_WRITE), -EROFS);
	expect_told(0, 0, 1);
	steer.status.read_only = true;
	run_for(2 * INTERVAL);
	expect_told(0, 0, 1); /* no news for clients */
	expect_events({UNIT_EVENT_READ_ONLY, 1});
	assert_int_equal(protect(UNIT_READ_WRITE), -EROFS);
	steer.status.read_only = false;
	run_for(2 * INTERVAL);
	assert_true(flag(UNIT_WRITE_PROTECTED)); /* still asked for */
	expect_told(0, 0, 1);
	expect_events({UNIT_EVENT_READ_ONLY, 1});
	assert_int_equal(protect(UNIT_READ_ONLY), 0);
	expect_told(0, 0, 1);
	assert_int_equal(protect(UNIT_READ_WRITE), 0);
	expect_told(0, 0, 2);
	assert_int_equal(io(IO_WRITE), 0);
	assert_int_equal(protect(UNIT_READ_WRITE), 0);
	expect_told(0, 0, 2);
}

/* What was never writable is no event, and stays so. */
static void opened_read_only(void **state)
{
	stop_and_drop();
	make_unit(true);
	start();
	steer.status.read_only = true;
	run_for(2 * INTERVAL);
	steer.status.read_only = false;
	run_for(2 * INTERVAL);
	assert_true(flag(UNIT_WRITE_PROTECTED));
	assert_int_equal(io(IO_WRITE), -EROFS);
	assert_int_equal(protect(UNIT_READ_WRITE), -EROFS);
	assert_int_equal(view()->generation, 1);
	expect_told(0, 0, 0);
	expect_events({0, 0});
}

/* Of any store, whether it notices itself or not: for ever. */
static void failed_flush(void **state)
{
	steer.io_err[IO_FLUSH] = -EIO;
	assert_int_equal(io(IO_FLUSH), -EIO);
	steer.io_err[IO_FLUSH] = 0;
	assert_int_equal(io(IO_FLUSH), -EIO);
	assert_int_equal(io(IO_WRITE), -EROFS);
	assert_int_equal(io(IO_DISCARD), -EROFS);
	assert_int_equal(io(IO_READ), 0);
	run_for(SECOND / 2);
	assert_true(flag(UNIT_WRITE_PROTECTED));
	expect_told(0, 0, 1);
	expect_events({UNIT_EVENT_FLUSH_FAILED, 1});
	steer.status.read_only = true;
	run_for(2 * INTERVAL);
	steer.status.read_only = false;
	run_for(2 * INTERVAL);
	assert_int_equal(io(IO_WRITE), -EROFS);
	assert_int_equal(io(IO_FLUSH), -EIO);
	assert_int_equal(protect(UNIT_READ_WRITE), -EROFS);
	expect_told(0, 0, 1);
	expect_events({UNIT_EVENT_FLUSH_FAILED, 1});
}

/* Also of one that cannot say how it is, or is gone. */
static void failed_flush_is_all_that_is_known(void **state)
{
	static const int errors[] = {-EACCES, -ENODEV};

	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		bool lost = errors[i] == -ENODEV;

		steer.status.read_only = steer.status.unlinked = true; /* not to be believed */
		steer.probe_err = errors[i];
		steer.io_err[IO_FLUSH] = -EIO;
		assert_int_equal(io(IO_FLUSH), -EIO);
		run_for(2 * INTERVAL);
		assert_true(flag(UNIT_WRITE_PROTECTED));
		assert_int_equal(flag(UNIT_MISSING), lost);
		expect_told(0, 0, 1);
		expect_events({UNIT_EVENT_FLUSH_FAILED, 1}, {UNIT_EVENT_LOST, lost});
		steer.probe_err = 0;
		steer.status.read_only = steer.status.unlinked = false;
		run_for(2 * INTERVAL);
		assert_true(flag(UNIT_WRITE_PROTECTED));
		expect_told(0, lost, 1);
		expect_events({UNIT_EVENT_FLUSH_FAILED, 1}, {UNIT_EVENT_LOST, lost},
			      {UNIT_EVENT_BACK, lost});
		stop_and_drop();
		make_unit(false);
		start();
		run_for(SECOND);
	}
}

/* Nothing was lost, so nothing must stay. */
static void flush_of_a_lost_disk(void **state)
{
	steer.io_err[IO_FLUSH] = -ENODEV;
	steer.probe_err = -ENODEV;
	assert_int_equal(io(IO_FLUSH), -ENODEV);
	run_for(SECOND);
	steer.io_err[IO_FLUSH] = 0;
	steer.probe_err = 0;
	run_for(2 * INTERVAL);
	assert_int_equal(io(IO_FLUSH), 0);
	assert_int_equal(io(IO_WRITE), 0);
}

static void store_says_a_flush_failed(void **state)
{
	steer.status.read_only = true;
	run_for(2 * INTERVAL);
	steer.status.flush_failed = true;
	run_for(2 * INTERVAL);
	expect_told(0, 0, 1);
	expect_events({UNIT_EVENT_READ_ONLY, 1}, {UNIT_EVENT_FLUSH_FAILED, 1});
}

static void unlinked(void **state)
{
	steer.status.unlinked = true;
	run_for(5 * INTERVAL);
	assert_int_equal(view()->generation, 1);
	assert_int_equal(io(IO_WRITE), 0);
	expect_events({UNIT_EVENT_UNLINKED, 1});
}

/* A disk full of errors is not asked with each of them. */
static void errors_by_the_thousand(void **state)
{
	unsigned before = steer.nprobes;
	uint64_t from = sim_now_ns(set);

	steer.io_err[IO_READ] = -EIO;
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(io_at(i % NLOOPS, IO_READ, 0), -EIO);
	assert_true(steer.nprobes - before <= 2 + (sim_now_ns(set) - from) / (SECOND / 10));
	run_for(SECOND);
	assert_true(steer.nprobes > before);
	assert_int_equal(view()->generation, 1);
}

/* Asked while it looks, it looks again: soon, and not without a pause. */
static void asked_while_it_looks(void **state)
{
	unsigned before = steer.nprobes;

	steer.asks_again = true;
	unit_watch_now(unit);
	run_for(SECOND);
	assert_in_range(steer.nprobes - before, 9, 11);
	steer.asks_again = false;
	run_for(SECOND / 2);
	before = steer.nprobes;
	run_for(SECOND);
	assert_int_equal(steer.nprobes, before);
}

static void resize(void **state)
{
	static const struct {
		uint64_t have, ask;
		int resize_err, err;
		uint64_t size;
	} rows[] = {
		{SIZE, 0, 0, 0, SIZE},
		{SIZE + 4096, 0, 0, 0, SIZE + 4096},
		{SIZE + 4096, SIZE + 8192, 0, 0, SIZE + 8192},
		{SIZE + 8192, SIZE, 0, -ERANGE, SIZE + 8192},
		{SIZE + 8192, 1, 0, -ERANGE, SIZE + 8192},
		{SIZE, 0, 0, -ERANGE, SIZE + 8192}, /* it shrank by itself */
		{SIZE + 8192, 2 * SIZE, -EFBIG, -ENOSPC, SIZE + 8192},
		{SIZE + 8192, 2 * SIZE, 0, 0, 2 * SIZE},
	};

	stop_and_drop(); /* before the watch sees it */
	make_unit(false);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct control c;

		steer.status.size = rows[i].have;
		steer.resize_err = rows[i].resize_err;
		control_init(&c);
		unit_resize(&c.op, rows[i].ask);
		assert_int_equal(control_run(&c), rows[i].err);
		assert_int_equal(view()->size, rows[i].size);
	}
	expect_told(3, 0, 0);
	start();
}

static void keep_sizes(struct unit_op *op)
{
	unit_op_acted(op, 0);
}

/* I/O that hangs is no obstacle: nobody uses what was not there. */
static void resize_waits_for_no_io(void **state)
{
	struct control c;
	struct job j;

	steer.hold = true;
	job_start(&j, 0, IO_READ, 0);
	run_for(1000);
	control_init(&c);
	unit_resize(&c.op, 2 * SIZE);
	assert_int_equal(control_run(&c), 0);
	assert_int_equal(view()->size, 2 * SIZE);
	expect_told(1, 0, 0);
	io_end(steer.held, 0);
	while (!j.done)
		assert_true(sim_step(set));
	unit_task_end(&j.ut);
}

/* A QUIESCE is in the way of the watch, and of a resize. */
static void grows_behind_a_quiesce(void **state)
{
	struct control c, q;
	struct job j;

	steer.hold = true;
	job_start(&j, 0, IO_READ, 0);
	control_init(&q);
	q.op.act = keep_sizes;
	unit_quiesce(&q.op);
	steer.status.size = 2 * SIZE;
	run_for(3 * INTERVAL);
	control_init(&c);
	unit_resize(&c.op, 3 * SIZE);
	run_for(3 * INTERVAL);
	assert_int_equal(view()->size, SIZE);
	assert_false(c.done);
	io_end(steer.held, 0);
	assert_int_equal(control_run(&q), 0);
	assert_int_equal(control_run(&c), 0);
	run_for(INTERVAL);
	assert_int_equal(view()->size, 3 * SIZE);
	unit_task_end(&j.ut);
}

/* Several at once, and none of them is lost. */
static void resizes_at_once(void **state)
{
	struct control c[8];

	for (unsigned i = 0; i < ARRAY_LEN(c); i++) {
		control_init(&c[i]);
		c[i].op.loop = loop_set_at(set, i % NLOOPS);
		unit_resize(&c[i].op, (i + 2) * SIZE);
	}
	for (unsigned i = 0; i < ARRAY_LEN(c); i++) {
		int err = control_run(&c[i]);

		assert_true(err == 0 || err == -ERANGE); /* a larger one came first */
	}
	run_for(SECOND);
	assert_int_equal(view()->size, 9 * SIZE);
	assert_int_equal(steer.status.size, 9 * SIZE);
}

/* Stopped while its PUBLISH waits behind something that hangs: it does not wait for that. */
static void stops_behind_a_quiesce(void **state)
{
	struct control q;
	struct job j;

	steer.hold = true;
	job_start(&j, 0, IO_READ, 0);
	control_init(&q);
	q.op.act = keep_sizes;
	unit_quiesce(&q.op);
	steer.status.size = 2 * SIZE;
	run_for(3 * INTERVAL);
	unit_watch_stop(unit, loop_set_at(set, 2), has_stopped, &stopped);
	run_for(INTERVAL);
	assert_int_equal(stopped, 1);
	io_end(steer.held, 0);
	assert_int_equal(control_run(&q), 0);
	unit_task_end(&j.ut);
	drop_unit();
	make_unit(false);
	start();
}

/* After any number of steps, with any kind of news, in many orders. */
static void stops_at_any_moment(void **state)
{
	stop_and_drop();
	for (unsigned i = 0; i < 2000; i++) {
		sim_reset(set, i);
		make_unit(false);
		steer.status.size += i % 3 == 0 ? SIZE : 0;
		steer.status.read_only = i % 5 == 0;
		steer.probe_err = i % 7 == 0 ? -ENODEV : 0;
		if (i % 4 == 0) {
			steer.io_err[IO_FLUSH] = -EIO;
			io(IO_FLUSH);
		}
		start();
		sim_run(set, i / 20);
		if (i % 11 == 0)
			unit_watch_now(unit);
		if (i != 1999)
			stop_and_drop();
	}
}

/* Whatever happens in whatever order: in the end clients see what is. */
static void ends_up_with_the_truth(void **state)
{
	bool failed;

	stop_and_drop();
	for (unsigned seed = 0; seed < 200; seed++) {
		sim_reset(set, seed);
		make_unit(false);
		start();
		for (unsigned i = 0; i < 40; i++) {
			steer.io_err[IO_FLUSH] = seed % 3 == 0 && i > 20 ? -EIO : 0;
			if (sim_random(set, 4) == 0)
				io(IO_FLUSH);
			steer.status.size += sim_random(set, 8) == 0 ? 8192 : 0;
			steer.status.read_only = sim_random(set, 3) == 0;
			steer.probe_err = sim_random(set, 3) == 0 ? -ENODEV : 0;
			if (sim_random(set, 2) == 0)
				unit_watch_now(unit);
			if (sim_random(set, 8) == 0)
				protect(sim_random(set, 2) == 0 ? UNIT_READ_ONLY : UNIT_READ_WRITE);
			run_for(sim_random(set, SECOND));
		}
		run_for(2 * INTERVAL);
		assert_int_equal(flag(UNIT_MISSING), steer.probe_err != 0);
		steer.probe_err = 0;
		steer.status.read_only = false;
		run_for(2 * INTERVAL);
		failed = bdev_flush_failed(unit_bdev(unit));
		assert_int_equal(protect(UNIT_READ_WRITE), failed ? -EROFS : 0);
		assert_int_equal(flag(UNIT_MISSING | UNIT_WRITE_PROTECTED), failed);
		assert_int_equal(told[UNIT_EVENT_FLUSH_FAILED], failed);
		assert_int_equal(view()->size, steer.status.size);
		assert_int_equal(told[UNIT_EVENT_LOST], told[UNIT_EVENT_BACK]);
		assert_int_equal(actors[0].medium, told[UNIT_EVENT_BACK]);
		assert_int_equal(actors[2].size, told[UNIT_EVENT_GREW]);
		assert_int_equal(actors[1].protection % 2, failed);
		if (seed != 199)
			stop_and_drop();
	}
}

/* A unit whose loops never ran can be taken apart. */
static void never_ran(void **state)
{
	stop_and_drop();
	make_unit(false);
	start();
	drop_unit();
	loop_set_destroy(set);
	assert_int_equal(sim_create(&set, NLOOPS, 1), 0);
	make_unit(false);
	start();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_new),
		TEST(unknown_usage),
		TEST(grows),
		TEST(grows_when_asked),
		TEST(grows_at_the_second_attempt),
		TEST(grows_while_io_hangs),
		TEST(never_shrinks),
		TEST(lost_and_back),
		TEST(back_with_another_size),
		TEST(what_cannot_be_found_out_changes_nothing),
		TEST(read_only_and_writable),
		TEST(asked_for_and_necessary),
		TEST(opened_read_only),
		TEST(failed_flush),
		TEST(failed_flush_is_all_that_is_known),
		TEST(flush_of_a_lost_disk),
		TEST(store_says_a_flush_failed),
		TEST(unlinked),
		TEST(errors_by_the_thousand),
		TEST(asked_while_it_looks),
		TEST(resize),
		TEST(resize_waits_for_no_io),
		TEST(grows_behind_a_quiesce),
		TEST(resizes_at_once),
		TEST(stops_behind_a_quiesce),
		TEST(stops_at_any_moment),
		TEST(ends_up_with_the_truth),
		TEST(never_ran),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
