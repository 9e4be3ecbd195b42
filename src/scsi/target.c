/*
 * Targets: which logical unit answers at which number, and how that changes while nexuses are open.
 * Apart from nexus.c, which does for one nexus what is decided here for all.
 *
 *   scsi_target_change_lun -> waits for its turn -> checked; memory for all who follow; the new map
 *     -> a part to each nexus: it attaches, or ends its tasks and detaches -> lun_part_end()
 *     -> the last one: done, and the next change
 *
 * A nexus is in the list from before it looks at the map until it is detached from everything: so
 * a change that is over was followed by all, those who came or left meanwhile included.
 */
#include <errno.h>
#include <stdlib.h>

#include "scsi/impl.h"

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
	pthread_mutex_init(&t->lock, NULL);
	list_init(&t->nexuses);
	list_init(&t->changes);
	*out = t;
	return 0;
}

void scsi_target_destroy(struct scsi_target *t)
{
	if (t == NULL)
		return;
	CHECK(list_empty(&t->nexuses) && t->change == NULL);
	pthread_mutex_destroy(&t->lock);
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
	return 0;
}

/* ---- Nexuses come and go ---- */

int target_join(struct nexus *n)
{
	struct scsi_target *t = n->target;
	struct list *pos;
	int err = 0;

	pthread_mutex_lock(&t->lock);
	for (unsigned lun = 0; lun < SCSI_LUNS && err == 0; lun++) {
		struct scsi_itl *itl;

		if (t->luns[lun] == NULL)
			continue;
		itl = itl_create(n, low_u16(lun), t->luns[lun]);
		if (itl != NULL)
			list_push_back(&n->itls, &itl->link);
		else
			err = -ENOMEM;
	}
	if (err == 0)
		list_push_back(&t->nexuses, &n->link);
	pthread_mutex_unlock(&t->lock);
	while (err != 0 && (pos = list_pop_front(&n->itls)) != NULL)
		itl_destroy(list_entry(pos, struct scsi_itl, link));
	return err;
}

bool target_leave(struct nexus *n)
{
	struct scsi_target *t = n->target;
	bool may_leave;

	pthread_mutex_lock(&t->lock);
	may_leave = n->part == NULL;
	if (may_leave)
		list_remove(&n->link);
	pthread_mutex_unlock(&t->lock);
	return may_leave;
}

/* ---- Changes: all of this under the lock ---- */

static void done_arrived(struct loop_msg *msg)
{
	struct scsi_lun_op *op = container_of(msg, struct scsi_lun_op, msg);

	op->done(op, op->err);
}

/* After this it is its owner's. */
static void change_end(struct scsi_lun_op *op, int err)
{
	op->err = err;
	op->msg.run = done_arrived;
	loop_post(op->loop, &op->msg);
}

static int change_check(const struct scsi_target *t, const struct scsi_lun_op *op)
{
	if (op->lun >= SCSI_LUNS)
		return -EINVAL;
	if (op->lu != NULL)
		return t->luns[op->lun] == NULL ? 0 : -EEXIST;
	return t->luns[op->lun] != NULL ? 0 : -ENOENT;
}

static void part_destroy(struct lun_part *part)
{
	if (part == NULL)
		return;
	itl_destroy(part->itl);
	free(part);
}

static void part_arrived(struct loop_msg *msg)
{
	nexus_follow(container_of(msg, struct lun_part, msg));
}

static struct lun_part *part_create(struct scsi_lun_op *op, struct nexus *n)
{
	struct lun_part *part = calloc(1, sizeof(*part));

	if (part == NULL)
		return NULL;
	part->op = op;
	part->nexus = n;
	part->msg.run = part_arrived;
	if (op->lu != NULL) {
		part->itl = itl_create(n, op->lun, op->lu);
		if (part->itl == NULL) {
			free(part);
			return NULL;
		}
	}
	return part;
}

/* For every nexus, before anything changes for any. */
static int parts_create(struct scsi_target *t, struct scsi_lun_op *op, struct list *parts)
{
	struct list *pos;

	list_init(parts);
	list_for_each (n, &t->nexuses) {
		struct lun_part *part = part_create(op, list_entry(n, struct nexus, link));

		if (part == NULL)
			goto fail;
		list_push_back(parts, &part->link);
	}
	return 0;
fail:
	while ((pos = list_pop_front(parts)) != NULL)
		part_destroy(list_entry(pos, struct lun_part, link));
	return -ENOMEM;
}

static void change_begin(struct scsi_target *t, struct scsi_lun_op *op)
{
	struct list parts, *pos;
	int err = change_check(t, op);

	if (err == 0)
		err = parts_create(t, op, &parts);
	if (err != 0 || list_empty(&parts)) {
		if (err == 0)
			t->luns[op->lun] = op->lu;
		change_end(op, err);
		return;
	}
	t->luns[op->lun] = op->lu;
	t->change = op;
	op->waiting = 0;
	while ((pos = list_pop_front(&parts)) != NULL) {
		struct lun_part *part = list_entry(pos, struct lun_part, link);

		op->waiting++;
		part->nexus->part = part;
		loop_post(part->nexus->loop, &part->msg);
	}
}

static void run_changes(struct scsi_target *t)
{
	struct list *first;

	while (t->change == NULL && (first = list_pop_front(&t->changes)) != NULL)
		change_begin(t, list_entry(first, struct scsi_lun_op, link));
}

/* ---- And from outside ---- */

void lun_part_end(struct lun_part *part)
{
	struct scsi_target *t = part->nexus->target;
	struct scsi_lun_op *op = part->op;

	pthread_mutex_lock(&t->lock);
	part->nexus->part = NULL;
	if (--op->waiting == 0) {
		t->change = NULL;
		change_end(op, 0);
		run_changes(t);
	}
	pthread_mutex_unlock(&t->lock);
	free(part);
}

void scsi_target_change_lun(struct scsi_lun_op *op)
{
	struct scsi_target *t = op->target;

	pthread_mutex_lock(&t->lock);
	list_push_back(&t->changes, &op->link);
	run_changes(t);
	pthread_mutex_unlock(&t->lock);
}
