/*
 * Mode pages: a table of pages, each a table of fields (SPC-4 7.5, SBC-3 6.5). From the fields come
 * current, default, saved and changeable values, the check of what MODE SELECT brings with its field
 * pointer, and what it asks for. Apart from cmd_mode.c, which knows what stands around the pages.
 *
 * What a client may change is one bit each: enum mode_bit. It is in force in the unit's view, and
 * the saved values are a tag kept with the disk.
 */
#include <errno.h>

#include "scsi/impl.h"

#define ALL_PAGES    0x3f
#define ALL_SUBPAGES 0xff
#define SPF          0x40
#define PS           0x80

/* The longest page, with its header. */
#define PAGE_MAX 40

/* A field, by its leftmost bit. One-bit fields that are always 0 and reserved ones have no row: a
 * pointer at them is the bit itself. */
struct mode_field {
	uint8_t byte, bit, width;
	uint8_t changes; /* 1 + enum mode_bit: the bit that it is; 0: `value`, for ever */
	uint32_t value;
	uint32_t (*value_of)(const struct scsi_lu *lu, const struct unit_view *view);
};

struct mode_page {
	uint8_t code, subpage;
	uint8_t len; /* with its header */
	uint8_t nfields;
	const struct mode_field *fields;
	const char *name;
};

/* ---- The pages ---- */

/* SBC-3 6.5.8. Retries and reassignment are up to what is below: there is no REASSIGN BLOCKS here. */
static const struct mode_field recovery[] = {
	{2, 7, 1, .value = 1}, /* AWRE: automatic reassignment of writes, */
	{2, 6, 1, .value = 1}, /* and of reads */
	{3, 7, 8},             /* READ RETRY COUNT */
	{8, 7, 8},             /* WRITE RETRY COUNT */
	{10, 7, 16},           /* RECOVERY TIME LIMIT */
};

/* SBC-3 6.5.5. What is cached and read ahead is left to the host system, without a limit of ours. */
static const struct mode_field caching[] = {
	{2, 2, 1, .changes = 1 + MODE_WCE},
	{3, 7, 4},                    /* DEMAND READ RETENTION PRIORITY */
	{3, 3, 4},                    /* WRITE RETENTION PRIORITY */
	{4, 7, 16, .value = 0xffff},  /* DISABLE PRE-FETCH TRANSFER LENGTH */
	{6, 7, 16},                   /* MINIMUM PRE-FETCH */
	{8, 7, 16, .value = 0xffff},  /* MAXIMUM PRE-FETCH */
	{10, 7, 16, .value = 0xffff}, /* MAXIMUM PRE-FETCH CEILING */
	{12, 2, 2},                   /* SYNC_PROG: SYNCHRONIZE CACHE tells no progress */
	{13, 7, 8},                   /* NUMBER OF CACHE SEGMENTS */
	{14, 7, 16},                  /* CACHE SEGMENT SIZE */
};

static uint32_t self_test_time(const struct scsi_lu *lu, const struct unit_view *view)
{
	return clamp_u16(lu_self_test_seconds(view));
}

/* SPC-4 7.5.8 */
static const struct mode_field control[] = {
	{2, 7, 3, .value = 1}, /* TST: a task set for each nexus */
	{2, 2, 1, .changes = 1 + MODE_D_SENSE},
	{2, 1, 1, .value = 1}, /* GLTSD: no log parameter is ever saved */
	{3, 7, 4, .value = 1}, /* QUEUE ALGORITHM MODIFIER: SIMPLE tasks in any order */
	{3, 2, 2},             /* QERR */
	{4, 5, 2},             /* UA_INTLCK_CTRL */
	{4, 3, 1, .changes = 1 + MODE_SWP},
	{5, 6, 1, .changes = 1 + MODE_TAS},
	{5, 2, 3},                   /* AUTOLOAD MODE */
	{8, 7, 16, .value = 0xffff}, /* BUSY TIMEOUT PERIOD: without limit */
	{10, 7, 16, .value_of = self_test_time},
};

/* SPC-4 7.5.9. The wall clock is the timestamp until SET TIMESTAMP, which goes before it. */
static const struct mode_field control_extension[] = {
	{4, 2, 1, .value = 1}, /* TCMOS */
	{4, 1, 1, .value = 1}, /* SCSIP */
	{5, 3, 4},             /* INITIAL COMMAND PRIORITY */
	{6, 7, 8},             /* MAXIMUM SENSE DATA LENGTH: no limit */
};

/* SPC-4 7.5.13: no power conditions, and no timers. */
static const struct mode_field power[] = {
	{2, 7, 2},   /* PM_BG_PRECEDENCE */
	{4, 7, 32},  /* IDLE_A CONDITION TIMER */
	{8, 7, 32},  /* STANDBY_Z CONDITION TIMER */
	{12, 7, 32}, /* IDLE_B CONDITION TIMER */
	{16, 7, 32}, /* IDLE_C CONDITION TIMER */
	{20, 7, 32}, /* STANDBY_Y CONDITION TIMER */
	{39, 7, 2},  /* CCF IDLE */
	{39, 5, 2},  /* CCF STANDBY */
	{39, 3, 2},  /* CCF STOPPED */
};

/* SBC-3 6.5.6: there are none to be reported. */
static const struct mode_field exceptions[] = {
	{2, 3, 1, .value = 1}, /* DEXCPT */
	{3, 3, 4},             /* MRIE */
	{4, 7, 32},            /* INTERVAL TIMER */
	{8, 7, 32},            /* REPORT COUNT */
};

#define FIELDS(table) ARRAY_LEN(table), table

/* Ascending by code and subpage. */
static const struct mode_page pages[] = {
	{0x01, 0x00, 12, FIELDS(recovery), "Read-Write Error Recovery"},
	{0x08, 0x00, 20, FIELDS(caching), "Caching"},
	{0x0a, 0x00, 12, FIELDS(control), "Control"},
	{0x0a, 0x01, 32, FIELDS(control_extension), "Control Extension"},
	{0x1a, 0x00, 40, FIELDS(power), "Power Condition"},
	{0x1c, 0x00, 12, FIELDS(exceptions), "Informational Exceptions Control"},
};

struct page_info mode_page_info(unsigned i)
{
	struct page_info info = {0};

	if (i >= ARRAY_LEN(pages))
		return info;
	info = (struct page_info){pages[i].code, pages[i].subpage, pages[i].name};
	for (unsigned f = 0; f < pages[i].nfields; f++) {
		if (pages[i].fields[f].changes != 0)
			info.changes |= 1u << (pages[i].fields[f].changes - 1u);
	}
	return info;
}

uint64_t lu_self_test_seconds(const struct unit_view *view)
{
	/* A guess at how fast what is below reads, rather too slow than too fast. */
	const uint64_t bytes_per_s = 128 * MiB;

	return (view->size + bytes_per_s - 1) / bytes_per_s;
}

/* ---- Values ---- */

static uint32_t changeable_bits(const struct scsi_lu *lu)
{
	/* Where writes are durable at once there is no cache to be switched on. */
	const uint32_t wce = lu->info->volatile_cache ? 1u << MODE_WCE : 0;

	return wce | 1u << MODE_SWP | 1u << MODE_D_SENSE | 1u << MODE_TAS;
}

static uint32_t default_bits(const struct scsi_lu *lu)
{
	return lu->info->volatile_cache ? 1u << MODE_WCE : 0;
}

static uint32_t bits_for(const struct scsi_lu *lu, const struct unit_view *view,
			 enum mode_control kind)
{
	switch (kind) {
	case MODE_CHANGEABLE:
		return changeable_bits(lu);
	case MODE_DEFAULT:
		return default_bits(lu);
	case MODE_SAVED:
		return lu_state_of(view)->mode_saved;
	default:
		return lu_state_of(view)->mode;
	}
}

/* Bits of a page are counted from the left of its first byte. */
static unsigned first_bit(const struct mode_field *f)
{
	return f->byte * 8u + 7u - f->bit;
}

static void put_field(uint8_t *page, const struct mode_field *f, uint32_t value)
{
	const unsigned end = first_bit(f) + f->width;

	for (unsigned i = 0; i < f->width; i++) {
		const unsigned at = end - 1 - i;

		if (value >> i & 1)
			page[at / 8] |= low_u8(0x80u >> at % 8);
	}
}

static uint32_t fixed_value(const struct mode_field *f, const struct scsi_lu *lu,
			    const struct unit_view *view)
{
	return f->value_of != NULL ? f->value_of(lu, view) : f->value;
}

/* All but the PS bit. Returns the length of the header. */
static unsigned put_header(uint8_t *buf, const struct mode_page *page)
{
	if (page->subpage == 0) {
		buf[0] = page->code;
		buf[1] = low_u8(page->len - 2u);
		return 2;
	}
	buf[0] = SPF | page->code;
	buf[1] = page->subpage;
	store_be16(buf + 2, low_u16(page->len - 4u));
	return 4;
}

static void fill_page(uint8_t buf[static PAGE_MAX], const struct mode_page *page,
		      const struct scsi_lu *lu, const struct unit_view *view,
		      enum mode_control kind)
{
	const uint32_t bits = bits_for(lu, view, kind);

	memset(buf, 0, PAGE_MAX);
	put_header(buf, page);
	for (unsigned i = 0; i < page->nfields; i++) {
		const struct mode_field *f = &page->fields[i];

		if (f->changes != 0)
			put_field(buf, f, bits >> (f->changes - 1u) & 1);
		else if (kind != MODE_CHANGEABLE)
			put_field(buf, f, fixed_value(f, lu, view));
	}
}

/* ---- MODE SENSE ---- */

bool mode_can_save(const struct scsi_lu *lu)
{
	return unit_keeps_tags(lu->unit);
}

void mode_write_pages(struct scsi_task *task, enum mode_control kind, struct writer *w)
{
	const uint8_t code = task->cdb[2] & 0x3f, subpage = task->cdb[3];
	const struct scsi_lu *lu = task->itl->lu;
	bool known = code == ALL_PAGES, found = false;
	uint8_t buf[PAGE_MAX];

	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		if (code != ALL_PAGES && pages[i].code != code)
			continue;
		known = true;
		/* Of all pages, only 00h and all subpages can be asked for (SPC-4 6.13). */
		if (subpage != ALL_SUBPAGES &&
		    (pages[i].subpage != subpage || (code == ALL_PAGES && subpage != 0)))
			continue;
		found = true;
		fill_page(buf, &pages[i], lu, itl_view(task->itl), kind);
		buf[0] |= mode_can_save(lu) ? PS : 0;
		write_bytes(w, buf, pages[i].len);
	}
	if (!known)
		task_bad_field(task, 2, 5);
	else if (!found)
		task_bad_field(task, 3, 7);
}

/* ---- MODE SELECT ---- */

static const struct mode_page *find_page(struct scsi_task *task, const uint8_t *p, unsigned at)
{
	const uint8_t code = p[0] & 0x3f, subpage = p[0] & SPF ? p[1] : 0;
	bool known = false;

	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		if (pages[i].code != code)
			continue;
		known = true;
		/* SPF with subpage 0 is no way to write a page without subpages. */
		if (pages[i].subpage == subpage && (p[0] & SPF) == (subpage != 0 ? SPF : 0))
			return &pages[i];
	}
	task_bad_parameter(task, known ? at + 1 : at, known ? 7 : 5);
	return NULL;
}

/* Points at the leftmost bit of the field that this bit belongs to. */
static void bad_bit(struct scsi_task *task, const struct mode_page *page, unsigned at, unsigned bit)
{
	for (unsigned i = 0; i < page->nfields; i++) {
		const unsigned first = first_bit(&page->fields[i]);

		if (first <= bit && bit < first + page->fields[i].width)
			bit = first;
	}
	task_bad_parameter(task, at + bit / 8, 7 - bit % 8);
}

/* What cannot be changed must be as it is. */
static bool check_values(struct scsi_task *task, const struct mode_page *page, const uint8_t *p,
			 unsigned at)
{
	const struct unit_view *view = itl_view(task->itl);
	uint8_t is[PAGE_MAX], may[PAGE_MAX];

	fill_page(is, page, task->itl->lu, view, MODE_CURRENT);
	fill_page(may, page, task->itl->lu, view, MODE_CHANGEABLE);
	for (unsigned i = page->subpage == 0 ? 2 : 4; i < page->len; i++) {
		const unsigned wrong = (p[i] ^ is[i]) & ~(unsigned)may[i] & 0xff;

		if (wrong == 0)
			continue;
		bad_bit(task, page, at, i * 8 + (unsigned)__builtin_clz(wrong << 24));
		return false;
	}
	return true;
}

static void take_values(const struct mode_page *page, const uint8_t *p,
			struct mode_request *request)
{
	for (unsigned i = 0; i < page->nfields; i++) {
		const struct mode_field *f = &page->fields[i];

		if (f->changes == 0)
			continue;
		request->mask |= 1u << (f->changes - 1u);
		request->bits &= ~(1u << (f->changes - 1u));
		if (p[f->byte] >> f->bit & 1)
			request->bits |= 1u << (f->changes - 1u);
	}
}

/* The length of the page; 0: it is not valid, and the sense says why. */
static unsigned read_page(struct scsi_task *task, const uint8_t *p, size_t left, unsigned at,
			  struct mode_request *request)
{
	const unsigned header_len = p[0] & SPF ? 4 : 2;
	const struct mode_page *page;
	uint8_t header[4];

	if (left < header_len) {
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
		return 0;
	}
	page = find_page(task, p, at);
	if (page == NULL)
		return 0;
	put_header(header, page);
	if (memcmp(p + header_len / 2, header + header_len / 2, header_len / 2) != 0) {
		task_bad_parameter(task, at + header_len / 2, 7);
		return 0;
	}
	if (left < page->len) {
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
		return 0;
	}
	if (!check_values(task, page, p, at))
		return 0;
	take_values(page, p, request);
	return page->len;
}

bool mode_read_pages(struct scsi_task *task, const uint8_t *list, size_t len, unsigned at,
		     struct mode_request *request)
{
	*request = (struct mode_request){0};
	while (at < len) {
		const unsigned n = read_page(task, list + at, len - at, at, request);

		if (n == 0)
			return false;
		at += n;
	}
	return true;
}

bool mode_needs_flush(uint32_t before, uint32_t after)
{
	return (before & ~after & 1u << MODE_WCE) != 0 || (~before & after & 1u << MODE_SWP) != 0;
}

void mode_apply(const struct scsi_lu *lu, struct unit_view *next)
{
	const uint32_t bits = lu_state_of(next)->mode;
	const bool through = lu->info->volatile_cache && !(bits & 1u << MODE_WCE);

	next->flags &= ~(unsigned)(UNIT_WRITE_THROUGH | UNIT_SOFT_PROTECTED);
	next->flags |= through ? UNIT_WRITE_THROUGH : 0;
	next->flags |= bits & 1u << MODE_SWP ? UNIT_SOFT_PROTECTED : 0;
}

/* ---- Saved values ---- */

/* "1 wce=1 swp=0 d_sense=0 tas=0": a version, and all bits by name. */
#define TAG     "mode"
#define TAG_MAX 64

static const char *const bit_names[MODE_NBITS] = {
	[MODE_WCE] = "wce",
	[MODE_SWP] = "swp",
	[MODE_D_SENSE] = "d_sense",
	[MODE_TAS] = "tas",
};

const char *mode_bit_name(enum mode_bit bit)
{
	return bit_names[bit];
}

int mode_keep(const struct scsi_lu *lu, uint32_t bits)
{
	char text[TAG_MAX] = "1";
	size_t len = 1;

	for (unsigned i = 0; i < MODE_NBITS; i++) {
		str_format(text + len, sizeof(text) - len, " %s=%u", bit_names[i], bits >> i & 1);
		len += strlen(text + len);
	}
	return unit_tag_set(lu->unit, TAG, text, len);
}

static bool parse_tag(const char *text, uint32_t *bits)
{
	*bits = 0;
	if (*text++ != '1')
		return false;
	for (unsigned i = 0; i < MODE_NBITS; i++) {
		const size_t len = strlen(bit_names[i]);

		/* Kept when there was no such bit yet. */
		if (text[0] == '\0' && i == MODE_TAS)
			break;
		if (text[0] != ' ' || strncmp(text + 1, bit_names[i], len) != 0)
			return false;
		text += 1 + len;
		if (text[0] != '=' || (text[1] != '0' && text[1] != '1'))
			return false;
		*bits |= text[1] == '1' ? 1u << i : 0;
		text += 2;
	}
	return *text == '\0';
}

void mode_load(const struct scsi_lu *lu, struct unit_view *view)
{
	const uint32_t may = changeable_bits(lu);
	struct lu_state *state = lu_state_edit(view);
	char text[TAG_MAX + 1];
	uint32_t bits;
	ssize_t n;

	n = unit_tag_get(lu->unit, TAG, text, TAG_MAX);
	text[n > 0 ? n : 0] = '\0';
	/* A disk without the tag, or with one that says nothing, has its defaults. */
	if (!parse_tag(text, &bits))
		bits = default_bits(lu);
	state->mode = (bits & may) | (default_bits(lu) & ~may);
	state->mode_saved = state->mode;
	mode_apply(lu, view);
}
