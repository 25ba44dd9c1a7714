"""The manifest of packed images: what lies where in a data file, from which files it came, and the pixels' checksums.

    {"format": 2, "data": "NAME-KEY-CONTENT.bin", "bytes": 123456, "images": [{"name": "0001.png", ...}, ...]}

The images are those of one folder in the order of the data file. CONTENT is a digest of everything said about them, so
no figure can be changed alone.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from utils import atomic_write

FORMAT = 2  # raise it when the data file or the manifest changes its meaning
CHANNELS = 3
_PIXELS = re.compile("[0-9a-f]{64}")


class Unusable(Exception):
    """Packed images that cannot be used as they are, and must be packed anew; the text says why."""


@dataclass(frozen=True)
class PackedImage:
    """An image of a data file."""

    name: str  # of the file that was packed, without its folder
    source: str  # and with it
    size: int  # of that file, in bytes
    mtime_ns: int  # when it was changed last
    height: int  # pixels
    width: int
    offset: int  # byte of the data file at which the rows begin
    pixels: str  # `images.pixel_digest`

    @property
    def length(self) -> int:
        """Bytes of the pixels."""
        return self.height * self.width * CHANNELS

    def is_sound(self) -> bool:
        """Whether every field has its type and range."""
        typed = all(type(getattr(self, field.name)) is field.type for field in fields(self))
        return typed and min(self.height, self.width) > 0 and _PIXELS.fullmatch(self.pixels) is not None


def data_file(manifest_path: Path, images: Sequence[PackedImage]) -> Path:
    """The data file of these images."""
    content = hashlib.sha256(json.dumps([FORMAT, [asdict(image) for image in images]]).encode()).hexdigest()[:12]
    return manifest_path.with_name(f"{manifest_path.stem}-{content}.bin")


def write_manifest(path: Path, images: Sequence[PackedImage]) -> None:
    """Write the manifest of `data_file(path, images)`, which must be there.

    Raises:
        InputError: it cannot be written.
    """
    entries = [asdict(image) for image in images]
    total = sum(image.length for image in images)
    content = {"format": FORMAT, "data": data_file(path, images).name, "bytes": total, "images": entries}
    atomic_write(path, json.dumps(content, indent=1).encode())


def read_manifest(path: Path) -> list[PackedImage]:
    """The images of a manifest that fits itself and its data file; no pixel is looked at.

    Raises:
        Unusable: it is missing, of another format, damaged, or the data file is missing or of another length.
    """
    content = _parsed(path)
    if content.get("format") != FORMAT:
        raise Unusable("was written by another release")
    try:
        images = [PackedImage(**entry) for entry in content["images"]]
    except (LookupError, TypeError) as error:
        raise Unusable("is damaged") from error
    total = 0
    for image in images:
        if not image.is_sound() or image.offset != total:
            raise Unusable("is damaged")
        total += image.length
    data_path = data_file(path, images)
    names = {image.name for image in images}
    if len(names) != len(images) or (content.get("data"), content.get("bytes")) != (data_path.name, total):
        raise Unusable("is damaged")
    if _file_size(data_path) != total:
        raise Unusable(f"names {data_path.name}, which is missing or not of its length")
    return images


def _parsed(path: Path) -> dict:
    if _file_size(path) is None:
        raise Unusable("is missing")
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Unusable("is damaged") from error
    if not isinstance(content, dict):
        raise Unusable("is damaged")
    return content


def _file_size(path: Path) -> int | None:
    """Bytes of a regular file, after any links; None for anything else: reading from a pipe would wait."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_size if stat.S_ISREG(state.st_mode) else None
