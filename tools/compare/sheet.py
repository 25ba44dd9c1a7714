"""A figure that is laid out in whole pixels, so that a PNG of it has the pixels of its images, with matplotlib."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils import atomic_write

DPI = 200  # of the PNG
DPI_OF_PICTURES = 300  # in the PDF, of what is not drawn pixel by pixel
TEXT = 8.0  # points


class Sheet:
    """A white figure of `width` x `height` pixels. Places are in pixels from the upper left corner."""

    def __init__(self, width: int, height: int):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        # matplotlib cuts the canvas down to whole pixels: a bit more, lest width / DPI * DPI be less than width
        self.figure = Figure(figsize=((width + 1e-3) / DPI, (height + 1e-3) / DPI), dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(self.figure)

    def pixels(self, image: np.ndarray, left: int, top: int) -> None:
        """An image (H, W, 3) pixel by pixel; a PDF holds the same pixels."""
        self._axes(left, top, image.shape[1], image.shape[0]).imshow(image, interpolation="none", aspect="auto")

    def picture(self, image: np.ndarray, left: int, top: int, width: int, height: int) -> Any:
        """An image at another size; the axes, which count in pixels of the image."""
        axes = self._axes(left, top, width, height)
        axes.imshow(image, interpolation="antialiased", aspect="auto")
        return axes

    def text(self, words: str, x: float, baseline: float, room: float, bold: bool = False) -> None:
        """One line around `x`, smaller where it would be wider than `room`."""
        text = self._text(words, x, baseline, bold)
        width = self._extent(text).width
        if width > room:
            text.set_fontsize(TEXT * room / width)

    def pieces(self, pieces: list[tuple[str, bool, bool]], x: float, baseline: float) -> None:
        """One line around `x` of pieces: (words, whether bold, whether underlined)."""
        texts = [self._text(words, x, baseline, bold) for words, bold, _ in pieces]
        widths = [self._extent(text).width for text in texts]
        left = x - sum(widths) / 2
        for text, width, (_, _, underlined) in zip(texts, widths, pieces, strict=True):
            text.set_x((left + width / 2) / self.width)
            if underlined:
                self._line(left, left + width, baseline + 4)
            left += width

    def write(self, file: Path) -> None:
        """As .png, 8-bit RGB, or .pdf, the same bytes each time."""
        content = io.BytesIO()
        if file.suffix.lower() == ".png":
            self._canvas.draw()
            drawn = np.asarray(self._canvas.buffer_rgba())[:, :, :3]
            Image.fromarray(np.ascontiguousarray(drawn)).save(content, "png", dpi=(DPI, DPI), optimize=True)
        else:
            self.figure.savefig(content, format="pdf", dpi=DPI_OF_PICTURES, metadata={"CreationDate": None})
        atomic_write(file, content.getvalue())

    def _axes(self, left: int, top: int, width: int, height: int) -> Any:
        below = self.height - top - height
        axes = self.figure.add_axes((left / self.width, below / self.height, width / self.width, height / self.height))
        axes.set_axis_off()
        return axes

    def _text(self, words: str, x: float, baseline: float, bold: bool) -> Any:
        weight = "bold" if bold else "normal"
        return self.figure.text(
            x / self.width, 1 - baseline / self.height, words,
            ha="center", va="baseline", size=TEXT, weight=weight, parse_math=False,
        )  # fmt: skip

    def _extent(self, text: Any) -> Any:
        return text.get_window_extent(self._canvas.get_renderer())

    def _line(self, left: float, right: float, y: float) -> None:
        from matplotlib.lines import Line2D

        ends, height = [left / self.width, right / self.width], 1 - y / self.height
        self.figure.add_artist(Line2D(ends, [height, height], color="black", linewidth=0.7))
