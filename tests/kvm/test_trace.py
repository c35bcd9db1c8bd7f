#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""--trace: what a migration does, line by line, on both sides."""

import json
import sys

from support_system import LabError, SystemTest, free_port, guest, main


def read(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class TraceTest(SystemTest):
    def move(self):
        uri = f"tcp:127.0.0.1:{free_port()}"
        self.dst = self.lab.start("dst", incoming=uri, mem="256M", cpus=2,
                                  extra=["--trace", self.lab.path("dst.trace")])
        self.src = self.lab.start("src", kernel=guest("writer"), mem="256M", cpus=2,
                                  cmdline="cpus=2 size=64M fill=random rate=2000",
                                  extra=["--trace", self.lab.path("src.trace")])
        self.src.serial.expect(r"^writer: ready", 60)
        self.info = self.src.migrate(uri)
        self.dst.wait_status("running", 20)
        self.src.stop()
        self.dst.stop()

    def test_both_sides(self):
        self.move()
        src, dst = read(self.lab.path("src.trace")), read(self.lab.path("dst.trace"))
        self.assertEqual({x["role"] for x in src}, {"source"})
        self.assertEqual({x["role"] for x in dst}, {"destination"})
        for lines in (src, dst):
            self.assertEqual(lines[-1]["state"], "completed")
            for key in ("t", "bytes", "normal_pages", "zero_pages", "pass", "syncs"):
                values = [x[key] for x in lines]
                self.assertEqual(values, sorted(values), key)
        last = src[-1]
        self.assertEqual(last["bytes"], self.info["ram"]["transferred"])
        self.assertEqual(last["pass"], self.info["x-ferry-passes"])
        self.assertEqual(last["normal_pages"], dst[-1]["normal_pages"])
        self.assertEqual(last["zero_pages"], dst[-1]["zero_pages"])
        threads = {name.rpartition("-")[0] for x in src for name in x.get("cpu", {})}
        self.assertLessEqual({"mig-source", "mig-sync", "trace"}, threads)

    def test_bad_file(self):
        with self.assertRaisesRegex(LabError, "trace file '/nowhere/x'"):
            self.lab.start("src", kernel=guest("idle"), extra=["--trace", "/nowhere/x"])

    def test_full_disk_harms_nothing(self):
        uri = f"tcp:127.0.0.1:{free_port()}"
        dst = self.lab.start("dst", incoming=uri, mem="64M")
        src = self.lab.start("src", kernel=guest("idle"), mem="64M",
                             extra=["--trace", "/dev/full"])
        src.serial.expect(r"^idle: ready", 20)
        src.migrate(uri)
        dst.wait_status("running", 20)
        self.assertIn("the trace of the migration ends here", src.output)


if __name__ == "__main__":
    sys.exit(main())
