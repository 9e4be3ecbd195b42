/*
 * Disks over Ethernet: --aoe IF:SHELF.SLOT[,cache=writeback][,buffers=N][,xdp=on][,mac=MAC]...[,admin=MAC]...
 *
 * Each --aoe is a place for all disks of the command line, the first one at SLOT, the next one at the
 * slot behind that, and so on.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/daemon.h"

enum { WRITETHROUGH, WRITEBACK };
enum { OFF, ON };

static const char *const caches[] = {
	[WRITETHROUGH] = "writethrough", [WRITEBACK] = "writeback", NULL};
static const char *const switches[] = {[OFF] = "off", [ON] = "on", NULL};

struct place_options {
	unsigned cache, xdp; /* an index of caches, of switches */
	uint64_t buffers;
	struct opt_strings allowed, admins;
};

static const struct opt place_opts[] = {
	{
		.name = "cache",
		.kind = OPT_CHOICE,
		.offset = offsetof(struct place_options, cache),
		.choices = caches,
	},
	{
		.name = "buffers",
		.kind = OPT_UINT,
		.offset = offsetof(struct place_options, buffers),
		.min = 1,
		.max = AOE_BUFFERS_MAX,
	},
	{
		.name = "xdp",
		.kind = OPT_CHOICE,
		.offset = offsetof(struct place_options, xdp),
		.choices = switches,
	},
	{
		.name = "mac",
		.kind = OPT_LIST,
		.offset = offsetof(struct place_options, allowed),
	},
	{
		.name = "admin",
		.kind = OPT_LIST,
		.offset = offsetof(struct place_options, admins),
	},
	{.name = NULL},
};

static int bad_place(const char *text, struct diag *d)
{
	char shown[64];

	str_escape(shown, sizeof(shown), text, strlen(text));
	diag_set(d, -EINVAL, "--aoe %s names no place", shown);
	diag_fix(d, "write interface, shelf and slot, like --aoe eth1:1.0");
	return -EINVAL;
}

/* Cuts "IF:SHELF.SLOT" in place. An interface's name may have a colon. */
static int parse_place(struct aoe_export *e, char *text)
{
	char *colon = strrchr(text, ':'), *dot = colon != NULL ? strchr(colon, '.') : NULL;
	uint64_t shelf, slot;

	if (dot == NULL || colon == text)
		return -EINVAL;
	*colon = *dot = '\0';
	if (parse_u64(colon + 1, &shelf) != 0 || shelf > UINT16_MAX ||
	    parse_u64(dot + 1, &slot) != 0 || slot > UINT8_MAX)
		return -EINVAL;
	e->interface = text;
	e->shelf = low_u16(shelf);
	e->slot = low_u8(slot);
	return 0;
}

static int parse_macs(struct aoe_macs *out, const struct opt_strings *texts, struct diag *d)
{
	if (texts->n > AOE_MACS_MAX)
		return diag_set(d, -EINVAL, "--aoe takes no more than %d addresses", AOE_MACS_MAX);
	out->v = calloc(texts->n + 1, sizeof(*out->v));
	if (out->v == NULL)
		return diag_set(d, -ENOMEM, "out of memory");
	for (size_t i = 0; i < texts->n; i++) {
		char shown[64];

		if (strcmp(texts->v[i], "*") == 0) {
			out->all = true;
			continue;
		}
		if (aoe_mac_parse(out->v[out->n], texts->v[i]) == 0) {
			out->n++;
			continue;
		}
		str_escape(shown, sizeof(shown), texts->v[i], strlen(texts->v[i]));
		diag_set(d, -EINVAL, "%s is no Ethernet address", shown);
		diag_fix(d, "write it like 52:54:00:12:34:56, or * for everybody");
		return -EINVAL;
	}
	return 0;
}

static int place_load(struct aoe_place *p, const char *text, struct diag *d)
{
	struct place_options o = {0};
	char *options;
	int err;

	p->text = strdup(text);
	if (p->text == NULL)
		return diag_set(d, -ENOMEM, "out of memory");
	options = strchr(p->text, ',');
	if (options != NULL)
		*options++ = '\0';
	if (parse_place(&p->export, p->text) != 0)
		return bad_place(text, d);
	err = options != NULL ? opt_parse_list(place_opts, &o, options, d) : 0;
	if (err == 0)
		err = parse_macs(&p->export.allowed, &o.allowed, d);
	if (err == 0)
		err = parse_macs(&p->export.admins, &o.admins, d);
	p->export.writeback = o.cache == WRITEBACK;
	p->export.buffers = low_u16(o.buffers);
	p->export.xdp = o.xdp == ON;
	opt_fini(place_opts, &o);
	return err;
}

static int serve_at(struct daemon *dm, const struct aoe_place *p, struct diag *d)
{
	if (p->export.slot + dm->ndisks - 1 >= UINT8_MAX)
		return diag_set(d, -EINVAL, "shelf %u has no slots for %zu disks from %u on",
				p->export.shelf, dm->ndisks, p->export.slot);
	for (size_t i = 0; i < dm->ndisks; i++) {
		struct aoe_export e = p->export;
		int err;

		e.slot = low_u8(e.slot + i);
		err = aoe_add(dm->aoe, dm->disks[i].unit, &e, d);
		if (err < 0)
			return err;
	}
	return 0;
}

int exports_load(struct daemon *dm, const struct run_options *o, struct diag *d)
{
	int err = aoe_create(&dm->aoe, dm->set, &dm->log);

	if (err == 0)
		dm->places = calloc(o->aoe.n + 1, sizeof(*dm->places));
	if (err < 0 || dm->places == NULL)
		return diag_set(d, -ENOMEM, "out of memory");
	for (size_t i = 0; i < o->aoe.n && err == 0; i++) {
		err = place_load(&dm->places[dm->nplaces++], o->aoe.v[i], d);
		if (err == 0)
			err = serve_at(dm, &dm->places[i], d);
	}
	return err;
}

void exports_fini(struct daemon *dm)
{
	aoe_destroy(dm->aoe);
	dm->aoe = NULL;
	for (size_t i = 0; i < dm->nplaces; i++) {
		free(dm->places[i].export.allowed.v);
		free(dm->places[i].export.admins.v);
		free(dm->places[i].text);
	}
	free(dm->places);
	dm->places = NULL;
	dm->nplaces = 0;
}
