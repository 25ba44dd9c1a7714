"""Formats of results, what they can hold, and how they are written."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

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
_SAME = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}  # others have no format of their own here
_SPACES = {b"GRAY": (1, 2), b"RGB ": (3, 4)}  # an ICC profile's colour space -> channels that it describes


@dataclass(frozen=True)
class Extras:
    """Beside the pixels: an ICC profile, EXIF as a little-endian TIFF block, and the quality of a lossy file."""

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


def encode(
    name: str, kind: str, bands: Iterable[np.ndarray], shape: tuple[int, int, int], bits: int, extras: Extras
) -> bytes:
    """The bytes of a result's file.

    Args:
        bands: uint8, or for 16 bits uint16 (h, W, C), from the top down.
        shape: (H, W, C) of the whole: grey or RGB, with or without alpha (JPEG has none).

    Raises:
        InputError: the format cannot hold the EXIF; `name` names the picture.
    """
    file = io.BytesIO()
    if kind in DEEP:
        write = write_png if kind == "png" else tiff.write_tiff
        write(file, bands, shape, bits, extras.icc, extras.exif)
        return file.getvalue()
    pixels = np.concatenate(list(bands))
    image = Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels)
    exif = b"Exif\0\0" + extras.exif if extras.exif else b""
    more = {"subsampling": 0, "optimize": True} if kind == "jpg" else {}
    try:
        image.save(
            file, "JPEG" if kind == "jpg" else "WEBP", quality=extras.quality, icc_profile=extras.icc, exif=exif, **more
        )
    except (ValueError, OSError) as error:  # JPEG: 64 KiB of EXIF at most
        raise InputError(f"{name}: {kind} cannot hold what came with it ({shown(error)}); choose png") from error
    return file.getvalue()
