/*
 * The core of the stores, on simulated loops: what a spec means, what is emulated and how, who is
 * refused, and the way of HOME_LOOP stores. The back ends here are the test's own: they keep a
 * list of what they were asked.
 */
#define STORE_TEST_SIM
#include "store_test.h"

#include <unistd.h>

#define NLOOPS    3
#define NOTES_MAX 200

/* What probes were asked, in order. */
static struct note {
	enum io_op op;
	unsigned flags;
	uint64_t off, len;
	struct loop *loop;
} notes[NOTES_MAX];
static unsigned nnotes;
static uint8_t disk[8 * MiB];
static int fail_op = -1, fail_err;
static unsigned turns; /* of the home loop in which something ran */
static bool turn_counted;
static struct loop_msg turn_end;

static void turn_is_over(struct loop_msg *msg)
{
	turn_counted = false;
}

/* Some end at once, some later. */
struct later {
	struct loop_msg msg;
	struct io *io;
};

static void end_later(struct loop_msg *msg)
{
	struct later *l = container_of(msg, struct later, msg);
	struct io *io = l->io;

	free(l);
	io_end(io, io->op == (enum io_op)fail_op ? fail_err : 0);
}

static void apply(struct io *io)
{
	uint64_t at = io->off;

	for (unsigned i = 0; i < io->niov; at += io->iov[i++].iov_len) {
		if (io->op == IO_WRITE)
			memcpy(disk + at, io->iov[i].iov_base, io->iov[i].iov_len);
		else
			memcpy(io->iov[i].iov_base, disk + at, io->iov[i].iov_len);
	}
	if (io->op == IO_ZERO)
		memset(disk + io->off, 0, io->len);
}

static void probe_io(struct store *s, struct io *io)
{
	assert_true(nnotes < NOTES_MAX);
	assert_ptr_equal(loop_self(), io->loop);
	notes[nnotes++] = (struct note){io->op, io->flags, io->off, io->len, io->loop};
	if (!turn_counted) {
		turns++;
		turn_counted = true;
		turn_end.run = turn_is_over;
		loop_at_end(io->loop, &turn_end);
	}
	if (io->op != (enum io_op)fail_op)
		apply(io);
	if (nnotes % 2 == 0) {
		struct later *l = malloc(sizeof(*l));

		*l = (struct later){.msg.run = end_later, .io = io};
		loop_post(io->loop, &l->msg);
	} else {
		io_end(io, io->op == (enum io_op)fail_op ? fail_err : 0);
	}
}

static int probe_open(struct store **out, struct loop_set *set,
		      const struct store_type *const *types, char *rest,
		      const struct store_config *config, struct diag *d)
{
	if (strcmp(rest, "fail") == 0)
		return diag_set(d, -EACCES, "it was to fail");
	*out = calloc(1, sizeof(**out));
	(*out)->info = (struct store_info){
		.size = sizeof(disk),
		.volatile_cache = true,
		.logical_block = 512,
		.physical_block = 512,
		.discard_granularity = strcmp(rest, "nodiscard") == 0 ? 0 : 512,
	};
	return 0;
}

static void probe_close(struct store *s)
{
	free(s);
}

static int probe_tag_set(struct store *s, const char *name, const void *buf, size_t len)
{
	return fail_err;
}

#define PROBE .open = probe_open, .close = probe_close, .read = probe_io, .write = probe_io

static const struct store_type bare = {.name = "bare", PROBE};
static const struct store_type flusher = {.name = "flusher", PROBE, .flush = probe_io};
static const struct store_type full = {
	.name = "full",
	PROBE,
	.writes_fua = true,
	.flush = probe_io,
	.discard = probe_io,
	.zero = probe_io,
	.extent = probe_io,
	.tag_set = probe_tag_set,
};
static const struct store_type zeroer = {
	.name = "zeroer", PROBE, .flush = probe_io, .zero = probe_io};
static const struct store_type home = {
	.name = "home", PROBE, .flush = probe_io, .threading = STORE_HOME_LOOP};

static const struct store_type *const types[] = {
	&bare,       &flusher,   &full,       &zeroer,      &home,
	&store_file, &store_ram, &store_null, &store_fault, NULL,
};

static struct rig rig;

static int setup(void **state)
{
	nnotes = 0;
	fail_op = -1;
	turns = 0;
	turn_counted = false;
	memset(disk, 0x5a, sizeof(disk));
	rig_start(&rig, NLOOPS, 7);
	return 0;
}

static int teardown(void **state)
{
	rig_stop(&rig);
	return 0;
}

static int io_on(struct store *s, enum io_op op, unsigned flags, uint64_t off, uint64_t len)
{
	static uint8_t buf[64 * 1024];
	bool data = op == IO_READ || op == IO_WRITE;

	memset(buf, 0x77, sizeof(buf));
	return rig_io(&rig, s, 1, op, flags, off, len, data ? buf : NULL);
}

/* ---- Specs ---- */

static void refused(const char *spec, int err, const char *what)
{
	struct store_config config = {0};
	struct store *s = (struct store *)1;
	struct diag d;
	char text[600];

	diag_init(&d);
	assert_int_equal(store_open(&s, rig.set, types, spec, &config, &d), err);
	assert_null(s);
	diag_text(&d, text, sizeof(text));
	if (strstr(text, what) == NULL)
		fail_msg("\"%s\" says: %s", spec, text);
	assert_int_equal(store_open(&s, rig.set, types, spec, &config, NULL), err);
}

static void specs_that_open(void **state)
{
	static const struct {
		const char *spec, *type;
		uint64_t size;
	} rows[] = {
		{"ram:1M", "ram", MiB},
		{"null:1T", "null", GiB << 10},
		{"ram:12345", "ram", 12345},
		{"fault::ram:64K", "fault", 64 * KiB},
		{"fault:volatile=on,seed=4:fault::null:3G", "fault", 3 * GiB},
		{"full:", "full", sizeof(disk)},
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct store *s = rig_open(&rig, types, rows[i].spec, NULL);

		assert_string_equal(store_type_name(s), rows[i].type);
		assert_int_equal(store_info(s)->size, rows[i].size);
		store_close(s);
	}
	store_close(NULL);
}

static void specs_that_do_not(void **state)
{
	char deep[6000] = "";

	refused("", -EINVAL, "empty");
	refused("ramm:4G", -EINVAL, "unknown store type \"ramm\"; there are bare, flusher");
	refused("ramm:4G", -EINVAL, "write file:ramm:4G");
	refused("ram:", -EINVAL, "\"\" is not a size");
	refused("ram:0", -EINVAL, "not a size");
	refused("ram:4Q", -EINVAL, "ram:4G");
	refused("null:-1", -EINVAL, "\"-1\" is not a size");
	refused("ram:99999999999999999999", -EINVAL, "64 bits");
	refused("ram:16000000T", -EFBIG, "cannot map");
	refused("ram:1000000T", -ENOMEM, "cannot map");
	refused("full:fail", -EACCES, "it was to fail");
	refused("file:", -EINVAL, "without a path");
	/* The simulated loop has no files, but it is asked for them. */
	refused("disk.img", -ENOSYS, "disk.img");
	refused("C:\\disk", -ENOSYS, "C:\\disk");
	refused("./ram:4G", -ENOSYS, "./ram:4G");
	refused("file:ram:4G", -ENOSYS, "ram:4G");
	refused(":x", -ENOSYS, ":x");
	refused("fault:ram:1G", -EINVAL, "there is no option \"ram\"");
	refused("fault:", -EINVAL, "no store behind");
	refused("fault:disk", -EINVAL, "no store behind");
	refused("fault::", -EINVAL, "no store behind");
	refused("fault::nope:1", -EINVAL, "unknown store type \"nope\"");
	refused("fault:rule=read;bang:ram:1G", -EINVAL, "character 6");
	while (strlen(deep) < sizeof(deep) - 20)
		strcat(deep, "fault::");
	refused(deep, -ENAMETOOLONG, "more than");
}

/* A name that looks like a type, but is a file. */
static void file_that_looks_like_a_type(void **state)
{
	char dir[] = "/tmp/spindle-XXXXXX";
	FILE *f;

	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	f = fopen("some:thing", "w");
	assert_non_null(f);
	fclose(f);
	refused("some:thing", -ENOSYS, "some:thing");
	refused("some:other", -EINVAL, "unknown store type");
	remove("some:thing");
	assert_int_equal(chdir("/"), 0);
	remove(dir);
}

/* ---- Emulation ---- */

static void expect(const struct note *want, unsigned n)
{
	assert_int_equal(nnotes, n);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(notes[i].op, want[i].op);
		assert_int_equal(notes[i].flags, want[i].flags);
		assert_int_equal(notes[i].off, want[i].off);
		assert_int_equal(notes[i].len, want[i].len);
	}
	nnotes = 0;
}

#define EXPECT(...)                                           \
	do {                                                  \
		const struct note want[] = {__VA_ARGS__};     \
		expect(want, sizeof(want) / sizeof(want[0])); \
	} while (0)

static void fua_is_a_write_and_a_flush(void **state)
{
	struct store *s = rig_open(&rig, types, "flusher:", NULL);

	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(io_on(s, IO_WRITE, IO_FUA, 4096 * i, 512), 0);
		EXPECT({IO_WRITE, 0, 4096 * i, 512}, {IO_FLUSH, 0, 4096 * i, 512});
	}
	assert_int_equal(io_on(s, IO_WRITE, 0, 0, 512), 0);
	EXPECT({IO_WRITE, 0, 0, 512});
	store_close(s);
}

/* A write that failed is not flushed; a flush that failed fails the write. */
static void fua_that_fails(void **state)
{
	struct store *s = rig_open(&rig, types, "flusher:", NULL);

	fail_op = IO_WRITE;
	fail_err = -ENOSPC;
	assert_int_equal(io_on(s, IO_WRITE, IO_FUA, 0, 512), -ENOSPC);
	EXPECT({IO_WRITE, 0, 0, 512});
	fail_op = IO_FLUSH;
	fail_err = -EIO;
	assert_int_equal(io_on(s, IO_WRITE, IO_FUA, 0, 512), -EIO);
	EXPECT({IO_WRITE, 0, 0, 512}, {IO_FLUSH, 0, 0, 512});
	assert_int_equal(io_on(s, IO_ZERO, IO_FUA, 0, 512), -EIO);
	store_close(s);
}

static void fua_where_it_is_heeded(void **state)
{
	struct store *s = rig_open(&rig, types, "full:", NULL);

	assert_int_equal(io_on(s, IO_WRITE, IO_FUA, 0, 512), 0);
	EXPECT({IO_WRITE, IO_FUA, 0, 512});
	assert_int_equal(io_on(s, IO_ZERO, IO_FUA | IO_MAY_UNMAP, 512, 512), 0);
	EXPECT({IO_ZERO, IO_FUA | IO_MAY_UNMAP, 512, 512});
	store_close(s);
}

static void only_zeros_in(uint64_t off, uint64_t len)
{
	for (uint64_t i = 0; i < sizeof(disk); i++)
		assert_int_equal(disk[i], i >= off && i < off + len ? 0 : 0x5a);
	memset(disk, 0x5a, sizeof(disk));
}

static void zero_is_writes_of_zeros(void **state)
{
	struct store *s = rig_open(&rig, types, "flusher:", NULL);

	assert_int_equal(io_on(s, IO_ZERO, 0, 4096, 1024), 0);
	EXPECT({IO_WRITE, 0, 4096, 1024});
	only_zeros_in(4096, 1024);
	assert_int_equal(io_on(s, IO_ZERO, IO_FUA | IO_MAY_UNMAP, 512, 2 * MiB + 70000), 0);
	EXPECT({IO_WRITE, 0, 512, MiB}, {IO_WRITE, 0, 512 + MiB, MiB},
	       {IO_WRITE, 0, 512 + 2 * MiB, 70000}, {IO_FLUSH, 0, 512 + 2 * MiB, 0});
	only_zeros_in(512, 2 * MiB + 70000);
	fail_op = IO_WRITE;
	fail_err = -ENOSPC;
	assert_int_equal(io_on(s, IO_ZERO, 0, 0, 3 * MiB), -ENOSPC);
	assert_int_equal(nnotes, 1);
	store_close(s);
}

static void zero_falls_back(void **state)
{
	struct store *s = rig_open(&rig, types, "zeroer:", NULL);

	assert_int_equal(io_on(s, IO_ZERO, IO_FUA, 0, 4096), 0);
	EXPECT({IO_ZERO, 0, 0, 4096}, {IO_FLUSH, 0, 0, 0});
	only_zeros_in(0, 4096);
	fail_op = IO_ZERO;
	fail_err = -EOPNOTSUPP;
	assert_int_equal(io_on(s, IO_ZERO, IO_FUA, 0, 4096), 0);
	EXPECT({IO_ZERO, 0, 0, 4096}, {IO_WRITE, 0, 0, 4096}, {IO_FLUSH, 0, 0, 0});
	only_zeros_in(0, 4096);
	fail_err = -EIO;
	assert_int_equal(io_on(s, IO_ZERO, 0, 0, 4096), -EIO);
	EXPECT({IO_ZERO, 0, 0, 4096});
	store_close(s);
}

static void what_is_missing(void **state)
{
	struct store *s = rig_open(&rig, types, "bare:", NULL);
	struct iovec iov[4];
	struct req q;
	char buf[8];

	assert_int_equal(io_on(s, IO_FLUSH, 0, 0, 0), 0);
	assert_int_equal(io_on(s, IO_DISCARD, 0, 0, 4096), -EOPNOTSUPP);
	req_init(&q, s, loop_set_at(rig.set, 0), IO_EXTENT, 0, 512, 4096, NULL);
	req_start(&q);
	assert_int_equal(req_wait(&rig, &q), 0);
	assert_int_equal(q.io.extent.len_bytes, 4096);
	assert_false(q.io.extent.hole);
	assert_int_equal(nnotes, 0);
	assert_int_equal(io_on(s, IO_WRITE, IO_FUA, 0, 512), 0);
	assert_int_equal(nnotes, 1);
	assert_int_equal(store_lend(s, loop_set_at(rig.set, 0), 0, 512, iov, 4), -EOPNOTSUPP);
	store_release(s, loop_set_at(rig.set, 0), 0, 512);
	assert_int_equal(store_tag_get(s, "id", buf, sizeof(buf)), -EOPNOTSUPP);
	assert_int_equal(store_tag_set(s, "id", buf, sizeof(buf)), -EOPNOTSUPP);
	assert_int_equal(store_fingerprint(s, buf, sizeof(buf)), -EOPNOTSUPP);
	assert_int_equal(store_fault_release(s), -EINVAL);
	store_close(s);
}

/* -EACCES is a reservation's to the layers above, and the system's word for a file that may not be
 * changed. */
static void errors_of_tags(void **state)
{
	static const int rows[][2] = {{0, 0},
				      {-EACCES, -EROFS},
				      {-EPERM, -EROFS},
				      {-EDQUOT, -ENOSPC},
				      {-ENOSPC, -ENOSPC},
				      {-EBUSY, -EIO},
				      {-EOPNOTSUPP, -EOPNOTSUPP}};
	struct store *s = rig_open(&rig, types, "full:", NULL);

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		fail_err = rows[i][0];
		assert_int_equal(store_tag_set(s, "id", "x", 1), rows[i][1]);
	}
	store_close(s);
}

static void discard_needs_a_granularity(void **state)
{
	struct store *s = rig_open(&rig, types, "full:nodiscard", NULL);

	assert_int_equal(io_on(s, IO_DISCARD, 0, 0, 4096), -EOPNOTSUPP);
	assert_int_equal(nnotes, 0);
	store_close(s);
	s = rig_open(&rig, types, "full:", NULL);
	assert_int_equal(io_on(s, IO_DISCARD, 0, 0, 4096), 0);
	EXPECT({IO_DISCARD, 0, 0, 4096});
	store_close(s);
}

static void read_only(void **state)
{
	static const char *const specs[] = {"full:", "flusher:", "home:", "fault::ram:1M"};
	const struct store_config config = {.read_only = true};

	for (unsigned i = 0; i < ARRAY_LEN(specs); i++) {
		struct store *s = rig_open(&rig, types, specs[i], &config);

		assert_true(store_info(s)->read_only);
		for (unsigned fua = 0; fua <= IO_FUA; fua++) {
			assert_int_equal(io_on(s, IO_WRITE, fua, 0, 512), -EROFS);
			assert_int_equal(io_on(s, IO_ZERO, fua, 0, 512), -EROFS);
			assert_int_equal(io_on(s, IO_DISCARD, fua, 0, 512), -EROFS);
		}
		assert_int_equal(nnotes, 0);
		assert_int_equal(io_on(s, IO_READ, 0, 0, 512), 0);
		assert_int_equal(io_on(s, IO_FLUSH, 0, 0, 512), 0);
		store_close(s);
		nnotes = 0;
	}
}

/* ---- HOME_LOOP ---- */

struct burst {
	struct loop_msg msg;
	struct req *reqs;
	unsigned n;
};

static void burst_run(struct loop_msg *msg)
{
	struct burst *b = container_of(msg, struct burst, msg);

	for (unsigned i = 0; i < b->n; i++)
		req_submit(&b->reqs[i]);
}

static unsigned home_index(struct store *s)
{
	return loop_index(s->home);
}

/* A turn's io make one message, whatever their number; they stay in order; errors come back. */
static void home_loop_batches(void **state)
{
	static uint8_t buf[32][512];
	static struct req reqs[32];
	struct store *s = rig_open(&rig, types, "home:", NULL);
	unsigned from = (home_index(s) + 1) % NLOOPS;
	struct burst b = {.msg.run = burst_run, .reqs = reqs, .n = 32};

	for (unsigned i = 0; i < 32; i++) {
		memset(buf[i], i + 1, sizeof(buf[i]));
		req_init(&reqs[i], s, loop_set_at(rig.set, from), IO_WRITE, 0, 512 * i, 512,
			 buf[i]);
	}
	loop_post(loop_set_at(rig.set, from), &b.msg);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(req_wait(&rig, &reqs[i]), 0);
	assert_int_equal(turns, 1);
	assert_int_equal(nnotes, 32);
	for (unsigned i = 0; i < 32; i++) {
		assert_int_equal(notes[i].off, 512 * i);
		assert_ptr_equal(notes[i].loop, s->home);
		assert_int_equal(disk[512 * i], i + 1);
	}
	nnotes = 0;
	fail_op = IO_READ;
	fail_err = -ENODATA;
	assert_int_equal(rig_io(&rig, s, from, IO_READ, 0, 0, 512, buf[0]), -ENODATA);
	store_close(s);
}

static void home_loop_emulates_at_home(void **state)
{
	struct store *s = rig_open(&rig, types, "home:", NULL);

	for (unsigned from = 0; from < NLOOPS; from++) {
		uint8_t buf[512];

		nnotes = 0;
		assert_int_equal(rig_io(&rig, s, from, IO_WRITE, IO_FUA, 0, 512, buf), 0);
		assert_int_equal(rig_io(&rig, s, from, IO_ZERO, IO_FUA, 0, 4096, NULL), 0);
		EXPECT({IO_WRITE, 0, 0, 512}, {IO_FLUSH, 0, 0, 512}, {IO_WRITE, 0, 0, 4096},
		       {IO_FLUSH, 0, 0, 0});
		for (unsigned i = 0; i < 4; i++)
			assert_ptr_equal(notes[i].loop, s->home);
	}
	store_close(s);
}

/* Extents travel back with the io. */
static void home_loop_extents(void **state)
{
	struct store *s = rig_open(&rig, types, "fault::ram:256K", NULL);
	uint8_t buf[512] = "x";

	assert_int_equal(rig_io(&rig, s, 0, IO_WRITE, 0, 64 * KiB, 512, buf), 0);
	for (unsigned from = 0; from < NLOOPS; from++) {
		struct req q;

		req_init(&q, s, loop_set_at(rig.set, from), IO_EXTENT, 0, 512, 256 * KiB - 512,
			 NULL);
		req_start(&q);
		assert_int_equal(req_wait(&rig, &q), 0);
		assert_true(q.io.extent.hole);
		assert_int_equal(q.io.extent.len_bytes, 64 * KiB - 512);
	}
	store_close(s);
}

/* Many loops, many seeds: everything comes back once and right. */
static void home_loop_model(void **state)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct store *s;
		struct model m;
		struct rig r;

		rig_start(&r, 4, seed);
		s = rig_open(&r, types, "fault::fault::ram:70000", NULL);
		model_init(&m, &r, s, seed);
		model_run(&m, 100, 8);
		model_fini(&m);
		store_close(s);
		rig_stop(&r);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(specs_that_open),
		TEST(specs_that_do_not),
		TEST(file_that_looks_like_a_type),
		TEST(fua_is_a_write_and_a_flush),
		TEST(fua_that_fails),
		TEST(fua_where_it_is_heeded),
		TEST(zero_is_writes_of_zeros),
		TEST(zero_falls_back),
		TEST(what_is_missing),
		TEST(errors_of_tags),
		TEST(discard_needs_a_granularity),
		TEST(read_only),
		TEST(home_loop_batches),
		TEST(home_loop_emulates_at_home),
		TEST(home_loop_extents),
		TEST(home_loop_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
