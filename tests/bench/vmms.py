# SPDX-License-Identifier: Apache-2.0
"""ferry and QEMU behind one interface, so that both are measured by the same code."""

import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

import ferrylab  # noqa: E402  (the path is set just above)
from ferrylab import Ferry, LabError, Qmp, Serial  # noqa: E402

QEMU = shutil.which("qemu-system-x86_64")
TICKS = os.sysconf("SC_CLK_TCK")


class Qemu(Ferry):
    """One QEMU with the same devices: serial port, debug exit, nothing else."""

    def __init__(self, folder, name, options):
        self.name, self.folder = name, folder
        self.control_path = os.path.join(folder, name + ".ctl")
        self.serial_path = os.path.join(folder, name + ".ser")
        self.log_path = os.path.join(folder, name + ".log")
        self._qmp = self._serial = None
        command = [QEMU, "-accel", "kvm", "-M", "pc", "-cpu", "host,-arch-capabilities", "-nodefaults", "-no-reboot",
                   "-display", "none", "-m", options["mem"], "-smp", str(options["cpus"]),
                   "-kernel", options["kernel"], "-append", options["cmdline"],
                   "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
                   "-chardev", f"socket,id=s,path={self.serial_path},server=on,wait=off",
                   "-serial", "chardev:s",
                   "-qmp", f"unix:{self.control_path},server=on,wait=off"]
        if options.get("incoming"):
            command += ["-incoming", options["incoming"]]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True,
                                            preexec_fn=ferrylab.die_with_parent)

    @property
    def qmp(self):
        if self._qmp is None:
            self._qmp = Qmp(self.control_path, ferrylab.START_SECONDS, self.gone)
        return self._qmp

    @property
    def serial(self):
        if self._serial is None:
            self._serial = Serial(self.serial_path, ferrylab.START_SECONDS, self.gone)
        return self._serial


def start(vmm, lab, name, options):
    """Start one side. options: kernel, mem, cpus, cmdline, incoming (or None)."""
    if vmm == "qemu":
        side = Qemu(lab.folder, name, options)
        lab.ferries.append(side)
        side.qmp.execute("query-status")
        return side
    incoming = options.get("incoming")
    return lab.start(name, kernel=None if incoming else options["kernel"], mem=options["mem"],
                     cpus=options["cpus"], cmdline=None if incoming else options["cmdline"],
                     incoming=incoming, extra=["--debug-exit"])


def set_limits(vmm, side, downtime_ms):
    """No bandwidth limit, the same downtime limit. QEMU's largest limit stands for none."""
    side.qmp.execute("migrate-set-parameters", downtime_limit=downtime_ms,
                     max_bandwidth=0 if vmm == "ferry" else 10**11)


def cpu_seconds(side):
    """What the process has used so far, its vCPU threads left out."""
    vcpus = {str(cpu["thread-id"]) for cpu in side.qmp.execute("query-cpus-fast")}
    ticks = 0
    folder = f"/proc/{side.pid}/task"
    # A thread that has ended is in the process's own figures only: take those, less the vCPUs.
    with open(f"/proc/{side.pid}/stat", encoding="ascii") as stat:
        ticks += sum(int(x) for x in stat.read().rpartition(")")[2].split()[11:13])
    for tid in vcpus:
        with open(f"{folder}/{tid}/stat", encoding="ascii") as stat:
            ticks -= sum(int(x) for x in stat.read().rpartition(")")[2].split()[11:13])
    return ticks / TICKS


def resident_kib(pid, ram_bytes):
    """Resident memory of a process outside the mapping(s) that hold the guest's RAM."""
    total = ram = 0
    size = 0
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            if line.startswith("Size:"):
                size = int(line.split()[1])
            elif line.startswith("Rss:"):
                rss = int(line.split()[1])
                total += rss
                if size * 1024 == ram_bytes:
                    ram += rss
    return total - ram


def wait_completed(side, timeout):
    """Poll as a user would, finely; the final query-migrate."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        info = side.qmp.execute("query-migrate")
        if info.get("status") == "completed":
            return info
        if info.get("status") in ("failed", "cancelled"):
            raise LabError(f"the migration {info['status']}: {info.get('error-desc')}")
        time.sleep(0.005)
    side.qmp.execute("migrate_cancel")
    raise LabError(f"the migration did not end within {timeout} s")
