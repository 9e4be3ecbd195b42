/*
 * Packet sockets: Ethernet frames of one type on one interface. They come through a ring of memory that
 * the kernel fills (TPACKET_V2: version 3 tells of frames only when a block is full or its time is
 * over), and leave many in a system call.
 *
 * A ring's frame is the kernel's until its status says otherwise, and ours until we say so.
 */
#include "loop/xdp.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEND_BYTES (8 * MiB) /* as far as the system allows (net.core.wmem_max) */
#define RING_BLOCK (64 * KiB)
/* What lies before a frame's bytes: more than a header, an address, and the kernel's alignment. */
#define RING_HEADER 128

static void forget_error(int fd)
{
	int err;
	socklen_t len = sizeof(err);

	(void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
}

static void send_source_ready(struct loop_source *src, uint32_t epoll_events)
{
	struct packet *p = container_of(src, struct packet, send_source);

	if ((p->wanted & STREAM_OUT) != 0)
		p->ready(p, STREAM_OUT);
}

static void packet_source_ready(struct loop_source *src, uint32_t epoll_events)
{
	struct packet *p = container_of(src, struct packet, source);
	/* What is wanted may have changed since epoll looked. */
	const unsigned events = of_epoll(epoll_events) & p->wanted;

	/* The interface went down. When it is up again, frames come again. */
	if (epoll_events & EPOLLERR)
		forget_error(p->fd);
	if (events != 0)
		p->ready(p, events);
}

/* ---- Life ---- */

/* Only what is sent to this machine or to all, and what is wanted: the rest is not copied. */
static int attach_filter(int fd, const struct packet_config *config)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE)),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, PACKET_BROADCAST, 2, 0),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, config->mask_at),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, config->mask_bits),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, config->mask_value, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	const struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0
		       ? 0
		       : -errno;
}

static void grow_send_buffer(int fd)
{
	const int bytes = SEND_BYTES;

	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static int bind_to(int fd, int index, uint16_t ethertype)
{
	const struct sockaddr_ll addr = {
		.sll_family = AF_PACKET, .sll_ifindex = index, .sll_protocol = htons(ethertype)};

	return bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 ? 0 : -errno;
}

/* It receives nothing. */
static int open_sender(struct packet *p, int index)
{
	p->send_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->send_fd < 0)
		return -errno;
	grow_send_buffer(p->send_fd);
	return bind_to(p->send_fd, index, 0);
}

/* ---- The ring ---- */

static int set_ring(const struct packet *p, const struct packet_ring *r)
{
	const struct tpacket_req req = {
		.tp_block_size = (unsigned)r->block,
		.tp_block_nr = (unsigned)r->nblocks,
		.tp_frame_size = (unsigned)r->frame,
		.tp_frame_nr = (unsigned)(r->nblocks * r->per_block),
	};

	return setsockopt(p->fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req)) == 0 ? 0 : -errno;
}

static void ring_close(struct packet *p)
{
	if (p->ring.at != NULL)
		munmap(p->ring.at, p->ring.block * p->ring.nblocks);
	p->ring = (struct packet_ring){0};
}

static int ring_open(struct packet *p, const struct packet_config *config)
{
	struct packet_ring r = {
		.block = RING_BLOCK,
		.frame = align_up(config->frame_max + RING_HEADER, TPACKET_ALIGNMENT)};
	const int version = TPACKET_V2;
	int err;
	void *at;

	r.per_block = r.block / r.frame;
	r.nblocks = (config->frames + r.per_block - 1) / r.per_block;
	if (setsockopt(p->fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) != 0)
		return -errno;
	err = set_ring(p, &r);
	if (err != 0)
		return err;
	at = mmap(NULL, r.block * r.nblocks, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	r.at = at;
	p->ring = r;
	return 0;
}

static struct tpacket2_hdr *ring_next(const struct packet_ring *r)
{
	const size_t block = r->next / r->per_block, frame = r->next % r->per_block;

	return (struct tpacket2_hdr *)(void *)(r->at + block * r->block + frame * r->frame);
}

static void ring_advance(struct packet_ring *r)
{
	r->next = r->next + 1 == r->nblocks * r->per_block ? 0 : r->next + 1;
}

/* ---- Opening and closing ---- */

/* Bound last: then frames come, and all of them are wanted ones. */
static int set_up(struct packet *p, const struct packet_config *config)
{
	const int fd = p->fd;
	struct ifreq r;
	int err = interface_ask(fd, config->interface, SIOCGIFHWADDR, &r);

	if (err != 0)
		return err;
	if (r.ifr_hwaddr.sa_family != ARPHRD_ETHER && r.ifr_hwaddr.sa_family != ARPHRD_LOOPBACK)
		return -EPROTONOSUPPORT;
	memcpy(p->mac, r.ifr_hwaddr.sa_data, sizeof(p->mac));
	err = interface_ask(fd, config->interface, SIOCGIFINDEX, &r);
	p->index = r.ifr_ifindex;
	if (err == 0)
		err = attach_filter(fd, config);
	if (err == 0)
		err = ring_open(p, config);
	if (err != 0)
		return err;
	err = open_sender(p, r.ifr_ifindex);
	if (err == 0)
		err = bind_to(fd, r.ifr_ifindex, config->ethertype);
	if (err == 0)
		err = loop_watch(p->loop, fd, &p->source, 0);
	if (err == 0 && config->xdp)
		err = xdp_open(&p->xdp, p, r.ifr_ifindex, config);
	return err;
}

static int watch_sender(struct packet *p, bool watched)
{
	int err = 0;

	if (watched == p->send_watched)
		return 0;
	if (watched)
		err = loop_watch(p->loop, p->send_fd, &p->send_source, EPOLLOUT);
	else
		loop_unwatch(p->loop, p->send_fd, &p->send_source);
	if (err == 0)
		p->send_watched = watched;
	return err;
}

int packet_open(struct packet *p, struct loop *loop, const struct packet_config *config)
{
	int err;

	p->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->fd < 0)
		return -errno;
	p->loop = loop;
	p->wanted = 0;
	p->ring = (struct packet_ring){0};
	p->source.ready = packet_source_ready;
	p->send_source.ready = send_source_ready;
	p->send_fd = -1;
	p->send_watched = p->send_full = false;
	str_copy(p->interface, sizeof(p->interface), config->interface);
	p->xdp = NULL;
	err = set_up(p, config);
	if (err != 0)
		packet_close(p);
	return err;
}

static void end_xdp(struct packet *p)
{
	if (p->xdp == NULL)
		return;
	p->lost += xdp_lost(p->xdp);
	xdp_close(p->xdp);
	p->xdp = NULL;
}

void packet_close(struct packet *p)
{
	if (!packet_is_open(p))
		return;
	(void)packet_lost(p);
	end_xdp(p);
	loop_unwatch(p->loop, p->fd, &p->source);
	watch_sender(p, false);
	if (p->send_fd >= 0)
		close(p->send_fd);
	ring_close(p);
	close(p->fd);
	p->fd = -1;
}

static int want_in(struct packet *p, unsigned in)
{
	int err;

	if (in == (p->wanted & STREAM_IN))
		return 0;
	err = loop_rewatch(p->loop, p->fd, &p->source, to_epoll(in));
	if (err == 0 && p->xdp != NULL)
		err = xdp_want(p->xdp, in);
	return err;
}

int packet_want(struct packet *p, unsigned wanted)
{
	int err;

	if (p->fd < 0)
		return -ENETDOWN;
	err = want_in(p, wanted & STREAM_IN);
	if (err == 0)
		err = watch_sender(p, (wanted & STREAM_OUT) != 0 && p->send_full);
	if (err == 0)
		p->wanted = wanted;
	return err;
}

int packet_add_key(struct packet *p, const uint8_t key[PACKET_KEY_LEN])
{
	return p->xdp != NULL ? xdp_add_key(p->xdp, key) : 0;
}

int packet_follow_address(struct packet *p, const uint8_t mac[PACKET_MAC_LEN])
{
	int err;

	memcpy(p->mac, mac, PACKET_MAC_LEN);
	err = p->xdp != NULL ? xdp_follow_address(p->xdp) : 0;
	if (err != 0)
		end_xdp(p);
	return err;
}

/* ---- Frames ---- */

/* One that the ring had no room for is dropped, and one that came by this interface to another one on top
 * of it, as a VLAN's: the kernel shows it to both. */
static void take(struct packet *p, const struct tpacket2_hdr *h)
{
	const struct sockaddr_ll *from =
		(const void *)((const uint8_t *)h + TPACKET_ALIGN(sizeof(*h)));

	if (h->tp_snaplen == h->tp_len && from->sll_ifindex == p->index)
		p->frame(p, (const uint8_t *)h + h->tp_mac, h->tp_len);
}

/* The next one's head, while this one is looked at: another CPU has written it. */
static void fetch(const struct tpacket2_hdr *h)
{
	__builtin_prefetch(h);
	__builtin_prefetch((const uint8_t *)h + 64);
}

unsigned packet_recv(struct packet *p, unsigned n)
{
	/* Neither way keeps the other one out. */
	unsigned done = p->xdp != NULL ? xdp_recv(p->xdp, n - n / 4) : 0;

	if (p->ring.at == NULL)
		return done;
	while (done < n) {
		struct tpacket2_hdr *h = ring_next(&p->ring);

		if ((__atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) == 0)
			break;
		ring_advance(&p->ring);
		fetch(ring_next(&p->ring));
		take(p, h);
		__atomic_store_n(&h->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
		done++;
	}
	return done;
}

/* What the kernel has counted is told once. */
uint64_t packet_lost(struct packet *p)
{
	struct tpacket_stats now = {0};
	socklen_t len = sizeof(now);

	if (packet_is_open(p) && getsockopt(p->fd, SOL_PACKET, PACKET_STATISTICS, &now, &len) == 0)
		p->lost += now.tp_drops;
	if (p->xdp != NULL)
		p->lost += xdp_lost(p->xdp);
	return p->lost;
}

/* Of those at the beginning. */
static unsigned count_short(const struct packet_frame *frames, unsigned n)
{
	unsigned i = 0;

	while (i < n && xdp_takes(frames[i].len))
		i++;
	return i;
}

static int send_now(const struct packet *p, struct mmsghdr *msgs, unsigned n)
{
	int sent;

	do {
		sent = sendmmsg(p->send_fd, msgs, n, MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	return sent >= 0 ? sent : -errno;
}

int packet_send(struct packet *p, const struct packet_frame *frames, unsigned n)
{
	struct mmsghdr msgs[PACKET_BATCH];
	struct iovec iov[PACKET_BATCH];
	int sent;

	if (p->fd < 0)
		return -ENETDOWN;
	n = n < PACKET_BATCH ? n : PACKET_BATCH;
	p->send_full = false;
	if (p->xdp != NULL && xdp_takes(frames[0].len))
		return xdp_send(p->xdp, frames, count_short(frames, n));
	for (unsigned i = 0; i < n; i++) {
		iov[i] = (struct iovec){.iov_base = (void *)(uintptr_t)frames[i].data,
					.iov_len = frames[i].len};
		msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[i], .msg_iovlen = 1}};
	}
	sent = send_now(p, msgs, n);
	/* Perhaps the interface was down, which is told once. */
	if (sent == -ENETDOWN)
		sent = send_now(p, msgs, n);
	p->send_full = sent == -EAGAIN;
	return sent;
}
