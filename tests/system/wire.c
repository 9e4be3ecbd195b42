/*
 * A bad cable: joins two interfaces, and loses, doubles, delays and reorders the frames of ATA over
 * Ethernet that go through it, both ways. For kernels without netem.
 *
 *   wire LEFT RIGHT SEED DROP DUPLICATE DELAY REORDER DELAY_MS
 *
 * Four shares in thousandths, and how long a frame is delayed at most; most are delayed for much less.
 * One that is reordered lets up to REORDER_MAX others of its direction pass. It says "ready", and at the
 * end, by SIGTERM or when its standard input ends, what it did.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ETHERTYPE    0x88a2
#define FRAME_MAX    65600
#define HELD_MAX     8192
#define BATCH        64
#define BUFFER_BYTES (16 << 20)
#define REORDER_MAX  16
#define REORDER_MS   20 /* when nothing else comes */
#define MS           UINT64_C(1000000)

enum fate { DROP, DUPLICATE, DELAY, REORDER, FATES };

struct held {
	int fd;
	unsigned side;
	uint64_t due_ns, due_frame;
	size_t len;
	uint8_t data[];
};

static struct {
	int fds[2];
	uint64_t frames[2]; /* that came there */
	uint64_t random;
	unsigned shares[FATES];
	uint64_t delay_ms;
	struct held *held[HELD_MAX];
	unsigned nheld;
	unsigned long counts[FATES], passed, failed;
} wire;

static volatile sig_atomic_t ended;

static void end(int signo)
{
	ended = 1;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 * MS + (uint64_t)t.tv_nsec;
}

static uint64_t dice(uint64_t n)
{
	wire.random ^= wire.random << 13;
	wire.random ^= wire.random >> 7;
	wire.random ^= wire.random << 17;
	return wire.random % n;
}

static bool happens(enum fate f)
{
	const bool it_does = dice(1000) < wire.shares[f];

	wire.counts[f] += it_does;
	return it_does;
}

/* ---- Frames ---- */

static int open_side(const char *name)
{
	const struct sockaddr_ll addr = {.sll_family = AF_PACKET,
					 .sll_protocol = htons(ETHERTYPE),
					 .sll_ifindex = (int)if_nametoindex(name)};
	const struct packet_mreq all = {.mr_ifindex = addr.sll_ifindex,
					.mr_type = PACKET_MR_PROMISC};
	const int bytes = BUFFER_BYTES;
	const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);

	if (fd < 0 || addr.sll_ifindex == 0)
		die(name);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) != 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)) != 0 ||
	    bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0)
		die(name);
	return fd;
}

static void pass(int fd, const uint8_t *data, size_t len)
{
	if (send(fd, data, len, MSG_DONTWAIT) == (ssize_t)len)
		wire.passed++;
	else
		wire.failed++;
}

static void hold(unsigned side, const uint8_t *data, size_t len, uint64_t due_ns,
		 uint64_t due_frame)
{
	struct held *h = wire.nheld < HELD_MAX ? malloc(sizeof(*h) + len) : NULL;

	if (h == NULL) {
		wire.failed++;
		return;
	}
	*h = (struct held){.fd = wire.fds[!side],
			   .side = side,
			   .due_ns = due_ns,
			   .due_frame = due_frame,
			   .len = len};
	memcpy(h->data, data, len);
	wire.held[wire.nheld++] = h;
}

static bool is_due(const struct held *h, uint64_t now)
{
	return h->due_ns <= now || h->due_frame <= wire.frames[h->side];
}

static void release(uint64_t now)
{
	for (unsigned i = 0; i < wire.nheld;) {
		struct held *h = wire.held[i];

		if (!is_due(h, now)) {
			i++;
			continue;
		}
		pass(h->fd, h->data, h->len);
		wire.held[i] = wire.held[--wire.nheld];
		free(h);
	}
}

/* As often below 10 ms as between that and 100 ms, and so on. */
static uint64_t some_delay(void)
{
	uint64_t most = 10;

	while (most < wire.delay_ms && dice(2) != 0)
		most *= 10;
	return (1 + dice(most < wire.delay_ms ? most : wire.delay_ms)) * MS;
}

static void carry(unsigned side, const uint8_t *data, size_t len, uint64_t now)
{
	unsigned copies;

	wire.frames[side]++;
	if (happens(DROP))
		return;
	for (copies = happens(DUPLICATE) ? 2 : 1; copies > 0; copies--) {
		if (happens(DELAY))
			hold(side, data, len, now + some_delay(), UINT64_MAX);
		else if (happens(REORDER))
			hold(side, data, len, now + REORDER_MS * MS,
			     wire.frames[side] + 1 + dice(REORDER_MAX));
		else
			pass(wire.fds[!side], data, len);
	}
}

static void receive(unsigned side)
{
	static uint8_t frame[FRAME_MAX];
	struct sockaddr_ll from;

	for (unsigned i = 0; i < BATCH; i++) {
		socklen_t from_len = sizeof(from);
		const ssize_t n = recvfrom(wire.fds[side], frame, sizeof(frame), 0,
					   (struct sockaddr *)&from, &from_len);

		if (n < 0)
			return;
		if (from.sll_pkttype == PACKET_OUTGOING)
			continue;
		carry(side, frame, (size_t)n, now_ns());
		release(now_ns());
	}
}

static int wait_ms(uint64_t now)
{
	uint64_t due_ns = now + 1000 * MS;

	for (unsigned i = 0; i < wire.nheld; i++)
		if (wire.held[i]->due_ns < due_ns)
			due_ns = wire.held[i]->due_ns;
	return due_ns <= now ? 0 : (int)((due_ns - now + MS - 1) / MS);
}

int main(int argc, char **argv)
{
	if (argc != 9) {
		fprintf(stderr,
			"usage: wire LEFT RIGHT SEED DROP DUPLICATE DELAY REORDER DELAY_MS\n");
		return 2;
	}
	signal(SIGTERM, end);
	wire.fds[0] = open_side(argv[1]);
	wire.fds[1] = open_side(argv[2]);
	wire.random = strtoull(argv[3], NULL, 0) * UINT64_C(0x9e3779b97f4a7c15) | 1;
	for (unsigned i = 0; i < FATES; i++)
		wire.shares[i] = (unsigned)strtoul(argv[4 + i], NULL, 0);
	wire.delay_ms = strtoull(argv[8], NULL, 0);
	printf("ready\n");
	fflush(stdout);
	while (!ended) {
		struct pollfd p[] = {{.fd = wire.fds[0], .events = POLLIN},
				     {.fd = wire.fds[1], .events = POLLIN},
				     {.fd = 0, .events = POLLIN}};

		if (poll(p, 3, wait_ms(now_ns())) < 0 && errno != EINTR)
			die("poll");
		if (p[2].revents != 0)
			break;
		receive(0);
		receive(1);
		release(now_ns());
	}
	printf("passed %lu dropped %lu duplicated %lu delayed %lu reordered %lu failed %lu\n",
	       wire.passed, wire.counts[DROP], wire.counts[DUPLICATE], wire.counts[DELAY],
	       wire.counts[REORDER], wire.failed);
	return 0;
}
