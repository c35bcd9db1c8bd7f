# SPDX-License-Identifier: Apache-2.0
"""
Measures ferry, and QEMU beside it in the same run: the two alternate round by round, the same guest
image with the same content, medians of all rounds. Prints Markdown; --json FILE keeps every sample.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

import vmms
from vmms import LabError, ferrylab

DOWNTIME_LIMIT_MS = 300


def fields(line):
    return dict(re.findall(r"(\S+?)=(\S+)", line))


# ---- starting ----

def first_byte_command(vmm, kernel):
    if vmm == "ferry":
        return [ferrylab.FERRY, "run", "--name", f"bench-{os.getpid()}", "--kernel", kernel,
                "--mem", "128M", "--serial", "stdio"]
    return [vmms.QEMU, "-accel", "kvm", "-M", "pc", "-cpu", "host,-arch-capabilities", "-nodefaults", "-no-reboot",
            "-display", "none", "-m", "128M", "-kernel", kernel, "-serial", "stdio"]


def boot_once(vmm, kernel):
    """Milliseconds from exec to the guest's first serial byte, and KiB beyond the guest's RAM."""
    begin = time.monotonic()
    process = subprocess.Popen(first_byte_command(vmm, kernel), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                               close_fds=False)
    try:
        byte = process.stdout.read(1)
        ms = (time.monotonic() - begin) * 1e3
        if not byte:
            raise LabError(f"{vmm} ended before the guest's first byte")
        time.sleep(0.3)  # settled: idle.elf has printed its line and halts
        return {"first_byte_ms": ms, "beyond_ram_kib": vmms.resident_kib(process.pid, 128 << 20)}
    finally:
        process.kill()
        process.wait()


# ---- moving ----

def longest_gap_ms(serial):
    serial.send("b")
    lines = serial.collect(r"^writer: blackout end", 60)[0]
    return max(int(fields(x)["max_us"]) for x in lines if " max_us=" in x) / 1e3


def move_once(vmm, options, rate):
    """One migration on loopback; the figures of it."""
    uri = f"tcp:127.0.0.1:{ferrylab.free_port()}"
    common = {"kernel": ferrylab.guest("writer"), "mem": "1G", "cpus": options.cpus,
              "cmdline": f"cpus={options.cpus} size=768M fill=random rate={rate} time=0"}
    with ferrylab.Lab() as lab:
        dst = vmms.start(vmm, lab, "dst", {**common, "incoming": uri})
        src = vmms.start(vmm, lab, "src", common)
        src.serial.expect(r"^writer: ready", 120)
        vmms.set_limits(vmm, src, DOWNTIME_LIMIT_MS)
        time.sleep(0.5)
        src.serial.send("r")
        src.serial.expect(r"^writer: blackout reset", 10)
        before = vmms.cpu_seconds(src), vmms.cpu_seconds(dst)
        begin = time.monotonic()
        src.qmp.execute("migrate", uri=uri)
        info = vmms.wait_completed(src, 120)
        seconds = time.monotonic() - begin
        after = vmms.cpu_seconds(src), vmms.cpu_seconds(dst)
        dst.wait_status("running", 10)
        time.sleep(0.2)
        gap_ms = longest_gap_ms(dst.serial)
        dst.serial.send("v")
        verdict = dst.serial.expect(r"^writer: verify (ok|FAILED)", 60).group(1)
    if verdict != "ok":
        raise LabError(f"{vmm}: the guest found its memory damaged")
    return {"total_s": seconds, "engine_total_s": info["total-time"] / 1e3,
            "sent_mib": info["ram"]["transferred"] / (1 << 20),
            "source_cpu_s_gib": after[0] - before[0], "dest_cpu_s_gib": after[1] - before[1],
            "engine_downtime_ms": info.get("x-ferry-downtime-ns", info["downtime"] * 1e6) / 1e6,
            "guest_gap_ms": gap_ms}


# ---- rounds and tables ----

def rounds(vmm_names, count, once):
    """{vmm: [sample, ...]}: one of each in turn, so that noise meets all alike."""
    samples = {vmm: [] for vmm in vmm_names}
    for number in range(count + 1):
        for vmm in vmm_names:
            sample = once(vmm)
            if number:  # the first round warms up
                samples[vmm].append(sample)
            print(f"  {vmm} {number}: " + " ".join(f"{k}={v:.2f}" for k, v in sample.items()),
                  file=sys.stderr, flush=True)
    return samples


def table(title, samples):
    names = list(samples)
    print(f"\n### {title}\n")
    print("| | " + " | ".join(names) + (" | ratio |" if len(names) == 2 else " |"))
    print("|---|" + "---|" * (len(names) + (len(names) == 2)))
    for key in samples[names[0]][0]:
        medians = [statistics.median(s[key] for s in samples[n]) for n in names]
        spans = [f"{m:.2f} ({min(s[key] for s in samples[n]):.2f}–"
                 f"{max(s[key] for s in samples[n]):.2f})" for m, n in zip(medians, names)]
        ratio = f" {medians[0] / medians[1]:.2f} |" if len(names) == 2 and medians[1] else ""
        print(f"| {key} | " + " | ".join(spans) + " |" + ratio)


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpus", type=int, default=1, help="vCPUs of the guest that moves")
    parser.add_argument("--only", choices=["boot", "idle", "writing"])
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if ferrylab.kvm_problem():
        print(f"Nothing measured: {ferrylab.kvm_problem()}", file=sys.stderr)
        return 1
    if not vmms.QEMU and not options.no_qemu:
        print("qemu-system-x86_64 is not installed: install qemu-system-x86, or --no-qemu",
              file=sys.stderr)
        return 1
    names = ["ferry"] if options.no_qemu else ["ferry", "qemu"]
    parts = {
        "boot": ("128 MiB guest: start", lambda v: boot_once(v, ferrylab.guest("idle"))),
        "idle": ("1 GiB guest, 768 MiB incompressible, not writing",
                 lambda v: move_once(v, options, "none")),
        "writing": ("1 GiB guest, 768 MiB incompressible, 1,000 pages/s",
                    lambda v: move_once(v, options, "1000")),
    }
    results = {}
    for key, (title, once) in parts.items():
        if options.only in (None, key):
            print(title, file=sys.stderr)
            results[key] = rounds(names, options.rounds, once)
            table(title, results[key])
    if options.json:
        with open(options.json, "w", encoding="ascii") as out:
            json.dump(results, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
