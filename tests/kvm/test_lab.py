#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Migrations over a link that is slow, or that somebody unplugs (two network namespaces)."""

import os
import subprocess
import sys
import time

from support_system import MIGRATE_SECONDS, SMALL, SystemTest, ferrylab, main

PORT = 4444  # the namespaces are new: every port is free
RATE = "200mbit"
WRITER = "size=32M rate=1000"


class LinkTest(SystemTest):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("network namespaces need root")
        self.hosts = ferrylab.Namespaces(f"ferry-link-{os.getpid()}")
        try:
            self.hosts.up(RATE)
        except ferrylab.LabError as error:
            self.skipTest(f"no network namespaces here: {error}")
        self.addCleanup(self.hosts.down)
        self.uri = f"tcp:{self.hosts.ADDRESSES['B']}:{PORT}"

    def two(self, cmdline=WRITER, **options):
        """A destination at host B and a writer at host A."""
        options = {**SMALL, **options}
        destination = self.lab.start("dst", incoming=self.uri, prefix=self.hosts.prefix("B"),
                                     **options)
        source = self.writer(cmdline=cmdline, prefix=self.hosts.prefix("A"), **options)
        return source, destination

    def link(self, state):
        subprocess.run(["ip", "-n", self.hosts.namespace("A"), "link", "set", "veth0", state],
                       timeout=20, check=True)

    def test_move(self):
        source, destination = self.two(cpus=2)
        info = self.move(source, destination, self.uri)
        # 32 MiB at 25 MB/s: faster means that the traffic took another way.
        self.assertGreater(info["total-time"], 1000)
        self.assertLess(info["ram"]["mbps"], 400)
        self.verify_lives(destination)
        for ferry in (source, destination):
            self.assertIn("not encrypted", ferry.output)
        self.finish(destination)

    def test_guest_faster_than_the_link(self):
        """It does not converge, until it is allowed to stand still for longer."""
        source, destination = self.two("size=24M rate=0 pattern=uniform", cpus=2)
        self.begin(source, self.uri, downtime_limit=50)
        deadline = time.monotonic() + MIGRATE_SECONDS
        while self.query(source)["x-ferry-passes"] < 3:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.1)
        info = self.query(source)
        self.assertEqual(info["status"], "active", info)
        self.assertGreater(info["expected-downtime"], 50)
        source.qmp.execute("migrate-set-parameters", downtime_limit=20000)
        source.wait_migration(MIGRATE_SECONDS)
        self.assert_gone(source)
        destination.wait_status("running", 10)
        self.verify_lives(destination)
        self.finish(destination)

    def test_unplugged_for_a_moment(self):
        source, destination = self.two()
        self.begin(source, self.uri)
        self.link("down")
        time.sleep(1)
        self.link("up")
        source.wait_migration(MIGRATE_SECONDS)
        destination.wait_status("running", 10)
        self.verify_lives(destination)
        self.finish(destination)

    def test_unplugged_and_cancelled(self):
        source, destination = self.two()
        self.begin(source, self.uri)
        self.link("down")
        time.sleep(0.5)
        source.qmp.execute("migrate_cancel")
        self.assert_failed(source, "cancel", status="cancelled")
        self.verify_lives(source)
        self.assert_waits(destination)

    def test_nobody_there(self):
        source, destination = self.two("size=4M")
        source.qmp.execute("migrate", uri=f"tcp:10.77.0.77:{PORT}")
        self.assert_failed(source, "(?i)unreachable|no route|timed out")
        source.qmp.execute("migrate", uri=f"tcp:{self.hosts.ADDRESSES['B']}:{PORT + 1}")
        self.assert_failed(source, "refused")
        self.verify_lives(source)
        self.assert_waits(destination)


if __name__ == "__main__":
    sys.exit(main())
