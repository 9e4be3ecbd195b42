/*
 * Where this machine keeps what belongs to disks that keep nothing themselves.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/daemon.h"

static bool default_dir(char *out, size_t cap)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

	if (geteuid() == 0)
		return str_copy(out, cap, "/var/lib/spindle");
	/* Relative paths there are not valid. */
	if (state != NULL && state[0] == '/')
		return str_format(out, cap, "%s/spindle", state);
	return home != NULL && home[0] == '/' &&
	       str_format(out, cap, "%s/.local/state/spindle", home);
}

/* What is not there yet is made when it is needed. */
static int check_dir(const char *dir)
{
	return faccessat(AT_FDCWD, dir, R_OK | X_OK, AT_EACCESS) == 0 || errno == ENOENT ? 0
											 : -errno;
}

int state_dir(char *out, size_t cap, const struct run_options *o, struct diag *d)
{
	int err;

	/* Whoever did not ask for it can do without: a service may have no home. */
	if (o->state == NULL) {
		if (!default_dir(out, cap) || check_dir(out) != 0)
			out[0] = '\0';
		return 0;
	}
	err = str_copy(out, cap, o->state) ? check_dir(out) : -ENAMETOOLONG;
	if (err == 0)
		return 0;
	diag_set(d, err, "cannot keep anything in %s: %s", o->state, strerror(-err));
	diag_fix(d, "name a directory of your own: --state DIR");
	return err;
}
