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
	buf->class = low_u16(c);
	return buf;
}

static void buf_destroy(struct loop_buf *buf)
{
	/* Whoever maps this address next knows nothing of our poison. */
	ASAN_UNPOISON_MEMORY_REGION(buf->data, classes[buf->class].size);
	munmap(buf->data, classes[buf->class].size);
	free(buf);
}

static unsigned class_of(uint32_t len_bytes)
{
	unsigned c = 0;

	CHECK(len_bytes <= LOOP_BUF_MAX);
	while (len_bytes > classes[c].size)
		c++;
	return c;
}

static struct loop_buf *pop(struct loop_bufs *bufs, unsigned c)
{
	struct qnode *n = bufs->free[c];

	bufs->free[c] = n->next;
	bufs->nfree[c]--;
	if (bufs->nfree[c] < bufs->low[c])
		bufs->low[c] = bufs->nfree[c];
	return container_of(n, struct loop_buf, link);
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

struct loop_buf *loop_buf_get(struct loop *loop, uint32_t len_bytes)
{
	struct loop_bufs *bufs = loop_bufs_of(loop);
	unsigned c = class_of(len_bytes);
	struct loop_buf *buf;

	if (bufs->free[c] == NULL) {
		bufs->low[c] = 0;
		buf = buf_create(c);
		if (buf == NULL)
			return NULL;
	} else {
		buf = pop(bufs, c);
	}
	lend(buf, len_bytes);
	buf->loop = loop;
	return buf;
}

void loop_buf_put(struct loop_buf *buf)
{
	struct loop_bufs *bufs;
	unsigned c;

	if (buf == NULL)
		return;
	CHECK(buf->loop != NULL); /* else it was put twice */
	bufs = loop_bufs_of(buf->loop);
	c = buf->class;
	buf->loop = NULL;
	if (bufs->nfree[c] >= classes[c].cap) {
		buf_destroy(buf);
		return;
	}
	ASAN_POISON_MEMORY_REGION(buf->data, classes[c].size);
	buf->link.next = bufs->free[c];
	bufs->free[c] = &buf->link;
	bufs->nfree[c]++;
}

void loop_bufs_init(struct loop_bufs *bufs)
{
	*bufs = (struct loop_bufs){.free = {NULL}};
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
