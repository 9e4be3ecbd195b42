/*
 * Logins, replacements and ends on several loops at once: clients on threads of their own fight for
 * a few session names, cut connections in every state, and in the end the server stops under them.
 * What must hold: a session that was logged in answers or is closed, the last login of a name is
 * served, nothing is left behind (the sanitizers look), and the server stops in time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/time.h>
#include <unistd.h>

#include "iscsi/iscsi.h"
#include "iscsi/proto.h"

#define LOOPS   4
#define CLIENTS 6
#define ROUNDS  60
#define NAMES   3
#define TARGET  "iqn.2026-11.test:disk"

static const struct store_type *const types[] = {&store_ram, &store_null, NULL};

struct server {
	struct loop_set *set;
	struct unit *unit;
	struct scsi_lu *lu;
	struct scsi_target *target;
	struct iscsi *iscsi;
	union net_addr addr;
	pthread_t thread;
	struct loop_msg stop_msg;
	bool stopped;
};

static void *serve(void *arg)
{
	struct server *s = arg;

	assert_int_equal(loop_set_run(s->set), 0);
	return NULL;
}

static void server_start(struct server *s)
{
	struct loop_config loops = {.nloops = LOOPS};
	struct unit_identity identity = {.naa = "\x3a\x5b\x6c\x7d\x8e\x9f\x01\x02"};
	struct iscsi_config config;
	struct store *store;
	struct bdev *bdev;

	*s = (struct server){0};
	assert_int_equal(loop_set_create(&s->set, &loops, NULL), 0);
	config = (struct iscsi_config){.set = s->set};
	assert_int_equal(
		store_open(&store, s->set, types, "ram:16M", &(struct store_config){0}, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &(struct bdev_config){0}, NULL), 0);
	assert_int_equal(unit_create(&s->unit, s->set, bdev, &identity, 1), 0);
	assert_int_equal(scsi_lu_create_disk(&s->lu, s->unit, &(struct scsi_lu_config){0}), 0);
	assert_int_equal(scsi_target_create(&s->target, TARGET), 0);
	assert_int_equal(scsi_target_add_lun(s->target, 0, s->lu), 0);
	assert_int_equal(iscsi_create(&s->iscsi, &config), 0);
	assert_int_equal(iscsi_add_target(s->iscsi, s->target, NULL, NULL), 0);
	assert_int_equal(net_addr_parse(&s->addr, "127.0.0.1:0", 0, NULL), 0);
	assert_int_equal(iscsi_listen(s->iscsi, &s->addr, NULL), 0);
	s->addr = *iscsi_portal_addr(s->iscsi, 0);
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void stopped(void *arg)
{
	struct server *s = arg;

	s->stopped = true;
	loop_set_stop(s->set);
}

static void run_stop(struct loop_msg *msg)
{
	struct server *s = container_of(msg, struct server, stop_msg);

	iscsi_stop(s->iscsi, 200, stopped, s);
}

static void server_stop(struct server *s)
{
	s->stop_msg.run = run_stop;
	loop_post(loop_set_at(s->set, 0), &s->stop_msg);
	assert_int_equal(pthread_join(s->thread, NULL), 0);
	assert_true(s->stopped);
	iscsi_destroy(s->iscsi);
	scsi_target_destroy(s->target);
	scsi_lu_destroy(s->lu);
	unit_destroy(s->unit);
	loop_set_destroy(s->set);
}

/* ---- An initiator of a few lines: false when the other side has closed ---- */

static int dial(const struct server *s)
{
	struct timeval patience = {.tv_sec = 20};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, &s->addr.sa, sizeof(s->addr.in4)) == 0)
		return fd;
	close(fd);
	return -1;
}

static bool put(int fd, const void *buf, size_t len)
{
	return send(fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool get(int fd, void *buf, size_t len)
{
	size_t have = 0;

	while (have < len) {
		ssize_t n = recv(fd, (uint8_t *)buf + have, len - have, 0);

		/* A socket with a time limit is one whose wait is not taken up again (signal(7)). */
		if (n < 0 && errno == EINTR)
			continue;
		/* Closed or reset; a server that says nothing for so long is broken. */
		assert_false(n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK));
		if (n <= 0)
			return false;
		have += (size_t)n;
	}
	return true;
}

static bool get_pdu(int fd, struct iscsi_bhs *bhs)
{
	uint8_t data[65536];
	size_t len;

	if (!get(fd, bhs, sizeof(*bhs)))
		return false;
	len = align_up(be24_get(bhs->data_len), 4);
	assert_true(len <= sizeof(data));
	return len == 0 || get(fd, data, len);
}

static bool put_login(int fd, unsigned name, uint8_t flags, const char *more, size_t more_len)
{
	uint8_t pdu[1024] = {0};
	struct iscsi_login *l = (struct iscsi_login *)(void *)pdu;
	struct writer w = writer_of(pdu + sizeof(*l), sizeof(pdu) - sizeof(*l));
	char initiator[64];

	snprintf(initiator, sizeof(initiator), "InitiatorName=iqn.2026-11.test:i%u", name);
	write_bytes(&w, initiator, strlen(initiator) + 1);
	write_bytes(&w, "TargetName=" TARGET, sizeof("TargetName=" TARGET));
	write_bytes(&w, more, more_len);
	l->opcode = ISCSI_LOGIN | ISCSI_IMMEDIATE;
	l->flags = flags;
	l->data_len = be24_of(low_u32(w.len));
	l->isid[0] = 0x40;
	l->cmd_sn = be32_of(1);
	return put(fd, pdu, sizeof(*l) + align_up(w.len, 4));
}

#define LOGIN_AT_ONCE (ISCSI_FINAL | ISCSI_OPERATIONAL << 2 | ISCSI_FULL_FEATURE)

/* 0: in the full feature phase; else a status, or -1 when the connection was closed. */
static int log_in(int fd, unsigned name)
{
	struct iscsi_bhs bhs;

	if (!put_login(fd, name, LOGIN_AT_ONCE, NULL, 0) || !get_pdu(fd, &bhs))
		return -1;
	assert_int_equal(bhs.opcode, ISCSI_LOGIN_RESPONSE);
	return be16_get(((struct iscsi_login_response *)(void *)&bhs)->status);
}

static bool put_command(int fd, uint32_t n, uint8_t flags, uint8_t opcode, uint32_t blocks)
{
	struct iscsi_scsi_command r = {
		.opcode = ISCSI_SCSI_COMMAND,
		.flags = ISCSI_FINAL | flags | ISCSI_ATTR_SIMPLE,
		.itt = be32_of(n),
		.expected_len = be32_of(blocks * 512),
		.cmd_sn = be32_of(n),
		.cdb = {opcode},
	};

	store_be16(r.cdb + 7, low_u16(blocks));
	return put(fd, &r, sizeof(r));
}

static bool get_response(int fd, uint32_t n, uint8_t *status)
{
	struct iscsi_bhs bhs;

	do {
		if (!get_pdu(fd, &bhs))
			return false;
	} while (be32_get(bhs.itt) != n ||
		 (bhs.opcode == ISCSI_DATA_IN && (bhs.flags & ISCSI_DATA_IN_STATUS) == 0));
	*status = ((struct iscsi_scsi_response *)(void *)&bhs)->status;
	return true;
}

/* ---- Clients ---- */

struct client {
	const struct server *server;
	pthread_t thread;
	unsigned seed, logins;
};

static void some_io(struct client *c, int fd)
{
	uint32_t n = 1;
	uint8_t status;

	/* the unit attention of a new nexus */
	if (!put_command(fd, n, 0, 0x00, 0) || !get_response(fd, n, &status))
		return;
	assert_in_range(status, 0, 2);
	for (unsigned k = 0; k < 4; k++) {
		/* four reads at once, the last ones perhaps without waiting for them */
		for (unsigned i = 0; i < 4; i++)
			if (!put_command(fd, n + 1 + i, ISCSI_COMMAND_READ, 0x28, 128 << i))
				return;
		if (rand_r(&c->seed) % 4 == 0)
			return;
		n += 4;
		if (!get_response(fd, n, &status))
			return;
		assert_int_equal(status, 0);
	}
	/* a write whose data never comes */
	if (rand_r(&c->seed) % 2 == 0)
		(void)put_command(fd, n + 1, ISCSI_COMMAND_WRITE, 0x2a, 1024);
}

static void one_round(struct client *c)
{
	unsigned name = (unsigned)rand_r(&c->seed) % NAMES;
	int fd = dial(c->server);

	if (fd < 0)
		return;
	switch (rand_r(&c->seed) % 8) {
	case 0: /* says nothing */
		break;
	case 1: /* half a login request */
		(void)put(fd, "\x43\x87\0\0\0\0\0\x20", 8);
		break;
	case 2: /* does not wait for the answer */
		(void)put_login(fd, name, LOGIN_AT_ONCE, NULL, 0);
		break;
	case 3: /* stays in the operational stage */
		(void)put_login(fd, name, ISCSI_OPERATIONAL << 2, NULL, 0);
		usleep((unsigned)rand_r(&c->seed) % 2000);
		break;
	default:
		if (log_in(fd, name) == 0) {
			c->logins++;
			some_io(c, fd);
		}
	}
	close(fd);
}

static void *client_run(void *arg)
{
	struct client *c = arg;

	for (unsigned i = 0; i < ROUNDS; i++)
		one_round(c);
	return NULL;
}

static void clients_start(struct client *clients, const struct server *server, unsigned seed)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		clients[i] = (struct client){.server = server, .seed = seed + i * 7919};
		assert_int_equal(pthread_create(&clients[i].thread, NULL, client_run, &clients[i]),
				 0);
	}
}

static unsigned clients_join(struct client *clients)
{
	unsigned logins = 0;

	for (unsigned i = 0; i < CLIENTS; i++) {
		pthread_join(clients[i].thread, NULL);
		logins += clients[i].logins;
	}
	return logins;
}

static void test_fight_for_names(void **state)
{
	struct client clients[CLIENTS];
	struct server server;
	uint8_t status;

	server_start(&server);
	clients_start(clients, &server, 1);
	assert_true(clients_join(clients) > 0);
	/* whatever went on before, the newest login of each name is served */
	for (unsigned name = 0; name < NAMES; name++) {
		int fd = dial(&server);

		assert_true(fd >= 0);
		assert_int_equal(log_in(fd, name), 0);
		assert_true(put_command(fd, 1, 0, 0x00, 0));
		assert_true(get_response(fd, 1, &status));
		assert_int_equal(status, 2);
		assert_true(put_command(fd, 2, ISCSI_COMMAND_READ, 0x28, 2048));
		assert_true(get_response(fd, 2, &status));
		assert_int_equal(status, 0);
		close(fd);
	}
	server_stop(&server);
}

static void test_stop_under_load(void **state)
{
	for (unsigned seed = 0; seed < 4; seed++) {
		struct client clients[CLIENTS];
		struct server server;

		server_start(&server);
		clients_start(clients, &server, 1000 * seed);
		usleep(20000 * seed);
		server_stop(&server);
		clients_join(clients);
	}
}

/* Many logins of one name in one breath: one of them is served in the end, and all others learn
 * that they are not. */
static void test_same_name_at_once(void **state)
{
	for (unsigned round = 0; round < 10; round++) {
		struct server server;
		int fds[16];
		unsigned alive = 0;

		server_start(&server);
		for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
			fds[i] = dial(&server);
		for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
			assert_true(put_login(fds[i], 0, LOGIN_AT_ONCE, NULL, 0));
		for (unsigned i = 0; i < ARRAY_LEN(fds); i++) {
			struct iscsi_bhs bhs;
			uint8_t status;

			if (get_pdu(fds[i], &bhs) && bhs.opcode == ISCSI_LOGIN_RESPONSE &&
			    put_command(fds[i], 1, 0, 0x00, 0) && get_response(fds[i], 1, &status))
				alive++;
		}
		/* Those before the last may have been served for a moment. */
		assert_true(alive >= 1);
		for (unsigned i = 0; i < ARRAY_LEN(fds); i++)
			close(fds[i]);
		server_stop(&server);
	}
}

struct unplug {
	struct scsi_lun_op op;
	struct loop_msg msg;
	sem_t done;
};

static void unplug_run(struct loop_msg *msg)
{
	scsi_target_change_lun(&container_of(msg, struct unplug, msg)->op);
}

static void unplugged(struct scsi_lun_op *op, int err)
{
	assert_int_equal(err, 0);
	sem_post(&container_of(op, struct unplug, op)->done);
}

/* The LUN goes while the data of a read is on its way: what was not sent yet stays away, the response
 * says how much was (RFC 7143 11.4.8). */
static void test_lun_goes_while_its_data_leaves(void **state)
{
	/* Many PDUs, so that most of them wait behind those that the socket has been offered. */
	static const char pieces[] = "MaxRecvDataSegmentLength=512";
	struct unplug u = {.msg = {.run = unplug_run}};
	struct server server;
	struct iscsi_bhs bhs;
	uint32_t n = 0;
	uint8_t status;
	int fd;

	server_start(&server);
	fd = dial(&server);
	assert_true(fd >= 0);
	assert_true(put_login(fd, 0, LOGIN_AT_ONCE, pieces, sizeof(pieces)) && get_pdu(fd, &bhs));
	assert_int_equal(bhs.opcode, ISCSI_LOGIN_RESPONSE);
	assert_true(put_command(fd, 1, 0, 0x00, 0) && get_response(fd, 1, &status));
	assert_true(put_command(fd, 2, ISCSI_COMMAND_READ, 0x28, 32768));
	usleep(100000);
	sem_init(&u.done, 0, 0);
	u.op = (struct scsi_lun_op){
		.target = server.target,
		.loop = loop_set_at(server.set, 0),
		.done = unplugged,
	};
	loop_post(u.op.loop, &u.msg);
	usleep(100000);
	for (;; n++) {
		assert_true(get_pdu(fd, &bhs));
		if (bhs.opcode != ISCSI_DATA_IN)
			break;
		assert_int_equal(be32_get(((struct iscsi_data_in *)(void *)&bhs)->data_sn), n);
	}
	assert_int_equal(bhs.opcode, ISCSI_SCSI_RESPONSE);
	assert_int_equal(((struct iscsi_scsi_response *)(void *)&bhs)->status, 2);
	assert_int_equal(be32_get(((struct iscsi_scsi_response *)(void *)&bhs)->exp_data_sn), n);
	/* More than fits into the sockets. */
	assert_in_range(n, 1, 32768 - 1);
	sem_wait(&u.done);
	sem_destroy(&u.done);
	close(fd);
	server_stop(&server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fight_for_names),
		cmocka_unit_test(test_same_name_at_once),
		cmocka_unit_test(test_stop_under_load),
		cmocka_unit_test(test_lun_goes_while_its_data_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
