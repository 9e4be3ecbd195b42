/*
 * Space: UNMAP, WRITE SAME and GET LBA STATUS over memory, files and a store with a home loop, with
 * blocks of 512 and 4096 bytes; what they refuse, what they leave as it was, and that they go in
 * steps. And the pages that announce them.
 */
#include <unistd.h>

#include "scsi_fixture.h"

#define DISK_BYTES (8 * MiB)

static struct fx fx;
static struct fx_nexus nexus;
static uint32_t bs; /* of the disk that is up */

static void begin(void)
{
	fx_start(&fx);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
}

static void up(const char *spec, uint32_t block_size)
{
	bs = block_size;
	fx_init(&fx);
	fx_add_disk(&fx, spec, block_size, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	begin();
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

static void fill(uint8_t *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 6364136223846793005u + 1442695040888963407u;
		p[i] = (uint8_t)(seed >> 56);
	}
}

/* ---- Commands ---- */

static struct fx_task *run_out(const uint8_t *cdb, const void *data, uint32_t len)
{
	struct fx_task *ft = fx_task_new(&nexus, cdb, 16);

	if (len != 0) {
		memcpy(ft->data, data, len);
		fx_expect_out(ft, len);
	}
	fx_run(&fx, ft);
	return ft;
}

static void good_out(const uint8_t *cdb, const void *data, uint32_t len)
{
	struct fx_task *ft = run_out(cdb, data, len);

	fx_good(ft);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
}

static void cdb_16(uint8_t cdb[static 16], uint8_t opcode, uint64_t lba, uint32_t nblocks)
{
	memset(cdb, 0, 16);
	cdb[0] = opcode;
	store_be64(cdb + 2, lba);
	store_be32(cdb + 10, nblocks);
}

static void write_disk(uint64_t lba, const uint8_t *data, uint32_t nblocks)
{
	uint8_t cdb[16];

	cdb_16(cdb, 0x8a, lba, nblocks);
	good_out(cdb, data, nblocks * bs);
}

/* The disk holds these bytes from `lba` on. */
static void expect_disk(uint64_t lba, const uint8_t *data, uint32_t nblocks)
{
	for (uint32_t n; nblocks != 0; lba += n, data += n * bs, nblocks -= n) {
		struct fx_task *ft;

		n = (uint32_t)min_u64(nblocks, FX_BUF_BYTES / bs);
		ft = fx_rw(&nexus, 0x88, lba, n);
		fx_expect_in(ft, n * bs);
		fx_run(&fx, ft);
		fx_good(ft);
		if (memcmp(ft->data, data, n * bs) != 0)
			fail_msg("other bytes at block %llu or behind", (unsigned long long)lba);
		fx_task_free(ft);
	}
}

/* A model of the disk, all of it written. */
static uint8_t *fill_disk(void)
{
	uint8_t *model = malloc(DISK_BYTES);

	fill(model, DISK_BYTES, 7);
	for (uint64_t off = 0; off < DISK_BYTES; off += FX_BUF_BYTES)
		write_disk(off / bs, model + off, FX_BUF_BYTES / bs);
	return model;
}

struct range {
	uint64_t lba;
	uint32_t nblocks;
};

static uint32_t unmap_list(uint8_t *list, const struct range *r, unsigned n)
{
	memset(list, 0, 8 + 16 * n);
	store_be16(list, (uint16_t)(6 + 16 * n));
	store_be16(list + 2, (uint16_t)(16 * n));
	for (unsigned i = 0; i < n; i++) {
		store_be64(list + 8 + 16 * i, r[i].lba);
		store_be32(list + 8 + 16 * i + 8, r[i].nblocks);
	}
	return 8 + 16 * n;
}

static struct fx_task *unmap_raw(const uint8_t *list, uint32_t len, uint32_t expected)
{
	uint8_t cdb[16] = {0x42};

	store_be16(cdb + 7, (uint16_t)len);
	return run_out(cdb, list, expected);
}

static struct fx_task *unmap(const struct range *r, unsigned n)
{
	uint8_t list[8 + 16 * 300];
	const uint32_t len = unmap_list(list, r, n);

	return unmap_raw(list, len, len);
}

static void expect_parameter(struct fx_task *ft, unsigned byte, unsigned bit)
{
	fx_sense(ft, 0x5, 0x26, 0x00);
	assert_int_equal(ft->t.sense[15], 0x88 | bit);
	assert_int_equal(load_be16(ft->t.sense + 16), byte);
	fx_task_free(ft);
}

/* ---- Over all kinds of disks ---- */

static char file_spec[64];

static const char *file_in(const char *directory)
{
	int fd;

	snprintf(file_spec, sizeof(file_spec), "%s/scsi_thin.XXXXXX", directory);
	fd = mkstemp(file_spec);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	return file_spec;
}

static void on_all_disks(void (*test)(void))
{
	static const char *const specs[] = {"ram:8M", "fault::ram:8M", "fault:volatile=on:ram:8M"};
	static const char *const directories[] = {"/dev/shm", "."};

	for (uint32_t size = 512; size <= 4096; size *= 8) {
		for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
			up(specs[i], size);
			test();
			down();
		}
		for (size_t i = 0; i < ARRAY_LEN(directories); i++) {
			if (access(directories[i], W_OK) != 0)
				continue;
			up(file_in(directories[i]), size);
			unlink(file_spec);
			/* A file system that cannot punch holes. */
			if (lu_can_unmap(fx.lus[0]))
				test();
			down();
		}
	}
}

/* ---- UNMAP ---- */

static void unmap_and_read(void)
{
	const uint32_t nblocks = DISK_BYTES / bs;
	const struct range r[] = {{0, 1}, {3, 7},           {nblocks / 4, nblocks / 4 + 3},
				  {5, 0}, {nblocks - 1, 1}, {nblocks / 8 + 1, 129},
				  {4, 2}, {nblocks, 0}};
	uint8_t *model = fill_disk();
	struct fx_task *ft = unmap(r, ARRAY_LEN(r));

	fx_good(ft);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
	assert_int_equal(ops(IO_DISCARD), 6);
	for (size_t i = 0; i < ARRAY_LEN(r); i++)
		memset(model + r[i].lba * bs, 0, (size_t)r[i].nblocks * bs);
	expect_disk(0, model, nblocks);
	/* And what is written there again stays. */
	fill(model, 64 * bs, 8);
	write_disk(0, model, 64);
	expect_disk(0, model, nblocks);
	free(model);
}

static void unmapped_blocks_read_zeros(void **state)
{
	on_all_disks(unmap_and_read);
}

/* Bytes from which on a list counts, and how long its two lengths say it is. */
static void lengths_of_a_list_cut_it(void **state)
{
	static const struct {
		uint32_t list_len;
		uint16_t data_len, block_len;
		unsigned unmapped; /* of three descriptors, one block each */
	} rows[] = {
		{56, 54, 48, 3},       {56, 54, 47, 2}, {56, 53, 48, 2}, {55, 54, 48, 2},
		{24, 54, 48, 1},       {23, 54, 48, 0}, {8, 6, 0, 0},    {56, 54, 0, 0},
		{56, 6, 48, 0},        {56, 0, 48, 0},  {56, 5, 48, 0},  {8, 54, 48, 0},
		{56, 22, 16, 1},       {56, 22, 48, 1}, {56, 54, 16, 1}, {0, 54, 48, 0},
		{56, 65535, 65535, 3},
	};
	const struct range r[] = {{0, 1}, {1, 1}, {2, 1}};
	uint8_t list[56], blocks[3 * 512];

	up("ram:8M", 512);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fx_task *ft;

		fill(blocks, sizeof(blocks), i);
		write_disk(0, blocks, 3);
		unmap_list(list, r, 3);
		store_be16(list, rows[i].data_len);
		store_be16(list + 2, rows[i].block_len);
		ft = unmap_raw(list, rows[i].list_len, rows[i].list_len);
		fx_good(ft);
		fx_residual(ft, 0, 0);
		fx_task_free(ft);
		memset(blocks, 0, rows[i].unmapped * 512);
		expect_disk(0, blocks, 3);
	}
	down();
}

static void lists_that_are_too_short_are_refused(void **state)
{
	const struct range r[] = {{0, 1}};
	uint8_t list[24], block[512];
	struct fx_task *ft;

	up("ram:8M", 512);
	fill(block, 512, 1);
	write_disk(0, block, 1);
	unmap_list(list, r, 1);
	for (uint32_t len = 1; len < 8; len++) {
		ft = unmap_raw(list, len, len);
		fx_sense(ft, 0x5, 0x1a, 0x00);
		assert_int_equal(ft->t.sense[15], 0xcf);
		assert_int_equal(load_be16(ft->t.sense + 16), 7);
		fx_residual(ft, len, 0);
		fx_task_free(ft);
	}
	/* The initiator brings less than its CDB says. */
	for (uint32_t expected = 0; expected < 24; expected++) {
		ft = unmap_raw(list, 24, expected);
		fx_sense(ft, 0x5, 0x1a, 0x00);
		fx_task_free(ft);
	}
	/* Or more: that is left over. */
	expect_disk(0, block, 1);
	ft = unmap_raw(list, 8, 24);
	fx_good(ft);
	fx_residual(ft, 16, 0);
	fx_task_free(ft);
	expect_disk(0, block, 1);
	down();
}

static void nothing_is_unmapped_when_a_descriptor_is_wrong(void)
{
	const uint32_t nblocks = DISK_BYTES / bs;
	const uint32_t most = LIMIT_UNMAP_BYTES / bs;
	const struct {
		struct range second;
		uint64_t bad;
	} rows[] = {{{nblocks, 1}, nblocks},       {{nblocks - 1, 2}, nblocks},
		    {{0, most}, nblocks},          {{nblocks + 5, 0}, nblocks + 5},
		    {{UINT32_MAX, 1}, UINT32_MAX}, {{0, UINT32_MAX}, nblocks}};
	uint8_t *model = fill_disk();
	struct fx_task *ft;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct range r[] = {{0, 100}, rows[i].second};

		ft = unmap(r, 2);
		fx_sense(ft, 0x5, 0x21, 0x00);
		fx_information(ft, rows[i].bad);
		fx_task_free(ft);
	}
	ft = unmap((const struct range[]){{0, 1}, {UINT64_MAX, 2}}, 2);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_task_free(ft);
	assert_int_equal(ops(IO_DISCARD), 0);
	expect_disk(0, model, nblocks);
	free(model);
}

static void wrong_descriptors(void **state)
{
	on_all_disks(nothing_is_unmapped_when_a_descriptor_is_wrong);
}

static void limits_of_unmap(void **state)
{
	static struct range r[257];
	struct fx_task *ft;

	up("null:1T", 512);
	for (unsigned i = 0; i < 257; i++)
		r[i] = (struct range){i * UINT64_C(4096), 4096};
	ft = unmap(r, 256);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(ops(IO_DISCARD), 256);
	expect_parameter(unmap(r, 257), 2, 7);
	/* In all, not each: here the third one is too much. */
	r[0].nblocks = r[1].nblocks = LIMIT_UNMAP_BYTES / 512 / 2;
	ft = unmap(r, 2);
	fx_good(ft);
	fx_task_free(ft);
	expect_parameter(unmap(r, 3), 8 + 2 * 16 + 8, 7);
	r[0].nblocks = LIMIT_UNMAP_BYTES / 512 + 1;
	expect_parameter(unmap(r, 1), 8 + 8, 7);
	down();
}

static void anchors_are_refused(void **state)
{
	struct fx_task *ft;

	up("ram:8M", 512);
	ft = FX_CMD(&nexus, 0, 0x42, 0x01, 0, 0, 0, 0, 0, 0, 0, 0);
	fx_bad_field(ft, 1, 0);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 0, 0x41, 0x18, 0, 0, 0, 0, 0, 0, 1, 0);
	fx_bad_field(ft, 1, 4);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 0, 0x93, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0);
	fx_bad_field(ft, 1, 4);
	fx_task_free(ft);
	down();
}

/* Without a write cache what was unmapped stays so, as what was written does: the unit flushes. */
static void unmap_is_durable_where_writes_are(void **state)
{
	const struct range r[] = {{0, 8}};
	struct fx_task *ft;

	for (unsigned through = 0; through < 2; through++) {
		fx_init(&fx);
		fx_add_disk(&fx, "fault:volatile=on,rule=flush;eio:ram:8M", 512, false);
		if (through)
			unit_first_view(fx.units[0])->flags |= UNIT_WRITE_THROUGH;
		assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
		begin();
		ft = unmap(r, 1);
		if (through)
			fx_sense(ft, 0x3, 0x0c, 0x00);
		else
			fx_good(ft);
		fx_task_free(ft);
		down();
	}
}

/* ---- WRITE SAME ---- */

enum { UNMAP = 0x08, NDOB = 0x01 };

static struct fx_task *same(uint8_t opcode, uint8_t flags, uint64_t lba, uint32_t nblocks,
			    const uint8_t *block, uint32_t len)
{
	struct fx_task *ft = fx_rw(&nexus, opcode, lba, nblocks);

	ft->t.cdb[1] = flags;
	if (len != 0) {
		memcpy(ft->data, block, len);
		fx_expect_out(ft, len);
	}
	fx_run(&fx, ft);
	return ft;
}

static void same_good(uint8_t opcode, uint8_t flags, struct range r, const uint8_t *block,
		      uint8_t *model)
{
	struct fx_task *ft = same(opcode, flags, r.lba, r.nblocks, block, flags & NDOB ? 0 : bs);

	fx_good(ft);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
	for (uint32_t i = 0; i < r.nblocks; i++)
		memcpy(model + (r.lba + i) * bs, block, bs);
}

static void same_and_read(void)
{
	static const uint8_t zeros[4096];
	const uint32_t nblocks = DISK_BYTES / bs, seg = SCSI_SEG_MAX / bs;
	uint8_t *model = fill_disk(), block[4096];

	fill(block, bs, 3);
	same_good(0x93, 0, (struct range){1, 1}, block, model);
	same_good(0x41, UNMAP, (struct range){10, 3 * seg + 5}, block, model);
	same_good(0x93, UNMAP, (struct range){nblocks - seg, seg}, block, model);
	assert_int_equal(ops(IO_ZERO), 0);
	same_good(0x93, 0, (struct range){nblocks / 2 + 1, 77}, zeros, model);
	same_good(0x41, UNMAP, (struct range){nblocks / 2 + 200, 3}, zeros, model);
	same_good(0x93, UNMAP | NDOB, (struct range){nblocks / 4, nblocks / 8 + 1}, zeros, model);
	same_good(0x93, NDOB, (struct range){20, 40}, zeros, model);
	assert_int_equal(ops(IO_ZERO), 4);
	/* Nearly zeros. */
	memset(block, 0, bs);
	block[bs - 1] = 1;
	same_good(0x41, UNMAP, (struct range){nblocks / 4 + 3, 9}, block, model);
	memset(block, 0, bs);
	block[0] = 1;
	same_good(0x41, 0, (struct range){nblocks / 4 + 90, 9}, block, model);
	/* All the same, and no zeros. */
	memset(block, 0x55, bs);
	same_good(0x93, 0, (struct range){nblocks / 4 + 120, 9}, block, model);
	assert_int_equal(ops(IO_ZERO), 4);
	expect_disk(0, model, nblocks);
	free(model);
}

static void blocks_read_as_the_block_sent(void **state)
{
	on_all_disks(same_and_read);
}

static void ranges_of_write_same(void **state)
{
	const uint32_t most = LIMIT_SAME_BYTES / 512;
	uint8_t block[512];
	struct fx_task *ft;

	up("null:1T", 512);
	fill(block, 512, 1);
	ft = same(0x93, 0, 0, 0, block, 512);
	fx_bad_field(ft, 10, 7);
	fx_residual(ft, 512, 0);
	fx_task_free(ft);
	ft = same(0x41, UNMAP, 0, 0, block, 512);
	fx_bad_field(ft, 7, 7);
	fx_task_free(ft);
	ft = same(0x93, NDOB, 0, most + 1, NULL, 0);
	fx_bad_field(ft, 10, 7);
	fx_task_free(ft);
	ft = same(0x93, NDOB, 0, most, NULL, 0);
	fx_good(ft);
	fx_task_free(ft);
	ft = same(0x93, 0, (UINT64_C(1) << 31) - 3, 4, block, 512);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_information(ft, UINT64_C(1) << 31);
	fx_task_free(ft);
	ft = same(0x93, NDOB, UINT64_MAX, 1, NULL, 0);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_task_free(ft);
	down();
}

static void write_same_takes_exactly_one_block(void **state)
{
	static const uint32_t lens[] = {0, 1, 256, 511, 513, 1024};
	uint8_t block[1024] = {1}, before[512];
	struct fx_task *ft;

	up("ram:8M", 512);
	fill(before, 512, 1);
	write_disk(0, before, 1);
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		ft = same(0x93, UNMAP, 0, 1, block, lens[i]);
		fx_sense(ft, 0x5, 0x0e, 0x03);
		fx_residual(ft, lens[i], 0);
		fx_task_free(ft);
	}
	expect_disk(0, before, 1);
	/* Data that nobody asked for is left over. */
	ft = same(0x93, NDOB, 0, 1, block, 512);
	fx_good(ft);
	fx_residual(ft, 512, 0);
	fx_task_free(ft);
	down();
}

/* ---- Steps ---- */

static void large_ranges_go_in_steps(void **state)
{
	struct fx_task *ft;

	up("null:1T", 512);
	ft = unmap((const struct range[]){{1, 100 * MiB / 512}}, 1);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(ops(IO_DISCARD), 4);
	ft = same(0x93, NDOB, 0, 128 * MiB / 512, NULL, 0);
	fx_good(ft);
	fx_task_free(ft);
	assert_int_equal(ops(IO_ZERO), 4);
	down();
}

/* The second step hangs; the nexus goes; no third one is begun. */
static void an_abort_waits_for_one_step(void **state)
{
	const struct range r[] = {{0, 128 * MiB / 512}};
	uint8_t list[24];
	const uint32_t len = unmap_list(list, r, 1);
	struct fx_task *zero, *discard;

	up("fault:rule=zero;hang;after=1,rule=discard;hang;after=1:ram:128M", 512);
	zero = fx_rw(&nexus, 0x93, 0, 128 * MiB / 512);
	zero->t.cdb[1] = NDOB;
	fx_submit(&fx, zero);
	discard = fx_task_new(&nexus, (const uint8_t[10]){0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, 10);
	memcpy(discard->data, list, len);
	fx_expect_out(discard, len);
	fx_submit(&fx, discard);
	while (ops(IO_ZERO) != 1 || ops(IO_DISCARD) != 1)
		fx_settle(&fx);
	fx_call(&fx, fx_close_run, &nexus);
	fx_settle(&fx);
	assert_false(zero->finished || discard->finished);
	store_fault_release(fx.stores[0]);
	fx_finish_wait(zero);
	fx_finish_wait(discard);
	fx_wait(&nexus.sem);
	assert_true(zero->aborted && discard->aborted);
	assert_int_equal(ops(IO_ZERO), 2);
	assert_int_equal(ops(IO_DISCARD), 2);
	fx_task_free(zero);
	fx_task_free(discard);
	sem_destroy(&nexus.sem);
	fx_down(&fx);
}

/* Granules are not cut by the end of a step, whatever their size and alignment. */
static void steps_end_where_granules_do(void **state)
{
	struct fx_task *ft;

	fx_init(&fx);
	fx_add_disk(&fx, "fault:rule=discard@33550336-33554432;enospc:ram:128M", 512, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	((struct bdev_info *)(uintptr_t)fx.lus[0]->info)->discard_blocks = 24;
	((struct bdev_info *)(uintptr_t)fx.lus[0]->info)->discard_alignment = 3;
	begin();
	bs = 512;
	/* 65536 blocks on from 0 lie in a granule that begins at 65523: the step ends there, and the
	 * next one runs into the rule. */
	ft = unmap((const struct range[]){{0, 128 * MiB / 512}}, 1);
	fx_sense(ft, 0x7, 0x27, 0x07);
	fx_task_free(ft);
	assert_int_equal(ops(IO_DISCARD), 2);
	down();
}

/* ---- Errors ---- */

static void no_space_left(void **state)
{
	const struct range r[] = {{0, 1}};
	uint8_t block[1024] = {1}, zeros[512] = {0}, cdb[16];
	struct fx_task *ft;

	up("fault:rule=write+zero+discard;enospc:ram:8M", 512);
	for (unsigned i = 0; i < 5; i++) {
		cdb_16(cdb, 0x8a, 0, 1);
		if (i == 0)
			ft = run_out(cdb, block, 512);
		else if (i == 1)
			ft = unmap(r, 1);
		else if (i < 4)
			ft = same(0x93, 0, 0, 9, i == 2 ? block : zeros, 512);
		else {
			memset(cdb, 0, 16);
			cdb[0] = 0x89;
			cdb[13] = 1;
			block[0] = 0;
			ft = run_out(cdb, block, 1024);
		}
		fx_sense(ft, 0x7, 0x27, 0x07);
		fx_task_free(ft);
	}
	down();
	up("fault:rule=any;enospc;count=1:ram:8M", 512);
	ft = same(0x93, 0, 0, 9, block, 512);
	block[0] = 1;
	fx_task_free(ft);
	ft = same(0x93, 0, 0, 9, block, 512);
	fx_good(ft);
	fx_task_free(ft);
	down();
}

/* INFORMATION tells the block, whichever step it is in, and no later step is begun. */
static void an_error_tells_where(void **state)
{
	static uint8_t ones[FX_BUF_BYTES];
	struct fx_task *ft;

	up("fault:rule=zero+discard@65M-66M;eio:ram:128M", 512);
	memset(ones, 1, sizeof(ones));
	write_disk(120 * MiB / 512, ones, FX_BUF_BYTES / 512);
	ft = unmap((const struct range[]){{0, 128 * MiB / 512}}, 1);
	fx_sense(ft, 0x3, 0x0c, 0x00);
	fx_information(ft, 65 * MiB / 512);
	fx_task_free(ft);
	ft = same(0x93, NDOB, 8, 128 * MiB / 512 - 8, NULL, 0);
	fx_sense(ft, 0x3, 0x0c, 0x00);
	fx_information(ft, 65 * MiB / 512);
	fx_task_free(ft);
	expect_disk(120 * MiB / 512, ones, FX_BUF_BYTES / 512);
	down();
}

static void write_protected(void **state)
{
	const struct range r[] = {{0, 1}};
	uint8_t block[512] = {1};
	struct fx_task *ft;

	fx_init(&fx);
	fx_add_disk(&fx, "ram:8M", 512, true);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	begin();
	for (unsigned i = 0; i < 3; i++) {
		ft = i == 0 ? unmap(r, 1)
			    : same(0x93, i == 1 ? NDOB : 0, 0, 1, block, i == 1 ? 0 : 512);
		fx_sense(ft, 0x7, 0x27, 0x00);
		fx_task_free(ft);
	}
	/* It can still be asked what is where. */
	ft = FX_CMD(&nexus, 24, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0);
	fx_good(ft);
	fx_task_free(ft);
	down();
}

/* ---- GET LBA STATUS ---- */

static struct fx_task *status_of(uint64_t lba, uint32_t alloc)
{
	uint8_t cdb[16] = {0x9e, 0x12};

	store_be64(cdb + 2, lba);
	store_be32(cdb + 10, alloc);
	return fx_cmd(&nexus, cdb, 16, alloc);
}

struct extent_row {
	uint64_t lba;
	uint32_t nblocks;
	uint8_t status;
};

static void expect_status(uint64_t lba, const struct extent_row *rows, unsigned n)
{
	struct fx_task *ft = status_of(lba, 4096);

	fx_good(ft);
	fx_residual(ft, 4096 - 8 - 16 * n, 0);
	assert_int_equal(load_be32(ft->data), 4 + 16 * n);
	assert_int_equal(load_be32(ft->data + 4), 0);
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *d = ft->data + 8 + 16 * i;

		assert_int_equal(load_be64(d), rows[i].lba);
		assert_int_equal(load_be32(d + 8), rows[i].nblocks);
		assert_int_equal(d[12], rows[i].status);
		assert_int_equal(load_be24(d + 13), 0);
	}
	fx_task_free(ft);
}

/* Extents of 64 KiB, which every store here can tell apart. */
static void holes_and_data(void)
{
	const uint32_t chunk = 64 * KiB / bs, all = DISK_BYTES / bs;
	uint8_t *data = malloc(64 * KiB * 2);
	struct fx_task *ft;

	fill(data, 64 * KiB * 2, 1);
	expect_status(0, (const struct extent_row[]){{0, all, 1}}, 1);
	expect_status(5, (const struct extent_row[]){{5, all - 5, 1}}, 1);
	write_disk(2 * chunk, data, 2 * chunk);
	write_disk(all - chunk, data, chunk);
	expect_status(0,
		      (const struct extent_row[]){{0, 2 * chunk, 1},
						  {2 * chunk, 2 * chunk, 0},
						  {4 * chunk, all - 5 * chunk, 1},
						  {all - chunk, chunk, 0}},
		      4);
	expect_status(3 * chunk + 1,
		      (const struct extent_row[]){{3 * chunk + 1, chunk - 1, 0},
						  {4 * chunk, all - 5 * chunk, 1},
						  {all - chunk, chunk, 0}},
		      3);
	expect_status(all - 1, (const struct extent_row[]){{all - 1, 1, 0}}, 1);
	ft = unmap((const struct range[]){{2 * chunk, chunk}, {all - chunk, chunk}}, 2);
	fx_good(ft);
	fx_task_free(ft);
	expect_status(0,
		      (const struct extent_row[]){{0, 3 * chunk, 1},
						  {3 * chunk, chunk, 0},
						  {4 * chunk, all - 4 * chunk, 1}},
		      3);
	free(data);
}

static void on_disks_that_tell_extents(void (*test)(void))
{
	for (uint32_t size = 512; size <= 4096; size *= 8) {
		up("ram:8M", size);
		test();
		down();
		up("fault::ram:8M", size);
		test();
		down();
		if (access("/dev/shm", W_OK) != 0)
			continue;
		up(file_in("/dev/shm"), size);
		unlink(file_spec);
		test();
		down();
	}
}

static void mapped_and_deallocated(void **state)
{
	on_disks_that_tell_extents(holes_and_data);
}

/* Zeros with and without UNMAP, on a file system that knows no other way than to write them. */
static void zeros_keep_their_space_unless_told(void **state)
{
	const uint32_t chunk = 64 * KiB / 512, all = DISK_BYTES / 512;
	uint8_t *data;
	struct fx_task *ft;

	if (access("/dev/shm", W_OK) != 0)
		skip();
	data = malloc(64 * KiB * 3);
	fill(data, 64 * KiB * 3, 1);
	up(file_in("/dev/shm"), 512);
	unlink(file_spec);
	write_disk(0, data, 3 * chunk);
	ft = same(0x93, NDOB, 0, chunk, NULL, 0);
	fx_good(ft);
	fx_task_free(ft);
	ft = same(0x93, NDOB | UNMAP, chunk, chunk, NULL, 0);
	fx_good(ft);
	fx_task_free(ft);
	expect_status(0,
		      (const struct extent_row[]){{0, chunk, 0},
						  {chunk, chunk, 1},
						  {2 * chunk, chunk, 0},
						  {3 * chunk, all - 3 * chunk, 1}},
		      4);
	free(data);
	down();
}

static void a_list_of_extents_ends_somewhere(void **state)
{
	const uint32_t chunk = 64 * KiB / 512;
	uint8_t data[512] = {1};
	struct fx_task *ft;

	up("ram:16M", 512);
	for (unsigned i = 0; i < 128; i++)
		write_disk(2 * i * chunk, data, 1);
	ft = status_of(0, 8192);
	fx_good(ft);
	assert_int_equal(load_be32(ft->data), 4 + 64 * 16);
	assert_int_equal(load_be64(ft->data + 8 + 63 * 16), 63 * chunk);
	assert_int_equal(load_be32(ft->data + 8 + 63 * 16 + 8), chunk);
	assert_int_equal(ops(IO_EXTENT), 64);
	fx_task_free(ft);
	/* No more is looked at than is asked for. */
	ft = status_of(0, 24);
	fx_good(ft);
	fx_task_free(ft);
	assert_true(ops(IO_EXTENT) <= 64 + 2);
	down();
}

static void allocation_lengths_of_lba_status(void **state)
{
	static const uint32_t lens[] = {0, 1, 4, 8, 23, 24, 25, 40};
	uint8_t all[40];
	struct fx_task *ft;

	up("ram:8M", 512);
	write_disk(0, (const uint8_t[512]){1}, 1);
	ft = status_of(0, 40);
	fx_good(ft);
	memcpy(all, ft->data, 40);
	assert_int_equal(load_be32(all), 36);
	fx_task_free(ft);
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		ft = status_of(0, lens[i]);
		fx_good(ft);
		fx_residual(ft, 0, 0);
		assert_int_equal(ft->moved, lens[i]);
		if (lens[i] >= 4)
			assert_true(load_be32(ft->data) >= 20);
		if (lens[i] > 8)
			assert_memory_equal(ft->data + 8, all + 8, lens[i] - 8);
		fx_task_free(ft);
	}
	down();
}

static void lba_status_behind_the_end(void **state)
{
	struct fx_task *ft;

	up("ram:8M", 512);
	ft = status_of(16384, 24);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_information(ft, 16384);
	fx_task_free(ft);
	ft = status_of(UINT64_MAX, 24);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_task_free(ft);
	/* REPORT TYPE came with SBC-4. */
	ft = FX_CMD(&nexus, 24, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0x02, 0);
	fx_bad_field(ft, 14, 1);
	fx_task_free(ft);
	down();
	up("fault:rule=extent;eio:ram:8M", 512);
	ft = status_of(0, 24);
	fx_sense(ft, 0x3, 0x11, 0x00);
	fx_task_free(ft);
	down();
}

/* More than a descriptor's 32 bits can tell. */
static void extents_of_a_huge_disk(void **state)
{
	up("null:4T", 512);
	expect_status(0,
		      (const struct extent_row[]){{0, UINT32_MAX, 1},
						  {UINT32_MAX, UINT32_MAX, 1},
						  {2 * (uint64_t)UINT32_MAX, 2, 1}},
		      3);
	down();
}

/* ---- What is announced ---- */

static const uint8_t *page(struct fx_task **ft, uint8_t code)
{
	*ft = FX_CMD(&nexus, 64, 0x12, 1, code, 0, 64, 0);
	fx_good(*ft);
	return (*ft)->data;
}

static void expect_announced(bool thin, bool zeroes, uint32_t granule)
{
	const uint32_t most = LIMIT_UNMAP_BYTES / bs;
	struct fx_task *ft;
	const uint8_t *d = page(&ft, 0xb0);

	assert_int_equal(load_be16(d + 2), 0x3c);
	assert_int_equal(d[4], 1);
	assert_int_equal(d[5], bs == 512 ? 255 : 32);
	assert_int_equal(load_be32(d + 16), LIMIT_PREFETCH_BYTES / bs);
	assert_int_equal(load_be32(d + 20), thin ? most : 0);
	assert_int_equal(load_be32(d + 24), thin ? 256 : 0);
	assert_int_equal(load_be32(d + 28), granule);
	assert_int_equal(load_be32(d + 32), granule != 0 ? 0x80000000u : 0);
	assert_int_equal(load_be64(d + 36), LIMIT_SAME_BYTES / bs);
	fx_task_free(ft);
	d = page(&ft, 0xb2);
	assert_int_equal(load_be16(d + 2), 4);
	assert_int_equal(d[4], 0);
	assert_int_equal(d[5], !thin ? 0 : zeroes ? 0xe4 : 0xe0);
	assert_int_equal(d[6], thin ? 2 : 0);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0);
	fx_good(ft);
	assert_int_equal(load_be16(ft->data + 14), !thin ? 0 : zeroes ? 0xc000 : 0x8000);
	fx_task_free(ft);
}

static void disks_that_can_unmap_say_so(void **state)
{
	for (bs = 512; bs <= 4096; bs *= 8) {
		up("ram:8M", bs);
		expect_announced(true, true, bs < 4096 ? 4096 / bs : 0);
		down();
		up("null:8M", bs);
		expect_announced(true, true, 0);
		down();
		up("fault:volatile=on:ram:8M", bs);
		expect_announced(true, true, bs < 4096 ? 4096 / bs : 0);
		down();
	}
}

/* REPORT SUPPORTED OPERATION CODES of one command: SUPPORT, and byte 1 of the usage data. */
static void expect_support(uint8_t opcode, uint8_t action, uint8_t support, uint8_t usage)
{
	uint8_t cdb[12] = {0xa3, 0x0c, 3, opcode};
	struct fx_task *ft;

	store_be16(cdb + 4, action);
	store_be32(cdb + 6, 64);
	ft = fx_cmd(&nexus, cdb, 12, 64);
	fx_good(ft);
	assert_int_equal(ft->data[1] & 7, support);
	if (support == 3)
		assert_int_equal(ft->data[5], usage);
	fx_task_free(ft);
}

static void disks_that_cannot_unmap_do_not_know_how(void **state)
{
	const struct range r[] = {{0, 1}};
	uint8_t block[512] = {0};
	struct fx_task *ft;

	bs = 512;
	fx_init(&fx);
	fx.cannot_discard = true;
	fx_add_disk(&fx, "ram:8M", 512, false);
	fx.cannot_discard = false;
	fx_add_disk(&fx, "ram:8M", 512, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	begin();
	expect_announced(false, false, 0);
	ft = unmap(r, 1);
	fx_sense(ft, 0x5, 0x20, 0x00);
	fx_residual(ft, 24, 0);
	fx_task_free(ft);
	ft = status_of(0, 24);
	fx_bad_field(ft, 1, 4);
	fx_task_free(ft);
	for (unsigned i = 0; i < 2; i++) {
		ft = same(i ? 0x93 : 0x41, UNMAP, 0, 1, block, 512);
		fx_bad_field(ft, 1, 3);
		fx_task_free(ft);
		ft = same(i ? 0x93 : 0x41, 0, 0, 1, block, 512);
		fx_good(ft);
		fx_task_free(ft);
	}
	expect_support(0x42, 0, 1, 0);
	expect_support(0x9e, 0x12, 1, 0);
	expect_support(0x9e, 0x10, 3, 0x10);
	expect_support(0x41, 0, 3, 0x00);
	expect_support(0x93, 0, 3, 0x01);
	down();
	up("ram:8M", 512);
	expect_support(0x42, 0, 3, 0x00);
	expect_support(0x9e, 0x12, 3, 0x12);
	expect_support(0x41, 0, 3, 0x08);
	expect_support(0x93, 0, 3, 0x09);
	down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unmapped_blocks_read_zeros),
		cmocka_unit_test(lengths_of_a_list_cut_it),
		cmocka_unit_test(lists_that_are_too_short_are_refused),
		cmocka_unit_test(wrong_descriptors),
		cmocka_unit_test(limits_of_unmap),
		cmocka_unit_test(anchors_are_refused),
		cmocka_unit_test(unmap_is_durable_where_writes_are),
		cmocka_unit_test(blocks_read_as_the_block_sent),
		cmocka_unit_test(ranges_of_write_same),
		cmocka_unit_test(write_same_takes_exactly_one_block),
		cmocka_unit_test(large_ranges_go_in_steps),
		cmocka_unit_test(an_abort_waits_for_one_step),
		cmocka_unit_test(steps_end_where_granules_do),
		cmocka_unit_test(no_space_left),
		cmocka_unit_test(an_error_tells_where),
		cmocka_unit_test(write_protected),
		cmocka_unit_test(mapped_and_deallocated),
		cmocka_unit_test(zeros_keep_their_space_unless_told),
		cmocka_unit_test(a_list_of_extents_ends_somewhere),
		cmocka_unit_test(allocation_lengths_of_lba_status),
		cmocka_unit_test(lba_status_behind_the_end),
		cmocka_unit_test(extents_of_a_huge_disk),
		cmocka_unit_test(disks_that_can_unmap_say_so),
		cmocka_unit_test(disks_that_cannot_unmap_do_not_know_how),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
