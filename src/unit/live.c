/*
 * Size and write protection of a unit that is in use: asked for by who exports it. What the store
 * does by itself comes in by the watch (watch.c).
 */
#include "unit/impl.h"

#include <errno.h>

int live_init(struct unit *u)
{
	u->live.usage = (struct unit_usage){.allocated = UINT64_MAX, .available = UINT64_MAX};
	/* One at a time: a probe that hangs is not helped by another. */
	return work_lane_create(&u->live.lane, u->set, 1);
}

void live_fini(struct unit *u)
{
	watch_destroy(u->live.watch);
	work_lane_destroy(u->live.lane);
}

/* ---- Size ---- */

bool live_take_size(const struct unit *u, struct unit_view *next)
{
	uint64_t size = bdev_nblocks(u->bdev) << bdev_info(u->bdev)->block_shift;

	if (size <= next->size)
		return false;
	next->size = size;
	return true;
}

static struct unit_op *op_of(struct work *work)
{
	return container_of(work, struct unit_op, resize.work);
}

static void resize_run(struct work *work)
{
	struct unit_op *op = op_of(work);
	struct bdev *b = op->unit->bdev;
	uint64_t size = op->resize.size, nblocks = size >> bdev_info(b)->block_shift;

	op->err = size != 0 && nblocks == 0 ? -ERANGE : bdev_resize(b, nblocks);
}

static void resize_done(struct work *work)
{
	struct unit_op *op = op_of(work);

	if (op->err == 0)
		unit_publish(op);
	else
		op->done(op, op->err);
}

static int resize_edit(struct unit_op *op, struct unit_view *next)
{
	op->changes = live_take_size(op->unit, next) ? UNIT_CHANGED_SIZE : 0;
	return 0;
}

/* The store first, and only then its turn at the steward: while the store takes its time, and be it for
 * ever, everything else goes on. Nobody uses what is not there yet, so nothing needs to drain. */
void unit_resize(struct unit_op *op, uint64_t size)
{
	op->edit = resize_edit;
	op->resize.size = size;
	op->resize.work = (struct work){.run = resize_run, .done = resize_done, .loop = op->loop};
	work_submit(op->unit->live.lane, &op->resize.work);
}

/* ---- Write protection ---- */

bool live_protect(const struct unit *u, struct unit_view *next)
{
	const unsigned reasons = UNIT_PROTECTED_BY_STORE | UNIT_PROTECTED_BY_EXPORT;
	unsigned before = next->flags;

	if (bdev_info(u->bdev)->read_only || (next->flags & reasons) != 0)
		next->flags |= UNIT_WRITE_PROTECTED;
	else
		next->flags &= ~(unsigned)UNIT_WRITE_PROTECTED;
	return ((before ^ next->flags) & UNIT_WRITE_PROTECTED) != 0;
}

static int protect_edit(struct unit_op *op, struct unit_view *next)
{
	next->flags |= UNIT_PROTECTED_BY_EXPORT;
	op->changes = live_protect(op->unit, next) ? UNIT_CHANGED_PROTECTION : 0;
	return 0;
}

static int unprotect_edit(struct unit_op *op, struct unit_view *next)
{
	if (bdev_info(op->unit->bdev)->read_only || (next->flags & UNIT_PROTECTED_BY_STORE) != 0)
		return -EROFS;
	next->flags &= ~(unsigned)UNIT_PROTECTED_BY_EXPORT;
	op->changes = live_protect(op->unit, next) ? UNIT_CHANGED_PROTECTION : 0;
	return 0;
}

void unit_protect(struct unit_op *op, enum unit_protection protection)
{
	op->edit = protection == UNIT_READ_ONLY ? protect_edit : unprotect_edit;
	unit_publish(op);
}
