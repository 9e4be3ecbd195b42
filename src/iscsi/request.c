/*
 * Requests of the full feature phase: a table of opcodes, the numbering that decides when each has
 * its turn, and the requests that need no file of their own. Apart from task.c because here PDUs
 * are judged, and there commands are carried out.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

enum request_flags {
	NUMBERED = 1,     /* takes a CmdSN unless it is immediate */
	IN_DISCOVERY = 2, /* also in a discovery session (RFC 7143 4.3) */
	WHILE_DRAINING = 4,
};

struct request_row {
	void (*run)(struct iscsi_conn *c, struct pdu_in *pdu);
	unsigned flags;
};

/* ---- SCSI Command (11.3) ---- */

#define NO_REJECT ((enum iscsi_reject_reason)0)

static const enum scsi_attr attrs[] = {
	[ISCSI_ATTR_UNTAGGED] = SCSI_UNTAGGED, [ISCSI_ATTR_SIMPLE] = SCSI_SIMPLE,
	[ISCSI_ATTR_ORDERED] = SCSI_ORDERED,   [ISCSI_ATTR_HEAD_OF_QUEUE] = SCSI_HEAD_OF_QUEUE,
	[ISCSI_ATTR_ACA] = SCSI_ACA,
};

static bool is_immediate(const struct pdu_in *pdu)
{
	return (pdu->bhs->opcode & ISCSI_IMMEDIATE) != 0;
}

static enum iscsi_reject_reason judge_tag(struct iscsi_session *s, const struct pdu_in *pdu)
{
	uint32_t itt = be32_get(pdu->bhs->itt);

	if (itt == ISCSI_RESERVED_TAG)
		return ISCSI_REJECT_INVALID_FIELD;
	if (itask_find(s, itt) != NULL)
		return ISCSI_REJECT_TASK_IN_PROGRESS;
	/* No window keeps these back. */
	if (is_immediate(pdu) &&
	    (s->nimmediate >= IMMEDIATE_MAX || loop_is_short(s->home->loop, LOOP_EARLY)))
		return ISCSI_REJECT_IMMEDIATE;
	return NO_REJECT;
}

/* Unsolicited data is announced by F = 0, and allowed where that was agreed on. */
static enum iscsi_reject_reason judge_flags(const struct iscsi_session *s, const struct pdu_in *pdu)
{
	uint8_t flags = pdu->bhs->flags;
	bool writes = (flags & ISCSI_COMMAND_WRITE) != 0;

	if ((flags & ISCSI_COMMAND_ATTR) >= ARRAY_LEN(attrs))
		return ISCSI_REJECT_INVALID_FIELD;
	if ((flags & ISCSI_FINAL) == 0 && (!writes || s->params.initial_r2t))
		return ISCSI_REJECT_PROTOCOL_ERROR;
	if (pdu->data_len != 0 && !writes)
		return ISCSI_REJECT_PROTOCOL_ERROR;
	return NO_REJECT;
}

static enum iscsi_reject_reason judge_ahs(const struct pdu_in *pdu, struct ahs_fields *ahs)
{
	if (pdu_parse_ahs(pdu->ahs, pdu->ahs_len, ahs) != 0)
		return ISCSI_REJECT_INVALID_FIELD;
	if (ahs->cdb_len > SCSI_CDB_MAX - sizeof(((struct iscsi_scsi_command *)0)->cdb))
		return ISCSI_REJECT_INVALID_FIELD;
	return NO_REJECT;
}

static enum iscsi_reject_reason judge_command(struct iscsi_session *s, const struct pdu_in *pdu,
					      struct ahs_fields *ahs)
{
	enum iscsi_reject_reason why = judge_tag(s, pdu);

	if (why == NO_REJECT)
		why = judge_flags(s, pdu);
	if (why == NO_REJECT)
		why = judge_ahs(pdu, ahs);
	return why;
}

static void fill_task(struct iscsi_task *t, const struct iscsi_scsi_command *r,
		      const struct ahs_fields *ahs)
{
	struct scsi_task *scsi = &t->scsi;
	uint32_t expected = be32_get(r->expected_len);

	scsi->nexus = &t->session->nexus;
	memcpy(scsi->cdb, r->cdb, sizeof(r->cdb));
	if (ahs->cdb_len != 0)
		memcpy(scsi->cdb + sizeof(r->cdb), ahs->cdb, ahs->cdb_len);
	scsi->cdb_len = low_u8(sizeof(r->cdb) + ahs->cdb_len);
	memcpy(scsi->lun, r->lun, sizeof(scsi->lun));
	scsi->attr = attrs[r->flags & ISCSI_COMMAND_ATTR];
	scsi->tag = t->itt;
	scsi->reads = (r->flags & ISCSI_COMMAND_READ) != 0;
	scsi->writes = (r->flags & ISCSI_COMMAND_WRITE) != 0;
	scsi->no_lend = t->conn->data_digest;
	if (scsi->writes)
		scsi->expected_out = expected;
	if (scsi->reads)
		scsi->expected_in = scsi->writes ? ahs->bidi_len : expected;
}

/* What comes before the first R2T. */
static void set_unsolicited(struct iscsi_task *t, const struct pdu_in *pdu)
{
	t->early_max = low_u32(min_u64(t->session->params.first_burst, t->scsi.expected_out));
	t->unsolicited = (pdu->bhs->flags & ISCSI_FINAL) == 0;
	data_count_waiting(t);
}

/* What a command takes without being asked to: see data_early_buf(). */
static uint32_t unasked_bytes(const struct iscsi_task *t, const struct pdu_in *pdu)
{
	const uint32_t least = t->unsolicited ? t->early_max : pdu->data_len;

	if (least == 0)
		return 0;
	return data_early_size(least, low_u32(min_u64(t->scsi.expected_out, LOOP_BUF_MAX)));
}

/* The data lies in the PDU, or was thrown away; then the initiator may try again. */
static void take_immediate_data(struct iscsi_task *t, struct pdu_in *pdu)
{
	if (pdu->data != NULL)
		data_set_early(t, pdu);
	else
		t->bad = SENSE_INTERNAL_FAILURE;
}

static void run_command(struct iscsi_conn *c, struct pdu_in *pdu)
{
	struct iscsi_session *s = c->session;
	struct ahs_fields ahs;
	enum iscsi_reject_reason why = judge_command(s, pdu, &ahs);
	struct iscsi_task *t;

	if (why != NO_REJECT) {
		pdu_reject(c, pdu->bhs, why);
		return;
	}
	t = itask_begin(c, be32_get(pdu->bhs->itt), is_immediate(pdu));
	if (t == NULL) {
		conn_doom(c, "out of memory");
		return;
	}
	fill_task(t, (const void *)pdu->bhs, &ahs);
	set_unsolicited(t, pdu);
	window_learn(s, unasked_bytes(t, pdu));
	if (pdu->data_len > t->early_max || (pdu->data_len != 0 && !s->params.immediate_data)) {
		itask_refuse(t, SENSE_UNEXPECTED_UNSOLICITED_DATA);
		return;
	}
	if (pdu->data_len != 0)
		take_immediate_data(t, pdu);
	itask_run(t);
}

/* ---- The others ---- */

/* 11.18, 11.19 */
static void run_nop_out(struct iscsi_conn *c, struct pdu_in *pdu)
{
	uint32_t len = low_u32(min_u64(pdu->data_len, c->session->params.max_recv_dsl_initiator));
	struct iscsi_bhs *bhs;
	struct pdu_out *p;

	if (be32_get(pdu->bhs->itt) == ISCSI_RESERVED_TAG) {
		if (be32_get(pdu->bhs->ttt) == c->ping_ttt)
			c->ping_ttt = ISCSI_RESERVED_TAG;
		return;
	}
	p = pdu_new(c, ISCSI_NOP_IN);
	if (p == NULL || pdu_put_data(c, p, pdu->data, len) != 0) {
		pdu_free(c->home, p);
		conn_doom(c, "out of memory");
		return;
	}
	bhs = (struct iscsi_bhs *)(void *)p->head;
	bhs->itt = pdu->bhs->itt;
	bhs->ttt = be32_of(ISCSI_RESERVED_TAG);
	p->flags = PDU_STATUS;
	tx_push_control(c, p);
}

static enum iscsi_logout_status judge_logout(const struct iscsi_conn *c,
					     const struct iscsi_logout *r)
{
	switch (r->reason & ~ISCSI_FINAL) {
	case ISCSI_CLOSE_SESSION:
		return ISCSI_LOGGED_OUT;
	case ISCSI_CLOSE_CONNECTION:
		return be16_get(r->cid) == c->cid ? ISCSI_LOGGED_OUT : ISCSI_LOGOUT_CID_NOT_FOUND;
	default:
		return ISCSI_LOGOUT_NO_RECOVERY;
	}
}

/* 11.14, 11.15. MaxConnections is 1: with its connection the session ends. */
static void run_logout(struct iscsi_conn *c, struct pdu_in *pdu)
{
	const struct iscsi_logout *request = (const void *)pdu->bhs;
	enum iscsi_logout_status status = judge_logout(c, request);
	struct iscsi_logout_response *r;
	struct pdu_out *p;

	if ((request->reason & ~ISCSI_FINAL) > ISCSI_REMOVE_CONNECTION) {
		pdu_reject(c, pdu->bhs, ISCSI_REJECT_INVALID_FIELD);
		return;
	}
	p = pdu_new(c, ISCSI_LOGOUT_RESPONSE);
	if (p == NULL) {
		conn_doom(c, "out of memory");
		return;
	}
	r = (struct iscsi_logout_response *)(void *)p->head;
	r->itt = request->itt;
	r->response = low_u8(status);
	r->time2wait_s = be16_of(low_u16(c->session->params.time2wait_s));
	r->time2retain_s = be16_of(0);
	p->flags = PDU_STATUS;
	if (status == ISCSI_LOGGED_OUT)
		session_logout(c->session, p);
	else
		tx_push(c, p);
}

/* 11.16: nothing is resent at recovery level 0. */
static void run_snack(struct iscsi_conn *c, struct pdu_in *pdu)
{
	pdu_reject(c, pdu->bhs, ISCSI_REJECT_SNACK);
}

/* A second login on a connection that is logged in. */
static void run_login(struct iscsi_conn *c, struct pdu_in *pdu)
{
	pdu_reject(c, pdu->bhs, ISCSI_REJECT_PROTOCOL_ERROR);
	conn_close_when_sent(c, "login request in the full feature phase");
}

static const struct request_row rows[ISCSI_OPCODE_MASK + 1] = {
	[ISCSI_NOP_OUT] = {run_nop_out, NUMBERED | IN_DISCOVERY | WHILE_DRAINING},
	[ISCSI_SCSI_COMMAND] = {run_command, NUMBERED},
	[ISCSI_TASK_MANAGEMENT] = {tmf_pdu, NUMBERED | WHILE_DRAINING},
	[ISCSI_LOGIN] = {run_login, IN_DISCOVERY | WHILE_DRAINING},
	[ISCSI_TEXT] = {text_pdu, NUMBERED | IN_DISCOVERY},
	[ISCSI_LOGOUT] = {run_logout, NUMBERED | IN_DISCOVERY | WHILE_DRAINING},
	[ISCSI_SNACK] = {run_snack, WHILE_DRAINING},
};

static void ignore(struct iscsi_conn *c, struct pdu_in *pdu)
{
}

/* All those that do not run while a session drains are NUMBERED. */
static const struct request_row ignored = {ignore, NUMBERED | IN_DISCOVERY};

static const struct request_row *row_of(const struct iscsi_bhs *bhs)
{
	const struct request_row *row = &rows[bhs->opcode & ISCSI_OPCODE_MASK];

	return row->run != NULL ? row : NULL;
}

/* What is ignored has its turn as well: what is not may come behind it. */
static const struct request_row *row_now(const struct iscsi_session *s, const struct iscsi_bhs *bhs)
{
	const struct request_row *row = row_of(bhs);

	if (row != NULL && s->draining && (row->flags & WHILE_DRAINING) == 0)
		return &ignored;
	return row;
}

/* ---- Turns ---- */

void request_run_held(struct iscsi_conn *c)
{
	struct iscsi_session *s = c->session;
	struct held_pdu *h;

	while (!c->closed && c->phase == CONN_FULL && (h = session_held_next(s)) != NULL) {
		struct pdu_in pdu = {
			.bhs = (const void *)h->bytes,
			.ahs = h->bytes + ISCSI_BHS_LEN,
			.ahs_len = h->ahs_len,
			.data = h->bytes + ISCSI_BHS_LEN + h->ahs_len,
			.data_len = h->data_len,
		};

		s->exp_cmd_sn++;
		if (!h->ignored)
			row_now(s, pdu.bhs)->run(h->conn, &pdu);
		free(h);
		tmf_start_due(s);
	}
}

static void run_in_turn(struct iscsi_conn *c, const struct request_row *row, struct pdu_in *pdu)
{
	struct iscsi_session *s = c->session;

	switch (cmdsn_judge(s->exp_cmd_sn, session_window(s), be32_get(pdu->bhs->sn))) {
	case CMDSN_NOW:
		s->exp_cmd_sn++;
		row->run(c, pdu);
		if (s->ntmfs != 0)
			tmf_start_due(s);
		if (!list_empty(&s->held))
			request_run_held(c);
		break;
	case CMDSN_HOLD:
		if (session_hold(s, c, pdu) != 0)
			conn_lose(c, "too many commands out of order");
		break;
	case CMDSN_IGNORE:
		break;
	}
}

void request_pdu(struct iscsi_conn *c, struct pdu_in *pdu)
{
	const struct iscsi_session *s = c->session;
	const struct request_row *row = row_now(s, pdu->bhs);

	c->exp_stat_sn = be32_get(pdu->bhs->exp_sn);
	if (row == NULL) {
		pdu_reject(c, pdu->bhs, ISCSI_REJECT_NOT_SUPPORTED);
	} else if (s->target == NULL && (row->flags & IN_DISCOVERY) == 0) {
		pdu_reject(c, pdu->bhs, ISCSI_REJECT_PROTOCOL_ERROR);
	} else if (pdu->bad_digest) {
		/* What is lost leaves a hole in the numbering that level 0 cannot mend. */
		pdu_reject(c, pdu->bhs, ISCSI_REJECT_DATA_DIGEST);
		conn_close_when_sent(c, "data digest error");
	} else if ((row->flags & NUMBERED) != 0 && !is_immediate(pdu)) {
		run_in_turn(c, row, pdu);
	} else {
		row->run(c, pdu);
	}
}
