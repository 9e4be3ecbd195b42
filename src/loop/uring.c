/*
 * One io_uring a loop, for reads of files that are not cached and for O_DIRECT. Apart because it is
 * the only file that knows liburing: where the kernel refuses rings, workers do what it does.
 *
 * The ring is made at first use, on the loop's own thread, since only its maker may submit
 * (SINGLE_ISSUER, DEFER_TASKRUN). What a turn queues is submitted by one system call at its end.
 * Completions are looked for right after that, and when the ring's eventfd says so. (Not when epoll
 * finds the ring itself readable: with DEFER_TASKRUN that wakes no loop that sleeps, seen on 6.18.)
 */
#include "loop/engine.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RING_ENTRIES 256
/* In flight at most: as many as the completion queue holds (twice the entries). */
#define RING_SLOTS    512
#define RING_FEATURES (IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE)

struct slot {
	void (*done)(void *owner, struct io *io, int res);
	void *owner;
	struct io *io;
	unsigned next_free;
};

struct uring {
	struct io_uring ring;
	bool refused; /* there is none, and there will not be */
	struct loop *loop;
	int event_fd; /* edge-triggered: nobody has to read it */
	struct loop_source source;
	struct loop_msg at_end;
	bool armed; /* at_end is queued */
	unsigned nfree, first_free;
	struct slot slots[RING_SLOTS];
};

static const unsigned flavours[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_CLAMP,                     /* 6.1 */
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CLAMP, /* 5.19 */
	IORING_SETUP_CLAMP,
};

static int ring_init(struct io_uring *ring, unsigned entries)
{
	int err = -ENOSYS;

	for (size_t i = 0; i < ARRAY_LEN(flavours); i++) {
		err = io_uring_queue_init(entries, ring, flavours[i]);
		if (err != -EINVAL)
			break;
	}
	if (err == 0 && (ring->features & RING_FEATURES) != RING_FEATURES) {
		io_uring_queue_exit(ring);
		err = -ENOSYS;
	}
	return err;
}

bool uring_probe(void)
{
	struct io_uring ring;

	if (ring_init(&ring, 8) != 0)
		return false;
	io_uring_queue_exit(&ring);
	return true;
}

static void complete(struct uring *u, unsigned index, int res)
{
	struct slot slot = u->slots[index];

	u->slots[index].next_free = u->first_free;
	u->first_free = index;
	u->nfree++;
	slot.done(slot.owner, slot.io, res);
}

/* A call into the kernel looks after so many requests (20 on 6.18), and says if it left some. */
#define RING_PORTION 16

/* It may say so and have none: what it says is set apart from what it has, and stays when the one is
 * taken before the other is said. */
static bool kernel_has_more(const struct uring *u)
{
	return u->nfree < RING_SLOTS &&
	       (IO_URING_READ_ONCE(*u->ring.sq.kflags) & IORING_SQ_TASKRUN) != 0;
}

/* Asks as often as would do for all that is in flight, for not each request that is looked after ends. */
static bool next_completion(struct uring *u, struct io_uring_cqe **cqe)
{
	unsigned asked = 0;

	while (io_uring_cq_ready(&u->ring) == 0) {
		if (!kernel_has_more(u) || asked++ == RING_SLOTS / RING_PORTION ||
		    io_uring_get_events(&u->ring) < 0)
			return false;
	}
	return io_uring_peek_cqe(&u->ring, cqe) == 0;
}

static void reap(struct uring *u)
{
	struct io_uring_cqe *cqe;

	u->loop->now_ns = monotonic_ns();
	while (next_completion(u, &cqe)) {
		unsigned index = (unsigned)cqe->user_data;
		int res = cqe->res;

		/* Given back before the slot is: the queue never overflows. */
		io_uring_cqe_seen(&u->ring, cqe);
		complete(u, index, res);
	}
}

static void ring_ready(struct loop_source *src, uint32_t epoll_events)
{
	struct uring *u = container_of(src, struct uring, source);

	reap(u);
}

static void arm(struct uring *u)
{
	if (!u->armed) {
		u->armed = true;
		loop_at_end(u->loop, &u->at_end);
	}
}

static void submit_at_end(struct loop_msg *msg)
{
	struct uring *u = container_of(msg, struct uring, at_end);

	u->armed = false;
	io_uring_submit_and_get_events(&u->ring);
	reap(u);
	if (io_uring_sq_ready(&u->ring) > 0)
		arm(u); /* the kernel was short of something: again */
}

static void slots_init(struct uring *u)
{
	for (unsigned i = 0; i < RING_SLOTS; i++)
		u->slots[i].next_free = i + 1;
	u->nfree = RING_SLOTS;
}

static int watch(struct uring *u)
{
	int err;

	u->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->event_fd < 0)
		return -errno;
	err = io_uring_register_eventfd(&u->ring, u->event_fd);
	if (err == 0)
		err = loop_watch(u->loop, u->event_fd, &u->source, EPOLLIN | EPOLLET);
	if (err != 0)
		close(u->event_fd);
	return err;
}

static int uring_init(struct uring *u, struct loop *loop)
{
	int err = ring_init(&u->ring, RING_ENTRIES);

	if (err != 0)
		return err;
	io_uring_ring_dontfork(&u->ring);
	io_uring_register_ring_fd(&u->ring); /* cheaper calls; does not matter if refused */
	u->loop = loop;
	u->source.ready = ring_ready;
	u->at_end.run = submit_at_end;
	slots_init(u);
	err = watch(u);
	if (err != 0)
		io_uring_queue_exit(&u->ring);
	return err;
}

/* NULL: none for this loop. */
static struct uring *uring_of(struct loop *loop)
{
	struct uring *u = loop->uring;

	if (u != NULL)
		return u->refused ? NULL : u;
	if (!loop->set->use_uring)
		return NULL;
	u = calloc(1, sizeof(*u));
	if (u == NULL)
		return NULL;
	loop->uring = u;
	u->refused = uring_init(u, loop) != 0;
	return u->refused ? NULL : u;
}

static void prepare(struct io_uring_sqe *sqe, const struct uring_rw *rw)
{
	if (rw->write)
		io_uring_prep_writev(sqe, rw->fd, rw->iov, rw->niov, rw->off);
	else
		io_uring_prep_readv(sqe, rw->fd, rw->iov, rw->niov, rw->off);
}

bool uring_submit_rw(struct loop *loop, const struct uring_rw *rw)
{
	struct uring *u = uring_of(loop);
	struct io_uring_sqe *sqe;
	unsigned index;

	if (u == NULL || u->nfree == 0)
		return false;
	sqe = io_uring_get_sqe(&u->ring);
	if (sqe == NULL) {
		io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	if (sqe == NULL)
		return false;
	index = u->first_free;
	u->first_free = u->slots[index].next_free;
	u->nfree--;
	u->slots[index] = (struct slot){.done = rw->done, .owner = rw->owner, .io = rw->io};
	prepare(sqe, rw);
	sqe->user_data = index;
	arm(u);
	return true;
}

void uring_leave(struct loop *loop)
{
	struct uring *u = loop->uring;

	if (u == NULL || (!u->refused && (u->armed || u->nfree < RING_SLOTS)))
		return;
	uring_destroy(u);
	loop->uring = NULL;
}

void uring_destroy(struct uring *u)
{
	if (u == NULL)
		return;
	if (!u->refused) {
		loop_unwatch(u->loop, u->event_fd, &u->source);
		io_uring_queue_exit(&u->ring);
		close(u->event_fd);
	}
	free(u);
}
