/*
 * unit: one exportable thing, whatever reaches it: who may pass, what changed, who must be gone.
 * May use: base, loop, store, bdev. May be used by: scsi, aoe, daemon.
 *
 * A unit is bound to no loop: any loop submits I/O to it and gets the completion on the same loop.
 * What makes that safe is message passing. Each (unit, loop) has a channel of plain ints that only
 * its loop touches, and one loop, the steward, runs the unit's control operations by posting to
 * every channel and counting the acknowledgements:
 *
 *   PUBLISH  an immutable new view replaces the old one on every loop; attachments are told on
 * their own loop before it acknowledges; done after the last acknowledgement. Nothing drains.
 *   QUIESCE  every channel is closed and its I/O drained; then `act` runs; then a new view is
 * published and the channels reopen. Past its deadline it reopens everything and ends -ETIMEDOUT.
 *   Both may keep the new view durably (`keep`, on a worker thread) before anybody sees it.
 *   ABORT    the matching tasks are cancelled where they wait; done when the last of them has
 * ended.
 *
 * PUBLISH and QUIESCE (and the joining of a loop) run one after another, in the order they arrived
 * at the steward. ABORT waits for its victims only, never behind those. An operation can be a
 * victim itself, by the task that it serves: a waiting PUBLISH or QUIESCE, a QUIESCE that drains
 * and an ABORT end -ECANCELED then; what has gone further (and may be kept already) runs to its end.
 *
 * Promises, tested in the simulator over a million message orders:
 *   - once an ABORT is done, no I/O of its victims is in the store or ever gets there;
 *   - once a PUBLISH is done, every I/O that enters on any loop is checked against its view, and
 * every attachment has been told;
 *   - an ABORT is done although I/O of others hangs, and not before its victims' I/O left the
 * store;
 *   - while QUIESCE acts, nothing is in the store; its deadline holds although I/O hangs;
 *   - nobody sees a view before it was kept, and none that could not be kept;
 *   - no write of another comes between the read and the write of an atomic update.
 */
#ifndef SPINDLE_UNIT_H
#define SPINDLE_UNIT_H

#include "bdev/bdev.h"

struct unit;
struct channel;

/* ---- What everybody sees
 * ---------------------------------------------------------------------------- */

enum unit_flags {
	UNIT_WRITE_PROTECTED = 1, /* by the store, or by who exports it */
	UNIT_STOPPED = 2,         /* by START STOP UNIT */
	UNIT_LOCKS_ARMED = 4,     /* writes take range locks; set and cleared under a QUIESCE */
	UNIT_MISSING = 8,         /* the store has lost its disk */
	UNIT_SOFT_PROTECTED = 16, /* by a client (SWP in a mode page) */
	UNIT_WRITE_THROUGH = 32,  /* the write cache is off: WRITE and ZERO get IO_FUA, and a
				     DISCARD that promises zeros is flushed before it is done */
	UNIT_REWRITING = 64, /* only UNIT_IO_INTERNAL passes: the whole disk is being rewritten */
	/* Why UNIT_WRITE_PROTECTED, where that can end: watch.c and live.c see to both. */
	UNIT_PROTECTED_BY_STORE = 128,
	UNIT_PROTECTED_BY_EXPORT = 256,
	/* There is a holder, and its reservation is kept with the disk and ended by whoever made it only,
	 * not by a reset: a client that is kept out could break it else. */
	UNIT_HOLDER_KEPT = 512,
};

/* The personality's part of a view, copied from one to the next, of which unit knows nothing. */
#define UNIT_DEVICE_BYTES 1024

/* Immutable once published. A pointer to it is good until the callback that asked for it returns.
 */
struct unit_view {
	uint64_t generation; /* 1, 2, ...: one more with each PUBLISH and QUIESCE */
	uint64_t size;       /* bytes in force */
	unsigned flags;
	uint64_t holder; /* the only nexus whose I/O may pass; 0: everyone's */
	_Alignas(8) uint8_t device[UNIT_DEVICE_BYTES];
};

/* What a PUBLISH tells the attachments. Bits from UNIT_CHANGED_DEVICE on are the personality's. */
enum unit_changes {
	UNIT_CHANGED_SIZE = 1,
	UNIT_CHANGED_MEDIUM = 2,     /* a lost disk is back */
	UNIT_CHANGED_PROTECTION = 4, /* write protection, on or off */
	UNIT_CHANGED_DEVICE = 1 << 8,
};

/* ---- Life
 * --------------------------------------------------------------------------------------------- */

#define UNIT_SERIAL_MAX 32

/* Kept for life with the disk; never the same on a copy of it by accident (identity.c says how). */
struct unit_identity {
	uint8_t naa[8];                   /* NAA 3h, locally assigned (SPC-4 7.8.6.6.3) */
	char serial[UNIT_SERIAL_MAX + 1]; /* for VPD page 80h, ASCII */
};

/* Reads the disk's identity, or gives it a new one when it has none or carries that of the disk or
 * machine it was copied from (then `renewed` is true). A store that keeps nothing gets one made
 * from its fingerprint and the machine's, and a store that has no fingerprint a random one.
 * Blocking. */
int unit_identity_load(struct store *store, struct unit_identity *out, bool *renewed,
		       struct diag *d);

/* Takes over the bdev, also when it fails. The steward is a loop of the set, chosen by
 * `steward_index`. */
int unit_create(struct unit **out, struct loop_set *set, struct bdev *bdev,
		const struct unit_identity *identity, unsigned steward_index);
/* Nothing is attached, no operation is running, the loops have stopped. */
void unit_destroy(struct unit *u);
struct bdev *unit_bdev(const struct unit *u);
/* The loop on which `edit` runs. */
struct loop *unit_steward(const struct unit *u);
/* Loops of the set, by loop_index(). */
unsigned unit_nloops(const struct unit *u);
/* Before anything is attached: the view that it begins with, for its personality to complete. */
struct unit_view *unit_first_view(struct unit *u);
const struct unit_identity *unit_identity(const struct unit *u);

/* ---- Small named values kept with the disk
 * ------------------------------------------------------------------
 *
 * By the store where it keeps tags. Else in a directory, if the disk can be told from every other
 * (store_info.known_again): keep.c. */

/* Before anything is attached or got. It is made when something is kept first; NULL: none. Blocking. 0 or
 * -ENOMEM. */
int unit_keep_in(struct unit *u, const char *dir);
/* unit_tag_set works: not on a disk that was opened read-only. Any thread; always the same answer. */
bool unit_keeps_tags(const struct unit *u);
/* Bytes, or -errno: -ENODATA when there is none, -EOPNOTSUPP where nothing is kept, -ERANGE when it is
 * longer than `cap`, -EBADMSG when there is one that is damaged. Blocking. */
ssize_t unit_tag_get(const struct unit *u, const char *name, void *buf, size_t cap);
/* Durable when it answers 0. After an error it may be there all the same. Errors of store_tag_set,
 * and from a directory: -ENOSPC, -EROFS (who may not write, too), -ENOMEM, -EIO. Blocking; one at a
 * time. */
int unit_tag_set(struct unit *u, const char *name, const void *buf, size_t len);

/* ---- Attachments: one nexus at one unit.
 * ------------------------------------------------------------------ */

/* Unique in the process, also against nexuses that are gone: reservations and aborts name one by it. 0
 * or -EIO. */
int unit_make_nexus_id(uint64_t *id);

/* Embedded in its owner, on one loop. */
struct unit_attach {
	uint64_t nexus_id; /* of unit_make_nexus_id(), never 0 */
	struct loop *loop;
	/* The channel is there (0), or -errno. Later, never on unit_attach's stack. */
	void (*attached)(struct unit_attach *a, int err);
	/* A PUBLISH changed something; `origin` is the nexus that asked for it, 0: none did. */
	void (*changed)(struct unit_attach *a, unsigned changes, uint64_t origin);
	struct channel *channel; /* set before `attached` */
	/* private */
	struct unit *unit;
	struct list link;
	struct loop_msg msg;
};

/* On a->loop. It joins the loop to the unit when it is the first there, behind control operations
 * that run. */
void unit_attach(struct unit *u, struct unit_attach *a);
/* On a->loop, after `attached`; none of its tasks is left. It is forgotten at once. */
void unit_detach(struct unit_attach *a);
/* On the channel's loop: all that are attached to the unit there, the oldest first. `visit` attaches and
 * detaches none. */
void unit_visit_attached(const struct channel *c, void (*visit)(struct unit_attach *a, void *arg),
			 void *arg);

/* ---- Tasks and their I/O
 * ------------------------------------------------------------------------------------- */

/* What an ABORT can match. Embedded in a transport's or personality's task; on the channel's loop.
 */
struct unit_task {
	uint64_t nexus_id;
	/* ABORT calls this once, on the task's loop: stop waiting wherever it waits, and call
	 * unit_task_end() now or when its I/O has come back. */
	void (*cancel)(struct unit_task *t);
	bool aborted;
	uint64_t aborted_by; /* the nexus_id of the ABORT that did it first */
	/* private */
	struct channel *channel;
	struct list link;
	uint64_t serial;
	struct unit_op *op; /* that serves it */
	unsigned busy;      /* I/O under way */
};

void unit_task_begin(struct channel *c, struct unit_task *t);
/* None of its I/O and no operation that serves it is under way. */
void unit_task_end(struct unit_task *t);
/* On a->loop: all tasks of the nexus there. `visit` ends none of them. */
void unit_visit_tasks(const struct unit_attach *a, void (*visit)(struct unit_task *t));
struct unit_op;
/* On a->loop: whether an ABORT like `op`, of which nexus_id and matches count, had a victim there now. */
bool unit_has_victim(const struct unit_attach *a, const struct unit_op *op);

const struct unit_view *channel_view(const struct channel *c);
struct unit *channel_unit(const struct channel *c);

/*
 * One I/O of a task through the channel to the disk: parked while the channel is closed, checked
 * against the view of that moment, under a range lock where those are armed, counted and timed. The
 * owner fills io.op, flags, off, len, iov, niov; task; generation; done. io.result is what bdev
 * says, or, when it never reached the store:
 *
 *   -ECANCELED  the task was aborted
 *   -ESTALE     `generation` is not 0 and not the view's: check again, submit again
 *   -EACCES     the view has another holder
 *   -ENODEV     its disk is lost (for a FLUSH, too)
 *   -EBUSY      it is being rewritten (for a FLUSH, too)
 *   -ENOMEDIUM  the unit is stopped (a FLUSH passes: stopping ends with one)
 *   -EROFS      the view is write-protected, by a client or from below
 *   -ERANGE     it does not fit the size in force
 */
struct unit_io {
	struct io io; /* io.done and io.loop are set here */
	struct unit_task *task;
	uint64_t generation;
	void (*done)(struct unit_io *uio); /* never on the submitter's stack */
	/* private */
	struct list link;
	struct range_lock lock;
	uint64_t started_ns;
	unsigned state;
};

/* In io.flags, beside those of enum io_flags. */
enum unit_io_flags {
	UNIT_IO_LOCKED = 0x100,   /* the owner holds a range lock over it: take none */
	UNIT_IO_INTERNAL = 0x200, /* the unit's own work: passes holder and UNIT_REWRITING */
};

void unit_submit(struct unit_io *uio);
/*
 * A read without I/O and without a copy: iovecs into the disk's own memory (store_lend), filled
 * like a unit_io that reads. Their number, or -EOPNOTSUPP: submit it as a read, which then also
 * gets whatever error there is; the store cannot lend, the channel is closed, or a check fails. The
 * bytes stay until unit_lend_end(), on the same loop, perhaps after the task has ended. A lend
 * holds no passage: neither QUIESCE nor ABORT wait for the network to take it.
 */
int unit_lend(struct unit_io *uio, struct iovec *iov, unsigned max_iov);
void unit_lend_end(struct unit_io *uio);
/* true: it had not reached the store and `done` will not be called. false: `done` comes. */
bool unit_io_cancel(struct unit_io *uio);

/* ---- Control operations
 * ------------------------------------------------------------------------------------------ */

/* Embedded in its owner and kept until `done`. Submitted on `loop`, where `done` runs as well,
 * never on the submitter's stack. */
struct unit_op {
	struct unit *unit;
	struct loop *loop;
	uint64_t nexus_id; /* who asks; 0: nobody outside */
	/* The task it serves, on `loop`, which ends after `done`: an ABORT of that task cancels it
	 * (unit_op_cancel). One operation a task at a time. NULL: none. */
	struct unit_task *task;
	/* PUBLISH, QUIESCE: on the steward's loop, from a copy of the newest view to the next one.
	 * < 0: the operation ends with it and nothing has changed. NULL: the next view says the same. */
	int (*edit)(struct unit_op *op, struct unit_view *next);
	/* QUIESCE: on the steward's loop when its turn has come, before anything is closed: true ends
	 * it at once, with 0 and nothing changed. NULL: it is always needed. */
	bool (*needless)(struct unit_op *op);
	/* PUBLISH, QUIESCE: makes durable what `edit` made, before anybody sees it. On a worker
	 * thread, where it may block; `next` is not changed any more. < 0: the operation ends with
	 * it and nothing has changed. NULL: there is nothing to keep. */
	int (*keep)(struct unit_op *op, const struct unit_view *next);
	unsigned changes; /* PUBLISH, QUIESCE: what the attachments are told; edit may set it */
	/* QUIESCE: on the steward's loop while nothing is in the store; ends by unit_op_acted(). Or
	 * NULL. */
	void (*act)(struct unit_op *op);
	uint64_t timeout_ns; /* QUIESCE: from submission until drained; 0: for ever */
	/* ABORT: is this task a victim? Pure: the same answer on every loop, at any time. Never so
	 * for `task`. */
	bool (*matches)(const struct unit_op *op, const struct unit_task *t);
	/* ABORT: from unit_parts_create(), and freed before `done`; NULL: allocated when it is
	 * submitted, which may fail. */
	struct unit_part *parts;
	/* PUBLISH, QUIESCE: from unit_view_create(), and taken over; NULL: allocated when its turn has
	 * come, which may fail. */
	struct unit_view *spare;
	/* 0, what `edit`, `keep` or unit_op_acted() said, -ETIMEDOUT, -ECANCELED or -ENOMEM. */
	void (*done)(struct unit_op *op, int err);
	/* private */
	unsigned kind, state, waiting;
	int err;
	struct list link;
	struct loop_msg msg, cancel_msg;
	struct loop_timer timer;
	struct unit_view *next;
	uint64_t submitted_ns;
	unsigned at_large; /* messages that have not come back to `loop` */
	bool cancelling;
	struct {
		struct work work; /* before the PUBLISH: the worker's while it runs */
		uint64_t size;
	} resize;
};

void unit_publish(struct unit_op *op);
void unit_quiesce(struct unit_op *op);
void unit_abort(struct unit_op *op);
/* The memory of one ABORT, for an owner who must not fail later: one part a loop. NULL: there is
 * none. free() it when it was not used. */
struct unit_part *unit_parts_create(const struct unit *u);
/* The same for a PUBLISH or QUIESCE: the memory of the next view. */
struct unit_view *unit_view_create(void);
/* On op->loop, before `done`: ends it early when it still waits; `done` comes in any case. */
void unit_op_cancel(struct unit_op *op);
/* On the steward's loop. */
void unit_op_acted(struct unit_op *op, int err);

/* ---- Atomic updates: read-modify-write of some blocks, undisturbed by any write.
 * ------------------------------------------------------------------------------------
 *
 * The view has UNIT_LOCKS_ARMED, else unit_arm() first. Take an exclusive range lock of the bdev,
 * and look at the view again: without the flag the locks were disarmed meanwhile, so unlock and
 * begin anew. The first I/O carries that view's generation, all of it UNIT_IO_LOCKED; -ESTALE: look
 * again. While the lock is held the flag stays. */

/* A QUIESCE that arms the range locks; the owner fills unit, loop, nexus_id, task, timeout_ns, done.
 * Where they are armed already it is over at once. They are disarmed again when no exclusive lock was
 * taken for a while (arm.c). */
void unit_arm(struct unit_op *op);

/* ---- Live change
 * -------------------------------------------------------------------------------------------- */

/* Takes over the size that the store has by now, or (size not 0) gives it that one; then a PUBLISH.
 * The owner fills unit, loop, done, and does not cancel it. A store that hangs, also when the watch
 * asks it, holds up this and nothing else. -ERANGE: it would shrink. */
void unit_resize(struct unit_op *op, uint64_t size);
/* PUBLISH: write protection on or off, by who exports it. The owner fills unit, loop, done. -EROFS:
 * off, but the store below is read-only, or was opened so. */
enum unit_protection { UNIT_READ_WRITE, UNIT_READ_ONLY };
void unit_protect(struct unit_op *op, enum unit_protection protection);

enum unit_event {
	UNIT_EVENT_GREW,
	UNIT_EVENT_LOST, /* NOT READY until it is back */
	UNIT_EVENT_BACK,
	UNIT_EVENT_READ_ONLY, /* the store takes no writes any more */
	UNIT_EVENT_WRITABLE,
	UNIT_EVENT_FLUSH_FAILED, /* acknowledged writes may be lost; read-only from here on */
	/* The store ends before its disk does: read-only until it does not, -EIO behind its end. */
	UNIT_EVENT_SHRUNK,
	UNIT_EVENT_UNLINKED, /* its file has no name any more: it is gone when it is closed */
};

/* Space of the store below, as of the last look at it. */
struct unit_usage {
	uint64_t allocated, available; /* bytes; UINT64_MAX: unknown */
};

/* Looks after the store: every few seconds, and when an I/O ended so that it might be lost, asks it
 * how it is (store_probe) and publishes what changed: size, protection, lost and back. */
struct unit_watch_config {
	uint64_t interval_ns;
	/* On the steward's loop. May be NULL. */
	void (*event)(void *arg, struct unit *u, enum unit_event event);
	void *arg;
};
/* On any thread, once, when the loops run or before; what `config` says is copied. It looks at once.
 * 0 or -ENOMEM. */
int unit_watch_start(struct unit *u, const struct unit_watch_config *config);
/* On any thread, once, when it was started; `stopped` comes on `loop`, later: nothing of the watch
 * runs any more. A probe that hangs keeps it from coming. */
void unit_watch_stop(struct unit *u, struct loop *loop, void (*stopped)(void *arg), void *arg);
/* Any thread: look now. */
void unit_watch_now(struct unit *u);
/* Any thread. */
struct unit_usage unit_usage(const struct unit *u);

/* ---- Counters
 * -------------------------------------------------------------------------------------------------------
 */

/* Latencies fall into buckets of doubling width with four steps each, from 1 us. */
#define UNIT_LATENCY_BUCKETS 96

struct unit_op_stats {
	uint64_t ops, bytes, errors, total_ns;
	uint64_t latency[UNIT_LATENCY_BUCKETS];
};

struct unit_stats {
	struct unit_op_stats op[IO_NOPS];
	/* The time with tasks under way, of the loop that had some the longest. Loops know nothing
	 * of each other, and this only grows, which their sum would not. */
	uint64_t busy_ns;
	uint64_t now_ns; /* of loop_set_clock_ns(), when that was so */
};

/* The sum over all loops, on any thread. Single counters are exact, their mixture is not a
 * snapshot. */
void unit_stats_read(const struct unit *u, struct unit_stats *out);
/* The upper bound of a bucket. */
uint64_t unit_latency_bound_ns(unsigned bucket);
/* p: 0..1. 0 when nothing was counted. */
uint64_t unit_latency_percentile_ns(const struct unit_op_stats *s, double p);

#endif
