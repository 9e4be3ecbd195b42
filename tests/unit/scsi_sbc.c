/*
 * READ CAPACITY, SYNCHRONIZE CACHE and PRE-FETCH: what they tell, their ranges, when they answer
 * and with which status.
 */
#include <unistd.h>

#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus nexus;

static void up(const char *spec, uint32_t block_size)
{
	fx_up(&fx, spec, block_size);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
}

static void down(void)
{
	fx_close(&nexus);
	fx_down(&fx);
}

static uint64_t ops(enum io_op op)
{
	static struct unit_stats stats;

	unit_stats_read(fx.units[0], &stats);
	return stats.op[op].ops;
}

static struct fx_task *range_cmd(uint8_t opcode, uint8_t flags, uint64_t lba, uint32_t nblocks)
{
	struct fx_task *ft = fx_rw(&nexus, opcode, lba, nblocks);

	ft->t.cdb[1] = flags;
	fx_run(&fx, ft);
	return ft;
}

/* ---- READ CAPACITY ---- */

static void expect_capacity(uint64_t last, uint32_t block_size, uint8_t physical_exp)
{
	struct fx_task *ft = FX_CMD(&nexus, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);

	fx_good(ft);
	assert_int_equal(load_be32(ft->data), clamp_u32(last));
	assert_int_equal(load_be32(ft->data + 4), block_size);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0);
	fx_good(ft);
	assert_int_equal(load_be64(ft->data), last);
	assert_int_equal(load_be32(ft->data + 8), block_size);
	assert_int_equal(ft->data[12], 0);
	assert_int_equal(ft->data[13], physical_exp);
	for (unsigned i = 16; i < 32; i++)
		assert_int_equal(ft->data[i], 0);
	fx_task_free(ft);
}

static void capacities(void **state)
{
	char path[] = "./scsi_sbc.XXXXXX";
	const int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1 * MiB + 1000), 0);
	close(fd);
	/* A partial block at the end is not served. */
	up(path, 512);
	expect_capacity(2048, 512, fx.lus[0]->info->physical_exp);
	assert_true(fx.lus[0]->info->physical_exp != 0);
	down();
	up(path, 4096);
	expect_capacity(255, 4096, fx.lus[0]->info->physical_exp);
	down();
	unlink(path);
	up("null:2T", 512);
	expect_capacity(UINT32_MAX, 512, 0);
	down();
	up("null:3T", 512);
	expect_capacity((UINT64_C(3) << 40 >> 9) - 1, 512, 0);
	down();
	up("null:8E", 4096);
	expect_capacity((UINT64_C(8) << 60 >> 12) - 1, 4096, 0);
	down();
}

/* ---- SYNCHRONIZE CACHE ---- */

static void ranges_of_synchronize_cache(void **state)
{
	static const struct {
		uint8_t opcode, flags;
		uint64_t lba;
		uint32_t nblocks;
		int64_t bad; /* -1: good */
	} rows[] = {
		{0x35, 0, 0, 0, -1},
		{0x35, 0x06, 5, 0, -1},
		{0x35, 0, 16383, 1, -1},
		{0x91, 0, 0, 16384, -1},
		{0x91, 0x02, 16384, 0, -1},
		{0x35, 0, 16384, 1, 16384},
		{0x35, 0x02, 16383, 2, 16384},
		{0x91, 0, 16385, 0, 16385},
		{0x91, 0, 1, UINT32_MAX, 16384},
	};
	struct fx_task *ft;
	uint64_t flushes = 0;

	up("fault:volatile=on:ram:8M", 512);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ft = range_cmd(rows[i].opcode, rows[i].flags, rows[i].lba, rows[i].nblocks);
		if (rows[i].bad < 0) {
			fx_good(ft);
			flushes++;
		} else {
			fx_sense(ft, 0x5, 0x21, 0x00);
			fx_information(ft, (uint64_t)rows[i].bad);
		}
		assert_int_equal(ops(IO_FLUSH), flushes);
		fx_task_free(ft);
	}
	down();
}

/* With IMMED as well: GOOD says that the data is safe. */
static void a_failed_flush_is_told(void **state)
{
	struct fx_task *ft;

	for (uint8_t flags = 0; flags <= 2; flags += 2) {
		up("fault:rule=flush;eio:ram:8M", 512);
		ft = range_cmd(0x91, flags, 0, 0);
		fx_sense(ft, 0x3, 0x0c, 0x00);
		assert_int_equal(ft->t.sense[0], 0x70);
		fx_task_free(ft);
		down();
	}
}

/* ---- PRE-FETCH ---- */

static void condition_met(struct fx_task *ft)
{
	assert_int_equal(ft->t.status, SCSI_CONDITION_MET);
	assert_int_equal(ft->t.sense_len, 0);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
}

static void blocks_are_brought_in(void **state)
{
	for (uint32_t bs = 512; bs <= 4096; bs *= 8) {
		const uint32_t seg = SCSI_SEG_MAX / bs;

		up("fault::ram:8M", bs);
		condition_met(range_cmd(0x34, 0, 1, 1));
		assert_int_equal(ops(IO_READ), 1);
		condition_met(range_cmd(0x90, 0x02, 3, 5 * seg + 1));
		assert_int_equal(ops(IO_READ), 1 + 6);
		condition_met(range_cmd(0x34, 0x02, 8 * MiB / bs - 1, 1));
		assert_int_equal(ops(IO_READ), 1 + 6 + 1);
		down();
	}
}

static void no_length_is_all_that_follows(void **state)
{
	const uint64_t segs = LIMIT_PREFETCH_BYTES / SCSI_SEG_MAX;
	struct fx_task *ft;

	up("fault::ram:8M", 512);
	condition_met(range_cmd(0x34, 0, 8 * MiB / 512 - 7, 0));
	assert_int_equal(ops(IO_READ), 1);
	condition_met(range_cmd(0x90, 0, 0, 0));
	assert_int_equal(ops(IO_READ), 1 + 32);
	condition_met(range_cmd(0x90, 0, 8 * MiB / 512, 0));
	assert_int_equal(ops(IO_READ), 1 + 32);
	down();
	/* As much as one command may, and no more is claimed. */
	up("fault::null:1T", 512);
	ft = range_cmd(0x34, 0, 0, 0);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(ops(IO_READ), segs);
	condition_met(range_cmd(0x90, 0, (UINT64_C(1) << 31) - LIMIT_PREFETCH_BYTES / 512, 0));
	ft = range_cmd(0x90, 0, (UINT64_C(1) << 31) - LIMIT_PREFETCH_BYTES / 512 - 1, 0);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(ops(IO_READ), 3 * segs);
	down();
}

static void ranges_of_pre_fetch(void **state)
{
	const uint32_t most = LIMIT_PREFETCH_BYTES / 4096;
	struct fx_task *ft;

	up("null:1T", 4096);
	condition_met(range_cmd(0x90, 0, 7, most));
	ft = range_cmd(0x90, 0, 0, most + 1);
	fx_bad_field(ft, 10, 7);
	fx_task_free(ft);
	ft = range_cmd(0x34, 0, 0, most + 1);
	fx_bad_field(ft, 7, 7);
	fx_task_free(ft);
	ft = range_cmd(0x90, 0, (UINT64_C(1) << 28) - 1, 2);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_information(ft, UINT64_C(1) << 28);
	fx_task_free(ft);
	ft = range_cmd(0x90, 0, UINT64_MAX, 0);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_task_free(ft);
	down();
}

static void a_read_that_fails_is_told(void **state)
{
	struct fx_task *ft;

	up("fault:rule=read@1M-1028K;eio:ram:8M", 512);
	ft = range_cmd(0x90, 0, 0, 8 * MiB / 512);
	fx_sense(ft, 0x3, 0x11, 0x00);
	fx_information(ft, MiB / 512);
	fx_task_free(ft);
	down();
}

/* Nothing is moved: what the initiator expected is left over, as with GOOD. */
static void condition_met_leaves_what_was_expected(void **state)
{
	struct fx_task *ft;

	up("ram:8M", 512);
	for (unsigned out = 0; out < 2; out++) {
		ft = fx_rw(&nexus, 0x34, 0, 4);
		if (out)
			fx_expect_out(ft, 2048);
		else
			fx_expect_in(ft, 2048);
		fx_run(&fx, ft);
		assert_int_equal(ft->t.status, SCSI_CONDITION_MET);
		fx_residual(ft, 2048, 0);
		assert_int_equal(ft->moved, 0);
		fx_task_free(ft);
	}
	down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(capacities),
		cmocka_unit_test(ranges_of_synchronize_cache),
		cmocka_unit_test(a_failed_flush_is_told),
		cmocka_unit_test(blocks_are_brought_in),
		cmocka_unit_test(no_length_is_all_that_follows),
		cmocka_unit_test(ranges_of_pre_fetch),
		cmocka_unit_test(a_read_that_fails_is_told),
		cmocka_unit_test(condition_met_leaves_what_was_expected),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
