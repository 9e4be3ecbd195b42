/*
 * IDENTIFY DEVICE (ATA8-ACS 7.16): what a disk says of itself. Apart because it is a table of the
 * standard's words, and what Linux, WinAoE and the tools read of them.
 */
#include "aoe/impl.h"

#include <string.h>

#define LBA28_MAX UINT32_C(0x0fffffff)

enum words {
	WORD_CONFIG = 0,
	WORD_CYLINDERS = 1,
	WORD_HEADS = 3,
	WORD_PER_TRACK = 6,
	WORD_SERIAL = 10,
	WORD_FIRMWARE = 23,
	WORD_MODEL = 27,
	WORD_MULTIPLE = 47,
	WORD_CAPABILITIES = 49,
	WORD_CAPABILITIES_2 = 50,
	WORD_VALID = 53,
	WORD_LBA28 = 60,
	WORD_MAJOR = 80,
	WORD_COMMANDS = 82,
	WORD_ENABLED = 85,
	WORD_LBA48 = 100,
	WORD_SECTOR = 106,
	WORD_WWN = 108,
	WORD_ALIGNMENT = 209,
	WORD_ROTATION = 217,
	WORD_INTEGRITY = 255,
};

static void put(uint8_t *out, unsigned word, uint16_t v)
{
	out[2 * word] = low_u8(v);
	out[2 * word + 1] = low_u8(v >> 8);
}

static void put_words(uint8_t *out, unsigned word, unsigned n, uint64_t v)
{
	for (unsigned i = 0; i < n; i++)
		put(out, word + i, low_u16(v >> 16 * i));
}

/* Two characters a word, the first one in the upper byte, blanks behind. */
static void put_text(uint8_t *out, unsigned word, unsigned len, const char *text)
{
	const size_t n = strlen(text);

	for (unsigned i = 0; i < len; i++)
		out[2 * word + (i ^ 1)] = i < n ? (uint8_t)text[i] : ' ';
}

static void put_features(uint8_t *out, bool write_cache)
{
	const uint16_t cache = write_cache ? 0x0020 : 0;

	/* 82: write cache; 83: FLUSH CACHE and EXT, LBA48; 84: World Wide Name. Not power management: of
	 * that there are only the commands that end at once. */
	put(out, WORD_COMMANDS, cache);
	put(out, WORD_COMMANDS + 1, 0x7400);
	put(out, WORD_COMMANDS + 2, 0x4100);
	put(out, WORD_ENABLED, cache);
	put(out, WORD_ENABLED + 1, 0x3400);
	put(out, WORD_ENABLED + 2, 0x4100);
}

static void put_sizes(uint8_t *out, uint64_t sectors, const struct bdev_info *info)
{
	const uint64_t cylinders = min_u64(sectors / (16 * 63), 16383);

	put(out, WORD_CYLINDERS, low_u16(cylinders));
	put(out, WORD_HEADS, 16);
	put(out, WORD_PER_TRACK, 63);
	put(out, WORD_VALID + 1, low_u16(cylinders));
	put(out, WORD_VALID + 2, 16);
	put(out, WORD_VALID + 3, 63);
	put_words(out, WORD_VALID + 4, 2, cylinders * 16 * 63);
	put_words(out, WORD_LBA28, 2, min_u64(sectors, LBA28_MAX));
	put_words(out, WORD_LBA48, 4, sectors);
	put(out, WORD_SECTOR,
	    low_u16(0x4000 | (info->physical_exp != 0 ? 0x2000 : 0) | info->physical_exp));
	put(out, WORD_ALIGNMENT, 0x4000);
	put(out, WORD_ROTATION, info->rotation_rate);
}

static void put_integrity(uint8_t *out)
{
	uint8_t sum = 0;

	out[2 * WORD_INTEGRITY] = 0xa5;
	for (unsigned i = 0; i < AOE_SECTOR - 1; i++)
		sum = low_u8(sum + out[i]);
	out[AOE_SECTOR - 1] = low_u8(0x100u - sum);
}

void aoe_identify(const struct aoe_place *place, uint8_t out[AOE_SECTOR])
{
	const struct aoe_disk *disk = place->disk;
	const struct unit_identity *identity = unit_identity(disk->unit);

	memset(out, 0, AOE_SECTOR);
	put(out, WORD_CONFIG, 0x0040);
	put_text(out, WORD_SERIAL, 20, identity->serial);
	put_text(out, WORD_FIRMWARE, 8, SPINDLE_VERSION);
	put_text(out, WORD_MODEL, 40, "Spindle disk");
	put(out, WORD_MULTIPLE, 0x8000);
	put(out, WORD_CAPABILITIES, 0x0300); /* LBA, DMA */
	put(out, WORD_CAPABILITIES_2, 0x4000);
	put(out, WORD_VALID, 0x0001);
	put(out, WORD_MAJOR, 0x01f0); /* ATA/ATAPI-4 to ATA8-ACS */
	put_features(out, place->export.writeback);
	put_sizes(out, aoe_disk_sectors(disk), bdev_info(unit_bdev(disk->unit)));
	for (unsigned i = 0; i < 4; i++)
		put(out, WORD_WWN + i, load_be16(identity->naa + 2 * i));
	put_integrity(out);
}
