# SPDX-License-Identifier: Apache-2.0
"""
ferry bench --serve: starts destinations for a matrix that runs on another host, and measures them.

The main thread serves one client at a time and owns what is started for it. Another thread takes
connections: it turns away who comes while one is served, and ends the destination of a client that
is gone while the main thread may be waiting for the guest.
"""

import ipaddress
import os
import queue
import re
import select
import signal
import socket
import sys
import threading
import time

import ferrylab
from ferrylab import Lab, LabError

from . import machine, measure, peer, runner, vmms
from . import scenario as sc

IDLE_S = runner.RUN_EXTRA_S  # without a word; besides max_s while a guest is to come
KINDS = ("ferry", "qemu")


def checked(settings):
    """Settings of a cell as the peer may have sent them; LabError if they are not as a file's."""
    if not isinstance(settings, dict) or set(settings) != set(sc.KEYS):
        raise LabError("settings are all of " + ", ".join(sc.KEYS))
    for key, value in settings.items():
        if key == "link" and value == sc.PEER or key == "size" and value is None:
            continue
        try:
            sc.KEYS[key][0](value)
        except ValueError as error:
            raise LabError(f"{key}: {str(value)[:60]} is no good: {error}") from error
    if settings["link"] != sc.PEER or settings["delay_ms"]:
        raise LabError("the link is the network between the two hosts")
    bad = sc.impossible(settings)
    if bad:
        raise LabError(f"{bad[0]}: {bad[1]}")
    return settings


def available_bytes():
    with open("/proc/meminfo", encoding="ascii") as table:
        return int(re.search(r"^MemAvailable:\s*(\d+)", table.read(), re.M)[1]) << 10


class Session:
    """One client, from its connection to its end. `lab` and `side`: while a guest may come."""

    def __init__(self, connection, host, token, drivers):
        self.connection, self.host, self.token = connection, host, token
        self.drivers, self.features = drivers, {}
        self.lab = self.side = self.settings = None
        self.quiet_s = IDLE_S

    # ---- talking ----

    def greet(self):
        mine = peer.nonce()
        self.connection.send({"ferry-bench": peer.FORMAT, "nonce": mine, "token": bool(self.token)})
        hello = self.connection.receive(peer.HELLO_S)
        if hello is None:
            raise LabError("it closed without a word")
        shown = hello.get("proof")
        if hello.get("verb") != "hello" or not peer.is_nonce(hello.get("nonce")) or \
                not isinstance(shown, str):
            raise LabError("it does not say hello")
        if not peer.is_proof(shown, peer.proof(self.token, "client", mine)):
            raise LabError("wrong token")
        self.connection.send({"return": {
            "proof": peer.proof(self.token, "server", hello["nonce"]),
            "machine": {k: str(v)[:400] for k, v in machine.describe().items()}}})

    def run(self):
        """Until the client goes. LabError says why it was sent away."""
        try:
            self.greet()
            while True:
                request = self.connection.receive(self.quiet_s)
                if request is None:
                    return
                self.connection.send(self.answer(request))
        except LabError as error:
            try:
                self.connection.send({"error": str(error)[:1000]})
            except LabError:
                pass
            raise
        finally:
            self.end()

    def answer(self, request):
        verb = self.VERBS.get(str(request.pop("verb", None)))
        if not verb:
            return {"error": "there is no such verb; known: " + ", ".join(self.VERBS)}
        try:
            return {"return": verb(self, **request)}
        except TypeError as error:
            text = f"not what the verb takes: {error}"
        except (LabError, OSError) as error:
            text = str(error)
        except Exception as error:  # pylint: disable=broad-exception-caught
            text = f"{type(error).__name__}: {error}"  # of one run: the service goes on
        self.end()
        return {"error": text[-3000:]}

    # ---- what may be asked ----

    def echo(self):
        """Nothing but time."""
        return {}

    def missing(self, kind, settings):
        """Why this host's VMM cannot do it, or None."""
        settings = checked(settings)
        if kind not in KINDS:
            raise LabError("a VMM is one of " + ", ".join(KINDS))
        if kind not in self.features:
            self.features[kind] = vmms.Features(self.drivers[kind])
        why = ferrylab.kvm_problem() or self.features[kind].missing(settings)
        if not why and sc.size_bytes(settings["mem"]) > available_bytes():
            why = f"{settings['mem']} of RAM are more than is available there"
        return {"why": why, "version": self.features[kind].version}

    def start(self, kind, settings):
        """A destination that listens. Where."""
        if self.side:
            raise LabError("a destination is there already")
        why = self.missing(kind, settings)["why"]
        if why:
            raise LabError(why)
        self.settings = settings
        self.quiet_s = IDLE_S + settings["max_s"]
        driver = self.drivers[kind]
        self.lab = Lab()
        self.side = driver.start(self.lab, "dst", settings)
        driver.prepare(None, self.side, settings)
        port = ferrylab.free_port(self.host)
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.side.qmp.execute("migrate-incoming", uri=f"tcp:{host}:{port}")
        return {"port": port}

    def begin(self):
        """What the destination does from now on counts."""
        self.cpu = measure.cpu_seconds(self._started())
        return {}

    def running(self):
        """Wait until the guest runs here."""
        side = self._started()
        runner.await_running(side)
        return {"cpu_s": max(measure.cpu_seconds(side) - self.cpu, 0.0)}

    def work(self):
        """The guest's counters. With the first question its blackouts begin anew."""
        side = self._started()
        if not self.work_samples:
            self.work_samples = measure.Work()
            if self.kernel() == "writer":
                measure.reset_blackouts(side)
        _, _, writes, loops = self.work_samples.ask(side, 20)
        return {"writes": writes, "loops": loops}

    def finish(self, moved):
        """The rest of what is known of it, and its end. moved: the guest runs here."""
        side, found = self._started(), {"histogram": [], "threads": {}}
        if moved:
            if self.kernel() == "writer":
                found["gap_ms"], found["histogram"], _ = measure.blackouts(side)
            found["verify"] = runner.verdict(side, self.kernel())[:400]
            info = side.qmp.execute("query-migrate")
            found["transferred"] = info.get("ram", {}).get("transferred")
        else:
            now = runner.unless_gone(moved, measure.cpu_seconds, side)
            found["cpu_s"] = None if now is None else max(now - self.cpu, 0.0)
        ram = sc.size_bytes(self.settings["mem"])
        found["beyond_kib"] = runner.unless_gone(moved, measure.beyond_kib, side.pid, ram)
        side.stop()
        if side.trace_path:
            series, found["threads"] = measure.read_trace(side.trace_path, 0)
            found["pages"] = series[-1]["pages"] if series else None
        self.end()
        return found

    VERBS = {"echo": echo, "missing": missing, "start": start, "begin": begin, "running": running,
             "work": work, "finish": finish}

    # ---- the destination ----

    cpu, work_samples = 0.0, None

    def _started(self):
        if not self.side:
            raise LabError("no destination was started")
        return self.side

    def kernel(self):
        return runner.kernel_and_cmdline(self.settings)[0]

    def end(self):
        """No destination any more. Harmless if there is none."""
        if self.lab:
            self.lab.__exit__()
        self.lab = self.side = self.work_samples = None
        self.cpu, self.quiet_s = 0.0, IDLE_S

    def client_gone(self):
        """By another thread: whatever waits for the destination waits no longer."""
        side = self.side
        if side:
            side.process.kill()


class Gate(threading.Thread):
    """Takes connections. `next` gives the one to serve, `done` says that it was."""

    def __init__(self, listener):
        super().__init__(daemon=True)
        self.listener, self.clients = listener, queue.Queue()
        self.lock, self.session, self.busy = threading.Lock(), None, False
        self.wake, self.waker = os.pipe()

    def next(self):
        return self.clients.get()

    def serving(self, session):
        with self.lock:
            self.session = session
        os.write(self.waker, b"x")  # it is to be watched, too

    def done(self):
        with self.lock:
            self.session, self.busy = None, False
        os.write(self.waker, b"x")

    def run(self):
        watched = None
        while True:
            poll = select.poll()
            poll.register(self.listener, select.POLLIN)
            poll.register(self.wake, select.POLLIN)
            with self.lock:
                session = self.session
                # The socket stays open at least until `done`, and who is gone is looked at once.
                if session and session is not watched:
                    poll.register(session.connection.sock, select.POLLRDHUP)
                    number = session.connection.sock.fileno()
            for fd, _ in poll.poll():
                if fd == self.wake:
                    os.read(self.wake, 64)
                elif fd == self.listener.fileno():
                    self._take()
                elif session and session is not watched and fd == number:
                    watched = session
                    session.client_gone()

    def _take(self):
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return  # it has thought better of it
        with self.lock:
            turned_away, self.busy = self.busy, True
        if not turned_away:
            self.clients.put(sock)
            return
        try:
            sock.settimeout(1)
            sock.sendall(b'{"error": "' + peer.BUSY.encode() + b'"}\n')
        except OSError:
            pass
        sock.close()


def listen(host, port):
    family = socket.AF_INET6 if ipaddress.ip_address(host.partition("%")[0]).version == 6 \
        else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(8)
    return listener


def say(text):
    text = "".join(c if c.isprintable() else "?" for c in text)
    print(f"ferry bench: {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def serve_one(gate, sock, token, drivers):
    """A client, whatever it does."""
    who = "client " + sock.getpeername()[0]
    connection = peer.Connection(sock, "the client", peer.REQUEST_BYTES)
    session = Session(connection, sock.getsockname()[0], token, drivers)
    say(f"{who}: connected")
    gate.serving(session)
    try:
        session.run()
        say(f"{who}: gone")
    except LabError as error:
        say(f"{who}: sent away: {error}")
    finally:
        gate.done()
        connection.close()


def serve(host, port, token):
    """Until a signal. OSError if it cannot listen there."""
    def stop(number, _frame):
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    listener = listen(host, port)
    drivers = {kind: vmms.driver({"kind": kind}) for kind in KINDS}
    gate = Gate(listener)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    gate.start()
    say(f"waits for a matrix at {host}:{port}" + ("" if token else ", without a token"))
    while True:
        sock = gate.next()
        try:
            serve_one(gate, sock, token, drivers)
        except Exception as error:  # pylint: disable=broad-exception-caught
            # Gone before it could be greeted, or worse: it is the end of this client only.
            say(f"client: {type(error).__name__}: {error}")
            gate.done()
            sock.close()
