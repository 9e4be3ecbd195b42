/*
 * CDBs: every row against what is really accepted. Reserved bits with their field pointers, unknown
 * opcodes and service actions, LUN addressing, task attributes, REPORT SUPPORTED OPERATION CODES.
 */
#include "scsi_fixture.h"

static struct fx fx;
static struct fx_nexus nexus;

static int up(void **state)
{
	fx_up(&fx, "ram:16M", 512);
	fx_open(&fx, &nexus);
	fx_take_power_on(&nexus, 0);
	return 0;
}

static int down(void **state)
{
	fx_close(&nexus);
	fx_down(&fx);
	return 0;
}

/* A CDB of the row in which nothing is asked for that could fail. */
static void plain_cdb(const struct scsi_cmd *cmd, uint8_t cdb[static 16])
{
	memset(cdb, 0, 16);
	cdb[0] = cmd->opcode;
	if (cmd->service_action != CMD_NO_SA)
		cdb[1] = cmd->service_action;
	if (cmd->opcode == 0x1a || cmd->opcode == 0x5a)
		cdb[2] = 0x3f;
	if (cmd->opcode == 0x1b)
		cdb[4] = 0x01;
}

static bool may_be_set(const struct scsi_cmd *cmd, unsigned byte, unsigned bit)
{
	return byte == 0 || byte >= cmd->cdb_len || (cmd->mask[byte] >> bit & 1) ||
	       (byte == 1 && cmd->service_action != CMD_NO_SA && bit < 5);
}

static void rows_accept_their_plain_cdb(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();

	for (unsigned i = 0; i < list.n; i++) {
		uint8_t cdb[16];
		struct fx_task *ft;

		plain_cdb(&list.rows[i], cdb);
		ft = fx_cmd(&nexus, cdb, 16, 0);
		fx_good(ft);
		fx_task_free(ft);
	}
}

static void each_reserved_bit_is_refused_where_it_stands(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();
	unsigned refused = 0;

	for (unsigned i = 0; i < list.n; i++) {
		const struct scsi_cmd *cmd = &list.rows[i];

		for (unsigned at = 8; at < 8u * cmd->cdb_len; at++) {
			uint8_t cdb[16];
			struct fx_task *ft;

			if (may_be_set(cmd, at / 8, at % 8))
				continue;
			plain_cdb(cmd, cdb);
			cdb[at / 8] |= (uint8_t)(1 << at % 8);
			ft = fx_cmd(&nexus, cdb, 16, 0);
			fx_bad_field(ft, at / 8, at % 8);
			fx_task_free(ft);
			refused++;
		}
	}
	assert_true(refused > 200);
}

static void the_leftmost_bit_of_the_first_byte_is_shown(void **state)
{
	struct fx_task *ft = FX_CMD(&nexus, 0, 0x28, 0xe7, 0, 0, 0, 0, 0xc0, 0, 0, 0xff);

	fx_bad_field(ft, 1, 7);
	fx_task_free(ft);
	/* GROUP NUMBER has five bits in SBC-3. */
	ft = FX_CMD(&nexus, 0, 0x28, 0, 0, 0, 0, 0, 0x3f, 0, 0, 0);
	fx_bad_field(ft, 6, 5);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 0, 0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x04);
	fx_bad_field(ft, 14, 6);
	fx_task_free(ft);
}

static void what_follows_the_cdb_is_padding(void **state)
{
	struct fx_task *ft = FX_CMD(&nexus, 0, 0x00, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff,
				    0xff, 0xff, 0xff, 0xff, 0xff);

	fx_good(ft);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 0, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
	fx_good(ft);
	fx_task_free(ft);
}

static void naca_is_refused(void **state)
{
	struct fx_task *ft = FX_CMD(&nexus, 0, 0x00, 0, 0, 0, 0, 0x04);

	fx_bad_field(ft, 5, 2);
	fx_task_free(ft);
}

static void a_cdb_that_is_too_short_is_refused(void **state)
{
	struct fx_task *ft = fx_rw(&nexus, 0x88, 0, 0);

	ft->t.cdb_len = 10;
	fx_run(&fx, ft);
	fx_bad_field(ft, 10, 7);
	fx_task_free(ft);
}

/* ---- All opcodes and service actions against REPORT SUPPORTED OPERATION CODES ---- */

static struct fx_task *rsoc(uint8_t options, uint8_t opcode, uint16_t action, uint32_t len)
{
	uint8_t cdb[12] = {0xa3, 0x0c, options, opcode};

	store_be16(cdb + 4, action);
	store_be32(cdb + 6, len);
	return fx_cmd(&nexus, cdb, 12, len);
}

/* What the opcode does with this service action, told by its sense: 24/00 at byte 1 bit 4 is a
 * known opcode without this action. */
static bool is_accepted(uint8_t opcode, uint8_t action)
{
	/* START STOP UNIT with START=1, lest it stop the disk. */
	uint8_t cdb[16] = {opcode, action, 0, 0, opcode == 0x1b ? 1 : 0};
	struct fx_task *ft = fx_cmd(&nexus, cdb, 16, 0);
	const bool unknown = ft->t.status == SCSI_CHECK_CONDITION && ft->t.sense[12] == 0x20;
	const bool no_action = ft->t.status == SCSI_CHECK_CONDITION && ft->t.sense[12] == 0x24 &&
			       ft->t.sense[15] == 0xcc && load_be16(ft->t.sense + 16) == 1;

	fx_task_free(ft);
	return !unknown && !no_action;
}

static void supported_is_what_is_accepted(void **state)
{
	for (unsigned opcode = 0; opcode < 256; opcode++) {
		struct fx_task *one = rsoc(1, (uint8_t)opcode, 0, 4);
		/* Refused: the opcode has service actions. */
		const bool actions = one->t.status != SCSI_GOOD;

		if (actions)
			fx_bad_field(one, 2, 2);
		else
			assert_int_equal(is_accepted((uint8_t)opcode, 0), one->data[1] == 0x03);
		fx_task_free(one);
		for (unsigned action = 0; action < 32 && actions; action++) {
			struct fx_task *ft = rsoc(3, (uint8_t)opcode, (uint16_t)action, 4);

			fx_good(ft);
			assert_true(ft->data[1] == 0x01 || ft->data[1] == 0x03);
			assert_int_equal(is_accepted((uint8_t)opcode, (uint8_t)action),
					 ft->data[1] == 0x03);
			fx_task_free(ft);
		}
	}
}

static void all_commands_are_listed_once_and_each_is_told_alone(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();
	struct fx_task *all = rsoc(0, 0, 0, 65536);
	const uint32_t len = load_be32(all->data);

	fx_good(all);
	assert_int_equal(len, 8 * list.n);
	fx_residual(all, 65536 - 4 - len, 0);
	for (unsigned i = 0; i < list.n; i++) {
		const struct scsi_cmd *cmd = &list.rows[i];
		const uint8_t *d = all->data + 4 + 8 * i;
		const bool actions = d[5] & 1;
		struct fx_task *one = rsoc(actions ? 2 : 1, d[0], load_be16(d + 2), 256);
		uint8_t mask[16];

		assert_int_equal(d[0], cmd->opcode);
		assert_int_equal(d[5], cmd->service_action != CMD_NO_SA);
		assert_int_equal(load_be16(d + 6), cmd->cdb_len);
		fx_good(one);
		fx_residual(one, 256 - 4u - cmd->cdb_len, 0);
		assert_int_equal(one->data[0], 0);
		assert_int_equal(one->data[1], 0x03);
		assert_int_equal(load_be16(one->data + 2), cmd->cdb_len);
		memcpy(mask, cmd->mask, 16);
		mask[0] = cmd->opcode;
		if (actions)
			mask[1] = (uint8_t)((mask[1] & 0xe0) | cmd->service_action);
		assert_memory_equal(one->data + 4, mask, cmd->cdb_len);
		fx_task_free(one);
	}
	fx_task_free(all);
}

static void timeouts_are_told_when_asked_for(void **state)
{
	static const uint8_t read_10[26] = {0,    0x83, 0,    10,   0x28, 0x18, 0xff, 0xff, 0xff,
					    0xff, 0x1f, 0xff, 0xff, 0,    0,    0x0a, 0,    0,
					    0,    0,    0,    0,    0,    0,    0,    30};
	struct fx_task *ft = rsoc(0x81, 0x28, 0, 255);

	fx_good(ft);
	assert_memory_equal(ft->data, read_10, sizeof(read_10));
	fx_residual(ft, 255 - 26, 0);
	fx_task_free(ft);
	ft = rsoc(0x80, 0, 0, 65536);
	fx_good(ft);
	assert_int_equal(load_be32(ft->data), 20 * scsi_commands().n);
	assert_int_equal(ft->data[4 + 5], 0x02);
	assert_int_equal(load_be16(ft->data + 12), 0x000a);
	fx_task_free(ft);
}

static void reporting_options_are_checked(void **state)
{
	static const struct {
		uint8_t option, opcode;
		uint16_t action;
		int support; /* -1: refused */
	} rows[] = {
		{1, 0x28, 0, 3},    {1, 0x29, 0, 1},      {1, 0x9e, 0x10, -1}, {2, 0x9e, 0x10, 3},
		{2, 0x9e, 0x11, 1}, {2, 0x9e, 0x0110, 1}, {2, 0x28, 0, -1},    {2, 0x29, 0, 1},
		{3, 0x28, 0, 3},    {3, 0x28, 1, 1},      {3, 0x9e, 0x10, 3},  {3, 0x9e, 0x11, 1},
		{3, 0x29, 0, 1},    {4, 0x28, 0, -1},     {7, 0, 0, -1},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fx_task *ft = rsoc(rows[i].option, rows[i].opcode, rows[i].action, 64);

		if (rows[i].support < 0) {
			fx_bad_field(ft, 2, 2);
		} else {
			fx_good(ft);
			assert_int_equal(ft->data[1], rows[i].support);
		}
		fx_task_free(ft);
	}
}

static void unknown_opcodes_and_actions(void **state)
{
	struct fx_task *ft = FX_CMD(&nexus, 0, 0xff, 0, 0, 0, 0, 0);

	fx_sense(ft, 0x5, 0x20, 0x00);
	assert_int_equal(ft->t.sense[15], 0);
	fx_task_free(ft);
	ft = FX_CMD(&nexus, 0, 0xa3, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
	fx_bad_field(ft, 1, 4);
	fx_task_free(ft);
}

/* ---- LUNs ---- */

static uint8_t sense_of_lun(const uint8_t lun[static 8])
{
	struct fx_task *ft = fx_task_new(&nexus, (const uint8_t[6]){0}, 6);
	uint8_t asc;

	memcpy(ft->t.lun, lun, 8);
	fx_run(&fx, ft);
	asc = ft->t.status == SCSI_GOOD ? 0 : ft->t.sense[12];
	fx_task_free(ft);
	return asc;
}

static void lun_addressing(void **state)
{
	static const struct {
		uint8_t lun[8];
		bool found;
	} rows[] = {
		{{0, 0}, true},
		{{0x40, 0}, true},
		{{0, 1}, false},
		{{0x40, 1}, false},
		{{0x01, 0}, false},
		{{0x41, 0}, false},
		{{0x80, 0}, false},
		{{0xc0, 0}, false},
		{{0xc1, 0x01}, false},
		{{0, 0, 1}, false},
		{{0, 0, 0, 0, 0, 0, 0, 1}, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(sense_of_lun(rows[i].lun), rows[i].found ? 0 : 0x25);
}

static struct fx_task *cmd_at_lun_7(const uint8_t *cdb, uint8_t cdb_len, uint32_t expected)
{
	struct fx_task *ft = fx_task_new(&nexus, cdb, cdb_len);

	ft->t.lun[1] = 7;
	if (expected != 0)
		fx_expect_in(ft, expected);
	fx_run(&fx, ft);
	return ft;
}

static void what_is_answered_without_a_logical_unit(void **state)
{
	struct fx_task *ft = cmd_at_lun_7((const uint8_t[]){0x12, 0, 0, 0, 96, 0}, 6, 96);

	fx_good(ft);
	assert_int_equal(ft->data[0], 0x7f);
	assert_int_equal(ft->data[4], 91);
	assert_memory_equal(ft->data + 8, "                            ", 28);
	fx_task_free(ft);

	ft = cmd_at_lun_7((const uint8_t[]){0x12, 1, 0, 0, 96, 0}, 6, 96);
	fx_good(ft);
	assert_memory_equal(ft->data, ((const uint8_t[]){0x7f, 0, 0, 1, 0}), 5);
	fx_residual(ft, 91, 0);
	fx_task_free(ft);

	ft = cmd_at_lun_7((const uint8_t[]){0x12, 1, 0x83, 0, 96, 0}, 6, 96);
	fx_bad_field(ft, 2, 7);
	fx_task_free(ft);

	ft = cmd_at_lun_7((const uint8_t[]){0x03, 0, 0, 0, 18, 0}, 6, 18);
	fx_good(ft);
	assert_int_equal(ft->data[0], 0x70);
	assert_int_equal(ft->data[2], 0x05);
	assert_int_equal(ft->data[12], 0x25);
	fx_task_free(ft);

	ft = cmd_at_lun_7((const uint8_t[]){0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, 12, 64);
	fx_good(ft);
	assert_int_equal(load_be32(ft->data), 8);
	fx_task_free(ft);

	for (unsigned opcode = 0; opcode < 256; opcode++) {
		const uint8_t cdb[16] = {(uint8_t)opcode};

		if (opcode == 0x03 || opcode == 0x12 || opcode == 0xa0)
			continue;
		ft = cmd_at_lun_7(cdb, 16, 0);
		fx_sense(ft, 0x5, 0x25, 0x00);
		fx_task_free(ft);
	}
}

static void the_aca_attribute_is_refused(void **state)
{
	struct fx_task *ft = fx_task_new(&nexus, (const uint8_t[6]){0}, 6);

	ft->t.attr = SCSI_ACA;
	fx_run(&fx, ft);
	fx_sense(ft, 0x5, 0x49, 0x00);
	fx_task_free(ft);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_accept_their_plain_cdb),
		cmocka_unit_test(each_reserved_bit_is_refused_where_it_stands),
		cmocka_unit_test(the_leftmost_bit_of_the_first_byte_is_shown),
		cmocka_unit_test(what_follows_the_cdb_is_padding),
		cmocka_unit_test(naca_is_refused),
		cmocka_unit_test(a_cdb_that_is_too_short_is_refused),
		cmocka_unit_test(supported_is_what_is_accepted),
		cmocka_unit_test(all_commands_are_listed_once_and_each_is_told_alone),
		cmocka_unit_test(timeouts_are_told_when_asked_for),
		cmocka_unit_test(reporting_options_are_checked),
		cmocka_unit_test(unknown_opcodes_and_actions),
		cmocka_unit_test(lun_addressing),
		cmocka_unit_test(what_is_answered_without_a_logical_unit),
		cmocka_unit_test(the_aca_attribute_is_refused),
	};

	return cmocka_run_group_tests(tests, up, down);
}
