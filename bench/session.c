/*
 * The load client's initiator: see session.h. Field offsets are those of RFC 7143 11.
 */
#include "bench/session.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	BHS = 48,
	OP_SCSI_COMMAND = 0x01,
	OP_LOGIN = 0x03,
	OP_DATA_OUT = 0x05,
	OP_NOP_OUT = 0x00,
	OP_NOP_IN = 0x20,
	OP_SCSI_RESPONSE = 0x21,
	OP_LOGIN_RESPONSE = 0x23,
	OP_DATA_IN = 0x25,
	OP_R2T = 0x31,
	FINAL = 0x80,
	IN_BUF = (1 << 20) + (64 << 10), /* the largest PDU that is taken in whole, and a header */
	/* A payload of this size or more is thrown away in the kernel. */
	DISCARD_MIN = 16 * 1024,
	SEND_IOV = 256,
};

struct out_pdu {
	struct qnode link;
	uint8_t header[BHS + 4];
	uint32_t header_len;
	const uint8_t *data;
	uint32_t data_len;
	uint8_t tail[8]; /* padding and data digest */
	uint32_t tail_len;
};

struct slot {
	struct command command;
	bool busy;
};

struct session {
	struct session_config config;
	int fd;
	uint32_t cmd_sn, exp_stat_sn, max_cmd_sn;
	uint32_t target_max_segment, first_burst, max_burst;
	bool initial_r2t, immediate_data;
	struct slot *slots;
	struct queue out, free_out;
	size_t out_sent; /* of the first PDU in `out` */
	uint8_t *in;
	size_t in_have;
	uint64_t discard; /* payload bytes still to be thrown away */
	uint8_t discarding[BHS];
	const char *fault;
};

static const uint8_t zeros[4096];

static int broken(struct session *s, const char *why)
{
	s->fault = why;
	return -EPROTO;
}

/* ---- Sending --------------------------------------------------------------------------------- */

static struct out_pdu *out_get(struct session *s)
{
	struct qnode *n = queue_pop(&s->free_out);
	struct out_pdu *p = n != NULL ? container_of(n, struct out_pdu, link) : malloc(sizeof(*p));

	CHECK(p != NULL);
	memset(p, 0, sizeof(*p));
	return p;
}

static void out_put(struct session *s, struct out_pdu *p)
{
	queue_push(&s->free_out, &p->link);
}

/* CRC32C goes out least significant byte first (RFC 7143 13.1). */
static void out_queue(struct session *s, struct out_pdu *p)
{
	uint32_t pad = -p->data_len & 3;

	store_be24(p->header + 5, p->data_len);
	p->header_len = BHS;
	if (s->config.header_digest) {
		store_le32(p->header + BHS, crc32c(0, p->header, BHS));
		p->header_len += 4;
	}
	p->tail_len = pad;
	if (s->config.data_digest && p->data_len > 0) {
		uint32_t crc = crc32c(crc32c(0, p->data, p->data_len), zeros, pad);

		store_le32(p->tail + pad, crc);
		p->tail_len += 4;
	}
	queue_push(&s->out, &p->link);
}

static unsigned add_iov(struct iovec *iov, unsigned n, const void *p, size_t len, size_t *skip)
{
	if (*skip >= len) {
		*skip -= len;
		return n;
	}
	iov[n] =
		(struct iovec){.iov_base = (uint8_t *)(uintptr_t)p + *skip, .iov_len = len - *skip};
	*skip = 0;
	return n + 1;
}

static void out_sent(struct session *s, size_t bytes)
{
	bytes += s->out_sent;
	while (!queue_empty(&s->out)) {
		struct out_pdu *p = container_of(s->out.head, struct out_pdu, link);
		size_t len = p->header_len + p->data_len + p->tail_len;

		if (bytes < len)
			break;
		bytes -= len;
		queue_pop(&s->out);
		out_put(s, p);
	}
	s->out_sent = bytes;
}

int session_send(struct session *s)
{
	while (!queue_empty(&s->out)) {
		struct iovec iov[SEND_IOV];
		unsigned n = 0;
		size_t skip = s->out_sent;

		for (struct qnode *q = s->out.head; q != NULL && n + 3 <= SEND_IOV; q = q->next) {
			struct out_pdu *p = container_of(q, struct out_pdu, link);

			n = add_iov(iov, n, p->header, p->header_len, &skip);
			n = add_iov(iov, n, p->data, p->data_len, &skip);
			n = add_iov(iov, n, p->tail, p->tail_len, &skip);
		}

		struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
		ssize_t sent = sendmsg(s->fd, &msg, MSG_NOSIGNAL);

		if (sent < 0)
			return errno == EAGAIN ? 1 : -errno;
		out_sent(s, (size_t)sent);
	}
	return 0;
}

/* Data-Out PDUs for [off, off + len) of the command's data; the last one closes the sequence. */
static void queue_data_out(struct session *s, unsigned slot, uint32_t ttt, uint32_t off,
			   uint32_t len)
{
	uint32_t data_sn = 0;

	while (len > 0) {
		struct out_pdu *p = out_get(s);
		uint32_t part = (uint32_t)min_u64(len, s->target_max_segment);

		p->header[0] = OP_DATA_OUT;
		p->header[1] = part == len ? FINAL : 0;
		p->header[9] = s->config.lun;
		store_be32(p->header + 16, slot);
		store_be32(p->header + 20, ttt);
		store_be32(p->header + 28, s->exp_stat_sn);
		store_be32(p->header + 36, data_sn++);
		store_be32(p->header + 40, off);
		p->data = s->slots[slot].command.data + off;
		p->data_len = part;
		out_queue(s, p);
		off += part;
		len -= part;
	}
}

static void build_cdb(uint8_t *cdb, const struct command *c)
{
	if (c->flush) {
		cdb[0] = 0x35;
		return;
	}
	cdb[0] = c->write ? 0x2a : 0x28;
	cdb[1] = c->fua ? 0x08 : 0;
	if (c->lba + c->nblocks <= UINT32_MAX && c->nblocks <= UINT16_MAX) {
		store_be32(cdb + 2, (uint32_t)c->lba);
		store_be16(cdb + 7, (uint16_t)c->nblocks);
		return;
	}
	cdb[0] = (uint8_t)(cdb[0] | 0x80);
	store_be64(cdb + 2, c->lba);
	store_be32(cdb + 10, c->nblocks);
}

bool session_may_start(const struct session *s)
{
	return s->config.echo || (int32_t)(s->max_cmd_sn - s->cmd_sn) >= 0;
}

void session_start(struct session *s, unsigned slot, const struct command *c)
{
	struct out_pdu *p = out_get(s);
	uint32_t len = c->flush ? 0 : c->nblocks * s->config.block_size;
	uint32_t now = 0, unsolicited = 0;

	if (c->write && s->immediate_data)
		now = (uint32_t)min_u64(len, min_u64(s->first_burst, s->target_max_segment));
	if (c->write && !s->initial_r2t)
		unsolicited = (uint32_t)min_u64(len, s->first_burst) - now;
	s->slots[slot] = (struct slot){.command = *c, .busy = true};
	p->header[0] = OP_SCSI_COMMAND;
	p->header[1] = (uint8_t)((unsolicited > 0 ? 0 : FINAL) | (c->write ? 0x20 : 0) |
				 (!c->write && !c->flush ? 0x40 : 0) | 1);
	p->header[9] = s->config.lun;
	store_be32(p->header + 16, slot);
	store_be32(p->header + 20, len);
	store_be32(p->header + 24, s->cmd_sn++);
	store_be32(p->header + 28, s->exp_stat_sn);
	build_cdb(p->header + 32, c);
	p->data = c->data;
	p->data_len = now;
	out_queue(s, p);
	if (unsolicited > 0)
		queue_data_out(s, slot, UINT32_MAX, now, unsolicited);
}

/* ---- Receiving ------------------------------------------------------------------------------- */

static void take_sns(struct session *s, const uint8_t *h, bool has_status)
{
	uint32_t max_cmd_sn = load_be32(h + 32);

	if (has_status)
		s->exp_stat_sn = load_be32(h + 24) + 1;
	if ((int32_t)(max_cmd_sn - s->max_cmd_sn) > 0)
		s->max_cmd_sn = max_cmd_sn;
}

static int end_slot(struct session *s, unsigned slot, uint8_t status)
{
	struct command c = s->slots[slot].command;

	s->slots[slot].busy = false;
	s->config.ended(s->config.arg, slot, &c, status);
	return 0;
}

static int got_data_in(struct session *s, const uint8_t *h, unsigned slot, const uint8_t *data)
{
	const struct command *c = &s->slots[slot].command;
	uint32_t len = load_be24(h + 5), off = load_be32(h + 40);
	bool has_status = (h[1] & 0x01) != 0;

	if ((uint64_t)off + len > (uint64_t)c->nblocks * s->config.block_size)
		return broken(s, "Data-In beyond what was asked for");
	if (data != NULL && s->config.want_data)
		s->config.arrived(s->config.arg, slot, c, off, data, len);
	if (!has_status)
		return 0;
	take_sns(s, h, true);
	return end_slot(s, slot, h[3]);
}

static int got_r2t(struct session *s, const uint8_t *h, unsigned slot)
{
	const struct command *c = &s->slots[slot].command;
	uint32_t off = load_be32(h + 40), len = load_be32(h + 44);

	take_sns(s, h, false);
	if ((uint64_t)off + len > (uint64_t)c->nblocks * s->config.block_size || len > s->max_burst)
		return broken(s, "R2T beyond what was offered");
	queue_data_out(s, slot, load_be32(h + 20), off, len);
	return 0;
}

static int got_nop_in(struct session *s, const uint8_t *h)
{
	struct out_pdu *p;

	take_sns(s, h, false);
	if (load_be32(h + 20) == UINT32_MAX)
		return 0;
	p = out_get(s);
	p->header[0] = OP_NOP_OUT | 0x40;
	p->header[1] = FINAL;
	memcpy(p->header + 8, h + 8, 8);
	store_be32(p->header + 16, UINT32_MAX);
	memcpy(p->header + 20, h + 20, 4);
	store_be32(p->header + 24, s->cmd_sn);
	store_be32(p->header + 28, s->exp_stat_sn);
	out_queue(s, p);
	return 0;
}

/* One whole PDU; `data` is NULL when its payload was thrown away. */
static int got_pdu(struct session *s, const uint8_t *h, const uint8_t *data)
{
	uint8_t op = h[0] & 0x3f;
	uint32_t itt = load_be32(h + 16);

	if (op == OP_NOP_IN)
		return got_nop_in(s, h);
	if (itt >= s->config.queue_depth || !s->slots[itt].busy)
		return broken(s, "a PDU for a task that does not exist");
	if (op == OP_DATA_IN)
		return got_data_in(s, h, itt, data);
	if (op == OP_R2T)
		return got_r2t(s, h, itt);
	if (op != OP_SCSI_RESPONSE)
		return broken(s, "an unexpected PDU");
	take_sns(s, h, true);
	return end_slot(s, itt, h[2] == 0 ? h[3] : 0xff);
}

static int check_digests(struct session *s, const uint8_t *pdu, uint32_t header_len,
			 uint32_t data_len)
{
	if (s->config.header_digest &&
	    load_le32(pdu + header_len - 4) != crc32c(0, pdu, header_len - 4))
		return broken(s, "a wrong header digest");
	if (s->config.data_digest && data_len > 0 &&
	    load_le32(pdu + header_len + data_len) != crc32c(0, pdu + header_len, data_len))
		return broken(s, "a wrong data digest");
	return 0;
}

/* Parses what is in the buffer from `at` on: bytes used, 0 when more is needed, or -errno. */
static ssize_t parse_one(struct session *s, size_t at)
{
	const uint8_t *p = s->in + at;
	size_t have = s->in_have - at;
	uint32_t header_len, data_len, total;
	int err;

	if (have < BHS)
		return 0;
	header_len = BHS + p[4] * 4u + (s->config.header_digest ? 4 : 0);
	data_len = (load_be24(p + 5) + 3) & ~3u;
	total = header_len + data_len + (s->config.data_digest && data_len > 0 ? 4 : 0);
	if (total > IN_BUF)
		return broken(s, "a PDU that is too large");
	if (have >= total) {
		err = check_digests(s, p, header_len, data_len);
		if (err == 0)
			err = got_pdu(s, p, p + header_len);
		return err < 0 ? err : (ssize_t)total;
	}
	if (s->config.want_data || s->config.header_digest || s->config.data_digest ||
	    have < header_len || total - have < DISCARD_MIN)
		return 0;
	memcpy(s->discarding, p, BHS);
	s->discard = total - have;
	return (ssize_t)have;
}

static int parse_all(struct session *s)
{
	size_t at = 0;

	while (at < s->in_have && s->discard == 0) {
		ssize_t used = parse_one(s, at);

		if (used < 0)
			return (int)used;
		if (used == 0)
			break;
		at += (size_t)used;
	}
	s->in_have -= at;
	memmove(s->in, s->in + at, s->in_have);
	return 0;
}

static int discard_some(struct session *s, ssize_t *got)
{
	*got = recv(s->fd, NULL, s->discard, MSG_TRUNC);
	if (*got <= 0)
		return 0;
	s->discard -= (uint64_t)*got;
	return s->discard == 0 ? got_pdu(s, s->discarding, NULL) : 0;
}

int session_receive(struct session *s)
{
	for (;;) {
		ssize_t got;
		int err = 0;

		if (s->discard > 0) {
			err = discard_some(s, &got);
		} else {
			got = recv(s->fd, s->in + s->in_have, IN_BUF - s->in_have, 0);
			if (got > 0) {
				s->in_have += (size_t)got;
				err = parse_all(s);
			}
		}
		if (err < 0)
			return err;
		if (got == 0)
			return broken(s, "the target closed the connection");
		if (got < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (s->discard == 0 && (size_t)got < IN_BUF / 2)
			return 0;
	}
}

/* ---- Login ----------------------------------------------------------------------------------- */

static size_t login_text(const struct session *s, char *text, size_t cap)
{
	size_t len = 0;

	/* '\n' stands for the NUL between pairs. */
	str_append(text, cap, &len, "InitiatorName=%s\nTargetName=%s\nSessionType=Normal\n",
		   s->config.initiator, s->config.target);
	str_append(text, cap, &len, "HeaderDigest=%s\nDataDigest=%s\n",
		   s->config.header_digest ? "CRC32C" : "None",
		   s->config.data_digest ? "CRC32C" : "None");
	str_append(text, cap, &len, "%s",
		   "InitialR2T=No\nImmediateData=Yes\nMaxRecvDataSegmentLength=262144\n"
		   "MaxBurstLength=1048576\nFirstBurstLength=262144\nMaxOutstandingR2T=1\n"
		   "MaxConnections=1\nErrorRecoveryLevel=0\nDefaultTime2Wait=2\n"
		   "DefaultTime2Retain=0\nDataPDUInOrder=Yes\nDataSequenceInOrder=Yes\n");
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\n')
			text[i] = '\0';
	}
	return len;
}

static int recv_all(int fd, void *buf, size_t len)
{
	/* Asking for nothing would wait for something. */
	ssize_t got = len > 0 ? recv(fd, buf, len, MSG_WAITALL) : 0;

	return got < 0 ? -errno : (size_t)got < len ? -ECONNRESET : 0;
}

static void take_number(uint32_t *out, const char *value)
{
	uint64_t v;

	if (parse_u64(value, &v) == 0 && v <= UINT32_MAX)
		*out = (uint32_t)v;
}

static int take_key(struct session *s, char *pair)
{
	char *value = strchr(pair, '=');

	if (value == NULL)
		return broken(s, "login text without '='");
	*value++ = '\0';
	if (strcmp(pair, "MaxRecvDataSegmentLength") == 0)
		take_number(&s->target_max_segment, value);
	else if (strcmp(pair, "FirstBurstLength") == 0)
		take_number(&s->first_burst, value);
	else if (strcmp(pair, "MaxBurstLength") == 0)
		take_number(&s->max_burst, value);
	else if (strcmp(pair, "InitialR2T") == 0)
		s->initial_r2t = strcmp(value, "Yes") == 0;
	else if (strcmp(pair, "ImmediateData") == 0)
		s->immediate_data = strcmp(value, "Yes") == 0;
	else if (strcmp(pair, "HeaderDigest") == 0 && s->config.header_digest)
		return strcmp(value, "CRC32C") == 0 ? 0 : broken(s, "it refuses header digests");
	else if (strcmp(pair, "DataDigest") == 0 && s->config.data_digest)
		return strcmp(value, "CRC32C") == 0 ? 0 : broken(s, "it refuses data digests");
	return 0;
}

static int login_step(struct session *s, bool *done)
{
	uint8_t h[BHS];
	char text[8192 + 4] = "";
	uint32_t len;
	int err = recv_all(s->fd, h, sizeof(h));

	if (err < 0)
		return err;
	len = (load_be24(h + 5) + 3) & ~3u;
	if ((h[0] & 0x3f) != OP_LOGIN_RESPONSE || len > 8192)
		return broken(s, "its answer to the login is no login response");
	err = recv_all(s->fd, text, len);
	if (err < 0)
		return err;
	if (h[36] != 0)
		return broken(s, "it refuses the login");
	for (char *p = text, *next; p < text + len && *p != '\0'; p = next) {
		next = p + strlen(p) + 1;
		err = take_key(s, p);
		if (err < 0)
			return err;
	}
	take_sns(s, h, true);
	*done = (h[1] & 0x83) == 0x83;
	return 0;
}

static int login(struct session *s)
{
	bool digests[2] = {s->config.header_digest, s->config.data_digest};
	bool done = false;
	char text[2048];
	size_t len = login_text(s, text, sizeof(text));
	int err = 0;

	while (err == 0 && !done) {
		struct out_pdu *p = out_get(s);

		p->header[0] = OP_LOGIN | 0x40;
		p->header[1] = 0x87; /* T=1, from operational negotiation to full feature phase */
		p->header[8] = 0x80; /* ISID: random format */
		store_be16(p->header + 12, s->config.isid_qualifier);
		store_be32(p->header + 24, s->cmd_sn);
		store_be32(p->header + 28, s->exp_stat_sn);
		p->data = (const uint8_t *)text;
		p->data_len = (uint32_t)len;
		/* Digests begin after the login. */
		s->config.header_digest = s->config.data_digest = false;
		out_queue(s, p);
		err = session_send(s);
		s->config.header_digest = digests[0];
		s->config.data_digest = digests[1];
		if (err == 0)
			err = login_step(s, &done);
		len = 0;
	}
	return err;
}

/* Unit attentions that a new session finds (power on, ...) are not for the workload to meet. */
static int clear_attentions(struct session *s)
{
	for (unsigned tries = 0; tries < 8; tries++) {
		struct out_pdu *p = out_get(s);
		uint32_t digest = s->config.header_digest ? 4 : 0, len;
		uint8_t h[BHS + 4], sense[1024];
		int err;

		p->header[0] = OP_SCSI_COMMAND; /* TEST UNIT READY: a CDB of zeros */
		p->header[1] = FINAL | 1;
		p->header[9] = s->config.lun;
		store_be32(p->header + 24, s->cmd_sn++);
		store_be32(p->header + 28, s->exp_stat_sn);
		out_queue(s, p);
		err = session_send(s);
		if (err == 0)
			err = recv_all(s->fd, h, BHS + digest);
		if (err < 0)
			return err;
		len = (load_be24(h + 5) + 3) & ~3u;
		if (len > 0 && s->config.data_digest)
			len += 4;
		if ((h[0] & 0x3f) != OP_SCSI_RESPONSE || len > sizeof(sense))
			return broken(s, "its answer to TEST UNIT READY is no SCSI response");
		err = recv_all(s->fd, sense, len);
		if (err < 0)
			return err;
		take_sns(s, h, true);
		if (h[3] == 0)
			return 0;
	}
	return broken(s, "the unit does not become ready");
}

static int connect_to(struct session *s)
{
	int one = 1;

	s->fd = socket(s->config.addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || connect(s->fd, s->config.addr, s->config.addr_len) < 0)
		return -errno;
	setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return 0;
}

int session_open(struct session **out, const struct session_config *config, struct diag *d)
{
	struct session *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	if (s == NULL)
		return -ENOMEM;
	s->config = *config;
	s->fd = -1;
	s->cmd_sn = 1;
	s->target_max_segment = 8192;
	s->first_burst = 65536;
	s->max_burst = 262144;
	s->initial_r2t = s->immediate_data = true;
	if (config->echo)
		s->target_max_segment = s->first_burst = s->max_burst = 16 << 20;
	queue_init(&s->out);
	queue_init(&s->free_out);
	s->slots = calloc(config->queue_depth, sizeof(*s->slots));
	s->in = malloc(IN_BUF);
	if (s->slots != NULL && s->in != NULL)
		err = connect_to(s);
	if (err == 0 && !config->echo)
		err = login(s);
	if (err == 0 && !config->echo)
		err = clear_attentions(s);
	if (err == 0 && fcntl(s->fd, F_SETFL, O_NONBLOCK) < 0)
		err = -errno;
	if (err < 0) {
		diag_set(d, err, "cannot log in: %s", s->fault != NULL ? s->fault : strerror(-err));
		session_close(s);
		return err;
	}
	*out = s;
	return 0;
}

static void free_queue(struct queue *q)
{
	struct qnode *n;

	while ((n = queue_pop(q)) != NULL)
		free(container_of(n, struct out_pdu, link));
}

void session_close(struct session *s)
{
	if (s == NULL)
		return;
	if (s->fd >= 0)
		close(s->fd);
	free_queue(&s->out);
	free_queue(&s->free_out);
	free(s->slots);
	free(s->in);
	free(s);
}

int session_fd(const struct session *s)
{
	return s->fd;
}

const char *session_fault(const struct session *s)
{
	return s->fault != NULL ? s->fault : "connection lost";
}
