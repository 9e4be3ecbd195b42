/*
 * The simulated engine: loop.h on one thread and a virtual clock, for tests. Link loop_sim instead
 * of loop. At every step the seed decides which of the messages that could arrive next does:
 * messages from one loop to another keep their order, everything else is permuted. A run is a pure
 * function of its seed.
 */
#ifndef SPINDLE_LOOP_SIM_H
#define SPINDLE_LOOP_SIM_H

#include "loop/loop.h"

int sim_create(struct loop_set **out, unsigned nloops, uint64_t seed);
/* One step: one message, one turn end, or, when nothing else can happen, the clock moves to the
 * next timer. false: nothing is left to happen. */
bool sim_step(struct loop_set *set);
/* Steps until nothing is left or max_steps were made; returns the number of steps. */
uint64_t sim_run(struct loop_set *set, uint64_t max_steps);
/* The seed's stream of random numbers, for the test's own choices: 0 <= result < bound. */
uint64_t sim_random(struct loop_set *set, uint64_t bound);
uint64_t sim_now_ns(const struct loop_set *set);

#endif
