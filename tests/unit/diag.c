/* base/diag: the first diagnosis stays, and its text is one line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

#include <errno.h>

static void shows_position_what_and_fix(void **state)
{
	struct diag d;
	char buf[700];

	diag_init(&d);
	assert_string_equal(diag_text(&d, buf, sizeof(buf)), "");
	assert_int_equal(diag_set(&d, -ENOENT, "cannot open %s", "disk.img"), -ENOENT);
	assert_string_equal(diag_text(&d, buf, sizeof(buf)), "cannot open disk.img");
	diag_fix(&d, "create it with --size %s", "10G");
	assert_string_equal(diag_text(&d, buf, sizeof(buf)),
			    "cannot open disk.img; create it with --size 10G");
	diag_at(&d, "spindle.yaml", 3, 0);
	assert_string_equal(diag_text(&d, buf, sizeof(buf)),
			    "spindle.yaml:3: cannot open disk.img; create it with --size 10G");
}

static void column_needs_a_line(void **state)
{
	struct diag d;
	char buf[100];

	diag_init(&d);
	diag_set(&d, -EINVAL, "bad");
	diag_at(&d, "f", 0, 9);
	assert_string_equal(diag_text(&d, buf, sizeof(buf)), "f: bad");
	diag_init(&d);
	diag_set(&d, -EINVAL, "bad");
	diag_at(&d, NULL, 2, 9);
	assert_string_equal(diag_text(&d, buf, sizeof(buf)), "2:9: bad");
}

static void first_stays(void **state)
{
	struct diag d;
	char buf[100];

	diag_init(&d);
	diag_set(&d, -EINVAL, "first");
	diag_fix(&d, "mend");
	diag_at(&d, "a", 1, 2);
	assert_int_equal(diag_set(&d, -EIO, "second"), -EIO);
	diag_fix(&d, "other");
	diag_at(&d, "b", 3, 4);
	assert_string_equal(diag_text(&d, buf, sizeof(buf)), "a:1:2: first; mend");
}

static void null_is_fine(void **state)
{
	assert_int_equal(diag_set(NULL, -EIO, "x"), -EIO);
	diag_at(NULL, "f", 1, 1);
	diag_fix(NULL, "x");
}

static void cut_to_the_buffer(void **state)
{
	struct diag d;
	char buf[10], long_name[400];

	diag_init(&d);
	memset(long_name, 'n', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	diag_set(&d, -EINVAL, "%s", long_name);
	diag_fix(&d, "%s", long_name);
	diag_at(&d, long_name, 1, 1);
	assert_int_equal(strlen(d.what), sizeof(d.what) - 1);
	assert_int_equal(strlen(d.file), sizeof(d.file) - 1);
	assert_string_equal(diag_text(&d, buf, sizeof(buf)), "nnnnnnnnn");
	buf[0] = 'z';
	diag_text(&d, buf, 0);
	assert_int_equal(buf[0], 'z');
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shows_position_what_and_fix),
		cmocka_unit_test(column_needs_a_line),
		cmocka_unit_test(first_stays),
		cmocka_unit_test(null_is_fine),
		cmocka_unit_test(cut_to_the_buffer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
