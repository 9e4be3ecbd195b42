/*
 * overlay: an ordered map from byte ranges to what was last written to them, or to "zeros". Newer
 * ranges cut older ones. It is the volatile cache of a fault store. One loop only.
 */
#ifndef SPINDLE_STORE_OVERLAY_H
#define SPINDLE_STORE_OVERLAY_H

#include <sys/uio.h>

#include "base/base.h"

enum piece_kind {
	PIECE_DATA,
	PIECE_ZERO,       /* reads zeros */
	PIECE_ZERO_UNMAP, /* and may lose its space */
	PIECE_DISCARD,    /* reads zeros until it is written down */
};

struct blob; /* bytes that several pieces share */

struct piece {
	uint64_t off, len; /* bytes; read only for users */
	enum piece_kind kind;
	const uint8_t *data; /* len bytes, NULL unless PIECE_DATA */
	/* private */
	struct blob *blob;
	struct piece *left, *right;
	uint64_t priority;
};

/* All zero is an empty one. */
struct overlay {
	struct piece *root;
	uint64_t random;
};

/* Puts a copy of the iovec's first `len` bytes (DATA), or a range without bytes (iov NULL), over
 * what was there. -ENOMEM changes nothing. len is not 0. */
int overlay_put(struct overlay *o, uint64_t off, uint64_t len, enum piece_kind kind,
		const struct iovec *iov);
/* Puts what `from` has in a range over what `o` has, without copying bytes. After -ENOMEM a part of
 * it is there. */
int overlay_copy(struct overlay *o, const struct overlay *from, uint64_t off, uint64_t len);
/* The first piece that ends behind `off`, NULL: none. */
const struct piece *overlay_next(const struct overlay *o, uint64_t off);
/* Writes what it has of [off, off + len) over the iovec's bytes. */
void overlay_read(const struct overlay *o, uint64_t off, uint64_t len, const struct iovec *iov);
void overlay_clear(struct overlay *o);
static inline bool overlay_empty(const struct overlay *o)
{
	return o->root == NULL;
}

#endif
