/*
 * slice: random io against a model with somebody else's bytes on both sides, what it says of itself, who
 * may have which part of a file, and how it grows.
 */
#define STORE_TEST_LOOPS
#include "store_test.h"

#include <fcntl.h>
#include <unistd.h>

#define DISK (4 * MiB)

static struct rig rig;
static char dir[64], path[96];

static int setup(void **state)
{
	str_copy(dir, sizeof(dir), "/var/tmp/spindle-slice-XXXXXX");
	assert_non_null(mkdtemp(dir));
	str_format(path, sizeof(path), "%s/disk", dir);
	rig_start(&rig, 2, 0);
	return 0;
}

/* One that io was submitted to. */
static void close_used(struct store *s)
{
	rig_join(&rig);
	store_close(s);
	rig_stop(&rig);
	rig_start(&rig, 2, 0);
}

static int teardown(void **state)
{
	rig_join(&rig);
	rig_stop(&rig);
	unlink(path);
	return rmdir(dir);
}

static int open_code(const char *spec, char said[600])
{
	struct store *s = NULL;
	struct diag d;
	int err;

	diag_init(&d);
	err = store_open(&s, rig.set, test_types, spec, &(struct store_config){0}, &d);
	assert_true((err == 0) == (s != NULL));
	store_close(s);
	diag_text(&d, said, 600);
	return err;
}

static void make_file(uint8_t fill, uint64_t size)
{
	uint8_t *bytes = malloc(size);
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	memset(bytes, fill, size);
	assert_int_equal(write(fd, bytes, size), size);
	close(fd);
	free(bytes);
}

static void check_file(uint8_t fill, uint64_t off, uint64_t len)
{
	uint8_t *bytes = malloc(len);
	int fd = open(path, O_RDONLY);

	assert_int_equal(pread(fd, bytes, len, (off_t)off), len);
	for (uint64_t i = 0; i < len; i++)
		assert_int_equal(bytes[i], fill);
	close(fd);
	free(bytes);
}

static void run_model(const char *spec, uint64_t seed, uint64_t block)
{
	struct store *s = rig_open(&rig, test_types, spec, NULL);
	uint64_t size = store_info(s)->size;
	struct model m;

	model_init(&m, &rig, s, seed);
	memset(m.known, false, size);
	model_run(&m, 200, block);
	model_fini(&m);
	close_used(s);
}

static void random_io(void **state)
{
	static const char *const specs[] = {
		"slice:length=64K:ram:1M",
		"slice:offset=512:ram:200K",
		"slice:offset=65024,length=1536:ram:1M",
		"slice:offset=4096,length=64K:fault:volatile=on:ram:1M",
		"fault::slice:offset=4096,length=64K:ram:1M",
		"slice:offset=512,length=64K:slice:offset=1024,length=100K:ram:1M",
		"slice:offset=1M,length=64K:null:4M",
	};

	for (unsigned i = 0; i + 1 < ARRAY_LEN(specs); i++)
		for (uint64_t seed = 1; seed <= 3; seed++)
			run_model(specs[i], seed, seed == 1 ? 1 : 512);
	store_close(rig_open(&rig, test_types, specs[ARRAY_LEN(specs) - 1], NULL));
}

/* What is before and behind it stays, whatever happens inside. */
static void nothing_beside_it_changes(void **state)
{
	char spec[200];

	str_format(spec, sizeof(spec), "slice:offset=66048,length=131584:%s", path);
	for (uint64_t seed = 1; seed <= 3; seed++) {
		make_file(0xa5, DISK / 4);
		run_model(spec, seed, 512);
		check_file(0xa5, 0, 66048);
		check_file(0xa5, 66048 + 131584, DISK / 4 - 66048 - 131584);
	}
}

static void nothing_gets_out(void **state)
{
	static const uint64_t rows[][2] = {
		{0, 65537},
		{65536, 1},
		{65535, 2},
		{UINT64_MAX, 1},
		{UINT64_MAX - 511, 512},
		{UINT64_MAX - 4095, 4096},
		{1, UINT64_MAX},
		{70000, 0},
	};
	static const enum io_op ops[] = {IO_READ, IO_WRITE, IO_DISCARD, IO_ZERO, IO_EXTENT};
	struct store *s = rig_open(&rig, test_types, "slice:offset=4096,length=64K:ram:1M", NULL);
	struct iovec iov[4];

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		for (unsigned op = 0; op < ARRAY_LEN(ops); op++)
			assert_int_equal(
				rig_io(&rig, s, i, ops[op], 0, rows[i][0], rows[i][1], NULL),
				-ERANGE);
		assert_true(store_lend(s, loop_set_at(rig.set, 0), rows[i][0], rows[i][1], iov, 4) <
			    0);
	}
	close_used(s);
	s = rig_open(&rig, test_types, "slice:offset=4096:ram:1M", NULL);
	assert_int_equal(rig_io(&rig, s, 0, IO_ZERO, 0, UINT64_MAX - 2047, 1024, NULL), -ERANGE);
	close_used(s);
}

static void lends_its_own(void **state)
{
	struct store *s = rig_open(&rig, test_types, "slice:offset=4096,length=64K:ram:1M", NULL);
	struct loop *loop = loop_set_at(rig.set, 0);
	uint8_t data[1024];
	struct iovec iov[4];
	int n;

	memset(data, 0x5a, sizeof(data));
	assert_int_equal(rig_io(&rig, s, 0, IO_WRITE, 0, 512, sizeof(data), data), 0);
	n = store_lend(s, loop, 512, sizeof(data), iov, 4);
	assert_int_equal(n, 1);
	assert_memory_equal(iov[0].iov_base, data, sizeof(data));
	store_release(s, loop, 512, sizeof(data));
	close_used(s);
}

static void wrong_ones(void **state)
{
	static const struct {
		const char *spec, *says;
	} rows[] = {
		{"slice:", "no store"},
		{"slice:offset=1M", "no store"},
		{"slice:offset=1M:", "no store"},
		{"slice:potato=1:ram:1M", "potato"},
		{"slice:offset=potato:ram:1M", "potato"},
		{"slice:length=1:ram:1M", "length"},
		{"slice:offset=1:ram:1M", "multiples of 512"},
		{"slice:length=1000:ram:1M", "multiples of 512"},
		{"slice:offset=1M:ram:1M", "behind"},
		{"slice:offset=2M:ram:1M", "behind"},
		{"slice:length=1049088:ram:1M", "behind"},
		{"slice:offset=512,length=1M:ram:1M", "behind"},
		{"slice:offset=9223372036854775296,length=9223372036854775296:ram:1M", "behind"},
		{"slice:offset=18446744073709551104:ram:1M", "offset"},
		{"slice:offset=0:/nonexistent/disk", "/nonexistent/disk"},
	};
	char said[600];

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		assert_true(open_code(rows[i].spec, said) < 0);
		if (strstr(said, rows[i].says) == NULL)
			fail_msg("%s: %s", rows[i].spec, said);
	}
}

/* The part of a file that somebody has is his; the rest is anybody's. */
static void who_has_which_part(void **state)
{
	static const struct {
		const char *options;
		bool fits;
	} rows[] = {
		{"offset=0,length=1M", true},
		{"offset=2M,length=2M", true},
		{"offset=2M", true},
		{"offset=1M,length=1M", false},
		{"offset=512,length=1M", false},
		{"offset=0", false},
		{"offset=1536K", false},
		{"offset=0,length=1049088", false},
	};
	char spec[200], said[600];
	struct store *s;

	make_file(0, DISK);
	str_format(spec, sizeof(spec), "slice:offset=1M,length=1M:%s", path);
	s = rig_open(&rig, test_types, spec, NULL);
	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		str_format(spec, sizeof(spec), "slice:%s:%s", rows[i].options, path);
		assert_int_equal(open_code(spec, said), rows[i].fits ? 0 : -EBUSY);
	}
	assert_int_equal(open_code(path, said), -EBUSY);
	/* Of a slice in a slice, what both are. */
	str_format(spec, sizeof(spec), "slice:offset=512K,length=512K:slice:offset=0,length=3M:%s",
		   path);
	assert_int_equal(open_code(spec, said), 0);
	str_format(spec, sizeof(spec), "slice:offset=512K:slice:offset=0,length=1M:%s", path);
	assert_int_equal(open_code(spec, said), 0);
	str_format(spec, sizeof(spec), "slice:offset=1M:slice:offset=512K:%s", path);
	assert_int_equal(open_code(spec, said), -EBUSY);
	store_close(s);
	assert_int_equal(open_code(path, said), 0);
}

static void get_fingerprint(const char *options, char out[600])
{
	char spec[200];
	struct store *s;

	str_format(spec, sizeof(spec), "%s%s", options, path);
	s = rig_open(&rig, test_types, spec, NULL);
	assert_int_equal(store_fingerprint(s, out, 600), 0);
	store_close(s);
}

/* No two of them are the same, nor is one the whole; the same one is the same again. */
static void each_is_a_disk(void **state)
{
	static const char *const options[] = {
		"",
		"slice::",
		"slice:length=1M:",
		"slice:offset=1M:",
		"slice:offset=1M,length=1M:",
		"slice:offset=1M,length=2M:",
		"slice:offset=512K:slice:offset=512K:",
	};
	char all[ARRAY_LEN(options)][600], again[600], tag[8];
	struct store *s;
	char spec[200];

	make_file(0, DISK);
	for (unsigned i = 0; i < ARRAY_LEN(options); i++) {
		get_fingerprint(options[i], all[i]);
		get_fingerprint(options[i], again);
		assert_string_equal(all[i], again);
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(all[i], all[k]);
	}
	str_format(spec, sizeof(spec), "slice:offset=1M:%s", path);
	s = rig_open(&rig, test_types, spec, NULL);
	assert_false(store_info(s)->keeps_tags);
	assert_int_equal(store_tag_set(s, "id", "x", 1), -EOPNOTSUPP);
	assert_int_equal(store_tag_get(s, "id", tag, sizeof(tag)), -EOPNOTSUPP);
	store_close(s);
	s = rig_open(&rig, test_types, "slice:offset=512:ram:1M", NULL);
	assert_int_equal(store_fingerprint(s, again, sizeof(again)), -EOPNOTSUPP);
	store_close(s);
}

static struct store_status probe(struct store *s)
{
	struct store_status now;

	assert_int_equal(store_probe(s, &now), 0);
	return now;
}

static void grows_with_the_file(void **state)
{
	char spec[200], data[512] = "new";
	struct store *s;

	make_file(0, DISK);
	str_format(spec, sizeof(spec), "slice:offset=1M:%s", path);
	s = rig_open(&rig, test_types, spec, NULL);
	assert_int_equal(store_info(s)->size, DISK - MiB);
	assert_int_equal(probe(s).size, DISK - MiB);
	assert_int_equal(truncate(path, DISK + MiB), 0);
	assert_int_equal(probe(s).size, DISK);
	assert_int_equal(store_resize(s, 0), 0);
	assert_int_equal(store_info(s)->size, DISK);
	assert_int_equal(rig_io(&rig, s, 0, IO_WRITE, 0, DISK - 512, 512, data), 0);
	assert_int_equal(store_resize(s, DISK + MiB), 0);
	assert_int_equal(probe(s).size, DISK + MiB);
	assert_int_equal(store_resize(s, DISK), -ERANGE);
	assert_int_equal(store_resize(s, UINT64_MAX), -ENOSPC); /* as -EFBIG is told */
	assert_int_equal(truncate(path, MiB + 512), 0);
	assert_int_equal(probe(s).size, 512);
	assert_int_equal(truncate(path, 512), 0);
	assert_int_equal(probe(s).size, 0);
	close_used(s);
}

static void stays_as_long_as_it_was_told(void **state)
{
	char spec[200];
	struct store *s;

	make_file(0, DISK);
	str_format(spec, sizeof(spec), "slice:offset=1M,length=1M:%s", path);
	s = rig_open(&rig, test_types, spec, NULL);
	assert_int_equal(truncate(path, 2 * DISK), 0);
	assert_int_equal(probe(s).size, MiB);
	assert_int_equal(store_resize(s, 0), 0);
	assert_int_equal(store_resize(s, MiB), 0);
	assert_int_equal(store_resize(s, 2 * MiB), -EOPNOTSUPP);
	assert_int_equal(store_info(s)->size, MiB);
	assert_int_equal(truncate(path, MiB + 512), 0);
	assert_int_equal(probe(s).size, 512);
	store_close(s);
}

/* A back end with boundaries, to see what becomes of them. */
static int bounded_open(struct store **out, struct loop_set *set,
			const struct store_type *const *types, char *rest,
			const struct store_config *config, struct diag *d)
{
	struct store *s = calloc(1, sizeof(*s));

	s->info = (struct store_info){.size = DISK,
				      .logical_block = 4096,
				      .physical_block = 16384,
				      .optimal_io = 65536,
				      .discard_granularity = 65536,
				      .discard_alignment = 4096};
	*out = s;
	return 0;
}

static void bounded_close(struct store *s)
{
	free(s);
}

static void bounded_io(struct store *s, struct io *io)
{
	io_end(io, 0);
}

static const struct store_type bounded = {
	.name = "bounded",
	.threading = STORE_ANY_LOOP,
	.open = bounded_open,
	.close = bounded_close,
	.read = bounded_io,
	.write = bounded_io,
	.discard = bounded_io,
};

static void boundaries(void **state)
{
	static const struct store_type *const types[] = {&bounded, &store_slice, NULL};
	static const struct {
		const char *spec;
		uint32_t physical, optimal, alignment;
	} rows[] = {
		{"slice::bounded:x", 16384, 65536, 4096},
		{"slice:offset=4K:bounded:x", 4096, 0, 0},
		{"slice:offset=16K:bounded:x", 16384, 0, 53248},
		{"slice:offset=64K:bounded:x", 16384, 65536, 4096},
	};
	struct store *s;

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		s = rig_open(&rig, types, rows[i].spec, NULL);
		assert_int_equal(store_info(s)->logical_block, 4096);
		assert_int_equal(store_info(s)->physical_block, rows[i].physical);
		assert_int_equal(store_info(s)->optimal_io, rows[i].optimal);
		assert_int_equal(store_info(s)->discard_alignment, rows[i].alignment);
		store_close(s);
	}
	assert_int_equal(store_open(&s, rig.set, types, "slice:offset=512:bounded:x",
				    &(struct store_config){0}, NULL),
			 -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(random_io, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_beside_it_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_gets_out, setup, teardown),
		cmocka_unit_test_setup_teardown(lends_its_own, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(who_has_which_part, setup, teardown),
		cmocka_unit_test_setup_teardown(each_is_a_disk, setup, teardown),
		cmocka_unit_test_setup_teardown(grows_with_the_file, setup, teardown),
		cmocka_unit_test_setup_teardown(stays_as_long_as_it_was_told, setup, teardown),
		cmocka_unit_test_setup_teardown(boundaries, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
