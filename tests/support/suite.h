/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each test program ends in: its tests, and the main() that runs them.
 *
 *	SUITE("name", a, b, EACH(c, table))
 *	SUITE_WITH("name", setup, teardown, a, b, TIMES(10, c))
 *
 * Each test runs in a process of its own, with setup() before and teardown() after it there; either
 * may be NULL.
 */
#ifndef TESTS_SUPPORT_SUITE_H
#define TESTS_SUPPORT_SUITE_H

#include <check.h>
#include <stddef.h>

/* What a test may take before it counts as hung; times $CK_TIMEOUT_MULTIPLIER. */
#define SUITE_TIMEOUT_S 120

#define SUITE(name, ...) SUITE_WITH(name, NULL, NULL, __VA_ARGS__)
#define SUITE_WITH(name, setup, teardown, ...)                                                   \
	int main(void)                                                                           \
	{                                                                                        \
		const TTest *const tests[] = {__VA_ARGS__};                                      \
                                                                                                 \
		return suite_main(name, setup, teardown, tests, sizeof(tests) / sizeof(*tests)); \
	}

/* A test that runs n times, with `_i` from 0; it counts as n tests. */
#define TIMES(n, test) &(const TTest){.line = (int)(n)}, test
/* The same, for each element of a table. */
#define EACH(test, table) TIMES(sizeof(table) / sizeof(*(table)), test)

/* An element without a name says how often the next one runs. */
int suite_main(const char *name, void (*setup)(void), void (*teardown)(void),
	       const TTest *const *tests, size_t n);

#endif
