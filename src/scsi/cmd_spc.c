/*
 * The commands that every device type has (SPC-4 clause 6).
 */
#include "scsi/impl.h"

#define VERSION_SPC_4 0x06

/* Peripheral qualifier and device type (SPC-4 6.6.2). */
#define DEVICE_DISK       0x00
#define DEVICE_WELL_KNOWN 0x1e
#define NO_DEVICE         0x7f

/* ---- TEST UNIT READY (6.47), REQUEST SENSE (6.39) ---- */

void cmd_test_unit_ready(struct scsi_task *task)
{
	scsi_task_end(task);
}

/* First why the unit is not ready, which clears nothing; else a pending unit attention, which is
 * cleared by that (SAM-5 5.14.3); else how far a self-test is in the background (5.13.4.3). */
static struct sense_data sense_to_tell(const struct scsi_task *task)
{
	struct sense_data sense = {.sense = SENSE_NONE};

	if (task->itl == NULL) {
		if (!lun_is_report_luns(task->lun))
			sense.sense = SENSE_LU_NOT_SUPPORTED;
	} else if (!scsi_not_ready(task->itl, 0, &sense) && !ua_take(task->itl, &sense.sense)) {
		(void)job_test_sense(task->itl->lu, &sense);
	}
	return sense;
}

/* The sense is the data. */
void cmd_request_sense(struct scsi_task *task)
{
	const bool descriptors = task->cdb[1] & 0x01;
	struct sense_data sense;
	uint8_t buf[SENSE_BYTES_MAX];
	struct writer w;

	if (!reply_begin(task, &w, task->cdb[4]))
		return;
	sense = sense_to_tell(task);
	write_bytes(&w, buf,
		    sense_build(buf, &sense, descriptors ? SENSE_DESCRIPTOR : SENSE_FIXED));
	reply_send(task, &w);
}

/* ---- INQUIRY (6.6) ---- */

uint8_t inquiry_peripheral(const struct scsi_task *task)
{
	if (task->itl != NULL)
		return DEVICE_DISK;
	return lun_is_report_luns(task->lun) ? DEVICE_WELL_KNOWN : NO_DEVICE;
}

/* SPC-4 table 179: the transport's, by its protocol identifier; 0: none. */
static const uint16_t transport_version[16] = {
	[5] = 0x0960, /* iSCSI */
};

/* Vendor, product and revision: nobody's where there is no LU. */
static void write_names(const struct scsi_task *task, struct writer *w)
{
	static const struct lu_state none = {0};
	static const struct lu_state well_known = {
		.vendor = LU_VENDOR, .product = "REPORT LUNS", .revision = "1"};
	const struct lu_state *lu = &none;

	if (task->itl != NULL)
		lu = itl_state(task->itl);
	else if (lun_is_report_luns(task->lun))
		lu = &well_known;
	write_ascii(w, lu->vendor, 8);
	write_ascii(w, lu->product, 16);
	write_ascii(w, lu->revision, 4);
}

/* Nothing of what the flags in bytes 5 to 7 tell is here, but command queuing. Each target has one
 * port (MULTIP 0). */
static void write_standard_inquiry(const struct scsi_task *task, struct writer *w)
{
	write_u8(w, inquiry_peripheral(task));
	write_u8(w, 0); /* not removable */
	write_u8(w, VERSION_SPC_4);
	write_u8(w, 0x10 | 0x02); /* HISUP, response data format */
	write_u8(w, 96 - 5);
	write_u8(w, 0);
	write_u8(w, 0);
	write_u8(w, 0x02); /* CMDQUE */
	write_names(task, w);
	write_zeros(w, 58 - 36);
	/* In the order that 6.6.2 recommends. */
	write_be16(w, 0x00a0); /* SAM-5 */
	write_be16(w, transport_version[task->nexus->transport->protocol_id & 0xf]);
	write_be16(w, 0x0460); /* SPC-4 */
	write_be16(w, task->itl != NULL ? 0x04c0 /* SBC-3 */ : 0);
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

/* SELECT REPORT: what is listed. Those of SPC-5 are about devices that we are not. */
enum { LIST_LUNS = 1, LIST_WELL_KNOWN = 2 };
static const uint8_t select_reports[] = {
	[0x00] = LIST_LUNS,
	[0x01] = LIST_WELL_KNOWN,
	[0x02] = LIST_LUNS | LIST_WELL_KNOWN,
};

static void write_luns(const struct nexus *n, unsigned list, struct writer *w)
{
	write_be64(w, 0);
	for (unsigned lun = 0; lun < SCSI_LUNS && list & LIST_LUNS; lun++) {
		if (n->luns[lun] == NULL)
			continue;
		write_be16(w, low_u16(lun)); /* peripheral device addressing */
		write_zeros(w, 6);
	}
	if (list & LIST_WELL_KNOWN)
		write_be64(w, LUN_REPORT_LUNS);
	writer_patch_be32(w, 0, low_u32(w->len - 8));
}

void cmd_report_luns(struct scsi_task *task)
{
	const uint8_t select = task->cdb[2];
	struct writer w;

	if (!reply_begin(task, &w, load_be32(task->cdb + 6)))
		return;
	if (select < ARRAY_LEN(select_reports)) {
		write_luns(task->nexus, select_reports[select], &w);
		ua_luns_told(task->nexus);
	} else {
		task_bad_field(task, 2, 7);
	}
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

/* ---- REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (6.36) ---- */

/* No time is known for any of them. */
void cmd_report_supported_tmfs(struct scsi_task *task)
{
	const bool timeouts = task->cdb[2] & 0x80; /* REPD */
	struct writer w;

	if (!reply_begin(task, &w, load_be32(task->cdb + 6)))
		return;
	write_be16(&w, task->nexus->task_management);
	write_u8(&w, 0);
	write_u8(&w, timeouts ? 16 - 4 : 0);
	if (timeouts)
		write_zeros(&w, 16 - 4);
	reply_send(task, &w);
}
