/*
 * Log pages: a table; a page is a function that writes its parameters and the counters that LOG
 * SELECT resets (SPC-4 7.3, SBC-3 6.4). Nothing is saved, there are no thresholds, and no parameter
 * can be set to a value.
 */
#include "scsi/impl.h"

#define SPF          0x40
#define DS           0x80 /* none of its parameters is saved */
#define ALL_SUBPAGES 0xff

/* Parameter control bytes (SPC-4 7.3.2.2.2): TSD, for the target saves nothing either. */
#define CONTROL_COUNTER 0x22
#define CONTROL_LIST    0x23

/* PC of LOG SENSE and LOG SELECT: threshold and cumulative values, current and default. */
enum { PC_THRESHOLD, PC_CUMULATIVE, PC_DEFAULT_THRESHOLD, PC_DEFAULT_CUMULATIVE };

struct log_page;

/* A page that is being written. */
struct log_reply {
	const struct log_page *page;
	const struct scsi_lu *lu;
	const struct unit_view *view;
	struct writer *w;
	uint16_t first;  /* PARAMETER POINTER */
	uint16_t newest; /* the highest parameter code so far */
	uint64_t counters[LU_COUNTERS];
};

struct log_page {
	uint8_t code, subpage;
	uint8_t first_counter, ncounters; /* what can be reset; without any, PC means nothing */
	bool (*exists)(const struct scsi_lu *lu); /* NULL: always */
	void (*write)(struct log_reply *r);
	const char *name;
};

/* ---- Parameters ---- */

/* true: its value comes next. false: it stands before those that are asked for. */
static bool begin(struct log_reply *r, unsigned code, uint8_t control, unsigned len)
{
	r->newest = low_u16(code);
	if (code < r->first)
		return false;
	write_be16(r->w, low_u16(code));
	write_u8(r->w, control);
	write_u8(r->w, low_u8(len));
	return true;
}

/* ---- 00h: what there is (SPC-4 7.3) ---- */

static void write_supported(struct log_reply *r);
static void write_supported_subpages(struct log_reply *r);

/* ---- 02h, 03h, 05h: errors of writing, reading, verifying (SPC-4 7.3) ---- */

enum { TOTAL_BYTES = 5, UNCORRECTED_ERRORS = 6 };

/* What is corrected below, or how often, is not told to us: those counters are 0. */
static void write_errors(struct log_reply *r)
{
	const uint64_t *counters = r->counters + r->page->first_counter;

	for (unsigned code = 0; code <= UNCORRECTED_ERRORS; code++) {
		if (begin(r, code, CONTROL_COUNTER, 8))
			write_be64(r->w, code < TOTAL_BYTES ? 0 : counters[code - TOTAL_BYTES]);
	}
}

/* ---- 0Ch: space (SBC-3 6.4) ---- */

enum { SCOPE_DEDICATED = 1, SCOPE_SHARED = 2 };

static bool has_space(const struct scsi_lu *lu)
{
	const struct unit_usage usage = unit_usage(lu->unit);

	return lu_can_unmap(lu) && (usage.available != UINT64_MAX || usage.allocated != UINT64_MAX);
}

/* Counted in blocks, for VPD page B2h says no other threshold set size; saturates. */
static void write_resource(struct log_reply *r, unsigned code, uint64_t nblocks, uint8_t scope)
{
	if (!begin(r, code, CONTROL_LIST, 8))
		return;
	write_be32(r->w, clamp_u32(nblocks));
	write_u8(r->w, scope);
	write_zeros(r->w, 3);
}

static void write_space(struct log_reply *r)
{
	const struct unit_usage usage = unit_usage(r->lu->unit);
	const struct bdev_info *info = r->lu->info;

	if (usage.available != UINT64_MAX)
		write_resource(r, 0x0001, usage.available >> info->block_shift, SCOPE_SHARED);
	if (usage.allocated != UINT64_MAX)
		write_resource(r, 0x0002,
			       align_up(usage.allocated, info->block_size) >> info->block_shift,
			       SCOPE_DEDICATED);
}

/* ---- 10h: self-tests (SPC-4 7.3) ---- */

static void write_self_test(struct log_reply *r, const struct self_test_result *t)
{
	uint8_t sense[SENSE_BYTES_MAX];

	sense_build(sense, &(struct sense_data){.sense = t->sense}, SENSE_FIXED);
	write_u8(r->w, low_u8(t->code << 5 | t->result));
	write_u8(r->w, t->number);
	write_be16(r->w, t->power_on_hours);
	write_be64(r->w, t->first_failure);
	write_u8(r->w, sense[2]);
	write_u8(r->w, sense[12]);
	write_u8(r->w, sense[13]);
	write_u8(r->w, 0);
}

static void write_self_tests(struct log_reply *r)
{
	struct self_test_result tests[SELF_TESTS_KEPT];
	const unsigned n = job_self_tests(r->lu, tests);

	for (unsigned i = 0; i < SELF_TESTS_KEPT; i++) {
		if (!begin(r, i + 1, CONTROL_LIST, 16))
			continue;
		if (i < n)
			write_self_test(r, &tests[i]);
		else
			write_zeros(r->w, 16);
	}
}

/* ---- 19h: statistics and performance (SPC-4 7.3) ---- */

/* Time is told in microseconds. */
#define INTERVAL_NS       1000
#define INTERVAL_EXPONENT 6

static void write_statistics(struct log_reply *r)
{
	if (begin(r, 0x0001, CONTROL_COUNTER, 64)) {
		write_be64(r->w, r->counters[COUNT_READ_COMMANDS]);
		write_be64(r->w, r->counters[COUNT_WRITE_COMMANDS]);
		write_be64(r->w, r->counters[COUNT_BLOCKS_RECEIVED]);
		write_be64(r->w, r->counters[COUNT_BLOCKS_SENT]);
		write_be64(r->w, r->counters[COUNT_READ_NS] / INTERVAL_NS);
		write_be64(r->w, r->counters[COUNT_WRITE_NS] / INTERVAL_NS);
		write_zeros(r->w, 16); /* nothing is weighted */
	}
	if (begin(r, 0x0002, CONTROL_COUNTER, 8))
		write_be64(r->w, r->counters[COUNT_IDLE_NS] / INTERVAL_NS);
	if (begin(r, 0x0003, CONTROL_LIST, 8)) {
		write_be32(r->w, INTERVAL_EXPONENT);
		write_be32(r->w, 1);
	}
}

/* ---- 2Fh: informational exceptions (SPC-4 7.3) ---- */

/* None; the temperature is not known, nor which would be too high. */
static void write_exceptions(struct log_reply *r)
{
	if (begin(r, 0x0000, CONTROL_LIST, 4))
		write_bytes(r->w, "\x00\x00\xff\xff", 4);
}

/* ---- The table ---- */

static const struct log_page pages[] = {
	{0x00, 0x00, 0, 0, NULL, write_supported, "Supported Log Pages"},
	{0x00, 0xff, 0, 0, NULL, write_supported_subpages, "Supported Log Pages and Subpages"},
	{0x02, 0x00, COUNT_WRITE_BYTES, 2, NULL, write_errors, "Write Error Counter"},
	{0x03, 0x00, COUNT_READ_BYTES, 2, NULL, write_errors, "Read Error Counter"},
	{0x05, 0x00, COUNT_VERIFY_BYTES, 2, NULL, write_errors, "Verify Error Counter"},
	{0x0c, 0x00, 0, 0, has_space, write_space, "Logical Block Provisioning"},
	{0x10, 0x00, 0, 0, NULL, write_self_tests, "Self-Test Results"},
	{0x19, 0x00, COUNT_READ_COMMANDS, LU_COUNTERS - COUNT_READ_COMMANDS, NULL, write_statistics,
	 "General Statistics and Performance"},
	{0x2f, 0x00, 0, 0, NULL, write_exceptions, "Informational Exceptions"},
};

struct page_info log_page_info(unsigned i)
{
	if (i >= ARRAY_LEN(pages))
		return (struct page_info){0};
	return (struct page_info){pages[i].code, pages[i].subpage, pages[i].name};
}

static bool exists(const struct log_page *page, const struct scsi_lu *lu)
{
	return page->exists == NULL || page->exists(lu);
}

static void write_supported(struct log_reply *r)
{
	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		if (pages[i].subpage == 0 && exists(&pages[i], r->lu))
			write_u8(r->w, pages[i].code);
	}
}

static void write_supported_subpages(struct log_reply *r)
{
	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		if (!exists(&pages[i], r->lu))
			continue;
		write_u8(r->w, pages[i].code);
		write_u8(r->w, pages[i].subpage);
	}
}

enum subpages { THIS_SUBPAGE, ANY_SUBPAGE };

/* NULL: there is no such page, and the sense points at where the CDB says so. */
static const struct log_page *find_page(struct scsi_task *task, enum subpages which)
{
	const uint8_t code = task->cdb[2] & 0x3f, subpage = task->cdb[3];
	bool known = false;

	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		if (pages[i].code != code || !exists(&pages[i], task->itl->lu))
			continue;
		known = true;
		if (which == ANY_SUBPAGE || pages[i].subpage == subpage)
			return &pages[i];
	}
	if (known)
		task_bad_field(task, 3, 7);
	else
		task_bad_field(task, 2, 5);
	return NULL;
}

/* ---- LOG SENSE ---- */

/* Default values are those after a reset: 0. */
static void load_counters(struct log_reply *r, unsigned pc)
{
	const struct lu_state *state = lu_state_of(r->view);

	memset(r->counters, 0, sizeof(r->counters));
	if (pc != PC_CUMULATIVE || r->page->ncounters == 0)
		return;
	counts_read(r->lu, r->counters);
	for (unsigned i = 0; i < LU_COUNTERS; i++)
		r->counters[i] = r->counters[i] - min_u64(r->counters[i], state->log_base[i]);
}

/* There are no thresholds to be told. PC means nothing for parameters that are not counters. */
static bool check_control(struct scsi_task *task, const struct log_page *page)
{
	const unsigned pc = task->cdb[2] >> 6;

	if (page->ncounters == 0 || pc == PC_CUMULATIVE || pc == PC_DEFAULT_CUMULATIVE)
		return true;
	task_bad_field(task, 2, 7);
	return false;
}

void log_write_page(struct scsi_task *task, struct writer *w)
{
	const struct log_page *page = find_page(task, THIS_SUBPAGE);
	struct log_reply r = {.page = page,
			      .lu = task->itl->lu,
			      .view = itl_view(task->itl),
			      .w = w,
			      .first = load_be16(task->cdb + 5)};

	if (page == NULL || !check_control(task, page))
		return;
	load_counters(&r, task->cdb[2] >> 6);
	write_u8(w, low_u8((page->code != 0 ? DS : 0u) | (page->subpage != 0 ? SPF : 0u) |
			   page->code));
	write_u8(w, page->subpage);
	write_be16(w, 0);
	page->write(&r);
	writer_patch_be16(w, 2, low_u16(w->len - 4));
	/* Beyond the last parameter there is nothing to begin with (SPC-4 6.8). */
	if (r.first > r.newest)
		task_bad_field(task, 5, 7);
}

/* ---- LOG SELECT ---- */

bool log_select_counters(struct scsi_task *task, uint32_t *counters)
{
	const uint8_t code = task->cdb[2] & 0x3f, subpage = task->cdb[3];
	const bool everything = code == 0 && subpage == 0;

	*counters = 0;
	if (find_page(task, subpage == ALL_SUBPAGES ? ANY_SUBPAGE : THIS_SUBPAGE) == NULL)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		const struct log_page *page = &pages[i];

		if (everything || page->code == code)
			*counters |= ((1u << page->ncounters) - 1) << page->first_counter;
	}
	return true;
}

/* The length of the page; 0: the sense says what is wrong. */
static unsigned check_page(struct scsi_task *task, const uint8_t *p, size_t left, unsigned at)
{
	const uint8_t code = p[0] & 0x3f;
	unsigned len;

	if (left < 4) {
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		/* The lists of pages are for LOG SENSE only. */
		if (pages[i].code != code || code == 0 || !exists(&pages[i], task->itl->lu) ||
		    pages[i].subpage != p[1] || (p[0] & SPF) != (p[1] != 0 ? SPF : 0))
			continue;
		len = load_be16(p + 2);
		if (left < 4u + len)
			scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
		else if (len != 0)
			task_bad_parameter(task, at + 4, 7); /* it can be reset only, or not even */
		return scsi_task_stopped(task) ? 0 : 4 + len;
	}
	task_bad_parameter(task, at, 5);
	return 0;
}

void log_refuse_list(struct scsi_task *task, const uint8_t *list, size_t len)
{
	unsigned at = 0;

	while (at < len) {
		const unsigned n = check_page(task, list + at, len - at, at);

		if (n == 0)
			return;
		at += n;
	}
}
