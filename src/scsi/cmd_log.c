/*
 * LOG SENSE and LOG SELECT (SPC-4 6.7 and 6.8): what goes around the pages of log.c.
 */
#include "scsi/impl.h"

#define CDB_PCR 0x02

/* PC: the values that become the default ones, without PCR (SPC-4 6.7). */
#define PC_DEFAULT_CUMULATIVE 3

void cmd_log_sense(struct scsi_task *task)
{
	struct writer w;

	if (!reply_begin(task, &w, load_be16(task->cdb + 7)))
		return;
	log_write_page(task, &w);
	reply_send(task, &w);
}

/* What was counted until now counts no more. The counters go on meanwhile, on all loops: what they
 * are at this moment is as good as a little later. */
static int edit_reset(struct unit_op *op, struct unit_view *next)
{
	const struct scsi_task *task = op_task(op);
	struct lu_state *state = lu_state_edit(next);
	uint64_t now[LU_COUNTERS];

	counts_read(task->itl->lu, now);
	for (unsigned i = 0; i < LU_COUNTERS; i++) {
		if (task->arg >> i & 1)
			state->log_base[i] = now[i];
	}
	return 0;
}

static void reset(struct scsi_task *task)
{
	static const struct task_change change = {.edit = edit_reset, .changes = LU_CHANGED_LOG};
	uint32_t counters;

	if (!log_select_counters(task, &counters) || counters == 0) {
		scsi_task_end(task);
		return;
	}
	task->arg = counters;
	task_publish(task, &change, scsi_task_end);
}

static void select_gathered(struct scsi_task *task)
{
	const struct reader r = gathered_reader(task);

	if (gathered_len(task) < load_be16(task->cdb + 7))
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
	else
		log_refuse_list(task, r.p, reader_left(&r));
	scsi_task_end(task);
}

/* With a list, the pages are named there, and PCR has no meaning (SPC-4 6.7). */
void cmd_log_select(struct scsi_task *task)
{
	const uint32_t len = load_be16(task->cdb + 7);
	const bool pcr = task->cdb[1] & CDB_PCR;
	uint32_t counters;

	if (len != 0 && pcr)
		task_bad_field(task, 1, 1);
	else if (len != 0 && (task->cdb[2] & 0x3f) != 0)
		task_bad_field(task, 2, 5);
	else if (len != 0 && task->cdb[3] != 0)
		task_bad_field(task, 3, 7);

	if (scsi_task_stopped(task)) {
		scsi_task_end(task);
	} else if (len != 0) {
		gather(task, len, select_gathered);
	} else if (pcr || task->cdb[2] >> 6 == PC_DEFAULT_CUMULATIVE) {
		reset(task);
	} else {
		/* Nothing to be done; the pages that are named must be there all the same. */
		log_select_counters(task, &counters);
		scsi_task_end(task);
	}
}
