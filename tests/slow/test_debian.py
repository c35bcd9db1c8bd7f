#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Debian's own kernel for virtual machines, as it comes: how far does ferry boot it?

One boot, told by its serial line; a test for each stage. Where the processor virtualizes, init (ours) must
answer. A KVM that emulates ring 0 needs minutes for what takes a second elsewhere, and cannot run the
system calls of a kernel that does not know of it: there the boot ends with the kernel's own clock.
"""

import os
import re
import subprocess
import sys
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path[:0] = [os.path.join(ROOT, "scripts", "lib"), os.path.join(ROOT, "tests", "kvm")]

from ferrylab import Lab, LabError  # noqa: E402 (the path comes first)
from support_system import KVM_PROBLEM, main  # noqa: E402

BOOT_SECONDS = 720
MAKE_SECONDS = 1200
CMDLINE = "console=ttyS0 ignore_loglevel"
# No kernel asks for these; where ring 0 is emulated they hide instructions that are not.
CMDLINE_EMULATED = (
    " earlyprintk=serial,ttyS0,115200 nokaslr noxsave clearcpuid=128,129,137,140,141,147,148,150,151,"
    "153,291,293,296,297,298,304,307,308,317,514,580 tsc=reliable no_timer_check noreplace-smp "
    "rodata=off mitigations=off")
CLOCK = r"Switched to clocksource kvm-clock"
USER = r"^agent: ready"


def made_by(script, *arguments):
    """The directory that a script makes and names; where it cannot, its words skip the tests."""
    done = subprocess.run([os.path.join(ROOT, "scripts", script), *arguments],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.PIPE, timeout=MAKE_SECONDS, check=False)
    if done.returncode:
        raise unittest.SkipTest(done.stderr.strip().replace("\n", " "))
    return done.stdout.strip()


def ring0_is_emulated():
    """Does the processor lack what hardware KVM needs?"""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return not re.search(r"^flags\s*:.*\b(vmx|svm)\b", file.read(), re.M)


class DebianTest(unittest.TestCase):
    lines = []
    seconds = 0

    @classmethod
    def setUpClass(cls):
        if KVM_PROBLEM:
            raise unittest.SkipTest(KVM_PROBLEM)
        kernel = os.path.join(made_by("guest-debian"), "vmlinuz")
        initrd = os.path.join(made_by("guest-linux", "--path"), "initramfs.cpio")
        cls.emulated = ring0_is_emulated()
        with Lab() as lab:
            began = time.monotonic()
            guest = lab.start("debian", kernel=kernel, mem="512M",
                              cmdline=CMDLINE + (CMDLINE_EMULATED if cls.emulated else ""),
                              extra=["--initrd", initrd])
            try:
                guest.serial.expect(CLOCK if cls.emulated else USER, BOOT_SECONDS)
            except LabError as error:
                print(error)
            cls.seconds = time.monotonic() - began
            cls.lines = guest.serial.seen
        print(f"{len(cls.lines)} lines in {cls.seconds:.0f} s; the last one: "
              f"{cls.lines[-1] if cls.lines else 'none'}", flush=True)

    def said(self, pattern):
        return any(re.search(pattern, line) for line in self.lines)

    def check_said(self, *patterns):
        for pattern in patterns:
            self.assertTrue(self.said(pattern), f"not seen: {pattern}; the last lines: "
                                                f"{self.lines[-5:]}")

    def test_loader(self):
        self.check_said(r"Linux version [\d.]+.*cloud-amd64", r"Command line: .*console=ttyS0",
                        r"BIOS-provided physical RAM map", r"RAMDISK: \[mem")

    def test_acpi(self):
        self.check_said(r"ACPI: RSDP 0x0*E0000", *[rf"ACPI: {name} 0x" for name in (
            "XSDT", "FACP", "DSDT", "APIC")], r"IOAPIC\[0\]: ")

    def test_clock(self):
        if self.emulated and not self.said(CLOCK):
            self.skipTest(f"clock: not reached in {self.seconds:.0f} s, where ring 0 is emulated")
        self.check_said(r"kvm-clock: Using msrs", "ACPI: Interpreter enabled", CLOCK)

    def test_user_space(self):
        if self.emulated:
            self.skipTest("user space: this KVM cannot run ring-3 SYSCALL")
        self.check_said(USER)


if __name__ == "__main__":
    sys.exit(main())
