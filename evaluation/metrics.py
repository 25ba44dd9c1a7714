"""PSNR and SSIM of super-resolved images under the two protocols in use for the paper.

`standard` is what the field compares; `official` is how the paper's own table was made. Both work on luma (Y of BT.601)
and leave out a border of `scale` pixels. Means over images are plain means and are never rounded here.
"""

import math
from typing import NamedTuple

import pytorch_msssim
import torch
import torch.nn.functional as F
from torch import Tensor

from models.pixels import to_uint8

LUMA = (65.481, 128.553, 24.966)  # BT.601, for RGB in [0, 1] and Y in [16, 235]
PEAK = 255.0
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004


class Scores(NamedTuple):
    """One image, or the mean over a set, under one protocol."""

    psnr: float  # dB, infinite for equal images
    ssim: float  # in [-1, 1]


def luma(image: Tensor) -> Tensor:
    """Y of BT.601 YCbCr in float64, not rounded: uint8 RGB (3, H, W) -> (H, W) in [16, 235]."""
    weights = torch.tensor(LUMA, dtype=torch.float64, device=image.device) / 255
    return 16 + torch.einsum("c,chw->hw", weights, image.double())


def offset_luma(image: Tensor) -> Tensor:
    """The `official` luma: a formula for [0, 255] applied to [0, 1], float32 (3, H, W) -> (H, W) near [4080, 4299].

    Y = (16 + (65.481 R + 128.553 G + 24.966 B) / 255) * 255, all of it in float32.
    """
    red, green, blue = image.float()
    return (16 + (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) / 255) * 255


def crop_border(image: Tensor, border: int) -> Tensor:
    """Leave out `border` pixels on every side of the last two axes."""
    height, width = image.shape[-2:]
    return image[..., border : height - border, border : width - border]


def psnr(a: Tensor, b: Tensor) -> float:
    """10 log10(255^2 / mean((a - b)^2)) in dB, the difference in float64; infinite for equal images, NaN for NaN."""
    error = (a.double() - b.double()).square().mean().item()
    return 10 * math.log10(PEAK**2 / error) if error != 0 else math.inf


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity (Wang et al. 2004) of two (H, W) images over 255, in float64.

    11x11 Gaussian window of sigma 1.5, valid region, K = (0.01, 0.03), population (not sample) variances.

    Raises:
        ValueError: a side shorter than the window.
    """
    if min(a.shape) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels, not {a.shape[0]}x{a.shape[1]}")
    offsets = torch.arange(WINDOW, dtype=torch.float64, device=a.device) - WINDOW // 2
    gauss = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    gauss = gauss / gauss.sum()
    a, b = a.double(), b.double()
    maps = torch.stack([a, b, a * a, b * b, a * b])[:, None]
    maps = F.conv2d(F.conv2d(maps, gauss.view(1, 1, -1, 1)), gauss.view(1, 1, 1, -1))[:, 0]
    mean_a, mean_b, aa, bb, ab = maps
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast_structure = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
    return (luminance * contrast_structure).mean().item()


def standard_scores(sr: Tensor, hr: Tensor, scale: int) -> Scores:
    """The field's protocol: SR in [0, 1] float (3, H, W) or uint8, HR uint8 (3, H, W); Y in float64.

    Raises:
        ValueError: different shapes, or too small for SSIM once the border is left out.
    """
    _same_shape(sr, hr)
    sr = sr if sr.dtype == torch.uint8 else to_uint8(sr)
    sr, hr = (crop_border(luma(image), scale) for image in (sr, hr))
    return Scores(psnr(sr, hr), ssim(sr, hr))


def official_scores(sr: Tensor, hr: Tensor, scale: int) -> Scores:
    """The paper's protocol: SR float32 (3, H, W), neither clipped nor rounded, and HR; uint8 stands for its 255th.

    The offset of 4080 drives SSIM's luminance term to 1 and costs float32 the digits of the variances, so this SSIM
    reads higher than the standard one and depends on the backend by up to 1e-3 on an image.

    Raises:
        ValueError: different shapes.
    """
    _same_shape(sr, hr)
    sr, hr = (image.float() / PEAK if image.dtype == torch.uint8 else image for image in (sr, hr))
    sr, hr = (crop_border(offset_luma(image), scale) for image in (sr, hr))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        similarity = pytorch_msssim.ssim(sr[None, None], hr[None, None], data_range=PEAK).item()
    return Scores(psnr(sr, hr), similarity)


def mean_scores(scores: list[Scores]) -> Scores:
    """Plain mean over the images of a set, unrounded."""
    return Scores(*(math.fsum(values) / len(scores) for values in zip(*scores, strict=True)))


def rounded_like_the_paper(scores: Scores) -> Scores:
    """The paper prints its means rounded upwards, to 2 and 4 decimals; for comparison with its table only."""
    return Scores(round(scores.psnr + 0.005, 2), round(scores.ssim + 0.00005, 4))


def _same_shape(sr: Tensor, hr: Tensor) -> None:
    if sr.shape != hr.shape:
        raise ValueError(f"SR of shape {tuple(sr.shape)} cannot be scored against HR of shape {tuple(hr.shape)}")
