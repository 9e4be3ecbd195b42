/*
 * What the engines of this folder share: the pools behind loop_buf_get(). Each engine embeds one
 * struct loop_bufs in its struct loop and says where it is. Only files of src/loop (and their unit
 * tests) include this.
 */
#ifndef SPINDLE_LOOP_IMPL_H
#define SPINDLE_LOOP_IMPL_H

#include "loop/loop.h"

#define LOOP_BUF_CLASSES 4

/* Touched on its loop only. A stack a size: what was given back last is warm. */
struct loop_bufs {
	struct loop *loop;
	struct qnode *free[LOOP_BUF_CLASSES];
	unsigned nfree[LOOP_BUF_CLASSES];
	unsigned low[LOOP_BUF_CLASSES]; /* the smallest nfree since the last trim */
	/* The budget, share.c. */
	uint64_t budget;
	uint64_t total, idle;          /* bytes: lent and charged; in the free lists */
	uint64_t used[LOOP_NEEDS];     /* `total` by kind */
	uint64_t ceilings[LOOP_NEEDS]; /* for `used` */
	struct list urgent;            /* those that wait with LOOP_URGENT */
	struct list waiting;           /* shares with somebody who waits, the next one first */
	/* Since when the first one is next and lacks what others have, or 0; when that had last been
	 * so for LOOP_STUCK_NS. */
	uint64_t starved_ns, stuck_ns;
	bool serving; /* `serve` is on its way */
	struct loop_msg serve;
};

/* What one client has of a loop's memory: share.c. */
struct loop_share {
	struct loop_bufs *bufs;
	uint64_t held[LOOP_NEEDS]; /* bytes */
	struct list waits;         /* struct loop_wait, the oldest first */
	struct list link;          /* in bufs->waiting, while there are some */
	bool closed;
};

/* `budget_bytes` 0: no bounds. */
void loop_bufs_init(struct loop_bufs *bufs, struct loop *loop, uint64_t budget_bytes);
/* All buffers were put back: those that were not are leaked. */
void loop_bufs_fini(struct loop_bufs *bufs);
/* Gives memory back that was not needed since the last trim, but for a few small buffers, and no
 * more than LOOP_TRIM_BUFS at a time: each costs an unmapping that all cores take part in, and a
 * loop at work does it. An engine calls it now and then. Returns whether there is something left
 * that a later trim could free. */
#define LOOP_TRIM_BUFS 32
bool loop_bufs_trim(struct loop_bufs *bufs);
/* Lent, whatever the ceilings say; NULL: the system has none. */
struct loop_buf *loop_bufs_lend(struct loop_bufs *bufs, uint32_t len_bytes, enum loop_need need,
				struct loop_share *share);
/* share.c: as loop_bufs_init() does. */
void loop_budget_init(struct loop_bufs *bufs, uint64_t budget_bytes);
/* A closed share that holds nothing any more is freed. */
void loop_share_settle(struct loop_share *share);
bool loop_bufs_fit(const struct loop_bufs *bufs, enum loop_need need, uint64_t size);
/* Those that wait are looked at soon. */
void loop_bufs_serve(struct loop_bufs *bufs);
static inline bool loop_bufs_awaited(const struct loop_bufs *bufs)
{
	return !list_empty(&bufs->waiting) || !list_empty(&bufs->urgent);
}
/* Whether a trim could free something, now or later. */
bool loop_bufs_trimmable(const struct loop_bufs *bufs);

/* The engine's. */
struct loop_bufs *loop_bufs_of(struct loop *loop);

#endif
