/*
 * Task management functions (SAM-5 clause 7): which tasks they end, at which logical units, what else a
 * reset does there, and what can be asked. Apart from task.c because nothing here is on the way of a command.
 *
 *   for each LU:  ABORT --------------------------.
 *                 PUBLISH of the unit attention --+--> PUBLISH or QUIESCE for the rest of a reset,
 *                 and mode parameters (a reset)        if there is any --> the last LU: done
 *
 * The unit attention follows the ABORT to each loop at once: a client whose commands were dropped
 * hears why, however long another's hang in the store. A reservation goes when no command of its
 * holder is left that could still write, and WCE or SWP come back with a flush behind the last write.
 */
#include <errno.h>
#include <stdlib.h>

#include "scsi/impl.h"

/* One function at one LU. */
struct tmf_part {
	struct scsi_tmf *tmf;
	struct scsi_itl *itl;
	struct unit_op abort, tell, restore;
	struct io flush;
	unsigned waiting; /* operations under way */
	bool aborting;    /* `abort` is one of them */
	bool restoring, failed;
	/* What `tell` found, and leaves to `restore`: others may set it anew as soon as they are told. */
	uint64_t holder;
	uint32_t reserved;
	bool flushes;
};

/* ---- Victims: on any loop, at any time the same answer ---- */

static const struct tmf_part *abort_part(const struct unit_op *op)
{
	return container_of(op, struct tmf_part, abort);
}

static const struct scsi_task *task_of(const struct unit_task *t)
{
	return container_of(t, struct scsi_task, unit_task);
}

static bool is_older(const struct scsi_tmf *tmf, const struct unit_task *t)
{
	return task_of(t)->serial <= tmf->serial;
}

static bool is_task(const struct unit_op *op, const struct unit_task *t)
{
	const struct scsi_tmf *tmf = abort_part(op)->tmf;

	return scsi_task_is(t) && t->nexus_id == op->nexus_id && task_of(t)->tag == tmf->tag &&
	       is_older(tmf, t);
}

static bool is_of_set(const struct unit_op *op, const struct unit_task *t)
{
	return scsi_task_is(t) && t->nexus_id == op->nexus_id && is_older(abort_part(op)->tmf, t);
}

/* Whoever's, the unit's own work on the whole disk included, which knows how to go on (job.c). */
static bool is_of_lu(const struct unit_op *op, const struct unit_task *t)
{
	return t->nexus_id != op->nexus_id || is_of_set(op, t);
}

/* ---- The end ---- */

static void tmf_end(struct scsi_tmf *tmf)
{
	struct nexus *n = tmf->nexus;

	list_remove(&tmf->link);
	free(tmf->parts);
	tmf->parts = NULL;
	tmf->done(tmf, tmf->response);
	nexus_let_go(n);
}

static void end_message(struct loop_msg *msg)
{
	tmf_end(container_of(msg, struct scsi_tmf, msg));
}

static void end_later(struct scsi_tmf *tmf, enum scsi_tmf_response response)
{
	tmf->response = response;
	tmf->msg.run = end_message;
	loop_defer(tmf->nexus->loop, &tmf->msg);
}

static void part_end(struct tmf_part *part)
{
	struct scsi_tmf *tmf = part->tmf;
	struct scsi_itl *itl = part->itl;

	if (part->failed)
		tmf->response = SCSI_TMF_FAILED;
	itl->tmfs--;
	itl_settle(itl);
	if (--tmf->waiting == 0)
		tmf_end(tmf);
}

/* ---- A reset: what clients have set becomes what it was (SAM-5 6.3.3, SPC-4 6.11, SPC-2 5.5) ---- */

static void restore_mode(const struct tmf_part *part, struct unit_view *next)
{
	struct lu_state *state = lu_state_edit(next);

	state->mode = state->mode_saved;
	mode_apply(part->itl->lu, next);
}

static int edit_tell(struct unit_op *op, struct unit_view *next)
{
	struct tmf_part *part = container_of(op, struct tmf_part, tell);
	const struct lu_state *state = lu_state_of(next);

	part->holder = (next->flags & UNIT_HOLDER_KEPT) == 0 ? next->holder : 0;
	part->reserved = state->reserved;
	part->flushes = mode_needs_flush(state->mode, state->mode_saved);
	if (!part->flushes)
		restore_mode(part, next);
	return 0;
}

/* What a nexus loses is its own reservation only (SAM-5 6.3.4). */
static int edit_tell_nexus(struct unit_op *op, struct unit_view *next)
{
	struct tmf_part *part = container_of(op, struct tmf_part, tell);

	part->holder = next->holder == op->nexus_id ? next->holder : 0;
	part->reserved = lu_state_of(next)->reserved;
	part->flushes = false;
	return 0;
}

/* The same holder may have reserved it anew. */
static bool holds_what_was_found(const struct tmf_part *part, const struct unit_view *view)
{
	return view->holder != 0 && view->holder == part->holder &&
	       lu_state_of(view)->reserved == part->reserved;
}

static int edit_restore(struct unit_op *op, struct unit_view *next)
{
	const struct tmf_part *part = container_of(op, struct tmf_part, restore);

	if (holds_what_was_found(part, next))
		next->holder = 0;
	if (part->flushes)
		restore_mode(part, next);
	return 0;
}

static void flushed(struct io *io)
{
	unit_op_acted(&container_of(io, struct tmf_part, flush)->restore, io->result);
}

/* On the steward's loop. */
static void flush(struct unit_op *op)
{
	struct tmf_part *part = container_of(op, struct tmf_part, restore);

	part->flush = (struct io){.op = IO_FLUSH, .done = flushed, .loop = loop_self()};
	bdev_submit(unit_bdev(op->unit), &part->flush);
}

static bool needs_restore(const struct tmf_part *part)
{
	return part->flushes || holds_what_was_found(part, itl_view(part->itl));
}

static void part_went_on(struct tmf_part *part, int err);

static void restored(struct unit_op *op, int err)
{
	part_went_on(container_of(op, struct tmf_part, restore), err);
}

static void restore(struct tmf_part *part)
{
	part->restoring = true;
	part->waiting++;
	part->restore = (struct unit_op){
		.unit = part->itl->lu->unit,
		.loop = part->tmf->nexus->loop,
		.edit = edit_restore,
		.changes = part->flushes ? LU_CHANGED_MODE : 0,
		.done = restored,
	};
	if (part->flushes) {
		part->restore.act = flush;
		part->restore.timeout_ns = TASK_DRAIN_NS;
		unit_quiesce(&part->restore);
	} else {
		unit_publish(&part->restore);
	}
}

/* ---- Those that only ask ---- */

/* The same tasks that an ABORT would end. */
static enum scsi_tmf_response ask_tasks(struct scsi_tmf *tmf, const struct scsi_itl *itl);

/* The byte before the codes: the sense key, and whether there is more than one (SAM-5 7.10, UADE
 * DEPTH). */
enum { UADE_ONE = 0x10, UADE_MORE = 0x20 };

/* The next unit attention, which stays. */
static enum scsi_tmf_response ask_event(struct scsi_tmf *tmf, const struct scsi_itl *itl)
{
	uint8_t sense[SENSE_BYTES_MAX];
	struct sense_data data = {.sense = SENSE_NONE};
	const unsigned n = ua_look(itl, &data.sense);

	if (n == 0)
		return SCSI_TMF_COMPLETE;
	sense_build(sense, &data, SENSE_DESCRIPTOR);
	memcpy(tmf->event, sense + 1, sizeof(tmf->event));
	tmf->event[0] |= n == 1 ? UADE_ONE : UADE_MORE;
	return SCSI_TMF_SUCCEEDED;
}

/* ---- The table ---- */

struct reset {
	int (*tell)(struct unit_op *op, struct unit_view *next);
	unsigned changes;
	bool of_nexus; /* who asks is the one that is told */
};

static const struct reset reset_lu = {edit_tell, LU_CHANGED_RESET, false};
static const struct reset reset_nexus = {edit_tell_nexus, LU_CHANGED_NEXUS, true};

static const struct {
	bool (*matches)(const struct unit_op *op, const struct unit_task *t);
	const struct reset *reset; /* NULL: it is none */
	bool all_luns;
	/* Instead of all that. */
	enum scsi_tmf_response (*ask)(struct scsi_tmf *tmf, const struct scsi_itl *itl);
} functions[] = {
	[SCSI_ABORT_TASK] = {is_task},
	[SCSI_ABORT_TASK_SET] = {is_of_set},
	[SCSI_LU_RESET] = {is_of_lu, &reset_lu},
	[SCSI_TARGET_RESET] = {is_of_lu, &reset_lu, .all_luns = true},
	[SCSI_NEXUS_RESET] = {is_of_set, &reset_nexus, .all_luns = true},
	[SCSI_QUERY_TASK] = {is_task, .ask = ask_tasks},
	[SCSI_QUERY_TASK_SET] = {is_of_set, .ask = ask_tasks},
	[SCSI_QUERY_EVENT] = {.ask = ask_event},
};

static enum scsi_tmf_response ask_tasks(struct scsi_tmf *tmf, const struct scsi_itl *itl)
{
	const struct tmf_part part = {
		.tmf = tmf,
		.abort = {.nexus_id = tmf->nexus->id, .matches = functions[tmf->function].matches},
	};

	return unit_has_victim(&itl->attach, &part.abort) ? SCSI_TMF_SUCCEEDED : SCSI_TMF_COMPLETE;
}

/* ---- One LU ---- */

static void part_went_on(struct tmf_part *part, int err)
{
	const bool resets = functions[part->tmf->function].reset != NULL;

	part->failed = part->failed || err != 0;
	if (--part->waiting != 0)
		return;
	if (resets && !part->failed && !part->restoring && needs_restore(part))
		restore(part);
	else
		part_end(part);
}

static void aborted(struct unit_op *op, int err)
{
	struct tmf_part *part = container_of(op, struct tmf_part, abort);

	part->aborting = false;
	part_went_on(part, err);
}

static void told(struct unit_op *op, int err)
{
	part_went_on(container_of(op, struct tmf_part, tell), err);
}

static void part_begin(struct tmf_part *part)
{
	const struct nexus *n = part->tmf->nexus;
	const struct reset *reset = functions[part->tmf->function].reset;
	struct unit *unit = part->itl->lu->unit;

	part->itl->tmfs++;
	part->waiting = 1;
	part->aborting = true;
	part->abort = (struct unit_op){
		.unit = unit,
		.loop = n->loop,
		.nexus_id = n->id,
		.matches = functions[part->tmf->function].matches,
		.done = aborted,
	};
	unit_abort(&part->abort);
	if (reset == NULL)
		return;
	part->waiting++;
	part->tell = (struct unit_op){
		.unit = unit,
		.loop = n->loop,
		.nexus_id = reset->of_nexus ? n->id : 0, /* 0: every nexus is told */
		.edit = reset->tell,
		.changes = reset->changes,
		.done = told,
	};
	unit_publish(&part->tell);
}

/* ---- All of them ---- */

/* The LUs that it is about, from `lun` on. */
static unsigned last_lun(const struct scsi_tmf *tmf, unsigned *lun)
{
	if (functions[tmf->function].all_luns) {
		*lun = 0;
		return SCSI_LUNS;
	}
	*lun = lun_decode(tmf->lun);
	return *lun < SCSI_LUNS ? *lun + 1 : *lun;
}

static unsigned count_luns(const struct scsi_tmf *tmf)
{
	unsigned lun, end = last_lun(tmf, &lun), n = 0;

	for (; lun < end; lun++)
		n += tmf->nexus->luns[lun] != NULL;
	return n;
}

static void begin_parts(struct scsi_tmf *tmf, unsigned nluns)
{
	unsigned lun, end = last_lun(tmf, &lun), i = 0;

	tmf->parts = calloc(nluns, sizeof(*tmf->parts));
	if (tmf->parts == NULL) {
		end_later(tmf, SCSI_TMF_FAILED);
		return;
	}
	tmf->waiting = tmf->nparts = nluns;
	for (; lun < end; lun++) {
		struct scsi_itl *itl = tmf->nexus->luns[lun];

		if (itl == NULL)
			continue;
		tmf->parts[i] = (struct tmf_part){.tmf = tmf, .itl = itl};
		part_begin(&tmf->parts[i++]);
	}
}

void scsi_tmf_run(struct scsi_tmf *tmf)
{
	struct nexus *n = tmf->nexus;
	const unsigned nluns = count_luns(tmf);

	CHECK(!n->opening && !n->closing);
	nexus_hold(n);
	list_push_back(&n->tmfs, &tmf->link);
	tmf->serial = n->serial;
	tmf->response = SCSI_TMF_COMPLETE;
	tmf->parts = NULL;
	tmf->waiting = tmf->nparts = 0;
	memset(tmf->event, 0, sizeof(tmf->event));
	if (nluns == 0)
		end_later(tmf,
			  functions[tmf->function].all_luns ? SCSI_TMF_COMPLETE : SCSI_TMF_NO_LU);
	else if (functions[tmf->function].ask != NULL)
		end_later(tmf, functions[tmf->function].ask(tmf, n->luns[lun_decode(tmf->lun)]));
	else
		begin_parts(tmf, nluns);
}

void tmf_nexus_lost(struct nexus *n)
{
	list_for_each (pos, &n->tmfs) {
		struct scsi_tmf *tmf = list_entry(pos, struct scsi_tmf, link);

		for (unsigned i = 0; i < tmf->nparts; i++) {
			if (tmf->parts[i].aborting)
				unit_op_cancel(&tmf->parts[i].abort);
		}
	}
}
