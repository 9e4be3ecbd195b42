/*
 * What the files of bdev share: the disk with its lock stripes.
 */
#ifndef SPINDLE_BDEV_IMPL_H
#define SPINDLE_BDEV_IMPL_H

#include "bdev/bdev.h"

#include <pthread.h>
#include <stdatomic.h>

/* A stripe is every RANGE_STRIPES-th piece of RANGE_STRIPE_BYTES of the disk. */
#define RANGE_STRIPES      256u
#define RANGE_STRIPE_SHIFT 16

/* On a cache line of its own: neighbours are taken by other loops. */
struct range_stripe {
	pthread_mutex_t mutex;
	uint32_t shared; /* holders */
	bool exclusive;  /* held by one alone */
	struct list waiting;
} __attribute__((aligned(64)));

struct bdev {
	struct store *store;
	struct bdev_info info;
	_Atomic(uint64_t) nblocks; /* only grows */
	atomic_bool flush_failed;
	struct range_stripe stripes[RANGE_STRIPES];
	struct range_lock_use use __attribute__((aligned(64))); /* atomic */
};

void range_stripes_init(struct bdev *b);
void range_stripes_fini(struct bdev *b);

#endif
