"""Which files are meant, and what their results are called."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from datas.names import usable_path
from pictures.video_file import VIDEOS
from utils import InputError, remove_leftover

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif")
IN_FOLDERS = (*PICTURES, *VIDEOS)  # what is looked for there
_RESULT = re.compile(r"(.+)_x[2-9]")  # the stem of what an earlier run wrote
_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")  # of `utils.atomic_file`, killed


@dataclass(frozen=True)
class Source:
    """A file, and the folder that it has inside the folder that was named ('.' for a file that was named itself)."""

    path: Path
    below: Path = Path(".")


def find_sources(inputs: Iterable[str], recursive: bool, results: Path | None) -> list[Source]:
    """The files that are meant by names of files and folders, and by patterns (`*.png`, `**/*.jpg`).

    Args:
        recursive: folders inside folders, too.
        results: a folder that is not looked into: results are written there.

    Raises:
        InputError: there is no such file or folder, no file fits a pattern, or a folder has no picture.
    """
    found: dict[Path, Source] = {}
    for name in inputs:
        for path in _names(name):
            sources = _inside(path, recursive, results) if os.path.isdir(path) else [Source(path)]
            for source in sources:
                found.setdefault(source.path, source)
    return list(found.values())


def without_results(sources: list[Source]) -> tuple[list[Source], int]:
    """The sources but for results of others among them: NAME_x4 where there is a NAME beside it; how many went."""
    stems = {source.path.with_suffix("") for source in sources}

    def is_result(path: Path) -> bool:
        match = _RESULT.fullmatch(path.stem)
        return match is not None and path.with_name(match[1]) in stems

    kept = [source for source in sources if not is_result(source.path)]
    return kept, len(sources) - len(kept)


def result_path(source: Source, folder: Path | None, scale: int, kind: str) -> Path:
    """Beside the picture, or in `folder` as the picture lies in its own."""
    parent = source.path.parent if folder is None else folder / source.below
    return parent / f"{source.path.stem}_x{scale}.{kind}"


def remove_leftovers_of(results: Iterable[Path]) -> None:
    """Remove what killed runs left of these results, and nothing else that lies beside them."""
    names: dict[Path, set[str]] = {}
    for path in results:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, ours in names.items():
        with suppress(OSError):  # there is no such folder, or nothing may be removed from it: writing will say so
            for path in folder.iterdir():
                if (match := _LEFTOVER.fullmatch(path.name)) and match[1] in ours:
                    remove_leftover(path)


def _names(name: str) -> list[Path]:
    path = usable_path(name)
    if os.path.lexists(path):  # also where it looks like a pattern
        return [path]
    if not glob.has_magic(name):
        raise InputError(f"{name}: no such file or folder; check the path")
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise InputError(f"{name}: no file fits this pattern; check it, and the folder that it starts from")
    return [Path(match) for match in matches]


def _inside(folder: Path, recursive: bool, results: Path | None) -> list[Source]:
    sources = [Source(path, path.parent.relative_to(folder)) for path in _walk(folder, recursive, results)]
    if not sources:
        hint = "" if recursive else " (folders inside it need --recursive)"
        raise InputError(f"{folder}: no picture in this folder{hint}; check the path")
    return sources


def _walk(folder: Path, recursive: bool, results: Path | None) -> Iterator[Path]:
    """Visible names that end like a picture's or a video's; what they are is found out when they are opened."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise InputError(f"{folder}: could not be read ({error.strerror}); check its permissions") from error
    for path in paths:
        if recursive and os.path.isdir(path):
            if not path.is_symlink() and not (results and os.path.exists(results) and os.path.samefile(results, path)):
                yield from _walk(path, recursive, results)
        elif path.suffix.lower() in IN_FOLDERS:
            yield path
