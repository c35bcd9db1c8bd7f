# SPDX-License-Identifier: Apache-2.0
"""
The report as one HTML file that needs nothing else: pictures inline, no scripts, no addresses. It
is well-formed as XML, too. Every picture has its numbers in a table or a CSV beside it.
"""

import base64
import csv
import io
import itertools

from . import charts, measure, results, stats
from . import scenario as sc
from .charts import esc, number
from .html_style import STYLE

# The figures that have a picture over all cells.
PICTURES = ("total_s", "engine_downtime_ms", "guest_gap_ms", "writes_kept", "spare_kept",
            "cpu_s_gib", "wire_mib")
NOISE = ("total_s", "engine_downtime_ms", "guest_gap_ms", "cpu_s_gib")
RUN_FIGURES = ("total_s", "passes", "engine_downtime_ms", "predicted_ms", "guest_gap_ms",
               "engine_mib", "wire_mib", "base_writes_s", "writes_s", "cpu_s_gib",
               "source_beyond_kib", "dest_beyond_kib")
FEW = 4  # vCPUs that have a line each
MARKS = {results.COMPLETED: "✓", results.CANCELLED: "◼", results.FAILED: "✗",
         results.SKIPPED: "–", results.NOT_RUN: "–"}


class Page:
    def __init__(self, report):
        self.report, self.results = report, report.results
        self.names = list(report.vmms)
        self.parts = []

    def add(self, *parts):
        self.parts += parts

    def colour(self, vmm):
        return self.names.index(vmm)


# ---- small pieces ----

def where(metric):
    return f'<span class="w" title="{esc(measure.WHERE[metric.where])}">{metric.where}</span>'


def heading_of(metric):
    unit = f", {metric.unit}" if metric.unit else ""
    return f'<span title="{esc(metric.meaning)}">{esc(metric.title + unit)}</span> {where(metric)}'


def table(head, rows, name=""):
    """Cells are HTML already."""
    out = ['<div class="scroll"><table>']
    if name:
        out.append(f"<caption>{esc(name)}</caption>")
    out.append("<thead><tr>" + "".join(f"<th>{h}</th>" for h in head) + "</tr></thead><tbody>")
    for row in rows:
        out.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return "".join(out) + "</tbody></table></div>"


def details(summary, inner):
    return f"<details><summary>{esc(summary)}</summary>{inner}</details>"


def figure(picture, caption, data):
    return f"<figure>{picture}<figcaption>{caption}</figcaption>{data}</figure>"


def csv_link(name, head, rows, words="the numbers as CSV"):
    """The numbers themselves, to be saved: in the page, not beside it."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(head)
    writer.writerows(rows)
    data = base64.b64encode(out.getvalue().encode()).decode()
    return (f'<a class="data" download="{esc(name)}.csv" href="data:text/csv;base64,{data}">'
            f"{esc(words)}</a> ")


def legend(page, names=None):
    items = "".join(
        f'<span><svg viewBox="0 0 14 14" class="key" aria-hidden="true">'
        f"{charts.mark(7, 7, page.colour(n), n)}</svg>{esc(n)}</span>"
        for n in names or page.names)
    return f'<p class="legend">{items}</p>'


def summary_text(s):
    if s is None:
        return "–"
    if s.n == 1:
        return number(s.median)
    return f"{number(s.median)} <small>({number(s.low)}–{number(s.high)})</small>"


def why_none(page, cell, vmm):
    counts = {}
    for r in page.results:
        if r.kind == "measured" and r.cell == cell and r.vmm == vmm:
            counts[r.outcome] = counts.get(r.outcome, 0) + 1
    if not counts:
        return "not run"
    if counts.get(results.COMPLETED):
        return "no such figure"
    return ", ".join(f"{n} × {outcome}" for outcome, n in counts.items())


# ---- sections ----

def opening(page):
    r = page.report
    counts = {}
    for x in page.results:
        counts[x.outcome] = counts.get(x.outcome, 0) + 1
    page.add(f"<header><h1>{esc(r.title)}</h1>")
    if r.text:
        page.add(f"<p>{esc(r.text)}</p>")
    page.add(f"<p class='facts'>{esc(r.begun)} · {len(page.results)} runs in {r.seconds:.0f} s · "
             f"order shuffled by seed {r.seed} · "
             + ", ".join(f"{n} {esc(o)}" for o, n in counts.items()) + "</p>")
    if r.interrupted:
        page.add("<p class='banner'>This run was interrupted: what is missing was not run.</p>")
    failed = counts.get(results.FAILED)
    if failed:
        page.add(f"<p class='banner'>{failed} runs failed; the table of all runs says why.</p>")
    page.add(legend(page), "</header>")


def set_up(page):
    rows = [(esc(k), esc(v)) for k, v in page.report.machine.items()]
    vmms = []
    for name, about in page.report.vmms.items():
        own = ", ".join(f"{k} {v}" for k, v in about.items()
                        if k in sc.OPTIONS or k == "program") or "defaults"
        vmms.append((esc(name), esc(about["problem"] or about["version"]), esc(own)))
    said = [(f'<span class="w">{k}</span>', esc(v)) for k, v in measure.WHERE.items()]
    page.add("<section><h2>Set-up</h2><div class='columns'>",
             table(("machine", ""), rows), "<div>",
             table(("VMM", "version", "options of its own"), vmms),
             table(("measured by", ""), said), "</div></div></section>")


def metric_picture(page, metric):
    rows, body = [], []
    for cell in page.report.cells:
        groups, row = [], [esc(cell.name)]
        for vmm in page.names:
            values = stats.values(page.results, metric.key, cell.number, vmm)
            groups.append((page.colour(vmm), vmm, values, why_none(page, cell.number, vmm)))
            row.append(summary_text(stats.summary(values)))
        for other in page.names[1:]:
            row.append(summary_text(stats.summary(stats.pair_ratios(
                page.results, metric.key, cell.number, page.names[0], other))))
        rows.append((cell.name, groups))
        body.append(row)
    if not any(g[2] for _, groups in rows for g in groups):
        return ""
    head = ["", *map(esc, page.names),
            *(f"{esc(page.names[0])} / {esc(n)}" for n in page.names[1:])]
    caption = f"{heading_of(metric)}: {esc(metric.meaning)}."
    return figure(charts.dots(rows, metric.unit, metric.title), caption,
                  details("Medians (lowest–highest), ratios of pairs", table(head, body)))


def comparisons(page):
    page.add("<section><h2>All cells</h2><p>A dot is a run, a bar the median. Runs that were "
             "cancelled count where they have something to say. Ratios are of pairs: runs of the "
             "same round, one directly after the other.</p>"
             "<div class='cards'>")
    for key in PICTURES:
        page.add(metric_picture(page, measure.BY_KEY[key]))
    page.add(prediction(page), "</div></section>")


def prediction(page):
    points, rows = [], []
    for r in page.results:
        f = r.figures
        if r.kind != "measured" or r.outcome != results.COMPLETED or not f.get("predicted_ms"):
            continue
        rows.append((esc(r.vmm), esc(f"{r.part} {r.label}"), r.round + 1, number(f["predicted_ms"]),
                     number(f.get("engine_downtime_ms")), number(f.get("guest_gap_ms"))))
        for key, hollow in (("engine_downtime_ms", False), ("guest_gap_ms", True)):
            if f.get(key):
                tip = (f"{r.vmm}, {r.part} {r.label}: predicted {number(f['predicted_ms'])} ms, "
                       f"{measure.BY_KEY[key].title} {number(f[key])} ms")
                points.append((f["predicted_ms"], f[key], page.colour(r.vmm), tip, hollow))
    if not points:
        return ""
    return figure(
        charts.scatter(points, "prediction against truth", "predicted, ms", "it was, ms"),
        f"Prediction against truth: filled the downtime {where(measure.BY_KEY['predicted_ms'])}, "
        f"hollow the longest blackout {where(measure.BY_KEY['guest_gap_ms'])}. Above the line it "
        "took longer than predicted.",
        details("Every run", table(("VMM", "cell", "round", "predicted, ms", "downtime, ms",
                                    "longest blackout, ms"), rows)))


def noise(page):
    rows = []
    for vmm in page.names:
        row = [esc(vmm)]
        for key in ("guest_gap_ms", "writes_kept", "spare_kept", "source_cpu_s"):
            row.append(summary_text(stats.control(page.results, key, vmm)))
        rows.append(row)
    page.add("<section><h2>Noise</h2>")
    if page.report.control_s:
        head = ["", *(heading_of(measure.BY_KEY[k])
                      for k in ("guest_gap_ms", "writes_kept", "spare_kept", "source_cpu_s"))]
        page.add(f"<p>The same guest for {number(page.report.control_s)} s without a migration: "
                 "what the machine itself does to the figures.</p>", table(head, rows))
    rows = []
    for vmm in page.names:
        rows.append([esc(vmm), *(summary_text(stats.summary(
            stats.same_ratios(page.results, key, vmm))) for key in NOISE)])
    page.add("<p>Each VMM against itself: a run by the one of the same cell in the round before. "
             "A ratio of pairs within these bounds says nothing.</p>",
             table(["", *(heading_of(measure.BY_KEY[k]) for k in NOISE)], rows), "</section>")


def curves(page, cell, runs):
    """The typical run of each VMM over time, one panel above the other, and their numbers."""
    remaining, rates, slowed, work, marks = [], [], [], [], []
    rows, slow_rows, work_rows = [], [], []
    for vmm, run in runs:
        c = page.colour(vmm)
        remaining.append(charts.Line(c, [(x["t"], x["remaining"] / measure.MIB)
                                         for x in run.series], name=vmm))
        rates.append(charts.Line(c, [(x["t"], x["dirty"] * 4096 / measure.MIB)
                                     for x in run.series], name=f"{vmm}: dirty rate"))
        rates.append(charts.Line(c, [(x["t"], x["speed"] / measure.MIB) for x in run.series], True,
                                 f"{vmm}: speed"))
        steps = results.slow_steps(run.slowed, run.series[-1]["t"])
        slowed += [charts.Line(c, points, i > 0, f"{vmm}, {who}")
                   for i, (who, points) in enumerate(few(steps).items())]
        work.append(charts.Line(c, [(t, w) for t, w, _ in run.work], name=vmm))
        marks += [(p["begin_s"], c, f"{vmm}: pass {p['pass']}, {p['sent'] / measure.MIB:.1f} MiB "
                                    "sent in it") for p in run.passes]
        rows += [(vmm, run.round + 1, f"{x['t']:.4f}", x["state"], x["pass"], x["sent"],
                  x["remaining"], x["dirty"], round(x["speed"]), x["predicted_ms"])
                 for x in run.series]
        slow_rows += [(vmm, run.round + 1, f"{t:.4f}", who, percent)
                      for who, points in steps.items() for t, percent in points]
        work_rows += [(vmm, run.round + 1, f"{t:.4f}", round(w, 1), round(s, 1))
                      for t, w, s in run.work]
    panels = [charts.Panel("remaining, MiB; ticks: passes", remaining, marks),
              charts.Panel("dirty rate (line) and speed (dashes), MiB/s", rates)]
    if slowed:
        panels.append(charts.Panel("vCPUs slowed down by, % (line: the most)", slowed))
    if any(w for line in work for _, w in line.points):
        panels.append(charts.Panel("the guest's writes, pages/s", work))
    data = csv_link(f"cell-{cell.number}", ("vmm", "round", "t_s", "state", "pass", "sent_bytes",
                                            "remaining_bytes", "dirty_pages_s", "bytes_s",
                                            "predicted_ms"), rows)
    data += csv_link(f"cell-{cell.number}-guest", ("vmm", "round", "t_s", "writes_s", "loops_s"),
                     work_rows, "the guest's as CSV")
    if slow_rows:
        data += csv_link(f"cell-{cell.number}-slowed", ("vmm", "round", "t_s", "who", "percent"),
                         slow_rows, "the slowing as CSV")
    return figure(charts.over_time(panels, f"convergence of {cell.name}"),
                  f"The run with the median time. Remaining, rates, slowing "
                  f"{where(measure.BY_KEY['engine_mib'])}, writes "
                  f"{where(measure.BY_KEY['writes_s'])}.", data)


def few(steps):
    """The most slowed vCPU first; of many, that and the least slowed one."""
    def area(points):
        return sum((b[0] - a[0]) * a[1] for a, b in zip(points, points[1:]))

    order = sorted(steps, key=lambda who: -area(steps[who]))
    if len(order) > FEW:
        order = [order[0], order[-1]]
    return {who: steps[who] for who in order}


def cell_card(page, cell):
    runs, hist = [], []
    for vmm in page.names:
        counts = stats.histogram(page.results, cell.number, vmm)
        if counts:
            hist.append((page.colour(vmm), vmm, counts))
        run = stats.typical(page.results, cell.number, vmm)
        if run:
            runs.append((vmm, run))
    inner = [f"<h3>{esc(cell.name)}</h3>", cell_facts(cell),
             curves(page, cell, runs) if runs else
             "<p>No run of it got far enough for a curve.</p>"]
    if hist:
        columns = itertools.zip_longest(*(h[2] for h in hist), fillvalue=0)
        buckets = [(charts.us_text(2**i), *column) for i, column in enumerate(columns)
                   if any(column)]
        inner.append(figure(charts.histogram(hist, f"blackouts of {cell.name}"),
                            f"Blackouts of all runs together {where(measure.BY_KEY['guest_gap_ms'])}",
                            details("Counts", table(("from", *(esc(h[1]) for h in hist)),
                                                    buckets))))
    inner.append(details("All figures", cell_table(page, cell)))
    inner += [run_details(stats.typical(page.results, cell.number, vmm)) for vmm in page.names]
    page.add('<section class="card">', *inner, "</section>")


def run_details(run):
    """What ferry tells of one run besides: its downtime by phases, its threads' CPU time."""
    rows = []
    took, planned = (run.phases if run else {}).get("downtime", {}), {}
    if took:
        planned = run.phases.get("predicted", {})
    for side, phases in took.items():
        for name, ns in phases.items():
            was = planned.get(side, {}).get(name)
            rows.append((esc(side), esc(name), number(ns / 1e6),
                         number(was / 1e6 if was is not None else None)))
    out = ""
    if rows:
        out += table(("", "phase", "took, ms", "predicted, ms"), rows, "downtime by phases")
    rows = [(esc(side), esc(name), number(seconds))
            for side, threads in (run.threads if run else {}).items()
            for name, seconds in sorted(threads.items(), key=lambda t: -t[1]) if seconds >= 0.0005]
    if rows:
        out += table(("", "thread", "CPU, s"), rows, "while the migration was under way")
    if not out:
        return ""
    return details(f"{run.vmm}, round {run.round + 1}: downtime by phases, threads", out)


def cell_facts(cell):
    s = cell.settings
    rate = sc.pages_per_s(s)
    delay = f"delayed by {s['delay_ms']:g} ms each way, " if s["delay_ms"] else ""
    text = (f"{s['mem']} of RAM, {sc.region_bytes(s) >> 20} MiB {s['fill']}, {s['cpus']} vCPU, "
            f"{s['link']}, {delay}" + ("not writing" if rate is None else
                                       f"writing {rate or 'all it can'} pages/s, {s['pattern']}") +
            f", limit {s['downtime_limit_ms']} ms" +
            "".join(f", {key.replace('_', ' ')} {s[key]}" for key, (_, usual) in sc.OPTIONS.items()
                    if s[key] != usual))
    return f"<p class='facts'>{esc(text)}</p>"


def cell_table(page, cell):
    rows = []
    for m in measure.METRICS:
        groups = [stats.summary(stats.values(page.results, m.key, cell.number, vmm))
                  for vmm in page.names]
        if not any(groups):
            continue
        rows.append([heading_of(m), *map(summary_text, groups), *(
            summary_text(stats.summary(stats.pair_ratios(page.results, m.key, cell.number,
                                                         page.names[0], other)))
            for other in page.names[1:])])
    head = ["", *map(esc, page.names),
            *(f"{esc(page.names[0])} / {esc(n)}" for n in page.names[1:])]
    return table(head, rows)


def cells(page):
    page.add("<section><h2>Cell by cell</h2></section><div class='cards'>")
    for cell in page.report.cells:
        cell_card(page, cell)
    page.add("</div>")


def all_runs(page):
    rows = []
    for r in page.results:
        bad = [c for c in r.checks if not c["ok"]]
        checks = f"{len(r.checks) - len(bad)} of {len(r.checks)}" if r.checks else "–"
        rows.append([str(r.number + 1), esc(r.kind), str(r.round + 1),
                     esc(f"{r.part} {r.label}".strip()), esc(r.vmm),
                     f'<span class="o-{esc(r.outcome.replace(" ", "-"))}">'
                     f"{MARKS.get(r.outcome, '?')} {esc(r.outcome)}</span>",
                     esc("; ".join([*filter(None, [r.reason]), *r.notes])), checks,
                     *(number(r.figures.get(k)) for k in RUN_FIGURES)])
    head = ["#", "kind", "round", "cell", "VMM", "outcome", "why, notes", "checks true",
            *(heading_of(measure.BY_KEY[k]) for k in RUN_FIGURES)]
    page.add("<section><h2>All runs</h2><p>In the order in which they ran, warm-up and control "
             "included. Checks: the guest's pages, bytes sent and received, passes and totals; a "
             "run of which one is not true counts as failed.</p>", table(head, rows), "</section>")


def document(report):
    page = Page(report)
    opening(page)
    comparisons(page)
    cells(page)
    noise(page)
    all_runs(page)
    set_up(page)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
            '<meta name="color-scheme" content="light dark"/>'
            f'<link rel="icon" href="data:,"/><title>{esc(report.title)}</title>'
            f"<style>{STYLE}</style></head><body>" + "\n".join(page.parts) + "</body></html>\n")


def write(report, path):
    with open(path, "w", encoding="utf-8") as file:
        file.write(document(report))
