# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy between source and destination that knows the stream's frames and does it harm."""

import socket
import struct
import threading
import time

HEADER_BYTES, MAGIC = 28, 0x79727246
(HELLO, WELCOME, PAGES, PASS, SECTION, END, READY, COMMIT, RUNNING, FAIL, ABORT, PASSED, REHEARSE,
 REHEARSED, AGAIN) = range(1, 16)
CONNECTIONS_MAX = 100
SLOW_BUFFER = 65536

FORWARD = None
CUT = "cut"      # both connections end, the frame with them
DROP = "drop"    # the frame vanishes, the connections stay


class Cut(Exception):
    """The connection ends here."""


class Proxy:
    """
    Listens at `uri` and connects each client to a port of this host.

    on_frame(to_destination, type) is asked about every frame: FORWARD, CUT or DROP; it may also
    wait. on_bytes(offset, data) may change what goes to the destination, offset bytes after the
    connection's begin; after a shorter piece the connection ends. Both run in the proxy's threads.
    With bytes_s the way to the destination carries so many bytes a second, and holds next to none.
    close() ends them.
    """

    def __init__(self, port, on_frame=None, on_bytes=None, bytes_s=0):
        self._port, self._bytes_s, self._free_at = port, bytes_s, 0
        self.on_frame = on_frame or (lambda to_destination, kind: FORWARD)
        self.on_bytes = on_bytes or (lambda offset, data: data)
        self.frames = []  # (to_destination, type) of all frames that came
        self._listener = socket.create_server(("127.0.0.1", 0))
        if bytes_s:  # what is accepted has it from there
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        self.uri = f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets, self._threads, self._closing = [], [], False
        self._spawn(self._accept)

    def _spawn(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self):
        self._closing = True
        for sock in [self._listener, *self._sockets]:
            shut(sock)
        for thread in self._threads:
            thread.join(10)
        for sock in [self._listener, *self._sockets]:
            sock.close()

    def _accept(self):
        for _ in range(CONNECTIONS_MAX):
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            self._sockets.append(client)
            try:
                server = socket.create_connection(("127.0.0.1", self._port), 10)
            except OSError:
                shut(client)
                continue
            server.settimeout(None)
            if self._bytes_s:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SLOW_BUFFER)
            self._sockets.append(server)
            self._spawn(self._pump, client, server, True)
            self._spawn(self._pump, server, client, False)
            if self._closing:
                shut(client)
                shut(server)

    def _pump(self, source, sink, to_destination):
        offset = 0
        try:
            while True:
                header = receive(source, HEADER_BYTES)
                magic, kind, _, _, meta, data = struct.unpack_from("<IHHIII", header)
                if magic != MAGIC:
                    raise Cut
                self.frames.append((to_destination, kind))
                body = receive(source, meta + data)
                action = self.on_frame(to_destination, kind)
                if action == CUT:
                    raise Cut
                if action == DROP:
                    continue
                frame = header + body
                if to_destination:
                    frame = self.on_bytes(offset, frame)
                    self._take_time(len(frame))
                sink.sendall(frame)
                if len(frame) < len(header) + len(body):
                    raise Cut
                offset += len(frame)
        except (Cut, OSError):
            shut(source)
            shut(sink)


    def _take_time(self, size):
        """The time that so many bytes take; what is late by little is made up for."""
        if self._bytes_s:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.1) + size / self._bytes_s
            time.sleep(max(self._free_at - now, 0))


class CutAt:
    """For on_bytes: the stream ends after so many bytes."""

    def __init__(self, at):
        self.at, self.done = at, False

    def __call__(self, offset, data):
        if offset + len(data) <= self.at:
            return data
        self.done = True
        return data[:max(self.at - offset, 0)]


class FlipAt:
    """For on_bytes: one bit is wrong, once."""

    def __init__(self, at, bit):
        self.at, self.bit, self.done = at, bit, False

    def __call__(self, offset, data):
        if self.done or not offset <= self.at < offset + len(data):
            return data
        self.done = True
        data = bytearray(data)
        data[self.at - offset] ^= 1 << self.bit
        return bytes(data)


def receive(sock, size):
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(size - len(data), 1 << 18))
        if not piece:
            raise Cut
        data += piece
    return bytes(data)


def shut(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
