/*
 * A store as blocks: geometry from what the store says, and the last check of every io.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka wants those first. */
#include <cmocka.h>

#include "bdev/bdev.h"
#include "loop/sim.h"
#include "store/impl.h"

#include <errno.h>

/* A store that says what the test wants, and notes what comes. */
static struct store_info said;
static unsigned closed, came;
static int ends; /* every io that comes */
static struct store_status now;
static int now_err;

static int open_said(struct store **out, struct loop_set *set,
		     const struct store_type *const *types, char *rest,
		     const struct store_config *config, struct diag *d)
{
	*out = calloc(1, sizeof(**out));
	(*out)->info = said;
	return 0;
}

static void close_said(struct store *s)
{
	closed++;
	free(s);
}

static void take(struct store *s, struct io *io)
{
	came++;
	io_end(io, ends);
}

static int resize_said(struct store *s, uint64_t size)
{
	if (now_err != 0)
		return now_err;
	s->info.size = size != 0 ? size : now.size;
	return 0;
}

static int probe_said(struct store *s, struct store_status *status)
{
	*status = now;
	return now_err;
}

static int lend(struct store *s, struct loop *loop, uint64_t off, uint64_t len, struct iovec *iov,
		unsigned max_iov)
{
	iov[0].iov_len = len;
	return 1;
}

static const struct store_type said_type = {
	.name = "said",
	.open = open_said,
	.close = close_said,
	.resize = resize_said,
	.probe = probe_said,
	.read = take,
	.write = take,
	.flush = take,
	.discard = take,
	.zero = take,
	.extent = take,
	.lend = lend,
};

static struct loop_set *set;

static int make(struct bdev **out, struct store_info info, struct bdev_config config,
		struct diag *d)
{
	static const struct store_type *const types[] = {&said_type, NULL};
	struct store_config sconfig = {.size = 0};
	struct store *store;

	said = info;
	ends = now_err = 0;
	diag_init(d);
	assert_int_equal(store_open(&store, set, types, "said:", &sconfig, NULL), 0);
	return bdev_create(out, store, &config, d);
}

static struct bdev_info geometry(struct store_info info, struct bdev_config config)
{
	struct bdev_info found;
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, info, config, &d), 0);
	found = *bdev_info(b);
	bdev_destroy(b);
	return found;
}

static void refused(struct store_info info, struct bdev_config config, const char *what,
		    const char *fix)
{
	unsigned before = closed;
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, info, config, &d), -EINVAL);
	assert_non_null(strstr(d.what, what));
	assert_non_null(strstr(d.fix, fix));
	assert_int_equal(closed, before + 1);
}

static void blocks_of_a_plain_store(void **state)
{
	struct bdev_info i = geometry(
		(struct store_info){.size = 10 * MiB, .logical_block = 512, .physical_block = 512},
		(struct bdev_config){.block_size = 0});

	assert_int_equal(i.block_size, 512);
	assert_int_equal(i.block_shift, 9);
	assert_int_equal(i.physical_exp, 0);
	assert_int_equal(i.nblocks, 10 * MiB / 512);
	assert_false(i.read_only);
	assert_int_equal(i.discard_blocks, 0);
	assert_false(i.discard_zeroes);
}

static void blocks_of_a_device(void **state)
{
	struct store_info device = {.size = 1 * GiB,
				    .logical_block = 512,
				    .physical_block = 4096,
				    .optimal_io = 64 * 1024,
				    .discard_granularity = 4096,
				    .discard_alignment = 1024,
				    .discard_zeroes = true,
				    .volatile_cache = true,
				    .rotational = true,
				    .rotation_rate = 7200,
				    .form_factor = 2};
	struct bdev_info i = geometry(device, (struct bdev_config){.block_size = 512});

	assert_int_equal(i.physical_exp, 3);
	assert_int_equal(i.optimal_blocks, 128);
	assert_int_equal(i.discard_blocks, 8);
	assert_int_equal(i.discard_alignment, 2);
	assert_true(i.discard_zeroes && i.volatile_cache && i.rotational);
	assert_int_equal(i.rotation_rate, 7200);
	assert_int_equal(i.form_factor, 2);

	i = geometry(device, (struct bdev_config){.block_size = 4096, .read_only = true});
	assert_int_equal(i.block_size, 4096);
	assert_int_equal(i.block_shift, 12);
	assert_int_equal(i.physical_exp, 0);
	assert_int_equal(i.nblocks, GiB / 4096);
	assert_int_equal(i.discard_blocks, 1);
	assert_int_equal(i.discard_alignment, 0);
	assert_true(i.read_only);

	device.read_only = true;
	device.logical_block = 4096;
	i = geometry(device, (struct bdev_config){.block_size = 0});
	assert_int_equal(i.block_size, 4096);
	assert_true(i.read_only);
}

static void odd_hints(void **state)
{
	struct bdev_info i = geometry((struct store_info){.size = 4 * MiB + 700,
							  .logical_block = 0,
							  .physical_block = 3000,
							  .optimal_io = 1000,
							  .discard_granularity = 1500},
				      (struct bdev_config){.block_size = 0});

	assert_int_equal(i.block_size, 512);
	assert_int_equal(i.nblocks, 4 * MiB / 512 + 1); /* the last 188 bytes are not served */
	assert_int_equal(i.physical_exp, 0);
	assert_int_equal(i.optimal_blocks, 0);
	assert_int_equal(i.discard_blocks, 3);
	i = geometry((struct store_info){.size = MiB, .discard_granularity = 1},
		     (struct bdev_config){.block_size = 512});
	assert_int_equal(i.discard_blocks, 1);
}

static void sizes_that_do_not_fit(void **state)
{
	const struct store_info plain = {.size = MiB, .logical_block = 512};

	refused(plain, (struct bdev_config){.block_size = 1000}, "1000", "512 or 4096");
	refused(plain, (struct bdev_config){.block_size = 256}, "256", "512 or 4096");
	refused(plain, (struct bdev_config){.block_size = 65536}, "65536", "512 or 4096");
	refused((struct store_info){.size = MiB, .logical_block = 4096},
		(struct bdev_config){.block_size = 512}, "smaller than the device", "4096");
	refused((struct store_info){.size = 511, .logical_block = 512},
		(struct bdev_config){.block_size = 0}, "511 bytes", "");
	refused((struct store_info){.size = 0, .logical_block = 512},
		(struct bdev_config){.block_size = 4096}, "0 bytes", "");
}

/* ---- I/O ---- */

struct
try {
	struct io io;
	struct iovec iov[IO_MAX_IOV + 1];
	bool done;
};

static void tried(struct io *io)
{
	container_of(io, struct try, io)->done = true;
}

static int submit(struct bdev *b, struct try *t)
{
	t->io.loop = loop_set_at(set, 0);
	t->io.done = tried;
	t->io.result = 1;
	t->done = false;
	bdev_submit(b, &t->io);
	assert_false(t->done); /* never on the submitter's stack */
	sim_run(set, UINT64_MAX);
	assert_true(t->done);
	return t->io.result;
}

static int try_range(struct bdev *b, enum io_op op, uint64_t off, uint64_t len)
{
	struct try t = {.io = {.op = op, .off = off, .len = len, .niov = 1}};

	t.iov[0].iov_len = len;
	t.io.iov = t.iov;
	return submit(b, &t);
}

static void io_is_checked(void **state)
{
	static const enum io_op ops[] = {IO_READ, IO_WRITE, IO_DISCARD, IO_ZERO, IO_EXTENT};
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, (struct store_info){.size = MiB + 5, .discard_granularity = 512},
			      (struct bdev_config){.block_size = 512}, &d),
			 0);
	came = 0;
	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		assert_int_equal(try_range(b, ops[i], 0, 512), 0);
		assert_int_equal(try_range(b, ops[i], 512, MiB - 512), 0);
		assert_int_equal(came, 2 * i + 2);
		assert_int_equal(try_range(b, ops[i], MiB, 512), -ERANGE);
		assert_int_equal(try_range(b, ops[i], MiB - 512, 1024), -ERANGE);
		assert_int_equal(try_range(b, ops[i], UINT64_MAX - 511, 1024), -ERANGE);
		assert_int_equal(try_range(b, ops[i], 512, UINT64_MAX - 511), -ERANGE);
		assert_int_equal(try_range(b, ops[i], 1, 512), -EINVAL);
		assert_int_equal(try_range(b, ops[i], 0, 513), -EINVAL);
		assert_int_equal(try_range(b, ops[i], 0, 0), 0); /* needs no store */
		assert_int_equal(came, 2 * i + 2);
	}
	assert_int_equal(try_range(b, IO_FLUSH, 7, 0), 0);
	assert_int_equal(came, 2 * ARRAY_LEN(ops) + 1);
	assert_int_equal(try_range(b, (enum io_op)IO_NOPS, 0, 512), -EINVAL);
	bdev_destroy(b);
}

static void iovecs_sum_up(void **state)
{
	struct try t = {.io = {.op = IO_WRITE, .len = 512 * IO_MAX_IOV}};
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, (struct store_info){.size = MiB},
			      (struct bdev_config){.block_size = 0}, &d),
			 0);
	for (unsigned i = 0; i <= IO_MAX_IOV; i++)
		t.iov[i].iov_len = 512;
	t.io.iov = t.iov;
	t.io.niov = IO_MAX_IOV;
	assert_int_equal(submit(b, &t), 0);
	t.io.niov = IO_MAX_IOV - 1;
	assert_int_equal(submit(b, &t), -EINVAL);
	t.io.niov = IO_MAX_IOV + 1;
	t.io.len += 512;
	assert_int_equal(submit(b, &t), -EINVAL);
	bdev_destroy(b);
}

static void read_only_disks_are(void **state)
{
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, (struct store_info){.size = MiB, .discard_granularity = 512},
			      (struct bdev_config){.read_only = true}, &d),
			 0);
	assert_int_equal(try_range(b, IO_READ, 0, 512), 0);
	assert_int_equal(try_range(b, IO_EXTENT, 0, 512), 0);
	assert_int_equal(try_range(b, IO_FLUSH, 0, 0), 0);
	assert_int_equal(try_range(b, IO_WRITE, 0, 512), -EROFS);
	assert_int_equal(try_range(b, IO_ZERO, 0, 512), -EROFS);
	assert_int_equal(try_range(b, IO_DISCARD, 0, 512), -EROFS);
	bdev_destroy(b);
}

/* What other layers could take for an answer of their own never comes from a store. */
static void errors_have_one_meaning(void **state)
{
	static const struct {
		int err, means;
	} rows[] = {
		{0, 0},
		{-EIO, -EIO},
		{-ENODEV, -ENODEV},
		{-ENXIO, -ENODEV},
		{-ENOMEDIUM, -ENODEV},
		{-ESHUTDOWN, -ENODEV},
		{-ESTALE, -ENODEV},
		{-ENOSPC, -ENOSPC},
		{-EDQUOT, -ENOSPC},
		{-EFBIG, -ENOSPC},
		{-EROFS, -EROFS},
		{-EPERM, -EROFS},
		{-ENOMEM, -ENOMEM},
		{-EOPNOTSUPP, -EOPNOTSUPP},
		{-ETIMEDOUT, -ETIMEDOUT},
		{-ENODATA, -EIO},
		{-EILSEQ, -EILSEQ},
		{-EREMOTEIO, -EREMOTEIO},
		{-EACCES, -EIO},
		{-EBUSY, -EIO},
		{-ECANCELED, -EIO},
		{-ERANGE, -EIO},
		{-EAGAIN, -EIO},
		{-EBADF, -EIO},
	};
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, (struct store_info){.size = MiB, .discard_granularity = 512},
			      (struct bdev_config){.block_size = 0}, &d),
			 0);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(store_errno(rows[i].err), rows[i].means);
		ends = rows[i].err;
		assert_int_equal(try_range(b, IO_READ, 0, 512), rows[i].means);
		assert_int_equal(try_range(b, IO_WRITE, 0, 512), rows[i].means);
	}
	bdev_destroy(b);
}

/* For ever, and only when it may be that something was lost. */
static void a_failed_flush_is_latched(void **state)
{
	static const int harmless[] = {-ENODEV, -ENOSPC, -ENOMEM, -ETIMEDOUT};
	struct store_status status;
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, (struct store_info){.size = MiB, .discard_granularity = 512},
			      (struct bdev_config){.block_size = 0}, &d),
			 0);
	ends = -EIO;
	assert_int_equal(try_range(b, IO_READ, 0, 512), -EIO);
	assert_int_equal(try_range(b, IO_WRITE, 0, 512), -EIO);
	for (size_t i = 0; i < ARRAY_LEN(harmless); i++) {
		ends = harmless[i];
		assert_int_equal(try_range(b, IO_FLUSH, 0, 0), harmless[i]);
	}
	ends = 0;
	assert_int_equal(try_range(b, IO_FLUSH, 0, 0), 0);
	assert_int_equal(bdev_probe(b, &status), 0);
	assert_false(status.flush_failed);
	ends = -EIO;
	assert_int_equal(try_range(b, IO_FLUSH, 0, 0), -EIO);
	ends = 0;
	came = 0;
	assert_int_equal(try_range(b, IO_FLUSH, 0, 0), -EIO);
	assert_int_equal(try_range(b, IO_WRITE, 0, 512), -EROFS);
	assert_int_equal(try_range(b, IO_ZERO, 0, 512), -EROFS);
	assert_int_equal(try_range(b, IO_DISCARD, 0, 512), -EROFS);
	assert_int_equal(came, 0);
	assert_int_equal(try_range(b, IO_READ, 0, 512), 0);
	assert_int_equal(bdev_probe(b, &status), 0);
	assert_true(status.flush_failed);
	bdev_destroy(b);
}

static void grows(void **state)
{
	struct store_status status;
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, (struct store_info){.size = MiB},
			      (struct bdev_config){.block_size = 4096}, &d),
			 0);
	assert_int_equal(bdev_nblocks(b), 256);
	now = (struct store_status){.size = 2 * MiB + 4095, .read_only = true, .available = 5};
	assert_int_equal(bdev_probe(b, &status), 0);
	assert_int_equal(status.size, 2 * MiB + 4095);
	assert_int_equal(status.available, 5);
	assert_true(status.read_only);
	assert_int_equal(try_range(b, IO_READ, MiB, 4096), -ERANGE);
	assert_int_equal(bdev_resize(b, 0), 0);
	assert_int_equal(bdev_nblocks(b), 512);
	assert_int_equal(bdev_info(b)->nblocks, 256); /* as it was opened */
	assert_int_equal(try_range(b, IO_READ, 2 * MiB - 4096, 4096), 0);
	assert_int_equal(try_range(b, IO_READ, 2 * MiB, 4096), -ERANGE);
	assert_int_equal(bdev_resize(b, 600), 0);
	assert_int_equal(bdev_nblocks(b), 600);
	assert_int_equal(bdev_resize(b, 599), -ERANGE);
	assert_int_equal(bdev_resize(b, UINT64_MAX / 4096 + 1), -EFBIG);
	now_err = -EDQUOT;
	assert_int_equal(bdev_resize(b, 700), -ENOSPC);
	now_err = -ENXIO;
	assert_int_equal(bdev_probe(b, &status), -ENODEV);
	assert_int_equal(bdev_nblocks(b), 600);
	bdev_destroy(b);
}

/* What does not count as a block is not cut off, and no reason to refuse the size it has. */
static void a_last_partial_block_stays(void **state)
{
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, (struct store_info){.size = MiB + 100},
			      (struct bdev_config){.block_size = 4096}, &d),
			 0);
	now_err = 0;
	assert_int_equal(bdev_resize(b, 256), 0);
	assert_int_equal(store_info(bdev_store(b))->size, MiB + 100);
	assert_int_equal(bdev_nblocks(b), 256);
	assert_int_equal(bdev_resize(b, 257), 0);
	assert_int_equal(store_info(bdev_store(b))->size, MiB + 4096);
	assert_int_equal(bdev_nblocks(b), 257);
	bdev_destroy(b);
}

static void lends_are_checked(void **state)
{
	struct loop *loop = loop_set_at(set, 0);
	struct iovec iov[4];
	struct bdev *b;
	struct diag d;

	assert_int_equal(make(&b, (struct store_info){.size = MiB},
			      (struct bdev_config){.block_size = 0}, &d),
			 0);
	assert_int_equal(bdev_lend(b, loop, 512, 1024, iov, 4), 1);
	assert_int_equal(iov[0].iov_len, 1024);
	bdev_release(b, loop, 512, 1024);
	assert_int_equal(bdev_lend(b, loop, MiB, 512, iov, 4), -ERANGE);
	assert_int_equal(bdev_lend(b, loop, 100, 512, iov, 4), -EINVAL);
	bdev_destroy(b);
}

static int set_up(void **state)
{
	return sim_create(&set, 1, 1);
}

static int tear_down(void **state)
{
	loop_set_destroy(set);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_of_a_plain_store),
		cmocka_unit_test(blocks_of_a_device),
		cmocka_unit_test(odd_hints),
		cmocka_unit_test(sizes_that_do_not_fit),
		cmocka_unit_test(io_is_checked),
		cmocka_unit_test(iovecs_sum_up),
		cmocka_unit_test(read_only_disks_are),
		cmocka_unit_test(errors_have_one_meaning),
		cmocka_unit_test(a_failed_flush_is_latched),
		cmocka_unit_test(grows),
		cmocka_unit_test(a_last_partial_block_stays),
		cmocka_unit_test(lends_are_checked),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
