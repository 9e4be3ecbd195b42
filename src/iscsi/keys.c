/*
 * The table of text keys and the negotiation that reads it (RFC 7143 section 6 and 13). A key is a
 * row: its rule, its range, our side of it, where it is legal. Apart because it is pure: text in,
 * parameters and text out.
 */
#include "iscsi/keys.h"

#define KEY_LEN_MAX   63  /* RFC 7143 6.1 */
#define VALUE_LEN_MAX 255 /* the same, of all that is not a list */

#define LOGIN (KEYS_SECURITY | KEYS_OPERATIONAL)
#define OPER  KEYS_OPERATIONAL
#define FULL  KEYS_FULL_FEATURE

enum key_flags {
	KEY_LEADING = 1, /* on a session's first connection only ("LO" in RFC 7143 13) */
	KEY_NORMAL = 2,  /* irrelevant in a discovery session */
	KEY_WHO = 4,     /* who comes, and where to: may be said again, if it is the same */
	KEY_LARGE = 8,   /* a large-binary-value: longer than others */
};

/* A text is walked once for each turn: what others depend on goes first, what depends last. */
enum key_turn { TURN_FIRST = -1, TURN_ORDINARY, TURN_LAST };

struct pair {
	const char *key, *value; /* the key ends at '=', the value with a NUL */
	size_t key_len, value_len;
};

struct negotiation {
	struct iscsi_params *p;
	struct keys_ctx *ctx;
	struct writer *reply;
};

struct iscsi_key {
	const char *name;
	enum keys_status (*rule)(struct negotiation *n, const struct iscsi_key *k,
				 const struct pair *pair);
	size_t offset;           /* in struct iscsi_params */
	uint32_t min, max;       /* what is legal at all; of a string: max bytes */
	uint32_t ours;           /* numbers: our limit; booleans: our wish */
	const char *const *list; /* values that we support; the field gets the index */
	unsigned stages;         /* of enum keys_stage */
	unsigned flags;
	enum key_turn turn;
};

void keys_put(struct writer *reply, const char *key, const char *value)
{
	write_bytes(reply, key, strlen(key));
	write_u8(reply, '=');
	write_bytes(reply, value, strlen(value) + 1);
}

void keys_put_number(struct writer *reply, const char *key, uint32_t value)
{
	char text[16];

	str_format(text, sizeof(text), "%u", value);
	keys_put(reply, key, text);
}

void keys_put_binary(struct writer *reply, const char *key, const void *bytes, size_t len_bytes)
{
	const uint8_t *at = bytes;
	char hex[3];

	write_bytes(reply, key, strlen(key));
	write_bytes(reply, "=0x", 3);
	for (size_t i = 0; i < len_bytes; i++) {
		str_hex(hex, &at[i], 1);
		write_bytes(reply, hex, 2);
	}
	write_u8(reply, '\0');
}

static enum keys_status answer(struct negotiation *n, const struct iscsi_key *k, const char *value)
{
	keys_put(n->reply, k->name, value);
	return KEYS_OK;
}

static enum keys_status reject(struct negotiation *n, const struct iscsi_key *k)
{
	return answer(n, k, "Reject");
}

/* ---- Values (RFC 7143 6.1) ---- */

/* 16 or 64 when the text begins like a hex-constant or base64-constant, else 10. */
static unsigned base_of(const char *s)
{
	if (s[0] != '0')
		return 10;
	return s[1] == 'x' || s[1] == 'X' ? 16 : s[1] == 'b' || s[1] == 'B' ? 64 : 10;
}

bool keys_number(const char *text, uint32_t min, uint32_t max, uint32_t *out)
{
	const char *s = text;
	unsigned base = base_of(s);
	uint64_t v = 0;

	if (base == 16)
		s += 2;
	else if (s[0] == '0' && s[1] != '\0')
		return false; /* a decimal constant has no leading zeros */
	if (*s == '\0')
		return false;
	for (; *s != '\0'; s++) {
		int d = str_digit(*s, base);

		if (d < 0 || v > UINT32_MAX)
			return false;
		v = v * base + (unsigned)d;
	}
	if (v < min || v > max)
		return false;
	*out = (uint32_t)v;
	return true;
}

/* Within the row's range. */
static bool number_of(const struct iscsi_key *k, const struct pair *pair, uint32_t *out)
{
	return keys_number(pair->value, k->min, k->max, out);
}

/* An odd number of digits stands for a first one that is zero. */
static int binary_of_hex(const char *s, uint8_t *out, size_t cap)
{
	size_t digits = strlen(s), len = (digits + 1) / 2;
	unsigned byte = 0;

	if (digits == 0 || len > cap)
		return -EINVAL;
	for (size_t i = 0; i < digits; i++) {
		int d = str_digit(s[i], 16);

		if (d < 0)
			return -EINVAL;
		byte = byte << 4 | (unsigned)d;
		if ((digits - i) % 2 != 0)
			*out++ = low_u8(byte);
	}
	return (int)len;
}

static int base64_digit_of(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c == '\0' ? NULL : strchr(digits, c);

	return at == NULL ? -1 : (int)(at - digits);
}

/* RFC 4648 4, with its padding. */
static int binary_of_base64(const char *s, uint8_t *out, size_t cap)
{
	size_t chars = strlen(s), digits = chars, len;
	uint32_t bits = 0;

	while (digits > 0 && chars - digits < 2 && s[digits - 1] == '=')
		digits--;
	len = digits * 6 / 8;
	if (digits == 0 || chars % 4 != 0 || len > cap)
		return -EINVAL;
	for (size_t i = 0; i < digits; i++) {
		int d = base64_digit_of(s[i]);

		if (d < 0)
			return -EINVAL;
		bits = bits << 6 | (uint32_t)d;
		if (i % 4 != 0)
			*out++ = low_u8(bits >> (6 - 2 * (i % 4)));
	}
	return (int)len;
}

int keys_binary(const char *text, uint8_t *out, size_t cap_bytes)
{
	switch (base_of(text)) {
	case 16:
		return binary_of_hex(text + 2, out, cap_bytes);
	case 64:
		return binary_of_base64(text + 2, out, cap_bytes);
	default:
		return -EINVAL;
	}
}

static bool boolean_of(const struct pair *pair, bool *out)
{
	*out = strcmp(pair->value, "Yes") == 0;
	return *out || strcmp(pair->value, "No") == 0;
}

/* Index of the first value in the peer's order that we support too; -1: none. */
static int choice_of(const struct iscsi_key *k, const char *value)
{
	for (;;) {
		size_t len = strcspn(value, ",");

		for (int i = 0; k->list[i] != NULL; i++)
			if (strlen(k->list[i]) == len && memcmp(k->list[i], value, len) == 0)
				return i;
		if (value[len] == '\0')
			return -1;
		value += len + 1;
	}
}

static uint32_t *number_at(struct iscsi_params *p, const struct iscsi_key *k)
{
	return (uint32_t *)(void *)((char *)p + k->offset);
}

static bool *boolean_at(struct iscsi_params *p, const struct iscsi_key *k)
{
	return (bool *)(void *)((char *)p + k->offset);
}

/* ---- Rules ---- */

static enum keys_status settle_number(struct negotiation *n, const struct iscsi_key *k, uint32_t v)
{
	*number_at(n->p, k) = v;
	keys_put_number(n->reply, k->name, v);
	return KEYS_OK;
}

static enum keys_status rule_min(struct negotiation *n, const struct iscsi_key *k,
				 const struct pair *pair)
{
	uint32_t v;

	if (!number_of(k, pair, &v))
		return reject(n, k);
	return settle_number(n, k, v < k->ours ? v : k->ours);
}

static enum keys_status rule_max(struct negotiation *n, const struct iscsi_key *k,
				 const struct pair *pair)
{
	uint32_t v;

	if (!number_of(k, pair, &v))
		return reject(n, k);
	return settle_number(n, k, v > k->ours ? v : k->ours);
}

/*
 * A minimum that MaxBurstLength bounds too, and that nobody needs without unsolicited data. Where
 * the two do not fit in the end (RFC 7143 13.14: the default of 65536 beside a smaller
 * MaxBurstLength, or one that was agreed on later), what comes unasked is bounded by this one
 * still, and initiators in the field do both: no reason to refuse a login.
 */
static enum keys_status rule_first_burst(struct negotiation *n, const struct iscsi_key *k,
					 const struct pair *pair)
{
	struct iscsi_key bounded = *k;

	if (n->p->initial_r2t && !n->p->immediate_data)
		return answer(n, k, "Irrelevant");
	if (n->p->max_burst < bounded.ours)
		bounded.ours = n->p->max_burst;
	return rule_min(n, &bounded, pair);
}

static enum keys_status settle_boolean(struct negotiation *n, const struct iscsi_key *k, bool v)
{
	*boolean_at(n->p, k) = v;
	return answer(n, k, v ? "Yes" : "No");
}

static enum keys_status rule_and(struct negotiation *n, const struct iscsi_key *k,
				 const struct pair *pair)
{
	bool v;

	if (!boolean_of(pair, &v))
		return reject(n, k);
	return settle_boolean(n, k, v && k->ours != 0);
}

static enum keys_status rule_or(struct negotiation *n, const struct iscsi_key *k,
				const struct pair *pair)
{
	bool v;

	if (!boolean_of(pair, &v))
		return reject(n, k);
	return settle_boolean(n, k, v || k->ours != 0);
}

static enum keys_status rule_initial_r2t(struct negotiation *n, const struct iscsi_key *k,
					 const struct pair *pair)
{
	struct iscsi_key ours = *k;

	ours.ours = n->p->policy == KEYS_R2T_FIRST;
	return rule_or(n, &ours, pair);
}

static enum keys_status rule_list(struct negotiation *n, const struct iscsi_key *k,
				  const struct pair *pair)
{
	int i = choice_of(k, pair->value);

	if (i < 0)
		return reject(n, k);
	*number_at(n->p, k) = (uint32_t)i;
	return answer(n, k, k->list[i]);
}

/* One method will do, and what is more is no choice of the initiator. Without a common one the login
 * is over (RFC 7143 6.3.2). */
static enum keys_status rule_auth(struct negotiation *n, const struct iscsi_key *k,
				  const struct pair *pair)
{
	uint32_t method = n->ctx->chap_required ? KEYS_AUTH_CHAP : KEYS_AUTH_NONE;
	const char *const only[] = {k->list[method], NULL};
	struct iscsi_key ours = *k;

	ours.list = only;
	if (choice_of(&ours, pair->value) < 0)
		return KEYS_AUTH_FAILED;
	*number_at(n->p, k) = method;
	return answer(n, k, only[0]);
}

/* The row's number is that of the key. */
static enum keys_status rule_chap(struct negotiation *n, const struct iscsi_key *k,
				  const struct pair *pair)
{
	if (!n->ctx->chap_required)
		return reject(n, k);
	n->ctx->chap[k->ours] = pair->value;
	return KEYS_OK;
}

/* Declared, so there is no answer; what we cannot take in we cannot live with either. */
static enum keys_status rule_number(struct negotiation *n, const struct iscsi_key *k,
				    const struct pair *pair)
{
	return number_of(k, pair, number_at(n->p, k)) ? KEYS_OK : KEYS_INITIATOR_ERROR;
}

static enum keys_status rule_string(struct negotiation *n, const struct iscsi_key *k,
				    const struct pair *pair)
{
	if (pair->value_len < k->min || pair->value_len > k->max)
		return KEYS_INITIATOR_ERROR;
	memcpy((char *)n->p + k->offset, pair->value, pair->value_len + 1);
	return KEYS_OK;
}

static enum keys_status rule_session_type(struct negotiation *n, const struct iscsi_key *k,
					  const struct pair *pair)
{
	for (uint32_t i = 0; k->list[i] != NULL; i++)
		if (strcmp(k->list[i], pair->value) == 0) {
			*number_at(n->p, k) = i;
			return KEYS_OK;
		}
	return KEYS_BAD_SESSION_TYPE;
}

static enum keys_status rule_send_targets(struct negotiation *n, const struct iscsi_key *k,
					  const struct pair *pair)
{
	n->ctx->send_targets = pair->value;
	return KEYS_OK;
}

/* Of no interest to us. */
static enum keys_status rule_ignore(struct negotiation *n, const struct iscsi_key *k,
				    const struct pair *pair)
{
	return KEYS_OK;
}

/* What we declared comes back only from one who does not know it; that needs no answer. */
static enum keys_status rule_of_target(struct negotiation *n, const struct iscsi_key *k,
				       const struct pair *pair)
{
	return strcmp(pair->value, "NotUnderstood") == 0 ? KEYS_OK : reject(n, k);
}

/* Markers are obsolete: the answer No ends the matter with old initiators more quietly than
 * Reject, and both are allowed (RFC 7143 13.25). */
static enum keys_status rule_no(struct negotiation *n, const struct iscsi_key *k,
				const struct pair *pair)
{
	bool v;

	return boolean_of(pair, &v) ? answer(n, k, "No") : reject(n, k);
}

static enum keys_status rule_reject(struct negotiation *n, const struct iscsi_key *k,
				    const struct pair *pair)
{
	return reject(n, k);
}

/* ---- The table ---- */

static const char *const digests[] = {"None", "CRC32C", NULL};
static const char *const auth_methods[] = {"None", "CHAP", NULL};
static const char *const task_reportings[] = {"RFC3720", NULL};
static const char *const session_types[] = {"Normal", "Discovery", NULL};

#define AT(field)   .offset = offsetof(struct iscsi_params, field)
#define LEAD_NORMAL .stages = OPER, .flags = KEY_LEADING | KEY_NORMAL
#define DSL_RANGE   .min = 512, .max = (1 << 24) - 1

/*
 * Our limits: bursts of 1 MiB keep round trips rare and four of them are what a command may have
 * under way; the first burst is what an idle session may send unasked, so it is smaller. At
 * recovery level 0 a lost connection's tasks are gone at once, so nothing is retained.
 */
static const struct iscsi_key keys[] = {
	{"SessionType", rule_session_type, AT(session_type), .list = session_types, .stages = LOGIN,
	 .flags = KEY_WHO, .turn = TURN_FIRST},
	{"InitiatorName", rule_string, AT(initiator_name), .min = 1, .max = KEYS_NAME_MAX,
	 .stages = LOGIN, .flags = KEY_WHO, .turn = TURN_FIRST},
	{"TargetName", rule_string, AT(target_name), .min = 1, .max = KEYS_NAME_MAX,
	 .stages = LOGIN, .flags = KEY_WHO, .turn = TURN_FIRST},
	{"InitiatorAlias", rule_string, AT(initiator_alias), .max = KEYS_ALIAS_MAX,
	 .stages = LOGIN | FULL, .flags = KEY_WHO},
	{"AuthMethod", rule_auth, AT(auth_method), .list = auth_methods, .stages = KEYS_SECURITY},
	{"CHAP_A", rule_chap, .ours = KEYS_CHAP_A, .stages = KEYS_SECURITY},
	{"CHAP_I", rule_chap, .ours = KEYS_CHAP_I, .stages = KEYS_SECURITY},
	{"CHAP_C", rule_chap, .ours = KEYS_CHAP_C, .stages = KEYS_SECURITY, .flags = KEY_LARGE},
	{"CHAP_N", rule_chap, .ours = KEYS_CHAP_N, .stages = KEYS_SECURITY},
	{"CHAP_R", rule_chap, .ours = KEYS_CHAP_R, .stages = KEYS_SECURITY, .flags = KEY_LARGE},
	{"HeaderDigest", rule_list, AT(header_digest), .list = digests, .stages = OPER},
	{"DataDigest", rule_list, AT(data_digest), .list = digests, .stages = OPER},
	{"MaxRecvDataSegmentLength", rule_number, AT(max_recv_dsl_initiator), DSL_RANGE,
	 .stages = OPER | FULL},
	{"MaxConnections", rule_min, AT(max_connections), .min = 1, .max = 65535, .ours = 1,
	 LEAD_NORMAL},
	{"InitialR2T", rule_initial_r2t, AT(initial_r2t), LEAD_NORMAL},
	{"ImmediateData", rule_and, AT(immediate_data), .ours = 1, LEAD_NORMAL},
	{"MaxBurstLength", rule_min, AT(max_burst), DSL_RANGE, .ours = 1 << 20, LEAD_NORMAL},
	{"FirstBurstLength", rule_first_burst, AT(first_burst), DSL_RANGE, .ours = 1 << 18,
	 LEAD_NORMAL, .turn = TURN_LAST},
	{"MaxOutstandingR2T", rule_min, AT(max_outstanding_r2t), .min = 1, .max = 65535, .ours = 4,
	 LEAD_NORMAL},
	{"DataPDUInOrder", rule_or, AT(data_pdu_in_order), .ours = 1, LEAD_NORMAL},
	{"DataSequenceInOrder", rule_or, AT(data_sequence_in_order), .ours = 1, LEAD_NORMAL},
	{"DefaultTime2Wait", rule_max, AT(time2wait_s), .max = 3600, .ours = 2, .stages = OPER,
	 .flags = KEY_LEADING},
	{"DefaultTime2Retain", rule_min, AT(time2retain_s), .max = 3600, .ours = 0, .stages = OPER,
	 .flags = KEY_LEADING},
	{"ErrorRecoveryLevel", rule_min, AT(error_recovery_level), .max = 2, .ours = 0,
	 .stages = OPER, .flags = KEY_LEADING},
	{"TaskReporting", rule_list, AT(task_reporting), .list = task_reportings, LEAD_NORMAL},
	{"iSCSIProtocolLevel", rule_min, AT(protocol_level), .max = 31, .ours = 2, LEAD_NORMAL},
	{"X#NodeArchitecture", rule_ignore, .stages = LOGIN},
	{"SendTargets", rule_send_targets, .stages = FULL},
	{"TargetAlias", rule_of_target, .stages = LOGIN | FULL},
	{"TargetAddress", rule_of_target, .stages = LOGIN | FULL},
	{"TargetPortalGroupTag", rule_of_target, .stages = LOGIN | FULL},
	{"IFMarker", rule_no, .stages = OPER},
	{"OFMarker", rule_no, .stages = OPER},
	{"IFMarkInt", rule_reject, .stages = OPER},
	{"OFMarkInt", rule_reject, .stages = OPER},
};

_Static_assert(ARRAY_LEN(keys) <= 64, "iscsi_params.seen has a bit for each row");

/* ---- The negotiation ---- */

static const struct iscsi_key *key_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (strlen(keys[i].name) == len && memcmp(keys[i].name, name, len) == 0)
			return &keys[i];
	return NULL;
}

static uint64_t key_bit(const struct iscsi_key *k)
{
	return UINT64_C(1) << (k - keys);
}

/* The next pair at *at; false at the end. The text has been checked. */
static bool pair_next(const char **at, const char *end, struct pair *pair)
{
	while (*at < end && **at == '\0')
		(*at)++;
	if (*at == end)
		return false;
	pair->key = *at;
	pair->key_len = strcspn(*at, "=");
	pair->value = pair->key + pair->key_len + 1;
	pair->value_len = strlen(pair->value);
	*at = pair->value + pair->value_len + 1;
	return true;
}

/* Each pair ends with a NUL inside the text, and has a key of a legal length before a '='. Empty
 * strings between the pairs are padding that some initiators count in. */
static bool text_is_sound(const char *text, size_t len)
{
	if (text[len - 1] != '\0')
		return false;
	for (const char *at = text, *end = text + len; at < end; at += strlen(at) + 1) {
		size_t key_len = strcspn(at, "=");

		if (*at != '\0' && (key_len == 0 || key_len > KEY_LEN_MAX || at[key_len] != '='))
			return false;
	}
	return true;
}

static enum keys_status negotiate_known(struct negotiation *n, const struct iscsi_key *k,
					const struct pair *pair)
{
	if (k->list == NULL && (k->flags & KEY_LARGE) == 0 && pair->value_len > VALUE_LEN_MAX)
		return KEYS_INITIATOR_ERROR;
	if ((k->stages & n->ctx->stage) == 0)
		return reject(n, k);
	if ((k->flags & KEY_LEADING) != 0 && !n->ctx->leading)
		return reject(n, k);
	if ((k->flags & KEY_NORMAL) != 0 && n->p->session_type == KEYS_DISCOVERY)
		return answer(n, k, "Irrelevant");
	return k->rule(n, k, pair);
}

static void answer_unknown(struct negotiation *n, const struct pair *pair)
{
	write_bytes(n->reply, pair->key, pair->key_len);
	write_bytes(n->reply, "=NotUnderstood", sizeof("=NotUnderstood"));
}

/* libiscsi, and with it QEMU, tells its names in the security stage and once more in the operational
 * one. */
static bool says_the_same(struct iscsi_params *p, const struct iscsi_key *k,
			  const struct pair *pair)
{
	const char *said = k->list != NULL ? k->list[*number_at(p, k)] : (char *)p + k->offset;

	return strcmp(said, pair->value) == 0;
}

/* The keys of one turn. `seen` gets their bits: a key comes once in a login (RFC 7143 6.3). */
static enum keys_status negotiate_turn(struct negotiation *n, enum key_turn turn, const char *text,
				       size_t len, uint64_t *seen)
{
	enum keys_status status = KEYS_OK;
	struct pair pair;

	for (const char *at = text; status == KEYS_OK && pair_next(&at, text + len, &pair);) {
		const struct iscsi_key *k = key_find(pair.key, pair.key_len);

		if (k == NULL && turn == TURN_ORDINARY)
			answer_unknown(n, &pair);
		if (k == NULL || k->turn != turn)
			continue;
		if ((*seen & key_bit(k)) != 0) {
			if ((k->flags & KEY_WHO) == 0 || !says_the_same(n->p, k, &pair))
				return KEYS_INITIATOR_ERROR;
			continue;
		}
		*seen |= key_bit(k);
		status = negotiate_known(n, k, &pair);
	}
	return status;
}

enum keys_status keys_negotiate(struct iscsi_params *p, struct keys_ctx *ctx, const void *text,
				size_t len_bytes, struct writer *reply)
{
	struct negotiation n = {.p = p, .ctx = ctx, .reply = reply};
	uint64_t seen_now = 0, *seen = ctx->stage == KEYS_FULL_FEATURE ? &seen_now : &p->seen;

	ctx->send_targets = NULL;
	memset(ctx->chap, 0, sizeof(ctx->chap));
	if (len_bytes == 0)
		return KEYS_OK;
	if (!text_is_sound(text, len_bytes))
		return KEYS_INITIATOR_ERROR;
	for (enum key_turn turn = TURN_FIRST; turn <= TURN_LAST; turn++) {
		enum keys_status status = negotiate_turn(&n, turn, text, len_bytes, seen);

		if (status != KEYS_OK)
			return status;
	}
	return writer_truncated(reply) ? KEYS_OUT_OF_RESOURCES : KEYS_OK;
}

void keys_init(struct iscsi_params *p, enum keys_policy policy)
{
	*p = (struct iscsi_params){
		.policy = policy,
		.max_recv_dsl_initiator = KEYS_DEFAULT_DSL,
		.max_recv_dsl_target = KEYS_DEFAULT_DSL,
		.max_burst = 262144,
		.first_burst = 65536,
		.max_outstanding_r2t = 1,
		.time2wait_s = 2,
		.time2retain_s = 20,
		.max_connections = 1,
		.protocol_level = 1,
		.initial_r2t = true,
		.immediate_data = true,
		.data_pdu_in_order = true,
		.data_sequence_in_order = true,
	};
}

enum keys_status keys_check_first(const struct iscsi_params *p)
{
	if (p->initiator_name[0] == '\0')
		return KEYS_MISSING_PARAMETER;
	if (p->session_type == KEYS_NORMAL && p->target_name[0] == '\0')
		return KEYS_MISSING_PARAMETER;
	return KEYS_OK;
}

enum { DECLARED_IDENTITY = 1, DECLARED_RECV_DSL = 2 };

void keys_declare(struct iscsi_params *p, const struct keys_ctx *ctx, uint16_t portal_group_tag,
		  const char *alias, struct writer *reply)
{
	if (p->session_type == KEYS_NORMAL && (p->declared & DECLARED_IDENTITY) == 0) {
		p->declared |= DECLARED_IDENTITY;
		keys_put_number(reply, "TargetPortalGroupTag", portal_group_tag);
		if (alias != NULL && alias[0] != '\0')
			keys_put(reply, "TargetAlias", alias);
	}
	if (ctx->stage == KEYS_OPERATIONAL && (p->declared & DECLARED_RECV_DSL) == 0) {
		p->declared |= DECLARED_RECV_DSL;
		keys_put_number(reply, "MaxRecvDataSegmentLength", KEYS_MAX_RECV_DSL);
		p->max_recv_dsl_target = KEYS_MAX_RECV_DSL;
	}
}
