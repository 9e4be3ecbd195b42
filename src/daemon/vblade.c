/*
 * The command line of vblade 25: one file or device, or a part of it, at one place on one interface. Apart
 * from compat.c, since it is that program's and nothing of it is ours: it becomes what `spindle run` would
 * be asked for.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/daemon.h"

#define SECTOR  512
#define BUFFERS 16 /* vblade's own default */

static const char usage[] = "vblade [-b bufcnt] [-o offset] [-l length] [-d] [-s] [-r] "
			    "[-m mac[,mac...]] shelf slot netif filename";

struct vblade {
	uint64_t buffers, first, sectors; /* sectors 0: to the end */
	bool direct, sync, read_only, help;
	char macs[AOE_MACS_MAX * 32]; /* ",mac=MAC..." */
	size_t macs_len;
	const char *shelf, *slot, *interface, *path;
};

/* ---- Options --------------------------------------------------------------------------------- */

struct option_row {
	char letter;
	const char *arg, *help;
	/* Puts the argument where it belongs: 0 or -EINVAL. NULL: a flag. */
	int (*set)(struct vblade *v, const char *value);
	size_t flag; /* then: where its bool is in struct vblade */
};

/* In any base that C knows. One that no file has is refused later: the slice begins behind the file's end. */
static int parse_sectors(uint64_t *out, const char *text)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 0);
	return isdigit((unsigned char)text[0]) && *end == '\0' && errno == 0 &&
			       *out <= INT64_MAX / SECTOR
		       ? 0
		       : -EINVAL;
}

/* vblade takes any number; what is promised is no more than there can be under way. */
static int set_buffers(struct vblade *v, const char *value)
{
	int err = parse_u64(value, &v->buffers);

	v->buffers = min_u64(v->buffers, AOE_BUFFERS_MAX);
	return err == 0 && v->buffers != 0 ? 0 : -EINVAL;
}

static int set_first(struct vblade *v, const char *value)
{
	return parse_sectors(&v->first, value);
}

static int set_sectors(struct vblade *v, const char *value)
{
	int err = parse_sectors(&v->sectors, value);

	return err == 0 && v->sectors != 0 ? 0 : -EINVAL;
}

/* Whether they are addresses is looked at by exports.c, which gets them as an --aoe of `run` would have them. */
static int add_macs(struct vblade *v, const char *value)
{
	while (value != NULL) {
		const char *comma = strchr(value, ',');
		const size_t len = comma != NULL ? (size_t)(comma - value) : strlen(value);

		if (len == 0 || !str_append(v->macs, sizeof(v->macs), &v->macs_len, ",mac=%.*s",
					    (int)len, value))
			return -EINVAL;
		value = comma != NULL ? comma + 1 : NULL;
	}
	return 0;
}

static const struct option_row rows[] = {
	{'b', "bufcnt", "requests under way at most, as clients are told (16)", .set = set_buffers},
	{'d', "", "past the page cache (O_DIRECT)", .flag = offsetof(struct vblade, direct)},
	{'s', "", "a write is durable before it is answered",
	 .flag = offsetof(struct vblade, sync)},
	{'r', "", "read-only", .flag = offsetof(struct vblade, read_only)},
	{'m', "mac[,mac...]", "answer these Ethernet addresses only", .set = add_macs},
	{'o', "offset", "the first sector of the file that is served (0)", .set = set_first},
	{'l', "length", "how many sectors are served; else to the end", .set = set_sectors},
	{'h', "", "print this help", .flag = offsetof(struct vblade, help)},
};

static void print_help(void)
{
	dprintf(STDOUT_FILENO, "usage: %s\n\nOptions:\n", usage);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char text[32];

		str_format(text, sizeof(text), "-%c %s", rows[i].letter, rows[i].arg);
		dprintf(STDOUT_FILENO, "  %-16s %s\n", text, rows[i].help);
	}
}

static int wrong(struct diag *d, const char *what, const char *value)
{
	char shown[64];

	str_escape(shown, sizeof(shown), value, strlen(value));
	diag_set(d, -EINVAL, "%s \"%s\"", what, shown);
	diag_fix(d, "usage: %s", usage);
	return -EINVAL;
}

static int set_option(struct vblade *v, int letter, struct diag *d)
{
	char what[32], name[] = {'-', (char)optopt, '\0'};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (rows[i].letter != letter)
			continue;
		if (rows[i].set == NULL) {
			*(bool *)((char *)v + rows[i].flag) = true;
			return 0;
		}
		if (rows[i].set(v, optarg) == 0)
			return 0;
		str_format(what, sizeof(what), "-%c cannot be", letter);
		return wrong(d, what, optarg);
	}
	return wrong(d, letter == ':' ? "there is nothing behind" : "there is no option", name);
}

static int check_number(const char *what, const char *text, uint64_t max, struct diag *d)
{
	uint64_t number;

	return parse_u64(text, &number) == 0 && number <= max ? 0 : wrong(d, what, text);
}

/* Options may stand behind what they belong to: so Debian's unit has them. */
static int parse(struct vblade *v, int argc, char **argv, struct diag *d)
{
	char letters[2 * ARRAY_LEN(rows) + 2] = ":";
	size_t len = 1;
	int letter, err = 0;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		str_append(letters, sizeof(letters), &len, "%c%s", rows[i].letter,
			   rows[i].set != NULL ? ":" : "");
	while (err == 0 && (letter = getopt(argc, argv, letters)) != -1)
		err = set_option(v, letter, d);
	if (err != 0 || v->help)
		return err;
	if (argc - optind != 4) {
		diag_set(d, -EINVAL, "shelf, slot, interface and file are what to serve");
		diag_fix(d, "usage: %s", usage);
		return -EINVAL;
	}
	v->shelf = argv[optind];
	v->slot = argv[optind + 1];
	v->interface = argv[optind + 2];
	v->path = argv[optind + 3];
	err = check_number("a shelf cannot be", v->shelf, UINT16_MAX, d);
	if (err == 0)
		err = check_number("a slot cannot be", v->slot, UINT8_MAX, d);
	if (err == 0 && strchr(v->interface, ',') != NULL)
		err = wrong(d, "an interface cannot be", v->interface);
	return err;
}

/* ---- What is served -------------------------------------------------------------------------- */

static int announce_vblade(const struct daemon *dm, int fd)
{
	const struct aoe_export *e = &dm->places[0].export;
	const struct bdev *bdev = unit_bdev(dm->disks[0].unit);
	char line[128];

	str_format(line, sizeof(line), "pid %ld: e%u.%u, %llu sectors %s\n", (long)getpid(),
		   e->shelf, e->slot, (unsigned long long)bdev_nblocks(bdev),
		   bdev_info(bdev)->read_only ? "O_RDONLY" : "O_RDWR");
	return write_all(fd, line, strlen(line));
}

static char *spec_of(const struct vblade *v)
{
	char length[40] = "", *spec;
	int n;

	if (v->first == 0 && v->sectors == 0)
		return asprintf(&spec, "file:%s", v->path) < 0 ? NULL : spec;
	if (v->sectors != 0)
		str_format(length, sizeof(length), ",length=%llu",
			   (unsigned long long)v->sectors * SECTOR);
	n = asprintf(&spec, "slice:offset=%llu%s:file:%s", (unsigned long long)v->first * SECTOR,
		     length, v->path);
	return n < 0 ? NULL : spec;
}

static char *place_of(const struct vblade *v)
{
	char *place;
	int n = asprintf(&place, "%s:%s.%s,cache=%s,buffers=%llu,admin=*%s", v->interface, v->shelf,
			 v->slot, v->sync ? "writethrough" : "writeback",
			 (unsigned long long)v->buffers, v->macs);

	return n < 0 ? NULL : place;
}

/* One thread: it is one disk, and who has many starts many of these. */
static int serve(const struct vblade *v, struct diag *d)
{
	char *spec = spec_of(v), *place = place_of(v);
	const char *places[] = {place};
	const struct run_options o = {
		.threads = 1,
		.aoe = {.v = places, .n = 1},
		.no_iscsi = true,
		.read_only = v->read_only,
		.direct = v->direct,
		.block_size = RUN_BLOCK_SIZE_512,
		.specs = &spec,
		.nspecs = 1,
		.announce = announce_vblade,
	};
	int status = -ENOMEM;

	if (spec == NULL || place == NULL)
		diag_set(d, -ENOMEM, "out of memory");
	else
		status = run_disks(&o, d);
	free(spec);
	free(place);
	/* Advice that names options of `run` is of no use here. */
	if (strstr(d->fix, "--") != NULL)
		d->fix[0] = '\0';
	return status;
}

/* ---- In the background: vbladed -------------------------------------------------------------- */

/* From now on input comes from `in` and output goes to `out`; -1: nowhere. */
static void let_go_of_terminal(int in, int out)
{
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	dup2(in >= 0 ? in : null, STDIN_FILENO);
	dup2(out >= 0 ? out : null, STDOUT_FILENO);
	dup2(out >= 0 ? out : null, STDERR_FILENO);
	if (null > STDERR_FILENO)
		close(null);
}

static void run_logger(int from)
{
	let_go_of_terminal(from, -1);
	execlp("logger", "logger", "-t", "vbladed", (char *)NULL);
	_exit(EXIT_FAILED);
}

/* What is said from now on goes to the system's log. 0: this is the process in the background; 1: it is the
 * first one, which may end; -errno, with a diag. */
static int go_to_background(struct diag *d)
{
	int log[2], null, err;
	pid_t pid;

	/* Where the caller has closed its input or output, no pipe gets their numbers. */
	while ((null = open("/dev/null", O_RDWR)) >= 0 && null <= STDERR_FILENO)
		continue;
	close(null);
	pid = pipe2(log, O_CLOEXEC) < 0 ? -1 : fork();
	if (pid == 0)
		run_logger(log[0]);
	if (pid > 0)
		pid = fork();
	if (pid == 0) {
		let_go_of_terminal(-1, log[1]);
		close(log[0]);
		close(log[1]);
		return 0;
	}
	if (pid > 0)
		return 1;
	err = -errno;
	return diag_set(d, err, "cannot go to the background: %s", strerror(-err));
}

/* ---- Both ------------------------------------------------------------------------------------ */

/* `go` leads to the background, NULL: nowhere. What is wrong with the arguments is told before that, where
 * somebody reads it. The exit code. */
static int run(int argc, char **argv, int (*go)(struct diag *d))
{
	struct vblade v = {.buffers = BUFFERS};
	struct diag d;
	int status;

	diag_init(&d);
	opterr = 0;
	status = parse(&v, argc, argv, &d);
	if (status == 0 && v.help) {
		print_help();
		return EXIT_OK;
	}
	if (status == 0 && go != NULL)
		status = go(&d);
	if (status > 0)
		return EXIT_OK;
	if (status == 0)
		status = serve(&v, &d);
	return status < 0 ? (int)report(&d, status) : status;
}

int vblade_command(int argc, char **argv)
{
	return run(argc, argv, NULL);
}

int vbladed_command(int argc, char **argv)
{
	return run(argc, argv, go_to_background);
}
