/*
 * Logical units and targets. Apart from nexus.c, whose objects come and go on the loops.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "scsi/impl.h"

/* Four characters hold the beginning of a longer version, without a dot at its end: 0.1 of 0.1.0. */
static void copy_revision(struct lu_state *state, const char *version)
{
	size_t len;

	str_copy(state->revision, sizeof(state->revision), version);
	len = strlen(state->revision);
	if (len > 0 && state->revision[len - 1] == '.')
		state->revision[len - 1] = '\0';
}

static int first_state(struct lu_state *state, const struct scsi_lu_config *config)
{
	const char *vendor = config->vendor != NULL ? config->vendor : "SPINDLE";
	const char *product = config->product != NULL ? config->product : "VIRTUAL-DISK";

	if (!str_copy(state->vendor, sizeof(state->vendor), vendor) ||
	    !str_copy(state->product, sizeof(state->product), product))
		return -EINVAL;
	copy_revision(state, config->revision != NULL ? config->revision : SPINDLE_VERSION);
	return 0;
}

int scsi_lu_create_disk(struct scsi_lu **out, struct unit *unit,
			const struct scsi_lu_config *config)
{
	struct scsi_lu *lu = calloc(1, sizeof(*lu));
	int err;

	if (lu == NULL)
		return -ENOMEM;
	lu->unit = unit;
	lu->info = bdev_info(unit_bdev(unit));
	err = first_state(lu_state_edit(unit_first_view(unit)), config);
	if (err < 0) {
		free(lu);
		return err;
	}
	*out = lu;
	return 0;
}

void scsi_lu_destroy(struct scsi_lu *lu)
{
	free(lu);
}

struct unit *scsi_lu_unit(const struct scsi_lu *lu)
{
	return lu->unit;
}

int scsi_target_create(struct scsi_target **out, const char *name)
{
	struct scsi_target *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return -ENOMEM;
	if (!str_copy(t->name, sizeof(t->name), name)) {
		free(t);
		return -EINVAL;
	}
	scsi_cmd_index_init(&t->index);
	*out = t;
	return 0;
}

void scsi_target_destroy(struct scsi_target *t)
{
	free(t);
}

const char *scsi_target_name(const struct scsi_target *t)
{
	return t->name;
}

int scsi_target_add_lun(struct scsi_target *t, uint16_t lun, struct scsi_lu *lu)
{
	if (lun >= SCSI_LUNS)
		return -EINVAL;
	if (t->luns[lun] != NULL)
		return -EEXIST;
	t->luns[lun] = lu;
	t->slot[lun] = low_u16(++t->nluns);
	return 0;
}
