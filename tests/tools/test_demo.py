#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of what drives ferry (scripts/lib), with fake_ferry.py in its place."""

import os
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
LIB = os.path.join(HERE, "..", "..", "scripts", "lib")
FAKE = os.path.join(HERE, "fake_ferry.py")

os.environ["FERRY"] = FAKE
sys.path[:0] = [LIB, os.path.join(TESTS, "support")]
import ferrylab  # noqa: E402 (the environment comes first)
from tally import main  # noqa: E402


class DemoTest(unittest.TestCase):
    def demo(self, mode):
        """Run the demonstration; returns its exit status and output. It must leave nothing."""
        with tempfile.TemporaryDirectory() as scratch:
            env = {**os.environ, "FAKE_FERRY": mode, "TMPDIR": scratch}
            done = subprocess.run([sys.executable, os.path.join(LIB, "moveguest.py")], env=env,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  timeout=60, check=False)
            self.assertEqual(os.listdir(scratch), [], "left behind")
        return done.returncode, done.stdout

    def test_success(self):
        status, output = self.demo("")
        self.assertEqual(status, 0, output)
        for row in (r"total time +1\.23 s", r"passes +4\n", r"bytes sent +512\.0 MiB",
                    r"zero pages +20,000", r"engine measured it +5\.0 ms", r"guest saw it +5\.3 ms",
                    r"verdict +writer: verify ok"):
            self.assertRegex(output, row)

    def test_damage_is_reported(self):
        status, output = self.demo("damage")
        self.assertEqual(status, 1, output)
        self.assertIn("damaged", output)

    def test_refused_migration(self):
        status, output = self.demo("refuse")
        self.assertEqual(status, 1, output)
        self.assertIn("connection refused", output)

    def test_ferry_that_dies(self):
        status, output = self.demo("die")
        self.assertEqual(status, 1, output)
        self.assertIn("socket was closed", output)
        self.assertIn("'demo-src' ended with status 9: the fake ferry dies", output)
        self.assertIn("the guest's last line was: writer: blackout reset", output)


class LabTest(unittest.TestCase):
    def setUp(self):
        self.lab = ferrylab.Lab()
        self.addCleanup(self.lab.__exit__)

    def test_kill_on_exit(self):
        with ferrylab.Lab() as lab:
            pid = lab.start("one").pid
        self.assertFalse(os.path.exists(f"/proc/{pid}"))
        self.assertFalse(os.path.exists(lab.folder))

    def test_bounded_waits(self):
        ferry = self.lab.start("one")
        ferry.serial.expect("^writer: ready", 5)
        started = time.monotonic()
        with self.assertRaisesRegex(ferrylab.LabError, "never.*ready cpus=2"):
            ferry.serial.expect("never", 0.3)
        with self.assertRaisesRegex(ferrylab.LabError, "running, not paused"):
            ferry.wait_status("paused", 0.3)
        with self.assertRaisesRegex(ferrylab.LabError, "no event STOP"):
            ferry.qmp.wait_event("STOP", 0.3)
        self.assertLess(time.monotonic() - started, 5)

    def test_end_is_reported(self):
        ferry = self.lab.start("one")
        ferry.kill()
        with self.assertRaisesRegex(ferrylab.LabError, "'one' was killed by signal 9"):
            ferry.qmp.execute("query-status")

    def test_slow_end_is_reported(self):
        """A process that has closed its connections needs a moment to end."""
        ferry = self.lab.start("one")
        ferry.serial.expect("^writer: ready", 5)
        ferry.serial.send("q")  # shuts the connection, then ends
        with self.assertRaisesRegex(ferrylab.LabError, "ended with status 1.*writer: done ok"):
            ferry.serial.expect("never", 5)

    def test_stop(self):
        ferry = self.lab.start("one")
        ferry.stop()
        self.assertEqual(ferry.process.returncode, 0)

    def test_silent_control_socket(self):
        lab = ferrylab.Lab({**os.environ, "FAKE_FERRY": "silent"})
        self.addCleanup(lab.__exit__)
        saved, ferrylab.START_SECONDS = ferrylab.START_SECONDS, 1
        try:
            with self.assertRaisesRegex(ferrylab.LabError, "no answer"):
                lab.start("one")
        finally:
            ferrylab.START_SECONDS = saved


if __name__ == "__main__":
    sys.exit(main())
