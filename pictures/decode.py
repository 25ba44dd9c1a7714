"""A picture's pixels: grey or RGB, 8 or 16 bits, with or without alpha, the right way up."""

import io
import logging
import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageOps

from datas.png_rows import need_all_rows, png_chunks
from pictures.read import Head, opened
from utils import InputError, shown

for _library in ("tifffile", "PIL"):  # what they say about odd metadata helps nobody; what they refuse, they raise
    logging.getLogger(_library).setLevel(logging.CRITICAL)

_GREY, _RGB = ("1", "L", "LA", "La"), ("RGB", "RGBX", "RGBA", "RGBa", "P", "PA", "YCbCr")
_WITH_ALPHA = ("LA", "La", "RGBA", "RGBa", "PA")
_LZW, _WHITE_IS_ZERO, _PREMULTIPLIED = 5, 0, 1  # values of TIFF's Compression, PhotometricInterpretation, ExtraSamples


@dataclass(frozen=True)
class Picture:
    """Pixels in their own colour space, and what came with them.

    Attributes:
        head: what the header said.
        colour: (H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16, not premultiplied.
        alpha: (H, W) of the same type, or None.
        icc: the ICC profile of `colour`, or None.
        exif: what else was said about it, the orientation included, which is applied already; None if it is damaged.
        notes: what was decided about it that its owner should know, one line each.
    """

    head: Head
    colour: np.ndarray
    alpha: np.ndarray | None
    icc: bytes | None
    exif: Image.Exif | None
    notes: tuple[str, ...]


def read_picture(data: bytes, name: str) -> Picture:
    """Decode the content of a picture's file; `name` is for messages.

    Raises:
        InputError: what `pictures.read.opened` refuses, pixels that are cut off or damaged, or of a kind that is
            neither grey, RGB, palette nor CMYK of up to 16 bits.
    """
    file = io.BytesIO(data)
    with opened(file, name) as (image, head):
        if head.format == "PNG":
            need_all_rows(data, name)
        image.load()  # finds damage that other readers pass over
        icc, exif, notes = image.info.get("icc_profile") or None, _exif(image), []
        if head.bits == 16 and image.mode != "CMYK":
            colour, alpha = _deep(image, data, head, name)
        else:
            if image.mode == "CMYK":
                image, note = _without_ink(image, icc)
                icc, notes = None, [note]
            colour, alpha = _shallow(image, head, name)
    if colour.shape[:2] != (head.height, head.width):
        raise InputError(f"{name}: its pixels are not those that its header names; replace it with an intact copy")
    return Picture(head, colour, alpha, icc, exif, tuple(notes))


def _exif(image: Image.Image) -> Image.Exif | None:
    try:
        return image.getexif()
    except Exception:  # damaged EXIF is no reason to refuse the pixels
        return None


def _shallow(image: Image.Image, head: Head, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour and alpha of a picture that Pillow reads without loss, 8 bits."""
    if image.mode not in (*_GREY, *_RGB) or (head.bits > 8 and image.mode != "RGB"):
        kind = f"{head.bits}-bit '{image.mode}'"
        raise InputError(f"{name}: holds {kind} pixels; convert it to grey or RGB of 8 or 16 bits")
    if head.format == "TIFF":
        image = ImageOps.exif_transpose(image)  # does nothing where loading has turned it
    grey = image.mode in _GREY
    has_alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
    if image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "1" and has_alpha:
        image = image.convert("RGBA")
    wanted = ("LA" if grey else "RGBA") if has_alpha else ("L" if grey else "RGB")
    pixels = np.array(image.convert(wanted))
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if head.format != "TIFF":  # of which newer versions of Pillow turn the pixels themselves
        pixels = _turned(pixels, head.orientation)
    return (pixels[:, :, :-1], pixels[:, :, -1]) if has_alpha else (pixels, None)


def _without_ink(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    """A CMYK picture in sRGB, and how that was done."""
    if icc is not None:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            screen = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert screen is not None  # None is for a conversion in place
            return screen, "CMYK, converted to sRGB through its profile"
        except (ImageCms.PyCMSError, OSError) as error:
            why = f"with a profile of no use ({shown(error)})"
    else:
        why = "without a profile"
    return image.convert("RGB"), f"CMYK {why}, converted by plain arithmetic: colours may be off"


def _deep(image: Image.Image, data: bytes, head: Head, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour and alpha of a 16-bit PNG or TIFF, of which Pillow keeps 8 bits."""
    if head.format == "PNG":
        pixels = _cv2_pixels(_pixels_alone(data, name), name)
        colour, alpha = _split(pixels, grey_in=_png_is_grey(data))
        key = image.info.get("transparency")  # one colour that stands for 'transparent'
        if key is not None and alpha is None:
            alpha = np.where((colour == np.asarray(key)).all(axis=2), 0, 65535).astype(np.uint16)
        return _turned(colour, head.orientation), None if alpha is None else _turned(alpha, head.orientation)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        squeezed = page.compression == _LZW  # which tifffile cannot do on its own; OpenCV can, where channels alternate
        if page.dtype != np.uint16 or (squeezed and page.planarconfig != 1) or page.samplesperpixel not in (1, 3, 4):
            raise InputError(f"{name}: holds pixels of a rare kind; convert it to grey or RGB of 16 bits, uncompressed")
        if squeezed:
            pixels = _cv2_pixels(data, name)  # turned already
            colour, alpha = _split(pixels, grey_in=pixels.ndim == 2)
        else:
            pixels = page.asarray()
            pixels = np.moveaxis(pixels, 0, 2) if page.planarconfig == 2 and pixels.ndim == 3 else pixels
            pixels = _turned(pixels if pixels.ndim == 3 else pixels[:, :, None], head.orientation)
            colour, alpha = pixels[:, :, :3], pixels[:, :, 3] if pixels.shape[2] == 4 else None
        if page.photometric == _WHITE_IS_ZERO:
            colour = 65535 - colour
        if alpha is not None and _PREMULTIPLIED in page.extrasamples:
            straight = colour / np.maximum(alpha, 1)[:, :, None]
            colour = np.rint(np.minimum(straight, 1) * 65535).astype(np.uint16)
    return colour, alpha


def _cv2_pixels(data: bytes, name: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise InputError(f"{name}: holds 16-bit pixels of a rare kind; convert it to a plain 16-bit PNG")
    return pixels


def _pixels_alone(data: bytes, name: str) -> bytes:
    """A PNG's chunks that make its pixels: OpenCV makes room for any other, however long it says it is."""
    kept = [data[:8]]
    for kind, begin, end in png_chunks(data):
        if kind in (b"IHDR", b"IDAT"):
            if end > len(data):
                raise InputError(f"{name}: is damaged (its pixels are cut off); replace it with an intact copy")
            kept.append(data[begin:end])
    return b"".join([*kept, bytes(4), b"IEND", struct.pack(">I", zlib.crc32(b"IEND"))])


def _png_is_grey(data: bytes) -> bool:
    return data[25] in (0, 4)  # the colour type


def _split(pixels: np.ndarray, grey_in: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """OpenCV's (H, W), BGR or BGRA as colour and alpha; grey with alpha comes as four channels, too."""
    if pixels.ndim == 2:
        return pixels[:, :, None], None
    colour = pixels[:, :, :1] if grey_in else pixels[:, :, 2::-1]
    return colour, pixels[:, :, 3] if pixels.shape[2] == 4 else None


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) as stored -> as it is meant to be seen, by EXIF's orientation, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    down = {3: -1, 4: -1, 7: -1, 8: -1}.get(orientation, 1)
    right = {2: -1, 3: -1, 6: -1, 7: -1}.get(orientation, 1)
    return pixels[::down, ::right]
