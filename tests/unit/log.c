/* base/log: the form of a line, escaping of what strangers sent, one write a line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

/* 2026-11-20T13:00:01.123Z */
#define WHEN_MS UINT64_C(1795179601123)

#define FORMAT(buf, ...) \
	log_format(buf, sizeof(buf), LOG_INFO, WHEN_MS, "an-event", LOG_FIELDS(__VA_ARGS__))

static void a_line(void **state)
{
	char buf[256];
	size_t len = FORMAT(buf, F_STR("initiator", "iqn.x"), F_HEX("status", 0x203),
			    F_U64("tsih", 7), F_ERRNO("error", -ENOENT));

	assert_string_equal(buf, "2026-11-20T13:00:01.123Z info an-event initiator=\"iqn.x\" "
				 "status=0x0203 tsih=7 error=\"No such file or directory\"");
	assert_int_equal(len, strlen(buf));
}

static void no_fields(void **state)
{
	char buf[256];

	FORMAT(buf);
	assert_string_equal(buf, "2026-11-20T13:00:01.123Z info an-event");
	log_format(buf, sizeof(buf), LOG_ERROR, 0, "e", LOG_FIELDS());
	assert_string_equal(buf, "1970-01-01T00:00:00.000Z error e");
}

static void strange_values(void **state)
{
	char buf[256];

	FORMAT(buf, F_STR("a", "x\"\n\xff"), F_STR("b", NULL), F_U64("c", UINT64_MAX),
	       F_ERRNO("d", -123456));
	assert_string_equal(buf,
			    "2026-11-20T13:00:01.123Z info an-event a=\"x\\x22\\x0a\\xff\" b=- "
			    "c=18446744073709551615 d=\"error 123456\"");
}

/* At every cap: terminated, shorter than the cap, and what was cut says so. */
static void cut_lines_are_marked(void **state)
{
	char whole[256], buf[256];
	size_t whole_len = FORMAT(whole, F_STR("name", "abc\ndef"), F_U64("n", 42));

	for (size_t cap = 5; cap < sizeof(buf); cap++) {
		size_t len;

		memset(buf, '!', sizeof(buf));
		len = log_format(buf, cap, LOG_INFO, WHEN_MS, "an-event",
				 LOG_FIELDS(F_STR("name", "abc\ndef"), F_U64("n", 42)));
		assert_true(len < cap);
		assert_int_equal(strlen(buf), len);
		assert_int_equal(buf[cap], '!');
		if (cap > whole_len)
			assert_string_equal(buf, whole);
		else
			assert_string_equal(buf + len - 3, "...");
	}
}

static size_t read_all(int fd, char *buf, size_t cap)
{
	size_t len = 0;
	ssize_t n;

	while ((n = read(fd, buf + len, cap - 1 - len)) > 0)
		len += (size_t)n;
	buf[len] = '\0';
	return len;
}

static void level_drops_what_is_more_verbose(void **state)
{
	int fds[2];
	struct log log;
	char buf[1024];

	assert_int_equal(pipe(fds), 0);
	log = (struct log){.fd = fds[1], .level = LOG_WARN};
	log_event(&log, LOG_INFO, "dropped");
	log_event(&log, LOG_WARN, "kept", F_U64("n", 1));
	log_event(&log, LOG_ERROR, "kept-too");
	log_event(NULL, LOG_ERROR, "nowhere");
	close(fds[1]);
	read_all(fds[0], buf, sizeof(buf));
	close(fds[0]);
	assert_null(strstr(buf, "dropped"));
	assert_non_null(strstr(buf, " warn kept n=1\n"));
	assert_non_null(strstr(buf, " error kept-too\n"));
}

/* A log that is gone (a closed pipe, a full disk) stops nobody. */
static void nowhere_to_write_is_no_trouble(void **state)
{
	const struct log log = {.fd = -1, .level = LOG_DEBUG};

	log_event(&log, LOG_DEBUG, "lost");
}

/* Not time(): it reads a coarser clock, which may still be in the second before. */
static void time_text(char *buf, size_t cap, const char *form)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	strftime(buf, cap, form, gmtime(&now.tv_sec));
}

static void lines_carry_the_time(void **state)
{
	int fds[2];
	struct log log;
	char buf[256], before[32], after[32];

	assert_int_equal(pipe(fds), 0);
	log = (struct log){.fd = fds[1], .level = LOG_INFO};
	time_text(before, sizeof(before), "%Y-%m-%dT%H:%M:%S");
	log_event(&log, LOG_INFO, "now");
	time_text(after, sizeof(after), "%Y-%m-%dT%H:%M:%S.999Z");
	close(fds[1]);
	read_all(fds[0], buf, sizeof(buf));
	close(fds[0]);
	assert_true(strncmp(buf, before, strlen(before)) >= 0);
	assert_true(strncmp(buf, after, strlen(after)) <= 0);
}

static void *write_lines(void *arg)
{
	for (unsigned i = 0; i < 100; i++)
		log_event(arg, LOG_INFO, "line", F_STR("text", "0123456789"));
	return NULL;
}

static void lines_of_threads_do_not_mix(void **state)
{
	static char buf[65536];
	pthread_t threads[4];
	int fds[2];
	struct log log;
	unsigned lines = 0;

	assert_int_equal(pipe(fds), 0);
	log = (struct log){.fd = fds[1], .level = LOG_INFO};
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &log), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	close(fds[1]);
	read_all(fds[0], buf, sizeof(buf));
	close(fds[0]);
	for (char *rest = buf, *line; (line = strsep(&rest, "\n")) != NULL && *line != '\0';
	     lines++)
		assert_string_equal(line + strlen("2026-11-20T13:00:01.123Z"),
				    " info line text=\"0123456789\"");
	assert_int_equal(lines, 400);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line),
		cmocka_unit_test(no_fields),
		cmocka_unit_test(strange_values),
		cmocka_unit_test(cut_lines_are_marked),
		cmocka_unit_test(level_drops_what_is_more_verbose),
		cmocka_unit_test(lines_carry_the_time),
		cmocka_unit_test(nowhere_to_write_is_no_trouble),
		cmocka_unit_test(lines_of_threads_do_not_mix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
