"""What a training run writes about itself: train.log, metrics.jsonl and TensorBoard files, in one folder."""

import errno
import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import methodcaller
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils import InputError, atomic_write

SCORES = ("bicubic/", "validation/")  # kinds of lines that a validation writes


class EarlyLog:
    """Lines for people, kept until there is a log to say them in."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._log: RunLog | None = None

    def say(self, text: str) -> None:
        if self._log is None:
            self._lines.append(text)
        else:
            self._log.say(text)

    def open(self, log: "RunLog") -> None:
        """Say everything in `log`, now and from now on."""
        self._log = log
        for line in self._lines:
            log.say(line)


class RunLog:
    """The logs of a run. With `folder` None (every process but the first) nothing is written or printed.

    On resume, lines of metrics.jsonl beyond `iteration` are dropped, and those of validations beyond `validated`: they
    speak of steps that will be taken, and of validations that will be made, again.

    A log that cannot be written (a full disk) is warned of once, and the run goes on: weights are worth more than logs.
    """

    def __init__(self, folder: Path | None, iteration: int = 0, validated: int = 0):
        self.folder = folder
        if folder is None:
            return
        self._text = _Lines(folder / "train.log", self._warn)
        self._metrics = _Lines(folder / "metrics.jsonl", self._warn)
        self._board: SummaryWriter | None = None
        self._hook, threading.excepthook = threading.excepthook, self._of_thread
        dropped = self._metrics.keep_if(lambda line: _is_before(line, iteration, validated))
        try:
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)
        except OSError as error:
            self._warn(f"{folder / 'tensorboard'}: cannot be written ({error.strerror})")
        if dropped:
            self.say(f"warning: {folder / 'metrics.jsonl'}: {dropped} line(s) could not be read and were dropped")

    def say(self, text: str) -> None:
        """Lines for people: printed above the progress bar and kept in train.log, with the local time before each."""
        if self.folder is not None:
            _print(text)
            now = time.strftime("%Y-%m-%dT%H:%M:%S")
            self._text.append(f"{now} {line}" for line in text.splitlines())

    def write(self, kind: str, iteration: int, values: dict) -> None:
        """A line of metrics.jsonl, `{"kind", "iteration", **values}`, and a TensorBoard scalar for each number."""
        if self.folder is not None:
            self._metrics.append([json.dumps({"kind": kind, "iteration": iteration, **values})])
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._on_board(methodcaller("add_scalar", f"{kind}/{name}", value, iteration))

    def picture(self, name: str, iteration: int, panel: np.ndarray) -> None:
        """A uint8 (H, W, 3) picture in TensorBoard."""
        if self.folder is not None:
            self._on_board(methodcaller("add_image", name, panel, iteration, dataformats="HWC"))

    def close(self) -> None:
        if self.folder is not None:
            self._on_board(SummaryWriter.close)
            threading.excepthook = self._hook

    def _of_thread(self, failure: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread, and raises what fails there again here: the thread need not print it."""
        if not (type(failure.thread).__name__ == "_AsyncWriterThread" and isinstance(failure.exc_value, OSError)):
            self._hook(failure)

    def _on_board(self, write: Callable[[SummaryWriter], object]) -> None:
        """Write to TensorBoard; after a failure no more, as its files cannot be gone on with."""
        if self._board is None:
            return
        try:
            write(self._board)
        except OSError as error:
            self._board = None
            self._warn(f"{self.folder}/tensorboard: cannot be written ({error.strerror})")

    def _warn(self, problem: str) -> None:
        _print(f"warning: {problem}; the run goes on without")


class _Lines:
    """A text file that grows by lines; what cannot be written is warned of once."""

    def __init__(self, path: Path, warn: Callable[[str], None]):
        self._path, self._warn = path, warn
        self._torn = self._failed = False
        self._is_other = path.exists() and not path.is_file()  # a pipe would hang

    def append(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        try:
            if self._is_other:
                raise OSError(errno.EINVAL, "not a file")
            with open(self._path, "ab") as file:
                file.write((("\n" if self._torn else "") + text).encode("utf-8", "backslashreplace"))
            self._torn = False
        except OSError as error:
            self._torn = True  # perhaps in the middle of a line
            self._fail(str(error.strerror))

    def keep_if(self, is_wanted: Callable[[bytes], bool | None]) -> int:
        """Drop the lines that are not wanted; how many were neither wanted nor unwanted, but unreadable (None)."""
        if self._is_other or not self._path.exists():
            return 0
        try:
            lines = [line for line in self._path.read_bytes().split(b"\n") if line]
            answers = [is_wanted(line) for line in lines]
            if not all(answers):
                kept = [line for line, wanted in zip(lines, answers, strict=True) if wanted]
                atomic_write(self._path, b"".join(line + b"\n" for line in kept))
            return answers.count(None)
        except (OSError, InputError) as error:
            self._fail(getattr(error, "strerror", None) or str(error))
            return 0

    def _fail(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            self._warn(f"{self._path}: cannot be written ({reason})")


def _is_before(line: bytes, iteration: int, validated: int) -> bool | None:
    """Whether a line of metrics.jsonl is of what lies behind; None for one that is damaged, or cut short by a crash."""
    try:
        entry = json.loads(line)
        kind, reached = entry["kind"], entry["iteration"]
        return reached <= (validated if kind.startswith(SCORES) else iteration)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _print(text: str) -> None:
    with suppress(OSError):  # whoever read the output is gone; the run is not
        tqdm.write(text)
