/*
 * Parsing and matching the rules of a fault store: each word of the grammar is a row of a table.
 */
#include "store/fault_rule.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PROB_ONE (UINT64_C(1) << 32)
#define MS_NS    UINT64_C(1000000)

static const char *const op_names[IO_NOPS] = {
	[IO_READ] = "read",       [IO_WRITE] = "write", [IO_FLUSH] = "flush",
	[IO_DISCARD] = "discard", [IO_ZERO] = "zero",   [IO_EXTENT] = "extent",
};

struct parser {
	struct fault_rule *rule;
	const char *text; /* the whole, to count characters */
	struct diag *d;
};

static int refuse(const struct parser *p, const char *at, const char *expected)
{
	char shown[48];

	str_escape(shown, sizeof(shown), at, strlen(at));
	diag_set(p->d, -EINVAL, "rule: character %zu: \"%s\" is not %s", (size_t)(at - p->text) + 1,
		 shown, expected);
	diag_fix(p->d, "a rule reads OPS[@START-END];ACTION[;CONDITION]..., for example "
		       "write+flush@1M-2M;eio;count=1");
	return -EINVAL;
}

/* ---- OPS and RANGE --------------------------------------------------------------------------- */

static int parse_ops(const struct parser *p, char *ops)
{
	if (strcmp(ops, "any") == 0) {
		p->rule->ops = FAULT_ALL_OPS;
		return 0;
	}
	while (ops != NULL) {
		char *name = strsep(&ops, "+");
		unsigned op = 0;

		while (op < IO_NOPS && strcmp(name, op_names[op]) != 0)
			op++;
		if (op == IO_NOPS)
			return refuse(p, name, "any, read, write, flush, discard, zero or extent");
		p->rule->ops |= 1u << op;
	}
	return 0;
}

static int parse_range(const struct parser *p, char *range)
{
	char *start = strsep(&range, "-");

	if (parse_size(start, &p->rule->start) != 0)
		return refuse(p, start, "a size where a range START-END begins");
	if (range == NULL)
		return refuse(p, start, "a range START-END (END may be left out)");
	if (*range == '\0')
		return 0;
	if (parse_size(range, &p->rule->end) != 0)
		return refuse(p, range, "a size where a range ends");
	if (p->rule->end <= p->rule->start)
		return refuse(p, range, "behind the start of its range");
	return 0;
}

/* ---- ACTION and CONDITION -------------------------------------------------------------------- */

typedef int parse_fn(const struct parser *p, char *value);

static int parse_delay(const struct parser *p, char *value)
{
	uint64_t ms;

	if (parse_duration_ms(value, &ms) != 0 || ms > UINT64_MAX / MS_NS / 2)
		return refuse(p, value, "a time like 250ms or 2s");
	p->rule->delay_ns = ms * MS_NS;
	return 0;
}

static int parse_short(const struct parser *p, char *value)
{
	p->rule->short_len = UINT64_MAX;
	if (value != NULL && parse_size(value, &p->rule->short_len) != 0)
		return refuse(p, value, "a size");
	return 0;
}

static int parse_after(const struct parser *p, char *value)
{
	return parse_u64(value, &p->rule->after) == 0 ? 0 : refuse(p, value, "a whole number");
}

static int parse_count(const struct parser *p, char *value)
{
	if (parse_u64(value, &p->rule->count) != 0 || p->rule->count == 0)
		return refuse(p, value, "a whole number from 1");
	return 0;
}

/* 0, 1, or a decimal fraction; no library call, because those heed the locale and exponents. */
static int parse_prob(const struct parser *p, char *value)
{
	uint64_t digits = 0, scale = 1;
	const char *c = value;

	if (*c != '0' && *c != '1')
		return refuse(p, value, "a probability from 0 to 1");
	digits = *c++ - '0';
	if (*c == '.') {
		for (c++; isdigit((unsigned char)*c) && scale < 1000000000; c++) {
			digits = digits * 10 + (uint64_t)(*c - '0');
			scale *= 10;
		}
	}
	if (*c != '\0' || digits > scale)
		return refuse(p, value, "a probability from 0 to 1");
	p->rule->prob = digits * PROB_ONE / scale;
	return 0;
}

static int parse_while(const struct parser *p, char *value)
{
	if (*value == '\0')
		return refuse(p, value, "a path");
	p->rule->while_path = value;
	return 0;
}

enum value { VALUE_NONE, VALUE_NEEDED, VALUE_MAY };

struct word {
	const char *name;
	enum value value;
	enum fault_action action; /* NONE: a condition */
	int err;
	parse_fn *parse;
};

static const struct word words[] = {
	{"delay", VALUE_NEEDED, FAULT_DELAY, 0, parse_delay},
	{"hang", VALUE_NONE, FAULT_HANG, 0, NULL},
	{"short", VALUE_MAY, FAULT_SHORT, 0, parse_short},
	{"after", VALUE_NEEDED, FAULT_NONE, 0, parse_after},
	{"count", VALUE_NEEDED, FAULT_NONE, 0, parse_count},
	{"prob", VALUE_NEEDED, FAULT_NONE, 0, parse_prob},
	{"while", VALUE_NEEDED, FAULT_NONE, 0, parse_while},
	{"eio", VALUE_NONE, FAULT_ERROR, -EIO, NULL},
	{"enospc", VALUE_NONE, FAULT_ERROR, -ENOSPC, NULL},
	{"etimedout", VALUE_NONE, FAULT_ERROR, -ETIMEDOUT, NULL},
	{"enomem", VALUE_NONE, FAULT_ERROR, -ENOMEM, NULL},
	{"erofs", VALUE_NONE, FAULT_ERROR, -EROFS, NULL},
	{"enodata", VALUE_NONE, FAULT_ERROR, -ENODATA, NULL},
	{"eilseq", VALUE_NONE, FAULT_ERROR, -EILSEQ, NULL},
	{"eremoteio", VALUE_NONE, FAULT_ERROR, -EREMOTEIO, NULL},
	{"enxio", VALUE_NONE, FAULT_ERROR, -ENXIO, NULL},
	{"enodev", VALUE_NONE, FAULT_ERROR, -ENODEV, NULL},
};

static const struct word *find_word(const char *name, size_t len)
{
	for (unsigned i = 0; i < ARRAY_LEN(words); i++) {
		if (strlen(words[i].name) == len && memcmp(words[i].name, name, len) == 0)
			return &words[i];
	}
	return NULL;
}

static int parse_word(const struct parser *p, char *text, bool want_action)
{
	size_t len = strcspn(text, "=");
	char *value = text[len] == '=' ? text + len + 1 : NULL;
	const struct word *w = find_word(text, len);

	if (w == NULL || (w->action != FAULT_NONE) != want_action)
		return refuse(p, text,
			      want_action ? "an action: an error such as eio, delay=TIME, hang or "
					    "short"
					  : "a condition: after=N, count=N, prob=P or while=PATH");
	if (value == NULL ? w->value == VALUE_NEEDED : w->value == VALUE_NONE)
		return refuse(p, text,
			      value == NULL ? "complete: it needs =VALUE"
					    : "right: it takes no value");
	if (want_action) {
		p->rule->action = w->action;
		p->rule->err = w->err;
	}
	return w->parse == NULL ? 0 : w->parse(p, value);
}

int fault_rule_parse(struct fault_rule *rule, char *text, struct diag *d)
{
	struct parser p = {.rule = rule, .text = text, .d = d};
	char *rest = text, *ops, *range, *word;
	int err;

	*rule = (struct fault_rule){.end = UINT64_MAX, .count = UINT64_MAX, .prob = PROB_ONE};
	range = strsep(&rest, ";");
	ops = strsep(&range, "@");
	err = parse_ops(&p, ops);
	if (err == 0 && range != NULL)
		err = parse_range(&p, range);
	if (err != 0)
		return err;
	if (rest == NULL)
		return refuse(&p, ops + strlen(ops), "followed by ;ACTION");
	err = parse_word(&p, strsep(&rest, ";"), true);
	while (err == 0 && (word = strsep(&rest, ";")) != NULL)
		err = parse_word(&p, word, false);
	return err;
}

bool fault_rule_holds(const struct fault_rule *rule)
{
	return rule->while_path == NULL || access(rule->while_path, F_OK) == 0;
}

static bool meets(const struct fault_rule *rule, const struct io *io)
{
	if (!(rule->ops & 1u << io->op))
		return false;
	return io->op == IO_FLUSH || (io->off < rule->end && io->off + io->len > rule->start);
}

bool fault_rule_acts(struct fault_rule *rule, const struct io *io, uint64_t random)
{
	if (!meets(rule, io) || !fault_rule_holds(rule) || rule->met++ < rule->after)
		return false;
	if (rule->acted >= rule->count || (random & (PROB_ONE - 1)) >= rule->prob)
		return false;
	rule->acted++;
	return true;
}
