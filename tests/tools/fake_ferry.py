#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stands in for ferry where only what drives it is tested.

Speaks QMP and the writer guest's serial protocol well enough for the demonstration, and migrates
nothing. FAKE_FERRY in the environment makes it go wrong: "damage" (the guest finds its memory
damaged), "refuse" (the migration fails), "die" (the source ends while it migrates), "silent" (the
control socket never answers).
"""

import json
import os
import socket
import sys
import threading
import time

MODE = os.environ.get("FAKE_FERRY", "")
VERDICT = "FAILED page=7" if MODE == "damage" else "ok pages=98304"
ANSWERS = {
    b"r": "writer: blackout reset t_us=1\n",
    b"b": "writer: blackout cpu=0 max_us=4200 gaps=1 io_us=3\n"
          "writer: blackout cpu=1 max_us=5300 gaps=1 io_us=0\nwriter: blackout end\n",
    b"v": f"writer: verify {VERDICT} writes=5 t_us=8\n",
    b"q": f"writer: verify {VERDICT}\nwriter: done {'FAILED' if MODE == 'damage' else 'ok'}\n",
}
INFO = {"status": "completed", "total-time": 1234, "downtime": 5,
        "ram": {"transferred": 1 << 29, "normal": 100000, "duplicate": 20000,
                "dirty-sync-count": 4}}


def option(name):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


def serve(path, client):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def accept():
        while True:
            threading.Thread(target=client, args=(listener.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()


class Fake:
    def __init__(self):
        self.status = "inmigrate" if option("--incoming") else "running"

    def command(self, name, arguments):
        if name == "query-status":
            return {"status": self.status, "running": self.status == "running"}
        if name == "query-migrate":
            return INFO
        if name == "migrate":
            if MODE == "die":
                print("the fake ferry dies", flush=True)
                os._exit(9)
            host, port = arguments["uri"].split(":")[1:]
            socket.create_connection((host, int(port)), 5).close()
            self.status = "postmigrate"
        if name == "quit":
            os._exit(0)
        return {}

    def control(self, client):
        file = client.makefile("rw")
        if MODE == "silent":
            time.sleep(60)
        print(json.dumps({"QMP": {}}), file=file, flush=True)
        for line in file:
            request = json.loads(line)
            answer = self.command(request["execute"], request.get("arguments", {}))
            print(json.dumps({"event": "NOISE", "data": {}}), file=file)
            print(json.dumps({"return": answer, "id": request.get("id")}), file=file, flush=True)

    def serial(self, client):
        client.sendall(b"writer: start\nwriter: ready cpus=2 pages=98304\n")
        while True:
            byte = client.recv(1)
            if not byte:
                return
            client.sendall(ANSWERS.get(byte, "writer: error\n").encode())
            if byte == b"q":
                client.shutdown(socket.SHUT_RDWR)
                time.sleep(0.1)
                os._exit(1)

    def run(self):
        serve(option("--control"), self.control)
        serve(option("--serial").removeprefix("unix:"), self.serial)
        if option("--incoming"):
            host, port = option("--incoming").split(":")[1:]
            socket.create_server((host, int(port))).accept()
            self.status = "running"
        time.sleep(60)


def migrate(control, uri):
    if MODE == "refuse":
        print("cannot migrate: connection refused", file=sys.stderr)
        return 1
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(control)
        file = sock.makefile("rw")
        file.readline()
        for name in ("qmp_capabilities", "migrate"):
            print(json.dumps({"execute": name, "arguments": {"uri": uri}}), file=file, flush=True)
            line = file.readline()
            while "return" not in line:
                if not line:
                    print("the control socket was closed", file=sys.stderr)
                    return 1
                line = file.readline()
    return 0


if __name__ == "__main__":
    sys.exit(migrate(*sys.argv[2:4]) if sys.argv[1] == "migrate" else Fake().run())
