/*
 * Stores under four real loops at once: every store, many io in flight from each loop, each on a
 * region of its own that is compared with what it must hold. Meant for the thread sanitizer, and
 * for the batches of HOME_LOOP stores.
 */
#define STORE_TEST_LOOPS
#include "store_test.h"

#include <stdatomic.h>
#include <unistd.h>

#define NLOOPS   4
#define NWORKERS 32 /* 8 a loop */
#define REGION   (64 * KiB)
#define NOPS     150

static struct rig rig;
static atomic_uint nleft;
static sem_t all_done;

/* One io at a time on one region. */
struct worker {
	struct req req;
	struct store *store;
	struct loop *loop;
	uint64_t base, off, len, random;
	unsigned left;
	uint8_t must[REGION], buf[REGION];
};

static void next_op(struct worker *w)
{
	static const enum io_op ops[] = {IO_READ, IO_READ,  IO_WRITE,   IO_WRITE,
					 IO_ZERO, IO_FLUSH, IO_DISCARD, IO_EXTENT};
	enum io_op op = ops[rnd(&w->random) % ARRAY_LEN(ops)];
	unsigned flags = op == IO_WRITE && rnd(&w->random) % 8 == 0 ? IO_FUA : 0;
	uint64_t first = rnd(&w->random) % (REGION / 512);

	w->off = first * 512;
	w->len = 512 * (1 + rnd(&w->random) % min_u64(16, REGION / 512 - first));
	if (op == IO_WRITE)
		fill_random(w->buf, w->len, &w->random);
	req_init(&w->req, w->store, w->loop, op, flags, w->base + w->off, w->len,
		 op == IO_READ || op == IO_WRITE ? w->buf : NULL);
}

static void op_done(struct req *q)
{
	struct worker *w = container_of(q, struct worker, req);
	bool clears = q->io.op == IO_ZERO || q->io.op == IO_DISCARD;

	assert_false(q->done_early);
	if (q->io.op != IO_DISCARD || q->io.result != -EOPNOTSUPP)
		assert_int_equal(q->io.result, 0);
	if (q->io.op == IO_READ)
		assert_memory_equal(w->buf, w->must + w->off, w->len);
	if (q->io.op == IO_WRITE)
		memcpy(w->must + w->off, w->buf, w->len);
	if (clears && q->io.result == 0)
		memset(w->must + w->off, 0, w->len);
	if (--w->left == 0) {
		if (atomic_fetch_sub(&nleft, 1) == 1)
			sem_post(&all_done);
		return;
	}
	next_op(w);
	w->req.then = op_done;
	req_submit(&w->req);
}

static void run_workers(struct store *s)
{
	struct worker *workers = calloc(NWORKERS, sizeof(*workers));

	sem_init(&all_done, 0, 0);
	nleft = NWORKERS;
	for (unsigned i = 0; i < NWORKERS; i++) {
		struct worker *w = &workers[i];

		w->store = s;
		w->loop = loop_set_at(rig.set, i % NLOOPS);
		w->base = i * REGION;
		w->random = i + 1;
		w->left = NOPS;
		next_op(w);
		w->req.then = op_done;
		req_start(&w->req);
	}
	while (sem_wait(&all_done) != 0)
		continue;
	rig_join(&rig);
	sem_destroy(&all_done);
	store_close(s);
	rig_stop(&rig);
	free(workers);
}

static void on_spec(const char *spec)
{
	const struct store_config config = {.size = NWORKERS * REGION};

	rig_start(&rig, NLOOPS, 0);
	run_workers(rig_open(&rig, test_types, spec, &config));
}

static void ram(void **state)
{
	on_spec("ram:2M");
}

static void home_loop(void **state)
{
	on_spec("fault::ram:2M");
	on_spec("fault:rule=any;delay=1ms;prob=0.05:fault:volatile=on:ram:2M");
}

static void slices(void **state)
{
	on_spec("slice:offset=66048,length=2M:ram:4M");
	on_spec("slice:offset=512:fault::slice:offset=4K:ram:4M");
}

static void on_file(const char *prefix, const char *where)
{
	char dir[64], spec[200], path[100];

	str_format(dir, sizeof(dir), "%s/spindle-threads-XXXXXX", where);
	assert_non_null(mkdtemp(dir));
	str_format(path, sizeof(path), "%s/disk", dir);
	str_format(spec, sizeof(spec), "%s%s", prefix, path);
	on_spec(spec);
	unlink(path);
	rmdir(dir);
}

static void file(void **state)
{
	on_file("", "/var/tmp");
	on_file("", "/dev/shm");
}

static void home_loop_over_file(void **state)
{
	on_file("fault:volatile=on:", "/var/tmp");
	on_file("fault::", "/dev/shm");
}

/* Released from outside while the loops run. */
static void release_from_another_thread(void **state)
{
	uint8_t data[512] = {0};
	struct req q[8];
	struct store *s;

	rig_start(&rig, NLOOPS, 0);
	s = rig_open(&rig, test_types, "fault:rule=write;hang:ram:2M", NULL);
	for (unsigned i = 0; i < 8; i++) {
		req_init(&q[i], s, loop_set_at(rig.set, i % NLOOPS), IO_WRITE, 0, 512 * i, 512,
			 data);
		req_start(&q[i]);
	}
	assert_int_equal(rig_io(&rig, s, 1, IO_READ, 0, 0, 512, data), 0);
	for (unsigned i = 0; i < 8; i++) {
		while (sem_trywait(&q[i].ended) != 0) {
			assert_int_equal(store_fault_release(s), 0);
			usleep(1000);
		}
		assert_int_equal(q[i].io.result, 0);
	}
	rig_join(&rig);
	store_close(s);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ram),
		cmocka_unit_test(home_loop),
		cmocka_unit_test(slices),
		cmocka_unit_test(file),
		cmocka_unit_test(home_loop_over_file),
		cmocka_unit_test(release_from_another_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
