/*
 * Addresses as text, and listening sockets.
 */
#include "loop/engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ACCEPTS_PER_TURN 4 /* each takes some 10 us, and others of the loop wait for them */
#define ACCEPT_PAUSE_NS  (100 * NS_PER_MS)
#define BACKLOG          1024

/* ---- Addresses ------------------------------------------------------------------------------- */

/* ":3260" is kept as AF_UNSPEC; the port lies at the same place in all families. */
_Static_assert(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port),
	       "one place for the port");

static int port_parse(const char *text, uint16_t *out)
{
	uint64_t port;

	if (parse_u64(text, &port) != 0 || port > UINT16_MAX)
		return -EINVAL;
	*out = low_u16(port);
	return 0;
}

/* Cuts "HOST", "HOST:PORT", "[HOST]:PORT" in place; *port stays NULL when there is none. */
static int split(char *text, char **host, char **port)
{
	char *end;

	*port = NULL;
	*host = text;
	if (text[0] == '[') {
		end = strchr(text, ']');
		if (end == NULL || (end[1] != '\0' && end[1] != ':'))
			return -EINVAL;
		*host = text + 1;
		*port = end[1] == ':' ? end + 2 : NULL;
		*end = '\0';
		return (*host)[0] != '\0' ? 0 : -EINVAL;
	}
	end = strchr(text, ':');
	if (end != NULL && strchr(end + 1, ':') == NULL) { /* two colons: a bare IPv6 address */
		*end = '\0';
		*port = end + 1;
	}
	return 0;
}

static int in6_parse(struct sockaddr_in6 *out, char *host)
{
	char *zone = strchr(host, '%');

	if (zone != NULL) {
		*zone++ = '\0';
		out->sin6_scope_id = if_nametoindex(zone);
		if (out->sin6_scope_id == 0)
			return -ENODEV;
	}
	return inet_pton(AF_INET6, host, &out->sin6_addr) == 1 ? 0 : -EINVAL;
}

static int addr_parse(union net_addr *out, char *text, uint16_t default_port)
{
	char *host, *port_text;
	uint16_t port = default_port;
	int err;

	memset(out, 0, sizeof(*out));
	err = split(text, &host, &port_text);
	if (err == 0 && port_text != NULL)
		err = port_parse(port_text, &port);
	if (err != 0)
		return err;
	out->in6.sin6_port = htons(port);
	if (host[0] == '\0') {
		out->sa.sa_family = AF_UNSPEC;
		return port_text != NULL ? 0 : -EINVAL;
	}
	out->sa.sa_family = strchr(host, ':') != NULL ? AF_INET6 : AF_INET;
	if (out->sa.sa_family == AF_INET6)
		return in6_parse(&out->in6, host);
	return inet_pton(AF_INET, host, &out->in4.sin_addr) == 1 ? 0 : -EINVAL;
}

int net_addr_parse(union net_addr *out, const char *text, uint16_t default_port, struct diag *d)
{
	char copy[NET_ADDR_TEXT];
	int err = -EINVAL;

	if (str_copy(copy, sizeof(copy), text))
		err = addr_parse(out, copy, default_port);
	if (err == -ENODEV)
		return diag_set(d, err, "address \"%s\": there is no such network interface", text);
	if (err != 0) {
		diag_set(d, err, "\"%s\" is no address and port", text);
		diag_fix(d, "write it in numbers, as in 10.0.0.5:%u, [fd00::5]:%u or :%u",
			 default_port, default_port, default_port);
	}
	return err;
}

static void in6_text(const struct sockaddr_in6 *in6, char buf[NET_ADDR_TEXT])
{
	char host[INET6_ADDRSTRLEN], name[IF_NAMESIZE], zone[IF_NAMESIZE + 1] = "";

	inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
	if (in6->sin6_scope_id != 0 && if_indextoname(in6->sin6_scope_id, name) != NULL)
		str_format(zone, sizeof(zone), "%%%s", name);
	str_format(buf, NET_ADDR_TEXT, "[%s%s]:%u", host, zone, ntohs(in6->sin6_port));
}

const char *net_addr_text(const union net_addr *a, char buf[NET_ADDR_TEXT])
{
	char host[INET_ADDRSTRLEN];

	if (a->sa.sa_family == AF_INET6) {
		in6_text(&a->in6, buf);
	} else if (a->sa.sa_family == AF_INET) {
		inet_ntop(AF_INET, &a->in4.sin_addr, host, sizeof(host));
		str_format(buf, NET_ADDR_TEXT, "%s:%u", host, ntohs(a->in4.sin_port));
	} else {
		str_format(buf, NET_ADDR_TEXT, ":%u", ntohs(a->in4.sin_port));
	}
	return buf;
}

uint16_t net_addr_port(const union net_addr *a)
{
	return ntohs(a->in4.sin_port);
}

bool net_addr_is_any(const union net_addr *a)
{
	if (a->sa.sa_family == AF_INET6)
		return IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr);
	return a->sa.sa_family == AF_UNSPEC || a->in4.sin_addr.s_addr == htonl(INADDR_ANY);
}

/* An IPv4 peer of a socket for both families is an IPv4 address to everybody else. */
void net_addr_unmap(union net_addr *a)
{
	struct sockaddr_in in4 = {.sin_family = AF_INET};

	if (a->sa.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
		return;
	in4.sin_port = a->in6.sin6_port;
	memcpy(&in4.sin_addr, &a->in6.sin6_addr.s6_addr[12], sizeof(in4.sin_addr));
	memset(a, 0, sizeof(*a));
	a->in4 = in4;
}

/* ---- Listening ------------------------------------------------------------------------------- */

struct listener {
	struct loop *loop;
	int fd;
	struct loop_source source;
	union net_addr addr;
	listener_accepted_fn *accepted;
	void *arg;
	struct loop_timer pause;
	bool accepting; /* inside `accepted`, which may close the listener */
	bool closed;
};

static bool out_of_something(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS;
}

static void listener_pause(struct listener *l)
{
	if (loop_timer_start(&l->pause, ACCEPT_PAUSE_NS) == 0)
		loop_rewatch(l->loop, l->fd, &l->source, 0);
}

static void listener_resume(struct loop_timer *timer)
{
	struct listener *l = container_of(timer, struct listener, pause);

	loop_rewatch(l->loop, l->fd, &l->source, EPOLLIN);
}

/* false: no more to accept now. Connections that died in the queue are nobody's error. */
static bool accept_one(struct listener *l)
{
	union net_addr peer = {.in6 = {.sin6_port = 0}};
	socklen_t len = sizeof(peer);
	int fd = accept4(l->fd, &peer.sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0) {
		if (out_of_something(errno))
			listener_pause(l);
		return !out_of_something(errno) && errno != EAGAIN && errno != EINVAL;
	}
	net_addr_unmap(&peer);
	l->accepted(l->arg, fd, &peer);
	return true;
}

static void listener_ready(struct loop_source *src, uint32_t epoll_events)
{
	struct listener *l = container_of(src, struct listener, source);

	l->accepting = true;
	for (unsigned i = 0; i < ACCEPTS_PER_TURN && !l->closed; i++)
		if (!accept_one(l))
			break;
	l->accepting = false;
	if (l->closed)
		free(l);
}

static int bind_listen(int fd, const union net_addr *addr, bool v6only)
{
	int one = 1, only = v6only;
	socklen_t len = addr->sa.sa_family == AF_INET6 ? sizeof(addr->in6) : sizeof(addr->in4);

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0)
		return -errno;
	if (addr->sa.sa_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only)) != 0)
		return -errno;
	if (bind(fd, &addr->sa, len) != 0 || listen(fd, BACKLOG) != 0)
		return -errno;
	return 0;
}

static int socket_open(const union net_addr *addr, bool v6only)
{
	int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int err;

	if (fd < 0)
		return -errno;
	err = bind_listen(fd, addr, v6only);
	if (err != 0) {
		close(fd);
		return err;
	}
	return fd;
}

/* The fd, or -errno. */
static int listen_on(const union net_addr *addr)
{
	union net_addr any = *addr;
	int fd;

	if (addr->sa.sa_family != AF_UNSPEC)
		return socket_open(addr, true);
	any.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = addr->in6.sin6_port};
	fd = socket_open(&any, false);
	if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL)
		return fd;
	any.in4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = addr->in4.sin_port};
	return socket_open(&any, false);
}

static int listen_failed(int err, const union net_addr *addr, struct diag *d)
{
	char text[NET_ADDR_TEXT];

	diag_set(d, err, "cannot listen on %s: %s", net_addr_text(addr, text), strerror(-err));
	if (err == -EADDRINUSE)
		diag_fix(d,
			 "choose another port, or stop what listens there (ss -ltnp sport = :%u)",
			 net_addr_port(addr));
	else if (err == -EADDRNOTAVAIL)
		diag_fix(d, "choose an address of this machine (ip address), or :%u for all",
			 net_addr_port(addr));
	else if (err == -EACCES)
		diag_fix(d, "choose a port of 1024 or above");
	return err;
}

int listener_open(struct listener **out, struct loop *loop, const union net_addr *addr,
		  listener_accepted_fn *accepted, void *arg, struct diag *d)
{
	struct listener *l = calloc(1, sizeof(*l));
	socklen_t len = sizeof(l->addr);
	int err;

	if (l == NULL)
		return listen_failed(-ENOMEM, addr, d);
	l->loop = loop;
	l->accepted = accepted;
	l->arg = arg;
	l->source.ready = listener_ready;
	loop_timer_init(&l->pause, loop, listener_resume);
	l->fd = listen_on(addr);
	err = l->fd < 0 ? l->fd : 0;
	if (err == 0 && getsockname(l->fd, &l->addr.sa, &len) != 0)
		err = -errno;
	if (err == 0)
		err = loop_watch(loop, l->fd, &l->source, EPOLLIN);
	if (err != 0) {
		listener_close(l);
		return listen_failed(err, addr, d);
	}
	*out = l;
	return 0;
}

void listener_close(struct listener *l)
{
	if (l == NULL)
		return;
	loop_timer_stop(&l->pause);
	if (l->fd >= 0) {
		loop_unwatch(l->loop, l->fd, &l->source);
		close(l->fd);
	}
	l->closed = true;
	if (!l->accepting)
		free(l);
}

const union net_addr *listener_addr(const struct listener *l)
{
	return &l->addr;
}
