/* base/list: rings and queues keep their order through every operation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

struct item {
	int n;
	struct list link;
	struct qnode qlink;
};

static int ring_digits(const struct list *head)
{
	int digits = 0;

	list_for_each (pos, head)
		digits = digits * 10 + list_entry(pos, struct item, link)->n;
	return digits;
}

static void rings(void **state)
{
	struct item items[4] = {{.n = 1}, {.n = 2}, {.n = 3}, {.n = 4}};
	struct list head, other;

	list_init(&head);
	list_init(&other);
	assert_true(list_empty(&head));
	assert_null(list_pop_front(&head));
	list_push_back(&head, &items[1].link);
	list_push_back(&head, &items[2].link);
	list_push_front(&head, &items[0].link);
	assert_int_equal(ring_digits(&head), 123);
	list_insert_after(&items[0].link, &items[3].link);
	assert_int_equal(ring_digits(&head), 1423);
	list_remove(&items[3].link);
	list_remove(&items[3].link);
	assert_false(list_linked(&items[3].link));
	assert_true(list_linked(&items[0].link));
	list_push_back(&other, &items[3].link);
	list_splice_back(&other, &head);
	assert_true(list_empty(&head));
	list_splice_back(&other, &head);
	assert_int_equal(ring_digits(&other), 4123);
	list_for_each_safe (pos, &other) {
		if (list_entry(pos, struct item, link)->n % 2 == 0)
			list_remove(pos);
	}
	assert_int_equal(ring_digits(&other), 13);
	assert_ptr_equal(list_pop_front(&other), &items[0].link);
	assert_ptr_equal(list_pop_front(&other), &items[2].link);
	assert_true(list_empty(&other));
}

static int pop_digits(struct queue *q)
{
	int digits = 0;
	struct qnode *n;

	while ((n = queue_pop(q)) != NULL)
		digits = digits * 10 + container_of(n, struct item, qlink)->n;
	return digits;
}

static void queues(void **state)
{
	struct item items[4] = {{.n = 1}, {.n = 2}, {.n = 3}, {.n = 4}};
	struct queue a, b;

	queue_init(&a);
	queue_init(&b);
	assert_true(queue_empty(&a));
	assert_null(queue_pop(&a));
	for (int i = 0; i < 4; i++)
		queue_push(&a, &items[i].qlink);
	assert_int_equal(pop_digits(&a), 1234);
	/* Emptied by popping, it takes again. */
	queue_push(&a, &items[0].qlink);
	queue_push(&b, &items[1].qlink);
	queue_push(&b, &items[2].qlink);
	queue_splice(&a, &b);
	assert_true(queue_empty(&b));
	queue_splice(&a, &b);
	queue_push(&a, &items[3].qlink);
	assert_int_equal(pop_digits(&a), 1234);
	queue_push(&b, &items[3].qlink);
	queue_splice(&a, &b);
	assert_int_equal(pop_digits(&a), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rings),
		cmocka_unit_test(queues),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
