"""A board as a picture: PSNR on one set against parameters, multiply-adds and milliseconds."""

import io
from pathlib import Path
from typing import Any, NamedTuple

from tools.drawing import embedded_fonts, need_ending, need_matplotlib
from tools.leaderboard.board import BICUBIC, PAPER_ROW, Board, Row
from utils import InputError, atomic_write

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels
Place = tuple[float, float, str]


class Point(NamedTuple):
    """A row in one panel."""

    name: str
    cost: float
    psnr: float
    ranked: bool


PANELS = {
    "parameters": ("parameters, thousands", 1e-3),
    "multiply_adds": ("multiply-adds, billions, 1280x720", 1e-9),
    "milliseconds": ("milliseconds, {timed}", 1.0),
}
LEVELS = {
    BICUBIC: {"linestyle": ":", "color": "grey"},
    PAPER_ROW: {"linestyle": "--", "color": "black"},
}
# Of a name beside its point: points right and up, and which end is nearest; the best place first.
NEAREST: list[Place] = [
    (8, 0, "left"), (-8, 0, "right"), (0, 11, "center"), (0, -11, "center"),
    (7, 9, "left"), (-7, 9, "right"), (7, -9, "left"), (-7, -9, "right"),
]  # fmt: skip
PLACES: list[Place] = [(reach * x, reach * y, end) for reach in (1, 2, 3, 4) for x, y, end in NEAREST]
FAR = 2.5  # from the points, in units of their spread in dB: a level line further away is not drawn


def plot(board: Board, file: Path) -> None:
    """Write the picture of a board as .png or .pdf.

    Raises:
        InputError: no matplotlib, another ending, or nothing to draw.
    """
    need_ending("--plot", file)
    need_matplotlib("--plot needs")
    picture = io.BytesIO()
    with embedded_fonts():
        draw(board).savefig(picture, format=file.suffix[1:].lower(), dpi=120)
    atomic_write(file, picture.getvalue())


def draw(board: Board) -> Any:
    """The board's `first` set as a matplotlib figure: a panel for each cost, without rows of other images.

    Raises:
        InputError: no row has a cost.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = board.first
    rows = [row for row in board.rows if name in row.scores and name not in row.differences]
    panels = [key for key in PANELS if _points(rows, name, key)]
    if not panels:
        raise InputError(f"--plot: no file has parameters, multiply-adds or times of x{board.scale} with {name}")
    figure = Figure(figsize=(4.6 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # which can measure names
    every_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, key in zip(every_axes, panels, strict=True):
        _panel(axes, _points(rows, name, key), PANELS[key][0].format(timed=board.timed))
        _levels(axes, [row for row in rows if row.label in LEVELS], name)
    every_axes[0].set_ylabel(f"PSNR on {name} x{board.scale}, dB ({board.protocol})", parse_math=False)
    figure.draw_without_rendering()  # the layout must stand before names find their places
    for axes, key in zip(every_axes, panels, strict=True):
        _write_names(axes, _points(rows, name, key))
    return figure


def _points(rows: list[Row], name: str, key: str) -> list[Point]:
    """Those of the rows that have this cost, in the panel's unit."""
    drawn = [(row, getattr(row, key)) for row in rows]
    return [Point(row.label, PANELS[key][1] * cost, row.scores[name].psnr, row.ranked) for row, cost in drawn if cost]


def _panel(axes: Any, points: list[Point], label: str) -> None:
    """The points, hollow where not ranked, and the axes around them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for point in points:
        axes.plot([point.cost], [point.psnr], "o", color="C0", fillstyle="full" if point.ranked else "none")
    costs = [point.cost for point in points]
    beside = max((max(costs) / min(costs)) ** 0.25, 2.0)
    span = min(costs) / beside, max(costs) * beside
    axes.set(xscale="log", xlim=span, xlabel=label)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span[1] / span[0] < 200 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)


def _levels(axes: Any, rows: list[Row], name: str) -> None:
    """Bicubic and the paper as level lines; one so far off that it would press the points together is only named."""
    low, high = axes.dataLim.intervaly
    reach = FAR * max(high - low, 0.5)
    for row in rows:
        psnr = row.scores[name].psnr
        if low - reach <= psnr <= high + reach:
            axes.axhline(psnr, **LEVELS[row.label], label=f"{row.label}: {psnr:.2f} dB")
        else:
            axes.plot([], [], " ", label=f"{row.label}: {psnr:.2f} dB, {'below' if psnr < low else 'above'}")
    if rows:
        axes.legend(loc="lower right", frameon=False, fontsize=9)


def _write_names(axes: Any, points: list[Point]) -> None:
    """Each point's name beside it, where it covers no point, no other name and no edge, or where it covers least."""
    renderer, frame = axes.figure.canvas.get_renderer(), axes.get_window_extent().extents
    markers = {point: axes.transData.transform((point.cost, point.psnr)) for point in points}
    taken = [_around(x, y, 12, 12) for x, y in markers.values()]
    legend = axes.get_legend()
    taken += [legend.get_window_extent(renderer).extents] if legend else []
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": "grey", "shrinkA": 0, "shrinkB": 4}
    for point in sorted(points, key=lambda point: -point.psnr):
        at, style = (point.cost, point.psnr), {"va": "center", "fontsize": 9, "parse_math": False}
        text = axes.text(*at, point.name, **style)
        size = text.get_window_extent(renderer).size
        text.remove()
        boxes = {place: _box(place, markers[point], size, axes.figure.dpi) for place in PLACES}

        def covered(place: Place, boxes: dict[Place, Box] = boxes) -> float:
            own = boxes[place]
            return _shared(own, own) - _shared(own, frame) + sum(_shared(own, other) for other in taken)

        place = min(PLACES, key=covered)  # the first of those that cover nothing
        taken.append(boxes[place])
        joined = None if place in NEAREST else line
        text = axes.annotate(
            point.name, at, place[:2], textcoords="offset points", ha=place[2], arrowprops=joined, **style
        )
        text.set_in_layout(False)  # else a long name would narrow the axes that its place was found in


def _box(place: Place, marker: tuple[float, float], size: tuple[float, float], dpi: float) -> Box:
    """What a name of this size takes at a place beside a marker, in pixels."""
    right, up, end = place
    x, y = marker[0] + right * dpi / 72, marker[1] + up * dpi / 72
    return _around(x + {"left": size[0] / 2, "center": 0, "right": -size[0] / 2}[end], y, *size)


def _around(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _shared(one: Box, other: Box) -> float:
    """Square pixels that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
