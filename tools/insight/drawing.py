"""What the figures share: matplotlib where it is, panels that show pictures, files of figures."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from models.pixels import from_network
from tools.drawing import embedded_fonts, need_ending, need_matplotlib
from utils import atomic_write

INCHES, DPI = 1.6, 100  # of a panel's longest side
TITLE, BAR, GAP = 0.22, 0.75, 0.08  # inches: above a panel, beside all of them, between them
RED, BLUE = "#e0202a", "#1f77d0"


def need_drawing(file: Path) -> None:
    """Raises InputError if figures cannot be drawn, or not written to such a file."""
    need_ending("--out", file)
    need_matplotlib("tools.insight draws with")


def panels(
    heights: list[float], columns: int, width: float, inches: float = INCHES, bar: bool = False
) -> tuple[Any, np.ndarray]:
    """(figure, array (rows, columns) of axes without ticks) for pictures of this width, whose rows have these heights.

    Args:
        inches: the longest side of a panel.
        bar: leave room for a colour bar.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    inch = inches / max(width, *heights)
    across = columns * (inch * width + GAP) + (BAR if bar else 0)
    down = inch * sum(heights) + len(heights) * (TITLE + GAP)
    engine = ConstrainedLayoutEngine(w_pad=GAP / 2, h_pad=GAP / 2, wspace=0, hspace=0)
    figure = Figure(figsize=(across, down), layout=engine)
    every = figure.subplots(len(heights), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes in every.flat:
        axes.set(xticks=[], yticks=[])
    return figure, every


def show(axes: Any, image: np.ndarray, title: str, **options: Any) -> Any:
    """An image, or a map (H, W), under a title."""
    axes.set_title(title, fontsize=8, pad=3, parse_math=False)
    smaller = max(image.shape[:2]) <= INCHES * DPI  # its pixels are to be seen; larger ones are averaged
    return axes.imshow(image, interpolation="nearest" if smaller else "antialiased", **options)


def box(axes: Any, left: float, top: float, width: float, height: float, colour: str = RED) -> None:
    """A frame; places are in pixels, 0 is the left or upper edge of the first."""
    from matplotlib.patches import Rectangle

    frame = Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=colour, linewidth=1.3)
    axes.add_patch(frame)


def colour_bar(figure: Any, drawn: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.01)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8, parse_math=False)


def pixels(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] as uint8 (H, W, 3)."""
    return from_network(image[0])


def grey(image: Tensor) -> np.ndarray:
    """(1, 3, H, W) in [0, 1] as uint8 (H, W, 3) of equal channels, pale, so that colours show on it."""
    flat = image[0].mean(dim=0, keepdim=True).clamp(0, 1).expand(3, -1, -1)
    return from_network(0.25 + 0.75 * flat)


def save(figure: Any, file: Path, palette: bool = False) -> None:
    """Write a figure as .png or .pdf; a PNG with `palette` has 256 colours and half the bytes.

    Raises:
        InputError: it cannot be written.
    """
    content, kind = io.BytesIO(), file.suffix[1:].lower()
    with embedded_fonts():
        figure.savefig(content, format=kind, dpi=DPI)
    if kind == "png":
        drawn, content = Image.open(content).convert("RGB"), io.BytesIO()
        if palette:
            drawn = drawn.quantize(256, Image.Quantize.MEDIANCUT, 2, dither=Image.Dither.NONE)
        drawn.save(content, "PNG", optimize=True)
    atomic_write(file, content.getvalue())
