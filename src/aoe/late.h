/*
 * Late writes: frames that a network held back until after newer ones of the same client.
 *
 * A client as Linux is counts its frames in their tags: bits 30 to 16 are a counter, 15 to 0 a clock. So
 * who is seen to do that is known to have sent a write before another one, though it came behind that.
 * Such a write is not done when the other one was for some of its sectors: it is old, or the client
 * still waits for it, and sends it again, by a newer tag (docs/decisions/0013).
 *
 * Here are no loops and no clock, so that it can be tested alone.
 */
#ifndef SPINDLE_AOE_LATE_H
#define SPINDLE_AOE_LATE_H

#include "aoe/proto.h"

struct aoe_late;

struct aoe_late_request {
	const struct aoe_head *head;
	uint64_t lba;      /* 48 bits */
	uint64_t nwritten; /* sectors; 0: it writes nothing */
	bool identifies;   /* IDENTIFY DEVICE: as a client begins */
};

/* Of a disk, on one loop. NULL: there is no memory; what is known of a client takes more, and without that
 * none of its writes is dropped. `now_ms` is of a clock that never goes back. */
struct aoe_late *aoe_late_create(void);
void aoe_late_destroy(struct aoe_late *late); /* NULL is fine */
/* To be asked about each ATA request, in the order they come. True: it is not to be done, nor answered. */
bool aoe_late_is(struct aoe_late *late, const struct aoe_late_request *r, uint64_t now_ms);
/* How many there were since it was said last; 0: none, or it was said not long ago. */
uint64_t aoe_late_to_say(struct aoe_late *late, uint64_t now_ms);

#endif
