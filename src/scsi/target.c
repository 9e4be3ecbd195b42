/*
 * Targets: which logical unit answers at which number, and how that changes while nexuses are open.
 * Apart from nexus.c, which does for one nexus what is decided here for all.
 *
 *   op->loop                    loop 0                              a nexus's loop
 *
 *   change_lun ---------> waits for its turn, is checked;
 *                         memory for all who follow; the new map
 *                                  ------------- part ----------->  attaches, or ends its tasks
 *   done <--------------- the last  <----------- part ------------  and detaches
 *
 *                         in the list, the map as it is <-- join -  nexus_open
 *                                  ----------------------------->   attaches to all
 *                         out of the list    <----------- leave --  detached from all
 *                                  ----------------------------->   closed
 *
 * Messages between two loops keep their order: a nexus hears of every change behind the map that it
 * was given, and a change that is over was followed by all, those who came or left meanwhile
 * included.
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
	free(t);
}

const char *scsi_target_name(const struct scsi_target *t)
{
	return t->name;
}

/* An LU has one number: a nexus would be there twice by one id, and what ends its tasks at one of them
 * would end those at the other. */
static int check_lun_comes(const struct scsi_target *t, uint16_t lun, const struct scsi_lu *lu)
{
	if (lun >= SCSI_LUNS)
		return -EINVAL;
	if (t->luns[lun] != NULL)
		return -EEXIST;
	for (size_t i = 0; i < SCSI_LUNS; i++) {
		if (t->luns[i] == lu)
			return -EEXIST;
	}
	return 0;
}

int scsi_target_add_lun(struct scsi_target *t, uint16_t lun, struct scsi_lu *lu)
{
	const int err = check_lun_comes(t, lun, lu);

	if (err == 0)
		t->luns[lun] = lu;
	return err;
}

static void post_to(struct loop *to, struct loop_msg *msg, void (*run)(struct loop_msg *msg))
{
	msg->run = run;
	loop_post(to, msg);
}

/* From any loop of the set. */
static void post_home(struct loop *from, struct loop_msg *msg, void (*run)(struct loop_msg *msg))
{
	post_to(loop_set_at(loop_set_of(from), 0), msg, run);
}

/* ---- Nexuses come and go ---- */

static void joined_arrived(struct loop_msg *msg)
{
	nexus_joined(container_of(msg, struct nexus, msg));
}

static void left_arrived(struct loop_msg *msg)
{
	nexus_left(container_of(msg, struct nexus, msg));
}

static int create_itls(struct nexus *n)
{
	const struct scsi_target *t = n->target;
	struct list *pos;

	for (unsigned lun = 0; lun < SCSI_LUNS; lun++) {
		struct scsi_itl *itl;

		if (t->luns[lun] == NULL)
			continue;
		itl = itl_create(n, low_u16(lun), t->luns[lun]);
		if (itl == NULL)
			goto fail;
		list_push_back(&n->itls, &itl->link);
	}
	return 0;
fail:
	while ((pos = list_pop_front(&n->itls)) != NULL)
		itl_destroy(list_entry(pos, struct scsi_itl, link));
	return -ENOMEM;
}

static void join_arrived(struct loop_msg *msg)
{
	struct nexus *n = container_of(msg, struct nexus, msg);

	n->parts = 0;
	n->departs = false;
	n->err = create_itls(n);
	n->joined = n->err == 0;
	if (n->joined)
		list_push_back(&n->target->nexuses, &n->link);
	post_to(n->loop, &n->msg, joined_arrived);
}

void target_join(struct nexus *n)
{
	post_home(n->loop, &n->msg, join_arrived);
}

static void leave_if_done(struct nexus *n)
{
	if (!n->departs || n->parts != 0)
		return;
	list_remove(&n->link);
	post_to(n->loop, &n->msg, left_arrived);
}

static void leave_arrived(struct loop_msg *msg)
{
	struct nexus *n = container_of(msg, struct nexus, msg);

	n->departs = true;
	leave_if_done(n);
}

void target_leave(struct nexus *n)
{
	post_home(n->loop, &n->msg, leave_arrived);
}

/* ---- Changes, on loop 0 ---- */

static void done_arrived(struct loop_msg *msg)
{
	struct scsi_lun_op *op = container_of(msg, struct scsi_lun_op, msg);

	op->done(op, op->err);
}

/* After this it is its owner's. */
static void change_end(struct scsi_lun_op *op, int err)
{
	op->err = err;
	post_to(op->loop, &op->msg, done_arrived);
}

static int change_check(const struct scsi_target *t, const struct scsi_lun_op *op)
{
	if (op->lu != NULL)
		return check_lun_comes(t, op->lun, op->lu);
	if (op->lun >= SCSI_LUNS)
		return -EINVAL;
	return t->luns[op->lun] != NULL ? 0 : -ENOENT;
}

static struct lun_part *part_create(struct scsi_lun_op *op, struct nexus *n)
{
	struct lun_part *part = calloc(1, sizeof(*part));

	if (part == NULL)
		return NULL;
	part->op = op;
	part->nexus = n;
	if (op->lu == NULL)
		return part;
	part->itl = itl_create(n, op->lun, op->lu);
	if (part->itl != NULL)
		return part;
	free(part);
	return NULL;
}

static void part_destroy(struct lun_part *part)
{
	itl_destroy(part->itl);
	free(part);
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

static void part_arrived(struct loop_msg *msg)
{
	nexus_follow(container_of(msg, struct lun_part, msg));
}

static void change_begin(struct scsi_target *t, struct scsi_lun_op *op)
{
	struct list parts, *pos;
	int err = change_check(t, op);

	if (err == 0)
		err = parts_create(t, op, &parts);
	if (err != 0) {
		change_end(op, err);
		return;
	}
	t->luns[op->lun] = op->lu;
	op->waiting = 0;
	while ((pos = list_pop_front(&parts)) != NULL) {
		struct lun_part *part = list_entry(pos, struct lun_part, link);

		op->waiting++;
		part->nexus->parts++;
		post_to(part->nexus->loop, &part->msg, part_arrived);
	}
	if (op->waiting != 0)
		t->change = op;
	else
		change_end(op, 0);
}

static void run_changes(struct scsi_target *t)
{
	struct list *first;

	while (t->change == NULL && (first = list_pop_front(&t->changes)) != NULL)
		change_begin(t, list_entry(first, struct scsi_lun_op, link));
}

static void part_returned(struct loop_msg *msg)
{
	struct lun_part *part = container_of(msg, struct lun_part, msg);
	struct scsi_target *t = part->nexus->target;
	struct scsi_lun_op *op = part->op;

	part->nexus->parts--;
	leave_if_done(part->nexus);
	free(part);
	if (--op->waiting != 0)
		return;
	t->change = NULL;
	change_end(op, 0);
	run_changes(t);
}

void lun_part_end(struct lun_part *part)
{
	post_home(part->nexus->loop, &part->msg, part_returned);
}

static void change_arrived(struct loop_msg *msg)
{
	struct scsi_lun_op *op = container_of(msg, struct scsi_lun_op, msg);

	list_push_back(&op->target->changes, &op->link);
	run_changes(op->target);
}

void scsi_target_change_lun(struct scsi_lun_op *op)
{
	post_home(op->loop, &op->msg, change_arrived);
}
