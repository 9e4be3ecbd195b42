/*
 * What a back end is: one file that ends in one `struct store_type`. Only back ends, store.c and
 * their tests include this.
 *
 * Who sets what in an io: the owner sets `ended` to io_finish (bdev_submit does it for its
 * callers), which defers `done`; so a back end may end an io at once, on the submitter's stack, and
 * yet nothing of the owner runs there. A back end calls io_end() on io->loop. While it holds the io
 * it may use io->msg and io->progress (io_finish needs msg again afterwards), but leaves `ended`
 * and `layer` alone: they belong to whoever handed the io on. A layer that needs to be called back
 * itself submits a `struct io` of its own (a child) and ends the parent when that has ended.
 */
#ifndef SPINDLE_STORE_IMPL_H
#define SPINDLE_STORE_IMPL_H

#include "store/store.h"

enum store_threading {
	STORE_ANY_LOOP,  /* called on the submitter's loop, on several loops at once */
	STORE_HOME_LOOP, /* called on store->home only: the core carries io there and back, in
			    batches. io->loop is store->home then */
};

typedef void store_io_fn(struct store *s, struct io *io);

/* What runs an io, by IO_FUA and by op. */
struct store_ops {
	store_io_fn *run[2][IO_NOPS];
};

/* The first member of every back end's own struct, which open() allocates by calloc(). */
struct store {
	struct store_info info; /* open() fills it */
	/* The rest is the core's, set when open() has returned. */
	const struct store_type *type;
	struct loop_set *set;
	struct loop *home;        /* HOME_LOOP: where it is called */
	struct store_lane *lanes; /* one a loop */
	struct store_ops submit;  /* on the submitter's loop */
	struct store_ops local;   /* where the back end may be called */
};

struct store_type {
	const char *name;
	const char *help; /* one line: what REST means */
	const struct opt *opts;
	enum store_threading threading;
	bool can_direct; /* knows what config->direct means, or hands it on */
	bool writes_fua; /* `write` and `zero` heed IO_FUA; else the core adds a flush, where there
			    is one, and takes the flag away */

	/* `rest` is what follows "TYPE:"; it may be cut up, and is gone when open() has returned.
	 * Allocates the back end's struct with the store first. On error nothing is left.
	 * Blocking. */
	int (*open)(struct store **out, struct loop_set *set, const struct store_type *const *types,
		    char *rest, const struct store_config *config, struct diag *d);
	void (*keep)(struct store *s);  /* See store_keep; NULL: it makes nothing. */
	void (*close)(struct store *s); /* frees it, too */
	/* See store_resize; sets info.size. `size` is 0 or at least that. NULL: its size is
	 * fixed. */
	int (*resize)(struct store *s, uint64_t size);
	/* See store_probe; the core has filled in what follows from info. NULL: nothing ever changes. */
	int (*probe)(struct store *s, struct store_status *status);

	/* Each ends by io_end(io, err). NULL: the core refuses or emulates; without `write` the
	 * store is read-only, `read` must exist. A `zero` that ends -EOPNOTSUPP is emulated, too.
	 * On a read-only store only read, flush and extent are called; discard only where
	 * info.discard_granularity is not 0. */
	store_io_fn *read, *write, *flush, *discard, *zero, *extent;

	int (*lend)(struct store *s, struct loop *loop, uint64_t off, uint64_t len,
		    struct iovec *iov, unsigned max_iov);
	void (*release)(struct store *s, struct loop *loop, uint64_t off, uint64_t len);
	ssize_t (*tag_get)(struct store *s, const char *name, void *buf, size_t cap);
	int (*tag_set)(struct store *s, const char *name, const void *buf, size_t len);
	int (*fingerprint)(struct store *s, char *buf, size_t cap);
};

/* A block of zeros, page-aligned: what zeros are written from and what null lends. */
#define STORE_ZEROS_LEN (64 * 1024u)
extern const uint8_t store_zeros[STORE_ZEROS_LEN];

/* An iovec of `len` zeros at most max_iov pieces long: the pieces used, 0 if they do not do. */
unsigned store_zeros_iov(struct iovec *iov, unsigned max_iov, uint64_t len);
/* Parses REST where it is nothing but a size ("ram:4G"). */
int store_parse_size(const char *type_name, const char *rest, uint64_t *size, struct diag *d);

#endif
