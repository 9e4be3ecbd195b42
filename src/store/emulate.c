/*
 * What a back end cannot do itself, done once for all of them by what it can. Apart from store.c,
 * because these are small state machines of their own.
 */
#include "store/core.h"

#include <errno.h>
#include <stdlib.h>

/* ---- A write with IO_FUA: the write, then a flush ---------------------------------------------
 */

static void run_child(struct store_child *c)
{
	c->store->local.run[0][c->io.op](c->store, &c->io);
}

static void flush_ended(struct io *io, int err)
{
	store_child_end(container_of(io, struct store_child, io), err);
}

static void write_ended(struct io *io, int err)
{
	struct store_child *c = container_of(io, struct store_child, io);

	if (err != 0) {
		store_child_end(c, err);
		return;
	}
	io->op = IO_FLUSH;
	io->ended = flush_ended;
	run_child(c);
}

void store_write_flush(struct store *s, struct io *io)
{
	struct store_child *c = store_child_get(s, io);

	if (c == NULL) {
		io_end(io, -ENOMEM);
		return;
	}
	c->io.flags &= ~(unsigned)IO_FUA;
	c->io.ended = write_ended;
	run_child(c);
}

/* ---- Zeroing -----------------------------------------------------------------------------------
 *
 *   native --EOPNOTSUPP, or there is none--> chunk -> chunk ... -> [flush] -> end
 *      \-------------------------------------------------------------/
 *
 * IO_FUA is a flush at the end unless the native zeroing heeds it. Each step is deferred, so that a
 * store that ends its writes at once does not recurse.
 */

#define ZERO_IOV 16

struct zeroing {
	struct io io; /* of the step that runs */
	struct io *parent;
	struct store *store;
	uint64_t done; /* bytes */
	bool flushing;
	struct iovec iov[ZERO_IOV];
};

static void zeroing_finish(struct zeroing *z, int err)
{
	struct io *parent = z->parent;

	free(z);
	io_end(parent, err);
}

static void zeroing_next(struct loop_msg *msg);

static void zeroing_ended(struct io *io, int err)
{
	struct zeroing *z = container_of(io, struct zeroing, io);

	if (err != 0 || z->flushing) {
		zeroing_finish(z, err);
		return;
	}
	z->done += io->len;
	io->msg.run = zeroing_next;
	loop_defer(io->loop, &io->msg);
}

static void zeroing_flush(struct zeroing *z)
{
	if (!(z->parent->flags & IO_FUA) || z->store->type->flush == NULL) {
		zeroing_finish(z, 0);
		return;
	}
	z->flushing = true;
	z->io.op = IO_FLUSH;
	z->io.len = 0;
	z->io.niov = 0;
	z->store->type->flush(z->store, &z->io);
}

static void zeroing_step(struct zeroing *z)
{
	uint64_t left = z->parent->len - z->done;

	if (left == 0) {
		zeroing_flush(z);
		return;
	}
	z->io.op = IO_WRITE;
	z->io.flags = 0;
	z->io.off = z->parent->off + z->done;
	z->io.len = min_u64(left, ZERO_IOV * STORE_ZEROS_LEN);
	z->io.iov = z->iov;
	z->io.niov = store_zeros_iov(z->iov, ZERO_IOV, z->io.len);
	z->io.ended = zeroing_ended;
	z->store->type->write(z->store, &z->io);
}

static void zeroing_next(struct loop_msg *msg)
{
	zeroing_step(container_of(msg, struct zeroing, io.msg));
}

static void native_ended(struct io *io, int err)
{
	struct zeroing *z = container_of(io, struct zeroing, io);

	if (err == -EOPNOTSUPP) {
		zeroing_step(z);
	} else if (err != 0 || z->store->type->writes_fua) {
		zeroing_finish(z, err);
	} else {
		io->ended = zeroing_ended;
		zeroing_flush(z);
	}
}

void store_zero(struct store *s, struct io *io)
{
	struct zeroing *z = malloc(sizeof(*z));

	if (z == NULL) {
		io_end(io, -ENOMEM);
		return;
	}
	z->parent = io;
	z->store = s;
	z->done = 0;
	z->flushing = false;
	z->io = (struct io){
		.op = IO_ZERO,
		.flags = s->type->writes_fua ? io->flags : io->flags & ~(unsigned)IO_FUA,
		.off = io->off,
		.len = io->len,
		.ended = native_ended,
		.loop = io->loop,
	};
	if (s->type->zero != NULL)
		s->type->zero(s, &z->io);
	else
		zeroing_step(z);
}
