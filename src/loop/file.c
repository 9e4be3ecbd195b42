/*
 * File I/O: who does it, and when. A loop never waits for a disk:
 *
 *   read    tmpfs: at once; cached: at once (RWF_NOWAIT); else the ring, else a worker
 *   write   tmpfs: at once; O_DIRECT: the ring; else gathered, at the end of the turn one batch
 *           for a worker; while FILE_BATCHES are under way the next one grows
 *   others  a worker
 *
 * What the ring or an inline try did not finish (a short transfer, an interruption) a worker does
 * again from the start: its verdict is final.
 */
#include "loop/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void end_io(struct file *f, struct io *io, int err)
{
	if (err != 0)
		file_note_error(f, err);
	io_end(io, err);
}

/* ---- Jobs for workers ------------------------------------------------------------------------ */

static void job_run(struct work *w)
{
	struct file_job *job = container_of(w, struct file_job, work);
	struct file *f = job->fl->file;

	if (job->batch)
		file_run_batch(f, &job->ios);
	else
		file_run_io(f, container_of(job->ios.head, struct io, msg.link));
}

static void job_submit(struct file_loop *fl, struct file_job *job)
{
	fl->free_jobs = job->next_free;
	work_submit(fl->file->lane, &job->work);
}

/* There is a free job: they are as many as may be under way. */
static void single_start(struct file_loop *fl, struct io *io)
{
	struct file_job *job = fl->free_jobs;

	fl->nsingles++;
	job->batch = false;
	queue_push(&job->ios, &io->msg.link);
	job_submit(fl, job);
}

static void batch_start(struct file_loop *fl)
{
	struct file_job *job = fl->free_jobs;
	uint64_t bytes = 0;
	unsigned n = 0;

	while (!queue_empty(&fl->writes) && n < FILE_BATCH_IOS && bytes < FILE_BATCH_BYTES) {
		struct io *io = container_of(queue_pop(&fl->writes), struct io, msg.link);

		queue_push(&job->ios, &io->msg.link);
		bytes += io->len;
		n++;
	}
	fl->nbatches++;
	fl->batches_made++;
	job->batch = true;
	job_submit(fl, job);
}

static void start_more(struct file_loop *fl)
{
	/* Not ahead of the end of the turn, when one is due: nothing that at_end names may end, and
	 * let the file go, before it has run. */
	while (!fl->armed && !queue_empty(&fl->writes) && fl->nbatches < FILE_BATCHES)
		batch_start(fl);
	while (!queue_empty(&fl->singles) && fl->nsingles < FILE_SINGLES)
		single_start(fl, container_of(queue_pop(&fl->singles), struct io, msg.link));
}

static void job_done(struct work *w)
{
	struct file_job *job = container_of(w, struct file_job, work);
	struct file_loop *fl = job->fl;
	struct file *f = fl->file;
	struct queue ended;
	struct qnode *n;

	queue_init(&ended);
	queue_splice(&ended, &job->ios);
	if (job->batch)
		fl->nbatches--;
	else
		fl->nsingles--;
	job->next_free = fl->free_jobs;
	fl->free_jobs = job;
	start_more(fl);
	/* After the last of them the file may be closed and gone. */
	while ((n = queue_pop(&ended)) != NULL) {
		struct io *io = container_of(n, struct io, msg.link);

		end_io(f, io, io->result);
	}
}

static void give_to_worker(struct file_loop *fl, struct io *io)
{
	if (fl->nsingles < FILE_SINGLES)
		single_start(fl, io);
	else
		queue_push(&fl->singles, &io->msg.link);
}

/* ---- Writes are gathered --------------------------------------------------------------------- */

static void gathered(struct loop_msg *msg)
{
	struct file_loop *fl = container_of(msg, struct file_loop, at_end);

	fl->armed = false;
	start_more(fl);
}

static void gather(struct file_loop *fl, struct io *io)
{
	queue_push(&fl->writes, &io->msg.link);
	if (!fl->armed) {
		fl->armed = true;
		loop_at_end(fl->loop, &fl->at_end);
	}
}

/* ---- The ring -------------------------------------------------------------------------------- */

/* What says nothing about the disk. */
static bool is_unfinished(int res)
{
	return res >= 0 || res == -EAGAIN || res == -EINTR || res == -EINVAL ||
	       res == -EOPNOTSUPP || res == -ENOMEM || res == -ECANCELED;
}

static bool ring_start(struct file_loop *fl, struct io *io);

static void ring_done(void *owner, struct io *io, int res)
{
	struct file_loop *fl = owner;
	struct qnode *next = queue_pop(&fl->ring_waiting);

	fl->nring--;
	/* What waits must not outlast the last one in the ring: nobody would start it. */
	while (next != NULL && !ring_start(fl, container_of(next, struct io, msg.link))) {
		give_to_worker(fl, container_of(next, struct io, msg.link));
		next = queue_pop(&fl->ring_waiting);
	}
	if (res >= 0 && (uint64_t)res == io->len)
		io_end(io, 0);
	else if (is_unfinished(res))
		give_to_worker(fl, io);
	else
		end_io(fl->file, io, res);
}

static bool ring_start(struct file_loop *fl, struct io *io)
{
	struct uring_rw rw = {
		.fd = fl->file->fd,
		.write = io->op == IO_WRITE,
		.iov = io->iov,
		.niov = io->niov,
		.off = io->off,
		.done = ring_done,
		.owner = fl,
		.io = io,
	};

	if (!uring_submit_rw(fl->loop, &rw))
		return false;
	fl->nring++;
	fl->ring_made++;
	return true;
}

static bool give_to_ring(struct file_loop *fl, struct io *io)
{
	if (fl->nring < FILE_IN_RING)
		return ring_start(fl, io);
	queue_push(&fl->ring_waiting, &io->msg.link);
	return true;
}

/* ---- The operations -------------------------------------------------------------------------- */

static bool read_inline(struct file *f, struct io *io)
{
	int flags = f->info.in_memory ? 0 : RWF_NOWAIT;
	ssize_t n;

	if (io->len > FILE_INLINE_BYTES || (f->flags & FILE_DIRECT) != 0 ||
	    atomic_load_explicit(&f->no_nowait, memory_order_relaxed))
		return false;
	n = preadv2(f->fd, io->iov, (int)io->niov, (off_t)io->off, flags);
	if (n < 0 && errno == EOPNOTSUPP)
		atomic_store_explicit(&f->no_nowait, true, memory_order_relaxed);
	return n >= 0 && (uint64_t)n == io->len;
}

static void submit_read(struct file_loop *fl, struct io *io)
{
	if (io->len == 0 || read_inline(fl->file, io))
		io_end(io, 0);
	else if (!give_to_ring(fl, io))
		give_to_worker(fl, io);
}

static bool write_inline(struct file *f, struct io *io)
{
	ssize_t n;

	if (!f->info.in_memory || io->len > FILE_INLINE_BYTES || (f->flags & FILE_DIRECT) != 0)
		return false;
	n = pwritev(f->fd, io->iov, (int)io->niov, (off_t)io->off);
	return n >= 0 && (uint64_t)n == io->len;
}

static void submit_write(struct file_loop *fl, struct io *io)
{
	if (io->len == 0 || write_inline(fl->file, io))
		io_end(io, 0);
	else if ((fl->file->flags & FILE_DIRECT) == 0 || !give_to_ring(fl, io))
		gather(fl, io);
}

static void submit_flush(struct file_loop *fl, struct io *io)
{
	if (fl->file->info.in_memory || fl->file->info.read_only)
		io_end(io, 0);
	else
		give_to_worker(fl, io);
}

static void submit_discard(struct file_loop *fl, struct io *io)
{
	if (fl->file->info.discard_granularity == 0)
		io_end(io, -EOPNOTSUPP);
	else
		give_to_worker(fl, io);
}

static void submit_extent(struct file_loop *fl, struct io *io)
{
	if (fl->file->info.block_device) {
		io->extent = (struct io_extent){.len_bytes = io->len, .hole = false};
		io_end(io, 0);
	} else {
		give_to_worker(fl, io);
	}
}

static const struct {
	void (*submit)(struct file_loop *fl, struct io *io);
	bool changes_data;
} ops[IO_NOPS] = {
	[IO_READ] = {submit_read, false},   [IO_WRITE] = {submit_write, true},
	[IO_FLUSH] = {submit_flush, false}, [IO_DISCARD] = {submit_discard, true},
	[IO_ZERO] = {give_to_worker, true}, [IO_EXTENT] = {submit_extent, false},
};

void file_submit(struct file *f, struct io *io)
{
	CHECK(io->loop == loop_self());
	/* Its owner would take it for durable. */
	CHECK((io->flags & IO_FUA) == 0 || (io->op != IO_WRITE && io->op != IO_ZERO));
	if (ops[io->op].changes_data && f->info.read_only)
		io_end(io, -EROFS);
	else
		ops[io->op].submit(&f->loops[io->loop->index], io);
}

/* ---- One file on each loop ------------------------------------------------------------------- */

static void file_loop_init(struct file_loop *fl, struct file *f, struct loop *loop)
{
	memset(fl, 0, sizeof(*fl));
	fl->file = f;
	fl->loop = loop;
	queue_init(&fl->writes);
	queue_init(&fl->singles);
	queue_init(&fl->ring_waiting);
	fl->at_end.run = gathered;
	for (size_t i = 0; i < ARRAY_LEN(fl->jobs); i++) {
		struct file_job *job = &fl->jobs[i];

		job->fl = fl;
		job->work.run = job_run;
		job->work.done = job_done;
		job->work.loop = loop;
		queue_init(&job->ios);
		job->next_free = fl->free_jobs;
		fl->free_jobs = job;
	}
}

int file_loops_init(struct file *f, unsigned max_running)
{
	unsigned n = loop_set_count(f->set);
	size_t cacheline = 64;

	f->loops = aligned_alloc(cacheline, align_up(n * sizeof(*f->loops), cacheline));
	if (f->loops == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++)
		file_loop_init(&f->loops[i], f, loop_set_at(f->set, i));
	return work_lane_create(&f->lane, f->set,
				max_running != 0 ? max_running : FILE_MAX_RUNNING);
}

void file_loops_fini(struct file *f)
{
	work_lane_destroy(f->lane);
	free(f->loops);
}
