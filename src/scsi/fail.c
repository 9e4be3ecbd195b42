/*
 * What failed, and where: of all segments the lowest failure is told, and of an I/O that fails the
 * block that does, which is looked for by halves (SBC-3 4.18.1: INFORMATION is the first block that
 * could not be read or written). Apart because a disk without errors never comes here.
 */
#include "scsi/data.h"

#include <errno.h>

/* Longer than this nobody looks for the block: a disk takes its time over each one that fails. */
#define SEARCH_NS (2 * UINT64_C(1000000000))

/* Of several segments that failed the lowest is told, whichever came back first. true: that is this
 * one, and the status is free to be set. */
static bool is_lowest(struct scsi_seg *seg)
{
	struct scsi_task *task = seg->task;

	if (task->unit_task.aborted)
		return false;
	if (task->error_off != UINT64_MAX && seg->at <= task->error_off) {
		task->status = SCSI_GOOD;
		task->sense_len = 0;
	}
	if (scsi_task_stopped(task))
		return false;
	task->error_off = seg->at;
	task->generation = 0;
	return true;
}

static void tell(struct scsi_seg *seg, int err, uint64_t off)
{
	struct scsi_task *task = seg->task;

	if (is_lowest(seg))
		task_errno(task, err, seg->uio.io.op, off >> task->itl->lu->info->block_shift);
}

void seg_failed(struct scsi_seg *seg, int err)
{
	tell(seg, err, seg->uio.io.off);
	seg_release(seg);
}

/* COMPARE AND WRITE: the offset in the data-out buffer (SBC-3 5.2); for VERIFY the standard leaves
 * it open, and it is the same. */
void seg_miscompared(struct scsi_seg *seg, uint64_t off)
{
	if (is_lowest(seg))
		task_sense_data(seg->task, &(struct sense_data){.sense = SENSE_MISCOMPARE,
								.has_information = true,
								.information = seg->at + off});
	seg_release(seg);
}

/* ---- The block ---- */

static void search(struct scsi_seg *seg);

static void searched(struct unit_io *uio)
{
	struct scsi_seg *seg = container_of(uio, struct scsi_seg, uio);
	struct scsi_task *task = seg->task;
	const struct io *io = &uio->io;

	if (io->result == 0)
		seg->failing.lo = io->off + io->len;
	else if (io->result == -EIO)
		seg->failing.hi = io->off + io->len;
	else
		seg->failing.until_ns = 0;
	search(seg);
	task_step(task);
}

/* The first half of what is left. Reads go where the whole one would have gone. */
static void search_half(struct scsi_seg *seg, uint64_t len)
{
	struct io *io = &seg->uio.io;

	io->off = seg->failing.lo;
	io->len = len;
	if (io->op == IO_READ) {
		uint8_t *to = seg->read != NULL ? seg->read->data : seg->buf->data;

		seg->part[0] = (struct iovec){.iov_base = to, .iov_len = len};
		io->niov = 1;
	} else if (io->op == IO_WRITE) {
		io->niov = iov_slice(seg->part, seg, io->off - seg_disk_off(seg), len);
	}
	io->iov = seg->part;
	seg->uio.generation = 0;
	seg->uio.done = searched;
	unit_submit(&seg->uio);
}

static void search(struct scsi_seg *seg)
{
	const struct scsi_task *task = seg->task;
	const uint64_t half = (seg->failing.hi - seg->failing.lo) / 2;
	const uint64_t len = align_down(half, task->itl->lu->info->block_size);

	if (len != 0 && !task->unit_task.aborted && task->error_off == seg->at &&
	    loop_now_ns(task->nexus->loop) < seg->failing.until_ns) {
		search_half(seg, len);
		return;
	}
	tell(seg, -EIO, seg->failing.lo);
	seg_release(seg);
}

static bool has_blocks(enum io_op op)
{
	return op == IO_READ || op == IO_WRITE || op == IO_ZERO || op == IO_DISCARD;
}

void seg_io_failed(struct scsi_seg *seg, int err)
{
	const struct scsi_task *task = seg->task;
	const struct io *io = &seg->uio.io;
	uint64_t off = io->off;

	/* The first block that does not exist. */
	if (err == -ERANGE)
		off = max_u64(off, itl_view(task->itl)->size);
	tell(seg, err, off);
	if (err != -EIO || !has_blocks(io->op)) {
		seg_release(seg);
		return;
	}
	seg->failing.lo = io->off;
	seg->failing.hi = io->off + io->len;
	seg->failing.until_ns = loop_now_ns(task->nexus->loop) + SEARCH_NS;
	search(seg);
}
