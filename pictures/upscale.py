"""One picture in, one picture out: first all that can be known is, then rows are made and written."""

import io
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from datas.names import usable_path
from models import Upscaler
from pictures.colour import result_rows
from pictures.decode import Picture, read_picture
from pictures.exif import kept_exif
from pictures.fit import Size, result_size
from pictures.memory import enough_memory
from pictures.quality import STRONG
from pictures.read import read_file
from pictures.rows import Runner, sr_rows
from pictures.write import DEEP, QUALITY, Form, fits_profile, format_of, need_room, write_result
from utils import InputError, atomic_file


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


@dataclass(frozen=True)
class _Work:
    """A picture that can be super-resolved: what is left is to do it.

    Attributes:
        name: the picture's, for messages.
        form: of the result.
        done: what will have become of the picture.
    """

    name: str
    picture: Picture
    form: Form
    done: Done

    def write(self, upscaler: Runner, file: BinaryIO) -> None:
        """Write the result, as its rows are made, to a new file that can seek."""
        rows = partial(sr_rows, upscaler)
        with enough_memory(f"{self.name}: {self.done.before[0]}x{self.done.before[1]}"):
            bands = result_rows(rows, self.picture, upscaler.scale, self.done.after, self.form.bits)
            write_result(file, self.name, bands, self.form)


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
    need_new(out, path, overwrite)
    work = _work(read_file(path), str(path), kind, upscaler.scale, wanted or Wanted())
    with atomic_file(out) as file:
        work.write(upscaler, file)
    return work.done


def need_new(out: Path, path: Path, overwrite: bool) -> None:
    """Raise InputError if a result is there already and may not be replaced; what it is made of never is."""
    if os.path.exists(out) and (not overwrite or os.path.samefile(out, path)):
        raise InputError(f"{out}: is there already; remove it or choose another name")


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
    work, file = _work(data, name, kind, upscaler.scale, wanted or Wanted()), io.BytesIO()
    work.write(upscaler, file)
    return file.getvalue(), work.done


def _work(data: bytes, name: str, kind: str, scale: int, wanted: Wanted) -> _Work:
    """What is to be done for the content of a picture's file. InputError where it cannot be done."""
    with enough_memory(f"{name}:"):
        picture = read_picture(data, name)
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
    size = result_size(head.width, head.height, scale, wanted.fit)
    need_room(name, kind, size, channels, bits)
    exif = kept_exif(picture.exif, size, name) if wanted.keep_exif else b""
    strong = head.quality if head.quality is not None and head.quality < STRONG else None
    form = Form(kind, (size[1], size[0], channels), bits, icc, exif, wanted.quality)
    return _Work(name, picture, form, Done((head.width, head.height), size, tuple(notes), strong))


def _as_the_format_needs(picture: Picture, name: str, kind: str) -> Picture:
    """The picture without an alpha channel that says nothing, where the format has none."""
    if picture.alpha is None or kind != "jpg":
        return picture
    if picture.alpha.min() < np.iinfo(picture.alpha.dtype).max:
        raise InputError(f"{name}: has transparent parts, which jpg cannot hold; choose png or webp")
    return replace(picture, alpha=None)


class PictureUpscaler(Upscaler):
    """`models.Upscaler` with names for both of its uses: arrays and files. `PictureUpscaler.load` opens one."""

    def upscale(self, image):
        """An array or a tensor, `scale` times as large; see `models.Upscaler.__call__`."""
        return self(image)

    def upscale_file(self, path, out, wanted: Wanted | None = None, overwrite: bool = False) -> Done:
        """The picture in a file into another file; see `pictures.upscale_file`."""
        return upscale_file(self, path, out, wanted, overwrite)
