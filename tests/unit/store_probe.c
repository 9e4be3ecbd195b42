/*
 * How stores say what they are by now: files that change under them, stacks that pass on what the
 * one below says, fault rules that make a disk vanish, and sizes that only grow.
 */
#define STORE_TEST_LOOPS
#include "store_test.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

static struct rig rig;
static char dir[64], path[80], flag[80];

static int setup(void **state)
{
	str_copy(dir, sizeof(dir), "/var/tmp/spindle-probe-XXXXXX");
	assert_non_null(mkdtemp(dir));
	str_format(path, sizeof(path), "%s/disk", dir);
	str_format(flag, sizeof(flag), "%s/flag", dir);
	rig_start(&rig, 2, 0);
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	unlink(flag);
	rmdir(dir);
	rig_stop(&rig);
	return 0;
}

static struct store *open_at(const char *prefix, uint64_t size, bool read_only)
{
	const struct store_config config = {.size = size, .read_only = read_only};
	char spec[400];

	str_format(spec, sizeof(spec), "%s%s", prefix, path);
	return rig_open(&rig, test_types, spec, &config);
}

static void close_disk(struct store *s)
{
	rig_join(&rig);
	store_close(s);
}

static void raise_flag(void)
{
	int fd = open(flag, O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static struct store_status probe(struct store *s)
{
	struct store_status now;

	assert_int_equal(store_probe(s, &now), 0);
	return now;
}

static void memory_stays_as_it_is(void **state)
{
	static const char *const specs[] = {"ram:1M", "null:1M", "fault::ram:1M"};

	for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
		struct store *s = rig_open(&rig, test_types, specs[i], NULL);
		struct store_status now = probe(s);

		assert_int_equal(now.size, MiB);
		assert_false(now.read_only || now.flush_failed || now.unlinked);
		assert_true(now.allocated == UINT64_MAX && now.available == UINT64_MAX);
		assert_int_equal(store_resize(s, 0), -EOPNOTSUPP);
		assert_int_equal(store_resize(s, 2 * MiB), -EOPNOTSUPP);
		assert_int_equal(store_info(s)->size, MiB);
		assert_int_equal(store_info(s)->rotation_rate, 1);
		assert_false(store_info(s)->keeps_tags);
		store_close(s);
	}
	rig_join(&rig);
}

static void a_file_changes(void **state)
{
	static const char *const stacks[] = {"", "fault::", "fault:volatile=on:fault::"};

	for (size_t i = 0; i < ARRAY_LEN(stacks); i++) {
		struct store *s = open_at(stacks[i], MiB, false);
		struct store_status now = probe(s);

		assert_int_equal(now.size, MiB);
		assert_false(now.read_only || now.flush_failed || now.unlinked);
		assert_true(now.allocated <= MiB && now.available != UINT64_MAX);
		assert_int_equal(truncate(path, 3 * MiB), 0);
		assert_int_equal(probe(s).size, 3 * MiB);
		assert_int_equal(store_info(s)->size, MiB);
		assert_int_equal(store_resize(s, 2 * MiB), -ERANGE); /* it has more */
		assert_int_equal(store_resize(s, 0), 0);
		assert_int_equal(store_info(s)->size, 3 * MiB);
		assert_int_equal(store_resize(s, 4 * MiB), 0);
		assert_int_equal(probe(s).size, 4 * MiB);
		assert_int_equal(store_resize(s, MiB), -ERANGE);
		assert_int_equal(truncate(path, MiB), 0);
		assert_int_equal(probe(s).size, MiB);
		assert_int_equal(store_resize(s, 0), -ERANGE);
		assert_int_equal(store_info(s)->size, 4 * MiB);
		unlink(path);
		assert_true(probe(s).unlinked);
		store_close(s);
	}
	rig_join(&rig);
}

static void opened_read_only(void **state)
{
	struct store *s = open_at("", MiB, false);

	store_close(s);
	s = open_at("fault::", 0, true);
	assert_true(probe(s).read_only);
	assert_false(store_info(s)->keeps_tags);
	assert_int_equal(store_resize(s, 2 * MiB), -EROFS);
	assert_int_equal(truncate(path, 2 * MiB), 0);
	assert_int_equal(store_resize(s, 0), 0);
	assert_int_equal(store_info(s)->size, 2 * MiB);
	close_disk(s);
}

static void keeps_tags_where_it_can(void **state)
{
	static const char *const stacks[] = {"", "fault::"};

	for (size_t i = 0; i < ARRAY_LEN(stacks); i++) {
		struct store *s = open_at(stacks[i], i == 0 ? MiB : 0, false);

		assert_int_equal(store_info(s)->keeps_tags, store_tag_set(s, "x", "y", 1) == 0);
		store_close(s);
	}
	rig_join(&rig);
}

/* A file shorter than its disk: errors behind its end, and nothing says that zeros are there. */
static void a_file_is_cut_off(void **state)
{
	struct store *s = open_at("", MiB, false);
	uint8_t data[4096] = {1};
	struct req q;

	assert_int_equal(rig_io(&rig, s, 0, IO_WRITE, 0, 0, 4096, data), 0);
	assert_int_equal(truncate(path, 64 * KiB), 0);
	assert_int_equal(rig_io(&rig, s, 1, IO_READ, 0, 64 * KiB - 4096, 4096, data), 0);
	assert_int_equal(rig_io(&rig, s, 1, IO_READ, 0, 64 * KiB - 512, 4096, data), -EIO);
	assert_int_equal(rig_io(&rig, s, 0, IO_READ, 0, MiB - 4096, 4096, data), -EIO);
	req_init(&q, s, loop_set_at(rig.set, 0), IO_EXTENT, 0, 32 * KiB, MiB - 32 * KiB, NULL);
	req_start(&q);
	assert_int_equal(req_wait(&rig, &q), 0);
	assert_true(q.io.extent.hole);
	assert_int_equal(q.io.extent.len_bytes, 32 * KiB);
	req_init(&q, s, loop_set_at(rig.set, 0), IO_EXTENT, 0, 64 * KiB, 512 * KiB, NULL);
	req_start(&q);
	assert_int_equal(req_wait(&rig, &q), 0);
	assert_false(q.io.extent.hole);
	assert_int_equal(q.io.extent.len_bytes, 512 * KiB);
	close_disk(s);
}

static struct store *open_rule(const char *rule)
{
	char spec[400];

	str_format(spec, sizeof(spec), "fault:rule=%s;while=%s:ram:1M", rule, flag);
	return rig_open(&rig, test_types, spec, NULL);
}

static void rules_hold_for_probes(void **state)
{
	static const struct {
		const char *rule;
		int err;
		bool read_only;
	} rows[] = {
		{"any;enodev", -ENODEV, false},
		{"read;enxio", -ENODEV, false},
		{"write;erofs", 0, true},
		{"write+zero+discard;erofs", 0, true},
		{"read;erofs", 0, false},
		{"any;eio", 0, false},
		{"write;enospc", 0, false},
		{"read;hang", 0, false},
		{"any;enodev;count=1", -ENODEV, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct store *s = open_rule(rows[i].rule);
		struct store_status now;

		assert_false(probe(s).read_only);
		raise_flag();
		for (unsigned again = 0; again < 2; again++) {
			assert_int_equal(store_probe(s, &now), rows[i].err);
			assert_int_equal(now.read_only, rows[i].read_only);
			assert_int_equal(now.size, MiB);
		}
		unlink(flag);
		assert_false(probe(s).read_only);
		store_close(s);
	}
	rig_join(&rig);
}

/* Without while=PATH a rule is about I/O alone. */
static void other_rules_do_not(void **state)
{
	struct store *s =
		rig_open(&rig, test_types, "fault:rule=any;enodev,rule=any;hang:ram:1M", NULL);

	assert_int_equal(probe(s).size, MiB);
	close_disk(s);
}

struct hanging {
	struct store *store;
	atomic_bool ended;
};

static void *hang_in_probe(void *arg)
{
	struct hanging *h = arg;

	probe(h->store);
	h->ended = true;
	return NULL;
}

static void a_probe_hangs_with_everything(void **state)
{
	struct hanging h = {.store = open_rule("any;hang")};
	pthread_t thread;

	raise_flag();
	assert_int_equal(pthread_create(&thread, NULL, hang_in_probe, &h), 0);
	usleep(50000);
	assert_false(h.ended);
	unlink(flag);
	pthread_join(thread, NULL);
	assert_true(h.ended);
	close_disk(h.store);
}

/* Also while loops write, and from several threads: nothing is torn (the thread sanitizer looks). */
static void *probe_often(void *arg)
{
	for (unsigned i = 0; i < 200; i++)
		assert_true(probe(arg).size >= MiB);
	return NULL;
}

static void probes_beside_io(void **state)
{
	struct store *s = open_at("fault:rule=read;delay=1ms:", MiB, false);
	uint8_t data[4096] = {1};
	pthread_t threads[2];

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, probe_often, s), 0);
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(rig_io(&rig, s, i, i % 2 == 0 ? IO_WRITE : IO_READ, 0,
					i % 128 * 4096, 4096, data),
				 0);
		if (i % 50 == 0)
			assert_int_equal(truncate(path, (off_t)(MiB + i * 4096)), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	close_disk(s);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(memory_stays_as_it_is), TEST(a_file_changes),
		TEST(opened_read_only),      TEST(keeps_tags_where_it_can),
		TEST(a_file_is_cut_off),     TEST(rules_hold_for_probes),
		TEST(other_rules_do_not),    TEST(a_probe_hangs_with_everything),
		TEST(probes_beside_io),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
