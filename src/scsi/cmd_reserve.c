/*
 * RESERVE and RELEASE (SPC-2 7.16 to 7.22), and PREVENT ALLOW MEDIUM REMOVAL: who has the disk to
 * itself. Apart from the commands whose class (enum scsi_conflict) says what that keeps out.
 *
 * The holder of a reservation is a nexus, in the unit's view: so no I/O of others passes after the
 * status of RESERVE, whatever loop it is on. Obsolete since SPC-3, and still what some cluster
 * software and hosts without COMPARE AND WRITE use. Third-party reservations and extents, which
 * SPC-2 leaves optional, are refused by the rows.
 */
#include <errno.h>

#include "scsi/impl.h"

bool reserve_prepare(struct scsi_itl *itl)
{
	if (itl->spare == NULL)
		itl->spare = unit_view_create();
	return itl->spare != NULL;
}

static int edit_reserve(struct unit_op *op, struct unit_view *next)
{
	next->holder = op->nexus_id;
	lu_state_edit(next)->reserved++;
	return 0;
}

int reserve_edit_release(struct unit_op *op, struct unit_view *next)
{
	if (next->holder == op->nexus_id)
		next->holder = 0;
	return 0;
}

static bool is_holder(const struct scsi_task *task)
{
	return itl_view(task->itl)->holder == task->nexus->id;
}

/* Again by its holder: GOOD, and it holds it (SPC-2 7.21.3). A reset may be about to end what it held so
 * far (tmf.c): so this is a change, too. */
void cmd_reserve(struct scsi_task *task)
{
	static const struct task_change reserve = {.edit = edit_reserve};

	if (!reserve_prepare(task->itl)) {
		task_errno(task, -ENOMEM, IO_FLUSH, 0);
		scsi_task_end(task);
	} else {
		task_publish(task, &reserve, scsi_task_end);
	}
}

/* By another than the holder: GOOD, and nothing changes (SPC-2 7.17). */
void cmd_release(struct scsi_task *task)
{
	static const struct task_change release = {.edit = reserve_edit_release};

	if (is_holder(task))
		task_publish(task, &release, scsi_task_end);
	else
		scsi_task_end(task);
}

/* There is nothing that could be removed, whether that is allowed or not. */
void cmd_prevent_allow(struct scsi_task *task)
{
	scsi_task_end(task);
}
