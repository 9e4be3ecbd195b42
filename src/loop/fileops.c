/*
 * File I/O: how, by blocking calls on a worker. Apart from file.c because nothing here knows of
 * loops and turns, and everything here may sleep.
 */
#include "loop/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZEROS_BYTES 4096

/* ---- Transfers ------------------------------------------------------------------------------- */

/* A range of the file and the memory for it. The iovecs are a copy that is used up on the way. */
struct transfer {
	bool write;
	uint64_t off, len;
	struct iovec *iov;
	unsigned niov;
};

static void advance(struct transfer *t, size_t n)
{
	t->off += n;
	t->len -= n;
	while (t->niov > 0 && n >= t->iov->iov_len) {
		n -= t->iov->iov_len;
		t->iov++;
		t->niov--;
	}
	if (n > 0) {
		t->iov->iov_base = (uint8_t *)t->iov->iov_base + n;
		t->iov->iov_len -= n;
	}
}

static int transfer_all(struct file *f, struct transfer *t)
{
	while (t->len > 0) {
		off_t off = (off_t)t->off;
		ssize_t n = t->write ? pwritev(f->fd, t->iov, (int)t->niov, off)
				     : preadv(f->fd, t->iov, (int)t->niov, off);

		if (n > 0)
			advance(t, (size_t)n);
		else if (n == 0)
			return -EIO; /* the file is shorter than its disk */
		else if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static unsigned iov_copy(struct iovec *dst, const struct io *io)
{
	for (unsigned i = 0; i < io->niov; i++)
		dst[i] = io->iov[i];
	return io->niov;
}

static int op_read(struct file *f, struct io *io)
{
	struct iovec iov[IO_MAX_IOV];
	struct transfer t = {.off = io->off, .len = io->len, .iov = iov};

	t.niov = iov_copy(iov, io);
	return transfer_all(f, &t);
}

/* ---- Batches of writes ----------------------------------------------------------------------- */

static uint64_t end_of(const struct io *io)
{
	return io->off + io->len;
}

/* How many from v[0] on lie side by side in the file and make one call. */
static unsigned run_length(struct io *const *v, unsigned n)
{
	unsigned niov = v[0]->niov, i = 1;

	while (i < n && end_of(v[i - 1]) == v[i]->off && niov + v[i]->niov <= IOV_MAX)
		niov += v[i++]->niov;
	return i;
}

static int write_run(struct file *f, struct io *const *v, unsigned n)
{
	struct iovec iov[IOV_MAX];
	struct transfer t = {.write = true, .off = v[0]->off, .iov = iov};

	for (unsigned i = 0; i < n; i++) {
		t.niov += iov_copy(iov + t.niov, v[i]);
		t.len += v[i]->len;
	}
	return transfer_all(f, &t);
}

/* When a joined write fails, each does it again alone: an error belongs to its own write only. */
static void write_joined(struct file *f, struct io *const *v, unsigned n)
{
	int err = write_run(f, v, n);

	for (unsigned i = 0; i < n; i++)
		v[i]->result = err == 0 || n == 1 ? err : write_run(f, v + i, 1);
}

/* By offset into `sorted`, stably. false: some overlap, and then only their order is right. */
static bool sort_apart(struct io **sorted, struct io *const *v, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		unsigned at = i;

		for (; at > 0 && sorted[at - 1]->off > v[i]->off; at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = v[i];
	}
	for (unsigned i = 1; i < n; i++)
		if (end_of(sorted[i - 1]) > sorted[i]->off)
			return false;
	return true;
}

static void write_all(struct file *f, struct io *const *v, unsigned n)
{
	for (unsigned i = 0, run; i < n; i += run) {
		run = run_length(v + i, n - i);
		write_joined(f, v + i, run);
	}
}

void file_run_batch(struct file *f, struct queue *ios)
{
	struct io *v[FILE_BATCH_IOS], *sorted[FILE_BATCH_IOS];
	unsigned n = 0;

	for (struct qnode *q = ios->head; q != NULL; q = q->next)
		v[n++] = container_of(q, struct io, msg.link);
	write_all(f, sort_apart(sorted, v, n) ? sorted : v, n);
}

/* ---- The rest -------------------------------------------------------------------------------- */

static int allocate(struct file *f, int mode, const struct io *io)
{
	int err;

	do {
		err = fallocate(f->fd, mode, (off_t)io->off, (off_t)io->len) == 0 ? 0 : -errno;
	} while (err == -EINTR);
	return err;
}

static int discard_device(struct file *f, const struct io *io)
{
	uint64_t block = f->info.logical_block;
	uint64_t from = align_up(io->off, block), to = align_down(io->off + io->len, block);
	uint64_t range[2] = {from, to - from};

	if (from >= to)
		return 0;
	return ioctl(f->fd, BLKDISCARD, range) == 0 ? 0 : -errno;
}

static int op_discard(struct file *f, struct io *io)
{
	if (io->len == 0)
		return 0;
	if (f->info.block_device)
		return discard_device(f, io);
	return allocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, io);
}

static int zeros_write(struct file *f, const struct io *io)
{
	static const uint8_t zeros[ZEROS_BYTES] __attribute__((aligned(ZEROS_BYTES)));
	struct iovec iov[IOV_MAX];
	uint64_t off = io->off, left = io->len;
	int err = 0;

	while (left > 0 && err == 0) {
		struct transfer t = {.write = true, .off = off, .iov = iov};

		while (t.niov < IOV_MAX && t.len < left) {
			size_t len = min_u64(ZEROS_BYTES, left - t.len);

			iov[t.niov++] = (struct iovec){(void *)zeros, len};
			t.len += len;
		}
		off += t.len;
		left -= t.len;
		err = transfer_all(f, &t);
	}
	return err;
}

/* EINVAL is a device and an odd range. */
static bool is_refused(int err)
{
	return err == -EOPNOTSUPP || err == -ENOSYS || err == -EINVAL || err == -ENODEV;
}

/* Both modes work for files and for block devices. */
static int op_zero(struct file *f, struct io *io)
{
	bool unmap = (io->flags & IO_MAY_UNMAP) != 0 && f->info.discard_granularity != 0;
	int err = -EOPNOTSUPP;

	if (io->len == 0)
		return 0;
	if (unmap)
		err = allocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, io);
	if (is_refused(err))
		err = allocate(f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, io);
	return is_refused(err) ? zeros_write(f, io) : err;
}

int file_sync(struct file *f, int (*sync)(int fd))
{
	int err = -EIO;

	pthread_mutex_lock(&f->sync_lock);
	if (!f->sync_failed)
		err = sync(f->fd) == 0 ? 0 : -errno;
	f->sync_failed = err != 0;
	pthread_mutex_unlock(&f->sync_lock);
	return err;
}

static int op_flush(struct file *f, struct io *io)
{
	return file_sync(f, fdatasync);
}

/* No data from io->off on: a hole, up to the end of the file. What should lie behind it (the file is
 * shorter than its disk) is none: who reads there is told so. */
static int last_extent(struct file *f, struct io *io)
{
	struct stat st;

	if (fstat(f->fd, &st) != 0)
		return -errno;
	if ((uint64_t)st.st_size > io->off) {
		io->extent.hole = true;
		io->extent.len_bytes = min_u64(io->len, (uint64_t)st.st_size - io->off);
	}
	return 0;
}

/* lseek answers by its return value, so workers that share the file's position do no harm. */
static int op_extent(struct file *f, struct io *io)
{
	off_t from = (off_t)io->off, data, end;

	io->extent = (struct io_extent){.len_bytes = io->len, .hole = false};
	data = lseek(f->fd, from, SEEK_DATA);
	if (data < 0 && errno == EINVAL)
		return 0; /* a file system that cannot tell: all data */
	if (data < 0 && errno != ENXIO)
		return -errno;
	if (data < 0)
		return last_extent(f, io);
	if (data != from) {
		io->extent.hole = true;
		io->extent.len_bytes = min_u64(io->len, (uint64_t)(data - from));
		return 0;
	}
	end = lseek(f->fd, from, SEEK_HOLE);
	if (end < 0)
		return errno == ENXIO ? 0 : -errno;
	/* Punched in between: it was data a moment ago. One byte is true, and makes progress. */
	io->extent.len_bytes = min_u64(io->len, end > from ? (uint64_t)(end - from) : 1);
	return 0;
}

static int op_write(struct file *f, struct io *io)
{
	write_all(f, &io, 1);
	return io->result;
}

void file_run_io(struct file *f, struct io *io)
{
	static int (*const run[IO_NOPS])(struct file * f, struct io * io) = {
		[IO_READ] = op_read,       [IO_WRITE] = op_write, [IO_FLUSH] = op_flush,
		[IO_DISCARD] = op_discard, [IO_ZERO] = op_zero,   [IO_EXTENT] = op_extent,
	};

	io->result = run[io->op](f, io);
}
