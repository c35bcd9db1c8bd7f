# SPDX-License-Identifier: Apache-2.0
"""What was read in a run, put in order, and checked against itself."""

from dataclasses import asdict, dataclass, field

SERIES_MAX = 600      # samples of a run that are kept
WORK_SPAN_S = 0.05     # less than that between two answers makes no rate
WIRE_SLACK = 64 << 10  # the two counters of a link are not read in the same moment

COMPLETED, CANCELLED, FAILED, SKIPPED, NOT_RUN = ("completed", "cancelled", "failed", "skipped",
                                                  "not run")


@dataclass
class Result:
    """One run. `figures` has what could be measured of measure.METRICS."""
    number: int
    kind: str
    round: int
    part: str
    cell: int
    label: str
    vmm: str
    settings: dict
    outcome: str = FAILED
    reason: str = ""
    figures: dict = field(default_factory=dict)
    series: list = field(default_factory=list)   # the engine's figures over time
    passes: list = field(default_factory=list)
    slowed: list = field(default_factory=list)   # (s, {who: %}): as it changed, from query-migrate
    work: list = field(default_factory=list)     # (s, writes/s, loops/s): the guest's, over time
    histogram: list = field(default_factory=list)
    threads: dict = field(default_factory=dict)  # CPU seconds by thread: ferry's traces
    phases: dict = field(default_factory=dict)   # ns: {"downtime", "predicted"}, by side and phase
    notes: list = field(default_factory=list)    # what to know of it, for people
    checks: list = field(default_factory=list)   # {"name", "ok", "text"}

    @classmethod
    def of(cls, run, **more):
        return cls(run.number, run.kind, run.round, run.cell.part, run.cell.number, run.cell.label,
                   run.vmm, run.options, **more)

    def check(self, name, ok, text):
        self.checks.append({"name": name, "ok": bool(ok), "text": text})

    def as_dict(self):
        return asdict(self)


def passes(series):
    """What was sent in each pass. The sum is what was sent at all."""
    found, before = [], 0
    for x in series:
        if not found or found[-1]["pass"] != x["pass"]:
            before += found[-1]["sent"] if found else 0
            found.append({"pass": x["pass"], "begin_s": x["t"], "sent": 0,
                          "remaining": x["remaining"], "dirty": x["dirty"]})
        found[-1].update(end_s=x["t"], sent=x["sent"] - before, remaining_end=x["remaining"])
    return found


def thin(series, most=SERIES_MAX):
    """At most about so many samples; the first, the last and the first of each pass stay."""
    step = max(1, -(-len(series) // most))
    return [x for i, x in enumerate(series)
            if i % step == 0 or i == len(series) - 1 or x["pass"] != series[i - 1]["pass"]]


def slow_steps(slowed, end_s):
    """{who: [(s, %)]} as lines with steps, to the end of the migration; {} if nobody was slowed."""
    lines = {}
    for who in dict.fromkeys(who for _, shares in slowed for who in shares):
        points = [(slowed[0][0], 0)]
        for t, shares in slowed:
            last, now = points[-1][1], shares.get(who, 0)
            if now != last:
                points += [(t, last), (t, now)]
        lines[who] = [*points, (max(end_s, points[-1][0]), points[-1][1])]
    return lines


def some_of(rows, most=SERIES_MAX):
    """At most about so many of them, evenly, and the last one."""
    step = max(1, -(-len(rows) // most))
    return [x for i, x in enumerate(rows) if i % step == 0 or i == len(rows) - 1]


def work_rates(samples, begin):
    """(seconds since begin, writes/s, loops/s) for each interval between the guest's answers."""
    out = []
    a = samples[0] if samples else None
    for b in samples[1:]:
        span = (b[1] - a[1]) / 1e6
        if span >= WORK_SPAN_S:
            out.append((b[0] - begin, (b[2] - a[2]) / span, (b[3] - a[3]) / span))
            a = b
    return out


def check_work(result, samples):
    rows = [s[1:] for s in samples]
    good = all(all(y >= x for x, y in zip(a, b)) for a, b in zip(rows, rows[1:]))
    result.check("the guest's work only grows", good and len(rows) > 1, f"{len(rows)} answers")


def check_engine(result, there, source_pages, dest_pages):
    """there: what the destination's query-migrate says, if it counts at all."""
    sent = result.series[-1]["sent"] if result.series else 0
    total = sum(p["sent"] for p in result.passes)
    result.check("passes add up to what was sent", total == sent, f"{total} and {sent} bytes")
    received = (there or {}).get("ram", {}).get("transferred")
    if received:
        result.check("bytes sent are bytes received", sent == received,
                     f"{sent} and {received} bytes, as the two programs say")
    if source_pages is not None and dest_pages is not None:
        result.check("pages sent are pages received", source_pages == dest_pages,
                     f"{source_pages} and {dest_pages} pages")


def check_wire(result, out, came, compressed=False):
    """Bytes that the source's device sent, and that the destination's received."""
    engine = result.series[-1]["sent"] if result.series else 0
    if not compressed:  # QEMU counts what it has before it compresses
        result.check("the wire carries what the engine sends", out >= engine,
                     f"{out} bytes by the device, {engine} by the engine")
    result.check("the link loses nothing", abs(out - came) <= WIRE_SLACK,
                 f"{out} bytes out, {came} in")
