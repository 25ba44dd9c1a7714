"""ESAM's attention: how much each place of the 10x10 window counts for a query of the 8x8 block inside it.

Places are pixels of the halved map, so each stands for 2x2 LR pixels, and a block for 16x16.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models import ESAM, SSIU
from models.ssiu import BLOCK, HALO, convolve, windows_of
from tools.insight.unfolding import padded
from utils import InputError

WINDOW = BLOCK + 2 * HALO
CELL = 2  # LR pixels along a side of a place


@dataclass(frozen=True)
class Query:
    """A place of the halved map that looks around; rows and columns from 0."""

    row: int
    column: int

    @classmethod
    def at(cls, x: int, y: int) -> "Query":
        """The place of an LR pixel."""
        return cls(y // CELL, x // CELL)

    @property
    def block(self) -> tuple[int, int]:
        """Row and column of its block among the blocks."""
        return self.row // BLOCK, self.column // BLOCK

    @property
    def inside(self) -> tuple[int, int]:
        """Its row and column in its block."""
        return self.row % BLOCK, self.column % BLOCK

    @property
    def window(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge of the window in LR pixels, of which the first has its centre at 0."""
        top, left = (CELL * (BLOCK * block - HALO) - 0.5 for block in self.block)
        return left, left + CELL * WINDOW, top + CELL * WINDOW, top


def esam_of(model: SSIU, stage: int) -> ESAM:
    """ESAM of a stage, numbered from 1. Raises InputError if there is none."""
    if not 1 <= stage <= len(model.body):
        raise InputError(f"--stage {stage}: the network has stages 1 to {len(model.body)}")
    found = model.body[stage - 1].s3
    if found is None:
        raise InputError("attention: this network has no ESAM; name other weights")
    return found


@torch.no_grad()
def attention_of(model: SSIU, picture: Tensor, stage: int, block: tuple[int, int]) -> Tensor:
    """All attention of one block of a stage: (heads, 8, 8, 10, 10), query rows and columns, then the window's.

    The window's places sum to 1 for every head and query; those outside the map, whose keys are zero, take part.
    """
    esam, taken = esam_of(model, stage), []
    hook = esam.register_forward_pre_hook(lambda _module, given: taken.append(given[0]))
    try:
        model(picture)
    finally:
        hook.remove()
    return probabilities(esam, taken[0], block)


def probabilities(esam: ESAM, v: Tensor, block: tuple[int, int]) -> Tensor:
    """softmax(q k^T / sqrt(d)) of one block of what ESAM is given, (1, H, W, C): see `attention_of`."""
    u = F.max_pool2d(v.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    q, k, _ = convolve(u, esam.qkv_conv).chunk(3, dim=-1)
    row, column = block
    q = q[0, BLOCK * row : BLOCK * (row + 1), BLOCK * column : BLOCK * (column + 1)]  # (8, 8, C)
    q, k = (t.unflatten(-1, (esam.heads, -1)) for t in (q, windows_of(k)[0, row, :, column]))  # (.., .., heads, d)
    scores = torch.einsum("pqnd,ijnd->npqij", q, k + esam.positions()[0, :, :, None]) * q.shape[-1] ** -0.5
    return scores.flatten(3).softmax(dim=-1).unflatten(3, (WINDOW, WINDOW))


def outside(picture: Tensor, block: tuple[int, int]) -> np.ndarray:
    """(10, 10) bool: the places of a block's window that lie outside the map, padding of the picture included in it."""
    lines = []
    for number, side in zip(block, padded(picture), strict=True):
        places = BLOCK * number - HALO + np.arange(WINDOW)
        lines.append((places < 0) | (places >= side // CELL))
    return lines[0][:, None] | lines[1]
