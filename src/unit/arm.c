/*
 * Arming and disarming the range locks: nobody pays for them on a disk whose initiators know no
 * atomic updates. Apart because the argument why that is safe is one page of its own.
 *
 *   DISARMED --unit_arm: QUIESCE--> ARMED --ARM_IDLE_NS without a lock: QUIESCE--> DISARMED
 *                                     '------- refused, or not drained in time -----> ARMED
 *
 * The promise: while an update holds its lock and has seen what unit.h tells it to look at, every
 * write of others to its range either takes a lock (and so waits) or has left the store before.
 *
 * Arming. No I/O is in the store when `edit` of a QUIESCE runs, and every I/O that enters after it
 * enters by the armed view. So an I/O by the armed view finds no write in the store that came
 * without a lock, on any loop.
 *
 * Disarming, with a lock L on loop A that is granted at about the same time. `edit` of the disarming
 * QUIESCE reads how many locks are held, while every channel is closed.
 *
 *   - It counts L: it refuses, and the flag stays. So it does as long as L is held.
 *   - It does not count L, which was given back: its owner does nothing under it any more.
 *   - It does not count L, which is counted later. Then A did not know that it held L when it closed
 *     its channel: L is counted before A can know of it, A answered DRAINED after that, and `edit`
 *     reads after the last answer. So A first looks at the view, with L in hand, after its channel
 *     has closed. Either it looks before OPEN: it sees the old view, its I/O is parked, and
 *     refused -ESTALE by the new one, for it carries the generation of the old. Or after: it sees
 *     that the flag is gone, or that the locks were armed anew, by a QUIESCE which drained all.
 *
 * So the generation in the first I/O is what makes the look at the view and the entrance into the
 * store one step. Later I/O under the same lock needs none: L is counted by then, and the flag stays.
 *
 * Who was told that the locks are armed, and finds them disarmed, begins anew: that happens when it
 * was away for ARM_IDLE_NS. A QUIESCE to disarm is begun only when it is likely to succeed, and does
 * not hold up I/O for long when something hangs in the store.
 */
#include "unit/impl.h"

#include <errno.h>
#include <stdlib.h>

static bool is_armed(const struct unit *u)
{
	return (u->view->flags & UNIT_LOCKS_ARMED) != 0;
}

/* ---- Disarming ---- */

/* Nobody has, had or wanted a lock since the timer's last turn. */
static bool is_idle(const struct unit *u)
{
	struct range_lock_use use = range_lock_use(u->bdev);

	return use.held == 0 && use.granted == u->arming.granted && !u->arming.wanted;
}

static bool disarm_needless(struct unit_op *op)
{
	return !is_armed(op->unit) || !is_idle(op->unit);
}

static int disarm_edit(struct unit_op *op, struct unit_view *next)
{
	if (!is_idle(op->unit))
		return -EBUSY;
	next->flags &= ~(unsigned)UNIT_LOCKS_ARMED;
	return 0;
}

/* A timer that cannot start leaves them armed until the next unit_arm(). */
static void watch_on(struct unit_arming *a)
{
	if (!loop_timer_running(&a->timer))
		loop_timer_start(&a->timer, ARM_IDLE_NS);
}

static void disarm_done(struct unit_op *op, int err)
{
	struct unit *u = op->unit;

	u->arming.disarming = false;
	if (is_armed(u))
		watch_on(&u->arming);
}

static void timer_fired(struct loop_timer *timer)
{
	struct unit_arming *a = container_of(timer, struct unit_arming, timer);
	struct unit *u = container_of(a, struct unit, arming);
	bool idle = is_idle(u);

	a->granted = range_lock_use(u->bdev).granted;
	a->wanted = false;
	if (!idle || a->disarming) {
		watch_on(a);
		return;
	}
	a->disarming = true;
	a->disarm = (struct unit_op){
		.unit = u,
		.loop = u->steward,
		.needless = disarm_needless,
		.edit = disarm_edit,
		.timeout_ns = DISARM_TIMEOUT_NS,
		.done = disarm_done,
	};
	unit_quiesce(&a->disarm);
}

/* ---- Arming ---- */

/* Also told by those who find them armed: they are about to take a lock. */
static bool arm_needless(struct unit_op *op)
{
	struct unit_arming *a = &op->unit->arming;

	a->wanted = true;
	if (!is_armed(op->unit))
		return false;
	if (!a->disarming)
		watch_on(a);
	return true;
}

static int arm_edit(struct unit_op *op, struct unit_view *next)
{
	next->flags |= UNIT_LOCKS_ARMED;
	return loop_timer_start(&op->unit->arming.timer, ARM_IDLE_NS);
}

void unit_arm(struct unit_op *op)
{
	op->needless = arm_needless;
	op->edit = arm_edit;
	op->keep = NULL;
	op->act = NULL;
	op->changes = 0;
	unit_quiesce(op);
}

/* ---- Life ---- */

void arm_init(struct unit *u)
{
	loop_timer_init(&u->arming.timer, u->steward, timer_fired);
	loop_timer_init(&u->arming.disarm.timer, u->steward, NULL);
	list_init(&u->arming.disarm.link);
}

/* Nobody but the timer submits `disarm`, so it may be under way when the last nexus is gone. */
void arm_fini(struct unit *u)
{
	struct unit_arming *a = &u->arming;

	loop_timer_stop(&a->timer);
	loop_timer_stop(&a->disarm.timer);
	list_remove(&a->disarm.link);
	free(a->disarm.next);
	if (u->current == &a->disarm)
		u->current = NULL;
}
