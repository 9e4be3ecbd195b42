/*
 * What a back end is: one file that ends in one `struct store_type`. Only back ends and store.c
 * include this.
 */
#ifndef SPINDLE_STORE_IMPL_H
#define SPINDLE_STORE_IMPL_H

#include "store/store.h"

enum store_threading {
	STORE_ANY_LOOP,  /* called on the submitter's loop, on several loops at once */
	STORE_HOME_LOOP, /* called on store->home only: the core carries io there and back, in
			    batches */
};

/* The first member of every back end's own struct. */
struct store {
	const struct store_type *type;
	struct loop_set *set;
	struct store_info info;   /* open() fills it */
	struct loop *home;        /* HOME_LOOP: where it is called */
	struct store_lane *lanes; /* the core's: one a loop */
};

typedef void store_io_fn(struct store *s, struct io *io);

struct store_type {
	const char *name;
	const char *help; /* one line: what REST means */
	const struct opt *opts;
	enum store_threading threading;
	bool writes_fua; /* `write` and `zero` heed IO_FUA; else the core adds a flush */

	/* `rest` is what follows "TYPE:". Allocates the back end's struct with the store first.
	 * Blocking. */
	int (*open)(struct store **out, struct loop_set *set, const struct store_type *const *types,
		    char *rest, const struct store_config *config, struct diag *d);
	void (*close)(struct store *s);
	int (*resize)(struct store *s, uint64_t size);

	/* Each ends by io_end(io, err). NULL: the core refuses or emulates (read and write must
	 * exist). */
	store_io_fn *read, *write, *flush, *discard, *zero, *extent;

	int (*lend)(struct store *s, struct loop *loop, uint64_t off, uint64_t len,
		    struct iovec *iov, unsigned max_iov);
	void (*release)(struct store *s, struct loop *loop, uint64_t off, uint64_t len);
	ssize_t (*tag_get)(struct store *s, const char *name, void *buf, size_t cap);
	int (*tag_set)(struct store *s, const char *name, const void *buf, size_t len);
	int (*fingerprint)(struct store *s, char *buf, size_t cap);
};

#endif
