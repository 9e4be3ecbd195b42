/*
 * vcache: a volatile write cache in front of a store, in process memory, so that killing the
 * process loses what was not flushed, as a power cut would. Used by fault, on its home loop only.
 */
#ifndef SPINDLE_STORE_VCACHE_H
#define SPINDLE_STORE_VCACHE_H

#include "store/overlay.h"
#include "store/store.h"

struct vcache {
	struct store *inner;
	bool flush_lies; /* a flush does nothing, and says it did */
	/* private */
	struct overlay active; /* what was written since the last flush began */
	struct overlay frozen; /* what the running flush writes down; older than all of `active` */
	bool busy;             /* the head of the gate runs */
	bool failed;           /* what was to be durable could not be written down */
	struct queue gate;     /* flushes and FUA writes, one after another, by io->msg.link */
	struct queue joined;   /* flushes that the running one answers */
	struct io step;        /* to `inner`, of the one that runs */
	struct io *through;    /* the FUA write that runs */
	uint64_t written_down; /* bytes of `frozen` before this offset are in `inner` */
	int err;
	struct iovec iov[IO_MAX_IOV];
};

void vcache_init(struct vcache *vc, struct store *inner);
/* What was not flushed is lost. */
void vcache_fini(struct vcache *vc);
/* Ends by io_end(). */
void vcache_submit(struct vcache *vc, struct io *io);

#endif
