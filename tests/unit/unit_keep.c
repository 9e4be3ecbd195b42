/*
 * What a store cannot keep: where it goes, whose it is, and when it is refused rather than forgotten.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* cmocka wants those first. */
#include <cmocka.h>

#include "loop/sim.h"
#include "store/impl.h"
#include "unit/impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

/* A disk, and what its store can do. */
static struct {
	struct store_info info;
	const char *fingerprint; /* NULL: -EOPNOTSUPP */
	char tag[16];            /* the only one, "x"; "": none */
	int get_err;
} disk;

static struct loop_set *set;
static struct unit *unit;
static char top[64], dir[80];

static int open_disk(struct store **out, struct loop_set *loops,
		     const struct store_type *const *types, char *rest,
		     const struct store_config *config, struct diag *d)
{
	*out = calloc(1, sizeof(**out));
	(*out)->info = disk.info;
	return 0;
}

static void close_disk(struct store *s)
{
	free(s);
}

static void no_io(struct store *s, struct io *io)
{
	fail();
}

static ssize_t tag_get(struct store *s, const char *name, void *buf, size_t cap)
{
	if (strcmp(name, "x") != 0)
		return -EOPNOTSUPP;
	if (disk.get_err != 0)
		return disk.get_err;
	if (disk.tag[0] == '\0')
		return -ENODATA;
	memcpy(buf, disk.tag, strlen(disk.tag));
	return (ssize_t)strlen(disk.tag);
}

static int tag_set(struct store *s, const char *name, const void *buf, size_t len)
{
	if (!disk.info.keeps_tags)
		return -EOPNOTSUPP;
	assert_true(len < sizeof(disk.tag));
	memcpy(disk.tag, buf, len);
	disk.tag[len] = '\0';
	return 0;
}

static int fingerprint(struct store *s, char *buf, size_t cap)
{
	if (disk.fingerprint == NULL)
		return -EOPNOTSUPP;
	return str_copy(buf, cap, disk.fingerprint) ? 0 : -ERANGE;
}

static const struct store_type disk_type = {
	.name = "disk",
	.open = open_disk,
	.close = close_disk,
	.read = no_io,
	.write = no_io,
	.tag_get = tag_get,
	.tag_set = tag_set,
	.fingerprint = fingerprint,
};

static struct unit_identity identity_now(struct store *store)
{
	struct unit_identity id;
	bool renewed;

	assert_int_equal(unit_identity_load(store, &id, &renewed, NULL), 0);
	return id;
}

static void start_in(const char *keep_in)
{
	static const struct store_type *const types[] = {&disk_type, NULL};
	const struct bdev_config bc = {.block_size = 512};
	const struct store_config sc = {.size = 0};
	struct unit_identity id;
	struct store *store;
	struct bdev *bdev;

	assert_int_equal(store_open(&store, set, types, "disk:", &sc, NULL), 0);
	id = identity_now(store);
	assert_int_equal(bdev_create(&bdev, store, &bc, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &id, 0), 0);
	assert_int_equal(unit_keep_in(unit, keep_in), 0);
}

static void start(void)
{
	start_in(dir);
}

static void stop(void)
{
	unit_destroy(unit);
	unit = NULL;
}

static int set_up(void **state)
{
	disk.info = (struct store_info){.size = MiB, .known_again = true};
	disk.fingerprint = "wwid=naa.5000c5001234 part=0";
	disk.tag[0] = '\0';
	disk.get_err = -EOPNOTSUPP;
	str_copy(top, sizeof(top), "./unit_keep.XXXXXX");
	assert_non_null(mkdtemp(top));
	str_format(dir, sizeof(dir), "%s/state", top);
	return sim_create(&set, 1, 1);
}

static int tear_down(void **state)
{
	char command[96];

	if (unit != NULL)
		stop();
	loop_set_destroy(set);
	str_format(command, sizeof(command), "rm -rf '%s'", top);
	return system(command);
}

static bool is_made(void)
{
	return access(dir, F_OK) == 0;
}

static int keep(const char *value)
{
	return unit_tag_set(unit, "x", value, strlen(value));
}

static void expect(const char *value)
{
	char buf[64];

	assert_int_equal(unit_tag_get(unit, "x", buf, sizeof(buf)), strlen(value));
	assert_memory_equal(buf, value, strlen(value));
}

static ssize_t get(void)
{
	char buf[64];

	return unit_tag_get(unit, "x", buf, sizeof(buf));
}

/* ---- The directory ---- */

static void survives_in_the_directory(void **state)
{
	start();
	assert_true(unit_keeps_tags(unit));
	assert_int_equal(get(), -ENODATA);
	assert_false(is_made());
	assert_int_equal(keep("one"), 0);
	expect("one");
	stop();
	start();
	expect("one");
	assert_int_equal(keep("two"), 0);
	stop();
	start();
	expect("two");
	assert_string_equal(disk.tag, "");
}

/* With the same designator, as of two machines that were cloned: still not the same disk. */
static void another_disk_does_not_inherit(void **state)
{
	start();
	assert_int_equal(keep("ours"), 0);
	str_copy(unit->keep.bound_to, sizeof(unit->keep.bound_to), "wwid=naa.5000c5001235 part=0");
	assert_int_equal(get(), -ENODATA);
	stop();
	disk.fingerprint = "wwid=naa.5000c5001234 part=1";
	start();
	assert_int_equal(get(), -ENODATA);
	assert_int_equal(keep("theirs"), 0);
	stop();
	disk.fingerprint = "wwid=naa.5000c5001234 part=0";
	start();
	expect("ours");
}

static void a_store_that_keeps_is_asked_alone(void **state)
{
	disk.info.keeps_tags = true;
	disk.get_err = 0;
	start();
	assert_true(unit_keeps_tags(unit));
	assert_int_equal(get(), -ENODATA);
	assert_int_equal(keep("tag"), 0);
	expect("tag");
	assert_string_equal(disk.tag, "tag");
	assert_false(is_made());
}

/* Which disk it is will not be known: it may be another. */
static void nothing_is_kept_of_a_disk_that_could_be_another(void **state)
{
	static const struct {
		bool known_again;
		const char *fingerprint;
	} rows[] = {{false, "ino=7"}, {true, NULL}, {false, NULL}};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		disk.info.known_again = rows[i].known_again;
		disk.fingerprint = rows[i].fingerprint;
		start();
		assert_false(unit_keeps_tags(unit));
		assert_int_equal(keep("x"), -EOPNOTSUPP);
		assert_int_equal(get(), -EOPNOTSUPP);
		assert_false(is_made());
		stop();
	}
}

static void nowhere_to_keep(void **state)
{
	start_in(NULL);
	assert_false(unit_keeps_tags(unit));
	assert_int_equal(keep("x"), -EOPNOTSUPP);
	assert_int_equal(get(), -EOPNOTSUPP);
}

/* It may have been left half erased: that is found, and nothing changes. */
static void read_only_disks_are_looked_up(void **state)
{
	start();
	assert_int_equal(keep("half"), 0);
	stop();
	disk.info.read_only = true;
	start();
	assert_false(unit_keeps_tags(unit));
	expect("half");
	assert_int_equal(keep("whole"), -EROFS);
	expect("half");
	stop();
	/* What the file says itself comes first. */
	disk.get_err = 0;
	str_copy(disk.tag, sizeof(disk.tag), "own");
	start();
	expect("own");
}

static void errors_of_the_store_are_told(void **state)
{
	start();
	assert_int_equal(keep("one"), 0);
	disk.get_err = -EIO;
	assert_int_equal(get(), -EIO);
	disk.get_err = -ENODEV;
	assert_int_equal(get(), -ENODEV);
}

/* ---- What cannot be kept is refused ---- */

static void too_large(void **state)
{
	static const uint8_t value[KEPT_VALUE_MAX + 1];

	start();
	assert_int_equal(unit_tag_set(unit, "x", value, sizeof(value)), -ENOSPC);
	assert_int_equal(get(), -ENODATA);
}

static void full(void **state)
{
	const struct rlimit small = {.rlim_cur = 100, .rlim_max = RLIM_INFINITY};
	static const uint8_t value[500];
	struct rlimit was;
	int err;

	start();
	assert_int_equal(keep("old"), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	err = unit_tag_set(unit, "x", value, sizeof(value));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(err, -ENOSPC);
	expect("old");
}

/* sysfs takes no directories, of anybody. */
static void not_writable(void **state)
{
	start_in("/sys/kernel/spindle");
	assert_int_equal(keep("x"), -EROFS);
	assert_int_equal(get(), -ENODATA);
}

static void no_directory(void **state)
{
	const int fd = open(dir, O_WRONLY | O_CREAT, 0600);

	close(fd);
	start();
	assert_int_equal(keep("x"), -EIO);
}

/* ---- Who the disk is ---- */

static void the_identity_is_what_it_was(void **state)
{
	struct unit_identity first;
	struct dirent *entry;
	size_t entries = 0;
	DIR *d;

	start_in(NULL);
	first = *unit_identity(unit);
	stop();
	start();
	assert_memory_equal(unit_identity(unit), &first, sizeof(first));
	assert_int_equal(keep("x"), 0);
	stop();
	start();
	assert_memory_equal(unit_identity(unit), &first, sizeof(first));
	/* By its serial number, which is the designator in digits; and that is all there is. */
	d = opendir(dir);
	assert_non_null(d);
	while ((entry = readdir(d)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		assert_string_equal(entry->d_name, first.serial);
		entries++;
	}
	closedir(d);
	assert_int_equal(entries, 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(survives_in_the_directory),
		TEST(another_disk_does_not_inherit),
		TEST(a_store_that_keeps_is_asked_alone),
		TEST(nothing_is_kept_of_a_disk_that_could_be_another),
		TEST(nowhere_to_keep),
		TEST(read_only_disks_are_looked_up),
		TEST(errors_of_the_store_are_told),
		TEST(too_large),
		TEST(full),
		TEST(not_writable),
		TEST(no_directory),
		TEST(the_identity_is_what_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
