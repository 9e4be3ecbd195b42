/*
 * SCSI tasks of the transport: the table by initiator task tag, the pool, references, and the
 * response that ends each. Apart from data.c, which moves their bytes, and from session.c, which
 * decides when a command's turn has come.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

_Static_assert(ARRAY_LEN(((struct scsi_task *)0)->segs) <= ARRAY_LEN(((struct iscsi_task *)0)->in),
	       "a slot for each segment that scsi may have under way");

static struct iscsi_task **bucket_of(struct iscsi_session *s, uint32_t itt)
{
	return &s->table[(itt * 0x9e3779b1u) >> 25];
}
_Static_assert(TASK_BUCKETS == 128, "the hash gives 7 bits");

struct iscsi_task *itask_find(struct iscsi_session *s, uint32_t itt)
{
	struct iscsi_task *t = *bucket_of(s, itt);

	while (t != NULL && t->itt != itt)
		t = t->hash_next;
	return t;
}

static struct iscsi_task *pool_get(struct iscsi_loop *home)
{
	struct qnode *n = queue_pop(&home->free_tasks);

	if (n == NULL)
		return calloc(1, sizeof(struct iscsi_task));
	home->nfree_tasks--;
	return container_of(n, struct iscsi_task, link);
}

static void pool_put(struct iscsi_loop *home, struct iscsi_task *t)
{
	if (home->nfree_tasks >= POOL_TASKS) {
		free(t);
		return;
	}
	home->nfree_tasks++;
	queue_push(&home->free_tasks, &t->link);
}

/* Field by field: most of the struct is scsi's, and too large to be cleared each time. */
static void reset(struct iscsi_task *t)
{
	struct scsi_task *scsi = &t->scsi;

	memset(scsi->cdb, 0, sizeof(scsi->cdb));
	scsi->expected_in = scsi->expected_out = 0;
	scsi->status = SCSI_GOOD;
	scsi->sense_len = 0;
	scsi->underflow = scsi->overflow = 0;
	scsi->unit_task.aborted = false;
	t->finished = t->muted = false;
	t->data_sn = t->r2t_sn = 0;
	t->last_in = NULL;
	t->in[0].seg = t->in[1].seg = NULL;
	t->early = NULL;
	t->early_buf = NULL;
	t->early_len = t->early_max = t->early_sn = 0;
	t->unsolicited = t->waits = false;
	t->bad = SENSE_NONE;
	t->asked = 0;
	t->nout = t->nr2ts = 0;
	t->wait.share = NULL;
}

struct iscsi_task *itask_begin(struct iscsi_conn *c, uint32_t itt, unsigned immediate)
{
	struct iscsi_session *s = c->session;
	struct iscsi_task *t = pool_get(s->home);
	struct iscsi_task **bucket = bucket_of(s, itt);

	if (t == NULL)
		return NULL;
	reset(t);
	t->session = s;
	t->conn = c;
	t->itt = itt;
	t->refs = 1;
	t->immediate = immediate != 0;
	t->listed = true;
	t->hash_next = *bucket;
	*bucket = t;
	loop_charge(s->home->loop, LOOP_EARLY, sizeof(*t));
	s->ntasks++;
	s->nimmediate += t->immediate;
	return t;
}

void itask_unlist(struct iscsi_task *t)
{
	struct iscsi_session *s = t->session;
	struct iscsi_task **p = bucket_of(s, t->itt);

	if (!t->listed)
		return;
	while (*p != t)
		p = &(*p)->hash_next;
	*p = t->hash_next;
	t->listed = false;
	s->ntasks--;
	s->nimmediate -= t->immediate;
	session_check_drained(s);
}

void itask_ref(struct iscsi_task *t)
{
	t->refs++;
}

void itask_unref(struct iscsi_task *t)
{
	CHECK(t->refs != 0);
	if (--t->refs != 0)
		return;
	CHECK(!t->listed);
	loop_buf_put(t->early_buf);
	loop_uncharge(t->session->home->loop, LOOP_EARLY, sizeof(*t));
	pool_put(t->session->home, t);
}

/* ---- The end of a task ---- */

static uint8_t residual_flags(const struct scsi_task *scsi)
{
	if (scsi->overflow != 0)
		return ISCSI_RESIDUAL_OVERFLOW;
	return scsi->underflow != 0 ? ISCSI_RESIDUAL_UNDERFLOW : 0;
}

/* The status rides on the last Data-In when that has not left yet (RFC 7143 11.7.3). */
static bool respond_in_data(struct iscsi_task *t)
{
	struct scsi_task *scsi = &t->scsi;
	struct iscsi_data_in *d;

	if (t->last_in == NULL || scsi->status != SCSI_GOOD || scsi->writes)
		return false;
	d = (struct iscsi_data_in *)(void *)t->last_in->head;
	d->flags = ISCSI_FINAL | ISCSI_DATA_IN_STATUS | residual_flags(scsi);
	d->status = SCSI_GOOD;
	d->residual = be32_of(scsi->overflow | scsi->underflow);
	t->last_in->flags = PDU_STATUS;
	return true;
}

static int put_sense(struct iscsi_task *t, struct pdu_out *p)
{
	uint8_t data[2 + SCSI_SENSE_MAX];

	if (t->scsi.sense_len == 0)
		return 0;
	store_be16(data, t->scsi.sense_len);
	memcpy(data + 2, t->scsi.sense, t->scsi.sense_len);
	return pdu_put_data(t->conn, p, data, 2u + t->scsi.sense_len);
}

static void respond(struct iscsi_task *t)
{
	struct scsi_task *scsi = &t->scsi;
	struct pdu_out *p = pdu_new(t->conn, ISCSI_SCSI_RESPONSE);
	struct iscsi_scsi_response *r;

	if (p == NULL) {
		conn_doom(t->conn, "out of memory");
		return;
	}
	r = (struct iscsi_scsi_response *)(void *)p->head;
	r->flags = ISCSI_FINAL | residual_flags(scsi);
	r->status = low_u8(scsi->status);
	r->itt = be32_of(t->itt);
	r->exp_data_sn = be32_of(t->data_sn != 0 ? t->data_sn + t->r2t_sn : 0);
	r->residual = be32_of(scsi->overflow | scsi->underflow);
	p->flags = PDU_STATUS;
	(void)put_sense(t, p); /* fits `small` */
	tx_push(t->conn, p);
}
_Static_assert(2 + SCSI_SENSE_MAX <= PDU_SMALL, "sense data travels inside the PDU");

static void end(struct iscsi_task *t)
{
	const bool silent = t->scsi.unit_task.aborted;

	if (!silent && !t->conn->closed && !respond_in_data(t))
		respond(t);
	itask_unlist(t);
	if (silent && !t->conn->closed)
		session_tell_window(t->conn);
	tmf_task_gone(t->session);
	itask_unref(t);
}

/* While Data-Out may still come, the tag must stay known, and the initiator must not be answered
 * (RFC 7143 11.4.2). */
static void finish(struct scsi_task *scsi)
{
	struct iscsi_task *t = container_of(scsi, struct iscsi_task, scsi);

	t->finished = true;
	if (t->conn->closed || !data_still_comes(t))
		end(t);
	else if (t->muted)
		t->scsi.unit_task.aborted = true;
}

void itask_drained(struct iscsi_task *t)
{
	end(t);
}

void itask_refuse(struct iscsi_task *t, enum sense sense)
{
	scsi_task_refuse(&t->scsi, sense);
	t->scsi.underflow = t->scsi.writes ? t->scsi.expected_out : t->scsi.expected_in;
	finish(&t->scsi);
}

/* ---- The beginning ---- */

static void start(struct iscsi_task *t)
{
	itask_ref(t);
	scsi_task_run(&t->scsi);
	data_keep_early(t);
	itask_unref(t);
}

/* A task whose data cannot leave for a while does not fetch it either; those behind it wait as
 * well, so that their order stays. */
void itask_run(struct iscsi_task *t)
{
	struct queue *wait = &t->session->read_wait;
	bool full = t->scsi.reads && tx_waiting_bytes(t->conn) > TX_READ_AHEAD;

	if (t->immediate || (!full && queue_empty(wait))) {
		start(t);
		return;
	}
	data_keep_early(t);
	queue_push(wait, &t->link);
}

void itask_run_waiting(struct iscsi_session *s)
{
	while (!queue_empty(&s->read_wait)) {
		struct iscsi_task *t = container_of(s->read_wait.head, struct iscsi_task, link);

		if (tx_waiting_bytes(t->conn) > TX_READ_AHEAD)
			return;
		queue_pop(&s->read_wait);
		start(t);
	}
}

static void abandon(struct iscsi_task *t)
{
	t->scsi.unit_task.aborted = true;
	end(t);
}

void itask_bury(struct iscsi_task *t)
{
	data_forget(t);
	abandon(t);
}

unsigned itask_bury_waiting(struct iscsi_session *s, const struct iscsi_task *task,
			    const uint8_t *lun)
{
	struct queue all;
	struct qnode *n;
	unsigned buried = 0;

	queue_init(&all);
	queue_splice(&all, &s->read_wait);
	while ((n = queue_pop(&all)) != NULL) {
		struct iscsi_task *t = container_of(n, struct iscsi_task, link);

		if ((task != NULL && t != task) ||
		    (lun != NULL && !scsi_same_lun(t->scsi.lun, lun))) {
			queue_push(&s->read_wait, n);
			continue;
		}
		itask_bury(t);
		buried++;
	}
	return buried;
}

/* Tasks that nobody else will end: those that wait to be started, and finished ones that wait for
 * the rest of their Data-Out. */
void itask_abandon(struct iscsi_session *s)
{
	struct qnode *n;

	while ((n = queue_pop(&s->read_wait)) != NULL)
		abandon(container_of(n, struct iscsi_task, link));
	for (unsigned b = 0; b < TASK_BUCKETS; b++)
		for (struct iscsi_task *t = s->table[b], *next; t != NULL; t = next) {
			next = t->hash_next;
			if (t->finished)
				abandon(t);
		}
}

const struct scsi_transport iscsi_transport = {
	.name = "iscsi",
	.protocol_id = 0x5,
	.move = data_move,
	.cancel_move = data_cancel_move,
	.finish = finish,
};
