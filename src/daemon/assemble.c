/*
 * From options to a daemon that listens: each disk is built from the bottom up, store first, and
 * what was built comes down in the opposite order.
 */
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/daemon.h"

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* It is a part of its disk. */
static void keep_name(void *name)
{
	(void)name;
}

static bool name_taken(const void *arg, const char *name)
{
	const struct daemon *dm = arg;

	return tfind(name, &dm->names, compare_names) != NULL;
}

static int disk_iqn(struct disk *disk, const struct run_options *o, struct diag *d)
{
	char host[256];
	int err;

	if (o->iqn != NULL) {
		str_copy(disk->iqn, sizeof(disk->iqn), o->iqn);
		return 0;
	}
	if (gethostname(host, sizeof(host)) < 0)
		host[0] = '\0';
	host[sizeof(host) - 1] = '\0';
	err = iqn_from_host(disk->iqn, host, disk->name, d);
	return err < 0 ? err : iscsi_name_check(disk->iqn, d);
}

static int disk_names(struct daemon *dm, struct disk *disk, const struct run_options *o,
		      struct diag *d)
{
	const struct name_set taken = {name_taken, dm};

	if (o->name != NULL)
		str_copy(disk->name, sizeof(disk->name), o->name);
	else
		name_from_spec(disk->name, disk->spec, &taken);
	if (tsearch(disk->name, &dm->names, compare_names) == NULL)
		return diag_set(d, -ENOMEM, "out of memory");
	return o->no_iscsi ? 0 : disk_iqn(disk, o, d);
}

/* What a layer says of a disk it does not know the name of. */
static int about_disk(const struct disk *disk, int err, const struct diag *said, struct diag *d)
{
	diag_set(d, err, "%s: %s", disk->spec, said->what[0] != '\0' ? said->what : strerror(-err));
	if (said->fix[0] != '\0')
		diag_fix(d, "%s", said->fix);
	return err;
}

static int disk_open_bdev(struct bdev **out, struct disk *disk, const struct run_options *o,
			  struct diag *d)
{
	struct store_config store_config = {.size = o->size,
					    .provisional = true,
					    .read_only = o->read_only,
					    .direct = o->direct};
	struct bdev_config bdev_config = {
		.block_size = run_options_block_size(o),
		.read_only = o->read_only,
	};
	struct store *store;
	struct diag said;
	int err;

	err = store_open(&store, disk->daemon->set, registry_stores, disk->spec, &store_config, d);
	if (err < 0)
		return err;
	diag_init(&said);
	err = bdev_create(out, store, &bdev_config, &said);
	return err < 0 ? about_disk(disk, err, &said, d) : 0;
}

static int disk_open_unit(struct disk *disk, const struct run_options *o, unsigned index,
			  struct diag *d)
{
	struct loop_set *set = disk->daemon->set;
	struct unit_identity identity;
	struct bdev *bdev;
	struct diag said;
	int err;

	err = disk_open_bdev(&bdev, disk, o, d);
	if (err < 0)
		return err;
	diag_init(&said);
	err = unit_identity_load(bdev_store(bdev), &identity, &disk->identity_renewed, &said);
	if (err < 0) {
		bdev_destroy(bdev);
		return about_disk(disk, err, &said, d);
	}
	err = unit_create(&disk->unit, set, bdev, &identity, index % loop_set_count(set));
	if (err == 0 && disk->daemon->kept_in[0] != '\0')
		err = unit_keep_in(disk->unit, disk->daemon->kept_in);
	return err < 0 ? about_disk(disk, err, &said, d) : 0;
}

static int disk_add_target(struct disk *disk, struct diag *d)
{
	int err = scsi_target_create(&disk->target, disk->iqn);

	if (err == 0)
		err = scsi_target_add_lun(disk->target, 0, disk->lu);
	return err == 0 ? iscsi_add_target(disk->daemon->iscsi, disk->target, disk->name, d) : err;
}

/* The LU is there in any case: it goes on with what an earlier process left undone. */
static int disk_open(struct disk *disk, const struct run_options *o, unsigned index, struct diag *d)
{
	int err;

	err = disk_open_unit(disk, o, index, d);
	if (err < 0)
		return err;
	err = scsi_lu_create_disk(&disk->lu, disk->unit, &(struct scsi_lu_config){0});
	if (err == -EACCES)
		diag_fix(d, "what is kept of it may be another user's: see --state");
	if (err == 0 && disk->iqn[0] != '\0')
		err = disk_add_target(disk, d);
	return err < 0 ? diag_set(d, err, "cannot serve %s: %s", disk->spec, strerror(-err)) : 0;
}

static void disk_close(struct disk *disk)
{
	scsi_target_destroy(disk->target);
	scsi_lu_destroy(disk->lu);
	unit_destroy(disk->unit);
}

static int open_disks(struct daemon *dm, const struct run_options *o, struct diag *d)
{
	dm->disks = calloc(o->nspecs, sizeof(*dm->disks));
	if (dm->disks == NULL)
		return diag_set(d, -ENOMEM, "out of memory");
	for (size_t i = 0; i < o->nspecs; i++) {
		struct disk *disk = &dm->disks[i];
		int err;

		disk->daemon = dm;
		disk->spec = o->specs[i];
		err = disk_names(dm, disk, o, d);
		dm->ndisks++;
		if (err == 0)
			err = disk_open(disk, o, (unsigned)i, d);
		if (err < 0)
			return err;
	}
	return 0;
}

static int open_portals(struct daemon *dm, const struct run_options *o, struct diag *d)
{
	const char *fallback = "127.0.0.1";
	const char *const *addrs = o->listen.n > 0 ? o->listen.v : &fallback;
	size_t n = o->listen.n > 0 ? o->listen.n : 1;

	if (o->no_iscsi)
		return 0;
	for (size_t i = 0; i < n; i++) {
		union net_addr addr;
		int err;

		err = net_addr_parse(&addr, addrs[i], (uint16_t)o->port, d);
		if (err == 0)
			err = iscsi_listen(dm->iscsi, &addr, d);
		if (err < 0)
			return err;
	}
	return 0;
}

int daemon_assemble(struct daemon *dm, const struct run_options *o, struct diag *d)
{
	struct loop_config loop_config = {.nloops = (unsigned)o->threads,
					  .memory_bytes = o->memory};
	int err;

	err = loop_set_create(&dm->set, &loop_config, d);
	if (err < 0)
		goto fail;
	struct iscsi_config iscsi_config = {
		.set = dm->set, .log = &dm->log, .unsolicited = o->unsolicited};
	err = iscsi_create(&dm->iscsi, &iscsi_config);
	if (err < 0) {
		diag_set(d, err, "cannot set up iSCSI: %s", strerror(-err));
		goto fail;
	}
	err = secrets_load(dm->iscsi, o, d);
	if (err == 0)
		err = state_dir(dm->kept_in, sizeof(dm->kept_in), o, d);
	if (err == 0)
		err = open_disks(dm, o, d);
	if (err == 0)
		err = exports_load(dm, o, d);
	if (err == 0)
		err = open_portals(dm, o, d);
	if (err == 0)
		return 0;
fail:
	daemon_fini(dm);
	return err;
}

void daemon_fini(struct daemon *dm)
{
	iscsi_destroy(dm->iscsi);
	exports_fini(dm);
	for (size_t i = dm->ndisks; i > 0; i--)
		disk_close(&dm->disks[i - 1]);
	tdestroy(dm->names, keep_name);
	free(dm->disks);
	loop_set_destroy(dm->set);
	dm->iscsi = NULL;
	dm->disks = NULL;
	dm->names = NULL;
	dm->ndisks = 0;
	dm->set = NULL;
}
