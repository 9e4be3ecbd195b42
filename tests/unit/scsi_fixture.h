/*
 * What the tests of scsi share: units over real stores on one real loop, and a transport that lives
 * in the test's memory. The test's thread hands every call to the loop and waits for it.
 */
#ifndef SPINDLE_TEST_SCSI_FIXTURE_H
#define SPINDLE_TEST_SCSI_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "scsi/impl.h"
#include "store/impl.h"

#define FX_UNUSED __attribute__((unused))
#define FX_UNITS  4
#define FX_WAIT_S 20
#define FX_NAA    "\x3a\x5b\x6c\x7d\x8e\x9f\x01\x02"
#define FX_SERIAL "a1b2c3d4"
#define FX_NAME   "iqn.2026-11.test:disk"
#ifndef FX_LOOPS
#define FX_LOOPS 1
#endif
#ifndef FX_BUF_BYTES
#define FX_BUF_BYTES (4 * MiB) /* the data of a task */
#endif

enum fx_moves {
	FX_AT_ONCE, /* moved before move() returns */
	FX_LATER,   /* later in the turn */
	FX_HOLD,    /* when the test says so */
};

struct fx {
	struct loop_set *set;
	struct loop *loop;
	pthread_t thread;
	struct store *stores[FX_UNITS];
	struct unit *units[FX_UNITS];
	struct scsi_lu *lus[FX_UNITS];
	unsigned nunits;
	struct scsi_target *target;
	bool cannot_discard; /* of disks that are added from now on */
};

struct fx_nexus {
	struct nexus nexus;
	struct fx *fx;
	sem_t sem;
	int err;
	bool closed;
};

struct fx_task;

struct fx_move {
	struct loop_msg msg;
	struct scsi_seg *seg;
	int err;
};

struct fx_task {
	struct scsi_task t;
	sem_t sem;
	enum fx_moves moves;
	int move_err;   /* what data-out moves end with */
	uint8_t *data;  /* data-in arrives here, data-out comes from here */
	uint32_t moved; /* next offset that may be moved */
	unsigned nmoves, nheld, ncancelled, nlent,
		out; /* moves so far, held, asked back, under way */
	struct fx_move later[2];
	bool finished, aborted, cancel_sticks;
	unsigned at_finish; /* data-in bytes handed over when finish came */
};

static struct fx_task *fx_task_of(struct scsi_task *t)
{
	return container_of(t, struct fx_task, t);
}

static void fx_wait(sem_t *sem)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += FX_WAIT_S;
	while (sem_timedwait(sem, &ts) != 0)
		if (errno != EINTR)
			fail_msg("nothing happens any more");
}

/* ---- Calls on the loop ---- */

struct fx_call {
	struct loop_msg msg;
	void (*fn)(void *arg);
	void *arg;
	sem_t sem;
};

static void fx_call_run(struct loop_msg *msg)
{
	struct fx_call *c = container_of(msg, struct fx_call, msg);

	c->fn(c->arg);
	sem_post(&c->sem);
}

FX_UNUSED static void fx_call(struct fx *fx, void (*fn)(void *arg), void *arg)
{
	struct fx_call c = {.msg = {.run = fx_call_run}, .fn = fn, .arg = arg};

	sem_init(&c.sem, 0, 0);
	loop_post(fx->loop, &c.msg);
	fx_wait(&c.sem);
	sem_destroy(&c.sem);
}

static void fx_nothing(void *arg)
{
}

/* A few turns go by. */
FX_UNUSED static void fx_settle(struct fx *fx)
{
	for (unsigned i = 0; i < 20; i++)
		fx_call(fx, fx_nothing, NULL);
}

/* ---- The transport: on the loop's thread, where cmocka's assertions do not work ---- */

static void fx_check_done(struct fx_task *ft)
{
	if (ft->finished && ft->out == 0)
		sem_post(&ft->sem);
}

static void fx_moved(struct scsi_seg *seg, int err)
{
	struct fx_task *ft = fx_task_of(seg->task);

	/* It may finish in there: until then this segment keeps the task alive. */
	scsi_moved(seg, err);
	ft->out--;
	fx_check_done(ft);
}

static void fx_later_run(struct loop_msg *msg)
{
	struct fx_move *m = container_of(msg, struct fx_move, msg);
	struct scsi_seg *seg = m->seg;

	m->seg = NULL;
	fx_moved(seg, m->err);
}

static int fx_copy(struct fx_task *ft, struct scsi_seg *seg)
{
	uint8_t *p = ft->data + seg->off;

	CHECK(seg->off == ft->moved);
	CHECK(seg->len != 0 && seg->len <= SCSI_SEG_MAX);
	ft->moved += seg->len;
	ft->nmoves++;
	if (seg->niov == 0) {
		CHECK(ft->t.writes && ft->moved <= ft->t.expected_out);
		if (seg->buf == NULL)
			seg->buf = loop_buf_get(ft->t.nexus->loop, seg->len);
		memcpy(seg->buf->data, p, seg->len);
		seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
		seg->niov = 1;
		return ft->move_err;
	}
	CHECK(ft->t.reads && ft->moved <= ft->t.expected_in);
	CHECK(seg->buf != NULL || !ft->t.no_lend);
	ft->nlent += seg->buf == NULL;
	for (unsigned i = 0; i < seg->niov; i++) {
		memcpy(p, seg->iov[i].iov_base, seg->iov[i].iov_len);
		p += seg->iov[i].iov_len;
	}
	CHECK(p == ft->data + seg->off + seg->len);
	return 0;
}

static struct fx_move *fx_slot(struct fx_task *ft, struct scsi_seg *seg)
{
	struct fx_move *m = ft->later[0].seg == seg ? &ft->later[0] : &ft->later[1];

	CHECK(m->seg == seg);
	return m;
}

static void fx_move(struct scsi_seg *seg)
{
	struct fx_task *ft = fx_task_of(seg->task);
	const int err = fx_copy(ft, seg);
	struct fx_move *m = ft->later[0].seg == NULL ? &ft->later[0] : &ft->later[1];

	CHECK(!ft->finished);
	ft->out++;
	if (ft->moves == FX_AT_ONCE) {
		fx_moved(seg, err);
		return;
	}
	CHECK(m->seg == NULL);
	*m = (struct fx_move){.seg = seg, .err = err, .msg = {.run = fx_later_run}};
	if (ft->moves == FX_LATER)
		loop_defer(ft->t.nexus->loop, &m->msg);
	else
		ft->nheld++;
}

static void fx_cancel_move(struct scsi_seg *seg)
{
	struct fx_task *ft = fx_task_of(seg->task);

	ft->ncancelled++;
	if (ft->moves == FX_HOLD && !ft->cancel_sticks) {
		fx_slot(ft, seg)->seg = NULL;
		ft->nheld--;
		fx_moved(seg, -ECANCELED);
	}
}

static void fx_finish(struct scsi_task *t)
{
	struct fx_task *ft = fx_task_of(t);

	CHECK(!ft->finished);
	ft->finished = true;
	ft->aborted = t->unit_task.aborted;
	ft->at_finish = ft->moved;
	fx_check_done(ft);
}

static const struct scsi_transport fx_transport = {
	.name = "test",
	.protocol_id = 5,
	.move = fx_move,
	.cancel_move = fx_cancel_move,
	.finish = fx_finish,
};

/* The oldest held segment goes on with this result. */
static void fx_release_run(void *arg)
{
	struct fx_task *ft = arg;
	struct fx_move *m = &ft->later[0];
	struct scsi_seg *seg;

	if (m->seg == NULL || (ft->later[1].seg != NULL && ft->later[1].seg->off < m->seg->off))
		m = &ft->later[1];
	seg = m->seg;
	CHECK(seg != NULL);
	m->seg = NULL;
	ft->nheld--;
	fx_moved(seg, m->err);
}

FX_UNUSED static void fx_release(struct fx *fx, struct fx_task *ft)
{
	fx_call(fx, fx_release_run, ft);
}

/* ---- Disks and targets ---- */

static void *fx_thread(void *arg)
{
	loop_set_run(arg);
	return NULL;
}

static const struct store_type *const fx_types[] = {&store_file, &store_ram, &store_null,
						    &store_fault, NULL};

static void fx_add_disk(struct fx *fx, const char *spec, uint32_t block_size, bool read_only)
{
	const unsigned i = fx->nunits++;
	const struct store_config sc = {.size = 0};
	const struct bdev_config bc = {.block_size = block_size, .read_only = read_only};
	const struct scsi_lu_config lc = {0};
	struct unit_identity id = {.serial = FX_SERIAL};
	struct bdev *bdev;
	struct diag d;

	memcpy(id.naa, FX_NAA, 8);
	diag_init(&d);
	if (store_open(&fx->stores[i], fx->set, fx_types, spec, &sc, &d) != 0)
		fail_msg("%s: %s", spec, d.what);
	if (fx->cannot_discard)
		fx->stores[i]->info.discard_granularity = 0;
	assert_int_equal(bdev_create(&bdev, fx->stores[i], &bc, &d), 0);
	assert_int_equal(unit_create(&fx->units[i], fx->set, bdev, &id, 0), 0);
	assert_int_equal(scsi_lu_create_disk(&fx->lus[i], fx->units[i], &lc), 0);
}

FX_UNUSED static void fx_init(struct fx *fx)
{
	const struct loop_config lc = {.nloops = FX_LOOPS, .disk_engine = LOOP_DISK_WORKERS};

	*fx = (struct fx){0};
	assert_int_equal(loop_set_create(&fx->set, &lc, NULL), 0);
	fx->loop = loop_set_at(fx->set, 0);
	assert_int_equal(scsi_target_create(&fx->target, FX_NAME), 0);
}

FX_UNUSED static void fx_start(struct fx *fx)
{
	assert_int_equal(pthread_create(&fx->thread, NULL, fx_thread, fx->set), 0);
}

/* One disk as LUN 0. */
FX_UNUSED static void fx_up(struct fx *fx, const char *spec, uint32_t block_size)
{
	fx_init(fx);
	fx_add_disk(fx, spec, block_size, false);
	assert_int_equal(scsi_target_add_lun(fx->target, 0, fx->lus[0]), 0);
	fx_start(fx);
}

static void fx_lu_stopped(void *arg)
{
	sem_post(arg);
}

struct fx_stop {
	struct fx *fx;
	struct scsi_lu *lu;
	sem_t sem;
};

static void fx_stop_run(void *arg)
{
	struct fx_stop *s = arg;

	scsi_lu_stop(s->lu, s->fx->loop, fx_lu_stopped, &s->sem);
}

/* Work on the whole disk that a test began and did not wait for. */
FX_UNUSED static void fx_stop_lu(struct fx *fx, struct scsi_lu *lu)
{
	struct fx_stop s = {.fx = fx, .lu = lu};

	sem_init(&s.sem, 0, 0);
	fx_call(fx, fx_stop_run, &s);
	fx_wait(&s.sem);
	sem_destroy(&s.sem);
}

FX_UNUSED static void fx_down(struct fx *fx)
{
	for (unsigned i = 0; i < fx->nunits; i++)
		fx_stop_lu(fx, fx->lus[i]);
	loop_set_stop(fx->set);
	pthread_join(fx->thread, NULL);
	scsi_target_destroy(fx->target);
	for (unsigned i = 0; i < fx->nunits; i++) {
		scsi_lu_destroy(fx->lus[i]);
		unit_destroy(fx->units[i]);
	}
	loop_set_destroy(fx->set);
}

/* ---- Nexuses ---- */

static void fx_opened(struct nexus *n, int err)
{
	struct fx_nexus *fn = container_of(n, struct fx_nexus, nexus);

	fn->err = err;
	sem_post(&fn->sem);
}

static void fx_closed(struct nexus *n)
{
	struct fx_nexus *fn = container_of(n, struct fx_nexus, nexus);

	fn->closed = true;
	sem_post(&fn->sem);
}

static void fx_nexus_init(struct fx *fx, struct fx_nexus *fn)
{
	*fn = (struct fx_nexus){.fx = fx,
				.nexus = {.transport = &fx_transport,
					  .target = fx->target,
					  .loop = fx->loop,
					  .target_port = 1,
					  .opened = fx_opened,
					  .closed = fx_closed}};
	sem_init(&fn->sem, 0, 0);
}

static void fx_open_run(void *arg)
{
	nexus_open(&((struct fx_nexus *)arg)->nexus);
}

static void fx_close_run(void *arg)
{
	nexus_close(&((struct fx_nexus *)arg)->nexus);
}

FX_UNUSED static void fx_open(struct fx *fx, struct fx_nexus *fn)
{
	fx_nexus_init(fx, fn);
	fx_call(fx, fx_open_run, fn);
	fx_wait(&fn->sem);
	assert_int_equal(fn->err, 0);
}

FX_UNUSED static void fx_close(struct fx_nexus *fn)
{
	fx_call(fn->fx, fx_close_run, fn);
	fx_wait(&fn->sem);
	assert_true(fn->closed);
	sem_destroy(&fn->sem);
}

/* ---- Tasks ---- */

FX_UNUSED static struct fx_task *fx_task_new(struct fx_nexus *fn, const uint8_t *cdb,
					     uint8_t cdb_len)
{
	struct fx_task *ft = malloc(sizeof(*ft));

	/* A transport reuses its tasks and clears nothing that is not its own. */
	memset(ft, 0xa5, sizeof(*ft));
	ft->t.nexus = &fn->nexus;
	memset(ft->t.cdb, 0, sizeof(ft->t.cdb));
	memcpy(ft->t.cdb, cdb, cdb_len);
	ft->t.cdb_len = 16;
	memset(ft->t.lun, 0, sizeof(ft->t.lun));
	ft->t.attr = SCSI_SIMPLE;
	ft->t.tag = 1;
	ft->t.reads = ft->t.writes = false;
	ft->t.expected_in = ft->t.expected_out = 0;
	ft->t.no_lend = false;
	sem_init(&ft->sem, 0, 0);
	ft->moves = FX_AT_ONCE;
	ft->move_err = 0;
	ft->data = calloc(1, FX_BUF_BYTES);
	ft->moved = 0;
	ft->nlent = ft->nmoves = ft->nheld = ft->ncancelled = ft->out = ft->at_finish = 0;
	ft->later[0].seg = ft->later[1].seg = NULL;
	ft->finished = ft->aborted = ft->cancel_sticks = false;
	return ft;
}

FX_UNUSED static void fx_expect_in(struct fx_task *ft, uint32_t bytes)
{
	ft->t.reads = true;
	ft->t.expected_in = bytes;
}

FX_UNUSED static void fx_expect_out(struct fx_task *ft, uint32_t bytes)
{
	ft->t.writes = true;
	ft->t.expected_out = bytes;
}

FX_UNUSED static void fx_task_free(struct fx_task *ft)
{
	free(ft->data);
	sem_destroy(&ft->sem);
	free(ft);
}

static void fx_submit_run(void *arg)
{
	scsi_task_run(&((struct fx_task *)arg)->t);
}

FX_UNUSED static void fx_submit(struct fx *fx, struct fx_task *ft)
{
	fx_call(fx, fx_submit_run, ft);
}

FX_UNUSED static void fx_finish_wait(struct fx_task *ft)
{
	fx_wait(&ft->sem);
	assert_true(ft->finished);
}

FX_UNUSED static void fx_run(struct fx *fx, struct fx_task *ft)
{
	fx_submit(fx, ft);
	fx_finish_wait(ft);
}

/* A command that reads up to `expected` bytes, or none. */
FX_UNUSED static struct fx_task *fx_cmd(struct fx_nexus *fn, const uint8_t *cdb, uint8_t cdb_len,
					uint32_t expected)
{
	struct fx_task *ft = fx_task_new(fn, cdb, cdb_len);

	if (expected != 0)
		fx_expect_in(ft, expected);
	fx_run(fn->fx, ft);
	return ft;
}

#define FX_CMD(fn, expected, ...) \
	fx_cmd(fn, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), expected)

/* Ten or sixteen byte CDB of a command with LBA and length, by its opcode's group. */
FX_UNUSED static struct fx_task *fx_rw(struct fx_nexus *fn, uint8_t opcode, uint64_t lba,
				       uint32_t nblocks)
{
	uint8_t cdb[16] = {opcode};

	if (opcode < 0x80) {
		store_be32(cdb + 2, (uint32_t)lba);
		store_be16(cdb + 7, (uint16_t)nblocks);
	} else {
		store_be64(cdb + 2, lba);
		store_be32(cdb + 10, nblocks);
	}
	return fx_task_new(fn, cdb, 16);
}

/* ---- Expectations ---- */

FX_UNUSED static void fx_good(const struct fx_task *ft)
{
	assert_int_equal(ft->t.status, SCSI_GOOD);
	assert_int_equal(ft->t.sense_len, 0);
	assert_false(ft->aborted);
}

FX_UNUSED static void fx_sense(const struct fx_task *ft, uint8_t key, uint8_t asc, uint8_t ascq)
{
	assert_int_equal(ft->t.status, SCSI_CHECK_CONDITION);
	assert_int_equal(ft->t.sense_len, 18);
	assert_int_equal(ft->t.sense[0] & 0x7f, 0x70);
	assert_int_equal(ft->t.sense[7], 10);
	if (ft->t.sense[2] != key || ft->t.sense[12] != asc || ft->t.sense[13] != ascq)
		fail_msg("sense %02x/%02x/%02x, expected %02x/%02x/%02x", ft->t.sense[2],
			 ft->t.sense[12], ft->t.sense[13], key, asc, ascq);
}

/* 24/00 with a pointer at this bit. */
FX_UNUSED static void fx_bad_field(const struct fx_task *ft, unsigned byte, unsigned bit)
{
	fx_sense(ft, 0x5, 0x24, 0x00);
	if (ft->t.sense[15] != (0xc8 | bit) || load_be16(ft->t.sense + 16) != byte)
		fail_msg("field pointer %02x %u, expected byte %u bit %u", ft->t.sense[15],
			 load_be16(ft->t.sense + 16), byte, bit);
}

FX_UNUSED static void fx_information(const struct fx_task *ft, uint64_t information)
{
	assert_int_equal(ft->t.sense[0], 0xf0);
	assert_int_equal(load_be32(ft->t.sense + 3), information);
}

FX_UNUSED static void fx_residual(const struct fx_task *ft, uint32_t underflow, uint32_t overflow)
{
	assert_int_equal(ft->t.underflow, underflow);
	assert_int_equal(ft->t.overflow, overflow);
}

/* Takes the POWER ON unit attention of one LUN. */
FX_UNUSED static void fx_take_power_on(struct fx_nexus *fn, uint8_t lun)
{
	struct fx_task *ft = fx_task_new(fn, (const uint8_t[6]){0}, 6);

	ft->t.lun[1] = lun;
	fx_run(fn->fx, ft);
	fx_sense(ft, 0x6, 0x29, 0x00);
	fx_task_free(ft);
}

#endif
