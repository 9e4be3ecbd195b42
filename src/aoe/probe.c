/*
 * Before a place is served everybody is asked whether somebody else serves its shelf and slot, as IPv4
 * does with addresses (RFC 5227): two disks of one name are data lost.
 *
 *   ask all places -> 100 ms -> again -> 100 ms -> again -> 100 ms -> done: what nobody answered for is free
 *
 * The question is the query that any client asks, so any target answers, and one that serves defends its
 * place. Its string, which means nothing in a query, says that it is a question of this kind, and whose:
 * of two that ask at a time, the one with the higher number yields. Who answers listed clients only is not
 * found.
 *
 * A machine does not hear what itself sends. So among its processes a place is whose claim there is: first a
 * place is claimed, then it is asked for. A claim is kept until the interface is gone, be its link down or
 * the place a rival's.
 */
#include "aoe/impl.h"

#include <string.h>

#define TRIES    3
#define WAIT_NS  UINT64_C(100000000)
#define ROOM     2048 /* the longest answer has 1056 bytes */
#define RX_TURN  64   /* frames */
#define TX_BATCH 32

static const char mark[8] = {'s', 'p', 'i', 'n', 'd', 'l', 'e', '?'};

struct question {
	struct aoe_head head;
	struct aoe_query query;
	char mark[sizeof(mark)];
	be64 asker;
	uint8_t padding[12];
};

_Static_assert(sizeof(struct question) == AOE_FRAME_MIN, "sent as it is");

/* ---- On this machine ---- */

#define CLAIM_NAME 64

static const char *claim_name(char out[CLAIM_NAME], const struct aoe_place *place)
{
	str_format(out, CLAIM_NAME, "spindle-aoe/%d/%u.%u", place->port->packet.index,
		   place->export.shelf, place->export.slot);
	return out;
}

/* 0 also when another process has it. */
static int claim(struct aoe_place *place)
{
	char name[CLAIM_NAME];
	int fd;

	place->taken = place->rival_here = false;
	if (place->claim >= 0)
		return 0;
	fd = claim_open(claim_name(name, place));
	place->claim = fd >= 0 ? fd : -1;
	place->taken = place->rival_here = fd == -EADDRINUSE;
	return fd >= 0 || place->taken ? 0 : fd;
}

static int claim_all(struct aoe_port *port)
{
	int err = 0;

	list_for_each (pos, &port->places)
		if (err == 0)
			err = claim(list_entry(pos, struct aoe_place, link));
	return err;
}

void aoe_probe_forget(struct aoe_port *port)
{
	list_for_each (pos, &port->places) {
		struct aoe_place *place = list_entry(pos, struct aoe_place, link);

		claim_close(place->claim);
		place->claim = -1;
	}
}

/* ---- Out ---- */

static bool is_asked(const struct aoe_place *place)
{
	return !place->served && !place->taken;
}

static struct question question_of(const struct aoe_place *place)
{
	struct question q = {.head = {.ethertype = be16_of(AOE_ETHERTYPE),
				      .flags = AOE_VERSION << 4,
				      .shelf = be16_of(place->export.shelf),
				      .slot = place->export.slot,
				      .command = AOE_QUERY,
				      .tag = {0x80}}, /* Linux leaves this bit to others */
			     .query = {.command = AOE_VERSION << 4 | AOE_QUERY_READ,
				       .len = be16_of(sizeof(q.mark) + sizeof(q.asker))},
			     .asker = be64_of(place->port->aoe->number)};

	memset(q.head.to, 0xff, sizeof(q.head.to));
	memcpy(q.head.from, place->port->packet.mac, sizeof(q.head.from));
	memcpy(q.mark, mark, sizeof(q.mark));
	return q;
}

/* What there is no room for is asked the next time. */
static void ask(struct aoe_port *port)
{
	struct question questions[TX_BATCH];
	struct packet_frame frames[TX_BATCH];
	unsigned n = 0;

	list_for_each (pos, &port->places) {
		const struct aoe_place *place = list_entry(pos, struct aoe_place, link);

		if (!is_asked(place))
			continue;
		questions[n] = question_of(place);
		frames[n] = (struct packet_frame){.data = (void *)&questions[n],
						  .len = sizeof(questions[n])};
		if (++n < TX_BATCH)
			continue;
		(void)packet_send(&port->probe.packet, frames, n);
		n = 0;
	}
	if (n != 0)
		(void)packet_send(&port->probe.packet, frames, n);
}

/* ---- In ---- */

static bool is_ours(const struct aoe *aoe, const uint8_t mac[AOE_MAC_LEN])
{
	list_for_each (pos, &aoe->ports) {
		const struct packet *p = &list_entry(pos, struct aoe_port, link)->packet;

		if (packet_is_open(p) && memcmp(p->mac, mac, AOE_MAC_LEN) == 0)
			return true;
	}
	return false;
}

/* Somebody asks for it as we do, and goes first. */
static bool is_prior(const struct question *q, uint64_t ours)
{
	return be16_get(q->query.len) == sizeof(q->mark) + sizeof(q->asker) &&
	       memcmp(q->mark, mark, sizeof(mark)) == 0 && be64_get(q->asker) < ours;
}

static void heard(struct packet *packet, const uint8_t *frame, uint32_t len)
{
	struct aoe_probe *probe = container_of(packet, struct aoe_probe, packet);
	struct aoe_port *port = container_of(probe, struct aoe_port, probe);
	const struct question *q = (const void *)frame;
	const struct aoe_head *h = &q->head;

	if (len < sizeof(*h) || is_ours(port->aoe, h->from))
		return;
	if ((h->flags & AOE_RESPONSE) == 0 && (len < sizeof(*q) || !is_prior(q, port->aoe->number)))
		return;
	list_for_each (pos, &port->places) {
		struct aoe_place *place = list_entry(pos, struct aoe_place, link);

		if (!is_asked(place) || be16_get(h->shelf) != place->export.shelf ||
		    h->slot != place->export.slot)
			continue;
		place->taken = true;
		memcpy(place->rival, h->from, sizeof(place->rival));
	}
}

static void ready(struct packet *packet, unsigned events)
{
	packet_recv(packet, RX_TURN);
}

/* ---- Life ---- */

static void end(struct aoe_port *port, int err)
{
	aoe_probe_stop(port);
	port->probe.done(port, err);
}

static void next(struct loop_timer *timer)
{
	struct aoe_probe *probe = container_of(timer, struct aoe_probe, timer);
	struct aoe_port *port = container_of(probe, struct aoe_port, probe);
	int err = 0;

	if (probe->tries < TRIES) {
		probe->tries++;
		ask(port);
		err = loop_timer_start(&probe->timer, WAIT_NS);
		if (err == 0)
			return;
	}
	end(port, err);
}

void aoe_probe_start(struct aoe_port *port, struct loop *loop,
		     void (*done)(struct aoe_port *port, int err))
{
	const struct packet_config config = {.interface = port->packet.interface,
					     .frame_max = ROOM,
					     .frames = RX_TURN,
					     .ethertype = AOE_ETHERTYPE,
					     .mask_at = AOE_COMMAND_AT,
					     .mask_bits = 0xff,
					     .mask_value = AOE_QUERY};
	struct aoe_probe *probe = &port->probe;
	int err;

	probe->done = done;
	probe->runs = true;
	probe->tries = 0;
	loop_timer_init(&probe->timer, loop, next);
	err = claim_all(port);
	if (err == 0)
		err = packet_open(&probe->packet, loop, &config);
	if (err == 0)
		err = packet_want(&probe->packet, STREAM_IN);
	if (err == 0)
		err = loop_timer_start(&probe->timer, 0);
	if (err != 0)
		end(port, err);
}

void aoe_probe_stop(struct aoe_port *port)
{
	if (!port->probe.runs)
		return;
	loop_timer_stop(&port->probe.timer);
	packet_close(&port->probe.packet);
	port->probe.runs = false;
}

void aoe_probe_init(struct aoe_port *port)
{
	port->probe.packet.ready = ready;
	port->probe.packet.frame = heard;
}

/* ---- Before anything is served: on a loop that does only this ---- */

struct aoe_check {
	struct loop_msg begin;
	struct aoe *aoe;
	struct loop_set *set;
	unsigned asking;
	int err;
};

static void check_settle(struct aoe_check *c)
{
	if (--c->asking == 0)
		loop_set_stop(c->set);
}

static void checked(struct aoe_port *port, int err)
{
	struct aoe_check *c = port->aoe->check;

	c->err = c->err != 0 ? c->err : err;
	check_settle(c);
}

static void check_begin(struct loop_msg *msg)
{
	struct aoe_check *c = container_of(msg, struct aoe_check, begin);

	c->asking = 1;
	list_for_each (pos, &c->aoe->ports) {
		struct aoe_port *port = list_entry(pos, struct aoe_port, link);

		if (!port->up)
			continue;
		c->asking++;
		aoe_probe_start(port, loop_set_at(c->set, 0), checked);
	}
	check_settle(c);
}

const char *aoe_rival_text(char out[AOE_RIVAL_TEXT], const struct aoe_place *place)
{
	if (place->rival_here)
		str_copy(out, AOE_RIVAL_TEXT, "another process on this machine");
	else
		aoe_mac_text(out, place->rival);
	return out;
}

static int about_rival(const struct aoe_place *place, struct diag *d)
{
	const struct aoe_export *e = &place->export;
	char rival[AOE_RIVAL_TEXT], name[CLAIM_NAME];

	diag_set(d, -EADDRINUSE, "there is a disk %u.%u on %s already: %s %s", e->shelf, e->slot,
		 e->interface, aoe_rival_text(rival, place),
		 place->rival_here ? "has it" : "answers for it");
	if (place->rival_here)
		diag_fix(d,
			 "choose another shelf or slot, or stop that process (ss -xap | grep %s)",
			 claim_name(name, place));
	else
		diag_fix(d,
			 "choose another shelf or slot, or stop what serves it there (aoeping %u "
			 "%u %s)",
			 e->shelf, e->slot, e->interface);
	return -EADDRINUSE;
}

static int about_asking(int err, struct diag *d)
{
	diag_set(d, err, "cannot ask who is there by ATA over Ethernet: %s", strerror(-err));
	if (err == -EMFILE)
		diag_fix(d, "raise the limit on open files (ulimit -n)");
	return err;
}

static int check_places(const struct aoe *aoe, struct diag *d)
{
	list_for_each (p, &aoe->ports) {
		const struct aoe_port *port = list_entry(p, struct aoe_port, link);

		list_for_each (pos, &port->places) {
			struct aoe_place *place = list_entry(pos, struct aoe_place, link);

			if (place->taken)
				return about_rival(place, d);
			place->served = port->up;
		}
	}
	return 0;
}

int aoe_check(struct aoe *aoe, struct diag *d)
{
	const struct loop_config config = {
		.nloops = 1, .disk_engine = LOOP_DISK_WORKERS, .memory_bytes = LOOP_MEMORY_MIN};
	struct aoe_check c = {.begin = {.run = check_begin}, .aoe = aoe};
	int err;

	if (list_empty(&aoe->ports))
		return 0;
	err = loop_set_create(&c.set, &config, d);
	if (err != 0)
		return err;
	aoe->check = &c;
	loop_post(loop_set_at(c.set, 0), &c.begin);
	err = loop_set_run(c.set);
	aoe->check = NULL;
	loop_set_destroy(c.set);
	if (err == 0)
		err = c.err;
	if (err != 0)
		return about_asking(err, d);
	return check_places(aoe, d);
}
