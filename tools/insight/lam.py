"""Local attribution maps (LAM): which LR pixels the detail in a window of the SR image comes from.

Gu and Dong, "Interpreting Super-Resolution Networks with Local Attribution Maps", CVPR 2021. The picture is blurred,
and the blur is taken away step by step. What each step adds to the detail in the window is shared among the LR pixels
by their gradients: path-integrated gradients, whose sum over all pixels is the difference that the whole path makes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tools.insight.opened import Network
from utils import InputError, Terminal

SIGMA = 1.2  # LR pixels, of the blur that the path begins with
STEPS = 50
SHARE = 0.9  # of the attribution that the area of contribution holds
SMALL = 1e-3  # a quarter of a grey level: keeps the slope of a slope's size finite where there is none
Window = tuple[int, int, int]  # left, top and side in SR pixels


@dataclass(frozen=True)
class Attribution:
    """A LAM.

    Attributes:
        pixels: float64 (3, H, W), the part of each LR sample in the difference of the detail, of either sign.
        before, after: the detail in the window for the blurred picture and for the picture.
    """

    pixels: np.ndarray
    before: float
    after: float

    @property
    def strength(self) -> np.ndarray:
        """(H, W): size of each LR pixel's part, its colours added up."""
        return np.abs(self.pixels.sum(axis=0))

    @property
    def missing(self) -> float:
        """How far the parts' sum is from the difference that they share, as a fraction of it."""
        difference = self.after - self.before
        return abs(float(self.pixels.sum()) - difference) / max(abs(difference), 1e-12)

    @property
    def diffusion(self) -> float:
        """Diffusion index in [0, 100]: large if many pixels have a part."""
        return 100 * (1 - gini(self.strength))


def lam(network: Network, picture: Tensor, window: Window, sigma: float = SIGMA, steps: int = STEPS) -> Attribution:
    """The LAM of a window of the SR image.

    Each step counts with the difference of its two ends and the gradient in its middle, so the error of the sum falls
    with the square of the number of steps where the network is smooth.

    Args:
        picture: (1, 3, H, W) in [0, 1].
    """
    with torch.no_grad():
        before, after = (detail(network(blurred(picture, width)), window).item() for width in (sigma, 0.0))
    pixels = torch.zeros_like(picture, dtype=torch.float64)
    for step in tqdm(range(steps), "LAM", unit="step", leave=False, file=Terminal()):
        begin, middle, end = (sigma * (1 - (step + part) / steps) for part in (0, 0.5, 1))
        place = blurred(picture, middle).requires_grad_()
        (slope,) = torch.autograd.grad(detail(network(place), window), place)
        pixels += slope.double() * (blurred(picture, end).double() - blurred(picture, begin).double())
    return Attribution(pixels[0].numpy(), before, after)


def detail(sr: Tensor, window: Window) -> Tensor:
    """Sum of the sizes of the gradient inside a window of (1, 3, sH, sW), over pixels and colours: shape ()."""
    left, top, side = window
    part = sr[..., top : top + side, left : left + side]
    along_x = part[..., :-1, 1:] - part[..., :-1, :-1]
    along_y = part[..., 1:, :-1] - part[..., :-1, :-1]
    return (along_x.square() + along_y.square() + SMALL**2).sqrt().sum()


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """(1, 3, H, W) under a Gaussian kernel, `sigma` in pixels; the edge pixels are repeated; 0: as it is."""
    down, across = (_blur(side, sigma).to(picture.dtype) for side in picture.shape[-2:])
    return down @ picture @ across.T


def _blur(side: int, sigma: float) -> Tensor:
    """(side, side) float64: what each pixel of a line adds to each; rows sum to 1."""
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-offsets.double().square() / (2 * max(sigma, 1e-6) ** 2))
    places = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(side, -1))


def gini(values: np.ndarray) -> float:
    """Gini coefficient of numbers from 0 up: 0 if all are equal, near 1 if one has everything."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    count, total = len(ordered), ordered.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, count + 1)
    return float(((2 * ranks - count - 1) * ordered).sum() / (count * total))


def area(strength: np.ndarray, share: float = SHARE) -> np.ndarray:
    """(H, W) bool: the fewest pixels that hold this share of the attribution together."""
    order = np.argsort(-strength, axis=None, kind="stable")
    held = np.cumsum(strength.ravel()[order])
    needed = 1 + int(np.searchsorted(held, share * held[-1]))
    inside = np.zeros(strength.size, dtype=bool)
    inside[order[:needed]] = True
    return inside.reshape(strength.shape)


def check_window(window: Window, height: int, width: int) -> None:
    """Raises InputError for a window beyond an SR image of this size, or without any slope."""
    left, top, side = window
    text = f"--window {left},{top},{side}"
    if side < 2:
        raise InputError(f"{text}: its side must be 2 SR pixels at least")
    if left + side > width or top + side > height:
        raise InputError(f"{text}: reaches beyond the SR image of the picture or crop, {width}x{height} SR pixels")
