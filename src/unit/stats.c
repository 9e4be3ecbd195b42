/*
 * Counters and latencies. Apart because other threads read them: each channel's are written by its
 * loop alone, so a relaxed load and store count without an atomic read-modify-write, and any thread
 * may sum them up.
 */
#include "unit/impl.h"

#include <time.h>

/* Buckets count in quarters of a microsecond: four steps for each doubling. */
#define TICK_NS 250

static void add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* 0: below 1 us; then 1 to 1.25 us, 1.25 to 1.5, 1.5 to 1.75, 1.75 to 2, 2 to 2.5 ... */
static unsigned bucket_of(uint64_t ns)
{
	uint64_t ticks = ns / TICK_NS;
	unsigned doubling, bucket;

	if (ticks < 4)
		return 0;
	doubling = 61 - (unsigned)__builtin_clzll(ticks);
	bucket = 1 + doubling * 4 + (unsigned)((ticks >> doubling) & 3);
	return bucket < UNIT_LATENCY_BUCKETS ? bucket : UNIT_LATENCY_BUCKETS - 1;
}

void stats_count(struct unit_stats *s, enum io_op op, uint64_t bytes, int err, uint64_t ns)
{
	struct unit_op_stats *o = &s->op[op];

	add(&o->ops, 1);
	if (err == 0)
		add(&o->bytes, op == IO_FLUSH ? 0 : bytes);
	else
		add(&o->errors, 1);
	add(&o->total_ns, ns);
	add(&o->latency[bucket_of(ns)], 1);
}

void stats_busy(struct channel *c)
{
	__atomic_store_n(&c->since_ns, loop_now_ns(c->loop), __ATOMIC_RELAXED);
}

/* An ABORT takes tasks off the list for a moment: what ends then may not be the last one. */
void stats_idle(struct channel *c)
{
	if (c->since_ns != 0)
		add(&c->stats.busy_ns, loop_now_ns(c->loop) - c->since_ns);
	__atomic_store_n(&c->since_ns, 0, __ATOMIC_RELAXED);
}

static uint64_t busy_ns(const struct channel *c)
{
	const uint64_t since_ns = __atomic_load_n(&c->since_ns, __ATOMIC_RELAXED);
	const uint64_t before_ns = __atomic_load_n(&c->stats.busy_ns, __ATOMIC_RELAXED);
	struct timespec ts;
	uint64_t now_ns;

	if (since_ns == 0)
		return before_ns;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	return before_ns + (now_ns > since_ns ? now_ns - since_ns : 0);
}

static void sum_up(struct unit_op_stats *out, const struct unit_op_stats *in)
{
	out->ops += __atomic_load_n(&in->ops, __ATOMIC_RELAXED);
	out->bytes += __atomic_load_n(&in->bytes, __ATOMIC_RELAXED);
	out->errors += __atomic_load_n(&in->errors, __ATOMIC_RELAXED);
	out->total_ns += __atomic_load_n(&in->total_ns, __ATOMIC_RELAXED);
	for (unsigned b = 0; b < UNIT_LATENCY_BUCKETS; b++)
		out->latency[b] += __atomic_load_n(&in->latency[b], __ATOMIC_RELAXED);
}

void unit_stats_read(const struct unit *u, struct unit_stats *out)
{
	*out = (struct unit_stats){.op = {{0}}};
	for (unsigned i = 0; i < u->nloops; i++) {
		const struct channel *c = &u->channels[i];

		for (unsigned op = 0; op < IO_NOPS; op++)
			sum_up(&out->op[op], &c->stats.op[op]);
		out->busy_ns = max_u64(out->busy_ns, busy_ns(c));
	}
}

uint64_t unit_latency_bound_ns(unsigned bucket)
{
	unsigned doubling;

	if (bucket == 0)
		return 4 * TICK_NS;
	if (bucket >= UNIT_LATENCY_BUCKETS - 1)
		return UINT64_MAX;
	doubling = (bucket - 1) / 4;
	return (uint64_t)((bucket - 1) % 4 + 5) * TICK_NS << doubling;
}

uint64_t unit_latency_percentile_ns(const struct unit_op_stats *s, double p)
{
	uint64_t total = 0, seen = 0;
	unsigned b;

	for (b = 0; b < UNIT_LATENCY_BUCKETS; b++)
		total += s->latency[b];
	if (total == 0)
		return 0;
	for (b = 0; b < UNIT_LATENCY_BUCKETS - 2; b++) {
		seen += s->latency[b];
		if ((double)seen >= p * (double)total && seen != 0)
			break;
	}
	/* In the last bucket, which has no upper end, its lower one. */
	return unit_latency_bound_ns(b);
}
