/*
 * What initiators leave with a disk: identifying information (kept over a restart, where the store
 * keeps anything), the time, bytes in buffers.
 */
#include "scsi_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static struct fx fx;
static struct fx_nexus a, b;

static void up_on(const char *spec)
{
	fx_up(&fx, spec, 512);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	fx_take_power_on(&a, 0);
	fx_take_power_on(&b, 0);
}

static int up(void **state)
{
	up_on("ram:16M");
	return 0;
}

static int down(void **state)
{
	fx_close(&a);
	fx_close(&b);
	fx_down(&fx);
	return 0;
}

static void expect_bytes(struct fx_task *ft, const void *bytes, size_t len)
{
	fx_good(ft);
	assert_int_equal(ft->moved, len);
	assert_memory_equal(ft->data, bytes, len);
	fx_task_free(ft);
}

static void expect_sense(struct fx_task *ft, uint8_t key, uint8_t asc, uint8_t ascq)
{
	fx_sense(ft, key, asc, ascq);
	fx_task_free(ft);
}

static void expect_bad_field(struct fx_task *ft, unsigned byte, unsigned bit)
{
	fx_bad_field(ft, byte, bit);
	fx_task_free(ft);
}

/* 26/00 with a pointer at bit 7 of this byte of the parameter list. */
static void expect_bad_parameter(struct fx_task *ft, unsigned byte, unsigned bit)
{
	fx_sense(ft, 0x5, 0x26, 0x00);
	assert_int_equal(ft->t.sense[15], 0x88 | bit);
	assert_int_equal(load_be16(ft->t.sense + 16), byte);
	fx_task_free(ft);
}

/* A command with parameters; `brought` of them come. */
static struct fx_task *out(struct fx_nexus *n, const uint8_t *cdb, const void *list,
			   uint32_t brought)
{
	struct fx_task *ft = fx_task_new(n, cdb, 12);

	if (brought != 0) {
		memcpy(ft->data, list, brought);
		fx_expect_out(ft, brought);
	}
	fx_run(&fx, ft);
	return ft;
}

static void expect_told(struct fx_nexus *n, uint8_t asc, uint8_t ascq)
{
	expect_sense(FX_CMD(n, 0, 0x00, 0, 0, 0, 0, 0), 0x6, asc, ascq);
}

static void expect_ready(struct fx_nexus *n)
{
	struct fx_task *ft = FX_CMD(n, 0, 0x00, 0, 0, 0, 0, 0);

	fx_good(ft);
	fx_task_free(ft);
}

/* ---- Identifying information ---- */

enum { DEVICE = 0x00, TEXT = 0x04 }; /* byte 10: INFORMATION TYPE and a reserved bit */

static struct fx_task *set(struct fx_nexus *n, uint8_t type, const void *bytes, uint32_t len)
{
	uint8_t cdb[12] = {0xa4, 0x06, [10] = type};

	store_be32(cdb + 6, len);
	return out(n, cdb, bytes, len);
}

static void set_good(struct fx_nexus *n, uint8_t type, const void *bytes, uint32_t len)
{
	struct fx_task *ft = set(n, type, bytes, len);

	fx_good(ft);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
}

static struct fx_task *report(struct fx_nexus *n, uint8_t type)
{
	return FX_CMD(n, 600, 0xa3, 0x05, 0, 0, 0, 0, 0, 0, 2, 0x58, type, 0);
}

static void expect_info(struct fx_nexus *n, uint8_t type, const void *bytes, size_t len)
{
	uint8_t want[4 + IDENT_TEXT_MAX] = {[2] = (uint8_t)(len >> 8), [3] = (uint8_t)len};

	memcpy(want + 4, bytes, len);
	expect_bytes(report(n, type), want, 4 + len);
}

static void nothing_was_set(void **state)
{
	expect_info(&a, DEVICE, "", 0);
	expect_info(&a, TEXT, "", 0);
}

static void which_types_there_are(void **state)
{
	static const uint8_t want[12] = {0, 0, 0, 8, 0x00, 0, 0, 64, 0x04, 0, 1, 0};

	expect_bytes(report(&a, 0xfe), want, 12);
	for (unsigned type = 0; type < 256; type += 2) {
		if (type == DEVICE || type == TEXT)
			continue;
		if (type != 0xfe)
			expect_bad_field(report(&a, (uint8_t)type), 10, 7);
		expect_bad_field(set(&a, (uint8_t)type, "x", 1), 10, 7);
	}
	/* Types with the last bit are SCC-2's. */
	expect_bad_field(report(&a, 0x02 >> 1), 10, 0);
}

static void what_was_set_is_told_to_all(void **state)
{
	uint8_t longest[IDENT_TEXT_MAX];

	set_good(&a, DEVICE, "\x00\xff\x80 any bytes", 13);
	expect_told(&b, 0x3f, 0x05);
	expect_ready(&b);
	expect_ready(&a);
	expect_info(&a, DEVICE, "\x00\xff\x80 any bytes", 13);
	expect_info(&b, DEVICE, "\x00\xff\x80 any bytes", 13);
	expect_info(&b, TEXT, "", 0);
	memset(longest, 'n', sizeof(longest));
	set_good(&b, DEVICE, longest, IDENT_DEVICE_MAX);
	expect_told(&a, 0x3f, 0x05);
	expect_info(&a, DEVICE, longest, IDENT_DEVICE_MAX);
	longest[IDENT_TEXT_MAX - 1] = 0;
	set_good(&a, TEXT, longest, IDENT_TEXT_MAX);
	expect_info(&a, TEXT, longest, IDENT_TEXT_MAX);
	expect_told(&b, 0x3f, 0x05);
	set_good(&a, DEVICE, "x", 1);
	expect_told(&b, 0x3f, 0x05);
	expect_info(&b, DEVICE, "x", 1);
	set_good(&a, DEVICE, "", 0);
	expect_info(&a, DEVICE, "", 0);
}

static void too_much_is_refused(void **state)
{
	uint8_t bytes[IDENT_TEXT_MAX + 1] = {0};
	uint8_t cdb[12] = {0xa4, 0x06};

	expect_bad_field(set(&a, DEVICE, bytes, IDENT_DEVICE_MAX + 1), 6, 7);
	expect_bad_field(set(&a, TEXT, bytes, IDENT_TEXT_MAX + 1), 6, 7);
	store_be32(cdb + 6, UINT32_MAX);
	expect_bad_field(out(&a, cdb, bytes, 64), 6, 7);
	expect_ready(&b);
}

static void less_than_was_announced(void **state)
{
	uint8_t cdb[12] = {0xa4, 0x06, [9] = 10};

	expect_sense(out(&a, cdb, "123456789", 9), 0x5, 0x1a, 0x00);
	expect_sense(out(&a, cdb, "", 0), 0x5, 0x1a, 0x00);
	expect_info(&a, DEVICE, "", 0);
	expect_ready(&b);
}

static void texts_are_utf_8_up_to_a_zero(void **state)
{
	static const struct {
		const char *text;
		uint32_t len;
		int bad; /* -1: it is good */
	} rows[] = {
		{"disk", 5, -1},
		{"", 1, -1},
		{"disk\0\0\0", 8, -1},
		{"\xc3\xa9\xe2\x82\xac\xf0\x9f\x92\xbe", 10, -1},
		{"disk", 4, 3},
		{"a\0b", 4, 2},
		{"a\x80", 3, 1},
		{"\xc0\xaf", 3, 0},
		{"ab\xe2\x82", 5, 2},
		{"ab\xe2\x82", 4, 2},
		{"\xed\xa0\x80", 4, 0},
		{"\xf4\x90\x80\x80", 5, 0},
		{"\xf8\x88\x80\x80\x80", 6, 0},
		{"\xf0\x9f\x92", 4, 0},
		{"\xe2\x28\xa1", 4, 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fx_task *ft = set(&a, TEXT, rows[i].text, rows[i].len);

		if (rows[i].bad >= 0) {
			expect_bad_parameter(ft, (unsigned)rows[i].bad, 7);
			continue;
		}
		fx_good(ft);
		fx_task_free(ft);
		expect_info(&a, TEXT, rows[i].text, rows[i].len);
	}
}

/* ---- Kept with the disk ---- */

static char path[] = "/var/tmp/spindle-info-XXXXXX";

static int file_up(void **state)
{
	char spec[64];
	int fd;

	memcpy(path + strlen(path) - 6, "XXXXXX", 6);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	close(fd);
	str_format(spec, sizeof(spec), "file:%s", path);
	up_on(spec);
	return 0;
}

static int file_down(void **state)
{
	down(state);
	unlink(path);
	return 0;
}

static void restart(void)
{
	char spec[64];

	down(NULL);
	str_format(spec, sizeof(spec), "file:%s", path);
	up_on(spec);
}

static void it_survives_a_restart(void **state)
{
	if (!store_info(fx.stores[0])->keeps_tags)
		skip();
	set_good(&a, DEVICE, "rack 7", 6);
	set_good(&a, TEXT, "the blue one", 13);
	restart();
	expect_info(&a, DEVICE, "rack 7", 6);
	expect_info(&a, TEXT, "the blue one", 13);
	set_good(&a, DEVICE, "", 0);
	restart();
	expect_info(&a, DEVICE, "", 0);
	expect_info(&a, TEXT, "the blue one", 13);
}

static void what_cannot_be_ours_is_left_alone(void **state)
{
	uint8_t bytes[300] = {0};

	if (!store_info(fx.stores[0])->keeps_tags)
		skip();
	assert_int_equal(setxattr(path, "user.spindle.identifier", bytes, 300, 0), 0);
	restart();
	expect_info(&a, DEVICE, "", 0);
	set_good(&a, DEVICE, "x", 1);
	restart();
	expect_info(&a, DEVICE, "x", 1);
}

/* A file system without tags has a disk that is there tomorrow, and nowhere to keep anything. */
static void what_could_not_be_kept_is_refused(void **state)
{
	static const uint8_t none[12] = {0, 0, 0, 8, 0x00, 0, 0, 0, 0x04, 0, 0, 0};

	fx.lus[0]->keeps_info = false;
	expect_bytes(report(&a, 0xfe), none, 12);
	expect_bad_field(set(&a, DEVICE, "x", 1), 6, 7);
	set_good(&a, DEVICE, "", 0);
}

/* ---- Timestamp ---- */

static uint64_t wall_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t timestamp(struct fx_nexus *n, uint8_t origin)
{
	struct fx_task *ft = FX_CMD(n, 64, 0xa3, 0x0f, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0);
	uint64_t ms;

	fx_good(ft);
	assert_int_equal(ft->moved, 12);
	assert_int_equal(load_be16(ft->data), 10);
	assert_int_equal(ft->data[2], origin);
	assert_int_equal(ft->data[3] | ft->data[10] | ft->data[11], 0);
	ms = (uint64_t)load_be16(ft->data + 4) << 32 | load_be32(ft->data + 6);
	fx_task_free(ft);
	return ms;
}

static struct fx_task *set_time(struct fx_nexus *n, const uint8_t *list, uint32_t len)
{
	uint8_t cdb[12] = {0xa4, 0x0f};

	store_be32(cdb + 6, len);
	return out(n, cdb, list, len);
}

static void the_wall_clock_until_it_is_set(void **state)
{
	const uint64_t before = wall_ms(), told = timestamp(&a, 3);

	assert_true(told >= before && told <= wall_ms());
}

static void it_goes_on_from_what_was_set(void **state)
{
	uint8_t list[12] = {[5] = 0x01, [9] = 0x10};
	struct fx_task *ft = set_time(&a, list, 12);
	const uint64_t begin = UINT64_C(0x0100000010);
	uint64_t told;

	fx_good(ft);
	fx_task_free(ft);
	expect_told(&b, 0x2a, 0x10);
	expect_ready(&b);
	expect_ready(&a);
	told = timestamp(&b, 2);
	assert_true(told >= begin && told < begin + 60000);
	usleep(30000);
	assert_true(timestamp(&a, 2) >= told + 29);
}

static void times_that_are_refused(void **state)
{
	uint8_t list[16] = {0};
	struct fx_task *ft = set_time(&a, list, 0);

	fx_good(ft);
	fx_task_free(ft);
	timestamp(&a, 3);
	for (uint32_t len = 1; len < 16; len++)
		if (len != 12)
			expect_sense(set_time(&a, list, len), 0x5, 0x1a, 0x00);
	list[4] = 0xf1;
	expect_bad_parameter(set_time(&a, list, 12), 4, 7);
	list[4] = 0;
	list[2] = 0x20;
	expect_bad_parameter(set_time(&a, list, 12), 2, 5);
	list[2] = 0;
	list[11] = 0x81;
	expect_bad_parameter(set_time(&a, list, 12), 11, 7);
	timestamp(&a, 3);
	expect_ready(&b);
}

/* ---- Buffers ---- */

static struct fx_task *write_buffer(struct fx_nexus *n, uint8_t mode, uint32_t off,
				    const void *bytes, uint32_t len)
{
	uint8_t cdb[12] = {0x3b, mode};

	store_be24(cdb + 3, off);
	store_be24(cdb + 6, len);
	return out(n, cdb, bytes, len);
}

static struct fx_task *read_buffer(struct fx_nexus *n, uint8_t mode, uint8_t id, uint32_t off,
				   uint32_t len)
{
	uint8_t cdb[12] = {0x3c, mode, id};

	store_be24(cdb + 3, off);
	store_be24(cdb + 6, len);
	return fx_cmd(n, cdb, 10, 8192);
}

static void written(struct fx_task *ft)
{
	fx_good(ft);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
}

static void descriptors(void **state)
{
	expect_bytes(read_buffer(&a, 0x03, 0, 0, 4), "\x00\x00\x10\x00", 4);
	expect_bytes(read_buffer(&a, 0x03, 1, 0, 4), "\x00\x00\x00\x00", 4);
	expect_bytes(read_buffer(&a, 0x0b, 0, 0, 4), "\x01\x00\x10\x00", 4);
	expect_bytes(read_buffer(&a, 0x0b, 0, 0, 2), "\x01\x00", 2);
}

static void an_echo(void **state)
{
	uint8_t longest[4097];

	for (size_t i = 0; i < sizeof(longest); i++)
		longest[i] = (uint8_t)(i * 7);
	expect_sense(read_buffer(&a, 0x0a, 0, 0, 100), 0x5, 0x2c, 0x00);
	written(write_buffer(&a, 0x0a, 0, "hello", 5));
	expect_bytes(read_buffer(&a, 0x0a, 0, 0, 100), "hello", 5);
	expect_bytes(read_buffer(&a, 0x0a, 9, 77, 4), "hell", 4);
	expect_sense(read_buffer(&b, 0x0a, 0, 0, 100), 0x5, 0x2c, 0x00);
	written(write_buffer(&b, 0x0a, 0, "other", 5));
	expect_bytes(read_buffer(&a, 0x0a, 0, 0, 100), "hello", 5);
	written(write_buffer(&a, 0x0a, 0, longest, 4096));
	expect_bytes(read_buffer(&a, 0x0a, 0, 0, 8192), longest, 4096);
	written(write_buffer(&a, 0x0a, 0, "", 0));
	expect_bytes(read_buffer(&a, 0x0a, 0, 0, 100), "", 0);
	expect_bad_field(write_buffer(&a, 0x0a, 0, longest, 4097), 6, 7);
}

static void a_failed_write_is_no_echo(void **state)
{
	uint8_t cdb[12] = {0x3b, 0x0a, [8] = 9};

	expect_sense(out(&a, cdb, "12345678", 8), 0x5, 0x1a, 0x00);
	expect_sense(read_buffer(&a, 0x0a, 0, 0, 100), 0x5, 0x2c, 0x00);
}

static void the_data_buffer(void **state)
{
	uint8_t want[4096] = {0};

	expect_bytes(read_buffer(&a, 0x02, 0, 0, 8192), want, 4096);
	written(write_buffer(&a, 0x02, 4090, "sixsix", 6));
	memcpy(want + 4090, "sixsix", 6);
	expect_bytes(read_buffer(&a, 0x02, 0, 0, 8192), want, 4096);
	expect_bytes(read_buffer(&a, 0x02, 0, 4088, 6), want + 4088, 6);
	expect_bytes(read_buffer(&a, 0x02, 0, 4096, 6), "", 0);
	written(write_buffer(&a, 0x02, 4096, "", 0));
	expect_sense(read_buffer(&a, 0x0a, 0, 0, 100), 0x5, 0x2c, 0x00);
	expect_bad_field(read_buffer(&a, 0x02, 0, 4097, 6), 3, 7);
	expect_bad_field(read_buffer(&a, 0x02, 1, 0, 6), 2, 7);
	expect_bad_field(write_buffer(&a, 0x02, 4097, "", 0), 3, 7);
	expect_bad_field(write_buffer(&a, 0x02, 4091, "sixsix", 6), 6, 7);
	expect_bad_field(write_buffer(&a, 0x02, 0xffffff, "sixsix", 6), 3, 7);
}

static void no_other_modes(void **state)
{
	for (uint8_t mode = 0; mode < 32; mode++) {
		if (mode != 0x02 && mode != 0x0a)
			expect_bad_field(write_buffer(&a, mode, 0, "", 0), 1, 4);
		if (mode != 0x02 && mode != 0x03 && mode != 0x0a && mode != 0x0b)
			expect_bad_field(read_buffer(&a, mode, 0, 0, 0), 1, 4);
		expect_bad_field(read_buffer(&a, mode | 0x20, 0, 0, 0), 1, 5);
	}
}

#define TEST(t)      cmocka_unit_test_setup_teardown(t, up, down)
#define FILE_TEST(t) cmocka_unit_test_setup_teardown(t, file_up, file_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_was_set),
		TEST(which_types_there_are),
		TEST(what_was_set_is_told_to_all),
		TEST(too_much_is_refused),
		TEST(less_than_was_announced),
		TEST(texts_are_utf_8_up_to_a_zero),
		FILE_TEST(it_survives_a_restart),
		FILE_TEST(what_cannot_be_ours_is_left_alone),
		TEST(what_could_not_be_kept_is_refused),
		TEST(the_wall_clock_until_it_is_set),
		TEST(it_goes_on_from_what_was_set),
		TEST(times_that_are_refused),
		TEST(descriptors),
		TEST(an_echo),
		TEST(a_failed_write_is_no_echo),
		TEST(the_data_buffer),
		TEST(no_other_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
