/*
 * FORMAT UNIT and SANITIZE: what becomes of the data, what is refused, what others see meanwhile, and
 * what a failure, a lost nexus, an abort or a restart leaves behind.
 */
#include "scsi_job.h"

#include <fcntl.h>

/* Writes come in pieces of 256 KiB, zeros in pieces of 8 MiB, four at once: 160 ms a pass, and 400 ms. */
#define SLOW_WRITE "fault:rule=write;delay=5ms:ram:32M"
#define SLOW_ZERO  "fault:rule=zero;delay=100ms:ram:128M"

/* ---- The commands ---- */

enum { IMMED = 0x80, AUSE = 0x20 };

static struct fx_task *overwrite_new(struct fx_nexus *fn, unsigned flags, uint8_t count,
				     const void *pattern, uint16_t len)
{
	uint8_t cdb[10] = {0x48, low_u8(0x01 | flags)}, list[4 + 4096] = {count};

	store_be16(cdb + 7, low_u16(4u + len));
	store_be16(list + 2, len);
	memcpy(list + 4, pattern, len);
	return command_out(fn, cdb, 10, list, 4u + len);
}

static struct fx_task *overwrite(struct fx_nexus *fn, unsigned flags, uint8_t count,
				 const void *pattern, uint16_t len)
{
	struct fx_task *ft = overwrite_new(fn, flags, count, pattern, len);

	fx_run(&fx, ft);
	return ft;
}

static struct fx_task *block_erase(struct fx_nexus *fn, unsigned flags)
{
	const uint8_t cdb[10] = {0x48, low_u8(0x02 | flags)};

	return fx_cmd(fn, cdb, 10, 0);
}

static struct fx_task *exit_failure_mode(struct fx_nexus *fn)
{
	return FX_CMD(fn, 0, 0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0);
}

static struct fx_task *format(struct fx_nexus *fn)
{
	return FX_CMD(fn, 0, 0x04, 0, 0, 0, 0, 0);
}

static struct fx_task *format_immed(struct fx_nexus *fn)
{
	const uint8_t cdb[6] = {0x04, 0x10}, header[4] = {0, 0x02};

	return run_out(fn, cdb, 6, header, 4);
}

static struct fx_task *read_block(struct fx_nexus *fn, uint64_t lba)
{
	struct fx_task *ft = fx_rw(fn, 0x28, lba, 1);

	fx_expect_in(ft, block);
	fx_run(&fx, ft);
	return ft;
}

static uint64_t bytes_of(enum io_op op)
{
	struct unit_stats stats;

	unit_stats_read(fx.units[0], &stats);
	return stats.op[op].bytes;
}

/* ---- What becomes of the data ---- */

static const struct {
	const char *spec; /* NULL: a file */
	uint32_t block;
} disks[] = {
	{"ram:19M", 512},
	{"ram:19M", 4096},
	{NULL, 512},
	{NULL, 4096},
};

static void on_each_disk(void (*test)(void))
{
	for (size_t i = 0; i < ARRAY_LEN(disks); i++) {
		const char *spec = disks[i].spec;

		if (spec == NULL) {
			file_make(19 * MiB + 3);
			spec = file_path;
		}
		job_up(spec, disks[i].block);
		fill_disk(&a);
		test();
		job_down();
		if (disks[i].spec == NULL)
			file_remove();
	}
}

static void check_format(void)
{
	good(format(&a));
	expect_disk(&b, "", 1);
	good(tur(&a));
	assert_int_equal(request_sense(&b, NULL), NO_SENSE);
	/* And it is a disk as before. */
	fill_disk(&b);
	expect_disk(&a, "\x5e", 1);
}

static void format_makes_zeros(void **state)
{
	on_each_disk(check_format);
}

static void check_erase(void)
{
	good(block_erase(&a, 0));
	expect_disk(&b, "", 1);
	fill_disk(&b);
}

static void block_erase_makes_zeros(void **state)
{
	on_each_disk(check_erase);
}

static void check_overwrite(void)
{
	uint8_t pattern[4096];
	const uint64_t before = bytes_of(IO_WRITE), size = nblocks() * block;

	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7 + i / 256);
	good(overwrite(&a, 0, 1, "\xaa", 1));
	expect_disk(&b, "\xaa", 1);
	good(overwrite(&b, 0, 3, "wxyz", 4));
	expect_disk(&b, "wxyz", 4);
	/* One that does not divide a block, and one that is a block. */
	good(overwrite(&a, 0, 1, pattern, 7));
	expect_disk(&b, pattern, 7);
	good(overwrite(&a, 0, 1, pattern, (uint16_t)block));
	expect_disk(&b, pattern, block);
	assert_int_equal(bytes_of(IO_WRITE) - before, 6 * size);
}

static void overwrite_writes_each_pass(void **state)
{
	on_each_disk(check_overwrite);
}

/* The last pass is the pattern as it was given; a first one that fails shows the inverted one. */
static void overwrite_inverts(void **state)
{
	struct fx_task *ft;

	/* 128 writes a pass: the first pass comes to its end. */
	job_up("fault:rule=write;eio;after=128;count=1:ram:32M", 512);
	good(overwrite(&a, AUSE, 0x81, "\x0f", 1));
	expect_disk(&b, "\x0f", 1);
	job_down();

	job_up("fault:rule=write@16M-16640K;eio;after=1;count=1:ram:32M", 512);
	refused(overwrite(&a, AUSE, 0x82, "\x0f", 1), 0x3, 0x31, 0x03);
	good(exit_failure_mode(&a));
	ft = read_block(&a, nblocks() - 1);
	fx_good(ft);
	assert_int_equal(ft->data[0], 0xf0);
	fx_task_free(ft);
	good(overwrite(&a, 0, 0x82, "\x0f", 1));
	expect_disk(&b, "\x0f", 1);
	job_down();
}

/* Writes that were under way before do not land on top of it. */
static void writes_before_are_over(void **state)
{
	struct fx_task *w;

	job_up("fault:rule=write;delay=300ms;count=1:ram:4M", 512);
	w = fx_rw(&b, 0x2a, 100, 8);
	memset(w->data, 0x77, 8 * block);
	fx_expect_out(w, 8 * block);
	fx_submit(&fx, w);
	good(overwrite(&a, 0, 1, "\xaa", 1));
	fx_finish_wait(w);
	good(w);
	expect_disk(&a, "\xaa", 1);
	job_down();
}

/* ---- What is refused ---- */

static void bad_parameter(struct fx_task *ft, unsigned byte, unsigned bit)
{
	fx_sense(ft, 0x5, 0x26, 0x00);
	if (ft->t.sense[15] != (0x88 | bit) || load_be16(ft->t.sense + 16) != byte)
		fail_msg("field pointer %02x %u, expected byte %u bit %u", ft->t.sense[15],
			 load_be16(ft->t.sense + 16), byte, bit);
	fx_task_free(ft);
}

static void format_headers(void **state)
{
	static const struct {
		uint8_t flags, header[8];
		int byte, bit; /* -1: fine */
	} rows[] = {
		{0x10, {0}, -1, 0},
		{0x18, {0}, -1, 0},
		{0x13, {0}, -1, 0},
		{0x30, {0}, -1, 0},
		{0x30, {0, 0x80}, -1, 0},
		{0x10, {0, 0xf0}, -1, 0},
		{0x10, {0x01}, 0, 2},
		{0x10, {0x80}, 0, 7},
		{0x10, {0, 0x40}, 1, 6},
		{0x10, {0, 0x20}, 1, 5},
		{0x10, {0, 0x10}, 1, 4},
		{0x10, {0, 0x08}, 1, 3},
		{0x10, {0, 0x88}, 1, 3},
		{0x10, {0, 0x04}, 1, 2},
		{0x10, {0, 0x01}, 1, 0},
		{0x10, {0, 0, 0, 8}, 2, 7},
		{0x10, {0, 0, 1, 0}, 2, 7},
		{0x30, {0, 0, 1}, 2, 7},
		{0x30, {0, 0, 0, 0x01}, 3, 7},
		{0x30, {0, 0, 0, 0, 0, 0, 0, 8}, 4, 7},
		{0x30, {0, 0, 0, 0, 1}, 4, 7},
	};

	job_up("ram:4M", 512);
	fill_disk(&a);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const uint8_t cdb[6] = {0x04, rows[i].flags};
		struct fx_task *ft =
			run_out(&a, cdb, 6, rows[i].header, rows[i].flags & 0x20 ? 8 : 4);

		if (rows[i].byte < 0)
			good(ft);
		else
			bad_parameter(ft, (unsigned)rows[i].byte, (unsigned)rows[i].bit);
	}
	/* Formats of lists of defects that are none of blocks; any where there is no list. */
	for (uint8_t f = 0; f < 8; f++) {
		const uint8_t cdb[6] = {0x04, f}, listed[6] = {0x04, low_u8(0x10u | f)};
		struct fx_task *ft = fx_cmd(&a, cdb, 6, 0);

		if (f == 0)
			fx_good(ft);
		else
			fx_bad_field(ft, 1, 2);
		fx_task_free(ft);
		ft = run_out(&a, listed, 6, "\0\0\0", 4);
		if (f == 0 || f == 3)
			fx_good(ft);
		else
			fx_bad_field(ft, 1, 2);
		fx_task_free(ft);
	}
	/* Less than the header; nothing at all. */
	refused(run_out(&a, (const uint8_t[6]){0x04, 0x10}, 6, "\0\0", 2), 0x5, 0x1a, 0x00);
	refused(run_out(&a, (const uint8_t[6]){0x04, 0x30}, 6, "\0\0\0", 4), 0x5, 0x1a, 0x00);
	refused(run_out(&a, (const uint8_t[6]){0x04, 0x10}, 6, NULL, 0), 0x5, 0x1a, 0x00);
	job_down();
}

static void sanitize_lists(void **state)
{
	uint8_t list[600] = {0x01, 0, 0, 4}, cdb[10] = {0x48, 0x01};
	struct fx_task *ft;

	job_up("ram:4M", 512);
	fill_disk(&a);
	/* One byte to one block of pattern. */
	for (unsigned len = 0; len < 600; len = len == 4 ? 517 : len == 517 ? 600 : len + 1) {
		store_be16(cdb + 7, low_u16(len));
		ft = run_out(&a, cdb, 10, list, len);
		fx_bad_field(ft, 7, 7);
		fx_task_free(ft);
	}
	store_be16(cdb + 7, 8);
	bad_parameter(run_out(&a, cdb, 10, "\x00\0\0\4abcd", 8), 0, 4);
	bad_parameter(run_out(&a, cdb, 10, "\x20\0\0\4abcd", 8), 0, 6);
	bad_parameter(run_out(&a, cdb, 10, "\x41\0\0\4abcd", 8), 0, 6);
	bad_parameter(run_out(&a, cdb, 10, "\x01\1\0\4abcd", 8), 1, 7);
	bad_parameter(run_out(&a, cdb, 10, "\x01\0\0\0abcd", 8), 2, 7);
	bad_parameter(run_out(&a, cdb, 10, "\x01\0\0\5abcd", 8), 2, 7);
	bad_parameter(run_out(&a, cdb, 10, "\x01\0\4\0abcd", 8), 2, 7);
	refused(run_out(&a, cdb, 10, "\x01\0\0\4abc", 7), 0x5, 0x1a, 0x00);
	/* Nothing of that touched the disk. */
	expect_disk(&a, "\x5e", 1);
	/* CRYPTOGRAPHIC ERASE and others do not exist. */
	ft = FX_CMD(&a, 0, 0x48, 0x03, 0, 0, 0, 0, 0, 0, 0, 0);
	fx_bad_field(ft, 1, 4);
	fx_task_free(ft);
	/* Nor zones; and what needs no list has none. */
	ft = FX_CMD(&a, 0, 0x48, 0x42, 0, 0, 0, 0, 0, 0, 0, 0);
	fx_bad_field(ft, 1, 6);
	fx_task_free(ft);
	ft = FX_CMD(&a, 0, 0x48, 0x02, 0, 0, 0, 0, 0, 0, 8, 0);
	fx_bad_field(ft, 8, 3);
	fx_task_free(ft);
	expect_disk(&a, "\x5e", 1);
	job_down();
}

static void conflict(struct fx_task *ft)
{
	assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
	fx_task_free(ft);
}

static void reservations_stop_it(void **state)
{
	job_up("ram:4M", 512);
	fill_disk(&a);
	good(FX_CMD(&b, 0, 0x16, 0, 0, 0, 0, 0));
	conflict(format(&a));
	conflict(overwrite(&a, 0, 1, "\xaa", 1));
	conflict(block_erase(&a, 0));
	conflict(exit_failure_mode(&a));
	expect_disk(&b, "\x5e", 1);
	good(block_erase(&b, 0));
	expect_disk(&b, "", 1);
	job_down();
}

static void protected_disks_stay(void **state)
{
	fx_init(&fx);
	block = 512;
	fx_add_disk(&fx, "ram:4M", 512, true);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	fx_start(&fx);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	fx_take_power_on(&a, 0);
	refused(format(&a), 0x7, 0x27, 0x00);
	refused(overwrite(&a, 0, 1, "\xaa", 1), 0x7, 0x27, 0x00);
	refused(block_erase(&a, 0), 0x7, 0x27, 0x00);
	job_down();
}

/* ---- Meanwhile ---- */

/* Everybody sees that it runs and how far it is; only what tells about the unit works. */
static void seen_while(uint32_t code)
{
	const uint8_t ascq = (uint8_t)code;
	unsigned first, later;

	assert_int_equal(request_sense(&b, &first), code);
	assert_int_equal(request_sense(&a, &later), code);
	assert_true(later >= first);
	for (unsigned i = 0; i < 2; i++) {
		struct fx_nexus *fn = i == 0 ? &a : &b;

		refused_in_progress(tur(fn), ascq);
		refused_in_progress(read_block(fn, 0), ascq);
		refused_in_progress(FX_CMD(fn, 0, 0x1b, 0, 0, 0, 1, 0), ascq);
		/* Whatever else could be said of it. */
		refused_in_progress(FX_CMD(fn, 0, 0x1b, 0xff, 0xff, 0, 0xff, 0), ascq);
		refused_in_progress(FX_CMD(fn, 0, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0), ascq);
		refused_in_progress(format(fn), ascq);
		refused_in_progress(format_immed(fn), ascq);
		refused_in_progress(overwrite(fn, IMMED, 1, "\xbb", 1), ascq);
		refused_in_progress(block_erase(fn, IMMED), ascq);
		refused_in_progress(exit_failure_mode(fn), ascq);
		refused_in_progress(FX_CMD(fn, 0, 0x1d, 0x20, 0, 0, 0, 0), ascq);
		good(FX_CMD(fn, 36, 0x12, 0, 0, 0, 36, 0));
		good(FX_CMD(fn, 8, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0));
		good(FX_CMD(fn, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0));
		good(FX_CMD(fn, 64, 0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 64, 0));
	}
}

static void format_is_seen(void **state)
{
	job_up(SLOW_ZERO, 512);
	good(format_immed(&a));
	seen_while(FORMATTING);
	wait_while(&a, FORMATTING);
	good(tur(&b));
	job_down();
}

static void sanitize_is_seen(void **state)
{
	unsigned progress, last = 0;

	job_up("fault:rule=write;delay=5ms,rule=zero;delay=100ms:ram:128M", 4096);
	good(overwrite(&a, IMMED, 2, "\xaa", 1));
	seen_while(SANITIZING);
	while (request_sense(&b, &progress) == SANITIZING) {
		assert_true(progress >= last);
		last = progress;
	}
	assert_true(last > 32768);
	good(tur(&b));
	expect_disk(&b, "\xaa", 1);
	good(block_erase(&b, IMMED));
	seen_while(SANITIZING);
	wait_while(&b, SANITIZING);
	expect_disk(&b, "", 1);
	job_down();
}

/* Two at the same moment: one begins, the other hears of it. */
static void one_at_a_time(void **state)
{
	for (unsigned i = 0; i < 10; i++) {
		struct fx_task *x, *y, *lost;

		job_up("fault:rule=write;delay=20ms:ram:8M", 512);
		x = overwrite_new(&a, 0, 1, "\xaa", 1);
		y = overwrite_new(&b, 0, 1, "\xbb", 1);
		fx_submit(&fx, x);
		fx_submit(&fx, y);
		fx_finish_wait(x);
		fx_finish_wait(y);
		lost = x->t.status == SCSI_GOOD ? y : x;
		fx_good(lost == x ? y : x);
		if (lost->t.status != SCSI_BUSY)
			fx_sense(lost, 0x2, 0x04, 0x1b);
		expect_disk(&a, lost == x ? "\xbb" : "\xaa", 1);
		fx_task_free(x);
		fx_task_free(y);
		job_down();
	}
}

struct moves {
	const struct fx_task *ft;
	unsigned n;
};

static void moves_run(void *arg)
{
	struct moves *m = arg;

	m->n = m->ft->nmoves;
}

static void wait_moves(const struct fx_task *ft, unsigned n)
{
	struct moves m = {.ft = ft};

	for (unsigned i = 0; i < FX_WAIT_S * 500; i++) {
		fx_call(&fx, moves_run, &m);
		if (m.n >= n)
			return;
		pause_ms(2);
	}
	fail_msg("nothing is moved");
}

/* A write is in the middle when the work begins, and goes on when it is over: half of it is gone. */
static void a_write_is_overtaken(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct fx_task *ft;

		job_up("ram:4M", 512);
		ft = fx_rw(&a, 0x8a, 0, 2048);
		memset(ft->data, 0x5e, MiB);
		fx_expect_out(ft, MiB);
		ft->moves = FX_HOLD;
		fx_submit(&fx, ft);
		fx_release(&fx, ft);
		wait_moves(ft, 3);
		good(format(i == 0 ? &a : &b));
		while (ft->nheld != 0)
			fx_release(&fx, ft);
		fx_finish_wait(ft);
		fx_sense(ft, 0x2, 0x04, 0x04);
		fx_task_free(ft);
		expect_disk(&b, "", 1);
		job_down();
	}
}

static struct fx_task *stop_unit_new(struct fx_nexus *fn)
{
	const uint8_t cdb[6] = {0x1b};

	return fx_task_new(fn, cdb, 6);
}

/* The disk is stopped at the same moment: either is refused, and no work fails by that. */
static void stopped_at_the_same_moment(void **state)
{
	job_up("ram:4M", 512);
	for (unsigned i = 0; i < 100; i++) {
		struct fx_task *x = overwrite_new(&a, 0, 1, "\xaa", 1), *y = stop_unit_new(&b);

		fx_submit(&fx, i % 2 == 0 ? x : y);
		fx_submit(&fx, i % 2 == 0 ? y : x);
		fx_finish_wait(x);
		fx_finish_wait(y);
		if (x->t.status == SCSI_CHECK_CONDITION)
			fx_sense(x, 0x2, 0x04, 0x02);
		fx_task_free(x);
		fx_task_free(y);
		good(FX_CMD(&b, 0, 0x1b, 0, 0, 0, 1, 0));
	}
	job_down();
}

/* Its command waits; the nexus is lost; the work goes on. */
static void goes_on_without_its_nexus(void **state)
{
	struct fx_task *ft;

	job_up(SLOW_WRITE, 512);
	ft = overwrite_new(&a, 0, 1, "\xaa", 1);
	fx_submit(&fx, ft);
	while (request_sense(&b, NULL) != SANITIZING)
		pause_ms(1);
	assert_false(is_finished(ft));
	fx_close(&a);
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
	assert_int_equal(request_sense(&b, NULL), SANITIZING);
	wait_while(&b, SANITIZING);
	expect_disk(&b, "\xaa", 1);
	fx_open(&fx, &a);
	job_down();
}

static void release_run(void *arg)
{
	CHECK(store_fault_release(fx.stores[0]) == 0);
}

/* A disk that hangs: the unit says what it is at, and goes on when the disk does. */
static void hangs_with_its_disk(void **state)
{
	unsigned first, later;

	job_up("fault:rule=write@8M-;hang;count=1:ram:16M", 512);
	good(overwrite(&a, IMMED, 1, "\xaa", 1));
	/* All the rest has been begun. */
	do
		assert_int_equal(request_sense(&b, &first), SANITIZING);
	while (first != 0xffff);
	fx_close(&a);
	fx_open(&fx, &a);
	fx_take_power_on(&a, 0);
	refused_in_progress(tur(&a), 0x1b);
	assert_int_equal(request_sense(&b, &later), SANITIZING);
	assert_int_equal(first, later);
	fx_call(&fx, release_run, NULL);
	wait_while(&b, SANITIZING);
	expect_disk(&b, "\xaa", 1);
	job_down();
}

/* A write of another nexus does not come back: nothing is begun, and nobody is kept out. */
static void hanging_write_keeps_it_out(void **state)
{
	struct fx_task *w, *ft;

	job_up("fault:rule=write;hang;count=1:ram:4M", 512);
	w = fx_rw(&b, 0x2a, 100, 1);
	memset(w->data, 0x77, block);
	fx_expect_out(w, block);
	fx_submit(&fx, w);
	ft = overwrite(&a, 0, 1, "\xaa", 1);
	assert_int_equal(ft->t.status, SCSI_BUSY);
	fx_task_free(ft);
	assert_int_equal(request_sense(&b, NULL), NO_SENSE);
	good(read_block(&a, 0));
	fx_call(&fx, release_run, NULL);
	fx_finish_wait(w);
	good(w);
	good(overwrite(&a, 0, 1, "\xaa", 1));
	expect_disk(&b, "\xaa", 1);
	job_down();
}

/* ---- An abort of everything ---- */

struct abort {
	struct unit_op op;
	sem_t sem;
};

static bool is_any(const struct unit_op *op, const struct unit_task *t)
{
	return true;
}

static void abort_done(struct unit_op *op, int err)
{
	CHECK(err == 0);
	sem_post(&container_of(op, struct abort, op)->sem);
}

static void abort_run(void *arg)
{
	unit_abort(&((struct abort *)arg)->op);
}

static void abort_all(void)
{
	struct abort abort = {.op = {.unit = fx.units[0],
				     .loop = fx.loop,
				     .matches = is_any,
				     .done = abort_done}};

	sem_init(&abort.sem, 0, 0);
	fx_call(&fx, abort_run, &abort);
	fx_wait(&abort.sem);
	sem_destroy(&abort.sem);
}

/* A reset ends commands, and no SANITIZE (SBC-4 4.11). */
static void goes_on_after_aborts(void **state)
{
	struct fx_task *ft;

	job_up("fault:volatile=on,rule=write+flush;delay=4ms:ram:32M", 512);
	fill_disk(&a);
	ft = overwrite_new(&a, 0, 2, "\xaa", 1);
	fx_submit(&fx, ft);
	while (request_sense(&b, NULL) != SANITIZING)
		pause_ms(1);
	for (unsigned i = 0; i < 20; i++) {
		abort_all();
		pause_ms(7);
	}
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
	wait_while(&b, SANITIZING);
	expect_disk(&b, "\xaa", 1);
	job_down();
}

/* ---- Failures ---- */

static const char *const failing[] = {
	"fault:rule=zero+write@8M-9M;eio;count=1:ram:16M",
	"fault:rule=zero+write@8M-9M;enospc;count=1:ram:16M",
	"fault:rule=zero+write@8M-9M;short;count=1:ram:16M",
};

static void seen_failed(uint8_t ascq)
{
	for (unsigned i = 0; i < 2; i++) {
		struct fx_nexus *fn = i == 0 ? &a : &b;

		assert_int_equal(request_sense(fn, NULL), 0x033100u | ascq);
		refused(tur(fn), 0x3, 0x31, ascq);
		refused(read_block(fn, 0), 0x3, 0x31, ascq);
		good(FX_CMD(fn, 36, 0x12, 0, 0, 0, 36, 0));
		good(FX_CMD(fn, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0));
	}
}

static void format_fails(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(failing); i++) {
		job_up(failing[i], 512);
		refused(format(&a), 0x3, 0x31, 0x01);
		seen_failed(0x01);
		refused(exit_failure_mode(&a), 0x3, 0x31, 0x01);
		if (i % 2 == 0)
			good(format(&b));
		else
			good(overwrite(&b, 0, 1, "\0", 1));
		expect_disk(&a, "", 1);
		job_down();
	}
}

static void sanitize_fails(void **state)
{
	struct fx_task *ft;

	for (size_t i = 0; i < ARRAY_LEN(failing); i++) {
		job_up(failing[i], 512);
		refused(overwrite(&a, 0, 1, "\xaa", 1), 0x3, 0x31, 0x03);
		seen_failed(0x03);
		/* Not by FORMAT UNIT, not by EXIT FAILURE MODE, nor by one that could be left. */
		refused(format(&a), 0x3, 0x31, 0x03);
		ft = exit_failure_mode(&a);
		fx_bad_field(ft, 1, 4);
		fx_task_free(ft);
		ft = block_erase(&b, AUSE);
		fx_bad_field(ft, 1, 5);
		fx_task_free(ft);
		seen_failed(0x03);
		good(overwrite(&b, 0, 1, "\xbb", 1));
		expect_disk(&a, "\xbb", 1);
		job_down();
	}
}

static void failure_mode_is_left(void **state)
{
	job_up("fault:rule=zero;eio;count=1:ram:16M", 512);
	/* Without a failure there is nothing to leave. */
	good(exit_failure_mode(&a));
	refused(block_erase(&a, AUSE), 0x3, 0x31, 0x03);
	seen_failed(0x03);
	good(exit_failure_mode(&b));
	good(tur(&a));
	good(read_block(&a, 0));
	job_down();
}

/* What was written may be lost; and after that the disk takes no more. */
static void flush_fails(void **state)
{
	job_up("fault:volatile=on,rule=flush;eio;count=1:ram:16M", 512);
	refused(overwrite(&a, AUSE, 1, "\xaa", 1), 0x3, 0x31, 0x03);
	seen_failed(0x03);
	refused(overwrite(&a, AUSE, 1, "\xaa", 1), 0x3, 0x31, 0x03);
	good(exit_failure_mode(&a));
	refused(format(&a), 0x3, 0x31, 0x01);
	seen_failed(0x01);
	job_down();
}

/* Without a command that waits it is told by the unit. */
static void failure_is_seen(void **state)
{
	job_up("fault:rule=write@8M-9M;eio;count=1:ram:16M", 512);
	good(overwrite(&a, IMMED, 1, "\xaa", 1));
	wait_while(&b, SANITIZING);
	seen_failed(0x03);
	job_down();
}

/* ---- Restarts ---- */

/* The nexuses go first, as when the daemon stops. */
static void restart(const char *spec)
{
	job_down();
	job_up(spec, block);
}

static void start_run(void *arg)
{
	scsi_lu_start(fx.lus[0]);
}

static void need_tags(void)
{
	if (store_info(fx.stores[0])->keeps_tags)
		return;
	job_down();
	file_remove();
	skip();
}

static void sanitize_goes_on(void **state)
{
	static const struct {
		const char *pattern;
		uint16_t len;
		uint8_t count;
	} rows[] = {{"\xaa", 1, 1}, {"abc", 3, 2}, {"\x0f\x33", 2, 0x83}};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char spec[128];

		file_make(48 * MiB);
		str_format(spec, sizeof(spec), "fault:rule=write;delay=4ms:%s", file_path);
		job_up(spec, i % 2 == 0 ? 512 : 4096);
		need_tags();
		fill_disk(&a);
		good(overwrite(&a, IMMED, rows[i].count, rows[i].pattern, rows[i].len));
		pause_ms(60);
		restart(spec);
		/* It does not run yet, and nobody comes near the data. */
		seen_while(SANITIZING);
		pause_ms(50);
		assert_int_equal(request_sense(&a, NULL), SANITIZING);
		fx_call(&fx, start_run, NULL);
		pause_ms(60);
		restart(spec);
		fx_call(&fx, start_run, NULL);
		wait_while(&a, SANITIZING);
		expect_disk(&b, rows[i].pattern, rows[i].len);
		fill_disk(&b);
		/* And it is over, for the next process, too. */
		restart(spec);
		fx_call(&fx, start_run, NULL);
		pause_ms(20);
		good(tur(&a));
		expect_disk(&b, "\x5e", 1);
		job_down();
		file_remove();
	}
}

static void format_goes_on(void **state)
{
	char spec[128];

	file_make(80 * MiB);
	str_format(spec, sizeof(spec), "fault:rule=zero;delay=60ms:%s", file_path);
	job_up(spec, 512);
	need_tags();
	fill_disk(&a);
	good(format_immed(&a));
	pause_ms(30);
	restart(spec);
	seen_while(FORMATTING);
	fx_call(&fx, start_run, NULL);
	wait_while(&a, FORMATTING);
	expect_disk(&b, "", 1);
	job_down();
	file_remove();
}

enum { SAVE = 0x01, SWP = 0x08 };

/* SPC-4 7.5.8 */
static void set_swp(unsigned save, unsigned swp)
{
	const uint8_t cdb[6] = {0x15, low_u8(0x10 | save), 0, 0, 16};
	struct fx_task *ft = FX_CMD(&a, 16, 0x1a, 0x08, 0x0a, 0, 16, 0);
	uint8_t list[16] = {0};

	fx_good(ft);
	memcpy(list + 4, ft->data + 4, 12);
	fx_task_free(ft);
	list[4] &= 0x3f;
	list[8] = low_u8((list[8] & ~(unsigned)SWP) | swp);
	good(run_out(&a, cdb, 6, list, 16));
}

/* Protection that was saved, and was off when the work began, does not stop it in the middle. */
static void saved_protection_is_no_trap(void **state)
{
	char spec[128];

	file_make(32 * MiB);
	str_format(spec, sizeof(spec), "fault:rule=write;delay=5ms:%s", file_path);
	job_up(spec, 512);
	need_tags();
	set_swp(SAVE, SWP);
	refused(overwrite(&a, 0, 1, "\xaa", 1), 0x7, 0x27, 0x02);
	set_swp(0, 0);
	good(overwrite(&a, IMMED, 1, "\xaa", 1));
	pause_ms(30);
	restart(spec);
	fx_call(&fx, start_run, NULL);
	wait_while(&a, SANITIZING);
	expect_disk(&b, "\xaa", 1);
	restart(spec);
	refused(overwrite(&a, 0, 1, "\xbb", 1), 0x7, 0x27, 0x02);
	job_down();
	file_remove();
}

static void failures_stay(void **state)
{
	char spec[128];

	file_make(16 * MiB);
	str_format(spec, sizeof(spec), "fault:rule=write+zero@8M-9M;eio;count=1:%s", file_path);
	job_up(spec, 512);
	need_tags();
	refused(overwrite(&a, 0, 1, "\xaa", 1), 0x3, 0x31, 0x03);
	restart(file_path);
	fx_call(&fx, start_run, NULL);
	seen_failed(0x03);
	good(overwrite(&a, 0, 1, "\xaa", 1));
	restart(spec);
	expect_disk(&a, "\xaa", 1);
	refused(format(&a), 0x3, 0x31, 0x01);
	restart(spec);
	seen_failed(0x01);
	refused(block_erase(&a, AUSE), 0x3, 0x31, 0x03);
	restart(file_path);
	seen_failed(0x03);
	good(exit_failure_mode(&a));
	restart(file_path);
	good(tur(&a));
	job_down();
	file_remove();
}

/* ---- A disk that is lost ---- */

/* Lost as often as is said, in the middle of the work. */
static const struct {
	const char *ops;
	bool sanitizes;
} losses[] = {{"write", true}, {"flush", true}, {"zero", false}, {"any", true}, {"any", false}};

static void lose(const char *flag)
{
	const int fd = open(flag, O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
}

/* When it is back the work goes on, as after a loss of power; who waits for it hears no more of it. */
static void a_lost_disk_comes_back(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(losses); i++) {
		char spec[256], flag[80];
		struct fx_task *ft;

		file_make(16 * MiB);
		str_format(flag, sizeof(flag), "%s.lost", file_path);
		str_format(spec, sizeof(spec),
			   "fault:volatile=on,rule=write;delay=5ms,rule=%s;enodev;while=%s:ram:16M",
			   losses[i].ops, flag);
		job_up(spec, 512);
		fill_disk(&a);
		ft = losses[i].sanitizes ? overwrite_new(&a, 0, 0x82, "\xaa", 1)
					 : fx_task_new(&a, (const uint8_t[6]){0x04}, 6);
		if (!losses[i].sanitizes)
			lose(flag);
		fx_submit(&fx, ft);
		pause_ms(20);
		lose(flag);
		pause_ms(150);
		assert_false(is_finished(ft));
		assert_int_equal(request_sense(&b, NULL),
				 losses[i].sanitizes ? SANITIZING : FORMATTING);
		unlink(flag);
		fx_finish_wait(ft);
		good(ft);
		expect_disk(&b, losses[i].sanitizes ? "\xaa" : "", 1);
		job_down();
		file_remove();
	}
}

/* It does not come back: nothing waits for it when all ends. */
static void stays_lost(const char *ops)
{
	char spec[256];

	file_make(16 * MiB);
	str_format(spec, sizeof(spec), "fault:rule=%s@8M-;enodev:%s", ops, file_path);
	job_up(spec, 512);
	need_tags();
	good(overwrite(&a, IMMED, 1, "\xaa", 1));
	pause_ms(50);
	assert_int_equal(request_sense(&b, NULL), SANITIZING);
	restart(file_path);
	assert_int_equal(request_sense(&b, NULL), SANITIZING);
	fx_call(&fx, start_run, NULL);
	wait_while(&b, SANITIZING);
	expect_disk(&b, "\xaa", 1);
	job_down();
	file_remove();
}

static void a_lost_disk_stays_lost(void **state)
{
	stays_lost("write");
	stays_lost("write+flush");
}

/* ---- What is kept with the disk, and broken ---- */

static void keep_bytes(const uint8_t *tag, size_t len)
{
	struct loop_set *set;
	struct store *store;
	const struct store_config sc = {.size = 0};

	assert_int_equal(loop_set_create(&set, &(struct loop_config){.nloops = 1}, NULL), 0);
	assert_int_equal(store_open(&store, set, fx_types, file_path, &sc, NULL), 0);
	assert_int_equal(store_tag_set(store, "work", tag, len), 0);
	store_close(store);
	loop_set_destroy(set);
}

static ssize_t kept_bytes(uint8_t tag[static 8192])
{
	return store_tag_get(fx.stores[0], "work", tag, 8192);
}

/* Whatever is there and is not ours: no data is served, until somebody says that it may be. */
static void broken_tags_fail_safe(void **state)
{
	uint8_t tag[8192];
	ssize_t len;

	file_make(8 * MiB);
	job_up(file_path, 512);
	need_tags();
	good(overwrite(&a, AUSE, 1, "pattern", 7));
	len = kept_bytes(tag);
	assert_int_equal(len, 28); /* nothing is under way */
	restart(file_path);
	good(tur(&a));
	for (int i = -2; i < len; i++) {
		uint8_t bad[8192];
		size_t bad_len = (size_t)len;

		memcpy(bad, tag, sizeof(bad));
		if (i == -2)
			bad_len--;
		else if (i == -1)
			bad_len = 3000;
		else
			bad[i] ^= 0x11;
		job_down();
		keep_bytes(bad, bad_len);
		job_up(file_path, 512);
		fx_call(&fx, start_run, NULL);
		seen_failed(0x03);
		if (i % 2 == 0)
			good(exit_failure_mode(&a));
		else
			good(block_erase(&a, AUSE));
		good(tur(&a));
	}
	job_down();
	file_remove();
}

/* Of an erasing that was in the middle: the tag as it was kept. */
static size_t interrupted(unsigned flags, uint32_t block_size, uint16_t pattern_len,
			  uint8_t tag[static 8192])
{
	uint8_t pattern[4096] = {0xaa};
	char spec[128];
	ssize_t len;

	str_format(spec, sizeof(spec), "fault:rule=write;delay=50ms:%s", file_path);
	job_up(spec, block_size);
	fill_disk(&a);
	good(overwrite(&a, IMMED | flags, 1, pattern, pattern_len));
	pause_ms(20);
	job_down();
	job_up(file_path, block_size);
	need_tags();
	len = kept_bytes(tag);
	job_down();
	return (size_t)len;
}

static void begin_again(uint32_t block_size)
{
	job_up(file_path, block_size);
	fx_call(&fx, start_run, NULL);
}

/* Nobody has asked the copy to be erased, and nobody can take it for whole. */
static void copies_do_not_go_on(void **state)
{
	uint8_t tag[8192];
	size_t len;

	file_make(16 * MiB);
	len = interrupted(AUSE, 512, 1, tag);
	tag[16 + 7] ^= 0x01;
	store_be32(tag + len - 4, crc32c(0, tag, len - 4));
	keep_bytes(tag, len);
	begin_again(512);
	seen_failed(0x03);
	good(exit_failure_mode(&a));
	pause_ms(20);
	for (uint64_t lba = 8192; lba < nblocks(); lba += 1024) {
		struct fx_task *ft = read_block(&a, lba);

		fx_good(ft);
		assert_int_equal(ft->data[0], 0x5e);
		fx_task_free(ft);
	}
	job_down();
	file_remove();
}

/* Served with blocks that the pattern does not fit: what could not be left before cannot be now. */
static void other_blocks_are_no_way_out(void **state)
{
	uint8_t tag[8192];
	struct fx_task *ft;

	file_make(16 * MiB);
	interrupted(0, 4096, 1024, tag);
	begin_again(512);
	seen_failed(0x03);
	ft = exit_failure_mode(&a);
	fx_bad_field(ft, 1, 4);
	fx_task_free(ft);
	job_down();
	begin_again(4096);
	wait_while(&a, SANITIZING);
	good(tur(&a));
	job_down();
	file_remove();
}

/* A pattern for which there is no room: it goes on or has failed, and is never taken for done. */
static void long_patterns_are_safe(void **state)
{
	uint8_t pattern[4096];
	char spec[128];
	uint32_t x = 1, code;

	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)((x = x * 1103515245 + 12345) >> 16);
	file_make(32 * MiB);
	str_format(spec, sizeof(spec), "fault:rule=write;delay=5ms:%s", file_path);
	job_up(spec, 4096);
	need_tags();
	good(overwrite(&a, IMMED, 1, pattern, 4096));
	pause_ms(30);
	restart(spec);
	code = request_sense(&a, NULL);
	assert_true(code == SANITIZING || code == SANITIZE_FAILED);
	fx_call(&fx, start_run, NULL);
	wait_while(&a, SANITIZING);
	if (code == SANITIZE_FAILED)
		good(overwrite(&a, 0, 1, pattern, 4096));
	expect_disk(&b, pattern, 4096);
	job_down();
	file_remove();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(format_makes_zeros),
		cmocka_unit_test(block_erase_makes_zeros),
		cmocka_unit_test(overwrite_writes_each_pass),
		cmocka_unit_test(overwrite_inverts),
		cmocka_unit_test(writes_before_are_over),
		cmocka_unit_test(format_headers),
		cmocka_unit_test(sanitize_lists),
		cmocka_unit_test(reservations_stop_it),
		cmocka_unit_test(protected_disks_stay),
		cmocka_unit_test(format_is_seen),
		cmocka_unit_test(sanitize_is_seen),
		cmocka_unit_test(one_at_a_time),
		cmocka_unit_test(a_write_is_overtaken),
		cmocka_unit_test(stopped_at_the_same_moment),
		cmocka_unit_test(goes_on_without_its_nexus),
		cmocka_unit_test(goes_on_after_aborts),
		cmocka_unit_test(hangs_with_its_disk),
		cmocka_unit_test(hanging_write_keeps_it_out),
		cmocka_unit_test(format_fails),
		cmocka_unit_test(sanitize_fails),
		cmocka_unit_test(failure_mode_is_left),
		cmocka_unit_test(failure_is_seen),
		cmocka_unit_test(flush_fails),
		cmocka_unit_test(sanitize_goes_on),
		cmocka_unit_test(format_goes_on),
		cmocka_unit_test(saved_protection_is_no_trap),
		cmocka_unit_test(failures_stay),
		cmocka_unit_test(a_lost_disk_comes_back),
		cmocka_unit_test(a_lost_disk_stays_lost),
		cmocka_unit_test(broken_tags_fail_safe),
		cmocka_unit_test(copies_do_not_go_on),
		cmocka_unit_test(other_blocks_are_no_way_out),
		cmocka_unit_test(long_patterns_are_safe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
