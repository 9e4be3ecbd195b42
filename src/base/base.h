/*
 * base: pure helpers without I/O. The one header that other folders include.
 * May use: libc, ISA-L. May be used by: everything.
 */
#ifndef SPINDLE_BASE_H
#define SPINDLE_BASE_H

#include <errno.h> /* 0 or a negative errno is what functions return, everywhere */

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/diag.h"
#include "base/list.h"
#include "base/log.h"
#include "base/opt.h"
#include "base/str.h"

/* The object that embeds `member`, from a pointer to the member. */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define KiB (UINT64_C(1) << 10)
#define MiB (UINT64_C(1) << 20)
#define GiB (UINT64_C(1) << 30)

/* A bug of ours, never bad input: assertions stay on in every build. */
#define CHECK(cond) ((cond) ? (void)0 : check_failed(#cond, __FILE__, __LINE__, __func__))
_Noreturn void check_failed(const char *cond, const char *file, int line, const char *func);

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* `align` is a power of two. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return align_down(v + align - 1, align);
}

static inline bool is_aligned(uint64_t v, uint64_t align)
{
	return (v & (align - 1)) == 0;
}

static inline bool is_power_of_2(uint64_t v)
{
	return v != 0 && (v & (v - 1)) == 0;
}

#endif
