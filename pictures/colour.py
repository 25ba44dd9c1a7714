"""From a picture to its result's rows: grey, alpha, and one rounding at the end.

Alpha goes through the network as a grey picture. Colours go through it apart from alpha, once hidden ones have been
replaced by the mean, weighted by alpha, of what is seen around them: so nothing hidden bleeds into an edge, and the
network sees no edge where only alpha has one. (Premultiplied colours, divided by the new alpha afterwards, were tried:
the network answers to their edge against black, and a plain red disc came out with colours wrong by up to 41 of 255.)
What lies further than a pixel inside a fully transparent or a fully opaque area stays exactly that.
"""

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from pictures.decode import Picture
from pictures.fit import Size, fitted

Rows = Callable[[np.ndarray], Iterator[np.ndarray]]  # of `pictures.rows.sr_rows`, for a chosen network
SEEN = 8  # a colour whose alpha is 1/8 or more is taken as it is; below, the colours around it come in


def result_rows(rows: Rows, picture: Picture, scale: int, size: Size, bits: int) -> Iterator[np.ndarray]:
    """The result's pixels, from the top down.

    Args:
        rows: (H, W, 3) array -> bands of float32 SR rows.
        size: (width, height) of the result, `scale` times the picture's or smaller.
        bits: of the result's samples, 8 or 16.

    Yields:
        uint8 or uint16 (h, width, C): grey or RGB, with alpha where the picture has it.
    """
    alpha = picture.alpha
    bands = _of_colour(rows, picture.colour) if alpha is None else _with_alpha(rows, picture.colour, alpha)
    bands = fitted(bands, (scale * picture.head.width, scale * picture.head.height), size)
    top = 0
    for band in bands:
        if alpha is not None:
            _settle(band, *_inside(alpha, top, band.shape[0], size))
        rounded = np.rint(band.clip(0, 1) * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
        if alpha is not None:
            rounded[rounded[:, :, -1] == 0] = 0
        yield rounded
        top += band.shape[0]


def _of_colour(rows: Rows, colour: np.ndarray) -> Iterator[np.ndarray]:
    """(H, W, C) -> bands of float32 (h, sW, C)."""
    if colour.shape[2] == 3:
        yield from rows(colour)
    else:
        yield from (band.mean(axis=2, keepdims=True) for band in rows(np.broadcast_to(colour, (*colour.shape[:2], 3))))


def _with_alpha(rows: Rows, colour: np.ndarray, alpha: np.ndarray) -> Iterator[np.ndarray]:
    """(H, W, C) and (H, W) -> bands of float32 (h, sW, C + 1)."""
    largest = np.iinfo(alpha.dtype).max
    if alpha.min() == largest:  # nothing is transparent: the network need not say so
        for band in _of_colour(rows, colour):
            yield np.concatenate([band, np.ones_like(band[:, :, :1])], axis=2)
        return
    coverage, weighted = alpha.astype(np.float32)[:, :, None], colour.astype(np.float32)
    coverage /= largest
    weighted /= largest
    weighted *= coverage
    seen = _without_hidden(weighted, coverage)
    for band, covered in zip(_of_colour(rows, seen), _of_colour(rows, coverage), strict=True):
        yield np.concatenate([band, covered], axis=2)


def _without_hidden(weighted: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours times alpha, float32 (H, W, C), and alpha (H, W, 1) -> colours; where alpha is little, those around it.

    What is around is found in the picture of half the size, where alpha weights the mean, and so on down to one pixel.
    """
    height, width = alpha.shape[:2]
    own = weighted / np.maximum(alpha, np.float32(1e-6))
    if max(height, width) == 1:
        return own
    half = (-(-width // 2), -(-height // 2))
    smaller = [cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in (weighted, alpha)]
    around = _without_hidden(*(plane.reshape(half[1], half[0], -1) for plane in smaller))
    around = cv2.resize(around, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, -1)
    share = np.minimum(alpha * SEEN, 1)
    own *= share
    around *= 1 - share
    own += around
    return own


def _inside(alpha: np.ndarray, top: int, height: int, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Where result rows from `top` on lie inside fully transparent, and inside fully opaque areas: bool (h, width)."""
    y = ((np.arange(top, top + height) + 0.5) * alpha.shape[0] / size[1]).astype(int)
    x = ((np.arange(size[0]) + 0.5) * alpha.shape[1] / size[0]).astype(int)
    near = slice(max(y[0] - 1, 0), y[-1] + 2)
    square = np.ones((3, 3), np.uint8)
    area = np.ascontiguousarray(alpha[near])
    index = np.ix_(y - near.start, x)
    return cv2.dilate(area, square)[index] == 0, cv2.erode(area, square)[index] == np.iinfo(alpha.dtype).max


def _settle(band: np.ndarray, clear: np.ndarray, solid: np.ndarray) -> None:
    """Make alpha, the last channel of a band, 0 and 1 where it must be."""
    band[:, :, -1][clear] = 0
    band[:, :, -1][solid] = 1
