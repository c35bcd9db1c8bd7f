#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while a guest moves: it runs on exactly one side, and nobody hangs."""

import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import support_proxy as proxy
from support_faults import STILL, TINY, FaultTest, once
from support_proxy import CUT, FORWARD, CutAt, FlipAt
from support_system import (FERRY, GUEST_SECONDS, MIGRATE_SECONDS, SMALL, ferrylab, free_port,
                            listener, main, port_of)

MIB = 1 << 20


class RefusedTest(FaultTest):
    """Migrations that cannot begin."""

    def test_no_connection(self):
        source = self.writer(cmdline=TINY)
        for uri, reason in ((f"tcp:127.0.0.1:{free_port()}", "refused"),
                            ("tcp:255.255.255.255:4444", "unreachable|Permission|denied"),
                            ("tcp:no-such-host.invalid:4444", "no-such-host.invalid"),
                            (f"unix:{self.lab.path('none')}", "No such file")):
            source.qmp.execute("migrate", uri=uri)
            self.assert_failed(source, reason)
        for uri in ("", "tcp:", "tcp:127.0.0.1", "tcp:127.0.0.1:99999", "http://x", "unix:",
                    "unix:" + "x" * 200):
            self.assertIn("error", source.qmp.try_execute("migrate", uri=uri), uri)
        self.verify_lives(source)

    def test_no_such_place_to_wait(self):
        said = self.ferry("run", "--name", "nowhere", "--incoming", "tcp:no-such-host.invalid:4444",
                          status=1)
        self.assertIn("no-such-host.invalid", said)

    def test_ends_are_told_before_the_next_begins(self):
        """Many commands in one read: an end that is told late would be taken for the next one's."""
        source = self.boot("src", "idle")
        source.qmp.execute("migrate-set-capabilities",
                           capabilities=[{"capability": "events", "state": True}])
        migrate = '{"execute": "migrate", "arguments": {"uri": "unix:/none"}, "id": "m"}\n'
        query = '{"execute": "query-migrate", "id": "q"}\n'
        under_way, begun, deadline = False, 0, time.monotonic() + GUEST_SECONDS
        while begun < 50:
            self.assertLess(time.monotonic(), deadline, "next to none of them begins")
            source.qmp.send((migrate + query * 4) * 7 + '{"execute": "query-status", "id": 0}\n')
            answer = {}
            while answer.get("id") != 0:
                answer = json.loads(source.qmp.line(GUEST_SECONDS))
                if answer.get("id") == "m" and "return" in answer:
                    self.assertFalse(under_way, "the last one's end has not been told yet")
                    under_way, begun = True, begun + 1
                elif answer.get("data", {}).get("status") == "failed":
                    self.assertTrue(under_way, "an end was told twice")
                    under_way = False

    def mismatch(self, option, **other):
        destination, uri = self.wait_at(**other)
        source = self.writer(cmdline=TINY)
        source.qmp.execute("migrate", uri=uri)
        self.assert_failed(source, option)
        self.verify_lives(source)
        self.assert_waits(destination)
        self.assertRegex(destination.output, option)  # who started it must know, too
        source.stop()
        # The destination waits on, for a guest that fits.
        fitting = self.writer("fitting", TINY, mem=other.get("mem", "64M"),
                              cpus=other.get("cpus", 1))
        self.succeeds(fitting, destination, uri)

    def test_other_memory(self):
        self.mismatch("(?i)mem|RAM", mem="96M")

    def test_more_cpus(self):
        self.mismatch("(?i)cpu", cpus=2)

    def test_second_migration(self):
        destination, uri = self.wait_at()
        other, other_uri = self.wait_at("other")
        source, late = self.writer(), self.writer("late", TINY)
        self.begin(source, uri, max_bandwidth=16 * MIB)
        answer = source.qmp.try_execute("migrate", uri=other_uri)
        self.assertIn("under way", answer["error"]["desc"])
        self.assertEqual(self.query(source)["status"], "active")
        # Nor does somebody else's guest get between: it waits for its turn, in vain.
        late.qmp.execute("migrate", uri=uri)
        source.wait_migration(MIGRATE_SECONDS)
        self.assert_gone(source)
        destination.wait_status("running", 10)
        self.assert_failed(late, ".")
        self.verify_lives(late)
        self.verify_lives(destination)
        self.succeeds(late, other, other_uri)

    def test_nothing_to_move(self):
        destination, uri = self.wait_at()
        for command, reason in (("migrate", "no guest here"), ("migrate-incoming", "already")):
            answer = destination.qmp.try_execute(command, uri=uri)
            self.assertIn(reason, answer["error"]["desc"])
        destination.qmp.execute("migrate_cancel")
        answer = destination.qmp.try_execute("x-ferry-commit", token="1")
        self.assertIn("error", answer)
        source = self.writer(cmdline=TINY)
        source.qmp.execute("migrate_cancel")
        self.assertIn("error", source.qmp.try_execute("migrate-incoming", uri=uri))
        self.assertIn("error", source.qmp.try_execute("x-ferry-commit", token="1"))
        self.succeeds(source, destination, uri)
        self.assertIn("handed over", source.qmp.try_execute("migrate", uri=uri)["error"]["desc"])


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def frame(kind, meta=b"", flags=1, sequence=0, meta_len=None, data_len=0):
    """A frame with right checksums."""
    head = struct.pack("<IHHIIII", proxy.MAGIC, kind, flags, sequence,
                       len(meta) if meta_len is None else meta_len, data_len, crc32c(meta))
    return head + struct.pack("<I", crc32c(head)) + meta


GARBAGE = (
    b"", b"\0", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\xff" * 100000, bytes(100000),
    frame(proxy.HELLO)[:20], frame(proxy.HELLO), frame(proxy.HELLO, bytes(100)),
    frame(proxy.HELLO, b"\1\0\1\0" + b"\xff" * 200), frame(proxy.END, bytes(21)),
    frame(proxy.HELLO, meta_len=0xffffffff), frame(proxy.PAGES, bytes(10), data_len=0xffffffff),
    frame(proxy.HELLO, bytes(64), sequence=7), frame(99, bytes(8)), frame(0), frame(0xffff),
    frame(proxy.COMMIT, bytes(8)), frame(proxy.ABORT, b"\x1b[2J" * 80), frame(proxy.WELCOME),
)


class StrangerTest(FaultTest):
    """Peers that are no ferry."""

    def test_garbage_to_the_destination(self):
        destination, uri = self.wait_at()
        generator = random.Random(1)
        for i, data in enumerate((*GARBAGE, generator.randbytes(50000),
                                  struct.pack("<I", proxy.MAGIC) + generator.randbytes(50000))):
            with socket.create_connection(("127.0.0.1", port_of(uri)), 10) as sock:
                try:
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                    sock.settimeout(10)
                    while sock.recv(4096):
                        pass
                except ConnectionError:
                    pass
                except socket.timeout:
                    self.fail(f"the destination holds on to garbage {i}")
            self.assertEqual(self.query(destination)["status"], "none")
        self.assert_waits(destination)
        source = self.writer(cmdline=TINY)
        self.succeeds(source, destination, uri)

    def test_silence_to_the_destination(self):
        """Who connects and says nothing is turned away in time for a source that waits behind."""
        destination, uri = self.wait_at()
        with socket.create_connection(("127.0.0.1", port_of(uri)), 10):
            time.sleep(0.2)
            source = self.writer(cmdline=TINY)
            self.succeeds(source, destination, uri)

    def serve(self, data):
        """A server that says this to one client, reads a little, and closes; returns its URI."""
        sock, uri = listener()
        self.addCleanup(sock.close)

        def run():
            try:
                client = sock.accept()[0]
                with client:
                    client.settimeout(5)
                    client.sendall(data)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(65536):
                        pass
            except OSError:
                pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        return uri

    def test_garbage_to_the_source(self):
        source = self.writer(cmdline=TINY)
        welcome = frame(proxy.WELCOME, struct.pack("<HQ", 1, 0))
        answers = (*GARBAGE, welcome[:-1], frame(proxy.WELCOME, struct.pack("<HQ", 2, 0)),
                   frame(proxy.WELCOME, struct.pack("<HQ", 1, 1)),
                   welcome, welcome + b"junk", welcome + frame(proxy.READY, bytes(8), sequence=1),
                   welcome + frame(proxy.RUNNING, bytes(8), sequence=1),
                   frame(proxy.FAIL, b"\x1b]0;no\x07 room"))
        for data in answers:
            source.qmp.execute("migrate", uri=self.serve(data))
            info = self.assert_failed(source, ".")
            self.assertTrue(info["error-desc"].isprintable(), info)
        self.verify_lives(source)
        destination, uri = self.wait_at()
        self.succeeds(source, destination, uri)


class DamageTest(FaultTest):
    """A link that loses bytes or changes them."""

    def rounds(self, cmdline, rules, resent_is_fine=False):
        """
        One failing migration for each rule, between the same two processes; the last goes through.
        A rule is a Proxy's on_bytes, or None. With resent_is_fine one that goes through ends the
        rounds, if the guest is whole.
        """
        destination, uri = self.wait_at()
        source = self.writer(cmdline=cmdline)
        between = self.proxy(uri)
        for rule in rules:
            between.on_bytes = rule
            source.qmp.execute("migrate", uri=between.uri)
            info = self.ended(source)
            self.assertTrue(rule.done, f"at {rule.at}: not reached")
            if info["status"] == "completed" and resent_is_fine:
                # The page had become dirty, and a newer copy made it good.
                destination.wait_status("running", 10)
                self.verify(destination)
                return
            self.assertEqual(info["status"], "failed", f"at {rule.at}: {info}")
            self.assertEqual(source.status(), "running", f"at {rule.at}")
            self.wait_dest(destination, ("failed", "none"))
            self.assert_waits(destination)
        self.verify(source)
        between.on_bytes = lambda offset, data: data
        source.qmp.execute("migrate", uri=between.uri)
        source.wait_migration(MIGRATE_SECONDS)
        destination.wait_status("running", 10)
        self.verify(destination)

    def test_cut(self):
        generator = random.Random(time.time_ns())
        places = [0, 1, 27, 28, 29, 100, 5000]
        places += [generator.randrange(4 * MIB) for _ in range(15)]
        self.rounds(TINY, [CutAt(at) for at in places])

    def test_flipped_bits(self):
        """With a guest that writes next to nothing, so that hardly a page is sent twice."""
        generator = random.Random(time.time_ns())
        places = [0, 4, 6, 8, 12, 16, 20, 24, 28, 40]
        places += [generator.randrange(4 * MIB) for _ in range(40)]
        self.rounds(STILL, [FlipAt(at, generator.randrange(8)) for at in places], True)

    def test_cut_at_each_message(self):
        """Before the commit a lost connection leaves the guest where it was."""
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        between = self.proxy(uri)
        for which in ((True, proxy.HELLO), (False, proxy.WELCOME), (True, proxy.PAGES),
                      (True, proxy.PASS), (True, proxy.SECTION), (True, proxy.END)):
            between.on_frame = once(CUT, which)
            source.qmp.execute("migrate", uri=between.uri)
            self.assert_failed(source, "connection|reset|closed")
            self.assertTrue(between.on_frame.done)
            self.wait_dest(destination, ("failed", "none"))
            self.assert_waits(destination)
            self.verify_lives(source)
        self.succeeds(source, destination, uri)


class UndecidedTest(FaultTest):
    """The link breaks in the middle of the handover (docs/handover.md has the table)."""

    def broken_at(self, *which):
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        between = self.proxy(uri, on_frame=once(CUT, *which))
        source.qmp.execute("migrate", uri=between.uri)
        self.ended(source)
        return source, destination

    def test_ready_lost(self):
        """The source had not committed: it goes on, and the destination can only be ended."""
        source, destination = self.broken_at((False, proxy.READY))
        self.assert_failed(source, "connection|closed|reset")
        self.wait_dest(destination, "undecided")
        self.assert_waits(destination)
        for token in ("1", "0x0123456789abcdef", "f" * 16):
            output = self.ferry("cont", destination.control_path, "--token", token, status=1)
            self.assertIn("token", output)
        self.ferry("cont", destination.control_path, "--token", "rubbish", status=1)
        self.assert_waits(destination)
        self.verify_lives(source)
        self.ferry("quit", destination.control_path)
        self.assertEqual(destination.wait(10), 0)
        destination, uri = self.wait_at("next")
        self.succeeds(source, destination, uri)

    def test_commit_lost(self):
        """Neither side runs the guest, until the token says that the destination may."""
        source, destination = self.broken_at((True, proxy.COMMIT))
        token = self.token(source)
        self.wait_dest(destination, "undecided")
        self.assert_waits(destination)
        self.assertIn(token, self.ferry("status", source.control_path))
        self.ferry("cont", destination.control_path, "--token", token)
        destination.wait_status("running", 10)
        self.wait_dest(destination, "completed")
        self.verify_lives(destination)
        self.ferry("cont", destination.control_path, "--token", token, status=1)
        self.assert_gone(source)
        self.assertIn("error", source.qmp.try_execute("migrate", uri="tcp:127.0.0.1:1"))
        self.finish(destination)

    def test_running_lost(self):
        """The guest has arrived; the source cannot know, and does not run it."""
        source, destination = self.broken_at((False, proxy.RUNNING))
        self.token(source)
        destination.wait_status("running", 10)
        self.wait_dest(destination, "completed")
        self.verify_lives(destination)
        self.assert_gone(source)
        self.ferry("quit", source.control_path)
        self.assertEqual(source.wait(10), 0)

    def test_command_shows_the_token(self):
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        between = self.proxy(uri, on_frame=once(CUT, (True, proxy.COMMIT)))
        output = self.ferry("migrate", source.control_path, between.uri, status=3)
        token = re.search(r"--token ([0-9a-f]{16})", output).group(1)
        self.ferry("cont", destination.control_path, "--token", token)
        destination.wait_status("running", 10)
        self.verify_lives(destination)

    def test_dead_source(self):
        """The source's host is gone; somebody who is sure of that lets the guest run."""
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        between = self.proxy(uri)

        def kill():
            os.kill(source.pid, signal.SIGKILL)
            return CUT

        between.on_frame = once(kill, (True, proxy.COMMIT))
        source.qmp.execute("migrate", uri=between.uri)
        self.wait_dest(destination, "undecided")
        self.assertEqual(source.wait(10), -signal.SIGKILL)
        self.assert_waits(destination)
        if "--force" not in self.ferry("cont", "--help"):
            self.skipTest("no ferry cont --force")
        self.ferry("cont", destination.control_path, "--force")
        destination.wait_status("running", 10)
        self.verify_lives(destination)
        self.finish(destination)

    def test_quit_while_undecided(self):
        source, destination = self.broken_at((True, proxy.COMMIT))
        self.wait_dest(destination, "undecided")
        for ferry in (source, destination):
            ferry.qmp.execute("quit")
            self.assertEqual(ferry.wait(10), 0)

    def test_cancel_before_the_commit(self):
        """The destination has everything and is ready; the source says that it keeps the guest."""
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        between, held = self.proxy(uri), threading.Event()
        self.addCleanup(held.set)

        def hold():
            held.wait(10)
            return FORWARD

        between.on_frame = once(hold, (False, proxy.READY))
        source.qmp.execute("migrate", uri=between.uri)
        self.wait_dest(destination, "device")
        deadline = time.monotonic() + 10
        while (False, proxy.READY) not in between.frames:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        self.assertEqual(self.query(source)["status"], "device")
        self.assertEqual(source.status(), "finish-migrate")
        for command in ("cont", "stop"):
            self.assertIn("error", source.qmp.try_execute(command))
        source.qmp.execute("migrate_cancel")
        held.set()
        self.assert_failed(source, "cancel", status="cancelled")
        self.verify_lives(source)
        info = self.wait_dest(destination, "failed")
        self.assertIn("cancel", info["error-desc"])
        self.assert_waits(destination)
        self.succeeds(source, destination, uri)


class CancelTest(FaultTest):
    def test_cancel(self):
        destination, uri = self.wait_at()
        source = self.writer()
        for delay in (0, 0.05, 0.3):
            self.begin(source, uri, max_bandwidth=8 * MIB)
            time.sleep(delay)
            self.ferry("cancel", source.control_path)
            self.assert_failed(source, "cancel", status="cancelled")
            self.wait_dest(destination, "failed")
            self.assert_waits(destination)
        self.verify_lives(source)
        self.succeeds(source, destination, uri)

    def test_nothing_goes_out(self):
        """A side that waits, or has not been told where, is not what migrate_cancel is about."""
        destination = self.lab.start("dst", incoming="defer", **SMALL)
        destination.qmp.execute("migrate_cancel")
        self.assertEqual(destination.status(), "inmigrate")
        # A name is looked up aside, and the command may be given again when that was in vain.
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            destination.qmp.execute("migrate-incoming", uri=f"tcp:localhost:{port}")
            destination.qmp.execute("migrate_cancel")
            self.assertIn("in use", self.wait_dest(destination, "failed")["error-desc"])
        destination.qmp.execute("migrate-incoming", uri="tcp:localhost:0")
        uri = self.wait_dest(destination, "none")["x-ferry-uri"]
        destination.qmp.execute("migrate_cancel")
        self.assert_waits(destination)
        self.succeeds(self.writer(cmdline=TINY), destination, uri)

    def test_cancel_at_once(self):
        """Before anything has been agreed on."""
        destination, uri = self.wait_at()
        source = self.writer(cmdline=TINY)
        for _ in range(10):
            source.qmp.execute("migrate", uri=uri)
            source.qmp.execute("migrate_cancel")
            info = self.ended(source)
            if info["status"] == "completed":  # it was over already
                break
            self.assertEqual(info["status"], "cancelled")
        else:
            self.verify_lives(source)
            self.move_when_free(source, uri)
        destination.wait_status("running", 10)
        self.verify_lives(destination)

    def move_when_free(self, source, uri):
        source.qmp.execute("migrate", uri=uri)
        source.wait_migration(MIGRATE_SECONDS)

    def test_ctrl_c(self):
        destination, uri = self.wait_at()
        source = self.writer()
        command = [FERRY, "migrate", "--max-bandwidth", "8M", source.control_path, uri]
        for number in (signal.SIGINT, signal.SIGTERM):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       preexec_fn=ferrylab.die_with_parent)
            try:
                self.wait_dest(destination, "active")
                process.send_signal(number)
                output = process.communicate(timeout=30)[0]
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
            self.assertEqual(process.returncode, 130, output)
            self.assertIn("keeps running here", output)
            self.assert_failed(source, "cancel", status="cancelled")
            self.wait_dest(destination, "failed")
        self.verify_lives(source)
        self.succeeds(source, destination, uri)

    def test_cancel_with_stuck_peer(self):
        destination, uri = self.wait_at()
        source = self.writer()
        self.begin(source, uri, max_bandwidth=8 * MIB)
        os.kill(destination.pid, signal.SIGSTOP)
        source.qmp.execute("migrate-set-parameters", max_bandwidth=0)
        time.sleep(0.5)
        started = time.monotonic()
        source.qmp.execute("migrate_cancel")
        self.assert_failed(source, "cancel", status="cancelled")
        self.assertLess(time.monotonic() - started, 10)
        os.kill(destination.pid, signal.SIGCONT)
        self.wait_dest(destination, "failed")
        self.succeeds(source, destination, uri)


if __name__ == "__main__":
    sys.exit(main())
