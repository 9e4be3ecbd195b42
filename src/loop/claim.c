/*
 * Names that one process has at a time. Each is an abstract address of a UNIX socket: these belong to the
 * network namespace, as interfaces do, need no right and no directory, and are free again when the process
 * that has one ends, however that comes. Nobody can connect to it, since it does not listen.
 */
#include <errno.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "loop/loop.h"

int claim_open(const char *name)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	const size_t len = strlen(name);
	int fd, err;

	if (len > sizeof(addr.sun_path) - 1)
		return -ENAMETOOLONG;
	memcpy(addr.sun_path + 1, name, len);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)&addr,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)) == 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

void claim_close(int fd)
{
	if (fd >= 0)
		close(fd);
}
