/*
 * Sense data: every key and code we answer is a row of sense.def; here it becomes bytes, in fixed
 * and in descriptor format (SPC-4 4.5). The only place that turns errors into a status.
 */
#include <errno.h>

#include "scsi/impl.h"

struct sense_row {
	uint8_t key, asc, ascq;
};

static const struct sense_row sense_rows[] = {
#define SENSE_ROW(name, key, asc, ascq, text) {key, asc, ascq},
#include "scsi/sense.def"
#undef SENSE_ROW
};

/* Sense key specific: the field in error, or how far it is (SPC-4 4.5.2.4.2, 4.5.2.4.4). */
static bool has_specific(const struct sense_data *sense)
{
	return sense->has_field || sense->has_progress;
}

static void put_specific(uint8_t p[static 3], const struct sense_data *sense)
{
	const uint8_t in_cdb = sense->field_in_parameters ? 0 : 0x40; /* C/D */

	p[0] = 0x80; /* SKSV */
	if (sense->has_field)
		p[0] |= low_u8(in_cdb | 0x08 /* BPV */ | sense->field_bit);
	store_be16(p + 1, sense->has_field ? sense->field_byte : sense->progress);
}

/* SPC-4 4.5.3 */
static size_t build_fixed(uint8_t *p, const struct sense_data *sense)
{
	const struct sense_row *row = &sense_rows[sense->sense];

	memset(p, 0, 18);
	p[0] = 0x70;
	/* An LBA that does not fit is left out (SBC-3 4.18.1). */
	if (sense->has_information && sense->information <= UINT32_MAX) {
		p[0] |= 0x80;
		store_be32(p + 3, low_u32(sense->information));
	}
	p[2] = row->key;
	p[7] = 18 - 8;
	p[12] = row->asc;
	p[13] = row->ascq;
	if (has_specific(sense))
		put_specific(p + 15, sense);
	return 18;
}

/* SPC-4 4.5.2 */
static size_t build_descriptors(uint8_t *p, const struct sense_data *sense)
{
	const struct sense_row *row = &sense_rows[sense->sense];
	size_t len = 8;

	memset(p, 0, SENSE_BYTES_MAX);
	p[0] = 0x72;
	p[1] = row->key;
	p[2] = row->asc;
	p[3] = row->ascq;
	if (sense->has_information) {
		p[len + 1] = 0x0a;
		p[len + 2] = 0x80; /* VALID */
		store_be64(p + len + 4, sense->information);
		len += 12;
	}
	if (has_specific(sense)) {
		p[len] = 0x02;
		p[len + 1] = 0x06;
		put_specific(p + len + 4, sense);
		len += 8;
	}
	p[7] = low_u8(len - 8);
	return len;
}

size_t sense_build(uint8_t buf[static SENSE_BYTES_MAX], const struct sense_data *sense,
		   enum sense_format format)
{
	return format == SENSE_FIXED ? build_fixed(buf, sense) : build_descriptors(buf, sense);
}

/* D_SENSE of the control mode page (SPC-4 7.5.8). */
static enum sense_format format_for(const struct scsi_task *task)
{
	const bool descriptors =
		task->itl != NULL && itl_state(task->itl)->mode & 1u << MODE_D_SENSE;

	return descriptors ? SENSE_DESCRIPTOR : SENSE_FIXED;
}

void task_sense_data(struct scsi_task *task, const struct sense_data *sense)
{
	if (task->status != SCSI_GOOD)
		return;
	task->status = SCSI_CHECK_CONDITION;
	task->sense_len = low_u8(sense_build(task->sense, sense, format_for(task)));
}

void scsi_task_sense(struct scsi_task *task, enum sense sense)
{
	task_sense_data(task, &(struct sense_data){.sense = sense});
}

void task_bad_field(struct scsi_task *task, unsigned byte, unsigned bit)
{
	task_sense_data(task, &(struct sense_data){.sense = SENSE_INVALID_FIELD_IN_CDB,
						   .has_field = true,
						   .field_byte = low_u16(byte),
						   .field_bit = low_u8(bit)});
}

void task_bad_parameter(struct scsi_task *task, unsigned byte, unsigned bit)
{
	task_sense_data(task, &(struct sense_data){.sense = SENSE_INVALID_FIELD_IN_PARAMETER_LIST,
						   .has_field = true,
						   .field_in_parameters = true,
						   .field_byte = low_u16(byte),
						   .field_bit = low_u8(bit)});
}

/* What an errno of the unit or the store means to the initiator. The first row that fits counts. */
static const struct error_row {
	int err;
	bool reads_only; /* the row is for what changes nothing */
	enum scsi_status status;
	enum sense sense; /* with CHECK CONDITION */
	bool tells_lba;   /* INFORMATION: the block where the I/O began */
} errors[] = {
	{-EIO, true, SCSI_CHECK_CONDITION, SENSE_UNRECOVERED_READ, true},
	{-EIO, false, SCSI_CHECK_CONDITION, SENSE_WRITE_ERROR, true},
	{-ENOSPC, false, SCSI_CHECK_CONDITION, SENSE_SPACE_ALLOCATION_FAILED, false},
	{-EDQUOT, false, SCSI_CHECK_CONDITION, SENSE_SPACE_ALLOCATION_FAILED, false},
	{-EROFS, false, SCSI_CHECK_CONDITION, SENSE_WRITE_PROTECTED, false},
	{-ERANGE, false, SCSI_CHECK_CONDITION, SENSE_LBA_OUT_OF_RANGE, true},
	{-ENODEV, false, SCSI_CHECK_CONDITION, SENSE_NOT_READY_MISSING, false},
	{-ENOMEDIUM, false, SCSI_CHECK_CONDITION, SENSE_NOT_READY_STOPPED, false},
	{-EACCES, false, SCSI_RESERVATION_CONFLICT, SENSE_NONE, false},
	{-ENOMEM, false, SCSI_TASK_SET_FULL, SENSE_NONE, false},
	{-ETIMEDOUT, false, SCSI_BUSY, SENSE_NONE, false},
	{-EBUSY, false, SCSI_BUSY, SENSE_NONE, false},
};

void task_errno(struct scsi_task *task, int err, enum io_op op, uint64_t lba)
{
	size_t i;

	/* An aborted task is answered by nobody. */
	if (task->unit_task.aborted || task->status != SCSI_GOOD)
		return;
	for (i = 0; i < ARRAY_LEN(errors); i++) {
		const struct error_row *row = &errors[i];

		if (row->err != err || (row->reads_only && op != IO_READ && op != IO_EXTENT))
			continue;
		if (row->status != SCSI_CHECK_CONDITION)
			task->status = row->status;
		else
			task_sense_data(task,
					&(struct sense_data){.sense = row->sense,
							     .has_information = row->tells_lba &&
										op != IO_FLUSH,
							     .information = lba});
		return;
	}
	scsi_task_sense(task, SENSE_INTERNAL_FAILURE);
}
