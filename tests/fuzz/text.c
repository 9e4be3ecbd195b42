/*
 * Fuzz: text exchanges of the full feature phase: SendTargets, negotiation after the login, texts over
 * several requests, answers in pieces.
 *
 * An input is a byte of options and requests, each of them a byte of flags (F and C as on the wire,
 * and enum more), two bytes of length and a text. Tags and numbers are right unless `more` says
 * otherwise: the target transfer tag is the one that the last answer gave.
 */
#include "../lib/world.h"
#include "fuzz.h"

enum options { OPT_DISCOVERY = 0x01, OPT_SMALL_ANSWERS = 0x02 };

enum more {
	MORE_NEW_TAG = 0x01,   /* an initiator task tag of its own */
	MORE_RESET = 0x02,     /* no target transfer tag */
	MORE_WRONG_TTT = 0x04, /* one that nobody gave */
	MORE_NUMBERED = 0x08,  /* not immediate */
	MORE_NO_WAIT = 0x10,   /* the next one comes before the answer */
};

#define TARGETS      12
#define REQUESTS_MAX 60

static const char discovery[] = WORLD_WHO_DISC "MaxRecvDataSegmentLength=65536\0";
static const char discovery_small[] = WORLD_WHO_DISC "MaxRecvDataSegmentLength=512\0";
static const char normal[] = WORLD_WHO "MaxRecvDataSegmentLength=65536\0";
static const char normal_small[] = WORLD_WHO "MaxRecvDataSegmentLength=512\0";

/* By the options. */
static const struct {
	const char *text;
	size_t len;
} logins[] = {
	{normal, sizeof(normal) - 1},
	{discovery, sizeof(discovery) - 1},
	{normal_small, sizeof(normal_small) - 1},
	{discovery_small, sizeof(discovery_small) - 1},
};

struct more_targets {
	struct world w;
	struct scsi_target *targets[TARGETS];
};

/* So many that an answer fills several PDUs. */
static void add_targets(struct more_targets *m)
{
	char name[128];

	for (unsigned i = 0; i < TARGETS; i++) {
		str_format(name, sizeof(name),
			   "iqn.2026-11.test:%u.another-disk-with-a-name-of-some-length-so-that-"
			   "few-fill-a-pdu",
			   i);
		CHECK(scsi_target_create(&m->targets[i], name) == 0);
		CHECK(iscsi_add_target(m->w.iscsi, m->targets[i], NULL, NULL) == 0);
	}
}

struct exchange {
	uint32_t itt, ttt;
};

static void put_text(struct peer *p, struct exchange *x, uint8_t flags, const uint8_t *text,
		     size_t len)
{
	static const uint8_t zeros[4];
	struct iscsi_bhs bhs = {
		.opcode = ISCSI_TEXT | ((flags & MORE_NUMBERED) == 0 ? ISCSI_IMMEDIATE : 0),
		.flags = flags & (ISCSI_FINAL | ISCSI_CONTINUE),
		.data_len = be24_of(low_u32(len)),
		.sn = be32_of(p->cmd_sn),
	};

	if ((flags & MORE_NEW_TAG) != 0)
		x->itt++;
	if ((flags & MORE_RESET) != 0)
		x->ttt = ISCSI_RESERVED_TAG;
	bhs.itt = be32_of(x->itt);
	bhs.ttt = be32_of((flags & MORE_WRONG_TTT) != 0 ? x->ttt + 1 : x->ttt);
	if ((flags & MORE_NUMBERED) != 0)
		p->cmd_sn++;
	peer_send(p, &bhs, sizeof(bhs));
	if (len != 0)
		peer_send(p, text, len);
	peer_send(p, zeros, pdu_padding(low_u32(len)));
}

/* false: the connection is at its end. */
static bool take_answer(struct peer *p, struct exchange *x)
{
	size_t taken = 0;
	const struct iscsi_bhs *bhs = peer_pdu(p, &taken);

	if (bhs == NULL)
		return false;
	CHECK(bhs->opcode == ISCSI_TEXT_RESPONSE || bhs->opcode == ISCSI_REJECT);
	if (bhs->opcode == ISCSI_TEXT_RESPONSE)
		x->ttt = be32_get(bhs->ttt);
	memmove(p->buf, p->buf + taken, p->len - taken);
	p->len -= taken;
	return true;
}

static void exchange(struct peer *p, struct reader *r)
{
	struct exchange x = {.itt = 1, .ttt = ISCSI_RESERVED_TAG};
	unsigned open = 0;

	for (unsigned n = 0; n < REQUESTS_MAX && reader_left(r) >= 3; n++) {
		const uint8_t flags = read_u8(r);
		size_t len;
		const uint8_t *text = fuzz_bytes(r, min_u64(read_be16(r), KEYS_MAX_RECV_DSL), &len);

		put_text(p, &x, flags, text, len);
		open++;
		if ((flags & MORE_NO_WAIT) != 0)
			continue;
		for (; open != 0; open--)
			if (!take_answer(p, &x))
				return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct reader r = reader_of(data, len);
	const uint8_t options = read_u8(&r) % ARRAY_LEN(logins);
	struct more_targets m;
	struct peer p;
	size_t taken = 0;

	world_open(&m.w, "ram:64K", 512, (struct iscsi_config){0});
	add_targets(&m);
	peer_open(&p, &m.w);
	peer_put_login(&p, PEER_TO_FULL, logins[options].text, logins[options].len);
	CHECK(peer_pdu(&p, &taken) != NULL);
	p.len = 0;
	exchange(&p, &r);
	peer_settle(&p);
	peer_close(&p);
	world_close(&m.w);
	for (unsigned i = 0; i < TARGETS; i++)
		scsi_target_destroy(m.targets[i]);
	return 0;
}
