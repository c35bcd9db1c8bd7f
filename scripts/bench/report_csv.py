# SPDX-License-Identifier: Apache-2.0
"""One line a run. A column's name says where its figure was measured: total_s@harness."""

import csv

from . import measure
from . import scenario as sc

HEAD = ("number", "kind", "round", "scenario", "cell", "vmm", "outcome", "reason")


def columns():
    return [*HEAD, *sc.KEYS, *(f"{m.key}@{m.where}" for m in measure.METRICS)]


def row(result):
    head = (result.number, result.kind, result.round, result.part, result.cell, result.vmm,
            result.outcome, result.reason)
    return [*head, *(result.settings.get(k) for k in sc.KEYS),
            *(result.figures.get(m.key, "") for m in measure.METRICS)]


def write(report, path):
    with open(path, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns())
        for result in report.results:
            out.writerow(row(result))
