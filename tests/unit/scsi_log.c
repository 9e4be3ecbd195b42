/*
 * Log pages, byte by byte: what is counted, what LOG SELECT resets and who hears of it, and each way
 * to ask for what does not exist.
 */
#include "scsi_fixture.h"

#include <unistd.h>

static struct fx fx;
static struct fx_nexus a, b;

/* In memory; a disk that fails at 8 MiB; one that cannot be unmapped; a file. */
enum { ON_RAM, FAILING, FIXED, ON_FILE, NDISKS };

static char path[32];

static void make_file(void)
{
	int fd;

	strcpy(path, "scsi_log.XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 16 * MiB), 0);
	close(fd);
}

#define FAILING_LBA (8 * MiB / 512)

static int up(void **state)
{
	fx_init(&fx);
	fx_add_disk(&fx, "ram:16M", 512, false);
	fx_add_disk(&fx, "fault:rule=read@8M-9M;eio,rule=write@8M-9M;eio:ram:16M", 512, false);
	fx_add_disk(&fx, "null:16M", 512, false);
	make_file();
	fx_add_disk(&fx, path, 512, false);
	for (uint16_t lun = 0; lun < NDISKS; lun++)
		assert_int_equal(scsi_target_add_lun(fx.target, lun, fx.lus[lun]), 0);
	fx_start(&fx);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	for (uint8_t lun = 0; lun < NDISKS; lun++) {
		fx_take_power_on(&a, lun);
		fx_take_power_on(&b, lun);
	}
	return 0;
}

static int down(void **state)
{
	fx_close(&a);
	fx_close(&b);
	fx_down(&fx);
	unlink(path);
	return 0;
}

/* ---- Commands ---- */

enum { PC_THRESHOLD, PC_CUMULATIVE, PC_DEFAULT_THRESHOLD, PC_DEFAULT_CUMULATIVE };

struct sense_cdb {
	uint8_t pc, page, subpage;
	uint16_t first, len;
};

static struct fx_task *log_sense(uint8_t lun, struct sense_cdb c)
{
	uint8_t cdb[10] = {0x4d, 0, (uint8_t)(c.pc << 6 | c.page), c.subpage};
	struct fx_task *ft;

	store_be16(cdb + 5, c.first);
	store_be16(cdb + 7, c.len);
	ft = fx_task_new(&a, cdb, 10);
	ft->t.lun[1] = lun;
	fx_expect_in(ft, 4096);
	fx_run(&fx, ft);
	return ft;
}

/* The current values of a whole page. */
static struct fx_task *page(uint8_t lun, uint8_t code)
{
	return log_sense(lun, (struct sense_cdb){PC_CUMULATIVE, code, 0, 0, 4096});
}

static void expect_bytes(struct fx_task *ft, const void *bytes, size_t len)
{
	fx_good(ft);
	assert_int_equal(ft->moved, len);
	assert_memory_equal(ft->data, bytes, len);
	fx_task_free(ft);
}

static void expect_bad_cdb(struct fx_task *ft, unsigned byte, unsigned bit)
{
	fx_bad_field(ft, byte, bit);
	assert_int_equal(ft->moved, 0);
	fx_task_free(ft);
}

static struct fx_task *log_select(uint8_t lun, uint8_t byte_1, uint8_t byte_2, uint8_t byte_3,
				  const uint8_t *list, uint16_t len, uint16_t brought)
{
	uint8_t cdb[10] = {0x4c, byte_1, byte_2, byte_3};
	struct fx_task *ft;

	store_be16(cdb + 7, len);
	ft = fx_task_new(&a, cdb, 10);
	ft->t.lun[1] = lun;
	if (brought != 0)
		fx_expect_out(ft, brought);
	memcpy(ft->data, list, len);
	fx_run(&fx, ft);
	return ft;
}

enum { PCR = 0x02 };

static struct fx_task *reset(uint8_t lun, uint8_t flags, uint8_t pc, uint8_t code, uint8_t subpage)
{
	return log_select(lun, flags, (uint8_t)(pc << 6 | code), subpage, (const uint8_t *)"", 0,
			  0);
}

static void expect_good(struct fx_task *ft)
{
	fx_good(ft);
	fx_task_free(ft);
}

static void expect_ready(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = fx_task_new(n, (const uint8_t[6]){0}, 6);

	ft->t.lun[1] = lun;
	fx_run(&fx, ft);
	expect_good(ft);
}

static void expect_told(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = fx_task_new(n, (const uint8_t[6]){0}, 6);

	ft->t.lun[1] = lun;
	fx_run(&fx, ft);
	fx_sense(ft, 0x6, 0x2a, 0x02);
	fx_task_free(ft);
	expect_ready(n, lun);
}

/* READ(10), WRITE(10), VERIFY(10) and WRITE AND VERIFY(10). */
enum { READ = 0x28, WRITE = 0x2a, VERIFY = 0x2f, WRITE_AND_VERIFY = 0x2e };

static void run(uint8_t lun, uint8_t opcode, uint32_t lba, uint32_t nblocks,
		enum scsi_status status)
{
	struct fx_task *ft = fx_rw(&a, opcode, lba, nblocks);

	ft->t.lun[1] = lun;
	if (opcode == READ)
		fx_expect_in(ft, nblocks * 512);
	else if (opcode != VERIFY)
		fx_expect_out(ft, nblocks * 512);
	fx_run(&fx, ft);
	assert_int_equal(ft->t.status, status);
	fx_task_free(ft);
}

/* ---- What there is ---- */

static void supported_pages(void **state)
{
	static const uint8_t codes[] = {0x00, 0, 0, 8, 0x00, 0x02, 0x03, 0x05, 0x10, 0x19, 0x2f};
	static const uint8_t both[] = {0x40, 0xff, 0,    16, 0x00, 0, 0x00, 0xff, 0x02, 0,
				       0x03, 0,    0x05, 0,  0x10, 0, 0x19, 0,    0x2f, 0};
	uint8_t want[sizeof(codes)];

	memcpy(want, codes, sizeof(codes));
	want[3] = 7;
	for (unsigned pc = 0; pc < 4; pc++) {
		expect_bytes(log_sense(FIXED, (struct sense_cdb){(uint8_t)pc, 0, 0, 0, 255}), want,
			     sizeof(want));
		expect_bytes(log_sense(FIXED, (struct sense_cdb){(uint8_t)pc, 0, 0xff, 0, 255}),
			     both, sizeof(both));
	}
}

static bool is_listed(struct fx_task *list, unsigned code, unsigned subpage)
{
	for (unsigned i = 0; i < load_be16(list->data + 2); i += 2) {
		if (list->data[4 + i] == code && list->data[5 + i] == subpage)
			return true;
	}
	return false;
}

static void each_listed_page_exists_and_no_other(void **state)
{
	static const uint8_t subpages[] = {0x00, 0x01, 0x80, 0xff};

	for (uint8_t lun = 0; lun < NDISKS; lun++) {
		struct fx_task *list =
			log_sense(lun, (struct sense_cdb){PC_CUMULATIVE, 0, 0xff, 0, 255});

		fx_good(list);
		for (unsigned i = 0; i < 64 * sizeof(subpages); i++) {
			const unsigned code = i / sizeof(subpages);
			const unsigned subpage = subpages[i % sizeof(subpages)];
			struct fx_task *ft =
				log_sense(lun, (struct sense_cdb){PC_CUMULATIVE, (uint8_t)code,
								  (uint8_t)subpage, 0, 4096});

			if (is_listed(list, code, subpage)) {
				fx_good(ft);
				assert_int_equal(ft->moved, load_be16(ft->data + 2) + 4);
				assert_int_equal(ft->data[0] & 0x3f, code);
				assert_int_equal(ft->data[0] & 0x40, subpage != 0 ? 0x40 : 0);
				assert_int_equal(ft->data[1], subpage);
			} else if (is_listed(list, code, 0)) {
				fx_bad_field(ft, 3, 7);
			} else {
				fx_bad_field(ft, 2, 5);
			}
			fx_task_free(ft);
		}
		fx_task_free(list);
	}
}

static void page_controls(void **state)
{
	static const uint8_t counters[] = {0x02, 0x03, 0x05, 0x19}, lists[] = {0x10, 0x2f};

	for (size_t i = 0; i < sizeof(counters); i++) {
		expect_bad_cdb(
			log_sense(ON_RAM, (struct sense_cdb){PC_THRESHOLD, counters[i], 0, 0, 255}),
			2, 7);
		expect_bad_cdb(log_sense(ON_RAM, (struct sense_cdb){PC_DEFAULT_THRESHOLD,
								    counters[i], 0, 0, 255}),
			       2, 7);
		expect_good(log_sense(
			ON_RAM, (struct sense_cdb){PC_DEFAULT_CUMULATIVE, counters[i], 0, 0, 255}));
	}
	for (uint8_t pc = 0; pc < 4; pc++) {
		for (size_t i = 0; i < sizeof(lists); i++)
			expect_good(log_sense(ON_RAM, (struct sense_cdb){pc, lists[i], 0, 0, 255}));
	}
	/* PPC and SP do not exist. */
	expect_bad_cdb(FX_CMD(&a, 255, 0x4d, 0x02, 0x42, 0, 0, 0, 0, 0, 255, 0), 1, 1);
	expect_bad_cdb(FX_CMD(&a, 255, 0x4d, 0x01, 0x42, 0, 0, 0, 0, 0, 255, 0), 1, 0);
}

/* ---- The parameters ---- */

/* A page of error counters. */
static void expect_errors(uint8_t lun, uint8_t code, uint64_t bytes, uint64_t errors)
{
	uint8_t want[4 + 7 * 12] = {(uint8_t)(0x80 | code), 0, 0, 7 * 12};

	for (unsigned i = 0; i < 7; i++) {
		uint8_t *p = want + 4 + i * 12;

		p[1] = (uint8_t)i;
		p[2] = 0x22;
		p[3] = 8;
		store_be64(p + 4, i == 5 ? bytes : i == 6 ? errors : 0);
	}
	expect_bytes(page(lun, code), want, sizeof(want));
}

static void errors_and_bytes(void **state)
{
	run(FAILING, WRITE, 0, 16, SCSI_GOOD);
	run(FAILING, READ, 0, 8, SCSI_GOOD);
	run(FAILING, READ, 100, 4, SCSI_GOOD);
	expect_errors(FAILING, 0x02, UINT64_C(16) * 512, 0);
	expect_errors(FAILING, 0x03, UINT64_C(12) * 512, 0);
	expect_errors(FAILING, 0x05, 0, 0);
	run(FAILING, WRITE, FAILING_LBA, 1, SCSI_CHECK_CONDITION);
	expect_errors(FAILING, 0x02, UINT64_C(16) * 512, 1);
	expect_errors(FAILING, 0x03, UINT64_C(12) * 512, 0);
}

/* What is read to be verified is in no other page. */
static void verifications(void **state)
{
	run(FAILING, WRITE, 0, 16, SCSI_GOOD);
	run(FAILING, VERIFY, 0, 64, SCSI_GOOD);
	run(FAILING, WRITE_AND_VERIFY, 64, 2, SCSI_GOOD);
	expect_errors(FAILING, 0x05, UINT64_C(66) * 512, 0);
	expect_errors(FAILING, 0x03, 0, 0);
	expect_errors(FAILING, 0x02, UINT64_C(18) * 512, 0);
	run(FAILING, VERIFY, FAILING_LBA, 1, SCSI_CHECK_CONDITION);
	expect_errors(FAILING, 0x05, UINT64_C(66) * 512, 1);
	expect_errors(FAILING, 0x03, 0, 0);
}

static uint64_t errors_told(uint8_t code)
{
	struct fx_task *ft = page(FAILING, code);
	const uint64_t n = load_be64(ft->data + 4 + 6 * 12 + 4);

	fx_task_free(ft);
	return n;
}

/* One, although the block that failed is looked for by many more reads and writes. */
static void a_failure_is_counted_once(void **state)
{
	run(FAILING, READ, FAILING_LBA - 5, 64, SCSI_CHECK_CONDITION);
	assert_int_equal(errors_told(0x03), 1);
	run(FAILING, WRITE, FAILING_LBA - 5, 64, SCSI_CHECK_CONDITION);
	assert_int_equal(errors_told(0x02), 1);
	run(FAILING, VERIFY, FAILING_LBA - 5, 64, SCSI_CHECK_CONDITION);
	assert_int_equal(errors_told(0x05), 1);
	run(FAILING, WRITE_AND_VERIFY, FAILING_LBA - 5, 64, SCSI_CHECK_CONDITION);
	assert_int_equal(errors_told(0x02), 2);
	assert_int_equal(errors_told(0x03), 1);
	assert_int_equal(errors_told(0x05), 1);
}

static void statistics(void **state)
{
	static const uint8_t interval[] = {0, 3, 0x23, 8, 0, 0, 0, 6, 0, 0, 0, 1};
	struct fx_task *ft;

	run(FAILING, WRITE, 0, 16, SCSI_GOOD);
	run(FAILING, WRITE, 0, 2048, SCSI_GOOD); /* of several segments */
	run(FAILING, READ, 0, 8, SCSI_GOOD);
	run(FAILING, VERIFY, 0, 8, SCSI_GOOD);
	run(FAILING, READ, 0, 0, SCSI_GOOD);
	ft = page(FAILING, 0x19);
	fx_good(ft);
	assert_int_equal(ft->moved, 4 + 68 + 12 + 12);
	assert_memory_equal(ft->data, "\x99\x00\x00\x5c\x00\x01\x22\x40", 8);
	assert_int_equal(load_be64(ft->data + 8), 2);             /* read commands */
	assert_int_equal(load_be64(ft->data + 16), 2);            /* write commands */
	assert_int_equal(load_be64(ft->data + 24), 2064);         /* blocks received */
	assert_int_equal(load_be64(ft->data + 32), 8);            /* and sent */
	assert_true(load_be64(ft->data + 40) < 60 * 1000 * 1000); /* microseconds */
	assert_true(load_be64(ft->data + 48) < 60 * 1000 * 1000);
	assert_int_equal(load_be64(ft->data + 56), 0);
	assert_int_equal(load_be64(ft->data + 64), 0);
	assert_memory_equal(ft->data + 72, "\x00\x02\x22\x08", 4);
	assert_memory_equal(ft->data + 84, interval, sizeof(interval));
	fx_task_free(ft);
	/* Default values are 0. */
	ft = log_sense(FAILING, (struct sense_cdb){PC_DEFAULT_CUMULATIVE, 0x19, 0, 0, 255});
	for (unsigned i = 8; i < 72; i++)
		assert_int_equal(ft->data[i], 0);
	assert_memory_equal(ft->data + 72, "\x00\x02\x22\x08", 4);
	assert_memory_equal(ft->data + 84, interval, sizeof(interval));
	fx_task_free(ft);
}

static uint64_t idle_us(void)
{
	struct fx_task *ft = log_sense(ON_RAM, (struct sense_cdb){PC_CUMULATIVE, 0x19, 0, 2, 255});
	uint64_t us;

	fx_good(ft);
	assert_memory_equal(ft->data + 4, "\x00\x02\x22\x08", 4);
	us = load_be64(ft->data + 8);
	fx_task_free(ft);
	return us;
}

/* While a command is held up the unit is not idle; it is without one. */
static void idle_time(void **state)
{
	struct fx_task *ft = fx_rw(&b, WRITE, 0, 1);
	uint64_t us = idle_us(), held;

	usleep(50 * 1000);
	assert_true(idle_us() >= us + 20 * 1000);
	fx_expect_out(ft, 512);
	ft->moves = FX_HOLD;
	fx_submit(&fx, ft);
	held = idle_us();
	usleep(50 * 1000);
	us = idle_us();
	assert_true(us >= held && us < held + 25 * 1000);
	fx_release(&fx, ft);
	fx_finish_wait(ft);
	fx_task_free(ft);
	us = idle_us();
	usleep(50 * 1000);
	assert_true(idle_us() >= us + 20 * 1000);
}

static void self_tests(void **state)
{
	uint8_t want[4 + 20 * 20] = {0x90, 0, 1, 0x90};
	struct fx_task *ft;

	for (unsigned i = 0; i < 20; i++) {
		want[4 + i * 20 + 1] = (uint8_t)(i + 1);
		want[4 + i * 20 + 2] = 0x23;
		want[4 + i * 20 + 3] = 16;
	}
	expect_bytes(page(ON_RAM, 0x10), want, sizeof(want));
	/* A short self-test in the foreground, which passes. */
	ft = FX_CMD(&a, 0, 0x1d, 0xa0, 0, 0, 0, 0);
	expect_good(ft);
	want[4 + 4] = 5 << 5;
	memset(want + 4 + 8, 0xff, 8);
	expect_bytes(page(ON_RAM, 0x10), want, sizeof(want));
}

static void informational_exceptions(void **state)
{
	static const uint8_t want[] = {0xaf, 0, 0, 8, 0, 0, 0x23, 4, 0, 0, 0xff, 0xff};

	expect_bytes(page(ON_RAM, 0x2f), want, sizeof(want));
}

static void watch_stopped(void *arg)
{
	sem_post(arg);
}

static void watch_stop(void *arg)
{
	unit_watch_stop(fx.units[ON_FILE], fx.loop, watch_stopped, arg);
}

/* Where the disk can be unmapped, and somebody has looked at how much of it is in use. */
static void space(void **state)
{
	const struct unit_watch_config config = {.interval_ns = 1000 * 1000};
	uint8_t want[4 + 12] = {0x8c, 0, 0, 12, 0, 2, 0x23, 8, 0, 0, 0, 0, 1};
	struct fx_task *ft;
	sem_t sem;

	if (!lu_can_unmap(fx.lus[ON_FILE]))
		skip();
	expect_bad_cdb(page(ON_FILE, 0x0c), 2, 5);
	run(ON_FILE, WRITE, 0, 1, SCSI_GOOD);
	assert_int_equal(unit_watch_start(fx.units[ON_FILE], &config), 0);
	while (unit_usage(fx.units[ON_FILE]).allocated == UINT64_MAX)
		fx_settle(&fx);
	sem_init(&sem, 0, 0);
	fx_call(&fx, watch_stop, &sem);
	fx_wait(&sem);
	sem_destroy(&sem);

	store_be32(want + 8, (uint32_t)(unit_usage(fx.units[ON_FILE]).allocated / 512));
	assert_int_not_equal(load_be32(want + 8), 0);
	ft = page(ON_FILE, 0x0c);
	if (unit_usage(fx.units[ON_FILE]).available == UINT64_MAX) {
		expect_bytes(ft, want, sizeof(want));
		return;
	}
	fx_good(ft);
	assert_int_equal(ft->moved, 4 + 24);
	assert_memory_equal(ft->data + 4, "\x00\x01\x23\x08", 4);
	assert_int_equal(ft->data[4 + 8], 2);
	assert_memory_equal(ft->data + 4 + 12, want + 4, 12);
	fx_task_free(ft);
	/* It is listed now. */
	ft = page(ON_FILE, 0x00);
	assert_non_null(memchr(ft->data + 4, 0x0c, ft->data[3]));
	fx_task_free(ft);
	expect_bad_cdb(page(FIXED, 0x0c), 2, 5);
}

/* ---- Pointers and lengths ---- */

/* Parameters from a code on; beyond the last one there is nothing. */
static void parameter_pointers(void **state)
{
	static const struct {
		uint8_t code;
		uint16_t last, param_len;
	} pages[] = {{0x02, 6, 12}, {0x05, 6, 12}, {0x10, 20, 20}};

	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		struct fx_task *all = page(ON_RAM, pages[i].code);

		for (uint16_t first = 1; first <= pages[i].last; first++) {
			struct fx_task *ft =
				log_sense(ON_RAM, (struct sense_cdb){PC_CUMULATIVE, pages[i].code,
								     0, first, 4096});
			const unsigned len = (pages[i].last - first + 1u) * pages[i].param_len;

			fx_good(ft);
			assert_int_equal(load_be16(ft->data + 2), len);
			assert_int_equal(ft->moved, 4 + len);
			assert_memory_equal(ft->data + 4, all->data + all->moved - len, len);
			fx_task_free(ft);
		}
		expect_bad_cdb(
			log_sense(ON_RAM, (struct sense_cdb){PC_CUMULATIVE, pages[i].code, 0,
							     (uint16_t)(pages[i].last + 1), 4096}),
			5, 7);
		fx_task_free(all);
	}
	expect_bad_cdb(log_sense(ON_RAM, (struct sense_cdb){PC_CUMULATIVE, 0, 0, 1, 255}), 5, 7);
	expect_bad_cdb(log_sense(ON_RAM, (struct sense_cdb){PC_CUMULATIVE, 0x2f, 0, 1, 255}), 5, 7);
}

static void allocation_lengths(void **state)
{
	struct fx_task *all = page(ON_RAM, 0x10);

	for (uint16_t len = 0; len <= 410; len++) {
		struct fx_task *ft =
			log_sense(ON_RAM, (struct sense_cdb){PC_CUMULATIVE, 0x10, 0, 0, len});
		const size_t want = len < all->moved ? len : all->moved;

		fx_good(ft);
		assert_int_equal(ft->moved, want);
		assert_memory_equal(ft->data, all->data, want);
		fx_task_free(ft);
	}
	fx_task_free(all);
}

/* ---- LOG SELECT ---- */

static void use_it(void)
{
	run(ON_RAM, WRITE, 0, 4, SCSI_GOOD);
	run(ON_RAM, READ, 0, 2, SCSI_GOOD);
	run(ON_RAM, VERIFY, 0, 3, SCSI_GOOD);
}

/* Bytes written, read, verified; commands of page 19h. */
static void expect_counted(uint64_t written, uint64_t read, uint64_t verified, uint64_t commands)
{
	struct fx_task *ft;

	expect_errors(ON_RAM, 0x02, written, 0);
	expect_errors(ON_RAM, 0x03, read, 0);
	expect_errors(ON_RAM, 0x05, verified, 0);
	ft = page(ON_RAM, 0x19);
	assert_int_equal(load_be64(ft->data + 8), commands);
	assert_int_equal(load_be64(ft->data + 16), commands);
	assert_int_equal(load_be64(ft->data + 24), commands * 4);
	assert_int_equal(load_be64(ft->data + 32), commands * 2);
	fx_task_free(ft);
}

static void all_is_reset(void **state)
{
	use_it();
	expect_counted(4 * 512, 2 * 512, 3 * 512, 1);
	expect_good(reset(ON_RAM, PCR, PC_CUMULATIVE, 0, 0));
	expect_counted(0, 0, 0, 0);
	expect_told(&b, ON_RAM);
	expect_ready(&a, ON_RAM);
	use_it();
	expect_counted(4 * 512, 2 * 512, 3 * 512, 1);
	/* The same by the default values. */
	expect_good(reset(ON_RAM, 0, PC_DEFAULT_CUMULATIVE, 0, 0));
	expect_counted(0, 0, 0, 0);
	expect_told(&b, ON_RAM);
}

static void one_page_is_reset(void **state)
{
	use_it();
	expect_good(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x03, 0));
	expect_counted(4 * 512, 0, 3 * 512, 1);
	expect_good(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x02, 0xff));
	expect_counted(0, 0, 3 * 512, 1);
	expect_good(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x19, 0));
	expect_counted(0, 0, 3 * 512, 0);
	expect_good(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x05, 0));
	expect_counted(0, 0, 0, 0);
	expect_told(&b, ON_RAM);
}

static void what_resets_nothing(void **state)
{
	use_it();
	/* Nothing asked for, or nothing that could be reset. */
	expect_good(reset(ON_RAM, 0, PC_THRESHOLD, 0, 0));
	expect_good(reset(ON_RAM, 0, PC_CUMULATIVE, 0x02, 0));
	expect_good(reset(ON_RAM, 0, PC_DEFAULT_THRESHOLD, 0x02, 0));
	expect_good(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x10, 0));
	expect_good(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x2f, 0));
	expect_good(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x00, 0xff));
	expect_counted(4 * 512, 2 * 512, 3 * 512, 1);
	expect_ready(&b, ON_RAM);
	/* No such page. */
	expect_bad_cdb(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x04, 0), 2, 5);
	expect_bad_cdb(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x02, 1), 3, 7);
	expect_bad_cdb(reset(ON_RAM, 0, PC_CUMULATIVE, 0x3f, 0), 2, 5);
	expect_bad_cdb(reset(ON_RAM, PCR, PC_CUMULATIVE, 0x3f, 0xff), 2, 5);
	/* SP: nothing can be saved. */
	expect_bad_cdb(reset(ON_RAM, 0x01, PC_CUMULATIVE, 0, 0), 1, 0);
	expect_counted(4 * 512, 2 * 512, 3 * 512, 1);
	expect_ready(&b, ON_RAM);
}

static void expect_bad_list(const uint8_t *list, uint16_t len, unsigned byte, unsigned bit)
{
	struct fx_task *ft = log_select(ON_RAM, 0, PC_CUMULATIVE << 6, 0, list, len, len);

	fx_sense(ft, 0x5, 0x26, 0x00);
	assert_int_equal(ft->t.sense[15], 0x88 | bit);
	assert_int_equal(load_be16(ft->t.sense + 16), byte);
	fx_task_free(ft);
}

static void lists_set_nothing(void **state)
{
	static const uint8_t empty[] = {0x82, 0, 0, 0, 0x03, 0, 0, 0};
	static const uint8_t bytes[] = {0x83, 0, 0, 0, 0x02, 0, 0, 12, 0, 5,
					2,    8, 0, 0, 0,    0, 0, 0,  0, 1};
	static const uint8_t unknown[] = {0x04, 0, 0, 0}, subpage[] = {0x42, 1, 0, 0},
			     format[] = {0x42, 0, 0, 0}, pages[] = {0x00, 0, 0, 0};
	struct fx_task *ft;

	use_it();
	expect_good(
		log_select(ON_RAM, 0, PC_CUMULATIVE << 6, 0, empty, sizeof(empty), sizeof(empty)));
	expect_bad_list(bytes, sizeof(bytes), 8, 7);
	expect_bad_list(unknown, 4, 0, 5);
	expect_bad_list(subpage, 4, 0, 5);
	expect_bad_list(format, 4, 0, 5);
	expect_bad_list(pages, 4, 0, 5);
	for (uint16_t len = 1; len < sizeof(bytes); len++) {
		ft = log_select(ON_RAM, 0, PC_CUMULATIVE << 6, 0, bytes, len, len);
		if (len == 4)
			fx_good(ft);
		else
			fx_sense(ft, 0x5, 0x1a, 0x00);
		fx_task_free(ft);
	}
	/* The initiator brings less than it said. */
	ft = log_select(ON_RAM, 0, PC_CUMULATIVE << 6, 0, empty, 8, 4);
	fx_sense(ft, 0x5, 0x1a, 0x00);
	fx_task_free(ft);
	/* With a list, pages are named in the list, and PCR has no place. */
	expect_bad_cdb(log_select(ON_RAM, PCR, PC_CUMULATIVE << 6, 0, empty, 8, 8), 1, 1);
	expect_bad_cdb(log_select(ON_RAM, 0, PC_CUMULATIVE << 6 | 2, 0, empty, 8, 8), 2, 5);
	expect_bad_cdb(log_select(ON_RAM, 0, PC_CUMULATIVE << 6, 0xff, empty, 8, 8), 3, 7);
	expect_counted(4 * 512, 2 * 512, 3 * 512, 1);
	expect_ready(&b, ON_RAM);
}

static void garbage(void **state)
{
	uint32_t seed = 20261120;
	uint8_t noise[256];

	for (unsigned i = 0; i < 1000; i++) {
		struct fx_task *ft;

		for (size_t n = 0; n < sizeof(noise); n++) {
			seed = seed * 1103515245 + 12345;
			noise[n] = (uint8_t)(seed >> 16);
		}
		if (i % 2 != 0) {
			noise[16] = 0x02;
			noise[17] = noise[18] = 0;
		}
		ft = log_select(ON_RAM, 0, PC_CUMULATIVE << 6, 0, noise + 16, noise[0] & 0x7f,
				noise[0] & 0x7f);
		assert_true(ft->t.status == SCSI_GOOD || ft->t.status == SCSI_CHECK_CONDITION);
		fx_task_free(ft);
		ft = log_sense(ON_RAM,
			       (struct sense_cdb){noise[1] & 3, noise[2] & 0x3f,
						  noise[3] & 1 ? 0 : noise[4], load_be16(noise + 5),
						  load_be16(noise + 7)});
		assert_true(ft->t.status == SCSI_GOOD || ft->t.status == SCSI_CHECK_CONDITION);
		fx_task_free(ft);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, up, down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(supported_pages),
		TEST(each_listed_page_exists_and_no_other),
		TEST(page_controls),
		TEST(errors_and_bytes),
		TEST(verifications),
		TEST(a_failure_is_counted_once),
		TEST(statistics),
		TEST(idle_time),
		TEST(self_tests),
		TEST(informational_exceptions),
		TEST(space),
		TEST(parameter_pointers),
		TEST(allocation_lengths),
		TEST(all_is_reset),
		TEST(one_page_is_reset),
		TEST(what_resets_nothing),
		TEST(lists_set_nothing),
		TEST(garbage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
