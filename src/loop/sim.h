/*
 * The simulated engine: loop.h on one thread and a virtual clock, for tests. Link loop_sim instead
 * of loop. At every step the seed decides what happens next out of all that could: a message that
 * arrives (those from one loop to another keep their order), a due timer, a piece of work on a
 * worker thread, one callback of a turn's end. A run is a pure function of its seed.
 *
 * There are no sockets, signals and files: file_open() ends -ENOSYS.
 */
#ifndef SPINDLE_LOOP_SIM_H
#define SPINDLE_LOOP_SIM_H

#include "loop/loop.h"

int sim_create(struct loop_set **out, unsigned nloops, uint64_t seed);
/* As if made anew from `seed`, on memory that is there already. Nothing is left to happen, no timer
 * runs. */
void sim_reset(struct loop_set *set, uint64_t seed);
/* One step: one callback. Messages take time: now and then the clock moves to the next timer, when
 * that is not more than SIM_TRAVEL_NS away, though something else could happen, and always when
 * nothing else can. false: nothing is left to happen. */
bool sim_step(struct loop_set *set);
/* Steps until nothing is left or max_steps were made; returns the number of steps. */
uint64_t sim_run(struct loop_set *set, uint64_t max_steps);
/* The seed's stream of random numbers, for the test's own choices: 0 <= result < bound. */
uint64_t sim_random(struct loop_set *set, uint64_t bound);
uint64_t sim_now_ns(const struct loop_set *set);
/* A hash of all that happened in which order: equal for equal runs. */
uint64_t sim_trace(const struct loop_set *set);

#define SIM_TRAVEL_NS UINT64_C(10000)

#endif
