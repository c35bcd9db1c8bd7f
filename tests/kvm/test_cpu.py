#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What processor a guest is given, and hosts that cannot give it the same."""

import sys

from support_system import GUEST_SECONDS, SystemTest, main

MIB = 1 << 20
EXIT = "--debug-exit"


class CpuTest(SystemTest):

    def cpu(self, ferry):
        return ferry.qmp.execute("query-status")["x-ferry-cpu"]

    def started_with(self, name, model, **options):
        return self.writer(name, extra=[EXIT, "--cpu", model], **options)

    def waits_with(self, name, model, **options):
        return self.wait_at(name, extra=[EXIT, "--cpu", model], **options)

    def hideable(self):
        """A feature of this host's that its KVM can hide."""
        for name in ("cx16", "avx512f", "avx2", "rdtscp"):
            ferry, _uri = self.waits_with(f"probe-{name}", f"host,-{name}")
            features = self.cpu(ferry)["features"]
            ferry.qmp.execute("quit")
            ferry.wait(10)
            ferry, _uri = self.waits_with(f"probe2-{name}", "host")
            all_features = self.cpu(ferry)["features"]
            ferry.qmp.execute("quit")
            ferry.wait(10)
            if name in all_features and name not in features:
                return name
        self.skipTest("this KVM hides no feature")
        return None

    def test_status(self):
        ferry, _uri = self.waits_with("dst", "host")
        cpu = self.cpu(ferry)
        self.assertEqual(cpu["model"], "host")
        self.assertIn("sse2", cpu["features"])
        self.assertNotIn("vmx", cpu["features"])
        self.assertEqual(cpu["not-hidden"], [])
        self.assertRegex(self.ferry("status", ferry.control_path), r"(?m)^processor  host\nfeatures   fpu ")

    def test_models(self):
        """Whatever is seen in spite of the model is said, once and in the status."""
        for name, model, kept, hidden in (("a", "baseline", "sse4_2", "avx"),
                                          ("b", "host,-avx512f", "sse2", "avx512f"),
                                          ("c", "host,-cx16", "sse2", "cx16")):
            ferry, _uri = self.waits_with(name, model, cpus=2)
            cpu = self.cpu(ferry)
            self.assertEqual(cpu["model"], model)
            self.assertIn(kept, cpu["features"])
            self.assertEqual(hidden in cpu["features"], hidden in cpu["not-hidden"])
            self.assertNotIn(kept, cpu["not-hidden"])
            self.assertEqual(ferry.output.count("cannot hide from guests"),
                             1 if cpu["not-hidden"] else 0)

    def test_refused(self):
        for model, words in (("host,+vmx", "no guest can have vmx here"),
                             ("baseline,+svm", "no guest can have svm here")):
            output = self.ferry("run", "--incoming", "defer", "--cpu", model, status=1)
            self.assertIn(words, output)

    def test_help(self):
        output = self.ferry("run", "--cpu", "help")
        for name in ("baseline", "avx512f", "cx16*", "fpu="):
            self.assertIn(name, output.split())

    def test_other_processor(self):
        """Refused before RAM moves: the guest is neither paused nor logged, and moves elsewhere."""
        name = self.hideable()
        source = self.started_with("src", "host")
        less, uri = self.waits_with("less", f"host,-{name}")
        source.qmp.execute("migrate", uri=uri)
        info = self.assert_failed(source, rf"the guest uses [\w ]*\b{name}\b.*"
                                          rf"--cpu host,-{name}")
        self.assertLess(info.get("ram", {}).get("transferred", 0), MIB)
        self.assertEqual(info.get("ram", {}).get("normal", 0), 0)
        source.qmp.execute("query-status")  # events come before its answer
        events = [event["event"] for event in source.qmp.events]
        self.assertNotIn("STOP", events)
        self.assert_waits(less)
        self.verify_lives(source)
        more, uri = self.waits_with("more", "host")
        self.move(source, more, uri)
        self.verify_lives(more)
        self.finish(more)

    def test_fewer_go_anywhere(self):
        """From a guest that lacks a feature to a host that has it, and on; never back up."""
        name = self.hideable()
        source = self.started_with("src", f"host,-{name}")
        more, uri = self.waits_with("more", "host")
        self.move(source, more, uri)
        self.assertNotIn(name, self.cpu(more)["features"])
        again, uri = self.waits_with("again", f"host,-{name}")
        self.move(more, again, uri)
        self.verify_lives(again)
        self.finish(again)

    def test_baseline(self):
        source = self.started_with("src", "baseline", cpus=2)
        before = self.cpu(source)
        destination, uri = self.waits_with("dst", "baseline", cpus=2)
        self.move(source, destination, uri)
        self.assertEqual(self.cpu(destination), before)
        self.verify_lives(destination)
        third, uri = self.waits_with("third", "host", cpus=2)
        self.move(destination, third, uri)
        self.assertEqual(self.cpu(third)["features"], before["features"])
        self.verify_lives(third)
        self.finish(third)


if __name__ == "__main__":
    sys.exit(main())
