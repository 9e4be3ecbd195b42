/*
 * ram: one sparse anonymous mapping. It takes memory only where something was written; a map of the
 * 64 KiB chunks that were tells where, so that reading the rest touches no page.
 *
 * Any loop reads and writes at the same time. Ranges that overlap while in flight may come out in
 * any mix, as on a disk. A chunk's mark is set after its bytes are written and cleared before
 * they are dropped: an unmarked chunk never hides bytes that a later write would bring back.
 */
#include "store/impl.h"
#include "store/iov.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CHUNK_SHIFT 16
#define CHUNK_LEN   (UINT64_C(1) << CHUNK_SHIFT)
#define PAGE_LEN    UINT64_C(4096)
/* Dropping pages costs time: this much a turn, then others run. To pass by a chunk that was never
 * written costs as much as some bytes. */
#define DROP_STEP_BYTES (32 * MiB)
#define DROP_PASS_BYTES 128
/* How far one extent query looks. */
#define EXTENT_CHUNKS 65536

typedef _Atomic(uint8_t) chunk_mark;

struct ram_store {
	struct store store;
	uint8_t *data;
	size_t data_len; /* mapped bytes */
	chunk_mark *written;
	size_t nchunks;
};

static struct ram_store *ram_of(struct store *s)
{
	return container_of(s, struct ram_store, store);
}

static void *map_sparse(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void ram_close(struct store *s)
{
	struct ram_store *r = ram_of(s);

	if (r->data != NULL)
		munmap(r->data, r->data_len);
	if (r->written != NULL)
		munmap((void *)r->written, r->nchunks);
	free(r);
}

static int ram_map(struct ram_store *r, uint64_t size)
{
	if (size > INT64_MAX - CHUNK_LEN)
		return -EFBIG;
	r->data_len = align_up(size, PAGE_LEN);
	r->nchunks = align_up(size, CHUNK_LEN) >> CHUNK_SHIFT;
	r->data = map_sparse(r->data_len);
	r->written = map_sparse(r->nchunks);
	if (r->data == NULL || r->written == NULL)
		return -ENOMEM;
	return 0;
}

static int ram_open(struct store **out, struct loop_set *set, const struct store_type *const *types,
		    char *rest, const struct store_config *config, struct diag *d)
{
	struct ram_store *r;
	char text[32];
	uint64_t size;
	int err = store_parse_size("ram", rest, &size, d);

	if (err != 0)
		return err;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return diag_set(d, -ENOMEM, "ram: out of memory");
	err = ram_map(r, size);
	if (err != 0) {
		ram_close(&r->store);
		diag_set(d, err, "ram: cannot map %s of memory",
			 str_size(text, sizeof(text), size));
		diag_fix(d, "give a smaller size, or raise the limit of address space (ulimit -v)");
		return err;
	}
	r->store.info = (struct store_info){
		.size = size,
		.logical_block = 512,
		.physical_block = 512,
		.discard_granularity = (uint32_t)PAGE_LEN,
		.discard_zeroes = true,
		.rotation_rate = 1,
	};
	*out = &r->store;
	return 0;
}

static bool is_written(const struct ram_store *r, size_t chunk)
{
	return atomic_load_explicit(&r->written[chunk], memory_order_relaxed) != 0;
}

/* Marks the chunks of a range; a mark that is there is not written again, so that the loops do not
 * fight for its cache line. */
static void mark_written(struct ram_store *r, uint64_t off, uint64_t len)
{
	size_t last = (off + len - 1) >> CHUNK_SHIFT;

	for (size_t chunk = off >> CHUNK_SHIFT; chunk <= last; chunk++) {
		if (!is_written(r, chunk))
			atomic_store_explicit(&r->written[chunk], 1, memory_order_relaxed);
	}
}

static void ram_read(struct store *s, struct io *io)
{
	struct ram_store *r = ram_of(s);
	struct iov_at at = {.iov = io->iov};
	uint64_t off = io->off, left = io->len;

	while (left != 0) {
		uint64_t n = min_u64(left, CHUNK_LEN - (off & (CHUNK_LEN - 1)));

		iov_put(&at, is_written(r, off >> CHUNK_SHIFT) ? r->data + off : NULL, n);
		off += n;
		left -= n;
	}
	io_end(io, 0);
}

static void ram_write(struct store *s, struct io *io)
{
	struct ram_store *r = ram_of(s);
	struct iov_at at = {.iov = io->iov};

	if (io->len != 0) {
		iov_get(&at, r->data + io->off, io->len);
		mark_written(r, io->off, io->len);
	}
	io_end(io, 0);
}

/* ---- Discard and zero: give the pages back --------------------------------------------------- */

/* Makes a range read zeros. */
static void drop_part(struct ram_store *r, uint64_t off, uint64_t len)
{
	uint64_t end = off + len;
	uint64_t pages = align_up(off, PAGE_LEN), pages_end = align_down(end, PAGE_LEN);

	if (pages >= pages_end) {
		memset(r->data + off, 0, len);
		return;
	}
	memset(r->data + off, 0, pages - off);
	/* It fails only where memory is locked (mlockall), and then this is as good. */
	if (madvise(r->data + pages, pages_end - pages, MADV_DONTNEED) != 0)
		memset(r->data + pages, 0, pages_end - pages);
	memset(r->data + pages_end, 0, end - pages_end);
}

/* Drops from `off` towards `end`, as far as one step may go. Returns how far it came. Neighbouring
 * chunks go in one call. */
static uint64_t drop_step(struct ram_store *r, uint64_t off, uint64_t end)
{
	uint64_t budget = DROP_STEP_BYTES, from = off;

	while (off < end && budget != 0) {
		size_t chunk = off >> CHUNK_SHIFT;
		uint64_t chunk_end = (uint64_t)(chunk + 1) << CHUNK_SHIFT;
		uint64_t next = min_u64(chunk_end, end);
		bool whole = is_aligned(off, CHUNK_LEN) &&
			     (next == chunk_end || next == r->store.info.size);

		if (!is_written(r, chunk)) {
			if (off > from)
				drop_part(r, from, off - from);
			from = next;
			budget -= min_u64(budget, DROP_PASS_BYTES);
		} else {
			if (whole)
				atomic_store_explicit(&r->written[chunk], 0, memory_order_relaxed);
			budget -= min_u64(budget, next - off);
		}
		off = next;
	}
	if (off > from)
		drop_part(r, from, off - from);
	return off;
}

struct dropping {
	struct loop_msg msg;
	struct ram_store *ram;
	struct io *io;
	uint64_t off;
};

static void dropping_next(struct loop_msg *msg)
{
	struct dropping *dr = container_of(msg, struct dropping, msg);
	struct io *io = dr->io;

	dr->off = drop_step(dr->ram, dr->off, io->off + io->len);
	if (dr->off < io->off + io->len) {
		loop_post(io->loop, &dr->msg);
		return;
	}
	free(dr);
	io_end(io, 0);
}

static void ram_drop(struct store *s, struct io *io)
{
	struct ram_store *r = ram_of(s);
	uint64_t end = io->off + io->len;
	uint64_t off = drop_step(r, io->off, end);
	struct dropping *dr;

	if (off == end) {
		io_end(io, 0);
		return;
	}
	dr = malloc(sizeof(*dr));
	if (dr == NULL) {
		io_end(io, -ENOMEM);
		return;
	}
	*dr = (struct dropping){.msg = {.run = dropping_next}, .ram = r, .io = io, .off = off};
	loop_post(io->loop, &dr->msg);
}

static void ram_extent(struct store *s, struct io *io)
{
	struct ram_store *r = ram_of(s);
	uint64_t end = io->off + io->len;
	size_t chunk = io->off >> CHUNK_SHIFT, stop = chunk + EXTENT_CHUNKS;
	bool written = is_written(r, chunk);

	do {
		chunk++;
	} while (chunk < stop && (uint64_t)chunk << CHUNK_SHIFT < end &&
		 is_written(r, chunk) == written);
	end = min_u64(end, (uint64_t)chunk << CHUNK_SHIFT);
	io->extent = (struct io_extent){.len_bytes = end - io->off, .hole = !written};
	io_end(io, 0);
}

static int ram_lend(struct store *s, struct loop *loop, uint64_t off, uint64_t len,
		    struct iovec *iov, unsigned max_iov)
{
	if (max_iov == 0)
		return -EOPNOTSUPP;
	iov[0] = (struct iovec){.iov_base = ram_of(s)->data + off, .iov_len = len};
	return 1;
}

const struct store_type store_ram = {
	.name = "ram",
	.help = "SIZE  memory, taken as it is written; gone at the end",
	.threading = STORE_ANY_LOOP,
	.writes_fua = true,
	.open = ram_open,
	.close = ram_close,
	.read = ram_read,
	.write = ram_write,
	.discard = ram_drop,
	.zero = ram_drop,
	.extent = ram_extent,
	.lend = ram_lend,
};
