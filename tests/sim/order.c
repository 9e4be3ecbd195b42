/*
 * The simulator itself: a run is a function of its seed, seeds give different orders, and the
 * orders that loop.h forbids never happen.
 */
#include "loop/sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define NLOOPS 3
#define NMSGS  6 /* from each loop to each loop */

/* Every loop sends numbered messages to every loop; who receives notes what came. */
struct note {
	struct loop_msg msg;
	unsigned from, to, nth;
};

static struct play {
	struct loop_set *set;
	struct note notes[NLOOPS][NLOOPS][NMSGS];
	struct loop_msg begin[NLOOPS];
	unsigned next[NLOOPS][NLOOPS];
	uint64_t order;
	unsigned seen;
} play;

static void received(struct loop_msg *msg)
{
	struct note *n = container_of(msg, struct note, msg);

	assert_ptr_equal(loop_self(), loop_set_at(play.set, n->to));
	assert_int_equal(n->nth, play.next[n->from][n->to]++);
	play.order = play.order * 31 + n->from * NLOOPS + n->to;
	play.seen++;
}

static void begin(struct loop_msg *msg)
{
	unsigned from = (unsigned)(msg - play.begin);

	for (unsigned nth = 0; nth < NMSGS; nth++)
		for (unsigned to = 0; to < NLOOPS; to++) {
			struct note *n = &play.notes[from][to][nth];

			*n = (struct note){.from = from, .to = to, .nth = nth};
			n->msg.run = received;
			loop_post(loop_set_at(play.set, to), &n->msg);
		}
}

static uint64_t play_once(struct loop_set *set)
{
	play = (struct play){.set = set};
	for (unsigned i = 0; i < NLOOPS; i++) {
		play.begin[i].run = begin;
		loop_post(loop_set_at(set, i), &play.begin[i]);
	}
	sim_run(set, UINT64_MAX);
	assert_int_equal(play.seen, NLOOPS * NLOOPS * NMSGS);
	return play.order;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void seeds_give_orders(void **state)
{
	enum { RUNS = 1000 };
	static uint64_t orders[RUNS], traces[RUNS];
	struct loop_set *set, *other;

	assert_int_equal(sim_create(&set, NLOOPS, 0), 0);
	for (unsigned i = 0; i < RUNS; i++) {
		sim_reset(set, i);
		orders[i] = play_once(set);
		traces[i] = sim_trace(set);
		assert_int_equal(sim_create(&other, NLOOPS, i), 0);
		assert_int_equal(play_once(other), orders[i]);
		assert_int_equal(sim_trace(other), traces[i]);
		loop_set_destroy(other);
	}
	loop_set_destroy(set);
	qsort(orders, RUNS, sizeof(orders[0]), compare_u64);
	qsort(traces, RUNS, sizeof(traces[0]), compare_u64);
	for (unsigned i = 1; i < RUNS; i++) {
		assert_true(orders[i] != orders[i - 1]);
		assert_true(traces[i] != traces[i - 1]);
	}
}

/* Two messages on two loops: either may be first, about equally often. */
static void both_orders_happen(void **state)
{
	static unsigned first_on[2];
	struct loop_set *set;

	assert_int_equal(sim_create(&set, NLOOPS, 0), 0);
	for (unsigned seed = 0; seed < 1000; seed++) {
		sim_reset(set, seed);
		play = (struct play){.set = set};
		for (unsigned to = 0; to < 2; to++) {
			struct note *n = &play.notes[2][to][0];

			*n = (struct note){.from = 2, .to = to};
			n->msg.run = received;
			loop_post(loop_set_at(set, to), &n->msg);
		}
		while (play.seen == 0)
			sim_step(set);
		first_on[play.next[2][1]]++;
		sim_run(set, UINT64_MAX);
	}
	loop_set_destroy(set);
	assert_in_range(first_on[0], 400, 600);
}

/* What was deferred runs in order, and before what waits for the end of the turn. */
static struct loop_msg turn_msgs[4];
static unsigned turn_seen;

static void in_turn(struct loop_msg *msg)
{
	assert_int_equal(msg - turn_msgs, turn_seen++);
}

static void defer_all(struct loop_msg *msg)
{
	for (unsigned i = 0; i < 4; i++)
		turn_msgs[i].run = in_turn;
	loop_at_end(loop_self(), &turn_msgs[2]);
	loop_defer(loop_self(), &turn_msgs[0]);
	loop_at_end(loop_self(), &turn_msgs[3]);
	loop_defer(loop_self(), &turn_msgs[1]);
}

static void turns_keep_their_order(void **state)
{
	struct loop_msg go = {.run = defer_all};
	struct loop_set *set;

	for (unsigned seed = 0; seed < 100; seed++) {
		assert_int_equal(sim_create(&set, NLOOPS, seed), 0);
		turn_seen = 0;
		loop_post(loop_set_at(set, 1), &go);
		sim_run(set, UINT64_MAX);
		assert_int_equal(turn_seen, 4);
		loop_set_destroy(set);
	}
}

/* ---- Timers ---- */

#define NTIMERS 20

static struct loop_timer timers[NTIMERS];
static unsigned fired_at[NTIMERS], fired_count;

static void fired(struct loop_timer *t)
{
	assert_false(loop_timer_running(t));
	assert_int_equal(loop_now_ns(loop_self()), t->due_ns);
	fired_at[t - timers] = ++fired_count;
}

static void timers_fire_when_due(void **state)
{
	struct loop_set *set;
	uint64_t from;

	assert_int_equal(sim_create(&set, NLOOPS, 7), 0);
	from = sim_now_ns(set);
	fired_count = 0;
	for (unsigned i = 0; i < NTIMERS; i++) {
		fired_at[i] = 0;
		loop_timer_init(&timers[i], loop_set_at(set, i % NLOOPS), fired);
		assert_int_equal(loop_timer_start(&timers[i], 1000000), 0);
	}
	/* Moved: to (7 * i) % 20 seconds. */
	for (unsigned i = 0; i < NTIMERS; i++)
		assert_int_equal(
			loop_timer_start(&timers[i], (7 * i) % NTIMERS * UINT64_C(1000000000)), 0);
	loop_timer_stop(&timers[5]);
	loop_timer_stop(&timers[5]);
	sim_run(set, UINT64_MAX);
	assert_int_equal(fired_count, NTIMERS - 1);
	assert_int_equal(fired_at[5], 0);
	for (unsigned i = 0; i < NTIMERS; i++)
		for (unsigned k = 0; k < NTIMERS; k++)
			if (i != 5 && k != 5 && (7 * i) % NTIMERS < (7 * k) % NTIMERS)
				assert_true(fired_at[i] < fired_at[k]);
	assert_int_equal(sim_now_ns(set) - from, 19 * UINT64_C(1000000000));
	loop_set_destroy(set);
}

/* ---- Work and files ---- */

static unsigned work_ran, work_done;

static void work_run(struct work *w)
{
	assert_null(loop_self());
	work_ran++;
}

static void work_is_done(struct work *w)
{
	assert_ptr_equal(loop_self(), w->loop);
	assert_true(++work_done <= work_ran);
}

static void work_comes_back(void **state)
{
	struct work works[8];
	struct work_lane *lane;
	struct loop_set *set;

	work_ran = work_done = 0;
	assert_int_equal(sim_create(&set, NLOOPS, 3), 0);
	assert_int_equal(work_lane_create(&lane, set, 2), 0);
	for (unsigned i = 0; i < ARRAY_LEN(works); i++) {
		works[i] = (struct work){.run = work_run,
					 .done = work_is_done,
					 .loop = loop_set_at(set, i % NLOOPS)};
		work_submit(lane, &works[i]);
	}
	sim_run(set, UINT64_MAX);
	assert_int_equal(work_done, ARRAY_LEN(works));
	work_lane_destroy(lane);
	loop_set_destroy(set);
}

static void files_are_refused(void **state)
{
	struct file_config config = {.path = "/dev/null"};
	struct loop_set *set;
	struct file *f;
	struct diag d;

	diag_init(&d);
	assert_int_equal(sim_create(&set, 1, 3), 0);
	assert_int_equal(file_open(&f, set, &config, &d), -ENOSYS);
	assert_non_null(strstr(d.what, "/dev/null"));
	loop_set_destroy(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(seeds_give_orders),      cmocka_unit_test(both_orders_happen),
		cmocka_unit_test(turns_keep_their_order), cmocka_unit_test(timers_fire_when_due),
		cmocka_unit_test(work_comes_back),        cmocka_unit_test(files_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
