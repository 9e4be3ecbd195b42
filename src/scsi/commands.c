/*
 * What is derived from the rows of commands.def without running a command: finding a row, the check
 * of reserved bits, the usage data of REPORT SUPPORTED OPERATION CODES.
 */
#include "scsi/impl.h"

/* Bytes of the mask: fields in which every bit means something. */
#define ALL2 0xff, 0xff
#define ALL4 ALL2, ALL2
#define ALL8 ALL4, ALL4

#define NO_SA CMD_NO_SA

#define READ_FLAGS         0x18 /* DPO, FUA. RDPROTECT: no protection information here. */
#define VERIFY_FLAGS       0x16 /* DPO, BYTCHK. No VRPROTECT. */
#define WRITE_VERIFY_FLAGS 0x12 /* DPO, BYTCHK 0 and 1: the other two are reserved */
#define GROUP              0x1f /* GROUP NUMBER */
#define CONTROL            0x00 /* NACA is refused (SAM-5 5.2, NORMACA is 0), the rest is not ours */
#define SYNC_FLAGS         0x06  /* SYNC_NV, IMMED */
#define PREFETCH_FLAGS     0x02  /* IMMED */
#define UNMAP_BIT          0x08u /* of WRITE SAME. ANCHOR: nothing is anchored here. */
#define NDOB               0x01
#define SANITIZE_FLAGS     0xbf /* IMMED, AUSE, the service action. ZNR: nothing is zoned here. */
#define START_FLAGS        0x05 /* NO_FLUSH, START. No power conditions, nothing to eject. */

#define ALWAYS                                                                              \
	(CMD_ANY_LUN | CMD_BYPASS | CMD_UA_EXEMPT | CMD_WHEN_STOPPED | CMD_WHEN_REWRITING | \
	 CMD_WELL_KNOWN_LUN)
#define INFORMS (CMD_WHEN_STOPPED | CMD_WHEN_REWRITING)
#define REMAKES (CMD_CHANGES_DATA | CMD_WHEN_REWRITING)

static const struct scsi_cmd commands[] = {
#define CMD(opcode_, action_, name_, dir_, conflict_, flags_, seconds_, run_, len_, ...) \
	{                                                                                \
		.name = (name_),                                                         \
		.opcode = (opcode_),                                                     \
		.service_action = (action_),                                             \
		.cdb_len = (len_),                                                       \
		.mask = {0xff, __VA_ARGS__},                                             \
		.dir = SCSI_DATA_##dir_,                                                 \
		.conflict = CONFLICT_##conflict_,                                        \
		.flags = (flags_),                                                       \
		.recommended_s = (seconds_),                                             \
		.run = run_,                                                             \
	},
#include "scsi/commands.def"
#undef CMD
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

bool scsi_cmd_exists(const struct scsi_cmd *cmd, const struct scsi_lu *lu)
{
	return !(cmd->flags & CMD_THIN) || lu == NULL || lu_can_unmap(lu);
}

const struct scsi_cmd *scsi_cmd_find(const struct scsi_cmd_index *index, const struct scsi_lu *lu,
				     uint8_t opcode, uint8_t service_action, bool *opcode_known)
{
	unsigned i = index->first[opcode];

	*opcode_known = false;
	if (i == 0)
		return NULL;
	for (i--; i < ARRAY_LEN(commands) && commands[i].opcode == opcode; i++) {
		const struct scsi_cmd *cmd = &commands[i];

		if (!scsi_cmd_exists(cmd, lu))
			continue;
		*opcode_known = true;
		if (cmd->service_action == CMD_NO_SA ||
		    cmd->service_action == (service_action & 0x1f))
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

void scsi_cmd_usage(const struct scsi_cmd *cmd, const struct scsi_lu *lu,
		    uint8_t usage[static SCSI_CDB_MAX])
{
	memcpy(usage, cmd->mask, SCSI_CDB_MAX);
	usage[0] = cmd->opcode;
	if (cmd->flags & CMD_UNMAP_BIT && lu != NULL && !lu_can_unmap(lu))
		usage[1] &= low_u8(~UNMAP_BIT);
	if (cmd->service_action != CMD_NO_SA)
		usage[1] = low_u8((cmd->mask[1] & ~0x1fu) | cmd->service_action);
}
