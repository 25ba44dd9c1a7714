"""Images cut into tiles for a network whose maps of a whole image do not fit into the memory. It changes pixels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """How images are cut.

    A tile is computed with `overlap` pixels around its own part, which it sees and leaves to its neighbours. Nothing is
    blended: a mean of two tiles would be the output of neither. Pixels are those of the whole image, as far as padding
    to the network's sizes does not differ, where the network looks no further than `overlap`.

    Attributes:
        side: most LR pixels of a tile along each axis, its overlap among them.
        overlap: LR pixels at every cut side of a tile; less than half of `side`.
    """

    side: int
    overlap: int

    def __str__(self) -> str:
        return f"tiles of {self.side}, overlap {self.overlap}"

    def parts(self, length: int) -> Iterator[tuple[slice, slice, slice]]:
        """Along an axis: what each tile sees of the image, its own part in that, and its own part in the image."""
        own = length if length <= self.side else self.side - 2 * self.overlap
        for start in range(0, length, own):
            end = min(start + own, length)
            first = max(start - self.overlap, 0)
            yield slice(first, min(end + self.overlap, length)), slice(start - first, end - first), slice(start, end)


def tiled(network: Callable[[Tensor], Tensor], tiles: Tiles, scale: int) -> Callable[[Tensor], Tensor]:
    """The network tile by tile: (B, 3, H, W) -> float32 (B, 3, sH, sW) on the device of the input."""

    def larger(part: slice) -> slice:
        return slice(scale * part.start, scale * part.stop)

    def whole(x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        out = x.new_empty(*x.shape[:2], scale * height, scale * width, dtype=torch.float32)
        for seen_y, own_y, to_y in tiles.parts(height):
            for seen_x, own_x, to_x in tiles.parts(width):
                tile = network(x[..., seen_y, seen_x].contiguous())
                out[..., larger(to_y), larger(to_x)] = tile[..., larger(own_y), larger(own_x)]
        return out

    return whole
