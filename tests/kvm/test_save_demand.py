#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Saved guests that run at once, on RAM that comes as it is touched."""

import os
import sys

from support_save import SaveTest
from support_saved import Saved
from support_system import free_port, main


class TestOnDemand(SaveTest):
    def on_demand(self, name, path, **options):
        return self.restore(name, path, extra=["--debug-exit", "--on-demand"], **options)

    def test_runs_at_once(self):
        """The guest runs on RAM that comes as it is touched, and all of it is there in the end."""
        path = self.lab.path("saved")
        src = self.writer(cpus=2)
        self.save(src, path, "--quit")
        guests = [self.on_demand(f"dst{i}", path, cpus=2) for i in range(3)]
        for guest in guests:
            self.verify_lives(guest)
            info = self.wait_dest(guest, "completed")
            self.assertEqual(info["ram"]["remaining"], 0)
        # It moves and is saved as any other; its file may have its name taken away.
        os.unlink(path)
        dst, uri = self.wait_at("moved", cpus=2)
        self.move(guests[0], dst, uri)
        self.verify_lives(dst)
        self.save(guests[1], path, "--quit")
        self.verify_lives(self.on_demand("again", path, cpus=2))
        self.finish(guests[2])

    def test_chain(self):
        """
        save, restore, migrate, save, restore. The guest can be moved, and saved, when all of its RAM is
        there and known to be right; before, the command is refused and the guest runs on.
        """
        first, second = self.lab.path("first"), self.lab.path("second")
        options = {"mem": "256M", "cpus": 2}
        src = self.writer(cmdline="size=200M rate=1000", **options)
        self.save(src, first, "--quit")
        one = self.lab.start("one", incoming="defer", extra=["--debug-exit", "--on-demand"],
                             **options)
        two, uri = self.wait_at("two", **options)
        one.qmp.execute("migrate-incoming", uri=f"file:{first}")
        why = "no guest here yet"
        while "no guest here yet" in why:
            why = one.qmp.try_execute("migrate", uri=uri).get("error", {}).get("desc", "none")
        self.assertRegex(why, "the guest's RAM still comes from .*first, .* not checked yet")
        self.verify_lives(one)
        self.wait_dest(one, "completed")
        self.move(one, two, uri)
        self.verify_lives(two)
        self.save(two, second, "--live", "--quit")
        three = self.on_demand("three", second, **options)
        self.verify_lives(three)
        self.finish(three)

    def test_many_writes(self):
        """A guest that writes all the time is as right as before, eager or not."""
        path = self.lab.path("saved")
        src = self.writer(cmdline="size=48M rate=0 pattern=uniform", cpus=2)
        self.save(src, path, "--quit")
        dst = self.on_demand("dst", path, cpus=2)
        self.wait_writes(dst, 2000)
        self.verify_lives(dst)
        self.finish(dst)

    def test_damaged(self):
        """Damage in RAM that is found behind the guest's back pauses it. It is not handed on."""
        path = self.lab.path("saved")
        src = self.writer(cmdline="size=32M rate=0 pattern=hot")
        self.save(src, path, "--quit")
        with Saved(path) as saved:
            block = saved.blocks[-1]
            page = max(p for p in range(block.size // 4096) if block.present(p))
        with open(path, "r+b") as file:
            file.seek(block.pages_offset + page * 4096 + 100)
            file.write(b"damage")
        dst = self.lab.start("dst", incoming=f"file:{path}", mem="64M",
                             extra=["--debug-exit", "--on-demand"])
        info = self.wait_dest(dst, "failed")
        self.assertRegex(info["error-desc"], "has been paused.*do not match their checksum")
        self.assertEqual(dst.status(), "paused")
        answer = dst.qmp.try_execute("migrate", uri=f"tcp:127.0.0.1:{free_port()}")
        self.assertRegex(answer["error"]["desc"], "neither moved nor saved.*their checksum")
        self.assertIn("neither moved nor saved", self.save(dst, self.lab.path("x"), status=1))
        self.assertFalse(os.path.exists(self.lab.path("x")))
        self.assertEqual(dst.status(), "paused")

    def test_other_memory(self):
        out = self.ferry("restore", "x", "--on-demand", "--mem-backend", "memfd", status=2)
        self.assertIn("needs --mem-backend anon", out)


if __name__ == "__main__":
    sys.exit(main())
