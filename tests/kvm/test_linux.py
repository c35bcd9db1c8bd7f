#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Linux test image (scripts/guest-linux): it boots, moves, and switches itself off."""

import sys
import unittest

from support_linux import MEM, LinuxSystemTest, needs_image
from support_system import main


@needs_image
class LinuxTest(LinuxSystemTest):
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
