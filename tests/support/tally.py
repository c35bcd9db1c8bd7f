# SPDX-License-Identifier: Apache-2.0
"""What each test program in Python ends in."""

import signal
import sys
import unittest


def main(problem=None):
    """
    Run the tests of the calling program, none if there is a problem; the last line is the tally.
    Returns the exit status.
    """
    def stop(number, _frame):
        raise SystemExit(128 + number)

    if problem:
        tests = unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"])
        print(f"SKIP {problem}")
        print(f"0 passed, 0 failed, {tests.countTestCases()} skipped")
        return 0
    signal.signal(signal.SIGTERM, stop)
    result = unittest.main(verbosity=0, exit=False).result
    bad = [test for test, _text in result.failures + result.errors]
    failed = len({getattr(test, "test_case", test) for test in bad})  # whatever parts of it did
    sys.stderr.flush()
    for reason in dict.fromkeys(reason for _test, reason in result.skipped):
        print(f"SKIP {reason}")
    passed = max(result.testsRun - failed - len(result.skipped), 0)  # a class's set-up is no test
    print(f"{passed} passed, {failed} failed, {len(result.skipped)} skipped")
    return 1 if failed else 0
