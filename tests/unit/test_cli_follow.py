#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry save and ferry migrate while they wait for a process whose disk or peer hangs for ever."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
from tally import main  # noqa: E402 (the path comes first)
FERRY = os.environ.get("FERRY") or os.path.join(ROOT, "build", "ferry")


class Hanging:
    """A control socket behind which nothing ever gets done."""

    def __init__(self, path):
        self.asked = []
        self.connection = None
        self.mute = False
        self.changed = threading.Condition()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):  # the connection is cut
            self.serve()

    def serve(self):
        self.connection = self.listener.accept()[0]
        with self.connection, self.connection.makefile("rw") as lines:
            self.say(lines, {"QMP": {"version": {}, "capabilities": []}})
            for line in lines:
                command = json.loads(line)
                with self.changed:
                    self.asked.append(command["execute"])
                    self.changed.notify_all()
                answer = {}
                if command["execute"] == "query-migrate":
                    state = "cancelling" if "migrate_cancel" in self.asked else "active"
                    answer = {"status": state, "ram": {"total": 4096, "remaining": 4096}}
                if self.mute:
                    continue
                self.say(lines, {"return": answer, "id": command.get("id")})

    @staticmethod
    def say(lines, message):
        lines.write(json.dumps(message) + "\n")
        lines.flush()

    def wait_for(self, command, more=0):
        """The command has come, and so many others after it."""
        with self.changed:
            self.changed.wait_for(lambda: command in self.asked and
                                  len(self.asked) > self.asked.index(command) + more, 20)


class FollowTest(unittest.TestCase):
    def start(self, command):
        folder = tempfile.mkdtemp(prefix="ferry-follow-")
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "sock")
        there = Hanging(path)
        self.addCleanup(there.listener.close)
        to = {"save": [os.path.join(folder, "saved")], "migrate": ["tcp:127.0.0.1:1"], "cancel": []}
        process = subprocess.Popen([FERRY, command, path, *to[command]], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        there.wait_for("migrate_cancel" if command == "cancel" else "query-migrate")
        return process, there

    def test_the_second_ctrl_c_gives_up(self):
        for command in ("save", "migrate"):
            with self.subTest(command=command):
                process, there = self.start(command)
                process.send_signal(signal.SIGINT)
                there.wait_for("migrate_cancel", more=2)
                self.assertIsNone(process.poll())
                time.sleep(0.6)  # signals closer together are one wish
                process.send_signal(signal.SIGINT)
                out, _ = process.communicate(timeout=20)
                self.assertEqual(process.returncode, 3, out)
                self.assertIn("not waiting any longer", out)
                self.assertEqual(there.asked.count("migrate_cancel"), 1)

    def test_a_process_that_falls_silent(self):
        """Nobody knows then what becomes of the migration: that is no plain failure."""
        process, there = self.start("migrate")
        there.mute = True
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 3, out)
        self.assertIn("does not answer", out)
        self.assertIn("may go on", out)

    def test_a_process_that_ends(self):
        for command, part in (("save", "an earlier one"), ("migrate", "look at the destination"),
                              ("cancel", "closed the connection")):
            with self.subTest(command=command):
                process, there = self.start(command)
                there.connection.shutdown(socket.SHUT_RDWR)
                out, _ = process.communicate(timeout=20)
                self.assertEqual(process.returncode, 3, out)
                self.assertIn(part, out)

    def test_a_closed_terminal_cancels_nothing(self):
        for command, what in (("save", "save"), ("migrate", "migration")):
            with self.subTest(command=command):
                process, there = self.start(command)
                process.send_signal(signal.SIGHUP)
                out, _ = process.communicate(timeout=20)
                self.assertEqual(process.returncode, 3, out)
                self.assertIn(f"the {what} goes on", out)
                self.assertNotIn("migrate_cancel", there.asked)


if __name__ == "__main__":
    sys.exit(main())
