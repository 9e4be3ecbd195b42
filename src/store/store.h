/*
 * store: bytes only. A store is a flat array of bytes that can be read, written, flushed, and
 * perhaps discarded. It knows no blocks, no SCSI and no clients. May use: base, loop. May be used
 * by: bdev and what assembles disks (daemon).
 *
 * A store is opened from text, TYPE:REST or just a path:
 *
 *   disk.img  file:disk.img  /dev/sdb  ram:4G  null:1T  slice:OPT=VALUE,...:STORE
 *   fault:OPT=VALUE,...:STORE
 *
 * Any loop submits to any store. What a back end cannot do is emulated once, in store.c.
 */
#ifndef SPINDLE_STORE_H
#define SPINDLE_STORE_H

#include "loop/loop.h"

struct store;
struct store_type;

struct store_info {
	uint64_t size; /* bytes */
	bool read_only;
	bool volatile_cache; /* a write is durable only after a flush, or with FUA */
	bool rotational;
	uint32_t logical_block, physical_block; /* bytes: the device's own; 512 where it has none */
	uint32_t optimal_io;                    /* bytes; 0: unknown */
	uint32_t discard_granularity, discard_alignment; /* bytes; granularity 0: cannot discard */
	bool discard_zeroes; /* what is discarded surely reads as zeros */
	bool keeps_tags;     /* store_tag_set works */
	bool known_again; /* store_fingerprint says the same after a restart, and never of another */
	/* As the device itself says (SBC-3 6.6.4); 0: it does not. */
	uint16_t rotation_rate; /* 1: does not rotate; else revolutions a minute */
	uint8_t form_factor;
};

/* Bytes of a store; `len` 0: to its end, wherever that is. */
struct store_part {
	uint64_t off, len;
};

struct store_config {
	uint64_t size;    /* file: makes a missing one of this size; 0: it must exist */
	bool provisional; /* file: one that is made is removed when it is closed, until store_keep() */
	bool read_only;
	bool direct;            /* past the page cache; -EINVAL for what has none */
	struct store_part part; /* file: what is used of it; the rest may be others' */
};

/* Opens what `spec` says. Blocking: for start-up. Types are found in the NULL-terminated `types`.
 */
int store_open(struct store **out, struct loop_set *set, const struct store_type *const *types,
	       const char *spec, const struct store_config *config, struct diag *d);
/* What was made for it stays, beyond its end. */
void store_keep(struct store *s);
/* No io is in flight. Blocking. */
void store_close(struct store *s);
/* Fixed while the store is open, but for what store_resize changes. */
const struct store_info *store_info(const struct store *s);
/* "file", "ram", ... */
const char *store_type_name(const struct store *s);
/* A type's own name, and one line on what REST means: for help texts. */
const char *store_type_word(const struct store_type *type);
const char *store_type_help(const struct store_type *type);

/* On io->loop. The range lies within the store (the caller's duty: bdev checks); all ops work, but
 * DISCARD ends -EOPNOTSUPP where discard_granularity is 0, and what changes data ends -EROFS on a
 * read-only store. Ends by io_end(). */
void store_submit(struct store *s, struct io *io);

/*
 * Lends the range as iovecs into the store's own memory, to be sent without a copy: the number of
 * iovecs used, or -EOPNOTSUPP. The bytes may change under a concurrent write, so never under a
 * digest. They stay mapped until store_release(), which is called on the same loop.
 */
int store_lend(struct store *s, struct loop *loop, uint64_t off, uint64_t len, struct iovec *iov,
	       unsigned max_iov);
void store_release(struct store *s, struct loop *loop, uint64_t off, uint64_t len);

/* See file_tag_get and file_fingerprint. -EOPNOTSUPP where a store keeps nothing. Errors of
 * store_tag_set as store_errno() has them; who may not write gets -EROFS. Blocking. */
ssize_t store_tag_get(struct store *s, const char *name, void *buf, size_t cap);
int store_tag_set(struct store *s, const char *name, const void *buf, size_t len);
int store_fingerprint(struct store *s, char *buf, size_t cap);

/* Gives the store this size, or takes over the size it has by now (0): at least what it had. I/O may
 * be under way; one at a time, and `info.size` is read by nobody but those who wait for this. Never
 * shrinks: -ERANGE. -EOPNOTSUPP: its size is fixed. Blocking. */
int store_resize(struct store *s, uint64_t size);

struct store_status {
	uint64_t size;                 /* bytes it could have after store_resize(s, 0) */
	bool read_only;                /* takes no writes now */
	bool flush_failed;             /* what was acknowledged may be lost: no writes any more */
	bool unlinked;                 /* a file without a name: its data end with the process */
	uint64_t allocated, available; /* bytes of space; UINT64_MAX: unknown */
};

/* How it is now: 0, -ENODEV when its disk is not there (any more), or another -errno: it could not
 * be found out. A store that is back after -ENODEV is the same disk as before. Any thread, also
 * while I/O is under way. Blocking. */
int store_probe(struct store *s, struct store_status *out);

/* What an error of the system means of a disk; other layers give some of the rest meanings of their
 * own, which an io must never end with:
 *
 *   -ENODEV  it is lost          -EROFS  it takes no writes
 *   -ENOSPC  there is no space   -EIO    everything else that nobody could do anything about
 *
 * and as they are: -ENOMEM, -EINVAL, -EOPNOTSUPP, -ETIMEDOUT and what a device fails with although its
 * medium is good. */
int store_errno(int err);

/* For tests of a fault store: everything that a rule made hang goes on, as if the hang were over
 * now; what comes later hangs as before. Any thread, and loops need not run yet. -EINVAL: not a
 * fault store. */
int store_fault_release(struct store *s);

extern const struct store_type store_file, store_ram, store_null, store_slice, store_fault;

#endif
