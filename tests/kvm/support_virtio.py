# SPDX-License-Identifier: Apache-2.0
"""What the tests of virtio devices share: other ends for them, and talking through them."""

import os
import socket
import struct
import threading
import time

from support_linux import LinuxSystemTest
from support_system import GUEST_SECONDS

MIB = 1 << 20
MAC = "52:54:00:12:34:56"
BALLOON_SECONDS = 90


def answer(frame):
    """What a host with every address would answer to an ARP request or an echo request."""
    kind = struct.unpack("!H", frame[12:14])[0]
    ours, theirs = b"\x52\x54\x00\x00\x00\x01", frame[6:12]
    if kind == 0x0806 and frame[20:22] == b"\0\1":
        arp = frame[14:20] + b"\0\2" + ours + frame[38:42] + theirs + frame[28:32]
        return theirs + ours + frame[12:14] + arp
    if kind == 0x0800 and frame[23] == 1 and frame[34] == 8:
        total = struct.unpack("!H", frame[36:38])[0] + 0x0800
        total = (total & 0xffff) + (total >> 16)
        ip = frame[14:26] + frame[30:34] + frame[26:30]
        return theirs + ours + frame[12:14] + ip + b"\0\0" + struct.pack("!H", total) + frame[38:]
    return None


class Peer:
    """The other end of --net unix=: answers every ARP and echo request."""

    def __init__(self, path):
        self.frames = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def _take(sock, count):
        data = b""
        while len(data) < count:
            more = sock.recv(count - len(data))
            if not more:
                raise OSError("closed")
            data += more
        return data

    def _serve(self):
        try:
            sock, _ = self._listener.accept()
            with sock:
                while True:
                    size = struct.unpack("!I", self._take(sock, 4))[0]
                    frame = answer(self._take(sock, size))
                    self.frames += 1
                    if frame:
                        sock.sendall(struct.pack("!I", len(frame)) + frame)
        except OSError:
            pass  # the guest is gone, or the test has ended

    def close(self):
        self._listener.close()


class DatagramPeer:
    """The same as the other end of --net dgram=."""

    def __init__(self, path, peer):
        self.frames = 0
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(path)
        threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        try:
            while frame := self._sock.recv(65536):
                self.frames += 1
                reply = answer(frame)
                if reply:
                    self._sock.sendto(reply, peer)
        except OSError:
            pass  # the guest is gone, or the test has ended

    def close(self):
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class VirtioTest(LinuxSystemTest):
    def disk(self, name, mib=32, content=None):
        path = self.lab.path(name)
        with open(path, "wb") as image:
            image.truncate(mib * MIB)
            if content:
                image.write(content)
        return path

    def console_echo(self, path, count):
        """Whatever is sent to the guest's console comes back, whole and in order."""
        data = os.urandom(count)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(GUEST_SECONDS)
            sock.connect(path)
            sender = threading.Thread(target=sock.sendall, args=(data,))
            sender.start()
            got = b""
            while len(got) < count:
                more = sock.recv(65536)
                self.assertTrue(more, "the console was closed")
                got += more
            sender.join()
        self.assertEqual(got, data)

    def type_console(self, path, data):
        """Have it all on its way to the guest's console; returns the connection."""
        sock = socket.socket(socket.AF_UNIX)
        self.addCleanup(sock.close)
        sock.settimeout(GUEST_SECONDS)
        sock.connect(path)
        sock.sendall(data)
        return sock

    def hear_console(self, sock, count):
        """So many bytes from the guest's console; less if none come for a second."""
        got = b""
        sock.settimeout(1)
        while len(got) < count:
            try:
                more = sock.recv(count - len(got))
            except TimeoutError:
                break
            self.assertTrue(more, "the console was closed")
            got += more
        return got

    def balloon_to(self, guest, mib):
        """Have the guest give and take memory until it has so much; returns its MemFree in KiB."""
        guest.qmp.execute("balloon", value=mib * MIB)
        deadline = time.monotonic() + BALLOON_SECONDS
        while guest.qmp.execute("query-balloon")["actual"] != mib * MIB:
            self.assertLess(time.monotonic(), deadline, guest.qmp.execute("query-balloon"))
            time.sleep(0.2)
        return int(self.tell(guest, "mem")["free_kb"])
