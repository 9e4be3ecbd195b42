/*
 * The world of the unit's simulator test (unit.c): what there is, what was promised of it, and the
 * store, where most promises are judged. Apart from those who live in it.
 */
#ifndef SPINDLE_TESTS_SIM_UNIT_WORLD_H
#define SPINDLE_TESTS_SIM_UNIT_WORLD_H

#include "loop/sim.h"
#include "store/impl.h"
#include "unit/impl.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define NLOOPS      3
#define NEXUSES_MAX 5
#define IOS_MAX     3
#define VIEWS_MAX   128
#define DISK_BYTES  (1024 * 1024)
#define HANG_NS     UINT64_C(1000000000)
#define SLACK_NS    UINT64_C(10000000) /* for messages and short delays; far less than a hang */
#define TICK_NS     1000               /* delays are multiples: things collide */
#define STORE_ERROR (-ENOSPC)          /* not one after which the disk would be read-only */

struct nexus;
struct task;

struct test_io {
	struct unit_io uio;
	struct task *task;
	struct loop_timer timer; /* its time in the store */
	struct io *at_store;     /* what came there: uio.io, or what travels for it */
	struct list link;        /* world.stored, while it is in the store */
	enum io_op op;
	bool busy, reached, internal, flushed;
	uint64_t floor;   /* the newest generation that was answered when it was submitted */
	uint64_t ceiling; /* the newest there was when it reached the store */
	struct iovec iov;
};

enum task_kind { TASK_IO, TASK_UPDATE, TASK_CONTROL };

struct task {
	struct unit_task ut;
	enum task_kind kind;
	uint64_t tag, begun; /* begun: world.clock */
	struct nexus *nexus;
	struct list link;       /* world.tasks */
	struct loop_timer wait; /* for data, as it were */
	bool lazy;              /* its cancel leaves everything as it is */
	bool checks;            /* uses generations */
	bool parallel;
	unsigned nios, next, busy;
	struct test_io ios[IOS_MAX];
	struct op *op;
	/* TASK_UPDATE: read and write of ios[0]'s range, under this lock. `next` counts: looked,
	 * read, written. */
	struct range_lock lock;
	bool locking, locked, updating, paused, failed;
	unsigned rounds;
	uint64_t looked; /* at the view of this generation */
};

enum matching { OF_NEXUS, OF_TASK, ALL, ALL_BUT_NEXUS };

struct op {
	struct unit_op op;
	enum { PUBLISH, QUIESCE, ARM, ABORT, NKINDS } kind;
	struct task *task;
	uint64_t submitted, submitted_ns; /* world.clock, and time */
	/* PUBLISH, QUIESCE */
	bool fails, cancelled, acted, keep_fails, kept;
	int failure;
	struct unit_view wanted, made;
	uint64_t generation; /* what it made */
	struct loop_timer act_timer;
	/* ABORT */
	enum matching matching;
	uint64_t match_nexus, match_tag;
	uint64_t victims_gone_ns; /* when the last I/O of them left the store */
	struct list link;         /* world.aborts */
};

struct attach {
	struct unit_attach ua;
	struct nexus *nexus;
	uint64_t since; /* the newest generation when it was attached */
	bool told[VIEWS_MAX];
};

struct nexus {
	uint64_t id;
	struct loop *loop;
	struct attach *attach; /* NULL: detached */
	bool attached;
	struct loop_timer act;
	unsigned actions, ntasks;
};

static struct world {
	struct loop_set *set;
	struct unit *unit;
	uint64_t seed, clock, next_tag, next_nexus;
	struct nexus nexuses[NEXUSES_MAX];
	unsigned nnexuses;
	struct list tasks, stored, aborts;
	/* The views that were published, by generation, and the changes each told of. */
	struct unit_view views[VIEWS_MAX];
	unsigned changes[VIEWS_MAX];
	uint64_t origins[VIEWS_MAX];
	uint64_t newest, answered;
	bool home_loop, discard_zeroes, disarming;
	unsigned acting, keeping, nops;
	uint64_t ops_stored;
} w;

/* What happened in all runs: a test in which nothing waits or fails proves nothing. */
static struct tally {
	uint64_t stored, refused, stale, cancelled_io, conflict, through, flushed, internal;
	uint64_t updates, lock_waits, anew, looked_again, armed, disarms, disarmed;
	uint64_t published, quiesced, timed_out, kept, not_kept, cancelled_op, aborted, victims;
	uint64_t steps;
} tally;

/* ---- Failing ---- */

static const char *program;

static void tell_seed(void)
{
	fprintf(stderr, "seed %llu; again: SPINDLE_SIM_SEED=%llu %s\n", (unsigned long long)w.seed,
		(unsigned long long)w.seed, program);
}

static void on_abort(int signo)
{
	tell_seed();
}

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

__attribute__((format(printf, 1, 2))) static _Noreturn void broken(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "broken promise: ");
	vfprintf(stderr, fmt, args);
	fprintf(stderr, "\n");
	va_end(args);
	tell_seed();
	_exit(1);
}

#define PROMISE(cond, ...) ((cond) ? (void)0 : broken(__VA_ARGS__))

static uint64_t chance(uint64_t bound)
{
	return sim_random(w.set, bound);
}

static uint64_t now(void)
{
	return sim_now_ns(w.set);
}

static void *make(size_t size)
{
	void *p = calloc(1, size);

	CHECK(p != NULL);
	return p;
}

/* ---- The model: who may pass ---- */

static bool writes(const struct io *io)
{
	return io->op == IO_WRITE || io->op == IO_DISCARD;
}

static int judged_by(const struct unit_view *v, const struct test_io *tio)
{
	const struct io *io = &tio->uio.io;

	if (tio->uio.generation != 0 && tio->uio.generation != v->generation)
		return -ESTALE;
	if (v->holder != 0 && v->holder != tio->task->ut.nexus_id && !tio->internal)
		return -EACCES;
	if ((v->flags & UNIT_MISSING) != 0)
		return -ENODEV;
	if ((v->flags & UNIT_REWRITING) != 0 && !tio->internal)
		return -EBUSY;
	if (io->op == IO_FLUSH)
		return 0;
	if ((v->flags & UNIT_STOPPED) != 0)
		return -ENOMEDIUM;
	if ((v->flags & (UNIT_WRITE_PROTECTED | UNIT_SOFT_PROTECTED)) != 0 && writes(io))
		return -EROFS;
	return io->off + io->len > v->size ? -ERANGE : 0;
}

/* Does any view from `floor` to the newest say so? */
static bool some_view_says(const struct test_io *tio, uint64_t floor, int err)
{
	for (uint64_t g = floor; g <= w.newest; g++)
		if (judged_by(&w.views[g], tio) == err)
			return true;
	return false;
}

static bool is_through(const struct unit_view *v)
{
	return (v->flags & UNIT_WRITE_THROUGH) != 0;
}

/* Does a view that lets it through want it written through, or not? */
static bool some_view_wants(const struct test_io *tio, uint64_t floor, bool through)
{
	for (uint64_t g = floor; g <= w.newest; g++)
		if (judged_by(&w.views[g], tio) == 0 && is_through(&w.views[g]) == through)
			return true;
	return false;
}

static bool overlap(const struct io *a, const struct io *b)
{
	return a->off < b->off + b->len && b->off < a->off + a->len;
}

/* An update owns its range from the moment its read reaches the store until it ends. */
static void check_updates(const struct test_io *tio)
{
	list_for_each (pos, &w.tasks) {
		struct task *t = list_entry(pos, struct task, link);

		if (t->updating && t != tio->task && writes(&tio->uio.io))
			PROMISE(!overlap(&t->ios[0].uio.io, &tio->uio.io),
				"a write between the read and the write of an atomic update");
	}
	if (tio->task->kind != TASK_UPDATE)
		return;
	list_for_each (pos, &w.stored) {
		struct test_io *other = list_entry(pos, struct test_io, link);

		if (writes(&other->uio.io) && other->task != tio->task)
			PROMISE(!overlap(&other->uio.io, &tio->uio.io),
				"an atomic update began during a write");
	}
	tio->task->updating = true;
}

/* What comes to the store for the first time. */
static void check_entrance(struct test_io *tio, const struct io *io)
{
	uint64_t floor = w.home_loop ? tio->floor : w.answered;
	bool through = (io->flags & IO_FUA) != 0;

	PROMISE(some_view_says(tio, floor, 0),
		"an I/O reached the store that view %llu, which was answered, excludes",
		(unsigned long long)floor);
	if (io->op == IO_WRITE)
		PROMISE(some_view_wants(tio, floor, through), "a write %s, which no view says",
			through ? "was written through" : "may stay in a cache");
	else
		PROMISE(!through, "FUA where there is none");
	tio->ceiling = w.newest;
	tally.through += through;
	tally.internal += judged_by(&w.views[w.newest], tio) == 0 &&
			  (w.views[w.newest].flags & UNIT_REWRITING) != 0;
	check_updates(tio);
}

static void check_at_store(struct test_io *tio, const struct io *io)
{
	PROMISE(tio->busy, "an I/O reached the store that nobody waits for");
	PROMISE(w.home_loop || loop_self() == tio->task->nexus->loop, "an I/O on another loop");
	PROMISE(w.home_loop || !tio->task->ut.aborted,
		"an I/O of an aborted task reached the store");
	PROMISE(w.acting == 0, "an I/O reached the store while a QUIESCE acts");
	PROMISE(channel_view(tio->task->ut.channel)->generation <= w.newest,
		"a view was seen before it was kept");
	if (!tio->reached) {
		check_entrance(tio, io);
		return;
	}
	PROMISE(tio->op == IO_DISCARD && io->op == IO_FLUSH && !tio->flushed,
		"an I/O reached the store twice");
	tio->flushed = true;
	tally.flushed++;
}

/* ---- The store ---- */

static void leave_store(struct loop_timer *timer)
{
	struct test_io *tio = container_of(timer, struct test_io, timer);

	list_remove(&tio->link);
	/* What an ABORT may wait for. */
	list_for_each (pos, &w.aborts) {
		struct op *a = list_entry(pos, struct op, link);

		if (a->op.matches(&a->op, &tio->task->ut))
			a->victims_gone_ns = now();
	}
	io_end(tio->at_store, chance(20) == 0 ? STORE_ERROR : 0);
}

static uint64_t time_in_store(void)
{
	return chance(40) == 0 ? HANG_NS : chance(16) * TICK_NS;
}

static void store_takes(struct store *s, struct io *io)
{
	struct test_io *tio = container_of(io->iov, struct test_io, iov);
	uint64_t ns = time_in_store();

	check_at_store(tio, io);
	w.ops_stored += !tio->reached;
	tio->at_store = io;
	tio->reached = true;
	list_push_back(&w.stored, &tio->link);
	loop_timer_init(&tio->timer, io->loop, leave_store);
	if (ns == 0)
		leave_store(&tio->timer);
	else
		CHECK(loop_timer_start(&tio->timer, ns) == 0);
}

static int store_open_noting(struct store **out, struct loop_set *set,
			     const struct store_type *const *types, char *rest,
			     const struct store_config *config, struct diag *d)
{
	*out = make(sizeof(**out));
	(*out)->info = (struct store_info){.size = DISK_BYTES,
					   .logical_block = 512,
					   .physical_block = 512,
					   .discard_granularity = 512,
					   .discard_zeroes = w.discard_zeroes};
	return 0;
}

static void store_close_noting(struct store *s)
{
	free(s);
}

#define NOTING(name_, threading_)                                                            \
	{                                                                                    \
		.name = (name_), .threading = (threading_), .writes_fua = true,              \
		.open = store_open_noting, .close = store_close_noting, .read = store_takes, \
		.write = store_takes, .flush = store_takes, .discard = store_takes,          \
	}

static const struct store_type noting = NOTING("noting", STORE_ANY_LOOP);
static const struct store_type noting_at_home = NOTING("home", STORE_HOME_LOOP);

#endif
