/*
 * MODE SENSE and MODE SELECT: headers and block descriptors around the pages of mode.c (SPC-4 6.11 to
 * 6.14, SBC-3 6.5).
 */
#include "scsi/impl.h"

/* ---- MODE SENSE (6.13, 6.14) ---- */

/* DEVICE-SPECIFIC PARAMETER of a disk (SBC-3 6.5.1). */
static uint8_t mode_device_parameter(const struct scsi_task *task)
{
	const bool protected = itl_view(task->itl)->flags & UNIT_WRITE_PROTECTED;

	return low_u8((protected ? 0x80u : 0) | 0x10 /* DPOFUA */);
}

/* SBC-3 6.5.2 */
static void write_block_descriptor(const struct scsi_task *task, unsigned len, struct writer *w)
{
	const struct bdev_info *info = task->itl->lu->info;
	const uint64_t nblocks = itl_view(task->itl)->size >> info->block_shift;

	if (len == 8) {
		write_be32(w, clamp_u32(nblocks));
		write_be32(w, info->block_size);
	} else if (len == 16) {
		write_be64(w, nblocks);
		write_be32(w, 0);
		write_be32(w, info->block_size);
	}
}

void cmd_mode_sense_6(struct scsi_task *task)
{
	const unsigned descriptor = task->cdb[1] & 0x08 ? 0 : 8;
	const enum mode_control control = task->cdb[2] >> 6;
	struct writer w;

	if (!reply_begin(task, &w, task->cdb[4]))
		return;
	if (control == MODE_SAVED)
		scsi_task_sense(task, SENSE_SAVING_NOT_SUPPORTED);
	write_be16(&w, 0);
	write_u8(&w, mode_device_parameter(task));
	write_u8(&w, low_u8(descriptor));
	write_block_descriptor(task, descriptor, &w);
	mode_write_pages(task, control, &w);
	writer_patch_u8(&w, 0, clamp_u8(w.len - 1));
	reply_send(task, &w);
}

void cmd_mode_sense_10(struct scsi_task *task)
{
	const bool long_lba = task->cdb[1] & 0x10;
	const unsigned descriptor = task->cdb[1] & 0x08 ? 0 : long_lba ? 16 : 8;
	const enum mode_control control = task->cdb[2] >> 6;
	struct writer w;

	if (!reply_begin(task, &w, load_be16(task->cdb + 7)))
		return;
	if (control == MODE_SAVED)
		scsi_task_sense(task, SENSE_SAVING_NOT_SUPPORTED);
	write_be16(&w, 0);
	write_u8(&w, 0);
	write_u8(&w, mode_device_parameter(task));
	write_u8(&w, descriptor == 16 ? 0x01 : 0); /* LONGLBA */
	write_u8(&w, 0);
	write_be16(&w, low_u16(descriptor));
	write_block_descriptor(task, descriptor, &w);
	mode_write_pages(task, control, &w);
	writer_patch_be16(&w, 0, clamp_u16(w.len - 2));
	reply_send(task, &w);
}
