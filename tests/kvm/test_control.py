#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The control socket, the commands that use it, and the privileges of a running ferry."""

import json
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "..", "scripts", "lib"), HERE]
from ferrylab import (FERRY, Lab, LabError, Qmp, die_with_parent, free_port, guest,  # noqa: E402
                      kvm_problem)

import support_proxy  # noqa: E402
from support_system import PARAMETERS, main  # noqa: E402

COMMAND_SECONDS = 40
START_SECONDS = 20
MOVING = "cpus=1 size=64M rate=200"  # a guest that is worth moving
HELLO = b'{"execute": "qmp_capabilities"}\n'
UNPRIVILEGED = "nobody"


def ferry(*args, env=None, timeout=COMMAND_SECONDS):
    """Run a ferry command; returns its exit status, standard output and standard error."""
    done = subprocess.run([FERRY, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout, check=False,
                          env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def statuses(pid):
    """/proc/PID/task/*/status of every thread, as dictionaries."""
    found = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status", encoding="ascii", errors="replace") as file:
            found.append(dict(re.findall(r"^(\w+):\s*(.*)$", file.read(), re.M)))
    return found


class Raw:
    """A control connection without manners."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(path)
        self.file = self.sock.makefile("rb")

    def send(self, data):
        self.sock.sendall(data)

    def message(self):
        """The next message that is no event; None at the end."""
        while True:
            line = self.file.readline()
            if not line:
                return None
            message = json.loads(line)
            if "event" not in message:
                return message

    def close(self):
        self.file.close()
        self.sock.close()

    def negotiate(self):
        assert "QMP" in self.message()
        self.send(HELLO)
        assert "return" in self.message()
        return self


class ControlTest(unittest.TestCase):
    def setUp(self):
        self.lab = Lab()
        self.addCleanup(self.lab.__exit__)
        self.env = {"XDG_RUNTIME_DIR": self.lab.folder}

    def start(self, name="vm", kernel="idle", **more):
        if more.get("incoming"):
            return self.lab.start(name, mem="128M", **more)
        return self.lab.start(name, kernel=guest(kernel), mem=more.pop("mem", "128M"), **more)

    def raw(self, vm):
        raw = Raw(vm.control_path)
        self.addCleanup(raw.close)
        return raw

    def spawn(self, *args, env=None):
        """`ferry run` on an idle guest, found by its name; returns the process when it answers."""
        process = subprocess.Popen(
            [FERRY, "run", "--kernel", guest("idle"), "--mem", "64M", "--serial", "none", *args],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **self.env, **(env or {})}, preexec_fn=die_with_parent)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_named(self, name, process):
        deadline = time.monotonic() + START_SECONDS
        while True:
            status, out, _ = ferry("status", name, "--json", env=self.env)
            if status == 0:
                return json.loads(out)
            if process.poll() is not None:
                self.fail(f"ferry run ended: {process.stdout.read()}")
            self.assertLess(time.monotonic(), deadline, "ferry run does not answer")
            time.sleep(0.05)

    def refused(self, vm, command, part, **arguments):
        """The command must fail with a message that has `part` in it."""
        answer = vm.qmp.try_execute(command, **arguments)
        self.assertIn("error", answer)
        self.assertIn(part, answer["error"]["desc"])
        return answer["error"]

    def moving_pair(self, **limits):
        """A writer, a destination, and its address."""
        source = self.start("src", "writer", cmdline=MOVING, serial="none")
        if limits:
            source.qmp.execute("migrate-set-parameters", **limits)
        target = self.start("dst", incoming="tcp:127.0.0.1:0", serial="none")
        return source, target, target.qmp.execute("query-migrate")["x-ferry-uri"]


class ProtocolTest(ControlTest):
    def test_greeting_and_negotiation(self):
        vm = self.start()
        raw = self.raw(vm)
        greeting = raw.message()["QMP"]
        self.assertEqual(greeting["capabilities"], [])
        self.assertTrue(greeting["version"]["package"].startswith("ferry "))
        raw.send(b'{"execute": "query-status", "id": "early"}\n')
        answer = raw.message()
        self.assertEqual(answer["error"]["class"], "CommandNotFound")
        self.assertEqual(answer["id"], "early")
        raw.send(HELLO)
        self.assertEqual(raw.message(), {"return": {}})
        raw.send(b'{"execute": "query-status"}')  # no line end
        self.assertEqual(raw.message()["return"]["status"], "running")

    def test_malformed(self):
        vm = self.start()
        raw = self.raw(vm).negotiate()
        for line in (b"{", b"nonsense", b"[1]", b'"x"', b"\xff\xfe\x00", b"[" * 5000, b"{}",
                     b'{"execute": 1}', b'{"execute": "stop", "execute": "quit"}',
                     b'{"execute": "stop", "arguments": {"now": true}}'):
            raw.send(line + b"\n")
            answer = raw.message()
            self.assertEqual(answer["error"]["class"], "GenericError", line[:40])
        raw.send(b'{"execute": "system_reset", "id": {"a": [1]}}\n')
        answer = raw.message()
        self.assertEqual(answer["error"]["class"], "CommandNotFound")
        self.assertEqual(answer["id"], {"a": [1]})
        raw.send(b'{"execute": "query-status"}\n')
        self.assertEqual(raw.message()["return"]["status"], "running")

    def test_oversized_line(self):
        vm = self.start()
        raw = self.raw(vm).negotiate()
        try:
            raw.send(b'{"execute": "' + b"x" * 200000)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            self.assertIn("64 KiB", raw.message()["error"]["desc"])
            self.assertIsNone(raw.message())
        except ConnectionResetError:
            pass  # the end overtook the message
        self.assertEqual(vm.status(), "running")

    def test_several_and_partial(self):
        vm = self.start()
        raw = self.raw(vm)
        raw.message()
        for byte in HELLO + b'{"execute": "query-name"}\n{"execute": "query-kvm"}\n':
            raw.send(bytes([byte]))
        self.assertEqual(raw.message(), {"return": {}})
        self.assertEqual(raw.message()["return"]["name"], "vm")
        self.assertEqual(raw.message()["return"], {"enabled": True, "present": True})

    def test_half_closed(self):
        vm = self.start()
        raw = self.raw(vm)
        raw.send(HELLO + b'{"execute": "query-name", "id": 5}')
        raw.sock.shutdown(socket.SHUT_WR)
        messages = [raw.message(), raw.message(), raw.message(), raw.message()]
        self.assertEqual(messages[2]["id"], 5)
        self.assertIsNone(messages[3])

    def test_silent_and_slow_clients(self):
        vm = self.start()
        silent = self.raw(vm)
        slow = self.raw(vm).negotiate()
        for _ in range(4000):
            vm.qmp.execute("stop")
            vm.qmp.execute("cont")
        # What slow was sent before it was dropped is less than what it missed.
        events = slow.file.read().count(b'"event"')
        self.assertGreater(events, 50)
        self.assertLess(events, 8000)
        self.assertIn("QMP", silent.message())
        self.assertEqual(vm.status(), "running")

    def test_too_many_clients(self):
        vm = self.start()
        clients = [self.raw(vm) for _ in range(15)]
        for client in clients:
            client.negotiate()
        one_more = self.raw(vm)
        self.assertIn("too many", one_more.message()["error"]["desc"])
        status, _, err = ferry("status", vm.control_path)
        self.assertEqual(status, 1)
        self.assertIn("too many", err)
        clients[0].close()
        self.assertEqual(ferry("status", vm.control_path)[0], 0)

    def test_all_commands(self):
        vm = self.start(cpus=2)
        names = {c["name"] for c in vm.qmp.execute("query-commands")}
        self.assertTrue({"qmp_capabilities", "query-status", "query-version", "query-commands",
                         "query-name", "query-kvm", "query-cpus-fast", "stop", "cont", "quit",
                         "system_powerdown",
                         "migrate", "migrate-incoming", "migrate_cancel", "migrate-continue",
                         "query-migrate",
                         "migrate-set-parameters", "query-migrate-parameters",
                         "migrate-set-capabilities", "query-migrate-capabilities",
                         "x-ferry-commit"} <= names)
        status = vm.qmp.execute("query-status")
        self.assertEqual((status["status"], status["running"]), ("running", True))
        self.assertEqual(set(vm.qmp.execute("query-version")["qemu"]), {"major", "minor", "micro"})
        cpus = vm.qmp.execute("query-cpus-fast")
        self.assertEqual([c["cpu-index"] for c in cpus], [0, 1])
        tids = os.listdir(f"/proc/{vm.pid}/task")
        for cpu in cpus:
            self.assertIn(str(cpu["thread-id"]), tids)
            self.assertEqual((cpu["target"], cpu["qom-path"]), ("x86_64", ""))
        vm.qmp.execute("stop")
        vm.qmp.wait_event("STOP", 5)
        self.assertEqual(vm.status(), "paused")
        vm.qmp.execute("stop")
        vm.qmp.execute("cont")
        vm.qmp.wait_event("RESUME", 5)
        self.assertEqual(vm.status(), "running")
        self.assertEqual(vm.qmp.execute("query-migrate"), {})
        vm.qmp.execute("migrate_cancel")
        self.refused(vm, "x-ferry-commit", "nothing to decide", token="1")
        self.refused(vm, "migrate-incoming", "--incoming", uri="tcp:127.0.0.1:0")
        self.refused(vm, "migrate", "udp", uri="udp:1")
        vm.qmp.execute("quit")
        self.assertEqual(vm.qmp.wait_event("SHUTDOWN", 5)["data"],
                         {"guest": False, "reason": "host-qmp-quit"})
        self.assertEqual(vm.wait(5), 0)
        self.assertFalse(os.path.exists(vm.control_path))

    def test_migration_settings(self):
        vm = self.start()
        self.assertEqual(PARAMETERS, vm.qmp.execute("query-migrate-parameters"))
        vm.qmp.execute("migrate-set-parameters", max_bandwidth=1 << 40, downtime_limit=2000000)
        for bad in ({"downtime_limit": 0}, {"downtime_limit": 2000001}, {"max_bandwidth": -1},
                    {"max_bandwidth": "1G"}, {"cpu_throttle_initial": 5}):
            name = next(iter(bad)).replace("_", "-")
            self.refused(vm, "migrate-set-parameters", name, **bad)
        self.assertEqual({**PARAMETERS, "max-bandwidth": 1 << 40, "downtime-limit": 2000000},
                         vm.qmp.execute("query-migrate-parameters"))
        self.refused(vm, "migrate-set-capabilities", "not supported",
                     capabilities=[{"capability": "xbzrle", "state": True}])
        vm.qmp.execute("migrate-set-capabilities",
                       capabilities=[{"capability": "events", "state": True},
                                     {"capability": "multifd", "state": True}])
        self.assertIn({"capability": "events", "state": True},
                      vm.qmp.execute("query-migrate-capabilities"))
        self.assertIn({"capability": "multifd", "state": True},
                      vm.qmp.execute("query-migrate-capabilities"))


class SocketTest(ControlTest):
    def test_socket_mode(self):
        vm = self.start()
        mode = os.stat(vm.control_path).st_mode
        self.assertTrue(stat.S_ISSOCK(mode))
        self.assertEqual(stat.S_IMODE(mode), 0o600)

    def test_default_place_and_collision(self):
        process = self.spawn("--name", "one")
        info = self.wait_named("one", process)
        folder = os.path.join(self.lab.folder, "ferry")
        path = os.path.join(folder, "one.sock")
        self.assertEqual((info["control"], info["pid"]), (path, process.pid))
        self.assertEqual(stat.S_IMODE(os.stat(folder).st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        second = self.spawn("--name", "one")
        self.assertEqual(second.wait(START_SECONDS), 1)
        self.assertIn("a guest named 'one' is running", second.stdout.read())
        # Killed, it leaves a stale socket, which the next one replaces.
        process.kill()
        process.wait()
        self.assertTrue(os.path.exists(path))
        status, _, err = ferry("status", "one", env=self.env)
        self.assertEqual(status, 1)
        self.assertIn("no guest named 'one'", err)
        third = self.spawn("--name", "one")
        self.wait_named("one", third)
        third.send_signal(signal.SIGTERM)
        self.assertEqual(third.wait(10), 0)
        self.assertFalse(os.path.exists(path))

    def test_two_at_once(self):
        racers = [self.spawn("--name", "racer") for _ in range(4)]
        self.wait_named("racer", racers[0] if racers[0].poll() is None else racers[1])
        deadline = time.monotonic() + START_SECONDS
        while sum(r.poll() is None for r in racers) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(sorted(r.poll() or 0 for r in racers), [0, 1, 1, 1])
        self.assertEqual(ferry("quit", "racer", env=self.env)[0], 0)

    def test_no_guest_left_behind_by_failure(self):
        process = self.spawn("--name", "broken", "--initrd", "/nonexistent/initrd")
        self.assertEqual(process.wait(START_SECONDS), 1)
        self.assertIn("/nonexistent/initrd", process.stdout.read())
        self.assertEqual(os.listdir(os.path.join(self.lab.folder, "ferry")), [])

    def test_client_waits_are_bounded(self):
        path = self.lab.path("deaf")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
            deaf.bind(path)
            deaf.listen(1)
            began = time.monotonic()
            status, _, err = ferry("status", path)
            self.assertEqual(status, 1)
            self.assertIn("does not answer", err)
            self.assertLess(time.monotonic() - began, 20)
        folder = os.path.join(self.lab.folder, "ferry")
        os.makedirs(folder, 0o700, exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
            deaf.bind(os.path.join(folder, "deaf.sock"))
            deaf.listen(1)
            self.assertRegex(ferry("list", env=self.env)[1], r"deaf +no answer +- +- +-  /")


class CommandTest(ControlTest):
    def test_life_of_a_guest(self):
        process = self.spawn("--name", "life", "--cpus", "2", "--paused")
        info = self.wait_named("life", process)
        self.assertEqual(info["status"]["status"], "prelaunch")

        def run(*args, status=0):
            got, out, err = ferry(*args, env=self.env)
            self.assertEqual(got, status, err)
            return out + err
        run("cont", "life")
        self.assertRegex(run("status", "life"), r"state +running\ncpus +2\nmemory +64\.0 MiB\n")
        run("stop", "life")
        self.assertRegex(run("list"), r"life +paused +2 +64\.0 MiB +%d" % process.pid)
        listed = [g for g in json.loads(run("list", "--json")) if g["pid"] == process.pid]
        self.assertEqual(len(listed), 1)
        self.assertEqual((listed[0]["name"], listed[0]["status"]), ("life", "paused"))
        run("cont", "life")
        run("cancel", "life")
        self.assertIn("nothing to decide", run("cont", "life", "--token", "12", status=1))
        self.assertIn("nothing to decide", run("cont", "life", "--force", status=1))
        run("quit", "life")
        self.assertEqual(process.wait(10), 0)
        self.assertIn("no guest named", run("stop", "life", status=1))

    def test_usage_errors(self):
        kernel = ("--kernel", guest("idle"))
        for args, part in (((), "which command"), (("fly",), "'fly'"), (("run",), "--kernel"),
                           (("run", *kernel, "--mem", "12"), "12M"),
                           (("run", *kernel, "--cpus", "65"), "1 to 64"),
                           (("run", *kernel, "--speed", "9"), "--speed"),
                           (("run", *kernel, "--name"), "--name NAME"),
                           (("run", *kernel, "--serial", "lpt1"), "file:PATH"),
                           (("run", *kernel, "more"), "'more'"),
                           (("status",), "GUEST"), (("status", "a", "b"), "'b'"),
                           (("migrate", "a"), "GUEST"),
                           (("migrate", "a", "http://x"), "tcp:HOST:PORT"),
                           (("migrate", "a", "tcp:1:2", "--downtime-limit", "0"), "1 to"),
                           (("migrate", "a", "tcp:1:2", "--max-bandwidth", "fast"), "100M"),
                           (("cont", "a", "--token"), "TOKEN"),
                           (("cont", "a", "--token", "1", "--force"), "together"),
                           (("list", "x"), "'x'"),
                           (("restore", "f", "--initrd", "i"), "--initrd and"),
                           (("help", "fly"), "'fly'")):
            status, out, err = ferry(*args)
            self.assertEqual((status, out), (2, ""), args)
            self.assertIn(part, err, args)
            self.assertIn("--help", err, args)

    def test_help_and_version(self):
        for args in (("--help",), ("help",), ("run", "--help"), ("help", "run"),
                     ("migrate", "-h"), ("help", "migrate"), ("help", "list")):
            status, out, err = ferry(*args)
            self.assertEqual((status, err), (0, ""))
            self.assertIn("usage: ferry", out)
        shown = ferry("restore", "--help")[1]
        self.assertIn("as much as it had", shown)
        self.assertNotIn("--kernel", shown)
        self.assertRegex(ferry("version")[1], r"^ferry \d+\.\d+\.\d+\n$")
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([FERRY, "help"], stdout=full, stderr=subprocess.PIPE, text=True,
                                  timeout=10, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("standard output", done.stderr)

    def test_signals_end_a_guest(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            vm = self.start(f"vm{int(number)}")
            os.kill(vm.pid, number)
            self.assertEqual(vm.qmp.wait_event("SHUTDOWN", 5)["data"]["reason"], "host-signal")
            self.assertEqual(vm.wait(5), 0)
            self.assertFalse(os.path.exists(vm.control_path))

    def test_ends_of_guests(self):
        for how, wanted, text in (("debugexit", 11, "debug exit"), ("triple", 3, "riple fault"),
                                  ("reset", 0, "reset")):
            with self.subTest(how=how):
                vm = self.start(f"end-{how}", "crash", cmdline=f"how={how} code=5",
                                serial="none", extra=("--paused", "--debug-exit"))
                vm.qmp.execute("cont")
                self.assertTrue(vm.qmp.wait_event("SHUTDOWN", 10)["data"]["guest"])
                self.assertEqual(vm.wait(10), wanted, vm.output)
                self.assertIn(text, vm.output)

    def test_internal_error_stays_inspectable(self):
        vm = self.start("bad", "crash", cmdline="how=badinsn", serial="none")
        try:
            vm.wait_status("internal-error", 10)
        except LabError:
            self.skipTest("this KVM emulates, or runs, the instruction")
        self.assertIn("RIP", vm.qmp.execute("query-status")["x-ferry-end"])
        self.refused(vm, "cont", "ended")
        self.refused(vm, "migrate", "ended", uri="tcp:127.0.0.1:1")
        self.assertRegex(ferry("status", vm.control_path)[1], r"end +KVM cannot emulate")
        vm.qmp.execute("quit")
        self.assertEqual(vm.wait(5), 4)


class MigrationTest(ControlTest):
    def test_by_command(self):
        source, target, uri = self.moving_pair()
        status, out, err = ferry("migrate", source.control_path, uri, "--downtime-limit", "200")
        self.assertEqual(status, 0, err)
        self.assertIn(f"completed: the guest runs at {uri}", out)
        self.assertRegex(out, r"downtime +\d+\.\d+ ms \(predicted \d+\.\d+ ms, limit 200 ms\)")
        self.assertEqual((source.status(), target.status()), ("postmigrate", "running"))
        self.refused(source, "cont", "handed over")
        self.refused(source, "migrate", "handed over", uri=uri)
        self.refused(target, "migrate-incoming", "--incoming", uri="tcp:127.0.0.1:0")
        self.assertRegex(ferry("status", target.control_path)[1], r"incoming +completed at")
        self.assertIsNone(source.gone())
        source.qmp.execute("quit")
        self.assertEqual(source.wait(10), 0)

    def test_json_and_events(self):
        source, target, uri = self.moving_pair()
        for vm in (source, target):
            vm.qmp.execute("migrate-set-capabilities",
                           capabilities=[{"capability": "events", "state": True}])
        status, out, err = ferry("migrate", source.control_path, uri, "--json")
        self.assertEqual(status, 0, err)
        lines = [json.loads(line) for line in out.splitlines()]
        self.assertEqual([line["event"] for line in lines[:-1]], ["progress"] * (len(lines) - 1))
        done = lines[-1]
        self.assertEqual((done["event"], done["status"]), ("done", "completed"))
        ram = done["ram"]
        self.assertEqual(ram["total"], 128 << 20)
        self.assertEqual(ram["normal-bytes"], ram["normal"] * ram["page-size"])
        self.assertGreater(ram["transferred"], 1 << 20)
        self.assertGreater(done["x-ferry-downtime-ns"], 0)
        self.assertEqual(done["x-ferry-role"], "source")
        seen = []
        while "completed" not in seen:
            seen.append(source.qmp.wait_event("MIGRATION", 5)["data"]["status"])
        self.assertEqual(seen[:2] + seen[-2:], ["setup", "active", "device", "completed"])
        self.assertGreaterEqual(source.qmp.wait_event("MIGRATION_PASS", 5)["data"]["pass"], 1)
        source.qmp.wait_event("STOP", 5)
        target.qmp.wait_event("RESUME", 5)
        while target.qmp.wait_event("MIGRATION", 5)["data"]["status"] != "completed":
            pass

    def test_deferred(self):
        source = self.start("src", "writer", cmdline=MOVING, serial="none")
        target = self.start("dst", incoming="defer", serial="none")
        self.assertEqual(target.status(), "inmigrate")
        self.refused(target, "migrate", "no guest here", uri="tcp:127.0.0.1:1")
        self.refused(target, "cont", "arrived")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            busy = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
            self.refused(target, "migrate-incoming", "in use", uri=busy)
        uri = f"unix:{self.lab.path('stream')}"
        target.qmp.execute("migrate-incoming", uri=uri)
        self.refused(target, "migrate-incoming", "already", uri=uri)
        source.migrate(uri)
        self.assertEqual(target.status(), "running")

    def test_ctrl_c_cancels(self):
        source, target, uri = self.moving_pair()
        process = subprocess.Popen(
            [FERRY, "migrate", source.control_path, uri, "--max-bandwidth", "2M"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=die_with_parent)
        self.addCleanup(process.kill)
        while source.qmp.execute("query-migrate").get("status") != "active":
            time.sleep(0.05)
        self.refused(source, "migrate", "under way", uri=uri)
        time.sleep(1.5)  # a progress line comes every second
        source.qmp.execute("stop")
        self.assertEqual(source.status(), "paused")
        source.qmp.execute("cont")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        self.assertIn("cancelled; the guest keeps running here", err)
        self.assertIn("active", out)
        self.assertEqual(source.status(), "running")
        self.assertEqual(target.status(), "inmigrate")
        # The destination is there for the next attempt.
        source.qmp.execute("migrate-set-parameters", max_bandwidth=0)
        source.migrate(uri)
        self.assertEqual(target.status(), "running")

    def test_failures_leave_the_guest(self):
        vm = self.start("src", "writer", cmdline=MOVING, serial="none")
        port = free_port()
        status, _, err = ferry("migrate", vm.control_path, f"tcp:127.0.0.1:{port}")
        self.assertEqual(status, 1)
        self.assertIn(f"127.0.0.1:{port}", err)
        self.assertIn("refused", err)
        info = vm.qmp.execute("query-migrate")
        self.assertEqual(info["status"], "failed")
        self.assertIn("refused", info["error-desc"])
        self.assertEqual(vm.status(), "running")
        self.assertEqual(ferry("migrate", vm.control_path, "unix:/nonexistent/s")[0], 1)
        self.assertEqual(vm.status(), "running")

    def test_quit_cancels_first(self):
        for how in ("quit", "signal"):
            with self.subTest(how=how):
                source = self.start(f"src-{how}", "writer", cmdline=MOVING, serial="none")
                target = self.start(f"dst-{how}", incoming="tcp:127.0.0.1:0", serial="none")
                uri = target.qmp.execute("query-migrate")["x-ferry-uri"]
                source.qmp.execute("migrate-set-parameters", max_bandwidth=1 << 20,
                                   downtime_limit=1)  # the guest has hardly begun to write
                source.qmp.execute("migrate", uri=uri)
                time.sleep(0.3)
                if how == "quit":
                    source.qmp.execute("quit")
                else:
                    os.kill(source.pid, signal.SIGTERM)
                self.assertEqual(source.wait(10), 0)
                self.assertIn("cancelling the migration first", source.output)
                self.assertEqual(target.status(), "inmigrate")

    def test_undecided(self):
        """The commit is lost on the way: the token that the source shows lets the guest run."""
        source, target, uri = self.moving_pair()

        def cut_commit(to_destination, kind):
            lost = to_destination and kind == support_proxy.COMMIT
            return support_proxy.CUT if lost else support_proxy.FORWARD
        proxy = support_proxy.Proxy(int(uri.rpartition(":")[2]), on_frame=cut_commit)
        self.addCleanup(proxy.close)
        status, out, err = ferry("migrate", source.control_path, proxy.uri)
        self.assertEqual(status, 3, out + err)
        token = re.search(r"--token ([0-9a-f]{16})\n", err).group(1)
        self.assertIn("ferry quit", err)
        target.wait_status("inmigrate", 10)
        deadline = time.monotonic() + 20
        while target.qmp.execute("query-migrate")["status"] != "undecided":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        self.refused(source, "cont", "handed over")
        self.refused(source, "migrate", "handed over", uri=uri)
        self.assertIn(f"token      {token}", ferry("status", source.control_path)[1])
        self.assertNotIn(token, ferry("status", target.control_path)[1])
        for args, part in (((), "--token"), (("--token", "0"), "not the token"),
                           (("--token", "xyz"), "no token")):
            status, _, err = ferry("cont", target.control_path, *args)
            self.assertEqual(status, 1)
            self.assertIn(part, err)
        self.assertEqual(target.status(), "inmigrate")
        self.assertEqual(ferry("cont", target.control_path, "--token", token)[0], 0)
        target.wait_status("running", 10)
        self.assertNotEqual(source.status(), "running")

    def test_warnings(self):
        vm = self.start("open", incoming="tcp:0.0.0.0:0", serial="none")
        self.assertIn("not encrypted", vm.output)
        for uri in ("tcp:0", "tcp::0", "tcp:127.0.0.1:0", "tcp:localhost:0"):
            vm = self.start("local" + uri.replace(":", "-"), incoming=uri, serial="none")
            self.assertNotIn("not encrypted", vm.output)
            self.assertRegex(vm.wait_migration(COMMAND_SECONDS, ("none",))["x-ferry-uri"],
                             r"^tcp:(127\.0\.0\.1|\[::1\]):\d+$")


class PrivilegeTest(ControlTest):
    def assert_unprivileged(self, pid):
        threads = statuses(pid)
        for thread in threads:
            for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                self.assertEqual(int(thread[name], 16), 0, (thread["Name"], name))
            if os.geteuid() == 0:
                self.assertEqual(int(thread["CapBnd"], 16), 0, thread["Name"])
            self.assertEqual(thread["NoNewPrivs"], "1", thread["Name"])
        return threads

    def test_all_threads(self):
        source, target, uri = self.moving_pair(max_bandwidth=8 << 20)
        source.qmp.execute("migrate", uri=uri)
        deadline = time.monotonic() + 10
        while source.qmp.execute("query-migrate")["status"] != "active":
            self.assertLess(time.monotonic(), deadline)
        for vm in (source, target):
            self.assertGreater(len(self.assert_unprivileged(vm.pid)), 2)

    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_other_user(self):
        user = pwd.getpwnam(UNPRIVILEGED)
        folder = f"/run/ferry/{UNPRIVILEGED}"
        made = [path for path in ("/run/ferry", folder) if not os.path.exists(path)]
        name = f"test-{os.getpid()}"
        kernel = self.lab.path("kernel")
        with open(guest("idle"), "rb") as image, open(kernel, "wb") as copy:
            copy.write(image.read())
        os.chmod(self.lab.folder, 0o755)
        process = subprocess.Popen(
            [FERRY, "run", "--kernel", kernel, "--mem", "64M", "--serial", "none", "--name", name,
             "--user", UNPRIVILEGED],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=die_with_parent)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        info = self.wait_named(name, process)
        self.assertEqual(info["control"], f"{folder}/{name}.sock")
        self.assertEqual(info["pid"], process.pid)
        for path, mode in ((folder, 0o700), (info["control"], 0o600)):
            found = os.stat(path)
            self.assertEqual((found.st_uid, stat.S_IMODE(found.st_mode)), (user.pw_uid, mode))
        self.assertEqual(stat.S_IMODE(os.stat("/run/ferry").st_mode), 0o755)
        for thread in self.assert_unprivileged(process.pid):
            self.assertEqual(thread["Uid"].split(), [str(user.pw_uid)] * 4)
            self.assertEqual(thread["Gid"].split(), [str(user.pw_gid)] * 4)
            self.assertNotIn("0", thread["Groups"].split())
        self.assertEqual(ferry("quit", name)[0], 0)
        self.assertEqual(process.wait(10), 0)
        self.assertFalse(os.path.exists(info["control"]))
        for path in reversed(made):
            try:
                os.rmdir(path)
            except OSError:
                pass  # somebody else uses it by now

    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_wrong_users(self):
        kernel = ("--kernel", guest("idle"))
        for user, part in (("no-such-user", "no such user"), ("root", "root")):
            status, _, err = ferry("run", *kernel, "--user", user, env=self.env)
            self.assertEqual(status, 1)
            self.assertIn(part, err)
        done = subprocess.run(
            ["setpriv", "--reuid", UNPRIVILEGED, "--clear-groups", FERRY, "run", *kernel, "--user",
             UNPRIVILEGED], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20,
            check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("only root", done.stderr)

    @unittest.skipUnless(os.geteuid() == 0, "as root only")
    def test_closed_files_are_explained(self):
        with tempfile.TemporaryDirectory() as folder:
            kernel = os.path.join(folder, "k")
            with open(kernel, "wb"):
                pass
            os.chown(kernel, pwd.getpwnam(UNPRIVILEGED).pw_uid, -1)
            os.chmod(kernel, 0o600)
            status, _, err = ferry("run", "--kernel", kernel, "--serial", "none", env=self.env)
        self.assertEqual(status, 1)
        self.assertIn("Permission denied", err)
        self.assertIn("--user", err)


class HammerTest(ControlTest):
    """Many clients at once, while the guest is stopped, continued and moved."""

    def test_many_clients_during_migration(self):
        source, target, uri = self.moving_pair(max_bandwidth=32 << 20)
        stop, failures = threading.Event(), []

        def hammer(commands):
            try:
                qmp = Qmp(source.control_path, 10)
                while not stop.is_set():
                    for command in commands:
                        qmp.try_execute(command)
                qmp.close()
            except LabError as error:
                failures.append(error)
        threads = [threading.Thread(target=hammer, args=(commands,)) for commands in
                   (("query-migrate", "query-status"), ("stop", "cont"), ("query-cpus-fast",),
                    ("query-migrate", "nonsense", "query-commands"))]
        for thread in threads:
            thread.start()
        try:
            source.migrate(uri)
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
        self.assertEqual(failures, [])
        self.assertEqual(source.status(), "postmigrate")
        self.assertIn(target.status(), ("running", "paused"))


if __name__ == "__main__":
    sys.exit(main(kvm_problem()))
