/*
 * The commands of a disk (SBC-3 clause 5).
 */
#include "scsi/impl.h"

#define LBPME 0x8000u /* bytes 14 and 15 of READ CAPACITY(16) */
#define LBPRZ 0x4000u

/* ---- READ CAPACITY (5.15, 5.16) ---- */

void cmd_read_capacity_10(struct scsi_task *task)
{
	struct writer w;

	if (!reply_begin(task, &w, 8))
		return;
	write_be32(&w, clamp_u32(task_capacity(task) - 1));
	write_be32(&w, task_info(task)->block_size);
	reply_send(task, &w);
}

void cmd_read_capacity_16(struct scsi_task *task)
{
	const struct bdev_info *info = task_info(task);
	unsigned flags = 0; /* and LOWEST ALIGNED LOGICAL BLOCK ADDRESS 0 */
	struct writer w;

	if (lu_can_unmap(task->itl->lu))
		flags = info->discard_zeroes ? LBPME | LBPRZ : LBPME;
	if (!reply_begin(task, &w, load_be32(task->cdb + 10)))
		return;
	write_be64(&w, task_capacity(task) - 1);
	write_be32(&w, info->block_size);
	write_u8(&w, 0); /* no protection information */
	write_u8(&w, info->physical_exp & 0x0f);
	write_be16(&w, low_u16(flags));
	write_zeros(&w, 16);
	reply_send(task, &w);
}

/* ---- SYNCHRONIZE CACHE (5.26, 5.27) ---- */

/* The whole cache, whatever the range. IMMED allows a status before the data is safe; this one
 * comes when it is, and can still tell of a failure. */
void cmd_synchronize_cache(struct scsi_task *task)
{
	const struct extent e = extent_of(task);

	if (task_check_range(task, e.lba, e.nblocks))
		task_io(task, IO_FLUSH, 0, 0, scsi_task_end);
	else
		scsi_task_end(task);
}

/* ---- PRE-FETCH (5.8, 5.9) ---- */

/* 0 asks for all that follows, of which we take as much as one command may. */
static uint64_t pre_fetch_len(const struct scsi_task *task)
{
	const struct extent e = extent_of(task);
	const uint64_t most = LIMIT_PREFETCH_BYTES >> task_info(task)->block_shift;

	return e.nblocks != 0 ? e.nblocks : min_u64(most, task_capacity(task) - e.lba);
}

/* GOOD says that not all of it is in the cache. */
static void pre_fetched(struct scsi_task *task)
{
	const struct extent e = extent_of(task);

	if (e.nblocks != 0 || e.lba + pre_fetch_len(task) == task_capacity(task))
		task->status = SCSI_CONDITION_MET;
	scsi_task_end(task);
}

/* What was read stays in the cache below, where there is one. With IMMED the status could come
 * before that; as with SYNCHRONIZE CACHE it comes when it is true. */
void cmd_pre_fetch(struct scsi_task *task)
{
	static const struct plan plan = {{STEP_READ, STEP_END}};
	const struct extent e = extent_of(task);

	if (e.nblocks > LIMIT_PREFETCH_BYTES >> task_info(task)->block_shift)
		task_bad_field(task, extent_field(task), 7);
	if (scsi_task_stopped(task) || !task_check_range(task, e.lba, e.nblocks))
		scsi_task_end(task);
	else
		stream(task, &plan, e.lba, pre_fetch_len(task), pre_fetched);
}

/* ---- START STOP UNIT (5.25) ---- */

static int edit_started(struct unit_op *op, struct unit_view *next)
{
	next->flags &= ~(unsigned)UNIT_STOPPED;
	return 0;
}

static int edit_stopped(struct unit_op *op, struct unit_view *next)
{
	next->flags |= UNIT_STOPPED;
	return 0;
}

static void flush(struct scsi_task *task)
{
	task_io(task, IO_FLUSH, 0, 0, scsi_task_end);
}

/* The flush comes when nothing enters any more and what was inside has ended, lest it miss what others
 * write meanwhile. */
void cmd_start_stop_unit(struct scsi_task *task)
{
	static const struct task_change started = {.edit = edit_started},
					stopped = {.edit = edit_stopped},
					drained = {.edit = edit_stopped, .drain_ns = TASK_DRAIN_NS};
	const bool start = task->cdb[4] & 0x01, no_flush = task->cdb[4] & 0x04;

	if (start)
		task_publish(task, &started, scsi_task_end);
	else if (no_flush)
		task_publish(task, &stopped, scsi_task_end);
	else
		task_publish(task, &drained, flush);
}
