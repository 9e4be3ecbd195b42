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

/* The ways to write the number of an LU of this device itself (SAM-5 4.7.7): these bits have this
 * value, and the number is in the others. One behind another bus or target is not ours. */
static const struct {
	uint64_t mask, value;
	unsigned shift;
} lun_methods[] = {
	{0xff00ffffffffffff, 0x0000000000000000, 48}, /* peripheral device, bus 0 */
	{0xc000ffffffffffff, 0x4000000000000000, 48}, /* flat space */
	{0xffe0ffffffffffff, 0x8000000000000000, 48}, /* logical unit, target 0, bus 0 */
	{0xff000000ffffffff, 0xd200000000000000, 32}, /* extended flat space */
	{0xff0000000000ffff, 0xe200000000000000, 16}, /* long extended flat space */
};

unsigned lun_decode(const uint8_t lun[static 8])
{
	const uint64_t bits = load_be64(lun);

	for (size_t i = 0; i < ARRAY_LEN(lun_methods); i++) {
		const uint64_t mask = lun_methods[i].mask;

		if ((bits & mask) == lun_methods[i].value)
			return (unsigned)min_u64((bits & ~mask) >> lun_methods[i].shift, SCSI_LUNS);
	}
	return SCSI_LUNS;
}

bool scsi_same_lun(const uint8_t a[static 8], const uint8_t b[static 8])
{
	const unsigned lun = lun_decode(a);

	return memcmp(a, b, 8) == 0 || (lun < SCSI_LUNS && lun == lun_decode(b));
}

bool lun_is_report_luns(const uint8_t lun[static 8])
{
	return load_be64(lun) == LUN_REPORT_LUNS;
}

static bool find_lu(struct scsi_task *task)
{
	const unsigned lun = lun_decode(task->lun);

	task->itl = lun < SCSI_LUNS ? task->nexus->luns[lun] : NULL;
	return true;
}

/* Where there is no LU some commands are answered; the others find none. At the well-known one they
 * do not exist. */
static bool find_row_without_lu(struct scsi_task *task)
{
	const bool well_known = lun_is_report_luns(task->lun);
	const unsigned flag = well_known ? CMD_WELL_KNOWN_LUN : CMD_ANY_LUN;

	if (task->cmd == NULL || !(task->cmd->flags & flag))
		scsi_task_sense(task, well_known ? SENSE_INVALID_OPCODE : SENSE_LU_NOT_SUPPORTED);
	return task->status == SCSI_GOOD;
}

static bool find_row(struct scsi_task *task)
{
	const struct scsi_lu *lu = task->itl != NULL ? task->itl->lu : NULL;
	bool opcode_known;

	task->cmd = scsi_cmd_find(&task->nexus->target->index, lu, task->cdb[0], task->cdb[1],
				  &opcode_known);
	if (task->itl == NULL)
		return find_row_without_lu(task);
	if (!opcode_known)
		scsi_task_sense(task, SENSE_INVALID_OPCODE);
	else if (task->cmd == NULL)
		task_bad_field(task, 1, 4);
	return task->status == SCSI_GOOD;
}

/* A unit that is rewritten refuses a command whatever it says (SBC-4 4.11). */
static void bad_cdb(struct scsi_task *task, unsigned byte, unsigned bit)
{
	struct sense_data sense;

	if (task->itl != NULL && itl_view(task->itl)->flags & UNIT_REWRITING &&
	    scsi_not_ready(task->itl, task->cmd->flags, &sense))
		task_sense_data(task, &sense);
	else
		task_bad_field(task, byte, bit);
}

static bool check_cdb(struct scsi_task *task)
{
	unsigned byte, bit;

	if (task->cdb_len < task->cmd->cdb_len) {
		bad_cdb(task, task->cdb_len, 7);
		return false;
	}
	if (scsi_cmd_reserved_bit(task->cmd, task->cdb, &byte, &bit)) {
		bad_cdb(task, byte, bit);
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

/* Commands that mean one thing or another: what disturbs nobody's reservation (SPC-2 5.5.1, B.1). */
static const struct {
	uint8_t opcode, byte, mask, value;
} harmless[] = {
	{0x1b, 4, 0xf1, 0x01}, /* START STOP UNIT that starts */
	{0x1e, 4, 0x03, 0x00}, /* PREVENT ALLOW MEDIUM REMOVAL that allows */
};

static bool is_harmless(const struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(harmless); i++) {
		if (harmless[i].opcode == task->cdb[0] &&
		    (task->cdb[harmless[i].byte] & harmless[i].mask) == harmless[i].value)
			return true;
	}
	return false;
}

bool scsi_task_conflicts(const struct scsi_task *task, const struct unit_view *view)
{
	return view->holder != 0 && view->holder != task->nexus->id &&
	       task->cmd->conflict != CONFLICT_NEVER && !is_harmless(task);
}

static bool check_reservation(struct scsi_task *task, const struct unit_view *view)
{
	if (!scsi_task_conflicts(task, view))
		return true;
	task->status = SCSI_RESERVATION_CONFLICT;
	return false;
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

/* States that stop commands. */
#define STATES \
	(UNIT_MISSING | UNIT_REWRITING | UNIT_STOPPED | UNIT_WRITE_PROTECTED | UNIT_SOFT_PROTECTED)

/* The one that is told first on top. */
bool scsi_not_ready(const struct scsi_itl *itl, unsigned flags, struct sense_data *sense)
{
	const struct unit_view *view = itl_view(itl);

	if (view->flags & UNIT_MISSING && !(flags & CMD_WHEN_STOPPED)) {
		*sense = (struct sense_data){.sense = SENSE_NOT_READY_MISSING};
		return true;
	}
	if (view->flags & UNIT_REWRITING && !(flags & CMD_WHEN_REWRITING) &&
	    job_sense(itl->lu, view, sense))
		return true;
	if (view->flags & UNIT_STOPPED && !(flags & CMD_WHEN_STOPPED)) {
		*sense = (struct sense_data){.sense = SENSE_NOT_READY_STOPPED};
		return true;
	}
	return false;
}

static bool check_device_state(struct scsi_task *task, const struct unit_view *view)
{
	const unsigned flags = task->cmd->flags;
	struct sense_data sense;

	if ((view->flags & STATES) == 0)
		return true;
	if (scsi_not_ready(task->itl, flags, &sense))
		task_sense_data(task, &sense);
	else if (view->flags & UNIT_WRITE_PROTECTED && flags & CMD_CHANGES_DATA)
		scsi_task_sense(task, SENSE_WRITE_PROTECTED);
	else if (view->flags & UNIT_SOFT_PROTECTED && flags & CMD_CHANGES_DATA)
		scsi_task_sense(task, SENSE_SOFT_PROTECTED);
	return task->status == SCSI_GOOD;
}

/* The work undoes what the task has written so far. However soon the work is over, and the rest could
 * be written: GOOD would say that all of it is there. */
void scsi_task_overtaken(struct unit_task *t)
{
	struct scsi_task *task = container_of(t, struct scsi_task, unit_task);
	struct sense_data sense;

	if (task->stage == TASK_RUNNING && task->generation == 0 &&
	    task->cmd->flags & CMD_CHANGES_DATA &&
	    job_sense(task->itl->lu, itl_view(task->itl), &sense))
		task_sense_data(task, &sense);
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
	task->unplugged = task->itl->leaving && !task->nexus->closing;
	task->told = t->aborted_by != t->nexus_id && itl_state(task->itl)->mode & 1u << MODE_TAS;
	if (task->stage == TASK_WAITING) {
		scsi_task_end(task);
	} else if (task->stage == TASK_RUNNING) {
		task_let_go(task);
	} else if (task->stage == TASK_IN_JOB) {
		job_let_go(task);
	}
}

bool scsi_task_is(const struct unit_task *t)
{
	return t->cancel == cancel;
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
	/* Neighbours: one store. */
	task->begun = task->barrier = task->stepping = false;
	task->unplugged = task->told = false;
	task->sends = task->locks = task->arming = task->keeps = false;
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
	task->serial = ++task->nexus->serial;
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

/* The LU decides how sense data looks. */
void scsi_task_refuse(struct scsi_task *task, enum sense sense)
{
	task->status = SCSI_GOOD;
	find_lu(task);
	scsi_task_sense(task, sense);
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

/* Its LUN is gone, and its nexus is not: it is answered as those are that come now. What was moved
 * does not count. */
static void answer_unplugged(struct scsi_task *task)
{
	task->unit_task.aborted = false;
	task->status = SCSI_GOOD;
	task->moved = 0;
	scsi_task_sense(task, SENSE_LU_NOT_SUPPORTED);
}

/* Another nexus has aborted it, and the control mode page wants that to be said (SPC-4 7.5.8, TAS). */
static void answer_aborted(struct scsi_task *task)
{
	task->unit_task.aborted = false;
	task->status = SCSI_TASK_ABORTED;
	task->sense_len = 0;
}

void scsi_task_end(struct scsi_task *task)
{
	if (task->begun)
		counts_add(task);
	if (task->keeps || task->locks)
		task_release(task);
	if (task->begun) {
		/* Lent memory that still leaves keeps the task's place (data.c). */
		if (!task_is_lent(task))
			order_leave(task);
		unit_task_end(&task->unit_task);
	}
	if (task->unplugged)
		answer_unplugged(task);
	else if (task->told)
		answer_aborted(task);
	set_residual(task);
	task->stage = TASK_DONE;
	task->nexus->transport->finish(task);
}
