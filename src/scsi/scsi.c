/*
 * Logical units: what they are made of and called. Apart from target.c, which gives them numbers.
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

static int set_names(struct lu_state *state, const struct scsi_lu_config *config)
{
	if (config->vendor != NULL &&
	    !str_copy(state->vendor, sizeof(state->vendor), config->vendor))
		return -EINVAL;
	if (config->product != NULL &&
	    !str_copy(state->product, sizeof(state->product), config->product))
		return -EINVAL;
	if (config->revision != NULL)
		copy_revision(state, config->revision);
	return 0;
}

static int first_state(struct lu_state *state, const struct scsi_lu_config *config)
{
	const struct scsi_lu_config usual = {LU_VENDOR, LU_PRODUCT, SPINDLE_VERSION};

	(void)set_names(state, &usual);
	return set_names(state, config);
}

/* What is kept with the disk goes into the view that everything begins with. */
static int load(struct scsi_lu *lu)
{
	struct unit_view *view = unit_first_view(lu->unit);
	int err;

	mode_load(lu, view);
	err = info_load(lu, view);
	return err < 0 ? err : job_load(lu, view);
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
	if (err == 0)
		err = counts_create(lu);
	if (err == 0)
		err = job_create(lu);
	if (err == 0)
		err = load(lu);
	if (err < 0) {
		scsi_lu_destroy(lu);
		return err;
	}
	*out = lu;
	return 0;
}

void scsi_lu_destroy(struct scsi_lu *lu)
{
	if (lu == NULL)
		return;
	job_destroy(lu);
	counts_destroy(lu);
	free(lu);
}

struct unit *scsi_lu_unit(const struct scsi_lu *lu)
{
	return lu->unit;
}

/* ---- Other INQUIRY data ---- */

static int edit_inquiry(struct unit_op *op, struct unit_view *next)
{
	const struct scsi_inquiry_op *inquiry = container_of(op, struct scsi_inquiry_op, op);

	return set_names(lu_state_edit(next), &inquiry->config);
}

void scsi_lu_set_inquiry(struct scsi_lu *lu, struct scsi_inquiry_op *op)
{
	op->op.unit = lu->unit;
	op->op.nexus_id = 0;
	op->op.edit = edit_inquiry;
	op->op.changes = LU_CHANGED_INQUIRY;
	unit_publish(&op->op);
}
