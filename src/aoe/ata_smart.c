/*
 * SMART (ATA8-ACS 7.53): is the disk well, may one ask, and its logs. Apart because it is a command of
 * commands.
 *
 * A disk is failing when a flush of it has failed, or its store is lost. There are no attributes, no
 * off-line scans and no self-tests: SMART READ DATA says so, and asking for one is an error.
 *
 * Whether SMART is enabled is of the disk and is kept with it (a PUBLISH of the unit, as for the config
 * string).
 */
#include "aoe/ata.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SIGNATURE_MID = 0x4f, SIGNATURE_HIGH = 0xc2, FAILING_MID = 0xf4, FAILING_HIGH = 0x2c };

/* aoeping waits for an answer that holds a sector, of commands that have no data as well: zeros, for those
 * who have sent one. */
static uint32_t tail(uint32_t len)
{
	return len >= AOE_ATA_HEAD + AOE_SECTOR ? AOE_SECTOR : 0;
}

static struct aoe_task *task_create(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t = ata_task_create(place, frame, tail(len));

	if (t != NULL)
		memset((uint8_t *)aoe_task_head(t) + AOE_ATA_HEAD, 0, tail(len));
	return t;
}

static void refuse(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t = task_create(place, frame, len);

	if (t != NULL)
		ata_answer(t, ATA_DRDY | ATA_ERR, ATA_ABRT, tail(len));
}

static void agree(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t = task_create(place, frame, len);

	if (t != NULL)
		ata_good(t, tail(len));
}

/* ---- Enabled or not ---- */

/* As it is kept: a byte. */
enum { KEPT_ON = 1, KEPT_OFF = 2 };

int aoe_smart_load(struct aoe_disk *disk)
{
	uint8_t kept;
	const ssize_t n = unit_tag_get(disk->unit, AOE_SMART_TAG, &kept, sizeof(kept));

	if (n == -ENODATA || n == -EOPNOTSUPP)
		return 0;
	if (n < 0 && n != -ERANGE)
		return (int)n;
	if (n <= 0 || (kept != KEPT_ON && kept != KEPT_OFF))
		return -EBADMSG;
	disk->smart_off = kept == KEPT_OFF;
	return 0;
}

struct change {
	struct unit_op op;
	struct aoe_task *task;
	uint32_t tail;
	uint8_t to;
};

/* A disk that cannot keep it has it for as long as it is served. */
static int keep(struct unit_op *op, const struct unit_view *next)
{
	const struct change *c = container_of(op, struct change, op);

	if (bdev_info(unit_bdev(op->unit))->read_only || !unit_keeps_tags(op->unit))
		return 0;
	return unit_tag_set(op->unit, AOE_SMART_TAG, &c->to, sizeof(c->to));
}

static void done(struct unit_op *op, int err)
{
	struct change *c = container_of(op, struct change, op);
	struct aoe_disk *disk = c->task->place->disk;

	disk->changes_smart = false;
	if (err == 0) {
		disk->smart_off = c->to == KEPT_OFF;
		ata_good(c->task, c->tail);
	} else {
		ata_answer(c->task, ATA_DRDY | ATA_DF | ATA_ERR, ATA_ABRT, c->tail);
	}
	free(c);
}

/* One at a time; what comes meanwhile is asked again. */
static void change(struct aoe_place *place, const uint8_t *frame, uint32_t len, uint8_t to)
{
	struct aoe_disk *disk = place->disk;
	struct change *c;

	if (disk->smart_off == (to == KEPT_OFF)) {
		agree(place, frame, len);
		return;
	}
	c = disk->changes_smart ? NULL : malloc(sizeof(*c));
	if (c == NULL)
		return;
	*c = (struct change){
		.op = {.unit = disk->unit, .loop = disk->aoe->loop, .keep = keep, .done = done},
		.task = task_create(place, frame, len),
		.tail = tail(len),
		.to = to};
	if (c->task == NULL) {
		free(c);
		return;
	}
	disk->changes_smart = true;
	unit_publish(&c->op);
}

static void enable(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	change(place, frame, len, KEPT_ON);
}

static void disable(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	change(place, frame, len, KEPT_OFF);
}

/* ---- What it says ---- */

static bool is_failing(const struct aoe_disk *disk)
{
	return bdev_flush_failed(unit_bdev(disk->unit)) ||
	       (channel_view(disk->attach.channel)->flags & UNIT_MISSING) != 0;
}

static void return_status(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t = task_create(place, frame, len);

	if (t == NULL)
		return;
	if (is_failing(place->disk)) {
		ata_registers(t)->lba[1] = FAILING_MID;
		ata_registers(t)->lba[2] = FAILING_HIGH;
	}
	ata_good(t, tail(len));
}

/* Offsets in what SMART READ DATA answers. */
enum { DATA_CAPABILITY = 368, DATA_ERROR_LOGGING = 370 };

enum { CAPABLE_OF_AUTOSAVE = 2 };

static void read_data(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t = ata_task_create(place, frame, AOE_SECTOR);
	uint8_t *data;

	if (t == NULL)
		return;
	data = t->buf->data + AOE_DATA_AT;
	memset(data, 0, AOE_SECTOR);
	data[DATA_CAPABILITY] = CAPABLE_OF_AUTOSAVE;
	data[DATA_ERROR_LOGGING] = 1;
	ata_checksum(data);
	ata_good(t, AOE_SECTOR);
}

/* From its first page on. */
static void read_log(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	if (!ata_log_read(place, frame, ATA_LOG_SMART, 0))
		refuse(place, frame, len);
}

/* Of attributes, of which there are none. */
static void autosave(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	const uint8_t count = ata_registers_of(frame)->count;

	if (count == 0x00 || count == 0xf1)
		agree(place, frame, len);
	else
		refuse(place, frame, len);
}

static const struct smart {
	uint8_t feature;
	bool when_off;
	void (*run)(struct aoe_place *place, const uint8_t *frame, uint32_t len);
} subcommands[] = {
	{0xd0, false, read_data},     /* SMART READ DATA */
	{0xd2, false, autosave},      /* SMART ENABLE/DISABLE ATTRIBUTE AUTOSAVE */
	{0xd5, false, read_log},      /* SMART READ LOG */
	{0xd8, true, enable},         /* SMART ENABLE OPERATIONS */
	{0xd9, false, disable},       /* SMART DISABLE OPERATIONS */
	{0xda, false, return_status}, /* SMART RETURN STATUS */
};

static const struct smart *find(const struct aoe_place *place, const struct aoe_ata *r)
{
	if (r->lba[1] != SIGNATURE_MID || r->lba[2] != SIGNATURE_HIGH)
		return NULL;
	for (size_t i = 0; i < ARRAY_LEN(subcommands); i++)
		if (subcommands[i].feature == r->feature &&
		    (subcommands[i].when_off || !place->disk->smart_off))
			return &subcommands[i];
	return NULL;
}

void ata_run_smart(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		   uint32_t len)
{
	const struct smart *smart = find(place, ata_registers_of(frame));

	if (smart != NULL)
		smart->run(place, frame, len);
	else
		refuse(place, frame, len);
}
