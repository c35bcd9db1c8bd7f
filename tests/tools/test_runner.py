#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of tests/run-tests, and of the scripts that check the tree."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
from tally import main  # noqa: E402 (the path comes first)
RUNNER = os.path.join(ROOT, "tests", "run-tests")
INCLUDES = os.path.join(ROOT, "scripts", "check-includes")


class RunnerTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = scratch.name

    def program(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)
        return path

    def script(self, name, body):
        return self.program(name, "#!/bin/sh\n" + body)

    def run_tests(self, *args):
        """Run the runner; returns its exit status, its last line and all of its output."""
        done = subprocess.run([sys.executable, RUNNER, *args], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        return done.returncode, done.stdout.splitlines()[-1], done.stdout

    def expect(self, status, last, *args):
        got_status, got_last, output = self.run_tests(*args)
        self.assertEqual((got_status, got_last), (status, last), output)
        return output

    def test_check_summary(self):
        path = self.script("t", "echo 'Running suite(s): x'\n"
                                "echo '100%: Checks: 7, Failures: 0, Errors: 0'\n")
        self.expect(0, "7 passed, 0 failed, 0 skipped", path)

    def test_check_failures_and_errors(self):
        path = self.script("t", "echo '50%: Checks: 6, Failures: 2, Errors: 1'\n"
                                "echo 'a.c:3:F:core:adds: the reason'\nexit 1\n")
        output = self.expect(1, "3 passed, 3 failed, 0 skipped", path)
        self.assertIn("the reason", output)

    def test_skip_lines(self):
        path = self.script("t", "echo 'SKIP no huge pages'\n"
                                "echo '100%: Checks: 3, Failures: 0, Errors: 0'\n")
        output = self.expect(0, "2 passed, 0 failed, 1 skipped", path)
        self.assertIn("no huge pages", output)

    def test_python_tally(self):
        path = self.program("t.py", "print('2 passed, 0 failed, 1 skipped')\n")
        self.expect(0, "2 passed, 0 failed, 1 skipped", path)

    def test_python_main(self):
        """One test with two bad parts, one that is good; and a class whose set-up failed."""
        head = (f"import sys, unittest\nsys.path.insert(0, {os.path.join(ROOT, 'tests', 'support')!r})\n"
                "from tally import main\nclass T(unittest.TestCase):\n")
        tests = ("    def test_a(self):\n        for i in (1, 2):\n            with self.subTest(i=i):\n"
                 "                self.fail()\n    def test_b(self):\n        pass\n")
        path = self.program("a.py", head + tests + "sys.exit(main())\n")
        self.expect(1, "1 passed, 1 failed, 0 skipped", path)
        broken = "    @classmethod\n    def setUpClass(cls):\n        raise OSError\n"
        path = self.program("b.py", head + broken + tests + "sys.exit(main())\n")
        self.expect(1, "0 passed, 1 failed, 0 skipped", path)
        path = self.program("c.py", head + tests + "sys.exit(main('no cellar'))\n")
        self.assertIn("no cellar", self.expect(0, "0 passed, 0 failed, 2 skipped", path))

    def test_crash_is_a_failure(self):
        path = self.script("t", "echo '100%: Checks: 7, Failures: 0, Errors: 0'\nkill -SEGV $$\n")
        output = self.expect(1, "0 passed, 1 failed, 0 skipped", path)
        self.assertIn("SIGSEGV", output)

    def test_no_summary_is_a_failure(self):
        self.expect(1, "0 passed, 1 failed, 0 skipped", self.script("t", "echo fine\n"))

    def test_no_test_at_all_is_a_failure(self):
        path = self.script("t", "echo '100%: Checks: 0, Failures: 0, Errors: 0'\n")
        self.expect(1, "0 passed, 1 failed, 0 skipped", path)

    def test_error_status_is_a_failure(self):
        path = self.script("t", "echo '100%: Checks: 7, Failures: 0, Errors: 0'\nexit 3\n")
        self.expect(1, "0 passed, 1 failed, 0 skipped", path)

    def test_missing_program_is_a_failure(self):
        self.expect(1, "0 passed, 1 failed, 0 skipped", os.path.join(self.dir, "absent"))

    def test_nothing_to_run(self):
        self.expect(1, "0 passed, 0 failed, 0 skipped")

    def test_timeout_kills_all_that_was_started(self):
        pids = os.path.join(self.dir, "pids")
        path = self.script("t", f"setsid sleep 60 &\necho $! >>{pids}\n"
                                f"sleep 60 &\necho $! >>{pids}\nwait\n")
        started = time.monotonic()
        output = self.expect(1, "0 passed, 1 failed, 0 skipped", "--timeout", "1", path)
        self.assertLess(time.monotonic() - started, 20)
        self.assertIn("timed out", output)
        with open(pids, encoding="ascii") as file:
            for pid in file.read().split():
                self.assertFalse(runs(pid), f"process {pid} was left behind")

    def test_leftovers_are_killed_after_success(self):
        pids = os.path.join(self.dir, "pids")
        path = self.script("t", f"sleep 60 &\necho $! >>{pids}\n"
                                "echo '100%: Checks: 1, Failures: 0, Errors: 0'\n")
        self.expect(0, "1 passed, 0 failed, 0 skipped", path)
        with open(pids, encoding="ascii") as file:
            self.assertFalse(runs(file.read().strip()))

    def test_interrupted_run_ends_its_programs(self):
        pids = os.path.join(self.dir, "pids")
        path = self.script("t", f"echo $$ >>{pids}\nexec sleep 60\n")
        with subprocess.Popen([sys.executable, RUNNER, path], stdout=subprocess.DEVNULL) as runner:
            for _ in range(200):
                if os.path.exists(pids) and os.path.getsize(pids):
                    break
                time.sleep(0.05)
            runner.send_signal(signal.SIGTERM)
            self.assertNotEqual(runner.wait(20), 0)
        with open(pids, encoding="ascii") as file:
            self.assertFalse(runs(file.read().strip()))

    def test_budget(self):
        slow = self.script("a", "sleep 3\necho '100%: Checks: 1, Failures: 0, Errors: 0'\n")
        output = self.expect(1, "0 passed, 2 failed, 0 skipped", "--budget", "1.5", slow, slow)
        self.assertIn("not started", output)

    def test_missing_device_skips(self):
        path = self.script("t", "exit 1\n")
        output = self.expect(0, "0 passed, 0 failed, 2 skipped", "--need",
                             os.path.join(self.dir, "no-device"), path, path)
        self.assertIn("no-device: No such file", output)

    def test_sum_over_programs(self):
        good = self.script("a", "echo '100%: Checks: 2, Failures: 0, Errors: 0'\n")
        bad = self.script("b", "echo '0%: Checks: 1, Failures: 1, Errors: 0'\nexit 1\n")
        other = self.program("c.py", "print('1 passed, 0 failed, 4 skipped')\n")
        self.expect(1, "3 passed, 1 failed, 4 skipped", "--jobs", "3", good, bad, other)


class IncludesTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = scratch.name

    def check(self, **files):
        """Check a tree of files given as room__name=text; returns exit status and output."""
        for name, text in files.items():
            path = os.path.join(self.dir, *name.split("__")) + ".c"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        done = subprocess.run([sys.executable, INCLUDES, "--root", self.dir], timeout=60,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        return done.returncode, done.stdout

    def test_allowed(self):
        status, output = self.check(mem__a='#include "base/err.h"\n#include "mem/b.h"\n',
                                    kvm__a='#include <linux/kvm.h>\n#include "mem/b.h"\n',
                                    vmm__a='#include "kvm/vm.h"\n#include "guest/abi.h"\n',
                                    tests__unit__a='#include <linux/kvm.h>\n#include "vmm/x.h"\n')
        self.assertEqual(status, 0, output)

    def test_wrong_direction(self):
        status, output = self.check(base__a='#include <stdio.h>\n\n#include "mem/ram.h"\n')
        self.assertEqual(status, 1)
        self.assertRegex(output, r"base/a\.c:3: .*mem/ram\.h")

    def test_kvm_only_in_kvm(self):
        status, output = self.check(vmm__a="#include <linux/kvm.h>\n",
                                    migration__a="int f(int x)\n{\n\treturn ioctl(x, KVM_RUN, 0);\n}\n")
        self.assertEqual(status, 1)
        self.assertRegex(output, r"vmm/a\.c:1: ")
        self.assertRegex(output, r"migration/a\.c:3: .*KVM_RUN")

    def test_comments_and_strings_do_not_count(self):
        status, output = self.check(vmm__a='/* KVM_RUN\n * KVM_RUN */\n// KVM_RUN\n'
                                           'char *s = "ioctl KVM_RUN";\n')
        self.assertEqual(status, 0, output)

    def test_long_file(self):
        status, output = self.check(vmm__a="int x;\n" * 601)
        self.assertEqual(status, 1)
        self.assertRegex(output, r"vmm/a\.c:601: ")


def runs(pid):
    """Whether the process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return not re.search(r"\) [ZX] ", file.read())
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
