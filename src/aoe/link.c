/*
 * A port follows the interface of its name, whichever that is:
 *
 *   GONE --there is one--> DOWN --link up--> ASKING (probe.c) --nobody else--> UP
 *     ^                     ^ ^                |                                |
 *     '------ no more ------' '----------------'----------- link down ----------'
 *
 * What its address and MTU are is used at once. What others are told of it, in the log and by
 * announcements, is how it is then, and not more often than once a second: a link that flaps makes no
 * flood. While a link is UP and one of its places is somebody else's, that is asked for again.
 */
#include "aoe/impl.h"

#include <string.h>

#define S             UINT64_C(1000000000)
#define TELL_NS       S
#define AGAIN_NS      (4 * S)
#define AGAIN_MORE_NS (2 * S)
/* Linux asks once a minute, should it have missed what it was told. */
#define REMEMBERED_NS (60 * S)
#define RX_WAITING    1024 /* frames: the windows of 16 clients */

/* ---- Sectors by MTU ---- */

static unsigned sectors_that_fit(unsigned mtu)
{
	const unsigned n = mtu < AOE_ATA_HEAD ? 0 : (mtu - (unsigned)AOE_ATA_HEAD) / AOE_SECTOR;

	return n < 1 ? 1 : n > AOE_SECTORS_MAX ? AOE_SECTORS_MAX : n;
}

unsigned aoe_port_limit(const struct aoe_port *port, bool to_disk)
{
	if (to_disk && port->fitted > port->fits &&
	    loop_now_ns(port->aoe->loop) < port->remembered_ns)
		return port->fitted;
	return port->fits;
}

static void set_mtu(struct aoe_port *port, unsigned mtu)
{
	const unsigned fits = sectors_that_fit(mtu);

	port->mtu = mtu;
	if (fits == port->fits)
		return;
	port->fitted = aoe_port_limit(port, true);
	port->remembered_ns = loop_now_ns(port->aoe->loop) + REMEMBERED_NS;
	port->fits = fits;
	/* So that what a client splits stays on blocks of 4 KiB. */
	port->sectors = fits > 8 ? (unsigned)align_down(fits, 8) : fits;
}

/* ---- What is told ---- */

static struct aoe_told now_of(const struct aoe_port *port)
{
	struct aoe_told now = {.index = packet_is_open(&port->packet) ? port->packet.index : 0,
			       .up = port->up,
			       .downs = port->downs,
			       .sectors = port->sectors};

	memcpy(now.mac, port->packet.mac, sizeof(now.mac));
	return now;
}

enum change { INDEX = 1, UP = 2, SECTORS = 4, ADDRESS = 8 };

static unsigned changes(const struct aoe_told *a, const struct aoe_told *b)
{
	return (a->index != b->index ? INDEX : 0) |
	       (a->up != b->up || a->downs != b->downs ? UP : 0) |
	       (a->sectors != b->sectors ? SECTORS : 0) |
	       (memcmp(a->mac, b->mac, sizeof(a->mac)) != 0 ? ADDRESS : 0);
}

static void log_changes(const struct aoe_port *port, unsigned changed)
{
	const struct log *log = port->aoe->log;
	const struct log_field name = F_STR("interface", port->packet.interface);
	char mac[AOE_MAC_TEXT];

	if ((changed & INDEX) != 0)
		log_event(log, LOG_WARN,
			  packet_is_open(&port->packet) ? "aoe-interface-back"
							: "aoe-interface-gone",
			  name);
	if ((changed & UP) != 0)
		log_event(log, LOG_WARN, port->up ? "aoe-link-up" : "aoe-link-down", name,
			  F_U64("downs", port->downs));
	if ((changed & SECTORS) != 0)
		log_event(log, LOG_INFO, "aoe-mtu-changed", name, F_U64("sectors", port->sectors));
	if ((changed & ADDRESS) != 0)
		log_event(log, LOG_INFO, "aoe-address-changed", name,
			  F_STR("address", aoe_mac_text(mac, port->packet.mac)));
}

static void tell(struct aoe_port *port)
{
	const struct aoe_told now = now_of(port);

	log_changes(port, changes(&now, &port->told));
	port->told = now;
	port->told_ns = loop_now_ns(port->aoe->loop);
	/* Who asks for its places tells it when that is over. */
	if (!port->tell_all || !port->up || port->probe.runs)
		return;
	port->tell_all = false;
	list_for_each (pos, &port->places)
		aoe_announce(list_entry(pos, struct aoe_place, link));
}

static void tell_now(struct loop_timer *timer)
{
	tell(container_of(timer, struct aoe_port, tell_timer));
}

static void tell_soon(struct aoe_port *port)
{
	const uint64_t now_ns = loop_now_ns(port->aoe->loop), due_ns = port->told_ns + TELL_NS;

	if (loop_timer_running(&port->tell_timer))
		return;
	if (port->told_ns == 0 || now_ns >= due_ns ||
	    loop_timer_start(&port->tell_timer, due_ns - now_ns) != 0)
		tell(port);
}

/* ---- The places of a port ---- */

/* err: why nothing is served until then, or 0: others have some of its places. */
static void again_later(struct aoe_port *port, int err)
{
	struct aoe *aoe = port->aoe;

	if (err != 0 && err != port->why)
		log_event(aoe->log, LOG_ERROR, "aoe-not-served",
			  F_STR("interface", port->packet.interface), F_ERRNO("why", err));
	port->why = err;
	/* Two that met do not meet again and again. */
	aoe->dice = aoe->dice * UINT64_C(6364136223846793005) + 1442695040888963407;
	(void)loop_timer_start(&port->again_timer, AGAIN_NS + (aoe->dice >> 32) % AGAIN_MORE_NS);
}

static void place_decide(struct aoe_place *place)
{
	struct aoe_port *port = place->port;
	const bool told = place->told_taken;
	char name[16], rival[AOE_RIVAL_TEXT];

	place->served = !place->taken;
	place->told_taken = place->taken;
	if (told == place->taken)
		return;
	str_format(name, sizeof(name), "%u.%u", place->export.shelf, place->export.slot);
	if (place->taken)
		log_event(port->aoe->log, LOG_ERROR, "aoe-taken", F_STR("disk", name),
			  F_STR("interface", port->packet.interface),
			  F_STR("by", aoe_rival_text(rival, place)),
			  F_STR("fix", "not served here while that serves it: stop it, or choose "
				       "another shelf or slot"));
	else
		log_event(port->aoe->log, LOG_WARN, "aoe-free", F_STR("disk", name),
			  F_STR("interface", port->packet.interface));
}

static void asked(struct aoe_port *port, int err)
{
	bool again = err != 0;

	list_for_each (pos, &port->places) {
		struct aoe_place *place = list_entry(pos, struct aoe_place, link);

		if (place->served || err != 0)
			continue;
		place_decide(place);
		port->tell_all = port->tell_all || place->served;
		again = again || place->taken;
	}
	port->why = again ? port->why : 0;
	if (again)
		again_later(port, err);
	tell_soon(port);
}

/* Not more often than it is told, either. */
static void ask(struct aoe_port *port)
{
	const uint64_t now_ns = loop_now_ns(port->aoe->loop), due_ns = port->asked_ns + TELL_NS;

	if (port->asked_ns != 0 && now_ns < due_ns &&
	    loop_timer_start(&port->again_timer, due_ns - now_ns) == 0)
		return;
	port->asked_ns = now_ns;
	aoe_probe_start(port, port->aoe->loop, asked);
}

static bool serves_all(const struct aoe_port *port)
{
	list_for_each (pos, &port->places)
		if (!list_entry(pos, struct aoe_place, link)->served)
			return false;
	return true;
}

/* ---- The interface ---- */

static void went_down(struct aoe_port *port)
{
	port->up = false;
	port->downs++;
	loop_timer_stop(&port->again_timer);
	aoe_probe_stop(port);
	list_for_each (pos, &port->places)
		list_entry(pos, struct aoe_place, link)->served = false;
	/* Answers that cannot leave would keep the requests of other paths out. */
	aoe_port_drop(port);
}

static void close_it(struct aoe_port *port)
{
	if (port->up)
		went_down(port);
	packet_close(&port->packet);
	aoe_probe_forget(port);
	aoe_port_drop(port);
}

static bool is_another_ports(const struct aoe_port *port, int index)
{
	list_for_each (pos, &port->aoe->ports) {
		const struct aoe_port *other = list_entry(pos, struct aoe_port, link);

		if (other != port && packet_is_open(&other->packet) && other->packet.index == index)
			return true;
	}
	return false;
}

int aoe_place_wants(struct aoe_place *place)
{
	uint8_t key[PACKET_KEY_LEN];

	store_be16(key, place->export.shelf);
	key[2] = place->export.slot;
	return packet_add_key(&place->port->packet, key);
}

static int port_open(struct aoe_port *port, const char *interface)
{
	const struct packet_config config = {.interface = interface,
					     .frame_max = AOE_FRAME_MAX,
					     .frames = RX_WAITING,
					     .xdp = port->xdp,
					     .ethertype = AOE_ETHERTYPE,
					     .mask_at = AOE_FLAGS_AT,
					     .mask_bits = AOE_RESPONSE,
					     .key_at = AOE_SHELF_AT};
	struct link_facts facts;
	int err = link_look(&port->aoe->links, interface, &facts);

	if (err == 0 && is_another_ports(port, facts.index))
		err = -EEXIST;
	if (err == 0)
		err = packet_open(&port->packet, port->aoe->loop, &config);
	if (err == 0)
		set_mtu(port, facts.mtu);
	list_for_each (pos, &port->places)
		if (err == 0)
			err = aoe_place_wants(list_entry(pos, struct aoe_place, link));
	return err;
}

static void reopen(struct aoe_port *port)
{
	char name[sizeof(port->packet.interface)];
	int err;

	str_copy(name, sizeof(name), port->packet.interface);
	err = port_open(port, name);
	if (err == 0)
		aoe_port_update(port);
	else if (err != -ENODEV)
		again_later(port, err);
}

static void follow_address(struct aoe_port *port, const uint8_t mac[AOE_MAC_LEN])
{
	const int err = packet_follow_address(&port->packet, mac);

	if (err != 0)
		log_event(port->aoe->log, LOG_WARN, "aoe-xdp-ended",
			  F_STR("interface", port->packet.interface), F_ERRNO("why", err));
	port->tell_all = true;
}

static void use(struct aoe_port *port, const struct link_facts *facts)
{
	if (memcmp(port->packet.mac, facts->mac, sizeof(facts->mac)) != 0) {
		follow_address(port, facts->mac);
	}
	set_mtu(port, facts->mtu);
	port->tell_all = port->tell_all || port->sectors != port->told.sectors;
	if (port->up && (!facts->up || port->was_down))
		went_down(port);
	port->up = facts->up;
	if (port->up && !port->probe.runs && !loop_timer_running(&port->again_timer) &&
	    !serves_all(port))
		ask(port);
}

static int look(struct aoe_port *port, struct link_facts *facts)
{
	int err = link_look(&port->aoe->links, port->packet.interface, facts);

	if (packet_is_open(&port->packet) && (err != 0 || facts->index != port->packet.index))
		close_it(port);
	return err;
}

static void follow(struct aoe_port *port)
{
	struct link_facts facts;
	struct aoe_told now;
	int err = look(port, &facts);

	if (err == 0 && !packet_is_open(&port->packet))
		reopen(port);
	if (err == 0 && packet_is_open(&port->packet))
		use(port, &facts);
	port->was_down = false;
	now = now_of(port);
	if (changes(&now, &port->told) != 0)
		tell_soon(port);
}

static void again(struct loop_timer *timer)
{
	follow(container_of(timer, struct aoe_port, again_timer));
}

/* ---- All of them ---- */

static void links_changed(struct link_watch *w)
{
	struct aoe *aoe = container_of(w, struct aoe, links);
	struct link_facts facts;

	if (!aoe->started || aoe->stopping)
		return;
	/* Two may have changed names: first all let go. */
	list_for_each (pos, &aoe->ports)
		(void)look(list_entry(pos, struct aoe_port, link), &facts);
	list_for_each (pos, &aoe->ports)
		follow(list_entry(pos, struct aoe_port, link));
}

static void link_down(struct link_watch *w, int index)
{
	list_for_each (pos, &container_of(w, struct aoe, links)->ports) {
		struct aoe_port *port = list_entry(pos, struct aoe_port, link);

		port->was_down = port->was_down || port->packet.index == index;
	}
}

static int links_open(struct aoe *aoe)
{
	if (aoe->links.loop != NULL)
		return 0;
	aoe->links.changed = links_changed;
	aoe->links.down = link_down;
	return link_watch_open(&aoe->links, aoe->loop);
}

void aoe_links_start(struct aoe *aoe)
{
	list_for_each (pos, &aoe->ports)
		follow(list_entry(pos, struct aoe_port, link));
}

void aoe_links_stop(struct aoe *aoe)
{
	link_watch_close(&aoe->links);
	list_for_each (pos, &aoe->ports) {
		struct aoe_port *port = list_entry(pos, struct aoe_port, link);

		loop_timer_stop(&port->tell_timer);
		loop_timer_stop(&port->again_timer);
		aoe_probe_stop(port);
	}
}

/* How it is now is nothing new, but that the link is down. */
int aoe_link_init(struct aoe_port *port, const char *interface, bool xdp)
{
	struct link_facts facts;
	int err = links_open(port->aoe);

	port->xdp = xdp;
	if (err == 0)
		err = port_open(port, interface);
	if (err == 0)
		err = link_look(&port->aoe->links, interface, &facts);
	if (err != 0)
		return err;
	port->up = facts.up;
	port->told = now_of(port);
	port->told.up = true;
	loop_timer_init(&port->tell_timer, port->aoe->loop, tell_now);
	loop_timer_init(&port->again_timer, port->aoe->loop, again);
	aoe_probe_init(port);
	return 0;
}
