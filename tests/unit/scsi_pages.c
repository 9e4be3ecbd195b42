/*
 * Parameter data, byte by byte: INQUIRY and its pages, REQUEST SENSE, REPORT LUNS, READ
 * CAPACITY; and that an allocation length cuts each of them and changes nothing else.
 */
#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus nexus;

/* LUN 0: 512-byte blocks in memory. 3: 4 KiB blocks, read-only. 9: with a volatile cache. */
static int up(void **state)
{
	fx_init(&fx);
	fx_add_disk(&fx, "ram:16M", 512, false);
	fx_add_disk(&fx, "ram:16M", 4096, true);
	fx_add_disk(&fx, "fault:volatile=on:ram:16M", 512, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 9, fx.lus[2]), 0);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	assert_int_equal(scsi_target_add_lun(fx.target, 3, fx.lus[1]), 0);
	assert_int_equal(scsi_target_add_lun(fx.target, 3, fx.lus[0]), -EEXIST);
	assert_int_equal(scsi_target_add_lun(fx.target, 256, fx.lus[0]), -EINVAL);
	fx_start(&fx);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
	fx_take_power_on(&nexus, 3);
	fx_take_power_on(&nexus, 9);
	return 0;
}

static int down(void **state)
{
	fx_close(&nexus);
	fx_down(&fx);
	return 0;
}

static struct fx_task *at(uint8_t lun, const uint8_t *cdb, uint8_t cdb_len, uint32_t expected)
{
	struct fx_task *ft = fx_task_new(&nexus, cdb, cdb_len);

	ft->t.lun[1] = lun;
	fx_expect_in(ft, expected);
	fx_run(&fx, ft);
	return ft;
}

#define AT(lun, expected, ...) \
	at(lun, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), expected)

static void expect_bytes(struct fx_task *ft, const void *bytes, size_t len)
{
	fx_good(ft);
	assert_int_equal(ft->moved, len);
	fx_residual(ft, ft->t.expected_in - (uint32_t)len, 0);
	assert_memory_equal(ft->data, bytes, len);
	fx_task_free(ft);
}

/* ---- INQUIRY ---- */

static void standard_inquiry(void **state)
{
	uint8_t want[96] = {0, 0, 0x06, 0x12, 91, 0, 0, 0x02};

	memcpy(want + 8, "SPINDLE VIRTUAL-DISK    ", 24);
	memcpy(want + 32, SPINDLE_VERSION, 4);
	if (want[35] == '.')
		want[35] = ' ';
	memcpy(want + 58, "\x00\xa0\x09\x60\x04\x60\x04\xc0", 8);
	expect_bytes(AT(0, 255, 0x12, 0, 0, 0, 255, 0), want, 96);
	expect_bytes(AT(3, 255, 0x12, 0, 0, 1, 0, 0), want, 96);
}

/* A unit that nothing is attached to. */
static struct unit *fresh_unit(void)
{
	const struct store_config sc = {.size = 0};
	const struct bdev_config bc = {.block_size = 512};
	const struct unit_identity id = {.serial = FX_SERIAL};
	struct store *store;
	struct bdev *bdev;
	struct unit *unit;

	assert_int_equal(store_open(&store, fx.set, fx_types, "ram:1M", &sc, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bc, NULL), 0);
	assert_int_equal(unit_create(&unit, fx.set, bdev, &id, 0), 0);
	return unit;
}

static void names_of_the_disk_can_be_set(void **state)
{
	struct unit *unit = fresh_unit();
	const struct lu_state *names = lu_state_of(unit_first_view(unit));
	struct scsi_lu *lu;
	struct scsi_lu_config c = {.vendor = "ACME", .product = "ROCKET", .revision = "12345"};

	assert_int_equal(scsi_lu_create_disk(&lu, unit, &c), 0);
	assert_string_equal(names->vendor, "ACME");
	assert_string_equal(names->product, "ROCKET");
	assert_string_equal(names->revision, "1234");
	assert_ptr_equal(scsi_lu_unit(lu), unit);
	scsi_lu_destroy(lu);
	c.revision = "1.2.3";
	assert_int_equal(scsi_lu_create_disk(&lu, unit, &c), 0);
	assert_string_equal(names->revision, "1.2");
	scsi_lu_destroy(lu);
	c.vendor = "NINE CHAR";
	assert_int_equal(scsi_lu_create_disk(&lu, unit, &c), -EINVAL);
	c.vendor = NULL;
	c.product = "SEVENTEEN LETTERS";
	assert_int_equal(scsi_lu_create_disk(&lu, unit, &c), -EINVAL);
	unit_destroy(unit);
}

static void a_target_has_a_name_of_bounded_length(void **state)
{
	char name[SCSI_NAME_MAX + 2];
	struct scsi_target *t;

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	assert_int_equal(scsi_target_create(&t, name), -EINVAL);
	assert_int_equal(scsi_target_create(&t, name + 1), 0);
	assert_string_equal(scsi_target_name(t), name + 1);
	scsi_target_destroy(t);
}

static void a_page_code_without_evpd_is_refused(void **state)
{
	struct fx_task *ft = AT(0, 255, 0x12, 0, 0x80, 0, 255, 0);

	fx_bad_field(ft, 2, 7);
	fx_residual(ft, 255, 0);
	assert_int_equal(ft->moved, 0);
	fx_task_free(ft);
}

static void vpd_supported_pages(void **state)
{
	expect_bytes(AT(0, 255, 0x12, 1, 0, 0, 255, 0),
		     "\x00\x00\x00\x07\x00\x80\x83\x86\xb0\xb1\xb2", 11);
}

static void each_listed_page_exists_and_no_other(void **state)
{
	struct fx_task *list = AT(0, 255, 0x12, 1, 0, 0, 255, 0);

	for (unsigned page = 0; page < 256; page++) {
		struct fx_task *ft = AT(0, 255, 0x12, 1, (uint8_t)page, 0, 255, 0);

		if (memchr(list->data + 4, (int)page, list->data[3]) == NULL) {
			fx_bad_field(ft, 2, 7);
		} else {
			fx_good(ft);
			assert_int_equal(ft->data[1], page);
			assert_int_equal(ft->moved, load_be16(ft->data + 2) + 4);
		}
		fx_task_free(ft);
	}
	fx_task_free(list);
}

static void vpd_serial_number(void **state)
{
	expect_bytes(AT(0, 255, 0x12, 1, 0x80, 0, 255, 0), "\x00\x80\x00\x08" FX_SERIAL, 12);
}

#define PORT_NAMES                                                                              \
	/* relative target port 1, of iSCSI */                                                  \
	0x51, 0x94, 0, 4, 0, 0, 0, 1,         /* target port group 1 */                         \
		0x51, 0x95, 0, 4, 0, 0, 0, 1, /* name of the target port */                     \
		0x53, 0x98, 0, 32, 'i', 'q', 'n', '.', '2', '0', '2', '6', '-', '1', '1', '.',  \
		't', 'e', 's', 't', ':', 'd', 'i', 's', 'k', ',', 't', ',', '0', 'x', '0', '0', \
		'0', '1', 0, 0, /* and of the target device */                                  \
		0x53, 0xa8, 0, 24, 'i', 'q', 'n', '.', '2', '0', '2', '6', '-', '1', '1', '.',  \
		't', 'e', 's', 't', ':', 'd', 'i', 's', 'k', 0, 0, 0
#define PORT_NAMES_LEN (8 + 8 + 36 + 28)

static void vpd_identification(void **state)
{
	static const uint8_t want[] = {
		/* header */
		0, 0x83, 0, 36 + 12 + PORT_NAMES_LEN,
		/* T10 vendor identification */
		0x02, 0x01, 0, 32, 'S', 'P', 'I', 'N', 'D', 'L', 'E', ' ', 'V', 'I', 'R', 'T', 'U',
		'A', 'L', '-', 'D', 'I', 'S', 'K', ' ', ' ', ' ', ' ', 'a', '1', 'b', '2', 'c', '3',
		'd', '4',
		/* NAA of the logical unit, which Linux takes when it is the last */
		0x01, 0x03, 0, 8, 0x3a, 0x5b, 0x6c, 0x7d, 0x8e, 0x9f, 0x01, 0x02, PORT_NAMES};

	expect_bytes(AT(0, 255, 0x12, 1, 0x83, 0, 255, 0), want, sizeof(want));
}

/* However long it is, a name has a zero at its end and a length that four divides. */
static void names_of_ports_end_with_a_zero(void **state)
{
	struct scsi_target *first = fx.target;
	char name[] = "iqn.2026-11.test:name-00";
	struct fx_nexus n;

	for (size_t len = sizeof(name) - 1; len > sizeof(name) - 6; len--) {
		struct fx_task *ft;
		const uint8_t *last;
		size_t at, want = align_up(len + 1, 4);

		name[len] = 0;
		assert_int_equal(scsi_target_create(&fx.target, name), 0);
		fx_open(&fx, &n);
		ft = fx_task_new(&n, (const uint8_t[]){0x12, 1, 0x83, 0, 255, 0}, 6);
		memcpy(ft->t.lun, "\xc1\x01", 2);
		fx_expect_in(ft, 255);
		fx_run(&fx, ft);
		fx_good(ft);
		assert_int_equal(ft->moved, load_be16(ft->data + 2) + 4);
		last = ft->data + ft->moved - want - 4;
		assert_memory_equal(last, ((const uint8_t[]){0x53, 0xa8, 0, (uint8_t)want}), 4);
		assert_memory_equal(last + 4, name, len);
		for (at = len; at < want; at++)
			assert_int_equal(last[4 + at], 0);
		fx_task_free(ft);
		fx_close(&n);
		scsi_target_destroy(fx.target);
	}
	fx.target = first;
}

static void vpd_extended_inquiry(void **state)
{
	/* HEADSUP, ORDSUP, SIMPSUP; LUICLR; an extended self-test in up to a minute; 28 bytes of sense. */
	uint8_t want[64] = {0, 0x86, 0, 0x3c, 0, 0x07, 0, 0x01, 0, 0, 0, 1, 0, 28};

	expect_bytes(AT(0, 255, 0x12, 1, 0x86, 0, 255, 0), want, 64);
	want[6] = 0x01; /* V_SUP */
	expect_bytes(AT(9, 255, 0x12, 1, 0x86, 0, 255, 0), want, 64);
}

static void vpd_block_limits(void **state)
{
	/* WSNZ; 255 blocks of COMPARE AND WRITE; granularity; 64 MiB of PRE-FETCH; 512 MiB and 256
	 * descriptors of UNMAP, granularity, alignment; 256 MiB of WRITE SAME. */
	uint8_t want[64] = {0, 0xb0,     0,           0x3c,     1,        255,         0,
			    1, [17] = 2, [21] = 0x10, [26] = 1, [31] = 8, [32] = 0x80, [41] = 8};

	expect_bytes(AT(0, 255, 0x12, 1, 0xb0, 0, 255, 0), want, 64);
}

static void vpd_characteristics_and_provisioning(void **state)
{
	uint8_t b1[64] = {0, 0xb1, 0, 0x3c, 0, 1, 0, 0x40}, b2[8] = {0, 0xb2, 0, 4, 0, 0xe4, 2};

	expect_bytes(AT(0, 255, 0x12, 1, 0xb1, 0, 255, 0), b1, 64);
	expect_bytes(AT(0, 255, 0x12, 1, 0xb2, 0, 255, 0), b2, 8);
}

/* ---- The rest ---- */

static void read_capacity(void **state)
{
	uint8_t want[32] = {0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0, 2, 0, [14] = 0xc0};

	expect_bytes(AT(0, 32, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), want + 4, 8);
	expect_bytes(AT(0, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0), want, 32);
	store_be32(want + 4, 4095);
	store_be32(want + 8, 4096);
	expect_bytes(AT(3, 32, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0), want + 4, 8);
	expect_bytes(AT(3, 32, 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0), want, 32);
}

static void report_luns(void **state)
{
	static const uint8_t luns[32] = {[3] = 24, [17] = 3, [25] = 9},
			     well_known[16] = {[3] = 8, [8] = 0xc1, [9] = 0x01},
			     all[40] = {[3] = 32, [17] = 3, [25] = 9, [32] = 0xc1, [33] = 0x01};
	struct fx_task *ft;

	expect_bytes(AT(0, 64, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), luns, 32);
	expect_bytes(AT(0, 64, 0xa0, 0, 1, 0, 0, 0, 0, 0, 0, 64, 0, 0), well_known, 16);
	expect_bytes(AT(9, 64, 0xa0, 0, 2, 0, 0, 0, 0, 0, 0, 64, 0, 0), all, 40);
	for (unsigned select = 3; select < 256; select++) {
		ft = AT(0, 64, 0xa0, 0, (uint8_t)select, 0, 0, 0, 0, 0, 0, 64, 0, 0);
		fx_bad_field(ft, 2, 7);
		fx_task_free(ft);
	}
}

/* ---- The well-known logical unit REPORT LUNS (SPC-4 8.2) ---- */

static struct fx_task *at_well_known(const uint8_t *cdb, uint8_t cdb_len, uint32_t expected)
{
	struct fx_task *ft = fx_task_new(&nexus, cdb, cdb_len);

	ft->t.lun[0] = 0xc1;
	ft->t.lun[1] = 0x01;
	if (expected != 0)
		fx_expect_in(ft, expected);
	fx_run(&fx, ft);
	return ft;
}

#define AT_WELL_KNOWN(expected, ...)                                                          \
	at_well_known((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), \
		      expected)

static void the_well_known_logical_unit(void **state)
{
	static const uint8_t luns[32] = {[3] = 24, [17] = 3, [25] = 9};
	static const uint8_t names[] = {0x1e, 0x83, 0, PORT_NAMES_LEN, PORT_NAMES};
	uint8_t inquiry[96] = {0x1e, 0, 0x06, 0x12, 91, 0, 0, 0x02};

	memcpy(inquiry + 8, "SPINDLE REPORT LUNS     1   ", 28);
	memcpy(inquiry + 58, "\x00\xa0\x09\x60\x04\x60", 6);
	expect_bytes(AT_WELL_KNOWN(255, 0x12, 0, 0, 0, 255, 0), inquiry, 96);
	expect_bytes(AT_WELL_KNOWN(255, 0x12, 1, 0, 0, 255, 0), "\x1e\x00\x00\x02\x00\x83", 6);
	expect_bytes(AT_WELL_KNOWN(255, 0x12, 1, 0x83, 0, 255, 0), names, sizeof(names));
	expect_bytes(AT_WELL_KNOWN(64, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0), luns, 32);
	expect_bytes(AT_WELL_KNOWN(18, 0x03, 0, 0, 0, 18, 0), (const uint8_t[18]){0x70, [7] = 10},
		     18);
}

static void what_it_does_not_know(void **state)
{
	struct fx_task *ft = AT_WELL_KNOWN(255, 0x12, 1, 0x80, 0, 255, 0);

	fx_bad_field(ft, 2, 7);
	fx_task_free(ft);
	for (unsigned opcode = 0; opcode < 256; opcode++) {
		const uint8_t cdb[16] = {(uint8_t)opcode};

		ft = at_well_known(cdb, 16, 0);
		if (opcode == 0x00 || opcode == 0x03 || opcode == 0x12 || opcode == 0xa0)
			fx_good(ft);
		else
			fx_sense(ft, 0x5, 0x20, 0x00);
		fx_task_free(ft);
	}
}

static void supported_task_management_functions(void **state)
{
	static const uint8_t none[16] = {[3] = 12}, some[4] = {0xde, 0x07};

	expect_bytes(AT(0, 255, 0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0), (const uint8_t[4]){0},
		     4);
	expect_bytes(AT(0, 255, 0xa3, 0x0d, 0x80, 0, 0, 0, 0, 0, 0, 255, 0, 0), none, 16);
	nexus.nexus.task_management = 0xde07;
	expect_bytes(AT(0, 255, 0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0), some, 4);
	nexus.nexus.task_management = 0;
}

static void request_sense_without_anything_to_tell(void **state)
{
	expect_bytes(AT(0, 255, 0x03, 0, 0, 0, 255, 0), (const uint8_t[18]){0x70, [7] = 10}, 18);
	expect_bytes(AT(0, 255, 0x03, 1, 0, 0, 255, 0), (const uint8_t[8]){0x72}, 8);
}

static void sense_in_descriptor_format(void **state)
{
	const struct sense_data s = {.sense = SENSE_LBA_OUT_OF_RANGE,
				     .has_information = true,
				     .has_field = true,
				     .information = 0x123456789a,
				     .field_byte = 2,
				     .field_bit = 7};
	static const uint8_t want[28] = {0x72, 0x05, 0x21, 0, 0,    0,    0,    20,   0x00, 0x0a,
					 0x80, 0,    0,    0, 0,    0x12, 0x34, 0x56, 0x78, 0x9a,
					 0x02, 0x06, 0,    0, 0xcf, 0,    2,    0};
	uint8_t buf[SENSE_BYTES_MAX];

	assert_int_equal(sense_build(buf, &s, SENSE_DESCRIPTOR), 28);
	assert_memory_equal(buf, want, 28);
	/* The LBA is too large for the fixed format. */
	assert_int_equal(sense_build(buf, &s, SENSE_FIXED), 18);
	assert_int_equal(buf[0], 0x70);
	assert_int_equal(load_be32(buf + 3), 0);
}

/* ---- Allocation lengths ---- */

static const struct {
	uint8_t cdb[16], cdb_len, alloc_at, alloc_bytes;
} answers[] = {
	{{0x03}, 6, 4, 1},
	{{0x12}, 6, 3, 2},
	{{0x12, 1, 0x83}, 6, 3, 2},
	{{0x1a, 0, 0x3f}, 6, 4, 1},
	{{0x5a, 0, 0x3f}, 10, 7, 2},
	{{0x9e, 0x10}, 16, 10, 4},
	{{0xa0}, 12, 6, 4},
	{{0xa3, 0x0c, 0}, 12, 6, 4},
	{{0xa3, 0x0c, 0x81, 0x28}, 12, 6, 4},
	{{0xa3, 0x05, [10] = 0xfe}, 12, 6, 4},
	{{0xa3, 0x0d, 0x80}, 12, 6, 4},
};

static struct fx_task *answer(size_t i, uint32_t alloc, uint32_t expected)
{
	uint8_t cdb[16];

	memcpy(cdb, answers[i].cdb, 16);
	for (unsigned b = 0; b < answers[i].alloc_bytes; b++)
		cdb[answers[i].alloc_at + b] =
			(uint8_t)(alloc >> 8 * (answers[i].alloc_bytes - 1 - b));
	return fx_cmd(&nexus, cdb, answers[i].cdb_len, expected);
}

static void allocation_lengths_cut(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
		struct fx_task *whole = answer(i, 255, 300);
		const uint32_t len = whole->moved;

		fx_good(whole);
		fx_residual(whole, 300 - len, 0);
		for (uint32_t alloc = 0; alloc < 255; alloc++) {
			struct fx_task *ft = answer(i, alloc, 300);
			const uint32_t want = alloc < len ? alloc : len;

			fx_good(ft);
			assert_int_equal(ft->moved, want);
			fx_residual(ft, 300 - want, 0);
			assert_memory_equal(ft->data, whole->data, want);
			fx_task_free(ft);
		}
		fx_task_free(whole);
	}
}

static void expected_lengths_cut_as_well(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
		struct fx_task *whole = answer(i, 255, 300);
		struct fx_task *ft = answer(i, 255, 5);

		fx_good(ft);
		assert_int_equal(ft->moved, 5);
		fx_residual(ft, 0, whole->moved - 5);
		assert_memory_equal(ft->data, whole->data, 5);
		fx_task_free(ft);
		ft = answer(i, 255, 0);
		fx_good(ft);
		fx_residual(ft, 0, whole->moved);
		fx_task_free(ft);
		fx_task_free(whole);
	}
}

static void huge_allocation_lengths_do_no_harm(void **state)
{
	struct fx_task *ft = answer(6, UINT32_MAX, UINT32_MAX);

	fx_good(ft);
	assert_int_equal(ft->moved, 32);
	fx_residual(ft, UINT32_MAX - 32, 0);
	fx_task_free(ft);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(standard_inquiry),
		cmocka_unit_test(names_of_the_disk_can_be_set),
		cmocka_unit_test(a_target_has_a_name_of_bounded_length),
		cmocka_unit_test(a_page_code_without_evpd_is_refused),
		cmocka_unit_test(vpd_supported_pages),
		cmocka_unit_test(each_listed_page_exists_and_no_other),
		cmocka_unit_test(vpd_serial_number),
		cmocka_unit_test(vpd_identification),
		cmocka_unit_test(names_of_ports_end_with_a_zero),
		cmocka_unit_test(vpd_extended_inquiry),
		cmocka_unit_test(vpd_block_limits),
		cmocka_unit_test(vpd_characteristics_and_provisioning),
		cmocka_unit_test(read_capacity),
		cmocka_unit_test(report_luns),
		cmocka_unit_test(the_well_known_logical_unit),
		cmocka_unit_test(what_it_does_not_know),
		cmocka_unit_test(supported_task_management_functions),
		cmocka_unit_test(request_sense_without_anything_to_tell),
		cmocka_unit_test(sense_in_descriptor_format),
		cmocka_unit_test(allocation_lengths_cut),
		cmocka_unit_test(expected_lengths_cut_as_well),
		cmocka_unit_test(huge_allocation_lengths_do_no_harm),
	};

	return cmocka_run_group_tests(tests, up, down);
}
