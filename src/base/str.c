/*
 * Strings in fixed buffers. Apart because libc's own calls cut silently or not at all.
 */
#include "base/base.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

static const char hex_digits[] = "0123456789abcdef";

bool str_copy(char *dst, size_t cap, const char *src)
{
	size_t len;

	if (cap == 0)
		return false;
	len = strnlen(src, cap);
	if (len < cap) {
		memcpy(dst, src, len + 1);
		return true;
	}
	memcpy(dst, src, cap - 1);
	dst[cap - 1] = '\0';
	return false;
}

__attribute__((format(printf, 4, 0))) static bool str_vappend(char *dst, size_t cap, size_t *len,
							      const char *fmt, va_list args)
{
	int n;

	if (*len >= cap)
		return false;
	n = vsnprintf(dst + *len, cap - *len, fmt, args);
	if (n < 0) {
		dst[*len] = '\0';
		return false;
	}
	if ((size_t)n >= cap - *len) {
		*len = cap - 1;
		return false;
	}
	*len += (size_t)n;
	return true;
}

bool str_format(char *dst, size_t cap, const char *fmt, ...)
{
	size_t len = 0;
	va_list args;
	bool fits;

	va_start(args, fmt);
	fits = str_vappend(dst, cap, &len, fmt, args);
	va_end(args);
	return fits;
}

bool str_append(char *dst, size_t cap, size_t *len, const char *fmt, ...)
{
	va_list args;
	bool fits;

	va_start(args, fmt);
	fits = str_vappend(dst, cap, len, fmt, args);
	va_end(args);
	return fits;
}

bool str_starts(const char *s, const char *prefix)
{
	return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool needs_escape(uint8_t c)
{
	return c < 0x20 || c > 0x7e || c == '"' || c == '\'' || c == '\\';
}

bool str_escape(char *dst, size_t cap, const char *src, size_t src_len)
{
	size_t len = 0;

	if (cap == 0)
		return false;
	for (size_t i = 0; i < src_len; i++) {
		uint8_t c = (uint8_t)src[i];
		size_t need = needs_escape(c) ? 4 : 1;

		if (need >= cap - len) {
			dst[len] = '\0';
			return false;
		}
		if (need == 1) {
			dst[len++] = src[i];
			continue;
		}
		dst[len++] = '\\';
		dst[len++] = 'x';
		dst[len++] = hex_digits[c >> 4];
		dst[len++] = hex_digits[c & 15];
	}
	dst[len] = '\0';
	return true;
}

const char *str_size(char *dst, size_t cap, uint64_t bytes)
{
	static const char units[][4] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	unsigned unit = bytes == 0 ? 0 : (63 - (unsigned)__builtin_clzll(bytes)) / 10;
	unsigned shift = unit * 10;
	uint64_t whole = bytes >> shift, rest = bytes - (whole << shift);
	uint64_t hundredths = (uint64_t)((unsigned __int128)rest * 100 >> shift);
	bool exact = (unsigned __int128)hundredths << shift == (unsigned __int128)rest * 100;

	if (exact && hundredths == 0)
		str_format(dst, cap, "%" PRIu64 " %s", whole, units[unit]);
	else if (exact && hundredths % 10 == 0)
		str_format(dst, cap, "%" PRIu64 ".%" PRIu64 " %s", whole, hundredths / 10,
			   units[unit]);
	else
		str_format(dst, cap, "%" PRIu64 ".%02" PRIu64 " %s", whole, hundredths,
			   units[unit]);
	return dst;
}

int str_digit(char c, unsigned base)
{
	int d = c >= '0' && c <= '9'   ? c - '0'
		: c >= 'a' && c <= 'f' ? c - 'a' + 10
		: c >= 'A' && c <= 'F' ? c - 'A' + 10
				       : -1;

	return d < (int)base ? d : -1;
}

void str_hex(char *dst, const void *src, size_t src_len)
{
	const uint8_t *p = src;

	for (size_t i = 0; i < src_len; i++) {
		*dst++ = hex_digits[p[i] >> 4];
		*dst++ = hex_digits[p[i] & 15];
	}
	*dst = '\0';
}
