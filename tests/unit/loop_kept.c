/*
 * Small values in a directory: got as they were set, by those they were set for, whatever happened in
 * between.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* cmocka wants those first. */
#include <cmocka.h>

#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GROUP "3123456789abcdef"

static char top[64];
static char dir[96]; /* in it; does not exist at first */
static struct kept_place place;

static int set_up(void **state)
{
	str_copy(top, sizeof(top), "./loop_kept.XXXXXX");
	assert_non_null(mkdtemp(top));
	str_format(dir, sizeof(dir), "%s/a/b", top);
	place = (struct kept_place){.dir = dir, .group = GROUP, .bound_to = "ino=7 btime=1.5"};
	return 0;
}

static int tear_down(void **state)
{
	char command[96];

	str_format(command, sizeof(command), "rm -rf '%s'", top);
	return system(command);
}

static const char *path_of(const char *name)
{
	static char path[PATH_MAX];

	str_format(path, sizeof(path), "%s/%s/%s", dir, GROUP, name);
	return path;
}

static void set(const char *name, const char *value)
{
	assert_int_equal(kept_set(&place, name, value, strlen(value)), 0);
}

static void expect(const char *name, const char *value)
{
	char buf[KEPT_VALUE_MAX];

	assert_int_equal(kept_get(&place, name, buf, sizeof(buf)), strlen(value));
	assert_memory_equal(buf, value, strlen(value));
}

static ssize_t get(const char *name)
{
	char buf[KEPT_VALUE_MAX];

	return kept_get(&place, name, buf, sizeof(buf));
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static size_t file_get(const char *path, void *buf, size_t cap)
{
	const int fd = open(path, O_RDONLY);
	const ssize_t n = read(fd, buf, cap);

	assert_true(n >= 0);
	close(fd);
	return (size_t)n;
}

static void file_put(const char *path, const void *buf, size_t len)
{
	const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, buf, len), len);
	close(fd);
}

/* ---- What it is for ---- */

static void values_are_kept(void **state)
{
	char buf[8];

	assert_int_equal(get("work"), -ENODATA);
	assert_int_equal(access(dir, F_OK), -1); /* asking makes nothing */
	set("work", "first");
	expect("work", "first");
	assert_int_equal(get("mode"), -ENODATA);
	set("mode", "1 wce=0");
	set("work", "another, longer");
	expect("work", "another, longer");
	set("work", "");
	expect("work", "");
	expect("mode", "1 wce=0");
	assert_int_equal(kept_get(&place, "mode", buf, 7), 7);
	assert_int_equal(kept_get(&place, "mode", buf, 6), -ERANGE);
	assert_int_equal(access(path_of("work.new"), F_OK), -1);
}

static void nobody_else_has_access(void **state)
{
	char path[128];

	set("work", "x");
	assert_int_equal(mode_of(path_of("work")), 0600);
	assert_int_equal(mode_of(dir), 0700);
	str_format(path, sizeof(path), "%s/a", top);
	assert_int_equal(mode_of(path), 0700);
	str_format(path, sizeof(path), "%s/" GROUP, dir);
	assert_int_equal(mode_of(path), 0700);
}

static void any_bytes_up_to_a_limit(void **state)
{
	static uint8_t value[KEPT_VALUE_MAX + 1], back[KEPT_VALUE_MAX];

	for (size_t i = 0; i < sizeof(value); i++)
		value[i] = (uint8_t)(i * 7);
	assert_int_equal(kept_set(&place, "work", value, KEPT_VALUE_MAX), 0);
	assert_int_equal(kept_get(&place, "work", back, sizeof(back)), KEPT_VALUE_MAX);
	assert_memory_equal(value, back, KEPT_VALUE_MAX);
	assert_int_equal(kept_set(&place, "work", value, KEPT_VALUE_MAX + 1), -EFBIG);
	assert_int_equal(kept_get(&place, "work", back, sizeof(back)), KEPT_VALUE_MAX);
}

/* ---- Whose it is ---- */

static void another_disk_gets_nothing(void **state)
{
	static const char *const others[] = {"ino=7 btime=1.6", "ino=7 btime=1.", "",
					     "ino=7 btime=1.55"};
	const char *const ours = place.bound_to;

	set("work", "sanitize");
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		place.bound_to = others[i];
		assert_int_equal(get("work"), -ENODATA);
	}
	place.bound_to = ours;
	expect("work", "sanitize");
	place.group = "3123456789abcdee";
	assert_int_equal(get("work"), -ENODATA);
	place.group = GROUP;
	/* What the other sets takes the place: there is one disk of a name at a time. */
	place.bound_to = others[0];
	set("work", "theirs");
	expect("work", "theirs");
	place.bound_to = ours;
	assert_int_equal(get("work"), -ENODATA);
}

static void names_stay_in_the_directory(void **state)
{
	static const char *const names[] = {"",      ".", "..",  "a/b", "/etc",
					    "a.new", "A", "a b", "a\n"};
	char longest[300], bound[KEPT_BOUND_MAX + 2];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		place.group = GROUP;
		assert_int_equal(kept_set(&place, names[i], "x", 1), -EINVAL);
		assert_int_equal(get(names[i]), -EINVAL);
		place.group = names[i];
		assert_int_equal(kept_set(&place, "work", "x", 1), -EINVAL);
		assert_int_equal(get("work"), -EINVAL);
	}
	place.group = GROUP;
	memset(longest, 'n', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_int_equal(kept_set(&place, longest, "x", 1), -EINVAL);
	place.bound_to = "two\nlines";
	assert_int_equal(kept_set(&place, "work", "x", 1), -EINVAL);
	assert_int_equal(get("work"), -EINVAL);
	memset(bound, 'b', sizeof(bound) - 1);
	bound[sizeof(bound) - 1] = '\0';
	place.bound_to = bound;
	assert_int_equal(kept_set(&place, "work", "x", 1), -EINVAL);
}

/* ---- What went wrong in between ---- */

/* One bit that is wrong, or any end that is missing: there is something, and it makes no sense. */
static void damage_is_seen(void **state)
{
	uint8_t file[256], broken[256];
	size_t len;

	set("work", "value");
	len = file_get(path_of("work"), file, sizeof(file));
	assert_in_range(len, 20, sizeof(file) - 1);
	for (size_t at = 0; at < len * 8; at++) {
		memcpy(broken, file, len);
		broken[at / 8] ^= (uint8_t)(1u << at % 8);
		file_put(path_of("work"), broken, len);
		assert_int_equal(get("work"), -EBADMSG);
	}
	for (size_t n = 0; n < len; n++) {
		file_put(path_of("work"), file, n);
		assert_int_equal(get("work"), -EBADMSG);
	}
	memcpy(broken, file, len);
	broken[len] = 0;
	file_put(path_of("work"), broken, len + 1);
	assert_int_equal(get("work"), -EBADMSG);
	assert_int_equal(truncate(path_of("work"), 1 << 30), 0);
	assert_int_equal(get("work"), -EBADMSG);
	file_put(path_of("work"), file, len);
	expect("work", "value");
}

static void what_is_no_file_is_not_read(void **state)
{
	set("work", "value");
	set("target", "elsewhere");
	unlink(path_of("work"));
	assert_int_equal(symlink("target", path_of("work")), 0);
	assert_int_equal(get("work"), -EBADMSG);
	set("work", "new");
	expect("work", "new");
	expect("target", "elsewhere");
	unlink(path_of("work"));
	assert_int_equal(mkfifo(path_of("work"), 0600), 0);
	assert_int_equal(get("work"), -EBADMSG);
	set("work", "new");
	expect("work", "new");
}

/* It ended while it wrote, or before it renamed. */
static void what_was_left_behind_is_no_value(void **state)
{
	uint8_t file[256];
	size_t len;

	set("work", "new");
	len = file_get(path_of("work"), file, sizeof(file));
	set("work", "old");
	for (size_t n = 0; n <= len; n += len / 2) {
		file_put(path_of("work.new"), file, n);
		expect("work", "old");
	}
	set("work", "newest");
	expect("work", "newest");
	assert_int_equal(access(path_of("work.new"), F_OK), -1);
	/* Nor is it followed to where it points. */
	set("target", "elsewhere");
	assert_int_equal(symlink("target", path_of("work.new")), 0);
	set("work", "last");
	expect("work", "last");
	expect("target", "elsewhere");
}

static void set_for_ever(void)
{
	char value[2000];

	for (unsigned i = 0;; i++) {
		const size_t len = 1 + i * 37 % sizeof(value);

		memset(value, 'a' + (int)(len % 26), len);
		if (kept_set(&place, "work", value, len) != 0)
			_exit(1);
	}
}

static void killed_at_any_time(void **state)
{
	char value[2000];

	set("work", "b");
	for (unsigned i = 0; i < 40; i++) {
		const pid_t child = fork();
		int status;
		ssize_t n;

		if (child == 0)
			set_for_ever();
		usleep(1000 + i * 211);
		kill(child, SIGKILL);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status));
		n = kept_get(&place, "work", value, sizeof(value));
		assert_in_range(n, 1, sizeof(value));
		for (ssize_t at = 0; at < n; at++)
			assert_int_equal(value[at], 'a' + (int)(n % 26));
	}
}

static void a_full_disk_keeps_the_old(void **state)
{
	const struct rlimit small = {.rlim_cur = 100, .rlim_max = RLIM_INFINITY};
	struct rlimit was;
	char value[500] = {1};
	int err;

	set("work", "old");
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	err = kept_set(&place, "work", value, sizeof(value));
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(err, -EFBIG);
	expect("work", "old");
	assert_int_equal(access(path_of("work.new"), F_OK), -1);
}

static void where_nothing_can_be_written(void **state)
{
	const bool root = geteuid() == 0;
	char group[160];

	set("work", "old");
	str_format(group, sizeof(group), "%s/%s", dir, GROUP);
	if (root) {
		assert_int_equal(chown(group, 65534, 0), 0);
		assert_int_equal(chown(dir, 65534, 0), 0);
		assert_int_equal(chmod(top, 0755), 0);
		str_format(group, sizeof(group), "%s/a", top);
		assert_int_equal(chmod(group, 0755), 0);
		assert_int_equal(chown(path_of("work"), 65534, 0), 0);
		assert_int_equal(seteuid(65534), 0);
	}
	str_format(group, sizeof(group), "%s/%s", dir, GROUP);
	assert_int_equal(chmod(group, 0500), 0);
	if (get("work") == -EACCES) { /* the directories above keep that user out */
		assert_true(root);
		assert_int_equal(seteuid(0), 0);
		skip();
	}
	assert_int_equal(kept_set(&place, "work", "new", 3), -EACCES);
	expect("work", "old");
	assert_int_equal(chmod(dir, 0500), 0);
	place.group = "3000000000000000";
	assert_int_equal(kept_set(&place, "work", "new", 3), -EACCES);
	assert_int_equal(get("work"), -ENODATA);
	place.group = GROUP;
	assert_int_equal(chmod(dir, 0), 0);
	assert_int_equal(get("work"), -EACCES);
	assert_int_equal(chmod(dir, 0700), 0);
	assert_int_equal(chmod(group, 0700), 0);
	expect("work", "old");
	if (root)
		assert_int_equal(seteuid(0), 0);
}

static void a_file_in_the_way(void **state)
{
	char path[128];

	str_format(path, sizeof(path), "%s/a", top);
	file_put(path, "x", 1);
	assert_int_equal(kept_set(&place, "work", "x", 1), -ENOTDIR);
	assert_int_equal(get("work"), -ENOTDIR);
}

static void paths_of_any_form(void **state)
{
	static const char *const forms[] = {"c/", "/d///e/.", "f/../g"};
	char path[128], longest[PATH_MAX + 8];

	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		str_format(path, sizeof(path), "%s/%s", top, forms[i]);
		place.dir = path;
		set("work", "here");
		expect("work", "here");
	}
	memset(longest, 'n', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	place.dir = longest;
	assert_int_equal(kept_set(&place, "work", "x", 1), -ENAMETOOLONG);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(values_are_kept),
		TEST(nobody_else_has_access),
		TEST(any_bytes_up_to_a_limit),
		TEST(another_disk_gets_nothing),
		TEST(names_stay_in_the_directory),
		TEST(damage_is_seen),
		TEST(what_is_no_file_is_not_read),
		TEST(what_was_left_behind_is_no_value),
		TEST(killed_at_any_time),
		TEST(a_full_disk_keeps_the_old),
		TEST(where_nothing_can_be_written),
		TEST(a_file_in_the_way),
		TEST(paths_of_any_form),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
