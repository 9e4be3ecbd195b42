/*
 * The commands of scsi_model.h: how each is made, and what it does to the model.
 */
#ifndef SPINDLE_TEST_SCSI_MODEL_OPS_H
#define SPINDLE_TEST_SCSI_MODEL_OPS_H

#include "scsi_model.h"

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
		memcpy(model_at(s), s->data, s->brought);
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
	uint8_t *known = model_at(s);

	for (uint32_t at = 0; at < s->data_len; at++)
		known[at] |= s->data[at];
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

/* All of them read zeros, also those of which no whole granule was named. */
static void ended_unmap(struct model_slot *s)
{
	const uint32_t bs = s->client->model->block_size;

	for (uint32_t i = 0; i < s->nblocks; i++) {
		if (s->was[i])
			memset(model_at(s) + (size_t)i * bs, 0, bs);
	}
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
}

static void model_cdb_caw(struct model_slot *s)
{
	store_be64(s->t.cdb + 2, s->lba);
	s->t.cdb[13] = (uint8_t)s->nblocks;
	s->t.cdb[1] = model_cache_flags(s);
}

/* Blocks that one command may compare: what VPD page B0h says. */
static uint32_t model_caw_max(const struct model *m)
{
	return m->block_size == 512 ? 255 : 32;
}

static void make_caw(struct model_slot *s)
{
	const uint32_t len = model_bytes(s);

	model_cdb_caw(s);
	model_fill(s, 2 * len);
	memcpy(s->data, model_at(s), len);
	model_data_out(s, 2 * len, 2 * len);
	if (model_chance(s->client, 40)) {
		s->information = model_pick(s->client, len);
		s->data[s->information] ^= 0x01;
		s->end = END_MISCOMPARE;
	}
}

static void ended_caw(struct model_slot *s)
{
	if (s->t.status == SCSI_GOOD)
		memcpy(model_at(s), s->data + s->data_len / 2, s->data_len / 2);
}

static void make_lba_status(struct model_slot *s)
{
	store_be64(s->t.cdb + 2, s->lba);
	store_be32(s->t.cdb + 10, 8 + 16 * 20);
	model_data_in(s, 8 + 16 * 20, 8 + 16 * 20);
}

/* A block without space reads zeros. */
static void model_is_hole(const struct model_slot *s, uint64_t lba)
{
	const struct model *m = s->client->model;

	if (lba < s->lba + s->nblocks)
		model_expect(s, model_is_zero(m->data + lba * m->block_size, m->block_size),
			     "a block with data is said to be deallocated");
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
	s->floor = s->chain->answered;
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

	if (s->value == 0 ? model_chance(s->client, 30) : model_chance(s->client, 15)) {
		make_chain_begin(s);
		return;
	}
	pthread_mutex_lock(&s->client->model->mutex);
	s->floor = s->chain->answered;
	pthread_mutex_unlock(&s->client->model->mutex);
	if (!MODEL_LOOKS && s->value == 0)
		s->value = s->floor;
	if (s->value == 0 || low_u32(s->value) + 1 >= MODEL_STEPS) {
		s->t.cdb[0] = MODEL_LOOKS ? 0x88 : 0x00;
		if (!MODEL_LOOKS)
			return;
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

/* Values only go up: what was answered before this command was sent is not undone by anybody. */
static void ended_chain_step(struct model_slot *s)
{
	struct model *m = s->client->model;
	uint8_t *won = &s->chain->won[s->value >> 32][low_u32(s->value)];
	const bool made = s->t.status == SCSI_GOOD;
	bool twice = false;

	pthread_mutex_lock(&m->mutex);
	if (made) {
		twice = *won != 0;
		*won = 1;
		s->chain->answered = max_u64(s->chain->answered, s->value + 1);
	}
	m->steps += made;
	m->misses += !made;
	pthread_mutex_unlock(&m->mutex);
	*model_seen(s) = made ? s->value + 1 : 0;
	model_expect(s, !twice, "two COMPARE AND WRITE made the same step");
	model_expect(s, !made || s->value >= s->floor, "a value that was gone was there again");
}

static void ended_chain_begin(struct model_slot *s)
{
	struct model *m = s->client->model;

	pthread_mutex_lock(&m->mutex);
	s->chain->beginning_anew = false;
	s->chain->answered = max_u64(s->chain->answered, s->value);
	pthread_mutex_unlock(&m->mutex);
}

static void ended_chain_look(struct model_slot *s)
{
	const uint64_t found = load_be64(s->data);

	model_expect(s, found >= s->floor, "a value that was gone is read again");
	model_expect(s, found >> 32 < MODEL_BEGINNINGS && low_u32(found) < MODEL_STEPS,
		     "a chain's block is none");
	*model_seen(s) = found;
}

static void ended_chain(struct model_slot *s)
{
	if (s->t.cdb[0] == 0x8a)
		ended_chain_begin(s);
	else if (s->t.cdb[0] == 0x89)
		ended_chain_step(s);
	else if (s->t.cdb[0] == 0x88)
		ended_chain_look(s);
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

	if (MODEL_LOOKS && model_chance(s->client, 30)) {
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
	{"ORWRITE(16)", 0x8b, CMD_NO_SA, 3, CLAIM_ALONE, 0, make_orwrite, ended_orwrite},
	{"UNMAP", 0x42, CMD_NO_SA, 4, CLAIM_ALONE, 0, make_unmap, ended_unmap},
	{"WRITE SAME(10)", 0x41, CMD_NO_SA, 3, CLAIM_ALONE, 0, make_write_same, ended_write_same},
	{"WRITE SAME(16)", 0x93, CMD_NO_SA, 4, CLAIM_ALONE, 0, make_write_same, ended_write_same},
	{"COMPARE AND WRITE", 0x89, CMD_NO_SA, 5, CLAIM_ALONE, 0, make_caw, ended_caw},
	{"GET LBA STATUS", 0x9e, 0x12, 2, CLAIM_SHARED, 0, make_lba_status, ended_lba_status},
	{"SYNCHRONIZE CACHE(10)", 0x35, CMD_NO_SA, 1, CLAIM_NONE, 0, make_sync, ended_nothing},
	{"SYNCHRONIZE CACHE(16)", 0x91, CMD_NO_SA, 1, CLAIM_NONE, 0, make_sync, ended_nothing},
};

/* Only the end has these. */
static const struct model_op model_idle = {"TEST UNIT READY", 0x00, CMD_NO_SA,    0,
					   CLAIM_NONE,        0,    make_nothing, ended_nothing},
			     model_last = {"the end",  0x88, CMD_NO_SA,    0,
					   CLAIM_NONE, 0,    make_nothing, ended_nothing};

#endif
