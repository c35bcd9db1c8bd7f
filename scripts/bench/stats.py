# SPDX-License-Identifier: Apache-2.0
"""Medians, spreads, and ratios of pairs, of measured runs."""

import itertools
import statistics
from dataclasses import dataclass

from . import measure
from .results import CANCELLED, COMPLETED


@dataclass(frozen=True)
class Summary:
    n: int
    median: float
    low: float
    high: float

    @property
    def spread(self):
        """(high - low) / median; None without a median to divide by."""
        return (self.high - self.low) / self.median if self.median else None


def summary(values):
    """None for no values."""
    values = sorted(v for v in values if v is not None)
    if not values:
        return None
    return Summary(len(values), statistics.median(values), values[0], values[-1])


def outcomes_for(key):
    """Which runs count for a figure."""
    return (COMPLETED, CANCELLED) if measure.BY_KEY[key].cancelled else (COMPLETED,)


def values(results, key, cell, vmm):
    """A figure of all measured runs of a cell with a VMM, by round."""
    outcomes = outcomes_for(key)
    return [r.figures[key] for r in sorted(results, key=lambda r: r.round)
            if r.kind == "measured" and r.cell == cell and r.vmm == vmm
            and r.outcome in outcomes and key in r.figures]


def pair_ratios(results, key, cell, first, second):
    """first / second, for each round in which both have the figure."""
    by_round = {}
    for r in results:
        if (r.kind == "measured" and r.cell == cell and r.outcome in outcomes_for(key)
                and key in r.figures):
            by_round.setdefault(r.round, {})[r.vmm] = r.figures[key]
    return [pair[first] / pair[second] for _, pair in sorted(by_round.items())
            if first in pair and second in pair and pair[second]]


def same_ratios(results, key, vmm):
    """
    A VMM against itself: each run of a cell by the one of the round before. What a ratio of pairs
    must exceed to mean anything.
    """
    out = []
    for cell in sorted({r.cell for r in results}):
        row = values(results, key, cell, vmm)
        out += [b / a for a, b in zip(row, row[1:]) if a]
    return out


def control(results, key, vmm):
    """A figure of the runs without a migration."""
    return summary([r.figures.get(key) for r in results
                    if r.kind == "control" and r.vmm == vmm and r.outcome == COMPLETED])


def histogram(results, cell, vmm):
    """The blackouts of all completed runs of a cell, added up."""
    rows = [r.histogram for r in results
            if r.kind == "measured" and r.cell == cell and r.vmm == vmm and r.histogram
            and r.outcome in (COMPLETED, CANCELLED)]
    return [sum(column) for column in itertools.zip_longest(*rows, fillvalue=0)]


def typical(results, cell, vmm):
    """The run to show of a cell: the one with the median time, of the completed ones if any."""
    rows = [r for r in results if r.kind == "measured" and r.cell == cell and r.vmm == vmm
            and r.series]
    rows = [r for r in rows if r.outcome == COMPLETED] or rows
    rows.sort(key=lambda r: r.figures.get("total_s", 0))
    return rows[(len(rows) - 1) // 2] if rows else None
