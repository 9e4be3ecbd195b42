/*
 * A unit step by step, on simulated loops: attaching, views, refusals, writing through, range locks
 * and their arming, views that are kept, operations that are each other's victims, counters. (What all orders of messages do is tests/sim/unit.c.)
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
#include <string.h>

#define NLOOPS 3
#define DISK   (64 * MiB)
#define MS     UINT64_C(1000000)

struct actor {
	struct unit_attach ua;
	struct loop_msg start;
	bool attached;
	unsigned told;
	uint64_t origin;
};

struct job {
	struct unit_task ut;
	struct unit_io uio;
	struct iovec iov;
	bool done, cancelled;
};

struct control {
	struct unit_op op;
	struct unit_view want;
	const struct job *victim;
	bool done, end_task;
	int err;
	/* Views that are kept. */
	bool edited, acted;
	unsigned kept;
	int keep_err;
	uint64_t before; /* the generation that everybody sees until it is kept */
};

static struct loop_set *set;
static struct unit *unit;
static struct actor actors[NLOOPS];
static uint8_t data[64 * 1024];

static void settle(void)
{
	sim_run(set, UINT64_MAX);
}

struct alarm_clock {
	struct loop_timer timer;
	bool rung;
};

static void alarm_rings(struct loop_timer *timer)
{
	container_of(timer, struct alarm_clock, timer)->rung = true;
}

static void pass_time(uint64_t ns)
{
	struct alarm_clock clock = {.rung = false};

	loop_timer_init(&clock.timer, loop_set_at(set, 0), alarm_rings);
	assert_int_equal(loop_timer_start(&clock.timer, ns), 0);
	while (!clock.rung)
		assert_true(sim_step(set));
}

/* ---- A store that writes down what it was asked for ---- */

static char asked[32]; /* an f behind a letter: with FUA */
static enum io_op failing;
static int failing_err;

static void note(struct store *s, struct io *io)
{
	static const char letters[] = "RWFDZE";
	size_t n = strlen(asked);

	assert_true(n + 3 < sizeof(asked));
	asked[n++] = letters[io->op];
	if ((io->flags & IO_FUA) != 0)
		asked[n] = 'f';
	io_end(io, failing_err != 0 && io->op == failing ? failing_err : 0);
}

static int open_noting(struct store **out, struct loop_set *loops,
		       const struct store_type *const *types, char *rest,
		       const struct store_config *config, struct diag *d)
{
	*out = calloc(1, sizeof(**out));
	(*out)->info = (struct store_info){.size = DISK,
					   .logical_block = 512,
					   .volatile_cache = true,
					   .discard_granularity = 512,
					   .discard_zeroes = strcmp(rest, "zeroes") == 0};
	return 0;
}

static void close_noting(struct store *s)
{
	free(s);
}

static const struct store_type noting = {
	.name = "noting",
	.writes_fua = true,
	.open = open_noting,
	.close = close_noting,
	.read = note,
	.write = note,
	.flush = note,
	.discard = note,
	.zero = note,
};

/* ---- Attaching ---- */

static void attached(struct unit_attach *ua, int err)
{
	assert_int_equal(err, 0);
	container_of(ua, struct actor, ua)->attached = true;
}

static void changed(struct unit_attach *ua, unsigned changes, uint64_t origin)
{
	struct actor *a = container_of(ua, struct actor, ua);

	assert_int_equal(changes, UNIT_CHANGED_SIZE);
	a->told++;
	a->origin = origin;
}

static void attach(unsigned i)
{
	actors[i] = (struct actor){.ua = {.nexus_id = i + 1,
					  .loop = loop_set_at(set, i),
					  .attached = attached,
					  .changed = changed}};
	unit_attach(unit, &actors[i].ua);
	assert_false(actors[i].attached);
	settle();
	assert_true(actors[i].attached);
	assert_ptr_equal(channel_unit(actors[i].ua.channel), unit);
}

static void make_unit(const char *spec, bool read_only)
{
	static const struct store_type *const types[] = {&store_null, &store_ram, &noting, NULL};
	static const struct unit_identity identity = {.serial = "test"};
	struct bdev_config bconfig = {.block_size = 512, .read_only = read_only};
	struct store_config sconfig = {.size = 0};
	struct store *store;
	struct bdev *bdev;

	assert_int_equal(store_open(&store, set, types, spec, &sconfig, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bconfig, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &identity, 5), 0);
	assert_string_equal(unit_identity(unit)->serial, "test");
	assert_ptr_equal(unit_bdev(unit), bdev);
	for (unsigned i = 0; i < NLOOPS; i++)
		attach(i);
}

static int set_up(void **state)
{
	if (sim_create(&set, NLOOPS, 1) != 0)
		return -1;
	make_unit("ram:64M", false);
	return 0;
}

static int tear_down(void **state)
{
	for (unsigned i = 0; i < NLOOPS; i++)
		unit_detach(&actors[i].ua);
	unit_destroy(unit);
	loop_set_destroy(set);
	return 0;
}

/* ---- Jobs and operations ---- */

static void job_cancel(struct unit_task *ut)
{
	container_of(ut, struct job, ut)->cancelled = true;
}

static void job_done(struct unit_io *uio)
{
	struct job *j = container_of(uio, struct job, uio);

	assert_false(j->done);
	j->done = true;
}

static void job_begin(struct job *j, unsigned loop)
{
	*j = (struct job){.ut = {.nexus_id = loop + 1, .cancel = job_cancel}};
	unit_task_begin(actors[loop].ua.channel, &j->ut);
}

static void job_submit(struct job *j, enum io_op op, uint64_t off, uint64_t len)
{
	j->iov = (struct iovec){.iov_base = data, .iov_len = len};
	j->uio.io.op = op;
	j->uio.io.off = off;
	j->uio.io.len = len;
	j->uio.io.iov = &j->iov;
	j->uio.io.niov = 1;
	j->uio.task = &j->ut;
	j->uio.done = job_done;
	j->done = false;
	unit_submit(&j->uio);
	assert_false(j->done); /* never on the submitter's stack */
}

static int flagged_io_on(unsigned loop, unsigned flags, enum io_op op, uint64_t off, uint64_t len)
{
	struct job j;

	job_begin(&j, loop);
	j.uio.io.flags = flags;
	job_submit(&j, op, off, len);
	settle();
	assert_true(j.done);
	unit_task_end(&j.ut);
	return j.uio.io.result;
}

static int io_on(unsigned loop, enum io_op op, uint64_t off, uint64_t len)
{
	return flagged_io_on(loop, 0, op, off, len);
}

static int edit(struct unit_op *op, struct unit_view *next)
{
	struct control *c = container_of(op, struct control, op);

	c->edited = true;
	next->size = c->want.size;
	next->flags = c->want.flags;
	next->holder = c->want.holder;
	return 0;
}

static void op_done(struct unit_op *op, int err)
{
	struct control *c = container_of(op, struct control, op);

	assert_false(c->done);
	assert_ptr_equal(loop_self(), op->loop);
	c->done = true;
	c->err = err;
	if (c->end_task)
		unit_task_end(op->task);
}

static void control_init(struct control *c, unsigned loop)
{
	*c = (struct control){.op = {.unit = unit,
				     .loop = loop_set_at(set, loop),
				     .nexus_id = loop + 1,
				     .edit = edit,
				     .done = op_done},
			      .want = {.size = DISK}};
}

static void publish(struct unit_view want)
{
	struct control c;
	uint64_t before = channel_view(actors[0].ua.channel)->generation;

	control_init(&c, 0);
	c.want = want;
	unit_publish(&c.op);
	assert_false(c.done);
	settle();
	assert_true(c.done);
	assert_int_equal(c.err, 0);
	for (unsigned i = 0; i < NLOOPS; i++)
		assert_int_equal(channel_view(actors[i].ua.channel)->generation, before + 1);
}

static bool matches_victim(const struct unit_op *op, const struct unit_task *t)
{
	return t == &container_of(op, const struct control, op)->victim->ut;
}

/* ---- Tests ---- */

static void first_view(void **state)
{
	const struct unit_view *v = channel_view(actors[1].ua.channel);

	assert_int_equal(v->generation, 1);
	assert_int_equal(v->size, DISK);
	assert_int_equal(v->flags, 0);
	assert_int_equal(v->holder, 0);
	assert_int_equal(io_on(1, IO_WRITE, 0, 4096), 0);
	tear_down(NULL);
	assert_int_equal(sim_create(&set, NLOOPS, 1), 0);
	make_unit("null:1T", true);
	assert_int_equal(channel_view(actors[2].ua.channel)->flags, UNIT_WRITE_PROTECTED);
	assert_int_equal(io_on(2, IO_WRITE, 0, 4096), -EROFS);
	assert_int_equal(io_on(2, IO_READ, 0, 4096), 0);
}

static void refusals(void **state)
{
	struct job j;

	assert_int_equal(io_on(0, IO_READ, DISK - 512, 1024), -ERANGE);
	assert_int_equal(io_on(0, IO_READ, UINT64_MAX - 511, 512), -ERANGE);
	publish((struct unit_view){.size = MiB});
	assert_int_equal(io_on(0, IO_READ, MiB - 512, 512), 0);
	assert_int_equal(io_on(1, IO_READ, MiB, 512), -ERANGE);
	assert_int_equal(io_on(1, IO_FLUSH, MiB, 512), 0);
	publish((struct unit_view){.size = DISK, .flags = UNIT_WRITE_PROTECTED});
	assert_int_equal(io_on(0, IO_WRITE, 0, 512), -EROFS);
	assert_int_equal(io_on(0, IO_ZERO, 0, 512), -EROFS);
	assert_int_equal(io_on(0, IO_DISCARD, 0, 512), -EROFS);
	assert_int_equal(io_on(0, IO_READ, 0, 512), 0);
	assert_int_equal(io_on(0, IO_FLUSH, 0, 0), 0);
	publish((struct unit_view){.size = DISK, .flags = UNIT_STOPPED});
	assert_int_equal(io_on(0, IO_READ, 0, 512), -ENOMEDIUM);
	assert_int_equal(io_on(0, IO_FLUSH, 0, 0), 0);
	/* A conflict comes before all else. */
	publish((struct unit_view){
		.size = 0, .flags = UNIT_STOPPED | UNIT_WRITE_PROTECTED, .holder = 2});
	assert_int_equal(io_on(0, IO_WRITE, 0, 512), -EACCES);
	assert_int_equal(io_on(1, IO_WRITE, 0, 512), -ENOMEDIUM);
	publish((struct unit_view){.size = DISK, .holder = 2});
	assert_int_equal(io_on(1, IO_WRITE, 0, 512), 0);
	/* And what the task saw when it checked, before that. */
	job_begin(&j, 0);
	j.uio.generation = channel_view(actors[0].ua.channel)->generation - 1;
	job_submit(&j, IO_READ, 0, 512);
	settle();
	assert_int_equal(j.uio.io.result, -ESTALE);
	j.uio.generation++;
	job_submit(&j, IO_READ, 0, 512);
	settle();
	assert_int_equal(j.uio.io.result, -EACCES);
	unit_task_end(&j.ut);
}

/* A disk that is lost or rewritten, and the unit's own work on it. */
static void refusals_of_lost_and_rewritten(void **state)
{
	const unsigned own = UNIT_IO_INTERNAL;

	publish((struct unit_view){.size = DISK, .flags = UNIT_REWRITING, .holder = 2});
	assert_int_equal(io_on(0, IO_READ, 0, 512), -EACCES);
	assert_int_equal(io_on(1, IO_READ, 0, 512), -EBUSY);
	assert_int_equal(io_on(1, IO_FLUSH, 0, 0), -EBUSY);
	assert_int_equal(flagged_io_on(0, own, IO_WRITE, 0, 512), 0);
	assert_int_equal(flagged_io_on(0, own, IO_FLUSH, 0, 0), 0);
	assert_int_equal(flagged_io_on(0, own, IO_READ, DISK, 512), -ERANGE);
	publish((struct unit_view){.size = 0, .flags = UNIT_REWRITING | UNIT_STOPPED});
	assert_int_equal(io_on(1, IO_WRITE, 0, 512), -EBUSY);
	assert_int_equal(flagged_io_on(1, own, IO_WRITE, 0, 512), -ENOMEDIUM);
	publish((struct unit_view){.size = DISK, .flags = UNIT_SOFT_PROTECTED});
	assert_int_equal(io_on(1, IO_WRITE, 0, 512), -EROFS);
	assert_int_equal(io_on(1, IO_DISCARD, 0, 4096), -EROFS);
	assert_int_equal(flagged_io_on(1, own, IO_ZERO, 0, 512), -EROFS);
	assert_int_equal(io_on(1, IO_READ, 0, 512), 0);
	assert_int_equal(io_on(1, IO_FLUSH, 0, 0), 0);
	publish((struct unit_view){.size = 0,
				   .flags = UNIT_MISSING | UNIT_REWRITING | UNIT_STOPPED |
					    UNIT_SOFT_PROTECTED | UNIT_WRITE_PROTECTED,
				   .holder = 2});
	assert_int_equal(io_on(0, IO_WRITE, 0, 512), -EACCES);
	assert_int_equal(io_on(1, IO_WRITE, 0, 512), -ENODEV);
	assert_int_equal(io_on(1, IO_FLUSH, 0, 0), -ENODEV);
	assert_int_equal(flagged_io_on(0, own, IO_WRITE, 0, 512), -ENODEV);
}

static const char *asked_by(enum io_op op)
{
	static char answer[sizeof(asked)];

	memset(asked, 0, sizeof(asked));
	assert_int_equal(io_on(1, op, 4096, op == IO_FLUSH ? 0 : 4096), 0);
	memcpy(answer, asked, sizeof(asked));
	return answer;
}

static void make_noting_unit(const char *spec)
{
	tear_down(NULL);
	failing_err = 0;
	assert_int_equal(sim_create(&set, NLOOPS, 1), 0);
	make_unit(spec, false);
}

static void writing_through(void **state)
{
	static const unsigned flags[] = {UNIT_WRITE_THROUGH, UNIT_WRITE_THROUGH | UNIT_LOCKS_ARMED};
	struct unit_stats s;

	make_noting_unit("noting:zeroes");
	assert_string_equal(asked_by(IO_WRITE), "W");
	assert_string_equal(asked_by(IO_ZERO), "Z");
	assert_string_equal(asked_by(IO_DISCARD), "D");
	for (unsigned i = 0; i < ARRAY_LEN(flags); i++) {
		publish((struct unit_view){.size = DISK, .flags = flags[i]});
		assert_string_equal(asked_by(IO_WRITE), "Wf");
		assert_string_equal(asked_by(IO_ZERO), "Zf");
		assert_string_equal(asked_by(IO_DISCARD), "DF");
		assert_string_equal(asked_by(IO_READ), "R");
		assert_string_equal(asked_by(IO_FLUSH), "F");
	}
	unit_stats_read(unit, &s);
	assert_int_equal(s.op[IO_DISCARD].ops, 3);
	assert_int_equal(s.op[IO_FLUSH].ops, 2);
	publish((struct unit_view){.size = DISK});
	assert_string_equal(asked_by(IO_WRITE), "W");
	assert_string_equal(asked_by(IO_DISCARD), "D");
	/* Where old data may come back at any time, nothing is promised. */
	make_noting_unit("noting:");
	publish((struct unit_view){.size = DISK, .flags = UNIT_WRITE_THROUGH});
	assert_string_equal(asked_by(IO_DISCARD), "D");
	assert_string_equal(asked_by(IO_ZERO), "Zf");
}

static void discards_that_cannot_be_flushed(void **state)
{
	struct unit_stats s;
	struct job j;

	make_noting_unit("noting:zeroes");
	publish((struct unit_view){.size = DISK, .flags = UNIT_WRITE_THROUGH});
	memset(asked, 0, sizeof(asked));
	failing = IO_DISCARD;
	failing_err = -ENOSPC;
	assert_int_equal(io_on(1, IO_DISCARD, 0, 4096), -ENOSPC);
	assert_string_equal(asked, "D");
	failing = IO_FLUSH;
	job_begin(&j, 1);
	job_submit(&j, IO_DISCARD, 0, 4096);
	settle();
	assert_int_equal(j.uio.io.result, -ENOSPC);
	assert_int_equal(j.uio.io.op, IO_DISCARD);
	unit_task_end(&j.ut);
	assert_string_equal(asked, "DDF");
	unit_stats_read(unit, &s);
	assert_int_equal(s.op[IO_DISCARD].errors, 2);
	assert_int_equal(s.op[IO_FLUSH].ops, 0);
}

static void telling(void **state)
{
	struct control c;

	publish((struct unit_view){.size = DISK});
	assert_int_equal(actors[1].told, 0); /* nothing changed */
	unit_detach(&actors[2].ua);
	control_init(&c, 1);
	c.op.changes = UNIT_CHANGED_SIZE;
	unit_publish(&c.op);
	settle();
	assert_true(c.done && c.err == 0);
	assert_int_equal(actors[0].told, 1);
	assert_int_equal(actors[0].origin, 2);
	assert_int_equal(actors[1].told, 1);
	assert_int_equal(actors[2].told, 0);
	attach(2);
	assert_int_equal(channel_view(actors[2].ua.channel)->generation, 3);
}

/* As an atomic update does. */
static void hold_stripe(struct range_lock *lock)
{
	*lock = (struct range_lock){.len = 512, .exclusive = true, .loop = loop_set_at(set, 0)};
	assert_true(range_lock(unit_bdev(unit), lock));
}

static void arm_locks(void)
{
	struct control c;

	control_init(&c, 0);
	c.want.flags = UNIT_LOCKS_ARMED;
	unit_quiesce(&c.op);
	settle();
	assert_true(c.done && c.err == 0);
}

static void armed_writes_wait(void **state)
{
	static const enum io_op ops[] = {IO_WRITE, IO_ZERO};
	struct range_lock lock;
	struct job j;

	hold_stripe(&lock);
	assert_int_equal(io_on(0, IO_WRITE, 0, 512), 0); /* not armed */
	arm_locks();
	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		job_begin(&j, 1);
		job_submit(&j, ops[i], 0, 4096);
		settle();
		assert_false(j.done);
		assert_int_equal(io_on(2, IO_READ, 0, 4096), 0);
		assert_int_equal(io_on(2, IO_WRITE, MiB, 4096), 0);
		range_unlock(&lock);
		settle();
		assert_true(j.done && j.uio.io.result == 0);
		unit_task_end(&j.ut);
		hold_stripe(&lock);
	}
	/* Who holds the lock says so. */
	job_begin(&j, 0);
	j.uio.io.flags = UNIT_IO_LOCKED;
	job_submit(&j, IO_WRITE, 0, 4096);
	settle();
	assert_true(j.done && j.uio.io.result == 0);
	unit_task_end(&j.ut);
	range_unlock(&lock);
	assert_int_equal(io_on(1, IO_ZERO, 0, DISK), 0); /* of any length */
	hold_stripe(&lock);                              /* and all was given back */
	range_unlock(&lock);
}

static void waiting_io_is_cancelled(void **state)
{
	struct range_lock lock;
	struct job j, k;

	arm_locks();
	hold_stripe(&lock);
	job_begin(&j, 1);
	job_submit(&j, IO_WRITE, 0, 4096);
	assert_true(unit_io_cancel(&j.uio));
	/* Too late: the lock is on its way. It comes back all the same, and has written nothing. */
	job_begin(&k, 2);
	job_submit(&k, IO_WRITE, 0, 4096);
	range_unlock(&lock);
	assert_false(unit_io_cancel(&k.uio));
	settle();
	assert_false(j.done);
	assert_true(k.done);
	assert_int_equal(k.uio.io.result, -ECANCELED);
	assert_false(unit_io_cancel(&k.uio));
	unit_task_end(&j.ut);
	unit_task_end(&k.ut);
	hold_stripe(&lock);
	range_unlock(&lock);
}

/* The ABORT of a task whose I/O waits for a lock, and whose owner leaves that to the unit. */
static void waiting_io_of_victims_ends(void **state)
{
	struct range_lock lock;
	struct control c;
	struct job j;

	arm_locks();
	hold_stripe(&lock);
	job_begin(&j, 1);
	job_submit(&j, IO_WRITE, 0, 4096);
	control_init(&c, 0);
	c.op.matches = matches_victim;
	c.victim = &j;
	unit_abort(&c.op);
	settle();
	assert_true(j.cancelled && j.done && !c.done);
	assert_int_equal(j.uio.io.result, -ECANCELED);
	job_submit(&j, IO_READ, 0, 512);
	settle();
	assert_int_equal(j.uio.io.result, -ECANCELED);
	assert_false(c.done);
	unit_task_end(&j.ut);
	settle();
	assert_true(c.done && c.err == 0);
	range_unlock(&lock);
}

/* An owner who brings the memory cannot fail for want of it. */
static void abort_with_memory_of_its_own(void **state)
{
	struct control c;
	struct job j;

	job_begin(&j, 0);
	control_init(&c, 0);
	c.op.matches = matches_victim;
	c.victim = &j;
	c.op.parts = unit_parts_create(unit);
	assert_non_null(c.op.parts);
	unit_abort(&c.op);
	settle();
	assert_true(j.cancelled && !c.done);
	unit_task_end(&j.ut);
	settle();
	assert_true(c.done && c.err == 0);
	assert_null(c.op.parts);
}

/* Two commands that abort each other both end. */
static void mutual_aborts(void **state)
{
	struct control a, b;
	struct job ja, jb;

	job_begin(&ja, 0);
	job_begin(&jb, 1);
	control_init(&a, 0);
	control_init(&b, 1);
	a.op.matches = b.op.matches = matches_victim;
	a.victim = &jb;
	b.victim = &ja;
	a.op.task = &ja.ut;
	b.op.task = &jb.ut;
	a.end_task = b.end_task = true;
	unit_abort(&a.op);
	unit_abort(&b.op);
	settle();
	assert_true(a.done && b.done);
	assert_true(a.err == -ECANCELED || b.err == -ECANCELED);
}

/* ---- Views that are kept ---- */

static int keep(struct unit_op *op, const struct unit_view *next)
{
	struct control *c = container_of(op, struct control, op);

	assert_null(loop_self()); /* a worker's thread */
	assert_true(c->edited && !c->done);
	assert_int_equal(next->generation, c->before + 1);
	assert_int_equal(next->size, c->want.size);
	for (unsigned i = 0; i < NLOOPS; i++) {
		const struct channel *ch = actors[i].ua.channel;

		assert_int_equal(channel_view(ch)->generation, c->before);
		assert_true(ch->closed == (op->act != NULL));
	}
	c->kept++;
	return c->keep_err;
}

static void act(struct unit_op *op)
{
	struct control *c = container_of(op, struct control, op);

	assert_false(c->edited);
	c->acted = true;
	unit_op_acted(op, 0);
}

static void control_init_kept(struct control *c, void (*action)(struct unit_op *op), int keep_err)
{
	control_init(c, 1);
	c->op.keep = keep;
	c->op.act = action;
	c->op.changes = UNIT_CHANGED_SIZE;
	c->want.size = MiB;
	c->keep_err = keep_err;
	c->before = channel_view(actors[0].ua.channel)->generation;
}

static void submit_kept(struct control *c)
{
	if (c->op.act != NULL)
		unit_quiesce(&c->op);
	else
		unit_publish(&c->op);
}

static void views_are_kept_before_they_are_seen(void **state)
{
	static void (*const actions[])(struct unit_op * op) = {NULL, act};
	struct control c;

	for (unsigned i = 0; i < ARRAY_LEN(actions); i++) {
		control_init_kept(&c, actions[i], 0);
		submit_kept(&c);
		settle();
		assert_true(c.done && c.kept == 1);
		assert_int_equal(c.err, 0);
		assert_int_equal(actors[2].told, i + 1);
		assert_int_equal(channel_view(actors[2].ua.channel)->generation, c.before + 1);
		assert_int_equal(io_on(0, IO_READ, MiB, 512), -ERANGE);
	}
}

static void views_that_cannot_be_kept(void **state)
{
	static void (*const actions[])(struct unit_op * op) = {NULL, act};
	struct control c;

	for (unsigned i = 0; i < ARRAY_LEN(actions); i++) {
		control_init_kept(&c, actions[i], -ENOSPC);
		submit_kept(&c);
		settle();
		assert_true(c.done && c.kept == 1);
		assert_int_equal(c.err, -ENOSPC);
		assert_int_equal(actors[2].told, 0);
		assert_int_equal(channel_view(actors[2].ua.channel)->generation, 1);
		assert_int_equal(io_on(0, IO_WRITE, MiB, 512), 0);
	}
	publish((struct unit_view){.size = DISK});
}

/* Before `edit` it may be cancelled, afterwards it may be durable. */
static void kept_views_are_not_cancelled(void **state)
{
	struct control c, behind;

	control_init_kept(&c, NULL, 0);
	control_init_kept(&behind, NULL, 0);
	unit_publish(&c.op);
	unit_publish(&behind.op);
	while (!c.edited)
		assert_true(sim_step(set));
	assert_int_equal(c.kept, 0);
	unit_op_cancel(&c.op);
	unit_op_cancel(&behind.op);
	settle();
	assert_true(c.done && c.err == 0 && c.kept == 1);
	assert_true(behind.done && behind.err == -ECANCELED && !behind.edited);
	assert_int_equal(channel_view(actors[2].ua.channel)->generation, 2);
}

/* ---- Arming ---- */

static bool is_armed(void)
{
	return (channel_view(actors[0].ua.channel)->flags & UNIT_LOCKS_ARMED) != 0;
}

static uint64_t arm(void)
{
	struct control c;

	control_init(&c, 1);
	unit_arm(&c.op);
	while (!c.done)
		assert_true(sim_step(set));
	assert_int_equal(c.err, 0);
	for (unsigned i = 0; i < NLOOPS; i++)
		assert_true((channel_view(actors[i].ua.channel)->flags & UNIT_LOCKS_ARMED) != 0);
	return channel_view(actors[0].ua.channel)->generation;
}

static void locks_are_armed_once(void **state)
{
	publish((struct unit_view){.size = MiB, .flags = UNIT_WRITE_THROUGH, .holder = 3});
	assert_int_equal(arm(), 3);
	assert_int_equal(arm(), 3);
	assert_int_equal(channel_view(actors[2].ua.channel)->size, MiB);
	assert_int_equal(channel_view(actors[2].ua.channel)->holder, 3);
	settle();
	assert_false(is_armed());
	assert_int_equal(channel_view(actors[2].ua.channel)->flags, UNIT_WRITE_THROUGH);
	assert_int_equal(actors[2].told, 0);
	assert_int_equal(arm(), 5);
}

/* Any use of them keeps them armed for ARM_IDLE_NS, and not much longer. */
static void locks_are_disarmed_when_nobody_uses_them(void **state)
{
	struct range_lock lock;

	arm();
	pass_time(ARM_IDLE_NS - MS);
	assert_true(is_armed());
	pass_time(ARM_IDLE_NS + 2 * MS);
	assert_false(is_armed());
	arm();
	pass_time(ARM_IDLE_NS + ARM_IDLE_NS / 2);
	hold_stripe(&lock);
	range_unlock(&lock);
	pass_time(ARM_IDLE_NS);
	assert_true(is_armed()); /* taken */
	arm();
	pass_time(ARM_IDLE_NS);
	assert_true(is_armed()); /* wanted */
	pass_time(ARM_IDLE_NS);
	assert_false(is_armed());
	arm();
	hold_stripe(&lock);
	pass_time(10 * ARM_IDLE_NS);
	assert_true(is_armed()); /* held */
	range_unlock(&lock);
	pass_time(2 * ARM_IDLE_NS + 2 * MS);
	assert_false(is_armed());
}

/* I/O that hangs keeps the locks armed, and does not keep other I/O waiting. */
static void disarming_does_not_wait_for_long(void **state)
{
	unsigned *inflight = &actors[2].ua.channel->inflight;
	struct job j;

	arm();
	++*inflight;
	for (unsigned i = 0; i < 3; i++) {
		while (!actors[1].ua.channel->closed)
			assert_true(sim_step(set));
		job_begin(&j, 1);
		job_submit(&j, IO_WRITE, 0, 4096);
		pass_time(MS);
		assert_false(j.done);
		pass_time(DISARM_TIMEOUT_NS);
		assert_true(j.done && j.uio.io.result == 0 && is_armed());
		unit_task_end(&j.ut);
	}
	--*inflight;
	settle();
	assert_false(is_armed());
}

/* The loops end when the last nexus is gone, whatever the unit is about by itself. */
static void the_end_may_come_at_any_time(void **state)
{
	for (uint64_t steps = 0; steps < 60; steps++) {
		arm();
		while (!unit->arming.disarming)
			assert_true(sim_step(set));
		sim_run(set, steps);
		tear_down(NULL);
		assert_int_equal(sim_create(&set, NLOOPS, steps), 0);
		make_unit("ram:64M", false);
	}
}

static void act_never(struct unit_op *op)
{
	fail();
}

/* An operation behind a QUIESCE that drains for ever, and that QUIESCE itself. */
static void waiting_operations_are_cancelled(void **state)
{
	struct control q, p, late;
	struct job j;

	/* In the store for ever: counted, and never ended. */
	job_begin(&j, 2);
	actors[2].ua.channel->inflight++;
	control_init(&q, 0);
	control_init(&p, 1);
	control_init(&late, 1);
	q.op.act = act_never;
	unit_quiesce(&q.op);
	unit_publish(&p.op);
	late.op.timeout_ns = 5000;
	unit_quiesce(&late.op);
	settle();
	assert_true(!q.done && !p.done);
	assert_true(late.done && late.err == -ETIMEDOUT);
	/* New I/O is parked meanwhile. */
	job_submit(&j, IO_WRITE, 0, 512);
	settle();
	assert_false(j.done);
	unit_op_cancel(&p.op);
	unit_op_cancel(&p.op);
	settle();
	assert_true(p.done && p.err == -ECANCELED && !q.done);
	unit_op_cancel(&q.op);
	settle();
	assert_true(q.done && q.err == -ECANCELED);
	assert_true(j.done && j.uio.io.result == 0);
	assert_int_equal(channel_view(actors[2].ua.channel)->generation, 1);
	actors[2].ua.channel->inflight--;
	unit_task_end(&j.ut);
}

/* More than goes in one step, and in the order they came. */
static void parked_io_goes_on_in_order(void **state)
{
	enum { N = 200 };
	static struct job jobs[N];
	struct control q;
	struct job blocker;

	job_begin(&blocker, 1);
	actors[1].ua.channel->inflight++;
	control_init(&q, 0);
	q.op.act = act_never;
	q.op.timeout_ns = 50000;
	unit_quiesce(&q.op);
	while (!actors[1].ua.channel->closed)
		sim_step(set);
	for (unsigned i = 0; i < N; i++) {
		job_begin(&jobs[i], 1);
		job_submit(&jobs[i], IO_WRITE, i * 512, 512);
	}
	for (unsigned i = 0; i < N; i += 7)
		assert_true(unit_io_cancel(&jobs[i].uio));
	for (unsigned i = 1, done = 0; done < N - (N + 6) / 7;) {
		assert_true(sim_step(set));
		while (i < N && (i % 7 == 0 || jobs[i].done)) {
			done += i % 7 != 0;
			i++;
		}
		/* None is done before one that came earlier. */
		for (unsigned k = i + 1; k < N; k++)
			assert_false(i % 7 != 0 && !jobs[i].done && jobs[k].done);
	}
	settle();
	assert_int_equal(q.err, -ETIMEDOUT);
	for (unsigned i = 0; i < N; i++)
		unit_task_end(&jobs[i].ut);
	actors[1].ua.channel->inflight--;
	unit_task_end(&blocker.ut);
}

static int lend(unsigned loop, uint64_t off)
{
	struct iovec iov[4];
	struct job j;
	int n;

	job_begin(&j, loop);
	j.uio.task = &j.ut;
	j.uio.io.op = IO_READ;
	j.uio.io.off = off;
	j.uio.io.len = 4096;
	n = unit_lend(&j.uio, iov, ARRAY_LEN(iov));
	unit_task_end(&j.ut);
	if (n > 0)
		unit_lend_end(&j.uio);
	return n;
}

/* What would be refused or parked as a read is not lent. */
static void lending(void **state)
{
	static const unsigned refusing[] = {UNIT_STOPPED, UNIT_MISSING, UNIT_REWRITING};
	struct unit_stats s;

	assert_int_equal(io_on(0, IO_WRITE, 0, 4096), 0);
	assert_true(lend(1, 0) > 0);
	unit_stats_read(unit, &s);
	assert_int_equal(s.op[IO_READ].ops, 1);
	assert_int_equal(s.op[IO_READ].bytes, 4096);
	assert_int_equal(lend(1, DISK), -EOPNOTSUPP);
	actors[1].ua.channel->gated = true;
	assert_int_equal(lend(1, 0), -EOPNOTSUPP);
	actors[1].ua.channel->gated = false;
	publish((struct unit_view){.size = DISK, .holder = 1});
	assert_int_equal(lend(1, 0), -EOPNOTSUPP);
	assert_true(lend(0, 0) > 0);
	for (unsigned i = 0; i < ARRAY_LEN(refusing); i++) {
		publish((struct unit_view){.size = DISK, .flags = refusing[i]});
		assert_int_equal(lend(1, 0), -EOPNOTSUPP);
	}
	publish((struct unit_view){.size = DISK,
				   .flags = UNIT_SOFT_PROTECTED | UNIT_WRITE_PROTECTED |
					    UNIT_LOCKS_ARMED | UNIT_WRITE_THROUGH});
	assert_true(lend(1, 0) > 0);
}

/* ---- Counters ---- */

static void counters(void **state)
{
	struct unit_stats s;

	assert_int_equal(io_on(0, IO_WRITE, 0, 4096), 0);
	assert_int_equal(io_on(1, IO_WRITE, 0, 512), 0);
	assert_int_equal(io_on(2, IO_READ, 0, 1024), 0);
	assert_int_equal(io_on(2, IO_READ, 100, 512), -EINVAL); /* bdev's error */
	assert_int_equal(io_on(2, IO_FLUSH, 0, 7), 0);
	assert_int_equal(io_on(2, IO_READ, DISK, 512), -ERANGE); /* never got there */
	unit_stats_read(unit, &s);
	assert_int_equal(s.op[IO_WRITE].ops, 2);
	assert_int_equal(s.op[IO_WRITE].bytes, 4608);
	assert_int_equal(s.op[IO_READ].ops, 2);
	assert_int_equal(s.op[IO_READ].bytes, 1024);
	assert_int_equal(s.op[IO_READ].errors, 1);
	assert_int_equal(s.op[IO_FLUSH].ops, 1);
	assert_int_equal(s.op[IO_FLUSH].bytes, 0);
	assert_int_equal(s.op[IO_ZERO].ops, 0);
}

static uint64_t busy_ms(void)
{
	struct unit_stats s;

	unit_stats_read(unit, &s);
	return s.busy_ns / MS;
}

static bool matches_all(const struct unit_op *op, const struct unit_task *t)
{
	return true;
}

/* Time counts from the first task to the last, whatever an ABORT does to those between. */
static void time_with_tasks(void **state)
{
	struct job first = {0}, second = {0}, late;
	struct control c;

	for (unsigned order = 0; order < 2; order++) {
		struct job *ending = order == 0 ? &first : &second;
		uint64_t before = busy_ms();

		job_begin(&first, 0);
		job_begin(&second, 0);
		ending->ut.cancel = unit_task_end;
		pass_time(10 * MS);
		control_init(&c, 0);
		c.op.matches = matches_all;
		unit_abort(&c.op);
		pass_time(20 * MS);
		job_begin(&late, 0);
		pass_time(30 * MS);
		unit_task_end(order == 0 ? &second.ut : &first.ut);
		pass_time(40 * MS);
		unit_task_end(&late.ut);
		settle();
		assert_true(c.done);
		assert_in_range(busy_ms() - before, 100, 101);
		pass_time(10 * MS);
		assert_in_range(busy_ms() - before, 100, 101);
	}
}

static unsigned bucket_of(uint64_t ns)
{
	static struct unit_stats s;
	unsigned b = 0;

	s = (struct unit_stats){.op = {{0}}};
	stats_count(&s, IO_READ, 512, 0, ns);
	assert_int_equal(s.op[IO_READ].total_ns, ns);
	while (s.op[IO_READ].latency[b] == 0)
		b++;
	return b;
}

static void latency_buckets(void **state)
{
	assert_int_equal(unit_latency_bound_ns(0), 1000);
	assert_int_equal(unit_latency_bound_ns(1), 1250);
	assert_int_equal(unit_latency_bound_ns(4), 2000);
	assert_int_equal(unit_latency_bound_ns(5), 2500);
	assert_int_equal(unit_latency_bound_ns(8), 4000);
	for (unsigned b = 1; b < UNIT_LATENCY_BUCKETS; b++) {
		uint64_t low = unit_latency_bound_ns(b - 1), high = unit_latency_bound_ns(b);

		assert_true(low < high);
		assert_int_equal(bucket_of(low), b);
		assert_int_equal(bucket_of(low - 1), b - 1);
		assert_int_equal(bucket_of(high - 1), b);
	}
	assert_int_equal(bucket_of(0), 0);
	assert_int_equal(bucket_of(UINT64_MAX), UNIT_LATENCY_BUCKETS - 1);
}

static void percentiles(void **state)
{
	static struct unit_stats s;
	const struct unit_op_stats *o = &s.op[IO_WRITE];

	s = (struct unit_stats){.op = {{0}}};
	assert_int_equal(unit_latency_percentile_ns(o, 0.5), 0);
	for (unsigned i = 0; i < 98; i++)
		stats_count(&s, IO_WRITE, 512, 0, 1100);
	stats_count(&s, IO_WRITE, 512, 0, 3900);
	stats_count(&s, IO_WRITE, 512, -EIO, UINT64_C(60000000000));
	assert_int_equal(unit_latency_percentile_ns(o, 0), 1250);
	assert_int_equal(unit_latency_percentile_ns(o, 0.5), 1250);
	assert_int_equal(unit_latency_percentile_ns(o, 0.98), 1250);
	assert_int_equal(unit_latency_percentile_ns(o, 0.99), 4000);
	assert_int_equal(unit_latency_percentile_ns(o, 1),
			 unit_latency_bound_ns(UNIT_LATENCY_BUCKETS - 2));
}

#define ON_A_UNIT(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_A_UNIT(first_view),
		ON_A_UNIT(refusals),
		ON_A_UNIT(refusals_of_lost_and_rewritten),
		ON_A_UNIT(writing_through),
		ON_A_UNIT(discards_that_cannot_be_flushed),
		ON_A_UNIT(telling),
		ON_A_UNIT(views_are_kept_before_they_are_seen),
		ON_A_UNIT(views_that_cannot_be_kept),
		ON_A_UNIT(kept_views_are_not_cancelled),
		ON_A_UNIT(locks_are_armed_once),
		ON_A_UNIT(locks_are_disarmed_when_nobody_uses_them),
		ON_A_UNIT(disarming_does_not_wait_for_long),
		ON_A_UNIT(the_end_may_come_at_any_time),
		ON_A_UNIT(armed_writes_wait),
		ON_A_UNIT(waiting_io_is_cancelled),
		ON_A_UNIT(waiting_io_of_victims_ends),
		ON_A_UNIT(abort_with_memory_of_its_own),
		ON_A_UNIT(mutual_aborts),
		ON_A_UNIT(waiting_operations_are_cancelled),
		ON_A_UNIT(parked_io_goes_on_in_order),
		ON_A_UNIT(lending),
		ON_A_UNIT(counters),
		ON_A_UNIT(time_with_tasks),
		cmocka_unit_test(latency_buckets),
		cmocka_unit_test(percentiles),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
