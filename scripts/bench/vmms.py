# SPDX-License-Identifier: Apache-2.0
"""
ferry and QEMU behind one interface, so that both are measured by the same code. Both speak QMP with
the same names, so little differs: the command line, and how some options are asked for.
"""

import os
import shutil
import subprocess

import ferrylab
from ferrylab import LabError, Qmp, Serial

QEMU = "qemu-system-x86_64"
RING_ENTRIES = 4096
# QEMU has no word for "no limit".
NO_LIMIT = {"ferry": 0, "qemu": 10**11}


class Side(ferrylab.Ferry):
    """One process of either VMM: control socket, serial port, log."""

    def __init__(self, lab, what, name, command):
        self.name, self.folder, self.what = name, lab.folder, what
        self.control_path = lab.path(name + ".ctl")
        self.serial_path = lab.path(name + ".ser")
        self.log_path = lab.path(name + ".log")
        self.trace_path = None
        self.command = command
        self._qmp = self._serial = None
        with open(self.log_path, "wb") as log:
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                                stderr=log, start_new_session=True,
                                                preexec_fn=ferrylab.die_with_parent)
            except OSError as error:
                raise LabError(f"cannot start {command[0]}: {error.strerror}") from error
        lab.ferries.append(self)
        # Both connections from the beginning: a guest's first words go to nobody otherwise.
        self._qmp = Qmp(self.control_path, ferrylab.START_SECONDS, self.gone)
        self._serial = Serial(self.serial_path, ferrylab.START_SECONDS, self.gone)


class Driver:
    """What differs between the VMMs. settings: scenario.KEYS as this VMM is given them."""

    kind = program = None
    balloon_words = ""  # of the command line: where the guest finds the balloon

    def problem(self):
        """Why it cannot be run here, or None."""
        if not shutil.which(self.program):
            return f"{self.program} is not there, or no program"
        return None

    def version(self):
        done = subprocess.run([self.program, *self.version_words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=20, check=False)
        return (done.stdout.splitlines() or ["?"])[0]

    def start(self, lab, name, settings, kernel=None, cmdline=None, prefix=()):
        """A source, which boots `kernel`; without one a destination, which listens to nothing yet."""
        command = self.command(lab, name, settings, kernel, cmdline)
        side = Side(lab, self.kind, name, [*prefix, *command])
        side.trace_path = self.trace_path(lab, name)
        return side

    def trace_path(self, lab, name):
        """Where the process writes down what its migration does, or None."""
        return None

    def prepare(self, source, destination, settings):
        """
        Set what the migration shall be like. LabError if the VMM does not take it. One of the two is
        None where it is another host's.
        """
        both = [side for side in (source, destination) if side]
        if settings["link"] == "file":
            self._capability(both, "mapped-ram")
        if settings["channels"] > 1 or settings["compression"] != "none":
            self._multifd(source, destination, settings)
        if not source:
            return
        if settings["throttle"] == "auto":
            self._capability((source,), "auto-converge")
        source.qmp.execute("migrate-set-parameters", max_bandwidth=NO_LIMIT[self.kind],
                           downtime_limit=settings["downtime_limit_ms"])

    def _multifd(self, source, destination, settings):
        sides = [side for side in (source, destination) if side]
        self._capability(sides, "multifd")
        for side in sides:
            side.qmp.execute("migrate-set-parameters", multifd_channels=settings["channels"])
            if settings["compression"] != "none":
                side.qmp.execute("migrate-set-parameters",
                                 multifd_compression=settings["compression"])

    @staticmethod
    def _capability(sides, name):
        for side in sides:
            side.qmp.execute("migrate-set-capabilities",
                             capabilities=[{"capability": name, "state": True}])


class FerryDriver(Driver):
    kind, version_words = "ferry", ("version",)

    def __init__(self, program=None):
        self.program = program or ferrylab.FERRY

    def help(self):
        done = subprocess.run([self.program, "run", "--help"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=20, check=False)
        return done.stdout

    def trace_path(self, lab, name):
        return lab.path(name + ".trace")

    def command(self, lab, name, settings, kernel, cmdline):
        command = [self.program, "run", "--name", f"bench-{os.getpid()}-{name}",
                   "--control", lab.path(name + ".ctl"), "--serial", f"unix:{lab.path(name)}.ser",
                   "--mem", settings["mem"], "--cpus", str(settings["cpus"]), "--debug-exit",
                   "--trace", self.trace_path(lab, name)]
        if settings["dirty_log"] == "ring":
            command += ["--dirty-ring", str(RING_ENTRIES)]
        if settings["hints"] == "guest":
            command += ["--balloon"]
        if kernel:
            return command + ["--kernel", kernel, "--cmdline", cmdline]
        return command + ["--incoming", "defer"]

    def _multifd(self, source, _destination, settings):
        if settings["link"] == "file":
            source.qmp.execute("migrate-set-parameters", multifd_channels=settings["channels"])
        elif source:  # the destination is told by the source
            super()._multifd(source, None, settings)


class QemuDriver(Driver):
    kind, version_words = "qemu", ("--version",)
    balloon_words = f" device={0xfeb00000}"  # microvm's virtio-mmio-bus.0

    def __init__(self, program=None):
        self.program = program or QEMU

    def command(self, lab, name, settings, kernel, cmdline):
        ring = f",dirty-ring-size={RING_ENTRIES}" if settings["dirty_log"] == "ring" else ""
        machine = ["-M", "pc", "-cpu", "host,-arch-capabilities"]
        if settings["hints"] == "guest":  # its driver knows virtio-mmio, which only microvm has
            machine = ["-M", "microvm,pit=on,pic=on,rtc=on,isa-serial=on", "-cpu",
                       "host,-arch-capabilities", "-object", "iothread,id=hints",
                       "-global", "virtio-mmio.force-legacy=false",
                       "-device", "virtio-balloon-device,bus=virtio-mmio-bus.0,"
                       "free-page-hint=on,iothread=hints"]
        command = [self.program, "-accel", "kvm" + ring, *machine, "-nodefaults", "-no-reboot",
                   "-display", "none", "-m", settings["mem"], "-smp", str(settings["cpus"]),
                   "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
                   "-chardev", f"socket,id=s,path={lab.path(name)}.ser,server=on,wait=off",
                   "-serial", "chardev:s",
                   "-qmp", f"unix:{lab.path(name)}.ctl,server=on,wait=off"]
        # The same machine on both sides; what is incoming replaces what was loaded.
        command += ["-kernel", kernel or ferrylab.guest("writer"), "-append", cmdline or ""]
        return command if kernel else command + ["-incoming", "defer"]


def driver(spec):
    """The driver of a VMM as a scenario file has it (scenario.VMM)."""
    return {"ferry": FerryDriver, "qemu": QemuDriver}[spec["kind"]](spec.get("program"))


# ---- features ----

class Features:
    """What a VMM says it can do, asked once, of a process that has no guest."""

    def __init__(self, vmm):
        self.problem = vmm.problem()
        self.kind, self.version = vmm.kind, None
        self.parameters = self.capabilities = frozenset()
        self.help = ""
        if not self.problem:
            try:
                self._ask(vmm)
            except (LabError, OSError, subprocess.TimeoutExpired) as error:
                self.problem = f"{vmm.program} does not start: {error}"

    def _ask(self, vmm):
        self.version = vmm.version()
        if vmm.kind == "ferry":
            self.help = vmm.help()
        plain = {"mem": "32M", "cpus": 1, "dirty_log": "bitmap", "hints": "none"}
        with ferrylab.Lab() as lab:
            side = vmm.start(lab, "probe", plain)
            self.parameters = frozenset(side.qmp.execute("query-migrate-parameters"))
            self.capabilities = frozenset(
                x["capability"] for x in side.qmp.execute("query-migrate-capabilities"))

    def missing(self, settings):
        """Why these settings cannot be had from it, or None."""
        who = self.version or self.kind
        if self.problem:
            return self.problem
        if settings["link"] == "file" and "mapped-ram" not in self.capabilities:
            return f"{who} saves no guest to a file with a place for each page (mapped-ram)"
        # A file is written by threads, which ferry calls channels without calling that multifd.
        several = self.kind == "ferry" and settings["link"] == "file" or "multifd" in self.capabilities
        if settings["channels"] > 1 and not (several and "multifd-channels" in self.parameters):
            return f"{who} has one channel"
        if settings["compression"] != "none" and \
                "multifd-compression" not in self.parameters:
            return f"{who} does not compress"
        if settings["throttle"] == "auto" and "auto-converge" not in self.capabilities:
            return f"{who} does not slow its guests down"
        if settings["dirty_log"] == "ring" and self.kind == "ferry" and "--dirty-ring" not in self.help:
            return f"{who} knows KVM's dirty log only, not its rings"
        if settings["hints"] == "guest" and self.kind == "ferry" and "--balloon" not in self.help:
            return f"{who} takes no hints"
        return None
