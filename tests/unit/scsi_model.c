/*
 * Random commands of several nexuses on four threads against a model in memory (scsi_model.h), over
 * RAM, a file, and a disk with a volatile cache, with blocks of 512 and 4096 bytes.
 *
 * SPINDLE_MODEL_SEED=N   one seed: the way to look at a failure, as far as threads repeat themselves
 *                        (tests/sim/scsi_model.c does)
 * SPINDLE_SOAK=1         a hundred seeds, and longer ones
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>

#include "scsi_model_run.h"

#define OPS     120                    /* of each nexus and seed */
#define SEEDS   (MODEL_LOOKS ? 10 : 3) /* the thread sanitizer takes ten times as long */
#define LIMIT_S 120                    /* a run of one seed; far more than it takes */

static struct loop_set *set;
static char where[256];

/* SIGALRM */
static void hangs(int signo)
{
	static const char text[] = ": nothing happens any more\n";

	if (write(2, where, strlen(where)) < 0 || write(2, text, sizeof(text) - 1) < 0)
		_exit(98);
	abort();
}

static struct model_tally tally;

static void stop(struct model *m)
{
	loop_set_stop(set);
}

/* In memory where there is a file system of that kind: writes end inline there. */
static const char *folder(void)
{
	return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

static void make_empty(const char *path)
{
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(truncate(path, (off_t)MODEL_DISK), 0);
}

static struct store *open_store(const char *spec)
{
	static const struct store_type *const types[] = {&store_file, &store_ram, &store_fault,
							 NULL};
	const struct store_config sc = {0};
	struct store *store;
	struct diag d;

	diag_init(&d);
	if (store_open(&store, set, types, spec, &sc, &d) != 0)
		fail_msg("%s: %s", spec, d.what);
	return store;
}

static void run_seed(const char *spec, uint32_t block_size, uint64_t seed, unsigned ops)
{
	const struct loop_config lc = {.nloops = MODEL_LOOPS};
	const struct bdev_config bc = {.block_size = block_size};
	const struct unit_identity id = {.serial = "x"};
	struct model *m = calloc(1, sizeof(*m));
	struct scsi_lu *lu;
	struct bdev *bdev;
	struct unit *unit;

	snprintf(where, sizeof(where), "SPINDLE_MODEL_SEED=%" PRIu64 " (%s, blocks of %u bytes)",
		 seed, spec, block_size);
	alarm(LIMIT_S);
	if (strchr(spec, '/') != NULL)
		make_empty(strchr(spec, '/'));
	assert_int_equal(loop_set_create(&set, &lc, NULL), 0);
	assert_int_equal(bdev_create(&bdev, open_store(spec), &bc, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &id, 1), 0);
	assert_int_equal(scsi_lu_create_disk(&lu, unit, &(struct scsi_lu_config){0}), 0);
	assert_int_equal(scsi_target_create(&m->target, "iqn.2026-11.test:x"), 0);
	assert_int_equal(scsi_target_add_lun(m->target, 0, lu), 0);
	m->set = set;
	m->seed = seed;
	m->where = where;
	m->stop = stop;
	model_init(m, lu, ops);
	model_start(m);
	assert_int_equal(loop_set_run(set), 0);
	model_tally_add(&tally, m);
	scsi_target_destroy(m->target);
	scsi_lu_destroy(lu);
	unit_destroy(unit);
	loop_set_destroy(set);
	model_fini(m);
	free(m);
	alarm(0);
}

static void run_seeds(const char *spec, unsigned ops)
{
	const char *one = getenv("SPINDLE_MODEL_SEED");
	const bool soak = getenv("SPINDLE_SOAK") != NULL;
	const uint64_t first = one != NULL ? strtoull(one, NULL, 0) : 1;
	const uint64_t n = one != NULL ? 1 : soak ? 100 : SEEDS;

	tally = (struct model_tally){0};
	for (uint64_t seed = first; seed < first + n; seed++) {
		run_seed(spec, 512, seed, soak ? 10 * ops : ops);
		run_seed(spec, 4096, seed, soak ? 10 * ops : ops);
	}
	if (one == NULL)
		model_tally_check(&tally);
}

static void over_memory(void **state)
{
	run_seeds("ram:8M", OPS);
}

/* Zeros each time; unlinked when the test is over. */
static void run_on_file(const char *prefix)
{
	char path[64], spec[128];
	int fd;

	snprintf(path, sizeof(path), "%s/spindle-model-XXXXXX", folder());
	fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	snprintf(spec, sizeof(spec), "%s%s", prefix, path);
	run_seeds(spec, OPS);
	unlink(path);
}

static void over_a_file(void **state)
{
	run_on_file("file:");
}

static void over_a_volatile_cache(void **state)
{
	run_on_file("fault:volatile=on:");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(over_memory),
		cmocka_unit_test(over_a_file),
		cmocka_unit_test(over_a_volatile_cache),
	};

	signal(SIGALRM, hangs);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
