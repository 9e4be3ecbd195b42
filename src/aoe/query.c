/*
 * Config/query (AoEr11 3.2): what there is, how much of it at a time, and a string that belongs to the
 * disk, for clients to agree on who uses it.
 *
 * Setting the string is a PUBLISH of the unit, which keeps it with the disk and changes nothing else:
 * so it takes turns with whatever else is kept there.
 */
#include "aoe/impl.h"

#include <stdlib.h>
#include <string.h>

#define FIRMWARE 1

static struct aoe_query *query_of(struct aoe_task *t)
{
	return (struct aoe_query *)(void *)(aoe_task_head(t) + 1);
}

/* With what is true now, and the string as it is. */
static void answer(struct aoe_task *t, uint8_t command)
{
	const struct aoe_string *string = &t->place->disk->string;
	struct aoe_query *q = query_of(t);

	*q = (struct aoe_query){
		.buffers = be16_of(t->place->export.buffers),
		.firmware = be16_of(FIRMWARE),
		.sectors = low_u8(t->place->port->sectors),
		.command = low_u8(AOE_VERSION << 4 | command),
		.len = be16_of(string->len),
	};
	memcpy(q + 1, string->bytes, string->len);
	aoe_task_answer(t, (uint32_t)AOE_QUERY_HEAD + string->len);
}

static struct aoe_task *task_create(struct aoe_place *place, const void *head)
{
	return aoe_task_create(place, head, AOE_QUERY_HEAD, AOE_QUERY_HEAD + AOE_STRING_MAX, 0);
}

static void announce_to(struct aoe_place *place, const uint8_t mac[AOE_MAC_LEN])
{
	struct {
		struct aoe_head head;
		struct aoe_query query;
	} said = {.head = {.ethertype = be16_of(AOE_ETHERTYPE),
			   .flags = AOE_VERSION << 4 | AOE_RESPONSE,
			   .command = AOE_QUERY}};
	struct aoe_task *t;

	memcpy(said.head.to, mac, sizeof(said.head.to));
	t = task_create(place, &said);
	if (t != NULL)
		answer(t, AOE_QUERY_READ);
}

/* To those who are answered, and nobody else. */
void aoe_announce(struct aoe_place *place)
{
	static const uint8_t everybody[AOE_MAC_LEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	const struct aoe_macs *allowed = &place->export.allowed;
	const struct aoe_macs *answered = &place->disk->lists[AOE_ANSWERED];
	const struct aoe_macs *to = answered->n != 0 ? answered : allowed;

	if (!place->served || !place->disk->attached)
		return;
	if (to->n == 0 || to->all)
		announce_to(place, everybody);
	for (size_t i = 0; i < to->n && !to->all; i++)
		if (aoe_lets_pass(allowed, to->v[i]))
			announce_to(place, to->v[i]);
}

/* ---- The string ---- */

int aoe_string_load(struct aoe_disk *disk)
{
	struct aoe_string *string = &disk->string;
	const ssize_t n =
		aoe_kept_get(disk->unit, AOE_STRING_TAG, string->bytes, sizeof(string->bytes));

	if (n < 0)
		return (int)n;
	string->len = low_u16((uint64_t)n);
	return 0;
}

struct string_change {
	struct unit_op op;
	struct aoe_task *task;
	struct aoe_string string;
	uint8_t command;
};

static int keep(struct unit_op *op, const struct unit_view *next)
{
	const struct string_change *c = container_of(op, struct string_change, op);

	return aoe_kept_set(op->unit, AOE_STRING_TAG, c->string.bytes, c->string.len);
}

static void done(struct unit_op *op, int err)
{
	struct string_change *c = container_of(op, struct string_change, op);
	struct aoe_disk *disk = c->task->place->disk;

	disk->changes_string = false;
	if (err == 0) {
		disk->string = c->string;
		answer(c->task, c->command);
	} else {
		aoe_task_refuse(c->task, AOE_UNAVAILABLE);
	}
	free(c);
}

/* One at a time; what comes meanwhile is asked again. */
static void change_string(struct aoe_place *place, const uint8_t *frame, uint8_t command,
			  const struct aoe_string *string)
{
	struct aoe_disk *disk = place->disk;
	struct string_change *c = disk->changes_string ? NULL : malloc(sizeof(*c));

	if (c == NULL)
		return;
	*c = (struct string_change){
		.op = {.unit = disk->unit, .loop = disk->aoe->loop, .keep = keep, .done = done},
		.task = task_create(place, frame),
		.string = *string,
		.command = command};
	if (c->task == NULL) {
		free(c);
		return;
	}
	disk->changes_string = true;
	unit_publish(&c->op);
}

/* ---- Requests ---- */

static bool is_equal(const struct aoe_string *a, const struct aoe_string *b)
{
	return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static bool begins_with(const struct aoe_string *a, const struct aoe_string *prefix)
{
	return a->len >= prefix->len && memcmp(a->bytes, prefix->bytes, prefix->len) == 0;
}

static void say(struct aoe_place *place, const uint8_t *frame, uint8_t command)
{
	struct aoe_task *t = task_create(place, frame);

	if (t != NULL)
		answer(t, command);
}

static void set(struct aoe_place *place, const uint8_t *frame, uint8_t command,
		const struct aoe_string *string)
{
	const struct aoe_head *h = (const void *)frame;
	const struct aoe_string *ours = &place->disk->string;

	if (!aoe_is_admin(place, h->from))
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
	else if (is_equal(ours, string))
		say(place, frame, command);
	else if (command == AOE_QUERY_SET && ours->len != 0)
		aoe_refuse(place, frame, AOE_STRING_PRESENT);
	else
		change_string(place, frame, command, string);
}

/* Of a read it is ignored: aoeping sends one that is not there. */
static bool get_string(struct aoe_string *out, const uint8_t *frame, uint32_t len, uint8_t command)
{
	const struct aoe_query *q = (const void *)(frame + sizeof(struct aoe_head));

	out->len = command != AOE_QUERY_READ ? be16_get(q->len) : 0;
	if (out->len > AOE_STRING_MAX || AOE_QUERY_HEAD + out->len > len)
		return false;
	memcpy(out->bytes, q + 1, out->len);
	return true;
}

void aoe_query_request(struct aoe_place *place, const uint8_t *frame, uint32_t len)
{
	const struct aoe_query *q = (const void *)(frame + sizeof(struct aoe_head));
	const struct aoe_string *ours = &place->disk->string;
	struct aoe_string string;
	uint8_t command;

	if (len < AOE_QUERY_HEAD) {
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
		return;
	}
	command = q->command & 0xf; /* Linux leaves the version out */
	if (command >= AOE_QUERY_COMMANDS || !get_string(&string, frame, len, command))
		aoe_refuse(place, frame, AOE_BAD_ARGUMENT);
	else if (command == AOE_QUERY_SET || command == AOE_QUERY_FORCE)
		set(place, frame, command, &string);
	else if (command == AOE_QUERY_READ ||
		 (command == AOE_QUERY_TEST && is_equal(ours, &string)) ||
		 (command == AOE_QUERY_PREFIX && begins_with(ours, &string)))
		say(place, frame, command);
}
