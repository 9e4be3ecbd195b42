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
	struct qnode *free[LOOP_BUF_CLASSES];
	unsigned nfree[LOOP_BUF_CLASSES];
	unsigned low[LOOP_BUF_CLASSES]; /* the smallest nfree since the last trim */
};

void loop_bufs_init(struct loop_bufs *bufs);
/* All buffers were put back: those that were not are leaked. */
void loop_bufs_fini(struct loop_bufs *bufs);
/* Gives memory back that was not needed since the last trim, but for a few small buffers, and no
 * more than LOOP_TRIM_BUFS at a time: each costs an unmapping that all cores take part in, and a
 * loop at work does it. An engine calls it now and then. Returns whether there is something left
 * that a later trim could free. */
#define LOOP_TRIM_BUFS 32
bool loop_bufs_trim(struct loop_bufs *bufs);
/* Whether a trim could free something, now or later. */
bool loop_bufs_trimmable(const struct loop_bufs *bufs);

/* The engine's. */
struct loop_bufs *loop_bufs_of(struct loop *loop);

#endif
