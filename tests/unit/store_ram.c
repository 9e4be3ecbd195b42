/*
 * ram and null, on simulated loops: random io against a model, what stays sparse, lending.
 */
#define STORE_TEST_SIM
#include "store_test.h"

#include <sys/mman.h>

static struct rig rig;

static int setup(void **state)
{
	rig_start(&rig, 2, 3);
	return 0;
}

static int teardown(void **state)
{
	rig_stop(&rig);
	return 0;
}

static void random_io(void **state)
{
	static const struct {
		const char *spec;
		uint64_t block;
	} rows[] = {
		{"ram:1M", 512}, {"ram:1M", 1}, {"ram:300001", 1}, {"ram:200K", 4096}, {"ram:7", 1},
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		for (uint64_t seed = 1; seed <= 5; seed++) {
			struct store *s = rig_open(&rig, test_types, rows[i].spec, NULL);
			struct model m;

			model_init(&m, &rig, s, seed);
			model_run(&m, 150, rows[i].block);
			model_fini(&m);
			store_close(s);
		}
	}
}

static struct io_extent extent_at(struct store *s, uint64_t off, uint64_t len)
{
	struct req q;

	req_init(&q, s, loop_set_at(rig.set, 0), IO_EXTENT, 0, off, len, NULL);
	req_start(&q);
	assert_int_equal(req_wait(&rig, &q), 0);
	return q.io.extent;
}

static void write_byte(struct store *s, uint64_t off, uint8_t v)
{
	assert_int_equal(rig_io(&rig, s, 0, IO_WRITE, 0, off, 1, &v), 0);
}

static uint8_t read_byte(struct store *s, uint64_t off)
{
	uint8_t v = 0xee;

	assert_int_equal(rig_io(&rig, s, 0, IO_READ, 0, off, 1, &v), 0);
	return v;
}

/* Only what was written is data, and a discard of whole chunks makes holes again. */
static void extents(void **state)
{
	struct store *s = rig_open(&rig, test_types, "ram:1M", NULL);
	struct io_extent e = extent_at(s, 0, MiB);

	assert_true(e.hole && e.len_bytes == MiB);
	write_byte(s, 128 * KiB, 1);
	write_byte(s, 256 * KiB - 1, 1);
	e = extent_at(s, 0, MiB);
	assert_true(e.hole && e.len_bytes == 128 * KiB);
	e = extent_at(s, 128 * KiB + 5, MiB - 128 * KiB - 5);
	assert_true(!e.hole && e.len_bytes == 128 * KiB - 5);
	e = extent_at(s, 128 * KiB + 5, 3);
	assert_true(!e.hole && e.len_bytes == 3);
	assert_int_equal(rig_io(&rig, s, 0, IO_DISCARD, 0, 128 * KiB + 1, 128 * KiB - 1, NULL), 0);
	e = extent_at(s, 128 * KiB, MiB - 128 * KiB);
	assert_true(!e.hole && e.len_bytes == 64 * KiB);
	assert_int_equal(read_byte(s, 128 * KiB), 1);
	assert_int_equal(read_byte(s, 256 * KiB - 1), 0);
	store_close(s);
}

/* A large discard takes several turns, a huge empty one passes; neither misses its edges. */
static void large_discards(void **state)
{
	struct store *s = rig_open(&rig, test_types, "ram:100G", NULL);
	uint8_t *block = malloc(MiB);
	uint64_t len = 80 * MiB;

	memset(block, 0xab, MiB);
	for (uint64_t off = 0; off < len; off += MiB)
		assert_int_equal(rig_io(&rig, s, 0, IO_WRITE, 0, off, MiB, block), 0);
	write_byte(s, 99 * GiB, 7);
	assert_int_equal(rig_io(&rig, s, 0, IO_DISCARD, 0, 1, len - 2, NULL), 0);
	assert_int_equal(read_byte(s, 0), 0xab);
	assert_int_equal(read_byte(s, len - 1), 0xab);
	assert_int_equal(read_byte(s, 99 * GiB), 7);
	for (uint64_t off = 1; off < len - 1; off += 4097)
		assert_int_equal(read_byte(s, off), 0);
	assert_int_equal(rig_io(&rig, s, 1, IO_ZERO, IO_MAY_UNMAP, 0, 100 * GiB, NULL), 0);
	assert_int_equal(read_byte(s, 99 * GiB), 0);
	assert_int_equal(read_byte(s, 0), 0);
	assert_true(extent_at(s, 99 * GiB, GiB).hole);
	free(block);
	store_close(s);
}

/* Memory is taken by what was written and given back by a discard. */
static void is_sparse(void **state)
{
	struct store *s = rig_open(&rig, test_types, "ram:8M", NULL);
	unsigned char resident[2048];
	struct iovec iov;
	unsigned n = 0;
	uint8_t *buf = malloc(8 * MiB);

	assert_int_equal(store_lend(s, loop_set_at(rig.set, 0), 0, 8 * MiB, &iov, 1), 1);
	assert_int_equal(rig_io(&rig, s, 0, IO_READ, 0, 0, 8 * MiB, buf), 0);
	write_byte(s, 3 * MiB, 1);
	assert_int_equal(mincore(iov.iov_base, iov.iov_len, resident), 0);
	for (unsigned i = 0; i < 2048; i++)
		n += resident[i] & 1;
	assert_in_range(n, 1, 512); /* one huge page at most */
	assert_int_equal(rig_io(&rig, s, 0, IO_DISCARD, 0, 0, 8 * MiB, NULL), 0);
	assert_int_equal(mincore(iov.iov_base, iov.iov_len, resident), 0);
	for (unsigned i = 0; i < 2048; i++)
		assert_int_equal(resident[i] & 1, 0);
	free(buf);
	store_close(s);
}

static void lends_its_memory(void **state)
{
	struct store *s = rig_open(&rig, test_types, "ram:1M", NULL);
	struct loop *loop = loop_set_at(rig.set, 0);
	struct iovec iov[2];

	write_byte(s, 5000, 9);
	assert_int_equal(store_lend(s, loop, 5000, 4096, iov, 2), 1);
	assert_int_equal(iov[0].iov_len, 4096);
	assert_int_equal(*(uint8_t *)iov[0].iov_base, 9);
	assert_int_equal(store_lend(s, loop, 5000, 4096, iov, 0), -EOPNOTSUPP);
	store_release(s, loop, 5000, 4096);
	store_close(s);
}

static void info(void **state)
{
	struct store *s = rig_open(&rig, test_types, "ram:1M", NULL);
	const struct store_info *i = store_info(s);

	assert_false(i->volatile_cache || i->rotational || i->read_only);
	assert_true(i->discard_zeroes && i->discard_granularity == 4096);
	assert_int_equal(i->logical_block, 512);
	store_close(s);
}

static void null_forgets(void **state)
{
	struct store *s = rig_open(&rig, test_types, "null:1T", NULL);
	struct loop *loop = loop_set_at(rig.set, 0);
	struct io_extent e = extent_at(s, 512, GiB);
	struct iovec iov[4];

	write_byte(s, 5, 5);
	assert_int_equal(read_byte(s, 5), 0);
	assert_true(e.hole && e.len_bytes == GiB);
	assert_int_equal(rig_io(&rig, s, 0, IO_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(rig_io(&rig, s, 0, IO_DISCARD, 0, 0, GiB, NULL), 0);
	assert_int_equal(rig_io(&rig, s, 0, IO_ZERO, IO_FUA, 0, GiB, NULL), 0);
	assert_int_equal(store_lend(s, loop, 0, 256 * KiB, iov, 4), 4);
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *p = iov[i].iov_base;

		assert_int_equal(iov[i].iov_len, 64 * KiB);
		for (unsigned at = 0; at < 64 * KiB; at++)
			assert_int_equal(p[at], 0);
	}
	assert_int_equal(store_lend(s, loop, 0, 256 * KiB + 1, iov, 4), -EOPNOTSUPP);
	assert_int_equal(store_lend(s, loop, 0, 1000, iov, 4), 1);
	assert_int_equal(iov[0].iov_len, 1000);
	store_release(s, loop, 0, 1000);
	store_close(s);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(random_io),        TEST(extents), TEST(large_discards), TEST(is_sparse),
		TEST(lends_its_memory), TEST(info),    TEST(null_forgets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
