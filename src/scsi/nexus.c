/*
 * A nexus at the logical units of its target: attaching when a session begins or a LUN comes,
 * aborting and detaching when the nexus is lost or a LUN goes. Apart from task.c because nothing
 * here is on the way of a command.
 *
 *   ATTACHING -> ATTACHED -> ABORTING -> RELEASING -> LEAVING -> freed
 *                   |            the tasks,  the       nothing runs
 *                   |            then        reservation,  or moves
 *               in nexus.luns    `leaving`: no longer there
 *
 * A nexus whose two ports had another one before finds that at its units, on the same loop, as long as
 * a task of it is in a store, perhaps in one that hangs. No task passes the ordering barrier of such a
 * unit before those are gone; the nexus itself is open, and its other units are at work.
 *
 * Whatever ends looks whether that was the last thing somebody waited for: itl_settle() for one LU,
 * nexus_settle() for all. The nexus may be gone after either.
 */
#include <errno.h>
#include <stdlib.h>

#include "scsi/impl.h"

/* ---- One LU: the end ---- */

static void nexus_settle(struct nexus *n);

static void stop_awaiting(struct scsi_itl *itl)
{
	if (itl->follower == NULL)
		return;
	list_remove(&itl->awaited);
	if (list_empty(&itl->follower->awaits))
		order_drain(itl->follower);
	itl->follower = NULL;
}

/* It leaves before those that it waited for. */
static void await_nobody(struct scsi_itl *itl)
{
	list_for_each_safe (pos, &itl->awaits) {
		list_remove(pos);
		list_entry(pos, struct scsi_itl, awaited)->follower = NULL;
	}
}

void itl_destroy(struct scsi_itl *itl)
{
	if (itl == NULL)
		return;
	free(itl->abort.parts);
	free(itl->spare);
	free(itl->buffers);
	free(itl);
}

/* Nobody knows it any more. */
static void itl_forget(struct scsi_itl *itl)
{
	struct nexus *n = itl->nexus;

	list_remove(&itl->link);
	stop_awaiting(itl);
	await_nobody(itl);
	if (itl->part != NULL)
		lun_part_end(itl->part);
	itl_destroy(itl);
	nexus_settle(n);
}

/* Tasks run until the memory that a store lent them has left. */
void itl_settle(struct scsi_itl *itl)
{
	if (itl->state != ITL_LEAVING || itl->draining || itl->running != 0 || itl->tmfs != 0)
		return;
	unit_detach(&itl->attach);
	itl_forget(itl);
}

/* It cannot fail: nobody cancels it, and its memory was there. */
static void released(struct unit_op *op, int err)
{
	struct scsi_itl *itl = container_of(op, struct scsi_itl, release);

	CHECK(err == 0);
	itl->state = ITL_LEAVING;
	itl_settle(itl);
}

/* Others may reserve the disk when none of its tasks is left, and not before. */
static void release(struct scsi_itl *itl)
{
	itl->state = ITL_RELEASING;
	itl->release = (struct unit_op){
		.unit = itl->lu->unit,
		.loop = itl->nexus->loop,
		.nexus_id = itl->nexus->id,
		.edit = reserve_edit_release,
		.spare = itl->spare,
		.done = released,
	};
	itl->spare = NULL;
	unit_publish(&itl->release);
}

/* Nor can this. */
static void aborted(struct unit_op *op, int err)
{
	struct scsi_itl *itl = container_of(op, struct scsi_itl, abort);

	CHECK(err == 0);
	if (itl_view(itl)->holder == itl->nexus->id) {
		release(itl);
		return;
	}
	itl->state = ITL_LEAVING;
	itl_settle(itl);
}

static bool is_of_nexus(const struct unit_op *op, const struct unit_task *t)
{
	return t->nexus_id == op->nexus_id;
}

static void itl_abort(struct scsi_itl *itl)
{
	itl->state = ITL_ABORTING;
	unit_abort(&itl->abort);
}

/* The rest follows, never on the caller's stack. */
static void itl_leave(struct scsi_itl *itl)
{
	if (itl->leaving)
		return;
	itl->leaving = true;
	itl->nexus->luns[itl->lun] = NULL;
	if (itl->state == ITL_ATTACHED)
		itl_abort(itl);
}

static void leave_all(struct nexus *n)
{
	list_for_each (pos, &n->itls)
		itl_leave(list_entry(pos, struct scsi_itl, link));
}

/* ---- One LU: the beginning ---- */

/* The inventory is another one, as all other LUs of the nexus tell. */
static void tell_others(struct nexus *n, uint16_t lun)
{
	list_for_each (pos, &n->itls) {
		struct scsi_itl *itl = list_entry(pos, struct scsi_itl, link);

		if (itl->lun != lun)
			ua_add(itl, UA_LUNS_CHANGED);
	}
}

/* What INQUIRY said at this number before, of another disk or of none, is not true any more. */
static void itl_appeared(struct scsi_itl *itl)
{
	struct lun_part *part = itl->part;

	itl->part = NULL;
	ua_add(itl, UA_INQUIRY_CHANGED);
	tell_others(itl->nexus, itl->lun);
	lun_part_end(part);
}

static bool same_ports(const struct nexus *a, const struct nexus *b)
{
	return a->target == b->target && a->target_port == b->target_port &&
	       strcmp(a->initiator, b->initiator) == 0;
}

static void attached(struct unit_attach *a, int err);

/* One that the last nexus of these ports awaits is awaited by this one now. Other transports attach, too. */
static void await(struct unit_attach *a, void *arg)
{
	struct scsi_itl *earlier = container_of(a, struct scsi_itl, attach), *itl = arg;

	if (a->attached != attached)
		return;
	if (!earlier->leaving || earlier == itl || !same_ports(earlier->nexus, itl->nexus))
		return;
	list_remove(&earlier->awaited);
	list_push_back(&itl->awaits, &earlier->awaited);
	earlier->follower = itl;
}

static void attached(struct unit_attach *a, int err)
{
	struct scsi_itl *itl = container_of(a, struct scsi_itl, attach);
	struct nexus *n = itl->nexus;
	const bool begins = itl->begins;

	if (begins) {
		itl->begins = false;
		n->pending--;
	}
	if (err != 0) {
		if (begins)
			n->err = err;
		itl_forget(itl);
		return;
	}
	itl->state = ITL_ATTACHED;
	if (itl->leaving) {
		itl_abort(itl);
	} else {
		unit_visit_attached(a->channel, await, itl);
		n->luns[itl->lun] = itl;
		if (itl->part != NULL)
			itl_appeared(itl);
	}
	nexus_settle(n);
}

static void changed(struct unit_attach *a, unsigned changes, uint64_t origin)
{
	if (changes & LU_CHANGED_BLOCKS)
		unit_visit_tasks(a, scsi_task_overtaken);
	ua_changed(a, changes, origin);
}

/* A nexus that is lost must be rid of its tasks: what that needs is there from the start. */
struct scsi_itl *itl_create(struct nexus *n, uint16_t lun, struct scsi_lu *lu)
{
	struct scsi_itl *itl = malloc(sizeof(*itl));

	if (itl == NULL)
		return NULL;
	*itl = (struct scsi_itl){
		.nexus = n,
		.lu = lu,
		.lun = lun,
		.attach = {.nexus_id = n->id,
			   .loop = n->loop,
			   .attached = attached,
			   .changed = changed},
		.abort = {.unit = lu->unit,
			  .loop = n->loop,
			  .nexus_id = n->id,
			  .matches = is_of_nexus,
			  .done = aborted,
			  .parts = unit_parts_create(lu->unit)},
	};
	if (itl->abort.parts == NULL) {
		free(itl);
		return NULL;
	}
	list_init(&itl->link);
	list_init(&itl->awaited);
	order_init(itl);
	ua_add(itl, UA_POWER_ON);
	return itl;
}

/* ---- The nexus ---- */

static void nexus_end(struct nexus *n)
{
	free(n->luns);
	n->luns = NULL;
	loop_share_close(n->share);
	n->share = NULL;
	n->opening = false;
	if (n->closing)
		n->closed(n);
	else
		n->opened(n, n->err);
}

/* All that the beginning waited for is there, or all that the end waited for is gone. */
static void nexus_settle(struct nexus *n)
{
	if (n->pending != 0)
		return;
	if (n->opening && n->err == 0 && !n->closing) {
		n->opening = false;
		n->opened(n, 0);
		return;
	}
	if (n->opening)
		leave_all(n);
	else if (!n->closing)
		return;
	if (!list_empty(&n->itls))
		return;
	if (!n->joined) {
		nexus_end(n);
		return;
	}
	n->pending++;
	target_leave(n);
}

void nexus_hold(struct nexus *n)
{
	n->pending++;
}

void nexus_let_go(struct nexus *n)
{
	n->pending--;
	nexus_settle(n);
}

void nexus_left(struct nexus *n)
{
	n->pending--;
	n->joined = false;
	nexus_settle(n);
}

static void settle_message(struct loop_msg *msg)
{
	struct nexus *n = container_of(msg, struct nexus, msg);

	n->pending--;
	nexus_settle(n);
}

static void settle_later(struct nexus *n)
{
	n->pending++;
	n->msg.run = settle_message;
	loop_defer(n->loop, &n->msg);
}

void nexus_close(struct nexus *n)
{
	CHECK(!n->closing);
	n->closing = true;
	if (n->opening)
		return;
	tmf_nexus_lost(n);
	leave_all(n);
	settle_later(n);
}

void nexus_joined(struct nexus *n)
{
	list_for_each (pos, &n->itls) {
		struct scsi_itl *itl = list_entry(pos, struct scsi_itl, link);

		itl->begins = true;
		n->pending++;
		unit_attach(itl->lu->unit, &itl->attach);
	}
	n->pending--;
	nexus_settle(n);
}

void nexus_open(struct nexus *n)
{
	n->opening = true;
	n->closing = n->joined = false;
	n->pending = 0;
	n->serial = 0;
	list_init(&n->tmfs);
	list_init(&n->itls);
	n->luns = calloc(SCSI_LUNS, sizeof(struct scsi_itl *));
	n->share = loop_share_create(n->loop);
	n->err = n->luns != NULL && n->share != NULL ? unit_make_nexus_id(&n->id) : -ENOMEM;
	if (n->err != 0) {
		settle_later(n);
		return;
	}
	n->pending++;
	target_join(n);
}

/* ---- Changes of the target's LUNs ---- */

static struct scsi_itl *itl_at(struct nexus *n, uint16_t lun)
{
	list_for_each (pos, &n->itls) {
		struct scsi_itl *itl = list_entry(pos, struct scsi_itl, link);

		if (itl->lun == lun)
			return itl;
	}
	return NULL;
}

static void lun_comes(struct nexus *n, struct lun_part *part)
{
	struct scsi_itl *itl = part->itl;

	part->itl = NULL;
	if (n->closing || n->err != 0) {
		itl_destroy(itl);
		lun_part_end(part);
		nexus_settle(n);
		return;
	}
	itl->part = part;
	list_push_back(&n->itls, &itl->link);
	unit_attach(itl->lu->unit, &itl->attach);
}

/* One that is not here has left before, with the nexus. */
static void lun_goes(struct nexus *n, struct lun_part *part)
{
	struct scsi_itl *itl = itl_at(n, part->op->lun);

	if (itl == NULL) {
		lun_part_end(part);
		nexus_settle(n);
		return;
	}
	CHECK(itl->part == NULL);
	itl->part = part;
	tell_others(n, itl->lun);
	itl_leave(itl);
}

void nexus_follow(struct lun_part *part)
{
	if (part->itl != NULL)
		lun_comes(part->nexus, part);
	else
		lun_goes(part->nexus, part);
}
