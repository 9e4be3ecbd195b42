/*
 * The core of the stores: finds the type that a spec names, sends each io to the right function,
 * and lends, tags and the like to their back end. What their errors mean is decided here. What a
 * back end lacks is filled in once, when it is opened: see `resolve`. The emulations are in
 * emulate.c, the way to a home loop in lane.c.
 */
#include "store/core.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* A path has its limit, and so has the depth to which stores can wrap each other. */
#define SPEC_MAX_BYTES 4608

const uint8_t store_zeros[STORE_ZEROS_LEN] __attribute__((aligned(4096)));

unsigned store_zeros_iov(struct iovec *iov, unsigned max_iov, uint64_t len)
{
	unsigned n = 0;

	if (len > (uint64_t)max_iov * STORE_ZEROS_LEN)
		return 0;
	for (; len != 0; len -= iov[n++].iov_len) {
		iov[n].iov_base = (void *)(uintptr_t)store_zeros;
		iov[n].iov_len = min_u64(len, STORE_ZEROS_LEN);
	}
	return n;
}

int store_parse_size(const char *type_name, const char *rest, uint64_t *size, struct diag *d)
{
	char shown[80];
	int err = parse_size(rest, size);

	if (err == 0 && *size != 0)
		return 0;
	str_escape(shown, sizeof(shown), rest, strlen(rest));
	diag_set(d, -EINVAL, "%s: \"%s\" is not a size%s", type_name, shown,
		 err == -ERANGE ? " that fits into 64 bits" : "");
	diag_fix(d, "write %s:SIZE, for example %s:4G", type_name, type_name);
	return -EINVAL;
}

/* ---- What a spec means ----------------------------------------------------------------------- */

static const struct store_type *find_type(const struct store_type *const *types, const char *name,
					  size_t name_len)
{
	for (; *types != NULL; types++) {
		if (strlen((*types)->name) == name_len &&
		    memcmp((*types)->name, name, name_len) == 0)
			return *types;
	}
	return NULL;
}

static int unknown_type(const struct store_type *const *types, const char *spec, size_t name_len,
			struct diag *d)
{
	char names[160] = "";
	size_t len = 0;

	for (const struct store_type *const *t = types; *t != NULL; t++)
		str_append(names, sizeof(names), &len, "%s%s", t == types ? "" : ", ", (*t)->name);
	diag_set(d, -EINVAL, "unknown store type \"%.*s\"; there are %s",
		 (int)min_u64(name_len, 40), spec, names);
	diag_fix(d, "for a file of that name write file:%.100s", spec);
	return -EINVAL;
}

/* Only a word of small letters reads like a type, so that C:\disk and ./a:b are paths. */
static bool looks_like_type(const char *name, size_t name_len)
{
	for (size_t i = 0; i < name_len; i++) {
		if (!islower((unsigned char)name[i]))
			return false;
	}
	return name_len != 0;
}

/* The type, and in *rest where its own text begins. */
static int parse_spec(const struct store_type *const *types, const char *spec,
		      const struct store_type **type, size_t *rest, struct diag *d)
{
	const char *colon = strchr(spec, ':');
	size_t name_len = colon == NULL ? 0 : colon - spec;

	*type = colon == NULL ? NULL : find_type(types, spec, name_len);
	*rest = name_len + 1;
	if (*type != NULL)
		return 0;
	if (looks_like_type(spec, name_len) && access(spec, F_OK) != 0)
		return unknown_type(types, spec, name_len, d);
	*rest = 0;
	*type = find_type(types, "file", strlen("file"));
	return *type != NULL ? 0 : unknown_type(types, spec, name_len, d);
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void refuse_read_only(struct store *s, struct io *io)
{
	io_end(io, -EROFS);
}

static void refuse_unsupported(struct store *s, struct io *io)
{
	io_end(io, -EOPNOTSUPP);
}

static void succeed(struct store *s, struct io *io)
{
	io_end(io, 0);
}

static void all_data(struct store *s, struct io *io)
{
	io->extent = (struct io_extent){.len_bytes = io->len};
	io_end(io, 0);
}

static store_io_fn *either(store_io_fn *own, store_io_fn *emulation)
{
	return own != NULL ? own : emulation;
}

/* Decides once what each op of this store is, so that submitting is one indirect call. */
static void resolve(struct store *s)
{
	const struct store_type *t = s->type;
	bool flush_for_fua = !t->writes_fua && t->flush != NULL;
	store_io_fn **plain = s->local.run[0], **fua = s->local.run[1];

	plain[IO_READ] = t->read;
	plain[IO_WRITE] = t->write;
	plain[IO_FLUSH] = either(t->flush, succeed);
	plain[IO_DISCARD] = s->info.discard_granularity == 0
				    ? refuse_unsupported
				    : either(t->discard, refuse_unsupported);
	plain[IO_ZERO] = store_zero;
	plain[IO_EXTENT] = either(t->extent, all_data);
	if (s->info.read_only)
		plain[IO_WRITE] = plain[IO_DISCARD] = plain[IO_ZERO] = refuse_read_only;
	memcpy(fua, plain, sizeof(s->local.run[0]));
	if (flush_for_fua && !s->info.read_only)
		fua[IO_WRITE] = store_write_flush;
	s->submit = s->local;
	if (t->threading == STORE_ANY_LOOP)
		return;
	for (unsigned op = 0; op < IO_NOPS; op++)
		s->submit.run[0][op] = s->submit.run[1][op] = lane_submit;
}

int store_open(struct store **out, struct loop_set *set, const struct store_type *const *types,
	       const char *spec, const struct store_config *config, struct diag *d)
{
	const struct store_type *type;
	struct store *s = NULL;
	char *text = NULL;
	size_t rest;
	int err;

	*out = NULL;
	if (strlen(spec) > SPEC_MAX_BYTES)
		return diag_set(d, -ENAMETOOLONG,
				"a store of more than %d characters: \"%.40s...\"", SPEC_MAX_BYTES,
				spec);
	err = parse_spec(types, spec, &type, &rest, d);
	if (err != 0)
		return err;
	if (spec[rest] == '\0' && rest == 0) {
		diag_set(d, -EINVAL, "an empty text names no store");
		diag_fix(d, "give a path, or TYPE:REST as in ram:4G");
		return -EINVAL;
	}
	if (config->direct && !type->can_direct) {
		diag_set(d, -EINVAL, "%s: no page cache to pass", type->name);
		diag_fix(d, "leave out --direct, or serve files and devices");
		return -EINVAL;
	}
	text = strdup(spec + rest);
	if (text == NULL)
		return diag_set(d, -ENOMEM, "%s: out of memory", type->name);
	err = type->open(&s, set, types, text, config, d);
	if (err != 0)
		goto out;
	s->type = type;
	s->set = set;
	s->info.read_only |= config->read_only || type->write == NULL;
	/* The spec spreads the stores over the loops, the same way in every run. */
	s->home = loop_set_at(set, crc32c(0, spec, strlen(spec)) % loop_set_count(set));
	err = lanes_create(s);
	if (err != 0) {
		diag_set(d, err, "%s: out of memory", type->name);
		goto out;
	}
	resolve(s);
	*out = s;
	s = NULL;
out:
	if (s != NULL)
		type->close(s);
	free(text);
	return err;
}

void store_close(struct store *s)
{
	if (s == NULL)
		return;
	lanes_destroy(s);
	s->type->close(s);
}

/* ---- In use ---------------------------------------------------------------------------------- */

void store_submit(struct store *s, struct io *io)
{
	s->submit.run[io->flags & IO_FUA][io->op](s, io);
}

const struct store_info *store_info(const struct store *s)
{
	return &s->info;
}

const char *store_type_name(const struct store *s)
{
	return s->type->name;
}

const char *store_type_word(const struct store_type *type)
{
	return type->name;
}

const char *store_type_help(const struct store_type *type)
{
	return type->help;
}

int store_lend(struct store *s, struct loop *loop, uint64_t off, uint64_t len, struct iovec *iov,
	       unsigned max_iov)
{
	return s->type->lend == NULL ? -EOPNOTSUPP : s->type->lend(s, loop, off, len, iov, max_iov);
}

void store_release(struct store *s, struct loop *loop, uint64_t off, uint64_t len)
{
	if (s->type->release != NULL)
		s->type->release(s, loop, off, len);
}

int store_errno(int err)
{
	static const struct {
		int from, to;
	} rows[] = {
		{-ENODEV, -ENODEV},         {-ENXIO, -ENODEV},  {-ENOMEDIUM, -ENODEV},
		{-ESHUTDOWN, -ENODEV},      {-ESTALE, -ENODEV}, {-ENOSPC, -ENOSPC},
		{-EDQUOT, -ENOSPC},         {-EFBIG, -ENOSPC},  {-EROFS, -EROFS},
		{-EPERM, -EROFS},           {-ENOMEM, -ENOMEM}, {-EINVAL, -EINVAL},
		{-EOPNOTSUPP, -EOPNOTSUPP}, {-EILSEQ, -EILSEQ}, {-ETIMEDOUT, -ETIMEDOUT},
		{-EREMOTEIO, -EREMOTEIO},
	};

	if (err == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (rows[i].from == err)
			return rows[i].to;
	return -EIO;
}

int store_resize(struct store *s, uint64_t size)
{
	int err;

	if (s->type->resize == NULL)
		return -EOPNOTSUPP;
	if (size != 0 && size < s->info.size)
		return -ERANGE;
	err = s->type->resize(s, size);
	return err == -ERANGE ? err : store_errno(err);
}

void store_keep(struct store *s)
{
	if (s->type->keep != NULL)
		s->type->keep(s);
}

int store_probe(struct store *s, struct store_status *out)
{
	*out = (struct store_status){
		.size = s->info.size,
		.read_only = s->info.read_only,
		.allocated = UINT64_MAX,
		.available = UINT64_MAX,
	};
	return s->type->probe == NULL ? 0 : store_errno(s->type->probe(s, out));
}

ssize_t store_tag_get(struct store *s, const char *name, void *buf, size_t cap)
{
	return s->type->tag_get == NULL ? -EOPNOTSUPP : s->type->tag_get(s, name, buf, cap);
}

int store_tag_set(struct store *s, const char *name, const void *buf, size_t len)
{
	int err = s->type->tag_set == NULL ? -EOPNOTSUPP : s->type->tag_set(s, name, buf, len);

	return err == -EACCES ? -EROFS : store_errno(err);
}

int store_fingerprint(struct store *s, char *buf, size_t cap)
{
	return s->type->fingerprint == NULL ? -EOPNOTSUPP : s->type->fingerprint(s, buf, cap);
}
