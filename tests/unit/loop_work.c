/*
 * Worker threads and lanes.
 */
#include "loop_test.h"

#include <errno.h>
#include <unistd.h>

/* The library's is not linked: here the system can run out of threads. */
static atomic_bool no_threads;

static int start_if_any(pthread_t *out, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	return atomic_load(&no_threads) ? -EAGAIN : thread_start(out, attr, run, arg);
}

#define thread_start start_if_any
#include "loop/work.c"
#undef thread_start

struct yard {
	struct loop_set *set;
	struct work_lane *lane;
	struct job {
		struct work work;
		struct yard *yard;
		unsigned number;
	} jobs[200];
	unsigned njobs, done;
	atomic_uint started, running, most_running, out_of_order;
	atomic_bool gate; /* jobs wait until it opens */
};

static void job_done(struct work *w)
{
	struct job *job = container_of(w, struct job, work);
	struct yard *yard = job->yard;

	assert_ptr_equal(loop_self(), w->loop);
	if (++yard->done == yard->njobs)
		loop_set_stop(yard->set);
}

static void job_run(struct work *w)
{
	struct yard *yard = container_of(w, struct job, work)->yard;
	unsigned running = atomic_fetch_add(&yard->running, 1) + 1;
	unsigned most = atomic_load(&yard->most_running);

	CHECK(loop_self() == NULL);
	while (running > most && !atomic_compare_exchange_weak(&yard->most_running, &most, running))
		;
	atomic_fetch_add(&yard->started, 1);
	while (!atomic_load(&yard->gate))
		usleep(100);
	atomic_fetch_sub(&yard->running, 1);
}

static struct yard *yard_create(unsigned nloops, unsigned lane_width, unsigned njobs)
{
	struct yard *yard = calloc(1, sizeof(*yard));

	yard->set = test_set(nloops, LOOP_DISK_AUTO);
	yard->njobs = njobs;
	assert_int_equal(work_lane_create(&yard->lane, yard->set, lane_width), 0);
	for (unsigned i = 0; i < njobs; i++) {
		struct job *job = &yard->jobs[i];

		job->yard = yard;
		job->number = i;
		job->work.run = job_run;
		job->work.done = job_done;
		job->work.loop = loop_set_at(yard->set, 0);
	}
	return yard;
}

static void yard_destroy(struct yard *yard)
{
	work_lane_destroy(yard->lane);
	loop_set_destroy(yard->set);
	free(yard);
}

static void submit_all(struct yard *yard)
{
	for (unsigned i = 0; i < yard->njobs; i++)
		work_submit(yard->lane, &yard->jobs[i].work);
}

static void nothing(void *arg)
{
}

/* Long enough for a thread too many to show itself. */
static void settle(struct yard *yard, unsigned started)
{
	while (atomic_load(&yard->started) < started)
		usleep(1000);
	usleep(20 * 1000);
}

static void a_lane_bounds_what_runs(void **state)
{
	struct yard *yard = yard_create(1, 3, 50);

	submit_all(yard);
	settle(yard, 3);
	assert_int_equal(atomic_load(&yard->started), 3);
	assert_int_equal(work_pool_nthreads(yard->set->pool), 3);
	atomic_store(&yard->gate, true);
	test_run(yard->set, nothing, NULL);
	assert_int_equal(yard->done, 50);
	assert_int_equal(atomic_load(&yard->most_running), 3);
	yard_destroy(yard);
}

static void in_order_run(struct work *w)
{
	struct job *job = container_of(w, struct job, work);

	if (atomic_fetch_add(&job->yard->started, 1) != job->number)
		atomic_fetch_add(&job->yard->out_of_order, 1);
}

static void a_lane_of_one_keeps_the_order(void **state)
{
	struct yard *yard = yard_create(1, 1, 200);

	for (unsigned i = 0; i < yard->njobs; i++)
		yard->jobs[i].work.run = in_order_run;
	submit_all(yard);
	test_run(yard->set, nothing, NULL);
	assert_int_equal(yard->done, 200);
	assert_int_equal(yard->out_of_order, 0);
	yard_destroy(yard);
}

static void a_hung_disk_leaves_threads_to_the_others(void **state)
{
	struct yard *hung = yard_create(1, 4, 100);
	struct work_lane *other = NULL;

	submit_all(hung);
	settle(hung, 4);
	assert_int_equal(work_lane_create(&other, hung->set, 4), 0);
	hung->done = 0;
	hung->njobs = 101;
	hung->jobs[100].yard = hung;
	hung->jobs[100].number = 4; /* the fifth to start, while 96 older ones wait */
	hung->jobs[100].work = (struct work){
		.run = in_order_run, .done = job_done, .loop = loop_set_at(hung->set, 0)};
	work_submit(other, &hung->jobs[100].work);
	settle(hung, 5);
	assert_int_equal(hung->out_of_order, 0);
	atomic_store(&hung->gate, true);
	test_run(hung->set, nothing, NULL);
	assert_int_equal(hung->done, 101);
	work_lane_destroy(other);
	yard_destroy(hung);
}

static void threads_have_a_limit(void **state)
{
	struct yard *yard = yard_create(1, 1000, 200);

	submit_all(yard);
	settle(yard, WORK_THREADS);
	assert_int_equal(work_pool_nthreads(yard->set->pool), WORK_THREADS);
	assert_int_equal(atomic_load(&yard->started), WORK_THREADS);
	atomic_store(&yard->gate, true);
	test_run(yard->set, nothing, NULL);
	assert_int_equal(yard->done, 200);
	yard_destroy(yard);
}

static void next_done(struct work *w)
{
	struct yard *yard = container_of(w, struct job, work)->yard;

	if (++yard->done == yard->njobs)
		loop_set_stop(yard->set);
	else
		work_submit(yard->lane, &yard->jobs[yard->done].work);
}

/* Even the next piece of work that comes before the thread has gone to sleep. */
static void one_at_a_time_needs_one_thread(void **state)
{
	struct yard *yard = yard_create(1, 4, 200);

	atomic_store(&yard->gate, true);
	for (unsigned i = 0; i < yard->njobs; i++)
		yard->jobs[i].work.done = next_done;
	work_submit(yard->lane, &yard->jobs[0].work);
	test_run(yard->set, nothing, NULL);
	assert_int_equal(yard->done, 200);
	assert_int_equal(work_pool_nthreads(yard->set->pool), 1);
	yard_destroy(yard);
}

static void idle_threads_end(void **state)
{
	struct yard *yard = yard_create(1, 8, 8);

	work_pool_destroy(yard->set->pool);
	assert_int_equal(work_pool_create(&yard->set->pool, 50 * NS_PER_MS), 0);
	work_lane_destroy(yard->lane);
	assert_int_equal(work_lane_create(&yard->lane, yard->set, 8), 0);
	submit_all(yard);
	settle(yard, 8);
	assert_int_equal(work_pool_nthreads(yard->set->pool), 8);
	atomic_store(&yard->gate, true);
	test_run(yard->set, nothing, NULL);
	for (unsigned i = 0; i < 100 && work_pool_nthreads(yard->set->pool) > 0; i++)
		usleep(50 * 1000);
	assert_int_equal(work_pool_nthreads(yard->set->pool), 0);
	yard->done = 0;
	submit_all(yard); /* and come back */
	test_run(yard->set, nothing, NULL);
	assert_int_equal(yard->done, 8);
	yard_destroy(yard);
}

/* ---- Not one thread ----------------------------------------------------------------------------
 */

static void submit_run(struct loop_msg *msg)
{
	struct work *w = container_of(msg, struct work, msg);

	w->msg.run = NULL;
	work_submit(container_of(w, struct job, work)->yard->lane, w);
}

/* The first one runs on its loop; meanwhile the others find the lane full. */
static void hold_run(struct work *w)
{
	struct yard *yard = container_of(w, struct job, work)->yard;

	for (unsigned i = 1; i < yard->njobs; i++) {
		struct loop_msg *msg = &yard->jobs[i].work.msg;

		msg->run = submit_run;
		loop_post(yard->jobs[i].work.loop, msg);
	}
	usleep(50 * 1000);
}

static void submit_first(void *arg)
{
	struct yard *yard = arg;

	work_submit(yard->lane, &yard->jobs[0].work);
}

static void counted_done(struct work *w)
{
	struct yard *yard = container_of(w, struct job, work)->yard;

	if (atomic_fetch_add(&yard->running, 1) + 1 == yard->njobs)
		loop_set_stop(yard->set);
}

static void nothing_waits_where_there_are_no_threads(void **state)
{
	struct yard *yard = yard_create(2, 1, 5);

	atomic_store(&yard->gate, true);
	for (unsigned i = 0; i < yard->njobs; i++) {
		yard->jobs[i].work.done = counted_done;
		yard->jobs[i].work.run = i == 0 ? hold_run : in_order_run;
		yard->jobs[i].work.loop = loop_set_at(yard->set, i == 0 ? 0 : 1);
	}
	atomic_store(&no_threads, true);
	alarm(60); /* it would hang */
	/* The loops' own threads are started by the library. */
	test_run(yard->set, submit_first, yard);
	alarm(0);
	atomic_store(&no_threads, false);
	assert_int_equal(yard->running, 5);
	yard_destroy(yard);
}

/* ---- Many loops, one lane: for the thread sanitizer -------------------------------------------
 */

#define NLOOPS 8
#define TIMES  300

struct again {
	struct work work;
	struct work_lane *lane;
	struct loop_msg start;
	struct loop_set *set;
	unsigned *left; /* of this loop */
	atomic_uint *left_loops;
	uint64_t plain; /* written by the worker, read by the loop */
};

static void again_run(struct work *w)
{
	struct again *a = container_of(w, struct again, work);

	a->plain++;
}

static void again_done(struct work *w)
{
	struct again *a = container_of(w, struct again, work);

	CHECK(a->plain == TIMES - *a->left + 1);
	if (--*a->left > 0)
		work_submit(a->lane, &a->work);
	else if (atomic_fetch_sub(a->left_loops, 1) == 1)
		loop_set_stop(a->set);
}

static void again_start(struct loop_msg *msg)
{
	struct again *a = container_of(msg, struct again, start);

	work_submit(a->lane, &a->work);
}

static void all_loops_share_the_workers(void **state)
{
	struct again a[NLOOPS];
	unsigned left[NLOOPS];
	atomic_uint left_loops = NLOOPS;
	struct loop_set *set = test_set(NLOOPS, LOOP_DISK_AUTO);
	struct work_lane *lane = NULL;

	assert_int_equal(work_lane_create(&lane, set, 4), 0);
	for (unsigned i = 0; i < NLOOPS; i++) {
		left[i] = TIMES;
		a[i] = (struct again){.lane = lane,
				      .start.run = again_start,
				      .set = set,
				      .left = &left[i],
				      .left_loops = &left_loops};
		a[i].work = (struct work){
			.run = again_run, .done = again_done, .loop = loop_set_at(set, i)};
		loop_post(loop_set_at(set, i), &a[i].start);
	}
	assert_int_equal(loop_set_run(set), 0);
	for (unsigned i = 0; i < NLOOPS; i++)
		assert_int_equal(a[i].plain, TIMES);
	work_lane_destroy(lane);
	loop_set_destroy(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_lane_bounds_what_runs),
		cmocka_unit_test(a_lane_of_one_keeps_the_order),
		cmocka_unit_test(a_hung_disk_leaves_threads_to_the_others),
		cmocka_unit_test(threads_have_a_limit),
		cmocka_unit_test(one_at_a_time_needs_one_thread),
		cmocka_unit_test(idle_threads_end),
		cmocka_unit_test(nothing_waits_where_there_are_no_threads),
		cmocka_unit_test(all_loops_share_the_workers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
