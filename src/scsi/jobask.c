/*
 * Who asks for work on a whole disk: from the command on its own loop to the job's loop, and the
 * answer back. Apart from job.c, which does the work and knows no commands.
 *
 *   FORMAT UNIT, SANITIZE, self-tests in the foreground: a QUIESCE, so that nothing of others is in
 *   the store any more; `claim` puts the work into the unit's view, and keeps it with the disk before
 *   anybody sees that or a block is changed. Then, and for all others at once, `arrived` on the job's
 *   loop: begun, or put off until a self-test has ended, or refused.
 *
 * A task that is aborted ends at once, and its request, an orphan, goes on without it. Whoever has the
 * request last frees it: the task's loop when it has told the task, the job's loop when there is no
 * task to be told.
 */
#include "scsi/job.h"

#include <stdlib.h>

#define QUIESCE_NS UINT64_C(10000000000) /* for the I/O of others; then BUSY */

/* ---- On the task's loop ---- */

struct job_request *job_request_new(struct scsi_task *task)
{
	struct job_request *req = calloc(1, sizeof(*req));

	if (req == NULL) {
		task_errno(task, -ENOMEM, IO_FLUSH, 0);
		scsi_task_end(task);
		return NULL;
	}
	req->job = task->itl->lu->job;
	req->loop = task->nexus->loop;
	req->task = task;
	return req;
}

/* Why the work was not begun, or failed. What the view says of the unit goes first. */
static void tell(struct scsi_task *task, const struct job_request *req)
{
	struct sense_data sense;

	switch (req->answer) {
	case JOB_DONE:
		return;
	case JOB_NO_TEST:
		task_bad_field(task, 1, 7);
		return;
	case JOB_RESTRICTED:
		task_bad_field(task, 1, 5);
		return;
	case JOB_ERROR:
		task_errno(task, req->err, IO_FLUSH, 0);
		return;
	case JOB_FAILED:
		if (job_is_test(&req->work))
			scsi_task_sense(task, SENSE_SELF_TEST_FAILED);
		break;
	case JOB_TESTING:
		if (job_test_sense(task->itl->lu, &sense))
			task_sense_data(task, &sense);
		break;
	case JOB_BUSY:
		break;
	}
	if (!scsi_task_stopped(task) && job_sense(task->itl->lu, itl_view(task->itl), &sense))
		task_sense_data(task, &sense);
	if (!scsi_task_stopped(task) && scsi_task_check(task))
		task->status = SCSI_BUSY;
}

/* The task ends, and with it the request. */
static void finish(struct job_request *req)
{
	struct scsi_task *task = req->task;

	task->stage = TASK_RUNNING;
	tell(task, req);
	free(req);
	scsi_task_end(task);
}

static void returned(struct loop_msg *msg)
{
	free(container_of(msg, struct job_request, msg));
}

/* Its task may have ended since: then a message of that is on its way to the job's loop, and this one
 * arrives there behind it. */
static void answered(struct loop_msg *msg)
{
	struct job_request *req = container_of(msg, struct job_request, msg);

	if (req->task != NULL) {
		finish(req);
		return;
	}
	req->msg.run = returned;
	loop_post(req->job->loop, &req->msg);
}

static void orphaned(struct loop_msg *msg)
{
	struct job_request *req = container_of(msg, struct job_request, orphan_msg);

	req->orphan = true;
	if (req == req->job->waiter)
		job_look(req->job);
}

void job_let_go(struct scsi_task *task)
{
	struct job_request *req = task->request;

	req->task = NULL;
	req->orphan_msg.run = orphaned;
	loop_post(req->job->loop, &req->orphan_msg);
	scsi_task_end(task);
}

static void arrived(struct loop_msg *msg);

static void hand_over(struct job_request *req)
{
	req->msg.run = arrived;
	loop_post(req->job->loop, &req->msg);
}

static struct job_request *op_request(struct unit_op *op)
{
	return container_of(op, struct job_request, op);
}

/* The unit's view stops it now: the checks of the task say why. */
static bool is_stopped(const struct job_request *req, const struct unit_view *view)
{
	unsigned stops = UNIT_MISSING | UNIT_STOPPED;

	if (!job_is_test(&req->work))
		stops |= UNIT_WRITE_PROTECTED | UNIT_SOFT_PROTECTED;
	return (view->holder != 0 && view->holder != req->op.nexus_id) || (view->flags & stops);
}

/* May it begin after what was before? */
static int may_follow(const struct job_request *req, const struct lu_state *state)
{
	switch (state->work) {
	case WORK_NONE:
		return 0;
	case WORK_FORMAT_FAILED:
		return job_is_test(&req->work) ? -EAGAIN : 0;
	case WORK_SANITIZE_FAILED:
		if (job_running_state(&req->work) != WORK_SANITIZE)
			return -EAGAIN;
		return !state->work_may_exit && req->work.may_exit ? -EPERM : 0;
	default:
		return -EAGAIN;
	}
}

/* May it begin, as things are now? -EAGAIN: the checks of the task would stop it. -EPERM: a failed
 * SANITIZE was not to be left by a less strict one (SBC-4 4.11). -EALREADY: a self-test runs. */
static int may_claim(const struct job_request *req, const struct unit_view *view)
{
	const struct lu_job *job = req->job;

	if (is_stopped(req, view) || job->stopping || job->claimed ||
	    (job->state != JOB_IDLE && !job_is_test(&job->work)))
		return -EAGAIN;
	if (job_is_test(&req->work) && job->state != JOB_IDLE)
		return -EALREADY;
	return may_follow(req, lu_state_of(view));
}

/* On the steward's loop, which is the job's. */
static int claim(struct unit_op *op, struct unit_view *next)
{
	struct job_request *req = op_request(op);
	const int err = may_claim(req, next);

	if (err != 0)
		return err;
	req->claimed = req->job->claimed = true;
	__atomic_store_n(&req->job->progress, 0, __ATOMIC_RELAXED);
	req->before = lu_state_of(next)->work;
	next->flags |= UNIT_REWRITING;
	op->changes = job_is_test(&req->work) ? 0 : LU_CHANGED_BLOCKS;
	lu_state_edit(next)->work = low_u8(job_running_state(&req->work));
	lu_state_edit(next)->work_may_exit = req->work.may_exit;
	return 0;
}

static int keep_claim(struct unit_op *op, const struct unit_view *next)
{
	const struct job_request *req = op_request(op);
	const int err = job_keep(req->job->lu, lu_state_of(next)->work, &req->work);

	/* It may be there all the same, and nothing that was refused shall begin after a restart. */
	if (err != 0)
		job_keep(req->job->lu, req->before, &req->job->work);
	return err;
}

static enum job_answer answer_of(int err)
{
	switch (err) {
	case -EAGAIN:
		return JOB_BUSY;
	case -EPERM:
		return JOB_RESTRICTED;
	case -EALREADY:
		return JOB_TESTING;
	default:
		return JOB_ERROR;
	}
}

static void claim_done(struct unit_op *op, int err)
{
	struct job_request *req = op_request(op);
	struct scsi_task *task = req->task;

	req->err = err;
	req->answer = answer_of(err);
	task->stage = TASK_IN_JOB;
	if (err != 0 && !req->claimed) {
		finish(req);
		return;
	}
	/* Aborted after the point of no return. */
	if (task->unit_task.aborted)
		job_let_go(task);
	hand_over(req);
}

static void submit_claim(struct job_request *req, struct scsi_task *task)
{
	req->op = (struct unit_op){
		.unit = task->itl->lu->unit,
		.loop = req->loop,
		.nexus_id = task->nexus->id,
		.task = &task->unit_task,
		.edit = claim,
		.keep = job_is_test(&req->work) ? NULL : keep_claim,
		.timeout_ns = QUIESCE_NS,
		.done = claim_done,
	};
	task->stage = TASK_IN_OP;
	unit_quiesce(&req->op);
}

void job_request_submit(struct job_request *req, enum job_wait wait)
{
	struct scsi_task *task = req->task;

	req->wait = wait;
	task->request = req;
	if (job_is_exclusive(&req->work)) {
		submit_claim(req, task);
	} else {
		task->stage = TASK_IN_JOB;
		hand_over(req);
	}
}

/* ---- On the job's loop ---- */

void job_answer(struct job_request *req, enum job_answer answer)
{
	if (req->orphan) {
		free(req);
		return;
	}
	req->answer = answer;
	req->msg.run = answered;
	loop_post(req->loop, &req->msg);
}

static void begin(struct lu_job *job, struct job_request *req)
{
	job->work = req->work;
	job->waiter = NULL;
	job->claimed = false;
	if (req->wait == JOB_WAIT_ENDED)
		job->waiter = req;
	job_run(job);
	if (job->waiter == NULL)
		job_answer(req, JOB_DONE);
}

/* SPC-4, background mode: a command that needs the disk to itself ends a self-test in the background. */
static void end_test_for(struct lu_job *job, struct job_request *req, unsigned result)
{
	list_push_back(&job->deferred, &req->next);
	req->deferred = true;
	job_end_test(job, result);
}

static bool is_background(const struct lu_job *job)
{
	return job->state != JOB_IDLE && job_is_test(&job->work) &&
	       (job->work.code == TEST_BACKGROUND_SHORT ||
		job->work.code == TEST_BACKGROUND_EXTENDED);
}

/* What nobody claimed does not come between, nor when all ends. */
static bool may_begin(const struct lu_job *job, const struct job_request *req)
{
	return job->state == JOB_IDLE &&
	       (req->claimed || (!job->claimed && !job->left && !job->stopping));
}

static void take(struct lu_job *job, struct job_request *req)
{
	const bool testing = job->state != JOB_IDLE && job_is_test(&job->work);

	if (req->err != 0) {
		/* Claimed, and yet not to be had: it could not be kept. */
		job->claimed = false;
		job_answer(req, JOB_ERROR);
	} else if (req->work.kind == JOB_NOTHING && !req->deferred && is_background(job)) {
		end_test_for(job, req, TEST_ENDED_BY_COMMAND);
	} else if (req->work.kind == JOB_NOTHING) {
		job_answer(req, req->deferred ? JOB_DONE : JOB_NO_TEST);
	} else if (testing && req->claimed) {
		end_test_for(job, req, TEST_ENDED_OTHERWISE);
	} else if (may_begin(job, req)) {
		begin(job, req);
	} else {
		job_answer(req, testing ? JOB_TESTING : JOB_BUSY);
	}
}

static void arrived(struct loop_msg *msg)
{
	struct job_request *req = container_of(msg, struct job_request, msg);
	struct lu_job *job = req->job;

	take(job, req);
	job_stop_if_idle(job);
}

void job_take_deferred(struct lu_job *job)
{
	struct list deferred, *pos;

	list_init(&deferred);
	list_splice_back(&deferred, &job->deferred);
	while ((pos = list_pop_front(&deferred)) != NULL) {
		struct job_request *req = list_entry(pos, struct job_request, next);

		arrived(&req->msg);
	}
}
