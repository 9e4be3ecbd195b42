/*
 * Bytes on the wire: big and little endian integers that arithmetic does not compile on,
 * and readers and writers that cannot leave their buffer.
 */
#ifndef SPINDLE_BASE_BYTES_H
#define SPINDLE_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Wire integers. Structs of them are packed by construction: their alignment is 1. */
typedef struct {
	uint8_t b[2];
} be16;
typedef struct {
	uint8_t b[3];
} be24;
typedef struct {
	uint8_t b[4];
} be32;
typedef struct {
	uint8_t b[8];
} be64;
typedef struct {
	uint8_t b[2];
} le16;
typedef struct {
	uint8_t b[4];
} le32;
typedef struct {
	uint8_t b[8];
} le64;

/* Load from and store to unaligned memory. */
static inline uint16_t load_be16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return __builtin_bswap16(v);
}

static inline uint32_t load_be24(const void *p)
{
	const uint8_t *b = p;
	return (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
}

static inline uint32_t load_be32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return __builtin_bswap32(v);
}

static inline uint64_t load_be64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return __builtin_bswap64(v);
}

static inline void store_be16(void *p, uint16_t v)
{
	v = __builtin_bswap16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void store_be24(void *p, uint32_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)(v >> 16);
	b[1] = (uint8_t)(v >> 8);
	b[2] = (uint8_t)v;
}

static inline void store_be32(void *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void store_be64(void *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, sizeof(v));
}

static inline uint16_t load_le16(const void *p)
{
	uint16_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint32_t load_le32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

static inline uint64_t load_le64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return v;
}

static inline void store_le32(void *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the loads above assume little endian");

/* The same for wire struct fields: v = be16_get(h->len); h->len = be16_of(v). */
static inline uint16_t be16_get(be16 v)
{
	return load_be16(v.b);
}

static inline uint32_t be24_get(be24 v)
{
	return load_be24(v.b);
}

static inline uint32_t be32_get(be32 v)
{
	return load_be32(v.b);
}

static inline uint64_t be64_get(be64 v)
{
	return load_be64(v.b);
}

static inline be16 be16_of(uint16_t v)
{
	be16 r;
	store_be16(r.b, v);
	return r;
}

static inline be24 be24_of(uint32_t v)
{
	be24 r;
	store_be24(r.b, v);
	return r;
}

static inline be32 be32_of(uint32_t v)
{
	be32 r;
	store_be32(r.b, v);
	return r;
}

static inline be64 be64_of(uint64_t v)
{
	be64 r;
	store_be64(r.b, v);
	return r;
}

/* Casts of width, each checked once here: the value is known to fit. */
static inline uint8_t low_u8(uint64_t v)
{
	return (uint8_t)(v & 0xff);
}

static inline uint16_t low_u16(uint64_t v)
{
	return (uint16_t)(v & 0xffff);
}

static inline uint32_t low_u32(uint64_t v)
{
	return (uint32_t)(v & 0xffffffff);
}

/* Values that saturate instead of wrapping, for fields that are too narrow. */
static inline uint8_t clamp_u8(uint64_t v)
{
	return v > UINT8_MAX ? UINT8_MAX : (uint8_t)v;
}

static inline uint16_t clamp_u16(uint64_t v)
{
	return v > UINT16_MAX ? UINT16_MAX : (uint16_t)v;
}

static inline uint32_t clamp_u32(uint64_t v)
{
	return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

/*
 * A reader never leaves [p, end): past the end it returns zeros and sets `failed`, which the
 * caller checks once when it is through.
 */
struct reader {
	const uint8_t *p, *end;
	bool failed;
};

struct reader reader_of(const void *buf, size_t len_bytes);
size_t reader_left(const struct reader *r);
uint8_t read_u8(struct reader *r);
uint16_t read_be16(struct reader *r);
uint32_t read_be24(struct reader *r);
uint32_t read_be32(struct reader *r);
uint64_t read_be64(struct reader *r);
/* A pointer to `len_bytes` bytes inside the buffer, NULL (and failed) when there are fewer. */
const uint8_t *read_bytes(struct reader *r, size_t len_bytes);

/*
 * A writer counts in `len` all that was written and stores only what fits into `cap`: the length a
 * SCSI response would have had is known when the allocation length cut it short.
 */
struct writer {
	uint8_t *buf;
	size_t cap, len;
};

struct writer writer_of(void *buf, size_t cap_bytes);
/* Bytes really in the buffer. */
size_t writer_stored(const struct writer *w);
bool writer_truncated(const struct writer *w);
void write_u8(struct writer *w, uint8_t v);
void write_be16(struct writer *w, uint16_t v);
void write_be24(struct writer *w, uint32_t v);
void write_be32(struct writer *w, uint32_t v);
void write_be64(struct writer *w, uint64_t v);
void write_bytes(struct writer *w, const void *p, size_t len_bytes);
void write_zeros(struct writer *w, size_t len_bytes);
/* Left-aligned ASCII, cut or padded with spaces to exactly `len_bytes` (SPC-4 4.4.1). */
void write_ascii(struct writer *w, const char *s, size_t len_bytes);
/* Overwrites bytes that were written before: for length fields that are known at the end. */
void writer_patch_u8(struct writer *w, size_t at, uint8_t v);
void writer_patch_be16(struct writer *w, size_t at, uint16_t v);
void writer_patch_be32(struct writer *w, size_t at, uint32_t v);

#endif
