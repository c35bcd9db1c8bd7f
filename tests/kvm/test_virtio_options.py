#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The less common ways to connect virtio devices, with Linux's drivers."""

import os
import re
import sys
import types

from support_linux import IMAGE, MEM, needs_image
from support_system import FERRY, GUEST_SECONDS, ferrylab, main
from support_virtio import MAC, DatagramPeer, VirtioTest
from test_terminal import Terminal


@needs_image
class OptionsTest(VirtioTest):
    """A guest with its console on a terminal, told of its devices on the command line."""

    def launch_on_terminal(self, *arguments):
        """ferry with the guest's console on a terminal; returns both."""
        serial = self.lab.path("serial")
        terminal = Terminal(FERRY, "run", "--name", "t", "--control", self.lab.path("control"),
                            "--mem", MEM, "--kernel", os.path.join(IMAGE, "vmlinux"),
                            "--initrd", os.path.join(IMAGE, "initramfs.cpio"),
                            "--console", "stdio", "--serial", f"unix:{serial}", *arguments)
        self.addCleanup(terminal.close)
        terminal.expect(b"ferry: Ctrl-A x ends the guest")
        guest = types.SimpleNamespace(serial=ferrylab.Serial(serial, GUEST_SECONDS))
        self.addCleanup(guest.serial.close)
        return guest, terminal

    def check_direct(self, guest, terminal, path):
        self.shell(guest, "echo from the guest | dd of=/dev/vda bs=512 conv=sync 2>/dev/null; sync")
        with open(path, "rb") as image:
            self.assertEqual(image.read(15), b"from the guest\n")
        self.assertEqual(self.shell(guest, "head -c 15 /dev/vda"), ["from the guest"])
        fds = f"/proc/{terminal.process.pid}/fd"
        number = next(fd for fd in os.listdir(fds) if os.path.realpath(f"{fds}/{fd}") == path)
        with open(f"/proc/{terminal.process.pid}/fdinfo/{number}", encoding="ascii") as file:
            flags = int(re.search(r"^flags:\s*(\d+)$", file.read(), re.M)[1], 8)
        self.assertTrue(flags & os.O_DIRECT, oct(flags))

    def check_console(self, guest, terminal):
        self.tell(guest, "echo /dev/hvc0")
        typed = os.urandom(2000).replace(b"\x01", b"?")  # Ctrl-A is for ferry
        terminal.type(typed)
        terminal.expect(typed.replace(b"\n", b"\r\n"), GUEST_SECONDS)  # the terminal does that

    def test_options(self):
        path, ours, theirs = self.disk("direct.img", 1), self.lab.path("ours"), self.lab.path("theirs")
        disk = path
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
            disk += ",direct"
        except OSError:
            print("no O_DIRECT in the lab's directory")
        peer = DatagramPeer(theirs, ours)
        self.addCleanup(peer.close)
        guest, terminal = self.launch_on_terminal(
            "--disk", disk, "--net", f"dgram={ours},peer={theirs},mac={MAC}", "--rng",
            "--virtio-cmdline", "--cmdline", "acpi=off")
        self.wait_ready(guest)
        told = self.shell(guest, "grep -o virtio_mmio.device= /proc/cmdline")
        self.assertEqual(len(told), 4, told)
        if disk != path:
            self.check_direct(guest, terminal, path)
        self.tell(guest, "net eth0 10.9.0.2/24")
        ping = self.tell(guest, "ping 10.9.0.1 5")
        self.assertEqual(ping["received"], ping["sent"])
        self.assertGreater(peer.frames, 5)
        self.check_console(guest, terminal)
        self.shell(guest, "head -c 16 /dev/hwrng >/dev/null")
        self.tell(guest, "poweroff")
        self.assertEqual(terminal.wait(), 0)
        self.assertTrue(terminal.restored())


if __name__ == "__main__":
    sys.exit(main())
