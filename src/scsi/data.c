/*
 * How data moves: between the initiator and a store in segments of up to 256 KiB, two at a time so
 * that disk and network overlap; parameter data in one piece; and I/O without the initiator's data.
 * Apart from the commands, which say only what is to move.
 *
 * A segment:
 *
 *   read   FREE -> IO -> READY -> MOVING -> FREE      READY waits for its turn: offset order
 *   write  FREE -> MOVING -> IO -> FREE
 *
 * Whatever comes back (an I/O, a move, an abort) changes one segment and then calls step(), which
 * alone decides what the task does next. It is never run inside itself: a transport may answer
 * move() at once, and a task that has ended is the transport's.
 */
#include <errno.h>

#include "scsi/impl.h"

enum seg_state {
	SEG_FREE,
	SEG_IO,
	SEG_READY,
	SEG_MOVING,
	SEG_CANCELLED, /* moving, and asked back */
};

static bool is_write(const struct scsi_task *task)
{
	return task->cmd->dir == SCSI_DATA_OUT;
}

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

static void seg_release(struct scsi_seg *seg)
{
	if (seg->lent)
		unit_lend_end(&seg->uio);
	seg->lent = false;
	loop_buf_put(seg->buf);
	seg->buf = NULL;
	seg->state = SEG_FREE;
}

/* The next piece of the data. */
static void seg_begin(struct scsi_task *task, struct scsi_seg *seg)
{
	seg->off = low_u32(task->started);
	seg->len = low_u32(min_u64(task->move_len - task->started, SCSI_SEG_MAX));
	task->started += seg->len;
}

/* ---- Store I/O ---- */

static void step(struct scsi_task *task);
static void io_done(struct unit_io *uio);

static void seg_submit(struct scsi_seg *seg)
{
	seg->state = SEG_IO;
	seg->uio.task = &seg->task->unit_task;
	seg->uio.generation = seg->task->generation;
	seg->uio.done = io_done;
	unit_submit(&seg->uio);
}

static unsigned block_shift(const struct scsi_task *task)
{
	return task->itl->lu->info->block_shift;
}

/* The view changed on the way: the checks once more, unless store I/O was done since. A segment
 * below one that failed goes on, for INFORMATION says that it did. true: the I/O was submitted
 * again. */
static bool submit_again(struct scsi_task *task, struct scsi_seg *seg)
{
	const bool below_error = task->error_off != UINT64_MAX && seg->off < task->error_off;

	if (task->unit_task.aborted || (scsi_task_stopped(task) && !below_error))
		return false;
	if (task->generation != 0 && !scsi_task_check(task))
		return false;
	seg_submit(seg);
	return true;
}

/* INFORMATION of a failed I/O: where it began, or the first block that does not exist. */
static uint64_t failed_lba(const struct scsi_task *task, const struct io *io)
{
	const uint64_t at =
		io->result == -ERANGE ? max_u64(io->off, itl_view(task->itl)->size) : io->off;

	return at >> block_shift(task);
}

/* Of two segments that failed the lower one is told, whichever came back first. */
static void io_failed(struct scsi_task *task, const struct scsi_seg *seg, int err)
{
	if (task->error_off != UINT64_MAX && seg->off < task->error_off)
		task->status = SCSI_GOOD;
	if (scsi_task_stopped(task))
		return;
	task->error_off = seg->off;
	task->generation = 0;
	task_errno(task, err, seg->uio.io.op, failed_lba(task, &seg->uio.io));
}

static void io_done(struct unit_io *uio)
{
	struct scsi_seg *seg = container_of(uio, struct scsi_seg, uio);
	struct scsi_task *task = seg->task;
	const int err = uio->io.result;

	if (err == -ESTALE && submit_again(task, seg))
		return;
	if (err != 0 && err != -ESTALE)
		io_failed(task, seg, err);
	if (err == 0)
		task->generation = 0;
	if (scsi_task_stopped(task) || uio->io.op != IO_READ || task->next != NULL) {
		if (err == 0 && uio->io.op == IO_WRITE)
			task->ended += seg->len;
		seg_release(seg);
	} else {
		seg->state = SEG_READY;
	}
	if (task->next != NULL && !scsi_task_stopped(task))
		task->next(task);
	else
		step(task);
}

void task_io(struct scsi_task *task, enum io_op op, uint64_t off, uint64_t len,
	     void (*next)(struct scsi_task *task))
{
	struct scsi_seg *seg = &task->segs[0];

	task->next = next;
	seg->off = 0;
	seg->buf = NULL;
	seg->uio.io.op = op;
	seg->uio.io.flags = 0;
	seg->uio.io.off = off;
	seg->uio.io.len = len;
	seg->uio.io.iov = NULL;
	seg->uio.io.niov = 0;
	seg_submit(seg);
}

/* ---- Reads: the store first, then the initiator ---- */

/* From the store's own memory, when it lends any and the transport takes that. */
static bool read_lent(struct scsi_task *task, struct scsi_seg *seg)
{
	int n;

	if (task->no_lend || !is_aligned(seg->uio.io.len, task->itl->lu->info->block_size))
		return false;
	n = unit_lend(&seg->uio, seg->iov, SCSI_SEG_IOV);
	if (n <= 0)
		return false;
	seg->niov = (unsigned)n;
	seg->buf = NULL;
	seg->lent = true;
	seg->state = SEG_READY;
	task->generation = 0;
	return true;
}

/* Whole blocks from the store, also where the initiator takes a part of the last one. false: no
 * memory. */
static bool read_copied(struct scsi_task *task, struct scsi_seg *seg)
{
	const uint64_t len = align_up(seg->uio.io.len, task->itl->lu->info->block_size);

	seg->buf = loop_buf_get(task->nexus->loop, low_u32(len));
	if (seg->buf == NULL)
		return false;
	seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = len};
	seg->niov = 1;
	seg->uio.io.len = len;
	seg->uio.io.iov = seg->iov;
	seg->uio.io.niov = 1;
	seg_submit(seg);
	return true;
}

static bool read_begin(struct scsi_task *task, struct scsi_seg *seg)
{
	seg->uio.task = &task->unit_task;
	seg->uio.generation = task->generation;
	seg->uio.io.op = IO_READ;
	seg->uio.io.flags = 0;
	seg->uio.io.off = (task->lba << block_shift(task)) + task->started;
	seg->uio.io.len = min_u64(task->move_len - task->started, SCSI_SEG_MAX);
	if (!read_lent(task, seg) && !read_copied(task, seg))
		return false;
	seg_begin(task, seg);
	return true;
}

static void read_ahead(struct scsi_task *task)
{
	struct scsi_seg *seg;

	while (task->started < task->move_len && (seg = free_seg(task)) != NULL) {
		if (read_begin(task, seg))
			continue;
		/* Segments that are under way bring memory back; without any the command ends. */
		if (!any_in(task, SEG_IO) && !any_in(task, SEG_READY) && !any_in(task, SEG_MOVING))
			task_errno(task, -ENOMEM, IO_READ, 0);
		return;
	}
}

static struct scsi_seg *ready_seg(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		struct scsi_seg *seg = &task->segs[i];

		if (seg->state == SEG_READY && seg->off == task->moved)
			return seg;
	}
	return NULL;
}

/* Hands over what has its turn, and reads on where that made room. */
static void step_in(struct scsi_task *task)
{
	struct scsi_seg *seg;

	do {
		if (task->started < task->move_len)
			read_ahead(task);
		seg = ready_seg(task);
		if (seg == NULL || scsi_task_stopped(task))
			return;
		if (!seg->lent)
			seg->iov[0].iov_len = seg->len;
		seg->state = SEG_MOVING;
		task->moved += seg->len;
		task->nexus->transport->move(seg);
	} while (task->moved < task->move_len && !scsi_task_stopped(task));
}

/* ---- Writes: the initiator first, then the store ---- */

static void step_out(struct scsi_task *task)
{
	struct scsi_seg *seg;

	while (task->started < task->move_len && !scsi_task_stopped(task) &&
	       (seg = free_seg(task)) != NULL) {
		seg_begin(task, seg);
		seg->buf = NULL;
		seg->niov = 0;
		seg->state = SEG_MOVING;
		task->nexus->transport->move(seg);
	}
}

static void write_segment(struct scsi_task *task, struct scsi_seg *seg)
{
	seg->uio.io.op = IO_WRITE;
	seg->uio.io.flags = task->io_flags;
	seg->uio.io.off = (task->lba << block_shift(task)) + seg->off;
	seg->uio.io.len = seg->len;
	seg->uio.io.iov = seg->iov;
	seg->uio.io.niov = seg->niov;
	seg_submit(seg);
}

static void moved_out(struct scsi_task *task, struct scsi_seg *seg, int err)
{
	if (err == 0)
		task->moved += seg->len;
	if (err == 0 && !scsi_task_stopped(task)) {
		write_segment(task, seg);
		return;
	}
	/* The transport has said why, unless it has lost the nexus, too: then nobody asks. */
	if (err != 0 && !scsi_task_stopped(task))
		scsi_task_sense(task, SENSE_INTERNAL_FAILURE);
	seg_release(seg);
	step(task);
}

/* ---- Both ---- */

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
	if (is_write(task)) {
		moved_out(task, seg, err);
		return;
	}
	if (task->stage == TASK_DONE) {
		moved_after_the_end(task, seg);
		return;
	}
	seg_release(seg);
	if (err != 0 && !scsi_task_stopped(task))
		scsi_task_sense(task, SENSE_INTERNAL_FAILURE);
	step(task);
}

/* What a stopped task still holds and nobody else does. Data that is on its way in is asked back.
 * Data that was handed out before an error leaves by itself; an aborted task sends nothing more. */
static void let_go(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		struct scsi_seg *seg = &task->segs[i];

		if (seg->state == SEG_READY) {
			seg_release(seg);
		} else if (seg->state == SEG_MOVING &&
			   (is_write(task) || task->unit_task.aborted)) {
			seg->state = SEG_CANCELLED;
			task->nexus->transport->cancel_move(seg);
		}
	}
}

/* Nothing is left to do, and nothing that the task must wait for is under way. */
static bool is_through(const struct scsi_task *task)
{
	if (any_in(task, SEG_IO))
		return false;
	if (scsi_task_stopped(task))
		return !is_write(task) ||
		       (!any_in(task, SEG_MOVING) && !any_in(task, SEG_CANCELLED));
	return (is_write(task) ? task->ended : task->moved) == task->move_len;
}

static void step(struct scsi_task *task)
{
	if (task->stepping)
		return;
	task->stepping = true;
	if (!scsi_task_stopped(task)) {
		if (is_write(task))
			step_out(task);
		else
			step_in(task);
	}
	if (scsi_task_stopped(task))
		let_go(task);
	task->stepping = false;
	if (is_through(task))
		scsi_task_end(task);
}

void task_let_go(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		struct scsi_seg *seg = &task->segs[i];

		if (seg->state == SEG_IO && unit_io_cancel(&seg->uio))
			seg_release(seg);
	}
	step(task);
}

/* ---- Verbs ---- */

void stream_read(struct scsi_task *task, uint64_t lba, uint64_t nblocks)
{
	task->next = NULL;
	task->lba = lba;
	task->data_len = nblocks << block_shift(task);
	task->move_len = task->reads ? min_u64(task->data_len, task->expected_in) : 0;
	step(task);
}

void stream_write(struct scsi_task *task, uint64_t lba, uint64_t nblocks, unsigned io_flags)
{
	task->next = NULL;
	task->lba = lba;
	task->io_flags = io_flags;
	task->data_len = nblocks << block_shift(task);
	task->move_len = task->writes ? min_u64(task->data_len, task->expected_out) : 0;
	/* Part of a block cannot be written, and GOOD would say that it was. */
	if (!is_aligned(task->move_len, task->itl->lu->info->block_size))
		scsi_task_sense(task, SENSE_INVALID_FIELD_IN_INFORMATION_UNIT);
	step(task);
}

bool reply_begin(struct scsi_task *task, struct writer *w, uint32_t allocation_len)
{
	const uint32_t cap = allocation_len < SCSI_REPLY_MAX ? allocation_len : SCSI_REPLY_MAX;
	struct scsi_seg *seg = &task->segs[0];

	*w = writer_of(NULL, 0);
	seg->buf = NULL;
	if (cap != 0) {
		seg->buf = loop_buf_get(task->nexus->loop, cap);
		if (seg->buf == NULL) {
			task_errno(task, -ENOMEM, IO_READ, 0);
			scsi_task_end(task);
			return false;
		}
		seg->state = SEG_READY;
		*w = writer_of(seg->buf->data, cap);
	}
	task->data_len = allocation_len;
	return true;
}

void reply_send(struct scsi_task *task, const struct writer *w)
{
	struct scsi_seg *seg = &task->segs[0];

	CHECK(w->len <= SCSI_REPLY_MAX);
	task->data_len = scsi_task_stopped(task) ? 0 : min_u64(task->data_len, w->len);
	task->move_len = task->reads ? min_u64(task->data_len, task->expected_in) : 0;
	if (seg->state == SEG_READY && task->move_len == 0)
		seg_release(seg);
	seg->off = 0;
	seg->len = low_u32(task->move_len);
	seg->niov = 1;
	if (seg->buf != NULL)
		seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
	task->started = task->move_len;
	step(task);
}

static void published(struct unit_op *op, int err)
{
	struct scsi_task *task = container_of(op, struct scsi_task, op);

	task->stage = TASK_RUNNING;
	/* It has had its effect: the checks were for the view before. */
	task->generation = 0;
	if (err != 0)
		task_errno(task, err, IO_FLUSH, 0);
	if (scsi_task_stopped(task))
		scsi_task_end(task);
	else
		task->next(task);
}

void task_publish(struct scsi_task *task, const struct task_change *change,
		  void (*next)(struct scsi_task *task))
{
	task->next = next;
	task->op = (struct unit_op){
		.unit = task->itl->lu->unit,
		.loop = task->nexus->loop,
		.nexus_id = task->nexus->id,
		.task = &task->unit_task,
		.edit = change->edit,
		.keep = change->keep,
		.changes = change->changes,
		.done = published,
	};
	task->stage = TASK_IN_OP;
	unit_publish(&task->op);
}

bool task_check_range(struct scsi_task *task, uint64_t lba, uint64_t nblocks)
{
	const uint64_t size = itl_view(task->itl)->size >> block_shift(task);

	if (lba <= size && nblocks <= size - lba)
		return true;
	task_sense_data(task, &(struct sense_data){.sense = SENSE_LBA_OUT_OF_RANGE,
						   .has_information = true,
						   .information = max_u64(lba, size)});
	return false;
}
