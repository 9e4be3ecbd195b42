/*
 * Random commands of several nexuses at one disk, judged by a model of it in memory. The engine of
 * two programs: scsi_model.c runs it on threads, tests/sim/scsi_model.c on simulated loops, where a
 * seed decides the order of all messages.
 *
 * Each nexus lives on a loop of its own and has some tasks under way at any time. The disk has three
 * areas:
 *
 *   plain    a command claims its blocks in the model before it is sent: readers share them, a
 *            writer has them alone. So what each must answer and leave behind is known exactly,
 *            while neighbouring blocks change.
 *   chains   some ranges of blocks, each holding one value over and over; every nexus tries COMPARE
 *            AND WRITE from the value that it saw to the next one, unclaimed, and one nexus writes a
 *            new beginning now and then. No value is left twice, and the last one is the end of a
 *            chain of successes from the last beginning: no update was lost or torn.
 *   bits     ORWRITE only, unclaimed: every bit that was answered stands, and no bit that nobody
 *            sent.
 *
 * At the end the whole disk is read back.
 */
#ifndef SPINDLE_TEST_SCSI_MODEL_H
#define SPINDLE_TEST_SCSI_MODEL_H

#include "scsi/impl.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MODEL_LOOPS      4
#define MODEL_SLOTS      3 /* tasks of a nexus at a time */
#define MODEL_DISK       (8 * MiB)
#define MODEL_CHAINS_AT  (5 * MiB) /* below it the plain area */
#define MODEL_BITS_AT    (7 * MiB)
#define MODEL_DATA_MAX   (2 * 255 * 4096u) /* COMPARE AND WRITE */
#define MODEL_PLAIN_MAX  (3 * SCSI_SEG_MAX + 20 * 1024u)
#define MODEL_CHAINS     4
#define MODEL_BEGINNINGS 512
#define MODEL_STEPS      512 /* of a chain from one beginning */

struct model_slot;
struct model_client;
struct model;

enum model_claim { CLAIM_NONE, CLAIM_SHARED, CLAIM_ALONE };

/* A kind of command. */
struct model_op {
	const char *name;
	uint8_t opcode, action; /* action: CMD_NO_SA where there is none */
	unsigned weight;
	enum model_claim claim;
	uint32_t max_blocks; /* 0: as much as fits the buffers */
	/* The rest of the CDB, the data, and what must come of it. The blocks are claimed. */
	void (*make)(struct model_slot *s);
	/* It ended as it should: what it brought, and what it did to the disk. */
	void (*ended)(struct model_slot *s);
};

enum model_end { END_GOOD, END_MISCOMPARE, END_BAD_LENGTH, END_GOOD_OR_MISCOMPARE };

/* One task at a time. */
struct model_slot {
	struct scsi_task t;
	struct loop_msg next;
	struct model_client *client;
	unsigned out; /* segments under way */
	bool finished;
	const struct model_op *op;
	uint32_t lba, nblocks; /* what it claimed, and is about */
	uint32_t data_len;     /* bytes of the command's own data, in or out */
	uint32_t brought;      /* bytes of it that the initiator takes or brings */
	uint32_t moved;
	enum model_end end;
	uint64_t information; /* with END_MISCOMPARE */
	uint32_t verified;    /* BYTCHK */
	struct model_chain *chain;
	uint64_t value; /* of a chain: what it goes to */
	uint8_t *data, *was;
};

struct model_client {
	struct nexus nexus;
	struct model *model;
	struct loop_msg begin;
	struct model_slot slots[MODEL_SLOTS];
	unsigned index, ops, busy;
	bool closing;
	uint64_t random;
	uint64_t seen[MODEL_CHAINS]; /* the value to go on from; 0: not known */
	uint32_t readback;           /* the next block of the end */
};

struct model_chain {
	uint32_t lba, nblocks, beginning;
	bool beginning_anew;
	uint8_t won[MODEL_BEGINNINGS][MODEL_STEPS]; /* that a step was made from here */
};

struct model {
	uint64_t seed;
	uint32_t block_size, nblocks, chains_at, bits_at; /* blocks */
	const char *where;                                /* what to say of a failure */
	struct scsi_target *target;
	struct loop_set *set;
	struct model_client clients[MODEL_LOOPS];
	bool op_exists[64];
	bool unmap_zeroes;
	/* Under the mutex, where loops are threads. */
	pthread_mutex_t mutex;
	unsigned working;
	bool reading_back, done;
	uint8_t *data;       /* what the plain area holds; of the bits, what was answered */
	uint8_t *sent;       /* of the bits: what was sent */
	uint8_t *maybe_zero; /* a block that UNMAP was about: as `data` says, or zeros */
	uint16_t *claims;    /* a block's readers; CLAIMED_ALONE */
	struct model_chain chains[MODEL_CHAINS];
	unsigned counts[64], attentions, steps, misses;
	void (*stop)(struct model *m);
};

#define CLAIMED_ALONE UINT16_MAX

/* ---- Failing ---- */

_Noreturn static void model_fail(const struct model_slot *s, const char *what)
{
	const struct model *m = s->client->model;
	const struct scsi_task *t = &s->t;

	fprintf(stderr, "%s: %s\n  nexus %u, %s, blocks %u to %u, in %u out %u, moved %u\n  cdb",
		m->where, what, s->client->index, s->op->name, s->lba, s->lba + s->nblocks,
		t->reads ? t->expected_in : 0, t->writes ? t->expected_out : 0, s->moved);
	for (unsigned i = 0; i < 16; i++)
		fprintf(stderr, " %02x", t->cdb[i]);
	fprintf(stderr, "\n  status %02x, residuals %u %u, sense", t->status, t->underflow,
		t->overflow);
	for (unsigned i = 0; i < t->sense_len && t->status == SCSI_CHECK_CONDITION; i++)
		fprintf(stderr, " %02x", t->sense[i]);
	fprintf(stderr, "\n");
	abort();
}

static void model_expect(const struct model_slot *s, bool so, const char *what)
{
	if (!so)
		model_fail(s, what);
}

/* ---- Random numbers: of each client its own ---- */

static uint64_t model_random(struct model_client *c)
{
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	return c->random * UINT64_C(0x2545f4914f6cdd1d);
}

static uint32_t model_pick(struct model_client *c, uint32_t bound)
{
	return (uint32_t)((model_random(c) >> 32) * bound >> 32);
}

static bool model_chance(struct model_client *c, unsigned percent)
{
	return model_pick(c, 100) < percent;
}

static void model_fill(struct model_slot *s, uint32_t len)
{
	uint64_t state = model_random(s->client);

	for (uint32_t at = 0; at < len; at += 8) {
		state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		memcpy(s->data + at, &state, 8);
	}
}

/* ---- The model's blocks ---- */

static uint32_t model_bytes(const struct model_slot *s)
{
	return s->nblocks * s->client->model->block_size;
}

static uint8_t *model_at(const struct model_slot *s)
{
	return s->client->model->data + (size_t)s->lba * s->client->model->block_size;
}

static bool model_is_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static bool model_claim(struct model_slot *s)
{
	struct model *m = s->client->model;
	uint16_t *claims = m->claims + s->lba;
	const bool alone = s->op->claim == CLAIM_ALONE;
	bool ok = true;

	if (s->op->claim == CLAIM_NONE)
		return true;
	pthread_mutex_lock(&m->mutex);
	for (uint32_t i = 0; i < s->nblocks && ok; i++)
		ok = alone ? claims[i] == 0 : claims[i] != CLAIMED_ALONE;
	for (uint32_t i = 0; i < s->nblocks && ok; i++)
		claims[i] = alone ? CLAIMED_ALONE : (uint16_t)(claims[i] + 1);
	pthread_mutex_unlock(&m->mutex);
	return ok;
}

static void model_unclaim(struct model_slot *s)
{
	struct model *m = s->client->model;
	uint16_t *claims = m->claims + s->lba;

	if (s->op->claim == CLAIM_NONE)
		return;
	pthread_mutex_lock(&m->mutex);
	for (uint32_t i = 0; i < s->nblocks; i++)
		claims[i] = s->op->claim == CLAIM_ALONE ? 0 : (uint16_t)(claims[i] - 1);
	pthread_mutex_unlock(&m->mutex);
}

/* The block reads so: right or not, and of what was not sure now it is. Under the mutex. */
static bool model_block_reads(struct model *m, uint32_t lba, const uint8_t *found, uint32_t len)
{
	uint8_t *known = m->data + (size_t)lba * m->block_size;

	if (memcmp(known, found, len) == 0) {
		if (len == m->block_size)
			m->maybe_zero[lba] = 0;
		return true;
	}
	if (!m->maybe_zero[lba] || !model_is_zero(found, len))
		return false;
	memset(known, 0, m->block_size);
	m->maybe_zero[lba] = 0;
	return true;
}

static void model_has_read(struct model_slot *s, uint32_t len)
{
	struct model *m = s->client->model;
	bool right = true;
	char text[64];
	uint32_t at;

	pthread_mutex_lock(&m->mutex);
	for (at = 0; at < len && right; at += m->block_size)
		right = model_block_reads(m, s->lba + at / m->block_size, s->data + at,
					  (uint32_t)min_u64(len - at, m->block_size));
	pthread_mutex_unlock(&m->mutex);
	snprintf(text, sizeof(text), "block %u reads wrong", s->lba + at / m->block_size - 1);
	model_expect(s, right, text);
}

/* The blocks from the claim's begin on hold these bytes now. */
static void model_has_written(struct model_slot *s, const uint8_t *data, uint32_t len)
{
	struct model *m = s->client->model;

	memcpy(model_at(s), data, len);
	memset(m->maybe_zero + s->lba, 0, len / m->block_size);
}

static bool model_is_sure(const struct model_slot *s)
{
	const struct model *m = s->client->model;

	return memchr(m->maybe_zero + s->lba, 1, s->nblocks) == NULL;
}

/* ---- CDBs ---- */

static void model_cdb(struct model_slot *s, uint8_t flags)
{
	uint8_t *cdb = s->t.cdb;

	cdb[1] |= flags;
	switch (cdb[0] >> 5) {
	case 0:
		store_be24(cdb + 1, s->lba);
		cdb[4] = (uint8_t)s->nblocks; /* 0: 256 */
		break;
	case 5:
		store_be32(cdb + 2, s->lba);
		store_be32(cdb + 6, s->nblocks);
		break;
	case 4:
		store_be64(cdb + 2, s->lba);
		store_be32(cdb + 10, s->nblocks);
		break;
	default:
		store_be32(cdb + 2, s->lba);
		store_be16(cdb + 7, (uint16_t)s->nblocks);
	}
}

static void model_data_in(struct model_slot *s, uint32_t len, uint32_t expected)
{
	s->data_len = len;
	s->t.reads = expected != 0;
	s->t.expected_in = expected;
	s->brought = (uint32_t)min_u64(len, expected);
}

static void model_data_out(struct model_slot *s, uint32_t len, uint32_t expected)
{
	s->data_len = len;
	s->t.writes = expected != 0;
	s->t.expected_out = expected;
	s->brought = (uint32_t)min_u64(len, expected);
}

/* Now and then the initiator expects more or less than the command moves. */
static uint32_t model_expected(struct model_slot *s, uint32_t len)
{
	struct model_client *c = s->client;
	const uint32_t bs = c->model->block_size;

	switch (model_pick(c, 16)) {
	case 0: /* less, by any number of bytes */
		return model_pick(c, len);
	case 1: /* less, in whole blocks */
		return model_pick(c, len / bs) * bs;
	case 2:
		return (uint32_t)min_u64(len + 1 + model_pick(c, 2000), MODEL_DATA_MAX);
	default:
		return len;
	}
}

static uint8_t model_cache_flags(struct model_slot *s)
{
	const uint8_t dpo = model_chance(s->client, 10) ? 0x10 : 0;

	/* The 6 byte CDBs have none. */
	return s->t.cdb[0] < 0x20 ? 0 : dpo | (model_chance(s->client, 20) ? 0x08 : 0);
}

/* ---- The plain area ---- */

static void make_read(struct model_slot *s)
{
	const uint32_t len = model_bytes(s);

	model_cdb(s, model_cache_flags(s));
	model_data_in(s, len, model_expected(s, len));
}

static void ended_read(struct model_slot *s)
{
	model_has_read(s, s->brought);
}

static void make_write(struct model_slot *s)
{
	const uint32_t len = model_bytes(s);

	model_cdb(s, model_cache_flags(s));
	model_fill(s, len);
	model_data_out(s, len, model_expected(s, len));
	if (s->brought % s->client->model->block_size != 0)
		s->end = END_BAD_LENGTH;
}

static void ended_write(struct model_slot *s)
{
	if (s->end == END_GOOD)
		model_has_written(s, s->data, s->brought);
}

/* BYTCHK 00b or 01b. */
static void make_write_verify(struct model_slot *s)
{
	make_write(s);
	s->t.cdb[1] &= (uint8_t)~0x08; /* it has no FUA */
	s->t.cdb[1] |= model_chance(s->client, 50) ? 0x02 : 0;
}

static void make_verify(struct model_slot *s)
{
	static const uint8_t choices[] = {0, 1, 1, 3};
	struct model *m = s->client->model;
	const uint32_t bs = m->block_size;
	const uint32_t len = model_bytes(s);

	s->verified = choices[model_pick(s->client, 4)];
	if (!model_is_sure(s))
		s->verified = 0;
	model_cdb(s, (uint8_t)(s->verified << 1));
	if (s->verified == 0)
		return;
	memcpy(s->data, model_at(s), len);
	if (model_chance(s->client, 30))
		s->data[model_pick(s->client, s->verified == 1 ? len : bs)] ^= 0x10;
	model_data_out(s, s->verified == 1 ? len : bs, s->verified == 1 ? len : bs);
	for (uint32_t at = 0; at < len; at++) {
		if (s->data[s->verified == 1 ? at : at % bs] == model_at(s)[at])
			continue;
		s->end = END_MISCOMPARE;
		s->information = UINT64_MAX; /* any, or none */
		return;
	}
}

static void ended_nothing(struct model_slot *s)
{
}

static void make_orwrite(struct model_slot *s)
{
	const uint32_t len = model_bytes(s);

	model_cdb(s, model_cache_flags(s));
	model_fill(s, len);
	model_data_out(s, len, len);
}

static void ended_orwrite(struct model_slot *s)
{
	struct model *m = s->client->model;
	uint8_t *known = model_at(s);

	/* What UNMAP left open is open still: one of two things. Read it before it is changed. */
	for (uint32_t at = 0; at < s->data_len; at++) {
		if (!m->maybe_zero[s->lba + at / m->block_size])
			known[at] |= s->data[at];
	}
}

static void make_orwrite_plain(struct model_slot *s)
{
	if (!model_is_sure(s)) {
		s->t.cdb[0] = 0x88;
		make_read(s);
		return;
	}
	make_orwrite(s);
}

static void ended_orwrite_plain(struct model_slot *s)
{
	if (s->t.cdb[0] == 0x88)
		ended_read(s);
	else
		ended_orwrite(s);
}

/* One to three pieces of the blocks that were claimed. */
static void make_unmap(struct model_slot *s)
{
	const uint32_t pieces = 1 + model_pick(s->client, (uint32_t)min_u64(s->nblocks, 3));
	struct writer w = writer_of(s->data, MODEL_DATA_MAX);
	uint32_t at = 0;

	write_be16(&w, (uint16_t)(6 + 16 * pieces));
	write_be16(&w, (uint16_t)(16 * pieces));
	write_be32(&w, 0);
	for (uint32_t i = 0; i < pieces; i++) {
		const uint32_t left = s->nblocks - at;
		const uint32_t n = i + 1 < pieces ? model_pick(s->client, left) : left;
		const uint32_t gap = i + 1 < pieces ? 0 : model_pick(s->client, left);

		write_be64(&w, s->lba + at + gap);
		write_be32(&w, n - gap);
		write_be32(&w, 0);
		memset(s->was + at, 0, gap);
		memset(s->was + at + gap, 1, n - gap);
		at += n;
	}
	store_be16(s->t.cdb + 7, (uint16_t)w.len);
	model_data_out(s, (uint32_t)w.len, (uint32_t)w.len);
}

static void ended_unmap(struct model_slot *s)
{
	struct model *m = s->client->model;

	for (uint32_t i = 0; i < s->nblocks; i++)
		m->maybe_zero[s->lba + i] |= s->was[i];
}

/* WRITE SAME: UNMAP, and in the 16 byte one NDOB; zeros now and then, for which space is freed. */
static void make_write_same(struct model_slot *s)
{
	const uint32_t bs = s->client->model->block_size;
	const bool ndob = s->t.cdb[0] == 0x93 && model_chance(s->client, 30);
	const uint32_t brought = model_chance(s->client, 90) ? bs : model_pick(s->client, bs);

	model_cdb(s, (uint8_t)((ndob ? 0x01 : 0) | (model_chance(s->client, 50) ? 0x08 : 0)));
	model_fill(s, bs);
	if (ndob || model_chance(s->client, 30))
		memset(s->data, 0, bs);
	if (ndob)
		return;
	model_data_out(s, bs, brought);
	if (brought != bs)
		s->end = END_BAD_LENGTH;
}

static void ended_write_same(struct model_slot *s)
{
	const uint32_t bs = s->client->model->block_size;
	uint8_t *known = model_at(s);

	if (s->end != END_GOOD)
		return;
	for (uint32_t i = 0; i < s->nblocks; i++)
		memcpy(known + (size_t)i * bs, s->data, bs);
	memset(s->client->model->maybe_zero + s->lba, 0, s->nblocks);
}

static void model_cdb_caw(struct model_slot *s)
{
	store_be64(s->t.cdb + 2, s->lba);
	s->t.cdb[13] = (uint8_t)s->nblocks;
	s->t.cdb[1] = model_cache_flags(s);
}

static void make_caw(struct model_slot *s)
{
	const uint32_t len = model_bytes(s);

	model_cdb_caw(s);
	model_fill(s, 2 * len);
	memcpy(s->data, model_at(s), len);
	model_data_out(s, 2 * len, 2 * len);
	if (!model_is_sure(s)) {
		s->end = END_GOOD_OR_MISCOMPARE;
	} else if (model_chance(s->client, 40)) {
		s->information = model_pick(s->client, len);
		s->data[s->information] ^= 0x01;
		s->end = END_MISCOMPARE;
	}
}

static void ended_caw(struct model_slot *s)
{
	if (s->t.status == SCSI_GOOD)
		model_has_written(s, s->data + s->data_len / 2, s->data_len / 2);
}

static void make_lba_status(struct model_slot *s)
{
	store_be64(s->t.cdb + 2, s->lba);
	store_be32(s->t.cdb + 10, 8 + 16 * 20);
	model_data_in(s, 8 + 16 * 20, 8 + 16 * 20);
}

/* A block without space reads zeros. */
static void model_is_hole(struct model_slot *s, uint64_t lba)
{
	struct model *m = s->client->model;
	bool right = true;

	if (lba >= s->lba + s->nblocks || !m->unmap_zeroes)
		return;
	pthread_mutex_lock(&m->mutex);
	if (m->maybe_zero[lba]) {
		m->maybe_zero[lba] = 0;
		memset(m->data + lba * m->block_size, 0, m->block_size);
	}
	right = model_is_zero(m->data + lba * m->block_size, m->block_size);
	pthread_mutex_unlock(&m->mutex);
	model_expect(s, right, "a block with data is said to be deallocated");
}

static void ended_lba_status(struct model_slot *s)
{
	struct reader r = reader_of(s->data, s->moved);
	uint64_t at = s->lba, left = read_be32(&r);

	model_expect(s, left >= 4 + 16 && left % 16 == 4, "the length of the LBA status list");
	read_be32(&r);
	for (left -= 4; left != 0 && reader_left(&r) >= 16; left -= 16) {
		const uint64_t lba = read_be64(&r);
		const uint32_t n = read_be32(&r);
		const uint8_t status = read_u8(&r) & 0x0f;

		read_be24(&r);
		model_expect(s, lba == at && n != 0 && status <= 2, "an LBA status descriptor");
		for (; at < lba + n && status != 0; at++)
			model_is_hole(s, at);
		at = lba + n;
	}
	model_expect(s, at <= s->client->model->nblocks, "LBA status beyond the disk");
}

static void make_sync(struct model_slot *s)
{
	if (model_chance(s->client, 50))
		model_cdb(s, 0);
}

static void make_nothing(struct model_slot *s)
{
}

/* ---- Chains ---- */

static uint64_t model_value(uint32_t beginning, uint32_t step)
{
	return (uint64_t)beginning << 32 | step;
}

/* A value fills a block, and every block of its chain. */
static void model_put_value(struct model_slot *s, uint8_t *to, uint64_t value)
{
	const struct model *m = s->client->model;
	uint64_t state = value ^ m->seed;

	store_be64(to, value);
	for (uint32_t at = 8; at < m->block_size; at += 8) {
		state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		memcpy(to + at, &state, 8);
	}
	for (uint32_t i = 1; i < s->nblocks; i++)
		memcpy(to + (size_t)i * m->block_size, to, m->block_size);
}

static void model_on_chain(struct model_slot *s)
{
	const unsigned n = model_pick(s->client, MODEL_CHAINS);

	s->chain = &s->client->model->chains[n];
	s->value = s->client->seen[n];
	s->lba = s->chain->lba;
	s->nblocks = s->chain->nblocks;
}

static uint64_t *model_seen(struct model_slot *s)
{
	return &s->client->seen[s->chain - s->client->model->chains];
}

static void make_chain_begin(struct model_slot *s)
{
	struct model *m = s->client->model;
	bool mine;

	pthread_mutex_lock(&m->mutex);
	mine = !s->chain->beginning_anew && s->chain->beginning + 1 < MODEL_BEGINNINGS;
	if (mine) {
		s->chain->beginning_anew = true;
		s->chain->beginning++;
	}
	s->value = model_value(s->chain->beginning, 0);
	pthread_mutex_unlock(&m->mutex);
	s->t.cdb[0] = mine ? 0x8a : 0x00;
	if (!mine)
		return;
	model_cdb(s, model_cache_flags(s));
	model_put_value(s, s->data, s->value);
	model_data_out(s, model_bytes(s), model_bytes(s));
}

/* From the value that was seen to the next, or a look at what there is. */
static void make_chain(struct model_slot *s)
{
	const uint32_t len = model_bytes(s);

	if (s->client->index == 0 && (s->chain->beginning == 0 || model_chance(s->client, 4))) {
		make_chain_begin(s);
		return;
	}
	if (s->value == 0 || low_u32(s->value) + 1 >= MODEL_STEPS) {
		s->t.cdb[0] = 0x88;
		model_cdb(s, 0);
		model_data_in(s, len, len);
		return;
	}
	model_cdb_caw(s);
	model_put_value(s, s->data, s->value);
	model_put_value(s, s->data + len, s->value + 1);
	model_data_out(s, 2 * len, 2 * len);
	s->end = END_GOOD_OR_MISCOMPARE;
}

static void ended_chain_step(struct model_slot *s)
{
	struct model *m = s->client->model;
	uint8_t *won = &s->chain->won[s->value >> 32][low_u32(s->value)];
	bool twice;

	if (s->t.status != SCSI_GOOD) {
		*model_seen(s) = 0;
		m->misses++;
		return;
	}
	pthread_mutex_lock(&m->mutex);
	twice = *won != 0;
	*won = 1;
	m->steps++;
	pthread_mutex_unlock(&m->mutex);
	model_expect(s, !twice, "two COMPARE AND WRITE made the same step");
	*model_seen(s) = s->value + 1;
}

static void ended_chain(struct model_slot *s)
{
	const uint64_t found = load_be64(s->data);

	if (s->t.cdb[0] == 0x8a)
		s->chain->beginning_anew = false; /* client 0's alone */
	else if (s->t.cdb[0] == 0x89)
		ended_chain_step(s);
	else if (s->t.cdb[0] == 0x88 && found >> 32 < MODEL_BEGINNINGS &&
		 low_u32(found) < MODEL_STEPS)
		*model_seen(s) = found;
}

static void model_chain_not_begun(struct model_slot *s)
{
	struct model *m = s->client->model;

	pthread_mutex_lock(&m->mutex);
	s->chain->beginning--;
	s->chain->beginning_anew = false;
	pthread_mutex_unlock(&m->mutex);
}

/* Nobody is at it any more. */
static void model_chain_end(struct model_slot *s, const struct model_chain *chain)
{
	const struct model *m = s->client->model;
	const uint64_t value = load_be64(s->data);
	const uint32_t len = chain->nblocks * m->block_size;

	if (chain->beginning == 0)
		return;
	model_expect(s, value >> 32 == chain->beginning && low_u32(value) < MODEL_STEPS,
		     "a chain does not end behind its last beginning");
	model_put_value(s, s->was, value);
	model_expect(s, memcmp(s->data, s->was, len) == 0, "the blocks of a chain differ");
	for (uint32_t i = 0; i < MODEL_STEPS; i++)
		model_expect(s, chain->won[chain->beginning][i] == (i < low_u32(value)),
			     "the steps of a chain are not those that were made");
}

/* ---- Bits ---- */

static void make_bits(struct model_slot *s)
{
	struct model *m = s->client->model;
	const uint32_t len = model_bytes(s);

	if (model_chance(s->client, 30)) {
		s->t.cdb[0] = 0x88;
		model_cdb(s, 0);
		model_data_in(s, len, len);
		pthread_mutex_lock(&m->mutex);
		memcpy(s->was, model_at(s), len);
		pthread_mutex_unlock(&m->mutex);
		return;
	}
	model_cdb(s, 0);
	/* Few bits of each byte, lest they soon be all ones. */
	memset(s->data, 0, len);
	for (uint32_t i = 0; i < 8 + len / 64; i++)
		s->data[model_pick(s->client, len)] = (uint8_t)(1u << model_pick(s->client, 8));
	model_data_out(s, len, len);
	pthread_mutex_lock(&m->mutex);
	for (uint32_t at = 0; at < len; at++)
		(m->sent + (model_at(s) - m->data))[at] |= s->data[at];
	pthread_mutex_unlock(&m->mutex);
}

static void ended_bits(struct model_slot *s)
{
	struct model *m = s->client->model;
	const uint8_t *sent = m->sent + (model_at(s) - m->data);
	bool lost = false, foreign = false;

	pthread_mutex_lock(&m->mutex);
	for (uint32_t at = 0; at < s->data_len; at++) {
		if (s->t.cdb[0] == 0x8b)
			model_at(s)[at] |= s->data[at];
		lost |= s->t.cdb[0] == 0x88 && (s->was[at] & ~s->data[at]) != 0;
		foreign |= (s->data[at] & ~sent[at]) != 0;
	}
	pthread_mutex_unlock(&m->mutex);
	model_expect(s, !lost, "a bit was lost");
	model_expect(s, !foreign, "a bit that nobody sent");
}

/* ---- The table ---- */

enum { OP_CHAIN, OP_BITS, OP_FIRST_PLAIN };

static const struct model_op model_ops[] = {
	[OP_CHAIN] = {"a chain", 0x89, CMD_NO_SA, 10, CLAIM_NONE, 0, make_chain, ended_chain},
	[OP_BITS] = {"bits", 0x8b, CMD_NO_SA, 6, CLAIM_NONE, 0, make_bits, ended_bits},
	{"READ(6)", 0x08, CMD_NO_SA, 2, CLAIM_SHARED, 256, make_read, ended_read},
	{"READ(10)", 0x28, CMD_NO_SA, 4, CLAIM_SHARED, 0, make_read, ended_read},
	{"READ(12)", 0xa8, CMD_NO_SA, 2, CLAIM_SHARED, 0, make_read, ended_read},
	{"READ(16)", 0x88, CMD_NO_SA, 6, CLAIM_SHARED, 0, make_read, ended_read},
	{"WRITE(6)", 0x0a, CMD_NO_SA, 2, CLAIM_ALONE, 256, make_write, ended_write},
	{"WRITE(10)", 0x2a, CMD_NO_SA, 5, CLAIM_ALONE, 0, make_write, ended_write},
	{"WRITE(12)", 0xaa, CMD_NO_SA, 2, CLAIM_ALONE, 0, make_write, ended_write},
	{"WRITE(16)", 0x8a, CMD_NO_SA, 6, CLAIM_ALONE, 0, make_write, ended_write},
	{"WRITE AND VERIFY(10)", 0x2e, CMD_NO_SA, 2, CLAIM_ALONE, 0, make_write_verify,
	 ended_write},
	{"WRITE AND VERIFY(12)", 0xae, CMD_NO_SA, 2, CLAIM_ALONE, 0, make_write_verify,
	 ended_write},
	{"WRITE AND VERIFY(16)", 0x8e, CMD_NO_SA, 2, CLAIM_ALONE, 0, make_write_verify,
	 ended_write},
	{"VERIFY(10)", 0x2f, CMD_NO_SA, 2, CLAIM_SHARED, 0, make_verify, ended_nothing},
	{"VERIFY(12)", 0xaf, CMD_NO_SA, 2, CLAIM_SHARED, 0, make_verify, ended_nothing},
	{"VERIFY(16)", 0x8f, CMD_NO_SA, 2, CLAIM_SHARED, 0, make_verify, ended_nothing},
	{"ORWRITE(16)", 0x8b, CMD_NO_SA, 3, CLAIM_ALONE, 0, make_orwrite_plain,
	 ended_orwrite_plain},
	{"UNMAP", 0x42, CMD_NO_SA, 4, CLAIM_ALONE, 0, make_unmap, ended_unmap},
	{"WRITE SAME(10)", 0x41, CMD_NO_SA, 3, CLAIM_ALONE, 0, make_write_same, ended_write_same},
	{"WRITE SAME(16)", 0x93, CMD_NO_SA, 4, CLAIM_ALONE, 0, make_write_same, ended_write_same},
	{"COMPARE AND WRITE", 0x89, CMD_NO_SA, 5, CLAIM_ALONE, 255, make_caw, ended_caw},
	{"GET LBA STATUS", 0x9e, 0x12, 2, CLAIM_SHARED, 0, make_lba_status, ended_lba_status},
	{"SYNCHRONIZE CACHE(10)", 0x35, CMD_NO_SA, 1, CLAIM_NONE, 0, make_sync, ended_nothing},
	{"SYNCHRONIZE CACHE(16)", 0x91, CMD_NO_SA, 1, CLAIM_NONE, 0, make_sync, ended_nothing},
};

/* Only the end has these. */
static const struct model_op model_idle = {"TEST UNIT READY", 0x00, CMD_NO_SA,    0,
					   CLAIM_NONE,        0,    make_nothing, ended_nothing},
			     model_last = {"the end",  0x88, CMD_NO_SA,    0,
					   CLAIM_NONE, 0,    make_nothing, ended_nothing};

/* ---- The transport ---- */

struct model_move {
	struct loop_msg msg;
	struct scsi_seg *seg;
};

static void model_rest(struct model_slot *s);

static struct model_slot *model_slot_of(struct scsi_task *t)
{
	return container_of(t, struct model_slot, t);
}

static void model_moved(struct loop_msg *msg)
{
	struct model_move *move = container_of(msg, struct model_move, msg);
	struct model_slot *s = model_slot_of(move->seg->task);

	scsi_moved(move->seg, 0);
	free(move);
	s->out--;
	model_rest(s);
}

static void model_take(struct model_slot *s, const struct scsi_seg *seg)
{
	uint8_t *p = s->data + seg->off;

	model_expect(s, s->moved <= s->t.expected_in && s->moved <= s->data_len,
		     "more data-in than there is");
	for (unsigned i = 0; i < seg->niov; i++) {
		memcpy(p, seg->iov[i].iov_base, seg->iov[i].iov_len);
		p += seg->iov[i].iov_len;
	}
	model_expect(s, p == s->data + seg->off + seg->len, "a segment of another length");
}

static void model_bring(struct model_slot *s, struct scsi_seg *seg)
{
	model_expect(s, s->moved <= s->t.expected_out && s->moved <= s->data_len,
		     "more data-out than there is");
	seg->buf = loop_buf_get(s->client->nexus.loop, seg->len);
	CHECK(seg->buf != NULL);
	memcpy(seg->buf->data, s->data + seg->off, seg->len);
	seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
	seg->niov = 1;
}

static void model_move(struct scsi_seg *seg)
{
	struct model_slot *s = model_slot_of(seg->task);
	struct model_move *move;

	model_expect(s, seg->off == s->moved, "a segment out of turn");
	s->moved += seg->len;
	if (seg->niov == 0)
		model_bring(s, seg);
	else
		model_take(s, seg);
	if (model_chance(s->client, 50)) {
		s->out++;
		scsi_moved(seg, 0);
		s->out--;
		model_rest(s);
		return;
	}
	move = calloc(1, sizeof(*move));
	CHECK(move != NULL);
	*move = (struct model_move){.seg = seg, .msg = {.run = model_moved}};
	s->out++;
	loop_defer(s->client->nexus.loop, &move->msg);
}

/* It comes back by itself very soon. */
static void model_cancel_move(struct scsi_seg *seg)
{
}

static void model_finish(struct scsi_task *t)
{
	struct model_slot *s = model_slot_of(t);

	model_expect(s, !s->finished, "it ended twice");
	s->finished = true;
	model_rest(s);
}

static const struct scsi_transport model_transport = {
	.name = "test",
	.protocol_id = 5,
	.move = model_move,
	.cancel_move = model_cancel_move,
	.finish = model_finish,
};

/* ---- Judging ---- */

static bool model_sense_is(const struct model_slot *s, uint8_t key, uint8_t asc, uint8_t ascq)
{
	const uint8_t *sense = s->t.sense;

	return s->t.status == SCSI_CHECK_CONDITION && s->t.sense_len == 18 &&
	       (sense[2] & 0x0f) == key && sense[12] == asc && sense[13] == ascq;
}

static void model_judge_miscompare(const struct model_slot *s)
{
	model_expect(s, model_sense_is(s, 0xe, 0x1d, 0x00), "MISCOMPARE is wanted");
	if (s->end == END_MISCOMPARE && s->information != UINT64_MAX)
		model_expect(s,
			     s->t.sense[0] == 0xf0 && load_be32(s->t.sense + 3) == s->information,
			     "INFORMATION is not where the data differs");
}

static void model_judge_good(const struct model_slot *s)
{
	const bool in = s->t.reads, data = s->t.reads || s->t.writes;
	const uint32_t expected = !data ? 0 : in ? s->t.expected_in : s->t.expected_out;

	model_expect(s, s->t.status == SCSI_GOOD && s->t.sense_len == 0, "GOOD is wanted");
	if (s->op->action == 0x12)
		return; /* GET LBA STATUS knows by itself how much that is */
	model_expect(s, s->moved == s->brought, "not all the data moved");
	model_expect(s,
		     s->t.underflow == (expected > s->data_len ? expected - s->data_len : 0) &&
			     s->t.overflow == (expected < s->data_len ? s->data_len - expected : 0),
		     "wrong residuals");
}

static void model_judge(struct model_slot *s)
{
	model_expect(s, !s->t.unit_task.aborted, "nobody aborted it");
	if (s->end == END_BAD_LENGTH)
		model_expect(s, model_sense_is(s, 0x5, 0x0e, 0x03), "0E/03 is wanted");
	else if (s->end == END_MISCOMPARE ||
		 (s->end == END_GOOD_OR_MISCOMPARE && s->t.status != SCSI_GOOD))
		model_judge_miscompare(s);
	else
		model_judge_good(s);
	s->op->ended(s);
}

/* ---- The end: the whole disk, by the first client ---- */

static void model_readback_next(struct model_slot *s)
{
	struct model *m = s->client->model;
	const uint32_t max = MODEL_PLAIN_MAX / m->block_size;

	s->lba = s->client->readback;
	s->nblocks = 1 + model_pick(s->client, max);
	if (s->lba < m->chains_at)
		s->nblocks = (uint32_t)min_u64(s->nblocks, m->chains_at - s->lba);
	else if (s->lba >= m->bits_at)
		s->nblocks = (uint32_t)min_u64(s->nblocks, m->nblocks - s->lba);
	for (unsigned i = 0; i < MODEL_CHAINS; i++) {
		if (m->chains[i].lba == s->lba)
			s->nblocks = m->chains[i].nblocks;
	}
	if (s->lba >= m->chains_at && s->lba < m->bits_at &&
	    s->lba == m->chains[MODEL_CHAINS - 1].lba)
		s->client->readback = m->bits_at;
	else
		s->client->readback = s->lba + s->nblocks;
	model_cdb(s, 0);
	model_data_in(s, model_bytes(s), model_bytes(s));
}

static void model_readback_ended(struct model_slot *s)
{
	struct model *m = s->client->model;
	const struct model_chain *chain = NULL;

	model_judge_good(s);
	for (unsigned i = 0; i < MODEL_CHAINS; i++) {
		if (m->chains[i].lba == s->lba)
			chain = &m->chains[i];
	}
	if (chain != NULL)
		model_chain_end(s, chain);
	else
		model_has_read(s, s->data_len);
}

/* ---- A client ---- */

static void model_extent(struct model_slot *s)
{
	struct model_client *c = s->client;
	const struct model *m = c->model;
	const bool bits = s->op == &model_ops[OP_BITS];
	const uint32_t from = bits ? m->bits_at : 0, to = bits ? m->nblocks : m->chains_at;
	uint32_t max = MODEL_PLAIN_MAX / m->block_size;

	if (s->op->max_blocks != 0)
		max = (uint32_t)min_u64(max, s->op->max_blocks);
	if (!model_chance(c, 15))
		max = (uint32_t)min_u64(max, model_chance(c, 70) ? 9 : 70);
	s->nblocks = 1 + model_pick(c, max);
	s->lba = from + model_pick(c, to - from - s->nblocks + 1);
}

static const struct model_op *model_pick_op(struct model_client *c)
{
	const struct model *m = c->model;
	unsigned total = 0;

	for (size_t i = 0; i < ARRAY_LEN(model_ops); i++)
		total += m->op_exists[i] ? model_ops[i].weight : 0;
	total = model_pick(c, total);
	for (size_t i = 0;; i++) {
		const unsigned weight = m->op_exists[i] ? model_ops[i].weight : 0;

		if (total < weight)
			return &model_ops[i];
		total -= weight;
	}
}

/* What is next, and its blocks; where others are at them, something else. */
static void model_choose(struct model_slot *s)
{
	if (s->client->model->reading_back) {
		s->op = &model_last;
		return;
	}
	for (unsigned i = 0; i < 8; i++) {
		s->op = model_pick_op(s->client);
		if (s->op == &model_ops[OP_CHAIN])
			model_on_chain(s);
		else
			model_extent(s);
		if (model_claim(s))
			return;
	}
	s->op = &model_idle;
}

static void model_command(struct model_slot *s)
{
	struct model_client *c = s->client;
	struct scsi_task *t = &s->t;

	t->nexus = &c->nexus;
	memset(t->cdb, 0, sizeof(t->cdb));
	memset(t->lun, 0, sizeof(t->lun));
	t->cdb_len = 16;
	t->attr = SCSI_SIMPLE + model_pick(c, 24) % 12 % 3;
	t->no_lend = model_chance(c, 50);
	t->reads = t->writes = false;
	t->expected_in = t->expected_out = 0;
	s->moved = s->data_len = s->brought = 0;
	s->chain = NULL;
	s->end = END_GOOD;
	model_choose(s);
	t->cdb[0] = s->op->opcode;
	t->cdb[1] = s->op->action == CMD_NO_SA ? 0 : s->op->action;
	if (s->op == &model_last)
		model_readback_next(s);
	else
		s->op->make(s);
}

static void model_count(struct model_slot *s, bool attention)
{
	struct model *m = s->client->model;

	pthread_mutex_lock(&m->mutex);
	if (attention)
		m->attentions++;
	else if (s->op >= model_ops && s->op < model_ops + ARRAY_LEN(model_ops))
		m->counts[s->op - model_ops]++;
	pthread_mutex_unlock(&m->mutex);
}

/* It has ended and all of its segments are back. */
static void model_rest(struct model_slot *s)
{
	const bool attention =
		s->finished && model_sense_is(s, 0x6, s->t.sense[12], s->t.sense[13]);
	struct model_client *c = s->client;

	if (!s->finished || s->out != 0)
		return;
	s->finished = false;
	/* A unit attention takes the place of the command: nothing has happened. */
	if (attention && s->op == &model_last)
		c->readback = s->lba;
	else if (attention && s->chain != NULL && s->t.cdb[0] == 0x8a)
		model_chain_not_begun(s);
	else if (s->op == &model_last)
		model_readback_ended(s);
	else if (!attention)
		model_judge(s);
	model_unclaim(s);
	model_count(s, attention);
	c->busy--;
	loop_defer(c->nexus.loop, &s->next);
}

static void model_client_ready(struct model_client *c);

/* The last one of all reads back. */
static void model_client_done(struct model_client *c)
{
	struct model *m = c->model;
	bool last;

	pthread_mutex_lock(&m->mutex);
	last = --m->working == 0;
	if (last)
		m->reading_back = true;
	pthread_mutex_unlock(&m->mutex);
	if (last)
		loop_post(m->clients[0].nexus.loop, &m->clients[0].begin);
}

static void model_next(struct loop_msg *msg)
{
	struct model_slot *s = container_of(msg, struct model_slot, next);
	struct model_client *c = s->client;

	if (c->model->reading_back ? c->readback >= c->model->nblocks : c->ops == 0) {
		if (c->busy == 0 && !c->closing)
			nexus_close(&c->nexus);
		c->closing |= c->busy == 0;
		return;
	}
	c->ops -= c->ops != 0;
	c->busy++;
	model_command(s);
	scsi_task_run(&s->t);
}

static void model_client_ready(struct model_client *c)
{
	const unsigned n = c->model->reading_back ? 1 : MODEL_SLOTS;

	for (unsigned i = 0; i < n; i++)
		loop_defer(c->nexus.loop, &c->slots[i].next);
}

static void model_opened(struct nexus *n, int err)
{
	CHECK(err == 0);
	container_of(n, struct model_client, nexus)->closing = false;
	model_client_ready(container_of(n, struct model_client, nexus));
}

static void model_closed(struct nexus *n)
{
	struct model_client *c = container_of(n, struct model_client, nexus);
	struct model *m = c->model;

	if (!m->reading_back) {
		model_client_done(c);
		return;
	}
	m->done = true;
	m->stop(m);
}

static void model_begin(struct loop_msg *msg)
{
	nexus_open(&container_of(msg, struct model_client, begin)->nexus);
}

/* ---- The whole ---- */

static void model_chains_init(struct model *m)
{
	const uint32_t lengths[MODEL_CHAINS] = {1, 7, (uint32_t)(80 * KiB) / m->block_size, 255};
	uint32_t lba = m->chains_at;

	/* One behind the other: neighbours are in the same stripe of the range locks. */
	for (unsigned i = 0; i < MODEL_CHAINS; i++) {
		m->chains[i].lba = lba;
		m->chains[i].nblocks = lengths[i];
		lba += lengths[i];
	}
	CHECK(lba <= m->bits_at);
}

static void model_exists_init(struct model *m, const struct scsi_lu *lu)
{
	const struct scsi_cmd_list list = scsi_commands();

	for (size_t i = 0; i < ARRAY_LEN(model_ops); i++) {
		for (unsigned n = 0; n < list.n; n++)
			m->op_exists[i] |= list.rows[n].opcode == model_ops[i].opcode &&
					   list.rows[n].service_action == model_ops[i].action &&
					   scsi_cmd_exists(&list.rows[n], lu);
	}
}

static void model_client_init(struct model *m, unsigned index)
{
	struct model_client *c = &m->clients[index];

	c->model = m;
	c->index = index;
	c->random = (m->seed * MODEL_LOOPS + index + 1) * UINT64_C(0x9e3779b97f4a7c15);
	c->begin.run = model_begin;
	c->nexus = (struct nexus){.transport = &model_transport,
				  .target = m->target,
				  .loop = loop_set_at(m->set, index),
				  .target_port = 1,
				  .opened = model_opened,
				  .closed = model_closed};
	for (unsigned i = 0; i < MODEL_SLOTS; i++) {
		struct model_slot *s = &c->slots[i];

		s->client = c;
		s->next.run = model_next;
		s->data = malloc(MODEL_DATA_MAX);
		s->was = malloc(MODEL_DATA_MAX);
		CHECK(s->data != NULL && s->was != NULL);
	}
}

/* The disk is zeros now. The caller has filled set, target, where, seed and stop. */
static void model_init(struct model *m, const struct scsi_lu *lu, unsigned ops)
{
	m->block_size = lu->info->block_size;
	m->unmap_zeroes = lu->info->discard_zeroes;
	m->nblocks = (uint32_t)MODEL_DISK / m->block_size;
	m->chains_at = (uint32_t)MODEL_CHAINS_AT / m->block_size;
	m->bits_at = (uint32_t)MODEL_BITS_AT / m->block_size;
	m->data = calloc(1, MODEL_DISK);
	m->sent = calloc(1, MODEL_DISK);
	m->maybe_zero = calloc(1, m->nblocks);
	m->claims = calloc(m->nblocks, sizeof(*m->claims));
	CHECK(m->data != NULL && m->sent != NULL && m->maybe_zero != NULL && m->claims != NULL);
	pthread_mutex_init(&m->mutex, NULL);
	model_exists_init(m, lu);
	model_chains_init(m);
	m->working = MODEL_LOOPS;
	for (unsigned i = 0; i < MODEL_LOOPS; i++) {
		model_client_init(m, i);
		m->clients[i].ops = ops;
	}
}

static void model_start(struct model *m)
{
	for (unsigned i = 0; i < MODEL_LOOPS; i++)
		loop_post(m->clients[i].nexus.loop, &m->clients[i].begin);
}

static void model_fini(struct model *m)
{
	for (unsigned i = 0; i < MODEL_LOOPS; i++) {
		for (unsigned n = 0; n < MODEL_SLOTS; n++) {
			free(m->clients[i].slots[n].data);
			free(m->clients[i].slots[n].was);
		}
	}
	free(m->data);
	free(m->sent);
	free(m->maybe_zero);
	free(m->claims);
	pthread_mutex_destroy(&m->mutex);
}

/* A test in which nothing happens proves nothing. */
static void model_check_worked(const struct model *m)
{
	for (size_t i = 0; i < ARRAY_LEN(model_ops); i++) {
		if (m->op_exists[i] && m->counts[i] == 0)
			fprintf(stderr, "%s: no %s in it\n", m->where, model_ops[i].name);
	}
	CHECK(m->done);
	CHECK(!m->op_exists[OP_CHAIN] || (m->steps != 0 && m->chains[0].beginning != 0));
}

#endif
