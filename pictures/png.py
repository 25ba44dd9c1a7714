"""Writing PNG by bands of rows: the whole picture is never needed at once (PNG specification, sections 5, 9, 11)."""

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> grey, grey with alpha, RGB, RGBA
_NONE, _SUB, _UP = 0, 1, 2  # filters


def write_png(
    file: BinaryIO, bands: Iterable[np.ndarray], shape: tuple[int, int, int], bits: int, icc: bytes | None, exif: bytes
) -> None:
    """Write a PNG file.

    Args:
        bands: uint8 or uint16 (h, W, C), from the top down.
        shape: (H, W, C) of the whole.
        bits: of a sample, 8 or 16.
        icc: an ICC profile for iCCP, or None.
        exif: a TIFF block for eXIf, or nothing.
    """
    height, width, channels = shape
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _COLOUR_TYPES[channels], 0, 0, 0))
    if icc is not None:
        _chunk(file, b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if exif:
        _chunk(file, b"eXIf", exif)
    packer, above = zlib.compressobj(), np.zeros((1, width * channels * bits // 8), np.uint8)
    for band in bands:
        rows = np.ascontiguousarray(band, f">u{bits // 8}").view(np.uint8).reshape(band.shape[0], -1)
        packed = packer.compress(_filtered(rows, above, channels * bits // 8).tobytes())
        if packed:
            _chunk(file, b"IDAT", packed)
        above = rows[-1:]
    _chunk(file, b"IDAT", packer.flush())
    _chunk(file, b"IEND", b"")


def _filtered(rows: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """(h, bytes) rows -> (h, 1 + bytes): each through the filter that leaves the smallest bytes, its number in front.

    Args:
        above: (1, bytes), the row before the first one.
        step: bytes of a pixel.
    """
    left = np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    candidates = {_NONE: rows, _SUB: rows - left, _UP: rows - np.concatenate([above, rows[:-1]])}
    sizes = [np.minimum(rest, -rest).sum(axis=1, dtype=np.int64) for rest in candidates.values()]  # uint8 wraps around
    best = np.argmin(sizes, axis=0)
    out = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    out[:, 0] = best
    for number, rest in candidates.items():
        out[best == number, 1:] = rest[best == number]
    return out


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    )
