/*
 * slice: a part of another store, from an offset on, as a disk of its own.
 *
 *   slice:offset=SIZE[,length=SIZE]:STORE     slice:offset=1M:disk.img     slice:length=4G:/dev/sdb
 *
 * The options end at the first ':'. Without a length it goes to the end of the inner store, and grows with
 * that; with one its size is fixed. No io gets out of it: whatever comes is checked here once more, for what
 * lies beside it is another's disk.
 *
 * It keeps no tags, since those of the inner store are of the whole, and its fingerprint is the whole's and
 * where it lies in that: so its identity is computed, the same one after each start, and another one for
 * each slice. What clients set is kept where the disks' are that cannot keep it.
 *
 * Only its part is locked, so several slices of one file can be served, also by several processes.
 */
#include "store/core.h"

#include <errno.h>
#include <stdlib.h>

#define SECTOR 512

struct slice_options {
	uint64_t offset, length; /* bytes; length 0: to the end */
};

static const struct opt slice_opts[] = {
	{.name = "offset",
	 .kind = OPT_SIZE,
	 .offset = offsetof(struct slice_options, offset),
	 .max = INT64_MAX,
	 .def = "0",
	 .help = "where it begins"},
	{.name = "length",
	 .kind = OPT_SIZE,
	 .offset = offsetof(struct slice_options, length),
	 .min = SECTOR,
	 .max = INT64_MAX,
	 .help = "how long it is; else to the end"},
	{.name = NULL},
};

struct slice {
	struct store store;
	struct store *inner;
	struct slice_options at;
};

static struct slice *slice_of(struct store *s)
{
	return container_of(s, struct slice, store);
}

/* Of so many bytes of the inner store, those that are the slice's. */
static uint64_t own_bytes(const struct slice *sl, uint64_t inner_size)
{
	const uint64_t behind = inner_size > sl->at.offset ? inner_size - sl->at.offset : 0;

	return sl->at.length != 0 ? min_u64(behind, sl->at.length) : behind;
}

/* ---- I/O ------------------------------------------------------------------------------------- */

static bool is_inside(const struct slice *sl, uint64_t off, uint64_t len)
{
	const uint64_t end = sl->at.length != 0 ? sl->at.length : INT64_MAX - sl->at.offset;

	return off <= end && len <= end - off;
}

static void moved_ended(struct io *io, int err)
{
	struct store_child *c = container_of(io, struct store_child, io);

	c->parent->extent = io->extent;
	store_child_end(c, err);
}

/* The same io, at another place: a child, because the parent's offset is its owner's. */
static void slice_move(struct store *s, struct io *io)
{
	struct slice *sl = slice_of(s);
	struct store_child *c;

	if (!is_inside(sl, io->off, io->len)) {
		io_end(io, -ERANGE);
		return;
	}
	c = store_child_get(s, io);
	if (c == NULL) {
		io_end(io, -ENOMEM);
		return;
	}
	c->io.off += sl->at.offset;
	c->io.ended = moved_ended;
	store_submit(sl->inner, &c->io);
}

static void slice_flush(struct store *s, struct io *io)
{
	store_submit(slice_of(s)->inner, io);
}

static int slice_lend(struct store *s, struct loop *loop, uint64_t off, uint64_t len,
		      struct iovec *iov, unsigned max_iov)
{
	struct slice *sl = slice_of(s);

	if (!is_inside(sl, off, len))
		return -EOPNOTSUPP;
	return store_lend(sl->inner, loop, sl->at.offset + off, len, iov, max_iov);
}

static void slice_release(struct store *s, struct loop *loop, uint64_t off, uint64_t len)
{
	store_release(slice_of(s)->inner, loop, slice_of(s)->at.offset + off, len);
}

/* ---- How it is ------------------------------------------------------------------------------- */

static int slice_resize(struct store *s, uint64_t size)
{
	struct slice *sl = slice_of(s);
	int err;

	if (sl->at.length != 0)
		return size <= s->info.size ? 0 : -EOPNOTSUPP;
	if (size > INT64_MAX - sl->at.offset)
		return -EFBIG;
	err = store_resize(sl->inner, size != 0 ? sl->at.offset + size : 0);
	s->info.size = own_bytes(sl, store_info(sl->inner)->size);
	return err;
}

/* How much space of it is taken is known of the whole only. */
static void slice_keep(struct store *s)
{
	store_keep(slice_of(s)->inner);
}

static int slice_probe(struct store *s, struct store_status *status)
{
	struct slice *sl = slice_of(s);
	int err = store_probe(sl->inner, status);

	status->size = own_bytes(sl, status->size);
	status->allocated = UINT64_MAX;
	return err;
}

static int slice_fingerprint(struct store *s, char *buf, size_t cap)
{
	const struct slice *sl = slice_of(s);
	char whole[512];
	int err = store_fingerprint(sl->inner, whole, sizeof(whole));

	if (err < 0)
		return err;
	return str_format(buf, cap, "%s slice=%llu+%llu", whole, (unsigned long long)sl->at.offset,
			  (unsigned long long)sl->at.length)
		       ? 0
		       : -ERANGE;
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void slice_close(struct store *s)
{
	struct slice *sl = slice_of(s);

	store_close(sl->inner);
	free(sl);
}

/* Cuts "OPTIONS:STORE" and reads the options. */
static int parse_slice(struct slice *sl, char *text, char **inner, struct diag *d)
{
	char *options = strsep(&text, ":");
	int err;

	if (text == NULL || *text == '\0') {
		diag_set(d, -EINVAL, "slice: there is no store behind the options");
		diag_fix(d, "write slice:offset=SIZE,length=SIZE:STORE");
		return -EINVAL;
	}
	*inner = text;
	err = opt_defaults(slice_opts, &sl->at, d);
	return err == 0 ? opt_parse_list(slice_opts, &sl->at, options, d) : err;
}

/* What of the inner store is used, where perhaps only a part of this slice is. */
static struct store_part part_of(const struct slice *sl, const struct store_part *asked)
{
	uint64_t len = asked->len;

	if (len == 0 && sl->at.length > asked->off)
		len = sl->at.length - asked->off;
	return (struct store_part){.off = sl->at.offset + asked->off, .len = len};
}

static int check_fit(const struct slice *sl, struct diag *d)
{
	const struct store_info *inner = store_info(sl->inner);
	const uint64_t block = max_u64(inner->logical_block, SECTOR);
	char has[32];

	if (!is_aligned(sl->at.offset | sl->at.length, low_u32(block))) {
		diag_set(d, -EINVAL, "slice: offset and length must be multiples of %llu",
			 (unsigned long long)block);
		return -EINVAL;
	}
	if (own_bytes(sl, inner->size) >= max_u64(sl->at.length, 1))
		return 0;
	diag_set(d, -EINVAL, "slice: it ends behind the store, which has %s (%llu bytes)",
		 str_size(has, sizeof(has), inner->size), (unsigned long long)inner->size);
	diag_fix(d, "choose a smaller offset or length");
	return -EINVAL;
}

/* Where it does not begin on a boundary, it has none. */
static struct store_info info_of(const struct slice *sl)
{
	struct store_info info = *store_info(sl->inner);
	const uint64_t offset = sl->at.offset;
	const uint32_t granularity = info.discard_granularity;

	info.size = own_bytes(sl, info.size);
	info.keeps_tags = false;
	if (info.physical_block != 0 && offset % info.physical_block != 0)
		info.physical_block = info.logical_block;
	if (info.optimal_io != 0 && offset % info.optimal_io != 0)
		info.optimal_io = 0;
	if (granularity != 0)
		info.discard_alignment =
			low_u32((info.discard_alignment + granularity - offset % granularity) %
				granularity);
	return info;
}

static int slice_open(struct store **out, struct loop_set *set,
		      const struct store_type *const *types, char *rest,
		      const struct store_config *config, struct diag *d)
{
	struct slice *sl = calloc(1, sizeof(*sl));
	struct store_config inner_config = *config;
	char *inner;
	int err;

	if (sl == NULL)
		return diag_set(d, -ENOMEM, "slice: out of memory");
	err = parse_slice(sl, rest, &inner, d);
	if (err == 0) {
		inner_config.part = part_of(sl, &config->part);
		err = store_open(&sl->inner, set, types, inner, &inner_config, d);
	}
	if (err == 0)
		err = check_fit(sl, d);
	if (err != 0) {
		slice_close(&sl->store);
		return err;
	}
	sl->store.info = info_of(sl);
	*out = &sl->store;
	return 0;
}

const struct store_type store_slice = {
	.name = "slice",
	.help = "offset=SIZE,length=SIZE:STORE  a part of another store",
	.opts = slice_opts,
	.threading = STORE_ANY_LOOP,
	.can_direct = true,
	.writes_fua = true,
	.open = slice_open,
	.keep = slice_keep,
	.close = slice_close,
	.resize = slice_resize,
	.probe = slice_probe,
	.read = slice_move,
	.write = slice_move,
	.flush = slice_flush,
	.discard = slice_move,
	.zero = slice_move,
	.extent = slice_move,
	.lend = slice_lend,
	.release = slice_release,
	.fingerprint = slice_fingerprint,
};
