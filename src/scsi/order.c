/*
 * The ordering barrier: task attributes inside one nexus (SAM-5 8.6; task sets are per nexus,
 * TST=001b). On the way of a task without any, it is one comparison and one addition.
 *
 *   HEAD OF QUEUE  passes at once
 *   SIMPLE         waits for older ORDERED and HEAD OF QUEUE tasks to end
 *   ORDERED        waits for all older tasks to end
 *
 * Nothing passes while an earlier nexus of the same two ports still has a task in the store (nexus.c):
 * what that writes must not come behind what is written now.
 */
#include "scsi/impl.h"

static bool blocks_others(enum scsi_attr attr)
{
	return attr == SCSI_ORDERED || attr == SCSI_HEAD_OF_QUEUE;
}

/* Past those that run; who waits is the caller's to look at. */
static bool may_pass(const struct scsi_itl *itl, enum scsi_attr attr)
{
	if (!list_empty(&itl->awaits))
		return false;
	switch (attr) {
	case SCSI_HEAD_OF_QUEUE:
		return true;
	case SCSI_ORDERED:
		return itl->running == 0;
	default:
		return itl->barriers == 0;
	}
}

static void pass(struct scsi_itl *itl, struct scsi_task *task)
{
	task->barrier = blocks_others(task->attr);
	itl->running++;
	itl->barriers += task->barrier;
}

/* The oldest ones that may go now. On a stack of its own: a task that starts may end, and so may
 * the task whose end made room; neither may happen while somebody walks over tasks. One that is
 * leaving settles here for the same reason: it may be freed. */
static void drain(struct loop_msg *msg)
{
	struct scsi_itl *itl = container_of(msg, struct scsi_itl, drain);

	itl->draining = false;
	while (!list_empty(&itl->waiting) && !itl->leaving) {
		struct scsi_task *task = list_entry(itl->waiting.next, struct scsi_task, link);

		if (!may_pass(itl, task->attr))
			break;
		list_remove(&task->link);
		pass(itl, task);
		scsi_task_start(task);
	}
	itl_settle(itl);
}

void order_init(struct scsi_itl *itl)
{
	itl->running = itl->barriers = 0;
	itl->draining = false;
	itl->drain.run = drain;
	list_init(&itl->waiting);
	list_init(&itl->awaits);
}

void order_drain(struct scsi_itl *itl)
{
	if (itl->draining)
		return;
	itl->draining = true;
	loop_defer(itl->nexus->loop, &itl->drain);
}

bool order_enter(struct scsi_task *task)
{
	struct scsi_itl *itl = task->itl;

	if (may_pass(itl, task->attr) &&
	    (list_empty(&itl->waiting) || task->attr == SCSI_HEAD_OF_QUEUE)) {
		pass(itl, task);
		return true;
	}
	if (task->attr == SCSI_HEAD_OF_QUEUE)
		list_push_front(&itl->waiting, &task->link);
	else
		list_push_back(&itl->waiting, &task->link);
	return false;
}

void order_leave(struct scsi_task *task)
{
	struct scsi_itl *itl = task->itl;

	if (task->stage == TASK_WAITING) {
		list_remove(&task->link);
	} else {
		itl->running--;
		itl->barriers -= task->barrier;
	}
	if (!list_empty(&itl->waiting) || itl->leaving)
		order_drain(itl);
}
