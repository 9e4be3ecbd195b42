/*
 * ATA commands: registers in, I/O of the unit, registers out (AoEr11 3.1, ATA8-ACS 7).
 *
 *   transfer: (the same one is under way: behind it, with all that come meanwhile)
 *             -> (waits for earlier writes of its sectors)
 *             -> I/O -> (durable: FLUSH) -> answer
 *
 * A write is answered when it is durable, unless the export says that it need not be: AoE clients
 * never flush. Errors of the disk are told in the status, where Linux gives up at once; what is only
 * a matter of time is not answered, and the client asks again.
 */
#include "aoe/impl.h"

#include <string.h>

enum ata_flags {
	ATA_EXT = 1, /* 48 bits of LBA */
	ATA_READS = 2,
	ATA_WRITES = 4,
};

struct ata_command {
	uint8_t opcode;
	uint8_t flags;
	void (*run)(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		    uint32_t len);
};

static struct aoe_ata *registers(struct aoe_task *t)
{
	return (struct aoe_ata *)(void *)(aoe_task_head(t) + 1);
}

static const struct aoe_ata *registers_of(const uint8_t *frame)
{
	return (const void *)(frame + sizeof(struct aoe_head));
}

static uint64_t lba_of(const struct aoe_ata *r, bool ext)
{
	const uint64_t low = r->lba[0] | r->lba[1] << 8 | r->lba[2] << 16;

	if (!ext)
		return low | (uint64_t)(r->lba[3] & 0xf) << 24;
	return low | (uint64_t)r->lba[3] << 24 | (uint64_t)r->lba[4] << 32 |
	       (uint64_t)r->lba[5] << 40;
}

/* ---- Answers ---- */

static void answer(struct aoe_task *t, uint8_t status, uint8_t error, uint32_t data_len)
{
	struct aoe_ata *r = registers(t);

	r->command = status;
	r->feature = error;
	aoe_task_answer(t, AOE_ATA_HEAD + data_len);
}

static void good(struct aoe_task *t, uint32_t data_len)
{
	registers(t)->count = 0;
	answer(t, ATA_DRDY, 0, data_len);
}

/* What an I/O ended with, as registers. */
static void failed(struct aoe_task *t, int err)
{
	switch (err) {
	case -ECANCELED:
	case -ENOMEM:
		aoe_task_drop(t);
		return;
	case -EACCES:
		aoe_task_refuse(t, AOE_RESERVED);
		return;
	case -ERANGE:
		answer(t, ATA_DRDY | ATA_ERR, ATA_IDNF, 0);
		return;
	case -EROFS:
		answer(t, ATA_DRDY | ATA_ERR, ATA_ABRT, 0);
		return;
	case -EIO:
		if (t->uio.io.op == IO_READ) {
			answer(t, ATA_DRDY | ATA_ERR, ATA_UNC, 0);
			return;
		}
		break;
	}
	answer(t, ATA_DRDY | ATA_DF | ATA_ERR, ATA_ABRT, 0);
}

/* Its data lie at AOE_DATA_AT. */
static struct aoe_task *task_create(struct aoe_place *place, const uint8_t *frame,
				    uint32_t data_len)
{
	const uint32_t head = AOE_ATA_HEAD;

	return aoe_task_create(place, frame, head, head + data_len,
			       data_len != 0 ? AOE_DATA_AT - head : 0);
}

/* ---- I/O ---- */

static void start_waiting(struct aoe_disk *disk);
static void start_later(struct aoe_task *t);

static void io_ended(struct aoe_task *t)
{
	const int err = t->unit_task.aborted ? -ECANCELED : t->uio.io.result;
	const bool reads = (t->ata->flags & ATA_READS) != 0;
	struct aoe_disk *disk = t->place->disk;

	unit_task_end(&t->unit_task);
	if (err != -ECANCELED)
		start_later(t);
	if (err != 0)
		failed(t, err);
	else
		good(t, reads ? (uint32_t)t->iov.iov_len : 0);
	start_waiting(disk);
}

/* What follows: the flush of a write, which many that wait share, or the next piece. */
static bool goes_on(struct aoe_task *t)
{
	struct io *io = &t->uio.io;

	if (io->result != 0 || t->unit_task.aborted)
		return false;
	if (io->op == IO_WRITE && !t->place->export.writeback) {
		io->op = IO_FLUSH;
		return true;
	}
	if (t->left == 0)
		return false;
	io->off += io->len;
	io->len = t->iov.iov_len = min_u64(t->left, t->iov.iov_len);
	t->left -= io->len;
	return true;
}

static void io_done(struct unit_io *uio)
{
	struct aoe_task *t = container_of(uio, struct aoe_task, uio);

	if (goes_on(t))
		unit_submit(uio);
	else
		io_ended(t);
}

/* By an ABORT, of a client of another transport that resets the disk: nobody answers. */
static void cancel(struct unit_task *ut)
{
	struct aoe_task *t = container_of(ut, struct aoe_task, unit_task);
	struct aoe_disk *disk = t->place->disk;

	ut->aborted = true;
	if (t->waits)
		disk->nwaiting--;
	else if (!unit_io_cancel(&t->uio))
		return;
	unit_task_end(ut);
	aoe_task_drop(t);
	start_waiting(disk);
}

static void prepare_io(struct aoe_task *t, const struct ata_command *cmd, enum io_op op)
{
	const struct unit_attach *a = &t->place->disk->attach;

	t->ata = cmd;
	t->unit_task = (struct unit_task){.nexus_id = a->nexus_id, .cancel = cancel};
	t->uio = (struct unit_io){
		.io = {.op = op,
		       .off = lba_of(registers(t), (cmd->flags & ATA_EXT) != 0) * AOE_SECTOR,
		       .len = t->iov.iov_len,
		       .iov = &t->iov,
		       .niov = 1},
		.task = &t->unit_task,
		.done = io_done};
	unit_task_begin(a->channel, &t->unit_task);
}

/* ---- Transfers of the same sectors ---- */

static bool writes(const struct aoe_task *t)
{
	return (t->ata->flags & ATA_WRITES) != 0;
}

static bool overlaps(const struct aoe_task *a, const struct aoe_task *b)
{
	const struct io *x = &a->uio.io, *y = &b->uio.io;

	return x->off < y->off + y->len && y->off < x->off + x->len;
}

/* Writes of the same sectors are done in the order they came. */
static bool must_wait(struct aoe_task *t)
{
	list_for_each (pos, &t->place->disk->flights) {
		struct aoe_task *earlier = list_entry(pos, struct aoe_task, link);

		if (earlier == t)
			break;
		if (writes(earlier) && overlaps(earlier, t))
			return true;
	}
	return false;
}

static void start_waiting(struct aoe_disk *disk)
{
	if (disk->nwaiting == 0)
		return;
	list_for_each (pos, &disk->flights) {
		struct aoe_task *t = list_entry(pos, struct aoe_task, link);

		if (!t->waits || must_wait(t))
			continue;
		t->waits = false;
		disk->nwaiting--;
		unit_submit(&t->uio);
	}
}

static bool is_same(struct aoe_task *t, const struct aoe_place *place, const uint8_t *frame)
{
	const struct aoe_head *h = (const void *)frame;
	const struct aoe_ata *a = registers(t), *b = registers_of(frame);

	return t->place == place && memcmp(aoe_task_head(t)->from, h->from, AOE_MAC_LEN) == 0 &&
	       a->command == b->command && a->count == b->count &&
	       memcmp(a->lba, b->lba, sizeof(a->lba)) == 0 &&
	       (!writes(t) || memcmp(t->iov.iov_base, frame + AOE_ATA_HEAD, t->iov.iov_len) == 0);
}

static void tags_add(struct aoe_tags *tags, const uint8_t tag[4])
{
	if (tags->n == AOE_TAGS)
		memmove(tags->v[0], tags->v[1], sizeof(tags->v) - sizeof(tags->v[0]));
	else
		tags->n++;
	memcpy(tags->v[tags->n - 1], tag, sizeof(tags->v[0]));
}

/* A client that has waited for long enough asks again, by another tag. Those that come while one is
 * under way share the next one: a write that another path has done meanwhile is not undone in their
 * names, and a read is not older than its request. */
static bool joins_one_under_way(const struct aoe_place *place, const uint8_t *frame)
{
	const struct aoe_head *h = (const void *)frame;

	list_for_each (pos, &place->disk->flights) {
		struct aoe_task *t = list_entry(pos, struct aoe_task, link);

		if (t->overtaken || !is_same(t, place, frame))
			continue;
		if (memcmp(aoe_task_head(t)->tag, h->tag, sizeof(h->tag)) != 0)
			tags_add(&t->later, h->tag);
		return true;
	}
	return false;
}

/* What is the same as `t` from here on is another request, and comes behind this write. */
static void overtake(struct aoe_task *write)
{
	list_for_each (pos, &write->place->disk->flights) {
		struct aoe_task *t = list_entry(pos, struct aoe_task, link);

		if (t != write && overlaps(t, write))
			t->overtaken = true;
	}
}

/* In the place of `t`, which has ended, for those that asked for the same meanwhile; the newest tag, which
 * is the only one that Linux still knows, goes first. */
static void start_later(struct aoe_task *t)
{
	const uint32_t len = AOE_ATA_HEAD + (uint32_t)t->iov.iov_len;
	struct aoe_task *next;

	if (t->later.n == 0)
		return;
	next = aoe_task_create(t->place, aoe_task_head(t), writes(t) ? len : AOE_ATA_HEAD, len,
			       t->frame_at);
	if (next == NULL)
		return;
	next->tags = t->later;
	next->iov = (struct iovec){.iov_base = next->buf->data + AOE_DATA_AT,
				   .iov_len = t->iov.iov_len};
	memcpy(aoe_task_head(next)->tag, next->tags.v[--next->tags.n], sizeof(next->tags.v[0]));
	prepare_io(next, t->ata, writes(t) ? IO_WRITE : IO_READ);
	next->overtaken = t->overtaken;
	list_insert_after(&t->link, &next->link);
	unit_submit(&next->uio);
}

/* ---- Commands ---- */

static void run_transfer(struct aoe_place *place, const struct ata_command *cmd,
			 const uint8_t *frame, uint32_t len)
{
	const struct aoe_ata *r = registers_of(frame);
	const uint32_t bytes = r->count * (uint32_t)AOE_SECTOR;
	const bool to_disk = (cmd->flags & ATA_WRITES) != 0;
	struct aoe_disk *disk = place->disk;
	struct aoe_task *t;

	if (r->count == 0 || r->count > aoe_port_limit(place->port, to_disk) ||
	    (to_disk && len < AOE_ATA_HEAD + bytes)) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return;
	}
	if (joins_one_under_way(place, frame))
		return;
	t = task_create(place, frame, bytes);
	if (t == NULL)
		return;
	t->iov = (struct iovec){.iov_base = t->buf->data + AOE_DATA_AT, .iov_len = bytes};
	if (to_disk)
		memcpy(t->iov.iov_base, frame + AOE_ATA_HEAD, bytes);
	prepare_io(t, cmd, to_disk ? IO_WRITE : IO_READ);
	list_push_back(&disk->flights, &t->link);
	if (to_disk)
		overtake(t);
	t->waits = to_disk && must_wait(t);
	if (t->waits)
		disk->nwaiting++;
	else
		unit_submit(&t->uio);
}

/* Reads, piece by piece, and sends nothing: 0 sectors are 256 (ATA8-ACS 7.37), or 65536, which the frame
 * has no way to say. */
static void run_verify(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		       uint32_t len)
{
	const struct aoe_ata *r = registers_of(frame);
	const uint64_t bytes = (r->count != 0 ? r->count : 256) * (uint64_t)AOE_SECTOR;
	const uint32_t piece = low_u32(min_u64(bytes, AOE_SECTORS_MAX * AOE_SECTOR));
	struct aoe_task *t;

	if (r->count == 0 && (cmd->flags & ATA_EXT) != 0) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return;
	}
	t = task_create(place, frame, piece);
	if (t == NULL)
		return;
	t->iov = (struct iovec){.iov_base = t->buf->data + AOE_DATA_AT, .iov_len = piece};
	t->left = bytes - piece;
	prepare_io(t, cmd, IO_READ);
	unit_submit(&t->uio);
}

static void run_flush(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		      uint32_t len)
{
	struct aoe_task *t = task_create(place, frame, 0);

	if (t == NULL)
		return;
	prepare_io(t, cmd, IO_FLUSH);
	unit_submit(&t->uio);
}

static void run_identify(struct aoe_place *place, const struct ata_command *cmd,
			 const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t;

	if (registers_of(frame)->count == 0) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return;
	}
	t = task_create(place, frame, AOE_SECTOR);
	if (t == NULL)
		return;
	aoe_identify(place, t->buf->data + AOE_DATA_AT);
	good(t, AOE_SECTOR);
}

/* It turns always. */
static void run_power_mode(struct aoe_place *place, const struct ata_command *cmd,
			   const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t = task_create(place, frame, 0);

	if (t == NULL)
		return;
	registers(t)->count = 0xff;
	answer(t, ATA_DRDY, 0, 0);
}

static const struct ata_command commands[] = {
	{0x20, ATA_READS, run_transfer},            /* READ SECTORS */
	{0x24, ATA_READS | ATA_EXT, run_transfer},  /* READ SECTORS EXT */
	{0x25, ATA_READS | ATA_EXT, run_transfer},  /* READ DMA EXT */
	{0x30, ATA_WRITES, run_transfer},           /* WRITE SECTORS */
	{0x34, ATA_WRITES | ATA_EXT, run_transfer}, /* WRITE SECTORS EXT */
	{0x35, ATA_WRITES | ATA_EXT, run_transfer}, /* WRITE DMA EXT */
	{0x40, 0, run_verify},                      /* READ VERIFY SECTORS */
	{0x42, ATA_EXT, run_verify},                /* READ VERIFY SECTORS EXT */
	{0xc8, ATA_READS, run_transfer},            /* READ DMA */
	{0xca, ATA_WRITES, run_transfer},           /* WRITE DMA */
	{0xe0, 0, run_flush},                       /* STANDBY IMMEDIATE */
	{0xe1, 0, run_flush},                       /* IDLE IMMEDIATE */
	{0xe5, 0, run_power_mode},                  /* CHECK POWER MODE */
	{0xe7, 0, run_flush},                       /* FLUSH CACHE */
	{0xea, 0, run_flush},                       /* FLUSH CACHE EXT */
	{0xec, 0, run_identify},                    /* IDENTIFY DEVICE */
};

static void run_unknown(struct aoe_place *place, const uint8_t *frame)
{
	struct aoe_task *t = task_create(place, frame, 0);

	if (t != NULL)
		answer(t, ATA_DRDY | ATA_ERR, ATA_ABRT, 0);
}

void aoe_ata_request(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	if (len < AOE_ATA_HEAD) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (commands[i].opcode != registers_of(frame)->command)
			continue;
		commands[i].run(place, &commands[i], frame, len);
		return;
	}
	run_unknown(place, frame);
}
