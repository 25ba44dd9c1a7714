"""The network on a whole picture: from an array to bands of super-resolved rows."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BAND = 256  # rows that are handed on at once


class Runner(Protocol):
    """What super-resolves, as `models.Upscaler` does.

    Attributes:
        network: (1, 3, H, W) in [0, 1] -> float32 (1, 3, sH, sW).
        device: where it runs.
    """

    network: Callable[[Tensor], Tensor]
    device: torch.device

    @property
    def scale(self) -> int: ...


def sr_rows(upscaler: Runner, image: np.ndarray) -> Iterator[np.ndarray]:
    """Super-resolve an image; its rows come from the top down.

    Args:
        image: (H, W, 3), uint8, uint16, or float32 in [0, 1].

    Yields:
        float32 (h, sW, 3), neither clipped nor rounded, h rows at a time.
    """
    largest = 1 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    x = torch.from_numpy(np.ascontiguousarray(image)).to(upscaler.device)
    with torch.no_grad():
        out = upscaler.network(x.permute(2, 0, 1)[None].float() / largest)[0]
    for top in range(0, out.shape[1], BAND):
        yield out[:, top : top + BAND].permute(1, 2, 0).contiguous().cpu().numpy()
