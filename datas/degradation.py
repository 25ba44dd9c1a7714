"""MATLAB's `imresize(image, scale, 'bicubic')` for uint8 images, bit for bit.

Low-resolution images are made by `downscale`; `upscale` is the bicubic baseline. As in MATLAB, the height is resized
first and then the width; each pass works in float64, rounds half away from zero and clips to uint8.
"""

import math
from collections.abc import Callable

import numpy as np

_BAND = 64  # rows computed together, so that the accumulator stays in the processor's cache


def downscale(image: np.ndarray, s: int) -> np.ndarray:
    """MATLAB `imresize(image, 1/s, 'bicubic')` after cropping to a multiple of `s` at the top left.

    Args:
        image: (H, W, C) uint8 with H >= s and W >= s.
        s: the integer scale, >= 1.

    Returns:
        (H // s, W // s, C) uint8.
    """
    height, width = image.shape[0] // s, image.shape[1] // s
    if min(height, width) < 1:
        raise ValueError(f"an image of shape {image.shape} is too small for scale {s}")
    return imresize(image[: height * s, : width * s], 1 / s)


def upscale(image: np.ndarray, s: int) -> np.ndarray:
    """MATLAB `imresize(image, s, 'bicubic')`: (H, W, C) uint8 -> (s H, s W, C) uint8."""
    return imresize(image, s)


def imresize(image: np.ndarray, scale: float) -> np.ndarray:
    """MATLAB `imresize(image, scale, 'bicubic')` with its default antialiasing.

    Args:
        image: (H, W, C) uint8, any size from 1 pixel up.
        scale: output size over input size; below 1 the kernel is stretched against aliasing.

    Returns:
        (ceil(scale H), ceil(scale W), C) uint8.
    """
    image = _resize_height(image, scale)
    image = _resize_height(np.ascontiguousarray(image.transpose(1, 0, 2)), scale)
    return np.ascontiguousarray(image.transpose(1, 0, 2))


def _resize_height(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize the first axis of an (H, W, C) uint8 image, tap by tap in ascending order as MATLAB sums them."""
    rows = image.reshape(image.shape[0], -1)
    weights, indices = contributions(image.shape[0], scale)
    output = np.empty((len(weights), rows.shape[1]), np.uint8)
    for start in range(0, len(weights), _BAND):
        band = slice(start, start + _BAND)
        total = np.zeros(output[band].shape)
        for weight, index in zip(weights[band].T, indices[band].T, strict=True):
            total += weight[:, None] * rows[index]
        output[band] = np.floor(np.clip(total, 0, 255) + 0.5)
    return output.reshape(-1, *image.shape[1:])


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5 (MATLAB's 'bicubic')."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def contributions(
    length: int,
    scale: float,
    kernel: Callable[[np.ndarray], np.ndarray] = cubic,
    support: int = 4,
    antialias: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Which input samples make each output sample (MATLAB's `contributions`).

    Args:
        kernel, support: of the distance in samples, 0 beyond half of its support.
        antialias: stretch the kernel by 1 / scale where the image shrinks.

    Returns:
        weights (outputs, taps) float64, each row summing to 1, and indices (outputs, taps) into the input.
    """
    outputs = math.ceil(scale * length)
    stretch = min(scale, 1.0) if antialias else 1.0  # the kernel is 1/scale times as wide when the image shrinks
    width = support / stretch
    centre = np.arange(1, outputs + 1) / scale + 0.5 * (1 - 1 / scale)  # 1-based
    left = np.floor(centre - width / 2)
    taps = left[:, None] + np.arange(math.ceil(width) + 2)
    weights = stretch * kernel(stretch * (centre[:, None] - taps))
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    mirror = np.concatenate([np.arange(length), np.arange(length)[::-1]])  # c b a | a b c, repeated
    indices = mirror[np.mod(taps.astype(np.int64) - 1, 2 * length)]
    return weights[:, used], indices[:, used]
