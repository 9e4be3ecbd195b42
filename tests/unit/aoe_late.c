/*
 * aoe/late: clients that count their frames as Linux does, and others, on a network that holds frames back.
 * An old write over a newer one is never let through once its client is known to count; what its client
 * still waits for always is, in the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "aoe/late.h"
#include "base/base.h"

#define FORGET_MS UINT64_C(10000)
#define WRITES    4096

static struct aoe_late *late;
static uint64_t now_ms;

static int setup(void **state)
{
	late = aoe_late_create();
	now_ms = 1000000;
	return late == NULL;
}

static int teardown(void **state)
{
	aoe_late_destroy(late);
	return 0;
}

/* ---- Frames ---- */

struct host {
	uint8_t mac;
	unsigned hz;
	uint64_t booted_ms; /* or before that, so that its clock is somewhere */
	uint32_t sequence;
};

struct frame {
	uint8_t mac, slot;
	uint32_t tag;
	uint64_t lba;
	unsigned nwritten;
	bool identifies;
};

static uint32_t tag_now(struct host *h)
{
	const uint64_t jiffies = (now_ms - h->booted_ms) * h->hz / 1000;

	return (++h->sequence & 0x7fff) << 16 | (jiffies & 0xffff);
}

static struct frame sent(struct host *h, uint64_t lba, unsigned nwritten)
{
	return (struct frame){.mac = h->mac, .tag = tag_now(h), .lba = lba, .nwritten = nwritten};
}

/* Is it done? */
static bool comes(const struct frame *f)
{
	struct aoe_head head = {
		.from = {2, 0, 0, 0, 0, f->mac}, .shelf = be16_of(1), .slot = f->slot};
	const struct aoe_late_request r = {
		.head = &head, .lba = f->lba, .nwritten = f->nwritten, .identifies = f->identifies};

	store_be32(head.tag, f->tag);
	return !aoe_late_is(late, &r, now_ms);
}

static bool writes(struct host *h, uint64_t lba, unsigned n)
{
	const struct frame f = sent(h, lba, n);

	return comes(&f);
}

static bool reads(struct host *h)
{
	return writes(h, 0, 0);
}

/* Long enough to be known. */
static void count(struct host *h)
{
	for (unsigned i = 0; i < 150; i++, now_ms += 10)
		assert_true(reads(h));
}

static struct host linux_host(void)
{
	return (struct host){.mac = 1, .hz = 250, .booted_ms = 12345, .sequence = 7};
}

/* Sends a write, and says whether it is done when it comes after a newer one of the same sectors. */
static bool late_is_done(struct host *h)
{
	const struct frame a = sent(h, 100, 8);

	now_ms += 300;
	assert_true(writes(h, 100, 8)); /* the same again */
	now_ms += 20;
	assert_true(writes(h, 104, 2)); /* a newer one */
	now_ms += 20;
	return comes(&a);
}

/* ---- Who counts ---- */

static void who_counts_is_protected(void **state)
{
	static const unsigned rates[] = {100, 250, 300, 1000};

	for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
		struct host h = {.mac = (uint8_t)(1 + i), .hz = rates[i], .booted_ms = 777 * i};

		assert_true(late_is_done(&h));
		count(&h);
		for (unsigned n = 0; n < 3; n++) {
			assert_false(late_is_done(&h));
			now_ms += 500;
		}
	}
}

/* How somebody else makes tags; `n` grows by one. */
typedef uint32_t tag_fn(uint32_t n);

static uint32_t counts_32_bits(uint32_t n)
{
	return n;
}

static uint32_t counts_the_other_way_round(uint32_t n)
{
	return __builtin_bswap32(n) & 0x7fffffff;
}

static uint32_t counts_without_clock(uint32_t n)
{
	return (n & 0x7fff) << 16;
}

static uint32_t has_a_clock_without_counting(uint32_t n)
{
	return (uint32_t)(now_ms / 4) & 0xffff;
}

static uint32_t has_a_fast_clock(uint32_t n)
{
	return (n & 0x7fff) << 16 | ((uint32_t)(now_ms * 3) & 0xffff);
}

static uint32_t always_the_same(uint32_t n)
{
	return 1;
}

static uint32_t random_tags(uint32_t n)
{
	return n * UINT32_C(2654435761) >> 1;
}

static uint32_t of_a_user(uint32_t n)
{
	return UINT32_C(1) << 31 | (n & 0x7fff) << 16 | ((uint32_t)(now_ms / 4) & 0xffff);
}

static void who_does_not_count_is_let_be(void **state)
{
	static tag_fn *const others[] = {
		counts_32_bits,
		counts_the_other_way_round,
		counts_without_clock,
		has_a_fast_clock,
		has_a_clock_without_counting,
		always_the_same,
		random_tags,
		of_a_user,
	};

	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		for (uint32_t n = 0; n < 20000; n++, now_ms += 1 + n % 5) {
			struct frame f = {.mac = (uint8_t)(1 + i),
					  .tag = others[i](n),
					  .lba = n % 7,
					  .nwritten = 2};

			assert_true(comes(&f));
			/* Later, and not for the first time. */
			f.tag = others[i](n > 100 ? n - 100 : 0);
			assert_true(comes(&f));
		}
}

/* The same address, another system: it is known anew. */
static void who_stops_counting_is_let_be(void **state)
{
	struct host h = linux_host();
	unsigned dropped = 0;

	count(&h);
	assert_false(late_is_done(&h));
	for (uint32_t n = 0; n < 5000; n++, now_ms += 20) {
		const struct frame f = {
			.mac = h.mac, .tag = random_tags(n), .lba = n % 3, .nwritten = 2};

		dropped += !comes(&f);
	}
	assert_true(dropped < 10);
}

/* ---- What is late ---- */

static void what_is_late(void **state)
{
	struct host h = linux_host();
	struct frame a, b;

	count(&h);
	/* Another one's sectors, on both sides. */
	a = sent(&h, 100, 8);
	assert_true(writes(&h, 108, 8));
	assert_true(writes(&h, 92, 8));
	assert_true(comes(&a));
	/* Twice, and nothing newer. */
	assert_true(comes(&a));
	/* One sector is enough. */
	assert_true(writes(&h, 107, 1));
	assert_false(comes(&a));
	/* What reads is let be. */
	a.nwritten = 0;
	assert_true(comes(&a));
	/* Within a tick the counter tells. */
	a = sent(&h, 200, 8);
	b = sent(&h, 200, 8);
	assert_true(comes(&b));
	assert_false(comes(&a));
	assert_true(comes(&b));
	/* Its client asks again. */
	a.tag = tag_now(&h);
	assert_true(comes(&a));
	assert_false(comes(&b));
	/* The far end of the disk. */
	a = sent(&h, (UINT64_C(1) << 48) - 255, 255);
	assert_true(writes(&h, (UINT64_C(1) << 48) - 1, 1));
	assert_false(comes(&a));
}

static void after_a_while_it_is_done(void **state)
{
	struct host h = linux_host();
	struct frame a;

	count(&h);
	a = sent(&h, 100, 8);
	now_ms += 1000;
	assert_true(writes(&h, 100, 8));
	now_ms += FORGET_MS;
	assert_true(reads(&h));
	assert_false(comes(&a));
	now_ms++;
	assert_true(comes(&a));
}

static void a_pause_changes_nothing(void **state)
{
	static const uint64_t pauses_ms[] = {11000, 40000, 70000, 131072, 180000, 86400000};
	struct host h = linux_host();

	h.hz = 1000;
	count(&h);
	for (size_t i = 0; i < ARRAY_LEN(pauses_ms); i++) {
		now_ms += pauses_ms[i];
		assert_true(reads(&h));
		assert_false(late_is_done(&h));
	}
}

static void wraps(void **state)
{
	struct host h = linux_host();

	h.hz = 1000;
	count(&h);
	for (unsigned i = 0; i < 400000; i++) {
		now_ms += i % 2;
		assert_true(writes(&h, i % 50, 4));
		if (i % 1000 == 0)
			assert_false(late_is_done(&h));
	}
}

/* Of frames that come in another order only those that a newer one overlaps are dropped. */
static void out_of_order(void **state)
{
	struct host h = linux_host();
	struct frame frames[64];
	unsigned dropped = 0;

	count(&h);
	for (unsigned round = 0; round < 500; round++, now_ms += 3) {
		for (unsigned i = 0; i < 64; i++)
			frames[i] = sent(&h, round % 3 * 1000 + 2 * i, 2);
		for (unsigned i = 0; i < 64; i++)
			dropped += !comes(&frames[i * 37 % 64]);
	}
	assert_int_equal(dropped, 0);
	for (unsigned i = 0; i < 64; i++)
		frames[i] = sent(&h, 5000, 2);
	for (unsigned i = 64; i-- > 0;)
		assert_int_equal(comes(&frames[i]), i == 63);
}

static void more_than_it_remembers(void **state)
{
	struct host h = linux_host();
	struct frame old, first;

	count(&h);
	old = sent(&h, 90000, 2);
	first = sent(&h, 90002, 2);
	for (unsigned i = 0; i < WRITES - 1; i++)
		assert_true(writes(&h, 2 * i, 2));
	assert_true(comes(&first));
	/* It may be that something newer was there, and was forgotten. */
	assert_true(writes(&h, 80000, 2));
	assert_false(comes(&old));
	old.tag = tag_now(&h);
	assert_true(comes(&old));
	now_ms += FORGET_MS + 1;
	assert_true(writes(&h, 80000, 2));
	assert_false(late_is_done(&h));
}

/* ---- Several interfaces, several clients ---- */

static void one_client_by_two_interfaces(void **state)
{
	struct host h = linux_host();
	struct frame a;

	for (unsigned i = 0; i < 400; i++, now_ms += 5) {
		h.mac = (uint8_t)(1 + i * 7 / 3 % 2);
		assert_true(reads(&h));
	}
	for (unsigned i = 0; i < 20; i++, now_ms += 30) {
		h.mac = 1;
		a = sent(&h, 100, 8);
		now_ms += 200;
		h.mac = 2;
		assert_true(writes(&h, 100, 8));
		/* The other one alone, for a while. */
		for (unsigned n = 0; n < 3000; n++)
			assert_true(reads(&h));
		assert_false(comes(&a));
		h.mac = 1;
		assert_true(reads(&h));
	}
}

/* A path that is slow, but first with what it brings, loses nothing. */
static void a_slow_interface(void **state)
{
	struct host h = linux_host();
	struct frame slow[200];
	unsigned n = 0;

	for (unsigned i = 0; i < 20000; i++) {
		now_ms += i % 3 == 0;
		h.mac = 1;
		assert_true(writes(&h, 4 * i % 50000, 2));
		h.mac = 2;
		if (n == ARRAY_LEN(slow)) {
			assert_true(comes(&slow[i % n]));
			slow[i % n] = sent(&h, 4 * i % 50000 + 2, 2);
		} else {
			slow[n++] = sent(&h, 4 * i % 50000 + 2, 2);
		}
	}
}

static void clients_that_share_a_disk(void **state)
{
	struct host hosts[6];

	for (unsigned i = 0; i < ARRAY_LEN(hosts); i++)
		hosts[i] = (struct host){.mac = (uint8_t)(1 + i),
					 .hz = i % 2 != 0 ? 250 : 1000,
					 .booted_ms = i * 13579,
					 .sequence = i * 5000};
	for (unsigned n = 0; n < 60000; n++) {
		struct host *h = &hosts[(n * 2654435761u >> 8) % ARRAY_LEN(hosts)];

		now_ms += n % 4 == 0;
		assert_true(writes(h, n % 5, 3));
	}
	for (unsigned i = 0; i < ARRAY_LEN(hosts); i++)
		assert_false(late_is_done(&hosts[i]));
}

/* Each has a counter of its own, though they are one machine's. */
static void two_addresses_of_one_disk(void **state)
{
	struct host counters[2] = {linux_host(), linux_host()};

	counters[1].sequence += 3;
	for (unsigned i = 0; i < 2000; i++, now_ms += i % 2)
		for (uint8_t slot = 0; slot < 2; slot++) {
			struct frame f = sent(&counters[slot], 10, 2);

			f.slot = slot;
			assert_true(comes(&f));
		}
}

static void strangers_change_nothing(void **state)
{
	struct host h = linux_host();

	count(&h);
	for (uint32_t i = 0; i < 20000; i++) {
		struct frame f = {.mac = (uint8_t)(2 + i % 200),
				  .tag = random_tags(i),
				  .lba = 100,
				  .nwritten = 8};

		(void)comes(&f);
		now_ms += i % 2;
		if (i % 100 == 0)
			assert_true(reads(&h));
	}
	assert_false(late_is_done(&h));
}

/* ---- Clients that start anew ---- */

static void a_client_starts_anew(void **state)
{
	for (unsigned i = 0; i < 64; i++) {
		struct host h = linux_host();
		struct frame f;

		h.sequence = 500 * i + 2000;
		count(&h);
		assert_true(writes(&h, 0, 8));
		assert_false(late_is_done(&h));
		now_ms += 3000;
		h.booted_ms = 4000 * i;
		h.sequence = 0;
		f = sent(&h, 0, 0);
		f.identifies = true;
		assert_true(comes(&f));
		for (unsigned n = 0; n < 100; n++)
			assert_true(writes(&h, 100 + n % 8, 1));
		count(&h);
		assert_false(late_is_done(&h));
		now_ms += 60000;
	}
}

/* Its first frames were lost: the time, or a few of its frames, tell. */
static void a_client_starts_anew_unseen(void **state)
{
	for (unsigned i = 0; i < 64; i++) {
		struct host h = linux_host();
		uint64_t since_ms;
		unsigned tries;

		h.sequence = 500 * i + 2000;
		count(&h);
		assert_true(writes(&h, 100, 8));
		since_ms = now_ms;
		h.booted_ms = 4000 * i;
		h.sequence = 40;
		for (tries = 1; !writes(&h, 100, 8); tries++)
			now_ms += 100;
		assert_true(now_ms - since_ms <= FORGET_MS + 100);
		count(&h);
		assert_false(late_is_done(&h));
		now_ms += 60000;
	}
}

/* ---- What is said ---- */

static void it_is_said_now_and_then(void **state)
{
	struct host h = linux_host();

	assert_int_equal(aoe_late_to_say(late, now_ms), 0);
	count(&h);
	assert_false(late_is_done(&h));
	assert_int_equal(aoe_late_to_say(late, now_ms), 1);
	assert_int_equal(aoe_late_to_say(late, now_ms), 0);
	for (unsigned i = 0; i < 5; i++) {
		assert_false(late_is_done(&h));
		assert_int_equal(aoe_late_to_say(late, now_ms), 0);
	}
	now_ms += 60000;
	assert_int_equal(aoe_late_to_say(late, now_ms), 5);
	assert_int_equal(aoe_late_to_say(late, now_ms), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(who_counts_is_protected),
		TEST(who_does_not_count_is_let_be),
		TEST(who_stops_counting_is_let_be),
		TEST(what_is_late),
		TEST(after_a_while_it_is_done),
		TEST(a_pause_changes_nothing),
		TEST(wraps),
		TEST(out_of_order),
		TEST(more_than_it_remembers),
		TEST(one_client_by_two_interfaces),
		TEST(a_slow_interface),
		TEST(clients_that_share_a_disk),
		TEST(two_addresses_of_one_disk),
		TEST(strangers_change_nothing),
		TEST(a_client_starts_anew),
		TEST(a_client_starts_anew_unseen),
		TEST(it_is_said_now_and_then),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
