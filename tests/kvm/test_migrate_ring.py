#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests whose written pages are told by KVM's dirty rings move, and verify themselves."""

import sys

from support_system import GUEST_SECONDS, SMALL, SystemTest, main


def ring(entries, *more):
    """A machine's options with rings of this size."""
    return {**SMALL, "extra": [*SMALL["extra"], "--dirty-ring", str(entries), *more]}


class RingTest(SystemTest):
    def note_missing(self, ferry):
        """Without rings ferry says so and uses the log, and everything here works as well."""
        if "no dirty rings" in ferry.output:
            print("SKIP rings: KVM has none")

    def flat_out(self, entries, back=False, **options):
        options = {**ring(entries), "cpus": 2, **options}
        destination, uri = self.wait_at(**options)
        source = self.writer(cmdline="size=16M rate=0 pattern=uniform", **options)
        source.qmp.execute("migrate-set-parameters", downtime_limit=5000)
        self.note_missing(source)
        info = self.move(source, destination, uri)
        self.verify_lives(destination)
        if back:
            third, uri = self.wait_at("third", **options)
            destination.qmp.execute("migrate-set-parameters", downtime_limit=5000)
            self.move(destination, third, uri)
            self.verify_lives(third)
            destination = third
        self.finish(destination)
        return info

    def test_tiny_rings(self):
        """Full all the time: the vCPUs read them themselves."""
        self.flat_out(256, back=True)

    def test_large_rings(self):
        self.flat_out(65536)

    def test_steady_writer(self):
        options = ring(1024)
        destination, uri = self.wait_at(**options)
        source = self.writer(cmdline="size=32M rate=2000 fill=text pattern=uniform", **options)
        self.move(source, destination, uri)
        self.verify_lives(destination)
        self.finish(destination)

    def test_cancelled_and_again(self):
        """The log ends and begins anew; what the rings hold from before does no harm."""
        options = {**ring(256), "cpus": 2}
        source = self.writer(cmdline="size=32M rate=0 pattern=uniform", **options)
        for _ in range(3):
            destination, uri = self.wait_at("dst", **options)
            self.begin(source, uri, max_bandwidth=20 << 20)
            source.qmp.execute("migrate_cancel")
            self.assertEqual(self.ended(source)["status"], "cancelled")
            destination.qmp.execute("quit")
            destination.wait(10)
            self.verify_lives(source)
        destination, uri = self.wait_at("last", **options)
        source.qmp.execute("migrate-set-parameters", downtime_limit=5000, max_bandwidth=0)
        self.move(source, destination, uri)
        self.verify_lives(destination)
        self.finish(destination)

    def test_saved_while_it_writes(self):
        """Into a file and back, into another size of rings."""
        source = self.writer(cmdline="size=32M rate=2000 pattern=uniform", **ring(256))
        path = self.lab.path("saved")
        self.ferry("save", source.control_path, path)
        restored = self.lab.start("restored", incoming=f"file:{path}", **ring(1024))
        restored.wait_status("running", GUEST_SECONDS)
        self.verify_lives(restored)
        self.finish(restored)

    def test_one_side_only(self):
        """How a side learns of written pages is its own business."""
        destination, uri = self.wait_at()
        source = self.writer(**ring(512))
        self.move(source, destination, uri)
        third, uri = self.wait_at("third", **ring(2048))
        self.verify_lives(destination)
        self.move(destination, third, uri)
        self.verify_lives(third)
        self.finish(third)


if __name__ == "__main__":
    sys.exit(main())
