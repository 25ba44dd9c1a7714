"""The figure: for each crop the image with a box, and beside it the crop of every method with its scores."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.metrics import Scores
from evaluation.pictures import repeated
from tools.compare.images import HR, LR, Compared, scores
from tools.compare.sheet import Sheet
from tools.compare.windows import Window
from tools.drawing import embedded_fonts

IMAGE = "image"
PARTS = (IMAGE, LR, "bicubic", HR)  # what stands in the figure besides the methods
METRICS = "PSNR/SSIM"
DECIMALS = {"psnr": 2, "ssim": 4}
CROP_WIDTH = 200  # pixels of the figure, about; an inch of the PDF
NARROWEST = 190  # pixels that a crop's scores take
GAP, LINE = 12, 26  # pixels between crops, and from one line of text to the next
LABEL = 2 * LINE + 22  # below a crop
WIDEST = 1.5  # width of the image with the box, of its height
RED = "#e8112d"
Mark = tuple[bool, bool]  # bold, underlined


class Cell(NamedTuple):
    """A crop (h, w, 3) uint8 by the name of what it is of, with its scores where it has any."""

    name: str
    crop: np.ndarray
    scores: Scores | None


@dataclass(frozen=True)
class Block:
    """What is drawn for one crop: the image with the window, unless it is left out, and cells."""

    title: str
    hr: np.ndarray | None
    window: Window
    times: int  # pixels of the figure for one of a crop, to the right and downwards
    cells: list[Cell]

    @property
    def rows(self) -> int:
        """Of cells: two beside the image where there are enough."""
        return 2 if len(self.cells) > 3 and self.hr is not None else 1

    @property
    def columns(self) -> int:
        return math.ceil(len(self.cells) / self.rows)

    @property
    def pitch(self) -> tuple[int, int]:
        """Pixels from one cell to the next, to the right and downwards."""
        width, height = self.times * self.window.width, self.times * self.window.height
        return max(width, NARROWEST) + GAP, height + LABEL

    @property
    def height(self) -> int:
        return self.rows * self.pitch[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height at which the whole image is drawn; its title fits below it."""
        if self.hr is None:
            return 0, 0
        height, width = self.hr.shape[:2]
        room = self.height - LABEL
        factor = min(room / height, WIDEST * room / width)
        return round(factor * width), round(factor * height)


def block(compared: Compared, window: Window, without: Collection[str], of_crop: bool, times: int | None) -> Block:
    """What is drawn for one crop.

    Args:
        without: which of PARTS are left out.
        of_crop: the scores are of the crop, not of the whole image.
        times: see `Block`; by default such that crops are about CROP_WIDTH pixels.
    """
    images = {name: image for name, image in compared.scored.items() if name not in without}
    source, scale = compared.source, compared.source.images.scale
    parts, hr = (compared.scored, compared.hr)
    if of_crop:
        parts, hr = {name: window.of(image) for name, image in parts.items()}, window.of(hr)
    found = scores({name: parts[name] for name in images}, hr, scale, f"{source.title}:{','.join(map(str, window))}")
    cells = [Cell(name, window.of(image), found[name]) for name, image in images.items()]
    if LR not in without:
        cells.insert(0, Cell(LR, window.of(repeated(compared.lr, scale)), None))
    if HR not in without:
        cells.append(Cell(HR, window.of(compared.hr), None))
    times = times or max(1, round(CROP_WIDTH / max(window.width, window.height)))
    return Block(f"{source.title} (×{scale})", None if IMAGE in without else compared.hr, window, times, cells)


def printed(found: Scores) -> dict[str, str]:
    """PSNR and SSIM as the figure has them."""
    return {metric: f"{value:.{DECIMALS[metric]}f}" for metric, value in found._asdict().items()}


def marks(values: Sequence[str]) -> dict[str, Mark]:
    """The best of several printed values is bold, the second, if there are three at least, underlined."""
    ordered = sorted(set(values), key=float, reverse=True)
    found = {ordered[0]: (True, False)} if len(values) > 1 else {}
    return {**found, ordered[1]: (False, True)} if len(values) > 2 and len(ordered) > 1 else found


def draw(blocks: Sequence[Block]) -> Sheet:
    """All blocks, one under the other, as a figure; it needs `embedded_fonts`."""
    beside = max(one.image_size[0] for one in blocks)
    grid = beside + GAP if beside else 0
    width = GAP + grid + max(one.columns * one.pitch[0] for one in blocks)
    sheet = Sheet(width, GAP + sum(one.height for one in blocks))
    top = GAP
    for one in blocks:
        _draw_image(sheet, one, GAP, top, beside)
        _draw_cells(sheet, one, GAP + grid, top)
        top += one.height
    return sheet


def write_figure(blocks: Sequence[Block], files: Sequence[Path]) -> None:
    """Write the figure of the blocks as .png and .pdf files."""
    with embedded_fonts():
        sheet = draw(blocks)
        for file in files:
            sheet.write(file)


def _draw_image(sheet: Sheet, one: Block, left: int, top: int, room: int) -> None:
    """The whole image with the box, in the middle of `room` pixels, above its title."""
    from matplotlib.patches import Rectangle

    if one.hr is None:
        return
    width, height = one.image_size
    axes = sheet.picture(one.hr, left + (room - width) // 2, top, width, height)
    corner = one.window.left - 0.5, one.window.top - 0.5  # a pixel's middle is at whole numbers
    for colour, line in (("white", 2.2), (RED, 1.3)):
        box = Rectangle(corner, one.window.width, one.window.height, fill=False, edgecolor=colour, linewidth=line)
        axes.add_patch(box)
    sheet.text(one.title, left + room / 2, top + height + LINE, room)


def _draw_cells(sheet: Sheet, one: Block, left: int, top: int) -> None:
    found = [printed(cell.scores) for cell in one.cells if cell.scores is not None]
    marked = {metric: marks([scores[metric] for scores in found]) for metric in DECIMALS} if found else {}
    right, down = one.pitch
    for place, cell in enumerate(one.cells):
        row, column = divmod(place, one.columns)
        room = right - GAP
        x, y = left + column * right, top + row * down
        image = repeated(cell.crop, one.times)
        sheet.pixels(image, x + (room - image.shape[1]) // 2, y)
        baseline = y + image.shape[0] + LINE
        sheet.text(cell.name, x + room / 2, baseline, room)
        if cell.scores is not None:
            values = [
                (text, *marked[metric].get(text, (False, False))) for metric, text in printed(cell.scores).items()
            ]
            sheet.pieces([values[0], ("/", False, False), values[1]], x + room / 2, baseline + LINE)
        elif cell.name == HR:
            sheet.text(METRICS, x + room / 2, baseline + LINE, room)
