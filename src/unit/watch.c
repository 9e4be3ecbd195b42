/*
 * The watch: asks the store how it is, every few seconds and when an I/O ended so that something may
 * have happened, and publishes what is new.
 *
 *              interval, trouble, unit_watch_now()
 *   RESTING -----------------------------------------> PROBING   (a worker; it may hang)
 *      ^ ^                                              |   |
 *      | '----------------- nothing is new -------------'   |
 *      '------------------- PUBLISHING <--------------------'
 *
 * All of it runs on the steward's loop but the probe itself. While that hangs no other is started,
 * and the watch cannot stop. One thing is published without it: that a flush failed needs no asking,
 * and comes from a disk that may well hang. A store that grew is taken over by the worker as well: a
 * disk that only grows needs no QUIESCE, which would wait for whatever hangs.
 *
 * What is asked for by who exports the disk and what the store makes necessary are kept apart, by a
 * flag of the view each, so that each can end by itself. A store is protected against writes that
 * - takes none itself,
 * - lost what it had acknowledged: a flush failed,
 * - is smaller than the disk: a write behind its end could make a file longer again, and what was
 *   cut off would read as zeros where an error belongs.
 */
#include "unit/impl.h"

#include <errno.h>
#include <stdlib.h>

/* A disk that fails with every I/O is not asked more often than this. */
#define LOOK_GAP_NS UINT64_C(100000000)

enum watch_state { WATCH_RESTING, WATCH_PROBING, WATCH_PUBLISHING };

/* Told once, until the state it tells of is over. */
#define LASTING_EVENTS \
	(1u << UNIT_EVENT_FLUSH_FAILED | 1u << UNIT_EVENT_SHRUNK | 1u << UNIT_EVENT_UNLINKED)

struct unit_watch {
	struct unit *unit;
	struct unit_watch_config config;
	bool kicked; /* atomic: `kick` is under way */
	struct loop_msg kick;
	/* The steward's. */
	enum watch_state state;
	bool wanted; /* look again, soon */
	uint64_t looked_ns;
	struct loop_timer timer; /* runs while RESTING */
	struct unit_op publish;
	unsigned events;        /* bits 1 << enum unit_event: what PUBLISHING brings */
	unsigned told;          /* of LASTING_EVENTS */
	struct unit_op failure; /* publishes that a flush failed, in any state */
	bool failing;           /* `failure` is under way */
	/* The worker's while PROBING. */
	struct work probe;
	struct store_status status;
	bool smaller; /* than the disk was when the store was asked */
	int err;
	/* The end. */
	bool stopping;
	struct loop *stop_loop;
	void (*stopped)(void *arg);
	void *stop_arg;
	struct loop_msg stop;
};

static void rest(struct unit_watch *w);
static void stop_if_over(struct unit_watch *w);

/* ---- What is new ---- */

static void add_event(unsigned *events, enum unit_event event)
{
	*events |= 1u << event;
}

static bool protects(const struct unit_watch *w)
{
	const struct store_status *st = &w->status;

	/* What could never be written is no news. */
	return !bdev_info(w->unit->bdev)->read_only &&
	       (st->read_only || st->flush_failed || w->smaller);
}

static unsigned lasting_events(const struct unit_watch *w)
{
	unsigned events = 0;

	if (w->status.flush_failed)
		add_event(&events, UNIT_EVENT_FLUSH_FAILED);
	if (w->smaller)
		add_event(&events, UNIT_EVENT_SHRUNK);
	if (w->status.unlinked)
		add_event(&events, UNIT_EVENT_UNLINKED);
	return events;
}

/* The changes to tell; `next` may have changed without any. */
static unsigned apply_protection(const struct unit_watch *w, struct unit_view *next,
				 unsigned *events)
{
	bool before = (next->flags & UNIT_PROTECTED_BY_STORE) != 0, now = protects(w), toggled;

	if (now)
		next->flags |= UNIT_PROTECTED_BY_STORE;
	else
		next->flags &= ~(unsigned)UNIT_PROTECTED_BY_STORE;
	toggled = live_protect(w->unit, next);
	if (now && !before && w->status.read_only)
		add_event(events, UNIT_EVENT_READ_ONLY);
	if (before && !now && toggled)
		add_event(events, UNIT_EVENT_WRITABLE);
	return toggled ? UNIT_CHANGED_PROTECTION : 0;
}

static void apply_lost(struct unit_view *next, unsigned *events)
{
	if ((next->flags & UNIT_MISSING) == 0)
		add_event(events, UNIT_EVENT_LOST);
	next->flags |= UNIT_MISSING;
}

static unsigned apply_found(const struct unit_watch *w, struct unit_view *next, unsigned *events)
{
	unsigned changes = 0;

	if ((next->flags & UNIT_MISSING) != 0) {
		next->flags &= ~(unsigned)UNIT_MISSING;
		changes |= UNIT_CHANGED_MEDIUM;
		add_event(events, UNIT_EVENT_BACK);
	}
	if (live_take_size(w->unit, next)) {
		changes |= UNIT_CHANGED_SIZE;
		add_event(events, UNIT_EVENT_GREW);
	}
	return changes;
}

/* Brings what the probe found into a view: the changes to tell the attachments, and the events. That
 * a flush failed is known whatever else could not be found out. */
static unsigned apply(const struct unit_watch *w, struct unit_view *next, unsigned *events)
{
	unsigned changes = 0;

	*events = 0;
	if (w->err == 0)
		changes |= apply_found(w, next, events);
	else if (w->err == -ENODEV)
		apply_lost(next, events);
	if (w->err == 0 || w->status.flush_failed) {
		changes |= apply_protection(w, next, events);
		*events |= lasting_events(w) & ~w->told;
	}
	return changes;
}

static void tell(struct unit_watch *w, unsigned events)
{
	for (unsigned event = 0; events >> event != 0; event++)
		if ((events & 1u << event) != 0 && w->config.event != NULL)
			w->config.event(w->config.arg, w->unit, (enum unit_event)event);
}

static void tell_found(struct unit_watch *w, unsigned events)
{
	w->told = w->err == 0 ? lasting_events(w) : w->told | (events & LASTING_EVENTS);
	tell(w, events);
}

/* ---- Publishing ---- */

static struct unit_watch *watch_of(struct unit_op *op)
{
	return container_of(op, struct unit_watch, publish);
}

static int publish_edit(struct unit_op *op, struct unit_view *next)
{
	struct unit_watch *w = watch_of(op);

	op->changes = apply(w, next, &w->events);
	return 0;
}

/* After an error nothing has changed, and the next look finds the same. */
static void published(struct unit_op *op, int err)
{
	struct unit_watch *w = watch_of(op);

	if (err == 0)
		tell_found(w, w->events & ~w->told);
	rest(w);
}

static void publish(struct unit_watch *w)
{
	w->state = WATCH_PUBLISHING;
	w->publish = (struct unit_op){
		.unit = w->unit,
		.loop = w->unit->steward,
		.edit = publish_edit,
		.done = published,
	};
	unit_publish(&w->publish);
}

/* ---- A flush failed ---- */

static bool must_tell_failure(const struct unit_watch *w)
{
	return bdev_flush_failed(w->unit->bdev) && (w->told & 1u << UNIT_EVENT_FLUSH_FAILED) == 0;
}

static int failure_edit(struct unit_op *op, struct unit_view *next)
{
	next->flags |= UNIT_PROTECTED_BY_STORE;
	op->changes = live_protect(op->unit, next) ? UNIT_CHANGED_PROTECTION : 0;
	return 0;
}

static void failure_published(struct unit_op *op, int err)
{
	struct unit_watch *w = container_of(op, struct unit_watch, failure);

	w->failing = false;
	if (err == 0 && must_tell_failure(w)) {
		add_event(&w->told, UNIT_EVENT_FLUSH_FAILED);
		tell(w, 1u << UNIT_EVENT_FLUSH_FAILED);
	}
	stop_if_over(w);
}

static void publish_failure(struct unit_watch *w)
{
	w->failing = true;
	w->failure = (struct unit_op){
		.unit = w->unit,
		.loop = w->unit->steward,
		.edit = failure_edit,
		.done = failure_published,
	};
	unit_publish(&w->failure);
}

/* ---- Looking ---- */

static void probe_run(struct work *work)
{
	struct unit_watch *w = container_of(work, struct unit_watch, probe);
	struct bdev *b = w->unit->bdev;
	unsigned shift = bdev_info(b)->block_shift;
	uint64_t nblocks = bdev_nblocks(b);

	w->err = bdev_probe(b, &w->status);
	if (w->err != 0)
		w->status = (struct store_status){.flush_failed = w->status.flush_failed};
	w->smaller = w->err == 0 && w->status.size >> shift < nblocks;
	if (w->err == 0 && w->status.size >> shift > nblocks)
		bdev_resize(b, 0); /* what it did not take over now it finds with the next look */
}

static void keep_usage(struct unit_watch *w)
{
	struct unit_usage *usage = &w->unit->live.usage;

	__atomic_store_n(&usage->allocated, w->status.allocated, __ATOMIC_RELAXED);
	__atomic_store_n(&usage->available, w->status.available, __ATOMIC_RELAXED);
}

static void probe_done(struct work *work)
{
	struct unit_watch *w = container_of(work, struct unit_watch, probe);
	const struct unit_view *view = w->unit->view;
	struct unit_view next = *view;
	unsigned events;

	w->looked_ns = loop_now_ns(w->unit->steward);
	w->status.flush_failed |= bdev_flush_failed(w->unit->bdev);
	if (w->stopping) {
		rest(w);
		return;
	}
	if (w->err == 0)
		keep_usage(w);
	apply(w, &next, &events);
	if (next.flags != view->flags || next.size != view->size) {
		publish(w);
		return;
	}
	tell_found(w, events);
	rest(w);
}

static void look(struct unit_watch *w)
{
	loop_timer_stop(&w->timer);
	w->state = WATCH_PROBING;
	w->wanted = false;
	w->probe.run = probe_run;
	w->probe.done = probe_done;
	w->probe.loop = w->unit->steward;
	work_submit(w->unit->live.lane, &w->probe);
}

static void interval_over(struct loop_timer *timer)
{
	look(container_of(timer, struct unit_watch, timer));
}

/* Without memory for a timer it rests until somebody wants it. */
static void look_after(struct unit_watch *w, uint64_t gap_ns)
{
	uint64_t rested_ns = loop_now_ns(w->unit->steward) - w->looked_ns;

	loop_timer_start(&w->timer, gap_ns - min_u64(rested_ns, gap_ns));
}

static void rest(struct unit_watch *w)
{
	w->state = WATCH_RESTING;
	if (w->stopping)
		stop_if_over(w);
	else
		look_after(w, w->wanted ? LOOK_GAP_NS : w->config.interval_ns);
}

static void kicked(struct loop_msg *msg)
{
	struct unit_watch *w = container_of(msg, struct unit_watch, kick);

	__atomic_store_n(&w->kicked, false, __ATOMIC_SEQ_CST);
	if (w->stopping)
		return;
	if (!w->failing && must_tell_failure(w))
		publish_failure(w);
	w->wanted = true;
	if (w->state == WATCH_RESTING)
		look_after(w, LOOK_GAP_NS);
}

void unit_watch_now(struct unit *u)
{
	struct unit_watch *w = __atomic_load_n(&u->live.watch, __ATOMIC_ACQUIRE);

	if (w != NULL && !__atomic_exchange_n(&w->kicked, true, __ATOMIC_SEQ_CST))
		loop_post(u->steward, &w->kick);
}

void watch_trouble(struct unit *u, int err)
{
	if (err == -ENODEV || err == -EIO || err == -EROFS)
		unit_watch_now(u);
}

/* ---- Life ---- */

int unit_watch_start(struct unit *u, const struct unit_watch_config *config)
{
	struct unit_watch *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return -ENOMEM;
	w->unit = u;
	w->config = *config;
	w->kick.run = kicked;
	loop_timer_init(&w->timer, u->steward, interval_over);
	__atomic_store_n(&u->live.watch, w, __ATOMIC_RELEASE);
	unit_watch_now(u);
	return 0;
}

static void stop_told(struct loop_msg *msg)
{
	struct unit_watch *w = container_of(msg, struct unit_watch, stop);

	w->stopped(w->stop_arg);
}

static void stop_if_over(struct unit_watch *w)
{
	if (!w->stopping || w->failing || w->state != WATCH_RESTING)
		return;
	w->stop.run = stop_told;
	loop_post(w->stop_loop, &w->stop);
}

static void stop_arrived(struct loop_msg *msg)
{
	struct unit_watch *w = container_of(msg, struct unit_watch, stop);

	w->stopping = true;
	loop_timer_stop(&w->timer);
	if (w->state == WATCH_PUBLISHING)
		unit_op_cancel(&w->publish);
	if (w->failing)
		unit_op_cancel(&w->failure);
	stop_if_over(w);
}

void unit_watch_stop(struct unit *u, struct loop *loop, void (*stopped)(void *arg), void *arg)
{
	struct unit_watch *w = __atomic_load_n(&u->live.watch, __ATOMIC_ACQUIRE);

	w->stop_loop = loop;
	w->stopped = stopped;
	w->stop_arg = arg;
	w->stop.run = stop_arrived;
	loop_post(u->steward, &w->stop);
}

void watch_destroy(struct unit_watch *w)
{
	free(w);
}

struct unit_usage unit_usage(const struct unit *u)
{
	const struct unit_usage *usage = &u->live.usage;

	return (struct unit_usage){
		.allocated = __atomic_load_n(&usage->allocated, __ATOMIC_RELAXED),
		.available = __atomic_load_n(&usage->available, __ATOMIC_RELAXED),
	};
}
