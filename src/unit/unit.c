/*
 * The unit itself, and who is attached to it.
 */
#include "unit/impl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

/* What every I/O reads of it begins a cache line. */
struct unit_view *unit_view_create(void)
{
	return aligned_alloc(64, align_up(sizeof(struct unit_view), 64));
}

static struct unit_view *first_view(const struct bdev_info *info)
{
	struct unit_view *v = unit_view_create();

	if (v != NULL)
		*v = (struct unit_view){
			.generation = 1,
			.size = info->nblocks << info->block_shift,
			.flags = info->read_only ? UNIT_WRITE_PROTECTED : 0,
		};
	return v;
}

int unit_create(struct unit **out, struct loop_set *set, struct bdev *bdev,
		const struct unit_identity *identity, unsigned steward_index)
{
	unsigned nloops = loop_set_count(set);
	struct unit *u = aligned_alloc(64, sizeof(*u) + nloops * sizeof(struct channel));

	if (u == NULL)
		goto fail;
	*u = (struct unit){
		.set = set,
		.steward = loop_set_at(set, steward_index % nloops),
		.bdev = bdev,
		.identity = *identity,
		.nloops = nloops,
		.view = first_view(bdev_info(bdev)),
	};
	if (u->view == NULL || work_lane_create(&u->lane, set, 1) != 0 || live_init(u) != 0)
		goto fail;
	list_init(&u->waiting);
	arm_init(u);
	for (unsigned i = 0; i < nloops; i++)
		channel_init(&u->channels[i], u, loop_set_at(set, i));
	*out = u;
	return 0;
fail:
	if (u != NULL) {
		work_lane_destroy(u->lane);
		free(u->view);
	}
	free(u);
	bdev_destroy(bdev);
	return -ENOMEM;
}

void unit_destroy(struct unit *u)
{
	if (u == NULL)
		return;
	for (unsigned i = 0; i < u->nloops; i++) {
		CHECK(list_empty(&u->channels[i].attached));
		CHECK(list_empty(&u->channels[i].tasks));
	}
	arm_fini(u);
	CHECK(u->current == NULL && list_empty(&u->waiting));
	live_fini(u);
	work_lane_destroy(u->lane);
	bdev_destroy(u->bdev);
	free(u->keep.dir);
	free(u->view);
	free(u);
}

struct bdev *unit_bdev(const struct unit *u)
{
	return u->bdev;
}

unsigned unit_nloops(const struct unit *u)
{
	return u->nloops;
}

struct loop *unit_steward(const struct unit *u)
{
	return u->steward;
}

struct unit_view *unit_first_view(struct unit *u)
{
	return u->view;
}

const struct unit_identity *unit_identity(const struct unit *u)
{
	return &u->identity;
}

/* ---- Attachments ---- */

static void attach_done(struct loop_msg *msg)
{
	struct unit_attach *a = container_of(msg, struct unit_attach, msg);

	list_push_back(&a->channel->attached, &a->link);
	a->attached(a, 0);
}

static void attach_later(struct unit_attach *a)
{
	a->msg.run = attach_done;
	loop_defer(a->loop, &a->msg);
}

void unit_attach(struct unit *u, struct unit_attach *a)
{
	struct channel *c = &u->channels[loop_index(a->loop)];

	a->unit = u;
	a->channel = c;
	list_init(&a->link);
	if (c->join == CHANNEL_JOINED) {
		attach_later(a);
		return;
	}
	list_push_back(&c->joining, &a->link);
	if (c->join == CHANNEL_ABSENT) {
		c->join = CHANNEL_JOINING;
		channel_join(c);
	}
}

void unit_detach(struct unit_attach *a)
{
	list_remove(&a->link);
}

/* A counter would have to be shared by all loops and transports; 64 random bits do not. */
int unit_make_nexus_id(uint64_t *id)
{
	do {
		if (getrandom(id, sizeof(*id), 0) != (ssize_t)sizeof(*id))
			return -EIO;
	} while (*id == 0);
	return 0;
}

void unit_visit_attached(const struct channel *c, void (*visit)(struct unit_attach *a, void *arg),
			 void *arg)
{
	list_for_each (pos, &c->attached)
		visit(list_entry(pos, struct unit_attach, link), arg);
}

void channel_joined(struct channel *c)
{
	struct list *pos;

	c->join = CHANNEL_JOINED;
	while ((pos = list_pop_front(&c->joining)) != NULL)
		attach_later(list_entry(pos, struct unit_attach, link));
}

/* Those who are told may detach whom they like. */
void channel_tell(struct channel *c, unsigned changes, uint64_t origin)
{
	struct list todo, *pos;

	list_init(&todo);
	list_splice_back(&todo, &c->attached);
	while ((pos = list_pop_front(&todo)) != NULL) {
		struct unit_attach *a = list_entry(pos, struct unit_attach, link);

		list_push_back(&c->attached, pos);
		a->changed(a, changes, origin);
	}
}
