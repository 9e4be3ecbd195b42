/*
 * iscsi: iSCSI (RFC 7143) as a transport: connections, sessions, logins, discovery, frames <->
 * tasks.
 * May use: base, loop, scsi. May be used by: daemon.
 *
 * Connections are accepted on loop 0, which also owns the session directory. The first login
 * request decides the session's loop; the socket moves there with its buffered bytes, and stays.
 */
#ifndef SPINDLE_ISCSI_H
#define SPINDLE_ISCSI_H

#include "scsi/scsi.h"

#define ISCSI_PORT 3260

struct iscsi;

struct iscsi_config {
	struct loop_set *set;
	const struct log *log;
	unsigned max_connections; /* 0: 4096 */
	bool unsolicited;         /* agree to InitialR2T=No */
};

/* Before the loops run. */
int iscsi_create(struct iscsi **out, const struct iscsi_config *config);
/* iSCSI name: RFC 7143 4.2.7; -EINVAL and a diag otherwise. The target outlives the iscsi. */
int iscsi_add_target(struct iscsi *i, struct scsi_target *target, const char *alias,
		     struct diag *d);
/*
 * CHAP (RFC 7143 12.1.3), before the loops run: with the first user every login, discovery
 * included, must be one of theirs. A secret has 12 to 255 bytes; it is copied, and wiped at the end.
 * -EINVAL and a diag: not a name or secret that will do, or one that is there already.
 */
int iscsi_add_chap_user(struct iscsi *i, const char *name, const char *secret, struct diag *d);
/* How we answer initiators that want us to prove who we are; another secret than any user's. Once.
 */
int iscsi_set_chap_mutual(struct iscsi *i, const char *name, const char *secret, struct diag *d);
unsigned iscsi_chap_count(const struct iscsi *i);
const char *iscsi_chap_name(const struct iscsi *i, unsigned index);
/* NULL: there is none. */
const char *iscsi_chap_mutual(const struct iscsi *i);

int iscsi_listen(struct iscsi *i, const union net_addr *addr, struct diag *d);
unsigned iscsi_portal_count(const struct iscsi *i);
/* With the port that was taken. */
const union net_addr *iscsi_portal_addr(const struct iscsi *i, unsigned index);
/* 0: fine as an iSCSI name. */
int iscsi_name_check(const char *name, struct diag *d);

/* On loop 0: no new connections and commands; commands under way are answered within `grace_ms`,
 * then every connection is closed; `stopped` runs on loop 0 when the last nexus is gone. */
void iscsi_stop(struct iscsi *i, unsigned grace_ms, void (*stopped)(void *arg), void *arg);
/* Stopped, or the loops never ran. */
void iscsi_destroy(struct iscsi *i);

#endif
