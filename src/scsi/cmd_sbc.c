/*
 * The commands of a disk (SBC-3 clause 5).
 */
#include "scsi/impl.h"

static const struct bdev_info *info_of(const struct scsi_task *task)
{
	return task->itl->lu->info;
}

static uint64_t nblocks_of(const struct scsi_task *task)
{
	return itl_view(task->itl)->size >> info_of(task)->block_shift;
}

/* ---- READ CAPACITY (5.15, 5.16) ---- */

void cmd_read_capacity_10(struct scsi_task *task)
{
	struct writer w;

	if (!reply_begin(task, &w, 8))
		return;
	write_be32(&w, clamp_u32(nblocks_of(task) - 1));
	write_be32(&w, info_of(task)->block_size);
	reply_send(task, &w);
}

void cmd_read_capacity_16(struct scsi_task *task)
{
	struct writer w;

	if (!reply_begin(task, &w, load_be32(task->cdb + 10)))
		return;
	write_be64(&w, nblocks_of(task) - 1);
	write_be32(&w, info_of(task)->block_size);
	write_u8(&w, 0); /* no protection information */
	write_u8(&w, info_of(task)->physical_exp & 0x0f);
	write_be16(&w, 0); /* LBPME 0: no UNMAP */
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

/* The flush comes when nothing enters any more, lest it miss what others write meanwhile. */
void cmd_start_stop_unit(struct scsi_task *task)
{
	static const struct task_change started = {.edit = edit_started},
					stopped = {.edit = edit_stopped};
	const bool start = task->cdb[4] & 0x01, no_flush = task->cdb[4] & 0x04;

	if (start)
		task_publish(task, &started, scsi_task_end);
	else
		task_publish(task, &stopped, no_flush ? scsi_task_end : flush);
}
