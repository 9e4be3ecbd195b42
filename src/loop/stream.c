/*
 * Connected sockets: ready calls from epoll, gathered receive and send.
 */
#include "loop/engine.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

static void stream_source_ready(struct loop_source *src, uint32_t epoll_events)
{
	struct stream *s = container_of(src, struct stream, source);
	/* What is wanted may have changed since epoll looked. */
	unsigned events = of_epoll(epoll_events) & s->wanted;

	if (epoll_events & (EPOLLHUP | EPOLLERR))
		events |= STREAM_HUP;
	if (events != 0)
		s->ready(s, events);
}

static int set_option(int fd, int level, int name)
{
	int one = 1;

	if (setsockopt(fd, level, name, &one, sizeof(one)) == 0)
		return 0;
	/* A socket pair has no TCP below it. */
	return errno == EOPNOTSUPP || errno == ENOPROTOOPT ? 0 : -errno;
}

int stream_open(struct stream *s, struct loop *loop, int fd, unsigned wanted)
{
	int err = set_option(fd, SOL_SOCKET, SO_KEEPALIVE);

	if (err == 0)
		err = set_option(fd, IPPROTO_TCP, TCP_NODELAY);
	if (err != 0)
		return err;
	s->loop = loop;
	s->wanted = wanted;
	s->source.ready = stream_source_ready;
	err = loop_watch(loop, fd, &s->source, to_epoll(wanted));
	s->fd = err == 0 ? fd : -1;
	return err;
}

int stream_want(struct stream *s, unsigned wanted)
{
	int err;

	if (s->wanted == wanted)
		return 0;
	err = loop_rewatch(s->loop, s->fd, &s->source, to_epoll(wanted));
	if (err == 0)
		s->wanted = wanted;
	return err;
}

ssize_t stream_recv(struct stream *s, const struct iovec *iov, unsigned niov)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = niov};
	ssize_t n;

	do {
		n = niov == 1 ? recv(s->fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT)
			      : recvmsg(s->fd, &msg, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n >= 0 ? n : -errno;
}

ssize_t stream_send(struct stream *s, const struct iovec *iov, unsigned niov)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = niov};
	ssize_t n;

	do {
		n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n >= 0 ? n : -errno;
}

void stream_shutdown(struct stream *s)
{
	(void)shutdown(s->fd, SHUT_WR); /* one that is not connected any more says so when read */
}

int stream_release(struct stream *s)
{
	int fd = s->fd;

	loop_unwatch(s->loop, fd, &s->source);
	s->fd = -1;
	return fd;
}

void stream_close(struct stream *s)
{
	if (s->loop != NULL && s->fd >= 0) /* no loop: never opened */
		close(stream_release(s));
}

int stream_local_addr(const struct stream *s, union net_addr *out)
{
	socklen_t len = sizeof(*out);

	memset(out, 0, sizeof(*out));
	if (getsockname(s->fd, &out->sa, &len) != 0)
		return -errno;
	net_addr_unmap(out);
	return 0;
}
