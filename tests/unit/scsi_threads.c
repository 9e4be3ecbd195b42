/*
 * Nexuses on four loops at one disk, for the thread sanitizer: each writes and verifies blocks of
 * its own, with several tasks at a time, while units are stopped and started and nexuses are lost
 * and opened again in the middle of it. What was answered GOOD is read back.
 *
 * Behind these blocks is a place that all share. Each task writes one block of it, and sets bits in
 * the next one by an ORWRITE of the whole place, which must undo nothing that others do there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "scsi/scsi.h"

#define LOOPS         4
#define SLOTS         4
#define SLOT_BYTES    (600 * 1024u) /* three segments */
#define SLOT_BLOCKS   (SLOT_BYTES / 512)
#define SHARED_LBA    (LOOPS * SLOTS * SLOT_BLOCKS + 1)
#define SHARED_BLOCKS 700 /* two segments that share a stripe of locks */
#define SHARED_STRIDE 43  /* from one slot's two blocks to the next one's */
#define ROUNDS        6
#define OPS           30 /* a round */

struct client;

/* One task at a time, with a place of its own on the disk. */
struct slot {
	struct scsi_task t;
	struct loop_msg next;
	struct client *client;
	unsigned out; /* segments under way */
	bool finished;
	uint64_t lba;
	uint32_t nblocks;
	uint8_t op, version; /* version: what the place holds, 0: not known */
	uint8_t writing;
	uint32_t own;         /* where its blocks in the shared place are, bytes */
	uint8_t own_version;  /* what the first one is full of, 0: not known */
	unsigned bit;         /* that is being set in the second one */
	uint8_t set[512];     /* bits that are set there */
	uint8_t perhaps[512]; /* and those that might be */
};

struct client {
	struct nexus nexus;
	struct slot slots[SLOTS];
	unsigned busy, rounds, ops;
	bool lost, closed;
	unsigned final; /* 1: all others are through; 2: and what they did was looked at */
	uint64_t random;
	unsigned good, verified;
};

static struct client clients[LOOPS];
static atomic_uint running;
static struct loop_set *set;

static unsigned pick(struct client *c, unsigned bound)
{
	c->random = c->random * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(c->random >> 33) % bound;
}

static uint8_t pattern(const struct slot *s, uint8_t version, uint64_t at)
{
	return (uint8_t)(version * 31 + (s->lba + at / 512) * 7 + (at & 0xff));
}

/* ---- The transport ---- */

static void fill(struct slot *s, struct scsi_seg *seg)
{
	const uint64_t bit_at = s->own + 512 + s->bit / 8;

	if (s->op == 0x8a) {
		for (uint32_t i = 0; i < seg->len; i++)
			seg->buf->data[i] = pattern(s, s->writing, seg->off + i);
	} else {
		memset(seg->buf->data, s->op == 0x2a ? s->writing : 0, seg->len);
		if (s->op == 0x8b && bit_at >= seg->off && bit_at < seg->off + seg->len)
			seg->buf->data[bit_at - seg->off] = (uint8_t)(1 << s->bit % 8);
	}
}

static void put_data(struct slot *s, struct scsi_seg *seg)
{
	if (seg->buf == NULL)
		seg->buf = loop_buf_get(s->client->nexus.loop, seg->len);
	CHECK(seg->buf != NULL);
	fill(s, seg);
	seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
	seg->niov = 1;
}

static void verify(struct slot *s, const struct scsi_seg *seg)
{
	uint64_t at = seg->off;

	for (unsigned i = 0; i < seg->niov && s->version != 0; i++) {
		const uint8_t *p = seg->iov[i].iov_base;

		for (size_t n = 0; n < seg->iov[i].iov_len; n++, at++)
			CHECK(p[n] == pattern(s, s->version, at));
	}
	s->client->verified++;
}

static void shared_byte(const struct slot *s, uint64_t at, uint8_t byte)
{
	if (at < s->own || at >= s->own + 1024)
		return;
	at -= s->own;
	if (at < 512) {
		CHECK(s->own_version == 0 || byte == s->own_version);
	} else {
		CHECK((byte & s->set[at - 512]) == s->set[at - 512]);
		CHECK((byte & ~s->perhaps[at - 512]) == 0);
	}
}

/* When all others are through. */
static void verify_shared(const struct scsi_seg *seg)
{
	uint64_t at = seg->off;

	for (unsigned i = 0; i < seg->niov; i++) {
		const uint8_t *p = seg->iov[i].iov_base;

		for (size_t n = 0; n < seg->iov[i].iov_len; n++, at++)
			for (unsigned k = 0; k < LOOPS * SLOTS; k++)
				shared_byte(&clients[k / SLOTS].slots[k % SLOTS], at, p[n]);
	}
}

struct leaving {
	struct loop_msg msg;
	struct scsi_seg *seg;
	int err;
};

static void slot_rest(struct slot *s);

static void left(struct loop_msg *msg)
{
	struct leaving *l = container_of(msg, struct leaving, msg);
	struct slot *s = container_of(l->seg->task, struct slot, t);

	s->out--;
	scsi_moved(l->seg, l->err);
	free(l);
	slot_rest(s);
}

static void move(struct scsi_seg *seg)
{
	struct slot *s = container_of(seg->task, struct slot, t);
	struct leaving *l = calloc(1, sizeof(*l));

	if (seg->niov == 0)
		put_data(s, seg);
	else if (seg->task->cdb[0] == 0x88)
		verify(s, seg);
	else if (seg->task->cdb[0] == 0x28)
		verify_shared(seg);
	*l = (struct leaving){.seg = seg, .msg = {.run = left}};
	s->out++;
	loop_defer(s->client->nexus.loop, &l->msg);
}

/* It comes back by itself very soon. */
static void cancel_move(struct scsi_seg *seg)
{
}

static void client_idle(struct client *c);
static void slot_next(struct loop_msg *msg);

static void slot_rest(struct slot *s)
{
	struct client *c = s->client;

	if (!s->finished || s->out != 0)
		return;
	s->finished = false;
	c->busy--;
	if (c->lost)
		client_idle(c);
	else
		loop_defer(c->nexus.loop, &s->next);
}

static void finish(struct scsi_task *t)
{
	struct slot *s = container_of(t, struct slot, t);

	s->finished = true;
	if (t->status == SCSI_GOOD && !t->unit_task.aborted) {
		s->client->good++;
		if (s->op == 0x8a)
			s->version = s->writing;
		else if (s->op == 0x2a)
			s->own_version = s->writing;
		else if (s->op == 0x8b)
			s->set[s->bit / 8] |= (uint8_t)(1 << s->bit % 8);
		else if (s->op == 0x28)
			s->client->final = 2;
	}
	slot_rest(s);
}

static const struct scsi_transport transport = {
	.name = "test",
	.protocol_id = 5,
	.move = move,
	.cancel_move = cancel_move,
	.finish = finish,
};

/* ---- A client ---- */

static void shared_command(struct slot *s)
{
	struct scsi_task *t = &s->t;

	if (s->op == 0x8b) {
		store_be64(t->cdb + 2, SHARED_LBA);
		store_be32(t->cdb + 10, SHARED_BLOCKS);
		s->bit = pick(s->client, 4096);
		s->perhaps[s->bit / 8] |= (uint8_t)(1 << s->bit % 8);
	} else if (s->op == 0x2a) {
		store_be32(t->cdb + 2, SHARED_LBA + s->own / 512);
		store_be16(t->cdb + 7, 1);
		s->writing = (uint8_t)(1 + pick(s->client, 255));
		s->own_version = 0;
	} else {
		store_be32(t->cdb + 2, SHARED_LBA);
		store_be16(t->cdb + 7, SHARED_BLOCKS);
	}
}

static void command(struct slot *s)
{
	static const uint8_t ops[] = {0x8a, 0x88, 0x8a, 0x88, 0x88, 0x00,
				      0x91, 0x1b, 0x12, 0x8b, 0x8b, 0x2a};
	struct client *c = s->client;
	struct scsi_task *t = &s->t;

	s->op = c->final ? 0x28 : ops[pick(c, sizeof(ops))];
	t->nexus = &c->nexus;
	memset(t->cdb, 0, sizeof(t->cdb));
	memset(t->lun, 0, sizeof(t->lun));
	t->cdb[0] = s->op;
	t->cdb_len = 16;
	t->attr = SCSI_SIMPLE + pick(c, 20) % 3;
	t->no_lend = pick(c, 2);
	t->writes = s->op == 0x8a || s->op == 0x8b || s->op == 0x2a;
	t->reads = s->op == 0x88 || s->op == 0x12 || s->op == 0x28;
	t->expected_in = t->expected_out = SLOT_BYTES;
	if (s->op == 0x8a || s->op == 0x88) {
		store_be64(t->cdb + 2, s->lba);
		store_be32(t->cdb + 10, SLOT_BLOCKS);
	} else if (s->op == 0x1b) {
		t->cdb[4] = pick(c, 8) != 0; /* stopped now and then, started by the next one */
	} else if (s->op == 0x12) {
		t->cdb[4] = 96;
	}
	if (s->op == 0x8a) {
		s->writing = (uint8_t)(1 + pick(c, 255));
		s->version = 0;
	}
	if (s->op == 0x8b || s->op == 0x2a || s->op == 0x28)
		shared_command(s);
}

static void lose(struct client *c)
{
	c->lost = true;
	c->closed = false;
	nexus_close(&c->nexus);
}

static void slot_next(struct loop_msg *msg)
{
	struct slot *s = container_of(msg, struct slot, next);
	struct client *c = s->client;

	if (c->final == 2 && !c->lost)
		lose(c);
	if (c->lost) {
		client_idle(c);
		return;
	}
	command(s);
	c->busy++;
	scsi_task_run(&s->t);
	if (c->final == 0 && --c->ops == 0)
		lose(c);
}

static void begin(struct client *c)
{
	c->lost = false;
	nexus_open(&c->nexus);
}

static void client_idle(struct client *c)
{
	if (c->busy != 0 || !c->closed)
		return;
	c->closed = false;
	if (c->final == 2) {
		loop_set_stop(set);
	} else if (--c->rounds != 0) {
		begin(c);
	} else if (atomic_fetch_sub(&running, 1) == 1) {
		c->final = 1;
		begin(c);
	}
}

static void opened(struct nexus *n, int err)
{
	struct client *c = container_of(n, struct client, nexus);

	CHECK(err == 0);
	c->ops = OPS;
	for (unsigned i = 0; i < (c->final ? 1 : SLOTS); i++)
		loop_defer(n->loop, &c->slots[i].next);
}

static void closed(struct nexus *n)
{
	struct client *c = container_of(n, struct client, nexus);

	c->closed = true;
	client_idle(c);
}

struct starter {
	struct loop_msg msg;
	struct client *client;
};

static void start(struct loop_msg *msg)
{
	begin(container_of(msg, struct starter, msg)->client);
}

static void run_over(const char *spec)
{
	const struct loop_config lc = {.nloops = LOOPS, .disk_engine = LOOP_DISK_WORKERS};
	const struct store_type *const types[] = {&store_ram, &store_fault, NULL};
	const struct bdev_config bc = {.block_size = 512};
	const struct store_config sc = {0};
	const struct unit_identity id = {.serial = "x"};
	struct starter starters[LOOPS];
	struct scsi_target *target;
	struct scsi_lu *lu;
	struct store *store;
	struct bdev *bdev;
	struct unit *unit;
	unsigned looked_at = 0;

	assert_int_equal(loop_set_create(&set, &lc, NULL), 0);
	assert_int_equal(store_open(&store, set, types, spec, &sc, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bc, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &id, 1), 0);
	assert_int_equal(scsi_lu_create_disk(&lu, unit, &(struct scsi_lu_config){0}), 0);
	assert_int_equal(scsi_target_create(&target, "iqn.2026-11.test:x"), 0);
	assert_int_equal(scsi_target_add_lun(target, 0, lu), 0);
	atomic_store(&running, LOOPS);
	for (unsigned i = 0; i < LOOPS; i++) {
		struct client *c = &clients[i];

		*c = (struct client){.rounds = ROUNDS,
				     .random = i + 1,
				     .nexus = {.transport = &transport,
					       .target = target,
					       .loop = loop_set_at(set, i),
					       .target_port = 1,
					       .opened = opened,
					       .closed = closed}};
		for (unsigned s = 0; s < SLOTS; s++) {
			c->slots[s].client = c;
			c->slots[s].lba = (i * SLOTS + s) * SLOT_BLOCKS;
			c->slots[s].own = (i * SLOTS + s) * SHARED_STRIDE * 512;
			c->slots[s].next.run = slot_next;
		}
		starters[i] = (struct starter){.client = c, .msg = {.run = start}};
		loop_post(c->nexus.loop, &starters[i].msg);
	}
	assert_int_equal(loop_set_run(set), 0);
	for (unsigned i = 0; i < LOOPS; i++) {
		assert_true(clients[i].good > ROUNDS);
		assert_true(clients[i].verified > 0);
		looked_at += clients[i].final == 2;
	}
	assert_int_equal(looked_at, 1);
	scsi_target_destroy(target);
	scsi_lu_destroy(lu);
	unit_destroy(unit);
	loop_set_destroy(set);
}

static void over_memory(void **state)
{
	run_over("ram:16M");
}

static void over_a_store_with_a_home(void **state)
{
	run_over("fault:volatile=on:ram:16M");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(over_memory),
		cmocka_unit_test(over_a_store_with_a_home),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
