/*
 * Opening files and devices: what is refused and how it is said, what is found out, and the values
 * kept with a file.
 */
#include "loop_test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "loop/file.h"

#define loop_config kernel_loop_config /* the kernel's loop devices have a struct of our name */
#include <linux/loop.h>
#undef loop_config

struct place {
	struct loop_set *set;
	char dir[64];
	char path[96]; /* of disk.img in it: does not exist */
	struct diag d;
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	str_copy(p->dir, sizeof(p->dir), "./loop_fileopen.XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	str_format(p->path, sizeof(p->path), "%s/disk.img", p->dir);
	p->set = test_set(1, LOOP_DISK_AUTO);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	loop_set_destroy(p->set);
	remove(p->path); /* whatever it became */
	assert_int_equal(rmdir(p->dir), 0);
	free(p);
	return 0;
}

static int try_open(struct place *p, struct file **f, const char *path, unsigned flags,
		    uint64_t create_size)
{
	struct file_config c = {.path = path, .flags = flags, .create_size = create_size};

	*f = NULL;
	diag_init(&p->d);
	return file_open(f, p->set, &c, &p->d);
}

static struct file *must_open(struct place *p, unsigned flags, uint64_t create_size)
{
	struct file *f;

	if (try_open(p, &f, p->path, flags, create_size) != 0)
		fail_msg("%s", p->d.what);
	return f;
}

/* Refused with this error, and with words that contain `what` and `fix`. */
static void refused(struct place *p, const char *path, unsigned flags, uint64_t create_size,
		    int err, const char *what, const char *fix)
{
	struct file *f;

	assert_int_equal(try_open(p, &f, path, flags, create_size), err);
	assert_null(f);
	if (strstr(p->d.what, what) == NULL || strstr(p->d.fix, fix) == NULL)
		fail_msg("said \"%s\"; \"%s\"", p->d.what, p->d.fix);
}

/* ---- Created -----------------------------------------------------------------------------------
 */

static bool is_there(const char *path)
{
	return access(path, F_OK) == 0;
}

/* What was made goes with its close, unless it was kept, or is somebody else's by now. */
static void a_provisional_file_goes_again(void **state)
{
	struct place *p = *state;
	struct flock part = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = MiB, .l_len = 1};
	struct file_config first = {.path = p->path,
				    .flags = FILE_PROVISIONAL,
				    .create_size = 2 * MiB,
				    .part_len = MiB};
	struct file *f = must_open(p, FILE_PROVISIONAL, MiB);
	char aside[128];
	int fd;

	assert_true(is_there(p->path));
	file_close(f);
	assert_false(is_there(p->path));

	f = must_open(p, FILE_PROVISIONAL, MiB);
	file_keep(f);
	file_close(f);
	assert_true(is_there(p->path));
	/* It was there before. */
	file_close(must_open(p, FILE_PROVISIONAL, MiB));
	assert_true(is_there(p->path));
	assert_int_equal(unlink(p->path), 0);

	/* Another one of its name. */
	f = must_open(p, FILE_PROVISIONAL, MiB);
	str_format(aside, sizeof(aside), "%s-aside", p->path);
	assert_int_equal(rename(p->path, aside), 0);
	fd = open(p->path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	close(fd);
	file_close(f);
	assert_true(is_there(p->path));
	assert_int_equal(unlink(p->path), 0);
	assert_int_equal(unlink(aside), 0);

	/* Its other half is used. */
	assert_int_equal(file_open(&f, p->set, &first, &p->d), 0);
	fd = open(p->path, O_RDONLY);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &part), 0);
	file_close(f);
	assert_true(is_there(p->path));
	close(fd);
	assert_int_equal(unlink(p->path), 0);
}

static void a_missing_file_is_created_sparse(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, 10 * GiB);
	struct stat st;

	assert_int_equal(file_info(f)->size, 10 * GiB);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_size, 10 * GiB);
	assert_true(st.st_blocks < 1000);
	file_close(f);
	f = must_open(p, 0, 10 * GiB); /* the size it has */
	file_close(f);
	f = must_open(p, 0, 0); /* or any */
	assert_int_equal(file_info(f)->size, 10 * GiB);
	file_close(f);
}

static void another_size_is_refused(void **state)
{
	struct place *p = *state;

	file_close(must_open(p, 0, MiB));
	refused(p, p->path, 0, 2 * MiB, -EEXIST, "exists with 1 MiB, not the 2 MiB", "--size");
}

static void creation_is_refused(void **state)
{
	struct place *p = *state;
	char path[128];
	struct rlimit before, small = {64 * KiB, RLIM_INFINITY};
	struct stat st;

	str_format(path, sizeof(path), "%s/nodir/disk.img", p->dir);
	refused(p, path, 0, MiB, -ENOENT, "cannot create", "directory first");
	refused(p, p->path, FILE_READ_ONLY, MiB, -ENOENT, "cannot create", "without --ro");
	getrlimit(RLIMIT_FSIZE, &before);
	small.rlim_max = before.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	refused(p, p->path, 0, MiB, -EFBIG, "cannot create", "smaller");
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(stat(p->path, &st), -1); /* nothing half-made stays */
}

/* ---- Refused -----------------------------------------------------------------------------------
 */

static void what_is_no_disk_is_refused(void **state)
{
	struct place *p = *state;

	refused(p, p->path, 0, 0, -ENOENT, "cannot open ", "--size 10G");
	refused(p, p->dir, 0, MiB, -EINVAL, "it is a directory", "name a file in it");
	refused(p, "/dev/null", 0, 0, -EINVAL, "it is a character device", "regular file");
	assert_int_equal(mkfifo(p->path, 0600), 0);
	refused(p, p->path, 0, 0, -EINVAL, "it is a FIFO", "regular file");
}

static void a_file_in_use_is_refused(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB), *g;

	refused(p, p->path, 0, 0, -EBUSY, "in use by another", "--ro");
	refused(p, p->path, FILE_READ_ONLY, 0, -EBUSY, "in use by another", "copy");
	file_close(f);
	f = must_open(p, FILE_READ_ONLY, 0);
	g = must_open(p, FILE_READ_ONLY, 0); /* many may read */
	refused(p, p->path, 0, 0, -EBUSY, "in use by another", "--ro");
	file_close(g);
	file_close(f);
	file_close(must_open(p, 0, 0));
	file_close(NULL);
}

/* ---- Facts -------------------------------------------------------------------------------------
 */

static void facts_of_a_regular_file(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB);
	const struct file_info *info = file_info(f);

	assert_false(info->block_device);
	assert_false(info->read_only);
	assert_int_equal(info->logical_block, 512);
	assert_true(is_power_of_2(info->physical_block) && info->physical_block >= 512);
	assert_true(info->direct_align >= 512);
	assert_true(info->discard_zeroes);
	assert_true(info->discard_granularity == 0 ||
		    info->discard_granularity == info->physical_block);
	file_close(f);
	f = must_open(p, FILE_READ_ONLY, 0);
	assert_true(file_info(f)->read_only);
	assert_int_equal(file_info(f)->discard_granularity, 0);
	file_close(f);
}

static void a_file_in_memory_is_known_as_such(void **state)
{
	struct place *p = *state;
	char path[] = "/dev/shm/loop_fileopen.XXXXXX";
	int fd = mkstemp(path);
	struct file *f;

	if (fd < 0)
		skip();
	close(fd);
	assert_int_equal(try_open(p, &f, path, 0, 0), 0);
	assert_true(file_info(f)->in_memory);
	assert_int_equal(file_info(f)->rotation_rate, 1);
	assert_int_equal(file_info(f)->size, 0);
	file_close(f);
	unlink(path);
}

static void a_file_can_be_resized(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB);
	struct stat st;

	assert_int_equal(file_resize(f, 3 * MiB), 0);
	assert_int_equal(file_info(f)->size, 3 * MiB);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_size, 3 * MiB);
	file_close(f);
	f = must_open(p, FILE_READ_ONLY, 0);
	assert_int_equal(file_resize(f, 4 * MiB), -EROFS);
	assert_int_equal(file_info(f)->size, 3 * MiB);
	file_close(f);
}

static void a_file_never_shrinks(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, 3 * MiB);
	struct stat st;

	assert_int_equal(truncate(p->path, 5 * MiB), 0);
	assert_int_equal(file_info(f)->size, 3 * MiB);
	assert_int_equal(file_resize(f, 4 * MiB), -ERANGE); /* it has more by now */
	assert_int_equal(file_resize(f, 0), 0);
	assert_int_equal(file_info(f)->size, 5 * MiB);
	assert_int_equal(file_resize(f, MiB), -ERANGE);
	assert_int_equal(truncate(p->path, MiB), 0);
	assert_int_equal(file_resize(f, 0), -ERANGE);
	assert_int_equal(file_resize(f, 6 * MiB), -ERANGE); /* what was cut off is no zeros */
	assert_int_equal(file_info(f)->size, 5 * MiB);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_size, MiB);
	file_close(f);
}

static void a_file_tells_how_it_is(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB);
	struct file_status now;
	uint8_t data[4096] = {1};
	uint64_t before;
	int fd;

	assert_int_equal(file_probe(f, &now), 0);
	assert_int_equal(now.size, MiB);
	assert_false(now.read_only || now.unlinked);
	assert_true(now.available != UINT64_MAX);
	before = now.allocated;
	fd = open(p->path, O_WRONLY);
	assert_int_equal(pwrite(fd, data, sizeof(data), 8192), sizeof(data));
	close(fd);
	assert_int_equal(truncate(p->path, 3 * MiB), 0);
	assert_int_equal(file_probe(f, &now), 0);
	assert_int_equal(now.size, 3 * MiB);
	assert_int_equal(file_info(f)->size, MiB); /* looking takes nothing over */
	assert_true(now.allocated >= before + 4096);
	unlink(p->path);
	assert_int_equal(file_probe(f, &now), 0);
	assert_true(now.unlinked);
	file_close(f);
	file_close(must_open(p, 0, MiB));
	f = must_open(p, FILE_READ_ONLY, 0);
	assert_int_equal(file_probe(f, &now), 0);
	assert_true(now.read_only);
	file_close(f);
}

/* A file system may refuse writes and not say that it is read-only: then it is tried. */
static void refusals_are_remembered_until_they_end(void **state)
{
	static const int errors[] = {-EROFS, -EPERM};
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB);
	struct file_status now;
	struct stat first, last;

	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		file_note_error(f, errors[i]);
		assert_true(f->refused);
		assert_int_equal(file_probe(f, &now), 0);
		assert_false(now.read_only || f->refused);
	}
	assert_int_equal(stat(p->path, &first), 0);
	file_note_error(f, -EIO);
	file_note_error(f, -ENOSPC);
	assert_false(f->refused || f->lost);
	assert_int_equal(file_probe(f, &now), 0); /* nothing is tried without need */
	assert_int_equal(stat(p->path, &last), 0);
	assert_memory_equal(&first.st_ctim, &last.st_ctim, sizeof(first.st_ctim));
	file_close(f);
}

/* Who may write a file and does not own it cannot set one of its times alone. */
static void refusals_end_for_those_who_own_nothing(void **state)
{
	struct place *p = *state;
	struct file_status now;
	struct file *f;

	if (geteuid() != 0)
		skip();
	f = must_open(p, 0, MiB);
	assert_int_equal(chmod(p->path, 0666), 0);
	file_note_error(f, -EPERM);
	assert_int_equal(seteuid(65534), 0);
	assert_int_equal(file_probe(f, &now), 0);
	assert_int_equal(seteuid(0), 0);
	assert_false(now.read_only || f->refused);
	assert_int_equal(chmod(p->path, 0600), 0);
	file_note_error(f, -EPERM);
	assert_int_equal(seteuid(65534), 0);
	assert_int_equal(file_probe(f, &now), 0);
	assert_int_equal(seteuid(0), 0);
	assert_true(now.read_only && f->refused);
	file_close(f);
}

/* Its inode says that it is the same. */
static void a_lost_file_comes_back(void **state)
{
	static const int errors[] = {-ENODEV, -ENXIO, -ENOMEDIUM, -ESHUTDOWN, -ESTALE};
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB);
	struct file_status now;

	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		file_note_error(f, errors[i]);
		assert_true(f->lost);
		assert_int_equal(file_probe(f, &now), 0);
		assert_false(f->lost);
	}
	str_copy(f->fingerprint, sizeof(f->fingerprint), "another");
	file_note_error(f, -ENODEV);
	assert_int_equal(file_probe(f, &now), -ENODEV);
	assert_int_equal(file_probe(f, &now), -ENODEV);
	file_close(f);
}

static void what_turns_and_how_large(void **state)
{
	static const struct {
		uint8_t page[8];
		size_t len;
		uint16_t rate;
		uint8_t form;
	} rows[] = {
		{{0, 0xb1, 0, 0x3c, 0x1c, 0x20, 0, 2}, 8, 7200, 2},
		{{0, 0xb1, 0, 0x3c, 0, 1, 0, 0x13}, 8, 1, 3},
		{{0, 0xb1, 0, 0x3c, 0, 0, 0, 0}, 8, 0, 0},
		{{0, 0xb1, 0, 0x3c, 4, 0, 0, 6}, 8, 0, 0}, /* reserved */
		{{0, 0xb1, 0, 0x3c, 0xff, 0xff, 0, 5}, 8, 0, 5},
		{{0, 0xb0, 0, 0x3c, 0, 1, 0, 3}, 8, 0, 0},
		{{0, 0xb1, 0, 0x3c, 0, 1, 0, 3}, 7, 0, 0},
		{{0}, 0, 0, 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct file_info info = {.size = 0};

		file_parse_shape(&info, rows[i].page, rows[i].len);
		assert_int_equal(info.rotation_rate, rows[i].rate);
		assert_int_equal(info.form_factor, rows[i].form);
	}
}

/* ---- Tags and fingerprints ---------------------------------------------------------------------
 */

/* Where the kernel knows when it was made: its inode number alone would be another's one day. */
static void a_file_with_a_birth_time_is_known_again(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB);
	char text[128];

	assert_int_equal(file_fingerprint(f, text, sizeof(text)), 0);
	assert_int_equal(file_info(f)->known_again, strstr(text, "btime=") != NULL);
	file_close(f);
	f = must_open(p, FILE_READ_ONLY, 0);
	assert_int_equal(file_info(f)->known_again, strstr(text, "btime=") != NULL);
	file_close(f);
}

static void tags_are_kept_with_the_file(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB);
	char name[300], buf[64];
	int err = file_tag_set(f, "serial", "abc123", 6);

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_true(file_tag_get(f, name, buf, sizeof(buf)) < 0);
	assert_true(file_tag_set(f, name, buf, 1) < 0);
	if (err == -EOPNOTSUPP) {
		assert_false(file_info(f)->keeps_tags);
		file_close(f);
		skip();
	}
	assert_int_equal(err, 0);
	assert_true(file_info(f)->keeps_tags);
	file_close(f);
	f = must_open(p, FILE_READ_ONLY, 0);
	assert_int_equal(file_tag_get(f, "serial", buf, sizeof(buf)), 6);
	assert_memory_equal(buf, "abc123", 6);
	assert_int_equal(file_tag_get(f, "serial", buf, 3), -ERANGE);
	assert_int_equal(file_tag_get(f, "other", buf, sizeof(buf)), -ENODATA);
	assert_int_equal(getxattr(p->path, "user.spindle.serial", buf, sizeof(buf)), 6);
	file_close(f);
}

static void a_copy_has_another_fingerprint(void **state)
{
	struct place *p = *state;
	struct file *f = must_open(p, 0, MiB);
	char first[128], again[128], copied[128], copy[120], tiny[4];

	assert_int_equal(file_fingerprint(f, first, sizeof(first)), 0);
	assert_true(str_starts(first, "ino="));
	assert_int_equal(file_fingerprint(f, tiny, sizeof(tiny)), -ERANGE);
	file_close(f);
	f = must_open(p, 0, 0);
	assert_int_equal(file_fingerprint(f, again, sizeof(again)), 0);
	assert_string_equal(first, again);
	file_close(f);
	str_format(copy, sizeof(copy), "%s.copy", p->path);
	assert_int_equal(rename(p->path, copy), 0); /* the old inode stays taken */
	f = must_open(p, 0, MiB);
	assert_int_equal(file_fingerprint(f, copied, sizeof(copied)), 0);
	assert_string_not_equal(first, copied);
	file_close(f);
	unlink(copy);
}

/* ---- A block device (needs root and loop devices) ----------------------------------------------
 */

struct device {
	char path[32], backing[96];
	int fd;
};

static bool device_create(struct device *dev, struct place *p)
{
	int control = open("/dev/loop-control", O_RDWR), backing, number;

	dev->fd = -1;
	number = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;
	if (control >= 0)
		close(control);
	if (number < 0)
		return false;
	str_format(dev->path, sizeof(dev->path), "/dev/loop%d", number);
	str_format(dev->backing, sizeof(dev->backing), "%s/backing", p->dir);
	dev->fd = open(dev->path, O_RDWR);
	backing = open(dev->backing, O_RDWR | O_CREAT, 0600);
	if (dev->fd < 0 || backing < 0 || ftruncate(backing, 8 * MiB) != 0 ||
	    ioctl(dev->fd, LOOP_SET_FD, backing) != 0) {
		close(dev->fd);
		close(backing);
		unlink(dev->backing);
		return false;
	}
	close(backing);
	return true;
}

static void device_destroy(struct device *dev)
{
	ioctl(dev->fd, LOOP_CLR_FD, 0);
	close(dev->fd);
	unlink(dev->backing);
}

struct device_io {
	struct io io;
	struct iovec iov;
	struct file *file;
	struct loop_set *set;
};

static void device_io_done(struct io *io)
{
	loop_set_stop(container_of(io, struct device_io, io)->set);
}

static void device_io_start(void *arg)
{
	struct device_io *x = arg;

	x->io.loop = loop_self();
	file_submit(x->file, &x->io);
}

static int device_do(struct place *p, struct file *f, enum io_op op, uint64_t off, uint8_t *buf,
		     uint64_t len)
{
	struct device_io x = {.file = f, .set = p->set, .iov = {buf, len}};

	x.io = (struct io){.op = op,
			   .off = off,
			   .len = len,
			   .iov = &x.iov,
			   .niov = 1,
			   .done = device_io_done,
			   .ended = io_finish};
	test_run(p->set, device_io_start, &x);
	if (op == IO_EXTENT)
		assert_false(x.io.extent.hole);
	return x.io.result;
}

static void device_works(struct place *p, const char *path)
{
	struct file *f;
	uint8_t *a = malloc(64 * KiB), *b = calloc(1, 64 * KiB);
	char text[300];

	if (try_open(p, &f, path, 0, 0) != 0)
		fail_msg("%s", p->d.what);
	assert_true(file_info(f)->block_device);
	assert_false(file_info(f)->in_memory);
	assert_false(file_info(f)->discard_zeroes);
	assert_int_equal(file_info(f)->size, 8 * MiB);
	assert_int_equal(file_info(f)->logical_block, 512);
	memset(a, 0x77, 64 * KiB);
	assert_int_equal(device_do(p, f, IO_WRITE, 512, a, 64 * KiB), 0);
	assert_int_equal(device_do(p, f, IO_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(device_do(p, f, IO_READ, 512, b, 64 * KiB), 0);
	assert_memory_equal(a, b, 64 * KiB);
	assert_int_equal(device_do(p, f, IO_ZERO, 512, NULL, 4096), 0);
	assert_int_equal(device_do(p, f, IO_ZERO, 512 + 4096 + 1, NULL, 100), 0); /* an odd range */
	memset(a, 0, 4096);
	memset(a + 4097, 0, 100);
	assert_int_equal(device_do(p, f, IO_READ, 512, b, 64 * KiB), 0);
	assert_memory_equal(a, b, 64 * KiB);
	assert_int_equal(device_do(p, f, IO_DISCARD, 0, NULL, MiB),
			 file_info(f)->discard_granularity != 0 ? 0 : -EOPNOTSUPP);
	assert_int_equal(device_do(p, f, IO_DISCARD, 10, NULL, 100), /* not one whole block */
			 file_info(f)->discard_granularity != 0 ? 0 : -EOPNOTSUPP);
	assert_int_equal(device_do(p, f, IO_EXTENT, 0, NULL, MiB), 0);
	assert_int_equal(file_tag_set(f, "serial", "x", 1), -EOPNOTSUPP);
	assert_int_equal(file_tag_get(f, "serial", text, sizeof(text)), -EOPNOTSUPP);
	assert_int_equal(file_fingerprint(f, text, sizeof(text)), -EOPNOTSUPP);
	assert_false(file_info(f)->keeps_tags);
	assert_false(file_info(f)->known_again);
	assert_int_equal(file_resize(f, 16 * MiB), -ENOSPC);
	assert_int_equal(file_resize(f, 0), 0);
	assert_int_equal(file_info(f)->size, 8 * MiB);
	refused(p, path, 0, 0, -EBUSY, "cannot open /dev/", "--ro");
	file_close(f);
	free(a);
	free(b);
}

/* It has no serial number: who knows what is there after a loss? */
static void a_lost_device_stays_lost(struct file *f)
{
	struct file_status now;

	assert_int_equal(file_probe(f, &now), 0);
	assert_false(now.read_only || now.unlinked);
	assert_true(now.allocated == UINT64_MAX && now.available == UINT64_MAX);
	file_note_error(f, -ENODEV);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(file_probe(f, &now), -ENODEV);
}

static void a_device_changes(void **state)
{
	struct place *p = *state;
	struct file_status now;
	struct device dev;
	struct file *f;
	int read_only = 1;

	if (!device_create(&dev, p))
		skip();
	assert_int_equal(try_open(p, &f, dev.path, 0, 0), 0);
	assert_int_equal(truncate(dev.backing, 12 * MiB), 0);
	assert_int_equal(ioctl(dev.fd, LOOP_SET_CAPACITY), 0);
	assert_int_equal(file_probe(f, &now), 0);
	assert_int_equal(now.size, 12 * MiB);
	assert_int_equal(file_resize(f, 0), 0);
	assert_int_equal(file_info(f)->size, 12 * MiB);
	assert_int_equal(ioctl(dev.fd, BLKROSET, &read_only), 0);
	assert_int_equal(file_probe(f, &now), 0);
	assert_true(now.read_only);
	read_only = 0;
	assert_int_equal(ioctl(dev.fd, BLKROSET, &read_only), 0);
	assert_int_equal(file_probe(f, &now), 0);
	assert_false(now.read_only);
	a_lost_device_stays_lost(f);
	file_close(f);
	device_destroy(&dev);
}

static void a_block_device_works(void **state)
{
	struct place *p = *state;
	struct device dev;

	if (!device_create(&dev, p))
		skip();
	device_works(p, dev.path);
	device_destroy(&dev);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_missing_file_is_created_sparse),
		TEST(a_provisional_file_goes_again),
		TEST(another_size_is_refused),
		TEST(creation_is_refused),
		TEST(what_is_no_disk_is_refused),
		TEST(a_file_in_use_is_refused),
		TEST(facts_of_a_regular_file),
		TEST(a_file_in_memory_is_known_as_such),
		TEST(a_file_can_be_resized),
		TEST(a_file_never_shrinks),
		TEST(a_file_tells_how_it_is),
		TEST(refusals_are_remembered_until_they_end),
		TEST(refusals_end_for_those_who_own_nothing),
		TEST(a_lost_file_comes_back),
		TEST(what_turns_and_how_large),
		TEST(tags_are_kept_with_the_file),
		TEST(a_file_with_a_birth_time_is_known_again),
		TEST(a_copy_has_another_fingerprint),
		TEST(a_block_device_works),
		TEST(a_device_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
