/*
 * The identity of a disk: kept for life, never carried to a copy by accident.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* cmocka wants those first. */
#include <cmocka.h>

#include "loop/sim.h"
#include "store/impl.h"
#include "unit/impl.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* A disk in memory: its tags, as a file system would keep them, and where it is. */
static struct disk {
	char identity[80], bound_to[80]; /* "": no such tag */
	char fingerprint[40];            /* "": -EOPNOTSUPP */
	int get_err, set_err;
} disk;

static struct loop_set *set;
static struct store *store;
static char machine_a[64], machine_b[64];

static int open_disk(struct store **out, struct loop_set *loops,
		     const struct store_type *const *types, char *rest,
		     const struct store_config *config, struct diag *d)
{
	*out = calloc(1, sizeof(**out));
	(*out)->info = (struct store_info){.size = MiB};
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

static char *tag_of(const char *name)
{
	return strcmp(name, "identity") == 0   ? disk.identity
	       : strcmp(name, "bound_to") == 0 ? disk.bound_to
					       : NULL;
}

static ssize_t tag_get(struct store *s, const char *name, void *buf, size_t cap)
{
	const char *tag = tag_of(name);

	assert_non_null(tag);
	if (disk.get_err != 0)
		return disk.get_err;
	if (tag[0] == '\0')
		return -ENODATA;
	assert_true(strlen(tag) <= cap);
	memcpy(buf, tag, strlen(tag));
	return (ssize_t)strlen(tag);
}

static int tag_set(struct store *s, const char *name, const void *buf, size_t len)
{
	char *tag = tag_of(name);

	assert_non_null(tag);
	assert_true(len < sizeof(disk.identity));
	if (disk.set_err != 0)
		return disk.set_err;
	memcpy(tag, buf, len);
	tag[len] = '\0';
	return 0;
}

static int fingerprint(struct store *s, char *buf, size_t cap)
{
	if (disk.fingerprint[0] == '\0')
		return -EOPNOTSUPP;
	return str_copy(buf, cap, disk.fingerprint) ? 0 : -ENAMETOOLONG;
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

static struct unit_identity load_at(const char *machine, bool renewed)
{
	struct unit_identity id;
	struct diag d;
	bool was;

	diag_init(&d);
	memset(&id, 0xee, sizeof(id));
	assert_int_equal(identity_load(store, machine, &id, &was, &d), 0);
	assert_int_equal(was, renewed);
	assert_int_equal(id.naa[0] >> 4, 3);
	assert_in_range(strlen(id.serial), 1, UNIT_SERIAL_MAX);
	return id;
}

static struct unit_identity load(bool renewed)
{
	return load_at(machine_a, renewed);
}

static int fails(char *what, size_t cap)
{
	struct unit_identity id;
	struct diag d;
	bool renewed;
	int err;

	diag_init(&d);
	err = identity_load(store, machine_a, &id, &renewed, &d);
	str_format(what, cap, "%s; %s", d.what, d.fix);
	return err;
}

static void same(struct unit_identity a, struct unit_identity b)
{
	assert_memory_equal(a.naa, b.naa, sizeof(a.naa));
	assert_string_equal(a.serial, b.serial);
}

static void different(struct unit_identity a, struct unit_identity b)
{
	assert_true(memcmp(a.naa, b.naa, sizeof(a.naa)) != 0);
	assert_string_not_equal(a.serial, b.serial);
}

static int fresh_disk(void **state)
{
	disk = (struct disk){.fingerprint = "inode 7"};
	return 0;
}

static void kept_for_life(void **state)
{
	struct unit_identity first = load(false);
	char serial[17];

	str_hex(serial, first.naa, 8);
	assert_string_equal(first.serial, serial);
	assert_string_not_equal(disk.identity, "");
	assert_string_not_equal(disk.bound_to, "");
	same(load(false), first);
	fresh_disk(NULL);
	different(load(false), first);
}

static void a_copy_is_renewed(void **state)
{
	struct unit_identity first = load(false), second;

	str_copy(disk.fingerprint, sizeof(disk.fingerprint), "inode 8");
	second = load(true);
	different(second, first);
	same(load(false), second);
}

static void a_clone_of_the_machine_is_renewed(void **state)
{
	struct unit_identity first = load_at(machine_a, false), second;

	second = load_at(machine_b, true);
	different(second, first);
	same(load_at(machine_b, false), second);
	load_at("/nonexistent", true);
	load_at("/nonexistent", false);
}

static void carried_over_on_purpose(void **state)
{
	struct unit_identity first = load(false);

	str_copy(disk.fingerprint, sizeof(disk.fingerprint), "inode 8");
	disk.bound_to[0] = '\0';
	same(load_at(machine_b, false), first);
	assert_string_not_equal(disk.bound_to, "");
	same(load_at(machine_b, false), first);
}

static void given_by_hand(void **state)
{
	struct unit_identity id;

	str_copy(disk.identity, sizeof(disk.identity), "3123456789abcdef WD-WCAV5 x"); /* a space */
	assert_int_equal(fails((char[500]){""}, 500), -EINVAL);
	str_copy(disk.identity, sizeof(disk.identity), "3123456789abcdef WD-WCAV5");
	id = load(false);
	assert_memory_equal(id.naa, "\x31\x23\x45\x67\x89\xab\xcd\xef", 8);
	assert_string_equal(id.serial, "WD-WCAV5");
}

static void nonsense_is_refused(void **state)
{
	static const char *const nonsense[] = {
		"x",
		"3123456789abcdef",
		"3123456789abcdef ",
		"5123456789abcdef A",
		"3123456789ABCDEF A",
		"3123456789abcde A",
		"3123456789abcdef \x01",
		"3123456789abcdef 123456789012345678901234567890123",
	};
	char what[500];

	for (unsigned i = 0; i < ARRAY_LEN(nonsense); i++) {
		str_copy(disk.identity, sizeof(disk.identity), nonsense[i]);
		assert_int_equal(fails(what, sizeof(what)), -EINVAL);
		assert_non_null(strstr(what, "setfattr -x user.spindle.identity"));
		assert_string_equal(disk.identity, nonsense[i]);
	}
}

/* Killed between the two tags: never with the identity of the disk that was copied. */
static void killed_in_between(void **state)
{
	struct unit_identity first = load(false), second;
	struct disk before;

	str_copy(disk.fingerprint, sizeof(disk.fingerprint), "inode 8");
	before = disk;
	second = load(true);
	str_copy(disk.bound_to, sizeof(disk.bound_to), before.bound_to);
	different(load(true), first);
	different(load(false), second);
}

static void where_nothing_is_kept(void **state)
{
	static const int errs[] = {-EOPNOTSUPP, -EROFS, -EPERM, -EACCES};
	struct unit_identity first;

	disk.get_err = disk.set_err = -EOPNOTSUPP;
	first = load(false);
	/* For ever: clients of all disks out there know them so. */
	assert_string_equal(first.serial, "37cd885f0692e91a");
	same(load(false), first);
	different(load_at(machine_b, false), first);
	disk.get_err = 0;
	for (unsigned i = 0; i < ARRAY_LEN(errs); i++) {
		disk.set_err = errs[i];
		same(load(false), first);
	}
	str_copy(disk.fingerprint, sizeof(disk.fingerprint), "inode 8");
	different(load(false), first);
	disk.fingerprint[0] = '\0';
	first = load(false);
	different(load(false), first); /* ram: by chance */
}

/* A read-only copy cannot be renewed on disk, and is another all the same, and stays so. */
static void read_only_copy(void **state)
{
	struct unit_identity first = load(false), second;

	str_copy(disk.fingerprint, sizeof(disk.fingerprint), "inode 8");
	disk.set_err = -EROFS;
	second = load(true);
	different(second, first);
	same(load(true), second);
	/* One that is bound to nothing is what it says. */
	disk.bound_to[0] = '\0';
	same(load(false), first);
}

static void errors_are_told(void **state)
{
	char what[500];

	disk.get_err = -EIO;
	assert_int_equal(fails(what, sizeof(what)), -EIO);
	assert_non_null(strstr(what, "read"));
	disk.get_err = 0;
	disk.set_err = -ENOSPC;
	assert_int_equal(fails(what, sizeof(what)), -ENOSPC);
	assert_non_null(strstr(what, "keep"));
	str_copy(disk.identity, sizeof(disk.identity), "3123456789abcdef A");
	assert_int_equal(fails(what, sizeof(what)), -ENOSPC);
}

static int write_machine(char *path, size_t cap, const char *id)
{
	FILE *f;
	int fd;

	str_copy(path, cap, "/tmp/spindle-machine-XXXXXX");
	fd = mkstemp(path);
	f = fd >= 0 ? fdopen(fd, "w") : NULL;
	if (f == NULL)
		return -1;
	fprintf(f, "%s\n", id);
	return fclose(f);
}

static int set_up(void **state)
{
	static const struct store_type *const types[] = {&disk_type, NULL};
	struct store_config config = {.size = 0};

	if (write_machine(machine_a, sizeof(machine_a), "3b1c9e4d8a7f4d0c9d5ae0f1a2b3c4d5") != 0 ||
	    write_machine(machine_b, sizeof(machine_b), "3b1c9e4d8a7f4d0c9d5ae0f1a2b3c4d6") != 0 ||
	    sim_create(&set, 1, 1) != 0)
		return -1;
	return store_open(&store, set, types, "disk:", &config, NULL);
}

static int tear_down(void **state)
{
	store_close(store);
	loop_set_destroy(set);
	unlink(machine_a);
	unlink(machine_b);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(kept_for_life, fresh_disk),
		cmocka_unit_test_setup(a_copy_is_renewed, fresh_disk),
		cmocka_unit_test_setup(a_clone_of_the_machine_is_renewed, fresh_disk),
		cmocka_unit_test_setup(carried_over_on_purpose, fresh_disk),
		cmocka_unit_test_setup(given_by_hand, fresh_disk),
		cmocka_unit_test_setup(nonsense_is_refused, fresh_disk),
		cmocka_unit_test_setup(killed_in_between, fresh_disk),
		cmocka_unit_test_setup(where_nothing_is_kept, fresh_disk),
		cmocka_unit_test_setup(read_only_copy, fresh_disk),
		cmocka_unit_test_setup(errors_are_told, fresh_disk),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
