"""One video in, one video out. PyAV, which reads and writes videos, is needed from the first video on."""

import importlib.util
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datas.names import usable_path
from pictures.fit import Size, fitted, result_size
from pictures.memory import enough_memory
from pictures.rows import Runner, sr_rows
from pictures.upscale import Done, Wanted, need_new
from pictures.video_file import INSTALL, Clip, Frame
from pictures.video_parts import Parts, parts_of
from utils import InputError, atomic_file

if TYPE_CHECKING:
    from pictures.video_out import Result

PIECE = 48  # frames of a piece: what a killed run loses at most, and how far apart the result can be entered
LONGEST_SIDE = 16_384  # of the encoder
EVERY = 10.0  # seconds between two reports
Tell = Callable[[int, int, float], None]  # frames behind, of how many, and how many a second


def read_clip(path: Path) -> Clip:
    """What a video's header and its first frame say. InputError if it cannot be done, or PyAV is not installed."""
    need_pyav(str(path))
    from pictures import video_in

    return video_in.read_clip(path)


def need_pyav(name: str) -> None:
    """Raise InputError if PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise InputError(f"{name}: is a video, which needs PyAV; install it: {INSTALL}")


def video_size(clip: Clip, scale: int, fit: Size | None) -> Size:
    """(width, height) of the result. One that is made smaller to fit gets even sides.

    Raises:
        InputError: it is too large for H.264.
    """
    width, height = result_size(clip.width, clip.height, scale, fit)
    if (width, height) != (scale * clip.width, scale * clip.height):
        width, height = max(2, width - width % 2), max(2, height - height % 2)
    if max(width, height) > LONGEST_SIDE:
        raise InputError(f"{clip.path}: {width}x{height} are too many pixels ({LONGEST_SIDE:,} a side); name a --fit")
    return width, height


def upscale_video(
    upscaler: Runner,
    path,
    out,
    wanted: Wanted | None = None,
    overwrite: bool = False,
    made_with: str = "",
    tell: Tell | None = None,
) -> Done:
    """Super-resolve every frame of a video; its sound is copied.

    Args:
        upscaler: of `models.load`.
        path, out: of the video and its result; a reader sees the whole result or none. What is finished is kept beside
            `out` in a hidden folder until then, and a repeat goes on from there.
        wanted: see `Wanted`; of it, `fit` is for videos.
        overwrite: `out` may be there already.
        made_with: names the weights and all else that frames depend on: work that was done with others is not used.
        tell: is called now and then.

    Raises:
        InputError: `out` is there, or is the video itself; a video that cannot be read to its end, or is too large for
            the memory; PyAV is not installed; a result that cannot be written.
    """
    path, out, wanted = usable_path(path), usable_path(out), wanted or Wanted()
    clip = read_clip(path)
    from pictures import video_out

    need_new(out, path, overwrite)
    size = video_size(clip, upscaler.scale, wanted.fit)
    result = video_out.result_of(clip, size)
    video_out.need_sound(clip)
    with parts_of(out, _made_of(result, made_with)) as parts:
        work = _Work(upscaler, result, parts, tell)
        with enough_memory(f"{path}: a frame of {clip.width}x{clip.height}"):
            work.make_pieces()
        with atomic_file(out) as file:
            video_out.join(file, result, work.pieces, work.behind, work.last)
        parts.clear()
    return Done((clip.width, clip.height), size, (*clip.notes, *_notes(result, work.kept)), None)


class _Work:
    """The frames of one video, on their way into pieces.

    Attributes:
        pieces: that are finished.
        behind, kept: frames that are finished, and those of them that an earlier run has done.
        last: ticks for which the last frame is shown; 0 if that is not known.
    """

    def __init__(self, upscaler: Runner, result: "Result", parts: Parts, tell: Tell | None):
        self.upscaler, self.result, self.parts, self.tell = upscaler, result, parts, tell
        self.pieces: list[Path] = []
        self.behind = self.kept = self.last = 0
        self.begin = self.told = time.monotonic()

    def make_pieces(self) -> None:
        from pictures.video_in import frames_of
        from pictures.video_out import encode_piece

        frames = frames_of(self.result.clip, lambda number: not self.parts.has(number // PIECE))
        for number in itertools.count():
            before, path = self.behind, self.parts.path(number)
            if self.parts.has(number):
                for frame in itertools.islice(frames, PIECE):
                    self._count(frame)
                self.kept = self.behind
            else:
                piece = encode_piece(self._enlarged(itertools.islice(frames, PIECE)), self.result)
                if self.behind > before:
                    self.parts.put(number, piece)
            if self.behind > before:
                self.pieces.append(path)
            if self.behind < before + PIECE:
                return

    def _enlarged(self, frames: Iterator[Frame]) -> Iterator[tuple[int, np.ndarray]]:
        clip, scale = self.result.clip, self.upscaler.scale
        for frame in frames:
            whole = (scale * clip.width, scale * clip.height)
            bands = fitted(sr_rows(self.upscaler, frame.rgb), whole, self.result.size)
            yield frame.time, np.concatenate(list(bands))
            self._count(frame)
            self._report()

    def _count(self, frame: Frame) -> None:
        self.behind += 1
        self.last = frame.duration

    def _report(self) -> None:
        now = time.monotonic()
        if self.tell is not None and now >= self.told + EVERY:
            self.told, total = now, max(self.behind, self.result.clip.frames)
            self.tell(self.behind, total, (self.behind - self.kept) / (now - self.begin))


def _notes(result: "Result", kept: int) -> Iterator[str]:
    if kept:
        yield f"{kept} frames were there already, from a run that was stopped"
    if "444" in result.pixels:
        yield "has odd sides, so every pixel has colour samples of its own (4:4:4), which some players refuse"
    if result.clip.deep and not result.pixels.endswith("10le"):
        yield "its samples of more than 8 bits become 8, as this encoder holds no more"


def _made_of(result: "Result", made_with: str) -> dict[str, Any]:
    """What pieces depend on, as JSON holds it."""
    import av

    from pictures.video_out import ENCODER, SETTINGS

    clip, about = result.clip, os.stat(result.clip.path)
    return {
        "video": [str(clip.path.name), about.st_size, about.st_mtime_ns],
        "made_with": made_with,
        "size": list(result.size),
        "frames of a piece": PIECE,
        "encoder": [av.__version__, ENCODER, result.pixels, SETTINGS],
    }
