/* base/str: nothing leaves its buffer, and cutting is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

static void copy(void **state)
{
	char buf[4];

	assert_true(str_copy(buf, sizeof(buf), "abc"));
	assert_string_equal(buf, "abc");
	assert_false(str_copy(buf, sizeof(buf), "abcd"));
	assert_string_equal(buf, "abc");
	assert_true(str_copy(buf, sizeof(buf), ""));
	assert_string_equal(buf, "");
	assert_false(str_copy(buf, 1, "x"));
	assert_string_equal(buf, "");
	buf[0] = 'z';
	assert_false(str_copy(buf, 0, "x"));
	assert_int_equal(buf[0], 'z');
}

static void format(void **state)
{
	char buf[6];

	assert_true(str_format(buf, sizeof(buf), "%d", 12345));
	assert_string_equal(buf, "12345");
	assert_false(str_format(buf, sizeof(buf), "%d", 123456));
	assert_string_equal(buf, "12345");
	assert_false(str_format(buf, 0, "x"));
}

static void append_stops_below_the_cap(void **state)
{
	char buf[6] = "";
	size_t len = 0;

	assert_true(str_append(buf, sizeof(buf), &len, "ab"));
	assert_int_equal(len, 2);
	assert_false(str_append(buf, sizeof(buf), &len, "%s", "cdefgh"));
	assert_int_equal(len, 5);
	assert_string_equal(buf, "abcde");
	assert_false(str_append(buf, sizeof(buf), &len, "z"));
	assert_int_equal(len, 5);
	assert_string_equal(buf, "abcde");
	assert_true(str_append(buf, sizeof(buf), &len, "%s", ""));
}

static void starts(void **state)
{
	assert_true(str_starts("iqn.2026", "iqn."));
	assert_true(str_starts("x", ""));
	assert_false(str_starts("iq", "iqn."));
	assert_false(str_starts("", "a"));
}

static void escapes_everything_that_could_harm(void **state)
{
	char buf[64];

	assert_true(str_escape(buf, sizeof(buf), "plain text~", 11));
	assert_string_equal(buf, "plain text~");
	assert_true(str_escape(buf, sizeof(buf), "a\"b'c\\d\n\x1b[2J\x7f\xff\0z", 16));
	assert_string_equal(buf, "a\\x22b\\x27c\\x5cd\\x0a\\x1b[2J\\x7f\\xff\\x00z");
}

static void escape_never_cuts_inside_an_escape(void **state)
{
	char buf[8];

	memset(buf, '!', sizeof(buf));
	assert_false(str_escape(buf, 7, "abc\nd", 5));
	assert_string_equal(buf, "abc");
	assert_int_equal(buf[7], '!');
	assert_true(str_escape(buf, 8, "abc\n", 4));
	assert_string_equal(buf, "abc\\x0a");
	assert_false(str_escape(buf, 4, "abcd", 4));
	assert_string_equal(buf, "abc");
	assert_true(str_escape(buf, 1, "", 0));
	assert_string_equal(buf, "");
	assert_false(str_escape(buf, 0, "a", 1));
}

static void sizes(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} rows[] = {
		{0, "0 B"},
		{512, "512 B"},
		{1023, "1023 B"},
		{1024, "1 KiB"},
		{1536, "1.5 KiB"},
		{1280, "1.25 KiB"},
		{1025, "1.00 KiB"},
		{10 * GiB, "10 GiB"},
		{10 * GiB + 512, "10.00 GiB"},
		{10 * GiB - 1, "9.99 GiB"},
		{UINT64_C(100000000000), "93.13 GiB"},
		{UINT64_C(1) << 63, "8 EiB"},
		{UINT64_MAX, "15.99 EiB"},
	};
	char buf[32];

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
		assert_string_equal(str_size(buf, sizeof(buf), rows[i].bytes), rows[i].text);
}

static void hex(void **state)
{
	char buf[9];

	str_hex(buf, "\x00\x1f\xab\xff", 4);
	assert_string_equal(buf, "001fabff");
	assert_int_equal(str_digit('f', 16), 15);
	assert_int_equal(str_digit('A', 16), 10);
	assert_int_equal(str_digit('9', 10), 9);
	assert_int_equal(str_digit('a', 10), -1);
	assert_int_equal(str_digit('g', 16), -1);
	assert_int_equal(str_digit('\x11', 16), -1);
	assert_int_equal(str_digit('\0', 16), -1);
	str_hex(buf, "", 0);
	assert_string_equal(buf, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copy),
		cmocka_unit_test(format),
		cmocka_unit_test(append_stops_below_the_cap),
		cmocka_unit_test(starts),
		cmocka_unit_test(escapes_everything_that_could_harm),
		cmocka_unit_test(escape_never_cuts_inside_an_escape),
		cmocka_unit_test(sizes),
		cmocka_unit_test(hex),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
