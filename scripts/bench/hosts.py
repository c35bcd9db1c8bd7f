# SPDX-License-Identifier: Apache-2.0
"""The two ends of a migration, and what lies between them."""

import functools
import os
import re

import ferrylab
from ferrylab import LabError, Namespaces

from . import scenario as sc

NAME = "ferry-bench"
PORT = 4444  # in namespaces, which are new: every port is free


class Link(Namespaces):
    """Two namespaces and a veth pair; `rate` limits each direction, None does not."""

    device = "veth0"

    def __init__(self, rate, delay_ms=0):
        super().__init__(f"{NAME}-{os.getpid()}")
        self.rate, self.delay_ms = rate, delay_ms

    def __enter__(self):
        self.up(self.rate, self.delay_ms)
        return self

    def __exit__(self, *_):
        self.down()

    def uri(self, _lab):
        return f"tcp:{self.ADDRESSES['B']}:{PORT}"


class OwnLoopback(Link):
    """Loopback in a namespace of its own, so that nobody else's bytes are counted."""

    device = "lo"
    ADDRESSES = {"A": "127.0.0.1", "B": "127.0.0.1"}

    def __init__(self):
        super().__init__(None)

    def namespace(self, host):
        return super().namespace("A")

    def up(self, _rate=None, _delay_ms=0):
        self._run("ip", "netns", "add", self.namespace("A"))
        try:
            self._run("ip", "-n", self.namespace("A"), "link", "set", "lo", "up")
        except BaseException:
            self.down()
            raise


class Loopback:
    """This host's loopback, which others use, too: its bytes are not counted."""

    device = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def prefix(self, _host):
        return []

    def uri(self, _lab):
        return f"tcp:127.0.0.1:{ferrylab.free_port()}"


class File(Loopback):
    """No link: the guest is saved to a file, and brought back from it."""

    def uri(self, lab):
        return f"file:{lab.path('guest')}"


def make(settings):
    """What the keys `link` and `delay_ms` ask for; to be used in a `with`."""
    link = settings["link"]
    root = os.geteuid() == 0
    if link == "file":
        return File()
    if link == sc.PEER:
        return Loopback()  # neither namespaces nor devices: what is between is the hosts' own
    if link == "loopback":
        return OwnLoopback() if root else Loopback()
    # tbf counts in its own words for units, which these are.
    return Link(None if sc.link_bits(link) is None else link, settings["delay_ms"])


def problem(settings):
    """Why such a link cannot be made here, or None."""
    if settings["link"] in ("loopback", "file", sc.PEER):
        return None
    if os.geteuid() != 0:
        return "network namespaces need root: call ferry bench as root, or use link = \"loopback\""
    return delay_problem() if settings["delay_ms"] else None


@functools.cache
def delay_problem():
    """Why links cannot be given a delay here, or None. Asked of the kernel, once."""
    name = f"{NAME}-{os.getpid()}-a"
    try:
        Namespaces._run("ip", "netns", "add", name)
        try:
            Namespaces._run("tc", "-n", name, "qdisc", "add", "dev", "lo", *Link.queues(None, 1)[0])
        finally:
            Namespaces._run("ip", "netns", "delete", name)
    except LabError as error:
        return f"a delay takes netem, which this kernel does not have ({error})"
    return None


def remove_stale():
    """Namespaces of runs that were killed before they could remove them."""
    try:
        names = os.listdir("/run/netns")
    except OSError:
        return
    for name in names:
        match = re.fullmatch(NAME + r"-(\d+)-[ab]", name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            try:
                Namespaces._run("ip", "netns", "delete", name)
            except LabError:
                pass  # not ours to remove, or somebody else has done so


def device_bytes(pid, device):
    """(received, sent) by a network device in the namespace of a process, link headers included."""
    with open(f"/proc/{pid}/net/dev", encoding="ascii") as table:
        for line in table:
            name, _, figures = line.partition(":")
            if name.strip() == device:
                figures = figures.split()
                return int(figures[0]), int(figures[8])
    raise LabError(f"process {pid} has no network device {device}")
