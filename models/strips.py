"""A wide image through the network in bounded memory: strip by strip, and rows flow through each (models/streaming.py).

    for rows in stream(streamer, image):  # image: (H, W, 3), uint8, uint16 or float
        ...  # float32 (3, n, sW), n rows after the last ones

A strip is read with as many columns on each side as the network sees (`reach`: 160 of the paper's), which are
computed twice. What comes out is the whole image's, seams there are none. Strips but the last are kept in temporary
files until the last one is made, as rows of the whole are wanted one after another.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from .errors import ModelError
from .ssiu import BLOCK, HALO, MULTIPLE, SSIU, padded_side
from .streaming import Streamer, StreamPlan, Strip, TooLittleMemory, check_image, rows_of, rows_of_strip


@dataclass(frozen=True)
class Cut:
    """A strip as it is read, and the columns `first` .. `end` of it that are wanted."""

    read: Strip
    first: int
    end: int


@dataclass(frozen=True)
class Layout:
    """How an image is streamed: its strips, from the left, and what the widest one takes."""

    strips: tuple[Cut, ...]
    widest: StreamPlan

    @property
    def work(self) -> float:
        """Columns that are computed for one that is wanted."""
        return sum(padded_side(cut.read.width) for cut in self.strips) / padded_side(self.strips[0].read.whole)

    def __str__(self) -> str:
        whole = replace(self.widest, width=self.strips[0].read.whole)
        return f"{whole}, {len(self.strips)} strips" if len(self.strips) > 1 else str(whole)


def reach(model: SSIU) -> int:
    """How many columns beyond its edges a strip of the output depends on, rounded up to a multiple of 16.

    The edges are those of attention's blocks, so a stage that looks up to the far edge of the next block, and one
    column beyond, leaves little for the stage before it to add: the paper's network reaches 148 columns far.
    """
    column = 0  # the leftmost of a strip; on the right it is the same
    column -= 1  # the tail
    for stage in model.body:
        column -= 2  # S4 and the feed-forward gate
        if stage.s3 is not None:
            of_half = column // 2 - 2  # interpolation and LocalProp
            column = 2 * (of_half // BLOCK * BLOCK - HALO)
        column -= 1  # S1 and S2
    return padded_side(1 - column)  # the head


def cuts(width: int, count: int, margin: int) -> tuple[Cut, ...]:
    """`count` strips of an image, equal but for 16 columns."""
    blocks = padded_side(width) // MULTIPLE
    edges = [min(MULTIPLE * (blocks * number // count), width) for number in range(count + 1)]
    return tuple(
        Cut(Strip(max(first - margin, 0), min(end + margin, width), width), first, end)
        for first, end in pairwise(edges)
    )


def layout(streamer: Streamer, height: int, width: int, limit_mib: float | None = None) -> Layout:
    """The fastest way to stream an image: of more strips, more is computed twice, of wider ones, fewer threads fit.

    Raises:
        ModelError: strips as wide as the network sees on each side take more than `limit_mib`; or a size that cannot
            be streamed.
    """
    margin, most = reach(streamer.model), streamer.plan(height, MULTIPLE).threads
    found: list[Layout] = []
    problem: TooLittleMemory | None = None
    for count in range(1, max(width // margin, 1) + 1):
        strips = cuts(width, count, margin)
        try:
            widest = streamer.plan(height, max(cut.read.width for cut in strips), limit_mib)
        except TooLittleMemory as error:
            problem = error
            continue
        found.append(Layout(strips, widest))
        if widest.threads == most:  # of more strips only more is computed
            break
    if not found:
        assert problem is not None
        what = f"an image {width} pixels wide takes, in strips or not, at least"
        raise TooLittleMemory(problem.needed, what, problem.limit)
    return min(found, key=lambda way: way.work / way.widest.threads)


def stream(streamer: Streamer, image, limit_mib: float | None = None) -> Iterator[Tensor]:
    """The output of an image (see `check_image`), row by row: float32 (3, n, sW), neither clipped nor rounded.

    The network runs in a thread of its own, at most one lot of rows ahead. It stops when the iterator is closed. Where
    a GPU runs out of memory after all, narrower strips are tried, and a warning says so.

    Raises:
        ModelError: see `check_image` and `layout`, and no room for the temporary files; before the first row.
    """
    check_image(image)
    way = layout(streamer, image.shape[0], image.shape[1], limit_mib)
    _need_room(way)
    return _narrower_where_needed(streamer, image, way, limit_mib)


def _narrower_where_needed(streamer: Streamer, image, way: Layout, limit_mib: float | None) -> Iterator[Tensor]:
    done = 0
    while True:
        top = 0
        try:
            for lot in _joined(streamer, image, way, limit_mib):
                known = max(done - top, 0)  # rows that an earlier attempt has given
                top += lot.shape[1]
                if known < lot.shape[1]:
                    done = top
                    yield lot[:, known:]
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            limit_mib = way.widest.mib / 2
            way = layout(streamer, image.shape[0], image.shape[1], limit_mib)
            warnings.warn(f"out of memory; narrower strips are tried: {way}", stacklevel=2)
        else:
            return


def _need_room(way: Layout) -> None:
    """Raise ModelError if the strips that have to wait do not fit on the disk."""
    plan = way.widest
    columns = sum(cut.end - cut.first for cut in way.strips[:-1])
    needed, folder = 12 * plan.scale**2 * plan.height * columns, tempfile.gettempdir()
    if needed > (free := shutil.disk_usage(folder).free):
        sizes = f"{needed / 2**20:,.0f} MiB of temporary files, {free / 2**20:,.0f} are free in {folder}"
        raise ModelError(f"{way}: takes {sizes}; allow more memory, or name a larger folder in TMPDIR")


def _joined(streamer: Streamer, image, way: Layout, limit_mib: float | None) -> Iterator[Tensor]:
    scale, height = way.widest.scale, way.widest.height

    def rows(cut: Cut) -> Iterator[Tensor]:
        read = rows_of(image, cut.read.left, cut.read.right)
        wanted = slice(scale * (cut.first - cut.read.left), scale * (cut.end - cut.read.left))
        for lot in rows_of_strip(streamer, height, cut.read, read, limit_mib):
            yield lot[:, :, wanted]

    with ExitStack() as files:
        waiting = [(cut, files.enter_context(tempfile.TemporaryFile())) for cut in way.strips[:-1]]
        for cut, file in waiting:
            for lot in rows(cut):
                file.write(lot.transpose(0, 1).contiguous().numpy())
            file.seek(0)
        for lot in rows(way.strips[-1]):
            parts = [_kept(file, lot.shape[1], scale * (cut.end - cut.first)) for cut, file in waiting]
            yield torch.cat([*parts, lot], dim=2) if parts else lot


def _kept(file: BinaryIO, count: int, width: int) -> Tensor:
    """The next rows of a strip's file: float32 (3, count, width)."""
    rows = np.fromfile(file, np.float32, count * 3 * width).reshape(count, 3, width)
    return torch.from_numpy(rows).transpose(0, 1)
