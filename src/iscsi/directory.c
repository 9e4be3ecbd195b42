/*
 * The session directory: which sessions exist, by (target, initiator name, ISID), and where they
 * live. Owned by loop 0, which serialises logins with equal keys; other loops ask by messages.
 *
 *   PENDING -- claim --> CLAIMING -- no other one is granted --> GRANTED -- left --> LEFT -- gone
 *
 * Of logins that are not granted yet with one key the newest counts: it sends the older ones away
 * as soon as it is admitted. Where logins must authenticate they leave each other alone until they
 * claim: a stranger ends no login of another. A granted session is sent away when the newest
 * claims, that is when its login is complete and, where that is asked for, authenticated
 * (reinstatement, RFC 7143 6.3.5). The claim is answered when the old session has left: its connection
 * is closed and its tasks are being aborted. What a store still holds of it is waited for at the unit
 * that is concerned, by the nexus that follows (scsi/nexus.c), and not here. For that both are on one
 * loop: sessions with one key share it for as long as there is any.
 */
#include "iscsi/impl.h"

#include <stdlib.h>

int directory_init(struct directory *d, unsigned nloops)
{
	list_init(&d->all);
	for (unsigned b = 0; b < DIRECTORY_BUCKETS; b++)
		list_init(&d->buckets[b]);
	d->load = calloc(nloops, sizeof(*d->load));
	return d->load == NULL ? -ENOMEM : 0;
}

void directory_fini(struct directory *d)
{
	free(d->load);
	d->load = NULL;
}

/* ---- Keys ---- */

static bool same_key(const struct iscsi_session *a, const struct iscsi_session *b)
{
	return a->target == b->target && memcmp(a->isid, b->isid, sizeof(a->isid)) == 0 &&
	       strcmp(a->params.initiator_name, b->params.initiator_name) == 0;
}

static struct list *bucket_of(struct directory *d, const struct iscsi_session *s)
{
	const char *name = s->params.initiator_name;
	uint32_t hash = crc32c(0, name, strlen(name));

	return &d->buckets[crc32c(hash, s->isid, sizeof(s->isid)) % DIRECTORY_BUCKETS];
}

static struct iscsi_session *of_bucket(struct list *pos)
{
	return container_of(pos, struct iscsi_session, dir.same);
}

/* ---- Messages to the session's loop ---- */

static void run_kick(struct loop_msg *msg)
{
	struct iscsi_session *s = container_of(msg, struct iscsi_session, dir.kick_msg);

	session_kicked(s, s->dir.kick);
}

/* A session is sent away once; it cannot be freed before the message has run, because bye comes
 * behind it. One that has not left loop 0 yet is told behind its own arrival. */
static void kick(struct iscsi_session *s, enum kick why)
{
	if (s->dir.kicked)
		return;
	s->dir.kicked = true;
	s->dir.kick = why;
	s->dir.kick_msg.run = run_kick;
	if (s->dir.departed)
		loop_post(s->home->loop, &s->dir.kick_msg);
}

void directory_departed(struct iscsi_session *s)
{
	s->dir.departed = true;
	if (s->dir.kicked)
		loop_post(s->home->loop, &s->dir.kick_msg);
}

static void run_claimed(struct loop_msg *msg)
{
	struct iscsi_session *s = container_of(msg, struct iscsi_session, down);

	session_claimed(s, s->claim_err);
}

static void run_free(struct loop_msg *msg)
{
	struct iscsi_session *s = container_of(msg, struct iscsi_session, up);
	struct iscsi *i = s->server;

	session_free(s);
	i->nconns--;
	iscsi_check_stopped(i);
}

/* On the loop that its connection lived on. One whose flush is still queued comes back here after
 * that. */
void directory_bye(struct iscsi_session *s)
{
	list_for_each (pos, &s->conns) {
		struct iscsi_conn *c = list_entry(pos, struct iscsi_conn, link);

		c->free_later = c->tx.flush_queued;
		if (c->free_later)
			return;
	}
	s->up.run = run_free;
	loop_post(loop_set_at(s->server->set, 0), &s->up);
}

static void run_bye(struct loop_msg *msg)
{
	directory_bye(container_of(msg, struct iscsi_session, down));
}

static void answer_claim(struct iscsi_session *s, int err)
{
	s->claim_err = err;
	s->down.run = run_claimed;
	loop_post(s->home->loop, &s->down);
}

/* ---- Claims ---- */

static bool tsih_taken(const struct directory *d, uint16_t tsih)
{
	list_for_each (pos, &d->all)
		if (container_of(pos, struct iscsi_session, dir.all)->tsih == tsih)
			return true;
	return tsih == 0;
}

/* There are fewer sessions than handles. */
static uint16_t next_tsih(struct directory *d)
{
	do
		d->last_tsih++;
	while (tsih_taken(d, d->last_tsih));
	return d->last_tsih;
}

/* Discovery sessions do not get in each other's way. */
static bool must_wait(struct directory *d, struct iscsi_session *s)
{
	bool wait = false;

	if (s->target == NULL)
		return false;
	list_for_each (pos, bucket_of(d, s)) {
		struct iscsi_session *other = of_bucket(pos);

		if (other == s || other->dir.state != DIRECTORY_GRANTED || !same_key(s, other))
			continue;
		kick(other, KICK_REINSTATED);
		wait = true;
	}
	return wait;
}

static void try_grant(struct iscsi_session *s)
{
	struct iscsi *i = s->server;

	if (s->dir.kicked || i->stopping) {
		s->dir.state = DIRECTORY_PENDING;
		answer_claim(s, -ECANCELED);
	} else if (!must_wait(&i->directory, s)) {
		s->dir.state = DIRECTORY_GRANTED;
		i->nlogins--;
		s->tsih = next_tsih(&i->directory);
		answer_claim(s, 0);
	}
}

static void run_claim(struct loop_msg *msg)
{
	struct iscsi_session *s = container_of(msg, struct iscsi_session, up);

	s->dir.state = DIRECTORY_CLAIMING;
	try_grant(s);
}

void directory_claim(struct iscsi_session *s)
{
	s->state = SESSION_CLAIMING;
	s->up.run = run_claim;
	loop_post(loop_set_at(s->server->set, 0), &s->up);
}

/* ---- The end of a session ---- */

/* Somebody may have waited for it. */
static void wake_waiting(struct directory *d, struct iscsi_session *s)
{
	list_for_each (pos, bucket_of(d, s)) {
		struct iscsi_session *other = of_bucket(pos);

		if (other->dir.state == DIRECTORY_CLAIMING && same_key(s, other))
			try_grant(other);
	}
}

static void run_left(struct loop_msg *msg)
{
	struct iscsi_session *s = container_of(msg, struct iscsi_session, dir.left_msg);

	s->dir.state = DIRECTORY_LEFT;
	wake_waiting(&s->server->directory, s);
}

void directory_left(struct iscsi_session *s)
{
	s->dir.left_msg.run = run_left;
	loop_post(loop_set_at(s->server->set, 0), &s->dir.left_msg);
}

static void run_gone(struct loop_msg *msg)
{
	struct iscsi_session *s = container_of(msg, struct iscsi_session, up);
	struct iscsi *i = s->server;

	list_remove(&s->dir.all);
	list_remove(&s->dir.same);
	i->directory.load[loop_index(s->home->loop)]--;
	if (s->dir.state < DIRECTORY_GRANTED)
		i->nlogins--;
	wake_waiting(&i->directory, s);
	s->down.run = run_bye;
	loop_post(s->dir.departed ? s->home->loop : i->loops[0].loop, &s->down);
}

void directory_gone(struct iscsi_session *s)
{
	s->up.run = run_gone;
	loop_post(loop_set_at(s->server->set, 0), &s->up);
}

void directory_kick_all(struct iscsi *i, enum kick why)
{
	list_for_each (pos, &i->directory.all) {
		struct iscsi_session *s = container_of(pos, struct iscsi_session, dir.all);

		kick(s, why);
		if (s->dir.state == DIRECTORY_CLAIMING)
			try_grant(s);
	}
}

/* On its way to loop 0 a session cannot end: `gone` comes behind it. */
struct reset_msg {
	struct loop_msg msg;
	struct iscsi_session *from;
	enum kick why;
};

static void run_kick_others(struct loop_msg *msg)
{
	struct reset_msg *m = container_of(msg, struct reset_msg, msg);

	list_for_each (pos, &m->from->server->directory.all) {
		struct iscsi_session *s = container_of(pos, struct iscsi_session, dir.all);

		if (s != m->from && s->target == m->from->target &&
		    s->dir.state == DIRECTORY_GRANTED)
			kick(s, m->why);
	}
	free(m);
}

int directory_kick_others(struct iscsi_session *s, enum kick why)
{
	struct reset_msg *m = malloc(sizeof(*m));

	if (m == NULL)
		return -ENOMEM;
	*m = (struct reset_msg){.msg = {.run = run_kick_others}, .from = s, .why = why};
	loop_post(loop_set_at(s->server->set, 0), &m->msg);
	return 0;
}

/* ---- Admission ---- */

/* Where others with its key are; else the least loaded one, and of those the last, for the first one has
 * the acceptor's work as well. Discovery stays where it came. */
static struct iscsi_loop *choose_home(struct iscsi *i, const struct iscsi_session *s)
{
	unsigned best = 0;

	if (s->target == NULL)
		return &i->loops[0];
	list_for_each (pos, bucket_of(&i->directory, s))
		if (same_key(of_bucket(pos), s))
			return of_bucket(pos)->home;

	for (unsigned n = 1; n < i->nloops; n++)
		if (i->directory.load[n] <= i->directory.load[best])
			best = n;
	return &i->loops[best];
}

/* RFC 7143 6.3.1: a TSIH names a session that gets another connection; we allow one. */
static enum iscsi_login_status judge_tsih(struct directory *d, const struct iscsi_session *s,
					  uint16_t tsih)
{
	list_for_each (pos, bucket_of(d, s))
		if (of_bucket(pos)->tsih == tsih && of_bucket(pos)->dir.state != DIRECTORY_LEFT &&
		    same_key(of_bucket(pos), s))
			return ISCSI_LOGIN_TOO_MANY_CONNECTIONS;
	return ISCSI_LOGIN_NO_SESSION;
}

static void supersede_older(struct directory *d, struct iscsi_session *s)
{
	list_for_each (pos, bucket_of(d, s)) {
		struct iscsi_session *other = of_bucket(pos);

		if (other == s || other->dir.state >= DIRECTORY_GRANTED || !same_key(s, other))
			continue;
		kick(other, KICK_SUPERSEDED);
		if (other->dir.state == DIRECTORY_CLAIMING)
			try_grant(other);
	}
}

enum iscsi_login_status directory_admit(struct iscsi_conn *c, struct iscsi_target *target,
					const struct iscsi_params *params,
					const struct iscsi_login *request)
{
	struct iscsi *i = c->server;
	struct directory *d = &i->directory;
	struct iscsi_session *s = session_create(i);

	if (s == NULL)
		return ISCSI_LOGIN_OUT_OF_RESOURCES;
	s->target = target;
	s->params = *params;
	memcpy(s->isid, request->isid, sizeof(s->isid));
	if (be16_get(request->tsih) != 0) {
		enum iscsi_login_status status = judge_tsih(d, s, be16_get(request->tsih));

		session_free(s);
		return status;
	}
	s->exp_cmd_sn = be32_get(request->cmd_sn);
	s->max_cmd_sn = s->exp_cmd_sn - 1;
	s->home = choose_home(i, s);
	s->dir.state = DIRECTORY_PENDING;
	list_push_back(&d->all, &s->dir.all);
	list_push_back(bucket_of(d, s), &s->dir.same);
	d->load[loop_index(s->home->loop)]++;
	if (target != NULL && i->auth.nusers == 0)
		supersede_older(d, s);
	list_remove(&c->link);
	list_push_back(&s->conns, &c->link);
	c->session = s;
	c->leaves = true;
	return ISCSI_LOGIN_OK;
}
