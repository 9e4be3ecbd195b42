/*
 * The way in: bytes become PDUs. Received in bulk into memory that belongs to the loop, so that an
 * idle connection holds nothing but an unfinished PDU; large payloads go straight to their place.
 * Apart from conn.c because every byte of a stranger passes here first (see enum rx_state).
 *
 * Lengths are believed after the header digest was right, and payloads after the data digest was.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

/* A PDU as its header describes it. */
struct layout {
	uint32_t ahs_len, head_len; /* head_len: with AHS and header digest */
	uint32_t data_len, padding, tail_len;
};

static struct layout layout_of(const struct iscsi_conn *c, const struct iscsi_bhs *bhs)
{
	struct layout l = {
		.ahs_len = bhs->ahs_words * 4u,
		.data_len = be24_get(bhs->data_len),
	};

	l.head_len = ISCSI_BHS_LEN + l.ahs_len + (c->header_digest ? ISCSI_DIGEST_LEN : 0);
	l.padding = pdu_padding(l.data_len);
	l.tail_len = l.padding + (c->data_digest && l.data_len != 0 ? ISCSI_DIGEST_LEN : 0);
	return l;
}

static bool is_command(const struct iscsi_bhs *bhs)
{
	return (bhs->opcode & ISCSI_OPCODE_MASK) == ISCSI_SCSI_COMMAND;
}

static bool is_data_out(const struct iscsi_conn *c, const struct iscsi_bhs *bhs)
{
	return c->phase == CONN_FULL && c->session->target != NULL &&
	       (bhs->opcode & ISCSI_OPCODE_MASK) == ISCSI_DATA_OUT;
}

/* No further PDU is looked at. */
static bool stopped(const struct iscsi_conn *c)
{
	return c->closed || c->phase == CONN_WAIT || c->phase == CONN_LOGOUT;
}

/* ---- What is kept until more comes ---- */

static void drop_rest(struct rx *rx)
{
	loop_buf_put(rx->rest);
	rx->rest = NULL;
	rx->rest_len = 0;
	rx->rest_is_whole = false;
}

static bool keep(struct iscsi_conn *c, const uint8_t *p, size_t len)
{
	struct rx *rx = &c->rx;

	/* Who has not even logged in does not get the last of it. */
	if (c->session != NULL || !loop_is_short(c->home->loop, LOOP_CONN))
		rx->rest = loop_buf_get(c->home->loop, low_u32(len));
	if (rx->rest == NULL) {
		conn_lose(c, "out of memory");
		return false;
	}
	memcpy(rx->rest->data, p, len);
	rx->rest_len = low_u32(len);
	return true;
}

void rx_fini(struct iscsi_conn *c)
{
	drop_rest(&c->rx);
	loop_buf_put(c->rx.buf);
	c->rx.buf = NULL;
	c->rx.task = NULL;
	c->rx.place = NULL;
	c->rx.state = RX_HEADER;
}

/* ---- Whole PDUs ---- */

static void dispatch(struct iscsi_conn *c, struct pdu_in *pdu)
{
	if (c->phase == CONN_FULL)
		request_pdu(c, pdu);
	else
		login_pdu(c, pdu);
}

static void take_data_out(struct iscsi_conn *c, const struct pdu_in *pdu)
{
	struct iscsi_task *t = data_out_task(c, pdu->bhs);
	struct scsi_seg *seg;
	uint8_t *place;

	if (t == NULL)
		return;
	place = data_out_place(t, pdu->bhs, pdu->data_len, &seg);
	if (place != NULL && !pdu->bad_digest && pdu->data_len != 0)
		memcpy(place, pdu->data, pdu->data_len);
	data_out_end(t, pdu->bhs, pdu->data_len,
		     pdu->bad_digest ? DATA_OUT_BAD_DIGEST : DATA_OUT_GOOD_DIGEST);
}

static void take_whole(struct iscsi_conn *c, uint8_t *p, const struct layout *l)
{
	struct pdu_in pdu = {
		.bhs = (const void *)p,
		.ahs = p + ISCSI_BHS_LEN,
		.ahs_len = l->ahs_len,
		.data = p + l->head_len,
		.data_len = l->data_len,
	};
	uint32_t covered = l->data_len + l->padding;

	if (c->data_digest && l->data_len != 0)
		pdu.bad_digest = !pdu_digest_ok(pdu.data, covered, pdu.data + covered);
	c->rx.bulky = l->data_len >= PLACE_MIN;
	if (is_data_out(c, pdu.bhs))
		take_data_out(c, &pdu);
	else
		dispatch(c, &pdu);
}

/* ---- Payloads that are read into their place ---- */

/* Immediate data gets a buffer that may become the command's first segment. Where there is none the
 * data is thrown away, and the command will be told so. */
static void place_early(struct iscsi_conn *c, const struct iscsi_bhs *bhs, uint32_t data_len)
{
	const struct iscsi_params *params = &c->session->params;
	uint32_t expected =
		be32_get(((const struct iscsi_scsi_command *)(const void *)bhs)->expected_len);
	uint64_t more = params->initial_r2t ? 0 : min_u64(expected, params->first_burst);

	c->rx.buf = data_early_buf(c->session, low_u32(max_u64(data_len, more)),
				   low_u32(max_u64(data_len, min_u64(expected, LOOP_BUF_MAX))));
	if (c->rx.buf != NULL)
		c->rx.place = c->rx.buf->data;
}

static int place_in_buf(struct iscsi_conn *c, const struct iscsi_bhs *bhs, uint32_t data_len)
{
	const bool shares = c->session != NULL && c->session->nexus.share != NULL;

	if (is_command(bhs) && shares) {
		place_early(c, bhs, data_len);
		return 0;
	}
	c->rx.buf = shares ? loop_share_get(c->session->nexus.share, data_len)
			   : loop_buf_get(c->home->loop, data_len);
	if (c->rx.buf == NULL)
		return -ENOMEM;
	c->rx.place = c->rx.buf->data;
	return 0;
}

static int choose_place(struct iscsi_conn *c, const struct iscsi_bhs *bhs, uint32_t data_len)
{
	struct rx *rx = &c->rx;

	rx->place = NULL;
	rx->seg = NULL;
	rx->task = NULL;
	if (!is_data_out(c, bhs))
		return place_in_buf(c, bhs, data_len);
	rx->task = data_out_task(c, bhs);
	if (rx->task != NULL)
		rx->place = data_out_place(rx->task, bhs, data_len, &rx->seg);
	return 0;
}

static void begin_place(struct iscsi_conn *c, const uint8_t *p, size_t len, const struct layout *l)
{
	struct rx *rx = &c->rx;
	uint32_t there = low_u32(min_u64(len - l->head_len, l->data_len));

	if (!keep(c, p, l->head_len))
		return;
	if (choose_place(c, (const void *)rx->rest->data, l->data_len) != 0) {
		conn_lose(c, "out of memory");
		return;
	}
	rx->payload = rx->place;
	rx->payload_len = l->data_len;
	rx->place_left = l->data_len - there;
	rx->tail_len = low_u8(l->tail_len);
	rx->tail_got = low_u8(len - l->head_len - there);
	rx->state = RX_PLACE;
	rx->bulky = true;
	if (rx->place != NULL) {
		memcpy(rx->place, p + l->head_len, there);
		rx->place += there;
	}
	memcpy(rx->tail, p + l->head_len + there, rx->tail_got);
}

static bool placed_digest_ok(const struct iscsi_conn *c)
{
	const struct rx *rx = &c->rx;
	uint32_t padding = pdu_padding(rx->payload_len);
	uint32_t crc;

	if (!c->data_digest || rx->place == NULL)
		return true;
	crc = crc32c(0, rx->payload, rx->payload_len);
	return crc32c(crc, rx->tail, padding) == load_le32(rx->tail + padding);
}

static void end_place(struct iscsi_conn *c)
{
	struct rx *rx = &c->rx;
	struct loop_buf *head = rx->rest;
	const struct iscsi_bhs *bhs = (const void *)head->data;
	struct iscsi_task *task = rx->task;
	struct pdu_in pdu = {
		.bhs = bhs,
		.ahs = head->data + ISCSI_BHS_LEN,
		.ahs_len = bhs->ahs_words * 4u,
		.data = rx->place != NULL ? rx->payload : NULL,
		.data_len = rx->payload_len,
		.buf = rx->buf,
		.bad_digest = !placed_digest_ok(c),
	};

	rx->state = RX_HEADER;
	rx->rest = NULL;
	rx->rest_len = 0;
	rx->buf = NULL;
	rx->task = NULL;
	rx->place = NULL;
	if (task != NULL)
		data_out_end(task, bhs, pdu.data_len,
			     pdu.bad_digest ? DATA_OUT_BAD_DIGEST : DATA_OUT_GOOD_DIGEST);
	else if (!is_data_out(c, bhs))
		dispatch(c, &pdu);
	loop_buf_put(pdu.buf);
	loop_buf_put(head);
}

void rx_forget_segment(struct iscsi_conn *c, const struct scsi_seg *seg)
{
	if (c->rx.state == RX_PLACE && c->rx.seg == seg) {
		c->rx.place = NULL;
		c->rx.seg = NULL;
	}
}

void rx_forget_task(struct iscsi_conn *c, const struct iscsi_task *t)
{
	if (c->rx.state != RX_PLACE || c->rx.task != t)
		return;
	c->rx.task = NULL;
	c->rx.place = NULL;
	c->rx.seg = NULL;
}

/* ---- Parsing ---- */

/* Nothing behind such a header can be trusted: the connection ends, with a word of why. */
static void refuse_oversized(struct iscsi_conn *c, const struct iscsi_bhs *bhs)
{
	if (c->phase == CONN_FRESH) {
		conn_lose(c, "no login request");
	} else if (c->phase == CONN_LOGIN) {
		login_refuse(c, ISCSI_LOGIN_INITIATOR_ERROR);
	} else {
		pdu_reject(c, bhs, ISCSI_REJECT_PROTOCOL_ERROR);
		conn_close_when_sent(c, "data segment too long");
	}
}

/* One PDU out of [p, p + len): bytes used, or 0 when it is not whole: then all are kept. */
static size_t take(struct iscsi_conn *c, uint8_t *p, size_t len)
{
	const struct iscsi_bhs *bhs = (const void *)p;
	struct layout l;

	if (c->phase == CONN_FRESH && (p[0] & ISCSI_OPCODE_MASK) != ISCSI_LOGIN) {
		conn_lose(c, "no login request");
		return 0;
	}
	if (len < ISCSI_BHS_LEN) {
		keep(c, p, len);
		return 0;
	}
	l = layout_of(c, bhs);
	if (!c->header_digest && l.data_len > c->max_data) {
		refuse_oversized(c, bhs);
		return 0;
	}
	if (len < l.head_len) {
		keep(c, p, len);
		return 0;
	}
	if (c->header_digest &&
	    !pdu_digest_ok(p, ISCSI_BHS_LEN + l.ahs_len, p + ISCSI_BHS_LEN + l.ahs_len)) {
		conn_lose(c, "header digest error");
		return 0;
	}
	if (l.data_len > c->max_data) {
		refuse_oversized(c, bhs);
		return 0;
	}
	if (len >= l.head_len + l.data_len + (size_t)l.tail_len) {
		take_whole(c, p, &l);
		return l.head_len + l.data_len + (size_t)l.tail_len;
	}
	if (l.data_len >= PLACE_MIN)
		begin_place(c, p, len, &l);
	else
		keep(c, p, len);
	return 0;
}

/* Returns how many PDUs were worked off. */
static unsigned parse(struct iscsi_conn *c, uint8_t *p, size_t len)
{
	unsigned npdus = 0;

	while (len != 0 && !stopped(c)) {
		size_t used = take(c, p, len);

		if (used == 0)
			return npdus;
		p += used;
		len -= used;
		npdus++;
	}
	if (len != 0 && !c->closed && c->phase == CONN_WAIT)
		c->rx.rest_is_whole = keep(c, p, len);
	return npdus;
}

/* ---- Receiving ---- */

struct received {
	uint8_t *p; /* bytes to parse */
	size_t len;
	bool full; /* there may be more in the socket */
};

static size_t bulk_room(const struct iscsi_conn *c)
{
	if (c->rx.state == RX_HEADER && c->rx.rest_len >= RX_CHUNK)
		return 0;
	if (loop_is_short(c->home->loop, LOOP_CONN))
		return RX_SHORT_CHUNK;
	return c->rx.bulky ? RX_BULKY_CHUNK : RX_CHUNK;
}

/* Kept bytes and new ones, one behind the other. Bytes received, 0 at the end, or -errno. */
static ssize_t receive_bulk(struct iscsi_conn *c, struct received *r)
{
	struct rx *rx = &c->rx;
	uint32_t kept = rx->rest_len;
	struct iovec iov = {.iov_base = c->home->rx_buf + kept, .iov_len = bulk_room(c)};
	ssize_t n = iov.iov_len == 0 ? -EAGAIN : stream_recv(&c->stream, &iov, 1);

	if (n == 0 || (n < 0 && (n != -EAGAIN || !rx->rest_is_whole)))
		return n;
	if (n < 0)
		n = 0;
	r->full = (size_t)n == iov.iov_len;
	if (kept != 0)
		memcpy(c->home->rx_buf, rx->rest->data, kept);
	drop_rest(rx);
	r->p = c->home->rx_buf;
	r->len = kept + (size_t)n;
	return (ssize_t)r->len;
}

/* The payload into its place, padding and digest, and what follows in bulk. */
static ssize_t receive_place(struct iscsi_conn *c, struct received *r)
{
	struct rx *rx = &c->rx;
	uint8_t *bulk = c->home->rx_buf + RX_CHUNK;
	uint8_t *place = rx->place != NULL ? rx->place : c->home->rx_buf;
	size_t room = rx->place != NULL ? rx->place_left : min_u64(rx->place_left, RX_CHUNK);
	size_t left, cut;
	struct iovec iov[3] = {
		{.iov_base = place, .iov_len = room},
		{.iov_base = rx->tail + rx->tail_got, .iov_len = rx->tail_len - rx->tail_got},
		{.iov_base = bulk, .iov_len = RX_BULKY_CHUNK},
	};
	ssize_t n = stream_recv(&c->stream, iov, room < rx->place_left ? 1 : 3);

	if (n <= 0)
		return n;
	left = (size_t)n;
	cut = min_u64(left, room);
	if (rx->place != NULL)
		rx->place += cut;
	rx->place_left -= low_u32(cut);
	if (rx->task != NULL)
		c->data_out_ns = loop_now_ns(c->home->loop);
	left -= cut;
	cut = min_u64(left, iov[1].iov_len);
	rx->tail_got = low_u8(rx->tail_got + cut);
	r->p = bulk;
	r->len = left - cut;
	r->full = room < rx->place_left || r->len == RX_BULKY_CHUNK;
	return n;
}

/* One system call and what it brought. False: nothing more to do now. */
static bool receive(struct iscsi_conn *c, size_t *bytes, unsigned *npdus)
{
	struct rx *rx = &c->rx;
	struct received r = {0};
	ssize_t n = rx->state == RX_HEADER ? receive_bulk(c, &r) : receive_place(c, &r);

	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		conn_lose(c, n == 0 ? "closed by the initiator" : "connection broken");
		return false;
	}
	*bytes += (size_t)n;
	c->heard_ns = loop_now_ns(c->home->loop);
	if (rx->state == RX_PLACE) {
		if (rx->place_left != 0 || rx->tail_got != rx->tail_len)
			return r.full;
		end_place(c);
		(*npdus)++;
	}
	*npdus += parse(c, r.p, r.len);
	return r.full;
}

void rx_ready(struct iscsi_conn *c)
{
	size_t bytes = 0;
	unsigned npdus = 0;

	while (!stopped(c) && bytes < RX_TURN_BYTES && npdus < RX_TURN_PDUS && !tx_is_full(c))
		if (!receive(c, &bytes, &npdus))
			break;
	if (tx_is_full(c))
		c->paused = true;
}

/* ---- Moving ---- */

int rx_pack(struct iscsi_conn *c, uint8_t **bytes, uint32_t *len)
{
	struct rx *rx = &c->rx;

	*bytes = NULL;
	*len = rx->rest_len;
	if (rx->rest_len != 0) {
		*bytes = malloc(rx->rest_len);
		if (*bytes == NULL)
			return -ENOMEM;
		memcpy(*bytes, rx->rest->data, rx->rest_len);
	}
	drop_rest(rx);
	return 0;
}

int rx_unpack(struct iscsi_conn *c, const uint8_t *bytes, uint32_t len)
{
	if (len == 0)
		return 0;
	c->rx.rest = loop_buf_get(c->home->loop, len);
	if (c->rx.rest == NULL)
		return -ENOMEM;
	memcpy(c->rx.rest->data, bytes, len);
	c->rx.rest_len = len;
	c->rx.rest_is_whole = true;
	return 0;
}
