/*
 * IDENTIFY DEVICE (ATA8-ACS 7.16): what a disk says of itself. Apart because it is a table of the
 * standard's words, and what Linux, WinAoE and the tools read of them.
 */
#include "aoe/ata.h"

#include <string.h>

enum words {
	WORD_CONFIG = 0,
	WORD_CYLINDERS = 1,
	WORD_HEADS = 3,
	WORD_PER_TRACK = 6,
	WORD_SERIAL = 10,
	WORD_FIRMWARE = 23,
	WORD_MODEL = 27,
	WORD_MULTIPLE = 47,
	WORD_TRUSTED = 48,
	WORD_CAPABILITIES = 49,
	WORD_CAPABILITIES_2 = 50,
	WORD_VALID = 53,
	WORD_LBA28 = 60,
	WORD_SUPPORT = 69,
	WORD_MAJOR = 80,
	WORD_COMMANDS = 82,
	WORD_ENABLED = 85,
	WORD_LBA48 = 100,
	WORD_TRIM_BLOCKS = 105,
	WORD_SECTOR = 106,
	WORD_WWN = 108,
	WORD_FORM_FACTOR = 168,
	WORD_TRIM = 169,
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

/* Supported, then enabled. Not power management: of that there are only the commands that end at once; nor
 * the Host Protected Area: of that there is only the question how large the disk is. */
static void put_features(uint8_t *out, const struct aoe_place *place)
{
	const uint16_t cache = 0x0020, smart = 0x0001;
	const bool writeback = place->export.writeback, smart_off = place->disk->smart_off;

	put(out, WORD_COMMANDS, low_u16(smart | (writeback ? cache : 0)));
	put(out, WORD_ENABLED, low_u16((smart_off ? 0 : smart) | (aoe_caches(place) ? cache : 0)));
	/* FLUSH CACHE and EXT, LBA48. */
	put(out, WORD_COMMANDS + 1, 0x7400);
	put(out, WORD_ENABLED + 1, 0x3400);
	/* World Wide Name, logs for all purposes, SMART's log of errors. */
	put(out, WORD_COMMANDS + 2, 0x4121);
	put(out, WORD_ENABLED + 2, 0x4121);
}

static void put_trim(uint8_t *out, const struct bdev_info *info)
{
	if (info->discard_blocks == 0)
		return;
	/* What was discarded reads the same again and again, and so: zeros. */
	put(out, WORD_SUPPORT, info->discard_zeroes ? 0x4020 : 0);
	put(out, WORD_TRIM_BLOCKS, ATA_TRIM_BLOCKS);
	put(out, WORD_TRIM, 0x0001);
}

/* What the device below says of itself, else what the kernel knows: whether it rotates. */
static uint16_t rotation_of(const struct bdev_info *info)
{
	const uint16_t unsaid = info->rotational ? 0 : 1;

	return info->rotation_rate != 0 ? info->rotation_rate : unsaid;
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
	put_words(out, WORD_LBA28, 2, min_u64(sectors, ATA_LBA28_MAX));
	put_words(out, WORD_LBA48, 4, sectors);
	put(out, WORD_SECTOR,
	    low_u16(0x4000 | (info->physical_exp != 0 ? 0x2000 : 0) | info->physical_exp));
	put(out, WORD_ALIGNMENT, 0x4000);
	put(out, WORD_FORM_FACTOR, info->form_factor);
	put(out, WORD_ROTATION, rotation_of(info));
}

void aoe_identify(const struct aoe_place *place, uint8_t out[AOE_SECTOR])
{
	const struct aoe_disk *disk = place->disk;
	const struct unit_identity *identity = unit_identity(disk->unit);
	const struct bdev_info *info = bdev_info(unit_bdev(disk->unit));

	memset(out, 0, AOE_SECTOR);
	put(out, WORD_CONFIG, 0x0040); /* an ATA device, whose medium stays in it */
	put_text(out, WORD_SERIAL, 20, identity->serial);
	put_text(out, WORD_FIRMWARE, 8, SPINDLE_VERSION);
	put_text(out, WORD_MODEL, 40, "Spindle disk");
	put(out, WORD_MULTIPLE, 0x8000);       /* there is no READ MULTIPLE */
	put(out, WORD_TRUSTED, 0x4000);        /* nothing, and the word is valid */
	put(out, WORD_CAPABILITIES, 0x0300);   /* LBA, DMA */
	put(out, WORD_CAPABILITIES_2, 0x4000); /* nothing, and the word is valid */
	put(out, WORD_VALID, 0x0003); /* so are the words behind 64, which say nothing of PIO */
	put(out, WORD_MAJOR, 0x03f0); /* ATA/ATAPI-4 to ACS-2 */
	put_features(out, place);
	put_trim(out, info);
	put_sizes(out, aoe_disk_sectors(disk), info);
	for (unsigned i = 0; i < 4; i++)
		put(out, WORD_WWN + i, load_be16(identity->naa + 2 * i));
	out[2 * WORD_INTEGRITY] = 0xa5;
	ata_checksum(out);
}
