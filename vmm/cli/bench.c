/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ferry bench is a program in Python (scripts/bench) that lies beside this one: this only finds it
 * and becomes it.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cli.h"

#define PYTHON "python3"

/* Below the directory of the program: in a build directory (a link to the source), installed. */
static const char *const places[] = {"bench", "../libexec/ferry/bench"};

/* The directory of this very program, without a '/' at its end. */
static int own_directory(char self[PATH_MAX], char dir[PATH_MAX], struct err *e)
{
	ssize_t n = readlink("/proc/self/exe", self, PATH_MAX - 1);
	char *slash;

	if (n < 0)
		return err_sys(e, errno, "cannot find out where this program is");
	self[n] = '\0';
	memcpy(dir, self, (size_t)n + 1);
	slash = strrchr(dir, '/');
	if (!slash)
		return err_set(e, ENOENT, "this program has no directory");
	*slash = '\0';
	return 0;
}

static int find_harness(const char *dir, char path[PATH_MAX], struct err *e)
{
	char program[PATH_MAX];

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		int n = snprintf(path, PATH_MAX, "%s/%s", dir, places[i]);
		int m = snprintf(program, PATH_MAX, "%s/%s/__main__.py", dir, places[i]);

		if (n > 0 && m > 0 && m < PATH_MAX && !access(program, R_OK))
			return 0;
	}
	return err_set(e, ENOENT,
		       "the benchmark's own program is neither in %s/%s nor in %s/%s: 'make' and "
		       "'make install' put it there",
		       dir, places[0], dir, places[1]);
}

int cli_bench(int argc, char *const *argv)
{
	char self[PATH_MAX], dir[PATH_MAX], path[PATH_MAX];
	/* Isolated: nothing of the environment or the current directory is taken for a module. */
	char python[] = PYTHON, isolated[] = "-I", no_pyc[] = "-B";
	struct err e = ERR_INIT;
	char **words;

	if (own_directory(self, dir, &e) || find_harness(dir, path, &e))
		return cli_failed(&e);
	words = calloc((size_t)argc + 5, sizeof(*words));
	if (!words || setenv("FERRY", self, 1)) {
		free(words);
		(void)err_set(&e, ENOMEM, "out of memory");
		return cli_failed(&e);
	}
	words[0] = python;
	words[1] = isolated;
	words[2] = no_pyc;
	words[3] = path;
	memcpy(words + 4, argv, (size_t)argc * sizeof(*words));
	(void)execvp(PYTHON, words);
	if (errno == ENOENT)
		(void)err_set(&e, ENOENT,
			      "ferry bench needs " PYTHON " (3.11 or later), which is "
			      "not installed");
	else
		(void)err_sys(&e, errno, "cannot start " PYTHON);
	free(words);
	return cli_failed(&e);
}
