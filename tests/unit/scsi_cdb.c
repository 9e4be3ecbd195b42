/*
 * CDBs: every row against what is really accepted, on disks of several kinds. Reserved bits with their
 * field pointers, unknown opcodes and service actions, what stops a command, LUN addressing, task
 * attributes, REPORT SUPPORTED OPERATION CODES; and garbage.
 */
/* Little data a task: there are very many of them. */
#define FX_BUF_BYTES (128 * 1024u)

#include "scsi_fixture.h"

#include <inttypes.h>
#include <unistd.h>

/* A disk in memory, a file that is write-protected, and a disk that cannot discard. */
enum { LUN_MEMORY, LUN_READ_ONLY, LUN_THICK, NLUNS };

#define DISK_BYTES (1 * MiB)

static struct fx fx;
static struct fx_nexus nexus;
static struct fx_task *probe; /* sent over and over */

/* ---- Disks ---- */

static void add_read_only_file(void)
{
	char path[] = "/tmp/spindle-cdb-XXXXXX";
	const int fd = mkstemp(path);
	char spec[64];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)DISK_BYTES), 0);
	close(fd);
	snprintf(spec, sizeof(spec), "file:%s", path);
	fx_add_disk(&fx, spec, 512, true);
	unlink(path);
}

static void disks_up(void)
{
	fx_init(&fx);
	fx_add_disk(&fx, "ram:1M", 512, false);
	add_read_only_file();
	fx.cannot_discard = true;
	fx_add_disk(&fx, "ram:1M", 512, false);
	for (uint16_t lun = 0; lun < NLUNS; lun++)
		assert_int_equal(scsi_target_add_lun(fx.target, lun, fx.lus[lun]), 0);
	fx_start(&fx);
}

static int up(void **state)
{
	disks_up();
	fx_open(&fx, &nexus);
	for (uint8_t lun = 0; lun < NLUNS; lun++)
		fx_take_power_on(&nexus, lun);
	probe = fx_task_new(&nexus, (const uint8_t[6]){0}, 6);
	return 0;
}

static int down(void **state)
{
	fx_task_free(probe);
	fx_close(&nexus);
	fx_down(&fx);
	return 0;
}

/* Runs the probe with this CDB, which neither takes nor brings any data. */
static void send_cdb(uint8_t lun, const uint8_t cdb[static 16])
{
	memset(probe->t.cdb, 0, sizeof(probe->t.cdb));
	memcpy(probe->t.cdb, cdb, 16);
	probe->t.lun[1] = lun;
	probe->t.reads = probe->t.writes = false;
	probe->finished = false;
	probe->moved = 0;
	fx_run(&fx, probe);
}

static bool probe_says(uint8_t key, uint8_t asc, uint8_t ascq)
{
	return probe->t.status == SCSI_CHECK_CONDITION && probe->t.sense[2] == key &&
	       probe->t.sense[12] == asc && probe->t.sense[13] == ascq;
}

/* ---- What has an effect on a disk ---- */

struct footprint {
	uint64_t generation, changes;
};

static void look_run(void *arg)
{
	struct footprint *all = arg;

	for (unsigned lun = 0; lun < NLUNS; lun++) {
		struct unit_stats stats;

		unit_stats_read(fx.units[lun], &stats);
		all[lun].generation = itl_view(nexus.nexus.luns[lun])->generation;
		all[lun].changes =
			stats.op[IO_WRITE].ops + stats.op[IO_DISCARD].ops + stats.op[IO_ZERO].ops;
	}
}

static void look(struct footprint all[static NLUNS])
{
	fx_call(&fx, look_run, all);
}

/* ---- The rows ---- */

/* A CDB of the row in which nothing is asked for that could fail: zeros, but for these. */
static const struct plain {
	uint8_t opcode, action;
	struct {
		uint8_t at, value;
	} set[3];
	uint8_t list[12]; /* data-out, filled with zeros up to */
	uint32_t list_len;
} plains[] = {
	{0x1a, CMD_NO_SA, {{2, 0x3f}}},
	{0x1b, CMD_NO_SA, {{4, 0x01}}},                                    /* START */
	{0x3b, CMD_NO_SA, {{1, 0x02}}},                                    /* data */
	{0x3c, CMD_NO_SA, {{1, 0x03}}},                                    /* descriptor */
	{0x41, CMD_NO_SA, {{8, 0x01}}, .list_len = 512},                   /* one block */
	{0x48, 0x01, {{8, 0x08}}, .list = {0x01, 0, 0, 4}, .list_len = 8}, /* one pass */
	{0x5a, CMD_NO_SA, {{2, 0x3f}}},
	{0x93, CMD_NO_SA, {{13, 0x01}}, .list_len = 512},
};

static const struct plain *plain_of(const struct scsi_cmd *cmd)
{
	for (size_t i = 0; i < ARRAY_LEN(plains); i++) {
		if (plains[i].opcode == cmd->opcode && plains[i].action == cmd->service_action)
			return &plains[i];
	}
	return NULL;
}

static void plain_cdb(const struct scsi_cmd *cmd, uint8_t cdb[static 16])
{
	const struct plain *plain = plain_of(cmd);

	memset(cdb, 0, 16);
	cdb[0] = cmd->opcode;
	if (cmd->service_action != CMD_NO_SA)
		cdb[1] = cmd->service_action;
	for (size_t i = 0; plain != NULL && i < ARRAY_LEN(plain->set); i++) {
		if (plain->set[i].at != 0)
			cdb[plain->set[i].at] |= plain->set[i].value;
	}
}

static struct fx_task *plain_task(const struct scsi_cmd *cmd, struct fx_nexus *fn)
{
	const struct plain *plain = plain_of(cmd);
	struct fx_task *ft;
	uint8_t cdb[16];

	plain_cdb(cmd, cdb);
	ft = fx_task_new(fn, cdb, 16);
	if (plain != NULL && plain->list_len != 0) {
		fx_expect_out(ft, plain->list_len);
		memcpy(ft->data, plain->list, sizeof(plain->list));
	}
	return ft;
}

/* Each on disks of its own: some stop a disk, or rewrite it. */
static void rows_accept_their_plain_cdb(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();

	down(NULL);
	for (unsigned i = 0; i < list.n; i++) {
		struct fx_task *ft;

		up(NULL);
		ft = plain_task(&list.rows[i], &nexus);
		fx_run(&fx, ft);
		/* PRE-FETCH has a status of its own for what fits a cache (SBC-3 5.8). */
		if (ft->t.status != SCSI_GOOD && ft->t.status != SCSI_CONDITION_MET)
			fail_msg("%s: status %02x, sense %02x/%02x/%02x %02x %u", list.rows[i].name,
				 ft->t.status, ft->t.sense[2], ft->t.sense[12], ft->t.sense[13],
				 ft->t.sense[15], load_be16(ft->t.sense + 16));
		fx_task_free(ft);
		down(NULL);
	}
	up(NULL);
}

/* Where a service action stands, its bits are looked at before the mask. */
static bool may_be_set(const struct scsi_cmd *cmd, const uint8_t *mask, unsigned byte, unsigned bit)
{
	return byte == 0 || byte >= cmd->cdb_len || (mask[byte] >> bit & 1) ||
	       (byte == 1 && cmd->service_action != CMD_NO_SA && bit < 5);
}

static unsigned flip_reserved_bits(const struct scsi_cmd *cmd, uint8_t lun)
{
	uint8_t mask[SCSI_CDB_MAX];
	unsigned refused = 0;

	scsi_cmd_usage(cmd, fx.lus[lun], mask);
	for (unsigned at = 8; at < 8u * cmd->cdb_len; at++) {
		uint8_t cdb[16];

		if (may_be_set(cmd, mask, at / 8, at % 8))
			continue;
		plain_cdb(cmd, cdb);
		cdb[at / 8] |= (uint8_t)(1 << at % 8);
		send_cdb(lun, cdb);
		if (!probe_says(0x5, 0x24, 0x00))
			fail_msg("%s, LUN %u, byte %u bit %u: status %02x, sense %02x/%02x/%02x",
				 cmd->name, lun, at / 8, at % 8, probe->t.status, probe->t.sense[2],
				 probe->t.sense[12], probe->t.sense[13]);
		fx_bad_field(probe, at / 8, at % 8);
		refused++;
	}
	return refused;
}

static void each_reserved_bit_is_refused_where_it_stands(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();
	struct footprint before[NLUNS], after[NLUNS];
	unsigned refused = 0;

	look(before);
	for (uint8_t lun = 0; lun < NLUNS; lun++) {
		for (unsigned i = 0; i < list.n; i++) {
			if (scsi_cmd_exists(&list.rows[i], fx.lus[lun]))
				refused += flip_reserved_bits(&list.rows[i], lun);
		}
	}
	look(after);
	assert_memory_equal(before, after, sizeof(before));
	assert_true(refused > 600);
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

static struct fx_task *rsoc_at(uint8_t lun, uint8_t options, uint8_t opcode, uint16_t action,
			       uint32_t len)
{
	uint8_t cdb[12] = {0xa3, 0x0c, options, opcode};
	struct fx_task *ft;

	store_be16(cdb + 4, action);
	store_be32(cdb + 6, len);
	ft = fx_task_new(&nexus, cdb, 12);
	ft->t.lun[1] = lun;
	fx_expect_in(ft, len);
	fx_run(&fx, ft);
	return ft;
}

static struct fx_task *rsoc(uint8_t options, uint8_t opcode, uint16_t action, uint32_t len)
{
	return rsoc_at(LUN_MEMORY, options, opcode, action, len);
}

/* What becomes of the opcode with this service action. No command runs for it: the last bits of the
 * CDB are reserved, NACA among them, and looked at after opcode and action (SPC-4 table 292 has the
 * actions of an opcode that has some). */
static bool is_accepted(uint8_t lun, uint8_t opcode, uint8_t action, bool has_actions)
{
	static const uint8_t lengths[8] = {6, 10, 10, 16, 16, 12, 16, 16};
	uint8_t cdb[16] = {opcode, action};

	cdb[lengths[opcode >> 5] - 1] = 0xff;
	send_cdb(lun, cdb);
	assert_int_equal(probe->t.status, SCSI_CHECK_CONDITION);
	if (probe_says(0x5, 0x20, 0x00))
		return false;
	assert_true(probe_says(0x5, 0x24, 0x00));
	return !has_actions || probe->t.sense[15] != 0xcc || load_be16(probe->t.sense + 16) != 1;
}

/* Byte 1 of what REPORT SUPPORTED OPERATION CODES says of one command: 1 no, 3 yes; 0: refused. */
static uint8_t support(uint8_t lun, uint8_t options, uint8_t opcode, uint16_t action)
{
	struct fx_task *ft = rsoc_at(lun, options, opcode, action, 4);
	const uint8_t found = ft->t.status == SCSI_GOOD ? ft->data[1] & 0x07 : 0;

	if (found == 0)
		fx_bad_field(ft, 2, 2);
	fx_task_free(ft);
	return found;
}

/* For each opcode by the option that fits it, and for each action; the other options agree. */
static unsigned count_accepted(uint8_t lun, uint8_t opcode)
{
	const uint8_t alone = support(lun, 1, opcode, 0);
	const bool has_actions = alone == 0;
	unsigned accepted = 0;

	for (uint8_t action = 0; action < 32; action++) {
		const bool counts = has_actions || action == 0;
		const uint8_t want = is_accepted(lun, opcode, action, has_actions) ? 3 : 1;

		/* Without service actions these are bits like any others: the command is there. */
		assert_int_equal(want, has_actions ? support(lun, 2, opcode, action) : alone);
		assert_int_equal(support(lun, 3, opcode, action), counts ? want : 1);
		accepted += counts && want == 3;
	}
	if (!has_actions)
		assert_int_equal(support(lun, 2, opcode, 0), alone == 3 ? 0 : 1);
	return accepted;
}

static void supported_is_what_is_accepted(void **state)
{
	for (uint8_t lun = 0; lun < NLUNS; lun++) {
		struct fx_task *all = rsoc_at(lun, 0, 0, 0, 65536);
		unsigned accepted = 0;

		for (unsigned opcode = 0; opcode < 256; opcode++)
			accepted += count_accepted(lun, (uint8_t)opcode);
		assert_int_equal(load_be32(all->data), 8 * accepted);
		fx_task_free(all);
	}
}

/* A command descriptor of the list, and the command told alone. */
static void check_listed(uint8_t lun, const struct scsi_cmd *cmd, const uint8_t *d, bool timeouts)
{
	const bool actions = d[5] & 1;
	const uint8_t option = (uint8_t)((timeouts ? 0x80 : 0) | (actions ? 2 : 1));
	struct fx_task *one = rsoc_at(lun, option, d[0], load_be16(d + 2), 256);
	const uint32_t len = cmd->cdb_len + (timeouts ? 12u : 0);
	uint8_t mask[SCSI_CDB_MAX];

	assert_int_equal(d[0], cmd->opcode);
	assert_int_equal(load_be16(d + 2), actions ? cmd->service_action : 0);
	assert_int_equal(actions, cmd->service_action != CMD_NO_SA);
	assert_int_equal(d[5] & 2, timeouts ? 2 : 0);
	assert_int_equal(load_be16(d + 6), cmd->cdb_len);
	fx_good(one);
	fx_residual(one, 256 - 4 - len, 0);
	assert_int_equal(one->data[0], 0);
	assert_int_equal(one->data[1], timeouts ? 0x83 : 0x03);
	assert_int_equal(load_be16(one->data + 2), cmd->cdb_len);
	scsi_cmd_usage(cmd, fx.lus[lun], mask);
	assert_memory_equal(one->data + 4, mask, cmd->cdb_len);
	assert_int_equal(one->data[4], cmd->opcode);
	if (actions)
		assert_int_equal(one->data[5] & 0x1f, cmd->service_action);
	if (timeouts) {
		assert_memory_equal(one->data + 4 + cmd->cdb_len, d + 8, 12);
		assert_int_equal(load_be16(d + 8), 10);
		assert_int_equal(load_be32(d + 16), cmd->recommended_s);
	}
	fx_task_free(one);
}

static void check_list(uint8_t lun, bool timeouts)
{
	const uint32_t size = timeouts ? 20 : 8;
	const struct scsi_cmd_list list = scsi_commands();
	struct fx_task *all = rsoc_at(lun, timeouts ? 0x80 : 0, 0, 0, 65536);
	uint32_t at = 4;

	fx_good(all);
	for (unsigned i = 0; i < list.n; i++) {
		if (!scsi_cmd_exists(&list.rows[i], fx.lus[lun]))
			continue;
		check_listed(lun, &list.rows[i], all->data + at, timeouts);
		at += size;
	}
	assert_int_equal(load_be32(all->data), at - 4);
	fx_residual(all, 65536 - at, 0);
	fx_task_free(all);
}

static void all_commands_are_listed_once_and_each_is_told_alone(void **state)
{
	for (uint8_t lun = 0; lun < NLUNS; lun++) {
		check_list(lun, false);
		check_list(lun, true);
	}
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
}

/* What cannot be deallocated has no UNMAP (SBC-3 4.7.3). */
static void a_disk_that_cannot_discard_has_no_thin_commands(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();

	for (unsigned i = 0; i < list.n; i++) {
		const struct scsi_cmd *cmd = &list.rows[i];
		const bool thin =
			cmd->opcode == 0x42 || (cmd->opcode == 0x9e && cmd->service_action == 0x12);

		assert_true(scsi_cmd_exists(cmd, fx.lus[LUN_MEMORY]));
		assert_int_equal(scsi_cmd_exists(cmd, fx.lus[LUN_THICK]), !thin);
	}
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
		{{0, NLUNS - 1}, true},
		{{0, NLUNS}, false},
		{{0, 0, 1}, false},
		{{0, 0, 0, 0, 0, 0, 0, 1}, false},
		/* another bus */
		{{0x01, 0}, false},
		/* flat space */
		{{0x40, 0}, true},
		{{0x40, NLUNS - 1}, true},
		{{0x40, NLUNS}, false},
		{{0x41, 0}, false},
		{{0x40, 0, 0, 1}, false},
		/* logical unit: target 0, bus 0, and others */
		{{0x80, 0}, true},
		{{0x80, NLUNS - 1}, true},
		{{0x80, NLUNS}, false},
		{{0x80, 0x20}, false},
		{{0x81, 0}, false},
		{{0x80, 0, 0, 1}, false},
		/* extended and long extended flat space, of wrong lengths, too */
		{{0xd2, 0, 0, 0}, true},
		{{0xd2, 0, 0, NLUNS - 1}, true},
		{{0xd2, 0, 0, NLUNS}, false},
		{{0xd2, 0, 1, 0}, false},
		{{0xd2, 1, 0, 0}, false},
		{{0xd2, 0, 0, 0, 1}, false},
		{{0xe2, 0, 0, 0, 0, 0}, true},
		{{0xe2, 0, 0, 0, 0, NLUNS - 1}, true},
		{{0xe2, 0, 0, 0, 0, NLUNS}, false},
		{{0xe2, 1, 0, 0, 0, 0}, false},
		{{0xe2, 0, 0, 0, 0, 0, 1}, false},
		{{0xc2, 0}, false},
		{{0xf2, 0}, false},
		{{0xd1, 0}, false},
		/* well-known logical units: REPORT LUNS, and one that is not here */
		{{0xc1, 0x01}, true},
		{{0xc1, 0x02}, false},
		{{0xc1, 0x01, 0, 0, 0, 0, 0, 1}, false},
		{{0xc0, 0}, false},
		{{0xff, 0xff}, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_int_equal(sense_of_lun(rows[i].lun), rows[i].found ? 0 : 0x25);
	/* Nor is it the LU that has these bits for its number. */
	assert_int_equal(lun_decode((const uint8_t[8]){0x80, 0x20}), SCSI_LUNS);
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
	assert_int_equal(load_be32(ft->data), 8 * NLUNS);
	fx_task_free(ft);

	for (unsigned opcode = 0; opcode < 256; opcode++) {
		const uint8_t cdb[16] = {(uint8_t)opcode};

		if (opcode == 0x03 || opcode == 0x12 || opcode == 0xa0)
			continue;
		send_cdb(7, cdb);
		fx_sense(probe, 0x5, 0x25, 0x00);
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

/* ---- What stops a command on its way ---- */

static struct fx_task *plain_run(const struct scsi_cmd *cmd, struct fx_nexus *fn, uint8_t lun)
{
	struct fx_task *ft = plain_task(cmd, fn);

	ft->t.lun[1] = lun;
	fx_run(&fx, ft);
	return ft;
}

static bool has_sense(const struct fx_task *ft, uint8_t key, uint8_t asc, uint8_t ascq)
{
	return ft->t.status == SCSI_CHECK_CONDITION && ft->t.sense[2] == key &&
	       ft->t.sense[12] == asc && ft->t.sense[13] == ascq;
}

static void told_or_not(const struct scsi_cmd *cmd, bool told, bool wanted, const char *state)
{
	if (told != wanted)
		fail_msg("%s: %s, and it %s", cmd->name, state, told ? "is stopped" : "goes on");
}

/* 07/27/00 for what changes data, and nothing else. */
static void a_write_protected_disk_stops_what_changes_data(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();

	for (unsigned i = 0; i < list.n; i++) {
		const struct scsi_cmd *cmd = &list.rows[i];
		struct fx_task *ft;

		if (!scsi_cmd_exists(cmd, fx.lus[LUN_READ_ONLY]))
			continue;
		ft = plain_run(cmd, &nexus, LUN_READ_ONLY);
		told_or_not(cmd, has_sense(ft, 0x7, 0x27, 0x00), cmd->flags & CMD_CHANGES_DATA,
			    "the disk is write-protected");
		fx_task_free(ft);
	}
}

/* 02/04/02 for what needs the medium (SBC-3 5.25). Each on disks of its own: some start it again. */
static void a_stopped_disk_stops_what_needs_it(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();

	for (unsigned i = 0; i < list.n; i++) {
		const struct scsi_cmd *cmd = &list.rows[i];
		struct fx_task *ft;

		down(NULL);
		up(NULL);
		ft = FX_CMD(&nexus, 0, 0x1b, 0, 0, 0, 0, 0);
		fx_good(ft);
		fx_task_free(ft);
		ft = plain_run(cmd, &nexus, LUN_MEMORY);
		told_or_not(cmd, has_sense(ft, 0x2, 0x04, 0x02), !(cmd->flags & CMD_WHEN_STOPPED),
			    "the disk is stopped");
		fx_task_free(ft);
	}
	down(NULL);
	up(NULL);
}

/* A unit attention is told by all but INQUIRY, REPORT LUNS and REQUEST SENSE (SPC-4 6.6, 6.33, 6.39). */
static void a_unit_attention_is_told_by_all_but_a_few(void **state)
{
	const struct scsi_cmd_list list = scsi_commands();

	for (unsigned i = 0; i < list.n; i++) {
		const struct scsi_cmd *cmd = &list.rows[i];
		const bool exempt =
			cmd->opcode == 0x03 || cmd->opcode == 0x12 || cmd->opcode == 0xa0;
		struct fx_nexus other;
		struct fx_task *ft;

		fx_open(&fx, &other);
		ft = plain_run(cmd, &other, LUN_MEMORY);
		told_or_not(cmd, has_sense(ft, 0x6, 0x29, 0x00), !exempt,
			    "there is a unit attention");
		fx_task_free(ft);
		fx_close(&other);
	}
}

/* ---- Anything at all ---- */

static uint64_t seed;

static uint32_t pick(uint32_t bound)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed * UINT64_C(0x2545f4914f6cdd1d) >> 32) * bound >> 32);
}

static uint8_t any_byte(void)
{
	return pick(2) ? 0 : (uint8_t)pick(256);
}

/* Bits of the row's mask, most of them clear, lest all addresses lie beyond the disk. */
static void allowed_cdb(const struct scsi_cmd *cmd, uint8_t lun, uint8_t cdb[static 16])
{
	uint8_t mask[SCSI_CDB_MAX];

	scsi_cmd_usage(cmd, fx.lus[lun], mask);
	memset(cdb, 0, 16);
	cdb[0] = cmd->opcode;
	for (unsigned i = 1; i < cmd->cdb_len; i++)
		cdb[i] = mask[i] & any_byte();
	if (cmd->service_action != CMD_NO_SA)
		cdb[1] = (uint8_t)((cdb[1] & 0xe0) | cmd->service_action);
}

static struct fx_task *any_data(struct fx_nexus *fn, uint8_t lun, const uint8_t cdb[static 16])
{
	struct fx_task *ft = fx_task_new(fn, cdb, 16);
	const uint32_t len = pick(4) ? pick(64) : pick(3) ? 512 : pick(FX_BUF_BYTES);

	ft->t.lun[1] = lun;
	ft->t.attr = SCSI_SIMPLE + pick(3);
	ft->moves = pick(2) ? FX_AT_ONCE : FX_LATER;
	ft->t.no_lend = pick(2);
	for (uint32_t i = 0; i < len; i++)
		ft->data[i] = any_byte();
	if (pick(2))
		fx_expect_in(ft, len);
	else
		fx_expect_out(ft, len);
	return ft;
}

/* What is told of a field points at one that the row has. */
static void check_pointer(const struct scsi_cmd *cmd, uint8_t lun, const struct fx_task *ft)
{
	const uint8_t *sense = ft->t.sense;
	uint8_t mask[SCSI_CDB_MAX];
	uint16_t byte;

	/* Fixed format, or with D_SENSE set descriptors: then the field is told there. */
	if (ft->t.status != SCSI_CHECK_CONDITION || sense[0] != 0x70 || sense[12] != 0x24)
		return;
	byte = load_be16(sense + 16);
	scsi_cmd_usage(cmd, fx.lus[lun], mask);
	if ((sense[15] & 0xc8) != 0xc8 || byte == 0 || byte >= cmd->cdb_len || mask[byte] == 0)
		fail_msg("%s: %02x %u is no field of it", cmd->name, sense[15], byte);
}

static void run_allowed(const struct scsi_cmd *cmd, uint8_t lun)
{
	uint8_t cdb[16];
	struct fx_task *ft;

	allowed_cdb(cmd, lun, cdb);
	ft = any_data(&nexus, lun, cdb);
	fx_run(&fx, ft);
	if (has_sense(ft, 0x5, 0x20, 0x00))
		fail_msg("%s, LUN %u: an unknown opcode", cmd->name, lun);
	check_pointer(cmd, lun, ft);
	fx_task_free(ft);
}

static void run_garbage(struct fx_nexus *fn, uint8_t lun)
{
	const struct scsi_cmd_list list = scsi_commands();
	const struct scsi_cmd *cmd = &list.rows[pick(list.n)];
	struct fx_task *ft;
	uint8_t cdb[16];

	for (unsigned i = 0; i < 16; i++)
		cdb[i] = any_byte();
	if (pick(4))
		cdb[0] = cmd->opcode;
	if (pick(4) && cmd->service_action != CMD_NO_SA)
		cdb[1] = cmd->service_action;
	/* Mostly something else than NACA. */
	if (pick(8))
		cdb[cmd->cdb_len - 1] = 0;
	ft = any_data(fn, lun, cdb);
	fx_run(&fx, ft);
	fx_task_free(ft);
}

/* The LUN answers still, when what a client did to it is undone. */
static void still_lives(uint8_t lun)
{
	static const uint8_t start[16] = {0x1b, 0, 0, 0, 1};
	struct fx_task *ft = NULL;

	for (unsigned i = 0; i < 2000; i++) {
		send_cdb(lun, start);
		ft = fx_task_new(&nexus, (const uint8_t[6]){0}, 6);
		ft->t.lun[1] = lun;
		fx_run(&fx, ft);
		if (ft->t.status == SCSI_GOOD)
			break;
		fx_task_free(ft);
		ft = NULL;
		usleep(1000); /* it may be formatting */
	}
	assert_non_null(ft);
	fx_task_free(ft);
}

/* On disks that such commands stop, rewrite and reserve. */
static void whatever_comes_is_answered(uint64_t s)
{
	const struct scsi_cmd_list list = scsi_commands();
	struct fx_nexus other;

	print_message("seed %" PRIu64 "\n", s);
	seed = s * UINT64_C(0x9e3779b97f4a7c15);
	down(NULL);
	up(NULL);
	fx_open(&fx, &other);
	for (unsigned i = 0; i < 200; i++) {
		const struct scsi_cmd *cmd = &list.rows[pick(list.n)];
		const uint8_t lun = (uint8_t)pick(NLUNS);

		if (scsi_cmd_exists(cmd, fx.lus[lun]))
			run_allowed(cmd, lun);
		run_garbage(pick(2) ? &nexus : &other, (uint8_t)pick(NLUNS + 1));
	}
	fx_close(&other);
	for (uint8_t lun = 0; lun < NLUNS; lun++)
		still_lives(lun);
}

static void garbage_is_answered(void **state)
{
	const char *one = getenv("SPINDLE_CDB_SEED");
	const uint64_t n = getenv("SPINDLE_SOAK") != NULL ? 1000 : 20;

	for (uint64_t s = 1; s <= n && one == NULL; s++)
		whatever_comes_is_answered(s);
	if (one != NULL)
		whatever_comes_is_answered(strtoull(one, NULL, 0));
	down(NULL);
	up(NULL);
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
		cmocka_unit_test(a_disk_that_cannot_discard_has_no_thin_commands),
		cmocka_unit_test(reporting_options_are_checked),
		cmocka_unit_test(unknown_opcodes_and_actions),
		cmocka_unit_test(lun_addressing),
		cmocka_unit_test(what_is_answered_without_a_logical_unit),
		cmocka_unit_test(the_aca_attribute_is_refused),
		cmocka_unit_test(a_write_protected_disk_stops_what_changes_data),
		cmocka_unit_test(a_stopped_disk_stops_what_needs_it),
		cmocka_unit_test(a_unit_attention_is_told_by_all_but_a_few),
		cmocka_unit_test(garbage_is_answered),
	};

	return cmocka_run_group_tests(tests, up, down);
}
