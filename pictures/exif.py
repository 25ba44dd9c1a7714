"""EXIF of a picture, for its result."""

import warnings

from PIL import Image

from pictures.fit import Size
from utils import InputError, shown

_DIRECTORIES = (0x8769, 0x8825)  # EXIF's own, and GPS
_SIDES = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension
_INTEROPERABILITY = 0xA005  # where another directory lies, in the old file
# How a TIFF file stores its pixels: of no meaning for another file. From 'NewSubfileType' to the tables of old JPEG.
_STORAGE = {
    *range(254, 267), 273, 274, *range(277, 282), 284, 285, *range(288, 294), 297, 301, *range(317, 348),
    *range(512, 533), 700, 33723, 34377, 34675,
}  # fmt: skip


def kept_exif(exif: Image.Exif | None, size: Size, name: str) -> bytes:
    """A little-endian TIFF block of what was said about the picture: camera, time, place, author.

    Left out: the orientation, which is applied, how pixels were stored, the thumbnail. Sizes become the result's.

    Raises:
        InputError: it is damaged; `name` names the picture.
    """
    if exif is None:
        return b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about single entries, which are passed over
            return _block(exif, size)
    except Exception as error:  # Pillow finds damage only here, and raises many things
        raise InputError(f"{name}: its EXIF is damaged ({shown(error)}); leave it out") from error


def _block(exif: Image.Exif, size: Size) -> bytes:
    kept = Image.Exif()
    kept.endian = "<"
    for tag, value in exif.items():
        if tag not in _STORAGE and tag not in _DIRECTORIES:
            kept[tag] = value
    for tag in _DIRECTORIES:
        content = {key: value for key, value in exif.get_ifd(tag).items() if key != _INTEROPERABILITY}
        content |= {key: side for key, side in zip(_SIDES, size, strict=True) if key in content}
        if content:
            kept[tag] = content
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else b""
