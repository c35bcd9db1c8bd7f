/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "tests/support/suite.h"

int suite_main(const char *name, void (*setup)(void), void (*teardown)(void),
	       const TTest *const *tests, size_t n)
{
	Suite *s = suite_create(name);
	TCase *c = tcase_create(name);
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, SUITE_TIMEOUT_S);
	for (size_t i = 0; i < n; i++) {
		int times = 1;

		if (!tests[i]->name)
			times = tests[i++]->line;
		tcase_add_loop_test(c, tests[i], 0, times);
	}
	suite_add_tcase(s, c);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
