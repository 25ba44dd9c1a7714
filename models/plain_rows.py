"""Rows and columns of maps that are never whole: what models/plain_stream.py is built of. Maps are (1, n, W, C)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Held:
    """Rows `first` .. `end` of a map."""

    def __init__(self) -> None:
        self.first = self.end = 0
        self.rows: Tensor | None = None

    def put(self, rows: Tensor) -> None:
        self.rows = rows if self.rows is None else torch.cat([self.rows, rows], dim=1)
        self.end += rows.shape[1]

    def peek(self, count: int) -> Tensor:
        """The first `count`."""
        assert self.rows is not None
        assert count <= self.rows.shape[1]
        return self.rows[:, :count]

    def take(self, count: int) -> Tensor:
        """The first `count`, which are held no longer."""
        rows = self.peek(count)
        self.drop(self.first + count)
        return rows

    def drop(self, before: int) -> None:
        assert self.rows is not None
        self.rows = self.rows[:, max(before - self.first, 0) :].clone()  # a view would keep what it no longer shows
        self.first = max(before, self.first)

    def at(self, index: Tensor) -> Tensor:
        """Rows of the whole map."""
        assert self.rows is not None
        return self.rows.index_select(1, index.to(self.rows.device) - self.first)


class Neighbours:
    """Gives rows between their neighbours: (1, n, W, C) -> (1, m + 2, W, C), reflection at the edges of the map."""

    def __init__(self, height: int):
        self.missing = height
        self.started = False
        self.held = Held()

    def push(self, rows: Tensor) -> Tensor | None:
        self.held.put(rows)
        self.missing -= rows.shape[1]
        if not self.started:
            if self.held.end < 2:
                return None
            self.started = True
            start, self.held = self.held.peek(self.held.end), Held()
            self.held.put(torch.cat([start[:, 1:2], start], dim=1))
        if self.missing == 0:
            below = self.held.end - 2
            self.held.put(self.held.at(torch.tensor([below])))
        count = self.held.end - self.held.first
        if count < 3:
            return None
        window = self.held.peek(count)
        self.held.drop(self.held.end - 2)
        return window


def convolve_window(window: Tensor, conv: nn.Module) -> Tensor:
    """A 3x3 convolution of rows between their neighbours, (1, m + 2, W, C) -> (1, m, W, C')."""
    if isinstance(conv, nn.Identity):
        return window[:, 1:-1]
    x = F.pad(window.permute(0, 3, 1, 2), (1, 1, 0, 0), mode="reflect")
    return F.conv2d(x, conv.weight, conv.bias, groups=conv.groups).permute(0, 2, 3, 1)


def positions(lines: range, size: int, scale: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Between which two of `size` lines those of a map with `scale` times as many lie, by PyTorch's rules: (first,
    second, weight of the second)."""
    index, single = torch.arange(lines.start, lines.stop, dtype=torch.float64), torch.float32
    corners, centres = (size - 1) / (scale * size - 1), 1 / scale
    step = torch.tensor(corners if align_corners else centres, dtype=single).double()  # rounded twice: step, position
    at = (index * step if align_corners else ((index + 0.5) * step - 0.5).clamp(min=0)).to(single)
    first = at.long().clamp(max=size - 1)
    return first, (first + 1).clamp(max=size - 1), at - first


def interpolate(held: Held, rows: range, size: int, scale: int, align_corners: bool) -> Tensor:
    """`rows` of a map of `size` rows that is made `scale` times as high, linearly."""
    first, second, weight = positions(rows, size, scale, align_corners)
    above, below = held.at(first), held.at(second)
    part = weight.to(above)[None, :, None, None]
    return above * (1 - part) + below * part


@dataclass(frozen=True)
class Columns:
    """Where the columns of a map lie: from `left` on, in a map that is `whole` wide."""

    left: int
    whole: int

    def halved(self) -> "Columns":
        return Columns(self.left // 2, self.whole // 2)

    def widen(self, x: Tensor, scale: int, align_corners: bool) -> Tensor:
        """(1, n, W, C) -> (1, n, scale W, C), linearly. For columns beyond the strip, the nearest one stands."""
        width = x.shape[2]
        wanted = range(scale * self.left, scale * (self.left + width))
        first, second, weight = positions(wanted, self.whole, scale, align_corners)
        near, far = (x.index_select(2, (at - self.left).clamp(0, width - 1).to(x.device)) for at in (first, second))
        part = weight.to(x)[None, None, :, None]
        return near * (1 - part) + far * part
