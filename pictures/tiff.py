"""Writing TIFF by bands of rows: strips packed by Deflate with horizontal differences (TIFF 6.0, and its supplements).

A kept EXIF block is a small TIFF file itself. It becomes the beginning of the file, so that what it points to stays
where it was, and its entries go into the directory that is written at the end.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

STRIP = 64  # rows
LARGEST = 2**32 - 2**20  # bytes; offsets have 32 bits
_ENTRY = struct.Struct("<HHII")  # tag, type, count, value or offset
_SHORT, _LONG, _BYTES = 3, 4, 7


def write_tiff(
    file: BinaryIO, bands: Iterable[np.ndarray], shape: tuple[int, int, int], bits: int, icc: bytes | None, exif: bytes
) -> None:
    """Write a TIFF file to a new file that can seek.

    Args:
        bands: uint8 or uint16 (h, W, C), from the top down: grey or RGB, with or without alpha that is not
            premultiplied.
        shape: (H, W, C) of the whole; its bytes are LARGEST at most.
        bits: of a sample, 8 or 16.
        icc: an ICC profile, or None.
        exif: a little-endian TIFF block, or nothing.
    """
    height, width, channels = shape
    file.write(exif or b"II*\0" + bytes(4))
    offsets, lengths = [], []
    for strip in _strips(bands):
        packed = zlib.compress(_differences(strip))
        offsets.append(_appended(file, packed))
        lengths.append(len(packed))
    has_alpha = channels in (2, 4)
    entries = {
        256: (_LONG, [width]), 257: (_LONG, [height]), 258: (_SHORT, [bits] * channels),
        259: (_SHORT, [8]), 262: (_SHORT, [2 if channels >= 3 else 1]), 273: (_LONG, offsets),
        277: (_SHORT, [channels]), 278: (_LONG, [STRIP]), 279: (_LONG, lengths), 284: (_SHORT, [1]),
        317: (_SHORT, [2]),
        **({338: (_SHORT, [2])} if has_alpha else {}),
        **({34675: (_BYTES, list(icc))} if icc else {}),
    }  # fmt: skip
    directory = _old_entries(exif) | {tag: _entry(file, tag, *value) for tag, value in entries.items()}
    content = struct.pack("<H", len(directory)) + b"".join(directory[tag] for tag in sorted(directory)) + bytes(4)
    begin = _appended(file, content)
    file.seek(4)
    file.write(struct.pack("<I", begin))


def _strips(bands: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Bands of any heights -> bands of STRIP rows; the last one may be shorter."""
    kept: list[np.ndarray] = []
    for band in bands:
        kept.append(band)
        if sum(len(part) for part in kept) >= STRIP:
            rows = np.concatenate(kept)
            whole = len(rows) // STRIP * STRIP
            yield from (rows[top : top + STRIP] for top in range(0, whole, STRIP))
            kept = [rows[whole:]]
    if kept and (rows := np.concatenate(kept)).size:
        yield rows


def _differences(strip: np.ndarray) -> bytes:
    rest = strip.copy()
    rest[:, 1:] -= strip[:, :-1]
    return rest.astype(rest.dtype.newbyteorder("<"), copy=False).tobytes()


def _appended(file: BinaryIO, content: bytes) -> int:
    """Where the content begins; on a word boundary, as TIFF demands."""
    if file.tell() % 2:
        file.write(b"\0")
    begin = file.tell()
    file.write(content)
    return begin


def _entry(file: BinaryIO, tag: int, kind: int, values: list[int]) -> bytes:
    content = struct.pack(f"<{len(values)}{ {_SHORT: 'H', _LONG: 'L', _BYTES: 'B'}[kind] }", *values)
    place = struct.unpack("<I", content.ljust(4, b"\0"))[0] if len(content) <= 4 else _appended(file, content)
    return _ENTRY.pack(tag, kind, len(values), place)


def _old_entries(exif: bytes) -> dict[int, bytes]:
    """Tag -> entry of the first directory in a little-endian TIFF block."""
    if not exif:
        return {}
    begin = struct.unpack_from("<I", exif, 4)[0]
    count = struct.unpack_from("<H", exif, begin)[0]
    entries = (exif[begin + 2 + 12 * number :][:12] for number in range(count))
    return {struct.unpack_from("<H", entry)[0]: entry for entry in entries}
