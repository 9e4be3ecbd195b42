/*
 * What the files of scsi share: the row of a command, a logical unit, a nexus at a logical unit,
 * and the verbs that commands are made of. Only scsi/ includes this.
 */
#ifndef SPINDLE_SCSI_IMPL_H
#define SPINDLE_SCSI_IMPL_H

#include "scsi/scsi.h"

/* ---- A command is one row (commands.c) and one function (cmd_*.c) ---- */

enum scsi_dir { SCSI_DATA_NONE, SCSI_DATA_IN, SCSI_DATA_OUT };

/* Which reservations of another nexus stop a command: each class by its own and those behind it
 * (SPC-2 5.5.1 for RESERVE, SPC-4 5.13.1 for persistent ones). */
enum scsi_conflict {
	CONFLICT_NEVER,
	CONFLICT_RESERVE, /* RESERVE only */
	CONFLICT_READ,    /* and what excludes readers */
	CONFLICT_WRITE,   /* and what excludes writers */
};

enum scsi_cmd_flags {
	CMD_ANY_LUN = 1,      /* answered where there is no logical unit, too */
	CMD_BYPASS = 2,       /* reads the view only: waits for no other command (SAM-5 8.6) */
	CMD_UA_EXEMPT = 4,    /* neither reports nor clears unit attentions on its way */
	CMD_WHEN_STOPPED = 8, /* works while the unit is stopped (SBC-3 5.25) or its disk is lost */
	CMD_CHANGES_DATA = 16,   /* refused while the unit is write-protected */
	CMD_WHEN_REWRITING = 32, /* works during and after a failed FORMAT UNIT or SANITIZE */
	CMD_WELL_KNOWN_LUN = 64, /* answered by the well-known logical unit REPORT LUNS, too */
	CMD_THIN = 128,          /* exists only where the disk can unmap (lu_can_unmap) */
	CMD_UNMAP_BIT = 256,     /* its UNMAP bit (byte 1, bit 3) exists only there */
	CMD_READS = 512,         /* counted in log page 19h, */
	CMD_WRITES = 1024,       /* there as well, */
	CMD_VERIFIES = 2048,     /* and in 05h */
};

#define CMD_COUNTED (CMD_READS | CMD_WRITES | CMD_VERIFIES)

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
struct scsi_lu;
/* Whether this logical unit has the command. NULL: no unit in particular, then true. */
bool scsi_cmd_exists(const struct scsi_cmd *cmd, const struct scsi_lu *lu);
/* The row; NULL: this unit has no such command, and *opcode_known says what is missing.
 * `service_action` counts only where the opcode has some. */
const struct scsi_cmd *scsi_cmd_find(const struct scsi_cmd_index *index, const struct scsi_lu *lu,
				     uint8_t opcode, uint8_t service_action, bool *opcode_known);
/* The first bit of the CDB that the row does not allow: true, and where it is. */
bool scsi_cmd_reserved_bit(const struct scsi_cmd *cmd, const uint8_t cdb[static SCSI_CDB_MAX],
			   unsigned *byte, unsigned *bit);
/* The bits that may be set, mere advice included: what REPORT SUPPORTED OPERATION CODES shows. */
void scsi_cmd_usage(const struct scsi_cmd *cmd, const struct scsi_lu *lu,
		    uint8_t usage[static SCSI_CDB_MAX]);

/* ---- What commands can change of a logical unit: its part of the unit's view ---- */

enum mode_bit {
	MODE_WCE,
	MODE_SWP,
	MODE_D_SENSE,
	MODE_TAS,
	MODE_NBITS
}; /* changeable; mode.c has the table */

/* What has the whole disk to itself, or had: kept with the disk, so that it goes on after a restart
 * (job.c). */
enum lu_work {
	WORK_NONE,
	WORK_FORMAT,
	WORK_FORMAT_FAILED,
	WORK_SANITIZE,
	WORK_SANITIZE_FAILED,
	WORK_SELF_TEST, /* in the foreground; not kept */
};

#define IDENT_DEVICE_MAX 64 /* SPC-4 6.32 */
#define IDENT_TEXT_MAX   256

/* What log pages count; counts.c says where from. Those of one page stand together. */
enum lu_counter {
	COUNT_WRITE_BYTES, /* 02h */
	COUNT_WRITE_ERRORS,
	COUNT_READ_BYTES, /* 03h */
	COUNT_READ_ERRORS,
	COUNT_VERIFY_BYTES, /* 05h */
	COUNT_VERIFY_ERRORS,
	COUNT_READ_COMMANDS, /* 19h */
	COUNT_WRITE_COMMANDS,
	COUNT_BLOCKS_RECEIVED,
	COUNT_BLOCKS_SENT,
	COUNT_READ_NS,
	COUNT_WRITE_NS,
	COUNT_IDLE_NS,
	LU_COUNTERS
};

struct lu_state {
	char vendor[9], product[17], revision[5];
	uint32_t mode;       /* bits 1 << enum mode_bit: current values; view.flags follow them */
	uint32_t mode_saved; /* saved values */
	uint8_t work;        /* enum lu_work */
	bool work_may_exit;  /* EXIT FAILURE MODE ends a failed SANITIZE */
	bool timestamp_set;  /* by SET TIMESTAMP */
	uint32_t reserved;   /* times that somebody did it: a reset ends what it found (tmf.c) */
	int64_t timestamp_offset_ms; /* to be added to the wall clock */
	uint16_t ident_device_len, ident_text_len;
	uint8_t ident_device[IDENT_DEVICE_MAX], ident_text[IDENT_TEXT_MAX];
	uint64_t
		log_base[LU_COUNTERS]; /* what LOG SELECT reset: subtracted from what was counted */
};
_Static_assert(sizeof(struct lu_state) <= UNIT_DEVICE_BYTES, "the unit's view has no room for it");

static inline const struct lu_state *lu_state_of(const struct unit_view *view)
{
	return (const void *)view->device;
}

/* For an edit of the next view. */
static inline struct lu_state *lu_state_edit(struct unit_view *next)
{
	return (void *)next->device;
}

/* Told to the other nexuses by a PUBLISH; ua.c makes unit attentions of them. */
enum lu_changes {
	LU_CHANGED_MODE = UNIT_CHANGED_DEVICE,
	LU_CHANGED_LOG = UNIT_CHANGED_DEVICE << 1,
	LU_CHANGED_TIMESTAMP = UNIT_CHANGED_DEVICE << 2,
	LU_CHANGED_INQUIRY = UNIT_CHANGED_DEVICE << 3,
	LU_CHANGED_IDENTIFIER = UNIT_CHANGED_DEVICE << 4,
	LU_CHANGED_BLOCKS = UNIT_CHANGED_DEVICE << 5, /* all of them, from now on: job.c */
	LU_CHANGED_RESET = UNIT_CHANGED_DEVICE << 6,  /* the logical unit was reset: tmf.c */
	LU_CHANGED_NEXUS = UNIT_CHANGED_DEVICE << 7,  /* the nexus that asks was reset: tmf.c */
};

/* ---- Objects ---- */

struct lu_job;
struct lu_counts;

struct scsi_lu {
	struct unit *unit;
	const struct bdev_info *info;
	struct lu_job *job;       /* work on the whole disk, job.c */
	struct lu_counts *counts; /* one a loop, counts.c */
	uint64_t counts_from_ns;
	bool keeps_info; /* SET IDENTIFYING INFORMATION has somewhere to keep it, cmd_info.c */
};

/* Logical block provisioning management (SBC-3 4.7): LBPME, the UNMAP command and all that. */
static inline bool lu_can_unmap(const struct scsi_lu *lu)
{
	return lu->info->discard_blocks != 0;
}

#define LU_VENDOR  "SPINDLE"
#define LU_PRODUCT "VIRTUAL-DISK"

#define SCSI_LUNS 256

struct scsi_target {
	char name[SCSI_NAME_MAX + 1];
	struct scsi_cmd_index index;
	/* Loop 0's, which all changes pass; never looked at for a command: each nexus has a map of its
	 * own. */
	struct scsi_lu *luns[SCSI_LUNS];
	struct list nexuses;
	struct list changes;        /* that wait for their turn */
	struct scsi_lun_op *change; /* that is under way */
};

enum itl_state {
	ITL_ATTACHING,
	ITL_ATTACHED,
	ITL_ABORTING,  /* it goes: its tasks end, */
	ITL_RELEASING, /* then its reservation, */
	ITL_LEAVING,   /* then it waits until nothing runs or moves */
};

struct scsi_buffers;

/* One nexus at one logical unit. */
struct scsi_itl {
	struct unit_attach attach;
	struct nexus *nexus;
	struct scsi_lu *lu;
	uint32_t ua; /* bits of enum ua */
	/* The ordering barrier, order.c. */
	unsigned tmfs;       /* task management functions under way */
	unsigned running;    /* tasks that passed it and have not ended */
	unsigned barriers;   /* of these, ORDERED and HEAD OF QUEUE */
	struct list waiting; /* tasks, oldest first */
	struct list
		awaits; /* of earlier nexuses of the same ports; none passes before they are gone */
	bool draining;  /* `drain` is under way */
	/* It is gone for commands: no new task comes. */
	bool leaving;
	bool begins; /* the nexus is opened when it is attached, and others are */
	enum itl_state state;
	struct loop_msg drain;
	struct list link;    /* in the nexus */
	struct list awaited; /* in follower->awaits */
	struct scsi_itl *follower;
	uint16_t lun;
	struct lun_part *part; /* the change that waits for it */
	/* At the end nothing may fail: what that needs is there from the start, or from the moment that
	 * it is needed. */
	struct unit_op abort, release;
	struct unit_view *spare;      /* for `release`; with a reservation */
	struct scsi_buffers *buffers; /* of READ and WRITE BUFFER; with the first WRITE */
};

static inline const struct unit_view *itl_view(const struct scsi_itl *itl)
{
	return channel_view(itl->attach.channel);
}

static inline const struct lu_state *itl_state(const struct scsi_itl *itl)
{
	return lu_state_of(itl_view(itl));
}

struct sense_data;

/* ---- Stages of a task (task.c, order.c) ---- */

enum task_stage {
	TASK_NEW,     /* ends without having been in the task set */
	TASK_WAITING, /* at the ordering barrier */
	TASK_RUNNING,
	TASK_IN_OP,  /* a control operation of the unit runs for it */
	TASK_IN_JOB, /* it waits for work on the whole disk */
	TASK_DONE,   /* `finish` was called */
};

/* The number of a LUN as on the wire (SAM-5 4.7), SCSI_LUNS: none that we could have. */
unsigned lun_decode(const uint8_t lun[static 8]);
/* The well-known logical unit REPORT LUNS (SPC-4 8.2). */
#define LUN_REPORT_LUNS 0xc101000000000000
bool lun_is_report_luns(const uint8_t lun[static 8]);
/* Why the unit is not ready for a command with these flags (enum scsi_cmd_flags); false: it is. */
bool scsi_not_ready(const struct scsi_itl *itl, unsigned flags, struct sense_data *sense);
/* The checks that hold for the view of this moment: reservation, unit attention, device state.
 * false: the status is set. Repeated when the view changed before the first store I/O. */
bool scsi_task_check(struct scsi_task *task);
/* This view's reservation is another's and keeps the command out. Any loop. */
bool scsi_task_conflicts(const struct scsi_task *task, const struct unit_view *view);
/* Past the barrier: the checks, then the command. */
void scsi_task_start(struct scsi_task *task);
/* Work on the whole disk begins. */
void scsi_task_overtaken(struct unit_task *t);
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
/* Those that wait and may go on do so, later. */
void order_drain(struct scsi_itl *itl);
/* Nothing runs or moves at it any more, perhaps; if it is leaving, it may be freed in here. */
void itl_settle(struct scsi_itl *itl);

/* It is a task of this folder's; those have a cancel of their own. */
bool scsi_task_is(const struct unit_task *t);

/* ---- Task management (tmf.c) ---- */

/* A nexus does not close before what it began has ended. */
void nexus_hold(struct nexus *n);
void nexus_let_go(struct nexus *n);
/* The nexus is lost: its functions wait for hung I/O no more. */
void tmf_nexus_lost(struct nexus *n);

/* ---- Changes of a target's LUNs (target.c), and the nexuses that follow them (nexus.c) ---- */

/* What one nexus has to do for a change; on its loop until lun_part_end(), and back. */
struct lun_part {
	struct loop_msg msg;
	struct list link;
	struct scsi_lun_op *op;
	struct nexus *nexus;
	struct scsi_itl *itl; /* not attached yet: the LUN comes. NULL: it goes. */
};

/* Not attached yet. On any loop; NULL: there is no memory. */
struct scsi_itl *itl_create(struct nexus *n, uint16_t lun, struct scsi_lu *lu);
void itl_destroy(struct scsi_itl *itl);
/* The part's message has arrived. */
void nexus_follow(struct lun_part *part);
/* The nexus has done it. */
void lun_part_end(struct lun_part *part);
/* The nexus will follow changes from here on. nexus_joined() comes; what the target had at that moment
 * is created into n->itls, or n->err says why not. */
void target_join(struct nexus *n);
void nexus_joined(struct nexus *n);
/* And from here on no more, when those that are on their way have ended: nexus_left() comes. */
void target_leave(struct nexus *n);
void nexus_left(struct nexus *n);

/* ---- Reservations (cmd_reserve.c) ---- */

/* Memory for giving up a reservation when the nexus is lost. false: there is none. */
bool reserve_prepare(struct scsi_itl *itl);
/* The edit of a PUBLISH: op->nexus_id holds nothing any more. */
int reserve_edit_release(struct unit_op *op, struct unit_view *next);

/* ---- Verbs for commands ---- */

/* Parameter data: `w` holds what the allocation length lets through. false: there was no memory,
 * the task has ended. reply_send() ends it otherwise, with a status that was set meanwhile, too. */
#define SCSI_REPLY_MAX (16 * 1024u)
bool reply_begin(struct scsi_task *task, struct writer *w, uint32_t allocation_len);
void reply_send(struct scsi_task *task, const struct writer *w);

/*
 * A plan: what is done with each segment of the blocks that a command is about, one step after
 * another, two segments at a time. The data of a segment is what arrives for it (STEP_RECEIVE), or
 * else a part of what was gathered before, or else the pattern.
 */
enum seg_step {
	STEP_END,
	STEP_RECEIVE, /* the segment's data-out arrives; only as the first step */
	STEP_LOCK,    /* exclusive range lock over its blocks, until the segment's end */
	STEP_READ,    /* blocks -> memory beside the data, if there is data */
	STEP_COMPARE, /* what was read with the data: MISCOMPARE */
	STEP_OR,      /* the data takes the bits of what was read */
	STEP_WRITE,   /* the data -> blocks, with task->io_flags */
	STEP_SEND,    /* what was read -> data-in, in offset order */
};

#define PLAN_STEPS 7

struct plan {
	enum seg_step steps[PLAN_STEPS]; /* the last one is STEP_END */
};

/* Runs the plan over the blocks, then `next` (NULL: scsi_task_end), or the end with the status of
 * the failure. A range that does not fit was refused before (task_check_range). */
void stream(struct scsi_task *task, const struct plan *plan, uint64_t lba, uint64_t nblocks,
	    void (*next)(struct scsi_task *task));
void stream_read(struct scsi_task *task, uint64_t lba, uint64_t nblocks);
void stream_write(struct scsi_task *task, uint64_t lba, uint64_t nblocks, unsigned io_flags);

/*
 * Brings in all of the command's data-out, which is `len` bytes: parameter lists, and what must be
 * there before the first I/O. Then `next`, which finds it by gathered_len() (less than `len` where
 * the initiator brings less) and gathered_reader(). It is kept until the task ends. len is at most
 * SCSI_SEG_MAX.
 */
void gather(struct scsi_task *task, uint32_t len, void (*next)(struct scsi_task *task));
uint32_t gathered_len(const struct scsi_task *task);
struct reader gathered_reader(const struct scsi_task *task);
/* The data of a plan without STEP_RECEIVE: what was gathered from `off` on. */
void data_from_gathered(struct scsi_task *task, uint32_t off);
/* Or the first block of it, over and over; from then on, and not under a lock. */
void data_from_pattern(struct scsi_task *task);

/* An exclusive range lock until the task ends, armed where it must be; the task's I/O runs under it.
 * Never held while data of the initiator is awaited. Then `next`, or the end. */
void task_lock(struct scsi_task *task, uint64_t lba, uint64_t nblocks,
	       void (*next)(struct scsi_task *task));

/* One I/O without data of the initiator, with task->io_flags; then `next`, or the end with the status
 * of the failure. An IO_EXTENT leaves its answer in task->segs[0].uio.io.extent. */
void task_io(struct scsi_task *task, enum io_op op, uint64_t off, uint64_t len,
	     void (*next)(struct scsi_task *task));

/* In `next` of an IO_EXTENT: what it found. */
struct io_extent task_extent(const struct scsi_task *task);
/* Memory of the task's own, kept until it ends, at most SCSI_SEG_MAX bytes, cleared; the same one each
 * time. NULL: there was none, the task has ended. Instead of gather(), not beside it. */
uint8_t *task_scratch(struct scsi_task *task, uint32_t len);

/* A change of the unit's view: see struct unit_op. `edit` and `keep` find their task by
 * op_task(). */
struct task_change {
	int (*edit)(struct unit_op *op, struct unit_view *next);
	int (*keep)(struct unit_op *op, const struct unit_view *next);
	unsigned changes;
	/* Not 0: a QUIESCE with this deadline; then `act` (or NULL) while nothing is in the store. */
	uint64_t drain_ns;
	void (*act)(struct unit_op *op);
};
/* How long I/O under way may hold up a change that must not overlap it. */
#define TASK_DRAIN_NS (UINT64_C(10) * 1000 * 1000 * 1000)
static inline struct scsi_task *op_task(struct unit_op *op)
{
	return container_of(op, struct scsi_task, op);
}
/* Publishes it; then `next`, or the end with the status of the failure. */
void task_publish(struct scsi_task *task, const struct task_change *change,
		  void (*next)(struct scsi_task *task));
/* A segment of it lies in the store's own memory. */
bool task_is_lent(const struct scsi_task *task);
/* A unit's ABORT wants the task's I/O and data back. */
void task_let_go(struct scsi_task *task);
/* The task ends: what was gathered for it, and its lock. */
void task_release(struct scsi_task *task);

/* The blocks that a CDB names: where LBA and length stand in one of 6, 10, 12 and 16 bytes (SBC-3
 * 5.11 and all that look like it). */
struct extent {
	uint64_t lba;
	uint32_t nblocks;
};
struct extent extent_of(const struct scsi_task *task);

/* Where the length stands in 10 and 16 bytes, for task_bad_field. */
static inline unsigned extent_field(const struct scsi_task *task)
{
	return task->cmd->cdb_len == 10 ? 7 : 10;
}

static inline const struct bdev_info *task_info(const struct scsi_task *task)
{
	return task->itl->lu->info;
}

/* The size in force, in blocks. */
static inline uint64_t task_capacity(const struct scsi_task *task)
{
	return itl_view(task->itl)->size >> task_info(task)->block_shift;
}

/* false: it does not fit the size in force, and the sense says where it begins not to. */
bool task_check_range(struct scsi_task *task, uint64_t lba, uint64_t nblocks);

/* ---- What one command may ask for, as VPD page B0h tells (SBC-3 6.6.4) ----
 *
 * All of these are worked off in steps or segments, so that none holds up others; the limits keep a
 * single command within the time that initiators wait for one. */

#define LIMIT_PREFETCH_BYTES    (64 * MiB)
#define LIMIT_UNMAP_BYTES       (512 * MiB)
#define LIMIT_UNMAP_DESCRIPTORS 256u
#define LIMIT_SAME_BYTES        (256 * MiB)

/* COMPARE AND WRITE: twice as much is gathered before the first I/O, and the CDB has a byte for it. */
static inline unsigned limit_caw_blocks(const struct bdev_info *info)
{
	return (unsigned)min_u64(SCSI_SEG_MAX / 2 >> info->block_shift, UINT8_MAX);
}

/* ---- Sense (sense.c) ---- */

enum sense_format { SENSE_FIXED, SENSE_DESCRIPTOR };

struct sense_data {
	enum sense sense;
	bool has_information, has_field, has_progress;
	bool field_in_parameters; /* not in the CDB */
	uint64_t information;
	uint8_t field_bit; /* the leftmost bit of the field in error (SPC-4 4.5.2.4.2) */
	uint16_t field_byte;
	uint16_t progress; /* of 65536 (SPC-4 4.5.2.4.4) */
};

/* Bytes of SPC-4 4.5: 18 in fixed format, 8 to 28 in descriptor format. */
#define SENSE_BYTES_MAX 28
size_t sense_build(uint8_t buf[static SENSE_BYTES_MAX], const struct sense_data *sense,
		   enum sense_format format);
/* CHECK CONDITION, unless the task has a status already. */
void task_sense_data(struct scsi_task *task, const struct sense_data *sense);
/* INVALID FIELD IN CDB, pointing at the field. */
void task_bad_field(struct scsi_task *task, unsigned byte, unsigned bit);
/* INVALID FIELD IN PARAMETER LIST, pointing at the field. */
void task_bad_parameter(struct scsi_task *task, unsigned byte, unsigned bit);
/* The status for an error of the unit or the store; `lba` is where the I/O began. */
void task_errno(struct scsi_task *task, int err, enum io_op op, uint64_t lba);

/* ---- Unit attentions (ua.c): the smaller, the earlier it is told (SAM-5 5.14) ---- */

enum ua {
	UA_POWER_ON,
	UA_RESET,
	UA_NEXUS_LOST,
	UA_MEDIUM_CHANGED,
	UA_CAPACITY_CHANGED,
	UA_MODE_CHANGED,
	UA_LOG_CHANGED,
	UA_TIMESTAMP_CHANGED,
	UA_INQUIRY_CHANGED,
	UA_IDENTIFIER_CHANGED,
	UA_LUNS_CHANGED,
	UA_COUNT
};

void ua_add(struct scsi_itl *itl, enum ua ua);
/* Takes the one to tell next: false when there is none. The one about the LUNs is taken at all LUNs of
 * the nexus (LUICLR of VPD page 86h). */
bool ua_take(struct scsi_itl *itl, enum sense *sense);
/* The same one, and it stays. How many there are. */
unsigned ua_look(const struct scsi_itl *itl, enum sense *sense);
/* The nexus knows the LUNs as they are now. */
void ua_luns_told(struct nexus *n);
/* unit_attach.changed */
void ua_changed(struct unit_attach *a, unsigned changes, uint64_t origin);

/* ---- Pages ---- */

/* The peripheral qualifier and device type of the task's LUN, 7Fh where there is nothing. */
uint8_t inquiry_peripheral(const struct scsi_task *task);
/* INQUIRY with EVPD=1: false when the page does not exist. `task->itl` may be NULL. */
bool vpd_write(const struct scsi_task *task, uint8_t page, struct writer *w);

/* For docs/scsi.md: the i-th page; its name is NULL past the last one. */
struct page_info {
	uint8_t code, subpage;
	const char *name;
	uint32_t changes; /* bits 1 << enum mode_bit: what a client can change in it */
};
struct page_info mode_page_info(unsigned i);
struct page_info log_page_info(unsigned i);
struct page_info vpd_page_info(unsigned i);
/* "wce" */
const char *mode_bit_name(enum mode_bit bit);

enum mode_control { MODE_CURRENT, MODE_CHANGEABLE, MODE_DEFAULT, MODE_SAVED };
/* Appends the pages asked for; page 3Fh, subpage FFh: all. Sets the sense when there are none. */
void mode_write_pages(struct scsi_task *task, enum mode_control control, struct writer *w);
/* What the pages of a MODE SELECT ask for: bits 1 << enum mode_bit, those that are meant and their
 * values. */
struct mode_request {
	uint32_t mask, bits;
};
/* The pages from `at` to the end of a parameter list. false: one is not valid, and the sense says
 * why. */
bool mode_read_pages(struct scsi_task *task, const uint8_t *list, size_t len, unsigned at,
		     struct mode_request *request);
/* Whether values can be saved at all. */
bool mode_can_save(const struct scsi_lu *lu);
/* Keeps them with the disk. Blocking. */
int mode_keep(const struct scsi_lu *lu, uint32_t bits);
/* What was kept with the disk, or the defaults, into the first view; blocking, at the LU's
 * creation. */
void mode_load(const struct scsi_lu *lu, struct unit_view *view);
/* Durability or protection begins with the new values: what was written before is flushed first. */
bool mode_needs_flush(uint32_t before, uint32_t after);
/* The view's flags that follow from the mode bits. */
void mode_apply(const struct scsi_lu *lu, struct unit_view *next);
/* About how long an extended self-test takes (SPC-4 7.5.8, 7.8.7). */
uint64_t lu_self_test_seconds(const struct unit_view *view);

/* LOG SENSE and LOG SELECT: pages of log.c. Both set the sense where there is no such page. */
void log_write_page(struct scsi_task *task, struct writer *w);
/* The counters of the pages that the CDB names: bits 1 << enum lu_counter. false: there is none. */
bool log_select_counters(struct scsi_task *task, uint32_t *counters);
/* The first thing that a list of pages would change, for there is nothing to be set: sets the sense
 * unless the list is empty of parameters. */
void log_refuse_list(struct scsi_task *task, const uint8_t *list, size_t len);

/* ---- Counters (counts.c) ---- */

int counts_create(struct scsi_lu *lu);
void counts_destroy(struct scsi_lu *lu);
/* A task ends that was in the task set; on its loop. */
void counts_add(const struct scsi_task *task);
/* Since the start, whatever was reset. Any thread. */
void counts_read(const struct scsi_lu *lu, uint64_t out[static LU_COUNTERS]);

/* ---- Identifying information (cmd_info.c) ---- */

/* What was set with the disk, into the first view; and how much can be. Blocking, at the LU's
 * creation. */
int info_load(struct scsi_lu *lu, struct unit_view *view);

/* ---- Work on the whole disk (job.c): FORMAT UNIT, SANITIZE, self-tests ---- */

int job_create(struct scsi_lu *lu);
void job_destroy(struct scsi_lu *lu);
/* What was under way when the process ended: into the first view. Blocking, at the LU's creation. */
int job_load(struct scsi_lu *lu, struct unit_view *view);
/* Why the unit is not ready for a command that may not run while it is rewritten, and how far it is;
 * false: it is. */
bool job_sense(const struct scsi_lu *lu, const struct unit_view *view, struct sense_data *sense);
/* The same for a self-test in the background, in whose way nothing is: for REQUEST SENSE only. */
bool job_test_sense(const struct scsi_lu *lu, struct sense_data *sense);
/* A task that waits in TASK_IN_JOB is aborted. FORMAT UNIT and SANITIZE go on all the same; a
 * self-test ends (SPC-4, self-tests). */
void job_let_go(struct scsi_task *task);

/* The last self-tests, as log page 10h tells them (SPC-4 7.3.19), the newest first; one that runs is
 * among them. Any loop. */
#define SELF_TESTS_KEPT 20
#define SELF_TEST_RUNS  0xf

struct self_test_result {
	uint8_t code;   /* SELF-TEST CODE */
	uint8_t result; /* SELF-TEST RESULTS: 0 passed, SELF_TEST_RUNS it has not ended */
	uint8_t number; /* of the segment that failed, 0: none did */
	uint16_t power_on_hours;
	uint64_t first_failure; /* its LBA; UINT64_MAX: none */
	enum sense sense;       /* SENSE_NONE unless it failed */
};

/* Their number. */
unsigned job_self_tests(const struct scsi_lu *lu, struct self_test_result out[SELF_TESTS_KEPT]);

/* ---- The functions of the rows ---- */

#define CMD(opcode, action, name, dir, conflict, flags, seconds, run, len, ...) \
	void run(struct scsi_task *task);
#include "scsi/commands.def"
#undef CMD

#endif
