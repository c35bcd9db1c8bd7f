# SPDX-License-Identifier: Apache-2.0
"""The Linux test image (scripts/guest-linux) in a lab: booting it, giving its agent commands."""

import os
import subprocess
import unittest

from support_system import SystemTest, fields

LINUX_SECONDS = 400  # ring 0 may be emulated, on a machine that is busy with other things
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
# Whoever tried to make it says why it is not there.
NO_IMAGE = os.environ.get("FERRY_NO_LINUX_IMAGE") or "scripts/guest-linux makes it"
needs_image = unittest.skipUnless(IMAGE, f"the Linux test image is not there: {NO_IMAGE}")


class LinuxSystemTest(SystemTest):
    def start(self, cpus=1, kernel="vmlinux", name="src", extra=(), prefix=()):
        """Start the image; returns it and the fields of init's first line."""
        guest = self.launch(cpus, kernel, name, extra, prefix)
        return guest, self.wait_ready(guest)

    def launch(self, cpus=1, kernel="vmlinux", name="src", extra=(), prefix=()):
        return self.lab.start(name, kernel=os.path.join(IMAGE, kernel), mem=MEM, cpus=cpus,
                              prefix=prefix,
                              extra=["--initrd", os.path.join(IMAGE, "initramfs.cpio"), *extra])

    def wait_ready(self, guest):
        return fields(guest.serial.expect(r"^agent: ready", LINUX_SECONDS).string)

    def tell(self, guest, command):
        """Give the agent a command that must succeed; returns the fields of its answer."""
        name = command.split()[0]
        line = self.ask(guest, command + "\n", rf"^agent: {name} (ok|FAILED)")
        self.assertRegex(line, rf"^agent: {name} ok", command)
        return fields(line)

    def shell(self, guest, command):
        """Run a shell command that must succeed; returns the lines of its output."""
        guest.serial.send(f"sh {command}\n")
        lines, _ = guest.serial.collect(r"^agent: sh (ok|FAILED)", LINUX_SECONDS)
        self.assertIn(" ok status=0", lines[-1], lines)
        mark = "agent: sh | "
        return [line[len(mark):] for line in lines if line.startswith(mark)]

    def power_off(self, guest):
        self.tell(guest, "poweroff")
        self.assertEqual(guest.wait(LINUX_SECONDS), 0)
