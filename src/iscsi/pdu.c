/*
 * Single PDUs: those on their way out come from a pool of the loop and are numbered and digested
 * at the moment they are sent; additional header segments of those that came in are parsed. Apart
 * because nothing here knows a session's state.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

static const uint8_t zeros[4];

static enum loop_need kind_of(const struct pdu_out *p)
{
	return p->head[0] == ISCSI_DATA_IN ? LOOP_SEGMENT : LOOP_CONN;
}

struct pdu_out *pdu_new(struct iscsi_conn *c, enum iscsi_opcode opcode)
{
	struct iscsi_loop *home = c->home;
	struct qnode *n = queue_pop(&home->free_pdus);
	struct pdu_out *p;

	if (n != NULL) {
		home->nfree_pdus--;
		p = container_of(n, struct pdu_out, link);
	} else {
		p = malloc(sizeof(*p));
		if (p == NULL)
			return NULL;
	}
	memset(p->head, 0, ISCSI_BHS_LEN);
	p->head[0] = low_u8(opcode);
	loop_charge(home->loop, kind_of(p), sizeof(*p));
	p->head[1] = ISCSI_FINAL;
	p->head_len = ISCSI_BHS_LEN;
	p->tail_len = 0;
	p->niov = 0;
	p->flags = 0;
	p->data_len = 0;
	p->buf = NULL;
	p->moves = NULL;
	return p;
}

void pdu_free(struct iscsi_loop *home, struct pdu_out *p)
{
	if (p == NULL)
		return;
	loop_buf_put(p->buf);
	loop_uncharge(home->loop, kind_of(p), sizeof(*p));
	if (home->nfree_pdus >= POOL_PDUS) {
		free(p);
		return;
	}
	home->nfree_pdus++;
	queue_push(&home->free_pdus, &p->link);
}

static struct loop_buf *data_buf(const struct iscsi_conn *c, uint32_t len)
{
	if (len <= TX_SMALL || c->session == NULL || c->session->nexus.share == NULL)
		return loop_buf_get(c->home->loop, len);
	return loop_share_get(c->session->nexus.share, len);
}

int pdu_put_data(struct iscsi_conn *c, struct pdu_out *p, const void *data, uint32_t len)
{
	uint8_t *to = p->small;

	if (len == 0)
		return 0;
	if (len > PDU_SMALL) {
		p->buf = data_buf(c, len);
		if (p->buf == NULL)
			return -ENOMEM;
		to = p->buf->data;
	}
	memcpy(to, data, len);
	p->iov[0] = (struct iovec){.iov_base = to, .iov_len = len};
	p->niov = 1;
	p->data_len = len;
	return 0;
}

uint32_t pdu_padding(uint32_t data_len)
{
	return -data_len & 3;
}

static void put_digest(uint8_t *to, uint32_t crc)
{
	store_le32(to, crc);
}

static uint32_t data_digest(const struct pdu_out *p)
{
	uint32_t crc = 0;

	for (unsigned i = 0; i < p->niov; i++)
		crc = crc32c(crc, p->iov[i].iov_base, p->iov[i].iov_len);
	return crc32c(crc, zeros, pdu_padding(p->data_len));
}

void pdu_stamp(struct iscsi_conn *c, struct pdu_out *p)
{
	struct iscsi_bhs *bhs = (struct iscsi_bhs *)(void *)p->head;
	uint32_t padding = pdu_padding(p->data_len);

	bhs->data_len = be24_of(p->data_len);
	if ((p->flags & (PDU_STATUS | PDU_SHOWS_STATSN)) != 0)
		bhs->sn = be32_of(c->stat_sn);
	if ((p->flags & PDU_STATUS) != 0)
		c->stat_sn++;
	if (c->session != NULL) {
		bhs->exp_sn = be32_of(c->session->exp_cmd_sn);
		bhs->max_cmd_sn = be32_of(session_window(c->session));
	}
	if (p->moves != NULL && p->moves->task->last_in == p)
		p->moves->task->last_in = NULL;
	memset(p->tail, 0, padding);
	p->tail_len = low_u8(padding);
	if ((p->flags & PDU_PLAIN) != 0)
		return;
	if (c->header_digest) {
		put_digest(p->head + ISCSI_BHS_LEN, crc32c(0, p->head, ISCSI_BHS_LEN));
		p->head_len = ISCSI_BHS_LEN + ISCSI_DIGEST_LEN;
	}
	if (c->data_digest && p->data_len != 0) {
		put_digest(p->tail + padding, data_digest(p));
		p->tail_len = low_u8(padding + ISCSI_DIGEST_LEN);
	}
}

size_t pdu_bytes(const struct pdu_out *p)
{
	return p->head_len + p->data_len + (size_t)p->tail_len;
}

size_t pdu_own_bytes(const struct pdu_out *p)
{
	if (kind_of(p) == LOOP_SEGMENT)
		return 0;
	return sizeof(*p) + (p->buf != NULL ? p->buf->cap : 0);
}

static unsigned gather_piece(struct iovec *iov, const void *base, size_t len, size_t *skip)
{
	size_t cut = *skip < len ? *skip : len;

	*skip -= cut;
	if (cut == len)
		return 0;
	*iov = (struct iovec){.iov_base = (uint8_t *)base + cut, .iov_len = len - cut};
	return 1;
}

unsigned pdu_gather(const struct pdu_out *p, size_t skip, struct iovec *iov)
{
	unsigned n = gather_piece(iov, p->head, p->head_len, &skip);

	for (unsigned i = 0; i < p->niov; i++)
		n += gather_piece(iov + n, p->iov[i].iov_base, p->iov[i].iov_len, &skip);
	n += gather_piece(iov + n, p->tail, p->tail_len, &skip);
	return n;
}

bool pdu_digest_ok(const void *bytes, uint32_t len, const uint8_t digest[ISCSI_DIGEST_LEN])
{
	return crc32c(0, bytes, len) == load_le32(digest);
}

/* One AHS whose content is `len` bytes from `specific` on (RFC 7143 11.2.2.3, 11.2.2.4). */
static int parse_one_ahs(uint8_t type, const uint8_t *content, uint32_t len, struct ahs_fields *out)
{
	if (type == ISCSI_AHS_EXTENDED_CDB) {
		if (len < 2 || out->cdb != NULL)
			return -EINVAL;
		out->cdb = content + 1;
		out->cdb_len = len - 1;
	} else if (type == ISCSI_AHS_BIDI_LENGTH) {
		if (len != 5 || out->has_bidi_len)
			return -EINVAL;
		out->has_bidi_len = true;
		out->bidi_len = load_be32(content + 1);
	} else {
		return -EINVAL;
	}
	return 0;
}

int pdu_parse_ahs(const uint8_t *ahs, uint32_t len, struct ahs_fields *out)
{
	struct reader r = reader_of(ahs, len);

	*out = (struct ahs_fields){0};
	while (reader_left(&r) != 0) {
		uint16_t content_len = read_be16(&r);
		uint8_t type = read_u8(&r);
		const uint8_t *content = read_bytes(&r, content_len);
		int err;

		read_bytes(&r, pdu_padding(3u + content_len));
		if (r.failed)
			return -EINVAL;
		err = parse_one_ahs(type, content, content_len, out);
		if (err != 0)
			return err;
	}
	return 0;
}

void pdu_reject(struct iscsi_conn *c, const struct iscsi_bhs *bhs, enum iscsi_reject_reason why)
{
	struct pdu_out *p = pdu_new(c, ISCSI_REJECT);
	struct iscsi_reject *reject;

	if (p == NULL) {
		conn_doom(c, "out of memory");
		return;
	}
	reject = (struct iscsi_reject *)(void *)p->head;
	reject->reason = low_u8(why);
	reject->itt = be32_of(ISCSI_RESERVED_TAG);
	p->flags = PDU_STATUS;
	(void)pdu_put_data(c, p, bhs, ISCSI_BHS_LEN); /* fits `small` */
	tx_push_control(c, p);
}
