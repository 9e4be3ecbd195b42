/*
 * What the files of unit (and their unit tests) share: the unit, its channels, and the messages
 * between a channel and the steward.
 *
 * Of a channel, `loop` touches all but what is marked as the steward's. Each of its four messages
 * is under way at most once, because the steward ends an operation only when every channel has
 * answered OPEN, and by then nothing that was sent before is still under way: messages between two
 * loops keep their order.
 *
 *   steward -- CLOSE --> channel     stop letting I/O through
 *   channel -- DRAINED -> steward    nothing of mine is in the store (late ones are ignored)
 *   steward -- OPEN ---> channel     take over the offered view, tell the attachments, let I/O pass
 *   channel -- OPENED --> steward
 *
 * A PUBLISH is OPEN alone; a QUIESCE is CLOSE, act, OPEN; a loop that joins gets OPEN alone.
 */
#ifndef SPINDLE_UNIT_IMPL_H
#define SPINDLE_UNIT_IMPL_H

#include "unit/unit.h"

enum channel_join { CHANNEL_ABSENT, CHANNEL_JOINING, CHANNEL_JOINED };

struct channel {
	/* Of every I/O. */
	const struct unit_view *view;
	struct bdev *bdev;
	struct loop *loop;
	uint32_t inflight; /* in the store */
	bool gated;        /* closed, or others are parked that go first */
	bool closed;
	bool draining; /* closed, and DRAINED was not sent yet */
	bool resuming; /* the message that lets parked I/O go is under way */
	uint64_t last_serial;
	struct list tasks;
	/* Where I/O waits. */
	struct list parked, locking;
	struct list aborts; /* parts whose victims have not all ended */
	struct loop_msg resume;
	/* Attachments. */
	struct unit *unit;
	enum channel_join join;
	struct list attached, joining;
	struct unit_op join_op;
	/* To and from the steward. */
	struct loop_msg close, open, drained, opened;
	/* The steward's. */
	bool joined __attribute__((aligned(64)));
	/* Written by `loop`, read by any thread. */
	struct unit_stats stats __attribute__((aligned(64)));
	uint64_t busy; /* stats.c */
} __attribute__((aligned(64)));

/* When the range locks are disarmed (arm.c). The steward's. */
struct unit_arming {
	struct loop_timer timer; /* runs while they are armed */
	struct unit_op disarm;
	bool disarming; /* `disarm` is under way */
	/* Since the timer's last turn: */
	bool wanted;      /* unit_arm() was called */
	uint64_t granted; /* what range_lock_use() said then */
};

#define ARM_IDLE_NS       UINT64_C(10000000000)
#define DISARM_TIMEOUT_NS UINT64_C(20000000)

struct unit_watch;

/* What changes below while the unit is in use (watch.c, live.c). */
struct unit_live {
	struct work_lane *lane;   /* asking the store, and giving it another size */
	struct unit_watch *watch; /* atomic: set once */
	struct unit_usage usage;  /* atomic, each by itself */
};

/* Where tags are kept that the store does not keep: fixed before anything is attached. */
struct unit_keep {
	char *dir; /* NULL: nowhere */
	char group[2 * sizeof(((struct unit_identity *)NULL)->naa) + 1];
	char bound_to[KEPT_BOUND_MAX];
};

struct unit {
	struct loop_set *set;
	struct loop *steward;
	struct bdev *bdev;
	struct unit_identity identity;
	struct unit_keep keep;
	unsigned nloops;
	/* The steward's. */
	struct unit_view *view; /* the newest that was published */
	struct unit_op *current;
	struct list waiting; /* operations that run one after another */
	bool running;        /* the queue is being looked at */
	struct unit_arming arming;
	/* `keep` of the current operation: the worker's while it runs. */
	struct work_lane *lane;
	struct work keeping;
	int kept;
	struct unit_live live;
	/* What OPEN brings: fixed while any is under way. */
	struct {
		const struct unit_view *view;
		unsigned changes;
		uint64_t origin;
	} offer;
	struct channel channels[];
};

/* One loop's share of an ABORT. On the channel's loop from arrival until it is acknowledged. */
struct unit_part {
	struct unit_op *op;
	struct channel *channel;
	struct loop_msg msg, recall;
	struct list link;
	uint64_t serial;  /* tasks that came later are no victims */
	uint64_t victims; /* tasks that must end first */
};

/* channel.c */
void channel_init(struct channel *c, struct unit *u, struct loop *loop);
/* CLOSE and OPEN have arrived. */
void channel_close(struct channel *c);
void channel_open(struct channel *c);
/* Ends with -ECANCELED what waits here of aborted tasks. */
void channel_sweep(struct channel *c);

/* control.c */
void channel_join(struct channel *c);
void channel_drained(struct channel *c);
/* An aborted task ends: those who wait for it go on. */
void channel_victim_gone(struct channel *c, const struct unit_task *t);

/* unit.c */
void channel_joined(struct channel *c);
void channel_tell(struct channel *c, unsigned changes, uint64_t origin);

/* arm.c */
void arm_init(struct unit *u);
/* The loops have stopped: forgets what was under way. */
void arm_fini(struct unit *u);

/* live.c */
int live_init(struct unit *u);
void live_fini(struct unit *u);
/* For an edit: a bdev that grew, and UNIT_WRITE_PROTECTED from its reasons. true: it is another. */
bool live_take_size(const struct unit *u, struct unit_view *next);
bool live_protect(const struct unit *u, struct unit_view *next);

/* watch.c */
/* An I/O ended so: perhaps the store has more to tell. Any thread. */
void watch_trouble(struct unit *u, int err);
/* It has stopped, or the loops never ran. */
void watch_destroy(struct unit_watch *w);

/* stats.c: on the channel's loop. The first task of some came; the last one went. */
void stats_busy(struct channel *c);
void stats_idle(struct channel *c);
void stats_count(struct unit_stats *s, enum io_op op, uint64_t bytes, int err, uint64_t ns);

/* identity.c: unit_identity_load() on the machine that this file names. */
int identity_load(struct store *store, const char *machine_id_path, struct unit_identity *out,
		  bool *renewed, struct diag *d);

#endif
