"""Files of weights: read once, within limits, checked against their checksums, and opened without running code."""

import hashlib
import io
import itertools
import os
import pickle
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from .errors import ModelError
from .pickle_check import PickleCheck, Refused

HASH_LIST = "SHA256SUMS"  # beside the shipped weights, as sha256sum writes it
CHECKSUM_MARK = b"sha256 "
MAX_BYTES = 2 << 30  # 150 training checkpoints of the paper's network; reading takes twice the file's size of memory
MAX_DESCRIPTION = 4 << 20  # bytes of a pickle, a header or a list of hashes; the checkpoint's pickle has 0.24 MB
MAX_MEMBERS = 100_000  # of a zip archive: one a storage; the checkpoint has 2,200
MAX_MESSAGE, MAX_NAME, MAX_PATH = 400, 60, 200  # characters
ZIP_END, ZIP64_END = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q")
ZIP64_LOCATOR, ZIP_ENTRY = struct.Struct("<4sIQI"), struct.Struct("<4s6H3I5H2I")
ZIP_LOCAL_SIZE = 30
# Published files log scores as numpy scalars; rebuilding those runs no code of the file's.
_scalar = np.float64(0).__reduce__()[0]
NUMPY_SCALARS: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")),
    *((_scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),  # numpy 1 and 2
]
WHERE_PUBLISHED = (
    "weights published with the paper (arXiv 2506.11823 links to its authors' repository) belong in pretrain_model/, "
    "e.g. pretrain_model/model_x2_290.pt; name the file with --set pretrain=FILE"
)


def printable(text: str, most: int = MAX_NAME) -> str:
    """Foreign text on one line, all else than printable characters escaped, its middle left out if it is long."""
    kept = text if len(text) <= most else f"{text[: most // 2 - 5]} ... {text[-most // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in kept)


def refusal(path, text: str) -> ModelError:
    """The error of one line for a file that cannot be used."""
    return ModelError(printable(f"{printable(str(path), MAX_PATH)}: {text}", MAX_MESSAGE))


def checksum_of(body) -> bytes:
    """What a checkpoint of this project carries as its zip archive's comment: the SHA-256 of all before its length."""
    return CHECKSUM_MARK + hashlib.sha256(body).hexdigest().encode()


def listed_hash(path) -> str | None:
    """The SHA-256 that the file SHA256SUMS beside `path` gives for it, if there is one.

    Raises ModelError: the list is unreadable.
    """
    sums = Path(path).with_name(HASH_LIST)
    if not sums.is_file():
        return None
    try:
        lines = _read(sums, MAX_DESCRIPTION).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise refusal(sums, "is no list of hashes (not UTF-8 text); write it again with sha256sum") from error
    pairs = (line.split() for line in lines)
    return next((pair[0] for pair in pairs if pair[1:] == [Path(path).name]), None)


def file_hash(path) -> str:
    """SHA-256 of a file, as hexadecimal text. Raises ModelError: unreadable."""
    digest = hashlib.sha256()
    with _open(path) as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_checkpoint(path) -> dict:
    """Whatever dict the file holds, on the CPU, once its checksum, if it has one, was found right.

    Its tensors are dense; of which type they are, and whether they are finite, is not looked at.

    Raises:
        ModelError: no such file, too large, damaged, carries code, or is no dict.
    """
    data = _read(path)
    if _carries_its_checksum(data) is False:
        raise refusal(path, "damaged: it does not match the checksum that it carries; fetch or make it again")
    listed = listed_hash(path)
    if listed is not None and listed != hashlib.sha256(data).hexdigest():
        raise refusal(path, f"is not the file that {HASH_LIST} beside it lists (SHA-256 differs); fetch it again")
    try:
        content = _content(data, Path(path).suffix)
    except Refused as error:
        raise refusal(path, str(error)) from error
    except pickle.UnpicklingError as error:
        raise refusal(
            path, "refused: it carries code or unknown objects; ask its author for a plain state dict"
        ) from error
    except Exception as error:  # bytes at random make the readers raise anything: IndexError, struct.error, ...
        reason = printable(f"{type(error).__name__}: {error}".splitlines()[0], 120)
        raise refusal(path, f"damaged or not a checkpoint ({reason}); fetch it again") from error
    if not isinstance(content, dict):
        raise refusal(path, f"holds a {type(content).__name__}, not a state dict")
    return content


def _open(path) -> BinaryIO:
    """A regular file, opened for reading. Anything else could block, or never end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError as error:
        raise refusal(path, f"no such checkpoint; {WHERE_PUBLISHED}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise refusal(path, f"cannot be read ({reason}); name a file that can be") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise refusal(path, "is a folder, a pipe or a device; name a checkpoint, a regular file")
    return os.fdopen(handle, "rb")


def _read(path, most: int = MAX_BYTES) -> bytes:
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise refusal(
                path, f"has {size / 1e6:,.0f} MB, more than the {most / 1e6:,.0f} that are read; keep the weights alone"
            )
        try:
            return file.read(size)
        except (OSError, MemoryError) as error:
            raise refusal(path, f"cannot be read ({error or 'out of memory'}); try again") from error


def _carries_its_checksum(data: bytes) -> bool | None:
    length = len(checksum_of(b""))
    if not data[-length:].startswith(CHECKSUM_MARK):
        return None
    return data[-length:] == checksum_of(memoryview(data)[: -length - 2])


def _content(data: bytes, suffix: str) -> Any:
    """What the bytes of a file hold. Raises Refused, or what the readers raise."""
    if suffix == ".safetensors":
        if int.from_bytes(data[:8], "little") > min(MAX_DESCRIPTION, len(data)):
            raise Refused("damaged: its header would be longer than it can be; fetch it again")
        return safetensors.torch.load(data)
    (_check_zip if data.startswith(b"PK\3\4") else _check_old_format)(data)
    with torch.serialization.safe_globals(NUMPY_SCALARS):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True, mmap=False)


def _check_zip(data: bytes) -> None:
    """Look at an archive of PyTorch's: a pickle that names storages, and a member for each of them."""
    members = _members(data)
    folder = next(iter(members), "").split("/")[0]  # PyTorch takes the folder of the first member
    if f"{folder}/data.pkl" not in members:
        raise Refused("damaged or not a checkpoint (a zip archive without PyTorch's data.pkl); fetch it again")
    start, end = members[f"{folder}/data.pkl"]
    if end - start > MAX_DESCRIPTION:
        raise Refused("refused: it describes more objects than any checkpoint needs; ask for a plain state dict")
    check = PickleCheck()
    check.follow(io.BytesIO(data[start:end]))
    for key, storage in check.storages.items():
        start, end = members.get(f"{folder}/data/{key}", (0, -1))
        if end - start != storage.nbytes:
            raise Refused(f"damaged: the values {key!r} are not there or of another size; fetch it again")


def _members(data: bytes) -> dict[str, tuple[int, int]]:
    """Where the bytes of each member of a zip archive start and end.

    Stricter than the format, so that PyTorch's reader cannot find other members: one list of them, at the end, with
    every member stored as it is and none over another.
    """
    end = data.rfind(b"PK\5\6", max(0, len(data) - ZIP_END.size - 0xFFFF))
    if end < 0:
        raise Refused("damaged: its end is missing (the file was cut short); fetch it again")
    *_, count, size, start, comment = ZIP_END.unpack_from(data, end)
    stop = end
    if data.startswith(b"PK\6\7", max(0, end - ZIP64_LOCATOR.size)):
        stop = end - ZIP64_LOCATOR.size - ZIP64_END.size
        *_, count, size, start = ZIP64_END.unpack_from(data, stop)
        _demand(ZIP64_LOCATOR.unpack_from(data, stop + ZIP64_END.size)[2] == stop and data.startswith(b"PK\6\6", stop))
    _demand(end + ZIP_END.size + comment == len(data) and start + size == stop and count <= MAX_MEMBERS)
    members, spans, at = {}, [(start, stop)], start
    for _ in range(count):
        mark, _, _, flags, method, _, _, _, packed, full, *lengths, _, _, _, place = ZIP_ENTRY.unpack_from(data, at)
        _demand(mark == b"PK\1\2" and data.startswith(b"PK\3\4", place))
        name = data[at + ZIP_ENTRY.size : at + ZIP_ENTRY.size + lengths[0]].decode()
        if method or packed != full or flags & 1:
            raise Refused(f"its member {name!r} is compressed, which PyTorch's files never are; fetch the original")
        first = place + ZIP_LOCAL_SIZE + sum(struct.unpack_from("<2H", data, place + 26))
        spans.append((place, first + full))
        members[name] = (first, first + full)
        at += ZIP_ENTRY.size + sum(lengths)
    spans.sort()
    apart = all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    # The last span is the list itself; PyTorch looks names up without regard to case.
    _demand(at == stop and apart and spans[-1][1] == stop and len({name.lower() for name in members}) == count)
    return members


def _demand(clear: bool) -> None:
    if not clear:
        raise Refused("damaged: its list of members is not as PyTorch writes it; fetch it again")


def _check_old_format(data: bytes) -> None:
    """Look at a file of before PyTorch 1.6: five pickles, then each storage with its length before it.

    PyTorch allocates the storages as the pickle gives their sizes, and leaves those that the last pickle does not list
    as they are: filled with whatever the memory held.
    """
    check, file = PickleCheck(), io.BytesIO(data[:MAX_DESCRIPTION])
    if [check.follow(file) for _ in range(2)] != [MAGIC_NUMBER, PROTOCOL_VERSION]:
        raise Refused(
            "refused: not a checkpoint (neither PyTorch's mark nor a zip archive); ask for a plain state dict"
        )
    _, _, keys = (check.follow(file) for _ in range(3))  # the system's sizes, the content, its storages
    stored = sum(8 + storage.nbytes for storage in check.storages.values())
    if type(keys) is not list or sorted(map(str, keys)) != sorted(check.storages) or file.tell() + stored > len(data):
        raise Refused("damaged: its values are not all there (the file was cut short?); fetch it again")
