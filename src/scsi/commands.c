/*
 * The commands: one row each, and what is derived from a row without running it. Apart from the
 * functions that the rows name, so that the whole command set can be read in one place.
 * Sources: SPC-4 clause 6, SBC-3 clause 5.
 */
#include "scsi/impl.h"

/* Bytes of the mask: fields in which every bit means something. */
#define ALL2 0xff, 0xff
#define ALL4 ALL2, ALL2
#define ALL8 ALL4, ALL4

#define READ_FLAGS  0x18 /* DPO, FUA. RDPROTECT: no protection information here. */
#define GROUP       0x1f /* GROUP NUMBER */
#define CONTROL     0x00 /* NACA is refused (SAM-5 5.2, NORMACA is 0), the rest is not ours */
#define SYNC_FLAGS  0x06 /* SYNC_NV, IMMED */
#define START_FLAGS 0x05 /* NO_FLUSH, START. No power conditions, nothing to eject. */

#define ALWAYS (CMD_ANY_LUN | CMD_BYPASS | CMD_UA_EXEMPT | CMD_WHEN_STOPPED)

static const struct scsi_cmd commands[] = {
	{
		.name = "TEST UNIT READY",
		.opcode = 0x00,
		.service_action = CMD_NO_SA,
		.cdb_len = 6,
		.mask = {0xff, 0, 0, 0, 0, CONTROL},
		.conflict = CONFLICT_READ,
		.recommended_s = 5,
		.run = cmd_test_unit_ready,
	},
	{
		.name = "REQUEST SENSE",
		.opcode = 0x03,
		.service_action = CMD_NO_SA,
		.cdb_len = 6,
		.mask = {0xff, 0x01, 0, 0, 0xff, CONTROL},
		.dir = SCSI_DATA_IN,
		.flags = ALWAYS,
		.recommended_s = 5,
		.run = cmd_request_sense,
	},
	{
		.name = "INQUIRY",
		.opcode = 0x12,
		.service_action = CMD_NO_SA,
		.cdb_len = 6,
		.mask = {0xff, 0x01, 0xff, ALL2, CONTROL},
		.dir = SCSI_DATA_IN,
		.flags = ALWAYS,
		.recommended_s = 5,
		.run = cmd_inquiry,
	},
	{
		.name = "MODE SENSE(6)",
		.opcode = 0x1a,
		.service_action = CMD_NO_SA,
		.cdb_len = 6,
		.mask = {0xff, 0x08, 0xff, 0xff, 0xff, CONTROL},
		.dir = SCSI_DATA_IN,
		.conflict = CONFLICT_READ,
		.flags = CMD_WHEN_STOPPED,
		.recommended_s = 5,
		.run = cmd_mode_sense_6,
	},
	{
		.name = "START STOP UNIT",
		.opcode = 0x1b,
		.service_action = CMD_NO_SA,
		.cdb_len = 6,
		.mask = {0xff, 0x01, 0, 0, START_FLAGS, CONTROL},
		.conflict = CONFLICT_WRITE,
		.flags = CMD_WHEN_STOPPED,
		.recommended_s = 60,
		.run = cmd_start_stop_unit,
	},
	{
		.name = "READ CAPACITY(10)",
		.opcode = 0x25,
		.service_action = CMD_NO_SA,
		.cdb_len = 10,
		.mask = {0xff, 0, 0, 0, 0, 0, 0, 0, 0, CONTROL},
		.dir = SCSI_DATA_IN,
		.conflict = CONFLICT_READ,
		.recommended_s = 5,
		.run = cmd_read_capacity_10,
	},
	{
		.name = "READ(10)",
		.opcode = 0x28,
		.service_action = CMD_NO_SA,
		.cdb_len = 10,
		.mask = {0xff, READ_FLAGS, ALL4, GROUP, ALL2, CONTROL},
		.dir = SCSI_DATA_IN,
		.conflict = CONFLICT_READ,
		.recommended_s = 30,
		.run = cmd_read,
	},
	{
		.name = "WRITE(10)",
		.opcode = 0x2a,
		.service_action = CMD_NO_SA,
		.cdb_len = 10,
		.mask = {0xff, READ_FLAGS, ALL4, GROUP, ALL2, CONTROL},
		.dir = SCSI_DATA_OUT,
		.conflict = CONFLICT_WRITE,
		.flags = CMD_CHANGES_DATA,
		.recommended_s = 30,
		.run = cmd_write,
	},
	{
		.name = "SYNCHRONIZE CACHE(10)",
		.opcode = 0x35,
		.service_action = CMD_NO_SA,
		.cdb_len = 10,
		.mask = {0xff, SYNC_FLAGS, ALL4, GROUP, ALL2, CONTROL},
		.conflict = CONFLICT_WRITE,
		.recommended_s = 60,
		.run = cmd_synchronize_cache,
	},
	{
		.name = "MODE SENSE(10)",
		.opcode = 0x5a,
		.service_action = CMD_NO_SA,
		.cdb_len = 10,
		.mask = {0xff, 0x18, 0xff, 0xff, 0, 0, 0, ALL2, CONTROL},
		.dir = SCSI_DATA_IN,
		.conflict = CONFLICT_READ,
		.flags = CMD_WHEN_STOPPED,
		.recommended_s = 5,
		.run = cmd_mode_sense_10,
	},
	{
		.name = "READ(16)",
		.opcode = 0x88,
		.service_action = CMD_NO_SA,
		.cdb_len = 16,
		.mask = {0xff, READ_FLAGS, ALL8, ALL4, GROUP, CONTROL},
		.dir = SCSI_DATA_IN,
		.conflict = CONFLICT_READ,
		.recommended_s = 30,
		.run = cmd_read,
	},
	{
		.name = "WRITE(16)",
		.opcode = 0x8a,
		.service_action = CMD_NO_SA,
		.cdb_len = 16,
		.mask = {0xff, READ_FLAGS, ALL8, ALL4, GROUP, CONTROL},
		.dir = SCSI_DATA_OUT,
		.conflict = CONFLICT_WRITE,
		.flags = CMD_CHANGES_DATA,
		.recommended_s = 30,
		.run = cmd_write,
	},
	{
		.name = "SYNCHRONIZE CACHE(16)",
		.opcode = 0x91,
		.service_action = CMD_NO_SA,
		.cdb_len = 16,
		.mask = {0xff, SYNC_FLAGS, ALL8, ALL4, GROUP, CONTROL},
		.conflict = CONFLICT_WRITE,
		.recommended_s = 60,
		.run = cmd_synchronize_cache,
	},
	{
		.name = "READ CAPACITY(16)",
		.opcode = 0x9e,
		.service_action = 0x10,
		.cdb_len = 16,
		.mask = {0xff, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, ALL4, 0, CONTROL},
		.dir = SCSI_DATA_IN,
		.conflict = CONFLICT_READ,
		.recommended_s = 5,
		.run = cmd_read_capacity_16,
	},
	{
		.name = "REPORT LUNS",
		.opcode = 0xa0,
		.service_action = CMD_NO_SA,
		.cdb_len = 12,
		.mask = {0xff, 0, 0xff, 0, 0, 0, ALL4, 0, CONTROL},
		.dir = SCSI_DATA_IN,
		.flags = ALWAYS,
		.recommended_s = 5,
		.run = cmd_report_luns,
	},
	{
		.name = "REPORT SUPPORTED OPERATION CODES",
		.opcode = 0xa3,
		.service_action = 0x0c,
		.cdb_len = 12,
		.mask = {0xff, 0x1f, 0x87, 0xff, ALL2, ALL4, 0, CONTROL},
		.dir = SCSI_DATA_IN,
		.conflict = CONFLICT_READ,
		.flags = CMD_WHEN_STOPPED,
		.recommended_s = 5,
		.run = cmd_report_supported_opcodes,
	},
};

_Static_assert(ARRAY_LEN(commands) < UINT8_MAX, "the index has one byte a row");

struct scsi_cmd_list scsi_commands(void)
{
	return (struct scsi_cmd_list){commands, ARRAY_LEN(commands)};
}

void scsi_cmd_index_init(struct scsi_cmd_index *index)
{
	unsigned i;

	memset(index, 0, sizeof(*index));
	for (i = 0; i < ARRAY_LEN(commands); i++) {
		CHECK(i == 0 || commands[i - 1].opcode < commands[i].opcode ||
		      (commands[i - 1].opcode == commands[i].opcode &&
		       commands[i - 1].service_action < commands[i].service_action));
		if (index->first[commands[i].opcode] == 0)
			index->first[commands[i].opcode] = low_u8(i + 1);
	}
}

const struct scsi_cmd *scsi_cmd_find(const struct scsi_cmd_index *index, uint8_t opcode,
				     uint8_t service_action, bool *opcode_known)
{
	const struct scsi_cmd *cmd;
	unsigned i = index->first[opcode];

	*opcode_known = i != 0;
	if (i == 0)
		return NULL;
	cmd = &commands[i - 1];
	if (cmd->service_action == CMD_NO_SA)
		return cmd;
	for (; cmd < commands + ARRAY_LEN(commands) && cmd->opcode == opcode; cmd++) {
		if (cmd->service_action == (service_action & 0x1f))
			return cmd;
	}
	return NULL;
}

bool scsi_cmd_reserved_bit(const struct scsi_cmd *cmd, const uint8_t cdb[static SCSI_CDB_MAX],
			   unsigned *byte, unsigned *bit)
{
	unsigned at;

	for (at = 0; at < cmd->cdb_len; at += sizeof(uint64_t)) {
		uint64_t set, allowed;

		memcpy(&set, cdb + at, sizeof(set));
		memcpy(&allowed, cmd->mask + at, sizeof(allowed));
		set &= ~allowed;
		/* What follows a short CDB in its last word is padding of the transport. */
		if (cmd->cdb_len - at < sizeof(set))
			set &= (UINT64_C(1) << 8 * (cmd->cdb_len - at)) - 1;
		if (set == 0)
			continue;
		*byte = (unsigned)__builtin_ctzll(set) / 8;
		*bit = 31 - (unsigned)__builtin_clz((unsigned)(set >> 8 * *byte & 0xff));
		*byte += at;
		return true;
	}
	return false;
}

void scsi_cmd_usage(const struct scsi_cmd *cmd, uint8_t usage[static SCSI_CDB_MAX])
{
	memcpy(usage, cmd->mask, SCSI_CDB_MAX);
	usage[0] = cmd->opcode;
	if (cmd->service_action != CMD_NO_SA)
		usage[1] = low_u8((cmd->mask[1] & ~0x1fu) | cmd->service_action);
}
