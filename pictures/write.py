"""Formats of results, what they can hold, and how they are written."""

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from pictures import tiff
from pictures.fit import Size
from pictures.png import write_png
from pictures.read import Head
from utils import InputError, did_you_mean, shown

FORMATS = ("png", "jpg", "webp", "tif")
SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp", ".tif": "tif", ".tiff": "tif"}
DEEP = ("png", "tif")  # these hold 16 bits
LONGEST_SIDE = {"png": 2**31 - 1, "jpg": 65_535, "webp": 16_383, "tif": 2**31 - 1}
QUALITY = 95
LARGEST_BUFFER = 2**31 - 2**24  # bytes that Pillow can give an encoder, less what it adds for EXIF and profile
_SAME = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}  # others have no format of their own here
_SPACES = {b"GRAY": (1, 2), b"RGB ": (3, 4)}  # an ICC profile's colour space -> channels that it describes


@dataclass(frozen=True)
class Form:
    """What a result's file is to be, its pixels apart.

    Attributes:
        kind: of FORMATS.
        shape: (H, W, C), grey or RGB, with or without alpha (JPEG has none).
        bits: of a sample: 8, or 16 where the format is one of DEEP.
        icc: an ICC profile, or None.
        exif: a little-endian TIFF block, or nothing.
        quality: of JPEG and WebP.
    """

    kind: str
    shape: tuple[int, int, int]
    bits: int
    icc: bytes | None
    exif: bytes
    quality: int


def same_format(head: Head) -> str:
    """The format of a result that is to be as its picture; PNG for BMP and GIF."""
    return _SAME.get(head.format, "png")


def format_of(out: Path) -> str:
    """The format that a result's name asks for. InputError for another ending."""
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{out}: ends with none of {', '.join(SUFFIXES)}{did_you_mean(suffix, SUFFIXES)}")
    return SUFFIXES[suffix]


def need_room(name: str, kind: str, size: Size, channels: int, bits: int) -> None:
    """Raise InputError if a format cannot hold a result of this size."""
    most = LONGEST_SIDE[kind]
    if max(size) > most:
        raise InputError(f"{name}: {size[0]}x{size[1]} are too many pixels for {kind} ({most:,} a side); choose png")
    if kind == "tif" and size[0] * size[1] * channels * bits // 8 > tiff.LARGEST:
        raise InputError(f"{name}: {size[0]}x{size[1]} are too many pixels for tif (4 GiB); choose png")


def fits_profile(icc: bytes, kind: str, channels: int) -> bool:
    """Whether a profile describes pixels as the format stores them (WebP stores grey as RGB)."""
    stored = channels + 2 if kind == "webp" and channels <= 2 else channels
    return stored in _SPACES.get(icc[16:20], ())


def write_result(file: BinaryIO, name: str, bands: Iterable[np.ndarray], form: Form) -> None:
    """Write a result into a new file that can seek. PNG and TIFF are written as their rows come.

    Args:
        bands: uint8, or for 16 bits uint16 (h, W, C), from the top down.

    Raises:
        InputError: the format cannot hold the EXIF; `name` names the picture.
    """
    if form.kind in DEEP:
        write = write_png if form.kind == "png" else tiff.write_tiff
        write(file, bands, form.shape, form.bits, form.icc, form.exif)
        return
    image, encoded = _whole(bands, form.shape), io.BytesIO()
    exif = b"Exif\0\0" + form.exif if form.exif else b""
    kind, more = ("JPEG", {"subsampling": 0}) if form.kind == "jpg" else ("WEBP", {})
    optimize = 2 * form.shape[0] * form.shape[1] <= LARGEST_BUFFER  # Pillow's guess of what an optimized JPEG takes
    try:
        with _room_for(2 * math.prod(form.shape)):
            image.save(encoded, kind, optimize=optimize, quality=form.quality, icc_profile=form.icc, exif=exif, **more)
    except (ValueError, OSError) as error:  # JPEG: 64 KiB of EXIF at most
        raise InputError(f"{name}: {form.kind} cannot hold what came with it ({shown(error)}); choose png") from error
    file.write(encoded.getbuffer())


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Let Pillow have a buffer of `size` bytes: an optimized JPEG goes into one, which for noise it makes too small."""
    before = ImageFile.MAXBLOCK
    ImageFile.MAXBLOCK = max(min(size, LARGEST_BUFFER), before)
    try:
        yield
    finally:
        ImageFile.MAXBLOCK = before


def _whole(bands: Iterable[np.ndarray], shape: tuple[int, int, int]) -> Image.Image:
    """The uint8 bands as Pillow's image, which holds them alone."""
    height, width, channels = shape
    image, top = Image.new(("L", "LA", "RGB", "RGBA")[channels - 1], (width, height)), 0
    for band in bands:
        image.paste(Image.fromarray(band[:, :, 0] if channels == 1 else band), (0, top))
        top += band.shape[0]
    return image
