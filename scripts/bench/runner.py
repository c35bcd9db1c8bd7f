# SPDX-License-Identifier: Apache-2.0
"""
One run after the other. Each is bounded, ends with everything that it started, and if it fails says
why, and the next one goes on.
"""

import signal
import time
import traceback

import ferrylab
from ferrylab import Lab, LabError

from . import hosts, measure, results
from . import scenario as sc
from .results import Result

READY_S = 180      # a guest fills its memory first
BASE_S = 1         # of the guest's work before the migration
AFTER_S = 0.3      # and after it
CANCEL_S = 20
RUNNING_S = 20     # from "completed" to the guest's running
VERIFY_S = 180
RUN_EXTRA_S = 600  # a run takes max_s and no more than this besides


class Interrupted(BaseException):
    """The user has had enough."""


class Watch:
    """Is told of what happens; cli.py's show it."""

    def begin(self, run, count):
        pass

    def sample(self, run, sample):
        pass

    def end(self, run, result):
        pass


# ---- the guest ----

def kernel_and_cmdline(settings):
    """What the guest is, by its settings."""
    rate = sc.pages_per_s(settings)
    size = sc.region_bytes(settings)
    if settings["hints"] == "guest":
        return "balloon", (f"mode=honest size={size} free={size // 2 // 4096 * 4096} "
                           f"rate={rate or 0}")
    some = f"writers={settings['writers']} " if settings["writers"] else ""
    return "writer", (f"cpus={settings['cpus']} {some}size={size} fill={settings['fill']} "
                      f"pattern={settings['pattern']} rate={'none' if rate is None else rate} "
                      "time=0")


def verdict(side, kernel):
    """The guest's own, on its memory."""
    side.serial.send("v")
    return side.serial.expect(rf"^{kernel}: verify ", VERIFY_S).string


def unless_gone(moved, read, *words):
    """
    What is read of a destination. None where it has ended, as it may when its migration was given up
    (QEMU's does).
    """
    try:
        return read(*words)
    except (LabError, OSError):
        if moved:
            raise
        return None


def await_running(side):
    deadline = time.monotonic() + RUNNING_S
    while side.status() != "running":
        if time.monotonic() >= deadline:
            raise LabError(f"the guest does not run within {RUNNING_S} s: {side.status()}")
        time.sleep(measure.SAMPLE_S)


def trace_of(side, begin):
    """(series, CPU by thread, pages) of an ended process that wrote a trace; else nothing of each."""
    if not side.trace_path:
        return [], {}, None
    series, threads = measure.read_trace(side.trace_path, begin)
    return series, threads, series[-1]["pages"] if series else None


# ---- one run ----

class Attempt:
    """One run that is under way."""

    def __init__(self, run, driver, watch, control_s):
        self.run, self.driver, self.watch, self.control_s = run, driver, watch, control_s
        self.settings = run.options
        self.result = Result.of(run)
        self.work = measure.Work()
        self.series, self.slowed = [], []

    def why_not(self, features):
        """Why it cannot be had here, or None."""
        return features.missing(self.settings) or hosts.problem(self.settings)

    def destination(self):
        """One that waits; in self.lab."""
        return self.driver.start(self.lab, "dst", self.settings, prefix=self.ends.prefix("B"))

    def perform(self):
        control = self.run.kind == "control"
        with hosts.make(self.settings) as ends, Lab() as lab:
            self.ends, self.lab = ends, lab
            kernel, cmdline = kernel_and_cmdline(self.settings)
            self.kernel = kernel
            if kernel == "balloon":
                cmdline += self.driver.balloon_words
            destination = None if control else self.destination()
            source = self.driver.start(lab, "src", self.settings, ferrylab.guest(kernel), cmdline,
                                       ends.prefix("A"))
            source.serial.expect(rf"^{kernel}: ready", READY_S)
            if control:
                self.stand_still(source)
            else:
                self.move(source, destination)
        return self.result

    def figure(self, key, value):
        if value is not None:
            self.result.figures[key] = value

    def baseline(self, source):
        """The guest's work before; its last sample."""
        first = self.work.ask(source)
        self.work.pump(source, time.monotonic() + BASE_S)
        if self.kernel == "writer":
            measure.reset_blackouts(source)
        last = self.work.ask(source)
        self.base = measure.rates(first, last)
        self.figure("base_writes_s", self.base[0])
        return last

    def kept(self, before, after):
        writes, loops = measure.rates(before, after)
        self.figure("writes_s", writes)
        if self.base[0]:
            self.figure("writes_kept", 100 * writes / self.base[0])
            self.figure("lost_s", (after[1] - before[1]) / 1e6 * (1 - writes / self.base[0]))
        if self.base[1]:
            self.figure("spare_kept", 100 * loops / self.base[1])

    def gaps(self, side):
        if self.kernel == "writer":
            longest, self.result.histogram, io_ms = measure.blackouts(side)
            downtime = self.result.figures.get("engine_downtime_ms", 0)
            if longest < downtime / 2 <= io_ms:
                # It was caught while it answered us, and such time is in no gap.
                self.result.notes.append("the guest did not see its blackout: it was at the "
                                         "serial port")
            else:
                self.figure("guest_gap_ms", longest)

    def verified(self, line):
        self.result.check("the guest has all its pages", f"{self.kernel}: verify ok" in line, line)

    # ---- control ----

    def stand_still(self, source):
        before = self.baseline(source)
        cpu = measure.cpu_seconds(source)
        begin = time.monotonic()
        self.work.pump(source, begin + self.control_s)
        after = self.work.ask(source)
        self.figure("total_s", time.monotonic() - begin)
        self.figure("source_cpu_s", max(measure.cpu_seconds(source) - cpu, 0.0))
        self.kept(before, after)
        self.gaps(source)
        self.result.work = results.work_rates(self.work.samples, begin)
        results.check_work(self.result, self.work.samples)
        self.result.outcome = results.COMPLETED

    # ---- migration ----

    def move(self, source, destination):
        uri = self.ends.uri(self.lab)
        to_file = uri.startswith("file:")
        self.driver.prepare(source, destination, self.settings)
        if not to_file:
            destination.qmp.execute("migrate-incoming", uri=uri)
        before = self.baseline(source)
        cpu = [measure.cpu_seconds(side) for side in (source, destination)]
        wire = self.wire(source, destination, True)
        begin = time.monotonic()
        source.qmp.execute("migrate", uri=uri)
        info = self.follow(source, begin)
        done = info["status"] == "completed"
        owner = destination if done else source
        if done and to_file:
            destination.qmp.execute("migrate-incoming", uri=uri)
        # Done is when the guest runs there: QEMU's source says "completed" before its last bytes
        # have arrived.
        await_running(owner)
        end = time.monotonic()
        wire = [None if b is None else b - a
                for a, b in zip(wire, self.wire(source, destination, done))]
        now = (measure.cpu_seconds(source),
               unless_gone(done, measure.cpu_seconds, destination))
        cpu = [None if b is None else max(b - a, 0.0) for a, b in zip(cpu, now)]
        after = self.work.ask(owner, 20)
        self.work.pump(owner, time.monotonic() + AFTER_S)

        self.result.outcome = info["status"]
        self.result.reason = self.why(info, end - begin)
        self.engine_figures(info, end - begin, done)
        self.other_figures(cpu, wire, before, after)
        self.gaps(owner)
        there = destination.qmp.execute("query-migrate") if done and not to_file else {}
        self.verified(verdict(owner, self.kernel))
        ram = sc.size_bytes(self.settings["mem"])
        self.figure("source_beyond_kib", measure.beyond_kib(source.pid, ram))
        self.figure("dest_beyond_kib",
                    unless_gone(done, measure.beyond_kib, destination.pid, ram))
        source.stop()
        destination.stop()
        self.order(begin, source, trace_of(destination, begin)[1:], there, done)
        if done and wire:
            results.check_wire(self.result, wire[0], wire[2],
                               self.settings["compression"] != "none")

    def wire(self, source, destination, moved):
        """(out, back, in): bytes of the devices so far; empty where they count others', too."""
        device = self.ends.device
        if not device:
            return []
        back, out = hosts.device_bytes(source.pid, device)
        there = unless_gone(moved, hosts.device_bytes, destination.pid, device)
        return [out, back, there and there[0]]

    def follow(self, source, begin):
        """Look until it has ended; cancel when it has had its time. The last answer."""
        limit = begin + self.settings["max_s"]
        cancelled = False
        while True:
            info = source.qmp.execute("query-migrate")
            now = time.monotonic()
            sample = measure.sample(info, begin)
            if sample:
                self.series.append(sample)
                self.watch.sample(self.run, sample)
                slowed = measure.slowed(info)
                if not self.slowed or slowed != self.slowed[-1][1]:
                    self.slowed.append((now - begin, slowed))
            if info.get("status") in ("completed", "failed", "cancelled"):
                return info
            if info.get("status") == "undecided":
                raise LabError("the handover is undecided: the link was lost in its middle")
            if now > limit:
                if cancelled:
                    raise LabError(f"the migration is {info.get('status')} {CANCEL_S} s after it "
                                   "was cancelled")
                source.qmp.execute("migrate_cancel")
                cancelled, limit = True, now + CANCEL_S
            self.work.pump(source, now + measure.SAMPLE_S)

    def why(self, info, seconds):
        if info["status"] == "completed":
            return ""
        if info["status"] == "cancelled":
            return f"not done after {seconds:.0f} s, so it was cancelled"
        return info.get("error-desc", "no reason given")

    def engine_figures(self, info, seconds, done):
        self.figure("total_s", seconds)
        last = self.series[-1] if self.series else {"sent": 0, "pass": 0}
        self.figure("engine_mib", last["sent"] / measure.MIB)
        self.figure("passes", last["pass"])
        slowed = [x["throttle"] for x in self.series if x["throttle"] is not None]
        self.figure("throttle_max", max(slowed) if slowed else None)
        for key, value in measure.own_figures(info).items():
            self.figure(key, value)
        for key in ("x-ferry-downtime-phases", "x-ferry-predicted-phases"):
            if done and key in info:
                self.result.phases[key.split("-")[2]] = info[key]
        if done:
            self.figure("engine_total_s", info["total-time"] / 1e3)
            self.figure("engine_downtime_ms",
                        info.get("x-ferry-downtime-ns", info["downtime"] * 1e6) / 1e6)
            predicted = [x["predicted_ms"] for x in self.series if x["predicted_ms"] is not None]
            if "x-ferry-predicted-at-switch-ns" in info:
                predicted = [info["x-ferry-predicted-at-switch-ns"] / 1e6]
            self.figure("predicted_ms", predicted[-1] if predicted else None)

    def other_figures(self, cpu, wire, before, after):
        self.figure("source_cpu_s", cpu[0])
        self.figure("dest_cpu_s", cpu[1])
        mib = self.result.figures["engine_mib"]
        if mib >= 1 and None not in cpu:
            self.figure("cpu_s_gib", sum(cpu) / mib * 1024)
        if wire:
            self.figure("wire_mib", wire[0] / measure.MIB)
            self.figure("wire_back_mib", wire[1] / measure.MIB)
        self.kept(before, after)

    def order(self, begin, source, far_trace, there, done):
        """
        The series, and whether all agrees. Both processes have ended, so their traces are whole;
        far_trace: (CPU by thread, pages) of the destination's, there: its last query-migrate.
        """
        result = self.result
        series, threads, pages = trace_of(source, begin)
        self.series = series or self.series
        if source.trace_path:
            result.threads = {"source": threads, "destination": far_trace[0]}
        if self.settings["link"] == "file":  # the two say different things of it
            pages = None
        result.series = self.series
        result.passes = results.passes(self.series)
        if any(any(shares.values()) for _, shares in self.slowed):
            result.slowed = results.some_of(self.slowed)
        result.work = results.work_rates(self.work.samples, begin)
        results.check_work(result, self.work.samples)
        if done:
            results.check_engine(result, there, pages, far_trace[1])
        result.series = results.thin(self.series)


def attempt(one, features):
    """The Result of an Attempt, whatever happens in it but Interrupted."""
    def too_long(_number, _frame):
        raise LabError(f"the run hung: it was ended after {bound:.0f} s")

    bound = one.settings["max_s"] + RUN_EXTRA_S
    old = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, bound)
    try:
        reason = one.why_not(features)
        if reason:
            return Result.of(one.run, outcome=results.SKIPPED, reason=reason)
        result = one.perform()
    except (LabError, OSError) as error:
        result = one.result
        result.outcome, result.reason = results.FAILED, str(error)
    except Exception as error:  # pylint: disable=broad-exception-caught
        # An answer that is not as it should be. Whatever it is, hours of other runs outlive it.
        result = one.result
        result.outcome = results.FAILED
        result.reason = "an answer without sense: " + "".join(
            traceback.format_exception_only(error)).strip() + traceback.format_exc(limit=-1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    bad = [c for c in result.checks if not c["ok"]]
    if bad and result.outcome != results.FAILED:
        result.outcome = results.FAILED
        result.reason = "; ".join(f"not true: {c['name']} ({c['text']})" for c in bad)
    return result


def not_run(runs, why="interrupted"):
    """What is said of runs that did not come to it."""
    return [Result.of(run, outcome=results.NOT_RUN, reason=why) for run in runs]


class Rounds:
    """Whether there is time for another round: one that takes as long as the longest so far."""

    def __init__(self, max_s):
        self.max_s, self.longest, self.last = max_s, 0.0, None
        self.begin = self.since = time.monotonic()

    def full(self, run):
        """Asked before each run."""
        if run.kind == "warmup" or run.round == self.last:
            return False
        now = time.monotonic()
        if self.last is not None:
            self.longest = max(self.longest, now - self.since)
        self.last, self.since = run.round, now
        return bool(self.max_s and run.round and now - self.begin + self.longest > self.max_s)


def run_all(runs, begin, features, watch, keep=lambda done: None, max_s=None):
    """
    All runs, in order: begin makes an Attempt of each. After an interruption the rest is there as
    "not run", and so are rounds for which max_s leaves no time. keep is given the results so far,
    after each run.
    """
    def interrupt(number, _frame):
        signal.signal(number, signal.SIG_IGN)  # while things are put away
        raise Interrupted(number)

    done, stopped = [], 0
    old = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        rounds = Rounds(max_s)
        for run in runs:
            if rounds.full(run):
                done += not_run(runs[len(done):], "no time for another round (max_min)")
                break
            watch.begin(run, len(runs))
            result = attempt(begin(run), features[run.vmm])
            done.append(result)
            watch.end(run, result)
            keep(done)
    except Interrupted as why:
        stopped = why.args[0]
        done += not_run(runs[len(done):])
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    return done, stopped
