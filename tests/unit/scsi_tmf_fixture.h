/*
 * Two nexuses on one loop and one on another, functions that they ask for, and what became of their tasks.
 * Included by one file a program.
 */
#ifndef SPINDLE_TEST_SCSI_TMF_FIXTURE_H
#define SPINDLE_TEST_SCSI_TMF_FIXTURE_H

#define FX_LOOPS 2
#include "scsi_fixture.h"

static struct fx fx, fx2; /* the same world, by loop 0 and by loop 1 */
static struct fx_nexus a, b, far;

/* Block 0 hangs. */
#define HANGS "fault:rule=any@0-512;hang:ram:16M"

static int up_on(const char *spec)
{
	fx_up(&fx, spec, 512);
	fx2 = fx;
	fx2.loop = loop_set_at(fx.set, 1);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	fx_open(&fx2, &far);
	fx_take_power_on(&a, 0);
	fx_take_power_on(&b, 0);
	fx_take_power_on(&far, 0);
	return 0;
}

static int up(void **state)
{
	return up_on(HANGS);
}

static void settle(void)
{
	for (unsigned i = 0; i < 4; i++) {
		fx_settle(&fx);
		fx_settle(&fx2);
	}
}

static void release(void)
{
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	settle();
}

static int down(void **state)
{
	release();
	fx_close(&a);
	fx_close(&b);
	fx_close(&far);
	fx_down(&fx);
	return 0;
}

/* ---- Functions ---- */

struct tmf {
	struct scsi_tmf t;
	sem_t sem;
	bool done;
	enum scsi_tmf_response response;
};

static void tmf_done(struct scsi_tmf *t, enum scsi_tmf_response response)
{
	struct tmf *f = container_of(t, struct tmf, t);

	f->done = true;
	f->response = response;
	sem_post(&f->sem);
}

static void tmf_run(void *arg)
{
	scsi_tmf_run(&((struct tmf *)arg)->t);
}

static void begin(struct tmf *f, struct fx_nexus *n, enum scsi_tmf_function function, uint64_t tag)
{
	*f = (struct tmf){
		.t = {.nexus = &n->nexus, .function = function, .tag = tag, .done = tmf_done}};
	sem_init(&f->sem, 0, 0);
	fx_call(n->fx, tmf_run, f);
	settle();
}

static void end(struct tmf *f, enum scsi_tmf_response response)
{
	fx_wait(&f->sem);
	assert_true(f->done);
	assert_int_equal(f->response, response);
	sem_destroy(&f->sem);
}

static void run(struct fx_nexus *n, enum scsi_tmf_function function, uint64_t tag)
{
	struct tmf f;

	begin(&f, n, function, tag);
	end(&f, SCSI_TMF_COMPLETE);
}

/* ---- Tasks ---- */

static struct fx_task *submit(struct fx_nexus *n, struct fx_task *ft, uint64_t tag)
{
	ft->t.tag = tag;
	fx_submit(n->fx, ft);
	settle();
	return ft;
}

static struct fx_task *read_at(struct fx_nexus *n, uint64_t lba, uint64_t tag)
{
	struct fx_task *ft = fx_rw(n, 0x28, lba, 1);

	fx_expect_in(ft, 512);
	return submit(n, ft, tag);
}

static void silent(struct fx_task *ft)
{
	fx_finish_wait(ft);
	assert_true(ft->aborted);
	fx_task_free(ft);
}

/* It was waited for. */
static void was_good(struct fx_task *ft)
{
	fx_good(ft);
	fx_task_free(ft);
}

static void tur_good(struct fx_nexus *n)
{
	was_good(FX_CMD(n, 0, 0, 0, 0, 0, 0, 0));
}

static void was_told(struct fx_nexus *n, uint8_t asc, uint8_t ascq)
{
	struct fx_task *ft = FX_CMD(n, 0, 0, 0, 0, 0, 0, 0);

	fx_sense(ft, 0x6, asc, ascq);
	fx_task_free(ft);
}

/* One unit attention, and no second one. */
static void was_reset(struct fx_nexus *n)
{
	was_told(n, 0x29, 0x03);
	tur_good(n);
}

/* ---- Mode parameters ---- */

/* The TAS bit of the control mode page. */
static void set_tas(struct fx_nexus *n)
{
	struct fx_task *sense = FX_CMD(n, 255, 0x1a, 8, 0x0a, 0, 255, 0),
		       *ft = fx_task_new(n, (const uint8_t[]){0x15, 0x10, 0, 0, 16, 0}, 6);

	fx_expect_out(ft, 16);
	memcpy(ft->data + 4, sense->data + 4, 12);
	ft->data[4] &= 0x3f;
	ft->data[4 + 5] |= 0x40;
	fx_task_free(sense);
	fx_run(n->fx, ft);
	was_good(ft);
}

static void take_mode_changed(struct fx_nexus *n)
{
	was_told(n, 0x2a, 0x01);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, up, down)

#endif
