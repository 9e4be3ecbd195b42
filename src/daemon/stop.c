/*
 * The way from serving to nothing. All of it runs on loop 0:
 *
 *   SERVING --signal--> STOPPING --last nexus gone--> FLUSHING --all flushed--> STOPPED
 *                          |       and no disk is at       ^
 *                          |       work of its own         |
 *                          '--- deadline: I/O is stuck ----'   and then not longer than a deadline
 *
 * Stuck I/O still owns its memory, so nothing is taken apart then: what can be flushed is flushed,
 * and the process ends with an error. A second signal ends it at once, but for one that comes with the
 * first: timeout(1) signals the process, and then its whole group. A flush may take its time, as there
 * may be gigabytes to write: whoever waits for it is told what for. A disk that does not say how it is
 * (watch.c) is not waited for when all is flushed, but then, too, nothing is taken apart.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "daemon/daemon.h"

/* Commands under way get GRACE_MS for their answers; then their connections close, and their I/O
 * has the rest of STUCK_MS to come back. */
#define GRACE_MS 5000
#define STUCK_MS 15000
#define WATCH_MS 1000
/* Signals within that are one. */
#define ONE_MS 200
#define MS     UINT64_C(1000000)

static const int stop_signals[] = {SIGINT, SIGTERM, SIGHUP};

static void stopped(struct daemon *dm)
{
	dm->state = DAEMON_STOPPED;
	loop_timer_stop(&dm->deadline);
	loop_set_stop(dm->set);
}

/* Nothing is lost any more. */
static void flushed(struct daemon *dm)
{
	if (dm->watched == 0)
		stopped(dm);
	else
		loop_timer_start(&dm->deadline, WATCH_MS * MS);
}

static void watch_stopped(void *arg)
{
	struct daemon *dm = arg;

	dm->watched--;
	if (dm->state == DAEMON_FLUSHING && dm->flushes == 0 && dm->watched == 0)
		stopped(dm);
}

static void flush_done(struct io *io)
{
	struct disk *disk = container_of(io, struct disk, flush);
	struct daemon *dm = disk->daemon;

	if (io->result < 0) {
		struct diag d;

		diag_init(&d);
		diag_set(&d, io->result, "cannot flush %s: %s", disk->spec, strerror(-io->result));
		diag_fix(&d, "what was written since the last flush may be lost: check the disk "
			     "below and the file system on it");
		report(&d, io->result);
		dm->status = EXIT_FAILED;
	}
	if (--dm->flushes == 0)
		flushed(dm);
}

static void flush_all(struct daemon *dm)
{
	dm->state = DAEMON_FLUSHING;
	dm->flushes = 1;
	watch_stop(dm, watch_stopped);
	for (size_t i = 0; i < dm->ndisks; i++) {
		struct disk *disk = &dm->disks[i];
		struct bdev *bdev = unit_bdev(disk->unit);

		if (bdev_info(bdev)->read_only)
			continue;
		disk->flush = (struct io){
			.op = IO_FLUSH,
			.done = flush_done,
			.loop = loop_set_at(dm->set, 0),
		};
		dm->flushes++;
		bdev_submit(bdev, &disk->flush);
	}
	if (--dm->flushes == 0)
		flushed(dm);
}

/* The transports, or the work of a disk: a SANITIZE goes on when the disk is served again. */
static void one_ended(void *arg)
{
	struct daemon *dm = arg;

	if (--dm->ending != 0 || dm->state != DAEMON_STOPPING)
		return;
	loop_timer_start(&dm->deadline, STUCK_MS * MS);
	flush_all(dm);
}

static void deadline_passed(struct loop_timer *timer)
{
	struct daemon *dm = container_of(timer, struct daemon, deadline);

	if (dm->state == DAEMON_FLUSHING && dm->flushes == 0) {
		dm->stuck = true;
		stopped(dm);
		return;
	}
	if (dm->state == DAEMON_FLUSHING && !dm->stuck) {
		dprintf(STDERR_FILENO,
			"spindle: still flushing after %d s; a second signal stops at once, and "
			"what is not flushed then may be lost\n",
			STUCK_MS / 1000);
		return;
	}
	dm->status = EXIT_FAILED;
	if (dm->state == DAEMON_FLUSHING) {
		stopped(dm);
		return;
	}
	dprintf(STDERR_FILENO,
		"spindle: some I/O did not come back within %d s; what can be "
		"flushed is flushed: check the disk below\n",
		STUCK_MS / 1000);
	dm->stuck = true;
	loop_timer_start(&dm->deadline, STUCK_MS * MS);
	flush_all(dm);
}

static bool comes_with_the_first(const struct daemon *dm)
{
	return dm->state != DAEMON_SERVING &&
	       loop_now_ns(loop_set_at(dm->set, 0)) - dm->signalled_ns < ONE_MS * MS;
}

static void signal_caught(void *arg, int signo)
{
	struct daemon *dm = arg;

	if (comes_with_the_first(dm))
		return;
	if (dm->state != DAEMON_SERVING) {
		dprintf(STDERR_FILENO, "spindle: stopped at once by a second signal; what was not "
				       "flushed may be lost\n");
		_exit(EXIT_FAILED);
	}
	log_event(&dm->log, LOG_INFO, "stopping", F_STR("signal", sigabbrev_np(signo)));
	dm->state = DAEMON_STOPPING;
	dm->signalled_ns = loop_now_ns(loop_set_at(dm->set, 0));
	loop_timer_init(&dm->deadline, loop_set_at(dm->set, 0), deadline_passed);
	loop_timer_start(&dm->deadline, STUCK_MS * MS);
	dm->ending = 2 + dm->ndisks;
	for (size_t i = 0; i < dm->ndisks; i++)
		scsi_lu_stop(dm->disks[i].lu, loop_set_at(dm->set, 0), one_ended, dm);
	aoe_stop(dm->aoe, one_ended, dm);
	iscsi_stop(dm->iscsi, GRACE_MS, one_ended, dm);
}

/* Under nohup(1) a hang-up is to be ignored, and blocking it would undo that. SIGINT is not asked:
 * shells ignore it for what they run in the background, where kill -INT should still stop us. */
static bool ignored_on_purpose(int signo)
{
	struct sigaction now;

	return signo == SIGHUP && sigaction(signo, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

int stop_on_signals(struct daemon *dm)
{
	for (size_t i = 0; i < ARRAY_LEN(stop_signals); i++) {
		int err;

		if (ignored_on_purpose(stop_signals[i]))
			continue;
		err = loop_signal(dm->set, stop_signals[i], signal_caught, dm);
		if (err < 0)
			return err;
	}
	return 0;
}

void stop_signals_default(const struct daemon *dm)
{
	sigset_t set;

	/* It may still come, and all is flushed. */
	if (comes_with_the_first(dm))
		return;
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(stop_signals); i++)
		sigaddset(&set, stop_signals[i]);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}
