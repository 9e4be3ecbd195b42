/*
 * Other programs' command lines: `spindle compat NAME ...`, or this program under that name, so that a
 * symbolic link takes their place in scripts and units.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/daemon.h"

static const struct compat {
	const char *name, *help;
	int (*run)(int argc, char **argv);
} compats[] = {
	{"vblade", "one disk over Ethernet, with the arguments of vblade 25", vblade_command},
	{"vbladed", "the same in the background; what it says goes to the system's log",
	 vbladed_command},
};

static const struct compat *find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(compats); i++) {
		if (strcmp(name, compats[i].name) == 0)
			return &compats[i];
	}
	return NULL;
}

static int unknown_name(const char *name)
{
	struct diag d;
	char shown[64];

	diag_init(&d);
	str_escape(shown, sizeof(shown), name, strlen(name));
	diag_set(&d, -EINVAL, "there is no command line of \"%s\" here", shown);
	diag_fix(&d, "spindle help compat lists them");
	return (int)report(&d, -EINVAL);
}

void compat_help(int fd)
{
	dprintf(fd, "\nTakes the command line of another program, by name or by a link to spindle "
		    "that is named so:\n\n");
	for (size_t i = 0; i < ARRAY_LEN(compats); i++)
		dprintf(fd, "  %-8s %s\n", compats[i].name, compats[i].help);
	dprintf(fd, "\nMore: spindle compat NAME -h, man spindle-compat-NAME\n");
}

int compat_command(int argc, char **argv)
{
	const struct compat *c;

	if (argc < 2) {
		dprintf(STDERR_FILENO, "usage: spindle compat NAME [ARG...]\n");
		compat_help(STDERR_FILENO);
		return EXIT_USAGE;
	}
	c = find(argv[1]);
	return c != NULL ? c->run(argc - 1, argv + 1) : unknown_name(argv[1]);
}

bool compat_by_name(int *status, int argc, char **argv)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
	const struct compat *c = argc > 0 ? find(slash != NULL ? slash + 1 : argv[0]) : NULL;

	if (c != NULL)
		*status = c->run(argc, argv);
	return c != NULL;
}
