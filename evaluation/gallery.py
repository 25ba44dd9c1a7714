"""Small pictures of an evaluation, made as its images are finished: a thumbnail of each, and the best and worst crops.

Of the images themselves no more is kept, so memory grows by a few kilobytes an image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from datas import Pair
from evaluation.page import webp

THUMBNAIL = 132, 88  # pixels within which a thumbnail fits, twice what a page shows it at
SIDE = 128  # of a crop
KEPT = 4  # best crops, and as many of the worst, of different images
QUALITY = 70


@dataclass(frozen=True)
class Thumbnail:
    set_name: str
    name: str
    data: bytes  # WebP


@dataclass(frozen=True)
class Crop:
    """A window of an image: uint8 (h, w, 3), SIDE pixels along each axis or the whole of a smaller image.

    Attributes:
        gain: PSNR of the SR window less that of the bicubic one, dB, of RGB.
        left, top: of the window in the HR image.
    """

    gain: float
    set_name: str
    name: str
    left: int
    top: int
    bicubic: np.ndarray
    sr: np.ndarray
    hr: np.ndarray


@dataclass
class Gallery:
    """What has been kept so far; one of each process, put together by `merged`."""

    thumbnails: list[Thumbnail] = field(default_factory=list)
    best: list[Crop] = field(default_factory=list)
    worst: list[Crop] = field(default_factory=list)

    def of(self, set_name: str) -> Callable[[Pair, np.ndarray, np.ndarray | None], None]:
        """What looks at the finished images of a set: the pair, its SR image and its bicubic one, uint8 (H, W, 3)."""

        def look(pair: Pair, sr: np.ndarray, bicubic: np.ndarray | None) -> None:
            self.thumbnails.append(Thumbnail(set_name, pair.name, webp(reduced(sr), QUALITY)))
            if pair.hr is not None and bicubic is not None:
                self._look_closer(set_name, pair, sr, bicubic)

        return look

    def _look_closer(self, set_name: str, pair: Pair, sr: np.ndarray, bicubic: np.ndarray) -> None:
        assert pair.hr is not None
        border = pair.hr.shape[0] // pair.lr.shape[0]  # which the protocols leave out, too
        inner = [image[border:-border, border:-border] for image in (bicubic, sr, pair.hr)]
        gains = window_gains(inner[1], inner[0], inner[2])
        for kept, sign in ((self.best, -1), (self.worst, 1)):
            gain, left, top = min(gains, key=lambda found: sign * found[0])
            if len(kept) < KEPT or sign * gain < sign * kept[-1].gain:
                window = np.s_[top : top + SIDE, left : left + SIDE]
                copies = (image[window].copy() for image in inner)
                kept.append(Crop(gain, set_name, pair.name, left + border, top + border, *copies))
                kept.sort(key=lambda crop: sign * crop.gain)
                del kept[KEPT:]


def merged(galleries: Sequence[Gallery]) -> Gallery:
    """One of the galleries of all processes; thumbnails in no order."""
    thumbnails = [thumbnail for gallery in galleries for thumbnail in gallery.thumbnails]
    best = sorted((crop for gallery in galleries for crop in gallery.best), key=lambda crop: -crop.gain)
    worst = sorted((crop for gallery in galleries for crop in gallery.worst), key=lambda crop: crop.gain)
    return Gallery(thumbnails, best[:KEPT], worst[:KEPT])


def reduced(image: np.ndarray) -> np.ndarray:
    """Small enough for a thumbnail: uint8 (H, W, 3) of any size."""
    height, width = image.shape[:2]
    factor = min(THUMBNAIL[0] / width, THUMBNAIL[1] / height, 1)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def window_gains(sr: np.ndarray, bicubic: np.ndarray, hr: np.ndarray) -> list[tuple[float, int, int]]:
    """(gain in dB, left, top) of windows of SIDE pixels, half a window apart, in images of the same size.

    Only of windows in which bicubic upscaling is no better than in the mean of the image: elsewhere there is little to
    gain or to lose.
    """
    height, width = hr.shape[:2]
    side_y, side_x = min(SIDE, height), min(SIDE, width)
    tops, lefts = starts(height, side_y), starts(width, side_x)
    errors = [_window_errors(image, hr, tops, lefts, side_y, side_x) for image in (sr, bicubic)]
    least = 1 / (side_y * side_x)  # of an error that counts: less than one grey level in one pixel
    gains = 10 * np.log10(np.maximum(errors[1], least) / np.maximum(errors[0], least))
    rows, columns = np.nonzero(errors[1] >= errors[1].mean() * (1 - 1e-9))
    return [(float(gains[row, column]), lefts[column], tops[row]) for row, column in zip(rows, columns, strict=True)]


def starts(length: int, side: int) -> list[int]:
    """Where windows begin that reach from end to end, half a window apart at most."""
    count = max(1, math.ceil((length - side) / max(1, side // 2)) + 1)
    return [round(number * (length - side) / max(1, count - 1)) for number in range(count)]


def _window_errors(
    image: np.ndarray, hr: np.ndarray, tops: Sequence[int], lefts: Sequence[int], height: int, width: int
) -> np.ndarray:
    """Mean squared error of RGB in every window, (rows, columns)."""
    apart = cv2.absdiff(image, hr)
    squared = cv2.multiply(apart, apart, dtype=cv2.CV_32F)
    sums = cv2.integral(cv2.transform(squared, np.ones((1, 3), np.float32)))  # float64 (H + 1, W + 1)
    top, left = np.array(tops)[:, None], np.array(lefts)[None, :]
    bottom, right = top + height, left + width
    total = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.maximum(total, 0) / (3 * height * width)
