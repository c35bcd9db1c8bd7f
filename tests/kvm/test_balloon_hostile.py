#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Free page hints of a driver that is honest and of drivers that are anything but. Each guest is moved
while it writes; whatever its driver did, the move completes, and every page in use is right.
"""

import sys

from support_system import GUEST_SECONDS, MIGRATE_SECONDS, SystemTest, main, words

MIB = 1 << 20
SIZE, FREE = 32 * MIB, 16 * MIB
SHAPE = f"size={SIZE} free={FREE} rate=2000"
EXTRA = ["--debug-exit", "--balloon"]


class HintTest(SystemTest):
    def balloon(self, mode, more="", **options):
        """A guest whose driver behaves like that, and a destination that waits for it."""
        options = {"extra": EXTRA, **options}
        guest = self.boot("src", "balloon", f"mode={mode} {SHAPE} {more}", **options)
        guest.serial.expect(rf"^balloon: ready mode={mode} ", GUEST_SECONDS)
        return (guest, *self.wait_at(**options))

    def status(self, guest):
        return words(self.ask(guest, "s", r"^balloon: status"))

    def wait_for(self, guest, field, least):
        """Wait until a figure of the guest's status is so high."""
        status = self.status(guest)
        while status[field] < least:
            self.assertLess(status["t_us"], 1e6 * GUEST_SECONDS, status)
            status = self.status(guest)
        return status

    def watched_move(self, guest, destination, uri, until, **arguments):
        """
        Move it: slowly until its driver has come so far (field, least), then as fast as it goes.
        """
        guest.qmp.execute("migrate-set-parameters", max_bandwidth=MIB)
        guest.qmp.execute("migrate", uri=uri, **arguments)
        self.wait_for(guest, *until)
        guest.qmp.execute("migrate-set-parameters", max_bandwidth=0)
        ram = guest.wait_migration(MIGRATE_SECONDS)["ram"]
        self.assert_gone(guest)
        destination.wait_status("running", 10)
        return ram

    def hints_move(self, mode, more="", until=("ended", 1), **options):
        """
        Boot and move it; returns the source's figures of RAM, the guest's own, and where it is now.
        """
        guest, destination, uri = self.balloon(mode, more, **options)
        before = self.status(guest)["writes"]
        if until:
            ram = self.watched_move(guest, destination, uri, until)
        else:
            ram = self.move(guest, destination, uri)["ram"]
        status = self.wait_for(destination, "writes", before + 1)
        self.verify(destination, "balloon")
        return ram, status, destination

    def saved(self, ram):
        """Bytes of hinted pages that were not sent."""
        return ram["x-ferry-free-pages"] * ram["page-size"]


class HonestTest(HintTest):
    def test_what_is_free_is_not_sent(self):
        ram, _, guest = self.hints_move("honest")
        self.assertGreater(self.saved(ram), FREE * 3 // 4, ram)
        self.assertLess(ram["transferred"], SIZE - FREE // 2, ram)
        status = self.wait_for(guest, "done", 1)
        self.assertEqual((status["rounds"], status["ended"], status["lent"]), (1, 1, 0), status)
        self.finish(guest, "balloon")

    def test_pages_come_and_go(self):
        """Free pages are taken, used ones freed, hints are as short as that makes them."""
        ram, status, guest = self.hints_move("honest", "churn=50 rate=8000")
        self.assertEqual(status["rounds"], 1)
        self.assertGreater(self.saved(ram), FREE // 4, ram)
        self.finish(guest, "balloon")

    def test_two_moves(self):
        """What was free and was not sent is free at the next place as well."""
        _, _, guest = self.hints_move("honest", "churn=20")
        third, uri = self.wait_at("third", extra=EXTRA)
        ram = self.watched_move(guest, third, uri, ("ended", 2))
        self.assertGreater(self.saved(ram), FREE // 4, ram)
        self.assertEqual(self.wait_for(third, "done", 2)["rounds"], 2)
        self.finish(third, "balloon")

    def test_shared_memory(self):
        """From RAM in a memfd into RAM in another, and on to private memory."""
        memfd = [*EXTRA, "--mem-backend", "memfd"]
        ram, _, guest = self.hints_move("honest", "churn=20", extra=memfd)
        self.assertGreater(self.saved(ram), FREE // 4, ram)
        third, uri = self.wait_at("third", extra=EXTRA)
        ram = self.watched_move(guest, third, uri, ("ended", 2))
        self.assertGreater(self.saved(ram), FREE // 4, ram)
        self.finish(third, "balloon")

    def test_cancelled(self):
        """A round that is called off: the guest has all back, and another one can follow."""
        guest, destination, uri = self.balloon("honest", "churn=20")
        guest.qmp.execute("migrate-set-parameters", max_bandwidth=4 * MIB)
        self.begin(guest, uri)
        self.wait_for(guest, "hints", 1)
        guest.qmp.execute("migrate_cancel")
        guest.wait_migration(MIGRATE_SECONDS, ("cancelled",))
        self.assertEqual(self.wait_for(guest, "done", 1)["lent"], 0)
        self.verify(guest, "balloon")
        self.wait_dest(destination, ("none", "failed"))
        guest.qmp.execute("migrate-set-parameters", max_bandwidth=0)
        self.move(guest, destination, uri)
        self.finish(destination, "balloon")

    def test_no_hinting(self):
        ram, _, guest = self.hints_move("none", until=None)
        self.assertEqual(ram["x-ferry-free-pages"], 0)
        self.assertGreater(ram["transferred"], SIZE)
        self.finish(guest, "balloon")


class HostileTest(HintTest):
    def test_uses_what_it_hinted(self):
        """Written before the hint, after it, and hinted again: the log wins."""
        for more in ("churn=50 rate=8000", "churn=50 rate=8000 chunk=1"):
            with self.subTest(more):
                ram, status, guest = self.hints_move("liar", more)
                self.assertGreater(status["hints"], 4, status)
                self.assertGreater(ram["x-ferry-free-pages"], 0)
                self.finish(guest, "balloon")
                self.lab.ferries[0].kill()

    def test_uses_shared_memory(self):
        ram, _, guest = self.hints_move("liar", "churn=50 rate=8000",
                                        extra=[*EXTRA, "--mem-backend", "memfd"])
        self.assertGreater(ram["x-ferry-free-pages"], 0)
        self.finish(guest, "balloon")

    def test_hints_for_ever(self):
        ram, status, guest = self.hints_move("endless", "churn=50 rate=4000 chunk=4",
                                            until=("hints", 100))
        self.assertEqual(status["ended"], 0)
        self.assertGreater(ram["x-ferry-free-pages"], 0)
        # It still does, here, where nobody asked.
        self.wait_for(guest, "hints", status["hints"] + 1)
        self.finish(guest, "balloon")

    def test_never_answers(self):
        ram, status, guest = self.hints_move("mute", until=("rounds", 1))
        self.assertEqual((status["rounds"], ram["x-ferry-free-pages"]), (1, 0))
        self.finish(guest, "balloon")

    def test_falls_silent(self):
        ram, status, guest = self.hints_move("silent", until=("hints", 2))
        self.assertEqual((status["rounds"], status["ended"]), (1, 0))
        self.assertGreater(self.saved(ram), FREE // 4, ram)
        self.finish(guest, "balloon")

    def test_other_rounds(self):
        """Pages in use, hinted with every id but the right one: none of those hints counts."""
        ram, status, guest = self.hints_move("foreign")
        self.assertGreater(status["hints"], 20, status)
        self.assertGreater(self.saved(ram), FREE // 4, ram)
        self.assertLessEqual(self.saved(ram), FREE, ram)
        self.finish(guest, "balloon")

    def test_no_ram(self):
        """Beyond RAM, across the end of all addresses, of absurd lengths; then a broken device."""
        ram, status, guest = self.hints_move("wild", until=("broken", 6))
        self.assertGreater(status["broken"], 5, status)
        self.assertLessEqual(self.saved(ram), FREE, ram)
        self.finish(guest, "balloon")

    def test_statistics(self):
        """Buffers from the whole of RAM to a byte, at odd addresses, and none at all."""
        guest, destination, uri = self.balloon("stats")
        guest.qmp.execute("migrate-set-parameters", max_bandwidth=16 * MIB)
        self.begin(guest, uri)
        asked = 0
        while self.query(guest)["status"] == "active":
            guest.qmp.execute("query-balloon")
            asked += 1
        self.ended(guest)
        destination.wait_status("running", 10)
        status = self.status(destination)
        while status["stats"] + status["broken"] <= 8:  # each of the sizes came by
            self.assertLess(status["t_us"], 1e6 * GUEST_SECONDS, status)
            destination.qmp.execute("query-balloon")
            status = self.status(destination)
        self.assertGreater(status["broken"], 0, status)
        self.assertGreater(asked, 0)
        self.finish(destination, "balloon")

    def test_driver_crashes(self):
        _, status, guest = self.hints_move("reset", until=("hints", 1))
        self.assertEqual((status["rounds"], status["ended"], status["done"]), (1, 0, 0))
        self.finish(guest, "balloon")

    def test_guest_ends(self):
        """In the middle of a round the whole guest ends: so does the migration, on both sides."""
        guest, destination, uri = self.balloon("crash")
        guest.qmp.execute("migrate-set-parameters", max_bandwidth=4 * MIB)
        guest.qmp.execute("migrate", uri=uri)
        self.assertEqual(guest.wait(GUEST_SECONDS), 3)  # debug exit value 1
        self.wait_dest(destination, "failed")
        self.assert_waits(destination)


class RangesTest(HintTest):
    """Free pages that the user names, with and without a driver that names others."""

    def ranges(self, guest):
        """What the guest says is free: [{gpa, bytes}, ...]."""
        guest.serial.send("f")
        lines = guest.serial.collect(r"^balloon: free end", GUEST_SECONDS)[0]
        return [words(line) for line in lines if " gpa=" in line]

    def test_named(self):
        guest, destination, uri = self.balloon("none")
        ranges = self.ranges(guest)
        self.assertEqual(sum(r["bytes"] for r in ranges), FREE, ranges)
        guest.qmp.execute("migrate", uri=uri, x_ferry_free_pages=ranges)
        ram = guest.wait_migration(MIGRATE_SECONDS)["ram"]
        destination.wait_status("running", 10)
        self.assertEqual(self.saved(ram), FREE, ram)
        self.assertLess(ram["transferred"], SIZE - FREE // 2, ram)
        self.finish(destination, "balloon")

    def test_command(self):
        """By ferry migrate; the guest then writes there, and its writes win."""
        guest, destination, uri = self.balloon("none")
        named = self.ranges(guest)[0]
        for wrong in ("0x1000", "0x1000+", "1M+1M,,", "x+1M", "0x100+4K", "0x1000+1", "2G+1M"):
            said = self.ferry("migrate", guest.control_path, uri, "--free-pages", wrong,
                              status=1 if wrong in ("0x100+4K", "0x1000+1", "2G+1M") else 2)
            self.assertIn("free", said)
        half = named["bytes"] // 2
        self.ferry("migrate", guest.control_path, uri, "--free-pages",
                   f"{named['gpa']:#x}+{half >> 10}K,{named['gpa'] + half}+4K",
                   "--free-pages", f"{named['gpa'] + half + 4096:#x}+4096")
        ram = self.query(guest)["ram"]
        self.assertEqual(self.saved(ram), half + 8192, ram)
        destination.wait_status("running", 10)
        self.finish(destination, "balloon")

    def test_driver_and_user(self):
        """The driver falls silent after half of its free pages; the user names the other half."""
        guest, destination, uri = self.balloon("silent")
        last = self.ranges(guest)[-1]
        half = {"gpa": last["gpa"] + last["bytes"] - FREE // 2, "bytes": FREE // 2}
        ram = self.watched_move(guest, destination, uri, ("hints", 2), x_ferry_free_pages=[half])
        self.assertGreater(self.saved(ram), FREE * 3 // 4, ram)
        self.finish(destination, "balloon")

    def test_written_meanwhile(self):
        """Named as free, taken and written once the round has begun: nothing is lost."""
        guest, destination, uri = self.balloon("later", "churn=50")
        ranges = self.ranges(guest)
        ram = self.watched_move(guest, destination, uri, ("ended", 1), x_ferry_free_pages=ranges)
        self.assertEqual(self.saved(ram), FREE, ram)
        self.assertGreater(ram["normal-bytes"], SIZE - FREE, ram)
        self.finish(destination, "balloon")


class PoisonTest(HintTest):
    """A driver with PAGE_POISON expects its value in its free pages at the other side as well."""

    def test_poison(self):
        ram, status, guest = self.hints_move("poison", "churn=20", until=None)
        self.assertEqual((status["rounds"], ram["x-ferry-free-pages"]), (0, 0))
        self.finish(guest, "balloon")

    def test_hints_nevertheless(self):
        ram, status, guest = self.hints_move("poison-liar", "churn=20", until=("hints", 5))
        self.assertGreater(status["hints"], 4)
        self.assertEqual(ram["x-ferry-free-pages"], 0)
        self.finish(guest, "balloon")


if __name__ == "__main__":
    sys.exit(main())
