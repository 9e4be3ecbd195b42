/*
 * A nexus at the logical units of its target: attaching when a session begins, aborting and
 * detaching when it is lost. Apart from task.c because nothing here is on the way of a command.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "scsi/impl.h"

/*
 * Unique in the process, also against nexuses that are gone: reservations and aborts name a nexus
 * by it. A counter would have to be shared by all loops and targets; 64 random bits do not.
 */
static int make_id(uint64_t *id)
{
	do {
		if (getrandom(id, sizeof(*id), 0) != (ssize_t)sizeof(*id))
			return -EIO;
	} while (*id == 0);
	return 0;
}

/* ---- The end ---- */

static void detach_all(struct nexus *n)
{
	for (unsigned i = 0; i < n->nitls; i++) {
		if (n->itls[i].attached)
			unit_detach(&n->itls[i].attach);
		free(n->itls[i].abort.parts);
	}
	free(n->itls);
	n->itls = NULL;
	n->nitls = 0;
}

/* Tasks run until the memory that a store lent them has left. */
static bool is_busy(const struct nexus *n)
{
	for (unsigned i = 0; i < n->nitls; i++) {
		if (n->itls[i].draining || n->itls[i].running != 0)
			return true;
	}
	return false;
}

static void close_if_quiet(struct nexus *n)
{
	if (n->pending != 0 || is_busy(n))
		return;
	detach_all(n);
	n->closed(n);
}

/* It cannot fail: nobody cancels it, and its memory was there. */
static void abort_done(struct unit_op *op, int err)
{
	struct scsi_itl *itl = container_of(op, struct scsi_itl, abort);

	CHECK(err == 0);
	itl->nexus->pending--;
	close_if_quiet(itl->nexus);
}

static bool is_of_nexus(const struct unit_op *op, const struct unit_task *t)
{
	return t->nexus_id == op->nexus_id;
}

static void close_message(struct loop_msg *msg)
{
	struct nexus *n = container_of(msg, struct nexus, msg);

	n->pending--;
	close_if_quiet(n);
}

static void abort_all(struct nexus *n)
{
	n->pending = n->nitls;
	for (unsigned i = 0; i < n->nitls; i++)
		unit_abort(&n->itls[i].abort);
}

void nexus_close(struct nexus *n)
{
	CHECK(!n->closing);
	n->closing = true;
	if (n->opening)
		return;
	abort_all(n);
	if (n->nitls == 0) {
		n->pending = 1;
		n->msg.run = close_message;
		loop_defer(n->loop, &n->msg);
	}
}

void nexus_quiet(struct nexus *n)
{
	if (n->closing)
		close_if_quiet(n);
}

/* ---- The beginning ---- */

static void opened_all(struct nexus *n)
{
	n->opening = false;
	if (n->closing || n->err != 0)
		detach_all(n);
	if (n->closing)
		n->closed(n);
	else
		n->opened(n, n->err);
}

static void attached(struct unit_attach *a, int err)
{
	struct scsi_itl *itl = container_of(a, struct scsi_itl, attach);
	struct nexus *n = itl->nexus;

	if (err != 0)
		n->err = err;
	itl->attached = err == 0;
	if (--n->pending == 0)
		opened_all(n);
}

static void open_message(struct loop_msg *msg)
{
	opened_all(container_of(msg, struct nexus, msg));
}

/* A nexus that is lost must be rid of its tasks: what that needs is there from the start. */
static int itl_init(struct scsi_itl *itl, struct nexus *n, struct scsi_lu *lu)
{
	*itl = (struct scsi_itl){
		.nexus = n,
		.lu = lu,
		.attach = {.nexus_id = n->id,
			   .loop = n->loop,
			   .attached = attached,
			   .changed = ua_changed},
		.abort = {.unit = lu->unit,
			  .loop = n->loop,
			  .nexus_id = n->id,
			  .matches = is_of_nexus,
			  .done = abort_done,
			  .parts = unit_parts_create(lu->unit)},
	};
	order_init(itl);
	ua_add(itl, UA_POWER_ON);
	return itl->abort.parts != NULL ? 0 : -ENOMEM;
}

static int itls_create(struct nexus *n)
{
	const struct scsi_target *t = n->target;
	int err = 0;

	if (t->nluns == 0)
		return 0;
	n->itls = calloc(t->nluns, sizeof(*n->itls));
	if (n->itls == NULL)
		return -ENOMEM;
	n->nitls = t->nluns;
	for (unsigned lun = 0; lun < SCSI_LUNS && err == 0; lun++) {
		if (t->luns[lun] != NULL)
			err = itl_init(&n->itls[t->slot[lun] - 1], n, t->luns[lun]);
	}
	return err;
}

void nexus_open(struct nexus *n)
{
	n->opening = true;
	n->closing = false;
	n->nitls = 0;
	n->itls = NULL;
	n->err = make_id(&n->id);
	if (n->err == 0)
		n->err = itls_create(n);
	if (n->err != 0 || n->nitls == 0) {
		n->msg.run = open_message;
		loop_defer(n->loop, &n->msg);
		return;
	}
	n->pending = n->nitls;
	for (unsigned i = 0; i < n->nitls; i++)
		unit_attach(n->itls[i].lu->unit, &n->itls[i].attach);
}
