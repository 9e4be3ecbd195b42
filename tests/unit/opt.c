/* base/opt: every kind of value, its limits, and the three texts options come in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

#include <errno.h>

struct config {
	bool ro;
	uint64_t threads, size, wait_ms;
	const char *name;
	unsigned block;
	struct opt_strings listen;
};

static const char *const blocks[] = {"512", "4096", NULL};

static const struct opt table[] = {
	{"ro", OPT_FLAG, offsetof(struct config, ro), 0, 0, NULL, NULL, NULL, "no writes"},
	{"threads", OPT_UINT, offsetof(struct config, threads), 1, 64, "2", NULL, NULL, "loops"},
	{"size", OPT_SIZE, offsetof(struct config, size), 512, 8 * GiB << 30, NULL, NULL, NULL,
	 "bytes of the disk"},
	{"wait", OPT_DURATION, offsetof(struct config, wait_ms), 10, 60000, "5s", NULL, NULL,
	 "patience"},
	{"name", OPT_STRING, offsetof(struct config, name), 1, 8, "disk", NULL, "NAME", "its name"},
	{"block-size", OPT_CHOICE, offsetof(struct config, block), 0, 0, "4096", blocks, NULL,
	 "bytes in a block"},
	{"listen", OPT_LIST, offsetof(struct config, listen), 1, 0, NULL, NULL, "ADDR:PORT",
	 "a portal; repeatable"},
	{0},
};

static void parse_sizes(void **state)
{
	static const struct {
		const char *text;
		int err;
		uint64_t bytes;
	} rows[] = {
		{"0", 0, 0},
		{"4096", 0, 4096},
		{"512B", 0, 512},
		{"100K", 0, 102400},
		{"100k", 0, 102400},
		{"1KB", 0, 1000},
		{"1MiB", 0, 1048576},
		{"1MB", 0, 1000000},
		{"100G", 0, UINT64_C(107374182400)},
		{"100GiB", 0, UINT64_C(107374182400)},
		{"100GB", 0, UINT64_C(100000000000)},
		{"1T", 0, UINT64_C(1) << 40},
		{"1TB", 0, UINT64_C(1000000000000)},
		{"1P", 0, UINT64_C(1) << 50},
		{"15E", 0, UINT64_C(15) << 60},
		{"18446744073709551615", 0, UINT64_MAX},
		{"16E", -ERANGE, 0},
		{"18446744073709551616", -ERANGE, 0},
		{"99999999999999999999999G", -ERANGE, 0},
		{"", -EINVAL, 0},
		{"G", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{"+1", -EINVAL, 0},
		{" 1", -EINVAL, 0},
		{"1 G", -EINVAL, 0},
		{"1G ", -EINVAL, 0},
		{"1GiBs", -EINVAL, 0},
		{"1.5G", -EINVAL, 0},
		{"0x10", -EINVAL, 0},
		{"10X", -EINVAL, 0},
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t v = 0;

		assert_int_equal(parse_size(rows[i].text, &v), rows[i].err);
		assert_true(v == rows[i].bytes);
	}
}

static void parse_numbers(void **state)
{
	uint64_t v = 77;

	assert_int_equal(parse_u64("18446744073709551615", &v), 0);
	assert_true(v == UINT64_MAX);
	assert_int_equal(parse_u64("007", &v), 0);
	assert_int_equal(v, 7);
	assert_int_equal(parse_u64("18446744073709551616", &v), -ERANGE);
	assert_int_equal(parse_u64("7x", &v), -EINVAL);
	assert_int_equal(parse_u64("-7", &v), -EINVAL);
	assert_int_equal(parse_u64("", &v), -EINVAL);
	assert_int_equal(v, 7);
}

static void parse_durations(void **state)
{
	uint64_t v = 0;

	assert_int_equal(parse_duration_ms("250ms", &v), 0);
	assert_int_equal(v, 250);
	assert_int_equal(parse_duration_ms("5s", &v), 0);
	assert_int_equal(v, 5000);
	assert_int_equal(parse_duration_ms("2m", &v), 0);
	assert_int_equal(v, 120000);
	assert_int_equal(parse_duration_ms("1h", &v), 0);
	assert_int_equal(v, 3600000);
	assert_int_equal(parse_duration_ms("0", &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(parse_duration_ms("5", &v), -EINVAL);
	assert_int_equal(parse_duration_ms("5 s", &v), -EINVAL);
	assert_int_equal(parse_duration_ms("18446744073709551615s", &v), -ERANGE);
}

static void defaults(void **state)
{
	struct config c;

	memset(&c, 0xff, sizeof(c));
	assert_int_equal(opt_defaults(table, &c, NULL), 0);
	assert_false(c.ro);
	assert_int_equal(c.threads, 2);
	assert_int_equal(c.size, 0);
	assert_int_equal(c.wait_ms, 5000);
	assert_string_equal(c.name, "disk");
	assert_int_equal(c.block, 1);
	assert_int_equal(c.listen.n, 0);
	assert_null(c.listen.v);
	opt_fini(table, &c);
}

/* A value that is refused changes nothing and says what is wrong and what would be right. */
static void refusals_say_why(void **state)
{
	static const struct {
		const char *name, *value;
		int err;
		const char *text;
	} rows[] = {
		{"ro", "maybe", -EINVAL,
		 "option ro: \"maybe\" is neither on nor off; give on or off"},
		{"threads", "0", -ERANGE, "option threads: \"0\" is too small, at least 1"},
		{"threads", "65", -ERANGE, "option threads: \"65\" is too large, at most 64"},
		{"threads", "two", -EINVAL,
		 "option threads: \"two\" is not understood; give a whole number"},
		{"size", "511", -ERANGE, "option size: \"511\" is too small, at least 512 B"},
		{"size", "9E", -ERANGE, "option size: \"9E\" is too large, at most 8 EiB"},
		{"size", "99E", -ERANGE, "option size: \"99E\" is too large"},
		{"size", "1\n", -EINVAL,
		 "option size: \"1\\x0a\" is not understood; give bytes, or a size like "
		 "100G or 100GiB (binary) or 100GB (decimal)"},
		{"size", NULL, -EINVAL,
		 "option size needs a value; give bytes, or a size like "
		 "100G or 100GiB (binary) or 100GB (decimal)"},
		{"wait", "9ms", -ERANGE, "option wait: \"9ms\" is too small, at least 10ms"},
		{"name", "", -EINVAL, "option name: \"\" is too short, at least 1 bytes"},
		{"name", "ninechars", -EINVAL,
		 "option name: \"ninechars\" is too long, at most 8 bytes"},
		{"block-size", "1024", -EINVAL,
		 "option block-size: there is no \"1024\"; give one of 512|4096"},
		{"block", "512", -EINVAL,
		 "there is no option \"block\"; options are ro, threads, size, wait, name, "
		 "block-size, listen"},
	};
	struct config c, before;
	char buf[600];

	memset(&c, 0, sizeof(c));
	assert_int_equal(opt_defaults(table, &c, NULL), 0);
	before = c;
	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct diag d;

		diag_init(&d);
		assert_int_equal(opt_set(table, &c, rows[i].name, rows[i].value, &d), rows[i].err);
		assert_string_equal(diag_text(&d, buf, sizeof(buf)), rows[i].text);
		assert_int_equal(opt_set(table, &c, rows[i].name, rows[i].value, NULL),
				 rows[i].err);
	}
	assert_memory_equal(&c, &before, sizeof(c));
}

static void flags(void **state)
{
	static const char *const on[] = {NULL, "on", "yes", "true"}, *const off[] = {"off", "no",
										     "false"};
	struct config c = {0};

	for (unsigned i = 0; i < ARRAY_LEN(on); i++) {
		c.ro = false;
		assert_int_equal(opt_set(table, &c, "ro", on[i], NULL), 0);
		assert_true(c.ro);
	}
	for (unsigned i = 0; i < ARRAY_LEN(off); i++) {
		c.ro = true;
		assert_int_equal(opt_set(table, &c, "ro", off[i], NULL), 0);
		assert_false(c.ro);
	}
}

static void lists_as_text(void **state)
{
	struct config c;
	char text[] = "size=1M,ro,listen=a:1,listen=b=c,block-size=512", empty[] = "";
	char hole[] = "ro,,size=1M", tail[] = "ro,", no_value[] = "size=";

	assert_int_equal(opt_defaults(table, &c, NULL), 0);
	assert_int_equal(opt_parse_list(table, &c, text, NULL), 0);
	assert_int_equal(c.size, MiB);
	assert_true(c.ro);
	assert_int_equal(c.block, 0);
	assert_int_equal(c.listen.n, 2);
	assert_string_equal(c.listen.v[0], "a:1");
	assert_string_equal(c.listen.v[1], "b=c");
	assert_int_equal(opt_parse_list(table, &c, empty, NULL), 0);
	assert_int_equal(opt_parse_list(table, &c, hole, NULL), -EINVAL);
	assert_int_equal(opt_parse_list(table, &c, tail, NULL), -EINVAL);
	assert_int_equal(opt_parse_list(table, &c, no_value, NULL), -EINVAL);
	opt_fini(table, &c);
	assert_null(c.listen.v);
	opt_fini(table, &c);
}

#define ARGV(...)                                                   \
	char *argv[] = {"spindle", ##__VA_ARGS__, NULL}, text[600]; \
	int argc = ARRAY_LEN(argv) - 1;                             \
	struct diag d;                                              \
	struct config c;                                            \
	diag_init(&d);                                              \
	assert_int_equal(opt_defaults(table, &c, &d), 0)

/* Arguments that are cut in place must lie in memory that can be written. */
static void command_line(void **state)
{
	char name[] = "--name=a=b", listen[] = "--listen=[::1]:0";
	ARGV("run", "--size", "1G", "a.img", "--ro", name, "--listen", "x:1", listen, "-v", "--",
	     "--size", "b.img");

	assert_int_equal(opt_parse_argv(table, &c, &argc, argv, &d), 0);
	assert_int_equal(c.size, GiB);
	assert_true(c.ro);
	assert_string_equal(c.name, "a=b");
	assert_int_equal(c.listen.n, 2);
	assert_string_equal(c.listen.v[1], "[::1]:0");
	assert_int_equal(argc, 6);
	assert_string_equal(argv[1], "run");
	assert_string_equal(argv[2], "a.img");
	assert_string_equal(argv[3], "-v");
	assert_string_equal(argv[4], "--size");
	assert_string_equal(argv[5], "b.img");
	assert_string_equal(diag_text(&d, text, sizeof(text)), "");
	opt_fini(table, &c);
}

static void command_line_flag_with_value(void **state)
{
	char off[] = "--ro=off";
	ARGV("--ro", off, "on");

	assert_int_equal(opt_parse_argv(table, &c, &argc, argv, &d), 0);
	assert_false(c.ro);
	assert_int_equal(argc, 2);
	assert_string_equal(argv[1], "on");
	(void)text;
}

static void command_line_without_value(void **state)
{
	ARGV("--name");

	assert_int_equal(opt_parse_argv(table, &c, &argc, argv, &d), -EINVAL);
	assert_string_equal(diag_text(&d, text, sizeof(text)),
			    "option name needs a value; give a text");
}

static void command_line_does_not_eat_an_option(void **state)
{
	ARGV("--name", "--ro");

	assert_int_equal(opt_parse_argv(table, &c, &argc, argv, &d), -EINVAL);
	assert_string_equal(diag_text(&d, text, sizeof(text)),
			    "option name needs a value; give a text");
}

static void command_line_unknown(void **state)
{
	char arg[] = "--width=1G";
	ARGV(arg);

	assert_int_equal(opt_parse_argv(table, &c, &argc, argv, &d), -EINVAL);
	diag_text(&d, text, sizeof(text));
	assert_true(str_starts(text, "there is no option \"width\"; options are ro, threads"));
}

static void no_arguments(void **state)
{
	ARGV();

	assert_int_equal(opt_parse_argv(table, &c, &argc, argv, &d), 0);
	assert_int_equal(argc, 1);
	(void)text;
}

static void help(void **state)
{
	char buf[1024], small[20];

	assert_string_equal(opt_help(table, buf, sizeof(buf)),
			    "  --ro                    no writes\n"
			    "  --threads N             loops (2)\n"
			    "  --size SIZE             bytes of the disk\n"
			    "  --wait TIME             patience (5s)\n"
			    "  --name NAME             its name (disk)\n"
			    "  --block-size 512|4096   bytes in a block (4096)\n"
			    "  --listen ADDR:PORT      a portal; repeatable\n");
	assert_int_equal(strlen(opt_help(table, small, sizeof(small))), sizeof(small) - 1);
	assert_string_equal(opt_help(&table[ARRAY_LEN(table) - 1], buf, sizeof(buf)), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parse_sizes),
		cmocka_unit_test(parse_numbers),
		cmocka_unit_test(parse_durations),
		cmocka_unit_test(defaults),
		cmocka_unit_test(refusals_say_why),
		cmocka_unit_test(flags),
		cmocka_unit_test(lists_as_text),
		cmocka_unit_test(command_line),
		cmocka_unit_test(command_line_flag_with_value),
		cmocka_unit_test(command_line_without_value),
		cmocka_unit_test(command_line_does_not_eat_an_option),
		cmocka_unit_test(command_line_unknown),
		cmocka_unit_test(no_arguments),
		cmocka_unit_test(help),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
