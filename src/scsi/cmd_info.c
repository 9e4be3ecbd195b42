/*
 * What initiators leave with a logical unit for themselves and for others: identifying information,
 * the time, bytes in buffers. None of it means anything to the disk.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "scsi/impl.h"

/* ---- REPORT and SET IDENTIFYING INFORMATION (SPC-4 6.32, 6.45) ----
 *
 * It outlives a power cycle (6.45), so it is kept with the disk, by a tag for each type. Where a
 * store has no tags it depends on what becomes of the disk: a disk in memory ends together with what
 * was set; a file that will still be there cannot have any, and says so by a maximum length of 0.
 */

#define INFO_SUPPORTED 0x7f /* INFORMATION TYPE: which there are */
#define INFO_BYTE      10   /* of both CDBs: INFORMATION TYPE above a reserved bit */

static const struct info_type {
	uint8_t code; /* INFORMATION TYPE */
	bool text;    /* UTF-8, with a zero at its end */
	uint16_t max;
	size_t bytes, len; /* in struct lu_state */
	const char *tag;
} info_types[] = {
	{0x00, false, IDENT_DEVICE_MAX, offsetof(struct lu_state, ident_device),
	 offsetof(struct lu_state, ident_device_len), "identifier"},
	{0x02, true, IDENT_TEXT_MAX, offsetof(struct lu_state, ident_text),
	 offsetof(struct lu_state, ident_text_len), "identifier-text"},
};

static uint16_t *info_len(struct lu_state *state, const struct info_type *type)
{
	return (void *)((uint8_t *)state + type->len);
}

static uint8_t *info_bytes(struct lu_state *state, const struct info_type *type)
{
	return (uint8_t *)state + type->bytes;
}

static uint16_t info_max(const struct scsi_lu *lu, const struct info_type *type)
{
	return lu->keeps_info ? type->max : 0;
}

/* NULL: there is no such type. */
static const struct info_type *info_type_of(const struct scsi_task *task)
{
	const uint8_t code = task->cdb[INFO_BYTE] >> 1;

	for (size_t i = 0; i < ARRAY_LEN(info_types); i++) {
		if (info_types[i].code == code)
			return &info_types[i];
	}
	return NULL;
}

static void write_info(const struct lu_state *state, const struct info_type *type, struct writer *w)
{
	uint16_t len;

	memcpy(&len, (const uint8_t *)state + type->len, sizeof(len));
	write_be16(w, 0);
	write_be16(w, len);
	write_bytes(w, (const uint8_t *)state + type->bytes, len);
}

static void write_info_types(const struct scsi_lu *lu, struct writer *w)
{
	write_be16(w, 0);
	write_be16(w, 4 * ARRAY_LEN(info_types));
	for (size_t i = 0; i < ARRAY_LEN(info_types); i++) {
		write_u8(w, low_u8(info_types[i].code << 1));
		write_u8(w, 0);
		write_be16(w, info_max(lu, &info_types[i]));
	}
}

void cmd_report_identifying(struct scsi_task *task)
{
	const struct info_type *type = info_type_of(task);
	struct writer w;

	if (!reply_begin(task, &w, load_be32(task->cdb + 6)))
		return;
	if (type != NULL)
		write_info(itl_state(task->itl), type, &w);
	else if (task->cdb[INFO_BYTE] >> 1 == INFO_SUPPORTED)
		write_info_types(task->itl->lu, &w);
	else
		task_bad_field(task, INFO_BYTE, 7);
	reply_send(task, &w);
}

/* On the steward's loop: the task waits. */
static int edit_info(struct unit_op *op, struct unit_view *next)
{
	const struct scsi_task *task = op_task(op);
	const struct info_type *type = info_type_of(task);
	struct reader r = gathered_reader(task);
	const size_t len = reader_left(&r);

	memset(info_bytes(lu_state_edit(next), type), 0, type->max);
	if (len != 0)
		memcpy(info_bytes(lu_state_edit(next), type), read_bytes(&r, len), len);
	*info_len(lu_state_edit(next), type) = low_u16(len);
	return 0;
}

static int keep_info(struct unit_op *op, const struct unit_view *next)
{
	const struct scsi_lu *lu = op_task(op)->itl->lu;
	const struct info_type *type = info_type_of(op_task(op));
	const uint8_t *state = (const uint8_t *)lu_state_of(next);
	uint16_t len;

	if (!unit_keeps_tags(lu->unit))
		return 0;
	memcpy(&len, state + type->len, sizeof(len));
	return unit_tag_set(lu->unit, type->tag, state + type->bytes, len);
}

/* Bytes of the UTF-8 character at p, 0: it is none (RFC 3629 4). */
static size_t utf8_len(const uint8_t *p, size_t left)
{
	static const struct {
		uint8_t first, last; /* first byte */
		uint8_t low, high;   /* second byte; those behind it are 80h to BFh */
		uint8_t len;
	} forms[] = {
		{0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2},
		{0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
		{0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
		{0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
		{0xf4, 0xf4, 0x80, 0x8f, 4},
	};

	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		const size_t len = forms[i].len;

		if (*p < forms[i].first || *p > forms[i].last)
			continue;
		if (len > left || (len > 1 && (p[1] < forms[i].low || p[1] > forms[i].high)))
			return 0;
		for (size_t at = 2; at < len; at++) {
			if ((p[at] & 0xc0) != 0x80)
				return 0;
		}
		return len;
	}
	return 0;
}

/* The first byte that does not belong into a text, `len`: they all do. Behind its terminating zero
 * there are zeros only (SPC-4 4.4.2). */
static size_t text_check(const uint8_t *p, size_t len)
{
	size_t at = 0;

	while (at < len && p[at] != 0) {
		const size_t n = utf8_len(p + at, len - at);

		if (n == 0)
			return at;
		at += n;
	}
	if (at == len)
		return len == 0 ? 0 : len - 1;
	while (at < len && p[at] == 0)
		at++;
	return at;
}

/* All that the CDB announces is there: else the sense says so. */
static bool check_gathered(struct scsi_task *task, uint32_t len)
{
	if (gathered_len(task) == len)
		return true;
	scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
	return false;
}

static void set_info(struct scsi_task *task)
{
	static const struct task_change change = {
		.edit = edit_info,
		.keep = keep_info,
		.changes = LU_CHANGED_IDENTIFIER,
	};
	const struct info_type *type = info_type_of(task);
	struct reader r = gathered_reader(task);
	const size_t len = reader_left(&r);

	if (check_gathered(task, load_be32(task->cdb + 6)) && type->text && len != 0) {
		const uint8_t *p = read_bytes(&r, len);
		const size_t bad = text_check(p, len);

		if (bad != len)
			task_bad_parameter(task, (unsigned)bad, 7);
	}
	if (task->status != SCSI_GOOD)
		scsi_task_end(task);
	else
		task_publish(task, &change, scsi_task_end);
}

/* Nothing at all takes away what was there. */
void cmd_set_identifying(struct scsi_task *task)
{
	const struct info_type *type = info_type_of(task);
	const uint32_t len = load_be32(task->cdb + 6);

	if (type == NULL)
		task_bad_field(task, INFO_BYTE, 7);
	else if (len > info_max(task->itl->lu, type))
		task_bad_field(task, 6, 7);
	if (task->status != SCSI_GOOD)
		scsi_task_end(task);
	else
		gather(task, len, set_info);
}

/* A tag that is longer than ours can be is not ours. */
static int load_info(const struct scsi_lu *lu, const struct info_type *type, struct lu_state *state)
{
	uint8_t buf[IDENT_TEXT_MAX];
	const ssize_t n = unit_tag_get(lu->unit, type->tag, buf, type->max);

	if (n == -ENODATA || n == -EOPNOTSUPP || n == -ERANGE || n == -EBADMSG)
		return 0;
	if (n < 0)
		return (int)n;
	memcpy(info_bytes(state, type), buf, (size_t)n);
	*info_len(state, type) = low_u16((size_t)n);
	return 0;
}

int info_load(struct scsi_lu *lu, struct unit_view *view)
{
	struct store *store = bdev_store(unit_bdev(lu->unit));
	char fingerprint[256];
	int err = 0;

	lu->keeps_info = unit_keeps_tags(lu->unit) ||
			 store_fingerprint(store, fingerprint, sizeof(fingerprint)) < 0;
	for (size_t i = 0; i < ARRAY_LEN(info_types) && err == 0; i++)
		err = load_info(lu, &info_types[i], lu_state_edit(view));
	return err;
}

/* ---- REPORT and SET TIMESTAMP (SPC-4 6.36, 6.48, 5.2) ---- */

#define TIMESTAMP_LEN 12
#define TIMESTAMP_AT  4    /* six bytes of milliseconds since 1970 */
#define TIMESTAMP_TOP 0xf0 /* the first of them is not above this */

/* TIMESTAMP ORIGIN */
enum { ORIGIN_SET = 2, ORIGIN_OTHERWISE = 3 };

static int64_t wall_clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void cmd_report_timestamp(struct scsi_task *task)
{
	const struct lu_state *state = itl_state(task->itl);
	const uint64_t ms = (uint64_t)(wall_clock_ms() + state->timestamp_offset_ms);
	struct writer w;

	if (!reply_begin(task, &w, load_be32(task->cdb + 6)))
		return;
	write_be16(&w, TIMESTAMP_LEN - 2);
	write_u8(&w, state->timestamp_set ? ORIGIN_SET : ORIGIN_OTHERWISE);
	write_u8(&w, 0);
	write_be16(&w, low_u16(ms >> 32));
	write_be32(&w, low_u32(ms));
	write_be16(&w, 0);
	reply_send(task, &w);
}

static int edit_timestamp(struct unit_op *op, struct unit_view *next)
{
	struct reader r = gathered_reader(op_task(op));
	struct lu_state *state = lu_state_edit(next);
	uint64_t ms;

	(void)read_bytes(&r, TIMESTAMP_AT);
	ms = (uint64_t)read_be16(&r) << 32;
	ms |= read_be32(&r);
	state->timestamp_offset_ms = (int64_t)ms - wall_clock_ms();
	state->timestamp_set = true;
	return 0;
}

static void set_timestamp(struct scsi_task *task)
{
	static const uint8_t allowed[TIMESTAMP_LEN] = {0,    0,    0,    0,    0xff,
						       0xff, 0xff, 0xff, 0xff, 0xff};
	static const struct task_change change = {
		.edit = edit_timestamp,
		.changes = LU_CHANGED_TIMESTAMP,
	};
	struct reader r = gathered_reader(task);
	const uint8_t *p;

	if (!check_gathered(task, TIMESTAMP_LEN))
		goto out;
	p = read_bytes(&r, TIMESTAMP_LEN);
	for (unsigned i = 0; i < TIMESTAMP_LEN; i++) {
		const unsigned wrong = p[i] & ~(unsigned)allowed[i];

		if (wrong != 0) {
			task_bad_parameter(task, i, 31u - (unsigned)__builtin_clz(wrong));
			goto out;
		}
	}
	if (p[TIMESTAMP_AT] > TIMESTAMP_TOP) {
		task_bad_parameter(task, TIMESTAMP_AT, 7);
		goto out;
	}
	task_publish(task, &change, scsi_task_end);
	return;
out:
	scsi_task_end(task);
}

void cmd_set_timestamp(struct scsi_task *task)
{
	const uint32_t len = load_be32(task->cdb + 6);

	if (len != 0 && len != TIMESTAMP_LEN)
		scsi_task_sense(task, SENSE_PARAMETER_LIST_LENGTH);
	if (len != TIMESTAMP_LEN)
		scsi_task_end(task);
	else
		gather(task, len, set_timestamp);
}

/* ---- READ BUFFER and WRITE BUFFER (SPC-4 6.17, 6.49) ----
 *
 * Each nexus has buffers of its own, from the first WRITE BUFFER on: so nobody overwrites another's
 * echo (EBOS), and no loop waits for another. The data buffer is one for all in other devices; who
 * tests memory by it reads back what he wrote himself.
 */

#define DATA_BUFFER_BYTES 4096u
#define ECHO_BUFFER_BYTES 4096u /* the most that 6.17.7 can say is 8191 */

enum buffer_mode {
	BUFFER_DATA = 0x02,
	BUFFER_DESCRIPTOR = 0x03,
	BUFFER_ECHO = 0x0a,
	BUFFER_ECHO_DESCRIPTOR = 0x0b,
};

#define EBOS 0x01

struct scsi_buffers {
	bool echoes; /* `echo` was written */
	uint32_t echo_len;
	uint8_t data[DATA_BUFFER_BYTES], echo[ECHO_BUFFER_BYTES];
};

/* Where MODE, BUFFER ID and BUFFER OFFSET stand in both CDBs; the length follows. */
enum { MODE_BYTE = 1, ID_BYTE = 2, OFFSET_BYTE = 3, LENGTH_BYTE = 6 };

static uint32_t buffer_offset(const struct scsi_task *task)
{
	return load_be24(task->cdb + OFFSET_BYTE);
}

/* There is the one with ID 0. */
static bool check_data_buffer(struct scsi_task *task)
{
	if (task->cdb[ID_BYTE] != 0)
		task_bad_field(task, ID_BYTE, 7);
	else if (buffer_offset(task) > DATA_BUFFER_BYTES)
		task_bad_field(task, OFFSET_BYTE, 7);
	return task->status == SCSI_GOOD;
}

static void read_data(struct scsi_task *task, struct writer *w)
{
	const struct scsi_buffers *b = task->itl->buffers;
	const uint32_t off = buffer_offset(task);

	if (!check_data_buffer(task))
		return;
	if (b != NULL)
		write_bytes(w, b->data + off, DATA_BUFFER_BYTES - off);
	else
		write_zeros(w, DATA_BUFFER_BYTES - off);
}

/* Of a buffer that does not exist: zeros. Any byte may be an offset. */
static void read_descriptor(struct scsi_task *task, struct writer *w)
{
	write_u8(w, 0);
	write_be24(w, task->cdb[ID_BYTE] == 0 ? DATA_BUFFER_BYTES : 0);
}

static void read_echo(struct scsi_task *task, struct writer *w)
{
	const struct scsi_buffers *b = task->itl->buffers;

	if (b != NULL && b->echoes)
		write_bytes(w, b->echo, b->echo_len);
	else
		scsi_task_sense(task, SENSE_COMMAND_SEQUENCE);
}

static void read_echo_descriptor(struct scsi_task *task, struct writer *w)
{
	write_u8(w, EBOS);
	write_u8(w, 0);
	write_be16(w, ECHO_BUFFER_BYTES);
}

void cmd_read_buffer(struct scsi_task *task)
{
	static void (*const modes[32])(struct scsi_task * task, struct writer * w) = {
		[BUFFER_DATA] = read_data,
		[BUFFER_DESCRIPTOR] = read_descriptor,
		[BUFFER_ECHO] = read_echo,
		[BUFFER_ECHO_DESCRIPTOR] = read_echo_descriptor,
	};
	const unsigned mode = task->cdb[MODE_BYTE] & 0x1f;
	struct writer w;

	if (!reply_begin(task, &w, load_be24(task->cdb + LENGTH_BYTE)))
		return;
	if (modes[mode] != NULL)
		modes[mode](task, &w);
	else
		task_bad_field(task, MODE_BYTE, 4);
	reply_send(task, &w);
}

static void write_buffer(struct scsi_task *task)
{
	struct scsi_buffers *b = task->itl->buffers;
	const bool echo = (task->cdb[MODE_BYTE] & 0x1f) == BUFFER_ECHO;
	struct reader r = gathered_reader(task);
	const size_t len = reader_left(&r);

	if (check_gathered(task, load_be24(task->cdb + LENGTH_BYTE))) {
		uint8_t *to = echo ? b->echo : b->data + buffer_offset(task);

		if (len != 0)
			memcpy(to, read_bytes(&r, len), len);
		if (echo) {
			b->echoes = true;
			b->echo_len = low_u32(len);
		}
	}
	scsi_task_end(task);
}

/* Bytes that may be written: else the sense is set. */
static uint32_t writable(struct scsi_task *task)
{
	switch (task->cdb[MODE_BYTE] & 0x1f) {
	case BUFFER_DATA:
		return check_data_buffer(task) ? DATA_BUFFER_BYTES - buffer_offset(task) : 0;
	case BUFFER_ECHO:
		return ECHO_BUFFER_BYTES;
	default:
		task_bad_field(task, MODE_BYTE, 4);
		return 0;
	}
}

void cmd_write_buffer(struct scsi_task *task)
{
	const uint32_t len = load_be24(task->cdb + LENGTH_BYTE);
	struct scsi_itl *itl = task->itl;

	if (len > writable(task))
		task_bad_field(task, LENGTH_BYTE, 7);
	if (task->status == SCSI_GOOD && itl->buffers == NULL) {
		itl->buffers = calloc(1, sizeof(*itl->buffers));
		if (itl->buffers == NULL)
			task_errno(task, -ENOMEM, IO_WRITE, 0);
	}
	if (task->status != SCSI_GOOD)
		scsi_task_end(task);
	else
		gather(task, len, write_buffer);
}
