/* base/bytes: wire integers, readers that stop at the end, writers that count past it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

struct mixed {
	uint8_t a;
	be16 b;
	be24 c;
	be32 d;
	be64 e;
	le16 f;
	le32 g;
	le64 h;
};
_Static_assert(sizeof(struct mixed) == 1 + 2 + 3 + 4 + 8 + 2 + 4 + 8, "wire structs are packed");

static void big_endian_on_the_wire(void **state)
{
	static const uint8_t want[] = {1, 2, 3, 4, 5, 6, 7, 8};
	be16 b16 = be16_of(0x0102);
	be24 b24 = be24_of(0x010203);
	be32 b32 = be32_of(0x01020304);
	be64 b64 = be64_of(UINT64_C(0x0102030405060708));

	assert_memory_equal(&b16, want, 2);
	assert_memory_equal(&b24, want, 3);
	assert_memory_equal(&b32, want, 4);
	assert_memory_equal(&b64, want, 8);
	assert_int_equal(be16_get(b16), 0x0102);
	assert_int_equal(be24_get(b24), 0x010203);
	assert_int_equal(be32_get(b32), 0x01020304);
	assert_true(be64_get(b64) == UINT64_C(0x0102030405060708));
}

static void be24_drops_the_high_byte(void **state)
{
	assert_int_equal(be24_get(be24_of(0xff010203)), 0x010203);
	assert_int_equal(be24_get(be24_of(0x00ffffff)), 0xffffff);
}

static void little_endian_and_unaligned(void **state)
{
	uint8_t raw[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8};

	assert_int_equal(load_le16(raw + 1), 0x0201);
	assert_int_equal(load_le32(raw + 1), 0x04030201);
	assert_true(load_le64(raw + 1) == UINT64_C(0x0807060504030201));
	assert_true(load_be64(raw + 1) == UINT64_C(0x0102030405060708));
	store_le32(raw + 3, 0xa1b2c3d4);
	assert_int_equal(raw[3], 0xd4);
	assert_int_equal(raw[6], 0xa1);
	assert_int_equal(raw[7], 7);
	store_be32(raw + 5, 0xa1b2c3d4);
	assert_int_equal(load_be32(raw + 5), 0xa1b2c3d4);
}

static void widths(void **state)
{
	assert_int_equal(low_u8(0x1ff), 0xff);
	assert_int_equal(low_u16(0x12345), 0x2345);
	assert_int_equal(low_u32(UINT64_C(0x1ffffffff)), 0xffffffff);
	assert_int_equal(clamp_u8(255), 255);
	assert_int_equal(clamp_u8(256), 255);
	assert_int_equal(clamp_u16(65536), 65535);
	assert_true(clamp_u32(UINT64_C(1) << 32) == UINT32_MAX);
	assert_true(clamp_u32(7) == 7);
}

static void rounding(void **state)
{
	assert_true(align_down(4097, 4096) == 4096);
	assert_true(align_up(4097, 4096) == 8192);
	assert_true(align_up(4096, 4096) == 4096);
	assert_true(is_aligned(0, 512));
	assert_false(is_aligned(511, 512));
	assert_false(is_power_of_2(0));
	assert_true(is_power_of_2(1));
	assert_false(is_power_of_2(6));
}

static void reader_reads(void **state)
{
	uint8_t raw[18] = {0};
	struct reader r = reader_of(raw, sizeof(raw));

	for (unsigned i = 0; i < sizeof(raw); i++)
		raw[i] = (uint8_t)(i + 1);
	assert_int_equal(read_u8(&r), 1);
	assert_int_equal(read_be16(&r), 0x0203);
	assert_int_equal(read_be24(&r), 0x040506);
	assert_int_equal(read_be32(&r), 0x0708090a);
	assert_int_equal(reader_left(&r), 8);
	assert_true(read_be64(&r) == UINT64_C(0x0b0c0d0e0f101112));
	assert_int_equal(reader_left(&r), 0);
	assert_false(r.failed);
	assert_non_null(read_bytes(&r, 0));
	assert_false(r.failed);
}

static void reader_fails_past_the_end_and_stays_failed(void **state)
{
	uint8_t raw[3] = {0xaa, 0xbb, 0xcc};
	struct reader r = reader_of(raw, sizeof(raw));

	assert_int_equal(read_be32(&r), 0);
	assert_true(r.failed);
	assert_int_equal(reader_left(&r), 0);
	assert_int_equal(read_u8(&r), 0);
	assert_null(read_bytes(&r, 0));
	assert_true(r.failed);
}

static void reader_refuses_huge_lengths(void **state)
{
	uint8_t raw[4] = {0};
	struct reader r = reader_of(raw, sizeof(raw));

	read_u8(&r);
	assert_null(read_bytes(&r, SIZE_MAX));
	assert_true(r.failed);
}

static void reader_of_nothing(void **state)
{
	struct reader r = reader_of(NULL, 0);

	assert_int_equal(reader_left(&r), 0);
	assert_int_equal(read_be16(&r), 0);
	assert_true(r.failed);
}

static void writer_writes(void **state)
{
	static const uint8_t want[] = {1,  2,  3,  4,  5,  6, 7,   8,   9,   10,  11,  12, 13,
				       14, 15, 16, 17, 18, 0, 'a', 'b', ' ', ' ', 'c', 'd'};
	uint8_t raw[64];
	struct writer w = writer_of(raw, sizeof(raw));

	write_u8(&w, 1);
	write_be16(&w, 0x0203);
	write_be24(&w, 0x040506);
	write_be32(&w, 0x0708090a);
	write_be64(&w, UINT64_C(0x0b0c0d0e0f101112));
	write_zeros(&w, 1);
	write_ascii(&w, "ab", 4);
	write_ascii(&w, "cdef", 2);
	write_bytes(&w, NULL, 0);
	assert_int_equal(w.len, sizeof(want));
	assert_int_equal(writer_stored(&w), sizeof(want));
	assert_false(writer_truncated(&w));
	assert_memory_equal(raw, want, sizeof(want));
}

static void writer_counts_what_it_cuts(void **state)
{
	uint8_t raw[8];
	struct writer w = writer_of(raw, 6);

	memset(raw, 0xee, sizeof(raw));
	write_be32(&w, 0x01020304);
	write_be32(&w, 0x05060708);
	write_ascii(&w, "x", 10);
	write_zeros(&w, 1000);
	assert_int_equal(w.len, 4 + 4 + 10 + 1000);
	assert_int_equal(writer_stored(&w), 6);
	assert_true(writer_truncated(&w));
	assert_memory_equal(raw, ((uint8_t[]){1, 2, 3, 4, 5, 6, 0xee, 0xee}), 8);
}

static void writer_exactly_full_is_not_truncated(void **state)
{
	uint8_t raw[4];
	struct writer w = writer_of(raw, sizeof(raw));

	write_be32(&w, 1);
	assert_false(writer_truncated(&w));
	write_u8(&w, 1);
	assert_true(writer_truncated(&w));
}

static void writer_without_a_buffer_only_counts(void **state)
{
	struct writer w = writer_of(NULL, 0);

	write_be64(&w, 1);
	write_ascii(&w, "abc", 8);
	writer_patch_be16(&w, 2, 7);
	assert_int_equal(w.len, 16);
	assert_int_equal(writer_stored(&w), 0);
}

static void patches_change_only_what_was_stored(void **state)
{
	uint8_t raw[8];
	struct writer w = writer_of(raw, 5);

	memset(raw, 0xee, sizeof(raw));
	write_zeros(&w, 20);
	writer_patch_u8(&w, 0, 0x11);
	writer_patch_be16(&w, 1, 0x2233);
	writer_patch_be32(&w, 3, 0x44556677);
	writer_patch_be32(&w, 16, 0x8899aabb);
	assert_memory_equal(raw, ((uint8_t[]){0x11, 0x22, 0x33, 0x44, 0x55, 0xee, 0xee, 0xee}), 8);
	assert_int_equal(w.len, 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(big_endian_on_the_wire),
		cmocka_unit_test(be24_drops_the_high_byte),
		cmocka_unit_test(little_endian_and_unaligned),
		cmocka_unit_test(widths),
		cmocka_unit_test(rounding),
		cmocka_unit_test(reader_reads),
		cmocka_unit_test(reader_fails_past_the_end_and_stays_failed),
		cmocka_unit_test(reader_refuses_huge_lengths),
		cmocka_unit_test(reader_of_nothing),
		cmocka_unit_test(writer_writes),
		cmocka_unit_test(writer_counts_what_it_cuts),
		cmocka_unit_test(writer_exactly_full_is_not_truncated),
		cmocka_unit_test(writer_without_a_buffer_only_counts),
		cmocka_unit_test(patches_change_only_what_was_stored),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
