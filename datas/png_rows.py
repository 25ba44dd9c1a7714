"""Whether a PNG has all of its rows, as Pillow makes missing ones black (PNG specification, sections 5 and 7)."""

import struct
import zlib
from collections.abc import Iterator

from utils import InputError

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
_ONE_PASS = ((0, 0, 1, 1),)  # left, top and the steps to the right and down of the pixels of a pass
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 2**16  # bytes that are unpacked at a time; they become 1032 times as many at most


def need_all_rows(data: bytes, name: str) -> None:
    """Look at a PNG whose header is known to be sound.

    Args:
        data: the whole file.
        name: for the message.

    Raises:
        InputError: its pixels end before its last row.
    """
    unpacker = zlib.decompressobj()
    missing = _bytes_of_rows(*struct.unpack_from(">IIBBxxB", data, 16))  # of the first chunk
    for kind, begin, end in png_chunks(data):
        place, end = begin + 8, min(end - 4, len(data))
        while kind == b"IDAT" and missing > 0 and place < end and not unpacker.eof:
            missing -= len(unpacker.decompress(data[place : min(place + _PIECE, end)]))
            place += _PIECE
    if missing > 0:
        raise InputError(f"{name}: is damaged (it ends before its pixels do); replace it with an intact copy")


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, begin, end) of each chunk, its length and its checksum included; the last may end beyond the data."""
    place = 8
    while len(start := data[place : place + 8]) == 8:
        length, kind = struct.unpack(">I4s", start)
        yield kind, place, place + 12 + length
        place += 12 + length


def _bytes_of_rows(width: int, height: int, bits: int, colour: int, interlaced: int) -> int:
    """How many bytes a PNG's pixels are: rows, each behind the number of its filter."""
    found = 0
    for left, top, right, down in _ADAM7 if interlaced else _ONE_PASS:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0:
            found += max(rows, 0) * (1 + -(-columns * bits * _SAMPLES[colour] // 8))
    return found
