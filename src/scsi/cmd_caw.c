/*
 * COMPARE AND WRITE (SBC-3 5.2): the atom that clusters build their locks of. Apart because it is
 * the one command that gathers all its data, then locks, then looks, then writes:
 *
 *   gather -> task_lock -> compare all of it -> write all of it -> the lock goes with the task
 *
 * From the first block read to the last one written no other write of any nexus touches the blocks.
 * Nothing is written before the last byte was found equal, and the lock never waits for the
 * network.
 */
#include "scsi/impl.h"

#define CDB_FUA 0x08

static struct extent caw_extent(const struct scsi_task *task)
{
	return (struct extent){load_be64(task->cdb + 2), task->cdb[13]};
}

static void caw_write(struct scsi_task *task)
{
	static const struct plan plan = {{STEP_WRITE, STEP_END}};
	const struct extent e = caw_extent(task);

	data_from_gathered(task, e.nblocks << task_info(task)->block_shift);
	task->io_flags = task->cdb[1] & CDB_FUA ? IO_FUA : 0;
	stream(task, &plan, e.lba, e.nblocks, NULL);
}

static void caw_compare(struct scsi_task *task)
{
	static const struct plan plan = {{STEP_READ, STEP_COMPARE, STEP_END}};
	const struct extent e = caw_extent(task);

	data_from_gathered(task, 0);
	stream(task, &plan, e.lba, e.nblocks, caw_write);
}

static void caw_lock(struct scsi_task *task)
{
	const struct extent e = caw_extent(task);

	task_lock(task, e.lba, e.nblocks, caw_compare);
}

/* The data are the blocks to compare with, and behind them as many to write. Who brings more or
 * less means something else than the CDB says, and must not hear GOOD: one that has 256 blocks, of
 * which a byte keeps 0, would believe them written. */
void cmd_compare_and_write(struct scsi_task *task)
{
	const struct extent e = caw_extent(task);
	const uint32_t len = 2 * e.nblocks << task_info(task)->block_shift;
	const uint32_t brought = task->writes ? task->expected_out : 0;

	if (e.nblocks > limit_caw_blocks(task_info(task)) || (e.nblocks == 0 && brought != 0))
		task_bad_field(task, 13, 7);
	else if (task_check_range(task, e.lba, e.nblocks) && brought != len)
		scsi_task_sense(task, SENSE_INVALID_FIELD_IN_INFORMATION_UNIT);
	if (scsi_task_stopped(task) || len == 0)
		scsi_task_end(task);
	else
		gather(task, len, caw_lock);
}
