/*
 * ATA over Ethernet on the wire: AoEr11 sections 2 and 3, and of ATA8-ACS what comes through it. Apart
 * because it is the protocol's text and nothing of ours.
 */
#ifndef SPINDLE_AOE_PROTO_H
#define SPINDLE_AOE_PROTO_H

#include "base/base.h"

#define AOE_ETHERTYPE   0x88a2
#define AOE_MAC_LEN     6
#define AOE_VERSION     1
#define AOE_FRAME_MIN   60 /* without FCS; veth and lo do not pad */
#define AOE_SECTOR      512
#define AOE_STRING_MAX  1024
#define AOE_SHELF_ALL   0xffff
#define AOE_SLOT_ALL    0xff
#define AOE_SHELF_LINUX 0xfff /* Linux takes it for "all", too */

/* AoEr11 2: all frames. */
struct aoe_head {
	uint8_t to[AOE_MAC_LEN], from[AOE_MAC_LEN];
	be16 ethertype;
	uint8_t flags; /* version << 4 | AOE_RESPONSE | AOE_ERROR */
	uint8_t error;
	be16 shelf;
	uint8_t slot;
	uint8_t command;
	uint8_t tag[4];
};

#define AOE_FLAGS_AT   14
#define AOE_SHELF_AT   16
#define AOE_COMMAND_AT 19
#define AOE_RESPONSE   0x08
#define AOE_ERROR      0x04

enum aoe_command { AOE_ATA, AOE_QUERY, AOE_MASK, AOE_RESERVE };

enum aoe_error {
	AOE_OK,
	AOE_BAD_COMMAND,
	AOE_BAD_ARGUMENT,
	AOE_UNAVAILABLE,
	AOE_STRING_PRESENT,
	AOE_BAD_VERSION,
	AOE_RESERVED,
};

/* AoEr11 3.1: the registers of a device. */
struct aoe_ata {
	uint8_t flags;   /* request: AOE_ATA_* */
	uint8_t feature; /* answer: the error register */
	uint8_t count;   /* sectors; answer: those that were not done */
	uint8_t command; /* answer: the status register */
	uint8_t lba[6];  /* the lowest byte first */
	uint8_t reserved[2];
};

#define AOE_ATA_EXTENDED 0x40
#define AOE_ATA_WRITE    0x01

enum ata_status { ATA_DRDY = 0x40, ATA_DF = 0x20, ATA_ERR = 0x01 };
enum ata_error { ATA_UNC = 0x40, ATA_IDNF = 0x10, ATA_ABRT = 0x04 };

#define ATA_LBA28_MAX UINT32_C(0x0fffffff)
#define ATA_LBA48_MAX UINT64_C(0xffffffffffff)
#define ATA_TRIM_BLOCKS \
	1 /* of 512 bytes of ranges: of one command, as IDENTIFY says; fits into any frame */

/* AoEr11 3.2: config/query. The string follows. */
struct aoe_query {
	be16 buffers, firmware;
	uint8_t sectors; /* of one ATA command, at most */
	uint8_t command; /* version << 4 | enum aoe_query_command */
	be16 len;        /* of the string */
};

enum aoe_query_command {
	AOE_QUERY_READ,
	AOE_QUERY_TEST,
	AOE_QUERY_PREFIX,
	AOE_QUERY_SET,
	AOE_QUERY_FORCE,
	AOE_QUERY_COMMANDS,
};

/* AoEr11 3.3: MAC mask list. The directives follow. */
struct aoe_mask {
	uint8_t reserved;
	uint8_t command; /* enum aoe_mask_command */
	uint8_t error;   /* enum aoe_mask_error */
	uint8_t count;   /* of directives; with an error, those before the wrong one */
};

struct aoe_directive {
	uint8_t reserved;
	uint8_t command; /* enum aoe_directive_command; in an answer nothing */
	uint8_t mac[AOE_MAC_LEN];
};

enum aoe_mask_command { AOE_MASK_READ, AOE_MASK_EDIT };
enum aoe_mask_error { AOE_MASK_OK, AOE_MASK_UNSPECIFIED, AOE_MASK_BAD_DIRECTIVE, AOE_MASK_FULL };
enum aoe_directive_command { AOE_DIRECTIVE_NOTHING, AOE_DIRECTIVE_ADD, AOE_DIRECTIVE_DELETE };

/* AoEr11 3.4: reserve/release. The addresses follow. */
struct aoe_reserve {
	uint8_t command; /* enum aoe_reserve_command */
	uint8_t count;
};

enum aoe_reserve_command { AOE_RESERVE_READ, AOE_RESERVE_SET, AOE_RESERVE_FORCE };

_Static_assert(sizeof(struct aoe_head) == 24 && offsetof(struct aoe_head, flags) == AOE_FLAGS_AT &&
		       offsetof(struct aoe_head, command) == AOE_COMMAND_AT,
	       "AoEr11 2");
_Static_assert(sizeof(struct aoe_ata) == 12, "AoEr11 3.1");
_Static_assert(sizeof(struct aoe_query) == 8, "AoEr11 3.2");
_Static_assert(sizeof(struct aoe_mask) == 4 && sizeof(struct aoe_directive) == 8, "AoEr11 3.3");
_Static_assert(sizeof(struct aoe_reserve) == 2, "AoEr11 3.4");

#define AOE_ATA_HEAD     (sizeof(struct aoe_head) + sizeof(struct aoe_ata))
#define AOE_QUERY_HEAD   (sizeof(struct aoe_head) + sizeof(struct aoe_query))
#define AOE_MASK_HEAD    (sizeof(struct aoe_head) + sizeof(struct aoe_mask))
#define AOE_RESERVE_HEAD (sizeof(struct aoe_head) + sizeof(struct aoe_reserve))

#endif
