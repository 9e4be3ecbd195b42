/*
 * What the tests of the stores share: an io that a test waits for, and a model that random io is
 * compared with. A test says how it runs its loops by defining either STORE_TEST_SIM (simulated
 * loops, the test steps them) or STORE_TEST_LOOPS (real ones on threads of their own).
 */
#ifndef SPINDLE_TESTS_STORE_TEST_H
#define SPINDLE_TESTS_STORE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/impl.h"
#ifdef STORE_TEST_SIM
#include "loop/sim.h"
#else
#include <pthread.h>
#endif

static const struct store_type *const test_types[] = {
	&store_file, &store_ram, &store_null, &store_slice, &store_fault, NULL,
};

/* ---- Loops ---- */

struct rig {
	struct loop_set *set;
#ifndef STORE_TEST_SIM
	pthread_t thread;
#endif
};

#ifdef STORE_TEST_SIM
static inline void rig_start(struct rig *r, unsigned nloops, uint64_t seed)
{
	assert_int_equal(sim_create(&r->set, nloops, seed), 0);
}

static inline void rig_stop(struct rig *r)
{
	loop_set_destroy(r->set);
}
#else
static inline void *rig_main(void *arg)
{
	struct rig *r = arg;

	loop_set_run(r->set);
	return NULL;
}

static inline void rig_start(struct rig *r, unsigned nloops, uint64_t seed)
{
	const struct loop_config config = {.nloops = nloops};

	assert_int_equal(loop_set_create(&r->set, &config, NULL), 0);
	assert_int_equal(pthread_create(&r->thread, NULL, rig_main, r), 0);
}

/* The loops have ended; stores may be closed now. */
static inline void rig_join(struct rig *r)
{
	loop_set_stop(r->set);
	pthread_join(r->thread, NULL);
}

static inline void rig_stop(struct rig *r)
{
	loop_set_destroy(r->set);
}
#endif

static inline struct store *rig_open(struct rig *r, const struct store_type *const *types,
				     const char *spec, const struct store_config *config)
{
	struct store_config none = {0};
	struct store *s = NULL;
	struct diag d;
	char text[600];

	diag_init(&d);
	if (store_open(&s, r->set, types, spec, config != NULL ? config : &none, &d) != 0)
		fail_msg("%s: %s", spec, diag_text(&d, text, sizeof(text)));
	return s;
}

/* ---- An io and its end ---- */

struct req {
	struct io io;
	struct loop_msg msg;
	struct store *store;
	struct iovec iov[3];
	sem_t ended;
	bool done;       /* read it on the io's loop, or when waited for */
	bool on_stack;   /* store_submit has not returned yet */
	bool done_early; /* done ran on the submitter's stack */
	void (*then)(struct req *q);
};

static inline void req_done(struct io *io)
{
	struct req *q = container_of(io, struct req, io);

	q->done = true;
	q->done_early = q->on_stack;
	assert_ptr_equal(loop_self(), io->loop);
	if (q->then != NULL)
		q->then(q);
	else
		sem_post(&q->ended);
}

/* Cuts buf into up to three pieces, so that iovecs are walked as well. */
static inline void req_init(struct req *q, struct store *s, struct loop *loop, enum io_op op,
			    unsigned flags, uint64_t off, uint64_t len, void *buf)
{
	*q = (struct req){.store = s};
	sem_init(&q->ended, 0, 0);
	q->io = (struct io){
		.op = op,
		.flags = flags,
		.off = off,
		.len = len,
		.loop = loop,
		.done = req_done,
		.ended = io_finish,
	};
	if (buf == NULL)
		return;
	q->io.iov = q->iov;
	for (uint64_t at = 0; at < len;) {
		uint64_t n = q->io.niov == 2 || len < 1024 ? len - at : align_up(len / 3, 512);

		n = min_u64(n, len - at);
		q->iov[q->io.niov++] = (struct iovec){(uint8_t *)buf + at, n};
		at += n;
	}
}

/* On its loop. */
static inline void req_submit(struct req *q)
{
	q->on_stack = true;
	store_submit(q->store, &q->io);
	q->on_stack = false;
}

static inline void req_posted(struct loop_msg *msg)
{
	req_submit(container_of(msg, struct req, msg));
}

static inline void req_start(struct req *q)
{
	q->msg.run = req_posted;
	loop_post(q->io.loop, &q->msg);
}

static inline int req_wait(struct rig *r, struct req *q)
{
#ifdef STORE_TEST_SIM
	while (!q->done)
		assert_true(sim_step(r->set));
#else
	while (sem_wait(&q->ended) != 0)
		continue;
#endif
	assert_true(q->done);
	assert_false(q->done_early);
	sem_destroy(&q->ended);
	return q->io.result;
}

/* One io from loop `at`, waited for. */
static inline int rig_io(struct rig *r, struct store *s, unsigned at, enum io_op op, unsigned flags,
			 uint64_t off, uint64_t len, void *buf)
{
	struct req q;

	req_init(&q, s, loop_set_at(r->set, at % loop_set_count(r->set)), op, flags, off, len, buf);
	req_start(&q);
	return req_wait(r, &q);
}

/* ---- Random numbers and the model ---- */

static inline uint64_t rnd(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static inline void fill_random(uint8_t *p, size_t len, uint64_t *state)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)rnd(state);
}

/* What a store must hold: `bytes` where `known`, anything elsewhere. */
struct model {
	struct rig *rig;
	struct store *store;
	uint64_t size, random;
	uint8_t *bytes, *buf;
	bool *known;
};

static inline void model_init(struct model *m, struct rig *r, struct store *s, uint64_t seed)
{
	*m = (struct model){.rig = r, .store = s, .size = store_info(s)->size, .random = seed};
	m->bytes = calloc(1, m->size);
	m->buf = malloc(m->size);
	m->known = malloc(m->size * sizeof(bool));
	memset(m->known, true, m->size);
}

static inline void model_fini(struct model *m)
{
	free(m->bytes);
	free(m->buf);
	free(m->known);
}

static inline void model_check_read(struct model *m, uint64_t off, uint64_t len)
{
	unsigned at = (unsigned)rnd(&m->random);

	memset(m->buf, 0xee, len);
	assert_int_equal(rig_io(m->rig, m->store, at, IO_READ, 0, off, len, m->buf), 0);
	for (uint64_t i = 0; i < len; i++) {
		if (m->known[off + i] && m->buf[i] != m->bytes[off + i])
			fail_msg("byte %llu is 0x%02x, not 0x%02x", (unsigned long long)(off + i),
				 m->buf[i], m->bytes[off + i]);
	}
}

/* Walks a range by extents: a hole reads zeros, and the walk gets to the end. */
static inline void model_check_extents(struct model *m, uint64_t off, uint64_t len)
{
	for (uint64_t at = off; at < off + len;) {
		struct req q;

		req_init(&q, m->store, loop_set_at(m->rig->set, 0), IO_EXTENT, 0, at,
			 off + len - at, NULL);
		req_start(&q);
		assert_int_equal(req_wait(m->rig, &q), 0);
		assert_in_range(q.io.extent.len_bytes, 1, off + len - at);
		for (uint64_t i = 0; q.io.extent.hole && i < q.io.extent.len_bytes; i++)
			assert_true(!m->known[at + i] || m->bytes[at + i] == 0);
		at += q.io.extent.len_bytes;
	}
}

static inline void model_write(struct model *m, uint64_t off, uint64_t len, unsigned flags)
{
	unsigned at = (unsigned)rnd(&m->random);

	fill_random(m->buf, len, &m->random);
	assert_int_equal(rig_io(m->rig, m->store, at, IO_WRITE, flags, off, len, m->buf), 0);
	memcpy(m->bytes + off, m->buf, len);
	memset(m->known + off, true, len);
}

static inline void model_clear(struct model *m, enum io_op op, uint64_t off, uint64_t len,
			       unsigned flags)
{
	const struct store_info *info = store_info(m->store);
	unsigned at = (unsigned)rnd(&m->random);
	int err = rig_io(m->rig, m->store, at, op, flags, off, len, NULL);

	if (op == IO_DISCARD && info->discard_granularity == 0) {
		assert_int_equal(err, -EOPNOTSUPP);
		return;
	}
	assert_int_equal(err, 0);
	memset(m->bytes + off, 0, len);
	memset(m->known + off, op == IO_ZERO || info->discard_zeroes, len);
}

/* Random ops on ranges of whole `block`s, mostly small. */
static inline void model_run(struct model *m, unsigned nops, uint64_t block)
{
	uint64_t nblocks = m->size / block;

	for (unsigned i = 0; i < nops; i++) {
		uint64_t first = rnd(&m->random) % nblocks;
		uint64_t most = rnd(&m->random) % 8 == 0 ? nblocks : 16;
		uint64_t n = 1 + rnd(&m->random) % min_u64(most, nblocks - first);
		uint64_t off = first * block, len = n * block;
		unsigned dice = (unsigned)(rnd(&m->random) % 16);

		if (dice < 6)
			model_check_read(m, off, len);
		else if (dice < 12)
			model_write(m, off, len, dice == 11 ? IO_FUA : 0);
		else if (dice == 12)
			model_clear(m, IO_ZERO, off, len, rnd(&m->random) % 4);
		else if (dice == 13)
			model_clear(m, IO_DISCARD, off, len, 0);
		else if (dice == 14)
			model_check_extents(m, off, len);
		else
			assert_int_equal(rig_io(m->rig, m->store, i, IO_FLUSH, 0, 0, 0, NULL), 0);
	}
	model_check_read(m, 0, m->size);
}

#endif
