/*
 * What the files of the core share with each other (store.c, lane.c, emulate.c). Back ends see
 * impl.h only, but for slice.c, which is as thin as they are.
 */
#ifndef SPINDLE_STORE_CORE_H
#define SPINDLE_STORE_CORE_H

#include "store/impl.h"

struct store_lane;

/* An io of the core's own (or of slice.c, which moves it) in the place of another (the parent), which it
 * looks like to the layers below. The parent stays as it is and is ended when the child has done its work. From a stack of
 * free ones in the lane of the parent's loop, where it returns to. */
struct store_child {
	struct io io;
	struct io *parent;
	struct store *store;
	struct store_lane *lane; /* of parent->loop */
	struct qnode link;
	/* On the way to the home loop and back: */
	struct loop_msg msg; /* the first of a batch carries it */
	struct queue batch;  /* the first of a batch: the others */
	int result;
};

/* On parent->loop, both. NULL: out of memory. */
struct store_child *store_child_get(struct store *s, struct io *parent);
/* Gives the child back, ends the parent. */
void store_child_end(struct store_child *c, int err);

int lanes_create(struct store *s);
void lanes_destroy(struct store *s);
/* Runs s->local on the home loop. */
store_io_fn lane_submit;

/* Emulations, run where the back end is called. */
store_io_fn store_write_flush; /* a write, then a flush */
store_io_fn store_zero;        /* the back end's zero, else writes of zeros; with IO_FUA a flush */

#endif
