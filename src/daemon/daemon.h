/*
 * daemon: puts the layers together, runs them, takes them apart again.
 * May use: everything. May be used by: nothing.
 * This header is for the files of this folder and their tests.
 *
 * Everything that lives as long as the program hangs off one struct daemon, which is passed down;
 * there are no globals that change.
 */
#ifndef SPINDLE_DAEMON_H
#define SPINDLE_DAEMON_H

#include <limits.h>

#include "aoe/aoe.h"
#include "iscsi/iscsi.h"

/* ---- Exit codes, the same for every subcommand */

enum exit_code {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_NOT_FOUND = 3,
	EXIT_IN_USE = 4,
	EXIT_DENIED = 5,
};

/* From what a layer below answered; 0 is EXIT_OK. */
enum exit_code exit_code_of(int err);
/* "spindle: what; fix" in one line on stderr. Returns exit_code_of(err). */
enum exit_code report(const struct diag *d, int err);
/* For a terminal: '?' in the place of control characters, other bytes (UTF-8) as they are. Returns
 * `dst`. */
const char *show_text(char *dst, size_t cap, const char *src);

/* ---- registry.c: what can be named on the command line */

/* NULL-terminated. */
extern const struct store_type *const registry_stores[];

/* ---- names.c: names of disks and of their targets */

#define DISK_NAME_MAX 64

/* From "dir/Disk 1.img" to "disk-1", from "ram:1G" to "ram": letters, digits, '-' and '.', in
 * lower case, never empty. `taken` (may be NULL) tells which names are gone: then "disk-1-2". */
struct name_set {
	bool (*taken)(const void *arg, const char *name);
	const void *arg;
};
void name_from_spec(char out[DISK_NAME_MAX + 1], const char *spec, const struct name_set *set);
/* A name the user chose: -EINVAL, and the diag offers one that would do. */
int name_check(const char *name, struct diag *d);
/* "nas.example.com", "disk" -> "iqn.2026-11.com.example.nas:disk"; a host without a domain is in
 * "local". -EINVAL: too long. */
int iqn_from_host(char out[SCSI_NAME_MAX + 1], const char *host, const char *name, struct diag *d);

/* ---- options.c: what `spindle run` takes */

struct daemon;

enum run_block_size { RUN_BLOCK_SIZE_AUTO, RUN_BLOCK_SIZE_512, RUN_BLOCK_SIZE_4096 };

struct run_options {
	uint64_t size, port, threads, memory;
	struct opt_strings listen, aoe, chap;
	const char *name, *iqn, *mutual_chap, *state;
	unsigned block_size; /* enum run_block_size */
	bool no_iscsi, read_only, direct, unsolicited, json, verbose, help;
	/* What is no option: the stores. */
	char **specs;
	size_t nspecs;
	/* Tells on `fd` that all is ready: 0 or -errno. */
	int (*announce)(const struct daemon *dm, int fd);
};

extern const struct opt run_opts[];

/* argv[0] is the subcommand. The strings point into argv. Usage errors fill the diag. */
int run_options_parse(struct run_options *o, int argc, char **argv, struct diag *d);
void run_options_fini(struct run_options *o);
uint32_t run_options_block_size(const struct run_options *o);

/* ---- The daemon */

/* A disk and all that serves it, in the order it is built; every part may be missing. */
struct disk {
	struct daemon *daemon;
	const char *spec; /* as the user wrote it */
	char name[DISK_NAME_MAX + 1];
	char iqn[SCSI_NAME_MAX + 1]; /* "": not served by iSCSI */
	bool identity_renewed;
	struct unit *unit; /* has the bdev, that has the store */
	struct scsi_lu *lu;
	struct scsi_target *target;
	struct io flush; /* the last one */
	uint64_t size;   /* bytes, as told last; watch.c */
};

/* One --aoe. */
struct aoe_place {
	char *text;               /* the interface points into it */
	struct aoe_export export; /* of the first disk; the next ones follow in its shelf */
};

enum daemon_state { DAEMON_SERVING, DAEMON_STOPPING, DAEMON_FLUSHING, DAEMON_STOPPED };

struct daemon {
	struct log log;
	struct loop_set *set;
	struct iscsi *iscsi;
	struct aoe *aoe;
	struct aoe_place *places;
	size_t nplaces;
	struct disk *disks;
	size_t ndisks;
	void *names;            /* of the disks, a tree of tsearch() */
	char kept_in[PATH_MAX]; /* what disks cannot keep; "": nowhere */
	/* stop.c; on loop 0 */
	enum daemon_state state;
	uint64_t signalled_ns; /* when the first signal came */
	struct loop_timer deadline;
	size_t flushes; /* under way */
	size_t ending;  /* of the transports and the disks' own work, what has not stopped */
	size_t watched; /* disks whose watches have not stopped */
	bool stuck;     /* some I/O never came back: nothing can be taken apart */
	enum exit_code status;
};

/* assemble.c: from options to a daemon that listens; what was built is undone on failure. Blocking.
 */
int daemon_assemble(struct daemon *dm, const struct run_options *o, struct diag *d);
/* The loops do not run. Also half-built. */
void daemon_fini(struct daemon *dm);

/* secrets.c: who may log in, from --chap and --mutual-chap, USER:FILE each. */
int secrets_load(struct iscsi *iscsi, const struct run_options *o, struct diag *d);

/* exports.c: the disks at the places of --aoe. */
int exports_load(struct daemon *dm, const struct run_options *o, struct diag *d);
void exports_fini(struct daemon *dm);

/* state.c: the directory for what a disk cannot keep: --state, else the system's or the user's, "" when
 * there is none. */
int state_dir(char *out, size_t cap, const struct run_options *o, struct diag *d);

/* announce.c: tells on stdout what is served and how to reach it. 0 or -errno of the write. */
int announce_json(const struct daemon *dm, int fd);
int announce_text(const struct daemon *dm, int fd);
/* All or -errno. */
int write_all(int fd, const char *buf, size_t len);

/* watch.c: looks after the stores of all disks, and tells in the log. 0 or -ENOMEM. */
int watch_start(struct daemon *dm);
/* `stopped` comes on loop 0 for each of dm->watched. */
void watch_stop(struct daemon *dm, void (*stopped)(void *dm));

/* stop.c: signals, and the way from serving to nothing. */
int stop_on_signals(struct daemon *dm);
/* After the loops ended: signals act on the process again. */
void stop_signals_default(const struct daemon *dm);

/* run.c */
int run_command(int argc, char **argv);
void run_help(int fd);
/* Serves until a signal comes. The exit code, or -errno with a diag. */
int run_disks(const struct run_options *o, struct diag *d);

/* compat.c: other programs' command lines, `spindle compat NAME ...`. The exit code. */
int compat_command(int argc, char **argv);
void compat_help(int fd);
/* Is it one of their names that this program was started by? Then it was run, and ended with *status. */
bool compat_by_name(int *status, int argc, char **argv);

/* vblade.c: what stands behind their names on the command line, from argv[1] on. The exit code. */
int vblade_command(int argc, char **argv);
int vbladed_command(int argc, char **argv);

#endif
