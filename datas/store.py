"""The images of one folder as one flat file of uint8 pixels, memory-mapped, so that a crop costs its own bytes.

A pack consists of a data file `NAME-KEY-CONTENT.bin` (every image's rows, one image after the other) and a manifest
`NAME-KEY.json` (`datas.manifest`), where KEY stands for the folder and CONTENT for the state of its files. The manifest
is written last and names its data file, so a build that is killed leaves nothing that looks complete; the next one
removes the rest.
"""

import errno
import hashlib
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

from datas.images import image_sizes, pixel_digest, read_rgb
from datas.manifest import CHANNELS, PackedImage, Unusable, data_file, read_manifest, write_manifest
from datas.names import usable_path
from utils import InputError, Terminal

DECODE_THREADS = min(16, os.cpu_count() or 1)
LONGEST_NAME = 150  # bytes of a folder's name within that of its pack; a file's name may have some 250

Stamps = dict[str, tuple[int, int]]


class Pack:
    """Images in a packed data file. Opened at the first access; pickling it copies no pixel.

    Attributes:
        path: the data file.
        names: file name of each image.
        offsets: (N,) int64, byte in the file at which each image starts.
        heights, widths: (N,) int64, pixels.
        digests: `images.pixel_digest` of each image when it was packed.
    """

    def __init__(self, path: Path, images: Sequence[PackedImage]):
        self.path = path
        self.names = tuple(image.name for image in images)
        self.offsets = np.array([image.offset for image in images], np.int64)
        self.heights = np.array([image.height for image in images], np.int64)
        self.widths = np.array([image.width for image in images], np.int64)
        self.digests = tuple(image.pixels for image in images)
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

    A pack that holds more images of the folder than asked for is used as it is. One that is outdated or damaged is
    built again, and a line says why. Two processes may call this at once: one builds, the other waits and uses the
    result.

    Raises:
        InputError: an image cannot be read, the disk is full, or `cache_dir` cannot be written to.
    """
    files = [Path(path) for path in files]
    stamps = _stamps(files)
    manifest_path = usable_path(cache_dir) / f"{_pack_name(files[0].parent)}.json"
    # Asked before taking the lock, so that a finished pack can also be used from a read-only disk.
    with suppress(Unusable):
        return _open(manifest_path, stamps)
    try:
        manifest_path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(manifest_path.with_suffix(".lock")):  # the system frees it when the process ends, however it ends
            try:
                return _open(manifest_path, stamps)
            except Unusable as reason:
                if manifest_path.exists():
                    with suppress(OSError):  # whoever read the output is gone; the work goes on
                        tqdm.write(f"{manifest_path}: {reason}; the images of {files[0].parent} are packed anew")
            return _build(files, stamps, manifest_path)
    except OSError as error:
        raise _unwritable(manifest_path.parent, error) from error


def _pack_name(folder: Path) -> str:
    folder = folder.resolve()
    readable = re.sub(r"[^\w.-]", "_", f"{folder.parent.name}-{folder.name}")
    readable = readable.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{readable}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"


def _stamps(files: Sequence[Path]) -> Stamps:
    """File name -> (size in bytes, time of last change in ns)."""
    try:
        states = [path.stat() for path in files]
    except OSError as error:
        raise InputError(f"{error.filename}: could not be read ({error.strerror}); check the path") from error
    return {path.name: (state.st_size, state.st_mtime_ns) for path, state in zip(files, states, strict=True)}


def _open(manifest_path: Path, stamps: Stamps) -> Pack:
    """The pack of a manifest, if it holds every file of `stamps` unchanged. Unusable says why it is not taken."""
    images = read_manifest(manifest_path)
    by_name = {image.name: image for image in images}
    for name, stamp in stamps.items():
        if name not in by_name:
            raise Unusable(f"does not hold {name}")
        if (by_name[name].size, by_name[name].mtime_ns) != stamp:
            raise Unusable(f"holds {name} as it was before it was replaced")
    return Pack(data_file(manifest_path, images), [by_name[name] for name in stamps])


def _build(files: Sequence[Path], stamps: Stamps, manifest_path: Path) -> Pack:
    """Decode `files` into a new data file, then write the manifest; the lock must be held."""
    sizes = image_sizes(files)
    lengths = sizes.prod(axis=1) * CHANNELS
    offsets = (lengths.cumsum() - lengths).tolist()
    _remove_old_files(manifest_path)
    _need_space(manifest_path.parent, int(lengths.sum()))
    temporary = manifest_path.with_name(f"{manifest_path.stem}-new.bin.tmp")
    digests = _write_pixels(files, sizes.tolist(), offsets, temporary)
    images = [
        PackedImage(path.name, os.path.realpath(path), *stamps[path.name], height, width, offset, digest)
        for path, (height, width), offset, digest in zip(files, sizes.tolist(), offsets, digests, strict=True)
    ]
    data_path = data_file(manifest_path, images)
    os.replace(temporary, data_path)
    write_manifest(manifest_path, images)
    return Pack(data_path, images)


def _remove_old_files(manifest_path: Path) -> None:
    """Remove every data file of this pack (outdated ones, whose manifest is void without them) and all leftovers.

    Windows does not remove a file that another process has mapped; the build after this one will.
    """
    for path in manifest_path.parent.iterdir():
        is_data = path.name.startswith(f"{manifest_path.stem}-") and path.name.endswith((".bin", ".bin.tmp"))
        is_leftover = path.name.startswith(f".{manifest_path.name}.") and path.name.endswith(".tmp")
        if is_data or is_leftover:
            with suppress(PermissionError):
                path.unlink()


def _write_pixels(files: Sequence[Path], sizes: list, offsets: list[int], data_path: Path) -> list[str]:
    """Write the pixels of `files`, whose (height, width) are `sizes`, at `offsets`; return their digests."""

    def copy(path: Path, size: list[int], offset: int) -> str:
        pixels = read_rgb(path)
        if pixels.shape != (*size, CHANNELS):
            raise InputError(f"{path}: changed while it was read; start again when nothing writes to the folder")
        flat = pixels.reshape(-1)
        _write_at(data_path, offset, flat)
        return pixel_digest(pixels.shape, [flat])

    try:
        with data_path.open("wb") as file:
            with ThreadPoolExecutor(DECODE_THREADS) as pool:
                copied = pool.map(copy, files, sizes, offsets)
                digests = list(tqdm(copied, f"packing {files[0].parent}", len(files), unit="image", file=Terminal()))
            os.fsync(file.fileno())  # of what all handles wrote
    except BaseException:
        data_path.unlink(missing_ok=True)
        raise
    return digests


def _write_at(data_path: Path, offset: int, flat: np.ndarray) -> None:
    """Write an image into the data file; several threads may, as each call has a position of its own in the file."""
    # Written, not mapped: a full disk is an error here and would kill the process in a mapped file.
    with data_path.open("r+b") as file:
        file.seek(offset)
        file.write(flat.data)


def _need_space(folder: Path, total: int) -> None:
    """Find out that the images will not fit before an hour of decoding does."""
    if shutil.disk_usage(folder).free < total:
        raise OSError(errno.ENOSPC, f"{total / 1e9:.1f} GB needed")


def _unwritable(folder: Path, error: OSError) -> InputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = f"the disk is full, {error.strerror}" if full else error.strerror
    return InputError(f"{folder}: packed images cannot be stored here ({reason}); set `cache_path` to another folder")
