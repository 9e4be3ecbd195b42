/*
 * Unit attentions: one bit a nexus and logical unit, in order of precedence (SAM-5 5.14). Who
 * reports and who clears them is written in the rows of the commands.
 */
#include "scsi/impl.h"

static const enum sense ua_sense[UA_COUNT] = {
	[UA_POWER_ON] = SENSE_POWER_ON,
	[UA_RESET] = SENSE_RESET,
	[UA_NEXUS_LOST] = SENSE_NEXUS_LOST,
	[UA_MEDIUM_CHANGED] = SENSE_MEDIUM_CHANGED,
	[UA_CAPACITY_CHANGED] = SENSE_CAPACITY_CHANGED,
	[UA_MODE_CHANGED] = SENSE_MODE_CHANGED,
	[UA_LOG_CHANGED] = SENSE_LOG_CHANGED,
	[UA_TIMESTAMP_CHANGED] = SENSE_TIMESTAMP_CHANGED,
	[UA_INQUIRY_CHANGED] = SENSE_INQUIRY_CHANGED,
	[UA_IDENTIFIER_CHANGED] = SENSE_IDENTIFIER_CHANGED,
	[UA_LUNS_CHANGED] = SENSE_LUNS_CHANGED,
};

/* What nexuses are told when a view was published: all but the one that asked for it, or that one. */
static const struct {
	unsigned change;
	enum ua ua;
	bool who_asked;
} ua_of_change[] = {
	{UNIT_CHANGED_SIZE, UA_CAPACITY_CHANGED},
	{UNIT_CHANGED_MEDIUM, UA_MEDIUM_CHANGED},
	{UNIT_CHANGED_PROTECTION, UA_MODE_CHANGED}, /* WP in the mode parameter header */
	{LU_CHANGED_MODE, UA_MODE_CHANGED},
	{LU_CHANGED_LOG, UA_LOG_CHANGED},
	{LU_CHANGED_TIMESTAMP, UA_TIMESTAMP_CHANGED},
	{LU_CHANGED_INQUIRY, UA_INQUIRY_CHANGED},
	{LU_CHANGED_IDENTIFIER, UA_IDENTIFIER_CHANGED},
	{LU_CHANGED_RESET, UA_RESET},
	{LU_CHANGED_NEXUS, UA_NEXUS_LOST, .who_asked = true},
};

void ua_add(struct scsi_itl *itl, enum ua ua)
{
	itl->ua |= 1u << ua;
}

void ua_luns_told(struct nexus *n)
{
	list_for_each (pos, &n->itls)
		list_entry(pos, struct scsi_itl, link)->ua &= ~(1u << UA_LUNS_CHANGED);
}

unsigned ua_look(const struct scsi_itl *itl, enum sense *sense)
{
	if (itl->ua != 0)
		*sense = ua_sense[__builtin_ctz(itl->ua)];
	return (unsigned)__builtin_popcount(itl->ua);
}

bool ua_take(struct scsi_itl *itl, enum sense *sense)
{
	unsigned ua;

	if (itl->ua == 0)
		return false;
	ua = (unsigned)__builtin_ctz(itl->ua);
	if (ua == UA_LUNS_CHANGED)
		ua_luns_told(itl->nexus);
	itl->ua &= ~(1u << ua);
	*sense = ua_sense[ua];
	return true;
}

void ua_changed(struct unit_attach *a, unsigned changes, uint64_t origin)
{
	struct scsi_itl *itl = container_of(a, struct scsi_itl, attach);
	const bool who_asked = origin == a->nexus_id;

	for (size_t i = 0; i < ARRAY_LEN(ua_of_change); i++) {
		if (changes & ua_of_change[i].change && ua_of_change[i].who_asked == who_asked)
			ua_add(itl, ua_of_change[i].ua);
	}
}
