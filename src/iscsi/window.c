/*
 * How many commands a session may have under way: the command window. Apart from session.c because
 * this is about memory, and not about numbers.
 *
 * A slot that is granted is a debt: what may come with a command without being asked for, immediate
 * data and unsolicited Data-Out, must be put somewhere, and waiting is no way out. The sessions of
 * a loop that do something share what may be promised (loop_unasked_bytes()), by what each one's
 * commands have brought of late: a session of small commands or of reads has all of WINDOW, one that
 * sends first bursts of 256 KiB has what these fit into.
 *
 * A window grows by doubling with each command, and not while much has come; it shrinks by not moving
 * on, for MaxCmdSN never goes back. So the debts of sessions that slept, or that change their ways,
 * may be more than there is: what comes then and has no place is thrown away, and its command ends
 * with TASK SET FULL.
 */
#include "iscsi/impl.h"

static void share_out(struct iscsi_loop *home)
{
	const unsigned nbusy = home->nbusy > home->nbusy_before ? home->nbusy : home->nbusy_before;

	home->slot_bytes = loop_unasked_bytes(home->loop) / (nbusy != 0 ? nbusy : 1);
}

/* It does something, and the loop counts it for a while. */
static void count_busy(struct iscsi_session *s, uint64_t epoch)
{
	struct iscsi_loop *home = s->home;

	if (home->epoch != epoch) {
		home->nbusy_before = home->epoch + 1 == epoch ? home->nbusy : 0;
		home->nbusy = 0;
		home->epoch = epoch;
	}
	home->nbusy++;
	s->epoch = epoch;
	share_out(home);
}

/* What a session's part of the budget is good for. */
static unsigned affordable(const struct iscsi_session *s, unsigned most)
{
	const uint64_t n = s->home->slot_bytes / s->slot_cost;

	return (unsigned)max_u64(min_u64(n, most), WINDOW_MIN);
}

/* Never 0: that is a session which was not counted. */
static uint64_t epoch_now(const struct iscsi_session *s)
{
	return (loop_now_ns(s->home->loop) >> WINDOW_EPOCH_LOG) + 1;
}

void window_open(struct iscsi_session *s)
{
	const bool unasked = s->params.immediate_data || !s->params.initial_r2t;

	s->slot_cost = SLOT_COST_MIN + (unasked ? LOOP_BUF_MAX : 0);
	/* From the start, so that many that log in at once do not find themselves alone. */
	count_busy(s, epoch_now(s));
	s->window = affordable(s, WINDOW_FIRST);
}

void window_close(struct iscsi_session *s)
{
	struct iscsi_loop *home = s->home;

	if (s->epoch == 0)
		return;
	if (s->epoch == home->epoch)
		home->nbusy--;
	else if (s->epoch + 1 == home->epoch && home->nbusy_before != 0)
		home->nbusy_before--;
	s->epoch = 0;
	share_out(home);
}

static void resize(struct iscsi_session *s)
{
	const unsigned n = affordable(s, WINDOW);

	if (n <= s->window)
		s->window = n;
	else if (!loop_is_short(s->home->loop, LOOP_EARLY))
		s->window = n < 2 * s->window ? n : 2 * s->window;
}

void window_learn(struct iscsi_session *s, uint32_t bytes)
{
	const uint32_t cost = SLOT_COST_MIN + bytes;
	const uint64_t epoch = epoch_now(s);

	if (epoch != s->epoch)
		count_busy(s, epoch);
	/* The usual one: as it was. */
	if (cost == s->slot_cost && s->window == WINDOW &&
	    WINDOW * (uint64_t)cost <= s->home->slot_bytes)
		return;
	if (cost >= s->slot_cost)
		s->slot_cost = cost;
	else
		s->slot_cost -= (s->slot_cost - cost + 7) / 8;
	resize(s);
}
