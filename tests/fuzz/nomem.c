/*
 * Every allocation of the server fails once: the n-th, for each n from the first on, through login, I/O,
 * text exchange, task management and logout, until a run has fewer than n. And the same with all from
 * the n-th on failing, as on a machine that has no memory left.
 *
 * Whatever fails, the server answers or closes the connection; it does not crash, hang or leak (the
 * sanitizers look), a write that it acknowledged is there, and the next login and its I/O go well.
 *
 * The linker puts wrappers in the place of malloc and its like (-Wl,--wrap).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/mman.h>

#include "../lib/world.h"

#define BLOCK  512
#define LARGE  (96 * BLOCK) /* a payload that is read into its place */
#define RUNS   2000         /* more allocations than one run has by far */
#define FILLER 0x5a

/* ---- Allocations that fail ---- */

static struct {
	uint64_t count; /* since it was armed */
	uint64_t fails; /* the number of the one that fails; 0: none */
	bool and_after;
} plan;

static bool fails_now(void)
{
	if (plan.fails == 0)
		return false;
	plan.count++;
	return plan.and_after ? plan.count >= plan.fails : plan.count == plan.fails;
}

void *__real_malloc(size_t len);
void *__real_calloc(size_t n, size_t len);
void *__real_realloc(void *p, size_t len);
void *__real_aligned_alloc(size_t align, size_t len);
char *__real_strdup(const char *s);
void *__real_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);

void *__wrap_malloc(size_t len);
void *__wrap_calloc(size_t n, size_t len);
void *__wrap_realloc(void *p, size_t len);
void *__wrap_aligned_alloc(size_t align, size_t len);
char *__wrap_strdup(const char *s);
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);

void *__wrap_malloc(size_t len)
{
	return fails_now() ? NULL : __real_malloc(len);
}

void *__wrap_calloc(size_t n, size_t len)
{
	return fails_now() ? NULL : __real_calloc(n, len);
}

void *__wrap_realloc(void *p, size_t len)
{
	return fails_now() ? NULL : __real_realloc(p, len);
}

void *__wrap_aligned_alloc(size_t align, size_t len)
{
	return fails_now() ? NULL : __real_aligned_alloc(align, len);
}

char *__wrap_strdup(const char *s)
{
	return fails_now() ? NULL : __real_strdup(s);
}

void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	return fails_now() ? MAP_FAILED : __real_mmap(at, len, prot, flags, fd, off);
}

/* ---- An initiator that takes any end ---- */

struct client {
	struct peer peer;
	size_t taken;
	uint32_t itt;
	uint8_t data[LARGE];
};

/* The next PDU; NULL: the server closed. */
static const struct iscsi_bhs *next_pdu(struct client *c)
{
	return peer_pdu(&c->peer, &c->taken);
}

static void put(struct client *c, struct iscsi_bhs *bhs, const void *data, size_t len)
{
	static const uint8_t zeros[4];

	bhs->data_len = be24_of(low_u32(len));
	peer_send(&c->peer, bhs, sizeof(*bhs));
	if (len != 0)
		peer_send(&c->peer, data, len);
	peer_send(&c->peer, zeros, pdu_padding(low_u32(len)));
}

/* In two requests; false: it did not go well. */
static bool log_in(struct client *c)
{
	static const char security[] = WORLD_WHO "AuthMethod=None\0";
	static const char keys[] = "MaxRecvDataSegmentLength=65536\0InitialR2T=Yes\0";
	const struct iscsi_bhs *bhs;

	peer_put_login(&c->peer, ISCSI_FINAL | ISCSI_SECURITY << 2 | ISCSI_OPERATIONAL, security,
		       sizeof(security) - 1);
	bhs = next_pdu(c);
	if (bhs == NULL || (bhs->flags & ISCSI_FINAL) == 0)
		return false;
	peer_put_login(&c->peer, PEER_TO_FULL, keys, sizeof(keys) - 1);
	bhs = next_pdu(c);
	return bhs != NULL && (bhs->flags & ISCSI_FINAL) != 0;
}

static void put_data(struct client *c, const struct iscsi_r2t *r2t)
{
	const uint32_t off = be32_get(r2t->offset), len = be32_get(r2t->desired_len);
	struct iscsi_data_out d = {
		.opcode = ISCSI_DATA_OUT,
		.flags = ISCSI_FINAL,
		.itt = r2t->itt,
		.ttt = r2t->ttt,
		.offset = r2t->offset,
	};

	assert_true(off + len <= LARGE);
	put(c, (void *)&d, c->data + off, len);
}

/* Its status; -1: the connection is gone, or it was rejected. */
static int command(struct client *c, const uint8_t *cdb, uint8_t flags, uint32_t expected,
		   uint32_t immediate)
{
	struct iscsi_scsi_command r = {
		.opcode = ISCSI_SCSI_COMMAND,
		.flags = ISCSI_FINAL | flags | ISCSI_ATTR_SIMPLE,
		.itt = be32_of(++c->itt),
		.expected_len = be32_of(expected),
		.cmd_sn = be32_of(c->peer.cmd_sn++),
	};
	const struct iscsi_bhs *bhs;

	memcpy(r.cdb, cdb, 10);
	put(c, (void *)&r, c->data, immediate);
	while ((bhs = next_pdu(c)) != NULL && bhs->opcode != ISCSI_REJECT) {
		const struct iscsi_data_in *in = (const void *)bhs;

		if (bhs->opcode == ISCSI_R2T)
			put_data(c, (const void *)bhs);
		else if (bhs->opcode == ISCSI_SCSI_RESPONSE)
			return ((const struct iscsi_scsi_response *)(const void *)bhs)->status;
		if (bhs->opcode != ISCSI_DATA_IN)
			continue;
		assert_true(be32_get(in->offset) + be24_get(in->data_len) <= LARGE);
		memcpy(c->data + be32_get(in->offset), in + 1, be24_get(in->data_len));
		if ((in->flags & ISCSI_DATA_IN_STATUS) != 0)
			return in->status;
	}
	return -1;
}

static int ready(struct client *c)
{
	return command(c, (const uint8_t[10]){0x00}, 0, 0, 0);
}

static int transfer(struct client *c, uint8_t opcode, uint16_t lba, uint32_t len,
		    uint32_t immediate)
{
	uint8_t cdb[10] = {opcode};

	store_be32(cdb + 2, lba);
	store_be16(cdb + 7, low_u16(len / BLOCK));
	return command(c, cdb, opcode == 0x28 ? ISCSI_COMMAND_READ : ISCSI_COMMAND_WRITE, len,
		       immediate);
}

/* Before its turn, so that it is kept; then what it waits for. */
static void out_of_turn(struct client *c)
{
	struct iscsi_bhs bhs = {.opcode = ISCSI_NOP_OUT, .flags = ISCSI_FINAL};

	bhs.ttt = be32_of(ISCSI_RESERVED_TAG);
	for (unsigned i = 0; i < 2; i++) {
		bhs.itt = be32_of(++c->itt);
		bhs.sn = be32_of(c->peer.cmd_sn + 1 - i);
		put(c, &bhs, "some data", 9);
	}
	c->peer.cmd_sn += 2;
	if (next_pdu(c) != NULL)
		(void)next_pdu(c);
}

static void other_request(struct client *c, uint8_t opcode, uint8_t flags, const char *data,
			  size_t len)
{
	struct iscsi_bhs bhs = {
		.opcode = opcode | ISCSI_IMMEDIATE,
		.flags = ISCSI_FINAL | flags,
		.itt = be32_of(++c->itt),
		.ttt = be32_of(opcode == ISCSI_LOGOUT ? 0 : ISCSI_RESERVED_TAG),
		.sn = be32_of(c->peer.cmd_sn),
	};

	put(c, &bhs, data, len);
	(void)next_pdu(c);
}

/* ---- One run ---- */

/* What was acknowledged. */
struct written {
	bool small, large;
};

static void fill(struct client *c, uint8_t byte)
{
	memset(c->data, byte, sizeof(c->data));
}

/* All of it, as far as it goes. */
static void use(struct client *c, struct written *w)
{
	static const char sends[] = "SendTargets=\0X-key=value\0";

	if (!log_in(c))
		return;
	(void)ready(c);
	(void)ready(c);
	fill(c, FILLER);
	w->small = transfer(c, 0x2a, 0, 4 * BLOCK, BLOCK) == SCSI_GOOD;
	fill(c, FILLER);
	w->large = transfer(c, 0x2a, 8, LARGE, LARGE) == SCSI_GOOD;
	fill(c, 0);
	(void)transfer(c, 0x28, 0, LARGE, 0);
	(void)command(c, (const uint8_t[10]){0x12, 1, 0x83, 0, 255}, ISCSI_COMMAND_READ, 255, 0);
	(void)command(c, (const uint8_t[10]){0x5a, 0, 0x3f, 0, 0, 0, 0, 1, 0}, ISCSI_COMMAND_READ,
		      256, 0);
	memset(c->data, 0, 8);
	(void)command(c, (const uint8_t[10]){0x42, 0, 0, 0, 0, 0, 0, 0, 8}, ISCSI_COMMAND_WRITE, 8,
		      8);
	(void)command(c, (const uint8_t[10]){0x41, 0, 0, 0, 2, 0, 0, 0, 64}, ISCSI_COMMAND_WRITE,
		      BLOCK, BLOCK);
	other_request(c, ISCSI_NOP_OUT, 0, "ping", 4);
	other_request(c, ISCSI_TEXT, 0, sends, sizeof(sends) - 1);
	other_request(c, ISCSI_TASK_MANAGEMENT, 5, NULL, 0);
	(void)ready(c);
	out_of_turn(c);
	other_request(c, ISCSI_LOGOUT, 0, NULL, 0);
}

static void check_data(struct client *c, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(c->data[i], FILLER);
}

/* With memory again all is as ever. */
static void use_well(struct world *w, const struct written *before)
{
	struct client c = {0};
	int status;

	peer_open(&c.peer, w);
	assert_false(c.peer.refused);
	assert_true(log_in(&c));
	do
		status = ready(&c);
	while (status == SCSI_CHECK_CONDITION && c.itt < 8);
	assert_int_equal(status, SCSI_GOOD);
	assert_int_equal(transfer(&c, 0x28, 0, 4 * BLOCK, 0), SCSI_GOOD);
	if (before->small)
		check_data(&c, 4 * BLOCK);
	assert_int_equal(transfer(&c, 0x28, 8, LARGE, 0), SCSI_GOOD);
	if (before->large)
		check_data(&c, LARGE);
	fill(&c, 1);
	assert_int_equal(transfer(&c, 0x2a, 0, LARGE, 0), SCSI_GOOD);
	fill(&c, 0);
	assert_int_equal(transfer(&c, 0x28, 0, LARGE, 0), SCSI_GOOD);
	assert_int_equal(c.data[0], 1);
	assert_int_equal(c.data[LARGE - 1], 1);
	peer_close(&c.peer);
}

/* false: no allocation was left to fail. */
static bool run(uint64_t fails, bool and_after)
{
	struct written written = {0};
	struct client c = {0};
	struct world w;

	world_open(&w, "ram:1M", BLOCK, (struct iscsi_config){0});
	/* The client's own memory is there in time. */
	peer_prepare(&c.peer, &w);
	plan.count = 0;
	plan.and_after = and_after;
	plan.fails = fails;
	peer_connect(&c.peer);
	if (!c.peer.refused)
		use(&c, &written);
	plan.fails = 0;
	peer_close(&c.peer);
	use_well(&w, &written);
	world_close(&w);
	return plan.count >= fails;
}

static void run_all(bool and_after)
{
	uint64_t n = 1;

	while (run(n, and_after)) {
		n++;
		assert_true(n < RUNS);
	}
	printf("%llu allocations, each failed once\n", (unsigned long long)n - 1);
	assert_true(n > 10); /* else the wrappers are not where they should be */
}

static void one_allocation_fails(void **state)
{
	run_all(false);
}

static void all_allocations_fail_from_one_on(void **state)
{
	run_all(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_allocation_fails),
		cmocka_unit_test(all_allocations_fail_from_one_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
