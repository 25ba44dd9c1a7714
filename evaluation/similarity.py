"""Structural similarity (Wang et al. 2004), fast on a CPU: in float64, and in float32 with pytorch_msssim's bits.

Both go through an image in bands of rows, whose maps stay in the processor's cache and whose memory is bounded.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import pytorch_msssim
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.threads import mean, usual_count, usual_threads

PEAK = 255.0
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03
C1, C2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
HALO = WINDOW - 1  # rows and columns by which means within the window are fewer than values
BAND = 96  # rows
LANES = 16  # numbers that a processor's widest register holds; oneDNN computes as many channels at once
SMALL = 2**15  # values; up to 20,480 of them PyTorch filters a single map by other code, which has other bits


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of two (H, W) images over 255, in float64.

    11x11 Gaussian window of sigma 1.5, valid region, K = (0.01, 0.03), population (not sample) variances. On a CPU the
    window slides in OpenCV, a tenth of the time of PyTorch's convolution in float64, which stays for other devices.

    Raises:
        ValueError: a side shorter than the window.
    """
    return ssims([a], b)[0]


def ssims(images: Sequence[Tensor], reference: Tensor) -> list[float]:
    """`ssim` of several images with one, whose own means are computed once."""
    height, width = reference.shape
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels, not {height}x{width}")
    if reference.device.type != "cpu":
        return [ssim_by_convolution(image, reference) for image in images]
    totals = [0.0] * len(images)
    for top in range(0, height - HALO, BAND):
        y, *bands = (image[top : top + BAND + HALO].double().numpy() for image in (reference, *images))
        mean_y, yy = _windowed_by_opencv(y), y * y
        for place, x in enumerate(bands):
            totals[place] += _sum_of_similarity(x, y, yy, mean_y)
    return [total / ((height - HALO) * (width - HALO)) for total in totals]


def _sum_of_similarity(x: np.ndarray, y: np.ndarray, yy: np.ndarray, mean_y: np.ndarray) -> float:
    """The sum of (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2)) over the valid region.

    Arrays are overwritten and kept whole: neither new memory nor rows with gaps are as fast.
    """
    mean_x, covariance, variances = (_windowed_by_opencv(values) for values in (x, x * y, x * x + yy))
    products, squares = mean_x * mean_y, mean_x * mean_x
    squares += mean_y * mean_y
    covariance -= products
    variances -= squares
    products *= 2
    products += C1
    covariance *= 2
    covariance += C2
    squares += C1
    variances += C2
    products *= covariance
    squares *= variances
    products /= squares
    edge = HALO // 2
    return float(products[edge:-edge, edge:-edge].sum())


def ssim_by_convolution(a: Tensor, b: Tensor) -> float:
    """The same, as it is defined, on any device."""
    gauss = torch.from_numpy(_gaussian()).to(a.device)
    a, b = a.double(), b.double()
    maps = torch.stack([a, b, a * a, b * b, a * b])[:, None]
    mean_a, mean_b, aa, bb, ab = F.conv2d(F.conv2d(maps, gauss.view(1, 1, -1, 1)), gauss.view(1, 1, 1, -1))[:, 0]
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    contrast_structure = (2 * (ab - mean_a * mean_b) + C2) / (aa - mean_a**2 + bb - mean_b**2 + C2)
    return (luminance * contrast_structure).mean().item()


def _gaussian() -> np.ndarray:
    """The window along one axis, which sums to 1: float64 (11,)."""
    gauss = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    return gauss / gauss.sum()


def _windowed_by_opencv(values: np.ndarray) -> np.ndarray:
    """Weighted means within the window, float64 (H, W) -> (H, W), of which five rows and columns are border."""
    gauss = _gaussian()
    return cv2.sepFilter2D(values, cv2.CV_64F, gauss, gauss)


def ssim_of_msssim(a: Tensor, b: Tensor) -> float:
    """`pytorch_msssim.ssim` of two float32 (H, W) images over 255, with its defaults and its bits.

    On a CPU it is computed in bands and with several maps in one convolution, in a third of the time and less, where
    that was seen to give the same bits: every sum within a window has the same order then. Else pytorch_msssim does it.
    """
    return ssims_of_msssim([a], b)[0]


def ssims_of_msssim(images: Sequence[Tensor], reference: Tensor) -> list[float]:
    """`ssim_of_msssim` of several images with one, whose own means are computed once."""
    height, width = reference.shape
    may = reference.device.type == "cpu" and (height - HALO) * width > SMALL
    if may and _bands_have_its_bits(width, usual_count()):
        return _by_bands(images, reference)
    return [_by_the_library(image, reference) for image in images]


def _by_the_library(a: Tensor, b: Tensor) -> float:
    """`pytorch_msssim.ssim`, on a GPU without TF32, which PyTorch allows unasked."""
    if a.device.type == "cpu":  # no switch is moved, as it would be moved under another thread's network
        with usual_threads():
            return pytorch_msssim.ssim(a[None, None], b[None, None], data_range=PEAK).item()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return pytorch_msssim.ssim(a[None, None], b[None, None], data_range=PEAK).item()


@lru_cache(maxsize=256)
def _bands_have_its_bits(width: int, _threads: int) -> bool:
    """Whether `_by_bands` gives pytorch_msssim's bits for images of this width: tried on noise as bright as Yo.

    At 4,100 float32 keeps so few digits of the variances that any other order of the sums shows.
    """
    height = HALO + SMALL // width + BAND // 8
    noise = torch.Generator().manual_seed(0)
    reference = 4080 + 219 * torch.rand(height, width, generator=noise)
    images = [reference + torch.randn(height, width, generator=noise) for _ in range(2)]
    return _by_bands(images, reference) == [_by_the_library(image, reference) for image in images]


def _by_bands(images: Sequence[Tensor], reference: Tensor) -> list[float]:
    """The steps of `pytorch_msssim.ssim`, one by one, in bands of rows."""
    similarity = reference.new_empty(len(images), reference.shape[0] - HALO, reference.shape[1] - HALO)
    for top in range(0, similarity.shape[1], BAND):
        y, *bands = (image[top : top + BAND + HALO] for image in (reference, *images))
        maps = _windowed_by_channels(torch.stack([y, y * y, *(part for x in bands for part in (x, x * x, x * y))]))
        mean_y, variance_y = maps[0], maps[1] - maps[0].pow(2)
        for place in range(len(images)):
            mean_x, xx, xy = maps[2 + 3 * place : 5 + 3 * place]
            square_x, square_y, product = mean_x.pow(2), mean_y.pow(2), mean_x * mean_y
            contrast_structure = (2 * (xy - product) + C2) / ((xx - square_x) + variance_y + C2)
            found = ((2 * product + C1) / (square_x + square_y + C1)) * contrast_structure
            similarity[place, top : top + BAND] = found
    return [mean(one) for one in similarity]


def _gaussian_of_msssim() -> Tensor:
    """The window along one axis as pytorch_msssim computes it, float32 (11,)."""
    gauss = torch.exp(-((torch.arange(WINDOW, dtype=torch.float32) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    return gauss / gauss.sum()


def _windowed_by_channels(maps: Tensor) -> Tensor:
    """Weighted means within the window, float32 (M, H, W) -> (M, H - 10, W - 10).

    The maps, and pieces of them, one below the other, are channels of one convolution, so that no lane is idle.
    """
    count, height, width = maps.shape
    rows, pieces = height - HALO, max(1, LANES // count)
    step = -(-rows // pieces)
    channels = count * pieces
    gauss = _gaussian_of_msssim()
    maps = F.pad(maps, (0, 0, 0, step * pieces - rows))
    maps = maps.unfold(1, step + HALO, step).transpose(2, 3).reshape(1, channels, step + HALO, width)
    maps = F.conv2d(maps, gauss.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    maps = F.conv2d(maps, gauss.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return maps.view(count, step * pieces, -1)[:, :rows]
