/*
 * The way out: PDUs are queued while a burst of requests is worked off, numbered at the moment they
 * are put on the wire, and leave many in one system call. Apart from conn.c because batching, order
 * and back-pressure are decided here and nowhere else.
 *
 *   tx_push ---------> ordinary --+
 *                                 +--> wire (numbered) --> socket --> data_in_sent, freed
 *   tx_push_control -> control ---+
 *
 * Control PDUs (NOP-In, R2T, task management, Reject, login) go first, at PDU boundaries.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

static void run_flush(struct loop_msg *msg)
{
	struct iscsi_conn *c = container_of(msg, struct iscsi_conn, tx.flush_msg);

	c->tx.flush_queued = false;
	if (c->free_later) {
		if (c->session != NULL)
			directory_bye(c->session);
		else
			conn_free(c);
		return;
	}
	if (c->closed)
		return;
	if (c->doom != NULL)
		conn_lose(c, c->doom);
	else
		tx_flush(c);
	if (c->leaves)
		login_leave(c);
}

void tx_init(struct tx *tx)
{
	queue_init(&tx->control);
	queue_init(&tx->ordinary);
	queue_init(&tx->wire);
	tx->hold_tail = &tx->hold;
	tx->flush_msg.run = run_flush;
}

/* While the socket is full its STREAM_OUT flushes. */
void tx_schedule(struct iscsi_conn *c)
{
	struct tx *tx = &c->tx;

	if (tx->flush_queued || tx->flushing || c->closed)
		return;
	if (tx->blocked && c->doom == NULL)
		return;
	tx->flush_queued = true;
	loop_at_end(c->home->loop, &tx->flush_msg);
}

static void drop_pdu(struct iscsi_conn *c, struct pdu_out *p)
{
	struct move_in *m = p->moves;

	if (m != NULL && m->task->last_in == p)
		m->task->last_in = NULL;
	pdu_free(c->home, p);
	if (m != NULL)
		data_in_sent(c, m);
}

static void push(struct iscsi_conn *c, struct queue *to, struct pdu_out *p)
{
	if (c->closed) {
		drop_pdu(c, p);
		return;
	}
	queue_push(to, &p->link);
	c->tx.nqueued++;
	c->tx.queued_bytes += p->data_len;
	c->tx.own_bytes += pdu_own_bytes(p);
	tx_schedule(c);
}

void tx_push(struct iscsi_conn *c, struct pdu_out *p)
{
	push(c, &c->tx.ordinary, p);
}

void tx_push_control(struct iscsi_conn *c, struct pdu_out *p)
{
	push(c, &c->tx.control, p);
}

size_t tx_waiting_bytes(const struct iscsi_conn *c)
{
	return c->tx.queued_bytes + c->tx.wire_bytes - c->tx.begun;
}

static size_t pause_bytes(const struct iscsi_conn *c)
{
	return loop_is_short(c->home->loop, LOOP_CONN) ? TX_PAUSE_SHORT : TX_PAUSE_BYTES;
}

bool tx_is_full(const struct iscsi_conn *c)
{
	return c->tx.own_bytes > pause_bytes(c);
}

bool tx_has_room(const struct iscsi_conn *c)
{
	return c->tx.own_bytes < pause_bytes(c) / 2;
}

static struct pdu_out *next_queued(struct tx *tx)
{
	struct qnode *n = queue_pop(&tx->control);

	if (n == NULL)
		n = queue_pop(&tx->ordinary);
	return n == NULL ? NULL : container_of(n, struct pdu_out, link);
}

static void fill_wire(struct iscsi_conn *c)
{
	struct tx *tx = &c->tx;

	while (tx->nwire < TX_BATCH_PDUS && tx->wire_bytes < TX_BATCH_BYTES) {
		struct pdu_out *p = next_queued(tx);

		if (p == NULL)
			return;
		pdu_stamp(c, p);
		tx->nqueued--;
		tx->queued_bytes -= p->data_len;
		tx->nwire++;
		tx->wire_bytes += pdu_bytes(p);
		queue_push(&tx->wire, &p->link);
	}
}

static ssize_t send_wire(struct iscsi_conn *c)
{
	struct iovec iov[TX_BATCH_PDUS * PDU_IOV_MAX];
	size_t skip = c->tx.begun;
	unsigned n = 0;

	for (struct qnode *q = c->tx.wire.head; q != NULL; q = q->next) {
		n += pdu_gather(container_of(q, struct pdu_out, link), skip, iov + n);
		skip = 0;
	}
	return stream_send(&c->stream, iov, n);
}

/* `n` more bytes of the wire have left. Their segments are told last: that may queue more. */
static void wire_sent(struct iscsi_conn *c, size_t n)
{
	struct tx *tx = &c->tx;
	struct queue sent;
	struct qnode *q;

	queue_init(&sent);
	tx->begun += n;
	while (tx->wire.head != NULL) {
		struct pdu_out *p = container_of(tx->wire.head, struct pdu_out, link);
		size_t bytes = pdu_bytes(p);

		if (tx->begun < bytes)
			break;
		tx->begun -= bytes;
		tx->wire_bytes -= bytes;
		tx->own_bytes -= pdu_own_bytes(p);
		tx->nwire--;
		queue_push(&sent, queue_pop(&tx->wire));
	}
	while ((q = queue_pop(&sent)) != NULL)
		drop_pdu(c, container_of(q, struct pdu_out, link));
}

/* Sends until all is sent, the socket is full, or this connection had its share of the turn.
 * 0, or why the connection is lost. A doomed one sends nothing more: what it has queued may lack
 * the PDU that there was no memory for. */
static int send_some(struct iscsi_conn *c)
{
	struct tx *tx = &c->tx;
	size_t sent = 0;

	tx->blocked = false;
	while (c->doom == NULL) {
		ssize_t n;

		fill_wire(c);
		if (tx->nwire == 0)
			return 0;
		if (sent >= TX_BATCH_BYTES) {
			tx->blocked = true;
			return 0;
		}
		n = send_wire(c);
		if (n == -EAGAIN) {
			tx->blocked = true;
			return 0;
		}
		if (n < 0)
			return (int)n;
		tx->progress_ns = loop_now_ns(c->home->loop);
		sent += (size_t)n;
		wire_sent(c, (size_t)n);
	}
	return 0;
}

/* For less to be queued: that may have become so without anything being sent. */
static bool others_wait(const struct iscsi_conn *c)
{
	return c->tx.hold != NULL || (c->session != NULL && !queue_empty(&c->session->read_wait));
}

void tx_flush(struct iscsi_conn *c)
{
	struct tx *tx = &c->tx;
	int err;

	if (tx->nqueued + tx->nwire == 0 && !tx->close_when_sent && !others_wait(c))
		return;
	if (tx->nwire == 0)
		tx->progress_ns = loop_now_ns(c->home->loop);
	tx->flushing = true;
	err = send_some(c);
	if (err == 0) {
		data_in_resume(c);
		if (c->session != NULL)
			itask_run_waiting(c->session);
	}
	tx->flushing = false;
	if (err != 0) {
		conn_lose(c, "connection broken");
		return;
	}
	if (tx->close_when_sent && tx->nqueued + tx->nwire == 0) {
		if (c->linger == LINGER_NO)
			conn_lose(c, c->close_why);
		else
			conn_linger(c);
		return;
	}
	if (tx->nqueued != 0 || c->doom != NULL)
		tx_schedule(c);
	conn_update_events(c);
}

/* Nothing else is begun for it: whoever waits for less to be queued will not need it any more. */
void tx_last_word(struct iscsi_conn *c, struct pdu_out *p)
{
	tx_push_control(c, p);
	c->tx.flushing = true;
	(void)send_some(c);
	c->tx.flushing = false;
}

void tx_drop_segment(struct iscsi_conn *c, struct move_in *m)
{
	struct tx *tx = &c->tx;
	struct queue keep, drop;
	struct qnode *q;

	queue_init(&keep);
	queue_init(&drop);
	while ((q = queue_pop(&tx->ordinary)) != NULL) {
		struct pdu_out *p = container_of(q, struct pdu_out, link);

		if (p->moves != m) {
			queue_push(&keep, q);
			continue;
		}
		tx->nqueued--;
		tx->queued_bytes -= p->data_len;
		/* They are the task's last ones, and ExpDataSN counts what was sent (RFC 7143 11.4.8). */
		m->task->data_sn--;
		queue_push(&drop, q);
	}
	queue_splice(&tx->ordinary, &keep);
	while ((q = queue_pop(&drop)) != NULL)
		drop_pdu(c, container_of(q, struct pdu_out, link));
	tx_schedule(c);
}

void tx_purge(struct iscsi_conn *c)
{
	struct tx *tx = &c->tx;
	struct queue all;
	struct qnode *q;

	queue_init(&all);
	queue_splice(&all, &tx->wire);
	queue_splice(&all, &tx->control);
	queue_splice(&all, &tx->ordinary);
	tx->nqueued = tx->nwire = 0;
	tx->queued_bytes = tx->own_bytes = tx->wire_bytes = tx->begun = 0;
	while ((q = queue_pop(&all)) != NULL)
		drop_pdu(c, container_of(q, struct pdu_out, link));
	data_in_resume(c);
}
