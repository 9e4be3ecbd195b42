/*
 * The data that plans work with when it does not arrive segment by segment: all of it gathered
 * first, or one block of it over and over; and what is done with data in memory.
 */
#include "scsi/data.h"

#include <errno.h>

/* ---- Gathering ---- */

static const struct plan gather_plan = {{STEP_RECEIVE}};

void gather(struct scsi_task *task, uint32_t len, void (*next)(struct scsi_task *task))
{
	/* Who holds a lock waits for no initiator. */
	CHECK(len <= SCSI_SEG_MAX && !task->keeps && !task->locks);
	memset(&task->kept, 0, sizeof(task->kept));
	task->keeps = true;
	task->data_len = len;
	plan_begin(task, &gather_plan, task->writes ? min_u64(len, task->expected_out) : 0, next);
	task->kept.len = low_u32(task->move_len);
	task_step(task);
}

void seg_keep(struct scsi_seg *seg)
{
	struct scsi_task *task = seg->task;

	if (task->plan != &gather_plan)
		return;
	CHECK(seg->niov == 1 && seg->iov[0].iov_base == seg->buf->data);
	task->kept.buf = seg->buf;
	seg->buf = NULL;
}

uint32_t gathered_len(const struct scsi_task *task)
{
	return task->keeps ? task->kept.len : 0;
}

struct reader gathered_reader(const struct scsi_task *task)
{
	const uint32_t len = gathered_len(task);

	return len == 0 ? reader_of(NULL, 0) : reader_of(task->kept.buf->data, len);
}

uint8_t *task_scratch(struct scsi_task *task, uint32_t len)
{
	struct loop_buf *buf;

	if (task->keeps)
		return task->kept.buf->data;
	buf = loop_share_get(task->nexus->share, len);
	if (buf == NULL) {
		task_errno(task, -ENOMEM, IO_READ, 0);
		scsi_task_end(task);
		return NULL;
	}
	memset(buf->data, 0, len);
	memset(&task->kept, 0, sizeof(task->kept));
	task->kept.buf = buf;
	task->keeps = true;
	return buf->data;
}

void kept_release(struct scsi_task *task)
{
	loop_buf_put(task->kept.buf);
	loop_buf_put(task->kept.pattern);
	task->keeps = false;
}

/* ---- Serving plans ---- */

void data_from_gathered(struct scsi_task *task, uint32_t off)
{
	CHECK(task->keeps && !task->kept.repeats);
	task->kept.at = off;
	task->kept.serves = true;
}

void data_from_pattern(struct scsi_task *task)
{
	data_from_gathered(task, 0);
	task->kept.repeats = true;
}

/* No more than the plan needs, by doubling what is there. */
static void fill_pattern(struct scsi_task *task)
{
	const uint32_t block = task->itl->lu->info->block_size;
	const uint64_t len = task->kept.wait.len_bytes;
	uint8_t *to = task->kept.pattern->data;

	memcpy(to, task->kept.buf->data, block);
	for (uint64_t n = block; n < len; n *= 2)
		memcpy(to + n, to, min_u64(n, len - n));
}

static void pattern_granted(struct loop_wait *w, int err)
{
	struct scsi_task *task = container_of(w, struct scsi_task, kept.wait);

	if (err != 0)
		task_errno(task, err, IO_WRITE, 0);
	else
		fill_pattern(task);
	task_step(task);
}

static bool take_pattern(struct scsi_task *task)
{
	CHECK(!task->locks);
	task->kept.wait.buf = &task->kept.pattern;
	task->kept.wait.len_bytes = low_u32(min_u64(task->move_len, SCSI_SEG_MAX));
	task->kept.wait.need = LOOP_SEGMENT;
	task->kept.wait.granted = pattern_granted;
	if (!loop_share_take(task->nexus->share, &task->kept.wait))
		return false;
	fill_pattern(task);
	return true;
}

bool plan_take_kept(struct scsi_task *task)
{
	const uint64_t len = task->kept.repeats ? task->itl->lu->info->block_size : task->move_len;

	if (!task->kept.serves || task->move_len == 0)
		return true;
	CHECK(task->kept.at <= task->kept.len && len <= task->kept.len - task->kept.at);
	return !task->kept.repeats || take_pattern(task);
}

void kept_cancel(struct scsi_task *task)
{
	loop_wait_cancel(&task->kept.wait);
}

void seg_take_data(struct scsi_seg *seg)
{
	const struct scsi_task *task = seg->task;

	if (!task->kept.serves)
		return;
	seg->iov[0] = (struct iovec){
		.iov_base = task->kept.repeats ? task->kept.pattern->data
					       : task->kept.buf->data + task->kept.at + seg->at,
		.iov_len = seg->len,
	};
	seg->niov = 1;
}

/* ---- With data in memory ---- */

unsigned iov_slice(struct iovec to[static SCSI_SEG_IOV], const struct scsi_seg *from, size_t off,
		   size_t len)
{
	unsigned n = 0;

	for (unsigned i = 0; i < from->niov && len != 0; i++) {
		const struct iovec *v = &from->iov[i];
		const size_t skip = min_u64(off, v->iov_len),
			     take = min_u64(len, v->iov_len - skip);

		off -= skip;
		len -= take;
		if (take != 0)
			to[n++] = (struct iovec){(uint8_t *)v->iov_base + skip, take};
	}
	return n;
}

static size_t first_difference(const uint8_t *a, const uint8_t *b)
{
	size_t i = 0;

	while (a[i] == b[i])
		i++;
	return i;
}

bool seg_compare(struct scsi_seg *seg)
{
	const uint8_t *read = seg->read->data;
	uint64_t off = 0;

	for (unsigned i = 0; i < seg->niov; i++) {
		const struct iovec *v = &seg->iov[i];

		if (memcmp(v->iov_base, read + off, v->iov_len) != 0) {
			seg_miscompared(seg, off + first_difference(v->iov_base, read + off));
			return false;
		}
		off += v->iov_len;
	}
	loop_buf_put(seg->read);
	seg->read = NULL;
	return true;
}

void seg_or(struct scsi_seg *seg)
{
	const uint8_t *read = seg->read->data;

	/* A pattern belongs to all segments. */
	CHECK(seg->buf != NULL || seg->task->kept.pattern == NULL);
	for (unsigned i = 0; i < seg->niov; i++) {
		uint8_t *data = seg->iov[i].iov_base;

		for (size_t n = 0; n < seg->iov[i].iov_len; n++)
			data[n] |= *read++;
	}
	loop_buf_put(seg->read);
	seg->read = NULL;
}
