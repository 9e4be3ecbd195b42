/*
 * Names that one process has at a time.
 */
#include "loop_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONGEST 107

/* The system has them all. */
static const char *own(char out[LONGEST + 1], const char *what)
{
	str_format(out, LONGEST + 1, "spindle-test-%d-%s", (int)getpid(), what);
	return out;
}

static void a_name_is_had_once(void **state)
{
	char name[LONGEST + 1], other[LONGEST + 1], longer[LONGEST + 1];
	int fd = claim_open(own(name, "a")), second = claim_open(own(other, "b"));

	assert_true(fd >= 0 && second >= 0);
	assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
	assert_int_equal(claim_open(name), -EADDRINUSE);
	claim_close(claim_open(own(longer, "aa")));
	claim_close(second);
	assert_int_equal(claim_open(name), -EADDRINUSE);
	claim_close(fd);
	claim_close(-1);
	fd = claim_open(name);
	assert_true(fd >= 0);
	claim_close(fd);
}

static void a_process_that_is_killed_has_none(void **state)
{
	char name[LONGEST + 1], c;
	int ends[2], fd, status;
	pid_t pid;

	own(name, "a");
	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		c = claim_open(name) >= 0 ? 'y' : 'n';
		if (write(ends[1], &c, 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(ends[0], &c, 1), 1);
	assert_int_equal(c, 'y');
	assert_int_equal(claim_open(name), -EADDRINUSE);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	fd = claim_open(name);
	assert_true(fd >= 0);
	claim_close(fd);
	close(ends[0]);
	close(ends[1]);
}

static void what_cannot_be_had(void **state)
{
	char name[LONGEST + 2];
	struct rlimit limit, none;
	int fd;

	memset(name, 'x', sizeof(name) - 1);
	name[LONGEST + 1] = '\0';
	assert_int_equal(claim_open(name), -ENAMETOOLONG);
	name[LONGEST] = '\0';
	fd = claim_open(name);
	assert_true(fd >= 0);
	claim_close(fd);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(claim_open(name), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_is_had_once),
		cmocka_unit_test(a_process_that_is_killed_has_none),
		cmocka_unit_test(what_cannot_be_had),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
