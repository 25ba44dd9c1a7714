"""The images of one folder as one flat file of uint8 pixels, memory-mapped, so that a crop costs its own bytes.

A pack consists of a data file `NAME-KEY-CONTENT.bin` (every image's rows, one image after the other) and a manifest
`NAME-KEY.json`, where KEY stands for the folder and CONTENT for the state of its files. The manifest is written last
and names its data file, so a build that is killed leaves nothing that looks complete; the next one removes the rest.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from datas.images import image_sizes, read_rgb
from utils import InputError, atomic_write

FORMAT = 1  # raise it when the data file or the manifest changes its meaning
DECODE_THREADS = min(16, os.cpu_count() or 1)
CHANNELS = 3


class Pack:
    """Images in a packed data file. Opened at the first access; pickling it copies no pixel.

    Attributes:
        path: the data file.
        names: file name of each image.
        offsets: (N,) int64, byte in the file at which each image starts.
        heights, widths: (N,) int64, pixels.
    """

    def __init__(self, path: Path, names: Sequence[str], offsets, heights, widths):
        self.path = path
        self.names = tuple(names)
        self.offsets = np.asarray(offsets, np.int64)
        self.heights = np.asarray(heights, np.int64)
        self.widths = np.asarray(widths, np.int64)
        self._flat: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_flat": None}

    @property
    def flat(self) -> np.ndarray:
        """The whole data file as a read-only, memory-mapped (bytes,) uint8 array.

        Raises:
            InputError: the data file is gone, because the pack was rebuilt or the cache emptied in the meantime.
        """
        if self._flat is None:
            try:
                # As a plain array: slicing a np.memmap costs several times as much.
                self._flat = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
            except OSError as error:
                raise InputError(f"{self.path}: the packed images are gone ({error.strerror}); start again") from error
        return self._flat

    def whole(self, index: int) -> np.ndarray:
        """Image `index` as a read-only (H, W, 3) uint8 view."""
        height, width, start = int(self.heights[index]), int(self.widths[index]), int(self.offsets[index])
        return self.flat[start : start + height * width * CHANNELS].reshape(height, width, CHANNELS)

    def crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A read-only (height, width, 3) uint8 view into image `index`; only its rows are read from the disk."""
        return self.whole(index)[top : top + height, left : left + width]


def pack(files: Sequence[Path], cache_dir) -> Pack:
    """The pack of `files` (all in one folder), in their order; built when there is none or when a file has changed.

    A pack that holds more images of the folder than asked for is used as it is. Two processes may call this at
    once: one builds, the other waits and uses the result.

    Raises:
        InputError: an image cannot be read, the disk is full, or `cache_dir` cannot be written to.
    """
    files = [Path(path) for path in files]
    stamps = _stamps(files)
    manifest_path = Path(cache_dir) / f"{_pack_name(files[0].parent)}.json"
    # Asked before taking the lock, so that a finished pack can also be used from a read-only disk.
    found = _open(manifest_path, stamps)
    if found is not None:
        return found
    try:
        manifest_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(manifest_path.with_suffix(".lock")):  # the system frees it when the process ends, however it ends
            return _open(manifest_path, stamps) or _build(files, stamps, manifest_path)
    except OSError as error:
        raise _unwritable(manifest_path.parent, error) from error


def _pack_name(folder: Path) -> str:
    folder = folder.resolve()
    readable = re.sub(r"[^\w.-]", "_", f"{folder.parent.name}-{folder.name}")
    return f"{readable}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"


def _stamps(files: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """File name -> (size in bytes, time of last change in ns)."""
    try:
        states = [path.stat() for path in files]
    except OSError as error:
        raise InputError(f"{error.filename}: could not be read ({error.strerror}); check the path") from error
    return {path.name: (state.st_size, state.st_mtime_ns) for path, state in zip(files, states, strict=True)}


def _open(manifest_path: Path, stamps: dict) -> Pack | None:
    """The pack behind a manifest if it is complete and holds every file of `stamps` unchanged, else None."""
    try:
        manifest = json.loads(manifest_path.read_bytes())
        if manifest["format"] != FORMAT:
            return None
        data_path = manifest_path.parent / manifest["data"]
        entries = {entry["name"]: entry for entry in manifest["images"]}
        chosen = [entries[name] for name in stamps]
        if data_path.stat().st_size != manifest["bytes"]:
            return None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # missing, cut short or foreign: a build replaces it
    if [(entry["size"], entry["mtime_ns"]) for entry in chosen] != list(stamps.values()):
        return None
    return Pack(data_path, list(stamps), *([entry[key] for entry in chosen] for key in ("offset", "height", "width")))


def _build(files: Sequence[Path], stamps: dict, manifest_path: Path) -> Pack:
    """Decode `files` into a new data file, then write the manifest; the lock must be held."""
    sizes = image_sizes(files)
    lengths = sizes.prod(axis=1) * CHANNELS
    offsets = np.concatenate([[0], lengths.cumsum()])
    total = int(offsets[-1])
    images = [
        {
            "name": path.name,
            "source": str(path.resolve()),
            "size": stamps[path.name][0],
            "mtime_ns": stamps[path.name][1],
            "height": int(height),
            "width": int(width),
            "offset": int(offset),
        }
        for path, (height, width), offset in zip(files, sizes, offsets[:-1], strict=True)
    ]
    content = hashlib.sha256(json.dumps([FORMAT, images]).encode()).hexdigest()[:12]
    data_path = manifest_path.with_name(f"{manifest_path.stem}-{content}.bin")
    _remove_data_files(manifest_path)
    _need_space(manifest_path.parent, total)
    temporary = data_path.with_suffix(".bin.tmp")
    _write_pixels(files, images, temporary)
    os.replace(temporary, data_path)
    manifest = {"format": FORMAT, "data": data_path.name, "bytes": total, "images": images}
    atomic_write(manifest_path, json.dumps(manifest, indent=1).encode())
    return Pack(data_path, list(stamps), offsets[:-1], *sizes.T)


def _remove_data_files(manifest_path: Path) -> None:
    """Remove every data file of this pack: outdated ones, whose manifest is void without them, and leftovers.

    Windows does not remove a file that another process has mapped; the build after this one will.
    """
    for path in manifest_path.parent.iterdir():
        if path.name.startswith(f"{manifest_path.stem}-") and path.name.endswith((".bin", ".bin.tmp")):
            with suppress(PermissionError):
                path.unlink()


def _write_pixels(files: Sequence[Path], images: Sequence[dict], data_path: Path) -> None:
    def copy(path: Path, image: dict) -> None:
        pixels = read_rgb(path)
        if pixels.shape != (image["height"], image["width"], CHANNELS):
            raise InputError(f"{path}: changed while it was read; start again when nothing writes to the folder")
        _write_at(data_path, image["offset"], pixels)

    try:
        with data_path.open("wb") as file:
            with ThreadPoolExecutor(DECODE_THREADS) as pool:
                list(tqdm(pool.map(copy, files, images), f"packing {files[0].parent}", len(files), unit="image"))
            os.fsync(file.fileno())  # of what all handles wrote
    except BaseException:
        data_path.unlink(missing_ok=True)
        raise


def _write_at(data_path: Path, offset: int, pixels: np.ndarray) -> None:
    """Write an image into the data file; several threads may, as each call has a position of its own in the file."""
    # Written, not mapped: a full disk is an error here and would kill the process in a mapped file.
    with data_path.open("r+b") as file:
        file.seek(offset)
        file.write(pixels.reshape(-1).data)


def _need_space(folder: Path, total: int) -> None:
    """Find out that the images will not fit before an hour of decoding does."""
    if shutil.disk_usage(folder).free < total:
        raise OSError(errno.ENOSPC, f"{total / 1e9:.1f} GB needed")


def _unwritable(folder: Path, error: OSError) -> InputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = f"the disk is full, {error.strerror}" if full else error.strerror
    return InputError(f"{folder}: packed images cannot be stored here ({reason}); set `cache_path` to another folder")
