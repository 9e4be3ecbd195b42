/*
 * Vital product data: a table of pages, each a function that writes what follows the page length
 * (SPC-4 7.8, SBC-3 6.6). They say what is true of the disk below, and nothing that does not work.
 */
#include "scsi/impl.h"

/* Where a page exists besides at an LU. */
enum { AT_LU_ONLY = 0, AT_WELL_KNOWN = 1, AT_NOTHING = 2 };

struct vpd_page {
	uint8_t code, where;
	void (*write)(const struct scsi_task *task, struct writer *w);
	const char *name;
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
enum {
	TYPE_T10 = 1,
	TYPE_NAA = 3,
	TYPE_RELATIVE_PORT = 4,
	TYPE_PORT_GROUP = 5,
	TYPE_SCSI_NAME = 8,
};

#define PORT_GROUP 1

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

/* Of two that Linux thinks equally good it takes the last for the disk's name: the shorter and
 * surer one, NAA. */
static void write_lu_names(const struct scsi_task *task, struct writer *w)
{
	const struct lu_state *lu = itl_state(task->itl);
	const struct unit_identity *id = identity_of(task);
	size_t at;

	at = designator_begin(task, w, CODE_ASCII, OF_LU, TYPE_T10);
	write_ascii(w, lu->vendor, 8);
	write_ascii(w, lu->product, 16);
	write_bytes(w, id->serial, strlen(id->serial));
	designator_end(w, at);

	at = designator_begin(task, w, CODE_BINARY, OF_LU, TYPE_NAA);
	write_bytes(w, id->naa, sizeof(id->naa));
	designator_end(w, at);
}

/* All ports are in one group: none is better than another. */
static void write_port_names(const struct scsi_task *task, struct writer *w)
{
	const char *target = task->nexus->target->name;
	const uint16_t port = task->nexus->target_port;
	char name[SCSI_NAME_MAX + 16];
	size_t at;

	at = designator_begin(task, w, CODE_BINARY, OF_TARGET_PORT, TYPE_RELATIVE_PORT);
	write_be16(w, 0);
	write_be16(w, port);
	designator_end(w, at);

	at = designator_begin(task, w, CODE_BINARY, OF_TARGET_PORT, TYPE_PORT_GROUP);
	write_be16(w, 0);
	write_be16(w, PORT_GROUP);
	designator_end(w, at);

	/* RFC 7143 4.2.7.1: the target's name and its portal group tag. */
	str_format(name, sizeof(name), "%s,t,0x%04x", target, port);
	at = designator_begin(task, w, CODE_UTF8, OF_TARGET_PORT, TYPE_SCSI_NAME);
	write_name(w, name);
	designator_end(w, at);

	at = designator_begin(task, w, CODE_UTF8, OF_TARGET_DEVICE, TYPE_SCSI_NAME);
	write_name(w, target);
	designator_end(w, at);
}

/* A well-known logical unit has no name of its own (SPC-4 7.8.6.2). */
static void write_identification(const struct scsi_task *task, struct writer *w)
{
	if (task->itl != NULL)
		write_lu_names(task, w);
	write_port_names(task, w);
}

/* ---- 86h: what else we can (SPC-4 7.8.7) ---- */

enum { HEADSUP = 0x04, ORDSUP = 0x02, SIMPSUP = 0x01 };
enum { V_SUP = 0x01, LUICLR = 0x01 };

static void write_extended_inquiry(const struct scsi_task *task, struct writer *w)
{
	const uint64_t seconds = lu_self_test_seconds(itl_view(task->itl));

	write_u8(w, 0); /* no microcode to activate, no protection information */
	write_u8(w, HEADSUP | ORDSUP | SIMPSUP);
	write_u8(w, info_of(task)->volatile_cache ? V_SUP : 0);
	write_u8(w, LUICLR); /* see ua_take() */
	write_u8(w, 0);
	write_u8(w, 0);
	write_be16(w, clamp_u16((seconds + 59) / 60)); /* of an extended self-test, in minutes */
	write_u8(w, 0);
	write_u8(w, SENSE_BYTES_MAX);
	write_zeros(w, 0x3c - 10);
}

/* ---- The block device's pages (SBC-3 6.6.3 to 6.6.5) ---- */

#define UGAVALID 0x80000000u /* UNMAP GRANULARITY ALIGNMENT says something */

enum { LBPU = 0x80, LBPWS = 0x40, LBPWS10 = 0x20, LBPRZ = 0x04 };
enum { PROVISIONING_FULL = 0, PROVISIONING_THIN = 2 };

static void write_limits(const struct scsi_task *task, struct writer *w)
{
	const struct bdev_info *info = info_of(task);
	const bool unmap = lu_can_unmap(task->itl->lu), granules = info->discard_blocks > 1;

	write_u8(w, 0x01); /* WSNZ: WRITE SAME needs a number of blocks */
	write_u8(w, low_u8(limit_caw_blocks(info)));
	write_be16(w, clamp_u16(UINT64_C(1) << info->physical_exp));
	write_be32(w, 0); /* transfers of any length */
	write_be32(w, info->optimal_blocks);
	write_be32(w, low_u32(LIMIT_PREFETCH_BYTES >> info->block_shift));
	write_be32(w, unmap ? low_u32(LIMIT_UNMAP_BYTES >> info->block_shift) : 0);
	write_be32(w, unmap ? LIMIT_UNMAP_DESCRIPTORS : 0);
	/* Where every block is a granule of its own none is told: there is nothing to align to. (QEMU
	 * aborts when it hears of a granule of one block of 4096 bytes that reads zeros.) */
	write_be32(w, granules ? info->discard_blocks : 0);
	write_be32(w, granules ? UGAVALID | info->discard_alignment : 0);
	write_be64(w, LIMIT_SAME_BYTES >> info->block_shift);
	write_zeros(w, 0x3c - 40); /* no atomic writes */
}

#define DOES_NOT_ROTATE 1

/* What the device below says of itself, else what the kernel knows: whether it rotates. */
static void write_characteristics(const struct scsi_task *task, struct writer *w)
{
	const struct bdev_info *info = info_of(task);
	const uint16_t unsaid = info->rotational ? 0 : DOES_NOT_ROTATE;

	write_be16(w, info->rotation_rate != 0 ? info->rotation_rate : unsaid);
	write_u8(w, 0);
	/* WABEREQ 01b: blocks that SANITIZE erased can be read. */
	write_u8(w, 0x40 | (info->form_factor & 0x0f));
	write_zeros(w, 0x3c - 4);
}

/* No thresholds (they would be parameters of the log page, and events), no anchors, no groups. */
static void write_provisioning(const struct scsi_task *task, struct writer *w)
{
	const bool unmap = lu_can_unmap(task->itl->lu);
	unsigned flags = 0;

	if (unmap)
		flags = LBPU | LBPWS | LBPWS10 | (info_of(task)->discard_zeroes ? LBPRZ : 0);
	write_u8(w, 0);
	write_u8(w, low_u8(flags));
	write_u8(w, unmap ? PROVISIONING_THIN : PROVISIONING_FULL);
	write_u8(w, 0);
}

static const struct vpd_page pages[] = {
	{0x00, AT_WELL_KNOWN | AT_NOTHING, write_supported, "Supported VPD Pages"},
	{0x80, AT_LU_ONLY, write_serial, "Unit Serial Number"},
	{0x83, AT_WELL_KNOWN, write_identification, "Device Identification"},
	{0x86, AT_LU_ONLY, write_extended_inquiry, "Extended INQUIRY Data"},
	{0xb0, AT_LU_ONLY, write_limits, "Block Limits"},
	{0xb1, AT_LU_ONLY, write_characteristics, "Block Device Characteristics"},
	{0xb2, AT_LU_ONLY, write_provisioning, "Logical Block Provisioning"},
};

struct page_info vpd_page_info(unsigned i)
{
	if (i >= ARRAY_LEN(pages))
		return (struct page_info){0};
	return (struct page_info){.code = pages[i].code, .name = pages[i].name};
}

static bool exists(const struct vpd_page *page, const struct scsi_task *task)
{
	if (task->itl != NULL)
		return true;
	return page->where & (lun_is_report_luns(task->lun) ? AT_WELL_KNOWN : AT_NOTHING);
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
