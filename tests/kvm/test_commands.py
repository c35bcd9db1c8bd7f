#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the commands do and say when things do not go as wished."""

import json
import os
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from support_system import FERRY, PARAMETERS, SMALL, SystemTest, ferrylab, guest, main

SLOW = ("--max-bandwidth", "1M")


class MigrateTest(SystemTest):
    def begin_command(self, source, uri, *options):
        """`ferry migrate` in the background, returned when RAM moves."""
        process = subprocess.Popen(
            [FERRY, "migrate", source.control_path, uri, *SLOW, *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=ferrylab.die_with_parent)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 20
        while self.query(source).get("status") != "active":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        return process

    def parameters(self, vm):
        return vm.qmp.execute("query-migrate-parameters")

    def test_options_are_of_one_migration(self):
        source = self.writer(cmdline="size=32M rate=1000")
        destination, uri = self.wait_at()
        process = self.begin_command(source, uri, "--downtime-limit", "77")
        self.assertEqual(self.parameters(source),
                         {**PARAMETERS, "max-bandwidth": 1 << 20, "downtime-limit": 77})
        # Refused, for one is under way, this changes nothing of that one.
        out = self.ferry("migrate", source.control_path, uri, status=1)
        self.assertIn("under way", out)
        self.assertEqual(self.parameters(source),
                         {**PARAMETERS, "max-bandwidth": 1 << 20, "downtime-limit": 77})
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        # Without options the next one has the defaults.
        self.ferry("migrate", source.control_path, uri)
        self.assertEqual(self.parameters(source), PARAMETERS)
        self.assertEqual(destination.status(), "running")

    def test_refused_parameters(self):
        source = self.writer()
        for bad in ({"downtime_limit": 0}, {"max_bandwidth": -1}):
            answer = source.qmp.try_execute("migrate", uri="tcp:127.0.0.1:1", **bad)
            self.assertIn(next(iter(bad)).replace("_", "-"), answer["error"]["desc"])
        source.qmp.try_execute("migrate", uri="udp:1", downtime_limit=5)
        self.assertEqual(self.parameters(source), PARAMETERS)

    def test_guest_that_ends_meanwhile(self):
        """A migration that its guest's end has cancelled does not say that the guest lives."""
        ballast = self.lab.path("ballast")  # something to send slowly
        with open(ballast, "wb") as file:
            file.write(os.urandom(8 << 20))
        source = self.lab.start("src", kernel=guest("crash"), cmdline="how=badinsn", mem="64M",
                                extra=["--debug-exit", "--paused", "--initrd", ballast])
        _, uri = self.wait_at()
        process = self.begin_command(source, uri)
        source.qmp.execute("cont")
        try:
            source.wait_status("internal-error", 10)
        except ferrylab.LabError:
            self.skipTest("this KVM emulates, or runs, the instruction")
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 1, err)
        self.assertIn("has ended", err)
        self.assertNotIn("keeps running", err)

    def test_process_that_ends_meanwhile(self):
        """It cancels what goes out, and who follows that is told what came of it."""
        for end in ("reset", signal.SIGTERM):
            with self.subTest(end=end):
                ballast = self.lab.path("ballast")
                with open(ballast, "wb") as file:
                    file.write(os.urandom(8 << 20))
                source = self.lab.start(f"src{end}", kernel=guest("crash"), cmdline="how=reset",
                                        mem="64M", extra=["--paused", "--initrd", ballast])
                destination, uri = self.wait_at(f"dst{end}")
                process = self.begin_command(source, uri)
                if end == "reset":
                    source.qmp.execute("cont")
                else:
                    os.kill(source.pid, end)
                out, err = process.communicate(timeout=20)
                self.assertEqual(process.returncode, 1, out + err)
                self.assertIn("the migration was cancelled, for the guest", err)
                self.assertIn("guest has ended" if end == "reset" else "was ended", err)
                self.assert_waits(destination)

    def test_source_that_ends_meanwhile(self):
        for options in ((), ("--json",)):
            with self.subTest(options=options):
                source = self.writer(f"src{len(options)}", cmdline="size=32M rate=1000")
                _, uri = self.wait_at(f"dst{len(options)}")
                process = self.begin_command(source, uri, *options)
                source.kill()
                out, err = process.communicate(timeout=20)
                self.assertEqual(process.returncode, 3, err)
                self.assertIn("source process ended before it said", err)
                self.assertIn("look at the destination", err)
                if options:
                    last = json.loads(out.splitlines()[-1])
                    self.assertEqual(last["event"], "done")
                    self.assertIn("source process ended", last["error"])

    def test_cancel_that_is_not_confirmed(self):
        source = self.writer(cmdline="size=32M rate=1000")
        _, uri = self.wait_at()
        process = self.begin_command(source, uri)
        os.kill(source.pid, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        source.kill()
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 3, err)

    def test_adjust(self):
        source = self.writer(cmdline="size=32M rate=1000")
        destination, uri = self.wait_at()
        self.assertIn("not being moved",
                      self.ferry("adjust", source.control_path, "--max-bandwidth", "2M", status=1))
        process = self.begin_command(source, uri)
        self.assertIn("adjust what", self.ferry("adjust", source.control_path, status=2))
        self.ferry("adjust", source.control_path, "--downtime-limit", "500")
        self.assertEqual(self.parameters(source),
                         {**PARAMETERS, "max-bandwidth": 1 << 20, "downtime-limit": 500})
        self.ferry("adjust", source.control_path, "--max-bandwidth", "0")
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertIn("limit 500 ms", out)
        self.assertEqual(destination.status(), "running")

    def test_cancel_says_what_came_of_it(self):
        source = self.writer(cmdline="size=32M rate=1000")
        destination, uri = self.wait_at()
        self.assertIn("nothing to cancel", self.ferry("cancel", source.control_path))
        self.assertIn("nothing to cancel", self.ferry("cancel", destination.control_path))
        process = self.begin_command(source, uri)
        out = self.ferry("cancel", destination.control_path, status=1)
        self.assertIn("cancelled where the guest is", out)
        self.assertIn("keeps running here", self.ferry("cancel", source.control_path))
        self.assertEqual(self.query(source)["status"], "cancelled")
        process.communicate(timeout=20)
        self.ferry("migrate", source.control_path, uri)
        out = self.ferry("cancel", source.control_path, status=1)
        self.assertIn(f"too late to cancel: the guest has moved to {uri}", out)

    def test_hang_up(self):
        source = self.writer(cmdline="size=32M rate=1000")
        _, uri = self.wait_at()
        process = self.begin_command(source, uri, "--json")
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 3, err)
        self.assertIn("the migration goes on", err)
        self.assertIn("goes on", json.loads(out.splitlines()[-1])["error"])
        self.assertEqual(self.query(source)["status"], "active")

    def test_failure_in_json(self):
        source = self.writer()
        out = self.ferry("migrate", source.control_path, "tcp:127.0.0.1:1", "--json", status=1)
        self.assertEqual(json.loads(out.splitlines()[-2])["status"], "failed")
        out = self.ferry("migrate", "no-such-guest", "tcp:127.0.0.1:1", "--json", status=1)
        self.assertIn("no-such-guest", json.loads(out.splitlines()[0])["error"])

    def test_status_keeps_the_figures(self):
        source = self.writer()
        destination, uri = self.wait_at()
        self.ferry("migrate", source.control_path, uri)
        self.assertRegex(self.ferry("status", source.control_path),
                         r"(?s)migration +completed to .*\ndowntime +\d+\.\d+ ms \(predicted")
        self.assertNotIn("downtime", self.ferry("status", destination.control_path))

    def test_arguments_that_are_no_text(self):
        source = self.writer()
        control = source.control_path
        for arguments in (("migrate", control, b"unix:/tmp/\xff"),
                          ("cont", control, "--token", b"\xff")):
            done = subprocess.run([FERRY, *arguments], stdin=subprocess.DEVNULL,
                                  capture_output=True, timeout=20, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(b"UTF-8", done.stderr)


class RunTest(SystemTest):
    def start(self, name, *options, **environment):
        process = subprocess.Popen(
            [FERRY, "run", "--name", name, "--kernel", guest("idle"), "--mem", "64M", *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": self.lab.folder, **environment},
            preexec_fn=ferrylab.die_with_parent)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def failure(self, *options):
        process = self.start("failing", *options)
        out = process.communicate(timeout=20)[0]
        self.assertEqual(process.returncode, 1, out)
        return out

    def test_quit_waits_for_the_end(self):
        """When `ferry quit` is done the name is free, and the process about gone."""
        control = self.lab.path("vm")
        for _ in range(10):
            process = self.start("vm", "--control", control, "--serial", "none")
            ferrylab.Qmp(control, 20).close()
            self.ferry("quit", control)
            self.assertFalse(os.path.exists(control))
            self.assertEqual(process.wait(1), 0)

    def test_quit_while_a_migration_is_cancelled(self):
        source = self.writer(cmdline="size=32M rate=1000")
        _, uri = self.wait_at()
        self.begin(source, uri, max_bandwidth=1 << 20)
        self.ferry("quit", source.control_path)
        self.assertEqual(source.wait(1), 0)

    def test_where_the_serial_port_is(self):
        control = self.lab.path("vm")
        for backend, said in (("pty", "ferry: serial port: pty:/dev/pts/"),
                              ("unix:" + self.lab.path("ser"), "serial port: unix:/"),
                              ("none", None)):
            process = self.start("vm", "--control", control, "--serial", backend)
            ferrylab.Qmp(control, 20).close()
            self.ferry("quit", control)
            out = process.communicate(timeout=10)[0]
            self.assertIn(said, out) if said else self.assertNotIn("serial port", out)

    def test_control_in_use(self):
        vm = self.lab.start("taken", kernel=guest("idle"), **SMALL)
        out = self.failure("--control", vm.control_path)
        self.assertIn("another --control", out)
        self.assertNotIn("--name", out)

    @unittest.skipUnless(os.geteuid() == 0, "as root only")
    def test_refusals_are_explained(self):
        out = self.failure("--incoming", "tcp:127.0.0.1:80", "--serial", "none")
        if "Permission denied" not in out:
            self.skipTest("ports below 1024 are open to all here")
        self.assertIn("ports below 1024", out)
        self.assertNotIn("--user", out)
        closed = self.lab.path("closed")
        os.mkdir(closed, 0o700)
        os.chown(closed, 65534, 65534)
        out = self.failure("--control", os.path.join(closed, "s"))
        self.assertIn("Permission denied", out)
        self.assertIn("--user", out)

    @unittest.skipUnless(os.geteuid() == 0, "only root can give a directory away")
    def test_runtime_directory_of_another_user(self):
        theirs = self.lab.path("theirs")
        os.mkdir(theirs, 0o777)
        os.chown(theirs, 65534, 65534)
        name = f"test-{os.getpid()}"
        process = self.start(name, "--serial", "none", XDG_RUNTIME_DIR=theirs)
        deadline = time.monotonic() + 20
        while not os.path.exists(f"/run/ferry/{name}.sock"):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        self.assertEqual(os.listdir(theirs), [])
        self.ferry("quit", name)
        self.assertEqual(process.wait(5), 0)

    def test_nohup(self):
        control = self.lab.path("vm")
        process = subprocess.Popen(
            ["nohup", FERRY, "run", "--kernel", guest("idle"), "--mem", "64M", "--control",
             control, "--serial", "none"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=ferrylab.die_with_parent)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        ferrylab.Qmp(control, 20).close()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        self.assertIsNone(process.poll())
        self.ferry("quit", control)


if __name__ == "__main__":
    sys.exit(main())
