/*
 * Network interfaces: a netlink socket says that something has changed, and who wants to know what looks.
 * So a message that was lost costs nothing, and none is believed: but for the flags of one that says that
 * an interface is down, which may be up again when somebody looks.
 */
#include "loop/engine.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MESSAGES_PER_TURN 256

int interface_ask(int fd, const char *name, unsigned long what, struct ifreq *r)
{
	*r = (struct ifreq){0};
	if (!str_copy(r->ifr_name, sizeof(r->ifr_name), name))
		return -ENODEV;
	return ioctl(fd, what, r) == 0 ? 0 : -errno;
}

static bool is_up(unsigned flags)
{
	return (flags & IFF_UP) != 0 && (flags & IFF_RUNNING) != 0;
}

/* ---- Messages ---- */

/* The head of one: the rest is cut off, for nobody reads it. */
struct told {
	struct nlmsghdr head;
	struct ifinfomsg info;
};

/* 1: it is from the kernel; 0: it is not; -errno. Others may send, too, when they are privileged. */
static int receive(int fd, struct told *told)
{
	struct sockaddr_nl from = {0};
	struct iovec iov = {.iov_base = told, .iov_len = sizeof(*told)};
	struct msghdr msg = {
		.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	do {
		n = recvmsg(fd, &msg, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n == (ssize_t)sizeof(*told) && from.nl_pid == 0 ? 1 : 0;
}

static void link_source_ready(struct loop_source *src, uint32_t epoll_events)
{
	struct link_watch *w = container_of(src, struct link_watch, source);
	bool changed = false;

	for (unsigned i = 0; i < MESSAGES_PER_TURN; i++) {
		struct told told;
		const int got = receive(w->fd, &told);

		if (got < 0 && got != -ENOBUFS)
			break;
		changed = changed || got != 0;
		if (got > 0 && told.head.nlmsg_type == RTM_NEWLINK && !is_up(told.info.ifi_flags))
			w->down(w, told.info.ifi_index);
	}
	if (changed)
		w->changed(w);
}

/* ---- Life ---- */

int link_watch_open(struct link_watch *w, struct loop *loop)
{
	const struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	int err = 0;

	w->fd = -1;
	if (fd < 0)
		return -errno;
	w->source.ready = link_source_ready;
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0)
		err = -errno;
	if (err == 0)
		err = loop_watch(loop, fd, &w->source, EPOLLIN);
	if (err != 0) {
		close(fd);
		return err;
	}
	w->loop = loop;
	w->fd = fd;
	return 0;
}

void link_watch_close(struct link_watch *w)
{
	if (w->loop == NULL || w->fd < 0)
		return;
	loop_unwatch(w->loop, w->fd, &w->source);
	close(w->fd);
	w->fd = -1;
}

/* ---- How one is ---- */

int link_look(const struct link_watch *w, const char *name, struct link_facts *out)
{
	struct ifreq r;
	int err = interface_ask(w->fd, name, SIOCGIFINDEX, &r);

	*out = (struct link_facts){.index = err == 0 ? r.ifr_ifindex : 0};
	if (err == 0)
		err = interface_ask(w->fd, name, SIOCGIFMTU, &r);
	if (err == 0) {
		out->mtu = (unsigned)r.ifr_mtu;
		err = interface_ask(w->fd, name, SIOCGIFFLAGS, &r);
	}
	if (err == 0) {
		out->up = is_up((unsigned short)r.ifr_flags);
		err = interface_ask(w->fd, name, SIOCGIFHWADDR, &r);
	}
	if (err == 0 && r.ifr_hwaddr.sa_family != ARPHRD_ETHER &&
	    r.ifr_hwaddr.sa_family != ARPHRD_LOOPBACK)
		err = -EPROTONOSUPPORT;
	if (err == 0)
		memcpy(out->mac, r.ifr_hwaddr.sa_data, sizeof(out->mac));
	return err;
}
