/*
 * Runs: frames that came in one turn and whose sectors follow each other become one larger I/O. A frame
 * carries 1 to 8 KiB, and most of what an I/O costs is the same for 32 of them.
 *
 *   the first frame gathers -> the next one joins, or begins its own -> end of the turn: one I/O
 *
 * Each task of a run stays what it is: a flight with its own answer, which an ABORT may hit.
 */
#include "aoe/impl.h"

#include <errno.h>
#include <stdlib.h>

struct aoe_run {
	unsigned n;
	struct aoe_task *tasks[AOE_RUN_MAX]; /* the first one's unit_io does it */
	struct iovec iov[AOE_RUN_MAX];
};

static bool follows(const struct aoe_task *t, const struct aoe_task *first)
{
	const struct io *io = &first->uio.io;
	const bool transfers = io->op == IO_READ || io->op == IO_WRITE;

	return transfers && t->place == first->place && t->uio.io.op == io->op &&
	       t->from == io->off + io->len && (first->run == NULL || first->run->n < AOE_RUN_MAX);
}

static struct aoe_run *run_of(struct aoe_task *first)
{
	struct aoe_run *run = first->run;

	if (run != NULL)
		return run;
	run = malloc(sizeof(*run));
	if (run == NULL)
		return NULL;
	run->n = 1;
	run->tasks[0] = first;
	run->iov[0] = first->iov;
	first->run = run;
	first->uio.io.iov = run->iov;
	return run;
}

static bool join(struct aoe_task *t, struct aoe_task *first)
{
	struct aoe_run *run = follows(t, first) ? run_of(first) : NULL;

	if (run == NULL)
		return false;
	t->run = run;
	run->tasks[run->n] = t;
	run->iov[run->n++] = t->iov;
	first->uio.io.niov = run->n;
	first->uio.io.len += t->iov.iov_len;
	return true;
}

static void begin(struct aoe_disk *disk)
{
	struct aoe_task *first = disk->gathering;

	disk->gathering = NULL;
	list_remove(&disk->gathers);
	unit_submit(&first->uio);
}

void aoe_run_begin_all(struct aoe *aoe)
{
	while (!list_empty(&aoe->gathering))
		begin(list_entry(aoe->gathering.next, struct aoe_disk, gathers));
}

void aoe_run_submit(struct aoe_task *t)
{
	struct aoe_disk *disk = t->place->disk;

	if (disk->gathering != NULL) {
		if (join(t, disk->gathering))
			return;
		begin(disk);
	}
	disk->gathering = t;
	list_push_back(&disk->aoe->gathering, &disk->gathers);
}

struct aoe_task *aoe_run_first(struct aoe_task *t)
{
	return t->run != NULL ? t->run->tasks[0] : t;
}

/* An ABORT of the first one ends what it did for the others, too, perhaps before it was durable. */
static int result_for_all(const struct aoe_task *first)
{
	return first->unit_task.aborted ? -ECANCELED : first->uio.io.result;
}

static bool flush_failed(const struct aoe_task *first, int result)
{
	return first->uio.io.op == IO_FLUSH && result != 0 && result != -ECANCELED;
}

static void stand_alone(struct aoe_task *t, enum io_op op, int result)
{
	struct io *io = &t->uio.io;

	t->run = NULL;
	io->op = op;
	io->len = t->iov.iov_len;
	io->iov = &t->iov;
	io->niov = 1;
	io->result = result;
}

void aoe_run_end(struct aoe_task *t, void (*each)(struct aoe_task *t, bool of_a_run))
{
	struct aoe_run *run = t->run;
	enum io_op op;
	int result;

	if (run == NULL) {
		each(t, false);
		return;
	}
	result = result_for_all(t);
	/* The others never had another operation; the first one's may be a flush by now, which fails for all. */
	op = flush_failed(t, result) ? IO_FLUSH : run->tasks[1]->uio.io.op;
	for (unsigned i = 0; i < run->n; i++)
		stand_alone(run->tasks[i], op, result);
	for (unsigned i = 0; i < run->n; i++)
		each(run->tasks[i], op != IO_FLUSH);
	free(run);
}
