#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry bench between two hosts, here network namespaces: both ends, and what may go wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tools"))

import support_bench  # noqa: E402  (the path comes first)
from support_system import FERRY, SystemTest, ferrylab, main  # noqa: E402

ROOT = os.geteuid() == 0
QEMU = shutil.which("qemu-system-x86_64")
BENCH_SECONDS = 240
TOKEN = "correct-horse-battery"
FILE = """
title = "Across"
vmms = [{vmms}]
repeats = 1
warmup = 0
control_s = 0.5
[defaults]
mem = "48M"
size = "16M"
[[scenario]]
name = "moves"
dirty = 1500
channels = 2
[[scenario]]
name = "stays"
size = "24M"
dirty = "max"
downtime_limit_ms = 1
max_s = {max_s}
"""


@unittest.skipUnless(ROOT, "network namespaces need root")
class PeerTest(SystemTest):
    def setUp(self):
        super().setUp()
        self.file, self.out = self.lab.path("small.toml"), self.lab.path("out")
        self.ends = ferrylab.Namespaces(f"ferry-peer-{os.getpid()}")
        self.addCleanup(self.ends.down)
        self.ends.up("400mbit")
        self.host, self.port = self.ends.ADDRESSES["B"], 4440

    def scenario(self, vmms=("ferry",), max_s=1.5):
        with open(self.file, "w", encoding="ascii") as file:
            file.write(FILE.format(vmms=", ".join(f'"{v}"' for v in vmms), max_s=max_s))

    def start(self, end, *arguments, token=TOKEN):
        environment = {**os.environ, "FERRY_BENCH_TOKEN": token}
        process = subprocess.Popen([*self.ends.prefix(end), FERRY, "bench", *arguments],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=environment)
        self.addCleanup(process.communicate)  # waits, and closes the pipes
        self.addCleanup(process.kill)
        return process

    def serve(self, host=None):
        server = self.start("B", "--serve", f"{host or self.host}:{self.port}")
        self.assertIn("waits for a matrix", server.stderr.readline())
        return server

    def client(self, *arguments, token=TOKEN):
        return self.start("A", "--peer", f"{self.host}:{self.port}", self.file, "-o", self.out,
                          *arguments, token=token)

    def end_of(self, process, status):
        out, err = process.communicate(timeout=BENCH_SECONDS)
        self.assertEqual(process.returncode, status, out + err)
        return out + err

    def runs(self):
        with open(os.path.join(self.out, "report.json"), encoding="utf-8") as file:
            self.report = json.load(file)
        return self.report["runs"]

    @staticmethod
    def children(process):
        with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]

    def assert_gone(self, pids):
        deadline = time.monotonic() + 20
        for pid in pids:
            while os.path.exists(f"/proc/{pid}"):
                self.assertLess(time.monotonic(), deadline, f"process {pid} is still there")
                time.sleep(0.02)

    def until_moving(self, client):
        """Until the guest moves that does not get done."""
        part = None
        for line in client.stdout:
            event = json.loads(line)
            part = event.get("scenario", part)
            if event["event"] == "sample" and part == "stays":
                return
        self.fail("it ended before anything moved: " + client.stderr.read())

    def test_matrix(self):
        vmms = ["ferry", "qemu"] if QEMU else ["ferry"]
        self.scenario(vmms)
        server = self.serve()
        self.end_of(self.client(), 0)
        runs = self.runs()
        self.assertEqual(len(runs), 3 * len(vmms))
        for run in runs:
            with self.subTest(run=run["number"], vmm=run["vmm"], part=run["part"]):
                self.check_run(run)
        self.assertIn("peer: kernel", self.report["machine"])
        with open(os.path.join(self.out, "report.html"), encoding="utf-8") as file:
            support_bench.check_html(self, file.read())
        self.assertEqual(self.children(server), [])
        server.send_signal(signal.SIGINT)
        self.end_of(server, 130)

    def check_run(self, run):
        f = run["figures"]
        self.assertEqual([c for c in run["checks"] if not c["ok"]], [])
        names = {c["name"] for c in run["checks"]}
        if run["kind"] == "control":
            self.assertEqual(run["outcome"], "completed", run["reason"])
            return
        self.assertEqual(run["outcome"], "cancelled" if run["part"] == "stays" else "completed",
                         run["reason"])
        self.assertLessEqual({"the guest has all its pages", "the guest's work only grows"}, names)
        self.assertNotIn("wire_mib", f)
        self.assertGreater(sum(run["histogram"]), 0)
        if run["part"] == "stays":
            self.assertIn("guest_gap_ms", f)  # it never left
            return
        self.assertNotIn("guest_gap_ms", f)
        self.assertLessEqual({"after_gap_ms", "dest_cpu_s", "dest_beyond_kib", "writes_kept",
                              "engine_downtime_ms"}, set(f))
        self.assertGreater(f["writes_s"], 0)
        if run["vmm"] == "ferry":
            self.assertIn("pages sent are pages received", names)
            self.assertIn("bytes sent are bytes received", names)
            self.assertTrue(run["threads"]["destination"])

    def test_tokens(self):
        self.scenario()
        server = self.serve()
        self.assertIn("wrong token", self.end_of(self.client(token="x" * 20), 1))
        self.assertIn("wants a token", self.end_of(self.client(token=""), 1))
        self.assertIn("this one 5", self.end_of(self.client(token="short"), 2))
        path = self.lab.path("token")
        with open(path, "w", encoding="ascii") as file:
            file.write(TOKEN + "\n")
        os.chmod(path, 0o644)
        self.assertIn("chmod 600", self.end_of(self.client("--token-file", path, token=""), 2))
        os.chmod(path, 0o600)
        self.end_of(self.client("--token-file", path, "--only", "ferry", token=""), 0)
        self.assertIsNone(server.poll())
        no_token = self.start("B", "--serve", f"{self.host}:4441", token="")
        self.assertIn("is no loopback address", self.end_of(no_token, 2))
        taken = self.start("B", "--serve", f"{self.host}:{self.port}")
        self.assertIn("cannot listen", self.end_of(taken, 1))

    @unittest.skipUnless(os.path.exists("/proc/net/if_inet6"), "no IPv6")
    def test_ipv6(self):
        self.scenario()
        self.serve("[::1]")
        self.end_of(self.start("B", "--peer", f"[::1]:{self.port}", self.file, "-o", self.out), 0)
        self.assertEqual([r["outcome"] for r in self.runs() if r["part"] == "moves"
                          and r["kind"] == "measured"], ["completed"])

    def test_client_killed(self):
        """What was started for it ends, and the next client is served."""
        self.scenario(max_s=60)
        server = self.serve()
        client = self.client("--json", "--live")
        self.until_moving(client)
        pids = self.children(server) + self.children(client)
        self.assertGreaterEqual(len(pids), 2)
        client.kill()
        client.wait(20)
        self.assert_gone(pids)
        self.assertIn("connected", server.stderr.readline())
        self.assertIn("gone", server.stderr.readline())
        self.scenario()
        self.end_of(self.client(), 0)

    def test_server_killed(self):
        """Its runs fail with a name, and the matrix ends."""
        self.scenario(max_s=30)
        server = self.serve()
        client = self.client("--json", "--live")
        self.until_moving(client)
        pids = self.children(server)
        server.kill()
        server.wait(20)
        self.assert_gone(pids)
        self.end_of(client, 1)
        reasons = [r["reason"] for r in self.runs() if r["outcome"] == "failed"]
        self.assertTrue(reasons)
        for reason in reasons:
            self.assertRegex(reason, "the peer 10.77.0.2:4440|network is unreachable|the connection|"
                                     "connection refused|was closed|reset")

    def test_interrupted(self):
        """Ctrl-C here ends what was started there."""
        self.scenario(max_s=60)
        server = self.serve()
        client = self.client("--json", "--live")
        self.until_moving(client)
        pids = self.children(server)
        client.send_signal(signal.SIGINT)
        self.end_of(client, 130)
        self.assert_gone(pids)
        self.assertTrue(any(r["outcome"] == "not run" for r in self.runs()))
        self.assertIsNone(server.poll())


if __name__ == "__main__":
    sys.exit(main())
