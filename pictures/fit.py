"""Sizes of results, and making them smaller."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

Size = tuple[int, int]  # (width, height)


def result_size(width: int, height: int, scale: int, fit: Size | None) -> Size:
    """(width, height) of a picture that is made `scale` times as large, and then to fit inside `fit`, never larger."""
    width, height = scale * width, scale * height
    factor = min(1.0, fit[0] / width, fit[1] / height) if fit else 1.0
    return max(1, round(width * factor)), max(1, round(height * factor))


def fitted(bands: Iterator[np.ndarray], whole: Size, size: Size) -> Iterator[np.ndarray]:
    """The float32 (h, W, C) bands of a picture of size `whole`, made smaller by an antialiased Lanczos filter.

    That gives one band, all rows. Where `size` is `whole`, bands stay as they are.
    """
    if size == whole:
        yield from bands
        return
    held = list(bands)
    yield np.stack([_fitted_channel(held, channel, size) for channel in range(held[0].shape[2])], axis=2)


def _fitted_channel(bands: list[np.ndarray], channel: int, size: Size) -> np.ndarray:
    plane = np.concatenate([band[:, :, channel] for band in bands])
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS))
