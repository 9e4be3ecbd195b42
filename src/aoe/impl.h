/*
 * What the files of this folder share: the server, its ports, its disks, the places of disks at ports,
 * and a frame's task.
 *
 * All of it lives on one loop, since what comes to one disk by several interfaces has an order. The
 * lists of ports, disks and places are built before the loops run and then only read.
 *
 * link.c keeps the ports at their interfaces, and has probe.c ask before a place is served.
 *
 *   frame -> port.c: whose is it? -> ata.c or query.c: a task, and its I/O -> port.c: the answer
 */
#ifndef SPINDLE_AOE_IMPL_H
#define SPINDLE_AOE_IMPL_H

#include "aoe/aoe.h"
#include "aoe/proto.h"

#define AOE_BUFFERS     64         /* advertised: as many requests as Linux ever has under way */
#define AOE_TASKS_MAX   256        /* of a disk, under way */
#define AOE_SECTORS_MAX 24         /* of one frame; the largest that fits into a buffer of 16 KiB */
#define AOE_DATA_AT     4096       /* in a task's buffer: direct I/O wants its data on a page */
#define AOE_ROOM        (16 * KiB) /* for a frame that comes in */
#define AOE_RX_BATCH    32
#define AOE_TAGS        4 /* of one request that came several times */
#define AOE_STRING_TAG  "aoe-config"

struct ata_command;

/* ---- Disks and places ---- */

struct aoe_string {
	uint16_t len;
	uint8_t bytes[AOE_STRING_MAX];
};

struct aoe_disk {
	struct aoe *aoe;
	struct list link; /* in aoe->disks */
	struct unit *unit;
	struct unit_attach attach;
	bool attached;
	struct loop_share *share;
	unsigned ntasks;
	struct list flights; /* transfers under way, the oldest first */
	unsigned nwaiting;   /* of them, those that wait for earlier ones */
	struct aoe_string string;
	bool changes_string; /* and has a task for that */
};

/* A disk at a port. */
struct aoe_place {
	struct aoe_port *port;
	struct list link; /* in port->places */
	struct aoe_disk *disk;
	struct aoe_export export;
	bool served;     /* nobody else does, as far as we know */
	bool taken;      /* by `rival`, who was heard when it was asked for */
	bool told_taken; /* in the log */
	uint8_t rival[AOE_MAC_LEN];
};

#define AOE_MAC_TEXT 18
const char *aoe_mac_text(char out[AOE_MAC_TEXT], const uint8_t mac[AOE_MAC_LEN]);

uint64_t aoe_disk_sectors(const struct aoe_disk *disk);
/* Tells everybody that the disk is there, or has another size. */
void aoe_disk_announce(struct aoe_disk *disk);

/* ---- Requests under way ---- */

/* The newest last. */
struct aoe_tags {
	uint8_t v[AOE_TAGS][4];
	unsigned n;
};

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
	uint64_t left;         /* bytes behind this piece, of a verification */
	bool waits;            /* for earlier writes of its sectors */
	bool overtaken;        /* by a later write of its sectors */
	struct aoe_tags tags;  /* to be answered as well */
	struct aoe_tags later; /* of the same request, when it came again */
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

/* ata.c: `len` bytes with a whole head. */
void aoe_ata_request(struct aoe_place *place, const uint8_t *frame, uint32_t len);
/* identify.c */
void aoe_identify(const struct aoe_place *place, uint8_t out[AOE_SECTOR]);
/* query.c */
void aoe_query_request(struct aoe_place *place, const uint8_t *frame, uint32_t len);
/* Nothing, unless it is served. */
void aoe_announce(struct aoe_place *place);
/* Before the loops run. Blocking. 0 or -errno. */
int aoe_string_load(struct aoe_disk *disk);

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

struct aoe_port {
	struct aoe *aoe;
	struct list link;     /* in aoe->ports */
	struct packet packet; /* closed while there is no such interface; `mac` is as it is now */
	struct list places;
	struct list out; /* answers */
	bool flush_queued, blocked;
	uint8_t *rooms; /* for what comes in: AOE_RX_BATCH of AOE_ROOM each */
	struct loop_msg flush;
	/* link.c */
	unsigned sectors;        /* of one ATA command, at most, as clients are told */
	unsigned fits;           /* what they are not told, since it is no whole block */
	unsigned sectors_before; /* what some may still go by, until remembered_ns */
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
/* What is to be read from it now. */
void aoe_port_update(struct aoe_port *port);
void aoe_port_flush(struct aoe_port *port);
/* What waits to be sent. */
void aoe_port_drop(struct aoe_port *port);
bool aoe_is_among(const struct aoe_macs *macs, const uint8_t mac[AOE_MAC_LEN]);

/* link.c: before the loops run. 0 or -errno: of packet_open(); -EEXIST: another port has it by another
 * name. */
int aoe_link_init(struct aoe_port *port, const char *interface);
/* Sectors of one ATA command that is served; what was advertised before the MTU changed is, too, for a
 * while, unless it is a read whose answer does not fit. */
unsigned aoe_port_limit(const struct aoe_port *port, bool to_disk);
void aoe_links_start(struct aoe *aoe);
void aoe_links_stop(struct aoe *aoe);
/* probe.c: asks for all places that are not served; `done` is not called on an earlier stack, unless
 * err != 0. Then `taken` says which somebody else has. */
void aoe_probe_init(struct aoe_port *port);
void aoe_probe_start(struct aoe_port *port, struct loop *loop,
		     void (*done)(struct aoe_port *port, int err));
void aoe_probe_stop(struct aoe_port *port); /* `done` does not come any more */

struct aoe_check;

struct aoe {
	struct loop_set *set;
	struct loop *loop;
	const struct log *log;
	struct link_watch links;
	struct aoe_check *check;
	uint64_t number; /* of this process among others */
	uint64_t dice;
	struct list ports, disks;
	struct loop_msg start, stop, stopped;
	unsigned nattaching, ntasks;
	bool started, stopping, is_stopped;
	void (*when_stopped)(void *arg);
	void *arg;
};

/* One thing less is under way: stopped when that was the last one. */
void aoe_settle(struct aoe *aoe);

#endif
