/*
 * Small named values in a directory, for disks whose files and devices keep none themselves. Apart from
 * file.c, because nothing here belongs to an open file, or to a loop.
 *
 * DIR/GROUP/NAME is one line of text, "spindle-kept 1 BOUND_TO", the value, and a CRC-32C, big endian,
 * of all that. It is written beside its place (NAME.new), synced, renamed, and then the directories are
 * synced: whatever happens meanwhile, what is read is the old value or the new one. A NAME.new that was
 * left behind is overwritten by the next.
 */
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC      "spindle-kept 1 "
#define NAME_BYTES 64
#define CRC_LEN    4
#define FILE_BYTES (sizeof(MAGIC) + KEPT_BOUND_MAX + KEPT_VALUE_MAX + CRC_LEN)

static bool is_name(const char *name)
{
	const size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	return len >= 1 && len < NAME_BYTES && name[len] == '\0';
}

static int sync_dir(int fd)
{
	return fsync(fd) == 0 ? 0 : -errno;
}

/* ---- Reading ---- */

static int open_at(int dir, const char *name, int flags)
{
	const int fd = openat(dir, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	return fd >= 0 ? fd : -errno;
}

static int open_value(const struct kept_place *place, const char *name)
{
	const int dir = open(place->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int group, fd;

	if (dir < 0)
		return -errno;
	group = open_at(dir, place->group, O_PATH | O_DIRECTORY);
	close(dir);
	if (group < 0)
		return group;
	fd = open_at(group, name, O_RDONLY);
	close(group);
	return fd;
}

/* The whole file, or as much of it as `cap`. */
static ssize_t read_all(int fd, uint8_t *buf, size_t cap)
{
	size_t len = 0;
	ssize_t n;

	do {
		n = read(fd, buf + len, cap - len);
		len += n > 0 ? (size_t)n : 0;
	} while ((n > 0 && len < cap) || (n < 0 && errno == EINTR));
	return n < 0 ? -errno : (ssize_t)len;
}

static bool starts_with(const uint8_t *buf, size_t len, const char *text)
{
	return len >= strlen(text) && memcmp(buf, text, strlen(text)) == 0;
}

/* The value, which stays where it is, as long as the answer says. */
static ssize_t decode(const uint8_t *buf, size_t len, const char *head, const uint8_t **value)
{
	if (len > FILE_BYTES || len < CRC_LEN || !starts_with(buf, len, MAGIC) ||
	    crc32c(0, buf, len - CRC_LEN) != load_be32(buf + len - CRC_LEN))
		return -EBADMSG;
	len -= CRC_LEN;
	if (!starts_with(buf, len, head))
		return -ENODATA;
	*value = buf + strlen(head);
	return (ssize_t)(len - strlen(head));
}

static bool make_head(char head[sizeof(MAGIC) + KEPT_BOUND_MAX + 1], const char *bound_to)
{
	return strchr(bound_to, '\n') == NULL &&
	       str_format(head, sizeof(MAGIC) + KEPT_BOUND_MAX + 1, MAGIC "%s\n", bound_to);
}

ssize_t kept_get(const struct kept_place *place, const char *name, void *buf, size_t cap)
{
	char head[sizeof(MAGIC) + KEPT_BOUND_MAX + 1];
	uint8_t file[FILE_BYTES + 1];
	const uint8_t *value;
	struct stat st;
	ssize_t n;
	int fd;

	if (!is_name(name) || !is_name(place->group) || !make_head(head, place->bound_to))
		return -EINVAL;
	fd = open_value(place, name);
	if (fd < 0)
		return fd == -ENOENT ? -ENODATA : fd == -ELOOP ? -EBADMSG : fd;
	if (fstat(fd, &st) != 0)
		n = -errno;
	else
		n = S_ISREG(st.st_mode) ? read_all(fd, file, sizeof(file)) : -EBADMSG;
	close(fd);
	if (n >= 0)
		n = decode(file, (size_t)n, head, &value);
	if (n < 0)
		return n;
	if ((size_t)n > cap)
		return -ERANGE;
	memcpy(buf, value, (size_t)n);
	return n;
}

/* ---- Writing ---- */

/* What was made is synced before anything is put into it. */
static int sync_parent(const char *path)
{
	char parent[PATH_MAX];
	char *slash;
	int fd, err;

	str_copy(parent, sizeof(parent), path);
	slash = strrchr(parent, '/');
	if (slash != NULL)
		slash[slash == parent ? 1 : 0] = '\0';
	fd = open(slash != NULL ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = sync_dir(fd);
	close(fd);
	return err;
}

/* One of the directories that lead to it, or it. */
static int make_one(const char *path)
{
	int err;

	if (mkdir(path, 0700) != 0)
		return errno == EEXIST ? 0 : -errno;
	err = sync_parent(path);
	if (err != 0)
		rmdir(path);
	return err;
}

static int make_path(const char *path)
{
	char part[PATH_MAX];

	if (!str_copy(part, sizeof(part), path))
		return -ENAMETOOLONG;
	for (char *end = part + strspn(part, "/"); *end != '\0';) {
		char *slash = end + strcspn(end, "/");
		const char was = *slash;
		int err;

		*slash = '\0';
		err = make_one(part);
		if (err != 0)
			return err;
		*slash = was;
		end = slash + strspn(slash, "/");
	}
	return 0;
}

static int open_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), err;

	if (fd >= 0 || errno != ENOENT)
		return fd >= 0 ? fd : -errno;
	err = make_path(path);
	if (err != 0)
		return err;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? fd : -errno;
}

static int open_group(int dir, const char *group)
{
	if (mkdirat(dir, group, 0700) != 0 && errno != EEXIST)
		return -errno;
	return open_at(dir, group, O_RDONLY | O_DIRECTORY);
}

static int write_all(int fd, const uint8_t *buf, size_t len)
{
	while (len > 0) {
		const ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		buf += n;
		len -= (size_t)n;
	}
	return fsync(fd) == 0 ? 0 : -errno;
}

static int write_file(int group, const char *name, const uint8_t *buf, size_t len)
{
	char beside[NAME_BYTES + sizeof(".new")];
	int fd, err;

	str_format(beside, sizeof(beside), "%s.new", name);
	if (unlinkat(group, beside, 0) != 0 && errno != ENOENT)
		return -errno;
	fd = openat(group, beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	err = write_all(fd, buf, len);
	close(fd);
	if (err == 0 && renameat(group, beside, group, name) != 0)
		err = -errno;
	if (err != 0)
		unlinkat(group, beside, 0);
	return err != 0 ? err : sync_dir(group);
}

int kept_set(const struct kept_place *place, const char *name, const void *buf, size_t len)
{
	char head[sizeof(MAGIC) + KEPT_BOUND_MAX + 1];
	uint8_t file[FILE_BYTES];
	struct writer w = writer_of(file, sizeof(file));
	int dir, group, err;

	if (!is_name(name) || !is_name(place->group) || !make_head(head, place->bound_to))
		return -EINVAL;
	if (len > KEPT_VALUE_MAX)
		return -EFBIG;
	write_bytes(&w, head, strlen(head));
	write_bytes(&w, buf, len);
	write_be32(&w, crc32c(0, file, w.len));
	dir = open_dir(place->dir);
	if (dir < 0)
		return dir;
	group = open_group(dir, place->group);
	err = group < 0 ? group : write_file(group, name, file, w.len);
	/* The group may be new: by now, or to a process that ended before it came to here. */
	if (err == 0)
		err = sync_dir(dir);
	if (group >= 0)
		close(group);
	close(dir);
	return err;
}
