/*
 * Opening a file or block device for a disk, and the values kept with it. All blocking; apart from
 * the I/O, which happens on loops and workers.
 */
#include "loop/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define TAG_PREFIX "user.spindle."

/* ---- Why it cannot be opened ----------------------------------------------------------------- */

static const struct {
	int err;
	const char *fix;
} open_fixes[] = {
	{ENOENT, "create it with --size 10G, or check the path"},
	{EACCES, "run as a user who may write it, or serve it with --ro"},
	{EPERM, "run as a user who may write it, or serve it with --ro"},
	{EROFS, "serve it with --ro"},
	{EBUSY, "unmount it or stop what uses it, or serve it with --ro"},
	{ETXTBSY, "stop the program that runs from it, or serve it with --ro"},
	{EMFILE, "raise the limit on open files (ulimit -n)"},
	{ENXIO, "check that the device is there"},
	{ENOMEDIUM, "insert a medium"},
};

static int open_failed(int err, const struct file_config *c, const char *verb, struct diag *d)
{
	diag_set(d, err, "cannot %s %s: %s", verb, c->path, strerror(-err));
	for (size_t i = 0; i < ARRAY_LEN(open_fixes); i++)
		if (open_fixes[i].err == -err)
			diag_fix(d, "%s", open_fixes[i].fix);
	if (err == -EINVAL && (c->flags & FILE_DIRECT) != 0)
		diag_fix(d, "leave out --direct: this file system has no direct I/O");
	return err;
}

static int check_kind(const struct file_config *c, mode_t mode, struct diag *d)
{
	static const struct {
		mode_t kind;
		const char *is;
	} kinds[] = {
		{S_IFDIR, "a directory"},
		{S_IFIFO, "a FIFO"},
		{S_IFCHR, "a character device"},
		{S_IFSOCK, "a socket"},
	};

	if (S_ISREG(mode) || S_ISBLK(mode))
		return 0;
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		if ((mode & S_IFMT) == kinds[i].kind)
			diag_set(d, -EINVAL, "cannot serve %s: it is %s", c->path, kinds[i].is);
	diag_set(d, -EINVAL, "cannot serve %s: it is no file", c->path);
	diag_fix(d, S_ISDIR(mode) ? "name a file in it, with --size to create one"
				  : "name a regular file or a block device");
	return -EINVAL;
}

/* ---- Creating -------------------------------------------------------------------------------- */

static int sync_directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX] = ".";
	int fd, err = 0;

	if (slash != NULL)
		str_format(dir, sizeof(dir), "%.*s", (int)(slash - path + 1), path);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* Some file systems cannot sync a directory, and need not. */
	if (fsync(fd) != 0 && errno != EINVAL)
		err = -errno;
	close(fd);
	return err;
}

/* The fd, or -errno. The caller has seen that there is no such file; EEXIST: now there is. */
static int create(const struct file_config *c, int open_flags, struct diag *d)
{
	int fd, err = 0;

	if ((c->flags & FILE_READ_ONLY) != 0) {
		diag_set(d, -ENOENT, "cannot create %s: it is to be read only", c->path);
		diag_fix(d, "create it first, without --ro");
		return -ENOENT;
	}
	fd = open(c->path, open_flags | O_CREAT | O_EXCL, 0666);
	if (fd < 0) {
		err = open_failed(-errno, c, "create", NULL);
		diag_set(d, err, "cannot create %s: %s", c->path, strerror(-err));
		diag_fix(d, err == -ENOENT ? "make its directory first"
					   : "choose a directory that you may write to");
		return err;
	}
	if (ftruncate(fd, (off_t)c->create_size) != 0 || fsync(fd) != 0)
		err = -errno;
	if (err == 0)
		err = sync_directory_of(c->path);
	if (err != 0) {
		close(fd);
		unlink(c->path);
		diag_set(d, err, "cannot create %s: %s", c->path, strerror(-err));
		if (err == -EFBIG || err == -EINVAL)
			diag_fix(d, "choose a smaller --size: the file system ends before that");
		return err;
	}
	return fd;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* Non-blocking only until we know what it is. */
static int open_flags_of(const struct file_config *c)
{
	return ((c->flags & FILE_READ_ONLY) != 0 ? O_RDONLY : O_RDWR) |
	       ((c->flags & FILE_DIRECT) != 0 ? O_DIRECT : 0) | O_CLOEXEC | O_NOCTTY;
}

static bool is_part(const struct file_config *c)
{
	return c->part_off != 0 || c->part_len != 0;
}

/* A device for ourselves alone: nobody mounts it meanwhile. Of one that others may use as well, in other
 * places, only that nobody has it for himself now. */
static int open_device(const struct file_config *c, int flags)
{
	const int fd = open(c->path, flags | O_EXCL);

	if (fd < 0 || !is_part(c))
		return fd;
	close(fd);
	return open(c->path, flags);
}

static int open_existing(const struct file_config *c, mode_t mode, struct diag *d)
{
	int flags = open_flags_of(c) | O_NONBLOCK;
	struct stat st;
	int fd, err;

	err = check_kind(c, mode, d); /* before the open: it could rewind a tape */
	if (err != 0)
		return err;
	fd = S_ISBLK(mode) && (c->flags & FILE_READ_ONLY) == 0 ? open_device(c, flags)
							       : open(c->path, flags);
	if (fd < 0)
		return open_failed(-errno, c, "open", d);
	err = fstat(fd, &st) == 0 ? check_kind(c, st.st_mode, d) : -errno;
	if (err == 0 && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0)
		err = -errno;
	if (err != 0) {
		close(fd);
		return open_failed(err, c, "open", d);
	}
	return fd;
}

static int open_or_create(struct file *f, const struct file_config *c, struct diag *d)
{
	struct stat st;
	int fd;

	if (stat(c->path, &st) == 0)
		return open_existing(c, st.st_mode, d);
	if (errno == ENOENT && c->create_size != 0) {
		fd = create(c, open_flags_of(c), d);
		if (fd >= 0 && (c->flags & FILE_PROVISIONAL) != 0)
			f->made = strdup(c->path);
		return fd;
	}
	return open_failed(-errno, c, "open", d);
}

/* The lock belongs to the open file: it ends with it, and holds within this process, too. A file
 * system without such locks cannot tell us, and is served all the same. */
static int lock(const struct file *f, const struct file_config *c, struct diag *d)
{
	bool read_only = (c->flags & FILE_READ_ONLY) != 0;
	struct flock fl = {.l_type = read_only ? F_RDLCK : F_WRLCK,
			   .l_whence = SEEK_SET,
			   .l_start = (off_t)c->part_off,
			   .l_len = (off_t)c->part_len};

	if (fcntl(f->fd, F_OFD_SETLK, &fl) == 0 || (errno != EAGAIN && errno != EACCES))
		return 0;
	diag_set(d, -EBUSY, "cannot open %s: it is in use by another Spindle or virtual machine",
		 c->path);
	diag_fix(d, read_only ? "stop what writes to it, or serve a copy"
			      : "stop what uses it, serve a copy, or let all serve it with --ro");
	return -EBUSY;
}

static int check_size(const struct file *f, const struct file_config *c, struct diag *d)
{
	char has[32], wanted[32];

	if (c->create_size == 0 || c->create_size == f->info.size)
		return 0;
	diag_set(d, -EEXIST, "%s exists with %s, not the %s asked for", c->path,
		 str_size(has, sizeof(has), f->info.size),
		 str_size(wanted, sizeof(wanted), c->create_size));
	diag_fix(d, "leave --size out to serve it as it is, or name another file");
	return -EEXIST;
}

/* ---- Kept with the file ---------------------------------------------------------------------- */

/* A device node refuses user attributes with EPERM: it has none, ever. */
static int tag_errno(const struct file *f)
{
	return errno == EPERM && f->info.block_device ? -EOPNOTSUPP : -errno;
}

static bool tag_name(char name[XATTR_NAME_MAX + 1], const char *tag)
{
	return str_format(name, XATTR_NAME_MAX + 1, TAG_PREFIX "%s", tag);
}

ssize_t file_tag_get(struct file *f, const char *tag, void *buf, size_t cap)
{
	char name[XATTR_NAME_MAX + 1];
	ssize_t n;

	if (!tag_name(name, tag))
		return -EINVAL;
	n = fgetxattr(f->fd, name, buf, cap);
	if (n < 0 && errno == ENODATA && f->info.block_device)
		return -EOPNOTSUPP;
	return n >= 0 ? n : tag_errno(f);
}

int file_tag_set(struct file *f, const char *tag, const void *buf, size_t len)
{
	char name[XATTR_NAME_MAX + 1];

	if (!tag_name(name, tag))
		return -EINVAL;
	if (fsetxattr(f->fd, name, buf, len, 0) != 0)
		return tag_errno(f);
	return file_sync(f, fsync) == 0 ? 0 : -EIO;
}

/* Found out by looking only: a file system that has such values says so when one is missing. */
static bool keeps_tags(const struct file *f)
{
	if (f->info.read_only || f->info.block_device)
		return false;
	return fgetxattr(f->fd, TAG_PREFIX "identity", NULL, 0) >= 0 || errno == ENODATA;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static int file_init(struct file *f, const struct file_config *c, struct diag *d)
{
	int err;

	f->fd = open_or_create(f, c, d);
	if (f->fd < 0)
		return f->fd;
	err = lock(f, c, d);
	if (err != 0)
		return err;
	err = file_facts(f);
	if (err == 0)
		err = check_size(f, c, d);
	f->info.keeps_tags = keeps_tags(f);
	if (err == 0)
		err = file_loops_init(f, c->max_running);
	return err != 0 ? open_failed(err, c, "open", d) : 0; /* what was diagnosed stays */
}

int file_open(struct file **out, struct loop_set *set, const struct file_config *config,
	      struct diag *d)
{
	struct file *f = calloc(1, sizeof(*f));
	int err;

	if (f == NULL)
		return open_failed(-ENOMEM, config, "open", d);
	f->set = set;
	f->flags = config->flags;
	pthread_mutex_init(&f->sync_lock, NULL);
	err = file_init(f, config, d);
	if (err != 0) {
		file_close(f);
		return err;
	}
	*out = f;
	return 0;
}

void file_keep(struct file *f)
{
	free(f->made);
	f->made = NULL;
}

/* Unless somebody uses another part of it, or its name is another file's by now. */
static void remove_made(struct file *f)
{
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct stat own, there;

	if (f->made == NULL)
		return;
	if ((fcntl(f->fd, F_OFD_SETLK, &whole) == 0 || (errno != EAGAIN && errno != EACCES)) &&
	    fstat(f->fd, &own) == 0 && lstat(f->made, &there) == 0 && own.st_dev == there.st_dev &&
	    own.st_ino == there.st_ino)
		unlink(f->made);
	file_keep(f);
}

void file_close(struct file *f)
{
	if (f == NULL)
		return;
	file_loops_fini(f);
	remove_made(f);
	if (f->fd >= 0)
		close(f->fd);
	pthread_mutex_destroy(&f->sync_lock);
	free(f);
}

const struct file_info *file_info(const struct file *f)
{
	return &f->info;
}
