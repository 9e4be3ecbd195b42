/*
 * Blocks between the initiator and the disk: READ, WRITE, VERIFY and what is made of them (SBC-3
 * clause 5). Apart from the other commands of a disk because nearly all that a disk does is here.
 */
#include "scsi/impl.h"

/* Byte 1. DPO beside them is advice, and needs no action. */
#define CDB_FUA    0x08
#define CDB_BYTCHK 0x06

struct extent extent_of(const struct scsi_task *task)
{
	const uint8_t *cdb = task->cdb;

	switch (task->cmd->cdb_len) {
	case 6: /* a length of 0 means 256 (SBC-2) */
		return (struct extent){load_be24(cdb + 1) & 0x1fffff, cdb[4] != 0 ? cdb[4] : 256};
	case 10:
		return (struct extent){load_be32(cdb + 2), load_be16(cdb + 7)};
	case 12:
		return (struct extent){load_be32(cdb + 2), load_be32(cdb + 6)};
	default:
		return (struct extent){load_be64(cdb + 2), load_be32(cdb + 10)};
	}
}

/* ---- READ (5.11 to 5.13; of 6 bytes: SBC-2) ---- */

static void read_extent(struct scsi_task *task)
{
	const struct extent e = extent_of(task);

	stream_read(task, e.lba, e.nblocks);
}

/* Bit 3 of byte 1 of a short CDB is a part of the LBA. */
static bool has_fua(const struct scsi_task *task)
{
	return task->cmd->cdb_len != 6 && task->cdb[1] & CDB_FUA;
}

/* What is written may be lost until it is flushed. */
static bool caches_writes(const struct scsi_task *task)
{
	return task->itl->lu->info->volatile_cache &&
	       !(itl_view(task->itl)->flags & UNIT_WRITE_THROUGH);
}

void cmd_read(struct scsi_task *task)
{
	const struct extent e = extent_of(task);

	if (!task_check_range(task, e.lba, e.nblocks))
		scsi_task_end(task);
	/* What FUA returns is on the medium (SBC-3 5.11): what was not yet is brought there. */
	else if (has_fua(task) && caches_writes(task))
		task_io(task, IO_FLUSH, 0, 0, read_extent);
	else
		stream_read(task, e.lba, e.nblocks);
}

/* ---- WRITE (5.33 to 5.35; of 6 bytes: SBC-2) ---- */

void cmd_write(struct scsi_task *task)
{
	const struct extent e = extent_of(task);

	if (task_check_range(task, e.lba, e.nblocks))
		stream_write(task, e.lba, e.nblocks, has_fua(task) ? IO_FUA : 0);
	else
		scsi_task_end(task);
}

/* ---- VERIFY (5.29 to 5.31): what is on the medium, the bytes sent, or one block over and over ---- */

static void verify_pattern(struct scsi_task *task)
{
	static const struct plan plan = {{STEP_READ, STEP_COMPARE}};
	const struct extent e = extent_of(task);

	if (gathered_len(task) != task->itl->lu->info->block_size) {
		scsi_task_sense(task, SENSE_INVALID_FIELD_IN_INFORMATION_UNIT);
		scsi_task_end(task);
	} else {
		data_from_pattern(task);
		stream(task, &plan, e.lba, e.nblocks, NULL);
	}
}

void cmd_verify(struct scsi_task *task)
{
	static const struct plan medium = {{STEP_READ}},
				 bytes = {{STEP_RECEIVE, STEP_READ, STEP_COMPARE}};
	const struct extent e = extent_of(task);
	const unsigned bytchk = (task->cdb[1] & CDB_BYTCHK) >> 1;

	if (bytchk == 2)
		task_bad_field(task, 1, 2); /* reserved */
	else
		task_check_range(task, e.lba, e.nblocks);
	if (scsi_task_stopped(task) || e.nblocks == 0)
		scsi_task_end(task);
	else if (bytchk == 3)
		gather(task, task->itl->lu->info->block_size, verify_pattern);
	else
		stream(task, bytchk == 0 ? &medium : &bytes, e.lba, e.nblocks, NULL);
}

/* ---- WRITE AND VERIFY (5.37 to 5.39): on the medium, before it is read back ---- */

void cmd_write_and_verify(struct scsi_task *task)
{
	static const struct plan medium = {{STEP_RECEIVE, STEP_WRITE, STEP_READ}},
				 bytes = {{STEP_RECEIVE, STEP_WRITE, STEP_READ, STEP_COMPARE}};
	const struct extent e = extent_of(task);

	task->io_flags = IO_FUA;
	if (task_check_range(task, e.lba, e.nblocks))
		stream(task, task->cdb[1] & CDB_BYTCHK ? &bytes : &medium, e.lba, e.nblocks, NULL);
	else
		scsi_task_end(task);
}

/* ---- ORWRITE (5.5): each bit that is set here or there ---- */

void cmd_orwrite(struct scsi_task *task)
{
	static const struct plan plan = {{STEP_RECEIVE, STEP_LOCK, STEP_READ, STEP_OR, STEP_WRITE}};
	const struct extent e = extent_of(task);

	task->io_flags = has_fua(task) ? IO_FUA : 0;
	if (task_check_range(task, e.lba, e.nblocks))
		stream(task, &plan, e.lba, e.nblocks, NULL);
	else
		scsi_task_end(task);
}
