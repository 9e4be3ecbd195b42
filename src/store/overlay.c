/*
 * overlay: a treap of pieces that do not overlap, ordered by offset. Splitting and merging are its
 * only two operations; a put is two cuts, two splits and two merges. Its depth is logarithmic
 * whatever the order of puts, by priorities that are drawn at random.
 */
#include "store/overlay.h"

#include <errno.h>
#include <stdlib.h>

#include "store/iov.h"

struct blob {
	unsigned refs;
	uint8_t bytes[];
};

static void blob_unref(struct blob *b)
{
	if (b != NULL && --b->refs == 0)
		free(b);
}

static void piece_free(struct piece *p)
{
	if (p == NULL)
		return;
	blob_unref(p->blob);
	free(p);
}

static uint64_t piece_end(const struct piece *p)
{
	return p->off + p->len;
}

/* xorshift64*, from a fixed start: a run repeats. */
static uint64_t draw(struct overlay *o)
{
	uint64_t x = o->random == 0 ? UINT64_C(0x9e3779b97f4a7c15) : o->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	o->random = x;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

/* Pieces that begin before `off` go to *before, the others to *after. */
static void split(struct piece *root, uint64_t off, struct piece **before, struct piece **after)
{
	if (root == NULL) {
		*before = *after = NULL;
	} else if (root->off < off) {
		*before = root;
		split(root->right, off, &root->right, after);
	} else {
		*after = root;
		split(root->left, off, before, &root->left);
	}
}

/* All of `before` lies before all of `after`. */
static struct piece *merge(struct piece *before, struct piece *after)
{
	if (before == NULL)
		return after;
	if (after == NULL)
		return before;
	if (before->priority > after->priority) {
		before->right = merge(before->right, after);
		return before;
	}
	after->left = merge(before, after->left);
	return after;
}

static void insert(struct overlay *o, struct piece *p)
{
	struct piece *before, *after;

	split(o->root, p->off, &before, &after);
	o->root = merge(merge(before, p), after);
}

static struct piece *find_next(const struct overlay *o, uint64_t off)
{
	struct piece *best = NULL;

	for (struct piece *p = o->root; p != NULL;) {
		if (piece_end(p) > off) {
			best = p;
			p = p->left;
		} else {
			p = p->right;
		}
	}
	return best;
}

const struct piece *overlay_next(const struct overlay *o, uint64_t off)
{
	return find_next(o, off);
}

/* Cuts the piece that lies across `off`, if one does: its end moves into *spare, which is taken. */
static void cut(struct overlay *o, uint64_t off, struct piece **spare)
{
	struct piece *p = find_next(o, off), *tail = *spare;
	uint64_t kept;

	if (p == NULL || p->off >= off)
		return;
	*spare = NULL;
	kept = off - p->off;
	*tail = (struct piece){
		.off = off,
		.len = p->len - kept,
		.kind = p->kind,
		.data = p->data == NULL ? NULL : p->data + kept,
		.blob = p->blob,
		.priority = draw(o),
	};
	if (tail->blob != NULL)
		tail->blob->refs++;
	p->len = kept;
	insert(o, tail);
}

static void free_tree(struct piece *root)
{
	if (root == NULL)
		return;
	free_tree(root->left);
	free_tree(root->right);
	piece_free(root);
}

/* `model` says what the new piece is; its reference to the blob is taken over, if all goes well. */
static int put_piece(struct overlay *o, const struct piece *model)
{
	struct piece *before, *middle, *after;
	struct piece *p = malloc(sizeof(*p));
	struct piece *spare[2] = {malloc(sizeof(*p)), malloc(sizeof(*p))};
	int err = -ENOMEM;

	if (p == NULL || spare[0] == NULL || spare[1] == NULL)
		goto out;
	cut(o, model->off, &spare[0]);
	cut(o, piece_end(model), &spare[1]);
	split(o->root, model->off, &before, &after);
	split(after, piece_end(model), &middle, &after);
	free_tree(middle);
	*p = *model;
	p->left = p->right = NULL;
	p->priority = draw(o);
	o->root = merge(merge(before, p), after);
	p = NULL;
	err = 0;
out:
	free(p);
	free(spare[0]);
	free(spare[1]);
	return err;
}

int overlay_put(struct overlay *o, uint64_t off, uint64_t len, enum piece_kind kind,
		const struct iovec *iov)
{
	struct piece model = {.off = off, .len = len, .kind = kind};
	int err;

	if (iov != NULL) {
		struct iov_at at = {.iov = iov};

		model.blob = malloc(sizeof(*model.blob) + len);
		if (model.blob == NULL)
			return -ENOMEM;
		model.blob->refs = 1;
		model.data = model.blob->bytes;
		iov_get(&at, model.blob->bytes, len);
	}
	err = put_piece(o, &model);
	if (err != 0)
		blob_unref(model.blob);
	return err;
}

/* The part of a piece that lies in [off, end). */
static struct piece clip(const struct piece *p, uint64_t off, uint64_t end)
{
	struct piece part = *p;
	uint64_t skip = off > p->off ? off - p->off : 0;

	part.off += skip;
	part.len = min_u64(piece_end(p), end) - part.off;
	if (part.data != NULL)
		part.data += skip;
	return part;
}

int overlay_copy(struct overlay *o, const struct overlay *from, uint64_t off, uint64_t len)
{
	uint64_t end = off + len;
	const struct piece *p;

	for (uint64_t at = off; (p = overlay_next(from, at)) != NULL && p->off < end;
	     at = piece_end(p)) {
		struct piece part = clip(p, off, end);
		int err;

		if (part.blob != NULL)
			part.blob->refs++;
		err = put_piece(o, &part);
		if (err != 0) {
			blob_unref(part.blob);
			return err;
		}
	}
	return 0;
}

void overlay_read(const struct overlay *o, uint64_t off, uint64_t len, const struct iovec *iov)
{
	uint64_t end = off + len;
	const struct piece *p;

	for (uint64_t at = off; (p = overlay_next(o, at)) != NULL && p->off < end;
	     at = piece_end(p)) {
		struct piece part = clip(p, off, end);
		struct iov_at to = iov_start(iov, part.off - off);

		iov_put(&to, part.data, part.len);
	}
}

void overlay_clear(struct overlay *o)
{
	free_tree(o->root);
	o->root = NULL;
}
