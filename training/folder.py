"""The folder of a run: its name, who holds it, and the checkpoint and config that a run goes on from."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config import Config, config_from_text, differences, load_config, parse_overrides
from models.registry import network_name
from models.weights import read_checkpoint
from training.checkpoint_form import checked_form
from training.checkpoints import SavedRun, load_run, run_checkpoints, set_aside
from training.launch import is_first_process, launch
from training.published import (
    is_published,
    keep_config,
    newest_published,
    published_checkpoints,
    read_published,
)
from utils import InputError, atomic_write, held_folder, remove_leftovers

CONFIG_FILE = "config.yml"  # a copy for people: a checkpoint holds the config that it was written under
FIXED = ("pretrain", "pretrain_new_tail", "log_path", "log_name")  # of the start of a run


def name_folder(config: Config) -> Path:
    """The folder of a run that starts, by its config and the time: that of the first of its processes, and tries."""
    network = network_name(config)
    started = launch().common("started", time.strftime("%Y%m%d-%H%M%S"))
    return Path(config.log_path) / (config.log_name or f"{network}_x{config.scale}_{started}")


@contextmanager
def held_run(folder: Path, resume: bool) -> Iterator[SavedRun | None]:
    """Hold the folder of a run, and yield the checkpoint that it goes on from; None for one that starts.

    Of the processes that train together the first holds it, and chooses the checkpoint, for all.

    Raises:
        InputError: another process holds it, there is nothing to go on from, or a run is there and another would start.
    """
    if not is_first_process():
        name = launch().first_says("")
        yield _saved_as(folder / name) if name else None
        return
    if resume and not folder.is_dir():
        raise InputError(f"{folder}: no run to go on with: it is not there; start it with --config")
    with held_folder(folder):
        for images in (folder / "images").glob("*"):  # of a validation, see training/validation.py
            remove_leftovers(images)
        saved = find_saved(folder, tidy=True) if resume or _is_restarted(folder) else None
        launch().first_says(saved.path.relative_to(folder).as_posix() if saved else "")
        yield saved


def _is_restarted(folder: Path) -> bool:
    """Whether torchrun starts the run again that it started there before, and which has saved.

    Raises:
        InputError: another run is there.
    """
    begun = f"begun in {folder}"
    if not launch().has_noted(begun):
        refuse_another(folder)
        launch().note(begun)
    return bool(run_checkpoints(folder))


def _saved_as(path: Path) -> SavedRun:
    """The checkpoint that the first process has chosen."""
    if not path.exists():
        raise InputError(
            f"{path}: process {launch().rank} does not see it; all machines need one and the same log_path"
        )
    return read_published(path) if is_published(path) else SavedRun(path, checked_form(read_checkpoint(path), path))


def find_saved(folder: Path, tidy: bool = False) -> SavedRun:
    """The checkpoint that a run goes on from, which may be one of the published code.

    With `tidy`, bad ones are reported and set aside, and so is a config.yml that says something else.
    """
    say = _warn if tidy else lambda line: None
    if not run_checkpoints(folder):
        if (published := newest_published(folder, say)) is not None:
            if tidy:
                keep_config(folder)
            return published
        if (folder / CONFIG_FILE).exists():
            raise InputError(
                f"{folder}: no run to go on with: it ended before its first checkpoint; start it with --config"
            )
    saved, bad = load_run(folder, say)
    if tidy:
        set_aside(bad)
        _put_copy_right(saved)
    return saved


def refuse_another(folder: Path) -> None:
    """Raise InputError if a run that starts would come into the folder of another."""
    if run_checkpoints(folder) or published_checkpoints(folder):
        raise InputError(f"{folder}: holds a run already; continue it with --resume {folder}, or change log_name")
    if (folder / CONFIG_FILE).exists():
        raise InputError(f"{folder}: a run ended there before its first checkpoint; remove it, or change log_name")


def resumed_config(saved: SavedRun, file: str | None, overrides: list[str]) -> Config:
    """The config of a run that goes on: its checkpoint's; what differs must have been named on the command line.

    Args:
        file: that of --config, which may be left out.
        overrides: `key=value` of --set.

    Raises:
        InputError: `file` differs in a key that was not named, or a key is of the start of a run.
    """
    before = config_from_text(saved.content["config"], saved.path)
    named = parse_overrides(overrides)
    after = load_config(file, overrides) if file else config_from_text(saved.content["config"], saved.path, overrides)
    changed = {key: pair for key, pair in differences(before, after).items() if key not in named}
    if changed:
        raise InputError(
            f"{file}: differs from the run of {saved.path}: {_listed(changed)}; name what shall change with --set"
        )
    for key in FIXED:
        if getattr(after, key) != getattr(before, key):
            raise InputError(f"--set {key}: is of the start of a run; it cannot change when one goes on")
    return after


def _put_copy_right(saved: SavedRun) -> None:
    """Write config.yml anew where it says other than the checkpoint: it was edited, or a crash came between the two."""
    text, copy = saved.content["config"], saved.path.with_name(CONFIG_FILE)
    config = config_from_text(text, saved.path)
    try:
        changed = differences(load_config(copy), config)
        problem = f"{copy}: {_listed(changed, 'says', saved.path.name)}" if changed else ""
    except InputError as error:
        problem = str(error)
    if problem:
        _warn(f"warning: {problem}; the config of {saved.path.name} is taken; change keys with --set")
        atomic_write(copy, text.encode())


def _listed(changed: dict[str, tuple], first: str = "was", second: str = "is") -> str:
    return "; ".join(f"{key} {first} {old!r}, {second} {new!r}" for key, (old, new) in changed.items())


def _warn(line: str) -> None:
    print(line, file=sys.stderr)
