/*
 * The server: targets, portals, the acceptor, start and stop. Apart from everything else because it
 * is what the daemon sees; all of it is on loop 0 once the loops run.
 */
#include "iscsi/impl.h"

#include <ctype.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- Names (RFC 7143 4.2.7) ---- */

/* What is left after stringprep: lower-case letters, digits, and '-', '.', ':'. */
static bool plain_chars(const char *s)
{
	return s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-.:")] == '\0';
}

static bool hex_digits(const char *s, size_t count)
{
	return strlen(s) == count && strspn(s, "0123456789abcdefABCDEF") == count;
}

/* iqn.yyyy-mm.reversed.domain[:anything] */
static bool iqn_ok(const char *s)
{
	static const char shape[] = "iqn.dddd-dd.";

	for (size_t n = 0; shape[n] != '\0'; n++)
		if (shape[n] == 'd' ? !isdigit((unsigned char)s[n]) : s[n] != shape[n])
			return false;
	s += strlen(shape);
	return isalnum((unsigned char)*s) && plain_chars(s);
}

int iscsi_name_check(const char *name, struct diag *d)
{
	bool ok = false;

	if (strlen(name) > SCSI_NAME_MAX)
		return diag_set(d, -EINVAL, "iSCSI name is longer than %d bytes", SCSI_NAME_MAX);
	if (str_starts(name, "iqn."))
		ok = iqn_ok(name);
	else if (str_starts(name, "eui."))
		ok = hex_digits(name + 4, 16);
	else if (str_starts(name, "naa."))
		ok = hex_digits(name + 4, 16) || hex_digits(name + 4, 32);
	if (ok)
		return 0;
	diag_fix(d, "use a name like iqn.2026-11.lan.nas:disk1, in lower case");
	return diag_set(d, -EINVAL, "\"%s\" is not an iSCSI name", name);
}

/* ---- Targets ---- */

static int grow(void *array, size_t n)
{
	void **at = array, *bigger = realloc(*at, (n + 1) * sizeof(void *));

	if (bigger == NULL)
		return -ENOMEM;
	*at = bigger;
	return 0;
}

static void target_destroy(struct iscsi_target *t)
{
	if (t == NULL)
		return;
	free(t->alias);
	free(t);
}

int iscsi_add_target(struct iscsi *i, struct scsi_target *target, const char *alias, struct diag *d)
{
	const char *name = scsi_target_name(target);
	struct iscsi_target *t;
	int err = iscsi_name_check(name, d);

	if (err != 0)
		return err;
	if (iscsi_target_find(i, name) != NULL)
		return diag_set(d, -EEXIST, "there are two targets named %s", name);
	t = calloc(1, sizeof(*t));
	if (t == NULL || grow(&i->targets, i->ntargets) != 0)
		goto no_memory;
	t->scsi = target;
	t->name = name;
	if (alias != NULL) {
		t->alias = strdup(alias);
		if (t->alias == NULL)
			goto no_memory;
	}
	i->targets[i->ntargets++] = t;
	return 0;
no_memory:
	target_destroy(t);
	return diag_set(d, -ENOMEM, "out of memory");
}

struct iscsi_target *iscsi_target_find(const struct iscsi *i, const char *name)
{
	for (size_t n = 0; n < i->ntargets; n++)
		if (strcmp(i->targets[n]->name, name) == 0)
			return i->targets[n];
	return NULL;
}

/* ---- Portals ---- */

static bool has_room(const struct iscsi *i)
{
	return !i->stopping && i->nconns < i->max_connections &&
	       i->nlogins < (i->max_connections + 1) / 2;
}

/* Once a second at most: floods must not fill the log as well. */
static void log_full(struct iscsi *i, const union net_addr *peer)
{
	uint64_t now = loop_now_ns(loop_set_at(i->set, 0));
	char addr[NET_ADDR_TEXT];

	if (i->stopping ||
	    (i->full_logged_ns != 0 && now - i->full_logged_ns < UINT64_C(1000000000)))
		return;
	i->full_logged_ns = now;
	log_event(i->log, LOG_WARN, "connection-refused", F_STR("why", "too many connections"),
		  F_STR("address", net_addr_text(peer, addr)), F_U64("connections", i->nconns),
		  F_U64("logins", i->nlogins));
}

static void accepted(void *arg, int fd, const union net_addr *peer)
{
	struct iscsi_portal *portal = arg;
	struct iscsi *i = portal->server;

	if (!has_room(i)) {
		log_full(i, peer);
		close(fd);
	} else if (conn_create(i, fd, peer) != 0) {
		close(fd);
	}
}

int iscsi_listen(struct iscsi *i, const union net_addr *addr, struct diag *d)
{
	struct iscsi_portal *portal = calloc(1, sizeof(*portal));
	int err;

	if (portal == NULL || grow(&i->portals, i->nportals) != 0) {
		free(portal);
		return diag_set(d, -ENOMEM, "out of memory");
	}
	portal->server = i;
	err = listener_open(&portal->listener, loop_set_at(i->set, 0), addr, accepted, portal, d);
	if (err != 0) {
		free(portal);
		return err;
	}
	portal->addr = *listener_addr(portal->listener);
	i->portals[i->nportals++] = portal;
	return 0;
}

unsigned iscsi_portal_count(const struct iscsi *i)
{
	return (unsigned)i->nportals;
}

const union net_addr *iscsi_portal_addr(const struct iscsi *i, unsigned index)
{
	return &i->portals[index]->addr;
}

/* ---- Life ---- */

static int create_loops(struct iscsi *i)
{
	i->nloops = loop_set_count(i->set);
	i->loops = aligned_alloc(_Alignof(struct iscsi_loop), i->nloops * sizeof(*i->loops));
	if (i->loops == NULL)
		return -ENOMEM;
	memset(i->loops, 0, i->nloops * sizeof(*i->loops));
	for (unsigned n = 0; n < i->nloops; n++) {
		struct iscsi_loop *l = &i->loops[n];

		l->server = i;
		l->loop = loop_set_at(i->set, n);
		queue_init(&l->free_pdus);
		queue_init(&l->free_tasks);
		l->rx_buf = malloc(RX_BUF_LEN);
		if (l->rx_buf == NULL)
			return -ENOMEM;
	}
	return 0;
}

int iscsi_create(struct iscsi **out, const struct iscsi_config *config)
{
	struct iscsi *i = calloc(1, sizeof(*i));

	if (i == NULL)
		return -ENOMEM;
	i->set = config->set;
	i->log = config->log;
	i->unsolicited = config->unsolicited;
	i->max_connections =
		config->max_connections != 0 ? config->max_connections : MAX_CONNECTIONS;
	list_init(&i->fresh);
	if (create_loops(i) != 0 || directory_init(&i->directory, i->nloops) != 0) {
		iscsi_destroy(i);
		return -ENOMEM;
	}
	*out = i;
	return 0;
}

static void destroy_loops(struct iscsi *i)
{
	struct qnode *n;

	if (i->loops == NULL)
		return;
	for (unsigned k = 0; k < i->nloops; k++) {
		struct iscsi_loop *l = &i->loops[k];

		free(l->rx_buf);
		if (l->loop == NULL)
			continue;
		while ((n = queue_pop(&l->free_pdus)) != NULL)
			free(container_of(n, struct pdu_out, link));
		while ((n = queue_pop(&l->free_tasks)) != NULL)
			free(container_of(n, struct iscsi_task, link));
	}
	free(i->loops);
}

static void close_portals(struct iscsi *i)
{
	for (size_t n = 0; n < i->nportals; n++) {
		listener_close(i->portals[n]->listener);
		i->portals[n]->listener = NULL;
	}
}

void iscsi_destroy(struct iscsi *i)
{
	if (i == NULL)
		return;
	CHECK(i->nconns == 0);
	close_portals(i);
	for (size_t n = 0; n < i->nportals; n++)
		free(i->portals[n]);
	free(i->portals);
	for (size_t n = 0; n < i->ntargets; n++)
		target_destroy(i->targets[n]);
	free(i->targets);
	chap_fini(&i->auth);
	directory_fini(&i->directory);
	destroy_loops(i);
	free(i);
}

static void run_stopped(struct loop_msg *msg)
{
	struct iscsi *i = container_of(msg, struct iscsi, stop_msg);

	i->stopped(i->stopped_arg);
}

void iscsi_check_stopped(struct iscsi *i)
{
	if (!i->stopping || i->stop_told || i->nconns != 0)
		return;
	i->stop_told = true;
	i->stop_msg.run = run_stopped;
	loop_defer(loop_set_at(i->set, 0), &i->stop_msg);
}

void iscsi_stop(struct iscsi *i, unsigned grace_ms, void (*stopped)(void *arg), void *arg)
{
	i->stopping = true;
	i->grace_ms = grace_ms;
	i->stopped = stopped;
	i->stopped_arg = arg;
	close_portals(i);
	list_for_each_safe (pos, &i->fresh)
		conn_lose(list_entry(pos, struct iscsi_conn, link), "shutdown");
	directory_kick_all(i, KICK_DRAIN);
	iscsi_check_stopped(i);
}
