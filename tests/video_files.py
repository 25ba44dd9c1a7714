"""Small videos for the tests, made with PyAV, what a video holds, and a network that needs no time."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

TICK = Fraction(1, 12800)
LOSSLESS = {"qp": "0", "bf": "0"}


class Repeater:
    """Repeats every pixel in place of a network; it counts frames, and fails at one if it is told to."""

    def __init__(self, scale=2, fails_at=None):
        self.scale, self.count, self.fails_at = scale, 0, fails_at

    def stream(self, image):
        self.count += 1
        if self.count == self.fails_at:
            raise KeyboardInterrupt
        yield torch.from_numpy(image.repeat(self.scale, 0).repeat(self.scale, 1)).permute(2, 0, 1)


def flat(yuv, kind="yuv420p", size=(32, 24)) -> av.VideoFrame:
    """A frame of one colour, whose three numbers are given as they are stored."""
    frame = av.VideoFrame(*size, kind)
    for plane, value in zip(frame.planes, yuv, strict=True):
        sample = int(value).to_bytes(2 if kind.endswith("le") else 1, "little")
        plane.update(sample * (plane.buffer_size // len(sample)))
    return frame


def pattern(number: int, size=(32, 24)) -> av.VideoFrame:
    """A frame of smooth stripes that move with its number."""
    across, down = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [np.sin((across * x + down * y + number) / 5) for x, y in ((1, 0), (0, 1), (1, 1))]
    rgb = np.rint(np.stack(waves, axis=2) * 80 + 128).astype(np.uint8)
    return av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)


def make_clip(
    path, frames=None, times=None, codec="libx264", options=LOSSLESS, audio=None, tags=(1, 1, 1, 1), tick=TICK,
    turn=None, shape=None,
):  # fmt: skip
    """Write a video of `frames`, shown at `times` in ticks, 25 a second unless given; with a second of noise as sound.

    `tags` are range, matrix, primaries and transfer; `turn` is in degrees, against the clock.
    """
    frames = [pattern(number) for number in range(12)] if frames is None else frames
    times = [round(number / (25 * tick)) for number in range(len(frames))] if times is None else times
    with av.open(str(path), "w", format="mp4" if Path(path).suffix == ".m4v" else None) as file:
        if frames:
            stream = file.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
            stream.codec_context.time_base = stream.time_base = tick
            context = stream.codec_context
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
            if shape is not None:
                context.sample_aspect_ratio = shape
            if turn is not None:
                stream.set_display_rotation(turn)
        sound = file.add_stream(audio, rate=48000, layout="stereo") if audio else None
        file.start_encoding()
        for frame, time in zip(frames, times, strict=True):
            frame.pts, frame.time_base = time, tick
            frame.color_range, frame.colorspace = tags[:2]
            file.mux(stream.encode(frame))
        if frames:
            file.mux(stream.encode(None))
        if sound is not None:
            _add_noise(file, sound)
    return Path(path)


def _add_noise(file, sound) -> None:
    rng, length = np.random.default_rng(0), sound.codec_context.frame_size or 1024
    resampler = av.AudioResampler(sound.codec_context.format, "stereo", 48000)
    for number in range(48000 // length):
        noise = rng.normal(0, 3000, (1, 2 * length)).clip(-32767, 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(noise, "s16", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * length, Fraction(1, 48000)
        for part in resampler.resample(frame):
            file.mux(sound.encode(part))
    file.mux(sound.encode(None))


@dataclass
class Content:
    """What a video holds: its frames, their times in seconds, and the packets of its sound."""

    stream: dict
    frames: list[av.VideoFrame]
    times: list[Fraction]
    sound: list[tuple[Fraction, bytes]]
    last: Fraction


def content_of(path) -> Content:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        names = ("time_base", "average_rate", "sample_aspect_ratio")
        about = {name: getattr(stream, name) for name in names}
        frames, sound = [], []
        for packet in file.demux():
            if packet.stream.type == "video":
                frames += packet.decode()
            elif packet.size:
                sound.append((packet.pts * packet.time_base, bytes(packet)))
        times = [(frame.pts if frame.pts is not None else frame.dts) * frame.time_base for frame in frames]
        return Content(about, frames, times, sound, frames[-1].duration * frames[-1].time_base)


def planes_of(frame) -> list[np.ndarray]:
    """The numbers of a frame as they are stored, one array a plane."""
    kind = np.uint16 if frame.format.name.endswith("le") else np.uint8
    rows = (np.frombuffer(bytes(plane), kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes)
    return [row.copy() for row in rows]
