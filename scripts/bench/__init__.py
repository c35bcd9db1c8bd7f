# SPDX-License-Identifier: Apache-2.0
"""ferry bench: runs a matrix of migrations and writes down how each of them went (docs/bench.md).

    scenario  reads and checks the file that says what is wanted
    matrix    makes the list of runs of it, in a fair order
    features  asks each VMM what it can do
    hosts     the two ends: network namespaces and their link, or loopback
    vmms      ferry and QEMU behind one interface
    measure   what is read where: the guest, /proc, interface counters, the program itself
    runner    one run after the other, each bounded, nothing left behind
    peer      what two hosts say to each other; serve: the second one, peer_run: runs between them
    results   what was read, put in order and checked against itself
    stats     medians, spreads, ratios of pairs
    report_*  the results as HTML (charts: its pictures), CSV, JSON, Markdown
"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
SCENARIOS = os.path.join(HERE, "scenarios")
# The same both in the source tree (scripts/) and installed (libexec/ferry/).
sys.path.append(os.path.join(os.path.dirname(HERE), "lib"))


def _find_guests():
    """The test guests beside the program: in a build directory, or installed."""
    beside = os.path.dirname(os.path.realpath(os.environ.get("FERRY", "")))
    for folder in (os.path.join(beside, "guest"),
                   os.path.join(beside, "..", "lib", "ferry", "guests")):
        if os.path.exists(os.path.join(folder, "writer.elf")):
            return os.path.abspath(folder)
    return None


if "FERRY_GUESTS" not in os.environ and os.environ.get("FERRY") and _find_guests():
    os.environ["FERRY_GUESTS"] = _find_guests()
