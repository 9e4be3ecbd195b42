/*
 * A store seen as blocks: what geometry it has, and the last check of every io on its way down.
 */
#include "bdev/impl.h"

#include <errno.h>
#include <stdlib.h>

/* ---- Geometry ---- */

static uint32_t whole_blocks(uint32_t bytes, uint32_t block_size)
{
	return is_aligned(bytes, block_size) ? bytes / block_size : 0;
}

static uint8_t log2_of(uint32_t power_of_2)
{
	return (uint8_t)__builtin_ctz(power_of_2);
}

static int choose_block_size(uint32_t *out, const struct store_info *s, uint32_t wanted,
			     struct diag *d)
{
	uint32_t size = wanted != 0 ? wanted : (uint32_t)max_u64(s->logical_block, 512);

	if (!is_power_of_2(size) || size < 512 || size > 4096) {
		diag_fix(d, "use 512 or 4096");
		return diag_set(d, -EINVAL, "a block size of %u bytes is not supported", size);
	}
	if (size < s->logical_block) {
		diag_fix(d, "use %u", s->logical_block);
		return diag_set(d, -EINVAL,
				"a block size of %u bytes is smaller than the device's own (%u)",
				size, s->logical_block);
	}
	*out = size;
	return 0;
}

/* A granularity below a block is every block's; one that is no number of whole blocks is kept as
 * the next larger number, for it is a hint. */
static void discard_geometry(struct bdev_info *info, const struct store_info *s)
{
	if (s->discard_granularity == 0)
		return;
	info->discard_blocks =
		(uint32_t)((s->discard_granularity + (uint64_t)info->block_size - 1) /
			   info->block_size);
	info->discard_alignment = whole_blocks(s->discard_alignment, info->block_size);
	info->discard_zeroes = s->discard_zeroes;
}

static int find_geometry(struct bdev_info *info, const struct store_info *s,
			 const struct bdev_config *config, struct diag *d)
{
	int err = choose_block_size(&info->block_size, s, config->block_size, d);

	if (err != 0)
		return err;
	info->nblocks = s->size / info->block_size;
	if (info->nblocks == 0)
		return diag_set(d, -EINVAL, "%llu bytes are less than one block of %u bytes",
				(unsigned long long)s->size, info->block_size);
	info->block_shift = log2_of(info->block_size);
	if (s->physical_block > info->block_size && is_power_of_2(s->physical_block))
		info->physical_exp = (uint8_t)(log2_of(s->physical_block) - info->block_shift);
	info->read_only = config->read_only || s->read_only;
	info->volatile_cache = s->volatile_cache;
	info->rotational = s->rotational;
	info->rotation_rate = s->rotation_rate;
	info->form_factor = s->form_factor;
	info->optimal_blocks = whole_blocks(s->optimal_io, info->block_size);
	discard_geometry(info, s);
	return 0;
}

int bdev_create(struct bdev **out, struct store *store, const struct bdev_config *config,
		struct diag *d)
{
	struct bdev_info info = {.nblocks = 0};
	struct bdev *b = NULL;
	int err = find_geometry(&info, store_info(store), config, d);

	if (err != 0)
		goto fail;
	b = aligned_alloc(64, sizeof(*b));
	if (b == NULL) {
		err = diag_set(d, -ENOMEM, "out of memory");
		goto fail;
	}
	b->store = store;
	b->info = info;
	atomic_init(&b->nblocks, info.nblocks);
	atomic_init(&b->flush_failed, false);
	range_stripes_init(b);
	*out = b;
	return 0;
fail:
	store_close(store);
	return err;
}

void bdev_destroy(struct bdev *b)
{
	if (b == NULL)
		return;
	range_stripes_fini(b);
	store_close(b->store);
	free(b);
}

const struct bdev_info *bdev_info(const struct bdev *b)
{
	return &b->info;
}

struct store *bdev_store(struct bdev *b)
{
	return b->store;
}

/* ---- How it is by now ---- */

uint64_t bdev_nblocks(const struct bdev *b)
{
	return atomic_load_explicit(&b->nblocks, memory_order_relaxed);
}

int bdev_resize(struct bdev *b, uint64_t nblocks)
{
	uint64_t now, size, before = bdev_nblocks(b);
	int err;

	if (nblocks > UINT64_MAX >> b->info.block_shift)
		return -EFBIG;
	if (nblocks != 0 && nblocks < before)
		return -ERANGE;
	/* A last partial block of the store is not cut off. */
	size = nblocks << b->info.block_shift;
	if (nblocks == before)
		size = max_u64(size, store_info(b->store)->size);
	err = store_resize(b->store, size);
	now = store_info(b->store)->size >> b->info.block_shift;
	if (now > before)
		atomic_store_explicit(&b->nblocks, now, memory_order_relaxed);
	return err;
}

bool bdev_flush_failed(const struct bdev *b)
{
	return atomic_load_explicit(&b->flush_failed, memory_order_relaxed);
}

int bdev_probe(struct bdev *b, struct store_status *out)
{
	int err = store_probe(b->store, out);

	out->flush_failed |= bdev_flush_failed(b);
	return err;
}

/* ---- I/O ---- */

static int check_range(const struct bdev *b, uint64_t off, uint64_t len)
{
	uint64_t size = bdev_nblocks(b) << b->info.block_shift;

	if (!is_aligned(off | len, b->info.block_size))
		return -EINVAL;
	return off > size || len > size - off ? -ERANGE : 0;
}

static int check_iov(const struct io *io)
{
	uint64_t sum = 0;

	if (io->niov > IO_MAX_IOV)
		return -EINVAL;
	for (unsigned i = 0; i < io->niov; i++)
		sum += io->iov[i].iov_len;
	return sum == io->len ? 0 : -EINVAL;
}

static const struct op_check {
	bool range, iov, changes;
} op_checks[IO_NOPS] = {
	[IO_READ] = {.range = true, .iov = true},
	[IO_WRITE] = {.range = true, .iov = true, .changes = true},
	[IO_FLUSH] = {.range = false},
	[IO_DISCARD] = {.range = true, .changes = true},
	[IO_ZERO] = {.range = true, .changes = true},
	[IO_EXTENT] = {.range = true},
};

static int check_io(const struct bdev *b, const struct io *io)
{
	const struct op_check *c;
	int err = 0;

	if ((unsigned)io->op >= IO_NOPS)
		return -EINVAL;
	c = &op_checks[io->op];
	if (bdev_flush_failed(b) && (c->changes || io->op == IO_FLUSH))
		return c->changes ? -EROFS : -EIO;
	if (c->changes && b->info.read_only)
		return -EROFS;
	if (c->range)
		err = check_range(b, io->off, io->len);
	if (err == 0 && c->iov)
		err = check_iov(io);
	return err;
}

static void stored(struct io *io, int err)
{
	struct bdev *b = io->layer;

	/* Before anybody is answered: who asks next may not be told that all is well. */
	if (err != 0) {
		err = store_errno(err);
		if (err == -EIO && io->op == IO_FLUSH)
			atomic_store_explicit(&b->flush_failed, true, memory_order_relaxed);
	}
	io_finish(io, err);
}

void bdev_submit(struct bdev *b, struct io *io)
{
	int err = check_io(b, io);

	if (err != 0 || (io->len == 0 && io->op != IO_FLUSH)) {
		io->extent = (struct io_extent){.len_bytes = 0};
		io_finish(io, err);
		return;
	}
	io->ended = stored;
	io->layer = b;
	store_submit(b->store, io);
}

int bdev_lend(struct bdev *b, struct loop *loop, uint64_t off, uint64_t len, struct iovec *iov,
	      unsigned max_iov)
{
	int err = check_range(b, off, len);

	return err != 0 ? err : store_lend(b->store, loop, off, len, iov, max_iov);
}

void bdev_release(struct bdev *b, struct loop *loop, uint64_t off, uint64_t len)
{
	store_release(b->store, loop, off, len);
}
