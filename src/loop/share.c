/*
 * Who gets a buffer when there are few: the budget of a loop, the shares of those who take from it,
 * and those who wait (loop.h, "Memory"). Apart from buf.c, which has the buffers and no opinion.
 *
 *   loop_share_take -> fits: lent
 *                   -> does not, or somebody is before it: waits -> [a buffer is put] -> serve
 *                      -> its share's turn, and it fits -> granted
 *
 * A share that has its part already is passed over; one that lacks what others hold keeps its turn
 * (`starved_ns`), and until it was served nobody else takes, so that many small wishes cannot starve a
 * large one.
 */
#include "loop/impl.h"

#include <errno.h>
#include <stdlib.h>

/* Never 0. */
static uint64_t now_ns(const struct loop_bufs *bufs)
{
	return max_u64(loop_now_ns(bufs->loop), 1);
}

static bool is_stuck(const struct loop_bufs *bufs)
{
	return bufs->starved_ns != 0 && now_ns(bufs) - bufs->starved_ns >= LOOP_STUCK_NS;
}

/* ---- What fits ---- */

/* In what there is for its kind. */
bool loop_bufs_fit(const struct loop_bufs *bufs, enum loop_need need, uint64_t size)
{
	return bufs->used[need] + size <= bufs->ceilings[need];
}

/* Who has little may take whatever there is. Others leave free as much as they hold, and of segments
 * half: however many come one after another and give nothing back, they have small pieces of it. */
static bool is_fair(const struct loop_share *share, enum loop_need need, uint64_t size)
{
	static const struct {
		uint32_t little;
		unsigned left_parts;
	} rules[] = {[LOOP_SEGMENT] = {LOOP_BUF_MAX, 2}, [LOOP_EARLY] = {1, 1}};
	const struct loop_bufs *bufs = share->bufs;
	const uint64_t held = share->held[need];

	return held < rules[need].little ||
	       held + size + bufs->used[need] <= bufs->ceilings[need] / rules[need].left_parts;
}

/* ---- Lending ---- */

static int lend_to(struct loop_share *share, struct loop_wait *w)
{
	*w->buf = loop_bufs_lend(share->bufs, w->len_bytes, w->need, share);
	return *w->buf != NULL ? 0 : -ENOMEM;
}

struct loop_buf *loop_share_get(struct loop_share *share, uint32_t len_bytes)
{
	const uint32_t size = loop_buf_size(len_bytes);

	if (!loop_bufs_fit(share->bufs, LOOP_EARLY, size) || !is_fair(share, LOOP_EARLY, size))
		return NULL;
	return loop_bufs_lend(share->bufs, len_bytes, LOOP_EARLY, share);
}

bool loop_share_plenty(const struct loop_share *share, uint32_t len_bytes)
{
	const struct loop_bufs *bufs = share->bufs;
	const uint64_t size = loop_buf_size(len_bytes);

	return !loop_bufs_awaited(bufs) &&
	       bufs->used[LOOP_SEGMENT] + size <= bufs->ceilings[LOOP_SEGMENT] / 2 &&
	       is_fair(share, LOOP_SEGMENT, size);
}

/* ---- Waiting ---- */

static bool may_take(const struct loop_share *share, const struct loop_wait *w)
{
	const struct loop_bufs *bufs = share->bufs;
	const uint64_t size = loop_buf_size(w->len_bytes);

	if (w->need == LOOP_URGENT)
		return list_empty(&bufs->urgent) && loop_bufs_fit(bufs, LOOP_URGENT, size);
	return bufs->starved_ns == 0 && list_empty(&share->waits) &&
	       loop_bufs_fit(bufs, LOOP_SEGMENT, size) && is_fair(share, LOOP_SEGMENT, size);
}

static void wait_for_it(struct loop_share *share, struct loop_wait *w)
{
	struct loop_bufs *bufs = share->bufs;

	w->share = share;
	if (w->need == LOOP_URGENT) {
		list_push_back(&bufs->urgent, &w->link);
		return;
	}
	if (list_empty(&share->waits))
		list_push_back(&bufs->waiting, &share->link);
	list_push_back(&share->waits, &w->link);
}

bool loop_share_take(struct loop_share *share, struct loop_wait *w)
{
	CHECK(!share->closed && (w->need == LOOP_SEGMENT || w->need == LOOP_URGENT));
	w->share = NULL;
	if (may_take(share, w) && lend_to(share, w) == 0)
		return true;
	wait_for_it(share, w);
	/* It may fit, and the system has none, or nobody has anything that could come back. */
	loop_bufs_serve(share->bufs);
	return false;
}

static void stop_waiting(struct loop_wait *w)
{
	struct loop_share *share = w->share;

	list_remove(&w->link);
	w->share = NULL;
	if (list_empty(&share->waits))
		list_remove(&share->link);
}

void loop_wait_cancel(struct loop_wait *w)
{
	struct loop_bufs *bufs;

	if (w->share == NULL)
		return;
	bufs = w->share->bufs;
	stop_waiting(w);
	loop_bufs_serve(bufs);
}

/* The share may be gone afterwards. */
static void grant(struct loop_wait *w)
{
	struct loop_share *share = w->share;

	stop_waiting(w);
	w->granted(w, lend_to(share, w));
}

static struct loop_wait *first_wait(const struct list *waits)
{
	return list_entry(waits->next, struct loop_wait, link);
}

static void serve_urgent(struct loop_bufs *bufs)
{
	while (!list_empty(&bufs->urgent)) {
		struct loop_wait *w = first_wait(&bufs->urgent);

		if (!loop_bufs_fit(bufs, LOOP_URGENT, loop_buf_size(w->len_bytes)))
			return;
		grant(w);
	}
}

/* The share whose turn it is, with one who fits; NULL: there is none, or it is its turn and it does
 * not fit, which is `starved`. Those that have their part are put behind. */
static struct loop_share *next_share(struct loop_bufs *bufs, bool *starved)
{
	const struct list *last = bufs->waiting.prev;
	bool more = !list_empty(&bufs->waiting);

	while (more) {
		struct loop_share *share = list_entry(bufs->waiting.next, struct loop_share, link);
		const uint32_t size = loop_buf_size(first_wait(&share->waits)->len_bytes);

		more = &share->link != last;
		if (!loop_bufs_fit(bufs, LOOP_SEGMENT, size)) {
			*starved = true;
			return NULL;
		}
		list_remove(&share->link);
		list_push_back(&bufs->waiting, &share->link);
		if (is_fair(share, LOOP_SEGMENT, size))
			return share;
	}
	return NULL;
}

static void serve(struct loop_msg *msg)
{
	struct loop_bufs *bufs = container_of(msg, struct loop_bufs, serve);
	uint64_t since_ns = bufs->starved_ns;
	struct loop_share *share;
	bool starved = false;

	bufs->serving = false;
	if (is_stuck(bufs))
		bufs->stuck_ns = now_ns(bufs);
	serve_urgent(bufs);
	bufs->starved_ns = 0;
	while ((share = next_share(bufs, &starved)) != NULL) {
		since_ns = 0;
		grant(first_wait(&share->waits));
	}
	if (starved)
		bufs->starved_ns = since_ns != 0 ? since_ns : now_ns(bufs);
}

void loop_bufs_serve(struct loop_bufs *bufs)
{
	if (bufs->serving)
		return;
	bufs->serving = true;
	loop_defer(bufs->loop, &bufs->serve);
}

/* ---- Shares ---- */

struct loop_share *loop_share_create(struct loop *loop)
{
	struct loop_share *share = calloc(1, sizeof(*share));

	if (share == NULL)
		return NULL;
	share->bufs = loop_bufs_of(loop);
	list_init(&share->waits);
	list_init(&share->link);
	return share;
}

void loop_share_settle(struct loop_share *share)
{
	for (unsigned i = 0; i < LOOP_NEEDS; i++)
		if (share->held[i] != 0)
			return;
	free(share);
}

void loop_share_close(struct loop_share *share)
{
	if (share == NULL)
		return;
	CHECK(list_empty(&share->waits));
	share->closed = true;
	loop_share_settle(share);
}

/* ---- The budget ---- */

void loop_budget_init(struct loop_bufs *bufs, uint64_t budget_bytes)
{
	static const uint8_t sixteenths[] = {
		[LOOP_SEGMENT] = 7, [LOOP_EARLY] = 5, [LOOP_CONN] = 2, [LOOP_URGENT] = 2};

	bufs->budget = budget_bytes != 0 ? budget_bytes : UINT64_MAX / 2;
	for (unsigned i = 0; i < LOOP_NEEDS; i++)
		bufs->ceilings[i] = bufs->budget / 16 * sixteenths[i];
	list_init(&bufs->urgent);
	list_init(&bufs->waiting);
	bufs->serve.run = serve;
}

void loop_charge(struct loop *loop, enum loop_need need, size_t bytes)
{
	struct loop_bufs *bufs = loop_bufs_of(loop);

	bufs->total += bytes;
	bufs->used[need] += bytes;
}

void loop_uncharge(struct loop *loop, enum loop_need need, size_t bytes)
{
	struct loop_bufs *bufs = loop_bufs_of(loop);

	bufs->total -= bytes;
	bufs->used[need] -= bytes;
	if (loop_bufs_awaited(bufs))
		loop_bufs_serve(bufs);
}

bool loop_is_short(struct loop *loop, enum loop_need need)
{
	const struct loop_bufs *bufs = loop_bufs_of(loop);

	return bufs->used[need] > bufs->ceilings[need] / 2;
}

bool loop_is_stuck(struct loop *loop)
{
	const struct loop_bufs *bufs = loop_bufs_of(loop);

	return is_stuck(bufs) ||
	       (bufs->stuck_ns != 0 && now_ns(bufs) - bufs->stuck_ns < LOOP_STUCK_LASTS_NS);
}

uint64_t loop_unasked_bytes(struct loop *loop)
{
	return loop_bufs_of(loop)->ceilings[LOOP_EARLY] / 2;
}

uint64_t loop_memory_used(struct loop *loop)
{
	return loop_bufs_of(loop)->total;
}
