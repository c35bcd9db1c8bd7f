# SPDX-License-Identifier: Apache-2.0
"""The command line of ferry bench: what it takes, what it says while it works, what it writes."""

import argparse
import json
import os
import random
import sys
import time
from dataclasses import dataclass, field

import ferrylab

from . import (SCENARIOS, hosts, machine, matrix, peer, peer_run, report_csv, report_html,
               report_json, report_md, results, runner, scenario, serve, vmms)

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
LIVE_S = 0.2   # between two states of the live line
PLAIN_S = 1.0  # and between two lines where there is no terminal
KEEP_S = 60    # between two writings of the report before all runs are done


@dataclass
class Report:
    """What all of report_* are given."""
    title: str
    text: str
    seed: int
    begun: str
    machine: dict
    vmms: dict  # name -> {"kind", "version", options}
    seconds: float = 0
    interrupted: bool = False
    control_s: float = 0
    cells: list = field(default_factory=list)
    results: list = field(default_factory=list)


# ---- progress ----

def mib(count):
    return f"{count / (1 << 20):.1f} MiB"


class TextWatch(runner.Watch):
    """Lines on standard error; with live also how the current migration goes."""

    def __init__(self, live, out=sys.stderr):
        self.live, self.out, self.tty = live, out, out.isatty()
        self.last, self.open_line, self.head = 0.0, False, ""

    def _clear(self):
        if self.open_line:
            self.out.write("\r\x1b[K")
            self.open_line = False

    def begin(self, run, count):
        kind = "" if run.kind == "measured" else f" [{run.kind}]"
        self.head = f"{run.number + 1}/{count} {run.vmm}: {run.cell.name}{kind}"
        if self.live and self.tty:
            self.out.write(self.head)
            self.open_line = True
            self.out.flush()

    def sample(self, run, sample):
        now = time.monotonic()
        if not self.live or now - self.last < (LIVE_S if self.tty else PLAIN_S):
            return
        self.last = now
        text = (f"{self.head}: {sample['t']:.1f} s, {sample['state']}, pass {sample['pass']}, "
                f"{mib(sample['remaining'])} left, sent {mib(sample['sent'])} "
                f"({mib(sample['speed'])}/s), {sample['dirty']} pages/s dirty")
        self._clear()
        if self.tty:
            self.out.write(text[:max(os.get_terminal_size(self.out.fileno()).columns - 1, 20)])
            self.open_line = True
        else:
            self.out.write(text + "\n")
        self.out.flush()

    def end(self, run, result):
        self._clear()
        f = result.figures
        text = [f"{f['total_s']:.2f} s"] if "total_s" in f else []
        text += [f"downtime {f['engine_downtime_ms']:.1f} ms"] if "engine_downtime_ms" in f else []
        text += [f"longest gap {f['guest_gap_ms']:.1f} ms"] if "guest_gap_ms" in f else []
        text += [f"{f['engine_mib']:.1f} MiB"] if "engine_mib" in f else []
        text += [result.reason] if result.reason else []
        self.out.write(f"{self.head}: {result.outcome}" + (": " if text else "") +
                       ", ".join(text) + "\n")
        self.out.flush()


class JsonWatch(runner.Watch):
    """The same for programs, on standard output: an object a line."""

    def __init__(self, live):
        self.live, self.last = live, 0.0

    def say(self, **what):
        print(json.dumps(what), flush=True)

    def begin(self, run, count):
        self.say(event="begin", number=run.number, of=count, kind=run.kind, round=run.round,
                 vmm=run.vmm, scenario=run.cell.part, cell=run.cell.label)

    def sample(self, run, sample):
        now = time.monotonic()
        if self.live and now - self.last >= LIVE_S:
            self.last = now
            self.say(event="sample", number=run.number, **sample)

    def end(self, run, result):
        self.say(event="end", number=run.number, outcome=result.outcome, reason=result.reason,
                 figures=result.figures)


# ---- what to do ----

def shipped():
    return sorted(name[:-5] for name in os.listdir(SCENARIOS) if name.endswith(".toml"))


def find(name):
    """The path of a scenario file: a file, or the name of a shipped one."""
    path = os.path.join(SCENARIOS, name + ".toml")
    if "/" not in name and not name.endswith(".toml") and os.path.exists(path):
        return path
    return name


def options_parser():
    parser = argparse.ArgumentParser(
        prog="ferry bench", add_help=True,
        description="Run a matrix of migrations and write a report of them: HTML, CSV, JSON and "
                    "Markdown.",
        epilog="Scenario files that come with ferry: " + ", ".join(shipped()) + ".")
    parser.add_argument("scenario", nargs="?", help="a scenario file, or the name of one that comes "
                                                    "with ferry")
    parser.add_argument("-o", "--output", metavar="DIR",
                        help="where the report goes (default: ferry-bench-DATE)")
    parser.add_argument("--live", action="store_true", help="show how the current migration goes")
    parser.add_argument("--json", action="store_true",
                        help="progress and result as one JSON object a line")
    parser.add_argument("--seed", type=int, help="of the order of runs (default: the file's, or by "
                                                 "chance)")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds, instead of the file's")
    parser.add_argument("--only", action="append", metavar="VMM", help="leave the other VMMs out")
    parser.add_argument("--peer", metavar="HOST:PORT",
                        help="the destinations are started by 'ferry bench --serve' there")
    parser.add_argument("--serve", metavar="ADDRESS:PORT",
                        help="start destinations here for a matrix that runs on another host")
    parser.add_argument("--token-file", metavar="FILE",
                        help="the token that both sides know (default: $FERRY_BENCH_TOKEN)")
    parser.add_argument("--list", action="store_true",
                        help="say which runs there would be, and run none")
    return parser


def plan(options):
    """(scenario, seed, runs); ScenarioError."""
    chosen = scenario.load(find(options.scenario), bool(options.peer))
    if options.repeats is not None:
        if not 1 <= options.repeats <= 100:
            raise scenario.ScenarioError("--repeats must be 1 to 100")
        chosen.repeats = options.repeats
    for name in options.only or ():
        if name not in chosen.vmms:
            raise scenario.ScenarioError(f"--only {name}: the file has {', '.join(chosen.vmms)}")
    seed = options.seed if options.seed is not None else chosen.seed
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    return chosen, seed, matrix.expand(chosen, seed, options.only)


def list_runs(chosen, seed, runs):
    print(f"{chosen.title}: {len(runs)} runs, seed {seed}")
    for run in runs:
        rate = scenario.pages_per_s(run.options)
        print(f"{run.number + 1:4} {run.kind:8} round {run.round + 1} {run.vmm:10} "
              f"{run.cell.name} ({'no' if rate is None else rate or 'all it can'} pages/s)")


def output_folder(wanted):
    """Make it; a name that is taken gets a number unless it was asked for."""
    base = wanted or time.strftime("ferry-bench-%Y%m%d-%H%M%S")
    folder, number = base, 2
    while not wanted and os.path.exists(folder):
        folder, number = f"{base}-{number}", number + 1
    os.makedirs(folder, exist_ok=True)
    return folder


KINDS = {"html": report_html, "csv": report_csv, "json": report_json, "md": report_md}


def write(report, folder):
    """Each file is there whole, or as it was before."""
    paths = {}
    for kind, module in KINDS.items():
        paths[kind] = os.path.join(folder, "report." + kind)
        module.write(report, paths[kind] + ".new")
        os.replace(paths[kind] + ".new", paths[kind])
    return paths


class Keeper:
    """Writes the report while the matrix goes on, so that what was measured outlives its end."""

    def __init__(self, report, runs, folder):
        self.report, self.runs, self.folder = report, runs, folder
        self.begin = self.last = time.monotonic()

    def __call__(self, done):
        now = time.monotonic()
        if now - self.last < KEEP_S:
            return
        self.last = now
        self.report.results = done + runner.not_run(self.runs[len(done):])
        self.report.seconds, self.report.interrupted = now - self.begin, True
        try:
            write(self.report, self.folder)
        except OSError as error:  # at the end there may be room again
            print(f"ferry bench: cannot write the report yet: {error}", file=sys.stderr)


def describe_machines(far):
    """Rows of both hosts; LabError if the other one does not answer."""
    rows = {**machine.describe(), "load before": machine.load()}
    if far:
        rows["to the peer and back"] = f"{far.round_trip_ms():.3f} ms at least"
        rows.update({f"peer: {name}": text for name, text in far.machine.items()})
    return rows


def run(options, chosen, seed, runs, folder, far):
    watch = JsonWatch(options.live) if options.json else TextWatch(options.live)
    rows = describe_machines(far)
    hosts.remove_stale()
    names = {r.vmm for r in runs}
    drivers = {name: vmms.driver(spec) for name, spec in chosen.vmms.items() if name in names}
    features = {name: vmms.Features(d) for name, d in drivers.items()}
    about = {name: {**chosen.vmms[name], "version": features[name].version,
                    "problem": features[name].problem} for name in drivers}
    report = Report(chosen.title, chosen.text, seed, time.strftime("%Y-%m-%d %H:%M:%S %z"),
                    rows, about, control_s=chosen.control_s, cells=matrix.cells(chosen))
    begin = time.monotonic()

    def attempt(one):
        words = (one, drivers[one.vmm], watch, chosen.control_s)
        return peer_run.PeerAttempt(far, *words) if far else runner.Attempt(*words)

    report.results, stopped = runner.run_all(runs, attempt, features, watch,
                                             Keeper(report, runs, folder),
                                             chosen.max_min and chosen.max_min * 60)
    report.seconds, report.interrupted = time.monotonic() - begin, bool(stopped)
    report.machine["load after"] = machine.load()
    paths = write(report, folder)
    counts = {}
    for result in report.results:
        counts[result.outcome] = counts.get(result.outcome, 0) + 1
    if options.json:
        print(json.dumps({"event": "done", "seconds": report.seconds, "counts": counts,
                          "paths": paths}), flush=True)
    else:
        print(", ".join(f"{n} {outcome}" for outcome, n in counts.items()) +
              f" in {report.seconds:.0f} s; the report: {paths['html']}", flush=True)
    if stopped:
        return 128 + stopped
    return EXIT_FAILED if counts.get(results.FAILED) else EXIT_OK


def endpoint(options):
    """(host, port) of --peer or --serve, and the token; ValueError."""
    host, port = peer.address(options.peer or options.serve)
    token = peer.read_token(options.token_file)
    if options.serve:
        if options.peer or options.scenario:
            raise ValueError("--serve takes neither --peer nor a scenario: they are the client's")
        if not peer.is_loopback(host) and not token:
            raise ValueError(f"{host} is no loopback address: others need a token (--token-file or "
                             "FERRY_BENCH_TOKEN)")
    return host, port, token


def serve_here(host, port, token):
    problem = ferrylab.kvm_problem()
    if problem:
        print(f"ferry bench: {problem}; nothing can be started here", file=sys.stderr)
        return EXIT_FAILED
    try:
        serve.serve(host, port, token)
    except OSError as error:
        print(f"ferry bench: cannot listen at {host}:{port}: {error.strerror}", file=sys.stderr)
    return EXIT_FAILED


def main(arguments=None):
    parser = options_parser()
    options = parser.parse_args(arguments)
    far = None
    if options.peer or options.serve:
        try:
            host, port, token = endpoint(options)
        except ValueError as error:
            print(f"ferry bench: {error}", file=sys.stderr)
            return EXIT_USAGE
        if options.serve:
            return serve_here(host, port, token)
        far = peer.Peer((host, port), token)
    if not options.scenario:
        parser.print_usage(sys.stderr)
        print("ferry bench: say which scenarios, e.g. 'ferry bench quick'", file=sys.stderr)
        return EXIT_USAGE
    try:
        chosen, seed, runs = plan(options)
    except scenario.ScenarioError as error:
        print(f"ferry bench: {error}", file=sys.stderr)
        return EXIT_USAGE
    if options.list:
        list_runs(chosen, seed, runs)
        return EXIT_OK
    problem = ferrylab.kvm_problem()
    if problem:
        print(f"ferry bench: {problem}; nothing was run", file=sys.stderr)
        return EXIT_FAILED
    try:
        folder = output_folder(options.output)
        return run(options, chosen, seed, runs, folder, far)
    except ferrylab.LabError as error:
        print(f"ferry bench: {error}; nothing was run", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"ferry bench: cannot write the report: {error}", file=sys.stderr)
        return EXIT_FAILED
