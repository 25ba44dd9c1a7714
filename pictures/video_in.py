"""Reading a video: its header, its frames one after another, and its sound as it is stored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from datas.images import LARGEST
from pictures.video_file import KEPT, Clip, Frame, container_of, need_whole
from pictures.yuv import bits_of, colours_of, rgb_of
from utils import InputError, shown

_UPRIGHT = (1, 0, 0, 1)
NOTHING = np.empty((0, 0, 3), np.float32)


def read_clip(path: Path) -> Clip:
    """What a video's header and its first frame say.

    Raises:
        InputError: no video, cut off, without a picture or a frame, damaged, or larger than LARGEST.
    """
    container = container_of(path)
    if container is None:
        raise InputError(f"{path}: is no video; give an MP4, MOV, MKV, WebM or AVI file")
    need_whole(path, container)
    with opened(path, container) as (file, stream):
        frame = _first_frame(file, stream, path)
        turn = _turn(frame)
        width, height = (frame.width, frame.height) if turn[0] else (frame.height, frame.width)
        shape = stream.sample_aspect_ratio or Fraction(1)
        colours = colours_of(frame, stream.codec_context.name, str(path))
        rgb_of(frame, colours, str(path))  # are its pixels of a known kind?
        if frame.pts is None and frame.dts is None:
            raise InputError(f"{path}: its frames have no times; wrap it in an MP4 or MKV file")
        assert stream.time_base is not None  # a frame has come out of it
        return Clip(
            path,
            container,
            KEPT.get((container, path.suffix.lower()), "mkv"),
            width,
            height,
            stream.frames if container == "mov" and stream.frames else _count(path, container),
            stream.time_base,
            stream.average_rate or Fraction(25),
            shape if turn[0] else 1 / shape,
            colours,
            bits_of(frame) > 8,
            (frame.width, frame.height),
            turn,
            tuple(_notes(file, frame)),
        )


def frames_of(clip: Clip, wanted: Callable[[int], bool]) -> Iterator[Frame]:
    """The frames of a video in the order of their times; those whose number is not wanted come without pixels.

    Raises:
        InputError: one that is damaged, or is not of the size of the first; the line says which.
    """
    with opened(clip.path, clip.container) as (file, stream):
        decoded, last, number = file.decode(stream), None, 0
        while (frame := _next(decoded, clip, number, last)) is not None:
            if (frame.width, frame.height) != clip.sides:
                sizes = f"{frame.width}x{frame.height}, the first is {clip.sides[0]}x{clip.sides[1]}"
                raise InputError(f"{clip.path}: frame {number + 1} is {sizes}; cut the video where its size changes")
            time = frame.pts if frame.pts is not None else frame.dts
            if time is None or (last is not None and time <= last):
                what = f"frame {number + 1} has no time behind that of frame {number}"
                raise InputError(f"{clip.path}: {what}; repair the video's times")
            last = time
            rgb = _rgb(frame, stream, clip) if wanted(number) else NOTHING
            yield Frame(rgb, time, frame.duration or 0)
            number += 1


@contextmanager
def opened(path: Path, container: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video's file and the stream of its frames. The demuxer is given, and no other file or address is opened.

    Raises:
        InputError: the demuxer cannot read it, or it has no picture.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); check its permissions") from error
    with file:
        try:
            options = {"protocol_whitelist": "none"}
            opened_file = av.open(file, "r", container, options, io_open=_refuse, metadata_errors="replace")
        except Exception as error:  # what FFmpeg's parts raise on damaged files is no list that could be written down
            raise _damaged(path, error) from error
        with opened_file:
            streams = [stream for stream in opened_file.streams.video if not _is_cover(stream)]
            if not streams:
                raise InputError(f"{path}: holds no moving pictures; give a video")
            stream = streams[0]
            if stream.codec_context is None:
                raise InputError(f"{path}: its frames are encoded in an unknown way; convert it to H.264")
            _need_size(path, stream.width, stream.height)
            stream.codec_context.options = {"max_pixels": str(LARGEST)}
            yield opened_file, stream


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a video names another file")


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _need_size(path: Path, width: int, height: int) -> None:
    if width * height > LARGEST:
        raise InputError(f"{path}: its frames of {width}x{height} have more than {LARGEST:,} pixels; make it smaller")


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: is damaged ({shown(_reason(error))}); replace it with an intact copy")


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def _first_frame(file: InputContainer, stream: VideoStream, path: Path) -> av.VideoFrame:
    try:
        frame = next(file.decode(stream), None)
    except Exception as error:  # see `opened`
        raise _damaged(path, error) from error
    if frame is None:
        raise InputError(f"{path}: has no frame; replace it with an intact copy")
    _need_size(path, frame.width, frame.height)
    return frame


def _next(decoded: Iterator[av.VideoFrame], clip: Clip, number: int, last: int | None) -> av.VideoFrame | None:
    """The next frame, or None behind the last one; `number` are behind already, the last of them at `last`."""
    place = f"frame {number + 1}, behind {float((last or 0) * clip.time_base):.2f} s"
    advice = "replace it with an intact copy"
    try:
        frame = next(decoded, None)
    except Exception as error:  # see `opened`
        raise InputError(f"{clip.path}: {place}, cannot be decoded ({shown(_reason(error))}); {advice}") from error
    if frame is not None and frame.is_corrupt:
        raise InputError(f"{clip.path}: {place}, is damaged; {advice}")
    return frame


def _rgb(frame: av.VideoFrame, stream: VideoStream, clip: Clip) -> np.ndarray:
    name = str(clip.path)
    return _turned(rgb_of(frame, colours_of(frame, stream.codec_context.name, name), name), clip.turn)


def _turn(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """`Clip.turn`, by the frame's display matrix: turns by a multiple of 90 degrees, and mirroring."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return _UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if max(abs(a), abs(d)) >= max(abs(b), abs(c)):
        return (-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1)
    return (0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0)


def _turned(rgb: np.ndarray, turn: tuple[int, int, int, int]) -> np.ndarray:
    a, b, c, d = turn
    if a == 0:
        rgb = rgb.swapaxes(0, 1)
    return np.ascontiguousarray(rgb[:: b + d, :: a + c])


def _count(path: Path, container: str) -> int:
    """Packets of a video whose header does not say how many frames it has."""
    with opened(path, container) as (file, stream):
        try:
            return sum(packet.size > 0 for packet in file.demux(stream))
        except Exception as error:  # see `opened`
            raise _damaged(path, error) from error


def _notes(file: InputContainer, frame: av.VideoFrame) -> Iterator[str]:
    if frame.interlaced_frame:
        yield "is interlaced: its two fields are enlarged as one picture; deinterlace it first"
    if any(component.is_alpha for component in frame.format.components):
        yield "its transparency is left out"
    others = [kind for kind in ("subtitles", "data", "attachments") if getattr(file.streams, kind)]
    if others:
        yield f"left out: its {' and '.join(others)}"
    more = sum(not _is_cover(stream) for stream in file.streams.video) - 1
    if more:
        yield f"left out: {more} more tracks of pictures"
