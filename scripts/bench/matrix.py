# SPDX-License-Identifier: Apache-2.0
"""
The list of runs of a scenario file.

A *cell* is one combination of settings. In each round every cell runs once with every VMM, the VMMs
of one cell directly after each other, so that they make a pair that met the same noise. The order of
cells in a round, and of VMMs in a pair, is shuffled by the seed. Warm-up rounds run the first cell
only. A control run has a guest and no migration.
"""

import random
from dataclasses import dataclass, field

from . import scenario as sc


@dataclass
class Cell:
    number: int
    part: str       # the [[scenario]]'s name
    settings: dict  # complete: one value for each of scenario.KEYS
    label: str      # what tells it from the other cells of its part

    @property
    def name(self):
        return f"{self.part} {self.label}".strip()


@dataclass
class Run:
    number: int
    kind: str  # "warmup", "measured", "control"
    round: int
    cell: Cell
    vmm: str
    options: dict = field(default_factory=dict)  # the cell's settings as this VMM is given them


def cells(scenario):
    found = []
    for name, part in scenario.parts:
        axes = [key for key, values in part.items() if len(values) > 1]
        for settings in sc.combinations(part):
            label = ", ".join(f"{key} {settings[key]}" for key in axes)
            found.append(Cell(len(found), name, settings, label))
    return found


def options_for(scenario, vmm, cell):
    """The cell's settings, with what the variant sets for itself."""
    own = {k: v for k, v in scenario.vmms[vmm].items() if k in sc.OPTIONS}
    return {**cell.settings, **own}


def control_cell(every):
    """What stands still in the control runs: a guest that writes, if there is one."""
    return next((cell for cell in every if sc.pages_per_s(cell.settings)), every[0])


def expand(scenario, seed, only_vmms=None):
    """All runs in their order. The same seed makes the same order."""
    rng = random.Random(seed)
    vmms = [name for name in scenario.vmms if not only_vmms or name in only_vmms]
    every = cells(scenario)
    runs = []

    def add(kind, number, cell, vmm):
        runs.append(Run(len(runs), kind, number, cell, vmm, options_for(scenario, vmm, cell)))

    for number in range(scenario.warmup):
        for vmm in rng.sample(vmms, len(vmms)):
            add("warmup", number, every[0], vmm)
    for number in range(scenario.repeats):
        blocks = [("measured", cell) for cell in every]
        if scenario.control_s:
            blocks.append(("control", control_cell(every)))
        for kind, cell in rng.sample(blocks, len(blocks)):
            for vmm in rng.sample(vmms, len(vmms)):
                add(kind, number, cell, vmm)
    return runs
