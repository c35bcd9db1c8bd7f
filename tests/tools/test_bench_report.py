#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ferry bench: statistics, the checks of a run against itself, pictures, reports."""

import csv
import json
import math
import os
import re
import shutil
import sys
import tempfile
import unittest
from unittest import mock

import support_bench
from bench import (charts, cli, matrix, measure, report_csv, report_html, report_json, report_md,
                   results, runner, scenario, stats)

FILE = """
title = "Title <&> \\"quoted\\""
vmms = ["ferry", "qemu"]
repeats = 3
[[scenario]]
name = "s"
mem = "64M"
link = "100mbit"
dirty = [0, "0.5x", "3x"]
"""


def series(total, steps=2000):
    return [{"t": i / 100, "state": "active", "pass": 1 + i * 4 // steps, "sent": total * i // steps,
             "remaining": total - total * i // steps, "dirty": 100 + i % 7, "speed": 1e6,
             "predicted_ms": None if i < 10 else 5.5} for i in range(steps + 1)]


def a_report(mangle=None):
    """A report of made-up results: the third cell never gets done, one run failed."""
    chosen = scenario.parse(FILE)
    report = cli.Report(chosen.title, "a <text>", 1, "now", {"kernel": "6"},
                        {n: {"kind": n, "version": n + " 1", "problem": None} for n in chosen.vmms},
                        control_s=1, cells=matrix.cells(chosen))
    for run in matrix.expand(chosen, 1):
        r = results.Result.of(run, outcome=results.COMPLETED)
        base = (1 if run.vmm == "ferry" else 2) * (1 + run.cell.number)
        for m in measure.METRICS:
            r.figures[m.key] = base + run.round / 10
        if run.kind != "control":
            r.series = results.thin(series(1 << 20))
            r.passes = results.passes(series(1 << 20))
        r.phases = {"downtime": {"source": {"pause": 2000000}, "destination": {"load": 10}},
                    "predicted": {"source": {"pause": 1000000}, "destination": {}}}
        r.threads = {"source": {"mig-source": 0.5}, "destination": {"mig-dest": 0.7}}
        if run.kind != "control":
            r.slowed = ([(0.0, {}), (2.0, {"all vCPUs": 20}), (4.0, {"all vCPUs": 30})]
                        if run.vmm == "qemu" else
                        [(0.0, {}), (1.0, {f"vCPU {i}": 9.0 * i for i in range(6)}), (3.0, {})])
        r.work, r.histogram = [(0.1, 10.0, 5.0), (0.2, 11.0, 5.0)], [0, 3, 2] + [0] * 22
        r.check("all well", True, "yes")
        if run.cell.number == 2:
            r.outcome, r.reason = results.CANCELLED, "not done after 6 s"
            r.notes = ["a note"]
        if (run.kind, run.cell.number, run.vmm, run.round) == ("measured", 1, "qemu", 2):
            r.outcome, r.reason = results.FAILED, 'said "<\x1b[1m>" & ended'
            r.figures, r.series, r.histogram, r.work = {}, [], [], []
        report.results.append(r)
    if mangle:
        mangle(report)
    return report


class StatsTest(unittest.TestCase):
    def test_summary(self):
        self.assertIsNone(stats.summary([]))
        self.assertIsNone(stats.summary([None]))
        s = stats.summary([3, 1, None, 2, 10])
        self.assertEqual((s.n, s.median, s.low, s.high, s.spread), (4, 2.5, 1, 10, 3.6))
        self.assertIsNone(stats.summary([0, 0]).spread)

    def test_pairs(self):
        report = a_report()
        pairs = stats.pair_ratios(report.results, "total_s", 0, "ferry", "qemu")
        self.assertEqual(len(pairs), 3)
        for number, ratio in enumerate(pairs):
            self.assertAlmostEqual(ratio, (1 + number / 10) / (2 + number / 10))

    def test_a_pair_needs_both(self):
        report = a_report()
        gone = next(r for r in report.results
                    if (r.kind, r.cell, r.vmm, r.round) == ("measured", 0, "qemu", 1))
        gone.outcome = results.FAILED
        self.assertEqual(len(stats.pair_ratios(report.results, "total_s", 0, "ferry", "qemu")), 2)
        self.assertEqual(len(stats.values(report.results, "total_s", 0, "qemu")), 2)

    def test_cancelled_runs_count_where_they_can(self):
        runs = a_report().results
        self.assertEqual(stats.values(runs, "total_s", 2, "ferry"), [])
        self.assertEqual(len(stats.values(runs, "writes_kept", 2, "ferry")), 3)

    def test_warm_up_and_control_do_not_count(self):
        runs = a_report().results
        self.assertEqual(len(stats.values(runs, "total_s", 0, "ferry")), 3)
        self.assertEqual(stats.control(runs, "guest_gap_ms", "ferry").n, 3)

    def test_against_itself(self):
        ratios = stats.same_ratios(a_report().results, "total_s", "ferry")
        self.assertTrue(all(1 < r < 1.2 for r in ratios) and len(ratios) >= 2, ratios)

    def test_typical_is_the_median(self):
        run = stats.typical(a_report().results, 1, "qemu")
        rows = sorted(r.figures["total_s"] for r in a_report().results
                      if r.kind == "measured" and r.cell == 1 and r.vmm == "qemu" and r.series)
        self.assertEqual(run.figures["total_s"], rows[(len(rows) - 1) // 2])

    def test_histograms_add_up(self):
        self.assertEqual(stats.histogram(a_report().results, 0, "ferry")[1], 9)


class ResultsTest(unittest.TestCase):
    def a_result(self):
        return results.Result.of(matrix.expand(scenario.parse(FILE), 1)[0])

    def failed(self, result):
        return [c["name"] for c in result.checks if not c["ok"]]

    def test_passes_add_up(self):
        whole = series(123457)
        found = results.passes(whole)
        self.assertEqual([p["pass"] for p in found], [1, 2, 3, 4, 5])
        self.assertEqual(sum(p["sent"] for p in found), 123457)
        self.assertEqual(results.passes([]), [])

    def test_thin_keeps_ends_and_passes(self):
        whole = series(1 << 20, 10000)
        few = results.thin(whole)
        self.assertLess(len(few), results.SERIES_MAX + 10)
        self.assertEqual((few[0], few[-1]), (whole[0], whole[-1]))
        self.assertEqual(results.passes(whole)[-1]["pass"], few[-1]["pass"])
        self.assertEqual([p["begin_s"] for p in results.passes(few)],
                         [p["begin_s"] for p in results.passes(whole)])

    def test_checks(self):
        r = self.a_result()
        r.series = series(1000)
        r.passes = results.passes(r.series)
        results.check_engine(r, {"ram": {"transferred": 1000}}, 5, 5)
        results.check_wire(r, 1100, 1100)
        results.check_wire(r, 500, 500, compressed=True)
        results.check_work(r, [(0, 1, 2, 3), (1, 2, 2, 4)])
        self.assertEqual(self.failed(r), [])
        self.assertEqual(len(r.checks), 7)

    def test_checks_find(self):
        r = self.a_result()
        r.series = series(1000)
        r.passes = results.passes(r.series)[1:]
        results.check_engine(r, {"ram": {"transferred": 999}}, 5, 6)
        results.check_wire(r, 900, 900)
        results.check_wire(r, 10**7, 1100)
        results.check_work(r, [(0, 1, 5, 3), (1, 2, 4, 4)])
        self.assertEqual(self.failed(r), [
            "passes add up to what was sent", "bytes sent are bytes received",
            "pages sent are pages received", "the wire carries what the engine sends",
            "the link loses nothing", "the guest's work only grows"])

    def test_slowing(self):
        self.assertEqual(measure.slowed({"cpu-throttle-percentage": 75, "x-ferry-vcpus": [
            {"cpu-index": 0, "share": 1}, {"cpu-index": 1, "share": 0.25}]}),
                         {"vCPU 0": 0, "vCPU 1": 75.0})
        self.assertEqual(measure.slowed({"cpu-throttle-percentage": 20}), {"all vCPUs": 20})
        self.assertEqual(measure.slowed({}), {})
        self.assertEqual(results.slow_steps([], 5), {})
        steps = results.slow_steps([(0, {}), (1, {"a": 10}), (2, {"a": 10, "b": 5}), (3, {})], 5)
        self.assertEqual(steps, {"a": [(0, 0), (1, 0), (1, 10), (3, 10), (3, 0), (5, 0)],
                                 "b": [(0, 0), (2, 0), (2, 5), (3, 5), (3, 0), (5, 0)]})
        rows = results.some_of(list(range(5001)))
        self.assertLess(len(rows), results.SERIES_MAX + 2)
        self.assertEqual((rows[0], rows[-1]), (0, 5000))
        lines = {f"vCPU {i}": [(0, i), (5, i)] for i in range(6)}
        self.assertEqual(list(report_html.few(lines)), ["vCPU 5", "vCPU 0"])

    def test_work(self):
        w = measure.Work()
        for line in (None, "writer: ready", "writer: status t_us=5 wri",
                     "writer: status t_us=1000000 writes=10 loops=4 paused=0",
                     "writer: status t_us=3000000 writes=30 loops=6 paused=0"):
            w.take(line)
        self.assertEqual(len(w.samples), 2)
        self.assertEqual(measure.rates(*w.samples), (10.0, 1.0))
        self.assertEqual(measure.rates(w.samples[0], w.samples[0]), (0.0, 0.0))
        self.assertEqual(len(results.work_rates(w.samples, 0)), 1)
        # Answers close together make one interval with what comes after.
        close = [(0, 0, 0, 0), (0.001, 1000, 100, 0), (0.1, 100000, 200, 50)]
        self.assertEqual(results.work_rates(close, 0), [(0.1, 2000.0, 500.0)])
        self.assertEqual(results.work_rates([], 0), [])

    def test_what_the_programs_say_of_themselves(self):
        self.assertEqual(measure.own_figures({"x-ferry-sync-ns-total": 2500000, "other": 1}),
                         {"sync_ms": 2.5})
        self.assertIsNone(measure.throttle({}))
        self.assertEqual(measure.throttle({"cpu-throttle-percentage": 40}), 40)
        self.assertEqual(measure.throttle({"x-ferry-vcpus": [
            {"cpu-index": 0, "share": 0.75}, {"cpu-index": 1, "share": 1}]}), 25)
        self.assertIsNone(measure.sample({"status": "setup"}, 0))
        x = measure.sample({"status": "active", "ram": {"transferred": 5, "remaining": 6,
                                                        "dirty-sync-count": 2, "mbps": 8}}, 0)
        self.assertEqual((x["sent"], x["remaining"], x["pass"], x["speed"]), (5, 6, 2, 1e6))

    def test_trace(self):
        with tempfile.NamedTemporaryFile("w+") as file:
            for i in range(3):
                file.write(json.dumps({
                    "t": 10**9 + i * 10**7, "role": "source", "state": "active", "pass": 1,
                    "bytes": i, "remaining_bytes": 9 - i, "normal_pages": i, "zero_pages": 1,
                    "dirty_pages_per_s": 0, "bytes_per_s": 5, "predicted_downtime_ns": 2000000,
                    "cpu": {"mig-source-7": i * 10**9, "a-8": 0, "a-9": i * 10**8}}) + "\n")
            file.write('{"t": 1, "ro')
            file.flush()
            found, threads = measure.read_trace(file.name, 0.5)
        self.assertEqual([x["sent"] for x in found], [0, 1, 2])
        self.assertAlmostEqual(found[0]["t"], 0.5)
        self.assertEqual(threads, {"mig-source": 2.0, "a": 0.2})


class ChartTest(unittest.TestCase):
    def test_ticks(self):
        for high in (1e-6, 0.3, 1, 7, 99, 12345, 3e9):
            ticks = charts.linear([high], 0, 100).ticks()
            self.assertTrue(2 <= len(ticks) <= 8, (high, ticks))
            self.assertEqual(ticks, sorted(set(ticks)))
            axis = charts.logarithmic([high, high * 5000], 0, 100)
            self.assertTrue(2 <= len(axis.ticks()) <= 14, axis.ticks())
            self.assertGreaterEqual(len(charts.logarithmic([high], 0, 1).ticks()), 1)

    def test_nothing_to_draw(self):
        for picture in (charts.over_time([charts.Panel("p", [])], "x"), charts.dots([], "s", "x"),
                        charts.scatter([], "x", "a", "b"), charts.histogram([], "x"),
                        charts.dots([("a", [(0, "n", [0, 0], "")])], "s", "x")):
            self.assertNotIn("nan", picture)

    def test_axis_stays_inside(self):
        axis = charts.Axis(1, 10, 50, 100)
        self.assertEqual((axis.at(-5), axis.at(99)), (50, 100))
        self.assertTrue(math.isfinite(charts.Axis(1, 10, 0, 9, True).at(0)))


class ReportTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="ferry-report-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def test_html(self):
        report = a_report()
        text = report_html.document(report)
        root = support_bench.check_html(self, text)
        words = " ".join(root.itertext())
        self.assertIn('Title <&> "quoted"', words)
        self.assertIn('said "<?[1m>" & ended', words)
        self.assertIn("not done after 6 s; a note", words)
        self.assertIn("mig-dest", words)
        self.assertIn("predicted, ms", words)
        self.assertIn("vCPUs slowed down by, %", words)
        for line in ("qemu, all vCPUs", "ferry, vCPU 5", "ferry, vCPU 0"):
            self.assertIn(line, words)
        for where in measure.WHERE:
            self.assertIn(where, words)
        for figure in root.iter("figure"):  # each with its data
            self.assertTrue(figure.find("details") is not None or figure.find("a") is not None)
        self.assertGreater(len(list(root.iter("polyline"))), 10)

    def test_every_run_is_there(self):
        report = a_report()
        root = support_bench.check_html(self, report_html.document(report))
        tables = [t for t in root.iter("table") if "outcome" in " ".join(t.itertext())]
        self.assertEqual(len(list(tables[0].find("tbody"))), len(report.results))

    def test_poor_reports(self):
        def nothing(report):
            report.results = []

        def skipped(report):
            for r in report.results:
                r.outcome, r.reason, r.figures, r.series = results.SKIPPED, "no", {}, []
                r.histogram, r.work, r.checks, r.passes = [], [], [], []

        def zeroes(report):
            for r in report.results:
                r.figures = {k: 0 for k in r.figures}
                r.series, r.work = r.series[:1], r.work[:1]

        def alone(report):
            del report.vmms["qemu"]
            report.results = [r for r in report.results if r.vmm == "ferry"]

        def uneven(report):
            for r in report.results:
                r.histogram = [1] * (64 if r.vmm == "ferry" else 2 + r.round)

        for mangle in (nothing, skipped, zeroes, alone, uneven):
            report = a_report(mangle)
            report.interrupted = True
            support_bench.check_html(self, report_html.document(report))
            report_csv.write(report, os.path.join(self.folder, "r.csv"))
            report_json.write(report, os.path.join(self.folder, "r.json"))
            self.check_markdown(report)

    def check_markdown(self, report):
        """Tables as wide as their heads; returns the rows' texts."""
        rows, width = [], 0
        for line in report_md.document(report).splitlines():
            if line.startswith("|"):
                cells = re.split(r"(?<!\\\\)\|", line)
                width = width or len(cells)
                self.assertEqual(len(cells), width, line)
                rows.append([c.strip() for c in cells[1:-1]])
            else:
                width = 0
        return rows

    def test_markdown(self):
        report = a_report()
        report.title = "a | b\nc"
        self.assertTrue(report_md.document(report).startswith("### a \\| b c\n"))
        rows = self.check_markdown(report)
        self.assertEqual(len(rows), 2 + 3 * 3 + 2 + 2)
        self.assertEqual(rows[2][:3], ["dirty 0", "ferry", "1.10 (1–1.20)"])
        self.assertEqual(rows[4][1:3], ["ferry / qemu", "0.52 (0.50–0.55)"])
        self.assertTrue(rows[6][2].endswith("; 1 of 3 failed"), rows[6])
        self.assertEqual(rows[8][:4], ["dirty 3x", "ferry", "did not converge in 60 s", ""])
        self.assertIn("64M of RAM, 48 MiB random, 1 vCPU, link 100mbit, downtime limit",
                      report_md.document(report))

    def test_kept_while_it_goes_on(self):
        """What ends the program without a word leaves a report of what was done by then."""
        report, runs = a_report(), matrix.expand(scenario.parse(FILE), 1)
        done = report.results[:5]
        keep = cli.Keeper(report, runs, self.folder)
        keep(done)
        self.assertEqual(os.listdir(self.folder), [])  # not after each run
        with mock.patch.object(cli, "KEEP_S", 0):
            keep(done)
        self.assertEqual(sorted(os.listdir(self.folder)),
                         ["report.csv", "report.html", "report.json", "report.md"])
        with open(os.path.join(self.folder, "report.json"), encoding="utf-8") as file:
            data = json.load(file)
        self.assertTrue(data["interrupted"])
        outcomes = [r["outcome"] for r in data["runs"]]
        self.assertEqual((len(outcomes), outcomes.count("not run")), (len(runs), len(runs) - 5))
        with mock.patch.object(cli, "KEEP_S", 0), mock.patch("sys.stderr"):
            cli.Keeper(report, runs, "/dev/null")(done)  # not the end of it

    def test_time_for_another_round(self):
        """Rounds that would end too late, if they take as long as those before, are left out."""
        class Slow(runner.Attempt):
            def perform(self):
                clock[0] += 60
                return results.Result.of(self.run, outcome=results.COMPLETED)

        runs, clock = matrix.expand(scenario.parse(FILE), 1), [0]
        one_round = 60 * len([r for r in runs if r.kind != "warmup" and r.round == 0])
        warmup = 60 * len([r for r in runs if r.kind == "warmup"])
        features = {name: mock.Mock(missing=lambda _settings: None) for name in ("ferry", "qemu")}
        for max_s, rounds in ((None, 3), (warmup + 3 * one_round, 3),
                              (warmup + 3 * one_round - 1, 2), (1, 1)):
            clock[0] = 0
            with mock.patch.object(runner.time, "monotonic", lambda: clock[0]), \
                    mock.patch.object(runner.hosts, "problem", lambda _settings: None):
                done, stopped = runner.run_all(runs, lambda run: Slow(run, None, None, 0), features,
                                               runner.Watch(), max_s=max_s)
            self.assertEqual((stopped, len(done)), (0, len(runs)))
            self.assertEqual({r.round for r in done if r.outcome == results.COMPLETED},
                             set(range(rounds)))
            left = [r.reason for r in done if r.outcome == results.NOT_RUN]
            self.assertEqual(set(left), {"no time for another round (max_min)"} if left else set())

    def test_a_destination_may_have_ended(self):
        """If its guest went on at the source; what should run there must be there."""
        def gone():
            raise FileNotFoundError("/proc/5/stat")
        self.assertIsNone(runner.unless_gone(False, gone))
        with self.assertRaises(OSError):
            runner.unless_gone(True, gone)
        self.assertEqual(runner.unless_gone(False, max, 1, 2), 2)

    def test_whatever_goes_wrong_in_a_run(self):
        run = next(r for r in matrix.expand(scenario.parse(FILE), 1) if r.kind == "measured")
        with mock.patch.object(runner.Attempt, "perform", side_effect=ZeroDivisionError("by 0")):
            one = runner.Attempt(run, None, runner.Watch(), 1)
            result = runner.attempt(one, mock.Mock(missing=lambda _settings: None))
        self.assertEqual(result.outcome, results.FAILED)
        self.assertIn("by 0", result.reason)

    def test_csv_and_json_agree(self):
        report = a_report()
        paths = cli.write(report, self.folder)
        with open(paths["csv"], encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with open(paths["json"], encoding="utf-8") as file:
            data = json.load(file)
        self.assertEqual(len(rows), len(data["runs"]))
        for row, run in zip(rows, data["runs"]):
            self.assertEqual((row["vmm"], row["outcome"], row["reason"]),
                             (run["vmm"], run["outcome"], run["reason"]))
            for m in data["metrics"]:
                text = row[f"{m['key']}@{m['where']}"]
                self.assertEqual(float(text) if text else None, run["figures"].get(m["key"]))

    def test_every_metric_says_where(self):
        for m in measure.METRICS:
            self.assertIn(m.where, measure.WHERE)
            self.assertTrue(m.title and m.meaning)
        self.assertEqual(len(measure.BY_KEY), len(measure.METRICS))


if __name__ == "__main__":
    sys.exit(support_bench.main())
