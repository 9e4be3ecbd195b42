/*
 * What is known about a file or device: when it is opened, and how it is now. All blocking. Apart
 * from fileopen.c, because this is asked again and again, also while I/O is under way.
 *
 * What was lost is the same disk again only if it can tell: a file by its inode, a device by its
 * serial number. A device without one, or whose medium can be exchanged, stays lost: it may be
 * another by now.
 */
#include "loop/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

/* ---- What the kernel knows of a device ------------------------------------------------------- */

/* /sys/dev/block/MAJ:MIN/NAME, or of its disk's when `dev` is a partition. NULL: neither is there. */
static FILE *sysfs_open(dev_t dev, const char *name)
{
	static const char *const places[] = {"", "../"};
	FILE *file = NULL;

	for (size_t i = 0; i < ARRAY_LEN(places) && file == NULL; i++) {
		char path[PATH_MAX];

		str_format(path, sizeof(path), "/sys/dev/block/%u:%u/%s%s", major(dev), minor(dev),
			   places[i], name);
		file = fopen(path, "re");
	}
	return file;
}

/* The first line. */
static bool sysfs_text(dev_t dev, const char *name, char *buf, size_t cap)
{
	FILE *file = sysfs_open(dev, name);
	bool found;

	if (file == NULL)
		return false;
	found = fgets(buf, (int)cap, file) != NULL;
	fclose(file);
	if (found)
		buf[strcspn(buf, "\n")] = '\0';
	return found && buf[0] != '\0';
}

static uint64_t sysfs_number(dev_t dev, const char *name)
{
	char text[32];
	uint64_t v;

	return sysfs_text(dev, name, text, sizeof(text)) && parse_u64(text, &v) == 0 ? v : 0;
}

static bool is_rotation_rate(uint16_t rate)
{
	return rate == 1 || (rate > 0x400 && rate != 0xffff);
}

void file_parse_shape(struct file_info *info, const uint8_t *page, size_t len)
{
	if (len < 8 || page[1] != 0xb1)
		return;
	if (is_rotation_rate(load_be16(page + 4)))
		info->rotation_rate = load_be16(page + 4);
	if ((page[7] & 0xf) <= 5)
		info->form_factor = page[7] & 0xf;
}

static void device_shape(struct file_info *info, dev_t dev)
{
	FILE *file = sysfs_open(dev, "device/vpd_pgb1");
	uint8_t page[8];

	if (file == NULL)
		return;
	file_parse_shape(info, page, fread(page, 1, sizeof(page), file));
	fclose(file);
}

static void device_character(struct file_info *info, dev_t dev)
{
	char text[8];

	info->rotational = sysfs_number(dev, "queue/rotational") != 0;
	device_shape(info, dev);
	if (info->rotation_rate == 0 && sysfs_text(dev, "queue/rotational", text, sizeof(text)))
		info->rotation_rate = info->rotational ? 0 : 1;
}

/* ---- When it is opened ----------------------------------------------------------------------- */

static int device_size(const struct file *f, uint64_t *out)
{
	return ioctl(f->fd, BLKGETSIZE64, out) == 0 ? 0 : -errno;
}

static int device_facts(struct file *f, dev_t dev)
{
	struct file_info *info = &f->info;
	int logical = 512;
	unsigned physical = 512, optimal = 0;
	int err = device_size(f, &info->size);

	if (err != 0)
		return err;
	if (ioctl(f->fd, BLKSSZGET, &logical) != 0 || ioctl(f->fd, BLKPBSZGET, &physical) != 0)
		return -errno;
	if (ioctl(f->fd, BLKIOOPT, &optimal) != 0)
		optimal = 0;
	info->block_device = true;
	info->logical_block = (uint32_t)logical;
	info->physical_block = physical;
	info->direct_align = (uint32_t)logical;
	info->optimal_io = optimal;
	device_character(info, dev);
	f->removable = sysfs_number(dev, "removable") != 0;
	if (sysfs_number(dev, "queue/discard_max_bytes") != 0) {
		info->discard_granularity =
			clamp_u32(sysfs_number(dev, "queue/discard_granularity"));
		info->discard_alignment = clamp_u32(sysfs_number(dev, "discard_alignment"));
	}
	return 0;
}

/* Beyond the end there is nothing to lose. */
static bool can_punch(const struct file *f)
{
	off_t beyond = (off_t)align_up(f->info.size, MiB);

	return fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, beyond, 4096) == 0;
}

/* As the file system says, or what any can do. */
static uint32_t direct_align_of(int fd)
{
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) != 0 ||
	    (stx.stx_mask & STATX_DIOALIGN) == 0 || stx.stx_dio_offset_align == 0)
		return 4096;
	return (uint32_t)max_u64(stx.stx_dio_offset_align, stx.stx_dio_mem_align);
}

static int regular_facts(struct file *f, const struct stat *st)
{
	struct file_info *info = &f->info;
	uint64_t block = (uint64_t)st->st_blksize;
	struct statfs fs;

	if (fstatfs(f->fd, &fs) != 0)
		return -errno;
	info->size = (uint64_t)st->st_size;
	info->in_memory = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
	if (info->in_memory)
		info->rotation_rate = 1;
	else
		device_character(info, st->st_dev);
	info->logical_block = 512;
	info->physical_block = is_power_of_2(block) && block <= 64 * KiB ? (uint32_t)block : 4096;
	info->direct_align = direct_align_of(f->fd);
	info->discard_zeroes = true;
	if (!info->read_only && can_punch(f))
		info->discard_granularity = info->physical_block;
	return 0;
}

/* A file needs its birth time: numbers of inodes are used again. These file systems make them up, as
 * files are looked up. */
static bool is_file_known_again(const struct file *f)
{
	static const unsigned makes_up_inodes[] = {MSDOS_SUPER_MAGIC, EXFAT_SUPER_MAGIC,
						   FUSE_SUPER_MAGIC};
	struct statx stx;
	struct statfs fs;

	if (fstatfs(f->fd, &fs) != 0 || statx(f->fd, "", AT_EMPTY_PATH, STATX_BTIME, &stx) != 0)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(makes_up_inodes); i++)
		if ((unsigned)fs.f_type == makes_up_inodes[i])
			return false;
	return (stx.stx_mask & STATX_BTIME) != 0;
}

/* The number of a device whose medium can be exchanged is not that of the medium. */
static bool is_known_again(const struct file *f)
{
	if (f->fingerprint[0] == '\0')
		return false;
	return f->info.block_device ? !f->removable : is_file_known_again(f);
}

int file_facts(struct file *f)
{
	struct stat st;
	int err;

	if (fstat(f->fd, &st) != 0)
		return -errno;
	f->info.read_only = (f->flags & FILE_READ_ONLY) != 0;
	err = S_ISBLK(st.st_mode) ? device_facts(f, st.st_rdev) : regular_facts(f, &st);
	if ((f->flags & FILE_DIRECT) != 0 && f->info.logical_block < f->info.direct_align)
		f->info.logical_block = f->info.direct_align;
	if (err == 0 && file_fingerprint(f, f->fingerprint, sizeof(f->fingerprint)) != 0)
		f->fingerprint[0] = '\0';
	f->info.known_again = err == 0 && is_known_again(f);
	return err;
}

static int device_fingerprint(dev_t dev, char *buf, size_t cap)
{
	static const struct {
		const char *file, *key;
	} names[] = {
		{"wwid", "wwid"},  {"device/wwid", "wwid"}, {"dm/uuid", "dm"},
		{"md/uuid", "md"}, {"serial", "serial"},    {"device/serial", "serial"},
	};
	char text[256];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		if (!sysfs_text(dev, names[i].file, text, sizeof(text)))
			continue;
		if (!str_format(buf, cap, "%s=%s part=%llu", names[i].key, text,
				(unsigned long long)sysfs_number(dev, "partition")))
			return -ERANGE;
		return 0;
	}
	return -EOPNOTSUPP;
}

int file_fingerprint(struct file *f, char *buf, size_t cap)
{
	struct statx stx;
	bool fits;

	if (statx(f->fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &stx) != 0)
		return -errno;
	if (f->info.block_device)
		return device_fingerprint(makedev(stx.stx_rdev_major, stx.stx_rdev_minor), buf,
					  cap);
	if ((stx.stx_mask & STATX_BTIME) != 0)
		fits = str_format(buf, cap, "ino=%llu btime=%lld.%09u",
				  (unsigned long long)stx.stx_ino, (long long)stx.stx_btime.tv_sec,
				  stx.stx_btime.tv_nsec);
	else
		fits = str_format(buf, cap, "ino=%llu", (unsigned long long)stx.stx_ino);
	return fits ? 0 : -ERANGE;
}

/* ---- Its size -------------------------------------------------------------------------------- */

static int size_now(const struct file *f, uint64_t *out)
{
	struct stat st;

	if (f->info.block_device)
		return device_size(f, out);
	if (fstat(f->fd, &st) != 0)
		return -errno;
	*out = (uint64_t)st.st_size;
	return 0;
}

static int extend(struct file *f, uint64_t size)
{
	if (f->info.read_only)
		return -EROFS;
	if (ftruncate(f->fd, (off_t)size) != 0)
		return -errno;
	f->info.size = size;
	return file_sync(f, fsync) == 0 ? 0 : -EIO;
}

int file_resize(struct file *f, uint64_t size)
{
	uint64_t now = 0;
	int err = size_now(f, &now);

	if (err != 0)
		return err;
	if (now < f->info.size || (size != 0 && size < now))
		return -ERANGE;
	if (size > now && !f->info.block_device)
		return extend(f, size);
	f->info.size = now;
	return size > now ? -ENOSPC : 0;
}

/* ---- How it is now --------------------------------------------------------------------------- */

void file_note_error(struct file *f, int err)
{
	static const int lost[] = {-ENODEV, -ENXIO, -ENOMEDIUM, -ESHUTDOWN, -ESTALE};

	for (size_t i = 0; i < ARRAY_LEN(lost); i++)
		if (err == lost[i])
			atomic_store_explicit(&f->lost, true, memory_order_relaxed);
	if (err == -EROFS || err == -EPERM)
		atomic_store_explicit(&f->refused, true, memory_order_relaxed);
}

static int probe_device(struct file *f, dev_t dev, struct file_status *out)
{
	char path[64];
	int read_only = 0, err;

	err = device_size(f, &out->size);
	if (err != 0)
		return err;
	if (out->size == 0) /* detached, or without a medium */
		return -ENODEV;
	str_format(path, sizeof(path), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	if (access("/sys/dev/block", F_OK) == 0 && access(path, F_OK) != 0)
		return -ENODEV;
	if (ioctl(f->fd, BLKROGET, &read_only) != 0)
		return -errno;
	out->read_only |= read_only != 0;
	return 0;
}

/* A file system may be read-only without saying so, after an error or by an attribute of the file:
 * once a write was refused, only a change tells whether the next one would be. The least there is
 * is the time of the last access, or for who does not own the file its times as they are now. */
static bool still_refused(struct file *f)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};

	if (!atomic_load_explicit(&f->refused, memory_order_relaxed))
		return false;
	if (futimens(f->fd, times) != 0 && futimens(f->fd, NULL) != 0)
		return true;
	atomic_store_explicit(&f->refused, false, memory_order_relaxed);
	return false;
}

static int probe_regular(struct file *f, const struct stat *st, struct file_status *out)
{
	struct statvfs fs;

	if (fstatvfs(f->fd, &fs) != 0)
		return -errno;
	out->size = (uint64_t)st->st_size;
	out->allocated = (uint64_t)st->st_blocks * 512;
	out->available = (uint64_t)fs.f_bavail * fs.f_frsize;
	out->unlinked = st->st_nlink == 0;
	out->read_only |= (fs.f_flag & ST_RDONLY) != 0 || still_refused(f);
	return 0;
}

static int probe(struct file *f, struct file_status *out)
{
	struct stat st;

	if (fstat(f->fd, &st) != 0)
		return -errno;
	return f->info.block_device ? probe_device(f, st.st_rdev, out) : probe_regular(f, &st, out);
}

/* It answers. Is it what was opened? */
static bool is_same(struct file *f)
{
	char now[sizeof(f->fingerprint)];

	return !f->removable && f->fingerprint[0] != '\0' &&
	       file_fingerprint(f, now, sizeof(now)) == 0 && strcmp(now, f->fingerprint) == 0;
}

int file_probe(struct file *f, struct file_status *out)
{
	int err;

	*out = (struct file_status){
		.read_only = f->info.read_only,
		.allocated = UINT64_MAX,
		.available = UINT64_MAX,
	};
	err = probe(f, out);
	if (err != 0)
		file_note_error(f, err);
	else if (atomic_load_explicit(&f->lost, memory_order_relaxed) && !is_same(f))
		err = -ENODEV;
	else
		atomic_store_explicit(&f->lost, false, memory_order_relaxed);
	return err;
}
