#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What scripts/check, scripts/deps and the Makefile do when something is in their way."""

import glob
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
from tally import main  # noqa: E402 (the path comes first)


HAS_KVM = os.access("/dev/kvm", os.R_OK | os.W_OK)


class ScriptTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="ferry-scripts-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write_program(self, text, *names):
        os.makedirs(os.path.dirname(self.path(*names)), exist_ok=True)
        with open(self.path(*names), "w", encoding="ascii") as file:
            file.write("#!/bin/sh\n" + text)
        os.chmod(self.path(*names), 0o755)

    def copy_script(self, name):
        os.makedirs(self.path("scripts"), exist_ok=True)
        shutil.copy(os.path.join(ROOT, "scripts", name), self.path("scripts", name))

    def environment(self):
        return {**os.environ, "PATH": self.path("bin") + ":" + os.environ["PATH"]}


class CheckTest(ScriptTest):
    def start(self, make, guest_linux="exit 0\n"):
        """scripts/check in a tree that has nothing but this `make` and the maker of an image."""
        self.copy_script("check")
        self.write_program(guest_linux, "scripts", "guest-linux")
        self.write_program("exit 0\n", "scripts", "deps")
        self.write_program(make, "bin", "make")
        process = subprocess.Popen([self.path("scripts", "check")], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env=self.environment(), start_new_session=True)
        self.addCleanup(process.kill)
        return process

    def test_ctrl_c_ends_the_current_step(self):
        for step in ("all", "check-unit"):
            with self.subTest(step=step):
                began = self.path("began")
                process = self.start(f'case "$*" in *{step}*) touch {began}; exec sleep 60;; esac')
                deadline = time.monotonic() + 20
                while not os.path.exists(began):
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.02)
                os.unlink(began)
                asked = time.monotonic()
                process.send_signal(signal.SIGINT)
                out, _ = process.communicate(timeout=20)
                self.assertLess(time.monotonic() - asked, 5)
                self.assertIn("ended before everything was run", out)
                self.assertNotEqual(process.returncode, 0)

    def test_tally(self):
        process = self.start('case "$*" in *check-*) echo noise; echo "3 passed, 1 failed, 2 skipped";;'
                             ' esac')
        out, _ = process.communicate(timeout=60)
        skipped = 6 if HAS_KVM else 7  # no image without it
        self.assertRegex(out.splitlines()[-1], rf"^\d+ passed, 3 failed, {skipped} skipped$")
        self.assertEqual(process.returncode, 1)

    @unittest.skipUnless(HAS_KVM, "without /dev/kvm no image is made")
    def test_no_image(self):
        """Tests are told why there is none; what cannot be made here is no failure."""
        make = ('case "$*" in *check-kvm*) echo "told: $FERRY_NO_LINUX_IMAGE.";; esac\n'
                'case "$*" in *check-*) echo "1 passed, 0 failed, 0 skipped";; esac\n')
        for program, told, failed, skipped in (
                ("echo out of disks >&2; exit 3", "told: out of disks .", 0, 1),
                ("echo line 7; exit 1", "told: it could not be made.", 1, 0),
                ("exit 0", "told: .", 0, 0)):
            with self.subTest(program=program):
                out, _ = self.start(make, program + "\n").communicate(timeout=60)
                self.assertIn(told, out)
                self.assertRegex(out.splitlines()[-1],
                                 rf"^\d+ passed, {failed} failed, {skipped} skipped$")
        self.assertNotIn("line 7", out)

    @unittest.skipUnless(HAS_KVM, "without /dev/kvm no image is made")
    def test_the_image_ends_with_the_check(self):
        began, pid = self.path("began"), self.path("pid")
        process = self.start(f'case "$*" in *check-unit*) touch {began}; exec sleep 60;; esac',
                             f"echo $$ >{pid}; exec sleep 60\n")
        deadline = time.monotonic() + 20
        while not os.path.exists(began) or not os.path.exists(pid):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        with open(pid, encoding="ascii") as file:
            self.assertFalse(os.path.exists(f"/proc/{file.read().strip()}"))


class DepsTest(ScriptTest):
    @unittest.skipUnless(os.geteuid() == 0, "needs another user, whom only root can become")
    def test_sudo_can_ask_for_a_password(self):
        self.copy_script("deps")
        self.write_program("exit 1\n", "bin", "pkg-config")  # something is missing
        self.write_program("exit 0\n", "bin", "apt-get")
        self.write_program('printf "password: " >/dev/tty; read -r it </dev/tty; echo "got $it"\n'
                           'exec "$@"\n', "bin", "sudo")
        os.chmod(self.folder, 0o755)
        pid, master = pty.fork()
        if pid == 0:
            os.execvpe("setpriv", ["setpriv", "--reuid", "nobody", "--clear-groups",
                                   self.path("scripts", "deps")], self.environment())
        self.addCleanup(os.close, master)
        seen, asked = b"", 0
        deadline = time.monotonic() + 15
        try:
            while time.monotonic() < deadline:
                if not select.select([master], [], [], 0.5)[0]:
                    continue
                seen += os.read(master, 4096)
                if seen.count(b"password: ") > asked:
                    asked += 1
                    os.write(master, b"secret\n")
        except OSError:
            pass  # the other end is closed
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.assertEqual(len(re.findall(rb"got secret", seen)), 2, seen)


class MakefileTest(unittest.TestCase):
    def test_every_test_is_run(self):
        done = subprocess.run(["make", "-n", "-C", ROOT, "BUILD=build/none", "check-unit", "check-kvm",
                               "check-slow"], capture_output=True, text=True, timeout=60, check=True)
        run = {word for line in done.stdout.splitlines() if "tests/run-tests" in line
               for word in line.split()}
        files = glob.glob("tests/*/test_*.[cp]*", root_dir=ROOT)
        self.assertGreater(len(files), 100)
        for file in files:
            name, ending = os.path.splitext(file)
            self.assertIn(f"build/none/{name}" if ending == ".c" else file, run)

    def test_clean_spares_the_sources(self):
        link = tempfile.mktemp(prefix="ferry-link-")
        os.symlink(ROOT, link)
        self.addCleanup(os.unlink, link)
        for build in ("", ".", "build/..", "/", ROOT, link, "tests"):
            done = subprocess.run(["make", "-n", "-C", ROOT, "clean", f"BUILD={build}"],
                                  capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 2, f"BUILD={build}: {done.stdout}")
            self.assertIn("BUILD must name", done.stderr)


if __name__ == "__main__":
    sys.exit(main())
