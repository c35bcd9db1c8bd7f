# SPDX-License-Identifier: Apache-2.0
"""
The tables of a report as Markdown, to be taken into a page like docs/benchmarks.md: one for each
part of the matrix, a line for each VMM, and one for the ratios of pairs. Runs that did not get done are
in them as that.
"""

from . import measure, results, stats
from . import scenario as sc
from .charts import number

FIGURES = ("total_s", "engine_downtime_ms", "guest_gap_ms", "predicted_ms", "writes_s", "lost_s",
           "throttle_max", "cpu_s_gib", "wire_mib")
CONTROL = ("guest_gap_ms", "writes_kept", "source_cpu_s")
# These tell of each VMM by itself, or may be 0.
NO_RATIO = ("throttle_max", "predicted_ms", "lost_s")


def esc(text):
    """On one line, and no cell's end."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def row(cells):
    return "| " + " | ".join(cells) + " |"


def table(head, rows):
    return [row(head), "|" + "---|" * len(head), *map(row, rows)]


def some(s):
    """A summary: the median, and the lowest and the highest where there are several."""
    if s is None:
        return ""
    return number(s.median) + (f" ({number(s.low)}–{number(s.high)})" if s.n > 1 else "")


def ending(r):
    if r.outcome == results.CANCELLED:
        return f"did not converge in {r.settings['max_s']:g} s"
    if r.outcome == results.SKIPPED:
        return f"skipped: {r.reason}"
    return r.outcome


def outcomes(rows):
    """What became of the runs that did not complete: "2 of 3 did not converge in 15 s"."""
    counts = {}
    for r in rows:
        if r.outcome != results.COMPLETED:
            counts[ending(r)] = counts.get(ending(r), 0) + 1
    return "; ".join(esc(what) if n == len(rows) else f"{n} of {len(rows)} {esc(what)}"
                     for what, n in counts.items())


def cell_lines(report, cell, names):
    """A line for each VMM, and one with ratios for each but the first."""
    measured = [r for r in report.results if r.kind == "measured" and r.cell == cell.number]
    label, lines = cell.label or cell.part, []
    for name in names:
        rows = [r for r in measured if r.vmm == name]
        if not rows:
            continue
        texts = [some(stats.summary(stats.values(report.results, key, cell.number, name)))
                 for key in FIGURES]
        why = outcomes(rows)
        texts[0] = "; ".join(filter(None, (texts[0], why)))
        lines.append([esc(label), esc(name), *texts])
        label = ""
    for other in names[1:]:
        texts = ["" if key in NO_RATIO else some(stats.summary(stats.pair_ratios(
            report.results, key, cell.number, names[0], other))) for key in FIGURES]
        if any(texts):
            lines.append(["", esc(f"{names[0]} / {other}"), *texts])
    return lines


def facts(cells):
    """What all cells of a part have in common; what they have not is in their labels."""
    s = cells[0].settings
    said = {"mem": f"{s['mem']} of RAM", "size": f"{sc.region_bytes(s) >> 20} MiB {s['fill']}",
            "cpus": f"{s['cpus']} vCPU", "link": f"link {s['link']}",
            "delay_ms": f"delay {s['delay_ms']:g} ms" if s["delay_ms"] else "",
            **{key: f"{key.replace('_', ' ')} {s[key]}" if s[key] != usual else ""
               for key, (_, usual) in sc.OPTIONS.items()},
            "downtime_limit_ms": f"downtime limit {s['downtime_limit_ms']} ms",
            "max_s": f"at most {s['max_s']:g} s"}
    return ", ".join(text for key, text in said.items()
                     if text and all(cell.settings[key] == s[key] for cell in cells))


def head_of(keys):
    metrics = [measure.BY_KEY[k] for k in keys]
    return [f"{m.title}, {m.unit}" if m.unit else m.title for m in metrics]


def document(report):
    names = list(report.vmms)
    counts = {}
    for r in report.results:
        counts[r.outcome] = counts.get(r.outcome, 0) + 1
    lines = [f"### {esc(report.title)}", "", esc(report.text), "",
             f"{esc(report.begun)}, seed {report.seed}, {report.seconds:.0f} s, runs: " +
             ", ".join(f"{n} {o}" for o, n in counts.items()) +
             (" (interrupted)" if report.interrupted else "") + ". " +
             ", ".join(f"{esc(k)}: {esc(v)}" for k, v in report.machine.items()) + ". " +
             ", ".join(f"{esc(n)}: {esc(about['problem'] or about['version'])}"
                       for n, about in report.vmms.items()) +
             ". Medians, lowest–highest in brackets; ratios are of pairs.", ""]
    parts = list(dict.fromkeys(cell.part for cell in report.cells))
    for part in parts:
        cells = [cell for cell in report.cells if cell.part == part]
        lines += [f"#### {esc(part)}: {esc(facts(cells))}", ""]
        rows = [line for cell in cells for line in cell_lines(report, cell, names)]
        lines += table(["", "", *head_of(FIGURES)], rows) + [""]
    if report.control_s:
        rows = [[esc(name), *(some(stats.control(report.results, key, name)) for key in CONTROL)]
                for name in names]
        lines += [f"#### Control: {number(report.control_s)} s without a migration", "",
                  *table(["", *head_of(CONTROL)], rows), ""]
    return "\n".join(lines)


def write(report, path):
    with open(path, "w", encoding="utf-8") as file:
        file.write(document(report))
