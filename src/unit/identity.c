/*
 * Who a disk is, for life: its NAA designator and serial number.
 *
 * Two tags are kept with the disk's file:
 *
 *   identity   "NAA SERIAL": 16 hexadecimal digits, a space, the serial number
 *   bound_to   a hash of the machine and of the store's fingerprint, for which it was made
 *
 *   identity   bound_to
 *   none       any        a new disk: a random identity
 *   there      none       carried over on purpose: adopted, and bound to this disk
 *   there      ours       ours
 *   there      other      a copy, or a disk on a cloned machine: a random identity, `renewed`
 *
 * A disk that moves to another machine or file system and shall stay the same to its clients is
 * carried over by removing bound_to (setfattr -x user.spindle.bound_to FILE). A store that keeps no
 * tags gets an identity computed from the same hash, or, when it has no fingerprint either, a
 * random one.
 *
 * The hash tells disks apart that differ by accident; nothing here withstands, or has to withstand,
 * one who wants two disks to look alike.
 */
#include "unit/impl.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#define TAG_IDENTITY "identity"
#define TAG_BOUND_TO "bound_to"
#define MACHINE_ID   "/etc/machine-id"
#define TEXT_MAX     512
#define NAA_DIGITS   16

/* FNV-1a, then a finaliser that spreads every input bit over all output bits. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
	for (; *text != '\0'; text++)
		hash = (hash ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
	hash = (hash ^ '\n') * UINT64_C(0x100000001b3);
	hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
	hash = (hash ^ (hash >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
	return hash ^ (hash >> 33);
}

/* The first line of the file, "" when it cannot be read: there are machines without one. */
static void read_machine_id(const char *path, char *buf, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, buf, cap - 1) : -1;

	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	if (fd >= 0)
		close(fd);
}

/* What the disk is bound to. false: the store cannot be told from another. */
static bool find_binding(struct store *store, const char *machine_id_path, uint64_t *out)
{
	char machine[TEXT_MAX], fingerprint[TEXT_MAX];
	bool known = store_fingerprint(store, fingerprint, sizeof(fingerprint)) >= 0;

	if (!known)
		fingerprint[0] = '\0';
	read_machine_id(machine_id_path, machine, sizeof(machine));
	*out = hash_text(hash_text(UINT64_C(0xcbf29ce484222325), machine), fingerprint);
	return known;
}

static void identity_of(struct unit_identity *out, uint64_t number)
{
	/* NAA 3h: locally assigned, 60 bits. */
	store_be64(out->naa, UINT64_C(3) << 60 | number >> 4);
	str_hex(out->serial, out->naa, sizeof(out->naa));
}

static int identity_random(struct unit_identity *out, struct diag *d)
{
	uint64_t number;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return diag_set(d, -EIO, "cannot get random numbers");
	identity_of(out, number);
	return 0;
}

/* ---- The tags ---- */

/* 0, -ENODATA, or another -errno. */
static int read_tag(struct store *store, const char *name, char *buf, size_t cap)
{
	ssize_t n = store_tag_get(store, name, buf, cap - 1);

	buf[n > 0 ? n : 0] = '\0';
	return n < 0 ? (int)n : 0;
}

static int write_identity(struct store *store, const struct unit_identity *id)
{
	char text[TEXT_MAX], naa[NAA_DIGITS + 1];

	str_hex(naa, id->naa, sizeof(id->naa));
	str_format(text, sizeof(text), "%s %s", naa, id->serial);
	return store_tag_set(store, TAG_IDENTITY, text, strlen(text));
}

static int write_binding(struct store *store, uint64_t binding)
{
	char text[NAA_DIGITS + 1];

	str_format(text, sizeof(text), "%016llx", (unsigned long long)binding);
	return store_tag_set(store, TAG_BOUND_TO, text, strlen(text));
}

static bool parse_hex(const char *text, size_t digits, uint64_t *out)
{
	*out = 0;
	for (size_t i = 0; i < digits; i++) {
		char c = text[i];

		if (c >= '0' && c <= '9')
			*out = *out << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			*out = *out << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	return true;
}

static bool is_serial(const char *s)
{
	size_t len = strlen(s);

	for (size_t i = 0; i < len; i++)
		if (s[i] <= ' ' || s[i] > '~')
			return false;
	return len >= 1 && len <= UNIT_SERIAL_MAX;
}

static int parse_identity(const char *text, struct unit_identity *out, struct diag *d)
{
	uint64_t naa;

	if (!parse_hex(text, NAA_DIGITS, &naa) || naa >> 60 != 3 || text[NAA_DIGITS] != ' ' ||
	    !is_serial(text + NAA_DIGITS + 1)) {
		diag_fix(d, "remove it to give the disk a new identity: "
			    "setfattr -x user.spindle." TAG_IDENTITY " FILE");
		return diag_set(d, -EINVAL,
				"the identity kept with the disk is not \"NAA SERIAL\"");
	}
	store_be64(out->naa, naa);
	str_copy(out->serial, sizeof(out->serial), text + NAA_DIGITS + 1);
	return 0;
}

/* ---- Which identity ---- */

static bool keeps_nothing(int err)
{
	return err == -EOPNOTSUPP || err == -EROFS || err == -EPERM || err == -EACCES;
}

struct disk {
	struct store *store;
	uint64_t binding;
	bool fingerprinted;
};

static int identity_computed(const struct disk *disk, struct unit_identity *out, struct diag *d)
{
	if (!disk->fingerprinted)
		return identity_random(out, d);
	identity_of(out, disk->binding);
	return 0;
}

static int kept(int err, struct diag *d)
{
	return err == 0 ? 0
			: diag_set(d, err, "cannot keep the identity with the disk: %s",
				   strerror(-err));
}

/* The identity is written before the binding: killed in between, the disk is renewed once more,
 * and never bound with the identity of the one it was copied from. */
static int identity_new(const struct disk *disk, struct unit_identity *out, struct diag *d)
{
	int err = identity_random(out, d);

	if (err != 0)
		return err;
	err = write_identity(disk->store, out);
	if (err == 0)
		err = write_binding(disk->store, disk->binding);
	if (keeps_nothing(err))
		return identity_computed(disk, out, d);
	return kept(err, d);
}

static int identity_found(const struct disk *disk, const char *text, struct unit_identity *out,
			  bool *renewed, struct diag *d)
{
	char bound_to[TEXT_MAX];
	uint64_t number;
	int err = parse_identity(text, out, d);

	if (err != 0)
		return err;
	err = read_tag(disk->store, TAG_BOUND_TO, bound_to, sizeof(bound_to));
	if (err == -ENODATA) {
		/* A read-only disk cannot be bound, and is what it says all the same. */
		err = write_binding(disk->store, disk->binding);
		return keeps_nothing(err) ? 0 : kept(err, d);
	}
	if (err != 0)
		return diag_set(d, err, "cannot read what the disk's identity is bound to: %s",
				strerror(-err));
	if (strlen(bound_to) == NAA_DIGITS && parse_hex(bound_to, NAA_DIGITS, &number) &&
	    number == disk->binding)
		return 0;
	*renewed = true;
	return identity_new(disk, out, d);
}

int identity_load(struct store *store, const char *machine_id_path, struct unit_identity *out,
		  bool *renewed, struct diag *d)
{
	struct disk disk = {.store = store};
	char text[TEXT_MAX];
	int err;

	*out = (struct unit_identity){.serial = ""};
	*renewed = false;
	disk.fingerprinted = find_binding(store, machine_id_path, &disk.binding);
	err = read_tag(store, TAG_IDENTITY, text, sizeof(text));
	if (err == 0)
		return identity_found(&disk, text, out, renewed, d);
	if (err == -ENODATA)
		return identity_new(&disk, out, d);
	if (keeps_nothing(err))
		return identity_computed(&disk, out, d);
	return diag_set(d, err, "cannot read the disk's identity: %s", strerror(-err));
}

int unit_identity_load(struct store *store, struct unit_identity *out, bool *renewed,
		       struct diag *d)
{
	return identity_load(store, MACHINE_ID, out, renewed, d);
}
