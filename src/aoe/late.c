/*
 * Whose frames count, how far a client has counted, and what it wrote of late.
 *
 *   frame -> source: its MAC -> client: the counter that its tag continues, which several MACs of one
 *         machine share -> is it a write, and has a newer one of its sectors come?
 *
 * All is bounded: where there is no room, what was heard last is kept. What is forgotten too early costs
 * protection. What is taken for late and is not costs its client the time until it asks again, and goes
 * on for FORGET_MS at most, since nothing older counts.
 */
#include "aoe/late.h"

#include <stdlib.h>
#include <string.h>

#define SOURCES   32
#define CLIENTS   8
#define WRITES    4096            /* of a client */
#define FORGET_MS UINT64_C(10000) /* how long after a write an older one may come */
#define SAY_MS    (60 * UINT64_C(1000))

/* A client counts that has sent so many frames in a row, with a clock of 100 to 1000 Hz. The bounds are wider
 * than that, since frames come in bunches when somebody is busy; and by a clock of 2500 Hz frames have an order
 * for 13 s still, which is longer than FORGET_MS. */
#define RUN             64
#define CLOCK_MS        UINT64_C(1000)  /* the clock is looked at for so long at least, */
#define CLOCK_MS_MAX    UINT64_C(20000) /* and not for longer, since it comes round */
#define TICKS_PER_S_MIN 50
#define TICKS_PER_S_MAX 2500

/* What continues a counter: its own source may have lost frames; another one must be close to it. */
#define LOST_MAX   8192 /* frames */
#define NEAR       256  /* frames */
#define NEAR_TICKS 512
#define JOINED     8 /* frames of another source, until that is no coincidence */
/* A counter that has come no further has just begun. */
#define BEGINNING 8
/* So many old frames in a row, and no new one, are of another counter. */
#define STRANGE_MAX 256

struct tag {
	uint16_t sequence, ticks;
};

struct past_write {
	uint64_t from, to; /* sectors */
	struct tag tag;
	uint32_t ms; /* when it came */
};

/* A counter, and who counts with it. */
struct client {
	uint32_t address; /* of the disk, to which it counts; 0: there is none */
	unsigned nsources;
	struct tag newest, since;
	uint64_t newest_ms, since_ms; /* when they came; the clock is looked at since then */
	unsigned run;
	/* A ring, by tag, the oldest first. NULL: nobody has seen it count yet. */
	struct past_write *writes;
	unsigned first, nwrites;
};

struct source {
	uint8_t mac[AOE_MAC_LEN];
	uint32_t address; /* 0: there is none */
	struct client *client;
	uint64_t seen_ms;
	/* Frames that have continued its client's counter, up to JOINED; and those in a row that have not. */
	unsigned joined, strange;
};

struct aoe_late {
	struct source sources[SOURCES];
	struct client clients[CLIENTS];
	uint64_t ndropped, said_ms;
};

/* ---- Tags ---- */

static struct tag tag_of(const struct aoe_head *h)
{
	const uint32_t tag = load_be32(h->tag);

	return (struct tag){.sequence = tag >> 16 & 0x7fff, .ticks = tag & 0xffff};
}

/* Programs of users set it, so that the driver of the same machine does not take their answers. */
static bool is_of_a_user(const struct aoe_head *h)
{
	return (h->tag[0] & 0x80) != 0;
}

static int steps(struct tag from, struct tag to)
{
	const int n = (to.sequence - from.sequence) & 0x7fff;

	return n < 0x4000 ? n : n - 0x8000;
}

static int ticks(struct tag from, struct tag to)
{
	return (int16_t)(to.ticks - from.ticks);
}

/* Of frames that were sent within half a round of the clock: 32 s at 1000 Hz. The counter comes round too
 * soon to tell more than the order within a tick. */
static bool is_newer(struct tag a, struct tag b)
{
	const int n = ticks(b, a);

	return n != 0 ? n > 0 : steps(b, a) > 0;
}

/* ---- Clients: what they wrote ---- */

static bool counts(const struct client *c)
{
	return c != NULL && c->writes != NULL;
}

static struct past_write *write_at(struct client *c, unsigned i)
{
	return &c->writes[(c->first + i) % WRITES];
}

static void forget_oldest(struct client *c)
{
	c->first = (c->first + 1) % WRITES;
	c->nwrites--;
}

static void forget_old(struct client *c, uint32_t now_ms)
{
	while (c->nwrites > 0 && now_ms - write_at(c, 0)->ms > FORGET_MS)
		forget_oldest(c);
}

static bool overlaps(const struct past_write *w, uint64_t lba, uint64_t n)
{
	return lba < w->to && w->from < lba + n;
}

static void insert(struct client *c, unsigned at, const struct past_write *w)
{
	for (unsigned i = c->nwrites; i > at; i--)
		*write_at(c, i) = *write_at(c, i - 1);
	*write_at(c, at) = *w;
	c->nwrites++;
}

/* Remembers it, unless it is late. What is older than all that there is room for may have been
 * overtaken by what was forgotten. */
static bool is_late(struct client *c, struct tag tag, const struct aoe_late_request *r,
		    uint32_t now_ms)
{
	unsigned at;

	forget_old(c, now_ms);
	for (at = c->nwrites; at > 0; at--) {
		const struct past_write *w = write_at(c, at - 1);

		if (!is_newer(w->tag, tag))
			break;
		if (now_ms - w->ms <= FORGET_MS && overlaps(w, r->lba, r->nwritten))
			return true;
	}
	if (c->nwrites == WRITES) {
		if (at == 0)
			return true;
		forget_oldest(c);
		at--;
	}
	insert(c, at,
	       &(struct past_write){
		       .from = r->lba, .to = r->lba + r->nwritten, .tag = tag, .ms = now_ms});
	return false;
}

/* ---- Clients: how far they have counted ---- */

static bool is_fresh(const struct client *c, uint64_t now_ms)
{
	return now_ms - c->newest_ms <= FORGET_MS;
}

/* Whose clock may have come round meanwhile is known by the counter alone. */
static bool follows(const struct client *c, struct tag tag, int lost_max, uint64_t now_ms)
{
	const int n = steps(c->newest, tag);

	return n >= 1 && n <= lost_max && (!is_fresh(c, now_ms) || is_newer(tag, c->newest));
}

static bool is_near(const struct client *c, struct tag tag, uint64_t now_ms)
{
	const int n = steps(c->newest, tag), since = ticks(c->newest, tag);
	int ms;

	if (!is_fresh(c, now_ms) || abs(n) > NEAR)
		return false;
	/* Who counts has a clock that agrees. */
	if (n > 0 ? since < 0 : n < 0 ? since > 0 : since != 0)
		return false;
	ms = (int)(now_ms - c->newest_ms);
	return since >= -NEAR_TICKS && since <= NEAR_TICKS + ms + ms / 8;
}

static void look_at_clock(struct client *c, uint64_t now_ms)
{
	c->since = c->newest;
	c->since_ms = now_ms;
}

/* Without memory nobody counts. */
static void learn(struct client *c, uint64_t now_ms)
{
	const uint64_t ms = now_ms - c->since_ms;
	const uint64_t n = (uint16_t)(c->newest.ticks - c->since.ticks) * UINT64_C(1000);

	if (ms > CLOCK_MS_MAX) {
		look_at_clock(c, now_ms);
		return;
	}
	if (c->run < RUN || ms < CLOCK_MS)
		return;
	if (n >= TICKS_PER_S_MIN * ms && n <= TICKS_PER_S_MAX * ms)
		c->writes = malloc(WRITES * sizeof(*c->writes));
	if (c->writes == NULL) {
		c->run = 0;
		look_at_clock(c, now_ms);
	}
}

static void advance(struct client *c, struct tag tag, uint64_t now_ms)
{
	if (is_fresh(c, now_ms) && !is_newer(tag, c->newest))
		return;
	c->newest = tag;
	c->newest_ms = now_ms;
	c->run++;
	if (!counts(c))
		learn(c, now_ms);
}

/* ---- Whose a frame is ---- */

static void leave(struct source *s)
{
	if (s->client != NULL)
		s->client->nsources--;
	s->client = NULL;
}

static void join(struct source *s, struct client *c)
{
	if (s->client == c)
		return;
	leave(s);
	s->client = c;
	s->joined = c->nsources == 0 ? JOINED : 0;
	c->nsources++;
}

/* Those of clients that nobody has seen count go first, then who was silent for the longest time. */
static bool is_source_better_kept(const struct source *a, const struct source *b)
{
	const bool a_counts = counts(a->client), b_counts = counts(b->client);

	return a_counts != b_counts ? a_counts : a->seen_ms > b->seen_ms;
}

static bool is_client_better_kept(const struct client *a, const struct client *b)
{
	return counts(a) != counts(b) ? counts(a) : a->newest_ms > b->newest_ms;
}

static struct source *source_of(struct aoe_late *late, const struct aoe_head *h, uint32_t address)
{
	struct source *least = &late->sources[0];

	for (unsigned i = 0; i < SOURCES; i++) {
		struct source *s = &late->sources[i];

		if (s->address == address && memcmp(s->mac, h->from, AOE_MAC_LEN) == 0)
			return s;
		if (is_source_better_kept(least, s))
			least = s;
	}
	leave(least);
	*least = (struct source){.address = address};
	memcpy(least->mac, h->from, AOE_MAC_LEN);
	return least;
}

static void client_drop(struct aoe_late *late, struct client *c)
{
	for (unsigned i = 0; i < SOURCES; i++)
		if (late->sources[i].client == c)
			leave(&late->sources[i]);
	free(c->writes);
	*c = (struct client){.address = 0};
}

static struct client *client_create(struct aoe_late *late, struct source *s, struct tag tag,
				    uint64_t now_ms)
{
	struct client *c = s->client;

	if (c == NULL || c->nsources > 1) {
		c = &late->clients[0];
		for (unsigned i = 1; i < CLIENTS; i++)
			if (is_client_better_kept(c, &late->clients[i]))
				c = &late->clients[i];
	}
	client_drop(late, c);
	c->address = s->address;
	c->newest = tag;
	c->newest_ms = now_ms;
	look_at_clock(c, now_ms);
	return c;
}

static struct client *client_near(struct aoe_late *late, const struct source *s, struct tag tag,
				  uint64_t now_ms)
{
	struct client *best = NULL;

	for (unsigned i = 0; i < CLIENTS; i++) {
		struct client *c = &late->clients[i];
		int n, least;

		if (c->address != s->address || !is_near(c, tag, now_ms))
			continue;
		n = abs(steps(c->newest, tag));
		least = best != NULL ? abs(steps(best->newest, tag)) : NEAR + 1;
		if (n < least || (n == least && c == s->client))
			best = c;
	}
	return best;
}

static bool begins(const struct aoe_late_request *r, struct tag tag)
{
	return r->identifies && tag.sequence <= BEGINNING;
}

static bool may_be_late(const struct source *s, const struct aoe_late_request *r, struct tag tag,
			uint64_t now_ms)
{
	const struct client *c = s->client;

	return c != NULL && s->joined == JOINED && is_fresh(c, now_ms) &&
	       !is_newer(tag, c->newest) && !begins(r, tag) && s->strange < STRANGE_MAX;
}

static struct client *client_of(struct aoe_late *late, struct source *s,
				const struct aoe_late_request *r, struct tag tag, uint64_t now_ms)
{
	struct client *own = s->client, *c = NULL;

	if (own != NULL && follows(own, tag, 1, now_ms))
		c = own;
	if (c == NULL)
		c = client_near(late, s, tag, now_ms);
	if (c == NULL && own != NULL && follows(own, tag, LOST_MAX, now_ms))
		c = own;
	if (c != NULL) {
		s->strange = 0;
		return c;
	}
	if (may_be_late(s, r, tag, now_ms)) {
		s->strange++;
		return own;
	}
	s->strange = 0;
	return client_create(late, s, tag, now_ms);
}

/* ---- The disk ---- */

struct aoe_late *aoe_late_create(void)
{
	return calloc(1, sizeof(struct aoe_late));
}

void aoe_late_destroy(struct aoe_late *late)
{
	if (late == NULL)
		return;
	for (unsigned i = 0; i < CLIENTS; i++)
		free(late->clients[i].writes);
	free(late);
}

/* One disk may be two to a client, which counts for each. */
static uint32_t address_of(const struct aoe_head *h)
{
	return 1u << 24 | be16_get(h->shelf) << 8 | h->slot;
}

bool aoe_late_is(struct aoe_late *late, const struct aoe_late_request *r, uint64_t now_ms)
{
	const struct tag tag = tag_of(r->head);
	struct source *s;
	struct client *c;

	if (is_of_a_user(r->head))
		return false;
	s = source_of(late, r->head, address_of(r->head));
	s->seen_ms = now_ms;
	c = client_of(late, s, r, tag, now_ms);
	join(s, c);
	if (s->joined < JOINED) {
		s->joined++;
		return false;
	}
	advance(c, tag, now_ms);
	if (r->nwritten == 0 || !counts(c) || !is_late(c, tag, r, low_u32(now_ms)))
		return false;
	late->ndropped++;
	return true;
}

uint64_t aoe_late_to_say(struct aoe_late *late, uint64_t now_ms)
{
	const uint64_t n = late->ndropped;

	if (n == 0 || (late->said_ms != 0 && now_ms - late->said_ms < SAY_MS))
		return 0;
	late->said_ms = now_ms;
	late->ndropped = 0;
	return n;
}
