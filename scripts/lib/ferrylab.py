# SPDX-License-Identifier: Apache-2.0
"""Start ferry processes, talk to them and to their guests, and leave nothing behind.

    with Lab() as lab:
        port = free_port()
        dst = lab.start("dst", kernel="build/guest/writer.elf", incoming=f"tcp:127.0.0.1:{port}")
        src = lab.start("src", kernel="build/guest/writer.elf")
        src.serial.expect(r"^writer: ready", 30)
        src.migrate(f"tcp:127.0.0.1:{port}")
        dst.serial.send("v")

The demo, the two-host lab and the tests in tests/kvm/ share this. Every wait has a limit; what goes
wrong raises LabError with a text for people. One thread at a time may use an object, and the thread
that starts a ferry must live on: its end would end the ferry.

The environment names the programs: FERRY (default build/ferry) and FERRY_GUESTS (build/guest).
"""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
FERRY = os.environ.get("FERRY", os.path.join(ROOT, "build", "ferry"))
GUESTS = os.environ.get("FERRY_GUESTS", os.path.join(ROOT, "build", "guest"))

START_SECONDS = 10    # from exec to an accepted connection on the control socket
COMMAND_SECONDS = 10  # from a command to its answer
GONE_SECONDS = 1      # from a lost connection to the end of its process
STOP_SECONDS = 5      # from "quit" to the end of the process
MAX_LINE_BYTES = 1 << 20

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """Something did not happen; the text says what."""


def guest(name):
    """The path of a test guest, e.g. guest("writer")."""
    return os.path.join(GUESTS, name + ".elf")


def free_port(host="127.0.0.1"):
    """
    A TCP port of a numeric address that nothing listens on. (Another process may take it before it
    is used.)
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


def die_with_parent():
    """For preexec_fn: the child is killed when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def kvm_problem():
    """Why /dev/kvm cannot be used, or None if it can."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"cannot open /dev/kvm: {error.strerror}"
    return None


class Lines:
    """
    Lines from and bytes to a UNIX stream socket. `alive(wait)` returns why the peer is gone, or None
    if it is still there after so many seconds.
    """

    def __init__(self, path, timeout, alive=lambda _wait: None):
        self.path, self._alive, self._buffer = path, alive, b""
        self._sock = self._connect(time.monotonic() + timeout)

    def _connect(self, deadline):
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(max(deadline - time.monotonic(), 0.01))
                sock.connect(self.path)
                return sock
            except OSError as error:
                sock.close()
                gone = self._alive(0)
                if gone:
                    raise LabError(gone) from error
                if time.monotonic() >= deadline:
                    raise LabError(f"cannot connect to {self.path}: {error}") from error
            time.sleep(0.01)

    def close(self):
        self._sock.close()

    def _lost(self, otherwise):
        """Why the connection is lost. A process closes its connections before it has ended."""
        return self._alive(GONE_SECONDS) or otherwise

    def send(self, data, timeout=COMMAND_SECONDS):
        if isinstance(data, str):
            data = data.encode()
        try:
            self._sock.settimeout(timeout)
            self._sock.sendall(data)
        except OSError as error:
            raise LabError(self._lost(f"cannot write to {self.path}: {error}")) from error

    def line(self, timeout):
        """The next line, without its end; None if there was none in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if len(self._buffer) > MAX_LINE_BYTES:
                raise LabError(f"{self.path}: a line of more than {MAX_LINE_BYTES} bytes")
            try:
                self._sock.settimeout(left)
                data = self._sock.recv(65536)
            except socket.timeout:
                return None
            except OSError as error:
                raise LabError(self._lost(f"cannot read from {self.path}: {error}")) from error
            if not data:
                raise LabError(self._lost(f"{self.path} was closed by the other side"))
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.rstrip(b"\r").decode("utf-8", "replace")


class Serial(Lines):
    """A guest's serial line. Every line read is kept in `seen`, what has no end yet in `partial`."""

    def __init__(self, path, timeout, alive=lambda _wait: None):
        super().__init__(path, timeout, alive)
        self.seen = []

    @property
    def partial(self):
        return self._buffer.decode("utf-8", "replace")

    def line(self, timeout):
        line = super().line(timeout)
        if line is not None:
            self.seen.append(line)
        return line

    def expect(self, pattern, timeout):
        """The match of the first line in which pattern is found; lines before it are passed by."""
        return self.collect(pattern, timeout)[1]

    def collect(self, pattern, timeout):
        """The lines up to and with the first one that matches, and its match."""
        deadline = time.monotonic() + timeout
        lines = []
        while True:
            line = self.line(deadline - time.monotonic())
            if line is None:
                last = self.seen[-1] if self.seen else "nothing"
                raise LabError(f"the guest did not print /{pattern}/ within {timeout:.0f} s; "
                               f"the last line from {self.path} was: {last}")
            lines.append(line)
            match = re.search(pattern, line)
            if match:
                return lines, match


class Qmp(Lines):
    """A QMP client. Events that come in between are kept in `events`."""

    def __init__(self, path, timeout, alive=lambda _wait: None):
        super().__init__(path, timeout, alive)
        self.events = []
        self._last_id = 0
        try:
            self.greeting = self._message(timeout)
            if "QMP" not in self.greeting:
                raise LabError(f"{path} is no QMP server: it said {self.greeting}")
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _message(self, timeout):
        line = self.line(timeout)
        if line is None:
            raise LabError(f"no answer from {self.path} within {timeout:.0f} s")
        try:
            return json.loads(line)
        except ValueError as error:
            raise LabError(f"{self.path} sent no JSON: {line[:200]}") from error

    def try_execute(self, command, timeout=COMMAND_SECONDS, **arguments):
        """Run a command; returns the whole answer, an object with "return" or "error"."""
        self._last_id += 1
        request = {"execute": command, "id": self._last_id}
        if arguments:
            request["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.send(json.dumps(request) + "\n")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._message(max(deadline - time.monotonic(), 0.001))
            if "event" in answer:
                self.events.append(answer)
            elif answer.get("id") == self._last_id:
                return answer

    def execute(self, command, timeout=COMMAND_SECONDS, **arguments):
        """Run a command; returns what it returns."""
        answer = self.try_execute(command, timeout, **arguments)
        if "error" in answer:
            raise LabError(f"{command}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]

    def wait_event(self, name, timeout):
        """The next event of that name, taken from `events`."""
        deadline = time.monotonic() + timeout
        while True:
            for i, event in enumerate(self.events):
                if event["event"] == name:
                    return self.events.pop(i)
            line = self.line(deadline - time.monotonic())
            if line is None:
                raise LabError(f"no event {name} from {self.path} within {timeout:.0f} s")
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)


class Ferry:
    """One `ferry run`. Lab.start makes them."""

    what = "ferry"  # in messages

    def __init__(self, folder, name, arguments, prefix=(), env=None):
        self.name, self.folder = name, folder
        self.control_path = os.path.join(folder, name + ".ctl")
        self.serial_path = os.path.join(folder, name + ".ser")
        self.log_path = os.path.join(folder, name + ".log")
        self.command = [*prefix, FERRY, "run", "--name", name, "--control", self.control_path,
                        *arguments]
        self._qmp = self._serial = None
        with open(self.log_path, "wb") as log:
            try:
                self.process = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, preexec_fn=die_with_parent, env=env)
            except OSError as error:
                raise LabError(f"cannot start {self.command[0]}: {error.strerror}") from error

    @property
    def pid(self):
        return self.process.pid

    @property
    def output(self):
        """What the process has written to its standard output and error."""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def gone(self, wait=0):
        """Why the process is no longer there, or None while it still runs after `wait` seconds."""
        try:
            status = self.process.wait(wait)
        except subprocess.TimeoutExpired:
            return None
        how = f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"
        said = self.output.strip()
        text = f"{self.what} '{self.name}' {how}" + (f": {said}" if said else " and said nothing")
        if self._serial and self._serial.seen:
            text += f"; the guest's last line was: {self._serial.seen[-1]}"
        return text

    @property
    def qmp(self):
        """The control connection, made when first used."""
        if self._qmp is None:
            self._qmp = Qmp(self.control_path, START_SECONDS, self.gone)
        return self._qmp

    @property
    def serial(self):
        """The guest's serial line, connected when first used."""
        if self._serial is None:
            self._serial = Serial(self.serial_path, START_SECONDS, self.gone)
        return self._serial

    def status(self):
        return self.qmp.execute("query-status")["status"]

    def wait_status(self, wanted, timeout):
        """Wait until query-status says one of the wanted words."""
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            if status in wanted:
                return status
            if time.monotonic() >= deadline:
                raise LabError(f"ferry '{self.name}' is {status}, not {' or '.join(wanted)}, "
                               f"after {timeout:.0f} s")
            time.sleep(0.02)

    def wait_migration(self, timeout, wanted=("completed",)):
        """Poll query-migrate until the migration has ended; raises unless it ended as wanted."""
        deadline = time.monotonic() + timeout
        while True:
            info = self.qmp.execute("query-migrate")
            status = info.get("status", "none")
            if status in wanted:
                return info
            if status in ("completed", "failed", "cancelled"):
                why = info.get("error-desc", "no reason given")
                raise LabError(f"the migration of '{self.name}' {status}: {why}")
            if time.monotonic() >= deadline:
                raise LabError(f"the migration of '{self.name}' is still {status} "
                               f"after {timeout:.0f} s")
            time.sleep(0.02)

    def migrate(self, uri, timeout=60, wanted=("completed",)):
        """Migrate and wait; returns the final query-migrate."""
        self.qmp.execute("migrate", uri=uri)
        return self.wait_migration(timeout, wanted)

    def wait(self, timeout):
        """Wait for the process to end; returns its exit status (negative: the signal's number)."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"ferry '{self.name}' still runs after {timeout:.0f} s") from None

    def kill(self):
        """End the process at once. Harmless when it has ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for connection in (self._qmp, self._serial):
            if connection:
                connection.close()
        self._qmp = self._serial = None

    def stop(self):
        """End the process, politely first."""
        try:
            if self.process.poll() is None:
                self.qmp.execute("quit", timeout=STOP_SECONDS)
                self.process.wait(STOP_SECONDS)
        except (LabError, subprocess.TimeoutExpired):
            pass
        self.kill()


class Lab:
    """A temporary directory and the ferries in it; leaving the `with` ends and removes all of it."""

    def __init__(self, env=None):
        self.folder = tempfile.mkdtemp(prefix="ferry-")
        self.ferries = []
        self.env = env

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for ferry in self.ferries:
            ferry.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, name, kernel=None, mem="512M", cpus=1, cmdline=None, incoming=None,
              serial=None, extra=(), prefix=()):
        """
        Start `ferry run` and wait until its control socket answers.

        serial: as --serial; the default is the socket behind Ferry.serial. prefix: a command to
        run it under, e.g. Namespaces.prefix("A"). extra: more options.
        """
        arguments = ["--mem", mem, "--cpus", str(cpus)]
        if kernel:
            arguments += ["--kernel", kernel]
        if cmdline is not None:
            arguments += ["--cmdline", cmdline]
        if incoming:
            arguments += ["--incoming", incoming]
        arguments += ["--serial", serial or f"unix:{self.path(name)}.ser", *extra]
        ferry = Ferry(self.folder, name, arguments, prefix, self.env)
        self.ferries.append(ferry)
        ferry.qmp.execute("query-status")
        return ferry


class Namespaces:
    """
    Two network namespaces, A (10.77.0.1) and B (10.77.0.2), joined by a veth pair. Needs root.

    rate: what each direction carries, in tc's words ("400mbit"), or None for no limit. delay_ms: how
    long each direction takes, which needs netem in the kernel. The names derive from `name`, so labs
    of other names do not meet.
    """

    ADDRESSES = {"A": "10.77.0.1", "B": "10.77.0.2"}

    def __init__(self, name):
        self.name = name

    def namespace(self, host):
        return f"{self.name}-{host.lower()}"

    def prefix(self, host):
        """The command that runs another one in a host's namespace."""
        return ["ip", "netns", "exec", self.namespace(host)]

    def exists(self):
        return any(os.path.exists(f"/run/netns/{self.namespace(host)}") for host in "AB")

    def up(self, rate=None, delay_ms=0):
        if os.geteuid() != 0:
            raise LabError("network namespaces need root: call this as root, or with sudo")
        if self.exists():
            raise LabError(f"the lab '{self.name}' is up already")
        try:
            for host in "AB":
                self._run("ip", "netns", "add", self.namespace(host))
            self._run("ip", "-n", self.namespace("A"), "link", "add", "veth0", "type", "veth",
                      "peer", "name", "veth0", "netns", self.namespace("B"))
            for host in "AB":
                self._up_host(host, rate, delay_ms)
        except BaseException:
            self.down()
            raise

    def _up_host(self, host, rate, delay_ms):
        here = ("-n", self.namespace(host))
        self._run("ip", *here, "address", "add", self.ADDRESSES[host] + "/24", "dev", "veth0")
        self._run("ip", *here, "link", "set", "lo", "up")
        self._run("ip", *here, "link", "set", "veth0", "up")
        for words in self.queues(rate, delay_ms):
            self._run("tc", *here, "qdisc", "add", "dev", "veth0", *words)

    @staticmethod
    def queues(rate, delay_ms):
        """What tc adds to a device: netem, if there is a delay, and the token bucket within it."""
        found, place = [], ["root"]
        if delay_ms:
            # All that is on its way must have room: 10 s of 10 Gbit/s in the largest packets.
            found.append(["root", "handle", "1:", "netem", "delay", f"{delay_ms:g}ms", "limit",
                          "200000"])
            place = ["parent", "1:1", "handle", "10:"]
        if rate:
            # Room for a few of the largest packets; shorter bursts could not keep up the rate.
            found.append([*place, "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"])
        return found

    def down(self):
        """Remove what is there. Processes in it keep running, without a network."""
        for host in "AB":
            if os.path.exists(f"/run/netns/{self.namespace(host)}"):
                self._run("ip", "netns", "delete", self.namespace(host))

    @staticmethod
    def _run(*command):
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LabError(f"{' '.join(command)}: {error}") from error
        if done.returncode:
            raise LabError(f"{' '.join(command)}: {done.stdout.strip()}")
