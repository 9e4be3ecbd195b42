/*
 * What the tests of work on whole disks share: a disk whose steward is on one loop while all nexuses
 * are on another, nexuses a and b, and expectations about what a command is refused with.
 */
#ifndef SPINDLE_TEST_SCSI_JOB_H
#define SPINDLE_TEST_SCSI_JOB_H

#include "scsi_fixture.h"

#include <sys/stat.h>
#include <unistd.h>

static struct fx fx;
static struct fx_nexus a, b;
static uint32_t block;

static void job_init(const char *spec, uint32_t block_size)
{
	const struct loop_config lc = {.nloops = 2, .disk_engine = LOOP_DISK_WORKERS};

	fx = (struct fx){0};
	block = block_size;
	assert_int_equal(loop_set_create(&fx.set, &lc, NULL), 0);
	fx.loop = loop_set_at(fx.set, 1);
	assert_int_equal(scsi_target_create(&fx.target, FX_NAME), 0);
	fx_add_disk(&fx, spec, block_size, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	fx_start(&fx);
}

static void job_up(const char *spec, uint32_t block_size)
{
	job_init(spec, block_size);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	fx_take_power_on(&a, 0);
	fx_take_power_on(&b, 0);
}

static void job_down(void)
{
	fx_close(&a);
	fx_close(&b);
	fx_down(&fx);
}

/* ---- Commands ---- */

/* Ends with GOOD. */
static void good(struct fx_task *ft)
{
	fx_good(ft);
	fx_task_free(ft);
}

static void refused(struct fx_task *ft, uint8_t key, uint8_t asc, uint8_t ascq)
{
	fx_sense(ft, key, asc, ascq);
	fx_task_free(ft);
}

/* SPC-4 4.5.2.4.4 */
static unsigned progress_of(const uint8_t *sense)
{
	assert_int_equal(sense[15], 0x80);
	return load_be16(sense + 16);
}

static void refused_in_progress(struct fx_task *ft, uint8_t ascq)
{
	fx_sense(ft, 0x2, 0x04, ascq);
	(void)progress_of(ft->t.sense);
	fx_task_free(ft);
}

static struct fx_task *tur(struct fx_nexus *fn)
{
	return FX_CMD(fn, 0, 0, 0, 0, 0, 0, 0);
}

/* REQUEST SENSE: key, ASC and ASCQ in one number; the progress, where there is one. */
static uint32_t request_sense(struct fx_nexus *fn, unsigned *progress)
{
	struct fx_task *ft = FX_CMD(fn, 252, 0x03, 0, 0, 0, 252, 0);
	const uint32_t code =
		(uint32_t)ft->data[2] << 16 | (uint32_t)ft->data[12] << 8 | ft->data[13];

	fx_good(ft);
	if (progress != NULL)
		*progress = ft->data[15] & 0x80 ? load_be16(ft->data + 16) : 0;
	fx_task_free(ft);
	return code;
}

#define NO_SENSE        0x000000u
#define FORMATTING      0x020404u
#define SANITIZING      0x02041bu
#define TESTING         0x020409u
#define FORMAT_FAILED   0x033101u
#define SANITIZE_FAILED 0x033103u

struct finished {
	const struct fx_task *ft;
	bool is;
};

static void finished_run(void *arg)
{
	struct finished *f = arg;

	f->is = f->ft->finished;
}

FX_UNUSED static bool is_finished(const struct fx_task *ft)
{
	struct finished f = {.ft = ft};

	fx_call(&fx, finished_run, &f);
	return f.is;
}

static void pause_ms(long ms)
{
	const struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&ts, NULL);
}

/* Until REQUEST SENSE does not say this any more. */
FX_UNUSED static void wait_while(struct fx_nexus *fn, uint32_t code)
{
	for (unsigned i = 0; i < FX_WAIT_S * 100; i++) {
		if (request_sense(fn, NULL) != code)
			return;
		pause_ms(10);
	}
	fail_msg("it does not end");
}

/* A command with a parameter list. */
static struct fx_task *command_out(struct fx_nexus *fn, const uint8_t *cdb, uint8_t cdb_len,
				   const void *list, uint32_t len)
{
	struct fx_task *ft = fx_task_new(fn, cdb, cdb_len);

	if (len != 0) {
		memcpy(ft->data, list, len);
		fx_expect_out(ft, len);
	}
	return ft;
}

FX_UNUSED static struct fx_task *run_out(struct fx_nexus *fn, const uint8_t *cdb, uint8_t cdb_len,
					 const void *list, uint32_t len)
{
	struct fx_task *ft = command_out(fn, cdb, cdb_len, list, len);

	fx_run(fn->fx, ft);
	return ft;
}

static uint64_t nblocks(void)
{
	return bdev_info(unit_bdev(fx.units[0]))->nblocks;
}

/* All blocks are written with bytes that are none of the patterns of these tests. */
FX_UNUSED static void fill_disk(struct fx_nexus *fn)
{
	const uint32_t step = FX_BUF_BYTES / block;

	for (uint64_t lba = 0; lba < nblocks(); lba += step) {
		const uint32_t n = (uint32_t)min_u64(step, nblocks() - lba);
		struct fx_task *ft = fx_rw(fn, 0x8a, lba, n);

		memset(ft->data, 0x5e, (size_t)n * block);
		fx_expect_out(ft, n * block);
		fx_run(&fx, ft);
		good(ft);
	}
}

/* Every block is this pattern, from its beginning. */
FX_UNUSED static void expect_disk(struct fx_nexus *fn, const void *pattern, uint32_t len)
{
	const uint32_t step = FX_BUF_BYTES / block;
	uint8_t want[4096] = {0};

	for (uint32_t i = 0; i < block; i++)
		want[i] = ((const uint8_t *)pattern)[i % len];
	for (uint64_t lba = 0; lba < nblocks(); lba += step) {
		const uint32_t n = (uint32_t)min_u64(step, nblocks() - lba);
		struct fx_task *ft = fx_rw(fn, 0x88, lba, n);

		fx_expect_in(ft, n * block);
		fx_run(&fx, ft);
		fx_good(ft);
		for (uint32_t i = 0; i < n; i++) {
			if (memcmp(ft->data + (size_t)i * block, want, block) != 0)
				fail_msg("block %llu is not as it should be",
					 (unsigned long long)lba + i);
		}
		fx_task_free(ft);
	}
}

/* ---- A file to work on ---- */

static char file_path[64];

FX_UNUSED static void file_make(uint64_t size)
{
	int fd;

	str_copy(file_path, sizeof(file_path), "/tmp/spindle-job-XXXXXX");
	fd = mkstemp(file_path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

FX_UNUSED static void file_remove(void)
{
	unlink(file_path);
}

#endif
