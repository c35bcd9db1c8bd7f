# SPDX-License-Identifier: Apache-2.0
"""
A run whose destination is another host's (peer.py, serve.py). What happens there is measured there;
of time, each figure is by one clock (docs/bench.md says which).
"""

import time

from . import measure, peer, runner
from . import scenario as sc

START_S = 60  # a VMM, and what it is asked of itself
REST_S = 30   # between what is waited for and its answer


class PeerAttempt(runner.Attempt):
    """One run that is under way, from here to there."""

    def __init__(self, far, *others):
        super().__init__(*others)
        self.far = far
        self.port = None

    def why_not(self, features):
        missing = super().why_not(features)
        if missing or self.run.kind == "control":
            return missing
        self.far.connect()
        found = self.far.call("missing", START_S, kind=self.driver.kind, settings=self.settings)
        return "the peer: " + peer.a_text(found, "why", 4000) if found.get("why") else None

    def perform(self):
        try:
            return super().perform()
        except BaseException:
            self.far.close()  # which ends what it has started
            raise

    def destination(self):
        found = self.far.call("start", START_S, kind=self.driver.kind, settings=self.settings)
        self.port = peer.a_count(found, "port", 1, 65535)

    def uri(self):
        host = f"[{self.far.host}]" if ":" in self.far.host else self.far.host
        return f"tcp:{host}:{self.port}"

    def far_work(self):
        """The guest's counters there, by our clock; like measure.Work.ask."""
        begin = time.monotonic()
        found = self.far.call("work", REST_S)
        middle = (begin + time.monotonic()) / 2
        counts = (peer.a_count(found, key) for key in ("writes", "loops"))
        sample = (middle, middle * 1e6, *counts)
        self.work.samples.append(sample)
        return sample

    def move(self, source, _destination):
        self.driver.prepare(source, None, self.settings)
        before = self.baseline(source)
        cpu = measure.cpu_seconds(source)
        self.far.call("begin", REST_S)
        begin = time.monotonic()
        source.qmp.execute("migrate", uri=self.uri())
        info = self.follow(source, begin)
        done = info["status"] == "completed"
        there = {}
        if done:
            there = self.far.call("running", runner.RUNNING_S + REST_S)
        else:
            runner.await_running(source)
        seconds = time.monotonic() - begin
        cpu = max(measure.cpu_seconds(source) - cpu, 0.0)
        if done:  # two hosts' guest clocks are none: all by ours
            self.work.samples = [(s[0], s[0] * 1e6, *s[2:]) for s in self.work.samples]
            before = (before[0], before[0] * 1e6, *before[2:])
            after = self.far_work()
            time.sleep(runner.AFTER_S)
            self.far_work()
        else:
            after = self.work.ask(source, 20)
        there = {**self.far.call("finish", runner.VERIFY_S + REST_S, moved=done), **there}
        self.result.outcome, self.result.reason = info["status"], self.why(info, seconds)
        self.engine_figures(info, seconds, done)
        self.other_figures([cpu, peer.a_number(there, "cpu_s")], [], before, after)
        self.seen_there(source, there, done)
        source.stop()
        self.order(begin, source, self.trace_there(there),
                   {"ram": {"transferred": peer.a_number(there, "transferred")}}, done)

    def seen_there(self, source, there, done):
        """The guest's blackouts and its verdict, and what the processes take."""
        ram = sc.size_bytes(self.settings["mem"])
        if done:
            self.figure("after_gap_ms", peer.a_number(there, "gap_ms"))
            self.result.histogram = peer.some_numbers(there, "histogram")
            self.verified(peer.a_text(there, "verify"))
        else:
            self.gaps(source)
            self.verified(runner.verdict(source, self.kernel))
        self.figure("source_beyond_kib", measure.beyond_kib(source.pid, ram))
        self.figure("dest_beyond_kib", peer.a_number(there, "beyond_kib", low=-1e15))

    @staticmethod
    def trace_there(there):
        threads = peer.some_named(there, "threads", peer.a_number)
        return threads, peer.a_number(there, "pages")
