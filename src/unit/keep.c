/*
 * Small named values kept with the disk, or, where its store keeps none, in a directory of this machine,
 * by the disk's NAA designator. Apart from identity.c, which asks the store only: an identity that
 * stayed behind on one machine would be given out a second time on the next.
 *
 * A value in the directory carries the disk's fingerprint and is nobody else's. A disk that could not
 * be told from another after a restart has none there: better nothing kept than another disk erased
 * in its place.
 */
#include "unit/impl.h"

#include <errno.h>
#include <stdlib.h>

static struct store *store_of(const struct unit *u)
{
	return bdev_store(u->bdev);
}

static struct kept_place place_of(const struct unit *u)
{
	return (struct kept_place){
		.dir = u->keep.dir,
		.group = u->keep.group,
		.bound_to = u->keep.bound_to,
	};
}

int unit_keep_in(struct unit *u, const char *dir)
{
	const struct store_info *info = store_info(store_of(u));
	struct unit_keep *keep = &u->keep;

	CHECK(keep->dir == NULL);
	if (dir == NULL || info->keeps_tags || !info->known_again ||
	    store_fingerprint(store_of(u), keep->bound_to, sizeof(keep->bound_to)) < 0)
		return 0;
	str_hex(keep->group, u->identity.naa, sizeof(u->identity.naa));
	keep->dir = strdup(dir);
	return keep->dir != NULL ? 0 : -ENOMEM;
}

bool unit_keeps_tags(const struct unit *u)
{
	const struct store_info *info = store_info(store_of(u));

	return info->keeps_tags || (u->keep.dir != NULL && !info->read_only);
}

/* A disk that is served read-only may have been left half erased as well, and its store is asked first:
 * it says that it keeps nothing because nothing can be written. */
ssize_t unit_tag_get(const struct unit *u, const char *name, void *buf, size_t cap)
{
	const struct kept_place place = place_of(u);
	const ssize_t n = store_tag_get(store_of(u), name, buf, cap);

	if (u->keep.dir == NULL || (n != -EOPNOTSUPP && n != -ENODATA))
		return n;
	return kept_get(&place, name, buf, cap);
}

/* What is wrong with the directory says nothing of the disk: that it is lost, or that it keeps nothing. */
static int place_errno(int err)
{
	switch (err) {
	case 0:
	case -ENOMEM:
	case -ENOSPC:
		return err;
	case -EDQUOT:
	case -EFBIG:
		return -ENOSPC;
	case -EROFS:
	case -EACCES:
	case -EPERM:
		return -EROFS;
	default:
		return -EIO;
	}
}

int unit_tag_set(struct unit *u, const char *name, const void *buf, size_t len)
{
	const struct kept_place place = place_of(u);

	if (u->keep.dir == NULL)
		return store_tag_set(store_of(u), name, buf, len);
	if (!unit_keeps_tags(u))
		return -EROFS;
	return place_errno(kept_set(&place, name, buf, len));
}
