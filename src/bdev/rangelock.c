/*
 * Range locks: atomic operations against all overlapping writes, whatever loop they come from.
 * Apart because it is the one place above the loops where threads meet under a mutex: it is held
 * for some instructions, and only units whose locks are armed come here.
 *
 *   taking stripe 0 .. n-1 --conflict--> waiting at a stripe --its turn--> taking the next ..
 *            |                                |
 *            all taken: held                  cancelled: gives back the stripes it has
 *
 * A lock takes its stripes in ascending order and waits at the first that it cannot have, holding
 * those before. Whoever gives a stripe up hands it to the first that waits there (and to all behind
 * it that may share it), and takes the next stripes on its behalf.
 *
 * `next_stripe` counts the stripes that are taken; it is nstripes when all are. While a lock waits
 * it changes only under the mutex of the stripe where it waits, and the mutex of the next stripe is
 * taken before that of the last one is let go. So under the mutex of the stripe that next_stripe
 * names, the lock stands in that stripe's queue, and a cancel can take it out.
 *
 * Exclusive locks are counted, for who arms and disarms them (unit/arm.c): before their owner can
 * know that it holds one, and until the owner is done with it. The order of these counts among other
 * memory is not theirs to make: arm.c says why that is enough.
 */
#include "bdev/impl.h"

void range_stripes_init(struct bdev *b)
{
	for (unsigned i = 0; i < RANGE_STRIPES; i++) {
		struct range_stripe *s = &b->stripes[i];

		pthread_mutex_init(&s->mutex, NULL);
		s->shared = 0;
		s->exclusive = false;
		list_init(&s->waiting);
	}
	b->use = (struct range_lock_use){.held = 0};
}

void range_stripes_fini(struct bdev *b)
{
	for (unsigned i = 0; i < RANGE_STRIPES; i++) {
		CHECK(list_empty(&b->stripes[i].waiting));
		pthread_mutex_destroy(&b->stripes[i].mutex);
	}
}

static uint32_t taken(const struct range_lock *lock)
{
	return __atomic_load_n(&lock->next_stripe, __ATOMIC_ACQUIRE);
}

static void set_taken(struct range_lock *lock, uint32_t n)
{
	__atomic_store_n(&lock->next_stripe, n, __ATOMIC_RELEASE);
}

/* The lock's n-th stripe. A range that runs over the last stripe starts again with the first, which
 * then comes first, so that stripes ascend. */
static struct range_stripe *stripe_of(const struct range_lock *lock, uint32_t n)
{
	uint32_t end = lock->first_stripe + lock->nstripes;
	uint32_t wrapped = end > RANGE_STRIPES ? end - RANGE_STRIPES : 0;

	return &lock->bdev->stripes[n < wrapped ? n : lock->first_stripe + n - wrapped];
}

static bool is_free_for(const struct range_stripe *s, const struct range_lock *lock)
{
	return !s->exclusive && (s->shared == 0 || !lock->exclusive);
}

static void take(struct range_stripe *s, const struct range_lock *lock)
{
	if (lock->exclusive)
		s->exclusive = true;
	else
		s->shared++;
}

static void count_granted(struct range_lock *lock)
{
	struct range_lock_use *use = &lock->bdev->use;

	if (!lock->exclusive)
		return;
	__atomic_fetch_add(&use->granted, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&use->held, 1, __ATOMIC_RELAXED);
}

struct range_lock_use range_lock_use(const struct bdev *b)
{
	/* In this order: who is counted as having given its lock back is counted as granted. */
	return (struct range_lock_use){
		.held = __atomic_load_n(&b->use.held, __ATOMIC_ACQUIRE),
		.granted = __atomic_load_n(&b->use.granted, __ATOMIC_RELAXED),
	};
}

/* Takes the stripes from `n` on. The stripe before, when there is one, is the caller's to unlock.
 * true: it has all of them. */
static bool take_rest(struct range_lock *lock, uint32_t n)
{
	struct range_stripe *last = NULL;

	while (n < lock->nstripes) {
		struct range_stripe *s = stripe_of(lock, n);

		pthread_mutex_lock(&s->mutex);
		set_taken(lock, n);
		if (last != NULL)
			pthread_mutex_unlock(&last->mutex);
		if (!list_empty(&s->waiting) || !is_free_for(s, lock)) {
			list_push_back(&s->waiting, &lock->link);
			pthread_mutex_unlock(&s->mutex);
			return false;
		}
		take(s, lock);
		last = s;
		n++;
	}
	count_granted(lock);
	set_taken(lock, n);
	if (last != NULL)
		pthread_mutex_unlock(&last->mutex);
	return true;
}

static void run_granted(struct loop_msg *msg)
{
	struct range_lock *lock = container_of(msg, struct range_lock, msg);

	lock->granted(lock);
}

/* Under the stripe's mutex: hands it to those who may have it now. */
static void hand_on(struct range_stripe *s)
{
	while (!list_empty(&s->waiting)) {
		struct range_lock *lock = list_entry(s->waiting.next, struct range_lock, link);

		if (!is_free_for(s, lock))
			return;
		list_remove(&lock->link);
		take(s, lock);
		if (take_rest(lock, taken(lock) + 1)) {
			lock->msg.run = run_granted;
			loop_post(lock->loop, &lock->msg);
		}
	}
}

static void give_back(struct range_lock *lock, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct range_stripe *s = stripe_of(lock, i);

		pthread_mutex_lock(&s->mutex);
		if (lock->exclusive)
			s->exclusive = false;
		else
			s->shared--;
		hand_on(s);
		pthread_mutex_unlock(&s->mutex);
	}
}

bool range_lock(struct bdev *b, struct range_lock *lock)
{
	uint64_t first = lock->off >> RANGE_STRIPE_SHIFT;
	uint64_t last = (lock->off + (lock->len != 0 ? lock->len - 1 : 0)) >> RANGE_STRIPE_SHIFT;

	lock->bdev = b;
	list_init(&lock->link);
	lock->first_stripe = (uint32_t)(first % RANGE_STRIPES);
	lock->nstripes = (uint32_t)min_u64(last - first + 1, RANGE_STRIPES);
	set_taken(lock, 0);
	return take_rest(lock, 0);
}

void range_unlock(struct range_lock *lock)
{
	struct range_lock_use *use = &lock->bdev->use;

	CHECK(taken(lock) == lock->nstripes);
	give_back(lock, lock->nstripes);
	if (lock->exclusive)
		__atomic_fetch_sub(&use->held, 1, __ATOMIC_RELEASE);
}

bool range_lock_cancel(struct range_lock *lock)
{
	for (;;) {
		uint32_t n = taken(lock);
		struct range_stripe *s;
		bool still;

		if (n == lock->nstripes)
			return false;
		s = stripe_of(lock, n);
		pthread_mutex_lock(&s->mutex);
		still = taken(lock) == n;
		if (still) {
			list_remove(&lock->link);
			hand_on(s);
		}
		pthread_mutex_unlock(&s->mutex);
		if (still) {
			give_back(lock, n);
			return true;
		}
	}
}
