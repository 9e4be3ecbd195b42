/*
 * scsi: what a command means. Device servers over units; nexuses, tasks, sense data, unit
 * attentions. May use: base, loop, store, bdev, unit. May be used by: iscsi, daemon.
 *
 * The life of a task: the transport fills the first part of struct scsi_task and calls
 * scsi_task_run(); scsi asks for data by `move`, in segments, and ends the task by `finish`, once.
 * All of it on the nexus's loop.
 */
#ifndef SPINDLE_SCSI_H
#define SPINDLE_SCSI_H

#include "unit/unit.h"

/* ---- Logical units and targets
 * ------------------------------------------- */

struct scsi_lu;
struct scsi_target;

struct scsi_lu_config {
	const char *vendor, *product, *revision; /* 8, 16, 4 characters at most; NULL: SPINDLE,
						    VIRTUAL-DISK, the version */
};

/* A direct access block device (SBC-3) on `unit`, which the caller keeps and destroys afterwards.
 * Blocking: reads what is kept with the disk. */
int scsi_lu_create_disk(struct scsi_lu **out, struct unit *unit,
			const struct scsi_lu_config *config);
/* Stopped, and in no target. */
void scsi_lu_destroy(struct scsi_lu *lu);
struct unit *scsi_lu_unit(const struct scsi_lu *lu);
/* What an earlier process left undone of the whole disk, as one word, or that it failed; NULL: nothing.
 * Before scsi_lu_start. */
const char *scsi_lu_unfinished(const struct scsi_lu *lu);
/* Work on the whole disk that an earlier process left undone goes on. On any loop. */
void scsi_lu_start(struct scsi_lu *lu);
/* Such work stops as soon as it can; it goes on when the disk is served again. `stopped` comes on
 * `loop`, later. */
void scsi_lu_stop(struct scsi_lu *lu, struct loop *loop, void (*stopped)(void *arg), void *arg);
/* PUBLISH of other INQUIRY data; the owner fills op->loop and op->done, and keeps the strings until
 * then. NULL: as it is. -EINVAL: too long. */
struct scsi_inquiry_op {
	struct unit_op op;
	struct scsi_lu_config config;
};
void scsi_lu_set_inquiry(struct scsi_lu *lu, struct scsi_inquiry_op *op);

#define SCSI_NAME_MAX 223 /* bytes of an iSCSI name (RFC 7143 4.2.7.1) */

/* A SCSI target device; `name` is its SCSI name string (for iSCSI the iSCSI name). */
int scsi_target_create(struct scsi_target **out, const char *name);
void scsi_target_destroy(struct scsi_target *t);
const char *scsi_target_name(const struct scsi_target *t);
/* `lun` below 256; an LU has one number in a target. -EEXIST, -EINVAL. Before a nexus is opened. */
int scsi_target_add_lun(struct scsi_target *t, uint16_t lun, struct scsi_lu *lu);

/* The same while nexuses are open: each attaches to the new LU or aborts its tasks at the old one and
 * detaches, and hears REPORTED LUNS DATA HAS CHANGED at its other LUNs. One after another. */
struct scsi_lun_op {
	struct scsi_target *target;
	uint16_t lun;
	struct scsi_lu *lu; /* NULL: the LUN goes */
	struct loop *loop;  /* the submitter's; `done` comes there, later */
	/* 0 when all nexuses have done it: nothing of the target knows an LU that went. -EEXIST,
	 * -ENOENT, -EINVAL, -ENOMEM: nothing has changed. */
	void (*done)(struct scsi_lun_op *op, int err);
	/* private */
	struct loop_msg msg;
	struct list link;
	unsigned waiting; /* nexuses that have not followed yet */
	int err;
};
/* On op->loop. Tasks at an LU that goes end with LOGICAL UNIT NOT SUPPORTED. */
void scsi_target_change_lun(struct scsi_lun_op *op);

/* ---- The transport's side
 * ------------------------------------------------------------------------------------------------
 */

struct plan;
struct scsi_task;
struct scsi_seg;

struct scsi_transport {
	const char *name;
	uint8_t protocol_id; /* SPC-4 table 477: iSCSI 5h */
	/*
	 * Moves the bytes [off, off + len) of the command's data and answers by scsi_moved(seg,
	 * err), perhaps before it returns. Data-in: sends what seg->iov shows; moved when it needs
	 * that memory no longer. Segments come in offset order. Data-out (niov is 0): brings the
	 * bytes in and sets seg->buf (scsi puts it back) and seg->iov, one piece from the start of
	 * buf; moved when all are there, and their digests were right, in offset order, for what
	 * lies before an error is told to be written. -EIO: they will not come; the transport has
	 * filled in the task's sense or lost the nexus.
	 */
	void (*move)(struct scsi_seg *seg);
	/* Let go of a segment early: scsi_moved(seg, -ECANCELED) comes as soon as it can, perhaps
	 * at once. */
	void (*cancel_move)(struct scsi_seg *seg);
	/* The task ends: send status, sense and residual, after the data that was handed over. scsi
	 * touches the task no more except in scsi_moved() for data-in segments that are still
	 * leaving; then it is the transport's to reuse. An aborted task (task->unit_task.aborted)
	 * sends nothing; one that is aborted and told so has the status for it, and is not aborted. */
	void (*finish)(struct scsi_task *task);
};

/* One initiator port that talks to one target port. Embedded in the transport's session; lives on
 * one loop. */
struct nexus {
	const struct scsi_transport *transport;
	struct scsi_target *target;
	struct loop *loop;
	char initiator[SCSI_NAME_MAX + 20]; /* initiator port name, "iqn.x,i,0x00023d000000" */
	uint16_t target_port;               /* relative target port identifier, from 1 */
	/* The task management functions that it can ask for: bytes 0 and 1 of REPORT SUPPORTED TASK
	 * MANAGEMENT FUNCTIONS (SPC-4 table 301). */
	uint16_t task_management;
	void (*opened)(struct nexus *n, int err);
	void (*closed)(struct nexus *n);
	/* What the memory of its tasks is charged to, from nexus_open() on; NULL: it is not open. */
	struct loop_share *share;
	/* private */
	uint64_t id;
	uint64_t serial;        /* of the last task that came into a task set */
	struct list tmfs;       /* under way */
	struct scsi_itl **luns; /* what it sees, by LUN */
	struct list itls;       /* these, and those that are coming or going */
	unsigned pending;       /* what the beginning or the end waits for, besides those */
	int err;
	bool joined, opening, closing;
	/* The target's, on loop 0. */
	struct list link;
	unsigned parts; /* changes that it has not followed yet */
	bool departs;   /* it leaves when it has */
	struct loop_msg msg;
};

/* Attaches to all units of the target; `opened` comes later, with 0 or -errno (then it is closed).
 * The transport fills what is above "private". One of the same two ports may be closing, on the same
 * loop: where a task of that is still in a store, tasks of this one wait for it. */
void nexus_open(struct nexus *n);
/* The nexus is lost: all its tasks are aborted; each ends by `finish`; then it detaches, and
 * `closed` comes last, never on the caller's stack, and when no segment of memory that a store has
 * lent (buf is NULL) is leaving any more. No task is run on it any more. While `opened` is still to
 * come, `closed` comes in its place. */
void nexus_close(struct nexus *n);

enum scsi_attr { SCSI_UNTAGGED, SCSI_SIMPLE, SCSI_ORDERED, SCSI_HEAD_OF_QUEUE, SCSI_ACA };

enum scsi_status {
	SCSI_GOOD = 0x00,
	SCSI_CHECK_CONDITION = 0x02,
	SCSI_CONDITION_MET = 0x04,
	SCSI_BUSY = 0x08,
	SCSI_RESERVATION_CONFLICT = 0x18,
	SCSI_TASK_SET_FULL = 0x28,
	SCSI_TASK_ABORTED = 0x40,
};

#define SCSI_CDB_MAX   32
#define SCSI_SENSE_MAX 96
#define SCSI_SEG_MAX   LOOP_BUF_MAX
#define SCSI_SEG_IOV   4

/* An exclusive lock over blocks, lock.c. */
struct scsi_hold {
	struct range_lock range;
	struct scsi_task *task;
	struct scsi_seg *seg; /* whose blocks these are; NULL: the task's */
	uint64_t generation;  /* of the view that was looked at */
	unsigned state;       /* enum hold_state */
};

/* A piece of a command's data: at most SCSI_SEG_MAX bytes. */
struct scsi_seg {
	struct scsi_task *task;
	uint32_t off, len; /* bytes within the command's data */
	struct iovec iov[SCSI_SEG_IOV];
	unsigned niov;
	struct loop_buf *buf; /* what iov points into; NULL: lent by the store */
	/* private */
	uint8_t state;         /* enum seg_state in data.h */
	uint8_t step;          /* of the task's plan */
	bool lent;             /* iov points into the store */
	uint64_t at;           /* where it begins within the blocks of the plan */
	struct loop_buf *read; /* what was read beside the data; or NULL */
	struct loop_wait wait; /* for memory */
	struct unit_io uio;
	struct iovec part[SCSI_SEG_IOV]; /* of `read`, and of what failed */
	struct {
		uint64_t lo, hi;   /* bytes of the disk: the first block that fails is in there */
		uint64_t until_ns; /* when to stop looking for it */
	} failing;
	struct scsi_hold hold;
};

struct scsi_task {
	/* Filled by the transport. */
	struct nexus *nexus;
	uint8_t cdb[SCSI_CDB_MAX]; /* bytes past cdb_len are zero */
	uint8_t cdb_len;
	uint8_t lun[8]; /* as on the wire (SAM-5 4.7) */
	enum scsi_attr attr;
	uint64_t tag;                       /* for matching and traces; unique in the nexus */
	bool reads, writes;                 /* what the initiator expects to happen */
	uint32_t expected_in, expected_out; /* bytes it expects */
	bool no_lend; /* data-in is digested or kept: it comes from private memory */
	/* The answer, for `finish`. */
	enum scsi_status status;
	uint8_t sense[SCSI_SENSE_MAX];
	uint8_t sense_len;
	/* Command's own length against what was expected: one of them is 0. In the direction of the
	 * data. */
	uint32_t underflow, overflow;
	/* private */
	struct unit_task unit_task;
	struct list link; /* in the ordering barrier's queue */
	const struct scsi_cmd *cmd;
	struct scsi_itl *itl;    /* NULL: there is no logical unit at this LUN */
	uint64_t serial;         /* in the nexus */
	uint64_t generation;     /* of the view that was checked; 0: it has had its effect */
	const struct plan *plan; /* what is done with each segment */
	uint64_t lba;
	unsigned io_flags;  /* of writes, and of task_io */
	uint64_t data_len;  /* bytes the command would move between initiator and target */
	uint64_t moved;     /* of these, handed over (in) or arrived (out) */
	uint64_t move_len;  /* bytes that the plan's segments go over */
	uint64_t started;   /* of these, the bytes whose segments were begun, */
	uint64_t ended;     /* and went through all of it */
	uint64_t error_off; /* where the segment began whose failure is told; UINT64_MAX: none */
	/* After a plan, an I/O, a lock or a PUBLISH; NULL: scsi_task_end. */
	void (*next)(struct scsi_task *task);
	unsigned stage; /* enum task_stage in impl.h */
	bool begun, barrier, stepping;
	bool unplugged; /* aborted because its LUN goes: told so, unlike others that are aborted */
	bool told;      /* another nexus aborted it, and that is said */
	bool sends;     /* the plan ends by sending */
	bool locks;     /* it has, or wants, locks: `hold` and those of its segments are valid */
	bool arming;
	bool keeps;                  /* `kept` is valid */
	uint64_t step_at, step_left; /* bytes: a command that goes in steps (cmd_thin.c) */
	unsigned step_index;
	struct scsi_seg segs[2];
	struct unit_op op;
	const struct task_change *change; /* that `op` makes */
	uint64_t arg;                     /* of a command, for the edit of its view */
	struct job_request *request;      /* what it waits for, jobask.c */
	struct scsi_hold hold;
	struct {
		struct loop_buf *buf, *pattern; /* or NULL */
		struct loop_wait wait;          /* for `pattern` */
		uint32_t len;                   /* bytes gathered */
		uint32_t at;                    /* where the data of plans begins */
		bool serves;  /* data of plans without STEP_RECEIVE comes from there */
		bool repeats; /* and is its first block, over and over: `pattern` */
	} kept;
};

/* On the nexus's loop. `finish` may come before it returns. */
void scsi_task_run(struct scsi_task *task);
void scsi_moved(struct scsi_seg *seg, int err);

/* ---- Task management (SAM-5 clause 7)
 * -------------------------------------------------------------------------------------------- */

/* Task sets are per nexus (TST=001b), so CLEAR TASK SET is what ABORT TASK SET is. */
enum scsi_tmf_function {
	SCSI_ABORT_TASK,
	SCSI_ABORT_TASK_SET,
	SCSI_LU_RESET,
	SCSI_TARGET_RESET, /* all LUs that the nexus sees are reset */
	SCSI_NEXUS_RESET,  /* the nexus has lost its tasks, and what it holds, at all of them */
	/* Nothing ends by these; they look at the tasks of the nexus and at what it is to be told. */
	SCSI_QUERY_TASK,
	SCSI_QUERY_TASK_SET,
	SCSI_QUERY_EVENT, /* QUERY ASYNCHRONOUS EVENT */
};

enum scsi_tmf_response {
	SCSI_TMF_COMPLETE,
	SCSI_TMF_SUCCEEDED, /* of the functions that ask: yes */
	SCSI_TMF_NO_LU,
	SCSI_TMF_FAILED, /* no memory, or a mode parameter could not be set back */
};

struct tmf_part;

/* Two ways to write the same number of an LU, or the same. */
bool scsi_same_lun(const uint8_t a[static 8], const uint8_t b[static 8]);

/* One function, embedded in the transport's own; which fills what is above "private". */
struct scsi_tmf {
	struct nexus *nexus;
	enum scsi_tmf_function function;
	uint8_t lun[8]; /* as on the wire; not where all LUs are meant */
	uint64_t tag;   /* of the task: SCSI_ABORT_TASK, SCSI_QUERY_TASK */
	/* For `done`: the additional response information of SCSI_QUERY_EVENT (SAM-5 7.10), 0 without
	 * any. */
	uint8_t event[3];
	/* All victims are gone and, where they are its nexus's own, have ended by `finish`. It is the
	 * transport's again. Before the nexus's `closed`; when that was lost meanwhile, perhaps with
	 * victims that are not gone. */
	void (*done)(struct scsi_tmf *tmf, enum scsi_tmf_response response);
	/* private */
	struct list link;
	struct loop_msg msg;
	uint64_t serial; /* of the last task of its nexus that came before it */
	struct tmf_part *parts;
	unsigned nparts, waiting;
	enum scsi_tmf_response response;
};

/* On the nexus's loop, before nexus_close(). `done` comes later. Tasks of the nexus that are run after
 * this are no victims. */
void scsi_tmf_run(struct scsi_tmf *tmf);

/* ---- Sense that transports need
 * ---------------------------------------------------------------------------------------------- */

/* Rows of sense.c: every key/ASC/ASCQ we can answer stands there, once. */
enum sense {
#define SENSE_ROW(name, key, asc, ascq, text) SENSE_##name,
#include "scsi/sense.def"
#undef SENSE_ROW
};

/* CHECK CONDITION with this sense, unless the task has a status already. While it runs. */
void scsi_task_sense(struct scsi_task *task, enum sense sense);
/* The same for a task that is not to run: instead of scsi_task_run(), which alone calls `finish`. */
void scsi_task_refuse(struct scsi_task *task, enum sense sense);

#endif
