/*
 * Work on a whole disk: FORMAT UNIT and SANITIZE, which have it to themselves, and self-tests. One at
 * a time a logical unit, in the background of commands, on one loop (the unit's steward's), with an
 * attachment and a task of its own, so that it outlives the nexus that asked for it (jobask.c).
 *
 *   IDLE --job_run--> ATTACHING --> RUNNING <-----------------------.
 *                                     |  nothing is in flight        |
 *                                 FLUSHING --- the next pass, lost ->|
 *                                     |  over, position, stop        |
 *                                 PUBLISHING --- position kept, lost '
 *                                     |  the view without it, or failed
 *   IDLE <-------- quit --------------'
 *
 * A self-test in the background, or the default one, shares the disk and publishes nothing.
 *
 * The first error of the store ends FORMAT UNIT and SANITIZE: they have failed then, which is
 * published, and kept if the disk still takes that. If it does not, it says that they are under way,
 * and the next process goes on with them.
 *
 * A disk that is lost is none of these errors: it is as if its power was lost, which ends neither.
 * The work stays RUNNING and tries again until the disk is back, from where it was flushed last, or
 * quits when it is to stop.
 */
#include "scsi/job.h"

#include <stdlib.h>

#define CHECKPOINT_NS UINT64_C(10000000000) /* how often the position is kept */
#define RETRY_NS      UINT64_C(1000000000)
#define PATTERN_BYTES LOOP_BUF_MAX

static const struct job_type {
	enum io_op op;
	unsigned flags;
	uint64_t bytes; /* at a time */
	unsigned depth; /* at once */
	enum lu_work running, failed;
} types[] = {
	[JOB_FORMAT] = {IO_ZERO, IO_MAY_UNMAP, 8 * MiB, JOB_IOS, WORK_FORMAT, WORK_FORMAT_FAILED},
	[JOB_OVERWRITE] = {IO_WRITE, 0, PATTERN_BYTES, JOB_IOS, WORK_SANITIZE,
			   WORK_SANITIZE_FAILED},
	[JOB_BLOCK_ERASE] = {IO_ZERO, IO_MAY_UNMAP, 8 * MiB, JOB_IOS, WORK_SANITIZE,
			     WORK_SANITIZE_FAILED},
	[JOB_SELF_TEST] = {IO_READ, 0, LOOP_BUF_MAX, 1, WORK_SELF_TEST, WORK_NONE},
};

static const struct job_type *type_of(const struct job_work *work)
{
	return &types[work->kind];
}

enum lu_work job_running_state(const struct job_work *work)
{
	return type_of(work)->running;
}

static void step(struct lu_job *job);
static void step_later(struct lu_job *job);
static void publish(struct lu_job *job);
static void quit(struct lu_job *job);

static uint64_t size_of(const struct lu_job *job)
{
	return channel_view(job->attach.channel)->size;
}

static bool at_end(const struct lu_job *job)
{
	return job->work.off >= size_of(job);
}

static void take_turn(struct lu_job *job, enum job_turn turn)
{
	if (turn > job->turn)
		job->turn = turn;
}

static void fail(struct lu_job *job, int err)
{
	job->failed = true;
	job->err = err;
	take_turn(job, TURN_FAIL);
}

/* What the disk took since the last flush may be lost with it. */
static void go_back(struct lu_job *job)
{
	job->work.off = job->flushed_off;
	take_turn(job, TURN_LOST);
}

/* Nothing is in flight. */
static void wait_for_disk(struct lu_job *job)
{
	if (job->turn == TURN_STOP) {
		quit(job);
		return;
	}
	job->turn = TURN_NONE;
	if (loop_timer_start(&job->timer, RETRY_NS) != 0)
		step_later(job);
}

/* A self-test ends early. */
void job_end_test(struct lu_job *job, unsigned result)
{
	if (job->turn >= TURN_STOP)
		return;
	job->result = low_u8(result);
	take_turn(job, TURN_STOP);
	if (job->state == JOB_RUNNING)
		step(job);
}

static void show_progress(struct lu_job *job, uint64_t size)
{
	const double passes = job->work.passes != 0 ? job->work.passes : 1;
	const double done = (double)job->work.off / (double)size;
	const double all = ((double)job->work.pass + (done < 1 ? done : 1)) / passes;

	__atomic_store_n(&job->progress, (unsigned)(all * 65535), __ATOMIC_RELAXED);
}

/* The pattern begins anew with each block. The last pass is not inverted (SBC-4 5.24.2). */
static void fill_pattern(struct lu_job *job)
{
	const struct job_work *work = &job->work;
	const uint32_t block = job->lu->info->block_size;
	const bool inverted = work->invert && (work->passes - 1u - work->pass) % 2 != 0;
	uint8_t *p = job->buf->data;

	for (uint32_t i = 0; i < block; i++)
		p[i] = low_u8(work->pattern[i % work->pattern_len] ^ (inverted ? 0xffu : 0u));
	for (uint32_t at = block; at < PATTERN_BYTES; at += block)
		memcpy(p + at, p, block);
}

static void begin_pass(struct lu_job *job)
{
	if (job->work.kind == JOB_OVERWRITE)
		fill_pattern(job);
	step(job);
}

/* ---- I/O ---- */

static struct job_io *free_io(struct lu_job *job)
{
	for (unsigned i = 0; i < type_of(&job->work)->depth; i++) {
		if (!job->ios[i].busy)
			return &job->ios[i];
	}
	return NULL;
}

static void step_message(struct loop_msg *msg)
{
	struct lu_job *job = container_of(msg, struct lu_job, step_msg);

	job->stepping = false;
	step(job);
}

/* In the next turn of the loop: a store that ends its I/O at once would have the loop to itself. */
static void step_later(struct lu_job *job)
{
	if (job->stepping)
		return;
	job->stepping = true;
	job->step_msg.run = step_message;
	loop_post(job->loop, &job->step_msg);
}

static void io_done(struct unit_io *uio)
{
	struct job_io *io = container_of(uio, struct job_io, uio);
	struct lu_job *job = io->job;
	const int err = uio->io.result;
	uint64_t pause_ns = 0;

	io->busy = false;
	job->nbusy--;
	if (err == -ECANCELED)
		job->work.off = min_u64(job->work.off, uio->io.off);
	else if (err == -ENODEV && !job_is_test(&job->work))
		go_back(job);
	else if (err == 0 && job_is_test(&job->work))
		pause_ns = test_pause_ns(job, io->started_ns);
	else if (err != 0 && (!job_is_test(&job->work) || test_read_failed(job, &uio->io)))
		fail(job, err);
	if (pause_ns == 0 || loop_timer_start(&job->timer, pause_ns) != 0)
		step_later(job);
}

static void submit(struct lu_job *job, struct job_io *io)
{
	io->job = job;
	io->busy = true;
	io->started_ns = loop_now_ns(job->loop);
	io->uio.io.flags |= UNIT_IO_INTERNAL;
	io->uio.task = &job->task;
	io->uio.generation = 0;
	job->nbusy++;
	unit_submit(&io->uio);
}

static void begin_io(struct lu_job *job, struct job_io *io)
{
	const struct job_type *type = type_of(&job->work);
	const uint64_t size = size_of(job), left = size - job->work.off;
	const uint64_t len =
		job_is_test(&job->work) ? test_read_len(job, size) : min_u64(type->bytes, left);

	io->uio.io.op = type->op;
	io->uio.io.flags = type->flags;
	io->uio.io.off = job->work.off;
	io->uio.io.len = len;
	io->uio.done = io_done;
	io->iov = (struct iovec){.iov_base = job->buf->data, .iov_len = len};
	io->uio.io.iov = &io->iov;
	io->uio.io.niov = type->op == IO_ZERO ? 0 : 1;
	if (job_is_test(&job->work))
		test_advance(job, len, size);
	else
		job->work.off += len;
	submit(job, io);
}

static void flushed(struct unit_io *uio);

static void flush(struct lu_job *job)
{
	struct job_io *io = &job->ios[0];

	job->state = JOB_FLUSHING;
	io->uio.io.op = IO_FLUSH;
	io->uio.io.flags = 0;
	io->uio.io.off = io->uio.io.len = 0;
	io->uio.io.niov = 0;
	io->uio.done = flushed;
	submit(job, io);
}

/* An ABORT of everything at the unit (a reset) does not end FORMAT UNIT or SANITIZE (SBC-4 4.11):
 * what it called back is done once more, by a new task. A self-test ends (SPC-4, self-tests). */
static void aborted(struct unit_task *task)
{
	struct lu_job *job = container_of(task, struct lu_job, task);

	task->aborted = true;
	for (unsigned i = 0; i < JOB_IOS; i++) {
		struct job_io *io = &job->ios[i];

		if (!io->busy || !unit_io_cancel(&io->uio))
			continue;
		io->busy = false;
		job->nbusy--;
		if (job->state == JOB_FLUSHING)
			job->state = JOB_RUNNING;
		else
			job->work.off = min_u64(job->work.off, io->uio.io.off);
	}
	if (job_is_test(&job->work))
		job_end_test(job, TEST_ENDED_OTHERWISE);
	else
		step(job);
}

static void begin_task(struct lu_job *job)
{
	job->task.nexus_id = job->attach.nexus_id;
	job->task.cancel = aborted;
	unit_task_begin(job->attach.channel, &job->task);
}

/* ---- What is next ---- */

static void look_around(struct lu_job *job)
{
	const bool test = job_is_test(&job->work);

	const bool orphan = job->waiter != NULL && job->waiter->orphan;

	if (job->stopping || (test && orphan)) {
		if (test && job->turn < TURN_STOP)
			job->result = TEST_ENDED_OTHERWISE;
		take_turn(job, TURN_STOP);
	} else if (!test && loop_now_ns(job->loop) - job->checkpoint_ns >= CHECKPOINT_NS) {
		take_turn(job, TURN_CHECKPOINT);
	}
}

/* Nothing is in flight. A self-test has changed nothing: there is nothing to flush or to keep. */
static void turn(struct lu_job *job)
{
	loop_timer_stop(&job->timer);
	if (job->turn == TURN_LOST)
		wait_for_disk(job);
	else if (job_is_test(&job->work) || job->turn == TURN_FAIL)
		publish(job);
	else
		flush(job);
}

static void step(struct lu_job *job)
{
	struct job_io *io;

	if (job->state != JOB_RUNNING)
		return;
	look_around(job);
	while (job->turn == TURN_NONE && !job->task.aborted && !at_end(job) &&
	       (io = free_io(job)) != NULL)
		begin_io(job, io);
	show_progress(job, size_of(job));
	if (job->nbusy != 0)
		return;
	if (job->task.aborted) {
		unit_task_end(&job->task);
		begin_task(job);
	}
	if (job->turn != TURN_NONE || at_end(job))
		turn(job);
	else
		step(job);
}

void job_look(struct lu_job *job)
{
	step(job);
}

static void flushed(struct unit_io *uio)
{
	struct job_io *io = container_of(uio, struct job_io, uio);
	struct lu_job *job = io->job;
	const int err = uio->io.result;

	io->busy = false;
	job->nbusy--;
	job->state = JOB_RUNNING;
	if (err == -ECANCELED) {
		step(job);
		return;
	}
	if (err == -ENODEV) {
		go_back(job);
		wait_for_disk(job);
		return;
	}
	if (err != 0)
		fail(job, err);
	else
		job->flushed_off = job->work.off;
	if (err == 0 && job->turn == TURN_NONE && job->work.pass + 1u < job->work.passes) {
		job->work.pass++;
		job->work.off = job->flushed_off = 0;
		begin_pass(job);
	} else {
		publish(job);
	}
}

/* ---- The view that says how it ended, or the position ---- */

/* The work is over: for good, or with a failure that stays. */
static bool is_over(const struct lu_job *job)
{
	return job_is_test(&job->work) || job->turn == TURN_NONE || job->turn == TURN_FAIL;
}

static enum lu_work state_after(const struct lu_job *job)
{
	if (!is_over(job))
		return type_of(&job->work)->running;
	return job->failed ? type_of(&job->work)->failed : WORK_NONE;
}

static int edit_state(struct unit_op *op, struct unit_view *next)
{
	const struct lu_job *job = container_of(op, struct lu_job, op);

	lu_state_edit(next)->work = low_u8(state_after(job));
	if (state_after(job) == WORK_NONE)
		next->flags &= ~(unsigned)UNIT_REWRITING;
	return 0;
}

/* A failure that cannot be kept is one all the same. */
static int keep_state(struct unit_op *op, const struct unit_view *next)
{
	const struct lu_job *job = container_of(op, struct lu_job, op);
	const int err = job_keep(job->lu, lu_state_of(next)->work, &job->work);

	return job->failed ? 0 : err;
}

static void published(struct unit_op *op, int err)
{
	struct lu_job *job = container_of(op, struct lu_job, op);

	job->checkpoint_ns = loop_now_ns(job->loop);
	if (err == -ENOMEM) {
		/* Nothing has changed, and the view must not stay so. */
		if (loop_timer_start(&job->timer, RETRY_NS) != 0)
			unit_publish(&job->op);
		return;
	}
	if (err == -ENODEV) {
		job->state = JOB_RUNNING;
		go_back(job);
		wait_for_disk(job);
		return;
	}
	if (err != 0) {
		/* What is kept would begin it anew after a restart, over newer data. */
		CHECK(!job->failed);
		fail(job, err);
		publish(job);
		return;
	}
	job->state = JOB_RUNNING;
	if (job->turn == TURN_CHECKPOINT) {
		job->turn = TURN_NONE;
		step(job);
		return;
	}
	quit(job);
}

static void publish(struct lu_job *job)
{
	job->state = JOB_PUBLISHING;
	if (job_is_test(&job->work))
		test_end(job);
	if (!job_is_exclusive(&job->work)) {
		quit(job);
		return;
	}
	job->op = (struct unit_op){
		.unit = job->lu->unit,
		.loop = job->loop,
		.edit = edit_state,
		.keep = job_is_test(&job->work) ? NULL : keep_state,
		.done = published,
	};
	unit_publish(&job->op);
}

static void timer_fired(struct loop_timer *timer)
{
	struct lu_job *job = container_of(timer, struct lu_job, timer);

	if (job->state == JOB_PUBLISHING)
		unit_publish(&job->op);
	else
		step(job);
}

/* ---- The beginning and the end ---- */

static void attached(struct unit_attach *a, int err)
{
	struct lu_job *job = container_of(a, struct lu_job, attach);

	CHECK(err == 0);
	begin_task(job);
	job->state = JOB_RUNNING;
	job->buf = loop_buf_get(job->loop, PATTERN_BYTES);
	job->checkpoint_ns = loop_now_ns(job->loop);
	if (job->buf != NULL) {
		begin_pass(job);
	} else {
		job->result = TEST_UNABLE;
		fail(job, -ENOMEM);
		step(job);
	}
}

/* Nobody is to be told: what changes is read from the view. */
static void changed(struct unit_attach *a, unsigned changes, uint64_t origin)
{
}

void job_run(struct lu_job *job)
{
	job->state = JOB_ATTACHING;
	job->turn = TURN_NONE;
	job->failed = job->left = false;
	job->err = 0;
	job->flushed_off = job->work.off;
	job->nbusy = 0;
	job->attach = (struct unit_attach){
		.nexus_id = (uintptr_t)job,
		.loop = job->loop,
		.attached = attached,
		.changed = changed,
	};
	if (job_is_test(&job->work))
		test_begin(job);
	unit_attach(job->lu->unit, &job->attach);
}

static void stopped_message(struct loop_msg *msg)
{
	struct lu_job *job = container_of(msg, struct lu_job, stopped_msg);

	job->stopped(job->stopped_arg);
}

void job_stop_if_idle(struct lu_job *job)
{
	if (!job->stopping || job->state != JOB_IDLE || job->claimed || job->stop_loop == NULL)
		return;
	job->stopped_msg.run = stopped_message;
	loop_post(job->stop_loop, &job->stopped_msg);
	job->stop_loop = NULL;
}

static enum job_answer answer_at_end(const struct lu_job *job)
{
	/* A disk that is stopped or lost has no fault that a test has found. */
	if (job->failed && job_is_test(&job->work) && job->result == TEST_UNABLE)
		return JOB_ERROR;
	if (job->failed)
		return JOB_FAILED;
	return job->turn == TURN_STOP ? JOB_BUSY : JOB_DONE;
}

static void quit(struct lu_job *job)
{
	unit_task_end(&job->task);
	unit_detach(&job->attach);
	loop_buf_put(job->buf);
	job->buf = NULL;
	job->left = !is_over(job);
	job->state = JOB_IDLE;
	if (job->waiter != NULL) {
		job->waiter->err = job->err;
		job_answer(job->waiter, answer_at_end(job));
	}
	job->waiter = NULL;
	job_take_deferred(job);
	job_stop_if_idle(job);
}

/* ---- What others see ---- */

bool job_sense(const struct scsi_lu *lu, const struct unit_view *view, struct sense_data *sense)
{
	static const struct {
		enum sense sense;
		bool progress;
	} senses[] = {
		[WORK_FORMAT] = {SENSE_NOT_READY_FORMATTING, true},
		[WORK_FORMAT_FAILED] = {SENSE_FORMAT_FAILED, false},
		[WORK_SANITIZE] = {SENSE_NOT_READY_SANITIZING, true},
		[WORK_SANITIZE_FAILED] = {SENSE_SANITIZE_FAILED, false},
		[WORK_SELF_TEST] = {SENSE_NOT_READY_SELF_TEST, true},
	};
	const enum lu_work work = lu_state_of(view)->work;

	if (work == WORK_NONE)
		return false;
	*sense = (struct sense_data){
		.sense = senses[work].sense,
		.has_progress = senses[work].progress,
		.progress = low_u16(__atomic_load_n(&lu->job->progress, __ATOMIC_RELAXED)),
	};
	return true;
}

bool job_test_sense(const struct scsi_lu *lu, struct sense_data *sense)
{
	if (!__atomic_load_n(&lu->job->testing, __ATOMIC_SEQ_CST))
		return false;
	*sense = (struct sense_data){
		.sense = SENSE_NOT_READY_SELF_TEST,
		.has_progress = true,
		.progress = low_u16(__atomic_load_n(&lu->job->progress, __ATOMIC_RELAXED)),
	};
	return true;
}

/* ---- Life ---- */

int job_create(struct scsi_lu *lu)
{
	struct lu_job *job = calloc(1, sizeof(*job));

	if (job == NULL)
		return -ENOMEM;
	job->lu = lu;
	job->loop = unit_steward(lu->unit);
	job->created_ns = loop_set_clock_ns(loop_set_of(job->loop));
	list_init(&job->deferred);
	loop_timer_init(&job->timer, job->loop, timer_fired);
	lu->job = job;
	return 0;
}

void job_destroy(struct scsi_lu *lu)
{
	if (lu->job == NULL)
		return;
	CHECK(lu->job->state == JOB_IDLE && list_empty(&lu->job->deferred));
	free(lu->job);
	lu->job = NULL;
}

int job_load(struct scsi_lu *lu, struct unit_view *view)
{
	struct lu_job *job = lu->job;
	enum lu_work work;
	const int err = job_kept(lu, &work, &job->work);

	if (err != 0 || work == WORK_NONE)
		return err;
	job->left = work == WORK_FORMAT || work == WORK_SANITIZE;
	show_progress(job, view->size);
	view->flags |= UNIT_REWRITING;
	/* No client protected the disk when it was begun, whatever is saved; and now none could end that. */
	view->flags &= ~(unsigned)UNIT_SOFT_PROTECTED;
	lu_state_edit(view)->mode &= ~(1u << MODE_SWP);
	lu_state_edit(view)->work = low_u8(work);
	lu_state_edit(view)->work_may_exit = job->work.may_exit;
	return 0;
}

const char *scsi_lu_unfinished(const struct scsi_lu *lu)
{
	static const char *const words[] = {
		[WORK_FORMAT] = "format",     [WORK_FORMAT_FAILED] = "format-failed",
		[WORK_SANITIZE] = "sanitize", [WORK_SANITIZE_FAILED] = "sanitize-failed",
		[WORK_SELF_TEST] = NULL,
	};

	return words[lu_state_of(unit_first_view(lu->unit))->work];
}

static void start_arrived(struct loop_msg *msg)
{
	struct lu_job *job = container_of(msg, struct lu_job, start_msg);

	job->stopping = false;
	if (job->left && job->state == JOB_IDLE)
		job_run(job);
}

void scsi_lu_start(struct scsi_lu *lu)
{
	lu->job->start_msg.run = start_arrived;
	loop_post(lu->job->loop, &lu->job->start_msg);
}

static void stop_arrived(struct loop_msg *msg)
{
	struct lu_job *job = container_of(msg, struct lu_job, stop_msg);

	job->stopping = true;
	step(job);
	job_stop_if_idle(job);
}

void scsi_lu_stop(struct scsi_lu *lu, struct loop *loop, void (*stopped)(void *arg), void *arg)
{
	struct lu_job *job = lu->job;

	job->stop_loop = loop;
	job->stopped = stopped;
	job->stopped_arg = arg;
	job->stop_msg.run = stop_arrived;
	loop_post(job->loop, &job->stop_msg);
}
