/*
 * Vital product data: a table of pages, each a function that writes what follows the page length
 * (SPC-4 7.8, SBC-3 6.6). They say what is true of the disk below, and nothing that does not work.
 */
#include "scsi/impl.h"

struct vpd_page {
	uint8_t code;
	bool any_lun; /* answered where there is no logical unit, too */
	void (*write)(const struct scsi_task *task, struct writer *w);
};

static void write_supported(const struct scsi_task *task, struct writer *w);

static const struct bdev_info *info_of(const struct scsi_task *task)
{
	return task->itl->lu->info;
}

static const struct unit_identity *identity_of(const struct scsi_task *task)
{
	return unit_identity(task->itl->lu->unit);
}

static void write_serial(const struct scsi_task *task, struct writer *w)
{
	const char *serial = identity_of(task)->serial;

	write_bytes(w, serial, strlen(serial));
}

/* ---- 83h: names (SPC-4 7.8.6) ---- */

enum { CODE_BINARY = 1, CODE_ASCII = 2, CODE_UTF8 = 3 };
enum { OF_LU = 0, OF_TARGET_PORT = 1, OF_TARGET_DEVICE = 2 };
enum { TYPE_T10 = 1, TYPE_NAA = 3, TYPE_RELATIVE_PORT = 4, TYPE_SCSI_NAME = 8 };

/* Returns where the length stands. */
static size_t designator_begin(const struct scsi_task *task, struct writer *w, unsigned code,
			       unsigned of, unsigned type)
{
	const unsigned protocol = task->nexus->transport->protocol_id;

	/* PROTOCOL IDENTIFIER and PIV are for ports and devices of a transport. */
	write_u8(w, low_u8(of == OF_LU ? code : protocol << 4 | code));
	write_u8(w, low_u8((of == OF_LU ? 0 : 0x80) | of << 4 | type));
	write_u8(w, 0);
	write_u8(w, 0);
	return w->len - 1;
}

static void designator_end(struct writer *w, size_t at)
{
	writer_patch_u8(w, at, low_u8(w->len - at - 1));
}

/* Zero-terminated and padded to a multiple of four (SPC-4 7.8.6.11). */
static void write_name(struct writer *w, const char *name)
{
	const size_t len = strlen(name);

	write_bytes(w, name, len);
	write_zeros(w, align_up(len + 1, 4) - len);
}

static void write_identification(const struct scsi_task *task, struct writer *w)
{
	const struct lu_state *lu = itl_state(task->itl);
	const struct unit_identity *id = identity_of(task);
	size_t at;

	at = designator_begin(task, w, CODE_BINARY, OF_LU, TYPE_NAA);
	write_bytes(w, id->naa, sizeof(id->naa));
	designator_end(w, at);

	at = designator_begin(task, w, CODE_ASCII, OF_LU, TYPE_T10);
	write_ascii(w, lu->vendor, 8);
	write_ascii(w, lu->product, 16);
	write_bytes(w, id->serial, strlen(id->serial));
	designator_end(w, at);

	at = designator_begin(task, w, CODE_BINARY, OF_TARGET_PORT, TYPE_RELATIVE_PORT);
	write_be16(w, 0);
	write_be16(w, task->nexus->target_port);
	designator_end(w, at);

	at = designator_begin(task, w, CODE_UTF8, OF_TARGET_DEVICE, TYPE_SCSI_NAME);
	write_name(w, task->nexus->target->name);
	designator_end(w, at);
}

/* ---- The block device's pages (SBC-3 6.6.3 to 6.6.5) ---- */

static void write_limits(const struct scsi_task *task, struct writer *w)
{
	const struct bdev_info *info = info_of(task);

	write_u8(w, 0);
	write_u8(w, 0); /* no COMPARE AND WRITE */
	write_be16(w, clamp_u16(UINT64_C(1) << info->physical_exp));
	write_be32(w, 0); /* transfers of any length */
	write_be32(w, info->optimal_blocks);
	write_zeros(w, 0x3c - 12); /* no PRE-FETCH, UNMAP, WRITE SAME, atomic writes */
}

static void write_characteristics(const struct scsi_task *task, struct writer *w)
{
	/* 1: does not rotate; 0: not reported, as nobody below knows the speed. */
	write_be16(w, info_of(task)->rotational ? 0 : 1);
	write_zeros(w, 0x3c - 2);
}

/* No UNMAP and no WRITE SAME: nothing can be deallocated. */
static void write_provisioning(const struct scsi_task *task, struct writer *w)
{
	write_zeros(w, 4);
}

static const struct vpd_page pages[] = {
	{0x00, true, write_supported},        {0x80, false, write_serial},
	{0x83, false, write_identification},  {0xb0, false, write_limits},
	{0xb1, false, write_characteristics}, {0xb2, false, write_provisioning},
};

static bool exists(const struct vpd_page *page, const struct scsi_task *task)
{
	return task->itl != NULL || page->any_lun;
}

static void write_supported(const struct scsi_task *task, struct writer *w)
{
	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		if (exists(&pages[i], task))
			write_u8(w, pages[i].code);
	}
}

bool vpd_write(const struct scsi_task *task, uint8_t page, struct writer *w)
{
	for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
		if (pages[i].code != page || !exists(&pages[i], task))
			continue;
		write_u8(w, inquiry_peripheral(task));
		write_u8(w, page);
		write_be16(w, 0);
		pages[i].write(task, w);
		writer_patch_be16(w, 2, clamp_u16(w->len - 4));
		return true;
	}
	return false;
}
