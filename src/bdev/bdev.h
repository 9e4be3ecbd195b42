/*
 * bdev: a store seen as blocks: geometry, limits, checked byte I/O, range locks.
 * May use: base, loop, store. May be used by: unit, scsi, aoe, daemon.
 */
#ifndef SPINDLE_BDEV_H
#define SPINDLE_BDEV_H

#include "store/store.h"

struct bdev;

struct bdev_config {
	uint32_t block_size; /* 512 or 4096; 0: what the store has */
	bool read_only;
};

/* Fixed while it is open; the size in force is the unit view's. */
struct bdev_info {
	uint64_t nblocks;     /* when it was opened: see bdev_nblocks */
	uint32_t block_size;  /* bytes */
	uint8_t block_shift;  /* block_size == 1 << block_shift */
	uint8_t physical_exp; /* physical block = block_size << physical_exp */
	bool read_only, volatile_cache, rotational;
	uint32_t optimal_blocks;                    /* 0: unknown */
	uint32_t discard_blocks, discard_alignment; /* granularity; 0: cannot discard */
	bool discard_zeroes;
	uint16_t rotation_rate; /* see store_info */
	uint8_t form_factor;
};

/* Takes over the store, also when it fails. A last partial block is not served. -EINVAL: the block
 * size does not fit the device, or there is no whole block. */
int bdev_create(struct bdev **out, struct store *store, const struct bdev_config *config,
		struct diag *d);
void bdev_destroy(struct bdev *b); /* closes the store; nothing is in flight */
const struct bdev_info *bdev_info(const struct bdev *b);
struct store *bdev_store(struct bdev *b);
/* Any thread. Only grows. */
uint64_t bdev_nblocks(const struct bdev *b);
/* store_resize, seen as blocks; afterwards bdev_nblocks is the new size. I/O may be under way, one
 * at a time. Blocking. */
int bdev_resize(struct bdev *b, uint64_t nblocks);
/* store_probe; flush_failed also when a FLUSH of this disk ended -EIO. Any thread. Blocking. */
int bdev_probe(struct bdev *b, struct store_status *out);

/* Any thread: that alone, and at once. */
bool bdev_flush_failed(const struct bdev *b);

/* On io->loop. Offsets in bytes. Checked here once more, whatever was checked above: whole blocks,
 * iovecs that sum up to them, inside the disk, not writing where read-only: -EINVAL, -ERANGE,
 * -EROFS. Nothing to move ends 0. Ends by io->done, errors as store_errno() has them. After a FLUSH
 * that ended -EIO nothing that was acknowledged can be trusted to become durable any more: what
 * changes data ends -EROFS, a FLUSH -EIO, for ever. */
void bdev_submit(struct bdev *b, struct io *io);
/* See store_lend. -EINVAL and -ERANGE as above. */
int bdev_lend(struct bdev *b, struct loop *loop, uint64_t off, uint64_t len, struct iovec *iov,
	      unsigned max_iov);
void bdev_release(struct bdev *b, struct loop *loop, uint64_t off, uint64_t len);

/* ---- Range locks
 * ------------------------------------------------------------------------------------ Make a
 * read-modify-write of some blocks atomic against every overlapping write, of any loop. The disk is
 * striped by LBA (64 KiB each, 256 stripes over and over); a lock takes its stripes in ascending
 * order, so that none waits in a circle, and who waits longest at a stripe gets it first. A lock
 * over 16 MiB or more holds them all. Writers take them only while the unit's view says
 * UNIT_LOCKS_ARMED. */

struct range_lock {
	uint64_t off, len; /* bytes, of any length */
	bool exclusive;    /* an atomic operation; plain writes are shared among themselves */
	struct loop *loop;
	void (*granted)(struct range_lock *lock); /* on `loop`, unless range_lock returned true */
	/* private */
	struct bdev *bdev;
	struct list link;
	struct loop_msg msg;
	uint32_t first_stripe, next_stripe, nstripes;
};

/* true: held at once. false: `granted` comes later. */
bool range_lock(struct bdev *b, struct range_lock *lock);
/* Held, or granted. */
void range_unlock(struct range_lock *lock);
/* Stops waiting, from `granted` not having been called yet. true: it will not be granted. false:
 * `granted` is already on its way, and the lock is held. */
bool range_lock_cancel(struct range_lock *lock);
/* Any thread: exclusive locks that are held now, and how many were ever granted. */
struct range_lock_use {
	uint64_t held, granted;
};
struct range_lock_use range_lock_use(const struct bdev *b);

#endif
