/*
 * spindle-echo: the ceiling. Answers SCSI commands with messages of an iSCSI target's sizes, as
 * fast as one epoll loop can, and does nothing else: no login, no command window, no checks.
 * Payloads come from memory, or with --file by pread and pwrite.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/base.h"

enum {
	BHS = 48,
	IN_BUF = 256 * 1024,
	BATCH = 64,
	PAYLOAD = 4 * 1024 * 1024,
	/* The rest of a payload of this size or more is received straight into its place. */
	PLACE_MIN = 16 * 1024,
};

struct reply {
	uint8_t header[BHS];
	uint8_t *data;
	uint32_t len;
};

struct conn {
	int fd;
	size_t have;
	uint8_t in[IN_BUF];
	uint8_t command[BHS]; /* whose payload is being received */
	uint32_t want;        /* bytes of it that are missing */
	struct reply replies[BATCH];
	unsigned nreplies;
	size_t sent; /* of the batch */
};

struct echo {
	int file; /* -1: memory */
	uint8_t *payload;
	uint8_t *read_area;
};

static int fail(const char *what)
{
	perror(what);
	return 1;
}

/* Blocks while the client does not read: it has commands outstanding and will. */
static int send_batch(struct conn *c)
{
	struct iovec iov[2 * BATCH];
	size_t total = 0;
	unsigned n = 0, at = 0;

	for (unsigned i = 0; i < c->nreplies; i++) {
		iov[n++] = (struct iovec){c->replies[i].header, BHS};
		total += BHS + c->replies[i].len;
		if (c->replies[i].len > 0)
			iov[n++] = (struct iovec){c->replies[i].data, c->replies[i].len};
	}
	while (total > 0) {
		struct msghdr m = {.msg_iov = iov + at, .msg_iovlen = n - at};
		ssize_t sent = sendmsg(c->fd, &m, MSG_NOSIGNAL);

		if (sent < 0)
			return -errno;
		total -= (size_t)sent;
		while (sent > 0 && (size_t)sent >= iov[at].iov_len)
			sent -= (ssize_t)iov[at++].iov_len;
		iov[at].iov_base = (uint8_t *)iov[at].iov_base + sent;
		iov[at].iov_len -= (size_t)sent;
	}
	c->nreplies = 0;
	return 0;
}

static uint64_t lba_of(const uint8_t *cdb)
{
	return cdb[0] >= 0x80 ? load_be64(cdb + 2) : load_be32(cdb + 2);
}

/* The payload of a write is in e->payload (or was copied there). */
static int answer(struct echo *e, struct conn *c, const uint8_t *h)
{
	struct reply *r = &c->replies[c->nreplies];
	uint32_t len = load_be32(h + 20);
	bool reads = (h[1] & 0x40) != 0;
	off_t off = (off_t)(lba_of(h + 32) * 512);

	if (len > PAYLOAD)
		return -EPROTO;
	memset(r->header, 0, BHS);
	r->header[0] = reads ? 0x25 : 0x21;
	r->header[1] = reads ? 0x81 : 0x80;
	memcpy(r->header + 16, h + 16, 4);
	r->len = reads ? len : 0;
	r->data = len > 65536 ? e->read_area : e->read_area + (size_t)c->nreplies * 65536;
	store_be24(r->header + 5, r->len);
	if (e->file >= 0 && len > 0 &&
	    (reads ? pread(e->file, r->data, len, off) : pwrite(e->file, e->payload, len, off)) !=
		    len)
		return -EIO;
	c->nreplies++;
	return c->nreplies == BATCH || r->len > 65536 ? send_batch(c) : 0;
}

static int parse(struct echo *e, struct conn *c)
{
	size_t at = 0;
	int err = 0;

	while (err == 0 && c->have - at >= BHS) {
		const uint8_t *h = c->in + at;
		uint32_t len = load_be24(h + 5);
		size_t here = min_u64(len, c->have - at - BHS);

		if (len > PAYLOAD)
			return -EPROTO;
		if (here < len && len - here < PLACE_MIN && c->have - at < IN_BUF)
			break;
		if (len > 0)
			memcpy(e->payload, h + BHS, here);
		at += BHS + here;
		if (here < len) {
			memcpy(c->command, h, BHS);
			c->want = len - (uint32_t)here;
			break;
		}
		err = answer(e, c, h);
	}
	c->have -= at;
	memmove(c->in, c->in + at, c->have);
	return err;
}

static int place(struct echo *e, struct conn *c)
{
	uint32_t len = load_be24(c->command + 5);
	struct iovec iov[2] = {{e->payload + len - c->want, c->want}, {c->in, BHS + 4096}};
	ssize_t got = readv(c->fd, iov, 2);

	if (got <= 0)
		return got == 0 ? -ECONNRESET : -errno;
	if (got < c->want) {
		c->want -= (uint32_t)got;
		return 0;
	}
	c->have = (size_t)got - c->want;
	c->want = 0;
	return answer(e, c, c->command);
}

static int turn(struct echo *e, struct conn *c)
{
	int err;

	if (c->want > 0) {
		err = place(e, c);
	} else {
		ssize_t got = recv(c->fd, c->in + c->have, IN_BUF - c->have, 0);

		if (got <= 0)
			return got == 0 ? -ECONNRESET : -errno;
		c->have += (size_t)got;
		err = 0;
	}
	if (err == 0 && c->want == 0)
		err = parse(e, c);
	return err == 0 && c->nreplies > 0 ? send_batch(c) : err;
}

static int accept_one(int epoll, int listener)
{
	int one = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	struct conn *c = fd >= 0 ? calloc(1, sizeof(*c)) : NULL;
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

	if (c == NULL)
		return -ENOMEM;
	c->fd = fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static int serve(struct echo *e, int listener)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &ev) < 0)
		return fail("epoll");
	for (;;) {
		struct epoll_event got[64];
		int n = epoll_wait(epoll, got, 64, -1);

		for (int i = 0; i < n; i++) {
			struct conn *c = got[i].data.ptr;

			if (c == NULL) {
				accept_one(epoll, listener);
			} else if (turn(e, c) < 0) {
				close(c->fd);
				free(c);
			}
		}
	}
}

int main(int argc, char **argv)
{
	struct echo e = {
		.file = -1, .payload = calloc(1, PAYLOAD), .read_area = calloc(BATCH + 1, 65536)};
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (argc == 3 && strcmp(argv[1], "--file") == 0) {
		e.file = open(argv[2], O_RDWR | O_CLOEXEC);
		if (e.file < 0)
			return fail(argv[2]);
	} else if (argc != 1) {
		fprintf(stderr, "usage: spindle-echo [--file FILE]\n");
		return 2;
	}
	if (e.payload == NULL || e.read_area == NULL || listener < 0 ||
	    bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 128) < 0 ||
	    getsockname(listener, (struct sockaddr *)&addr, &len) < 0)
		return fail("spindle-echo");
	printf("127.0.0.1:%u\n", ntohs(addr.sin_port));
	fflush(stdout);
	return serve(&e, listener);
}
