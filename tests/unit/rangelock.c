/*
 * Range locks on simulated loops: who waits for whom, in which order they are served, and what a
 * cancel leaves behind. Against a model with random locks, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* cmocka wants those first. */
#include <cmocka.h>

#include "bdev/bdev.h"
#include "loop/sim.h"

#define NLOOPS 3
#define STRIPE (64 * 1024u) /* bytes */
#define ROUND  (256 * STRIPE)

struct holder {
	struct range_lock lock;
	bool held;
	unsigned granted; /* in which order */
};

static struct loop_set *set;
static struct bdev *bdev;
static unsigned order;

static void granted(struct range_lock *lock)
{
	struct holder *h = container_of(lock, struct holder, lock);

	assert_false(h->held);
	assert_ptr_equal(loop_self(), lock->loop);
	h->held = true;
	h->granted = ++order;
}

static void set_range(struct holder *h, unsigned loop, bool exclusive, uint64_t off, uint64_t len)
{
	*h = (struct holder){.lock = {.off = off,
				      .len = len,
				      .exclusive = exclusive,
				      .loop = loop_set_at(set, loop),
				      .granted = granted}};
}

static bool take(struct holder *h, unsigned loop, bool exclusive, uint64_t off, uint64_t len)
{
	set_range(h, loop, exclusive, off, len);
	h->held = range_lock(bdev, &h->lock);
	return h->held;
}

static void leave(struct holder *h)
{
	assert_true(h->held);
	h->held = false;
	range_unlock(&h->lock);
}

static void settle(void)
{
	sim_run(set, UINT64_MAX);
}

static void shared_and_exclusive(void **state)
{
	struct holder a, b, c, far;

	assert_true(take(&a, 0, false, 0, 512));
	assert_true(take(&b, 1, false, 0, 512));
	assert_false(take(&c, 2, true, 0, 512));
	assert_true(take(&far, 2, true, STRIPE, 512));
	leave(&far);
	leave(&a);
	settle();
	assert_false(c.held);
	leave(&b);
	assert_false(c.held); /* by a message */
	settle();
	assert_true(c.held);
	assert_false(take(&a, 0, false, 4096, 512)); /* another block of the stripe */
	leave(&c);
	settle();
	leave(&a);
}

/* Those who share go together, but nobody overtakes. */
static void first_come_first_served(void **state)
{
	struct holder a, x, s1, s2, y, s3;

	order = 0;
	assert_true(take(&a, 0, false, 0, 512));
	assert_false(take(&x, 0, true, 0, 512));
	assert_false(take(&s1, 0, false, 0, 512));
	assert_false(take(&s2, 0, false, 0, 512));
	assert_false(take(&y, 0, true, 0, 512));
	assert_false(take(&s3, 0, false, 0, 512));
	leave(&a);
	settle();
	assert_true(x.held && !s1.held);
	leave(&x);
	settle();
	assert_true(s1.held && s2.held && !y.held && !s3.held);
	leave(&s1);
	settle();
	assert_false(y.held);
	leave(&s2);
	settle();
	assert_true(y.held && !s3.held);
	leave(&y);
	settle();
	leave(&s3);
	assert_true(x.granted < s1.granted && s1.granted < s2.granted && y.granted < s3.granted);
}

static void ranges_over_stripes(void **state)
{
	struct holder a, b, c, all;

	/* Over the end of the stripes into the first. */
	assert_true(take(&a, 0, true, ROUND - STRIPE, 2 * STRIPE));
	assert_false(take(&b, 1, true, 0, 512));
	assert_false(take(&c, 1, true, ROUND - 512, 512));
	leave(&a);
	settle();
	leave(&b);
	leave(&c);
	/* The last byte counts, the one behind it does not. */
	assert_true(take(&a, 0, true, STRIPE - 512, 512));
	assert_true(take(&b, 0, true, STRIPE, STRIPE));
	assert_true(take(&c, 0, true, 2 * STRIPE, 512));
	leave(&a);
	leave(&b);
	leave(&c);
	/* Any length; from 16 MiB on it is the whole disk. */
	assert_true(take(&a, 0, true, 5 * STRIPE, 512));
	assert_false(take(&all, 2, true, 7 * STRIPE, 40 * ROUND));
	assert_false(take(&b, 1, false, 0, 512));
	leave(&a);
	settle();
	assert_true(all.held && !b.held);
	leave(&all);
	settle();
	leave(&b);
	assert_true(take(&a, 0, true, 0, 0)); /* and none */
	leave(&a);
}

static void cancel_waits_no_more(void **state)
{
	struct holder a, x, s, far;

	assert_true(take(&a, 0, false, STRIPE, 512));
	/* Holds stripe 0 and waits for 1. */
	assert_false(take(&x, 1, true, 0, 3 * STRIPE));
	assert_false(take(&s, 2, false, STRIPE, 512)); /* behind it */
	assert_false(take(&far, 2, false, 0, 512));    /* held up by it */
	assert_true(range_lock_cancel(&x.lock));
	settle();
	assert_true(s.held && far.held && !x.held);
	leave(&a);
	leave(&s);
	leave(&far);
	assert_true(take(&x, 0, true, 0, 3 * STRIPE)); /* nothing is left of it */
	/* Too late: granted, and the message under way. */
	assert_false(take(&s, 2, false, STRIPE, 512));
	leave(&x);
	assert_false(range_lock_cancel(&s.lock));
	assert_false(s.held);
	settle();
	leave(&s);
}

/* ---- Against a model: no two holders that exclude each other, and everybody's turn comes ---- */

#define NHOLDERS 12

static struct holder pool[NHOLDERS];
static enum { FREE, WAITING, CANCELLED } pool_state[NHOLDERS];

static bool stripes_meet(const struct range_lock *a, const struct range_lock *b)
{
	for (uint64_t i = a->off / STRIPE; i <= (a->off + a->len - 1) / STRIPE; i++)
		for (uint64_t k = b->off / STRIPE; k <= (b->off + b->len - 1) / STRIPE; k++)
			if (i % 256 == k % 256)
				return true;
	return false;
}

static void check_use(uint64_t held, uint64_t ever)
{
	struct range_lock_use use = range_lock_use(bdev);

	assert_int_equal(use.held, held);
	assert_int_equal(use.granted, ever);
}

/* From the moment when they cannot be cancelled any more, known to their owner or not. */
static void exclusive_locks_are_counted(void **state)
{
	struct range_lock_use before = range_lock_use(bdev);
	uint64_t ever = before.granted;
	struct holder a, b, c, d;

	assert_int_equal(before.held, 0);
	assert_true(take(&a, 0, true, 0, ROUND));
	check_use(1, ever + 1);
	assert_false(take(&b, 1, false, 0, 512));
	assert_false(take(&c, 1, true, STRIPE, STRIPE * 3));
	assert_false(take(&d, 2, true, STRIPE, 512));
	check_use(1, ever + 1);
	leave(&a);
	check_use(1, ever + 2);
	assert_false(c.held);
	assert_false(range_lock_cancel(&c.lock));
	assert_true(range_lock_cancel(&d.lock));
	settle();
	check_use(1, ever + 2);
	leave(&c);
	leave(&b);
	check_use(0, ever + 2);
}

static void check_holders(void)
{
	for (unsigned i = 0; i < NHOLDERS; i++)
		for (unsigned k = 0; k < i; k++)
			if (pool[i].held && pool[k].held &&
			    (pool[i].lock.exclusive || pool[k].lock.exclusive))
				assert_false(stripes_meet(&pool[i].lock, &pool[k].lock));
}

static void random_step(unsigned i)
{
	struct holder *h = &pool[i];

	if (h->held) {
		leave(h);
		pool_state[i] = FREE;
	} else if (pool_state[i] == FREE) {
		take(h, (unsigned)sim_random(set, NLOOPS), sim_random(set, 3) == 0,
		     ROUND - 4 * STRIPE + sim_random(set, 8) * STRIPE,
		     512 + sim_random(set, 5) * STRIPE);
		pool_state[i] = WAITING;
	} else if (pool_state[i] == WAITING && sim_random(set, 8) == 0) {
		pool_state[i] = range_lock_cancel(&h->lock) ? FREE : CANCELLED;
	}
}

static void random_locks(void **state)
{
	for (unsigned seed = 0; seed < 200; seed++) {
		sim_reset(set, seed);
		for (unsigned n = 0; n < 400; n++) {
			random_step((unsigned)sim_random(set, NHOLDERS));
			check_holders();
			if (sim_random(set, 2) == 0)
				sim_step(set);
			check_holders();
		}
		for (bool left = true; left;) {
			settle();
			left = false;
			for (unsigned i = 0; i < NHOLDERS; i++)
				if (pool[i].held) {
					left = true;
					leave(&pool[i]);
					pool_state[i] = FREE;
				}
		}
		for (unsigned i = 0; i < NHOLDERS; i++)
			assert_int_equal(pool_state[i], FREE);
	}
}

static int set_up(void **state)
{
	static const struct store_type *const types[] = {&store_null, NULL};
	struct bdev_config bconfig = {.block_size = 512};
	struct store_config sconfig = {.size = 0};
	struct store *store;

	if (sim_create(&set, NLOOPS, 1) != 0 ||
	    store_open(&store, set, types, "null:1G", &sconfig, NULL) != 0)
		return -1;
	return bdev_create(&bdev, store, &bconfig, NULL);
}

static int tear_down(void **state)
{
	bdev_destroy(bdev);
	loop_set_destroy(set);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shared_and_exclusive),
		cmocka_unit_test(first_come_first_served),
		cmocka_unit_test(ranges_over_stripes),
		cmocka_unit_test(cancel_waits_no_more),
		cmocka_unit_test(exclusive_locks_are_counted),
		cmocka_unit_test(random_locks),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
