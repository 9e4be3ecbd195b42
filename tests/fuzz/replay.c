/*
 * The main() of a harness where there is no libFuzzer: gives it each file that is named, and each file
 * of folders that are named. So the corpora are tests like others, under every sanitizer and compiler.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

#define PATH_BYTES 4096

static unsigned replayed;

static int replay_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	static uint8_t buf[1 << 20];
	uint8_t *exact;
	size_t len;

	if (f == NULL) {
		perror(path);
		return 1;
	}
	len = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	/* Its own memory, as libFuzzer does it: a read past its end is seen. */
	exact = malloc(len + 1);
	CHECK(exact != NULL);
	memcpy(exact, buf, len);
	printf("%s\n", path);
	fflush(stdout);
	(void)LLVMFuzzerTestOneInput(exact, len);
	free(exact);
	replayed++;
	return 0;
}

static int replay(const char *path)
{
	char file[PATH_BYTES];
	struct dirent *entry;
	DIR *dir = opendir(path);
	int err = 0;

	if (dir == NULL)
		return replay_file(path);
	while ((entry = readdir(dir)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		str_format(file, sizeof(file), "%s/%s", path, entry->d_name);
		err |= replay_file(file);
	}
	closedir(dir);
	return err;
}

int main(int argc, char **argv)
{
	int err = 0;

	for (int i = 1; i < argc; i++)
		err |= replay(argv[i]);
	printf("%u inputs\n", replayed);
	return err != 0 || replayed == 0;
}
