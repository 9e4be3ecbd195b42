#include "bench/client.h"

#include <stdio.h>
#include <string.h>

uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

int client_options(const char *name, const struct opt *table, void *options, int argc, char **argv)
{
	struct diag d;
	char text[8192];
	int err;

	diag_init(&d);
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		fputs(opt_help(table, text, sizeof(text)), stdout);
		return 0;
	}
	err = opt_defaults(table, options, &d);
	if (err == 0)
		err = opt_parse_argv(table, options, &argc, argv, &d);
	if (err == 0 && argc == 1)
		return -1;
	fprintf(stderr, "%s: %s\n", name,
		err < 0 ? diag_text(&d, text, sizeof(text)) : "unexpected argument");
	return 2;
}
