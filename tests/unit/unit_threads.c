/*
 * A unit under eight real loops at once: I/O, PUBLISH, ABORT and QUIESCE of all of them together.
 * The promises are judged as in the simulator's test, as far as threads let one see; the thread
 * sanitizer sees the rest.
 */
#include "loop_test.h"

#include "store/impl.h"
#include "unit/unit.h"

#include <errno.h>
#include <stdatomic.h>

#define NLOOPS    8
#define PER       4     /* tasks at a time on each loop */
#define PAUSE_NS  30000 /* after a refusal, which else would go round and round */
#define NOPS      1000  /* control operations of each loop */
#define VIEWS_MAX (NLOOPS * NOPS + 2)
#define DISK      (1024 * 1024)

struct task {
	struct unit_task ut;
	struct unit_io uio;
	struct iovec iov;
	struct loop_timer timer; /* its time in the store, or the pause after it */
	struct loop_msg step;
	struct actor *actor;
	bool busy;
};

/* One nexus on each loop. */
struct actor {
	struct unit_attach ua;
	struct unit_op op;
	struct loop_msg start;
	uint64_t random, victim, generation;
	unsigned nops, running;
	/* Of its operation; chosen before it is submitted, because another loop reads them. */
	uint64_t wanted_holder;
	bool fails, keep_fails;
	uint8_t data[16 * 1024];
	struct task tasks[PER];
};

static struct loop_set *set;
static struct unit *unit;
static struct actor actors[NLOOPS];
static atomic_uint left, operating, stored, in_store, acting, timed_out, aborted, refused, kept;
/* By generation; who held the disk in it. Written on the steward's loop before it is published. */
static atomic_uint_fast64_t holders[VIEWS_MAX], newest, answered;
static uint64_t rnd(struct actor *a)
{
	a->random ^= a->random << 13;
	a->random ^= a->random >> 7;
	a->random ^= a->random << 17;
	return a->random >> 11;
}

/* ---- The store ---- */

static bool may_pass(uint64_t nexus_id)
{
	for (uint64_t g = answered; g <= newest; g++)
		if (holders[g] == 0 || holders[g] == nexus_id)
			return true;
	return false;
}

static void leave_store(struct loop_timer *timer)
{
	struct task *t = container_of(timer, struct task, timer);

	atomic_fetch_sub(&in_store, 1);
	io_end(&t->uio.io, 0);
}

static void take(struct store *s, struct io *io)
{
	struct task *t = container_of(io, struct task, uio.io);
	struct actor *a = t->actor;
	uint64_t us = rnd(a) % 4 == 0 ? rnd(a) % 200 : 0;

	CHECK(loop_self() == a->ua.loop && !t->ut.aborted);
	CHECK(acting == 0);
	CHECK(may_pass(t->ut.nexus_id));
	atomic_fetch_add(&in_store, 1);
	atomic_fetch_add(&stored, 1);
	loop_timer_init(&t->timer, io->loop, leave_store);
	if (us == 0)
		leave_store(&t->timer);
	else
		CHECK(loop_timer_start(&t->timer, us * 1000) == 0);
}

static int open_counting(struct store **out, struct loop_set *loops,
			 const struct store_type *const *types, char *rest,
			 const struct store_config *config, struct diag *d)
{
	*out = calloc(1, sizeof(**out));
	(*out)->info = (struct store_info){.size = DISK, .logical_block = 512};
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
	.flush = take,
};

/* ---- Tasks ---- */

static void actor_ended(struct actor *a)
{
	if (--a->running == 0 && atomic_fetch_sub(&left, 1) == 1)
		loop_set_stop(set);
}

/* Tasks go on until the last control operation of all has ended. */
static void task_again(struct loop_timer *timer)
{
	struct task *t = container_of(timer, struct task, timer);

	if (operating == 0)
		actor_ended(t->actor);
	else
		loop_post(t->actor->ua.loop, &t->step);
}

static void task_end(struct task *t, int err)
{
	unit_task_end(&t->ut);
	loop_timer_init(&t->timer, t->actor->ua.loop, task_again);
	if (err == 0)
		task_again(&t->timer);
	else
		CHECK(loop_timer_start(&t->timer, PAUSE_NS) == 0);
}

static void io_done(struct unit_io *uio)
{
	struct task *t = container_of(uio, struct task, uio);
	int err = uio->io.result;

	CHECK(err == 0 || err == -EACCES || err == -ESTALE || (err == -ECANCELED && t->ut.aborted));
	if (err != 0)
		atomic_fetch_add(&refused, 1);
	t->busy = false;
	task_end(t, err);
}

static void cancel(struct unit_task *ut)
{
	struct task *t = container_of(ut, struct task, ut);

	CHECK(ut->aborted);
	atomic_fetch_add(&aborted, 1);
	if (t->busy && unit_io_cancel(&t->uio)) {
		t->busy = false;
		task_end(t, -ECANCELED);
	}
}

static void task_step(struct loop_msg *msg)
{
	static const enum io_op ops[] = {IO_WRITE, IO_WRITE, IO_READ, IO_FLUSH};
	struct task *t = container_of(msg, struct task, step);
	struct actor *a = t->actor;

	t->ut.nexus_id = a->ua.nexus_id;
	t->ut.cancel = cancel;
	unit_task_begin(a->ua.channel, &t->ut);
	t->iov = (struct iovec){.iov_base = a->data, .iov_len = sizeof(a->data)};
	t->uio.io.op = ops[rnd(a) % ARRAY_LEN(ops)];
	t->uio.io.flags = 0;
	t->uio.io.off = rnd(a) % 60 * sizeof(a->data);
	t->uio.io.len = sizeof(a->data);
	t->uio.io.iov = &t->iov;
	t->uio.io.niov = 1;
	t->uio.task = &t->ut;
	t->uio.done = io_done;
	t->uio.generation = rnd(a) % 2 == 0 ? 0 : channel_view(a->ua.channel)->generation;
	t->busy = true;
	unit_submit(&t->uio);
}

/* ---- Control operations ---- */

static void next_op(struct actor *a);

/* From here on I/O may be let through by this view. */
static void will_be_seen(struct actor *a, uint64_t g, const struct unit_view *v)
{
	holders[g] = v->holder;
	newest = g;
	a->generation = g;
}

static int edit(struct unit_op *op, struct unit_view *next)
{
	struct actor *a = container_of(op, struct actor, op);
	uint64_t g = newest + 1;

	if (a->fails)
		return -EBUSY;
	next->holder = a->wanted_holder;
	/* Set and cleared by a QUIESCE only, as it must be. */
	if (op->act != NULL)
		next->flags ^= UNIT_LOCKS_ARMED;
	if (op->keep == NULL)
		will_be_seen(a, g, next);
	return 0;
}

/* On a worker thread, while the steward goes on. */
static int keep(struct unit_op *op, const struct unit_view *next)
{
	struct actor *a = container_of(op, struct actor, op);

	CHECK(loop_self() == NULL && next->generation == newest + 1);
	if (a->keep_fails)
		return -ENOSPC;
	will_be_seen(a, next->generation, next);
	atomic_fetch_add(&kept, 1);
	return 0;
}

static void act(struct unit_op *op)
{
	atomic_fetch_add(&acting, 1);
	CHECK(in_store == 0);
	atomic_fetch_sub(&acting, 1);
	unit_op_acted(op, 0);
}

static bool matches(const struct unit_op *op, const struct unit_task *t)
{
	return t->nexus_id == container_of(op, const struct actor, op)->victim;
}

static void op_done(struct unit_op *op, int err)
{
	struct actor *a = container_of(op, struct actor, op);
	uint64_t seen = answered;

	if (op->matches != NULL) {
		CHECK(err == 0);
	} else if (err == 0) {
		while (seen < a->generation &&
		       !atomic_compare_exchange_weak(&answered, &seen, a->generation))
			continue;
	} else {
		CHECK(err == -EBUSY || err == -ETIMEDOUT || err == -ECANCELED ||
		      (err == -ENOSPC && a->keep_fails));
		if (err == -ETIMEDOUT)
			atomic_fetch_add(&timed_out, 1);
	}
	next_op(a);
}

static void next_op(struct actor *a)
{
	struct unit_op *op = &a->op;

	if (a->nops-- == 0) {
		atomic_fetch_sub(&operating, 1);
		actor_ended(a);
		return;
	}
	*op = (struct unit_op){
		.unit = unit, .loop = a->ua.loop, .nexus_id = a->ua.nexus_id, .done = op_done};
	a->wanted_holder = rnd(a) % 4 != 0 ? 0 : 1 + rnd(a) % NLOOPS;
	a->fails = rnd(a) % 8 == 0;
	a->keep_fails = rnd(a) % 4 == 0;
	if (rnd(a) % 4 == 0)
		op->keep = keep;
	switch (rnd(a) % 4) {
	case 0:
		op->edit = edit;
		op->act = act;
		op->timeout_ns = rnd(a) % 2 == 0 ? 50000 : 100 * 1000000;
		unit_quiesce(op);
		break;
	case 1:
		op->edit = edit;
		op->changes = UNIT_CHANGED_SIZE;
		unit_publish(op);
		if (rnd(a) % 8 == 0)
			unit_op_cancel(op);
		break;
	default:
		op->matches = matches;
		a->victim = 1 + rnd(a) % NLOOPS;
		unit_abort(op);
		break;
	}
}

/* ---- Life ---- */

static void changed(struct unit_attach *ua, unsigned changes, uint64_t origin)
{
	CHECK(loop_self() == ua->loop && changes == UNIT_CHANGED_SIZE && origin <= NLOOPS);
}

static void attached(struct unit_attach *ua, int err)
{
	struct actor *a = container_of(ua, struct actor, ua);

	CHECK(err == 0 && loop_self() == ua->loop);
	a->running = PER + 1;
	a->nops = NOPS;
	for (unsigned i = 0; i < PER; i++) {
		struct task *t = &a->tasks[i];

		t->actor = a;
		t->step.run = task_step;
		loop_post(ua->loop, &t->step);
	}
	next_op(a);
}

static void actor_start(struct loop_msg *msg)
{
	struct actor *a = container_of(msg, struct actor, start);

	unit_attach(unit, &a->ua);
}

static void start(void *arg)
{
	for (unsigned i = 0; i < NLOOPS; i++) {
		struct actor *a = &actors[i];

		*a = (struct actor){.random = i + 1};
		a->ua.nexus_id = i + 1;
		a->ua.loop = loop_set_at(set, i);
		a->ua.attached = attached;
		a->ua.changed = changed;
		a->start.run = actor_start;
		loop_post(a->ua.loop, &a->start);
	}
}

static void detach_all(void)
{
	for (unsigned i = 0; i < NLOOPS; i++)
		unit_detach(&actors[i].ua);
}

static void all_at_once(void **state)
{
	static const struct store_type *const types[] = {&counting, NULL};
	static const struct unit_identity identity = {.serial = "test"};
	struct bdev_config bconfig = {.block_size = 512};
	struct store_config sconfig = {.size = 0};
	struct unit_stats stats;
	struct store *store;
	struct bdev *bdev;
	uint64_t ops = 0;

	set = test_set(NLOOPS, LOOP_DISK_AUTO);
	assert_int_equal(store_open(&store, set, types, "counting:", &sconfig, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bconfig, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &identity, 3), 0);
	newest = answered = 1;
	left = operating = NLOOPS;
	test_run(set, start, NULL);
	assert_int_equal(in_store, 0);
	assert_true(aborted > 100);
	assert_true(newest > 100);
	assert_true(kept > 100);
	assert_true(refused > 100);
	assert_true(timed_out > 0);
	unit_stats_read(unit, &stats);
	for (unsigned i = 0; i < IO_NOPS; i++)
		ops += stats.op[i].ops;
	assert_int_equal(ops, stored);
	assert_true(ops > 1000);
	detach_all();
	unit_destroy(unit);
	loop_set_destroy(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(all_at_once)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
