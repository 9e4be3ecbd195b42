/*
 * Commands about space (SBC-3 4.7): UNMAP, WRITE SAME, GET LBA STATUS. Apart from reads and writes
 * because they name far more blocks than they move bytes, and so go in steps: an abort, an atomic
 * write or a change of the disk waits for one step at most.
 *
 * What is promised, and holds:
 *
 *   UNMAP       Every block named is discarded, whole granules or not. Where the page says LBPRZ,
 *               the store zeroes a discarded range to its last byte, so all of them read zeros;
 *               parts of a granule keep their space, as blocks do that were deallocated and mapped
 *               again (SBC-3 4.7.3). Elsewhere they read as what they were, or as something else.
 *               Nothing is unmapped when any descriptor is wrong.
 *   WRITE SAME  Each block reads as the block sent. Zeros are left to the store, which may give
 *               space back only where UNMAP allows it; anything else is written, block by block.
 *   GET LBA     Deallocated is what the store has no data for. What was zeroed and not written
 *   STATUS      since may be among it: to the reader there is no difference.
 */
#include "scsi/impl.h"

/* Bytes a step: soon over on any disk. Steps end where granules do. */
#define STEP_BYTES (32 * MiB)

/* Where a step ends that begins at `at`. */
static uint64_t step_len(const struct scsi_task *task)
{
	const struct bdev_info *info = task_info(task);
	const uint64_t granule = (uint64_t)info->discard_blocks << info->block_shift;
	const uint64_t offset = (uint64_t)info->discard_alignment << info->block_shift;
	uint64_t end = task->step_at + STEP_BYTES;

	if (task->step_left <= STEP_BYTES)
		return task->step_left;
	if (granule > info->block_size && granule <= STEP_BYTES / 2 && end > offset)
		end -= (end - offset) % granule;
	return end - task->step_at;
}

/* Takes the next step off what is left. */
static void step_io(struct scsi_task *task, enum io_op op, void (*next)(struct scsi_task *task))
{
	const uint64_t at = task->step_at, len = step_len(task);

	task->step_at += len;
	task->step_left -= len;
	task_io(task, op, at, len, next);
}

static void step_over(struct scsi_task *task, uint64_t lba, uint64_t nblocks)
{
	task->step_at = lba << task_info(task)->block_shift;
	task->step_left = nblocks << task_info(task)->block_shift;
}

/* ---- UNMAP (5.28) ---- */

#define UNMAP_HEADER     8
#define UNMAP_DESCRIPTOR 16

struct unmap {
	uint64_t lba;
	uint32_t nblocks;
};

/* Complete descriptors that both lengths of the list cover and that have arrived. What is cut off
 * does not count, says the standard. */
static unsigned unmap_count(const struct scsi_task *task)
{
	struct reader r = gathered_reader(task);
	const unsigned data_len = read_be16(&r);
	unsigned len = read_be16(&r);

	len = low_u32(min_u64(len, gathered_len(task) - UNMAP_HEADER));
	len = low_u32(
		min_u64(len, data_len > UNMAP_HEADER - 2 ? data_len - (UNMAP_HEADER - 2) : 0));
	return len / UNMAP_DESCRIPTOR;
}

static struct unmap unmap_at(const struct scsi_task *task, unsigned index)
{
	struct reader r = gathered_reader(task);
	struct unmap u;

	read_bytes(&r, UNMAP_HEADER + (size_t)index * UNMAP_DESCRIPTOR);
	u.lba = read_be64(&r);
	u.nblocks = read_be32(&r);
	return u;
}

static bool unmap_check(struct scsi_task *task)
{
	const uint64_t most = LIMIT_UNMAP_BYTES >> task_info(task)->block_shift;
	const unsigned n = unmap_count(task);
	uint64_t sum = 0;

	if (n > LIMIT_UNMAP_DESCRIPTORS) {
		task_bad_parameter(task, 2, 7);
		return false;
	}
	for (unsigned i = 0; i < n; i++) {
		const struct unmap u = unmap_at(task, i);

		if (!task_check_range(task, u.lba, u.nblocks))
			return false;
		sum += u.nblocks;
		if (sum > most) {
			task_bad_parameter(task, UNMAP_HEADER + i * UNMAP_DESCRIPTOR + 8, 7);
			return false;
		}
	}
	return true;
}

static void unmap_next(struct scsi_task *task)
{
	const unsigned n = unmap_count(task);

	while (task->step_left == 0 && task->step_index < n) {
		const struct unmap u = unmap_at(task, task->step_index++);

		step_over(task, u.lba, u.nblocks);
	}
	if (task->step_left != 0)
		step_io(task, IO_DISCARD, unmap_next);
	else
		scsi_task_end(task);
}

static void unmap_length_error(struct scsi_task *task)
{
	task_sense_data(task, &(struct sense_data){.sense = SENSE_PARAMETER_LIST_LENGTH,
						   .has_field = true,
						   .field_byte = 7,
						   .field_bit = 7});
	scsi_task_end(task);
}

static void unmap_gathered(struct scsi_task *task)
{
	task->step_index = 0;
	task->step_left = 0;
	if (gathered_len(task) < load_be16(task->cdb + 7))
		unmap_length_error(task);
	else if (unmap_check(task))
		unmap_next(task);
	else
		scsi_task_end(task);
}

void cmd_unmap(struct scsi_task *task)
{
	const uint16_t len = load_be16(task->cdb + 7);

	if (len == 0)
		scsi_task_end(task);
	else if (len < UNMAP_HEADER)
		unmap_length_error(task);
	else
		gather(task, len, unmap_gathered);
}

/* ---- WRITE SAME (5.43, 5.44) ---- */

#define SAME_NDOB  0x01
#define SAME_UNMAP 0x08

static void same_zero(struct scsi_task *task)
{
	if (task->step_left != 0)
		step_io(task, IO_ZERO, same_zero);
	else
		scsi_task_end(task);
}

static void same_zero_begin(struct scsi_task *task)
{
	const struct extent e = extent_of(task);

	task->io_flags = task->cdb[1] & SAME_UNMAP ? IO_MAY_UNMAP : 0;
	step_over(task, e.lba, e.nblocks);
	same_zero(task);
}

static bool is_zero(struct reader r)
{
	const uint8_t *p = r.p;
	const size_t len = reader_left(&r);

	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static void same_gathered(struct scsi_task *task)
{
	static const struct plan plan = {{STEP_WRITE, STEP_END}};
	const struct extent e = extent_of(task);

	if (is_zero(gathered_reader(task))) {
		same_zero_begin(task);
	} else {
		data_from_pattern(task);
		task->io_flags = 0;
		stream(task, &plan, e.lba, e.nblocks, NULL);
	}
}

/* No block: WSNZ says that we do not take that for "to the end of the disk". */
static bool same_check(struct scsi_task *task)
{
	const struct extent e = extent_of(task);

	if (task->cdb[1] & SAME_UNMAP && !lu_can_unmap(task->itl->lu))
		task_bad_field(task, 1, 3);
	else if (e.nblocks == 0 || e.nblocks > LIMIT_SAME_BYTES >> task_info(task)->block_shift)
		task_bad_field(task, extent_field(task), 7);
	else
		task_check_range(task, e.lba, e.nblocks);
	return !scsi_task_stopped(task);
}

void cmd_write_same(struct scsi_task *task)
{
	const uint32_t block_size = task_info(task)->block_size;

	if (!same_check(task)) {
		scsi_task_end(task);
	} else if (task->cdb[1] & SAME_NDOB) {
		same_zero_begin(task);
	} else if (!task->writes || task->expected_out != block_size) {
		scsi_task_sense(task, SENSE_INVALID_FIELD_IN_INFORMATION_UNIT);
		scsi_task_end(task);
	} else {
		gather(task, block_size, same_gathered);
	}
}

/* ---- GET LBA STATUS (5.4) ---- */

#define STATUS_HEADER     8
#define STATUS_DESCRIPTOR 16
#define STATUS_QUERIES    64 /* a command; the initiator asks again from where it ends */

enum { STATUS_MAPPED = 0, STATUS_DEALLOCATED = 1 };

#define STATUS_BYTES (STATUS_HEADER + STATUS_QUERIES * STATUS_DESCRIPTOR)

/* The answer is put together in the task's memory; what stands in its length field is true all the
 * time. */
static void status_add(uint8_t *answer, uint64_t lba, uint32_t nblocks, uint8_t status)
{
	uint32_t len = load_be32(answer) + 4;
	uint8_t *last = answer + len - STATUS_DESCRIPTOR;

	if (len > STATUS_HEADER && last[12] == status &&
	    nblocks <= UINT32_MAX - load_be32(last + 8)) {
		store_be32(last + 8, load_be32(last + 8) + nblocks);
		return;
	}
	last += STATUS_DESCRIPTOR;
	store_be64(last, lba);
	store_be32(last + 8, nblocks);
	last[12] = status;
	store_be32(answer, len + STATUS_DESCRIPTOR - 4);
}

static void status_send(struct scsi_task *task, const uint8_t *answer)
{
	struct writer w;

	if (!reply_begin(task, &w, load_be32(task->cdb + 10)))
		return;
	write_bytes(&w, answer, load_be32(answer) + 4);
	reply_send(task, &w);
}

static void status_query(struct scsi_task *task);

/* A block that is a hole only in part is mapped. */
static void status_found(struct scsi_task *task)
{
	const unsigned shift = task_info(task)->block_shift;
	const struct io_extent found = task_extent(task);
	uint8_t *answer = task_scratch(task, STATUS_BYTES);
	uint64_t nblocks = found.len_bytes >> shift;
	const bool hole = found.hole && nblocks != 0;

	if (!hole && (found.hole || nblocks << shift != found.len_bytes))
		nblocks++;
	status_add(answer, task->step_at >> shift, low_u32(nblocks),
		   hole ? STATUS_DEALLOCATED : STATUS_MAPPED);
	task->step_at += nblocks << shift;
	task->step_left -= nblocks << shift;
	task->step_index++;
	status_query(task);
}

/* Until there is nothing left to ask about, or more is there than the initiator takes. */
static void status_query(struct scsi_task *task)
{
	const uint64_t most = (uint64_t)UINT32_MAX << task_info(task)->block_shift;
	const uint8_t *answer = task_scratch(task, STATUS_BYTES);

	if (task->step_left == 0 || task->step_index == STATUS_QUERIES ||
	    load_be32(answer) + 4 > max_u64(load_be32(task->cdb + 10), STATUS_HEADER))
		status_send(task, answer);
	else
		task_io(task, IO_EXTENT, task->step_at, min_u64(task->step_left, most),
			status_found);
}

void cmd_get_lba_status(struct scsi_task *task)
{
	const uint64_t lba = load_be64(task->cdb + 2), capacity = task_capacity(task);
	uint8_t *answer;

	/* One block must be there: the answer has a descriptor. */
	if (!task_check_range(task, lba, 1)) {
		scsi_task_end(task);
		return;
	}
	answer = task_scratch(task, STATUS_BYTES);
	if (answer == NULL)
		return;
	store_be32(answer, STATUS_HEADER - 4);
	task->step_index = 0;
	step_over(task, lba, capacity - lba);
	status_query(task);
}
