/*
 * The bytes of commands: Data-In out of segments, R2Ts, and Data-Out into segments (RFC 7143 11.7,
 * 11.8). Apart from task.c because order and bounds of data are a story of their own.
 *
 * A write's data comes in this order, and only in this order (DataPDUInOrder and
 * DataSequenceInOrder are Yes):
 *
 *   immediate data, unsolicited Data-Out until F  -> early[0, early_len)
 *   then one R2T after the other                  -> straight into the segments
 *
 * A segment that asks for bytes gets its share of the early ones when all of those are there; R2Ts
 * ask for the rest. Once something is wrong with a task's data (`bad`) no R2T is sent any more;
 * what was asked for is awaited and thrown away; then the segments fail.
 */
#include "iscsi/impl.h"

bool data_still_comes(const struct iscsi_task *t)
{
	return t->unsolicited || t->nr2ts != 0;
}

/* The newest R2T is the last one. */
void data_forget(struct iscsi_task *t)
{
	struct iscsi_session *s = t->session;

	if (t->nr2ts != 0) {
		const uint32_t ttt = t->r2ts[t->nr2ts - 1].ttt;

		if (!s->has_tombs || sn_before(s->tomb_ttt, ttt))
			s->tomb_ttt = ttt;
		s->has_tombs = true;
	}
	t->nr2ts = 0;
	t->unsolicited = false;
	data_count_waiting(t);
	rx_forget_task(t->conn, t);
}

void data_count_waiting(struct iscsi_task *t)
{
	struct iscsi_conn *c = t->conn;
	bool waits = data_still_comes(t);

	if (waits == t->waits)
		return;
	t->waits = waits;
	if (waits) {
		if (c->nwaiting++ == 0)
			c->data_out_ns = loop_now_ns(c->home->loop);
	} else {
		c->nwaiting--;
	}
}

/* ---- Data-In ---- */

static void move_in_end(struct move_in *m, int err)
{
	struct scsi_seg *seg = m->seg;
	struct iscsi_task *t = m->task;

	m->seg = NULL;
	scsi_moved(seg, err);
	itask_unref(t);
}

static int move_in_result(const struct iscsi_conn *c, const struct move_in *m)
{
	if (m->task->finished)
		return 0;
	if (m->cancelled)
		return -ECANCELED;
	return c->closed ? -EIO : 0;
}

/* The iovecs of [off, off + len) of the segment. */
static void slice(const struct scsi_seg *seg, uint32_t off, uint32_t len, struct pdu_out *p)
{
	for (unsigned i = 0; i < seg->niov && len != 0; i++) {
		size_t piece = seg->iov[i].iov_len;

		if (off >= piece) {
			off -= low_u32(piece);
			continue;
		}
		piece = min_u64(piece - off, len);
		p->iov[p->niov++] = (struct iovec){
			.iov_base = (uint8_t *)seg->iov[i].iov_base + off,
			.iov_len = piece,
		};
		len -= low_u32(piece);
		off = 0;
	}
	CHECK(len == 0);
}

static bool push_data_in(struct iscsi_task *t, struct move_in *m, uint32_t off, uint32_t len,
			 uint8_t flags)
{
	struct pdu_out *p = pdu_new(t->conn, ISCSI_DATA_IN);
	struct iscsi_data_in *d;

	if (p == NULL) {
		conn_doom(t->conn, "out of memory");
		return false;
	}
	d = (struct iscsi_data_in *)(void *)p->head;
	d->flags = flags;
	d->itt = be32_of(t->itt);
	d->ttt = be32_of(ISCSI_RESERVED_TAG);
	d->data_sn = be32_of(t->data_sn++);
	d->offset = be32_of(m->seg->off + off);
	slice(m->seg, off, len, p);
	p->data_len = len;
	p->moves = m;
	m->npdus++;
	t->last_in = p;
	tx_push(t->conn, p);
	return true;
}

/* Each segment ends a sequence: whether another one follows is not known yet, and sequences may be
 * shorter than MaxBurstLength. */
static void move_in(struct iscsi_task *t, struct scsi_seg *seg)
{
	const struct iscsi_params *params = &t->session->params;
	struct move_in *m = t->in[0].seg == NULL ? &t->in[0] : &t->in[1];
	uint32_t burst = 0;

	CHECK(m->seg == NULL);
	*m = (struct move_in){.seg = seg, .task = t};
	itask_ref(t);
	for (uint32_t off = 0, len; off < seg->len && !t->conn->closed; off += len) {
		bool last;

		/* Whole words, unless it is the last of a sequence (RFC 7143 11.7.7). */
		len = low_u32(min_u64(seg->len - off, params->max_recv_dsl_initiator & ~3u));
		len = low_u32(min_u64(len, params->max_burst - burst));
		burst += len;
		last = burst == params->max_burst || off + len == seg->len;
		if (last)
			burst = 0;
		if (!push_data_in(t, m, off, len, last ? ISCSI_FINAL : 0))
			break;
	}
	if (m->npdus == 0)
		move_in_end(m, -EIO);
}

static void hold(struct tx *tx, struct move_in *m)
{
	m->held = true;
	m->next = NULL;
	*tx->hold_tail = m;
	tx->hold_tail = &m->next;
}

static void unhold(struct tx *tx, struct move_in *m)
{
	struct move_in **p = &tx->hold;

	while (*p != m)
		p = &(*p)->next;
	*p = m->next;
	if (tx->hold_tail == &m->next)
		tx->hold_tail = p;
	m->held = false;
}

void data_in_sent(struct iscsi_conn *c, struct move_in *m)
{
	if (--m->npdus != 0)
		return;
	if (!c->closed && !m->task->finished && !m->cancelled &&
	    tx_waiting_bytes(c) > TX_READ_AHEAD)
		hold(&c->tx, m);
	else
		move_in_end(m, move_in_result(c, m));
}

void data_in_resume(struct iscsi_conn *c)
{
	while (c->tx.hold != NULL && (c->closed || tx_waiting_bytes(c) <= TX_READ_AHEAD)) {
		struct move_in *m = c->tx.hold;

		unhold(&c->tx, m);
		move_in_end(m, move_in_result(c, m));
	}
}

static void cancel_in(struct iscsi_conn *c, struct move_in *m)
{
	if (m->held) {
		unhold(&c->tx, m);
		move_in_end(m, -ECANCELED);
		return;
	}
	m->cancelled = true;
	tx_drop_segment(c, m);
}

/* ---- R2T ---- */

static bool push_r2t(struct iscsi_task *t, uint32_t off, uint32_t len)
{
	struct pdu_out *p = pdu_new(t->conn, ISCSI_R2T);
	uint32_t ttt = session_next_ttt(t->session);
	struct iscsi_r2t *r;

	if (p == NULL) {
		conn_doom(t->conn, "out of memory");
		return false;
	}
	r = (struct iscsi_r2t *)(void *)p->head;
	memcpy(r->lun, t->scsi.lun, sizeof(r->lun));
	r->itt = be32_of(t->itt);
	r->ttt = be32_of(ttt);
	r->r2t_sn = be32_of(t->r2t_sn++);
	r->offset = be32_of(off);
	r->desired_len = be32_of(len);
	p->flags = PDU_SHOWS_STATSN;
	t->r2ts[t->nr2ts++] = (struct r2t){.ttt = ttt, .off = off, .len = len};
	tx_push_control(t->conn, p);
	return true;
}

/* R2Ts for what the segments still miss, as far as MaxOutstandingR2T allows. */
static void ask(struct iscsi_task *t)
{
	const struct iscsi_params *params = &t->session->params;
	unsigned most = (unsigned)min_u64(params->max_outstanding_r2t, R2T_MAX);

	for (unsigned i = 0; i < t->nout; i++) {
		const struct scsi_seg *seg = t->out[i].seg;
		uint32_t end = seg->off + seg->len;

		if (!t->out[i].attached)
			return;
		if (t->asked < seg->off)
			t->asked = seg->off;
		while (t->asked < end) {
			uint32_t len = low_u32(min_u64(end - t->asked, params->max_burst));

			if (t->nr2ts == most || !push_r2t(t, t->asked, len))
				return;
			t->asked += len;
		}
	}
}

/* ---- Segments that want data ---- */

static void drop_early(struct iscsi_task *t)
{
	loop_buf_put(t->early_buf);
	t->early_buf = NULL;
	t->early = NULL;
}

/* The early bytes become the segment's without a copy when it has use for all of them. */
static bool adopt_early(struct iscsi_task *t, struct scsi_seg *seg)
{
	if (t->early_buf == NULL || seg->off != 0 || t->early_len > seg->len ||
	    t->early_buf->cap < seg->len)
		return false;
	seg->buf = t->early_buf;
	t->early_buf = NULL;
	t->early = NULL;
	return true;
}

/* The segment has its buffer, and gets what is there already. */
static void attach(struct iscsi_task *t, struct move_out *m)
{
	struct scsi_seg *seg = m->seg;

	if (t->early_len > seg->off)
		m->have = low_u32(min_u64(t->early_len - seg->off, seg->len));
	if (m->have != 0 && t->early != NULL)
		memcpy(seg->buf->data, t->early + seg->off, m->have);
	seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
	seg->niov = 1;
	m->attached = true;
	if (seg->off + seg->len >= t->early_len)
		drop_early(t);
}

static void pump(struct iscsi_task *t);

static void granted(struct loop_wait *w, int err)
{
	struct iscsi_task *t = container_of(w, struct iscsi_task, wait);

	if (err != 0)
		t->bad = SENSE_INTERNAL_FAILURE;
	for (unsigned i = 0; i < t->nout && err == 0; i++)
		if (&t->out[i].seg->buf == w->buf)
			attach(t, &t->out[i]);
	pump(t);
}

/* false: the segment waits for its buffer. */
static bool take_buf(struct iscsi_task *t, struct scsi_seg *seg)
{
	if (adopt_early(t, seg))
		return true;
	t->wait.buf = &seg->buf;
	t->wait.len_bytes = seg->len;
	t->wait.need = LOOP_SEGMENT;
	t->wait.granted = granted;
	return loop_share_take(t->session->nexus.share, &t->wait);
}

/* The first segment waits for its buffer when it must; the second one gets what nobody else misses. */
static void attach_all(struct iscsi_task *t)
{
	for (unsigned i = 0; i < t->nout && !loop_wait_waits(&t->wait); i++) {
		struct move_out *m = &t->out[i];

		if (m->attached)
			continue;
		if (i != 0 && !loop_share_plenty(t->session->nexus.share, m->seg->len))
			return;
		if (take_buf(t, m->seg))
			attach(t, m);
	}
}

static void move_out_end(struct iscsi_task *t, unsigned i, int err)
{
	struct scsi_seg *seg = t->out[i].seg;

	if (loop_wait_waits(&t->wait) && t->wait.buf == &seg->buf)
		loop_wait_cancel(&t->wait);
	t->nout--;
	if (i == 0)
		t->out[0] = t->out[1];
	scsi_moved(seg, err);
	itask_unref(t);
}

/* Says why the data did not come. Without memory the initiator may try again. */
static void tell_bad(struct iscsi_task *t)
{
	if (t->bad == SENSE_INTERNAL_FAILURE && t->scsi.status == SCSI_GOOD)
		t->scsi.status = SCSI_TASK_SET_FULL;
	scsi_task_sense(&t->scsi, t->bad);
}

/* Takes the task's first segment as far as it goes: true when it is through. */
static bool pump_first(struct iscsi_task *t)
{
	if (t->bad == SENSE_NONE)
		attach_all(t);
	if (t->bad != SENSE_NONE) {
		if (t->nr2ts != 0)
			return false;
		tell_bad(t);
		move_out_end(t, 0, -EIO);
		return true;
	}
	if (!t->out[0].attached)
		return false;
	if (t->out[0].have < t->out[0].seg->len) {
		ask(t);
		return false;
	}
	if (t->nout > 1)
		ask(t);
	move_out_end(t, 0, 0);
	return true;
}

static void pump(struct iscsi_task *t)
{
	itask_ref(t);
	while (!t->unsolicited && t->nout != 0 && !t->conn->closed)
		if (!pump_first(t))
			break;
	data_count_waiting(t);
	itask_unref(t);
}

static void move_out(struct iscsi_task *t, struct scsi_seg *seg)
{
	CHECK(t->nout < ARRAY_LEN(t->out));
	CHECK(seg->off + (uint64_t)seg->len <= t->scsi.expected_out);
	t->out[t->nout++] = (struct move_out){.seg = seg};
	seg->buf = NULL;
	itask_ref(t);
	if (t->conn->closed)
		move_out_end(t, t->nout - 1u, -EIO);
	else
		pump(t);
}

static void cancel_out(struct iscsi_task *t, struct scsi_seg *seg)
{
	for (unsigned i = 0; i < t->nout; i++)
		if (t->out[i].seg == seg) {
			rx_forget_segment(t->conn, seg);
			move_out_end(t, i, -ECANCELED);
			return;
		}
}

void data_move(struct scsi_seg *seg)
{
	struct iscsi_task *t = container_of(seg->task, struct iscsi_task, scsi);

	if (seg->niov == 0)
		move_out(t, seg);
	else
		move_in(t, seg);
}

void data_cancel_move(struct scsi_seg *seg)
{
	struct iscsi_task *t = container_of(seg->task, struct iscsi_task, scsi);

	for (unsigned i = 0; i < ARRAY_LEN(t->in); i++)
		if (t->in[i].seg == seg) {
			cancel_in(t->conn, &t->in[i]);
			return;
		}
	cancel_out(t, seg);
}

/* ---- Data that comes early ---- */

void data_set_early(struct iscsi_task *t, struct pdu_in *pdu)
{
	t->early = pdu->data;
	t->early_len = t->asked = pdu->data_len;
	t->early_buf = pdu->buf;
	pdu->buf = NULL;
}

uint32_t data_early_size(uint32_t least, uint32_t best)
{
	const uint32_t small = loop_buf_size(least), large = loop_buf_size(best);

	return large <= EARLY_STRETCH * small ? large : small;
}

struct loop_buf *data_early_buf(struct iscsi_session *s, uint32_t least, uint32_t best)
{
	return loop_share_get(s->nexus.share, data_early_size(least, best));
}

/* With room for all that may still be put behind it. */
static int get_early_buf(struct iscsi_task *t)
{
	uint64_t best = max_u64(t->early_max, min_u64(t->scsi.expected_out, LOOP_BUF_MAX));

	t->early_buf = data_early_buf(t->session, t->unsolicited ? t->early_max : t->early_len,
				      low_u32(best));
	return t->early_buf == NULL ? -ENOMEM : 0;
}

void data_keep_early(struct iscsi_task *t)
{
	const uint8_t *borrowed = t->early;

	if (borrowed == NULL || t->early_buf != NULL)
		return;
	t->early = NULL;
	if (t->finished)
		return;
	if (get_early_buf(t) != 0) {
		t->bad = SENSE_INTERNAL_FAILURE;
		if (t->nout != 0)
			pump(t);
		return;
	}
	memcpy(t->early_buf->data, borrowed, t->early_len);
	t->early = t->early_buf->data;
}

/* ---- Data-Out ---- */

static void spoil(struct iscsi_task *t, enum sense sense)
{
	if (t->bad == SENSE_NONE)
		t->bad = sense;
}

static uint8_t *place_unsolicited(struct iscsi_task *t, const struct iscsi_data_out *d,
				  uint32_t len)
{
	if (be32_get(d->data_sn) != t->early_sn || be32_get(d->offset) != t->early_len)
		spoil(t, SENSE_DATA_DIGEST_ERROR);
	else if (len > t->early_max - t->early_len)
		spoil(t, SENSE_UNEXPECTED_UNSOLICITED_DATA);
	if (t->bad != SENSE_NONE || t->finished)
		return NULL;
	if (t->early_buf == NULL) {
		if (get_early_buf(t) != 0) {
			spoil(t, SENSE_INTERNAL_FAILURE);
			return NULL;
		}
		t->early = t->early_buf->data;
	}
	return t->early_buf->data + t->early_len;
}

/* An R2T's data lies in one segment, because R2Ts are made for a segment. */
static uint8_t *place_solicited(struct iscsi_task *t, const struct iscsi_data_out *d, uint32_t len,
				struct scsi_seg **seg)
{
	const struct r2t *r = &t->r2ts[0];
	uint32_t off = be32_get(d->offset);

	/* A gap means that something was lost on the way (RFC 7143 7.9). */
	if (be32_get(d->data_sn) != r->data_sn || off != r->off + r->got || len > r->len - r->got)
		spoil(t, SENSE_DATA_DIGEST_ERROR);
	if (t->bad != SENSE_NONE || t->finished)
		return NULL;
	for (unsigned i = 0; i < t->nout; i++) {
		struct scsi_seg *s = t->out[i].seg;

		if (t->out[i].attached && off >= s->off && off - s->off + len <= s->len) {
			*seg = s;
			return s->buf->data + (off - s->off);
		}
	}
	return NULL;
}

/* A tag that is not the next one was never ours, or was that of an aborted task. */
static void refuse_tag(struct iscsi_conn *c, const struct iscsi_bhs *bhs)
{
	pdu_reject(c, bhs, ISCSI_REJECT_PROTOCOL_ERROR);
	conn_close_when_sent(c, "data that nobody asked for");
}

struct iscsi_task *data_out_task(struct iscsi_conn *c, const struct iscsi_bhs *bhs)
{
	const struct iscsi_data_out *d = (const void *)bhs;
	struct iscsi_task *t = itask_find(c->session, be32_get(d->itt));
	uint32_t ttt = be32_get(d->ttt);

	if (t == NULL || t->conn != c)
		return NULL;
	if (ttt == ISCSI_RESERVED_TAG) {
		if (!t->unsolicited)
			spoil(t, SENSE_UNEXPECTED_UNSOLICITED_DATA);
		return t->unsolicited ? t : NULL;
	}
	if (t->nr2ts == 0 || t->r2ts[0].ttt != ttt) {
		if (!c->session->has_tombs || sn_before(c->session->tomb_ttt, ttt))
			refuse_tag(c, bhs);
		return NULL;
	}
	return t;
}

uint8_t *data_out_place(struct iscsi_task *t, const struct iscsi_bhs *bhs, uint32_t len,
			struct scsi_seg **seg)
{
	const struct iscsi_data_out *d = (const void *)bhs;

	*seg = NULL;
	if (be32_get(d->ttt) == ISCSI_RESERVED_TAG)
		return place_unsolicited(t, d, len);
	return place_solicited(t, d, len, seg);
}

static void end_unsolicited(struct iscsi_task *t, uint32_t len, bool final)
{
	t->early_sn++;
	if (t->bad == SENSE_NONE && !t->finished)
		t->early_len += len;
	if (!final)
		return;
	t->unsolicited = false;
	t->asked = t->early_len;
}

static void end_solicited(struct iscsi_task *t, uint32_t len, bool final)
{
	struct r2t *r = &t->r2ts[0];

	if (t->bad == SENSE_NONE)
		for (unsigned i = 0; i < t->nout; i++) {
			const struct scsi_seg *s = t->out[i].seg;
			uint32_t off = r->off + r->got;

			if (t->out[i].attached && off >= s->off && off - s->off < s->len)
				t->out[i].have += len;
		}
	r->data_sn++;
	r->got = low_u32(min_u64(r->got + (uint64_t)len, r->len));
	if (final && r->got < r->len)
		spoil(t, SENSE_NOT_ENOUGH_UNSOLICITED_DATA);
	if (!final && (r->got < r->len || t->bad != SENSE_NONE))
		return;
	t->nr2ts--;
	memmove(r, r + 1, t->nr2ts * sizeof(*r));
}

void data_out_end(struct iscsi_task *t, const struct iscsi_bhs *bhs, uint32_t len,
		  enum data_out_digest digest)
{
	const struct iscsi_data_out *d = (const void *)bhs;
	bool final = (d->flags & ISCSI_FINAL) != 0;

	t->conn->data_out_ns = loop_now_ns(t->conn->home->loop);
	if (digest == DATA_OUT_BAD_DIGEST) {
		pdu_reject(t->conn, bhs, ISCSI_REJECT_DATA_DIGEST);
		spoil(t, SENSE_DATA_DIGEST_ERROR);
	}
	if (be32_get(d->ttt) == ISCSI_RESERVED_TAG)
		end_unsolicited(t, len, final);
	else
		end_solicited(t, len, final);
	data_count_waiting(t);
	if (!t->finished)
		pump(t);
	else if (!data_still_comes(t))
		itask_drained(t);
}
