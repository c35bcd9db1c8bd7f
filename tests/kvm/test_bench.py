#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry bench from end to end: a small matrix, its report, and being stopped in the middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))

import support_bench  # noqa: E402  (the path comes first)
from support_system import FERRY, SystemTest, main  # noqa: E402

ROOT = os.geteuid() == 0
QEMU = shutil.which("qemu-system-x86_64")
CHROMIUM = shutil.which("chromium")
BENCH_SECONDS = 240
FILE = """
title = "Small"
vmms = [{vmms}]
repeats = 1
warmup = 0
control_s = 0.5
[defaults]
mem = "48M"
size = "16M"
link = {link}
[vmm.missing]
kind = "qemu"
program = "/nowhere/qemu"
[[scenario]]
name = "moves"
dirty = 1500
[[scenario]]
name = "stays"
size = "24M"
dirty = "max"
downtime_limit_ms = 1
max_s = 1.5
"""
TO_FILE = """
[[scenario]]
name = "file"
link = "file"
"""
DELAY_MS = 20
LATE = f"""
[[scenario]]
name = "late"
delay_ms = {DELAY_MS}
"""


def namespaces():
    try:
        return [n for n in os.listdir("/run/netns") if n.startswith("ferry-bench-")]
    except OSError:
        return []


class BenchTest(SystemTest):
    def setUp(self):
        super().setUp()
        self.file, self.out = self.lab.path("small.toml"), self.lab.path("out")
        vmms = ["ferry", "missing"] + (["qemu"] if QEMU else [])
        with open(self.file, "w", encoding="ascii") as file:
            file.write(FILE.format(vmms=", ".join(f'"{v}"' for v in vmms),
                                   link='"200mbit"' if ROOT else '"loopback"'))

    def start(self, *arguments):
        process = subprocess.Popen([FERRY, "bench", self.file, "-o", self.out, *arguments],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)  # waits, and closes the pipes
        self.addCleanup(process.kill)
        return process

    def own(self, process):
        return [n for n in namespaces() if n.startswith(f"ferry-bench-{process.pid}-")]

    def report(self):
        with open(os.path.join(self.out, "report.json"), encoding="utf-8") as file:
            return json.load(file)

    def test_matrix(self):
        with open(self.file, "a", encoding="ascii") as file:
            file.write(TO_FILE + (LATE if ROOT else ""))
        process = self.start("--live")
        out, err = process.communicate(timeout=BENCH_SECONDS)
        self.assertEqual(process.returncode, 0, out + err)
        self.assertIn("pass ", err)  # --live without a terminal: lines
        self.assertEqual(self.own(process), [])
        runs = self.report()["runs"]
        for run in runs:
            with self.subTest(run=run["number"], vmm=run["vmm"], part=run["part"]):
                self.check_run(run)
        self.assertEqual(len(runs), (5 if ROOT else 4) * (3 if QEMU else 2))
        with open(os.path.join(self.out, "report.html"), encoding="utf-8") as file:
            support_bench.check_html(self, file.read())
        self.check_in_browser()

    def check_run(self, run):
        f = run["figures"]
        if run["vmm"] == "missing":
            self.assertEqual(run["outcome"], "skipped")
            self.assertIn("/nowhere/qemu is not there", run["reason"])
            return
        self.assertEqual([c for c in run["checks"] if not c["ok"]], [])
        if run["part"] == "late" and run["outcome"] == "skipped":  # not every kernel can
            self.assertIn("a delay takes netem, which this kernel does not have", run["reason"])
            return
        if run["part"] == "late":  # there and back takes two delays, at least once
            self.assertGreaterEqual(f["total_s"] * 1e3, 2 * DELAY_MS)
        if run["vmm"] == "qemu" and run["part"] == "file" and run["outcome"] == "skipped":
            self.assertIn("mapped-ram", run["reason"])
            return
        if run["kind"] == "control":
            self.assertEqual(run["outcome"], "completed", run["reason"])
            self.assertNotIn("engine_mib", f)
            return
        names = {c["name"] for c in run["checks"]}
        self.assertLessEqual({"the guest has all its pages", "the guest's work only grows"}, names)
        self.assertGreater(sum(run["histogram"]), 0)
        self.assertEqual(run["outcome"], "cancelled" if run["part"] == "stays" else "completed",
                         run["reason"])
        if run["outcome"] == "cancelled":
            self.assertIn("not done after", run["reason"])
            self.assertNotIn("engine_downtime_ms", f)
            return
        self.assertEqual(sum(p["sent"] for p in run["passes"]), run["series"][-1]["sent"])
        self.assertAlmostEqual(f["engine_mib"], run["series"][-1]["sent"] / (1 << 20))
        self.assertGreaterEqual(f["engine_mib"], 16)
        by_wire = ROOT and run["part"] != "file"
        self.assertEqual("wire_mib" in f, by_wire)
        if by_wire:
            self.assertGreaterEqual(f["wire_mib"], f["engine_mib"])
            self.assertLess(f["wire_mib"], f["engine_mib"] * 1.3)
        if run["vmm"] == "ferry" and by_wire:
            self.assertLessEqual({"bytes sent are bytes received", "pages sent are pages received",
                                  "passes add up to what was sent"}, names)
            self.assertIn("mig-source", run["threads"]["source"])
        self.assertGreaterEqual(f["total_s"] * 1e3, f["engine_downtime_ms"])

    def check_in_browser(self):
        """No error on the console, and something is drawn: wide and narrow, light and dark."""
        if not CHROMIUM:
            print("SKIP chromium is not installed")
            return
        page = "file://" + os.path.join(self.out, "report.html")
        for name, size, scheme in (("wide", "1400,2000", 1), ("narrow", "380,2000", 0)):
            shot = self.lab.path(name + ".png")
            done = subprocess.run(
                [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
                 f"--user-data-dir={self.lab.path('chromium')}", "--enable-logging=stderr",
                 f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={size}",
                 f"--screenshot={shot}", page],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
            self.assertNotIn("CONSOLE", done.stderr)
            self.assertGreater(os.path.getsize(shot), 20000, done.stderr)

    def until_moving(self, process):
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "sample":
                return
        self.fail("it ended before anything moved: " + process.stderr.read())

    def children(self, process):
        with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def assert_gone(self, pids):
        deadline = time.monotonic() + 20
        for pid in pids:
            while os.path.exists(f"/proc/{pid}"):
                self.assertLess(time.monotonic(), deadline, f"process {pid} is still there")
                time.sleep(0.02)

    def test_ctrl_c(self):
        process = self.start("--json", "--live", "--only", "ferry")
        self.until_moving(process)
        pids = self.children(process)
        self.assertEqual(len(pids), 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, out + err)
        self.assertEqual(json.loads(out.splitlines()[-1])["event"], "done")
        self.assert_gone(pids)
        self.assertEqual(self.own(process), [])
        report = self.report()
        self.assertTrue(report["interrupted"])
        self.assertEqual(len(report["runs"]), 3)
        self.assertEqual(report["runs"][-1]["outcome"], "not run")
        with open(os.path.join(self.out, "report.html"), encoding="utf-8") as file:
            support_bench.check_html(self, file.read())

    def test_hung(self):
        """A VMM that does not answer any more: that run failed, and the rest goes on."""
        process = self.start("--json", "--live", "--only", "ferry")
        self.until_moving(process)
        for pid in self.children(process):
            os.kill(pid, signal.SIGSTOP)
        out, err = process.communicate(timeout=BENCH_SECONDS)
        self.assertEqual(process.returncode, 1, out + err)
        ends = [e for e in map(json.loads, out.splitlines()) if e["event"] == "end"]
        outcomes = sorted(e["outcome"] for e in ends)
        self.assertEqual(outcomes.count("failed"), 1, ends)
        self.assertEqual(len(self.report()["runs"]), 3)
        self.assertRegex(next(e["reason"] for e in ends if e["outcome"] == "failed"),
                         "no answer from|cannot write to|did not print")
        self.assertEqual(self.own(process), [])

    def test_killed(self):
        """Its guests end with it; its namespaces, which it could not remove, by the next one."""
        process = self.start("--json", "--live", "--only", "ferry")
        self.until_moving(process)
        pids = self.children(process)
        process.kill()
        process.wait(20)
        self.assert_gone(pids)
        self.assertEqual(len(self.own(process)), 2 if ROOT else 0)
        other = self.start("--only", "missing")
        self.assertEqual(other.wait(60), 0)
        self.assertEqual(self.own(process), [])

    def test_nowhere_to_write(self):
        self.out = "/dev/null/out"
        _, err = self.start().communicate(timeout=60)
        self.assertIn("cannot write the report", err)

    @unittest.skipUnless(ROOT, "needs another user, whom only root can become")
    def test_without_privileges(self):
        """A link needs namespaces, which need root: said, and the rest goes on."""
        os.chmod(self.lab.folder, 0o777)
        done = subprocess.run(
            ["setpriv", "--reuid", "65534", "--clear-groups", FERRY, "bench", self.file,
             "-o", self.out, "--only", "ferry"], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60, check=False)
        if "/dev/kvm" in done.stderr or "Permission denied" in done.stderr:
            self.skipTest("another user cannot use /dev/kvm or the build here")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("network namespaces need root", done.stderr)


if __name__ == "__main__":
    sys.exit(main())
