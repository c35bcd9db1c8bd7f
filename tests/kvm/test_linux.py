#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Linux test image (scripts/guest-linux): it boots, moves, and switches itself off."""

import os
import subprocess
import sys
import unittest

from support_system import GUEST_SECONDS, SystemTest, fields, main

BOOT_SECONDS = 240  # ring 0 may be emulated, on a machine that is busy with other things
MEM = "256M"


def image():
    """The image's directory, or None if it was not made yet."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts",
                          "guest-linux")
    done = subprocess.run([script, "--built"], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60,
                          check=False)
    return done.stdout.strip() if done.returncode == 0 else None


IMAGE = image()


@unittest.skipUnless(IMAGE, "the Linux test image is not there: scripts/guest-linux makes it")
class LinuxTest(SystemTest):
    def start(self, cpus=1, kernel="vmlinux"):
        """Start the image; returns it and the fields of init's first line."""
        guest = self.lab.start("src", kernel=os.path.join(IMAGE, kernel), mem=MEM, cpus=cpus,
                               extra=["--initrd", os.path.join(IMAGE, "initramfs.cpio")])
        line = guest.serial.expect(r"^agent: ready", BOOT_SECONDS).string
        return guest, fields(line)

    def tell(self, guest, command):
        """Give the agent a command that must succeed; returns the fields of its answer."""
        name = command.split()[0]
        line = self.ask(guest, command + "\n", rf"^agent: {name} (ok|FAILED)")
        self.assertRegex(line, rf"^agent: {name} ok", command)
        return fields(line)

    def power_off(self, guest):
        self.tell(guest, "poweroff")
        self.assertEqual(guest.wait(GUEST_SECONDS), 0)

    def check_move(self, cpus):
        guest, ready = self.start(cpus)
        self.assertEqual(ready["cpus"], str(cpus))
        store = self.tell(guest, "fill 32")["id"]
        self.tell(guest, f"churn {store} 500")
        before = int(self.tell(guest, "uptime")["ms"])
        destination, uri = self.wait_at(mem=MEM, cpus=cpus, extra=[])
        self.move(guest, destination, uri)
        self.tell(destination, "check")
        self.assertEqual(self.tell(destination, "cpus")["online"], str(cpus))
        after = int(self.tell(destination, "uptime")["ms"])
        self.assertLess(after - before, 60000)
        self.assertGreaterEqual(after, before)
        self.tell(destination, f"churn {store} 0")
        self.assertEqual(self.tell(destination, "sh exit 7")["status"], "7")
        self.tell(destination, "check")
        self.power_off(destination)

    def test_move(self):
        self.check_move(1)

    def test_move_smp(self):
        self.check_move(2)

    def test_bzimage(self):
        guest, ready = self.start(2, "bzImage")
        self.assertEqual(ready["cpus"], "2")
        self.power_off(guest)


if __name__ == "__main__":
    sys.exit(main())
