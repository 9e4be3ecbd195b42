/*
 * Files that --size makes, and that a start which fails takes away again. They are made here and not by
 * their stores, since only who made a file by O_EXCL knows that it is nobody else's. What a file cannot be
 * made for is left to the store to find and to tell.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"

static const struct store_type *type_of(const char *spec, size_t len)
{
	for (size_t i = 0; registry_stores[i] != NULL; i++) {
		const char *word = store_type_word(registry_stores[i]);

		if (strlen(word) == len && memcmp(word, spec, len) == 0)
			return registry_stores[i];
	}
	return NULL;
}

/* A word of small letters in front of a ':' is the type of a store, or none at all. */
static bool is_word(const char *text, size_t len)
{
	return len != 0 && strspn(text, "abcdefghijklmnopqrstuvwxyz") >= len;
}

const char *made_path(const char *spec)
{
	for (;;) {
		const char *colon = strchr(spec, ':');
		const size_t len = colon != NULL ? (size_t)(colon - spec) : 0;
		const struct store_type *type = type_of(spec, len);

		if (type == &store_file)
			return colon + 1;
		if (type == NULL)
			return is_word(spec, len) ? NULL : spec;
		/* TYPE:OPTIONS:STORE, or no store behind it. */
		colon = strchr(colon + 1, ':');
		if (colon == NULL)
			return NULL;
		spec = colon + 1;
	}
}

static int sync_directory_of(const char *path)
{
	char *copy = strdup(path);
	int fd = copy != NULL ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int err = 0;

	/* Some file systems cannot sync a directory, and need not. */
	if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
		err = -EIO;
	if (fd >= 0)
		close(fd);
	free(copy);
	return err;
}

void made_make(struct made *m, const char *spec, const struct run_options *o)
{
	const char *path = made_path(spec);
	int fd;

	if (o->size == 0 || o->read_only || path == NULL)
		return;
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return;
	*m = (struct made){.path = path, .fd = fd};
	if (ftruncate(fd, (off_t)o->size) != 0 || fsync(fd) != 0 || sync_directory_of(path) != 0)
		made_remove(m);
}

/* The file of this name is the one that was made: which stays open, so its number is no other's. */
static bool is_there(const struct made *m)
{
	struct stat own, there;

	return fstat(m->fd, &own) == 0 && lstat(m->path, &there) == 0 &&
	       own.st_dev == there.st_dev && own.st_ino == there.st_ino;
}

/* Somebody else has it by now: the lock is the one of file_open(), whose own ended with the store. */
static bool is_used(const struct made *m)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	return fcntl(m->fd, F_OFD_SETLK, &lock) != 0 && (errno == EAGAIN || errno == EACCES);
}

void made_remove(struct made *m)
{
	if (m->path == NULL)
		return;
	if (!is_used(m) && is_there(m))
		unlink(m->path);
	made_keep(m);
}

void made_keep(struct made *m)
{
	if (m->path != NULL)
		close(m->fd);
	m->path = NULL;
}
