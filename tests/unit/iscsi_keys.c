/*
 * The negotiation of text keys: each row with values inside, outside and beside its range, each
 * stage, texts that are not texts, and random ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "iscsi/keys.h"

#define NAMES "InitiatorName=iqn.a\0TargetName=iqn.t\0"

struct fixture {
	struct iscsi_params p;
	struct keys_ctx ctx;
	struct writer reply;
	uint8_t buf[KEYS_REPLY_MAX];
};

static struct fixture *fixture_new(enum keys_stage stage)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	keys_init(&f->p, KEYS_R2T_FIRST);
	f->ctx = (struct keys_ctx){.stage = stage, .leading = true};
	f->reply = writer_of(f->buf, sizeof(f->buf));
	return f;
}

/* The text is copied to the heap to its byte, so that a sanitizer sees a read past it. */
static enum keys_status feed(struct fixture *f, const char *text, size_t len)
{
	char *copy = malloc(len > 0 ? len : 1);
	enum keys_status status;

	assert_non_null(copy);
	memcpy(copy, text, len);
	f->reply.len = 0;
	status = keys_negotiate(&f->p, &f->ctx, copy, len, &f->reply);
	free(copy);
	return status;
}

#define FEED(f, literal) feed(f, literal, sizeof(literal) - 1)

static void assert_reply(const struct fixture *f, const char *expect, size_t len)
{
	assert_int_equal(f->reply.len, len);
	assert_memory_equal(f->buf, expect, len);
}

#define ASSERT_REPLY(f, literal) assert_reply(f, literal, sizeof(literal) - 1)

/* ---- One pair, one answer ---- */

struct answer_row {
	const char *pair, *answer; /* "": none is sent */
	enum keys_status status;
};

static void check_answers(enum keys_stage stage, enum keys_session_type type, bool leading,
			  const struct answer_row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct fixture *f = fixture_new(stage);
		size_t len = strlen(rows[i].answer);
		enum keys_status status;

		f->p.session_type = type;
		f->ctx.leading = leading;
		status = feed(f, rows[i].pair, strlen(rows[i].pair) + 1);
		if (status != rows[i].status)
			fail_msg("%s: status %04x, not %04x", rows[i].pair, status, rows[i].status);
		if (status == KEYS_OK) {
			f->buf[f->reply.len] = '\0';
			if (f->reply.len != (len > 0 ? len + 1 : 0) ||
			    strcmp((char *)f->buf, rows[i].answer) != 0)
				fail_msg("%s: answered '%s', not '%s'", rows[i].pair, f->buf,
					 rows[i].answer);
		}
		free(f);
	}
}

#define CHECK_ANSWERS(stage, type, leading, rows) \
	check_answers(stage, type, leading, rows, ARRAY_LEN(rows))

static void numbers(void **state)
{
	static const struct answer_row rows[] = {
		{"MaxConnections=1", "MaxConnections=1", KEYS_OK},
		{"MaxConnections=8", "MaxConnections=1", KEYS_OK},
		{"MaxConnections=65535", "MaxConnections=1", KEYS_OK},
		{"MaxConnections=0", "MaxConnections=Reject", KEYS_OK},
		{"MaxConnections=65536", "MaxConnections=Reject", KEYS_OK},
		{"MaxBurstLength=511", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=512", "MaxBurstLength=512", KEYS_OK},
		{"MaxBurstLength=1048576", "MaxBurstLength=1048576", KEYS_OK},
		{"MaxBurstLength=16777215", "MaxBurstLength=1048576", KEYS_OK},
		{"MaxBurstLength=16777216", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=0x1000", "MaxBurstLength=4096", KEYS_OK},
		{"MaxBurstLength=0X1fF", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=0X2fF", "MaxBurstLength=767", KEYS_OK},
		{"MaxBurstLength=0x", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=0x10g0", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=0x10:0", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=0x10@0", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=0x10`0", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=04096", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=+4096", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=-1", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength= 4096", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=4096 ", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=4294967808", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=18446744073709556224", "MaxBurstLength=Reject", KEYS_OK},
		{"MaxBurstLength=Irrelevant", "MaxBurstLength=Reject", KEYS_OK},
		{"FirstBurstLength=511", "FirstBurstLength=Reject", KEYS_OK},
		{"FirstBurstLength=512", "FirstBurstLength=512", KEYS_OK},
		{"FirstBurstLength=16777215", "FirstBurstLength=262144", KEYS_OK},
		{"MaxOutstandingR2T=0", "MaxOutstandingR2T=Reject", KEYS_OK},
		{"MaxOutstandingR2T=1", "MaxOutstandingR2T=1", KEYS_OK},
		{"MaxOutstandingR2T=65535", "MaxOutstandingR2T=4", KEYS_OK},
		{"DefaultTime2Wait=0", "DefaultTime2Wait=2", KEYS_OK},
		{"DefaultTime2Wait=2", "DefaultTime2Wait=2", KEYS_OK},
		{"DefaultTime2Wait=3600", "DefaultTime2Wait=3600", KEYS_OK},
		{"DefaultTime2Wait=3601", "DefaultTime2Wait=Reject", KEYS_OK},
		{"DefaultTime2Retain=0", "DefaultTime2Retain=0", KEYS_OK},
		{"DefaultTime2Retain=3600", "DefaultTime2Retain=0", KEYS_OK},
		{"DefaultTime2Retain=3601", "DefaultTime2Retain=Reject", KEYS_OK},
		{"ErrorRecoveryLevel=0", "ErrorRecoveryLevel=0", KEYS_OK},
		{"ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0", KEYS_OK},
		{"ErrorRecoveryLevel=3", "ErrorRecoveryLevel=Reject", KEYS_OK},
		{"iSCSIProtocolLevel=0", "iSCSIProtocolLevel=0", KEYS_OK},
		{"iSCSIProtocolLevel=1", "iSCSIProtocolLevel=1", KEYS_OK},
		{"iSCSIProtocolLevel=2", "iSCSIProtocolLevel=2", KEYS_OK},
		{"iSCSIProtocolLevel=31", "iSCSIProtocolLevel=2", KEYS_OK},
		{"iSCSIProtocolLevel=32", "iSCSIProtocolLevel=Reject", KEYS_OK},
	};

	CHECK_ANSWERS(KEYS_OPERATIONAL, KEYS_NORMAL, true, rows);
}

static void booleans(void **state)
{
	static const struct answer_row rows[] = {
		{"InitialR2T=No", "InitialR2T=Yes", KEYS_OK},
		{"InitialR2T=Yes", "InitialR2T=Yes", KEYS_OK},
		{"InitialR2T=yes", "InitialR2T=Reject", KEYS_OK},
		{"InitialR2T=", "InitialR2T=Reject", KEYS_OK},
		{"ImmediateData=No", "ImmediateData=No", KEYS_OK},
		{"ImmediateData=Yes", "ImmediateData=Yes", KEYS_OK},
		{"ImmediateData=1", "ImmediateData=Reject", KEYS_OK},
		{"DataPDUInOrder=No", "DataPDUInOrder=Yes", KEYS_OK},
		{"DataPDUInOrder=Yes", "DataPDUInOrder=Yes", KEYS_OK},
		{"DataPDUInOrder=Yes,No", "DataPDUInOrder=Reject", KEYS_OK},
		{"DataSequenceInOrder=No", "DataSequenceInOrder=Yes", KEYS_OK},
		{"DataSequenceInOrder=Yes", "DataSequenceInOrder=Yes", KEYS_OK},
		{"DataSequenceInOrder=NotUnderstood", "DataSequenceInOrder=Reject", KEYS_OK},
		{"IFMarker=Yes", "IFMarker=No", KEYS_OK},
		{"OFMarker=Yes", "OFMarker=No", KEYS_OK},
		{"OFMarker=No", "OFMarker=No", KEYS_OK},
		{"IFMarker=maybe", "IFMarker=Reject", KEYS_OK},
		{"IFMarkInt=2048~65535", "IFMarkInt=Reject", KEYS_OK},
		{"OFMarkInt=2048", "OFMarkInt=Reject", KEYS_OK},
	};

	CHECK_ANSWERS(KEYS_OPERATIONAL, KEYS_NORMAL, true, rows);
}

static void lists(void **state)
{
	static const struct answer_row rows[] = {
		{"HeaderDigest=None", "HeaderDigest=None", KEYS_OK},
		{"HeaderDigest=CRC32C", "HeaderDigest=CRC32C", KEYS_OK},
		{"HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C", KEYS_OK},
		{"HeaderDigest=None,CRC32C", "HeaderDigest=None", KEYS_OK},
		{"HeaderDigest=Z#other,CRC32C,None", "HeaderDigest=CRC32C", KEYS_OK},
		{"HeaderDigest=,None", "HeaderDigest=None", KEYS_OK},
		{"HeaderDigest=CRC32", "HeaderDigest=Reject", KEYS_OK},
		{"HeaderDigest=CRC32CC", "HeaderDigest=Reject", KEYS_OK},
		{"HeaderDigest=", "HeaderDigest=Reject", KEYS_OK},
		{"HeaderDigest=,", "HeaderDigest=Reject", KEYS_OK},
		{"DataDigest=CRC32C,None", "DataDigest=CRC32C", KEYS_OK},
		{"DataDigest=crc32c", "DataDigest=Reject", KEYS_OK},
		{"TaskReporting=FastAbort,ResponseFence,RFC3720", "TaskReporting=RFC3720", KEYS_OK},
		{"TaskReporting=FastAbort", "TaskReporting=Reject", KEYS_OK},
	};
	static const struct answer_row security[] = {
		{"AuthMethod=None", "AuthMethod=None", KEYS_OK},
		{"AuthMethod=CHAP,None", "AuthMethod=None", KEYS_OK},
		{"AuthMethod=KRB5,SRP,CHAP,None", "AuthMethod=None", KEYS_OK},
		{"AuthMethod=CHAP", "", KEYS_AUTH_FAILED},
		{"AuthMethod=", "", KEYS_AUTH_FAILED},
		{"AuthMethod=Nonesuch", "", KEYS_AUTH_FAILED},
	};

	CHECK_ANSWERS(KEYS_OPERATIONAL, KEYS_NORMAL, true, rows);
	CHECK_ANSWERS(KEYS_SECURITY, KEYS_NORMAL, true, security);
}

/* Where CHAP is asked for, nothing else will do; where it is not, its keys mean nothing. */
static void chap(void **state)
{
	static const char text[] = "AuthMethod=None,CHAP\0CHAP_A=5\0CHAP_N=\0";
	static const struct answer_row unasked[] = {
		{"CHAP_A=5", "CHAP_A=Reject", KEYS_OK},   {"CHAP_I=5", "CHAP_I=Reject", KEYS_OK},
		{"CHAP_C=0x5", "CHAP_C=Reject", KEYS_OK}, {"CHAP_N=a", "CHAP_N=Reject", KEYS_OK},
		{"CHAP_R=0x5", "CHAP_R=Reject", KEYS_OK},
	};
	struct fixture *f = fixture_new(KEYS_SECURITY);

	CHECK_ANSWERS(KEYS_SECURITY, KEYS_NORMAL, true, unasked);
	CHECK_ANSWERS(KEYS_OPERATIONAL, KEYS_NORMAL, true, unasked);
	CHECK_ANSWERS(KEYS_FULL_FEATURE, KEYS_NORMAL, true, unasked);
	f->ctx.chap_required = true;
	assert_int_equal(keys_negotiate(&f->p, &f->ctx, text, sizeof(text) - 1, &f->reply),
			 KEYS_OK);
	ASSERT_REPLY(f, "AuthMethod=CHAP\0");
	assert_int_equal(f->p.auth_method, KEYS_AUTH_CHAP);
	assert_string_equal(f->ctx.chap[KEYS_CHAP_A], "5");
	assert_string_equal(f->ctx.chap[KEYS_CHAP_N], "");
	assert_null(f->ctx.chap[KEYS_CHAP_R]);
	assert_int_equal(FEED(f, "CHAP_A=5\0"), KEYS_INITIATOR_ERROR);
	free(f);
}

static void declarations(void **state)
{
	static const struct answer_row rows[] = {
		{"MaxRecvDataSegmentLength=512", "", KEYS_OK},
		{"MaxRecvDataSegmentLength=16777215", "", KEYS_OK},
		{"MaxRecvDataSegmentLength=511", "", KEYS_INITIATOR_ERROR},
		{"MaxRecvDataSegmentLength=16777216", "", KEYS_INITIATOR_ERROR},
		{"MaxRecvDataSegmentLength=many", "", KEYS_INITIATOR_ERROR},
		{"InitiatorName=iqn.1993-08.org.debian:01:abc", "", KEYS_OK},
		{"InitiatorName=i", "", KEYS_OK},
		{"TargetName=t", "", KEYS_OK},
		{"InitiatorName=", "", KEYS_INITIATOR_ERROR},
		{"TargetName=", "", KEYS_INITIATOR_ERROR},
		{"InitiatorAlias=", "", KEYS_OK},
		{"InitiatorAlias=a machine", "", KEYS_OK},
		{"SessionType=Normal", "", KEYS_OK},
		{"SessionType=Discovery", "", KEYS_OK},
		{"SessionType=discovery", "", KEYS_BAD_SESSION_TYPE},
		{"SessionType=", "", KEYS_BAD_SESSION_TYPE},
		{"X#NodeArchitecture=OS:ARCH:CPU", "", KEYS_OK},
		{"TargetAlias=NotUnderstood", "", KEYS_OK},
		{"TargetPortalGroupTag=NotUnderstood", "", KEYS_OK},
		{"TargetPortalGroupTag=1", "TargetPortalGroupTag=Reject", KEYS_OK},
		{"TargetAlias=mine", "TargetAlias=Reject", KEYS_OK},
		{"TargetAddress=127.0.0.1", "TargetAddress=Reject", KEYS_OK},
	};

	CHECK_ANSWERS(KEYS_OPERATIONAL, KEYS_NORMAL, true, rows);
}

static void unknown_keys(void **state)
{
	static const struct answer_row rows[] = {
		{"X-com.example.thing=1", "X-com.example.thing=NotUnderstood", KEYS_OK},
		{"X#other=1", "X#other=NotUnderstood", KEYS_OK},
		{"maxburstlength=4096", "maxburstlength=NotUnderstood", KEYS_OK},
		{"MaxBurst=4096", "MaxBurst=NotUnderstood", KEYS_OK},
		{"MaxBurstLengths=4096", "MaxBurstLengths=NotUnderstood", KEYS_OK},
		{"Foo==", "Foo=NotUnderstood", KEYS_OK},
		{"CHAP_X=5", "CHAP_X=NotUnderstood", KEYS_OK},
	};

	CHECK_ANSWERS(KEYS_OPERATIONAL, KEYS_NORMAL, true, rows);
	CHECK_ANSWERS(KEYS_SECURITY, KEYS_NORMAL, true, rows);
	CHECK_ANSWERS(KEYS_FULL_FEATURE, KEYS_NORMAL, true, rows);
}

/* ---- Where a key is legal ---- */

enum { S = KEYS_SECURITY, O = KEYS_OPERATIONAL, F = KEYS_FULL_FEATURE };

struct place_row {
	const char *key, *value;
	unsigned stages;
	bool leading_only, irrelevant_in_discovery;
};

static const struct place_row places[] = {
	{"SessionType", "Normal", S | O, false, false},
	{"InitiatorName", "iqn.a", S | O, false, false},
	{"TargetName", "iqn.t", S | O, false, false},
	{"InitiatorAlias", "a", S | O | F, false, false},
	{"AuthMethod", "None", S, false, false},
	{"HeaderDigest", "None", O, false, false},
	{"DataDigest", "None", O, false, false},
	{"MaxRecvDataSegmentLength", "4096", O | F, false, false},
	{"MaxConnections", "1", O, true, true},
	{"InitialR2T", "Yes", O, true, true},
	{"ImmediateData", "Yes", O, true, true},
	{"MaxBurstLength", "4096", O, true, true},
	{"FirstBurstLength", "4096", O, true, true},
	{"MaxOutstandingR2T", "1", O, true, true},
	{"DataPDUInOrder", "Yes", O, true, true},
	{"DataSequenceInOrder", "Yes", O, true, true},
	{"DefaultTime2Wait", "2", O, true, false},
	{"DefaultTime2Retain", "0", O, true, false},
	{"ErrorRecoveryLevel", "0", O, true, false},
	{"TaskReporting", "RFC3720", O, true, true},
	{"iSCSIProtocolLevel", "1", O, true, true},
	{"X#NodeArchitecture", "x", S | O, false, false},
	{"SendTargets", "All", F, false, false},
	{"IFMarker", "No", O, false, false},
	{"OFMarker", "No", O, false, false},
};

/* What came back for `key`: its value, "" for nothing at all. */
static const char *answer_to(struct fixture *f, const char *key, const char *value)
{
	char pair[128];

	assert_true(str_format(pair, sizeof(pair), "%s=%s", key, value));
	assert_int_equal(feed(f, pair, strlen(pair) + 1), KEYS_OK);
	if (f->reply.len == 0)
		return "";
	assert_memory_equal(f->buf, key, strlen(key));
	assert_int_equal(f->buf[strlen(key)], '=');
	return (const char *)f->buf + strlen(key) + 1;
}

static void stages(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		const struct place_row *row = &places[i];

		for (unsigned stage = S; stage <= F; stage <<= 1) {
			struct fixture *f = fixture_new((enum keys_stage)stage);
			const char *got = answer_to(f, row->key, row->value);

			if ((strcmp(got, "Reject") == 0) != ((row->stages & stage) == 0))
				fail_msg("%s in stage %u: '%s'", row->key, stage, got);
			free(f);
		}
	}
}

static void leading_connection(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		unsigned stage = places[i].stages & -places[i].stages;
		struct fixture *f = fixture_new((enum keys_stage)stage);
		const char *got;

		f->ctx.leading = false;
		got = answer_to(f, places[i].key, places[i].value);
		if ((strcmp(got, "Reject") == 0) != places[i].leading_only)
			fail_msg("%s on a later connection: '%s'", places[i].key, got);
		free(f);
	}
}

static void discovery(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		unsigned stage = places[i].stages & -places[i].stages;
		struct fixture *f = fixture_new((enum keys_stage)stage);
		struct iscsi_params before;
		const char *got;

		f->p.session_type = KEYS_DISCOVERY;
		before = f->p;
		got = answer_to(f, places[i].key, places[i].value);
		if ((strcmp(got, "Irrelevant") == 0) != places[i].irrelevant_in_discovery)
			fail_msg("%s in discovery: '%s'", places[i].key, got);
		if (places[i].irrelevant_in_discovery) {
			before.seen = f->p.seen;
			assert_memory_equal(&before, &f->p, sizeof(before));
		}
		free(f);
	}
}

/* The session type rules although it comes last in the text. */
static void session_type_comes_first(void **state)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);

	assert_int_equal(FEED(f, "MaxBurstLength=4096\0HeaderDigest=CRC32C,None\0"
				 "InitiatorName=iqn.a\0SessionType=Discovery\0"),
			 KEYS_OK);
	ASSERT_REPLY(f, "MaxBurstLength=Irrelevant\0HeaderDigest=CRC32C\0");
	assert_int_equal(f->p.session_type, KEYS_DISCOVERY);
	assert_int_equal(f->p.max_burst, 262144);
	free(f);
}

/* ---- What lands in the parameters ---- */

static void defaults(void **state)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);

	assert_int_equal(f->p.max_recv_dsl_initiator, 8192);
	assert_int_equal(f->p.max_recv_dsl_target, 8192);
	assert_int_equal(f->p.max_burst, 262144);
	assert_int_equal(f->p.first_burst, 65536);
	assert_int_equal(f->p.max_outstanding_r2t, 1);
	assert_int_equal(f->p.time2wait_s, 2);
	assert_int_equal(f->p.time2retain_s, 20);
	assert_int_equal(f->p.max_connections, 1);
	assert_int_equal(f->p.error_recovery_level, 0);
	assert_int_equal(f->p.protocol_level, 1);
	assert_true(f->p.initial_r2t && f->p.immediate_data);
	assert_true(f->p.data_pdu_in_order && f->p.data_sequence_in_order);
	assert_int_equal(f->p.header_digest, KEYS_DIGEST_NONE);
	assert_int_equal(f->p.data_digest, KEYS_DIGEST_NONE);
	assert_int_equal(f->p.session_type, KEYS_NORMAL);
	assert_int_equal(FEED(f, ""), KEYS_OK);
	assert_int_equal(f->reply.len, 0);
	free(f);
}

static void everything_at_once(void **state)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);

	assert_int_equal(FEED(f, NAMES
			      "InitiatorAlias=host\0SessionType=Normal\0HeaderDigest=CRC32C\0"
			      "DataDigest=CRC32C\0MaxRecvDataSegmentLength=65536\0"
			      "ImmediateData=No\0InitialR2T=No\0MaxBurstLength=131072\0"
			      "MaxOutstandingR2T=3\0DefaultTime2Wait=5\0DefaultTime2Retain=30\0"
			      "ErrorRecoveryLevel=1\0iSCSIProtocolLevel=0\0"),
			 KEYS_OK);
	assert_string_equal(f->p.initiator_name, "iqn.a");
	assert_string_equal(f->p.target_name, "iqn.t");
	assert_string_equal(f->p.initiator_alias, "host");
	assert_int_equal(f->p.header_digest, KEYS_DIGEST_CRC32C);
	assert_int_equal(f->p.data_digest, KEYS_DIGEST_CRC32C);
	assert_int_equal(f->p.max_recv_dsl_initiator, 65536);
	assert_int_equal(f->p.max_recv_dsl_target, 8192);
	assert_false(f->p.immediate_data);
	assert_true(f->p.initial_r2t);
	assert_int_equal(f->p.max_burst, 131072);
	assert_int_equal(f->p.max_outstanding_r2t, 3);
	assert_int_equal(f->p.time2wait_s, 5);
	assert_int_equal(f->p.time2retain_s, 0);
	assert_int_equal(f->p.error_recovery_level, 0);
	assert_int_equal(f->p.protocol_level, 0);
	free(f);
}

/* A refused value leaves what was. */
static void rejected_changes_nothing(void **state)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);
	struct iscsi_params before = f->p;

	assert_int_equal(FEED(f, "MaxBurstLength=1\0ImmediateData=nope\0HeaderDigest=MD5\0"
				 "ErrorRecoveryLevel=9\0AuthMethod=None\0SendTargets=All\0"),
			 KEYS_OK);
	ASSERT_REPLY(f, "MaxBurstLength=Reject\0ImmediateData=Reject\0HeaderDigest=Reject\0"
			"ErrorRecoveryLevel=Reject\0AuthMethod=Reject\0SendTargets=Reject\0");
	assert_null(f->ctx.send_targets);
	before.seen = f->p.seen;
	assert_memory_equal(&before, &f->p, sizeof(before));
	free(f);
}

static void first_burst(void **state)
{
	static const struct {
		const char *text;
		size_t len;
		const char *answer;
		uint32_t result;
	} rows[] = {
#define TEXT(t) t, sizeof(t) - 1
		/* Bounded by MaxBurstLength, wherever that stands in the text. */
		{TEXT("FirstBurstLength=65536\0MaxBurstLength=16384\0"), "FirstBurstLength=16384",
		 16384},
		{TEXT("MaxBurstLength=16384\0FirstBurstLength=65536\0"), "FirstBurstLength=16384",
		 16384},
		{TEXT("MaxBurstLength=16384\0FirstBurstLength=512\0"), "FirstBurstLength=512", 512},
		/* Nothing unsolicited: irrelevant. */
		{TEXT("FirstBurstLength=4096\0ImmediateData=No\0InitialR2T=Yes\0"),
		 "FirstBurstLength=Irrelevant", 65536},
		{TEXT("FirstBurstLength=4096\0ImmediateData=Yes\0InitialR2T=Yes\0"),
		 "FirstBurstLength=4096", 4096},
#undef TEXT
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fixture *f = fixture_new(KEYS_OPERATIONAL);
		size_t len = strlen(rows[i].answer) + 1;

		assert_int_equal(feed(f, rows[i].text, rows[i].len), KEYS_OK);
		assert_true(f->reply.len > len);
		assert_memory_equal(f->buf + f->reply.len - len, rows[i].answer, len);
		assert_int_equal(f->p.first_burst, rows[i].result);
		free(f);
	}
}

/* Neither is a reason to refuse: see rule_first_burst. */
static void bursts_that_do_not_fit(void **state)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);

	assert_int_equal(FEED(f, "MaxBurstLength=4096\0"), KEYS_OK);
	assert_int_equal(f->p.first_burst, 65536);
	free(f);

	f = fixture_new(KEYS_OPERATIONAL);
	assert_int_equal(FEED(f, "FirstBurstLength=8192\0"), KEYS_OK);
	assert_int_equal(FEED(f, "MaxBurstLength=4096\0"), KEYS_OK);
	assert_int_equal(f->p.first_burst, 8192);
	assert_int_equal(f->p.max_burst, 4096);
	free(f);
}

/* Who may send unasked: only where both want it (the result is OR). */
static void initial_r2t(void **state)
{
	static const struct {
		enum keys_policy policy;
		const char *offer;
		bool result;
	} rows[] = {
		{KEYS_R2T_FIRST, "InitialR2T=No", true},
		{KEYS_R2T_FIRST, "InitialR2T=Yes", true},
		{KEYS_UNSOLICITED, "InitialR2T=No", false},
		{KEYS_UNSOLICITED, "InitialR2T=Yes", true},
		{KEYS_UNSOLICITED, "InitialR2T=Perhaps", true},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fixture *f = fixture_new(KEYS_OPERATIONAL);

		keys_init(&f->p, rows[i].policy);
		assert_true(f->p.initial_r2t);
		assert_int_equal(feed(f, rows[i].offer, strlen(rows[i].offer) + 1), KEYS_OK);
		assert_int_equal(f->p.initial_r2t, rows[i].result);
		free(f);
	}
}

static void names_that_are_missing(void **state)
{
	struct fixture *f = fixture_new(KEYS_SECURITY);

	assert_int_equal(keys_check_first(&f->p), KEYS_MISSING_PARAMETER);
	assert_int_equal(FEED(f, "InitiatorName=iqn.a\0"), KEYS_OK);
	assert_int_equal(keys_check_first(&f->p), KEYS_MISSING_PARAMETER);
	assert_int_equal(FEED(f, "SessionType=Discovery\0"), KEYS_OK);
	assert_int_equal(keys_check_first(&f->p), KEYS_OK);
	free(f);

	f = fixture_new(KEYS_SECURITY);
	assert_int_equal(FEED(f, "TargetName=iqn.t\0"), KEYS_OK);
	assert_int_equal(keys_check_first(&f->p), KEYS_MISSING_PARAMETER);
	assert_int_equal(FEED(f, "InitiatorName=iqn.a\0"), KEYS_OK);
	assert_int_equal(keys_check_first(&f->p), KEYS_OK);
	free(f);
}

/* Who comes and where to: some say it in the security stage and once more in the operational one. */
static bool may_be_said_again(const char *key)
{
	return strcmp(key, "SessionType") == 0 || strcmp(key, "InitiatorName") == 0 ||
	       strcmp(key, "TargetName") == 0 || strcmp(key, "InitiatorAlias") == 0;
}

static void twice_is_an_error(void **state)
{
	struct fixture *f;

	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		unsigned stage = places[i].stages & -places[i].stages;
		enum keys_status again =
			may_be_said_again(places[i].key) ? KEYS_OK : KEYS_INITIATOR_ERROR;
		char text[256];
		int one = snprintf(text, sizeof(text), "%s=%s", places[i].key, places[i].value) + 1;

		/* In one text. */
		memcpy(text + one, text, (size_t)one);
		f = fixture_new((enum keys_stage)stage);
		assert_int_equal(feed(f, text, 2 * (size_t)one), again);
		free(f);

		/* In two texts: an error in a login, normal in the full feature phase. */
		f = fixture_new((enum keys_stage)stage);
		assert_int_equal(feed(f, text, (size_t)one), KEYS_OK);
		assert_int_equal(feed(f, text, (size_t)one), stage == F ? KEYS_OK : again);
		free(f);
	}
}

static void nobody_becomes_another(void **state)
{
	static const char *const others[] = {"SessionType=Discovery", "InitiatorName=iqn.other",
					     "TargetName=iqn.other", "InitiatorAlias=other"};

	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		struct fixture *f = fixture_new(KEYS_SECURITY);

		assert_int_equal(FEED(f, NAMES "SessionType=Normal\0InitiatorAlias=a\0"), KEYS_OK);
		f->ctx.stage = KEYS_OPERATIONAL;
		assert_int_equal(FEED(f, NAMES "SessionType=Normal\0InitiatorAlias=a\0"), KEYS_OK);
		assert_int_equal(feed(f, others[i], strlen(others[i]) + 1), KEYS_INITIATOR_ERROR);
		assert_string_equal(f->p.initiator_name, "iqn.a");
		assert_string_equal(f->p.target_name, "iqn.t");
		assert_int_equal(f->p.session_type, KEYS_NORMAL);
		free(f);
	}
}

static void full_feature_declarations_repeat(void **state)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);

	assert_int_equal(FEED(f, "MaxRecvDataSegmentLength=4096\0"), KEYS_OK);
	f->ctx.stage = KEYS_FULL_FEATURE;
	assert_int_equal(FEED(f, "MaxRecvDataSegmentLength=8192\0"), KEYS_OK);
	assert_int_equal(f->p.max_recv_dsl_initiator, 8192);
	assert_int_equal(FEED(f, "MaxRecvDataSegmentLength=512\0"), KEYS_OK);
	assert_int_equal(f->p.max_recv_dsl_initiator, 512);
	assert_int_equal(FEED(f, "InitiatorAlias=a long one\0"), KEYS_OK);
	assert_int_equal(FEED(f, "InitiatorAlias=short\0"), KEYS_OK);
	assert_string_equal(f->p.initiator_alias, "short");
	assert_int_equal(f->reply.len, 0);
	free(f);
}

static void send_targets(void **state)
{
	static const char text[] = "SendTargets=iqn.t\0X-a=1";
	struct fixture *f = fixture_new(KEYS_FULL_FEATURE);

	assert_int_equal(keys_negotiate(&f->p, &f->ctx, text, sizeof(text), &f->reply), KEYS_OK);
	assert_ptr_equal(f->ctx.send_targets, text + strlen("SendTargets="));
	ASSERT_REPLY(f, "X-a=NotUnderstood\0");
	/* The value of the text before does not stay. */
	assert_int_equal(FEED(f, ""), KEYS_OK);
	assert_null(f->ctx.send_targets);
	free(f);
}

/* ---- Texts that are not ---- */

static void malformed(void **state)
{
#define TEXT(t)                  \
	{                        \
		t, sizeof(t) - 1 \
	}
	static const struct {
		const char *text;
		size_t len;
	} bad[] = {
		TEXT("InitiatorName=iqn.a"),
		TEXT("InitiatorName=iqn.a\0TargetName=x"),
		TEXT("InitiatorName\0"),
		TEXT("InitiatorName=iqn.a\0TargetName\0"),
		TEXT("=value\0"),
		TEXT("=\0"),
		TEXT("A=b\0\0=x\0"),
		TEXT("a"),
		TEXT("="),
		/* 64 bytes of key */
		TEXT("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef=1\0"),
	};
	static const struct {
		const char *text;
		size_t len;
	} good[] = {
		TEXT("\0"),
		TEXT("\0\0\0"),
		TEXT("\0A=b\0"),
		TEXT("A=b\0\0\0C=d\0\0\0\0"),
		/* 63 bytes of key */
		TEXT("123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef=1\0"),
	};
#undef TEXT

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct fixture *f = fixture_new(KEYS_OPERATIONAL);

		assert_int_equal(feed(f, bad[i].text, bad[i].len), KEYS_INITIATOR_ERROR);
		free(f);
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct fixture *f = fixture_new(KEYS_OPERATIONAL);

		assert_int_equal(feed(f, good[i].text, good[i].len), KEYS_OK);
		free(f);
	}
}

/* "KEY=" and n times x. */
static enum keys_status feed_long(const char *key, size_t n, struct iscsi_params *out)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);
	size_t head = strlen(key) + 1;
	char *text = malloc(head + n + 1);
	enum keys_status status;

	assert_non_null(text);
	memcpy(text, key, head - 1);
	text[head - 1] = '=';
	memset(text + head, 'x', n);
	text[head + n] = '\0';
	status = feed(f, text, head + n + 1);
	*out = f->p;
	free(text);
	free(f);
	return status;
}

static void long_values(void **state)
{
	struct iscsi_params p;

	assert_int_equal(feed_long("InitiatorName", 223, &p), KEYS_OK);
	assert_int_equal(strlen(p.initiator_name), 223);
	assert_int_equal(feed_long("InitiatorName", 224, &p), KEYS_INITIATOR_ERROR);
	assert_int_equal(feed_long("TargetName", 223, &p), KEYS_OK);
	assert_int_equal(strlen(p.target_name), 223);
	assert_int_equal(feed_long("TargetName", 224, &p), KEYS_INITIATOR_ERROR);
	assert_int_equal(feed_long("InitiatorAlias", 255, &p), KEYS_OK);
	assert_int_equal(strlen(p.initiator_alias), 255);
	assert_int_equal(feed_long("InitiatorAlias", 256, &p), KEYS_INITIATOR_ERROR);
	assert_int_equal(feed_long("MaxBurstLength", 255, &p), KEYS_OK);
	assert_int_equal(feed_long("MaxBurstLength", 256, &p), KEYS_INITIATOR_ERROR);
	/* Lists and what we do not know may be longer. */
	assert_int_equal(feed_long("HeaderDigest", 4000, &p), KEYS_OK);
	assert_int_equal(feed_long("X-a", 8000, &p), KEYS_OK);
}

static void answer_too_long(void **state)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);

	f->reply = writer_of(f->buf, sizeof("MaxBurstLength=4096"));
	assert_int_equal(FEED(f, "MaxBurstLength=4096\0"), KEYS_OK);
	f->p.seen = 0;
	f->reply = writer_of(f->buf, sizeof("MaxBurstLength=4096") - 1);
	assert_int_equal(FEED(f, "MaxBurstLength=4096\0"), KEYS_OUT_OF_RESOURCES);
	free(f);
}

/* ---- What we say ---- */

static void declares_once(void **state)
{
	struct fixture *f = fixture_new(KEYS_SECURITY);

	keys_declare(&f->p, &f->ctx, 1, "a disk", &f->reply);
	ASSERT_REPLY(f, "TargetPortalGroupTag=1\0TargetAlias=a disk\0");
	assert_int_equal(f->p.max_recv_dsl_target, KEYS_DEFAULT_DSL);
	keys_declare(&f->p, &f->ctx, 1, "a disk", &f->reply);
	ASSERT_REPLY(f, "TargetPortalGroupTag=1\0TargetAlias=a disk\0");

	f->ctx.stage = KEYS_OPERATIONAL;
	f->reply.len = 0;
	keys_declare(&f->p, &f->ctx, 1, "a disk", &f->reply);
	ASSERT_REPLY(f, "MaxRecvDataSegmentLength=262144\0");
	assert_int_equal(f->p.max_recv_dsl_target, KEYS_MAX_RECV_DSL);
	keys_declare(&f->p, &f->ctx, 1, "a disk", &f->reply);
	ASSERT_REPLY(f, "MaxRecvDataSegmentLength=262144\0");
	free(f);
}

static void declares_by_session(void **state)
{
	struct fixture *f = fixture_new(KEYS_OPERATIONAL);

	keys_declare(&f->p, &f->ctx, 65535, NULL, &f->reply);
	ASSERT_REPLY(f, "TargetPortalGroupTag=65535\0MaxRecvDataSegmentLength=262144\0");
	free(f);

	f = fixture_new(KEYS_OPERATIONAL);
	f->p.session_type = KEYS_DISCOVERY;
	keys_declare(&f->p, &f->ctx, 1, "", &f->reply);
	ASSERT_REPLY(f, "MaxRecvDataSegmentLength=262144\0");
	free(f);
}

/* ---- Random texts ---- */

static uint32_t next_random(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(*seed >> 33);
}

static size_t random_text(uint64_t *seed, char *text, size_t cap)
{
	static const char *const values[] = {
		"Yes", "No",   "None", "CRC32C,None", "0x1000", "512",
		"0",   "-1",   "All",  "Discovery",   "",       ",,",
		"=",   "~~~~", "4096", "16777215",    "Reject", "iqn.a"};
	size_t len = 0, pairs = next_random(seed) % 12;

	for (size_t i = 0; i < pairs && len + 64 < cap; i++) {
		const char *key = places[next_random(seed) % ARRAY_LEN(places)].key;
		const char *value = values[next_random(seed) % ARRAY_LEN(values)];

		len += (size_t)snprintf(text + len, cap - len, "%s=%s", key, value) + 1;
	}
	/* Then some bytes turn into others. */
	for (uint32_t i = next_random(seed) % 4; len > 0 && i > 0; i--)
		text[next_random(seed) % len] =
			(char)(next_random(seed) % 4 == 0 ? 0 : next_random(seed) % 256);
	return len > 0 && next_random(seed) % 8 == 0 ? len - 1 : len;
}

static void assert_sane(const struct iscsi_params *p)
{
	assert_in_range(p->max_recv_dsl_initiator, 512, 16777215);
	assert_in_range(p->max_burst, 512, 1048576);
	assert_in_range(p->first_burst, 512, 262144);
	assert_in_range(p->max_outstanding_r2t, 1, 4);
	assert_in_range(p->time2wait_s, 2, 3600);
	assert_in_range(p->time2retain_s, 0, 20);
	assert_int_equal(p->max_connections, 1);
	assert_int_equal(p->error_recovery_level, 0);
	assert_in_range(p->protocol_level, 0, 1);
	assert_true(p->data_pdu_in_order && p->data_sequence_in_order && p->initial_r2t);
	assert_in_range(p->header_digest, 0, 1);
	assert_in_range(p->data_digest, 0, 1);
	assert_in_range(p->session_type, 0, 1);
	assert_true(strlen(p->initiator_name) <= KEYS_NAME_MAX);
	assert_true(strlen(p->target_name) <= KEYS_NAME_MAX);
	assert_true(strlen(p->initiator_alias) <= KEYS_ALIAS_MAX);
}

static void random_texts(void **state)
{
	uint64_t seed = 1;
	unsigned agreed = 0, refused = 0;

	for (int i = 0; i < 50000; i++) {
		struct fixture *f = fixture_new((enum keys_stage)(1u << next_random(&seed) % 3));
		char text[1024];
		size_t len = random_text(&seed, text, sizeof(text));

		f->ctx.leading = next_random(&seed) % 4 != 0;
		if (feed(f, text, len) == KEYS_OK) {
			agreed++;
			assert_sane(&f->p);
			assert_true(f->reply.len == 0 || f->buf[f->reply.len - 1] == '\0');
		} else {
			refused++;
		}
		free(f);
	}
	/* Both ways were walked, or the generator is no good. */
	assert_true(agreed > 5000);
	assert_true(refused > 5000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers),
		cmocka_unit_test(booleans),
		cmocka_unit_test(lists),
		cmocka_unit_test(chap),
		cmocka_unit_test(declarations),
		cmocka_unit_test(unknown_keys),
		cmocka_unit_test(stages),
		cmocka_unit_test(leading_connection),
		cmocka_unit_test(discovery),
		cmocka_unit_test(session_type_comes_first),
		cmocka_unit_test(defaults),
		cmocka_unit_test(everything_at_once),
		cmocka_unit_test(rejected_changes_nothing),
		cmocka_unit_test(first_burst),
		cmocka_unit_test(bursts_that_do_not_fit),
		cmocka_unit_test(initial_r2t),
		cmocka_unit_test(names_that_are_missing),
		cmocka_unit_test(twice_is_an_error),
		cmocka_unit_test(nobody_becomes_another),
		cmocka_unit_test(full_feature_declarations_repeat),
		cmocka_unit_test(send_targets),
		cmocka_unit_test(malformed),
		cmocka_unit_test(long_values),
		cmocka_unit_test(answer_too_long),
		cmocka_unit_test(declares_once),
		cmocka_unit_test(declares_by_session),
		cmocka_unit_test(random_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
