/*
 * What happens to the disks below while they are served: each event is one line in the log, which
 * says what to do where somebody must do something.
 */
#include "daemon/daemon.h"

#define WATCH_INTERVAL_NS UINT64_C(5000000000)

static const struct event_row {
	enum log_level level;
	const char *name;
	const char *fix; /* or NULL */
} events[] = {
	[UNIT_EVENT_GREW] = {LOG_INFO, "disk-grew", NULL},
	[UNIT_EVENT_LOST] = {LOG_ERROR, "disk-lost",
			     "clients get NOT READY until it is back; a device that does not come "
			     "back by itself needs a restart"},
	[UNIT_EVENT_BACK] = {LOG_WARN, "disk-back", NULL},
	[UNIT_EVENT_READ_ONLY] = {LOG_ERROR, "disk-read-only",
				  "clients cannot write until the disk below takes writes again"},
	[UNIT_EVENT_WRITABLE] = {LOG_WARN, "disk-writable", NULL},
	[UNIT_EVENT_FLUSH_FAILED] = {LOG_ERROR, "flush-failed",
				     "read-only from now on, what was written since the last flush "
				     "may be lost: check the disk below and the file system on "
				     "it, then restart"},
	[UNIT_EVENT_SHRUNK] = {LOG_ERROR, "disk-shrunk",
			       "read-only, and errors behind its end: give it its size back, and "
			       "what was there"},
	[UNIT_EVENT_UNLINKED] = {LOG_WARN, "disk-unlinked",
				 "its file was deleted or replaced: what is written will be gone "
				 "when this process ends"},
};

static uint64_t size_now(const struct disk *disk)
{
	struct bdev *bdev = unit_bdev(disk->unit);

	return bdev_nblocks(bdev) * bdev_info(bdev)->block_size;
}

/* On the steward's loop of the disk's unit: nothing else touches `size`. */
static void happened(void *arg, struct unit *unit, enum unit_event event)
{
	struct disk *disk = arg;
	const struct log *log = &disk->daemon->log;
	const struct event_row *row = &events[event];

	if (event == UNIT_EVENT_GREW) {
		uint64_t old = disk->size;

		disk->size = size_now(disk);
		log_event(log, row->level, row->name, F_STR("disk", disk->name), F_U64("old", old),
			  F_U64("new", disk->size));
	} else if (row->fix != NULL) {
		log_event(log, row->level, row->name, F_STR("disk", disk->name),
			  F_STR("store", disk->spec), F_STR("fix", row->fix));
	} else {
		log_event(log, row->level, row->name, F_STR("disk", disk->name));
	}
}

int watch_start(struct daemon *dm)
{
	for (size_t i = 0; i < dm->ndisks; i++) {
		struct disk *disk = &dm->disks[i];
		int err;

		disk->size = size_now(disk);
		err = unit_watch_start(disk->unit, &(struct unit_watch_config){
							   .interval_ns = WATCH_INTERVAL_NS,
							   .event = happened,
							   .arg = disk,
						   });
		if (err < 0)
			return err;
		dm->watched++;
	}
	return 0;
}

void watch_stop(struct daemon *dm, void (*stopped)(void *dm))
{
	for (size_t i = 0; i < dm->watched; i++)
		unit_watch_stop(dm->disks[i].unit, loop_set_at(dm->set, 0), stopped, dm);
}
