/*
 * CRC32C (Castagnoli), as iSCSI digests use it (RFC 7143 13.1): ISA-L, and a portable version that
 * is its oracle in the tests and its stand-in on other machines.
 */
#ifndef SPINDLE_BASE_CRC32C_H
#define SPINDLE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Start with 0; pass the result back in to continue over the next piece. The result is the final
 * value (inverted already); iSCSI puts it on the wire least significant byte first. */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len_bytes);
uint32_t crc32c_portable(uint32_t crc, const void *buf, size_t len_bytes);

#endif
