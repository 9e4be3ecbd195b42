/*
 * RESERVE and RELEASE: who is kept out of what, who may end it, and that a lost nexus holds nothing.
 */
#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus a, b;

static int up(void **state)
{
	fx_up(&fx, "fault:rule=write@0-512;hang;after=1:ram:16M", 512);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	fx_take_power_on(&a, 0);
	fx_take_power_on(&b, 0);
	return 0;
}

static int up_plain(void **state)
{
	fx_up(&fx, "ram:16M", 512);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	fx_take_power_on(&a, 0);
	fx_take_power_on(&b, 0);
	return 0;
}

static int down(void **state)
{
	fx_close(&a);
	fx_close(&b);
	fx_down(&fx);
	return 0;
}

static void good(struct fx_task *ft)
{
	fx_good(ft);
	fx_task_free(ft);
}

static void conflict(struct fx_task *ft)
{
	assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
	assert_int_equal(ft->t.sense_len, 0);
	fx_task_free(ft);
}

static struct fx_task *reserve_6(struct fx_nexus *n)
{
	return FX_CMD(n, 0, 0x16, 0, 0, 0, 0, 0);
}

static struct fx_task *release_6(struct fx_nexus *n)
{
	return FX_CMD(n, 0, 0x17, 0, 0, 0, 0, 0);
}

static struct fx_task *reserve_10(struct fx_nexus *n)
{
	return FX_CMD(n, 0, 0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0);
}

static struct fx_task *release_10(struct fx_nexus *n)
{
	return FX_CMD(n, 0, 0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0);
}

static struct fx_task *tur(struct fx_nexus *n)
{
	return FX_CMD(n, 0, 0x00, 0, 0, 0, 0, 0);
}

static void only_the_holder_gets_in(void **state)
{
	good(reserve_6(&a));
	good(tur(&a));
	conflict(tur(&b));
	conflict(reserve_6(&b));
	conflict(reserve_10(&b));
	good(release_6(&a));
	good(tur(&b));
}

static void both_sizes_are_one_reservation(void **state)
{
	good(reserve_10(&a));
	conflict(reserve_6(&b));
	good(release_6(&a));
	good(reserve_6(&b));
	conflict(tur(&a));
	good(release_10(&b));
	good(tur(&a));
}

static void its_holder_may_reserve_again(void **state)
{
	good(reserve_6(&a));
	good(reserve_6(&a));
	good(reserve_10(&a));
	conflict(tur(&b));
	good(release_6(&a));
	good(tur(&b));
}

static void nobody_else_can_end_it(void **state)
{
	good(reserve_6(&a));
	good(release_6(&b));
	good(release_10(&b));
	conflict(tur(&b));
	good(release_6(&a));
	good(release_6(&a));
	good(tur(&b));
}

static void a_release_without_a_reservation(void **state)
{
	good(release_6(&b));
	good(release_10(&a));
	good(tur(&a));
}

static void no_unit_attention_tells_of_it(void **state)
{
	good(reserve_6(&a));
	good(release_6(&a));
	good(tur(&b));
	good(tur(&a));
}

/* ---- What another's reservation stops (SPC-2 table 10 and annex B) ---- */

static const struct {
	uint8_t cdb[16];
	bool allowed;
} others[] = {
	{{0x00}, false},                /* TEST UNIT READY */
	{{0x03}, true},                 /* REQUEST SENSE */
	{{0x08}, false},                /* READ(6) */
	{{0x0a}, false},                /* WRITE(6) */
	{{0x12}, true},                 /* INQUIRY */
	{{0x15}, false},                /* MODE SELECT(6) */
	{{0x16}, false},                /* RESERVE(6) */
	{{0x17}, true},                 /* RELEASE(6) */
	{{0x1a, 0, 0x3f}, false},       /* MODE SENSE(6) */
	{{0x1b, 0, 0, 0, 0x01}, true},  /* START STOP UNIT that starts */
	{{0x1b, 0, 0, 0, 0x00}, false}, /* and one that stops */
	{{0x1c}, false},                /* RECEIVE DIAGNOSTIC RESULTS */
	{{0x1d}, false},                /* SEND DIAGNOSTIC */
	{{0x1e, 0, 0, 0, 0x00}, true},  /* PREVENT ALLOW MEDIUM REMOVAL that allows */
	{{0x1e, 0, 0, 0, 0x01}, false}, /* and one that prevents */
	{{0x25}, true},                 /* READ CAPACITY(10) */
	{{0x28}, false},                /* READ(10) */
	{{0x2a}, false},                /* WRITE(10) */
	{{0x2e}, false},                /* WRITE AND VERIFY(10) */
	{{0x2f}, false},                /* VERIFY(10) */
	{{0x34}, false},                /* PRE-FETCH(10) */
	{{0x35}, false},                /* SYNCHRONIZE CACHE(10) */
	{{0x37}, false},                /* READ DEFECT DATA(10) */
	{{0x3b, 0x02}, false},          /* WRITE BUFFER */
	{{0x3c, 0x02}, false},          /* READ BUFFER */
	{{0x41}, false},                /* WRITE SAME(10) */
	{{0x42}, false},                /* UNMAP */
	{{0x4c}, false},                /* LOG SELECT */
	{{0x4d}, true},                 /* LOG SENSE */
	{{0x55}, false},                /* MODE SELECT(10) */
	{{0x56}, false},                /* RESERVE(10) */
	{{0x57}, true},                 /* RELEASE(10) */
	{{0x5a, 0, 0x3f}, false},       /* MODE SENSE(10) */
	{{0x88}, false},                /* READ(16) */
	{{0x89}, false},                /* COMPARE AND WRITE */
	{{0x8a}, false},                /* WRITE(16) */
	{{0x91}, false},                /* SYNCHRONIZE CACHE(16) */
	{{0x93}, false},                /* WRITE SAME(16) */
	{{0x9e, 0x10}, true},           /* READ CAPACITY(16) */
	{{0x9e, 0x12}, false},          /* GET LBA STATUS */
	{{0xa0}, true},                 /* REPORT LUNS */
	{{0xa3, 0x05}, true},           /* REPORT IDENTIFYING INFORMATION */
	{{0xa4, 0x06}, false},          /* SET IDENTIFYING INFORMATION */
	{{0xa3, 0x0f}, true},           /* REPORT TIMESTAMP */
	{{0xa4, 0x0f}, false},          /* SET TIMESTAMP */
};

static void what_it_keeps_others_from(void **state)
{
	good(reserve_6(&a));
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		struct fx_task *ft = fx_cmd(&b, others[i].cdb, 16, 0);
		const bool allowed = ft->t.status != SCSI_RESERVATION_CONFLICT;

		if (allowed != others[i].allowed)
			fail_msg("%02x/%02x is %sallowed", others[i].cdb[0], others[i].cdb[1],
				 allowed ? "" : "not ");
		fx_task_free(ft);
	}
	good(release_6(&a));
	good(tur(&a));
}

/* The unit itself refuses what slipped past the checks of the command. */
static void a_write_that_waited_meanwhile(void **state)
{
	struct fx_task *write = fx_rw(&b, 0x8a, 0, 1);

	write->moves = FX_HOLD;
	fx_expect_out(write, 512);
	fx_submit(&fx, write);
	good(reserve_6(&a));
	fx_release(&fx, write);
	fx_finish_wait(write);
	conflict(write);
}

/* Nor does what needs no I/O pass, whose data came after the reservation of another. */
static void a_change_that_waited_meanwhile(void **state)
{
	static const uint8_t d_sense[4 + 12] = {[4] = 0x0a, 0x0a, 0x26, 0x10, 0,    0,
						0,          0,    0xff, 0xff, 0x00, 0x01};
	struct fx_task *ft =
		fx_task_new(&b, (const uint8_t[]){0x15, 0x10, 0, 0, sizeof(d_sense), 0}, 6);

	ft->moves = FX_HOLD;
	fx_expect_out(ft, sizeof(d_sense));
	memcpy(ft->data, d_sense, sizeof(d_sense));
	fx_submit(&fx, ft);
	good(reserve_6(&a));
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	conflict(ft);
	good(tur(&a));
}

/* ---- Fields ---- */

static void third_parties_and_extents_are_refused(void **state)
{
	struct fx_task *ft;

	for (uint8_t op = 0x16; op <= 0x17; op++) {
		ft = FX_CMD(&a, 0, op, 0x10, 0, 0, 0, 0);
		fx_bad_field(ft, 1, 4);
		fx_task_free(ft);
		ft = FX_CMD(&a, 0, op, 0x01, 0, 0, 0, 0);
		fx_bad_field(ft, 1, 0);
		fx_task_free(ft);
	}
	for (uint8_t op = 0x56; op <= 0x57; op++) {
		ft = FX_CMD(&a, 0, op, 0x12, 0, 7, 0, 0, 0, 0, 8, 0);
		fx_bad_field(ft, 1, 4);
		fx_task_free(ft);
		ft = FX_CMD(&a, 0, op, 0, 0, 0, 0, 0, 0, 0, 8, 0);
		fx_bad_field(ft, 8, 3);
		fx_task_free(ft);
	}
	good(tur(&b));
}

static void prevent_and_allow(void **state)
{
	struct fx_task *ft;

	good(FX_CMD(&a, 0, 0x1e, 0, 0, 0, 0x01, 0));
	good(FX_CMD(&a, 0, 0x1e, 0, 0, 0, 0x00, 0));
	for (uint8_t prevent = 2; prevent < 4; prevent++) {
		ft = FX_CMD(&a, 0, 0x1e, 0, 0, 0, prevent, 0);
		fx_bad_field(ft, 4, 1);
		fx_task_free(ft);
	}
}

/* ---- Two at once, and a holder that is lost ---- */

/* All in one turn: none has an answer when the last one asks. */
static void run_eight(void *arg)
{
	struct fx_task **ft = arg;

	for (unsigned i = 0; i < 8; i++)
		scsi_task_run(&ft[i]->t);
}

static void only_one_of_many_gets_it(void **state)
{
	struct fx_nexus all[8];
	struct fx_task *ft[8];
	unsigned n = 0;

	for (unsigned i = 0; i < 8; i++) {
		fx_open(&fx, &all[i]);
		fx_take_power_on(&all[i], 0);
	}
	for (unsigned i = 0; i < 8; i++)
		ft[i] = fx_task_new(&all[i], (const uint8_t[6]){0x16}, 6);
	fx_call(&fx, run_eight, ft);
	for (unsigned i = 0; i < 8; i++) {
		fx_finish_wait(ft[i]);
		n += ft[i]->t.status == SCSI_GOOD;
		assert_true(ft[i]->t.status == SCSI_GOOD ||
			    ft[i]->t.status == SCSI_RESERVATION_CONFLICT);
		fx_task_free(ft[i]);
	}
	assert_int_equal(n, 1);
	conflict(tur(&a));
	for (unsigned i = 0; i < 8; i++)
		fx_close(&all[i]);
	good(tur(&a));
}

static void a_lost_nexus_holds_nothing(void **state)
{
	good(reserve_6(&a));
	conflict(tur(&b));
	fx_close(&a);
	good(tur(&b));
	good(reserve_6(&b));
	fx_open(&fx, &a);
	conflict(tur(&a));
	good(release_6(&b));
	fx_take_power_on(&a, 0);
}

/* Its write is still in the store: until it is out of there the disk is not given to another. */
static void not_before_its_last_write_is_through(void **state)
{
	struct fx_task *ft = fx_rw(&a, 0x8a, 0, 1);

	good(reserve_6(&a));
	fx_expect_out(ft, 512);
	fx_run(&fx, ft);
	fx_good(ft);
	fx_task_free(ft);
	ft = fx_rw(&a, 0x8a, 0, 1);
	fx_expect_out(ft, 512);
	fx_submit(&fx, ft);
	fx_settle(&fx);
	assert_false(ft->finished);
	fx_call(&fx, fx_close_run, &a);
	fx_settle(&fx);
	assert_false(a.closed);
	conflict(tur(&b));
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
	fx_wait(&a.sem);
	assert_true(a.closed);
	good(tur(&b));
	fx_open(&fx, &a);
}

/* Sent before its nexus knew that the reservation was another's by now. */
static void a_late_release_ends_nothing_of_others(void **state)
{
	struct unit_op op = {.nexus_id = a.nexus.id};
	struct unit_view view = {.holder = b.nexus.id};

	assert_int_equal(reserve_edit_release(&op, &view), 0);
	assert_int_equal(view.holder, b.nexus.id);
	view.holder = a.nexus.id;
	assert_int_equal(reserve_edit_release(&op, &view), 0);
	assert_int_equal(view.holder, 0);
}

static void out_of_memory_that_was_put_aside(void **state)
{
	assert_null(a.nexus.luns[0]->spare);
	good(reserve_6(&a));
	assert_non_null(a.nexus.luns[0]->spare);
	good(release_6(&a));
	good(reserve_6(&a));
	fx_close(&a);
	good(tur(&b));
	fx_open(&fx, &a);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, up_plain, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(only_the_holder_gets_in),
		TEST(both_sizes_are_one_reservation),
		TEST(its_holder_may_reserve_again),
		TEST(nobody_else_can_end_it),
		TEST(a_release_without_a_reservation),
		TEST(no_unit_attention_tells_of_it),
		TEST(what_it_keeps_others_from),
		TEST(a_write_that_waited_meanwhile),
		TEST(a_change_that_waited_meanwhile),
		TEST(third_parties_and_extents_are_refused),
		TEST(prevent_and_allow),
		TEST(only_one_of_many_gets_it),
		TEST(a_lost_nexus_holds_nothing),
		cmocka_unit_test_setup_teardown(not_before_its_last_write_is_through, up, down),
		TEST(a_late_release_ends_nothing_of_others),
		TEST(out_of_memory_that_was_put_aside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
