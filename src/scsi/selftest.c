/*
 * Self-tests (SPC-4, self-tests): what they read of a disk, and the log of their results. A short one
 * reads samples all over the disk, an extended one reads all of it; in the background both leave
 * most of the time to others. Apart from job.c, which runs them like other work on the whole disk.
 */
#include "scsi/job.h"

#define READ_BYTES LOOP_BUF_MAX
#define SAMPLES    64

/* In the background: pauses so many times as long as the read before took, within these bounds. */
#define PAUSE_FACTOR 4
#define PAUSE_MIN_NS UINT64_C(500000)
#define PAUSE_MAX_NS UINT64_C(200000000)

#define HOUR_NS UINT64_C(3600000000000)

static bool is_extended(const struct job_work *work)
{
	return work->code == TEST_BACKGROUND_EXTENDED || work->code == TEST_FOREGROUND_EXTENDED;
}

static bool is_foreground(const struct job_work *work)
{
	return work->code == TEST_FOREGROUND_SHORT || work->code == TEST_FOREGROUND_EXTENDED;
}

/* The default self-test is quick and in nobody's way. */
bool test_is_exclusive(const struct job_work *work)
{
	return is_foreground(work);
}

/* ---- The log ---- */

/* Of the default self-test the initiator hears at once; the log is for the others. */
static bool is_logged(const struct job_work *work)
{
	return work->code != TEST_DEFAULT;
}

/* Since when it is served counts as powered on. */
static uint16_t power_on_hours(const struct lu_job *job)
{
	return clamp_u16((loop_now_ns(job->loop) - job->created_ns) / HOUR_NS);
}

static void log_begin(struct lu_job *job)
{
	pthread_mutex_lock(&job->lock);
	memmove(job->tests + 1, job->tests, sizeof(job->tests) - sizeof(job->tests[0]));
	job->tests[0] = (struct self_test_result){
		.code = job->work.code,
		.result = SELF_TEST_RUNS,
		.power_on_hours = power_on_hours(job),
		.first_failure = UINT64_MAX,
		.sense = SENSE_NONE,
	};
	if (job->ntests < SELF_TESTS_KEPT)
		job->ntests++;
	pthread_mutex_unlock(&job->lock);
}

static void log_end(struct lu_job *job)
{
	struct self_test_result *r = &job->tests[0];

	pthread_mutex_lock(&job->lock);
	r->result = job->result;
	r->power_on_hours = power_on_hours(job);
	if (job->result == TEST_FAILED) {
		r->number = 1; /* reading is all there is */
		r->first_failure = job->failed_off >> job->lu->info->block_shift;
		r->sense = SENSE_UNRECOVERED_READ;
	}
	pthread_mutex_unlock(&job->lock);
}

unsigned job_self_tests(const struct scsi_lu *lu, struct self_test_result out[SELF_TESTS_KEPT])
{
	struct lu_job *job = lu->job;
	unsigned n;

	pthread_mutex_lock(&job->lock);
	n = job->ntests;
	memcpy(out, job->tests, n * sizeof(*out));
	pthread_mutex_unlock(&job->lock);
	return n;
}

/* ---- What is read ---- */

void test_begin(struct lu_job *job)
{
	job->result = 0;
	job->narrow_until = 0;
	if (is_logged(&job->work))
		log_begin(job);
	atomic_store(&job->testing, true);
}

void test_end(struct lu_job *job)
{
	if (is_logged(&job->work))
		log_end(job);
	atomic_store(&job->testing, false);
}

static uint64_t stride_of(const struct lu_job *job, uint64_t size)
{
	if (is_extended(&job->work))
		return READ_BYTES;
	return max_u64(align_down(size / SAMPLES, JOB_PATTERN_MAX), READ_BYTES);
}

uint64_t test_read_len(const struct lu_job *job, uint64_t size)
{
	const uint64_t len =
		job->narrow_until != 0 ? job->lu->info->block_size : (uint64_t)READ_BYTES;

	return min_u64(len, size - job->work.off);
}

void test_advance(struct lu_job *job, uint64_t len, uint64_t size)
{
	const uint64_t end = job->work.off + len;
	uint64_t next = job->work.off + stride_of(job, size);

	if (job->narrow_until != 0) {
		next = end;
		if (end == job->narrow_until) {
			next = job->narrow_after;
			job->narrow_until = 0;
		}
	} else if (next >= size && end < size) {
		next = size - min_u64(READ_BYTES, size); /* the last sample is the disk's end */
	}
	job->work.off = next;
}

bool test_read_failed(struct lu_job *job, const struct io *io)
{
	if (io->result == -EIO && io->len > job->lu->info->block_size) {
		job->narrow_until = io->off + io->len;
		job->narrow_after = job->work.off;
		job->work.off = io->off;
		return false;
	}
	job->failed_off = io->off;
	job->result = io->result == -EIO ? TEST_FAILED : TEST_UNABLE;
	return true;
}

uint64_t test_pause_ns(const struct lu_job *job, uint64_t started_ns)
{
	const uint64_t took = loop_now_ns(job->loop) - started_ns;

	if (is_foreground(&job->work) || job->work.code == TEST_DEFAULT || job->narrow_until != 0)
		return 0;
	return max_u64(min_u64(took * PAUSE_FACTOR, PAUSE_MAX_NS), PAUSE_MIN_NS);
}
