# SPDX-License-Identifier: Apache-2.0
"""Everything, for programs. `metrics` says what each figure is and where it was measured."""

import json
from dataclasses import asdict

from . import measure

FORMAT = 1


def as_dict(report):
    return {
        "format": FORMAT,
        "title": report.title,
        "text": report.text,
        "seed": report.seed,
        "begun": report.begun,
        "seconds": report.seconds,
        "interrupted": report.interrupted,
        "machine": report.machine,
        "vmms": report.vmms,
        "where": measure.WHERE,
        "metrics": [asdict(m) for m in measure.METRICS],
        "runs": [r.as_dict() for r in report.results],
    }


def write(report, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(as_dict(report), file, indent=1, allow_nan=False)
        file.write("\n")
