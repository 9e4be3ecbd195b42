/*
 * Fuzz: commands with their parameter lists, on simulated loops: time is virtual, so formats and
 * self-tests take none, and a run is a function of its input.
 *
 * An input is two bytes of options and commands. A command is a byte of flags, a byte for LUN and
 * attribute, 16 bytes of CDB, two bytes that say how much data the initiator expects, two that
 * say how many bytes of data-out follow, and these; they are repeated until there is enough.
 */
#include <stdlib.h>

#include "fuzz.h"
#include "loop/sim.h"
#include "scsi/scsi.h"

enum options {
	OPT_4096 = 0x01,
	OPT_READ_ONLY = 0x02,
	OPT_VOLATILE = 0x04,
	OPT_LOSE = 0x08, /* the nexuses are lost with what is under way */
	OPT_NULL = 0x10,
};

enum flags {
	CMD_OTHER_NEXUS = 0x01,
	CMD_READS = 0x02,
	CMD_WRITES = 0x04,
	CMD_NO_WAIT = 0x08,
	CMD_LATER = 0x10, /* data move later */
	CMD_SCALE = 0x20, /* the expected length counts blocks of 512 bytes */
	CMD_FAIL = 0x40,  /* data-out does not come */
	CMD_NO_LEND = 0x80,
};

#define NEXUSES   2
#define COMMANDS  24
#define STEPS_MAX UINT64_C(4000000)
#define DATA_MAX  (1 * MiB)

struct world {
	struct loop_set *set;
	struct unit *unit;
	struct scsi_lu *lu;
	struct scsi_target *target;
	struct nexus nexuses[NEXUSES];
	unsigned nopen;
	bool stopped;
	struct loop_msg msg;
};

struct move {
	struct loop_msg msg;
	struct scsi_seg *seg; /* NULL: the slot is free */
	int err;
};

struct command {
	struct scsi_task t;
	uint8_t flags;
	const uint8_t *data; /* of data-out */
	size_t data_len;
	uint32_t moved;
	unsigned out; /* segments under way */
	bool begun, finished;
	struct move later[2];
	struct loop_msg begin;
};

static struct command *command_of(struct scsi_task *t)
{
	return container_of(t, struct command, t);
}

/* ---- The transport ---- */

static void give(const struct command *c, const struct scsi_seg *seg)
{
	uint8_t *to = seg->buf->data;

	for (uint32_t i = 0; i < seg->len; i++)
		to[i] = c->data_len != 0 ? c->data[(seg->off + i) % c->data_len] : 0;
}

static int copy(struct command *c, struct scsi_seg *seg)
{
	static uint8_t sink[SCSI_SEG_MAX];
	size_t len = 0;

	CHECK(seg->off == c->moved);
	CHECK(seg->len != 0 && seg->len <= SCSI_SEG_MAX);
	c->moved += seg->len;
	if (seg->niov == 0) {
		CHECK(c->t.writes && c->moved <= c->t.expected_out);
		if ((c->flags & CMD_FAIL) != 0) {
			scsi_task_sense(&c->t, SENSE_DATA_DIGEST_ERROR);
			return -EIO;
		}
		if (seg->buf == NULL)
			seg->buf = loop_buf_get(c->t.nexus->loop, seg->len);
		CHECK(seg->buf != NULL);
		give(c, seg);
		seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
		seg->niov = 1;
		return 0;
	}
	CHECK(c->t.reads && c->moved <= c->t.expected_in);
	CHECK(seg->buf != NULL || !c->t.no_lend);
	for (unsigned i = 0; i < seg->niov; i++) {
		CHECK(len + seg->iov[i].iov_len <= seg->len);
		memcpy(sink + len, seg->iov[i].iov_base, seg->iov[i].iov_len);
		len += seg->iov[i].iov_len;
	}
	CHECK(len == seg->len);
	return 0;
}

static void moved(struct scsi_seg *seg, int err)
{
	struct command *c = command_of(seg->task);

	scsi_moved(seg, err);
	c->out--;
}

static void run_later(struct loop_msg *msg)
{
	struct move *m = container_of(msg, struct move, msg);
	struct scsi_seg *seg = m->seg;

	m->seg = NULL;
	moved(seg, m->err);
}

static void move(struct scsi_seg *seg)
{
	struct command *c = command_of(seg->task);
	struct move *m = c->later[0].seg == NULL ? &c->later[0] : &c->later[1];
	const int err = copy(c, seg);

	CHECK(!c->finished);
	c->out++;
	if ((c->flags & CMD_LATER) == 0) {
		moved(seg, err);
		return;
	}
	CHECK(m->seg == NULL);
	*m = (struct move){.msg = {.run = run_later}, .seg = seg, .err = err};
	loop_defer(c->t.nexus->loop, &m->msg);
}

/* What moves later comes soon enough. */
static void cancel_move(struct scsi_seg *seg)
{
}

/* What must hold of any command, however it went. */
static void finish(struct scsi_task *t)
{
	struct command *c = command_of(t);

	CHECK(!c->finished);
	c->finished = true;
	if (t->unit_task.aborted)
		return;
	CHECK(t->sense_len <= SCSI_SENSE_MAX);
	CHECK((t->status == SCSI_CHECK_CONDITION) == (t->sense_len != 0));
	CHECK(t->underflow == 0 || t->overflow == 0);
	CHECK(t->underflow <= (t->reads ? t->expected_in : t->expected_out));
	if (t->status == SCSI_GOOD && t->reads && !t->writes && t->overflow == 0)
		CHECK(c->moved == t->expected_in - t->underflow);
}

static const struct scsi_transport transport = {
	.name = "fuzz",
	.protocol_id = 5,
	.move = move,
	.cancel_move = cancel_move,
	.finish = finish,
};

/* ---- The world ---- */

static void opened(struct nexus *n, int err)
{
	CHECK(err == 0);
}

static struct world *world_of(struct nexus *n)
{
	return container_of(n, struct world, nexuses[n->target_port - 1]);
}

static void closed(struct nexus *n)
{
	world_of(n)->nopen--;
}

/* One after another, each in a callback of the first loop. */
static void run_here(struct world *w, void (*run)(struct loop_msg *msg))
{
	w->msg.run = run;
	loop_post(loop_set_at(w->set, 0), &w->msg);
	sim_run(w->set, STEPS_MAX);
}

static void open_all(struct loop_msg *msg)
{
	struct world *w = container_of(msg, struct world, msg);

	for (unsigned i = 0; i < NEXUSES; i++) {
		w->nexuses[i] = (struct nexus){.transport = &transport,
					       .target = w->target,
					       .loop = loop_set_at(w->set, 0),
					       .target_port = low_u16(i + 1),
					       .opened = opened,
					       .closed = closed};
		w->nopen++;
		nexus_open(&w->nexuses[i]);
	}
}

static void close_all(struct loop_msg *msg)
{
	struct world *w = container_of(msg, struct world, msg);

	for (unsigned i = 0; i < NEXUSES; i++)
		nexus_close(&w->nexuses[i]);
}

static void lu_stopped(void *arg)
{
	((struct world *)arg)->stopped = true;
}

static void stop_lu(struct loop_msg *msg)
{
	struct world *w = container_of(msg, struct world, msg);

	scsi_lu_stop(w->lu, loop_set_at(w->set, 0), lu_stopped, w);
}

static void world_open(struct world *w, uint8_t options, uint8_t seed)
{
	static const struct store_type *const types[] = {&store_ram, &store_null, &store_fault,
							 NULL};
	const struct store_config sc = {.read_only = (options & OPT_READ_ONLY) != 0};
	const struct bdev_config bc = {.block_size = (options & OPT_4096) != 0 ? 4096 : 512,
				       .read_only = sc.read_only};
	const struct unit_identity id = {.naa = "\x3a\x5b\x6c\x7d\x8e\x9f\x01\x02", .serial = "x"};
	const char *spec = (options & OPT_VOLATILE) != 0 ? "fault:volatile=on:ram:1M"
			   : (options & OPT_NULL) != 0   ? "null:1M"
							 : "ram:1M";
	struct store *store;
	struct bdev *bdev;

	*w = (struct world){0};
	CHECK(sim_create(&w->set, 2, seed) == 0);
	CHECK(store_open(&store, w->set, types, spec, &sc, NULL) == 0);
	CHECK(bdev_create(&bdev, store, &bc, NULL) == 0);
	CHECK(unit_create(&w->unit, w->set, bdev, &id, 1) == 0);
	CHECK(scsi_lu_create_disk(&w->lu, w->unit, &(struct scsi_lu_config){0}) == 0);
	CHECK(scsi_target_create(&w->target, "iqn.2026-11.test:disk") == 0);
	CHECK(scsi_target_add_lun(w->target, 0, w->lu) == 0);
	run_here(w, open_all);
}

static void world_close(struct world *w)
{
	run_here(w, close_all);
	CHECK(w->nopen == 0);
	run_here(w, stop_lu);
	CHECK(w->stopped);
	scsi_target_destroy(w->target);
	scsi_lu_destroy(w->lu);
	unit_destroy(w->unit);
	loop_set_destroy(w->set);
}

/* ---- Commands ---- */

static void begin(struct loop_msg *msg)
{
	struct command *c = container_of(msg, struct command, begin);

	c->begun = true;
	scsi_task_run(&c->t);
}

static bool next_command(struct reader *r, struct world *w, struct command *c)
{
	const uint8_t *cdb;
	uint32_t expected;
	uint8_t where;
	size_t got;

	if (reader_left(r) < 3)
		return false;
	/* A transport reuses its tasks and clears nothing that is not its own. */
	memset(c, 0xa5, sizeof(*c));
	c->flags = read_u8(r);
	where = read_u8(r);
	cdb = fuzz_bytes(r, 16, &got);
	memset(c->t.cdb, 0, sizeof(c->t.cdb));
	memcpy(c->t.cdb, cdb, got);
	c->t.cdb_len = 16;
	c->t.nexus = &w->nexuses[(c->flags & CMD_OTHER_NEXUS) != 0];
	memset(c->t.lun, 0, sizeof(c->t.lun));
	c->t.lun[0] = (where & 0x80) != 0 ? 0xc1 : 0; /* a well-known one */
	c->t.lun[1] = (where >> 3) & 0x0f;
	c->t.attr = (enum scsi_attr)((where & 7) % (SCSI_ACA + 1));
	expected = read_be16(r);
	if ((c->flags & CMD_SCALE) != 0)
		expected = low_u32(min_u64(expected * UINT64_C(512), DATA_MAX));
	c->t.reads = (c->flags & CMD_READS) != 0 && expected != 0;
	c->t.writes = (c->flags & CMD_WRITES) != 0 && expected != 0;
	c->t.expected_in = c->t.reads ? expected : 0;
	c->t.expected_out = c->t.writes ? expected : 0;
	c->t.no_lend = (c->flags & CMD_NO_LEND) != 0;
	c->data = fuzz_bytes(r, read_be16(r), &c->data_len);
	c->moved = 0;
	c->out = 0;
	c->begun = c->finished = false;
	c->later[0].seg = c->later[1].seg = NULL;
	c->begin.run = begin;
	return true;
}

static void run_until_finished(struct world *w, const struct command *c)
{
	for (uint64_t n = 0; !c->finished || c->out != 0; n++) {
		CHECK(n < STEPS_MAX); /* else it is stuck */
		CHECK(sim_step(w->set));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct reader r = reader_of(data, len);
	const uint8_t options = read_u8(&r);
	struct command *commands = malloc(COMMANDS * sizeof(*commands));
	struct world w;
	unsigned n = 0;

	CHECK(commands != NULL);
	world_open(&w, options, read_u8(&r));
	for (; n < COMMANDS && next_command(&r, &w, &commands[n]); n++) {
		commands[n].t.tag = n;
		loop_post(commands[n].t.nexus->loop, &commands[n].begin);
		if ((commands[n].flags & CMD_NO_WAIT) == 0)
			run_until_finished(&w, &commands[n]);
	}
	for (unsigned i = 0; i < n && (options & OPT_LOSE) == 0; i++)
		run_until_finished(&w, &commands[i]);
	/* No task is begun on a nexus that is lost. */
	for (unsigned i = 0; i < n; i++)
		while (!commands[i].begun)
			CHECK(sim_step(w.set));
	world_close(&w);
	for (unsigned i = 0; i < n; i++)
		CHECK(commands[i].finished && commands[i].out == 0);
	free(commands);
	return 0;
}
