/*
 * Fuzz: the PDUs of a connection, before the login and in the full feature phase.
 *
 * An input is a byte of options and the bytes that an initiator sends. They go to a server of their
 * own, so an input does the same each time. Unless the options say that the bytes go out as they
 * are, they are taken for PDUs one behind the other, whose lengths and digests are made right: a
 * mutation then changes what a PDU says and not only where the next one begins. A data segment that
 * lacks bytes is cut to those that are there; with bit 7 of the opcode byte set it is made as long as it
 * says, of the same bytes again and again, so that a small input carries large payloads.
 *
 * What the server says in the full feature phase is judged: PDUs of a target, right digests, StatSN
 * without a gap, windows that never go back (RFC 7143 4.2.2).
 */
#include "../lib/world.h"
#include "fuzz.h"

enum options {
	OPT_PHASE = 0x03, /* enum phase */
	OPT_RAW = 0x04,
	OPT_UNSOLICITED = 0x08,
	OPT_PIECES = 0x70, /* index into `pieces` */
	OPT_4096 = 0x80,   /* blocks of this size */
};

enum phase { BEFORE_LOGIN, FULL, FULL_DIGESTS, FULL_DISCOVERY };

/* Bytes that arrive at a time. */
static const size_t pieces[] = {SIZE_MAX, 1, 7, 47, 48, 300, 4096, 20000};

#define DATA_MAX   (128 * KiB)
#define SMALL_MAX  2000 /* bytes that are worth being sent in small pieces */
#define AMPLIFY    0x80
#define INPUT_DATA 65536

static const char full[] = WORLD_WHO "InitialR2T=No\0MaxBurstLength=65536\0FirstBurstLength=32768\0"
				     "MaxOutstandingR2T=4\0";
static const char digests[] = WORLD_WHO "HeaderDigest=CRC32C\0DataDigest=CRC32C\0InitialR2T=No\0";
static const char discovery[] = WORLD_WHO_DISC;

static const struct {
	const char *text;
	size_t len;
} logins[] = {
	[FULL] = {full, sizeof(full) - 1},
	[FULL_DIGESTS] = {digests, sizeof(digests) - 1},
	[FULL_DISCOVERY] = {discovery, sizeof(discovery) - 1},
};

/* ---- What comes back ---- */

struct judge {
	bool digests;
	uint32_t stat_sn, exp_cmd_sn, max_cmd_sn;
	uint8_t pdu[DATA_MAX * 3];
	size_t have;
};

enum numbers { NO_STATSN, SHOWS_STATSN, TAKES_STATSN };

static enum numbers numbers_of(const struct iscsi_bhs *bhs)
{
	switch (bhs->opcode) {
	case ISCSI_NOP_IN:
		return be32_get(bhs->itt) == ISCSI_RESERVED_TAG ? SHOWS_STATSN : TAKES_STATSN;
	case ISCSI_R2T:
		return SHOWS_STATSN;
	case ISCSI_DATA_IN:
		return (bhs->flags & ISCSI_DATA_IN_STATUS) != 0 ? TAKES_STATSN : NO_STATSN;
	case ISCSI_SCSI_RESPONSE:
	case ISCSI_TASK_MANAGEMENT_RESPONSE:
	case ISCSI_TEXT_RESPONSE:
	case ISCSI_LOGOUT_RESPONSE:
	case ISCSI_REJECT:
	case ISCSI_ASYNC:
		return TAKES_STATSN;
	}
	CHECK(false); /* no PDU of a target in this phase */
	return NO_STATSN;
}

static void judge_pdu(struct judge *j, const struct iscsi_bhs *bhs)
{
	const enum numbers numbers = numbers_of(bhs);

	CHECK(bhs->ahs_words == 0);
	if (numbers != NO_STATSN) {
		CHECK(be32_get(bhs->sn) == j->stat_sn);
		j->stat_sn += numbers == TAKES_STATSN;
	}
	CHECK(!sn_before(be32_get(bhs->exp_sn), j->exp_cmd_sn));
	CHECK(!sn_before(be32_get(bhs->max_cmd_sn), j->max_cmd_sn));
	j->exp_cmd_sn = be32_get(bhs->exp_sn);
	j->max_cmd_sn = be32_get(bhs->max_cmd_sn);
}

/* Bytes of the first PDU when it is whole, else 0. */
static size_t whole_pdu(const struct judge *j)
{
	const struct iscsi_bhs *bhs = (const void *)j->pdu;
	const size_t digest = j->digests ? ISCSI_DIGEST_LEN : 0;
	const size_t data = j->have >= ISCSI_BHS_LEN ? align_up(be24_get(bhs->data_len), 4) : 0;
	const size_t head = ISCSI_BHS_LEN + digest, len = head + data + (data != 0 ? digest : 0);

	if (j->have < head || j->have < len)
		return 0;
	CHECK(!j->digests || pdu_digest_ok(j->pdu, ISCSI_BHS_LEN, j->pdu + ISCSI_BHS_LEN));
	if (j->digests && data != 0)
		CHECK(pdu_digest_ok(j->pdu + head, low_u32(data), j->pdu + head + data));
	return len;
}

static void judge_bytes(void *arg, const uint8_t *bytes, size_t len)
{
	struct judge *j = arg;
	size_t whole;

	while (len != 0) {
		const size_t n = min_u64(len, sizeof(j->pdu) - j->have);

		CHECK(n != 0); /* else a PDU is longer than what was declared */
		memcpy(j->pdu + j->have, bytes, n);
		j->have += n;
		bytes += n;
		len -= n;
		while ((whole = whole_pdu(j)) != 0) {
			judge_pdu(j, (const void *)j->pdu);
			j->have -= whole;
			memmove(j->pdu, j->pdu + whole, j->have);
		}
	}
}

static void judge_begin(struct judge *j, struct peer *p, const struct iscsi_bhs *login,
			bool digested)
{
	j->digests = digested;
	j->have = 0;
	j->stat_sn = be32_get(login->sn) + 1;
	j->exp_cmd_sn = be32_get(login->exp_sn);
	j->max_cmd_sn = be32_get(login->max_cmd_sn);
	p->heard = judge_bytes;
	p->heard_arg = j;
}

/* ---- What is sent ---- */

static void send_in_pieces(struct peer *p, const uint8_t *data, size_t len, size_t piece)
{
	if (len > SMALL_MAX)
		piece = max_u64(piece, 300);
	while (len != 0 && !p->closed) {
		const size_t n = min_u64(len, piece);

		peer_send(p, data, n);
		data += n;
		len -= n;
		if (len != 0)
			world_turn(p->w);
		peer_receive(p);
		p->len = 0;
	}
}

/* Payload as the header says, from the bytes that are there. Returns its length. */
static uint32_t fill(uint8_t *to, struct reader *r, uint32_t want, bool amplify)
{
	const uint8_t *from;
	size_t got;

	from = fuzz_bytes(r, want, &got);
	if (got != 0)
		memcpy(to, from, got);
	if (!amplify)
		return low_u32(got);
	want = low_u32(min_u64(want, DATA_MAX));
	for (size_t at = got; at < want; at++)
		to[at] = got != 0 ? to[at - got] : low_u8(at);
	return want;
}

static size_t put_digest(uint8_t *at, const uint8_t *from, size_t len)
{
	store_le32(at, crc32c(0, from, len));
	return ISCSI_DIGEST_LEN;
}

/* The next PDU of the input as it goes out; 0: no more. */
static size_t next_pdu(uint8_t *out, struct reader *r, bool digested)
{
	struct iscsi_bhs *bhs = (void *)out;
	const uint8_t *from;
	uint32_t data_len;
	size_t got, len, at = ISCSI_BHS_LEN;
	bool amplify;

	from = fuzz_bytes(r, ISCSI_BHS_LEN, &got);
	if (got == 0)
		return 0;
	memset(out, 0, ISCSI_BHS_LEN);
	memcpy(out, from, got);
	amplify = (bhs->opcode & AMPLIFY) != 0;
	bhs->opcode &= (uint8_t)~AMPLIFY;
	from = fuzz_bytes(r, bhs->ahs_words * 4u, &got);
	bhs->ahs_words = low_u8(got / 4);
	if (got >= 4)
		memcpy(out + at, from, align_down(got, 4));
	at += bhs->ahs_words * 4u;
	len = at;
	at += digested ? ISCSI_DIGEST_LEN : 0;
	data_len = fill(out + at, r, be24_get(bhs->data_len), amplify);
	bhs->data_len = be24_of(data_len);
	if (digested)
		put_digest(out + len, out, len);
	len = at;
	at += data_len;
	memset(out + at, 0, pdu_padding(data_len));
	at += pdu_padding(data_len);
	if (digested && data_len != 0)
		at += put_digest(out + at, out + len, at - len);
	return at;
}

static bool log_in(struct peer *p, enum phase phase)
{
	static struct judge judge;
	size_t taken = 0;
	const struct iscsi_bhs *bhs;

	if (phase == BEFORE_LOGIN)
		return true;
	peer_put_login(p, PEER_TO_FULL, logins[phase].text, logins[phase].len);
	bhs = peer_pdu(p, &taken);
	if (bhs == NULL || bhs->opcode != ISCSI_LOGIN_RESPONSE || (bhs->flags & ISCSI_FINAL) == 0)
		return false;
	judge_begin(&judge, p, bhs, phase == FULL_DIGESTS);
	p->len = 0;
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static uint8_t out[DATA_MAX + INPUT_DATA + 4096];
	struct reader r = reader_of(data, min_u64(len, INPUT_DATA));
	const uint8_t options = read_u8(&r);
	const enum phase phase = options & OPT_PHASE;
	const size_t piece = pieces[(options & OPT_PIECES) >> 4];
	const struct iscsi_config config = {.unsolicited = (options & OPT_UNSOLICITED) != 0};
	const uint8_t *raw;
	struct world w;
	struct peer p;
	size_t n;

	world_open(&w, "ram:1M", (options & OPT_4096) != 0 ? 4096 : 512, config);
	peer_open(&p, &w);
	CHECK(log_in(&p, phase));
	if ((options & OPT_RAW) != 0) {
		raw = fuzz_bytes(&r, SIZE_MAX, &n);
		if (n != 0)
			send_in_pieces(&p, raw, n, piece);
	} else {
		while (!p.closed && (n = next_pdu(out, &r, phase == FULL_DIGESTS)) != 0)
			send_in_pieces(&p, out, n, piece);
	}
	peer_settle(&p);
	peer_close(&p);
	world_close(&w);
	return 0;
}
