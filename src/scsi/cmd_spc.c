/*
 * The commands that every device type has (SPC-4 clause 6).
 */
#include "scsi/impl.h"

#define VERSION_SPC_4 0x06
#define DEVICE_DISK   0x00
#define NO_DEVICE     0x7f /* qualifier 3, type 1Fh (SPC-4 6.6.2) */

/* ---- TEST UNIT READY (6.47), REQUEST SENSE (6.39) ---- */

void cmd_test_unit_ready(struct scsi_task *task)
{
	scsi_task_end(task);
}

/* The sense is the data, in the order of 6.39: first why the unit is not ready, which clears
 * nothing; else a pending unit attention, which is cleared by that. */
void cmd_request_sense(struct scsi_task *task)
{
	const bool descriptors = task->cdb[1] & 0x01;
	struct sense_data sense = {.sense = SENSE_NONE};
	uint8_t buf[SENSE_BYTES_MAX];
	struct writer w;

	if (!reply_begin(task, &w, task->cdb[4]))
		return;
	if (task->itl == NULL)
		sense.sense = SENSE_LU_NOT_SUPPORTED;
	else if (itl_view(task->itl)->flags & UNIT_STOPPED)
		sense.sense = SENSE_NOT_READY_STOPPED;
	else
		ua_take(task->itl, &sense.sense);
	write_bytes(&w, buf,
		    sense_build(buf, &sense, descriptors ? SENSE_DESCRIPTOR : SENSE_FIXED));
	reply_send(task, &w);
}

/* ---- INQUIRY (6.6) ---- */

uint8_t inquiry_peripheral(const struct scsi_task *task)
{
	return task->itl != NULL ? DEVICE_DISK : NO_DEVICE;
}

/* SPC-4 table 179: the transport's, by its protocol identifier; 0: none. */
static const uint16_t transport_version[16] = {
	[5] = 0x0960, /* iSCSI */
};

static void write_standard_inquiry(const struct scsi_task *task, struct writer *w)
{
	const struct lu_state *lu = task->itl != NULL ? itl_state(task->itl) : NULL;

	write_u8(w, inquiry_peripheral(task));
	write_u8(w, 0); /* not removable */
	write_u8(w, VERSION_SPC_4);
	write_u8(w, 0x10 | 0x02); /* HISUP, response data format */
	write_u8(w, 96 - 5);
	write_u8(w, 0);
	write_u8(w, 0);
	write_u8(w, 0x02); /* CMDQUE */
	write_ascii(w, lu != NULL ? lu->vendor : "", 8);
	write_ascii(w, lu != NULL ? lu->product : "", 16);
	write_ascii(w, lu != NULL ? lu->revision : "", 4);
	write_zeros(w, 58 - 36);
	/* In the order that 6.6.2 recommends. */
	write_be16(w, 0x00a0); /* SAM-5 */
	write_be16(w, transport_version[task->nexus->transport->protocol_id & 0xf]);
	write_be16(w, 0x0460); /* SPC-4 */
	write_be16(w, lu != NULL ? 0x04c0 /* SBC-3 */ : 0);
	write_zeros(w, 96 - 66);
}

void cmd_inquiry(struct scsi_task *task)
{
	const bool evpd = task->cdb[1] & 0x01;
	const uint8_t page = task->cdb[2];
	struct writer w;

	if (!reply_begin(task, &w, load_be16(task->cdb + 3)))
		return;
	if (evpd) {
		if (!vpd_write(task, page, &w))
			task_bad_field(task, 2, 7);
	} else if (page != 0) {
		task_bad_field(task, 2, 7);
	} else {
		write_standard_inquiry(task, &w);
	}
	reply_send(task, &w);
}

/* ---- REPORT LUNS (6.33) ---- */

void cmd_report_luns(struct scsi_task *task)
{
	const struct scsi_target *target = task->nexus->target;
	const uint8_t select = task->cdb[2];
	struct writer w;
	unsigned lun;

	if (!reply_begin(task, &w, load_be32(task->cdb + 6)))
		return;
	if (select > 0x02)
		task_bad_field(task, 2, 7);
	write_be64(&w, 0);
	/* 01h asks for well-known logical units only, and there are none. */
	for (lun = 0; lun < SCSI_LUNS && select != 0x01; lun++) {
		if (target->luns[lun] == NULL)
			continue;
		write_be16(&w, low_u16(lun)); /* peripheral device addressing */
		write_zeros(&w, 6);
	}
	/* An inventory of all is never empty: LUN 0 is where to ask again. */
	if (select == 0x02 && target->nluns == 0)
		write_zeros(&w, 8);
	writer_patch_be32(&w, 0, low_u32(w.len - 8));
	reply_send(task, &w);
}

/* ---- REPORT SUPPORTED OPERATION CODES (6.35) ---- */

/* No nominal times are known: what a disk needs is up to the store. */
static void write_timeouts(const struct scsi_cmd *cmd, struct writer *w)
{
	write_be16(w, 0x000a);
	write_be16(w, 0);
	write_be32(w, 0);
	write_be32(w, cmd->recommended_s);
}

static void write_all_commands(const struct scsi_lu *lu, bool timeouts, struct writer *w)
{
	const struct scsi_cmd_list list = scsi_commands();

	write_be32(w, 0);
	for (unsigned i = 0; i < list.n; i++) {
		const struct scsi_cmd *cmd = &list.rows[i];
		const bool servactv = cmd->service_action != CMD_NO_SA;

		if (!scsi_cmd_exists(cmd, lu))
			continue;
		write_u8(w, cmd->opcode);
		write_u8(w, 0);
		write_be16(w, servactv ? cmd->service_action : 0);
		write_u8(w, 0);
		write_u8(w, low_u8((timeouts ? 0x02u : 0) | (servactv ? 0x01u : 0)));
		write_be16(w, cmd->cdb_len);
		if (timeouts)
			write_timeouts(cmd, w);
	}
	writer_patch_be32(w, 0, low_u32(w->len - 4));
}

static void write_one_command(const struct scsi_cmd *cmd, const struct scsi_lu *lu, bool timeouts,
			      struct writer *w)
{
	uint8_t usage[SCSI_CDB_MAX];

	write_u8(w, 0);
	if (cmd == NULL) {
		write_u8(w, 0x01); /* not supported */
		write_be16(w, 0);
		return;
	}
	scsi_cmd_usage(cmd, lu, usage);
	write_u8(w, low_u8((timeouts ? 0x80u : 0) | 0x03)); /* as the standard says */
	write_be16(w, cmd->cdb_len);
	write_bytes(w, usage, cmd->cdb_len);
	if (timeouts)
		write_timeouts(cmd, w);
}

enum { REPORT_ALL, REPORT_OPCODE, REPORT_SERVICE_ACTION, REPORT_EITHER };

/* The opcode and service action that are asked about. */
struct request {
	bool opcode_known, has_actions;
	const struct scsi_cmd *cmd; /* NULL: not supported */
};

static struct request find_request(const struct scsi_task *task)
{
	const uint16_t action = load_be16(task->cdb + 4);
	struct request r;

	r.cmd = scsi_cmd_find(&task->nexus->target->index, task->itl->lu, task->cdb[3],
			      low_u8(action), &r.opcode_known);
	r.has_actions = r.opcode_known && (r.cmd == NULL || r.cmd->service_action != CMD_NO_SA);
	/* An action that a CDB could not even carry. */
	if (r.has_actions && action > 0x1f)
		r.cmd = NULL;
	return r;
}

/* SPC-4 table 292; REPORT_EITHER came with SPC-5, and Linux asks with it. */
static bool option_fits(unsigned option, const struct request *r)
{
	switch (option) {
	case REPORT_ALL:
	case REPORT_EITHER:
		return true;
	case REPORT_OPCODE:
		return !r->has_actions;
	case REPORT_SERVICE_ACTION:
		return r->has_actions || !r->opcode_known;
	default:
		return false;
	}
}

void cmd_report_supported_opcodes(struct scsi_task *task)
{
	const bool timeouts = task->cdb[2] & 0x80;
	const unsigned option = task->cdb[2] & 0x07;
	struct request r = find_request(task);
	struct writer w;

	/* Without service actions, only 0 names the command. */
	if (option == REPORT_EITHER && !r.has_actions && load_be16(task->cdb + 4) != 0)
		r.cmd = NULL;
	if (!reply_begin(task, &w, load_be32(task->cdb + 6)))
		return;
	if (!option_fits(option, &r))
		task_bad_field(task, 2, 2);
	else if (option == REPORT_ALL)
		write_all_commands(task->itl->lu, timeouts, &w);
	else
		write_one_command(r.cmd, task->itl->lu, timeouts, &w);
	reply_send(task, &w);
}
