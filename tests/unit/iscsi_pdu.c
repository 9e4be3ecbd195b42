/*
 * Single PDUs and the arithmetic of numbers: additional header segments, digests against the
 * standard's own examples, gathering from any byte on, the command window around every wrap.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "iscsi/impl.h"

/* ---- Additional header segments ---- */

struct ahs_case {
	uint8_t bytes[64];
	uint32_t len;
	int err;
	uint32_t cdb_len, bidi_len;
	bool has_bidi;
};

static void test_ahs(void **state)
{
	static const struct ahs_case cases[] = {
		{.len = 0},
		/* an extended CDB of 16 + 4 bytes */
		{{0, 5, 1, 0, 1, 2, 3, 4}, 8, 0, 4, 0, false},
		/* of 16 + 3: one byte of padding */
		{{0, 4, 1, 0, 1, 2, 3, 0}, 8, 0, 3, 0, false},
		/* the length of bidirectional reads */
		{{0, 5, 2, 0, 0, 1, 0, 2}, 8, 0, 0, 0x10002, true},
		/* both, in either order */
		{{0, 5, 2, 0, 0, 0, 0, 9, 0, 5, 1, 0, 1, 2, 3, 4}, 16, 0, 4, 9, true},
		{{0, 5, 1, 0, 1, 2, 3, 4, 0, 5, 2, 0, 0, 0, 0, 9}, 16, 0, 4, 9, true},
		/* twice the same */
		{{0, 5, 1, 0, 1, 2, 3, 4, 0, 5, 1, 0, 1, 2, 3, 4}, 16, -EINVAL},
		{{0, 5, 2, 0, 0, 0, 0, 9, 0, 5, 2, 0, 0, 0, 0, 9}, 16, -EINVAL},
		/* longer than what is there, by one byte and by all that fits the field */
		{{0, 6, 1, 0, 1, 2, 3, 4}, 8, -EINVAL},
		{{0xff, 0xff, 1, 0, 1, 2, 3, 4}, 8, -EINVAL},
		/* too short to mean anything */
		{{0, 0, 0, 0}, 4, -EINVAL},
		{{0, 1, 1, 0}, 4, -EINVAL},
		{{0, 1, 2, 0}, 4, -EINVAL},
		{{0, 4, 2, 0, 0, 0, 9, 0}, 8, -EINVAL},
		/* a type that nobody knows */
		{{0, 5, 3, 0, 1, 2, 3, 4}, 8, -EINVAL},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct ahs_case *c = &cases[i];
		/* On the heap, so that a byte too many is seen. */
		uint8_t *bytes = malloc(c->len != 0 ? c->len : 1);
		struct ahs_fields out;

		assert_non_null(bytes);
		memcpy(bytes, c->bytes, c->len);
		assert_int_equal(pdu_parse_ahs(bytes, c->len, &out), c->err);
		if (c->err == 0) {
			assert_int_equal(out.cdb_len, c->cdb_len);
			assert_int_equal(out.has_bidi_len, c->has_bidi);
			assert_int_equal(out.bidi_len, c->bidi_len);
		}
		if (c->err == 0 && c->cdb_len != 0)
			assert_int_equal(out.cdb[0], 1);
		free(bytes);
	}
}

static void test_ahs_random(void **state)
{
	for (unsigned seed = 0; seed < 20000; seed++) {
		uint32_t len = seed % 64;
		uint8_t *bytes = malloc(len != 0 ? len : 1);
		struct ahs_fields out;

		assert_non_null(bytes);
		srand(seed);
		for (uint32_t i = 0; i < len; i++)
			bytes[i] = low_u8((unsigned)rand() % 7);
		if (pdu_parse_ahs(bytes, len, &out) == 0 && out.cdb != NULL) {
			assert_true(out.cdb >= bytes);
			assert_true(out.cdb + out.cdb_len <= bytes + len);
		}
		free(bytes);
	}
}

/* ---- What is sent ---- */

struct fixture {
	struct loop_set *set;
	struct iscsi_loop home;
	struct iscsi_conn conn;
};

static struct loop_set *set_new(uint64_t memory_bytes)
{
	const struct loop_config config = {.nloops = 1, .memory_bytes = memory_bytes};
	struct loop_set *set;

	assert_int_equal(loop_set_create(&set, &config, NULL), 0);
	return set;
}

static struct fixture *fixture_new(void)
{
	struct fixture *f = aligned_alloc(_Alignof(struct fixture), sizeof(*f));

	assert_non_null(f);
	memset(f, 0, sizeof(*f));
	f->set = set_new(0);
	f->home.loop = loop_set_at(f->set, 0);
	queue_init(&f->home.free_pdus);
	f->conn.home = &f->home;
	f->conn.stat_sn = 0xffffffff;
	return f;
}

static void fixture_free(struct fixture *f)
{
	struct qnode *n;

	while ((n = queue_pop(&f->home.free_pdus)) != NULL)
		free(container_of(n, struct pdu_out, link));
	loop_set_destroy(f->set);
	free(f);
}

/* RFC 7143 appendix A.4 (in RFC 3720 B.4): 32 bytes of zeros, of ones, ascending. */
static void test_data_digests(void **state)
{
	static const struct {
		uint8_t first, step;
		uint8_t digest[4];
	} cases[] = {
		{0x00, 0, {0xaa, 0x36, 0x91, 0x8a}},
		{0xff, 0, {0x43, 0xab, 0xa8, 0x62}},
		{0x00, 1, {0x4e, 0x79, 0xdd, 0x46}},
	};
	struct fixture *f = fixture_new();

	f->conn.data_digest = true;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct pdu_out *p = pdu_new(&f->conn, ISCSI_NOP_IN);
		uint8_t data[32];

		for (unsigned k = 0; k < sizeof(data); k++)
			data[k] = low_u8(cases[i].first + k * cases[i].step);
		assert_int_equal(pdu_put_data(&f->conn, p, data, sizeof(data)), 0);
		pdu_stamp(&f->conn, p);
		assert_int_equal(p->tail_len, 4);
		assert_memory_equal(p->tail, cases[i].digest, 4);
		assert_true(pdu_digest_ok(data, sizeof(data), p->tail));
		p->tail[i] ^= 1;
		assert_false(pdu_digest_ok(data, sizeof(data), p->tail));
		pdu_free(&f->home, p);
	}
	fixture_free(f);
}

/* Any length: the padding is zeros and covered, and the lengths add up. */
static void test_layout(void **state)
{
	struct fixture *f = fixture_new();

	f->conn.header_digest = f->conn.data_digest = true;
	for (uint32_t len = 0; len <= PDU_SMALL; len++) {
		struct pdu_out *p = pdu_new(&f->conn, ISCSI_NOP_IN);
		uint8_t data[PDU_SMALL + 4] = {0};
		uint32_t padded = (uint32_t)align_up(len, 4);

		memset(data, 0x5a, len);
		memset(p->tail, 0xee, sizeof(p->tail));
		assert_int_equal(pdu_put_data(&f->conn, p, data, len), 0);
		pdu_stamp(&f->conn, p);
		assert_int_equal(pdu_bytes(p), 48 + 4 + (len != 0 ? padded + 4 : 0));
		assert_int_equal(load_be24(p->head + 5), len);
		assert_int_equal(crc32c(0, p->head, 48), load_le32(p->head + 48));
		if (len != 0)
			assert_true(pdu_digest_ok(data, padded, p->tail + (padded - len)));
		pdu_free(&f->home, p);
	}
	fixture_free(f);
}

/* What was sent in part goes on exactly where it stopped. */
static void test_gather(void **state)
{
	struct fixture *f = fixture_new();
	struct pdu_out *p = pdu_new(&f->conn, ISCSI_DATA_IN);
	uint8_t a[5] = {1, 2, 3, 4, 5}, b[6] = {6, 7, 8, 9, 10, 11}, whole[128], part[128];
	struct iovec iov[PDU_IOV_MAX];
	size_t bytes;

	f->conn.header_digest = f->conn.data_digest = true;
	p->iov[0] = (struct iovec){.iov_base = a, .iov_len = sizeof(a)};
	p->iov[1] = (struct iovec){.iov_base = b, .iov_len = sizeof(b)};
	p->niov = 2;
	p->data_len = sizeof(a) + sizeof(b);
	pdu_stamp(&f->conn, p);
	bytes = pdu_bytes(p);
	assert_int_equal(bytes, 52 + 11 + 1 + 4);
	for (size_t skip = 0; skip < bytes; skip++) {
		unsigned n = pdu_gather(p, skip, iov);
		uint8_t *to = skip == 0 ? whole : part;
		size_t len = 0;

		assert_in_range(n, 1, PDU_IOV_MAX);
		for (unsigned i = 0; i < n; i++) {
			assert_int_not_equal(iov[i].iov_len, 0);
			memcpy(to + len, iov[i].iov_base, iov[i].iov_len);
			len += iov[i].iov_len;
		}
		assert_int_equal(len, bytes - skip);
		assert_memory_equal(to, whole + skip, len);
	}
	pdu_free(&f->home, p);
	fixture_free(f);
}

static void test_statsn(void **state)
{
	struct fixture *f = fixture_new();
	struct pdu_out *p;

	p = pdu_new(&f->conn, ISCSI_NOP_IN);
	p->flags = PDU_SHOWS_STATSN;
	pdu_stamp(&f->conn, p);
	assert_int_equal(load_be32(p->head + 24), 0xffffffff);
	assert_int_equal(f->conn.stat_sn, 0xffffffff);
	pdu_free(&f->home, p);

	p = pdu_new(&f->conn, ISCSI_NOP_IN);
	p->flags = PDU_STATUS;
	pdu_stamp(&f->conn, p);
	assert_int_equal(load_be32(p->head + 24), 0xffffffff);
	assert_int_equal(f->conn.stat_sn, 0);
	pdu_free(&f->home, p);

	/* a header out of the pool remembers nothing */
	p = pdu_new(&f->conn, ISCSI_R2T);
	pdu_stamp(&f->conn, p);
	assert_int_equal(load_be32(p->head + 24), 0);
	assert_int_equal(f->conn.stat_sn, 0);
	pdu_free(&f->home, p);
	fixture_free(f);
}

/* ---- The command window ---- */

static void test_cmdsn(void **state)
{
	static const uint32_t starts[] = {0, 1, 0x7fffffc0, 0x80000000, 0xffffff80, 0xffffffff};

	for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
		uint32_t exp = starts[i], max = exp + WINDOW - 1;

		assert_int_equal(cmdsn_judge(exp, max, exp), CMDSN_NOW);
		for (uint32_t n = 1; n < WINDOW; n++)
			assert_int_equal(cmdsn_judge(exp, max, exp + n), CMDSN_HOLD);
		assert_int_equal(cmdsn_judge(exp, max, max + 1), CMDSN_IGNORE);
		assert_int_equal(cmdsn_judge(exp, max, max + 0x7fffff00), CMDSN_IGNORE);
		assert_int_equal(cmdsn_judge(exp, max, exp - 1), CMDSN_IGNORE);
		assert_int_equal(cmdsn_judge(exp, max, exp - 0x7fffffff), CMDSN_IGNORE);
		/* a closed window */
		assert_int_equal(cmdsn_judge(exp, exp - 1, exp), CMDSN_IGNORE);
		assert_int_equal(cmdsn_judge(exp, exp - 1, exp - 1), CMDSN_IGNORE);
	}
}

static void test_window(void **state)
{
	struct iscsi_session *s = calloc(1, sizeof(*s));
	uint32_t granted;

	assert_non_null(s);
	s->exp_cmd_sn = 0xfffffff0;
	s->max_cmd_sn = s->exp_cmd_sn - 1;
	s->window = WINDOW;
	assert_int_equal(session_window(s), s->exp_cmd_sn + WINDOW - 1);
	/* commands come and stay: nothing more is granted, and nothing is taken back */
	granted = session_window(s);
	for (unsigned n = 1; n <= WINDOW; n++) {
		s->exp_cmd_sn++;
		s->ntasks++;
		assert_int_equal(session_window(s), granted);
	}
	assert_int_equal(cmdsn_judge(s->exp_cmd_sn, session_window(s), s->exp_cmd_sn),
			 CMDSN_IGNORE);
	/* immediate ones are not counted */
	s->ntasks += 5;
	s->nimmediate += 5;
	assert_int_equal(session_window(s), granted);
	s->ntasks--;
	assert_int_equal(session_window(s), granted + 1);
	/* one that drains grants no more */
	s->draining = true;
	s->ntasks -= 10;
	assert_int_equal(session_window(s), granted + 1);
	free(s);
}

static void learn(struct iscsi_session *s, uint32_t bytes, unsigned times)
{
	for (unsigned n = 0; n < times; n++)
		window_learn(s, bytes);
}

/* 16 MiB: 2.5 of them may be promised, 9 first bursts of 256 KiB. */
static void test_window_size(void **state)
{
	struct loop_set *set = set_new(16 * MiB);
	struct iscsi_loop *home = calloc(1, align_up(sizeof(*home), _Alignof(struct iscsi_loop)));
	struct iscsi_session *all = calloc(5, sizeof(*all)), *s = &all[0];
	uint32_t granted;

	home->loop = loop_set_at(set, 0);
	for (unsigned i = 0; i < 5; i++) {
		all[i].home = home;
		all[i].params.immediate_data = true;
		all[i].params.initial_r2t = true;
	}
	window_open(s);
	assert_int_equal(s->window, WINDOW_FIRST);
	/* small commands, or reads: all of it, soon but not at once */
	learn(s, 0, 1);
	assert_in_range(s->window, WINDOW_FIRST, 2 * WINDOW_FIRST);
	learn(s, 0, 100);
	assert_int_equal(s->window, WINDOW);
	granted = session_window(s);
	/* a large one comes: no more is granted, and nothing is taken back */
	learn(s, LOOP_BUF_MAX, 1);
	assert_int_equal(s->window, 9);
	assert_int_equal(session_window(s), granted);
	/* so it goes with several, each for its part */
	for (unsigned i = 1; i < 5; i++)
		window_open(&all[i]);
	assert_int_equal(all[4].window, 1);
	learn(s, LOOP_BUF_MAX, 1);
	assert_int_equal(s->window, 1);
	learn(s, 16384, 100);
	assert_int_equal(s->window, 25);
	/* who goes leaves its part to the others */
	for (unsigned i = 1; i < 5; i++) {
		window_close(&all[i]);
		window_close(&all[i]);
	}
	learn(s, 16384, 100);
	assert_int_equal(s->window, WINDOW);
	free(all);
	free(home);
	loop_set_destroy(set);
}

/* ---- PDUs before their turn ---- */

static void hold(struct iscsi_session *s, uint32_t cmd_sn, uint32_t data_len, int expected)
{
	static uint8_t data[256 * 1024];
	struct iscsi_bhs bhs = {.sn = be32_of(cmd_sn)};
	struct pdu_in pdu = {.bhs = &bhs, .data = data, .data_len = data_len};

	assert_int_equal(session_hold(s, NULL, &pdu), expected);
}

static void test_hold(void **state)
{
	static const unsigned order[] = {5, 2, 9, 3, 3, 1, 8, 4, 2, 7, 6};
	struct iscsi *i = calloc(1, sizeof(*i));
	struct fixture *f = fixture_new();
	struct iscsi_session *s = session_create(i);
	struct held_pdu *h;

	assert_non_null(s);
	s->home = &f->home;
	s->exp_cmd_sn = 0xfffffffc;
	for (size_t k = 0; k < ARRAY_LEN(order); k++)
		hold(s, s->exp_cmd_sn + order[k], order[k], 0);
	assert_null(session_held_next(s));
	for (unsigned n = 1; n <= 9; n++) {
		s->exp_cmd_sn++;
		h = session_held_next(s);
		assert_non_null(h);
		assert_int_equal(h->data_len, n);
		assert_null(session_held_next(s));
		free(h);
	}
	assert_int_equal(s->held_bytes, 0);
	/* bounded, whoever sends it */
	hold(s, s->exp_cmd_sn + 1, 256 * 1024, 0);
	hold(s, s->exp_cmd_sn + 2, 256 * 1024, -ENOBUFS);
	assert_true(loop_memory_used(f->home.loop) > 256 * 1024);
	session_free(s);
	/* and part of the budget */
	assert_int_equal(loop_memory_used(f->home.loop), 0);
	fixture_free(f);
	free(i);
}

/* ---- Names ---- */

static void test_names(void **state)
{
	static const struct {
		const char *name;
		bool ok;
	} cases[] = {
		{"iqn.2026-11.lan.nas:disk1", true},
		{"iqn.2026-11.lan.nas", true},
		{"iqn.2026-11.lan.nas:a:b.c-d", true},
		{"eui.02004567a425678d", true},
		{"naa.52004567ba64678d", true},
		{"naa.62004567ba64678d0123456789abcdef", true},
		{"", false},
		{"disk1", false},
		{"iqn.", false},
		{"iqn.2026-11.", false},
		{"iqn.2026-11", false},
		{"iqn.202x-11.lan", false},
		{"iqn.2026-11.LAN", false},
		{"iqn.2026-11.lan:a b", false},
		{"iqn.2026-11.lan:a\n", false},
		{"iqn.2026-11.lan:\xc3\xa4", false},
		{"eui.02004567a425678", false},
		{"eui.02004567a425678dd", false},
		{"eui.02004567a425678g", false},
		{"naa.52004567ba64678d0", false},
	};
	char longest[SCSI_NAME_MAX + 2];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(iscsi_name_check(cases[i].name, NULL), cases[i].ok ? 0 : -EINVAL);
	memset(longest, 'a', sizeof(longest));
	memcpy(longest, "iqn.2026-11.lan:", 16);
	longest[SCSI_NAME_MAX] = '\0';
	assert_int_equal(iscsi_name_check(longest, NULL), 0);
	longest[SCSI_NAME_MAX] = 'a';
	longest[SCSI_NAME_MAX + 1] = '\0';
	assert_int_equal(iscsi_name_check(longest, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ahs),         cmocka_unit_test(test_ahs_random),
		cmocka_unit_test(test_layout),      cmocka_unit_test(test_data_digests),
		cmocka_unit_test(test_gather),      cmocka_unit_test(test_statsn),
		cmocka_unit_test(test_cmdsn),       cmocka_unit_test(test_window),
		cmocka_unit_test(test_window_size), cmocka_unit_test(test_hold),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
