/*
 * The server: its ports and exports, built before the loops run, and taken apart afterwards.
 */
#include "aoe/impl.h"
#include "aoe/late.h"

#include <stdlib.h>
#include <string.h>

int aoe_mac_parse(uint8_t out[PACKET_MAC_LEN], const char *text)
{
	for (unsigned i = 0; i < PACKET_MAC_LEN; i++) {
		int hi = str_digit(text[0], 16), lo = hi < 0 ? -1 : str_digit(text[1], 16);

		if (lo < 0)
			return -EINVAL;
		out[i] = low_u8((unsigned)(hi << 4 | lo));
		text += 2;
		if (*text == ':' && i + 1 < PACKET_MAC_LEN)
			text++;
	}
	return *text == '\0' ? 0 : -EINVAL;
}

const char *aoe_mac_text(char out[AOE_MAC_TEXT], const uint8_t mac[AOE_MAC_LEN])
{
	str_format(out, AOE_MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
		   mac[3], mac[4], mac[5]);
	return out;
}

/* ---- Start and stop ---- */

void aoe_disk_announce(struct aoe_disk *disk)
{
	list_for_each (p, &disk->aoe->ports)
		list_for_each (pos, &list_entry(p, struct aoe_port, link)->places) {
			struct aoe_place *place = list_entry(pos, struct aoe_place, link);

			if (place->disk == disk)
				aoe_announce(place);
		}
}

uint64_t aoe_disk_sectors(const struct aoe_disk *disk)
{
	return channel_view(disk->attach.channel)->size / AOE_SECTOR;
}

static void update_ports(struct aoe *aoe)
{
	list_for_each (pos, &aoe->ports)
		aoe_port_update(list_entry(pos, struct aoe_port, link));
}

static void attached(struct unit_attach *a, int err)
{
	struct aoe_disk *disk = container_of(a, struct aoe_disk, attach);
	struct aoe *aoe = disk->aoe;

	aoe->nattaching--;
	if (err != 0)
		log_event(aoe->log, LOG_ERROR, "aoe-not-served",
			  F_STR("serial", unit_identity(disk->unit)->serial), F_ERRNO("why", err));
	disk->attached = err == 0;
	if (disk->attached && !aoe->stopping)
		aoe_disk_announce(disk);
	if (aoe->nattaching == 0)
		update_ports(aoe);
	aoe_settle(aoe);
}

static void changed(struct unit_attach *a, unsigned changes, uint64_t origin)
{
	struct aoe_disk *disk = container_of(a, struct aoe_disk, attach);

	if (disk->attached && (changes & UNIT_CHANGED_SIZE) != 0 && !disk->aoe->stopping)
		aoe_disk_announce(disk);
}

static void start(struct loop_msg *msg)
{
	struct aoe *aoe = container_of(msg, struct aoe, start);

	list_for_each (pos, &aoe->disks) {
		struct aoe_disk *disk = list_entry(pos, struct aoe_disk, link);

		disk->served_ns = loop_now_ns(aoe->loop);
		aoe->nattaching++;
		unit_attach(disk->unit, &disk->attach);
	}
	aoe_links_start(aoe);
}

static bool is_idle(const struct aoe *aoe)
{
	if (aoe->ntasks != 0 || aoe->nattaching != 0)
		return false;
	list_for_each (pos, &aoe->ports)
		if (list_entry(pos, struct aoe_port, link)->flush_queued)
			return false;
	return true;
}

void aoe_settle(struct aoe *aoe)
{
	if (!aoe->stopping || aoe->is_stopped || !is_idle(aoe))
		return;
	aoe->is_stopped = true;
	list_for_each (pos, &aoe->ports) {
		struct aoe_port *port = list_entry(pos, struct aoe_port, link);

		aoe_port_log_counts(port, LOG_INFO);
		packet_close(&port->packet);
	}
	list_for_each (pos, &aoe->disks) {
		struct aoe_disk *disk = list_entry(pos, struct aoe_disk, link);

		if (disk->attached)
			unit_detach(&disk->attach);
		loop_share_close(disk->share);
		disk->share = NULL;
	}
	loop_post(loop_set_at(aoe->set, 0), &aoe->stopped);
}

static void stop(struct loop_msg *msg)
{
	struct aoe *aoe = container_of(msg, struct aoe, stop);

	aoe->stopping = true;
	aoe_links_stop(aoe);
	list_for_each (pos, &aoe->ports)
		aoe_port_flush(list_entry(pos, struct aoe_port, link));
	aoe_settle(aoe);
}

static void tell_stopped(struct loop_msg *msg)
{
	struct aoe *aoe = container_of(msg, struct aoe, stopped);

	aoe->when_stopped(aoe->arg);
}

/* Back on loop 0. */
static void told(struct loop_msg *msg)
{
	container_of(msg, struct aoe, tell)->telling = false;
}

/* On the loop of the ports. */
static void tell(struct loop_msg *msg)
{
	struct aoe *aoe = container_of(msg, struct aoe, tell);

	list_for_each (pos, &aoe->ports)
		aoe_port_log_counts(list_entry(pos, struct aoe_port, link), LOG_NOTE);
	msg->run = told;
	loop_post(loop_set_at(aoe->set, 0), msg);
}

void aoe_tell(struct aoe *aoe)
{
	if (aoe->telling)
		return;
	aoe->telling = true;
	aoe->tell.run = tell;
	loop_post(aoe->loop, &aoe->tell);
}

void aoe_start(struct aoe *aoe)
{
	aoe->started = true;
	loop_post(aoe->loop, &aoe->start);
}

void aoe_stop(struct aoe *aoe, void (*stopped)(void *arg), void *arg)
{
	aoe->when_stopped = stopped;
	aoe->arg = arg;
	loop_post(aoe->loop, &aoe->stop);
}

int aoe_create(struct aoe **out, struct loop_set *set, const struct log *log)
{
	struct aoe *aoe = calloc(1, sizeof(*aoe));
	uint64_t number;
	int err = aoe != NULL ? unit_make_nexus_id(&number) : -ENOMEM;

	if (err != 0) {
		free(aoe);
		return err;
	}
	*aoe = (struct aoe){
		.set = set,
		/* Not the one that accepts connections, if there is another. */
		.loop = loop_set_at(set, loop_set_count(set) - 1),
		.log = log,
		.number = number,
		.dice = number,
		.start = {.run = start},
		.stop = {.run = stop},
		.stopped = {.run = tell_stopped},
	};
	list_init(&aoe->ports);
	list_init(&aoe->disks);
	list_init(&aoe->gathering);
	*out = aoe;
	return 0;
}

/* ---- Ports ---- */

/* What is wrong with the interface, however it is used. */
static const struct interface_row {
	int err, is;
	const char *what, *fix;
} interface_rows[] = {
	{-ENODEV, -ENODEV, "there is no such interface", "ip link lists them"},
	{-EPROTONOSUPPORT, -EINVAL, "it is no Ethernet",
	 "ip link lists those that are: link/ether"},
	{-EEXIST, -EEXIST, "it is served by another name", "name it once"},
};

static int about_interface(int err, const char *name, bool xdp, struct diag *d)
{
	static const char said[] = "cannot serve ATA over Ethernet on %s: %s";

	for (size_t i = 0; i < ARRAY_LEN(interface_rows); i++) {
		const struct interface_row *row = &interface_rows[i];

		if (row->err != err)
			continue;
		diag_set(d, row->is, said, name, row->what);
		diag_fix(d, "%s", row->fix);
		return row->is;
	}
	diag_set(d, err, said, name, strerror(-err));
	if (xdp)
		diag_fix(d, "leave out xdp=on: without it CAP_NET_RAW will do");
	else if (err == -EPERM)
		diag_fix(d, "run it as root, or give it the right alone: setcap cap_net_raw+ep "
			    "$(command -v spindle)");
	return err;
}

static void port_free(struct aoe_port *port)
{
	packet_close(&port->packet);
	packet_close(&port->probe.packet);
	free(port);
}

static int port_create(struct aoe_port **out, struct aoe *aoe, const char *interface, bool xdp,
		       struct diag *d)
{
	struct aoe_port *port = calloc(1, sizeof(*port));
	int err;

	if (port == NULL)
		return diag_set(d, -ENOMEM, "out of memory");
	port->aoe = aoe;
	aoe_port_init(port);
	err = aoe_link_init(port, interface, xdp);
	if (err != 0) {
		port_free(port);
		return about_interface(err, interface, xdp, d);
	}
	list_push_back(&aoe->ports, &port->link);
	*out = port;
	return 0;
}

static int port_get(struct aoe_port **out, struct aoe *aoe, const struct aoe_export *e,
		    struct diag *d)
{
	list_for_each (pos, &aoe->ports) {
		*out = list_entry(pos, struct aoe_port, link);
		if (strcmp((*out)->packet.interface, e->interface) != 0)
			continue;
		if ((*out)->xdp == e->xdp)
			return 0;
		return diag_set(d, -EINVAL, "%s is used with xdp=on and without", e->interface);
	}
	return port_create(out, aoe, e->interface, e->xdp, d);
}

/* ---- Disks ---- */

static void disk_free(struct aoe_disk *disk)
{
	loop_share_close(disk->share);
	aoe_lists_free(disk);
	aoe_late_destroy(disk->late);
	free(disk);
}

static int disk_create(struct aoe_disk **out, struct aoe *aoe, struct unit *unit)
{
	struct aoe_disk *disk = calloc(1, sizeof(*disk));
	int err;

	if (disk == NULL)
		return -ENOMEM;
	disk->aoe = aoe;
	disk->unit = unit;
	disk->attach =
		(struct unit_attach){.loop = aoe->loop, .attached = attached, .changed = changed};
	list_init(&disk->flights);
	list_init(&disk->gathers);
	disk->share = loop_share_create(aoe->loop);
	disk->late = aoe_late_create();
	err = disk->share != NULL && disk->late != NULL ? unit_make_nexus_id(&disk->attach.nexus_id)
							: -ENOMEM;
	if (err == 0)
		err = aoe_string_load(disk);
	if (err == 0)
		err = aoe_smart_load(disk);
	if (err == 0)
		err = aoe_lists_load(disk);
	if (err != 0) {
		disk_free(disk);
		return err;
	}
	list_push_back(&aoe->disks, &disk->link);
	*out = disk;
	return 0;
}

static int disk_get(struct aoe_disk **out, struct aoe *aoe, struct unit *unit)
{
	list_for_each (pos, &aoe->disks) {
		*out = list_entry(pos, struct aoe_disk, link);
		if ((*out)->unit == unit)
			return 0;
	}
	return disk_create(out, aoe, unit);
}

/* ---- Places ---- */

static int check_export(struct unit *unit, const struct aoe_export *export, struct diag *d)
{
	if (export->shelf == AOE_SHELF_ALL || export->shelf == AOE_SHELF_LINUX ||
	    export->slot == AOE_SLOT_ALL) {
		diag_set(d, -EINVAL, "%u.%u is no shelf and slot of one disk", export->shelf,
			 export->slot);
		diag_fix(d, "shelves are 0 to 65534 without 4095, slots 0 to 254");
		return -EINVAL;
	}
	if (bdev_info(unit_bdev(unit))->block_size != AOE_SECTOR) {
		diag_set(d, -EINVAL, "ATA over Ethernet has sectors of 512 bytes only");
		diag_fix(d, "serve it with --block-size 512, or without --aoe");
		return -EINVAL;
	}
	return 0;
}

/* On another interface it would be another path to the same disk, as clients see it. */
static int check_taken(struct aoe *aoe, const struct aoe_port *port, const struct unit *unit,
		       const struct aoe_export *export, struct diag *d)
{
	list_for_each (p, &aoe->ports)
		list_for_each (pos, &list_entry(p, struct aoe_port, link)->places) {
			const struct aoe_place *other = list_entry(pos, struct aoe_place, link);
			const struct aoe_export *e = &other->export;

			if (e->shelf != export->shelf || e->slot != export->slot ||
			    (other->port != port && other->disk->unit == unit))
				continue;
			return diag_set(d, -EINVAL, "there is a disk %u.%u on %s already", e->shelf,
					e->slot, e->interface);
		}
	return 0;
}

static int copy_macs(struct aoe_macs *out, const struct aoe_macs *from)
{
	out->all = from->all;
	if (from->n == 0)
		return 0;
	out->v = malloc(from->n * sizeof(*out->v));
	if (out->v == NULL)
		return -ENOMEM;
	memcpy(out->v, from->v, from->n * sizeof(*out->v));
	out->n = from->n;
	return 0;
}

static void place_free(struct aoe_place *place)
{
	claim_close(place->claim);
	free(place->export.allowed.v);
	free(place->export.admins.v);
	free(place);
}

static int place_create(struct aoe_port *port, struct unit *unit, const struct aoe_export *export)
{
	struct aoe_place *place = calloc(1, sizeof(*place));
	int err;

	if (place == NULL)
		return -ENOMEM;
	place->port = port;
	place->claim = -1;
	place->export = (struct aoe_export){.interface = port->packet.interface,
					    .shelf = export->shelf,
					    .slot = export->slot,
					    .writeback = export->writeback,
					    .buffers = export->buffers != 0 ? export->buffers
									    : AOE_BUFFERS};
	err = copy_macs(&place->export.allowed, &export->allowed);
	if (err == 0)
		err = copy_macs(&place->export.admins, &export->admins);
	if (err == 0)
		err = aoe_place_wants(place);
	if (err == 0)
		err = disk_get(&place->disk, port->aoe, unit);
	if (err != 0) {
		place_free(place);
		return err;
	}
	list_push_back(&port->places, &place->link);
	place->next = port->of_slot[export->slot];
	port->of_slot[export->slot] = place;
	return 0;
}

int aoe_add(struct aoe *aoe, struct unit *unit, const struct aoe_export *export, struct diag *d)
{
	struct aoe_port *port = NULL;
	int err;

	CHECK(!aoe->started);
	err = check_export(unit, export, d);
	if (err == 0)
		err = port_get(&port, aoe, export, d);
	if (err != 0)
		return err;
	err = check_taken(aoe, port, unit, export, d);
	if (err != 0)
		return err;
	err = place_create(port, unit, export);
	return err == 0 ? 0
			: diag_set(d, err, "cannot serve a disk by ATA over Ethernet: %s",
				   err == -EBADMSG ? "what is kept of it is damaged"
						   : strerror(-err));
}

void aoe_destroy(struct aoe *aoe)
{
	struct list *pos;

	if (aoe == NULL)
		return;
	link_watch_close(&aoe->links);
	while ((pos = list_pop_front(&aoe->ports)) != NULL) {
		struct aoe_port *port = list_entry(pos, struct aoe_port, link);

		while ((pos = list_pop_front(&port->places)) != NULL)
			place_free(list_entry(pos, struct aoe_place, link));
		port_free(port);
	}
	while ((pos = list_pop_front(&aoe->disks)) != NULL)
		disk_free(list_entry(pos, struct aoe_disk, link));
	free(aoe);
}
