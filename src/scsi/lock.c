/*
 * Locks of tasks and segments: exclusive range locks for updates that nobody else's write may come
 * into (unit.h, "Atomic updates"). Apart because only few commands want them.
 *
 *            locks not armed               not free                     its turn
 *   take --------------------> ARMING --> take --------> WAITING -------------------> HELD
 *    |                                                      | cancelled too late       ^
 *    '-- armed, free: held at once ------------------.      '--> COMING --> given back |
 *                                                    '---------------------------------'
 *
 * HELD begins with a look at the view: without the flag the locks were disarmed meanwhile, and it is
 * taken anew. Its I/O carries the generation that was looked at; -ESTALE brings it back here. When some
 * has passed the flag stays, and that is only a look at the newer view.
 *
 * No circle of waiting: each lock takes its stripes in ascending order, and who holds one waits for
 * the store only, not for memory, for the initiator or for another lock. That holds for two segments
 * of one task as for those of two tasks: where they share a stripe, the one that has it ends by
 * itself. A task with a lock of its own has none for its segments.
 */
#include "scsi/data.h"

/* A unit that cannot be quiesced for so long is told BUSY: something hangs in its store. */
#define ARM_TIMEOUT_NS (5 * UINT64_C(1000000000))

enum hold_state { HOLD_NONE, HOLD_ARMING, HOLD_WAITING, HOLD_COMING, HOLD_HELD };

static void granted(struct range_lock *range);

static void hold_init(struct scsi_hold *hold, struct scsi_task *task, struct scsi_seg *seg)
{
	hold->task = task;
	hold->seg = seg;
	hold->state = HOLD_NONE;
	hold->range.exclusive = true;
	hold->range.loop = task->nexus->loop;
	hold->range.granted = granted;
}

static void want_locks(struct scsi_task *task)
{
	if (task->locks)
		return;
	task->locks = true;
	task->arming = false;
	hold_init(&task->hold, task, NULL);
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++)
		hold_init(&task->segs[i].hold, task, &task->segs[i]);
}

static bool is_armed(const struct scsi_task *task)
{
	return itl_view(task->itl)->flags & UNIT_LOCKS_ARMED;
}

static void unlock(struct scsi_hold *hold)
{
	CHECK(hold->state == HOLD_HELD || hold->state == HOLD_NONE);
	if (hold->state == HOLD_HELD)
		range_unlock(&hold->range);
	hold->state = HOLD_NONE;
}

/* ---- Taking ---- */

/* true: it does not wait any more. */
static bool stop_waiting(struct scsi_hold *hold)
{
	switch (hold->state) {
	case HOLD_ARMING:
		hold->state = HOLD_NONE;
		return true;
	case HOLD_WAITING:
		hold->state = range_lock_cancel(&hold->range) ? HOLD_NONE : HOLD_COMING;
		return hold->state == HOLD_NONE;
	default:
		return hold->state != HOLD_COMING;
	}
}

static void armed(struct unit_op *op, int err);

static void arm(struct scsi_task *task)
{
	if (task->arming)
		return;
	task->arming = true;
	task->op = (struct unit_op){
		.unit = task->itl->lu->unit,
		.loop = task->nexus->loop,
		.nexus_id = task->nexus->id,
		.task = &task->unit_task,
		.timeout_ns = ARM_TIMEOUT_NS,
		.done = armed,
	};
	unit_arm(&task->op);
}

static bool take(struct scsi_hold *hold);

/* It is ours: is it worth something, and would the task still be let in? */
static bool look(struct scsi_hold *hold)
{
	struct scsi_task *task = hold->task;
	const struct unit_view *view = itl_view(task->itl);

	hold->state = HOLD_HELD;
	if (task->generation != 0 && task->generation != view->generation &&
	    !scsi_task_check(task)) {
		unlock(hold);
		if (hold->seg != NULL)
			seg_release(hold->seg);
		return false;
	}
	if (!is_armed(task)) {
		unlock(hold);
		return take(hold);
	}
	hold->generation = view->generation;
	return true;
}

/* true: held. false: it waits, or the task has a status. */
static bool take(struct scsi_hold *hold)
{
	if (!is_armed(hold->task)) {
		hold->state = HOLD_ARMING;
		arm(hold->task);
		return false;
	}
	hold->state = HOLD_WAITING;
	return range_lock(unit_bdev(hold->task->itl->lu->unit), &hold->range) && look(hold);
}

/* Its segments wait where the lock was lost under them, or else its command does. */
static void task_locked(struct scsi_task *task)
{
	bool lost = false;

	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		if (task->segs[i].state == SEG_LOCKING) {
			lost = true;
			seg_submit(&task->segs[i]);
		}
	}
	if (!lost)
		task->next(task);
}

/* It goes on where `take` has left it. */
static void taken(struct scsi_hold *hold)
{
	if (hold->seg == NULL) {
		task_locked(hold->task);
		return;
	}
	hold->seg->step++;
	seg_run(hold->seg);
	task_step(hold->task);
}

static void granted(struct range_lock *range)
{
	struct scsi_hold *hold = container_of(range, struct scsi_hold, range);
	struct scsi_task *task = hold->task;

	if (hold->state == HOLD_COMING) {
		hold->state = HOLD_HELD;
		unlock(hold);
		if (hold->seg != NULL)
			seg_release(hold->seg);
	} else if (look(hold)) {
		taken(hold);
		return;
	}
	task_step(task);
}

/* Told of the segments that asked, for an error that is told already may lie behind them. No block is
 * to blame. */
static void not_armed(struct scsi_task *task, int err)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		struct scsi_seg *seg = &task->segs[i];

		if (seg->hold.state != HOLD_ARMING)
			continue;
		seg->hold.state = HOLD_NONE;
		seg->uio.io.op = IO_FLUSH;
		seg_failed(seg, err);
	}
	stop_waiting(&task->hold);
	task_errno(task, err, IO_FLUSH, 0);
}

/* What waited for it goes on. The task may end in there. */
static void armed(struct unit_op *op, int err)
{
	struct scsi_task *task = op_task(op);

	task->arming = false;
	if (err != 0)
		not_armed(task, err);
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		struct scsi_seg *seg = &task->segs[i];

		if (seg->hold.state == HOLD_ARMING && take(&seg->hold)) {
			seg->step++;
			seg_run(seg);
		}
	}
	if (task->hold.state == HOLD_ARMING && take(&task->hold))
		task_locked(task);
	else
		task_step(task);
}

/* ---- For the engine ---- */

bool seg_lock(struct scsi_seg *seg)
{
	want_locks(seg->task);
	CHECK(seg->task->hold.state == HOLD_NONE);
	seg->state = SEG_LOCKING;
	seg->hold.range.off = seg_disk_off(seg);
	seg->hold.range.len = seg->len;
	return take(&seg->hold);
}

static struct scsi_hold *hold_of(struct scsi_seg *seg)
{
	return seg->task->hold.state != HOLD_NONE ? &seg->task->hold : &seg->hold;
}

void lock_mark(struct scsi_seg *seg)
{
	const struct scsi_hold *hold = hold_of(seg);

	if (hold->state != HOLD_HELD)
		return;
	seg->uio.io.flags |= UNIT_IO_LOCKED;
	seg->uio.generation = hold->generation;
}

static unsigned lock_step(const struct plan *plan)
{
	unsigned i = 0;

	while (plan->steps[i] != STEP_LOCK)
		i++;
	return i;
}

void lock_look_again(struct scsi_seg *seg)
{
	struct scsi_hold *hold = hold_of(seg);

	if (hold->state == HOLD_HELD && is_armed(seg->task)) {
		hold->generation = itl_view(seg->task->itl)->generation;
		seg_submit(seg);
		return;
	}
	if (hold == &seg->hold) {
		unlock(hold);
		/* The step that reads will bring its own. */
		loop_buf_put(seg->read);
		seg->read = NULL;
		seg->step = low_u8(lock_step(seg->task->plan));
		seg_run(seg);
		return;
	}
	/* The task's: the first segment that comes here takes it anew for both. */
	seg->state = SEG_LOCKING;
	if (hold->state != HOLD_HELD)
		return;
	unlock(hold);
	if (take(hold))
		task_locked(seg->task);
}

bool lock_cancel(struct scsi_seg *seg)
{
	return stop_waiting(&seg->hold);
}

void lock_release(struct scsi_seg *seg)
{
	unlock(&seg->hold);
}

void lock_cancel_task(struct scsi_task *task)
{
	stop_waiting(&task->hold);
}

/* A segment may wait for its lock, or for one that is only to be given back, while the rest of the
 * task has failed or is aborted. */
bool lock_pending(const struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		if (task->segs[i].state == SEG_LOCKING)
			return true;
	}
	return task->arming || (task->hold.state != HOLD_NONE && task->hold.state != HOLD_HELD);
}

void lock_end(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++)
		CHECK(task->segs[i].hold.state == HOLD_NONE);
	unlock(&task->hold);
	task->locks = false;
}

/* ---- The verb ---- */

void task_lock(struct scsi_task *task, uint64_t lba, uint64_t nblocks,
	       void (*next)(struct scsi_task *task))
{
	want_locks(task);
	CHECK(task->hold.state == HOLD_NONE);
	task->lba = lba;
	plan_begin(task, NULL, 0, next);
	task->hold.range.off = task_bytes(task, lba);
	task->hold.range.len = task_bytes(task, nblocks);
	if (take(&task->hold))
		next(task);
	else
		task_step(task);
}
