/*
 * The channel: the gate between the tasks of one loop and the disk. Hot path: what a single I/O
 * costs is here, in plain ints that no other thread touches.
 *
 *           unit_submit
 *                |
 *     gated? ----+--yes--> PARKED --reopened--.
 *                |no                          |
 *     checks <---+----------------------------'
 *       |    `--refused--> ENDING --> done
 *       |
 *     locks armed and taken by others? --yes--> LOCKING --granted--> checks again, or PARKED
 *       |no
 *     STORED (inflight) --> done (a DISCARD may be flushed before that)
 */
#include "unit/impl.h"

#include <errno.h>

/* Parked I/O that is let go in one step, so that a reopening does not hold up its loop. */
#define RESUME_BATCH 32

enum uio_state {
	UIO_IDLE,
	UIO_PARKED,
	UIO_LOCKING,
	UIO_LOCK_COMING, /* cancelled too late: the lock is on its way and only to be given back */
	UIO_STORED,
	UIO_STORED_LOCKED, /* and the range lock is ours */
	UIO_ENDING,
};

void channel_init(struct channel *c, struct unit *u, struct loop *loop)
{
	*c = (struct channel){.unit = u, .bdev = u->bdev, .loop = loop};
	list_init(&c->tasks);
	list_init(&c->parked);
	list_init(&c->locking);
	list_init(&c->aborts);
	list_init(&c->attached);
	list_init(&c->joining);
}

const struct unit_view *channel_view(const struct channel *c)
{
	return c->view;
}

struct unit *channel_unit(const struct channel *c)
{
	return c->unit;
}

/* ---- Tasks ---- */

void unit_task_begin(struct channel *c, struct unit_task *t)
{
	t->aborted = false;
	t->channel = c;
	t->serial = ++c->last_serial;
	t->op = NULL;
	t->busy = 0;
	if (list_empty(&c->tasks))
		stats_busy(c);
	list_push_back(&c->tasks, &t->link);
}

void unit_task_end(struct unit_task *t)
{
	CHECK(t->busy == 0 && t->op == NULL);
	list_remove(&t->link);
	if (list_empty(&t->channel->tasks))
		stats_idle(t->channel);
	if (t->aborted)
		channel_victim_gone(t->channel, t);
}

void unit_visit_tasks(const struct unit_attach *a, void (*visit)(struct unit_task *t))
{
	list_for_each (pos, &a->channel->tasks) {
		struct unit_task *t = list_entry(pos, struct unit_task, link);

		if (t->nexus_id == a->nexus_id)
			visit(t);
	}
}

bool unit_has_victim(const struct unit_attach *a, const struct unit_op *op)
{
	list_for_each (pos, &a->channel->tasks) {
		if (op->matches(op, list_entry(pos, struct unit_task, link)))
			return true;
	}
	return false;
}

/* ---- The end of an I/O ---- */

/* The owner may free it, or submit it again, from here on. */
static void give_back(struct unit_io *uio)
{
	uio->state = UIO_IDLE;
	uio->task->busy--;
	uio->done(uio);
}

static void refused(struct io *io)
{
	give_back(container_of(io, struct unit_io, io));
}

static void end_early(struct unit_io *uio, int err)
{
	uio->state = UIO_ENDING;
	uio->io.done = refused;
	io_finish(&uio->io, err);
}

static void stored(struct io *io)
{
	struct unit_io *uio = container_of(io, struct unit_io, io);
	struct channel *c = uio->task->channel;

	if (uio->state == UIO_STORED_LOCKED)
		range_unlock(&uio->lock);
	stats_count(&c->stats, io->op, io->len, io->result, loop_now_ns(c->loop) - uio->started_ns);
	if (io->result != 0)
		watch_trouble(c->unit, io->result);
	if (--c->inflight == 0 && c->draining) {
		c->draining = false;
		channel_drained(c);
	}
	give_back(uio);
}

/* ---- On its way ---- */

static bool changes_data(enum io_op op)
{
	return op == IO_WRITE || op == IO_ZERO || op == IO_DISCARD;
}

#define PROTECTED   (UNIT_WRITE_PROTECTED | UNIT_SOFT_PROTECTED)
#define RESTRICTING (PROTECTED | UNIT_STOPPED | UNIT_MISSING | UNIT_REWRITING)

/* A conflict comes before all else that could be said of the I/O. Kept out of the way of the I/O of a
 * disk that nobody restricts. */
__attribute__((noinline, cold)) static int check_restrictions(const struct unit_view *v,
							      const struct unit_io *uio)
{
	const struct io *io = &uio->io;
	bool internal = (io->flags & UNIT_IO_INTERNAL) != 0;

	if (v->holder != 0 && v->holder != uio->task->nexus_id && !internal)
		return -EACCES;
	if ((v->flags & UNIT_MISSING) != 0)
		return -ENODEV;
	if ((v->flags & UNIT_REWRITING) != 0 && !internal)
		return -EBUSY;
	if ((v->flags & UNIT_STOPPED) != 0 && io->op != IO_FLUSH)
		return -ENOMEDIUM;
	if ((v->flags & PROTECTED) != 0 && changes_data(io->op))
		return -EROFS;
	return 0;
}

static int check(const struct channel *c, const struct unit_io *uio)
{
	const struct unit_view *v = c->view;
	const struct io *io = &uio->io;
	int err;

	if (uio->task->aborted)
		return -ECANCELED;
	if (uio->generation != 0 && uio->generation != v->generation)
		return -ESTALE;
	if (v->holder != 0 || (v->flags & RESTRICTING) != 0) {
		err = check_restrictions(v, uio);
		if (err != 0)
			return err;
	}
	if (io->op != IO_FLUSH && (io->off > v->size || io->len > v->size - io->off))
		return -ERANGE;
	return 0;
}

static void discard_flushed(struct io *io)
{
	io->op = IO_DISCARD;
	stored(io);
}

/* Still the same passage: it is in the store until the flush has ended, too. */
static void discarded(struct io *io)
{
	struct unit_io *uio = container_of(io, struct unit_io, io);

	if (io->result == 0 && uio->task->aborted)
		io->result = -ECANCELED;
	if (io->result != 0) {
		stored(io);
		return;
	}
	io->op = IO_FLUSH;
	io->done = discard_flushed;
	bdev_submit(uio->task->channel->bdev, io);
}

/*
 * An I/O that changes data. In write-through nothing may read after a power cut as it did before.
 * There is no FUA for a discard: one after which old data may be read at any time (SBC-3 4.7.3.5)
 * promised nothing that could be lost, and the other has its zeros made durable by a flush.
 */
static void enter_change(struct channel *c, struct unit_io *uio, enum uio_state state)
{
	bool through = (c->view->flags & UNIT_WRITE_THROUGH) != 0;

	if (through && uio->io.op != IO_DISCARD)
		uio->io.flags |= IO_FUA;
	c->inflight++;
	uio->state = state;
	uio->io.done = stored;
	if (through && uio->io.op == IO_DISCARD && bdev_info(c->bdev)->discard_zeroes)
		uio->io.done = discarded;
	bdev_submit(c->bdev, &uio->io);
}

static void park(struct channel *c, struct unit_io *uio)
{
	uio->state = UIO_PARKED;
	list_push_back(&c->parked, &uio->link);
	c->gated = true;
}

/* After time spent waiting for the lock nothing that was checked before counts any more. */
static void granted(struct range_lock *lock)
{
	struct unit_io *uio = container_of(lock, struct unit_io, lock);
	struct channel *c = uio->task->channel;
	bool cancelled = uio->state == UIO_LOCK_COMING;
	int err = cancelled ? -ECANCELED : check(c, uio);

	list_remove(&uio->link);
	if (err == 0 && !c->closed) {
		enter_change(c, uio, UIO_STORED_LOCKED);
		return;
	}
	range_unlock(lock);
	if (err != 0)
		end_early(uio, err);
	else
		park(c, uio);
}

/* true: it may go on, with the lock. */
static bool take_lock(struct channel *c, struct unit_io *uio)
{
	uio->lock.off = uio->io.off;
	uio->lock.len = uio->io.len;
	uio->lock.exclusive = false;
	uio->lock.loop = c->loop;
	uio->lock.granted = granted;
	if (range_lock(c->bdev, &uio->lock))
		return true;
	uio->state = UIO_LOCKING;
	list_push_back(&c->locking, &uio->link);
	return false;
}

static void enter(struct channel *c, struct unit_io *uio)
{
	c->inflight++;
	uio->state = UIO_STORED;
	uio->io.done = stored;
	bdev_submit(c->bdev, &uio->io);
}

/* Changes data while that takes a lock, must be durable, or both. */
static void start_change(struct channel *c, struct unit_io *uio)
{
	if ((c->view->flags & UNIT_LOCKS_ARMED) == 0 || (uio->io.flags & UNIT_IO_LOCKED) != 0)
		enter_change(c, uio, UIO_STORED);
	else if (take_lock(c, uio))
		enter_change(c, uio, UIO_STORED_LOCKED);
}

/* The channel is open. */
static void start(struct channel *c, struct unit_io *uio)
{
	int err = check(c, uio);

	if (err != 0) {
		end_early(uio, err);
		return;
	}
	if ((c->view->flags & (UNIT_LOCKS_ARMED | UNIT_WRITE_THROUGH)) == 0 ||
	    !changes_data(uio->io.op))
		enter(c, uio);
	else
		start_change(c, uio);
}

void unit_submit(struct unit_io *uio)
{
	struct channel *c = uio->task->channel;

	uio->io.loop = c->loop;
	uio->task->busy++;
	uio->started_ns = loop_now_ns(c->loop);
	if (!c->gated)
		start(c, uio);
	else if (uio->task->aborted)
		end_early(uio, -ECANCELED);
	else
		park(c, uio);
}

int unit_lend(struct unit_io *uio, struct iovec *iov, unsigned max_iov)
{
	struct channel *c = uio->task->channel;
	int n;

	if (c->gated || check(c, uio) != 0)
		return -EOPNOTSUPP;
	n = bdev_lend(c->bdev, c->loop, uio->io.off, uio->io.len, iov, max_iov);
	if (n > 0)
		stats_count(&c->stats, IO_READ, uio->io.len, 0, 0);
	return n;
}

void unit_lend_end(struct unit_io *uio)
{
	const struct channel *c = uio->task->channel;

	bdev_release(c->bdev, c->loop, uio->io.off, uio->io.len);
}

static void update_gate(struct channel *c)
{
	c->gated = c->closed || !list_empty(&c->parked);
}

static bool withdraw(struct channel *c, struct unit_io *uio)
{
	if (uio->state == UIO_LOCKING && !range_lock_cancel(&uio->lock)) {
		uio->state = UIO_LOCK_COMING;
		return false;
	}
	if (uio->state != UIO_PARKED && uio->state != UIO_LOCKING)
		return false;
	list_remove(&uio->link);
	update_gate(c);
	return true;
}

bool unit_io_cancel(struct unit_io *uio)
{
	if (!withdraw(uio->task->channel, uio))
		return false;
	uio->state = UIO_IDLE;
	uio->task->busy--;
	return true;
}

static void sweep(struct channel *c, struct list *waiting)
{
	list_for_each_safe (pos, waiting) {
		struct unit_io *uio = list_entry(pos, struct unit_io, link);

		if (uio->task->aborted && withdraw(c, uio))
			end_early(uio, -ECANCELED);
	}
}

void channel_sweep(struct channel *c)
{
	sweep(c, &c->parked);
	sweep(c, &c->locking);
}

/* ---- Closing and opening ---- */

void channel_close(struct channel *c)
{
	c->closed = true;
	c->gated = true;
	if (c->inflight == 0)
		channel_drained(c);
	else
		c->draining = true;
}

static void resume_later(struct channel *c);

static void resume(struct loop_msg *msg)
{
	struct channel *c = container_of(msg, struct channel, resume);

	c->resuming = false;
	for (unsigned n = 0; n < RESUME_BATCH && !c->closed; n++) {
		struct list *first = list_pop_front(&c->parked);

		if (first == NULL)
			break;
		start(c, list_entry(first, struct unit_io, link));
	}
	update_gate(c);
	resume_later(c);
}

static void resume_later(struct channel *c)
{
	if (c->closed || c->resuming || list_empty(&c->parked))
		return;
	c->resuming = true;
	c->resume.run = resume;
	loop_post(c->loop, &c->resume);
}

void channel_open(struct channel *c)
{
	struct unit *u = c->unit;

	c->view = u->offer.view;
	c->closed = false;
	c->draining = false;
	if (c->join == CHANNEL_JOINING)
		channel_joined(c);
	if (u->offer.changes != 0)
		channel_tell(c, u->offer.changes, u->offer.origin);
	update_gate(c);
	resume_later(c);
}
