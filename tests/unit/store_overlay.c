/*
 * The overlay against an array of bytes: random puts, copies, walks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "store/overlay.h"

#define SIZE 4096

static uint64_t rnd_state;

static unsigned rnd(unsigned bound)
{
	rnd_state = rnd_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(rnd_state >> 33) % bound;
}

/* What each byte was last: nothing (-1), a kind without data (-2 - kind), or data. */
struct mirror {
	struct overlay overlay;
	int byte[SIZE];
};

static void put_random(struct mirror *m)
{
	unsigned off = rnd(SIZE), len = 1 + rnd(SIZE - off < 300 ? SIZE - off : 300);
	enum piece_kind kind = rnd(3) != 0 ? PIECE_DATA : PIECE_ZERO + rnd(3);
	uint8_t data[300];
	unsigned half = rnd(len + 1);
	struct iovec iov[3] = {{data, half}, {NULL, 0}, {data + half, 300 - half}};

	for (unsigned i = 0; i < len; i++) {
		data[i] = (uint8_t)rnd(256);
		m->byte[off + i] = kind == PIECE_DATA ? data[i] : -2 - (int)kind;
	}
	assert_int_equal(overlay_put(&m->overlay, off, len, kind, kind == PIECE_DATA ? iov : NULL),
			 0);
}

/* Walking the pieces meets each byte of the mirror once, in order. */
static void check_walk(const struct mirror *m)
{
	const struct piece *p;
	uint64_t at = 0;

	while ((p = overlay_next(&m->overlay, at)) != NULL) {
		assert_true(p->off >= at && p->len != 0);
		for (; at < p->off; at++)
			assert_int_equal(m->byte[at], -1);
		for (; at < p->off + p->len; at++)
			assert_int_equal(m->byte[at], p->kind == PIECE_DATA ? p->data[at - p->off]
									    : -2 - (int)p->kind);
	}
	for (; at < SIZE; at++)
		assert_int_equal(m->byte[at], -1);
}

static void check_read(const struct mirror *m)
{
	unsigned off = rnd(SIZE), len = 1 + rnd(SIZE - off), half = rnd(len + 1);
	uint8_t buf[SIZE];
	const struct iovec iov[2] = {{buf, half}, {buf + half, len - half}};

	memset(buf, 0xcc, sizeof(buf));
	overlay_read(&m->overlay, off, len, iov);
	for (unsigned i = 0; i < len; i++) {
		int v = m->byte[off + i];

		assert_int_equal(buf[i], v == -1 ? 0xcc : v < 0 ? 0 : v);
	}
}

/* A copy lies over what was there, and lives on without its source. */
static void check_copy(struct mirror *m)
{
	struct mirror *to = malloc(sizeof(*to)), *from = malloc(sizeof(*from));
	unsigned off = rnd(SIZE), len = 1 + rnd(SIZE - off);

	to->overlay = from->overlay = (struct overlay){0};
	memset(to->byte, 0xff, sizeof(to->byte));
	memset(from->byte, 0xff, sizeof(from->byte));
	for (unsigned i = 0; i < 10; i++) {
		put_random(to);
		put_random(from);
	}
	assert_int_equal(overlay_copy(&to->overlay, &from->overlay, off, len), 0);
	for (unsigned i = off; i < off + len; i++) {
		if (from->byte[i] != -1)
			to->byte[i] = from->byte[i];
	}
	overlay_clear(&from->overlay);
	assert_true(overlay_empty(&from->overlay));
	check_walk(to);
	check_read(to);
	overlay_clear(&to->overlay);
	free(to);
	free(from);
}

static void random_puts(void **state)
{
	for (rnd_state = 1; rnd_state <= 30; rnd_state++) {
		struct mirror *m = malloc(sizeof(*m));
		uint64_t seed = rnd_state;

		m->overlay = (struct overlay){0};
		memset(m->byte, 0xff, sizeof(m->byte));
		for (unsigned i = 0; i < 150; i++) {
			put_random(m);
			check_walk(m);
			check_read(m);
			if (i % 50 == 0)
				check_copy(m);
		}
		overlay_clear(&m->overlay);
		free(m);
		rnd_state = seed;
	}
}

static unsigned depth(const struct piece *p)
{
	unsigned l, r;

	if (p == NULL)
		return 0;
	l = depth(p->left);
	r = depth(p->right);
	return 1 + (l > r ? l : r);
}

/* Ascending puts, the worst order for a plain tree, and a range as large as can be. */
static void stays_shallow(void **state)
{
	struct overlay o = {0};
	uint8_t byte = 7;
	struct iovec iov = {&byte, 1};

	for (unsigned i = 0; i < 50000; i++)
		assert_int_equal(overlay_put(&o, 2 * i, 1, PIECE_DATA, &iov), 0);
	assert_in_range(depth(o.root), 16, 60);
	assert_int_equal(overlay_put(&o, 0, UINT64_MAX, PIECE_DISCARD, NULL), 0);
	assert_int_equal(depth(o.root), 1);
	overlay_clear(&o);
	overlay_clear(&o);
	assert_null(overlay_next(&o, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_puts),
		cmocka_unit_test(stays_shallow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
