/*
 * Channels and control operations under seeded message orders: the promises of unit/unit.h.
 *
 * Three simulated loops, some nexuses on them, and a store that notes what reaches it, delays and
 * hangs. Every nexus does random things: tasks of one to three I/Os, atomic updates that arm the
 * range locks where they must, PUBLISH, ABORT, QUIESCE, detaching and attaching again; and some
 * wait for the moment when the locks are about to be disarmed. A model that knows only what was
 * submitted, kept and answered judges each event:
 *
 *   at the store      the I/O's task was not aborted; some view that is not older than the newest
 *                     that was answered lets it through, and has it written through or not; no
 *                     QUIESCE acts; no atomic update of another overlaps. In two runs of three the
 *                     store has a home loop: there I/O is judged by what was answered when it was
 *                     submitted, for it is in the store's hands while it travels
 *   a PUBLISH's end   every attachment was told, every loop has the view
 *   a view            was kept before anybody sees it, and nobody sees one that was not
 *   an ABORT's end    none of its victims is left; it waited for nothing but them
 *   a QUIESCE's end   in time
 *   an update         comes to its end, though locks be disarmed under its hands
 *   the end           everything that was submitted came back, all is counted, the locks disarmed
 *
 * SPINDLE_SIM_ORDERS=N   how many orders to try (100000; with SPINDLE_SOAK a million)
 * SPINDLE_SIM_SEED=N     tries one order: the way to look at a failure
 */
#include "unit_world.h"

#define ACTIONS    10 /* of each nexus */
#define ROUNDS_MAX 3  /* of an update: armed, but not for long enough */

/* ---- Tasks ---- */

static void task_go_on(struct task *t);

static void task_end(struct task *t)
{
	struct nexus *n = t->nexus;

	if (t->locked)
		range_unlock(&t->lock);
	loop_timer_stop(&t->wait);
	list_remove(&t->link);
	unit_task_end(&t->ut);
	n->ntasks--;
	free(t);
}

static bool task_is_idle(const struct task *t)
{
	return t->busy == 0 && t->op == NULL && !t->locking && !loop_timer_running(&t->wait);
}

static void io_settled(struct test_io *tio)
{
	PROMISE(tio->busy, "an I/O came back twice");
	tio->busy = false;
	tio->task->busy--;
}

/* Zeros that were promised are durable where a write would be. */
static void check_discard(const struct test_io *tio)
{
	bool wanted = false;

	for (uint64_t g = tio->floor; g <= tio->ceiling; g++)
		wanted |= w.discard_zeroes && is_through(&w.views[g]) == tio->flushed;
	PROMISE(wanted || !(w.discard_zeroes || tio->flushed), "a discard was %sflushed",
		tio->flushed ? "" : "not ");
}

static void check_result(const struct test_io *tio)
{
	int err = tio->uio.io.result;

	if (tio->reached) {
		PROMISE(err == 0 || err == STORE_ERROR ||
				(err == -ECANCELED && tio->op == IO_DISCARD &&
				 tio->task->ut.aborted),
			"the store's result became %d", err);
		if (err == 0 && tio->op == IO_DISCARD)
			check_discard(tio);
		return;
	}
	tally.refused++;
	tally.stale += err == -ESTALE;
	tally.conflict += err == -EACCES;
	tally.cancelled_io += err == -ECANCELED;
	if (err == -ECANCELED)
		PROMISE(tio->task->ut.aborted, "an I/O was cancelled though its task was not");
	else
		PROMISE(err != 0 && some_view_says(tio, tio->floor, err),
			"an I/O was refused with %d, which no view says", err);
}

static void io_done(struct unit_io *uio)
{
	struct test_io *tio = container_of(uio, struct test_io, uio);
	struct task *t = tio->task;

	PROMISE(loop_self() == t->nexus->loop, "done on another loop");
	check_result(tio);
	io_settled(tio);
	PROMISE(uio->io.op == tio->op, "an I/O became another");
	if (uio->io.result == -ESTALE && t->kind == TASK_IO)
		t->next = (unsigned)(tio - t->ios); /* again, from the checks on */
	task_go_on(t);
}

static void io_submit(struct test_io *tio)
{
	struct task *t = tio->task;

	tio->uio.task = &t->ut;
	tio->uio.done = io_done;
	tio->uio.generation = t->checks ? channel_view(t->ut.channel)->generation : 0;
	if (t->kind == TASK_UPDATE)
		tio->uio.generation = tio == t->ios ? t->looked : 0;
	tio->uio.io.flags = (tio->internal ? UNIT_IO_INTERNAL : 0u) |
			    (t->kind == TASK_UPDATE ? UNIT_IO_LOCKED : 0u);
	tio->uio.io.iov = &tio->iov;
	tio->uio.io.niov = 1;
	tio->busy = true;
	tio->reached = tio->flushed = false;
	tio->floor = w.answered;
	t->busy++;
	unit_submit(&tio->uio);
	PROMISE(tio->busy, "done on the submitter's stack");
}

static void io_choose(struct test_io *tio, struct task *t)
{
	static uint8_t data[4 * 64 * 1024];
	static const enum io_op ops[] = {IO_WRITE, IO_WRITE, IO_WRITE,  IO_READ,
					 IO_READ,  IO_FLUSH, IO_DISCARD};
	struct io *io = &tio->uio.io;

	tio->task = t;
	tio->internal = chance(10) == 0;
	tio->op = io->op = ops[chance(ARRAY_LEN(ops))];
	io->off = chance(28) * 32 * 1024;
	io->len = (1 + chance(4)) * 32 * 1024;
	tio->iov = (struct iovec){.iov_base = data, .iov_len = io->len};
}

/* ---- Atomic updates, as unit.h wants them ---- */

static void arm(struct task *t);

static bool sees_armed(const struct nexus *n)
{
	return (channel_view(n->attach->ua.channel)->flags & UNIT_LOCKS_ARMED) != 0;
}

static void update_granted(struct range_lock *lock)
{
	struct task *t = container_of(lock, struct task, lock);

	t->locking = false;
	t->locked = true;
	task_go_on(t);
}

static void update_lock(struct task *t)
{
	PROMISE(++t->rounds <= ROUNDS_MAX, "locks are disarmed over and over under an update");
	t->lock = (struct range_lock){.off = t->ios[0].uio.io.off,
				      .len = t->ios[0].uio.io.len,
				      .exclusive = true,
				      .loop = t->nexus->loop,
				      .granted = update_granted};
	t->next = 0;
	t->locking = true;
	if (range_lock(unit_bdev(w.unit), &t->lock))
		update_granted(&t->lock);
	else
		tally.lock_waits++;
}

/* true: the locks are armed, as seen with the lock in hand. */
static bool update_looks(struct task *t)
{
	const struct unit_view *v = channel_view(t->ut.channel);

	t->looked = v->generation;
	t->next = 1;
	if (sees_armed(t->nexus))
		return true;
	tally.anew++;
	range_unlock(&t->lock);
	t->locked = false;
	arm(t);
	return false;
}

/* Time passes between a step and the next; sometimes more than locks stay armed for nobody. */
static bool update_pauses(struct task *t)
{
	uint64_t ns = chance(12) * TICK_NS + (chance(64) == 0 ? 2 * ARM_IDLE_NS : 0);

	t->paused = !t->paused && chance(3) == 0;
	if (t->paused)
		CHECK(loop_timer_start(&t->wait, ns) == 0);
	return t->paused;
}

static bool update_is_over(struct task *t)
{
	int err = t->next >= 2 ? t->ios[t->next - 2].uio.io.result : 0;

	if (t->next == 2 && err == -ESTALE && !t->ut.aborted) {
		tally.looked_again++;
		t->next = 0;
		return false;
	}
	tally.updates += t->next == 3 && err == 0;
	return t->ut.aborted || t->failed || err != 0 || t->next == 3;
}

static void update_go_on(struct task *t)
{
	if (!task_is_idle(t))
		return;
	if (update_is_over(t)) {
		task_end(t);
		return;
	}
	if (!t->locked && sees_armed(t->nexus)) {
		update_lock(t);
	} else if (!t->locked) {
		arm(t);
	} else if (t->next != 0 || update_looks(t)) {
		if (!update_pauses(t))
			io_submit(&t->ios[t->next++ - 1]);
	}
}

static void task_go_on(struct task *t)
{
	if (t->kind == TASK_UPDATE) {
		update_go_on(t);
		return;
	}
	while (t->next < t->nios && !t->ios[t->next].busy && (t->parallel || t->busy == 0)) {
		/* A lazy one does not look, and must be stopped all the same. */
		if (t->ut.aborted && !t->lazy)
			break;
		io_submit(&t->ios[t->next++]);
	}
	if (task_is_idle(t))
		task_end(t);
}

static void task_waited(struct loop_timer *timer)
{
	task_go_on(container_of(timer, struct task, wait));
}

static void task_cancel(struct unit_task *ut)
{
	struct task *t = container_of(ut, struct task, ut);

	PROMISE(loop_self() == t->nexus->loop, "cancelled on another loop");
	PROMISE(ut->aborted, "cancelled and not aborted");
	tally.victims++;
	if (t->lazy)
		return;
	loop_timer_stop(&t->wait);
	if (t->locking && range_lock_cancel(&t->lock))
		t->locking = false;
	for (unsigned i = 0; i < t->nios; i++)
		if (t->ios[i].busy && unit_io_cancel(&t->ios[i].uio)) {
			PROMISE(!t->ios[i].reached, "an I/O in the store was called back");
			io_settled(&t->ios[i]);
		}
	if (task_is_idle(t))
		task_end(t);
}

static struct task *task_begin(struct nexus *n, enum task_kind kind)
{
	struct task *t = make(sizeof(*t));

	t->kind = kind;
	t->nexus = n;
	t->tag = ++w.next_tag;
	t->begun = ++w.clock;
	t->ut.nexus_id = n->id;
	t->ut.cancel = task_cancel;
	t->checks = chance(2) == 0;
	t->parallel = chance(2) == 0;
	t->lazy = chance(4) == 0;
	loop_timer_init(&t->wait, n->loop, task_waited);
	list_push_back(&w.tasks, &t->link);
	n->ntasks++;
	unit_task_begin(n->attach->ua.channel, &t->ut);
	return t;
}

static void begin_io(struct nexus *n)
{
	struct task *t = task_begin(n, TASK_IO);

	t->nios = 1 + (unsigned)chance(IOS_MAX);
	for (unsigned i = 0; i < t->nios; i++)
		io_choose(&t->ios[i], t);
	if (chance(3) == 0)
		CHECK(loop_timer_start(&t->wait, chance(20) * TICK_NS) == 0);
	else
		task_go_on(t);
}

static void begin_update(struct nexus *n)
{
	struct task *t = task_begin(n, TASK_UPDATE);

	t->lazy = false;
	t->nios = 2;
	io_choose(&t->ios[0], t);
	t->ios[1] = t->ios[0];
	t->ios[0].op = t->ios[0].uio.io.op = IO_READ;
	t->ios[1].op = t->ios[1].uio.io.op = IO_WRITE;
	update_go_on(t);
}

/* ---- Control operations ---- */

static uint64_t view_add(const struct unit_view *v, unsigned changes, uint64_t origin)
{
	uint64_t g = ++w.newest;

	CHECK(g < VIEWS_MAX);
	w.views[g] = *v;
	w.views[g].generation = g;
	w.changes[g] = changes;
	w.origins[g] = origin;
	return g;
}

/* After each step: the views that the unit makes by itself, which arm and disarm. */
static void look_at_unit(void)
{
	const struct unit_view *v = w.unit->offer.view, *last = &w.views[w.newest];

	if (w.unit->arming.disarming && !w.disarming)
		tally.disarms++;
	w.disarming = w.unit->arming.disarming;
	if (v == NULL || v->generation <= w.newest)
		return;
	PROMISE(v->generation == w.newest + 1 && (v->flags ^ last->flags) == UNIT_LOCKS_ARMED &&
			v->size == last->size && v->holder == last->holder,
		"a view from nowhere");
	PROMISE(w.unit->offer.changes == 0, "arming locks is told");
	if ((v->flags & UNIT_LOCKS_ARMED) != 0)
		tally.armed++;
	else
		tally.disarmed++;
	view_add(v, 0, 0);
}

static int op_edit(struct unit_op *uop, struct unit_view *next)
{
	struct op *op = container_of(uop, struct op, op);

	PROMISE(loop_self() != NULL && next->generation != 0, "edit outside the steward");
	PROMISE(w.keeping == 0, "an operation began while another one is kept");
	if (op->fails)
		return -EINVAL;
	next->holder = op->wanted.holder;
	next->size = op->wanted.size;
	next->flags = op->wanted.flags | (next->flags & UNIT_LOCKS_ARMED);
	op->made = *next;
	if (uop->keep != NULL)
		w.keeping++;
	else
		op->generation = view_add(next, uop->changes, uop->nexus_id);
	return 0;
}

/* Only what was kept may ever be seen. */
static int op_keep(struct unit_op *uop, const struct unit_view *next)
{
	struct op *op = container_of(uop, struct op, op);

	PROMISE(loop_self() == NULL, "a view is kept on a loop");
	PROMISE(w.keeping == 1 && !op->kept && op->generation == 0, "a view is kept twice");
	PROMISE(next->generation == w.newest + 1 && next->flags == op->made.flags &&
			next->holder == op->made.holder,
		"another view is kept");
	w.keeping--;
	if (op->keep_fails) {
		tally.not_kept++;
		return -ENOSPC;
	}
	tally.kept++;
	op->kept = true;
	op->generation = view_add(next, uop->changes, uop->nexus_id);
	return 0;
}

static void act_is_over(struct loop_timer *timer)
{
	struct op *op = container_of(timer, struct op, act_timer);

	PROMISE(list_empty(&w.stored), "I/O in the store while a QUIESCE acts");
	w.acting--;
	unit_op_acted(&op->op, op->fails ? -EIO : 0);
}

static void op_act(struct unit_op *uop)
{
	struct op *op = container_of(uop, struct op, op);

	PROMISE(list_empty(&w.stored), "a QUIESCE acts with I/O in the store");
	PROMISE(uop->timeout_ns == 0 || now() <= op->submitted_ns + uop->timeout_ns + SLACK_NS,
		"a QUIESCE acts past its deadline");
	op->acted = true;
	w.acting++;
	loop_timer_init(&op->act_timer, loop_self(), act_is_over);
	if (chance(2) == 0)
		act_is_over(&op->act_timer);
	else
		CHECK(loop_timer_start(&op->act_timer, chance(8) * TICK_NS) == 0);
}

static bool op_matches(const struct unit_op *uop, const struct unit_task *ut)
{
	const struct op *op = container_of(uop, const struct op, op);
	const struct task *t = container_of(ut, const struct task, ut);

	if (t == op->task)
		return false;
	switch (op->matching) {
	case OF_NEXUS:
		return ut->nexus_id == op->match_nexus;
	case OF_TASK:
		return t->tag == op->match_tag;
	case ALL_BUT_NEXUS:
		return ut->nexus_id != op->match_nexus;
	case ALL:
		break;
	}
	return true;
}

static void check_told(const struct op *op)
{
	uint64_t g = op->generation;

	w.answered = max_u64(w.answered, g);
	for (unsigned i = 0; i < w.nnexuses; i++) {
		const struct nexus *n = &w.nexuses[i];

		if (!n->attached)
			continue;
		PROMISE(channel_view(n->attach->ua.channel)->generation >= g,
			"a loop does not see view %llu that was answered", (unsigned long long)g);
		PROMISE(w.changes[g] == 0 || n->attach->since >= g || n->attach->told[g],
			"a nexus was not told of view %llu", (unsigned long long)g);
	}
}

static void check_aborted(const struct op *op)
{
	list_for_each (pos, &w.tasks) {
		struct task *t = list_entry(pos, struct task, link);

		PROMISE(t->begun > op->submitted || !op_matches(&op->op, &t->ut),
			"an ABORT is done and a victim of it is left");
	}
	PROMISE(now() <= max_u64(op->submitted_ns, op->victims_gone_ns) + SLACK_NS,
		"an ABORT waited for more than its victims");
}

static void check_quiesced(const struct op *op, int err)
{
	uint64_t deadline = op->submitted_ns + op->op.timeout_ns;

	if (err == -ETIMEDOUT)
		PROMISE(op->op.timeout_ns != 0 && !op->acted && now() >= deadline,
			"a QUIESCE was given up before its deadline");
	PROMISE(op->op.timeout_ns == 0 || now() <= deadline + SLACK_NS,
		"a QUIESCE outlasts its deadline");
	PROMISE(err != 0 || op->acted, "a QUIESCE was done without acting");
}

/* For a while at least nobody disarms them. */
static void check_armed(const struct op *op, int err)
{
	PROMISE(op->op.timeout_ns == 0 || now() <= op->submitted_ns + op->op.timeout_ns + SLACK_NS,
		"arming outlasts its deadline");
	if (err != 0)
		return;
	for (unsigned i = 0; i < w.nnexuses; i++)
		PROMISE(!w.nexuses[i].attached || sees_armed(&w.nexuses[i]),
			"a loop does not see locks armed that are");
}

static void check_error(const struct op *op, int err)
{
	tally.cancelled_op += err == -ECANCELED;
	tally.timed_out += err == -ETIMEDOUT;
	if (err == -ECANCELED)
		PROMISE(op->cancelled || op->task->ut.aborted,
			"an operation was cancelled by nobody");
	else if (err != -ETIMEDOUT)
		PROMISE(err == (op->keep_fails && !op->fails ? -ENOSPC : op->failure),
			"an operation failed with %d", err);
	PROMISE(op->generation == 0, "an operation failed and changed the view");
	PROMISE(!op->kept, "an operation failed with %d, and is kept", err);
}

static void check_changed(const struct op *op)
{
	PROMISE(op->kept || op->op.keep == NULL, "an operation is done and was not kept");
	tally.quiesced += op->kind == QUIESCE;
	tally.published += op->kind == PUBLISH;
	check_told(op);
}

static void check_op(const struct op *op, int err)
{
	if (err != 0)
		check_error(op, err);
	if (op->kind == QUIESCE)
		check_quiesced(op, err);
	if (op->kind == ARM) {
		check_armed(op, err);
	} else if (op->kind == ABORT) {
		tally.aborted += err == 0;
		if (err == 0)
			check_aborted(op);
	} else if (err == 0) {
		check_changed(op);
	}
}

static void op_done(struct unit_op *uop, int err)
{
	struct op *op = container_of(uop, struct op, op);
	struct task *t = op->task;

	PROMISE(loop_self() == uop->loop, "an operation done on another loop");
	list_remove(&op->link);
	check_op(op, err);
	w.nops--;
	free(op);
	if (t != NULL) {
		t->op = NULL;
		t->failed = err != 0;
		task_go_on(t);
	}
}

static void choose_view(struct op *op)
{
	static const struct {
		unsigned flag, one_in;
	} flags[] = {
		{UNIT_WRITE_PROTECTED, 10}, {UNIT_SOFT_PROTECTED, 10}, {UNIT_STOPPED, 16},
		{UNIT_MISSING, 16},         {UNIT_REWRITING, 12},      {UNIT_WRITE_THROUGH, 3},
	};
	struct unit_view *v = &op->wanted;

	v->holder = chance(3) == 0 ? w.nexuses[chance(w.nnexuses)].id : 0;
	v->size = chance(4) == 0 ? DISK_BYTES / 2 : DISK_BYTES;
	for (unsigned i = 0; i < ARRAY_LEN(flags); i++)
		v->flags |= chance(flags[i].one_in) == 0 ? flags[i].flag : 0u;
	op->fails = chance(8) == 0;
	op->failure = op->kind == QUIESCE ? -EIO : -EINVAL;
	op->op.changes = chance(4) == 0 ? 0 : UNIT_CHANGED_SIZE;
	op->op.edit = op_edit;
	if (chance(3) == 0) {
		op->op.keep = op_keep;
		op->keep_fails = chance(3) == 0;
	}
}

static void choose_deadline(struct op *op)
{
	static const unsigned ticks[] = {0, 0, 3, 10, 20, 100};

	op->op.timeout_ns = ticks[chance(ARRAY_LEN(ticks))] * TICK_NS;
}

static void choose_victims(struct op *op)
{
	op->matching = (enum matching)chance(4);
	op->match_nexus = w.nexuses[chance(w.nnexuses)].id;
	op->match_tag = 1 + chance(w.next_tag);
	op->op.matches = op_matches;
}

static void submit_op(struct nexus *n, struct op *op)
{
	static void (*const submit[NKINDS])(struct unit_op *) = {[PUBLISH] = unit_publish,
								 [QUIESCE] = unit_quiesce,
								 [ARM] = unit_arm,
								 [ABORT] = unit_abort};

	op->op.unit = w.unit;
	op->op.loop = n->loop;
	op->op.nexus_id = n->id;
	op->op.task = op->task != NULL ? &op->task->ut : NULL;
	op->op.done = op_done;
	op->submitted = ++w.clock;
	op->submitted_ns = now();
	w.nops++;
	list_init(&op->link);
	if (op->kind == ABORT)
		list_push_back(&w.aborts, &op->link);
	submit[op->kind](&op->op);
	if (op->kind != ABORT && chance(16) == 0) {
		op->cancelled = true;
		unit_op_cancel(&op->op);
	}
}

static void begin_control(struct nexus *n)
{
	struct op *op = make(sizeof(*op));
	uint64_t kind = chance(5);

	op->kind = kind < 2 ? PUBLISH : kind < 3 ? QUIESCE : ABORT;
	if (chance(4) != 0) {
		op->task = task_begin(n, TASK_CONTROL);
		op->task->op = op;
	}
	if (op->kind == ABORT)
		choose_victims(op);
	else
		choose_view(op);
	if (op->kind == QUIESCE) {
		choose_deadline(op);
		op->op.act = op_act;
	}
	submit_op(n, op);
}

static void arm(struct task *t)
{
	struct op *op = make(sizeof(*op));

	op->kind = ARM;
	op->task = t;
	t->op = op;
	choose_deadline(op);
	submit_op(t->nexus, op);
}

/* ---- Nexuses ---- */

static void was_attached(struct unit_attach *ua, int err)
{
	struct attach *a = container_of(ua, struct attach, ua);

	PROMISE(err == 0 && loop_self() == ua->loop, "attached in the wrong place");
	PROMISE(channel_view(ua->channel)->generation >= w.answered,
		"a loop joined with an old view");
	a->since = channel_view(ua->channel)->generation;
	a->nexus->attached = true;
}

static void was_told(struct unit_attach *ua, unsigned changes, uint64_t origin)
{
	struct attach *a = container_of(ua, struct attach, ua);
	uint64_t g = channel_view(ua->channel)->generation;

	PROMISE(loop_self() == ua->loop, "told on another loop");
	PROMISE(g <= w.newest, "told of a view before it was kept");
	PROMISE(g > a->since && !a->told[g], "told twice of one view");
	PROMISE(changes == w.changes[g] && origin == w.origins[g], "told of something else");
	a->told[g] = true;
}

static void nexus_attach(struct nexus *n)
{
	struct attach *a = make(sizeof(*a));

	n->id = ++w.next_nexus;
	n->attach = a;
	a->nexus = n;
	a->ua.nexus_id = n->id;
	a->ua.loop = n->loop;
	a->ua.attached = was_attached;
	a->ua.changed = was_told;
	unit_attach(w.unit, &a->ua);
	PROMISE(!n->attached, "attached on the caller's stack");
}

static void nexus_detach(struct nexus *n)
{
	unit_detach(&n->attach->ua);
	free(n->attach);
	n->attach = NULL;
	n->attached = false;
}

static void attached_action(struct nexus *n)
{
	uint64_t what = chance(16);

	if (what == 0 && n->ntasks == 0)
		nexus_detach(n);
	else if (what < 6)
		begin_control(n);
	else if (what < 9)
		begin_update(n);
	else
		begin_io(n);
}

/* Soon, or about when the locks are disarmed if nobody takes one before. */
static uint64_t until_next_action(void)
{
	const struct loop_timer *t = &w.unit->arming.timer;
	uint64_t at = t->due_ns + chance(2) * ARM_IDLE_NS - 8 * TICK_NS;

	if (!loop_timer_running(t) || chance(3) != 0)
		return chance(12) * TICK_NS;
	return max_u64(at, now()) - now() + chance(24) * TICK_NS;
}

static void nexus_acts(struct loop_timer *timer)
{
	struct nexus *n = container_of(timer, struct nexus, act);

	if (n->attach == NULL)
		nexus_attach(n);
	else if (n->attached)
		attached_action(n);
	if (++n->actions < ACTIONS)
		CHECK(loop_timer_start(timer, until_next_action()) == 0);
}

/* ---- A run ---- */

static void world_make(struct loop_set *set, uint64_t seed)
{
	static const struct store_type *const types[] = {&noting, &noting_at_home, &store_fault,
							 NULL};
	static const char *const specs[] = {
		"noting:", "home:", "fault:rule=any;delay=1ms;prob=0.02:noting:"};
	static const struct unit_identity identity = {.serial = "test"};
	struct bdev_config bconfig = {.block_size = 512};
	struct store_config sconfig = {.size = 0};
	struct store *store;
	struct bdev *bdev;

	w = (struct world){.set = set,
			   .seed = seed,
			   .home_loop = seed % 3 != 0,
			   .discard_zeroes = seed % 5 != 0};
	list_init(&w.tasks);
	list_init(&w.stored);
	list_init(&w.aborts);
	CHECK(store_open(&store, set, types, specs[seed % 3], &sconfig, NULL) == 0);
	CHECK(bdev_create(&bdev, store, &bconfig, NULL) == 0);
	CHECK(unit_create(&w.unit, set, bdev, &identity, (unsigned)chance(NLOOPS)) == 0);
	w.newest = w.answered = 1;
	w.views[1] = (struct unit_view){.generation = 1, .size = DISK_BYTES};
	w.nnexuses = 2 + (unsigned)chance(NEXUSES_MAX - 1);
	for (unsigned i = 0; i < w.nnexuses; i++) {
		struct nexus *n = &w.nexuses[i];

		n->loop = loop_set_at(set, (unsigned)chance(NLOOPS));
		loop_timer_init(&n->act, n->loop, nexus_acts);
		CHECK(loop_timer_start(&n->act, chance(16) * TICK_NS) == 0);
	}
}

static void check_counters(void)
{
	struct unit_stats stats;
	uint64_t ops = 0, slow = 0;

	unit_stats_read(w.unit, &stats);
	for (unsigned i = 0; i < IO_NOPS; i++) {
		ops += stats.op[i].ops;
		for (unsigned b = 0; b < UNIT_LATENCY_BUCKETS; b++)
			slow += stats.op[i].latency[b];
	}
	PROMISE(ops == w.ops_stored && slow == ops, "counted %llu of %llu I/Os",
		(unsigned long long)ops, (unsigned long long)w.ops_stored);
}

static void world_end(void)
{
	PROMISE(w.nops == 0, "%u operations never ended", w.nops);
	PROMISE(list_empty(&w.tasks), "a task never ended");
	PROMISE(list_empty(&w.stored), "I/O left in the store");
	for (unsigned i = 0; i < w.nnexuses; i++) {
		if (w.nexuses[i].attach == NULL)
			continue;
		PROMISE(w.nexuses[i].attached, "a nexus was never attached");
		nexus_detach(&w.nexuses[i]);
	}
	check_counters();
	PROMISE((w.unit->view->flags & UNIT_LOCKS_ARMED) == 0,
		"locks that nobody takes stay armed");
	PROMISE(range_lock_use(unit_bdev(w.unit)).held == 0, "a lock is held for ever");
	tally.stored += w.ops_stored;
	unit_destroy(w.unit);
}

static uint64_t run_order(struct loop_set *set, uint64_t seed)
{
	uint64_t steps = 0;

	sim_reset(set, seed);
	world_make(set, seed);
	for (; steps < 1000000 && sim_step(set); steps++)
		look_at_unit();
	PROMISE(steps < 1000000, "it never comes to rest");
	tally.steps += steps;
	world_end();
	return sim_trace(set);
}

static uint64_t env_number(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static void show(const char *what, uint64_t n, uint64_t orders)
{
	printf("  %-34s %llu\n", what, (unsigned long long)n);
	PROMISE(n != 0 || orders < 1000, "the test never made this happen: %s", what);
}

static void show_tally(uint64_t orders)
{
	printf("%llu orders:\n", (unsigned long long)orders);
	show("steps", tally.steps, orders);
	show("I/O that reached the store", tally.stored, orders);
	show("I/O that was refused", tally.refused, orders);
	show("... for an old generation", tally.stale, orders);
	show("... for another holder", tally.conflict, orders);
	show("... for its task was aborted", tally.cancelled_io, orders);
	show("... written through", tally.through, orders);
	show("... discards flushed", tally.flushed, orders);
	show("... internal, while rewriting", tally.internal, orders);
	show("atomic updates", tally.updates, orders);
	show("... that waited for their lock", tally.lock_waits, orders);
	show("... whose view grew old", tally.looked_again, orders);
	show("... disarmed with the lock in hand", tally.anew, orders);
	show("locks armed", tally.armed, orders);
	show("... and disarmed", tally.disarmed, orders);
	show("... or not, when that was tried", tally.disarms - tally.disarmed, orders);
	show("PUBLISH done", tally.published, orders);
	show("QUIESCE done", tally.quiesced, orders);
	show("QUIESCE past its deadline", tally.timed_out, orders);
	show("views kept", tally.kept, orders);
	show("views that could not be kept", tally.not_kept, orders);
	show("ABORT done", tally.aborted, orders);
	show("... their victims", tally.victims, orders);
	show("operations cancelled", tally.cancelled_op, orders);
}

int main(int argc, char **argv)
{
	uint64_t orders =
		env_number("SPINDLE_SIM_ORDERS", getenv("SPINDLE_SOAK") != NULL ? 1000000 : 100000);
	uint64_t only = env_number("SPINDLE_SIM_SEED", 0);
	struct loop_set *set;

	program = argv[0];
	signal(SIGABRT, on_abort);
	if (__sanitizer_set_death_callback != NULL)
		__sanitizer_set_death_callback(tell_seed);
	CHECK(sim_create(&set, NLOOPS, 0) == 0);
	for (uint64_t seed = only != 0 ? only : 1; seed <= (only != 0 ? only : orders); seed++) {
		uint64_t trace = run_order(set, seed);

		if (seed % 1000 == 0)
			PROMISE(run_order(set, seed) == trace, "one seed gave two orders");
	}
	loop_set_destroy(set);
	show_tally(only != 0 ? 1 : orders);
	return 0;
}
