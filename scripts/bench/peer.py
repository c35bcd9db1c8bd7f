# SPDX-License-Identifier: Apache-2.0
"""
What `ferry bench --peer` and `--serve` say to each other: a line of JSON each way, over TCP.

    S: {"ferry-bench": 1, "nonce": HEX, "token": whether one is needed}
    C: {"verb": "hello", "nonce": HEX, "proof": HMAC(token, "client", S's nonce)}
    S: {"return": {"proof": HMAC(token, "server", C's nonce), "machine": {...}}}
    C: {"verb": ..., ...}     any of serve.Session.VERBS
    S: {"return": {...}} or {"error": TEXT}

Either side bounds what it reads and how long it waits, and believes nothing: the server checks
settings as those of a file, the client every figure. One thread uses a connection.
"""

import hashlib
import hmac
import ipaddress
import json
import math
import os
import re
import secrets
import socket
import stat
import time

from ferrylab import LabError

FORMAT = 1
TOKEN_MIN = 16
NONCE_BYTES = 16
REQUEST_BYTES = 16 << 10
ANSWER_BYTES = 1 << 20
SEND_S = 10
HELLO_S = 10
BUSY_S = 15         # another client may be about to end
BUSY = "another client is served"
# A host that is switched off says no goodbye.
ALIVE = ((socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1), (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP, 5),
         (socket.TCP_KEEPINTVL, socket.IPPROTO_TCP, 5), (socket.TCP_KEEPCNT, socket.IPPROTO_TCP, 3))


class PeerBusy(LabError):
    """Somebody else is served."""


# ---- addresses and tokens ----

def address(text):
    """(host, port) of HOST:PORT or [HOST]:PORT; ValueError."""
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\s]+)):(\d{1,5})", text)
    if not match or not 1 <= int(match[3]) <= 65535:
        raise ValueError(f"'{text}' is no HOST:PORT")
    return match[1] or match[2], int(match[3])


def is_loopback(host):
    """Of a numeric address."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def read_token(path):
    """The token, b"" if there is none; ValueError if it is no good."""
    if path:
        try:
            with open(path, "rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise ValueError(f"{path} can be read by others: chmod 600 {path}")
                token = file.read(4097).strip()
        except OSError as error:
            raise ValueError(f"cannot read the token: {path}: {error.strerror}") from error
    else:
        token = os.environb.get(b"FERRY_BENCH_TOKEN", b"").strip()
    if (path or token) and not TOKEN_MIN <= len(token) <= 4096:
        raise ValueError(f"a token has {TOKEN_MIN} to 4096 characters, this one {len(token)}")
    return token


def proof(token, who, nonce):
    return hmac.new(token, f"ferry-bench {who} {nonce}".encode(), hashlib.sha256).hexdigest()


def is_proof(shown, right):
    """Whether a text of the peer's is this proof."""
    return hmac.compare_digest(shown.encode(errors="replace"), right.encode())


def nonce():
    return secrets.token_hex(NONCE_BYTES)


def is_nonce(value):
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{2 * NONCE_BYTES}}}", value)


# ---- lines ----

class Connection:
    """JSON objects, one a line. LabError for whatever goes wrong."""

    def __init__(self, sock, who, most):
        self.sock, self.who, self.most, self._buffer = sock, who, most, b""
        for option, level, value in ALIVE:
            sock.setsockopt(level, option, value)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        self.sock.close()

    def send(self, what):
        try:
            self.sock.settimeout(SEND_S)
            self.sock.sendall(json.dumps(what, allow_nan=False).encode() + b"\n")
        except (OSError, ValueError) as error:
            raise LabError(f"cannot write to {self.who}: {error}") from error

    def receive(self, timeout):
        """The next object; None if the other side has closed."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if len(self._buffer) > self.most:
                raise LabError(f"{self.who} sent a line of more than {self.most} bytes")
            left = deadline - time.monotonic()
            try:
                if left <= 0:  # whatever still comes, drop by drop
                    raise socket.timeout
                self.sock.settimeout(left)
                data = self.sock.recv(65536)
            except socket.timeout:
                raise LabError(f"no word from {self.who} within {timeout:.0f} s") from None
            except OSError as error:
                raise LabError(f"the connection to {self.who} is lost: {error.strerror}") from error
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            what = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LabError(f"{self.who} sent no JSON: {line[:60]!r}") from error
        if not isinstance(what, dict):
            raise LabError(f"{self.who} sent no JSON object: {line[:60]!r}")
        return what


# ---- what the client believes ----

def a_number(answer, key, low=0.0, high=1e15):
    """A number of an answer, or None where there is none; LabError for anything else."""
    value = answer.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise LabError(f"the peer's '{key}' makes no sense: {printable(str(value)[:60])}")
    return value


def a_count(answer, key, low=0, high=10**15):
    """The same, whole; LabError where there is none, too."""
    value = a_number(answer, key, low, high)
    if value is None:
        raise LabError(f"the peer says no '{key}'")
    return int(value)


def printable(text):
    """For terminals and files, on one line."""
    return "".join(c if c.isprintable() else " " for c in text)


def a_text(answer, key, most=400):
    value = answer.get(key)
    if not isinstance(value, str) or len(value) > most:
        raise LabError(f"the peer's '{key}' is no text")
    return printable(value)


def some_numbers(answer, key, most=64):
    """A list of counts."""
    values = answer.get(key)
    if not isinstance(values, list) or len(values) > most:
        raise LabError(f"the peer's '{key}' is no list")
    return [a_count({key: v}, key) for v in values]


def some_named(answer, key, check, most=200):
    """A table of names and values, each as `check` wants it."""
    table = answer.get(key)
    if not isinstance(table, dict) or len(table) > most or \
            any(len(name) > 60 or not name.isprintable() for name in table):
        raise LabError(f"the peer's '{key}' is no table")
    return {name: check(table, name) for name in table}


# ---- the client ----

class Peer:
    """
    The serving side as the matrix sees it. Connects when it is first asked, and again after a
    connection was closed; closing it ends what it was asked to start.
    """

    def __init__(self, where, token):
        self.host, self.port = where
        self.who = f"the peer {self.host}:{self.port}"
        self.token, self._connection = token, None
        self.machine = {}

    def close(self):
        if self._connection:
            self._connection.close()
        self._connection = None

    def connect(self):
        """Greet it, unless that was done; while another is served, for some seconds again."""
        deadline = time.monotonic() + BUSY_S
        while not self._connection:
            try:
                self._greet()
            except PeerBusy:
                self.close()
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
            except LabError:
                self.close()
                raise

    def _greet(self):
        try:
            sock = socket.create_connection((self.host, self.port), HELLO_S)
        except OSError as error:
            raise LabError(f"cannot connect to {self.who}: {error.strerror or error}") from error
        self._connection = Connection(sock, self.who, ANSWER_BYTES)
        first = self._answer(self._connection.receive(HELLO_S))
        if first.get("ferry-bench") != FORMAT or not is_nonce(first.get("nonce")):
            raise LabError(f"{self.who} is no 'ferry bench --serve' of this version")
        if first.get("token") and not self.token:
            raise LabError(f"{self.who} wants a token: --token-file or FERRY_BENCH_TOKEN")
        mine = nonce()
        answer = self.call("hello", HELLO_S, nonce=mine,
                           proof=proof(self.token, "client", first["nonce"]))
        if not is_proof(a_text(answer, "proof"), proof(self.token, "server", mine)):
            raise LabError(f"{self.who} does not know the token")
        self.machine = some_named(answer, "machine", a_text)

    def _answer(self, answer):
        if answer is None:
            raise LabError(f"{self.who} closed the connection")
        if "error" in answer:
            text = a_text(answer, "error", 4000)
            raise (PeerBusy if text == BUSY else LabError)(f"{self.who}: {text}")
        return answer

    def call(self, verb, timeout, **more):
        """What a verb returns. After an error of the connection itself it is closed."""
        if not self._connection:
            raise LabError(f"{self.who} is not connected")
        try:
            self._connection.send({"verb": verb, **more})
            answer = self._connection.receive(timeout)
        except BaseException:
            self.close()  # an answer that still comes must not be taken for the next one's
            raise
        if answer is None:
            self.close()
        found = self._answer(answer).get("return")
        if not isinstance(found, dict):
            raise LabError(f"{self.who} answered '{verb}' with no object")
        return found

    def round_trip_ms(self, times=10):
        """The shortest of some: what any figure that is taken through the peer may be off by."""
        self.connect()
        best = math.inf
        for _ in range(times):
            begin = time.monotonic()
            self.call("echo", HELLO_S)
            best = min(best, time.monotonic() - begin)
        return best * 1e3
