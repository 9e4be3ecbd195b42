/*
 * Copying between plain memory and a part of an iovec. Apart because several back ends keep their
 * data in memory.
 */
#ifndef SPINDLE_STORE_IOV_H
#define SPINDLE_STORE_IOV_H

#include <string.h>
#include <sys/uio.h>

#include "base/base.h"

/* Walks an iovec piece by piece. */
struct iov_at {
	const struct iovec *iov;
	size_t used; /* bytes of *iov behind us */
};

/* The next bytes in one piece, at most `max`; *len says how many. The iovec holds at least one more
 * byte. */
static inline uint8_t *iov_take(struct iov_at *at, uint64_t max, uint64_t *len)
{
	uint8_t *p;

	while (at->used == at->iov->iov_len) {
		at->iov++;
		at->used = 0;
	}
	p = (uint8_t *)at->iov->iov_base + at->used;
	*len = min_u64(max, at->iov->iov_len - at->used);
	at->used += *len;
	return p;
}

static inline struct iov_at iov_start(const struct iovec *iov, uint64_t skip)
{
	struct iov_at at = {.iov = iov};

	while (skip >= at.iov->iov_len && skip != 0) {
		skip -= at.iov->iov_len;
		at.iov++;
	}
	at.used = skip;
	return at;
}

/* src NULL: zeros. */
static inline void iov_put(struct iov_at *at, const uint8_t *src, uint64_t len)
{
	while (len != 0) {
		uint64_t n;
		uint8_t *p = iov_take(at, len, &n);

		if (src == NULL) {
			memset(p, 0, n);
		} else {
			memcpy(p, src, n);
			src += n;
		}
		len -= n;
	}
}

static inline void iov_get(struct iov_at *at, uint8_t *dst, uint64_t len)
{
	while (len != 0) {
		uint64_t n;
		const uint8_t *p = iov_take(at, len, &n);

		memcpy(dst, p, n);
		dst += n;
		len -= n;
	}
}

#endif
