#include "bench/figures.h"

#include <stdio.h>
#include <sys/types.h>

#include "bench/client.h"

static unsigned bucket_of(uint64_t ns)
{
	unsigned log;

	if (ns < FIGURES_STEPS)
		return (unsigned)ns;
	log = 63 - (unsigned)__builtin_clzll(ns);
	return (log - 3) * FIGURES_STEPS + (unsigned)((ns >> (log - 4)) & (FIGURES_STEPS - 1));
}

static uint64_t bucket_bound(unsigned b)
{
	return b < 2 * FIGURES_STEPS
		       ? b
		       : (uint64_t)(FIGURES_STEPS + b % FIGURES_STEPS) << (b / FIGURES_STEPS - 1);
}

static double percentile_us(const struct figures *f, double p)
{
	uint64_t total = 0, seen = 0;

	for (unsigned i = 0; i < FIGURES_BUCKETS; i++)
		total += f->latency[i];
	for (unsigned i = 0; i < FIGURES_BUCKETS; i++) {
		seen += f->latency[i];
		if (seen > 0 && (double)seen >= p * (double)total)
			return (double)bucket_bound(i) / 1e3;
	}
	return 0;
}

/* CPU nanoseconds of the servers, all their threads: exact, where utime and stime count ticks. */
static uint64_t server_ns(const struct figures *f)
{
	uint64_t ns = 0;

	for (size_t i = 0; i < f->nservers; i++) {
		clockid_t id;

		if (clock_getcpuclockid((pid_t)f->servers[i], &id) == 0)
			ns += clock_ns(id);
	}
	return ns;
}

void figures_begin(struct figures *f)
{
	f->ops = 0;
	f->began_ns = clock_ns(CLOCK_MONOTONIC);
	f->server0_ns = server_ns(f);
	f->client0_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

void figures_count(struct figures *f, uint64_t bytes, uint64_t ns)
{
	f->ops++;
	f->bytes += bytes;
	f->latency[bucket_of(ns)]++;
	f->latency_max = max_u64(f->latency_max, ns);
}

void figures_end(struct figures *f)
{
	f->seconds = (double)(clock_ns(CLOCK_MONOTONIC) - f->began_ns) / 1e9;
	f->server_cpu = (double)(server_ns(f) - f->server0_ns) / 1e9;
	f->client_cpu = (double)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - f->client0_ns) / 1e9;
}

void figures_print(const struct figures *f, bool json)
{
	const double iops = (double)f->ops / f->seconds, mbs = (double)f->bytes / f->seconds / 1e6;
	const double us = f->ops > 0 ? f->server_cpu * 1e6 / (double)f->ops : 0;
	const double p50 = percentile_us(f, 0.5), p99 = percentile_us(f, 0.99);
	const double p999 = percentile_us(f, 0.999), most = (double)f->latency_max / 1e3;

	if (json)
		printf("{\"iops\":%.0f,\"mb_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%."
		       "1f,\"max_us\":%.1f,\"server_cpu_us_per_op\":%.3f,\"server_cpu_s\":%.3f,"
		       "\"client_cpu_s\":%.3f,\"ops\":%llu,\"errors\":%llu,\"refused\":%llu,"
		       "\"seconds\":%.3f}\n",
		       iops, mbs, p50, p99, p999, most, us, f->server_cpu, f->client_cpu,
		       (unsigned long long)f->ops, (unsigned long long)f->errors,
		       (unsigned long long)f->refused, f->seconds);
	else
		printf("%.0f IOPS  %.1f MB/s  p50 %.1f us  p99 %.1f us  p99.9 %.1f us  max %.1f us "
		       " server CPU %.3f us/op  errors %llu\n",
		       iops, mbs, p50, p99, p999, most, us, (unsigned long long)f->errors);
}
