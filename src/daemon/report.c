/*
 * How errors reach the user: one line on stderr, and an exit code that scripts can tell apart.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/daemon.h"

static const struct {
	int err;
	enum exit_code code;
} exit_codes[] = {
	{0, EXIT_OK},
	{-EINVAL, EXIT_USAGE},
	{-ERANGE, EXIT_USAGE},
	{-ENOENT, EXIT_NOT_FOUND},
	{-ENODEV, EXIT_NOT_FOUND},
	{-ENXIO, EXIT_NOT_FOUND},
	{-EADDRINUSE, EXIT_IN_USE},
	{-EBUSY, EXIT_IN_USE},
	{-EAGAIN, EXIT_IN_USE},
	{-EEXIST, EXIT_IN_USE},
	{-ETXTBSY, EXIT_IN_USE},
	{-EACCES, EXIT_DENIED},
	{-EPERM, EXIT_DENIED},
	{-EROFS, EXIT_DENIED},
};

enum exit_code exit_code_of(int err)
{
	for (size_t i = 0; i < ARRAY_LEN(exit_codes); i++) {
		if (exit_codes[i].err == err)
			return exit_codes[i].code;
	}
	return EXIT_FAILED;
}

enum exit_code report(const struct diag *d, int err)
{
	char text[sizeof(*d) + 64], shown[sizeof(text)];

	diag_text(d, text, sizeof(text));
	dprintf(STDERR_FILENO, "spindle: %s\n", show_text(shown, sizeof(shown), text));
	return exit_code_of(err);
}

const char *show_text(char *dst, size_t cap, const char *src)
{
	size_t len = 0;

	for (; *src != '\0' && len + 1 < cap; src++) {
		unsigned char c = (unsigned char)*src;

		dst[len++] = c < 0x20 || c == 0x7f ? '?' : *src;
	}
	dst[len] = '\0';
	return dst;
}

int write_all(int fd, const char *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		buf += n;
		len -= (size_t)n;
	}
	return 0;
}
