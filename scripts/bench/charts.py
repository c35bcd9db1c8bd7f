# SPDX-License-Identifier: Apache-2.0
"""
Pictures as inline SVG, from numbers. Colours are classes (c0, c1, ...: report_html.py's style knows
them for light and dark), and each colour has a shape or a dash of its own. Nothing here knows what
the numbers mean. All text that comes in is escaped here.
"""

import html
import math
from dataclasses import dataclass, field

WIDTH = 460
LEFT, RIGHT = 52, 12
COLOURS = 6
LINE_POINTS = 300
GAP = 14  # between panels


def esc(text):
    """Fit for XML, whatever a program said."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else "?" for c in str(text)))


def number(value):
    """Short, for people."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 10000:
        return f"{value:,.0f}"
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3g}"


def tick_text(value):
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


# ---- axes ----

@dataclass
class Axis:
    """From a value to a place; places run from a to b."""
    low: float
    high: float
    a: float
    b: float
    log: bool = False

    def at(self, value):
        if self.log:
            share = (math.log(max(value, self.low)) - math.log(self.low)) / (
                math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.a + min(max(share, 0), 1) * (self.b - self.a), 1)

    def ticks(self, most=5):
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            every = max(1, math.ceil((last - first) / most))
            found = [10.0**e for e in range(first, last + 1, every)]
            if len(found) < 3:
                found = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
            return [t for t in found if self.low * 0.999 <= t <= self.high * 1.001]
        raw = (self.high - self.low) / most
        step = 10.0 ** math.floor(math.log10(raw))
        step *= next(m for m in (1, 2, 5, 10) if m * step >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, int(self.high / step + 1e-9) + 1)]


def linear(values, a, b):
    """From zero to a bit above the largest."""
    high = max([v for v in values if v is not None] or [0]) * 1.05
    return Axis(0, high or 1, a, b)


def logarithmic(values, a, b):
    good = [v for v in values if v is not None and v > 0] or [1]
    low, high = min(good) / 1.3, max(good) * 1.3
    if high / low < 4:
        low, high = low / 1.5, high * 1.5
    return Axis(low, high, a, b, True)


def fitting(values, a, b):
    """Logarithmic if the values are far apart."""
    good = [v for v in values if v is not None]
    if good and min(good) > 0 and max(good) / min(good) > 30:
        return logarithmic(good, a, b)
    return linear(good, a, b)


# ---- pieces ----

def text(x, y, words, anchor="start", style="t"):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" class="{style}">{esc(words)}</text>'


def rule(x1, y1, x2, y2, style="grid"):
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{style}"/>'


def mark(x, y, colour, tip="", hollow=False):
    """A point; its shape goes with its colour."""
    style = f"c{colour % COLOURS} {'hollow' if hollow else 'dot'}"
    shapes = (f'<circle cx="{x}" cy="{y}" r="4"',
              f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"',
              f'<path d="M{x} {y - 5:.1f}l5 8.5h-10z"',
              f'<path d="M{x} {y - 5:.1f}l5 5l-5 5l-5 -5z"')
    shape = shapes[colour % len(shapes)]
    return f'{shape} class="{style}"><title>{esc(tip)}</title></{shape[1:].split()[0]}>'


def svg(height, parts, label):
    return (f'<svg viewBox="0 0 {WIDTH} {round(height)}" role="img" aria-label="{esc(label)}">'
            + "".join(parts) + "</svg>")


def bottom_axis(axis, y, top, words):
    parts = []
    for tick in axis.ticks():
        x = axis.at(tick)
        parts += [rule(x, top, x, y), text(x, y + 14, tick_text(tick), "middle")]
    parts.append(text(WIDTH - RIGHT, y + 28, words, "end", "u"))
    return parts


def left_axis(axis, most=4):
    parts = []
    for tick in axis.ticks(most):
        y = axis.at(tick)
        parts += [rule(LEFT, y, WIDTH - RIGHT, y),
                  text(LEFT - 5, round(y + 4, 1), tick_text(tick), "end")]
    return parts


# ---- lines over time ----

@dataclass
class Line:
    colour: int
    points: list            # (x, y), x growing; a y of None breaks the line
    dashed: bool = False
    name: str = ""


@dataclass
class Panel:
    title: str
    lines: list
    marks: list = field(default_factory=list)  # (x, colour, text): ticks at the bottom


def polyline(line, xs, ys):
    step = max(1, -(-len(line.points) // LINE_POINTS))
    runs, current = [], []
    for i, (x, y) in enumerate(line.points):
        if y is None:
            runs, current = runs + [current], []
        elif i % step == 0 or i == len(line.points) - 1:
            current.append(f"{xs.at(x)},{ys.at(y)}")
    style = f"c{line.colour % COLOURS} line{' dash' if line.dashed else ''}"
    return "".join(f'<polyline points="{" ".join(run)}" class="{style}"><title>{esc(line.name)}'
                   "</title></polyline>" for run in runs + [current] if run)


def over_time(panels, label, height=112):
    """Panels above each other over one time axis."""
    every = [x for p in panels for line in p.lines for x, _ in line.points]
    xs = linear(every, LEFT, WIDTH - RIGHT)
    if every and min(every) < 0:
        xs.low = min(every)
    parts, top = [], 0
    for panel in panels:
        ys = linear([y for line in panel.lines for _, y in line.points], top + height, top + 22)
        parts.append(text(0, top + 13, panel.title, style="h"))
        parts += left_axis(ys)
        for x, colour, words in panel.marks:
            at = xs.at(x)
            y = top + height
            parts.append(f'<line x1="{at}" y1="{y - 7}" x2="{at}" y2="{y}" '
                         f'class="c{colour % COLOURS} pass"><title>{esc(words)}</title></line>')
        parts += [polyline(line, xs, ys) for line in panel.lines]
        top += height + GAP
    parts += bottom_axis(xs, top - GAP, top - GAP, "seconds since the command")
    return svg(top - GAP + 34, parts, label)


# ---- dots ----

def dots(rows, unit, label):
    """
    rows: (name, [(colour, name of colour, [values], word if there are none)]). A dot for each value,
    a bar at their median.
    """
    every = [v for _, groups in rows for g in groups for v in g[2]]
    xs = fitting(every, 14, WIDTH - RIGHT)
    parts, y = [], 4
    for name, groups in rows:
        parts.append(text(0, y + 11, name, style="h"))
        y += 18
        for colour, who, values, without in groups:
            middle = y + 6
            parts.append(rule(14, middle, WIDTH - RIGHT, middle) if values else
                         text(18, middle + 4, f"{who}: {without}", style="u"))
            for value in values:
                parts.append(mark(xs.at(value), middle, colour, f"{name}, {who}: {number(value)} "
                                                                f"{unit}"))
            if values:
                x = xs.at(sorted(values)[(len(values) - 1) // 2] if len(values) % 2 else
                          sum(sorted(values)[len(values) // 2 - 1:len(values) // 2 + 1]) / 2)
                parts.append(f'<line x1="{x}" y1="{middle - 7}" x2="{x}" y2="{middle + 7}" '
                             f'class="c{colour % COLOURS} line"/>')
            y += 17
        y += 5
    axis = bottom_axis(xs, y, 2, unit + (", logarithmic" if xs.log else ""))
    return svg(y + 32, axis + parts, label)


def scatter(points, label, x_words, y_words, height=330):
    """points: (x, y, colour, text, hollow), both positive; the diagonal is where they are equal."""
    values = [v for x, y, *_ in points for v in (x, y)]
    xs = logarithmic(values, LEFT, WIDTH - RIGHT)
    ys = Axis(xs.low, xs.high, height, 22, True)
    parts = [text(0, 13, y_words, style="h"), *left_axis(ys, 6),
             *bottom_axis(xs, height, 22, x_words),
             rule(xs.a, ys.a, xs.b, ys.b, "diagonal")]
    parts += [mark(xs.at(x), ys.at(y), colour, tip, hollow) for x, y, colour, tip, hollow in points]
    return svg(height + 34, parts, label)


def us_text(us):
    for limit, unit in ((1e6, "s"), (1e3, "ms")):
        if us >= limit:
            return f"{us / limit:.3g} {unit}"
    return f"{us:g} µs"


def histogram(rows, label, height=120):
    """rows: (colour, name, counts), bucket i being 2^i to 2^(i+1) µs; a logarithmic count."""
    used = [i for _, _, counts in rows for i, n in enumerate(counts) if n]
    if not used:
        return svg(30, [text(0, 14, "none", style="u")], label)
    first, last = min(used), max(used) + 1
    xs = Axis(first, last, LEFT, WIDTH - RIGHT)
    high = max(n for _, _, counts in rows for n in counts)
    ys = Axis(0.5, max(high * 1.3, 2), height, 22, True)
    parts = [text(0, 13, "gaps between two clock readings, by length", style="h"), *left_axis(ys, 4)]
    every = max(1, math.ceil((last - first) / 7))
    for i in range(first, last + 1, every):
        parts += [rule(xs.at(i), 22, xs.at(i), height),
                  text(xs.at(i), height + 14, us_text(2**i), "middle")]
    width = (xs.b - xs.a) / (last - first)
    for place, (colour, name, counts) in enumerate(rows):
        part = width / len(rows)
        for i in range(first, min(last, len(counts))):
            if not counts[i]:
                continue
            y = ys.at(counts[i])
            tip = f"{name}: {counts[i]} of {us_text(2**i)} to {us_text(2**(i + 1))}"
            parts.append(f'<rect x="{xs.at(i) + place * part + 0.5:.1f}" y="{y}" '
                         f'width="{max(part - 1, 1):.1f}" height="{height - y:.1f}" '
                         f'class="c{colour % COLOURS} bar"><title>{esc(tip)}</title></rect>')
    return svg(height + 22, parts, label)
