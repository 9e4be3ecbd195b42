/*
 * Random commands of several nexuses against a model in memory (tests/unit/scsi_model.h), on simulated
 * loops: the seed decides the order of all messages too, so that a failure comes again.
 *
 * SPINDLE_SIM_SEED=N   tries one seed: the way to look at a failure
 * SPINDLE_SOAK=1       two thousand seeds
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../unit/scsi_model_run.h"
#include "loop/sim.h"

#define OPS 100 /* of each nexus and seed */

static struct model_tally tally;

static void stop(struct model *m)
{
}

static void run_seed(const char *spec, uint32_t block_size, uint64_t seed)
{
	static const struct store_type *const types[] = {&store_ram, &store_fault, NULL};
	const struct store_config sc = {0};
	const struct bdev_config bc = {.block_size = block_size};
	const struct unit_identity id = {.serial = "x"};
	struct model *m = calloc(1, sizeof(*m));
	struct scsi_lu *lu;
	struct store *store;
	struct bdev *bdev;
	struct unit *unit;
	char where[256];

	snprintf(where, sizeof(where), "SPINDLE_SIM_SEED=%" PRIu64 " (%s, blocks of %u bytes)",
		 seed, spec, block_size);
	assert_int_equal(sim_create(&m->set, MODEL_LOOPS, seed), 0);
	assert_int_equal(store_open(&store, m->set, types, spec, &sc, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bc, NULL), 0);
	assert_int_equal(unit_create(&unit, m->set, bdev, &id, 1), 0);
	assert_int_equal(scsi_lu_create_disk(&lu, unit, &(struct scsi_lu_config){0}), 0);
	assert_int_equal(scsi_target_create(&m->target, "iqn.2026-11.test:x"), 0);
	assert_int_equal(scsi_target_add_lun(m->target, 0, lu), 0);
	m->seed = seed;
	m->where = where;
	m->stop = stop;
	model_init(m, lu, OPS);
	model_start(m);
	while (!m->done)
		if (!sim_step(m->set))
			fail_msg("%s: nothing happens any more", where);
	/* The locks are disarmed, and whatever else has a time to end. */
	sim_run(m->set, 1000000);
	model_tally_add(&tally, m);
	scsi_target_destroy(m->target);
	scsi_lu_destroy(lu);
	unit_destroy(unit);
	loop_set_destroy(m->set);
	model_fini(m);
	free(m);
}

static void run_seeds(const char *spec)
{
	const char *one = getenv("SPINDLE_SIM_SEED");
	const uint64_t first = one != NULL ? strtoull(one, NULL, 0) : 1;
	const uint64_t n = one != NULL ? 1 : getenv("SPINDLE_SOAK") != NULL ? 2000 : 40;

	tally = (struct model_tally){0};
	for (uint64_t seed = first; seed < first + n; seed++)
		run_seed(spec, seed % 2 == 0 ? 512 : 4096, seed);
	if (one == NULL)
		model_tally_check(&tally);
}

static void over_memory(void **state)
{
	run_seeds("ram:8M");
}

static void over_a_volatile_cache(void **state)
{
	run_seeds("fault:volatile=on:ram:8M");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(over_memory),
		cmocka_unit_test(over_a_volatile_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
