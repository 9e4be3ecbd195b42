/*
 * Addresses, listeners and streams on real sockets.
 */
#include "loop_test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- Addresses ------------------------------------------------------------------------------- */

static void addresses_are_read_and_shown(void **state)
{
	static const struct {
		const char *text, *shown; /* shown NULL: refused */
	} rows[] = {
		{"10.0.0.5:3260", "10.0.0.5:3260"},
		{"10.0.0.5", "10.0.0.5:860"},
		{"[fd00::5]:3260", "[fd00::5]:3260"},
		{"[fd00::5]", "[fd00::5]:860"},
		{"fd00::5", "[fd00::5]:860"},
		{"::1", "[::1]:860"},
		{"[::]", "[::]:860"},
		{"[::]:0", "[::]:0"},
		{"0.0.0.0:1", "0.0.0.0:1"},
		{":3260", ":3260"},
		{":65535", ":65535"},
		{"[fe80::1%lo]:1", "[fe80::1%lo]:1"},
		{"", NULL},
		{":", NULL},
		{"10.0.0.5:", NULL},
		{"10.0.0.5:65536", NULL},
		{"10.0.0.5:-1", NULL},
		{"10.0.0.5:80x", NULL},
		{"10.0.0:80", NULL},
		{"10.1", NULL},
		{"localhost:80", NULL},
		{"[fd00::5", NULL},
		{"[fd00::5]80", NULL},
		{"[]:80", NULL},
		{"[10.0.0.5]:80", "10.0.0.5:80"},
		{"fd00:::5", NULL},
		{"fe80::1%nosuchif0", NULL},
		{"1111111111111111111111111111111111111111111111111111111111111111111", NULL},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		union net_addr a;
		char text[NET_ADDR_TEXT];
		struct diag d;
		int err;

		diag_init(&d);
		err = net_addr_parse(&a, rows[i].text, 860, &d);
		if (rows[i].shown == NULL) {
			assert_true(err < 0);
			assert_true(d.what[0] != '\0');
			continue;
		}
		assert_int_equal(err, 0);
		assert_string_equal(net_addr_text(&a, text), rows[i].shown);
	}
}

static void facts_about_addresses(void **state)
{
	union net_addr a;

	net_addr_parse(&a, "0.0.0.0:17", 0, NULL);
	assert_true(net_addr_is_any(&a));
	assert_int_equal(net_addr_port(&a), 17);
	net_addr_parse(&a, "[::]:18", 0, NULL);
	assert_true(net_addr_is_any(&a));
	assert_int_equal(net_addr_port(&a), 18);
	net_addr_parse(&a, ":19", 0, NULL);
	assert_true(net_addr_is_any(&a));
	assert_int_equal(net_addr_port(&a), 19);
	net_addr_parse(&a, "127.0.0.1", 20, NULL);
	assert_false(net_addr_is_any(&a));
	net_addr_parse(&a, "[::1]", 20, NULL);
	assert_false(net_addr_is_any(&a));
}

/* ---- Listeners ------------------------------------------------------------------------------- */

static int dial(const char *host, uint16_t port)
{
	union net_addr a;
	int fd;

	assert_int_equal(net_addr_parse(&a, host, port, NULL), 0);
	fd = socket(a.sa.sa_family, SOCK_STREAM, 0);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, &a.sa, sizeof(a)), 0);
	return fd;
}

struct hall {
	struct loop_set *set;
	struct listener *listener;
	unsigned accepted, wanted;
	bool close_inside;
	char peer[NET_ADDR_TEXT];
	struct loop_timer timer;
};

static void hall_accepted(void *arg, int fd, const union net_addr *peer)
{
	struct hall *h = arg;

	assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
	assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
	net_addr_text(peer, h->peer);
	close(fd);
	if (h->close_inside) {
		listener_close(h->listener);
		h->listener = NULL;
	}
	if (++h->accepted == h->wanted)
		loop_set_stop(h->set);
}

static void hall_open(struct hall *h, const char *text)
{
	union net_addr a;

	if (h->set == NULL)
		h->set = test_set(1, LOOP_DISK_AUTO);
	assert_int_equal(net_addr_parse(&a, text, 0, NULL), 0);
	assert_int_equal(
		listener_open(&h->listener, loop_set_at(h->set, 0), &a, hall_accepted, h, NULL), 0);
	assert_true(net_addr_port(listener_addr(h->listener)) != 0);
}

static void hall_close(struct hall *h)
{
	listener_close(h->listener);
	loop_set_destroy(h->set);
}

static void connections_are_accepted(void **state)
{
	struct hall h = {.wanted = 200};
	int fds[200];

	hall_open(&h, "127.0.0.1:0");
	for (unsigned i = 0; i < h.wanted; i++)
		fds[i] = dial("127.0.0.1", net_addr_port(listener_addr(h.listener)));
	assert_int_equal(loop_set_run(h.set), 0);
	assert_int_equal(h.accepted, 200);
	assert_memory_equal(h.peer, "127.0.0.1:", 10);
	for (unsigned i = 0; i < h.wanted; i++)
		close(fds[i]);
	hall_close(&h);
}

static void a_listener_may_close_itself(void **state)
{
	struct hall h = {.wanted = 1, .close_inside = true};
	int a, b;

	hall_open(&h, "127.0.0.1:0");
	a = dial("127.0.0.1", net_addr_port(listener_addr(h.listener)));
	b = dial("127.0.0.1", net_addr_port(listener_addr(h.listener)));
	assert_int_equal(loop_set_run(h.set), 0);
	assert_int_equal(h.accepted, 1);
	close(a);
	close(b);
	hall_close(&h);
}

static bool have_ipv6(void)
{
	union net_addr a;
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	bool have;

	net_addr_parse(&a, "[::1]:0", 0, NULL);
	have = fd >= 0 && bind(fd, &a.sa, sizeof(a.in6)) == 0;
	if (fd >= 0)
		close(fd);
	return have;
}

static void no_host_means_both_families(void **state)
{
	struct hall h = {.wanted = 1};
	uint16_t port;
	int fd;

	hall_open(&h, ":0");
	port = net_addr_port(listener_addr(h.listener));
	fd = dial("127.0.0.1", port);
	assert_int_equal(loop_set_run(h.set), 0);
	assert_memory_equal(h.peer, "127.0.0.1:", 10); /* not ::ffff:127.0.0.1 */
	close(fd);
	if (have_ipv6()) {
		h.accepted = 0;
		fd = dial("[::1]", port);
		assert_int_equal(loop_set_run(h.set), 0);
		assert_memory_equal(h.peer, "[::1]:", 6);
		close(fd);
	}
	hall_close(&h);
}

static void an_ipv6_address_leaves_ipv4_alone(void **state)
{
	struct hall six = {.wanted = 1}, four = {.wanted = 1};
	char text[NET_ADDR_TEXT];

	if (!have_ipv6())
		skip();
	hall_open(&six, "[::]:0");
	str_format(text, sizeof(text), "0.0.0.0:%u", net_addr_port(listener_addr(six.listener)));
	hall_open(&four, text);
	hall_close(&six);
	hall_close(&four);
}

static void a_taken_address_is_diagnosed(void **state)
{
	struct hall h = {.wanted = 1};
	struct listener *second = NULL;
	struct diag d;

	hall_open(&h, "127.0.0.1:0");
	diag_init(&d);
	assert_int_equal(listener_open(&second, loop_set_at(h.set, 0), listener_addr(h.listener),
				       hall_accepted, &h, &d),
			 -EADDRINUSE);
	assert_non_null(strstr(d.what, "cannot listen on 127.0.0.1:"));
	assert_true(d.fix[0] != '\0');
	assert_null(second);
	hall_close(&h);
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void set_fd_limit(rlim_t n)
{
	struct rlimit lim;

	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = n;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
}

static void limit_ends(struct loop_timer *timer)
{
	struct hall *h = container_of(timer, struct hall, timer);

	assert_int_equal(h->accepted, 0);
	set_fd_limit(1024);
}

static void out_of_files_pauses_and_recovers(void **state)
{
	struct hall h = {.wanted = 1};
	uint64_t cpu;
	int fd;

	hall_open(&h, "127.0.0.1:0");
	fd = dial("127.0.0.1", net_addr_port(listener_addr(h.listener)));
	loop_timer_init(&h.timer, loop_set_at(h.set, 0), limit_ends);
	loop_timer_start(&h.timer, 400 * NS_PER_MS);
	set_fd_limit(3);
	cpu = cpu_ns();
	assert_int_equal(loop_set_run(h.set), 0);
	assert_int_equal(h.accepted, 1);
	assert_true(cpu_ns() - cpu < 100 * NS_PER_MS); /* it did not spin */
	close(fd);
	hall_close(&h);
}

/* ---- Streams --------------------------------------------------------------------------------- */

static void socket_pair(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static void put(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static ssize_t get(struct stream *s, void *buf, size_t cap)
{
	struct iovec iov = {buf, cap};

	return stream_recv(s, &iov, 1);
}

/* An echo that sends what it gets, however little the socket takes at a time. */
#define ECHO_BYTES (8 * MiB)

struct echo {
	struct loop_set *set;
	struct stream server, client;
	uint8_t held[65536];
	size_t held_len, held_off;
	uint64_t sent, received;
};

static void echo_server_ready(struct stream *s, unsigned events)
{
	struct echo *e = container_of(s, struct echo, server);
	struct iovec iov[2];
	ssize_t n;

	if (e->held_len == e->held_off) {
		iov[0] = (struct iovec){e->held, 1000};
		iov[1] = (struct iovec){e->held + 1000, sizeof(e->held) - 1000};
		n = stream_recv(s, iov, 2);
		if (n == -EAGAIN)
			return;
		if (n == 0) {
			stream_close(s);
			return;
		}
		assert_true(n > 0);
		e->held_len = (size_t)n;
		e->held_off = 0;
	}
	iov[0] = (struct iovec){e->held + e->held_off, e->held_len - e->held_off};
	n = stream_send(s, iov, 1);
	assert_true(n > 0 || n == -EAGAIN);
	if (n > 0)
		e->held_off += (size_t)n;
	assert_int_equal(stream_want(s, e->held_off < e->held_len ? STREAM_OUT : STREAM_IN), 0);
}

static uint8_t byte_at(uint64_t i)
{
	return (uint8_t)(i * 7 + (i >> 11));
}

static void echo_client_ready(struct stream *s, unsigned events)
{
	struct echo *e = container_of(s, struct echo, client);
	uint8_t buf[4096];
	ssize_t n;

	if (events & STREAM_OUT) {
		size_t len = min_u64(sizeof(buf), ECHO_BYTES - e->sent);
		struct iovec iov = {buf, len};

		for (size_t i = 0; i < len; i++)
			buf[i] = byte_at(e->sent + i);
		n = stream_send(s, &iov, 1);
		if (n > 0)
			e->sent += (uint64_t)n;
		if (e->sent == ECHO_BYTES)
			assert_int_equal(stream_want(s, STREAM_IN), 0);
	}
	n = get(s, buf, sizeof(buf));
	for (ssize_t i = 0; i < n; i++)
		if (buf[i] != byte_at(e->received++))
			fail_msg("a byte changed");
	if (e->received == ECHO_BYTES)
		loop_set_stop(e->set);
}

static void bytes_come_back_from_an_echo(void **state)
{
	struct echo *e = calloc(1, sizeof(*e));
	int fds[2], small = 4096;

	socket_pair(fds);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	e->set = test_set(1, LOOP_DISK_AUTO);
	e->server.ready = echo_server_ready;
	e->client.ready = echo_client_ready;
	assert_int_equal(stream_open(&e->server, loop_set_at(e->set, 0), fds[0], STREAM_IN), 0);
	assert_int_equal(
		stream_open(&e->client, loop_set_at(e->set, 0), fds[1], STREAM_IN | STREAM_OUT), 0);
	assert_int_equal(loop_set_run(e->set), 0);
	assert_int_equal(e->received, ECHO_BYTES);
	stream_close(&e->client);
	stream_close(&e->server);
	stream_close(&e->server); /* twice is fine */
	loop_set_destroy(e->set);
	free(e);
}

static void tcp_options_are_set(void **state)
{
	struct loop_set *set = test_set(1, LOOP_DISK_AUTO);
	struct stream s = {.ready = NULL};
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 0;
	socklen_t len = sizeof(on);

	assert_int_equal(stream_open(&s, loop_set_at(set, 0), fd, 0), 0);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &len), 0);
	assert_int_equal(on, 1);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, &len), 0);
	assert_int_equal(on, 1);
	stream_close(&s);
	loop_set_destroy(set);
}

static void an_error_leaves_the_fd_to_the_caller(void **state)
{
	struct loop_set *set = test_set(1, LOOP_DISK_AUTO);
	struct stream s = {.ready = NULL};
	int fd = open("/dev/null", O_RDONLY);

	assert_true(stream_open(&s, loop_set_at(set, 0), fd, STREAM_IN) < 0);
	stream_close(&s);
	assert_int_equal(close(fd), 0);
	loop_set_destroy(set);
}

/* ---- Stale events ---------------------------------------------------------------------------- */

#define CROWD 64

/* Many streams are ready in one batch; whichever is called first does something to all others. */
struct crowd {
	struct loop_set *set;
	struct member {
		struct stream stream;
		struct crowd *crowd;
		bool was_called;
	} * members[CROWD];
	int far[CROWD];
	int spare[2];
	void (*act)(struct crowd *c, struct member *first);
	unsigned calls;
	struct loop_timer end;
};

static void crowd_end(struct loop_timer *timer)
{
	loop_set_stop(container_of(timer, struct crowd, end)->set);
}

static void member_ready(struct stream *s, unsigned events)
{
	struct member *m = container_of(s, struct member, stream);
	struct crowd *c = m->crowd;
	char buf[8];

	assert_false(m->was_called);
	m->was_called = true;
	get(s, buf, sizeof(buf));
	if (c->calls++ == 0)
		c->act(c, m);
}

static void crowd_start(void *arg)
{
	struct crowd *c = arg;

	for (unsigned i = 0; i < CROWD; i++)
		put(c->far[i], "x"); /* all are ready when the loop looks next */
	loop_timer_init(&c->end, loop_self(), crowd_end);
	loop_timer_start(&c->end, 20 * NS_PER_MS);
}

static void member_open(struct crowd *c, unsigned i, int fd)
{
	c->members[i] = calloc(1, sizeof(struct member));
	c->members[i]->crowd = c;
	c->members[i]->stream.ready = member_ready;
	assert_int_equal(stream_open(&c->members[i]->stream, loop_set_at(c->set, 0), fd, STREAM_IN),
			 0);
}

static void crowd_run(struct crowd *c, void (*act)(struct crowd *, struct member *))
{
	c->set = test_set(1, LOOP_DISK_AUTO);
	c->act = act;
	socket_pair(c->spare);
	for (unsigned i = 0; i < CROWD; i++) {
		int fds[2];

		socket_pair(fds);
		c->far[i] = fds[1];
		member_open(c, i, fds[0]);
	}
	test_run(c->set, crowd_start, c);
	for (unsigned i = 0; i < CROWD; i++) {
		if (c->members[i] != NULL)
			stream_close(&c->members[i]->stream);
		free(c->members[i]);
		close(c->far[i]);
	}
	close(c->spare[0]);
	close(c->spare[1]);
	loop_set_destroy(c->set);
}

static void free_all(struct crowd *c, struct member *first)
{
	for (unsigned i = 0; i < CROWD; i++) {
		stream_close(&c->members[i]->stream);
		free(c->members[i]);
		c->members[i] = NULL;
	}
}

static void a_freed_stream_is_never_called(void **state)
{
	struct crowd c = {.calls = 0};

	crowd_run(&c, free_all);
	assert_int_equal(c.calls, 1);
}

/* The same memory and the same fd number for a new stream that has nothing to read. */
static void reopen_all(struct crowd *c, struct member *first)
{
	for (unsigned i = 0; i < CROWD; i++) {
		struct member *m = c->members[i];
		int fd = m->stream.fd;

		if (m == first)
			continue;
		stream_close(&m->stream);
		assert_int_equal(dup2(c->spare[0], fd), fd);
		assert_int_equal(stream_open(&m->stream, loop_self(), fd, STREAM_IN), 0);
	}
}

static void a_new_stream_gets_no_event_of_an_old_one(void **state)
{
	struct crowd c = {.calls = 0};

	crowd_run(&c, reopen_all);
	assert_int_equal(c.calls, 1);
}

static void silence_all(struct crowd *c, struct member *first)
{
	for (unsigned i = 0; i < CROWD; i++)
		assert_int_equal(stream_want(&c->members[i]->stream, 0), 0);
}

static void what_is_no_longer_wanted_is_not_reported(void **state)
{
	struct crowd c = {.calls = 0};

	crowd_run(&c, silence_all);
	assert_int_equal(c.calls, 1);
}

static void touch_nothing(struct crowd *c, struct member *first)
{
}

static void all_that_are_ready_are_called(void **state)
{
	struct crowd c = {.calls = 0};

	crowd_run(&c, touch_nothing);
	assert_int_equal(c.calls, CROWD);
}

/* ---- Level-triggered, hang-up, release --------------------------------------------------------
 */

struct lazy {
	struct loop_set *set;
	struct stream stream;
	unsigned calls, events;
	int far;
	char text[16];
	size_t len;
};

static void lazy_ready(struct stream *s, unsigned events)
{
	struct lazy *l = container_of(s, struct lazy, stream);
	ssize_t n;

	if (++l->calls < 3)
		return; /* reads nothing: it is called again */
	n = get(s, l->text + l->len, 1);
	assert_int_equal(n, 1);
	l->len++;
	if (l->len == 3)
		loop_set_stop(l->set);
}

static void lazy_open(struct lazy *l, void (*ready)(struct stream *, unsigned), unsigned wanted)
{
	int fds[2];

	socket_pair(fds);
	l->far = fds[1];
	l->set = test_set(2, LOOP_DISK_AUTO);
	l->stream.ready = ready;
	assert_int_equal(stream_open(&l->stream, loop_set_at(l->set, 0), fds[0], wanted), 0);
}

static void lazy_close(struct lazy *l)
{
	stream_close(&l->stream);
	if (l->far >= 0)
		close(l->far);
	loop_set_destroy(l->set);
}

static void ready_is_called_while_there_is_something(void **state)
{
	struct lazy l = {.calls = 0};

	lazy_open(&l, lazy_ready, STREAM_IN);
	put(l.far, "abc");
	assert_int_equal(loop_set_run(l.set), 0);
	assert_int_equal(l.calls, 5);
	assert_string_equal(l.text, "abc");
	lazy_close(&l);
}

static void hup_ready(struct stream *s, unsigned events)
{
	struct lazy *l = container_of(s, struct lazy, stream);

	l->events = events;
	stream_close(s);
	loop_set_stop(l->set);
}

static void a_hang_up_is_reported_unasked(void **state)
{
	struct lazy l = {.calls = 0};

	lazy_open(&l, hup_ready, 0);
	put(l.far, "abc");
	close(l.far);
	l.far = -1;
	assert_int_equal(loop_set_run(l.set), 0);
	assert_int_equal(l.events, STREAM_HUP);
	lazy_close(&l);
}

static void sending_to_a_closed_peer_is_an_error(void **state)
{
	struct lazy l = {.calls = 0};
	struct iovec iov = {"x", 1};

	lazy_open(&l, hup_ready, 0);
	close(l.far);
	l.far = -1;
	assert_int_equal(stream_send(&l.stream, &iov, 1), -EPIPE);
	lazy_close(&l);
}

/* From loop 0 to loop 1, with bytes that nobody has read. */
struct move {
	struct lazy l;
	struct loop_msg msg;
	int fd;
};

static void moved_ready(struct stream *s, unsigned events)
{
	struct lazy *l = container_of(s, struct lazy, stream);

	CHECK(loop_index(loop_self()) == 1);
	CHECK(get(s, l->text, sizeof(l->text)) == 5);
	stream_close(s);
	loop_set_stop(l->set);
}

static void moved_in(struct loop_msg *msg)
{
	struct move *m = container_of(msg, struct move, msg);

	m->l.stream.ready = moved_ready;
	CHECK(stream_open(&m->l.stream, loop_self(), m->fd, STREAM_IN) == 0);
}

static void moving_ready(struct stream *s, unsigned events)
{
	struct move *m = container_of(s, struct move, l.stream);

	assert_int_equal(loop_index(loop_self()), 0);
	m->fd = stream_release(s);
	assert_int_equal(s->fd, -1);
	loop_post(loop_set_at(m->l.set, 1), &m->msg);
}

static void a_stream_can_move_to_another_loop(void **state)
{
	struct move m = {.msg.run = moved_in};

	lazy_open(&m.l, moving_ready, STREAM_IN);
	put(m.l.far, "hello");
	assert_int_equal(loop_set_run(m.l.set), 0);
	assert_string_equal(m.l.text, "hello");
	lazy_close(&m.l);
}

static void a_stream_knows_its_local_address(void **state)
{
	struct hall h = {.wanted = 1};
	struct stream s = {.ready = NULL};
	union net_addr a;
	char text[NET_ADDR_TEXT];

	hall_open(&h, "127.0.0.1:0");
	assert_int_equal(stream_open(&s, loop_set_at(h.set, 0),
				     dial("127.0.0.1", net_addr_port(listener_addr(h.listener))),
				     0),
			 0);
	assert_int_equal(stream_local_addr(&s, &a), 0);
	assert_memory_equal(net_addr_text(&a, text), "127.0.0.1:", 10);
	stream_close(&s);
	hall_close(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_are_read_and_shown),
		cmocka_unit_test(facts_about_addresses),
		cmocka_unit_test(connections_are_accepted),
		cmocka_unit_test(a_listener_may_close_itself),
		cmocka_unit_test(no_host_means_both_families),
		cmocka_unit_test(an_ipv6_address_leaves_ipv4_alone),
		cmocka_unit_test(a_taken_address_is_diagnosed),
		cmocka_unit_test(out_of_files_pauses_and_recovers),
		cmocka_unit_test(bytes_come_back_from_an_echo),
		cmocka_unit_test(tcp_options_are_set),
		cmocka_unit_test(an_error_leaves_the_fd_to_the_caller),
		cmocka_unit_test(a_freed_stream_is_never_called),
		cmocka_unit_test(a_new_stream_gets_no_event_of_an_old_one),
		cmocka_unit_test(what_is_no_longer_wanted_is_not_reported),
		cmocka_unit_test(all_that_are_ready_are_called),
		cmocka_unit_test(ready_is_called_while_there_is_something),
		cmocka_unit_test(a_hang_up_is_reported_unasked),
		cmocka_unit_test(sending_to_a_closed_peer_is_an_error),
		cmocka_unit_test(a_stream_can_move_to_another_loop),
		cmocka_unit_test(a_stream_knows_its_local_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
