/*
 * Connections: their life from accept to close, their timers, and their move to another loop. What
 * is read is worked off in rx.c, what is sent leaves by tx.c.
 *
 *   conn_create (loop 0) -> [conn_depart -> conn_arrive] -> conn_lose -> conn_free
 *
 * conn_lose() ends what the connection carries, in an order in which nothing that is freed is
 * still named: socket, timers, receive buffers, PDUs and the segments they show, the session.
 */
#include "iscsi/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- Events ---- */

static bool reads_now(const struct iscsi_conn *c)
{
	return !c->paused && c->phase != CONN_WAIT && c->phase != CONN_LOGOUT;
}

static void read_away(struct iscsi_conn *c)
{
	struct iovec iov = {.iov_base = c->home->rx_buf, .iov_len = RX_CHUNK};

	for (size_t bytes = 0; bytes < RX_TURN_BYTES;) {
		ssize_t n = stream_recv(&c->stream, &iov, 1);

		if (n == -EAGAIN)
			return;
		if (n <= 0) {
			conn_lose(c, c->close_why);
			return;
		}
		bytes += (size_t)n;
	}
}

void conn_update_events(struct iscsi_conn *c)
{
	unsigned wanted = 0;

	if (c->closed || c->leaves)
		return;
	if (c->paused && tx_has_room(c))
		c->paused = false;
	if (reads_now(c) || c->linger == LINGERING)
		wanted |= STREAM_IN;
	if (c->tx.blocked)
		wanted |= STREAM_OUT;
	if (wanted != c->wanted && stream_want(&c->stream, wanted) != 0)
		conn_doom(c, "out of memory");
	c->wanted = wanted;
}

static void ready(struct stream *stream, unsigned events)
{
	struct iscsi_conn *c = container_of(stream, struct iscsi_conn, stream);

	if ((events & STREAM_OUT) != 0) {
		c->tx.blocked = false;
		tx_flush(c);
	}
	if (!c->closed && c->linger == LINGERING)
		read_away(c);
	if (!c->closed && reads_now(c) && (events & (STREAM_IN | STREAM_HUP)) != 0)
		rx_ready(c);
	if (!c->closed && (events & STREAM_HUP) != 0)
		conn_lose(c, "closed by the initiator");
	conn_update_events(c);
}

void conn_resume(struct iscsi_conn *c)
{
	if (c->closed || !reads_now(c))
		return;
	rx_ready(c);
	conn_update_events(c);
}

/* ---- Timers ---- */

static bool stands_still(const struct iscsi_conn *c, uint64_t now)
{
	struct loop *loop = c->home->loop;
	const bool wanted = loop_is_stuck(loop) || loop_is_short(loop, LOOP_EARLY);
	const uint64_t most_ns = wanted ? STALL_SHORT_NS : STALL_TIMEOUT_NS;

	if (c->nwaiting != 0 && now - c->data_out_ns > most_ns)
		return true;
	return c->tx.nwire != 0 && now - c->tx.progress_ns > most_ns;
}

/* Who reads slowly gets the ping late, behind what was on the wire before. */
static bool is_silent(const struct iscsi_conn *c, uint64_t now)
{
	return now - max_u64(c->ping_ns, c->tx.progress_ns) >= PING_TIMEOUT_NS;
}

int conn_nop_in(struct iscsi_conn *c, uint32_t ttt)
{
	struct pdu_out *p = pdu_new(c, ISCSI_NOP_IN);
	struct iscsi_bhs *bhs;

	if (p == NULL)
		return -ENOMEM;
	bhs = (struct iscsi_bhs *)(void *)p->head;
	bhs->itt = be32_of(ISCSI_RESERVED_TAG);
	bhs->ttt = be32_of(ttt);
	p->flags = PDU_SHOWS_STATSN;
	tx_push_control(c, p);
	return 0;
}

/* A ping with a valid tag: some initiators do not answer others, and none must be asked twice. */
static void ping(struct iscsi_conn *c, uint64_t now)
{
	const uint32_t ttt = session_next_ttt(c->session);

	if (conn_nop_in(c, ttt) != 0)
		return; /* the next tick may have more luck */
	c->ping_ttt = ttt;
	c->ping_ns = now;
}

static void tick(struct loop_timer *t)
{
	struct iscsi_conn *c = container_of(t, struct iscsi_conn, timer);
	uint64_t now = loop_now_ns(c->home->loop);
	bool asked = c->ping_ttt != ISCSI_RESERVED_TAG;

	if (asked && c->heard_ns > c->ping_ns) {
		c->ping_ttt = ISCSI_RESERVED_TAG; /* busy with something else, but there */
		asked = false;
	}
	if (c->phase != CONN_FULL) {
		conn_lose(c, c->phase == CONN_LOGOUT ? c->close_why : "login took too long");
	} else if (stands_still(c, now)) {
		conn_lose(c, "no progress");
	} else if (asked && is_silent(c, now)) {
		conn_lose(c, "no answer to a ping");
	} else {
		if (!asked && now - c->heard_ns >= IDLE_PING_NS)
			ping(c, now);
		if (loop_timer_start(t, TICK_NS) != 0)
			conn_doom(c, "out of memory");
	}
}

/* ---- Life ---- */

int conn_create(struct iscsi *i, int fd, const union net_addr *peer)
{
	struct iscsi_conn *c = calloc(1, sizeof(*c));
	int err;

	if (c == NULL)
		return -ENOMEM;
	c->server = i;
	c->home = &i->loops[0];
	c->peer = *peer;
	c->max_data = KEYS_DEFAULT_DSL;
	c->ping_ttt = ISCSI_RESERVED_TAG;
	c->wanted = STREAM_IN;
	c->began_ns = c->heard_ns = loop_now_ns(c->home->loop);
	list_init(&c->link);
	tx_init(&c->tx);
	loop_timer_init(&c->timer, c->home->loop, tick);
	c->stream.ready = ready;
	err = loop_timer_start(&c->timer, LOGIN_TIMEOUT_NS);
	if (err == 0)
		err = stream_open(&c->stream, c->home->loop, fd, STREAM_IN);
	if (err != 0) {
		loop_timer_stop(&c->timer);
		free(c);
		return err;
	}
	list_push_back(&i->fresh, &c->link);
	i->nconns++;
	i->nlogins++;
	return 0;
}

void conn_free(struct iscsi_conn *c)
{
	if (c->tx.flush_queued) {
		c->free_later = true;
		return;
	}
	free(c->packed);
	free(c);
}

static void run_free(struct loop_msg *msg)
{
	struct iscsi_conn *c = container_of(msg, struct iscsi_conn, free_msg);
	struct iscsi *i = c->server;

	i->nconns--;
	i->nlogins--;
	conn_free(c);
	iscsi_check_stopped(i);
}

void conn_lose(struct iscsi_conn *c, const char *why)
{
	if (c->closed)
		return;
	c->closed = true;
	c->leaves = false;
	stream_close(&c->stream);
	loop_timer_stop(&c->timer);
	rx_fini(c);
	tx_purge(c);
	login_free(c->login);
	c->login = NULL;
	if (c->session != NULL) {
		session_end(c->session, why != NULL ? why : "closed");
		return;
	}
	list_remove(&c->link);
	c->free_msg.run = run_free;
	loop_defer(c->home->loop, &c->free_msg);
}

void conn_close_when_sent(struct iscsi_conn *c, const char *why)
{
	if (c->closed)
		return;
	c->phase = CONN_LOGOUT;
	c->close_why = why;
	c->tx.close_when_sent = true;
	(void)loop_timer_start(&c->timer, CLOSE_TIMEOUT_NS); /* it runs, so it only moves */
	tx_schedule(c);
}

void conn_linger(struct iscsi_conn *c)
{
	if (c->linger == LINGERING)
		return;
	c->linger = LINGERING;
	stream_shutdown(&c->stream);
	(void)loop_timer_start(&c->timer, LINGER_NS); /* it runs, so it only moves */
	conn_update_events(c);
}

void conn_doom(struct iscsi_conn *c, const char *why)
{
	if (c->closed || c->doom != NULL)
		return;
	c->doom = why;
	tx_schedule(c);
}

/* ---- The move ---- */

int conn_depart(struct iscsi_conn *c)
{
	int err = rx_pack(c, &c->packed, &c->packed_len);

	if (err != 0)
		return err;
	loop_timer_stop(&c->timer);
	c->moving_fd = stream_release(&c->stream);
	return 0;
}

int conn_arrive(struct iscsi_conn *c, struct iscsi_loop *home)
{
	uint64_t spent = 0;
	int err;

	c->home = home;
	c->heard_ns = loop_now_ns(home->loop);
	loop_timer_init(&c->timer, home->loop, tick);
	if (loop_now_ns(home->loop) > c->began_ns)
		spent = min_u64(loop_now_ns(home->loop) - c->began_ns, LOGIN_TIMEOUT_NS);
	err = stream_open(&c->stream, home->loop, c->moving_fd, STREAM_IN);
	if (err != 0) {
		close(c->moving_fd);
		return err;
	}
	c->wanted = STREAM_IN;
	err = loop_timer_start(&c->timer, LOGIN_TIMEOUT_NS - spent);
	if (err == 0)
		err = rx_unpack(c, c->packed, c->packed_len);
	free(c->packed);
	c->packed = NULL;
	return err;
}
