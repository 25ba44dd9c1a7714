"""What is finished of a video, for a run that goes on: pieces in a hidden folder beside the result."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from utils import atomic_write, held_folder

_RECORD = "made-of.json"


class Parts:
    """A folder of pieces, which are numbered from 0.

    Attributes:
        folder: of the pieces.
        made_of: what they are made of and how. Pieces of something else are removed.
    """

    def __init__(self, folder: Path, made_of: dict[str, Any]):
        self.folder, self.made_of = folder, made_of
        if self._recorded() != made_of:
            self.clear()

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06}.nut"

    def has(self, number: int) -> bool:
        return self.path(number).is_file()

    def put(self, number: int, data: bytes) -> None:
        """Keep a piece, whole or not at all."""
        if not (self.folder / _RECORD).exists():
            atomic_write(self.folder / _RECORD, json.dumps(self.made_of).encode())
        atomic_write(self.path(number), data)

    def clear(self) -> None:
        """Remove what `put` has written."""
        for path in [*self.folder.glob("[0-9]*.nut"), self.folder / _RECORD]:
            path.unlink(missing_ok=True)

    def _recorded(self) -> object:
        with suppress(OSError, ValueError):  # there is none, or it is damaged: pieces are made anew
            return json.loads((self.folder / _RECORD).read_text(encoding="utf-8"))
        return None


@contextmanager
def parts_of(out: Path, made_of: dict[str, Any]) -> Iterator[Parts]:
    """The pieces of the result `out`, held against other processes; the folder goes once it is empty.

    Raises:
        InputError: another process is at work on the same result, or the folder cannot be written to.
    """
    folder = out.with_name(f".{out.name}.parts")
    with held_folder(folder):
        yield Parts(folder, made_of)
