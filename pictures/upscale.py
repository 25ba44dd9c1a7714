"""One picture in, one picture out."""

import os
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from datas.names import usable_path
from pictures.colour import result_rows
from pictures.decode import Picture, read_picture
from pictures.exif import kept_exif
from pictures.fit import Size, result_size
from pictures.quality import STRONG
from pictures.read import read_file
from pictures.rows import Runner, sr_rows
from pictures.write import DEEP, QUALITY, Extras, encode, fits_profile, format_of, need_room
from utils import InputError, atomic_write


@dataclass(frozen=True)
class Wanted:
    """How results are to be.

    Attributes:
        quality: of JPEG and WebP, 1 to 100.
        fit: (width, height) that a larger result is reduced to fit inside.
        keep_exif: EXIF beside the orientation is written, too.
    """

    quality: int = QUALITY
    fit: Size | None = None
    keep_exif: bool = False


@dataclass(frozen=True)
class Done:
    """What became of a picture.

    Attributes:
        before, after: (width, height).
        notes: what its owner should know, one line each.
        quality: of a JPEG that was strongly compressed, estimated; None for others.
    """

    before: Size
    after: Size
    notes: tuple[str, ...]
    quality: int | None


def upscale_file(upscaler: Runner, path, out, wanted: Wanted | None = None, overwrite: bool = False) -> Done:
    """Super-resolve the picture in a file into another file, whose ending says its format.

    Args:
        upscaler: of `models.load`.
        path, out: of the picture and its result; folders are made. A reader sees the whole result or none.
        wanted: see `Wanted`.
        overwrite: `out` may be there already.

    Raises:
        InputError: `out` is there, or is the picture itself; a picture that cannot be read, or that the format or the
            memory cannot hold; a result that cannot be written.
    """
    path, out = usable_path(path), usable_path(out)
    kind = format_of(out)
    if os.path.exists(out) and (not overwrite or os.path.samefile(out, path)):
        raise InputError(f"{out}: is there already; remove it or choose another name")
    encoded, done = upscale_bytes(upscaler, read_file(path), str(path), kind, wanted)
    atomic_write(out, encoded)
    return done


def upscale_bytes(
    upscaler: Runner, data: bytes, name: str, kind: str, wanted: Wanted | None = None
) -> tuple[bytes, Done]:
    """The content of a picture's file -> the content of its result's, and what became of it.

    Args:
        name: the picture's, for messages.
        kind: of the result: 'png', 'jpg', 'webp' or 'tif'.

    Raises:
        InputError: as for `upscale_file`.
    """
    wanted = wanted or Wanted()
    size: Size | None = None
    try:
        picture = read_picture(data, name)
        size = (picture.head.width, picture.head.height)
        return _upscaled(upscaler, picture, name, kind, wanted)
    except (MemoryError, RuntimeError) as error:  # RuntimeError: PyTorch's way to say so
        if isinstance(error, RuntimeError) and not any(word in str(error).lower() for word in ("memory", "alloc")):
            raise
        what = f"{size[0]}x{size[1]} is" if size else "is"
        advice = "cut it into smaller pictures or choose a smaller scale"
        raise InputError(f"{name}: {what} too large for the memory; {advice}") from error


def _upscaled(upscaler: Runner, picture: Picture, name: str, kind: str, wanted: Wanted) -> tuple[bytes, Done]:
    head, notes = picture.head, list(picture.notes)
    picture = _as_the_format_needs(picture, name, kind)
    stored = 8 * picture.colour.dtype.itemsize
    bits = stored if kind in DEEP else 8
    if bits < stored:
        notes.append(f"its 16 bits become 8, as {kind} holds no more")
    channels = picture.colour.shape[2] + (picture.alpha is not None)
    icc = picture.icc
    if icc is not None and not fits_profile(icc, kind, channels):
        notes.append(f"its ICC profile is left out: it is of a kind that does not go with these pixels in {kind}")
        icc = None
    size = result_size(head.width, head.height, upscaler.scale, wanted.fit)
    need_room(name, kind, size, channels, bits)
    exif = kept_exif(picture.exif, size, name) if wanted.keep_exif else b""
    bands = result_rows(partial(sr_rows, upscaler), picture, upscaler.scale, size, bits)
    extras = Extras(icc, exif, wanted.quality)
    encoded = encode(name, kind, bands, (size[1], size[0], channels), bits, extras)
    strong = head.quality if head.quality is not None and head.quality < STRONG else None
    return encoded, Done((head.width, head.height), size, tuple(notes), strong)


def _as_the_format_needs(picture: Picture, name: str, kind: str) -> Picture:
    """The picture without an alpha channel that says nothing, where the format has none."""
    if picture.alpha is None or kind != "jpg":
        return picture
    if picture.alpha.min() < np.iinfo(picture.alpha.dtype).max:
        raise InputError(f"{name}: has transparent parts, which jpg cannot hold; choose png or webp")
    return replace(picture, alpha=None)
