"""The network on a picture: from an array to bands of super-resolved rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models.memory import rows_of_whole


class Runner(Protocol):
    """What makes images `scale` times as large, as `models.Upscaler` does: (H, W, 3) -> rows, float32 (3, n, sW)."""

    @property
    def scale(self) -> int: ...

    def stream(self, image: np.ndarray) -> Iterator[Tensor]: ...


@dataclass
class Whole:
    """A network that takes pictures whole, such as the average over a picture's flips and transpositions."""

    network: Callable[[Tensor], Tensor]
    device: torch.device
    scale: int

    def stream(self, image: np.ndarray) -> Iterator[Tensor]:
        return rows_of_whole(self.network, image, self.device)


def sr_rows(upscaler: Runner, image: np.ndarray) -> Iterator[np.ndarray]:
    """Super-resolve an image; its rows come from the top down. A large one takes memory by its width alone.

    Args:
        image: (H, W, 3), uint8, uint16, or float32 in [0, 1].

    Yields:
        float32 (h, sW, 3), neither clipped nor rounded, h rows at a time.
    """
    for rows in upscaler.stream(image):
        yield rows.permute(1, 2, 0).contiguous().numpy()
