/*
 * Messages, turns, timers and signals on real loops.
 */
#include "loop_test.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- Messages between loops ------------------------------------------------------------------ */

#define NLOOPS 8
#define ROUNDS 2000

struct mesh_msg {
	struct loop_msg msg;
	struct mesh *mesh;
	unsigned from, to, seq;
};

/* Every loop sends ROUNDS numbered messages to every loop, itself included. */
struct mesh {
	struct loop_set *set;
	struct mesh_msg start[NLOOPS];
	struct mesh_msg *msgs[NLOOPS];     /* by sender */
	unsigned expected[NLOOPS][NLOOPS]; /* [receiver][sender] */
	atomic_uint received, out_of_order, on_wrong_loop;
};

static void mesh_receive(struct loop_msg *msg)
{
	struct mesh_msg *m = container_of(msg, struct mesh_msg, msg);
	struct mesh *mesh = m->mesh;

	if (loop_index(loop_self()) != m->to)
		atomic_fetch_add(&mesh->on_wrong_loop, 1);
	if (mesh->expected[m->to][m->from]++ != m->seq)
		atomic_fetch_add(&mesh->out_of_order, 1);
	if (atomic_fetch_add(&mesh->received, 1) + 1 == NLOOPS * NLOOPS * ROUNDS)
		loop_set_stop(mesh->set);
}

static void mesh_send(struct loop_msg *msg)
{
	struct mesh_msg *m = container_of(msg, struct mesh_msg, msg);
	struct mesh *mesh = m->mesh;
	struct mesh_msg *out = mesh->msgs[m->from];

	for (unsigned seq = 0; seq < ROUNDS; seq++) {
		for (unsigned to = 0; to < NLOOPS; to++, out++) {
			*out = (struct mesh_msg){.msg.run = mesh_receive, .mesh = mesh};
			out->from = m->from;
			out->to = to;
			out->seq = seq;
			loop_post(loop_set_at(mesh->set, to), &out->msg);
		}
	}
}

static void messages_of_one_sender_keep_their_order(void **state)
{
	struct mesh *mesh = calloc(1, sizeof(*mesh));

	mesh->set = test_set(NLOOPS, LOOP_DISK_AUTO);
	for (unsigned i = 0; i < NLOOPS; i++) {
		mesh->msgs[i] = calloc(NLOOPS * ROUNDS, sizeof(struct mesh_msg));
		mesh->start[i] = (struct mesh_msg){.msg.run = mesh_send, .mesh = mesh, .from = i};
		loop_post(loop_set_at(mesh->set, i), &mesh->start[i].msg);
	}
	assert_int_equal(loop_set_run(mesh->set), 0);
	assert_int_equal(mesh->received, NLOOPS * NLOOPS * ROUNDS);
	assert_int_equal(mesh->out_of_order, 0);
	assert_int_equal(mesh->on_wrong_loop, 0);
	loop_set_destroy(mesh->set);
	for (unsigned i = 0; i < NLOOPS; i++)
		free(mesh->msgs[i]);
	free(mesh);
}

/* A token goes around the loops, which all sleep but for the one that has it: each hop needs a
 * wake-up, and a lost one hangs the test. */
struct token {
	struct loop_msg msg;
	struct loop_set *set;
	unsigned hops;
};

static void token_pass(struct loop_msg *msg)
{
	struct token *t = container_of(msg, struct token, msg);
	unsigned next = (loop_index(loop_self()) + 1) % loop_set_count(t->set);

	if (--t->hops == 0)
		loop_set_stop(t->set);
	else
		loop_post(loop_set_at(t->set, next), &t->msg);
}

static void sleeping_loops_are_woken(void **state)
{
	struct token t = {.msg.run = token_pass, .hops = 20000};

	t.set = test_set(NLOOPS, LOOP_DISK_AUTO);
	loop_post(loop_set_at(t.set, 3), &t.msg);
	assert_int_equal(loop_set_run(t.set), 0);
	assert_int_equal(t.hops, 0);
	loop_set_destroy(t.set);
}

static void *post_later(void *arg)
{
	struct token *t = arg;

	usleep(50 * 1000);
	loop_post(loop_set_at(t->set, 0), &t->msg);
	return NULL;
}

static void any_thread_may_post(void **state)
{
	struct token t = {.msg.run = token_pass, .hops = 1};
	pthread_t thread;

	t.set = test_set(1, LOOP_DISK_AUTO);
	assert_null(loop_self());
	assert_int_equal(pthread_create(&thread, NULL, post_later, &t), 0);
	assert_int_equal(loop_set_run(t.set), 0);
	pthread_join(thread, NULL);
	assert_null(loop_self());
	loop_set_destroy(t.set);
}

/* ---- One turn -------------------------------------------------------------------------------- */

struct note {
	struct loop_msg msg;
	struct turn *turn;
	char letter;
};

struct turn {
	struct loop_set *set;
	struct loop *loop;
	struct note a, b, c, d, e, f, last;
	char log[16];
	size_t n;
};

static void note_run(struct loop_msg *msg)
{
	struct note *note = container_of(msg, struct note, msg);
	struct turn *t = note->turn;

	t->log[t->n++] = note->letter;
	if (note == &t->a)
		loop_defer(t->loop, &t->c.msg); /* after b, before the end */
	if (note == &t->d)
		loop_defer(t->loop, &t->f.msg); /* from the end: the deferred run again */
	if (note == &t->f)
		loop_at_end(t->loop, &t->last.msg);
	if (note == &t->last)
		loop_set_stop(t->set);
}

static void turn_start(void *arg)
{
	struct turn *t = arg;

	loop_at_end(t->loop, &t->d.msg);
	loop_defer(t->loop, &t->a.msg);
	loop_at_end(t->loop, &t->e.msg);
	loop_defer(t->loop, &t->b.msg);
	t->log[t->n++] = '0'; /* nothing runs on the stack of who asks for it */
}

static void deferred_come_before_the_end_of_the_turn(void **state)
{
	struct turn t = {.n = 0};
	struct note *notes[] = {&t.a, &t.b, &t.c, &t.d, &t.e, &t.f, &t.last};

	for (size_t i = 0; i < ARRAY_LEN(notes); i++)
		*notes[i] = (struct note){{.run = note_run}, &t, (char)('a' + i)};
	t.set = test_set(1, LOOP_DISK_AUTO);
	t.loop = loop_set_at(t.set, 0);
	test_run(t.set, turn_start, &t);
	assert_string_equal(t.log, "0abcdefg");
	loop_set_destroy(t.set);
}

/* A message that defers itself for ever, and one that queues itself for every end of a turn. */
struct endless {
	struct loop_set *set;
	struct loop_msg defer, at_end;
	struct loop_timer timer;
	struct loop_msg posted;
	bool fired;
	uint64_t ndefer, nat_end;
};

static void endless_defer(struct loop_msg *msg)
{
	struct endless *e = container_of(msg, struct endless, defer);

	e->ndefer++;
	loop_defer(loop_self(), msg);
}

static void endless_at_end(struct loop_msg *msg)
{
	struct endless *e = container_of(msg, struct endless, at_end);

	e->nat_end++;
	loop_at_end(loop_self(), msg);
}

static void endless_posted(struct loop_msg *msg)
{
	struct endless *e = container_of(msg, struct endless, posted);

	assert_true(e->fired);
	loop_set_stop(e->set);
}

static void endless_fired(struct loop_timer *timer)
{
	struct endless *e = container_of(timer, struct endless, timer);

	e->fired = true;
	loop_post(loop_self(), &e->posted);
}

static void endless_start(void *arg)
{
	struct endless *e = arg;

	loop_timer_init(&e->timer, loop_self(), endless_fired);
	assert_int_equal(loop_timer_start(&e->timer, 5 * NS_PER_MS), 0);
	loop_defer(loop_self(), &e->defer);
	loop_at_end(loop_self(), &e->at_end);
}

static void an_endless_chain_starves_nobody(void **state)
{
	struct endless e = {.defer.run = endless_defer,
			    .at_end.run = endless_at_end,
			    .posted.run = endless_posted};

	e.set = test_set(1, LOOP_DISK_AUTO);
	test_run(e.set, endless_start, &e);
	assert_true(e.ndefer > 100);
	assert_true(e.nat_end > 10);
	loop_set_destroy(e.set);
}

/* ---- The set --------------------------------------------------------------------------------- */

static void stop_self(void *arg)
{
	loop_set_stop(arg);
}

static void a_set_can_stop_before_it_runs_and_run_again(void **state)
{
	struct loop_set *set = test_set(3, LOOP_DISK_AUTO);

	loop_set_stop(set);
	assert_int_equal(loop_set_run(set), 0);
	test_run(set, stop_self, set);
	test_run(set, stop_self, set);
	assert_int_equal(loop_set_count(set), 3);
	assert_int_equal(loop_index(loop_set_at(set, 2)), 2);
	assert_ptr_equal(loop_set_of(loop_set_at(set, 1)), set);
	loop_set_destroy(set);
}

static void ran(struct loop_msg *msg)
{
	_exit(1);
}

/* In a process of a user who may have fewer threads than the set has loops. */
static void run_with_few_threads(void)
{
	const struct rlimit few = {.rlim_cur = 4, .rlim_max = 4};
	struct loop_msg msgs[NLOOPS];
	struct loop_set *set = test_set(NLOOPS, LOOP_DISK_AUTO);

	for (unsigned i = 0; i < NLOOPS; i++) {
		msgs[i].run = ran;
		loop_post(loop_set_at(set, i), &msgs[i]);
	}
	if (setrlimit(RLIMIT_NPROC, &few) != 0 || setuid(65534) != 0)
		_exit(2);
	if (loop_set_run(set) != -EAGAIN)
		_exit(3);
	loop_set_destroy(set);
	_exit(0);
}

/* What one loop began nobody could end. */
static void no_loop_runs_without_the_others(void **state)
{
	if (geteuid() != 0)
		skip();
	for (unsigned i = 0; i < 20; i++) {
		pid_t pid = fork();
		int status;

		assert_true(pid >= 0);
		if (pid == 0)
			run_with_few_threads();
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}
}

static void workers_take_the_ring_s_place_when_asked(void **state)
{
	struct loop_set *set = test_set(1, LOOP_DISK_WORKERS);

	assert_string_equal(loop_set_disk_engine(set), "worker threads");
	loop_set_destroy(set);
	setenv("SPINDLE_NO_URING", "1", 1);
	set = test_set(1, LOOP_DISK_AUTO);
	assert_string_equal(loop_set_disk_engine(set), "worker threads");
	loop_set_destroy(set);
	unsetenv("SPINDLE_NO_URING");
}

static void no_number_of_loops_means_one_a_core(void **state)
{
	struct loop_set *set = test_set(0, LOOP_DISK_AUTO);

	assert_true(loop_set_count(set) >= 1);
	loop_set_destroy(set);
}

/* ---- Timers ---------------------------------------------------------------------------------- */

#define NTIMERS 500

struct clockwork {
	struct loop_set *set;
	struct clock_timer {
		struct loop_timer timer;
		struct clockwork *work;
		uint64_t wanted_ns;
		bool stopped;
	} timers[NTIMERS];
	unsigned left;
	uint64_t last_due;
	unsigned seed;
};

static void clock_fired(struct loop_timer *timer)
{
	struct clock_timer *t = container_of(timer, struct clock_timer, timer);
	struct clockwork *w = t->work;

	assert_false(t->stopped);
	assert_false(loop_timer_running(timer));
	assert_true(monotonic_ns() >= t->wanted_ns);
	assert_true(t->wanted_ns >= w->last_due); /* in the order of their times */
	w->last_due = t->wanted_ns;
	if (--w->left == 0)
		loop_set_stop(w->set);
}

static void clock_start_one(struct clock_timer *t)
{
	uint64_t delay = (uint64_t)(rand_r(&t->work->seed) % 50000) * 1000 + 1;

	assert_int_equal(loop_timer_start(&t->timer, delay), 0);
	t->wanted_ns = loop_now_ns(loop_self()) + delay;
}

static void clock_start(void *arg)
{
	struct clockwork *w = arg;

	for (unsigned i = 0; i < NTIMERS; i++) {
		w->timers[i].work = w;
		loop_timer_init(&w->timers[i].timer, loop_self(), clock_fired);
		clock_start_one(&w->timers[i]);
	}
	for (unsigned i = 0; i < NTIMERS; i += 3)
		clock_start_one(&w->timers[i]); /* moves */
	w->left = NTIMERS;
	for (unsigned i = 0; i < NTIMERS; i += 5) {
		w->timers[i].stopped = true;
		loop_timer_stop(&w->timers[i].timer);
		loop_timer_stop(&w->timers[i].timer); /* twice is fine */
		assert_false(loop_timer_running(&w->timers[i].timer));
		w->left--;
	}
}

static void timers_fire_in_order_and_never_early(void **state)
{
	struct clockwork *w = calloc(1, sizeof(*w));

	for (unsigned seed = 1; seed <= 4; seed++) {
		memset(w, 0, sizeof(*w));
		w->seed = seed;
		w->set = test_set(1, LOOP_DISK_AUTO);
		test_run(w->set, clock_start, w);
		assert_int_equal(w->left, 0);
		loop_set_destroy(w->set);
	}
	free(w);
}

struct pair {
	struct loop_set *set;
	struct loop_timer first, second, end;
};

static void first_fired(struct loop_timer *timer)
{
	struct pair *p = container_of(timer, struct pair, first);

	loop_timer_stop(&p->second);    /* due in the very same batch */
	loop_timer_start(&p->first, 0); /* must not keep the turn from ending */
}

static void second_fired(struct loop_timer *timer)
{
	fail_msg("a stopped timer fired");
}

static void end_fired(struct loop_timer *timer)
{
	loop_set_stop(container_of(timer, struct pair, end)->set);
}

static void pair_start(void *arg)
{
	struct pair *p = arg;

	loop_timer_init(&p->first, loop_self(), first_fired);
	loop_timer_init(&p->second, loop_self(), second_fired);
	loop_timer_init(&p->end, loop_self(), end_fired);
	loop_timer_start(&p->first, 1000);
	loop_timer_start(&p->second, 1001);
	loop_timer_start(&p->end, 5 * NS_PER_MS);
	usleep(2000); /* both are due at once */
}

static void a_timer_can_stop_another_that_is_due(void **state)
{
	struct pair p = {.set = test_set(1, LOOP_DISK_AUTO)};

	test_run(p.set, pair_start, &p);
	assert_true(loop_timer_running(&p.first));
	loop_set_destroy(p.set);
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void wait_start(void *arg)
{
	struct pair *p = arg;

	loop_timer_init(&p->end, loop_self(), end_fired);
	loop_timer_start(&p->end, 300 * NS_PER_MS);
}

static void an_idle_loop_sleeps(void **state)
{
	struct pair p = {.set = test_set(4, LOOP_DISK_AUTO)};
	uint64_t cpu = cpu_ns(), began = monotonic_ns();

	test_run(p.set, wait_start, &p);
	assert_true(monotonic_ns() - began >= 300 * NS_PER_MS);
	assert_true(cpu_ns() - cpu < 100 * NS_PER_MS);
	loop_set_destroy(p.set);
}

/* Without epoll_pwait2 the clock is coarser, but no timer is early there either. */
static void timers_work_with_old_kernels(void **state)
{
	struct pair p = {.set = test_set(1, LOOP_DISK_AUTO)};
	uint64_t began = monotonic_ns();

	p.set->use_pwait2 = false;
	test_run(p.set, wait_start, &p);
	assert_true(monotonic_ns() - began >= 300 * NS_PER_MS);
	loop_set_destroy(p.set);
}

/* ---- Signals --------------------------------------------------------------------------------- */

struct catch
{
	struct loop_set *set;
	int usr1, usr2;
};

static void caught_usr1(void *arg, int signo)
{
	struct catch *c = arg;

	assert_int_equal(signo, SIGUSR1);
	assert_ptr_equal(loop_self(), loop_set_at(c->set, 0));
	c->usr1++;
	kill(getpid(), SIGUSR2);
}

static void caught_usr2(void *arg, int signo)
{
	struct catch *c = arg;

	assert_int_equal(signo, SIGUSR2);
	c->usr2++;
	loop_set_stop(c->set);
}

static void raise_usr1(void *arg)
{
	kill(getpid(), SIGUSR1);
}

static void signals_arrive_on_loop_0(void **state)
{
	struct catch c = {.set = test_set(4, LOOP_DISK_AUTO)};

	assert_int_equal(loop_signal(c.set, SIGUSR1, caught_usr1, &c), 0);
	assert_int_equal(loop_signal(c.set, SIGUSR2, caught_usr2, &c), 0);
	assert_int_equal(loop_signal(c.set, 1000, caught_usr2, &c), -EINVAL);
	test_run(c.set, raise_usr1, NULL);
	assert_int_equal(c.usr1, 1);
	assert_int_equal(c.usr2, 1);
	loop_set_destroy(c.set);
}

/* A signal handler of the old kind may stop the set. */
static struct loop_set *handler_s_set;

static void stop_handler(int signo)
{
	loop_set_stop(handler_s_set);
}

static void raise_alarm(void *arg)
{
	ualarm(20 * 1000, 0);
}

static void a_signal_handler_may_stop_the_set(void **state)
{
	struct sigaction act = {.sa_handler = stop_handler};

	handler_s_set = test_set(2, LOOP_DISK_AUTO);
	sigaction(SIGALRM, &act, NULL);
	test_run(handler_s_set, raise_alarm, NULL);
	loop_set_destroy(handler_s_set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_of_one_sender_keep_their_order),
		cmocka_unit_test(sleeping_loops_are_woken),
		cmocka_unit_test(any_thread_may_post),
		cmocka_unit_test(deferred_come_before_the_end_of_the_turn),
		cmocka_unit_test(an_endless_chain_starves_nobody),
		cmocka_unit_test(a_set_can_stop_before_it_runs_and_run_again),
		cmocka_unit_test(no_loop_runs_without_the_others),
		cmocka_unit_test(workers_take_the_ring_s_place_when_asked),
		cmocka_unit_test(no_number_of_loops_means_one_a_core),
		cmocka_unit_test(timers_fire_in_order_and_never_early),
		cmocka_unit_test(a_timer_can_stop_another_that_is_due),
		cmocka_unit_test(an_idle_loop_sleeps),
		cmocka_unit_test(timers_work_with_old_kernels),
		cmocka_unit_test(signals_arrive_on_loop_0),
		cmocka_unit_test(a_signal_handler_may_stop_the_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
