/*
 * The simulated engine: any number of loops on the caller's thread. Apart from loop.c because it
 * shares nothing with it but the interface.
 *
 * What could happen next is a set of sources, each ready or not:
 *
 *   mail    from one loop (or from outside) to another: first in, first out
 *   turn    of a loop: what was deferred, then what waits for the end of the turn
 *   timers  of a loop that are due
 *   lane    of worker threads with work waiting
 *
 * A step picks a ready one at random and runs one callback of it. A loop that began to run what was
 * deferred takes no mail and no timer before its turn has ended, as the real one does, but for now
 * and then, when that interrupts a turn that seems too long.
 */
#include "loop/sim.h"

#include "loop/impl.h"

#include <errno.h>
#include <stdlib.h>

struct source {
	void (*step)(struct source *s);
	struct loop_set *set;
	struct loop *loop; /* whose callback runs; NULL: a worker thread's */
	unsigned id;       /* for the trace */
	unsigned ready_at; /* 1-based place in set->ready, 0: nothing could happen */
};

struct mail {
	struct source src;
	struct queue q;
};

struct loop {
	struct loop_set *set;
	unsigned index;
	bool turning; /* runs what was deferred */
	struct source turn, timers;
	struct queue deferred, at_end;
	struct mail *from; /* one a loop of the set, the last for all other threads */
	struct loop_timer **heap;
	size_t nheap, heap_cap; /* heap[0] is unused */
	struct loop_bufs bufs;
};

struct loop_set {
	uint64_t random, now_ns, trace;
	unsigned nloops, nready, nsources;
	bool stopping;
	struct source **ready;
	struct mail *mails;
	struct loop loops[];
};

struct work_lane {
	struct source src;
	struct queue q;
	unsigned nwaiting, max_running;
};

static _Thread_local struct loop *running_loop;

/* ---- Random numbers: splitmix64 ---- */

static uint64_t random_u64(struct loop_set *set)
{
	uint64_t z = set->random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

uint64_t sim_random(struct loop_set *set, uint64_t bound)
{
	return (uint64_t)(((unsigned __int128)random_u64(set) * bound) >> 64);
}

/* ---- Sources ---- */

static void source_init(struct source *s, struct loop_set *set, struct loop *loop,
			void (*step)(struct source *s))
{
	*s = (struct source){.step = step, .set = set, .loop = loop, .id = set->nsources++};
}

static void source_ready(struct source *s)
{
	struct loop_set *set = s->set;

	if (s->ready_at != 0)
		return;
	set->ready[set->nready++] = s;
	s->ready_at = set->nready;
}

static void source_idle(struct source *s)
{
	struct loop_set *set = s->set;
	struct source *last;

	if (s->ready_at == 0)
		return;
	last = set->ready[--set->nready];
	set->ready[s->ready_at - 1] = last;
	last->ready_at = s->ready_at;
	s->ready_at = 0;
}

static void run_msg(struct loop *loop, struct qnode *n)
{
	struct loop_msg *msg = container_of(n, struct loop_msg, link);

	running_loop = loop;
	msg->run(msg);
	running_loop = NULL;
}

static void step_turn(struct source *s)
{
	struct loop *loop = s->loop;
	struct qnode *n = queue_pop(&loop->deferred);

	loop->turning = true;
	if (n == NULL)
		n = queue_pop(&loop->at_end);
	run_msg(loop, n);
	if (queue_empty(&loop->deferred) && queue_empty(&loop->at_end)) {
		loop->turning = false;
		source_idle(s);
	}
}

/* A turn ends before mail and timers are seen again, but a long one is interrupted. */
static bool in_turn(struct loop *loop)
{
	return loop->turning && sim_random(loop->set, 16) != 0;
}

static void step_mail(struct source *s)
{
	struct mail *mail = container_of(s, struct mail, src);
	struct qnode *n;

	if (in_turn(s->loop)) {
		step_turn(&s->loop->turn);
		return;
	}
	n = queue_pop(&mail->q);
	if (queue_empty(&mail->q))
		source_idle(s);
	run_msg(s->loop, n);
}

/* ---- Timers: a binary heap a loop ---- */

static void heap_place(struct loop *loop, size_t at, struct loop_timer *t)
{
	loop->heap[at] = t;
	t->heap_at = at;
}

static void heap_up(struct loop *loop, size_t at, struct loop_timer *t)
{
	while (at > 1 && loop->heap[at / 2]->due_ns > t->due_ns) {
		heap_place(loop, at, loop->heap[at / 2]);
		at /= 2;
	}
	heap_place(loop, at, t);
}

static void heap_down(struct loop *loop, size_t at, struct loop_timer *t)
{
	for (;;) {
		size_t child = at * 2;

		if (child > loop->nheap)
			break;
		if (child < loop->nheap &&
		    loop->heap[child + 1]->due_ns < loop->heap[child]->due_ns)
			child++;
		if (loop->heap[child]->due_ns >= t->due_ns)
			break;
		heap_place(loop, at, loop->heap[child]);
		at = child;
	}
	heap_place(loop, at, t);
}

static void heap_remove(struct loop *loop, struct loop_timer *t)
{
	size_t at = t->heap_at;
	struct loop_timer *last = loop->heap[loop->nheap--];

	t->heap_at = 0;
	if (last == t)
		return;
	if (at > 1 && loop->heap[at / 2]->due_ns > last->due_ns)
		heap_up(loop, at, last);
	else
		heap_down(loop, at, last);
}

static void timers_look(struct loop *loop)
{
	if (loop->nheap != 0 && loop->heap[1]->due_ns <= loop->set->now_ns)
		source_ready(&loop->timers);
	else
		source_idle(&loop->timers);
}

/* Among those that are due at the same moment any may be the first. */
static struct loop_timer *heap_first(struct loop *loop)
{
	size_t at = 1;
	uint64_t due_ns = loop->heap[1]->due_ns;

	for (;;) {
		size_t child = at * 2 + sim_random(loop->set, 2);

		if (child > loop->nheap || loop->heap[child]->due_ns != due_ns ||
		    sim_random(loop->set, 2) == 0)
			return loop->heap[at];
		at = child;
	}
}

static void step_timers(struct source *s)
{
	struct loop *loop = s->loop;
	struct loop_timer *t;

	if (in_turn(loop)) {
		step_turn(&loop->turn);
		return;
	}
	t = heap_first(loop);
	heap_remove(loop, t);
	timers_look(loop);
	running_loop = loop;
	t->fired(t);
	running_loop = NULL;
}

void loop_timer_init(struct loop_timer *t, struct loop *loop,
		     void (*fired)(struct loop_timer *timer))
{
	*t = (struct loop_timer){.fired = fired, .loop = loop};
}

int loop_timer_start(struct loop_timer *t, uint64_t delay_ns)
{
	struct loop *loop = t->loop;

	CHECK(running_loop == loop || running_loop == NULL);
	if (t->heap_at != 0)
		heap_remove(loop, t);
	if (loop->nheap + 1 >= loop->heap_cap) {
		size_t cap = loop->heap_cap != 0 ? loop->heap_cap * 2 : 16;
		struct loop_timer **heap = realloc(loop->heap, cap * sizeof(struct loop_timer *));

		if (heap == NULL)
			return -ENOMEM;
		loop->heap = heap;
		loop->heap_cap = cap;
	}
	t->due_ns = loop->set->now_ns + delay_ns;
	heap_up(loop, ++loop->nheap, t);
	timers_look(loop);
	return 0;
}

void loop_timer_stop(struct loop_timer *t)
{
	if (t->heap_at == 0)
		return;
	CHECK(running_loop == t->loop || running_loop == NULL);
	heap_remove(t->loop, t);
	timers_look(t->loop);
}

/* Moves the clock to the next timer when that is at most `limit_ns` ahead. */
static bool clock_forward(struct loop_set *set, uint64_t limit_ns)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; i < set->nloops; i++)
		if (set->loops[i].nheap != 0)
			next = min_u64(next, set->loops[i].heap[1]->due_ns);
	if (next == UINT64_MAX || next <= set->now_ns || next - set->now_ns > limit_ns)
		return false;
	set->now_ns = next;
	for (unsigned i = 0; i < set->nloops; i++)
		timers_look(&set->loops[i]);
	return true;
}

/* ---- Work ---- */

static void work_is_done(struct loop_msg *msg)
{
	struct work *w = container_of(msg, struct work, msg);

	w->done(w);
}

/* Any of those that have a thread may be the next to end. */
static struct qnode *lane_take(struct work_lane *lane)
{
	uint64_t nth = sim_random(lane->src.set, min_u64(lane->nwaiting, lane->max_running));
	struct qnode **at = &lane->q.head, *n;

	while (nth-- > 0)
		at = &(*at)->next;
	n = *at;
	*at = n->next;
	if (n->next == NULL)
		lane->q.tail = at;
	lane->nwaiting--;
	return n;
}

static void step_lane(struct source *s)
{
	struct work_lane *lane = container_of(s, struct work_lane, src);
	struct work *w = container_of(lane_take(lane), struct work, msg.link);

	if (lane->nwaiting == 0)
		source_idle(s);
	w->run(w);
	w->msg.run = work_is_done;
	loop_post(w->loop, &w->msg);
}

int work_lane_create(struct work_lane **out, struct loop_set *set, unsigned max_running)
{
	struct work_lane *lane = malloc(sizeof(*lane));
	struct source **ready = NULL;

	if (lane == NULL)
		goto fail;
	ready = realloc(set->ready, (set->nsources + 1) * sizeof(struct source *));
	if (ready == NULL)
		goto fail;
	set->ready = ready;
	source_init(&lane->src, set, NULL, step_lane);
	queue_init(&lane->q);
	lane->nwaiting = 0;
	lane->max_running = max_running != 0 ? max_running : 1;
	*out = lane;
	return 0;
fail:
	free(lane);
	return -ENOMEM;
}

void work_lane_destroy(struct work_lane *lane)
{
	if (lane == NULL)
		return;
	CHECK(lane->nwaiting == 0);
	free(lane);
}

void work_submit(struct work_lane *lane, struct work *w)
{
	queue_push(&lane->q, &w->msg.link);
	lane->nwaiting++;
	source_ready(&lane->src);
}

/* ---- The set ---- */

static void loop_init(struct loop *loop, struct loop_set *set, unsigned index)
{
	loop->set = set;
	loop->index = index;
	queue_init(&loop->deferred);
	queue_init(&loop->at_end);
	source_init(&loop->turn, set, loop, step_turn);
	source_init(&loop->timers, set, loop, step_timers);
	loop->from = set->mails + (size_t)index * (set->nloops + 1);
	for (unsigned i = 0; i <= set->nloops; i++) {
		source_init(&loop->from[i].src, set, loop, step_mail);
		queue_init(&loop->from[i].q);
	}
	loop_bufs_init(&loop->bufs, loop, 0);
}

static void set_seed(struct loop_set *set, uint64_t seed)
{
	set->random = seed * UINT64_C(0xd1342543de82ef95) + 1;
	set->now_ns = UINT64_C(1000000000);
	set->trace = 0;
	set->stopping = false;
}

int sim_create(struct loop_set **out, unsigned nloops, uint64_t seed)
{
	size_t nmails = (size_t)nloops * (nloops + 1);
	struct loop_set *set;

	set = calloc(1, sizeof(*set) + nloops * sizeof(struct loop));
	if (set == NULL)
		return -ENOMEM;
	set->nloops = nloops;
	set->mails = calloc(nmails, sizeof(struct mail));
	set->ready = calloc(nmails + 2 * (size_t)nloops, sizeof(struct source *));
	if (set->mails == NULL || set->ready == NULL) {
		free(set->mails);
		free(set->ready);
		free(set);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < nloops; i++)
		loop_init(&set->loops[i], set, i);
	set_seed(set, seed);
	*out = set;
	return 0;
}

void sim_reset(struct loop_set *set, uint64_t seed)
{
	CHECK(set->nready == 0);
	for (unsigned i = 0; i < set->nloops; i++)
		CHECK(set->loops[i].nheap == 0);
	set->nsources = set->nloops * (set->nloops + 3); /* what loop_init() made, without lanes */
	set_seed(set, seed);
}

int loop_set_create(struct loop_set **out, const struct loop_config *config, struct diag *d)
{
	return sim_create(out, config->nloops != 0 ? config->nloops : 1, 1);
}

void loop_set_destroy(struct loop_set *set)
{
	if (set == NULL)
		return;
	for (unsigned i = 0; i < set->nloops; i++) {
		loop_bufs_fini(&set->loops[i].bufs);
		free(set->loops[i].heap);
	}
	free(set->mails);
	free(set->ready);
	free(set);
}

unsigned loop_set_count(const struct loop_set *set)
{
	return set->nloops;
}

struct loop *loop_set_at(struct loop_set *set, unsigned index)
{
	CHECK(index < set->nloops);
	return &set->loops[index];
}

const char *loop_set_disk_engine(const struct loop_set *set)
{
	return "simulated";
}

bool sim_step(struct loop_set *set)
{
	struct source *s;

	if (set->nready == 0) {
		if (!clock_forward(set, UINT64_MAX))
			return false;
	} else if (sim_random(set, 16) == 0) {
		clock_forward(set, SIM_TRAVEL_NS);
	}
	s = set->ready[sim_random(set, set->nready)];
	set->trace = (set->trace ^ s->id) * UINT64_C(0x100000001b3) ^ set->now_ns;
	s->step(s);
	return true;
}

uint64_t sim_run(struct loop_set *set, uint64_t max_steps)
{
	uint64_t steps = 0;

	while (steps < max_steps && sim_step(set))
		steps++;
	return steps;
}

uint64_t sim_now_ns(const struct loop_set *set)
{
	return set->now_ns;
}

uint64_t sim_trace(const struct loop_set *set)
{
	return set->trace;
}

int loop_set_run(struct loop_set *set)
{
	while (!set->stopping && sim_step(set))
		continue;
	return 0;
}

void loop_set_stop(struct loop_set *set)
{
	set->stopping = true;
}

int loop_signal(struct loop_set *set, int signo, void (*caught)(void *arg, int signo), void *arg)
{
	return -ENOSYS;
}

/* ---- One loop ---- */

struct loop *loop_self(void)
{
	return running_loop;
}

unsigned loop_index(const struct loop *loop)
{
	return loop->index;
}

struct loop_set *loop_set_of(const struct loop *loop)
{
	return loop->set;
}

uint64_t loop_set_clock_ns(const struct loop_set *set)
{
	return set->now_ns;
}

uint64_t loop_now_ns(const struct loop *loop)
{
	return loop->set->now_ns;
}

struct loop_bufs *loop_bufs_of(struct loop *loop)
{
	return &loop->bufs;
}

void loop_post(struct loop *to, struct loop_msg *msg)
{
	unsigned sender = running_loop != NULL ? running_loop->index : to->set->nloops;
	struct mail *mail = &to->from[sender];

	queue_push(&mail->q, &msg->link);
	source_ready(&mail->src);
}

void loop_defer(struct loop *self, struct loop_msg *msg)
{
	CHECK(running_loop == self || running_loop == NULL);
	queue_push(&self->deferred, &msg->link);
	source_ready(&self->turn);
}

void loop_at_end(struct loop *self, struct loop_msg *msg)
{
	CHECK(running_loop == self || running_loop == NULL);
	queue_push(&self->at_end, &msg->link);
	source_ready(&self->turn);
}

/* ---- Files: there are none ---- */

int file_open(struct file **out, struct loop_set *set, const struct file_config *config,
	      struct diag *d)
{
	return diag_set(d, -ENOSYS, "cannot open %s: the simulated loop has no files",
			config->path);
}

void file_keep(struct file *f)
{
}

void file_close(struct file *f)
{
}

const struct file_info *file_info(const struct file *f)
{
	return NULL;
}

int file_resize(struct file *f, uint64_t size)
{
	return -ENOSYS;
}

int file_probe(struct file *f, struct file_status *out)
{
	return -ENOSYS;
}

void file_submit(struct file *f, struct io *io)
{
	io_end(io, -ENOSYS);
}

ssize_t file_tag_get(struct file *f, const char *name, void *buf, size_t cap)
{
	return -EOPNOTSUPP;
}

int file_tag_set(struct file *f, const char *name, const void *buf, size_t len)
{
	return -EOPNOTSUPP;
}

int file_fingerprint(struct file *f, char *buf, size_t cap)
{
	return -EOPNOTSUPP;
}
