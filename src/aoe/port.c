/*
 * A port: the frames of one interface come in, and answers go out, many in a system call.
 *
 *   packet_recv -> whose is it? -> ata.c, query.c, access.c -> [I/O] -> out -> end of the turn: packet_send
 *
 * A frame that nobody has memory for is dropped: the client asks again.
 */
#include "aoe/impl.h"

#include <stdlib.h>

#define RX_TURN  128 /* frames; other sockets of the loop come in between */
#define STUCK_NS UINT64_C(1000000000)
/* Of answers to those who ask many disks at a time; and how much of it may be used up at once. */
#define MANY_COST_NS  UINT64_C(200000)
#define MANY_BURST_NS UINT64_C(1000000000)

/* ---- Tasks ---- */

struct aoe_task *aoe_task_create(struct aoe_place *place, const void *request, uint32_t head_len,
				 uint32_t room, uint32_t frame_at)
{
	struct aoe_disk *disk = place->disk;
	const unsigned most = AOE_TASKS_MAX + AOE_TASKS_ASIDE;
	struct aoe_task *t = disk->ntasks < most ? malloc(sizeof(*t)) : NULL;

	if (t == NULL) {
		place->port->counts.no_room++;
		return NULL;
	}
	*t = (struct aoe_task){.place = place, .frame_at = frame_at};
	t->buf = loop_share_get(disk->share, frame_at + (uint32_t)max_u64(room, AOE_FRAME_MIN));
	if (t->buf == NULL) {
		place->port->counts.no_room++;
		free(t);
		return NULL;
	}
	list_init(&t->link);
	memcpy(aoe_task_head(t), request, head_len);
	aoe_task_head(t)->error = AOE_OK;
	loop_charge(disk->aoe->loop, LOOP_EARLY, sizeof(*t));
	disk->ntasks++;
	disk->aoe->ntasks++;
	return t;
}

struct aoe_head *aoe_task_head(struct aoe_task *t)
{
	return (struct aoe_head *)(void *)(t->buf->data + t->frame_at);
}

void aoe_task_drop(struct aoe_task *t)
{
	struct aoe_disk *disk = t->place->disk;

	list_remove(&t->link);
	loop_buf_put(t->buf);
	free(t);
	loop_uncharge(disk->aoe->loop, LOOP_EARLY, sizeof(*t));
	disk->ntasks--;
	disk->aoe->ntasks--;
	aoe_settle(disk->aoe);
}

static void queue_flush(struct aoe_port *port)
{
	if (port->flush_queued || (port->blocked && !port->stuck))
		return;
	port->flush_queued = true;
	loop_at_end(port->aoe->loop, &port->flush);
}

void aoe_task_answer(struct aoe_task *t, uint32_t frame_len)
{
	struct aoe_port *port = t->place->port;
	struct aoe_head *h = aoe_task_head(t);
	const bool asked = (h->flags & AOE_RESPONSE) == 0;

	if (asked)
		memcpy(h->to, h->from, sizeof(h->to));
	memcpy(h->from, port->packet.mac, sizeof(h->from));
	h->flags = AOE_VERSION << 4 | AOE_RESPONSE | (h->error != AOE_OK ? AOE_ERROR : 0);
	h->shelf = be16_of(t->place->export.shelf);
	h->slot = t->place->export.slot;
	if (frame_len < AOE_FRAME_MIN)
		memset(t->buf->data + t->frame_at + frame_len, 0, AOE_FRAME_MIN - frame_len);
	t->frame_len = (uint32_t)max_u64(frame_len, AOE_FRAME_MIN);
	list_remove(&t->link);
	list_push_back(&port->out, &t->link);
	queue_flush(port);
}

void aoe_task_refuse(struct aoe_task *t, enum aoe_error error)
{
	aoe_task_head(t)->error = low_u8(error);
	aoe_task_answer(t, sizeof(struct aoe_head));
}

void aoe_refuse(struct aoe_place *place, const void *request, enum aoe_error error)
{
	struct aoe_task *t = aoe_task_create(place, request, sizeof(struct aoe_head), 0, 0);

	if (t != NULL)
		aoe_task_refuse(t, error);
}

/* ---- Out ---- */

/* The same answer once more, by another tag that the client asked with. */
static void sent(struct aoe_task *t)
{
	if (t->tags.n == 0) {
		aoe_task_drop(t);
		return;
	}
	memcpy(aoe_task_head(t)->tag, t->tags.v[--t->tags.n], sizeof(t->tags.v[0]));
	list_remove(&t->link);
	list_push_back(&t->place->port->out, &t->link);
}

/* What comes before all disks are there waits in the socket. */
void aoe_port_update(struct aoe_port *port)
{
	const struct aoe *aoe = port->aoe;
	const bool reads = aoe->started && !aoe->stopping && aoe->nattaching == 0;

	if (packet_want(&port->packet,
			(reads ? STREAM_IN : 0) | (port->blocked ? STREAM_OUT : 0)) != 0)
		port->blocked = false;
}

static void unsent(struct aoe_task *t)
{
	t->place->port->counts.unsent++;
	aoe_task_drop(t);
}

static void drop_all(struct aoe_port *port)
{
	while (!list_empty(&port->out))
		unsent(list_entry(port->out.next, struct aoe_task, link));
}

/* While its link was gone the place may have become somebody else's: then nothing is said in its name, be
 * the I/O done. */
static unsigned gather(struct aoe_port *port, struct packet_frame frames[PACKET_BATCH])
{
	unsigned n = 0;

	list_for_each_safe (pos, &port->out) {
		struct aoe_task *t = list_entry(pos, struct aoe_task, link);

		if (n == PACKET_BATCH)
			break;
		if (!t->place->served) {
			unsent(t);
			continue;
		}
		frames[n++] = (struct packet_frame){.data = t->buf->data + t->frame_at,
						    .len = t->frame_len};
	}
	return n;
}

static void unblock(struct aoe_port *port)
{
	port->blocked = port->stuck = false;
	loop_timer_stop(&port->stuck_timer);
}

static void wait_for_room(struct aoe_port *port)
{
	if (port->stuck)
		drop_all(port);
	else if (!loop_timer_running(&port->stuck_timer))
		(void)loop_timer_start(&port->stuck_timer, STUCK_NS);
}

/* Answers that cannot leave would keep the requests of other paths out. */
static void stuck(struct loop_timer *timer)
{
	struct aoe_port *port = container_of(timer, struct aoe_port, stuck_timer);

	port->stuck = port->blocked;
	drop_all(port);
}

static void receive(struct aoe_port *port);

/* One that cannot be sent is lost, as on any wire; so is what there is no room for at the end. */
static void flush(struct loop_msg *msg)
{
	struct aoe_port *port = container_of(msg, struct aoe_port, flush);
	struct packet_frame frames[PACKET_BATCH];
	unsigned n;

	while ((n = gather(port, frames)) != 0) {
		int done = packet_send(&port->packet, frames, n);

		port->blocked = done == -EAGAIN && !port->aoe->stopping;
		if (port->blocked)
			break;
		if (done < 0)
			port->counts.unsent++;
		else
			port->counts.sent += (unsigned)done;
		for (int i = 0; i < (done < 0 ? 1 : done); i++)
			sent(list_entry(port->out.next, struct aoe_task, link));
	}
	if (port->blocked)
		wait_for_room(port);
	else
		unblock(port);
	port->flush_queued = false;
	aoe_port_update(port);
	/* Who was answered may have asked for more meanwhile. */
	if (port->turn != 0 && packet_is_open(&port->packet) &&
	    (port->packet.wanted & STREAM_IN) != 0)
		receive(port);
	aoe_settle(port->aoe);
}

/* ---- In ---- */

bool aoe_is_among(const struct aoe_macs *macs, const uint8_t mac[AOE_MAC_LEN])
{
	if (macs->all)
		return true;
	for (size_t i = 0; i < macs->n; i++)
		if (memcmp(macs->v[i], mac, AOE_MAC_LEN) == 0)
			return true;
	return false;
}

/* A query goes to whom it may concern; what changes or moves data says whose. */
static void place_frame(struct aoe_place *place, const uint8_t *frame, uint32_t len, bool to_many)
{
	const struct aoe_head *h = (const void *)frame;

	if (!place->served || !place->disk->attached || !aoe_is_answered(place, h))
		return;
	if (to_many && h->command != AOE_QUERY)
		return;
	if (h->flags >> 4 != AOE_VERSION)
		aoe_refuse(place, h, AOE_BAD_VERSION);
	else if (h->command == AOE_ATA)
		aoe_ata_request(place, frame, len);
	else if (h->command == AOE_QUERY)
		aoe_query_request(place, frame, len);
	else if (h->command == AOE_MASK)
		aoe_mask_request(place, frame, len);
	else if (h->command == AOE_RESERVE)
		aoe_reserve_request(place, frame, len);
	else
		aoe_refuse(place, h, AOE_BAD_COMMAND);
}

static bool is_for(const struct aoe_head *h, const struct aoe_export *e)
{
	const uint16_t shelf = be16_get(h->shelf);

	return (shelf == AOE_SHELF_ALL || shelf == e->shelf) &&
	       (h->slot == AOE_SLOT_ALL || h->slot == e->slot);
}

/* One small frame may be for a thousand disks. */
static bool is_too_much(struct aoe_port *port)
{
	const uint64_t now_ns = loop_now_ns(port->aoe->loop);

	port->many_due_ns = max_u64(port->many_due_ns, now_ns);
	if (port->many_due_ns - now_ns < MANY_BURST_NS)
		return false;
	port->counts.no_room++;
	return true;
}

static void frame_for_many(struct aoe_port *port, const uint8_t *frame, uint32_t len)
{
	unsigned n = 0;

	if (is_too_much(port))
		return;
	list_for_each (pos, &port->places) {
		struct aoe_place *place = list_entry(pos, struct aoe_place, link);

		if (!is_for((const void *)frame, &place->export))
			continue;
		n++;
		place_frame(place, frame, len, true);
	}
	/* To find out that it is for none takes time, too. */
	port->many_due_ns += max_u64(n, 1) * MANY_COST_NS;
}

static void frame_for_one(struct aoe_port *port, const uint8_t *frame, uint32_t len)
{
	const struct aoe_head *h = (const void *)frame;
	struct aoe_place *place = port->of_slot[h->slot];

	while (place != NULL && !is_for(h, &place->export))
		place = place->next;
	if (place != NULL)
		place_frame(place, frame, len, false);
}

static void port_frame(struct packet *packet, const uint8_t *frame, uint32_t len)
{
	struct aoe_port *port = container_of(packet, struct aoe_port, packet);
	const struct aoe_head *h = (const void *)frame;

	port->counts.received++;
	if (len < sizeof(*h) || (h->flags & AOE_RESPONSE) != 0)
		return;
	if (be16_get(h->shelf) == AOE_SHELF_ALL || h->slot == AOE_SLOT_ALL)
		frame_for_many(port, frame, len);
	else
		frame_for_one(port, frame, len);
}

/* As many as this turn has left. */
static void receive(struct aoe_port *port)
{
	port->turn -= packet_recv(&port->packet, port->turn);
	aoe_run_begin_all(port->aoe);
}

static void ready(struct packet *packet, unsigned events)
{
	struct aoe_port *port = container_of(packet, struct aoe_port, packet);

	if ((events & STREAM_OUT) != 0 && port->blocked) {
		unblock(port);
		queue_flush(port);
	}
	if ((events & STREAM_IN) != 0) {
		port->turn = RX_TURN;
		receive(port);
	}
}

void aoe_port_log_counts(struct aoe_port *port, enum log_level level)
{
	const struct aoe_counts *c = &port->counts;

	log_event(port->aoe->log, level, "aoe-counts", F_STR("interface", port->packet.interface),
		  F_U64("received", c->received), F_U64("sent", c->sent), F_U64("again", c->again),
		  F_U64("late", c->late), F_U64("no_room", c->no_room), F_U64("unsent", c->unsent),
		  F_U64("lost", packet_lost(&port->packet)));
}

/* At the end: what waits for room goes now, or is lost. */
void aoe_port_flush(struct aoe_port *port)
{
	unblock(port);
	queue_flush(port);
}

void aoe_port_drop(struct aoe_port *port)
{
	unblock(port);
	drop_all(port);
}

void aoe_port_init(struct aoe_port *port)
{
	list_init(&port->places);
	list_init(&port->out);
	port->packet.ready = ready;
	port->packet.frame = port_frame;
	port->flush.run = flush;
	loop_timer_init(&port->stuck_timer, port->aoe->loop, stuck);
}
