/*
 * Commands that look at what is there: VERIFY, WRITE AND VERIFY, ORWRITE. Segments of every count,
 * where a difference is told, locks against other nexuses, and nexuses that are lost while their
 * commands wait.
 */
#include <unistd.h>

#include "scsi_fixture.h"

#define WRITE_16            0x8a
#define READ_16             0x88
#define VERIFY_10           0x2f
#define VERIFY_16           0x8f
#define WRITE_AND_VERIFY_10 0x2e
#define WRITE_AND_VERIFY_16 0x8e
#define ORWRITE_16          0x8b

#define STRIPE (64 * 1024u) /* of range locks */

static struct fx fx;
static struct fx_nexus nexus, other;

static void up(const char *spec, uint32_t block_size)
{
	fx_up(&fx, spec, block_size);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
	fx_open(&fx, &other);
	fx_take_power_on(&other, 0);
}

static void down(void)
{
	fx_close(&other);
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

/* A command of `nblocks` that brings `len` bytes of data. */
static struct fx_task *command(struct fx_nexus *fn, uint8_t opcode, uint8_t flags, uint64_t lba,
			       uint32_t nblocks, const uint8_t *data, uint32_t len)
{
	struct fx_task *ft = fx_rw(fn, opcode, lba, nblocks);

	ft->t.cdb[1] = flags;
	ft->moves = FX_LATER;
	if (len != 0) {
		memcpy(ft->data, data, len);
		fx_expect_out(ft, len);
	}
	return ft;
}

/* It has finished, well. */
static void good(struct fx_task *ft)
{
	fx_good(ft);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
}

static void put(uint64_t lba, const uint8_t *data, uint32_t len, uint32_t block_size)
{
	struct fx_task *ft = command(&nexus, WRITE_16, 0, lba, len / block_size, data, len);

	fx_run(&fx, ft);
	good(ft);
}

static void expect(uint64_t lba, const uint8_t *data, uint32_t len, uint32_t block_size)
{
	struct fx_task *ft = fx_rw(&nexus, READ_16, lba, len / block_size);

	fx_expect_in(ft, len);
	fx_run(&fx, ft);
	fx_good(ft);
	assert_memory_equal(ft->data, data, len);
	fx_task_free(ft);
}

static uint64_t ops(enum io_op op)
{
	static struct unit_stats stats;

	unit_stats_read(fx.units[0], &stats);
	return stats.op[op].ops;
}

static unsigned nsegments(uint64_t bytes)
{
	return (unsigned)((bytes + SCSI_SEG_MAX - 1) / SCSI_SEG_MAX);
}

enum { MEDIUM = 0, BYTES = 2, RESERVED = 4, PATTERN = 6 }; /* BYTCHK in byte 1 of the CDB */

/* ---- VERIFY ---- */

static void verify_each_way(uint32_t block_size, uint32_t nblocks, enum fx_moves moves)
{
	const uint32_t len = nblocks * block_size;
	uint8_t *data = malloc(len + block_size);
	const struct {
		uint8_t bytchk;
		uint32_t sent;
	} ways[] = {{MEDIUM, 0}, {BYTES, len}, {PATTERN, nblocks != 0 ? block_size : 0}};

	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		const uint64_t reads = ops(IO_READ);
		struct fx_task *ft;

		fill(data, block_size, nblocks + i);
		for (uint32_t n = 1; n < nblocks; n++)
			memcpy(data + (size_t)n * block_size, data, block_size);
		if (ways[i].bytchk != PATTERN)
			fill(data, len, nblocks);
		put(7, data, len, block_size);
		ft = command(&nexus, i % 2 ? VERIFY_10 : VERIFY_16, ways[i].bytchk | 0x10, 7,
			     nblocks, data, ways[i].sent);
		ft->moves = moves;
		fx_run(&fx, ft);
		assert_int_equal(ft->moved, ways[i].sent);
		assert_int_equal(ops(IO_READ) - reads, nsegments(len));
		good(ft);
	}
	free(data);
}

static void verify_of_every_length(uint32_t block_size)
{
	const uint32_t seg = SCSI_SEG_MAX / block_size;
	const uint32_t counts[] = {0, 1, 2, seg - 1, seg, seg + 1, 2 * seg, 5 * seg + 3};

	up("ram:16M", block_size);
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		verify_each_way(block_size, counts[i], FX_AT_ONCE);
		verify_each_way(block_size, counts[i], FX_LATER);
	}
	down();
}

static void verify_512(void **state)
{
	verify_of_every_length(512);
}

static void verify_4096(void **state)
{
	verify_of_every_length(4096);
}

static void verify_12(void **state)
{
	const uint8_t cdb[12] = {0xaf, BYTES, 0, 0, 0, 9, 0, 0, 0, 2};
	uint8_t data[1024];
	struct fx_task *ft;

	up("ram:16M", 512);
	fill(data, sizeof(data), 1);
	put(9, data, sizeof(data), 512);
	for (unsigned equal = 2; equal-- > 0;) {
		ft = fx_task_new(&nexus, cdb, 12);
		memcpy(ft->data, data, sizeof(data));
		ft->data[1023] ^= !equal;
		fx_expect_out(ft, sizeof(data));
		fx_run(&fx, ft);
		if (equal) {
			fx_good(ft);
		} else {
			fx_sense(ft, 0xe, 0x1d, 0x00);
			fx_information(ft, 1023);
		}
		fx_residual(ft, 0, 0);
		fx_task_free(ft);
	}
	down();
}

static void fields_of_verify(void **state)
{
	uint8_t data[1024] = {0};
	struct fx_task *ft;

	up("ram:16M", 512);
	ft = command(&nexus, VERIFY_10, RESERVED, 0, 1, data, 512);
	fx_run(&fx, ft);
	fx_bad_field(ft, 1, 2);
	fx_task_free(ft);
	/* Where nothing is asked for nothing is moved: it is left over. */
	ft = command(&nexus, VERIFY_10, MEDIUM, 0, 1, data, 512);
	fx_run(&fx, ft);
	fx_good(ft);
	fx_residual(ft, 512, 0);
	assert_int_equal(ft->moved, 0);
	fx_task_free(ft);
	ft = command(&nexus, VERIFY_10, PATTERN, 0, 100, data, 1024);
	fx_run(&fx, ft);
	fx_good(ft);
	fx_residual(ft, 512, 0);
	fx_task_free(ft);
	/* Less than a block to compare with. */
	ft = command(&nexus, VERIFY_10, PATTERN, 0, 100, data, 511);
	fx_run(&fx, ft);
	fx_sense(ft, 0x5, 0x0e, 0x03);
	fx_task_free(ft);
	ft = command(&nexus, VERIFY_10, PATTERN, 0, 100, NULL, 0);
	fx_run(&fx, ft);
	fx_sense(ft, 0x5, 0x0e, 0x03);
	fx_residual(ft, 0, 512);
	fx_task_free(ft);
	for (unsigned bytchk = MEDIUM; bytchk <= PATTERN; bytchk += bytchk == BYTES ? 4 : 2) {
		ft = command(&nexus, VERIFY_16, low_u8(bytchk), 32767, 2, data, 0);
		fx_run(&fx, ft);
		fx_sense(ft, 0x5, 0x21, 0x00);
		fx_information(ft, 32768);
		fx_task_free(ft);
	}
	/* Comparing changes nothing: a disk that takes no writes is verified. */
	assert_int_equal(ops(IO_WRITE), 0);
	down();
}

static void miscompare_at(uint32_t nblocks, uint32_t at)
{
	const uint32_t len = nblocks * 512;
	uint8_t *data = malloc(len);
	struct fx_task *ft;

	fill(data, len, nblocks);
	put(3, data, len, 512);
	for (uint32_t also = 0; also < 3; also++) {
		const uint32_t more[] = {at, len - 1,
					 (uint32_t)min_u64(at + SCSI_SEG_MAX, len - 1)};

		ft = command(&nexus, VERIFY_16, BYTES, 3, nblocks, data, len);
		ft->moves = also == 0 ? FX_AT_ONCE : FX_LATER;
		ft->data[at] ^= 1;
		if (more[also] != at)
			ft->data[more[also]] ^= 0x80;
		fx_run(&fx, ft);
		fx_sense(ft, 0xe, 0x1d, 0x00);
		fx_information(ft, at);
		fx_task_free(ft);
	}
	free(data);
}

static void where_it_differs(void **state)
{
	const uint32_t seg = SCSI_SEG_MAX,
		       offs[] = {0,       1,           511,     512,     seg - 1,      seg,
				 seg + 1, 2 * seg - 1, 2 * seg, 3 * seg, 3 * seg + 511};

	up("ram:16M", 512);
	for (size_t i = 0; i < ARRAY_LEN(offs); i++) {
		if (offs[i] < 2 * seg)
			miscompare_at(2 * seg / 512, offs[i]);
		miscompare_at(3 * seg / 512 + 1, offs[i]);
	}
	miscompare_at(1, 0);
	miscompare_at(1, 511);
	down();
}

/* One block over and over: the offset counts from the first block compared. */
static void where_a_pattern_differs(void **state)
{
	const uint32_t len = 3 * SCSI_SEG_MAX, offs[] = {0,
							 511,
							 512,
							 SCSI_SEG_MAX - 1,
							 SCSI_SEG_MAX,
							 2 * SCSI_SEG_MAX + 700,
							 3 * SCSI_SEG_MAX - 1};
	uint8_t *data = calloc(1, len);
	const uint8_t block[512] = {0};

	up("ram:16M", 512);
	for (size_t i = 0; i < ARRAY_LEN(offs); i++) {
		struct fx_task *ft;

		data[offs[i]] = 1;
		put(0, data, len, 512);
		data[offs[i]] = 0;
		ft = command(&nexus, VERIFY_10, PATTERN, 0, len / 512, block, 512);
		fx_run(&fx, ft);
		fx_sense(ft, 0xe, 0x1d, 0x00);
		fx_information(ft, offs[i]);
		fx_task_free(ft);
	}
	down();
	free(data);
}

/* The second segment differs, and comes back first. */
static void the_lowest_difference_is_told(void **state)
{
	const uint32_t len = 2 * SCSI_SEG_MAX;
	uint8_t *data = calloc(1, len);
	struct fx_task *ft;

	up("fault:rule=read@0-1K;hang;count=1:ram:16M", 512);
	data[SCSI_SEG_MAX + 9] = data[SCSI_SEG_MAX - 1] = 1;
	ft = command(&nexus, VERIFY_16, BYTES, 0, len / 512, data, len);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(ft);
	fx_sense(ft, 0xe, 0x1d, 0x00);
	fx_information(ft, SCSI_SEG_MAX - 1);
	fx_task_free(ft);
	down();
	free(data);
}

/* A terabyte: other tasks of the loop are served meanwhile. */
static void a_long_verify_hogs_no_loop(void **state)
{
	const uint8_t block[4096] = {0};
	struct fx_task *longest, *ft;

	up("null:1T", 4096);
	longest = command(&nexus, VERIFY_16, MEDIUM, 0, 1u << 28, block, 0);
	fx_submit(&fx, longest);
	for (unsigned i = 0; i < 10; i++) {
		ft = command(&other, VERIFY_16, PATTERN, i, 1, block, 4096);
		fx_run(&fx, ft);
		good(ft);
	}
	assert_false(longest->finished);
	fx_close(&nexus);
	fx_finish_wait(longest);
	assert_true(longest->aborted);
	fx_task_free(longest);
	fx_open(&fx, &nexus);
	down();
}

/* ---- WRITE AND VERIFY ---- */

static void written_and_verified(uint32_t block_size, uint32_t nblocks)
{
	const uint32_t len = nblocks * block_size;
	uint8_t *data = malloc(len + 1);
	struct fx_task *ft;

	for (unsigned i = 0; i < 4; i++) {
		const uint64_t reads = ops(IO_READ);

		fill(data, len, nblocks + i);
		ft = command(&nexus, i % 2 ? WRITE_AND_VERIFY_10 : WRITE_AND_VERIFY_16,
			     i < 2 ? MEDIUM : BYTES, 5, nblocks, data, len);
		fx_run(&fx, ft);
		good(ft);
		assert_int_equal(ops(IO_READ) - reads, nsegments(len));
		expect(5, data, len, block_size);
	}
	free(data);
}

static void write_and_verify(void **state)
{
	for (uint32_t block_size = 512; block_size <= 4096; block_size *= 8) {
		const uint32_t seg = SCSI_SEG_MAX / block_size;

		up("ram:16M", block_size);
		written_and_verified(block_size, 0);
		written_and_verified(block_size, 1);
		written_and_verified(block_size, seg);
		written_and_verified(block_size, seg + 1);
		written_and_verified(block_size, 5 * seg);
		down();
	}
}

static void write_and_verify_12(void **state)
{
	const uint8_t cdb[12] = {0xae, BYTES, 0, 0, 0, 9, 0, 0, 0, 2};
	struct fx_task *ft;

	up("ram:16M", 512);
	ft = fx_task_new(&nexus, cdb, 12);
	fill(ft->data, 1024, 4);
	fx_expect_out(ft, 1024);
	fx_run(&fx, ft);
	fx_good(ft);
	expect(9, ft->data, 1024, 512);
	fx_task_free(ft);
	down();
}

/* The file is looked at past a cache that dies with the process. */
static void what_is_verified_is_durable(void **state)
{
	char path[] = "/tmp/scsi_verify.XXXXXX", spec[64];
	const int fd = mkstemp(path);
	uint8_t data[512], block[512];
	struct fx_task *ft;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	snprintf(spec, sizeof(spec), "fault:volatile=on:file:%s", path);
	up(spec, 512);
	unlink(path);
	for (uint8_t i = 0; i < 2; i++) {
		fill(data, 512, i);
		ft = command(&nexus, WRITE_AND_VERIFY_10, i ? BYTES : MEDIUM, i, 1, data, 512);
		fx_run(&fx, ft);
		good(ft);
		assert_int_equal(pread(fd, block, 512, i * 512), 512);
		assert_memory_equal(block, data, 512);
	}
	close(fd);
	down();
}

/* Somebody else writes between the write and the look. */
static void what_was_written_is_not_what_is_read(void **state)
{
	uint8_t data[512] = {1};
	struct fx_task *ft, *between;

	up("fault:rule=read;hang;count=1:ram:16M", 512);
	ft = command(&nexus, WRITE_AND_VERIFY_10, BYTES, 4, 1, data, 512);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	data[77] = 1;
	between = command(&other, WRITE_16, 0, 4, 1, data, 512);
	fx_run(&fx, between);
	good(between);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(ft);
	fx_sense(ft, 0xe, 0x1d, 0x00);
	fx_information(ft, 77);
	fx_task_free(ft);
	/* The other two ways to check are reserved for it. */
	for (unsigned bytchk = RESERVED; bytchk <= PATTERN; bytchk += 2) {
		ft = command(&nexus, WRITE_AND_VERIFY_10, low_u8(bytchk), 4, 1, data, 512);
		fx_run(&fx, ft);
		fx_bad_field(ft, 1, 2);
		fx_task_free(ft);
	}
	down();
}

/* ---- ORWRITE ---- */

static void or_of(uint32_t block_size, uint64_t lba, uint32_t nblocks, enum fx_moves moves)
{
	const uint32_t len = nblocks * block_size;
	uint8_t *there = malloc(len + 1), *data = malloc(len + 1);
	struct fx_task *ft;

	fill(there, len, lba);
	fill(data, len, nblocks);
	put(lba, there, len, block_size);
	ft = command(&nexus, ORWRITE_16, moves == FX_LATER ? 0x18 : 0, lba, nblocks, data, len);
	ft->moves = moves;
	fx_run(&fx, ft);
	good(ft);
	for (uint32_t i = 0; i < len; i++)
		there[i] |= data[i];
	expect(lba, there, len, block_size);
	free(there);
	free(data);
}

/* At odd places two segments of one command share a stripe of locks. */
static void orwrite(void **state)
{
	for (uint32_t block_size = 512; block_size <= 4096; block_size *= 8) {
		const uint32_t seg = SCSI_SEG_MAX / block_size;
		const uint32_t counts[] = {0, 1, 3, seg, seg + 1, 2 * seg, 7 * seg + 1};

		up("ram:16M", block_size);
		for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
			or_of(block_size, 0, counts[i], FX_AT_ONCE);
			or_of(block_size, 1, counts[i], FX_LATER);
		}
		down();
		up("fault::ram:16M", block_size);
		or_of(block_size, 3, 4 * seg, FX_LATER);
		down();
	}
}

static struct fx_task *begin(struct fx_nexus *fn, uint8_t opcode, uint64_t lba, const uint8_t *data)
{
	struct fx_task *ft = command(fn, opcode, 0, lba, 1, data, 512);

	fx_submit(&fx, ft);
	fx_settle(&fx);
	return ft;
}

/* While one nexus is between reading and writing, nobody else writes there. */
static void others_wait_for_the_lock(void **state)
{
	const uint8_t one[512] = {1}, two[512] = {2}, four[512] = {4}, all[512] = {6};
	struct fx_task *first, *write, * or, *elsewhere;

	up("fault:rule=read@8K-9K;hang;count=1:ram:16M", 512);
	first = begin(&nexus, ORWRITE_16, 16, one);
	write = begin(&other, WRITE_16, 16, two);
	or = begin(&other, ORWRITE_16, 16, four);
	elsewhere = begin(&other, ORWRITE_16, 16 + STRIPE / 512, four);
	assert_false(first->finished);
	assert_false(write->finished);
	assert_false(or->finished);
	fx_finish_wait(elsewhere);
	good(elsewhere);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(first);
	fx_finish_wait(write);
	fx_finish_wait(or);
	good(first);
	good(write);
	good(or);
	expect(16, all, 512, 512);
	down();
}

/* A lock covers what is under way: data of a slow initiator holds up nobody. */
static void no_lock_while_data_is_awaited(void **state)
{
	const uint8_t one[512] = {1}, two[512] = {2}, both[512] = {3};
	struct fx_task *slow, *ft;

	up("ram:16M", 512);
	slow = command(&nexus, ORWRITE_16, 0, 0, 1, one, 512);
	slow->moves = FX_HOLD;
	fx_submit(&fx, slow);
	fx_settle(&fx);
	assert_int_equal(slow->nheld, 1);
	ft = command(&other, ORWRITE_16, 0, 0, 1, two, 512);
	fx_run(&fx, ft);
	good(ft);
	fx_release(&fx, slow);
	fx_finish_wait(slow);
	good(slow);
	expect(0, both, 512, 512);
	down();
}

/* ---- A nexus that is lost ---- */

static void lost_while_data_comes(void **state)
{
	static const uint8_t commands[][2] = {{VERIFY_16, BYTES},
					      {VERIFY_16, PATTERN},
					      {WRITE_AND_VERIFY_16, BYTES},
					      {ORWRITE_16, 0}};
	uint8_t *data = calloc(1, 3 * SCSI_SEG_MAX);

	up("ram:16M", 512);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		const uint32_t len = commands[i][1] == PATTERN ? 512 : 3 * SCSI_SEG_MAX;
		struct fx_task *ft = command(&nexus, commands[i][0], commands[i][1], 0,
					     3 * SCSI_SEG_MAX / 512, data, len);

		memset(ft->data, 0xff, len);
		ft->moves = FX_HOLD;
		fx_submit(&fx, ft);
		assert_int_equal(ft->nheld, len == 512 ? 1 : 2);
		fx_close(&nexus);
		fx_finish_wait(ft);
		assert_true(ft->aborted);
		fx_task_free(ft);
		fx_open(&fx, &nexus);
		fx_take_power_on(&nexus, 0);
	}
	expect(0, data, 3 * SCSI_SEG_MAX, 512);
	down();
	free(data);
}

/* The first is in the store with its lock; the second waits for that, and its nexus is lost. */
static void lost_while_it_waits_for_a_lock(void **state)
{
	const uint8_t one[512] = {1}, two[512] = {2}, four[512] = {4}, rest[512] = {5};
	struct fx_task *first, *waits, *third;

	up("fault:rule=read@0-1K;hang;count=1:ram:16M", 512);
	first = begin(&nexus, ORWRITE_16, 0, one);
	waits = begin(&other, ORWRITE_16, 0, two);
	third = begin(&nexus, ORWRITE_16, 0, four);
	assert_false(waits->finished);
	fx_close(&other);
	fx_finish_wait(waits);
	assert_true(waits->aborted);
	fx_task_free(waits);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(first);
	fx_finish_wait(third);
	good(first);
	good(third);
	expect(0, rest, 512, 512);
	fx_open(&fx, &other);
	down();
}

/* What hangs in the store with a lock lets go of it when it comes back, and has no effect then. */
static void lost_while_it_holds_a_lock(void **state)
{
	const uint8_t one[512] = {1}, two[512] = {2};
	struct fx_task *lost, *waits;

	up("fault:rule=read@0-1K;hang;count=1:ram:16M", 512);
	lost = begin(&nexus, ORWRITE_16, 0, one);
	waits = begin(&other, ORWRITE_16, 0, two);
	fx_call(&fx, fx_close_run, &nexus);
	fx_settle(&fx);
	assert_false(lost->finished);
	assert_false(waits->finished);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_wait(&nexus.sem);
	fx_finish_wait(lost);
	assert_true(lost->aborted);
	fx_task_free(lost);
	fx_finish_wait(waits);
	good(waits);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
	expect(0, two, 512, 512);
	down();
}

/* Something hangs in the store: locks cannot be armed. Who waits for that can be lost, or is told
 * BUSY after a while; then, with the store, all goes on. */
static void lost_while_locks_are_armed(void **state)
{
	const uint8_t one[512] = {1}, zeros[512] = {0};
	struct fx_task *hangs, *lost, *busy;

	up("fault:rule=write@1M-2M;hang;count=1:ram:16M", 512);
	hangs = begin(&nexus, WRITE_16, 2048, one);
	lost = begin(&other, ORWRITE_16, 0, one);
	assert_false(lost->finished);
	fx_close(&other);
	fx_finish_wait(lost);
	assert_true(lost->aborted);
	fx_task_free(lost);
	busy = begin(&nexus, ORWRITE_16, 0, one);
	fx_finish_wait(busy);
	assert_int_equal(busy->t.status, SCSI_BUSY);
	fx_task_free(busy);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(hangs);
	good(hangs);
	expect(0, zeros, 512, 512);
	fx_open(&fx, &other);
	fx_take_power_on(&other, 0);
	hangs = begin(&other, ORWRITE_16, 0, one);
	fx_finish_wait(hangs);
	good(hangs);
	down();
}

/* ---- The block that fails ---- */

struct failure {
	const char *rules;
	uint8_t opcode, flags;
	bool reads; /* an error of reading */
};

static const struct failure failures[] = {
	{"read", READ_16, 0, true},
	{"write", WRITE_16, 0, false},
	{"read", VERIFY_16, MEDIUM, true},
	{"read", VERIFY_16, BYTES, true},
	{"read", VERIFY_16, PATTERN, true},
	{"write", WRITE_AND_VERIFY_16, MEDIUM, false},
	{"read", WRITE_AND_VERIFY_16, BYTES, true},
	{"read", ORWRITE_16, 0, true},
	{"write", ORWRITE_16, 0, false},
};

static void fails_at(const struct failure *f, uint32_t block_size, uint64_t lba, uint32_t nblocks,
		     uint64_t told)
{
	const uint32_t len = nblocks * block_size;
	uint8_t *data = calloc(1, len);
	struct fx_task *ft = command(&nexus, f->opcode, f->flags, lba, nblocks, data, 0);

	if (f->opcode == READ_16)
		fx_expect_in(ft, len);
	else if (f->opcode != VERIFY_16 || f->flags == BYTES)
		fx_expect_out(ft, len);
	else if (f->flags == PATTERN)
		fx_expect_out(ft, block_size);
	fx_run(&fx, ft);
	fx_sense(ft, 0x3, f->reads ? 0x11 : 0x0c, 0x00);
	fx_information(ft, told);
	fx_task_free(ft);
	free(data);
}

static void the_block_that_fails(uint32_t block_size)
{
	const uint32_t seg = SCSI_SEG_MAX / block_size;
	const uint64_t at = 1 * MiB / block_size;

	for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
		const struct failure *f = &failures[i];
		char spec[128];

		/* One block, and a hole of errors behind it. */
		snprintf(spec, sizeof(spec),
			 "fault:rule=%s@1024K-%uK;eio,rule=%s@3M-3400K;eio:ram:16M", f->rules,
			 1024 + block_size / 1024 + 1, f->rules);
		up(spec, block_size);
		fails_at(f, block_size, at, 1, at);
		fails_at(f, block_size, at - 1, 2, at);
		fails_at(f, block_size, at - 5, 100, at);
		fails_at(f, block_size, at - seg + 1, seg, at);
		fails_at(f, block_size, at - seg, seg + 1, at);
		fails_at(f, block_size, at - 2 * seg - 3, 12 * seg, at);
		fails_at(f, block_size, 3 * at - 2, 5, 3 * at);
		fails_at(f, block_size, 3 * at - seg - 7, 2 * seg, 3 * at);
		fails_at(f, block_size, 3 * at + 3, seg, 3 * at + 3);
		down();
	}
}

static void the_block_that_fails_512(void **state)
{
	the_block_that_fails(512);
}

static void the_block_that_fails_4096(void **state)
{
	the_block_that_fails(4096);
}

/* A disk that takes long over each error: what is known by then is told. */
static void the_search_ends_in_time(void **state)
{
	struct timespec a, b;
	struct fx_task *ft;

	up("fault:rule=read@1000K-1001K;delay=900ms,rule=read@1000K-1001K;eio:ram:16M", 512);
	ft = fx_rw(&nexus, READ_16, 2000 - 500, 512);
	fx_expect_in(ft, 512 * 512);
	clock_gettime(CLOCK_MONOTONIC, &a);
	fx_run(&fx, ft);
	clock_gettime(CLOCK_MONOTONIC, &b);
	fx_sense(ft, 0x3, 0x11, 0x00);
	assert_true(load_be32(ft->t.sense + 3) > 1500);
	assert_true(load_be32(ft->t.sense + 3) <= 2000);
	assert_true(b.tv_sec - a.tv_sec <= 5);
	fx_task_free(ft);
	down();
}

/* The nexus goes while its I/O is being searched: that ends with the piece under way. */
static void lost_while_it_is_searched(void **state)
{
	struct fx_task *ft;

	up("fault:rule=read@0-1K;eio;count=1,rule=read@0-1K;hang:ram:16M", 512);
	ft = fx_rw(&nexus, READ_16, 0, 512);
	fx_expect_in(ft, 512 * 512);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	fx_call(&fx, fx_close_run, &nexus);
	fx_settle(&fx);
	assert_false(ft->finished);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
	fx_wait(&nexus.sem);
	fx_open(&fx, &nexus);
	down();
}

/* Written again are the bytes of the command, and only those: the rest of the disk stays. */
static void a_searched_write_writes_nothing_else(void **state)
{
	const uint32_t len = 600 * 512;
	uint8_t *data = malloc(len), *disk = malloc(len + 1024);
	struct fx_task *ft;

	up("fault:rule=write@200K-201K;eio:ram:16M", 512);
	fill(data, len, 1);
	ft = command(&nexus, WRITE_16, 0, 1, 600, data, len);
	fx_run(&fx, ft);
	fx_sense(ft, 0x3, 0x0c, 0x00);
	fx_information(ft, 400);
	fx_task_free(ft);
	ft = fx_rw(&nexus, READ_16, 0, 602);
	fx_expect_in(ft, len + 1024);
	fx_run(&fx, ft);
	fx_good(ft);
	memset(disk, 0, len + 1024);
	memcpy(disk + 512, data, 399 * 512);
	/* Up to the block that failed; the second segment was written as a whole. */
	assert_memory_equal(ft->data, disk, 400 * 512);
	assert_memory_equal(ft->data + 400 * 512, disk + 400 * 512, 1024);
	assert_memory_equal(ft->data + 601 * 512, disk + 601 * 512, 512);
	fx_task_free(ft);
	down();
	free(data);
	free(disk);
}

/* INFORMATION says that what lies before it was written. With FUA that means durable, also what was
 * written once more in the search: behind this cache is a file. */
static void what_lies_before_a_failed_block_is_durable(void **state)
{
	static const struct {
		uint8_t opcode, flags;
		bool durable;
	} commands[] = {{WRITE_16, 0x08, true},
			{WRITE_16, 0x00, false},
			{ORWRITE_16, 0x08, true},
			{WRITE_AND_VERIFY_16, MEDIUM, true},
			{WRITE_AND_VERIFY_16, BYTES, true}};
	const uint32_t len = 700 * 512, good_len = 600 * 512 + 7 * 512;
	uint8_t *data = malloc(len), *file = malloc(len);

	fill(data, len, 3);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		char path[] = "/tmp/scsi_verify.XXXXXX", spec[128];
		const int fd = mkstemp(path);
		struct fx_task *ft;

		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, 1 << 20), 0);
		snprintf(spec, sizeof(spec), "fault:volatile=on,rule=write@%u-%u;eio:file:%s",
			 good_len, good_len + 512, path);
		up(spec, 512);
		unlink(path);
		ft = command(&nexus, commands[i].opcode, commands[i].flags, 0, 700, data, len);
		fx_run(&fx, ft);
		fx_sense(ft, 0x3, 0x0c, 0x00);
		fx_information(ft, good_len / 512);
		fx_task_free(ft);
		assert_int_equal(pread(fd, file, len, 0), len);
		assert_int_equal(memcmp(file, data, good_len) == 0, commands[i].durable);
		close(fd);
		down();
	}
	free(data);
	free(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(verify_512),
		cmocka_unit_test(verify_4096),
		cmocka_unit_test(verify_12),
		cmocka_unit_test(fields_of_verify),
		cmocka_unit_test(where_it_differs),
		cmocka_unit_test(where_a_pattern_differs),
		cmocka_unit_test(the_lowest_difference_is_told),
		cmocka_unit_test(a_long_verify_hogs_no_loop),
		cmocka_unit_test(write_and_verify),
		cmocka_unit_test(write_and_verify_12),
		cmocka_unit_test(what_is_verified_is_durable),
		cmocka_unit_test(what_was_written_is_not_what_is_read),
		cmocka_unit_test(orwrite),
		cmocka_unit_test(others_wait_for_the_lock),
		cmocka_unit_test(no_lock_while_data_is_awaited),
		cmocka_unit_test(lost_while_data_comes),
		cmocka_unit_test(lost_while_it_waits_for_a_lock),
		cmocka_unit_test(lost_while_it_holds_a_lock),
		cmocka_unit_test(lost_while_locks_are_armed),
		cmocka_unit_test(the_block_that_fails_512),
		cmocka_unit_test(the_block_that_fails_4096),
		cmocka_unit_test(the_search_ends_in_time),
		cmocka_unit_test(lost_while_it_is_searched),
		cmocka_unit_test(a_searched_write_writes_nothing_else),
		cmocka_unit_test(what_lies_before_a_failed_block_is_durable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
