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

static void abort_done(struct unit_op *op, int err)
{
	struct scsi_itl *itl = container_of(op, struct scsi_itl, abort);

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
	for (unsigned i = 0; i < n->nitls; i++) {
		struct scsi_itl *itl = &n->itls[i];

		itl->abort = (struct unit_op){
			.unit = itl->lu->unit,
			.loop = n->loop,
			.nexus_id = n->id,
			.matches = is_of_nexus,
			.done = abort_done,
		};
		unit_abort(&itl->abort);
	}
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

static void itl_init(struct scsi_itl *itl, struct nexus *n, uint16_t lun)
{
	*itl = (struct scsi_itl){
		.nexus = n,
		.lu = n->target->luns[lun],
		.attach = {.nexus_id = n->id,
			   .loop = n->loop,
			   .attached = attached,
			   .changed = ua_changed},
	};
	order_init(itl);
	ua_add(itl, UA_POWER_ON);
}

void nexus_open(struct nexus *n)
{
	const struct scsi_target *t = n->target;

	n->opening = true;
	n->closing = false;
	n->nitls = 0;
	n->itls = NULL;
	n->err = make_id(&n->id);
	if (n->err == 0 && t->nluns != 0) {
		n->itls = calloc(t->nluns, sizeof(*n->itls));
		n->err = n->itls != NULL ? 0 : -ENOMEM;
	}
	if (n->itls == NULL) {
		n->msg.run = open_message;
		loop_defer(n->loop, &n->msg);
		return;
	}
	n->nitls = n->pending = t->nluns;
	for (unsigned lun = 0; lun < SCSI_LUNS; lun++) {
		if (t->luns[lun] != NULL)
			itl_init(&n->itls[t->slot[lun] - 1], n, low_u16(lun));
	}
	for (unsigned i = 0; i < n->nitls; i++)
		unit_attach(n->itls[i].lu->unit, &n->itls[i].attach);
}
