# SPDX-License-Identifier: Apache-2.0
"""What the tests of ferry bench share: its modules, and what a report must be like."""

import os
import re
import sys
import xml.etree.ElementTree as ElementTree

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path[:0] = [os.path.join(ROOT, "scripts"), os.path.join(ROOT, "tests", "support")]
from tally import main  # noqa: E402,F401 (the path comes first)

FETCHING = ("src", "href", "action", "data", "poster", "srcset", "background")


def check_html(test, text):
    """Well-formed, and needs nothing from anywhere."""
    kind, _, rest = text.partition("\n")
    test.assertEqual(kind, "<!DOCTYPE html>")
    root = ElementTree.fromstring(rest)
    for element in root.iter():
        test.assertNotIn(element.tag, ("script", "iframe", "object", "embed", "base"))
        for key, value in element.attrib.items():
            test.assertFalse(key.startswith("on"), key)
            if key.rpartition("}")[2] in FETCHING:
                test.assertTrue(value.startswith("data:"), value[:80])
    test.assertNotRegex(text, r"(?i)\b(https?|ftp|file)://|@import|url\(")
    for svg in root.iter("svg"):
        for element in svg.iter():
            for key in ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height", "points"):
                for number in re.split(r"[ ,]+", element.attrib.get(key, "0")):
                    float(number)
                    test.assertNotIn("n", number)  # nan, inf
    return root
