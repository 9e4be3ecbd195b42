/*
 * spindle-load: an iSCSI load client. Keeps a number of commands in flight on a number of sessions,
 * one thread, and reports rates, latencies and what the server's process spent; or writes and
 * verifies, each session in a region of its own; or only logs in, again and again.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench/client.h"
#include "bench/figures.h"
#include "bench/session.h"
#include "bench/verify.h"

enum workload { READ, WRITE, RANDREAD, RANDWRITE, RANDRW, VERIFY, FLUSHED_WRITE, LOGIN };

static const char *const workloads[] = {"read",          "write",  "randread",
					"randwrite",     "randrw", "verify",
					"flushed-write", "login",  NULL};

struct options {
	const char *portal, *target, *initiator;
	unsigned workload;
	uint64_t lun, sessions, idle, queue_depth, block_size, io_size, start, region, flush_every;
	uint64_t seconds_ms, warmup_ms, begin_ms, ops, rate;
	uint64_t pid, seed, isid;
	bool header_digest, data_digest, echo, json;
};

#define FIELD(f) offsetof(struct options, f)

static const struct opt option_table[] = {
	{.name = "portal",
	 .kind = OPT_STRING,
	 .offset = FIELD(portal),
	 .arg = "ADDR:PORT",
	 .def = "127.0.0.1:3260",
	 .help = "where the target listens (IPv4)"},
	{.name = "target",
	 .kind = OPT_STRING,
	 .offset = FIELD(target),
	 .arg = "IQN",
	 .def = "",
	 .help = "the target's iSCSI name"},
	{.name = "initiator",
	 .kind = OPT_STRING,
	 .offset = FIELD(initiator),
	 .arg = "IQN",
	 .def = "iqn.2026-11.bench:load",
	 .help = "our own iSCSI name"},
	{.name = "lun", .kind = OPT_UINT, .offset = FIELD(lun), .max = 255, .help = "logical unit"},
	{.name = "workload",
	 .kind = OPT_CHOICE,
	 .offset = FIELD(workload),
	 .choices = workloads,
	 .def = "randread",
	 .help = "what to do"},
	{.name = "sessions",
	 .kind = OPT_UINT,
	 .offset = FIELD(sessions),
	 .min = 1,
	 .max = 4096,
	 .def = "1",
	 .help = "sessions, each with its own region"},
	{.name = "idle",
	 .kind = OPT_UINT,
	 .offset = FIELD(idle),
	 .max = 16384,
	 .help = "further sessions, logged in and without a command"},
	{.name = "qd",
	 .kind = OPT_UINT,
	 .offset = FIELD(queue_depth),
	 .min = 1,
	 .max = 1024,
	 .def = "32",
	 .help = "commands in flight a session"},
	{.name = "block-size",
	 .kind = OPT_SIZE,
	 .offset = FIELD(block_size),
	 .min = 512,
	 .max = 4096,
	 .def = "512",
	 .help = "the disk's block size"},
	{.name = "io-size",
	 .kind = OPT_SIZE,
	 .offset = FIELD(io_size),
	 .min = 512,
	 .max = 4 * 1024 * 1024,
	 .def = "4096",
	 .help = "bytes a command"},
	{.name = "start",
	 .kind = OPT_SIZE,
	 .offset = FIELD(start),
	 .def = "0",
	 .help = "where on the disk the region begins"},
	{.name = "region",
	 .kind = OPT_SIZE,
	 .offset = FIELD(region),
	 .min = 4096,
	 .def = "1G",
	 .help = "bytes of the disk that are used"},
	{.name = "flush-every",
	 .kind = OPT_UINT,
	 .offset = FIELD(flush_every),
	 .help = "SYNCHRONIZE CACHE after so many commands of a session (0: never)"},
	{.name = "time",
	 .kind = OPT_DURATION,
	 .offset = FIELD(seconds_ms),
	 .def = "5s",
	 .help = "how long to measure"},
	{.name = "warmup",
	 .kind = OPT_DURATION,
	 .offset = FIELD(warmup_ms),
	 .def = "500ms",
	 .help = "run uncounted before that"},
	{.name = "begin",
	 .kind = OPT_UINT,
	 .offset = FIELD(begin_ms),
	 .help = "when that ends instead, in ms of CLOCK_MONOTONIC: one time for several clients"},
	{.name = "ops",
	 .kind = OPT_UINT,
	 .offset = FIELD(ops),
	 .help = "stop after so many commands (0: by time)"},
	{.name = "rate",
	 .kind = OPT_UINT,
	 .offset = FIELD(rate),
	 .max = 1000000,
	 .help = "workload login: so many a second (0: one after another)"},
	{.name = "pid",
	 .kind = OPT_UINT,
	 .offset = FIELD(pid),
	 .help = "the server's process: report its CPU time"},
	{.name = "seed",
	 .kind = OPT_UINT,
	 .offset = FIELD(seed),
	 .def = "1",
	 .help = "of the random offsets"},
	{.name = "isid",
	 .kind = OPT_UINT,
	 .offset = FIELD(isid),
	 .max = 60000,
	 .help = "first ISID: differs between clients of one name"},
	{.name = "header-digest",
	 .kind = OPT_FLAG,
	 .offset = FIELD(header_digest),
	 .help = "insist on CRC32C header digests"},
	{.name = "data-digest",
	 .kind = OPT_FLAG,
	 .offset = FIELD(data_digest),
	 .help = "insist on CRC32C data digests"},
	{.name = "echo",
	 .kind = OPT_FLAG,
	 .offset = FIELD(echo),
	 .help = "the server is spindle-echo"},
	{.name = "json",
	 .kind = OPT_FLAG,
	 .offset = FIELD(json),
	 .help = "report one line of JSON"},
	{0},
};

struct client {
	struct session *session;
	struct load *load;
	struct verify *verify;
	uint64_t first_block, nblocks, next_block, random, unflushed;
	unsigned in_flight;
	struct queue free_slots;
	struct slot_state {
		struct qnode link;
		uint8_t *data;
		bool flush_next;
		bool again; /* `refused` comes next, as it was */
		struct command refused;
	} * slots;
	bool want_out, idle;
};

struct load {
	struct options o;
	struct sockaddr_in addr;
	struct client *clients;
	int epoll;
	uint8_t *payload;
	uint64_t now_ns, started, done;
	struct figures figures;
	bool counting, stopping;
};

/* ---- Commands -------------------------------------------------------------------------------- */

static bool sequential(const struct options *o)
{
	return o->workload == READ || o->workload == WRITE;
}

static void choose(struct client *c, struct command *cmd)
{
	const struct options *o = &c->load->o;
	uint64_t per_io = o->io_size / o->block_size, places = c->nblocks / per_io;

	cmd->nblocks = (uint32_t)per_io;
	cmd->write = o->workload == WRITE || o->workload == RANDWRITE ||
		     o->workload == FLUSHED_WRITE ||
		     (o->workload == RANDRW && random_next(&c->random) % 10 < 3);
	if (sequential(o)) {
		cmd->lba = c->first_block + c->next_block;
		c->next_block = (c->next_block + per_io) % (places * per_io);
	} else {
		cmd->lba = c->first_block + random_next(&c->random) % places * per_io;
	}
	cmd->data = c->load->payload;
}

/* Is the slot's next command to be a flush, after this one? */
static bool flush_follows(struct client *c, const struct slot_state *st)
{
	const struct options *o = &c->load->o;

	if (o->workload == FLUSHED_WRITE)
		return !st->flush_next;
	if (o->flush_every == 0 || ++c->unflushed < o->flush_every)
		return false;
	c->unflushed = 0;
	return true;
}

/* The slot's next command. false: there is none for the moment. */
static bool choose_next(struct client *c, struct slot_state *st, struct command *cmd)
{
	if (st->again) {
		*cmd = st->refused;
		st->again = false;
		return true;
	}
	*cmd = (struct command){.started_ns = c->load->now_ns, .flush = st->flush_next};
	if (!st->flush_next && c->verify == NULL)
		choose(c, cmd);
	else if (!st->flush_next && !verify_choose(c->verify, (unsigned)(st - c->slots), cmd))
		return false;
	st->flush_next = flush_follows(c, st);
	return true;
}

static void start_one(struct client *c)
{
	struct load *l = c->load;
	struct qnode *n = c->free_slots.head;
	struct slot_state *st = container_of(n, struct slot_state, link);
	struct command cmd;

	if (!choose_next(c, st, &cmd))
		return;
	queue_pop(&c->free_slots);
	c->in_flight++;
	l->started++;
	session_start(c->session, (unsigned)(st - c->slots), &cmd);
}

static bool may_start(const struct client *c)
{
	const struct load *l = c->load;

	return !l->stopping && !c->idle && !queue_empty(&c->free_slots) &&
	       session_may_start(c->session) && (l->o.ops == 0 || l->started < l->o.ops);
}

static void command_ended(void *arg, unsigned slot, const struct command *cmd, uint8_t status)
{
	struct client *c = arg;
	struct load *l = c->load;

	c->in_flight--;
	queue_push(&c->free_slots, &c->slots[slot].link);
	if (status == STATUS_TASK_SET_FULL) {
		c->slots[slot].again = true;
		c->slots[slot].refused = *cmd;
		l->figures.refused += l->counting;
		l->started--;
		return;
	}
	if (status != 0) {
		if (l->figures.errors++ == 0)
			fprintf(stderr, "lba %llu: status 0x%02x\n", (unsigned long long)cmd->lba,
				status);
	} else if (c->verify != NULL) {
		verify_ended(c->verify, slot, cmd);
	}
	l->done++;
	if (l->counting)
		figures_count(&l->figures, (uint64_t)cmd->nblocks * l->o.block_size,
			      l->now_ns - cmd->started_ns);
}

static void data_arrived(void *arg, unsigned slot, const struct command *cmd, uint32_t off,
			 const uint8_t *data, uint32_t len)
{
	struct client *c = arg;

	verify_arrived(c->verify, slot, cmd, off, data, len);
}

static int client_turn(struct client *c)
{
	struct load *l = c->load;
	int err;

	while (may_start(c)) {
		uint64_t before = l->started;

		start_one(c);
		if (l->started == before)
			break;
	}
	err = session_send(c->session);
	if (err >= 0 && (err > 0) != c->want_out) {
		struct epoll_event ev = {.events = EPOLLIN | (err > 0 ? EPOLLOUT : 0),
					 .data.ptr = c};

		c->want_out = err > 0;
		epoll_ctl(l->epoll, EPOLL_CTL_MOD, session_fd(c->session), &ev);
	}
	return err < 0 ? err : 0;
}

/* ---- The run --------------------------------------------------------------------------------- */

static uint64_t nclients(const struct load *l)
{
	return l->o.sessions + l->o.idle;
}

static unsigned in_flight(const struct load *l)
{
	unsigned n = 0;

	for (uint64_t i = 0; i < l->o.sessions; i++)
		n += l->clients[i].in_flight;
	return n;
}

static int wait_turn(struct load *l)
{
	struct epoll_event ev[64];
	int n = epoll_wait(l->epoll, ev, 64, 10000);

	l->now_ns = clock_ns(CLOCK_MONOTONIC);
	if (n == 0) {
		fprintf(stderr, "spindle-load: no answer for 10 s, %u commands in flight\n",
			in_flight(l));
		return -ETIMEDOUT;
	}
	for (int i = 0; i < n; i++) {
		struct client *c = ev[i].data.ptr;
		int err = session_receive(c->session);

		if (err == 0)
			err = client_turn(c);
		if (err < 0) {
			fprintf(stderr, "spindle-load: session %ld: %s (%s)\n",
				(long)(c - l->clients), session_fault(c->session), strerror(-err));
			return err;
		}
	}
	return 0;
}

/* Runs until `until_ns`, or until all commands of --ops have ended. */
static int run_until(struct load *l, uint64_t until_ns)
{
	int err = 0;

	while (err == 0 && l->now_ns < until_ns && (l->o.ops == 0 || l->done < l->o.ops))
		err = wait_turn(l);
	return err;
}

static int drain(struct load *l)
{
	int err = 0;

	l->stopping = true;
	while (err == 0 && in_flight(l) > 0)
		err = wait_turn(l);
	return err;
}

static int measure(struct load *l)
{
	int err = 0;

	l->now_ns = clock_ns(CLOCK_MONOTONIC);
	for (uint64_t i = 0; err == 0 && i < l->o.sessions; i++)
		err = client_turn(&l->clients[i]);
	if (err == 0 && l->o.ops == 0)
		err = run_until(l, l->o.begin_ms != 0 ? l->o.begin_ms * 1000000
						      : l->now_ns + l->o.warmup_ms * 1000000);
	if (err < 0)
		return err;
	figures_begin(&l->figures);
	l->counting = true;
	err = run_until(l, l->o.ops > 0 ? UINT64_MAX
					: clock_ns(CLOCK_MONOTONIC) + l->o.seconds_ms * 1000000);
	l->counting = false;
	if (err < 0)
		return err;
	figures_end(&l->figures);
	err = drain(l);
	if (err == 0)
		figures_print(&l->figures, l->o.json);
	return err;
}

static int verify_all(struct load *l)
{
	uint64_t wrong = 0, checked = 0;

	for (uint64_t i = 0; i < l->o.sessions; i++) {
		wrong += verify_wrong(l->clients[i].verify);
		checked += verify_checked(l->clients[i].verify);
	}
	fprintf(stderr, "verified %llu blocks, %llu wrong\n", (unsigned long long)checked,
		(unsigned long long)wrong);
	return wrong > 0 || checked == 0 ? -EILSEQ : 0;
}

static int run_workload(struct load *l)
{
	int err = l->o.workload != LOGIN ? measure(l) : 0;

	return err == 0 && l->o.workload == VERIFY ? verify_all(l) : err;
}

/* ---- Setup ----------------------------------------------------------------------------------- */

static int parse_portal(const char *text, struct sockaddr_in *out)
{
	char host[64];
	const char *colon = strrchr(text, ':');
	uint64_t port;

	if (colon == NULL || (size_t)(colon - text) >= sizeof(host) ||
	    parse_u64(colon + 1, &port) != 0 || port > UINT16_MAX)
		return -EINVAL;
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = '\0';
	*out = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	return inet_pton(AF_INET, host, &out->sin_addr) == 1 ? 0 : -EINVAL;
}

static struct session_config config_of(const struct load *l, uint64_t i)
{
	const struct options *o = &l->o;

	return (struct session_config){
		.addr = (const struct sockaddr *)&l->addr,
		.addr_len = sizeof(l->addr),
		.target = o->target,
		.initiator = o->initiator,
		.lun = (uint8_t)o->lun,
		.isid_qualifier = (uint16_t)(o->isid + i),
		.queue_depth = (unsigned)o->queue_depth,
		.block_size = (uint32_t)o->block_size,
		.header_digest = o->header_digest,
		.data_digest = o->data_digest,
		.want_data = o->workload == VERIFY,
		.echo = o->echo,
		.arrived = data_arrived,
		.ended = command_ended,
	};
}

static int open_client(struct load *l, uint64_t i, struct diag *d)
{
	struct options *o = &l->o;
	struct client *c = &l->clients[i];
	uint64_t total = o->region / o->block_size;
	struct session_config config = config_of(l, i);
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
	int err;

	config.arg = c;
	c->load = l;
	c->idle = i >= o->sessions;
	c->random = (o->seed + i + 1) * 0x9e3779b97f4a7c15u;
	c->nblocks = total / o->sessions;
	c->first_block = o->start / o->block_size + c->nblocks * i;
	queue_init(&c->free_slots);
	c->slots = calloc(o->queue_depth, sizeof(*c->slots));
	if (c->slots == NULL)
		return -ENOMEM;
	for (uint64_t s = 0; s < o->queue_depth; s++)
		queue_push(&c->free_slots, &c->slots[s].link);
	if (c->nblocks * o->block_size < o->io_size)
		return diag_set(d, -EINVAL, "--region is too small for one command a session");
	if (o->workload == VERIFY && !c->idle) {
		err = verify_create(&c->verify, c->first_block, c->nblocks, (uint32_t)o->block_size,
				    (uint32_t)o->io_size, (unsigned)o->queue_depth, c->random);
		if (err < 0)
			return err;
	}
	err = session_open(&c->session, &config, d);
	if (err < 0)
		return err;
	return epoll_ctl(l->epoll, EPOLL_CTL_ADD, session_fd(c->session), &ev) < 0 ? -errno : 0;
}

static int setup(struct load *l, struct diag *d)
{
	int err = parse_portal(l->o.portal, &l->addr);

	if (err < 0)
		return diag_set(d, err, "--portal %s is not ADDR:PORT", l->o.portal);
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	l->clients = calloc(nclients(l), sizeof(*l->clients));
	l->payload = malloc(l->o.io_size);
	if (l->epoll < 0 || l->clients == NULL || l->payload == NULL)
		return diag_set(d, -ENOMEM, "out of memory");
	memset(l->payload, 0x5a, l->o.io_size);
	if (l->o.workload == LOGIN)
		return 0;
	for (uint64_t i = 0; i < nclients(l); i++) {
		err = open_client(l, i, d);
		if (err < 0)
			return err;
	}
	return 0;
}

static void sleep_until(uint64_t ns)
{
	struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u),
			     .tv_nsec = (long)(ns % 1000000000u)};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* Each logs in, sends a first command, and hangs up. */
static int measure_logins(struct load *l, struct diag *d)
{
	const struct session_config config = config_of(l, 0);
	const uint64_t t0 = clock_ns(CLOCK_MONOTONIC);
	uint64_t began = t0;

	figures_begin(&l->figures);
	while (began < t0 + l->o.seconds_ms * 1000000) {
		struct session *s;
		int err = session_open(&s, &config, d);

		if (err < 0)
			return err;
		session_close(s);
		figures_count(&l->figures, 0, clock_ns(CLOCK_MONOTONIC) - began);
		if (l->o.rate > 0)
			sleep_until(t0 + l->figures.ops * 1000000000u / l->o.rate);
		began = clock_ns(CLOCK_MONOTONIC);
	}
	figures_end(&l->figures);
	figures_print(&l->figures, l->o.json);
	return 0;
}

/* Thousands of sessions are more descriptors than a process may have open unasked. */
static void allow_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void teardown(struct load *l)
{
	for (uint64_t i = 0; l->clients != NULL && i < nclients(l); i++) {
		session_close(l->clients[i].session);
		verify_destroy(l->clients[i].verify);
		free(l->clients[i].slots);
	}
	free(l->clients);
	free(l->payload);
	close(l->epoll);
}

int main(int argc, char **argv)
{
	struct load load = {.epoll = -1};
	struct diag d;
	char text[4096];
	int err = client_options("spindle-load", option_table, &load.o, argc, argv);

	if (err >= 0)
		return err;
	diag_init(&d);
	allow_descriptors();
	if (load.o.pid != 0)
		load.figures.servers[load.figures.nservers++] = load.o.pid;
	err = setup(&load, &d);
	if (err == 0 && load.o.workload == LOGIN)
		err = measure_logins(&load, &d);
	if (err < 0)
		fprintf(stderr, "spindle-load: %s\n", diag_text(&d, text, sizeof(text)));
	else
		err = run_workload(&load);
	teardown(&load);
	return err < 0 || load.figures.errors > 0 ? 1 : 0;
}
