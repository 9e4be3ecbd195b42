/*
 * Which cache lines do several threads write? Linked in the place of the thread sanitizer's runtime:
 * the compiler calls it before each store and instead of each atomic operation, and it counts them, a
 * thread and a line. At the end of the program the lines that at least two threads wrote are in the
 * file $WRITERS_REPORT, the hottest first, one a line: what the second of its writers did, and where
 * in the program the two wrote last. Before them stand the writes of each thread.
 *
 * What the kernel and the C library write is not seen, but for memcpy() and its like.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LINE_LOG    6
#define SLOTS       (UINT32_C(1) << 20)
#define MAX_THREADS 64
#define MAX_REPORT  50

struct slot {
	uintptr_t line;
	uint64_t count;
	uintptr_t pc;
};

static struct slot *tables[MAX_THREADS];
static unsigned ntables;
static _Thread_local struct slot *mine;
static _Thread_local bool none;

extern const char __executable_start[];

static struct slot *table_of_this_thread(void)
{
	const size_t size = SLOTS * sizeof(struct slot);
	unsigned i;
	void *p;

	if (mine != NULL || none)
		return mine;
	none = true;
	i = __atomic_fetch_add(&ntables, 1, __ATOMIC_RELAXED);
	if (i >= MAX_THREADS)
		return NULL;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	mine = p;
	__atomic_store_n(&tables[i], mine, __ATOMIC_RELEASE);
	return mine;
}

/* The line's place, or the free one for it; a full table, of a program with more than we look at here,
 * is an error. */
static struct slot *find(struct slot *table, uintptr_t line)
{
	uint32_t at = (uint32_t)(line * UINT64_C(0x9e3779b97f4a7c15) >> 44);

	for (uint32_t i = 0; i < SLOTS; i++) {
		struct slot *s = &table[(at + i) % SLOTS];

		if (s->line == line || s->line == 0)
			return s;
	}
	abort();
}

static void wrote(const volatile void *p, size_t len, void *pc)
{
	struct slot *table = len != 0 ? table_of_this_thread() : NULL;
	const uintptr_t from = (uintptr_t)p >> LINE_LOG;

	if (table == NULL)
		return;
	for (uintptr_t line = from; line <= ((uintptr_t)p + len - 1) >> LINE_LOG; line++) {
		struct slot *s = find(table, line);

		s->line = line;
		s->count++;
		s->pc = (uintptr_t)pc - (uintptr_t)__executable_start;
	}
}

/* ---- The report ---- */

struct shared {
	uint64_t count;
	uintptr_t pcs[2];
};

static int hotter(const void *a, const void *b)
{
	const struct shared *x = a, *y = b;

	return x->count < y->count ? 1 : x->count > y->count ? -1 : 0;
}

/* Once a line: by the thread with most of its writes, or the first of several. */
static bool is_shared(unsigned t, const struct slot *s, struct shared *out)
{
	*out = (struct shared){0};
	for (unsigned i = 0; i < MAX_THREADS; i++) {
		const struct slot *other;

		if (i == t || tables[i] == NULL)
			continue;
		other = find(tables[i], s->line);
		if (other->count > s->count || (other->count == s->count && i < t))
			return false;
		if (other->count > out->count)
			*out = (struct shared){other->count, {s->pc, other->pc}};
	}
	return out->count != 0;
}

__attribute__((destructor)) static void report(void)
{
	static struct shared all[SLOTS];
	const char *path = getenv("WRITERS_REPORT");
	FILE *f = path != NULL ? fopen(path, "w") : NULL;
	size_t n = 0;

	if (f == NULL)
		return;
	for (unsigned t = 0; t < MAX_THREADS && tables[t] != NULL; t++) {
		uint64_t sum = 0;

		for (uint32_t i = 0; i < SLOTS; i++)
			sum += tables[t][i].count;
		fprintf(f, "%llu ", (unsigned long long)sum);
	}
	fputc('\n', f);
	for (unsigned t = 0; t < MAX_THREADS; t++)
		for (uint32_t i = 0; tables[t] != NULL && i < SLOTS && n < SLOTS; i++)
			if (tables[t][i].line != 0 && is_shared(t, &tables[t][i], &all[n]))
				n++;
	qsort(all, n, sizeof(*all), hotter);
	for (size_t i = 0; i < n && i < MAX_REPORT; i++)
		fprintf(f, "%llu 0x%llx 0x%llx\n", (unsigned long long)all[i].count,
			(unsigned long long)all[i].pcs[0], (unsigned long long)all[i].pcs[1]);
	fclose(f);
}

/* ---- What the compiler calls ---- */

#define PC __builtin_return_address(0)

void __tsan_init(void);
void __tsan_func_entry(void *pc);
void __tsan_func_exit(void);
void __tsan_read_range(void *p, size_t len);
void __tsan_write_range(void *p, size_t len);

void __tsan_init(void)
{
}

void __tsan_func_entry(void *pc)
{
	(void)pc;
}

void __tsan_func_exit(void)
{
}

void __tsan_read_range(void *p, size_t len)
{
	(void)p;
	(void)len;
}

void __tsan_write_range(void *p, size_t len)
{
	wrote(p, len, PC);
}

#define PLAIN(n)                                 \
	void __tsan_read##n(void *p);            \
	void __tsan_write##n(void *p);           \
	void __tsan_unaligned_read##n(void *p);  \
	void __tsan_unaligned_write##n(void *p); \
	void __tsan_read##n(void *p)             \
	{                                        \
		(void)p;                         \
	}                                        \
	void __tsan_unaligned_read##n(void *p)   \
	{                                        \
		(void)p;                         \
	}                                        \
	void __tsan_write##n(void *p)            \
	{                                        \
		wrote(p, n, PC);                 \
	}                                        \
	void __tsan_unaligned_write##n(void *p)  \
	{                                        \
		wrote(p, n, PC);                 \
	}

PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

#define SEQ __ATOMIC_SEQ_CST

#define MODIFY(bits, op)                                                                        \
	uint##bits##_t __tsan_atomic##bits##_##op(volatile uint##bits##_t *p, uint##bits##_t v, \
						  int mo);                                      \
	uint##bits##_t __tsan_atomic##bits##_##op(volatile uint##bits##_t *p, uint##bits##_t v, \
						  int mo)                                       \
	{                                                                                       \
		(void)mo;                                                                       \
		wrote(p, bits / 8, PC);                                                         \
		return __atomic_##op(p, v, SEQ);                                                \
	}

#define COMPARE(bits, kind, weak)                                                                \
	int __tsan_atomic##bits##_compare_exchange_##kind(volatile uint##bits##_t *p,            \
							  uint##bits##_t *old, uint##bits##_t v, \
							  int mo, int fail);                     \
	int __tsan_atomic##bits##_compare_exchange_##kind(volatile uint##bits##_t *p,            \
							  uint##bits##_t *old, uint##bits##_t v, \
							  int mo, int fail)                      \
	{                                                                                        \
		(void)mo;                                                                        \
		(void)fail;                                                                      \
		wrote(p, bits / 8, PC);                                                          \
		return __atomic_compare_exchange_n(p, old, v, weak, SEQ, SEQ);                   \
	}

#define ATOMIC(bits)                                                                            \
	uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *p, int mo);    \
	void __tsan_atomic##bits##_store(volatile uint##bits##_t *p, uint##bits##_t v, int mo); \
	uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *p,               \
						      uint##bits##_t v, int mo);                \
	uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *p, int mo)     \
	{                                                                                       \
		(void)mo;                                                                       \
		return __atomic_load_n(p, SEQ);                                                 \
	}                                                                                       \
	void __tsan_atomic##bits##_store(volatile uint##bits##_t *p, uint##bits##_t v, int mo)  \
	{                                                                                       \
		(void)mo;                                                                       \
		wrote(p, bits / 8, PC);                                                         \
		__atomic_store_n(p, v, SEQ);                                                    \
	}                                                                                       \
	uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t *p,               \
						      uint##bits##_t v, int mo)                 \
	{                                                                                       \
		(void)mo;                                                                       \
		wrote(p, bits / 8, PC);                                                         \
		return __atomic_exchange_n(p, v, SEQ);                                          \
	}                                                                                       \
	MODIFY(bits, fetch_add)                                                                 \
	MODIFY(bits, fetch_sub)                                                                 \
	MODIFY(bits, fetch_and)                                                                 \
	MODIFY(bits, fetch_or)                                                                  \
	COMPARE(bits, strong, false)                                                            \
	COMPARE(bits, weak, true)

ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

void __tsan_atomic_thread_fence(int mo);
void __tsan_atomic_signal_fence(int mo);

void __tsan_atomic_thread_fence(int mo)
{
	(void)mo;
	__atomic_thread_fence(SEQ);
}

void __tsan_atomic_signal_fence(int mo)
{
	(void)mo;
}

/* ---- What the linker puts before the C library ---- */

void *__real_memcpy(void *to, const void *from, size_t len);
void *__real_memmove(void *to, const void *from, size_t len);
void *__real_memset(void *to, int byte, size_t len);
void *__wrap_memcpy(void *to, const void *from, size_t len);
void *__wrap_memmove(void *to, const void *from, size_t len);
void *__wrap_memset(void *to, int byte, size_t len);

void *__wrap_memcpy(void *to, const void *from, size_t len)
{
	wrote(to, len, PC);
	return __real_memcpy(to, from, len);
}

void *__wrap_memmove(void *to, const void *from, size_t len)
{
	wrote(to, len, PC);
	return __real_memmove(to, from, len);
}

void *__wrap_memset(void *to, int byte, size_t len)
{
	wrote(to, len, PC);
	return __real_memset(to, byte, len);
}
