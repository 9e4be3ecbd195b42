/*
 * What is kept with the disk of work that has it to itself, so that a process which ends in the
 * middle, however it ends, leaves no disk that looks as if nothing had happened. Apart from job.c,
 * which does the work.
 *
 * One tag, "work", version 1, big endian:
 *
 *   version 1, state 1 (enum lu_work), kind 1 (enum job_kind), flags 1, passes 1, pass 1,
 *   pattern length 2, offset 8, NAA of the disk 8, pattern, CRC-32C of all that 4
 *
 * A pattern that the file system has no room for is left out (ext4 keeps less than 4 KiB); such an
 * overwrite cannot go on after a restart and has failed then.
 *
 * A copy of a disk takes its tags along, and its identity is another then: what nobody has asked it to
 * do it does not go on with. Half done it may be all the same, so that has failed, too.
 *
 * A tag that cannot be understood says that something was under way. The disk may be half erased,
 * and to serve that as if it were good would be the worst answer; so it counts as a failed SANITIZE.
 * EXIT FAILURE MODE is allowed then, for the disk may as well be whole, and there must be a way to it.
 */
#include "scsi/job.h"

#define TAG_NAME       "work"
#define TAG_VERSION    1
#define TAG_HEADER_LEN 24
#define TAG_CRC_LEN    4
#define NAA_LEN        sizeof(((struct unit_identity *)NULL)->naa)
#define TAG_MAX        (TAG_HEADER_LEN + JOB_PATTERN_MAX + TAG_CRC_LEN)
/* Any file system keeps a tag with a pattern of this length. */
#define SHORT_PATTERN 64

enum tag_flags { TAG_MAY_EXIT = 1, TAG_INVERT = 2 };

/* ---- Writing ---- */

static int set_tag(const struct scsi_lu *lu, enum lu_work state, const struct job_work *work,
		   uint16_t pattern_len)
{
	uint8_t buf[TAG_MAX];
	struct writer w = writer_of(buf, sizeof(buf));

	write_u8(&w, TAG_VERSION);
	write_u8(&w, low_u8(state));
	write_u8(&w, low_u8(work->kind));
	write_u8(&w,
		 low_u8((work->may_exit ? TAG_MAY_EXIT : 0u) | (work->invert ? TAG_INVERT : 0u)));
	write_u8(&w, work->passes);
	write_u8(&w, work->pass);
	write_be16(&w, pattern_len);
	write_be64(&w, work->off);
	write_bytes(&w, unit_identity(lu->unit)->naa, NAA_LEN);
	write_bytes(&w, work->pattern, pattern_len);
	write_be32(&w, crc32c(0, buf, w.len));
	return unit_tag_set(lu->unit, TAG_NAME, buf, w.len);
}

int job_keep(const struct scsi_lu *lu, enum lu_work state, const struct job_work *work)
{
	static const struct job_work nothing;
	int err;

	if (state == WORK_NONE)
		work = &nothing;
	err = set_tag(lu, state, work, work->pattern_len);
	if (err != 0 && err != -EOPNOTSUPP && work->pattern_len > SHORT_PATTERN)
		err = set_tag(lu, state, work, 0);
	/* Nothing else of such a disk survives either. */
	return err == -EOPNOTSUPP ? 0 : err;
}

/* ---- Reading ---- */

static bool makes_sense(enum lu_work state, const struct job_work *work)
{
	const bool formats = work->kind == JOB_FORMAT,
		   sanitizes = work->kind == JOB_OVERWRITE || work->kind == JOB_BLOCK_ERASE;

	if (state == WORK_NONE)
		return true;
	if (state == WORK_FORMAT || state == WORK_FORMAT_FAILED ? !formats : !sanitizes)
		return false;
	return state <= WORK_SANITIZE_FAILED && work->pass < work->passes;
}

struct kept {
	enum lu_work state;
	struct job_work *work;
	const uint8_t *naa;
};

static bool decode(const uint8_t *buf, size_t len, struct kept *kept)
{
	struct reader r = reader_of(buf, len);
	struct job_work *work = kept->work;
	const uint8_t *pattern;
	uint8_t flags;

	if (len < TAG_HEADER_LEN + TAG_CRC_LEN || read_u8(&r) != TAG_VERSION ||
	    crc32c(0, buf, len - TAG_CRC_LEN) != load_be32(buf + len - TAG_CRC_LEN))
		return false;
	kept->state = read_u8(&r);
	work->kind = read_u8(&r);
	flags = read_u8(&r);
	work->may_exit = flags & TAG_MAY_EXIT;
	work->invert = flags & TAG_INVERT;
	work->passes = read_u8(&r);
	work->pass = read_u8(&r);
	work->pattern_len = read_be16(&r);
	work->off = read_be64(&r);
	kept->naa = read_bytes(&r, NAA_LEN);
	if (work->pattern_len > JOB_PATTERN_MAX)
		return false;
	pattern = read_bytes(&r, work->pattern_len);
	if (pattern == NULL || reader_left(&r) != TAG_CRC_LEN)
		return false;
	memcpy(work->pattern, pattern, work->pattern_len);
	return makes_sense(kept->state, work);
}

/* Cannot go on: on a copy, where nothing can be written, or without its pattern, or with one that is
 * longer than the blocks are by now. */
static bool is_stuck(const struct scsi_lu *lu, const struct kept *kept)
{
	const struct job_work *work = kept->work;

	return memcmp(kept->naa, unit_identity(lu->unit)->naa, NAA_LEN) != 0 ||
	       lu->info->read_only || work->pattern_len > lu->info->block_size ||
	       (work->kind == JOB_OVERWRITE && work->pattern_len == 0);
}

int job_kept(const struct scsi_lu *lu, enum lu_work *state, struct job_work *work)
{
	struct kept kept = {.work = work};
	uint8_t buf[TAG_MAX];
	ssize_t n = unit_tag_get(lu->unit, TAG_NAME, buf, sizeof(buf));

	*state = WORK_NONE;
	*work = (struct job_work){.kind = JOB_NOTHING};
	if (n == -ENODATA || n == -EOPNOTSUPP)
		return 0;
	if (n == -ERANGE || n == -EBADMSG)
		n = 0; /* longer than any of ours, or damaged */
	if (n < 0)
		return (int)n;
	if (!decode(buf, (size_t)n, &kept)) {
		*work = (struct job_work){.kind = JOB_BLOCK_ERASE, .passes = 1, .may_exit = true};
		*state = WORK_SANITIZE_FAILED;
		return 0;
	}
	*state = kept.state;
	/* Blocks may be larger by now. */
	work->off = align_down(work->off, lu->info->block_size);
	if (is_stuck(lu, &kept) && *state == WORK_SANITIZE)
		*state = WORK_SANITIZE_FAILED;
	else if (is_stuck(lu, &kept) && *state == WORK_FORMAT)
		*state = WORK_FORMAT_FAILED;
	return 0;
}
