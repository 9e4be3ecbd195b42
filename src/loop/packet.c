/*
 * Packet sockets: Ethernet frames of one type on one interface, many in a system call.
 */
#include "loop/engine.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BUFFER_BYTES (8 * MiB) /* as far as the system allows (net.core.rmem_max, wmem_max) */

static void forget_error(int fd)
{
	int err;
	socklen_t len = sizeof(err);

	(void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
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

/* What nobody wants is not copied. */
static int attach_filter(int fd, const struct packet_config *config)
{
	struct sock_filter code[] = {
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

static void grow_buffers(int fd)
{
	const int bytes = BUFFER_BYTES;

	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static int bind_to(int fd, int index, uint16_t ethertype)
{
	const struct sockaddr_ll addr = {
		.sll_family = AF_PACKET, .sll_ifindex = index, .sll_protocol = htons(ethertype)};

	return bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 ? 0 : -errno;
}

/* Bound last: then frames come, and all of them are wanted ones. */
static int set_up(struct packet *p, int fd, const struct packet_config *config)
{
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
	if (err != 0)
		return err;
	grow_buffers(fd);
	return bind_to(fd, r.ifr_ifindex, config->ethertype);
}

int packet_open(struct packet *p, struct loop *loop, const struct packet_config *config)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err;

	p->fd = -1;
	if (fd < 0)
		return -errno;
	p->loop = loop;
	p->wanted = 0;
	p->source.ready = packet_source_ready;
	err = set_up(p, fd, config);
	if (err == 0)
		err = loop_watch(loop, fd, &p->source, 0);
	if (err != 0) {
		close(fd);
		return err;
	}
	p->fd = fd;
	str_copy(p->interface, sizeof(p->interface), config->interface);
	return 0;
}

void packet_close(struct packet *p)
{
	if (p->loop == NULL || p->fd < 0)
		return;
	loop_unwatch(p->loop, p->fd, &p->source);
	close(p->fd);
	p->fd = -1;
}

int packet_want(struct packet *p, unsigned wanted)
{
	int err;

	if (p->fd < 0)
		return -ENETDOWN;
	if (p->wanted == wanted)
		return 0;
	err = loop_rewatch(p->loop, p->fd, &p->source, to_epoll(wanted));
	if (err == 0)
		p->wanted = wanted;
	return err;
}

/* ---- Frames ---- */

/* Of a frame that is not for this machine, or that this machine sent, nothing is left; nor of one that
 * came by this interface to another one on top of it, as a VLAN's: the kernel shows it to both. */
static void take(const struct packet *p, struct packet_frame *f, const struct mmsghdr *m)
{
	const struct sockaddr_ll *from = m->msg_hdr.msg_name;
	const bool ours = from->sll_ifindex == p->index && (from->sll_pkttype == PACKET_HOST ||
							    from->sll_pkttype == PACKET_BROADCAST);

	f->len = ours && (m->msg_hdr.msg_flags & MSG_TRUNC) == 0 ? m->msg_len : 0;
}

int packet_recv(struct packet *p, struct packet_frame *frames, unsigned n)
{
	struct mmsghdr msgs[PACKET_BATCH];
	struct sockaddr_ll from[PACKET_BATCH];
	struct iovec iov[PACKET_BATCH];
	int got;

	n = n < PACKET_BATCH ? n : PACKET_BATCH;
	for (unsigned i = 0; i < n; i++) {
		iov[i] = (struct iovec){.iov_base = frames[i].data, .iov_len = frames[i].cap};
		msgs[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
						  .msg_namelen = sizeof(from[i]),
						  .msg_iov = &iov[i],
						  .msg_iovlen = 1};
	}
	do {
		got = recvmmsg(p->fd, msgs, n, MSG_DONTWAIT, NULL);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	for (int i = 0; i < got; i++)
		take(p, &frames[i], &msgs[i]);
	return got;
}

int packet_send(struct packet *p, const struct packet_frame *frames, unsigned n)
{
	struct mmsghdr msgs[PACKET_BATCH];
	struct iovec iov[PACKET_BATCH];
	int sent;

	if (p->fd < 0)
		return -ENETDOWN;
	n = n < PACKET_BATCH ? n : PACKET_BATCH;
	for (unsigned i = 0; i < n; i++) {
		iov[i] = (struct iovec){.iov_base = frames[i].data, .iov_len = frames[i].len};
		msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[i], .msg_iovlen = 1}};
	}
	do {
		sent = sendmmsg(p->fd, msgs, n, MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	return sent >= 0 ? sent : -errno;
}
