/*
 * CHAP users from the command line: USER:FILE, and one line in the file, because an argument can be
 * read by everybody on the machine. Apart because secrets pass through here, and stay no longer
 * than they must.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"

#define USER_MAX 256
#define FILE_MAX 1024 /* more than any secret: what is longer is not one */

typedef int (*secret_use)(struct iscsi *i, const char *name, const char *secret, struct diag *d);

/* A secret that others can read is none. What is no regular file (a pipe of the shell, a credential
 * of a service manager) has no mode that says anything. */
static int check_mode(int fd, const char *path, struct diag *d)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return diag_set(d, -errno, "cannot read %s: %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return diag_set(d, -EISDIR, "cannot read %s: it is a directory", path);
	if (!S_ISREG(st.st_mode) || (st.st_mode & 077) == 0)
		return 0;
	diag_set(d, -EACCES, "%s holds a secret, and others have access to it (mode %03o)", path,
		 (unsigned)st.st_mode & 0777);
	diag_fix(d, "chmod 600 %s", path);
	return -EACCES;
}

/* To the end, or until `cap` bytes are full. */
static ssize_t read_whole(int fd, char *buf, size_t cap)
{
	size_t len = 0;

	while (len < cap) {
		ssize_t n = read(fd, buf + len, cap - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	return (ssize_t)len;
}

/* The line without its end. -EINVAL: there is more than one, or it is no text. */
static int take_line(char *text, size_t len, const char *path, struct diag *d)
{
	if (len > 0 && text[len - 1] == '\n')
		len--;
	if (len > 0 && text[len - 1] == '\r')
		len--;
	text[len] = '\0';
	if (len < FILE_MAX && strlen(text) == len && strchr(text, '\n') == NULL)
		return 0;
	diag_set(d, -EINVAL, "%s is not one line of text", path);
	diag_fix(d, "a secret stands alone in its file: (umask 077; openssl rand -hex 8 > %s)",
		 path);
	return -EINVAL;
}

static int read_secret(char text[FILE_MAX + 1], const char *path, struct diag *d)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), err;
	ssize_t len;

	if (fd < 0) {
		err = -errno;
		diag_set(d, err, "cannot open %s: %s", path, strerror(-err));
		if (err == -ENOENT)
			diag_fix(d, "make a secret: (umask 077; openssl rand -hex 8 > %s)", path);
		return err;
	}
	err = check_mode(fd, path, d);
	if (err < 0)
		goto out;
	len = read_whole(fd, text, FILE_MAX);
	err = len < 0 ? diag_set(d, (int)len, "cannot read %s: %s", path, strerror((int)-len))
		      : take_line(text, (size_t)len, path, d);
out:
	close(fd);
	return err;
}

/* At the last ':', because iSCSI names are what many take for users, and have some. */
static int split(char user[USER_MAX], const char **path, const char *spec, const char *option,
		 struct diag *d)
{
	const char *colon = strrchr(spec, ':');
	size_t len = colon != NULL ? (size_t)(colon - spec) : 0;

	if (len == 0 || len >= USER_MAX || colon[1] == '\0') {
		diag_set(d, -EINVAL, "%s wants USER:FILE, a name and the file with its secret",
			 option);
		diag_fix(d, "%s laptop:laptop.secret", option);
		return -EINVAL;
	}
	memcpy(user, spec, len);
	user[len] = '\0';
	*path = colon + 1;
	return 0;
}

static int load(struct iscsi *iscsi, const char *spec, const char *option, secret_use use,
		struct diag *d)
{
	char user[USER_MAX], text[FILE_MAX + 1];
	const char *path;
	int err = split(user, &path, spec, option, d);

	if (err < 0)
		return err;
	err = read_secret(text, path, d);
	if (err == 0)
		err = use(iscsi, user, text, d);
	explicit_bzero(text, sizeof(text));
	return err;
}

int secrets_load(struct iscsi *iscsi, const struct run_options *o, struct diag *d)
{
	int err = 0;

	for (size_t i = 0; err == 0 && i < o->chap.n; i++)
		err = load(iscsi, o->chap.v[i], "--chap", iscsi_add_chap_user, d);
	if (err == 0 && o->mutual_chap != NULL)
		err = load(iscsi, o->mutual_chap, "--mutual-chap", iscsi_set_chap_mutual, d);
	return err;
}
