# SPDX-License-Identifier: Apache-2.0
"""
Saves a guest to a file and restores it, by turns with dd (direct I/O of as many bytes, to and from
the same directory) and with QEMU's plain migration to a file. Prints Markdown, medians of all rounds.
"""

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "scripts"))

from bench import measure, vmms  # noqa: E402  (the path is set just above)
import ferrylab  # noqa: E402

MIB = 1 << 20
FILL_SECONDS = 600
MOVE_SECONDS = 600


def forget(path):
    """Out of the page cache with it."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def go_ahead(pid="self"):
    """The session of a process goes before all others (as root, where the kernel knows of sessions)."""
    try:
        with open(f"/proc/{pid}/autogroup", "w", encoding="ascii") as file:
            file.write("-20")
    except OSError as error:
        raise SystemExit(f"--ahead: {error}") from error


def connect(path):
    """A serial port, as soon as it is there: polled finely, since that is in the figures."""
    deadline = time.monotonic() + 60
    while True:
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(path)
            line.settimeout(MOVE_SECONDS)
            return line
        except OSError:
            line.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.0002)


@contextlib.contextmanager
def awake(side):
    """The guest runs meanwhile. (One that was saved paused would come back paused.)"""
    side.qmp.execute("cont")
    try:
        yield
    finally:
        side.qmp.execute("stop")


class Bench:
    def __init__(self, options, folder):
        self.folder = folder
        self.used_mib = options.mem * 3 // 4
        self.settings = {"mem": f"{options.mem}M", "cpus": 1, "dirty_log": "bitmap",
                         "hints": "none"}
        self.lab = ferrylab.Lab()
        self.ahead = options.ahead
        self.drivers = {"ferry": vmms.FerryDriver(), "qemu": vmms.QemuDriver()}
        self.sources = {}
        self.count = 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def boot(self, vmm, rate):
        side = self.drivers[vmm].start(
            self.lab, f"{vmm}-{rate}", self.settings, kernel=ferrylab.guest("writer"),
            cmdline=f"cpus=1 size={self.used_mib}M fill=random pattern=uniform rate={rate}")
        if self.ahead:
            go_ahead(side.pid)
        side.serial.expect(r"^writer: ready", FILL_SECONDS)
        side.qmp.execute("stop")  # until its turn comes: a writer that waits keeps a CPU busy
        self.sources[vmm, rate] = side
        return side

    def timed(self, side, run):
        """Seconds that run() takes, and CPU seconds of the side's process without its vCPUs."""
        cpu, begin = measure.cpu_seconds(side), time.monotonic()
        run()
        seconds = time.monotonic() - begin
        return {"s": seconds, "cpu_s_gib": (measure.cpu_seconds(side) - cpu) / self.used_mib * 1024}

    # ---- dd ----

    def dd(self, *words):
        begin = time.monotonic()
        subprocess.run(["dd", "bs=1M", *words], stderr=subprocess.DEVNULL, check=True)
        return {"s": time.monotonic() - begin}

    def dd_save(self):
        source = self.path("random")
        if not os.path.exists(source):
            with open(source, "wb") as file:
                for _ in range(self.used_mib):
                    file.write(os.urandom(MIB))
        with open(source, "rb") as file:  # in memory, where a guest has its pages
            while file.read(MIB):
                pass
        return self.dd(f"if={source}", f"of={self.path('dd')}", "oflag=direct", "conv=fsync")

    def dd_restore(self):
        forget(self.path("dd"))
        return self.dd(f"if={self.path('dd')}", "of=/dev/null", "iflag=direct")

    # ---- ferry ----

    def save(self, rate=0, direct=False, live=False):
        side = self.sources["ferry", rate]
        path = self.path("ferry")
        side.qmp.execute("x-ferry-save", path=path, live=live, go_on=True, direct_io=direct)
        return side.wait_migration(MOVE_SECONDS)

    def ferry_save(self, direct):
        side = self.sources["ferry", 0]
        with awake(side):
            sample = self.timed(side, lambda: self.save(direct=direct))
        sample["file_mib"] = os.stat(self.path("ferry")).st_blocks * 512 / MIB
        return sample

    def ferry_live(self, rate):
        side = self.sources["ferry", rate]
        info = []
        with awake(side):
            measure.reset_blackouts(side)
            sample = self.timed(side, lambda: info.append(self.save(rate, live=True)))
            sample["guest_gap_ms"] = measure.blackouts(side)[0]
        sample["engine_dark_ms"] = info[0]["x-ferry-downtime-ns"] / 1e6
        return sample

    def undisturbed(self, rate):
        """What the guest sees while nothing is done to it: the noise of the host."""
        side = self.sources["ferry", rate]
        with awake(side):
            measure.reset_blackouts(side)
            time.sleep(1)
            return {"guest_gap_ms": measure.blackouts(side)[0]}

    def restore(self, *options, cold=True):
        """The time to the guest's first serial byte, and until all of its RAM is there."""
        path = self.path("ferry")
        if cold:
            forget(path)
        self.count += 1
        serial = self.lab.path(f"r{self.count}.ser")
        command = [ferrylab.FERRY, "restore", path, "--control",
                   self.lab.path(f"r{self.count}.ctl"), "--serial", f"unix:{serial}",
                   "--debug-exit", *options]
        begin = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL,
                                   preexec_fn=ferrylab.die_with_parent)
        try:
            line = connect(serial)
            line.send(b"s")  # waits in the port until the guest runs
            line.recv(1)
            first = time.monotonic() - begin
            qmp = ferrylab.Qmp(self.lab.path(f"r{self.count}.ctl"), 60)
            while qmp.execute("query-migrate")["status"] != "completed":
                time.sleep(0.005)
            seconds = time.monotonic() - begin
            cpu = measure._ticks(f"/proc/{process.pid}/stat") / measure.TICKS
            line.send(b"v")
            said = b""
            while b"writer: verify" not in said or not said.endswith(b"\n"):
                more = line.recv(4096)
                if not more:
                    raise ferrylab.LabError("the guest has gone")
                said += more
            if b"writer: verify ok" not in said:
                raise ferrylab.LabError("the guest found its memory damaged")
            line.close()
            qmp.close()
        finally:
            process.kill()
            process.wait()
        return {"first_ms": first * 1e3, "s": seconds,
                "cpu_s_gib": cpu / self.used_mib * 1024}

    # ---- QEMU ----

    def qemu_save(self):
        side, path = self.sources["qemu", 0], self.path("qemu")

        def run():
            side.qmp.execute("migrate", uri=f"exec:cat >{path}; sync {path}")
            side.wait_migration(MOVE_SECONDS)

        side.qmp.execute("migrate-set-parameters", max_bandwidth=vmms.NO_LIMIT["qemu"])
        side.qmp.execute("cont")
        sample = self.timed(side, run)
        subprocess.run(["sync", path], check=True)
        sample["file_mib"] = os.stat(path).st_blocks * 512 / MIB
        side.qmp.execute("cont")
        side.qmp.execute("stop")
        return sample

    def qemu_restore(self):
        forget(self.path("qemu"))
        self.count += 1
        side = self.drivers["qemu"].start(self.lab, f"q{self.count}", self.settings)

        def run():
            side.qmp.execute("migrate-incoming", uri=f"exec:cat {self.path('qemu')}")
            while side.status() != "running":
                time.sleep(0.005)

        try:
            return self.timed(side, run)
        finally:
            side.kill()


def parts(bench, with_qemu):
    """Name and function of each line of the table, in the order of a round."""
    yield "save: dd, direct", bench.dd_save
    yield "save: ferry, direct", lambda: bench.ferry_save(True)
    yield "save: ferry, page cache and sync", lambda: bench.ferry_save(False)
    if with_qemu:
        yield "save: QEMU to a file", bench.qemu_save
    yield "restore: dd, direct", bench.dd_restore
    yield "restore: ferry, direct", lambda: bench.restore("--direct-io")
    yield "restore: ferry, cold cache", bench.restore
    yield "restore: ferry, warm cache", lambda: bench.restore(cold=False)
    if with_qemu:
        yield "restore: QEMU, cold cache", bench.qemu_restore
    yield "on demand, cold cache", lambda: bench.restore("--on-demand")
    yield "on demand, warm cache", lambda: bench.restore("--on-demand", cold=False)
    for rate in (1000, 20000):
        yield f"no save, {rate} pages/s", lambda r=rate: bench.undisturbed(r)
        yield f"live save, {rate} pages/s", lambda r=rate: bench.ferry_live(r)


def table(samples):
    keys = ["s", "cpu_s_gib", "file_mib", "first_ms", "engine_dark_ms", "guest_gap_ms"]
    print("| | " + " | ".join(keys) + " |\n" + "|---" * (len(keys) + 1) + "|")
    for name, rows in samples.items():
        cells = []
        for key in keys:
            row = [r[key] for r in rows if key in r]
            cells.append(f"{statistics.median(row):.2f} ({min(row):.2f}–{max(row):.2f})"
                         if row else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/files", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mem", type=int, default=2048, metavar="MIB",
                        help="the guest's RAM, three quarters of it incompressible")
    parser.add_argument("--dir", help="where the files are (default: a temporary directory)")
    parser.add_argument("--only", nargs="+", metavar="TEXT",
                        help="the lines of the table that begin like this")
    parser.add_argument("--ahead", action="store_true",
                        help="what is measured goes before what else runs on the host")
    options = parser.parse_args()
    if ferrylab.kvm_problem():
        print(f"Nothing measured: {ferrylab.kvm_problem()}", file=sys.stderr)
        return 1
    if options.ahead:
        if os.getsid(0) != os.getpid():
            try:
                os.setsid()
            except PermissionError:  # the first of a group, as what a shell starts in a terminal is
                raise SystemExit("--ahead takes a session of its own: put 'setsid -w' before the "
                                 "command") from None
        go_ahead()
    with_qemu = bool(shutil.which(vmms.QEMU)) and not options.only
    folder = tempfile.mkdtemp(prefix="ferry-files-", dir=options.dir)
    bench = Bench(options, folder)
    samples = {}
    try:
        for rate in (0, 1000, 20000):
            bench.boot("ferry", rate or 1)
            bench.sources["ferry", rate] = bench.sources["ferry", rate or 1]
        if with_qemu:
            bench.boot("qemu", 1)
            bench.sources["qemu", 0] = bench.sources["qemu", 1]
        if options.only:
            bench.ferry_save(False)  # something to restore
        for number in range(options.rounds + 1):
            for name, run in parts(bench, with_qemu):
                if options.only and not name.startswith(tuple(options.only)):
                    continue
                sample = run()
                if number:  # the first round warms up
                    samples.setdefault(name, []).append(sample)
    finally:
        bench.lab.__exit__()
        shutil.rmtree(folder, ignore_errors=True)
    table(samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
