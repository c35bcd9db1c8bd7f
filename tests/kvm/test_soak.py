#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Guests that move again and again while they write flat out, and migrations one side of which dies, or
whose connection breaks, at a random moment: no write is lost, there are never two owners, and never
none before the commit.

A few rounds are run by default. FERRY_SOAK_ROUNDS and FERRY_SOAK_KILLS say how many (`make soak`), and
FERRY_SOAK_SEED repeats a run.
"""

import os
import random
import signal
import sys
import time

from support_faults import FaultTest
from support_proxy import CutAt
from support_system import GUEST_SECONDS, SystemTest, main

ROUNDS = int(os.environ.get("FERRY_SOAK_ROUNDS", "6"))
KILLS = int(os.environ.get("FERRY_SOAK_KILLS", "12"))
SEED = int(os.environ.get("FERRY_SOAK_SEED", time.time_ns() % 1000000))
PROGRESS = ROUNDS > 20 or KILLS > 20
MIB = 1 << 20


def tell(text):
    if PROGRESS:
        print(text, flush=True)


class SoakTest(SystemTest):
    def there_and_back(self, guest, name, rounds, parameters):
        """Move a guest from process to process; verified after each move. Returns it."""
        for number in range(rounds):
            destination, uri = self.wait_at(f"p{number + 1}", **self.options)
            self.move_with(guest, destination, uri, parameters(number))
            guest.stop()
            self.verify(destination, name)
            guest = destination
            if number % 10 == 9:
                tell(f"{name}: {number + 1} moves")
        return guest

    def move_with(self, guest, destination, uri, parameters):
        free = parameters.pop("free", None)
        guest.qmp.execute("migrate-set-parameters", **parameters)
        guest.qmp.execute("migrate", uri=uri, **({"x-ferry-free-pages": free} if free else {}))
        info = guest.wait_migration(GUEST_SECONDS)
        self.assertEqual(info["status"], "completed")
        self.assert_gone(guest)
        destination.wait_status("running", 10)

    def test_flat_out_on_two_processors(self):
        """RAM above the writer's region is named as free: hints are in the game."""
        self.options = {"mem": "160M", "cpus": 2}
        guest = self.writer("p0", "size=48M rate=0", **self.options)
        free = [{"gpa": 128 * MIB, "bytes": 32 * MIB}]
        random.seed(SEED)
        guest = self.there_and_back(
            guest, "writer", max(ROUNDS * 3 // 4, 1),
            lambda number: {"max_bandwidth": random.choice((0, 0, 300 * MIB)),
                            "downtime_limit": random.choice((300, 1000)),
                            "free": free if number % 2 else None})
        self.finish(guest)

    def test_a_balloon_that_hints(self):
        self.options = {"mem": "96M", "extra": ["--debug-exit", "--balloon"]}
        guest = self.boot("p0", "balloon", f"mode=honest size={48 * MIB} free={24 * MIB} rate=5000 "
                                           "churn=20", **self.options)
        guest.serial.expect(r"^balloon: ready", GUEST_SECONDS)
        guest = self.there_and_back(guest, "balloon", max(ROUNDS // 4, 1),
                                    lambda _: {"max_bandwidth": 200 * MIB})
        self.finish(guest, "balloon")


class KillTest(FaultTest):
    """What is left of a guest after a death or a cut at a random moment."""

    OPTIONS = {"mem": "64M", "cpus": 2}

    def round(self, number, how):
        guest = self.writer(f"s{number}", "size=24M rate=3000", **self.OPTIONS)
        destination, uri = self.wait_at(f"d{number}", **self.OPTIONS)
        between = None
        if how == "cut":
            # Anywhere from the first bytes to long after the last ones.
            between = self.proxy(uri, on_bytes=CutAt(random.randrange(40 * MIB)))
            uri = between.uri
        guest.qmp.execute("migrate-set-parameters", max_bandwidth=200 * MIB)
        guest.qmp.execute("migrate", uri=uri)
        if how != "cut":
            time.sleep(random.random() * 0.25)
            victim = guest if how == "source" else destination
            os.kill(victim.pid, signal.SIGKILL)
            victim.wait(10)
        end = getattr(self, f"after_{how}")(guest, destination)
        for ferry in (guest, destination):
            ferry.kill()
        if between:
            between.close()
        return end

    def settled(self, destination):
        """Where a destination is that has lost its source, once it knows."""
        deadline = time.monotonic() + GUEST_SECONDS
        while True:
            info = self.query(destination)
            if info["status"] in ("none", "failed", "undecided", "completed"):
                return info["status"]
            self.assertLess(time.monotonic(), deadline, info)
            time.sleep(0.02)

    def after_source(self, _guest, destination):
        state = self.settled(destination)
        if state == "undecided":
            # Its host is dead for certain, so the operator may say so.
            self.ferry("cont", destination.control_path, "--force")
        if state in ("undecided", "completed"):
            destination.wait_status("running", 10)
            self.verify_lives(destination)
        else:
            self.assert_waits(destination)
        return state

    def after_destination(self, guest, _destination):
        info = self.ended(guest)
        if info["status"] in ("completed", "undecided"):
            self.assert_gone(guest)
        else:
            self.assertEqual(info["status"], "failed", info)
            self.assertEqual(guest.status(), "running")
            self.verify_lives(guest)
        return info["status"]

    def after_cut(self, guest, destination):
        info, there = self.ended(guest), self.settled(destination)
        if info["status"] == "undecided" and there == "undecided":
            self.ferry("cont", destination.control_path, "--token", info["x-ferry-token"])
            destination.wait_status("running", 10)
        if info["status"] == "failed":
            self.assertIn(there, ("none", "failed", "undecided"))
            self.assertEqual(guest.status(), "running")
            self.assert_waits(destination)
            self.verify_lives(guest)
        else:
            self.assertIn(info["status"], ("completed", "undecided"))
            self.assert_gone(guest)
            self.assertEqual(destination.status(), "running")
            self.verify_lives(destination)
        return info["status"]

    def test_any_moment(self):
        random.seed(SEED)
        ends = {}
        for number in range(KILLS):
            how = random.choice(("source", "destination", "cut"))
            with self.subTest(seed=SEED, number=number, how=how):
                end = self.round(number, how)
                ends[how, end] = ends.get((how, end), 0) + 1
            if number % 20 == 19:
                tell(f"{number + 1} deaths and cuts")
        tell("what was left: " + ", ".join(f"{how}: {count} {end}"
                                           for (how, end), count in sorted(ends.items())))


if __name__ == "__main__":
    if PROGRESS:
        print(f"seed {SEED}", flush=True)
    sys.exit(main())
