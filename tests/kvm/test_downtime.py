#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The downtime: rehearsed, predicted, kept, and shown by its parts."""

import json
import subprocess
import sys
import time

import support_proxy as proxy
from support_faults import TINY, FaultTest, once
from support_proxy import FORWARD
from support_system import FERRY, ferrylab, main

NEVER_MS, PLENTY_MS = 1, 2000


def total(phases):
    return sum(sum(side.values()) for side in phases.values())


class DowntimeTest(FaultTest):
    def test_rehearsed(self):
        destination, uri = self.wait_at(cpus=2)
        source = self.writer(cpus=2, cmdline="size=32M rate=1000")
        source.qmp.events.clear()
        info = self.move(source, destination, uri)
        self.assertGreaterEqual(info["x-ferry-rehearsals"], 1)
        self.assertGreater(info["x-ferry-rehearsal-pause-ns-total"], 0)
        took, planned = info["x-ferry-downtime-phases"], info["x-ferry-predicted-phases"]
        self.assertEqual(total(took), info["x-ferry-downtime-ns"])
        self.assertEqual(total(planned), info["x-ferry-predicted-at-switch-ns"])
        self.assertEqual(set(took["destination"]), {"load", "start"})
        for name in ("pause", "collect", "sync", "state", "commit"):
            self.assertGreater(took["source"][name], 0, took)
        self.assertGreater(took["destination"]["load"], 0, took)
        # The guest was stopped once for all to see; rehearsals are nobody's business.
        source.qmp.execute("query-status")
        self.assertEqual([e["event"] for e in source.qmp.events].count("STOP"), 1)
        self.assertNotIn("RESUME", [e["event"] for e in source.qmp.events])
        self.verify_lives(destination)
        self.finish(destination)

    def test_commands_between_rehearsals(self):
        """A limit that cannot be kept: rehearsals go on, and stop and cont are never refused."""
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        between = self.proxy(uri)
        # The answer to a rehearsal is late: so would be the one in the switchover.

        def late(to_destination, kind):
            if (to_destination, kind) == (False, proxy.REHEARSED):
                time.sleep(0.03)
            return FORWARD

        between.on_frame = late
        self.begin(source, between.uri, downtime_limit=NEVER_MS)
        deadline = time.monotonic() + 30
        while self.query(source)["x-ferry-rehearsals"] < 3:
            self.assertLess(time.monotonic(), deadline)
            source.qmp.execute("stop")
            source.qmp.execute("cont")
        info = self.query(source)
        self.assertEqual(info["status"], "active", info)
        self.assertGreater(info["x-ferry-least-downtime-ns"], 30e6)
        self.assertEqual(info["x-ferry-switchovers-called-off"], 0)
        self.verify_lives(source)
        source.qmp.execute("migrate-set-parameters", downtime_limit=PLENTY_MS)
        source.wait_migration(30)
        self.verify_lives(destination)

    def test_called_off_while_loading(self):
        """READY does not come in time: the guest goes on at the source, and moves later."""
        destination, uri = self.wait_at()
        source = self.writer()
        between = self.proxy(uri)

        def hold():
            time.sleep(1)
            return FORWARD

        between.on_frame = once(hold, (False, proxy.READY))
        info = source.migrate(between.uri, 60)
        self.assertGreaterEqual(info["x-ferry-switchovers-called-off"], 1)
        self.assertIn((True, proxy.AGAIN), between.frames)
        self.assertGreaterEqual(between.frames.count((True, proxy.END)), 2)
        self.assert_gone(source)
        destination.wait_status("running", 10)
        self.verify_lives(destination)
        self.finish(destination)

    def test_shown(self):
        """What a person sees, and a program."""
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        done = subprocess.run([FERRY, "migrate", "--json", source.control_path, uri],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                              timeout=60, check=True, preexec_fn=ferrylab.die_with_parent)
        last = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual(last["event"], "done")
        self.assertEqual(total(last["x-ferry-downtime-phases"]), last["x-ferry-downtime-ns"])
        status = self.ferry("status", source.control_path)
        self.assertRegex(status, r"source +pause [0-9.]+ \([0-9.]+\), collect")
        self.assertRegex(status, r"destination +load [0-9.]+ \([0-9.]+\), start")
        self.verify_lives(destination)


class PauseTest(FaultTest):
    """The guest stands still before its switchover until somebody says so."""

    def switch_on(self, source):
        source.qmp.execute("migrate-set-capabilities", capabilities=[
            {"capability": "pause-before-switchover", "state": True},
            {"capability": "events", "state": True}])

    def wait_held(self, source):
        source.wait_migration(30, ("pre-switchover",))
        self.assertEqual(source.status(), "finish-migrate")
        self.assertIn("error", source.qmp.try_execute("cont"))

    def test_by_qmp(self):
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        self.assertIn("error", source.qmp.try_execute("migrate-continue", state="pre-switchover"))
        self.switch_on(source)
        source.qmp.events.clear()
        source.qmp.execute("migrate", uri=uri)
        self.wait_held(source)
        self.assert_waits(destination)
        self.assertIn("error", source.qmp.try_execute("migrate-continue", state="device"))
        source.qmp.execute("migrate-continue", state="pre-switchover")
        info = source.wait_migration(30)
        self.assertGreater(info["x-ferry-downtime-phases"]["source"]["held"], 0)
        states = [e["data"]["status"] for e in source.qmp.events if e["event"] == "MIGRATION"]
        self.assertEqual(states, ["setup", "active", "pre-switchover", "device", "completed"])
        destination.wait_status("running", 10)
        self.verify_lives(destination)

    def test_cancelled(self):
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        self.switch_on(source)
        source.qmp.execute("migrate", uri=uri)
        self.wait_held(source)
        source.qmp.execute("migrate_cancel")
        self.assert_failed(source, "cancelled", status="cancelled")
        self.verify_lives(source)
        self.wait_dest(destination, "failed")
        source.qmp.execute("migrate-set-capabilities", capabilities=[
            {"capability": "pause-before-switchover", "state": False}])
        self.succeeds(source, destination, uri)

    def test_by_command(self):
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        self.ferry("continue", source.control_path, status=1)
        process = subprocess.Popen([FERRY, "migrate", "--pause-before-switchover",
                                    source.control_path, uri], stdin=subprocess.DEVNULL, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   preexec_fn=ferrylab.die_with_parent)
        try:
            self.wait_held(source)
            time.sleep(0.3)
            self.assertIsNone(process.poll())
            self.ferry("continue", source.control_path)
            output = process.communicate(timeout=30)[0]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        self.assertEqual(process.returncode, 0, output)
        self.assertIn("ferry continue", output)
        self.assertIn("held", output)
        destination.wait_status("running", 10)
        self.verify_lives(destination)


if __name__ == "__main__":
    sys.exit(main())
