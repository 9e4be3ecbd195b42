/*
 * Fuzz: frames of ATA over Ethernet, on simulated loops, with an interface that is this file's: two
 * ports of one disk, and what they send is judged as a client would.
 *
 * An input is a byte of options, one that is the seed, and frames. A frame is a byte of flags, two bytes
 * that say how many follow, and these: the frame behind its ethertype. The harness says from whom and to
 * whom it is.
 */
#include <stdlib.h>

#include "aoe/aoe.h"
#include "fuzz.h"
#include "loop/sim.h"

enum options {
	OPT_READ_ONLY = 0x01,
	OPT_WRITEBACK = 0x02,
	OPT_VOLATILE = 0x04,
	OPT_SLOW = 0x08,  /* a write or a discard takes its time, so that others meet it */
	OPT_MASKS = 0x10, /* only the first client is answered */
	OPT_JUMBO = 0x20,
	OPT_FULL = 0x40,    /* now and then nothing can be sent */
	OPT_CLAIMED = 0x80, /* every other time another process has the place */
};

enum flags {
	FRAME_OTHER_CLIENT = 0x01,
	FRAME_OTHER_PORT = 0x02,
	FRAME_NO_WAIT = 0x04,
	/* Before it: */
	FRAME_GOES = 0x08,  /* its interface is gone, or is made anew */
	FRAME_FLAPS = 0x10, /* the link goes and comes */
	FRAME_MTU = 0x20,   /* its MTU is the other one */
	FRAME_RIVAL = 0x40, /* it is for who asks who else is there */
};

#define PORTS     2
#define FRAMES    64
#define STEPS_MAX UINT64_C(1000000)
#define SHELF     1
#define SLOT      2

/* The interfaces: what loop/packet.c and link.c would do. */
static struct wire {
	struct packet *ports[PORTS], *askers[PORTS];
	struct link_watch *watch;
	struct {
		bool gone;
		int index, claimed; /* which one then; 0: it is not */
		unsigned mtu;
	} links[PORTS];
	uint8_t frame[16384];
	uint32_t len; /* of the frame that waits; 0: none */
	uint8_t options;
	unsigned sends, claims;
} wire;

int packet_open(struct packet *p, struct loop *loop, const struct packet_config *config)
{
	const unsigned i = config->interface[0] == 'b';
	const bool asks = config->mask_at == 19;

	CHECK(config->ethertype == 0x88a2);
	CHECK(asks || (config->mask_at == 14 && config->mask_bits == 8 && config->mask_value == 0));
	p->fd = -1;
	if (wire.links[i].gone)
		return -ENODEV;
	p->loop = loop;
	p->fd = 0;
	p->wanted = 0;
	p->index = wire.links[i].index;
	memset(p->mac, 0x20 + (int)i, sizeof(p->mac));
	str_copy(p->interface, sizeof(p->interface), i == 1 ? "b" : "a");
	*(asks ? &wire.askers[i] : &wire.ports[i]) = p;
	return 0;
}

void packet_close(struct packet *p)
{
	p->fd = -1;
}

int packet_want(struct packet *p, unsigned wanted)
{
	if (p->fd != 0)
		return -ENETDOWN;
	p->wanted = wanted;
	return 0;
}

int packet_add_key(struct packet *p, const uint8_t key[PACKET_KEY_LEN])
{
	return 0;
}

int packet_follow_address(struct packet *p, const uint8_t mac[PACKET_MAC_LEN])
{
	memcpy(p->mac, mac, PACKET_MAC_LEN);
	return 0;
}

int link_watch_open(struct link_watch *w, struct loop *loop)
{
	w->loop = loop;
	w->fd = 0;
	wire.watch = w;
	return 0;
}

void link_watch_close(struct link_watch *w)
{
	w->fd = -1;
}

int link_look(const struct link_watch *w, const char *name, struct link_facts *out)
{
	const unsigned i = name[0] == 'b';

	CHECK(w->fd == 0);
	if (wire.links[i].gone)
		return -ENODEV;
	*out = (struct link_facts){
		.index = wire.links[i].index, .mtu = wire.links[i].mtu, .up = true};
	memset(out->mac, 0x20 + (int)i, sizeof(out->mac));
	return 0;
}

/* Of an interface that is there. */
int claim_open(const char *name)
{
	char *rest;
	const int index = (int)strtol(name + strlen("spindle-aoe/"), &rest, 10);
	const int i = (index - 1) % PORTS;

	CHECK(strncmp(name, "spindle-aoe/", strlen("spindle-aoe/")) == 0 &&
	      strcmp(rest, "/1.2") == 0);
	CHECK(index == wire.links[i].index && wire.links[i].claimed == 0);
	if ((wire.options & OPT_CLAIMED) != 0 && ++wire.claims % 2 != 0)
		return -EADDRINUSE;
	wire.links[i].claimed = index;
	return i;
}

void claim_close(int fd)
{
	if (fd < 0)
		return;
	CHECK(wire.links[fd].claimed != 0);
	wire.links[fd].claimed = 0;
}

uint64_t packet_lost(struct packet *p)
{
	return 0;
}

unsigned packet_recv(struct packet *p, unsigned n)
{
	const uint32_t len = wire.len;

	CHECK(p->fd == 0 && n > 0);
	if (len == 0)
		return 0;
	wire.len = 0;
	p->frame(p, wire.frame, len);
	return 1;
}

/* What is no error says how much follows. */
static void judge_argument(const uint8_t *f, uint32_t len)
{
	switch (f[19]) {
	case 0:
		CHECK((f[27] & 0x40) != 0 && ((f[27] & 1) != 0) == (f[25] != 0));
		break;
	case 1:
		CHECK(32u + load_be16(f + 30) <= len && f[28] >= 1);
		break;
	case 2:
		CHECK(f[26] <= 3 && len <= 1514 && (f[26] != 0 || 28u + 8u * f[27] <= len));
		break;
	default:
		CHECK(f[19] == 3 && len <= 1514 && 26u + 6u * f[25] <= len);
	}
}

static void judge(const struct packet *p, const uint8_t *f, uint32_t len)
{
	const bool is_error = (f[14] & 4) != 0;

	CHECK(len >= 60);
	CHECK(memcmp(f + 6, p->mac, 6) == 0 && load_be16(f + 12) == 0x88a2);
	CHECK(f[14] == (is_error ? 0x1c : 0x18) && is_error == (f[15] != 0) && f[15] <= 6);
	CHECK(load_be16(f + 16) == SHELF && f[18] == SLOT);
	if (!is_error)
		judge_argument(f, len);
}

static void judge_question(const uint8_t *f, uint32_t len)
{
	CHECK(len == 60 && f[14] == 0x10 && f[19] == 1);
	CHECK(load_be16(f + 16) == SHELF && f[18] == SLOT);
}

int packet_send(struct packet *p, const struct packet_frame *frames, unsigned n)
{
	const unsigned i = p->interface[0] == 'b';

	CHECK(n > 0);
	if (p->fd != 0)
		return -ENETDOWN;
	CHECK(wire.links[i].claimed == p->index);
	if (p == wire.askers[i]) {
		judge_question(frames[0].data, frames[0].len);
		return 1;
	}
	if ((wire.options & OPT_FULL) != 0 && ++wire.sends % 3 == 0)
		return -EAGAIN;
	if (frames[0].len > 14 + wire.links[i].mtu)
		return -EMSGSIZE;
	judge(p, frames[0].data, frames[0].len);
	return 1;
}

/* ---- The world ---- */

struct world {
	struct loop_set *set;
	struct unit *unit;
	struct aoe *aoe;
	bool stopped, arrived;
	struct loop_msg msg;
	unsigned port;
	uint8_t flags;
};

static const uint8_t clients[2][6] = {{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}};

static void disk_open(struct world *w)
{
	static const struct store_type *const types[] = {&store_ram, &store_fault, NULL};
	const struct store_config sc = {.read_only = (wire.options & OPT_READ_ONLY) != 0};
	const struct bdev_config bc = {.block_size = 512, .read_only = sc.read_only};
	const struct unit_identity id = {.serial = "x"};
	const char *spec = (wire.options & OPT_SLOW) != 0
				   ? "fault:rule=write;delay=1ms,rule=discard;delay=1ms:ram:1M"
			   : (wire.options & OPT_VOLATILE) != 0 ? "fault:volatile=on:ram:1M"
								: "ram:1M";
	struct store *store;
	struct bdev *bdev;

	CHECK(store_open(&store, w->set, types, spec, &sc, NULL) == 0);
	CHECK(bdev_create(&bdev, store, &bc, NULL) == 0);
	CHECK(unit_create(&w->unit, w->set, bdev, &id, 0) == 0);
}

static void world_open(struct world *w, uint8_t seed)
{
	uint8_t allowed[1][6];
	struct aoe_export e = {
		.shelf = SHELF, .slot = SLOT, .writeback = (wire.options & OPT_WRITEBACK) != 0};

	memcpy(allowed[0], clients[0], sizeof(allowed[0]));
	e.admins = (struct aoe_macs){.v = allowed, .n = 1};
	if ((wire.options & OPT_MASKS) != 0)
		e.allowed = e.admins;
	*w = (struct world){0};
	CHECK(sim_create(&w->set, 2, seed) == 0);
	disk_open(w);
	CHECK(aoe_create(&w->aoe, w->set, NULL) == 0);
	e.interface = "a";
	CHECK(aoe_add(w->aoe, w->unit, &e, NULL) == 0);
	e.interface = "b";
	CHECK(aoe_add(w->aoe, w->unit, &e, NULL) == 0);
	aoe_start(w->aoe);
	CHECK(sim_run(w->set, STEPS_MAX) < STEPS_MAX);
}

static void stopped(void *arg)
{
	struct world *w = arg;

	w->stopped = true;
}

static void stop(struct loop_msg *msg)
{
	struct world *w = container_of(msg, struct world, msg);

	aoe_stop(w->aoe, stopped, w);
}

static void world_close(struct world *w)
{
	w->msg.run = stop;
	loop_post(loop_set_at(w->set, 0), &w->msg);
	CHECK(sim_run(w->set, STEPS_MAX) < STEPS_MAX);
	CHECK(w->stopped);
	aoe_destroy(w->aoe);
	for (unsigned i = 0; i < PORTS; i++)
		CHECK(wire.links[i].claimed == 0);
	for (unsigned i = 0; i < 2; i++)
		CHECK(loop_memory_used(loop_set_at(w->set, i)) == 0);
	unit_destroy(w->unit);
	loop_set_destroy(w->set);
}

/* ---- Frames ---- */

static void change_links(const struct world *w)
{
	const int index = wire.links[w->port].index;

	if ((w->flags & FRAME_GOES) != 0) {
		wire.links[w->port].gone = !wire.links[w->port].gone;
		wire.links[w->port].index += PORTS;
	}
	if ((w->flags & FRAME_MTU) != 0)
		wire.links[w->port].mtu = wire.links[w->port].mtu == 1500 ? 9000 : 1500;
	if ((w->flags & FRAME_FLAPS) != 0)
		wire.watch->down(wire.watch, index);
	if ((w->flags & (FRAME_GOES | FRAME_MTU | FRAME_FLAPS)) != 0)
		wire.watch->changed(wire.watch);
}

static void arrive(struct loop_msg *msg)
{
	struct world *w = container_of(msg, struct world, msg);
	struct packet *p =
		(w->flags & FRAME_RIVAL) != 0 ? wire.askers[w->port] : wire.ports[w->port];

	w->arrived = true;
	change_links(w);
	if (p == NULL || p->fd != 0 || (p == wire.askers[w->port] && wire.frame[19] != 1))
		return;
	if ((p->wanted & STREAM_IN) != 0)
		p->ready(p, STREAM_IN);
	if ((p->wanted & STREAM_OUT) != 0)
		p->ready(p, STREAM_OUT);
}

/* Events of sockets come on their loop: the last one. */
static void deliver(struct world *w, unsigned port)
{
	w->port = port;
	w->msg.run = arrive;
	w->arrived = false;
	loop_post(loop_set_at(w->set, 1), &w->msg);
	while (!w->arrived)
		CHECK(sim_step(w->set));
}

static bool next_frame(struct reader *r, struct world *w)
{
	uint8_t flags;
	const uint8_t *rest;
	size_t got;

	if (reader_left(r) < 3)
		return false;
	flags = read_u8(r);
	rest = fuzz_bytes(r, min_u64(read_be16(r), sizeof(wire.frame) - 14), &got);
	w->port = (flags & FRAME_OTHER_PORT) != 0;
	w->flags = flags;
	memcpy(wire.frame, wire.ports[w->port]->mac, 6);
	memcpy(wire.frame + 6, clients[(flags & FRAME_OTHER_CLIENT) != 0], 6);
	store_be16(wire.frame + 12, 0x88a2);
	memcpy(wire.frame + 14, rest, got);
	/* The filter takes what has no flags. */
	wire.len = got > 0 ? low_u32(14 + got) : 0;
	deliver(w, w->port);
	wire.len = 0;
	if ((flags & FRAME_NO_WAIT) == 0)
		CHECK(sim_run(w->set, STEPS_MAX) < STEPS_MAX);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct reader r = reader_of(data, len);
	struct world w;

	memset(&wire, 0, sizeof(wire));
	wire.options = read_u8(&r);
	for (unsigned i = 0; i < PORTS; i++) {
		wire.links[i].index = (int)i + 1;
		wire.links[i].mtu = (wire.options & OPT_JUMBO) != 0 ? 9000 : 1500;
	}
	world_open(&w, read_u8(&r));
	for (unsigned n = 0; n < FRAMES && next_frame(&r, &w); n++) {
	}
	/* What could not be sent goes now. */
	w.flags = 0;
	wire.options &= (uint8_t)~OPT_FULL;
	for (unsigned i = 0; i < PORTS; i++)
		deliver(&w, i);
	world_close(&w);
	return 0;
}
