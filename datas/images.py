"""Finding, reading and writing image files.

One rule for every image of the project: what is read is 8-bit RGB, (H, W, 3) uint8. 8-bit RGB files are taken as
they are and 8-bit grey files become three equal channels (Set14/bridge is grey); everything else (16 bit, palette,
alpha, CMYK, 1 bit) is refused, because turning it into RGB is a decision for whoever owns the images. EXIF rotation
is ignored: pixels are taken in the order in which they are stored. Of several pictures in a file the first is read.
"""

import hashlib
import itertools
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from datas.names import usable_path
from datas.png_rows import need_all_rows
from utils import InputError, atomic_write

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LARGEST = 178_956_970  # pixels; Pillow takes a larger image for an attack
HEADER_THREADS = 8  # headers wait for the disk, not for the processor

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# How files of the formats above begin. Pillow reads many more, and hands PostScript to another program.
_TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_SIGNATURES = (_PNG_SIGNATURE, b"\xff\xd8\xff", b"BM", *_TIFF_SIGNATURES)
_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
KINDS, KINDS_WITH_ALPHA = ("8-bit RGB", "8-bit grey"), ("8-bit RGBA", "8-bit grey with alpha")
WITH_ALPHA = {"RGBA": 3, "LA": 1}  # channels of colour in Pillow's modes that have alpha
_PILLOW_MODES = {"L": "grey", "RGB": "RGB", "LA": "grey with alpha", "RGBA": "RGBA"}  # of any depth
_OTHER_MODES = {"1": "1-bit", "P": "palette", "CMYK": "CMYK"}
# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)


def list_images(folder, advice: str = "check the path") -> list[Path]:
    """The image files of `folder` (not of its subfolders), sorted by stem; hidden files are left out.

    Raises:
        InputError: there is no such folder or it has no image (the message ends with `advice`), it cannot be read, two
            images differ only by their suffix, or a name is none that `usable_path` takes.
    """
    folder = usable_path(folder)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; {advice}")
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: could not be read ({error.strerror}); {advice}") from error
    files = [usable_path(path) for path in paths if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
    if not files:
        raise InputError(f"{folder}: no image in this folder ({', '.join(SUFFIXES)}); {advice}")
    files.sort(key=lambda path: (path.stem, path.suffix))
    for first, second in itertools.pairwise(files):
        if first.stem == second.stem:
            raise InputError(f"{folder}: {first.name} and {second.name} have the same name; remove one of them")
    return files


def read_rgb(path, drop_alpha: bool = False) -> np.ndarray:
    """The pixels of an 8-bit RGB or grey file as (H, W, 3) uint8.

    With `drop_alpha`, files with alpha are read, too: their colours as they are stored, whatever alpha says.

    Raises:
        InputError: the file is missing, damaged, neither 8-bit RGB nor 8-bit grey, or too large for the memory.
    """
    path = Path(path)
    size = image_size(path, drop_alpha)  # refuses what Pillow would convert silently, such as 16-bit RGB
    try:
        with iio.imopen(path, "r", plugin="pillow") as file:
            image, mode = file.read(index=0), file.metadata(index=0, exclude_applied=False)["mode"]
    except (*_DECODER_ERRORS, MemoryError) as error:
        raise _refusal(path, error) from error
    if drop_alpha and mode in WITH_ALPHA:
        image, mode = np.ascontiguousarray(image[:, :, : WITH_ALPHA[mode]]), "RGB"
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if mode not in ("RGB", "L") or image.dtype != np.uint8 or image.shape != (*size, 3):  # of two headers we read one
        raise InputError(f"{path}: its pixels are not those that its header names; replace it with an intact copy")
    _need_all_rows(path)
    return image


def image_size(path, drop_alpha: bool = False) -> tuple[int, int]:
    """(height, width) in pixels from the file's header; no pixel is decoded.

    `drop_alpha` as in `read_rgb`.

    Raises:
        InputError: the file is missing or not a regular one, its header is damaged, it is neither 8-bit RGB nor 8-bit
            grey, or too large.
    """
    path = usable_path(path)
    _need_file(path)
    try:
        with path.open("rb") as file:
            header = file.read(26)
        known = header.startswith(_SIGNATURES) or (header[:4] == b"RIFF" and header[8:12] == b"WEBP")
        if not known:
            raise SyntaxError("not of a known format")
        kind, height, width = _png_header(header) if header.startswith(_PNG_SIGNATURE) else _pillow_header(path, header)
        if min(height, width) < 1:
            raise SyntaxError("no pixels")
    except (*_DECODER_ERRORS, MemoryError) as error:
        raise _refusal(path, error) from error
    if kind not in (*KINDS, *(KINDS_WITH_ALPHA if drop_alpha else ())):
        otherwise = "; of evaluation images, drop_alpha: True leaves alpha out" if kind in KINDS_WITH_ALPHA else ""
        raise InputError(f"{path}: holds {kind} pixels; convert it to an 8-bit RGB PNG{otherwise}")
    if height * width > LARGEST:
        raise InputError(f"{path}: {width}x{height} are more than {LARGEST:,} pixels; cut it into tiles")
    return height, width


def image_sizes(files: Sequence[Path], drop_alpha: bool = False) -> np.ndarray:
    """`image_size` of every file, read by several threads: (N, 2) int64, height and width."""
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        sizes = list(pool.map(partial(image_size, drop_alpha=drop_alpha), files))
    return np.array(sizes, dtype=np.int64).reshape(len(files), 2)


def pixel_digest(shape: tuple[int, ...], pieces: Iterable) -> str:
    """The checksum of an image's pixels: SHA-256, 64 hexadecimal digits, of its shape and its bytes.

    Args:
        shape: (H, W, 3).
        pieces: the bytes in the order of the array, in one or more buffers.
    """
    digest = hashlib.sha256(str(tuple(shape)).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def encode_png(image: np.ndarray) -> bytes:
    """An (H, W, 3) uint8 image as the bytes of a PNG file."""
    return iio.imwrite("<bytes>", image, extension=".png", plugin="pillow")


def write_png(path, image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 image as PNG; a reader sees the old file or the whole new one.

    Raises:
        InputError: the disk is full or the folder cannot be written to.
    """
    atomic_write(path, encode_png(image))


def _need_file(path: Path) -> None:
    """Refuse what is there and no file: a pipe would be waited for, and a device may never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _refusal(path, error) from error
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is a folder, a pipe or a device, no file; remove it, or give it another name")


def _need_all_rows(path: Path) -> None:
    """Refuse a PNG whose pixels end before its last row; other formats' decoders do that themselves."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_PNG_SIGNATURE))
            if begin == _PNG_SIGNATURE:
                need_all_rows(begin + file.read(), str(path))
    except (zlib.error, OSError) as error:
        raise _refusal(path, error) from error


def _png_header(header: bytes) -> tuple[str, int, int]:
    """Kind, height and width from the first 26 bytes (signature and IHDR, PNG specification section 11.2.1)."""
    width, height, depth, colour = struct.unpack(">IIBB", header[16:26])
    return f"{depth}-bit {_PNG_COLOURS[colour]}", height, width


def _pillow_header(path: Path, header: bytes) -> tuple[str, int, int]:
    with iio.imopen(path, "r", plugin="pillow") as file:
        height, width = file.properties(index=0).shape[:2]
        meta = file.metadata(index=0, exclude_applied=False)
    depth = 8
    if header.startswith(_TIFF_SIGNATURES):  # Pillow opens 16-bit RGB TIFF as 8-bit RGB
        bits = meta.get("BitsPerSample", 8)
        depth = int(max(bits) if isinstance(bits, tuple) else bits)
    mode = meta["mode"]
    if mode in _PILLOW_MODES:
        return f"{depth}-bit {_PILLOW_MODES[mode]}", height, width
    return _OTHER_MODES.get(mode, f"'{mode}'"), height, width


def _refusal(path: Path, error: BaseException) -> InputError:
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"{path}: could not be read ({error.strerror}); check the path and its permissions")
    if isinstance(error.__cause__, Image.DecompressionBombError):
        return InputError(f"{path}: has more than {LARGEST:,} pixels; cut it into tiles")
    if isinstance(error, MemoryError):
        return InputError(f"{path}: is damaged or too large for the memory; replace it or cut it into tiles")
    return InputError(f"{path}: is damaged or no image of a known format; replace it with an intact copy")
