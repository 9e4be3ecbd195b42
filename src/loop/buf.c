/*
 * Payload buffers: four sizes, a free list each, per loop, so that taking and giving costs a few
 * instructions and no lock. Apart because both engines use it: it knows no kernel event.
 *
 * The data are whole pages straight from mmap() and the headers small mallocs, so that a buffer
 * that waits in a list costs what was touched of it and nothing else, and giving it back really
 * returns its pages. Under AddressSanitizer a buffer in a free list is poisoned, and of one that is lent
 * what lies behind the bytes that were asked for.
 */
#include "loop/impl.h"

#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <sys/mman.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ /* clang says it in its own way */
#endif
#endif

static const struct buf_class {
	uint32_t size;
	unsigned cap;  /* more than this many in the list are unmapped at once */
	unsigned keep; /* what a trim leaves, however idle the loop is */
} classes[LOOP_BUF_CLASSES] = {
	{4 * 1024, 2048, 8},
	{16 * 1024, 512, 2},
	{64 * 1024, 256, 0},
	{LOOP_BUF_MAX, 128, 0},
};

static uint8_t *pages_get(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static struct loop_buf *buf_create(unsigned c)
{
	struct loop_buf *buf = malloc(sizeof(*buf));

	if (buf == NULL)
		return NULL;
	buf->data = pages_get(classes[c].size);
	if (buf->data == NULL) {
		free(buf);
		return NULL;
	}
	buf->class = low_u8(c);
	return buf;
}

static void buf_destroy(struct loop_buf *buf)
{
	/* Whoever maps this address next knows nothing of our poison. */
	ASAN_UNPOISON_MEMORY_REGION(buf->data, classes[buf->class].size);
	munmap(buf->data, classes[buf->class].size);
	free(buf);
}

/* Out of a free list, to be destroyed or lent. */
static struct loop_buf *pop(struct loop_bufs *bufs, unsigned c)
{
	struct qnode *n = bufs->free[c];

	bufs->free[c] = n->next;
	bufs->nfree[c]--;
	bufs->idle -= classes[c].size;
	if (bufs->nfree[c] < bufs->low[c])
		bufs->low[c] = bufs->nfree[c];
	return container_of(n, struct loop_buf, link);
}

/* What waits for reuse is a part of the budget: the large ones give way first. */
static void make_room(struct loop_bufs *bufs, uint32_t size)
{
	for (unsigned c = LOOP_BUF_CLASSES; c-- > 0;)
		while (bufs->free[c] != NULL && bufs->total + bufs->idle + size > bufs->budget)
			buf_destroy(pop(bufs, c));
}

static unsigned class_of(uint32_t len_bytes)
{
	unsigned c = 0;

	CHECK(len_bytes <= LOOP_BUF_MAX);
	while (len_bytes > classes[c].size)
		c++;
	return c;
}

uint32_t loop_buf_size(uint32_t len_bytes)
{
	return classes[class_of(len_bytes)].size;
}

/* Usable: all of it, or where somebody watches, just what was asked for. */
static void lend(struct loop_buf *buf, uint32_t len_bytes)
{
	const uint32_t size = classes[buf->class].size;

#ifdef __SANITIZE_ADDRESS__
	buf->cap = len_bytes;
	ASAN_UNPOISON_MEMORY_REGION(buf->data, len_bytes);
	ASAN_POISON_MEMORY_REGION(buf->data + len_bytes, size - len_bytes);
#else
	(void)len_bytes;
	buf->cap = size;
#endif
}

struct loop_buf *loop_bufs_lend(struct loop_bufs *bufs, uint32_t len_bytes, enum loop_need need,
				struct loop_share *share)
{
	unsigned c = class_of(len_bytes);
	struct loop_buf *buf;

	if (bufs->free[c] == NULL) {
		bufs->low[c] = 0;
		make_room(bufs, classes[c].size);
		buf = buf_create(c);
		if (buf == NULL)
			return NULL;
	} else {
		buf = pop(bufs, c);
	}
	lend(buf, len_bytes);
	buf->loop = bufs->loop;
	buf->need = low_u8(need);
	buf->share = share;
	bufs->total += classes[c].size;
	bufs->used[need] += classes[c].size;
	if (share != NULL)
		share->held[need] += classes[c].size;
	return buf;
}

struct loop_buf *loop_buf_get(struct loop *loop, uint32_t len_bytes)
{
	struct loop_bufs *bufs = loop_bufs_of(loop);

	if (!loop_bufs_fit(bufs, LOOP_CONN, loop_buf_size(len_bytes)))
		return NULL;
	return loop_bufs_lend(bufs, len_bytes, LOOP_CONN, NULL);
}

/* For reuse, or back to the system. */
static void keep(struct loop_bufs *bufs, struct loop_buf *buf)
{
	unsigned c = buf->class;

	if (bufs->nfree[c] >= classes[c].cap) {
		buf_destroy(buf);
		return;
	}
	ASAN_POISON_MEMORY_REGION(buf->data, classes[c].size);
	buf->link.next = bufs->free[c];
	bufs->free[c] = &buf->link;
	bufs->nfree[c]++;
	bufs->idle += classes[c].size;
}

void loop_buf_put(struct loop_buf *buf)
{
	struct loop_bufs *bufs;
	struct loop_share *share;
	enum loop_need need;
	uint32_t size;

	if (buf == NULL)
		return;
	CHECK(buf->loop != NULL); /* else it was put twice */
	bufs = loop_bufs_of(buf->loop);
	buf->loop = NULL;
	share = buf->share;
	need = buf->need;
	size = classes[buf->class].size;
	bufs->total -= size;
	bufs->used[need] -= size;
	keep(bufs, buf);
	if (share != NULL) {
		share->held[need] -= size;
		if (share->closed)
			loop_share_settle(share);
	}
	if (loop_bufs_awaited(bufs))
		loop_bufs_serve(bufs);
}

void loop_bufs_init(struct loop_bufs *bufs, struct loop *loop, uint64_t budget_bytes)
{
	*bufs = (struct loop_bufs){.loop = loop};
	loop_budget_init(bufs, budget_bytes);
}

void loop_bufs_fini(struct loop_bufs *bufs)
{
	for (unsigned c = 0; c < LOOP_BUF_CLASSES; c++)
		while (bufs->free[c] != NULL)
			buf_destroy(pop(bufs, c));
}

bool loop_bufs_trimmable(const struct loop_bufs *bufs)
{
	for (unsigned c = 0; c < LOOP_BUF_CLASSES; c++)
		if (bufs->nfree[c] > classes[c].keep)
			return true;
	return false;
}

bool loop_bufs_trim(struct loop_bufs *bufs)
{
	unsigned left = LOOP_TRIM_BUFS;

	for (unsigned c = LOOP_BUF_CLASSES; c-- > 0;) { /* the large ones first */
		unsigned spare = bufs->low[c];

		for (; spare > 0 && left > 0 && bufs->nfree[c] > classes[c].keep; spare--, left--)
			buf_destroy(pop(bufs, c));
		bufs->low[c] = bufs->nfree[c];
	}
	return loop_bufs_trimmable(bufs);
}
