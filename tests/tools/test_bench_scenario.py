#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry bench: what scenario files may say, and which runs they make."""

import glob
import os
import subprocess
import sys
import unittest
from unittest import mock

import support_bench
from bench import hosts, matrix, scenario
from bench.vmms import Features

GOOD = """
title = "t"
vmms = ["ferry", "qemu"]
repeats = 2
warmup = 1
[defaults]
mem = "64M"
link = ["100mbit", "1gbit"]
[[scenario]]
name = "one"
dirty = [0, "0.5x", "max"]
[[scenario]]
name = "two"
link = "loopback"
dirty = 500
"""
FERRY = os.environ.get("FERRY", os.path.join(support_bench.ROOT, "build", "ferry"))


class ParseTest(unittest.TestCase):
    def wrong(self, text, *patterns):
        """The text is refused, in as many lines as there are patterns."""
        with self.assertRaises(scenario.ScenarioError) as caught:
            scenario.parse(text, "f")
        lines = str(caught.exception).splitlines()
        self.assertEqual(len(lines), len(patterns), lines)
        for line, pattern in zip(lines, patterns):
            self.assertRegex(line, pattern)

    def test_good(self):
        s = scenario.parse(GOOD)
        self.assertEqual((s.title, s.repeats, s.warmup), ("t", 2, 1))
        self.assertEqual(list(s.vmms), ["ferry", "qemu"])
        cells = matrix.cells(s)
        self.assertEqual(len(cells), 2 * 3 + 1)
        self.assertEqual({c.settings["link"] for c in cells[:6]}, {"100mbit", "1gbit"})
        self.assertEqual(cells[6].settings["link"], "loopback")
        self.assertEqual(cells[6].label, "")
        self.assertEqual(len({c.name for c in cells}), 7)

    def test_shipped(self):
        found = glob.glob(os.path.join(support_bench.ROOT, "scripts/bench/scenarios/*.toml"))
        self.assertGreaterEqual(len(found), 2)
        for path in found:
            s = scenario.load(path)
            self.assertGreater(len(matrix.expand(s, 1)), 0, path)

    def test_no_toml(self):
        self.wrong('title = "t"\nvmms = [\n[x', r"^f:\d+: no TOML")

    def test_everything_wrong_is_said_at_once_with_its_line(self):
        self.wrong("""title = "t"
repeats = 0
nonsense = 1
[defaults]
memory = "1G"
[[scenario]]
name = "a"
mem = "1X"
[[scenario]]
name = "b"
dirty = ["1x", "1x"]
link = "1gbit"
""",
                   r"^f:2: repeats: 0 is no good: it must be a whole number",
                   r"^f:3: nonsense: there is no such key; known: .*repeats",
                   r"^f:5: \[defaults\] memory: there is no such key; known: .*mem",
                   r"^f:8: \[\[scenario\]\] 1 mem: '1X' is no good: a size",
                   r"^f:11: \[\[scenario\]\] 2 dirty: .* the list has a value twice")

    def test_missing(self):
        self.wrong("", "^f:1: title: it must be said", "^f:1: scenario: there must be at least one")

    def one(self, body):
        return 'title = "t"\n[[scenario]]\nname = "a"\n' + body

    def test_impossible(self):
        self.wrong(self.one('mem = "64M"\nsize = "60M"'), "^f:5: .* size: .*16 MiB are its own")
        self.wrong(self.one('dirty = "0.5x"'), r'^f:4: .* dirty: .*"loopback" has no rate')
        self.wrong(self.one('hints = "guest"\ncpus = 2'), "^f:4: .* hints: .* one vCPU")
        self.wrong(self.one('link = "file"\nthrottle = "auto"'), "^f:5: .* throttle: .* saved")
        self.wrong(self.one('link = "file"\ncompression = "zstd"'), "^f:5: .* compression: ")
        self.wrong(self.one('delay_ms = 5'), r'^f:4: .* delay_ms: only a veth pair .*"loopback"')
        self.wrong(self.one('delay_ms = [0, 5]\nlink = "file"'), '^f:4: .* delay_ms: .*"file" is')
        self.wrong(self.one('mem = "16M"'), "16 MiB are its own")
        self.wrong(self.one('cpus = 2\nwriters = 3'), "^f:5: .* writers: of 2 vCPUs 3 cannot write")

    def test_bad_values(self):
        for body in ('cpus = 0', 'cpus = 65', 'cpus = true', 'cpus = "1"', 'cpus = []',
                     'link = "fast"', 'link = "1kbit"', 'link = 5', 'dirty = -1', 'dirty = "2"',
                     'dirty = true', 'dirty = "1e99x"', 'pattern = "x"', 'fill = 1', 'delay_ms = -1', 'delay_ms = 2001',
                     'mem = "999999999999999G"', 'mem = 64', 'max_s = 0', 'downtime_limit_ms = 0',
                     'channels = 17', 'compression = "gzip"', 'throttle = true', 'dirty_log = ""'):
            self.wrong(self.one(body), "^f:4: .*is no good: ")
        self.wrong('title = "t"\n[[scenario]]\nname = "a b"', "a name has")
        self.wrong('title = "t"\n[[scenario]]\nmem = "1G"', "a name has")
        self.wrong('title = "t"\nscenario = [1]', "it must be a table")
        self.wrong('title = "t"\ndefaults = 3\n[[scenario]]\nname = "a"', "it must be a table")
        self.wrong(GOOD + '[[scenario]]\nname = "one"', "there is another scenario one")

    def test_too_many(self):
        numbers = ", ".join(map(str, range(1, 65)))
        self.wrong(self.one(f"cpus = [{numbers}]\nchannels = [{', '.join(map(str, range(1, 17)))}]"
                            f"\ndirty = [0, 1, 2]"), "more than 2000 combinations")

    def test_variants(self):
        s = scenario.parse('vmms = ["ferry", "more"]\n[vmm.more]\nkind = "ferry"\nchannels = 4\n'
                           .join(['title = "t"\n', '[[scenario]]\nname = "a"\n']))
        runs = matrix.expand(s, 1)
        self.assertEqual({(r.vmm, r.options["channels"]) for r in runs}, {("ferry", 1), ("more", 4)})
        self.wrong('title = "t"\nvmms = ["ferry", "x", "ferry"]\n[vmm.y]\nspeed = 1\n[[scenario]]\n'
                   'name = "a"', r"^f:4: \[vmm.y\] speed: there is no such key",
                   r"^f:3: \[vmm.y\] kind: it must be said", "^f:2: vmms: there is no x",
                   "^f:2: vmms: ferry is there twice")

    def test_rates(self):
        settings = {"dirty": "0.5x", "link": "400mbit"}
        self.assertEqual(scenario.pages_per_s(settings), round(0.5 * 400e6 / 8 / 4096))
        self.assertIsNone(scenario.pages_per_s({"dirty": 0, "link": "loopback"}))
        self.assertIsNone(scenario.pages_per_s({"dirty": "0x", "link": "1gbit"}))
        self.assertEqual(scenario.pages_per_s({"dirty": "max", "link": "loopback"}), 0)


class MatrixTest(unittest.TestCase):
    def setUp(self):
        self.scenario = scenario.parse(GOOD)

    def test_every_cell_in_every_round_with_every_vmm(self):
        runs = matrix.expand(self.scenario, 7)
        measured = [(r.round, r.cell.number, r.vmm) for r in runs if r.kind == "measured"]
        self.assertEqual(sorted(measured), sorted((n, c, v) for n in range(2) for c in range(7)
                                                  for v in ("ferry", "qemu")))
        self.assertEqual(len([r for r in runs if r.kind == "control"]), 2 * 2)
        self.assertEqual([r.kind for r in runs[:3]], ["warmup", "warmup", runs[2].kind])
        self.assertEqual([r.number for r in runs], list(range(len(runs))))

    def test_pairs_are_side_by_side(self):
        rest = [r for r in matrix.expand(self.scenario, 7) if r.kind != "warmup"]
        for a, b in zip(rest[::2], rest[1::2]):
            self.assertEqual((a.kind, a.round, a.cell), (b.kind, b.round, b.cell))
            self.assertNotEqual(a.vmm, b.vmm)

    def test_order(self):
        def order(seed):
            return [(r.kind, r.round, r.cell.number, r.vmm)
                    for r in matrix.expand(self.scenario, seed)]
        self.assertEqual(order(3), order(3))
        self.assertNotEqual(order(3), order(4))
        self.assertEqual(sorted(order(3)), sorted(order(4)))

    def test_only(self):
        runs = matrix.expand(self.scenario, 1, ["ferry"])
        self.assertEqual({r.vmm for r in runs}, {"ferry"})

    def test_control_has_a_writing_guest(self):
        runs = matrix.expand(self.scenario, 1)
        self.assertEqual({r.cell.settings["dirty"] for r in runs if r.kind == "control"}, {"0.5x"})


class FeatureTest(unittest.TestCase):
    """What a VMM does not have makes a reason, not a failure."""

    class Missing:
        kind, program = "ferry", "/nowhere/ferry"

        def problem(self):
            return "/nowhere/ferry is not there, or no program"

    def test_missing_program(self):
        settings = scenario.parse(GOOD).parts[1][1]
        settings = {k: v[0] for k, v in settings.items()}
        self.assertIn("not there", Features(self.Missing()).missing(settings))

    def test_missing_feature(self):
        settings = {k: v[1] for k, v in scenario.KEYS.items()}
        f = Features(self.Missing())
        f.problem, f.version = None, "ferry 0"
        self.assertIsNone(f.missing(settings))
        for key, value in (("channels", 2), ("compression", "zstd"), ("throttle", "auto"),
                           ("dirty_log", "ring"), ("hints", "guest")):
            self.assertTrue(f.missing({**settings, key: value}).startswith("ferry 0 "), key)
        f.parameters = {"multifd-channels", "multifd-compression"}
        f.capabilities, f.help = {"auto-converge"}, "--dirty-ring N\n--balloon"
        self.assertIn("one channel", f.missing({**settings, "channels": 2}))
        self.assertIsNone(f.missing({**settings, "channels": 1}))
        self.assertIn("mapped-ram", f.missing({**settings, "link": "file"}))
        f.capabilities = {"mapped-ram"}
        self.assertIsNone(f.missing({**settings, "link": "file", "channels": 2}))
        f.capabilities, f.help = {"auto-converge", "multifd"}, "--dirty-ring N\n--balloon"
        for key, value in (("channels", 2), ("compression", "zstd"), ("throttle", "auto"),
                           ("dirty_log", "ring"), ("hints", "guest")):
            self.assertIsNone(f.missing({**settings, key: value}), key)


class HostsTest(unittest.TestCase):
    @staticmethod
    def link(link, delay_ms=0):
        return {"link": link, "delay_ms": delay_ms}

    def test_privileges(self):
        with mock.patch("os.geteuid", return_value=1000):
            self.assertIn("need root", hosts.problem(self.link("1gbit")))
            self.assertIn("need root", hosts.problem(self.link("unlimited")))
            self.assertIsNone(hosts.problem(self.link("loopback")))
            self.assertIsNone(hosts.problem(self.link("file")))
            self.assertIsNone(hosts.make(self.link("loopback")).device)  # others' are not counted
        with mock.patch("os.geteuid", return_value=0):
            self.assertIsNone(hosts.problem(self.link("1gbit")))

    def test_queues(self):
        """The rate is within the delay: the other way around the bucket would hold what waits."""
        self.assertEqual(hosts.Link.queues(None, 0), [])
        self.assertEqual([q[:2] for q in hosts.Link.queues("1gbit", 0)], [["root", "tbf"]])
        delay, rate = hosts.Link.queues("1gbit", 2.5)
        self.assertEqual(delay[:6], ["root", "handle", "1:", "netem", "delay", "2.5ms"])
        self.assertEqual(rate[:5], ["parent", "1:1", "handle", "10:", "tbf"])
        self.assertEqual([q[3] for q in hosts.Link.queues(None, 1)], ["netem"])

    def test_device_bytes(self):
        received, sent = hosts.device_bytes(os.getpid(), "lo")
        self.assertEqual(received, sent)
        with self.assertRaisesRegex(hosts.LabError, "no network device nodev"):
            hosts.device_bytes(os.getpid(), "nodev")


class CommandTest(unittest.TestCase):
    def bench(self, *arguments, status, folder="/", **environment):
        done = subprocess.run([FERRY, "bench", *arguments], stdin=subprocess.DEVNULL, cwd=folder,
                              capture_output=True, text=True, timeout=60, check=False,
                              env={**os.environ, **environment})
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def test_list(self):
        out = self.bench("quick", "--list", "--seed", "5", status=0).stdout.splitlines()
        self.assertRegex(out[0], "runs, seed 5$")
        self.assertEqual(out, self.bench("quick", "--list", "--seed", "5",
                                         status=0).stdout.splitlines())
        only = self.bench("quick", "--list", "--only", "ferry", status=0).stdout
        self.assertNotIn("qemu", only)

    def test_usage(self):
        self.assertIn("say which scenarios", self.bench(status=2).stderr)
        self.assertIn("unrecognized", self.bench("quick", "--nonsense", status=2).stderr)
        self.assertIn("No such file", self.bench("nowhere.toml", status=2).stderr)
        self.assertIn("--only x", self.bench("quick", "--only", "x", status=2).stderr)
        self.assertIn("quick", self.bench("--help", status=0).stdout)

    def test_python_is_missing(self):
        self.assertIn("python3", self.bench("quick", status=1, PATH="/nowhere").stderr)

    def test_is_not_led_astray(self):
        """Modules come from the harness, not from where it was called or from the environment."""
        bad = os.path.join(support_bench.ROOT, "tests", "tools")
        self.bench("quick", "--list", status=0, folder=bad, PYTHONPATH="/nowhere",
                   PYTHONHOME="/nowhere")


if __name__ == "__main__":
    sys.exit(support_bench.main())
