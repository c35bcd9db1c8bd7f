#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""virtio devices with Linux's drivers, and moving a guest that uses them."""

import os
import sys
import time

from support_linux import MEM, needs_image
from support_system import GUEST_SECONDS, LabError, SystemTest, free_port, main
from support_virtio import MAC, MIB, Peer, VirtioTest

TYPED_BYTES = 60000  # more than the guest echoes until it is handed over


@needs_image
class DevicesTest(VirtioTest):
    """All kinds of devices in one guest: booting is what takes time."""

    def setUp(self):
        super().setUp()
        self.console = self.lab.path("console")
        self.disk_a = self.disk("a.img")
        self.disk_b = self.disk("b.img", 1, b"what the host wrote".ljust(512, b"."))
        self.peer = Peer(self.lab.path("net"))
        self.addCleanup(self.peer.close)

    def check_disks(self, guest):
        self.assertEqual(self.shell(guest, "cat /sys/block/vda/serial; echo; "
                                           "cat /sys/block/vdb/ro /sys/block/vdb/size"),
                         ["first", "1", "2048"])
        self.assertEqual(self.shell(guest, "head -c 19 /dev/vdb; echo"), ["what the host wrote"])
        self.shell(guest, "mke2fs /dev/vda >/dev/null && mkdir -p /mnt && mount /dev/vda /mnt")
        self.tell(guest, "file /mnt/store 2")
        self.tell(guest, "check")
        self.tell(guest, "free all")
        total = self.shell(guest, "md5sum /mnt/store && umount /mnt && mount /dev/vda /mnt && "
                                  "md5sum /mnt/store")
        self.assertEqual(total[0], total[1])
        self.shell(guest, "echo written by the guest >/mnt/note; umount /mnt")
        with open(self.disk_a, "rb") as image:
            self.assertIn(b"written by the guest\n", image.read())

    def check_small_ones(self, guest):
        self.assertEqual(self.shell(guest, "cat /sys/class/misc/hw_random/rng_current"),
                         ["virtio_rng.0"])
        random = [self.shell(guest, "head -c 32 /dev/hwrng >/tmp/r; md5sum /tmp/r")[0]
                  for _ in range(2)]
        self.assertNotEqual(random[0], random[1])
        self.tell(guest, "echo /dev/hvc0")
        self.console_echo(self.console, 20000)
        self.tell(guest, "net eth0 10.9.0.2/24")
        self.assertEqual(self.shell(guest, "cat /sys/class/net/eth0/address"), [MAC])
        ping = self.tell(guest, "ping 10.9.0.1 5")
        self.assertEqual(ping["received"], ping["sent"])
        self.assertGreater(self.peer.frames, 5)

    def check_balloon(self, guest):
        before = int(self.tell(guest, "mem")["free_kb"])
        during = self.balloon_to(guest, 224)
        self.assertAlmostEqual(before - during, 32 * 1024, delta=12288)
        guest.qmp.wait_event("BALLOON_CHANGE", GUEST_SECONDS)
        after = self.balloon_to(guest, 256)
        self.assertAlmostEqual(before, after, delta=12288)
        guest.qmp.execute("query-balloon")
        time.sleep(1)
        stats = guest.qmp.execute("query-balloon")["x-ferry-stats"]["stats"]
        self.assertAlmostEqual(stats["stat-free-memory"] / 1024, after, delta=8192)

    def test_devices(self):
        guest, _ = self.start(2, extra=[
            "--disk", f"{self.disk_a},serial=first,queues=2", "--disk", f"{self.disk_b},ro",
            "--net", f"unix={self.lab.path('net')},mac={MAC}", "--rng", "--balloon",
            "--console", f"unix:{self.console}"])
        devices = guest.qmp.execute("query-status")["x-ferry-devices"]
        self.assertEqual([(d["name"], d["instance"]) for d in devices],
                         [("virtio-blk", 0), ("virtio-blk", 1), ("virtio-net", 0),
                          ("virtio-rng", 0), ("virtio-balloon", 0), ("virtio-console", 0)])
        self.check_disks(guest)
        self.check_small_ones(guest)
        guest.qmp.execute("stop")
        guest.qmp.execute("cont")
        self.check_balloon(guest)
        self.power_off(guest)


@needs_image
class MoveTest(VirtioTest):
    """A guest is moved while it writes to its disk; its store tells what became of the writes."""

    def test_move_while_writing(self):
        console = [self.lab.path("console.src"), self.lab.path("console.dst")]
        devices = ["--disk", self.disk("disk.img") + ",queues=2", "--rng", "--balloon"]
        guest, _ = self.start(2, extra=[*devices, "--console", f"unix:{console[0]}"])
        self.tell(guest, "echo /dev/hvc0")
        self.console_echo(console[0], 2000)
        self.balloon_to(guest, 240)
        store = self.tell(guest, "file /dev/vda 16")["id"]
        self.tell(guest, f"churn {store} 1000")

        destination, uri = self.wait_at(mem=MEM, cpus=2, extra=[
            *devices, "--console", f"unix:{console[1]}"])
        there = self.type_console(console[1], b"")
        typed = os.urandom(TYPED_BYTES)
        here = self.type_console(console[0], typed)
        self.move(guest, destination, uri)
        # What the guest has said at the source comes from there, the rest where it is now.
        echoed = self.hear_console(here, TYPED_BYTES)
        self.assertLess(len(echoed), TYPED_BYTES, "nothing was in flight")
        there.settimeout(GUEST_SECONDS)
        while len(echoed) < TYPED_BYTES:
            echoed += there.recv(TYPED_BYTES - len(echoed))
        self.assertTrue(echoed == typed, "not what was typed")
        there.close()

        first = self.tell(destination, f"churn {store} 1000")
        self.tell(destination, "check")
        last = self.tell(destination, f"churn {store} 0")
        self.assertGreater(int(last["written"]), int(first["written"]))
        self.tell(destination, "check")
        self.console_echo(console[1], 2000)
        self.assertEqual(destination.qmp.execute("query-balloon")["actual"], 240 * MIB)
        self.balloon_to(destination, 256)
        self.shell(destination, "head -c 16 /dev/hwrng >/dev/null")
        self.power_off(destination)

    def test_free_memory_stays(self):
        """What the guest has just freed is not sent, what it holds arrives."""
        guest, _ = self.start(extra=["--balloon"])
        self.tell(guest, "fill 16")
        freed = self.tell(guest, "fill 64")["id"]
        self.tell(guest, f"free {freed}")
        destination, uri = self.wait_at(mem=MEM, extra=["--balloon"])
        guest.qmp.execute("migrate-set-parameters", max_bandwidth=16 * MIB)
        ram = self.move(guest, destination, uri)["ram"]
        self.assertGreater(ram["x-ferry-free-pages"] * ram["page-size"], 32 * MIB, ram)
        self.assertLess(ram["transferred"], 64 * MIB, ram)
        self.tell(destination, "check")
        self.tell(destination, "fill 64")  # the guest has its free memory back
        self.tell(destination, "check")
        self.power_off(destination)


class RefusalTest(SystemTest):
    """What does not fit together, with a guest that does not care for its devices."""

    def check_refused(self, source, extra, reason):
        uri = f"tcp:127.0.0.1:{free_port()}"
        destination, _ = self.wait_at(f"dst{uri[-5:]}", incoming=uri,
                                      extra=["--debug-exit", *extra])
        source.qmp.execute("migrate", uri=uri)
        self.assert_failed(source, reason)
        self.assert_waits(destination)

    def test_other_devices(self):
        disk, other = self.lab.path("disk"), self.lab.path("other")
        for path, size in ((disk, MIB), (other, 2 * MIB)):
            with open(path, "wb") as image:
                image.truncate(size)
        source = self.writer(extra=["--debug-exit", "--disk", disk, "--rng"])
        self.check_refused(source, ["--disk", disk], "virtio-rng")
        self.check_refused(source, ["--disk", disk, "--rng", "--balloon"], "same devices")
        self.check_refused(source, ["--disk", f"{disk},queues=3", "--rng"], "queues")
        self.check_refused(source, ["--disk", other, "--rng"], "virtio-blk 0")
        destination, uri = self.wait_at(extra=["--debug-exit", "--disk", disk, "--rng"])
        self.move(source, destination, uri)
        self.verify_lives(destination)
        self.finish(destination)

    def test_no_such_backend(self):
        for extra, reason in ((["--disk", self.lab.path("none")], "--disk: .*No such file"),
                              (["--net", f"unix={self.lab.path('none')}"], "--net: "),
                              (["--console", "file:/none/x"], "--console: ")):
            with self.assertRaisesRegex(LabError, reason):
                self.lab.start(extra[0][2:], mem="64M", incoming="defer", extra=extra)

    def test_no_balloon(self):
        source = self.writer()
        for command, arguments in (("query-balloon", {}), ("balloon", {"value": MIB})):
            self.assertIn("--balloon",
                          source.qmp.try_execute(command, **arguments)["error"]["desc"])
        self.finish(source)


if __name__ == "__main__":
    sys.exit(main())
