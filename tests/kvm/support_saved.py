# SPDX-License-Identifier: Apache-2.0
"""
A reader of saved guests, written from docs/saved-file.md alone: it shares nothing with ferry's own.

Devices are read by the description at the end of the file, as any reader of this container would,
so a description that does not fit what stands in the sections is found.
"""

import ctypes
import json
import struct

EOF, START, PART, END, FULL, SUBSECTION, DESCRIPTION, CONFIGURATION = range(8)
FOOTER = 0x7e
MEM_SIZE, EOS, FLUSH = 0x04, 0x10, 0x200
INTEGERS = {f"{sign}int{8 * size}": (size, sign == "") for sign in ("", "u")
            for size in (1, 2, 4, 8)}
EXTENT_PAGES = 256

_xxh = None


def xxh3(data, seed=0):
    """XXH3, 64 bits."""
    global _xxh
    if _xxh is None:
        _xxh = ctypes.CDLL("libxxhash.so.0").XXH3_64bits_withSeed
        _xxh.restype = ctypes.c_uint64
        _xxh.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
    return _xxh(data, len(data), seed)


class Bad(Exception):
    """The file is not in order."""


def check(condition, text):
    if not condition:
        raise Bad(text)


class Block:
    """A block of RAM: where it is, and its pages."""

    def __init__(self, name, size):
        self.name, self.size = name, size
        self.page_size = self.bitmap_offset = self.pages_offset = 0
        self.start = self.header_end = 0
        self.bitmap = b""

    def present(self, page):
        return self.bitmap[page // 8] >> page % 8 & 1


class Saved:
    """A saved guest's file. Everything but the pages is read at once."""

    def __init__(self, path):
        self.file = open(path, "rb")
        self.blocks, self.sections, self.names = [], {}, []
        self.borders = [0, 4, 8]  # where something begins
        try:
            self._read()
        except struct.error as error:
            raise Bad(f"cut off: {error}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    # ---- integers and strings ----

    def _bytes(self, n):
        data = self.file.read(n)
        check(len(data) == n, f"the file ends at {self.file.tell()}")
        return data

    def _int(self, n):
        return int.from_bytes(self._bytes(n), "big")

    def _text(self):
        return self._bytes(self._int(1)).decode()

    # ---- the container ----

    def _find_description(self):
        self.file.seek(0, 2)
        self.size = self.file.tell()
        self.file.seek(max(0, self.size - 10 * 1024 * 1024))
        base = self.file.tell()
        data = self.file.read()
        at = data.find(b"{", data.rfind(b"\0"))
        check(at >= 5, "there is no description")
        check(data[at - 5] == DESCRIPTION, "what looks like a description is none")
        length = int.from_bytes(data[at - 4:at], "big")
        check(base + at + length == self.size, "the description does not end with the file")
        self.description_at = base + at - 5
        return json.loads(data[at:at + length].decode())

    def _read(self):
        self.file.seek(0)
        check(self._int(4) == 0x5145564d, "magic")
        check(self._int(4) == 3, "version")
        self.description = self._find_description()
        check(self.description["page_size"] == 4096, "page size")
        devices = {(d["name"], d["instance_id"]): d for d in self.description["devices"]}
        check(len(devices) == len(self.description["devices"]), "a device is there twice")
        self.file.seek(8)
        started = {}
        while True:
            self.borders.append(self.file.tell())
            kind = self._int(1)
            if kind == EOF:
                check(self.file.tell() == self.description_at, "something after the end")
                break
            if kind == CONFIGURATION:
                self._configuration()
                continue
            number = self._int(4)
            if kind in (START, FULL):
                key = (self._text(), self._int(4))
                version = self._int(4)
                started[number] = key
                if key == ("ram", 0):
                    check(version == 4, "RAM version")
                    self._ram()
                else:
                    device = devices[key]
                    check(device["version"] == version, f"version of {key}")
                    self.sections[key] = self._fields(device)
                    self.names.append(key)
            elif kind in (PART, END):
                check(started[number] == ("ram", 0), "only RAM comes in parts")
                self._ram()
            elif kind == FOOTER:
                check(number in started, "a footer without its section")
            else:
                raise Bad(f"section type {kind} at {self.file.tell() - 1}")
        check(set(self.sections) == set(devices), "devices described and devices there differ")

    def _configuration(self):
        data = self._fields(self.description["configuration"])
        self.machine = data["name"].decode()
        capabilities = data["configuration/capabilities"]
        self.capabilities = [capabilities["capabilities"]]
        check(capabilities["caps_count"] == len(self.capabilities), "number of capabilities")

    def _ram(self):
        while True:
            word = self._int(8)
            flags, address = word & 0xfff, word & ~0xfff
            if flags & MEM_SIZE:
                self._blocks(address)
                flags &= ~MEM_SIZE
            flags &= ~FLUSH
            if flags & EOS:
                return
            check(not flags, f"RAM flags {flags:#x}")

    def _blocks(self, left):
        while left > 0:
            start = self.file.tell() if self.blocks else 0
            block = Block(self._text(), self._int(8))
            block.start = start
            left -= block.size
            check(self._int(4) == 1, "map version")
            block.page_size, block.bitmap_offset, block.pages_offset = (
                self._int(8), self._int(8), self._int(8))
            block.header_end = self.file.tell()
            check(block.page_size == 4096, "page size")
            check(block.pages_offset % (1 << 20) == 0, "alignment")
            pages = block.size // block.page_size
            self.file.seek(block.bitmap_offset)
            block.bitmap = self._bytes((pages + 63) // 64 * 8)
            self.blocks.append(block)
            self.borders += [block.header_end, self.file.tell(), block.pages_offset]
            self.file.seek(block.pages_offset + block.size)
            self.borders.append(self.file.tell())

    # ---- devices ----

    def _fields(self, described):
        data = {}
        for field in described["fields"]:
            for _ in range(field.get("array_len", 1)):
                value = self._field(field)
                if "array_len" in field or "index" in field:
                    values = data.setdefault(field["name"], [])
                    check(field.get("index", len(values)) == len(values), "index of an array")
                    values.append(value)
                else:
                    check(field["name"] not in data, f"{field['name']} is there twice")
                    data[field["name"]] = value
        for sub in described.get("subsections", ()):
            check(self._int(1) == SUBSECTION, "a subsection is missing")
            name = self._text()
            check(name == sub["vmsd_name"] and self._int(4) == sub["version"], "subsection")
            data[name] = self._fields(sub)
        return data

    def _field(self, field):
        kind, size, at = field["type"], field["size"], self.file.tell()
        if kind == "struct":
            value = self._fields(field["struct"])
        elif kind == "capability":
            value = self._text()
        elif kind in INTEGERS:
            check(INTEGERS[kind][0] == size, f"size of {field['name']}")
            value = int.from_bytes(self._bytes(size), "big", signed=INTEGERS[kind][1])
        else:
            check(kind == "buffer", f"type {kind}")
            value = self._bytes(size)
        check(self.file.tell() == at + size, f"{field['name']}: size")
        return value

    # ---- RAM ----

    def page(self, block, page):
        if not block.present(page):
            return bytes(block.page_size)
        self.file.seek(block.pages_offset + page * block.page_size)
        return self._bytes(block.page_size)

    def ram(self, block):
        """All of a block's RAM."""
        return b"".join(self.page(block, page) for page in range(block.size // block.page_size))

    def check_sums(self):
        """Are all checksums right, and is there nothing between what they cover?"""
        ends, state = [0], b""
        for block in self.blocks:
            self.file.seek(block.start)
            state += self._bytes(block.pages_offset - block.start)
            ends.append(block.pages_offset + block.size)
        self.file.seek(ends[-1])
        tail = self.file.read()
        check(xxh3(state + tail[:-18]) == int(tail[-18:-2], 16), "checksum of the state")
        check(f"{self.description['checksum']}\"}}".encode() == tail[-18:], "place of the checksum")
        sums = self.sections["sums", 0]
        check(sums["extent_pages"] == EXTENT_PAGES, "extents")
        numbers = struct.unpack(f">{sums['n_sums']}Q", sums["sums"])
        for block in self.blocks:
            pages = block.size // block.page_size
            for first in range(0, pages, EXTENT_PAGES):
                total = sum(xxh3(self.page(block, page), page)
                            for page in range(first, min(first + EXTENT_PAGES, pages))
                            if block.present(page))
                check(total % (1 << 64) == numbers[0], f"checksum of {block.name}, {first}")
                numbers = numbers[1:]
        check(not numbers, "checksums of more than there is")
