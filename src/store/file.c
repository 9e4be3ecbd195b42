/*
 * file: a regular file or a block device, by the loop's disk I/O. What this adds is the flusher:
 * flushes of all loops share as few fdatasync as can be, and a failed one is never forgotten.
 *
 *   idle --flush--> gathering --end of the turn--> running --ended--> idle
 *                       ^                             |
 *                       +---- flushes came meanwhile -+
 *
 * A flush is answered by a run that started after it came: one that comes while a run is under way
 * waits for the next. The kernel reports a failed fsync once for each open file and then
 * forgets the pages, so the next one would succeed over lost data. Hence a failure is latched
 * before anybody is answered, and from then on nothing is written or flushed any more.
 */
#include "store/impl.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct file_store {
	struct store store;
	struct file *file;
	atomic_bool failed; /* a flush failed, or another sync */
	pthread_mutex_t lock;
	/* Under the lock: */
	bool running;         /* or gathering */
	struct queue waiting; /* for the next run, by io->msg.link */
	/* Of the run, on its loop: */
	struct queue joined; /* what it answers */
	struct io run;
	struct loop_msg start;
};

static struct file_store *file_of(struct store *s)
{
	return container_of(s, struct file_store, store);
}

static struct store_info info_of(const struct file_info *fi)
{
	return (struct store_info){
		.size = fi->size,
		.read_only = fi->read_only,
		.volatile_cache = true,
		.rotational = fi->rotational,
		.logical_block = fi->logical_block,
		.physical_block = fi->physical_block,
		.optimal_io = fi->optimal_io,
		.discard_granularity = fi->discard_granularity,
		.discard_alignment = fi->discard_alignment,
		.discard_zeroes = fi->discard_zeroes,
		.keeps_tags = fi->keeps_tags,
		.known_again = fi->known_again,
		.rotation_rate = fi->rotation_rate,
		.form_factor = fi->form_factor,
	};
}

static void flush_run(struct loop_msg *msg);

static int file_store_open(struct store **out, struct loop_set *set,
			   const struct store_type *const *types, char *rest,
			   const struct store_config *config, struct diag *d)
{
	struct file_config fc = {
		.path = rest,
		.flags = (config->read_only ? FILE_READ_ONLY : 0u) |
			 (config->direct ? FILE_DIRECT : 0u) |
			 (config->provisional ? FILE_PROVISIONAL : 0u),
		.create_size = config->size,
		.part_off = config->part.off,
		.part_len = config->part.len,
	};
	struct file_store *f;
	int err;

	if (*rest == '\0') {
		diag_set(d, -EINVAL, "file: without a path");
		diag_fix(d, "write file:PATH, or just the path");
		return -EINVAL;
	}
	f = calloc(1, sizeof(*f));
	if (f == NULL)
		return diag_set(d, -ENOMEM, "file: out of memory");
	err = file_open(&f->file, set, &fc, d);
	if (err != 0) {
		free(f);
		return err;
	}
	f->store.info = info_of(file_info(f->file));
	pthread_mutex_init(&f->lock, NULL);
	queue_init(&f->waiting);
	queue_init(&f->joined);
	f->start.run = flush_run;
	*out = &f->store;
	return 0;
}

static void file_store_keep(struct store *s)
{
	file_keep(file_of(s)->file);
}

static void file_store_close(struct store *s)
{
	struct file_store *f = file_of(s);

	file_close(f->file);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

/* Not only flushes sync the file, and whoever does may be told of an earlier write's failure. Nor is
 * what they could not make durable tried again: it may look as if it were there, and the next sync
 * would find nothing to do. */
static int latched(struct file_store *f, int err)
{
	if (err == -EIO)
		atomic_store(&f->failed, true);
	return err;
}

static bool has_failed(const struct file_store *f)
{
	return atomic_load_explicit(&f->failed, memory_order_relaxed);
}

static int file_store_resize(struct store *s, uint64_t size)
{
	struct file_store *f = file_of(s);
	int err;

	if (has_failed(f))
		return -EIO;
	err = latched(f, file_resize(f->file, size));
	s->info.size = file_info(f->file)->size;
	return err;
}

static int file_store_probe(struct store *s, struct store_status *out)
{
	struct file_store *f = file_of(s);
	struct file_status now;
	int err = file_probe(f->file, &now);

	out->flush_failed = has_failed(f);
	if (err != 0)
		return err;
	out->size = now.size;
	out->read_only |= now.read_only;
	out->unlinked = now.unlinked;
	out->allocated = now.allocated;
	out->available = now.available;
	return 0;
}

static void file_pass(struct store *s, struct io *io)
{
	file_submit(file_of(s)->file, io);
}

/* Write, discard, zero. */
static void file_change(struct store *s, struct io *io)
{
	struct file_store *f = file_of(s);

	if (has_failed(f))
		io_end(io, -EIO);
	else
		file_submit(f->file, io);
}

/* ---- The flusher ----------------------------------------------------------------------------- */

static void flush_other_loop(struct loop_msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);

	io_end(io, io->result);
}

/* On its own loop, from any. */
static void flush_answer(struct io *io, struct loop *here, int err)
{
	if (io->loop == here) {
		io_end(io, err);
		return;
	}
	io->result = err;
	io->msg.run = flush_other_loop;
	loop_post(io->loop, &io->msg);
}

static void flush_ended(struct io *run, int err)
{
	struct file_store *f = container_of(run, struct file_store, run);
	struct loop *here = run->loop;
	struct queue joined;
	struct qnode *n;

	if (err != 0)
		atomic_store(&f->failed, true);
	queue_init(&joined);
	queue_splice(&joined, &f->joined);
	/* Once the lock is open, the next run may begin elsewhere; and once all are answered, the
	 * store may be closed: what follows touches neither. */
	pthread_mutex_lock(&f->lock);
	f->running = !queue_empty(&f->waiting);
	if (f->running)
		loop_at_end(here, &f->start);
	pthread_mutex_unlock(&f->lock);
	while ((n = queue_pop(&joined)) != NULL)
		flush_answer(container_of(n, struct io, msg.link), here, err != 0 ? -EIO : 0);
}

/* Begins a run that all join who came so far. */
static void flush_run(struct loop_msg *msg)
{
	struct file_store *f = container_of(msg, struct file_store, start);

	pthread_mutex_lock(&f->lock);
	queue_splice(&f->joined, &f->waiting);
	pthread_mutex_unlock(&f->lock);
	f->run = (struct io){.op = IO_FLUSH, .loop = loop_self(), .ended = flush_ended};
	if (has_failed(f))
		io_end(&f->run, -EIO);
	else
		file_submit(f->file, &f->run);
}

static void file_flush(struct store *s, struct io *io)
{
	struct file_store *f = file_of(s);
	bool start;

	if (has_failed(f)) {
		io_end(io, -EIO);
		return;
	}
	pthread_mutex_lock(&f->lock);
	queue_push(&f->waiting, &io->msg.link);
	start = !f->running;
	f->running = true;
	pthread_mutex_unlock(&f->lock);
	if (start)
		loop_at_end(io->loop, &f->start);
}

/* ---- Kept with the file ---------------------------------------------------------------------- */

static ssize_t file_store_tag_get(struct store *s, const char *name, void *buf, size_t cap)
{
	return file_tag_get(file_of(s)->file, name, buf, cap);
}

static int file_store_tag_set(struct store *s, const char *name, const void *buf, size_t len)
{
	struct file_store *f = file_of(s);

	if (has_failed(f))
		return -EIO;
	return latched(f, file_tag_set(f->file, name, buf, len));
}

static int file_store_fingerprint(struct store *s, char *buf, size_t cap)
{
	return file_fingerprint(file_of(s)->file, buf, cap);
}

const struct store_type store_file = {
	.name = "file",
	.help = "PATH  a file or block device (\"file:\" may be left out)",
	.threading = STORE_ANY_LOOP,
	.can_direct = true,
	.open = file_store_open,
	.keep = file_store_keep,
	.close = file_store_close,
	.resize = file_store_resize,
	.probe = file_store_probe,
	.read = file_pass,
	.write = file_change,
	.flush = file_flush,
	.discard = file_change,
	.zero = file_change,
	.extent = file_pass,
	.tag_get = file_store_tag_get,
	.tag_set = file_store_tag_set,
	.fingerprint = file_store_fingerprint,
};
