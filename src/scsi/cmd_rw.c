/*
 * Blocks between the initiator and the disk: READ and WRITE (SBC-3 clause 5). Apart from the other
 * commands of a disk because nearly all that a disk does is here.
 */
#include "scsi/impl.h"

#define CDB_FUA 0x08 /* byte 1 of READ and WRITE; DPO beside it is advice, and needs no action */

struct extent extent_of(const struct scsi_task *task)
{
	const uint8_t *cdb = task->cdb;

	switch (task->cmd->cdb_len) {
	case 6: /* a length of 0 means 256 (SBC-3 5.10) */
		return (struct extent){load_be24(cdb + 1) & 0x1fffff, cdb[4] != 0 ? cdb[4] : 256};
	case 10:
		return (struct extent){load_be32(cdb + 2), load_be16(cdb + 7)};
	case 12:
		return (struct extent){load_be32(cdb + 2), load_be32(cdb + 6)};
	default:
		return (struct extent){load_be64(cdb + 2), load_be32(cdb + 10)};
	}
}

/* ---- READ (5.10 to 5.13) ---- */

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

/* ---- WRITE (5.31 to 5.35) ---- */

void cmd_write(struct scsi_task *task)
{
	const struct extent e = extent_of(task);

	if (task_check_range(task, e.lba, e.nblocks))
		stream_write(task, e.lba, e.nblocks, has_fua(task) ? IO_FUA : 0);
	else
		scsi_task_end(task);
}
