/*
 * What is served and how to reach it, said once when all is ready: as a line of JSON for programs,
 * as lines to paste for people.
 */
#include <errno.h>
#include <ifaddrs.h>
#include <jansson.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/daemon.h"

static void set_port(union net_addr *a, uint16_t port)
{
	if (a->sa.sa_family == AF_INET6)
		a->in6.sin6_port = htons(port);
	else
		a->in4.sin_port = htons(port);
}

/* Another machine can use this address: not loopback, not link-local. */
static bool reaches_far(const struct ifaddrs *i, sa_family_t family)
{
	if (i->ifa_addr == NULL || i->ifa_addr->sa_family != family || !(i->ifa_flags & IFF_UP) ||
	    (i->ifa_flags & IFF_LOOPBACK))
		return false;
	return family != AF_INET6 ||
	       !IN6_IS_ADDR_LINKLOCAL(
		       &((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr);
}

/* Of a portal that listens everywhere, an address that a client can be told. */
static void any_to_own(union net_addr *a)
{
	static const sa_family_t families[] = {AF_INET, AF_INET6};
	/* [::] takes IPv4, too, and IPv4 is what most can paste. */
	size_t nfamilies = a->sa.sa_family == AF_INET6 ? 2 : 1;
	uint16_t port = net_addr_port(a);
	struct ifaddrs *all = NULL;

	getifaddrs(&all);
	for (size_t f = 0; f < nfamilies; f++) {
		for (const struct ifaddrs *i = all; i != NULL; i = i->ifa_next) {
			if (!reaches_far(i, families[f]))
				continue;
			memcpy(a, i->ifa_addr,
			       families[f] == AF_INET ? sizeof(a->in4) : sizeof(a->in6));
			goto out;
		}
	}
	*a = (union net_addr){
		.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
out:
	set_port(a, port);
	freeifaddrs(all);
}

static const char *portal_text(const struct daemon *dm, unsigned index, char buf[NET_ADDR_TEXT])
{
	return net_addr_text(iscsi_portal_addr(dm->iscsi, index), buf);
}

/* Where a client is sent: the first portal. "": there is none. */
static const char *client_portal(const struct daemon *dm, char buf[NET_ADDR_TEXT])
{
	union net_addr addr;

	buf[0] = '\0';
	if (iscsi_portal_count(dm->iscsi) == 0)
		return buf;
	addr = *iscsi_portal_addr(dm->iscsi, 0);
	if (net_addr_is_any(&addr))
		any_to_own(&addr);
	return net_addr_text(&addr, buf);
}

static uint64_t disk_size(const struct disk *disk)
{
	const struct bdev_info *info = bdev_info(unit_bdev(disk->unit));

	return info->nblocks * info->block_size;
}

/* NULL: it is nowhere. */
static json_t *places_json(const struct daemon *dm, size_t index)
{
	json_t *places = dm->nplaces != 0 ? json_array() : NULL;

	for (size_t i = 0; i < dm->nplaces; i++) {
		const struct aoe_export *e = &dm->places[i].export;

		json_array_append_new(places,
				      json_pack("{s:s, s:i, s:i}", "interface", e->interface,
						"shelf", e->shelf, "slot", e->slot + (int)index));
	}
	return places;
}

/* Without iSCSI there is nothing of it. */
static json_t *disk_json(const struct daemon *dm, size_t index, const char *portal)
{
	const struct disk *disk = &dm->disks[index];
	const char *iqn = disk->iqn[0] != '\0' ? disk->iqn : NULL;

	return json_pack("{s:s, s:s*, s:o*, s:I, s:o*, s:o*}", "name", disk->name, "iqn", iqn,
			 "lun", iqn != NULL ? json_integer(0) : NULL, "size",
			 (json_int_t)disk_size(disk), "url",
			 iqn != NULL ? json_sprintf("iscsi://%s/%s/0", portal, iqn) : NULL, "aoe",
			 places_json(dm, index));
}

/* Only where there are any. */
static json_t *users_json(const struct iscsi *iscsi)
{
	json_t *users = json_array();

	for (unsigned i = 0; i < iscsi_chap_count(iscsi); i++)
		json_array_append_new(users, json_string(iscsi_chap_name(iscsi, i)));
	return json_pack("{s:o, s:s?}", "chap", users, "mutual_chap", iscsi_chap_mutual(iscsi));
}

int announce_json(const struct daemon *dm, int fd)
{
	char portal[NET_ADDR_TEXT];
	json_t *portals = json_array(), *disks = json_array(), *all;
	char *line = NULL;
	int err = -ENOMEM;

	for (unsigned i = 0; i < iscsi_portal_count(dm->iscsi); i++)
		json_array_append_new(portals, json_string(portal_text(dm, i, portal)));
	client_portal(dm, portal);
	for (size_t i = 0; i < dm->ndisks; i++)
		json_array_append_new(disks, disk_json(dm, i, portal));
	all = json_pack("{s:i, s:o, s:o}", "pid", (int)getpid(), "portals", portals, "disks",
			disks);
	if (iscsi_chap_count(dm->iscsi) != 0)
		json_object_update_new(all, users_json(dm->iscsi));
	if (all != NULL)
		line = json_dumps(all, JSON_COMPACT);
	if (line != NULL) {
		size_t len = strlen(line);

		/* The newline takes the place of the end: one write. */
		line[len] = '\n';
		err = write_all(fd, line, len + 1);
	}
	free(line);
	json_decref(all);
	return err;
}

static void iscsi_text(FILE *out, const struct disk *disk)
{
	const struct daemon *dm = disk->daemon;
	char portal[NET_ADDR_TEXT];

	if (disk->iqn[0] == '\0')
		return;
	fprintf(out, "export  iscsi   %s    lun 0   ", disk->iqn);
	for (unsigned i = 0; i < iscsi_portal_count(dm->iscsi); i++)
		fprintf(out, " %s", portal_text(dm, i, portal));
	fprintf(out, "\n");
}

static void disk_text(FILE *out, const struct daemon *dm, const struct disk *disk)
{
	const struct bdev_info *info = bdev_info(unit_bdev(disk->unit));
	const struct unit_identity *identity = unit_identity(disk->unit);
	char size[32], spec[256], naa[2 * sizeof(identity->naa) + 1];
	uint64_t bytes = disk_size(disk);

	str_hex(naa, identity->naa, sizeof(identity->naa));
	fprintf(out, "disk    %s    %s (%llu bytes), blocks of %u%s    %s\n", disk->name,
		str_size(size, sizeof(size), bytes), (unsigned long long)bytes, info->block_size,
		info->read_only ? ", read-only" : "", show_text(spec, sizeof(spec), disk->spec));
	fprintf(out, "        naa.%s%s\n", naa,
		disk->identity_renewed ? "    (new: this was a copy of another disk)" : "");
	iscsi_text(out, disk);
	for (size_t i = 0; i < dm->nplaces; i++) {
		const struct aoe_export *e = &dm->places[i].export;

		fprintf(out, "export  aoe     %u.%zu on %s%s\n", e->shelf,
			e->slot + (size_t)(disk - dm->disks), e->interface,
			e->writeback ? "    cache=writeback" : "");
	}
}

static void users_text(FILE *out, const struct iscsi *iscsi)
{
	const char *mutual = iscsi_chap_mutual(iscsi);

	fprintf(out, "users   chap   ");
	for (unsigned i = 0; i < iscsi_chap_count(iscsi); i++)
		fprintf(out, " %s", iscsi_chap_name(iscsi, i));
	if (mutual != NULL)
		fprintf(out, "    and to them this is %s", mutual);
	fprintf(out, "\n");
}

/* Discovery would want the secret as well, and there is nothing to discover any more. */
static void paste_chap_text(FILE *out, const struct disk *disk, const char *portal,
			    const char *user)
{
	const char *mutual = iscsi_chap_mutual(disk->daemon->iscsi);
	const struct {
		const char *key, *value;
	} settings[] = {
		{"authmethod", "CHAP"},           {"username", user},
		{"password", "SECRET"},           {"username_in", mutual},
		{"password_in", "MUTUAL-SECRET"},
	};
	size_t n = mutual != NULL ? ARRAY_LEN(settings) : ARRAY_LEN(settings) - 2;

	fprintf(out, "\nOn a Linux client, for %s, with the user's secret:\n", disk->name);
	fprintf(out, "  sudo iscsiadm -m node -T %s -p %s -o new\n", disk->iqn, portal);
	for (size_t i = 0; i < n; i++)
		fprintf(out,
			"  sudo iscsiadm -m node -T %s -p %s -o update -n node.session.auth.%s -v "
			"'%s'\n",
			disk->iqn, portal, settings[i].key, settings[i].value);
	fprintf(out, "  sudo iscsiadm -m node -T %s -p %s --login\n", disk->iqn, portal);
	fprintf(out, "In QEMU, with the secret, and no newline, in a file:\n");
	fprintf(out, "  -object secret,id=chap,file=FILE\n");
	fprintf(out,
		"  -blockdev "
		"'driver=iscsi,node-name=%s,transport=tcp,portal=%s,target=%s,lun=0,user=%s,"
		"password-secret=chap'\n",
		disk->name, portal, disk->iqn, user);
}

static void paste_text(FILE *out, const struct disk *disk, const char *portal)
{
	fprintf(out, "\nOn a Linux client, for %s:\n", disk->name);
	fprintf(out, "  sudo iscsiadm -m discovery -t sendtargets -p %s\n", portal);
	fprintf(out, "  sudo iscsiadm -m node -T %s -p %s --login\n", disk->iqn, portal);
	fprintf(out, "In QEMU, either of:\n");
	fprintf(out, "  -drive file=iscsi://%s/%s/0,format=raw,if=virtio\n", portal, disk->iqn);
	fprintf(out,
		"  -blockdev driver=iscsi,node-name=%s,transport=tcp,portal=%s,target=%s,lun=0\n",
		disk->name, portal, disk->iqn);
}

static void paste_aoe_text(FILE *out, const struct disk *disk)
{
	const struct daemon *dm = disk->daemon;
	const struct aoe_export *e = &dm->places[0].export;

	fprintf(out, "\nOn a Linux client on the Ethernet of %s, for %s:\n", e->interface,
		disk->name);
	fprintf(out, "  sudo modprobe aoe && sudo aoe-discover\n");
	fprintf(out, "  ls -l /dev/etherd/e%u.%zu\n", e->shelf,
		e->slot + (size_t)(disk - dm->disks));
}

static void paste_disk_text(FILE *out, const struct disk *disk, const char *portal)
{
	const struct daemon *dm = disk->daemon;

	if (disk->iqn[0] != '\0' && iscsi_chap_count(dm->iscsi) != 0)
		paste_chap_text(out, disk, portal, iscsi_chap_name(dm->iscsi, 0));
	else if (disk->iqn[0] != '\0')
		paste_text(out, disk, portal);
	if (dm->nplaces != 0)
		paste_aoe_text(out, disk);
}

int announce_text(const struct daemon *dm, int fd)
{
	char portal[NET_ADDR_TEXT], *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	int err = -ENOMEM;

	if (out == NULL)
		return err;
	client_portal(dm, portal);
	for (size_t i = 0; i < dm->ndisks; i++)
		disk_text(out, dm, &dm->disks[i]);
	if (iscsi_chap_count(dm->iscsi) != 0)
		users_text(out, dm->iscsi);
	for (size_t i = 0; i < dm->ndisks; i++)
		paste_disk_text(out, &dm->disks[i], portal);
	if (fclose(out) == 0)
		err = write_all(fd, text, len);
	free(text);
	return err;
}
