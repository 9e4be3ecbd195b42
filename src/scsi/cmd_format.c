/*
 * FORMAT UNIT and SANITIZE (SBC-3 5.3; SBC-4 5.24): the commands that make a whole disk new. Here is
 * what they say; job.c does it.
 */
#include "scsi/job.h"

/* ---- Both ---- */

/* While such work runs nothing is looked at; what has failed may be asked for again. */
static bool is_free(struct scsi_task *task)
{
	struct sense_data sense;

	if (!job_sense(task->itl->lu, itl_view(task->itl), &sense) || !sense.has_progress)
		return true;
	task_sense_data(task, &sense);
	return false;
}

static enum job_wait wait_for(bool immed)
{
	return immed ? JOB_WAIT_BEGUN : JOB_WAIT_ENDED;
}

/* ---- FORMAT UNIT ---- */

/* Byte 1 of the CDB */
#define FORMAT_LONGLIST 0x20
#define FORMAT_FMTDATA  0x10
/* Byte 1 of the parameter list header */
#define HEADER_FOV     0x80
#define HEADER_OPTIONS 0x78 /* DPRY, DCRT, STPF, IP */
#define HEADER_IP      0x08
#define HEADER_IMMED   0x02

static void format(struct scsi_task *task, enum job_wait wait)
{
	struct job_request *req = job_request_new(task);

	if (req == NULL)
		return;
	req->work.kind = JOB_FORMAT;
	req->work.passes = 1;
	job_request_submit(req, wait);
}

static uint32_t header_len(const struct scsi_task *task)
{
	return task->cdb[1] & FORMAT_LONGLIST ? 8 : 4;
}

/* There are no defects to skip, none to add, and nothing to certify: the options about them change
 * nothing. An initialization pattern is not supported (SANITIZE OVERWRITE has one). */
static bool check_header(struct scsi_task *task, const uint8_t *p)
{
	const bool is_long = task->cdb[1] & FORMAT_LONGLIST;
	const uint32_t defects = is_long ? load_be32(p + 4) : load_be16(p + 2);
	const uint8_t options = p[1];

	if (p[0] != 0)
		task_bad_parameter(task, 0, p[0] & 0x07 ? 2 : 7); /* PROTECTION FIELD USAGE */
	else if (!(options & HEADER_FOV) && (options & HEADER_OPTIONS))
		task_bad_parameter(task, 1,
				   31u - (unsigned)__builtin_clz(options & HEADER_OPTIONS));
	else if (options & HEADER_IP)
		task_bad_parameter(task, 1, 3);
	else if (options & 0x05) /* obsolete, vendor specific */
		task_bad_parameter(task, 1, options & 0x04 ? 2 : 0);
	else if (is_long && (p[2] != 0 || p[3] != 0))
		task_bad_parameter(task, p[2] != 0 ? 2 : 3, 7);
	else if (defects != 0)
		task_bad_parameter(task, is_long ? 4 : 2, 7);
	return task->status == SCSI_GOOD;
}

static void format_header(struct scsi_task *task)
{
	struct reader r = gathered_reader(task);
	const uint8_t *p = read_bytes(&r, header_len(task));

	if (p == NULL)
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
	if (p == NULL || !check_header(task, p))
		scsi_task_end(task);
	else
		format(task, wait_for(p[1] & HEADER_IMMED));
}

/* Without a parameter list CMPLST and LONGLIST say nothing; a list of defects would be of blocks:
 * 000b or 011b. */
static bool check_format_cdb(struct scsi_task *task)
{
	const bool has_list = task->cdb[1] & FORMAT_FMTDATA;
	const unsigned format = task->cdb[1] & 0x07;

	if (format == 0 || (has_list && format == 3))
		return true;
	task_bad_field(task, 1, 2);
	return false;
}

void cmd_format_unit(struct scsi_task *task)
{
	if (!is_free(task) || !check_format_cdb(task))
		scsi_task_end(task);
	else if (task->cdb[1] & FORMAT_FMTDATA)
		gather(task, header_len(task), format_header);
	else
		format(task, JOB_WAIT_ENDED);
}

/* ---- SANITIZE ---- */

/* Byte 1 of the CDB */
#define SANITIZE_IMMED 0x80
#define SANITIZE_AUSE  0x20

#define OVERWRITE_HEADER_LEN 4

/* A pattern that repeats itself is as good as its first period, and takes less to keep. */
static uint16_t period_of(const uint8_t *p, uint16_t len)
{
	uint16_t period;

	for (period = 1; period <= len / 2; period++) {
		if (len % period == 0 && memcmp(p, p + period, len - period) == 0)
			return period;
	}
	return len;
}

static void sanitize(struct scsi_task *task, struct job_request *req)
{
	req->work.may_exit = task->cdb[1] & SANITIZE_AUSE;
	job_request_submit(req, wait_for(task->cdb[1] & SANITIZE_IMMED));
}

/* SBC-4 5.24.2. `p` has `len` bytes, more than the header. */
static bool check_overwrite(struct scsi_task *task, const uint8_t *p, uint32_t len)
{
	const uint16_t pattern_len = load_be16(p + 2);

	if (p[0] & 0x60) /* TEST: what is not 00b is vendor specific */
		task_bad_parameter(task, 0, 6);
	else if ((p[0] & 0x1f) == 0)
		task_bad_parameter(task, 0, 4);
	else if (p[1] != 0)
		task_bad_parameter(task, 1, 7);
	else if (pattern_len == 0 || pattern_len > len - OVERWRITE_HEADER_LEN)
		task_bad_parameter(task, 2, 7);
	return task->status == SCSI_GOOD;
}

static void overwrite_list(struct scsi_task *task)
{
	const uint32_t len = load_be16(task->cdb + 7);
	struct reader r = gathered_reader(task);
	const uint8_t *p = read_bytes(&r, len);
	struct job_request *req;

	if (p == NULL)
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
	if (p == NULL || !check_overwrite(task, p, len)) {
		scsi_task_end(task);
		return;
	}
	req = job_request_new(task);
	if (req == NULL)
		return;
	req->work.kind = JOB_OVERWRITE;
	req->work.invert = p[0] & 0x80;
	req->work.passes = p[0] & 0x1f;
	req->work.pattern_len = period_of(p + OVERWRITE_HEADER_LEN, load_be16(p + 2));
	memcpy(req->work.pattern, p + OVERWRITE_HEADER_LEN, req->work.pattern_len);
	sanitize(task, req);
}

/* The pattern is one byte to one block. */
void cmd_sanitize_overwrite(struct scsi_task *task)
{
	const uint32_t len = load_be16(task->cdb + 7);

	if (is_free(task) && (len <= OVERWRITE_HEADER_LEN ||
			      len > OVERWRITE_HEADER_LEN + task->itl->lu->info->block_size))
		task_bad_field(task, 7, 7);
	if (scsi_task_stopped(task))
		scsi_task_end(task);
	else
		gather(task, len, overwrite_list);
}

void cmd_sanitize_block_erase(struct scsi_task *task)
{
	struct job_request *req;

	if (!is_free(task)) {
		scsi_task_end(task);
		return;
	}
	req = job_request_new(task);
	if (req == NULL)
		return;
	req->work.kind = JOB_BLOCK_ERASE;
	req->work.passes = 1;
	sanitize(task, req);
}

/* -EBUSY: another came first, and did something else. */
static int edit_exit(struct unit_op *op, struct unit_view *next)
{
	struct lu_state *state = lu_state_edit(next);

	if (state->work == WORK_NONE)
		return 0;
	if (state->work != WORK_SANITIZE_FAILED || !state->work_may_exit)
		return -EBUSY;
	state->work = WORK_NONE;
	next->flags &= ~(unsigned)UNIT_REWRITING;
	return 0;
}

static int keep_exit(struct unit_op *op, const struct unit_view *next)
{
	return job_keep(op_task(op)->itl->lu, WORK_NONE, NULL);
}

/* Only a failed SANITIZE can be left, and only one that had AUSE (SBC-4 5.24); where there is none,
 * nothing is to be done. */
void cmd_sanitize_exit_failure_mode(struct scsi_task *task)
{
	static const struct task_change change = {.edit = edit_exit, .keep = keep_exit};
	const struct lu_state *state = itl_state(task->itl);
	struct sense_data sense;

	if (state->work == WORK_SANITIZE_FAILED && !state->work_may_exit)
		task_bad_field(task, 1, 4);
	else if (state->work != WORK_SANITIZE_FAILED &&
		 job_sense(task->itl->lu, itl_view(task->itl), &sense))
		task_sense_data(task, &sense);
	if (scsi_task_stopped(task) || state->work == WORK_NONE)
		scsi_task_end(task);
	else
		task_publish(task, &change, scsi_task_end);
}
