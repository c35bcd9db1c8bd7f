#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A TCP connection into a Linux guest lives on while the guest moves between two ports of a bridge."""

import ctypes
import os
import random
import socket
import subprocess
import sys
import threading
import time
import unittest

from support_linux import MEM, LinuxSystemTest, needs_image
from support_system import GUEST_SECONDS, main

MAC = "52:54:00:12:34:56"
PORT = 7
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
PACKET_OUTGOING = 4
BANDWIDTH = 16 << 20  # slow enough that much is said while RAM moves
MORE_BYTES = 200000


def in_namespace(name, function):
    """What the function returns, called by a thread in a network namespace: sockets stay there."""
    result = []

    def run():
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{name}", "rb") as space:
            if libc.setns(space.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        result.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if not result:
        raise OSError(f"nothing came of it in the namespace {name}")
    return result[0]


class Conversation:
    """
    A connection whose other end says everything back. What is said follows from a seed, so that each
    byte that comes back has one place where it belongs.
    """

    def __init__(self, sock):
        self._sock = sock
        sock.settimeout(GUEST_SECONDS)
        self._enough = threading.Event()
        self._news = threading.Condition()
        self.sent = self.received = 0
        self.problem = None
        self._threads = [threading.Thread(target=self._guard, args=(part,), daemon=True)
                         for part in (self._talk, self._listen)]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _text():
        source = random.Random(20)
        while True:
            yield source.randbytes(1400)

    def _guard(self, part):
        try:
            part()
        except (OSError, ValueError) as error:
            self.problem = self.problem or error
        with self._news:
            self._news.notify_all()

    def _talk(self):
        for piece in self._text():
            if self._enough.is_set() or self.problem:
                break
            self._sock.sendall(piece)
            self.sent += len(piece)
        self._sock.shutdown(socket.SHUT_WR)

    def _listen(self):
        text, expected = self._text(), b""
        while True:
            data = self._sock.recv(65536)
            if not data:
                return
            while len(expected) < len(data):
                expected += next(text)
            if not expected.startswith(data):
                raise ValueError(f"the bytes from {self.received} on are not what was sent")
            expected = expected[len(data):]
            with self._news:
                self.received += len(data)
                self._news.notify_all()

    def wait_more(self, count):
        """Until so many more bytes have come back, all of them right."""
        with self._news:
            goal = self.received + count
            done = self._news.wait_for(lambda: self.received >= goal or self.problem,
                                       GUEST_SECONDS)
        if self.problem or not done:
            raise AssertionError(f"after {self.received} bytes: {self.problem or 'no more came'}")

    def finish(self):
        """Say no more, hear the rest. Was there one byte back for each, until the end?"""
        self._enough.set()
        for thread in self._threads:
            thread.join(GUEST_SECONDS)
        self._sock.close()
        if self.problem or self.received != self.sent:
            raise AssertionError(f"{self.sent} bytes were sent, {self.received} came back: "
                                 f"{self.problem}")


class Witness:
    """Every frame in the guest's name that comes into the bridge's ports, in order."""

    def __init__(self, sock):
        self._sock = sock
        sock.settimeout(0.2)
        self._over = threading.Event()
        self._news = threading.Condition()
        self.frames = []  # (port, Ethernet type, is it an announcement)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        mac = bytes.fromhex(MAC.replace(":", ""))
        while not self._over.is_set():
            try:
                frame, where = self._sock.recvfrom(65536)
            except TimeoutError:
                continue
            if where[2] == PACKET_OUTGOING or frame[6:12] != mac or where[0] == "br0":
                continue
            kind = frame[12:14].hex()
            with self._news:
                # A gratuitous ARP asks for, or tells of, the sender's own address.
                self.frames.append((where[0], kind, kind == "8035" or (
                    kind == "0806" and frame[28:32] == frame[38:42])))
                self._news.notify_all()

    def wait_for(self, frame, seconds):
        with self._news:
            return self._news.wait_for(lambda: frame in self.frames, seconds)

    def close(self):
        self._over.set()
        self._thread.join()
        self._sock.close()


@needs_image
@unittest.skipUnless(os.geteuid() == 0, "TAP interfaces need root")
class TapTest(LinuxSystemTest):
    """Two TAPs on a bridge, one for each side of a move; the bridge learns where the guest is."""

    SPACE = f"ferry-net-{os.getpid()}"

    def run_ip(self, *words):
        done = subprocess.run(["ip", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=20, check=False)
        self.assertEqual(done.returncode, 0, f"ip {' '.join(words)}: {done.stdout}")
        return done.stdout

    def setUp(self):
        super().setUp()
        self.run_ip("netns", "add", self.SPACE)
        self.addCleanup(subprocess.run, ["ip", "netns", "delete", self.SPACE], check=False)
        self.here = ["-n", self.SPACE]
        self.run_ip(*self.here, "link", "add", "br0", "type", "bridge")
        # Without an address of its own it takes a port's, another one when ports come and go.
        self.run_ip(*self.here, "link", "set", "br0", "address", "52:54:00:00:00:01")
        self.run_ip(*self.here, "address", "add", "10.9.0.1/24", "dev", "br0")
        self.run_ip(*self.here, "link", "set", "br0", "up")
        self.witness = Witness(in_namespace(self.SPACE, lambda: socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))))
        self.addCleanup(self.witness.close)

    def launch_with_tap(self, tap, launch):
        guest = launch(["--net", f"tap={tap},mac={MAC}"], ["ip", "netns", "exec", self.SPACE])
        self.run_ip(*self.here, "link", "set", tap, "master", "br0", "up")
        return guest

    def bridge_port(self):
        """The interface behind which the bridge believes the guest to be."""
        table = subprocess.run(["bridge", "-n", self.SPACE, "fdb", "show", "br", "br0"],
                               stdout=subprocess.PIPE, text=True, timeout=20, check=True).stdout
        for line in table.splitlines():
            words = line.split()
            if words[0] == MAC and "permanent" not in words:
                return words[words.index("dev") + 1]
        return None

    def talk(self):
        return Conversation(in_namespace(self.SPACE, lambda: socket.create_connection(
            ("10.9.0.2", PORT), GUEST_SECONDS)))

    def check_ping(self, guest):
        ping = self.tell(guest, "ping 10.9.0.1 20")
        self.assertEqual(ping["received"], ping["sent"])

    def check_announced(self):
        """ferry and the guest's kernel both say where the guest is; the bridge knows at once."""
        for kind in ("8035", "0806"):
            self.assertTrue(self.witness.wait_for(("tap1", kind, True), GUEST_SECONDS),
                            f"no announcement of type {kind}: {self.witness.frames[-20:]}")
            self.assertEqual(self.bridge_port(), "tap1")
        ports = [port for port, _, _ in self.witness.frames]
        self.assertNotIn("tap0", ports[ports.index("tap1"):], "a guest at two places")

    def test_connection_lives_on(self):
        source = self.launch_with_tap("tap0", lambda extra, prefix: self.launch(
            extra=extra, prefix=prefix))
        self.wait_ready(source)
        self.tell(source, "net eth0 10.9.0.2/24")
        self.check_ping(source)
        self.assertEqual(self.bridge_port(), "tap0")
        self.tell(source, f"echo {PORT}")
        self.tell(source, "fill 32")
        conversation = self.talk()
        conversation.wait_more(MORE_BYTES)

        uri = f"unix:{self.lab.path('move')}"
        destination = self.launch_with_tap("tap1", lambda extra, prefix: self.lab.start(
            "dst", mem=MEM, incoming=uri, extra=extra, prefix=prefix))
        self.begin(source, uri, max_bandwidth=BANDWIDTH)
        during = conversation.received
        self.ended(source)
        self.assertGreater(conversation.received, during, "silence while the guest moved")
        self.assert_gone(source)
        destination.wait_status("running", 10)
        self.check_announced()
        conversation.wait_more(MORE_BYTES)
        conversation.finish()
        self.check_ping(destination)
        self.tell(destination, "check")
        self.power_off(destination)


if __name__ == "__main__":
    sys.exit(main())
