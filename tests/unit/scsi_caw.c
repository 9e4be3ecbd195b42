/*
 * COMPARE AND WRITE: what is equal is written, what is not is told to the byte and left alone; data
 * of the wrong length, errors, aborts. And that it is atomic: nexuses on four loops count in the
 * same blocks, while plain writes set them anew, and no step of the count is lost or torn.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus nexus;
static uint32_t bs;

static void up(const char *spec, uint32_t block_size)
{
	bs = block_size;
	fx_up(&fx, spec, block_size);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
}

static void down(void)
{
	assert_int_equal(range_lock_use(unit_bdev(fx.units[0])).held, 0);
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

static struct fx_task *caw_new(uint64_t lba, uint8_t nblocks, const uint8_t *compare,
			       const uint8_t *write)
{
	struct fx_task *ft = fx_rw(&nexus, 0x89, lba, 0);
	const uint32_t len = nblocks * bs;

	ft->t.cdb[13] = nblocks;
	if (len != 0) {
		memcpy(ft->data, compare, len);
		memcpy(ft->data + len, write, len);
		fx_expect_out(ft, 2 * len);
	}
	return ft;
}

/* Blocks: what VPD page B0h says. */
static uint8_t most(void)
{
	return bs == 512 ? 255 : 32;
}

static struct fx_task *caw(uint64_t lba, uint8_t nblocks, const uint8_t *compare,
			   const uint8_t *write)
{
	struct fx_task *ft = caw_new(lba, nblocks, compare, write);

	fx_run(&fx, ft);
	return ft;
}

static void write_disk(uint64_t lba, const uint8_t *data, uint32_t nblocks)
{
	struct fx_task *ft = fx_rw(&nexus, 0x8a, lba, nblocks);

	memcpy(ft->data, data, nblocks * bs);
	fx_expect_out(ft, nblocks * bs);
	fx_run(&fx, ft);
	fx_good(ft);
	fx_task_free(ft);
}

static void expect_disk(uint64_t lba, const uint8_t *data, uint32_t nblocks)
{
	struct fx_task *ft = fx_rw(&nexus, 0x88, lba, nblocks);

	fx_expect_in(ft, nblocks * bs);
	fx_run(&fx, ft);
	fx_good(ft);
	assert_memory_equal(ft->data, data, nblocks * bs);
	fx_task_free(ft);
}

static void on_all_disks(void (*test)(void))
{
	static const char *const specs[] = {"ram:8M", "fault::ram:8M", "fault:volatile=on:ram:8M"};

	for (uint32_t size = 512; size <= 4096; size *= 8) {
		for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
			up(specs[i], size);
			test();
			down();
		}
	}
}

/* ---- Equal or not ---- */

static void swap(void)
{
	static const uint8_t counts[] = {1, 2, 3, 31, 32, 33, 63, 64, 127, 128, 254, 255};
	uint8_t *old = malloc(257 * bs), *new = malloc(257 * bs);

	for (size_t i = 0; i < ARRAY_LEN(counts) && counts[i] <= most(); i++) {
		const uint8_t n = counts[i];
		struct fx_task *ft;

		fill(old, (n + 2) * bs, i);
		fill(new, n * bs, i + 100);
		write_disk(4, old, n + 2u);
		ft = caw_new(5, n, old + bs, new);
		ft->moves = i % 2 ? FX_LATER : FX_AT_ONCE;
		fx_run(&fx, ft);
		fx_good(ft);
		fx_residual(ft, 0, 0);
		fx_task_free(ft);
		memcpy(old + bs, new, n * bs);
		expect_disk(4, old, n + 2u);
	}
	free(old);
	free(new);
}

static void what_is_equal_is_written(void **state)
{
	on_all_disks(swap);
}

static void expect_miscompare(const uint8_t *disk, const uint8_t *compare, const uint8_t *write,
			      uint8_t n, uint32_t at)
{
	struct fx_task *ft = caw(3, n, compare, write);

	fx_sense(ft, 0xe, 0x1d, 0x00);
	fx_information(ft, at);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
	expect_disk(3, disk, n);
}

static void find_differences(void)
{
	const uint8_t n = most();
	const uint32_t len = n * bs, half = len / 2;
	const uint32_t at[] = {0,        1,    bs - 1,   bs,       7 * bs + 9,
			       half - 1, half, half + 1, len - bs, len - 1};
	uint8_t *disk = malloc(len), *compare = malloc(len), *write = malloc(len);

	fill(disk, len, 1);
	fill(write, len, 2);
	write_disk(3, disk, n);
	for (size_t i = 0; i < ARRAY_LEN(at); i++) {
		memcpy(compare, disk, len);
		compare[at[i]] ^= 0x10;
		expect_miscompare(disk, compare, write, n, at[i]);
		/* The first of many. */
		for (size_t k = i + 1; k < ARRAY_LEN(at); k++)
			compare[at[k]] ^= 0x01;
		expect_miscompare(disk, compare, write, n, at[i]);
	}
	/* A block alone. */
	memcpy(compare, disk, bs);
	compare[bs - 1] ^= 1;
	expect_miscompare(disk, compare, write, 1, bs - 1);
	/* It is the second half that is written, even where it could be compared with. */
	expect_miscompare(disk, write, disk, 1, disk[0] != write[0] ? 0 : 1);
	free(disk);
	free(compare);
	free(write);
}

static void a_difference_is_told_to_the_byte(void **state)
{
	on_all_disks(find_differences);
}

/* ---- Lengths and ranges ---- */

static void no_block_is_no_error(void **state)
{
	struct fx_task *ft;

	up("ram:8M", 512);
	ft = caw(0, 0, NULL, NULL);
	fx_good(ft);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
	ft = caw_new(0, 0, NULL, NULL);
	/* Unless it is 256 of them. */
	fx_expect_out(ft, 256 * 1024);
	fx_run(&fx, ft);
	fx_bad_field(ft, 13, 7);
	fx_residual(ft, 256 * 1024, 0);
	fx_task_free(ft);
	down();
}

static void data_of_another_length_is_refused(void **state)
{
	static const uint32_t lens[] = {0, 1, 512, 1023, 1024, 2047, 2049, 4096};
	uint8_t zeros[2048] = {0}, ones[2048];
	struct fx_task *ft;

	up("ram:8M", 512);
	memset(ones, 1, sizeof(ones));
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		ft = caw_new(0, 2, zeros, ones);
		fx_expect_out(ft, lens[i]);
		ft->t.writes = lens[i] != 0;
		fx_run(&fx, ft);
		fx_sense(ft, 0x5, 0x0e, 0x03);
		fx_residual(ft, lens[i], 0);
		fx_task_free(ft);
		expect_disk(0, zeros, 4);
	}
	down();
}

static void behind_the_end(void **state)
{
	static const struct {
		uint64_t lba, bad;
		uint8_t n;
	} rows[] = {{16384, 16384, 1},
		    {16383, 16384, 2},
		    {16384 - 254, 16384, 255},
		    {16385, 16385, 0},
		    {UINT32_MAX, UINT32_MAX, 1}};
	static uint8_t zeros[255 * 512];
	struct fx_task *ft;

	up("ram:8M", 512);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		ft = caw(rows[i].lba, rows[i].n, zeros, zeros);
		fx_sense(ft, 0x5, 0x21, 0x00);
		fx_information(ft, rows[i].bad);
		fx_task_free(ft);
	}
	ft = caw(UINT64_MAX, 255, zeros, zeros);
	fx_sense(ft, 0x5, 0x21, 0x00);
	fx_task_free(ft);
	ft = caw(16384 - 255, 255, zeros, zeros);
	fx_good(ft);
	fx_task_free(ft);
	down();
}

/* More than the limit is refused, whatever comes with it. */
static void too_many_blocks(void **state)
{
	static uint8_t zeros[33 * 4096];
	struct fx_task *ft;

	up("ram:8M", 4096);
	ft = caw(0, 33, zeros, zeros);
	fx_bad_field(ft, 13, 7);
	fx_task_free(ft);
	ft = caw(0, 32, zeros, zeros);
	fx_good(ft);
	fx_task_free(ft);
	down();
}

/* ---- Errors ---- */

static void nothing_is_written_when_a_read_fails(void **state)
{
	static uint8_t zeros[32 * 4096], ones[32 * 4096];
	struct fx_task *ft;

	memset(ones, 1, sizeof(ones));
	up("fault:rule=read@100K-104K;eio;count=1:ram:8M", 4096);
	ft = caw(0, 32, zeros, ones);
	fx_sense(ft, 0x3, 0x11, 0x00);
	assert_int_equal(ft->t.sense[0], 0xf0);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
	expect_disk(0, zeros, 32);
	down();
}

/* The data do not arrive: nothing is locked, compared or written. */
static void nothing_happens_when_data_do_not_come(void **state)
{
	static uint8_t zeros[32 * 4096], ones[32 * 4096];
	struct fx_task *ft;

	memset(ones, 1, sizeof(ones));
	up("ram:8M", 4096);
	ft = caw_new(0, 32, zeros, ones);
	ft->move_err = -EIO;
	fx_run(&fx, ft);
	assert_int_equal(ft->t.status, SCSI_CHECK_CONDITION);
	fx_task_free(ft);
	expect_disk(0, zeros, 32);
	assert_int_equal(range_lock_use(unit_bdev(fx.units[0])).granted, 0);
	down();
}

static bool byte_of_file(const char *path, off_t off, uint8_t want)
{
	const int fd = open(path, O_RDONLY);
	uint8_t is = (uint8_t)~want;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &is, 1, off), 1);
	close(fd);
	return is == want;
}

/* A volatile cache shows whether it was passed. */
static void fua_is_durable(void **state)
{
	char path[] = "/tmp/scsi_caw.XXXXXX", spec[64];
	const int fd = mkstemp(path);
	uint8_t zeros[512] = {0}, ones[512];
	struct fx_task *ft;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 8 * MiB), 0);
	close(fd);
	snprintf(spec, sizeof(spec), "fault:volatile=on:file:%s", path);
	memset(ones, 1, sizeof(ones));
	up(spec, 512);
	for (unsigned fua = 0; fua < 2; fua++) {
		ft = caw_new(fua, 1, zeros, ones);
		ft->t.cdb[1] = fua ? 0x18 : 0x10;
		fx_run(&fx, ft);
		fx_good(ft);
		fx_task_free(ft);
		assert_true(byte_of_file(path, (off_t)fua * 512, (uint8_t)fua));
	}
	down();
	unlink(path);
}

static void lose_nexus(void *arg)
{
	nexus_close(&((struct fx_nexus *)arg)->nexus);
}

/* One holds the lock while its read hangs, the other waits for it; both are aborted. */
static void aborts_give_the_lock_back(void **state)
{
	uint8_t zeros[512] = {0}, ones[512];
	struct fx_task *first, *second, *ft;
	struct fx_nexus other;

	memset(ones, 1, sizeof(ones));
	up("fault:rule=read;hang;count=1:ram:8M", 512);
	first = caw_new(0, 1, zeros, ones);
	fx_submit(&fx, first);
	second = caw_new(0, 1, zeros, ones);
	fx_submit(&fx, second);
	while (range_lock_use(unit_bdev(fx.units[0])).held != 1)
		fx_settle(&fx);
	fx_settle(&fx);
	assert_false(first->finished || second->finished);
	fx_call(&fx, lose_nexus, &nexus);
	fx_finish_wait(second);
	assert_true(second->aborted);
	assert_false(first->finished);
	store_fault_release(fx.stores[0]);
	fx_finish_wait(first);
	assert_true(first->aborted);
	fx_wait(&nexus.sem);
	fx_task_free(first);
	fx_task_free(second);
	fx_open(&fx, &other);
	nexus = other;
	fx_close(&other);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
	expect_disk(0, zeros, 1);
	ft = caw(0, 1, zeros, ones);
	fx_good(ft);
	fx_task_free(ft);
	expect_disk(0, ones, 1);
	down();
}

static struct fx_task *write_new(uint64_t lba, uint8_t byte)
{
	struct fx_task *ft = fx_rw(&nexus, 0x8a, lba, 1);

	memset(ft->data, byte, bs);
	fx_expect_out(ft, bs);
	return ft;
}

/* While its read hangs, a write to its last block waits, and one behind that does not. */
static void the_lock_covers_every_block(void **state)
{
	static uint8_t zeros[255 * 512], ones[255 * 512];
	struct fx_task *ft, *inside, *outside;

	memset(ones, 1, sizeof(ones));
	up("fault:rule=read;hang;count=1:ram:8M", 512);
	ft = caw_new(0, 255, zeros, ones);
	fx_submit(&fx, ft);
	while (range_lock_use(unit_bdev(fx.units[0])).held != 1)
		fx_settle(&fx);
	inside = write_new(254, 7);
	outside = write_new(256, 8);
	fx_submit(&fx, inside);
	fx_run(&fx, outside);
	fx_good(outside);
	fx_settle(&fx);
	assert_false(ft->finished || inside->finished);
	store_fault_release(fx.stores[0]);
	fx_finish_wait(ft);
	fx_finish_wait(inside);
	fx_good(ft);
	fx_good(inside);
	expect_disk(254, inside->data, 1);
	expect_disk(0, ones, 254);
	fx_task_free(ft);
	fx_task_free(inside);
	fx_task_free(outside);
	down();
}

/* ---- Counting on several loops ---- */

#define LOOPS  4
#define SLOTS  2
#define BLOCKS 9 /* the counter fills so many, across a stripe's end */
#define LBA    (64 * KiB / 512 - 4)
#define WORDS  (BLOCKS * 512 / 8)
#define OPS    700
#define EPOCHS 40

struct slot {
	struct scsi_task t;
	struct loop_msg next;
	struct nexus *nexus;
	unsigned index;
	unsigned ops; /* still to do */
	uint64_t seen;
	bool plain;
	unsigned epoch; /* of a plain writer */
};

struct counter {
	struct nexus nexus;
	struct slot slots[SLOTS];
	struct loop_msg start;
	unsigned busy;
};

static struct counter counters[LOOPS];
static struct loop_set *set;
static atomic_uint running;
/* COMPARE AND WRITEs that succeeded, by the epoch that they found. */
static atomic_uint successes[EPOCHS + 1], miscompares;
/* What the counter was not long ago: it only grows. (A READ would see it torn, for it takes no
 * lock.) */
static atomic_ullong newest;

static void put_words(uint64_t *to, uint64_t value, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		to[i] = value;
}

static void slot_move(struct scsi_seg *seg)
{
	struct slot *s = container_of(seg->task, struct slot, t);

	uint64_t *words;

	if (seg->buf == NULL)
		seg->buf = loop_buf_get(s->nexus->loop, seg->len);
	CHECK(seg->buf != NULL);
	words = (uint64_t *)(void *)seg->buf->data;
	put_words(words, s->seen, WORDS);
	if (!s->plain)
		put_words(words + WORDS, s->seen + 1, WORDS);
	seg->iov[0] = (struct iovec){.iov_base = words, .iov_len = seg->len};
	seg->niov = 1;
	scsi_moved(seg, 0);
}

static void slot_cancel(struct scsi_seg *seg)
{
}

static void see(uint64_t value)
{
	unsigned long long was = atomic_load(&newest);

	while (was < value && !atomic_compare_exchange_weak(&newest, &was, value))
		;
}

static void slot_finish(struct scsi_task *t)
{
	struct slot *s = container_of(t, struct slot, t);
	const bool good = t->status == SCSI_GOOD;

	if (t->cdb[0] == 0x89 && good) {
		atomic_fetch_add(&successes[s->seen >> 32], 1);
		see(s->seen + 1);
	} else if (t->cdb[0] == 0x89 && (t->sense[2] & 0xf) == 0xe) {
		atomic_fetch_add(&miscompares, 1);
	} else {
		CHECK(good || (t->sense[2] & 0xf) == 0x6);
		if (t->cdb[0] == 0x8a && good)
			see(s->seen);
	}
	loop_defer(s->nexus->loop, &s->next);
}

static const struct scsi_transport counting = {
	.name = "test",
	.protocol_id = 5,
	.move = slot_move,
	.cancel_move = slot_cancel,
	.finish = slot_finish,
};

static void command(struct slot *s, uint8_t opcode, uint32_t out)
{
	struct scsi_task *t = &s->t;

	t->nexus = s->nexus;
	memset(t->cdb, 0, sizeof(t->cdb));
	memset(t->lun, 0, sizeof(t->lun));
	t->cdb[0] = opcode;
	store_be64(t->cdb + 2, LBA);
	t->cdb[13] = BLOCKS;
	t->cdb_len = 16;
	t->attr = SCSI_SIMPLE;
	t->no_lend = true;
	t->reads = false;
	t->writes = out != 0;
	t->expected_in = 0;
	t->expected_out = out;
	scsi_task_run(t);
}

static void counter_closed(struct nexus *n)
{
	if (atomic_fetch_sub(&running, 1) == 1)
		loop_set_stop(set);
}

/* Tries to count one up; the plain writer begins a new epoch at zero now and then. */
static void slot_next(struct loop_msg *msg)
{
	struct slot *s = container_of(msg, struct slot, next);
	struct counter *c = container_of(s->nexus, struct counter, nexus);

	if (s->ops-- == 0) {
		if (--c->busy == 0)
			nexus_close(&c->nexus);
	} else if (!s->plain) {
		s->seen = atomic_load(&newest);
		command(s, 0x89, 2 * BLOCKS * 512);
	} else if (s->ops % 16 == 0 && s->epoch < EPOCHS) {
		s->seen = (uint64_t)++s->epoch << 32;
		command(s, 0x8a, BLOCKS * 512);
	} else {
		command(s, 0x00, 0);
	}
}

static void counter_opened(struct nexus *n, int err)
{
	struct counter *c = container_of(n, struct counter, nexus);

	CHECK(err == 0);
	for (unsigned i = 0; i < SLOTS; i++)
		loop_defer(n->loop, &c->slots[i].next);
}

static void counter_start(struct loop_msg *msg)
{
	nexus_open(&container_of(msg, struct counter, start)->nexus);
}

struct final {
	struct io io;
	struct iovec iov;
	uint64_t words[WORDS];
	struct loop_msg msg;
	struct bdev *bdev;
};

static void final_read(struct io *io)
{
	loop_set_stop(set);
}

static void final_start(struct loop_msg *msg)
{
	struct final *f = container_of(msg, struct final, msg);

	f->iov = (struct iovec){.iov_base = f->words, .iov_len = sizeof(f->words)};
	f->io = (struct io){.op = IO_READ,
			    .off = LBA * 512,
			    .len = sizeof(f->words),
			    .iov = &f->iov,
			    .niov = 1,
			    .done = final_read,
			    .loop = loop_self()};
	bdev_submit(f->bdev, &f->io);
}

/* The counter, which must not be torn. */
static uint64_t value_on_disk(struct bdev *bdev)
{
	static struct final f;

	f.bdev = bdev;
	f.msg.run = final_start;
	loop_post(loop_set_at(set, 0), &f.msg);
	assert_int_equal(loop_set_run(set), 0);
	assert_int_equal(f.io.result, 0);
	for (unsigned i = 1; i < WORDS; i++)
		assert_true(f.words[i] == f.words[0]);
	return f.words[0];
}

static void count_on(const char *spec, bool plain)
{
	const struct loop_config lc = {.nloops = LOOPS, .disk_engine = LOOP_DISK_WORKERS};
	const struct bdev_config bc = {.block_size = 512};
	const struct store_config sc = {0};
	const struct unit_identity id = {.serial = "x"};
	struct scsi_target *target;
	struct scsi_lu *lu;
	struct store *store;
	struct bdev *bdev;
	struct unit *unit;
	uint64_t value;

	assert_int_equal(loop_set_create(&set, &lc, NULL), 0);
	assert_int_equal(store_open(&store, set, fx_types, spec, &sc, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bc, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &id, 1), 0);
	assert_int_equal(scsi_lu_create_disk(&lu, unit, &(struct scsi_lu_config){0}), 0);
	assert_int_equal(scsi_target_create(&target, "iqn.2026-11.test:x"), 0);
	assert_int_equal(scsi_target_add_lun(target, 0, lu), 0);
	for (unsigned i = 0; i <= EPOCHS; i++)
		atomic_store(&successes[i], 0);
	atomic_store(&miscompares, 0);
	atomic_store(&newest, 0);
	atomic_store(&running, LOOPS);
	for (unsigned i = 0; i < LOOPS; i++) {
		struct counter *c = &counters[i];

		memset(c, 0, sizeof(*c));
		c->nexus = (struct nexus){.transport = &counting,
					  .target = target,
					  .loop = loop_set_at(set, i),
					  .target_port = 1,
					  .opened = counter_opened,
					  .closed = counter_closed};
		c->busy = SLOTS;
		c->start.run = counter_start;
		for (unsigned k = 0; k < SLOTS; k++) {
			c->slots[k].nexus = &c->nexus;
			c->slots[k].ops = OPS;
			c->slots[k].next.run = slot_next;
			c->slots[k].plain = plain && i == 0 && k == 0;
		}
		loop_post(c->nexus.loop, &c->start);
	}
	assert_int_equal(loop_set_run(set), 0);
	assert_int_equal(range_lock_use(bdev).held, 0);
	value = value_on_disk(bdev);
	assert_int_equal(value & UINT32_MAX, atomic_load(&successes[value >> 32]));
	assert_true(atomic_load(&miscompares) > 0);
	if (plain)
		assert_int_equal(value >> 32, EPOCHS);
	else
		assert_true(value > OPS / 8);
	scsi_target_destroy(target);
	scsi_lu_destroy(lu);
	unit_destroy(unit);
	loop_set_destroy(set);
}

static void nobody_counts_twice(void **state)
{
	count_on("ram:1M", false);
	count_on("fault:volatile=on:ram:1M", false);
}

static void plain_writes_come_before_or_after(void **state)
{
	count_on("ram:1M", true);
	count_on("fault::ram:1M", true);
}

static void over_a_file(void **state)
{
	char path[] = "./scsi_caw.XXXXXX";
	const int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, MiB), 0);
	close(fd);
	count_on(path, true);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_equal_is_written),
		cmocka_unit_test(a_difference_is_told_to_the_byte),
		cmocka_unit_test(no_block_is_no_error),
		cmocka_unit_test(data_of_another_length_is_refused),
		cmocka_unit_test(behind_the_end),
		cmocka_unit_test(too_many_blocks),
		cmocka_unit_test(nothing_is_written_when_a_read_fails),
		cmocka_unit_test(nothing_happens_when_data_do_not_come),
		cmocka_unit_test(fua_is_durable),
		cmocka_unit_test(aborts_give_the_lock_back),
		cmocka_unit_test(the_lock_covers_every_block),
		cmocka_unit_test(nobody_counts_twice),
		cmocka_unit_test(plain_writes_come_before_or_after),
		cmocka_unit_test(over_a_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
