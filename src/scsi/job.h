/*
 * Work on a whole disk, inside: what its files (jobask.c takes requests, job.c does it, jobtag.c keeps it
 * with the disk, selftest.c knows self-tests) and the commands that ask for it share.
 */
#ifndef SPINDLE_SCSI_JOB_H
#define SPINDLE_SCSI_JOB_H

#include "scsi/impl.h"

/* The longest block: a pattern is at most one. */
#define JOB_PATTERN_MAX 4096

/* These numbers are kept with disks. */
enum job_kind {
	JOB_NOTHING = 0, /* as a request: ends a background self-test */
	JOB_FORMAT = 1,
	JOB_OVERWRITE = 2,
	JOB_BLOCK_ERASE = 3,
	JOB_SELF_TEST = 4, /* not kept */
};

/* SELF-TEST CODE (SPC-4 6.42). */
enum self_test_code {
	TEST_DEFAULT = 0,
	TEST_BACKGROUND_SHORT = 1,
	TEST_BACKGROUND_EXTENDED = 2,
	TEST_ABORT = 4,
	TEST_FOREGROUND_SHORT = 5,
	TEST_FOREGROUND_EXTENDED = 6,
};

/* What is to be done, and how far it is. */
struct job_work {
	enum job_kind kind;
	bool may_exit;        /* AUSE */
	bool invert;          /* between passes */
	uint8_t passes;       /* 1 to 31 */
	uint16_t pattern_len; /* 0: there is none (any more) */
	uint8_t code;         /* enum self_test_code */
	/* Everything below `off` is done in this pass. */
	uint8_t pass;
	uint64_t off;
	uint8_t pattern[JOB_PATTERN_MAX];
};

/* How a request ended. */
enum job_answer {
	JOB_DONE,
	JOB_FAILED,     /* the unit's view says how, or it was a self-test */
	JOB_BUSY,       /* the unit's view says why, or it is a passing thing */
	JOB_TESTING,    /* a self-test runs */
	JOB_NO_TEST,    /* there is none to end */
	JOB_RESTRICTED, /* a failed SANITIZE without AUSE is followed by one with it */
	JOB_ERROR,      /* the unit's error, in `err` */
};

enum job_wait { JOB_WAIT_BEGUN, JOB_WAIT_ENDED };

/* A command asks for work. */
struct job_request {
	struct lu_job *job;
	struct loop *loop; /* the task's */
	enum job_wait wait;
	enum job_answer answer;
	int err;
	bool claimed;        /* the view says that the disk is ours */
	enum lu_work before; /* and before, that this had failed */
	struct unit_op op;
	struct loop_msg msg, orphan_msg;
	/* On the task's loop. */
	struct scsi_task *task; /* NULL: it has ended */
	/* On the job's loop. */
	bool orphan;      /* there is nobody to answer to */
	bool deferred;    /* it waited for a self-test to end */
	struct list next; /* in job->deferred */
	struct job_work work;
};

/* Results of self-tests, a ring. Any loop may read it while it is written: it reads once more then. */
struct test_log {
	uint64_t version; /* odd: it is being written */
	uint64_t begun;   /* tests in all; the newest is at (begun - 1) % SELF_TESTS_KEPT */
	struct {
		uint64_t facts, first_failure;
	} entries[SELF_TESTS_KEPT];
};

#define JOB_IOS 4

struct job_io {
	struct unit_io uio;
	struct lu_job *job;
	bool busy;
	uint64_t started_ns;
	struct iovec iov;
};

enum job_state {
	JOB_IDLE,
	JOB_ATTACHING,
	JOB_RUNNING,
	JOB_FLUSHING,
	JOB_PUBLISHING,
};

/* Why it does not simply go on; what is greater goes first. */
enum job_turn { TURN_NONE, TURN_CHECKPOINT, TURN_LOST, TURN_STOP, TURN_FAIL };

struct lu_job {
	struct scsi_lu *lu;
	struct loop *loop; /* the unit's steward: all that is not marked lives there */
	uint64_t created_ns;
	/* Written here, read by any loop, all by atomic loads and stores. */
	unsigned progress; /* of 65536 */
	bool testing;      /* a self-test runs */
	struct test_log log;
	/* What is done. */
	enum job_state state;
	enum job_turn turn;
	bool left;            /* `work` is undone: scsi_lu_start goes on with it */
	bool claimed;         /* a request has the disk and is on its way here */
	bool failed;          /* how it ended, for the view that says so */
	int err;              /* and why */
	struct job_work work; /* not changed while PUBLISHING: a worker reads it */
	uint64_t flushed_off; /* everything below is done in this pass, and durable */
	struct job_request *waiter;
	struct list deferred; /* requests that wait for a self-test to end */
	/* How. */
	struct unit_attach attach;
	struct unit_task task;
	struct unit_op op;
	struct loop_timer timer; /* until the next read of a background self-test, or attempt */
	uint64_t checkpoint_ns;  /* when the position was kept */
	unsigned nbusy;
	bool stepping; /* the message is under way */
	struct loop_msg step_msg;
	struct job_io ios[JOB_IOS];
	struct loop_buf *buf;
	/* Of a self-test. */
	uint8_t result;                      /* SELF-TEST RESULTS */
	uint64_t narrow_until, narrow_after; /* bytes: a failed read, block by block, and then */
	uint64_t failed_off;
	/* Starting and stopping. */
	bool stopping;
	struct loop_msg start_msg, stop_msg, stopped_msg;
	struct loop *stop_loop;
	void (*stopped)(void *arg);
	void *stopped_arg;
};

/* ---- jobask.c ---- */

/* A request for this task, with `work` to be filled in. NULL: there was no memory, the task has
 * ended. */
struct job_request *job_request_new(struct scsi_task *task);
/* Hands it over; the task ends when the work has begun or ended. */
void job_request_submit(struct job_request *req, enum job_wait wait);
void job_answer(struct job_request *req, enum job_answer answer);
/* A self-test has ended: who waited for that. */
void job_take_deferred(struct lu_job *job);

/* ---- job.c: on the job's loop ---- */

/* job->work, from its position on. Nothing runs. */
void job_run(struct lu_job *job);
/* Something has changed that may end it. */
void job_look(struct lu_job *job);
/* A self-test ends early. */
void job_end_test(struct lu_job *job, unsigned result);
/* Somebody may be waiting for everything to stop. */
void job_stop_if_idle(struct lu_job *job);
/* Of the view, while it has the disk to itself. */
enum lu_work job_running_state(const struct job_work *work);

/* ---- jobtag.c: kept with the disk ---- */

/* Makes it durable that this is to be done, or has failed; WORK_NONE: that nothing is. Blocking. */
int job_keep(const struct scsi_lu *lu, enum lu_work state, const struct job_work *work);
/* What is kept: WORK_NONE when nothing is. What is there and cannot be understood counts as a
 * failed SANITIZE. Blocking. */
int job_kept(const struct scsi_lu *lu, enum lu_work *state, struct job_work *work);

/* ---- selftest.c ---- */

/* In the foreground nothing else is done meanwhile. */
bool test_is_exclusive(const struct job_work *work);
void test_begin(struct lu_job *job);
/* The next read: bytes at work.off. */
uint64_t test_read_len(const struct lu_job *job, uint64_t size);
/* Past a read that was begun. */
void test_advance(struct lu_job *job, uint64_t len, uint64_t size);
/* A read failed: false: it is to be read again, block by block. */
bool test_read_failed(struct lu_job *job, const struct io *io);
/* Others have the disk for so long. */
uint64_t test_pause_ns(const struct lu_job *job, uint64_t started_ns);
/* SELF-TEST RESULTS of what ends early. */
enum { TEST_ENDED_BY_COMMAND = 1, TEST_ENDED_OTHERWISE = 2, TEST_UNABLE = 3, TEST_FAILED = 5 };
void test_end(struct lu_job *job);

static inline bool job_is_test(const struct job_work *work)
{
	return work->kind == JOB_SELF_TEST;
}

/* Nobody else's I/O passes meanwhile. */
static inline bool job_is_exclusive(const struct job_work *work)
{
	return job_is_test(work) ? test_is_exclusive(work) : work->kind != JOB_NOTHING;
}

#endif
