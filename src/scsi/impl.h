/*
 * What the files of scsi share: the row of a command, a logical unit, a nexus at a logical unit,
 * and the verbs that commands are made of. Only scsi/ includes this.
 */
#ifndef SPINDLE_SCSI_IMPL_H
#define SPINDLE_SCSI_IMPL_H

#include "scsi/scsi.h"

/* ---- A command is one row (commands.c) and one function (cmd_*.c) ---- */

enum scsi_dir { SCSI_NO_DATA, SCSI_DATA_IN, SCSI_DATA_OUT };

/* What another nexus's reservation does to a command (SPC-4 5.13.1): what only reads goes on under
 * a reservation that excludes writers. */
enum scsi_conflict { CONFLICT_NEVER, CONFLICT_READ, CONFLICT_WRITE };

enum scsi_cmd_flags {
	CMD_ANY_LUN = 1,      /* answered where there is no logical unit, too */
	CMD_BYPASS = 2,       /* reads the view only: waits for no other command (SAM-5 8.6) */
	CMD_UA_EXEMPT = 4,    /* neither reports nor clears unit attentions on its way */
	CMD_WHEN_STOPPED = 8, /* works while the unit is stopped (SBC-3 5.25) */
	CMD_CHANGES_DATA = 16 /* refused while the unit is write-protected */
};

#define CMD_NO_SA 0xff

/*
 * From a row come dispatch, the check of reserved bits with its field pointer, REPORT SUPPORTED
 * OPERATION CODES, the checks on the way to `run`, and the name in traces.
 */
struct scsi_cmd {
	const char *name;
	uint8_t opcode;
	uint8_t service_action; /* byte 1, bits 4 to 0; CMD_NO_SA: the opcode has none */
	uint8_t cdb_len;
	uint8_t mask[SCSI_CDB_MAX]; /* bits that may be set; byte 0 is the opcode's */
	enum scsi_dir dir;
	enum scsi_conflict conflict;
	unsigned flags;
	uint32_t recommended_s; /* recommended timeout in seconds (SPC-4 6.35.4) */
	/* All checks are passed. Ends the task, or leaves that to one of the verbs below. */
	void (*run)(struct scsi_task *task);
};

struct scsi_cmd_list {
	const struct scsi_cmd *rows; /* ascending by opcode and service action */
	unsigned n;
};

struct scsi_cmd_list scsi_commands(void);
/* Where an opcode's rows begin, plus one; 0: there are none. */
struct scsi_cmd_index {
	uint8_t first[256];
};
void scsi_cmd_index_init(struct scsi_cmd_index *index);
/* The row; NULL: no such command, and *opcode_known says what is missing. `service_action` counts
 * only where the opcode has some. */
const struct scsi_cmd *scsi_cmd_find(const struct scsi_cmd_index *index, uint8_t opcode,
				     uint8_t service_action, bool *opcode_known);
/* The first bit of the CDB that the row does not allow: true, and where it is. */
bool scsi_cmd_reserved_bit(const struct scsi_cmd *cmd, const uint8_t cdb[static SCSI_CDB_MAX],
			   unsigned *byte, unsigned *bit);
/* The bits that may be set, mere advice included: what REPORT SUPPORTED OPERATION CODES shows. */
void scsi_cmd_usage(const struct scsi_cmd *cmd, uint8_t usage[static SCSI_CDB_MAX]);

/* ---- Objects ---- */

struct scsi_lu {
	struct unit *unit;
	const struct bdev_info *info;
	char vendor[9], product[17], revision[5];
};

#define SCSI_LUNS 256

struct scsi_target {
	char name[SCSI_NAME_MAX + 1];
	struct scsi_lu *luns[SCSI_LUNS];
	uint16_t slot[SCSI_LUNS]; /* place of the LUN in nexus.itls, plus one */
	unsigned nluns;
	struct scsi_cmd_index index;
};

/* One nexus at one logical unit. */
struct scsi_itl {
	struct unit_attach attach;
	struct nexus *nexus;
	struct scsi_lu *lu;
	bool attached;
	uint32_t ua; /* bits of enum ua */
	/* The ordering barrier, order.c. */
	unsigned running;    /* tasks that passed it and have not ended */
	unsigned barriers;   /* of these, ORDERED and HEAD OF QUEUE */
	struct list waiting; /* tasks, oldest first */
	bool draining;       /* `drain` is under way */
	struct loop_msg drain;
	struct unit_op abort; /* when the nexus is lost; ready from the start */
};

static inline const struct unit_view *itl_view(const struct scsi_itl *itl)
{
	return channel_view(itl->attach.channel);
}

/* ---- Stages of a task (task.c, order.c) ---- */

enum task_stage {
	TASK_NEW,     /* ends without having been in the task set */
	TASK_WAITING, /* at the ordering barrier */
	TASK_RUNNING,
	TASK_IN_OP, /* a control operation of the unit runs for it */
	TASK_DONE,  /* `finish` was called */
};

/* The checks that hold for the view of this moment: reservation, unit attention, device state.
 * false: the status is set. Repeated when the view changed before the first store I/O. */
bool scsi_task_check(struct scsi_task *task);
/* Past the barrier: the checks, then the command. */
void scsi_task_start(struct scsi_task *task);
/* The task leaves: no I/O and no data-out is under way. The task is the transport's afterwards. */
void scsi_task_end(struct scsi_task *task);
/* Aborted, or has a status other than GOOD: nothing new is begun for it. */
static inline bool scsi_task_stopped(const struct scsi_task *task)
{
	return task->unit_task.aborted || task->status != SCSI_GOOD;
}

/* true: it may start now. false: it waits, and scsi_task_start comes. */
bool order_enter(struct scsi_task *task);
/* It ends, or stops waiting. */
void order_leave(struct scsi_task *task);
void order_init(struct scsi_itl *itl);
/* Nothing runs or moves at an LU any more; a nexus that closes may be waiting for that. */
void nexus_quiet(struct nexus *n);

/* ---- Verbs for commands ---- */

/* Parameter data: `w` holds what the allocation length lets through. false: there was no memory,
 * the task has ended. reply_send() ends it otherwise, with a status that was set meanwhile, too. */
#define SCSI_REPLY_MAX (16 * 1024u)
bool reply_begin(struct scsi_task *task, struct writer *w, uint32_t allocation_len);
void reply_send(struct scsi_task *task, const struct writer *w);

/* Streams the blocks to or from the initiator, in segments, and ends the task. */
void stream_read(struct scsi_task *task, uint64_t lba, uint64_t nblocks);
void stream_write(struct scsi_task *task, uint64_t lba, uint64_t nblocks, unsigned io_flags);
/* One I/O without data of the initiator; then `next`, or the end with the status of the failure. */
void task_io(struct scsi_task *task, enum io_op op, uint64_t off, uint64_t len,
	     void (*next)(struct scsi_task *task));
/* Publishes what `edit` makes of the view; then `next`, or the end with the status of the failure.
 */
void task_publish(struct scsi_task *task, int (*edit)(struct unit_op *op, struct unit_view *next),
		  void (*next)(struct scsi_task *task));
/* A segment of it lies in the store's own memory. */
bool task_is_lent(const struct scsi_task *task);
/* A unit's ABORT wants the task's I/O and data back. */
void task_let_go(struct scsi_task *task);

/* false: it does not fit the size in force, and the sense says where it begins not to. */
bool task_check_range(struct scsi_task *task, uint64_t lba, uint64_t nblocks);

/* ---- Sense (sense.c) ---- */

enum sense_format { SENSE_FIXED, SENSE_DESCRIPTOR };

struct sense_data {
	enum sense sense;
	bool has_information, has_field;
	uint64_t information;
	uint8_t field_bit; /* the leftmost bit of the field in error (SPC-4 4.5.2.4.2) */
	uint16_t field_byte;
};

/* Bytes of SPC-4 4.5: 18 in fixed format, 8 to 28 in descriptor format. */
#define SENSE_BYTES_MAX 28
size_t sense_build(uint8_t buf[static SENSE_BYTES_MAX], const struct sense_data *sense,
		   enum sense_format format);
/* CHECK CONDITION, unless the task has a status already. */
void task_sense_data(struct scsi_task *task, const struct sense_data *sense);
/* INVALID FIELD IN CDB, pointing at the field. */
void task_bad_field(struct scsi_task *task, unsigned byte, unsigned bit);
/* The status for an error of the unit or the store; `lba` is where the I/O began. */
void task_errno(struct scsi_task *task, int err, enum io_op op, uint64_t lba);

/* ---- Unit attentions (ua.c): the smaller, the earlier it is told (SAM-5 5.14) ---- */

enum ua { UA_POWER_ON, UA_CAPACITY_CHANGED, UA_COUNT };

void ua_add(struct scsi_itl *itl, enum ua ua);
/* Takes the one to tell next: false when there is none. */
bool ua_take(struct scsi_itl *itl, enum sense *sense);
/* unit_attach.changed */
void ua_changed(struct unit_attach *a, unsigned changes, uint64_t origin);

/* ---- Pages ---- */

/* The peripheral qualifier and device type of the task's LUN, 7Fh where there is nothing. */
uint8_t inquiry_peripheral(const struct scsi_task *task);
/* INQUIRY with EVPD=1: false when the page does not exist. `task->itl` may be NULL. */
bool vpd_write(const struct scsi_task *task, uint8_t page, struct writer *w);

enum mode_control { MODE_CURRENT, MODE_CHANGEABLE, MODE_DEFAULT, MODE_SAVED };
/* Appends the pages asked for; page 3Fh, subpage FFh: all. Sets the sense when there are none. */
void mode_write_pages(struct scsi_task *task, enum mode_control control, struct writer *w);

/* ---- The functions of the rows ---- */

void cmd_test_unit_ready(struct scsi_task *task);
void cmd_request_sense(struct scsi_task *task);
void cmd_inquiry(struct scsi_task *task);
void cmd_mode_sense_6(struct scsi_task *task);
void cmd_mode_sense_10(struct scsi_task *task);
void cmd_report_luns(struct scsi_task *task);
void cmd_report_supported_opcodes(struct scsi_task *task);

void cmd_start_stop_unit(struct scsi_task *task);
void cmd_read_capacity_10(struct scsi_task *task);
void cmd_read_capacity_16(struct scsi_task *task);
void cmd_read(struct scsi_task *task);
void cmd_write(struct scsi_task *task);
void cmd_synchronize_cache(struct scsi_task *task);

#endif
