"""Disks that are full, read-only, or fail; logs that cannot be written."""

import functools
import os
import subprocess
import tempfile
from pathlib import Path

from tests.faults.case import Case, Skip
from tests.faults.files import RUNS, remove
from tests.faults.inject import at_call, at_start, limit_files, make_read_only
from tests.faults.references import PACKING
from tests.faults.registry import fault

ROOM = 64 << 20  # bytes that are enough for everything


@functools.cache
def _obstacle() -> str:
    """Why this process cannot mount a file system; empty if it can."""
    folder = tempfile.mkdtemp()
    try:
        _mount(["-t", "tmpfs", "-o", "size=64k", "tmpfs", folder])
        _unmount(Path(folder))
        return ""
    except (OSError, subprocess.CalledProcessError):
        return "mounting a file system needs root, and a system that lets it"
    finally:
        os.rmdir(folder)


def _mount(arguments: list[str]) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def _unmount(folder: Path) -> None:
    """All that is mounted there."""
    while subprocess.run(["umount", "--lazy", str(folder)], capture_output=True).returncode == 0:
        pass


def _need_mount() -> None:
    if obstacle := _obstacle():
        raise Skip(obstacle)


def _small_disk(case: Case, folder: Path, size: int) -> None:
    """A file system of `size` bytes; more is given when the run has stopped for want of it."""
    _need_mount()
    folder.mkdir()
    _mount(["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)])
    case.cleanup.append(lambda: _unmount(folder))
    case.undo = lambda: _mount(["-o", f"remount,size={ROOM}", str(folder)])
    case.happened = True


@fault("full disk: no file may grow further", *RUNS, "loaders")
def full_by_limit(case: Case) -> None:
    size = case.rng.randint(9000, max(case.reference.sizes))
    case.piece(at_call(case.call(), limit_files(size, deadly=False)))


@fault("full disk: the run's", *RUNS)
def full_disk(case: Case) -> None:
    case.runs = case.folder / "runs"
    _small_disk(case, case.runs, case.rng.randint(4096, sum(case.reference.sizes)))


@fault("full disk: the packs'")
def full_cache(case: Case) -> None:
    case.copy_data()
    total = sum(path.stat().st_size for path in (case.references[PACKING].data / "cache").iterdir())
    _small_disk(case, case.cache, case.rng.randint(4096, total))


@fault("full disk while packing")
def full_while_packing(case: Case) -> None:
    case.copy_data()
    largest = max(path.stat().st_size for path in (case.references[PACKING].data / "cache").iterdir())
    case.piece(at_start(limit_files(case.rng.randint(1000, largest), deadly=False)))


@fault("folder of the run read-only from a moment on", *RUNS, "loaders")
def read_only(case: Case) -> None:
    _need_mount()
    if case.rng.random() < 0.5:
        case.interrupt(0.3, 0.7)
    _read_only_until_stopped(case, case.run)


def _read_only_until_stopped(case: Case, path: Path) -> None:
    case.cleanup.append(lambda: _unmount(path))
    case.piece(at_call(case.call(), make_read_only(path)))
    case.undo = lambda: _unmount(path)


@fault("a log cannot be written", "small", "small", "loaders")
def log_unwritable(case: Case) -> None:
    """From the start of a piece, or from a moment on where one may mount; the run goes on."""
    case.may_lack.add("metrics")
    path = case.run / case.rng.choice(("train.log", "metrics.jsonl", "tensorboard"))
    if case.rng.random() < 0.5 and not _obstacle():
        case.cleanup.append(lambda: _unmount(path))
        case.piece(at_call(case.call(), make_read_only(path)))
        return
    if not case.interrupt():
        return
    remove(path)
    if path.name == "tensorboard":
        path.touch()
    else:
        case.rng.choice((path.mkdir, functools.partial(os.mkfifo, path)))()
    case.happened = True
    case.cleanup.append(lambda: remove(path))
