/*
 * The logs of a disk (ATA8-ACS Annex A): which there are, what stands in them, and the errors that it
 * keeps for them. Apart because two commands read them, and what they hold is a format of its own.
 */
#include "aoe/ata.h"

#include <string.h>

#define NS_PER_MS   UINT64_C(1000000)
#define MS_PER_HOUR UINT64_C(3600000)

void ata_checksum(uint8_t data[AOE_SECTOR])
{
	uint8_t sum = 0;

	for (unsigned i = 0; i < AOE_SECTOR - 1; i++)
		sum = low_u8(sum + data[i]);
	data[AOE_SECTOR - 1] = low_u8(0x100u - sum);
}

/* ---- Errors ---- */

void ata_error_log(struct aoe_task *t, const struct aoe_ata *asked)
{
	struct aoe_disk *disk = t->place->disk;
	const uint64_t ms = (loop_now_ns(disk->aoe->loop) - disk->served_ns) / NS_PER_MS;
	struct aoe_ata_error *e = &disk->errors[disk->nerrors++ % AOE_ERRORS_KEPT];

	*e = (struct aoe_ata_error){.asked = *asked,
				    .answered = *ata_registers(t),
				    .ext = (t->ata->flags & ATA_EXT) != 0,
				    .after_ms = low_u32(ms),
				    .hours = clamp_u16(ms / MS_PER_HOUR)};
}

/* Where the newest one is, from 1 on, among so many places; 0: there is none. */
static uint16_t newest_of(const struct aoe_disk *disk, unsigned places)
{
	return disk->nerrors == 0 ? 0 : low_u16((disk->nerrors - 1) % places + 1);
}

/* The error in one of so many places, or NULL. The newest ones are kept, each in its place. */
static const struct aoe_ata_error *error_at(const struct aoe_disk *disk, unsigned i,
					    unsigned places)
{
	const uint64_t n = disk->nerrors;
	uint64_t back; /* from the newest one */

	if (n == 0)
		return NULL;
	back = ((n - 1) % places + places - i) % places;
	return back < n ? &disk->errors[(n - 1 - back) % AOE_ERRORS_KEPT] : NULL;
}

enum { STATE_ACTIVE = 3 };

/* An error has five commands, of which the last one is its own; of the others nothing is known. */
#define COMMANDS_BEFORE 4

/* A device register, which the frame does not have: that LBAs are used. */
static uint8_t device_of(const struct aoe_ata *r, bool ext)
{
	return low_u8(0x40 | (ext ? 0 : r->lba[3] & 0xf));
}

static void put_le16(struct writer *w, uint16_t v)
{
	write_u8(w, low_u8(v));
	write_u8(w, low_u8(v >> 8));
}

static void put_le32(struct writer *w, uint32_t v)
{
	put_le16(w, low_u16(v));
	put_le16(w, low_u16(v >> 16));
}

/* The lower halves of the registers. */
static void put_registers(struct writer *w, const struct aoe_ata *r, bool ext)
{
	write_u8(w, r->feature);
	write_u8(w, r->count);
	write_bytes(w, r->lba, 3);
	write_u8(w, device_of(r, ext));
	write_u8(w, r->command);
}

static void put_long_registers(struct writer *w, const struct aoe_ata *r, bool ext)
{
	put_le16(w, r->count);
	for (unsigned i = 0; i < 3; i++) {
		write_u8(w, r->lba[i]);
		write_u8(w, ext ? r->lba[3 + i] : 0);
	}
	write_u8(w, device_of(r, ext));
	write_u8(w, r->command);
}

/* What both logs have no use for: "extended error information", of the vendor. */
#define VENDOR_BYTES 19
#define LOG_VERSION  1

/* Summary SMART error log */
#define SUMMARY_ERRORS  5
#define SUMMARY_COMMAND 12
#define SUMMARY_ERROR   90

static void put_summary_error(struct writer *w, const struct aoe_ata_error *e)
{
	if (e == NULL) {
		write_zeros(w, SUMMARY_ERROR);
		return;
	}
	write_zeros(w, COMMANDS_BEFORE * SUMMARY_COMMAND);
	write_u8(w, 0);
	put_registers(w, &e->asked, e->ext);
	put_le32(w, e->after_ms);
	write_u8(w, 0);
	put_registers(w, &e->answered, e->ext);
	write_zeros(w, VENDOR_BYTES);
	write_u8(w, STATE_ACTIVE);
	put_le16(w, e->hours);
}

static void write_summary(const struct aoe_place *place, unsigned page, struct writer *w)
{
	const struct aoe_disk *disk = place->disk;

	write_u8(w, LOG_VERSION);
	write_u8(w, low_u8(newest_of(disk, SUMMARY_ERRORS)));
	for (unsigned i = 0; i < SUMMARY_ERRORS; i++)
		put_summary_error(w, error_at(disk, i, SUMMARY_ERRORS));
	put_le16(w, clamp_u16(disk->nerrors));
}

/* Extended Comprehensive SMART error log */
#define LONG_ERRORS  4 /* of a page */
#define LONG_COMMAND 18
#define LONG_ERROR   124

static void put_long_error(struct writer *w, const struct aoe_ata_error *e)
{
	if (e == NULL) {
		write_zeros(w, LONG_ERROR);
		return;
	}
	write_zeros(w, COMMANDS_BEFORE * LONG_COMMAND);
	write_u8(w, 0);
	put_le16(w, e->asked.feature);
	put_long_registers(w, &e->asked, e->ext);
	write_u8(w, 0);
	put_le32(w, e->after_ms);
	write_u8(w, 0);
	write_u8(w, e->answered.feature);
	put_long_registers(w, &e->answered, e->ext);
	write_zeros(w, VENDOR_BYTES);
	write_u8(w, STATE_ACTIVE);
	put_le16(w, e->hours);
}

/* What is about all of them stands in the first page only. */
static void write_comprehensive(const struct aoe_place *place, unsigned page, struct writer *w)
{
	const struct aoe_disk *disk = place->disk;

	write_u8(w, page == 0 ? LOG_VERSION : 0);
	write_u8(w, 0);
	put_le16(w, page == 0 ? newest_of(disk, AOE_ERRORS_KEPT) : 0);
	for (unsigned i = 0; i < LONG_ERRORS; i++)
		put_long_error(w, error_at(disk, page * LONG_ERRORS + i, AOE_ERRORS_KEPT));
	put_le16(w, page == 0 ? clamp_u16(disk->nerrors) : 0);
}

_Static_assert(AOE_ERRORS_KEPT % SUMMARY_ERRORS == 0 && AOE_ERRORS_KEPT % LONG_ERRORS == 0,
	       "an error keeps its place in each log");

/* ---- IDENTIFY DEVICE data log (ACS-3 9.11): what can be had by IDENTIFY DEVICE, too ---- */

enum { IDENTITY_PAGES = 0, IDENTITY_COPY = 1, IDENTITY_PAGES_N = 2 };

static void write_identity(const struct aoe_place *place, unsigned page, struct writer *w)
{
	uint8_t identity[AOE_SECTOR];

	if (page == IDENTITY_COPY) {
		aoe_identify(place, identity);
		write_bytes(w, identity, sizeof(identity));
		return;
	}
	put_le32(w, 1); /* revision; the page's own number stands behind it */
	put_le32(w, 0);
	write_u8(w, IDENTITY_PAGES_N);
	for (unsigned i = 0; i < IDENTITY_PAGES_N; i++)
		write_u8(w, low_u8(i));
}

/* ---- Which there are ---- */

#define DIRECTORY_VERSION 1

static void write_smart_directory(const struct aoe_place *place, unsigned page, struct writer *w);
static void write_general_directory(const struct aoe_place *place, unsigned page, struct writer *w);

static const struct ata_log {
	uint8_t address, access;
	bool sums; /* its pages end with a checksum */
	uint16_t pages;
	void (*write)(const struct aoe_place *place, unsigned page, struct writer *w);
} logs[] = {
	{0x00, ATA_LOG_SMART, false, 1, write_smart_directory},
	{0x00, ATA_LOG_GENERAL, false, 1, write_general_directory},
	{0x01, ATA_LOG_SMART, true, 1, write_summary},
	{0x03, ATA_LOG_GENERAL, true, AOE_ERRORS_KEPT / LONG_ERRORS, write_comprehensive},
	{0x30, ATA_LOG_SMART | ATA_LOG_GENERAL, false, IDENTITY_PAGES_N, write_identity},
};

static const struct ata_log *find(uint8_t address, enum ata_log_access access)
{
	for (size_t i = 0; i < ARRAY_LEN(logs); i++)
		if (logs[i].address == address && (logs[i].access & access) != 0)
			return &logs[i];
	return NULL;
}

static void write_directory(struct writer *w, enum ata_log_access access)
{
	put_le16(w, DIRECTORY_VERSION);
	for (unsigned address = 1; address < AOE_SECTOR / 2; address++) {
		const struct ata_log *log = find(low_u8(address), access);

		put_le16(w, log != NULL ? log->pages : 0);
	}
}

static void write_smart_directory(const struct aoe_place *place, unsigned page, struct writer *w)
{
	write_directory(w, ATA_LOG_SMART);
}

static void write_general_directory(const struct aoe_place *place, unsigned page, struct writer *w)
{
	write_directory(w, ATA_LOG_GENERAL);
}

/* ---- Reading them ---- */

static void write_page(const struct aoe_place *place, const struct ata_log *log, unsigned page,
		       uint8_t out[AOE_SECTOR])
{
	struct writer w = writer_of(out, AOE_SECTOR);

	log->write(place, page, &w);
	write_zeros(&w, AOE_SECTOR - writer_stored(&w));
	if (log->sums)
		ata_checksum(out);
}

bool ata_log_read(struct aoe_place *place, const uint8_t *frame, enum ata_log_access access,
		  unsigned first)
{
	const struct aoe_ata *r = ata_registers_of(frame);
	const struct ata_log *log = find(r->lba[0], access);
	struct aoe_task *t;

	if (log == NULL || r->count == 0 || first + r->count > log->pages)
		return false;
	if (r->count > aoe_port_limit(place->port, false)) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return true;
	}
	t = ata_task_create(place, frame, r->count * (uint32_t)AOE_SECTOR);
	if (t == NULL)
		return true;
	for (unsigned i = 0; i < r->count; i++)
		write_page(place, log, first + i,
			   t->buf->data + AOE_DATA_AT + (size_t)i * AOE_SECTOR);
	ata_good(t, r->count * (uint32_t)AOE_SECTOR);
	return true;
}

/* The page's number has two bytes, apart from each other. */
void ata_run_read_log(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		      uint32_t len)
{
	const struct aoe_ata *r = ata_registers_of(frame);

	if (!ata_log_read(place, frame, ATA_LOG_GENERAL, r->lba[1] | (unsigned)r->lba[4] << 8))
		ata_refuse_request(place, frame, ATA_ABRT);
}
