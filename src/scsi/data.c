/*
 * How data moves: the blocks that a command is about are cut into segments of up to 256 KiB, two at
 * a time so that disk and network overlap, and each goes through the steps of the command's plan.
 * Apart from the commands, which say only what the plan is.
 *
 *   FREE -RECEIVE-> MOVING -.   -LOCK-> LOCKING -.   -READ, WRITE-> IO -.   -SEND-> READY -> MOVING
 *     ^                     |                    |                      |                      |
 *     '---- end of plan ----+--------------------+----------------------+----------------------'
 *
 * COMPARE and OR happen on the way. READY waits for its turn: offset order. BUFFER, on the way to a
 * read, waits for memory. A plan that receives does so first, a plan that sends does so last.
 *
 * Whatever comes back (an I/O, a move, a lock, an abort) takes one segment as far as it goes and then
 * calls task_step(), which alone decides what the task does next. It is never run inside itself: a
 * transport may answer move() at once, and a task that has ended is the transport's.
 */
#include "scsi/data.h"

#include <errno.h>

static struct scsi_seg *free_seg(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		if (task->segs[i].state == SEG_FREE)
			return &task->segs[i];
	}
	return NULL;
}

static bool any_in(const struct scsi_task *task, enum seg_state state)
{
	return task->segs[0].state == state || task->segs[1].state == state;
}

static inline void release(struct scsi_seg *seg)
{
	if (seg->task->locks)
		lock_release(seg);
	if (seg->lent)
		unit_lend_end(&seg->uio);
	seg->lent = false;
	loop_buf_put(seg->buf);
	seg->buf = NULL;
	if (seg->read != NULL) {
		loop_buf_put(seg->read);
		seg->read = NULL;
	}
	seg->state = SEG_FREE;
}

void seg_release(struct scsi_seg *seg)
{
	release(seg);
}

/* ---- Store I/O ---- */

static void io_done(struct unit_io *uio);

static inline void submit(struct scsi_seg *seg)
{
	seg->state = SEG_IO;
	seg->uio.task = &seg->task->unit_task;
	seg->uio.generation = seg->task->generation;
	seg->uio.done = io_done;
	if (seg->task->locks)
		lock_mark(seg);
	unit_submit(&seg->uio);
}

void seg_submit(struct scsi_seg *seg)
{
	submit(seg);
}

/* The view changed on the way: the checks once more, unless store I/O was done since. */
static void submit_again(struct scsi_seg *seg)
{
	struct scsi_task *task = seg->task;

	if (!seg_goes_on(seg) || (task->generation != 0 && !scsi_task_check(task)))
		seg_release(seg);
	else if (task->locks)
		lock_look_again(seg);
	else
		seg_submit(seg);
}

static void set_io(struct scsi_seg *seg, enum io_op op, unsigned flags)
{
	seg->uio.io.op = op;
	seg->uio.io.flags = flags;
	seg->uio.io.off = seg_disk_off(seg);
	seg->uio.io.len = seg->len;
}

/* ---- Steps ---- */

/* From the store's own memory, when it lends any and the transport takes that. */
static bool read_lent(struct scsi_seg *seg)
{
	struct scsi_task *task = seg->task;
	int n;

	if (task->no_lend || !is_aligned(seg->len, task->itl->lu->info->block_size))
		return false;
	seg->uio.task = &task->unit_task;
	seg->uio.generation = task->generation;
	n = unit_lend(&seg->uio, seg->iov, SCSI_SEG_IOV);
	if (n <= 0)
		return false;
	seg->niov = (unsigned)n;
	seg->lent = true;
	task->generation = 0;
	return true;
}

/* Its memory is there. */
static void read_into(struct scsi_seg *seg)
{
	const uint64_t len = seg->wait.len_bytes;
	struct iovec *iov = seg->read != NULL ? seg->part : seg->iov;

	*iov = (struct iovec){.iov_base = (*seg->wait.buf)->data, .iov_len = len};
	if (seg->read == NULL)
		seg->niov = 1;
	seg->uio.io.len = len;
	seg->uio.io.iov = iov;
	seg->uio.io.niov = 1;
	seg_submit(seg);
}

static void read_granted(struct loop_wait *w, int err)
{
	struct scsi_seg *seg = container_of(w, struct scsi_seg, wait);
	struct scsi_task *task = seg->task;

	if (err != 0)
		seg_failed(seg, err);
	else
		read_into(seg);
	task_step(task);
}

/* Whole blocks from the store, also where the initiator takes a part of the last one. What is read
 * beside data is read by one who has memory already, and perhaps a lock: it gives both back as soon
 * as it can go on, so it goes first. */
static void read_copied(struct scsi_seg *seg)
{
	const bool beside = seg->niov != 0;

	seg->wait.buf = beside ? &seg->read : &seg->buf;
	seg->wait.len_bytes = low_u32(align_up(seg->len, seg->task->itl->lu->info->block_size));
	seg->wait.need = beside ? LOOP_URGENT : LOOP_SEGMENT;
	seg->wait.granted = read_granted;
	if (loop_share_take(seg->task->nexus->share, &seg->wait))
		read_into(seg);
	else
		seg->state = SEG_BUFFER;
}

static inline void read_step(struct scsi_seg *seg)
{
	set_io(seg, IO_READ, 0);
	/* What sends does so right after it has read. */
	if (seg->task->sends && read_lent(seg))
		seg->state = SEG_READY;
	else
		read_copied(seg);
}

static inline void write_step(struct scsi_seg *seg)
{
	set_io(seg, IO_WRITE, seg->task->io_flags);
	seg->uio.io.iov = seg->iov;
	seg->uio.io.niov = seg->niov;
	submit(seg);
}

static inline void receive_step(struct scsi_seg *seg)
{
	seg->state = SEG_MOVING;
	seg->task->nexus->transport->move(seg);
}

static inline void end_step(struct scsi_seg *seg)
{
	seg->task->ended += seg->len;
	if (seg->task->keeps)
		seg_keep(seg);
	release(seg);
}

/* One step: true when it is done, and the next one follows. */
static inline __attribute__((always_inline)) bool run_step(struct scsi_seg *seg)
{
	switch (seg->task->plan->steps[seg->step]) {
	case STEP_RECEIVE:
		receive_step(seg);
		return false;
	case STEP_LOCK:
		return seg_lock(seg);
	case STEP_READ:
		read_step(seg);
		return false;
	case STEP_COMPARE:
		return seg_compare(seg);
	case STEP_OR:
		seg_or(seg);
		return true;
	case STEP_WRITE:
		write_step(seg);
		return false;
	case STEP_SEND:
		seg->state = SEG_READY;
		return false;
	case STEP_END:
		break;
	}
	end_step(seg);
	return false;
}

/* Of a task that goes on. Inline, for every I/O comes here twice. */
static inline __attribute__((always_inline)) void run(struct scsi_seg *seg)
{
	do {
		if (!run_step(seg))
			return;
		seg->step++;
	} while (seg_goes_on(seg));
	seg_release(seg);
}

void seg_run(struct scsi_seg *seg)
{
	if (seg_goes_on(seg))
		run(seg);
	else
		seg_release(seg);
}

static void io_done(struct unit_io *uio)
{
	struct scsi_seg *seg = container_of(uio, struct scsi_seg, uio);
	struct scsi_task *task = seg->task;
	const int err = uio->io.result;

	if (err == 0) {
		task->generation = 0;
		seg->step++;
		if (seg_goes_on(seg))
			run(seg);
		else
			release(seg);
	} else if (err == -ESTALE) {
		submit_again(seg);
	} else {
		seg_io_failed(seg, err);
	}
	task_step(task);
}

/* ---- Which segment is next ---- */

/* The second one of a task overlaps disk and network, and that is all: it is for times of plenty. Of
 * memory that is there already it takes none. */
static bool may_begin(const struct scsi_task *task)
{
	if (task->segs[0].state == SEG_FREE && task->segs[1].state == SEG_FREE)
		return true;
	return task->keeps || loop_share_plenty(task->nexus->share, SCSI_SEG_MAX);
}

static void begin_segments(struct scsi_task *task)
{
	struct scsi_seg *seg;

	while (task->started < task->move_len && !scsi_task_stopped(task) &&
	       (seg = free_seg(task)) != NULL && may_begin(task)) {
		seg->at = task->started;
		seg->off = low_u32(seg->at);
		seg->len = low_u32(min_u64(task->move_len - seg->at, SCSI_SEG_MAX));
		seg->step = 0;
		seg->niov = 0;
		task->started += seg->len;
		if (task->keeps)
			seg_take_data(seg);
		run(seg);
	}
}

static struct scsi_seg *ready_seg(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		struct scsi_seg *seg = &task->segs[i];

		if (seg->state == SEG_READY && seg->at == task->moved)
			return seg;
	}
	return NULL;
}

/* Hands over what has its turn: true when there was something, which may have made room. */
static bool send_ready(struct scsi_task *task)
{
	struct scsi_seg *seg;

	if (!task->sends || task->moved == task->move_len || scsi_task_stopped(task))
		return false;
	seg = ready_seg(task);
	if (seg == NULL)
		return false;
	if (!seg->lent)
		seg->iov[0].iov_len = seg->len;
	seg->state = SEG_MOVING;
	task->moved += seg->len;
	task->nexus->transport->move(seg);
	return true;
}

/* What a stopped task still holds and nobody else does. Data that is on its way in is asked back.
 * Data that was handed out before an error leaves by itself; an aborted task sends nothing more. */
static void let_go(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		struct scsi_seg *seg = &task->segs[i];

		if (seg->state == SEG_READY) {
			seg_release(seg);
		} else if (seg->state == SEG_MOVING && (!task->sends || task->unit_task.aborted)) {
			seg->state = SEG_CANCELLED;
			task->nexus->transport->cancel_move(seg);
		} else if (seg->state == SEG_LOCKING && !seg_goes_on(seg) && lock_cancel(seg)) {
			seg_release(seg);
		} else if (seg->state == SEG_BUFFER && !seg_goes_on(seg)) {
			loop_wait_cancel(&seg->wait);
			seg_release(seg);
		}
	}
}

/* Nothing is left to do, and nothing that the task must wait for is under way. */
static bool is_through(const struct scsi_task *task)
{
	if (any_in(task, SEG_IO) || any_in(task, SEG_BUFFER))
		return false;
	if (task->locks && lock_pending(task))
		return false;
	if (scsi_task_stopped(task))
		return task->sends || (!any_in(task, SEG_MOVING) && !any_in(task, SEG_CANCELLED));
	return (task->sends ? task->moved : task->ended) == task->move_len;
}

void task_step(struct scsi_task *task)
{
	if (task->stepping)
		return;
	task->stepping = true;
	do {
		begin_segments(task);
	} while (send_ready(task));
	if (scsi_task_stopped(task))
		let_go(task);
	task->stepping = false;
	if (!is_through(task))
		return;
	if (task->next == NULL || scsi_task_stopped(task))
		scsi_task_end(task);
	else
		task->next(task);
}

void task_let_go(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		struct scsi_seg *seg = &task->segs[i];

		if (seg->state == SEG_IO && unit_io_cancel(&seg->uio))
			seg_release(seg);
	}
	if (task->locks)
		lock_cancel_task(task);
	if (task->keeps)
		kept_cancel(task);
	task_step(task);
}

void task_release(struct scsi_task *task)
{
	if (task->keeps)
		kept_release(task);
	if (task->locks)
		lock_end(task);
}

/* ---- What the transport moved ---- */

static void received(struct scsi_seg *seg, int err)
{
	struct scsi_task *task = seg->task;

	if (err == 0)
		task->moved += seg->len;
	if (err == 0 && !scsi_task_stopped(task)) {
		seg->step++;
		run(seg);
	} else {
		/* The transport has said why, unless it has lost the nexus, too: then nobody asks. */
		if (err != 0 && !scsi_task_stopped(task))
			scsi_task_sense(task, SENSE_INTERNAL_FAILURE);
		seg_release(seg);
	}
	task_step(task);
}

bool task_is_lent(const struct scsi_task *task)
{
	return task->segs[0].lent || task->segs[1].lent;
}

/* A task that ends while the store's own memory leaves keeps its place in the order until then: a
 * later ORDERED write must not change what it sends. */
static void moved_after_the_end(struct scsi_task *task, struct scsi_seg *seg)
{
	const bool was_lent = task_is_lent(task);

	seg_release(seg);
	if (was_lent && !task_is_lent(task))
		order_leave(task);
}

void scsi_moved(struct scsi_seg *seg, int err)
{
	struct scsi_task *task = seg->task;

	CHECK(seg->state == SEG_MOVING || seg->state == SEG_CANCELLED);
	if (!task->sends) {
		received(seg, err);
		return;
	}
	if (task->stage == TASK_DONE) {
		moved_after_the_end(task, seg);
		return;
	}
	release(seg);
	if (err != 0 && !scsi_task_stopped(task))
		scsi_task_sense(task, SENSE_INTERNAL_FAILURE);
	task_step(task);
}

/* ---- Verbs ---- */

void plan_begin(struct scsi_task *task, const struct plan *plan, uint64_t len,
		void (*next)(struct scsi_task *task))
{
	task->plan = plan;
	task->next = next;
	task->sends = false;
	task->move_len = len;
	task->started = task->ended = 0;
}

void stream_read(struct scsi_task *task, uint64_t lba, uint64_t nblocks)
{
	static const struct plan plan = {{STEP_READ, STEP_SEND}};

	task->lba = lba;
	task->data_len = task_bytes(task, nblocks);
	plan_begin(task, &plan, task->reads ? min_u64(task->data_len, task->expected_in) : 0, NULL);
	task->sends = true;
	task_step(task);
}

/* What the initiator brings of the command's data. */
static void stream_received(struct scsi_task *task, const struct plan *plan, uint64_t nblocks,
			    void (*next)(struct scsi_task *task))
{
	task->data_len = task_bytes(task, nblocks);
	plan_begin(task, plan, task->writes ? min_u64(task->data_len, task->expected_out) : 0,
		   next);
	/* Part of a block cannot be written, and GOOD would say that it was. */
	if (!is_aligned(task->move_len, task->itl->lu->info->block_size))
		scsi_task_sense(task, SENSE_INVALID_FIELD_IN_INFORMATION_UNIT);
	task_step(task);
}

void stream_write(struct scsi_task *task, uint64_t lba, uint64_t nblocks, unsigned io_flags)
{
	static const struct plan plan = {{STEP_RECEIVE, STEP_WRITE}};

	task->lba = lba;
	task->io_flags = io_flags;
	stream_received(task, &plan, nblocks, NULL);
}

void stream(struct scsi_task *task, const struct plan *plan, uint64_t lba, uint64_t nblocks,
	    void (*next)(struct scsi_task *task))
{
	task->lba = lba;
	if (plan->steps[0] == STEP_RECEIVE) {
		/* Who holds a lock waits for no initiator. */
		CHECK(!task->locks);
		stream_received(task, plan, nblocks, next);
		return;
	}
	plan_begin(task, plan, task_bytes(task, nblocks), next);
	if (!task->keeps || plan_take_kept(task))
		task_step(task);
}
