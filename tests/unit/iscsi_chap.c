/*
 * CHAP without a network: digests against values that another implementation computed, binary
 * values that are not, each step with what it wants and with everything else, and who may be a
 * user. What an initiator sees of it is in tests/protocol/chap.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "iscsi/impl.h"

#define ALICE "0123456789abcdef"
#define BOB   "bob's own secret"
#define SELF  "fedcba9876543210"

/* ---- Digests (RFC 1994 4.1) ---- */

struct digest_case {
	uint32_t algorithm;
	const char *hex[3];
};

/* One a challenge below; from Python's hashlib. */
static const struct digest_case digests[] = {
	{5,
	 {"56ddb6ee444588613bda650f3942a9ed", "3821a71fc47e5883a9cde314f6183816",
	  "ed894f319fbb6ccb52685a635bbcbf1e"}},
	{6,
	 {"65e76e6a0ac244cf2c043ad5cac69c7ea4203913", "ee4f88aac0e586b10ea91c1ba73a9076a6d31523",
	  "1167bd61dbe909d6b4f53d3d15c620aabfc6526f"}},
	{7,
	 {"20ae729d9fdfce6d5ec6e55b88d4e1825cdab450f34769a3ac6bd89abc922619",
	  "9e84ffe6dc464508d86e5a2ca4f2e36aeeff5517ae8c14a8c81fe66a903a2e22",
	  "6cf58fd4323af1511c52bc8cc6dea6ad8ed5c460adb2435e43d4220373b8282c"}},
	{8,
	 {"d461ec5c9b886d0951a18e5f8fb973ba3ae58aa28f0feca459328277ef5a3d5c",
	  "742e0dcd811348c301ec3a8124bc03b9c3324d991ecb268b12896cb4b6f4b562",
	  "c74b5a781b82f02b7721db3b0ad1df270021c57cd2aa4aa2653b7bd7d923530b"}},
};

static void check_digest(const struct digest_case *c, unsigned which, uint8_t id,
			 const char *secret, const uint8_t *challenge, size_t len)
{
	const struct chap_algorithm *algorithm = chap_algorithm(c->algorithm);
	uint8_t out[CHAP_DIGEST_MAX];
	char hex[2 * CHAP_DIGEST_MAX + 1];
	int n;

	assert_non_null(algorithm);
	n = chap_response(algorithm, id, secret, challenge, len, out);
	assert_in_range(n, 16, CHAP_DIGEST_MAX);
	str_hex(hex, out, (size_t)n);
	assert_string_equal(hex, c->hex[which]);
}

static void known_answers(void **state)
{
	uint8_t counting[32], one[1] = {0}, longest[CHAP_BINARY_MAX];
	char secret[CHAP_SECRET_MAX + 1];

	for (unsigned i = 0; i < sizeof(counting); i++)
		counting[i] = low_u8(i);
	memset(longest, 0xa5, sizeof(longest));
	memset(secret, 's', CHAP_SECRET_MAX);
	memcpy(secret, "\xc3\xbc", 2);
	secret[CHAP_SECRET_MAX] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(digests); i++) {
		check_digest(&digests[i], 0, 0, "0123456789abcdef", counting, sizeof(counting));
		check_digest(&digests[i], 1, 255, "twelve bytes", one, sizeof(one));
		check_digest(&digests[i], 2, 0x5a, secret, longest, sizeof(longest));
	}
}

static void other_algorithms(void **state)
{
	static const uint32_t numbers[] = {0, 1, 4, 9, 128, UINT32_MAX};

	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		assert_null(chap_algorithm(numbers[i]));
}

static void too_long_to_digest(void **state)
{
	uint8_t challenge[CHAP_BINARY_MAX + 1] = {0}, out[CHAP_DIGEST_MAX];
	char secret[CHAP_SECRET_MAX + 1];

	memset(secret, 's', CHAP_SECRET_MAX);
	secret[CHAP_SECRET_MAX] = '\0';
	assert_int_equal(
		chap_response(chap_algorithm(5), 1, secret, challenge, sizeof(challenge), out),
		-EIO);
}

/* ---- Binary values (RFC 7143 6.1) ---- */

static void binary_values(void **state)
{
	static const struct {
		const char *text, *bytes;
		int len;
	} cases[] = {
		{"0x00", "\0", 1},
		{"0X0aFf", "\x0a\xff", 2},
		{"0xabc", "\x0a\xbc", 2},
		{"0xf", "\x0f", 1},
		{"0bAA==", "\0", 1},
		{"0BAAE=", "\0\x01", 2},
		{"0b+/+/", "\xfb\xff\xbf", 3},
		{"0bcGFkZGluZw==", "padding", 7},
		{"0x0001020304050607", "\0\x01\x02\x03\x04\x05\x06\x07", 8},
		{"0bAAECAwQFBgc=", "\0\x01\x02\x03\x04\x05\x06\x07", 8},
		{"", "", -EINVAL},
		{"0", "", -EINVAL},
		{"12", "", -EINVAL},
		{"0x", "", -EINVAL},
		{"0b", "", -EINVAL},
		{"0b====", "", -EINVAL},
		{"x00", "", -EINVAL},
		{"0x0g", "", -EINVAL},
		{"0x 0", "", -EINVAL},
		{"0x00 ", "", -EINVAL},
		{"0x-1", "", -EINVAL},
		{"0b A==", "", -EINVAL},
		{"0bA", "", -EINVAL},
		{"0bAA", "", -EINVAL},
		{"0bAAA", "", -EINVAL},
		{"0bA===", "", -EINVAL},
		{"0bA=AA", "", -EINVAL},
		{"0bAA=A", "", -EINVAL},
		{"0bAA==AA==", "", -EINVAL},
		{"0bAAAA=", "", -EINVAL},
		{"0bAA-_", "", -EINVAL},
		{"0bAAA\xc3", "", -EINVAL},
		{"0x000102030405060708", "", -EINVAL}, /* nine bytes, and there is room for eight */
		{"0b000000000000", "", -EINVAL},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		/* On the heap, so that a byte too many is seen. */
		uint8_t *out = malloc(8);
		int len;

		assert_non_null(out);
		len = keys_binary(cases[i].text, out, 8);
		if (len != cases[i].len)
			fail_msg("%s: %d, not %d", cases[i].text, len, cases[i].len);
		if (len > 0)
			assert_memory_equal(out, cases[i].bytes, (size_t)len);
		free(out);
	}
}

static void binary_values_come_back(void **state)
{
	uint8_t buf[64], bytes[16], got[16];
	struct writer w;

	for (size_t len = 1; len <= sizeof(bytes); len++) {
		for (size_t i = 0; i < len; i++)
			bytes[i] = low_u8(251 * (i + len));
		w = writer_of(buf, sizeof(buf));
		keys_put_binary(&w, "K", bytes, len);
		assert_int_equal(w.len, strlen("K=0x") + 2 * len + 1);
		assert_int_equal(keys_binary((const char *)buf + 2, got, sizeof(got)), len);
		assert_memory_equal(got, bytes, len);
	}
}

static void numbers(void **state)
{
	static const struct {
		const char *text;
		bool ok;
		uint32_t value;
	} cases[] = {
		{"0", true, 0},   {"255", true, 255},    {"0xff", true, 255},
		{"0X0", true, 0}, {"256", false},        {"0x100", false},
		{"-1", false},    {"", false},           {"00", false},
		{"01", false},    {"0x", false},         {"1 ", false},
		{" 1", false},    {"1.0", false},        {"0bAA==", false},
		{"0b1", false},   {"4294967296", false}, {"99999999999999999999", false},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint32_t v = 0;

		if (keys_number(cases[i].text, 0, 255, &v) != cases[i].ok)
			fail_msg("'%s'", cases[i].text);
		assert_int_equal(v, cases[i].value);
	}
}

/* ---- The steps ---- */

struct fixture {
	struct iscsi i; /* only its users */
	struct iscsi_params p;
	struct chap chap;
	struct writer reply;
	uint8_t buf[KEYS_REPLY_MAX + 1];
};

static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(iscsi_add_chap_user(&f->i, "alice", ALICE, NULL), 0);
	assert_int_equal(iscsi_add_chap_user(&f->i, "bob", BOB, NULL), 0);
	keys_init(&f->p, KEYS_R2T_FIRST);
	chap_begin(&f->chap, &f->i.auth);
	return f;
}

static void fixture_free(struct fixture *f)
{
	chap_fini(&f->i.auth);
	free(f);
}

/* A request of the security stage: pairs with a ';' behind each. */
static enum iscsi_login_status say(struct fixture *f, uint8_t flags, const char *pairs)
{
	struct keys_ctx ctx = {.stage = KEYS_SECURITY, .leading = true, .chap_required = true};
	size_t len = strlen(pairs);
	char *text = malloc(len + 1);
	enum iscsi_login_status status;

	assert_non_null(text);
	for (size_t i = 0; i < len; i++)
		text[i] = pairs[i] == ';' ? '\0' : pairs[i];
	f->reply = writer_of(f->buf, KEYS_REPLY_MAX);
	status = (enum iscsi_login_status)keys_negotiate(&f->p, &ctx, text, len, &f->reply);
	if (status == ISCSI_LOGIN_OK)
		status = chap_take(&f->chap, &f->p, &ctx, flags, &f->reply);
	f->buf[writer_stored(&f->reply)] = '\0';
	free(text);
	return status;
}

#define SAY_OK(f, pairs) assert_int_equal(say(f, 0, pairs), ISCSI_LOGIN_OK)

/* The value of a key in the last answer, NULL: it is not there. */
static const char *told(const struct fixture *f, const char *key)
{
	const char *at = (const char *)f->buf, *end = at + writer_stored(&f->reply);

	for (; at < end; at += strlen(at) + 1)
		if (str_starts(at, key) && at[strlen(key)] == '=')
			return at + strlen(key) + 1;
	return NULL;
}

/* "CHAP_N=..;CHAP_R=..;" as the user with that secret would say it. */
static const char *proof(const struct fixture *f, char text[512], const char *name,
			 const char *secret)
{
	uint8_t out[CHAP_DIGEST_MAX];
	char hex[2 * CHAP_DIGEST_MAX + 1];
	int len = chap_response(f->chap.algorithm, f->chap.id, secret, f->chap.challenge,
				sizeof(f->chap.challenge), out);

	assert_true(len > 0);
	str_hex(hex, out, (size_t)len);
	assert_true(str_format(text, 512, "CHAP_N=%s;CHAP_R=0x%s;", name, hex));
	return text;
}

static void to_proof(struct fixture *f)
{
	SAY_OK(f, "AuthMethod=CHAP,None;");
	SAY_OK(f, "CHAP_A=5;");
}

static void ours_is_the_choice(void **state)
{
	static const struct {
		const char *offer, *choice;
	} cases[] = {
		{"5", "5"},
		{"5,6,7,8", "8"},
		{"5,7,6", "7"},
		{"5,6", "6"},
		{"0x7,5", "7"},
		{"1,2,3,5", "5"},
		{"5,5,5", "5"},
		{"banana,,5", "5"},
		{"00000000000000000000000000000000000007,6", "6"},
		{"9,128", NULL},
		{"", NULL},
		{",", NULL},
		{"55", NULL},
		{"SHA256", NULL},
		{"-5", NULL},
		{"5 ", NULL},
		{"4294967301", NULL},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct fixture *f = fixture_new();
		char pair[128];
		bool ok = cases[i].choice != NULL;

		SAY_OK(f, "AuthMethod=CHAP;");
		assert_string_equal(told(f, "AuthMethod"), "CHAP");
		assert_true(str_format(pair, sizeof(pair), "CHAP_A=%s;", cases[i].offer));
		assert_int_equal(say(f, 0, pair), ok ? ISCSI_LOGIN_OK : ISCSI_LOGIN_AUTHENTICATION);
		if (ok) {
			assert_string_equal(told(f, "CHAP_A"), cases[i].choice);
			assert_int_equal(strlen(told(f, "CHAP_C")), 2 + 2 * CHAP_CHALLENGE_LEN);
			assert_non_null(told(f, "CHAP_I"));
		}
		fixture_free(f);
	}
}

static void challenges_are_fresh(void **state)
{
	struct fixture *a = fixture_new(), *b = fixture_new();

	to_proof(a);
	to_proof(b);
	assert_memory_not_equal(a->chap.challenge, b->chap.challenge, CHAP_CHALLENGE_LEN);
	fixture_free(a);
	fixture_free(b);
}

static void every_user_gets_in(void **state)
{
	static const char *const users[][2] = {{"alice", ALICE}, {"bob", BOB}};
	char text[512];

	for (size_t i = 0; i < ARRAY_LEN(users); i++) {
		struct fixture *f = fixture_new();

		assert_false(chap_done(&f->chap));
		to_proof(f);
		assert_false(chap_done(&f->chap));
		SAY_OK(f, proof(f, text, users[i][0], users[i][1]));
		assert_true(chap_done(&f->chap));
		assert_null(told(f, "CHAP_R"));
		/* And goes on. */
		assert_int_equal(say(f, ISCSI_FINAL | ISCSI_OPERATIONAL, ""), ISCSI_LOGIN_OK);
		fixture_free(f);
	}
}

static void nobody_else_does(void **state)
{
	static const char *const users[][2] = {
		{"alice", BOB},       {"bob", ALICE},
		{"carol", ALICE},     {"Alice", ALICE},
		{"", ALICE},          {"alice ", ALICE},
		{"alice", SELF},      {"alice", "0123456789abcde"},
		{"alice", ALICE "0"},
	};
	char text[512];

	for (size_t i = 0; i < ARRAY_LEN(users); i++) {
		struct fixture *f = fixture_new();

		to_proof(f);
		assert_int_equal(say(f, 0, proof(f, text, users[i][0], users[i][1])),
				 ISCSI_LOGIN_AUTHENTICATION);
		assert_false(chap_done(&f->chap));
		assert_non_null(f->chap.why);
		fixture_free(f);
	}
}

/* A response of another length, also a beginning of the right one, is a wrong one. */
static void half_a_response(void **state)
{
	static const size_t cuts[] = {2, 16, 30};
	char text[512];

	for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
		struct fixture *f = fixture_new();
		char *r;

		to_proof(f);
		proof(f, text, "alice", ALICE);
		r = strstr(text, "0x");
		assert_non_null(r);
		str_copy(r + 2 + cuts[i], 2, ";");
		assert_int_equal(say(f, 0, text), ISCSI_LOGIN_AUTHENTICATION);
		fixture_free(f);
	}
	struct fixture *f = fixture_new();

	to_proof(f);
	proof(f, text, "alice", ALICE);
	str_copy(text + strlen(text) - 1, 4, "00;");
	assert_int_equal(say(f, 0, text), ISCSI_LOGIN_AUTHENTICATION);
	fixture_free(f);
}

/* What each step says to what it does not want. */
static void out_of_order(void **state)
{
	enum { BAD = ISCSI_LOGIN_INITIATOR_ERROR, NO = ISCSI_LOGIN_AUTHENTICATION };
	static const struct {
		unsigned good; /* steps before it */
		const char *pairs;
		uint8_t flags;
		unsigned status;
	} cases[] = {
		{0, "", ISCSI_FINAL | ISCSI_OPERATIONAL, NO},
		{0, "", ISCSI_FINAL | ISCSI_FULL_FEATURE, NO},
		{0, "AuthMethod=None;", 0, NO},
		{0, "AuthMethod=KRB5,None;", 0, NO},
		{0, "CHAP_A=5;", 0, BAD},
		{0, "CHAP_N=alice;CHAP_R=0x00;", 0, BAD},
		{0, "AuthMethod=CHAP;CHAP_A=5;", 0, BAD},
		{0, "CHAP_A=5;AuthMethod=CHAP;", 0, BAD},
		{1, "", ISCSI_FINAL | ISCSI_OPERATIONAL, NO},
		{1, "", ISCSI_FINAL | ISCSI_FULL_FEATURE, NO},
		{1, "AuthMethod=CHAP;", 0, BAD},
		{1, "AuthMethod=None;", 0, BAD},
		{1, "CHAP_N=alice;CHAP_R=0x00;", 0, BAD},
		{1, "CHAP_A=5;CHAP_A=5;", 0, BAD},
		{1, "CHAP_A=5;CHAP_N=alice;CHAP_R=0x00;", 0, BAD},
		{1, "CHAP_I=1;CHAP_C=0x00;", 0, BAD},
		{2, "", ISCSI_FINAL | ISCSI_OPERATIONAL, NO},
		{2, "", ISCSI_FINAL | ISCSI_FULL_FEATURE, NO},
		{2, "CHAP_A=5;", 0, BAD},
		{2, "CHAP_N=alice;", 0, BAD},
		{2, "CHAP_R=0x00;", 0, BAD},
		{2, "CHAP_N=alice;CHAP_I=1;CHAP_C=0x00;", 0, BAD},
		{2, "CHAP_N=alice;CHAP_R=banana;", 0, BAD},
		{2, "CHAP_N=alice;CHAP_R=1;", 0, BAD},
		{2, "CHAP_N=alice;CHAP_R=0x;", 0, BAD},
		{2, "CHAP_N=alice;CHAP_N=alice;CHAP_R=0x00;", 0, BAD},
		{2, "CHAP_N=alice;CHAP_R=0x00;CHAP_R=0x00;", 0, BAD},
		{3, "CHAP_N=alice;CHAP_R=0x00;", 0, BAD},
		{3, "CHAP_I=1;CHAP_C=0x00;", 0, BAD},
		{3, "CHAP_A=5;", 0, BAD},
		{3, "AuthMethod=CHAP;", 0, BAD},
	};
	char text[512];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct fixture *f = fixture_new();
		unsigned status;

		if (cases[i].good >= 1)
			SAY_OK(f, "AuthMethod=CHAP;");
		if (cases[i].good >= 2)
			SAY_OK(f, "CHAP_A=8,5;");
		if (cases[i].good >= 3)
			SAY_OK(f, proof(f, text, "alice", ALICE));
		status = say(f, cases[i].flags, cases[i].pairs);
		if (status != cases[i].status)
			fail_msg("after %u steps, %s: %04x", cases[i].good, cases[i].pairs, status);
		fixture_free(f);
	}
}

/* Nothing said, nothing gained, and the next step is what it was. */
static void silence_is_no_step(void **state)
{
	struct fixture *f = fixture_new();
	char text[512];

	SAY_OK(f, "InitiatorName=iqn.a;");
	SAY_OK(f, "AuthMethod=CHAP;");
	SAY_OK(f, "");
	SAY_OK(f, "CHAP_A=6;");
	SAY_OK(f, "");
	assert_false(chap_done(&f->chap));
	SAY_OK(f, proof(f, text, "alice", ALICE));
	assert_true(chap_done(&f->chap));
	fixture_free(f);
}

/* T early is a wish that is not granted (RFC 7143 6.3.1), as long as something is said. */
static void early_transit(void **state)
{
	const uint8_t flags = ISCSI_FINAL | ISCSI_OPERATIONAL;
	struct fixture *f = fixture_new();
	char text[512];

	assert_int_equal(say(f, flags, "AuthMethod=CHAP;"), ISCSI_LOGIN_OK);
	assert_false(chap_done(&f->chap));
	assert_int_equal(say(f, flags, "CHAP_A=5;"), ISCSI_LOGIN_OK);
	assert_false(chap_done(&f->chap));
	assert_int_equal(say(f, flags, proof(f, text, "bob", BOB)), ISCSI_LOGIN_OK);
	assert_true(chap_done(&f->chap));
	fixture_free(f);
}

static void operational_stage_needs_it(void **state)
{
	struct keys_ctx ctx = {.stage = KEYS_OPERATIONAL, .leading = true, .chap_required = true};
	struct fixture *f = fixture_new();

	assert_int_equal(chap_take(&f->chap, &f->p, &ctx, 0, &f->reply),
			 ISCSI_LOGIN_AUTHENTICATION);
	f->chap.step = CHAP_DONE;
	assert_int_equal(chap_take(&f->chap, &f->p, &ctx, 0, &f->reply), ISCSI_LOGIN_OK);
	fixture_free(f);
}

static void nobody_is_asked_without_users(void **state)
{
	static const struct chap_auth nobody;
	struct chap chap;

	chap_begin(&chap, &nobody);
	assert_true(chap_done(&chap));
}

/* ---- The other direction ---- */

static enum iscsi_login_status ask_back(struct fixture *f, const char *pairs)
{
	char text[512 + 4096];
	size_t len;

	to_proof(f);
	proof(f, text, "alice", ALICE);
	len = strlen(text);
	assert_true(str_append(text, sizeof(text), &len, "%s", pairs));
	return say(f, ISCSI_FINAL | ISCSI_OPERATIONAL, text);
}

static void we_prove_ourselves(void **state)
{
	static const uint8_t challenge[] = {1, 2, 3};
	struct fixture *f = fixture_new();
	uint8_t expected[CHAP_DIGEST_MAX], got[CHAP_DIGEST_MAX];
	int len;

	assert_int_equal(iscsi_set_chap_mutual(&f->i, "self", SELF, NULL), 0);
	assert_int_equal(ask_back(f, "CHAP_I=0xfe;CHAP_C=0bAQID;"), ISCSI_LOGIN_OK);
	assert_string_equal(told(f, "CHAP_N"), "self");
	len = chap_response(f->chap.algorithm, 0xfe, SELF, challenge, sizeof(challenge), expected);
	assert_int_equal(keys_binary(told(f, "CHAP_R"), got, sizeof(got)), len);
	assert_memory_equal(got, expected, (size_t)len);
	fixture_free(f);
}

static void wrong_questions(void **state)
{
	enum { BAD = ISCSI_LOGIN_INITIATOR_ERROR };
	static const char *const cases[] = {
		"CHAP_I=1;",
		"CHAP_C=0x01;",
		"CHAP_I=256;CHAP_C=0x01;",
		"CHAP_I=;CHAP_C=0x01;",
		"CHAP_I=-1;CHAP_C=0x01;",
		"CHAP_I=x;CHAP_C=0x01;",
		"CHAP_I=1;CHAP_C=;",
		"CHAP_I=1;CHAP_C=0x;",
		"CHAP_I=1;CHAP_C=1;",
		"CHAP_I=1;CHAP_C=0b;",
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct fixture *f = fixture_new();

		assert_int_equal(iscsi_set_chap_mutual(&f->i, "self", SELF, NULL), 0);
		assert_int_equal(ask_back(f, cases[i]), BAD);
		assert_null(told(f, "CHAP_R"));
		assert_false(chap_done(&f->chap));
		fixture_free(f);
	}
}

static void longest_challenge(void **state)
{
	for (unsigned more = 0; more < 2; more++) {
		struct fixture *f = fixture_new();
		size_t digits = 2 * (CHAP_BINARY_MAX + more);
		char text[4096] = "CHAP_I=1;CHAP_C=0x";

		assert_int_equal(iscsi_set_chap_mutual(&f->i, "self", SELF, NULL), 0);
		memset(text + strlen(text), 'a', digits);
		str_copy(text + strlen(text), 2, ";");
		assert_int_equal(ask_back(f, text),
				 more == 0 ? ISCSI_LOGIN_OK : ISCSI_LOGIN_INITIATOR_ERROR);
		fixture_free(f);
	}
}

static void reflection(void **state)
{
	struct fixture *f = fixture_new();
	char text[512], hex[2 * CHAP_CHALLENGE_LEN + 1];
	size_t len;

	assert_int_equal(iscsi_set_chap_mutual(&f->i, "self", SELF, NULL), 0);
	to_proof(f);
	proof(f, text, "alice", ALICE);
	len = strlen(text);
	str_hex(hex, f->chap.challenge, sizeof(f->chap.challenge));
	assert_true(str_append(text, sizeof(text), &len, "CHAP_I=9;CHAP_C=0X%s;", hex));
	assert_int_equal(say(f, 0, text), ISCSI_LOGIN_AUTHENTICATION);
	assert_false(chap_done(&f->chap));
	assert_null(told(f, "CHAP_R"));
	fixture_free(f);
}

/* We prove nothing to who has not proven who it is. */
static void we_are_no_oracle(void **state)
{
	struct fixture *f = fixture_new();

	assert_int_equal(iscsi_set_chap_mutual(&f->i, "self", SELF, NULL), 0);
	to_proof(f);
	assert_int_equal(say(f, 0, "CHAP_N=alice;CHAP_R=0x00;CHAP_I=1;CHAP_C=0x01;"),
			 ISCSI_LOGIN_AUTHENTICATION);
	assert_null(told(f, "CHAP_R"));
	fixture_free(f);
}

static void mutual_that_is_not_set_up(void **state)
{
	struct fixture *f = fixture_new();

	assert_int_equal(ask_back(f, "CHAP_I=1;CHAP_C=0x01;"), ISCSI_LOGIN_AUTHENTICATION);
	assert_false(chap_done(&f->chap));
	fixture_free(f);
}

/* ---- Users ---- */

static void secrets_that_will_not_do(void **state)
{
	char longest[CHAP_SECRET_MAX + 2];
	const char *const cases[][2] = {
		{"", "has 0 bytes"},
		{"elevenbytes", "has 11 bytes"},
		{longest, "has 256 bytes"},
		{" 0123456789ab", "blank"},
		{"0123456789ab ", "blank"},
		{"0123456789ab\t", "blank"},
		{"012345\n6789ab", "control character"},
		{"012345\x7f"
		 "6789ab",
		 "control character"},
	};

	memset(longest, 's', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct iscsi server = {0};
		struct diag d;

		diag_init(&d);
		assert_int_equal(iscsi_add_chap_user(&server, "u", cases[i][0], &d), -EINVAL);
		assert_non_null(strstr(d.what, cases[i][1]));
		assert_int_not_equal(d.fix[0], '\0');
		/* It is not told. */
		assert_null(strstr(d.what, "0123"));
		assert_int_equal(iscsi_chap_count(&server), 0);
		diag_init(&d);
		assert_int_equal(iscsi_set_chap_mutual(&server, "u", cases[i][0], &d), -EINVAL);
		assert_null(iscsi_chap_mutual(&server));
		chap_fini(&server.auth);
	}
	struct iscsi server = {0};

	longest[CHAP_SECRET_MAX] = '\0';
	assert_int_equal(iscsi_add_chap_user(&server, "u", longest, NULL), 0);
	assert_int_equal(iscsi_add_chap_user(&server, "v", "twelve bytes", NULL), 0);
	chap_fini(&server.auth);
}

static void names_that_will_not_do(void **state)
{
	char longest[CHAP_NAME_MAX + 2];
	const char *const cases[] = {"", "a\nb", "\x1b[31m", "\xc3\xbc", longest};
	struct iscsi server = {0};

	memset(longest, 'n', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(iscsi_add_chap_user(&server, cases[i], ALICE, NULL), -EINVAL);
	longest[CHAP_NAME_MAX] = '\0';
	assert_int_equal(iscsi_add_chap_user(&server, longest, ALICE, NULL), 0);
	assert_int_equal(iscsi_add_chap_user(&server, "iqn.1993-08.org.debian:01:a b", ALICE, NULL),
			 0);
	assert_int_equal(iscsi_chap_count(&server), 2);
	assert_string_equal(iscsi_chap_name(&server, 0), longest);
	chap_fini(&server.auth);
}

static void each_user_once(void **state)
{
	struct iscsi server = {0};

	assert_int_equal(iscsi_add_chap_user(&server, "alice", ALICE, NULL), 0);
	assert_int_equal(iscsi_add_chap_user(&server, "alice", BOB, NULL), -EINVAL);
	assert_int_equal(iscsi_set_chap_mutual(&server, "self", SELF, NULL), 0);
	assert_int_equal(iscsi_set_chap_mutual(&server, "other", SELF "x", NULL), -EINVAL);
	assert_string_equal(iscsi_chap_mutual(&server), "self");
	chap_fini(&server.auth);
}

/* In whatever order they are told. */
static void directions_have_secrets_of_their_own(void **state)
{
	struct iscsi server = {0};

	assert_int_equal(iscsi_add_chap_user(&server, "bob", BOB, NULL), 0);
	assert_int_equal(iscsi_add_chap_user(&server, "alice", ALICE, NULL), 0);
	assert_int_equal(iscsi_set_chap_mutual(&server, "self", ALICE, NULL), -EINVAL);
	assert_null(iscsi_chap_mutual(&server));
	assert_int_equal(iscsi_set_chap_mutual(&server, "self", SELF, NULL), 0);
	assert_int_equal(iscsi_add_chap_user(&server, "carol", SELF, NULL), -EINVAL);
	assert_int_equal(iscsi_chap_count(&server), 2);
	chap_fini(&server.auth);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_answers),
		cmocka_unit_test(other_algorithms),
		cmocka_unit_test(too_long_to_digest),
		cmocka_unit_test(binary_values),
		cmocka_unit_test(binary_values_come_back),
		cmocka_unit_test(numbers),
		cmocka_unit_test(ours_is_the_choice),
		cmocka_unit_test(challenges_are_fresh),
		cmocka_unit_test(every_user_gets_in),
		cmocka_unit_test(nobody_else_does),
		cmocka_unit_test(half_a_response),
		cmocka_unit_test(out_of_order),
		cmocka_unit_test(silence_is_no_step),
		cmocka_unit_test(early_transit),
		cmocka_unit_test(operational_stage_needs_it),
		cmocka_unit_test(nobody_is_asked_without_users),
		cmocka_unit_test(we_prove_ourselves),
		cmocka_unit_test(wrong_questions),
		cmocka_unit_test(longest_challenge),
		cmocka_unit_test(reflection),
		cmocka_unit_test(we_are_no_oracle),
		cmocka_unit_test(mutual_that_is_not_set_up),
		cmocka_unit_test(secrets_that_will_not_do),
		cmocka_unit_test(names_that_will_not_do),
		cmocka_unit_test(each_user_once),
		cmocka_unit_test(directions_have_secrets_of_their_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
