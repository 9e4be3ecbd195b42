/*
 * What the files of this folder share: the server, its ports, its disks, the places of disks at ports,
 * and a frame's task.
 *
 * All of it lives on one loop, since what comes to one disk by several interfaces has an order. The
 * lists of ports, disks and places are built before the loops run and then only read.
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
struct aoe_late;

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
	struct aoe_late *late;
	struct aoe_string string;
	bool changes_string; /* and has a task for that */
};

/* A disk at a port. */
struct aoe_place {
	struct aoe_port *port;
	struct list link; /* in port->places */
	struct aoe_disk *disk;
	struct aoe_export export;
};

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
void aoe_announce(struct aoe_place *place);
/* Before the loops run. Blocking. 0 or -errno. */
int aoe_string_load(struct aoe_disk *disk);

/* ---- Ports and the server ---- */

struct aoe_port {
	struct aoe *aoe;
	struct list link; /* in aoe->ports */
	struct packet packet;
	struct list places;
	struct list out; /* answers */
	bool flush_queued, blocked;
	unsigned sectors; /* of one ATA command, at most, as clients were told last */
	uint8_t *rooms;   /* for what comes in: AOE_RX_BATCH of AOE_ROOM each */
	struct loop_msg flush;
};

void aoe_port_init(struct aoe_port *port);
/* What is to be read from it now. */
void aoe_port_update(struct aoe_port *port);
void aoe_port_flush(struct aoe_port *port);
/* Sectors of one ATA command, by the MTU of the moment; at least 1. Good until it is said anew. */
unsigned aoe_port_look(struct aoe_port *port);
bool aoe_is_among(const struct aoe_macs *macs, const uint8_t mac[AOE_MAC_LEN]);

struct aoe {
	struct loop_set *set;
	struct loop *loop;
	const struct log *log;
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
