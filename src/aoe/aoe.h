/*
 * aoe: ATA over Ethernet (AoEr11) as a transport: frames on an interface <-> I/O of units.
 * May use: base, loop, store, bdev, unit. May be used by: daemon.
 *
 * An interface has a port; a disk may be at several, with the same shelf and slot or others. A client
 * finds it by a broadcast, and takes what answers on several interfaces for several paths to one disk.
 * All ports are on one loop.
 */
#ifndef SPINDLE_AOE_H
#define SPINDLE_AOE_H

#include "unit/unit.h"

struct aoe;

#define AOE_MACS_MAX    255
#define AOE_BUFFERS_MAX 256

/* Ethernet addresses; owned by whoever has made the list. */
struct aoe_macs {
	uint8_t (*v)[PACKET_MAC_LEN];
	size_t n;
	bool all; /* everybody, whoever is listed */
};

/* One disk at one interface. */
struct aoe_export {
	const char *interface;
	uint16_t shelf; /* 0 to 65534, but 4095, which Linux takes for all of them */
	uint8_t slot;   /* 0 to 254 */
	bool writeback; /* a write may be answered before it is durable */
	bool xdp; /* short frames come and go by AF_XDP; alike for all exports of an interface */
	/* How many requests a client may have under way, as it is told; up to AOE_BUFFERS_MAX, 0: 64. */
	uint16_t buffers;
	/* Who is answered, of those on the disk's mask list; none: everybody. Who may set what is kept with the
	 * disk; none: nobody. */
	struct aoe_macs allowed, admins;
};

/* Of "52:54:00:12:34:56", with or without colons. 0 or -EINVAL. */
int aoe_mac_parse(uint8_t out[PACKET_MAC_LEN], const char *text);

/* Before the loops run. 0 or -errno. */
int aoe_create(struct aoe **out, struct loop_set *set, const struct log *log);
/* Before the loops run. Opens the interface, which may be down, when it is the first export there, and follows
 * it from then on; what `export` points to is copied. The unit outlives the aoe. -EINVAL (also: shelf and slot
 * are taken there, or another disk's elsewhere), -ENODEV, -EPERM and others of packet_open(), with a diag. */
int aoe_add(struct aoe *aoe, struct unit *unit, const struct aoe_export *export, struct diag *d);
/* Behind the last aoe_add(): asks for 0.3 s whether somebody else serves one of the places. -EADDRINUSE and
 * others, with a diag. Without it, that is asked when the loops run. */
int aoe_check(struct aoe *aoe, struct diag *d);
/* Before the loops run: serves as soon as they do, and tells everybody that the disks are there. */
void aoe_start(struct aoe *aoe);
/* On loop 0: the log gets what the interfaces have counted. */
void aoe_tell(struct aoe *aoe);
/* On loop 0: no new frames; `stopped` runs on loop 0 when what came before is answered. */
void aoe_stop(struct aoe *aoe, void (*stopped)(void *arg), void *arg);
/* Stopped, or the loops never ran. NULL is fine. */
void aoe_destroy(struct aoe *aoe);

#endif
