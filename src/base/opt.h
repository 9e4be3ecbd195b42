/*
 * Option tables: one row describes an option once, and feeds the command line, `a=b,c=d` lists,
 * help texts and the manual page. Values land in a struct by offset.
 */
#ifndef SPINDLE_BASE_OPT_H
#define SPINDLE_BASE_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct diag;

enum opt_kind {
	OPT_FLAG,     /* bool field: present or on/off/yes/no/true/false */
	OPT_UINT,     /* uint64_t field, within min..max */
	OPT_SIZE,     /* uint64_t field, bytes: 4096, 100G, 100GiB (binary), 100GB (decimal), within
			 min..max */
	OPT_DURATION, /* uint64_t field, milliseconds: 250ms, 5s, 2m, within min..max */
	OPT_STRING,   /* const char * field, points into the caller's text; min..max: its bytes */
	OPT_CHOICE,   /* unsigned field, the index in `choices` */
	OPT_LIST,     /* struct opt_strings field: every use appends */
};

/* The strings point into the caller's text; the array belongs to this struct (opt_fini frees it).
 */
struct opt_strings {
	const char **v;
	size_t n;
};

struct opt {
	const char *name; /* "block-size"; NULL ends a table */
	enum opt_kind kind;
	size_t offset;
	uint64_t min, max;          /* max 0: no limit */
	const char *def;            /* default as text; NULL: zero */
	const char *const *choices; /* NULL-terminated */
	const char *arg;            /* placeholder in the help, "SIZE" */
	const char *help;           /* one line */
};

/* All return 0 or a negative errno and fill the diag: which option, what was expected. */
int opt_defaults(const struct opt *table, void *out, struct diag *d);
int opt_set(const struct opt *table, void *out, const char *name, const char *value,
	    struct diag *d);
/* "a=b,c,d=e" (a FLAG may stand alone). `text` is cut in place and must outlive `out`. */
int opt_parse_list(const struct opt *table, void *out, char *text, struct diag *d);
/* --name VALUE, --name=VALUE, --flag; "--" ends. Leaves what is no option in argv[1..*argc-1]. */
int opt_parse_argv(const struct opt *table, void *out, int *argc, char **argv, struct diag *d);
void opt_fini(const struct opt *table, void *out);
/* One line an option: "  --block-size 512|4096   bytes in a block (512)". Into buf, cut to cap. */
const char *opt_help(const struct opt *table, char *buf, size_t cap);

int parse_u64(const char *s, uint64_t *out);
int parse_size(const char *s, uint64_t *out_bytes);
int parse_duration_ms(const char *s, uint64_t *out_ms);

#endif
