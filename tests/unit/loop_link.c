/*
 * Network interfaces, as they are and as they change: lo, in a network namespace of its own where one
 * may be made.
 */
#include "loop_test.h"

#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct seen {
	struct loop_set *set;
	struct link_watch watch;
	unsigned changed, down;
	bool up;
};

static void is_down(struct link_watch *w, int index)
{
	struct seen *s = container_of(w, struct seen, watch);

	assert_int_equal(index, (int)if_nametoindex("lo"));
	s->down++;
}

static void set_lo(bool up)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = up ? IFF_UP : 0};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &r), 0);
	close(fd);
}

static void has_changed(struct link_watch *w)
{
	struct seen *s = container_of(w, struct seen, watch);
	struct link_facts facts;

	s->changed++;
	assert_int_equal(link_look(w, "lo", &facts), 0);
	if (facts.up == s->up)
		loop_set_stop(s->set);
}

static void go_up(void *arg)
{
	set_lo(true);
}

static void go_up_and_down(void *arg)
{
	set_lo(true);
	set_lo(false);
}

static void seen_open(struct seen *s)
{
	s->set = test_set(1, LOOP_DISK_WORKERS);
	s->watch.changed = has_changed;
	s->watch.down = is_down;
	assert_int_equal(link_watch_open(&s->watch, loop_set_at(s->set, 0)), 0);
}

static void seen_close(struct seen *s)
{
	link_watch_close(&s->watch);
	link_watch_close(&s->watch);
	loop_set_destroy(s->set);
}

static void an_interface_is_looked_at(void **state)
{
	static const uint8_t zeros[PACKET_MAC_LEN];
	struct seen s = {0};
	struct link_facts facts;

	link_watch_close(&s.watch); /* never opened */
	seen_open(&s);
	assert_int_equal(link_look(&s.watch, "lo", &facts), 0);
	assert_int_equal(facts.index, (int)if_nametoindex("lo"));
	assert_true(facts.mtu > 0);
	assert_memory_equal(facts.mac, zeros, sizeof(zeros));
	assert_int_equal(link_look(&s.watch, "nosuch0", &facts), -ENODEV);
	assert_int_equal(link_look(&s.watch, "", &facts), -ENODEV);
	assert_int_equal(link_look(&s.watch, "a-name-that-is-too-long", &facts), -ENODEV);
	seen_close(&s);
}

static void changes_are_told(void **state)
{
	struct seen s = {.up = true};

	if (unshare(CLONE_NEWNET) != 0)
		skip();
	seen_open(&s);
	test_run(s.set, go_up, NULL);
	assert_true(s.changed > 0);
	seen_close(&s);

	s = (struct seen){.up = false};
	seen_open(&s);
	test_run(s.set, go_up_and_down, NULL);
	assert_true(s.down > 0);
	seen_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_interface_is_looked_at),
		cmocka_unit_test(changes_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
