/*
 * The pipeline: from a CDB to its command. One function a stage, in the order of scsi_task_run()
 * and scsi_task_start():
 *
 *   find the LU -> find the row -> CDB length and reserved bits -> attribute -> ordering barrier
 *     -> reservation -> unit attention -> device state -> run (data-out, store, data-in) -> status
 *
 * RESERVATION CONFLICT comes before CHECK CONDITION and clears no unit attention. The stages are
 * apart from what commands do (cmd_*.c) and from how data moves (data.c).
 */
#include "scsi/impl.h"

/* ---- Stages: each returns true to go on, or sets the status ---- */

/* A single-level LUN in peripheral (00b) or flat space (01b) addressing (SAM-5 4.7). */
static unsigned lun_decode(const uint8_t lun[static 8])
{
	static const uint8_t zeros[6];
	const unsigned method = lun[0] >> 6, high = lun[0] & 0x3f;

	if (memcmp(lun + 2, zeros, sizeof(zeros)) != 0 || method > 1 || high != 0)
		return SCSI_LUNS;
	return lun[1];
}

static bool find_lu(struct scsi_task *task)
{
	const unsigned lun = lun_decode(task->lun);
	const unsigned slot = lun < SCSI_LUNS ? task->nexus->target->slot[lun] : 0;

	task->itl = slot != 0 ? &task->nexus->itls[slot - 1] : NULL;
	return true;
}

static bool find_row(struct scsi_task *task)
{
	const struct scsi_lu *lu = task->itl != NULL ? task->itl->lu : NULL;
	bool opcode_known;

	task->cmd = scsi_cmd_find(&task->nexus->target->index, lu, task->cdb[0], task->cdb[1],
				  &opcode_known);
	if (task->itl == NULL && (task->cmd == NULL || !(task->cmd->flags & CMD_ANY_LUN)))
		scsi_task_sense(task, SENSE_LU_NOT_SUPPORTED);
	else if (!opcode_known)
		scsi_task_sense(task, SENSE_INVALID_OPCODE);
	else if (task->cmd == NULL)
		task_bad_field(task, 1, 4);
	return task->status == SCSI_GOOD;
}

static bool check_cdb(struct scsi_task *task)
{
	unsigned byte, bit;

	if (task->cdb_len < task->cmd->cdb_len) {
		task_bad_field(task, task->cdb_len, 7);
		return false;
	}
	if (scsi_cmd_reserved_bit(task->cmd, task->cdb, &byte, &bit)) {
		task_bad_field(task, byte, bit);
		return false;
	}
	return true;
}

/* There is never an ACA condition here, and then its attribute is an error (SAM-5 8.6). */
static bool check_attribute(struct scsi_task *task)
{
	if (task->attr == SCSI_ACA) {
		scsi_task_sense(task, SENSE_INVALID_MESSAGE);
		return false;
	}
	return true;
}

static bool check_reservation(struct scsi_task *task, const struct unit_view *view)
{
	if (view->holder != 0 && view->holder != task->nexus->id &&
	    task->cmd->conflict != CONFLICT_NEVER) {
		task->status = SCSI_RESERVATION_CONFLICT;
		return false;
	}
	return true;
}

static bool check_unit_attention(struct scsi_task *task)
{
	enum sense sense;

	if (task->itl->ua == 0 || (task->cmd->flags & CMD_UA_EXEMPT))
		return true;
	ua_take(task->itl, &sense);
	scsi_task_sense(task, sense);
	return false;
}

/* States of a unit, the one that is told first on top, and the commands that each stops: those with
 * this flag, or all but those with that one. */
static const struct {
	unsigned state, stops, spares;
	enum sense sense;
} device_states[] = {
	{UNIT_MISSING, 0, CMD_WHEN_STOPPED, SENSE_NOT_READY_MISSING},
	{UNIT_STOPPED, 0, CMD_WHEN_STOPPED, SENSE_NOT_READY_STOPPED},
	{UNIT_WRITE_PROTECTED, CMD_CHANGES_DATA, 0, SENSE_WRITE_PROTECTED},
	{UNIT_SOFT_PROTECTED, CMD_CHANGES_DATA, 0, SENSE_SOFT_PROTECTED},
};

static bool check_device_state(struct scsi_task *task, const struct unit_view *view)
{
	const unsigned flags = task->cmd->flags;

	if (view->flags == 0)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(device_states); i++) {
		const unsigned stops = device_states[i].stops;

		if (!(view->flags & device_states[i].state) || flags & device_states[i].spares ||
		    (stops != 0 && !(flags & stops)))
			continue;
		scsi_task_sense(task, device_states[i].sense);
		return false;
	}
	return true;
}

/* ---- The pipeline ---- */

bool scsi_task_check(struct scsi_task *task)
{
	const struct unit_view *view;

	if (task->itl == NULL)
		return true;
	view = itl_view(task->itl);
	task->generation = view->generation;
	return check_reservation(task, view) && check_unit_attention(task) &&
	       check_device_state(task, view);
}

void scsi_task_start(struct scsi_task *task)
{
	task->stage = TASK_RUNNING;
	if (scsi_task_check(task))
		task->cmd->run(task);
	else
		scsi_task_end(task);
}

static void cancel(struct unit_task *t)
{
	struct scsi_task *task = container_of(t, struct scsi_task, unit_task);

	t->aborted = true;
	if (task->stage == TASK_WAITING) {
		scsi_task_end(task);
	} else if (task->stage == TASK_RUNNING) {
		task_let_go(task);
	}
}

/* Only what a stage looks at before another one sets it: a task is large, and most are short. */
static void init(struct scsi_task *task)
{
	task->status = SCSI_GOOD;
	task->sense_len = 0;
	task->stage = TASK_NEW;
	task->cmd = NULL;
	task->io_flags = 0;
	task->data_len = task->move_len = task->started = task->moved = task->ended = 0;
	task->error_off = UINT64_MAX;
	task->next = NULL;
	task->stepping = task->begun = false;
	task->sends = task->locks = task->keeps = false;
	task->unit_task.nexus_id = task->nexus->id;
	task->unit_task.cancel = cancel;
	task->unit_task.aborted = false;
	for (size_t i = 0; i < ARRAY_LEN(task->segs); i++) {
		task->segs[i].task = task;
		task->segs[i].state = 0;
		task->segs[i].lent = false;
		task->segs[i].buf = task->segs[i].read = NULL;
	}
}

/* Into the task set. What needs no order, and what has no LU to be in order at, goes on at once. */
static bool enter(struct scsi_task *task)
{
	if (task->itl == NULL || (task->cmd->flags & CMD_BYPASS))
		return true;
	unit_task_begin(task->itl->attach.channel, &task->unit_task);
	task->begun = true;
	task->stage = TASK_WAITING;
	return order_enter(task);
}

void scsi_task_run(struct scsi_task *task)
{
	CHECK(!task->nexus->opening && !task->nexus->closing);
	init(task);
	if (!find_lu(task) || !find_row(task) || !check_cdb(task) || !check_attribute(task))
		scsi_task_end(task);
	else if (enter(task))
		scsi_task_start(task);
}

/* ---- The end ---- */

/* Command's own length against what the initiator expects, in the command's direction; a command
 * that moves nothing leaves over whatever was expected (RFC 7143 11.4.5). */
static void set_residual(struct scsi_task *task)
{
	const enum scsi_dir dir = task->cmd != NULL ? task->cmd->dir : SCSI_DATA_NONE;
	uint64_t expected = 0, done = task->data_len;

	if (dir == SCSI_DATA_IN && task->reads)
		expected = task->expected_in;
	else if (dir == SCSI_DATA_OUT && task->writes)
		expected = task->expected_out;
	else if (task->data_len == 0)
		expected = task->reads ? task->expected_in : task->writes ? task->expected_out : 0;
	if (task->status != SCSI_GOOD && task->data_len <= expected)
		done = task->moved;
	task->overflow = done > expected ? clamp_u32(done - expected) : 0;
	task->underflow = done < expected ? clamp_u32(expected - done) : 0;
}

void scsi_task_end(struct scsi_task *task)
{
	set_residual(task);
	if (task->keeps || task->locks)
		task_release(task);
	if (task->begun) {
		/* Lent memory that still leaves keeps the task's place (data.c). */
		if (!task_is_lent(task))
			order_leave(task);
		unit_task_end(&task->unit_task);
	}
	task->stage = TASK_DONE;
	task->nexus->transport->finish(task);
}
