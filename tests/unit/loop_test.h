/*
 * For tests on real loops: a set whose loop 0 runs on the test's thread, so that assertions in its
 * callbacks end the test.
 */
#ifndef SPINDLE_TESTS_LOOP_TEST_H
#define SPINDLE_TESTS_LOOP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants those first. */
#include <cmocka.h>

#include "loop/engine.h"

static inline struct loop_set *test_set(unsigned nloops, enum loop_disk_engine engine)
{
	struct loop_config config = {.nloops = nloops, .disk_engine = engine};
	struct loop_set *set = NULL;

	assert_int_equal(loop_set_create(&set, &config, NULL), 0);
	return set;
}

/* Runs `start(arg)` on loop 0 and the loops until loop_set_stop. */
struct test_start {
	struct loop_msg msg;
	void (*start)(void *arg);
	void *arg;
};

static inline void test_start_run(struct loop_msg *msg)
{
	struct test_start *t = container_of(msg, struct test_start, msg);

	t->start(t->arg);
}

static inline void test_run(struct loop_set *set, void (*start)(void *arg), void *arg)
{
	struct test_start t = {.msg = {.run = test_start_run}, .start = start, .arg = arg};

	loop_post(loop_set_at(set, 0), &t.msg);
	assert_int_equal(loop_set_run(set), 0);
}

#endif
