# SPDX-License-Identifier: Apache-2.0
"""What is read where. METRICS says for each figure of a run where it comes from."""

import json
import os
import re
import time
from dataclasses import dataclass

from ferrylab import LabError

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20
SAMPLE_S = 0.01  # between two looks at a migration
OPEN_MAX = 4     # questions that wait for an answer
PATIENCE_S = 5   # after that one is taken for lost
WORK_S = 0.2     # between two questions to the guest, whose answers take it some milliseconds


@dataclass(frozen=True)
class Metric:
    key: str
    title: str
    unit: str
    where: str      # one of WHERE
    meaning: str
    cancelled: bool = False  # it means something of a run that was cancelled, too


WHERE = {
    "engine": "what the VMM says of itself (query-migrate)",
    "guest": "what the guest saw, by its own clock and counters",
    "proc": "/proc, of the VMM's processes",
    "interface": "the network device's counters",
    "harness": "the clock of the process that measures, from outside",
}

METRICS = (
    Metric("total_s", "total time", "s", "harness",
           "from the command until the guest runs at the destination"),
    Metric("engine_total_s", "total time", "s", "engine", "what the program says"),
    Metric("engine_downtime_ms", "downtime", "ms", "engine", "what the program says"),
    Metric("guest_gap_ms", "longest blackout", "ms", "guest",
           "longest gap between two readings of the clock, by any vCPU, scheduling included"),
    Metric("after_gap_ms", "longest blackout after", "ms", "guest",
           "the same since the guest's first answer at the destination (with --peer)"),
    Metric("predicted_ms", "predicted downtime", "ms", "engine",
           "the last prediction before the switchover"),
    Metric("passes", "passes", "", "engine", "iterations begun (QEMU: dirty-sync-count)",
           True),
    Metric("sync_ms", "reading the dirty log", "ms", "engine", "all syncs together (ferry)", True),
    Metric("clear_calls", "calls to protect pages", "", "engine",
           "KVM_CLEAR_DIRTY_LOG and its like (ferry)", True),
    Metric("called_off", "switchovers called off", "", "engine",
           "begun, found to take too long, and taken back (ferry)", True),
    Metric("rehearsed_ms", "paused to rehearse", "ms", "engine",
           "all pauses from which the prediction learns (ferry)", True),
    Metric("throttle_max", "slowed down by", "%", "engine",
           "the most that any vCPU was slowed down while it was looked at", True),
    Metric("engine_mib", "sent", "MiB", "engine", "bytes that the program says it has sent"),
    Metric("wire_mib", "on the wire", "MiB", "interface",
           "sent by the source's device, link headers included"),
    Metric("wire_back_mib", "on the wire, back", "MiB", "interface", "the other direction"),
    Metric("source_cpu_s", "CPU, source", "s", "proc",
           "of the process during the migration, without its vCPU threads"),
    Metric("dest_cpu_s", "CPU, destination", "s", "proc", "the same of the destination"),
    Metric("cpu_s_gib", "CPU per GiB sent", "s/GiB", "proc",
           "both processes, without vCPU threads, per GiB that the engine sent", True),
    Metric("base_writes_s", "writes before", "pages/s", "guest",
           "what the guest wrote in the moments before the migration", True),
    Metric("writes_s", "writes during", "pages/s", "guest",
           "what it wrote during the migration, downtime included", True),
    Metric("writes_kept", "writes kept", "%", "guest",
           "written a second during the migration, of that before", True),
    Metric("lost_s", "work lost", "s", "guest",
           "of writing as before the migration: what the missing writes would have taken", True),
    Metric("spare_kept", "spare time kept", "%", "guest",
           "loops in which the guest had nothing to write, against those before: its CPU time",
           True),
    Metric("source_beyond_kib", "memory beyond RAM, source", "KiB", "proc",
           "resident after the migration, the guest's RAM left out"),
    Metric("dest_beyond_kib", "memory beyond RAM, destination", "KiB", "proc", "the same there"),
)
BY_KEY = {m.key: m for m in METRICS}


# ---- /proc ----

def _ticks(path):
    with open(path, encoding="ascii", errors="replace") as stat:
        return sum(int(x) for x in stat.read().rpartition(")")[2].split()[11:13])


def cpu_seconds(side):
    """What the process has used so far, its vCPU threads left out."""
    # A thread that has ended is in the process's own figures only: take those, less the vCPUs.
    ticks = _ticks(f"/proc/{side.pid}/stat")
    for cpu in side.qmp.execute("query-cpus-fast"):
        ticks -= _ticks(f"/proc/{side.pid}/task/{cpu['thread-id']}/stat")
    return ticks / TICKS  # may be a tick off: its parts are not read in one moment


def beyond_kib(pid, ram_bytes):
    """Resident memory of a process outside the mapping(s) that hold the guest's RAM."""
    total = ram = size = 0
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            if line.startswith("Size:"):
                size = int(line.split()[1])
            elif line.startswith("Rss:"):
                rss = int(line.split()[1])
                total += rss
                if size * 1024 == ram_bytes:
                    ram += rss
    return total - ram


# ---- the guest ----

def fields(line):
    return dict(re.findall(r"(\S+?)=(\S+)", line))


STATUS = re.compile(r"^\w+: status t_us=(\d+) writes=(\d+) (?:loops=(\d+) )?")


class Work:
    """
    The guest's own counters, asked every WORK_S while a migration is under way. The answer to a
    question that the switchover overtook comes from the destination.
    """

    def __init__(self):
        self.samples = []  # (host time in s, guest's t_us, writes, loops)
        self._due = 0.0
        self._open = 0  # questions without an answer yet

    def take(self, line):
        """A line of the guest; half a one, which a switchover cut, is none."""
        match = STATUS.match(line or "")
        if match:
            self._open = max(self._open - 1, 0)
            self.samples.append((time.monotonic(), *(int(x or 0) for x in match.groups())))

    def ask(self, side, timeout=10):
        """One question and its answer; returns the sample."""
        side.serial.send("s")
        self.take(side.serial.expect(r"^\w+: status ", timeout).string)
        return self.samples[-1]

    def pump(self, side, until):
        """Ask when it is time to, and listen until then."""
        now = time.monotonic()
        # A guest that is hardly let run reads slowly: who asks all the same is soon not heard.
        if now >= self._due and (self._open < OPEN_MAX or now >= self._due + PATIENCE_S):
            side.serial.send("s")
            self._open += 1
            self._due = now + WORK_S
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return
            self.take(side.serial.line(left))


def rates(a, b):
    """(writes/s, loops/s) between two samples, by the guest's clock."""
    span = (b[1] - a[1]) / 1e6
    return ((b[2] - a[2]) / span, (b[3] - a[3]) / span) if span > 0 else (0.0, 0.0)


def blackouts(side):
    """
    (longest gap in ms, histogram by powers of two of us, longest time in ms that one spent in its own
    serial I/O, which is in no gap), over all vCPUs.
    """
    side.serial.send("b")
    lines = side.serial.collect(r"^writer: blackout end", 60)[0]
    cpus = [fields(line) for line in lines if " max_us=" in line]
    if not cpus:
        raise LabError("the guest says nothing about its blackouts")
    histograms = [[int(n) for n in cpu["hist"].split(",")] for cpu in cpus]
    return (max(int(cpu["max_us"]) for cpu in cpus) / 1e3, [sum(n) for n in zip(*histograms)],
            max(int(cpu["io_us"]) for cpu in cpus) / 1e3)


def reset_blackouts(side):
    side.serial.send("r")
    side.serial.expect(r"^writer: blackout reset", 10)


# ---- the program's own figures ----

OWN = {"sync_ms": ("x-ferry-sync-ns-total", 1e6), "clear_calls": ("x-ferry-protect-calls", 1),
       "called_off": ("x-ferry-switchovers-called-off", 1),
       "rehearsed_ms": ("x-ferry-rehearsal-pause-ns-total", 1e6)}


def own_figures(info):
    """What only ferry says of itself."""
    return {key: info[name] / unit for key, (name, unit) in OWN.items() if name in info}


def slowed(info):
    """{who: by how many per cent} of each vCPU, or of all where one figure is theirs; {} for none."""
    if "x-ferry-vcpus" in info:  # which says more than the figure beside it
        return {f"vCPU {cpu['cpu-index']}": round(100 * (1 - cpu["share"]), 1)
                for cpu in info["x-ferry-vcpus"]}
    if "cpu-throttle-percentage" in info:
        return {"all vCPUs": info["cpu-throttle-percentage"]}
    return {}


def throttle(info):
    """By how many per cent the slowest vCPU is slowed down; None where nothing is said of it."""
    return max(slowed(info).values(), default=None)


def sample(info, begin):
    """One look at query-migrate, in the words of our series; None before RAM moves."""
    ram = info.get("ram")
    if not ram or "transferred" not in ram:
        return None
    return {"t": time.monotonic() - begin, "state": info.get("status", "?"),
            "pass": info.get("x-ferry-passes", ram.get("dirty-sync-count", 0)),
            "sent": ram["transferred"], "remaining": ram["remaining"],
            "dirty": ram.get("dirty-pages-rate", 0), "speed": ram.get("mbps", 0) * 1e6 / 8,
            "throttle": throttle(info), "predicted_ms": info.get("expected-downtime")}


def read_trace(path, begin):
    """ferry's --trace as such a series, and CPU seconds by thread within it."""
    series, first, last = [], {}, {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                x = json.loads(line)
            except ValueError:
                break  # the last line of a process that was killed
            if x["state"] in ("none", "setup") and not x["bytes"]:
                continue
            series.append({"t": x["t"] / 1e9 - begin, "state": x["state"], "pass": x["pass"],
                           "sent": x["bytes"], "remaining": x["remaining_bytes"],
                           "dirty": x["dirty_pages_per_s"], "speed": x["bytes_per_s"],
                           "pages": x["normal_pages"] + x["zero_pages"],
                           "predicted_ms": x["predicted_downtime_ns"] / 1e6 or None})
            for name, ns in x.get("cpu", {}).items():
                first.setdefault(name, ns)
                last[name] = ns
    threads = {}
    for name, ns in last.items():
        short = name.rpartition("-")[0]
        threads[short] = threads.get(short, 0) + (ns - first[name]) / 1e9
    return series, threads
