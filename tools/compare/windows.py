"""Which part of an image is shown: as --crop names it, or where the methods differ most."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tools.compare.images import Compared, Method, Source, find_source, read_source
from utils import InputError, shown

AUTO = "auto"
NUMBERS = re.compile(r"(\d{1,6}),(\d{1,6}),(\d{1,6}),(\d{1,6})")


class Window(NamedTuple):
    """In pixels of HR: the left and upper edge, width and height."""

    left: int
    top: int
    width: int
    height: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """This part of an image (H, W, 3)."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


class Difference(NamedTuple):
    """How much the methods differ in a window: see `most_different`."""

    amount: int
    window: Window


def read_crops(
    texts: Sequence[str], sources: Sequence[Source], methods: Sequence[Method], side: int
) -> Iterable[tuple[Compared, Window]]:
    """Images and windows of the options --crop, in their order; each image is read when its turn comes.

    Args:
        texts: 'auto', 'IMAGE:auto' or 'IMAGE:x,y,w,h'. 'auto' takes the image where the methods differ most, a further
            'auto' the next one.
        side: of the windows that are searched for, in pixels of HR.

    Raises:
        InputError: one of them is none of these, names no image or reaches beyond it; or nothing differs.
    """
    named = [None if text == AUTO else _named(text, sources) for text in texts]
    ranked = iter(_ranked(sources, methods, side) if None in named else [])
    for text, found in zip(texts, named, strict=True):
        if found is None:
            source, window = next(ranked, (None, None))
            if source is None or window is None:
                raise InputError(f"--crop {AUTO}: there is no further image in which the methods differ; name one")
            yield read_source(source, methods), window
        else:
            source, window = found
            compared = read_source(source, methods)
            yield compared, _inside(window, compared, text) if window else _differing(compared, side, text)


def most_different(images: Sequence[np.ndarray], side: int, step: int) -> Difference:
    """The window with the largest sum of squared differences between every two of the images.

    Args:
        images: uint8 (H, W, 3); two at least.
        side: of the window, in pixels; where the image is smaller, so is the window.
        step: the window's left and upper edges are multiples of this number.

    Returns:
        That sum over R, G and B, and the first such window by rows.
    """
    total = np.zeros(images[0].shape, np.int64)
    squares = np.zeros(images[0].shape, np.int64)
    for image in images:
        values = image.astype(np.int64)
        total += values
        squares += values**2
    pairs = (len(images) * squares - total**2).sum(axis=2)  # sum over pairs of (a - b)^2, in whole numbers
    height, width = (min(side, length) for length in pairs.shape)
    below = np.pad(pairs, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums = below[height:, width:] - below[:-height, width:] - below[height:, :-width] + below[:-height, :-width]
    sums = sums[::step, ::step]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return Difference(int(sums[top, left]), Window(step * left, step * top, width, height))


def difference(compared: Compared, side: int) -> Difference:
    """Where an image's methods differ most, on the grid of LR; a single method is compared with bicubic."""
    images = compared.methods if len(compared.methods) > 1 else compared.scored
    return most_different(list(images.values()), side, compared.source.images.scale)


def _ranked(sources: Sequence[Source], methods: Sequence[Method], side: int) -> list[tuple[Source, Window]]:
    """Images in which the methods differ with their windows, those with the largest difference first."""
    found = [(source, difference(read_source(source, methods), side)) for source in sources]
    found = [(source, where) for source, where in found if where.amount]
    found.sort(key=lambda one: -one[1].amount)
    return [(source, where.window) for source, where in found]


def _named(text: str, sources: Sequence[Source]) -> tuple[Source, Window | None]:
    """The image and, unless it is to be searched for, the window of 'IMAGE:...'."""
    name, _, place = text.rpartition(":")
    numbers = NUMBERS.fullmatch(place)
    if not name or not (numbers or place == AUTO):
        raise InputError(f"--crop {shown(text)}: must be IMAGE:x,y,w,h in pixels of HR, IMAGE:{AUTO} or {AUTO}")
    source = find_source(sources, name, f"--crop {shown(text)}")
    return source, Window(*map(int, numbers.groups())) if numbers else None


def _inside(window: Window, compared: Compared, text: str) -> Window:
    height, width = compared.hr.shape[:2]
    if not window.width or not window.height:
        raise InputError(f"--crop {text}: is empty; w and h must be 1 at least")
    if window.left + window.width > width or window.top + window.height > height:
        raise InputError(f"--crop {text}: reaches beyond the image, {width}x{height} pixels at this scale")
    return window


def _differing(compared: Compared, side: int, text: str) -> Window:
    found = difference(compared, side)
    if not found.amount:
        raise InputError(f"--crop {text}: the methods' images are equal; write the window as x,y,w,h")
    return found.window
