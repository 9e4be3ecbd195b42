/*
 * Sessions: the command window, PDUs that wait for their turn, and the life of a session from its
 * arrival on its loop to its end (see the states in impl.h). Apart from conn.c because a session
 * is not its connections.
 *
 *   directory_admit -> session_arrived -> (login) -> directory_claim -> session_claimed
 *     -> nexus_open -> nexus_opened -> (commands) -> session_end -> nexus_close -> nexus_closed
 *     -> directory_gone -> freed
 *
 * session_end() may come in every state: what is under way then answers once more and finds
 * `ending` set.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

/* ---- The numbering of commands (RFC 7143 4.2.2.1) ---- */

enum cmdsn_verdict cmdsn_judge(uint32_t exp_cmd_sn, uint32_t max_cmd_sn, uint32_t cmd_sn)
{
	if (cmd_sn == exp_cmd_sn && !sn_before(max_cmd_sn, cmd_sn))
		return CMDSN_NOW;
	if (sn_before(cmd_sn, exp_cmd_sn) || sn_before(max_cmd_sn, cmd_sn))
		return CMDSN_IGNORE;
	return CMDSN_HOLD;
}

uint32_t session_window(struct iscsi_session *s)
{
	const unsigned used = s->ntasks - s->nimmediate;
	const uint32_t granted = s->window > used ? s->window - used : 0;
	const uint32_t max = s->exp_cmd_sn - 1 + granted;

	if (!s->draining && sn_before(s->max_cmd_sn, max))
		s->max_cmd_sn = max;
	return s->max_cmd_sn;
}

uint32_t session_next_ttt(struct iscsi_session *s)
{
	if (++s->next_ttt == ISCSI_RESERVED_TAG)
		s->next_ttt = 1;
	return s->next_ttt;
}

/* Behind which one of those that are held it belongs; that may have its number. */
static struct list *held_place(struct iscsi_session *s, uint32_t cmd_sn)
{
	struct list *at = s->held.prev;

	while (at != &s->held && sn_before(cmd_sn, list_entry(at, struct held_pdu, link)->cmd_sn))
		at = at->prev;
	return at;
}

static struct held_pdu *held_at(const struct iscsi_session *s, struct list *at, uint32_t cmd_sn)
{
	struct held_pdu *h = list_entry(at, struct held_pdu, link);

	return at != &s->held && h->cmd_sn == cmd_sn ? h : NULL;
}

void session_tell_window(struct iscsi_conn *c)
{
	struct iscsi_session *s = c->session;

	if (!sn_before(s->max_cmd_sn, s->exp_cmd_sn) || sn_before(session_window(s), s->exp_cmd_sn))
		return;
	if (conn_nop_in(c, ISCSI_RESERVED_TAG) != 0)
		conn_doom(c, "out of memory");
}

static size_t held_size(const struct held_pdu *h)
{
	return sizeof(*h) + ISCSI_BHS_LEN + h->ahs_len + (size_t)h->data_len;
}

static int held_add(struct iscsi_session *s, struct list *at, const struct held_pdu *like,
		    struct held_pdu **out)
{
	const size_t size = held_size(like);
	struct held_pdu *h;

	if (s->held_bytes + size > HELD_BYTES_MAX || loop_is_short(s->home->loop, LOOP_CONN))
		return -ENOBUFS;
	h = calloc(1, size);
	if (h == NULL)
		return -ENOMEM;
	loop_charge(s->home->loop, LOOP_CONN, size);
	*h = *like;
	s->held_bytes += size;
	list_insert_after(at, &h->link);
	*out = h;
	return 0;
}

int session_fill_hole(struct iscsi_session *s, uint32_t cmd_sn, uint32_t itt)
{
	struct list *at = held_place(s, cmd_sn);
	struct held_pdu *h = held_at(s, at, cmd_sn);
	const struct iscsi_bhs *bhs;

	if (h == NULL)
		return held_add(s, at, &(struct held_pdu){.cmd_sn = cmd_sn, .ignored = true}, &h);
	bhs = (const void *)h->bytes;
	if (!h->ignored &&
	    ((bhs->opcode & ISCSI_OPCODE_MASK) != ISCSI_SCSI_COMMAND || be32_get(bhs->itt) != itt))
		return -ENOENT;
	h->ignored = true;
	return 0;
}

int session_hold(struct iscsi_session *s, struct iscsi_conn *c, const struct pdu_in *pdu)
{
	const uint32_t cmd_sn = be32_get(pdu->bhs->sn);
	const struct held_pdu like = {
		.cmd_sn = cmd_sn,
		.ahs_len = pdu->ahs_len,
		.data_len = pdu->data_len,
		.conn = c,
	};
	struct list *at = held_place(s, cmd_sn);
	struct held_pdu *h;
	int err;

	if (held_at(s, at, cmd_sn) != NULL)
		return 0; /* once is enough */
	if (pdu->data_len != 0 && pdu->data == NULL)
		return -ENOBUFS;
	err = held_add(s, at, &like, &h);
	if (err != 0)
		return err;
	memcpy(h->bytes, pdu->bhs, ISCSI_BHS_LEN);
	if (pdu->ahs_len != 0)
		memcpy(h->bytes + ISCSI_BHS_LEN, pdu->ahs, pdu->ahs_len);
	if (pdu->data_len != 0)
		memcpy(h->bytes + ISCSI_BHS_LEN + pdu->ahs_len, pdu->data, pdu->data_len);
	return 0;
}

static void held_remove(struct iscsi_session *s, struct held_pdu *h)
{
	list_remove(&h->link);
	s->held_bytes -= held_size(h);
	loop_uncharge(s->home->loop, LOOP_CONN, held_size(h));
}

struct held_pdu *session_held_next(struct iscsi_session *s)
{
	struct held_pdu *h;

	if (list_empty(&s->held))
		return NULL;
	h = list_entry(s->held.next, struct held_pdu, link);
	if (h->cmd_sn != s->exp_cmd_sn)
		return NULL;
	held_remove(s, h);
	return h;
}

static void drop_held(struct iscsi_session *s)
{
	while (!list_empty(&s->held)) {
		struct held_pdu *h = list_entry(s->held.next, struct held_pdu, link);

		held_remove(s, h);
		free(h);
	}
}

/* ---- Life ---- */

struct iscsi_session *session_create(struct iscsi *i)
{
	struct iscsi_session *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->server = i;
	s->state = SESSION_LOGIN;
	s->window = WINDOW_MIN;
	list_init(&s->conns);
	list_init(&s->held);
	list_init(&s->tmfs);
	list_init(&s->dir.all);
	list_init(&s->dir.same);
	queue_init(&s->read_wait);
	return s;
}

void session_free(struct iscsi_session *s)
{
	if (s == NULL)
		return;
	CHECK(s->ntasks == 0);
	list_for_each_safe (pos, &s->conns) {
		list_remove(pos);
		conn_free(list_entry(pos, struct iscsi_conn, link));
	}
	drop_held(s);
	text_fini(&s->text);
	free(s);
}

/* MaxConnections is 1. */
static struct iscsi_conn *leading_conn(const struct iscsi_session *s)
{
	return list_entry(s->conns.next, struct iscsi_conn, link);
}

static void log_session(const struct iscsi_session *s, const char *event, const char *why)
{
	char addr[NET_ADDR_TEXT];

	log_event(s->server->log, LOG_INFO, event, F_STR("initiator", s->params.initiator_name),
		  F_STR("target", s->target != NULL ? s->target->name : "(discovery)"),
		  F_STR("address", net_addr_text(&leading_conn(s)->peer, addr)),
		  F_U64("tsih", s->tsih), F_STR("why", why));
}

static void gone(struct iscsi_session *s)
{
	s->state = SESSION_GONE;
	loop_timer_stop(&s->drain_timer);
	directory_gone(s);
}

/* ---- The nexus ---- */

static void nexus_closed(struct nexus *n)
{
	struct iscsi_session *s = container_of(n, struct iscsi_session, nexus);
	struct pdu_out *farewell = s->farewell;

	s->farewell = NULL;
	if (farewell == NULL) {
		gone(s);
		return;
	}
	/* A logout: the connection still stands. conn_lose() comes when the response is sent. */
	s->state = SESSION_CLOSING;
	s->nexus_closed = true;
	tx_push(leading_conn(s), farewell);
	conn_close_when_sent(leading_conn(s), s->why);
}

static void nexus_opened(struct nexus *n, int err)
{
	struct iscsi_session *s = container_of(n, struct iscsi_session, nexus);

	if (err != 0) {
		s->nexus_closed = true;
		login_refuse(leading_conn(s), ISCSI_LOGIN_OUT_OF_RESOURCES);
		return;
	}
	s->state = SESSION_UP;
	s->was_up = true;
	window_open(s);
	log_session(s, "session-up", "login");
	login_finish(leading_conn(s));
}

static void open_nexus(struct iscsi_session *s)
{
	char isid[2 * sizeof(s->isid) + 1];

	str_hex(isid, s->isid, sizeof(s->isid));
	str_format(s->nexus.initiator, sizeof(s->nexus.initiator), "%s,i,0x%s",
		   s->params.initiator_name, isid);
	s->nexus.transport = &iscsi_transport;
	s->nexus.target = s->target->scsi;
	s->nexus.loop = s->home->loop;
	s->nexus.target_port = PORTAL_GROUP;
	s->nexus.task_management = tmf_supported(s->params.protocol_level);
	s->nexus.opened = nexus_opened;
	s->nexus.closed = nexus_closed;
	s->state = SESSION_OPENING;
	nexus_open(&s->nexus);
}

/* ---- Asynchronous messages (11.9) ---- */

static struct pdu_out *async_new(struct iscsi_conn *c, enum iscsi_async_event event,
				 uint32_t parameter2, uint32_t parameter3)
{
	struct pdu_out *p = pdu_new(c, ISCSI_ASYNC);
	struct iscsi_async *a;

	if (p == NULL)
		return NULL; /* it goes without */
	a = (struct iscsi_async *)(void *)p->head;
	a->itt = be32_of(ISCSI_RESERVED_TAG);
	a->event = low_u8(event);
	a->parameter2 = be16_of(low_u16(parameter2));
	a->parameter3 = be16_of(low_u16(parameter3));
	p->flags = PDU_STATUS;
	return p;
}

static struct pdu_out *ask_for_logout(const struct iscsi_session *s)
{
	return async_new(leading_conn(s), ISCSI_ASYNC_LOGOUT, 0, s->server->grace_ms / 1000);
}

/* Nothing is kept of the session: what the logout response says as well. */
static struct pdu_out *say_goodbye(const struct iscsi_session *s)
{
	return async_new(leading_conn(s), ISCSI_ASYNC_DROP_SESSION, s->params.time2wait_s, 0);
}

/* The initiator is told if it is there to listen. */
static void drop(struct iscsi_session *s, const char *why)
{
	struct iscsi_conn *c = leading_conn(s);
	struct pdu_out *p = c->phase == CONN_FULL ? say_goodbye(s) : NULL;

	if (p != NULL)
		tx_last_word(c, p);
	conn_lose(c, why);
}

/* ---- What loop 0 says ---- */

static void drain_timeout(struct loop_timer *t)
{
	drop(container_of(t, struct iscsi_session, drain_timer), "shutdown");
}

void session_arrived(struct iscsi_session *s)
{
	loop_timer_init(&s->drain_timer, s->home->loop, drain_timeout);
}

void session_claimed(struct iscsi_session *s, int err)
{
	if (s->ending) {
		gone(s);
		return;
	}
	s->state = SESSION_LOGIN;
	if (err != 0) {
		login_refuse(leading_conn(s), ISCSI_LOGIN_OUT_OF_RESOURCES);
	} else if (s->target == NULL) {
		s->state = SESSION_UP;
		login_finish(leading_conn(s));
	} else {
		open_nexus(s);
	}
}

static bool is_busy(const struct iscsi_session *s)
{
	return s->ntasks != 0 || s->ntmfs != 0;
}

/*
 * While it drains, commands under way go on and new ones are ignored; functions that end commands are
 * not. An initiator that has some under way is asked to log out. Without any there is nothing to wait
 * for: it is told that this is the end, and the answer to that is a new login. A logout that is under
 * way ends by itself.
 */
static void drain(struct iscsi_session *s)
{
	struct iscsi_conn *c = leading_conn(s);
	struct pdu_out *p;

	s->draining = true;
	if ((s->state != SESSION_UP && s->state != SESSION_CLOSING) ||
	    loop_timer_start(&s->drain_timer, s->server->grace_ms * UINT64_C(1000000)) != 0) {
		conn_lose(c, "shutdown");
	} else if (c->phase != CONN_FULL || !is_busy(s)) {
		session_check_drained(s);
	} else {
		s->asked = true;
		p = ask_for_logout(s);
		if (p != NULL)
			tx_push_control(c, p);
	}
}

void session_kicked(struct iscsi_session *s, enum kick kick)
{
	if (s->ending || leading_conn(s)->closed)
		return;
	if (kick == KICK_DRAIN)
		drain(s);
	else if (kick == KICK_RESET)
		drop(s, "the target was reset");
	else
		conn_lose(leading_conn(s), "replaced by a newer login");
}

/* The message goes behind all answers. */
void session_check_drained(struct iscsi_session *s)
{
	struct iscsi_conn *c = leading_conn(s);
	struct pdu_out *p;

	if (!s->draining || is_busy(s) || s->state != SESSION_UP || s->ending ||
	    c->phase != CONN_FULL)
		return;
	p = say_goodbye(s);
	if (p != NULL)
		tx_push(c, p);
	if (s->asked)
		c->linger = LINGER_WANTED; /* it was busy, and may still be sending */
	conn_close_when_sent(c, "shutdown");
}

/* ---- The end ---- */

void session_end(struct iscsi_session *s, const char *why)
{
	if (s->ending)
		return;
	s->ending = true;
	if (s->why == NULL)
		s->why = why;
	if (s->was_up)
		log_session(s, "session-down", s->why);
	window_close(s);
	tmf_abandon(s);
	itask_abandon(s);
	drop_held(s);
	switch (s->state) {
	case SESSION_LOGIN:
		gone(s);
		break;
	case SESSION_CLAIMING: /* the answer is on its way */
		break;
	case SESSION_OPENING:
	case SESSION_UP:
		s->state = SESSION_CLOSING;
		if (s->target != NULL && !s->nexus_closed) {
			nexus_close(&s->nexus);
			directory_left(s);
		} else {
			gone(s);
		}
		break;
	case SESSION_CLOSING: /* a logout: nexus_closed() is still to come, unless it came */
		pdu_free(s->home, s->farewell);
		s->farewell = NULL;
		if (s->nexus_closed)
			gone(s);
		else
			directory_left(s);
		break;
	case SESSION_GONE:
		break;
	}
}

void session_logout(struct iscsi_session *s, struct pdu_out *response)
{
	struct iscsi_conn *c = leading_conn(s);

	s->why = "logout";
	if (s->target == NULL) {
		tx_push(c, response);
		conn_close_when_sent(c, s->why);
		return;
	}
	c->phase = CONN_LOGOUT;
	(void)loop_timer_start(&c->timer, CLOSE_TIMEOUT_NS); /* it runs, so it only moves */
	s->farewell = response;
	s->state = SESSION_CLOSING;
	tmf_abandon(s);
	itask_abandon(s);
	drop_held(s);
	nexus_close(&s->nexus);
}
