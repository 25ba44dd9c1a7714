"""Between a video's frames (brightness Y and two colour differences, Cb and Cr, often of fewer pixels) and RGB.

The arithmetic is that of ITU-T H.273 in float32, so one rounding happens at the end. libswscale only reorders samples
here: its own conversions to and from 16 bits were measured off by up to 1 of 255, and dither.
"""

import re
from typing import Literal

import cv2
import numpy as np
from av import VideoFrame

from pictures.video_file import FULL, LIMITED, Colours
from utils import InputError

RGB, BT709, UNKNOWN, BT601 = 0, 1, 2, 6  # matrices by H.273
# Shares of red and blue in brightness, for each of H.273's matrices.
_SHARES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
           9: (0.2627, 0.0593)}  # fmt: skip
_PLANAR = re.compile(r"(?:yuv[aj]?4\d\dp|gray)(?:(?:9|10|12|14|16)le)?")
_REORDERED = {
    "nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p", "yuyv422": "yuv422p",
    "uyvy422": "yuv422p", "yvyu422": "yuv422p", "p010le": "yuv420p10le", "p210le": "yuv422p10le", "ya8": "gray",
}  # fmt: skip


def colours_of(frame: VideoFrame, codec: str, name: str) -> Colours:
    """What a frame says of its colours; what it leaves out is as players take it.

    Raises:
        InputError: a matrix that is not known here; `name` names the video.
    """
    matrix, reach = frame.colorspace, frame.color_range
    if matrix in (UNKNOWN, RGB):
        large = frame.width >= 1280 or frame.height >= 720
        matrix = BT709 if large or matrix == RGB or frame.format.is_rgb else BT601
    if matrix not in _SHARES:
        raise InputError(f"{name}: its colours are stored in a rare way (matrix {matrix}); convert it to BT.709")
    if reach not in (LIMITED, FULL):
        reach = FULL if frame.format.name.startswith("yuvj") else LIMITED
    if frame.format.is_rgb:
        reach = LIMITED  # of the result; what is read has no such range
    centred = codec in ("mjpeg", "mpeg1video")
    return Colours(matrix, reach, frame.color_primaries, frame.color_trc, centred)


def bits_of(frame: VideoFrame) -> int:
    """Bits of a sample, at least 8."""
    return max(8, *(component.bits for component in frame.format.components))


def rgb_of(frame: VideoFrame, colours: Colours, name: str) -> np.ndarray:
    """A frame as float32 (H, W, 3) RGB in [0, 1].

    Raises:
        InputError: pixels of a kind that is not known here.
    """
    if frame.format.is_rgb:
        deep = bits_of(frame) > 8
        pixels = frame.reformat(format="rgb48le" if deep else "rgb24").to_ndarray()
        return pixels.astype(np.float32) / (65535 if deep else 255)
    kind = frame.format.name
    if kind in _REORDERED:
        frame = frame.reformat(format=_REORDERED[kind])
    elif not _PLANAR.fullmatch(kind):
        raise InputError(f"{name}: holds pixels of a rare kind ({kind}); convert it to yuv420p")
    bits, size = bits_of(frame), (frame.width, frame.height)
    brightness = _plane(frame, 0)
    if len(frame.planes) < 3:
        low, reach, _ = _levels(colours, bits)
        return ((brightness - low) / reach).clip(0, 1)[:, :, None].repeat(3, axis=2)
    differences = [_enlarged(_plane(frame, number), size, colours.centred) for number in (1, 2)]
    rgb = cv2.transform(cv2.merge([brightness, *differences]), np.linalg.inv(_to_yuv(colours, bits))[:3])
    return np.clip(rgb, 0, 1, out=rgb)


def frame_of(rgb: np.ndarray, colours: Colours, kind: str) -> VideoFrame:
    """float32 (H, W, 3) RGB, clipped here, as a frame.

    Args:
        kind: 'yuv420p' (of even sides), 'yuv444p', 'yuv420p10le' or 'yuv444p10le'.
    """
    bits = 10 if kind.endswith("10le") else 8
    yuv = cv2.transform(rgb.clip(0, 1), _to_yuv(colours, bits)[:3])
    planes = [yuv[:, :, number] for number in range(3)]
    if "420" in kind:
        planes[1:] = map(_halved, planes[1:])
    frame = VideoFrame(rgb.shape[1], rgb.shape[0], kind)
    for target, values in zip(frame.planes, planes, strict=True):
        kept = np.zeros((target.height, target.line_size), np.uint8).view(_type(bits))
        kept[:, : target.width] = np.rint(values).clip(0, 2**bits - 1)
        target.update(kept.tobytes())
    frame.colorspace, frame.color_range = colours.matrix, colours.range
    frame.color_primaries, frame.color_trc = colours.primaries, colours.transfer
    return frame


def _type(bits: int) -> Literal["uint8", "<u2"]:
    return "uint8" if bits == 8 else "<u2"


def _levels(colours: Colours, bits: int) -> tuple[float, float, float]:
    """Black, the reach of brightness, and the reach of a colour difference."""
    if colours.range == FULL:
        return 0, 2**bits - 1, 2**bits - 1
    step = 2 ** (bits - 8)
    return 16 * step, 219 * step, 224 * step


def _to_yuv(colours: Colours, bits: int) -> np.ndarray:
    """(4, 4): from (R, G, B, 1) in [0, 1] to (Y, Cb, Cr, 1) as stored, not rounded."""
    red, blue = _SHARES[colours.matrix]
    low, reach, span = _levels(colours, bits)
    brightness = np.array([red, 1 - red - blue, blue])
    rows = np.eye(4)
    rows[0, :3] = reach * brightness
    rows[1, :3] = span * (np.array([0, 0, 1]) - brightness) / (2 * (1 - blue))
    rows[2, :3] = span * (np.array([1, 0, 0]) - brightness) / (2 * (1 - red))
    rows[:3, 3] = low, 2 ** (bits - 1), 2 ** (bits - 1)
    return rows


def _plane(frame: VideoFrame, number: int) -> np.ndarray:
    """float32 (h, w), as stored."""
    plane = frame.planes[number]
    kind = np.dtype(_type(bits_of(frame)))
    lines = np.frombuffer(bytes(plane), kind).reshape(-1, plane.line_size // kind.itemsize)
    return lines[: plane.height, : plane.width].astype(np.float32)


def _enlarged(plane: np.ndarray, size: tuple[int, int], centred: bool) -> np.ndarray:
    """A plane of colour differences, interpolated linearly to a value for every pixel of (width, height)."""
    if plane.shape == (size[1], size[0]):
        return plane
    across, down = (2 ** round(np.log2(whole / part)) for whole, part in zip(size, plane.shape[::-1], strict=True))
    left = (0.5 / across - 0.5) if centred else 0.0
    places = np.array([[1 / across, 0, left], [0, 1 / down, 0.5 / down - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(plane, places, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _halved(plane: np.ndarray) -> np.ndarray:
    """(2 h, 2 w) colour differences -> (h, w), each in a left pixel's column, between two rows."""
    smooth = cv2.sepFilter2D(plane, -1, np.array([0.25, 0.5, 0.25]), np.ones(1), borderType=cv2.BORDER_REPLICATE)
    return (smooth[::2, ::2] + smooth[1::2, ::2]) / 2
