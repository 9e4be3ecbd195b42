/*
 * The options of `spindle run`: the one table behind the command line, the help and the manual
 * page.
 */
#include <errno.h>

#include "daemon/daemon.h"

static const char *const block_size_names[] = {
	[RUN_BLOCK_SIZE_AUTO] = "auto",
	[RUN_BLOCK_SIZE_512] = "512",
	[RUN_BLOCK_SIZE_4096] = "4096",
	NULL,
};
static const uint32_t block_sizes[] = {
	[RUN_BLOCK_SIZE_AUTO] = 0,
	[RUN_BLOCK_SIZE_512] = 512,
	[RUN_BLOCK_SIZE_4096] = 4096,
};

#define FIELD(member) offsetof(struct run_options, member)

const struct opt run_opts[] = {
	{
		.name = "size",
		.kind = OPT_SIZE,
		.offset = FIELD(size),
		.min = 4096,
		.arg = "SIZE",
		.help = "make a missing file, sparse, of this size",
	},
	{
		.name = "listen",
		.kind = OPT_LIST,
		.offset = FIELD(listen),
		.arg = "ADDR[:PORT]",
		.help = "serve here; repeatable (127.0.0.1)",
	},
	{
		.name = "aoe",
		.kind = OPT_LIST,
		.offset = FIELD(aoe),
		.arg = "IF:SHELF.SLOT",
		.help = "over Ethernet; repeatable; ,cache= buffers= xdp= mac= admin=",
	},
	{
		.name = "no-iscsi",
		.kind = OPT_FLAG,
		.offset = FIELD(no_iscsi),
		.help = "serve by --aoe only",
	},
	{
		.name = "port",
		.kind = OPT_UINT,
		.offset = FIELD(port),
		.max = 65535,
		.def = "3260",
		.arg = "N",
		.help = "where --listen names no port; 0: a free one",
	},
	{
		.name = "ro",
		.kind = OPT_FLAG,
		.offset = FIELD(read_only),
		.help = "serve read-only",
	},
	{
		.name = "direct",
		.kind = OPT_FLAG,
		.offset = FIELD(direct),
		.help = "read and write past the page cache (O_DIRECT)",
	},
	{
		.name = "block-size",
		.kind = OPT_CHOICE,
		.offset = FIELD(block_size),
		.choices = block_size_names,
		.def = "auto",
		.arg = "512|4096",
		.help = "bytes in a block; else the device's own",
	},
	{
		.name = "name",
		.kind = OPT_STRING,
		.offset = FIELD(name),
		.max = DISK_NAME_MAX,
		.arg = "NAME",
		.help = "name of the disk; else from the file's name",
	},
	{
		.name = "iqn",
		.kind = OPT_STRING,
		.offset = FIELD(iqn),
		.max = SCSI_NAME_MAX,
		.arg = "IQN",
		.help = "iSCSI name of the target; else made from host and disk",
	},
	{
		.name = "chap",
		.kind = OPT_LIST,
		.offset = FIELD(chap),
		.arg = "USER:FILE",
		.help = "serve only who proves to be USER, secret in FILE; repeatable",
	},
	{
		.name = "mutual-chap",
		.kind = OPT_STRING,
		.offset = FIELD(mutual_chap),
		.arg = "USER:FILE",
		.help = "prove to clients that ask that we are USER, too",
	},
	{
		.name = "state",
		.kind = OPT_STRING,
		.offset = FIELD(state),
		.arg = "DIR",
		.help = "keeps what a disk cannot; else of the system or user",
	},
	{
		.name = "threads",
		.kind = OPT_UINT,
		.offset = FIELD(threads),
		.min = 1,
		.max = 256,
		.arg = "N",
		.help = "threads that serve; else one a core",
	},
	{
		.name = "memory",
		.kind = OPT_SIZE,
		.offset = FIELD(memory),
		.min = LOOP_MEMORY_MIN,
		.arg = "SIZE",
		.help = "for data on its way; else 256M, or 64M a thread",
	},
	{
		.name = "unsolicited",
		.kind = OPT_FLAG,
		.offset = FIELD(unsolicited),
		.help = "let initiators send first bursts unasked (InitialR2T=No)",
	},
	{
		.name = "json",
		.kind = OPT_FLAG,
		.offset = FIELD(json),
		.help = "print one line of JSON when all is ready",
	},
	{
		.name = "verbose",
		.kind = OPT_FLAG,
		.offset = FIELD(verbose),
		.help = "log what happens; also -v",
	},
	{
		.name = "help",
		.kind = OPT_FLAG,
		.offset = FIELD(help),
		.help = "print this help; also -h",
	},
	{.name = NULL},
};

static const struct {
	const char *letter, *option;
} short_options[] = {
	{"-v", "--verbose"},
	{"-h", "--help"},
};

/* Letters become the words they stand for; other letters are no names of files by accident. */
static int expand_short(int argc, char **argv, struct diag *d)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		char shown[32];
		size_t k = 0;

		if (argv[i][0] != '-' || argv[i][1] == '-' || argv[i][1] == '\0')
			continue;
		while (k < ARRAY_LEN(short_options) &&
		       strcmp(argv[i], short_options[k].letter) != 0)
			k++;
		if (k < ARRAY_LEN(short_options)) {
			/* Only read from here on. */
			argv[i] = (char *)short_options[k].option;
			continue;
		}
		str_escape(shown, sizeof(shown), argv[i], strlen(argv[i]));
		diag_set(d, -EINVAL, "there is no option \"%s\"", shown);
		diag_fix(d, "spindle help run lists the options; a file of this name is ./%s",
			 shown);
		return -EINVAL;
	}
	return 0;
}

/* Without iSCSI there must be another way in, and nobody may believe that what guards or names iSCSI does
 * so with others. */
static int check_no_iscsi(const struct run_options *o, struct diag *d)
{
	const struct {
		const char *option;
		bool given;
	} rows[] = {
		{"--listen", o->listen.n != 0},
		{"--iqn", o->iqn != NULL},
		{"--chap", o->chap.n != 0},
		{"--unsolicited", o->unsolicited},
	};

	if (!o->no_iscsi)
		return 0;
	if (o->aoe.n == 0) {
		diag_set(d, -EINVAL, "--no-iscsi leaves no way to the disks");
		diag_fix(d, "say where else they are: --aoe eth1:1.0");
		return -EINVAL;
	}
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (!rows[i].given)
			continue;
		diag_set(d, -EINVAL, "%s is for iSCSI, and there is none with --no-iscsi",
			 rows[i].option);
		diag_fix(d, "leave out one of them");
		return -EINVAL;
	}
	return 0;
}

static int check_names(const struct run_options *o, struct diag *d)
{
	if (o->name != NULL && name_check(o->name, d) < 0)
		return -EINVAL;
	return o->iqn != NULL ? iscsi_name_check(o->iqn, d) : 0;
}

/* What is wrong in the whole, when every option by itself is fine. */
static int check_together(const struct run_options *o, struct diag *d)
{
	if (o->help)
		return 0;
	if (o->nspecs == 0) {
		diag_set(d, -EINVAL, "nothing to serve");
		diag_fix(d, "name a file, a device or ram:SIZE: spindle run disk.img --size 10G");
		return -EINVAL;
	}
	if (o->nspecs > 1 && (o->name != NULL || o->iqn != NULL)) {
		diag_set(d, -EINVAL, "%s is for one disk, and there are %zu",
			 o->name != NULL ? "--name" : "--iqn", o->nspecs);
		diag_fix(d, "leave it out, or run spindle once a disk");
		return -EINVAL;
	}
	if (o->mutual_chap != NULL && o->chap.n == 0) {
		diag_set(d, -EINVAL, "--mutual-chap is nothing without --chap");
		diag_fix(d, "first say who may come: --chap USER:FILE");
		return -EINVAL;
	}
	if (o->state != NULL && o->state[0] == '\0') {
		diag_set(d, -EINVAL, "--state names no directory");
		diag_fix(d, "leave it out, or write --state DIR");
		return -EINVAL;
	}
	return check_no_iscsi(o, d) < 0 ? -EINVAL : check_names(o, d);
}

int run_options_parse(struct run_options *o, int argc, char **argv, struct diag *d)
{
	int err;

	*o = (struct run_options){0};
	err = opt_defaults(run_opts, o, d);
	if (err < 0)
		return err;
	err = expand_short(argc, argv, d);
	if (err == 0)
		err = opt_parse_argv(run_opts, o, &argc, argv, d);
	if (err < 0)
		return err;
	o->specs = argv + 1;
	o->nspecs = (size_t)(argc - 1);
	o->announce = o->json ? announce_json : announce_text;
	return check_together(o, d);
}

void run_options_fini(struct run_options *o)
{
	opt_fini(run_opts, o);
}

uint32_t run_options_block_size(const struct run_options *o)
{
	return block_sizes[o->block_size];
}
