"""Files for the tests of pictures that no library here writes: PNG of any kind, an ICC profile for CMYK."""

import struct
import zlib

import numpy as np


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(width: int, height: int, bits: int, colour: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def png(array, bits, colour, width=None, transparent=None, exif=b"") -> bytes:
    """A PNG of (H, W, C) samples of 8 or 16 bits, or of rows of packed bytes (then with a width in pixels)."""
    height = array.shape[0]
    rows = array.astype(f">u{max(bits // 8, 1)}").reshape(height, -1)
    content = b"\x89PNG\r\n\x1a\n" + header(width or array.shape[1], height, bits, colour)
    content += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    content += chunk(b"eXIf", exif) if exif else b""
    content += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return content + chunk(b"IEND", b"")


def cmyk_profile() -> bytes:
    """An ICC profile (version 2) whose colours are grey, as light as there is no black ink; other inks do nothing."""
    grid = [[0 if corner & 1 else 255, 128, 128] for corner in range(16)]  # CMYK corners, black the fastest; L*a*b*
    identity = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    table += struct.pack(">9i", *(65536 * value for value in np.eye(3, dtype=int).ravel().tolist()))
    table += identity * 4 + bytes(value for corner in grid for value in corner) + identity * 3
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 6) + b"black\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D),
        b"A2B0": table,
    }
    place, directory, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        directory += name + struct.pack(">II", place + len(body), len(content))
        body += content
    size = place + len(body)
    head = struct.pack(">I", size) + b"\0\0\0\0" + b"\x02\x10\0\0" + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + directory + body
