/*
 * The turn of a loop, its messages, and the set of loops with its threads.
 *
 * A message to another loop is pushed on that loop's inbox, a stack that the loop takes as a whole
 * and reverses, so each sender's messages keep their order. The one that finds the inbox empty
 * wakes the loop if it sleeps:
 *
 *   sender: push, then read `sleeping`          loop: set `sleeping`, then look into the inbox
 *
 * all four in one total order (seq_cst), so at least one of the two sees the other.
 */
#include "loop/engine.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* How often deferred messages and posts may breed new ones before sockets are looked at again. */
#define DEFER_ROUNDS 64
#define POST_ROUNDS  4
#define TRIM_NS      (1 * NS_PER_S)
#define LOOPS_MAX    256

static _Thread_local struct loop *running_loop;

uint64_t monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t loop_set_clock_ns(const struct loop_set *set)
{
	return monotonic_ns();
}

/* ---- Sources --------------------------------------------------------------------------------- */

static int source_ctl(struct loop *loop, int op, int fd, struct loop_source *src, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = src};

	return epoll_ctl(loop->epoll_fd, op, fd, &ev) == 0 ? 0 : -errno;
}

int loop_watch(struct loop *loop, int fd, struct loop_source *src, uint32_t epoll_events)
{
	return source_ctl(loop, EPOLL_CTL_ADD, fd, src, epoll_events);
}

int loop_rewatch(struct loop *loop, int fd, struct loop_source *src, uint32_t epoll_events)
{
	return source_ctl(loop, EPOLL_CTL_MOD, fd, src, epoll_events);
}

void loop_unwatch(struct loop *loop, int fd, struct loop_source *src)
{
	source_ctl(loop, EPOLL_CTL_DEL, fd, src, 0);
	for (unsigned i = loop->event_at; i < loop->nevents; i++)
		if (loop->events[i].data.ptr == src)
			loop->events[i].data.ptr = NULL;
}

static void events_run(struct loop *loop)
{
	while (loop->event_at < loop->nevents) {
		const struct epoll_event *ev = &loop->events[loop->event_at++];
		struct loop_source *src = ev->data.ptr;

		if (src != NULL)
			src->ready(src, ev->events);
	}
	loop->event_at = loop->nevents = 0;
}

/* ---- Messages -------------------------------------------------------------------------------- */

static void wake(struct loop *loop)
{
	uint64_t one = 1;
	ssize_t n = write(loop->wake_fd, &one, sizeof(one));

	(void)n; /* it fails only when the counter is full, and then the loop is awake anyway */
}

void loop_post(struct loop *to, struct loop_msg *msg)
{
	struct qnode *head = atomic_load_explicit(&to->inbox, memory_order_relaxed);

	do {
		msg->link.next = head;
	} while (!atomic_compare_exchange_weak(&to->inbox, &head, &msg->link));
	/* Into a non-empty inbox: whoever made it non-empty sees to the waking. */
	if (head == NULL && atomic_load(&to->sleeping) && atomic_exchange(&to->sleeping, false))
		wake(to);
}

void loop_defer(struct loop *self, struct loop_msg *msg)
{
	queue_push(&self->deferred, &msg->link);
}

void loop_at_end(struct loop *self, struct loop_msg *msg)
{
	queue_push(&self->at_end, &msg->link);
}

static void queue_run(struct queue *q)
{
	struct qnode *n;

	while ((n = queue_pop(q)) != NULL) {
		struct loop_msg *msg = container_of(n, struct loop_msg, link);

		msg->run(msg);
	}
}

/* Those that are in `from` now; what they add waits for the next round. */
static void round_run(struct queue *from)
{
	struct queue now;

	queue_init(&now);
	queue_splice(&now, from);
	queue_run(&now);
}

static bool posts_run(struct loop *loop)
{
	struct qnode *n, *oldest = NULL;
	struct queue posts;

	if (atomic_load_explicit(&loop->inbox, memory_order_relaxed) == NULL)
		return false;
	n = atomic_exchange(&loop->inbox, NULL);
	while (n != NULL) {
		struct qnode *next = n->next;

		n->next = oldest;
		oldest = n;
		n = next;
	}
	queue_init(&posts);
	while (oldest != NULL) {
		n = oldest;
		oldest = n->next;
		queue_push(&posts, n);
	}
	queue_run(&posts);
	return true;
}

static void deferred_run(struct loop *loop, unsigned *rounds)
{
	while (!queue_empty(&loop->deferred) && *rounds > 0) {
		round_run(&loop->deferred);
		--*rounds;
	}
}

static void messages_run(struct loop *loop)
{
	unsigned rounds = DEFER_ROUNDS;

	bool posted = true;

	for (unsigned i = 0; i < POST_ROUNDS && posted; i++) {
		posted = posts_run(loop);
		deferred_run(loop, &rounds);
	}
	do {
		round_run(&loop->at_end);
		deferred_run(loop, &rounds);
	} while (!queue_empty(&loop->at_end) && rounds-- > 0);
}

/* ---- The turn -------------------------------------------------------------------------------- */

static bool loop_is_pending(const struct loop *loop)
{
	return !queue_empty(&loop->deferred) || !queue_empty(&loop->at_end);
}

static int epoll_wait_until(struct loop *loop, uint64_t until_ns)
{
	uint64_t now, left = 0;
	struct timespec ts;

	if (until_ns == LOOP_NEVER)
		return epoll_wait(loop->epoll_fd, loop->events, LOOP_EVENTS, -1);
	if (until_ns != 0) {
		now = monotonic_ns();
		left = until_ns > now ? until_ns - now : 0;
	}
	if (left == 0 || !loop->set->use_pwait2)
		return epoll_wait(loop->epoll_fd, loop->events, LOOP_EVENTS,
				  (int)min_u64((left + NS_PER_MS - 1) / NS_PER_MS, 1000000));
	ts.tv_sec = (time_t)(left / NS_PER_S);
	ts.tv_nsec = (long)(left % NS_PER_S);
	return epoll_pwait2(loop->epoll_fd, loop->events, LOOP_EVENTS, &ts, NULL);
}

/* When to wake without an event: 0 is at once. */
static uint64_t wake_time(struct loop *loop)
{
	uint64_t until;

	if (loop_is_pending(loop))
		return 0;
	until = timers_next_ns(loop);
	if (loop->trim_at_ns == 0 && loop_bufs_trimmable(&loop->bufs))
		loop->trim_at_ns = loop->now_ns + TRIM_NS;
	return loop->trim_at_ns != 0 ? min_u64(until, loop->trim_at_ns) : until;
}

static void wait_for_events(struct loop *loop)
{
	uint64_t until = wake_time(loop);
	int n;

	if (until != 0) {
		atomic_store(&loop->sleeping, true);
		if (atomic_load(&loop->inbox) != NULL)
			until = 0;
	}
	n = epoll_wait_until(loop, until);
	atomic_store_explicit(&loop->sleeping, false, memory_order_relaxed);
	loop->event_at = 0;
	loop->nevents = n > 0 ? (unsigned)n : 0;
	loop->now_ns = monotonic_ns();
}

static void trim(struct loop *loop)
{
	if (loop->trim_at_ns == 0 || loop->now_ns < loop->trim_at_ns)
		return;
	loop->trim_at_ns = loop_bufs_trim(&loop->bufs) ? loop->now_ns + TRIM_NS : 0;
}

static void loop_run(struct loop *loop)
{
	running_loop = loop;
	loop->now_ns = monotonic_ns();
	while (!atomic_load_explicit(&loop->set->stopping, memory_order_acquire)) {
		wait_for_events(loop);
		events_run(loop);
		timers_run(loop);
		messages_run(loop);
		trim(loop);
	}
	uring_leave(loop);
	running_loop = NULL;
}

/* ---- One loop -------------------------------------------------------------------------------- */

/* The wake-up is edge-triggered: every write to the eventfd is an edge, nobody has to read it. */
static void woken(struct loop_source *src, uint32_t epoll_events)
{
}

static int loop_init(struct loop *loop, struct loop_set *set, unsigned index, uint64_t budget_bytes)
{
	loop->set = set;
	loop->index = index;
	queue_init(&loop->deferred);
	queue_init(&loop->at_end);
	loop_bufs_init(&loop->bufs, loop, budget_bytes);
	loop->now_ns = monotonic_ns();
	loop->wake_fd = -1;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		return -errno;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0)
		return -errno;
	loop->wake_source.ready = woken;
	return loop_watch(loop, loop->wake_fd, &loop->wake_source, EPOLLIN | EPOLLET);
}

static void loop_fini(struct loop *loop)
{
	if (loop->set == NULL)
		return; /* never initialised */
	uring_destroy(loop->uring);
	timers_fini(loop);
	loop_bufs_fini(&loop->bufs);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
}

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

uint64_t loop_now_ns(const struct loop *loop)
{
	return loop->now_ns;
}

struct loop_bufs *loop_bufs_of(struct loop *loop)
{
	return &loop->bufs;
}

/* ---- The set --------------------------------------------------------------------------------- */

static unsigned cores(void)
{
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
		return (unsigned)CPU_COUNT(&cpus);
	return 1;
}

static bool uring_wanted(const struct loop_config *config)
{
	const char *no = getenv("SPINDLE_NO_URING");

	if (config->disk_engine == LOOP_DISK_WORKERS)
		return false;
	return no == NULL || no[0] == '\0' || strcmp(no, "0") == 0;
}

static bool have_pwait2(int epoll_fd)
{
	struct epoll_event ev;
	struct timespec now = {0, 0};

	return epoll_pwait2(epoll_fd, &ev, 1, &now, NULL) >= 0 || errno == EINTR;
}

static uint64_t memory_bytes(const struct loop_config *config, unsigned nloops)
{
	if (config->memory_bytes != 0)
		return config->memory_bytes;
	return max_u64(LOOP_MEMORY, nloops * LOOP_MEMORY_SHARE);
}

static int set_init(struct loop_set *set, const struct loop_config *config)
{
	uint64_t budget;
	int err;

	pthread_mutex_init(&set->starting, NULL);
	/* A peer that went away, or a limit on file sizes, is an error code and no death. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	set->nloops = config->nloops != 0 ? config->nloops : cores();
	set->nloops = (unsigned)min_u64(set->nloops, LOOPS_MAX);
	budget = memory_bytes(config, set->nloops) / set->nloops;
	if (budget < LOOP_MEMORY_MIN)
		return -ERANGE;
	set->loops = aligned_alloc(_Alignof(struct loop), set->nloops * sizeof(struct loop));
	if (set->loops == NULL)
		return -ENOMEM;
	memset(set->loops, 0, set->nloops * sizeof(struct loop));
	err = work_pool_create(&set->pool, WORK_IDLE_NS);
	for (unsigned i = 0; i < set->nloops && err == 0; i++)
		err = loop_init(&set->loops[i], set, i, budget);
	if (err != 0)
		return err;
	set->use_pwait2 = have_pwait2(set->loops[0].epoll_fd);
	set->use_uring = uring_wanted(config) && uring_probe();
	return 0;
}

static void explain(const struct loop_set *set, int err, struct diag *d)
{
	if (err == -ERANGE) {
		diag_set(d, err, "too little --memory for %u threads", set->nloops);
		diag_fix(d, "give them %" PRIu64 "M each, or start fewer --threads",
			 LOOP_MEMORY_MIN / MiB);
		return;
	}
	diag_set(d, err, "cannot start the event loops: %s", strerror(-err));
	if (err == -EMFILE)
		diag_fix(d, "raise the limit on open files, or start fewer --threads");
}

int loop_set_create(struct loop_set **out, const struct loop_config *config, struct diag *d)
{
	struct loop_set *set = calloc(1, sizeof(*set));
	int err = set != NULL ? set_init(set, config) : -ENOMEM;

	if (err != 0) {
		explain(set, err, d);
		loop_set_destroy(set);
		return err;
	}
	*out = set;
	return 0;
}

void loop_set_destroy(struct loop_set *set)
{
	if (set == NULL)
		return;
	work_pool_destroy(set->pool);
	signals_destroy(set->signals);
	pthread_mutex_destroy(&set->starting);
	for (unsigned i = 0; set->loops != NULL && i < set->nloops; i++)
		loop_fini(&set->loops[i]);
	free(set->loops);
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
	return set->use_uring ? "io_uring" : "worker threads";
}

int thread_start(pthread_t *out, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(out, attr, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -err;
}

static void *loop_thread(void *arg)
{
	struct loop *loop = arg;
	char name[16];
	bool run;

	str_format(name, sizeof(name), "loop %u", loop->index);
	pthread_setname_np(pthread_self(), name);
	/* Until all are there: what one of them began nobody could end. */
	pthread_mutex_lock(&loop->set->starting);
	run = loop->set->started;
	pthread_mutex_unlock(&loop->set->starting);
	if (run)
		loop_run(loop);
	return NULL;
}

int loop_set_run(struct loop_set *set)
{
	unsigned started = 1;
	int err = 0;

	pthread_mutex_lock(&set->starting);
	while (started < set->nloops && err == 0) {
		struct loop *loop = &set->loops[started];

		err = thread_start(&loop->thread, NULL, loop_thread, loop);
		started += err == 0;
	}
	set->started = err == 0;
	pthread_mutex_unlock(&set->starting);
	if (err == 0)
		loop_run(&set->loops[0]);
	while (--started > 0)
		pthread_join(set->loops[started].thread, NULL);
	atomic_store(&set->stopping, false);
	return err;
}

void loop_set_stop(struct loop_set *set)
{
	int saved_errno = errno; /* a signal handler may be calling */

	atomic_store_explicit(&set->stopping, true, memory_order_release);
	for (unsigned i = 0; i < set->nloops; i++)
		wake(&set->loops[i]);
	errno = saved_errno;
}
