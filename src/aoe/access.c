/*
 * Who is let in: the MAC mask list and reserve/release (AoEr11 3.3, 3.4). Apart from query.c because what is
 * changed here keeps clients out, of this transport and of others.
 *
 * Both lists belong to the disk, are kept with it, and are in force on all its interfaces. A change of one is
 * an operation of the unit, so that they take turns with whatever else is kept there:
 *
 *   edit ----> PUBLISH ---------------------------------------> in force -----------> answer
 *   reserve -> QUIESCE: no I/O of anybody is in the store ----> in force -> ABORT --> answer
 *
 * To the unit all AoE clients are one nexus. A reservation makes that the holder, which keeps out clients of
 * other transports; which of its clients it is the list says. What those that are not on it had under way, and
 * what waited for that, the ABORT ends: so after the answer nothing of theirs gets to the disk.
 */
#include "aoe/impl.h"

#include <stdlib.h>
#include <string.h>

/* Of frames where the MTU is 1500, without FCS. What is answered is the whole list: no longer one can be told
 * of everywhere. */
#define ETHERNET_HEAD 14
#define FRAME_MAX     (ETHERNET_HEAD + 1500)
#define DRAIN_NS      UINT64_C(10000000000) /* for the I/O of all; then there is no reservation */

/* How the lists look in a frame: a head whose last byte counts what follows, and in each of these the address
 * comes last. */
static const struct format {
	const char *tag;
	uint32_t head, each;
} formats[AOE_LISTS] = {
	[AOE_ANSWERED] = {"aoe-mask", AOE_MASK_HEAD, sizeof(struct aoe_directive)},
	[AOE_HOLDERS] = {"aoe-reserve", AOE_RESERVE_HEAD, AOE_MAC_LEN},
};

_Static_assert(FRAME_MAX - AOE_RESERVE_HEAD <= AOE_KEPT_MAX, "the longer one of both");

static uint32_t most_of(enum aoe_list which)
{
	return (FRAME_MAX - formats[which].head) / formats[which].each;
}

/* ---- Who may ---- */

bool aoe_is_admin(const struct aoe_place *place, const uint8_t mac[AOE_MAC_LEN])
{
	return aoe_is_among(&place->export.admins, mac);
}

bool aoe_lets_pass(const struct aoe_macs *macs, const uint8_t mac[AOE_MAC_LEN])
{
	return macs->n == 0 || aoe_is_among(macs, mac);
}

/* Those whom the export names as its admins may see to the mask list all the same, and to nothing else: who
 * has left himself out of it gets in again. */
bool aoe_is_answered(const struct aoe_place *place, const struct aoe_head *h)
{
	const struct aoe_export *e = &place->export;

	return aoe_lets_pass(&e->allowed, h->from) &&
	       (aoe_lets_pass(&place->disk->lists[AOE_ANSWERED], h->from) ||
		(h->command == AOE_MASK && !e->admins.all && aoe_is_among(&e->admins, h->from)));
}

bool aoe_is_kept_out(const struct aoe_disk *disk, const uint8_t mac[AOE_MAC_LEN])
{
	return !aoe_lets_pass(&disk->lists[AOE_HOLDERS], mac);
}

bool aoe_is_held_elsewhere(const struct aoe_disk *disk)
{
	const uint64_t holder = channel_view(disk->attach.channel)->holder;

	return holder != 0 && holder != disk->attach.nexus_id;
}

/* ---- Kept with the disk ---- */

static int list_load(struct aoe_disk *disk, enum aoe_list which)
{
	struct aoe_macs *list = &disk->lists[which];
	const size_t cap = most_of(which) * AOE_MAC_LEN;
	ssize_t n;

	list->v = malloc(cap);
	if (list->v == NULL)
		return -ENOMEM;
	n = aoe_kept_get(disk->unit, formats[which].tag, list->v, cap);
	if (n < 0)
		return (int)n;
	list->n = (size_t)n / AOE_MAC_LEN;
	return n % AOE_MAC_LEN == 0 ? 0 : -EBADMSG;
}

static void hold(struct unit_view *view, uint64_t nexus_id)
{
	view->holder = nexus_id;
	view->flags |= UNIT_HOLDER_KEPT;
}

int aoe_lists_load(struct aoe_disk *disk)
{
	int err = 0;

	for (unsigned which = 0; which < AOE_LISTS && err == 0; which++)
		err = list_load(disk, which);
	if (err == 0 && disk->lists[AOE_HOLDERS].n != 0)
		hold(unit_first_view(disk->unit), disk->attach.nexus_id);
	return err;
}

void aoe_lists_free(struct aoe_disk *disk)
{
	for (unsigned which = 0; which < AOE_LISTS; which++)
		free(disk->lists[which].v);
}

static int list_keep(struct unit *u, enum aoe_list which, const struct aoe_macs *list)
{
	return aoe_kept_set(u, formats[which].tag, list->v, list->n * AOE_MAC_LEN);
}

/* ---- Answers ---- */

static struct aoe_task *task_create(struct aoe_place *place, const uint8_t *frame,
				    enum aoe_list which)
{
	return aoe_task_create(place, frame, formats[which].head, FRAME_MAX, 0);
}

/* How many of them an answer has room for, where the frame came from. */
static uint32_t room_for(const struct aoe_place *place, enum aoe_list which)
{
	const int room = (int)place->port->mtu + ETHERNET_HEAD - (int)formats[which].head;

	return room < 0 ? 0 : (uint32_t)room / formats[which].each;
}

static void answer_list(struct aoe_task *t, enum aoe_list which)
{
	const struct aoe_macs *list = &t->place->disk->lists[which];
	const struct format *f = &formats[which];
	uint8_t *frame = (uint8_t *)aoe_task_head(t);
	const uint32_t len = f->head + (uint32_t)list->n * f->each;

	if (list->n > room_for(t->place, which)) {
		aoe_task_refuse(t, AOE_UNAVAILABLE);
		return;
	}
	memset(frame + f->head, 0, len - f->head);
	frame[f->head - 1] = low_u8(list->n);
	for (size_t i = 0; i < list->n; i++)
		memcpy(frame + f->head + (i + 1) * f->each - AOE_MAC_LEN, list->v[i], AOE_MAC_LEN);
	aoe_task_answer(t, len);
}

static struct aoe_mask *mask_of(struct aoe_task *t)
{
	return (struct aoe_mask *)(void *)(aoe_task_head(t) + 1);
}

/* `done` directives came before that. */
static void answer_mask(struct aoe_task *t, enum aoe_mask_error error, uint8_t done)
{
	struct aoe_mask *m = mask_of(t);

	m->reserved = 0;
	m->error = low_u8(error);
	m->count = done;
	if (error == AOE_MASK_OK)
		answer_list(t, AOE_ANSWERED);
	else
		aoe_task_answer(t, AOE_MASK_HEAD);
}

/* ---- Changes ---- */

struct change {
	struct unit_op op, abort;
	struct aoe_task *task;
	enum aoe_list which;
	struct aoe_macs list; /* what is to be, and then what was */
	bool forced;
	/* Of a mask list: what became of the directives. */
	enum aoe_mask_error error;
	uint8_t done;
};

static void change_free(struct change *c)
{
	free(c->abort.parts);
	free(c->list.v);
	free(c);
}

static void change_answer(struct change *c, int err)
{
	if (err == -ENOMEM)
		aoe_task_drop(c->task);
	else if (err != 0)
		aoe_task_refuse(c->task, err == -EBUSY ? AOE_RESERVED : AOE_UNAVAILABLE);
	else if (c->which == AOE_ANSWERED)
		answer_mask(c->task, c->error, c->done);
	else
		answer_list(c->task, c->which);
}

static void change_end(struct change *c, int err)
{
	c->task->place->disk->changes_list = false;
	change_answer(c, err);
	change_free(c);
}

/* On a worker: nobody changes either list meanwhile. What could not be kept may be there all the same: what
 * stays in force is kept again, or a restart would bring what was refused. */
static int keep(struct unit_op *op, const struct unit_view *next)
{
	const struct change *c = container_of(op, struct change, op);
	const int err = list_keep(op->unit, c->which, &c->list);

	if (err != 0)
		list_keep(op->unit, c->which, &c->task->place->disk->lists[c->which]);
	return err;
}

/* On the steward's loop. A client of another transport may have come first; an admin takes the disk from that,
 * too, which others there could do by a reset. */
static int edit_holder(struct unit_op *op, struct unit_view *next)
{
	const struct change *c = container_of(op, struct change, op);
	const bool is_ours = next->holder == op->nexus_id;

	if (c->list.n == 0 && (is_ours || c->forced)) {
		next->holder = 0;
		next->flags &= ~(unsigned)UNIT_HOLDER_KEPT;
	} else if (c->list.n != 0) {
		if (next->holder != 0 && !is_ours && !c->forced)
			return -EBUSY;
		hold(next, op->nexus_id);
	}
	return 0;
}

/* All tasks of this nexus are those of frames. */
static bool is_kept_out(const struct unit_op *op, const struct unit_task *ut)
{
	const struct change *c = container_of(op, struct change, abort);
	struct aoe_task *t = container_of(ut, struct aoe_task, unit_task);

	return ut->nexus_id == op->nexus_id &&
	       aoe_is_kept_out(c->task->place->disk, aoe_task_head(t)->from);
}

static void aborted(struct unit_op *op, int err)
{
	change_end(container_of(op, struct change, abort), err);
}

static void changed(struct unit_op *op, int err)
{
	struct change *c = container_of(op, struct change, op);
	struct aoe_macs *list = &c->task->place->disk->lists[c->which];
	const struct aoe_macs before = *list;

	if (err == 0) {
		*list = c->list;
		c->list = before;
	}
	if (err == 0 && c->abort.parts != NULL)
		unit_abort(&c->abort);
	else
		change_end(c, err);
}

/* With a copy of the list as it is. One at a time; what comes meanwhile is asked again. */
static struct change *change_create(struct aoe_place *place, const uint8_t *frame,
				    enum aoe_list which)
{
	struct aoe_disk *disk = place->disk;
	const struct aoe_macs *list = &disk->lists[which];
	struct change *c = disk->changes_list ? NULL : calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->op = c->abort = (struct unit_op){
		.unit = disk->unit, .loop = disk->aoe->loop, .nexus_id = disk->attach.nexus_id};
	c->which = which;
	c->list.v = malloc(most_of(which) * AOE_MAC_LEN);
	c->task = c->list.v != NULL ? task_create(place, frame, which) : NULL;
	if (c->task == NULL) {
		change_free(c);
		return NULL;
	}
	memcpy(c->list.v, list->v, list->n * AOE_MAC_LEN);
	c->list.n = list->n;
	disk->changes_list = true;
	return c;
}

static bool changes_nothing(const struct change *c)
{
	const struct aoe_disk *disk = c->task->place->disk;
	const struct aoe_macs *list = &disk->lists[c->which];

	return c->list.n == list->n && memcmp(c->list.v, list->v, list->n * AOE_MAC_LEN) == 0 &&
	       !(c->forced && aoe_is_held_elsewhere(disk));
}

static void change_begin(struct change *c, int (*edit)(struct unit_op *, struct unit_view *))
{
	if (changes_nothing(c)) {
		change_end(c, 0);
		return;
	}
	c->op.edit = edit;
	c->op.keep = keep;
	c->op.done = changed;
	if (c->abort.parts == NULL) {
		unit_publish(&c->op);
		return;
	}
	c->abort.matches = is_kept_out;
	c->abort.done = aborted;
	c->op.timeout_ns = DRAIN_NS;
	unit_quiesce(&c->op);
}

/* ---- The MAC mask list ---- */

static size_t find(const struct aoe_macs *list, const uint8_t mac[AOE_MAC_LEN])
{
	size_t i = 0;

	while (i < list->n && memcmp(list->v[i], mac, AOE_MAC_LEN) != 0)
		i++;
	return i;
}

/* One that is there may be added, and one that is not may be deleted. */
static enum aoe_mask_error apply(struct aoe_macs *list, const struct aoe_directive *d, size_t most)
{
	const size_t i = find(list, d->mac);

	switch (d->command) {
	case AOE_DIRECTIVE_NOTHING:
		return AOE_MASK_OK;
	case AOE_DIRECTIVE_ADD:
		if (i < list->n)
			return AOE_MASK_OK;
		if (list->n >= most)
			return AOE_MASK_FULL;
		memcpy(list->v[list->n++], d->mac, AOE_MAC_LEN);
		return AOE_MASK_OK;
	case AOE_DIRECTIVE_DELETE:
		if (i < list->n)
			memmove(list->v[i], list->v[i + 1], (--list->n - i) * AOE_MAC_LEN);
		return AOE_MASK_OK;
	default:
		return AOE_MASK_BAD_DIRECTIVE;
	}
}

/* Up to the first directive that is wrong: what those before it say is done (AoEr11 3.3). */
static void mask_edit(struct aoe_place *place, const uint8_t *frame, uint8_t count)
{
	const struct aoe_directive *d = (const void *)(frame + AOE_MASK_HEAD);
	const uint32_t room = room_for(place, AOE_ANSWERED);
	struct change *c = change_create(place, frame, AOE_ANSWERED);

	if (c == NULL)
		return;
	while (c->done < count) {
		c->error = apply(&c->list, &d[c->done], min_u64(room, most_of(AOE_ANSWERED)));
		if (c->error != AOE_MASK_OK)
			break;
		c->done++;
	}
	if (c->list.n > room)
		change_end(c, -EMSGSIZE);
	else
		change_begin(c, NULL);
}

static void mask_say(struct aoe_place *place, const uint8_t *frame)
{
	struct aoe_task *t = task_create(place, frame, AOE_ANSWERED);

	if (t != NULL)
		answer_mask(t, AOE_MASK_OK, 0);
}

/* The frame holds as many as it says. */
static bool is_whole(const uint8_t *frame, uint32_t len, enum aoe_list which)
{
	const struct format *f = &formats[which];

	return len >= f->head + frame[f->head - 1] * f->each;
}

void aoe_mask_request(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	const struct aoe_head *h = (const void *)frame;
	const struct aoe_mask *m = (const void *)(h + 1);

	if (len < AOE_MASK_HEAD)
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
	else if (m->command == AOE_MASK_READ)
		mask_say(place, frame);
	else if (m->command == AOE_MASK_EDIT && aoe_is_admin(place, h->from) &&
		 is_whole(frame, len, AOE_ANSWERED))
		mask_edit(place, frame, m->count);
	else
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
}

/* ---- Reserve/release ---- */

/* Nobody has the disk, or the sender is one of those who have; to release what others have does nothing. An
 * operation asks the view again. */
static bool may_set(const struct aoe_disk *disk, const struct aoe_head *h, uint8_t count)
{
	return !aoe_is_kept_out(disk, h->from) && (count == 0 || !aoe_is_held_elsewhere(disk));
}

static void reserve_set(struct aoe_place *place, const uint8_t *frame, uint8_t count, bool forced)
{
	struct change *c = change_create(place, frame, AOE_HOLDERS);

	if (c == NULL)
		return;
	c->forced = forced;
	c->list.n = count;
	memcpy(c->list.v, frame + AOE_RESERVE_HEAD, count * (size_t)AOE_MAC_LEN);
	if (count != 0)
		c->abort.parts = unit_parts_create(place->disk->unit);
	if (count != 0 && c->abort.parts == NULL)
		change_end(c, -ENOMEM);
	else
		change_begin(c, edit_holder);
}

static void reserve_say(struct aoe_place *place, const uint8_t *frame)
{
	struct aoe_task *t = task_create(place, frame, AOE_HOLDERS);

	if (t != NULL)
		answer_list(t, AOE_HOLDERS);
}

void aoe_reserve_request(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	const struct aoe_head *h = (const void *)frame;
	const struct aoe_reserve *r = (const void *)(h + 1);
	const bool forced = len >= AOE_RESERVE_HEAD && r->command == AOE_RESERVE_FORCE;

	if (len < AOE_RESERVE_HEAD || r->command > AOE_RESERVE_FORCE)
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
	else if (r->command == AOE_RESERVE_READ)
		reserve_say(place, frame);
	else if (!is_whole(frame, len, AOE_HOLDERS) || r->count > most_of(AOE_HOLDERS) ||
		 (forced && !aoe_is_admin(place, h->from)))
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
	else if (!forced && !may_set(place->disk, h, r->count))
		aoe_refuse(place, frame, AOE_RESERVED);
	else
		reserve_set(place, frame, r->count, forced);
}
