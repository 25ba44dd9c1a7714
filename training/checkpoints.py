"""The checkpoints of a run: written whole, with a checksum, thinned, and the newest undamaged one read back."""

import io
import re
from pathlib import Path
from typing import NamedTuple

import torch

from models.weights import checksum_of, is_intact, read_checkpoint
from utils import InputError, atomic_write

RUN_PATTERN = re.compile(r"iteration_(\d+)\.pt")


def save_checkpoint(path, content: dict) -> None:
    """Serialise `content` and write it atomically, with the SHA-256 of the whole file as its zip archive's comment.

    Raises:
        InputError: the disk is full or the folder cannot be written to; an older file of that name is untouched.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    body = buffer.getvalue()[:-2]  # a zip archive ends with the two-byte length of its comment, here 0
    comment = checksum_of(body)
    atomic_write(path, body + len(comment).to_bytes(2, "little") + comment)


def run_checkpoints(folder) -> list[Path]:
    """Checkpoints of a run, the newest (largest iteration) first."""
    found = [(int(match[1]), path) for path in Path(folder).glob("*.pt") if (match := RUN_PATTERN.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def save_run(folder, content: dict, keep_last: int) -> Path:
    """Write `iteration_NNNNNNN.pt` of a run, then remove all but the newest `keep_last`."""
    path = Path(folder) / f"iteration_{content['iteration']:07d}.pt"
    save_checkpoint(path, content)
    for old in run_checkpoints(folder)[keep_last:]:
        old.unlink(missing_ok=True)
    return path


class SavedRun(NamedTuple):
    """A checkpoint of a run: its file and what it holds."""

    path: Path
    content: dict


def load_run(folder, say=print) -> SavedRun:
    """The newest undamaged checkpoint of a run; damaged ones are reported through `say` and passed over.

    Raises:
        InputError: the folder holds no undamaged checkpoint.
    """
    for path in run_checkpoints(folder):
        if is_intact(path):
            return SavedRun(path, read_checkpoint(path))
        say(f"{path}: damaged (its checksum does not match); trying the one before it")
    raise InputError(f"{folder}: no undamaged checkpoint to resume from (expected iteration_*.pt)")
