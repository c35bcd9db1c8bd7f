#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Processes that end or fall silent while a guest moves: it runs on exactly one side."""

import os
import random
import signal
import sys
import time

import support_proxy as proxy
from support_faults import TINY, FaultTest, once
from support_proxy import FORWARD
from support_system import GUEST_SECONDS, MIGRATE_SECONDS, main

MIB = 1 << 20


class EndTest(FaultTest):
    """Processes that end in the middle."""

    def test_quit_source(self):
        destination, uri = self.wait_at()
        source = self.writer()
        self.begin(source, uri, max_bandwidth=8 * MIB)
        source.qmp.execute("quit")
        self.assertEqual(source.wait(20), 0)
        self.wait_dest(destination, "failed")
        self.assert_waits(destination)
        self.succeeds(self.writer("next"), destination, uri)

    def test_quit_destination(self):
        destination, uri = self.wait_at()
        source = self.writer()
        self.begin(source, uri, max_bandwidth=8 * MIB)
        destination.qmp.execute("quit")
        self.assertEqual(destination.wait(20), 0)
        self.assert_failed(source, ".")
        self.verify_lives(source)
        destination, uri = self.wait_at("next")
        self.succeeds(source, destination, uri)

    def test_guest_ends_while_moving(self):
        destination, uri = self.wait_at()
        source = self.writer()
        self.begin(source, uri, max_bandwidth=8 * MIB)
        source.serial.send("q")
        self.assertEqual(source.wait(GUEST_SECONDS), 1)
        self.wait_dest(destination, "failed")
        self.assert_waits(destination)

    def check_source(self, source, between):
        """After the destination's death: where is the guest? True if it is still here."""
        info = self.ended(source)
        if info["status"] in ("completed", "undecided"):
            # Only a destination that was ready can have been given the guest.
            self.assertIn((False, proxy.READY), between.frames)
            self.assert_gone(source)
            return False
        self.assertEqual(info["status"], "failed", info)
        self.assertNotIn((True, proxy.COMMIT), between.frames)
        self.assertIn("keeps running here", info["error-desc"])
        self.verify_lives(source)
        return True

    def test_kill_destination(self):
        """At random moments, and at each step of the handover."""
        generator = random.Random(time.time_ns())
        steps = [(True, proxy.PASS), (True, proxy.SECTION), (True, proxy.END),
                 (False, proxy.READY), (True, proxy.COMMIT), (False, proxy.RUNNING)]
        plan = [(None, generator.uniform(0, 0.7)) for _ in range(12)]
        plan += [(step, generator.uniform(0, 0.005)) for step in steps * 2]
        generator.shuffle(plan)
        source, sources = None, 0
        for i, (step, delay) in enumerate(plan):
            if not source:
                sources += 1
                source = self.writer(f"src{sources}", "size=8M rate=1000")
                source.qmp.execute("migrate-set-parameters", max_bandwidth=16 * MIB)
            destination, uri = self.wait_at(f"dst{i}")
            between = self.proxy(uri)
            if step:
                def kill(pid=destination.pid, wait=delay):
                    time.sleep(wait)
                    os.kill(pid, signal.SIGKILL)
                    return FORWARD

                between.on_frame = once(kill, step)
                source.qmp.execute("migrate", uri=between.uri)
            else:
                source.qmp.execute("migrate", uri=between.uri)
                time.sleep(delay)
                os.kill(destination.pid, signal.SIGKILL)
            if not self.check_source(source, between):
                source.stop()
                source = None
            destination.kill()
            between.close()

    def check_destination(self, destination, between, forwarded):
        """After the source's death. True if the destination waits for another guest."""
        info = self.wait_dest(destination, ("failed", "none", "undecided", "completed"))
        if forwarded:
            self.assertEqual(info["status"], "completed", info)
        if info["status"] == "completed":
            self.assertIn((True, proxy.COMMIT), between.frames)
            destination.wait_status("running", 10)
            self.verify_lives(destination)
            return False
        self.assert_waits(destination)
        if info["status"] == "undecided":
            self.assertIn((True, proxy.END), between.frames)
            self.assertIn("error", destination.qmp.try_execute("x-ferry-commit", token="1"))
            self.assert_waits(destination)
            return False
        return True

    def test_kill_source(self):
        generator = random.Random(time.time_ns())
        steps = [(True, proxy.PASS), (True, proxy.SECTION), (True, proxy.END),
                 (False, proxy.READY), (True, proxy.COMMIT), (False, proxy.RUNNING)]
        plan = [(None, generator.uniform(0, 0.7)) for _ in range(8)]
        plan += [(step, generator.uniform(0, 0.005)) for step in steps * 2]
        generator.shuffle(plan)
        destination, between = None, None
        for i, (step, delay) in enumerate(plan):
            if not destination:
                destination, uri = self.wait_at(f"dst{i}")
            between = self.proxy(uri)
            source = self.writer(f"src{i}", "size=8M rate=1000")
            source.qmp.execute("migrate-set-parameters", max_bandwidth=16 * MIB)
            if step:
                def kill(pid=source.pid, wait=delay):
                    time.sleep(wait)
                    os.kill(pid, signal.SIGKILL)
                    return FORWARD

                between.on_frame = once(kill, step)
                source.qmp.execute("migrate", uri=between.uri)
                self.assertEqual(source.wait(MIGRATE_SECONDS), -signal.SIGKILL)
            else:
                source.qmp.execute("migrate", uri=between.uri)
                time.sleep(delay)
            source.kill()
            forwarded = step in ((True, proxy.COMMIT), (False, proxy.RUNNING))
            if not self.check_destination(destination, between, forwarded):
                destination.stop()
                destination = None
            between.close()
        if not destination:
            destination, uri = self.wait_at("last")
        self.succeeds(self.writer("good", TINY), destination, uri)


def stands_still(path):
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


class SilentPeerTest(FaultTest):
    """Peers that stop in the middle without a word: every wait has its bound."""

    def setUp(self):
        super().setUp()
        self.addCleanup(self.wake)
        self.stopped = []

    def wake(self):
        for ferry in self.stopped:
            if ferry.process.poll() is None:
                ferry.process.send_signal(signal.SIGCONT)

    def freeze(self, ferry):
        """Stop a process; returns when all its threads stand still."""
        ferry.process.send_signal(signal.SIGSTOP)
        tasks = f"/proc/{ferry.pid}/task"
        deadline = time.monotonic() + 10
        while not all(stands_still(f"{tasks}/{task}/stat") for task in os.listdir(tasks)):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)

    def stop_at(self, ferry, which):
        """For Proxy.on_frame: the process stands still before this frame goes on."""
        self.stopped.append(ferry)

        def stop():
            self.freeze(ferry)
            return FORWARD

        return once(stop, which)

    def pair(self, name, cmdline=TINY):
        destination, uri = self.wait_at(f"{name}-dst")
        return self.writer(f"{name}-src", cmdline), destination, uri

    def test_silence(self):
        """Five pairs at once, since most of the time is spent waiting."""
        door, door_dst, door_uri = self.pair("door")
        ram, ram_dst, ram_uri = self.pair("ram", "size=32M rate=1000")
        lost, lost_dst, lost_uri = self.pair("lost", "size=32M rate=1000")
        end, end_dst, end_uri = self.pair("end")
        ready, ready_dst, ready_uri = self.pair("ready")
        started = time.monotonic()

        # 1. The destination does not even answer the greeting (10 s).
        self.stopped.append(door_dst)
        self.freeze(door_dst)
        door.qmp.execute("migrate", uri=door_uri)
        # 2. The destination, 3. the source stand still while memory is sent (4 s).
        self.begin(ram, ram_uri, max_bandwidth=8 * MIB)
        self.stopped.append(ram_dst)
        self.freeze(ram_dst)
        ram.qmp.execute("migrate-set-parameters", max_bandwidth=0)
        self.begin(lost, lost_uri, max_bandwidth=8 * MIB)
        self.stopped.append(lost)
        self.freeze(lost)
        # 4. The destination never gets ready (5 s): the guest must not stand still for long.
        end_proxy = self.proxy(end_uri, on_frame=self.stop_at(end_dst, (True, proxy.END)))
        end.qmp.execute("migrate", uri=end_proxy.uri)
        # 5. The source falls silent when it should decide: the destination waits for its word.
        ready_proxy = self.proxy(ready_uri, on_frame=self.stop_at(ready, (False, proxy.READY)))
        ready.qmp.execute("migrate", uri=ready_proxy.uri)

        self.assert_failed(end, ".")
        self.verify_lives(end)
        end_dst.process.send_signal(signal.SIGCONT)
        self.wait_dest(end_dst, ("failed", "undecided"))
        self.assert_waits(end_dst)

        self.assert_failed(door, ".")
        self.verify_lives(door)
        door_dst.process.send_signal(signal.SIGCONT)

        info = self.query(ready_dst)
        self.assertEqual(info["status"], "device")
        self.assertIn("the source is silent", info["error-desc"])
        self.assert_waits(ready_dst)
        ready.process.send_signal(signal.SIGCONT)
        # It finds READY, and that it is far too late to decide: it calls the switchover off, the
        # destination goes back to receiving, and another attempt fits.
        info = self.ended(ready)
        self.assertEqual(info["status"], "completed", info)
        self.assertGreaterEqual(info["x-ferry-switchovers-called-off"], 1)
        self.verify_lives(ready_dst)

        self.assert_failed(ram, ".")
        self.verify_lives(ram)
        ram_dst.process.send_signal(signal.SIGCONT)
        self.wait_dest(lost_dst, "failed")
        self.assert_waits(lost_dst)
        lost.process.send_signal(signal.SIGCONT)
        self.assert_failed(lost, ".")
        self.verify_lives(lost)
        self.assertLess(time.monotonic() - started, 120)
        for source, destination, uri in ((door, door_dst, door_uri), (ram, ram_dst, ram_uri),
                                         (lost, lost_dst, lost_uri)):
            self.wait_dest(destination, ("failed", "none"))
            self.succeeds(source, destination, uri)


if __name__ == "__main__":
    sys.exit(main())
