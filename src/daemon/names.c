/*
 * Names of disks and targets, made from what the user typed and from the host. Apart because these
 * rules are a promise: initiators remember the names.
 *
 * An iSCSI name holds lower-case letters, digits, '-', '.' and ':' (RFC 7143 4.2.7.2); a disk's
 * name is the part after the ':' and does without another one.
 */
#include <ctype.h>
#include <errno.h>

#include "daemon/daemon.h"

#define IQN_PREFIX "iqn.2026-11."

/* Appends a piece in lower case; whatever stands between letters and digits becomes one separator,
 * '.' or '-', and there is none at either end. Returns the new length. */
static size_t append_clean(char *dst, size_t cap, size_t len, const char *src, size_t src_len)
{
	char separator = '\0';
	size_t start = len;

	for (size_t i = 0; i < src_len; i++) {
		unsigned char c = (unsigned char)src[i];

		if (c >= 0x80 || !isalnum(c)) {
			if (separator == '\0')
				separator = c == '.' ? '.' : '-';
			continue;
		}
		if (len + 2 >= cap)
			break;
		if (separator != '\0' && len > start)
			dst[len++] = separator;
		separator = '\0';
		dst[len++] = (char)tolower(c);
	}
	dst[len] = '\0';
	return len;
}

/* The word in front of the last ':' when it is a store type other than a file's: "ram". */
static const char *memory_type(const char *spec, size_t colon)
{
	size_t from = colon;

	while (from > 0 && spec[from - 1] != ':')
		from--;
	for (size_t i = 0; registry_stores[i] != NULL; i++) {
		const char *name = store_type_word(registry_stores[i]);

		if (registry_stores[i] != &store_file && strlen(name) == colon - from &&
		    memcmp(name, spec + from, colon - from) == 0)
			return name;
	}
	return NULL;
}

/* The part of the spec that names the disk: the type, or the file without directory and suffix. */
static const char *telling_part(const char *spec, size_t *len)
{
	const char *colon = strrchr(spec, ':');
	const char *slash = strrchr(spec, '/');
	const char *part = spec, *dot;

	if (slash != NULL) {
		part = slash + 1;
	} else if (colon != NULL) {
		part = memory_type(spec, (size_t)(colon - spec));
		if (part != NULL) {
			*len = strlen(part);
			return part;
		}
		part = colon + 1;
	}
	while (*part == '.')
		part++;
	dot = strrchr(part, '.');
	*len = dot != NULL && dot > part ? (size_t)(dot - part) : strlen(part);
	return part;
}

void name_from_spec(char out[DISK_NAME_MAX + 1], const char *spec, const struct name_set *set)
{
	char stem[DISK_NAME_MAX + 1];
	size_t len;
	const char *part = telling_part(spec, &len);

	/* With room for a number behind it. */
	if (append_clean(stem, sizeof(stem) - 9, 0, part, len) == 0)
		str_copy(stem, sizeof(stem), "disk");
	str_copy(out, DISK_NAME_MAX + 1, stem);
	for (unsigned n = 2; set != NULL && set->taken(set->arg, out); n++)
		str_format(out, DISK_NAME_MAX + 1, "%s-%u", stem, n);
}

int name_check(const char *name, struct diag *d)
{
	char clean[DISK_NAME_MAX + 1], shown[2 * DISK_NAME_MAX];

	append_clean(clean, sizeof(clean), 0, name, strlen(name));
	if (*name != '\0' && strcmp(clean, name) == 0)
		return 0;
	str_escape(shown, sizeof(shown), name, strlen(name));
	diag_set(d, -EINVAL,
		 "\"%s\" cannot name a disk: a name has 1 to %d lower-case letters, digits, '-' "
		 "and '.'",
		 shown, DISK_NAME_MAX);
	diag_fix(d, "try --name %s", clean[0] != '\0' ? clean : "disk1");
	return -EINVAL;
}

/* The last label first: "nas.example.com" -> "com.example.nas". */
static size_t append_reversed(char *dst, size_t cap, size_t len, const char *host)
{
	size_t start = len;

	for (size_t end = strlen(host), from; end > 0; end = from > 0 ? from - 1 : 0) {
		size_t before = len;

		from = end;
		while (from > 0 && host[from - 1] != '.')
			from--;
		if (len > start && len + 1 < cap)
			dst[len++] = '.';
		size_t dotted = len;
		len = append_clean(dst, cap, len, host + from, end - from);
		if (len == dotted)
			len = before;
		dst[len] = '\0';
	}
	return len;
}

int iqn_from_host(char out[SCSI_NAME_MAX + 1], const char *host, const char *name, struct diag *d)
{
	size_t cap = SCSI_NAME_MAX + 1, len = 0;

	str_append(out, cap, &len, IQN_PREFIX "%s", strchr(host, '.') == NULL ? "local." : "");
	if (append_reversed(out, cap, len, host) == len)
		str_append(out, cap, &len, "localhost");
	len = strlen(out);
	if (!str_append(out, cap, &len, ":%s", name)) {
		diag_set(d, -EINVAL, "the name of this host is too long for an iSCSI name");
		diag_fix(d, "choose one with --iqn iqn.2026-11.local:%s", name);
		return -EINVAL;
	}
	return 0;
}
