# SPDX-License-Identifier: Apache-2.0
"""
A scenario file: TOML, read and checked before anything is started.

    title = "..."           what the report is called
    vmms = ["ferry", "qemu"]
    repeats = 3             measured rounds; warmup = 1: rounds before that, not counted
    [vmm.NAME]              a variant: kind = "ferry" or "qemu", and any of the keys in OPTIONS
    [defaults]              keys of KEYS, for all scenarios
    [[scenario]]            name, and keys of KEYS; a list as value makes an axis of the matrix

Whatever is wrong is said with its line: all of it, not only the first.
"""

import re
import tomllib
from dataclasses import dataclass, field

PAGE_BYTES = 4096
ROOM_BYTES = 16 << 20  # of RAM, for the guest's own code and tables
MAX_CELLS = 2000
PEER = "peer"          # the link of all cells where the destinations are on another host


class ScenarioError(Exception):
    """The file is no good; one line of text for each thing that is wrong."""


# ---- values ----

def size_bytes(value):
    match = re.fullmatch(r"(\d{1,12})([KMGT]?)", value) if isinstance(value, str) else None
    if not match:
        raise ValueError('a size is a text like "512M" or "1G"')
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


def link_bits(value):
    """Bits a second of a link; None if nothing limits it."""
    if value in ("loopback", "unlimited", "file", PEER):
        return None
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([kmg])bit", value) if isinstance(value, str) else None
    bits = float(match[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[match[2]] if match else 0
    if bits < 1e6:
        raise ValueError('a link is "loopback", "unlimited" (a veth pair), "file" or a rate from '
                         '1mbit up, like "400mbit"')
    return bits


def _link(value):
    if value == PEER:
        raise ValueError("that is --peer's")
    link_bits(value)


def dirty_rate(value):
    """("x", multiple of the link), ("pages", pages a second) or ("max", 0)."""
    if value == "max":
        return "max", 0
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**8:
        return "pages", value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x", value) if isinstance(value, str) else None
    if not match or float(match[1]) > 1000:
        raise ValueError('a dirty rate is pages a second (1000), a multiple of the link ("0.5x") '
                         'or "max"')
    return "x", float(match[1])


def _one_of(*words):
    def check(value):
        if value not in words:
            raise ValueError("it must be one of " + ", ".join(words))
    return check


def _number(low, high, whole=True):
    def check(value):
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise ValueError(f"it must be a {'whole ' if whole else ''}number from {low} to {high}")
    return check


def _text(value):
    if not isinstance(value, str) or not value.strip() or len(value) > 2000:
        raise ValueError("it must be a text")


def _words(value):
    if not isinstance(value, list) or not value or not all(isinstance(x, str) for x in value):
        raise ValueError("it must be a list of texts")


def _name(value):
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}", value):
        raise ValueError("a name has up to 40 letters, digits and ._+-")


# key -> (check, default). OPTIONS may also be set for one VMM alone.
OPTIONS = {
    "channels": (_number(1, 16), 1),
    "compression": (_one_of("none", "zstd", "zlib"), "none"),
    "throttle": (_one_of("off", "auto"), "off"),
    "dirty_log": (_one_of("bitmap", "ring"), "bitmap"),
    "hints": (_one_of("none", "guest"), "none"),
}
KEYS = {
    "mem": (size_bytes, "512M"),
    "size": (size_bytes, None),  # default: three quarters of mem
    "cpus": (_number(1, 64), 1),
    "writers": (_number(0, 64), 0),  # of the vCPUs; 0: all of them
    "dirty": (dirty_rate, 0),
    "pattern": (_one_of("seq", "uniform", "hot"), "uniform"),
    "fill": (_one_of("random", "text", "zero"), "random"),
    "link": (_link, "loopback"),
    "delay_ms": (_number(0, 2000, whole=False), 0),
    "downtime_limit_ms": (_number(1, 60000), 300),
    "max_s": (_number(1, 3600, whole=False), 60),
    **OPTIONS,
}
TOP = {
    "title": (_text, None),
    "text": (_text, ""),
    "vmms": (_words, ["ferry"]),
    "repeats": (_number(1, 100), 3),
    "warmup": (_number(0, 10), 1),
    "max_min": (_number(1, 10000, whole=False), None),
    "seed": (_number(0, 2**32 - 1), None),
    "control_s": (_number(0, 60, whole=False), 3),
}
VMM = {"kind": (_one_of("ferry", "qemu"), None), "program": (_text, None), **OPTIONS}
BUILTIN = {"ferry": {"kind": "ferry"}, "qemu": {"kind": "qemu"}}


@dataclass
class Scenario:
    """A file that was found good. Settings are complete; a list in `axes` is one to be expanded."""
    title: str
    text: str
    repeats: int
    warmup: int
    max_min: float | None
    seed: int | None
    control_s: float
    vmms: dict = field(default_factory=dict)        # name -> {"kind": ..., options}
    parts: list = field(default_factory=list)       # (name, {key: [values]})


# ---- where things are ----

HEADING = re.compile(r"^\s*\[{1,2}\s*([\w.\"'+-]+)\s*\]{1,2}")
KEY = re.compile(r"^\s*([\w.\"'-]+)\s*=")


def key_lines(text):
    """{(section, key): line number}; a [[scenario]]'s section is "scenario#0" and so on."""
    lines, section, count = {}, "", 0
    for number, line in enumerate(text.splitlines(), 1):
        heading = HEADING.match(line)
        key = KEY.match(line)
        if heading:
            section = heading[1].replace('"', "").replace("'", "")
            if section == "scenario":
                section, count = f"scenario#{count}", count + 1
            lines.setdefault((section, ""), number)
        elif key:
            lines.setdefault((section, key[1].strip("\"'")), number)
    return lines


# ---- checking ----

class _Checker:
    def __init__(self, text, path):
        self.lines, self.path, self.wrong = key_lines(text), path, []

    def say(self, section, key, what):
        line = self.lines.get((section, key)) or self.lines.get((section, ""))
        shown = re.sub(r"^scenario#(\d+)$", lambda m: f"[[scenario]] {int(m[1]) + 1}", section)
        shown = f"[{shown}]" if shown and not shown.startswith("[") else shown
        where = " ".join(x for x in (shown, key) if x)
        self.wrong.append(f"{self.path}:{line or 1}: {where + ': ' if where else ''}{what}")

    def table(self, section, table, known, lists=()):
        """Values that are there and good. Keys in `lists` may be lists of them."""
        good = {}
        for key, value in table.items():
            if key not in known:
                self.say(section, key, "there is no such key; known: " + ", ".join(sorted(known)))
                continue
            values = value if key in lists and isinstance(value, list) else [value]
            try:
                if not values:
                    raise ValueError("the list is empty")
                for one in values:
                    known[key][0](one)
                if len({repr(x) for x in values}) < len(values):
                    raise ValueError("the list has a value twice")
                good[key] = values if key in lists else value
            except ValueError as error:
                self.say(section, key, f"{value!r} is no good: {error}")
        return good

    def own_link(self, data):
        """Take the keys of the link out, and say that they are not to be there."""
        tables = data.get("scenario")
        tables = list(enumerate(tables if isinstance(tables, list) else []))
        for section, table in [("defaults", data.get("defaults")),
                               *((f"scenario#{i}", t) for i, t in tables)]:
            for key in ("link", "delay_ms"):
                if isinstance(table, dict) and key in table:
                    del table[key]
                    self.say(section, key, "with --peer the link is the network between the two "
                                           "hosts: leave the key out")

    def is_table(self, section, value):
        if isinstance(value, dict):
            return True
        self.say(section, "", "it must be a table")
        return False


def impossible(settings):
    """(key, why) of a combination that cannot be, or None. Settings have one value each."""
    mem = size_bytes(settings["mem"])
    size = region_bytes(settings)
    if size < PAGE_BYTES * settings["cpus"] or size + ROOM_BYTES > mem:
        return "size", (f"a guest with {settings['mem']} of RAM cannot write "
                        f"{settings['size'] or 'three quarters'} of it: {ROOM_BYTES >> 20} MiB are "
                        "its own")
    if dirty_rate(settings["dirty"])[0] == "x" and link_bits(settings["link"]) is None:
        return "dirty", (f"{settings['dirty']} is a multiple of the link, and \"{settings['link']}\" "
                         "has no rate: say pages a second")
    if settings["delay_ms"] and settings["link"] in ("loopback", "file"):
        return "delay_ms", (f"only a veth pair can be given a delay: \"{settings['link']}\" is none "
                            '(say "unlimited" or a rate)')
    for key, why in (("throttle", "a guest that is saved to a file is not slowed down"),
                     ("compression", "a file in which each page has its place is not compressed")):
        if settings["link"] == "file" and settings[key] != OPTIONS[key][1]:
            return key, why
    if settings["writers"] > settings["cpus"]:
        return "writers", f"of {settings['cpus']} vCPUs {settings['writers']} cannot write"
    if settings["hints"] == "guest":
        if settings["cpus"] != 1:
            return "hints", "the guest that hints has one vCPU: cpus = 1"
        if settings["pattern"] != "uniform" or settings["fill"] != "random":
            return "hints", ('the guest that hints has fill = "random" and pattern = "uniform" '
                             "only")
    return None


def region_bytes(settings):
    """How much of its RAM the guest fills, and writes."""
    if settings["size"] is not None:
        return size_bytes(settings["size"])
    return size_bytes(settings["mem"]) * 3 // 4 // PAGE_BYTES * PAGE_BYTES


def pages_per_s(settings):
    """The rate that the guest is given: None for not writing, 0 for flat out."""
    kind, value = dirty_rate(settings["dirty"])
    if kind == "max":
        return 0
    if kind == "x":
        value = round(value * link_bits(settings["link"]) / 8 / PAGE_BYTES)
    return value or None


def combinations(part):
    """Every choice of one value for each key, the last key fastest."""
    chosen = [{}]
    for key, values in part.items():
        chosen = [{**old, key: value} for old in chosen for value in values]
    return chosen


def _vmms(check, data, names):
    found = {}
    own = data.get("vmm", {})
    if not check.is_table("vmm", own):
        own = {}
    variants = dict(BUILTIN)
    for name, table in own.items():
        section = f"vmm.{name}"
        try:
            _name(name)
        except ValueError as error:
            check.say(section, "", str(error))
        if check.is_table(section, table):
            good = check.table(section, table, VMM)
            good = {**BUILTIN.get(name, {}), **good}
            if "kind" not in good and "kind" not in table:
                check.say(section, "kind", 'it must be said: "ferry" or "qemu"')
            variants[name] = good
    for name in names:
        if name in found:
            check.say("", "vmms", f"{name} is there twice")
        elif name not in variants:
            check.say("", "vmms", f"there is no {name}: known are {', '.join(variants)}")
        else:
            found[name] = variants[name]
    return found


def _parts(check, data, link):
    parts, seen, cells = [], set(), 0
    defaults = data.get("defaults", {})
    defaults = (check.table("defaults", defaults, KEYS, KEYS)
                if check.is_table("defaults", defaults) else {})
    tables = data.get("scenario", [])
    if not isinstance(tables, list) or not tables:
        check.say("", "scenario", "there must be at least one [[scenario]]")
        return parts
    for number, table in enumerate(tables):
        section = f"scenario#{number}"
        if not check.is_table(section, table):
            continue
        table = dict(table)
        name = table.pop("name", None)
        try:
            _name(name)
        except ValueError as error:
            check.say(section, "name", str(error))
        if name in seen:
            check.say(section, "name", f"there is another scenario {name}")
        seen.add(name)
        good = check.table(section, table, KEYS, KEYS)
        part = {**{k: [v[1]] for k, v in KEYS.items()}, "link": [link], **defaults, **good}
        part = {**{k: v for k, v in part.items() if len(v) == 1},
                **{k: v for k, v in part.items() if len(v) > 1}}
        count = 1
        for values in part.values():
            count *= len(values)
        cells += count
        if cells > MAX_CELLS:
            check.say(section, "", f"more than {MAX_CELLS} combinations")
            break
        for settings in combinations(part):
            bad = impossible(settings)
            if bad:
                check.say(section, bad[0], bad[1])
                break
        parts.append((name, part))
    return parts


def parse(text, path="scenario", peer=False):
    """A Scenario; ScenarioError if anything is wrong with the file. peer: as for another host."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise ScenarioError(f"{path}:{line[1] if line else 1}: no TOML: {error}") from error
    check = _Checker(text, path)
    if peer:
        check.own_link(data)
    head = {k: v for k, v in data.items() if k not in ("vmm", "defaults", "scenario")}
    top = {**{k: v[1] for k, v in TOP.items()}, **check.table("", head, TOP)}
    if top["title"] is None and "title" not in data:
        check.say("", "title", "it must be said")
    vmms = _vmms(check, data, top.pop("vmms"))
    parts = _parts(check, data, PEER if peer else KEYS["link"][1])
    if check.wrong:
        raise ScenarioError("\n".join(check.wrong))
    return Scenario(**top, vmms=vmms, parts=parts)


def load(path, peer=False):
    try:
        with open(path, encoding="utf-8") as file:
            return parse(file.read(), path, peer)
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
