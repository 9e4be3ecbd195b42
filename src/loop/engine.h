/*
 * The real engine inside: epoll, posts, timers, worker threads and the ring. Private to the files
 * of src/loop that make up this engine (not sim.c, buf.c, io.c) and to their unit tests.
 */
#ifndef SPINDLE_LOOP_ENGINE_H
#define SPINDLE_LOOP_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>

#include "loop/impl.h"

#define NS_PER_S  UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)

#define LOOP_EVENTS 128 /* taken from epoll at a time */
#define LOOP_NEVER  UINT64_MAX

struct uring;
struct work_pool;
struct loop_signals;

struct loop {
	struct loop_set *set;
	unsigned index;
	int epoll_fd, wake_fd;
	struct loop_source wake_source;
	uint64_t now_ns;
	struct queue deferred, at_end;

	struct loop_timer **heap; /* heap[1..ntimers], the soonest first */
	size_t ntimers, heap_cap;

	/* What epoll reported and has not been handed out yet: events[event_at..nevents). A source
	 * that is unwatched is struck out here, so nobody meets a stale pointer. */
	struct epoll_event events[LOOP_EVENTS];
	unsigned nevents, event_at;

	struct loop_bufs bufs;
	uint64_t trim_at_ns; /* 0: no need to */
	struct uring *uring; /* made at first use, on the loop's own thread */
	pthread_t thread;

	/* Written by other threads: a stack, newest first. */
	_Alignas(64) _Atomic(struct qnode *) inbox;
	atomic_bool sleeping;
};

struct loop_set {
	struct loop *loops;
	unsigned nloops;
	bool use_uring;
	bool use_pwait2;
	atomic_bool stopping;
	pthread_mutex_t starting;
	bool started; /* under `starting`: all threads are there */
	struct work_pool *pool;
	struct loop_signals *signals; /* NULL: none asked for */
};

/* ---- Things that epoll watches (loop.c) ------------------------------------------------------ */

int loop_watch(struct loop *loop, int fd, struct loop_source *src, uint32_t epoll_events);
int loop_rewatch(struct loop *loop, int fd, struct loop_source *src, uint32_t epoll_events);
/* `src` may be freed right afterwards, even while a batch of events is being handed out. */
void loop_unwatch(struct loop *loop, int fd, struct loop_source *src);
/* Between STREAM_IN, STREAM_OUT and what epoll calls them. */
static inline uint32_t to_epoll(unsigned wanted)
{
	return ((wanted & STREAM_IN) != 0 ? EPOLLIN : 0) |
	       ((wanted & STREAM_OUT) != 0 ? EPOLLOUT : 0);
}
static inline unsigned of_epoll(uint32_t epoll_events)
{
	return ((epoll_events & EPOLLIN) != 0 ? STREAM_IN : 0) |
	       ((epoll_events & EPOLLOUT) != 0 ? STREAM_OUT : 0);
}
uint64_t monotonic_ns(void);

/* ---- Timers (timer.c) ------------------------------------------------------------------------ */

/* LOOP_NEVER: no timer runs. */
uint64_t timers_next_ns(const struct loop *loop);
/* Those that are due at loop->now_ns. */
void timers_run(struct loop *loop);
void timers_fini(struct loop *loop);

/* ---- Addresses (net.c) ----------------------------------------------------------------------- */

/* ::ffff:10.0.0.5 becomes 10.0.0.5. */
void net_addr_unmap(union net_addr *a);

/* ---- Interfaces (link.c) --------------------------------------------------------------------- */

struct ifreq;
/* SIOCGIF... by any socket. 0 or -errno: -ENODEV. */
int interface_ask(int fd, const char *name, unsigned long what, struct ifreq *r);

/* ---- Signals (signal.c) ---------------------------------------------------------------------- */

void signals_destroy(struct loop_signals *signals);

/* ---- Worker threads (work.c) ----------------------------------------------------------------- */

#define WORK_IDLE_NS (10 * NS_PER_S)
#define WORK_THREADS 64

/* `idle_ns`: what a thread outlives its last piece of work by. */
int work_pool_create(struct work_pool **out, uint64_t idle_ns);
/* Work that has begun is finished, what still waits is dropped; then all threads have ended. */
void work_pool_destroy(struct work_pool *pool);
unsigned work_pool_nthreads(struct work_pool *pool);
/* Starts a thread that no signal is delivered to. */
int thread_start(pthread_t *out, const pthread_attr_t *attr, void *(*run)(void *), void *arg);

/* ---- The ring (uring.c) ---------------------------------------------------------------------- */

/* Whether the kernel lets us have rings of the kind that uring.c makes. */
bool uring_probe(void);

/* One transfer. `done` runs on the loop with the byte count or -errno of the one system call that
 * it stands for; a short count is the caller's business. */
struct uring_rw {
	int fd;
	bool write;
	const struct iovec *iov;
	unsigned niov;
	uint64_t off;
	void (*done)(void *owner, struct io *io, int res);
	void *owner;
	struct io *io;
};

/* On `loop`: queues it; it is submitted at the end of the turn. false: there is no ring, or it is
 * full: use a worker. The iovecs stay valid until `done`. */
bool uring_submit_rw(struct loop *loop, const struct uring_rw *rw);
/* The thread that made the ring ends: unless something is in flight, the next one makes its own. */
void uring_leave(struct loop *loop);
void uring_destroy(struct uring *u);

#endif
