/*
 * Task management requests (RFC 7143 11.5, 11.6, and RFC 7144): what each asks for, which tasks it meets before
 * scsi has seen them or after it has finished them, and when the response may leave. Apart from
 * request.c because a function has a life of its own.
 *
 *   WAITING ------------------> RUNNING ----------------> AWAITING ------------------> answered
 *    lower CmdSNs are missing    scsi ends the victims     their Data-Out is missing
 *    (4.2.3.2; several tasks,                              (several tasks; 2 s at most)
 *    immediate)
 *
 * The response goes behind everything that is queued, so that no answer of a task follows it. After
 * ABORT TASK Data-Out of the task is thrown away instead of awaited: its initiator wants it no more.
 *
 * The functions of RFC 7144 are there where iSCSIProtocolLevel is 2. Those that ask are about what has
 * come before them, so QUERY TASK SET waits for lower CmdSNs like functions that end several tasks. A
 * task is in the task set until its response is queued: that goes ahead of the answer.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

enum tmf_state { TMF_WAITING, TMF_RUNNING, TMF_AWAITING };

struct iscsi_tmf {
	struct scsi_tmf scsi;
	struct iscsi_session *session;
	struct iscsi_conn *conn;
	struct list link; /* in session.tmfs */
	enum tmf_state state;
	uint8_t function;
	bool found; /* what is asked for, here */
	uint32_t itt, cmd_sn, ref_task_tag, ref_cmd_sn;
	struct loop_timer timer; /* AWAITING */
};

enum row_flags {
	OF_SEVERAL = 1, /* tasks: 4.2.3.2 */
	ALL_LUNS = 2,   /* the LUN field means nothing */
	ASKS = 4,       /* nothing ends */
};

/* A row without a level is answered by `refusal`. */
static const struct function_row {
	enum scsi_tmf_function does;
	unsigned flags;       /* enum row_flags */
	unsigned level;       /* the least iSCSIProtocolLevel */
	uint16_t reported_as; /* in struct nexus's task_management */
	enum iscsi_tm_response refusal;
} functions[] = {
	[ISCSI_ABORT_TASK] = {SCSI_ABORT_TASK, 0, 0, 0x8000},
	[ISCSI_ABORT_TASK_SET] = {SCSI_ABORT_TASK_SET, OF_SEVERAL, 0, 0x4000},
	[ISCSI_CLEAR_ACA] = {.refusal = ISCSI_TM_NOT_SUPPORTED}, /* there is never one */
	[ISCSI_CLEAR_TASK_SET] = {SCSI_ABORT_TASK_SET, OF_SEVERAL, 0, 0x1000},
	[ISCSI_LOGICAL_UNIT_RESET] = {SCSI_LU_RESET, OF_SEVERAL, 0, 0x0800},
	[ISCSI_TARGET_WARM_RESET] = {SCSI_TARGET_RESET, OF_SEVERAL | ALL_LUNS, 0, 0x0200},
	[ISCSI_TARGET_COLD_RESET] = {SCSI_TARGET_RESET, OF_SEVERAL | ALL_LUNS, 0, 0x0200},
	[ISCSI_TASK_REASSIGN] = {.refusal = ISCSI_TM_NO_REASSIGN}, /* recovery level 2 */
	[ISCSI_QUERY_TASK] = {SCSI_QUERY_TASK, ASKS, 2, 0x0400},
	[ISCSI_QUERY_TASK_SET] = {SCSI_QUERY_TASK_SET, OF_SEVERAL | ASKS, 2, 0x0002},
	[ISCSI_I_T_NEXUS_RESET] = {SCSI_NEXUS_RESET, OF_SEVERAL | ALL_LUNS, 2, 0x0001},
	[ISCSI_QUERY_ASYNC_EVENT] = {SCSI_QUERY_EVENT, ASKS, 2, 0x0004},
};

static bool is_there(const struct function_row *row, uint32_t protocol_level)
{
	return row->reported_as != 0 && row->level <= protocol_level;
}

uint16_t tmf_supported(uint32_t protocol_level)
{
	unsigned bits = 0;

	for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
		if (is_there(&functions[i], protocol_level))
			bits |= functions[i].reported_as;
	}
	return low_u16(bits);
}

/* ISCSI_TM_COMPLETE: it can be asked for in this session. */
static enum iscsi_tm_response refusal_of(const struct iscsi_session *s, uint8_t function)
{
	if (function >= ARRAY_LEN(functions))
		return ISCSI_TM_NOT_SUPPORTED;
	if (is_there(&functions[function], s->params.protocol_level))
		return ISCSI_TM_COMPLETE;
	return functions[function].refusal != 0 ? functions[function].refusal
						: ISCSI_TM_NOT_SUPPORTED;
}

static bool is(const struct iscsi_tmf *f, enum row_flags flag)
{
	return (functions[f->function].flags & flag) != 0;
}

/* NULL: every LU. */
static const uint8_t *lun_of(const struct iscsi_tmf *f)
{
	return is(f, ALL_LUNS) ? NULL : f->scsi.lun;
}

/* ---- The end ---- */

static const uint8_t nothing_more[3];

static void answer(struct iscsi_conn *c, uint32_t itt, enum iscsi_tm_response response,
		   const uint8_t additional[static 3])
{
	struct pdu_out *p = pdu_new(c, ISCSI_TASK_MANAGEMENT_RESPONSE);
	struct iscsi_task_management_response *r;

	if (p == NULL) {
		conn_doom(c, "out of memory");
		return;
	}
	r = (struct iscsi_task_management_response *)(void *)p->head;
	r->itt = be32_of(itt);
	r->response = low_u8(response);
	memcpy(r->additional, additional, sizeof(r->additional));
	p->flags = PDU_STATUS;
	tx_push(c, p);
}

static void tmf_free(struct iscsi_tmf *f)
{
	struct iscsi_session *s = f->session;

	loop_timer_stop(&f->timer);
	list_remove(&f->link);
	s->ntmfs--;
	free(f);
}

/* 11.5.1: after the response the target ends all its sessions. */
static void reset_sessions(struct iscsi_tmf *f)
{
	if (directory_kick_others(f->session, KICK_RESET) != 0)
		conn_doom(f->conn, "out of memory");
	else
		conn_close_when_sent(f->conn, "the target was reset");
}

static void tmf_end(struct iscsi_tmf *f, enum iscsi_tm_response response)
{
	struct iscsi_session *s = f->session;

	answer(f->conn, f->itt, response, f->scsi.event);
	if (f->function == ISCSI_TARGET_COLD_RESET && response == ISCSI_TM_COMPLETE)
		reset_sessions(f);
	tmf_free(f);
	session_check_drained(s);
}

/* ---- Tasks that scsi has finished, and whose Data-Out still comes ---- */

static bool is_concerned(const struct iscsi_tmf *f, const struct iscsi_task *t)
{
	return lun_of(f) == NULL || scsi_same_lun(t->scsi.lun, lun_of(f));
}

/* Its answer would come behind that of the function. One that scsi has not finished may still have its
 * answer, whatever it is, unless it must wait for Data-Out with that. */
static void mute(struct iscsi_task *t)
{
	t->muted = true;
	if (t->finished)
		t->scsi.unit_task.aborted = true;
}

enum remains { REMAINS_MUTE, REMAINS_COUNT, REMAINS_BURY };

/* Their number. */
static unsigned remains(struct iscsi_tmf *f, enum remains what)
{
	unsigned n = 0;

	for (unsigned b = 0; b < TASK_BUCKETS; b++)
		for (struct iscsi_task *t = f->session->table[b], *next; t != NULL; t = next) {
			next = t->hash_next;
			if (!is_concerned(f, t))
				continue;
			if (what == REMAINS_MUTE)
				mute(t);
			if (!t->finished || !t->scsi.unit_task.aborted)
				continue;
			n++;
			if (what == REMAINS_BURY)
				itask_bury(t);
		}
	return n;
}

static void give_up(struct loop_timer *timer)
{
	struct iscsi_tmf *f = container_of(timer, struct iscsi_tmf, timer);

	f->state = TMF_RUNNING; /* the tasks that go now do not end it */
	remains(f, REMAINS_BURY);
	tmf_end(f, ISCSI_TM_COMPLETE);
}

static void await_data(struct iscsi_tmf *f)
{
	if (remains(f, REMAINS_COUNT) == 0) {
		tmf_end(f, ISCSI_TM_COMPLETE);
		return;
	}
	f->state = TMF_AWAITING;
	if (loop_timer_start(&f->timer, TOMBSTONE_NS) != 0)
		give_up(&f->timer);
}

void tmf_task_gone(struct iscsi_session *s)
{
	if (s->ntmfs == 0)
		return;
	list_for_each_safe (pos, &s->tmfs) {
		struct iscsi_tmf *f = list_entry(pos, struct iscsi_tmf, link);

		if (f->state == TMF_AWAITING && remains(f, REMAINS_COUNT) == 0)
			tmf_end(f, ISCSI_TM_COMPLETE);
	}
}

/* ---- Running ---- */

static void bury_task(struct iscsi_tmf *f)
{
	struct iscsi_task *t = itask_find(f->session, f->ref_task_tag);

	if (t != NULL && t->finished && t->scsi.unit_task.aborted)
		itask_bury(t);
}

static void scsi_done(struct scsi_tmf *scsi, enum scsi_tmf_response response)
{
	struct iscsi_tmf *f = container_of(scsi, struct iscsi_tmf, scsi);

	if (f->conn->closed || f->session->state != SESSION_UP) {
		tmf_free(f);
		return;
	}
	if (f->function == ISCSI_ABORT_TASK)
		bury_task(f);
	if (response == SCSI_TMF_NO_LU)
		tmf_end(f, ISCSI_TM_NO_LUN);
	else if (response == SCSI_TMF_FAILED)
		tmf_end(f, ISCSI_TM_REJECTED);
	else if (response == SCSI_TMF_SUCCEEDED || f->found)
		tmf_end(f, ISCSI_TM_SUCCEEDED);
	else if (is(f, OF_SEVERAL) && !is(f, ASKS))
		await_data(f);
	else
		tmf_end(f, ISCSI_TM_COMPLETE);
}

/* 11.5.1: a command that has not come yet is aborted by its number, and ignored when it comes. */
static void abort_unseen(struct iscsi_tmf *f)
{
	struct iscsi_session *s = f->session;
	struct iscsi_conn *c = f->conn;
	int err;

	if (sn_before(f->ref_cmd_sn, s->exp_cmd_sn) ||
	    sn_before(session_window(s), f->ref_cmd_sn) || !sn_before(f->ref_cmd_sn, f->cmd_sn)) {
		tmf_end(f, ISCSI_TM_NO_TASK);
		return;
	}
	err = session_fill_hole(s, f->ref_cmd_sn, f->ref_task_tag);
	if (err == 0)
		tmf_end(f, ISCSI_TM_COMPLETE);
	else
		tmf_end(f, err == -ENOENT ? ISCSI_TM_NO_TASK : ISCSI_TM_REJECTED);
	request_run_held(c);
}

static void abort_task(struct iscsi_tmf *f)
{
	struct iscsi_session *s = f->session;
	struct iscsi_task *t = itask_find(s, f->ref_task_tag);

	if (t == NULL) {
		abort_unseen(f);
	} else if (!scsi_same_lun(t->scsi.lun, f->scsi.lun)) {
		tmf_end(f, ISCSI_TM_NO_TASK);
	} else if (t->finished) {
		itask_bury(t);
		tmf_end(f, ISCSI_TM_COMPLETE);
	} else if (itask_bury_waiting(s, t, NULL) != 0) {
		tmf_end(f, ISCSI_TM_COMPLETE);
	} else {
		mute(t);
		scsi_tmf_run(&f->scsi);
	}
}

static bool is_meant(const struct iscsi_tmf *f, uint32_t itt, const uint8_t *lun)
{
	return scsi_same_lun(lun, f->scsi.lun) &&
	       (f->function == ISCSI_QUERY_TASK_SET || itt == f->ref_task_tag);
}

static bool is_in_table(const struct iscsi_tmf *f)
{
	for (unsigned b = 0; b < TASK_BUCKETS; b++)
		for (const struct iscsi_task *t = f->session->table[b]; t != NULL; t = t->hash_next)
			if (is_meant(f, t->itt, t->scsi.lun))
				return true;
	return false;
}

/* It came ahead of its turn, and was sent before the question. */
static bool is_held(const struct iscsi_tmf *f)
{
	list_for_each (pos, &f->session->held) {
		const struct held_pdu *h = list_entry(pos, struct held_pdu, link);
		const struct iscsi_bhs *bhs = (const void *)h->bytes;

		if (!h->ignored && sn_before(h->cmd_sn, f->cmd_sn) &&
		    (bhs->opcode & ISCSI_OPCODE_MASK) == ISCSI_SCSI_COMMAND &&
		    is_meant(f, be32_get(bhs->itt), bhs->lun))
			return true;
	}
	return false;
}

/* What scsi does not know, or not any more, is in the task set as well. */
static void ask(struct iscsi_tmf *f)
{
	f->found = f->function != ISCSI_QUERY_ASYNC_EVENT && (is_in_table(f) || is_held(f));
	scsi_tmf_run(&f->scsi);
}

/* What scsi has finished is not answered any more, for whom that comes from knows it as aborted. */
static void start(struct iscsi_tmf *f)
{
	f->state = TMF_RUNNING;
	if (f->function == ISCSI_ABORT_TASK) {
		abort_task(f);
		return;
	}
	if (is(f, ASKS)) {
		ask(f);
		return;
	}
	itask_bury_waiting(f->session, NULL, lun_of(f));
	remains(f, REMAINS_MUTE);
	scsi_tmf_run(&f->scsi);
}

/* An initiator that names a number far away waits for nothing. */
static bool must_wait(const struct iscsi_tmf *f)
{
	const struct iscsi_session *s = f->session;

	return is(f, OF_SEVERAL) && sn_before(s->exp_cmd_sn, f->cmd_sn) &&
	       !sn_before(s->max_cmd_sn + 1, f->cmd_sn);
}

static struct iscsi_tmf *next_due(struct iscsi_session *s)
{
	list_for_each (pos, &s->tmfs) {
		struct iscsi_tmf *f = list_entry(pos, struct iscsi_tmf, link);

		if (f->state == TMF_WAITING && !must_wait(f))
			return f;
	}
	return NULL;
}

/* One that starts may end others. */
void tmf_start_due(struct iscsi_session *s)
{
	struct iscsi_tmf *f;

	while ((f = next_due(s)) != NULL)
		start(f);
}

void tmf_abandon(struct iscsi_session *s)
{
	list_for_each_safe (pos, &s->tmfs) {
		struct iscsi_tmf *f = list_entry(pos, struct iscsi_tmf, link);

		if (f->state != TMF_RUNNING)
			tmf_free(f);
	}
}

/* ---- Requests ---- */

static bool tag_in_use(struct iscsi_session *s, uint32_t itt)
{
	list_for_each (pos, &s->tmfs) {
		if (list_entry(pos, struct iscsi_tmf, link)->itt == itt)
			return true;
	}
	return itask_find(s, itt) != NULL;
}

static struct iscsi_tmf *tmf_create(struct iscsi_conn *c, const struct iscsi_task_management *r)
{
	struct iscsi_session *s = c->session;
	struct iscsi_tmf *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	f->session = s;
	f->conn = c;
	f->function = r->function & ~ISCSI_FINAL & 0xff;
	f->itt = be32_get(r->itt);
	f->cmd_sn = be32_get(r->cmd_sn);
	f->ref_task_tag = be32_get(r->ref_task_tag);
	f->ref_cmd_sn = be32_get(r->ref_cmd_sn);
	f->scsi.nexus = &s->nexus;
	f->scsi.function = functions[f->function].does;
	memcpy(f->scsi.lun, r->lun, sizeof(f->scsi.lun));
	f->scsi.tag = f->ref_task_tag;
	f->scsi.done = scsi_done;
	loop_timer_init(&f->timer, s->home->loop, give_up);
	list_push_back(&s->tmfs, &f->link);
	s->ntmfs++;
	return f;
}

void tmf_pdu(struct iscsi_conn *c, struct pdu_in *pdu)
{
	const struct iscsi_task_management *r = (const void *)pdu->bhs;
	const bool immediate = (r->opcode & ISCSI_IMMEDIATE) != 0;
	const uint32_t itt = be32_get(r->itt);
	const enum iscsi_tm_response refusal =
		refusal_of(c->session, r->function & ~ISCSI_FINAL & 0xff);
	struct iscsi_tmf *f;

	if (itt == ISCSI_RESERVED_TAG) {
		pdu_reject(c, pdu->bhs, ISCSI_REJECT_INVALID_FIELD);
	} else if (tag_in_use(c->session, itt)) {
		pdu_reject(c, pdu->bhs, ISCSI_REJECT_TASK_IN_PROGRESS);
	} else if (refusal != ISCSI_TM_COMPLETE) {
		answer(c, itt, refusal, nothing_more);
	} else if (c->session->ntmfs >= TMF_MAX && immediate) {
		pdu_reject(c, pdu->bhs, ISCSI_REJECT_IMMEDIATE);
	} else if (c->session->ntmfs >= TMF_MAX) {
		answer(c, itt, ISCSI_TM_REJECTED, nothing_more);
	} else if ((f = tmf_create(c, r)) == NULL) {
		conn_doom(c, "out of memory");
	} else if (!immediate || !must_wait(f)) {
		start(f);
	}
}
