/*
 * Lanes: what a store has on each loop. A pool of child io for the emulations, and for a HOME_LOOP
 * store the way to its home loop and back, so that such a back end needs no locks.
 *
 *   submitter's loop                         home loop
 *   lane_submit: child -> lane->out
 *   end of the turn: ONE message  ---------> each child runs in the back end
 *                                            ended -> lane->back
 *   each parent ends  <--------------------- end of the turn: ONE message a loop
 *
 * A batch travels as its first child: that carries the message and the queue of the others. So
 * there are as many messages as there are batches on their way, and nothing has to be waited for.
 */
#include "store/core.h"

#include <errno.h>
#include <stdlib.h>

#define CACHE_LINE 64

struct store_lane {
	/* On `loop` only. */
	struct store *store;
	struct loop *loop;
	struct qnode *free_children;
	struct queue out;
	struct loop_msg out_end; /* at the end of the turn: sends `out` */
	/* On store->home only; on a cache line of their own. */
	struct queue back __attribute__((aligned(CACHE_LINE)));
	struct loop_msg back_end;
} __attribute__((aligned(CACHE_LINE)));

/* ---- Children -------------------------------------------------------------------------------- */

struct store_child *store_child_get(struct store *s, struct io *parent)
{
	struct store_lane *lane = &s->lanes[loop_index(parent->loop)];
	struct store_child *c;

	if (lane->free_children != NULL) {
		c = container_of(lane->free_children, struct store_child, link);
		lane->free_children = c->link.next;
	} else {
		c = malloc(sizeof(*c));
		if (c == NULL)
			return NULL;
	}
	c->io = (struct io){
		.op = parent->op,
		.flags = parent->flags,
		.off = parent->off,
		.len = parent->len,
		.iov = parent->iov,
		.niov = parent->niov,
		.loop = parent->loop,
	};
	c->parent = parent;
	c->store = s;
	c->lane = lane;
	return c;
}

void store_child_end(struct store_child *c, int err)
{
	struct io *parent = c->parent;

	c->link.next = c->lane->free_children;
	c->lane->free_children = &c->link;
	io_end(parent, err);
}

/* ---- There and back -------------------------------------------------------------------------- */

/* Sends the children of `q` to `to` as one message. */
static void send_batch(struct queue *q, struct loop *to, void (*run)(struct loop_msg *msg))
{
	struct store_child *first = container_of(queue_pop(q), struct store_child, link);

	queue_init(&first->batch);
	queue_splice(&first->batch, q);
	first->msg.run = run;
	loop_post(to, &first->msg);
}

/* Takes the children of a message into `q`, in order. */
static void open_batch(struct queue *q, struct loop_msg *msg)
{
	struct store_child *first = container_of(msg, struct store_child, msg);

	queue_init(q);
	queue_push(q, &first->link);
	queue_splice(q, &first->batch);
}

static void came_back(struct loop_msg *msg)
{
	struct queue q;
	struct qnode *n;

	open_batch(&q, msg);
	while ((n = queue_pop(&q)) != NULL) {
		struct store_child *c = container_of(n, struct store_child, link);

		c->parent->extent = c->io.extent;
		store_child_end(c, c->result);
	}
}

static void send_back(struct loop_msg *msg)
{
	struct store_lane *lane = container_of(msg, struct store_lane, back_end);

	send_batch(&lane->back, lane->loop, came_back);
}

static void ended_at_home(struct io *io, int err)
{
	struct store_child *c = container_of(io, struct store_child, io);
	struct store_lane *lane = c->lane;

	c->result = err;
	if (queue_empty(&lane->back))
		loop_at_end(c->store->home, &lane->back_end);
	queue_push(&lane->back, &c->link);
}

static void run_local(struct store *s, struct io *io)
{
	s->local.run[io->flags & IO_FUA][io->op](s, io);
}

static void came_home(struct loop_msg *msg)
{
	struct queue q;
	struct qnode *n;

	open_batch(&q, msg);
	while ((n = queue_pop(&q)) != NULL) {
		struct store_child *c = container_of(n, struct store_child, link);

		run_local(c->store, &c->io);
	}
}

static void send_out(struct loop_msg *msg)
{
	struct store_lane *lane = container_of(msg, struct store_lane, out_end);

	send_batch(&lane->out, lane->store->home, came_home);
}

void lane_submit(struct store *s, struct io *io)
{
	struct store_child *c;
	struct store_lane *lane;

	if (io->loop == s->home) {
		run_local(s, io);
		return;
	}
	c = store_child_get(s, io);
	if (c == NULL) {
		io_end(io, -ENOMEM);
		return;
	}
	c->io.loop = s->home;
	c->io.ended = ended_at_home;
	lane = c->lane;
	if (queue_empty(&lane->out))
		loop_at_end(lane->loop, &lane->out_end);
	queue_push(&lane->out, &c->link);
}

/* ---- Life ------------------------------------------------------------------------------------ */

int lanes_create(struct store *s)
{
	unsigned nloops = loop_set_count(s->set);

	s->lanes = aligned_alloc(CACHE_LINE, nloops * sizeof(*s->lanes));
	if (s->lanes == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < nloops; i++) {
		struct store_lane *lane = &s->lanes[i];

		*lane = (struct store_lane){.store = s, .loop = loop_set_at(s->set, i)};
		queue_init(&lane->out);
		queue_init(&lane->back);
		lane->out_end.run = send_out;
		lane->back_end.run = send_back;
	}
	return 0;
}

void lanes_destroy(struct store *s)
{
	for (unsigned i = 0; s->lanes != NULL && i < loop_set_count(s->set); i++) {
		struct qnode *next;

		for (struct qnode *n = s->lanes[i].free_children; n != NULL; n = next) {
			next = n->next;
			free(container_of(n, struct store_child, link));
		}
	}
	free(s->lanes);
	s->lanes = NULL;
}
