# SPDX-License-Identifier: Apache-2.0
"""What the system tests share: a lab for each test, talking to guests, moving them."""

import os
import re
import socket
import subprocess
import sys
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path[:0] = [os.path.join(ROOT, "scripts", "lib"), os.path.join(ROOT, "tests", "support")]
import ferrylab  # noqa: E402 (the path comes first)
from ferrylab import FERRY, Lab, LabError, free_port, guest  # noqa: E402,F401
from tally import main  # noqa: E402,F401

KVM_PROBLEM = ferrylab.kvm_problem()
GUEST_SECONDS = 60    # for an answer of a guest, on a machine that is busy with other things
MIGRATE_SECONDS = 60
SMALL = {"mem": "64M", "extra": ["--debug-exit"]}  # a machine for a guest that needs little
WRITER = "size=32M rate=1000"
# What query-migrate-parameters says where nothing was set.
PARAMETERS = {"max-bandwidth": 0, "downtime-limit": 300, "multifd-channels": 2,
              "multifd-compression": "none", "direct-io": False, "x-ferry-on-demand": False,
              "throttle-trigger-threshold": 50, "max-cpu-throttle": 99, "vcpu-dirty-limit": 1,
              "x-converge-time": 0}


def fields(line):
    """The key=value pairs of a guest's line."""
    return dict(re.findall(r"(\S+?)=(\S+)", line))


def words(line):
    """The same, numbers as numbers."""
    return {key: int(value) for key, value in fields(line).items() if value.isdigit()}


class SystemTest(unittest.TestCase):
    """Each test has a lab of its own, which ends everything that was started in it."""

    def setUp(self):
        if KVM_PROBLEM:
            self.skipTest(KVM_PROBLEM)
        self.lab = Lab()
        self.addCleanup(self.lab.__exit__)

    # ---- starting ----

    def boot(self, name, kernel="writer", cmdline=None, cpus=1, **options):
        """
        Start a guest; returns it when it has said its first line. It does not run before its
        control and serial connections are made: some guests end soon.
        """
        line = f"cpus={cpus}" + (f" {cmdline}" if cmdline else "")
        options = {**SMALL, **options}
        options["extra"] = [*options["extra"], "--paused"]
        ferry = self.lab.start(name, kernel=guest(kernel), cmdline=line, cpus=cpus, **options)
        self.assertIsNotNone(ferry.serial)
        ferry.qmp.execute("cont")
        ferry.qmp.wait_event("RESUME", 10)
        ferry.serial.expect(rf"^{kernel}: start", GUEST_SECONDS)
        return ferry

    def writer(self, name="src", cmdline=WRITER, **options):
        ferry = self.boot(name, "writer", cmdline, **options)
        ferry.serial.expect(r"^writer: ready", GUEST_SECONDS)
        return ferry

    def wait_at(self, name="dst", **options):
        """Start a destination; returns it and the URI at which it waits."""
        uri = f"tcp:127.0.0.1:{free_port()}"
        return self.lab.start(name, **{**SMALL, "incoming": uri, **options}), uri

    def ferry(self, *arguments, status=0, timeout=60):
        """Run a ferry command to its end; checks its exit status, returns its whole output."""
        done = subprocess.run([FERRY, *arguments], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
                              preexec_fn=ferrylab.die_with_parent, check=False)
        self.assertEqual(done.returncode, status, f"ferry {' '.join(arguments)}: {done.stdout}")
        return done.stdout

    # ---- talking to guests ----

    def ask(self, ferry, command, answer):
        """Send a command byte; returns the line of the answer."""
        ferry.serial.send(command)
        return ferry.serial.expect(answer, GUEST_SECONDS).string

    def verify(self, ferry, name="writer"):
        """Have the guest check itself; returns the figures of its answer."""
        line = self.ask(ferry, "v", rf"^{name}: (verify|FAILED)")
        self.assertRegex(line, rf"^{name}: verify ok")
        return words(line)

    def wait_writes(self, ferry, more):
        """Wait until the writer has written so many more pages."""
        deadline = time.monotonic() + GUEST_SECONDS
        first = None
        while True:
            writes = words(self.ask(ferry, "s", r"^writer: status"))["writes"]
            first = writes if first is None else first
            if writes >= first + more:
                return
            self.assertLess(time.monotonic(), deadline, "the guest writes no more")
            time.sleep(0.02)

    def verify_lives(self, ferry):
        """The writer runs here, has all its pages, and goes on writing."""
        self.verify(ferry)
        self.wait_writes(ferry, 1)

    def finish(self, ferry, name="writer"):
        """Have the guest leave, content."""
        self.ask(ferry, "q", rf"^{name}: done ok")
        self.assertEqual(ferry.wait(GUEST_SECONDS), 1)  # debug exit value 0

    # ---- migrations ----

    def query(self, ferry):
        return ferry.qmp.execute("query-migrate")

    def begin(self, source, uri, **parameters):
        """Begin a migration; returns when RAM moves."""
        if parameters:
            source.qmp.execute("migrate-set-parameters", **parameters)
        source.qmp.execute("migrate", uri=uri)
        deadline = time.monotonic() + MIGRATE_SECONDS
        while True:
            info = self.query(source)
            if info["status"] != "setup":
                self.assertEqual(info["status"], "active", info)
                if info["ram"]["transferred"]:
                    return
            self.assertLess(time.monotonic(), deadline, info)
            time.sleep(0.01)

    def ended(self, ferry, timeout=MIGRATE_SECONDS):
        """Wait for the end of a source's migration, whatever it is; returns query-migrate."""
        return ferry.wait_migration(timeout, ("completed", "failed", "cancelled", "undecided"))

    def wait_dest(self, ferry, wanted, timeout=MIGRATE_SECONDS):
        """Wait until a destination's query-migrate has one of these states."""
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        while True:
            info = self.query(ferry)
            if info["status"] in wanted:
                return info
            self.assertLess(time.monotonic(), deadline, info)
            time.sleep(0.02)

    def assert_failed(self, source, reason, status="failed"):
        """The migration has failed for that reason, and the writer runs on at the source."""
        info = self.ended(source)
        self.assertEqual(info["status"], status, info)
        self.assertRegex(info["error-desc"], reason)
        self.assertIn("keeps running here", info["error-desc"])
        self.assertEqual(source.status(), "running")
        return info

    def assert_gone(self, source):
        """The guest has left this side for good."""
        self.assertEqual(source.status(), "postmigrate")
        answer = source.qmp.try_execute("cont")
        self.assertIn("handed over", answer["error"]["desc"])
        self.assertEqual(source.status(), "postmigrate")

    def assert_waits(self, destination):
        """No guest runs at the destination, and nobody can make one run."""
        self.assertEqual(destination.status(), "inmigrate")
        self.assertIn("error", destination.qmp.try_execute("cont"))
        self.assertEqual(destination.status(), "inmigrate")

    def move(self, source, destination, uri, wait=MIGRATE_SECONDS):
        """Migrate to the end; returns the source's last query-migrate."""
        info = source.migrate(uri, wait)
        self.assert_gone(source)
        destination.wait_status("running", 10)
        self.wait_dest(destination, "completed")
        return info


def listener():
    """A listening socket and its URI."""
    sock = socket.create_server(("127.0.0.1", 0))
    return sock, f"tcp:127.0.0.1:{sock.getsockname()[1]}"


def port_of(uri):
    return int(uri.rpartition(":")[2])
