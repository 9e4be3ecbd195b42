/*
 * Diagnostics: SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS (SPC-4 6.42, 6.28), READ DEFECT DATA
 * (SBC-3 5.17, 5.18). What a self-test does is in selftest.c.
 */
#include "scsi/job.h"

/* ---- SEND DIAGNOSTIC ---- */

/* Byte 1 of the CDB. DEVOFFL and UNITOFFL allow what no test here needs. */
#define DIAG_PF       0x10
#define DIAG_SELFTEST 0x04

#define PAGE_HEADER_LEN 4
/* One page of the only kind: longer lists are none of ours. */
#define DIAG_LIST_MAX 4096

/* Page 00h without anything asks for the list of pages, by the next RECEIVE DIAGNOSTIC RESULTS. */
static void diag_list(struct scsi_task *task)
{
	struct reader r = gathered_reader(task);
	const uint8_t *p = read_bytes(&r, PAGE_HEADER_LEN);

	if (p == NULL || load_be16(task->cdb + 3) > gathered_len(task))
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
	else if (p[0] != 0)
		task_bad_parameter(task, 0, 7);
	else if (p[1] != 0)
		task_bad_parameter(task, 1, 7);
	else if (load_be16(p + 2) != 0)
		task_bad_parameter(task, 2, 7);
	scsi_task_end(task);
}

static void diag_page(struct scsi_task *task)
{
	const uint16_t len = load_be16(task->cdb + 3);

	if (len == 0) {
		scsi_task_end(task);
	} else if (!(task->cdb[1] & DIAG_PF)) {
		task_bad_field(task, 1, 4); /* a vendor's list */
		scsi_task_end(task);
	} else if (len < PAGE_HEADER_LEN || len > DIAG_LIST_MAX) {
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
		scsi_task_end(task);
	} else {
		gather(task, len, diag_list);
	}
}

static void self_test(struct scsi_task *task, enum self_test_code code)
{
	const bool background = code == TEST_BACKGROUND_SHORT || code == TEST_BACKGROUND_EXTENDED;
	struct job_request *req = job_request_new(task);

	if (req == NULL)
		return;
	req->work.kind = code == TEST_ABORT ? JOB_NOTHING : JOB_SELF_TEST;
	req->work.code = low_u8(code);
	job_request_submit(req, background ? JOB_WAIT_BEGUN : JOB_WAIT_ENDED);
}

void cmd_send_diagnostic(struct scsi_task *task)
{
	const unsigned code = task->cdb[1] >> 5;
	const bool selftest = task->cdb[1] & DIAG_SELFTEST;

	if (code == 3 || code == 7 || (code != 0 && selftest))
		task_bad_field(task, 1, 7);
	else if ((code != 0 || selftest) && (task->cdb[1] & DIAG_PF))
		task_bad_field(task, 1, 4);
	else if ((code != 0 || selftest) && load_be16(task->cdb + 3) != 0)
		task_bad_field(task, 3, 7);
	if (scsi_task_stopped(task))
		scsi_task_end(task);
	else if (code != 0 || selftest)
		self_test(task, code);
	else
		diag_page(task);
}

/* ---- RECEIVE DIAGNOSTIC RESULTS ---- */

/* Without PCV it is the answer to the page sent last, and only page 00h can be sent. */
void cmd_receive_diagnostic_results(struct scsi_task *task)
{
	const bool pcv = task->cdb[1] & 0x01;
	struct writer w;

	if (!reply_begin(task, &w, load_be16(task->cdb + 3)))
		return;
	if (task->cdb[2] != 0)
		task_bad_field(task, pcv ? 2 : 1, pcv ? 7 : 0);
	write_be16(&w, 0); /* page 00h: the pages there are */
	write_be16(&w, 1);
	write_u8(&w, 0);
	reply_send(task, &w);
}

/* ---- READ DEFECT DATA ---- */

#define DEFECT_LISTS   0x18 /* REQ_PLIST, REQ_GLIST; in the answer PLISTV, GLISTV */
#define DEFECT_FORMAT  0x07
#define DEFECT_FORMATS 6 /* 110b is a vendor's, 111b reserved */

/* No defects are known, in no format; both lists are there and empty. */
static void read_defect_data(struct scsi_task *task, unsigned byte, uint32_t allocation_len,
			     unsigned len_bytes)
{
	const uint8_t asked = task->cdb[byte];
	struct writer w;

	if (!reply_begin(task, &w, allocation_len))
		return;
	if ((asked & DEFECT_FORMAT) >= DEFECT_FORMATS)
		task_bad_field(task, byte, 2);
	write_u8(&w, 0);
	write_u8(&w, asked & (DEFECT_LISTS | DEFECT_FORMAT));
	write_zeros(&w, len_bytes);
	reply_send(task, &w);
}

void cmd_read_defect_data_10(struct scsi_task *task)
{
	read_defect_data(task, 2, load_be16(task->cdb + 7), 2);
}

/* 12: generation code or reserved (2 bytes), then the length. */
void cmd_read_defect_data_12(struct scsi_task *task)
{
	read_defect_data(task, 1, load_be32(task->cdb + 6), 6);
}
