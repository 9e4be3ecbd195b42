/*
 * `spindle run`: serves what the command line names, in the foreground, until a signal comes.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/daemon.h"

void run_help(int fd)
{
	char text[4096];

	dprintf(fd, "\nServes each STORE as a disk, in an iSCSI target of its own. A STORE is\n\n");
	for (size_t i = 0; registry_stores[i] != NULL; i++)
		dprintf(fd, "  %-8s %s\n", store_type_word(registry_stores[i]),
			store_type_help(registry_stores[i]));
	dprintf(fd,
		"\nA path alone is a file or a device. Sizes: 512M, 10G, 10GiB, 10GB (decimal), "
		"bytes.\n\nOptions:\n%s",
		opt_help(run_opts, text, sizeof(text)));
	dprintf(fd, "\nExit codes: 0 stopped cleanly, 1 failed, 2 usage, 3 not found, 4 in use, "
		    "5 denied.\n");
}

/* A connection is a descriptor: the soft limit of 1024 is for programs that use select(2). */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
	setrlimit(RLIMIT_NOFILE, &limit);
}

/* Whoever asked for JSON waits for that line and can do nothing without it; a human can. */
static int announce(const struct daemon *dm, const struct run_options *o, struct diag *d)
{
	int err = o->announce(dm, STDOUT_FILENO);

	if (err == 0)
		return 0;
	diag_set(d, err, "cannot write to stdout: %s", strerror(-err));
	if (o->json)
		return err;
	diag_fix(d, "serving all the same; Ctrl-C stops");
	report(d, err);
	return 0;
}

/* Its clients will take it for another disk than before: worth a line whatever is asked for. */
static void warn_of_copies(const struct daemon *dm)
{
	for (size_t i = 0; i < dm->ndisks; i++) {
		if (dm->disks[i].identity_renewed)
			log_event(&dm->log, LOG_WARN, "identity-renewed",
				  F_STR("disk", dm->disks[i].name),
				  F_STR("serial", unit_identity(dm->disks[i].unit)->serial),
				  F_STR("why", "a copy of another disk"));
	}
}

/* Work on whole disks that an earlier process left undone. Until it is done, or done again where it
 * failed, such a disk refuses its data: worth a line, too. */
static void go_on(const struct daemon *dm)
{
	for (size_t i = 0; i < dm->ndisks; i++) {
		const char *left = scsi_lu_unfinished(dm->disks[i].lu);

		if (left != NULL)
			log_event(&dm->log, LOG_WARN, "unfinished-work",
				  F_STR("disk", dm->disks[i].name), F_STR("work", left));
		scsi_lu_start(dm->disks[i].lu);
	}
}

static void asked_for_counts(void *arg, int signo)
{
	const struct daemon *dm = arg;

	aoe_tell(dm->aoe);
}

static int catch_signals(struct daemon *dm)
{
	int err = stop_on_signals(dm);

	return err < 0 ? err : loop_signal(dm->set, SIGUSR1, asked_for_counts, dm);
}

static int serve(struct daemon *dm, const struct run_options *o, struct diag *d)
{
	int err;

	err = aoe_check(dm->aoe, d);
	if (err < 0)
		return err;
	err = catch_signals(dm);
	if (err < 0)
		return diag_set(d, err, "cannot catch signals: %s", strerror(-err));
	err = watch_start(dm);
	if (err < 0)
		return diag_set(d, err, "cannot watch the disks: %s", strerror(-err));
	err = announce(dm, o, d);
	if (err < 0)
		return err;
	warn_of_copies(dm);
	log_event(&dm->log, LOG_INFO, "serving", F_U64("disks", dm->ndisks),
		  F_U64("threads", loop_set_count(dm->set)),
		  F_STR("disk_engine", loop_set_disk_engine(dm->set)));
	go_on(dm);
	aoe_start(dm->aoe);
	for (size_t i = 0; i < dm->ndisks; i++)
		store_keep(bdev_store(unit_bdev(dm->disks[i].unit)));
	if (o->announce == announce_text && isatty(STDERR_FILENO))
		dprintf(STDERR_FILENO, "Ctrl-C stops.\n");
	err = loop_set_run(dm->set);
	return err < 0 ? diag_set(d, err, "cannot start the threads: %s", strerror(-err)) : 0;
}

int run_disks(const struct run_options *o, struct diag *d)
{
	struct daemon dm = {.status = EXIT_OK};
	int err;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a file's limit is the client's ENOSPC, not our end */
	raise_descriptor_limit();
	dm.log = (struct log){.fd = STDERR_FILENO, .level = o->verbose ? LOG_INFO : LOG_NOTE};
	err = daemon_assemble(&dm, o, d);
	if (err < 0)
		return err;
	err = serve(&dm, o, d);
	stop_signals_default(&dm);
	/* Memory that stuck I/O may still write to is not given back. */
	if (dm.stuck)
		_exit(dm.status);
	daemon_fini(&dm);
	return err < 0 ? err : (int)dm.status;
}

int run_command(int argc, char **argv)
{
	struct run_options o;
	struct diag d;
	int status;

	diag_init(&d);
	status = run_options_parse(&o, argc, argv, &d);
	if (status < 0) {
		run_options_fini(&o);
		report(&d, status);
		return EXIT_USAGE;
	}
	if (o.help) {
		run_options_fini(&o);
		dprintf(STDOUT_FILENO, "usage: spindle run STORE... [OPTION...]\n");
		run_help(STDOUT_FILENO);
		return EXIT_OK;
	}
	status = run_disks(&o, &d);
	run_options_fini(&o);
	return status < 0 ? (int)report(&d, status) : status;
}
