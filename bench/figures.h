/*
 * What a load client measures: operations, their latencies, and the CPU that it and the servers spent
 * meanwhile.
 */
#ifndef SPINDLE_BENCH_FIGURES_H
#define SPINDLE_BENCH_FIGURES_H

#include "base/base.h"

/* Latencies: 64 powers of two of nanoseconds, 16 steps each. */
#define FIGURES_STEPS   16
#define FIGURES_BUCKETS (64 * FIGURES_STEPS)
#define FIGURES_SERVERS 16

struct figures {
	uint64_t ops, bytes, errors;
	uint64_t refused; /* and asked for again */
	uint64_t latency[FIGURES_BUCKETS], latency_max;
	uint64_t servers[FIGURES_SERVERS]; /* processes */
	size_t nservers;
	double seconds, server_cpu, client_cpu; /* while it was measured */
	/* private */
	uint64_t began_ns, server0_ns, client0_ns;
};

void figures_begin(struct figures *f);
/* One operation more, which took so long. */
void figures_count(struct figures *f, uint64_t bytes, uint64_t ns);
void figures_end(struct figures *f);
/* A line on stdout. */
void figures_print(const struct figures *f, bool json);

#endif
