#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests that move over several connections at once."""

import json
import sys

import support_proxy as proxy
from support_system import SystemTest, main, port_of

MIB = 1 << 20


class ChannelsTest(SystemTest):
    def check_shares(self, info, channels):
        """Each connection carried something, and what they carried adds up."""
        shares = info["x-ferry-channels"]
        self.assertEqual(len(shares), channels, info)
        self.assertGreater(min(shares), 0, info)
        self.assertEqual(sum(shares), info["ram"]["transferred"])
        self.assertEqual(sum(shares[1:]), info["ram"]["multifd-bytes"])

    def use(self, source, channels):
        """The way QMP's users know: a capability, and a number."""
        source.qmp.execute("migrate-set-capabilities",
                           capabilities=[{"capability": "multifd", "state": True}])
        source.qmp.execute("migrate-set-parameters", multifd_channels=channels,
                           downtime_limit=2000)

    def writing(self, channels, cmdline, cpus=1):
        destination, uri = self.wait_at(cpus=cpus, mem="128M")
        source = self.writer(cmdline=cmdline, cpus=cpus, mem="128M")
        self.use(source, channels)
        info = self.move(source, destination, uri)
        self.check_shares(info, channels)
        # Loopback: tried, and not gone on with.
        self.assertIn(info["x-ferry-zero-copy"], ("copied by the device", "not offered"))
        self.assertEqual(len(self.query(destination)["x-ferry-channels"]), channels)
        self.verify_lives(destination)
        self.finish(destination)

    def test_writer(self):
        self.writing(4, "size=64M rate=2000")

    def test_writer_flat_out(self):
        self.writing(16, "cpus=2 size=32M rate=0", cpus=2)

    def test_back_and_forth(self):
        here = self.writer(cmdline="size=32M rate=3000")
        for turn in range(4):
            there, uri = self.wait_at(f"turn{turn}")
            self.use(here, 2 + turn)
            self.check_shares(self.move(here, there, uri), 2 + turn)
            self.verify_lives(there)
            here = there
        self.finish(here)

    def test_one_is_cut(self):
        """Any connection that breaks fails the attempt; the guest runs on, the next one works."""
        source = self.writer(cmdline="size=32M rate=1000")
        destination, uri = self.wait_at()
        self.use(source, 4)
        for frame in (3, 9, 20):
            seen = []

            def on_frame(to_destination, kind, seen=seen, frame=frame):
                seen.append(kind)
                return proxy.CUT if seen.count(proxy.PAGES) == frame else proxy.FORWARD

            link = proxy.Proxy(port_of(uri), on_frame=on_frame)
            source.qmp.execute("migrate", uri=link.uri)
            self.assert_failed(source, "closed|broke|gave up|does not answer|not been heard")
            link.close()
            self.wait_dest(destination, "failed")
            self.assert_waits(destination)
            self.verify(source)
        self.check_shares(self.move(source, destination, uri), 4)
        self.verify_lives(destination)

    def test_compressed(self):
        """Over a slow link text gets small; every page arrives as it was."""
        destination, uri = self.wait_at()
        source = self.writer(cmdline="size=24M rate=500 fill=text")
        self.use(source, 4)
        source.qmp.execute("migrate-set-parameters", max_bandwidth=8 * MIB,
                           multifd_compression="zstd")
        info = self.move(source, destination, uri)
        self.assertGreater(info["x-ferry-compressed-from-bytes"], 8 * MIB)
        self.assertLess(info["x-ferry-compressed-to-bytes"],
                        info["x-ferry-compressed-from-bytes"] / 2)
        self.assertLess(info["ram"]["transferred"], info["ram"]["normal-bytes"])
        self.verify_lives(destination)
        answer = source.qmp.try_execute("migrate-set-parameters", multifd_compression="zlib")
        self.assertIn("none or zstd", answer["error"]["desc"])

    def test_command(self):
        destination, uri = self.wait_at()
        source = self.writer(cmdline="size=32M rate=1000")
        output = self.ferry("migrate", "--json", "--channels", "3", source.control_path, uri)
        last = json.loads(output.splitlines()[-1])
        self.assertEqual(last["status"], "completed")
        self.check_shares(last, 3)
        self.verify_lives(destination)
        self.assertEqual(last["x-ferry-downtime-phases"]["source"]["verify"], 0, last)
        self.ferry("migrate", "--channels", "17", source.control_path, uri, status=2)
        self.ferry("migrate", "--channels", "0", source.control_path, uri, status=2)

    def test_verified(self):
        """All memory is compared, while the guest writes flat out."""
        destination, uri = self.wait_at(cpus=2)
        source = self.writer(cmdline="size=32M rate=0", cpus=2)
        output = self.ferry("migrate", "--json", "--verify", "--downtime-limit", "5000",
                            "--channels", "2", source.control_path, uri)
        last = json.loads(output.splitlines()[-1])
        self.assertEqual(last["status"], "completed", last)
        self.assertGreater(last["x-ferry-downtime-phases"]["source"]["verify"], 0, last)
        self.verify_lives(destination)


if __name__ == "__main__":
    sys.exit(main())
