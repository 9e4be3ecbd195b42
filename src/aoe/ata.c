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
#include "aoe/ata.h"
#include "aoe/late.h"

#include <string.h>

#define ATA_IDENTIFY 0xec

static uint64_t lba_of(const struct aoe_ata *r, bool ext)
{
	const uint64_t low = r->lba[0] | r->lba[1] << 8 | r->lba[2] << 16;

	if (!ext)
		return low | (uint64_t)(r->lba[3] & 0xf) << 24;
	return low | (uint64_t)r->lba[3] << 24 | (uint64_t)r->lba[4] << 32 |
	       (uint64_t)r->lba[5] << 40;
}

void ata_set_lba(struct aoe_ata *r, uint64_t lba, bool ext)
{
	for (unsigned i = 0; i < (ext ? 6 : 3); i++)
		r->lba[i] = low_u8(lba >> 8 * i);
	if (!ext)
		r->lba[3] = low_u8((r->lba[3] & 0xf0) | (lba >> 24 & 0xf));
}

/* ---- Answers ---- */

void ata_answer(struct aoe_task *t, uint8_t status, uint8_t error, uint32_t data_len)
{
	struct aoe_ata *r = ata_registers(t);

	r->command = status;
	r->feature = error;
	aoe_task_answer(t, AOE_ATA_HEAD + data_len);
}

void ata_good(struct aoe_task *t, uint32_t data_len)
{
	ata_registers(t)->count = 0;
	ata_answer(t, ATA_DRDY, 0, data_len);
}

void ata_refuse(struct aoe_task *t, uint8_t error)
{
	ata_answer(t, ATA_DRDY | ATA_ERR, error, 0);
}

void ata_refuse_request(struct aoe_place *place, const uint8_t *frame, uint8_t error)
{
	struct aoe_task *t = ata_task_create(place, frame, 0);

	if (t != NULL)
		ata_refuse(t, error);
}

static bool is_ext(const struct aoe_task *t)
{
	return (t->ata->flags & ATA_EXT) != 0;
}

/* The answer says where it failed, and how many sectors from there on are not done. */
static void point_at(struct aoe_task *t, uint64_t lba)
{
	struct aoe_ata *r = ata_registers(t);
	const uint64_t skipped = lba - lba_of(r, is_ext(t));

	r->count = low_u8(r->count - skipped);
	ata_set_lba(r, lba, is_ext(t));
}

/* The disk has failed, and not who asks: that is kept. */
static void broken(struct aoe_task *t, uint8_t status, uint8_t error)
{
	const struct aoe_ata asked = *ata_registers(t);

	if (t->uio.io.op == IO_READ)
		point_at(t, t->uio.io.off / AOE_SECTOR);
	ata_answer(t, status, error, 0);
	ata_error_log(t, &asked);
}

/* What an I/O ended with, as registers. */
static void failed(struct aoe_task *t, int err)
{
	const struct io *io = &t->uio.io;

	switch (err) {
	case -ECANCELED:
	case -ENOMEM:
		aoe_task_drop(t);
		return;
	case -EACCES:
		aoe_task_refuse(t, AOE_RESERVED);
		return;
	case -ERANGE:
		ata_set_lba(ata_registers(t),
			    max_u64(io->off / AOE_SECTOR, aoe_disk_sectors(t->place->disk)),
			    is_ext(t));
		ata_refuse(t, ATA_IDNF);
		return;
	case -EROFS:
	case -EOPNOTSUPP:
		ata_refuse(t, ATA_ABRT);
		return;
	case -EIO:
		if (io->op == IO_READ) {
			broken(t, ATA_DRDY | ATA_ERR, ATA_UNC);
			return;
		}
		break;
	}
	broken(t, ATA_DRDY | ATA_DF | ATA_ERR, ATA_ABRT);
}

struct aoe_task *ata_task_create(struct aoe_place *place, const uint8_t *frame, uint32_t data_len)
{
	const uint32_t head = AOE_ATA_HEAD;

	if (place->disk->ntasks >= AOE_TASKS_MAX &&
	    ata_registers_of(frame)->command != ATA_IDENTIFY) {
		place->port->counts.no_room++;
		return NULL;
	}
	return aoe_task_create(place, frame, head, head + data_len,
			       data_len != 0 ? AOE_DATA_AT - head : 0);
}

/* ---- I/O ---- */

static void start_waiting(struct aoe_disk *disk);
static void start_later(struct aoe_task *t);

/* Of a run that failed each is done by itself: what is wrong is told of that one alone. */
static void ended(struct aoe_task *t, bool of_a_run)
{
	const int err = t->unit_task.aborted ? -ECANCELED : t->uio.io.result;
	const bool reads = (t->ata->flags & ATA_READS) != 0;
	struct aoe_disk *disk = t->place->disk;

	if (of_a_run && err != 0 && !t->unit_task.aborted) {
		unit_submit(&t->uio);
		return;
	}
	unit_task_end(&t->unit_task);
	if (err != -ECANCELED)
		start_later(t);
	if (err != 0)
		failed(t, err);
	else
		ata_good(t, reads ? (uint32_t)t->iov.iov_len : 0);
	start_waiting(disk);
}

void ata_io_ended(struct aoe_task *t)
{
	aoe_run_end(t, ended);
}

/* A read has failed: it goes on by halves until the first sector that cannot be read is found. false: it is,
 * or something else is wrong. What is read meanwhile is for nobody. */
static bool narrow(struct aoe_task *t)
{
	struct io *io = &t->uio.io;

	if (io->result == -EIO) {
		t->suspect = io->len;
	} else if (io->result == 0) {
		io->off += io->len;
		t->suspect -= io->len;
	} else {
		return false;
	}
	if (t->suspect == AOE_SECTOR) {
		io->result = -EIO;
		return false;
	}
	io->len = align_up(t->suspect / 2, AOE_SECTOR);
	t->probe = (struct iovec){.iov_base = t->iov.iov_base, .iov_len = io->len};
	io->iov = &t->probe;
	return true;
}

/* What follows: the flush of a write, which many that wait share, or the next piece. */
static bool goes_on(struct aoe_task *t)
{
	struct io *io = &t->uio.io;

	if (t->unit_task.aborted || (t->run != NULL && io->result != 0))
		return false;
	if (io->op == IO_READ && (io->result == -EIO || t->suspect != 0))
		return narrow(t);
	if (io->result != 0)
		return false;
	if (io->op == IO_WRITE && !aoe_caches(t->place)) {
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
		ata_io_ended(t);
}

/* By an ABORT, of a client of another transport that resets the disk: nobody answers. */
static void cancel(struct unit_task *ut)
{
	struct aoe_task *t = container_of(ut, struct aoe_task, unit_task);
	struct aoe_task *first = aoe_run_first(t);

	ut->aborted = true;
	if (t->waits)
		t->place->disk->nwaiting--;
	else if (!unit_io_cancel(&first->uio))
		return;
	first->uio.io.result = -ECANCELED;
	ata_io_ended(first);
}

void ata_prepare_io(struct aoe_task *t, const struct ata_command *cmd, enum io_op op)
{
	const struct unit_attach *a = &t->place->disk->attach;

	t->ata = cmd;
	t->unit_task = (struct unit_task){.nexus_id = a->nexus_id, .cancel = cancel};
	t->uio = (struct unit_io){
		.io = {.op = op,
		       .off = lba_of(ata_registers(t), (cmd->flags & ATA_EXT) != 0) * AOE_SECTOR,
		       .len = t->iov.iov_len,
		       .iov = &t->iov,
		       .niov = 1},
		.task = &t->unit_task,
		.done = io_done};
	t->from = t->uio.io.off;
	t->to = t->from + t->uio.io.len;
	unit_task_begin(a->channel, &t->unit_task);
}

/* ---- Transfers of the same sectors ---- */

static bool writes(const struct aoe_task *t)
{
	return (t->ata->flags & ATA_WRITES) != 0;
}

static bool overlaps(const struct aoe_task *a, const struct aoe_task *b)
{
	return a->from < b->to && b->from < a->to;
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
	const struct aoe_ata *a = ata_registers(t), *b = ata_registers_of(frame);

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

/* Also what `t` was asked for by; the newest tag, which is the only one that Linux still knows, is answered
 * first. */
static void join(struct aoe_task *t, const uint8_t tag[4])
{
	struct aoe_head *h = aoe_task_head(t);

	tags_add(&t->tags, h->tag);
	memcpy(h->tag, tag, sizeof(h->tag));
}

/* A client that has waited for long enough asks again, by another tag. A write that comes again is the same
 * one: another one after its answer would undo what was written in between. Reads that come again share the
 * next one, and are not older than their requests. */
static bool joins_one_under_way(const struct aoe_place *place, const uint8_t *frame)
{
	const struct aoe_head *h = (const void *)frame;

	list_for_each (pos, &place->disk->flights) {
		struct aoe_task *t = list_entry(pos, struct aoe_task, link);

		if (t->overtaken || !is_same(t, place, frame))
			continue;
		if (memcmp(aoe_task_head(t)->tag, h->tag, sizeof(h->tag)) != 0) {
			if (writes(t))
				join(t, h->tag);
			else
				tags_add(&t->later, h->tag);
		}
		place->port->counts.again++;
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

/* In the place of the read `t`, which has ended, for those that asked for the same meanwhile. */
static void start_later(struct aoe_task *t)
{
	const uint32_t len = AOE_ATA_HEAD + (uint32_t)t->iov.iov_len;
	struct aoe_task *next;

	if (t->later.n == 0)
		return;
	next = aoe_task_create(t->place, aoe_task_head(t), AOE_ATA_HEAD, len, t->frame_at);
	if (next == NULL)
		return;
	next->tags = t->later;
	next->iov = (struct iovec){.iov_base = next->buf->data + AOE_DATA_AT,
				   .iov_len = t->iov.iov_len};
	memcpy(aoe_task_head(next)->tag, next->tags.v[--next->tags.n], sizeof(next->tags.v[0]));
	t->ata->prepare(next, t->ata);
	next->overtaken = t->overtaken;
	list_insert_after(&t->link, &next->link);
	unit_submit(&next->uio);
}

void ata_take_off(struct aoe_task *t)
{
	struct aoe_disk *disk = t->place->disk;

	list_push_back(&disk->flights, &t->link);
	if (writes(t))
		overtake(t);
	t->waits = writes(t) && must_wait(t);
	if (t->waits)
		disk->nwaiting++;
	else
		aoe_run_submit(t);
}

struct aoe_task *ata_transfer_create(struct aoe_place *place, const struct ata_command *cmd,
				     const uint8_t *frame, uint32_t len)
{
	const struct aoe_ata *r = ata_registers_of(frame);
	const uint32_t bytes = r->count * (uint32_t)AOE_SECTOR;
	const bool to_disk = (cmd->flags & ATA_WRITES) != 0;
	struct aoe_task *t;

	if (r->count == 0 || r->count > aoe_port_limit(place->port, to_disk) ||
	    (to_disk && len < AOE_ATA_HEAD + bytes)) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return NULL;
	}
	if (joins_one_under_way(place, frame))
		return NULL;
	t = ata_task_create(place, frame, bytes);
	if (t == NULL)
		return NULL;
	t->iov = (struct iovec){.iov_base = t->buf->data + AOE_DATA_AT, .iov_len = bytes};
	if (to_disk)
		memcpy(t->iov.iov_base, frame + AOE_ATA_HEAD, bytes);
	return t;
}

/* ---- Commands ---- */

static void prepare_transfer(struct aoe_task *t, const struct ata_command *cmd)
{
	ata_prepare_io(t, cmd, (cmd->flags & ATA_WRITES) != 0 ? IO_WRITE : IO_READ);
}

static void run_transfer(struct aoe_place *place, const struct ata_command *cmd,
			 const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t = ata_transfer_create(place, cmd, frame, len);

	if (t == NULL)
		return;
	prepare_transfer(t, cmd);
	ata_take_off(t);
}

/* Reads, piece by piece, and sends nothing: 0 sectors are 256 (ATA8-ACS 7.37), or 65536, which the frame
 * has no way to say. */
static void run_verify(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		       uint32_t len)
{
	const struct aoe_ata *r = ata_registers_of(frame);
	const uint64_t bytes = (r->count != 0 ? r->count : 256) * (uint64_t)AOE_SECTOR;
	const uint32_t piece = low_u32(min_u64(bytes, AOE_SECTORS_MAX * AOE_SECTOR));
	struct aoe_task *t;

	if (r->count == 0 && (cmd->flags & ATA_EXT) != 0) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return;
	}
	t = ata_task_create(place, frame, piece);
	if (t == NULL)
		return;
	t->iov = (struct iovec){.iov_base = t->buf->data + AOE_DATA_AT, .iov_len = piece};
	t->left = bytes - piece;
	ata_prepare_io(t, cmd, IO_READ);
	unit_submit(&t->uio);
}

static void run_flush(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		      uint32_t len)
{
	struct aoe_task *t = ata_task_create(place, frame, 0);

	if (t == NULL)
		return;
	ata_prepare_io(t, cmd, IO_FLUSH);
	unit_submit(&t->uio);
}

static void run_identify(struct aoe_place *place, const struct ata_command *cmd,
			 const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t;

	if (ata_registers_of(frame)->count == 0) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return;
	}
	t = ata_task_create(place, frame, AOE_SECTOR);
	if (t == NULL)
		return;
	aoe_identify(place, t->buf->data + AOE_DATA_AT);
	ata_good(t, AOE_SECTOR);
}

/* It never sleeps: 0xff is "active or idle". */
static void run_power_mode(struct aoe_place *place, const struct ata_command *cmd,
			   const uint8_t *frame, uint32_t len)
{
	struct aoe_task *t = ata_task_create(place, frame, 0);

	if (t == NULL)
		return;
	ata_registers(t)->count = 0xff;
	ata_answer(t, ATA_DRDY, 0, 0);
}

/* Subcommands of SET FEATURES. */
enum { CACHE_ON = 0x02, CACHE_OFF = 0x82 };

/* The write cache. "Off" is answered when what was written before is durable; what is written from then on is
 * durable before that is answered. A restart forgets it. */
static void run_set_features(struct aoe_place *place, const struct ata_command *cmd,
			     const uint8_t *frame, uint32_t len)
{
	const uint8_t feature = ata_registers_of(frame)->feature;
	struct aoe_task *t;

	if (!place->export.writeback || (feature != CACHE_ON && feature != CACHE_OFF)) {
		ata_refuse_request(place, frame, ATA_ABRT);
		return;
	}
	place->disk->cache_off = feature == CACHE_OFF;
	if (feature == CACHE_OFF) {
		run_flush(place, cmd, frame, len);
		return;
	}
	t = ata_task_create(place, frame, 0);
	if (t != NULL)
		ata_good(t, 0);
}

/* The LBA of the last sector, or of the last one that 28 bits reach. */
static void run_max_address(struct aoe_place *place, const struct ata_command *cmd,
			    const uint8_t *frame, uint32_t len)
{
	const bool ext = (cmd->flags & ATA_EXT) != 0;
	const uint64_t last = aoe_disk_sectors(place->disk) - 1;
	struct aoe_task *t = ata_task_create(place, frame, 0);

	if (t == NULL)
		return;
	ata_set_lba(ata_registers(t), ext ? last : min_u64(last, ATA_LBA28_MAX), ext);
	ata_good(t, 0);
}

static const struct ata_command commands[] = {
	{0x06, ATA_WRITES | ATA_EXT, ata_run_trim, ata_prepare_trim}, /* DATA SET MANAGEMENT */
	{0x20, ATA_READS, run_transfer, prepare_transfer},            /* READ SECTORS */
	{0x24, ATA_READS | ATA_EXT, run_transfer, prepare_transfer},  /* READ SECTORS EXT */
	{0x25, ATA_READS | ATA_EXT, run_transfer, prepare_transfer},  /* READ DMA EXT */
	{0x27, ATA_EXT, run_max_address},                   /* READ NATIVE MAX ADDRESS EXT */
	{0x2f, ATA_EXT, ata_run_read_log},                  /* READ LOG EXT */
	{0x30, ATA_WRITES, run_transfer, prepare_transfer}, /* WRITE SECTORS */
	{0x34, ATA_WRITES | ATA_EXT, run_transfer, prepare_transfer}, /* WRITE SECTORS EXT */
	{0x35, ATA_WRITES | ATA_EXT, run_transfer, prepare_transfer}, /* WRITE DMA EXT */
	{0x40, 0, run_verify},                                        /* READ VERIFY SECTORS */
	{0x42, ATA_EXT, run_verify},                                  /* READ VERIFY SECTORS EXT */
	{0xb0, 0, ata_run_smart},                                     /* SMART */
	{0xc8, ATA_READS, run_transfer, prepare_transfer},            /* READ DMA */
	{0xca, ATA_WRITES, run_transfer, prepare_transfer},           /* WRITE DMA */
	{0xe0, 0, run_flush},                                         /* STANDBY IMMEDIATE */
	{0xe1, 0, run_flush},                                         /* IDLE IMMEDIATE */
	{0xe5, 0, run_power_mode},                                    /* CHECK POWER MODE */
	{0xe7, 0, run_flush},                                         /* FLUSH CACHE */
	{0xea, 0, run_flush},                                         /* FLUSH CACHE EXT */
	{ATA_IDENTIFY, 0, run_identify},                              /* IDENTIFY DEVICE */
	{0xef, 0, run_set_features},                                  /* SET FEATURES */
	{0xf8, 0, run_max_address},                                   /* READ NATIVE MAX ADDRESS */
};

/* What a request would write, or discard. */
static struct ata_range written_by(const struct ata_command *cmd, const uint8_t *frame,
				   uint32_t len)
{
	const struct aoe_ata *r = ata_registers_of(frame);
	const uint64_t from = lba_of(r, (cmd->flags & ATA_EXT) != 0) * AOE_SECTOR;

	if ((cmd->flags & ATA_WRITES) == 0)
		return (struct ata_range){0};
	if (cmd->run == ata_run_trim)
		return ata_trim_span(frame, len);
	return (struct ata_range){.from = from, .to = from + r->count * (uint64_t)AOE_SECTOR};
}

static void log_late(const struct aoe_disk *disk, const struct aoe_late_request *last, uint64_t n)
{
	char mac[AOE_MAC_TEXT];

	if (n == 0)
		return;
	log_event(disk->aoe->log, LOG_WARN, "aoe-late-writes",
		  F_STR("serial", unit_identity(disk->unit)->serial), F_U64("dropped", n),
		  F_STR("last_from", aoe_mac_text(mac, last->head->from)),
		  F_U64("last_lba", last->lba), F_U64("last_sectors", last->nwritten));
}

/* A write that the network held back until after a newer one: its client has no use for it. */
static bool is_late(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		    uint32_t len)
{
	const struct ata_range written = written_by(cmd, frame, len);
	const struct aoe_late_request request = {
		.head = (const void *)frame,
		.lba = written.from / AOE_SECTOR,
		.nwritten = (written.to - written.from) / AOE_SECTOR,
		.identifies = cmd->opcode == ATA_IDENTIFY,
	};
	struct aoe_disk *disk = place->disk;
	const uint64_t now_ms = loop_now_ns(disk->aoe->loop) / 1000000;

	if (!aoe_late_is(disk->late, &request, now_ms))
		return false;
	place->port->counts.late++;
	log_late(disk, &request, aoe_late_to_say(disk->late, now_ms));
	return true;
}

void aoe_ata_request(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	if (len < AOE_ATA_HEAD) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return;
	}
	/* IDENTIFY tells of no data: whoever may ask is told. */
	if (ata_registers_of(frame)->command != ATA_IDENTIFY &&
	    (aoe_is_held_elsewhere(place->disk) ||
	     aoe_is_kept_out(place->disk, ((const struct aoe_head *)frame)->from))) {
		aoe_refuse(place, frame, AOE_RESERVED);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (commands[i].opcode != ata_registers_of(frame)->command)
			continue;
		if (!is_late(place, &commands[i], frame, len))
			commands[i].run(place, &commands[i], frame, len);
		return;
	}
	ata_refuse_request(place, frame, ATA_ABRT);
}
