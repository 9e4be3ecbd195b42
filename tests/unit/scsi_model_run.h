/*
 * What runs the commands of scsi_model_ops.h: a transport that lives in memory, clients that choose
 * and judge, and the end, when all is read back.
 */
#ifndef SPINDLE_TEST_SCSI_MODEL_RUN_H
#define SPINDLE_TEST_SCSI_MODEL_RUN_H

#include "scsi_model_ops.h"

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
	if (seg->buf == NULL)
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

	if (s->op->make == make_caw)
		max = model_caw_max(m);
	else if (s->op->max_blocks != 0)
		max = (uint32_t)min_u64(max, s->op->max_blocks);
	if (!model_chance(c, 15))
		max = (uint32_t)min_u64(max, model_chance(c, 70) ? 9 : 70);
	s->nblocks = 1 + model_pick(c, max);
	s->lba = from + model_pick(c, to - from - s->nblocks + 1);
}

static const struct model_op *model_pick_op(struct model_client *c)
{
	unsigned total = 0;

	for (size_t i = 0; i < ARRAY_LEN(model_ops); i++)
		total += model_ops[i].weight;
	total = model_pick(c, total);
	for (size_t i = 0;; i++) {
		if (total < model_ops[i].weight)
			return &model_ops[i];
		total -= model_ops[i].weight;
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
	const uint32_t lengths[MODEL_CHAINS] = {1, 7, (uint32_t)(80 * KiB) / m->block_size,
						model_caw_max(m)};
	uint32_t lba = m->chains_at;

	/* One behind the other: neighbours are in the same stripe of the range locks. */
	for (unsigned i = 0; i < MODEL_CHAINS; i++) {
		m->chains[i].lba = lba;
		m->chains[i].nblocks = lengths[i];
		lba += lengths[i];
	}
	CHECK(lba <= m->bits_at);
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
	/* Else nobody knows what is left of a block. */
	CHECK(lu->info->discard_zeroes);
	m->nblocks = (uint32_t)MODEL_DISK / m->block_size;
	m->chains_at = (uint32_t)MODEL_CHAINS_AT / m->block_size;
	m->bits_at = (uint32_t)MODEL_BITS_AT / m->block_size;
	m->data = calloc(1, MODEL_DISK);
	m->sent = calloc(1, MODEL_DISK);
	m->claims = calloc(m->nblocks, sizeof(*m->claims));
	CHECK(m->data != NULL && m->sent != NULL && m->claims != NULL);
	pthread_mutex_init(&m->mutex, NULL);
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
	free(m->claims);
	pthread_mutex_destroy(&m->mutex);
}

/* What happened in all seeds: a test in which nothing happens proves nothing. */
struct model_tally {
	unsigned counts[ARRAY_LEN(model_ops)], steps, misses, attentions;
};

static void model_tally_add(struct model_tally *tally, const struct model *m)
{
	CHECK(m->done);
	for (size_t i = 0; i < ARRAY_LEN(model_ops); i++)
		tally->counts[i] += m->counts[i];
	tally->steps += m->steps;
	tally->misses += m->misses;
	tally->attentions += m->attentions;
}

static void model_tally_check(const struct model_tally *tally)
{
	for (size_t i = 0; i < ARRAY_LEN(model_ops); i++)
		CHECK(tally->counts[i] != 0);
	CHECK(tally->steps != 0 && tally->misses != 0);
	printf("%u steps of chains, %u missed, %u unit attentions\n", tally->steps, tally->misses,
	       tally->attentions);
}

#endif
