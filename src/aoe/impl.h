/*
 * What the files of this folder share: the server, its ports, its disks, the places of disks at ports,
 * and a frame's task.
 *
 * All of it lives on one loop, since what comes to one disk by several interfaces has an order. The
 * lists of ports, disks and places are built before the loops run and then only read.
 *
 * link.c keeps the ports at their interfaces, and has probe.c ask before a place is served.
 *
 *   frame -> port.c: whose is it? -> ata*.c, query.c or access.c: a task, and its I/O -> port.c: the answer
 */
#ifndef SPINDLE_AOE_IMPL_H
#define SPINDLE_AOE_IMPL_H

#include "aoe/aoe.h"
#include "aoe/proto.h"

#define AOE_BUFFERS     64   /* advertised unless told otherwise: Linux never has more under way */
#define AOE_TASKS_MAX   1024 /* of a disk, under way: the windows of 16 clients */
#define AOE_TASKS_ASIDE 64   /* and of what finds, identifies and fences it, when those are taken */
#define AOE_SECTORS_MAX 24   /* of one frame; the largest that fits into a buffer of 16 KiB */
#define AOE_DATA_AT     4096 /* in a task's buffer: direct I/O wants its data on a page */
#define AOE_FRAME_MAX   (AOE_ATA_HEAD + AOE_SECTORS_MAX * AOE_SECTOR)
#define AOE_TAGS        4  /* of one request that came several times */
#define AOE_RUN_MAX     32 /* frames that one I/O does */
#define AOE_STRING_TAG  "aoe-config"
#define AOE_SMART_TAG   "aoe-smart"
/* Of a disk. A log has 5 of them in a page, another one 4: both then have whole pages of them. */
#define AOE_ERRORS_KEPT 20
#define AOE_KEPT_MAX    1504 /* bytes of what is kept with the disk by one name */

struct ata_command;
struct aoe_late;

/* ---- Disks and places ---- */

struct aoe_string {
	uint16_t len;
	uint8_t bytes[AOE_STRING_MAX];
};

/* A command that the disk failed to do. */
struct aoe_ata_error {
	struct aoe_ata asked, answered;
	bool ext;          /* 48 bits of LBA */
	uint32_t after_ms; /* since the disk is served */
	uint16_t hours;
};

/* Addresses that are kept with the disk (access.c). */
enum aoe_list {
	AOE_ANSWERED, /* the MAC mask list: who is answered; none: everybody */
	AOE_HOLDERS,  /* who has reserved the disk; none: nobody has */
	AOE_LISTS,
};

struct aoe_disk {
	struct aoe *aoe;
	struct list link; /* in aoe->disks */
	struct unit *unit;
	struct unit_attach attach;
	bool attached;
	struct loop_share *share;
	unsigned ntasks;
	struct list flights;        /* transfers under way, the oldest first */
	unsigned nwaiting;          /* of them, those that wait for earlier ones */
	struct aoe_task *gathering; /* its I/O begins at the end of this turn; or NULL */
	struct list gathers;        /* in aoe->gathering, then */
	struct aoe_late *late;
	struct aoe_string string;
	bool changes_string; /* and has a task for that */
	bool cache_off;      /* by a client, where there is one */
	bool smart_off, changes_smart;
	uint64_t served_ns; /* since when */
	/* The newest ones, in a ring: the n-th at (n - 1) % AOE_ERRORS_KEPT. */
	struct aoe_ata_error errors[AOE_ERRORS_KEPT];
	uint64_t nerrors;
	struct aoe_macs lists[AOE_LISTS];
	bool changes_list; /* and has a task for that */
};

/* A disk at a port. */
struct aoe_place {
	struct aoe_port *port;
	struct list link;       /* in port->places */
	struct aoe_place *next; /* in port->of_slot[] */
	struct aoe_disk *disk;
	struct aoe_export export;
	int claim;   /* keeps other processes of this machine out; -1: not asked for there yet */
	bool served; /* nobody else does, as far as we know */
	bool taken;  /* by a rival, who was found when it was asked for */
	bool told_taken; /* in the log */
	bool rival_here; /* on this machine, at the same interface; else: */
	uint8_t rival[AOE_MAC_LEN];
};

#define AOE_MAC_TEXT 18
const char *aoe_mac_text(char out[AOE_MAC_TEXT], const uint8_t mac[AOE_MAC_LEN]);

uint64_t aoe_disk_sectors(const struct aoe_disk *disk);
/* A write may be answered before it is durable. */
static inline bool aoe_caches(const struct aoe_place *place)
{
	return place->export.writeback && !place->disk->cache_off;
}
/* Tells everybody that the disk is there, or has another size. */
void aoe_disk_announce(struct aoe_disk *disk);

/* ---- Requests under way ---- */

/* The newest last. */
struct aoe_tags {
	uint8_t v[AOE_TAGS][4];
	unsigned n;
};

struct aoe_run;

struct aoe_task {
	struct list link; /* in disk->flights, then in port->out */
	struct aoe_place *place;
	struct loop_buf *buf;
	uint32_t frame_at, frame_len; /* in `buf`: of the answer, which was the request's head */
	/* ata.c */
	const struct ata_command *ata;
	struct unit_task unit_task;
	struct unit_io uio;
	struct iovec iov;
	uint64_t from, to;   /* bytes of the disk that it touches */
	struct aoe_run *run; /* whose I/O does this one, too; or NULL */
	uint64_t left;       /* bytes behind this piece, of a verification or a range to trim */
	unsigned next_range; /* to trim */
	/* Bytes from io.off on, with a sector that cannot be read; 0: none is known. */
	uint64_t suspect;
	struct iovec probe;    /* to find it */
	bool waits;            /* for earlier writes of its sectors */
	bool overtaken;        /* by a later write of its sectors */
	struct aoe_tags tags;  /* to be answered as well */
	struct aoe_tags later; /* of the same read, when it came again */
};

/* port.c: a task with room for an answer of `room` bytes, which lies `frame_at` bytes into its buffer
 * and begins as the request does, for `head_len` bytes. NULL: there is no memory, and the client asks
 * again. */
struct aoe_task *aoe_task_create(struct aoe_place *place, const void *request, uint32_t head_len,
				 uint32_t room, uint32_t frame_at);
struct aoe_head *aoe_task_head(struct aoe_task *t);
/* It is not answered. Its I/O, if there was any, has ended. */
void aoe_task_drop(struct aoe_task *t);
/* The answer, or what nobody asked for, leaves at the end of the turn. */
void aoe_task_answer(struct aoe_task *t, uint32_t frame_len);
/* Nothing but the head, and why. */
void aoe_task_refuse(struct aoe_task *t, enum aoe_error error);
void aoe_refuse(struct aoe_place *place, const void *request, enum aoe_error error);

/* run.c: transfers that come in one turn and whose sectors follow each other are one I/O, of the first one. */
void aoe_run_submit(struct aoe_task *t);
/* No more come in this turn. */
void aoe_run_begin_all(struct aoe *aoe);
/* The one whose I/O does its transfer. */
struct aoe_task *aoe_run_first(struct aoe_task *t);
/* The I/O of `t` has ended, or was cancelled: it is no more than its own again, with its result. `each` is
 * called for all that it did, and may drop them. Those of a run that failed have done nothing for sure. */
void aoe_run_end(struct aoe_task *t, void (*each)(struct aoe_task *t, bool of_a_run));

/* ata.c: `len` bytes with a whole head. */
void aoe_ata_request(struct aoe_place *place, const uint8_t *frame, uint32_t len);
/* ata_smart.c: before the loops run. Blocking. 0 or -errno. */
int aoe_smart_load(struct aoe_disk *disk);
/* identify.c */
void aoe_identify(const struct aoe_place *place, uint8_t out[AOE_SECTOR]);
/* query.c */
void aoe_query_request(struct aoe_place *place, const uint8_t *frame, uint32_t len);
/* Nothing, unless it is served. */
void aoe_announce(struct aoe_place *place);
/* Before the loops run. Blocking. 0 or -errno. */
int aoe_string_load(struct aoe_disk *disk);
/* kept.c: values of at most AOE_KEPT_MAX bytes, kept with the disk by name. Blocking: before the loops run, or
 * on a worker. 0 or -errno; 0 as well where nothing can be kept, as of a disk in memory: there a value is in
 * force for as long as the disk is served. */
int aoe_kept_set(struct unit *u, const char *name, const void *bytes, size_t len);
/* Its length, 0 when there is none, or -errno: -EBADMSG when it is no such value. */
ssize_t aoe_kept_get(const struct unit *u, const char *name, void *bytes, size_t cap);
/* access.c */
void aoe_mask_request(struct aoe_place *place, const uint8_t *frame, uint32_t len);
void aoe_reserve_request(struct aoe_place *place, const uint8_t *frame, uint32_t len);
/* Whether a frame is heard at all. */
bool aoe_is_answered(const struct aoe_place *place, const struct aoe_head *h);
/* Whether the disk is reserved, and not by it. */
bool aoe_is_kept_out(const struct aoe_disk *disk, const uint8_t mac[AOE_MAC_LEN]);
bool aoe_is_admin(const struct aoe_place *place, const uint8_t mac[AOE_MAC_LEN]);
/* Whether a client of another transport has reserved the disk. */
bool aoe_is_held_elsewhere(const struct aoe_disk *disk);
/* Nobody is listed, or it is among them. */
bool aoe_lets_pass(const struct aoe_macs *macs, const uint8_t mac[AOE_MAC_LEN]);
/* Before the loops run: a reservation is in force from the first view on. Blocking. 0 or -errno. */
int aoe_lists_load(struct aoe_disk *disk);
void aoe_lists_free(struct aoe_disk *disk);

/* ---- Ports and the server ---- */

/* probe.c: whether others serve the places of a port. */
struct aoe_probe {
	bool runs;
	unsigned tries;
	struct packet packet;
	struct loop_timer timer;
	void (*done)(struct aoe_port *port, int err);
};

/* link.c: what was told of a port. */
struct aoe_told {
	int index; /* 0: there is none */
	bool up;
	unsigned downs, sectors;
	uint8_t mac[AOE_MAC_LEN];
};

struct aoe_counts {
	uint64_t received, sent;
	uint64_t again;   /* requests that came while the same was under way */
	uint64_t late;    /* writes that came after a newer one of their client */
	uint64_t no_room; /* requests that there was no memory for */
	uint64_t unsent;  /* answers that the interface did not take */
};

struct aoe_port {
	struct aoe *aoe;
	struct list link;     /* in aoe->ports */
	struct packet packet; /* closed while there is no such interface; `mac` is as it is now */
	struct list places;
	struct aoe_place *of_slot[UINT8_MAX]; /* of all shelves, chained */
	struct list out;                      /* answers */
	struct aoe_counts counts;
	uint64_t many_due_ns; /* when what many were asked for at a time has been paid */
	bool flush_queued;
	bool blocked, stuck; /* nothing can be sent; for so long that nothing waits for it */
	struct loop_timer stuck_timer;
	unsigned turn; /* frames that may still come in this turn of the loop */
	struct loop_msg flush;
	/* link.c */
	bool xdp;
	unsigned mtu;
	unsigned fits;    /* sectors of one ATA command */
	unsigned sectors; /* of one, as clients are told: whole blocks */
	unsigned
		fitted; /* before the MTU changed, which some may still go by until remembered_ns */
	uint64_t remembered_ns;
	bool up, was_down;
	unsigned downs; /* how often it went */
	struct aoe_told told;
	bool tell_all; /* announce its places, with the rest */
	int why;       /* it is tried again: -errno, as was logged */
	uint64_t told_ns, asked_ns;
	struct loop_timer tell_timer, again_timer;
	struct aoe_probe probe;
};

void aoe_port_init(struct aoe_port *port);
/* Has it watched for what is wanted now: frames, while it serves, and room for answers that wait. */
void aoe_port_update(struct aoe_port *port);
/* At the end: answers that wait leave at the end of the turn, or are lost. */
void aoe_port_flush(struct aoe_port *port);
void aoe_port_log_counts(struct aoe_port *port, enum log_level level);
/* Answers that wait are lost. */
void aoe_port_drop(struct aoe_port *port);
/* It is listed, or all are. */
bool aoe_is_among(const struct aoe_macs *macs, const uint8_t mac[AOE_MAC_LEN]);

/* link.c: before the loops run. 0 or -errno: of packet_open(); -EEXIST: another port has it by another
 * name. */
int aoe_link_init(struct aoe_port *port, const char *interface, bool xdp);
/* Sectors of one ATA command that is done: as many as fit, since a client that has learned a larger number
 * from another target at this place still asks for what it began with; of a write that has come as many as
 * fitted before the MTU changed, for a while. */
unsigned aoe_port_limit(const struct aoe_port *port, bool to_disk);
/* Its frames, at its port. 0 or -errno. */
int aoe_place_wants(struct aoe_place *place);
void aoe_links_start(struct aoe *aoe);
void aoe_links_stop(struct aoe *aoe);
/* probe.c: asks for all places that are not served; `done` is not called on an earlier stack, unless
 * err != 0. Then `taken` says which somebody else has. */
void aoe_probe_init(struct aoe_port *port);
void aoe_probe_start(struct aoe_port *port, struct loop *loop,
		     void (*done)(struct aoe_port *port, int err));
void aoe_probe_stop(struct aoe_port *port); /* `done` does not come any more */
/* Its interface is no more: what was claimed there is given back. */
void aoe_probe_forget(struct aoe_port *port);
/* Who has a place that is taken. */
#define AOE_RIVAL_TEXT 64
const char *aoe_rival_text(char out[AOE_RIVAL_TEXT], const struct aoe_place *place);

struct aoe_check;

struct aoe {
	struct loop_set *set;
	struct loop *loop;
	const struct log *log;
	struct link_watch links;
	struct aoe_check *check;
	uint64_t number; /* of this process among others, at random */
	uint64_t dice;   /* the state of random numbers */
	struct list ports, disks;
	struct list gathering; /* disks that gather a run */
	struct loop_msg start, stop, stopped, tell;
	bool telling;
	unsigned nattaching, ntasks;
	bool started, stopping, is_stopped;
	void (*when_stopped)(void *arg);
	void *arg;
};

/* One thing less is under way: stopped when that was the last one. */
void aoe_settle(struct aoe *aoe);

#endif
