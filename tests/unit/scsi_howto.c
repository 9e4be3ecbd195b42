/*
 * The code in docs/howto/add-a-scsi-command.md is code of the tree.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tree, from the path that this file was compiled by. */
static char *read_file(const char *name)
{
	char path[512];
	const size_t tail = strlen("tests/unit/scsi_howto.c");
	char *text = calloc(1, 1 << 20);
	FILE *f;

	snprintf(path, sizeof(path), "%.*s%s", (int)(strlen(__FILE__) - tail), __FILE__, name);
	f = fopen(path, "r");
	if (f == NULL)
		fail_msg("%s cannot be read", path);
	assert_true(fread(text, 1, (1 << 20) - 1, f) > 0);
	fclose(f);
	return text;
}

static void each_piece_of_code_is_in_the_tree(void **state)
{
	char *page = read_file("docs/howto/add-a-scsi-command.md");
	char *commands = read_file("src/scsi/commands.def"), *sbc = read_file("src/scsi/cmd_sbc.c");
	char *rw = read_file("src/scsi/cmd_rw.c");
	unsigned pieces = 0;

	for (char *p = page; (p = strstr(p, "```c\n")) != NULL; pieces++) {
		char *end;

		p += strlen("```c\n");
		end = strstr(p, "```");
		assert_non_null(end);
		*end = 0;
		if (strstr(commands, p) == NULL && strstr(sbc, p) == NULL && strstr(rw, p) == NULL)
			fail_msg("not in the tree:\n%s", p);
		p = end + 3;
	}
	assert_int_equal(pieces, 4);
	free(page);
	free(commands);
	free(sbc);
	free(rw);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_piece_of_code_is_in_the_tree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
