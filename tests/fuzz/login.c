/*
 * Fuzz: the texts of a login. An input is a byte of options and requests, each of them a byte of flags
 * (T, C, CSG and NSG as on the wire), two bytes of length and a text.
 *
 * They go twice through the code: to the negotiation by itself, with what must hold of any outcome,
 * and as login requests to a server.
 */
#include "../lib/world.h"
#include "fuzz.h"

enum options {
	OPT_UNSOLICITED = 0x01,
	OPT_WHO = 0x02, /* the first request also says who comes and where to */
	OPT_FULL_FEATURE = 0x04,
	OPT_NOT_LEADING = 0x08,
	OPT_CHAP = 0x10, /* the server asks for it */
};

#define REQUESTS_MAX 40
#define INPUT_MAX    32768

struct request {
	uint8_t flags;
	const uint8_t *text;
	size_t len;
};

static bool next_request(struct reader *r, struct request *q)
{
	if (reader_left(r) < 3)
		return false;
	q->flags = read_u8(r);
	q->text = fuzz_bytes(r, read_be16(r), &q->len);
	return true;
}

/* What was agreed on is within what RFC 7143 section 13 allows, whatever was sent. */
static void check_params(const struct iscsi_params *p)
{
	CHECK(p->max_recv_dsl_initiator >= 512 && p->max_recv_dsl_initiator < 1u << 24);
	CHECK(p->max_burst >= 512 && p->max_burst < 1u << 24);
	CHECK(p->first_burst >= 512 && p->first_burst < 1u << 24);
	CHECK(p->max_outstanding_r2t >= 1 && p->max_outstanding_r2t <= R2T_MAX);
	CHECK(p->max_connections >= 1 && p->error_recovery_level == 0);
	CHECK(p->header_digest <= KEYS_DIGEST_CRC32C && p->data_digest <= KEYS_DIGEST_CRC32C);
	CHECK(p->session_type <= KEYS_DISCOVERY);
	CHECK(strnlen(p->initiator_name, sizeof(p->initiator_name)) <= KEYS_NAME_MAX);
	CHECK(strnlen(p->target_name, sizeof(p->target_name)) <= KEYS_NAME_MAX);
	CHECK(strnlen(p->initiator_alias, sizeof(p->initiator_alias)) <= KEYS_ALIAS_MAX);
}

/* An answer is key=value and NUL, again and again. */
static void check_reply(const uint8_t *reply, size_t len)
{
	CHECK(len == 0 || reply[len - 1] == '\0');
	for (size_t at = 0; at < len; at += strlen((const char *)reply + at) + 1)
		CHECK(strchr((const char *)reply + at, '=') != NULL);
}

static bool negotiate(struct iscsi_params *p, struct keys_ctx *ctx, const struct request *q)
{
	uint8_t buf[KEYS_REPLY_MAX];
	struct writer reply = writer_of(buf, sizeof(buf));
	/* Of its own size, so that a read past its end is seen. */
	uint8_t *text = malloc(q->len + 1);
	enum keys_status status;

	CHECK(text != NULL);
	if (q->len != 0)
		memcpy(text, q->text, q->len);
	ctx->send_targets = NULL;
	status = keys_negotiate(p, ctx, text, q->len, &reply);
	if (status == KEYS_OK) {
		check_params(p);
		keys_declare(p, ctx, 1, "alias", &reply);
		if (!writer_truncated(&reply))
			check_reply(buf, reply.len);
	}
	free(text);
	return status == KEYS_OK;
}

static void negotiate_all(struct reader r, uint8_t options)
{
	struct iscsi_params p;
	struct keys_ctx ctx = {.leading = (options & OPT_NOT_LEADING) == 0};
	struct request q;

	keys_init(&p, (options & OPT_UNSOLICITED) != 0 ? KEYS_UNSOLICITED : KEYS_R2T_FIRST);
	while (next_request(&r, &q)) {
		ctx.stage = ISCSI_LOGIN_CSG(q.flags) == ISCSI_SECURITY ? KEYS_SECURITY
								       : KEYS_OPERATIONAL;
		if ((options & OPT_FULL_FEATURE) != 0)
			ctx.stage = KEYS_FULL_FEATURE;
		if (!negotiate(&p, &ctx, &q))
			return;
		(void)keys_check_first(&p);
	}
}

static void send_all(struct reader r, uint8_t options)
{
	const struct iscsi_config config = {.unsolicited = (options & OPT_UNSOLICITED) != 0};
	uint8_t text[sizeof(WORLD_WHO) + UINT16_MAX];
	struct request q;
	struct world w;
	struct peer p;

	world_open(&w, "ram:64K", 512, config);
	if ((options & OPT_CHAP) != 0) {
		CHECK(iscsi_add_chap_user(w.iscsi, "user", "a secret of ours", NULL) == 0);
		CHECK(iscsi_set_chap_mutual(w.iscsi, "target", "another secret", NULL) == 0);
	}
	peer_open(&p, &w);
	for (unsigned n = 0; n < REQUESTS_MAX && !p.closed && next_request(&r, &q); n++) {
		struct writer t = writer_of(text, sizeof(text));

		if (n == 0 && (options & OPT_WHO) != 0)
			write_bytes(&t, WORLD_WHO, sizeof(WORLD_WHO) - 1);
		if (q.len != 0)
			write_bytes(&t, q.text, q.len);
		peer_put_login(&p, q.flags, text, t.len);
		world_turn(&w);
		peer_receive(&p);
		p.len = 0;
	}
	peer_settle(&p);
	peer_close(&p);
	world_close(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct reader r = reader_of(data, min_u64(len, INPUT_MAX));
	const uint8_t options = read_u8(&r);

	negotiate_all(r, options);
	send_all(r, options);
	return 0;
}
