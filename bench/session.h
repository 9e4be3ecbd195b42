/*
 * One iSCSI session of the load client: login, a queue of commands, and nothing else. A small
 * initiator of its own, so that what is measured is the target: it batches what it sends, and
 * touches payloads only to verify or digest them.
 */
#ifndef SPINDLE_BENCH_SESSION_H
#define SPINDLE_BENCH_SESSION_H

#include <sys/socket.h>

#include "base/base.h"

#define STATUS_TASK_SET_FULL 0x28 /* it was not begun: once more, please */

struct session;

/* One command. `data` of a write is read while the command is under way; a read's data goes to
 * `arrived`. */
struct command {
	bool write, flush; /* neither: a read */
	bool fua;
	uint64_t lba;
	uint32_t nblocks;
	const uint8_t *data;
	uint64_t started_ns;
};

struct session_config {
	const struct sockaddr *addr;
	socklen_t addr_len;
	const char *target, *initiator; /* iSCSI names */
	uint8_t lun;
	uint16_t isid_qualifier;
	unsigned queue_depth;
	uint32_t block_size;
	bool header_digest, data_digest;
	bool want_data; /* reads: call `arrived`; else payloads are thrown away unseen */
	bool echo;      /* the peer is the echo server: there is no login */
	/* `len` bytes at `off` of the command's data. Only with want_data. */
	void (*arrived)(void *arg, unsigned slot, const struct command *c, uint32_t off,
			const uint8_t *data, uint32_t len);
	/* The command in `slot` ended with this SCSI status. */
	void (*ended)(void *arg, unsigned slot, const struct command *c, uint8_t status);
	void *arg;
};

/* Connects and logs in, blocking; afterwards the socket does not block. 0 or -errno. */
int session_open(struct session **out, const struct session_config *config, struct diag *d);
void session_close(struct session *s);
int session_fd(const struct session *s);
/* The command window is open for one more command. */
bool session_may_start(const struct session *s);
void session_start(struct session *s, unsigned slot, const struct command *c);
/* Sends what is queued. > 0: something is left, wait until the socket is writable. -errno: the
 * connection is lost. */
int session_send(struct session *s);
/* Takes in what has arrived, calls `ended`. -errno: the connection is lost, or the target broke the
 * protocol. */
int session_receive(struct session *s);
/* What the target did wrong, for a message. */
const char *session_fault(const struct session *s);

#endif
