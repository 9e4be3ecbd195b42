/*
 * A whole server within a test: one ram disk behind an iSCSI target, the real loop on the test's own
 * thread, and connections that are socket pairs. Nothing happens but while the test lets it, so a
 * run is a function of what is sent. For the fuzz harnesses and tests that need no network.
 */
#ifndef SPINDLE_TEST_WORLD_H
#define SPINDLE_TEST_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "iscsi/impl.h"

#define WORLD_UNUSED __attribute__((unused))
#define WORLD_TARGET "iqn.2026-11.test:disk"
#define WORLD_HANG_S 20
#define WORLD_QUIET  5 /* turns without a word: nothing more comes by itself */

struct world {
	struct loop_set *set;
	struct unit *unit;
	struct scsi_lu *lu;
	struct scsi_target *target;
	struct iscsi *iscsi;
	bool stopped; /* what was waited for last */
	struct loop_msg msg;
	void (*call)(void *arg);
	void *arg;
	struct loop_timer timer;
};

static const struct store_type *const world_stores[] = {&store_ram, NULL};

/* ---- Turns ---- */

static void world_call_run(struct loop_msg *msg)
{
	struct world *w = container_of(msg, struct world, msg);

	if (w->call != NULL)
		w->call(w->arg);
	loop_set_stop(w->set);
}

/* One turn of the loop, with this in it. */
static void world_call(struct world *w, void (*call)(void *arg), void *arg)
{
	w->call = call;
	w->arg = arg;
	w->msg.run = world_call_run;
	loop_post(loop_set_at(w->set, 0), &w->msg);
	CHECK(loop_set_run(w->set) == 0);
}

static void world_turn(struct world *w)
{
	world_call(w, NULL, NULL);
}

static time_t world_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

/* Turns until it holds; what takes time of its own gets some. */
static void world_until(struct world *w, bool (*holds)(const void *arg), const void *arg)
{
	const time_t end = world_seconds() + WORLD_HANG_S;

	for (unsigned n = 0; !holds(arg); n++) {
		world_turn(w);
		if (n > 50)
			usleep(200);
		CHECK(world_seconds() < end); /* else it hangs */
	}
}

/* ---- Life ---- */

static int world_open_disk(struct world *w, const char *spec, uint32_t block_size)
{
	static const struct unit_identity identity = {.naa = "\x3a\x5b\x6c\x7d\x8e\x9f\x01\x02",
						      .serial = "a1b2c3d4"};
	const struct bdev_config bc = {.block_size = block_size};
	struct store *store;
	struct bdev *bdev;
	int err = store_open(&store, w->set, world_stores, spec, &(struct store_config){0}, NULL);

	if (err == 0)
		err = bdev_create(&bdev, store, &bc, NULL);
	if (err == 0)
		err = unit_create(&w->unit, w->set, bdev, &identity, 0);
	if (err == 0)
		err = scsi_lu_create_disk(&w->lu, w->unit, &(struct scsi_lu_config){0});
	return err;
}

/* `config` without its set. */
static void world_open(struct world *w, const char *spec, uint32_t block_size,
		       struct iscsi_config config)
{
	const struct loop_config lc = {.nloops = 1, .disk_engine = LOOP_DISK_WORKERS};

	*w = (struct world){0};
	CHECK(loop_set_create(&w->set, &lc, NULL) == 0);
	config.set = w->set;
	CHECK(world_open_disk(w, spec, block_size) == 0);
	CHECK(scsi_target_create(&w->target, WORLD_TARGET) == 0);
	CHECK(scsi_target_add_lun(w->target, 0, w->lu) == 0);
	CHECK(iscsi_create(&w->iscsi, &config) == 0);
	CHECK(iscsi_add_target(w->iscsi, w->target, "a disk", NULL) == 0);
}

static bool world_is_empty(const void *arg)
{
	const struct world *w = arg;

	return w->iscsi->nconns == 0;
}

static bool world_is_stopped(const void *arg)
{
	const struct world *w = arg;

	return w->stopped;
}

static void world_stopped(void *arg)
{
	((struct world *)arg)->stopped = true;
}

static void world_stop_iscsi(void *arg)
{
	struct world *w = arg;

	iscsi_stop(w->iscsi, 0, world_stopped, w);
}

static void world_stop_lu(void *arg)
{
	struct world *w = arg;

	scsi_lu_stop(w->lu, loop_set_at(w->set, 0), world_stopped, w);
}

static void world_close(struct world *w)
{
	w->stopped = false;
	world_call(w, world_stop_iscsi, w);
	world_until(w, world_is_stopped, w);
	w->stopped = false;
	world_call(w, world_stop_lu, w);
	world_until(w, world_is_stopped, w);
	iscsi_destroy(w->iscsi);
	scsi_target_destroy(w->target);
	scsi_lu_destroy(w->lu);
	unit_destroy(w->unit);
	loop_set_destroy(w->set);
}

/* ---- Peers: the initiator's end of a connection ---- */

#define PEER_BUF (512 * KiB)

struct peer {
	struct world *w;
	int fd;
	bool refused; /* the server did not take it */
	bool closed;  /* by the server */
	size_t len;   /* bytes in buf, not taken yet */
	uint32_t cmd_sn;
	int server_fd;
	uint8_t *buf;
	/* Hears all that comes; or NULL. */
	void (*heard)(void *arg, const uint8_t *bytes, size_t len);
	void *heard_arg;
};

static void peer_accept(void *arg)
{
	struct peer *p = arg;
	const union net_addr from = {.sa.sa_family = AF_INET};

	p->refused = conn_create(p->w->iscsi, p->server_fd, &from) != 0;
	if (p->refused)
		close(p->server_fd);
}

static void peer_prepare(struct peer *p, struct world *w)
{
	int fds[2];

	*p = (struct peer){.w = w, .cmd_sn = 1};
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	p->fd = fds[0];
	p->server_fd = fds[1];
	p->buf = malloc(PEER_BUF);
	CHECK(p->buf != NULL);
}

static void peer_connect(struct peer *p)
{
	world_call(p->w, peer_accept, p);
}

static void peer_open(struct peer *p, struct world *w)
{
	peer_prepare(p, w);
	peer_connect(p);
}

/* What came; false: nothing. */
static bool peer_receive(struct peer *p)
{
	ssize_t n = recv(p->fd, p->buf + p->len, PEER_BUF - p->len, 0);

	if (n > 0 && p->heard != NULL)
		p->heard(p->heard_arg, p->buf + p->len, (size_t)n);
	if (n > 0)
		p->len += (size_t)n;
	else if (n == 0 || errno != EAGAIN)
		p->closed = true;
	return n > 0;
}

/* The answers are thrown away. */
WORLD_UNUSED static void peer_settle(struct peer *p)
{
	for (unsigned quiet = 0; quiet < WORLD_QUIET && !p->closed;) {
		world_turn(p->w);
		quiet = peer_receive(p) ? 0 : quiet + 1;
		p->len = 0;
	}
}

/* All of it, with turns as they are needed. The server may close in the middle. */
static void peer_send(struct peer *p, const void *data, size_t len)
{
	const time_t end = world_seconds() + WORLD_HANG_S;
	const uint8_t *at = data;

	while (len != 0 && !p->closed) {
		ssize_t n = send(p->fd, at, len, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			return;
		if (n > 0) {
			at += n;
			len -= (size_t)n;
			continue;
		}
		peer_receive(p);
		if (p->len > PEER_BUF / 2)
			p->len = 0; /* nobody waits for so much */
		world_turn(p->w);
		CHECK(world_seconds() < end);
	}
}

/* Header and data of the next PDU that comes, good until the next call; NULL: the server closed. */
WORLD_UNUSED static const struct iscsi_bhs *peer_pdu(struct peer *p, size_t *taken)
{
	const time_t end = world_seconds() + WORLD_HANG_S;
	const struct iscsi_bhs *bhs = (const void *)p->buf;
	size_t whole;

	memmove(p->buf, p->buf + *taken, p->len - *taken);
	p->len -= *taken;
	*taken = 0;
	for (unsigned n = 0;; n++) {
		whole = ISCSI_BHS_LEN;
		if (p->len >= whole)
			whole += align_up(be24_get(bhs->data_len), 4);
		if (p->len >= whole)
			break;
		if (p->closed)
			return NULL;
		world_turn(p->w);
		peer_receive(p);
		if (n > 50)
			usleep(200);
		CHECK(world_seconds() < end); /* else it hangs */
	}
	*taken = whole;
	return bhs;
}

static void peer_close(struct peer *p)
{
	close(p->fd);
	free(p->buf);
	world_until(p->w, world_is_empty, p->w);
}

/* ---- PDUs of an initiator ---- */

#define PEER_TO_FULL (ISCSI_FINAL | ISCSI_OPERATIONAL << 2 | ISCSI_FULL_FEATURE)

/* `flags`: T, C and the stages. `text` is key=value and NUL, again and again. */
static void peer_put_login(struct peer *p, uint8_t flags, const void *text, size_t len)
{
	static const uint8_t zeros[4];
	struct iscsi_login l = {
		.opcode = ISCSI_LOGIN | ISCSI_IMMEDIATE,
		.flags = flags,
		.data_len = be24_of(low_u32(len)),
		.isid = {0x40},
		.itt = be32_of(7),
		.cmd_sn = be32_of(p->cmd_sn),
	};

	peer_send(p, &l, sizeof(l));
	if (len != 0)
		peer_send(p, text, len);
	peer_send(p, zeros, pdu_padding(low_u32(len)));
}

#define WORLD_WHO      "InitiatorName=iqn.2026-11.test:i\0TargetName=" WORLD_TARGET "\0"
#define WORLD_WHO_DISC "InitiatorName=iqn.2026-11.test:i\0SessionType=Discovery\0"

#endif
