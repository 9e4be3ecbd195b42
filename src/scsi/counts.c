/*
 * What log pages count. The unit counts I/O and the time with tasks; commands, what they verify and
 * their errors are counted here, by each loop in a row of its own, which any thread may sum up: no
 * lock and no atomic read-modify-write, as in unit/stats.c. Apart from log.c, because this runs with
 * every command.
 */
#include <errno.h>
#include <stdlib.h>

#include "scsi/impl.h"

struct lu_counts {
	uint64_t n[LU_COUNTERS]; /* those that the unit counts stay 0 */
} __attribute__((aligned(64)));

static uint64_t load(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static void store(uint64_t *at, uint64_t n)
{
	__atomic_store_n(at, n, __ATOMIC_RELAXED);
}

static uint64_t now_ns(const struct scsi_lu *lu)
{
	return loop_set_clock_ns(loop_set_of(unit_steward(lu->unit)));
}

int counts_create(struct scsi_lu *lu)
{
	const size_t bytes = unit_nloops(lu->unit) * sizeof(struct lu_counts);

	lu->counts = aligned_alloc(64, bytes);
	if (lu->counts == NULL)
		return -ENOMEM;
	memset(lu->counts, 0, bytes);
	lu->counts_from_ns = now_ns(lu);
	return 0;
}

void counts_destroy(struct scsi_lu *lu)
{
	free(lu->counts);
	lu->counts = NULL;
}

static void add(struct lu_counts *c, enum lu_counter counter, uint64_t n)
{
	store(&c->n[counter], load(&c->n[counter]) + n);
}

/* An error of the medium, as the initiator was told of it (SBC-3 4.18): one a command, however often the
 * block that failed was looked for. */
static void count_error(struct lu_counts *c, const struct scsi_task *task)
{
	const bool descriptors = (task->sense[0] & 0x7f) >= 0x72;
	const uint8_t key = task->sense[descriptors ? 1 : 2] & 0x0f;
	const uint8_t asc = task->sense[descriptors ? 2 : 12];

	if (key != 0x3 || task->unit_task.aborted)
		return;
	if (asc == 0x0c)
		add(c, COUNT_WRITE_ERRORS, 1);
	else if (asc == 0x11)
		add(c, task->cmd->flags & CMD_VERIFIES ? COUNT_VERIFY_ERRORS : COUNT_READ_ERRORS,
		    1);
}

static void count(struct lu_counts *c, const struct scsi_task *task)
{
	const unsigned shift = task->itl->lu->info->block_shift, flags = task->cmd->flags;
	const uint64_t nblocks = task->moved >> shift;

	if (flags & CMD_READS) {
		add(c, COUNT_READ_COMMANDS, 1);
		add(c, COUNT_BLOCKS_SENT, nblocks);
	}
	if (flags & CMD_WRITES) {
		add(c, COUNT_WRITE_COMMANDS, 1);
		add(c, COUNT_BLOCKS_RECEIVED, nblocks);
	}
	if (flags & CMD_VERIFIES && task->status == SCSI_GOOD && !task->unit_task.aborted)
		add(c, COUNT_VERIFY_BYTES, (uint64_t)extent_of(task).nblocks << shift);
}

void counts_add(const struct scsi_task *task)
{
	struct lu_counts *c = &task->itl->lu->counts[loop_index(task->nexus->loop)];

	if (task->cmd->flags & CMD_COUNTED)
		count(c, task);
	if (task->status == SCSI_CHECK_CONDITION)
		count_error(c, task);
}

static uint64_t less(uint64_t n, uint64_t part)
{
	return n - min_u64(n, part);
}

static void add_unit_counters(const struct scsi_lu *lu, uint64_t out[static LU_COUNTERS])
{
	struct unit_stats s;

	unit_stats_read(lu->unit, &s);
	out[COUNT_WRITE_BYTES] = s.op[IO_WRITE].bytes + s.op[IO_ZERO].bytes;
	out[COUNT_IDLE_NS] = less(s.now_ns, lu->counts_from_ns + s.busy_ns);
	out[COUNT_WRITE_NS] = s.op[IO_WRITE].total_ns + s.op[IO_ZERO].total_ns;
	/* What was read to be verified is told there. */
	out[COUNT_READ_BYTES] = less(s.op[IO_READ].bytes, out[COUNT_VERIFY_BYTES]);
	out[COUNT_READ_NS] = s.op[IO_READ].total_ns;
}

void counts_read(const struct scsi_lu *lu, uint64_t out[static LU_COUNTERS])
{
	const unsigned nloops = unit_nloops(lu->unit);

	memset(out, 0, LU_COUNTERS * sizeof(out[0]));
	for (unsigned i = 0; i < nloops; i++) {
		const struct lu_counts *c = &lu->counts[i];

		for (unsigned n = 0; n < LU_COUNTERS; n++)
			out[n] += load(&c->n[n]);
	}
	add_unit_counters(lu, out);
}
