/* base/check: a broken promise ends the program, says where, and does so in every build. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/base.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs `body` in a child. Returns its wait status; what it said on stderr is in `text`. */
static int run_apart(void (*body)(void), char *text, size_t cap)
{
	int fds[2], status;
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
		signal(SIGABRT, SIG_DFL);
		dup2(fds[1], STDERR_FILENO);
		body();
		_exit(0);
	}
	close(fds[1]);
	while ((n = read(fds[0], text + len, cap - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void keeps_promise(void)
{
	CHECK(1 + 1 == 2);
}

static void breaks_promise(void)
{
	CHECK(1 + 1 == 3);
}

static void patches_beyond_the_end(void)
{
	uint8_t raw[8];
	struct writer w = writer_of(raw, sizeof(raw));

	write_be16(&w, 1);
	writer_patch_be32(&w, 0, 1);
}

static void patches_across_the_end(void)
{
	uint8_t raw[8];
	struct writer w = writer_of(raw, sizeof(raw));

	write_be16(&w, 1);
	writer_patch_be16(&w, 1, 1);
}

static void true_goes_on(void **state)
{
	char text[512];

	assert_int_equal(run_apart(keeps_promise, text, sizeof(text)), 0);
	assert_string_equal(text, "");
}

static void false_aborts_and_says_where(void **state)
{
	char text[512];
	int status = run_apart(breaks_promise, text, sizeof(text));

	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
	assert_non_null(strstr(text, "check.c:"));
	assert_non_null(strstr(text, "breaks_promise: check failed: 1 + 1 == 3\n"));
}

static void a_patch_of_unwritten_bytes_is_a_bug(void **state)
{
	void (*const bugs[])(void) = {patches_beyond_the_end, patches_across_the_end};
	char text[512];

	for (unsigned i = 0; i < ARRAY_LEN(bugs); i++) {
		assert_true(WIFSIGNALED(run_apart(bugs[i], text, sizeof(text))));
		assert_non_null(strstr(text, "check failed"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(true_goes_on),
		cmocka_unit_test(false_aborts_and_says_where),
		cmocka_unit_test(a_patch_of_unwritten_bytes_is_a_bug),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
