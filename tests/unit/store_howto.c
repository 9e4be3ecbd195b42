/*
 * The example of docs/howto/add-a-store.md, as it stands there: it compiles, and does what it says.
 */
#define STORE_TEST_SIM
#include "store_test.h"

extern const struct store_type store_pattern;

static const struct store_type *const types[] = {&store_file, &store_fault, &store_pattern, NULL};

static void reads(struct rig *r, const char *spec)
{
	struct store *s = rig_open(r, types, spec, NULL);
	uint8_t buf[4096];

	assert_int_equal(store_info(s)->size, GiB);
	assert_int_equal(rig_io(r, s, 0, IO_READ, 0, GiB - 4096, 4096, buf), 0);
	for (unsigned i = 0; i < 4096; i += 8)
		assert_int_equal(load_be64(buf + i), GiB - 4096 + i);
	assert_int_equal(rig_io(r, s, 1, IO_READ, 0, 11, 2000, buf), 0);
	assert_int_equal(load_be64(buf + 5), 16);
	assert_int_equal(rig_io(r, s, 0, IO_WRITE, 0, 0, 512, buf), -EROFS);
	assert_int_equal(rig_io(r, s, 0, IO_ZERO, IO_FUA, 0, 512, NULL), -EROFS);
	assert_int_equal(rig_io(r, s, 0, IO_FLUSH, 0, 0, 0, NULL), 0);
	assert_true(store_info(s)->read_only);
	store_close(s);
}

static void the_example(void **state)
{
	struct rig r;

	rig_start(&r, 2, 1);
	reads(&r, "pattern:1G");
	reads(&r, "fault::pattern:1G");
	rig_stop(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_example),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
