/*
 * Range locks that come and go, and views that are kept, on eight real loops and real workers.
 *
 * Every loop writes here and there, and now and then updates a cell of the disk as unit.h wants it:
 * armed, locked, looked, read, written. The store counts what was done to each cell, so it knows
 * when a write came in between. A clock on the steward's loop makes believe that the time after
 * which the locks are disarmed has passed, over and over.
 */
#include "loop_test.h"

#include "store/impl.h"
#include "unit/impl.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>

#define NLOOPS   8
#define STEWARD  3
#define NCELLS   4
#define CELL     (64 * 1024)
#define WRITERS  2 /* tasks of each loop */
#define UPDATES  200
#define PAUSE_US 400
#define WAVE_US  4000
#define US       UINT64_C(1000)

struct task {
	struct unit_task ut;
	struct unit_io uio;
	struct iovec iov;
	struct loop_timer timer; /* its time in the store, or a pause */
	struct loop_msg step;
	struct actor *actor;
	bool update;
	unsigned seen; /* UPDATE: what was done to the cell when it was read */
};

struct actor {
	struct unit_attach ua;
	struct unit_op op;
	struct range_lock lock;
	struct loop_msg start;
	uint64_t random, generation;
	unsigned updates, running;
	uint8_t data[4096];
	struct task writers[WRITERS], updater;
};

static struct cell {
	atomic_uint changes, writing;
} cells[NCELLS];

static struct loop_set *set;
static struct unit *unit;
static struct actor actors[NLOOPS];
static atomic_uint left, updating, arms, stale, anew, writes;

static uint64_t rnd(struct actor *a)
{
	a->random ^= a->random << 13;
	a->random ^= a->random >> 7;
	a->random ^= a->random << 17;
	return a->random >> 11;
}

static void pause_then(struct task *t, uint64_t us, void (*then)(struct loop_timer *timer))
{
	loop_timer_init(&t->timer, t->actor->ua.loop, then);
	CHECK(loop_timer_start(&t->timer, us * US) == 0);
}

/* ---- The store ---- */

static struct cell *cell_of(const struct io *io)
{
	return &cells[io->off / CELL];
}

static void leave_store(struct loop_timer *timer)
{
	struct task *t = container_of(timer, struct task, timer);
	struct io *io = &t->uio.io;

	if (io->op == IO_WRITE) {
		atomic_fetch_add(&cell_of(io)->changes, 1);
		atomic_fetch_sub(&cell_of(io)->writing, 1);
	}
	io_end(io, 0);
}

/* A write may change its cell at any time between its arrival and its end. */
static void take(struct store *s, struct io *io)
{
	struct task *t = container_of(io, struct task, uio.io);
	struct cell *cell = cell_of(io);

	if (t->update)
		CHECK(atomic_load(&cell->writing) == 0);
	if (t->update && io->op == IO_READ)
		t->seen = atomic_load(&cell->changes);
	if (t->update && io->op == IO_WRITE)
		CHECK(atomic_load(&cell->changes) == t->seen);
	if (io->op == IO_WRITE) {
		atomic_fetch_add(&cell->writing, 1);
		atomic_fetch_add(&cell->changes, 1);
		atomic_fetch_add(&writes, 1);
	}
	pause_then(t, rnd(t->actor) % 40, leave_store);
}

static int open_counting(struct store **out, struct loop_set *loops,
			 const struct store_type *const *types, char *rest,
			 const struct store_config *config, struct diag *d)
{
	*out = calloc(1, sizeof(**out));
	(*out)->info = (struct store_info){.size = NCELLS * CELL, .logical_block = 512};
	return 0;
}

static void close_counting(struct store *s)
{
	free(s);
}

static const struct store_type counting = {
	.name = "counting",
	.open = open_counting,
	.close = close_counting,
	.read = take,
	.write = take,
};

/* ---- Tasks ---- */

static void actor_ended(struct actor *a)
{
	if (--a->running == 0 && atomic_fetch_sub(&left, 1) == 1)
		loop_set_stop(set);
}

static void task_cancel(struct unit_task *ut)
{
	CHECK(false);
}

static void task_begin(struct task *t)
{
	struct actor *a = t->actor;

	t->ut.nexus_id = a->ua.nexus_id;
	t->ut.cancel = task_cancel;
	unit_task_begin(a->ua.channel, &t->ut);
	t->iov = (struct iovec){.iov_base = a->data, .iov_len = sizeof(a->data)};
	t->uio.io.iov = &t->iov;
	t->uio.io.niov = 1;
	t->uio.io.off = rnd(a) % NCELLS * CELL;
	t->uio.io.len = sizeof(a->data);
	t->uio.task = &t->ut;
}

static void submit(struct task *t, enum io_op op, unsigned flags, uint64_t generation)
{
	t->uio.io.op = op;
	t->uio.io.flags = flags;
	t->uio.generation = generation;
	unit_submit(&t->uio);
}

/* ---- Writers, until the last update is made ---- */

static void writer_step(struct loop_timer *timer)
{
	struct task *t = container_of(timer, struct task, timer);

	if (atomic_load(&updating) == 0) {
		actor_ended(t->actor);
		return;
	}
	task_begin(t);
	submit(t, IO_WRITE, 0, 0);
}

static void writer_done(struct unit_io *uio)
{
	struct task *t = container_of(uio, struct task, uio);

	CHECK(uio->io.result == 0);
	unit_task_end(&t->ut);
	pause_then(t, rnd(t->actor) % 20, writer_step);
}

/* ---- Updates ---- */

static void update_lock(struct actor *a);

static bool is_armed(const struct actor *a)
{
	return (channel_view(a->ua.channel)->flags & UNIT_LOCKS_ARMED) != 0;
}

static void update_armed(struct unit_op *op, int err)
{
	CHECK(err == 0);
	update_lock(container_of(op, struct actor, op));
}

static void update_arm(struct actor *a)
{
	atomic_fetch_add(&arms, 1);
	a->op = (struct unit_op){.unit = unit,
				 .loop = a->ua.loop,
				 .nexus_id = a->ua.nexus_id,
				 .task = &a->updater.ut,
				 .done = update_armed};
	unit_arm(&a->op);
}

static void update_look(struct actor *a)
{
	if (!is_armed(a)) {
		atomic_fetch_add(&anew, 1);
		range_unlock(&a->lock);
		update_arm(a);
		return;
	}
	a->generation = channel_view(a->ua.channel)->generation;
	submit(&a->updater, IO_READ, UNIT_IO_LOCKED, a->generation);
}

static void update_granted(struct range_lock *lock)
{
	update_look(container_of(lock, struct actor, lock));
}

static void update_lock(struct actor *a)
{
	a->lock = (struct range_lock){.off = a->updater.uio.io.off,
				      .len = a->updater.uio.io.len,
				      .exclusive = true,
				      .loop = a->ua.loop,
				      .granted = update_granted};
	if (range_lock(unit_bdev(unit), &a->lock))
		update_look(a);
}

static void update_begin(struct loop_timer *timer)
{
	struct actor *a = container_of(timer, struct task, timer)->actor;

	task_begin(&a->updater);
	if (is_armed(a))
		update_lock(a);
	else
		update_arm(a);
}

/* In waves with some silence in between, in which the locks are disarmed, or nearly. */
static uint64_t until_next_us(struct actor *a)
{
	uint64_t now_us = loop_now_ns(a->ua.loop) / US;

	return WAVE_US - now_us % WAVE_US + rnd(a) % (WAVE_US * 2 / 3);
}

static void update_over(struct actor *a)
{
	unit_task_end(&a->updater.ut);
	if (--a->updates == 0) {
		atomic_fetch_sub(&updating, 1);
		actor_ended(a);
		return;
	}
	pause_then(&a->updater, until_next_us(a), update_begin);
}

static void update_done(struct unit_io *uio)
{
	struct actor *a = container_of(uio, struct task, uio)->actor;

	if (uio->io.op == IO_READ && uio->io.result == -ESTALE) {
		atomic_fetch_add(&stale, 1);
		update_look(a);
		return;
	}
	CHECK(uio->io.result == 0);
	if (uio->io.op == IO_READ) {
		submit(&a->updater, IO_WRITE, UNIT_IO_LOCKED, 0);
		return;
	}
	range_unlock(&a->lock);
	update_over(a);
}

/* ---- Time passes quickly ---- */

static struct loop_timer hurry;
static struct loop_msg hurry_start;

static void hurry_up(struct loop_timer *timer)
{
	if (loop_timer_running(&unit->arming.timer))
		CHECK(loop_timer_start(&unit->arming.timer, 0) == 0);
	CHECK(loop_timer_start(timer, 150 * US) == 0);
}

static void hurry_begin(struct loop_msg *msg)
{
	loop_timer_init(&hurry, loop_set_at(set, STEWARD), hurry_up);
	hurry_up(&hurry);
}

/* ---- Life ---- */

static void told(struct unit_attach *ua, unsigned changes, uint64_t origin)
{
	CHECK(false); /* it is nobody's business */
}

static void attached(struct unit_attach *ua, int err)
{
	struct actor *a = container_of(ua, struct actor, ua);

	CHECK(err == 0);
	a->running = WRITERS + 1;
	a->updates = UPDATES;
	a->updater.actor = a;
	a->updater.update = true;
	a->updater.uio.done = update_done;
	pause_then(&a->updater, rnd(a) % PAUSE_US, update_begin);
	for (unsigned i = 0; i < WRITERS; i++) {
		a->writers[i].actor = a;
		a->writers[i].uio.done = writer_done;
		pause_then(&a->writers[i], rnd(a) % PAUSE_US, writer_step);
	}
}

static void actor_start(struct loop_msg *msg)
{
	unit_attach(unit, &container_of(msg, struct actor, start)->ua);
}

static void start_actors(unsigned n, void (*attached_fn)(struct unit_attach *ua, int err))
{
	for (unsigned i = 0; i < n; i++) {
		struct actor *a = &actors[i];

		*a = (struct actor){.random = i + 1};
		a->ua.nexus_id = i + 1;
		a->ua.loop = loop_set_at(set, i);
		a->ua.attached = attached_fn;
		a->ua.changed = told;
		a->start.run = actor_start;
		loop_post(a->ua.loop, &a->start);
	}
}

static void start_updates(void *arg)
{
	start_actors(NLOOPS, attached);
	hurry_start.run = hurry_begin;
	loop_post(loop_set_at(set, STEWARD), &hurry_start);
}

static void make_unit(void)
{
	static const struct store_type *const types[] = {&counting, NULL};
	static const struct unit_identity identity = {.serial = "test"};
	struct bdev_config bconfig = {.block_size = 512};
	struct store_config sconfig = {.size = 0};
	struct store *store;
	struct bdev *bdev;

	set = test_set(NLOOPS, LOOP_DISK_AUTO);
	assert_int_equal(store_open(&store, set, types, "counting:", &sconfig, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bconfig, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &identity, STEWARD), 0);
}

static void end_unit(unsigned nactors)
{
	for (unsigned i = 0; i < nactors; i++)
		unit_detach(&actors[i].ua);
	unit_destroy(unit);
	loop_set_destroy(set);
}

static void updates_while_locks_come_and_go(void **state)
{
	make_unit();
	left = updating = NLOOPS;
	test_run(set, start_updates, NULL);
	assert_int_equal(range_lock_use(unit_bdev(unit)).held, 0);
	assert_true(range_lock_use(unit_bdev(unit)).granted >= NLOOPS * UPDATES);
	assert_true(arms > 20);
	assert_true(unit->view->generation > 20);
	assert_true(writes > NLOOPS * UPDATES);
	print_message("%u arms, %llu views, %u stale, %u anew, %u writes\n", arms,
		      (unsigned long long)unit->view->generation, stale, anew, writes);
	end_unit(NLOOPS);
}

/* ---- The steward goes on while a worker keeps a view ---- */

static struct kept {
	struct unit_op publish, behind, abort;
	struct task victim;
	sem_t aborted; /* the worker waits for it */
	bool published, waited;
} kept;

static int keep_until_aborted(struct unit_op *op, const struct unit_view *next)
{
	CHECK(loop_self() == NULL && next->generation == 2 && next->size == CELL);
	while (sem_wait(&kept.aborted) != 0)
		CHECK(errno == EINTR);
	return 0;
}

static int shrink(struct unit_op *op, struct unit_view *next)
{
	next->size = CELL;
	return 0;
}

static int shrink_more(struct unit_op *op, struct unit_view *next)
{
	CHECK(next->size == CELL);
	next->size = CELL / 2;
	return 0;
}

static void publish_done(struct unit_op *op, int err)
{
	CHECK(err == 0 && kept.waited);
	CHECK(channel_view(actors[0].ua.channel)->size <= CELL);
	kept.published = true;
}

static void behind_done(struct unit_op *op, int err)
{
	CHECK(err == 0 && kept.published);
	loop_set_stop(set);
}

static void abort_done(struct unit_op *op, int err)
{
	CHECK(err == 0 && !kept.published);
	CHECK(channel_view(actors[0].ua.channel)->generation == 1);
	kept.waited = true;
	sem_post(&kept.aborted);
}

static bool is_victim(const struct unit_op *op, const struct unit_task *t)
{
	return t == &kept.victim.ut;
}

static void victim_cancel(struct unit_task *ut)
{
	unit_task_end(ut);
}

static struct unit_op op_of_loop_0(void (*done)(struct unit_op *op, int err))
{
	return (struct unit_op){.unit = unit, .loop = loop_set_at(set, 0), .done = done};
}

static void keep_something(struct unit_attach *ua, int err)
{
	struct actor *a = container_of(ua, struct actor, ua);

	CHECK(err == 0);
	kept.victim.ut = (struct unit_task){.nexus_id = 1, .cancel = victim_cancel};
	unit_task_begin(a->ua.channel, &kept.victim.ut);
	kept.publish = op_of_loop_0(publish_done);
	kept.publish.edit = shrink;
	kept.publish.keep = keep_until_aborted;
	unit_publish(&kept.publish);
	kept.behind = op_of_loop_0(behind_done);
	kept.behind.edit = shrink_more;
	unit_publish(&kept.behind);
	kept.abort = op_of_loop_0(abort_done);
	kept.abort.matches = is_victim;
	unit_abort(&kept.abort);
}

static void start_keeping(void *arg)
{
	start_actors(1, keep_something);
}

static void the_steward_does_not_wait(void **state)
{
	make_unit();
	assert_int_equal(sem_init(&kept.aborted, 0, 0), 0);
	test_run(set, start_keeping, NULL);
	assert_int_equal(unit->view->size, CELL / 2);
	assert_int_equal(unit->view->generation, 3);
	sem_destroy(&kept.aborted);
	end_unit(1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(updates_while_locks_come_and_go),
		cmocka_unit_test(the_steward_does_not_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
