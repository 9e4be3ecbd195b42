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
 *            AND WRITE from the value that it saw to the next one, unclaimed, and one of them writes
 *            a new beginning now and then. Values only go up, none is left twice, and the last one is
 *            the end of a chain of successes from the last beginning: no update was lost or torn.
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
#define MODEL_DATA_MAX   (2 * 255 * 4096u) /* of one command */
#define MODEL_PLAIN_MAX  (3 * SCSI_SEG_MAX + 20 * 1024u)
#define MODEL_CHAINS     4
#define MODEL_BEGINNINGS 512
#define MODEL_STEPS      512 /* of a chain from one beginning */

/* Blocks are read while others write them, and a read of bytes that change has some of these and some
 * of those: that is the disk's right, and the thread sanitizer's concern. Under it nobody looks. */
#ifdef __SANITIZE_THREAD__
#define MODEL_LOOKS 0
#else
#define MODEL_LOOKS 1
#endif

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
	uint64_t value; /* of a chain: where it goes on from, or begins */
	uint64_t floor; /* of a chain: what was answered when this was sent */
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
	bool beginning_anew;                        /* somebody is about to write one */
	uint64_t answered;                          /* the last value that an answer told of */
	uint8_t won[MODEL_BEGINNINGS][MODEL_STEPS]; /* that a step was made from here */
};

struct model {
	uint64_t seed;
	uint32_t block_size, nblocks, chains_at, bits_at; /* blocks */
	const char *where;                                /* what to say of a failure */
	struct scsi_target *target;
	struct loop_set *set;
	struct model_client clients[MODEL_LOOPS];
	/* Under the mutex, where loops are threads. */
	pthread_mutex_t mutex;
	unsigned working;
	bool reading_back, done;
	uint8_t *data;    /* what the plain area holds; of the bits, what was answered */
	uint8_t *sent;    /* of the bits: what was sent */
	uint16_t *claims; /* a block's readers; CLAIMED_ALONE */
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

/* What came of the claimed blocks is what they hold. */
static void model_has_read(const struct model_slot *s, uint32_t len)
{
	const uint8_t *known = model_at(s);
	uint32_t at = 0;
	char text[64];

	if (memcmp(known, s->data, len) == 0)
		return;
	while (known[at] == s->data[at])
		at++;
	snprintf(text, sizeof(text), "byte %u of block %u is %02x, not %02x",
		 at % s->client->model->block_size, s->lba + at / s->client->model->block_size,
		 s->data[at], known[at]);
	model_fail(s, text);
}

#endif
