/*
 * null: reads are zeros, writes vanish. For measuring everything else.
 */
#include "store/impl.h"

#include <errno.h>
#include <stdlib.h>

static int null_open(struct store **out, struct loop_set *set,
		     const struct store_type *const *types, char *rest,
		     const struct store_config *config, struct diag *d)
{
	struct store *s;
	uint64_t size;
	int err = store_parse_size("null", rest, &size, d);

	if (err != 0)
		return err;
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		return diag_set(d, -ENOMEM, "null: out of memory");
	s->info = (struct store_info){
		.size = size,
		.logical_block = 512,
		.physical_block = 512,
		.discard_granularity = 512,
		.discard_zeroes = true,
		.rotation_rate = 1,
	};
	*out = s;
	return 0;
}

static void null_close(struct store *s)
{
	free(s);
}

static void null_read(struct store *s, struct io *io)
{
	for (unsigned i = 0; i < io->niov; i++)
		memset(io->iov[i].iov_base, 0, io->iov[i].iov_len);
	io_end(io, 0);
}

static void null_succeed(struct store *s, struct io *io)
{
	io_end(io, 0);
}

static void null_extent(struct store *s, struct io *io)
{
	io->extent = (struct io_extent){.len_bytes = io->len, .hole = true};
	io_end(io, 0);
}

static int null_lend(struct store *s, struct loop *loop, uint64_t off, uint64_t len,
		     struct iovec *iov, unsigned max_iov)
{
	unsigned n = store_zeros_iov(iov, max_iov, len);

	return n != 0 ? (int)n : -EOPNOTSUPP;
}

const struct store_type store_null = {
	.name = "null",
	.help = "SIZE  reads zeros, forgets writes",
	.threading = STORE_ANY_LOOP,
	.writes_fua = true,
	.open = null_open,
	.close = null_close,
	.read = null_read,
	.write = null_succeed,
	.discard = null_succeed,
	.zero = null_succeed,
	.extent = null_extent,
	.lend = null_lend,
};
