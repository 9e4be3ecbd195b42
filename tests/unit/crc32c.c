/* base/crc32c: the standard's examples, and the fast ways against the portable one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

typedef uint32_t crc_fn(uint32_t crc, const void *buf, size_t len_bytes);

/* RFC 7143 appendix A.4: as they stand on the wire, least significant byte first. */
static void check_examples(crc_fn *crc)
{
	static const uint8_t read_10[48] = {
		0x01, 0xc0, 0, 0, 0, 0, 0,    0, 0,    0, 0, 0,    0, 0, 0, 0,
		0x14, 0,    0, 0, 0, 0, 0x04, 0, 0,    0, 0, 0x14, 0, 0, 0, 0x18,
		0x28, 0,    0, 0, 0, 0, 0,    0, 0x02, 0, 0, 0,    0, 0, 0, 0,
	};
	uint8_t buf[32];

	memset(buf, 0, sizeof(buf));
	assert_true(crc(0, buf, sizeof(buf)) == 0x8a9136aa);
	memset(buf, 0xff, sizeof(buf));
	assert_true(crc(0, buf, sizeof(buf)) == 0x62a8ab43);
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)i;
	assert_true(crc(0, buf, sizeof(buf)) == 0x46dd794e);
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(31 - i);
	assert_true(crc(0, buf, sizeof(buf)) == 0x113fdb5c);
	assert_true(crc(0, read_10, sizeof(read_10)) == 0xd9963a56);
	/* The customary check value of the CRC catalogues. */
	assert_true(crc(0, "123456789", 9) == 0xe3069283);
	assert_true(crc(0, "", 0) == 0);
}

static void examples(void **state)
{
	check_examples(crc32c);
	check_examples(crc32c_portable);
}

/* One bit at a time, straight from the polynomial: the oracle of the oracle's tables. */
static uint32_t crc_bitwise(uint32_t crc, const void *buf, size_t len_bytes)
{
	const uint8_t *p = buf;

	crc = ~crc;
	for (size_t i = 0; i < len_bytes * 8; i++) {
		uint32_t low = (crc ^ (uint32_t)(p[i / 8] >> (i % 8))) & 1;

		crc = crc >> 1 ^ (low != 0 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static void fill(uint8_t *buf, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		buf[i] = (uint8_t)(seed >> 24);
	}
}

/* Every length around the switches between the ways, at every alignment. */
static void all_ways_agree(void **state)
{
	static uint8_t buf[1100];

	fill(buf, sizeof(buf), 7);
	for (size_t len = 0; len <= 1024; len++) {
		for (size_t at = 0; at < 8; at++) {
			uint32_t want = crc_bitwise(0, buf + at, len);

			assert_true(crc32c_portable(0, buf + at, len) == want);
			assert_true(crc32c(0, buf + at, len) == want);
		}
	}
}

static void large_buffers_agree(void **state)
{
	static uint8_t buf[1024 * 1024 + 13];

	fill(buf, sizeof(buf), 11);
	assert_true(crc32c(0, buf, sizeof(buf)) == crc32c_portable(0, buf, sizeof(buf)));
}

/* Data and padding come in pieces: any cut gives the same result. */
static void pieces_continue(void **state)
{
	uint8_t buf[700];
	uint32_t whole;

	fill(buf, sizeof(buf), 3);
	whole = crc32c(0, buf, sizeof(buf));
	for (size_t cut = 0; cut <= sizeof(buf); cut++) {
		uint32_t first = crc32c(0, buf, cut);

		assert_true(crc32c(first, buf + cut, sizeof(buf) - cut) == whole);
		assert_true(crc32c_portable(first, buf + cut, sizeof(buf) - cut) == whole);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(examples),
		cmocka_unit_test(all_ways_agree),
		cmocka_unit_test(large_buffers_agree),
		cmocka_unit_test(pieces_continue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
