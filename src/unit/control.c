/*
 * The steward: one loop that runs the unit's control operations.
 *
 *   op->loop                     steward                          every channel
 *
 *   submit ----------> WAITING (PUBLISH, QUIESCE, JOIN: one after another)
 *                        |  QUIESCE              ---- CLOSE --->  gate shut
 *                      CLOSING  <--------------- DRAINED ------   nothing in the store
 *                        |  \ deadline, cancel: err
 *                      ACTING  \    `act`, unit_op_acted()
 *                        |      |  PUBLISH comes in here: `edit`
 *                      KEEPING  |  `keep`, on a worker thread (where there is one)
 *                        |      |  a PUBLISH that failed is FINISHED
 *                      OPENING <'                ---- OPEN ---->  new view (on an error the old
 *                        |  <------------------- OPENED -------   one), told, gate open
 *   done <------------ FINISHED
 *                        |
 *   submit (ABORT) --> ABORTING                  ---- part ---->  victims marked and cancelled
 *                        |  <------------------- part ---------   the last of them has ended
 *   done <------------ FINISHED
 *
 * `op` belongs to the steward from its arrival there until FINISHED is posted, and to op->loop
 * otherwise. A cancel is a second message, which always comes back, and `done` waits for it: so an
 * owner may free an operation in `done`. The same goes for an ABORT's parts and their recalls.
 *
 * While a worker keeps the next view, the steward goes on with everything but the queue: the
 * operation is still the current one, and nothing ends it before the worker has answered, for what
 * it does may be durable already.
 */
#include "unit/impl.h"

#include <errno.h>
#include <stdlib.h>

enum op_kind { OP_JOIN, OP_PUBLISH, OP_QUIESCE, OP_ABORT };

enum op_state {
	OP_WAITING,
	OP_CLOSING,
	OP_ACTING,
	OP_KEEPING,
	OP_OPENING,
	OP_ABORTING,
	OP_FINISHED,
};

/* ---- Back on op->loop ---- */

static void op_came_back(struct unit_op *op)
{
	if (--op->at_large != 0)
		return;
	free(op->parts);
	op->parts = NULL;
	free(op->spare);
	op->spare = NULL;
	if (op->task != NULL)
		op->task->op = NULL;
	op->done(op, op->err);
}

static void op_returned(struct loop_msg *msg)
{
	op_came_back(container_of(msg, struct unit_op, msg));
}

static void cancel_returned(struct loop_msg *msg)
{
	op_came_back(container_of(msg, struct unit_op, cancel_msg));
}

/* ---- The steward's queue ---- */

/* Leaves the op to its loop: it is not touched any more. */
static void op_finish(struct unit *u, struct unit_op *op, int err)
{
	op->state = OP_FINISHED;
	op->err = err;
	if (u->current == op)
		u->current = NULL;
	if (op->kind == OP_JOIN)
		return;
	op->msg.run = op_returned;
	loop_post(op->loop, &op->msg);
}

static void post_to_channel(struct channel *c, struct loop_msg *msg,
			    void (*run)(struct loop_msg *msg))
{
	msg->run = run;
	loop_post(c->loop, msg);
}

static void opened_arrived(struct loop_msg *msg);

static void open_arrived(struct loop_msg *msg)
{
	struct channel *c = container_of(msg, struct channel, open);

	channel_open(c);
	c->opened.run = opened_arrived;
	loop_post(c->unit->steward, &c->opened);
}

static void close_arrived(struct loop_msg *msg)
{
	channel_close(container_of(msg, struct channel, close));
}

/* Every channel has taken over the offered view: the one before it is nobody's. */
static void op_opened(struct unit *u, struct unit_op *op)
{
	if (op->next != NULL) {
		free(u->view);
		u->view = op->next;
		op->next = NULL;
	}
	op_finish(u, op, op->err);
}

static void op_open(struct unit *u, struct unit_op *op)
{
	op->state = OP_OPENING;
	op->waiting = 0;
	u->offer.view = op->next != NULL ? op->next : u->view;
	u->offer.changes = op->next != NULL ? op->changes : 0;
	u->offer.origin = op->nexus_id;
	for (unsigned i = 0; i < u->nloops; i++) {
		struct channel *c = &u->channels[i];

		if (!c->joined)
			continue;
		op->waiting++;
		post_to_channel(c, &c->open, open_arrived);
	}
	if (op->waiting == 0)
		op_opened(u, op);
}

/* The next view, from the newest. */
static int op_edit(struct unit *u, struct unit_op *op)
{
	struct unit_view *next = op->spare != NULL ? op->spare : unit_view_create();
	int err = 0;

	op->spare = NULL;
	if (next == NULL)
		return -ENOMEM;
	*next = *u->view;
	if (op->edit != NULL)
		err = op->edit(op, next);
	if (err < 0) {
		free(next);
		return err;
	}
	next->generation = u->view->generation + 1;
	op->next = next;
	return 0;
}

/* The next view is there to be seen, or op->err says why not. What closed nothing opens nothing. */
static void op_edited(struct unit *u, struct unit_op *op)
{
	if (op->err != 0 && op->kind == OP_PUBLISH)
		op_finish(u, op, op->err);
	else
		op_open(u, op);
}

static void keep_run(struct work *w)
{
	struct unit *u = container_of(w, struct unit, keeping);

	u->kept = u->current->keep(u->current, u->current->next);
}

static void run_queue(struct unit *u);

static void keep_done(struct work *w)
{
	struct unit *u = container_of(w, struct unit, keeping);
	struct unit_op *op = u->current;

	if (u->kept < 0) {
		op->err = u->kept;
		free(op->next);
		op->next = NULL;
	}
	op_edited(u, op);
	run_queue(u);
}

static void op_change(struct unit *u, struct unit_op *op)
{
	op->err = op_edit(u, op);
	if (op->err != 0 || op->keep == NULL) {
		op_edited(u, op);
		return;
	}
	op->state = OP_KEEPING;
	u->keeping.run = keep_run;
	u->keeping.done = keep_done;
	u->keeping.loop = u->steward;
	work_submit(u->lane, &u->keeping);
}

static void quiesce_drained(struct unit *u, struct unit_op *op)
{
	op->state = OP_ACTING;
	loop_timer_stop(&op->timer);
	if (op->act != NULL)
		op->act(op);
	else
		unit_op_acted(op, 0);
}

static void quiesce_start(struct unit *u, struct unit_op *op)
{
	if (op->needless != NULL && op->needless(op)) {
		loop_timer_stop(&op->timer);
		op_finish(u, op, 0);
		return;
	}
	op->state = OP_CLOSING;
	for (unsigned i = 0; i < u->nloops; i++) {
		struct channel *c = &u->channels[i];

		if (!c->joined)
			continue;
		op->waiting++;
		post_to_channel(c, &c->close, close_arrived);
	}
	if (op->waiting == 0)
		quiesce_drained(u, op);
}

static void join_start(struct unit *u, struct unit_op *op)
{
	struct channel *c = container_of(op, struct channel, join_op);

	op->state = OP_OPENING;
	op->waiting = 1;
	c->joined = true;
	u->offer.view = u->view;
	u->offer.changes = 0;
	post_to_channel(c, &c->open, open_arrived);
}

static void (*const start[])(struct unit *u, struct unit_op *op) = {
	[OP_JOIN] = join_start,
	[OP_PUBLISH] = op_change,
	[OP_QUIESCE] = quiesce_start,
};

/* The operation whose turn it is, NULL while another runs. */
static struct unit_op *next_op(struct unit *u)
{
	struct list *first = u->current == NULL ? list_pop_front(&u->waiting) : NULL;

	if (first == NULL)
		return NULL;
	u->current = list_entry(first, struct unit_op, link);
	return u->current;
}

/* The end of everything that happens at the steward. What starts may end at once. */
static void run_queue(struct unit *u)
{
	struct unit_op *op;

	if (u->running)
		return;
	u->running = true;
	while ((op = next_op(u)) != NULL)
		start[op->kind](u, op);
	u->running = false;
}

/* ---- What the steward hears of the operation that runs ---- */

static void opened_arrived(struct loop_msg *msg)
{
	struct unit *u = container_of(msg, struct channel, opened)->unit;

	if (--u->current->waiting == 0)
		op_opened(u, u->current);
	run_queue(u);
}

/* One that is late finds its QUIESCE reopening: opened_arrived() of that channel is still to come,
 * so it cannot be taken for the next one's. */
static void drained_arrived(struct loop_msg *msg)
{
	struct unit *u = container_of(msg, struct channel, drained)->unit;
	struct unit_op *op = u->current;

	if (op->state == OP_CLOSING && --op->waiting == 0)
		quiesce_drained(u, op);
	run_queue(u);
}

void channel_drained(struct channel *c)
{
	c->drained.run = drained_arrived;
	loop_post(c->unit->steward, &c->drained);
}

void unit_op_acted(struct unit_op *op, int err)
{
	struct unit *u = op->unit;

	CHECK(u->current == op && op->state == OP_ACTING);
	op->err = err;
	if (err != 0)
		op_open(u, op);
	else
		op_change(u, op);
	run_queue(u);
}

/* Ends early what has not acted yet. */
static void op_give_up(struct unit *u, struct unit_op *op, int err)
{
	if (op->state == OP_WAITING) {
		loop_timer_stop(&op->timer);
		list_remove(&op->link);
		op_finish(u, op, err);
	} else if (op->state == OP_CLOSING) {
		loop_timer_stop(&op->timer);
		op->err = err;
		op_open(u, op);
	}
}

static void deadline_passed(struct loop_timer *timer)
{
	struct unit_op *op = container_of(timer, struct unit_op, timer);
	struct unit *u = op->unit;

	op_give_up(u, op, -ETIMEDOUT);
	run_queue(u);
}

static int start_deadline(struct unit *u, struct unit_op *op)
{
	uint64_t passed_ns = loop_now_ns(u->steward) - op->submitted_ns;

	loop_timer_init(&op->timer, u->steward, deadline_passed);
	if (op->kind != OP_QUIESCE || op->timeout_ns == 0)
		return 0;
	/* The clocks of two loops are not read at the same moment. */
	if ((int64_t)passed_ns < 0)
		passed_ns = 0;
	return loop_timer_start(&op->timer, op->timeout_ns - min_u64(passed_ns, op->timeout_ns));
}

static void op_arrived(struct loop_msg *msg)
{
	struct unit_op *op = container_of(msg, struct unit_op, msg);
	struct unit *u = op->unit;
	int err = start_deadline(u, op);

	if (err != 0) {
		op_finish(u, op, err);
		return;
	}
	list_push_back(&u->waiting, &op->link);
	run_queue(u);
}

/* ---- ABORT ---- */

static void part_returned(struct unit_op *op)
{
	if (--op->waiting == 0)
		op_finish(op->unit, op, op->err);
}

static void part_is_through(struct loop_msg *msg)
{
	part_returned(container_of(msg, struct unit_part, msg)->op);
}

static void recall_is_through(struct loop_msg *msg)
{
	part_returned(container_of(msg, struct unit_part, recall)->op);
}

/* After this the part is the steward's. */
static void part_acknowledge(struct unit_part *part)
{
	list_remove(&part->link);
	part->msg.run = part_is_through;
	loop_post(part->channel->unit->steward, &part->msg);
}

static bool is_victim(const struct unit_part *part, const struct unit_task *t)
{
	return t->serial <= part->serial && part->op->matches(part->op, t);
}

static void part_victim_gone(struct unit_part *part)
{
	if (--part->victims == 0)
		part_acknowledge(part);
}

void channel_victim_gone(struct channel *c, const struct unit_task *t)
{
	list_for_each_safe (pos, &c->aborts) {
		struct unit_part *part = list_entry(pos, struct unit_part, link);

		if (is_victim(part, t))
			part_victim_gone(part);
	}
}

/* Marks and counts before anything is cancelled, for a cancel may end its task, and others. */
static void mark_victims(struct channel *c, struct unit_part *part, struct list *todo)
{
	list_for_each_safe (pos, &c->tasks) {
		struct unit_task *t = list_entry(pos, struct unit_task, link);

		if (!is_victim(part, t))
			continue;
		part->victims++;
		if (t->aborted)
			continue;
		t->aborted = true;
		t->aborted_by = part->op->nexus_id;
		list_remove(&t->link);
		list_push_back(todo, &t->link);
	}
}

static void cancel_victims(struct channel *c, struct list *todo)
{
	struct list *pos;

	while ((pos = list_pop_front(todo)) != NULL) {
		struct unit_task *t = list_entry(pos, struct unit_task, link);

		list_push_back(&c->tasks, pos);
		stats_busy(c);
		if (t->op != NULL)
			unit_op_cancel(t->op);
		t->cancel(t);
	}
	channel_sweep(c);
}

static void part_arrived(struct loop_msg *msg)
{
	struct unit_part *part = container_of(msg, struct unit_part, msg);
	struct channel *c = part->channel;
	struct list todo;

	list_init(&todo);
	list_push_back(&c->aborts, &part->link);
	part->serial = c->last_serial;
	part->victims = 1; /* ours, while this function needs the part */
	mark_victims(c, part, &todo);
	cancel_victims(c, &todo);
	part_victim_gone(part);
}

static void recall_arrived(struct loop_msg *msg)
{
	struct unit_part *part = container_of(msg, struct unit_part, recall);
	struct unit *u = part->channel->unit;

	if (list_linked(&part->link))
		part_acknowledge(part);
	part->recall.run = recall_is_through;
	loop_post(u->steward, &part->recall);
}

/* A loop that has not joined has no tasks; what it will have came later. */
static void abort_arrived(struct loop_msg *msg)
{
	struct unit_op *op = container_of(msg, struct unit_op, msg);
	struct unit *u = op->unit;

	op->state = OP_ABORTING;
	for (unsigned i = 0; i < u->nloops; i++) {
		struct unit_part *part = &op->parts[i];

		part->op = op;
		part->channel = u->channels[i].joined ? &u->channels[i] : NULL;
		if (part->channel == NULL)
			continue;
		op->waiting++;
		post_to_channel(part->channel, &part->msg, part_arrived);
	}
	if (op->waiting == 0)
		op_finish(u, op, 0);
}

static void abort_recall(struct unit_op *op)
{
	op->err = -ECANCELED;
	for (unsigned i = 0; i < op->unit->nloops; i++) {
		struct unit_part *part = &op->parts[i];

		if (part->channel == NULL)
			continue;
		op->waiting++;
		post_to_channel(part->channel, &part->recall, recall_arrived);
	}
}

/* ---- Submitting ---- */

static void cancel_arrived(struct loop_msg *msg)
{
	struct unit_op *op = container_of(msg, struct unit_op, cancel_msg);
	struct unit *u = op->unit;

	if (op->state == OP_ABORTING)
		abort_recall(op);
	else
		op_give_up(u, op, -ECANCELED);
	op->cancel_msg.run = cancel_returned;
	loop_post(op->loop, &op->cancel_msg);
	run_queue(u);
}

/* It arrives behind the operation itself. */
void unit_op_cancel(struct unit_op *op)
{
	if (op->cancelling)
		return;
	op->cancelling = true;
	op->at_large++;
	op->cancel_msg.run = cancel_arrived;
	loop_post(op->unit->steward, &op->cancel_msg);
}

static void op_prepare(struct unit_op *op, enum op_kind kind)
{
	op->kind = kind;
	op->state = OP_WAITING;
	op->waiting = 0;
	op->err = 0;
	op->next = NULL;
	op->submitted_ns = loop_now_ns(op->loop);
	op->at_large = 1;
	op->cancelling = false;
	list_init(&op->link);
	if (op->task != NULL)
		op->task->op = op;
}

static void op_send(struct unit_op *op, void (*arrived)(struct loop_msg *msg))
{
	op->msg.run = arrived;
	loop_post(op->unit->steward, &op->msg);
}

void unit_publish(struct unit_op *op)
{
	op_prepare(op, OP_PUBLISH);
	op_send(op, op_arrived);
}

void unit_quiesce(struct unit_op *op)
{
	op_prepare(op, OP_QUIESCE);
	op_send(op, op_arrived);
}

struct unit_part *unit_parts_create(const struct unit *u)
{
	return calloc(u->nloops, sizeof(struct unit_part));
}

void unit_abort(struct unit_op *op)
{
	op_prepare(op, OP_ABORT);
	if (op->parts == NULL)
		op->parts = unit_parts_create(op->unit);
	if (op->parts != NULL) {
		op_send(op, abort_arrived);
		return;
	}
	op->state = OP_FINISHED;
	op->err = -ENOMEM;
	op->msg.run = op_returned;
	loop_defer(op->loop, &op->msg);
}

void channel_join(struct channel *c)
{
	c->join_op = (struct unit_op){.unit = c->unit, .loop = c->loop};
	op_prepare(&c->join_op, OP_JOIN);
	op_send(&c->join_op, op_arrived);
}
