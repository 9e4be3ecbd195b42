/*
 * Writes that can be recognised: remembers for each block of a region how often it was written, and
 * checks that what is read is what was written last. Overlapping commands are never in flight
 * together.
 */
#ifndef SPINDLE_BENCH_VERIFY_H
#define SPINDLE_BENCH_VERIFY_H

#include "bench/session.h"

struct verify;

int verify_create(struct verify **out, uint64_t first_block, uint64_t nblocks, uint32_t block_size,
		  uint32_t max_io, unsigned queue_depth, uint64_t seed);
void verify_destroy(struct verify *v);
/* Fills in a random read or write of 1..max_io bytes. false: every place tried is busy. */
bool verify_choose(struct verify *v, unsigned slot, struct command *c);
void verify_arrived(struct verify *v, unsigned slot, const struct command *c, uint32_t off,
		    const uint8_t *data, uint32_t len);
void verify_ended(struct verify *v, unsigned slot, const struct command *c);
uint64_t verify_checked(const struct verify *v);
uint64_t verify_wrong(const struct verify *v);

#endif
