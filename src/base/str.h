/*
 * Strings in fixed buffers: always terminated, cutting is reported.
 */
#ifndef SPINDLE_BASE_STR_H
#define SPINDLE_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* false: it did not fit (what fits is there, terminated). */
bool str_copy(char *dst, size_t cap, const char *src);
bool str_format(char *dst, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Appends at *len (the length so far); *len stays below cap. */
bool str_append(char *dst, size_t cap, size_t *len, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
bool str_starts(const char *s, const char *prefix);
/* Printable ASCII stays; quotes, backslashes and all other bytes become \xNN. For logs and
 * terminals. */
bool str_escape(char *dst, size_t cap, const char *src, size_t src_len);
/* "10 GiB", "1.5 GiB", "512 B": binary units, rounded down to two decimals. What was rounded shows
 * both ("10.00 GiB"), what is exact no trailing zero. */
const char *str_size(char *dst, size_t cap, uint64_t bytes);
/* The value of a digit in `base` (up to 16), or -1. */
int str_digit(char c, unsigned base);
void str_hex(char *dst, const void *src, size_t src_len); /* dst: 2 * src_len + 1 */

#endif
