# SPDX-License-Identifier: Apache-2.0
"""
Measures free page hints: moves of the same guest with its driver's hints and without them, in turn,
medians of all rounds. Prints Markdown; --json FILE keeps every sample.

free: a bare-metal guest of which most is free but full of incompressible bytes. hostile: drivers
that hint wrongly, for ever or not at all, beside the same guest without hints. linux: a Linux guest
that has filled memory and freed it again.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "scripts"))

from bench.measure import cpu_seconds  # noqa: E402  (the path is set just above)
import ferrylab  # noqa: E402
from ferrylab import LabError  # noqa: E402

MIB = 1 << 20
HOSTILE = ["honest", "liar", "endless", "silent", "mute", "foreign", "wild", "stats"]
LINUX_SECONDS = 600
LINUX_FREED_MIB = 512


def fields(line):
    return dict(re.findall(r"(\S+?)=(\S+)", line))


def rounds(names, count, once):
    """{name: [sample, ...]}: one of each in turn, so that noise meets all alike."""
    samples = {name: [] for name in names}
    for number in range(count + 1):
        for name in names:
            sample = once(name)
            if number:  # the first round warms up
                samples[name].append(sample)
            print(f"  {name} {number}: " + " ".join(f"{k}={v:.2f}" for k, v in sample.items()),
                  file=sys.stderr, flush=True)
    return samples


def move(src, dst, uri, mib_s):
    """Move it; time, bytes and CPU seconds of the source (its vCPUs left out)."""
    src.qmp.execute("migrate-set-parameters", max_bandwidth=mib_s * MIB)
    before = cpu_seconds(src)
    begin = time.monotonic()
    src.qmp.execute("migrate", uri=uri)
    info = src.wait_migration(300)
    seconds = time.monotonic() - begin
    cpu = cpu_seconds(src) - before
    dst.wait_status("running", 10)
    return {"total_s": seconds, "source_cpu_s": cpu,
            "sent_mib": info["ram"]["transferred"] / MIB}


# ---- the bare-metal guest ----

def move_balloon(mode, mem, size, free, mib_s, more):
    """Move the guest `balloon` once; it verifies itself there."""
    uri = f"tcp:127.0.0.1:{ferrylab.free_port()}"
    options = {"mem": f"{mem}M", "extra": ["--debug-exit", "--balloon"]}
    with ferrylab.Lab() as lab:
        dst = lab.start("dst", incoming=uri, **options)
        src = lab.start("src", kernel=ferrylab.guest("balloon"), **options,
                        cmdline=f"mode={mode} size={size}M free={free}M {more}")
        src.serial.expect(r"^balloon: ready", 120)
        time.sleep(0.3)
        sample = move(src, dst, uri, mib_s)
        dst.serial.send("v")
        if dst.serial.expect(r"^balloon: verify (ok|FAILED)", 60).group(1) != "ok":
            raise LabError(f"mode={mode}: the guest found its memory damaged")
    return sample


# ---- Linux ----

def linux_image():
    done = subprocess.run(["scripts/guest-linux", "--built"], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def tell(side, command):
    side.serial.send(command + "\n")
    line = side.serial.expect(rf"^agent: {command.split()[0]} (ok|FAILED)", LINUX_SECONDS).string
    if " FAILED" in line:
        raise LabError(f"{command}: {line}")
    return fields(line)


class LinuxGuest:
    """
    A Linux guest that moves from ferry to ferry. Page reporting is off: it would give free memory
    back before the move, and little of what is counted here would be left.
    """

    def __init__(self, lab, image, hints, mib_s):
        self.lab, self.mib_s = lab, mib_s
        self.name = "hints" if hints else "without"
        self.devices = ["--balloon"] if hints else []
        self.moves = 0
        self.side = lab.start(f"{self.name}0", kernel=os.path.join(image, "vmlinux"), mem="1G",
                              cmdline="page_reporting.page_reporting_order=11",
                              extra=[*self.devices, "--initrd",
                                     os.path.join(image, "initramfs.cpio")])
        self.side.serial.expect(r"^agent: ready", LINUX_SECONDS)
        tell(self.side, "fill 64")

    def move(self):
        """512 MiB are filled and freed, then it moves; what it kept must be right there."""
        freed = tell(self.side, f"fill {LINUX_FREED_MIB}")["id"]
        tell(self.side, f"free {freed}")
        self.moves += 1
        uri = f"tcp:127.0.0.1:{ferrylab.free_port()}"
        dst = self.lab.start(f"{self.name}{self.moves}", incoming=uri, mem="1G",
                             extra=self.devices)
        sample = move(self.side, dst, uri, self.mib_s)
        self.side.kill()
        self.side = dst
        tell(dst, "check")
        return sample


# ---- tables ----

def table(title, samples, base, freed_mib):
    """
    Medians with least and largest, one line a variant. What a variant sent of the freed memory is
    that memory less what it sent less than `base` did.
    """
    medians = {name: {key: statistics.median(s[key] for s in of_one) for key in of_one[0]}
               for name, of_one in samples.items()}
    print(f"\n### {title}\n")
    print("| | " + " | ".join(medians[base]) + " | time, ratio | freed and sent |")
    print("|---" * (len(medians[base]) + 3) + "|")
    for name, of_one in samples.items():
        cells = [f"{median:.2f} ({min(s[key] for s in of_one):.2f}–"
                 f"{max(s[key] for s in of_one):.2f})" for key, median in medians[name].items()]
        cells.append(f"{medians[name]['total_s'] / medians[base]['total_s']:.2f}")
        sent = freed_mib - (medians[base]["sent_mib"] - medians[name]["sent_mib"])
        cells.append(f"{100 * max(sent, 0) / freed_mib:.0f} %" if freed_mib > 1 else "–")
        print(f"| {name} | " + " | ".join(cells) + " |")
    sys.stdout.flush()


def free_part(options):
    for mib_s in (0, 128):
        rate = f"{mib_s} MiB/s" if mib_s else "no limit"
        samples = rounds(["none", "honest"], options.rounds,
                         lambda m, r=mib_s: move_balloon(m, 768, 640, 512, r, "rate=200"))
        table(f"768 MiB guest, 512 MiB free but full of incompressible bytes, {rate}", samples,
              "none", 512)
        yield f"free-{mib_s}", samples


def hostile_part(options):
    """Next to nothing is free, so that no true hint makes up for what the others cost."""
    samples = rounds(["none", *options.modes], options.rounds,
                     lambda m: move_balloon(m, 640, 513, 1, 128, "rate=200 chunk=1"))
    table("640 MiB guest, 512 MiB in use, 1 MiB free, 128 MiB/s: drivers that misbehave", samples,
          "none", 1)
    yield "hostile", samples


def linux_part(options):
    image = linux_image()
    if not image:
        print("The Linux test image is not there: scripts/guest-linux makes it", file=sys.stderr)
        return
    for mib_s in options.linux_rates:
        with ferrylab.Lab() as lab:
            guests = {name: LinuxGuest(lab, image, name == "hints", mib_s)
                      for name in ("without", "hints")}
            samples = rounds(list(guests), options.rounds, lambda name, of=guests: of[name].move())
        table(f"Linux, 1 GiB, {LINUX_FREED_MIB} MiB filled and freed, {mib_s} MiB/s", samples,
              "without", LINUX_FREED_MIB)
        yield f"linux-{mib_s}", samples


PARTS = {"free": free_part, "hostile": hostile_part, "linux": linux_part}


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/hints", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--modes", nargs="+", choices=HOSTILE, default=HOSTILE,
                        help="of the part `hostile`: which drivers")
    parser.add_argument("--linux-rates", type=int, nargs="+", default=[32, 128], metavar="MIB_S")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if ferrylab.kvm_problem():
        print(f"Nothing measured: {ferrylab.kvm_problem()}", file=sys.stderr)
        return 1
    results = {}
    for name, part in PARTS.items():
        if options.only in (None, name):
            results.update(part(options))
    if options.json:
        with open(options.json, "w", encoding="ascii") as out:
            json.dump(results, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
