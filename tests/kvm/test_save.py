#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Saving real guests to files and bringing them back."""

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time

from support_save import SaveTest
from support_saved import Saved
from support_system import FERRY, GUEST_SECONDS, LabError, ferrylab, main, words

MIB = 1 << 20


class TestRoundTrip(SaveTest):
    def test_save_and_restore(self):
        """Paused save; the guest comes back with every page, here and there."""
        path = self.lab.path("saved")
        src = self.writer(cpus=2)
        out = self.save(src, path)
        self.assertRegex(out, r"saved in .*: .* pages, .* zero; dark for")
        self.assertEqual(src.status(), "paused")
        out = self.ferry("status", src.control_path)
        self.assertIn(f"save       completed to {path}\n", out)
        self.assertNotIn("limit", out)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        dst = self.restore("dst", path, cpus=2)
        self.verify_lives(dst)
        self.assertEqual(self.query(dst)["status"], "completed")
        # The file is a copy: the guest may go on here as well.
        src.qmp.execute("cont")
        self.verify_lives(src)
        self.finish(src)
        self.finish(dst)

    def test_goes_on(self):
        src = self.writer()
        for i in range(3):
            self.save(src, self.lab.path(f"saved{i}"), "--cont")
            self.assertEqual(src.status(), "running")
        self.verify_lives(src)
        self.verify_lives(self.restore("dst", self.lab.path("saved2")))

    def test_quit(self):
        path = self.lab.path("saved")
        src = self.writer()
        self.save(src, path, "--quit")
        self.assertEqual(src.wait(GUEST_SECONDS), 0)
        self.verify_lives(self.restore("dst", path))

    def test_paused_stays_paused(self):
        path = self.lab.path("saved")
        src = self.writer()
        src.qmp.execute("stop")
        self.save(src, path)
        self.assertEqual(src.status(), "paused")
        dst = self.lab.start("dst", incoming=f"file:{path}", mem="64M", extra=["--debug-exit"])
        dst.wait_status("paused", GUEST_SECONDS)
        dst.qmp.execute("cont")
        self.verify_lives(dst)

    def test_restore_command(self):
        """RAM and vCPUs are the file's; --paused leaves a running guest paused."""
        path = self.lab.path("saved")
        src = self.writer(cpus=2)
        self.save(src, path, "--quit")
        process = subprocess.Popen(
            [FERRY, "restore", path, "--control", self.lab.path("r.ctl"), "--serial",
             f"unix:{self.lab.path('r.ser')}", "--paused"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=ferrylab.die_with_parent)
        try:
            deadline = time.monotonic() + GUEST_SECONDS
            while True:
                done = subprocess.run([FERRY, "status", self.lab.path("r.ctl"), "--json"],
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      timeout=30, check=False)
                if done.returncode == 0:
                    status = json.loads(done.stdout)["status"]
                    if status["status"] == "paused":
                        break
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            self.assertEqual(status["x-ferry-memory-bytes"], 64 * MIB)
            self.assertEqual(status["x-ferry-cpus"], 2)
        finally:
            process.kill()
            process.wait()

    def test_side_by_side(self):
        """Two restores of one file at the same time; the file stays what it was."""
        path = self.lab.path("saved")
        src = self.writer()
        self.save(src, path, "--quit")
        before = open(path, "rb").read()
        guests = [self.restore(f"dst{i}", path) for i in range(2)]
        for guest in guests:
            self.verify_lives(guest)
        with open(path, "rb") as file:
            self.assertTrue(file.read() == before)

    def test_chain(self):
        """save, restore, migrate, save, restore."""
        first, second = self.lab.path("first"), self.lab.path("second")
        src = self.writer(cpus=2)
        self.save(src, first, "--quit")
        one = self.restore("one", first, cpus=2)
        two, uri = self.wait_at("two", cpus=2)
        self.move(one, two, uri)
        self.verify_lives(two)
        self.save(two, second, "--quit")
        three = self.restore("three", second, cpus=2)
        self.verify_lives(three)
        self.finish(three)

    def test_other_guests(self):
        """What the other guests hold in registers, timers and interrupt controllers."""
        for kernel in ("fpu", "smp", "timer"):
            path = self.lab.path(kernel)
            src = self.boot(f"src-{kernel}", kernel, cpus=2)
            src.serial.expect(rf"^{kernel}: (ready|cpus=)", GUEST_SECONDS)
            self.save(src, path, "--quit")
            dst = self.restore(f"dst-{kernel}", path, cpus=2)
            if kernel == "timer":
                self.ticks_on(dst)
            else:
                self.verify(dst, kernel)
            self.finish(dst, kernel)

    def ticks_on(self, ferry):
        """Both timers tick, and no clock went back."""
        first = words(self.ask(ferry, "s", r"^timer: ticks"))
        deadline = time.monotonic() + GUEST_SECONDS
        while True:
            now = words(self.ask(ferry, "s", r"^timer: ticks"))
            self.assertEqual(now["back"], 0)
            if now["lapic"] > first["lapic"] and now["pit"] > first["pit"]:
                return
            self.assertLess(time.monotonic(), deadline, "a timer stands still")


class TestLive(SaveTest):
    """The guest runs while it is saved; the file is the guest of one moment."""

    def test_live(self):
        for i, cmdline in enumerate(("size=32M rate=1000 pattern=uniform",
                                     "size=32M rate=0 pattern=uniform",
                                     "size=32M rate=1000 pattern=hot fill=zero")):
            path = self.lab.path(f"saved{i}")
            src = self.writer(f"src{i}", cmdline=cmdline, cpus=2)
            self.wait_writes(src, 200)
            out = self.save(src, path, "--live", *(["--auto-converge"] if i == 1 else []))
            self.assertRegex(out, "dark for")
            self.assertEqual(src.status(), "running")
            info = self.query(src)
            self.assertGreaterEqual(info["ram"]["dirty-sync-count"], 1)
            self.assertLess(info["downtime"], info["total-time"] + 1)
            self.verify_lives(src)
            self.ferry("inspect", "--verify", path)
            with Saved(path) as saved:
                saved.check_sums()
                hot = saved.sections["hot", 0]
                self.assertEqual(hot["n_extents"], 64)
            shown = json.loads(self.ferry("inspect", path, "--json"))
            self.assertEqual(shown["hot_extents"], int.from_bytes(hot["hot"], "big").bit_count())
            self.assertGreater(shown["hot_extents"], 0)
            self.verify_lives(self.restore(f"dst{i}", path, cpus=2))
            self.verify_lives(self.restore(f"demand{i}", path, cpus=2,
                                           extra=["--debug-exit", "--on-demand"]))
            self.finish(src)

    def test_live_and_quit(self):
        """Paused in the end: what was written last is in the file."""
        path = self.lab.path("saved")
        src = self.writer(cmdline="size=32M rate=0", extra=["--debug-exit", "--mem-backend", "memfd"])
        before = words(self.ask(src, "s", r"^writer: status"))["writes"]
        self.save(src, path, "--live", "--quit")
        dst = self.restore("dst", path)
        self.assertGreaterEqual(words(self.ask(dst, "s", r"^writer: status"))["writes"], before)
        self.verify_lives(dst)

    def test_then_moved(self):
        """A live save leaves the dirty log as it was: the guest moves as ever, and is saved again."""
        src = self.writer(cmdline="size=32M rate=2000")
        for i in range(3):
            self.save(src, self.lab.path(f"saved{i}"), "--live")
        dst, uri = self.wait_at()
        self.move(src, dst, uri)
        self.verify_lives(dst)
        self.save(dst, self.lab.path("last"), "--live")
        self.verify_lives(self.restore("again", self.lab.path("last")))

    def test_no_room(self):
        """A full disk while the guest runs: it does not notice."""
        folder = self.lab.path("small")
        os.mkdir(folder)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20M", "tmpfs", folder],
                              stderr=subprocess.PIPE, text=True, timeout=20, check=False)
        if done.returncode:
            self.skipTest(f"a file system cannot be mounted: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False, timeout=20)
        src = self.writer(cmdline="size=32M rate=1000")
        out = self.save(src, os.path.join(folder, "saved"), "--live", status=1)
        self.assertRegex(out, "No space left on device.*the guest keeps running here")
        self.assertEqual(os.listdir(folder), [])
        self.verify_lives(src)


class TestFormat(SaveTest):
    def test_independent_reader(self):
        """RAM, extracted by a reader of its own, is the guest's; each field has its name."""
        path = self.lab.path("saved")
        src = self.writer(cpus=2, extra=["--debug-exit", "--mem-backend", "memfd"])
        self.save(src, path)
        with Saved(path) as saved:
            self.assertEqual((saved.machine, saved.capabilities), ("ferry", ["mapped-ram"]))
            for block in saved.blocks:
                self.assertTrue(saved.ram(block) == self.guest_ram(src, block.name), block.name)
            saved.check_sums()
            guest = saved.sections["guest", 0]
            self.assertEqual((guest["name"], guest["n_cpus"], guest["was_running"]), (b"src", 2, 1))
            names = [name for name, _ in saved.names]
            self.assertEqual(names, ["guest", "sums", "processor", "vcpu", "vcpu", "irqchip", "pit", "clock",
                                     "serial", "cmos", "reset", "acpi-pm", "input"])
            self.assertIn("rip", saved.sections["vcpu", 1]["regs"])
            self.assertEqual(len(saved.sections["pit", 0]["channels"]), 3)
            sections = saved.sections
        shown = json.loads(self.ferry("inspect", path, "--json", "--verify"))
        self.assertTrue(shown["verified"])
        for section in shown["sections"]:
            fields = sections[section["name"], section["instance"]]
            self.assert_same(section["fields"], fields)
        self.assertEqual(shown["blocks"][0]["present"],
                         sum(bin(byte).count("1") for byte in saved.blocks[0].bitmap))
        self.assertEqual(os.stat(path).st_size, shown["file_bytes"])
        text = self.ferry("inspect", path)
        self.assertIn("block      ram.low, 64.0 MiB at 0x0: 16384 pages", text)
        self.assertRegex(text, r"(?m)^section +vcpu 0, version \d+, \d+ bytes$")
        self.assertNotIn("regs.rip", text)
        self.assertIn("regs.rip", self.ferry("inspect", "--fields", path))

    def assert_same(self, shown, fields):
        """What ferry shows and what the file's own description leads to."""
        for name, value in shown.items():
            if isinstance(value, dict):
                self.assert_same(value, fields[name])
            elif isinstance(value, str):
                self.assertEqual(bytes.fromhex(value), fields.get(name, b""))
            elif isinstance(value, list):
                self.assertEqual(len(value), len(fields.get(name, [])), name)
                for one, other in zip(value, fields.get(name, [])):
                    if isinstance(one, dict):
                        self.assert_same(one, other)
                    else:
                        self.assertEqual(one, other)
            else:
                self.assertEqual(value, fields[name], name)

    def guest_ram(self, ferry, name):
        """The bytes of a guest whose RAM is a memfd."""
        folder = f"/proc/{ferry.process.pid}/fd"
        for fd in os.listdir(folder):
            if os.readlink(f"{folder}/{fd}").startswith(f"/memfd:{name} "):
                with open(f"{folder}/{fd}", "rb") as file:
                    return file.read()
        raise LabError(f"there is no {name}")


class TestQmp(SaveTest):
    def test_migrate_to_file(self):
        path = self.lab.path("saved")
        src = self.writer()
        answer = src.qmp.try_execute("migrate", uri=f"file:{path}")
        self.assertIn("mapped-ram", answer["error"]["desc"])
        src.qmp.execute("migrate-set-capabilities",
                        capabilities=[{"capability": "mapped-ram", "state": True},
                                      {"capability": "events", "state": True}])
        src.qmp.execute("migrate-set-parameters", multifd_channels=4, direct_io=False)
        self.assertEqual(src.qmp.execute("query-migrate-parameters")["multifd-channels"], 4)
        for wrong in ({"multifd_channels": 0}, {"multifd_channels": 1000}):
            self.assertIn("error", src.qmp.try_execute("migrate-set-parameters", **wrong))
        # What a file has no use for is refused, not forgotten.
        for name, value in (("x-ferry-verify", True), ("auto-converge", True),
                            ("x-ferry-free-pages", [{"gpa": 0, "bytes": 4096}]),
                            ("max-bandwidth", 1000), ("multifd-channels", 65)):
            answer = src.qmp.try_execute("migrate", **{"uri": f"file:{path}", name: value})
            self.assertIn(name, answer["error"]["desc"])
        src.qmp.execute("migrate", uri=f"file:{path}", multifd_channels=2)
        info = src.wait_migration(60, ("completed",))
        self.assertEqual(src.qmp.execute("query-migrate-parameters")["multifd-channels"], 4)
        self.assertEqual(info["ram"]["remaining"], 0)
        self.assertGreater(info["ram"]["normal"], 8192)
        src.qmp.wait_event("STOP", 10)
        self.assertEqual(src.status(), "paused")
        src.qmp.execute("cont")
        self.verify_lives(src)
        # The way back: a ferry that waits is told the file.
        dst = self.lab.start("dst", incoming="defer", mem="64M",
                             extra=["--debug-exit", "--threads", "3"])
        self.assertEqual(dst.qmp.execute("query-migrate-parameters")["multifd-channels"], 3)
        answer = dst.qmp.execute("migrate-incoming", uri="file:/nonexistent")
        info = self.wait_dest(dst, "failed")
        self.assertIn("No such file", info["error-desc"])
        self.assertEqual(dst.status(), "inmigrate")
        dst.qmp.execute("migrate-incoming", uri=f"file:{path}")
        dst.wait_status("running", GUEST_SECONDS)
        self.verify_lives(dst)
        src.qmp.execute("migrate_cancel")  # nothing under way: nothing happens
        self.verify_lives(src)

    def test_saved_then_migrated(self):
        """After a save the guest moves as ever, and the other way round."""
        src = self.writer()
        self.save(src, self.lab.path("saved"), "--cont")
        dst, uri = self.wait_at()
        self.move(src, dst, uri)
        self.verify_lives(dst)
        self.assertIn("handed over",
                      self.save(src, self.lab.path("late"), status=1))
        self.assertFalse(os.path.exists(self.lab.path("late")))


class TestFailures(SaveTest):
    def test_wrong_shape(self):
        path = self.lab.path("saved")
        src = self.writer(cpus=2)
        self.save(src, path, "--quit")
        self.refused(path, "use --mem 65536K", "--mem", "128M")
        self.refused(path, "use --cpus 2", "--cpus", "1")
        self.refused(path, "has no 'virtio-rng' number 0, this one has", "--rng")
        self.refused(self.lab.path("nothing"), "No such file")
        self.refused("/dev/zero", "regular file")

    def test_missing_device(self):
        path = self.lab.path("saved")
        src = self.writer(extra=["--debug-exit", "--rng"])
        self.save(src, path, "--quit")
        self.refused(path, r"section 'virtio-rng' 0 .*a device that this one has not")
        self.verify_lives(self.restore("dst", path, extra=["--debug-exit", "--rng"]))

    def test_cut_off(self):
        """Truncated at every border: refused, with words, and no guest runs."""
        path, cut = self.lab.path("saved"), self.lab.path("cut")
        src = self.writer(cmdline="size=1M rate=0", mem="4M")
        self.save(src, path, "--quit")
        with Saved(path) as saved:
            borders = sorted(set(saved.borders))
        with open(path, "rb") as file:
            whole = file.read()
        self.assertGreater(len(borders), 20)
        for border in borders:
            for at in (border, border + 1):
                with open(cut, "wb") as file:
                    file.write(whole[:at])
                out = self.ferry("inspect", cut, status=1)
                self.assertRegex(out, r"at byte \d+|cut off")
        self.refused(cut, "cut off|at byte")

    def test_flipped_bits(self):
        """State that is damaged never runs; --verify finds any bit."""
        path = self.lab.path("saved")
        src = self.writer(cmdline="size=1M rate=0", mem="4M")
        self.save(src, path, "--quit")
        size = os.stat(path).st_size
        with Saved(path) as saved:
            tail = saved.blocks[-1].pages_offset + saved.blocks[-1].size
        choose = random.Random(1)
        for i in range(40):
            at = choose.randrange(tail, size) if i % 2 else choose.randrange(size)
            with open(path, "r+b") as file:
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1 << choose.randrange(8)]))
            self.ferry("inspect", "--verify", path, status=1)
            if i % 2 and i < 12:
                self.refused(path, "damaged|byte")
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(bytes([byte]))
        self.ferry("inspect", "--verify", path)

    def test_disk_full(self):
        """No room: the guest goes on, an earlier file of that name is as it was."""
        folder = self.lab.path("small")
        os.mkdir(folder)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40M", "tmpfs", folder],
                              stderr=subprocess.PIPE, text=True, timeout=20, check=False)
        if done.returncode:
            self.skipTest(f"a file system cannot be mounted: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False, timeout=20)
        src = self.writer(cmdline="size=32M rate=1000")
        path = os.path.join(folder, "saved")
        self.save(src, path, "--cont")
        with open(path, "rb") as file:
            before = file.read()
        for room in (0, 1, 3):
            # The first file is there: there is room for a part of the second only.
            with open(os.path.join(folder, "ballast"), "wb") as file:
                free = os.statvfs(folder).f_bavail * 4096
                file.write(bytes(max(0, free - room * MIB)))
            out = self.save(src, path, status=1)
            self.assertRegex(out, "No space left on device.*the guest keeps running here")
            self.assertEqual(src.status(), "running")
            os.unlink(os.path.join(folder, "ballast"))
            self.assertEqual(os.listdir(folder), ["saved"])
        with open(path, "rb") as file:
            self.assertTrue(file.read() == before)
        self.verify_lives(src)

    def test_killed(self):
        """kill -9 in the middle: nothing is there, and nothing is left over."""
        folder = self.lab.path("folder")
        os.mkdir(folder)
        path = os.path.join(folder, "saved")
        for i in range(4):
            src = self.writer(f"src{i}", cmdline="size=200M rate=0 fill=random", mem="256M")
            src.qmp.execute("x-ferry-save", path=path)
            deadline = time.monotonic() + GUEST_SECONDS
            while i and not self.query(src).get("ram", {}).get("transferred"):
                self.assertLess(time.monotonic(), deadline)
            os.kill(src.process.pid, signal.SIGKILL)
            src.process.wait()
            if os.listdir(folder):  # it was done already
                self.assertEqual(os.listdir(folder), ["saved"])
                self.ferry("inspect", "--verify", path)
                os.unlink(path)

    def test_cancel(self):
        folder = self.lab.path("folder")
        os.mkdir(folder)
        path = os.path.join(folder, "saved")
        src = self.writer(cmdline="size=200M rate=100", mem="256M")
        src.qmp.execute("x-ferry-save", path=path)
        src.qmp.execute("migrate_cancel")
        info = src.wait_migration(GUEST_SECONDS, ("cancelled", "completed"))
        if info["status"] == "cancelled":
            self.assertEqual(os.listdir(folder), [])
            self.assertIn("keeps running here", info["error-desc"])
            self.assertEqual(src.status(), "running")
            self.verify_lives(src)

    def test_refused_places(self):
        src = self.writer()
        self.assertIn("No such file", self.save(src, "/nonexistent/saved", status=1))
        self.assertIn("no regular file", self.save(src, self.lab.folder, status=1))
        self.assertIn("do not go together",
                      self.save(src, self.lab.path("x"), "--cont", "--quit", status=2))
        self.assertIn("goes with --live",
                      self.save(src, self.lab.path("x"), "--auto-converge", status=2))
        answer = src.qmp.try_execute("x-ferry-save", path=self.lab.path("x"), auto_converge=True)
        self.assertIn("auto-converge", answer["error"]["desc"])
        self.assertEqual(src.status(), "running")
        self.verify_lives(src)


if __name__ == "__main__":
    sys.exit(main())
