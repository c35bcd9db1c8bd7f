#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A migration between two addresses, over a link of limited rate (two network namespaces)."""

import argparse
import os
import sys
import unittest

from support_system import KVM_PROBLEM, ferrylab, main
import moveguest  # in scripts/lib

RATE = "400mbit"
MIB = 1 << 20


class TwoHostsTest(unittest.TestCase):
    def setUp(self):
        if os.geteuid() != 0:
            self.skipTest("network namespaces need root")
        self.hosts = ferrylab.Namespaces(f"ferry-test-{os.getpid()}")
        try:
            self.hosts.up(RATE)
        except ferrylab.LabError as error:
            self.skipTest(f"no network namespaces here: {error}")
        self.addCleanup(self.hosts.down)

    def test_writing_guest(self):
        uri = f"tcp:{self.hosts.ADDRESSES['B']}:4444"
        options = argparse.Namespace(mem="96M", cpus=2, size="64M", write_rate=500)
        with ferrylab.Lab() as lab:
            result = moveguest.move(lab, uri, options,
                                    (self.hosts.prefix("A"), self.hosts.prefix("B")))
        self.assertIn(" verify ok ", result["verdict"])
        self.assertIn(" done ok", result["end"])
        info = result["info"]
        self.assertGreater(info["ram"]["transferred"], 64 * MIB)  # the fill does not compress
        self.assertGreater(info["ram"]["duplicate"], 0)
        # 64 MiB at 50 MB/s: faster means that the traffic took another way.
        self.assertGreater(info["total-time"], 1000)

    def test_nobody_there(self):
        with ferrylab.Lab() as lab:
            source = lab.start("src", kernel=ferrylab.guest("idle"), mem="64M",
                               prefix=self.hosts.prefix("A"))
            source.serial.expect(r"^idle: ready", 30)
            source.qmp.execute("migrate", uri=f"tcp:{self.hosts.ADDRESSES['B']}:4444")
            info = source.wait_migration(30, wanted=("failed",))
            self.assertIn("refused", info["error-desc"])
            source.wait_status("running", 5)


if __name__ == "__main__":
    sys.exit(main(KVM_PROBLEM))
