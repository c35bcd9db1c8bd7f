# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a guest that keeps writing memory moves to another ferry and proves that
nothing was lost. scripts/demo runs it within one host, scripts/lab run between two namespaces."""

import argparse
import re
import signal
import subprocess
import sys
import time

import ferrylab
from ferrylab import FERRY, Lab, LabError

READY_SECONDS = 120    # the guest fills its memory first
MIGRATE_SECONDS = 600
ANSWER_SECONDS = 120   # reading and checking every page


def add_options(parser):
    """The options of the scenario, for both scripts."""
    parser.add_argument("--mem", default="512M", help="the guest's RAM (default 512M)")
    parser.add_argument("--cpus", type=int, default=2, help="its vCPUs (default 2)")
    parser.add_argument("--size", default="384M",
                        help="how much of its RAM the guest writes to (default 384M)")
    parser.add_argument("--rate", "--write-rate", dest="write_rate", type=int, default=2000,
                        metavar="PAGES", help="pages it writes a second, 0: flat out (default 2000)")


def fields(line):
    """The key=value pairs of a guest's line."""
    return dict(re.findall(r"(\S+?)=(\S+)", line))


def ask(serial, command, end):
    """Send the guest a command byte; returns the lines of its answer, the last matching end."""
    serial.send(command)
    return serial.collect(end, ANSWER_SECONDS)[0]


def longest_blackout_us(serial):
    """The longest gap between two readings of the clock that any of the guest's vCPUs saw."""
    lines = ask(serial, "b", r"^writer: blackout end")
    gaps = [int(fields(line)["max_us"]) for line in lines if " max_us=" in line]
    if not gaps:
        raise LabError("the guest says nothing about its blackouts")
    return max(gaps)


def usual_gap_us(serial):
    """The longest gap within a second while nothing happens; the count begins anew after it."""
    ask(serial, "r", r"^writer: blackout reset")
    time.sleep(1)
    gap_us = longest_blackout_us(serial)
    ask(serial, "r", r"^writer: blackout reset")
    return gap_us


def run_migrate(source, uri, prefix):
    """`ferry migrate` in the foreground, so that its progress shows."""
    command = [*prefix, FERRY, "migrate", source.control_path, uri]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                               preexec_fn=ferrylab.die_with_parent)
    try:
        status = process.wait(MIGRATE_SECONDS)
    except subprocess.TimeoutExpired:
        raise LabError(f"the migration did not end within {MIGRATE_SECONDS} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if status:
        gone = source.gone(ferrylab.GONE_SECONDS)
        raise LabError(f"ferry migrate ended with status {status}" + (f"; {gone}" if gone else ""))


def move(lab, uri, options, prefixes=((), ())):
    """
    Run the scenario; prefixes are the commands to run source and destination under. Returns what
    query-migrate said at the end (info), the longest gap that the guest saw from then on (gap_us)
    and in the second before (usual_us), its verdict and its last word (end).
    """
    common = {"mem": options.mem, "cpus": options.cpus, "extra": ["--debug-exit"]}
    cmdline = f"cpus={options.cpus} size={options.size} rate={options.write_rate} time=0"

    print(f"Destination: waits at {uri}", flush=True)
    destination = lab.start("demo-dst", incoming=uri, prefix=prefixes[1], **common)
    print(f"Source: starts the guest ({cmdline})", flush=True)
    source = lab.start("demo-src", kernel=ferrylab.guest("writer"), cmdline=cmdline,
                       prefix=prefixes[0], **common)
    source.serial.expect(r"^writer: ready", READY_SECONDS)
    print(f"Guest: {source.serial.seen[-1]}", flush=True)
    usual_us = usual_gap_us(source.serial)

    print(f"$ ferry migrate {source.name} {uri}", flush=True)
    run_migrate(source, uri, prefixes[0])
    info = source.qmp.execute("query-migrate")

    print("Guest, now at the destination: checks its pages", flush=True)
    destination.wait_status("running", 10)
    gap_us = longest_blackout_us(destination.serial)
    verdict = ask(destination.serial, "v", r"^writer: verify ")[-1]
    end = ask(destination.serial, "q", r"^writer: done ")[-1]
    destination.wait(10)
    return {"info": info, "gap_us": gap_us, "usual_us": usual_us, "verdict": verdict, "end": end}


def mib(count_bytes):
    return f"{count_bytes / (1 << 20):,.1f} MiB"


def table(result):
    """The rows that the demonstration ends with."""
    info = result["info"]
    ram = info.get("ram", {})
    total_ns = info.get("x-ferry-total-ns", info.get("total-time", 0) * 10**6)
    downtime_ns = info.get("x-ferry-downtime-ns", info.get("downtime", 0) * 10**6)
    return [
        ("total time", f"{total_ns / 1e9:.2f} s"),
        ("passes", f"{info.get('x-ferry-passes', ram.get('dirty-sync-count', 0))}"),
        ("bytes sent", mib(ram.get("transferred", 0))),
        ("pages sent", f"{ram.get('normal', 0):,}"),
        ("zero pages", f"{ram.get('duplicate', 0):,}"),
        ("downtime, as the engine measured it", f"{downtime_ns / 1e6:.1f} ms"),
        ("downtime, as the guest saw it", f"{result['gap_us'] / 1000:.1f} ms"),
        ("  (its longest gap in the second before", f"{result['usual_us'] / 1000:.1f} ms)"),
        ("the guest's verdict", result["verdict"]),
    ]


def demonstrate(uri, options, prefixes=((), ())):
    """Run the scenario and print its table; returns the exit status."""
    exit_on_signals()
    try:
        with Lab() as lab:
            result = move(lab, uri, options, prefixes)
    except LabError as error:
        print(f"The demonstration failed: {error}", file=sys.stderr)
        return 1
    print()
    for name, value in table(result):
        print(f"  {name:41}{value}")
    print()
    if " verify ok " not in result["verdict"] or " done ok" not in result["end"]:
        print("The guest found its memory damaged.", file=sys.stderr)
        return 1
    print("Every page holds what the guest last wrote to it.")
    return 0


def interrupted(number, _frame):
    """Leave by way of every `with` and `finally`, so that nothing is left running."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def exit_on_signals():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupted)


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Move a running guest to another process on this host.")
    add_options(parser)
    options = parser.parse_args()
    return demonstrate(f"tcp:127.0.0.1:{ferrylab.free_port()}", options)


if __name__ == "__main__":
    sys.exit(main())
