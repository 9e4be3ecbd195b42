/*
 * Worker threads: what may block runs here, bounded per lane.
 *
 *   work_submit -> lane full? wait in the lane : wait in the pool -> a thread: run -> post `done`
 *
 * Threads are made when work waits and nobody is idle, and end after some idle seconds, so a daemon
 * that needs none has none. One mutex guards it all: it is held for a few instructions at a time.
 */
#include "loop/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

struct worker {
	bool running;  /* false with `joinable`: has ended, or is about to without touching anything
			*/
	bool joinable; /* `thread` is valid: written by those who start and join only */
	pthread_t thread;
	struct work_pool *pool;
};

struct work_pool {
	pthread_mutex_t lock;
	pthread_cond_t added;
	struct queue ready;               /* admitted by their lanes */
	unsigned nready, nbusy, nthreads; /* busy: with a piece of work, on whatever thread */
	uint64_t idle_ns;
	bool ending;
	struct worker workers[WORK_THREADS];
};

struct work_lane {
	struct work_pool *pool;
	unsigned running, max_running; /* running: in the pool or on a thread */
	struct queue waiting;
};

/* Sanitizers need room; our own frames are small. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STACK_BYTES (8 * MiB)
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define STACK_BYTES (8 * MiB)
#endif
#endif
#ifndef STACK_BYTES
#define STACK_BYTES (256 * KiB)
#endif

/* ---- A thread -------------------------------------------------------------------------------- */

static void run_done(struct loop_msg *msg)
{
	struct work *w = container_of(msg, struct work, msg);

	w->done(w);
}

static void pool_push(struct work_pool *pool, struct work *w)
{
	queue_push(&pool->ready, &w->msg.link);
	pool->nready++;
}

/* The next one of its lane takes over the place. */
static void lane_leave(struct work_lane *lane)
{
	struct qnode *n = queue_pop(&lane->waiting);

	if (n != NULL)
		pool_push(lane->pool, container_of(n, struct work, msg.link));
	else
		lane->running--;
}

/* Entered and left with the lock held. Once `done` is posted the lane may be gone. */
static void run_one(struct work_pool *pool)
{
	struct work *w = container_of(queue_pop(&pool->ready), struct work, msg.link);

	pool->nready--;
	pool->nbusy++;
	pthread_mutex_unlock(&pool->lock);
	w->run(w);
	pthread_mutex_lock(&pool->lock);
	/* Before the post: who has been waiting for this and brings more needs no other thread. */
	pool->nbusy--;
	lane_leave(w->lane);
	pthread_mutex_unlock(&pool->lock);
	w->msg.run = run_done;
	loop_post(w->loop, &w->msg);
	pthread_mutex_lock(&pool->lock);
}

/* false: idle for too long. */
static bool wait_for_work(struct work_pool *pool)
{
	uint64_t until = monotonic_ns() + pool->idle_ns;
	struct timespec ts = {.tv_sec = (time_t)(until / NS_PER_S),
			      .tv_nsec = (long)(until % NS_PER_S)};
	int err = 0;

	while (queue_empty(&pool->ready) && !pool->ending && err == 0)
		err = pthread_cond_timedwait(&pool->added, &pool->lock, &ts);
	return !queue_empty(&pool->ready);
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct work_pool *pool = worker->pool;

	pthread_setname_np(pthread_self(), "worker");
	pthread_mutex_lock(&pool->lock);
	while (!pool->ending && (!queue_empty(&pool->ready) || wait_for_work(pool)))
		if (!pool->ending)
			run_one(pool);
	pool->nthreads--;
	worker->running = false;
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* ---- The pool -------------------------------------------------------------------------------- */

static int worker_start(struct work_pool *pool, struct worker *worker)
{
	pthread_attr_t attr;
	int err;

	if (worker->joinable)
		pthread_join(worker->thread, NULL); /* on its last instructions */
	worker->joinable = false;
	worker->pool = pool;
	err = -pthread_attr_init(&attr);
	if (err != 0)
		return err;
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	err = thread_start(&worker->thread, &attr, worker_main, worker);
	pthread_attr_destroy(&attr);
	if (err == 0) {
		worker->running = worker->joinable = true;
		pool->nthreads++;
	}
	return err;
}

static void add_worker(struct work_pool *pool)
{
	for (unsigned i = 0; i < WORK_THREADS; i++) {
		if (!pool->workers[i].running) {
			worker_start(pool, &pool->workers[i]);
			return;
		}
	}
}

int work_pool_create(struct work_pool **out, uint64_t idle_ns)
{
	struct work_pool *pool = calloc(1, sizeof(*pool));
	pthread_condattr_t attr;

	if (pool == NULL)
		return -ENOMEM;
	queue_init(&pool->ready);
	pool->idle_ns = idle_ns;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->added, &attr);
	pthread_condattr_destroy(&attr);
	*out = pool;
	return 0;
}

void work_pool_destroy(struct work_pool *pool)
{
	if (pool == NULL)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->added);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < WORK_THREADS; i++)
		if (pool->workers[i].joinable)
			pthread_join(pool->workers[i].thread, NULL);
	pthread_cond_destroy(&pool->added);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

unsigned work_pool_nthreads(struct work_pool *pool)
{
	unsigned n;

	pthread_mutex_lock(&pool->lock);
	n = pool->nthreads;
	pthread_mutex_unlock(&pool->lock);
	return n;
}

/* ---- Lanes ----------------------------------------------------------------------------------- */

int work_lane_create(struct work_lane **out, struct loop_set *set, unsigned max_running)
{
	struct work_lane *lane = calloc(1, sizeof(*lane));

	if (lane == NULL)
		return -ENOMEM;
	lane->pool = set->pool;
	lane->max_running = max_running;
	queue_init(&lane->waiting);
	*out = lane;
	return 0;
}

void work_lane_destroy(struct work_lane *lane)
{
	if (lane == NULL)
		return;
	CHECK(lane->running == 0);
	free(lane);
}

void work_submit(struct work_lane *lane, struct work *w)
{
	struct work_pool *pool = lane->pool;
	bool signal = false;

	w->lane = lane;
	pthread_mutex_lock(&pool->lock);
	if (lane->running >= lane->max_running) {
		queue_push(&lane->waiting, &w->msg.link);
	} else {
		lane->running++;
		pool_push(pool, w);
		signal = pool->nthreads >= pool->nbusy + pool->nready;
		if (!signal)
			add_worker(pool);
		/* The system gives us not one thread: late is better than never. Whoever ends one
		 * finds the next of its lane, perhaps another loop's, and nobody else would. */
		while (pool->nthreads == 0 && !queue_empty(&pool->ready))
			run_one(pool);
	}
	pthread_mutex_unlock(&pool->lock);
	if (signal)
		pthread_cond_signal(&pool->added);
}
