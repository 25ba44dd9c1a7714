"""PSNR and SSIM of super-resolved images under the two protocols in use for the paper.

`standard` is what the field compares; `official` is how the paper's own table was made. Both work on luma (Y of BT.601)
and leave out a border of `scale` pixels. Means over images are plain means and are never rounded here.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.similarity import PEAK, ssims, ssims_of_msssim
from evaluation.threads import mean
from models.pixels import to_uint8

LUMA = (65.481, 128.553, 24.966)  # BT.601, for RGB in [0, 1] and Y in [16, 235]


class Scores(NamedTuple):
    """One image, or the mean over a set, under one protocol."""

    psnr: float  # dB, infinite for equal images
    ssim: float  # in [-1, 1]


def luma(image: Tensor) -> Tensor:
    """Y of BT.601 YCbCr in float64, not rounded: uint8 RGB (3, H, W) -> (H, W) in [16, 235]."""
    y = torch.full(image.shape[1:], 16, dtype=torch.float64, device=image.device)
    for channel, weight in zip(image, LUMA, strict=True):
        y.add_(channel.double(), alpha=weight / 255)
    return y


def offset_luma(image: Tensor) -> Tensor:
    """The `official` luma: a formula for [0, 255] applied to [0, 1], float32 (3, H, W) -> (H, W) near [4080, 4299].

    Y = (65.481 R/255 + 128.553 G/255 + 24.966 B/255 + 16) * 255, all of it in float32 and in this order: SSIM reads the
    last digits of such numbers. A uint8 image stands for its 255th.
    """
    is_uint8 = image.dtype == torch.uint8
    unit = (channel.float().div_(PEAK) if is_uint8 else channel.float() for channel in image)
    red, green, blue = ((channel / PEAK).mul_(weight) for channel, weight in zip(unit, LUMA, strict=True))
    return red.add_(green).add_(blue).add_(16).mul_(PEAK)


def crop_border(image: Tensor, border: int) -> Tensor:
    """Leave out `border` pixels on every side of the last two axes."""
    height, width = image.shape[-2:]
    return image[..., border : height - border, border : width - border]


def psnr(a: Tensor, b: Tensor) -> float:
    """10 log10(255^2 / mean((a - b)^2)) in dB, the difference in float64; infinite for equal images, NaN for NaN."""
    error = mean((a.double() - b.double()).square_())
    return 10 * math.log10(PEAK**2 / error) if error != 0 else math.inf


def standard_scores(sr: Tensor, hr: Tensor, scale: int) -> Scores:
    """`standard_of` one image."""
    return standard_of([sr], hr, scale)[0]


def standard_of(images: Sequence[Tensor], hr: Tensor, scale: int) -> list[Scores]:
    """The field's protocol, for several images of one HR image.

    Args:
        images: in [0, 1] float (3, H, W) or uint8; Y is of uint8 and in float64.
        hr: uint8 (3, H, W).

    Raises:
        ValueError: different shapes, or too small for SSIM once the border is left out.
    """
    _same_shapes(images, hr)
    images = [image if image.dtype == torch.uint8 else to_uint8(image) for image in images]
    lumas, reference = _cropped(luma, images, hr, scale)
    similarities = ssims(lumas, reference)
    return [Scores(psnr(y, reference), found) for y, found in zip(lumas, similarities, strict=True)]


def official_scores(sr: Tensor, hr: Tensor, scale: int) -> Scores:
    """`official_of` one image."""
    return official_of([sr], hr, scale)[0]


def official_of(images: Sequence[Tensor], hr: Tensor, scale: int) -> list[Scores]:
    """The paper's protocol, for several images of one HR image.

    The offset of 4080 drives SSIM's luminance term to 1 and costs float32 the digits of the variances, so this SSIM
    reads higher than the standard one and depends, as the paper's does, on the order in which the device and the
    library add up a window: by up to 1e-3 on an image.

    Args:
        images: float32 (3, H, W), neither clipped nor rounded; uint8, as in `hr`, stands for its 255th.

    Raises:
        ValueError: different shapes.
    """
    _same_shapes(images, hr)
    lumas, reference = _cropped(offset_luma, images, hr, scale)
    similarities = ssims_of_msssim(lumas, reference)
    return [Scores(psnr(y, reference), found) for y, found in zip(lumas, similarities, strict=True)]


def _cropped(
    to_luma: Callable[[Tensor], Tensor], images: Sequence[Tensor], hr: Tensor, border: int
) -> tuple[list[Tensor], Tensor]:
    """(Y of the images, Y of HR), the border left out."""
    *found, reference = (to_luma(crop_border(image, border)) for image in (*images, hr))
    return found, reference


def mean_scores(scores: list[Scores]) -> Scores:
    """Plain mean over the images of a set, unrounded."""
    return Scores(*(math.fsum(values) / len(scores) for values in zip(*scores, strict=True)))


def rounded_like_the_paper(scores: Scores) -> Scores:
    """The paper prints its means rounded upwards, to 2 and 4 decimals; for comparison with its table only."""
    return Scores(round(scores.psnr + 0.005, 2), round(scores.ssim + 0.00005, 4))


def _same_shapes(images: Sequence[Tensor], hr: Tensor) -> None:
    for image in images:
        if image.shape != hr.shape:
            raise ValueError(f"SR of shape {tuple(image.shape)} cannot be scored against HR of shape {tuple(hr.shape)}")
