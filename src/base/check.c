/*
 * The end of the program after a failed CHECK: apart so that the cold path stays out of line.
 */
#include "base/base.h"

#include <stdlib.h>
#include <unistd.h>

_Noreturn void check_failed(const char *cond, const char *file, int line, const char *func)
{
	char text[512];
	size_t len = 0;
	ssize_t written;

	/* No stdio: its locks or its heap may be what is broken. */
	str_append(text, sizeof(text), &len, "%s:%d: %s: check failed: %s\n", file, line, func,
		   cond);
	written = write(STDERR_FILENO, text, len);
	(void)written;
	abort();
}
