#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests move, go on as if nothing had happened, and verify themselves."""

import json
import os
import random
import re
import socket
import sys
import threading
import time

from support_system import (GUEST_SECONDS, MIGRATE_SECONDS, SMALL, SystemTest, guest, main,
                            words)

MIB = 1 << 20
RAM_FIELDS = {"transferred", "remaining", "total", "duplicate", "normal", "normal-bytes",
              "dirty-pages-rate", "mbps", "dirty-sync-count", "page-size", "multifd-bytes",
              "pages-per-second", "precopy-bytes", "downtime-bytes", "postcopy-bytes",
              "postcopy-requests", "dirty-sync-missed-zero-copy"}


class GuestsTest(SystemTest):
    """Each test guest is moved once."""

    def pair(self, kernel, cmdline=None, **options):
        """A guest that has said its first line, a destination, and its URI."""
        source = self.boot("src", kernel, cmdline, **options)
        return (source, *self.wait_at(**options))

    def test_idle(self):
        source, destination, uri = self.pair("idle", mem="32M")
        source.serial.expect(r"^idle: ready", GUEST_SECONDS)
        self.move(source, destination, uri)
        self.assertIsNone(destination.serial.line(0.2))
        destination.qmp.execute("quit")
        self.assertEqual(destination.wait(10), 0)

    def writing(self, cmdline, cpus=1, **options):
        destination, uri = self.wait_at(cpus=cpus, **options)
        source = self.writer(cmdline=cmdline, cpus=cpus, **options)
        info = self.move(source, destination, uri)
        if "rate=none" in cmdline:
            self.verify(destination)
        else:
            self.verify_lives(destination)
        self.finish(destination)
        return info

    def test_writer_idle(self):
        info = self.writing("size=32M rate=none")
        self.assertGreaterEqual(info["ram"]["normal-bytes"], 32 * MIB)

    def test_writer(self):
        self.writing("size=32M rate=1000")

    def test_writer_text_4_cpus(self):
        self.writing("size=32M rate=2000 fill=text pattern=uniform", cpus=4)

    def test_writer_zero(self):
        info = self.writing("size=32M rate=500 fill=zero pattern=hot")
        self.assertGreater(info["ram"]["duplicate"], 32 * MIB // 4096 // 2)

    def test_writer_flat_out(self):
        """As fast as the guest can, over a link that is faster still or a limit that is generous."""
        destination, uri = self.wait_at(cpus=2)
        source = self.writer(cmdline="size=16M rate=0 pattern=uniform", cpus=2)
        source.qmp.execute("migrate-set-parameters", downtime_limit=5000)
        self.move(source, destination, uri)
        self.verify_lives(destination)
        self.finish(destination)

    def test_memory_above_4g(self):
        cmdline = "size=3400M fill=zero rate=200 pattern=uniform"
        destination, uri = self.wait_at(mem="5G")
        source = self.writer(cmdline=cmdline, mem="5G")
        self.wait_writes(source, 100)
        self.move(source, destination, uri)
        self.finish(destination)  # it verifies every page

    def test_memory_backends(self):
        """Where RAM comes from is each side's own business."""
        destination, uri = self.wait_at(extra=["--debug-exit", "--mem-backend", "memfd"])
        source = self.writer()
        self.move(source, destination, uri)
        self.verify_lives(destination)
        third, uri = self.wait_at("third")
        self.move(destination, third, uri)
        self.verify_lives(third)
        self.finish(third)

    def smp(self, cpus):
        source, destination, uri = self.pair("smp", cpus=cpus)
        source.serial.expect(rf"^smp: cpus={cpus} ok", GUEST_SECONDS)
        before = self.verify(source, "smp")
        self.move(source, destination, uri)
        after = self.verify(destination, "smp")
        deadline = time.monotonic() + GUEST_SECONDS
        while after["passes"] <= before["passes"]:
            self.assertLess(time.monotonic(), deadline, "the token stands still")
            after = self.verify(destination, "smp")
        self.finish(destination, "smp")

    def test_smp_1(self):
        self.smp(1)

    def test_smp_2(self):
        self.smp(2)

    def test_smp_4(self):
        self.smp(4)

    def test_smp_64(self):
        self.smp(64)

    def test_fpu(self):
        source, destination, uri = self.pair("fpu", cpus=2)
        source.serial.expect(r"^fpu: ready cpus=2", GUEST_SECONDS)
        before = self.verify(source, "fpu")
        for ferry in (source, destination):
            ferry.serial.seen.clear()
        self.move(source, destination, uri)
        after = self.verify(destination, "fpu")
        self.assertGreater(after["rounds"], before["rounds"])
        self.assertEqual((after["avx"], after["avx512"]), (before["avx"], before["avx512"]))
        self.finish(destination, "fpu")

    def test_multiboot(self):
        """Moved before its first instruction: it boots at the destination."""
        module = self.lab.path("module")
        with open(module, "wb") as file:
            file.write(bytes(range(64)))
        source = self.lab.start("src", kernel=guest("mboot"), cmdline="moved", mem="64M",
                                extra=["--debug-exit", "--paused", "--initrd", module])
        destination, uri = self.wait_at()
        source.migrate(uri, MIGRATE_SECONDS)
        self.assert_gone(source)
        destination.wait_status(("paused", "prelaunch"), 10)
        destination.qmp.execute("cont")
        said = destination.serial.collect(r"^mboot: done ok", GUEST_SECONDS)[0]
        self.assertIn("mboot: magic ok", said)
        self.assertTrue(any("cmdline=" in line and "moved" in line for line in said), said)
        self.assertTrue(any("size=64 bytes=0x" in line for line in said), said)
        self.assertEqual(destination.wait(GUEST_SECONDS), 1)


class TimeTest(SystemTest):
    """Timers tick on, and clocks show real time: the guest can measure its own blackout."""

    def read(self, ferry):
        """The guest's figures, and the host's time before and after they were taken, in us."""
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) // 1000
        figures = words(self.ask(ferry, "s", r"^timer: ticks"))
        return figures, before, time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) // 1000

    def timer(self, cmdline, cpus=1):
        destination, uri = self.wait_at(cpus=cpus)
        source = self.boot("src", "timer", cmdline, cpus=cpus)
        if "no TSC-deadline" in source.serial.expect(r"^timer: (ready|FAILED)",
                                                     GUEST_SECONDS).string:
            self.skipTest("this KVM has no TSC-deadline timer")
        first, first_begin, first_end = self.read(source)
        source.qmp.execute("stop")
        time.sleep(0.2)
        source.qmp.execute("cont")
        self.move(source, destination, uri)
        time.sleep(0.3)
        last, last_begin, last_end = self.read(destination)
        for clock in ("t_us", "kvmclock_us"):
            went = last[clock] - first[clock]
            slack = (last_end - first_begin) // 100 + 20000
            if clock == "kvmclock_us" and not last[clock]:
                continue  # this hypervisor has none
            self.assertGreaterEqual(went, last_begin - first_end - slack, (clock, first, last))
            self.assertLessEqual(went, last_end - first_begin + slack, (clock, first, last))
        self.assertEqual(last["back"], 0)
        for ticks in ("lapic", "pit"):
            self.assertGreater(last[ticks], first[ticks], ticks)
        # And they go on ticking here.
        time.sleep(0.3)
        later = self.read(destination)[0]
        for ticks in ("lapic", "pit"):
            self.assertGreater(later[ticks], last[ticks], ticks)
        self.finish(destination, "timer")

    def test_periodic(self):
        self.timer("mode=periodic")

    def test_deadline(self):
        self.timer("mode=deadline")

    def test_xapic(self):
        self.timer("mode=periodic hz=250 apic=x")


class SerialTest(SystemTest):
    """Bytes typed during a move: each side's serial port is its own, and none is lost between."""

    def collector(self, ferry):
        """A connection to a serial port; everything that comes is added to the bytearray."""
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.connect(ferry.serial_path)
        sock.settimeout(0.1)
        said, over = bytearray(), threading.Event()

        def collect():
            while not over.is_set():
                try:
                    data = sock.recv(4096)
                except socket.timeout:
                    continue
                except OSError:
                    return
                if not data:
                    return
                said.extend(data)

        thread = threading.Thread(target=collect)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(over.set)
        return sock, said

    def wait_for(self, said, wanted):
        deadline = time.monotonic() + GUEST_SECONDS
        while wanted not in bytes(said):
            self.assertLess(time.monotonic(), deadline, f"{wanted}, not only {bytes(said[-200:])}")
            time.sleep(0.01)

    def test_typing(self):
        destination, uri = self.wait_at()
        source = self.lab.start("src", kernel=guest("echo"), cmdline="cpus=1", **SMALL)
        keys, at_source = self.collector(source)
        new_keys, at_destination = self.collector(destination)
        self.wait_for(at_source, b"echo: ready\n")
        source.qmp.execute("migrate-set-parameters", max_bandwidth=MIB // 10)
        source.qmp.execute("migrate", uri=uri)
        typed = []
        while self.query(source)["status"] in ("setup", "active", "device"):
            line = f"line {len(typed)} " + "abcdefghij"[:len(typed) % 11]
            keys.settimeout(5)
            try:
                keys.sendall(line.encode() + b"\n")
            except socket.timeout:  # the guest left while it was still behind with reading
                break
            keys.settimeout(0.1)
            typed.append(line)
            time.sleep(random.uniform(0, 0.004))
        self.assertEqual(self.query(source)["status"], "completed")
        destination.wait_status("running", 10)
        new_keys.sendall(b"\nthe end\n")
        self.wait_for(at_destination, b"the end\n")

        text = (bytes(at_source) + bytes(at_destination)).decode().replace("\r", "")
        lines = re.findall(r"^echo: (.*)$", text, re.M)
        self.assertEqual((lines[:2], lines[-1]), (["start", "ready"], "the end"), text[-500:])
        echoed = lines[2:-1]
        # The last may be the part of a line that the source's port had taken in.
        self.assertEqual(echoed[:-1], typed[:len(echoed) - 1])
        if echoed:
            self.assertTrue(typed[len(echoed) - 1].startswith(echoed[-1]), echoed[-1])
        self.assertGreater(len(echoed), 10)
        new_keys.sendall(b"quit\n")
        self.wait_for(at_destination, b"echo: done ok")


class CourseTest(SystemTest):
    """How a migration goes: figures, events, parameters, states."""

    def check_ram(self, info, mem_bytes):
        ram = info["ram"]
        self.assertEqual(RAM_FIELDS - ram.keys(), set())
        self.assertEqual((ram["total"], ram["page-size"]), (mem_bytes, 4096))
        self.assertEqual(ram["normal-bytes"], ram["normal"] * 4096)
        self.assertLessEqual(ram["remaining"], ram["total"])
        self.assertEqual(ram["postcopy-bytes"], 0)

    def test_figures_and_events(self):
        destination, uri = self.wait_at(cpus=2)
        source = self.writer(cpus=2)
        events = [{"capability": "events", "state": True}]
        for ferry in (source, destination):
            ferry.qmp.execute("migrate-set-capabilities", capabilities=events)
        self.assertEqual(self.query(source), {})
        self.assertEqual(self.query(destination)["status"], "none")
        self.begin(source, uri, max_bandwidth=16 * MIB)
        seen, done = [], None
        while not done:
            info = self.query(source)
            seen.append(info["status"])
            if info["status"] == "active":
                self.check_ram(info, 64 * MIB)
                self.assertIn("expected-downtime", info)
                self.assertNotIn("downtime", info)
                self.assertIn(source.status(), ("running", "finish-migrate", "postmigrate"))
            elif info["status"] == "completed":
                done = info
            time.sleep(0.05)
        self.assertEqual(seen[0], "active")
        self.assertTrue(set(seen) <= {"active", "device", "completed"}, seen)

        ram = done["ram"]
        self.check_ram(done, 64 * MIB)
        self.assertIn("downtime", done)
        self.assertNotIn("expected-downtime", done)
        self.assertEqual(ram["remaining"], 0)
        self.assertGreaterEqual(ram["normal"] + ram["duplicate"], 64 * MIB // 4096)
        self.assertGreaterEqual(ram["transferred"], ram["normal-bytes"])
        self.assertEqual(ram["precopy-bytes"] + ram["downtime-bytes"], ram["transferred"])
        self.assertGreaterEqual(ram["dirty-sync-count"], 2)
        self.assertLessEqual(done["downtime"], done["total-time"])
        self.assertLessEqual(done["setup-time"], done["total-time"])
        # 32 MiB of what cannot be shrunk at 16 MiB/s.
        self.assertGreater(done["total-time"], 1500)

        other = self.query(destination)
        self.check_ram(other, 64 * MIB)
        for figure in ("normal", "duplicate"):
            self.assertEqual(other["ram"][figure], ram[figure])
        self.assertLessEqual(other["ram"]["transferred"], ram["transferred"])

        self.assert_gone(source)
        self.assertEqual(destination.status(), "running")
        told = [event for event in source.qmp.events if event["event"].startswith("MIGRATION")]
        states = [event["data"]["status"] for event in told if event["event"] == "MIGRATION"]
        self.assertEqual(states, ["setup", "active", "device", "completed"])
        passes = [event["data"]["pass"] for event in told if event["event"] == "MIGRATION_PASS"]
        self.assertEqual(passes, list(range(1, len(passes) + 1)))
        self.assertGreaterEqual(len(passes), 2)
        self.assertIn("STOP", [event["event"] for event in source.qmp.events])
        self.assertNotIn("RESUME", [event["event"] for event in source.qmp.events])
        states = [event["data"]["status"] for event in destination.qmp.events
                  if event["event"] == "MIGRATION"]
        self.assertEqual(states, ["active", "device", "completed"])
        self.assertIn("RESUME", [event["event"] for event in destination.qmp.events])
        for event in source.qmp.events:
            self.assertEqual(set(event["timestamp"]), {"seconds", "microseconds"})
        self.verify_lives(destination)

    def test_no_migration_events_unless_asked(self):
        destination, uri = self.wait_at()
        source = self.boot("src", "idle")
        self.move(source, destination, uri)
        self.assertEqual([event["event"] for event in source.qmp.events], ["STOP"])

    def test_paused_guest_stays_paused(self):
        destination, uri = self.wait_at()
        source = self.writer()
        source.qmp.execute("stop")
        source.migrate(uri)
        self.assert_gone(source)
        destination.wait_status("paused", 10)
        destination.serial.send("v")
        self.assertIsNone(destination.serial.line(0.3))
        destination.qmp.execute("cont")
        destination.serial.expect(r"^writer: verify ok", GUEST_SECONDS)
        self.verify_lives(destination)
        self.finish(destination)

    def test_stop_and_cont_while_moving(self):
        """Paused while it moves, it arrives paused, or runs on if it was let run again."""
        destination, uri = self.wait_at()
        source = self.writer()
        self.begin(source, uri, max_bandwidth=16 * MIB)
        source.qmp.execute("stop")
        self.assertEqual(source.status(), "paused")
        source.qmp.execute("cont")
        source.qmp.execute("stop")
        self.ended(source)
        self.assert_gone(source)
        destination.wait_status("paused", 10)
        destination.qmp.execute("cont")
        self.verify_lives(destination)
        self.finish(destination)

    def test_unix_socket(self):
        path = self.lab.path("migration")
        destination = self.lab.start("dst", incoming=f"unix:{path}", **SMALL)
        source = self.writer()
        self.move(source, destination, f"unix:{path}")
        self.verify_lives(destination)
        self.assertFalse(os.path.exists(path))

    def test_deferred(self):
        destination = self.lab.start("dst", incoming="defer", **SMALL)
        uri = f"unix:{self.lab.path('migration')}"
        source = self.writer()
        source.qmp.execute("migrate", uri=uri)
        self.assert_failed(source, "No such file|connect")
        destination.qmp.execute("migrate-incoming", uri=uri)
        self.assertIn("error", destination.qmp.try_execute("migrate-incoming", uri=uri))
        self.move(source, destination, uri)
        self.verify_lives(destination)

    def test_endless_guest(self):
        """A guest that writes faster than the link carries: figures say so, a cancel ends it, and
        another limit lets it come to an end."""
        destination, uri = self.wait_at(cpus=2)
        source = self.writer(cmdline="size=32M rate=0 pattern=uniform", cpus=2)
        self.begin(source, uri, max_bandwidth=24 * MIB, downtime_limit=20)
        deadline = time.monotonic() + MIGRATE_SECONDS
        while True:
            info = self.query(source)
            self.assertEqual(info["status"], "active", info)
            if info["x-ferry-passes"] >= 3 and info["ram"]["dirty-pages-rate"] > 0:
                break
            self.assertLess(time.monotonic(), deadline, info)
            time.sleep(0.1)
        self.assertGreater(info["expected-downtime"], 20)
        source.qmp.execute("migrate_cancel")
        self.assert_failed(source, "cancel", status="cancelled")
        self.verify_lives(source)
        self.wait_dest(destination, "failed")
        self.assert_waits(destination)

        self.begin(source, uri)
        time.sleep(0.5)
        self.assertEqual(self.query(source)["status"], "active")
        source.qmp.execute("migrate-set-parameters", max_bandwidth=0, downtime_limit=10000)
        info = source.wait_migration(MIGRATE_SECONDS)
        self.assertEqual(info["x-ferry-downtime-limit-ns"], 10**10)
        self.assert_gone(source)
        destination.wait_status("running", 10)
        self.verify_lives(destination)
        self.finish(destination)

    def test_bandwidth_live(self):
        """A migration that would take minutes ends at once when the limit is taken away."""
        destination, uri = self.wait_at()
        source = self.writer()
        self.begin(source, uri, max_bandwidth=64 * 1024)
        time.sleep(0.5)
        info = self.query(source)
        self.assertEqual(info["status"], "active")
        self.assertLess(info["ram"]["transferred"], 8 * MIB)
        source.qmp.execute("migrate-set-parameters", max_bandwidth=0)
        self.assertEqual(source.qmp.execute("query-migrate-parameters")["max-bandwidth"], 0)
        source.wait_migration(30)
        destination.wait_status("running", 10)
        self.verify_lives(destination)

    def test_back_and_forth(self):
        source = self.writer("side0", "size=32M rate=2000 pattern=uniform", cpus=2)
        writes = 0
        for i in range(1, 21):
            destination, uri = self.wait_at(f"side{i}", cpus=2)
            self.move(source, destination, uri)
            source.qmp.execute("quit")
            self.assertEqual(source.wait(10), 0)
            if i % 5 == 0:
                figures = self.verify(destination)
                self.assertGreater(figures["writes"], writes)
                writes = figures["writes"]
            source = destination
        self.verify_lives(source)
        self.finish(source)


    def test_back_and_forth_flat_out(self):
        """Written to as fast as the guest can, between sides with different kinds of memory."""
        source = self.writer("side0", "size=16M rate=0 pattern=uniform", cpus=2)
        for i in range(1, 9):
            backend = ("anon", "memfd")[i % 2]
            destination, uri = self.wait_at(f"side{i}", cpus=2,
                                            extra=["--debug-exit", "--mem-backend", backend])
            source.qmp.execute("migrate-set-parameters", downtime_limit=5000)
            self.move(source, destination, uri)
            source.stop()
            self.verify(destination)
            source = destination
        self.verify_lives(source)
        self.finish(source)


class CommandTest(SystemTest):
    """`ferry migrate`."""

    def test_text(self):
        destination, uri = self.wait_at()
        source = self.writer()
        output = self.ferry("migrate", "--max-bandwidth", "16M", source.control_path, uri)
        self.assertRegex(output, r"active +\d+%")
        self.assertRegex(output, r"(?s)completed.*downtime +[\d.]+ ms")
        self.assertIn("postmigrate", self.ferry("status", source.control_path))
        self.verify_lives(destination)
        self.ferry("quit", source.control_path)
        self.assertEqual(source.wait(10), 0)

    def test_json(self):
        destination, uri = self.wait_at()
        source = self.writer()
        output = self.ferry("migrate", "--json", "--downtime-limit", "500", source.control_path,
                            uri)
        lines = [json.loads(line) for line in output.splitlines()]
        self.assertEqual((lines[-1]["event"], lines[-1]["status"]), ("done", "completed"))
        self.assertEqual(lines[-1]["x-ferry-downtime-limit-ns"], 500 * 10**6)
        for line in lines[:-1]:
            self.assertEqual(line["event"], "progress")
        self.verify_lives(destination)

    def test_failure(self):
        source = self.writer()
        output = self.ferry("migrate", source.control_path, f"unix:{self.lab.path('no')}", status=1)
        self.assertIn("keeps running here", output)
        self.ferry("migrate", source.control_path, "http://x/", status=2)
        self.verify_lives(source)


if __name__ == "__main__":
    sys.exit(main())
