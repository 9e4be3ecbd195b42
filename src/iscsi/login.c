/*
 * The login phase of a connection (RFC 7143 6.3, 11.12, 11.13): requests are gathered over the C
 * bit, negotiated by keys.c, and answered stage by stage.
 *
 *   CSG: SECURITY --T--> OPERATIONAL --T--> FULL FEATURE
 *           |                                  ^
 *           +-----------------T----------------+
 *
 * Where CHAP is asked for, no stage is left or skipped before chap.c says that it is done.
 *
 * The first whole request is judged on loop 0, where it arrived: it names the session, and with it
 * the loop. Its answer, and all that follows, comes from there. The last request's answer waits
 * for the directory and the nexus.
 */
#include "iscsi/impl.h"

#include <stdlib.h>
#include <unistd.h>

struct login {
	struct iscsi_params params; /* until there is a session, which has its own */
	struct iscsi_login first, request;
	unsigned nrequests;
	uint8_t stage; /* enum iscsi_stage */
	struct chap chap;
	size_t text_len;
	struct writer reply;
	uint8_t text[KEYS_TEXT_MAX];
	uint8_t reply_buf[KEYS_REPLY_MAX];
};

void login_free(struct login *l)
{
	free(l);
}

static struct login *login_create(const struct iscsi *i)
{
	struct login *l = malloc(sizeof(*l));

	if (l == NULL)
		return NULL;
	memset(l, 0, offsetof(struct login, text));
	keys_init(&l->params, i->unsolicited ? KEYS_UNSOLICITED : KEYS_R2T_FIRST);
	chap_begin(&l->chap, &i->auth);
	return l;
}

static struct iscsi_params *params_of(struct iscsi_conn *c)
{
	return c->session != NULL ? &c->session->params : &c->login->params;
}

/* ---- Responses ---- */

static void respond(struct iscsi_conn *c, uint8_t flags, enum iscsi_login_status status)
{
	const struct login *l = c->login;
	struct pdu_out *p = pdu_new(c, ISCSI_LOGIN_RESPONSE);
	struct iscsi_login_response *r;

	if (p == NULL)
		goto failed;
	r = (struct iscsi_login_response *)(void *)p->head;
	r->flags = flags;
	memcpy(r->isid, l->request.isid, sizeof(r->isid));
	r->tsih = l->request.tsih;
	r->itt = l->request.itt;
	r->status = be16_of(low_u16(status));
	/* Without a session nobody fills these in (11.13.3). */
	r->exp_cmd_sn = l->request.cmd_sn;
	r->max_cmd_sn = l->request.cmd_sn;
	p->flags = PDU_PLAIN | PDU_STATUS;
	if (status == ISCSI_LOGIN_OK &&
	    pdu_put_data(c, p, l->reply_buf, low_u32(writer_stored(&l->reply))) != 0)
		goto failed;
	if ((flags & ISCSI_FINAL) != 0 && ISCSI_LOGIN_NSG(flags) == ISCSI_FULL_FEATURE)
		r->tsih = be16_of(c->session->tsih);
	/* Not behind what answers a request that came right behind the login's last one. */
	tx_push_control(c, p);
	return;
failed:
	pdu_free(c->home, p);
	conn_doom(c, "out of memory");
}

/* Floods must not fill the log: those that are not told are counted, and the next line tells. */
static bool worth_a_line(struct iscsi_loop *l)
{
	uint64_t now = loop_now_ns(l->loop);

	if (l->refusals.since_ns == 0 || now - l->refusals.since_ns >= REFUSAL_TIME_NS) {
		l->refusals.since_ns = now;
		l->refusals.told = 0;
	}
	if (l->refusals.told < REFUSAL_LINES) {
		l->refusals.told++;
		return true;
	}
	l->refusals.untold++;
	return false;
}

static const struct {
	enum iscsi_login_status status;
	const char *why;
} refusals[] = {
	{ISCSI_LOGIN_INITIATOR_ERROR, "malformed request"},
	{ISCSI_LOGIN_AUTHENTICATION, "no common AuthMethod"},
	{ISCSI_LOGIN_NOT_FOUND, "no such target"},
	{ISCSI_LOGIN_UNSUPPORTED_VERSION, "unsupported version"},
	{ISCSI_LOGIN_TOO_MANY_CONNECTIONS, "one connection a session"},
	{ISCSI_LOGIN_MISSING_PARAMETER, "a name is missing"},
	{ISCSI_LOGIN_SESSION_TYPE, "no such session type"},
	{ISCSI_LOGIN_NO_SESSION, "no such session"},
	{ISCSI_LOGIN_INVALID_REQUEST, "not a login request"},
	{ISCSI_LOGIN_UNAVAILABLE, "not now"},
	{ISCSI_LOGIN_OUT_OF_RESOURCES, "out of resources"},
};

static const char *refusal_text(const struct login *l, enum iscsi_login_status status)
{
	if (l->chap.why != NULL)
		return l->chap.why;
	for (size_t i = 0; i < ARRAY_LEN(refusals); i++)
		if (refusals[i].status == status)
			return refusals[i].why;
	return NULL;
}

static void log_refusal(struct iscsi_conn *c, enum iscsi_login_status status)
{
	const struct iscsi_params *p = params_of(c);
	const char *user = c->login->chap.user;
	struct iscsi_loop *home = c->home;
	char addr[NET_ADDR_TEXT];
	struct log_field fields[8] = {
		F_STR("initiator", p->initiator_name),           F_STR("target", p->target_name),
		F_STR("address", net_addr_text(&c->peer, addr)), F_HEX("status", status),
		F_STR("why", refusal_text(c->login, status)),
	};
	size_t n = 5;

	if (!worth_a_line(home))
		return;
	if (user[0] != '\0')
		fields[n++] = F_STR("user", user);
	if (home->refusals.untold != 0)
		fields[n++] = F_U64("untold", home->refusals.untold);
	fields[n] = (struct log_field){.kind = LOG_END};
	log_write(c->server->log, LOG_WARN, "login-refused", fields);
	home->refusals.untold = 0;
}

void login_refuse(struct iscsi_conn *c, enum iscsi_login_status status)
{
	log_refusal(c, status);
	respond(c, 0, status);
	conn_close_when_sent(c, "login refused");
	conn_update_events(c);
}

void login_finish(struct iscsi_conn *c)
{
	const struct iscsi_params *p = &c->session->params;
	struct login *l = c->login;

	c->header_digest = p->header_digest == KEYS_DIGEST_CRC32C;
	c->data_digest = p->data_digest == KEYS_DIGEST_CRC32C;
	c->max_data = p->max_recv_dsl_target;
	c->cid = be16_get(l->first.cid);
	respond(c, low_u8(ISCSI_FINAL | l->stage << 2 | ISCSI_FULL_FEATURE), ISCSI_LOGIN_OK);
	c->phase = CONN_FULL;
	c->login = NULL;
	login_free(l);
	if (loop_timer_start(&c->timer, TICK_NS) != 0)
		conn_doom(c, "out of memory");
	conn_resume(c);
}

/* ---- Requests ---- */

static bool same_login(const struct iscsi_login *a, const struct iscsi_login *b)
{
	return memcmp(a->isid, b->isid, sizeof(a->isid)) == 0 &&
	       be16_get(a->tsih) == be16_get(b->tsih) && be32_get(a->itt) == be32_get(b->itt) &&
	       be16_get(a->cid) == be16_get(b->cid);
}

static enum iscsi_login_status check_flags(const struct login *l, uint8_t flags)
{
	unsigned csg = ISCSI_LOGIN_CSG(flags), nsg = ISCSI_LOGIN_NSG(flags);
	bool transit = (flags & ISCSI_FINAL) != 0;

	if (csg > ISCSI_OPERATIONAL || csg != l->stage)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (transit && (nsg <= csg || nsg == 2 || (flags & ISCSI_CONTINUE) != 0))
		return ISCSI_LOGIN_INITIATOR_ERROR;
	return ISCSI_LOGIN_OK;
}

static enum iscsi_login_status take_request(struct iscsi_conn *c, const struct pdu_in *pdu)
{
	const struct iscsi_login *r = (const void *)pdu->bhs;
	struct login *l = c->login;

	l->request = *r;
	if (l->nrequests++ == 0) {
		l->first = *r;
		l->stage = ISCSI_LOGIN_CSG(r->flags);
		c->stat_sn = be32_get(r->exp_stat_sn);
	}
	if (r->version_min > 0)
		return ISCSI_LOGIN_UNSUPPORTED_VERSION;
	if (!same_login(r, &l->first) || pdu->ahs_len != 0 || l->nrequests > LOGIN_REQUESTS ||
	    pdu->data_len > sizeof(l->text) - l->text_len)
		return ISCSI_LOGIN_INITIATOR_ERROR;
	if (pdu->data_len != 0)
		memcpy(l->text + l->text_len, pdu->data, pdu->data_len);
	l->text_len += pdu->data_len;
	return check_flags(l, r->flags);
}

static struct keys_ctx ctx_of(const struct login *l)
{
	return (struct keys_ctx){
		.stage = l->stage == ISCSI_SECURITY ? KEYS_SECURITY : KEYS_OPERATIONAL,
		.leading = true,
		.chap_required = l->chap.auth->nusers != 0,
	};
}

static enum iscsi_login_status negotiate(struct iscsi_conn *c)
{
	struct login *l = c->login;
	struct keys_ctx ctx = ctx_of(l);
	size_t len = l->text_len;
	enum keys_status status;

	l->text_len = 0;
	l->reply = writer_of(l->reply_buf, sizeof(l->reply_buf));
	status = keys_negotiate(params_of(c), &ctx, l->text, len, &l->reply);
	if (status != KEYS_OK)
		return (enum iscsi_login_status)status;
	return chap_take(&l->chap, params_of(c), &ctx, l->request.flags, &l->reply);
}

/* Who comes, and where to? (RFC 7143 6.3.1) */
static enum iscsi_login_status admit(struct iscsi_conn *c)
{
	const struct iscsi_params *p = &c->login->params;
	enum keys_status status = keys_check_first(p);
	struct iscsi_target *target = NULL;

	if (status != KEYS_OK)
		return (enum iscsi_login_status)status;
	if (c->server->stopping)
		return ISCSI_LOGIN_UNAVAILABLE;
	if (p->session_type == KEYS_NORMAL) {
		target = iscsi_target_find(c->server, p->target_name);
		if (target == NULL)
			return ISCSI_LOGIN_NOT_FOUND;
	}
	return directory_admit(c, target, p, &c->login->first);
}

/* The whole request is understood: answers it, or asks for what the last answer needs. */
static void answer(struct iscsi_conn *c)
{
	struct login *l = c->login;
	struct keys_ctx ctx = ctx_of(l);
	const struct iscsi_target *target = c->session->target;
	uint8_t flags = l->request.flags;

	keys_declare(params_of(c), &ctx, PORTAL_GROUP, target != NULL ? target->alias : NULL,
		     &l->reply);
	if (writer_truncated(&l->reply)) {
		login_refuse(c, ISCSI_LOGIN_OUT_OF_RESOURCES);
		return;
	}
	/* Who wants to go on before it has proven who it is, stays (RFC 7143 6.3.1). */
	if ((flags & ISCSI_FINAL) == 0 || !chap_done(&l->chap)) {
		respond(c, low_u8(l->stage << 2), ISCSI_LOGIN_OK);
		return;
	}
	if (ISCSI_LOGIN_NSG(flags) != ISCSI_FULL_FEATURE) {
		respond(c, low_u8(ISCSI_FINAL | l->stage << 2 | ISCSI_LOGIN_NSG(flags)),
			ISCSI_LOGIN_OK);
		l->stage = ISCSI_LOGIN_NSG(flags);
		return;
	}
	c->phase = CONN_WAIT;
	directory_claim(c->session);
}

static bool begin(struct iscsi_conn *c, const struct pdu_in *pdu)
{
	bool is_login = (pdu->bhs->opcode & ISCSI_OPCODE_MASK) == ISCSI_LOGIN;

	/* RFC 7143 6.3: before the login there is nobody to answer to. */
	if (c->phase == CONN_FRESH && !is_login) {
		conn_lose(c, "no login request");
		return false;
	}
	if (!is_login) {
		login_refuse(c, ISCSI_LOGIN_INVALID_REQUEST);
		return false;
	}
	if (c->login == NULL)
		c->login = login_create(c->server);
	if (c->login == NULL) {
		conn_lose(c, "out of memory");
		return false;
	}
	c->phase = CONN_LOGIN;
	return true;
}

void login_pdu(struct iscsi_conn *c, struct pdu_in *pdu)
{
	enum iscsi_login_status status;

	if (!begin(c, pdu))
		return;
	status = take_request(c, pdu);
	if (status == ISCSI_LOGIN_OK && (pdu->bhs->flags & ISCSI_CONTINUE) != 0) {
		c->login->reply = writer_of(NULL, 0);
		respond(c, low_u8(c->login->stage << 2), ISCSI_LOGIN_OK);
		return;
	}
	if (status == ISCSI_LOGIN_OK)
		status = negotiate(c);
	if (status == ISCSI_LOGIN_OK && c->session == NULL)
		status = admit(c);
	if (status != ISCSI_LOGIN_OK) {
		login_refuse(c, status);
	} else if (!c->leaves) {
		answer(c);
	} else {
		/* The answer comes from the session's loop; login_leave() comes with the flush. */
		c->phase = CONN_WAIT;
		tx_schedule(c);
	}
}

/* ---- To another loop ---- */

static void go_on(struct iscsi_conn *c)
{
	session_arrived(c->session);
	c->phase = CONN_LOGIN;
	answer(c);
	conn_resume(c);
}

static void run_arrive(struct loop_msg *msg)
{
	struct iscsi_session *s = container_of(msg, struct iscsi_session, down);
	struct iscsi_conn *c = list_entry(s->conns.next, struct iscsi_conn, link);
	const char *why = NULL;

	if (conn_arrive(c, s->home) != 0)
		why = "out of memory";
	session_arrived(s);
	if (why != NULL)
		conn_lose(c, why);
	else
		go_on(c);
}

void login_leave(struct iscsi_conn *c)
{
	struct iscsi_session *s = c->session;

	c->leaves = false;
	if (s->home == c->home) {
		directory_departed(s);
		go_on(c);
	} else if (c->tx.nqueued + c->tx.nwire != 0) {
		conn_lose(c, "answers are not read");
	} else if (conn_depart(c) != 0) {
		conn_lose(c, "out of memory");
	} else {
		s->down.run = run_arrive;
		loop_post(s->home->loop, &s->down);
		directory_departed(s);
	}
}
