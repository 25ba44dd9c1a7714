"""Effective receptive field (ERF): how much each LR pixel moves the SR pixels in the middle.

Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", NIPS
2016.
"""

import numpy as np
import torch
from torch import Tensor

from tools.insight.opened import Network

SHARES = (0.5, 0.9, 0.99)


def centre_of(height: int, width: int) -> tuple[int, int]:
    """Row and column of the LR pixel in the middle."""
    return height // 2, width // 2


def erf(network: Network, pictures: list[Tensor], scale: int) -> np.ndarray:
    """Mean over pictures of the gradient's size, colours added up: float64 (H, W).

    What is differentiated is the sum of the SR pixels, in all colours, that the LR pixel in the middle stands for.

    Args:
        pictures: (1, 3, H, W) in [0, 1], all of one size.
    """
    total = torch.zeros(pictures[0].shape[-2:], dtype=torch.float64)
    row, column = centre_of(*total.shape)
    for picture in pictures:
        place = picture.clone().requires_grad_()
        seen = network(place)[..., scale * row : scale * (row + 1), scale * column : scale * (column + 1)]
        (slope,) = torch.autograd.grad(seen.sum(), place)
        total += slope[0].double().abs().sum(dim=0)
    return (total / len(pictures)).numpy()


def distances(height: int, width: int) -> np.ndarray:
    """(H, W): how far each LR pixel is from the one in the middle, in pixels."""
    row, column = centre_of(height, width)
    return np.hypot(np.arange(height)[:, None] - row, np.arange(width) - column)


def radii(field: np.ndarray, shares: tuple[float, ...] = SHARES) -> list[float]:
    """For each share the radius, in LR pixels, of the smallest disc around the middle that holds it."""
    far = distances(*field.shape).ravel()
    order = np.argsort(far, kind="stable")
    held = np.cumsum(field.ravel()[order])
    return [float(far[order[np.searchsorted(held, share * held[-1])]]) for share in shares]


def noise(count: int, side: int, seed: int = 0) -> list[Tensor]:
    """`count` pictures (1, 3, side, side) of independent uniform numbers in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, 3, side, side, generator=generator) for _ in range(count)]
