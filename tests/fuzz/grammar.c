/*
 * Fuzz: text that users write: rules of fault stores, sizes and durations, store specs, options, names
 * and addresses. The first byte says which; the rest is the text.
 *
 * Specs open stores that live in memory only: no input names a file.
 */
#include <stdlib.h>

#include "daemon/daemon.h"
#include "fuzz.h"
#include "store/fault_rule.h"

#define TEXT_MAX 6000
#define WORDS    12

/* ---- Numbers ---- */

static void fuzz_numbers(char *text)
{
	uint64_t v, again;
	char plain[32];

	if (parse_u64(text, &v) == 0) {
		str_format(plain, sizeof(plain), "%llu", (unsigned long long)v);
		CHECK(parse_u64(plain, &again) == 0 && again == v);
	}
	if (parse_size(text, &v) == 0) {
		str_format(plain, sizeof(plain), "%llu", (unsigned long long)v);
		CHECK(parse_size(plain, &again) == 0 && again == v);
	}
	(void)parse_duration_ms(text, &v);
}

/* ---- Rules ---- */

static void fuzz_rule(char *text)
{
	struct fault_rule rule;
	struct diag d;

	diag_init(&d);
	if (fault_rule_parse(&rule, text, &d) != 0) {
		CHECK(d.what[0] != '\0' && d.fix[0] != '\0');
		return;
	}
	CHECK(rule.ops != 0 && (rule.ops & ~FAULT_ALL_OPS) == 0);
	CHECK(rule.start < rule.end || rule.start == 0);
	CHECK(rule.action != FAULT_NONE && (rule.action != FAULT_ERROR || rule.err < 0));
	/* Whether a file exists is not for here. */
	rule.while_path = NULL;
	for (unsigned op = 0; op < IO_NOPS; op++) {
		struct io io = {.op = (enum io_op)op, .off = op * 4096u, .len = 4096};
		const bool acts = fault_rule_acts(&rule, &io, (uint64_t)op << 30);

		CHECK(!acts || (rule.ops & 1u << op) != 0);
	}
	CHECK(rule.acted <= rule.met && rule.acted <= rule.count);
}

/* ---- Specs ---- */

static void fuzz_spec(char *text)
{
	static const struct store_type *const types[] = {&store_ram, &store_null, &store_slice,
							 &store_fault, NULL};
	char name[DISK_NAME_MAX + 1];
	const struct loop_config lc = {.nloops = 1, .disk_engine = LOOP_DISK_WORKERS};
	struct loop_set *set;
	struct store *store;
	struct diag d;

	name_from_spec(name, text, NULL);
	CHECK(name_check(name, NULL) == 0);
	CHECK(loop_set_create(&set, &lc, NULL) == 0);
	diag_init(&d);
	if (store_open(&store, set, types, text, &(struct store_config){0}, &d) == 0) {
		CHECK(store_info(store)->size != 0);
		store_close(store);
	} else {
		CHECK(d.what[0] != '\0');
	}
	loop_set_destroy(set);
}

/* ---- Options ---- */

enum colour { RED, GREEN };

struct values {
	bool flag;
	uint64_t uint, size, duration;
	const char *string;
	unsigned choice;
	struct opt_strings list;
};

static const char *const colours[] = {"red", "green", NULL};

static const struct opt kinds[] = {
	{.name = "flag", .kind = OPT_FLAG, .offset = offsetof(struct values, flag)},
	{.name = "uint", .kind = OPT_UINT, .offset = offsetof(struct values, uint), .max = 1000},
	{.name = "size", .kind = OPT_SIZE, .offset = offsetof(struct values, size), .min = 512},
	{.name = "duration", .kind = OPT_DURATION, .offset = offsetof(struct values, duration)},
	{.name = "string", .kind = OPT_STRING, .offset = offsetof(struct values, string), .max = 9},
	{.name = "choice",
	 .kind = OPT_CHOICE,
	 .offset = offsetof(struct values, choice),
	 .choices = colours,
	 .def = "red"},
	{.name = "list", .kind = OPT_LIST, .offset = offsetof(struct values, list)},
	{.name = NULL},
};

static void fuzz_list(char *text)
{
	struct values v = {.flag = false};
	struct diag d;

	diag_init(&d);
	CHECK(opt_defaults(kinds, &v, &d) == 0);
	if (opt_parse_list(kinds, &v, text, &d) != 0) {
		CHECK(d.what[0] != '\0');
	} else {
		CHECK(v.uint <= 1000 && (v.size == 0 || v.size >= 512) && v.choice <= GREEN);
		CHECK(v.string == NULL || strlen(v.string) <= 9);
	}
	opt_fini(kinds, &v);
}

/* A line is an argument. */
static void fuzz_arguments(char *text)
{
	char run[] = "run", *argv[WORDS + 2] = {run};
	struct run_options o;
	struct diag d;
	int argc = 1;

	while (text != NULL && argc <= WORDS)
		argv[argc++] = strsep(&text, "\n");
	argv[argc] = NULL;
	diag_init(&d);
	if (run_options_parse(&o, argc, argv, &d) != 0)
		CHECK(d.what[0] != '\0');
	else
		CHECK(o.help || o.nspecs != 0);
	run_options_fini(&o);
}

/* ---- Names and addresses ---- */

static void fuzz_names(char *text)
{
	char iqn[SCSI_NAME_MAX + 1], addr_text[NET_ADDR_TEXT], shown[40];
	char *host = strsep(&text, "\n");
	union net_addr addr, again;
	struct diag d;

	diag_init(&d);
	if (iqn_from_host(iqn, host, text != NULL ? text : "disk", &d) == 0 &&
	    (text == NULL || name_check(text, NULL) == 0))
		CHECK(iscsi_name_check(iqn, &d) == 0);
	(void)iscsi_name_check(host, &d);
	(void)name_check(host, &d);
	show_text(shown, sizeof(shown), host);
	for (const char *s = shown; *s != '\0'; s++)
		CHECK((unsigned char)*s >= 0x20 && *s != 0x7f);
	if (net_addr_parse(&addr, host, 3260, &d) != 0)
		return;
	net_addr_text(&addr, addr_text);
	CHECK(net_addr_parse(&again, addr_text, 1, &d) == 0);
	CHECK(again.sa.sa_family == addr.sa.sa_family &&
	      net_addr_port(&again) == net_addr_port(&addr));
}

static void (*const parts[])(char *text) = {
	fuzz_numbers, fuzz_rule, fuzz_spec, fuzz_list, fuzz_arguments, fuzz_names,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *text;

	if (len < 1)
		return 0;
	len = min_u64(len - 1, TEXT_MAX);
	/* Of its own size, so that a read past its end is seen. */
	text = malloc(len + 1);
	CHECK(text != NULL);
	if (len != 0)
		memcpy(text, data + 1, len);
	text[len] = '\0';
	parts[data[0] % ARRAY_LEN(parts)](text);
	free(text);
	return 0;
}
