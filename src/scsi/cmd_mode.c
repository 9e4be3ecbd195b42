/*
 * MODE SENSE and MODE SELECT: headers and block descriptors around the pages of mode.c (SPC-4 6.11 to
 * 6.14, SBC-3 6.5).
 */
#include "scsi/impl.h"

/* DEVICE-SPECIFIC PARAMETER of a disk (SBC-3 6.5.1). */
#define DEVICE_WP     0x80
#define DEVICE_DPOFUA 0x10

#define HEADER_LONGLBA 0x01

#define CDB_SP 0x01
#define CDB_PF 0x10

/* ---- What both have: SBC-3 6.5.1, 6.5.2 ---- */

static bool is_ten(const struct scsi_task *task)
{
	return task->cmd->cdb_len == 10;
}

static uint8_t device_parameter(const struct scsi_task *task)
{
	const unsigned protected = UNIT_WRITE_PROTECTED | UNIT_SOFT_PROTECTED;

	return low_u8((itl_view(task->itl)->flags & protected ? DEVICE_WP : 0) | DEVICE_DPOFUA);
}

#define SHORT_DESCRIPTOR 8
#define LONG_DESCRIPTOR  16

static void write_block_descriptor(const struct scsi_task *task, unsigned len, struct writer *w)
{
	const struct bdev_info *info = task->itl->lu->info;
	const uint64_t nblocks = itl_view(task->itl)->size >> info->block_shift;

	if (len == SHORT_DESCRIPTOR) {
		write_be32(w, clamp_u32(nblocks));
		write_be32(w, info->block_size);
	} else if (len == LONG_DESCRIPTOR) {
		write_be64(w, nblocks);
		write_be32(w, 0);
		write_be32(w, info->block_size);
	}
}

/* ---- MODE SENSE (6.13, 6.14) ---- */

/* The values of one kind there may be none of. */
static enum mode_control control_of(struct scsi_task *task)
{
	const enum mode_control control = task->cdb[2] >> 6;

	if (control == MODE_SAVED && !mode_can_save(task->itl->lu))
		scsi_task_sense(task, SENSE_SAVING_NOT_SUPPORTED);
	return control;
}

void cmd_mode_sense_6(struct scsi_task *task)
{
	const unsigned descriptor = task->cdb[1] & 0x08 ? 0 : SHORT_DESCRIPTOR;
	struct writer w;

	if (!reply_begin(task, &w, task->cdb[4]))
		return;
	write_be16(&w, 0);
	write_u8(&w, device_parameter(task));
	write_u8(&w, low_u8(descriptor));
	write_block_descriptor(task, descriptor, &w);
	mode_write_pages(task, control_of(task), &w);
	writer_patch_u8(&w, 0, clamp_u8(w.len - 1));
	reply_send(task, &w);
}

void cmd_mode_sense_10(struct scsi_task *task)
{
	const bool llbaa = task->cdb[1] & 0x10, dbd = task->cdb[1] & 0x08;
	const unsigned descriptor = dbd ? 0 : llbaa ? LONG_DESCRIPTOR : SHORT_DESCRIPTOR;
	struct writer w;

	if (!reply_begin(task, &w, load_be16(task->cdb + 7)))
		return;
	write_be16(&w, 0);
	write_u8(&w, 0);
	write_u8(&w, device_parameter(task));
	write_u8(&w, descriptor == LONG_DESCRIPTOR ? HEADER_LONGLBA : 0);
	write_u8(&w, 0);
	write_be16(&w, low_u16(descriptor));
	write_block_descriptor(task, descriptor, &w);
	mode_write_pages(task, control_of(task), &w);
	writer_patch_be16(&w, 0, clamp_u16(w.len - 2));
	reply_send(task, &w);
}

/* ---- MODE SELECT: the parameter list (6.11, 6.12, 7.5.5) ---- */

/* The bits that must be 0 in each byte of a header. The length of the mode data is reserved here, and
 * comes back as MODE SENSE gave it; so do WP and DPOFUA. */
static const uint8_t reserved_6[] = {0, 0xff, (uint8_t) ~(DEVICE_WP | DEVICE_DPOFUA), 0};
static const uint8_t reserved_10[] = {
	0, 0, 0xff, (uint8_t) ~(DEVICE_WP | DEVICE_DPOFUA), (uint8_t)~HEADER_LONGLBA, 0xff, 0, 0};

/* What is set although it may not. MEDIUM TYPE is a field, of the others each bit is. */
static bool check_reserved(struct scsi_task *task, const uint8_t *list, const uint8_t *reserved,
			   unsigned len)
{
	for (unsigned i = 0; i < len; i++) {
		const unsigned set = list[i] & reserved[i];

		if (set == 0)
			continue;
		task_bad_parameter(task, i,
				   reserved[i] == 0xff ? 7 : 31 - (unsigned)__builtin_clz(set));
		return false;
	}
	return true;
}

/* The size is what it is: all that can be asked for is the same, or all there is (SBC-3 6.5.2). */
static bool check_descriptor(struct scsi_task *task, const uint8_t *p, unsigned len, unsigned at)
{
	const struct bdev_info *info = task->itl->lu->info;
	const uint64_t is = itl_view(task->itl)->size >> info->block_shift;
	const bool longer = len == LONG_DESCRIPTOR;
	const uint64_t nblocks = longer ? load_be64(p) : load_be32(p);
	const uint64_t all = longer ? UINT64_MAX : UINT32_MAX;
	const unsigned reserved_at = longer ? 8 : 4, length_at = longer ? 12 : 5;

	if (nblocks != 0 && nblocks != all && nblocks != is)
		task_bad_parameter(task, at, 7);
	else if (longer ? load_be32(p + reserved_at) != 0 : p[reserved_at] != 0)
		task_bad_parameter(task, at + reserved_at, 7);
	else if ((longer ? load_be32(p + length_at) : load_be24(p + length_at)) != info->block_size)
		task_bad_parameter(task, at + length_at, 7);
	return !scsi_task_stopped(task);
}

/* What stands before the pages. Its length; 0: the sense says what is wrong. */
static unsigned read_header(struct scsi_task *task, const uint8_t *list, size_t len)
{
	const unsigned header_len = is_ten(task) ? 8 : 4;
	unsigned descriptor, legal;

	if (len < header_len) {
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
		return 0;
	}
	if (!check_reserved(task, list, is_ten(task) ? reserved_10 : reserved_6, header_len))
		return 0;
	descriptor = is_ten(task) ? load_be16(list + 6) : list[3];
	legal = is_ten(task) && list[4] & HEADER_LONGLBA ? LONG_DESCRIPTOR : SHORT_DESCRIPTOR;
	if (descriptor != 0 && descriptor != legal) {
		task_bad_parameter(task, is_ten(task) ? 6 : 3, 7);
		return 0;
	}
	if (len < header_len + descriptor) {
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
		return 0;
	}
	if (descriptor != 0 && !check_descriptor(task, list + header_len, descriptor, header_len))
		return 0;
	return header_len + descriptor;
}

/* ---- MODE SELECT: the change ---- */

static bool saves(const struct scsi_task *task)
{
	return task->cdb[1] & CDB_SP;
}

/* The request, as the task carries it to the steward. */
static void store_request(struct scsi_task *task, const struct mode_request *r)
{
	task->arg = (uint64_t)r->mask << 32 | r->bits;
}

static struct mode_request load_request(const struct scsi_task *task)
{
	return (struct mode_request){.mask = (uint32_t)(task->arg >> 32),
				     .bits = low_u32(task->arg)};
}

static int edit_mode(struct unit_op *op, struct unit_view *next)
{
	const struct scsi_task *task = op_task(op);
	const struct mode_request r = load_request(task);
	struct lu_state *state = lu_state_edit(next);
	const uint32_t before = state->mode;

	state->mode = (before & ~r.mask) | r.bits;
	if (saves(task))
		state->mode_saved = state->mode;
	mode_apply(task->itl->lu, next);
	op->changes = state->mode != before ? LU_CHANGED_MODE : 0;
	return 0;
}

static int keep_mode(struct unit_op *op, const struct unit_view *next)
{
	return mode_keep(op_task(op)->itl->lu, lu_state_of(next)->mode_saved);
}

/*
 * Where the cache is switched off every write is durable from then on, and with SWP none comes any
 * more. So nothing is under way while this changes, and what went before is flushed: whoever sees
 * the new values can rely on them, and where the flush fails there are none.
 */
static bool needs_flush(const struct mode_request *r)
{
	const uint32_t wce = 1u << MODE_WCE, swp = 1u << MODE_SWP;

	return (r->mask & wce && !(r->bits & wce)) || (r->mask & r->bits & swp);
}

static void flushed(struct io *io)
{
	struct scsi_task *task = container_of(io, struct scsi_task, segs[0].uio.io);

	unit_op_acted(&task->op, io->result);
}

/* On the steward's loop. No segment is in use while the task is in an operation. */
static void flush(struct unit_op *op)
{
	struct io *io = &op_task(op)->segs[0].uio.io;

	*io = (struct io){.op = IO_FLUSH, .done = flushed, .loop = loop_self()};
	bdev_submit(unit_bdev(op->unit), io);
}

static const struct task_change changes[2] = {{.edit = edit_mode},
					      {.edit = edit_mode, .keep = keep_mode}};
static const struct task_change flushing[2] = {
	{.edit = edit_mode, .drain_ns = TASK_DRAIN_NS, .act = flush},
	{.edit = edit_mode, .keep = keep_mode, .drain_ns = TASK_DRAIN_NS, .act = flush}};

static void change(struct scsi_task *task)
{
	task_publish(task, &changes[saves(task)], scsi_task_end);
}

static void change_flushing(struct scsi_task *task)
{
	task_publish(task, &flushing[saves(task)], scsi_task_end);
}

static uint32_t list_len(const struct scsi_task *task)
{
	return is_ten(task) ? load_be16(task->cdb + 7) : task->cdb[4];
}

static void select_gathered(struct scsi_task *task)
{
	const struct reader r = gathered_reader(task);
	const size_t len = reader_left(&r);
	struct mode_request request;
	unsigned at = 0;

	/* Less has come than the CDB says. */
	if (gathered_len(task) < list_len(task))
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
	else
		at = read_header(task, r.p, len);
	/* Without PF the pages are in a format of nobody's (6.11). */
	if (at != 0 && at < len && !(task->cdb[1] & CDB_PF))
		task_bad_field(task, 1, 4);
	if (scsi_task_stopped(task) || !mode_read_pages(task, r.p, len, at, &request)) {
		scsi_task_end(task);
		return;
	}
	store_request(task, &request);
	/* The flush before it takes most of the time, and holds up nobody. */
	if (needs_flush(&request))
		task_io(task, IO_FLUSH, 0, 0, change_flushing);
	else
		change(task);
}

void cmd_mode_select(struct scsi_task *task)
{
	const uint32_t len = list_len(task);

	if (saves(task) && !mode_can_save(task->itl->lu)) {
		task_bad_field(task, 1, 0);
		scsi_task_end(task);
	} else if (len != 0) {
		gather(task, len, select_gathered);
	} else if (saves(task)) {
		store_request(task, &(struct mode_request){0});
		change(task);
	} else {
		scsi_task_end(task);
	}
}
