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

/* The order of all loads and stores of the log is one for all loops; nothing here is in a hurry. */
static uint64_t get(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}

static void put(uint64_t *at, uint64_t value)
{
	__atomic_store_n(at, value, __ATOMIC_SEQ_CST);
}

static uint64_t pack(const struct self_test_result *r)
{
	return (uint64_t)r->power_on_hours << 32 | (uint64_t)r->sense << 24 |
	       (uint64_t)r->number << 16 | (uint64_t)r->result << 8 | r->code;
}

static struct self_test_result unpack(uint64_t facts, uint64_t first_failure)
{
	return (struct self_test_result){
		.code = low_u8(facts),
		.result = low_u8(facts >> 8),
		.number = low_u8(facts >> 16),
		.sense = (enum sense)low_u8(facts >> 24),
		.power_on_hours = low_u16(facts >> 32),
		.first_failure = first_failure,
	};
}

/* The entry of the test that runs. */
static void write_entry(struct lu_job *job, const struct self_test_result *r, uint64_t begun)
{
	struct test_log *log = &job->log;
	const size_t at = (begun - 1) % SELF_TESTS_KEPT;

	put(&log->version, log->version + 1);
	put(&log->entries[at].facts, pack(r));
	put(&log->entries[at].first_failure, r->first_failure);
	put(&log->begun, begun);
	put(&log->version, log->version + 1);
}

static void log_begin(struct lu_job *job)
{
	const struct self_test_result r = {
		.code = job->work.code,
		.result = SELF_TEST_RUNS,
		.power_on_hours = power_on_hours(job),
		.first_failure = UINT64_MAX,
		.sense = SENSE_NONE,
	};

	write_entry(job, &r, job->log.begun + 1);
}

static void log_end(struct lu_job *job)
{
	struct self_test_result r = {
		.code = job->work.code,
		.result = job->result,
		.power_on_hours = power_on_hours(job),
		.first_failure = UINT64_MAX,
		.sense = SENSE_NONE,
	};

	if (job->result == TEST_FAILED) {
		r.number = 1; /* reading is all there is */
		r.first_failure = job->failed_off >> job->lu->info->block_shift;
		r.sense = SENSE_UNRECOVERED_READ;
	}
	write_entry(job, &r, job->log.begun);
}

unsigned job_self_tests(const struct scsi_lu *lu, struct self_test_result out[SELF_TESTS_KEPT])
{
	const struct test_log *log = &lu->job->log;
	uint64_t version, begun, n;

	do {
		version = get(&log->version);
		begun = get(&log->begun);
		n = min_u64(begun, SELF_TESTS_KEPT);
		for (uint64_t i = 0; i < n; i++) {
			const size_t at = (begun - 1 - i) % SELF_TESTS_KEPT;

			out[i] = unpack(get(&log->entries[at].facts),
					get(&log->entries[at].first_failure));
		}
	} while (version % 2 != 0 || get(&log->version) != version);
	return (unsigned)n;
}

/* ---- What is read ---- */

void test_begin(struct lu_job *job)
{
	job->result = 0;
	job->narrow_until = 0;
	if (is_logged(&job->work))
		log_begin(job);
	__atomic_store_n(&job->testing, true, __ATOMIC_SEQ_CST);
}

void test_end(struct lu_job *job)
{
	if (is_logged(&job->work))
		log_end(job);
	__atomic_store_n(&job->testing, false, __ATOMIC_SEQ_CST);
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
