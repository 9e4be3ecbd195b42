/*
 * Counters and latencies. Apart because other threads read them: each channel's are written by its
 * loop alone, so a relaxed load and store count without an atomic read-modify-write, and any thread
 * may sum them up.
 */
#include "unit/impl.h"

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

/*
 * The time with tasks is one word, so that who reads it never sees half of a change: while there are
 * none it is that time, and while there are some the moment since when there would be, had there
 * been some all the time.
 */
#define BUSY (UINT64_C(1) << 63)

static uint64_t busy_ns(uint64_t word, uint64_t now)
{
	if ((word & BUSY) == 0)
		return word;
	word &= ~BUSY;
	return now > word ? now - word : 0;
}

/* An ABORT takes tasks off the list for a moment: what comes then may not be the first one, and when
 * the last one on it ends it may come back. */
void stats_busy(struct channel *c)
{
	if ((c->busy & BUSY) == 0)
		__atomic_store_n(&c->busy, BUSY | (loop_now_ns(c->loop) - c->busy),
				 __ATOMIC_RELAXED);
}

void stats_idle(struct channel *c)
{
	__atomic_store_n(&c->busy, busy_ns(c->busy, loop_now_ns(c->loop)), __ATOMIC_RELAXED);
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
	const uint64_t now = loop_set_clock_ns(u->set);

	*out = (struct unit_stats){.now_ns = now};
	for (unsigned i = 0; i < u->nloops; i++) {
		const struct channel *c = &u->channels[i];

		for (unsigned op = 0; op < IO_NOPS; op++)
			sum_up(&out->op[op], &c->stats.op[op]);
		out->busy_ns = max_u64(out->busy_ns,
				       busy_ns(__atomic_load_n(&c->busy, __ATOMIC_RELAXED), now));
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
