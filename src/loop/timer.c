/*
 * Timers: a binary heap of pointers a loop. Heap slot 0 stays empty, so that heap_at == 0 says that
 * a timer does not run.
 */
#include "loop/engine.h"

#include <errno.h>
#include <stdlib.h>

static void place(struct loop *loop, size_t at, struct loop_timer *t)
{
	loop->heap[at] = t;
	t->heap_at = at;
}

static void sift_up(struct loop *loop, struct loop_timer *t, size_t at)
{
	for (; at > 1 && loop->heap[at / 2]->due_ns > t->due_ns; at /= 2)
		place(loop, at, loop->heap[at / 2]);
	place(loop, at, t);
}

static void sift_down(struct loop *loop, struct loop_timer *t, size_t at)
{
	for (;;) {
		size_t child = 2 * at;

		if (child + 1 <= loop->ntimers &&
		    loop->heap[child + 1]->due_ns < loop->heap[child]->due_ns)
			child++;
		if (child > loop->ntimers || loop->heap[child]->due_ns >= t->due_ns)
			break;
		place(loop, at, loop->heap[child]);
		at = child;
	}
	place(loop, at, t);
}

static int heap_grow(struct loop *loop)
{
	size_t cap = loop->heap_cap != 0 ? 2 * loop->heap_cap : 64;
	struct loop_timer **heap = realloc(loop->heap, cap * sizeof(*heap));

	if (heap == NULL)
		return -ENOMEM;
	loop->heap = heap;
	loop->heap_cap = cap;
	return 0;
}

void loop_timer_init(struct loop_timer *t, struct loop *loop,
		     void (*fired)(struct loop_timer *timer))
{
	*t = (struct loop_timer){.fired = fired, .loop = loop};
}

int loop_timer_start(struct loop_timer *t, uint64_t delay_ns)
{
	struct loop *loop = t->loop;
	uint64_t due = loop->now_ns + min_u64(delay_ns, LOOP_NEVER / 2);

	if (!loop_timer_running(t) && loop->ntimers + 1 >= loop->heap_cap && heap_grow(loop) != 0)
		return -ENOMEM;
	loop_timer_stop(t);
	/* A timer that starts itself again with no delay waits for the next turn all the same. */
	t->due_ns = max_u64(due, loop->now_ns + 1);
	sift_up(loop, t, ++loop->ntimers);
	return 0;
}

void loop_timer_stop(struct loop_timer *t)
{
	struct loop *loop = t->loop;
	size_t at = t->heap_at;
	struct loop_timer *last;

	if (at == 0)
		return;
	last = loop->heap[loop->ntimers--];
	t->heap_at = 0;
	if (last == t)
		return;
	if (at > 1 && loop->heap[at / 2]->due_ns > last->due_ns)
		sift_up(loop, last, at);
	else
		sift_down(loop, last, at);
}

uint64_t timers_next_ns(const struct loop *loop)
{
	return loop->ntimers != 0 ? loop->heap[1]->due_ns : LOOP_NEVER;
}

void timers_run(struct loop *loop)
{
	while (timers_next_ns(loop) <= loop->now_ns) {
		struct loop_timer *t = loop->heap[1];

		loop_timer_stop(t);
		t->fired(t);
	}
}

void timers_fini(struct loop *loop)
{
	free(loop->heap);
	loop->heap = NULL;
}
