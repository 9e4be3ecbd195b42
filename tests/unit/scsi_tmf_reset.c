/*
 * What a reset sets back: mode parameters, reservations and the write cache; and what it leaves.
 */
#include "scsi_tmf_fixture.h"

/* Byte 5 of the control mode page. */
static uint8_t control_byte_5(struct fx_nexus *n)
{
	struct fx_task *ft = FX_CMD(n, 255, 0x1a, 8, 0x0a, 0, 255, 0);
	uint8_t byte;

	fx_good(ft);
	byte = ft->data[4 + 5];
	fx_task_free(ft);
	return byte;
}

static void mode_parameters_go_back(void **state)
{
	assert_int_equal(control_byte_5(&a), 0);
	set_tas(&a);
	assert_int_equal(control_byte_5(&a), 0x40);
	take_mode_changed(&b);
	take_mode_changed(&far);
	run(&far, SCSI_LU_RESET, 0);
	was_reset(&a);
	was_reset(&b);
	was_reset(&far);
	assert_int_equal(control_byte_5(&a), 0);
	assert_int_equal(control_byte_5(&far), 0);
}

/* ---- Views that the test publishes ---- */

struct publish {
	struct unit_op op;
	sem_t sem;
};

static void published(struct unit_op *op, int err)
{
	assert_int_equal(err, 0);
	sem_post(&container_of(op, struct publish, op)->sem);
}

static void publish_run(void *arg)
{
	unit_publish(&((struct publish *)arg)->op);
}

static void publish(int (*edit)(struct unit_op *op, struct unit_view *next))
{
	struct publish p = {
		.op = {.unit = fx.units[0], .loop = fx.loop, .edit = edit, .done = published}};

	sem_init(&p.sem, 0, 0);
	fx_call(&fx, publish_run, &p);
	fx_wait(&p.sem);
	sem_destroy(&p.sem);
}

/* ---- Reservations ---- */

static void reserve(struct fx_nexus *n)
{
	was_good(FX_CMD(n, 0, 0x16, 0, 0, 0, 0, 0));
}

static void cannot_reserve(struct fx_nexus *n)
{
	struct fx_task *ft = FX_CMD(n, 0, 0x16, 0, 0, 0, 0, 0);

	assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
	fx_task_free(ft);
}

static void release_disk(struct fx_nexus *n)
{
	was_good(FX_CMD(n, 0, 0x17, 0, 0, 0, 0, 0));
}

/* Not before the holder's last write has left the store. */
static void reservation_goes_with_the_holders_tasks(void **state)
{
	struct fx_task *slow;
	struct tmf f;

	reserve(&a);
	slow = read_at(&a, 0, 1);
	begin(&f, &far, SCSI_LU_RESET, 0);
	cannot_reserve(&b);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(slow);
	was_reset(&b);
	reserve(&b);
	release_disk(&b);
}

/* Of a client of another transport, which clients of this one must not be able to end. */
static int edit_held(struct unit_op *op, struct unit_view *next)
{
	next->holder = 7;
	next->flags |= UNIT_HOLDER_KEPT;
	return 0;
}

static int edit_free(struct unit_op *op, struct unit_view *next)
{
	assert_int_equal(next->holder, 7);
	assert_true((next->flags & UNIT_HOLDER_KEPT) != 0);
	next->holder = 0;
	next->flags &= ~(unsigned)UNIT_HOLDER_KEPT;
	return 0;
}

static void reservation_that_is_kept_stays(void **state)
{
	static const enum scsi_tmf_function all[] = {SCSI_LU_RESET, SCSI_TARGET_RESET};

	publish(edit_held);
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		run(&far, all[i], 0);
		cannot_reserve(&b);
		was_good(FX_CMD(&far, 36, 0x12, 0, 0, 0, 36, 0));
	}
	publish(edit_free);
	was_reset(&b);
	reserve(&b);
	release_disk(&b);
	was_reset(&a);
	was_reset(&far);
}

/* Whoever was told may begin anew, although the function still waits for a victim. */
static void what_is_set_after_the_unit_attention_stays(void **state)
{
	struct fx_task *slow = read_at(&a, 0, 1);
	struct tmf f;

	begin(&f, &far, SCSI_LU_RESET, 0);
	was_reset(&b);
	was_reset(&a);
	was_reset(&far);
	reserve(&b);
	set_tas(&b);
	assert_false(f.done);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(slow);
	assert_int_equal(control_byte_5(&b), 0x40);
	release_disk(&b);
}

/* The holder as well, whose reservation the function has found, and not ended yet. */
static void reservation_that_is_made_anew_stays(void **state)
{
	struct fx_task *slow;
	struct tmf f;

	reserve(&b);
	slow = read_at(&b, 0, 1);
	begin(&f, &far, SCSI_LU_RESET, 0);
	was_reset(&b);
	reserve(&b);
	assert_false(f.done);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(slow);
	cannot_reserve(&a);
	release_disk(&b);
}

/* A disk with a cache: WCE is switched off and saved, switched on, and off again by the reset. */
static int up_cached(void **state)
{
	return up_on("fault:volatile=on:ram:16M");
}

static int edit_saved(struct unit_op *op, struct unit_view *next)
{
	lu_state_edit(next)->mode_saved &= ~(1u << MODE_WCE);
	return 0;
}

static void save_wce_off(void)
{
	publish(edit_saved);
}

static uint8_t wce(struct fx_nexus *n)
{
	struct fx_task *ft = FX_CMD(n, 255, 0x1a, 8, 0x08, 0, 255, 0);
	const uint8_t bit = ft->data[4 + 2] & 4;

	fx_good(ft);
	fx_task_free(ft);
	return bit;
}

static void write_cache_goes_off_behind_a_flush(void **state)
{
	struct fx_task *ft;

	save_wce_off();
	assert_int_equal(wce(&a), 4);
	run(&far, SCSI_LU_RESET, 0);
	ft = FX_CMD(&b, 0, 0, 0, 0, 0, 0, 0);
	fx_sense(ft, 0x6, 0x29, 0x03);
	fx_task_free(ft);
	take_mode_changed(&b);
	assert_int_equal(wce(&b), 0);
}

static int up_failing(void **state)
{
	return up_on("fault:volatile=on,rule=flush;eio:ram:16M");
}

static void write_cache_stays_on_where_the_flush_fails(void **state)
{
	struct tmf f;

	save_wce_off();
	begin(&f, &far, SCSI_LU_RESET, 0);
	end(&f, SCSI_TMF_FAILED);
	was_reset(&a);
	assert_int_equal(wce(&a), 4);
}

/* ---- The reset of a nexus ---- */

/* Its own, when its last write has left the store; another's stays. */
static void nexus_reset_ends_its_reservation(void **state)
{
	struct fx_task *slow;
	struct tmf f;

	reserve(&a);
	run(&b, SCSI_NEXUS_RESET, 0);
	cannot_reserve(&b);
	slow = read_at(&a, 0, 1);
	begin(&f, &a, SCSI_NEXUS_RESET, 0);
	cannot_reserve(&b);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(slow);
	was_told(&b, 0x29, 0x07);
	reserve(&b);
	release_disk(&b);
	was_told(&a, 0x29, 0x07);
	tur_good(&a);
}

static void nexus_reset_leaves_mode_parameters(void **state)
{
	set_tas(&far);
	take_mode_changed(&a);
	take_mode_changed(&b);
	run(&far, SCSI_NEXUS_RESET, 0);
	assert_int_equal(control_byte_5(&a), 0x40);
	was_told(&far, 0x29, 0x07);
	assert_int_equal(control_byte_5(&far), 0x40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(mode_parameters_go_back),
		TEST(reservation_goes_with_the_holders_tasks),
		TEST(reservation_that_is_kept_stays),
		TEST(what_is_set_after_the_unit_attention_stays),
		TEST(reservation_that_is_made_anew_stays),
		cmocka_unit_test_setup_teardown(write_cache_goes_off_behind_a_flush, up_cached,
						down),
		cmocka_unit_test_setup_teardown(write_cache_stays_on_where_the_flush_fails,
						up_failing, down),
		TEST(nexus_reset_ends_its_reservation),
		TEST(nexus_reset_leaves_mode_parameters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
