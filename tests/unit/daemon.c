/*
 * The parts of the daemon that need no loops: names, options, exit codes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/daemon.h"

static void names_from_specs(void **state)
{
	static const char *const cases[][2] = {
		{"disk.img", "disk"},
		{"/srv/Disk 1.img", "disk-1"},
		{"file:/srv/a.b.raw", "a.b"},
		{"/dev/sdb", "sdb"},
		{"/dev/mapper/vg0-root_1", "vg0-root-1"},
		{"ram:1G", "ram"},
		{"null:1T", "null"},
		{"fault:volatile=on:disk.img", "disk"},
		{"fault:volatile=on:dir/x.img", "x"},
		{"fault:delay=5ms:ram:1G", "ram"},
		{"slice:offset=1M,length=1M:disk.img", "disk"},
		{"slice:offset=1M:/dev/sdb", "sdb"},
		{"slice:offset=1M:ram:1G", "ram"},
		{"dir/a:b.img", "a-b"},
		{".hidden", "hidden"},
		{"--__--", "disk"},
		{"", "disk"},
		{"\xc3\xa4rger.img", "rger"},
		{"a--..b", "a"},
		{"trailing-.img", "trailing"},
	};
	char name[DISK_NAME_MAX + 1];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		name_from_spec(name, cases[i][0], NULL);
		assert_string_equal(name, cases[i][1]);
		assert_int_equal(name_check(name, NULL), 0);
	}
}

static bool two_taken(const void *arg, const char *name)
{
	return strcmp(name, "disk") == 0 || strcmp(name, "disk-2") == 0;
}

static void names_are_made_unique(void **state)
{
	const struct name_set set = {two_taken, NULL};
	char name[DISK_NAME_MAX + 1];

	name_from_spec(name, "disk.img", &set);
	assert_string_equal(name, "disk-3");
	name_from_spec(name, "other.img", &set);
	assert_string_equal(name, "other");
}

static void long_names_are_cut(void **state)
{
	char spec[400], name[DISK_NAME_MAX + 1];

	memset(spec, 'x', sizeof(spec) - 1);
	spec[sizeof(spec) - 1] = '\0';
	name_from_spec(name, spec, NULL);
	assert_true(strlen(name) > 40 && strlen(name) < DISK_NAME_MAX - 6);
}

static void bad_names_get_an_offer(void **state)
{
	struct diag d;

	diag_init(&d);
	assert_int_equal(name_check("My Disk", &d), -EINVAL);
	assert_non_null(strstr(d.what, "My Disk"));
	assert_string_equal(d.fix, "try --name my-disk");
	assert_int_equal(name_check("", NULL), -EINVAL);
	assert_int_equal(name_check("-a", NULL), -EINVAL);
	assert_int_equal(name_check("a:b", NULL), -EINVAL);
	diag_init(&d);
	assert_int_equal(name_check("\x1b[2J", &d), -EINVAL);
	assert_null(strchr(d.what, '\x1b'));
}

static void target_names(void **state)
{
	static const char *const cases[][3] = {
		{"nas", "disk", "iqn.2026-11.local.nas:disk"},
		{"nas.example.com", "a", "iqn.2026-11.com.example.nas:a"},
		{"NAS_1.Lan.", "a", "iqn.2026-11.lan.nas-1:a"},
		{"", "a", "iqn.2026-11.local.localhost:a"},
		{"...", "a", "iqn.2026-11.localhost:a"},
		{"a..b", "a", "iqn.2026-11.b.a:a"},
	};
	char iqn[SCSI_NAME_MAX + 1], host[300];
	struct diag d;

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(iqn_from_host(iqn, cases[i][0], cases[i][1], NULL), 0);
		assert_string_equal(iqn, cases[i][2]);
		assert_int_equal(iscsi_name_check(iqn, NULL), 0);
	}
	memset(host, 'h', sizeof(host) - 1);
	host[sizeof(host) - 1] = '\0';
	diag_init(&d);
	assert_int_equal(iqn_from_host(iqn, host, "a", &d), -EINVAL);
	assert_non_null(strstr(d.fix, "--iqn"));
}

static int parse(struct run_options *o, struct diag *d, int argc, const char *const *args)
{
	static char text[8][64];
	static char *argv[9];

	for (int i = 0; i < argc; i++) {
		str_copy(text[i], sizeof(text[i]), args[i]);
		argv[i] = text[i];
	}
	argv[argc] = NULL;
	diag_init(d);
	return run_options_parse(o, argc, argv, d);
}

#define PARSE(o, d, ...)                                                         \
	parse(o, d, (int)ARRAY_LEN(((const char *const[]){"run", __VA_ARGS__})), \
	      (const char *const[]){"run", __VA_ARGS__})

static void options_default(void **state)
{
	struct run_options o;
	struct diag d;

	assert_int_equal(PARSE(&o, &d, "a.img"), 0);
	assert_int_equal(o.nspecs, 1);
	assert_string_equal(o.specs[0], "a.img");
	assert_int_equal(o.port, 3260);
	assert_int_equal(o.listen.n, 0);
	assert_int_equal(run_options_block_size(&o), 0);
	assert_false(o.json || o.read_only || o.verbose || o.help);
	run_options_fini(&o);
}

static void options_land_in_their_fields(void **state)
{
	struct run_options o;
	struct diag d;

	assert_int_equal(
		PARSE(&o, &d, "-v", "--size=1M", "a", "--block-size", "4096", "--listen=::1", "b"),
		0);
	assert_true(o.verbose);
	assert_int_equal(o.size, MiB);
	assert_int_equal(run_options_block_size(&o), 4096);
	assert_int_equal(o.listen.n, 1);
	assert_int_equal(o.nspecs, 2);
	run_options_fini(&o);
	assert_int_equal(PARSE(&o, &d, "--", "-v"), 0);
	assert_false(o.verbose);
	assert_string_equal(o.specs[0], "-v");
	run_options_fini(&o);
	assert_int_equal(PARSE(&o, &d, "-h"), 0);
	assert_true(o.help);
	run_options_fini(&o);
}

static void wrong_options_say_what_mends_them(void **state)
{
	static const struct {
		const char *args[4];
		int n;
		const char *what, *fix;
	} cases[] = {
		{{"run"}, 1, "nothing to serve", "spindle run disk.img"},
		{{"run", "a", "b", "--name=x"}, 4, "--name", "once a disk"},
		{{"run", "a", "b", "--iqn=iqn.2026-11.x:y"}, 4, "--iqn", "once a disk"},
		{{"run", "a", "--name=A b"}, 3, "A b", "--name a-b"},
		{{"run", "-x"}, 2, "-x", "./-x"},
		{{"run", "a", "--block-size=1000"}, 3, "1000", "512"},
		{{"run", "a", "--size=12x"}, 3, "12x", "100G"},
		{{"run", "a", "--state="}, 3, "--state", "--state DIR"},
		{{"run", "a", "--nonsense"}, 3, "nonsense", "listen"},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct run_options o;
		struct diag d;

		assert_true(parse(&o, &d, cases[i].n, cases[i].args) < 0);
		run_options_fini(&o);
		assert_non_null(strstr(d.what, cases[i].what));
		assert_non_null(strstr(d.fix, cases[i].fix));
	}
}

static void expect_state(const char *home, const char *xdg, const char *expected)
{
	const struct run_options o = {.state = NULL};
	char out[PATH_MAX];
	struct diag d;

	diag_init(&d);
	unsetenv("HOME");
	unsetenv("XDG_STATE_HOME");
	if (home != NULL)
		setenv("HOME", home, 1);
	if (xdg != NULL)
		setenv("XDG_STATE_HOME", xdg, 1);
	assert_int_equal(state_dir(out, sizeof(out), &o, &d), 0);
	assert_string_equal(out, expected);
}

static void state_goes_where_users_keep_it(void **state)
{
	const bool root = geteuid() == 0;
	char forbidden[] = "/tmp/spindle-home-XXXXXX", within[64];

	assert_non_null(mkdtemp(forbidden));
	assert_int_equal(chmod(forbidden, 0), 0);
	if (root) {
		expect_state("/nowhere/home", "/nowhere/xdg", "/var/lib/spindle");
		assert_int_equal(seteuid(65534), 0);
	}
	expect_state("/nowhere/home", NULL, "/nowhere/home/.local/state/spindle");
	expect_state("/nowhere/home", "/nowhere/xdg", "/nowhere/xdg/spindle");
	expect_state("/nowhere/home", "relative", "/nowhere/home/.local/state/spindle");
	expect_state("/nowhere/home", "", "/nowhere/home/.local/state/spindle");
	/* A service without a home, or with one that is not for it. */
	expect_state(NULL, NULL, "");
	expect_state("", NULL, "");
	str_format(within, sizeof(within), "%s/home", forbidden);
	expect_state(within, NULL, "");
	expect_state("/dev/null", NULL, "");
	if (root)
		assert_int_equal(seteuid(0), 0);
	rmdir(forbidden);
}

static void state_that_was_asked_for_must_do(void **state)
{
	struct run_options o = {.state = "/dev/null/x"};
	char out[PATH_MAX], longest[PATH_MAX + 1];
	struct diag d;

	diag_init(&d);
	assert_int_equal(state_dir(out, sizeof(out), &o, &d), -ENOTDIR);
	assert_non_null(strstr(d.what, "/dev/null/x"));
	assert_non_null(strstr(d.fix, "--state DIR"));
	memset(longest, 'n', PATH_MAX);
	longest[PATH_MAX] = '\0';
	o.state = longest;
	assert_int_equal(state_dir(out, sizeof(out), &o, &d), -ENAMETOOLONG);
	o.state = "not/there/yet";
	assert_int_equal(state_dir(out, sizeof(out), &o, &d), 0);
	assert_string_equal(out, "not/there/yet");
}

static void exit_codes_tell_errors_apart(void **state)
{
	assert_int_equal(exit_code_of(0), EXIT_OK);
	assert_int_equal(exit_code_of(-EINVAL), EXIT_USAGE);
	assert_int_equal(exit_code_of(-ENOENT), EXIT_NOT_FOUND);
	assert_int_equal(exit_code_of(-EADDRINUSE), EXIT_IN_USE);
	assert_int_equal(exit_code_of(-EACCES), EXIT_DENIED);
	assert_int_equal(exit_code_of(-EIO), EXIT_FAILED);
}

static void control_characters_are_not_shown(void **state)
{
	char out[16];

	assert_string_equal(show_text(out, sizeof(out), "a\nb\x1b[2J\x7f"), "a?b?[2J?");
	assert_string_equal(show_text(out, sizeof(out), "\xc3\xa4"), "\xc3\xa4");
	assert_string_equal(show_text(out, 4, "abcdef"), "abc");
	assert_string_equal(show_text(out, sizeof(out), ""), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_from_specs),
		cmocka_unit_test(names_are_made_unique),
		cmocka_unit_test(long_names_are_cut),
		cmocka_unit_test(bad_names_get_an_offer),
		cmocka_unit_test(target_names),
		cmocka_unit_test(options_default),
		cmocka_unit_test(options_land_in_their_fields),
		cmocka_unit_test(wrong_options_say_what_mends_them),
		cmocka_unit_test(state_goes_where_users_keep_it),
		cmocka_unit_test(state_that_was_asked_for_must_do),
		cmocka_unit_test(exit_codes_tell_errors_apart),
		cmocka_unit_test(control_characters_are_not_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
