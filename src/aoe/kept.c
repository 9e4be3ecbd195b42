/*
 * Small values that are kept with the disk: a byte that says how (there is one way), then the value. Apart
 * because the config string and the lists of access.c are kept alike.
 */
#include "aoe/impl.h"

#include <string.h>

#define KEPT_AS 1

ssize_t aoe_kept_get(const struct unit *u, const char *name, void *bytes, size_t cap)
{
	uint8_t kept[1 + AOE_KEPT_MAX];
	const ssize_t n = unit_tag_get(u, name, kept, sizeof(kept));

	if (n == -ENODATA || n == -EOPNOTSUPP)
		return 0;
	if (n < 0 && n != -ERANGE)
		return n;
	if (n <= 0 || kept[0] != KEPT_AS || (size_t)n - 1 > cap)
		return -EBADMSG;
	memcpy(bytes, kept + 1, (size_t)n - 1);
	return n - 1;
}

int aoe_kept_set(struct unit *u, const char *name, const void *bytes, size_t len)
{
	uint8_t kept[1 + AOE_KEPT_MAX] = {KEPT_AS};

	CHECK(len <= AOE_KEPT_MAX);
	if (bdev_info(unit_bdev(u))->read_only)
		return -EROFS;
	if (!unit_keeps_tags(u))
		return 0;
	memcpy(kept + 1, bytes, len);
	return unit_tag_set(u, name, kept, 1 + len);
}
