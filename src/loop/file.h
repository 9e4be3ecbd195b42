/*
 * A file inside: what file.c (who does it, and when), fileops.c (how, blocking), fileopen.c
 * (opening, tags) and filefacts.c (what is known of it) share. Private to them and to their unit tests.
 */
#ifndef SPINDLE_LOOP_FILE_H
#define SPINDLE_LOOP_FILE_H

#include "loop/engine.h"

/* Reads and writes up to this many bytes may be tried on the loop itself. */
#define FILE_INLINE_BYTES (256 * KiB)
/* One batch of writes: enough to make the hand-over cheap, and soon over. */
#define FILE_BATCH_IOS   64
#define FILE_BATCH_BYTES (1 * MiB)
/* Batches of one loop that are with the workers; what comes meanwhile makes the next ones. */
#define FILE_BATCHES 2
/* Other work of one loop with the workers: what is over waits its turn on the loop. */
#define FILE_SINGLES     16
#define FILE_IN_RING     128 /* transfers of one loop in its ring; the rest waits */
#define FILE_MAX_RUNNING 4   /* default of file_config.max_running */

struct file_loop;

/* What a worker does in one go: a batch of writes, or one io of another kind. */
struct file_job {
	struct work work;
	struct file_loop *fl;
	struct queue ios; /* by io->msg.link */
	bool batch;
	struct file_job *next_free;
};

/* One file on one loop: touched there only. */
struct file_loop {
	struct file *file;
	struct loop *loop;
	struct queue writes;         /* gathered, for the next batch */
	struct queue singles;        /* waiting for a free job */
	struct queue ring_waiting;   /* FILE_IN_RING are in the ring */
	struct loop_msg at_end;      /* starts batches */
	bool armed;                  /* at_end is queued */
	unsigned nbatches, nsingles; /* with the workers */
	unsigned nring;
	uint64_t batches_made, ring_made; /* since the file was opened */
	struct file_job *free_jobs;
	struct file_job jobs[FILE_BATCHES + FILE_SINGLES];
};

struct file {
	int fd;
	struct loop_set *set;
	unsigned flags;
	char *made; /* the path of one that is to be removed; or NULL */
	struct file_info info;
	atomic_bool no_nowait; /* the file system knows no RWF_NOWAIT: found out by trying */
	atomic_bool lost;      /* an I/O or a probe said that it is gone */
	atomic_bool refused;   /* a write was refused as if it were read-only */
	bool removable;        /* its medium can be exchanged */
	char fingerprint[320]; /* when it was opened; empty: it has none */
	pthread_mutex_t sync_lock;
	bool sync_failed; /* under the lock */
	struct work_lane *lane;
	struct file_loop *loops; /* one a loop */
};

/* Sets up `lane` and `loops`; on error file_loops_fini cleans up. */
int file_loops_init(struct file *f, unsigned max_running);
void file_loops_fini(struct file *f);

/* All blocking, on a worker. The result of each io goes to io->result. */
void file_run_io(struct file *f, struct io *io);
void file_run_batch(struct file *f, struct queue *ios);

/* Fills f->info, but for keeps_tags. */
int file_facts(struct file *f);
/* Of the VPD page Block Device Characteristics (SBC-3 6.6.4), which Linux keeps of SCSI disks. */
void file_parse_shape(struct file_info *info, const uint8_t *page, size_t len);
/* fsync or fdatasync, one at a time and none after one that failed: it may be any earlier write that
 * failed, and the kernel tells that once and forgets. 0 or -errno. Blocking, any thread. */
int file_sync(struct file *f, int (*sync)(int fd));
/* An I/O ended so: what that says of the file is kept for file_probe(). Any thread. */
void file_note_error(struct file *f, int err);

#endif
