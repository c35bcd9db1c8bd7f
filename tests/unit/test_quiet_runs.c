/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tests that expect warnings hide (tests/unit/support/synth.h): warnings, and never what a
 * sanitizer reports.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/support/suite.h"
#include "tests/unit/support/synth.h"

#ifdef __has_feature
#define SANITIZES(what) __has_feature(what)
#else
#define SANITIZES(what) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || SANITIZES(address_sanitizer)
#define REPORT "ERROR: AddressSanitizer: heap-buffer-overflow"
#define PLACE  16
#elif defined(__SANITIZE_THREAD__) || SANITIZES(thread_sanitizer)
#define REPORT "WARNING: ThreadSanitizer: data race"
#define PLACE  15
#endif

#define TEXT_BYTES 65536

/* As a test's process: what it does after synth_quiet(). All of its stderr, and how it ended. */
static int run_quietly(void (*act)(void), char text[TEXT_BYTES])
{
	size_t len = 0;
	ssize_t n = 1;
	int ends[2], status;
	pid_t pid;

	ck_assert_int_eq(pipe(ends), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid) {
		(void)dup2(ends[1], STDERR_FILENO);
		(void)close(ends[1]);
		(void)close(ends[0]);
		synth_quiet();
		pid = fork(); /* as Check does */
		if (!pid) {
			act();
			exit(EXIT_SUCCESS);
		}
		(void)waitpid(pid, &status, 0);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE);
	}
	(void)close(ends[1]);
	while (n && len < TEXT_BYTES - 1) {
		n = read(ends[0], text + len, TEXT_BYTES - 1 - len);
		ck_assert(n >= 0 || errno == EINTR);
		len += n > 0 ? (size_t)n : 0;
	}
	text[len] = '\0';
	(void)close(ends[0]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

#ifdef REPORT

static volatile size_t place = PLACE;

static void *add_one(void *bytes)
{
	((volatile char *)bytes)[place]++;
	return NULL;
}

/* Two threads at a time, and behind the end if it is that what would be found. */
static void err_badly(void)
{
	char *volatile bytes = calloc(1, 16);
	pthread_t thread;

	if (!bytes || pthread_create(&thread, NULL, add_one, bytes))
		exit(EXIT_SUCCESS);
	(void)add_one(bytes);
	(void)pthread_join(thread, NULL);
	free(bytes);
}

START_TEST(reports_are_seen)
{
	char text[TEXT_BYTES];
	int status = run_quietly(err_badly, text);

	ck_assert_int_ne(status, 0);
	ck_assert_msg(strstr(text, REPORT) != NULL, "%s", text);
}
END_TEST

#else

static void warn(void)
{
	log_warn("nobody wants to see this");
}

START_TEST(warnings_are_not)
{
	char text[TEXT_BYTES];

	ck_assert_int_eq(run_quietly(warn, text), 0);
	ck_assert_str_eq(text, "");
}
END_TEST

#endif

#ifdef REPORT
SUITE("quiet runs", reports_are_seen)
#else
SUITE("quiet runs", warnings_are_not)
#endif
