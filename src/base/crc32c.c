/*
 * CRC32C. Long runs go to ISA-L (three interleaved streams joined by carry-less multiplication);
 * short ones, above all the 48-byte header, are faster as a plain chain of crc32 instructions;
 * where the processor has neither, eight tables take eight bytes a step.
 */
#include "base/base.h"

#include <isa-l/crc.h>
#include <limits.h>

/*
 * The tables are spelled out by linearity: entry v of table k is the exclusive or of the entries of
 * v's bits, and those are the polynomial (bits reversed, 0x82f63b78) stepped 8k + 7 - bit times.
 * TABLE takes them for the bits 0x80 ... 0x01.
 */
#define ENTRY(v, a, b, c, d, e, f, g, h)                                                     \
	(((v)&0x80 ? a : 0) ^ ((v)&0x40 ? b : 0) ^ ((v)&0x20 ? c : 0) ^ ((v)&0x10 ? d : 0) ^ \
	 ((v)&0x08 ? e : 0) ^ ((v)&0x04 ? f : 0) ^ ((v)&0x02 ? g : 0) ^ ((v)&0x01 ? h : 0))
#define ENTRIES_4(v, ...)                                                                \
	ENTRY(v, __VA_ARGS__), ENTRY((v) + 1, __VA_ARGS__), ENTRY((v) + 2, __VA_ARGS__), \
		ENTRY((v) + 3, __VA_ARGS__)
#define ENTRIES_16(v, ...)                                          \
	ENTRIES_4(v, __VA_ARGS__), ENTRIES_4((v) + 4, __VA_ARGS__), \
		ENTRIES_4((v) + 8, __VA_ARGS__), ENTRIES_4((v) + 12, __VA_ARGS__)
#define ENTRIES_64(v, ...)                                             \
	ENTRIES_16(v, __VA_ARGS__), ENTRIES_16((v) + 16, __VA_ARGS__), \
		ENTRIES_16((v) + 32, __VA_ARGS__), ENTRIES_16((v) + 48, __VA_ARGS__)
#define TABLE(...)                                                                  \
	{                                                                           \
		ENTRIES_64(0, __VA_ARGS__), ENTRIES_64(64, __VA_ARGS__),            \
			ENTRIES_64(128, __VA_ARGS__), ENTRIES_64(192, __VA_ARGS__), \
	}

static const uint32_t tables[8][256] = {
	TABLE(0x82f63b78, 0x417b1dbc, 0x20bd8ede, 0x105ec76f, 0x8ad958cf, 0xc79a971f, 0xe13b70f7,
	      0xf26b8303),
	TABLE(0xfbc3faf9, 0xff17c604, 0x7f8be302, 0x3fc5f181, 0x9d14c3b8, 0x4e8a61dc, 0x274530ee,
	      0x13a29877),
	TABLE(0x8b277743, 0xc76580d9, 0xe144fb14, 0x70a27d8a, 0x38513ec5, 0x9edea41a, 0x4f6f520d,
	      0xa541927e),
	TABLE(0x52a0c93f, 0xaba65fe7, 0xd725148b, 0xe964b13d, 0xf64463e6, 0x7b2231f3, 0xbf672381,
	      0xdd45aab8),
	TABLE(0x6ea2d55c, 0x37516aae, 0x1ba8b557, 0x8f2261d3, 0xc5670b91, 0xe045beb0, 0x7022df58,
	      0x38116fac),
	TABLE(0x1c08b7d6, 0x0e045beb, 0x85f4168d, 0xc00c303e, 0x6006181f, 0xb2f53777, 0xdb8ca0c3,
	      0xef306b19),
	TABLE(0xf56e0ef4, 0x7ab7077a, 0x3d5b83bd, 0x9c5bfaa6, 0x4e2dfd53, 0xa5e0c5d1, 0xd0065990,
	      0x68032cc8),
	TABLE(0x34019664, 0x1a00cb32, 0x0d006599, 0x847609b4, 0x423b04da, 0x211d826d, 0x9278fa4e,
	      0x493c7d27),
};

static uint32_t step_1(uint32_t crc, uint8_t byte)
{
	return crc >> 8 ^ tables[0][(crc ^ byte) & 0xff];
}

static uint32_t step_8(uint32_t crc, const uint8_t *p)
{
	uint64_t v = load_le64(p) ^ crc;

	return tables[7][v & 0xff] ^ tables[6][v >> 8 & 0xff] ^ tables[5][v >> 16 & 0xff] ^
	       tables[4][v >> 24 & 0xff] ^ tables[3][v >> 32 & 0xff] ^ tables[2][v >> 40 & 0xff] ^
	       tables[1][v >> 48 & 0xff] ^ tables[0][v >> 56];
}

uint32_t crc32c_portable(uint32_t crc, const void *buf, size_t len_bytes)
{
	const uint8_t *p = buf;

	crc = ~crc;
	for (; len_bytes >= 8; p += 8, len_bytes -= 8)
		crc = step_8(crc, p);
	for (; len_bytes > 0; p++, len_bytes--)
		crc = step_1(crc, *p);
	return ~crc;
}

/* crc32_iscsi inverts neither its start value nor its result, and counts in an int. */
static uint32_t crc32c_isal(uint32_t crc, const uint8_t *p, size_t len_bytes)
{
	crc = ~crc;
	while (len_bytes > 0) {
		int piece = len_bytes > INT_MAX / 2 ? INT_MAX / 2 : (int)len_bytes;

		crc = crc32_iscsi((unsigned char *)(uintptr_t)p, piece, crc);
		p += piece;
		len_bytes -= (size_t)piece;
	}
	return ~crc;
}

#ifdef __x86_64__

/* Measured: from 256 bytes up three streams win, below they are not worth setting up. */
#define ONE_WAY_MAX 255

__attribute__((target("sse4.2"))) static uint32_t crc32c_one_way(uint32_t crc, const uint8_t *p,
								 size_t len_bytes)
{
	uint64_t wide = ~crc;

	for (; len_bytes >= 8; p += 8, len_bytes -= 8)
		wide = __builtin_ia32_crc32di(wide, load_le64(p));
	crc = low_u32(wide);
	for (; len_bytes > 0; p++, len_bytes--)
		crc = __builtin_ia32_crc32qi(crc, *p);
	return ~crc;
}

uint32_t crc32c(uint32_t crc, const void *buf, size_t len_bytes)
{
	/* A load and a test: the compiler's runtime has asked the processor before main. */
	if (!__builtin_cpu_supports("sse4.2"))
		return crc32c_portable(crc, buf, len_bytes);
	if (len_bytes <= ONE_WAY_MAX)
		return crc32c_one_way(crc, buf, len_bytes);
	return crc32c_isal(crc, buf, len_bytes);
}

#elif defined(__aarch64__)

uint32_t crc32c(uint32_t crc, const void *buf, size_t len_bytes)
{
	return crc32c_isal(crc, buf, len_bytes);
}

#else

uint32_t crc32c(uint32_t crc, const void *buf, size_t len_bytes)
{
	return crc32c_portable(crc, buf, len_bytes);
}

#endif
