/*
 * file on real loops: random io against a model on ext4 and tmpfs, and the flusher: who shares a
 * run with whom, and what a failed one means. The back end is compiled in here with its calls of
 * file_submit() redirected, so that a test can count flushes, hold them and let them fail;
 * everything else is the real engine. SPINDLE_NO_URING=1 runs the same on worker threads.
 */
#define STORE_TEST_LOOPS
#include "store_test.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

static void watched_submit(struct file *f, struct io *io);
static int watched_tag_set(struct file *f, const char *name, const void *buf, size_t len);
static int watched_resize(struct file *f, uint64_t size);

#define file_submit  watched_submit
#define file_tag_set watched_tag_set
#define file_resize  watched_resize
#include "store/file.c" /* the redirected one; the library's is not linked */
#undef file_submit
#undef file_tag_set
#undef file_resize

static struct rig rig;
static char dir[64];

/* ---- Watching flushes ---- */

static atomic_uint nflushes;
static atomic_int flush_err; /* not 0: flushes end so, and what else syncs the file */
static atomic_bool hold;     /* flushes wait for let_go() */
static sem_t held;
static struct {
	struct file *file;
	struct io *io;
	struct loop_msg msg;
} holding;

static void watched_submit(struct file *f, struct io *io)
{
	int err = flush_err;

	if (io->op != IO_FLUSH) {
		file_submit(f, io);
		return;
	}
	nflushes++;
	if (hold) {
		holding.file = f;
		holding.io = io;
		sem_post(&held);
	} else if (err != 0) {
		io_end(io, err);
	} else {
		file_submit(f, io);
	}
}

static int watched_tag_set(struct file *f, const char *name, const void *buf, size_t len)
{
	return flush_err != 0 ? flush_err : file_tag_set(f, name, buf, len);
}

static int watched_resize(struct file *f, uint64_t size)
{
	return flush_err != 0 ? flush_err : file_resize(f, size);
}

static void let_go_run(struct loop_msg *msg)
{
	int err = flush_err;

	if (err != 0)
		io_end(holding.io, err);
	else
		file_submit(holding.file, holding.io);
}

static void wait_held(void)
{
	while (sem_wait(&held) != 0)
		continue;
}

static void let_go(void)
{
	holding.msg.run = let_go_run;
	loop_post(holding.io->loop, &holding.msg);
}

/* ---- Each test has loops and a directory of its own ---- */

static void setup_in(const char *where)
{
	nflushes = 0;
	flush_err = 0;
	hold = false;
	sem_init(&held, 0, 0);
	str_format(dir, sizeof(dir), "%s/spindle-store-XXXXXX", where);
	assert_non_null(mkdtemp(dir));
	rig_start(&rig, 4, 0);
}

static int setup(void **state)
{
	setup_in("/var/tmp");
	return 0;
}

static int setup_tmpfs(void **state)
{
	setup_in("/dev/shm");
	return 0;
}

static int teardown(void **state)
{
	char path[100];

	str_format(path, sizeof(path), "%s/disk", dir);
	unlink(path);
	rmdir(dir);
	rig_stop(&rig);
	sem_destroy(&held);
	return 0;
}

static struct store *open_disk(const char *prefix, uint64_t size, bool read_only)
{
	const struct store_config config = {.size = size, .read_only = read_only};
	char spec[200];

	str_format(spec, sizeof(spec), "%s%s/disk", prefix, dir);
	return rig_open(&rig, test_types, spec, &config);
}

/* The loops end before the store is closed, as in the daemon. */
static void close_disk(struct store *s)
{
	rig_join(&rig);
	store_close(s);
}

/* ---- Io ---- */

static void random_io(void **state)
{
	struct store *s = open_disk("", MiB, false);
	struct model m;

	assert_string_equal(store_type_name(s), "file");
	assert_true(store_info(s)->volatile_cache);
	assert_int_equal(store_info(s)->size, MiB);
	for (uint64_t seed = 1; seed <= 3; seed++) {
		model_init(&m, &rig, s, seed);
		/* What the last one left. */
		memset(m.known, seed == 1, m.size);
		model_run(&m, 120, 512);
		model_fini(&m);
	}
	close_disk(s);
}

static void random_io_under_a_cache(void **state)
{
	struct store *s = open_disk("fault:volatile=on:file:", MiB, false);
	struct model m;

	model_init(&m, &rig, s, 5);
	model_run(&m, 150, 512);
	model_fini(&m);
	close_disk(s);
}

static void bytes_are_in_the_file(void **state)
{
	struct store *s = open_disk("file:", 64 * KiB, false);
	uint8_t data[1024], seen[1024];
	char path[100];
	int fd;

	memset(data, 0x42, sizeof(data));
	assert_int_equal(rig_io(&rig, s, 1, IO_WRITE, IO_FUA, 512, 1024, data), 0);
	assert_int_equal(nflushes, 1);
	str_format(path, sizeof(path), "%s/disk", dir);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, seen, sizeof(seen), 512), sizeof(seen));
	assert_memory_equal(data, seen, sizeof(seen));
	close(fd);
	close_disk(s);
}

static void read_only_file(void **state)
{
	uint8_t data[512] = {0};
	struct store *s;
	char path[100];
	int fd;

	str_format(path, sizeof(path), "%s/disk", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_int_equal(ftruncate(fd, 4096), 0);
	close(fd);
	s = open_disk("", 0, true);
	assert_true(store_info(s)->read_only);
	assert_int_equal(rig_io(&rig, s, 0, IO_WRITE, 0, 0, 512, data), -EROFS);
	assert_int_equal(rig_io(&rig, s, 0, IO_READ, 0, 0, 512, data), 0);
	assert_int_equal(rig_io(&rig, s, 0, IO_FLUSH, 0, 0, 0, NULL), 0);
	close_disk(s);
}

static void resizes(void **state)
{
	struct store *s = open_disk("", 64 * KiB, false);
	uint8_t data[512] = {1};

	assert_int_equal(s->type->resize(s, 128 * KiB), 0);
	assert_int_equal(store_info(s)->size, 128 * KiB);
	assert_int_equal(rig_io(&rig, s, 2, IO_WRITE, 0, 128 * KiB - 512, 512, data), 0);
	assert_int_equal(store_resize(s, 32 * KiB), -ERANGE);
	assert_int_equal(s->type->resize(s, 32 * KiB), -ERANGE);
	assert_int_equal(store_info(s)->size, 128 * KiB);
	close_disk(s);
}

static void tags_pass(void **state)
{
	struct store *s = open_disk("fault::", 64 * KiB, false);
	char id[64];
	int err = store_tag_set(s, "id", "abc", 3);

	assert_true(store_fingerprint(s, id, sizeof(id)) == 0);
	if (err != -EOPNOTSUPP) {
		assert_int_equal(err, 0);
		assert_int_equal(store_tag_get(s, "id", id, sizeof(id)), 3);
		assert_memory_equal(id, "abc", 3);
	}
	close_disk(s);
}

static void missing_files(void **state)
{
	const struct store_config config = {0};
	struct store *s;
	struct diag d;
	char spec[200], text[600];

	diag_init(&d);
	str_format(spec, sizeof(spec), "%s/none", dir);
	assert_int_equal(store_open(&s, rig.set, test_types, spec, &config, &d), -ENOENT);
	assert_non_null(strstr(diag_text(&d, text, sizeof(text)), "none"));
	rig_join(&rig);
}

/* ---- The flusher ---- */

static void start_flush(struct req *q, struct store *s, unsigned loop)
{
	req_init(q, s, loop_set_at(rig.set, loop % 4), IO_FLUSH, 0, 0, 0, NULL);
	req_start(q);
}

/* Until a loop has done all that was posted to it before. */
static void settle(struct store *s)
{
	uint8_t data[512];

	for (unsigned i = 0; i < 4; i++)
		rig_io(&rig, s, i, IO_READ, 0, 0, 512, data);
}

/* What comes while a run is under way shares the next one; one run for all of them. */
static void flushes_share_a_run(void **state)
{
	struct store *s = open_disk("", 64 * KiB, false);
	struct req first, more[20];
	int value;

	hold = true;
	start_flush(&first, s, 0);
	wait_held();
	for (unsigned i = 0; i < 20; i++)
		start_flush(&more[i], s, i);
	settle(s);
	assert_int_equal(nflushes, 1);
	let_go();
	assert_int_equal(req_wait(&rig, &first), 0);
	wait_held();
	assert_int_equal(nflushes, 2);
	for (unsigned i = 0; i < 20; i++) {
		sem_getvalue(&more[i].ended, &value);
		assert_int_equal(value, 0);
	}
	hold = false;
	let_go();
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(req_wait(&rig, &more[i]), 0);
	assert_int_equal(nflushes, 2);
	assert_int_equal(rig_io(&rig, s, 3, IO_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(nflushes, 3);
	close_disk(s);
}

struct burst {
	struct loop_msg msg;
	struct req reqs[8];
};

static void burst_run(struct loop_msg *msg)
{
	struct burst *b = container_of(msg, struct burst, msg);

	for (unsigned i = 0; i < 8; i++)
		req_submit(&b->reqs[i]);
}

/* Those of one turn share the first run, too. */
static void flushes_of_a_turn_share(void **state)
{
	struct store *s = open_disk("", 64 * KiB, false);
	struct burst b = {.msg.run = burst_run};

	for (unsigned i = 0; i < 8; i++)
		req_init(&b.reqs[i], s, loop_set_at(rig.set, 1), IO_FLUSH, 0, 0, 0, NULL);
	loop_post(loop_set_at(rig.set, 1), &b.msg);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(req_wait(&rig, &b.reqs[i]), 0);
	assert_int_equal(nflushes, 1);
	close_disk(s);
}

/* A failed flush is an error for all who joined it and for everything that comes later, though the
 * kernel would report success. */
static void failed_flush_is_latched(void **state)
{
	struct store *s = open_disk("", 64 * KiB, false);
	struct req first, more[8];
	uint8_t data[512] = {7};

	assert_int_equal(rig_io(&rig, s, 0, IO_WRITE, 0, 0, 512, data), 0);
	hold = true;
	start_flush(&first, s, 0);
	wait_held();
	for (unsigned i = 0; i < 8; i++)
		start_flush(&more[i], s, i);
	settle(s);
	hold = false;
	flush_err = -ENOSPC;
	let_go();
	assert_int_equal(req_wait(&rig, &first), -EIO);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(req_wait(&rig, &more[i]), -EIO);
	/* Those who waited were not given to the kernel again. */
	assert_int_equal(nflushes, 1);
	flush_err = 0;
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(rig_io(&rig, s, i, IO_WRITE, 0, 0, 512, data), -EIO);
		assert_int_equal(rig_io(&rig, s, i, IO_WRITE, IO_FUA, 0, 512, data), -EIO);
		assert_int_equal(rig_io(&rig, s, i, IO_FLUSH, 0, 0, 0, NULL), -EIO);
		assert_int_equal(rig_io(&rig, s, i, IO_ZERO, 0, 0, 512, NULL), -EIO);
		assert_int_not_equal(rig_io(&rig, s, i, IO_DISCARD, 0, 0, 4096, NULL), 0);
		assert_int_equal(rig_io(&rig, s, i, IO_READ, 0, 0, 512, data), 0);
		assert_int_equal(data[0], 7);
	}
	assert_int_equal(nflushes, 1);
	close_disk(s);
}

static void failed_fua_is_latched(void **state)
{
	struct store *s = open_disk("", 64 * KiB, false);
	uint8_t data[512] = {7};

	flush_err = -EIO;
	assert_int_equal(rig_io(&rig, s, 2, IO_WRITE, IO_FUA, 0, 512, data), -EIO);
	flush_err = 0;
	assert_int_equal(rig_io(&rig, s, 1, IO_WRITE, 0, 0, 512, data), -EIO);
	assert_int_equal(rig_io(&rig, s, 0, IO_FLUSH, 0, 0, 0, NULL), -EIO);
	assert_int_equal(nflushes, 1);
	close_disk(s);
}

static void expect_latched(struct store *s, bool latched)
{
	struct store_status now;
	uint8_t data[512] = {7};

	flush_err = 0;
	assert_int_equal(store_probe(s, &now), 0);
	assert_int_equal(now.flush_failed, latched);
	assert_int_equal(rig_io(&rig, s, 1, IO_WRITE, 0, 0, 512, data), latched ? -EIO : 0);
	assert_int_equal(rig_io(&rig, s, 0, IO_FLUSH, 0, 0, 0, NULL), latched ? -EIO : 0);
	if (!latched)
		return;
	/* They would be told that all is well by now. */
	assert_int_equal(store_tag_set(s, "id", "abc", 3), -EIO);
	assert_int_equal(store_resize(s, 128 * KiB), -EIO);
	assert_int_equal(store_info(s)->size, 64 * KiB);
}

/* The kernel would not tell the next flush what it told them. */
static void failed_sync_of_a_tag_is_latched(void **state)
{
	struct store *s = open_disk("", 64 * KiB, false);

	flush_err = -ENOSPC; /* of the tag itself */
	assert_int_equal(store_tag_set(s, "id", "abc", 3), -ENOSPC);
	expect_latched(s, false);
	flush_err = -EIO;
	assert_int_equal(store_tag_set(s, "id", "abc", 3), -EIO);
	expect_latched(s, true);
	close_disk(s);
}

static void failed_sync_of_a_size_is_latched(void **state)
{
	struct store *s = open_disk("", 64 * KiB, false);

	flush_err = -EFBIG;
	assert_int_equal(s->type->resize(s, 128 * KiB), -EFBIG);
	expect_latched(s, false);
	flush_err = -EIO;
	assert_int_equal(s->type->resize(s, 128 * KiB), -EIO);
	assert_int_equal(store_info(s)->size, 64 * KiB);
	expect_latched(s, true);
	close_disk(s);
}

/* Many FUA writes at once need fewer flushes than they are. */
static void fua_writes_commit_together(void **state)
{
	static struct req q[64];
	static uint8_t data[64][512];
	struct store *s = open_disk("", 64 * KiB, false);
	unsigned n;

	for (unsigned i = 0; i < 64; i++) {
		memset(data[i], i, 512);
		req_init(&q[i], s, loop_set_at(rig.set, i % 4), IO_WRITE, IO_FUA, 512 * i, 512,
			 data[i]);
		req_start(&q[i]);
	}
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(req_wait(&rig, &q[i]), 0);
	n = nflushes;
	assert_in_range(n, 1, 63);
	close_disk(s);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TMPFS(f)                                            \
	{                                                   \
		"tmpfs_" #f, f, setup_tmpfs, teardown, NULL \
	}
	const struct CMUnitTest tests[] = {
		TEST(random_io),
		TMPFS(random_io),
		TEST(random_io_under_a_cache),
		TMPFS(random_io_under_a_cache),
		TEST(bytes_are_in_the_file),
		TEST(read_only_file),
		TEST(resizes),
		TEST(tags_pass),
		TEST(missing_files),
		TEST(flushes_share_a_run),
		TMPFS(flushes_share_a_run),
		TEST(flushes_of_a_turn_share),
		TEST(failed_flush_is_latched),
		TEST(failed_fua_is_latched),
		TEST(failed_sync_of_a_tag_is_latched),
		TEST(failed_sync_of_a_size_is_latched),
		TEST(fua_writes_commit_together),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
