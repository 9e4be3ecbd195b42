/*
 * fault on simulated loops: the grammar of rules, what each action does, and the volatile cache: no
 * flushed or FUA byte is lost and none that was not flushed survives, at any moment of a crash.
 */
#define STORE_TEST_SIM
#include "store_test.h"

#include <unistd.h>

#include "store/fault_rule.h"

#define MS UINT64_C(1000000)

static struct rig rig;

static int setup(void **state)
{
	rig_start(&rig, 3, 11);
	return 0;
}

static int teardown(void **state)
{
	rig_stop(&rig);
	return 0;
}

static struct store *open_fault(const char *spec)
{
	return rig_open(&rig, test_types, spec, NULL);
}

static uint8_t buf[64 * 1024];

static int do_io(struct store *s, enum io_op op, unsigned flags, uint64_t off, uint64_t len)
{
	return rig_io(&rig, s, 0, op, flags, off, len,
		      op == IO_READ || op == IO_WRITE ? buf : NULL);
}

static int do_write(struct store *s, uint64_t off, uint64_t len, int byte, unsigned flags)
{
	memset(buf, byte, len);
	return do_io(s, IO_WRITE, flags, off, len);
}

/* The byte that a whole range has, -1: several, or an error. */
static int do_read(struct store *s, uint64_t off, uint64_t len)
{
	memset(buf, 0xee, len);
	if (do_io(s, IO_READ, 0, off, len) != 0)
		return -1;
	for (uint64_t i = 1; i < len; i++) {
		if (buf[i] != buf[0])
			return -1;
	}
	return buf[0];
}

/* ---- Grammar ---- */

static void rules_that_parse(void **state)
{
	struct fault_rule r;
	char a[] = "write+flush@1M-2M;eio;after=3;count=1";
	char b[] = "any;hang;while=/a=b;prob=0.25";
	char c[] = "read@4K-;short=1K";
	char d[] = "read+read;delay=2s";
	char e[] = "zero+discard+extent;short;prob=1;prob=0";

	assert_int_equal(fault_rule_parse(&r, a, NULL), 0);
	assert_int_equal(r.ops, 1u << IO_WRITE | 1u << IO_FLUSH);
	assert_true(r.start == MiB && r.end == 2 * MiB);
	assert_true(r.action == FAULT_ERROR && r.err == -EIO && r.after == 3 && r.count == 1);
	assert_int_equal(fault_rule_parse(&r, b, NULL), 0);
	assert_int_equal(r.ops, (1u << IO_NOPS) - 1);
	assert_true(r.action == FAULT_HANG && r.prob == UINT64_C(1) << 30);
	assert_string_equal(r.while_path, "/a=b");
	assert_int_equal(fault_rule_parse(&r, c, NULL), 0);
	assert_true(r.start == 4096 && r.end == UINT64_MAX && r.short_len == 1024);
	assert_int_equal(fault_rule_parse(&r, d, NULL), 0);
	assert_true(r.action == FAULT_DELAY && r.delay_ns == 2000 * MS && r.count == UINT64_MAX);
	assert_int_equal(fault_rule_parse(&r, e, NULL), 0);
	assert_true(r.action == FAULT_SHORT && r.short_len == UINT64_MAX && r.prob == 0);
}

static void rules_that_do_not(void **state)
{
	static const struct {
		const char *rule, *what;
	} rows[] = {
		{"", "character 1: \"\" is not any, read"},
		{"read", "character 5: \"\" is not followed by ;ACTION"},
		{"reed;eio", "character 1: \"reed\" is not any, read"},
		{"read+;eio", "character 6: \"\""},
		{"read+any;eio", "character 6: \"any\""},
		{"read;", "character 6: \"\" is not an action"},
		{"read;after=1", "character 6: \"after=1\" is not an action"},
		{"read;eio;hang", "character 10: \"hang\" is not a condition"},
		{"read;eio;", "character 10: \"\" is not a condition"},
		{"read;eio=3", "takes no value"},
		{"read;hang=1", "takes no value"},
		{"read;delay", "needs =VALUE"},
		{"read;delay=", "a time like"},
		{"read;delay=9999999999999h", "a time like"},
		{"read;eio;count=0", "from 1"},
		{"read;eio;count=x", "character 16: \"x\""},
		{"read;eio;after=-1", "a whole number"},
		{"read;eio;prob=2", "a probability"},
		{"read;eio;prob=1.01", "a probability"},
		{"read;eio;prob=.5", "a probability"},
		{"read;eio;prob=0.5x", "a probability"},
		{"read;eio;prob=", "a probability"},
		{"read;eio;while=", "a path"},
		{"read;short=z", "a size"},
		{"read@;eio", "begins"},
		{"read@1M;eio", "START-END"},
		{"read@-1M;eio", "begins"},
		{"read@1M-x;eio", "ends"},
		{"read@2M-1M;eio", "behind the start"},
		{"read@1M-1M;eio", "behind the start"},
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		struct fault_rule r;
		struct diag d;
		char text[100], shown[600];

		diag_init(&d);
		str_copy(text, sizeof(text), rows[i].rule);
		assert_int_equal(fault_rule_parse(&r, text, &d), -EINVAL);
		diag_text(&d, shown, sizeof(shown));
		if (strstr(shown, rows[i].what) == NULL)
			fail_msg("\"%s\" says: %s", rows[i].rule, shown);
	}
}

/* ---- Actions ---- */

static void errors(void **state)
{
	static const struct {
		const char *name;
		int err;
	} rows[] = {
		{"eio", -EIO},       {"enospc", -ENOSPC},       {"etimedout", -ETIMEDOUT},
		{"enomem", -ENOMEM}, {"erofs", -EROFS},         {"enodata", -ENODATA},
		{"eilseq", -EILSEQ}, {"eremoteio", -EREMOTEIO}, {"enxio", -ENXIO},
		{"enodev", -ENODEV},
	};

	for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
		char spec[100];
		struct store *s;

		str_format(spec, sizeof(spec), "fault:rule=write;%s:ram:1M", rows[i].name);
		s = open_fault(spec);
		assert_int_equal(do_write(s, 0, 512, 1, 0), rows[i].err);
		assert_int_equal(do_read(s, 0, 512), 0);
		store_close(s);
	}
}

static void ranges_and_ops(void **state)
{
	struct store *s = open_fault("fault:rule=read+flush@4K-8K;eio:ram:1M");

	assert_int_equal(do_write(s, 0, 16384, 1, 0), 0);
	assert_int_equal(do_io(s, IO_READ, 0, 0, 4096), 0);
	assert_int_equal(do_io(s, IO_READ, 0, 8192, 4096), 0);
	assert_int_equal(do_io(s, IO_READ, 0, 0, 4097), -EIO);
	assert_int_equal(do_io(s, IO_READ, 0, 8191, 1), -EIO);
	assert_int_equal(do_io(s, IO_READ, 0, 0, 16384), -EIO);
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), -EIO);
	store_close(s);
}

static void after_and_count(void **state)
{
	struct store *s = open_fault("fault:rule=write;eio;after=2;count=3:ram:1M");

	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(do_write(s, 0, 512, 1, 0), i >= 2 && i < 5 ? -EIO : 0);
		assert_int_equal(do_io(s, IO_READ, 0, 0, 512), 0);
	}
	store_close(s);
}

static unsigned count_errors(const char *spec, unsigned n)
{
	struct store *s = open_fault(spec);
	unsigned errs = 0;

	for (unsigned i = 0; i < n; i++)
		errs += do_io(s, IO_READ, 0, 0, 512) != 0;
	store_close(s);
	return errs;
}

static void probability(void **state)
{
	unsigned a = count_errors("fault:rule=read;eio;prob=0.1,seed=5:ram:1M", 2000);

	assert_in_range(a, 120, 280);
	assert_int_equal(count_errors("fault:rule=read;eio;prob=0.1,seed=5:ram:1M", 2000), a);
	assert_int_equal(count_errors("fault:rule=read;eio;prob=0:ram:1M", 200), 0);
	assert_int_equal(count_errors("fault:rule=read;eio;prob=1,seed=0:ram:1M", 200), 200);
}

static void delays_add_up(void **state)
{
	struct store *s = open_fault(
		"fault:rule=read;delay=30s,rule=read;delay=12s,rule=read@4K-;eio:ram:1M");
	uint64_t start = sim_now_ns(rig.set);

	assert_int_equal(do_write(s, 0, 512, 3, 0), 0);
	assert_true(sim_now_ns(rig.set) - start < MS);
	assert_int_equal(do_read(s, 0, 512), 3);
	assert_in_range((sim_now_ns(rig.set) - start) / MS, 42000, 42001);
	assert_int_equal(do_io(s, IO_READ, 0, 4096, 512), -EIO);
	assert_in_range((sim_now_ns(rig.set) - start) / MS, 84000, 84002);
	store_close(s);
}

/* Half, or as much as was said; then -EIO. What the rest would have been stays as it was. */
static void short_transfers(void **state)
{
	struct store *s = open_fault("fault:rule=write@0-64K;short;count=1,"
				     "rule=write@128K-;short=1536;count=1,"
				     "rule=read;short;count=1,rule=flush;short;count=1:ram:1M");

	assert_int_equal(do_write(s, 0, 3072, 7, 0), -EIO);
	assert_int_equal(do_write(s, 128 * KiB, 8192, 8, IO_FUA), -EIO);
	memset(buf, 0xee, 8192);
	assert_int_equal(do_io(s, IO_READ, 0, 0, 6144), -EIO);
	assert_int_equal(buf[0], 7);
	assert_int_equal(buf[1535], 7);
	assert_int_equal(buf[1536], 0);
	assert_int_equal(buf[3071], 0);
	assert_int_equal(buf[3072], 0xee);
	assert_int_equal(do_read(s, 0, 1536), 7);
	assert_int_equal(do_read(s, 1536, 4096), 0);
	assert_int_equal(do_read(s, 128 * KiB, 1536), 8);
	assert_int_equal(do_read(s, 128 * KiB + 1536, 8192), 0);
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), -EIO);
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), 0);
	store_close(s);
}

static void hang_until_released(void **state)
{
	struct store *s = open_fault("fault:rule=write;hang;count=2,rule=write;eio;after=1:ram:1M");
	struct req q[3];
	uint8_t data[512] = {1};

	for (unsigned i = 0; i < 3; i++) {
		req_init(&q[i], s, loop_set_at(rig.set, i), IO_WRITE, 0, 512 * i, 512, data);
		req_start(&q[i]);
		sim_run(rig.set, UINT64_MAX);
	}
	/* The third met no hang, and was the first that the second rule met. */
	assert_true(!q[0].done && !q[1].done && q[2].done);
	assert_int_equal(req_wait(&rig, &q[2]), 0);
	assert_int_equal(do_read(s, 0, 512), 0);
	assert_int_equal(store_fault_release(s), 0);
	assert_int_equal(store_fault_release(s), 0);
	assert_int_equal(req_wait(&rig, &q[0]), -EIO);
	assert_int_equal(req_wait(&rig, &q[1]), -EIO);
	assert_int_equal(store_fault_release(s), 0);
	sim_run(rig.set, UINT64_MAX);
	store_close(s);
}

static void hang_while_a_file_exists(void **state)
{
	char path[] = "/tmp/spindle-hang-XXXXXX", spec[200];
	int fd = mkstemp(path);
	struct store *s;
	struct req q;
	uint64_t start;

	assert_true(fd >= 0);
	close(fd);
	str_format(spec, sizeof(spec),
		   "fault:rule=read;hang;while=%s,rule=flush;eio;while=%s:ram:1M", path, path);
	s = open_fault(spec);
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), -EIO);
	req_init(&q, s, loop_set_at(rig.set, 1), IO_READ, 0, 0, 512, buf);
	req_start(&q);
	start = sim_now_ns(rig.set);
	while (sim_now_ns(rig.set) < start + 1000 * MS)
		assert_true(sim_step(rig.set));
	assert_false(q.done);
	unlink(path);
	assert_int_equal(req_wait(&rig, &q), 0);
	assert_in_range(sim_now_ns(rig.set) - start, 1000 * MS, 1021 * MS);
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), 0);
	assert_int_equal(do_io(s, IO_READ, 0, 0, 512), 0);
	store_close(s);
}

static void flush_off_without_a_cache(void **state)
{
	struct store *s = open_fault("fault:flush=off:fault:rule=flush;eio:ram:1M");

	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), 0);
	store_close(s);
}

static void passes_what_it_is_asked(void **state)
{
	struct store *s = open_fault("fault:volatile=on:ram:1M");
	const struct store_info *info = store_info(s);
	char id[8];

	assert_true(info->volatile_cache && info->discard_zeroes && info->size == MiB);
	assert_int_equal(store_tag_get(s, "id", id, sizeof(id)), -EOPNOTSUPP);
	assert_int_equal(store_tag_set(s, "id", id, sizeof(id)), -EOPNOTSUPP);
	assert_int_equal(store_fingerprint(s, id, sizeof(id)), -EOPNOTSUPP);
	store_close(s);
	s = open_fault("fault::ram:1M");
	assert_false(store_info(s)->volatile_cache);
	store_close(s);
}

static void random_io(void **state)
{
	static const char *const specs[] = {
		"fault:volatile=on:ram:200K",
		"fault:volatile=on:fault:volatile=on:ram:200K",
		"fault:rule=any;delay=1ms;prob=0.5,volatile=on:ram:200K",
	};

	for (unsigned i = 0; i < ARRAY_LEN(specs); i++) {
		for (uint64_t seed = 1; seed <= 6; seed++) {
			struct store *s = open_fault(specs[i]);
			struct model m;

			model_init(&m, &rig, s, seed);
			model_run(&m, 200, seed % 2 == 0 ? 512 : 1);
			model_fini(&m);
			store_close(s);
		}
	}
}

/* ---- A disk that survives: what the volatile cache writes down lands here, at random moments ----
 */

#define BLOCK   512
#define NBLOCKS 48
#define NOPS    300 /* of a run with crashes */

static uint8_t platter[NBLOCKS * BLOCK];
static bool platter_fails;

struct landing {
	struct loop_timer timer;
	struct io *io;
};

static void landed(struct loop_timer *timer)
{
	struct landing *l = container_of(timer, struct landing, timer);
	struct io *io = l->io;
	uint8_t *p = platter + io->off;

	free(l);
	for (unsigned i = 0; i < io->niov; p += io->iov[i++].iov_len) {
		if (io->op == IO_WRITE)
			memcpy(p, io->iov[i].iov_base, io->iov[i].iov_len);
		else
			memcpy(io->iov[i].iov_base, p, io->iov[i].iov_len);
	}
	if (io->op == IO_ZERO || io->op == IO_DISCARD)
		memset(platter + io->off, 0, io->len);
	io_end(io, platter_fails && io->op != IO_READ ? -EIO : 0);
}

static void platter_io(struct store *s, struct io *io)
{
	struct landing *l = malloc(sizeof(*l));

	l->io = io;
	loop_timer_init(&l->timer, io->loop, landed);
	assert_int_equal(loop_timer_start(&l->timer, sim_random(s->set, 3000)), 0);
}

static int platter_open(struct store **out, struct loop_set *set,
			const struct store_type *const *types, char *rest,
			const struct store_config *config, struct diag *d)
{
	*out = calloc(1, sizeof(**out));
	(*out)->info = (struct store_info){
		.size = sizeof(platter),
		.volatile_cache = true,
		.logical_block = BLOCK,
		.physical_block = BLOCK,
		.discard_granularity = BLOCK,
		.discard_zeroes = true,
	};
	return 0;
}

static void platter_close(struct store *s)
{
	free(s);
}

static const struct store_type platter_type = {
	.name = "platter",
	.open = platter_open,
	.close = platter_close,
	.read = platter_io,
	.write = platter_io,
	.flush = platter_io,
	.zero = platter_io,
	.discard = platter_io,
};

static const struct store_type *const crash_types[] = {
	&platter_type,
	&store_file,
	&store_fault,
	NULL,
};

static struct store *open_platter(struct rig *r, const char *options)
{
	char spec[100];

	memset(platter, 0, sizeof(platter));
	platter_fails = false;
	str_format(spec, sizeof(spec), "fault:%s:platter:", options);
	return rig_open(r, crash_types, spec, NULL);
}

static void unflushed_is_lost(void **state)
{
	struct store *s = open_platter(&rig, "volatile=on");

	assert_int_equal(do_write(s, 0, 2048, 1, 0), 0);
	assert_int_equal(do_read(s, 0, 2048), 1);
	assert_int_equal(platter[0], 0);
	assert_int_equal(do_write(s, 512, 512, 2, IO_FUA), 0);
	assert_int_equal(platter[511], 0);
	assert_int_equal(platter[512], 2);
	assert_int_equal(platter[1024], 0);
	assert_int_equal(do_read(s, 0, 512), 1);
	assert_int_equal(do_read(s, 512, 512), 2);
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), 0);
	assert_int_equal(platter[0], 1);
	assert_int_equal(platter[512], 2);
	assert_int_equal(platter[1024], 1);
	assert_int_equal(do_io(s, IO_ZERO, 0, 0, 512), 0);
	assert_int_equal(do_io(s, IO_DISCARD, 0, 512, 512), 0);
	assert_int_equal(do_read(s, 0, 1024), 0);
	assert_int_equal(platter[0], 1);
	assert_int_equal(platter[512], 2);
	assert_int_equal(do_io(s, IO_ZERO, IO_FUA, 0, 512), 0);
	assert_int_equal(platter[0], 0);
	assert_int_equal(platter[512], 2);
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), 0);
	assert_int_equal(platter[512], 0);
	assert_int_equal(do_write(s, 0, 512, 9, 0), 0);
	store_close(s);
	assert_int_equal(platter[0], 0);
}

/* After a flush that failed nothing is promised any more, and reads still see all. */
static void failed_flush_is_latched(void **state)
{
	struct store *s = open_platter(&rig, "volatile=on");

	assert_int_equal(do_write(s, 0, 1024, 1, 0), 0);
	platter_fails = true;
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), -EIO);
	platter_fails = false;
	assert_int_equal(do_io(s, IO_FLUSH, 0, 0, 0), -EIO);
	assert_int_equal(do_write(s, 0, 512, 2, 0), -EIO);
	assert_int_equal(do_write(s, 0, 512, 2, IO_FUA), -EIO);
	assert_int_equal(do_io(s, IO_ZERO, 0, 0, 512), -EIO);
	assert_int_equal(do_read(s, 0, 1024), 1);
	store_close(s);
}

/* Two writes of the same bytes at once may come out either way, but reads see them change once: a
 * FUA write that waits behind a flush neither shows itself early nor comes back. */
static void fua_write_is_seen_in_its_turn(void **state)
{
	for (uint64_t seed = 1; seed <= 100; seed++) {
		static uint8_t fua_data[BLOCK];
		struct req flushes[2], fua;
		struct store *s;
		int before, between;

		rig_stop(&rig);
		rig_start(&rig, 1, seed);
		s = open_platter(&rig, "volatile=on");
		memset(fua_data, 1, sizeof(fua_data));
		assert_int_equal(do_write(s, 4 * BLOCK, BLOCK, 9, 0), 0);
		for (unsigned i = 0; i < 2; i++) {
			req_init(&flushes[i], s, loop_set_at(rig.set, 0), IO_FLUSH, 0, 0, 0, NULL);
			req_start(&flushes[i]);
			/* The first runs, the second waits. */
			while (i == 0 && platter[4 * BLOCK] != 9)
				assert_true(sim_step(rig.set));
		}
		req_init(&fua, s, loop_set_at(rig.set, 0), IO_WRITE, IO_FUA, 0, BLOCK, fua_data);
		req_start(&fua);
		before = do_read(s, 0, BLOCK);
		assert_int_equal(do_write(s, 0, BLOCK, 2, 0), 0);
		between = do_read(s, 0, BLOCK);
		assert_int_equal(req_wait(&rig, &flushes[0]), 0);
		assert_int_equal(req_wait(&rig, &flushes[1]), 0);
		assert_int_equal(req_wait(&rig, &fua), 0);
		if (before == 1 && between == 2)
			assert_int_equal(do_read(s, 0, BLOCK), 2);
		store_close(s);
	}
}

/* Every block carries versions: what may be there after a crash is known at any moment. */
struct block {
	uint32_t submitted; /* the newest version that was given to the store */
	uint32_t completed;
	uint32_t durable;    /* the newest that must survive */
	bool busy;           /* one io at a time on a block: overlapping ones have no order */
	bool zero[NOPS + 1]; /* versions that were made by zeroing or discarding it */
};

struct crash {
	struct rig rig;
	struct store *store;
	struct block blocks[NBLOCKS];
	unsigned inflight, left, crashes_bad;
	bool failed;
};

struct op {
	struct req req;
	struct crash *crash;
	unsigned first, n;
	uint32_t floor[NBLOCKS]; /* FLUSH, READ: completed when it was submitted */
	uint32_t version[NBLOCKS];
	uint8_t data[NBLOCKS * BLOCK];
};

static uint32_t version_in(const uint8_t *block)
{
	for (unsigned i = 4; i < BLOCK; i += 4)
		assert_memory_equal(block, block + i, 4); /* no block is ever torn */
	return load_le32(block);
}

/* Whether a block may hold this, if no version older than `floor` may. */
static bool may_hold(const struct block *b, uint32_t v, uint32_t floor)
{
	if (v != 0)
		return v >= floor && v <= b->submitted && !b->zero[v];
	for (uint32_t i = floor; i <= b->submitted; i++) {
		if (i == 0 || b->zero[i])
			return true;
	}
	return false;
}

static bool changes(enum io_op op)
{
	return op == IO_WRITE || op == IO_ZERO || op == IO_DISCARD;
}

static void op_done(struct req *q)
{
	struct op *op = container_of(q, struct op, req);
	struct crash *c = op->crash;

	assert_int_equal(q->io.result, 0);
	for (unsigned i = op->first; i < op->first + op->n; i++) {
		struct block *b = &c->blocks[i];

		if (changes(q->io.op)) {
			b->completed = op->version[i];
			if (q->io.flags & IO_FUA)
				b->durable = op->version[i];
			b->busy = false;
		} else if (q->io.op == IO_FLUSH) {
			b->durable = (uint32_t)max_u64(b->durable, op->floor[i]);
		} else if (q->io.op == IO_READ) {
			uint32_t v = version_in(op->data + (i - op->first) * BLOCK);

			assert_true(may_hold(b, v, op->floor[i]));
		}
	}
	c->inflight--;
	free(op);
}

/* Whole blocks of the disk, up to the first that is busy. */
static void op_range(struct crash *c, struct op *op, enum io_op kind)
{
	op->n = NBLOCKS;
	if (kind == IO_FLUSH)
		return;
	op->first = (unsigned)sim_random(c->rig.set, NBLOCKS);
	op->n = (unsigned)min_u64(NBLOCKS - op->first, 1 + sim_random(c->rig.set, 8));
	for (unsigned i = op->first; i < op->first + op->n && changes(kind); i++) {
		if (c->blocks[i].busy)
			op->n = i - op->first;
	}
}

static void op_random(struct crash *c)
{
	static const struct {
		enum io_op op;
		unsigned flags;
	} kinds[] = {
		{IO_WRITE, 0},      {IO_WRITE, 0},
		{IO_WRITE, 0},      {IO_WRITE, 0},
		{IO_WRITE, IO_FUA}, {IO_ZERO, 0},
		{IO_DISCARD, 0},    {IO_ZERO, IO_FUA | IO_MAY_UNMAP},
		{IO_READ, 0},       {IO_READ, 0},
		{IO_READ, 0},       {IO_FLUSH, 0},
	};
	unsigned dice = (unsigned)sim_random(c->rig.set, ARRAY_LEN(kinds));
	enum io_op kind = kinds[dice].op;
	struct op *op = calloc(1, sizeof(*op));

	op->crash = c;
	op_range(c, op, kind);
	if (op->n == 0) {
		free(op);
		return;
	}
	for (unsigned i = op->first; i < op->first + op->n; i++) {
		struct block *b = &c->blocks[i];

		op->floor[i] = b->completed;
		if (!changes(kind))
			continue;
		b->busy = true;
		op->version[i] = ++b->submitted;
		b->zero[op->version[i]] = kind != IO_WRITE;
		for (unsigned at = 0; at < BLOCK; at += 4)
			store_le32(op->data + (i - op->first) * BLOCK + at, op->version[i]);
	}
	req_init(&op->req, c->store, loop_set_at(c->rig.set, (unsigned)sim_random(c->rig.set, 3)),
		 kind, kinds[dice].flags, (uint64_t)op->first * BLOCK, (uint64_t)op->n * BLOCK,
		 kind == IO_READ || kind == IO_WRITE ? op->data : NULL);
	op->req.then = op_done;
	c->inflight++;
	req_start(&op->req);
}

/* The power fails now: what is on the platter? */
static void crash_now(struct crash *c)
{
	for (unsigned i = 0; i < NBLOCKS; i++) {
		uint32_t v = version_in(platter + i * BLOCK);

		assert_true(may_hold(&c->blocks[i], v, 0));
		if (!may_hold(&c->blocks[i], v, c->blocks[i].durable))
			c->failed = true;
	}
}

/* true: what was promised was there at every crash. */
static bool run_crashes(const char *options, uint64_t seed)
{
	unsigned nops = NOPS;
	struct crash *c = calloc(1, sizeof(*c));
	bool ok;

	rig_start(&c->rig, 3, seed);
	c->store = open_platter(&c->rig, options);
	while (nops != 0 || c->inflight != 0) {
		if (nops != 0 && c->inflight < 12 && sim_random(c->rig.set, 8) == 0) {
			op_random(c);
			nops--;
		}
		sim_step(c->rig.set);
		if (sim_random(c->rig.set, 4) == 0)
			crash_now(c);
	}
	sim_run(c->rig.set, UINT64_MAX);
	crash_now(c);
	ok = !c->failed;
	store_close(c->store);
	rig_stop(&c->rig);
	free(c);
	return ok;
}

static void crashes(void **state)
{
	const char *seeds = getenv("SPINDLE_SEEDS");
	uint64_t n = seeds != NULL ? strtoull(seeds, NULL, 0) : 150;

	for (uint64_t seed = 1; seed <= n; seed++) {
		if (!run_crashes("volatile=on", seed))
			fail_msg("seed %llu lost a write", (unsigned long long)seed);
	}
}

/* The same test must fail where a flush lies. */
static void crashes_are_noticed(void **state)
{
	unsigned bad = 0;

	for (uint64_t seed = 1; seed <= 10; seed++)
		bad += !run_crashes("volatile=on,flush=off", seed);
	assert_int_equal(bad, 10);
}

/* A cache over a cache: the flush of the upper one reaches the platter. */
static void crashes_of_two_caches(void **state)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		assert_true(run_crashes("volatile=on:fault:volatile=on", seed));
}

/* Nor may a run without a cache fail. */
static void crashes_without_cache(void **state)
{
	for (uint64_t seed = 1; seed <= 10; seed++)
		assert_true(run_crashes("", seed));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rules_that_parse),
		cmocka_unit_test(rules_that_do_not),
		TEST(errors),
		TEST(ranges_and_ops),
		TEST(after_and_count),
		TEST(probability),
		TEST(delays_add_up),
		TEST(short_transfers),
		TEST(hang_until_released),
		TEST(hang_while_a_file_exists),
		TEST(flush_off_without_a_cache),
		TEST(passes_what_it_is_asked),
		TEST(random_io),
		TEST(unflushed_is_lost),
		TEST(failed_flush_is_latched),
		TEST(fua_write_is_seen_in_its_turn),
		cmocka_unit_test(crashes),
		cmocka_unit_test(crashes_are_noticed),
		cmocka_unit_test(crashes_of_two_caches),
		cmocka_unit_test(crashes_without_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
