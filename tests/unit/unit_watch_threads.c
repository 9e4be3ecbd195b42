/*
 * The watch on real loops, with real files and under load: a file grows, a disk is lost and comes
 * back, a probe hangs, and the watch stops at any moment. Run under the thread sanitizer, too.
 */
#include "loop_test.h"

#include "store/store.h"
#include "unit/unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define NLOOPS   4
#define STEWARD  1
#define PER      4 /* tasks at a time on each loop */
#define BLOCK    4096u
#define SIZE     (1 * MiB)
#define INTERVAL UINT64_C(20000000)
#define PATIENCE 20000 /* ms */

struct actor;

struct task {
	struct unit_task ut;
	struct unit_io uio;
	struct iovec iov;
	struct actor *actor;
	struct loop_timer pause;
	bool busy;
	uint8_t data[BLOCK];
};

/* One nexus on each loop. */
struct actor {
	struct unit_attach ua;
	struct loop_msg msg;
	uint64_t random;
	unsigned running;
	atomic_uint size_told, medium_told, protection_told;
	struct task tasks[PER];
};

static struct loop_set *set;
static struct unit *unit;
static struct actor actors[NLOOPS];
static pthread_t loops_thread;
static sem_t gone, has_stopped;
static atomic_bool quit;
static atomic_uint nattached, done_well, done_lost, done_protected, done_otherwise;
static atomic_uint events[UNIT_EVENT_UNLINKED + 1];
static char dir[64], file[128], flag[128];

/* ---- Load ---- */

static uint64_t rnd(struct actor *a)
{
	a->random ^= a->random << 13;
	a->random ^= a->random >> 7;
	a->random ^= a->random << 17;
	return a->random >> 11;
}

static void submit(struct task *t);

static void paused(struct loop_timer *timer)
{
	submit(container_of(timer, struct task, pause));
}

static void count(int err)
{
	if (err == 0)
		atomic_fetch_add(&done_well, 1);
	else if (err == -ENODEV)
		atomic_fetch_add(&done_lost, 1);
	else if (err == -EROFS)
		atomic_fetch_add(&done_protected, 1);
	else
		atomic_fetch_add(&done_otherwise, 1);
}

static void io_done(struct unit_io *uio)
{
	struct task *t = container_of(uio, struct task, uio);

	count(uio->io.result);
	CHECK(loop_timer_start(&t->pause, uio->io.result == 0 ? 50000 : 1000000) == 0);
}

static void submit(struct task *t)
{
	struct actor *a = t->actor;
	/* Each loop has blocks of its own: where memory is the disk, overlapping I/O is a race. */
	uint64_t each = channel_view(a->ua.channel)->size / BLOCK / NLOOPS;

	if (quit) {
		unit_task_end(&t->ut);
		if (--a->running == 0) {
			unit_detach(&a->ua);
			sem_post(&gone);
		}
		return;
	}
	t->iov = (struct iovec){.iov_base = t->data, .iov_len = BLOCK};
	t->uio = (struct unit_io){
		.io = {.op = rnd(a) % 2 == 0 ? IO_READ : IO_WRITE,
		       .off = (rnd(a) % each * NLOOPS + loop_index(a->ua.loop)) * BLOCK,
		       .len = BLOCK,
		       .iov = &t->iov,
		       .niov = 1},
		.task = &t->ut,
		.done = io_done,
	};
	unit_submit(&t->uio);
}

static void cancelled(struct unit_task *ut)
{
}

static void attached(struct unit_attach *ua, int err)
{
	struct actor *a = container_of(ua, struct actor, ua);

	CHECK(err == 0);
	a->running = PER;
	atomic_fetch_add(&nattached, 1);
	for (unsigned i = 0; i < PER; i++) {
		struct task *t = &a->tasks[i];

		t->actor = a;
		t->ut = (struct unit_task){.nexus_id = ua->nexus_id, .cancel = cancelled};
		unit_task_begin(ua->channel, &t->ut);
		loop_timer_init(&t->pause, ua->loop, paused);
		submit(t);
	}
}

static void changed(struct unit_attach *ua, unsigned changes, uint64_t origin)
{
	struct actor *a = container_of(ua, struct actor, ua);

	atomic_fetch_add(&a->size_told, (changes & UNIT_CHANGED_SIZE) != 0);
	atomic_fetch_add(&a->medium_told, (changes & UNIT_CHANGED_MEDIUM) != 0);
	atomic_fetch_add(&a->protection_told, (changes & UNIT_CHANGED_PROTECTION) != 0);
}

static void attach(struct loop_msg *msg)
{
	struct actor *a = container_of(msg, struct actor, msg);

	unit_attach(unit, &a->ua);
}

/* ---- Life ---- */

static void *loops_main(void *arg)
{
	loop_set_run(set);
	return NULL;
}

static void make_unit(const char *spec, uint64_t size)
{
	static const struct store_type *const types[] = {&store_file, &store_ram, &store_fault,
							 NULL};
	static const struct unit_identity identity = {.serial = "test"};
	struct bdev_config bconfig = {.block_size = 512};
	struct store_config sconfig = {.size = size};
	struct store *store;
	struct bdev *bdev;

	assert_int_equal(store_open(&store, set, types, spec, &sconfig, NULL), 0);
	assert_int_equal(bdev_create(&bdev, store, &bconfig, NULL), 0);
	assert_int_equal(unit_create(&unit, set, bdev, &identity, STEWARD), 0);
}

static void start_loops(void)
{
	assert_int_equal(pthread_create(&loops_thread, NULL, loops_main, NULL), 0);
}

static void start_load(void)
{
	for (unsigned i = 0; i < NLOOPS; i++) {
		struct actor *a = &actors[i];

		*a = (struct actor){.random = i + 1, .msg = {.run = attach}};
		a->ua = (struct unit_attach){.nexus_id = i + 1,
					     .loop = loop_set_at(set, i),
					     .attached = attached,
					     .changed = changed};
		loop_post(a->ua.loop, &a->msg);
	}
}

static void happened(void *arg, struct unit *u, enum unit_event event)
{
	atomic_fetch_add(&events[event], 1);
}

static void start_watch(void)
{
	const struct unit_watch_config config = {.interval_ns = INTERVAL, .event = happened};

	assert_int_equal(unit_watch_start(unit, &config), 0);
}

static void watch_stopped(void *arg)
{
	sem_post(&has_stopped);
}

static void wait_sem(sem_t *sem)
{
	while (sem_wait(sem) != 0)
		continue;
}

static void stop_load(void)
{
	quit = true;
	for (unsigned i = 0; i < NLOOPS; i++)
		wait_sem(&gone);
}

static void stop_watch(void)
{
	unit_watch_stop(unit, loop_set_at(set, 2), watch_stopped, NULL);
	wait_sem(&has_stopped);
}

static void pinged(struct loop_msg *msg)
{
	sem_post(&gone);
}

/* The last that the loops told the steward has arrived there before they end. */
static void ping_steward(void)
{
	struct loop_msg msg = {.run = pinged};

	loop_post(loop_set_at(set, STEWARD), &msg);
	wait_sem(&gone);
}

static void stop_loops(void)
{
	ping_steward();
	loop_set_stop(set);
	pthread_join(loops_thread, NULL);
	unit_destroy(unit);
}

static int set_up(void **state)
{
	str_copy(dir, sizeof(dir), "/var/tmp/spindle-watch-XXXXXX");
	assert_non_null(mkdtemp(dir));
	str_format(file, sizeof(file), "%s/disk", dir);
	str_format(flag, sizeof(flag), "%s/flag", dir);
	sem_init(&gone, 0, 0);
	sem_init(&has_stopped, 0, 0);
	quit = false;
	nattached = 0;
	done_well = done_lost = done_protected = done_otherwise = 0;
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		events[i] = 0;
	set = test_set(NLOOPS, LOOP_DISK_AUTO);
	return 0;
}

static int tear_down(void **state)
{
	loop_set_destroy(set);
	unlink(file);
	unlink(flag);
	rmdir(dir);
	return 0;
}

static void raise_flag(void)
{
	int fd = open(flag, O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static void sleep_ms(unsigned ms)
{
	usleep(ms * 1000);
}

#define wait_until(condition)                       \
	do {                                        \
		unsigned left_ = PATIENCE;          \
		while (!(condition) && left_-- > 0) \
			sleep_ms(1);                \
		assert_true(condition);             \
	} while (0)

/* ---- Tests ---- */

static void a_file_grows_under_load(void **state)
{
	uint64_t size = SIZE;

	make_unit(file, SIZE);
	start_loops();
	start_load();
	wait_until(nattached == NLOOPS);
	start_watch();
	for (unsigned i = 1; i <= 10; i++) {
		size += 64 * KiB * i;
		assert_int_equal(truncate(file, (off_t)size), 0);
		wait_until(bdev_nblocks(unit_bdev(unit)) == size / 512);
		wait_until(events[UNIT_EVENT_GREW] == i);
		for (unsigned n = 0; n < NLOOPS; n++)
			assert_int_equal(actors[n].size_told, i); /* before the event */
	}
	sleep_ms(50);
	stop_load();
	stop_watch();
	assert_int_equal(done_lost + done_protected + done_otherwise, 0);
	assert_true(done_well > 100);
	assert_int_equal(events[UNIT_EVENT_SHRUNK], 0);
	assert_true(unit_usage(unit).allocated <= size);
	assert_true(unit_usage(unit).available != UINT64_MAX);
	stop_loops();
}

static void lost_and_back_under_load(void **state)
{
	char spec[256];

	str_format(spec, sizeof(spec), "fault:rule=any;enodev;while=%s:%s", flag, file);
	make_unit(spec, SIZE);
	start_loops();
	start_load();
	wait_until(nattached == NLOOPS);
	start_watch();
	for (unsigned i = 1; i <= 5; i++) {
		unsigned well;

		wait_until(done_well > 100 * i);
		raise_flag();
		wait_until(events[UNIT_EVENT_LOST] == i);
		well = done_lost;
		wait_until(done_lost > well);
		unlink(flag);
		wait_until(events[UNIT_EVENT_BACK] == i);
		for (unsigned n = 0; n < NLOOPS; n++)
			assert_int_equal(actors[n].medium_told, i);
	}
	stop_load();
	stop_watch();
	assert_int_equal(done_otherwise + done_protected, 0);
	assert_int_equal(events[UNIT_EVENT_GREW] + events[UNIT_EVENT_SHRUNK], 0);
	stop_loops();
}

static void read_only_under_load(void **state)
{
	char spec[256];

	str_format(spec, sizeof(spec), "fault:rule=write;erofs;while=%s:%s", flag, file);
	make_unit(spec, SIZE);
	start_loops();
	start_load();
	wait_until(nattached == NLOOPS);
	start_watch();
	for (unsigned i = 1; i <= 5; i++) {
		raise_flag();
		wait_until(events[UNIT_EVENT_READ_ONLY] == i);
		unlink(flag);
		wait_until(events[UNIT_EVENT_WRITABLE] == i);
		for (unsigned n = 0; n < NLOOPS; n++)
			assert_int_equal(actors[n].protection_told, 2 * i);
	}
	stop_load();
	stop_watch();
	assert_int_equal(done_otherwise + done_lost, 0);
	stop_loops();
}

static unsigned nthreads(void)
{
	DIR *d = opendir("/proc/self/task");
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

/* A probe that hangs is left alone: no second one, no end of the watch, and loops that run. */
static void a_probe_hangs(void **state)
{
	char spec[256];
	unsigned threads;

	str_format(spec, sizeof(spec), "fault:rule=any;hang;while=%s:ram:1M", flag);
	make_unit(spec, 0);
	start_loops();
	start_load();
	wait_until(done_well > 0);
	raise_flag();
	start_watch();
	sleep_ms(100);
	threads = nthreads();
	for (unsigned i = 0; i < 1000; i++) {
		unit_watch_now(unit);
		if (i % 100 == 0)
			sleep_ms(10);
	}
	assert_int_equal(nthreads(), threads);
	unit_watch_stop(unit, loop_set_at(set, 2), watch_stopped, NULL);
	sleep_ms(100);
	assert_int_equal(sem_trywait(&has_stopped), -1);
	unlink(flag);
	wait_sem(&has_stopped);
	stop_load();
	assert_int_equal(events[UNIT_EVENT_LOST], 0);
	stop_loops();
}

/* An operation of the one who exports the disk, on loop 0. */
struct control {
	struct unit_op op;
	struct loop_msg msg;
	atomic_int err; /* 1: not done */
};

static void control_done(struct unit_op *op, int err)
{
	container_of(op, struct control, op)->err = err;
}

static void grow(struct loop_msg *msg)
{
	unit_resize(&container_of(msg, struct control, msg)->op, 2 * SIZE);
}

static void protect(struct loop_msg *msg)
{
	unit_protect(&container_of(msg, struct control, msg)->op, UNIT_READ_ONLY);
}

static void control_start(struct control *c, void (*start)(struct loop_msg *msg))
{
	struct loop *loop = loop_set_at(set, 0);

	*c = (struct control){
		.op = {.unit = unit, .loop = loop, .done = control_done},
		.msg = {.run = start},
		.err = 1,
	};
	loop_post(loop, &c->msg);
}

/* A new size has to wait for a store that does not say how it is. Nothing else has. */
static void a_probe_hangs_before_a_resize(void **state)
{
	struct control resize, other;
	char spec[256];

	str_format(spec, sizeof(spec), "fault:rule=any;hang;while=%s:%s", flag, file);
	make_unit(spec, SIZE);
	start_loops();
	start_load();
	wait_until(done_well > 0);
	raise_flag();
	start_watch();
	sleep_ms(50);
	control_start(&resize, grow);
	sleep_ms(50);
	control_start(&other, protect);
	wait_until(other.err != 1);
	assert_int_equal(other.err, 0);
	assert_int_equal(resize.err, 1);
	unlink(flag);
	wait_until(resize.err != 1);
	assert_int_equal(resize.err, 0);
	assert_int_equal(bdev_nblocks(unit_bdev(unit)), 2 * SIZE / 512);
	stop_load();
	stop_watch();
	stop_loops();
}

static struct io flush;
static atomic_int flushed; /* 1: not yet */

static void flush_done(struct io *io)
{
	flushed = io->result;
}

static void flush_run(struct loop_msg *msg)
{
	flush = (struct io){.op = IO_FLUSH, .done = flush_done, .loop = loop_set_at(set, 0)};
	bdev_submit(unit_bdev(unit), &flush);
}

/* The disk says that a flush failed and then, or before, nothing any more. */
static void a_flush_fails_and_a_probe_hangs(void **state)
{
	struct loop_msg msg = {.run = flush_run};
	char spec[256];

	str_format(spec, sizeof(spec), "fault:rule=flush;eio,rule=any;hang;while=%s:ram:1M", flag);
	for (unsigned order = 0; order < 2; order++) {
		quit = false;
		nattached = 0;
		make_unit(spec, 0);
		start_loops();
		start_load();
		wait_until(nattached == NLOOPS);
		if (order == 0)
			start_watch();
		raise_flag();
		if (order == 1)
			start_watch();
		sleep_ms(50);
		flushed = 1;
		loop_post(loop_set_at(set, 0), &msg);
		wait_until(flushed != 1);
		assert_int_equal(flushed, -EIO);
		unit_watch_now(unit);
		wait_until(events[UNIT_EVENT_FLUSH_FAILED] == order + 1);
		for (unsigned n = 0; n < NLOOPS; n++)
			assert_int_equal(actors[n].protection_told, 1);
		unlink(flag);
		sleep_ms(50);
		stop_load();
		stop_watch();
		assert_int_equal(events[UNIT_EVENT_FLUSH_FAILED], order + 1);
		for (unsigned n = 0; n < NLOOPS; n++)
			assert_int_equal(actors[n].protection_told, 1);
		assert_int_equal(events[UNIT_EVENT_WRITABLE], 0);
		stop_loops();
		loop_set_destroy(set);
		set = test_set(NLOOPS, LOOP_DISK_AUTO);
	}
}

static void stops_at_any_moment(void **state)
{
	for (unsigned i = 0; i < 60; i++) {
		quit = false;
		make_unit(i % 2 == 0 ? file : "ram:1M", i % 2 == 0 ? SIZE : 0);
		start_loops();
		start_load();
		start_watch();
		if (i % 2 == 0)
			assert_int_equal(truncate(file, (off_t)(SIZE + i * 4096)), 0);
		usleep(i * 50);
		unit_watch_now(unit);
		if (i % 3 == 0)
			stop_load();
		stop_watch();
		if (i % 3 != 0)
			stop_load();
		stop_loops();
		unlink(file);
		loop_set_destroy(set);
		set = test_set(NLOOPS, LOOP_DISK_AUTO);
	}
	assert_int_equal(done_otherwise + done_lost + done_protected, 0);
}

/* Its data are there as long as it is open. */
static void a_file_without_a_name(void **state)
{
	unsigned well;

	make_unit(file, SIZE);
	start_loops();
	start_load();
	start_watch();
	wait_until(done_well > 0);
	unlink(file);
	wait_until(events[UNIT_EVENT_UNLINKED] == 1);
	well = done_well;
	wait_until(done_well > well + 100);
	stop_load();
	stop_watch();
	assert_int_equal(events[UNIT_EVENT_UNLINKED], 1);
	assert_int_equal(done_otherwise + done_lost + done_protected, 0);
	stop_loops();
}

/* Behind its end there are errors, no zeros; and no write makes zeros of what was cut off. */
static void a_file_is_cut_off(void **state)
{
	struct stat st;

	make_unit(file, SIZE);
	start_loops();
	start_watch();
	wait_until(unit_usage(unit).available != UINT64_MAX);
	assert_int_equal(truncate(file, SIZE / 2), 0);
	wait_until(events[UNIT_EVENT_SHRUNK] == 1);
	start_load();
	wait_until(done_protected > 100);
	wait_until(done_well > 10);
	wait_until(done_otherwise > 10);
	stop_load();
	stop_watch();
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_size, SIZE / 2);
	stop_loops();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_file_grows_under_load),
		TEST(lost_and_back_under_load),
		TEST(read_only_under_load),
		TEST(a_probe_hangs),
		TEST(a_probe_hangs_before_a_resize),
		TEST(a_flush_fails_and_a_probe_hangs),
		TEST(stops_at_any_moment),
		TEST(a_file_without_a_name),
		TEST(a_file_is_cut_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
