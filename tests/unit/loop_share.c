/*
 * Who gets a buffer when there are few: ceilings, shares, the order of those who wait, and that
 * nothing of the budget is lost.
 */
#include "loop_test.h"

#include <errno.h>

#define BUDGET (16 * MiB)
#define MAX    LOOP_BUF_MAX
#define MANY   64 /* buffers of LOOP_BUF_MAX that fit into the budget */
#define SEGS   (MANY / 16 * 7)
#define EARLY  (MANY / 16 * 5)
#define CONN   (MANY / 16 * 2)
#define URGENT (MANY / 16 * 2)

struct waiter {
	struct loop_wait wait;
	struct loop_buf *buf;
	unsigned turn; /* 1: the first that was granted; 0: none yet */
	unsigned *turns;
};

static void granted(struct loop_wait *w, int err)
{
	struct waiter *me = container_of(w, struct waiter, wait);

	CHECK(err == 0 && !loop_wait_waits(w));
	me->turn = ++*me->turns;
}

static bool take_some(struct loop_share *share, struct waiter *w, uint32_t len, enum loop_need need,
		      unsigned *turns)
{
	*w = (struct waiter){.turns = turns};
	w->wait.buf = &w->buf;
	w->wait.len_bytes = len;
	w->wait.need = need;
	w->wait.granted = granted;
	return loop_share_take(share, &w->wait);
}

static bool take(struct loop_share *share, struct waiter *w, enum loop_need need, unsigned *turns)
{
	return take_some(share, w, MAX, need, turns);
}

static void put(struct waiter *w)
{
	loop_buf_put(w->buf);
	w->buf = NULL;
}

static void stop(void *arg)
{
	loop_set_stop(arg);
}

/* What was deferred happens. */
static void turn(struct loop_set *set)
{
	test_run(set, stop, set);
}

static struct loop_set *small_set(void)
{
	const struct loop_config config = {.nloops = 1, .memory_bytes = BUDGET};
	struct loop_set *set;

	assert_int_equal(loop_set_create(&set, &config, NULL), 0);
	return set;
}

static void too_little_is_an_error(void **state)
{
	const struct loop_config config = {.nloops = 2, .memory_bytes = BUDGET};
	struct loop_set *set;
	struct diag d;

	diag_init(&d);
	assert_int_equal(loop_set_create(&set, &config, &d), -ERANGE);
	assert_non_null(strstr(d.what, "too little --memory for 2 threads"));
}

/* As much as it leaves free of a half. */
static void one_alone_has_a_quarter(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *a = loop_share_create(loop), *b = loop_share_create(loop);
	static struct waiter w[MANY];
	unsigned turns = 0, n = 0, m = 0;

	while (take(a, &w[n], LOOP_SEGMENT, &turns))
		n++;
	assert_int_equal(n, SEGS / 4);
	loop_wait_cancel(&w[n].wait);
	while (take(b, &w[n + m], LOOP_SEGMENT, &turns))
		m++;
	assert_int_equal(m, SEGS / 8 + 1);
	loop_wait_cancel(&w[n + m].wait);
	for (unsigned i = 0; i < n + m; i++)
		put(&w[i]);
	turn(set);
	assert_int_equal(turns, 0);
	assert_int_equal(loop_memory_used(loop), 0);
	loop_share_close(a);
	loop_share_close(b);
	loop_set_destroy(set);
}

/* However many come one after another, take what they can and give nothing back. */
static void greedy_ones_leave_room(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *shares[SEGS / 2];
	static struct waiter w[SEGS + SEGS / 2];
	unsigned turns = 0, n = 0;

	for (unsigned i = 0; i < SEGS / 2; i++) {
		const unsigned before = n;

		shares[i] = loop_share_create(loop);
		while (take(shares[i], &w[n], LOOP_SEGMENT, &turns))
			n++;
		loop_wait_cancel(&w[n].wait);
		assert_true(n > before && n <= SEGS / 2 + i);
	}
	for (unsigned i = 0; i < n; i++)
		put(&w[i]);
	turn(set);
	for (unsigned i = 0; i < SEGS / 2; i++)
		loop_share_close(shares[i]);
	assert_int_equal(loop_memory_used(loop), 0);
	loop_set_destroy(set);
}

static void pass(uint64_t ns)
{
	const struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	nanosleep(&t, NULL);
}

/* When nobody gets anything for a while, and then a little longer. */
static void stuck(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *shares[SEGS + 2];
	static struct waiter w[SEGS + 2];
	unsigned turns = 0;

	for (unsigned i = 0; i < SEGS + 2; i++) {
		shares[i] = loop_share_create(loop);
		assert_int_equal(take(shares[i], &w[i], LOOP_SEGMENT, &turns), i < SEGS);
	}
	turn(set);
	assert_false(loop_is_stuck(loop));
	pass(LOOP_STUCK_NS / 2);
	put(&w[0]);
	turn(set);
	assert_int_equal(turns, 1);
	pass(LOOP_STUCK_NS * 3 / 4);
	turn(set);
	assert_false(loop_is_stuck(loop));
	pass(LOOP_STUCK_NS / 2);
	turn(set);
	assert_true(loop_is_stuck(loop));
	put(&w[1]);
	turn(set);
	assert_int_equal(turns, 2);
	assert_true(loop_is_stuck(loop));
	pass(LOOP_STUCK_LASTS_NS);
	turn(set);
	assert_false(loop_is_stuck(loop));
	for (unsigned i = 2; i < SEGS + 2; i++)
		put(&w[i]);
	for (unsigned i = 0; i < SEGS + 2; i++)
		loop_share_close(shares[i]);
	loop_set_destroy(set);
}

/* In order within a share, one after another among shares. */
static void those_that_wait_take_turns(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *greedy = loop_share_create(loop), *modest = loop_share_create(loop);
	struct loop_share *others[SEGS];
	static struct waiter held[SEGS], g[3], m[2];
	unsigned turns = 0;

	for (unsigned i = 0; i < SEGS; i++) {
		others[i] = loop_share_create(loop);
		assert_true(take(others[i], &held[i], LOOP_SEGMENT, &turns));
	}
	for (unsigned i = 0; i < 3; i++)
		assert_false(take(greedy, &g[i], LOOP_SEGMENT, &turns));
	for (unsigned i = 0; i < 2; i++)
		assert_false(take(modest, &m[i], LOOP_SEGMENT, &turns));
	turn(set);
	assert_int_equal(turns, 0);
	for (unsigned i = 0; i < SEGS; i++)
		put(&held[i]);
	turn(set);
	assert_int_equal(g[0].turn, 1);
	assert_int_equal(m[0].turn, 2);
	assert_int_equal(g[1].turn, 3);
	assert_int_equal(m[1].turn, 4);
	assert_int_equal(g[2].turn, 5);
	for (unsigned i = 0; i < 3; i++)
		put(&g[i]);
	for (unsigned i = 0; i < 2; i++)
		put(&m[i]);
	for (unsigned i = 0; i < SEGS; i++)
		loop_share_close(others[i]);
	loop_share_close(greedy);
	loop_share_close(modest);
	assert_int_equal(loop_memory_used(loop), 0);
	loop_set_destroy(set);
}

#define SMALL  (MAX / 4)
#define SMALLS (SEGS * 4)

/* All is taken, by many in small pieces. */
static void fill(struct loop *loop, struct loop_share *others[static SMALLS],
		 struct waiter held[static SMALLS])
{
	unsigned turns = 0;

	for (unsigned i = 0; i < SMALLS; i++) {
		others[i] = loop_share_create(loop);
		assert_true(take_some(others[i], &held[i], SMALL, LOOP_SEGMENT, &turns));
	}
}

static void empty(struct loop_share *others[static SMALLS], struct waiter held[static SMALLS])
{
	for (unsigned i = 0; i < SMALLS; i++) {
		/* Closed before its last buffer is back: it waits for that. */
		loop_share_close(others[i]);
		put(&held[i]);
	}
}

/* A large wish keeps its turn. */
static void a_large_wish_is_not_starved(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *large = loop_share_create(loop), *small = loop_share_create(loop);
	static struct loop_share *others[SMALLS];
	static struct waiter held[SMALLS], l, s;
	unsigned turns = 0;

	fill(loop, others, held);
	assert_false(take(large, &l, LOOP_SEGMENT, &turns));
	turn(set);
	for (unsigned i = 0; i < 3; i++)
		put(&held[i]);
	assert_false(take_some(small, &s, SMALL, LOOP_SEGMENT, &turns));
	turn(set);
	assert_int_equal(turns, 0);
	put(&held[3]);
	turn(set);
	assert_int_equal(l.turn, 1);
	assert_non_null(l.buf);
	assert_int_equal(s.turn, 0);
	put(&l);
	turn(set);
	assert_int_equal(s.turn, 2);
	put(&s);
	empty(others, held);
	loop_share_close(large);
	loop_share_close(small);
	assert_int_equal(loop_memory_used(loop), 0);
	loop_set_destroy(set);
}

/* Who gives up does not stand in the way of those behind. */
static void cancelled(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *a = loop_share_create(loop), *b = loop_share_create(loop);
	static struct loop_share *others[SMALLS];
	static struct waiter held[SMALLS], large, small;
	unsigned turns = 0;

	fill(loop, others, held);
	assert_false(take(a, &large, LOOP_SEGMENT, &turns));
	assert_false(take_some(b, &small, SMALL, LOOP_SEGMENT, &turns));
	put(&held[0]);
	turn(set);
	assert_int_equal(turns, 0);
	loop_wait_cancel(&large.wait);
	loop_wait_cancel(&large.wait);
	loop_share_close(a);
	turn(set);
	assert_int_equal(small.turn, 1);
	assert_int_equal(large.turn, 0);
	put(&small);
	loop_share_close(b);
	empty(others, held);
	assert_int_equal(loop_memory_used(loop), 0);
	loop_set_destroy(set);
}

/* Each kind finds something, however much the others have taken, and all have no more than there is. */
static void no_kind_shuts_out_another(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *shares[MANY];
	static struct waiter segs[MANY], urgent[MANY];
	static struct loop_buf *early[MANY], *conn[MANY];
	unsigned turns = 0, nsegs = 0, nearly = 0, nconn = 0, nurgent = 0;

	for (unsigned i = 0; i < MANY; i++)
		shares[i] = loop_share_create(loop);
	while ((conn[nconn] = loop_buf_get(loop, MAX)) != NULL)
		nconn++;
	assert_int_equal(nconn, CONN);
	assert_true(loop_is_short(loop, LOOP_CONN));
	while (take(shares[nsegs], &segs[nsegs], LOOP_SEGMENT, &turns))
		nsegs++;
	assert_int_equal(nsegs, SEGS);
	loop_wait_cancel(&segs[nsegs].wait);
	while ((early[nearly] = loop_share_get(shares[nearly], MAX)) != NULL)
		nearly++;
	assert_int_equal(nearly, EARLY);
	while (take(shares[0], &urgent[nurgent], LOOP_URGENT, &turns))
		nurgent++;
	assert_int_equal(nurgent, URGENT);
	assert_int_equal(loop_memory_used(loop), BUDGET);
	/* Nothing is left: the next one in need is the first one to be served. */
	put(&urgent[0]);
	turn(set);
	assert_int_equal(urgent[nurgent].turn, 1);
	for (unsigned i = 0; i < MANY; i++) {
		if (i < nsegs)
			put(&segs[i]);
		put(&urgent[i]);
		loop_buf_put(early[i]);
		loop_buf_put(conn[i]);
	}
	for (unsigned i = 0; i < MANY; i++)
		loop_share_close(shares[i]);
	assert_int_equal(loop_memory_used(loop), 0);
	loop_set_destroy(set);
}

/* One share has no more than was promised, all together no more than there is. */
static void early_data_is_bounded(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *shares[MANY];
	static struct loop_buf *early[MANY];
	unsigned n = 0;

	for (unsigned i = 0; i < MANY; i++)
		shares[i] = loop_share_create(loop);
	while ((early[n] = loop_share_get(shares[0], MAX)) != NULL)
		n++;
	assert_int_equal(n, EARLY / 2);
	assert_int_equal(n * (uint64_t)MAX, loop_unasked_bytes(loop));
	assert_false(loop_is_short(loop, LOOP_EARLY));
	for (unsigned i = 1; i < MANY && (early[n] = loop_share_get(shares[i], MAX)) != NULL; i++)
		n++;
	assert_int_equal(n, EARLY);
	assert_true(loop_is_short(loop, LOOP_EARLY));
	while (n > 0)
		loop_buf_put(early[--n]);
	for (unsigned i = 0; i < MANY; i++)
		loop_share_close(shares[i]);
	loop_set_destroy(set);
}

/* What is charged takes the place of buffers of its kind, and of no other's. */
static void charges(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	struct loop_share *a = loop_share_create(loop), *b = loop_share_create(loop);
	static struct waiter w[2];
	struct loop_buf *buf;
	unsigned turns = 0;

	loop_charge(loop, LOOP_CONN, BUDGET);
	assert_true(loop_is_short(loop, LOOP_CONN));
	assert_false(loop_is_short(loop, LOOP_SEGMENT));
	assert_null(loop_buf_get(loop, 1));
	assert_true(take(a, &w[0], LOOP_URGENT, &turns));
	put(&w[0]);
	loop_charge(loop, LOOP_SEGMENT, (SEGS - 1) * (uint64_t)MAX);
	assert_true(take(a, &w[0], LOOP_SEGMENT, &turns));
	assert_false(take(b, &w[1], LOOP_SEGMENT, &turns));
	turn(set);
	assert_int_equal(turns, 0);
	loop_uncharge(loop, LOOP_SEGMENT, (SEGS - 1) * (uint64_t)MAX);
	turn(set);
	assert_int_equal(w[1].turn, 1);
	put(&w[0]);
	put(&w[1]);
	loop_uncharge(loop, LOOP_CONN, BUDGET);
	assert_false(loop_is_short(loop, LOOP_CONN));
	buf = loop_buf_get(loop, 1);
	assert_non_null(buf);
	loop_buf_put(buf);
	assert_int_equal(loop_memory_used(loop), 0);
	loop_share_close(a);
	loop_share_close(b);
	loop_set_destroy(set);
}

/* What lies in free lists is a part of the budget, and gives way. */
static void spare_buffers_give_way(void **state)
{
	struct loop_set *set = small_set();
	struct loop *loop = loop_set_at(set, 0);
	static struct loop_share *others[SMALLS];
	static struct waiter held[SMALLS];
	static struct loop_buf *bufs[CONN];
	const struct loop_bufs *b = loop_bufs_of(loop);

	fill(loop, others, held);
	for (unsigned i = 0; i < CONN; i++)
		bufs[i] = loop_buf_get(loop, MAX);
	empty(others, held);
	assert_int_equal(b->idle, SEGS * (uint64_t)MAX);
	loop_charge(loop, LOOP_SEGMENT, SEGS * (uint64_t)MAX);
	for (unsigned i = 0; i < CONN; i++)
		loop_buf_put(bufs[i]);
	assert_int_equal(b->idle, (SEGS + CONN) * (uint64_t)MAX);
	for (unsigned i = 0; i < SMALLS; i++) {
		others[i] = loop_share_create(loop);
		held[i].buf = loop_share_get(others[i], MAX / 16);
		assert_non_null(held[i].buf);
		assert_true(b->total + b->idle <= BUDGET);
	}
	for (unsigned i = 0; i < SMALLS; i++) {
		loop_share_close(others[i]);
		put(&held[i]);
	}
	loop_uncharge(loop, LOOP_SEGMENT, SEGS * (uint64_t)MAX);
	loop_set_destroy(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(too_little_is_an_error),
		cmocka_unit_test(one_alone_has_a_quarter),
		cmocka_unit_test(greedy_ones_leave_room),
		cmocka_unit_test(stuck),
		cmocka_unit_test(those_that_wait_take_turns),
		cmocka_unit_test(a_large_wish_is_not_starved),
		cmocka_unit_test(cancelled),
		cmocka_unit_test(no_kind_shuts_out_another),
		cmocka_unit_test(early_data_is_bounded),
		cmocka_unit_test(charges),
		cmocka_unit_test(spare_buffers_give_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
