/*
 * Task management: what is aborted wherever it waits, when the answer comes, what can be asked, and who hears
 * of it. What a reset sets back is in scsi_tmf_reset.c.
 */
#include "scsi_tmf_fixture.h"

static void aborted_status(struct fx_task *ft)
{
	fx_finish_wait(ft);
	assert_false(ft->aborted);
	assert_int_equal(ft->t.status, SCSI_TASK_ABORTED);
	assert_int_equal(ft->t.sense_len, 0);
	fx_task_free(ft);
}

static void good(struct fx_task *ft)
{
	fx_finish_wait(ft);
	was_good(ft);
}

/* ---- Where a victim can wait: `before` makes it wait, `after` lets the rest go on ---- */

static struct fx_task *blocker;
static struct unit_op quiesce;

static struct fx_task *in_store(struct fx_nexus *n)
{
	return read_at(n, 0, 7);
}

static struct fx_task *at_barrier(struct fx_nexus *n)
{
	struct fx_task *ft = fx_rw(n, 0x28, 9, 1);

	blocker = read_at(n, 0, 6);
	ft->t.attr = SCSI_ORDERED;
	fx_expect_in(ft, 512);
	return submit(n, ft, 7);
}

static struct fx_task *in_data_out(struct fx_nexus *n)
{
	struct fx_task *ft = fx_rw(n, 0x2a, 9, 1);

	fx_expect_out(ft, 512);
	ft->moves = FX_HOLD;
	return submit(n, ft, 7);
}

static struct fx_task *in_data_in(struct fx_nexus *n)
{
	struct fx_task *ft = fx_rw(n, 0x28, 600, 2000);

	fx_expect_in(ft, 2000 * 512);
	ft->moves = FX_HOLD;
	return submit(n, ft, 7);
}

static struct fx_task *caw(struct fx_nexus *n, uint64_t tag)
{
	struct fx_task *ft = fx_rw(n, 0x89, 0, 0);

	ft->t.cdb[13] = 1;
	fx_expect_out(ft, 1024);
	return submit(n, ft, tag);
}

static struct fx_task *at_lock(struct fx_nexus *n)
{
	blocker = caw(n, 6);
	return caw(n, 7);
}

static void nothing_yet(struct unit_op *op)
{
}

static void reopened(struct unit_op *op, int err)
{
}

static void quiesce_run(void *arg)
{
	quiesce = (struct unit_op){
		.unit = fx.units[0], .loop = fx.loop, .act = nothing_yet, .done = reopened};
	unit_quiesce(&quiesce);
}

static void acted_run(void *arg)
{
	unit_op_acted(&quiesce, 0);
}

static struct fx_task *at_channel(struct fx_nexus *n)
{
	fx_call(&fx, quiesce_run, NULL);
	settle();
	return read_at(n, 9, 7);
}

static void reopen(void)
{
	fx_call(&fx, acted_run, NULL);
	settle();
}

static const struct park {
	const char *name;
	struct fx_task *(*before)(struct fx_nexus *n);
	bool hangs; /* until released */
	void (*after)(void);
} parks[] = {
	{"store", in_store, true, NULL},        {"barrier", at_barrier, false, NULL},
	{"data-out", in_data_out, false, NULL}, {"data-in", in_data_in, false, NULL},
	{"range lock", at_lock, false, NULL},   {"channel", at_channel, false, reopen},
};

static void free_blocker(void)
{
	if (blocker == NULL)
		return;
	fx_finish_wait(blocker);
	fx_task_free(blocker);
	blocker = NULL;
}

static void task_is_aborted_where_it_waits(const struct park *p, struct fx_nexus *n)
{
	struct fx_task *ft = p->before(n);
	struct tmf f;

	assert_false(ft->finished);
	begin(&f, n, SCSI_ABORT_TASK, 7);
	assert_int_equal(f.done, !p->hangs);
	assert_int_equal(ft->finished, !p->hangs);
	if (blocker != NULL)
		assert_false(blocker->finished);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(ft);
	if (p->after != NULL)
		p->after();
	release();
	free_blocker();
	tur_good(n);
}

static void abort_task_in_every_park(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(parks); i++) {
		print_message("%s\n", parks[i].name);
		task_is_aborted_where_it_waits(&parks[i], &a);
		task_is_aborted_where_it_waits(&parks[i], &far);
	}
}

/* The victim is another nexus's, on another loop; the function waits for it, and tells all. */
static void reset_in_every_park(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(parks); i++) {
		struct fx_task *ft = parks[i].before(&far);
		struct tmf f;

		print_message("%s\n", parks[i].name);
		begin(&f, &a, SCSI_LU_RESET, 0);
		/* A reset waits for what blocks the victim too, and for the PUBLISH behind a QUIESCE. */
		assert_int_equal(ft->finished, !parks[i].hangs);
		assert_int_equal(f.done,
				 !parks[i].hangs && blocker == NULL && parks[i].after == NULL);
		release();
		if (parks[i].after != NULL)
			parks[i].after();
		release();
		end(&f, SCSI_TMF_COMPLETE);
		silent(ft);
		free_blocker();
		was_reset(&a);
		was_reset(&b);
		was_reset(&far);
	}
}

/* The nexus that asked is lost; the victim's is not, and it hangs on. */
static void lost_nexus_waits_for_nobody(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(parks); i++) {
		struct fx_task *ft;
		struct fx_nexus c;
		struct tmf f;

		if (parks[i].after != NULL)
			continue; /* the end of the nexus waits for the PUBLISH, that for the QUIESCE */
		print_message("%s\n", parks[i].name);
		fx_open(&fx2, &c);
		ft = parks[i].before(&a);
		begin(&f, &c, SCSI_LU_RESET, 0);
		fx_close(&c);
		fx_wait(&f.sem);
		sem_destroy(&f.sem);
		assert_int_equal(ft->finished, !parks[i].hangs);
		release();
		release();
		silent(ft);
		free_blocker();
		was_reset(&a);
		was_reset(&b);
		was_reset(&far);
	}
}

/* ---- Whose tasks ---- */

static void abort_task_is_about_one_task_of_the_nexus(void **state)
{
	struct fx_task *first = read_at(&a, 0, 1), *second = read_at(&a, 0, 2),
		       *others = read_at(&b, 0, 1), *fars = read_at(&far, 0, 1);

	struct tmf f;

	begin(&f, &a, SCSI_ABORT_TASK, 1);
	assert_false(f.done);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(first);
	good(second);
	good(others);
	good(fars);
	tur_good(&b);
}

static void abort_task_set_is_about_the_nexus(void **state)
{
	struct fx_task *first = read_at(&a, 0, 1), *second = read_at(&a, 0, 2),
		       *others = read_at(&b, 0, 1), *fars = read_at(&far, 0, 1);
	struct tmf f;

	begin(&f, &a, SCSI_ABORT_TASK_SET, 0);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(first);
	silent(second);
	good(others);
	good(fars);
	tur_good(&a);
	tur_good(&b);
}

struct both {
	struct tmf *f;
	struct fx_task *later;
};

static void tmf_then_task(void *arg)
{
	const struct both *both = arg;

	scsi_tmf_run(&both->f->t);
	scsi_task_run(&both->later->t);
}

/* They come in one turn, before the ABORT has reached the loop. */
static void later_tasks_are_no_victims(void **state)
{
	static const enum scsi_tmf_function all[] = {SCSI_ABORT_TASK, SCSI_ABORT_TASK_SET,
						     SCSI_LU_RESET, SCSI_TARGET_RESET};

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		struct tmf f = {
			.t = {.nexus = &far.nexus, .function = all[i], .tag = 5, .done = tmf_done}};
		struct both both = {&f, fx_rw(&far, 0x2a, 9, 1)};

		sem_init(&f.sem, 0, 0);
		both.later->t.tag = 5;
		fx_expect_out(both.later, 512);
		both.later->moves = FX_HOLD; /* it is still there when the ABORT comes */
		fx_call(&fx2, tmf_then_task, &both);
		end(&f, SCSI_TMF_COMPLETE);
		settle();
		assert_int_equal(both.later->nheld, 1);
		fx_release(&fx2, both.later);
		if (all[i] == SCSI_ABORT_TASK || all[i] == SCSI_ABORT_TASK_SET) {
			good(both.later);
			continue;
		}
		/* It lives, and has not written yet: it hears of the reset. */
		fx_finish_wait(both.later);
		fx_sense(both.later, 0x6, 0x29, all[i] == SCSI_NEXUS_RESET ? 0x07 : 0x03);
		fx_task_free(both.later);
		tur_good(&far);
	}
	was_reset(&a);
}

static void second_function_waits_as_well(void **state)
{
	struct fx_task *ft = read_at(&a, 0, 1);
	struct tmf first, second, reset;

	begin(&first, &a, SCSI_ABORT_TASK, 1);
	begin(&second, &a, SCSI_ABORT_TASK, 1);
	begin(&reset, &far, SCSI_LU_RESET, 0);
	assert_false(first.done || second.done || reset.done);
	release();
	end(&first, SCSI_TMF_COMPLETE);
	end(&second, SCSI_TMF_COMPLETE);
	end(&reset, SCSI_TMF_COMPLETE);
	silent(ft);
	was_reset(&a);
}

static void there_may_be_no_logical_unit(void **state)
{
	struct tmf f;

	f = (struct tmf){.t = {.nexus = &a.nexus,
			       .function = SCSI_LU_RESET,
			       .lun = {0, 1},
			       .done = tmf_done}};
	sem_init(&f.sem, 0, 0);
	fx_call(&fx, tmf_run, &f);
	end(&f, SCSI_TMF_NO_LU);
	tur_good(&a);
}

static void target_reset_is_of_every_lu(void **state)
{
	struct fx_task *ft = read_at(&b, 0, 1);
	struct tmf f;

	begin(&f, &a, SCSI_TARGET_RESET, 0);
	assert_false(f.done);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(ft);
	was_reset(&a);
	was_reset(&b);
	was_reset(&far);
}

/* ---- The reset of a nexus ---- */

/* It waits for its own, and is told to itself alone. */
static void nexus_reset_in_every_park(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(parks); i++) {
		struct fx_task *ft = parks[i].before(&far);
		struct tmf f;

		print_message("%s\n", parks[i].name);
		begin(&f, &far, SCSI_NEXUS_RESET, 0);
		assert_int_equal(ft->finished, !parks[i].hangs);
		release();
		if (parks[i].after != NULL)
			parks[i].after();
		release();
		end(&f, SCSI_TMF_COMPLETE);
		silent(ft);
		free_blocker();
		was_told(&far, 0x29, 0x07);
		tur_good(&far);
		tur_good(&a);
		tur_good(&b);
	}
}

static void nexus_reset_leaves_others_alone(void **state)
{
	struct fx_task *own = read_at(&a, 0, 1), *others = read_at(&b, 0, 1),
		       *fars = read_at(&far, 0, 1);
	struct tmf f;

	begin(&f, &a, SCSI_NEXUS_RESET, 0);
	/* However long its own hangs, the nexus is told. */
	was_told(&a, 0x29, 0x07);
	assert_false(f.done);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(own);
	good(others);
	good(fars);
	tur_good(&a);
	tur_good(&b);
}

/* ---- What can be asked ---- */

static void query(struct fx_nexus *n, enum scsi_tmf_function function, uint64_t tag, bool yes)
{
	struct tmf f;

	begin(&f, n, function, tag);
	end(&f, yes ? SCSI_TMF_SUCCEEDED : SCSI_TMF_COMPLETE);
	assert_memory_equal(f.t.event, ((uint8_t[3]){0}), 3);
}

/* Its answer waits for nothing, and it changes nothing. */
static void query_task_in_every_park(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(parks); i++) {
		struct fx_task *ft = parks[i].before(&far);

		print_message("%s\n", parks[i].name);
		query(&far, SCSI_QUERY_TASK, 7, true);
		query(&far, SCSI_QUERY_TASK, 8, false);
		query(&far, SCSI_QUERY_TASK_SET, 0, true);
		query(&a, SCSI_QUERY_TASK, 7, false);
		query(&a, SCSI_QUERY_TASK_SET, 0, false);
		assert_false(ft->finished || ft->ncancelled != 0);
		release();
		run(&far, SCSI_ABORT_TASK, 7);
		if (parks[i].after != NULL)
			parks[i].after();
		release();
		fx_finish_wait(ft);
		fx_task_free(ft);
		free_blocker();
		query(&far, SCSI_QUERY_TASK, 7, false);
		query(&far, SCSI_QUERY_TASK_SET, 0, false);
	}
}

static void query_where_there_is_no_logical_unit(void **state)
{
	static const enum scsi_tmf_function all[] = {SCSI_QUERY_TASK, SCSI_QUERY_TASK_SET,
						     SCSI_QUERY_EVENT};

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		struct tmf f = {.t = {.nexus = &a.nexus,
				      .function = all[i],
				      .lun = {0, 1},
				      .done = tmf_done}};

		sem_init(&f.sem, 0, 0);
		fx_call(&fx, tmf_run, &f);
		end(&f, SCSI_TMF_NO_LU);
	}
}

static void event_is(struct fx_nexus *n, uint8_t first, uint8_t asc, uint8_t ascq)
{
	const uint8_t want[3] = {first, asc, ascq};
	struct tmf f;

	begin(&f, n, SCSI_QUERY_EVENT, 0);
	end(&f, first != 0 ? SCSI_TMF_SUCCEEDED : SCSI_TMF_COMPLETE);
	assert_memory_equal(f.t.event, want, 3);
}

/* In their order of precedence, and none is taken. */
static void query_event_shows_the_next_unit_attention(void **state)
{
	event_is(&far, 0, 0, 0);
	set_tas(&a);
	event_is(&a, 0, 0, 0);
	event_is(&far, 0x16, 0x2a, 0x01);
	run(&a, SCSI_LU_RESET, 0);
	run(&far, SCSI_NEXUS_RESET, 0);
	event_is(&far, 0x26, 0x29, 0x03);
	event_is(&far, 0x26, 0x29, 0x03);
	was_told(&far, 0x29, 0x03);
	event_is(&far, 0x26, 0x29, 0x07);
	was_told(&far, 0x29, 0x07);
	event_is(&far, 0x16, 0x2a, 0x01);
	take_mode_changed(&far);
	event_is(&far, 0, 0, 0);
	tur_good(&far);
}

/* ---- TAS: who is told ---- */

static void others_are_told_where_tas_is_set(void **state)
{
	struct fx_task *own, *others, *fars, *held;
	struct tmf f;

	set_tas(&a);
	take_mode_changed(&b);
	take_mode_changed(&far);
	own = read_at(&a, 0, 1);
	others = read_at(&b, 0, 1);
	fars = read_at(&far, 0, 1);
	held = in_data_out(&far);
	begin(&f, &a, SCSI_LU_RESET, 0);
	aborted_status(held);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	silent(own);
	aborted_status(others);
	aborted_status(fars);
	was_reset(&b);
}

/* Nor is a nexus that ends its own tasks. */
static void own_tasks_are_silent_with_tas(void **state)
{
	struct fx_task *ft;

	set_tas(&a);
	take_mode_changed(&far);
	ft = in_data_out(&far);
	run(&far, SCSI_ABORT_TASK_SET, 0);
	silent(ft);
	ft = in_data_out(&far);
	run(&far, SCSI_LU_RESET, 0);
	silent(ft);
	was_reset(&far);
}

struct lun {
	struct scsi_lun_op op;
	sem_t sem;
};

static void lun_changed(struct scsi_lun_op *op, int err)
{
	sem_post(&container_of(op, struct lun, op)->sem);
}

static void lun_run(void *arg)
{
	struct lun *l = arg;

	l->op = (struct scsi_lun_op){
		.target = fx.target, .lun = 0, .loop = fx.loop, .done = lun_changed};
	scsi_target_change_lun(&l->op);
}

/* The victim is of a nexus that follows at once; who asked stays until the answer. */
static void lun_goes_under_a_function(void **state)
{
	struct fx_task *slow = read_at(&a, 0, 1);
	struct lun l;
	struct tmf f;

	begin(&f, &far, SCSI_LU_RESET, 0);
	sem_init(&l.sem, 0, 0);
	fx_call(&fx, lun_run, &l);
	settle();
	assert_false(f.done);
	release();
	end(&f, SCSI_TMF_COMPLETE);
	fx_wait(&l.sem);
	sem_destroy(&l.sem);
	fx_finish_wait(slow);
	fx_task_free(slow);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(abort_task_in_every_park),
		TEST(reset_in_every_park),
		TEST(lost_nexus_waits_for_nobody),
		TEST(abort_task_is_about_one_task_of_the_nexus),
		TEST(abort_task_set_is_about_the_nexus),
		TEST(later_tasks_are_no_victims),
		TEST(second_function_waits_as_well),
		TEST(there_may_be_no_logical_unit),
		TEST(target_reset_is_of_every_lu),
		TEST(others_are_told_where_tas_is_set),
		TEST(own_tasks_are_silent_with_tas),
		TEST(nexus_reset_in_every_park),
		TEST(nexus_reset_leaves_others_alone),
		TEST(query_task_in_every_park),
		TEST(query_where_there_is_no_logical_unit),
		TEST(query_event_shows_the_next_unit_attention),
		TEST(lun_goes_under_a_function),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
