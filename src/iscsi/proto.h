/*
 * iSCSI on the wire: the PDUs of RFC 7143 section 11 as structs of big-endian integers, and the
 * numbers in them. Apart because it is the standard's text and nothing of ours.
 */
#ifndef SPINDLE_ISCSI_PROTO_H
#define SPINDLE_ISCSI_PROTO_H

#include "base/base.h"

#define ISCSI_BHS_LEN      48
#define ISCSI_DIGEST_LEN   4
#define ISCSI_AHS_MAX      (255 * 4)
#define ISCSI_RESERVED_TAG UINT32_C(0xffffffff)

/* RFC 7143 11.2.1.2 */
enum iscsi_opcode {
	ISCSI_NOP_OUT = 0x00,
	ISCSI_SCSI_COMMAND = 0x01,
	ISCSI_TASK_MANAGEMENT = 0x02,
	ISCSI_LOGIN = 0x03,
	ISCSI_TEXT = 0x04,
	ISCSI_DATA_OUT = 0x05,
	ISCSI_LOGOUT = 0x06,
	ISCSI_SNACK = 0x10,
	ISCSI_NOP_IN = 0x20,
	ISCSI_SCSI_RESPONSE = 0x21,
	ISCSI_TASK_MANAGEMENT_RESPONSE = 0x22,
	ISCSI_LOGIN_RESPONSE = 0x23,
	ISCSI_TEXT_RESPONSE = 0x24,
	ISCSI_DATA_IN = 0x25,
	ISCSI_LOGOUT_RESPONSE = 0x26,
	ISCSI_R2T = 0x31,
	ISCSI_ASYNC = 0x32,
	ISCSI_REJECT = 0x3f,
};

#define ISCSI_OPCODE_MASK 0x3f
#define ISCSI_IMMEDIATE   0x40 /* in the opcode byte */

/* The flags byte. */
#define ISCSI_FINAL    0x80 /* F; in login requests and responses T (transit) */
#define ISCSI_CONTINUE 0x40 /* C: text and login */

#define ISCSI_COMMAND_READ  0x40
#define ISCSI_COMMAND_WRITE 0x20
#define ISCSI_COMMAND_ATTR  0x07

#define ISCSI_RESIDUAL_OVERFLOW  0x04
#define ISCSI_RESIDUAL_UNDERFLOW 0x02
#define ISCSI_DATA_IN_STATUS     0x01

#define ISCSI_LOGIN_CSG(flags) (((flags) >> 2) & 3)
#define ISCSI_LOGIN_NSG(flags) ((flags)&3)

/* What all PDUs share (11.2.1). */
struct iscsi_bhs {
	uint8_t opcode;
	uint8_t flags;
	uint8_t specific[2];
	uint8_t ahs_words; /* TotalAHSLength, in 4 bytes */
	be24 data_len;
	uint8_t lun[8];
	be32 itt;
	be32 ttt;        /* or the opcode's own */
	be32 sn;         /* requests: CmdSN; responses: StatSN */
	be32 exp_sn;     /* requests: ExpStatSN; responses: ExpCmdSN */
	be32 max_cmd_sn; /* responses: MaxCmdSN */
	uint8_t rest[12];
};
_Static_assert(sizeof(struct iscsi_bhs) == ISCSI_BHS_LEN, "11.2.1");

/* 11.2.2 */
struct iscsi_ahs {
	be16 len; /* of what follows `type`, padding not counted */
	uint8_t type;
	uint8_t specific;
};
_Static_assert(sizeof(struct iscsi_ahs) == 4, "11.2.2");

enum iscsi_ahs_type { ISCSI_AHS_EXTENDED_CDB = 1, ISCSI_AHS_BIDI_LENGTH = 2 };

/* 11.3 */
struct iscsi_scsi_command {
	uint8_t opcode, flags;
	uint8_t priority; /* RFC 7144: in bits 7 to 4; advice to LUs with PRIOR_SUP, and ours has it not */
	uint8_t reserved, ahs_words;
	be24 data_len;
	uint8_t lun[8];
	be32 itt, expected_len, cmd_sn, exp_stat_sn;
	uint8_t cdb[16];
};
_Static_assert(sizeof(struct iscsi_scsi_command) == ISCSI_BHS_LEN, "11.3");

enum iscsi_attr {
	ISCSI_ATTR_UNTAGGED,
	ISCSI_ATTR_SIMPLE,
	ISCSI_ATTR_ORDERED,
	ISCSI_ATTR_HEAD_OF_QUEUE,
	ISCSI_ATTR_ACA,
};

/* 11.4 */
struct iscsi_scsi_response {
	uint8_t opcode, flags, response, status, ahs_words;
	be24 data_len;
	be16 status_qualifier; /* RFC 7144; 0: nothing to add (SAM-5 5.3.2) */
	uint8_t reserved[6];
	be32 itt, snack_tag, stat_sn, exp_cmd_sn, max_cmd_sn, exp_data_sn;
	be32 bidi_read_residual, residual;
};
_Static_assert(sizeof(struct iscsi_scsi_response) == ISCSI_BHS_LEN, "11.4");

/* 11.5, 11.6 */
struct iscsi_task_management {
	uint8_t opcode, function, reserved[2], ahs_words;
	be24 data_len;
	uint8_t lun[8];
	be32 itt, ref_task_tag, cmd_sn, exp_stat_sn, ref_cmd_sn, exp_data_sn;
	uint8_t reserved2[8];
};
_Static_assert(sizeof(struct iscsi_task_management) == ISCSI_BHS_LEN, "11.5");

struct iscsi_task_management_response {
	uint8_t opcode, flags, response, reserved, ahs_words;
	be24 data_len;
	uint8_t additional[3]; /* RFC 7144: additional response information */
	uint8_t reserved2[5];
	be32 itt;
	uint8_t reserved3[4];
	be32 stat_sn, exp_cmd_sn, max_cmd_sn;
	uint8_t reserved4[12];
};
_Static_assert(sizeof(struct iscsi_task_management_response) == ISCSI_BHS_LEN, "11.6");

enum iscsi_tm_function {
	ISCSI_ABORT_TASK = 1,
	ISCSI_ABORT_TASK_SET = 2,
	ISCSI_CLEAR_ACA = 3,
	ISCSI_CLEAR_TASK_SET = 4,
	ISCSI_LOGICAL_UNIT_RESET = 5,
	ISCSI_TARGET_WARM_RESET = 6,
	ISCSI_TARGET_COLD_RESET = 7,
	ISCSI_TASK_REASSIGN = 8,
	/* RFC 7144 */
	ISCSI_QUERY_TASK = 9,
	ISCSI_QUERY_TASK_SET = 10,
	ISCSI_I_T_NEXUS_RESET = 11,
	ISCSI_QUERY_ASYNC_EVENT = 12,
};

enum iscsi_tm_response {
	ISCSI_TM_COMPLETE = 0,
	ISCSI_TM_NO_TASK = 1,
	ISCSI_TM_NO_LUN = 2,
	ISCSI_TM_NO_REASSIGN = 4,
	ISCSI_TM_NOT_SUPPORTED = 5,
	ISCSI_TM_SUCCEEDED = 7, /* RFC 7144 */
	ISCSI_TM_REJECTED = 255,
};

/* 11.7 */
struct iscsi_data_out {
	uint8_t opcode, flags, reserved[2], ahs_words;
	be24 data_len;
	uint8_t lun[8];
	be32 itt, ttt;
	uint8_t reserved2[4];
	be32 exp_stat_sn;
	uint8_t reserved3[4];
	be32 data_sn, offset;
	uint8_t reserved4[4];
};
_Static_assert(sizeof(struct iscsi_data_out) == ISCSI_BHS_LEN, "11.7");

struct iscsi_data_in {
	uint8_t opcode, flags, reserved, status, ahs_words;
	be24 data_len;
	uint8_t lun[8];
	be32 itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn, offset, residual;
};
_Static_assert(sizeof(struct iscsi_data_in) == ISCSI_BHS_LEN, "11.7");

/* 11.8 */
struct iscsi_r2t {
	uint8_t opcode, flags, reserved[2], ahs_words;
	be24 data_len;
	uint8_t lun[8];
	be32 itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn, r2t_sn, offset, desired_len;
};
_Static_assert(sizeof(struct iscsi_r2t) == ISCSI_BHS_LEN, "11.8");

/* 11.9 */
struct iscsi_async {
	uint8_t opcode, flags, reserved[2], ahs_words;
	be24 data_len;
	uint8_t lun[8]; /* of a SCSI event; else reserved */
	be32 itt;
	uint8_t reserved2[4];
	be32 stat_sn, exp_cmd_sn, max_cmd_sn;
	uint8_t event, vcode;
	be16 parameter1, parameter2, parameter3;
	uint8_t reserved3[4];
};
_Static_assert(sizeof(struct iscsi_async) == ISCSI_BHS_LEN, "11.9");

/* 11.9.1 */
enum iscsi_async_event {
	ISCSI_ASYNC_LOGOUT = 1,       /* is asked for, within Parameter3 seconds */
	ISCSI_ASYNC_DROP_SESSION = 3, /* Time2Wait and Time2Retain in Parameter2 and Parameter3 */
};

/* 11.10, 11.11 and 11.18, 11.19 have nothing beyond the shared header. */

/* 11.12 */
struct iscsi_login {
	uint8_t opcode, flags, version_max, version_min, ahs_words;
	be24 data_len;
	uint8_t isid[6];
	be16 tsih;
	be32 itt;
	be16 cid, reserved;
	be32 cmd_sn, exp_stat_sn;
	uint8_t reserved2[16];
};
_Static_assert(sizeof(struct iscsi_login) == ISCSI_BHS_LEN, "11.12");

/* 11.13 */
struct iscsi_login_response {
	uint8_t opcode, flags, version_max, version_active, ahs_words;
	be24 data_len;
	uint8_t isid[6];
	be16 tsih;
	be32 itt, reserved, stat_sn, exp_cmd_sn, max_cmd_sn;
	be16 status; /* class, detail */
	uint8_t reserved2[10];
};
_Static_assert(sizeof(struct iscsi_login_response) == ISCSI_BHS_LEN, "11.13");

enum iscsi_stage {
	ISCSI_SECURITY = 0,
	ISCSI_OPERATIONAL = 1,
	ISCSI_FULL_FEATURE = 3,
};

/* 11.13.5; class in the upper byte. */
enum iscsi_login_status {
	ISCSI_LOGIN_OK = 0x0000,
	ISCSI_LOGIN_INITIATOR_ERROR = 0x0200,
	ISCSI_LOGIN_AUTHENTICATION = 0x0201,
	ISCSI_LOGIN_FORBIDDEN = 0x0202,
	ISCSI_LOGIN_NOT_FOUND = 0x0203,
	ISCSI_LOGIN_UNSUPPORTED_VERSION = 0x0205,
	ISCSI_LOGIN_TOO_MANY_CONNECTIONS = 0x0206,
	ISCSI_LOGIN_MISSING_PARAMETER = 0x0207,
	ISCSI_LOGIN_SESSION_TYPE = 0x0209,
	ISCSI_LOGIN_NO_SESSION = 0x020a,
	ISCSI_LOGIN_INVALID_REQUEST = 0x020b,
	ISCSI_LOGIN_TARGET_ERROR = 0x0300,
	ISCSI_LOGIN_UNAVAILABLE = 0x0301,
	ISCSI_LOGIN_OUT_OF_RESOURCES = 0x0302,
};

/* 11.14, 11.15 */
struct iscsi_logout {
	uint8_t opcode, reason, reserved[2], ahs_words;
	be24 data_len;
	uint8_t reserved2[8];
	be32 itt;
	be16 cid, reserved3;
	be32 cmd_sn, exp_stat_sn;
	uint8_t reserved4[16];
};
_Static_assert(sizeof(struct iscsi_logout) == ISCSI_BHS_LEN, "11.14");

enum iscsi_logout_reason { ISCSI_CLOSE_SESSION, ISCSI_CLOSE_CONNECTION, ISCSI_REMOVE_CONNECTION };

struct iscsi_logout_response {
	uint8_t opcode, flags, response, reserved, ahs_words;
	be24 data_len;
	uint8_t reserved2[8];
	be32 itt;
	uint8_t reserved3[4];
	be32 stat_sn, exp_cmd_sn, max_cmd_sn;
	uint8_t reserved4[4];
	be16 time2wait_s, time2retain_s;
	uint8_t reserved5[4];
};
_Static_assert(sizeof(struct iscsi_logout_response) == ISCSI_BHS_LEN, "11.15");

enum iscsi_logout_status {
	ISCSI_LOGGED_OUT,
	ISCSI_LOGOUT_CID_NOT_FOUND,
	ISCSI_LOGOUT_NO_RECOVERY,
};

/* 11.17 */
struct iscsi_reject {
	uint8_t opcode, flags, reason, reserved, ahs_words;
	be24 data_len;
	uint8_t reserved2[8];
	be32 itt;
	uint8_t reserved3[4];
	be32 stat_sn, exp_cmd_sn, max_cmd_sn, data_sn;
	uint8_t reserved4[8];
};
_Static_assert(sizeof(struct iscsi_reject) == ISCSI_BHS_LEN, "11.17");

/* 11.17.1 */
enum iscsi_reject_reason {
	ISCSI_REJECT_DATA_DIGEST = 0x02,
	ISCSI_REJECT_SNACK = 0x03,
	ISCSI_REJECT_PROTOCOL_ERROR = 0x04,
	ISCSI_REJECT_NOT_SUPPORTED = 0x05,
	ISCSI_REJECT_IMMEDIATE = 0x06,
	ISCSI_REJECT_TASK_IN_PROGRESS = 0x07,
	ISCSI_REJECT_INVALID_SNACK = 0x08,
	ISCSI_REJECT_INVALID_FIELD = 0x09,
	ISCSI_REJECT_LONG_OPERATION = 0x0a,
};

/* Serial number arithmetic (RFC 1982), as RFC 7143 4.2.2 asks for it. */
static inline bool sn_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

#endif
