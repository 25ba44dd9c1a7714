"""Which files are videos, told from how they begin, and whether they are whole. Nothing here needs PyAV."""

import os
import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pictures.fit import Size
from pictures.read import need_file
from utils import InputError

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")  # endings of names that are looked for in folders
KEPT = {("mov", ".mp4"): "mp4", ("mov", ".m4v"): "mp4", ("mov", ".mov"): "mov"}  # all else becomes mkv
INSTALL = "pip install -r requirements-video.txt"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # one begins MP4 and MOV
_STILLS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")  # brands of pictures
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # what Matroska and WebM begin with, and hold all in
LIMITED, FULL = 1, 2  # ranges of numbers, as FFmpeg counts them


@dataclass(frozen=True)
class Colours:
    """How a video's numbers stand for colours.

    Attributes:
        matrix: by H.273, one of those that `pictures.yuv` knows.
        range: LIMITED (16 to 235 of 255) or FULL.
        primaries, transfer: by H.273; nothing is calculated with them.
        centred: samples of colour lie amid the pixels they are of (MPEG-1, JPEG), not in the left one's column.
    """

    matrix: int
    range: int
    primaries: int
    transfer: int
    centred: bool = False


@dataclass(frozen=True)
class Clip:
    """What is known of a video before it is done.

    Attributes:
        path, container: its file, and the demuxer that reads it: 'mov', 'matroska' or 'avi'.
        kind: 'mp4', 'mov' or 'mkv', of the result.
        width, height: of a frame, in pixels, the right way up.
        frames: how many there are, by its header or by a count of its packets; a few may turn out not to be shown.
        time_base: seconds of a tick, in which frames have their times.
        rate: frames per second, on average.
        shape: of a pixel, width / height, the right way up.
        colours: of the first frame; the result has them throughout.
        deep: its samples have more than 8 bits.
        sides: of the frame as it is stored, before it is turned.
        turn: (a, b, c, d), by which a pixel stored at (x, y) is shown at (a x + c y, b x + d y).
        notes: what its owner should know, one line each.
    """

    path: Path
    container: str
    kind: str
    width: int
    height: int
    frames: int
    time_base: Fraction
    rate: Fraction
    shape: Fraction
    colours: Colours
    deep: bool
    sides: Size
    turn: tuple[int, int, int, int]
    notes: tuple[str, ...]

    @property
    def format(self) -> str:
        return f"video of {self.frames} frames"


@dataclass(frozen=True)
class Frame:
    """A frame as it is meant to be seen.

    Attributes:
        rgb: float32 (H, W, 3) in [0, 1]; (0, 0, 3) where it was not wanted.
        time, duration: in ticks of the clip's time base; a duration of 0 is not known.
    """

    rgb: np.ndarray
    time: int
    duration: int


def container_of(path: Path) -> str | None:
    """The demuxer for a file that begins as a video does; None for another.

    Raises:
        InputError: no regular file, not readable, or named like a video but none.
    """
    need_file(path)
    try:
        with path.open("rb") as file:
            begin = file.read(12)
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); check its permissions") from error
    found = container_that_begins(begin)
    if found is None and path.suffix.lower() in VIDEOS:
        what = "is empty" if not begin else "is no video of a known kind"
        raise InputError(f"{path}: {what}; give an MP4, MOV, MKV, WebM or AVI file")
    return found


def container_that_begins(begin: bytes) -> str | None:
    """The demuxer for a file whose first 12 bytes are these; None for what is no video."""
    if begin[4:8] in _BOXES and begin[8:12] not in _STILLS:
        return "mov"
    if begin.startswith(_EBML):
        return "matroska"
    return "avi" if begin[:4] == b"RIFF" and begin[8:12] == b"AVI " else None


def need_whole(path: Path, container: str) -> None:
    """Raise InputError if a video's outermost parts say that its file goes on where it ends."""
    length = os.path.getsize(path)
    with path.open("rb") as file:
        end = {"mov": _end_of_boxes, "matroska": _end_of_segment, "avi": _end_of_riff}[container](file, length)
    if end > length:
        raise InputError(f"{path}: is cut off ({length:,} of {end:,} bytes); replace it with an intact copy")


def _end_of_boxes(file: BinaryIO, length: int) -> int:
    place = 0
    while place < length:
        file.seek(place)
        start = file.read(16)
        if len(start) < 8 or not start[4:8].isalnum():
            return length  # padding behind the last one
        size = int.from_bytes(start[:4], "big")
        size = int.from_bytes(start[8:], "big") if size == 1 else size
        if size < 8:  # 0: up to the end
            return length
        place += size
    return place


def _end_of_segment(file: BinaryIO, length: int) -> int:
    head = _number(file, len(_EBML))
    if head is None:
        return length
    start = file.tell() + head
    file.seek(start)
    if file.read(4) != _SEGMENT:
        return length
    size = _number(file, start + 4)
    return length if size is None else file.tell() + size  # None: it was written to a stream


def _number(file: BinaryIO, place: int) -> int | None:
    """The number of variable length that stands there; None for 'unknown'."""
    file.seek(place)
    first = file.read(1)
    more = 8 - first[0].bit_length() if first and first[0] else 0
    value = int.from_bytes(first + file.read(more), "big") & ((1 << 7 * (more + 1)) - 1)
    return None if value == (1 << 7 * (more + 1)) - 1 else value


def _end_of_riff(file: BinaryIO, length: int) -> int:
    file.seek(4)
    (size,) = struct.unpack("<I", file.read(4).ljust(4, b"\0"))
    known = size != 2**32 - 1  # which stands for a file that was written to a stream
    return 8 + size if known and 8 + size > length + 1 else length  # the last byte may be padding
