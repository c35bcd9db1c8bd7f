#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The documentation names what there is, and nothing else: options, QMP, make's targets, links."""

import glob
import os
import re
import subprocess
import sys
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
from tally import main  # noqa: E402 (the path comes first)
FERRY = os.environ.get("FERRY") or os.path.join(ROOT, "build", "ferry")


def read(*names):
    with open(os.path.join(ROOT, *names), encoding="utf-8") as file:
        return file.read()


class QmpTest(unittest.TestCase):
    """docs/qmp.md beside the tables of vmm/ctl."""

    def setUp(self):
        self.page = read("docs", "qmp.md")
        self.named = {word for text in re.findall(r"`([^`]+)`", self.page)
                      for word in re.findall(r"[\w-]+", text)}

    def sources(self):
        return "".join(read(path) for path in glob.glob(os.path.join(ROOT, "vmm", "**", "*.[ch]"),
                                                        recursive=True))

    def test_commands_and_arguments(self):
        table = read("vmm", "ctl", "commands.c")
        names = re.findall(r'\.name = "([\w-]+)"', table)
        names += re.findall(r'\{"([\w-]+)", QMP_', table)
        self.assertGreater(len(names), 40)
        self.assertEqual([], sorted(set(names) - self.named))

    def test_parameters_and_capabilities(self):
        names = re.findall(r'\{"([\w-]+)", offsetof', read("vmm", "ctl", "migrate_info.c"))
        self.assertGreater(len(names), 10)
        self.assertEqual([], sorted(set(names) - self.named))

    def test_own_members(self):
        there = set(re.findall(r'"(x-[a-z-]+)"', self.sources()))
        there -= {"x-colo", "x-ignore-shared"}  # capabilities of QEMU that are not there
        self.assertGreater(len(there), 30)
        self.assertEqual([], sorted(there - self.named))
        self.assertEqual([], sorted({n for n in self.named if re.match("x-ferry-[a-z]", n)} - there))


class ManualTest(unittest.TestCase):
    """docs/ferry.1 beside what the commands say of themselves."""

    def options(self, command):
        out = subprocess.run([FERRY, command, "--help"], stdout=subprocess.PIPE, text=True,
                             timeout=20, check=True).stdout
        return set(re.findall(r"^  (?:-\w(?: \w+)?, )?--([\w-]+)", out, re.M)) - {"help"}

    def section(self, title):
        """From this title to the next."""
        return re.split(r"^\.S[sh] ", read("docs", "ferry.1").split(f".Ss {title}\n")[1],
                        maxsplit=1, flags=re.M)[0]

    def test_options(self):
        for command in ("run", "migrate", "save", "inspect", "bench"):
            with self.subTest(command=command):
                there = self.options(command) - {"output"}  # -o there
                described = re.findall(r"^\.It Fl -([\w-]+)", self.section(f"ferry {command}"), re.M)
                self.assertEqual(sorted(there), sorted(described))

    def test_other_options(self):
        page = read("docs", "ferry.1")
        text = page.split(".Sh DESCRIPTION")[0] + self.section("Other commands")
        for command in ("status", "cont", "adjust", "list"):
            there = self.options(command)
            self.assertTrue(there, command)
            for name in there:
                self.assertIn(f"Fl -{name}", text, command)

    def test_commands(self):
        out = subprocess.run([FERRY, "help"], stdout=subprocess.PIPE, text=True, timeout=20,
                             check=True).stdout
        names = re.findall(r"^  (\w+)  +\w", out, re.M)
        self.assertGreater(len(names), 12)
        synopsis = read("docs", "ferry.1").split(".Sh DESCRIPTION")[0]
        readme = read("README.md")
        for name in names:
            self.assertRegex(synopsis, rf"Cm {name}\b")
            if name not in ("help", "version"):
                self.assertRegex(readme, rf"\b{name}\b")


class PageTest(unittest.TestCase):
    def test_links(self):
        for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "guest/README.md",
                     *glob.glob("docs/*.md", root_dir=ROOT)):
            for link in re.findall(r"\]\(([^)#]+)[^)]*\)", read(page)):
                if "://" not in link:
                    path = os.path.join(ROOT, os.path.dirname(page), link)
                    self.assertTrue(os.path.exists(path), f"{page}: {link}")

    def test_scenario_keys(self):
        page = read("docs", "bench.md")
        keys = re.findall(r'^    "(\w+)": \(', read("scripts", "bench", "scenario.py"), re.M)
        self.assertGreater(len(keys), 15)
        for key in keys:
            self.assertRegex(page, rf"(?m)^(\| .*`{key}`|    .*\b{key} = )")

    def test_targets(self):
        makefile = read("Makefile")
        rows = re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", read("CONTRIBUTING.md"), re.M)
        names = [name for row in rows for name in re.findall(r"[a-z-]+", row)]
        self.assertGreater(len(names), 8)
        for name in names:
            self.assertRegex(makefile, rf"(?m)^{name}:.*##")

    def test_rooms(self):
        """Every directory of tests/ is in both lists of rooms."""
        for page in ("CONTRIBUTING.md", "docs/architecture.md"):
            row = re.search(r"^\| `tests/` \| (.*?) \|", read(page), re.M).group(1)
            there = {name for name in os.listdir(os.path.join(ROOT, "tests"))
                     if os.path.isdir(os.path.join(ROOT, "tests", name)) and name[0] not in "._"}
            self.assertEqual(there, set(re.findall(r"`(\w+)/`", row)), page)


if __name__ == "__main__":
    sys.exit(main())
