/*
 * SendTargets (RFC 7143 appendix C): which targets there are, and where. Apart from text.c because
 * the answer depends on targets and portals and not on the exchange.
 */
#include "iscsi/impl.h"

/* A portal on all addresses is shown as the one the initiator has reached; false when it cannot
 * be that. */
static bool shown_addr(const struct iscsi_portal *portal, const union net_addr *local,
		       union net_addr *out)
{
	*out = portal->addr;
	if (!net_addr_is_any(&portal->addr))
		return true;
	if (local->sa.sa_family == AF_UNSPEC ||
	    (portal->addr.sa.sa_family == AF_INET && local->sa.sa_family != AF_INET))
		return false;
	*out = *local;
	if (out->sa.sa_family == AF_INET)
		out->in4.sin_port = htons(net_addr_port(&portal->addr));
	else
		out->in6.sin6_port = htons(net_addr_port(&portal->addr));
	return true;
}

static void put_address(const union net_addr *addr, struct writer *w)
{
	char text[NET_ADDR_TEXT], value[NET_ADDR_TEXT + 8];

	str_format(value, sizeof(value), "%s,%d", net_addr_text(addr, text), PORTAL_GROUP);
	keys_put(w, "TargetAddress", value);
}

/* Two portals on all addresses with one port show the same one. */
static bool shown_before(const struct iscsi *i, size_t n, const union net_addr *local,
			 const union net_addr *addr)
{
	char a[NET_ADDR_TEXT], b[NET_ADDR_TEXT];
	union net_addr other;

	for (size_t k = 0; k < n; k++)
		if (shown_addr(i->portals[k], local, &other) &&
		    strcmp(net_addr_text(&other, a), net_addr_text(addr, b)) == 0)
			return true;
	return false;
}

static void put_target(struct iscsi_conn *c, const struct iscsi_target *target, struct writer *w)
{
	const struct iscsi *i = c->server;
	union net_addr local = {0}, addr;

	(void)stream_local_addr(&c->stream, &local); /* without it: specific portals only */
	keys_put(w, "TargetName", target->name);
	for (size_t n = 0; n < i->nportals; n++)
		if (shown_addr(i->portals[n], &local, &addr) && !shown_before(i, n, &local, &addr))
			put_address(&addr, w);
}

void discovery_answer(struct iscsi_conn *c, const char *which, struct writer *w)
{
	const struct iscsi_session *s = c->session;
	const struct iscsi *i = c->server;
	bool all = strcmp(which, "All") == 0;

	/* All is for discovery sessions; nothing, meaning the session's own target, for others. */
	if ((all && s->target != NULL) || (which[0] == '\0' && s->target == NULL)) {
		keys_put(w, "SendTargets", "Reject");
		return;
	}
	for (size_t n = 0; n < i->ntargets; n++) {
		const struct iscsi_target *target = i->targets[n];

		if (s->target != NULL && s->target != target)
			continue;
		if (all || which[0] == '\0' || strcmp(which, target->name) == 0)
			put_target(c, target, w);
	}
}
