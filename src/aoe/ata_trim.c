/*
 * DATA SET MANAGEMENT with TRIM (ACS-2 7.5): a list of ranges that may lose their data. Apart because it
 * is many I/Os, range by range and step by step, so that none of them is long.
 *
 *   list checked -> (waits for earlier writes in between its first and its last sector)
 *                -> DISCARD ... DISCARD -> (durable: FLUSH) -> answer
 *
 * What is promised: every sector of every range is discarded, whole granules of the store or not; where
 * IDENTIFY says so it reads zeros. Nothing is discarded when any range is wrong. To other writes it is one
 * write from its first sector to its last one.
 */
#include "aoe/ata.h"

#include <string.h>

#define TRIM        0x01 /* of the feature register */
#define RANGE_BYTES 8

/* Bytes a step, which ends at a multiple of them: so on a granule. */
#define STEP_BYTES (32 * MiB)

static struct ata_range range_at(const uint8_t *list, unsigned i)
{
	const uint64_t v = load_le64(list + (size_t)i * RANGE_BYTES);
	const uint64_t lba = v & ATA_LBA48_MAX;

	return (struct ata_range){.from = lba * AOE_SECTOR, .to = (lba + (v >> 48)) * AOE_SECTOR};
}

static bool is_empty(struct ata_range r)
{
	return r.from == r.to;
}

static unsigned ranges(const struct aoe_task *t)
{
	return low_u32(t->iov.iov_len / RANGE_BYTES);
}

/* The next one, with those that go on where it ends. */
static struct ata_range take_range(struct aoe_task *t)
{
	struct ata_range all = range_at(t->iov.iov_base, t->next_range++);

	while (t->next_range < ranges(t)) {
		const struct ata_range r = range_at(t->iov.iov_base, t->next_range);

		if (!is_empty(r) && r.from != all.to)
			break;
		t->next_range++;
		if (!is_empty(r))
			all.to = r.to;
	}
	return all;
}

/* false: there is nothing left to discard. */
static bool step(struct aoe_task *t)
{
	struct io *io = &t->uio.io;
	uint64_t at = io->off + io->len;

	while (t->left == 0 && t->next_range < ranges(t)) {
		const struct ata_range r = take_range(t);

		at = r.from;
		t->left = r.to - r.from;
	}
	if (t->left == 0)
		return false;
	io->off = at;
	io->len = min_u64(t->left, align_down(at, STEP_BYTES) + STEP_BYTES - at);
	t->left -= io->len;
	return true;
}

static bool goes_on(struct aoe_task *t)
{
	struct io *io = &t->uio.io;

	if (io->result != 0 || t->unit_task.aborted || io->op == IO_FLUSH)
		return false;
	if (step(t))
		return true;
	io->op = IO_FLUSH;
	return !aoe_caches(t->place);
}

static void trimmed(struct unit_io *uio)
{
	struct aoe_task *t = container_of(uio, struct aoe_task, uio);

	if (goes_on(t))
		unit_submit(uio);
	else
		ata_io_ended(t);
}

static struct ata_range span_of(const uint8_t *list, unsigned n)
{
	struct ata_range all = {.from = UINT64_MAX, .to = 0};

	for (unsigned i = 0; i < n; i++) {
		const struct ata_range r = range_at(list, i);

		if (is_empty(r))
			continue;
		all.from = min_u64(all.from, r.from);
		all.to = max_u64(all.to, r.to);
	}
	return all.to != 0 ? all : (struct ata_range){0};
}

struct ata_range ata_trim_span(const uint8_t *frame, uint32_t len)
{
	const uint32_t said = ata_registers_of(frame)->count * (uint32_t)AOE_SECTOR;
	const uint64_t bytes = min_u64(said, len - AOE_ATA_HEAD);

	return span_of(frame + AOE_ATA_HEAD, low_u32(bytes / RANGE_BYTES));
}

void ata_prepare_trim(struct aoe_task *t, const struct ata_command *cmd)
{
	const struct ata_range all = span_of(t->iov.iov_base, ranges(t));

	ata_prepare_io(t, cmd, IO_DISCARD);
	t->uio.io.len = 0;
	t->uio.done = trimmed;
	t->from = all.from;
	t->to = all.to;
	if (!step(t))
		t->uio.io.op = IO_FLUSH;
}

/* Where the first range that leaves the disk does so, in sectors; UINT64_MAX: none does. */
static uint64_t first_outside(const struct aoe_task *t)
{
	const uint64_t size = aoe_disk_sectors(t->place->disk) * AOE_SECTOR;

	for (unsigned i = 0; i < ranges(t); i++) {
		const struct ata_range r = range_at(t->iov.iov_base, i);

		if (!is_empty(r) && r.to > size)
			return max_u64(r.from, size) / AOE_SECTOR;
	}
	return UINT64_MAX;
}

void ata_run_trim(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		  uint32_t len)
{
	struct aoe_task *t;
	uint64_t outside;

	if (bdev_info(unit_bdev(place->disk->unit))->discard_blocks == 0 ||
	    ata_registers_of(frame)->feature != TRIM) {
		ata_refuse_request(place, frame, ATA_ABRT);
		return;
	}
	t = ata_transfer_create(place, cmd, frame, len);
	if (t == NULL)
		return;
	outside = first_outside(t);
	if (outside != UINT64_MAX) {
		ata_set_lba(ata_registers(t), outside, true);
		ata_refuse(t, ATA_IDNF);
		return;
	}
	ata_prepare_trim(t, cmd);
	ata_take_off(t);
}
