/*
 * A diagnosis for a human: what went wrong, where, why, and what mends it. Functions that read what
 * a user wrote take a `struct diag *` (may be NULL), fill it once and return a negative errno.
 */
#ifndef SPINDLE_BASE_DIAG_H
#define SPINDLE_BASE_DIAG_H

#include <stdarg.h>
#include <stddef.h>

struct diag {
	char file[128];        /* "" when the text did not come from a file */
	unsigned line, column; /* from 1; 0: unknown */
	char what[256];        /* "cannot open disk.img: No such file or directory" */
	char fix[256];         /* "create it with --size 10G", or "" */
};

void diag_init(struct diag *d);
/* Both return `err` (a negative errno), so that `return diag_set(...)` reads well. The first
 * diagnosis stays: later calls on a filled diag change nothing. */
int diag_set(struct diag *d, int err, const char *what_fmt, ...)
	__attribute__((format(printf, 3, 4)));
void diag_at(struct diag *d, const char *file, unsigned line, unsigned column);
void diag_fix(struct diag *d, const char *fix_fmt, ...) __attribute__((format(printf, 2, 3)));
/* "file:line:column: what; fix" in one line, cut to `cap`. Returns `buf`. */
const char *diag_text(const struct diag *d, char *buf, size_t cap);

#endif
