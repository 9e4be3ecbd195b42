/*
 * Text keys of login and text requests (RFC 7143 section 6 and 13): what each key means, where it
 * is legal, and what we answer. A table of rows in keys.c decides; login, discovery and text
 * requests only carry the text. Apart from login.c because the full feature phase negotiates too,
 * and because text from strangers is parsed here and nowhere else.
 */
#ifndef SPINDLE_ISCSI_KEYS_H
#define SPINDLE_ISCSI_KEYS_H

#include "base/base.h"

#define KEYS_NAME_MAX  223 /* bytes of an iSCSI name (RFC 7143 4.2.7.1) */
#define KEYS_ALIAS_MAX 255 /* RFC 7143 13.6, 13.7 */

/* Text of one login or text request that we gather over the C bit, and room that its answer
 * surely fits unless it is full of keys that nobody knows (RFC 7143 6.1 asks for 8192). */
#define KEYS_TEXT_MAX  8192
#define KEYS_REPLY_MAX 8192

/* What we can receive in one data segment; declared by keys_declare(). */
#define KEYS_MAX_RECV_DSL 262144

/* Every data segment of the login phase, and any before the peer declares otherwise. */
#define KEYS_DEFAULT_DSL 8192

enum keys_session_type { KEYS_NORMAL, KEYS_DISCOVERY };

/*
 * What two sides agreed on. Set to the defaults of RFC 7143 by keys_init(); a key that is not
 * negotiated keeps its default, and defaults are always within what we can do.
 */
struct iscsi_params {
	uint32_t max_recv_dsl_initiator; /* the largest data segment we may send */
	uint32_t max_recv_dsl_target;    /* the largest we accept: 8192 until declared otherwise */
	uint32_t max_burst;              /* bytes of one Data-In or solicited Data-Out sequence */
	uint32_t first_burst; /* unsolicited bytes of a command, immediate data included */
	uint32_t max_outstanding_r2t;
	uint32_t time2wait_s, time2retain_s;
	uint32_t max_connections;
	uint32_t error_recovery_level;
	uint32_t protocol_level; /* iSCSIProtocolLevel (RFC 7143 13.24, RFC 7144) */
	bool initial_r2t;        /* no unsolicited Data-Out */
	bool immediate_data;
	bool data_pdu_in_order;
	bool data_sequence_in_order;
	uint32_t header_digest, data_digest;    /* enum keys_digest */
	uint32_t session_type;                  /* enum keys_session_type */
	uint32_t auth_method;                   /* enum keys_auth */
	uint32_t task_reporting;                /* enum keys_task_reporting */
	char initiator_name[KEYS_NAME_MAX + 1]; /* "" until declared; bytes of the wire: escape */
	char target_name[KEYS_NAME_MAX + 1];    /* the same */
	char initiator_alias[KEYS_ALIAS_MAX + 1];
	/* private */
	uint32_t policy;   /* enum keys_policy */
	uint64_t seen;     /* rows that this login has negotiated */
	unsigned declared; /* what keys_declare() has said */
};

/* The values of lists, in the order of their names in keys.c; 0 is the default of RFC 7143. */
enum keys_digest { KEYS_DIGEST_NONE, KEYS_DIGEST_CRC32C };
enum keys_auth { KEYS_AUTH_NONE, KEYS_AUTH_CHAP };
enum keys_task_reporting { KEYS_REPORT_RFC3720 };

/* Where a text arrived. Bits, because a row of the table names several. */
enum keys_stage {
	KEYS_SECURITY = 1,     /* SecurityNegotiation */
	KEYS_OPERATIONAL = 2,  /* LoginOperationalNegotiation */
	KEYS_FULL_FEATURE = 4, /* a text request */
};

/* The keys of CHAP (RFC 7143 12.1.3). */
enum keys_chap {
	KEYS_CHAP_A, /* algorithms, or the one that was chosen */
	KEYS_CHAP_I, /* identifier */
	KEYS_CHAP_C, /* challenge */
	KEYS_CHAP_N, /* name */
	KEYS_CHAP_R, /* response */
	KEYS_CHAP_COUNT,
};

struct keys_ctx {
	enum keys_stage stage;
	bool leading;       /* the login of a session's first connection */
	bool chap_required; /* no other AuthMethod will do; else none but None will */
	/* Set by keys_negotiate(), NULL where the key is not there: what is said of CHAP, for
	 * chap.c to judge. Points into the text. Only in the security stage, where required. */
	const char *chap[KEYS_CHAP_COUNT];
	/* Set by keys_negotiate(), NULL when the key is not there: the value of SendTargets, which
	 * is answered by who knows the targets (RFC 7143 13.3). Points into the text. Only in the
	 * full feature phase. */
	const char *send_targets;
};

/* Login status, class and detail as on the wire (RFC 7143 11.13.5). In the full feature phase any
 * of them means that the text request is a protocol error. */
enum keys_status {
	KEYS_OK = 0,
	KEYS_INITIATOR_ERROR = 0x0200, /* malformed, twice negotiated, a declaration out of range */
	KEYS_AUTH_FAILED = 0x0201,     /* no common AuthMethod */
	KEYS_MISSING_PARAMETER =
		0x0207,                 /* no InitiatorName, or no TargetName in a normal session */
	KEYS_BAD_SESSION_TYPE = 0x0209, /* neither Normal nor Discovery */
	KEYS_OUT_OF_RESOURCES = 0x0302, /* the answer does not fit `reply` */
};

/* What we want of InitialR2T. Without R2Ts an idle session may send a first burst at any time, for
 * which there must be room; so they are asked for unless the user wants otherwise. */
enum keys_policy { KEYS_R2T_FIRST, KEYS_UNSOLICITED };

void keys_init(struct iscsi_params *p, enum keys_policy policy);

/*
 * Negotiates a whole text, gathered over all PDUs with the C bit, and appends the answers as
 * `key=value` and NUL to `reply`. An illegal value is answered Reject, a key that we do not know
 * NotUnderstood, one without a meaning here Irrelevant; all three change nothing. Past an error
 * `p` and `reply` are not to be used: the login ends. `text` may hold anything.
 */
enum keys_status keys_negotiate(struct iscsi_params *p, struct keys_ctx *ctx, const void *text,
				size_t len_bytes, struct writer *reply);

/* Once the first login request is through: did it say who comes and where to? (RFC 7143 6.3) */
enum keys_status keys_check_first(const struct iscsi_params *p);

/*
 * Appends what we declare and have not yet: TargetPortalGroupTag and TargetAlias with the first
 * answer of a normal session on any stage, MaxRecvDataSegmentLength in the operational stage, from
 * where it is in force after the login. Call it for each login response; `alias` may be NULL.
 */
void keys_declare(struct iscsi_params *p, const struct keys_ctx *ctx, uint16_t portal_group_tag,
		  const char *alias, struct writer *reply);

/* One pair; for answers that are not in the table (TargetName, TargetAddress, CHAP). */
void keys_put(struct writer *reply, const char *key, const char *value);
void keys_put_number(struct writer *reply, const char *key, uint32_t value);
/* As a hex-constant. */
void keys_put_binary(struct writer *reply, const char *key, const void *bytes, size_t len_bytes);

/* decimal-constant or hex-constant (RFC 7143 6.1) within min..max. */
bool keys_number(const char *text, uint32_t min, uint32_t max, uint32_t *out);
/* large-binary-value: a hex-constant or base64-constant (RFC 7143 6.1). Returns how many bytes it
 * has, at least 1; -EINVAL: it is none, or has more than `cap_bytes`. */
int keys_binary(const char *text, uint8_t *out, size_t cap_bytes);

#endif
