# SPDX-License-Identifier: Apache-2.0
"""
From exec to the guest's first serial byte, and resident memory beyond the guest's RAM: ferry, and
QEMU beside it, round by round. Prints medians. Moving guests is measured by `ferry bench`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "scripts"))

from bench import measure  # noqa: E402  (the path is set just above)
import ferrylab  # noqa: E402

QEMU = shutil.which("qemu-system-x86_64")
RAM_BYTES = 128 << 20


def command(vmm):
    kernel = ferrylab.guest("idle")
    if vmm == "ferry":
        return [ferrylab.FERRY, "run", "--name", f"start-{os.getpid()}", "--kernel", kernel,
                "--mem", "128M", "--serial", "stdio"]
    return [QEMU, "-accel", "kvm", "-M", "pc", "-cpu", "host,-arch-capabilities", "-nodefaults",
            "-no-reboot", "-display", "none", "-m", "128M", "-kernel", kernel, "-serial", "stdio"]


def once(vmm):
    begin = time.monotonic()
    process = subprocess.Popen(command(vmm), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, bufsize=0, close_fds=False)
    try:
        byte = process.stdout.read(1)
        ms = (time.monotonic() - begin) * 1e3
        if not byte:
            raise ferrylab.LabError(f"{vmm} ended before the guest's first byte")
        time.sleep(0.3)  # settled: idle.elf has printed its line and halts
        return {"first_byte_ms": ms, "beyond_ram_kib": measure.beyond_kib(process.pid, RAM_BYTES)}
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if ferrylab.kvm_problem():
        print(f"Nothing measured: {ferrylab.kvm_problem()}", file=sys.stderr)
        return 1
    names = ["ferry"] + (["qemu"] if QEMU else [])
    samples = {name: [] for name in names}
    for number in range(options.rounds + 1):
        for name in names:
            sample = once(name)
            if number:  # the first round warms up
                samples[name].append(sample)
    for name in names:
        for key in samples[name][0]:
            row = [s[key] for s in samples[name]]
            print(f"{name:6} {key:15} {statistics.median(row):10.2f} "
                  f"({min(row):.2f}–{max(row):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
