/*
 * Option tables: finding the row, reading a value by its kind, and the three texts that options
 * come in (one value, a list, a command line). What a kind means stands in one table, `kinds`.
 */
#include "base/base.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit size_units[] = {
	{"", 1},
	{"B", 1},
	{"K", KiB},
	{"KiB", KiB},
	{"KB", 1000},
	{"M", MiB},
	{"MiB", MiB},
	{"MB", 1000000},
	{"G", GiB},
	{"GiB", GiB},
	{"GB", 1000000000},
	{"T", GiB << 10},
	{"TiB", GiB << 10},
	{"TB", 1000000000000},
	{"P", GiB << 20},
	{"PiB", GiB << 20},
	{"PB", 1000000000000000},
	{"E", GiB << 30},
	{"EiB", GiB << 30},
	{"EB", 1000000000000000000},
	{NULL, 0},
};

static const struct unit duration_units[] = {
	{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 60 * 60 * 1000}, {NULL, 0},
};

/* Digits up to *end. A sign, a space or no digit at all is refused (strtoull takes them). */
static int parse_digits(const char *s, const char **end, uint64_t *out)
{
	uint64_t v = 0;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (; isdigit((unsigned char)*s); s++) {
		if (__builtin_mul_overflow(v, UINT64_C(10), &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return -ERANGE;
	}
	*end = s;
	*out = v;
	return 0;
}

static int parse_unit(const char *s, const struct unit *units, uint64_t *out)
{
	const char *end;
	uint64_t v;
	int err = parse_digits(s, &end, &v);

	if (err != 0)
		return err;
	for (; units->name != NULL; units++) {
		if (strcasecmp(end, units->name) != 0)
			continue;
		return __builtin_mul_overflow(v, units->factor, out) ? -ERANGE : 0;
	}
	return -EINVAL;
}

int parse_u64(const char *s, uint64_t *out)
{
	const char *end;
	uint64_t v;
	int err = parse_digits(s, &end, &v);

	if (err != 0)
		return err;
	if (*end != '\0')
		return -EINVAL;
	*out = v;
	return 0;
}

int parse_size(const char *s, uint64_t *out_bytes)
{
	return parse_unit(s, size_units, out_bytes);
}

int parse_duration_ms(const char *s, uint64_t *out_ms)
{
	if (strcmp(s, "0") == 0) {
		*out_ms = 0;
		return 0;
	}
	return parse_unit(s, duration_units, out_ms);
}

/* A value as a diagnosis shows it: escaped, and cut when it is long. */
struct shown {
	char text[80];
};

static struct shown show(const char *value)
{
	struct shown s = {""};

	str_escape(s.text, sizeof(s.text), value, strlen(value));
	return s;
}

static const char *show_plain(char *dst, size_t cap, uint64_t v)
{
	str_format(dst, cap, "%" PRIu64, v);
	return dst;
}

static const char *show_ms(char *dst, size_t cap, uint64_t v)
{
	str_format(dst, cap, "%" PRIu64 "ms", v);
	return dst;
}

typedef int set_fn(const struct opt *o, void *field, const char *value, struct diag *d);

static set_fn set_flag, set_number, set_string, set_choice, set_list;

struct kind {
	size_t size;     /* of the field */
	const char *arg; /* the placeholder in the help where the row has none */
	const char *expected;
	set_fn *set;
	int (*parse)(const char *s, uint64_t *out); /* numbers only */
	const char *(*show)(char *dst, size_t cap, uint64_t v);
};

static const struct kind kinds[] = {
	[OPT_FLAG] = {sizeof(bool), "on|off", "on or off", set_flag, NULL, NULL},
	[OPT_UINT] = {sizeof(uint64_t), "N", "a whole number", set_number, parse_u64, show_plain},
	[OPT_SIZE] = {sizeof(uint64_t), "SIZE",
		      "bytes, or a size like 100G or 100GiB (binary) or 100GB (decimal)",
		      set_number, parse_size, str_size},
	[OPT_DURATION] = {sizeof(uint64_t), "TIME", "a time like 250ms, 5s, 2m or 1h", set_number,
			  parse_duration_ms, show_ms},
	[OPT_STRING] = {sizeof(const char *), "TEXT", "a text", set_string, NULL, NULL},
	[OPT_CHOICE] = {sizeof(unsigned), "WORD", "one of the choices", set_choice, NULL, NULL},
	[OPT_LIST] = {sizeof(struct opt_strings), "TEXT", "a text", set_list, NULL, NULL},
};

static int set_flag(const struct opt *o, void *field, const char *value, struct diag *d)
{
	static const char *const words[] = {"off", "on", "no", "yes", "false", "true"};
	bool *out = field;

	for (unsigned i = 0; i < ARRAY_LEN(words); i++) {
		if (strcmp(value, words[i]) != 0)
			continue;
		*out = i % 2 == 1;
		return 0;
	}
	diag_set(d, -EINVAL, "option %s: \"%s\" is neither on nor off", o->name, show(value).text);
	diag_fix(d, "give on or off");
	return -EINVAL;
}

static int set_number(const struct opt *o, void *field, const char *value, struct diag *d)
{
	const struct kind *kind = &kinds[o->kind];
	char bound[32];
	uint64_t v;
	int err = kind->parse(value, &v);

	if (err == -ERANGE)
		return diag_set(d, err, "option %s: \"%s\" is too large", o->name,
				show(value).text);
	if (err != 0) {
		diag_set(d, err, "option %s: \"%s\" is not understood", o->name, show(value).text);
		diag_fix(d, "give %s", kind->expected);
		return err;
	}
	if (v < o->min)
		return diag_set(d, -ERANGE, "option %s: \"%s\" is too small, at least %s", o->name,
				show(value).text, kind->show(bound, sizeof(bound), o->min));
	if (o->max != 0 && v > o->max)
		return diag_set(d, -ERANGE, "option %s: \"%s\" is too large, at most %s", o->name,
				show(value).text, kind->show(bound, sizeof(bound), o->max));
	*(uint64_t *)field = v;
	return 0;
}

static int check_length(const struct opt *o, const char *value, struct diag *d)
{
	size_t len = strlen(value);

	if (len < o->min)
		return diag_set(d, -EINVAL,
				"option %s: \"%s\" is too short, at least %" PRIu64 " bytes",
				o->name, show(value).text, o->min);
	if (o->max != 0 && len > o->max)
		return diag_set(d, -EINVAL,
				"option %s: \"%s\" is too long, at most %" PRIu64 " bytes", o->name,
				show(value).text, o->max);
	return 0;
}

static int set_string(const struct opt *o, void *field, const char *value, struct diag *d)
{
	int err = check_length(o, value, d);

	if (err == 0)
		*(const char **)field = value;
	return err;
}

static void append_choices(const struct opt *o, char *buf, size_t cap, size_t *len)
{
	for (const char *const *c = o->choices; *c != NULL; c++)
		str_append(buf, cap, len, "%s%s", c == o->choices ? "" : "|", *c);
}

static int set_choice(const struct opt *o, void *field, const char *value, struct diag *d)
{
	char choices[200] = "";
	size_t len = 0;

	for (unsigned i = 0; o->choices[i] != NULL; i++) {
		if (strcmp(value, o->choices[i]) != 0)
			continue;
		*(unsigned *)field = i;
		return 0;
	}
	append_choices(o, choices, sizeof(choices), &len);
	diag_set(d, -EINVAL, "option %s: there is no \"%s\"", o->name, show(value).text);
	diag_fix(d, "give one of %s", choices);
	return -EINVAL;
}

static int set_list(const struct opt *o, void *field, const char *value, struct diag *d)
{
	struct opt_strings *list = field;
	const char **grown;
	int err = check_length(o, value, d);

	if (err != 0)
		return err;
	grown = reallocarray(list->v, list->n + 1, sizeof(*grown));
	if (grown == NULL)
		return diag_set(d, -ENOMEM, "option %s: out of memory", o->name);
	grown[list->n++] = value;
	list->v = grown;
	return 0;
}

static void *field_of(const struct opt *o, void *out)
{
	return (char *)out + o->offset;
}

/* All fields are emptied first, so that opt_fini is right whichever default fails. */
int opt_defaults(const struct opt *table, void *out, struct diag *d)
{
	int err = 0;

	for (const struct opt *o = table; o->name != NULL; o++)
		memset(field_of(o, out), 0, kinds[o->kind].size);
	for (const struct opt *o = table; o->name != NULL && err == 0; o++) {
		if (o->def != NULL)
			err = kinds[o->kind].set(o, field_of(o, out), o->def, d);
	}
	return err;
}

static const struct opt *find(const struct opt *table, const char *name, size_t name_len)
{
	for (const struct opt *o = table; o->name != NULL; o++) {
		if (strlen(o->name) == name_len && memcmp(o->name, name, name_len) == 0)
			return o;
	}
	return NULL;
}

static int unknown(const struct opt *table, const char *name, struct diag *d)
{
	char names[200] = "";
	size_t len = 0;

	for (const struct opt *o = table; o->name != NULL; o++)
		str_append(names, sizeof(names), &len, "%s%s", len == 0 ? "" : ", ", o->name);
	diag_set(d, -EINVAL, "there is no option \"%s\"", show(name).text);
	if (len == 0)
		diag_fix(d, "there are no options here");
	else
		diag_fix(d, "options are %s", names);
	return -EINVAL;
}

static int set_found(const struct opt *o, void *out, const char *value, struct diag *d)
{
	if (value == NULL && o->kind != OPT_FLAG) {
		diag_set(d, -EINVAL, "option %s needs a value", o->name);
		diag_fix(d, "give %s", kinds[o->kind].expected);
		return -EINVAL;
	}
	return kinds[o->kind].set(o, field_of(o, out), value == NULL ? "on" : value, d);
}

int opt_set(const struct opt *table, void *out, const char *name, const char *value, struct diag *d)
{
	const struct opt *o = find(table, name, strlen(name));

	return o == NULL ? unknown(table, name, d) : set_found(o, out, value, d);
}

int opt_parse_list(const struct opt *table, void *out, char *text, struct diag *d)
{
	int err = 0;

	if (*text == '\0')
		return 0;
	while (err == 0 && text != NULL) {
		char *name = strsep(&text, ",");
		char *value = strchr(name, '=');

		if (value != NULL)
			*value++ = '\0';
		err = opt_set(table, out, name, value, d);
	}
	return err;
}

/* One argument that starts with "--". Returns how many were used (1 or 2), or a negative errno. */
static int parse_arg(const struct opt *table, void *out, char *arg, const char *next,
		     struct diag *d)
{
	char *name = arg + 2;
	size_t len = strcspn(name, "=");
	const struct opt *o = find(table, name, len);
	int err, used = 1;

	if (o == NULL) {
		name[len] = '\0';
		return unknown(table, name, d);
	}
	if (name[len] == '=') {
		err = set_found(o, out, name + len + 1, d);
	} else if (o->kind == OPT_FLAG || next == NULL || str_starts(next, "--")) {
		err = set_found(o, out, NULL, d);
	} else {
		err = set_found(o, out, next, d);
		used = 2;
	}
	return err != 0 ? err : used;
}

int opt_parse_argv(const struct opt *table, void *out, int *argc, char **argv, struct diag *d)
{
	int i, kept = 1;

	for (i = 1; i < *argc; i++) {
		int used;

		if (!str_starts(argv[i], "--")) {
			argv[kept++] = argv[i];
			continue;
		}
		if (argv[i][2] == '\0') {
			i++;
			break;
		}
		used = parse_arg(table, out, argv[i], i + 1 < *argc ? argv[i + 1] : NULL, d);
		if (used < 0)
			return used;
		i += used - 1;
	}
	for (; i < *argc; i++)
		argv[kept++] = argv[i];
	*argc = kept;
	return 0;
}

void opt_fini(const struct opt *table, void *out)
{
	for (const struct opt *o = table; o->name != NULL; o++) {
		struct opt_strings *list = field_of(o, out);

		if (o->kind != OPT_LIST)
			continue;
		free(list->v);
		*list = (struct opt_strings){0};
	}
}

/* "--block-size 512|4096" */
static void append_synopsis(const struct opt *o, char *buf, size_t cap, size_t *len)
{
	str_append(buf, cap, len, "--%s", o->name);
	if (o->kind == OPT_FLAG)
		return;
	str_append(buf, cap, len, " ");
	if (o->arg != NULL)
		str_append(buf, cap, len, "%s", o->arg);
	else if (o->kind == OPT_CHOICE)
		append_choices(o, buf, cap, len);
	else
		str_append(buf, cap, len, "%s", kinds[o->kind].arg);
}

const char *opt_help(const struct opt *table, char *buf, size_t cap)
{
	char synopsis[100];
	size_t len = 0, widest = 0;

	if (cap == 0)
		return buf;
	buf[0] = '\0';
	for (const struct opt *o = table; o->name != NULL; o++) {
		size_t width = 0;

		append_synopsis(o, synopsis, sizeof(synopsis), &width);
		widest = max_u64(widest, width);
	}
	for (const struct opt *o = table; o->name != NULL; o++) {
		size_t width = 0;

		append_synopsis(o, synopsis, sizeof(synopsis), &width);
		str_append(buf, cap, &len, "  %-*s   %s", (int)widest, synopsis, o->help);
		if (o->def != NULL && o->kind != OPT_FLAG)
			str_append(buf, cap, &len, " (%s)", o->def);
		str_append(buf, cap, &len, "\n");
	}
	return buf;
}
