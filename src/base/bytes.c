/*
 * The bounded readers and writers. Apart from the header because they are called for variable
 * data only: fixed headers are wire structs, whose accessors are inline.
 */
#include "base/base.h"

struct reader reader_of(const void *buf, size_t len_bytes)
{
	const uint8_t *p = buf;

	/* NULL + 0 is undefined in C, and an empty reader over NULL is common. */
	return (struct reader){.p = p, .end = len_bytes == 0 ? p : p + len_bytes};
}

size_t reader_left(const struct reader *r)
{
	return (size_t)(r->end - r->p);
}

const uint8_t *read_bytes(struct reader *r, size_t len_bytes)
{
	const uint8_t *p = r->p;

	if (r->failed || reader_left(r) < len_bytes) {
		r->failed = true;
		r->p = r->end;
		return NULL;
	}
	if (len_bytes != 0)
		r->p += len_bytes;
	return p;
}

uint8_t read_u8(struct reader *r)
{
	const uint8_t *p = read_bytes(r, 1);

	return p == NULL ? 0 : *p;
}

uint16_t read_be16(struct reader *r)
{
	const uint8_t *p = read_bytes(r, 2);

	return p == NULL ? 0 : load_be16(p);
}

uint32_t read_be24(struct reader *r)
{
	const uint8_t *p = read_bytes(r, 3);

	return p == NULL ? 0 : load_be24(p);
}

uint32_t read_be32(struct reader *r)
{
	const uint8_t *p = read_bytes(r, 4);

	return p == NULL ? 0 : load_be32(p);
}

uint64_t read_be64(struct reader *r)
{
	const uint8_t *p = read_bytes(r, 8);

	return p == NULL ? 0 : load_be64(p);
}

struct writer writer_of(void *buf, size_t cap_bytes)
{
	return (struct writer){.buf = buf, .cap = cap_bytes};
}

size_t writer_stored(const struct writer *w)
{
	return w->len < w->cap ? w->len : w->cap;
}

bool writer_truncated(const struct writer *w)
{
	return w->len > w->cap;
}

/* How much of `len_bytes` bytes at `at` has room. */
static size_t writer_room(const struct writer *w, size_t at, size_t len_bytes)
{
	if (at >= w->cap)
		return 0;
	return len_bytes < w->cap - at ? len_bytes : w->cap - at;
}

static void writer_put(struct writer *w, size_t at, const void *p, size_t len_bytes)
{
	size_t room = writer_room(w, at, len_bytes);

	if (room != 0)
		memcpy(w->buf + at, p, room);
}

static void writer_fill(struct writer *w, int byte, size_t len_bytes)
{
	size_t room = writer_room(w, w->len, len_bytes);

	if (room != 0)
		memset(w->buf + w->len, byte, room);
	w->len += len_bytes;
}

void write_bytes(struct writer *w, const void *p, size_t len_bytes)
{
	writer_put(w, w->len, p, len_bytes);
	w->len += len_bytes;
}

void write_u8(struct writer *w, uint8_t v)
{
	write_bytes(w, &v, sizeof(v));
}

void write_be16(struct writer *w, uint16_t v)
{
	be16 raw = be16_of(v);

	write_bytes(w, &raw, sizeof(raw));
}

void write_be24(struct writer *w, uint32_t v)
{
	be24 raw = be24_of(v);

	write_bytes(w, &raw, sizeof(raw));
}

void write_be32(struct writer *w, uint32_t v)
{
	be32 raw = be32_of(v);

	write_bytes(w, &raw, sizeof(raw));
}

void write_be64(struct writer *w, uint64_t v)
{
	be64 raw = be64_of(v);

	write_bytes(w, &raw, sizeof(raw));
}

void write_zeros(struct writer *w, size_t len_bytes)
{
	writer_fill(w, 0, len_bytes);
}

void write_ascii(struct writer *w, const char *s, size_t len_bytes)
{
	size_t n = strnlen(s, len_bytes);

	write_bytes(w, s, n);
	writer_fill(w, ' ', len_bytes - n);
}

/* A patch past what was written is a bug; one past what was stored falls away like the byte it
 * would have changed. */
static void writer_patch(struct writer *w, size_t at, const void *p, size_t len_bytes)
{
	CHECK(at <= w->len && len_bytes <= w->len - at);
	writer_put(w, at, p, len_bytes);
}

void writer_patch_u8(struct writer *w, size_t at, uint8_t v)
{
	writer_patch(w, at, &v, sizeof(v));
}

void writer_patch_be16(struct writer *w, size_t at, uint16_t v)
{
	be16 raw = be16_of(v);

	writer_patch(w, at, &raw, sizeof(raw));
}

void writer_patch_be32(struct writer *w, size_t at, uint32_t v)
{
	be32 raw = be32_of(v);

	writer_patch(w, at, &raw, sizeof(raw));
}
