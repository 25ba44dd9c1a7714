"""The network on a whole picture: from an array to bands of super-resolved rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BAND = 256  # rows that are handed on at once
LARGE = 2**18  # pixels of a picture whose rows flow through the network; whole maps would take over 500 MiB
STREAMING = ("plain", "cpu")  # backends whose rows flow


class Runner(Protocol):
    """What super-resolves, as `models.Upscaler` does.

    Attributes:
        network: (1, 3, H, W) in [0, 1] -> float32 (1, 3, sH, sW).
        device, backend: where it runs, and through which implementation.
        stream: an image (H, W, 3) -> float32 (3, n, sW), row by row; None where pictures must be taken whole.
    """

    @property
    def network(self) -> Callable[[Tensor], Tensor]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def backend(self) -> str: ...

    @property
    def scale(self) -> int: ...

    @property
    def stream(self) -> Callable[[np.ndarray], Iterator[Tensor]] | None: ...


@dataclass
class Whole:
    """A network that takes pictures whole, such as the average over a picture's flips and transpositions."""

    network: Callable[[Tensor], Tensor]
    device: torch.device
    backend: str
    scale: int
    stream: None = None


def sr_rows(upscaler: Runner, image: np.ndarray) -> Iterator[np.ndarray]:
    """Super-resolve an image; its rows come from the top down. A large one takes memory by its width alone.

    Args:
        image: (H, W, 3), uint8, uint16, or float32 in [0, 1].

    Yields:
        float32 (h, sW, 3), neither clipped nor rounded, h rows at a time.
    """
    if upscaler.stream is not None and upscaler.backend in STREAMING and image.shape[0] * image.shape[1] > LARGE:
        for rows in upscaler.stream(image):
            yield rows.permute(1, 2, 0).contiguous().numpy()
        return
    largest = 1 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    x = torch.from_numpy(np.ascontiguousarray(image)).to(upscaler.device)
    with torch.no_grad():
        out = upscaler.network(x.permute(2, 0, 1)[None].float() / largest)[0]
    for top in range(0, out.shape[1], BAND):
        yield out[:, top : top + BAND].permute(1, 2, 0).contiguous().cpu().numpy()
