/*
 * Text requests and responses in the full feature phase (RFC 7143 11.10, 11.11): one exchange at a
 * time, the request gathered over the C bit, the answer handed out in pieces that the initiator
 * can take. What the text means is for keys.c and discovery.c.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

void text_fini(struct text *t)
{
	free(t->in);
	free(t->out);
	*t = (struct text){.ttt = ISCSI_RESERVED_TAG};
}

static void refuse(struct iscsi_conn *c, const struct pdu_in *pdu, enum iscsi_reject_reason why)
{
	text_fini(&c->session->text);
	pdu_reject(c, pdu->bhs, why);
}

/* The next piece of the answer; an empty one when there is none. */
static void respond(struct iscsi_conn *c, uint8_t request_flags)
{
	struct iscsi_session *s = c->session;
	struct text *t = &s->text;
	size_t left = t->out_len - t->out_at;
	uint32_t len =
		low_u32(min_u64(min_u64(left, s->params.max_recv_dsl_initiator), LOOP_BUF_MAX));
	bool final = len == left && (request_flags & ISCSI_FINAL) != 0;
	struct pdu_out *p = pdu_new(c, ISCSI_TEXT_RESPONSE);
	struct iscsi_bhs *bhs;

	if (p == NULL || pdu_put_data(c, p, len != 0 ? t->out + t->out_at : NULL, len) != 0) {
		pdu_free(c->home, p);
		conn_doom(c, "out of memory");
		return;
	}
	t->out_at += len;
	t->ttt = final ? ISCSI_RESERVED_TAG : session_next_ttt(s);
	bhs = (struct iscsi_bhs *)(void *)p->head;
	bhs->flags = final ? ISCSI_FINAL : len < left ? ISCSI_CONTINUE : 0;
	bhs->itt = be32_of(t->itt);
	bhs->ttt = be32_of(t->ttt);
	p->flags = PDU_STATUS;
	tx_push(c, p);
	if (final)
		text_fini(t);
}

/* Keys first; then, in one piece, what SendTargets asked for. */
static int make_answer(struct iscsi_conn *c, const struct keys_ctx *ctx, const struct writer *reply)
{
	struct text *t = &c->session->text;
	struct writer w = writer_of(NULL, 0);

	if (ctx->send_targets != NULL)
		discovery_answer(c, ctx->send_targets, &w);
	t->out_len = reply->len + w.len;
	t->out_at = 0;
	t->out = malloc(t->out_len + 1);
	if (t->out == NULL)
		return -ENOMEM;
	w = writer_of(t->out, t->out_len);
	write_bytes(&w, reply->buf, reply->len);
	if (ctx->send_targets != NULL)
		discovery_answer(c, ctx->send_targets, &w);
	return 0;
}

static void negotiate(struct iscsi_conn *c, const struct pdu_in *pdu)
{
	struct iscsi_session *s = c->session;
	uint8_t buf[KEYS_REPLY_MAX];
	struct writer reply = writer_of(buf, sizeof(buf));
	struct keys_ctx ctx = {.stage = KEYS_FULL_FEATURE};

	free(s->text.out);
	s->text.out = NULL;
	s->text.out_len = s->text.out_at = 0;
	if (keys_negotiate(&s->params, &ctx, s->text.in, s->text.in_len, &reply) != KEYS_OK) {
		refuse(c, pdu, ISCSI_REJECT_PROTOCOL_ERROR);
		return;
	}
	s->text.in_len = 0;
	if (make_answer(c, &ctx, &reply) != 0)
		conn_doom(c, "out of memory");
	else
		respond(c, pdu->bhs->flags);
}

static int append(struct text *t, const struct pdu_in *pdu)
{
	if (pdu->data_len > KEYS_TEXT_MAX - t->in_len)
		return -E2BIG;
	if (t->in == NULL)
		t->in = malloc(KEYS_TEXT_MAX);
	if (t->in == NULL)
		return -ENOMEM;
	if (pdu->data_len != 0)
		memcpy(t->in + t->in_len, pdu->data, pdu->data_len);
	t->in_len += pdu->data_len;
	return 0;
}

void text_pdu(struct iscsi_conn *c, struct pdu_in *pdu)
{
	struct text *t = &c->session->text;
	uint8_t flags = pdu->bhs->flags;
	uint32_t ttt = be32_get(pdu->bhs->ttt), itt = be32_get(pdu->bhs->itt);

	/* A reserved tag begins anew, and resets what was there (11.10.4). */
	if (ttt == ISCSI_RESERVED_TAG) {
		text_fini(t);
		t->itt = itt;
	} else if (ttt != t->ttt || itt != t->itt) {
		refuse(c, pdu, ISCSI_REJECT_PROTOCOL_ERROR);
		return;
	}
	if (itt == ISCSI_RESERVED_TAG ||
	    (flags & (ISCSI_FINAL | ISCSI_CONTINUE)) == (ISCSI_FINAL | ISCSI_CONTINUE)) {
		refuse(c, pdu, ISCSI_REJECT_PROTOCOL_ERROR);
		return;
	}
	if (append(t, pdu) != 0)
		refuse(c, pdu, ISCSI_REJECT_PROTOCOL_ERROR);
	else if ((flags & ISCSI_CONTINUE) != 0 || t->out_at < t->out_len)
		respond(c, flags);
	else
		negotiate(c, pdu);
}
