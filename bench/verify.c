/*
 * Patterns for verification: see verify.h. Every 8 bytes of a block follow from its address, its
 * generation and the seed.
 */
#include "bench/verify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct verify {
	uint64_t first, nblocks, seed, random;
	uint32_t block_size, max_blocks;
	uint32_t *generation; /* 0: never written */
	uint8_t *busy;
	uint8_t **data; /* one buffer a slot */
	uint32_t *seen; /* bytes of the read that arrived, a slot */
	unsigned queue_depth;
	uint64_t checked, wrong;
};

/* splitmix64 */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t next_random(struct verify *v)
{
	return mix(v->random++);
}

static uint64_t block_key(const struct verify *v, uint64_t block)
{
	return mix(v->seed ^ mix(block << 32 ^ v->generation[block]));
}

static void fill(const struct verify *v, uint64_t block, uint8_t *p)
{
	uint64_t key = block_key(v, block);

	for (uint32_t i = 0; i < v->block_size; i += 8, key += 0x9e3779b97f4a7c15u)
		memcpy(p + i, &key, 8);
}

static bool matches(const struct verify *v, uint64_t block, const uint8_t *p, uint32_t from,
		    uint32_t to)
{
	uint64_t key = block_key(v, block);

	for (uint32_t i = 0; i < v->block_size; i += 8, key += 0x9e3779b97f4a7c15u) {
		uint32_t a = i < from ? from : i, b = i + 8 > to ? to : i + 8;

		if (a < b && memcmp(p + a - from, (const uint8_t *)&key + (a - i), b - a) != 0)
			return false;
	}
	return true;
}

int verify_create(struct verify **out, uint64_t first_block, uint64_t nblocks, uint32_t block_size,
		  uint32_t max_io, unsigned queue_depth, uint64_t seed)
{
	struct verify *v = calloc(1, sizeof(*v));

	if (v == NULL)
		return -ENOMEM;
	*v = (struct verify){
		.first = first_block,
		.nblocks = nblocks,
		.seed = seed,
		.random = seed,
		.block_size = block_size,
		.max_blocks = max_io / block_size,
		.queue_depth = queue_depth,
		.generation = calloc(nblocks, sizeof(*v->generation)),
		.busy = calloc(nblocks, 1),
		.data = calloc(queue_depth, sizeof(*v->data)),
		.seen = calloc(queue_depth, sizeof(*v->seen)),
	};
	*out = v;
	if (v->generation == NULL || v->busy == NULL || v->data == NULL || v->seen == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < queue_depth; i++) {
		v->data[i] = malloc(max_io);
		if (v->data[i] == NULL)
			return -ENOMEM;
	}
	return 0;
}

void verify_destroy(struct verify *v)
{
	if (v == NULL)
		return;
	for (unsigned i = 0; v->data != NULL && i < v->queue_depth; i++)
		free(v->data[i]);
	free(v->generation);
	free(v->busy);
	free(v->data);
	free(v->seen);
	free(v);
}

static bool is_free(const struct verify *v, uint64_t block, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (v->busy[block + i])
			return false;
	}
	return true;
}

bool verify_choose(struct verify *v, unsigned slot, struct command *c)
{
	for (unsigned tries = 0; tries < 8; tries++) {
		uint32_t n = 1 + (uint32_t)(next_random(v) % v->max_blocks);
		uint64_t block = next_random(v) % (v->nblocks - n + 1);

		if (!is_free(v, block, n))
			continue;
		memset(v->busy + block, 1, n);
		c->lba = v->first + block;
		c->nblocks = n;
		c->write = next_random(v) % 2 == 0;
		c->fua = c->write && next_random(v) % 64 == 0;
		c->data = v->data[slot];
		v->seen[slot] = 0;
		for (uint32_t i = 0; c->write && i < n; i++) {
			v->generation[block + i]++;
			fill(v, block + i, v->data[slot] + (size_t)i * v->block_size);
		}
		return true;
	}
	return false;
}

void verify_arrived(struct verify *v, unsigned slot, const struct command *c, uint32_t off,
		    const uint8_t *data, uint32_t len)
{
	v->seen[slot] += len;
	while (len > 0) {
		uint64_t block = c->lba - v->first + off / v->block_size;
		uint32_t from = off % v->block_size;
		uint32_t part = (uint32_t)min_u64(len, v->block_size - from);

		if (v->generation[block] != 0 && !matches(v, block, data, from, from + part)) {
			if (v->wrong++ < 10)
				fprintf(stderr, "block %llu (generation %u): wrong data\n",
					(unsigned long long)(v->first + block),
					v->generation[block]);
		}
		v->checked += v->generation[block] != 0;
		off += part;
		data += part;
		len -= part;
	}
}

void verify_ended(struct verify *v, unsigned slot, const struct command *c)
{
	memset(v->busy + (c->lba - v->first), 0, c->nblocks);
	if (!c->write && v->seen[slot] != c->nblocks * v->block_size) {
		v->wrong++;
		fprintf(stderr, "block %llu: a read without all of its data\n",
			(unsigned long long)c->lba);
	}
}

uint64_t verify_checked(const struct verify *v)
{
	return v->checked;
}

uint64_t verify_wrong(const struct verify *v)
{
	return v->wrong;
}
