"""Opening a picture: what its file is, by its content alone, and what is refused before a pixel is decoded."""

import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from datas.images import LARGEST
from pictures.quality import jpeg_quality
from utils import InputError, shown

KNOWN = "JPEG, PNG, WebP, TIFF, BMP or GIF"
_PNG = b"\x89PNG\r\n\x1a\n"
# How files begin. Pillow is told which format to read, and never asked for another: it hands PostScript to a program.
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG", _PNG: "PNG", b"BM": "BMP", b"GIF87a": "GIF", b"GIF89a": "GIF",
    b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"II+\x00": "TIFF", b"MM\x00+": "TIFF",
}  # fmt: skip
_FOREIGN = {b"%PDF": "a PDF", b"%!": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript"}
_PALETTE = 3  # PNG's colour type
_ORIENTATION, _PREVIEW, _DNG = 0x112, 0xFE, 0xC612  # tags; a camera's raw file is a TIFF that begins with a preview


@dataclass(frozen=True)
class Head:
    """What a picture's header says.

    Attributes:
        format: 'JPEG', 'PNG', 'WEBP', 'TIFF', 'BMP' or 'GIF'.
        width, height: in pixels, the right way up.
        orientation: how the stored pixels are turned, 1 (not at all) to 8, as EXIF counts.
        bits: of a stored sample, 8 or 16; fewer count as 8.
        quality: of a JPEG, estimated, 1 to 100; None for others.
    """

    format: str
    width: int
    height: int
    orientation: int
    bits: int
    quality: int | None


def need_file(path: Path) -> None:
    """Raise InputError unless `path` is a regular file: a pipe would be waited for, and a device may never end."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); check the path") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is a folder, a pipe or a device, no picture; leave it out")


def read_file(path: Path) -> bytes:
    """The content of a picture's file. InputError if it is no regular file, or cannot be read."""
    need_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); check its permissions") from error


def read_head(path: Path) -> Head:
    """The header of a picture's file; no pixel is decoded.

    Raises:
        InputError: no regular file, not readable, or one that `opened` refuses.
    """
    need_file(path)
    try:
        with path.open("rb") as file, opened(file, str(path)) as (_, head):
            return head
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); check its permissions") from error


@contextmanager
def opened(file: BinaryIO, name: str) -> Iterator[tuple[Image.Image, Head]]:
    """The picture in `file`, not decoded yet, and its header; what decoders raise within becomes an InputError.

    Raises:
        InputError: of no known format, damaged, larger than LARGEST, or more than one picture; `name` names it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata, or a size that is judged here
        try:
            kind = _format_of(file, name)
            bits = _png_bits(file, name) if kind == "PNG" else 8
            with Image.open(file, formats=(kind,)) as image:
                yield image, _head(image, kind, bits, name)
        except (InputError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise InputError(f"{name}: has more than {LARGEST:,} pixels; cut it into smaller pictures") from error
        except UnidentifiedImageError as error:  # its message names an object in memory, and no reason
            raise InputError(
                f"{name}: is damaged (its header makes no sense); replace it with an intact copy"
            ) from error
        except Exception as error:  # what three libraries raise on damaged files is no list that could be written down
            raise InputError(f"{name}: is damaged ({shown(error)}); replace it with an intact copy") from error


def _format_of(file: BinaryIO, name: str) -> str:
    begin = file.read(12)
    file.seek(0)
    if begin[:4] == b"RIFF" and begin[8:] == b"WEBP":
        return "WEBP"
    found = next((kind for signature, kind in _SIGNATURES.items() if begin.startswith(signature)), None)
    if found is not None:
        return found
    foreign = next((kind for signature, kind in _FOREIGN.items() if begin.startswith(signature)), "")
    foreign = "HEIC, AVIF or a video" if begin[4:8] == b"ftyp" else foreign
    what = "is empty" if not begin else f"is {foreign}" if foreign else "is no picture of a known format"
    raise InputError(f"{name}: {what}; give a {KNOWN} file")


def _png_bits(file: BinaryIO, name: str) -> int:
    """Bits of a sample. Of two headers, two readers take different ones: there must be one before the pixels.

    Pixels that are numbers of colours need a palette: Pillow makes one up where there is none.
    """
    headers, bits, palette, needs_palette = 0, 8, False, False
    file.seek(len(_PNG))
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IDAT":
            break
        content = file.read(13) if kind == b"IHDR" else b""
        if kind == b"IHDR" and len(content) == 13:
            headers, bits, needs_palette = headers + 1, content[8], content[9] == _PALETTE
        palette |= kind == b"PLTE"
        file.seek(length - len(content) + 4, os.SEEK_CUR)
    file.seek(0)
    if headers != 1:
        raise InputError(f"{name}: is damaged (it has {headers} headers); replace it with an intact copy")
    if needs_palette and not palette:
        raise InputError(f"{name}: is damaged (it has no palette); replace it with an intact copy")
    return max(bits, 8)


def _head(image: Image.Image, kind: str, bits: int, name: str) -> Head:
    pictures = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a JPEG with previews behind it
    if pictures > 1:
        what = "pages" if kind == "TIFF" else "frames (an animation)"
        raise InputError(f"{name}: holds {pictures} {what}; give one picture a file")
    width, height = image.size
    if kind == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]  # of Pillow's class for TIFF
        if tags.get(_PREVIEW, 0) & 1 or _DNG in tags:
            raise InputError(f"{name}: is a camera's raw file; develop it and give the picture")
        width, height = tags[256], tags[257]  # as stored; some versions of Pillow turn `size` already
        bits = max(8, *tags.get(258, (8,)))
        orientation = tags.get(_ORIENTATION, 1)
    else:
        orientation = _turn(image)
    if width * height > LARGEST:
        raise InputError(f"{name}: {width}x{height} are more than {LARGEST:,} pixels; cut it into smaller pictures")
    if min(width, height) < 1:
        raise InputError(f"{name}: has no pixels; replace it with an intact copy")
    orientation = orientation if orientation in range(1, 9) else 1
    if orientation >= 5:
        width, height = height, width
    quality = jpeg_quality(image.quantization) if kind == "JPEG" else None  # type: ignore[attr-defined]
    return Head(kind, width, height, orientation, bits, quality)


def _turn(image: Image.Image) -> object:
    try:
        # The base class's method: PNG's own one decodes the pixels in search of EXIF behind them.
        return Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing; the pixels may be whole
        return 1
