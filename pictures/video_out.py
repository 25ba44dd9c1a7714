"""Writing a video: pieces of a few frames, each a file of its own, and the result that is joined from them."""

import heapq
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pictures.fit import Size
from pictures.video_file import Clip
from pictures.video_in import opened
from pictures.yuv import frame_of
from utils import InputError, shown

ENCODER = "libx264"
# No B-frames: packets are in the order of frames then, and those of one piece follow those of another as they are.
SETTINGS = {"crf": "16", "preset": "medium", "bf": "0"}
_PIECE = "nut"  # a container that keeps any time base
_MUXERS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska"}


@dataclass(frozen=True)
class Result:
    """What is to be written: the video, (width, height) of the result, and the format of its pixels."""

    clip: Clip
    size: Size
    pixels: str


def result_of(clip: Clip, size: Size) -> Result:
    """A result of that size. It has half as many colour samples a side as pixels, where the sides allow that.

    Raises:
        InputError: this PyAV has no libx264.
    """
    try:
        known = {kind.name for kind in av.Codec(ENCODER, "w").video_formats or ()}
    except av.codec.codec.UnknownCodecError as error:
        raise InputError(f"{clip.path}: this build of PyAV lacks the encoder {ENCODER}; install one with it") from error
    kind = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
    return Result(clip, size, f"{kind}10le" if clip.deep and f"{kind}10le" in known else kind)


def encode_piece(frames: Iterable[tuple[int, np.ndarray]], result: Result) -> bytes:
    """Frames as a file of their own; nothing where there are none.

    Args:
        frames: times in ticks of the clip's time base, and float32 (H, W, 3) RGB.
    """
    file, clip, stream = io.BytesIO(), result.clip, None
    size = f"{result.size[0]}x{result.size[1]}"
    with (
        _failures(f"{clip.path}: frames of {size} cannot be encoded", "choose another scale or --fit"),
        av.open(file, "w", format=_PIECE) as out,
    ):
        for time, rgb in frames:
            stream = stream or _video_stream(out, result)
            frame = frame_of(rgb, clip.colours, result.pixels)
            frame.pts, frame.time_base = time, clip.time_base
            out.mux(stream.encode(frame))
        if stream is not None:
            out.mux(stream.encode(None))
    return file.getvalue()


def need_sound(clip: Clip) -> None:
    """Raise InputError if the video's sound cannot be copied as it is into the result's kind of file: it is tried."""
    with (
        _failures(f"{clip.path}: its sound does not go into {clip.kind}", "convert it, or take it out"),
        ExitStack() as stack,
    ):
        source, _ = stack.enter_context(opened(clip.path, clip.container))
        out = stack.enter_context(av.open(_Nowhere(), "w", format=_MUXERS[clip.kind]))
        for packet in _sound(source, _add_sound(source, out)):
            out.mux(packet)


def join(file: BinaryIO, result: Result, pieces: list[Path], frames: int, last: int) -> None:
    """Write the result: the pieces' packets and those of the video's sound, none of them encoded again.

    Args:
        file: new, can seek.
        frames: how many the pieces must have in all.
        last: ticks that the last frame is shown; 0 where that is not known.

    Raises:
        InputError: a piece is damaged, or the sound is.
    """
    clip = result.clip
    options = {"movie_timescale": str(clip.time_base.denominator)} if clip.kind != "mkv" else {}
    with _failures(f"{clip.path}: its result could not be joined", "start again"), ExitStack() as stack:
        source, _ = stack.enter_context(opened(clip.path, clip.container))
        out = stack.enter_context(av.open(file, "w", format=_MUXERS[clip.kind], options=options))
        pictures = _video_stream(out, result)  # its encoder has nothing to do; the same settings make the same header
        sound = _sound(source, _add_sound(source, out))
        for packet in heapq.merge(_pictures(pieces, pictures, frames, last, clip), sound, key=_when):
            out.mux(packet)


class _Nowhere:
    """A file to write to that keeps nothing but its place."""

    def __init__(self) -> None:
        self.place = self.end = 0

    def write(self, data: bytes) -> int:
        self.place += len(data)
        self.end = max(self.end, self.place)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.end}[whence]
        return self.place

    def tell(self) -> int:
        return self.place


@contextmanager
def _failures(what: str, advice: str) -> Iterator[None]:
    """FFmpeg's errors, and PyAV's of arguments that do not fit, become an InputError."""
    try:
        yield
    except InputError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{what} ({shown(getattr(error, 'strerror', None) or error)}); {advice}") from error


def _video_stream(out: OutputContainer, result: Result) -> VideoStream:
    clip = result.clip
    stream = cast(VideoStream, out.add_stream(ENCODER, rate=clip.rate, options=SETTINGS))
    stream.width, stream.height = result.size
    stream.pix_fmt = result.pixels
    context, colours = stream.codec_context, clip.colours
    context.time_base = stream.time_base = clip.time_base
    context.sample_aspect_ratio = clip.shape
    context.colorspace, context.color_range = colours.matrix, colours.range
    context.color_primaries, context.color_trc = colours.primaries, colours.transfer
    return stream


def _add_sound(source: InputContainer, out: OutputContainer) -> dict[int, av.AudioStream]:
    """For each audio stream of the source, by its number, one of the result."""
    sound = {}
    for stream in source.streams.audio:
        sound[stream.index] = out.add_stream_from_template(stream)
        with suppress(KeyError):
            sound[stream.index].metadata["language"] = stream.metadata["language"]
    return sound


def _pictures(pieces: list[Path], stream: VideoStream, frames: int, last: int, clip: Clip) -> Iterator[Packet]:
    count = 0
    for path in pieces:
        with av.open(str(path), format=_PIECE) as piece:
            for packet in piece.demux(video=0):
                if not packet.size:
                    continue
                count += 1
                packet.stream = stream
                if count == frames and last:
                    packet.duration = round(last * clip.time_base / packet.time_base)
                yield packet
    if count != frames:
        folder = pieces[0].parent
        raise InputError(f"{folder}: holds {count} of {frames} frames; remove this folder and start again")


def _sound(source: InputContainer, sound: dict[int, av.AudioStream]) -> Iterator[Packet]:
    if sound:
        for packet in source.demux(list(source.streams.audio)):
            if packet.size:
                packet.stream = sound[packet.stream.index]
                yield packet


def _when(packet: Packet) -> Fraction:
    time = packet.dts if packet.dts is not None else packet.pts
    return (time or 0) * packet.time_base
