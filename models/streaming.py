"""One image of any size through the network in bounded memory: rows flow through the stages, and no map is whole.

    streamer.stream(height, width, read, write)

A streamer (`CpuInference` of models/cpu.py, `PlainStream` of models/plain_stream.py) asks for rows of the input, top to
bottom, and hands out rows of the output; between the two it holds the rows that the network still looks at, whose
number depends on its depth, not on the image. Nothing is computed twice, and the numbers are those of the whole image.
Memory grows with the width. models/strips.py streams wide images strip by strip, and turns the calls around: rows come
from an iterator.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .errors import ModelError
from .ssiu import SSIU

ReadRows = Callable[[int, int], Tensor]  # (first, n) -> rows first .. first + n, float32 (3, n, W) in [0, 1]
WriteRows = Callable[[int, Tensor], None]  # (first, rows) with rows float32 (3, n, sW)

CHUNK = 16  # rows of the input that go through the stages at a time
TALLEST = 2**21  # rows; positions in taller maps are not precise enough in float32 to say which rows they lie between
LEVELS = {"uint8": 255, "uint16": 65535}


@dataclass(frozen=True)
class Strip:
    """Columns `left` .. `right` of an image that is `whole` pixels wide.

    `left` is a multiple of 16, and so is `right` unless it is `whole`: attention's blocks lie as in the whole image.
    """

    left: int
    right: int
    whole: int

    @property
    def width(self) -> int:
        return self.right - self.left


@dataclass(frozen=True)
class StreamPlan:
    """What streaming an image, or a strip of one, takes: computed, not measured.

    Attributes:
        height, width: of the input, in pixels.
        scale: s.
        rows: of the input that are in flight at most, read but not yet behind the output.
        mib: memory for rows in flight and for what is read and written at a time, weights and image not included.
        threads: that work on it.
    """

    height: int
    width: int
    scale: int
    rows: int
    mib: float
    threads: int

    def __str__(self) -> str:
        sizes = f"{self.width}x{self.height} -> {self.scale * self.width}x{self.scale * self.height}"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{sizes}: {self.rows} rows in flight, {self.mib:,.0f} MiB, {threads}"

    def within(self, limit_mib: float | None) -> "StreamPlan":
        """This plan, or TooLittleMemory where it takes more than `limit_mib`."""
        if limit_mib is not None and self.mib > limit_mib:
            raise TooLittleMemory(self.mib, f"{self.width} columns of an image take", limit_mib)
        return self


class TooLittleMemory(ModelError):
    """Streaming takes `needed` MiB, more than is allowed."""

    def __init__(self, needed: float, what: str, limit_mib: float):
        self.needed, self.limit = needed, limit_mib
        super().__init__(f"{what} {needed:,.0f} MiB, more than the {limit_mib:,g} that are allowed; allow more memory")


class Streamer(Protocol):
    """What streams one image; see `CpuInference` for what is raised."""

    model: SSIU

    def plan(self, height: int, width: int, limit_mib: float | None = None) -> StreamPlan: ...

    def stream(
        self,
        height: int,
        width: int,
        read: ReadRows,
        write: WriteRows,
        limit_mib: float | None = None,
        strip: Strip | None = None,
    ) -> StreamPlan:
        """`strip`: where in a larger image these columns lie. None: they are the whole image."""
        ...


def check_size(height: int, width: int) -> None:
    """Raise ModelError for an input (height, width) that cannot be streamed."""
    if height < 1 or width < 1:
        raise ModelError(f"an image of {width}x{height} pixels has nothing to stream")
    if height > TALLEST:
        raise ModelError(f"an image of {height} rows is taller than the {TALLEST} that can be streamed; cut it")


def check_rows(rows: Tensor, count: int, width: int) -> None:
    """Raise ModelError for what `read` returned in place of float32 (3, count, width)."""
    found = f"{getattr(rows, 'dtype', type(rows).__name__)} {tuple(getattr(rows, 'shape', ()))}"
    if found != f"torch.float32 {(3, count, width)}":
        raise ModelError(f"rows of the input: {found} was read; torch.float32 {(3, count, width)} is taken")


def check_image(image) -> np.dtype:
    """The kind of an image's numbers. Raises ModelError for what is no image (H, W, 3) of uint8, uint16 or float."""
    kind, shape = np.dtype(getattr(image, "dtype", object)), tuple(getattr(image, "shape", ()))
    if len(shape) != 3 or shape[2] != 3 or 0 in shape or not (kind.name in LEVELS or kind.kind == "f"):
        name = kind.name if shape else type(image).__name__
        raise ModelError(f"image: {name} {shape} cannot be streamed; give uint8, uint16 or float of (H, W, 3)")
    return kind


def rows_of(image, left: int = 0, right: int | None = None) -> ReadRows:
    """Reads rows of an image (H, W, 3), or of its columns `left` .. `right`.

    The image is an array, a memory-mapped one, or what else has a shape, a dtype and slices of rows.

    Integers are divided by their largest value; floats are taken as they are.

    Raises:
        ModelError: another shape or kind of numbers.
    """
    kind = check_image(image)

    def read(first: int, count: int) -> Tensor:
        rows = np.ascontiguousarray(image[first : first + count][:, left:right]).astype(np.float32)
        planes = torch.from_numpy(rows).permute(2, 0, 1)
        return planes / LEVELS[kind.name] if kind.name in LEVELS else planes

    return read


class _Stopped(Exception):
    """Nobody wants the rows that are to come."""


def rows_of_strip(
    streamer: Streamer, height: int, strip: Strip, read: ReadRows, limit_mib: float | None
) -> Iterator[Tensor]:
    """What the streamer makes of a strip's columns: float32 (3, n, s width), n rows after the last ones.

    The network runs in a thread of its own, at most one lot of rows ahead. It stops when the iterator is closed.
    """
    lots: queue.Queue[Tensor | BaseException | None] = queue.Queue(1)
    stopped = threading.Event()

    def write(_first: int, rows: Tensor) -> None:
        lots.put(rows.to("cpu", copy=True))
        if stopped.is_set():
            raise _Stopped

    def work() -> None:
        try:
            streamer.stream(height, strip.width, read, write, limit_mib, strip)
            lots.put(None)
        except BaseException as error:
            lots.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (lot := lots.get()) is not None:
            if isinstance(lot, BaseException):
                raise lot
            yield lot
    finally:
        stopped.set()
        while thread.is_alive():  # make room for what it may be about to put
            try:
                lots.get(timeout=0.05)
            except queue.Empty:
                continue
        thread.join()
