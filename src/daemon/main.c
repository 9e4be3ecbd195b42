/*
 * The command line: a table of subcommands that prints its own help.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/daemon.h"

struct command {
	const char *name, *args, *help;
	int (*run)(int argc, char **argv);
	void (*more_help)(int fd); /* NULL: the line in the table says it all */
};

static int help_command(int argc, char **argv);
static int version_command(int argc, char **argv);

static const struct command commands[] = {
	{"run", "STORE... [OPTION...]", "serve disks until a signal comes", run_command, run_help},
	{"compat", "NAME [ARG...]", "take another program's command line", compat_command,
	 compat_help},
	{"version", "", "print the version", version_command, NULL},
	{"help", "[COMMAND]", "print help", help_command, NULL},
};

/* What people type first, and which command it means. */
static const struct {
	const char *option, *command;
} aliases[] = {
	{"--help", "help"},
	{"-h", "help"},
	{"--version", "version"},
	{"-V", "version"},
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(aliases); i++) {
		if (strcmp(name, aliases[i].option) == 0)
			name = aliases[i].command;
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(name, commands[i].name) == 0)
			return &commands[i];
	}
	return NULL;
}

static void print_commands(int fd)
{
	dprintf(fd, "usage: spindle COMMAND ...\n\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		const struct command *c = &commands[i];
		char usage[64];

		str_format(usage, sizeof(usage), "%s %s", c->name, c->args);
		dprintf(fd, "  %-28s %s\n", usage, c->help);
	}
	dprintf(fd, "\nMore: spindle help run, man spindle\n");
}

static int unknown_command(const char *name)
{
	struct diag d;
	char shown[64];

	diag_init(&d);
	str_escape(shown, sizeof(shown), name, strlen(name));
	diag_set(&d, -EINVAL, "there is no command \"%s\"", shown);
	diag_fix(&d, "spindle help lists them; to serve a disk: spindle run %s", shown);
	return (int)report(&d, -EINVAL);
}

static int help_command(int argc, char **argv)
{
	const struct command *c;

	if (argc < 2) {
		print_commands(STDOUT_FILENO);
		return EXIT_OK;
	}
	c = find_command(argv[1]);
	if (c == NULL)
		return unknown_command(argv[1]);
	dprintf(STDOUT_FILENO, "usage: spindle %s %s\n", c->name, c->args);
	if (c->more_help != NULL)
		c->more_help(STDOUT_FILENO);
	else
		dprintf(STDOUT_FILENO, "\n%s\n", c->help);
	return EXIT_OK;
}

static int version_command(int argc, char **argv)
{
	static const char text[] = "spindle " SPINDLE_VERSION "\n";

	return write_all(STDOUT_FILENO, text, sizeof(text) - 1) < 0 ? EXIT_FAILED : EXIT_OK;
}

int main(int argc, char **argv)
{
	const struct command *c;
	int status;

	if (compat_by_name(&status, argc, argv))
		return status;
	if (argc < 2) {
		print_commands(STDERR_FILENO);
		return EXIT_USAGE;
	}
	c = find_command(argv[1]);
	if (c == NULL)
		return unknown_command(argv[1]);
	return c->run(argc - 1, argv + 1);
}
