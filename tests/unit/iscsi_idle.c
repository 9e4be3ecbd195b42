/*
 * What a connection may keep waiting, and for how long: logins, pings, Data-Out, a peer that does not
 * read, goodbyes. A whole server whose clock is the test's: clock_gettime() is wrapped by the linker, so
 * minutes pass in no time and nothing depends on how busy the machine is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdatomic.h>

#include "../lib/world.h"

/* ---- Time ---- */

#define NS_PER_MS UINT64_C(1000000)

static atomic_uint_least64_t clock_ms = 1000000;

int __real_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts);

int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	const uint64_t ms = clock_ms;

	if (id != CLOCK_MONOTONIC)
		return __real_clock_gettime(id, ts);
	*ts = (struct timespec){.tv_sec = (time_t)(ms / 1000),
				.tv_nsec = (long)(ms % 1000 * NS_PER_MS)};
	return 0;
}

static struct world w;
static struct peer p;
static size_t taken; /* of what came, the PDU that was looked at last */

static void turns(void)
{
	for (unsigned i = 0; i < WORLD_QUIET; i++)
		world_turn(&w);
}

static void pass_ms(uint64_t ms)
{
	clock_ms += ms;
	turns();
}

static void pass(unsigned seconds)
{
	for (unsigned i = 0; i < seconds; i++)
		pass_ms(1000);
}

/* ---- The initiator ---- */

static bool is_open(void)
{
	turns();
	return w.iscsi->nconns != 0;
}

/* It stays for `from` seconds, and is gone within `to`. */
static void closes_after(unsigned from, unsigned to)
{
	pass(from);
	assert_true(is_open());
	pass(to - from);
	assert_false(is_open());
}

/* Now; NULL: nothing. */
static const struct iscsi_bhs *next_pdu(void)
{
	turns();
	while (peer_receive(&p))
		turns();
	if (p.len - taken < ISCSI_BHS_LEN)
		return NULL;
	return peer_pdu(&p, &taken);
}

static const struct iscsi_bhs *expect(enum iscsi_opcode opcode)
{
	const struct iscsi_bhs *bhs = next_pdu();

	assert_non_null(bhs);
	assert_int_equal(bhs->opcode, opcode);
	return bhs;
}

static void expect_nothing(void)
{
	assert_null(next_pdu());
	assert_false(p.closed);
}

static void log_in(void)
{
	static const char text[] = WORLD_WHO "MaxBurstLength=65536\0";

	peer_put_login(&p, PEER_TO_FULL, text, sizeof(text) - 1);
	expect(ISCSI_LOGIN_RESPONSE);
}

static void put(const void *pdu)
{
	peer_send(&p, pdu, ISCSI_BHS_LEN);
	turns();
}

static void put_nop(uint32_t itt, uint32_t ttt)
{
	put(&(struct iscsi_bhs){
		.opcode = ISCSI_NOP_OUT | ISCSI_IMMEDIATE,
		.flags = ISCSI_FINAL,
		.itt = be32_of(itt),
		.ttt = be32_of(ttt),
		.sn = be32_of(p.cmd_sn),
	});
}

static void put_command(uint32_t itt, uint8_t flags, uint8_t opcode, uint16_t blocks)
{
	struct iscsi_scsi_command r = {
		.opcode = ISCSI_SCSI_COMMAND,
		.flags = ISCSI_FINAL | ISCSI_ATTR_SIMPLE | flags,
		.itt = be32_of(itt),
		.expected_len = be32_of(blocks * 512u),
		.cmd_sn = be32_of(p.cmd_sn++),
		.cdb = {opcode},
	};

	store_be16(r.cdb + 7, blocks);
	put(&r);
}

/* The tag of the R2T. */
static uint32_t begin_write(uint16_t blocks)
{
	put_command(1, 0, 0x00, 0); /* takes the unit attention */
	expect(ISCSI_SCSI_RESPONSE);
	put_command(2, ISCSI_COMMAND_WRITE, 0x2a, blocks);
	return be32_get(expect(ISCSI_R2T)->ttt);
}

static void put_block(uint32_t ttt, uint32_t number, bool last)
{
	static const uint8_t data[512];
	struct iscsi_data_out d = {
		.opcode = ISCSI_DATA_OUT,
		.flags = last ? ISCSI_FINAL : 0,
		.data_len = be24_of(sizeof(data)),
		.itt = be32_of(2),
		.ttt = be32_of(ttt),
		.data_sn = be32_of(number),
		.offset = be32_of(number * 512),
	};

	peer_send(&p, &d, sizeof(d));
	peer_send(&p, data, sizeof(data));
	turns();
}

/* More than the socket takes is on its way, and nobody reads. */
static void stop_reading(void)
{
	put_command(1, 0, 0x00, 0);
	expect(ISCSI_SCSI_RESPONSE);
	for (uint32_t i = 0; i < 4; i++)
		put_command(2 + i, ISCSI_COMMAND_READ, 0x28, 1024);
	turns();
}

/* ---- Life of a test ---- */

static int up(void **state)
{
	world_open(&w, "ram:1M", 512, (struct iscsi_config){0});
	peer_open(&p, &w);
	taken = 0;
	return 0;
}

static int down(void **state)
{
	peer_close(&p);
	w.iscsi->stopping = w.iscsi->stop_told = false; /* world_close() stops it once more */
	world_close(&w);
	return 0;
}

static int up_logged_in(void **state)
{
	up(state);
	log_in();
	return 0;
}

/* ---- Logins ---- */

static void who_says_nothing(void **state)
{
	closes_after(14, 16);
}

static void who_stays_in_the_login(void **state)
{
	static const char text[] = WORLD_WHO;

	peer_put_login(&p, ISCSI_OPERATIONAL << 2, text, sizeof(text) - 1);
	expect(ISCSI_LOGIN_RESPONSE);
	closes_after(14, 16);
}

/* Each byte is a sign of life, and none buys time. */
static void who_logs_in_byte_by_byte(void **state)
{
	const uint8_t byte = ISCSI_LOGIN | ISCSI_IMMEDIATE;

	for (unsigned i = 0; i < 14; i++) {
		peer_send(&p, &byte, 1);
		pass(1);
	}
	assert_true(is_open());
	pass(2);
	assert_false(is_open());
}

static void who_logs_in_late_stays(void **state)
{
	pass(13);
	log_in();
	pass(45);
	expect_nothing();
}

/* ---- Pings ---- */

/* One, with a tag to answer it by. */
static uint32_t expect_ping(void)
{
	const struct iscsi_bhs *bhs = expect(ISCSI_NOP_IN);
	const uint32_t ttt = be32_get(bhs->ttt);

	assert_int_equal(be32_get(bhs->itt), ISCSI_RESERVED_TAG);
	assert_int_not_equal(ttt, ISCSI_RESERVED_TAG);
	expect_nothing();
	return ttt;
}

static uint32_t ping_of_an_idle_one(void)
{
	pass(59);
	expect_nothing();
	pass(12);
	return expect_ping();
}

static void idle_ones_are_pinged_and_stay_if_they_answer(void **state)
{
	for (unsigned i = 0; i < 5; i++) {
		const uint32_t ttt = ping_of_an_idle_one();

		pass(5);
		put_nop(ISCSI_RESERVED_TAG, ttt);
		expect_nothing();
	}
}

/* And not asked twice. */
static void no_answer_ends_the_connection(void **state)
{
	ping_of_an_idle_one();
	pass(18);
	expect_nothing();
	closes_after(0, 25);
}

/* A PDU that says something else shows that it is there. */
static void whoever_is_busy_need_not_answer(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		ping_of_an_idle_one();
		pass(10);
		put_nop(7, ISCSI_RESERVED_TAG);
		assert_int_equal(be32_get(expect(ISCSI_NOP_IN)->itt), 7);
	}
}

static void who_is_heard_is_not_pinged(void **state)
{
	for (uint32_t i = 0; i < 12; i++) {
		pass(50);
		put_nop(i, ISCSI_RESERVED_TAG);
		assert_int_equal(be32_get(expect(ISCSI_NOP_IN)->itt), i);
		expect_nothing();
	}
}

/* ---- What stands still ---- */

static void data_out_that_does_not_come(void **state)
{
	begin_write(4);
	closes_after(29, 42);
}

/* Whatever else the initiator says meanwhile. */
static void pings_are_no_data(void **state)
{
	begin_write(4);
	for (uint32_t i = 0; i < 29; i++) {
		pass(1);
		put_nop(i, ISCSI_RESERVED_TAG);
		assert_int_equal(be32_get(expect(ISCSI_NOP_IN)->itt), i);
	}
	for (uint32_t i = 0; i < 13 && is_open(); i++) {
		pass(1);
		put_nop(i, ISCSI_RESERVED_TAG);
	}
	assert_false(is_open());
}

static void data_out_that_comes_slowly(void **state)
{
	const uint32_t ttt = begin_write(8);

	for (uint32_t i = 0; i < 8; i++) {
		pass(20);
		expect_nothing();
		put_block(ttt, i, i == 7);
	}
	expect(ISCSI_SCSI_RESPONSE);
	pass(45); /* it waits for nothing any more */
	expect_nothing();
}

static void who_does_not_read(void **state)
{
	stop_reading();
	closes_after(29, 42);
}

/* So slowly that the ping, which waits behind the data, cannot be answered in time. */
static void who_reads_slowly(void **state)
{
	size_t got = 0;

	stop_reading();
	for (unsigned i = 0; i < 8; i++) {
		pass(20);
		assert_true(is_open());
		p.len = 0;
		assert_true(peer_receive(&p));
		got += p.len;
	}
	assert_true(got < 4 * 1024 * 512); /* it was on its way all the time */
}

/* ---- Goodbyes ---- */

static void a_logout_response_that_is_not_read(void **state)
{
	stop_reading();
	put(&(struct iscsi_logout){.opcode = ISCSI_LOGOUT | ISCSI_IMMEDIATE,
				   .reason = ISCSI_FINAL,
				   .itt = be32_of(99),
				   .cmd_sn = be32_of(p.cmd_sn)});
	closes_after(9, 11);
}

static void stop_run(void *arg)
{
	iscsi_stop(w.iscsi, 5000, world_stopped, &w);
}

static const struct iscsi_async *expect_event(enum iscsi_async_event event)
{
	const struct iscsi_async *a = (const void *)expect(ISCSI_ASYNC);

	assert_int_equal(a->event, event);
	return a;
}

static void a_stop_waits_for_its_grace_and_no_longer(void **state)
{
	begin_write(4);
	world_call(&w, stop_run, NULL);
	assert_int_equal(be16_get(expect_event(ISCSI_ASYNC_LOGOUT)->parameter3), 5);
	pass(4);
	expect_nothing();
	closes_after(0, 2);
	expect_event(ISCSI_ASYNC_DROP_SESSION);
	assert_true(w.stopped);
}

/* The initiator is given a moment to close first; what it says then is not heard. */
static void a_busy_session_lingers(void **state)
{
	const uint32_t ttt = begin_write(1);

	world_call(&w, stop_run, NULL);
	expect_event(ISCSI_ASYNC_LOGOUT);
	put_block(ttt, 0, true);
	expect(ISCSI_SCSI_RESPONSE);
	expect_event(ISCSI_ASYNC_DROP_SESSION);
	assert_null(next_pdu());
	assert_true(p.closed); /* the end was read, */
	pass_ms(400);
	put_nop(1, ISCSI_RESERVED_TAG);
	assert_true(is_open()); /* and it is still there to read */
	pass_ms(200);
	assert_false(is_open());
	assert_true(w.stopped);
}

static void it_ends_when_the_initiator_closes(void **state)
{
	const uint32_t ttt = begin_write(1);

	world_call(&w, stop_run, NULL);
	put_block(ttt, 0, true);
	assert_true(is_open());
	shutdown(p.fd, SHUT_RDWR);
	assert_false(is_open());
	assert_true(w.stopped);
}

static void an_idle_session_is_closed_at_once(void **state)
{
	world_call(&w, stop_run, NULL);
	assert_false(is_open());
	expect_event(ISCSI_ASYNC_DROP_SESSION);
	assert_true(w.stopped);
}

#define LOGIN(f) cmocka_unit_test_setup_teardown(f, up, down)
#define TEST(f)  cmocka_unit_test_setup_teardown(f, up_logged_in, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOGIN(who_says_nothing),
		LOGIN(who_stays_in_the_login),
		LOGIN(who_logs_in_byte_by_byte),
		LOGIN(who_logs_in_late_stays),
		TEST(idle_ones_are_pinged_and_stay_if_they_answer),
		TEST(no_answer_ends_the_connection),
		TEST(whoever_is_busy_need_not_answer),
		TEST(who_is_heard_is_not_pinged),
		TEST(data_out_that_does_not_come),
		TEST(pings_are_no_data),
		TEST(data_out_that_comes_slowly),
		TEST(who_does_not_read),
		TEST(who_reads_slowly),
		TEST(a_logout_response_that_is_not_read),
		TEST(a_stop_waits_for_its_grace_and_no_longer),
		TEST(a_busy_session_lingers),
		TEST(it_ends_when_the_initiator_closes),
		TEST(an_idle_session_is_closed_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
