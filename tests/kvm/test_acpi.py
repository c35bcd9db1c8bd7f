#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ACPI as Linux sees it: what it finds, how it ends, the power button, and how it does without."""

import sys

from support_linux import MEM, LinuxSystemTest, needs_image
from support_system import GUEST_SECONDS, main

FOUND = ("RSDP 0x00000000000E0000", "Using ACPI (MADT) for SMP", "Interpreter enabled",
         "(supports S0 S5)", "Power Button [PWRF]", "PnP ACPI: found 1 devices")
TROUBLE = r"(?i)error|warning|bug|invalid|unable"


@needs_image
class AcpiTest(LinuxSystemTest):
    def check_end(self, guest, how):
        """The process ends with 0, having said how the guest ended."""
        self.assertEqual(guest.wait(GUEST_SECONDS), 0)
        self.assertIn(how, guest.output)

    def test_found(self):
        guest, ready = self.start(2)
        self.assertEqual(ready["cpus"], "2")
        log = "\n".join(self.shell(guest, "dmesg | grep -e ACPI -e PnP"))
        for line in FOUND:
            self.assertIn(line, log)
        self.assertNotRegex(log, TROUBLE)
        self.assertIn("PNP0501", self.shell(guest, "cat /sys/bus/acpi/devices/*/hid"))
        interrupts = "\n".join(self.shell(guest, "cat /proc/interrupts"))
        self.assertRegex(interrupts, r" 9: .* 9-fasteoi +acpi")
        self.tell(guest, "poweroff")
        self.check_end(guest, "the guest powered off")

    def test_power_button(self):
        """It is pressed at the source, while the guest is paused, and felt at the destination."""
        guest, _ready = self.start()
        destination, uri = self.wait_at(mem=MEM, extra=[])
        self.assertIn("error", destination.qmp.try_execute("system_powerdown"))
        guest.qmp.execute("stop")
        guest.qmp.execute("system_powerdown")
        guest.qmp.wait_event("POWERDOWN", 10)
        guest.migrate(uri)
        self.assert_gone(guest)
        self.assertIn("handed over", guest.qmp.try_execute("system_powerdown")["error"]["desc"])
        destination.wait_status("paused", 10)
        destination.qmp.execute("cont")
        destination.serial.expect(r"^agent: the power button was pressed", GUEST_SECONDS)
        self.check_end(destination, "the guest powered off")

    def test_reset(self):
        """By the reset register, from a bzImage."""
        guest, ready = self.start(2, "bzImage", extra=["--cmdline", "reboot=a"])
        self.assertEqual(ready["cpus"], "2")
        self.tell(guest, "reboot")
        self.check_end(guest, "the guest asked for a reset")

    def test_without(self):
        """The MultiProcessor tables do for a kernel that has no ACPI."""
        guest, ready = self.start(2, extra=["--cmdline", "acpi=off"])
        self.assertEqual(ready["cpus"], "2")
        self.shell(guest, "test ! -e /sys/firmware/acpi/tables")
        self.tell(guest, "poweroff")
        self.check_end(guest, "the guest asked for a reset")


if __name__ == "__main__":
    sys.exit(main())
