"""The checkpoints of a run: written whole, with a checksum, thinned, and the newest good one read back."""

import io
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from models import ModelError
from models.weights import checksum_of, read_checkpoint
from training.checkpoint_form import checked_form
from utils import InputError, atomic_write

BEST = "best.pt"
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
        with suppress(OSError):  # what cannot be removed is no reason to end a run
            old.unlink()
    return path


class SavedRun(NamedTuple):
    """A checkpoint of a run: its file and what it holds."""

    path: Path
    content: dict


def load_run(folder, say=print) -> tuple[SavedRun, list[Path]]:
    """The newest checkpoint of a run that is good, and those newer than it, which are not; `say` takes a line on each.

    `best.pt` holds all that the others do, and is taken where none of them is good.

    Raises:
        InputError: the folder holds no good checkpoint.
    """
    folder = Path(folder)
    bad: list[Path] = []
    for path in [*run_checkpoints(folder), folder / BEST]:
        if not os.path.lexists(path):
            continue
        try:
            return SavedRun(path, checked_form(read_checkpoint(path), path)), bad
        except (InputError, ModelError) as error:
            say(f"warning: {error}; the checkpoint before it is tried")
            bad.append(path)
    raise InputError(f"{folder}: no good checkpoint to go on from (expected iteration_*.pt); start another run")


def set_aside(paths: list[Path]) -> None:
    """Rename bad checkpoints, so that they do not count when the newest are kept."""
    for path in paths:
        with suppress(OSError):  # it can be neither read nor renamed; a save of that name will say so
            path.rename(path.with_name(f"{path.name}.bad"))
