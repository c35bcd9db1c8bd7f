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
    def start(self, cpus=1, kernel="vmlinux", cmdline=None):
        """Start the image; returns it and the fields of init's first line."""
        guest = self.lab.start("src", kernel=os.path.join(IMAGE, kernel), mem=MEM, cpus=cpus,
                               cmdline=cmdline,
                               extra=["--initrd", os.path.join(IMAGE, "initramfs.cpio")])
        line = guest.serial.expect(r"^agent: ready", BOOT_SECONDS).string
        return guest, fields(line)

    def tell(self, guest, command):
        """Give the agent a command that must succeed; returns the fields of its answer."""
        name = command.split()[0]
        line = self.ask(guest, command + "\n", rf"^agent: {name} (ok|FAILED)")
        self.assertRegex(line, rf"^agent: {name} ok", command)
        return fields(line)

    def shell(self, guest, command):
        """Run a shell command that must succeed; returns its output."""
        guest.serial.send(f"sh {command}\n")
        lines = guest.serial.collect(r"^agent: sh (ok|FAILED)", GUEST_SECONDS)[0]
        self.assertRegex(lines[-1], r"^agent: sh ok .*\bstatus=0\b", lines)
        return "\n".join(line.removeprefix("agent: sh | ") for line in lines[:-1])

    def check_end(self, guest, how):
        """The process ends with 0, having said how the guest ended."""
        self.assertEqual(guest.wait(GUEST_SECONDS), 0)
        self.assertIn(how, guest.output)

    def power_off(self, guest):
        self.tell(guest, "poweroff")
        self.check_end(guest, "the guest powered off")

    def press(self, guest):
        """Press the power button, which a guest that listens obeys."""
        guest.qmp.execute("system_powerdown")
        guest.qmp.wait_event("POWERDOWN", 10)
        guest.serial.expect(r"^agent: the power button was pressed", GUEST_SECONDS)
        self.check_end(guest, "the guest powered off")

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

    def check_acpi(self, guest):
        """All of the tables were found and understood."""
        log = self.shell(guest, "dmesg | grep -e ACPI -e 'PnP'")
        for line in ("RSDP 0x00000000000E0000", "Using ACPI (MADT) for SMP", "Interpreter enabled",
                     "(supports S0 S5)", "Power Button [PWRF]", "PnP ACPI: found 1 devices"):
            self.assertIn(line, log)
        self.assertNotRegex(log, r"(?i)error|warning|bug|invalid|unable")
        self.assertIn("PNP0501", self.shell(guest, "cat /sys/bus/acpi/devices/*/hid"))
        self.assertRegex(self.shell(guest, "cat /proc/interrupts"), r" 9: .* 9-fasteoi +acpi")

    def test_acpi(self):
        guest, ready = self.start(2)
        self.assertEqual(ready["cpus"], "2")
        self.check_acpi(guest)
        self.press(guest)

    def test_acpi_moved(self):
        guest, _ready = self.start()
        destination, uri = self.wait_at(mem=MEM, extra=[])
        self.assertIn("error", destination.qmp.try_execute("system_powerdown"))
        guest.qmp.execute("stop")
        guest.qmp.execute("system_powerdown")  # the guest gets it where it runs next
        self.move_paused(guest, destination, uri)
        self.assertIn("error", guest.qmp.try_execute("system_powerdown"))
        destination.qmp.execute("cont")
        destination.serial.expect(r"^agent: the power button was pressed", GUEST_SECONDS)
        self.check_end(destination, "the guest powered off")

    def move_paused(self, source, destination, uri):
        source.migrate(uri)
        self.assert_gone(source)
        destination.wait_status("paused", 10)

    def test_reset(self):
        guest, _ready = self.start(cmdline="reboot=a")
        self.tell(guest, "reboot")
        self.check_end(guest, "the guest asked for a reset")

    def test_without_acpi(self):
        guest, ready = self.start(2, cmdline="acpi=off")
        self.assertEqual(ready["cpus"], "2")
        self.shell(guest, "test ! -e /sys/firmware/acpi/tables")
        self.tell(guest, "poweroff")
        self.check_end(guest, "the guest asked for a reset")


if __name__ == "__main__":
    sys.exit(main())
