#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests boot, run and end, and what cannot boot says why."""

import os
import select
import socket
import stat
import struct
import subprocess
import sys
import time

from support_system import (FERRY, GUEST_SECONDS, SMALL, SystemTest, fields, free_port, guest,
                            main, words)

EM_X86_64, PT_LOAD, PT_NOTE = 62, 1, 4


class GuestTest(SystemTest):
    """Every test guest, with its own verdict."""

    def test_writer(self):
        for cpus, cmdline in ((1, "size=16M rate=1000"), (2, "size=16M rate=0 pattern=hot"),
                              (2, "size=16M fill=zero pattern=uniform blackout=off")):
            ferry = self.writer(f"w{cpus}-{len(cmdline)}", cmdline, cpus=cpus)
            self.verify_lives(ferry)
            self.finish(ferry)

    def test_writer_ends_in_time(self):
        ferry = self.writer(cmdline="size=4M time=1")
        self.assertEqual(ferry.wait(GUEST_SECONDS), 1)

    def smp(self, cpus):
        ferry = self.boot("smp", "smp", cpus=cpus)
        ferry.serial.expect(rf"^smp: cpus={cpus} ok", GUEST_SECONDS)
        self.assertEqual(len(ferry.qmp.execute("query-cpus-fast")), cpus)
        self.verify(ferry, "smp")
        self.finish(ferry, "smp")

    def test_smp_1(self):
        self.smp(1)

    def test_smp_2(self):
        self.smp(2)

    def test_smp_4(self):
        self.smp(4)

    def test_smp_64(self):
        self.smp(64)

    def timer(self, cmdline):
        ferry = self.boot("timer", "timer", cmdline)
        ready = ferry.serial.expect(r"^timer: (ready|FAILED)", GUEST_SECONDS).string
        if "no TSC-deadline" in ready:
            self.skipTest("this KVM has no TSC-deadline timer")
        before = words(self.ask(ferry, "s", r"^timer: ticks"))
        time.sleep(0.5)
        after = words(self.ask(ferry, "s", r"^timer: ticks"))
        for clock in ("lapic", "pit", "t_us", "kvmclock_us"):
            self.assertGreater(after[clock], before[clock], clock)
        self.finish(ferry, "timer")

    def test_timer_periodic(self):
        self.timer("mode=periodic")

    def test_timer_deadline(self):
        self.timer("mode=deadline hz=250")

    def test_timer_xapic(self):
        self.timer("mode=periodic apic=x")

    def test_fpu(self):
        ferry = self.boot("fpu", "fpu", cpus=2)
        ferry.serial.expect(r"^fpu: ready cpus=2", GUEST_SECONDS)
        self.assertGreater(self.verify(ferry, "fpu")["rounds"], 0)
        self.finish(ferry, "fpu")

    def test_echo(self):
        ferry = self.boot("echo", "echo")
        ferry.serial.expect(r"^echo: ready", GUEST_SECONDS)
        for line in ("hello", "x" * 150, "two words"):
            ferry.serial.send(line + "\n")
            ferry.serial.expect(f"^echo: {line}$", GUEST_SECONDS)
        ferry.serial.send("quit\n")
        ferry.serial.expect(r"^echo: done ok", GUEST_SECONDS)
        self.assertEqual(ferry.wait(GUEST_SECONDS), 1)

    def test_idle(self):
        ferry = self.boot("idle", "idle", mem="32M")
        ferry.serial.expect(r"^idle: ready", GUEST_SECONDS)
        self.assertEqual(ferry.status(), "running")
        ferry.qmp.execute("quit")
        self.assertEqual(ferry.wait(10), 0)

    def test_multiboot(self):
        module = self.lab.path("module")
        with open(module, "wb") as file:
            file.write(bytes(range(0x10, 0x30)))
        ferry = self.boot("mboot", "mboot", "some words", mem="128M",
                          extra=["--debug-exit", "--initrd", module, "--rng", "--virtio-cmdline"])
        said = ferry.serial.collect(r"^mboot: done ok", GUEST_SECONDS)[0]
        self.assertIn("mboot: magic ok", said)
        self.assertTrue(any("cmdline=" in line and "some words" in line and "virtio_mmio.device=4K@0x" in line
                            for line in said), said)
        line = next(line for line in said if " module=0 " in line)
        self.assertEqual(fields(line)["size"], "32")
        self.assertEqual([int(byte, 16) for byte in fields(line)["bytes"].split(",")],
                         list(range(0x10, 0x18)))
        ram_kib = words(said[-2])["ram_kib"]
        self.assertTrue(126 * 1024 <= ram_kib <= 128 * 1024, said[-2])
        self.assertEqual(ferry.wait(GUEST_SECONDS), 1)


class EndTest(SystemTest):
    """The ways in which a guest ends."""

    def end(self, how, status, said, **options):
        arguments = ["--kernel", guest("crash"), "--cmdline", f"how={how}", "--mem", "32M",
                     "--control", self.lab.path("c"), "--serial", "stdio",
                     *options.get("extra", ["--debug-exit"])]
        self.assertRegex(self.ferry("run", *arguments, status=status), said)
        self.assertFalse(os.path.exists(self.lab.path("c")), "the control socket was left behind")

    def test_debug_exit(self):
        self.end("debugexit code=0", 1, "debug exit value 0")
        self.end("debugexit code=5", 11, "debug exit value 5")

    def test_triple_fault(self):
        self.end("triple", 3, "triple fault")

    def test_undefined_opcode(self):
        self.end("ud", 3, "crash: FAILED exception vector=6")  # debug exit value 1

    def test_resets(self):
        self.end("reset", 0, "reset")
        self.end("cf9", 0, "reset")

    def test_halt(self):
        ferry = self.boot("crash", "crash", "how=hlt")
        ferry.serial.expect(r"about to hlt", GUEST_SECONDS)
        self.assertEqual(ferry.status(), "running")
        ferry.qmp.execute("quit")
        self.assertEqual(ferry.wait(10), 0)

    def test_no_debug_exit_device(self):
        ferry = self.boot("crash", "crash", "how=debugexit", extra=[])
        ferry.serial.expect(r"about to debugexit", GUEST_SECONDS)
        time.sleep(0.2)
        self.assertEqual(ferry.status(), "running")

    def test_internal_error(self):
        """Where KVM cannot emulate the instruction, what is left of the guest can be looked at."""
        ferry = self.boot("crash", "crash", "how=badinsn")
        ferry.serial.expect(r"about to badinsn", GUEST_SECONDS)
        deadline = time.monotonic() + GUEST_SECONDS
        while ferry.process.poll() is None and ferry.status() == "running":
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        if ferry.process.poll() is not None:
            self.assertEqual(ferry.process.returncode, 1, ferry.output)
            self.skipTest("this KVM runs the instruction")
        answer = ferry.qmp.execute("query-status")
        self.assertEqual((answer["status"], answer["running"]), ("internal-error", False))
        # The instruction's bytes and where it is.
        self.assertRegex(answer["x-ferry-end"], r"(?is)f2 ?0f ?38 ?f1")
        self.assertRegex(answer["x-ferry-end"], r"(?i)rip.*0x[0-9a-f]+")
        for command in ("cont", "stop"):
            self.assertIn("ended", ferry.qmp.try_execute(command)["error"]["desc"])
        answer = ferry.qmp.try_execute("migrate", uri="tcp:127.0.0.1:1")
        self.assertIn("ended", answer["error"]["desc"])
        self.assertIn("internal-error", self.ferry("status", ferry.control_path))
        ferry.qmp.execute("quit")
        self.assertEqual(ferry.wait(10), 4)

    def test_signals(self):
        for number in (15, 2, 1):
            ferry = self.boot(f"s{number}", "idle")
            ferry.process.send_signal(number)
            self.assertEqual(ferry.wait(10), 0)
            self.assertFalse(os.path.exists(ferry.control_path))


class MemoryTest(SystemTest):
    def run_writer(self, name, mem, cmdline, **options):
        ferry = self.writer(name, cmdline, mem=mem, **options)
        self.assertEqual(ferry.qmp.execute("query-status")["x-ferry-memory-bytes"],
                         int(mem[:-1]) << {"M": 20, "G": 30}[mem[-1]])
        self.wait_writes(ferry, 100)
        self.finish(ferry)  # it verifies every page

    def test_32m(self):
        self.run_writer("m", "32M", "size=16M")

    def test_memfd(self):
        extra = ["--debug-exit", "--mem-backend", "memfd"]
        self.run_writer("m", "64M", "size=32M", extra=extra)

    def test_3g(self):
        self.run_writer("m", "3G", "size=16M")

    def test_above_4g(self):
        """The last 2 of 5 GiB lie above the hole below 4 GiB; the guest's region reaches there."""
        self.run_writer("m", "5G", "size=3200M fill=zero rate=2000 pattern=uniform")

    def test_hugetlb(self):
        with open("/proc/meminfo", encoding="ascii") as file:
            free = int(next(line for line in file if line.startswith("HugePages_Free")).split()[1])
        if free >= 32:
            extra = ["--debug-exit", "--mem-backend", "hugetlb"]
            self.run_writer("m", "64M", "size=32M", extra=extra)
        else:
            output = self.ferry("run", "--kernel", guest("idle"), "--mem", "64M", "--mem-backend",
                                "hugetlb", "--control", self.lab.path("c"), status=1)
            self.assertIn("huge", output)


class RunStateTest(SystemTest):
    def test_paused_and_cont(self):
        ferry = self.lab.start("p", kernel=guest("idle"), **{**SMALL, "extra": ["--paused"]})
        self.assertEqual(ferry.status(), "prelaunch")
        self.assertIsNone(ferry.serial.line(0.3))
        self.ferry("cont", ferry.control_path)
        ferry.serial.expect(r"^idle: ready", GUEST_SECONDS)
        self.assertEqual(ferry.status(), "running")
        ferry.qmp.wait_event("RESUME", 5)

    def test_stop_and_cont(self):
        ferry = self.writer(cpus=2)
        for command, state, event in (("stop", "paused", "STOP"), ("stop", "paused", None),
                                      ("cont", "running", "RESUME"), ("cont", "running", None)):
            self.ferry(command, ferry.control_path)
            self.assertEqual(ferry.status(), state)
            if event:
                ferry.qmp.wait_event(event, 5)
        self.ferry("stop", ferry.control_path)
        ferry.serial.send("v")
        self.assertIsNone(ferry.serial.line(0.3))
        self.ferry("cont", ferry.control_path)
        ferry.serial.expect(r"^writer: verify ok", GUEST_SECONDS)
        self.finish(ferry)

    def test_stop_many_times(self):
        ferry = self.writer(cpus=4)
        for _ in range(50):
            ferry.qmp.execute("stop")
            ferry.qmp.execute("cont")
        self.verify_lives(ferry)
        self.finish(ferry)

    def test_status_and_list(self):
        run = self.lab.path("run")
        os.mkdir(run, 0o700)
        env = {**os.environ, "XDG_RUNTIME_DIR": run}
        command = [FERRY, "run", "--kernel", guest("idle"), "--name", "listed", "--serial", "none"]
        with open(self.lab.path("out"), "wb") as out, \
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                 env=env) as process:
            try:
                path = os.path.join(run, "ferry", "listed.sock")
                deadline = time.monotonic() + 10
                while not os.path.exists(path):
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.02)
                self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
                for words_ in (("list",), ("status", "listed")):
                    done = subprocess.run([FERRY, *words_], env=env, stdout=subprocess.PIPE,
                                          text=True, timeout=20, check=True)
                    self.assertRegex(done.stdout, r"listed[^$]*running")
                subprocess.run([FERRY, "quit", "listed"], env=env, timeout=20, check=True)
                self.assertEqual(process.wait(10), 0)
                self.assertFalse(os.path.exists(path))
            finally:
                process.kill()


def read_until(fd, wanted):
    """What comes from a descriptor, until this is in it."""
    said, deadline = b"", time.monotonic() + GUEST_SECONDS
    while wanted not in said:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise AssertionError(f"{wanted} did not come, only {said}")
        data = os.read(fd, 4096)
        if not data:
            raise AssertionError(f"{wanted} did not come before the end, only {said}")
        said += data
    return said


class SerialTest(SystemTest):
    def start_echo(self, serial, **popen):
        command = [FERRY, "run", "--kernel", guest("echo"), "--mem", "32M", "--serial", serial,
                   "--control", self.lab.path("c"), "--debug-exit"]
        process = subprocess.Popen(command, **popen)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_stdio(self):
        process = self.start_echo("stdio", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL)
        output = read_until(process.stdout.fileno(), b"echo: ready")
        output += process.communicate(b"through a pipe\nquit\n", GUEST_SECONDS)[0]
        output = output.decode()
        self.assertEqual(process.returncode, 1)
        self.assertIn("echo: through a pipe\n", output.replace("\r", ""))
        self.assertIn("echo: done ok", output)

    def test_file(self):
        path = self.lab.path("serial")
        ferry = self.lab.start("f", kernel=guest("writer"), cmdline="size=4M time=1", mem="32M",
                               serial=f"file:{path}", extra=["--debug-exit", "--paused"])
        ferry.qmp.execute("cont")
        self.assertEqual(ferry.wait(GUEST_SECONDS), 1)
        with open(path, encoding="ascii") as file:
            text = file.read()
        self.assertRegex(text, r"(?s)^writer: start\n.*writer: done ok")

    def test_unix_clients_come_and_go(self):
        ferry = self.boot("u", "echo")
        ferry.serial.expect(r"^echo: ready", GUEST_SECONDS)
        self.assertEqual(stat.S_IMODE(os.stat(ferry.serial_path).st_mode), 0o600)
        ferry.serial.close()
        deadline = time.monotonic() + GUEST_SECONDS
        said = b""
        while b"echo: again\n" not in said:  # the first client's end may not have been seen yet
            self.assertLess(time.monotonic(), deadline)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(ferry.serial_path)
                try:
                    sock.sendall(b"again\n")
                    while b"echo: again\n" not in said:
                        data = sock.recv(1000)
                        if not data:
                            break
                        said += data
                except OSError:
                    pass
            said = said.replace(b"\r", b"")

    def test_pty(self):
        ferry = self.lab.start("p", kernel=guest("echo"), serial="pty", **SMALL)
        name = ferry.qmp.execute("query-status")["x-ferry-serial"]
        self.assertRegex(name, r"^pty:/dev/pts/\d+$")
        fd = os.open(name[4:], os.O_RDWR | os.O_NOCTTY)
        try:
            os.write(fd, b"\n" * 20)  # what it said before anybody listened is gone, perhaps
            time.sleep(0.5)
            os.write(fd, b"over a pty\n")
            read_until(fd, b"echo: over a pty")
        finally:
            os.close(fd)

    def test_socket_in_use(self):
        ferry = self.boot("u", "echo")
        output = self.ferry("run", "--kernel", guest("idle"), "--control", self.lab.path("c2"),
                            "--serial", f"unix:{ferry.serial_path}", status=1)
        self.assertIn(ferry.serial_path, output)
        output = self.ferry("run", "--kernel", guest("idle"), "--control", ferry.control_path,
                            "--serial", "none", status=1)
        self.assertIn(ferry.control_path, output)
        self.assertEqual(ferry.status(), "running")


def elf64(segments, entry=None, note=True):
    """
    An ELF64 image. segments: (physical address, bytes in the file, size in memory). The entry is
    the first one's address, if none is given.
    """
    entry = segments[0][0] & 0xffffffff if entry is None else entry
    if note:
        text = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", entry)
    else:
        text = struct.pack("<III4sI", 4, 4, 18, b"Abc\0", entry)
    headers, bodies = b"", text
    offset = 64 + 56 * (len(segments) + 1)
    headers += struct.pack("<IIQQQQQQ", PT_NOTE, 4, offset, 0, 0, len(text), len(text), 4)
    at = offset + len(text)
    for address, data, size in segments:
        headers += struct.pack("<IIQQQQQQ", PT_LOAD, 5, at, address, address, len(data), size, 1)
        bodies += data
        at += len(data)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 2, EM_X86_64, 1, entry, 64, 0, 0, 64, 56,
                               len(segments) + 1, 0, 0, 0)
    return head + headers + bodies


class BadImageTest(SystemTest):
    """Images that cannot boot: status 1, a message with the file's name, nothing left behind."""

    def refused(self, data, said, extra=()):
        path = self.lab.path("image")
        if data is not None:
            with open(path, "wb") as file:
                file.write(data)
        output = self.ferry("run", "--kernel", path, "--mem", "64M", "--control",
                            self.lab.path("c"), "--serial", "none", *extra, status=1)
        self.assertIn(path if not extra else extra[-1], output)
        self.assertRegex(output, said)
        self.assertFalse(os.path.exists(self.lab.path("c")))

    def test_missing(self):
        self.refused(None, "No such file or directory")

    def test_no_file(self):
        os.mkdir(self.lab.path("image"))
        self.refused(None, "not a regular file|Is a directory")

    def test_empty(self):
        self.refused(b"", "empty")

    def test_no_image(self):
        self.refused(b"#!/bin/sh\n" * 1000, "(?i)elf|multiboot")
        self.refused(os.urandom(20000), "(?i)elf|multiboot")

    def test_good(self):
        """The builder below makes images that boot: cli; hlt; jmp."""
        path = self.lab.path("image")
        with open(path, "wb") as file:
            file.write(elf64([(0x100000, b"\xfa\xf4\xeb\xfd", 4096)]))
        ferry = self.lab.start("good", kernel=path, **SMALL)
        time.sleep(0.2)
        self.assertEqual(ferry.status(), "running")

    def test_truncated(self):
        with open(guest("writer"), "rb") as file:
            image = file.read()
        for size in (3, 40, 64, 100, 300, len(image) // 2):
            self.refused(image[:size], "(?i)broken|elf|beyond|short|neither")

    def test_no_note(self):
        self.refused(elf64([(0x100000, b"\xf4", 4096)], note=False), "(?i)note|pvh")

    def test_outside_ram(self):
        self.refused(elf64([(0x3fff000, b"\xf4", 8192)]), "does not fit")
        self.refused(elf64([(0xfee00000, b"\xf4", 4096)]), "does not fit")
        self.refused(elf64([(2**64 - 4096, b"\xf4", 8192)]), "does not fit|broken")
        self.refused(elf64([(0x100000, b"\xf4", 2**63)]), "does not fit|broken")

    def test_file_larger_than_memory(self):
        self.refused(elf64([(0x100000, b"\xf4" * 64, 8)]), "broken")

    def test_entry_outside(self):
        self.refused(elf64([(0x100000, b"\xf4", 4096)], entry=0x7000000), "(?i)entry")

    def test_initrd(self):
        with open(guest("idle"), "rb") as file:
            image = file.read()
        self.refused(image, "No such file", ("--initrd", self.lab.path("no-such-initrd")))
        big = self.lab.path("big")
        with open(big, "wb") as file:
            file.truncate(65 << 20)
        self.refused(image, "fit|room|large", ("--initrd", big))


class BadUseTest(SystemTest):
    def test_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            uri = f"tcp:127.0.0.1:{sock.getsockname()[1]}"
            output = self.ferry("run", "--incoming", uri, "--control", self.lab.path("c"),
                                "--serial", "none", status=1)
        self.assertRegex(output, "(?i)in use")
        self.assertIn(str(uri.rpartition(":")[2]), output)

    def test_foreign_address(self):
        output = self.ferry("run", "--incoming", f"tcp:203.0.113.7:{free_port()}", "--control",
                            self.lab.path("c"), "--serial", "none", status=1)
        self.assertIn("203.0.113.7", output)

    def test_absurd_sizes(self):
        for mem in ("0", "1", "12345", "100000T", "99999999999999999999G", "-1M", "x"):
            output = self.ferry("run", "--kernel", guest("idle"), f"--mem={mem}", status=2)
            self.assertIn("mem", output)
        for cpus in ("0", "65", "-1", "two", "4294967297"):
            output = self.ferry("run", "--kernel", guest("idle"), f"--cpus={cpus}", status=2)
            self.assertIn("cpus", output)

    def test_more_memory_than_there_is(self):
        """Either that is refused with a message, or it works as nobody touches all of it."""
        command = [FERRY, "run", "--kernel", guest("crash"), "--cmdline", "how=triple", "--mem",
                   "64G", "--control", self.lab.path("c"), "--serial", "none", "--debug-exit"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        self.assertIn(done.returncode, (1, 3), done.stdout)
        if done.returncode == 1:
            self.assertRegex(done.stdout, "(?i)mem")


if __name__ == "__main__":
    sys.exit(main())
