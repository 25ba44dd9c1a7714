"""Charts as SVG inside a page: curves over iterations, and a histogram. Colours are those of page.css."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from evaluation.page import Html, escaped, tag

Point = tuple[float, float]
WIDTH, HEIGHT = 520, 250  # of a chart, in units of its own; a page scales it
LEFT, RIGHT, ABOVE, BOTTOM = 60, 10, 28, 36  # what lies around the frame
COLOURS = 6
MOST_POINTS = 400  # of a curve that is drawn; of more, means of neighbours are


@dataclass(frozen=True)
class Scale:
    """Where a number stands: from `low` at `start` to `high` at `end`, linear, or by its logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        part = ((math.log(value) if self.logarithmic else value) - low) / (high - low)
        return round(self.start + part * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers between `low` and `high`."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            few = self.high / self.low > 300
            found = [digit * 10.0**power for power in powers for digit in ((1,) if few else (1, 2, 5))]
            return [value for value in found if self.low <= value * (1 + 1e-9) and value <= self.high * (1 + 1e-9)]
        step = nice_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is not below `least`, which is positive."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


@dataclass(frozen=True)
class LineChart:
    """Curves by name over iterations.

    Attributes:
        unit: of the numbers, written at the top of their axis.
        dots: whether every point is marked.
        marks: iterations with a line through the chart.
        top: iterations and the hours at which they were reached; an axis of hours above the chart, if there are any.
        logarithmic: draw logarithms, where the numbers are positive and span a factor of ten.
    """

    title: str
    curves: Mapping[str, Sequence[Point]]
    unit: str = ""
    dots: bool = False
    marks: Sequence[float] = ()
    top: Sequence[Point] = field(default=())
    logarithmic: bool = False

    def svg(self) -> Html:
        """The chart; empty text if no curve has a finite point."""
        curves = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in self.curves.items()}
        curves = {name: thinned(sorted(points)) for name, points in curves.items() if points}
        every = [point for points in curves.values() for point in points]
        if not every:
            return Html("")
        x = self._across([place for place, _ in every])
        y = self._upwards([value for _, value in every])
        parts = [*self._grid(x, y), *self._hours(x)]
        parts += [_line(x(m), ABOVE, x(m), HEIGHT - BOTTOM, "mark") for m in self.marks if x.low < m <= x.high]
        for number, (_, points) in enumerate(curves.items()):
            parts += self._curve([(x(a), y(b)) for a, b in points], number % COLOURS)
        parts += legend(list(curves)) if len(curves) > 1 else []
        parts.append(_base_line())
        return _svg(self.title, parts)

    def _across(self, places: list[float]) -> Scale:
        high = max(places)
        return Scale(0, high if high > 0 else 1, LEFT, WIDTH - RIGHT)

    def _upwards(self, values: list[float]) -> Scale:
        low, high = min(values), max(values)
        if self.logarithmic and low > 0 and high >= 10 * low:
            return Scale(low, high, HEIGHT - BOTTOM - 5, ABOVE + 5, True)
        spare = (high - low) * 0.06 or abs(high) * 0.01 or 1.0
        return Scale(low - spare, high + spare, HEIGHT - BOTTOM, ABOVE)

    def _grid(self, x: Scale, y: Scale) -> list[Html]:
        parts = []
        rows = y.ticks()
        for value in rows:
            label = number_text(value, [0, value] if y.logarithmic else rows)
            parts += [_line(LEFT, y(value), WIDTH - RIGHT, y(value), "rule")]
            parts += [_text(LEFT - 6, y(value) + 4, label, "end")]
        parts += [_text(x(value), HEIGHT - BOTTOM + 15, short(value), "middle") for value in x.ticks(6)]
        parts += [_text(WIDTH - RIGHT, HEIGHT - 5, "iterations", "end"), _text(4, ABOVE - 9, self.unit, "start")]
        return parts

    def _hours(self, x: Scale) -> list[Html]:
        """Hours above the frame, where the run had reached them."""
        points = [point for point in sorted(self.top) if all(map(math.isfinite, point)) and point[0] <= x.high]
        reached = max((hours for _, hours in points), default=0.0)
        if reached <= 0:
            return []
        parts = []
        ticks = Scale(0, reached, 0, 1).ticks()
        for hours in ticks[1:]:
            place = x(crossing(points, hours))
            if place > LEFT + 40:  # beside the unit
                label = f"{number_text(hours, ticks)} h"
                parts += [_line(place, ABOVE - 4, place, ABOVE, "frame"), _text(place, ABOVE - 8, label, "middle")]
        return parts

    def _curve(self, points: list[Point], colour: int) -> list[Html]:
        parts = [tag("polyline", points=" ".join(f"{a},{b}" for a, b in points), class_=f"s{colour}")]
        if self.dots or len(points) == 1:
            parts += [tag("circle", cx=a, cy=b, r=2.5, class_=f"f{colour}") for a, b in points]
        return parts


def crossing(points: Sequence[Point], hours: float) -> float:
    """The iteration, between those known, at which `hours` had passed; points ascend from (0, 0) on."""
    before: Point = (0.0, 0.0)
    for iteration, passed in points:
        if passed >= hours:
            part = (hours - before[1]) / (passed - before[1]) if passed > before[1] else 1.0
            return before[0] + part * (iteration - before[0])
        before = iteration, passed
    return before[0]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS points: means of as many neighbours as it takes."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(sum(a for a, _ in group) / len(group), sum(b for _, b in group) / len(group)) for group in groups]


def histogram(title: str, groups: Mapping[str, Sequence[float]], unit: str) -> Html:
    """How many numbers lie where, the groups on top of one another; empty text if no number is finite."""
    finite = {name: [value for value in values if math.isfinite(value)] for name, values in groups.items()}
    every = [value for values in finite.values() for value in values]
    if not every:
        return Html("")
    step = nice_step(max(max(every) - min(every), 1e-6) / 24)
    first, last = math.floor(min(every) / step), math.floor(max(every) / step)
    counts = {name: [0] * (last - first + 1) for name in finite}
    for name, values in finite.items():
        for value in values:
            counts[name][math.floor(value / step) - first] += 1
    highest = max(map(sum, zip(*counts.values(), strict=True)))
    x = Scale(first * step, (last + 1) * step, LEFT, WIDTH - RIGHT)
    y = Scale(0, highest, HEIGHT - BOTTOM, ABOVE + 4)
    parts = []
    for value in [tick for tick in y.ticks() if tick == int(tick)]:
        parts += [
            _line(LEFT, y(value), WIDTH - RIGHT, y(value), "rule"),
            _text(LEFT - 6, y(value) + 4, short(value), "end"),
        ]
    ticks = x.ticks(8)
    parts += [_text(x(value), HEIGHT - BOTTOM + 15, number_text(value, ticks), "middle") for value in ticks]
    parts += [_text(WIDTH - RIGHT, HEIGHT - 5, unit, "end"), _text(4, ABOVE - 9, "images", "start")]
    for place in range(last - first + 1):
        below = 0
        for number, (name, of_bins) in enumerate(counts.items()):
            if of_bins[place]:
                parts.append(_bar(x, y, (first + place) * step, step, below, of_bins[place], name, number % COLOURS))
            below += of_bins[place]
    parts += legend(list(finite)) if len(finite) > 1 else []
    return _svg(title, [*parts, _base_line()])


def _bar(x: Scale, y: Scale, left: float, step: float, below: int, count: int, name: str, colour: int) -> Html:
    about = tag("title", f"{name}: {count} from {left:.3g} to {left + step:.3g}")
    width, top = x(left + step) - x(left) - 1, y(below + count)
    height = round(y(below) - top, 1)
    return tag(
        "rect", about, x=round(x(left) + 0.5, 1), y=top, width=round(width, 1), height=height, class_=f"f{colour}"
    )


def legend(names: Sequence[str]) -> list[Html]:
    """Names with their colours, in a row from the left at the lower edge."""
    parts, place = [], float(LEFT)
    for number, name in enumerate(names):
        shown = name if len(name) < 15 else f"{name[:13]}…"
        parts.append(tag("rect", x=place, y=HEIGHT - 13, width=9, height=9, class_=f"f{number % COLOURS}"))
        parts.append(_text(place + 13, HEIGHT - 5, shown, "start"))
        place += 28 + 6.4 * len(shown)
    return parts


def short(value: float) -> str:
    """As 850, 12k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and value % size == 0) or (abs(value) >= size == 1e6):
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def number_text(value: float, beside: Sequence[float]) -> str:
    """With as many digits as tell numbers apart that are as far from each other as those `beside`."""
    gap = min((b - a for a, b in pairwise(beside)), default=abs(value) or 1.0)
    digits = max(0, -math.floor(math.log10(gap) + 1e-9)) if gap > 0 else 3
    if digits <= 4 or value == 0:
        return f"{value:.{digits if digits <= 4 else 0}f}"
    return re.sub(r"e([-+])0*", r"e\1", f"{value:.1e}")


def _svg(title: str, parts: Sequence[Html]) -> Html:
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)


def _base_line() -> Html:
    return _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "frame")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return tag("text", escaped(text), x=round(x, 1), y=round(y, 1), text_anchor=anchor)
