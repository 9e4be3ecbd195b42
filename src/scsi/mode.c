/*
 * Mode pages: a table; a page is a function that fills in what follows its header (SPC-4 7.5,
 * SBC-3 6.5). Nothing is changeable yet, so default and current values are the same.
 */
#include "scsi/impl.h"

#define ALL_PAGES    0x3f
#define ALL_SUBPAGES 0xff

/* The longest page, with its header. */
#define PAGE_MAX 32

struct mode_page {
	uint8_t code, subpage;
	uint8_t len; /* bytes after the header */
	void (*fill)(const struct scsi_lu *lu, uint8_t *page);
};

/* SBC-3 6.5.5 */
static void fill_caching(const struct scsi_lu *lu, uint8_t *page)
{
	page[2] = lu->info->volatile_cache ? 0x04 /* WCE */ : 0;
}

/* SPC-4 7.5.8 */
static void fill_control(const struct scsi_lu *lu, uint8_t *page)
{
	page[2] = 0x20; /* TST: a task set for each nexus; D_SENSE 0: fixed format */
	page[3] = 0x10; /* unrestricted reordering of SIMPLE tasks; QERR 0 */
}

static const struct mode_page pages[] = {
	{0x08, 0, 0x12, fill_caching},
	{0x0a, 0, 0x0a, fill_control},
};

static void write_page(const struct mode_page *page, const struct scsi_lu *lu,
		       enum mode_control control, struct writer *w)
{
	uint8_t buf[PAGE_MAX] = {page->code, page->len};

	if (control != MODE_CHANGEABLE)
		page->fill(lu, buf);
	write_bytes(w, buf, 2u + page->len);
}

void mode_write_pages(struct scsi_task *task, enum mode_control control, struct writer *w)
{
	const uint8_t code = task->cdb[2] & 0x3f, subpage = task->cdb[3];
	bool known = code == ALL_PAGES, found = false;

	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		if (code != ALL_PAGES && pages[i].code != code)
			continue;
		known = true;
		if (subpage != ALL_SUBPAGES && pages[i].subpage != subpage)
			continue;
		found = true;
		write_page(&pages[i], task->itl->lu, control, w);
	}
	if (!known)
		task_bad_field(task, 2, 5);
	else if (!found)
		task_bad_field(task, 3, 7);
}
