/*
 * What the load clients share beside their figures: a clock, random numbers, and their command lines.
 */
#ifndef SPINDLE_BENCH_CLIENT_H
#define SPINDLE_BENCH_CLIENT_H

#include <time.h>

#include "base/base.h"

uint64_t clock_ns(clockid_t id);
/* xorshift64; a state is never 0. */
uint64_t random_next(uint64_t *state);
/* Into `options`, which opt_fini() frees. -1: go on; else help or an error was printed, and this is the exit
 * code. */
int client_options(const char *name, const struct opt *table, void *options, int argc, char **argv);

#endif
