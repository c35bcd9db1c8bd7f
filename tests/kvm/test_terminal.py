#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`ferry run` on a terminal: Ctrl-A x whatever the guest does, and the terminal's state at every end."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from support_system import FERRY, SystemTest, ferrylab, free_port, guest, main

END_SECONDS = 10
QUIT = b"\x01x"
SMALL = ("--mem", "64M")

# Leads a session, hands the terminal to the command in argv, on SIGUSR1 takes it back and ends the
# command by SIGTERM, and ends with its status; 99: it was stopped.
JOB_CONTROL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGUSR1, lambda *_: (os.tcsetpgrp(0, os.getpgrp()),
                                          os.kill(pid, signal.SIGTERM)))
_, status = os.waitpid(pid, os.WUNTRACED)
if os.WIFSTOPPED(status):
    os.kill(pid, signal.SIGKILL)
    sys.exit(99)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Terminal:
    """A command that leads a session on a terminal of its own."""

    def __init__(self, *command):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""

        def lead():
            os.setsid()
            os.close(os.open(os.ttyname(0), os.O_RDWR))  # makes it the controlling terminal
            ferrylab.die_with_parent()
        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, preexec_fn=lead)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def type(self, data):
        os.write(self.master, data)

    def read(self, seconds):
        """What is printed within so many seconds, if anything."""
        if select.select([self.master], [], [], seconds)[0]:
            self.seen += os.read(self.master, 65536)
        return self.seen

    def expect(self, text, seconds=30):
        deadline = time.monotonic() + seconds
        while text not in self.read(0.1):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"{text} was not printed: {self.seen}")

    def wait(self):
        """The exit status; reads on, so that the process can print."""
        deadline = time.monotonic() + END_SECONDS
        while self.process.poll() is None:
            self.read(0.02)
            if time.monotonic() > deadline:
                raise AssertionError(f"it does not end: {self.seen}")
        self.read(0)
        return self.process.returncode

    def restored(self):
        return termios.tcgetattr(self.slave) == self.before


class TerminalTest(SystemTest):
    def open(self, *command):
        terminal = Terminal(*command)
        self.addCleanup(terminal.close)
        return terminal

    def run_ferry(self, *arguments):
        """`ferry run` that has its control socket at self.control, ready to be typed at."""
        self.control = self.lab.path("terminal")
        terminal = self.open(FERRY, "run", "--control", self.control, *SMALL, *arguments)
        terminal.expect(b"ferry: Ctrl-A x ends the guest")
        self.qmp = ferrylab.Qmp(self.control, 20)
        self.addCleanup(self.qmp.close)
        self.assertFalse(terminal.restored())
        return terminal

    def kernel(self, name="idle", cmdline=""):
        return "--kernel", guest(name), "--cmdline", cmdline

    def quit_typed(self, terminal, status=0, reason="host-ui"):
        """Ctrl-A x must end it, as its user's wish; the terminal is as it was."""
        terminal.type(QUIT)
        self.assertEqual(self.qmp.wait_event("SHUTDOWN", END_SECONDS)["data"],
                         {"guest": False, "reason": reason})
        self.assertEqual(terminal.wait(), status, terminal.seen)
        self.assertTrue(terminal.restored())
        self.assertFalse(os.path.exists(self.control))

    # ---- Ctrl-A x in each state ----

    def test_running(self):
        self.quit_typed(self.run_ferry(*self.kernel()))

    def test_incoming(self):
        for uri in ("defer", f"tcp:127.0.0.1:{free_port()}"):
            self.quit_typed(self.run_ferry("--incoming", uri))

    def test_paused_from_the_start(self):
        self.quit_typed(self.run_ferry(*self.kernel(), "--paused"))

    def test_stopped(self):
        terminal = self.run_ferry(*self.kernel())
        self.qmp.execute("stop")
        terminal.type(b"typed meanwhile")
        self.quit_typed(terminal)

    def test_guest_that_reads_nothing(self):
        terminal = self.run_ferry(*self.kernel())
        for _ in range(100):
            terminal.type(b"0123456789" * 10)
            time.sleep(0.001)
        self.quit_typed(terminal)

    def test_after_the_guest_has_moved(self):
        terminal = self.run_ferry(*self.kernel("writer", "size=16M"))
        destination, uri = self.wait_at()
        terminal.expect(b"writer: ready")
        self.assertEqual(self.ferry("migrate", self.control, uri).count("completed"), 1)
        terminal.type(b"for nobody")
        self.quit_typed(terminal)
        self.assertEqual(destination.status(), "running")

    def test_while_it_moves(self):
        terminal = self.run_ferry(*self.kernel("writer", "size=32M"))
        destination, uri = self.wait_at()
        terminal.expect(b"writer: ready")
        self.qmp.execute("migrate", uri=uri, max_bandwidth=1 << 20)
        time.sleep(0.3)
        self.quit_typed(terminal)
        self.assertEqual(destination.status(), "inmigrate")

    def test_after_an_internal_error(self):
        terminal = self.run_ferry(*self.kernel("crash", "how=badinsn"))
        deadline = time.monotonic() + END_SECONDS
        while self.qmp.execute("query-status")["status"] != "internal-error":
            if time.monotonic() > deadline or terminal.process.poll() is not None:
                self.skipTest("this KVM emulates, or runs, the instruction")
        self.quit_typed(terminal, status=4)

    def test_typed_ahead(self):
        """What was typed while the guest was paused arrives in order."""
        terminal = self.run_ferry(*self.kernel("echo"))
        terminal.expect(b"echo: ready")
        self.qmp.execute("stop")
        line = b"abcdefghijklmnopqrstuvwxyz0123456789" * 2
        terminal.type(line + b"\r")
        time.sleep(0.1)
        self.qmp.execute("cont")
        terminal.expect(line)
        self.quit_typed(terminal)

    # ---- other ends ----

    def test_signals_that_end_it(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            terminal = self.run_ferry(*self.kernel())
            terminal.process.send_signal(number)
            self.assertEqual(terminal.wait(), 0, number)
            self.assertTrue(terminal.restored(), number)

    def test_fatal_signals(self):
        for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
            terminal = self.run_ferry(*self.kernel())
            terminal.process.send_signal(number)
            status = terminal.wait()
            self.assertIn(status, (-number, 1), number)  # 1: a sanitizer's handler
            if status != 1:
                self.assertTrue(terminal.restored(), number)

    def test_ended_in_the_background(self):
        """A job that has lost the terminal ends without being stopped for touching it."""
        self.control = self.lab.path("terminal")
        terminal = self.open(sys.executable, "-c", JOB_CONTROL, FERRY, "run", "--control",
                             self.control, *SMALL, *self.kernel())
        terminal.expect(b"ferry: Ctrl-A x ends the guest")
        ferrylab.Qmp(self.control, 20).close()
        theirs = termios.tcgetattr(terminal.slave)
        terminal.process.send_signal(signal.SIGUSR1)
        self.assertEqual(terminal.wait(), 0, terminal.seen)
        self.assertEqual(termios.tcgetattr(terminal.slave), theirs)

    def test_started_in_the_background(self):
        """It leaves the terminal alone, and says nothing of keys that it will not see."""
        self.control = self.lab.path("terminal")
        terminal = self.open("sh", "-c", '"$@" & wait', "sh", "setsid", FERRY, "run", "--control",
                             self.control, *SMALL, *self.kernel())
        ferrylab.Qmp(self.control, 20).close()
        self.assertTrue(terminal.restored())
        self.assertNotIn(b"Ctrl-A", terminal.read(0.1))
        self.ferry("quit", self.control)

    # ---- standard descriptors ----

    def test_standard_descriptors_closed_at_start(self):
        """Messages and guest output never land in what was opened in the place of 0, 1 or 2."""
        for closed in ((0,), (1,), (2,), (0, 1, 2)):
            control = self.lab.path("closed")
            process = subprocess.Popen(
                ["sh", "-c", f'exec "$@" {" ".join(f"{fd}>&-" for fd in closed)}', "sh", FERRY,
                 "run", "--control", control, *SMALL, *self.kernel("writer", "size=16M")],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                preexec_fn=ferrylab.die_with_parent)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            qmp = ferrylab.Qmp(control, 20)
            self.assertEqual(qmp.execute("query-status")["status"], "running")
            for fd in closed:
                self.assertEqual(os.readlink(f"/proc/{process.pid}/fd/{fd}"), "/dev/null", closed)
            qmp.execute("quit")
            qmp.close()
            self.assertEqual(process.wait(END_SECONDS), 0)


if __name__ == "__main__":
    sys.exit(main())
