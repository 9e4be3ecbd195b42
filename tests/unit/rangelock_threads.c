/*
 * Range locks under real loops at once: each loop takes, cancels and gives back locks over a few
 * blocks, and what only a lock protects stays whole. Meant for the thread sanitizer.
 */
#include "loop_test.h"

#include "bdev/bdev.h"

#include <stdatomic.h>

#define NLOOPS  8
#define PER     4 /* locks at a time on each loop */
#define ROUNDS  3000
#define STRIPE  (64 * 1024u)
#define NCELLS  6 /* stripes that are fought over */
#define CANCELS 8 /* one in so many waits is given up */

struct actor {
	struct range_lock lock;
	struct loop_msg step;
	uint64_t random;
	unsigned rounds, first, n;
	bool held, given_up;
};

static struct loop_set *set;
static struct bdev *bdev;
static struct actor actors[NLOOPS * PER];
static atomic_uint left, waited, cancelled;
/* Plain ints: whoever holds a stripe exclusively may change its cell, and whoever shares it may
 * read it. The sanitizer sees all else. */
static uint64_t cells[NCELLS], model[NCELLS];
static atomic_uint_fast64_t counted[NCELLS];

static uint64_t rnd(struct actor *a)
{
	a->random ^= a->random << 13;
	a->random ^= a->random >> 7;
	a->random ^= a->random << 17;
	return a->random >> 11;
}

static void hold(struct actor *a)
{
	a->held = true;
	for (unsigned i = a->first; i < a->first + a->n; i++) {
		if (a->lock.exclusive) {
			cells[i]++;
			model[i]++;
			atomic_fetch_add(&counted[i], 1);
		} else {
			CHECK(cells[i] == model[i]);
		}
	}
	loop_post(a->lock.loop, &a->step);
}

static void granted(struct range_lock *lock)
{
	struct actor *a = container_of(lock, struct actor, lock);

	CHECK(loop_self() == lock->loop && !a->held);
	if (!a->given_up) {
		hold(a);
		return;
	}
	range_unlock(lock);
	loop_post(lock->loop, &a->step);
}

static void lock_some(struct actor *a)
{
	a->n = 1 + (unsigned)(rnd(a) % 3);
	a->first = (unsigned)(rnd(a) % (NCELLS - a->n + 1));
	a->given_up = false;
	a->lock.off = (uint64_t)(a->first + 254) * STRIPE; /* over the end of the stripes */
	a->lock.len = a->n * STRIPE;
	a->lock.exclusive = rnd(a) % 2 == 0;
	if (range_lock(bdev, &a->lock)) {
		hold(a);
		return;
	}
	atomic_fetch_add(&waited, 1);
	if (rnd(a) % CANCELS != 0)
		return;
	atomic_fetch_add(&cancelled, 1);
	if (range_lock_cancel(&a->lock))
		loop_post(a->lock.loop, &a->step);
	else
		a->given_up = true;
}

static void step(struct loop_msg *msg)
{
	struct actor *a = container_of(msg, struct actor, step);

	if (a->held) {
		a->held = false;
		range_unlock(&a->lock);
	}
	if (a->rounds-- != 0)
		lock_some(a);
	else if (atomic_fetch_sub(&left, 1) == 1)
		loop_set_stop(set);
}

static void start(void *arg)
{
	for (unsigned i = 0; i < ARRAY_LEN(actors); i++) {
		struct actor *a = &actors[i];

		*a = (struct actor){.random = i + 1, .rounds = ROUNDS};
		a->lock.loop = loop_set_at(set, i % NLOOPS);
		a->lock.granted = granted;
		a->step.run = step;
		loop_post(a->lock.loop, &a->step);
	}
}

static void locks_exclude(void **state)
{
	static const struct store_type *const types[] = {&store_null, NULL};
	struct bdev_config bconfig = {.block_size = 512};
	struct store_config sconfig = {.size = 0};
	struct store *store;

	set = test_set(NLOOPS, LOOP_DISK_AUTO);
	assert_int_equal(store_open(&store, set, types, "null:1G", &sconfig, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bconfig, NULL), 0);
	left = ARRAY_LEN(actors);
	test_run(set, start, NULL);
	assert_true(waited > 1000);
	assert_true(cancelled > 100);
	for (unsigned i = 0; i < NCELLS; i++) {
		assert_int_equal(cells[i], counted[i]);
		assert_true(cells[i] > 1000);
	}
	bdev_destroy(bdev);
	loop_set_destroy(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(locks_exclude)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
