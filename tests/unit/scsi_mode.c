/*
 * Mode parameters: every page byte by byte in all its values, what each changeable bit does, that no
 * other bit can be changed, who hears of a change, what is saved, and lists that are cut or garbage.
 */
#include "scsi_fixture.h"

#include <unistd.h>

static struct fx fx;
static struct fx_nexus a, b;

/* A file, which keeps saved values where its file system does, and has a cache to switch off; memory,
 * which has neither; the same with blocks of 4 KiB, and read-only. */
enum { ON_FILE, ON_RAM, ON_READ_ONLY, NDISKS };

static char dir[64], path[80];
static bool saveable;

#define BLOCKS (16 * MiB / 512)

static void make_disk(void)
{
	FILE *f;

	strcpy(dir, "scsi_mode.XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/disk.img", dir);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(ftruncate(fileno(f), 16 * MiB), 0);
	fclose(f);
}

/* In whatever format the saved values ask for. */
static void take_power_on(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = fx_task_new(n, (const uint8_t[6]){0}, 6);

	ft->t.lun[1] = lun;
	fx_run(&fx, ft);
	assert_int_equal(ft->t.status, SCSI_CHECK_CONDITION);
	assert_int_equal(ft->t.sense[ft->t.sense[0] == 0x72 ? 2 : 12], 0x29);
	fx_task_free(ft);
}

static void power_up(void)
{
	fx_init(&fx);
	fx_add_disk(&fx, path, 512, false);
	fx_add_disk(&fx, "ram:16M", 512, false);
	fx_add_disk(&fx, "ram:16M", 4096, true);
	for (uint16_t lun = 0; lun < NDISKS; lun++)
		assert_int_equal(scsi_target_add_lun(fx.target, lun, fx.lus[lun]), 0);
	saveable = store_info(fx.stores[ON_FILE])->keeps_tags;
	fx_start(&fx);
	fx_open(&fx, &a);
	fx_open(&fx, &b);
	for (uint8_t lun = 0; lun < NDISKS; lun++) {
		take_power_on(&a, lun);
		take_power_on(&b, lun);
	}
}

static void power_down(void)
{
	fx_close(&a);
	fx_close(&b);
	fx_down(&fx);
}

static int up(void **state)
{
	make_disk();
	power_up();
	return 0;
}

static int down(void **state)
{
	power_down();
	unlink(path);
	rmdir(dir);
	return 0;
}

/* ---- Commands ---- */

static struct fx_task *at(struct fx_nexus *n, uint8_t lun, const uint8_t *cdb, uint8_t cdb_len,
			  uint32_t expected)
{
	struct fx_task *ft = fx_task_new(n, cdb, cdb_len);

	ft->t.lun[1] = lun;
	if (expected != 0)
		fx_expect_in(ft, expected);
	fx_run(&fx, ft);
	return ft;
}

#define AT(n, lun, expected, ...) \
	at(n, lun, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), expected)

static void expect_bytes(struct fx_task *ft, const void *bytes, size_t len)
{
	fx_good(ft);
	assert_int_equal(ft->moved, len);
	assert_memory_equal(ft->data, bytes, len);
	fx_task_free(ft);
}

static void expect_ready(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = AT(n, lun, 0, 0x00, 0, 0, 0, 0, 0);

	fx_good(ft);
	fx_task_free(ft);
}

/* Hears of it exactly once. */
static void expect_told(struct fx_nexus *n, uint8_t lun)
{
	struct fx_task *ft = AT(n, lun, 0, 0x00, 0, 0, 0, 0, 0);

	fx_sense(ft, 0x6, 0x2a, 0x01);
	fx_task_free(ft);
	expect_ready(n, lun);
}

enum { SP = 0x01, PF = 0x10 };

/* A list of this length is announced, and as much of it brought. */
static struct fx_task *select_some(uint8_t lun, bool ten, uint8_t flags, const uint8_t *list,
				   uint32_t len, uint32_t brought)
{
	uint8_t cdb[10] = {ten ? 0x55 : 0x15, flags};
	struct fx_task *ft;

	if (ten)
		store_be16(cdb + 7, (uint16_t)len);
	else
		cdb[4] = (uint8_t)len;
	ft = fx_task_new(&a, cdb, ten ? 10 : 6);
	ft->t.lun[1] = lun;
	if (brought != 0)
		fx_expect_out(ft, brought);
	memcpy(ft->data, list, len);
	fx_run(&fx, ft);
	return ft;
}

static struct fx_task *select_6(uint8_t lun, uint8_t flags, const uint8_t *list, uint32_t len)
{
	return select_some(lun, false, flags, list, len, len);
}

static struct fx_task *select_10(uint8_t lun, uint8_t flags, const uint8_t *list, uint32_t len)
{
	return select_some(lun, true, flags, list, len, len);
}

static void expect_good(struct fx_task *ft)
{
	fx_good(ft);
	fx_residual(ft, 0, 0);
	fx_task_free(ft);
}

static void expect_sense(struct fx_task *ft, uint8_t key, uint8_t asc, uint8_t ascq)
{
	fx_sense(ft, key, asc, ascq);
	fx_task_free(ft);
}

/* 26/00 with a pointer at this bit of the list. */
static void expect_bad(struct fx_task *ft, unsigned byte, unsigned bit)
{
	fx_sense(ft, 0x5, 0x26, 0x00);
	if (ft->t.sense[15] != (0x88 | bit) || load_be16(ft->t.sense + 16) != byte)
		fail_msg("field pointer %02x %u, expected byte %u bit %u", ft->t.sense[15],
			 load_be16(ft->t.sense + 16), byte, bit);
	fx_task_free(ft);
}

static void expect_bad_cdb(struct fx_task *ft, unsigned byte, unsigned bit)
{
	fx_bad_field(ft, byte, bit);
	fx_task_free(ft);
}

/* ---- The pages ---- */

enum { WCE = 1, D_SENSE = 2, SWP = 4 };

struct values {
	bool ps;     /* in the first byte of each page */
	uint8_t wce; /* byte 2 of 08h, of it */
	uint8_t control_2, control_4;
	bool mask; /* of what is changeable: all else is 0 */
};

#define PAGES_LEN (12 + 20 + 12 + 32 + 40 + 12)
enum { AT_01 = 0, AT_08 = 12, AT_0A = 32, AT_0A_01 = 44, AT_1A = 76, AT_1C = 116 };

static void want_pages(uint8_t out[PAGES_LEN], const struct values *v)
{
	static const uint8_t fixed[PAGES_LEN] = {
		/* 01h: AWRE and its twin for reads */
		0x01, 0x0a, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		/* 08h: nothing limits reading ahead */
		0x08, 0x12, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0,
		/* 0Ah: TST 1, GLTSD; unrestricted order; BUSY without limit; a second of self-test */
		0x0a, 0x0a, 0x22, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 1,
		/* 0Ah/01h: TCMOS, SCSIP */
		0x4a, 0x01, 0, 0x1c, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0,
		/* 1Ah */
		0x1a, 0x26, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		/* 1Ch: DEXCPT */
		0x1c, 0x0a, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	static const struct {
		unsigned at, header;
	} page[] = {{AT_01, 2}, {AT_08, 2}, {AT_0A, 2}, {AT_0A_01, 4}, {AT_1A, 2}, {AT_1C, 2}};

	memset(out, 0, PAGES_LEN);
	for (size_t i = 0; i < ARRAY_LEN(page); i++) {
		memcpy(out + page[i].at, fixed + page[i].at, page[i].header);
		out[page[i].at] |= v->ps ? 0x80 : 0;
	}
	for (size_t i = 0; i < PAGES_LEN && !v->mask; i++)
		out[i] |= fixed[i];
	out[AT_08 + 2] |= v->wce;
	out[AT_0A + 2] |= v->control_2;
	out[AT_0A + 4] |= v->control_4;
	out[AT_0A + 5] |= v->mask ? 0x40 : 0; /* TAS */
}

/* MODE SENSE(10) of all pages, without block descriptors. */
static void expect_pages(uint8_t lun, unsigned pc, uint8_t device, const struct values *v)
{
	uint8_t want[8 + PAGES_LEN] = {0, 6 + PAGES_LEN, 0, device};

	want_pages(want + 8, v);
	expect_bytes(
		AT(&a, lun, 255, 0x5a, 0x08, (uint8_t)(pc << 6 | 0x3f), 0xff, 0, 0, 0, 0, 255, 0),
		want, sizeof(want));
}

/* The three bits, as they are now. */
static void expect_bits(uint8_t lun, unsigned pc, unsigned bits)
{
	struct fx_task *ft =
		AT(&a, lun, 255, 0x5a, 0x08, (uint8_t)(pc << 6 | 0x3f), 0xff, 0, 0, 0, 0, 255, 0);
	const uint8_t *p = ft->data + 8;
	unsigned is = 0;

	/* In descriptor format no sense is looked at here. */
	assert_int_equal(ft->t.status, SCSI_GOOD);
	is |= p[AT_08 + 2] & 0x04 ? WCE : 0;
	is |= p[AT_0A + 2] & 0x04 ? D_SENSE : 0;
	is |= p[AT_0A + 4] & 0x08 ? SWP : 0;
	assert_int_equal(is, bits);
	fx_task_free(ft);
}

static void all_pages_of_a_disk_in_memory(void **state)
{
	const struct values v = {0}, mask = {.mask = true, .control_2 = 0x04, .control_4 = 0x08};

	expect_pages(ON_RAM, 0, 0x10, &v);
	expect_pages(ON_RAM, 1, 0x10, &mask);
	expect_pages(ON_RAM, 2, 0x10, &v);
	expect_sense(AT(&a, ON_RAM, 255, 0x1a, 0x08, 0xff, 0, 255, 0), 0x5, 0x39, 0x00);
	expect_sense(AT(&a, ON_RAM, 255, 0x5a, 0x08, 0xc8, 0, 0, 0, 0, 0, 255, 0), 0x5, 0x39, 0x00);
	/* WP */
	expect_pages(ON_READ_ONLY, 0, 0x90, &v);
}

static void all_pages_of_a_disk_with_a_cache(void **state)
{
	const struct values v = {.ps = saveable, .wce = 0x04};
	const struct values mask = {
		.ps = saveable, .mask = true, .wce = 0x04, .control_2 = 0x04, .control_4 = 0x08};

	expect_pages(ON_FILE, 0, 0x10, &v);
	expect_pages(ON_FILE, 1, 0x10, &mask);
	expect_pages(ON_FILE, 2, 0x10, &v);
	if (saveable)
		expect_pages(ON_FILE, 3, 0x10, &v);
}

static void headers_and_block_descriptors(void **state)
{
	static const uint8_t want_6[] = {4 + 8 + 12 - 1, 0,    0x10, 8, 0, 0, 0x80, 0, 0, 0, 2, 0,
					 0x01,           0x0a, 0xc0, 0, 0, 0, 0,    0, 0, 0, 0, 0};
	static const uint8_t want_10[] = {
		0, 8 + 8 + 12 - 2, 0,    0x90, 0, 0, 0, 8, 0, 0, 0x10, 0, 0, 0, 0x10,
		0, 0x01,           0x0a, 0xc0, 0, 0, 0, 0, 0, 0, 0,    0, 0};
	static const uint8_t want_long[] = {0,    8 + 16 + 12 - 2,
					    0,    0x10,
					    1,    0,
					    0,    16,
					    0,    0,
					    0,    0,
					    0,    0,
					    0x80, 0,
					    0,    0,
					    0,    0,
					    0,    0,
					    2,    0,
					    0x01, 0x0a,
					    0xc0, 0,
					    0,    0,
					    0,    0,
					    0,    0,
					    0,    0};

	expect_bytes(AT(&a, ON_RAM, 255, 0x1a, 0, 0x01, 0, 255, 0), want_6, sizeof(want_6));
	expect_bytes(AT(&a, ON_READ_ONLY, 255, 0x5a, 0, 0x01, 0, 0, 0, 0, 0, 255, 0), want_10,
		     sizeof(want_10));
	expect_bytes(AT(&a, ON_RAM, 255, 0x5a, 0x10, 0x01, 0, 0, 0, 0, 0, 255, 0), want_long,
		     sizeof(want_long));
	for (uint8_t len = 0; len < sizeof(want_6); len++)
		expect_bytes(AT(&a, ON_RAM, 255, 0x1a, 0, 0x01, 0, len, 0), want_6, len);
}

static bool page_exists(unsigned code, unsigned subpage)
{
	static const uint8_t codes[] = {0x01, 0x08, 0x0a, 0x1a, 0x1c, 0x3f};

	return memchr(codes, (int)code, sizeof(codes)) != NULL &&
	       (subpage == 0 || subpage == 0xff || (code == 0x0a && subpage == 1));
}

static bool code_exists(unsigned code)
{
	return page_exists(code, 0);
}

static void no_other_page_exists(void **state)
{
	static const uint8_t subpages[] = {0x00, 0x01, 0x02, 0x80, 0xfe, 0xff};

	for (unsigned code = 0; code < 64; code++) {
		for (size_t i = 0; i < sizeof(subpages); i++) {
			const uint8_t subpage = subpages[i];
			struct fx_task *ft =
				AT(&a, ON_RAM, 255, 0x1a, 8, (uint8_t)code, subpage, 255, 0);

			if (page_exists(code, subpage))
				fx_good(ft);
			else if (code_exists(code))
				fx_bad_field(ft, 3, 7);
			else
				fx_bad_field(ft, 2, 5);
			fx_task_free(ft);
		}
	}
}

static void all_pages_are_those_asked_for_alone(void **state)
{
	const struct values v = {0};
	uint8_t want[4 + PAGES_LEN] = {3 + PAGES_LEN, 0, 0x10, 0};

	want_pages(want + 4, &v);
	expect_bytes(AT(&a, ON_RAM, 255, 0x1a, 8, 0x3f, 0xff, 255, 0), want, sizeof(want));
	/* A page and its subpages. */
	memmove(want + 4, want + 4 + AT_0A, 12 + 32);
	want[0] = 3 + 12 + 32;
	expect_bytes(AT(&a, ON_RAM, 255, 0x1a, 8, 0x0a, 0xff, 255, 0), want, 4 + 12 + 32);
	/* All pages, but no subpages. */
	want_pages(want + 4, &v);
	memmove(want + 4 + AT_0A_01, want + 4 + AT_1A, 40 + 12);
	want[0] = 3 + PAGES_LEN - 32;
	expect_bytes(AT(&a, ON_RAM, 255, 0x1a, 8, 0x3f, 0, 255, 0), want, 4 + PAGES_LEN - 32);
}

/* ---- Lists ---- */

#define LIST_LEN (8 + PAGES_LEN)

/* All pages of MODE SELECT(10) as they are, behind an empty header. */
static void make_list(uint8_t lun, uint8_t list[LIST_LEN])
{
	struct fx_task *ft = AT(&a, lun, 255, 0x5a, 0x08, 0x3f, 0xff, 0, 0, 0, 0, 255, 0);

	assert_int_equal(ft->t.status, SCSI_GOOD);
	assert_int_equal(ft->moved, LIST_LEN);
	memcpy(list, ft->data, LIST_LEN);
	memset(list, 0, 8);
	fx_task_free(ft);
}

static void what_was_sensed_can_be_selected(void **state)
{
	uint8_t list[LIST_LEN + 8];
	struct fx_task *ft;

	for (uint8_t lun = 0; lun < NDISKS; lun++) {
		/* With its mode data length, WP, DPOFUA, block descriptor and PS. */
		ft = AT(&a, lun, 255, 0x5a, 0, 0x3f, 0xff, 0, 0, 0, 0, 255, 0);
		assert_int_equal(ft->moved, sizeof(list));
		memcpy(list, ft->data, sizeof(list));
		fx_task_free(ft);
		expect_good(select_10(lun, PF, list, sizeof(list)));
		ft = AT(&a, lun, 255, 0x1a, 0, 0x3f, 0xff, 255, 0);
		assert_int_equal(ft->moved, sizeof(list) - 4);
		memcpy(list, ft->data, sizeof(list) - 4);
		fx_task_free(ft);
		expect_good(select_6(lun, PF, list, sizeof(list) - 4));
		/* Nothing has changed, so nobody hears of it. */
		expect_ready(&b, lun);
	}
}

/* Fields of more than one bit: page, byte and bit where they begin, width in bits. */
static const struct {
	unsigned page, byte, bit, width;
} wide[] = {
	{AT_01, 3, 7, 8},    {AT_01, 8, 7, 8},   {AT_01, 10, 7, 16}, {AT_08, 3, 7, 4},
	{AT_08, 3, 3, 4},    {AT_08, 4, 7, 16},  {AT_08, 6, 7, 16},  {AT_08, 8, 7, 16},
	{AT_08, 10, 7, 16},  {AT_08, 12, 2, 2},  {AT_08, 13, 7, 8},  {AT_08, 14, 7, 16},
	{AT_0A, 2, 7, 3},    {AT_0A, 3, 7, 4},   {AT_0A, 3, 2, 2},   {AT_0A, 4, 5, 2},
	{AT_0A, 5, 2, 3},    {AT_0A, 8, 7, 16},  {AT_0A, 10, 7, 16}, {AT_0A_01, 5, 3, 4},
	{AT_0A_01, 6, 7, 8}, {AT_1A, 2, 7, 2},   {AT_1A, 4, 7, 32},  {AT_1A, 8, 7, 32},
	{AT_1A, 12, 7, 32},  {AT_1A, 16, 7, 32}, {AT_1A, 20, 7, 32}, {AT_1A, 39, 7, 2},
	{AT_1A, 39, 5, 2},   {AT_1A, 39, 3, 2},  {AT_1C, 3, 3, 4},   {AT_1C, 4, 7, 32},
	{AT_1C, 8, 7, 32},
};

static void field_of(unsigned bit_at, unsigned *byte, unsigned *bit)
{
	for (size_t i = 0; i < ARRAY_LEN(wide); i++) {
		const unsigned first = (wide[i].page + wide[i].byte) * 8 + 7 - wide[i].bit;

		if (first <= bit_at && bit_at < first + wide[i].width)
			bit_at = first;
	}
	*byte = 8 + bit_at / 8;
	*bit = 7 - bit_at % 8;
}

static bool is_header(unsigned byte)
{
	return byte < 2 || (byte >= AT_08 && byte < AT_08 + 2) ||
	       (byte >= AT_0A && byte < AT_0A + 2) || (byte >= AT_0A_01 && byte < AT_0A_01 + 4) ||
	       (byte >= AT_1A && byte < AT_1A + 2) || (byte >= AT_1C && byte < AT_1C + 2);
}

static bool is_changeable(uint8_t lun, unsigned byte, unsigned bit)
{
	return (byte == AT_08 + 2 && bit == 2 && lun == ON_FILE) ||
	       (byte == AT_0A + 2 && bit == 2) || (byte == AT_0A + 4 && bit == 3) ||
	       (byte == AT_0A + 5 && bit == 6);
}

static void no_other_bit_can_be_changed(uint8_t lun)
{
	uint8_t list[LIST_LEN];
	unsigned byte, bit, tried = 0;

	make_list(lun, list);
	for (unsigned i = 0; i < PAGES_LEN * 8; i++) {
		if (is_header(i / 8) || is_changeable(lun, i / 8, 7 - i % 8))
			continue;
		list[8 + i / 8] ^= (uint8_t)(0x80 >> i % 8);
		field_of(i, &byte, &bit);
		expect_bad(select_10(lun, PF, list, LIST_LEN), byte, bit);
		list[8 + i / 8] ^= (uint8_t)(0x80 >> i % 8);
		tried++;
	}
	assert_int_equal(tried, (PAGES_LEN - 14) * 8 - (lun == ON_FILE ? 4 : 3));
	expect_ready(&b, lun);
}

static void what_is_fixed_stays_on_a_file(void **state)
{
	no_other_bit_can_be_changed(ON_FILE);
	expect_bits(ON_FILE, 0, WCE);
}

static void what_is_fixed_stays_in_memory(void **state)
{
	no_other_bit_can_be_changed(ON_RAM);
	expect_bits(ON_RAM, 0, 0);
}

/* Each page must have its own code, format and length. */
static void page_headers_are_checked(void **state)
{
	uint8_t list[LIST_LEN];

	make_list(ON_FILE, list);
	for (unsigned i = 0; i < PAGES_LEN; i++) {
		for (unsigned bit = 0; bit < 8 && is_header(i); bit++) {
			struct fx_task *ft;

			list[8 + i] ^= (uint8_t)(1 << bit);
			ft = select_10(ON_FILE, PF, list, LIST_LEN);
			/* PS means nothing here. */
			if (bit == 7 && (i == AT_01 || i == AT_08 || i == AT_0A || i == AT_0A_01 ||
					 i == AT_1A || i == AT_1C)) {
				fx_good(ft);
			} else {
				fx_sense(ft, 0x5, 0x26, 0x00);
			}
			fx_task_free(ft);
			list[8 + i] ^= (uint8_t)(1 << bit);
		}
	}
	/* There is no such page; no such subpage; SPF where there are none; another length. */
	list[8 + AT_08] = 0x07;
	expect_bad(select_10(ON_FILE, PF, list, LIST_LEN), 8 + AT_08, 5);
	make_list(ON_FILE, list);
	list[8 + AT_0A_01 + 1] = 2;
	expect_bad(select_10(ON_FILE, PF, list, LIST_LEN), 8 + AT_0A_01 + 1, 7);
	make_list(ON_FILE, list);
	list[8 + AT_0A_01] &= 0xbf;
	expect_bad(select_10(ON_FILE, PF, list, LIST_LEN), 8 + AT_0A_01 + 1, 7);
	make_list(ON_FILE, list);
	list[8 + AT_1A] |= 0x40;
	expect_bad(select_10(ON_FILE, PF, list, LIST_LEN), 8 + AT_1A + 1, 7);
	make_list(ON_FILE, list);
	list[8 + AT_1C + 1]++;
	expect_bad(select_10(ON_FILE, PF, list, LIST_LEN), 8 + AT_1C + 1, 7);
	make_list(ON_FILE, list);
	list[8 + AT_0A_01 + 3]--;
	expect_bad(select_10(ON_FILE, PF, list, LIST_LEN), 8 + AT_0A_01 + 2, 7);
	expect_ready(&b, ON_FILE);
}

static bool ends_a_page(uint32_t len)
{
	return len == 0 || len == 8 || len == 8 + AT_08 || len == 8 + AT_0A ||
	       len == 8 + AT_0A_01 || len == 8 + AT_1A || len == 8 + AT_1C || len == LIST_LEN;
}

static void lists_that_are_cut(void **state)
{
	uint8_t list[LIST_LEN + 16] = {0};

	make_list(ON_FILE, list);
	for (uint32_t len = 0; len <= LIST_LEN; len++) {
		if (ends_a_page(len))
			expect_good(select_10(ON_FILE, PF, list, len));
		else
			expect_sense(select_10(ON_FILE, PF, list, len), 0x5, 0x1a, 0x00);
	}
	/* The initiator brings less than it said. */
	for (uint32_t len = 0; len < LIST_LEN; len++)
		expect_sense(select_some(ON_FILE, true, PF, list, LIST_LEN, len), 0x5, 0x1a, 0x00);
	/* A header alone, and block descriptors that are cut. */
	memset(list, 0, sizeof(list));
	for (uint32_t len = 1; len < 4; len++)
		expect_sense(select_6(ON_FILE, PF, list, len), 0x5, 0x1a, 0x00);
	list[3] = 8;
	for (uint32_t len = 4; len < 12; len++)
		expect_sense(select_6(ON_FILE, PF, list, len), 0x5, 0x1a, 0x00);
	list[3] = 0;
	list[7] = 16;
	list[4] = 1;
	for (uint32_t len = 8; len < 24; len++)
		expect_sense(select_10(ON_FILE, PF, list, len), 0x5, 0x1a, 0x00);
	expect_ready(&b, ON_FILE);
}

static void garbage(void **state)
{
	uint32_t seed = 20261120;
	uint8_t list[LIST_LEN], noise[255];

	make_list(ON_FILE, list);
	for (unsigned i = 0; i < 1000; i++) {
		struct fx_task *ft;
		uint32_t len;

		for (size_t n = 0; n < sizeof(noise); n++) {
			seed = seed * 1103515245 + 12345;
			noise[n] = (uint8_t)(seed >> 16);
		}
		/* Half of it is a good list with some bytes gone wrong. */
		len = noise[0];
		if (i % 2 != 0) {
			const unsigned wrong = noise[1] % 4;
			uint8_t copy[LIST_LEN];

			memcpy(copy, list, LIST_LEN);
			for (unsigned n = 0; n < wrong; n++)
				copy[noise[2 + n] % LIST_LEN] = noise[10 + n];
			memcpy(noise, copy, LIST_LEN);
			len = LIST_LEN;
		}
		ft = select_10(ON_FILE, PF, noise, len);
		assert_true(ft->t.status == SCSI_GOOD || ft->t.status == SCSI_CHECK_CONDITION);
		fx_task_free(ft);
		ft = select_6(ON_FILE, PF, noise, len);
		assert_true(ft->t.status == SCSI_GOOD || ft->t.status == SCSI_CHECK_CONDITION);
		fx_task_free(ft);
	}
}

static void headers_are_checked(void **state)
{
	uint8_t list[24] = {0};

	/* Mode data length, WP and DPOFUA come as they were told. */
	list[0] = 0x55;
	list[2] = 0x90;
	expect_good(select_6(ON_RAM, PF, list, 4));
	list[1] = 1;
	expect_bad(select_6(ON_RAM, PF, list, 4), 1, 7);
	list[1] = 0;
	list[2] = 0x20;
	expect_bad(select_6(ON_RAM, PF, list, 4), 2, 5);
	list[2] = 0;
	for (unsigned len = 1; len < 256; len++) {
		list[3] = (uint8_t)len;
		if (len != 8)
			expect_bad(select_6(ON_RAM, PF, list, 24), 3, 7);
	}

	memset(list, 0, sizeof(list));
	store_be16(list, 0x1234);
	list[3] = 0x90;
	expect_good(select_10(ON_RAM, PF, list, 8));
	list[2] = 0x80;
	expect_bad(select_10(ON_RAM, PF, list, 8), 2, 7);
	list[2] = 0;
	list[3] = 0x0f;
	expect_bad(select_10(ON_RAM, PF, list, 8), 3, 3);
	list[3] = 0;
	list[4] = 0x03;
	expect_bad(select_10(ON_RAM, PF, list, 8), 4, 1);
	list[4] = 0;
	list[5] = 0x01;
	expect_bad(select_10(ON_RAM, PF, list, 8), 5, 7);
	list[5] = 0;
	/* A long descriptor with LONGLBA only, a short one without only, and one at most. */
	list[7] = 16;
	expect_bad(select_10(ON_RAM, PF, list, 24), 6, 7);
	list[7] = 8;
	list[4] = 0x01;
	expect_bad(select_10(ON_RAM, PF, list, 24), 6, 7);
	list[6] = 1;
	expect_bad(select_10(ON_RAM, PF, list, 24), 6, 7);
}

static void block_descriptors_say_what_is(void **state)
{
	uint8_t list[24] = {[3] = 8};

	store_be32(list + 8, 512);
	for (unsigned i = 0; i < 3; i++) {
		store_be32(list + 4, i == 0 ? 0 : i == 1 ? UINT32_MAX : BLOCKS);
		expect_good(select_6(ON_RAM, PF, list, 12));
	}
	store_be32(list + 4, BLOCKS - 1);
	expect_bad(select_6(ON_RAM, PF, list, 12), 4, 7);
	store_be32(list + 4, BLOCKS);
	list[8] = 1;
	expect_bad(select_6(ON_RAM, PF, list, 12), 8, 7);
	list[8] = 0;
	store_be24(list + 9, 4096);
	expect_bad(select_6(ON_RAM, PF, list, 12), 9, 7);

	memset(list, 0, sizeof(list));
	list[4] = 1;
	list[7] = 16;
	store_be32(list + 20, 512);
	for (unsigned i = 0; i < 3; i++) {
		store_be64(list + 8, i == 0 ? 0 : i == 1 ? UINT64_MAX : BLOCKS);
		expect_good(select_10(ON_RAM, PF, list, 24));
	}
	store_be64(list + 8, UINT32_MAX);
	expect_bad(select_10(ON_RAM, PF, list, 24), 8, 7);
	store_be64(list + 8, 0);
	list[16] = 1;
	expect_bad(select_10(ON_RAM, PF, list, 24), 16, 7);
	list[16] = 0;
	store_be32(list + 20, 0);
	expect_bad(select_10(ON_RAM, PF, list, 24), 20, 7);
	expect_ready(&b, ON_RAM);
}

static void pages_need_the_page_format(void **state)
{
	uint8_t list[LIST_LEN];

	make_list(ON_FILE, list);
	expect_bad_cdb(select_10(ON_FILE, 0, list, LIST_LEN), 1, 4);
	expect_good(select_10(ON_FILE, 0, list, 8));
	expect_good(select_10(ON_FILE, 0, list, 0));
}

/* ---- What the bits do ---- */

/* Bits of the list of all pages. */
static void set_bits(uint8_t list[LIST_LEN], unsigned bits)
{
	uint8_t *p = list + 8;

	p[AT_08 + 2] = (uint8_t)((p[AT_08 + 2] & ~0x04) | (bits & WCE ? 0x04 : 0));
	p[AT_0A + 2] = (uint8_t)((p[AT_0A + 2] & ~0x04) | (bits & D_SENSE ? 0x04 : 0));
	p[AT_0A + 4] = (uint8_t)((p[AT_0A + 4] & ~0x08) | (bits & SWP ? 0x08 : 0));
}

static void change(uint8_t lun, uint8_t flags, unsigned bits)
{
	uint8_t list[LIST_LEN];

	make_list(lun, list);
	set_bits(list, bits);
	expect_good(select_10(lun, PF | flags, list, LIST_LEN));
}

static const struct unit_view *view(uint8_t lun)
{
	/* The newest: nothing is under way that would change it. */
	return unit_first_view(fx.units[lun]);
}

static uint64_t flushes(uint8_t lun)
{
	struct unit_stats s;

	unit_stats_read(fx.units[lun], &s);
	return s.op[IO_FLUSH].ops;
}

static struct fx_task *write_block(uint8_t lun)
{
	struct fx_task *ft = fx_rw(&a, 0x2a, 0, 1);

	ft->t.lun[1] = lun;
	fx_expect_out(ft, 512);
	fx_run(&fx, ft);
	return ft;
}

static void a_cache_that_is_switched_off_is_flushed(void **state)
{
	const uint64_t before = flushes(ON_FILE);

	assert_int_equal(view(ON_FILE)->flags & UNIT_WRITE_THROUGH, 0);
	change(ON_FILE, 0, 0);
	/* Those that were told are this one's peers. */
	expect_told(&b, ON_FILE);
	expect_ready(&a, ON_FILE);
	expect_bits(ON_FILE, 0, 0);
	assert_true(flushes(ON_FILE) > before);
	assert_true(view(ON_FILE)->flags & UNIT_WRITE_THROUGH);
	change(ON_FILE, 0, WCE);
	expect_told(&b, ON_FILE);
	expect_bits(ON_FILE, 0, WCE);
	assert_int_equal(view(ON_FILE)->flags & UNIT_WRITE_THROUGH, 0);
	/* Where there is none, it is off, and no write needs more for that. */
	assert_int_equal(view(ON_RAM)->flags & UNIT_WRITE_THROUGH, 0);
}

static void software_write_protection(void **state)
{
	const struct values v = {.control_4 = 0x08};

	expect_good(write_block(ON_RAM));
	change(ON_RAM, 0, SWP);
	expect_told(&b, ON_RAM);
	expect_sense(write_block(ON_RAM), 0x7, 0x27, 0x02);
	/* WP */
	expect_pages(ON_RAM, 0, 0x90, &v);
	expect_ready(&a, ON_FILE);
	change(ON_RAM, 0, 0);
	expect_told(&b, ON_RAM);
	expect_good(write_block(ON_RAM));
}

static void sense_in_the_format_that_was_asked_for(void **state)
{
	struct fx_task *ft;

	change(ON_RAM, 0, D_SENSE);
	expect_bits(ON_RAM, 0, D_SENSE);
	ft = AT(&a, ON_RAM, 0, 0x28, 0xff, 0, 0, 0, 0, 0, 0, 0, 0);
	assert_int_equal(ft->t.status, SCSI_CHECK_CONDITION);
	assert_int_equal(ft->t.sense[0], 0x72);
	fx_task_free(ft);
	/* The unit attention of this change is in that format, too. */
	ft = AT(&b, ON_RAM, 0, 0x00, 0, 0, 0, 0, 0);
	assert_int_equal(ft->t.sense[0], 0x72);
	assert_int_equal(ft->t.sense[1], 0x06);
	assert_int_equal(ft->t.sense[2], 0x2a);
	assert_int_equal(ft->t.sense[3], 0x01);
	fx_task_free(ft);
	change(ON_RAM, 0, 0);
	expect_told(&b, ON_RAM);
	expect_bad_cdb(AT(&a, ON_RAM, 0, 0x28, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0), 1, 7);
}

static void all_or_none(void **state)
{
	uint8_t list[LIST_LEN];

	make_list(ON_FILE, list);
	set_bits(list, D_SENSE | SWP);
	list[8 + AT_1C + 2] ^= 0x01;
	expect_bad(select_10(ON_FILE, PF, list, LIST_LEN), 8 + AT_1C + 2, 0);
	expect_bits(ON_FILE, 0, WCE);
	expect_ready(&b, ON_FILE);
	/* One page changes what is in it. */
	memmove(list + 4, list + 8 + AT_0A, 12);
	expect_good(select_6(ON_FILE, PF, list, 4 + 12));
	expect_bits(ON_FILE, 0, WCE | D_SENSE | SWP);
	change(ON_FILE, 0, WCE);
}

static void a_change_that_is_none_is_told_to_nobody(void **state)
{
	change(ON_RAM, 0, SWP);
	expect_told(&b, ON_RAM);
	change(ON_RAM, 0, SWP);
	expect_ready(&b, ON_RAM);
	change(ON_RAM, 0, 0);
	expect_told(&b, ON_RAM);
}

/* The last of two pages with the same code counts. */
static void pages_count_in_their_order(void **state)
{
	uint8_t list[LIST_LEN], twice[4 + 24] = {0};

	make_list(ON_RAM, list);
	memcpy(twice + 4, list + 8 + AT_0A, 12);
	memcpy(twice + 16, list + 8 + AT_0A, 12);
	twice[4 + 4] |= 0x08;
	expect_good(select_6(ON_RAM, PF, twice, sizeof(twice)));
	expect_bits(ON_RAM, 0, 0);
	expect_ready(&b, ON_RAM);
}

/* A stopped unit has its mode parameters all the same, and so has one that is never written. */
static void where_nothing_is_written(void **state)
{
	struct fx_task *ft = AT(&a, ON_FILE, 0, 0x1b, 0, 0, 0, 0, 0);

	expect_good(ft);
	change(ON_FILE, 0, SWP);
	expect_bits(ON_FILE, 0, SWP);
	change(ON_FILE, 0, WCE);
	expect_good(AT(&a, ON_FILE, 0, 0x1b, 0, 0, 0, 1, 0));
	expect_told(&b, ON_FILE);
	change(ON_READ_ONLY, 0, SWP);
	expect_bits(ON_READ_ONLY, 0, SWP);
	change(ON_READ_ONLY, 0, 0);
	expect_told(&b, ON_READ_ONLY);
}

/* RESERVE of another nexus keeps everybody out. */
static void reservations(void **state)
{
	uint8_t list[LIST_LEN];
	struct fx_task *ft;

	make_list(ON_RAM, list);
	expect_good(AT(&b, ON_RAM, 0, 0x16, 0, 0, 0, 0, 0));
	set_bits(list, SWP);
	ft = select_10(ON_RAM, PF, list, LIST_LEN);
	assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
	fx_task_free(ft);
	ft = AT(&a, ON_RAM, 255, 0x1a, 8, 0x3f, 0, 255, 0);
	assert_int_equal(ft->t.status, SCSI_RESERVATION_CONFLICT);
	fx_task_free(ft);
	expect_good(AT(&b, ON_RAM, 0, 0x17, 0, 0, 0, 0, 0));
	expect_bits(ON_RAM, 0, 0);
	expect_ready(&b, ON_RAM);
}

/* ---- Saved values ---- */

static void nothing_to_save_with(void **state)
{
	uint8_t list[LIST_LEN];

	make_list(ON_RAM, list);
	expect_bad_cdb(select_10(ON_RAM, PF | SP, list, LIST_LEN), 1, 0);
	expect_bad_cdb(select_10(ON_RAM, PF | SP, list, 0), 1, 0);
}

static void restart(void)
{
	power_down();
	power_up();
}

static void saved_values_come_back(void **state)
{
	if (!saveable)
		skip();
	change(ON_FILE, 0, SWP);
	expect_told(&b, ON_FILE);
	expect_bits(ON_FILE, 3, WCE);
	restart();
	expect_bits(ON_FILE, 0, WCE);

	for (unsigned bits = 0; bits < 8; bits++) {
		change(ON_FILE, SP, bits);
		expect_bits(ON_FILE, 3, bits);
		restart();
		expect_bits(ON_FILE, 0, bits);
		expect_bits(ON_FILE, 3, bits);
		expect_bits(ON_FILE, 2, WCE);
		assert_int_equal((view(ON_FILE)->flags & UNIT_SOFT_PROTECTED) != 0,
				 (bits & SWP) != 0);
		assert_int_equal((view(ON_FILE)->flags & UNIT_WRITE_THROUGH) != 0,
				 (bits & WCE) == 0);
		/* The format that unit attentions have. */
		change(ON_FILE, 0, bits & ~(unsigned)D_SENSE);
	}
}

/* With SP all pages are saved, in the list or not. */
static void what_is_in_force_is_saved(void **state)
{
	if (!saveable)
		skip();
	change(ON_FILE, 0, SWP);
	expect_bits(ON_FILE, 3, WCE);
	expect_good(select_10(ON_FILE, SP, (const uint8_t *)"", 0));
	expect_bits(ON_FILE, 3, SWP);
	expect_told(&b, ON_FILE);
	restart();
	expect_bits(ON_FILE, 0, SWP);
}

static void tags_that_say_nothing(void **state)
{
	static const char *const broken[] = {
		"",
		"1",
		"2 wce=0 swp=1 d_sense=1",
		"1 wce=0 swp=1",
		"1 wce=0 swp=1 d_sense=1 more=1",
		"1 wce=0 swp=1 d_sense=2",
		"1 wce=0 swp=1 d_sense=",
		"1 wce=0  swp=1 d_sense=1",
		"1 wce=0 swp=1 d_sense=1\n",
		"1 wce=0 swp=1 d_sense=1 and so on, and on, and on, and on, and on, and on, and on",
	};

	if (!saveable)
		skip();
	for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
		assert_int_equal(
			store_tag_set(fx.stores[ON_FILE], "mode", broken[i], strlen(broken[i])), 0);
		restart();
		expect_bits(ON_FILE, 0, WCE);
		expect_bits(ON_FILE, 3, WCE);
	}
	/* The second one was kept before there was a TAS. */
	for (size_t len = 29; len >= 23; len -= 6) {
		assert_int_equal(store_tag_set(fx.stores[ON_FILE], "mode",
					       "1 wce=0 swp=1 d_sense=0 tas=0", len),
				 0);
		restart();
		expect_bits(ON_FILE, 0, SWP);
	}
}

/* ---- Failures ---- */

static int up_failing(void **state)
{
	fx_init(&fx);
	fx_add_disk(&fx, "fault:volatile=on,rule=flush;eio:ram:16M", 512, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	fx_start(&fx);
	fx_open(&fx, &a);
	fx_take_power_on(&a, 0);
	return 0;
}

static int down_alone(void **state)
{
	fx_close(&a);
	fx_down(&fx);
	return 0;
}

/* What cannot be flushed is not said to be on the disk, and the cache stays as it is. */
static void a_flush_that_fails(void **state)
{
	uint8_t list[LIST_LEN];

	make_list(0, list);
	set_bits(list, 0);
	expect_sense(select_10(0, PF, list, LIST_LEN), 0x3, 0x0c, 0x00);
	expect_bits(0, 0, WCE);
}

static int up_hanging(void **state)
{
	fx_init(&fx);
	fx_add_disk(&fx, "fault:volatile=on,rule=write@8M-9M;hang:ram:16M", 512, false);
	assert_int_equal(scsi_target_add_lun(fx.target, 0, fx.lus[0]), 0);
	fx_start(&fx);
	fx_open(&fx, &a);
	fx_take_power_on(&a, 0);
	return 0;
}

/* What is under way when the cache goes off is waited for, and is flushed, too. */
static void a_write_that_is_under_way(void **state)
{
	struct fx_task *write = fx_rw(&a, 0x2a, 8 * MiB / 512, 1), *select;
	uint8_t list[LIST_LEN], cdb[10] = {0x55, PF};

	make_list(0, list);
	set_bits(list, 0);
	fx_expect_out(write, 512);
	fx_submit(&fx, write);
	store_be16(cdb + 7, LIST_LEN);
	select = fx_task_new(&a, cdb, 10);
	fx_expect_out(select, LIST_LEN);
	memcpy(select->data, list, LIST_LEN);
	fx_submit(&fx, select);
	fx_settle(&fx);
	assert_false(write->finished);
	assert_false(select->finished);
	expect_bits(0, 0, WCE);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(write);
	fx_good(write);
	fx_task_free(write);
	fx_finish_wait(select);
	expect_good(select);
	expect_bits(0, 0, 0);
}

/* An abort of a change that waits leaves everything as it was. */
static void a_change_that_is_aborted(void **state)
{
	struct fx_task *write = fx_rw(&a, 0x2a, 8 * MiB / 512, 1), *select;
	uint8_t list[LIST_LEN], cdb[10] = {0x55, PF};

	make_list(0, list);
	set_bits(list, 0);
	fx_expect_out(write, 512);
	fx_submit(&fx, write);
	store_be16(cdb + 7, LIST_LEN);
	select = fx_task_new(&a, cdb, 10);
	fx_expect_out(select, LIST_LEN);
	memcpy(select->data, list, LIST_LEN);
	fx_submit(&fx, select);
	fx_settle(&fx);
	fx_call(&fx, fx_close_run, &a);
	assert_int_equal(store_fault_release(fx.stores[0]), 0);
	fx_finish_wait(write);
	fx_finish_wait(select);
	assert_true(select->aborted);
	fx_task_free(write);
	fx_task_free(select);
	fx_wait(&a.sem);
	fx_open(&fx, &a);
	fx_take_power_on(&a, 0);
	expect_bits(0, 0, WCE);
}

#define ALONE(name) cmocka_unit_test_setup_teardown(name, up, down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_pages_of_a_disk_in_memory),
		cmocka_unit_test(all_pages_of_a_disk_with_a_cache),
		cmocka_unit_test(headers_and_block_descriptors),
		cmocka_unit_test(no_other_page_exists),
		cmocka_unit_test(all_pages_are_those_asked_for_alone),
		cmocka_unit_test(what_was_sensed_can_be_selected),
		cmocka_unit_test(what_is_fixed_stays_on_a_file),
		cmocka_unit_test(what_is_fixed_stays_in_memory),
		cmocka_unit_test(page_headers_are_checked),
		cmocka_unit_test(lists_that_are_cut),
		cmocka_unit_test(headers_are_checked),
		cmocka_unit_test(block_descriptors_say_what_is),
		cmocka_unit_test(pages_need_the_page_format),
		cmocka_unit_test(a_cache_that_is_switched_off_is_flushed),
		cmocka_unit_test(software_write_protection),
		cmocka_unit_test(sense_in_the_format_that_was_asked_for),
		cmocka_unit_test(a_change_that_is_none_is_told_to_nobody),
		cmocka_unit_test(pages_count_in_their_order),
		cmocka_unit_test(where_nothing_is_written),
		cmocka_unit_test(reservations),
		cmocka_unit_test(nothing_to_save_with),
	};
	/* These leave values changed. */
	static const struct CMUnitTest alone[] = {
		ALONE(all_or_none),
		ALONE(garbage),
		ALONE(saved_values_come_back),
		ALONE(what_is_in_force_is_saved),
		ALONE(tags_that_say_nothing),
		cmocka_unit_test_setup_teardown(a_flush_that_fails, up_failing, down_alone),
		cmocka_unit_test_setup_teardown(a_write_that_is_under_way, up_hanging, down_alone),
		cmocka_unit_test_setup_teardown(a_change_that_is_aborted, up_hanging, down_alone),
	};

	return cmocka_run_group_tests(tests, up, down) + cmocka_run_group_tests(alone, NULL, NULL);
}
