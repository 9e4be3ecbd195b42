/*
 * vcache: writes, zeroing and discards go into an overlay and are done; reads see the overlay over
 * the inner store. Flushes and FUA writes pass a gate one at a time, in the order they came:
 *
 *   flush:      active becomes frozen -> its pieces are written down -> inner flush -> forgotten
 *   FUA write:  into `active`, over what is older there, and to the inner store
 *
 * What the gate is for: while a flush writes older bytes down, no FUA write puts newer ones under
 * them; and two FUA writes of the same bytes reach the inner store in the order in which reads saw
 * them. A FUA write is seen from its turn on, not before: else a write that came later, and was
 * flushed before that turn, would be seen and then be overtaken. Writes that are not FUA never
 * wait. A flush covers what was in the overlay when its turn came, so all that completed before it.
 *
 * After a flush that failed, nothing can be trusted to become durable any more: everything that
 * writes or flushes ends -EIO, reads go on.
 */
#include "store/vcache.h"

#include <errno.h>
#include <stdlib.h>

#define DOWN_MAX_BYTES (1 * MiB)

void vcache_init(struct vcache *vc, struct store *inner)
{
	*vc = (struct vcache){.inner = inner};
	queue_init(&vc->gate);
	queue_init(&vc->joined);
}

void vcache_fini(struct vcache *vc)
{
	overlay_clear(&vc->active);
	overlay_clear(&vc->frozen);
}

static void gate_next(struct vcache *vc);

/* Later in this turn: an inner store that ends everything at once does not make us recurse. */
static void defer_step(struct vcache *vc, void (*run)(struct loop_msg *msg))
{
	vc->step.msg.run = run;
	loop_defer(vc->step.loop, &vc->step.msg);
}

static struct vcache *vcache_of(struct loop_msg *msg)
{
	return container_of(msg, struct vcache, step.msg);
}

/* ---- Flush ----------------------------------------------------------------------------------- */

static void flush_end(struct loop_msg *msg)
{
	struct vcache *vc = vcache_of(msg);
	struct queue joined;
	struct qnode *n;
	int err = vc->err;

	if (err == 0)
		overlay_clear(&vc->frozen);
	else
		vc->failed = true; /* and `frozen` stays, for reads */
	queue_init(&joined);
	queue_splice(&joined, &vc->joined);
	gate_next(vc);
	while ((n = queue_pop(&joined)) != NULL)
		io_end(container_of(n, struct io, msg.link), err);
}

static void flush_step(struct loop_msg *msg);

static void flush_step_ended(struct io *io, int err)
{
	struct vcache *vc = container_of(io, struct vcache, step);

	/* A discard is a hint: the inner store may have its reasons, an alignment for one. */
	if (io->op == IO_DISCARD)
		err = 0;
	vc->err = err;
	defer_step(vc, err != 0 || io->op == IO_FLUSH ? flush_end : flush_step);
}

/* Neighbouring pieces of data from p on become one write. */
static void gather_data(struct vcache *vc, const struct piece *p)
{
	struct io *io = &vc->step;

	while (p != NULL && p->kind == PIECE_DATA && p->off == io->off + io->len &&
	       io->niov < IO_MAX_IOV && (io->niov == 0 || io->len + p->len <= DOWN_MAX_BYTES)) {
		vc->iov[io->niov].iov_base = (void *)(uintptr_t)p->data;
		vc->iov[io->niov++].iov_len = p->len;
		io->len += p->len;
		p = overlay_next(&vc->frozen, io->off + io->len);
	}
}

static void flush_step(struct loop_msg *msg)
{
	static const struct {
		enum io_op op;
		unsigned flags;
	} down[] = {
		[PIECE_DATA] = {IO_WRITE, 0},
		[PIECE_ZERO] = {IO_ZERO, 0},
		[PIECE_ZERO_UNMAP] = {IO_ZERO, IO_MAY_UNMAP},
		[PIECE_DISCARD] = {IO_DISCARD, 0},
	};
	struct vcache *vc = vcache_of(msg);
	const struct piece *p = overlay_next(&vc->frozen, vc->written_down);
	struct io *io = &vc->step;

	*io = (struct io){.op = IO_FLUSH, .ended = flush_step_ended, .loop = io->loop};
	if (p != NULL) {
		io->op = down[p->kind].op;
		io->flags = down[p->kind].flags;
		io->off = p->off;
		io->iov = vc->iov;
		if (p->kind == PIECE_DATA)
			gather_data(vc, p);
		else
			io->len = p->len;
		/* A discard that must read zeros afterwards is more than a hint. */
		if (p->kind == PIECE_DISCARD && store_info(vc->inner)->discard_zeroes) {
			io->op = IO_ZERO;
			io->flags = IO_MAY_UNMAP;
		}
		vc->written_down = io->off + io->len;
	}
	store_submit(vc->inner, io);
}

static void flush_begin(struct vcache *vc, struct io *io)
{
	queue_push(&vc->joined, &io->msg.link);
	while (!queue_empty(&vc->gate)) {
		struct io *next = container_of(vc->gate.head, struct io, msg.link);

		if (next->op != IO_FLUSH)
			break;
		queue_push(&vc->joined, queue_pop(&vc->gate));
	}
	vc->frozen = vc->active;
	vc->active.root = NULL;
	vc->written_down = 0;
	vc->step.loop = io->loop;
	defer_step(vc, flush_step);
}

/* ---- Into the overlay ------------------------------------------------------------------------ */

static int put(struct vcache *vc, const struct io *io)
{
	enum piece_kind kind = PIECE_DATA;

	if (io->op == IO_DISCARD)
		kind = PIECE_DISCARD;
	else if (io->op == IO_ZERO)
		kind = io->flags & IO_MAY_UNMAP ? PIECE_ZERO_UNMAP : PIECE_ZERO;
	if (io->len == 0)
		return 0;
	return overlay_put(&vc->active, io->off, io->len, kind,
			   kind == PIECE_DATA ? io->iov : NULL);
}

/* ---- FUA ------------------------------------------------------------------------------------- */

static void through_end(struct loop_msg *msg)
{
	struct vcache *vc = vcache_of(msg);
	struct io *io = vc->through;
	int err = vc->err;

	gate_next(vc);
	io_end(io, err);
}

static void through_ended(struct io *step, int err)
{
	struct vcache *vc = container_of(step, struct vcache, step);

	vc->err = err;
	defer_step(vc, through_end);
}

static void through_begin(struct vcache *vc, struct io *io)
{
	vc->through = io;
	vc->step = (struct io){
		.op = io->op,
		.flags = io->flags,
		.off = io->off,
		.len = io->len,
		.iov = io->iov,
		.niov = io->niov,
		.ended = through_ended,
		.loop = io->loop,
	};
	vc->err = put(vc, io);
	if (vc->err != 0)
		defer_step(vc, through_end);
	else
		store_submit(vc->inner, &vc->step);
}

/* ---- The gate -------------------------------------------------------------------------------- */

static void gate_next(struct vcache *vc)
{
	struct qnode *n;

	vc->busy = true;
	while ((n = queue_pop(&vc->gate)) != NULL) {
		struct io *io = container_of(n, struct io, msg.link);

		if (vc->failed) {
			io_end(io, -EIO);
			continue;
		}
		if (io->op == IO_FLUSH)
			flush_begin(vc, io);
		else
			through_begin(vc, io);
		return;
	}
	vc->busy = false;
}

static void gate_enter(struct vcache *vc, struct io *io)
{
	queue_push(&vc->gate, &io->msg.link);
	if (!vc->busy)
		gate_next(vc);
}

/* ---- The ops --------------------------------------------------------------------------------- */

static void cache_change(struct vcache *vc, struct io *io)
{
	if (vc->failed)
		io_end(io, -EIO);
	else if (io->op != IO_DISCARD && io->flags & IO_FUA)
		gate_enter(vc, io);
	else
		io_end(io, put(vc, io));
}

static void cache_flush(struct vcache *vc, struct io *io)
{
	if (vc->flush_lies)
		io_end(io, 0);
	else if (vc->failed)
		io_end(io, -EIO);
	else
		gate_enter(vc, io);
}

/* What the overlay had when the read came, over what the inner store gives. The overlay itself may
 * have been written down and forgotten when the inner read, which was earlier, has ended. */
struct merged_read {
	struct io io;
	struct io *parent;
	struct overlay seen;
};

static void merged_end(struct merged_read *m, int err)
{
	struct io *parent = m->parent;

	overlay_clear(&m->seen);
	free(m);
	io_end(parent, err);
}

static void merged_ended(struct io *io, int err)
{
	struct merged_read *m = container_of(io, struct merged_read, io);

	if (err == 0)
		overlay_read(&m->seen, io->off, io->len, io->iov);
	merged_end(m, err);
}

/* The distance from off to the next piece, at most len. */
static uint64_t gap(const struct overlay *o, uint64_t off, uint64_t len)
{
	const struct piece *p = overlay_next(o, off);

	if (p == NULL)
		return len;
	return p->off <= off ? 0 : min_u64(len, p->off - off);
}

static struct merged_read *merged_new(struct io *io, void (*ended)(struct io *io, int err))
{
	struct merged_read *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return NULL;
	m->parent = io;
	m->io = (struct io){
		.op = io->op,
		.off = io->off,
		.len = io->len,
		.iov = io->iov,
		.niov = io->niov,
		.ended = ended,
		.loop = io->loop,
	};
	return m;
}

static void cache_read(struct vcache *vc, struct io *io)
{
	struct merged_read *m;
	int err;

	if (gap(&vc->active, io->off, io->len) == io->len &&
	    gap(&vc->frozen, io->off, io->len) == io->len) {
		store_submit(vc->inner, io);
		return;
	}
	m = merged_new(io, merged_ended);
	if (m == NULL) {
		io_end(io, -ENOMEM);
		return;
	}
	err = overlay_copy(&m->seen, &vc->frozen, io->off, io->len);
	if (err == 0)
		err = overlay_copy(&m->seen, &vc->active, io->off, io->len);
	if (err != 0)
		merged_end(m, err);
	else
		store_submit(vc->inner, &m->io);
}

static void extent_ended(struct io *io, int err)
{
	struct merged_read *m = container_of(io, struct merged_read, io);

	m->parent->extent = io->extent;
	merged_end(m, err);
}

static void extent_of_piece(const struct overlay *o, struct io *io, uint64_t max_len)
{
	const struct piece *p = overlay_next(o, io->off);

	io->extent.len_bytes = min_u64(max_len, p->off + p->len - io->off);
	io->extent.hole = p->kind != PIECE_DATA;
	io_end(io, 0);
}

static void cache_extent(struct vcache *vc, struct io *io)
{
	uint64_t to_active = gap(&vc->active, io->off, io->len);
	uint64_t to_frozen = gap(&vc->frozen, io->off, io->len);
	struct merged_read *m;

	if (io->len != 0 && to_active == 0) {
		extent_of_piece(&vc->active, io, io->len);
		return;
	}
	if (io->len != 0 && to_frozen == 0) {
		extent_of_piece(&vc->frozen, io, to_active);
		return;
	}
	m = merged_new(io, extent_ended);
	if (m == NULL) {
		io_end(io, -ENOMEM);
		return;
	}
	m->io.len = min_u64(to_active, to_frozen);
	store_submit(vc->inner, &m->io);
}

void vcache_submit(struct vcache *vc, struct io *io)
{
	static void (*const ops[IO_NOPS])(struct vcache * vc, struct io * io) = {
		[IO_READ] = cache_read,      [IO_WRITE] = cache_change, [IO_FLUSH] = cache_flush,
		[IO_DISCARD] = cache_change, [IO_ZERO] = cache_change,  [IO_EXTENT] = cache_extent,
	};

	ops[io->op](vc, io);
}
