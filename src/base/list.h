/*
 * Intrusive lists: a doubly linked ring (`struct list`) and a singly linked queue (`struct queue`).
 * A node belongs to at most one list at a time. Nothing here allocates.
 */
#ifndef SPINDLE_BASE_LIST_H
#define SPINDLE_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* A node, and equally the head of a list: an empty head points to itself. */
struct list {
	struct list *prev, *next;
};

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_insert_after(struct list *pos, struct list *node)
{
	node->prev = pos;
	node->next = pos->next;
	pos->next->prev = node;
	pos->next = node;
}

static inline void list_push_front(struct list *head, struct list *node)
{
	list_insert_after(head, node);
}

static inline void list_push_back(struct list *head, struct list *node)
{
	list_insert_after(head->prev, node);
}

/* Leaves the node pointing to itself, so that removing twice and asking list_linked is fine. */
static inline void list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

static inline bool list_linked(const struct list *node)
{
	return node->next != node;
}

/* NULL when empty. */
static inline struct list *list_pop_front(struct list *head)
{
	struct list *node = head->next;

	if (node == head)
		return NULL;
	list_remove(node);
	return node;
}

/* Moves all nodes of `from` to the end of `to`. */
static inline void list_splice_back(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_for_each(pos, head) \
	for (struct list *pos = (head)->next; pos != (head); pos = pos->next)
/* The body may remove `pos` (and nothing else). */
#define list_for_each_safe(pos, head)                                                 \
	for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head); \
	     pos = pos##_next, pos##_next = pos->next)

/* First in, first out, by one pointer a node. */
struct qnode {
	struct qnode *next;
};

struct queue {
	struct qnode *head, **tail;
};

static inline void queue_init(struct queue *q)
{
	q->head = NULL;
	q->tail = &q->head;
}

static inline bool queue_empty(const struct queue *q)
{
	return q->head == NULL;
}

static inline void queue_push(struct queue *q, struct qnode *n)
{
	n->next = NULL;
	*q->tail = n;
	q->tail = &n->next;
}

/* NULL when empty. */
static inline struct qnode *queue_pop(struct queue *q)
{
	struct qnode *n = q->head;

	if (n == NULL)
		return NULL;
	q->head = n->next;
	if (q->head == NULL)
		q->tail = &q->head;
	return n;
}

/* Moves all of `from` to the end of `to`. */
static inline void queue_splice(struct queue *to, struct queue *from)
{
	if (queue_empty(from))
		return;
	*to->tail = from->head;
	to->tail = from->tail;
	queue_init(from);
}

#endif
