/*
 * Diagnostics: self-tests in the foreground and in the background, their log, what ends them; the
 * diagnostic pages; the lists of defects.
 */
#include "scsi_job.h"

enum { PF = 0x10, SELFTEST = 0x04 };

#define SHORT_BG    0x20
#define EXTENDED_BG 0x40
#define ABORT       0x80
#define SHORT_FG    0xa0
#define EXTENDED_FG 0xc0

/* 32 reads of an extended test */
#define SLOW "fault:rule=read;delay=20ms:ram:8M"

static struct fx_task *diagnostic(struct fx_nexus *fn, unsigned flags)
{
	const uint8_t cdb[6] = {0x1d, low_u8(flags)};

	return fx_cmd(fn, cdb, 6, 0);
}

static struct self_test_result result_at(unsigned i)
{
	struct self_test_result all[SELF_TESTS_KEPT];
	const unsigned n = job_self_tests(fx.lus[0], all);

	assert_true(i < n);
	return all[i];
}

static unsigned results(void)
{
	struct self_test_result all[SELF_TESTS_KEPT];

	return job_self_tests(fx.lus[0], all);
}

static void expect_result(uint8_t code, uint8_t result)
{
	const struct self_test_result r = result_at(0);

	assert_int_equal(r.code, code);
	assert_int_equal(r.result, result);
	if (result != 5) {
		assert_int_equal(r.number, 0);
		assert_int_equal(r.first_failure, UINT64_MAX);
		assert_int_equal(r.sense, SENSE_NONE);
	}
}

static uint64_t bytes_read(void)
{
	struct unit_stats stats;

	unit_stats_read(fx.units[0], &stats);
	return stats.op[IO_READ].bytes;
}

/* ---- Self-tests that pass ---- */

static void tests_pass(void **state)
{
	static const struct {
		const char *spec;
		uint32_t block;
	} disks[] = {{"ram:40M", 512}, {"ram:40M", 4096}, {"ram:20K", 512}, {NULL, 4096}};

	for (size_t i = 0; i < ARRAY_LEN(disks); i++) {
		uint64_t before;

		if (disks[i].spec == NULL)
			file_make(40 * MiB);
		job_up(disks[i].spec != NULL ? disks[i].spec : file_path, disks[i].block);
		assert_int_equal(results(), 0);
		good(diagnostic(&a, SELFTEST));
		assert_int_equal(results(), 0);
		good(diagnostic(&a, SHORT_FG));
		expect_result(5, 0);
		before = bytes_read();
		good(diagnostic(&a, EXTENDED_FG));
		expect_result(6, 0);
		assert_int_equal(bytes_read() - before, nblocks() * block);
		good(diagnostic(&a, SHORT_BG));
		wait_while(&a, TESTING);
		expect_result(1, 0);
		before = bytes_read();
		good(diagnostic(&b, EXTENDED_BG));
		wait_while(&b, TESTING);
		expect_result(2, 0);
		assert_int_equal(bytes_read() - before, nblocks() * block);
		assert_int_equal(results(), 4);
		assert_int_equal(result_at(3).code, 5);
		good(tur(&a));
		job_down();
		if (disks[i].spec == NULL)
			file_remove();
	}
}

/* A short one looks everywhere, and at the first and the last block. */
static void short_tests_sample(void **state)
{
	static const char *const specs[] = {
		"fault:rule=read@0-512;eio:ram:256M",
		"fault:rule=read@268434944-;eio:ram:256M",
		"fault:rule=read@128M-132M;eio:ram:256M",
	};
	uint64_t before;

	for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
		job_up(specs[i], 512);
		refused(diagnostic(&a, SHORT_FG), 0x4, 0x3e, 0x03);
		job_down();
	}
	job_up("ram:256M", 512);
	before = bytes_read();
	good(diagnostic(&a, SHORT_FG));
	assert_true(bytes_read() - before <= 17 * MiB);
	job_down();
}

static void log_keeps_twenty(void **state)
{
	job_up("ram:1M", 512);
	for (unsigned i = 0; i < 23; i++)
		good(diagnostic(&a, i < 22 ? SHORT_FG : EXTENDED_FG));
	assert_int_equal(results(), SELF_TESTS_KEPT);
	assert_int_equal(result_at(0).code, 6);
	assert_int_equal(result_at(19).code, 5);
	job_down();
}

/* ---- In the background ---- */

static void background_is_in_nobodys_way(void **state)
{
	struct fx_task *ft;
	unsigned first, later;

	job_up(SLOW, 512);
	good(diagnostic(&a, EXTENDED_BG));
	assert_int_equal(request_sense(&b, &first), TESTING);
	expect_result(2, SELF_TEST_RUNS);
	good(tur(&a));
	good(tur(&b));
	ft = fx_rw(&b, 0x28, 9, 1);
	fx_expect_in(ft, 512);
	fx_run(&fx, ft);
	good(ft);
	pause_ms(150);
	assert_int_equal(request_sense(&a, &later), TESTING);
	assert_true(later > first);
	/* Only another test has to wait. */
	refused_in_progress(diagnostic(&a, SHORT_BG), 0x09);
	refused_in_progress(diagnostic(&b, EXTENDED_FG), 0x09);
	refused_in_progress(diagnostic(&b, SELFTEST), 0x09);
	assert_int_equal(results(), 1);
	good(diagnostic(&b, ABORT));
	expect_result(2, 1);
	assert_int_equal(request_sense(&a, NULL), NO_SENSE);
	good(diagnostic(&b, SHORT_BG));
	good(diagnostic(&b, ABORT));
	expect_result(1, 1);
	job_down();
}

static void nothing_to_abort(void **state)
{
	struct fx_task *ft;

	job_up("ram:1M", 512);
	ft = diagnostic(&a, ABORT);
	fx_bad_field(ft, 1, 7);
	fx_task_free(ft);
	job_down();
}

/* Its nexus is no part of it. */
static void background_outlives_its_nexus(void **state)
{
	job_up(SLOW, 512);
	good(diagnostic(&a, EXTENDED_BG));
	fx_close(&a);
	assert_int_equal(request_sense(&b, NULL), TESTING);
	wait_while(&b, TESTING);
	expect_result(2, 0);
	fx_open(&fx, &a);
	job_down();
}

/* What needs the disk to itself goes first (SPC-4, background mode). */
static void format_ends_tests(void **state)
{
	job_up(SLOW, 512);
	good(diagnostic(&a, EXTENDED_BG));
	good(FX_CMD(&b, 0, 0x04, 0, 0, 0, 0, 0));
	expect_result(2, 2);
	good(diagnostic(&a, EXTENDED_BG));
	good(FX_CMD(&b, 0, 0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0));
	expect_result(2, 2);
	good(tur(&a));
	job_down();
}

static void stop_ends_tests(void **state)
{
	struct self_test_result all[SELF_TESTS_KEPT];

	job_up(SLOW, 512);
	good(diagnostic(&a, EXTENDED_BG));
	fx_stop_lu(&fx, fx.lus[0]);
	assert_int_equal(job_self_tests(fx.lus[0], all), 1);
	assert_int_equal(all[0].result, 2);
	job_down();
}

/* Nobody has found a fault of a disk that was stopped. */
static void stopped_disks_are_not_faulty(void **state)
{
	struct fx_task *ft;

	job_up(SLOW, 512);
	ft = fx_task_new(&a, (const uint8_t[6]){0x1d, 0x04}, 6);
	fx_submit(&fx, ft);
	while (request_sense(&b, NULL) != TESTING)
		pause_ms(1);
	good(FX_CMD(&b, 0, 0x1b, 0, 0, 0, 0, 0));
	fx_finish_wait(ft);
	refused(ft, 0x2, 0x04, 0x02);
	job_down();
}

/* ---- In the foreground ---- */

static void foreground_has_the_disk(void **state)
{
	struct fx_task *ft, *r;

	job_up(SLOW, 512);
	ft = fx_task_new(&a, (const uint8_t[6]){0x1d, EXTENDED_FG}, 6);
	fx_submit(&fx, ft);
	while (request_sense(&b, NULL) != TESTING)
		pause_ms(1);
	refused_in_progress(tur(&b), 0x09);
	r = fx_rw(&b, 0x28, 9, 1);
	fx_expect_in(r, 512);
	fx_run(&fx, r);
	refused_in_progress(r, 0x09);
	refused_in_progress(FX_CMD(&b, 0, 0x04, 0, 0, 0, 0, 0), 0x09);
	refused_in_progress(diagnostic(&b, ABORT), 0x09);
	good(FX_CMD(&b, 36, 0x12, 0, 0, 0, 36, 0));
	assert_false(is_finished(ft));
	fx_finish_wait(ft);
	good(ft);
	expect_result(6, 0);
	good(tur(&b));
	job_down();
}

/* The command is aborted with its nexus, and so is the test. */
static void foreground_ends_with_its_nexus(void **state)
{
	struct fx_task *ft;

	job_up(SLOW, 512);
	ft = fx_task_new(&a, (const uint8_t[6]){0x1d, EXTENDED_FG}, 6);
	fx_submit(&fx, ft);
	while (request_sense(&b, NULL) != TESTING)
		pause_ms(1);
	fx_close(&a);
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
	wait_while(&b, TESTING);
	expect_result(6, 2);
	good(tur(&b));
	fx_open(&fx, &a);
	job_down();
}

/* ---- Self-tests that fail ---- */

static void expect_failure(uint8_t code, uint64_t lba)
{
	const struct self_test_result r = result_at(0);

	assert_int_equal(r.code, code);
	assert_int_equal(r.result, 5);
	assert_int_equal(r.number, 1);
	assert_int_equal(r.first_failure, lba);
	assert_int_equal(r.sense, SENSE_UNRECOVERED_READ);
}

static void failures_have_an_address(void **state)
{
	for (uint32_t bs = 512; bs <= 4096; bs *= 8) {
		job_up("fault:rule=read@3000000-3000001;eio:ram:8M", bs);
		refused(diagnostic(&a, EXTENDED_FG), 0x4, 0x3e, 0x03);
		expect_failure(6, 3000000 / bs);
		good(diagnostic(&a, EXTENDED_BG));
		wait_while(&a, TESTING);
		expect_failure(2, 3000000 / bs);
		good(tur(&a));
		job_down();
	}
	/* What is gone when it is looked at closely was none. */
	job_up("fault:rule=read@3000000-3000001;eio;count=1:ram:8M", 512);
	good(diagnostic(&a, EXTENDED_FG));
	expect_result(6, 0);
	job_down();
	/* No test can be made of a disk that is gone. */
	job_up("fault:rule=read;enodev:ram:8M", 512);
	refused(diagnostic(&a, SELFTEST), 0x2, 0x04, 0x03);
	refused(diagnostic(&a, SHORT_FG), 0x2, 0x04, 0x03);
	expect_result(5, 3);
	job_down();
}

/* ---- The CDB and lists of SEND DIAGNOSTIC ---- */

static void bad_requests(void **state)
{
	static const struct {
		uint8_t flags, len;
		unsigned byte, bit;
	} rows[] = {
		{0x60, 0, 1, 7}, /* reserved codes */
		{0xe0, 0, 1, 7},
		{SHORT_BG | SELFTEST, 0, 1, 7}, /* two at once */
		{SELFTEST | PF, 0, 1, 4},
		{SHORT_FG | PF, 0, 1, 4},
		{SELFTEST, 4, 3, 7},
		{SHORT_BG, 4, 3, 7},
		{0, 4, 1, 4}, /* a vendor's list */
		{0x08, 0, 1, 3},
	};

	job_up("ram:1M", 512);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const uint8_t cdb[6] = {0x1d, rows[i].flags, 0, 0, rows[i].len};
		struct fx_task *ft = run_out(&a, cdb, 6, "\0\0\0", rows[i].len);

		fx_bad_field(ft, rows[i].byte, rows[i].bit);
		fx_task_free(ft);
	}
	assert_int_equal(results(), 0);
	/* Nothing is asked for. */
	good(diagnostic(&a, 0));
	good(diagnostic(&a, PF));
	job_down();
}

static void bad_parameter(struct fx_task *ft, unsigned byte)
{
	fx_sense(ft, 0x5, 0x26, 0x00);
	assert_int_equal(ft->t.sense[15], 0x8f);
	assert_int_equal(load_be16(ft->t.sense + 16), byte);
	fx_task_free(ft);
}

static void pages(void **state)
{
	static const uint8_t expected[5] = {0, 0, 0, 1, 0};
	uint8_t cdb[6] = {0x1d, PF, 0, 0, 4};
	struct fx_task *ft;

	job_up("ram:1M", 512);
	good(run_out(&a, cdb, 6, "\0\0\0\0", 4));
	bad_parameter(run_out(&a, cdb, 6, "\x40\0\0\0", 4), 0);
	bad_parameter(run_out(&a, cdb, 6, "\0\1\0\0", 4), 1);
	bad_parameter(run_out(&a, cdb, 6, "\0\0\0\1", 4), 2);
	refused(run_out(&a, cdb, 6, "\0\0\0", 3), 0x5, 0x1a, 0x00);
	cdb[4] = 3;
	refused(run_out(&a, cdb, 6, "\0\0\0", 3), 0x5, 0x1a, 0x00);
	for (uint8_t pcv = 0; pcv < 2; pcv++) {
		ft = FX_CMD(&a, 64, 0x1c, pcv, 0, 0, 64, 0);
		fx_good(ft);
		assert_int_equal(ft->moved, 5);
		assert_memory_equal(ft->data, expected, 5);
		fx_task_free(ft);
	}
	ft = FX_CMD(&a, 64, 0x1c, 1, 0x40, 0, 64, 0);
	fx_bad_field(ft, 2, 7);
	fx_task_free(ft);
	job_down();
}

/* ---- READ DEFECT DATA ---- */

static void defect_lists_are_empty(void **state)
{
	struct fx_task *ft;

	job_up("ram:1M", 512);
	for (uint8_t asked = 0; asked < 32; asked++) {
		const uint8_t want10[4] = {0, asked}, want12[8] = {0, asked};
		const bool known = (asked & 7) < 6;

		ft = FX_CMD(&a, 64, 0x37, 0, asked, 0, 0, 0, 0, 0, 64, 0);
		if (known) {
			fx_good(ft);
			assert_int_equal(ft->moved, 4);
			assert_memory_equal(ft->data, want10, 4);
		} else {
			fx_bad_field(ft, 2, 2);
		}
		fx_task_free(ft);
		/* From whatever descriptor on. */
		ft = FX_CMD(&a, 64, 0xb7, asked, 0, 0, 1, 0, 0, 0, 0, 64, 0, 0);
		if (known) {
			fx_good(ft);
			assert_int_equal(ft->moved, 8);
			assert_memory_equal(ft->data, want12, 8);
		} else {
			fx_bad_field(ft, 1, 2);
		}
		fx_task_free(ft);
	}
	ft = FX_CMD(&a, 64, 0x37, 0, 0x18, 0, 0, 0, 0, 0, 2, 0);
	fx_good(ft);
	assert_int_equal(ft->moved, 2);
	fx_task_free(ft);
	job_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tests_pass),
		cmocka_unit_test(short_tests_sample),
		cmocka_unit_test(log_keeps_twenty),
		cmocka_unit_test(background_is_in_nobodys_way),
		cmocka_unit_test(nothing_to_abort),
		cmocka_unit_test(background_outlives_its_nexus),
		cmocka_unit_test(format_ends_tests),
		cmocka_unit_test(stop_ends_tests),
		cmocka_unit_test(stopped_disks_are_not_faulty),
		cmocka_unit_test(foreground_has_the_disk),
		cmocka_unit_test(foreground_ends_with_its_nexus),
		cmocka_unit_test(failures_have_an_address),
		cmocka_unit_test(bad_requests),
		cmocka_unit_test(pages),
		cmocka_unit_test(defect_lists_are_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
