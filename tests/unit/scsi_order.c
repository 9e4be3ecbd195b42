/*
 * Task attributes: who passes whom inside one nexus, and that other nexuses are not concerned.
 */
#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus nexus, other;

/* Block 0 hangs: tasks that touch it run until they are released. */
static int up(void **state)
{
	fx_up(&fx, "fault:rule=any@0-512;hang:ram:16M", 512);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
	fx_open(&fx, &other);
	fx_take_power_on(&other, 0);
	return 0;
}

static int down(void **state)
{
	fx_close(&nexus);
	fx_close(&other);
	fx_down(&fx);
	return 0;
}

static struct fx_task *begin(struct fx_nexus *n, enum scsi_attr attr, uint64_t lba)
{
	struct fx_task *ft = fx_rw(n, 0x28, lba, 1);

	ft->t.attr = attr;
	fx_expect_in(ft, 512);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	return ft;
}

#define SLOW(attr) begin(&nexus, SCSI_##attr, 0)
#define FAST(attr) begin(&nexus, SCSI_##attr, 9)

static void release(void)
{
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_settle(&fx);
	fx_settle(&fx);
}

static void end(struct fx_task *ft)
{
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
}

static void simple_tasks_pass_each_other(void **state)
{
	struct fx_task *slow = SLOW(SIMPLE), *fast = FAST(SIMPLE), *untagged = FAST(UNTAGGED);

	assert_false(slow->finished);
	end(fast);
	end(untagged);
	release();
	end(slow);
}

static void ordered_waits_for_all_and_all_wait_for_it(void **state)
{
	struct fx_task *first = SLOW(SIMPLE), *ordered = SLOW(ORDERED), *later = FAST(SIMPLE),
		       *last = FAST(ORDERED);

	assert_false(first->finished || ordered->finished || later->finished);
	release();
	assert_true(first->finished);
	assert_false(ordered->finished || later->finished || last->finished);
	release();
	end(first);
	end(ordered);
	end(later);
	end(last);
}

static void head_of_queue_passes_those_that_wait(void **state)
{
	struct fx_task *first = SLOW(SIMPLE), *ordered = FAST(ORDERED), *head = FAST(HEAD_OF_QUEUE);

	assert_true(head->finished);
	assert_false(ordered->finished);
	release();
	end(first);
	end(ordered);
	end(head);
}

static void simple_waits_for_an_older_head_of_queue(void **state)
{
	struct fx_task *head = SLOW(HEAD_OF_QUEUE), *simple = FAST(SIMPLE),
		       *second = FAST(HEAD_OF_QUEUE), *ordered = FAST(ORDERED);

	assert_true(second->finished);
	assert_false(simple->finished || ordered->finished);
	release();
	end(head);
	end(simple);
	end(second);
	end(ordered);
}

static void what_bypasses_waits_for_nobody(void **state)
{
	struct fx_task *slow = SLOW(ORDERED), *ft = FX_CMD(&nexus, 96, 0x12, 0, 0, 0, 96, 0);

	fx_good(ft);
	fx_task_free(ft);
	release();
	end(slow);
}

static void other_nexuses_are_not_concerned(void **state)
{
	struct fx_task *slow = SLOW(ORDERED), *ft = begin(&other, SCSI_ORDERED, 9);

	end(ft);
	release();
	end(slow);
}

static void a_malformed_task_takes_no_part(void **state)
{
	struct fx_task *slow = SLOW(ORDERED),
		       *ft = FX_CMD(&nexus, 0, 0x28, 1, 0, 0, 0, 0, 0, 0, 0, 0);

	fx_bad_field(ft, 1, 0);
	fx_task_free(ft);
	release();
	end(slow);
}

/* Random attributes against the rules, by the times at which tasks start and end. */
#define MIXED 200

static void many_tasks_in_random_order_all_end(void **state)
{
	struct fx_task *tasks[MIXED];
	unsigned seed = 1;

	for (unsigned i = 0; i < MIXED; i++) {
		seed = seed * 1103515245 + 12345;
		tasks[i] = fx_rw(&nexus, 0x28, seed >> 16 & 7, 1);
		tasks[i]->t.attr = SCSI_SIMPLE + (seed >> 24) % 3;
		fx_expect_in(tasks[i], 512);
		fx_submit(&fx, tasks[i]);
		if (i % 10 == 9)
			release();
	}
	for (unsigned i = 0; i < MIXED; i++) {
		while (!tasks[i]->finished)
			release();
		end(tasks[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(simple_tasks_pass_each_other),
		cmocka_unit_test(ordered_waits_for_all_and_all_wait_for_it),
		cmocka_unit_test(head_of_queue_passes_those_that_wait),
		cmocka_unit_test(simple_waits_for_an_older_head_of_queue),
		cmocka_unit_test(what_bypasses_waits_for_nobody),
		cmocka_unit_test(other_nexuses_are_not_concerned),
		cmocka_unit_test(a_malformed_task_takes_no_part),
		cmocka_unit_test(many_tasks_in_random_order_all_end),
	};

	return cmocka_run_group_tests(tests, up, down);
}
