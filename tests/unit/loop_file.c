/*
 * File I/O: every operation, by the ring and by workers, on a disk and in memory.
 */
#include "loop_test.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* The library's is not linked: here the ring of loop 0, on this thread, can refuse to take more. */
static _Thread_local unsigned ring_takes = UINT_MAX;

static bool ring_submit(struct loop *loop, const struct uring_rw *rw)
{
	if (ring_takes == 0 || !uring_submit_rw(loop, rw))
		return false;
	ring_takes--;
	return true;
}

#define uring_submit_rw ring_submit
#include "loop/file.c"
#undef uring_submit_rw

/* ---- A file in a fresh directory --------------------------------------------------------------
 */

static const struct variant {
	const char *name, *dir;
	enum loop_disk_engine engine;
} variants[] = {
	{"disk, ring", ".", LOOP_DISK_AUTO},
	{"disk, workers", ".", LOOP_DISK_WORKERS},
	{"memory, ring", "/dev/shm", LOOP_DISK_AUTO},
	{"memory, workers", "/dev/shm", LOOP_DISK_WORKERS},
};

static const struct variant *variant;

#define SIZE (4 * MiB)

struct bench {
	struct loop_set *set;
	struct file *file;
	char dir[64], path[80];
	uint8_t *shadow; /* what the file should hold */
	unsigned seed;
};

static void bench_open(struct bench *b, unsigned nloops, unsigned flags)
{
	struct file_config config = {.path = b->path, .flags = flags, .create_size = SIZE};

	b->set = test_set(nloops, variant->engine);
	assert_int_equal(file_open(&b->file, b->set, &config, NULL), 0);
}

static void bench_close(struct bench *b)
{
	file_close(b->file);
	loop_set_destroy(b->set);
}

static void bench_reopen(struct bench *b, unsigned nloops, unsigned flags)
{
	bench_close(b);
	bench_open(b, nloops, flags);
}

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	str_format(b->dir, sizeof(b->dir), "%s/loop_file.XXXXXX", variant->dir);
	assert_non_null(mkdtemp(b->dir));
	str_format(b->path, sizeof(b->path), "%s/disk.img", b->dir);
	b->shadow = calloc(1, SIZE);
	b->seed = 1;
	bench_open(b, 1, 0);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	struct bench *b = *state;

	bench_close(b);
	unlink(b->path);
	rmdir(b->dir);
	free(b->shadow);
	free(b);
	return 0;
}

static void fill(struct bench *b, uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		uint64_t word = (uint64_t)rand_r(&b->seed) * 0x9e3779b97f4a7c15;

		memcpy(p + i, &word, min_u64(8, len - i));
	}
}

static struct file_loop *file_on_loop(struct bench *b, unsigned i)
{
	return &b->file->loops[i];
}

/* The bytes as anybody else would see them. */
static void assert_file_is_shadow(struct bench *b)
{
	uint8_t *buf = malloc(SIZE);
	int fd = open(b->path, O_RDONLY);
	size_t i = 0;

	assert_int_equal(pread(fd, buf, SIZE, 0), SIZE);
	if (memcmp(buf, b->shadow, SIZE) != 0) {
		while (buf[i] == b->shadow[i])
			i++;
		fail_msg("byte %zu is %u, not %u", i, buf[i], b->shadow[i]);
	}
	close(fd);
	free(buf);
}

/* ---- Some ios, submitted in one turn -----------------------------------------------------------
 */

struct many {
	struct bench *b;
	struct one {
		struct io io;
		struct iovec iov[IO_MAX_IOV];
		struct many *many;
		bool submitted;
	} * ones;
	unsigned n, left;
};

static void one_done(struct io *io)
{
	struct one *one = container_of(io, struct one, io);

	assert_true(one->submitted); /* not on the submitter's stack */
	assert_ptr_equal(loop_self(), io->loop);
	if (--one->many->left == 0)
		loop_set_stop(one->many->b->set);
}

static void many_start(void *arg)
{
	struct many *m = arg;

	for (unsigned i = 0; i < m->n; i++) {
		m->ones[i].io.loop = loop_self();
		file_submit(m->b->file, &m->ones[i].io);
		m->ones[i].submitted = true;
	}
}

static struct many *many_create(struct bench *b, unsigned n)
{
	struct many *m = calloc(1, sizeof(*m));

	m->b = b;
	m->n = m->left = n;
	m->ones = calloc(n, sizeof(*m->ones));
	for (unsigned i = 0; i < n; i++) {
		m->ones[i].many = m;
		m->ones[i].io.done = one_done;
		m->ones[i].io.ended = io_finish;
		m->ones[i].io.iov = m->ones[i].iov;
	}
	return m;
}

static void many_destroy(struct many *m)
{
	free(m->ones);
	free(m);
}

static void many_run(struct many *m)
{
	test_run(m->b->set, many_start, m);
	assert_int_equal(m->left, 0);
}

/* `buf` (NULL: no data) in `niov` pieces, all but the last of them equal. */
static struct io *set_up(struct many *m, unsigned i, enum io_op op, uint64_t off, void *buf,
			 uint64_t len, unsigned niov)
{
	struct one *one = &m->ones[i];
	uint64_t piece = len / niov;

	one->io.op = op;
	one->io.off = off;
	one->io.len = len;
	for (unsigned k = 0; k < niov && buf != NULL; k++)
		one->iov[k] = (struct iovec){(uint8_t *)buf + k * piece,
					     k + 1 < niov ? piece : len - k * piece};
	one->io.niov = buf != NULL ? niov : 0;
	return &one->io;
}

static int do_io(struct bench *b, enum io_op op, unsigned flags, uint64_t off, void *buf,
		 uint64_t len, unsigned niov)
{
	struct many *m = many_create(b, 1);
	int result;

	set_up(m, 0, op, off, buf, len, niov)->flags = flags;
	many_run(m);
	result = m->ones[0].io.result;
	many_destroy(m);
	return result;
}

static struct io_extent extent_at(struct bench *b, uint64_t off, uint64_t len)
{
	struct many *m = many_create(b, 1);
	struct io_extent extent;

	set_up(m, 0, IO_EXTENT, off, NULL, len, 1);
	many_run(m);
	assert_int_equal(m->ones[0].io.result, 0);
	extent = m->ones[0].io.extent;
	many_destroy(m);
	return extent;
}

/* Written behind the engine's back, and out of the page cache. */
static bool is_cold(int fd)
{
	void *map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	unsigned char there[SIZE / 4096];
	unsigned n = 0;

	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(mincore(map, SIZE, there), 0);
	munmap(map, SIZE);
	for (size_t i = 0; i < sizeof(there); i++)
		n += there[i] & 1;
	return n == 0;
}

/* What the kernel has in hand just then stays in its cache: it is asked again. */
static void make_cold(struct bench *b)
{
	int fd = open(b->path, O_RDWR);

	fill(b, b->shadow, SIZE);
	assert_int_equal(pwrite(fd, b->shadow, SIZE, 0), SIZE);
	assert_int_equal(fsync(fd), 0);
	for (unsigned tries = 0; !file_info(b->file)->in_memory && !is_cold(fd); tries++) {
		assert_true(tries < 100);
		usleep(tries * 1000);
		assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	}
	assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
	close(fd);
}

/* ---- Reading and writing -----------------------------------------------------------------------
 */

static void what_was_written_is_read(void **state)
{
	static const struct {
		uint64_t off, len;
		unsigned niov;
	} rows[] = {
		{0, 512, 1},        {512, 4096, 1},       {8191, 1, 1},
		{12345, 100000, 7}, {MiB, MiB, 64},       {SIZE - 4096, 4096, 2},
		{SIZE / 2, 0, 1},   {4096, 256 * KiB, 4}, {0, 3 * MiB, 64},
	};
	struct bench *b = *state;
	uint8_t *buf = malloc(SIZE);

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t off = rows[i].off, len = rows[i].len;
		unsigned niov = rows[i].niov;

		fill(b, b->shadow + off, len);
		assert_int_equal(do_io(b, IO_WRITE, 0, off, b->shadow + off, len, niov), 0);
		memset(buf, 0, len);
		assert_int_equal(do_io(b, IO_READ, 0, off, buf, len, niov), 0);
		assert_memory_equal(buf, b->shadow + off, len);
	}
	assert_int_equal(do_io(b, IO_FLUSH, 0, 0, NULL, 0, 1), 0);
	assert_file_is_shadow(b);
	free(buf);
}

static void cold_data_are_read(void **state)
{
	struct bench *b = *state;
	struct many *m = many_create(b, SIZE / 4096);
	uint8_t *buf = calloc(1, SIZE);

	make_cold(b);
	for (unsigned i = 0; i < m->n; i++) /* more than any ring or lane takes at a time */
		set_up(m, i, IO_READ, i * 4096, buf + i * 4096, 4096, 1 + i % 3);
	many_run(m);
	for (unsigned i = 0; i < m->n; i++)
		assert_int_equal(m->ones[i].io.result, 0);
	assert_memory_equal(buf, b->shadow, SIZE);
	if (!file_info(b->file)->in_memory && b->set->use_uring)
		assert_true(file_on_loop(b, 0)->ring_made > 0);
	if (!b->set->use_uring)
		assert_int_equal(file_on_loop(b, 0)->ring_made, 0);
	many_destroy(m);
	make_cold(b);
	assert_int_equal(do_io(b, IO_READ, 0, 0, buf, SIZE, 64), 0);
	assert_memory_equal(buf, b->shadow, SIZE);
	free(buf);
}

/* All end while the loop is busy elsewhere: what the kernel hands out in portions is all taken. */
static void dawdle(struct loop_msg *msg)
{
	usleep(100 * 1000);
}

static void many_start_and_dawdle(void *arg)
{
	static struct loop_msg msg = {.run = dawdle};

	many_start(arg);
	loop_at_end(loop_self(), &msg); /* behind the ring's */
}

static void what_ends_at_once_is_all_reported(void **state)
{
	struct bench *b = *state;
	struct many *m = many_create(b, 120);
	uint8_t *buf = calloc(1, SIZE);

	make_cold(b);
	for (unsigned i = 0; i < m->n; i++)
		set_up(m, i, IO_READ, i * 32768, buf + i * 32768, 4096, 1);
	test_run(b->set, many_start_and_dawdle, m);
	for (unsigned i = 0; i < m->n; i++)
		assert_memory_equal(buf + i * 32768, b->shadow + i * 32768, 4096);
	many_destroy(m);
	free(buf);
}

/* What the kernel and the ring of this process share; NULL: there is no ring. */
static _Atomic unsigned *ring_flags(void)
{
	struct io_uring_params params = {.flags = 0};
	struct io_uring other;
	unsigned at;
	void *shared;

	assert_int_equal(io_uring_queue_init_params(8, &other, &params), 0);
	at = params.sq_off.flags; /* the same for all rings */
	io_uring_queue_exit(&other);
	for (int fd = 3; fd < 64; fd++) {
		char path[32], is[64];
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, is, sizeof(is));
		if (n < 0 || memmem(is, (size_t)n, "io_uring", 8) == NULL)
			continue;
		shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			      IORING_OFF_SQ_RING);
		assert_ptr_not_equal(shared, MAP_FAILED);
		return (_Atomic unsigned *)(void *)((uint8_t *)shared + at);
	}
	return NULL;
}

static atomic_bool says_so;

/* As soon as there is a ring. */
static void *say_more(void *arg)
{
	_Atomic unsigned *flags = NULL;

	while (atomic_load(&says_so) && (flags = ring_flags()) == NULL)
		usleep(1);
	while (atomic_load(&says_so)) {
		atomic_fetch_or(flags, IORING_SQ_TASKRUN);
		usleep(1);
	}
	if (flags != NULL)
		munmap((void *)((uintptr_t)flags & ~(uintptr_t)4095), 4096);
	return NULL;
}

/* The flag may be set and mean nothing: seen on 6.18, and for ever. */
static void a_ring_that_only_says_that_there_is_more(void **state)
{
	struct bench *b = *state;
	uint8_t *buf = calloc(1, SIZE);
	pthread_t thread;

	for (unsigned turn = 0; turn < 5 && b->set->use_uring; turn++) {
		struct many *m = many_create(b, SIZE / 4096);

		make_cold(b);
		memset(buf, 0, SIZE);
		for (unsigned i = 0; i < m->n; i++)
			set_up(m, i, IO_READ, i * 4096, buf + i * 4096, 4096, 1);
		atomic_store(&says_so, true);
		assert_int_equal(pthread_create(&thread, NULL, say_more, NULL), 0);
		many_run(m);
		atomic_store(&says_so, false);
		pthread_join(thread, NULL);
		assert_memory_equal(buf, b->shadow, SIZE);
		many_destroy(m);
	}
	free(buf);
}

/* Those that wait for their share of it go elsewhere, all of them. */
static void a_ring_that_takes_no_more_leaves_nobody_waiting(void **state)
{
	struct bench *b = *state;
	struct many *m = many_create(b, 3 * FILE_IN_RING);
	uint8_t *buf = calloc(1, SIZE);

	make_cold(b);
	for (unsigned i = 0; i < m->n; i++)
		set_up(m, i, IO_READ, i * 8192, buf + i * 8192, 4096, 1);
	ring_takes = FILE_IN_RING;
	alarm(60); /* it would hang */
	many_run(m);
	alarm(0);
	ring_takes = UINT_MAX;
	for (unsigned i = 0; i < m->n; i++)
		assert_memory_equal(buf + i * 8192, b->shadow + i * 8192, 4096);
	many_destroy(m);
	free(buf);
}

/* The set was promised rings, but this loop gets none: workers do it. */
static void a_loop_without_a_ring_reads_all_the_same(void **state)
{
	struct bench *b = *state;
	uint8_t *buf = calloc(1, SIZE);
	struct rlimit before, none;
	int result;

	make_cold(b);
	getrlimit(RLIMIT_NOFILE, &before);
	none = (struct rlimit){3, before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	result = do_io(b, IO_READ, 0, 0, buf, SIZE, 8);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(result, 0);
	assert_int_equal(file_on_loop(b, 0)->ring_made, 0);
	assert_memory_equal(buf, b->shadow, SIZE);
	free(buf);
}

/* Where RWF_NOWAIT is not known. */
static void reads_need_no_nowait(void **state)
{
	struct bench *b = *state;
	uint8_t *buf = calloc(1, SIZE);

	make_cold(b);
	atomic_store(&b->file->no_nowait, true);
	assert_int_equal(do_io(b, IO_READ, 0, 0, buf, 100000, 3), 0);
	assert_int_equal(do_io(b, IO_READ, 0, 100000, buf + 100000, 4096, 1), 0);
	assert_memory_equal(buf, b->shadow, 104096);
	free(buf);
}

static void a_read_past_the_end_is_an_error(void **state)
{
	struct bench *b = *state;
	uint8_t buf[8192];

	assert_int_equal(truncate(b->path, 6000), 0);
	assert_int_equal(do_io(b, IO_READ, 0, 0, buf, 4096, 1), 0);
	assert_int_equal(do_io(b, IO_READ, 0, 0, buf, 8192, 1), -EIO);
	assert_int_equal(do_io(b, IO_READ, 0, 6000, buf, 1, 1), -EIO);
	assert_int_equal(do_io(b, IO_READ, 0, SIZE - 512, buf, 512, 1), -EIO);
	assert_int_equal(do_io(b, IO_READ, 0, 0, buf, 6000, 1), 0);
}

static void direct_io_works(void **state)
{
	struct bench *b = *state;
	struct many *m = many_create(b, 64);
	uint8_t *buf = aligned_alloc(4096, SIZE);
	int probe = open(b->path, O_RDONLY | O_DIRECT);

	if (probe < 0) {
		many_destroy(m);
		free(buf);
		skip();
	}
	close(probe);
	bench_reopen(b, 1, FILE_DIRECT);
	fill(b, buf, SIZE);
	memcpy(b->shadow, buf, 64 * 16384);
	for (unsigned i = 0; i < m->n; i++)
		set_up(m, i, IO_WRITE, i * 16384, buf + i * 16384, 16384, 1 + i % 4);
	many_run(m);
	for (unsigned i = 0; i < m->n; i++)
		assert_int_equal(m->ones[i].io.result, 0);
	assert_file_is_shadow(b);
	memset(buf, 0, SIZE);
	assert_int_equal(do_io(b, IO_READ, 0, 0, buf, SIZE, 4), 0);
	assert_memory_equal(buf, b->shadow, SIZE);
	if (b->set->use_uring)
		assert_true(file_on_loop(b, 0)->ring_made > 0);
	many_destroy(m);
	free(buf);
}

/* ---- Batches -----------------------------------------------------------------------------------
 */

/* In any order, neighbours or not: each lands in its place. */
static void scattered_writes(struct bench *b, unsigned n)
{
	struct many *m = many_create(b, n);

	for (unsigned i = 0; i < n; i++) {
		uint64_t slot = (uint64_t)i * 389 % (SIZE / 4096);

		fill(b, b->shadow + slot * 4096, 4096);
		set_up(m, i, IO_WRITE, slot * 4096, b->shadow + slot * 4096, 4096, 1 + i % 16);
	}
	many_run(m);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(m->ones[i].io.result, 0);
	assert_file_is_shadow(b);
	many_destroy(m);
}

static void writes_of_a_turn_make_few_batches(void **state)
{
	struct bench *b = *state;

	b->file->info.in_memory = false;
	scattered_writes(b, 64);
	assert_int_equal(file_on_loop(b, 0)->batches_made, 1);
	scattered_writes(b, 1000);
	assert_in_range(file_on_loop(b, 0)->batches_made, 2, 1 + 1000 / FILE_BATCH_IOS + 1);
}

/* Overlapping writes of one turn: the later one wins, byte by byte. */
static void overlapping_writes_keep_their_order(void **state)
{
	struct bench *b = *state;

	b->file->info.in_memory = false;
	for (unsigned round = 0; round < 20; round++) {
		struct many *m = many_create(b, 40);
		uint8_t *data = malloc(40 * 3000);

		fill(b, data, 40 * 3000);
		for (unsigned i = 0; i < m->n; i++) {
			uint64_t off = (uint64_t)(rand_r(&b->seed) % 40) * 500;
			uint64_t len = 500 * (1 + (uint64_t)rand_r(&b->seed) % 6);

			memcpy(b->shadow + off, data + i * 3000, len);
			set_up(m, i, IO_WRITE, off, data + i * 3000, len, 1);
		}
		many_run(m);
		assert_file_is_shadow(b);
		many_destroy(m);
		free(data);
	}
}

/* A limit on the file's size stands in for a full disk: only those beyond it fail, and it kills
 * nobody. */
static void each_write_has_its_own_result(void **state)
{
	struct bench *b = *state;
	struct many *m = many_create(b, 32);
	struct rlimit lim, before;
	uint64_t limit = 20 * 4096 + 100; /* in the middle of the 21st */

	b->file->info.in_memory = false;
	getrlimit(RLIMIT_FSIZE, &before);
	lim = (struct rlimit){limit, before.rlim_max};
	assert_int_equal(truncate(b->path, 0), 0);
	fill(b, b->shadow, 32 * 4096);
	for (unsigned i = 0; i < 32; i++) /* one run of neighbours */
		set_up(m, i, IO_WRITE, i * 4096, b->shadow + i * 4096, 4096, 1);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &lim), 0);
	many_run(m);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(m->ones[i].io.result, i < 20 ? 0 : -EFBIG);
	assert_int_equal(file_on_loop(b, 0)->batches_made, 1);
	memset(b->shadow + 20 * 4096, 0, 12 * 4096);
	assert_int_equal(truncate(b->path, 20 * 4096), 0);
	assert_int_equal(truncate(b->path, SIZE), 0);
	assert_file_is_shadow(b);
	many_destroy(m);
}

/* Writers that each wait for their last write before the next: batches grow by themselves. */
#define WRITERS 32
#define WRITES  60

struct writers {
	struct bench *b;
	unsigned left;
	struct writer_chain {
		struct io io;
		struct iovec iov;
		struct writers *w;
		unsigned done, at;
	} chains[WRITERS];
};

static void chain_next(struct writer_chain *c)
{
	uint64_t slot = (c->at * WRITES + c->done) % (SIZE / 2048);

	fill(c->w->b, c->w->b->shadow + slot * 2048, 2048);
	c->iov = (struct iovec){c->w->b->shadow + slot * 2048, 2048};
	c->io.off = slot * 2048;
	file_submit(c->w->b->file, &c->io);
}

static void chain_done(struct io *io)
{
	struct writer_chain *c = container_of(io, struct writer_chain, io);

	assert_int_equal(io->result, 0);
	assert_true(file_on_loop(c->w->b, 0)->nbatches <= FILE_BATCHES);
	if (++c->done < WRITES)
		chain_next(c);
	else if (--c->w->left == 0)
		loop_set_stop(c->w->b->set);
}

static void chains_start(void *arg)
{
	struct writers *w = arg;

	for (unsigned i = 0; i < WRITERS; i++) {
		struct writer_chain *c = &w->chains[i];

		c->w = w;
		c->at = i;
		c->io = (struct io){.op = IO_WRITE,
				    .len = 2048,
				    .iov = &c->iov,
				    .niov = 1,
				    .loop = loop_self(),
				    .done = chain_done,
				    .ended = io_finish};
		chain_next(c);
	}
}

static void batches_grow_under_load(void **state)
{
	struct bench *b = *state;
	struct writers w = {.b = b, .left = WRITERS};

	b->file->info.in_memory = false;
	test_run(b->set, chains_start, &w);
	assert_file_is_shadow(b);
	assert_in_range(file_on_loop(b, 0)->batches_made, WRITES, WRITERS * WRITES / 4);
}

/* ---- Full disk ---------------------------------------------------------------------------------
 */

static void a_full_disk_is_reported(void **state)
{
	struct bench *b = *state;
	struct bench small = {.seed = 1};
	uint8_t *data;
	int big, err;

	str_format(small.dir, sizeof(small.dir), "%s/full", b->dir);
	str_format(small.path, sizeof(small.path), "%s/disk.img", small.dir);
	assert_int_equal(mkdir(small.dir, 0700), 0);
	if (mount("none", small.dir, "tmpfs", 0, "size=1m") != 0) {
		rmdir(small.dir);
		skip();
	}
	data = calloc(1, MiB);
	bench_open(&small, 1, 0);
	big = do_io(&small, IO_WRITE, 0, 0, data, MiB, 1);
	err = do_io(&small, IO_WRITE, 0, MiB, data, 4096, 1);
	small.file->info.in_memory = false; /* once more by a worker */
	assert_int_equal(do_io(&small, IO_WRITE, 0, MiB, data, 4096, 1), -ENOSPC);
	assert_int_equal(do_io(&small, IO_ZERO, 0, MiB, NULL, 4096, 1), -ENOSPC);
	assert_int_equal(do_io(&small, IO_DISCARD, 0, 0, NULL, 8192, 1), 0);
	assert_int_equal(do_io(&small, IO_WRITE, 0, MiB, data, 4096, 1), 0); /* space is back */
	bench_close(&small);
	umount2(small.dir, MNT_DETACH);
	rmdir(small.dir);
	free(data);
	assert_int_equal(big, 0);
	assert_int_equal(err, -ENOSPC);
}

/* ---- Discard, zero, extents --------------------------------------------------------------------
 */

static void discarded_ranges_read_zeros(void **state)
{
	struct bench *b = *state;

	if (file_info(b->file)->discard_granularity == 0)
		skip();
	assert_true(file_info(b->file)->discard_zeroes);
	fill(b, b->shadow, SIZE);
	assert_int_equal(do_io(b, IO_WRITE, 0, 0, b->shadow, SIZE, 4), 0);
	memset(b->shadow + MiB, 0, MiB);
	assert_int_equal(do_io(b, IO_DISCARD, 0, MiB, NULL, MiB, 1), 0);
	memset(b->shadow + 512, 0, 5000);
	assert_int_equal(do_io(b, IO_DISCARD, 0, 512, NULL, 5000, 1), 0);
	assert_int_equal(do_io(b, IO_DISCARD, 0, 0, NULL, 0, 1), 0);
	assert_file_is_shadow(b);
}

static void zeroed_ranges_read_zeros(void **state)
{
	static const struct {
		uint64_t off, len;
		unsigned flags;
	} rows[] = {
		{0, 4096, 0},
		{100, 1000, 0},
		{MiB, MiB, IO_MAY_UNMAP},
		{MiB - 5000, 10000, 0},
		{2 * MiB + 1, 777777, IO_MAY_UNMAP},
		{SIZE - 512, 512, 0},
		{4096, 0, 0},
	};
	struct bench *b = *state;

	fill(b, b->shadow, SIZE);
	assert_int_equal(do_io(b, IO_WRITE, 0, 0, b->shadow, SIZE, 4), 0);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		memset(b->shadow + rows[i].off, 0, rows[i].len);
		assert_int_equal(
			do_io(b, IO_ZERO, rows[i].flags, rows[i].off, NULL, rows[i].len, 1), 0);
	}
	assert_file_is_shadow(b);
}

static void extents_tell_data_from_holes(void **state)
{
	struct bench *b = *state;
	struct io_extent e;

	e = extent_at(b, 0, SIZE);
	if (!e.hole)
		skip(); /* a file system that knows no holes */
	assert_int_equal(e.len_bytes, SIZE);
	fill(b, b->shadow, 256 * KiB);
	assert_int_equal(do_io(b, IO_WRITE, 0, MiB, b->shadow, 256 * KiB, 1), 0);
	e = extent_at(b, 0, SIZE);
	assert_true(e.hole);
	assert_int_equal(e.len_bytes, MiB);
	e = extent_at(b, 4096, 8192);
	assert_true(e.hole);
	assert_int_equal(e.len_bytes, 8192);
	e = extent_at(b, MiB, SIZE - MiB);
	assert_false(e.hole);
	assert_int_equal(e.len_bytes, 256 * KiB);
	e = extent_at(b, MiB + 512, 1024);
	assert_false(e.hole);
	assert_int_equal(e.len_bytes, 1024);
	e = extent_at(b, MiB + 256 * KiB, SIZE - MiB - 256 * KiB);
	assert_true(e.hole);
	assert_int_equal(e.len_bytes, SIZE - MiB - 256 * KiB);
}

static int sync_that_fails(int fd)
{
	errno = ENOSPC;
	return -1;
}

/* The next fsync of the kernel would end well. */
static void a_failed_sync_fails_all_that_follow(void **state)
{
	struct bench *b = *state;

	assert_int_equal(file_sync(b->file, fsync), 0);
	assert_int_equal(file_sync(b->file, sync_that_fails), -ENOSPC);
	assert_int_equal(file_sync(b->file, fsync), -EIO);
	if (!b->file->info.in_memory)
		assert_int_equal(do_io(b, IO_FLUSH, 0, 0, NULL, 0, 1), -EIO);
	assert_int_equal(file_resize(b->file, 2 * SIZE), -EIO);
}

static atomic_int syncing;

static int sync_alone(int fd)
{
	int before = atomic_fetch_add(&syncing, 1);

	sched_yield();
	atomic_fetch_sub(&syncing, 1);
	errno = EBUSY;
	return before == 0 ? 0 : -1;
}

static void *sync_often(void *file)
{
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(file_sync(file, sync_alone), 0);
	return NULL;
}

/* Or one that ends well could be answered before the failure of another is known. */
static void syncs_do_not_overlap(void **state)
{
	struct bench *b = *state;
	pthread_t other;

	assert_int_equal(pthread_create(&other, NULL, sync_often, b->file), 0);
	sync_often(b->file);
	pthread_join(other, NULL);
}

static void a_read_only_file_stays_as_it_is(void **state)
{
	struct bench *b = *state;
	uint8_t buf[4096] = {1};

	bench_reopen(b, 1, FILE_READ_ONLY);
	assert_true(file_info(b->file)->read_only);
	assert_int_equal(do_io(b, IO_WRITE, 0, 0, buf, 4096, 1), -EROFS);
	assert_int_equal(do_io(b, IO_ZERO, 0, 0, NULL, 4096, 1), -EROFS);
	assert_int_equal(do_io(b, IO_DISCARD, 0, 0, NULL, 4096, 1), -EROFS);
	assert_int_equal(do_io(b, IO_READ, 0, 0, buf, 4096, 1), 0);
	assert_int_equal(do_io(b, IO_FLUSH, 0, 0, NULL, 0, 1), 0);
	assert_int_equal(extent_at(b, 0, SIZE).len_bytes, SIZE);
	assert_file_is_shadow(b);
}

/* ---- Many loops --------------------------------------------------------------------------------
 */

#define NLOOPS 8
#define CHAINS 8
#define STEPS  40
#define REGION (SIZE / NLOOPS / CHAINS)

/* Each chain writes and reads its own region in turns, all ops among them. */
struct walk {
	struct loop_msg start;
	struct bench *b;
	atomic_uint *left;
	struct io io;
	struct iovec iov[2];
	uint64_t base;
	unsigned steps, seed;
	bool checking;
	uint8_t want[REGION], have[REGION];
};

static void walk_submit(struct walk *w, enum io_op op, uint64_t at, uint8_t *buf, uint64_t len)
{
	w->io.op = op;
	w->io.off = w->base + at;
	w->io.len = len;
	w->iov[0] = (struct iovec){buf + at, len / 2};
	w->iov[1] = (struct iovec){buf + at + len / 2, len - len / 2};
	w->io.niov = 2;
	file_submit(w->b->file, &w->io);
}

static void walk_change(struct walk *w)
{
	uint64_t at = (uint64_t)rand_r(&w->seed) % (REGION / 512) * 512;
	uint64_t len = 512 + (uint64_t)rand_r(&w->seed) % (REGION - at) / 512 * 512;
	enum io_op rows[] = {IO_WRITE, IO_WRITE, IO_WRITE, IO_ZERO, IO_FLUSH};
	enum io_op op = rows[rand_r(&w->seed) % 5];

	len = min_u64(len, REGION - at);
	if (op == IO_WRITE)
		memset(w->want + at, rand_r(&w->seed), len);
	if (op == IO_ZERO)
		memset(w->want + at, 0, len);
	walk_submit(w, op, at, w->want, len);
}

static void walk_done(struct io *io)
{
	struct walk *w = container_of(io, struct walk, io);

	CHECK(io->result == 0);
	if (w->checking)
		CHECK(memcmp(w->want, w->have, REGION) == 0);
	w->checking = !w->checking;
	if (w->checking) {
		memset(w->have, 0xee, REGION);
		walk_submit(w, IO_READ, 0, w->have, REGION);
	} else if (++w->steps < STEPS) {
		walk_change(w);
	} else if (atomic_fetch_sub(w->left, 1) == 1) {
		loop_set_stop(w->b->set);
	}
}

static void walk_start(struct loop_msg *msg)
{
	struct walk *w = container_of(msg, struct walk, start);

	w->io.loop = loop_self();
	walk_change(w);
}

static void all_loops_use_one_file(void **state)
{
	struct bench *b = *state;
	struct walk *walks = calloc(NLOOPS * CHAINS, sizeof(*walks));
	atomic_uint left = NLOOPS * CHAINS;

	bench_reopen(b, NLOOPS, 0);
	for (unsigned i = 0; i < NLOOPS * CHAINS; i++) {
		struct walk *w = &walks[i];

		w->start.run = walk_start;
		w->b = b;
		w->left = &left;
		w->base = i * REGION;
		w->seed = i + 1;
		w->io.iov = w->iov;
		w->io.done = walk_done;
		w->io.ended = io_finish;
		loop_post(loop_set_at(b->set, i % NLOOPS), &w->start);
	}
	assert_int_equal(loop_set_run(b->set), 0);
	for (unsigned i = 0; i < NLOOPS * CHAINS; i++)
		memcpy(b->shadow + walks[i].base, walks[i].want, REGION);
	assert_file_is_shadow(b);
	free(walks);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_was_written_is_read),
		TEST(cold_data_are_read),
		TEST(what_ends_at_once_is_all_reported),
		TEST(a_ring_that_only_says_that_there_is_more),
		TEST(a_ring_that_takes_no_more_leaves_nobody_waiting),
		TEST(a_loop_without_a_ring_reads_all_the_same),
		TEST(reads_need_no_nowait),
		TEST(a_read_past_the_end_is_an_error),
		TEST(direct_io_works),
		TEST(writes_of_a_turn_make_few_batches),
		TEST(overlapping_writes_keep_their_order),
		TEST(each_write_has_its_own_result),
		TEST(batches_grow_under_load),
		TEST(a_full_disk_is_reported),
		TEST(discarded_ranges_read_zeros),
		TEST(zeroed_ranges_read_zeros),
		TEST(extents_tell_data_from_holes),
		TEST(a_failed_sync_fails_all_that_follow),
		TEST(syncs_do_not_overlap),
		TEST(a_read_only_file_stays_as_it_is),
		TEST(all_loops_use_one_file),
	};
	int failed = 0;

	for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
		variant = &variants[i];
		failed += cmocka_run_group_tests_name(variant->name, tests, NULL, NULL);
	}
	return failed != 0;
}
