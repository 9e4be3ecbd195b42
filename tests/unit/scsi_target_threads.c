/*
 * LUNs that come and go under load, on four loops, for the thread sanitizer. At LUN 1 there is now
 * one disk, now another, now none; each client asks which it is and writes that disk's mark, and in
 * the end no disk has a block with another's mark. Reservations and lost nexuses in the middle.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "scsi/scsi.h"

#define LOOPS   4
#define CLIENTS 8
#define ROUNDS  4
#define OPS     300 /* a round */
#define DISKS   3   /* the last one comes and goes at LUN 2, where nobody looks */
#define BLOCKS  8   /* a write */

/* Told apart by their size. */
static const char *const specs[DISKS] = {"fault:rule=write;delay=1ms:ram:1M",
					 "fault:volatile=on,rule=write;delay=1ms:ram:2M", "ram:3M"};
/* Clients that found nothing try again later, changes let them find something. */
#define CLIENT_PAUSE_NS 200000
#define CHANGE_PAUSE_NS 5000000

struct client {
	struct nexus nexus;
	struct scsi_task t;
	struct loop_msg next, start;
	struct loop_timer pause;
	unsigned ops, rounds;
	uint64_t random;
	uint32_t nblocks; /* of the disk at LUN 1 as far as we know; 0: not known */
	uint8_t data[8];
	bool busy, lost;
	/* What came of it. */
	unsigned written, told, conflicts, gone, nlost;
};

struct changer {
	struct scsi_lun_op op;
	struct loop_msg start;
	struct loop_timer pause;
	unsigned at, done;
};

static struct client clients[CLIENTS];
static struct changer changers[2];
static struct scsi_lu *lus[DISKS];
static struct unit *units[DISKS];
static struct scsi_target *target;
static struct loop_set *set;
static atomic_uint running, changing;

static unsigned pick(struct client *c, unsigned bound)
{
	c->random = c->random * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(c->random >> 33) % bound;
}

/* A disk of so many blocks has this in each byte that was ever written. */
static uint8_t mark(uint32_t nblocks)
{
	return (uint8_t)(0x10 + nblocks / 2048);
}

/* ---- The transport ---- */

static struct client *client_of(struct scsi_task *t)
{
	return container_of(t, struct client, t);
}

static void move(struct scsi_seg *seg)
{
	struct client *c = client_of(seg->task);

	if (seg->niov != 0) {
		CHECK(seg->len == sizeof(c->data));
		memcpy(c->data, seg->iov[0].iov_base, sizeof(c->data));
	} else {
		if (seg->buf == NULL)
			seg->buf = loop_buf_get(c->nexus.loop, seg->len);
		CHECK(seg->buf != NULL);
		memset(seg->buf->data, mark(c->nblocks), seg->len);
		seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
		seg->niov = 1;
	}
	scsi_moved(seg, 0);
}

static void cancel_move(struct scsi_seg *seg)
{
}

static void learn(struct client *c, const struct scsi_task *t)
{
	if (t->cdb[0] == 0x25) {
		c->nblocks = load_be32(c->data) + 1;
	} else if (t->cdb[0] == 0x8a) {
		c->written++;
	}
}

static void finish(struct scsi_task *t)
{
	struct client *c = client_of(t);

	c->busy = false;
	if (c->lost)
		return;
	if (t->status == SCSI_RESERVATION_CONFLICT) {
		c->conflicts++;
	} else if (t->status == SCSI_GOOD) {
		if (t->lun[1] == 1)
			learn(c, t);
	} else {
		CHECK(t->status == SCSI_CHECK_CONDITION);
		CHECK(t->sense[2] == 0x6 || t->sense[12] == 0x25);
		c->told += t->sense[2] == 0x6;
		c->gone += t->sense[12] == 0x25;
		if (t->lun[1] == 1)
			c->nblocks = 0;
	}
	if (t->status == SCSI_GOOD)
		loop_defer(c->nexus.loop, &c->next);
	else
		CHECK(loop_timer_start(&c->pause, CLIENT_PAUSE_NS) == 0);
}

static const struct scsi_transport transport = {
	.name = "test",
	.protocol_id = 5,
	.move = move,
	.cancel_move = cancel_move,
	.finish = finish,
};

/* ---- Clients ---- */

static void begin_command(struct client *c, uint8_t opcode, uint8_t lun)
{
	struct scsi_task *t = &c->t;

	t->nexus = &c->nexus;
	memset(t->cdb, 0, sizeof(t->cdb));
	memset(t->lun, 0, sizeof(t->lun));
	t->cdb[0] = opcode;
	t->cdb_len = 16;
	t->lun[1] = lun;
	t->attr = SCSI_SIMPLE + pick(c, 20) % 3;
	t->no_lend = false;
	t->reads = t->writes = false;
	t->expected_in = t->expected_out = 0;
}

static void command(struct client *c)
{
	static const uint8_t others[] = {0x00, 0x00, 0x91, 0x16, 0x17, 0x17, 0x17};

	if (pick(c, 5) == 0) {
		begin_command(c, 0x00, 0);
	} else if (c->nblocks == 0) {
		begin_command(c, 0x25, 1);
		c->t.reads = true;
		c->t.expected_in = 8;
	} else if (pick(c, 3) == 0) {
		begin_command(c, others[pick(c, sizeof(others))], 1);
	} else {
		begin_command(c, 0x8a, 1);
		c->t.writes = true;
		c->t.expected_out = BLOCKS * 512;
		store_be64(c->t.cdb + 2, pick(c, c->nblocks / BLOCKS) * BLOCKS);
		store_be32(c->t.cdb + 10, BLOCKS);
	}
}

static void client_go_on(struct client *c)
{
	if (c->ops == 0) {
		nexus_close(&c->nexus);
		return;
	}
	c->ops--;
	command(c);
	c->busy = true;
	scsi_task_run(&c->t);
	/* Lost in the middle of its last command, if that takes a while. */
	if (c->ops == 0 && c->busy) {
		c->lost = true;
		c->nlost++;
		nexus_close(&c->nexus);
	}
}

static void client_next(struct loop_msg *msg)
{
	client_go_on(container_of(msg, struct client, next));
}

static void client_paused(struct loop_timer *timer)
{
	client_go_on(container_of(timer, struct client, pause));
}

static void client_opened(struct nexus *n, int err)
{
	struct client *c = container_of(n, struct client, nexus);

	CHECK(err == 0);
	c->ops = OPS;
	c->lost = false;
	c->nblocks = 0;
	loop_defer(n->loop, &c->next);
}

static void stop_if_last(void)
{
	if (atomic_load(&running) == 0 && atomic_load(&changing) == 0)
		loop_set_stop(set);
}

static void client_closed(struct nexus *n)
{
	struct client *c = container_of(n, struct client, nexus);

	if (--c->rounds != 0) {
		nexus_open(n);
		return;
	}
	atomic_fetch_sub(&running, 1);
	stop_if_last();
}

static void client_start(struct loop_msg *msg)
{
	struct client *c = container_of(msg, struct client, start);

	loop_timer_init(&c->pause, c->nexus.loop, client_paused);
	nexus_open(&c->nexus);
}

/* ---- Changes ---- */

static void changed(struct scsi_lun_op *op, int err)
{
	struct changer *ch = container_of(op, struct changer, op);

	CHECK(err == 0);
	ch->done++;
	if (atomic_load(&running) == 0 && op->lu == NULL) {
		atomic_fetch_sub(&changing, 1);
		stop_if_last();
		return;
	}
	if (op->lu != NULL)
		op->lu = NULL;
	else if (op->lun == 2)
		op->lu = lus[2];
	else
		op->lu = lus[ch->at++ % 2];
	if (op->lu == NULL)
		CHECK(loop_timer_start(&ch->pause, CHANGE_PAUSE_NS) == 0);
	else
		scsi_target_change_lun(op);
}

static void change_paused(struct loop_timer *timer)
{
	scsi_target_change_lun(&container_of(timer, struct changer, pause)->op);
}

static void changer_start(struct loop_msg *msg)
{
	struct changer *ch = container_of(msg, struct changer, start);

	loop_timer_init(&ch->pause, ch->op.loop, change_paused);
	scsi_target_change_lun(&ch->op);
}

/* ---- Before and after ---- */

static struct store *stores[DISKS];

static void disk_up(unsigned i)
{
	const struct store_type *const types[] = {&store_ram, &store_fault, NULL};
	const struct store_config sc = {0};
	const struct bdev_config bc = {.block_size = 512};
	const struct unit_identity id = {.serial = "x"};
	struct bdev *bdev;

	assert_int_equal(store_open(&stores[i], set, types, specs[i], &sc, NULL), 0);
	assert_int_equal(bdev_create(&bdev, stores[i], &bc, NULL), 0);
	assert_int_equal(unit_create(&units[i], set, bdev, &id, i), 0);
	assert_int_equal(scsi_lu_create_disk(&lus[i], units[i], &(struct scsi_lu_config){0}), 0);
}

struct reading {
	struct io io;
	struct iovec iov;
	struct loop_msg start;
	unsigned disk;
};

static void read_done(struct io *io)
{
	CHECK(io->result == 0);
	loop_set_stop(set);
}

static void read_start(struct loop_msg *msg)
{
	struct reading *r = container_of(msg, struct reading, start);

	bdev_submit(unit_bdev(units[r->disk]), &r->io);
}

/* Every byte is 0 or the disk's own mark. */
static void disk_check(unsigned i)
{
	const uint64_t size = bdev_nblocks(unit_bdev(units[i])) * 512;
	uint8_t *data = malloc(size);
	struct reading r = {.iov = {.iov_base = data, .iov_len = size},
			    .start = {.run = read_start},
			    .io = {.op = IO_READ, .len = size, .niov = 1, .done = read_done}};
	unsigned marked = 0;

	r.io.iov = &r.iov;
	r.io.loop = loop_set_at(set, 0);
	r.disk = i;
	loop_post(r.io.loop, &r.start);
	assert_int_equal(loop_set_run(set), 0);
	for (uint64_t at = 0; at < size; at++) {
		assert_true(data[at] == 0 || data[at] == mark((uint32_t)(size / 512)));
		marked += data[at] != 0;
	}
	assert_true(i == 2 ? marked == 0 : marked > 0);
	assert_int_equal(unit_first_view(units[i])->holder, 0);
	free(data);
}

static void run_all(void)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct client *c = &clients[i];

		*c = (struct client){.rounds = ROUNDS,
				     .random = i + 1,
				     .next = {.run = client_next},
				     .start = {.run = client_start},
				     .nexus = {.transport = &transport,
					       .target = target,
					       .loop = loop_set_at(set, i % LOOPS),
					       .target_port = 1,
					       .opened = client_opened,
					       .closed = client_closed}};
		loop_post(c->nexus.loop, &c->start);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct changer *ch = &changers[i];

		*ch = (struct changer){.start = {.run = changer_start},
				       .op = {.target = target,
					      .lun = (uint16_t)(i + 1),
					      .lu = lus[i == 0 ? 0 : 2],
					      .loop = loop_set_at(set, i + 1),
					      .done = changed}};
		loop_post(ch->op.loop, &ch->start);
	}
	assert_int_equal(loop_set_run(set), 0);
}

static void no_disk_gets_what_was_meant_for_another(void **state)
{
	const struct loop_config lc = {.nloops = LOOPS, .disk_engine = LOOP_DISK_WORKERS};
	struct client sum = {0};

	assert_int_equal(loop_set_create(&set, &lc, NULL), 0);
	assert_int_equal(scsi_target_create(&target, "iqn.2026-11.test:x"), 0);
	for (unsigned i = 0; i < DISKS; i++)
		disk_up(i);
	atomic_store(&running, CLIENTS);
	atomic_store(&changing, 2);
	run_all();
	for (unsigned i = 0; i < CLIENTS; i++) {
		sum.written += clients[i].written;
		sum.told += clients[i].told;
		sum.conflicts += clients[i].conflicts;
		sum.gone += clients[i].gone;
		sum.nlost += clients[i].nlost;
	}
	print_message("%u + %u changes, %u writes, told %u times, %u conflicts, %u times gone, "
		      "%u lost\n",
		      changers[0].done, changers[1].done, sum.written, sum.told, sum.conflicts,
		      sum.gone, sum.nlost);
	assert_true(sum.written > 0 && sum.told > 0 && sum.gone > 0);
	assert_true(changers[0].done > 10 && changers[1].done > 10);
	for (unsigned i = 0; i < DISKS; i++)
		disk_check(i);
	scsi_target_destroy(target);
	for (unsigned i = 0; i < DISKS; i++) {
		scsi_lu_destroy(lus[i]);
		unit_destroy(units[i]);
	}
	loop_set_destroy(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_disk_gets_what_was_meant_for_another),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
