#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry bench between two hosts: what the two ends say to each other, and what neither believes."""

import json
import os
import socket
import subprocess
import sys
import threading
import unittest
from unittest import mock

import support_bench
from bench import peer, scenario, serve

TOKEN = b"correct-horse-battery"
SERVER = """
import sys
sys.path.insert(0, {scripts!r})
from bench import serve
serve.serve("127.0.0.1", {port}, {token!r})
"""
FILE = """
title = "t"
[[scenario]]
name = "a"
mem = "64M"
"""


def settings(**changed):
    found = {k: v[1] for k, v in scenario.KEYS.items()}
    return {**found, "mem": "64M", "link": scenario.PEER, **changed}


class WordsTest(unittest.TestCase):
    def test_addresses(self):
        self.assertEqual(peer.address("host.example:1"), ("host.example", 1))
        self.assertEqual(peer.address("[::1]:65535"), ("::1", 65535))
        for text in ("", "host", "host:", ":1", "host:0", "host:65536", "::1:5", "a b:1", "h:1x"):
            with self.assertRaises(ValueError, msg=text):
                peer.address(text)
        self.assertTrue(peer.is_loopback("127.0.0.9") and peer.is_loopback("::1"))
        self.assertFalse(peer.is_loopback("0.0.0.0") or peer.is_loopback("::"))
        with self.assertRaises(ValueError):
            peer.is_loopback("a-name")

    def test_proofs(self):
        nonce = peer.nonce()
        self.assertTrue(peer.is_nonce(nonce))
        self.assertFalse(peer.is_nonce("x" + nonce[1:]) or peer.is_nonce(5) or peer.is_nonce(nonce[1:]))
        proofs = {peer.proof(t, w, n) for t in (TOKEN, b"") for w in ("client", "server")
                  for n in (nonce, peer.nonce())}
        self.assertEqual(len(proofs), 8)

    def test_figures_are_not_believed(self):
        self.assertIsNone(peer.a_number({}, "x"))
        self.assertEqual(peer.a_number({"x": 5.5}, "x"), 5.5)
        self.assertEqual(peer.a_count({"x": 5.0}, "x"), 5)
        with self.assertRaisesRegex(peer.LabError, "says no 'x'"):
            peer.a_count({}, "x")
        self.assertEqual(peer.a_text({"x": "a\nb\x1b\ud800"}, "x"), "a b  ")
        for value in ("5", True, float("nan"), float("inf"), -1, 1e300, 10**400, [], {}):
            with self.assertRaises(peer.LabError, msg=value):
                peer.a_number({"x": value}, "x")
        for bad in (lambda a: peer.a_text(a, "t"), lambda a: peer.some_numbers(a, "l"),
                    lambda a: peer.some_named(a, "d", peer.a_number)):
            for answer in ({}, {"t": 5, "l": 5, "d": 5},
                           {"t": "x" * 401, "l": [1] * 65, "d": {"y" * 61: 1}},
                           {"t": None, "l": ["a"], "d": {"a": "b"}},
                           {"l": [None], "d": {"\ud800": 1}}):
                with self.assertRaises(peer.LabError):
                    bad(answer)

    def test_settings_are_checked(self):
        self.assertEqual(serve.checked(settings())["mem"], "64M")
        for bad in (None, [], {}, settings(more=1), settings(mem="1X"), settings(mem=["64M"]),
                    settings(cpus=65), settings(link="1gbit"), settings(link="file"),
                    settings(link=scenario.PEER, delay_ms=5), settings(size="63M"),
                    settings(max_s=1e9), settings(fill="; rm"), settings(mem={})):
            with self.assertRaises(peer.LabError, msg=bad):
                serve.checked(bad)

    def test_files_have_no_link(self):
        found = scenario.parse(FILE, "f", peer=True)
        self.assertEqual(found.parts[0][1]["link"], [scenario.PEER])
        for text in ('link = "1gbit"', 'link = "loopback"', "delay_ms = 5"):
            with self.assertRaisesRegex(scenario.ScenarioError, "^f:6: .*with --peer the link is the"):
                scenario.parse(FILE + text, "f", peer=True)
        with self.assertRaisesRegex(scenario.ScenarioError, "^f:6: .*that is --peer's"):
            scenario.parse(FILE + 'link = "peer"', "f")
        with self.assertRaisesRegex(scenario.ScenarioError, "dirty: .*has no rate"):
            scenario.parse(FILE + 'dirty = "0.5x"', "f", peer=True)


class ServerTest(unittest.TestCase):
    """A serving process, as far as it goes without a guest."""

    def setUp(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        text = SERVER.format(scripts=os.path.join(support_bench.ROOT, "scripts"), port=self.port,
                             token=TOKEN)
        self.server = subprocess.Popen([sys.executable, "-B", "-c", text], stdin=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.server.communicate)
        self.addCleanup(self.server.kill)
        self.assertIn("waits", self.server.stderr.readline())

    def peer(self, token=TOKEN):
        found = peer.Peer(("127.0.0.1", self.port), token)
        self.addCleanup(found.close)
        return found

    def raw(self):
        sock = socket.create_connection(("127.0.0.1", self.port), 20)
        self.addCleanup(sock.close)
        return sock

    def hello(self, sock):
        """(the server's first line, all that it says after `sock` has closed its side)."""
        file = sock.makefile("rb")
        self.addCleanup(file.close)
        return json.loads(file.readline()), file

    def test_greeting(self):
        one = self.peer()
        self.assertGreater(one.round_trip_ms(), 0)
        self.assertIn("kernel", one.machine)
        self.assertEqual(one.call("echo", 5), {})

    def test_wrong_token(self):
        with self.assertRaisesRegex(peer.LabError, "wrong token"):
            self.peer(b"another-horse-battery").connect()
        with self.assertRaisesRegex(peer.LabError, "wants a token"):
            self.peer(b"").connect()
        self.peer().connect()

    def test_garbage(self):
        for text in (b"\n", b"GET / HTTP/1.1\r\n\r\n", b"[" * 9000 + b"\n", b"5\n", b'{"verb": 5}\n',
                     b'{"verb": "hello", "nonce": 1, "proof": 2}\n', b"\0\xff\n", b"x" * 40000,
                     b'{"verb": "hello", "nonce": "' + b"0" * 32 + b'", "proof": "\\ud800"}\n',
                     b'{"verb": "start", "kind": "ferry"}\n'):
            sock = self.raw()
            _, file = self.hello(sock)
            try:
                sock.sendall(text)
                answer = file.read()
                self.assertIn("error", json.loads(answer), text[:20])
            except ConnectionResetError:
                pass  # what it did not read of ours
            sock.close()
        self.peer().connect()
        self.assertIsNone(self.server.poll())

    def test_verbs(self):
        one = self.peer()
        one.connect()
        for verb, more, why in (("quit", {}, "there is no such verb"), (None, {}, "no such verb"),
                                ("echo", {"x": 1}, "not what the verb takes"),
                                ("begin", {}, "no destination was started"),
                                ("finish", {"moved": True}, "no destination was started"),
                                ("missing", {"kind": "bash", "settings": settings()}, "is one of"),
                                ("start", {"kind": "ferry", "settings": {"mem": "1T"}}, "settings")):
            with self.assertRaisesRegex(peer.LabError, why):
                one.call(verb, 20, **more)
        self.assertEqual(one.call("echo", 5), {})

    def test_a_missing_program_is_a_reason(self):
        one = self.peer()
        one.connect()
        answer = one.call("missing", 60, kind="qemu", settings=settings(mem="9999G"))
        self.assertTrue(answer["why"])  # no KVM, no QEMU, or not so much memory

    def test_one_at_a_time(self):
        one, other = self.peer(), self.peer()
        one.connect()
        with mock.patch.object(peer, "BUSY_S", 0.3), \
                self.assertRaisesRegex(peer.PeerBusy, "another client is served"):
            other.connect()
        timer = threading.Timer(0.3, one.close)
        timer.start()
        self.addCleanup(timer.join)
        other.connect()  # tries until the first has gone
        self.assertEqual(other.call("echo", 5), {})

    def test_silence(self):
        """Who says nothing does not keep others out."""
        quiet = self.raw()
        self.hello(quiet)
        self.peer().connect()


class ClientTest(unittest.TestCase):
    """A server that is none."""

    def against(self, *lines):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)

            def answer():
                sock, _ = listener.accept()
                with sock:
                    for line in lines:
                        sock.sendall(line)
                        sock.recv(4096)

            thread = threading.Thread(target=answer)
            thread.start()
            self.addCleanup(thread.join)
            one = peer.Peer(("127.0.0.1", listener.getsockname()[1]), TOKEN)
            try:
                with self.assertRaises(peer.LabError) as caught:
                    one.connect()
            finally:
                one.close()
                thread.join()
            return str(caught.exception)

    def test_nonsense(self):
        self.assertIn("is no 'ferry bench --serve'", self.against(b"{}\n"))
        self.assertIn("no JSON", self.against(b"220 mail.example ESMTP\n"))
        self.assertIn("closed the connection", self.against())
        first = json.dumps({"ferry-bench": 1, "nonce": peer.nonce(), "token": True}).encode() + b"\n"
        self.assertIn("does not know the token",
                      self.against(first, b'{"return": {"proof": "0", "machine": {}}}\n'))
        self.assertIn("does not know the token",
                      self.against(first, b'{"return": {"proof": "\\ud800", "machine": {}}}\n'))
        self.assertIn("with no object", self.against(first, b'{"return": 5}\n'))
        with mock.patch.object(peer, "ANSWER_BYTES", 1000):
            self.assertIn("a line of more than", self.against(b"x" * 5000))

    def test_drop_by_drop(self):
        """A limit holds whatever comes meanwhile."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname(), 20)
            theirs, _ = listener.accept()

        def drip():
            try:
                while True:
                    theirs.sendall(b"x")
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with self.assertRaisesRegex(peer.LabError, "no word from it within"):
                peer.Connection(ours, "it", 1 << 30).receive(0.05)
        finally:
            ours.close()
            thread.join()
            theirs.close()

    def test_nobody(self):
        with self.assertRaisesRegex(peer.LabError, "cannot connect to the peer 127.0.0.1:1: "):
            peer.Peer(("127.0.0.1", 1), TOKEN).connect()


if __name__ == "__main__":
    sys.exit(support_bench.main())
