/*
 * Nexuses that are lost at any moment, with commands under way that read and write in one: on
 * simulated loops, so that the seed decides the order of all messages and a failure comes again.
 *
 * COMPARE AND WRITE counts up in some blocks, ORWRITE sets bits. Whatever is lost when, a count or a
 * bit that was acknowledged is there, one that nobody sent is not, none is torn, and no lock is left.
 * Meanwhile others change the unit's view and disarm the locks as soon as none is held.
 *
 * SPINDLE_SIM_SEED=N   tries one seed: the way to look at a failure
 * SPINDLE_SOAK=1       five thousand seeds
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "loop/sim.h"
#include "scsi/impl.h"

#define LOOPS   3
#define CLIENTS 5
#define SLOTS   3
#define OPS     60 /* of each client and seed */

#define COUNT_LBA    124 /* across the end of a stripe */
#define COUNT_BLOCKS 9
#define COUNT_BYTES  (COUNT_BLOCKS * 512)
#define BITS_LBA     1001
#define BITS_BLOCKS  1300 /* three segments */
#define PLAIN_LBA    3000
#define DATA_BYTES   (BITS_BLOCKS * 512)

enum what { COUNT, SET_BITS, LOOK_AT_COUNT, LOOK_AT_BITS, WRITE };

static const uint8_t opcodes[] = {
	[COUNT] = 0x89,        [SET_BITS] = 0x8b, [LOOK_AT_COUNT] = 0x88,
	[LOOK_AT_BITS] = 0x88, [WRITE] = 0x8a,
};

struct slot;

struct move {
	struct loop_msg msg;
	struct slot *slot;
	struct scsi_seg *seg; /* NULL: it was asked back */
	unsigned turns;
	bool pending;
};

struct slot {
	struct scsi_task t;
	struct client *client;
	struct loop_msg next;
	struct move moves[4];
	unsigned out; /* of `moves`, and one that is under way */
	bool scheduled, finished;
	enum what what;
	uint64_t seen;
	uint32_t from, nblocks; /* of the bits */
	uint8_t bit;
	uint8_t had[BITS_BLOCKS]; /* bits that were told before it came */
	uint8_t data[DATA_BYTES];
};

struct client {
	struct nexus nexus;
	struct world *world;
	struct loop_msg again;
	struct slot slots[SLOTS];
	unsigned busy, ops;
	bool closing, closed, last;
};

struct world {
	struct loop_set *set;
	struct scsi_target *target;
	struct unit *unit;
	struct client clients[CLIENTS];
	struct unit_op change;
	bool changing;
	unsigned left; /* clients with something to do */
	/* What was told, what may be, and what is known. */
	uint64_t counted, uncertain, newest;
	uint8_t set_bits[BITS_BLOCKS], sent_bits[BITS_BLOCKS];
};

static struct {
	unsigned counted, uncertain, missed, set, lost, disarmed, attentions;
} tally;

static bool chance(const struct world *w, unsigned percent)
{
	return sim_random(w->set, 100) < percent;
}

/* ---- Others that change the view ---- */

static int change_edit(struct unit_op *op, struct unit_view *next)
{
	struct world *w = container_of(op, struct world, change);
	const bool armed = (next->flags & UNIT_LOCKS_ARMED) != 0;

	/* As the unit does it, but with no patience. */
	if (op->changes == 0 && armed && range_lock_use(unit_bdev(w->unit)).held == 0) {
		next->flags &= ~(unsigned)UNIT_LOCKS_ARMED;
		tally.disarmed++;
	}
	return 0;
}

static void change_done(struct unit_op *op, int err)
{
	CHECK(err == 0);
	container_of(op, struct world, change)->changing = false;
}

static void change(struct client *c)
{
	struct world *w = c->world;
	const bool disarms = chance(w, 90);

	if (w->changing)
		return;
	w->changing = true;
	w->change = (struct unit_op){.unit = w->unit,
				     .loop = c->nexus.loop,
				     .edit = change_edit,
				     .changes = disarms ? 0 : LU_CHANGED_MODE,
				     .done = change_done};
	if (disarms)
		unit_quiesce(&w->change);
	else
		unit_publish(&w->change);
}

/* ---- The end of a command ---- */

static uint64_t word(const struct slot *s, size_t i)
{
	uint64_t value;

	memcpy(&value, s->data + i * sizeof(value), sizeof(value));
	return value;
}

static void put_words(uint8_t *to, uint64_t value)
{
	for (size_t i = 0; i < COUNT_BYTES; i += sizeof(value))
		memcpy(to + i, &value, sizeof(value));
}

static void see(struct world *w, uint64_t value)
{
	if (value > w->newest)
		w->newest = value;
}

static void ended_count(const struct slot *s)
{
	struct world *w = s->client->world;

	if (s->t.unit_task.aborted) {
		w->uncertain++;
		tally.uncertain++;
	} else if (s->t.status == SCSI_GOOD) {
		w->counted++;
		tally.counted++;
		see(w, s->seen + 1);
	} else if ((s->t.sense[2] & 0xf) == 0xe) {
		tally.missed++;
	}
}

/* `step` bytes are passed over: it takes its time. */
static void check_bits(const struct slot *s, size_t step)
{
	const struct world *w = s->client->world;

	for (size_t i = 0; i < DATA_BYTES; i += step) {
		CHECK((s->had[i / 512] & ~s->data[i]) == 0);
		CHECK((s->data[i] & ~w->sent_bits[i / 512]) == 0);
	}
}

static void ended(const struct slot *s)
{
	struct world *w = s->client->world;
	const bool good = !s->t.unit_task.aborted && s->t.status == SCSI_GOOD;

	if (!s->t.unit_task.aborted && (s->t.sense[2] & 0xf) == 0x6)
		tally.attentions += s->t.status == SCSI_CHECK_CONDITION;
	if (s->what == COUNT)
		ended_count(s);
	else if (s->what == LOOK_AT_COUNT && good)
		see(w, word(s, 0));
	else if (s->what == LOOK_AT_BITS && good)
		check_bits(s, 61);
	else if (s->what == SET_BITS && good)
		for (uint32_t i = 0; i < s->nblocks; i++)
			w->set_bits[s->from + i] |= s->bit;
	tally.set += s->what == SET_BITS && good;
}

static void last_look(struct slot *s)
{
	const struct world *w = s->client->world;

	CHECK(!s->t.unit_task.aborted);
	if (s->t.status != SCSI_GOOD) {
		s->client->ops++; /* it has heard of the power on, or of an error: once more */
		return;
	}
	if (s->what == LOOK_AT_COUNT) {
		CHECK(word(s, 0) >= w->counted && word(s, 0) <= w->counted + w->uncertain);
		for (size_t i = 1; i < COUNT_BYTES / 8; i++)
			CHECK(word(s, i) == word(s, 0));
		return;
	}
	check_bits(s, 1);
}

static void client_rests(struct client *c);

static void schedule(struct slot *s)
{
	if (!s->scheduled)
		loop_defer(s->client->nexus.loop, &s->next);
	s->scheduled = true;
}

/* It has ended, and all of its segments are back. */
static void rest(struct slot *s)
{
	struct client *c = s->client;

	if (!s->finished || s->out != 0)
		return;
	s->finished = false;
	if (c->last)
		last_look(s);
	else
		ended(s);
	c->busy--;
	if (c->closing)
		client_rests(c);
	else
		schedule(s);
}

/* ---- The transport ---- */

static void answer(struct slot *s, struct scsi_seg *seg, int err)
{
	s->out++;
	scsi_moved(seg, err);
	s->out--;
}

static void move_later(struct loop_msg *msg)
{
	struct move *m = container_of(msg, struct move, msg);
	struct slot *s = m->slot;
	struct scsi_seg *seg = m->seg;

	if (seg != NULL && m->turns-- != 0) {
		loop_defer(s->client->nexus.loop, &m->msg);
		return;
	}
	m->pending = false;
	m->seg = NULL;
	if (seg != NULL)
		answer(s, seg, 0);
	s->out--;
	rest(s);
}

static void copy(struct slot *s, struct scsi_seg *seg)
{
	uint8_t *p = s->data + seg->off;

	if (seg->niov == 0) {
		if (seg->buf == NULL)
			seg->buf = loop_buf_get(s->client->nexus.loop, seg->len);
		memcpy(seg->buf->data, p, seg->len);
		seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
		seg->niov = 1;
		return;
	}
	for (unsigned i = 0; i < seg->niov; i++) {
		memcpy(p, seg->iov[i].iov_base, seg->iov[i].iov_len);
		p += seg->iov[i].iov_len;
	}
}

static void move(struct scsi_seg *seg)
{
	struct slot *s = container_of(seg->task, struct slot, t);
	const struct world *w = s->client->world;
	struct move *m = s->moves;

	copy(s, seg);
	if (chance(w, 40)) {
		answer(s, seg, 0);
		rest(s);
		return;
	}
	while (m->pending)
		m++;
	CHECK(m < s->moves + ARRAY_LEN(s->moves));
	*m = (struct move){.slot = s,
			   .seg = seg,
			   .turns = (unsigned)sim_random(w->set, 20),
			   .pending = true,
			   .msg = {.run = move_later}};
	s->out++;
	loop_defer(s->client->nexus.loop, &m->msg);
}

static void cancel_move(struct scsi_seg *seg)
{
	struct slot *s = container_of(seg->task, struct slot, t);

	if (chance(s->client->world, 50))
		return;
	for (size_t i = 0; i < ARRAY_LEN(s->moves); i++) {
		struct move *m = &s->moves[i];

		if (!m->pending || m->seg != seg)
			continue;
		m->seg = NULL;
		answer(s, seg, -ECANCELED);
		return;
	}
}

static void finish(struct scsi_task *t)
{
	struct slot *s = container_of(t, struct slot, t);

	CHECK(!s->finished);
	s->finished = true;
	rest(s);
}

static const struct scsi_transport transport = {
	.name = "test",
	.protocol_id = 5,
	.move = move,
	.cancel_move = cancel_move,
	.finish = finish,
};

/* ---- A client ---- */

static void choose(struct slot *s)
{
	static const enum what choices[] = {COUNT,        SET_BITS, LOOK_AT_COUNT, LOOK_AT_COUNT,
					    LOOK_AT_BITS, WRITE,    WRITE,         WRITE};
	struct world *w = s->client->world;

	s->what = choices[sim_random(w->set, ARRAY_LEN(choices))];
	if (s->client->last)
		s->what = s->client->ops == 0 ? LOOK_AT_BITS : LOOK_AT_COUNT;
	s->from = (uint32_t)sim_random(w->set, BITS_BLOCKS);
	s->nblocks = 1 + (uint32_t)sim_random(w->set, BITS_BLOCKS - s->from);
	if (chance(w, 30)) {
		s->from = 0;
		s->nblocks = BITS_BLOCKS;
	}
	s->bit = (uint8_t)(1u << sim_random(w->set, 8));
	s->seen = w->newest;
}

static void make_count(struct slot *s)
{
	store_be64(s->t.cdb + 2, COUNT_LBA);
	s->t.cdb[13] = COUNT_BLOCKS;
	put_words(s->data, s->seen);
	put_words(s->data + COUNT_BYTES, s->seen + 1);
	s->t.writes = true;
	s->t.expected_out = 2 * COUNT_BYTES;
}

static void make_extent(struct slot *s, uint64_t lba, uint32_t nblocks, bool writes, int byte)
{
	store_be64(s->t.cdb + 2, lba);
	store_be32(s->t.cdb + 10, nblocks);
	memset(s->data, byte, nblocks * 512);
	s->t.reads = !writes;
	s->t.writes = writes;
	s->t.expected_in = writes ? 0 : nblocks * 512;
	s->t.expected_out = writes ? nblocks * 512 : 0;
}

static void make(struct slot *s)
{
	struct world *w = s->client->world;
	struct scsi_task *t = &s->t;

	memset(t, 0xa5, sizeof(*t));
	t->nexus = &s->client->nexus;
	memset(t->cdb, 0, sizeof(t->cdb));
	memset(t->lun, 0, sizeof(t->lun));
	t->cdb_len = 16;
	t->cdb[0] = opcodes[s->what];
	t->attr = chance(w, 80) ? SCSI_SIMPLE : SCSI_ORDERED;
	t->tag = 1;
	t->reads = t->writes = false;
	t->expected_in = t->expected_out = 0;
	t->no_lend = chance(w, 50);
	memcpy(s->had, w->set_bits, sizeof(s->had));
	if (s->what == COUNT) {
		make_count(s);
	} else if (s->what == SET_BITS) {
		for (uint32_t i = 0; i < s->nblocks; i++)
			w->sent_bits[s->from + i] |= s->bit;
		make_extent(s, BITS_LBA + s->from, s->nblocks, true, s->bit);
	} else if (s->what == LOOK_AT_COUNT) {
		make_extent(s, COUNT_LBA, COUNT_BLOCKS, false, 0);
	} else {
		make_extent(s, s->what == WRITE ? PLAIN_LBA : BITS_LBA, BITS_BLOCKS,
			    s->what == WRITE, s->what == WRITE ? 0 : 0xa5);
	}
}

static void lose(struct client *c)
{
	tally.lost += c->busy != 0;
	c->closing = true;
	nexus_close(&c->nexus);
}

static void slot_next(struct loop_msg *msg)
{
	struct slot *s = container_of(msg, struct slot, next);
	struct client *c = s->client;

	s->scheduled = false;
	if (c->closing)
		return;
	if (c->ops == 0 || (!c->last && chance(c->world, 3))) {
		lose(c);
		return;
	}
	c->ops--;
	if (!c->last && chance(c->world, 60))
		change(c);
	choose(s);
	make(s);
	c->busy++;
	scsi_task_run(&s->t);
}

static void opened(struct nexus *n, int err)
{
	struct client *c = container_of(n, struct client, nexus);

	CHECK(err == 0);
	c->closing = false;
	for (size_t i = 0; i < (c->last ? 1 : SLOTS); i++)
		schedule(&c->slots[i]);
}

static void closed(struct nexus *n)
{
	struct client *c = container_of(n, struct client, nexus);

	c->closed = true;
	client_rests(c);
}

/* Opens its nexus anew. */
static void client_again(struct loop_msg *msg)
{
	struct client *c = container_of(msg, struct client, again);
	struct loop *loop = c->nexus.loop;

	c->closed = false;
	c->nexus = (struct nexus){.transport = &transport,
				  .target = c->world->target,
				  .loop = loop,
				  .target_port = 1,
				  .opened = opened,
				  .closed = closed};
	nexus_open(&c->nexus);
}

static void client_rests(struct client *c)
{
	if (!c->closed || c->busy != 0)
		return;
	if (c->ops != 0)
		loop_defer(c->nexus.loop, &c->again);
	else
		c->world->left--;
}

/* ---- Runs ---- */

static void run_until_all_is_done(struct world *w)
{
	while (w->left != 0)
		CHECK(sim_step(w->set));
}

static void begin_client(struct world *w, struct client *c, unsigned loop)
{
	c->world = w;
	c->ops = OPS;
	c->closing = true;
	c->again.run = client_again;
	c->nexus.loop = loop_set_at(w->set, loop);
	for (size_t i = 0; i < SLOTS; i++) {
		c->slots[i].client = c;
		c->slots[i].next.run = slot_next;
	}
	loop_post(c->nexus.loop, &c->again);
}

/* One nexus, alone, sees what has become of it all. */
static void look(struct world *w)
{
	struct client *c = &w->clients[0];

	CHECK(range_lock_use(unit_bdev(w->unit)).held == 0);
	c->last = true;
	c->ops = 2;
	w->left = 1;
	loop_post(c->nexus.loop, &c->again);
	run_until_all_is_done(w);
}

static void run_seed(const char *spec, uint64_t seed)
{
	static const struct store_type *const types[] = {&store_ram, &store_fault, NULL};
	const struct store_config sc = {0};
	const struct bdev_config bc = {.block_size = 512};
	const struct unit_identity id = {.serial = "x"};
	struct world *w = calloc(1, sizeof(*w));
	struct store *store;
	struct bdev *bdev;
	struct scsi_lu *lu;

	printf("SPINDLE_SIM_SEED=%" PRIu64 " (%s)\n", seed, spec);
	assert_int_equal(sim_create(&w->set, LOOPS, seed), 0);
	assert_int_equal(store_open(&store, w->set, types, spec, &sc, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bc, NULL), 0);
	assert_int_equal(unit_create(&w->unit, w->set, bdev, &id, 1), 0);
	assert_int_equal(scsi_lu_create_disk(&lu, w->unit, &(struct scsi_lu_config){0}), 0);
	assert_int_equal(scsi_target_create(&w->target, "iqn.2026-11.test:x"), 0);
	assert_int_equal(scsi_target_add_lun(w->target, 0, lu), 0);
	w->left = CLIENTS;
	for (unsigned i = 0; i < CLIENTS; i++)
		begin_client(w, &w->clients[i], i % LOOPS);
	run_until_all_is_done(w);
	look(w);
	sim_run(w->set, 1000000);
	scsi_target_destroy(w->target);
	scsi_lu_destroy(lu);
	unit_destroy(w->unit);
	loop_set_destroy(w->set);
	free(w);
}

static void run_seeds(const char *spec)
{
	const char *one = getenv("SPINDLE_SIM_SEED");
	const uint64_t first = one != NULL ? strtoull(one, NULL, 0) : 1;
	const uint64_t n = one != NULL ? 1 : getenv("SPINDLE_SOAK") != NULL ? 5000 : 40;

	memset(&tally, 0, sizeof(tally));
	for (uint64_t seed = first; seed < first + n; seed++)
		run_seed(spec, seed);
	printf("%u counted, %u perhaps, %u missed, %u bits set, %u nexuses lost with commands, "
	       "%u times disarmed, %u unit attentions\n",
	       tally.counted, tally.uncertain, tally.missed, tally.set, tally.lost, tally.disarmed,
	       tally.attentions);
	if (one == NULL)
		assert_true(tally.counted != 0 && tally.uncertain != 0 && tally.missed != 0 &&
			    tally.set != 0 && tally.lost != 0 && tally.disarmed != 0 &&
			    tally.attentions != 0);
}

static void over_memory(void **state)
{
	run_seeds("ram:8M");
}

static void over_a_slow_disk(void **state)
{
	run_seeds("fault:rule=any;delay=1ms;prob=0.2:ram:8M");
}

static void over_a_disk_with_errors(void **state)
{
	run_seeds("fault:rule=any;delay=1ms;prob=0.2,rule=read;eio;prob=0.05:ram:8M");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(over_memory),
		cmocka_unit_test(over_a_slow_disk),
		cmocka_unit_test(over_a_disk_with_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
