/*
 * Data: segments of every count and size, residuals, flush and FUA, and what each error of a store
 * becomes. Block sizes 512 and 4096; a transport that moves at once, later, or when it likes.
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

static void fill(uint8_t *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		p[i] = (uint8_t)(seed >> 56);
	}
}

static struct fx_task *transfer(uint8_t opcode, uint64_t lba, uint32_t nblocks, uint32_t expected,
				enum fx_moves moves, const uint8_t *data)
{
	struct fx_task *ft = fx_rw(&nexus, opcode, lba, nblocks);

	ft->moves = moves;
	if (data != NULL) {
		memcpy(ft->data, data, expected);
		fx_expect_out(ft, expected);
	} else {
		fx_expect_in(ft, expected);
	}
	fx_run(&fx, ft);
	return ft;
}

/* ---- Segments ---- */

static unsigned nsegments(uint64_t bytes)
{
	return (unsigned)((bytes + SCSI_SEG_MAX - 1) / SCSI_SEG_MAX);
}

static void round_trip(uint32_t block_size, uint32_t nblocks, enum fx_moves moves)
{
	const uint32_t len = nblocks * block_size;
	uint8_t *data = malloc(len + 1);
	struct fx_task *ft;

	fill(data, len, len + moves);
	ft = transfer(0x2a, 7, nblocks, len, moves, data);
	fx_good(ft);
	fx_residual(ft, 0, 0);
	assert_int_equal(ft->nmoves, nsegments(len));
	assert_int_equal(ft->moved, len);
	fx_task_free(ft);

	ft = transfer(0x88, 7, nblocks, len, moves, NULL);
	fx_good(ft);
	fx_residual(ft, 0, 0);
	assert_int_equal(ft->nmoves, nsegments(len));
	/* The status goes with the last segment. */
	assert_int_equal(ft->at_finish, len);
	assert_memory_equal(ft->data, data, len);
	fx_task_free(ft);
	free(data);
}

static void segments_of_every_count(uint32_t block_size)
{
	const uint32_t seg = SCSI_SEG_MAX / block_size;
	const uint32_t counts[] = {0,       1,       2,           7,           seg - 1,
				   seg,     seg + 1, 2 * seg - 1, 2 * seg,     2 * seg + 1,
				   3 * seg, 5 * seg, 9 * seg + 3, 15 * seg - 1};

	up("ram:16M", block_size);
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		round_trip(block_size, counts[i], FX_AT_ONCE);
		round_trip(block_size, counts[i], FX_LATER);
	}
	down();
}

static void segments_512(void **state)
{
	segments_of_every_count(512);
}

static void segments_4096(void **state)
{
	segments_of_every_count(4096);
}

static void segments_over_a_store_with_a_home(void **state)
{
	up("fault::ram:16M", 512);
	round_trip(512, 1, FX_LATER);
	round_trip(512, 3000, FX_LATER);
	round_trip(512, 3000, FX_AT_ONCE);
	down();
}

/* No third segment is begun while two are held, and then one for each that was let go. */
static void two_segments_at_a_time(void **state)
{
	const uint32_t nblocks = 5 * SCSI_SEG_MAX / 512;
	struct fx_task *ft;

	up("ram:16M", 512);
	for (unsigned write = 0; write < 2; write++) {
		ft = fx_rw(&nexus, write ? 0x8a : 0x88, 0, nblocks);
		ft->moves = FX_HOLD;
		if (write)
			fx_expect_out(ft, nblocks * 512);
		else
			fx_expect_in(ft, nblocks * 512);
		fx_submit(&fx, ft);
		fx_settle(&fx);
		for (unsigned done = 0; done < 5; done++) {
			const unsigned begun = done + 2 < 5 ? done + 2 : 5;

			assert_int_equal(ft->nmoves, begun);
			assert_int_equal(ft->finished, !write && begun == 5);
			fx_release(&fx, ft);
			fx_settle(&fx);
		}
		fx_finish_wait(ft);
		fx_good(ft);
		fx_task_free(ft);
	}
	down();
}

/* ---- Memory that the store lends ---- */

static uint64_t ops(enum io_op op)
{
	static struct unit_stats stats;

	unit_stats_read(fx.units[0], &stats);
	return stats.op[op].ops;
}

static unsigned lent_of(const char *spec, bool no_lend, uint32_t expected)
{
	struct fx_task *ft;
	unsigned nlent;

	up(spec, 512);
	ft = fx_rw(&nexus, 0x88, 3, 3 * SCSI_SEG_MAX / 512);
	ft->t.no_lend = no_lend;
	ft->moves = FX_LATER;
	fx_expect_in(ft, expected);
	fx_run(&fx, ft);
	fx_good(ft);
	assert_int_equal(ft->moved, expected);
	assert_int_equal(ops(IO_READ), 3);
	nlent = ft->nlent;
	fx_task_free(ft);
	down();
	return nlent;
}

static void who_lends_and_who_takes_it(void **state)
{
	assert_int_equal(lent_of("ram:16M", false, 3 * SCSI_SEG_MAX), 3);
	assert_int_equal(lent_of("ram:16M", true, 3 * SCSI_SEG_MAX), 0);
	assert_int_equal(lent_of("fault::ram:16M", false, 3 * SCSI_SEG_MAX), 0);
	/* The last block is taken in part: it is copied. */
	assert_int_equal(lent_of("ram:16M", false, 3 * SCSI_SEG_MAX - 1), 2);
}

/* An ORDERED write would change what an older read still sends: it waits. A SIMPLE one need not. */
static void lent_memory_keeps_its_place_in_the_order(void **state)
{
	struct fx_task *read, *write, *head;

	up("ram:16M", 512);
	read = fx_rw(&nexus, 0x88, 0, 1);
	read->moves = FX_HOLD;
	fx_expect_in(read, 512);
	fx_submit(&fx, read);
	assert_true(read->finished);
	assert_int_equal(read->nlent, 1);
	write = fx_rw(&nexus, 0x8a, 0, 1);
	write->t.attr = SCSI_ORDERED;
	fx_expect_out(write, 512);
	fx_submit(&fx, write);
	head = fx_rw(&nexus, 0x8a, 1, 1);
	head->t.attr = SCSI_HEAD_OF_QUEUE;
	fx_expect_out(head, 512);
	fx_run(&fx, head);
	fx_good(head);
	fx_settle(&fx);
	assert_false(write->finished);
	assert_int_equal(write->moved, 0);
	fx_release(&fx, read);
	fx_finish_wait(read);
	fx_finish_wait(write);
	fx_good(read);
	fx_good(write);
	fx_task_free(read);
	fx_task_free(write);
	fx_task_free(head);
	down();
}

/* ---- Residuals ---- */

struct residual_row {
	uint32_t nblocks, expected;
	bool refused; /* a write of part of a block */
};

static const struct residual_row residual_rows[] = {
	{1, 0, false},   {1, 10000, false},        {1, 200, true},
	{2, 512, false}, {1, 1024, false},         {0, 512, false},
	{0, 0, false},   {2000, 700 * 512, false}, {2000, 300001, true}};

static void expect_read(const struct residual_row *r, const uint8_t *disk)
{
	const uint32_t len = r->nblocks * 512, moved = len < r->expected ? len : r->expected;
	struct fx_task *ft = transfer(0x28, 0, r->nblocks, r->expected, FX_LATER, NULL);

	fx_good(ft);
	assert_int_equal(ft->moved, moved);
	assert_memory_equal(ft->data, disk, moved);
	fx_residual(ft, r->expected - moved, len - moved);
	fx_task_free(ft);
}

static void expect_write(const struct residual_row *r, uint8_t *disk)
{
	const uint32_t len = r->nblocks * 512, moved = len < r->expected ? len : r->expected;
	uint8_t *data = malloc(r->expected + 1);
	struct fx_task *ft;

	fill(data, r->expected, r->nblocks);
	ft = transfer(0x2a, 0, r->nblocks, r->expected, FX_LATER, data);
	if (r->refused) {
		fx_sense(ft, 0x5, 0x0e, 0x03);
		assert_int_equal(ft->moved, 0);
	} else {
		fx_good(ft);
		assert_int_equal(ft->moved, moved);
		memcpy(disk, data, moved);
	}
	fx_residual(ft, r->expected - moved, len - moved);
	fx_task_free(ft);
	free(data);
	ft = transfer(0x28, 0, 4096, 2 * MiB, FX_LATER, NULL);
	fx_good(ft);
	assert_memory_equal(ft->data, disk, 2 * MiB);
	fx_task_free(ft);
}

static void residuals(void **state)
{
	uint8_t *disk = calloc(1, 2 * MiB);
	struct fx_task *ft;

	up("ram:16M", 512);
	fill(disk, 2 * MiB, 1);
	ft = transfer(0x2a, 0, 4096, 2 * MiB, FX_LATER, disk);
	fx_good(ft);
	fx_task_free(ft);
	for (size_t i = 0; i < ARRAY_LEN(residual_rows); i++)
		expect_read(&residual_rows[i], disk);
	for (size_t i = 0; i < ARRAY_LEN(residual_rows); i++)
		expect_write(&residual_rows[i], disk);
	down();
	free(disk);
}

static void data_in_the_other_direction_is_not_moved(void **state)
{
	const uint8_t data[512] = {1};
	struct fx_task *ft;

	up("ram:16M", 512);
	ft = transfer(0x28, 0, 1, 512, FX_LATER, data);
	fx_good(ft);
	fx_residual(ft, 0, 512);
	assert_int_equal(ft->moved, 0);
	fx_task_free(ft);
	ft = transfer(0x2a, 0, 1, 512, FX_LATER, NULL);
	fx_good(ft);
	fx_residual(ft, 0, 512);
	fx_task_free(ft);
	ft = transfer(0x28, 0, 0, 512, FX_LATER, data);
	fx_good(ft);
	fx_residual(ft, 512, 0);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 77, 0x00, 0, 0, 0, 0, 0);
	fx_good(ft);
	fx_residual(ft, 77, 0);
	fx_task_free(ft);
	down();
}

/* ---- Ranges ---- */

static void ranges(void **state)
{
	static const struct {
		uint8_t opcode;
		uint64_t lba;
		uint32_t nblocks;
		bool fits;
		uint64_t first_bad;
	} rows[] = {
		{0x28, 32767, 1, true, 0},
		{0x28, 32768, 0, true, 0},
		{0x28, 32769, 0, false, 32769},
		{0x28, 32767, 2, false, 32768},
		{0x28, UINT32_MAX, 1, false, UINT32_MAX},
		{0x2a, 32768, 1, false, 32768},
		{0x88, 40000, 1, false, 40000},
		{0x88, 32767, UINT32_MAX, false, 32768},
		{0x8a, 0, UINT32_MAX, false, 32768},
		{0x8a, 32768, 1, false, 32768},
		{0x35, 32768, 0, true, 0},
		{0x35, 32767, 2, false, 32768},
		{0x91, 5, 32764, false, 32768},
		{0x91, 0, 32768, true, 0},
	};
	struct fx_task *ft;

	up("ram:16M", 512);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ft = fx_rw(&nexus, rows[i].opcode, rows[i].lba, rows[i].nblocks);
		fx_run(&fx, ft);
		if (rows[i].fits) {
			fx_good(ft);
		} else {
			fx_sense(ft, 0x5, 0x21, 0x00);
			fx_information(ft, rows[i].first_bad);
		}
		fx_task_free(ft);
	}
	ft = fx_rw(&nexus, 0x88, UINT64_MAX, 1);
	fx_run(&fx, ft);
	fx_sense(ft, 0x5, 0x21, 0x00);
	assert_int_equal(ft->t.sense[0], 0x70); /* too large for the field */
	fx_task_free(ft);
	down();
}

/* Blocks that need more than 32 bits: READ CAPACITY(10) and the short descriptor say that they do,
 * and fixed format sense has no room for one (SBC-3 4.18.1). */
static void a_disk_beyond_32_bits(void **state)
{
	const uint64_t nblocks = 3 * 1024 * 1024 * MiB / 512;
	const uint8_t *descriptor;
	struct fx_task *ft;

	up("null:3T", 512);
	ft = FX_CMD(&nexus, 8, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
	fx_good(ft);
	assert_int_equal(load_be32(ft->data), UINT32_MAX);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0);
	fx_good(ft);
	assert_true(load_be64(ft->data) == nblocks - 1);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 255, 0x1a, 0, 0x3f, 0, 255, 0);
	fx_good(ft);
	descriptor = ft->data + 4;
	assert_int_equal(load_be32(descriptor), UINT32_MAX);
	assert_int_equal(load_be32(descriptor + 4), 512);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 255, 0x5a, 0x10, 0x3f, 0, 0, 0, 0, 0, 255, 0);
	fx_good(ft);
	descriptor = ft->data + 8;
	assert_true(load_be64(descriptor) == nblocks);
	assert_int_equal(load_be32(descriptor + 12), 512);
	fx_task_free(ft);
	ft = transfer(0x88, nblocks - 1, 1, 512, FX_LATER, NULL);
	fx_good(ft);
	fx_task_free(ft);
	ft = transfer(0x88, nblocks - 1, 2, 1024, FX_LATER, NULL);
	fx_sense(ft, 0x5, 0x21, 0x00);
	assert_int_equal(ft->t.sense[0], 0x70);
	assert_int_equal(load_be32(ft->t.sense + 3), 0);
	fx_task_free(ft);
	down();
}

/* ---- Errors of the store ---- */

static void errors(void **state)
{
	static const struct {
		const char *spec;
		uint8_t opcode, key, asc, ascq;
		int64_t information; /* -1: none */
		enum scsi_status status;
	} rows[] = {
		{"read;eio", 0x28, 0x3, 0x11, 0x00, 100, SCSI_CHECK_CONDITION},
		{"write;eio", 0x2a, 0x3, 0x0c, 0x00, 100, SCSI_CHECK_CONDITION},
		{"read;enodata", 0x28, 0x3, 0x11, 0x00, 100, SCSI_CHECK_CONDITION},
		{"write;enodata", 0x2a, 0x3, 0x0c, 0x00, 100, SCSI_CHECK_CONDITION},
		{"flush;eio", 0x35, 0x3, 0x0c, 0x00, -1, SCSI_CHECK_CONDITION},
		{"write;enospc", 0x2a, 0x7, 0x27, 0x07, -1, SCSI_CHECK_CONDITION},
		{"write;erofs", 0x2a, 0x7, 0x27, 0x00, -1, SCSI_CHECK_CONDITION},
		{"read;enodev", 0x28, 0x2, 0x04, 0x03, -1, SCSI_CHECK_CONDITION},
		{"read;enomem", 0x28, 0, 0, 0, -1, SCSI_TASK_SET_FULL},
		{"read;etimedout", 0x28, 0, 0, 0, -1, SCSI_BUSY},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const uint8_t data[512] = {0};
		const bool write = rows[i].opcode == 0x2a;
		char spec[64];
		struct fx_task *ft;

		snprintf(spec, sizeof(spec), "fault:rule=%s:ram:16M", rows[i].spec);
		up(spec, 512);
		ft = transfer(rows[i].opcode, 100, 1, rows[i].opcode == 0x35 ? 0 : 512, FX_LATER,
			      write ? data : NULL);
		assert_int_equal(ft->t.status, rows[i].status);
		if (rows[i].status == SCSI_CHECK_CONDITION)
			fx_sense(ft, rows[i].key, rows[i].asc, rows[i].ascq);
		if (rows[i].information >= 0)
			fx_information(ft, (uint64_t)rows[i].information);
		if (rows[i].opcode == 0x28)
			fx_residual(ft, 512, 0);
		fx_task_free(ft);
		down();
	}
}

/* An error in the third segment: what came before was moved, the residual is what was not. */
static void an_error_in_the_middle_of_a_read(void **state)
{
	const uint32_t len = 4 * SCSI_SEG_MAX;
	struct fx_task *ft;

	up("fault:rule=read@600K-700K;eio:ram:16M", 512);
	ft = transfer(0x88, 0, len / 512, len, FX_LATER, NULL);
	fx_sense(ft, 0x3, 0x11, 0x00);
	fx_information(ft, 600 * 1024 / 512);
	assert_true(ft->moved <= 2 * SCSI_SEG_MAX);
	assert_int_equal(ft->at_finish, ft->moved);
	fx_residual(ft, len - ft->moved, 0);
	fx_task_free(ft);
	down();
}

static void an_error_in_the_middle_of_a_write(void **state)
{
	const uint32_t len = 4 * SCSI_SEG_MAX;
	uint8_t *data = malloc(len);
	struct fx_task *ft;

	fill(data, len, 3);
	up("fault:rule=write@600K-700K;enospc;count=1:ram:16M", 512);
	ft = transfer(0x8a, 0, len / 512, len, FX_LATER, data);
	fx_sense(ft, 0x7, 0x27, 0x07);
	fx_task_free(ft);
	/* Space is back: the same command works. */
	ft = transfer(0x8a, 0, len / 512, len, FX_LATER, data);
	fx_good(ft);
	fx_task_free(ft);
	ft = transfer(0x88, 0, len / 512, len, FX_LATER, NULL);
	fx_good(ft);
	assert_memory_equal(ft->data, data, len);
	fx_task_free(ft);
	down();
	free(data);
}

/* The second segment fails first. */
static void the_lower_of_two_errors_is_told(void **state)
{
	const uint32_t len = 2 * SCSI_SEG_MAX;
	struct fx_task *ft;

	up("fault:rule=read@0-1K;hang;count=1,rule=read;eio:ram:16M", 512);
	ft = fx_rw(&nexus, 0x88, 1, len / 512);
	ft->moves = FX_LATER;
	fx_expect_in(ft, len);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(ft);
	fx_sense(ft, 0x3, 0x11, 0x00);
	fx_information(ft, 1);
	fx_residual(ft, len, 0);
	fx_task_free(ft);
	down();
}

/* GOOD only when the last segment is in the store: the first hangs, the second is through. */
static void good_waits_for_every_segment(void **state)
{
	const uint32_t len = 2 * SCSI_SEG_MAX;
	struct fx_task *ft;

	up("fault:rule=write@0-1K;hang:ram:16M", 512);
	ft = fx_rw(&nexus, 0x8a, 0, len / 512);
	ft->moves = FX_LATER;
	fx_expect_out(ft, len);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_int_equal(ft->moved, len);
	assert_false(ft->finished);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(ft);
	fx_good(ft);
	fx_task_free(ft);
	down();
}

static void data_that_does_not_come(void **state)
{
	const uint32_t len = 3 * SCSI_SEG_MAX;
	struct fx_task *ft;

	up("ram:16M", 512);
	ft = fx_rw(&nexus, 0x8a, 0, len / 512);
	ft->moves = FX_LATER;
	ft->move_err = -EIO;
	fx_expect_out(ft, len);
	memset(ft->data, 0xee, len);
	fx_run(&fx, ft);
	fx_sense(ft, 0x4, 0x44, 0x00);
	fx_task_free(ft);
	ft = transfer(0x88, 0, len / 512, len, FX_LATER, NULL);
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(ft->data[i], 0);
	fx_task_free(ft);
	down();
}

/* What the transport has said of the data is the command's sense. */
static void a_digest_error_is_told(void **state)
{
	struct fx_task *ft;

	up("ram:16M", 512);
	ft = fx_rw(&nexus, 0x2a, 0, 1);
	ft->moves = FX_HOLD;
	ft->move_err = -EIO;
	fx_expect_out(ft, 512);
	fx_submit(&fx, ft);
	assert_int_equal(ft->nheld, 1);
	scsi_task_sense(&ft->t, SENSE_DATA_DIGEST_ERROR);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_sense(ft, 0xb, 0x47, 0x05);
	fx_task_free(ft);
	down();
}

static void a_failed_write_asks_its_other_segment_back(void **state)
{
	const uint32_t len = 3 * SCSI_SEG_MAX;
	struct fx_task *ft;

	up("fault:rule=write;enospc:ram:16M", 512);
	ft = fx_rw(&nexus, 0x8a, 0, len / 512);
	ft->moves = FX_HOLD;
	fx_expect_out(ft, len);
	fx_submit(&fx, ft);
	assert_int_equal(ft->nheld, 2);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	assert_int_equal(ft->ncancelled, 1);
	assert_int_equal(ft->nmoves, 2);
	fx_sense(ft, 0x7, 0x27, 0x07);
	fx_task_free(ft);
	down();
}

/* ---- Write protection, flush, FUA ---- */

static void read_only_disks_refuse_writes(void **state)
{
	const uint8_t data[512] = {0};
	struct fx_task *ft;

	fx_init(&fx);
	fx_add_disk(&fx, "ram:16M", 512, true);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	fx_start(&fx);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
	ft = transfer(0x2a, 0, 1, 512, FX_LATER, data);
	fx_sense(ft, 0x7, 0x27, 0x00);
	assert_int_equal(ft->moved, 0);
	fx_residual(ft, 512, 0);
	fx_task_free(ft);
	ft = transfer(0x28, 0, 1, 512, FX_LATER, NULL);
	fx_good(ft);
	fx_task_free(ft);
	down();
}

static void flush_reaches_the_store(void **state)
{
	struct fx_task *ft;

	up("fault:volatile=on:ram:16M", 512);
	ft = FX_CMD(&nexus, 0, 0x35, 0x02, 0, 0, 0, 0, 0, 0, 0, 0);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(ops(IO_FLUSH), 1);
	ft = fx_rw(&nexus, 0x91, 0, 0);
	fx_run(&fx, ft);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(ops(IO_FLUSH), 2);
	/* A read with FUA shows what is on the medium. */
	ft = fx_rw(&nexus, 0x28, 0, 1);
	ft->t.cdb[1] = 0x18;
	fx_expect_in(ft, 512);
	fx_run(&fx, ft);
	fx_good(ft);
	assert_int_equal(ft->moved, 512);
	fx_task_free(ft);
	assert_int_equal(ops(IO_FLUSH), 3);
	down();
}

/* A cache that dies with the process stands between the unit and this file: what is not durable is
 * not in it. */
static void fua_is_durable(void **state)
{
	char path[] = "/tmp/scsi_data.XXXXXX", spec[64];
	const int fd = mkstemp(path);
	uint8_t block[512];
	struct fx_task *ft;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	snprintf(spec, sizeof(spec), "fault:volatile=on:file:%s", path);
	up(spec, 512);
	unlink(path);
	for (unsigned fua = 0; fua < 2; fua++) {
		ft = fx_rw(&nexus, 0x2a, 8 + fua, 1);
		ft->t.cdb[1] = fua ? 0x08 : 0x10;
		memset(ft->data, 0xee, 512);
		fx_expect_out(ft, 512);
		fx_run(&fx, ft);
		fx_good(ft);
		fx_task_free(ft);
		assert_int_equal(pread(fd, block, 512, (8 + fua) * 512), 512);
		assert_int_equal(block[0], fua ? 0xee : 0);
	}
	ft = FX_CMD(&nexus, 0, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(pread(fd, block, 512, 8 * 512), 512);
	assert_int_equal(block[0], 0xee);
	close(fd);
	down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(segments_512),
		cmocka_unit_test(segments_4096),
		cmocka_unit_test(segments_over_a_store_with_a_home),
		cmocka_unit_test(two_segments_at_a_time),
		cmocka_unit_test(who_lends_and_who_takes_it),
		cmocka_unit_test(lent_memory_keeps_its_place_in_the_order),
		cmocka_unit_test(residuals),
		cmocka_unit_test(data_in_the_other_direction_is_not_moved),
		cmocka_unit_test(ranges),
		cmocka_unit_test(a_disk_beyond_32_bits),
		cmocka_unit_test(errors),
		cmocka_unit_test(an_error_in_the_middle_of_a_read),
		cmocka_unit_test(an_error_in_the_middle_of_a_write),
		cmocka_unit_test(the_lower_of_two_errors_is_told),
		cmocka_unit_test(good_waits_for_every_segment),
		cmocka_unit_test(data_that_does_not_come),
		cmocka_unit_test(a_digest_error_is_told),
		cmocka_unit_test(a_failed_write_asks_its_other_segment_back),
		cmocka_unit_test(read_only_disks_refuse_writes),
		cmocka_unit_test(flush_reaches_the_store),
		cmocka_unit_test(fua_is_durable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
