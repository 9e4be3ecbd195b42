/*
 * What libFuzzer calls, and how a harness takes its input apart: from the front, zeros past the end.
 */
#ifndef SPINDLE_TEST_FUZZ_H
#define SPINDLE_TEST_FUZZ_H

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* As many bytes as there are, `want` at most. */
static inline const uint8_t *fuzz_bytes(struct reader *r, size_t want, size_t *got)
{
	*got = min_u64(want, reader_left(r));
	return read_bytes(r, *got);
}

#endif
