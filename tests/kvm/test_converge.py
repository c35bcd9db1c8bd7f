#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests that write faster than the wire carries: who writes is slowed, and the move gets done."""

import json
import re
import subprocess
import sys
import time

from support_proxy import Proxy
from support_system import (FERRY, GUEST_SECONDS, MIGRATE_SECONDS, SystemTest, main, port_of,
                            words)

MIB = 1 << 20
WIRE = 16 * MIB  # 4,096 pages a second
# vCPU 1 writes flat out, vCPU 0 only counts.
WRITER = {"cmdline": "writers=1 size=24M rate=0", "cpus": 2, "mem": "64M"}


class ConvergeTest(SystemTest):
    def slow_wire(self):
        """A destination at the end of a slow wire, and its URI."""
        destination, uri = self.wait_at(cpus=2, mem="64M")
        proxy = Proxy(port_of(uri), bytes_s=WIRE)
        self.addCleanup(proxy.close)
        return destination, proxy.uri

    def started(self):
        """A guest on its way with auto-converge; source and destination."""
        destination, uri = self.slow_wire()
        source = self.writer(**WRITER)
        source.qmp.execute("migrate", uri=uri, **{"auto-converge": True})
        return source, destination

    def stay_slowed(self, source, below):
        """Once it is slowed, have it so for as long as the test likes: nothing fits any more."""
        self.wait_slowed(source, 0.5)
        source.qmp.execute("migrate-set-parameters", downtime_limit=1)
        self.wait_slowed(source, below)

    def wait_slowed(self, source, below=1.0):
        """Wait until vCPU 1 has less than this share; returns query-migrate."""
        deadline = time.monotonic() + MIGRATE_SECONDS
        while True:
            info = self.query(source)
            self.assertIn(info["status"], ("setup", "active", "device"), info)
            cpus = info.get("x-ferry-vcpus")
            if cpus and cpus[1]["share"] < below:
                return info
            self.assertLess(time.monotonic(), deadline, info)
            time.sleep(0.02)

    def work(self, ferry):
        """What each vCPU has done: {cpu: (pages written, looks at the clock)}."""
        ferry.serial.send("w")
        lines = ferry.serial.collect(r"^writer: work end", GUEST_SECONDS)[0]
        found = [words(line) for line in lines if "loops=" in line]
        return {f["cpu"]: (f["writes"], f["loops"]) for f in found}

    def test_converges(self):
        source, destination = self.started()
        info = self.wait_slowed(source, 0.2)
        self.assertGreater(info["cpu-throttle-percentage"], 80)
        self.assertEqual(info["x-ferry-vcpus"][0]["share"], 1)
        info = self.ended(source)
        self.assertEqual(info["status"], "completed", info)
        self.assertGreater(info["x-ferry-stall-ns"], 0)
        self.assertNotIn("cpu-throttle-percentage", info)
        destination.wait_status("running", 10)
        self.verify_lives(destination)
        self.finish(destination)

    def test_reader_goes_on(self):
        """While its neighbour has next to nothing, the reader works as before."""
        source, _ = self.started()
        self.stay_slowed(source, 0.1)
        before, begin = self.work(source), time.monotonic()
        time.sleep(1)
        slowed, seconds = self.work(source), time.monotonic() - begin
        source.qmp.execute("migrate_cancel")
        self.assert_failed(source, "cancelled", "cancelled")
        self.wait_writes(source, 1000)
        after, begin = self.work(source), time.monotonic()
        time.sleep(1)
        free, free_seconds = self.work(source), time.monotonic() - begin
        reader = [(b[0][1] - a[0][1]) / s for a, b, s in ((before, slowed, seconds),
                                                          (after, free, free_seconds))]
        writer = [(b[1][0] - a[1][0]) / s for a, b, s in ((before, slowed, seconds),
                                                          (after, free, free_seconds))]
        self.assertLess(writer[0], writer[1] / 2, "the writer was not slowed")
        self.assertGreater(reader[0], reader[1] / 3, "the reader was slowed")
        self.verify(source)

    def test_stop_and_go(self):
        """Stopped and run on in the middle of it, then moved on."""
        source, destination = self.started()
        self.wait_slowed(source, 0.3)
        for _ in range(5):
            source.qmp.execute("stop")
            self.assertEqual(source.status(), "paused")
            source.qmp.execute("cont")
        info = self.ended(source)
        self.assertEqual(info["status"], "completed", info)
        destination.wait_status("running", 10)
        self.verify_lives(destination)

    def test_quit(self):
        source, destination = self.started()
        self.stay_slowed(source, 0.3)
        source.qmp.execute("quit")
        self.assertEqual(source.wait(20), 0)
        self.wait_dest(destination, ("failed", "none"))
        self.assert_waits(destination)

    def test_dirty_limit(self):
        destination, uri = self.slow_wire()
        trace = self.lab.path("src.trace")
        source = self.writer(**WRITER, extra=["--debug-exit", "--trace", trace])
        source.qmp.execute("migrate-set-capabilities",
                           capabilities=[{"capability": "dirty-limit", "state": True}])
        source.qmp.execute("migrate", uri=uri, **{"vcpu-dirty-limit": 4})
        self.wait_slowed(source, 0.3)
        # Read while it lasts: the trace ends with the migration.
        with open(trace, encoding="ascii") as lines:
            seen = [json.loads(line) for line in lines if line.endswith("\n")]
        self.assertGreater(max(line["throttle_permille"] for line in seen), 0)
        self.assertGreater(seen[-1]["stall_ns"], 0)
        answer = source.qmp.try_execute("migrate-set-capabilities", capabilities=[
            {"capability": "dirty-limit", "state": False}])
        self.assertIn("under way", answer["error"]["desc"])
        info = self.ended(source)
        self.assertEqual(info["status"], "completed", info)
        destination.wait_status("running", 10)
        self.verify_lives(destination)

    def test_command(self):
        """`ferry migrate --auto-converge` says who is slowed, and what it cost."""
        destination, uri = self.slow_wire()
        source = self.writer(**WRITER)
        done = subprocess.run([FERRY, "migrate", source.control_path, uri,
                               "--converge-time", "5"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=MIGRATE_SECONDS, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"vCPU 1 slowed to \d+ %")
        self.assertRegex(done.stdout, re.compile(r"^slowed down +the guest lost \d", re.M))
        self.assertNotIn("will not get done", done.stdout)
        destination.wait_status("running", 10)
        self.verify_lives(destination)


if __name__ == "__main__":
    sys.exit(main())
