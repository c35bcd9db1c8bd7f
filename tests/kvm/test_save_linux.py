#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Linux at work on all its devices is saved, running and paused, and comes back, whole and on demand."""

import json
import os
import shutil
import sys
import time

from support_linux import MEM, needs_image
from support_saved import Saved
from support_system import GUEST_SECONDS, fields, main
from support_virtio import MAC, MIB, Peer, VirtioTest

SAVE_SECONDS = 120
TYPED_BYTES = 12000  # more than the guest echoes until it is saved
# Pages a second that the guest writes, to its disk and to memory each. Its clock goes on while it
# is in a file: it makes up for that time when it comes back.
RATE = 20
PINGS = 50
PINGS_LOST = 10  # answers that were on their way when the network had another end


@needs_image
class LinuxSaveTest(VirtioTest):
    """
    Each time the guest works until the moment it is saved in: it writes to its disk and to memory,
    echoes what is typed at its console, and pings. Every guest that comes back must finish all of
    that, have every page that was last written, and go on.
    """

    def options(self, name, disk):
        """The devices of a guest of this name, with other ends of their own."""
        peer = Peer(self.lab.path(f"{name}.net"))
        self.addCleanup(peer.close)
        return ["--disk", f"{disk}", "--rng", "--balloon",
                "--net", f"unix={self.lab.path(name + '.net')},mac={MAC}",
                "--console", f"unix:{self.lab.path(name + '.con')}"]

    def console(self, name, data=b""):
        return self.type_console(self.lab.path(f"{name}.con"), data)

    def begin_work(self, guest):
        """Boot's end: the balloon is in use, the network up, and two stores change all the time."""
        self.tell(guest, "echo /dev/hvc0")
        self.tell(guest, "net eth0 10.9.0.2/24")
        self.balloon_to(guest, 240)
        for store in ("file /dev/vda 4", "fill 16"):
            self.tell(guest, f"churn {self.tell(guest, store)['id']} {RATE}")

    def save(self, guest, path, live):
        """
        Save a guest in the middle of everything; it stays paused then. Returns what was echoed and
        typed at its console, and whether its pings were over.
        """
        console = self.console(guest.name)
        typed = os.urandom(TYPED_BYTES)
        console.sendall(typed)
        guest.serial.send(f"ping 10.9.0.1 {PINGS}\n")
        guest.qmp.execute("x-ferry-save", path=path, live=live, go_on=False)
        info = guest.wait_migration(SAVE_SECONDS)
        self.assertEqual(guest.status(), "paused")
        self.assertEqual(info["ram"]["remaining"], 0)
        echoed = self.hear_console(console, TYPED_BYTES)
        console.close()
        pinged = False
        while (line := guest.serial.line(0.2)) is not None:
            pinged = pinged or line.startswith("agent: ping ok")
        guest.kill()
        return echoed, typed, pinged

    def restore(self, name, path, disk, on_demand):
        guest = self.lab.start(name, incoming="defer", mem=MEM, extra=[
            *self.options(name, disk), *(["--on-demand"] if on_demand else [])])
        console, serial = self.console(name), guest.serial
        self.assertIsNotNone(serial)
        guest.qmp.execute("migrate-incoming", uri=f"file:{path}")
        guest.wait_status("running", SAVE_SECONDS)
        return guest, console

    def hear_rest(self, console, echoed, typed):
        """What was typed before the guest was saved is echoed to the last byte, wherever."""
        console.settimeout(GUEST_SECONDS)
        while len(echoed) < len(typed):
            more = console.recv(65536)
            self.assertTrue(more, "the console was closed")
            echoed += more
        self.assertTrue(echoed == typed, "not what was typed")
        console.close()

    def wait_written(self, guest, store):
        """Its pages are still being rewritten."""
        deadline = time.monotonic() + GUEST_SECONDS
        first = last = int(self.tell(guest, f"churn {store} {RATE}")["written"])
        while last == first:
            self.assertLess(time.monotonic(), deadline, f"nobody writes to store {store}")
            last = int(self.tell(guest, f"churn {store} {RATE}")["written"])

    def check_back(self, guest, console, before):
        echoed, typed, pinged = before
        self.hear_rest(console, echoed, typed)
        if not pinged:
            answer = fields(guest.serial.expect(r"^agent: ping ok", GUEST_SECONDS).string)
            self.assertEqual(answer["sent"], str(PINGS))
            self.assertGreaterEqual(int(answer["received"]), PINGS - PINGS_LOST)
        self.tell(guest, "check")
        for store in (1, 2):
            self.wait_written(guest, store)
        self.tell(guest, "check")
        ping = self.tell(guest, "ping 10.9.0.1 5")
        self.assertEqual(ping["received"], ping["sent"])
        self.assertEqual(guest.qmp.execute("query-balloon")["actual"], 240 * MIB)
        self.shell(guest, "head -c 64 /dev/hwrng >/dev/null")

    def finish(self, guest):
        """All of its memory is there; nothing changes any more, and all is right."""
        info = self.wait_dest(guest, "completed")
        self.assertEqual(info["ram"]["remaining"], 0)
        for store in (1, 2):
            self.tell(guest, f"churn {store} 0")
        self.tell(guest, "check")
        self.power_off(guest)

    def check_file(self, path):
        shown = json.loads(self.ferry("inspect", path, "--json", "--verify"))
        names = {section["name"] for section in shown["sections"]}
        self.assertLessEqual({"virtio-blk", "virtio-net", "virtio-rng", "virtio-balloon",
                              "virtio-console"}, names)
        with Saved(path) as saved:
            self.assertIn(("virtio-net", 0), saved.sections)
            saved.check_sums()

    def round(self, guest, disk, live):
        """Save the guest, bring it back twice; returns the second one, and its disk."""
        kind = "live" if live else "paused"
        path = self.lab.path(f"{kind}.saved")
        before = self.save(guest, path, live)
        self.check_file(path)
        other = self.lab.path(f"{kind}.disk")
        shutil.copyfile(disk, other)  # a saved guest goes with the disk of that moment
        demand, console = self.restore(f"{kind}-demand", path, disk, True)
        self.check_back(demand, console, before)
        self.finish(demand)
        eager, console = self.restore(f"{kind}-eager", path, other, False)
        self.check_back(eager, console, before)
        return eager, other

    def test_at_work(self):
        disk = self.disk("disk", 16)
        guest, _ = self.start(extra=self.options("src", disk))
        self.begin_work(guest)
        guest, disk = self.round(guest, disk, True)
        guest, disk = self.round(guest, disk, False)
        self.balloon_to(guest, 256)
        self.finish(guest)


if __name__ == "__main__":
    sys.exit(main())
