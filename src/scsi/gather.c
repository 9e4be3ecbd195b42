/*
 * The data that plans work with when it does not arrive segment by segment: all of it gathered
 * first, or one block of it over and over; and what is done with data in memory.
 */
#include "scsi/data.h"

#include <errno.h>

/* ---- Gathering ---- */

static const struct plan gather_plan = {{STEP_RECEIVE}};

static void gather_granted(struct loop_wait *w, int err)
{
	struct scsi_task *task = container_of(w, struct scsi_task, kept.wait);

	if (err != 0)
		task_errno(task, err, IO_WRITE, 0);
	task_step(task);
}

/* All at once: two that have a part each and wait for the rest would wait for each other. */
static bool take_bufs(struct scsi_task *task)
{
	task->kept.wait.bufs = task->kept.bufs;
	task->kept.wait.len_bytes = SCSI_SEG_MAX;
	task->kept.wait.n = (unsigned)((task->move_len + SCSI_SEG_MAX - 1) / SCSI_SEG_MAX);
	task->kept.wait.need = LOOP_SEGMENT;
	task->kept.wait.granted = gather_granted;
	return loop_share_take(task->nexus->share, &task->kept.wait);
}
_Static_assert(SCSI_GATHER_BUFS <= LOOP_WAIT_MAX, "who gathers waits for all of it at once");

/* What fits into one segment takes its memory when that moves, as any data-out does. */
void gather(struct scsi_task *task, uint32_t len, void (*next)(struct scsi_task *task))
{
	/* Who holds a lock waits for no initiator. */
	CHECK(len <= SCSI_GATHER_BUFS * SCSI_SEG_MAX && !task->keeps && !task->locks);
	memset(&task->kept, 0, sizeof(task->kept));
	task->keeps = true;
	task->data_len = len;
	plan_begin(task, &gather_plan, task->writes ? min_u64(len, task->expected_out) : 0, next);
	task->kept.len = low_u32(task->move_len);
	if (task->move_len <= SCSI_SEG_MAX || take_bufs(task))
		task_step(task);
}

void gather_cancel(struct scsi_task *task)
{
	loop_wait_cancel(&task->kept.wait);
}

void seg_keep(struct scsi_seg *seg)
{
	struct scsi_task *task = seg->task;

	if (task->plan != &gather_plan)
		return;
	CHECK(seg->niov == 1 && seg->iov[0].iov_base == seg->buf->data);
	task->kept.bufs[seg->at / SCSI_SEG_MAX] = seg->buf;
	seg->buf = NULL;
}

uint32_t gathered_len(const struct scsi_task *task)
{
	return task->keeps ? task->kept.len : 0;
}

struct reader gathered_reader(const struct scsi_task *task)
{
	const uint32_t len = gathered_len(task);

	if (len == 0)
		return reader_of(NULL, 0);
	return reader_of(task->kept.bufs[0]->data, min_u64(len, SCSI_SEG_MAX));
}

uint8_t *task_scratch(struct scsi_task *task, uint32_t len)
{
	struct loop_buf *buf;

	if (task->keeps)
		return task->kept.bufs[0]->data;
	buf = loop_share_get(task->nexus->share, len);
	if (buf == NULL) {
		task_errno(task, -ENOMEM, IO_READ, 0);
		scsi_task_end(task);
		return NULL;
	}
	memset(buf->data, 0, len);
	memset(&task->kept, 0, sizeof(task->kept));
	task->kept.bufs[0] = buf;
	task->keeps = true;
	return buf->data;
}

void kept_release(struct scsi_task *task)
{
	for (size_t i = 0; i < ARRAY_LEN(task->kept.bufs); i++)
		loop_buf_put(task->kept.bufs[i]);
	loop_buf_put(task->kept.pattern);
	task->keeps = false;
}

/* ---- Serving plans ---- */

void data_from_gathered(struct scsi_task *task, uint32_t off)
{
	CHECK(task->keeps);
	loop_buf_put(task->kept.pattern);
	task->kept.pattern = NULL;
	task->kept.at = off;
	task->kept.serves = true;
}

bool data_from_pattern(struct scsi_task *task, uint32_t off)
{
	data_from_gathered(task, off);
	task->kept.pattern = loop_share_get(task->nexus->share, SCSI_SEG_MAX);
	if (task->kept.pattern != NULL)
		return true;
	task_errno(task, -ENOMEM, IO_WRITE, 0);
	scsi_task_end(task);
	return false;
}

/* No more than the plan needs, by doubling what is there. */
static void fill_pattern(struct scsi_task *task)
{
	const uint32_t block = task->itl->lu->info->block_size;
	const uint64_t len = min_u64(task->move_len, SCSI_SEG_MAX);
	const struct loop_buf *from = task->kept.bufs[task->kept.at / SCSI_SEG_MAX];
	uint8_t *to = task->kept.pattern->data;

	memcpy(to, from->data + task->kept.at % SCSI_SEG_MAX, block);
	for (uint64_t n = block; n < len; n *= 2)
		memcpy(to + n, to, min_u64(n, len - n));
}

void plan_take_kept(struct scsi_task *task)
{
	const bool repeats = task->kept.pattern != NULL;
	const uint64_t len = repeats ? task->itl->lu->info->block_size : task->move_len;

	if (!task->kept.serves || task->move_len == 0)
		return;
	CHECK(task->kept.at <= task->kept.len && len <= task->kept.len - task->kept.at);
	if (repeats)
		fill_pattern(task);
}

/* One of the buffers that were taken for all that is gathered; it comes back by seg_keep(). */
static void take_gathering(struct scsi_seg *seg)
{
	struct loop_buf **buf = &seg->task->kept.bufs[seg->at / SCSI_SEG_MAX];

	if (seg->task->plan != &gather_plan)
		return;
	seg->buf = *buf;
	*buf = NULL;
}

void seg_take_data(struct scsi_seg *seg)
{
	const struct scsi_task *task = seg->task;
	uint64_t at = task->kept.at + seg->at;
	uint32_t left = seg->len;

	if (!task->kept.serves) {
		take_gathering(seg);
		return;
	}
	if (task->kept.pattern != NULL) {
		seg->iov[0] = (struct iovec){.iov_base = task->kept.pattern->data, .iov_len = left};
		seg->niov = 1;
		return;
	}
	while (left != 0) {
		const uint64_t in_buf = at % SCSI_SEG_MAX;
		const uint32_t len = low_u32(min_u64(left, SCSI_SEG_MAX - in_buf));

		seg->iov[seg->niov++] = (struct iovec){
			.iov_base = task->kept.bufs[at / SCSI_SEG_MAX]->data + in_buf,
			.iov_len = len,
		};
		at += len;
		left -= len;
	}
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
