/*
 * What the files of ATA commands share: a command's row, and how one begins and ends.
 *
 *   ata.c: transfers and whatever is one I/O or none    ata_trim.c: DATA SET MANAGEMENT
 *   ata_smart.c: SMART                                   ata_log.c: logs, and the errors in them
 */
#ifndef SPINDLE_AOE_ATA_H
#define SPINDLE_AOE_ATA_H

#include "aoe/impl.h"

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
	/* Of those that take off: its I/O from t->iov on. */
	void (*prepare)(struct aoe_task *t, const struct ata_command *cmd);
};

struct ata_range {
	uint64_t from, to; /* bytes; alike: it is none */
};

static inline struct aoe_ata *ata_registers(struct aoe_task *t)
{
	return (struct aoe_ata *)(void *)(aoe_task_head(t) + 1);
}

static inline const struct aoe_ata *ata_registers_of(const uint8_t *frame)
{
	return (const void *)(frame + sizeof(struct aoe_head));
}

void ata_set_lba(struct aoe_ata *r, uint64_t lba, bool ext);

/* ---- ata.c: answers ---- */

/* Its data lie at AOE_DATA_AT. NULL: there is no memory, and the client asks again. */
struct aoe_task *ata_task_create(struct aoe_place *place, const uint8_t *frame, uint32_t data_len);
void ata_answer(struct aoe_task *t, uint8_t status, uint8_t error, uint32_t data_len);
void ata_good(struct aoe_task *t, uint32_t data_len);
/* It is the client's error. */
void ata_refuse(struct aoe_task *t, uint8_t error);
void ata_refuse_request(struct aoe_place *place, const uint8_t *frame, uint8_t error);

/* ---- ata.c: I/O ---- */

/* Over t->iov, from the LBA of the registers on; ends by ata.c, unless t->uio.done is set to another. */
void ata_prepare_io(struct aoe_task *t, const struct ata_command *cmd, enum io_op op);
/* With room in t->iov for as many sectors as the frame says, and its data in there when it writes. NULL:
 * refused, answered by one of the same that is under way, or there is no memory. */
struct aoe_task *ata_transfer_create(struct aoe_place *place, const struct ata_command *cmd,
				     const uint8_t *frame, uint32_t len);
/* Submits it, behind earlier writes of its sectors when it is a write: those from t->from to t->to. */
void ata_take_off(struct aoe_task *t);
/* Answers by what the I/O ended with. */
void ata_io_ended(struct aoe_task *t);

/* ---- Commands of the other files ---- */

void ata_run_trim(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		  uint32_t len);
void ata_prepare_trim(struct aoe_task *t, const struct ata_command *cmd);
/* From the first sector of all ranges in a frame, which has a whole head, to the last one. */
struct ata_range ata_trim_span(const uint8_t *frame, uint32_t len);
void ata_run_smart(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		   uint32_t len);
void ata_run_read_log(struct aoe_place *place, const struct ata_command *cmd, const uint8_t *frame,
		      uint32_t len);

/* ---- ata_log.c ---- */

enum ata_log_access { ATA_LOG_SMART = 1, ATA_LOG_GENERAL = 2 };

/* Answers with as many pages of a log as the registers say, from `first` on. false: there are none, and no
 * answer. */
bool ata_log_read(struct aoe_place *place, const uint8_t *frame, enum ata_log_access access,
		  unsigned first);
/* `asked`: the command as it came; the task's registers are what it is answered. */
void ata_error_log(struct aoe_task *t, const struct aoe_ata *asked);
/* The last byte makes the sum of all of them 0. */
void ata_checksum(uint8_t data[AOE_SECTOR]);

#endif
