#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What was typed before a guest was handed over: each byte of it reaches the guest, once."""

import json
import sys

from support_system import GUEST_SECONDS, SMALL, SystemTest, main

LINES = 3000  # more than the guest answers until it is handed over; less than ferry takes along


class InputTest(SystemTest):
    def setUp(self):
        super().setUp()
        self.source = self.boot("src", "echo")
        self.source.serial.expect(r"^echo: ready", GUEST_SECONDS)
        self.destination, self.uri = self.wait_at()
        self.assertIsNotNone(self.destination.serial)  # connected before the guest speaks there
        self.lines = [f"line {i}" for i in range(LINES)]

    def check_echoes(self):
        """The guest at the destination answers what was typed at both sides; was it all of it?"""
        self.destination.serial.send("typed there\n")
        there, _ = self.destination.serial.collect("^echo: typed there$", GUEST_SECONDS)
        here = self.source.serial
        while here.line(0.5) is not None:
            pass
        # The guest may have moved in the middle of a line.
        said = [line + "\n" for line in here.seen] + [here.partial]
        said += [line + "\n" for line in there]
        said = "".join(said).partition("echo: ready\n")[2]
        wanted = "".join([f"echo: {line}\n" for line in [*self.lines, "typed there"]])
        self.assertTrue(said == wanted, f"{len(wanted)} bytes expected, {len(said)} came, "
                                        f"the last ones: {said[-100:]!r}")
        self.assertGreater(len(there), 1, "nothing was in flight")
        self.destination.serial.send("quit\n")
        self.destination.serial.expect("^echo: done ok", GUEST_SECONDS)

    def test_while_running(self):
        self.source.serial.send("\n".join(self.lines) + "\n", GUEST_SECONDS)
        self.source.serial.expect("^echo: line 100$", GUEST_SECONDS)
        self.move(self.source, self.destination, self.uri)
        self.check_echoes()

    def test_while_paused(self):
        self.source.qmp.execute("stop")
        self.source.serial.send("\n".join(self.lines) + "\n", GUEST_SECONDS)
        self.source.migrate(self.uri)
        self.destination.wait_status("paused", 10)
        self.wait_dest(self.destination, "completed")
        self.destination.qmp.execute("cont")
        self.check_echoes()

    def test_saved(self):
        """In a file it is there to be seen, and restored."""
        path = self.lab.path("saved")
        self.source.qmp.execute("stop")
        self.source.serial.send("\n".join(self.lines) + "\n", GUEST_SECONDS)
        self.ferry("save", self.source.control_path, path)
        shown = json.loads(self.ferry("inspect", path, "--json", "--verify"))
        waiting = next(s["fields"] for s in shown["sections"] if s["name"] == "input")
        self.assertGreater(waiting["input_bytes"], 1000)
        self.destination = self.lab.start("restored", incoming=f"file:{path}", **SMALL)
        self.assertIsNotNone(self.destination.serial)
        self.destination.wait_status("paused", 20)
        self.destination.qmp.execute("cont")
        self.check_echoes()


if __name__ == "__main__":
    sys.exit(main())
