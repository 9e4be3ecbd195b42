/*
 * The verbs that move no blocks: parameter data in one piece, an I/O without the initiator's data, a
 * change of the unit's view. Apart from the engine (data.c), which they feed.
 */
#include "scsi/data.h"

#include <errno.h>

static unsigned block_shift(const struct scsi_task *task)
{
	return task->itl->lu->info->block_shift;
}

/* ---- Parameter data ---- */

bool reply_begin(struct scsi_task *task, struct writer *w, uint32_t allocation_len)
{
	const uint32_t cap = allocation_len < SCSI_REPLY_MAX ? allocation_len : SCSI_REPLY_MAX;
	struct scsi_seg *seg = &task->segs[0];

	*w = writer_of(NULL, 0);
	if (cap != 0) {
		seg->buf = loop_share_get(task->nexus->share, cap);
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
	seg->at = 0;
	seg->len = low_u32(task->move_len);
	seg->niov = 1;
	if (seg->buf != NULL)
		seg->iov[0] = (struct iovec){.iov_base = seg->buf->data, .iov_len = seg->len};
	task->started = task->move_len;
	task->next = NULL;
	task->sends = true;
	task_step(task);
}

/* ---- One I/O ---- */

/* It stands at the first step of this, and its I/O is begun by hand. */
static const struct plan io_plan = {{STEP_READ}};

void task_io(struct scsi_task *task, enum io_op op, uint64_t off, uint64_t len,
	     void (*next)(struct scsi_task *task))
{
	struct scsi_seg *seg = &task->segs[0];

	plan_begin(task, &io_plan, 0, next);
	seg->at = 0;
	seg->len = 0;
	seg->step = 0;
	seg->niov = 0;
	seg->uio.io.op = op;
	seg->uio.io.flags = op == IO_FLUSH ? 0 : task->io_flags;
	seg->uio.io.off = off;
	seg->uio.io.len = len;
	seg->uio.io.iov = NULL;
	seg->uio.io.niov = 0;
	seg_submit(seg);
}

struct io_extent task_extent(const struct scsi_task *task)
{
	return task->segs[0].uio.io.extent;
}

/* ---- A change of the view ---- */

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

/* On the steward's loop. Whoever has waited, for its data or for its turn, changes nothing that another
 * has reserved meanwhile, and stops or protects no disk that is rewritten since. */
static int edit(struct unit_op *op, struct unit_view *next)
{
	struct scsi_task *task = op_task(op);

	if (scsi_task_conflicts(task, next))
		return -EACCES;
	if (next->flags & UNIT_REWRITING && !(task->cmd->flags & CMD_WHEN_REWRITING))
		return -EBUSY;
	return task->change->edit(op, next);
}

void task_publish(struct scsi_task *task, const struct task_change *change,
		  void (*next)(struct scsi_task *task))
{
	task->next = next;
	task->change = change;
	task->op = (struct unit_op){
		.unit = task->itl->lu->unit,
		.loop = task->nexus->loop,
		.nexus_id = task->nexus->id,
		.task = &task->unit_task,
		.edit = edit,
		.keep = change->keep,
		.changes = change->changes,
		.act = change->act,
		.timeout_ns = change->drain_ns,
		.done = published,
	};
	task->stage = TASK_IN_OP;
	if (change->drain_ns != 0)
		unit_quiesce(&task->op);
	else
		unit_publish(&task->op);
}

/* ---- Ranges ---- */

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
