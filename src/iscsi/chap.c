/*
 * CHAP: initiators prove that they know a user's secret, and we that we know our own, if they ask
 * (RFC 7143 12.1.3, RFC 1994). Apart from login.c because it is a conversation of its own: login.c
 * hands over what a request said and asks whether we are done.
 *
 *   METHOD --AuthMethod--> ALGORITHM --CHAP_A--> PROOF --CHAP_N, CHAP_R [CHAP_I, CHAP_C]--> DONE
 *
 * A request that says nothing of CHAP changes nothing, and one that says anything else than the
 * step wants ends the login. So nothing can be skipped, repeated or brought in another order.
 *
 * What an initiator could learn from us is of no use against us: our own secret differs from all
 * users', and we prove nothing to who has not proven who it is. So a challenge taken from another
 * connection gains nothing; the one that is given back on its own connection is refused as well, as
 * RFC 7143 demands.
 */
#include "iscsi/impl.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>

/* ---- Algorithms ---- */

struct chap_algorithm {
	uint32_t number; /* IANA, "PPP Authentication Algorithms" */
	const char *name;
};

/* The best one first. */
static const struct chap_algorithm algorithms[] = {
	{8, "SHA3-256"},
	{7, "SHA2-256"},
	{6, "SHA1"},
	{5, "MD5"},
};

const struct chap_algorithm *chap_algorithm(uint32_t number)
{
	for (size_t i = 0; i < ARRAY_LEN(algorithms); i++)
		if (algorithms[i].number == number)
			return &algorithms[i];
	return NULL;
}

int chap_response(const struct chap_algorithm *algorithm, uint8_t id, const char *secret,
		  const uint8_t *challenge, size_t len_bytes, uint8_t out[CHAP_DIGEST_MAX])
{
	uint8_t text[1 + CHAP_SECRET_MAX + CHAP_BINARY_MAX], digest[EVP_MAX_MD_SIZE];
	struct writer w = writer_of(text, sizeof(text));
	size_t len = 0;
	int ok;

	write_u8(&w, id);
	write_bytes(&w, secret, strlen(secret));
	write_bytes(&w, challenge, len_bytes);
	ok = !writer_truncated(&w) &&
	     EVP_Q_digest(NULL, algorithm->name, NULL, text, writer_stored(&w), digest, &len) == 1;
	OPENSSL_cleanse(text, sizeof(text));
	if (!ok || len > CHAP_DIGEST_MAX)
		return -EIO;
	memcpy(out, digest, len);
	return (int)len;
}

/* A policy of the machine may have forbidden MD5. */
static bool can_be_used(const struct chap_algorithm *algorithm)
{
	EVP_MD *md = EVP_MD_fetch(NULL, algorithm->name, NULL);
	bool found = md != NULL;

	EVP_MD_free(md);
	return found;
}

static bool is_offered(const char *list, uint32_t number)
{
	for (;;) {
		size_t len = strcspn(list, ",");
		char item[16];
		uint32_t n;

		if (len < sizeof(item)) {
			memcpy(item, list, len);
			item[len] = '\0';
			if (keys_number(item, number, number, &n))
				return true;
		}
		if (list[len] == '\0')
			return false;
		list += len + 1;
	}
}

/* Ours is the choice: "one of those that were proposed by the initiator". */
static const struct chap_algorithm *choose(const char *list)
{
	for (size_t i = 0; i < ARRAY_LEN(algorithms); i++)
		if (is_offered(list, algorithms[i].number) && can_be_used(&algorithms[i]))
			return &algorithms[i];
	return NULL;
}

/* ---- The steps ---- */

static enum iscsi_login_status failed(struct chap *c, enum iscsi_login_status status,
				      const char *why)
{
	c->why = why;
	return status;
}

static enum iscsi_login_status take_algorithm(struct chap *c, const struct keys_ctx *ctx,
					      struct writer *reply)
{
	c->algorithm = choose(ctx->chap[KEYS_CHAP_A]);
	if (c->algorithm == NULL)
		return failed(c, ISCSI_LOGIN_AUTHENTICATION, "no common CHAP algorithm");
	if (RAND_bytes(&c->id, sizeof(c->id)) != 1 ||
	    RAND_bytes(c->challenge, sizeof(c->challenge)) != 1)
		return failed(c, ISCSI_LOGIN_TARGET_ERROR, "no random numbers");
	keys_put_number(reply, "CHAP_A", c->algorithm->number);
	keys_put_number(reply, "CHAP_I", c->id);
	keys_put_binary(reply, "CHAP_C", c->challenge, sizeof(c->challenge));
	c->step = CHAP_PROOF;
	return ISCSI_LOGIN_OK;
}

/* Takes as long for a name that nobody has as for a wrong secret. */
static enum iscsi_login_status check_response(struct chap *c, const uint8_t *response, size_t len)
{
	const struct chap_user *user = NULL;
	uint8_t expected[CHAP_DIGEST_MAX];
	int expected_len;
	bool right;

	for (size_t i = 0; i < c->auth->nusers; i++)
		if (strcmp(c->auth->users[i]->name, c->user) == 0)
			user = c->auth->users[i];
	expected_len = chap_response(c->algorithm, c->id,
				     (user != NULL ? user : c->auth->users[0])->secret,
				     c->challenge, sizeof(c->challenge), expected);
	if (expected_len < 0)
		return failed(c, ISCSI_LOGIN_TARGET_ERROR, "no digest");
	right = len == (size_t)expected_len && CRYPTO_memcmp(response, expected, len) == 0;
	if (user == NULL)
		return failed(c, ISCSI_LOGIN_AUTHENTICATION, "no such CHAP user");
	if (!right)
		return failed(c, ISCSI_LOGIN_AUTHENTICATION, "wrong CHAP secret");
	return ISCSI_LOGIN_OK;
}

/* The other direction. */
static enum iscsi_login_status answer_challenge(struct chap *c, const struct keys_ctx *ctx,
						struct writer *reply)
{
	const struct chap_user *self = c->auth->mutual;
	uint8_t challenge[CHAP_BINARY_MAX], response[CHAP_DIGEST_MAX];
	uint32_t id;
	int len = keys_binary(ctx->chap[KEYS_CHAP_C], challenge, sizeof(challenge));

	if (len < 0 || !keys_number(ctx->chap[KEYS_CHAP_I], 0, UINT8_MAX, &id))
		return failed(c, ISCSI_LOGIN_INITIATOR_ERROR, "malformed CHAP challenge");
	if (self == NULL)
		return failed(c, ISCSI_LOGIN_AUTHENTICATION, "mutual CHAP is not set up");
	if (len == sizeof(c->challenge) &&
	    memcmp(challenge, c->challenge, sizeof(c->challenge)) == 0)
		return failed(c, ISCSI_LOGIN_AUTHENTICATION, "CHAP challenge reflected");
	len = chap_response(c->algorithm, low_u8(id), self->secret, challenge, (size_t)len,
			    response);
	if (len < 0)
		return failed(c, ISCSI_LOGIN_TARGET_ERROR, "no digest");
	keys_put(reply, "CHAP_N", self->name);
	keys_put_binary(reply, "CHAP_R", response, (size_t)len);
	return ISCSI_LOGIN_OK;
}

static enum iscsi_login_status take_proof(struct chap *c, const struct keys_ctx *ctx,
					  struct writer *reply)
{
	bool mutual = ctx->chap[KEYS_CHAP_C] != NULL;
	uint8_t response[CHAP_BINARY_MAX];
	enum iscsi_login_status status;
	int len = keys_binary(ctx->chap[KEYS_CHAP_R], response, sizeof(response));

	str_copy(c->user, sizeof(c->user), ctx->chap[KEYS_CHAP_N]);
	if (len < 0 || mutual != (ctx->chap[KEYS_CHAP_I] != NULL))
		return failed(c, ISCSI_LOGIN_INITIATOR_ERROR, "malformed CHAP response");
	status = check_response(c, response, (size_t)len);
	if (status == ISCSI_LOGIN_OK && mutual)
		status = answer_challenge(c, ctx, reply);
	if (status == ISCSI_LOGIN_OK)
		c->step = CHAP_DONE;
	return status;
}

enum {
	A = 1 << KEYS_CHAP_A,
	I = 1 << KEYS_CHAP_I,
	C = 1 << KEYS_CHAP_C,
	N = 1 << KEYS_CHAP_N,
	R = 1 << KEYS_CHAP_R,
};

/* What each step wants to hear, may hear, and does with it. */
static const struct {
	unsigned wants, may;
	enum iscsi_login_status (*take)(struct chap *c, const struct keys_ctx *ctx,
					struct writer *reply);
} steps[] = {
	[CHAP_METHOD] = {0, 0, NULL},
	[CHAP_ALGORITHM] = {A, 0, take_algorithm},
	[CHAP_PROOF] = {N | R, I | C, take_proof},
	[CHAP_DONE] = {0, 0, NULL},
};

void chap_begin(struct chap *c, const struct chap_auth *auth)
{
	*c = (struct chap){
		.auth = auth,
		.step = auth->nusers != 0 ? CHAP_METHOD : CHAP_DONE,
	};
}

bool chap_done(const struct chap *c)
{
	return c->step == CHAP_DONE;
}

enum iscsi_login_status chap_take(struct chap *c, const struct iscsi_params *p,
				  const struct keys_ctx *ctx, uint8_t flags, struct writer *reply)
{
	unsigned wants = steps[c->step].wants, may = steps[c->step].may, said = 0;
	bool goes_on = ctx->stage != KEYS_SECURITY || (flags & ISCSI_FINAL) != 0;

	for (unsigned i = 0; i < KEYS_CHAP_COUNT; i++)
		if (ctx->chap[i] != NULL)
			said |= 1U << i;
	if (said != 0) {
		if ((said & wants) != wants || (said & ~(wants | may)) != 0)
			return failed(c, ISCSI_LOGIN_INITIATOR_ERROR, "CHAP keys out of order");
		return steps[c->step].take(c, ctx, reply);
	}
	if (c->step == CHAP_METHOD && p->auth_method == KEYS_AUTH_CHAP) {
		c->step = CHAP_ALGORITHM;
		return ISCSI_LOGIN_OK;
	}
	if (goes_on && !chap_done(c))
		return failed(c, ISCSI_LOGIN_AUTHENTICATION, "no authentication");
	return ISCSI_LOGIN_OK;
}

/* ---- Users ---- */

static void user_destroy(struct chap_user *user)
{
	if (user == NULL)
		return;
	if (user->secret != NULL)
		OPENSSL_cleanse(user->secret, strlen(user->secret));
	free(user->secret);
	free(user->name);
	free(user);
}

static struct chap_user *user_create(const char *name, const char *secret)
{
	struct chap_user *user = calloc(1, sizeof(*user));

	if (user == NULL)
		return NULL;
	user->name = strdup(name);
	user->secret = strdup(secret);
	if (user->name == NULL || user->secret == NULL) {
		user_destroy(user);
		return NULL;
	}
	return user;
}

static int check_name(const char *name, struct diag *d)
{
	size_t len = strlen(name);
	bool ok = len >= 1 && len <= CHAP_NAME_MAX;

	for (size_t i = 0; ok && i < len; i++)
		ok = name[i] >= 0x20 && name[i] < 0x7f;
	if (ok)
		return 0;
	diag_fix(d, "use a name like laptop, or the client's iSCSI name");
	return diag_set(d, -EINVAL, "a CHAP user has 1 to %d printable ASCII characters",
			CHAP_NAME_MAX);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Says nothing of what is in it. */
static int check_secret(const char *name, const char *secret, struct diag *d)
{
	size_t len = strlen(secret);

	if (len < CHAP_SECRET_MIN || len > CHAP_SECRET_MAX) {
		diag_fix(d, "make one of 16, which every initiator takes: openssl rand -hex 8");
		return diag_set(d, -EINVAL,
				"the CHAP secret of %s has %zu bytes, and must have %d to %d", name,
				len, CHAP_SECRET_MIN, CHAP_SECRET_MAX);
	}
	if (is_blank(secret[0]) || is_blank(secret[len - 1])) {
		diag_fix(d, "take the blanks away: initiators differ in what they do with them");
		return diag_set(d, -EINVAL, "the CHAP secret of %s begins or ends with a blank",
				name);
	}
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)secret[i] >= 0x20 && secret[i] != 0x7f)
			continue;
		diag_fix(d, "make one of letters and digits: openssl rand -hex 8");
		return diag_set(d, -EINVAL, "the CHAP secret of %s has a control character in it",
				name);
	}
	return 0;
}

/* Whoever knew one direction's secret could play the other side (RFC 7143 9.2.1). */
static int check_differs(const struct chap_user *user, const struct chap_user *mutual,
			 struct diag *d)
{
	if (mutual == NULL || strcmp(user->secret, mutual->secret) != 0)
		return 0;
	diag_fix(d, "give the two directions secrets of their own");
	return diag_set(d, -EINVAL, "the CHAP secret of %s is that of mutual CHAP, too",
			user->name);
}

static int make_user(struct chap_user **out, const char *name, const char *secret, struct diag *d)
{
	int err = check_name(name, d);

	if (err == 0)
		err = check_secret(name, secret, d);
	if (err != 0)
		return err;
	*out = user_create(name, secret);
	return *out == NULL ? diag_set(d, -ENOMEM, "out of memory") : 0;
}

int iscsi_add_chap_user(struct iscsi *i, const char *name, const char *secret, struct diag *d)
{
	struct chap_auth *auth = &i->auth;
	struct chap_user **bigger, *user;
	int err;

	for (size_t k = 0; k < auth->nusers; k++)
		if (strcmp(auth->users[k]->name, name) == 0)
			return diag_set(d, -EINVAL, "there are two CHAP users named %s", name);
	err = make_user(&user, name, secret, d);
	if (err != 0)
		return err;
	err = check_differs(user, auth->mutual, d);
	if (err != 0)
		goto out;
	bigger = realloc(auth->users, (auth->nusers + 1) * sizeof(*bigger));
	if (bigger == NULL) {
		err = diag_set(d, -ENOMEM, "out of memory");
		goto out;
	}
	auth->users = bigger;
	auth->users[auth->nusers++] = user;
	user = NULL;
out:
	user_destroy(user);
	return err;
}

int iscsi_set_chap_mutual(struct iscsi *i, const char *name, const char *secret, struct diag *d)
{
	struct chap_auth *auth = &i->auth;
	struct chap_user *user;
	int err;

	if (auth->mutual != NULL)
		return diag_set(d, -EINVAL, "mutual CHAP has a name already, %s",
				auth->mutual->name);
	err = make_user(&user, name, secret, d);
	if (err != 0)
		return err;
	for (size_t k = 0; err == 0 && k < auth->nusers; k++)
		err = check_differs(auth->users[k], user, d);
	if (err != 0)
		user_destroy(user);
	else
		auth->mutual = user;
	return err;
}

unsigned iscsi_chap_count(const struct iscsi *i)
{
	return (unsigned)i->auth.nusers;
}

const char *iscsi_chap_name(const struct iscsi *i, unsigned index)
{
	return i->auth.users[index]->name;
}

const char *iscsi_chap_mutual(const struct iscsi *i)
{
	return i->auth.mutual != NULL ? i->auth.mutual->name : NULL;
}

void chap_fini(struct chap_auth *auth)
{
	for (size_t i = 0; i < auth->nusers; i++)
		user_destroy(auth->users[i]);
	free(auth->users);
	user_destroy(auth->mutual);
	*auth = (struct chap_auth){0};
}
