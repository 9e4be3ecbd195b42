/*
 * What the files of the data engine share: segments and how they wait. data.c moves them through
 * their plan; gather.c has the data they work with, lock.c their locks, fail.c their failures.
 */
#ifndef SPINDLE_SCSI_DATA_H
#define SPINDLE_SCSI_DATA_H

#include "scsi/impl.h"

enum seg_state {
	SEG_FREE,
	SEG_LOCKING, /* waits for a range lock */
	SEG_BUFFER,  /* waits for memory to read into */
	SEG_IO,
	SEG_READY, /* waits for its turn to be sent: offset order */
	SEG_MOVING,
	SEG_CANCELLED, /* moving, and asked back */
};

static inline uint64_t task_bytes(const struct scsi_task *task, uint64_t nblocks)
{
	return nblocks << task->itl->lu->info->block_shift;
}

/* Where the segment begins on the disk. */
static inline uint64_t seg_disk_off(const struct scsi_seg *seg)
{
	return task_bytes(seg->task, seg->task->lba) + seg->at;
}

/* Of a task that failed the segments below the failure go on, for INFORMATION says that they did. */
static inline bool seg_goes_on(const struct scsi_seg *seg)
{
	const struct scsi_task *task = seg->task;

	return !scsi_task_stopped(task) ||
	       (!task->unit_task.aborted && task->error_off != UINT64_MAX &&
		seg->at < task->error_off);
}

/* ---- data.c ---- */

/* What the task does next; it may end in there. Whatever changed a segment ends by this. */
void task_step(struct scsi_task *task);
/* The segment's plan, from the step where it stands, as far as that goes without waiting. */
void seg_run(struct scsi_seg *seg);
void seg_submit(struct scsi_seg *seg);
void seg_release(struct scsi_seg *seg);
/* A plan over `len` bytes begins. */
void plan_begin(struct scsi_task *task, const struct plan *plan, uint64_t len,
		void (*next)(struct scsi_task *task));

/* ---- gather.c ---- */

/* A plan begins over what was gathered, if it is to serve: there is enough of it. false: it waits for
 * memory, and task_step() comes. */
bool plan_take_kept(struct scsi_task *task);
/* The task's data for this segment, when it does not arrive for it. */
void seg_take_data(struct scsi_seg *seg);
/* Its plan has ended: what was gathered stays with the task. */
void seg_keep(struct scsi_seg *seg);
void kept_release(struct scsi_task *task);
/* The task waits no more for memory. */
void kept_cancel(struct scsi_task *task);
/* false: they differ, and where is told. */
bool seg_compare(struct scsi_seg *seg);
void seg_or(struct scsi_seg *seg);
/* [off, off + len) of `from`: their number. */
unsigned iov_slice(struct iovec to[static SCSI_SEG_IOV], const struct scsi_seg *from, size_t off,
		   size_t len);

/* ---- fail.c ---- */

/* An error that no search for its place follows: told, and the segment released. */
void seg_failed(struct scsi_seg *seg, int err);
/* The same for an I/O that came back. */
void seg_io_failed(struct scsi_seg *seg, int err);
/* The data of the segment differs from the disk's at this byte of it. */
void seg_miscompared(struct scsi_seg *seg, uint64_t off);

/* ---- lock.c, for tasks with `locks` ---- */

/* true: the segment's blocks are locked. false: it waits, or is released. */
bool seg_lock(struct scsi_seg *seg);
/* Its I/O, about to be submitted, runs under a lock. */
void lock_mark(struct scsi_seg *seg);
/* Its I/O was refused, for the view has changed: submitted again, when the lock is good. */
void lock_look_again(struct scsi_seg *seg);
/* Stops waiting. false: the lock is on its way, and the segment is released when it is there. */
bool lock_cancel(struct scsi_seg *seg);
void lock_release(struct scsi_seg *seg);
/* The task's own lock: wanted no more. */
void lock_cancel_task(struct scsi_task *task);
/* The task or a segment of it waits for a lock, or for locks to be armed. */
bool lock_pending(const struct scsi_task *task);
/* The task ends. */
void lock_end(struct scsi_task *task);

#endif
