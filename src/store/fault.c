/*
 * fault: wraps another store and makes it fail, wait, hang, end early, or lose what was not
 * flushed, so that every stack can be tested with a bad disk.
 *
 *   fault:OPT=VALUE[,OPT=VALUE...]:STORE     fault::disk.img     fault:rule=read;eio:ram:1G
 *
 * The options end at the first ':'; no value contains one, nor a ','. In a shell, quote the ';' of
 * rules. Rules are tried in the order they are given: an error or `short` ends the search,
 * after a delay or a hang it goes on with the next rule. What no rule ended goes to the volatile
 * cache (volatile=on) or straight to the inner store. See fault_rule.h and vcache.h.
 *
 * Rules with while=PATH hold for probes as well, so that a disk can be lost and come back: an error
 * that means so, erofs on writes, and a hang of everything.
 *
 * HOME_LOOP: the rules' counters, the cache and the list of what hangs need no lock.
 */
#include "store/fault_rule.h"
#include "store/impl.h"
#include "store/vcache.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

/* How often a hang looks whether its while=PATH is gone. */
#define HANG_POLL_NS UINT64_C(10000000)
#define SHORT_ALIGN  512

struct fault_options {
	bool volatile_cache, flush;
	uint64_t seed;
	struct opt_strings rules;
};

static const struct opt fault_opts[] = {
	{.name = "volatile",
	 .kind = OPT_FLAG,
	 .offset = offsetof(struct fault_options, volatile_cache),
	 .help = "keep writes that were not flushed in process memory only"},
	{.name = "flush",
	 .kind = OPT_FLAG,
	 .offset = offsetof(struct fault_options, flush),
	 .def = "on",
	 .help = "off: a flush does nothing and says it did"},
	{.name = "rule",
	 .kind = OPT_LIST,
	 .offset = offsetof(struct fault_options, rules),
	 .arg = "OPS[@START-END];ACTION[;CONDITION]...",
	 .help = "what to do to which io (repeatable), as in write+flush@1M-2M;eio;count=1"},
	{.name = "seed",
	 .kind = OPT_UINT,
	 .offset = offsetof(struct fault_options, seed),
	 .def = "1",
	 .help = "of the random numbers for prob=P"},
	{.name = NULL},
};

struct fault {
	struct store store;
	struct store *inner;
	char *text; /* what the options and rules point into */
	struct fault_options options;
	struct fault_rule *rules;
	unsigned nrules;
	uint64_t random;
	struct vcache cache;
	struct list hung;
	struct loop_msg release;
	atomic_bool releasing; /* `release` is on its way home */
};

static struct fault *fault_of(struct store *s)
{
	return container_of(s, struct fault, store);
}

/* ---- Rules ----------------------------------------------------------------------------------- */

/* An io that waits. */
struct waiting {
	struct fault *fault;
	struct io *io;
	unsigned rule;
	struct loop_timer timer;
	struct list link; /* in fault->hung */
};

static void apply_rules(struct fault *f, struct io *io, unsigned first);

static void go_on(struct waiting *w)
{
	struct fault *f = w->fault;
	struct io *io = w->io;
	unsigned next = w->rule + 1;

	loop_timer_stop(&w->timer);
	list_remove(&w->link);
	free(w);
	apply_rules(f, io, next);
}

static void delay_over(struct loop_timer *timer)
{
	go_on(container_of(timer, struct waiting, timer));
}

static void hang_poll(struct loop_timer *timer)
{
	struct waiting *w = container_of(timer, struct waiting, timer);

	if (!fault_rule_holds(&w->fault->rules[w->rule]) ||
	    loop_timer_start(timer, HANG_POLL_NS) != 0)
		go_on(w);
}

static void release_all(struct loop_msg *msg)
{
	struct fault *f = container_of(msg, struct fault, release);
	struct list hung, *link;

	atomic_store(&f->releasing, false);
	list_init(&hung);
	list_splice_back(&hung, &f->hung);
	while ((link = list_pop_front(&hung)) != NULL)
		go_on(list_entry(link, struct waiting, link));
}

int store_fault_release(struct store *s)
{
	struct fault *f = fault_of(s);

	if (s->type != &store_fault)
		return -EINVAL;
	if (!atomic_exchange(&f->releasing, true))
		loop_post(s->home, &f->release);
	return 0;
}

static struct waiting *wait_new(struct fault *f, struct io *io, unsigned rule,
				void (*fired)(struct loop_timer *timer))
{
	struct waiting *w = malloc(sizeof(*w));

	if (w == NULL)
		return NULL;
	w->fault = f;
	w->io = io;
	w->rule = rule;
	list_init(&w->link);
	loop_timer_init(&w->timer, io->loop, fired);
	return w;
}

static void act_error(struct fault *f, struct io *io, unsigned rule)
{
	io_end(io, f->rules[rule].err);
}

static void act_delay(struct fault *f, struct io *io, unsigned rule)
{
	struct waiting *w = wait_new(f, io, rule, delay_over);

	if (w != NULL && loop_timer_start(&w->timer, f->rules[rule].delay_ns) == 0)
		return;
	free(w);
	io_end(io, -ENOMEM);
}

static void act_hang(struct fault *f, struct io *io, unsigned rule)
{
	struct waiting *w = wait_new(f, io, rule, hang_poll);

	if (w == NULL ||
	    (f->rules[rule].while_path != NULL && loop_timer_start(&w->timer, HANG_POLL_NS) != 0)) {
		free(w);
		io_end(io, -ENOMEM);
		return;
	}
	list_push_back(&f->hung, &w->link);
}

static void pass(struct fault *f, struct io *io)
{
	if (f->options.volatile_cache)
		vcache_submit(&f->cache, io);
	else if (io->op == IO_FLUSH && !f->options.flush)
		io_end(io, 0);
	else
		store_submit(f->inner, io);
}

/* The first part of an io. */
struct shortened {
	struct io io;
	struct io *parent;
	struct iovec iov[IO_MAX_IOV];
};

static void short_ended(struct io *io, int err)
{
	struct shortened *sh = container_of(io, struct shortened, io);
	struct io *parent = sh->parent;

	free(sh);
	io_end(parent, err != 0 ? err : -EIO);
}

static unsigned shorten_iov(struct iovec *to, const struct iovec *from, uint64_t len)
{
	unsigned n = 0;

	for (; len != 0; len -= to[n++].iov_len) {
		to[n] = from[n];
		to[n].iov_len = min_u64(len, from[n].iov_len);
	}
	return n;
}

static void act_short(struct fault *f, struct io *io, unsigned rule)
{
	uint64_t len = min_u64(io->len / 2, f->rules[rule].short_len);
	struct shortened *sh;

	if (f->rules[rule].short_len != UINT64_MAX)
		len = min_u64(io->len, f->rules[rule].short_len);
	len = align_down(len, SHORT_ALIGN);
	if (io->op == IO_FLUSH || io->op == IO_EXTENT || len == 0) {
		io_end(io, -EIO);
		return;
	}
	sh = malloc(sizeof(*sh));
	if (sh == NULL) {
		io_end(io, -ENOMEM);
		return;
	}
	sh->parent = io;
	sh->io = (struct io){
		.op = io->op,
		.flags = io->flags,
		.off = io->off,
		.len = len,
		.iov = sh->iov,
		.ended = short_ended,
		.loop = io->loop,
	};
	if (io->op == IO_READ || io->op == IO_WRITE)
		sh->io.niov = shorten_iov(sh->iov, io->iov, len);
	pass(f, &sh->io);
}

/* xorshift64*: a seed gives the same faults in every run. */
static uint64_t draw(struct fault *f)
{
	uint64_t x = f->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	f->random = x;
	return (x * UINT64_C(0x2545f4914f6cdd1d)) >> 32;
}

static void apply_rules(struct fault *f, struct io *io, unsigned first)
{
	static void (*const act[])(struct fault * f, struct io * io, unsigned rule) = {
		[FAULT_ERROR] = act_error,
		[FAULT_DELAY] = act_delay,
		[FAULT_HANG] = act_hang,
		[FAULT_SHORT] = act_short,
	};

	for (unsigned i = first; i < f->nrules; i++) {
		if (!fault_rule_acts(&f->rules[i], io, draw(f)))
			continue;
		act[f->rules[i].action](f, io, i);
		return;
	}
	pass(f, io);
}

static void fault_io(struct store *s, struct io *io)
{
	apply_rules(fault_of(s), io, 0);
}

/* ---- Open and close -------------------------------------------------------------------------- */

static void fault_close(struct store *s)
{
	struct fault *f = fault_of(s);

	vcache_fini(&f->cache);
	store_close(f->inner);
	opt_fini(fault_opts, &f->options);
	free(f->rules);
	free(f->text);
	free(f);
}

static int parse_rules(struct fault *f, struct diag *d)
{
	const struct opt_strings *list = &f->options.rules;
	int err = 0;

	if (list->n == 0)
		return 0;
	f->rules = calloc(list->n, sizeof(*f->rules));
	if (f->rules == NULL)
		return diag_set(d, -ENOMEM, "fault: out of memory");
	/* The strings lie in our own text. */
	for (; err == 0 && f->nrules < list->n; f->nrules++)
		err = fault_rule_parse(&f->rules[f->nrules], (char *)(uintptr_t)list->v[f->nrules],
				       d);
	return err;
}

/* Cuts "OPTIONS:STORE" and reads the options. */
static int parse_options(struct fault *f, char **inner, struct diag *d)
{
	char *text = f->text, *options = strsep(&text, ":");
	int err;

	if (text == NULL || *text == '\0') {
		diag_set(d, -EINVAL, "fault: there is no store behind the options");
		diag_fix(d, "write fault:OPT=VALUE,...:STORE, or fault::STORE without options");
		return -EINVAL;
	}
	*inner = text;
	err = opt_defaults(fault_opts, &f->options, d);
	if (err == 0)
		err = opt_parse_list(fault_opts, &f->options, options, d);
	return err != 0 ? err : parse_rules(f, d);
}

static int fault_open(struct store **out, struct loop_set *set,
		      const struct store_type *const *types, char *rest,
		      const struct store_config *config, struct diag *d)
{
	struct fault *f = calloc(1, sizeof(*f));
	char *inner;
	int err = -ENOMEM;

	if (f == NULL)
		return diag_set(d, err, "fault: out of memory");
	list_init(&f->hung);
	f->release.run = release_all;
	f->text = strdup(rest);
	if (f->text == NULL) {
		diag_set(d, err, "fault: out of memory");
		goto out;
	}
	err = parse_options(f, &inner, d);
	if (err == 0)
		err = store_open(&f->inner, set, types, inner, config, d);
	if (err != 0)
		goto out;
	/* xorshift stays at zero. */
	f->random = f->options.seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
	vcache_init(&f->cache, f->inner);
	f->cache.flush_lies = !f->options.flush;
	f->store.info = *store_info(f->inner);
	f->store.info.volatile_cache |= f->options.volatile_cache;
	*out = &f->store;
	return 0;
out:
	fault_close(&f->store);
	return err;
}

/* ---- How it is ------------------------------------------------------------------------------- */

static int fault_resize(struct store *s, uint64_t size)
{
	struct fault *f = fault_of(s);
	int err = store_resize(f->inner, size);

	s->info.size = store_info(f->inner)->size;
	return err;
}

/* On a thread of its own, which a disk that hangs would hold as well. */
static void hang_while(const struct fault_rule *rule)
{
	const struct timespec pause = {.tv_nsec = HANG_POLL_NS};

	while (fault_rule_holds(rule))
		nanosleep(&pause, NULL);
}

/* Only what never changes of the rule is read: its home loop uses the rest. */
static int probe_rule(const struct fault_rule *rule, struct store_status *status)
{
	int meaning = store_errno(rule->err);

	if (rule->while_path == NULL || !fault_rule_holds(rule))
		return 0;
	if (rule->action == FAULT_HANG && rule->ops == FAULT_ALL_OPS)
		hang_while(rule);
	if (rule->action != FAULT_ERROR)
		return 0;
	if (meaning == -EROFS && (rule->ops & 1u << IO_WRITE) != 0)
		status->read_only = true;
	return meaning == -ENODEV ? -ENODEV : 0;
}

static void fault_keep(struct store *s)
{
	store_keep(fault_of(s)->inner);
}

static int fault_probe(struct store *s, struct store_status *status)
{
	struct fault *f = fault_of(s);
	int err = store_probe(f->inner, status);

	for (unsigned i = 0; i < f->nrules && err == 0; i++)
		err = probe_rule(&f->rules[i], status);
	return err;
}

/* ---- Kept with the inner store --------------------------------------------------------------- */

static ssize_t fault_tag_get(struct store *s, const char *name, void *buf, size_t cap)
{
	return store_tag_get(fault_of(s)->inner, name, buf, cap);
}

static int fault_tag_set(struct store *s, const char *name, const void *buf, size_t len)
{
	return store_tag_set(fault_of(s)->inner, name, buf, len);
}

static int fault_fingerprint(struct store *s, char *buf, size_t cap)
{
	return store_fingerprint(fault_of(s)->inner, buf, cap);
}

const struct store_type store_fault = {
	.name = "fault",
	.help = "OPT=VALUE,...:STORE  another store that fails, waits or forgets as it is told",
	.opts = fault_opts,
	.threading = STORE_HOME_LOOP,
	.can_direct = true,
	.writes_fua = true,
	.open = fault_open,
	.keep = fault_keep,
	.close = fault_close,
	.resize = fault_resize,
	.probe = fault_probe,
	.read = fault_io,
	.write = fault_io,
	.flush = fault_io,
	.discard = fault_io,
	.zero = fault_io,
	.extent = fault_io,
	.tag_get = fault_tag_get,
	.tag_set = fault_tag_set,
	.fingerprint = fault_fingerprint,
};
