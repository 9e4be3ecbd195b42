/*
 * Payload buffers: sizes, reuse, limits, and that an idle loop gives memory back.
 */
#include "loop_test.h"

#include <sanitizer/asan_interface.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ /* clang says it in its own way */
#endif
#endif

static unsigned nfree(struct loop *loop)
{
	const struct loop_bufs *bufs = loop_bufs_of(loop);
	unsigned n = 0;

	for (unsigned i = 0; i < LOOP_BUF_CLASSES; i++)
		n += bufs->nfree[i];
	return n;
}

static void buffers_are_large_enough_and_aligned(void **state)
{
	static const struct {
		uint32_t asked, cap;
	} rows[] = {
		{0, 4096},
		{1, 4096},
		{4096, 4096},
		{4097, 16384},
		{16384, 16384},
		{16385, 65536},
		{65536, 65536},
		{65537, LOOP_BUF_MAX},
		{200000, LOOP_BUF_MAX},
		{LOOP_BUF_MAX, LOOP_BUF_MAX},
	};
	struct loop_set *set = test_set(1, LOOP_DISK_AUTO);
	struct loop *loop = loop_set_at(set, 0);

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct loop_buf *buf = loop_buf_get(loop, rows[i].asked);

		assert_non_null(buf);
#ifdef __SANITIZE_ADDRESS__
		/* Who uses more than that is found out. */
		assert_int_equal(buf->cap, rows[i].asked);
		if (rows[i].asked < rows[i].cap) {
			assert_true(__asan_address_is_poisoned(buf->data + rows[i].asked));
			assert_true(__asan_address_is_poisoned(buf->data + rows[i].cap - 1));
		}
#else
		assert_int_equal(buf->cap, rows[i].cap);
#endif
		assert_true(is_aligned((uintptr_t)buf->data, 4096));
		memset(buf->data, 0x5a, buf->cap);
		loop_buf_put(buf);
	}
	loop_buf_put(NULL);
	loop_set_destroy(set);
}

static void the_buffer_put_last_comes_first(void **state)
{
	struct loop_set *set = test_set(1, LOOP_DISK_AUTO);
	struct loop *loop = loop_set_at(set, 0);
	struct loop_buf *a = loop_buf_get(loop, 4096), *b = loop_buf_get(loop, 4096);

	assert_ptr_not_equal(a->data, b->data);
	loop_buf_put(a);
	loop_buf_put(b);
	assert_ptr_equal(loop_buf_get(loop, 100), b);
	assert_ptr_equal(loop_buf_get(loop, 100), a);
	loop_buf_put(a);
	loop_buf_put(b);
	loop_set_destroy(set);
}

static void a_buffer_that_was_put_is_poisoned(void **state)
{
#ifdef __SANITIZE_ADDRESS__
	struct loop_set *set = test_set(1, LOOP_DISK_AUTO);
	struct loop_buf *buf = loop_buf_get(loop_set_at(set, 0), LOOP_BUF_MAX);
	uint8_t *data = buf->data;

	assert_null(__asan_region_is_poisoned(data, LOOP_BUF_MAX));
	loop_buf_put(buf);
	assert_true(__asan_address_is_poisoned(data));
	assert_true(__asan_address_is_poisoned(data + LOOP_BUF_MAX - 1));
	buf = loop_buf_get(loop_set_at(set, 0), LOOP_BUF_MAX);
	assert_null(__asan_region_is_poisoned(buf->data, LOOP_BUF_MAX));
	loop_buf_put(buf);
	loop_set_destroy(set);
	assert_false(__asan_address_is_poisoned(data)); /* unmapped: whoever is next may use it */
#else
	skip();
#endif
}

#define MANY 3000

static void free_lists_have_a_limit(void **state)
{
	struct loop_set *set = test_set(1, LOOP_DISK_AUTO);
	struct loop *loop = loop_set_at(set, 0);
	struct loop_buf **bufs = calloc(MANY, sizeof(struct loop_buf *));

	for (unsigned i = 0; i < MANY; i++) {
		bufs[i] = loop_buf_get(loop, 4096);
		assert_non_null(bufs[i]);
		bufs[i]->data[0] = 1;
	}
	for (unsigned i = 0; i < MANY; i++)
		loop_buf_put(bufs[i]);
	assert_in_range(nfree(loop), 1000, MANY - 1);
	free(bufs);
	loop_set_destroy(set);
}

static void a_trim_frees_what_was_not_needed_since_the_last(void **state)
{
	struct loop_set *set = test_set(1, LOOP_DISK_AUTO);
	struct loop *loop = loop_set_at(set, 0);
	struct loop_bufs *pools = loop_bufs_of(loop);
	struct loop_buf *bufs[100];

	for (unsigned i = 0; i < 100; i++)
		bufs[i] = loop_buf_get(loop, 4096);
	for (unsigned i = 0; i < 100; i++)
		loop_buf_put(bufs[i]);
	assert_int_equal(nfree(loop), 100);
	assert_true(loop_bufs_trim(pools)); /* all were in use since the beginning */
	assert_int_equal(nfree(loop), 100);
	for (unsigned i = 0; i < 80; i++)
		bufs[i] = loop_buf_get(loop, 4096);
	for (unsigned i = 0; i < 80; i++)
		loop_buf_put(bufs[i]);
	assert_true(loop_bufs_trim(pools)); /* 20 were not */
	assert_int_equal(nfree(loop), 80);
	assert_true(loop_bufs_trim(pools)); /* not all at once: that takes its time */
	assert_int_equal(nfree(loop), 80 - LOOP_TRIM_BUFS);
	while (loop_bufs_trim(pools))
		;
	assert_in_range(nfree(loop), 1, 10);
	loop_set_destroy(set);
}

struct idle {
	struct loop_set *set;
	struct loop_timer tick, end;
};

static void tick(struct loop_timer *timer)
{
	loop_timer_start(timer, 100 * NS_PER_MS);
}

static void idle_end(struct loop_timer *timer)
{
	loop_set_stop(container_of(timer, struct idle, end)->set);
}

static void idle_start(void *arg)
{
	struct idle *idle = arg;
	struct loop *loop = loop_self();
	struct loop_buf *bufs[LOOP_TRIM_BUFS];

	for (unsigned i = 0; i < LOOP_TRIM_BUFS; i++)
		bufs[i] = loop_buf_get(loop, LOOP_BUF_MAX);
	for (unsigned i = 0; i < LOOP_TRIM_BUFS; i++)
		loop_buf_put(bufs[i]);
	loop_timer_init(&idle->tick, loop, tick);
	loop_timer_init(&idle->end, loop, idle_end);
	loop_timer_start(&idle->tick, 1); /* timers that keep firing are no use of buffers */
	loop_timer_start(&idle->end, 2500 * NS_PER_MS);
}

static void an_idle_loop_gives_memory_back(void **state)
{
	struct idle idle = {.set = test_set(1, LOOP_DISK_AUTO)};

	test_run(idle.set, idle_start, &idle);
	assert_int_equal(nfree(loop_set_at(idle.set, 0)), 0);
	loop_set_destroy(idle.set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buffers_are_large_enough_and_aligned),
		cmocka_unit_test(the_buffer_put_last_comes_first),
		cmocka_unit_test(a_buffer_that_was_put_is_poisoned),
		cmocka_unit_test(free_lists_have_a_limit),
		cmocka_unit_test(a_trim_frees_what_was_not_needed_since_the_last),
		cmocka_unit_test(an_idle_loop_gives_memory_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
