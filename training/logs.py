"""What a training run writes about itself: train.log, metrics.jsonl and TensorBoard files, in one folder."""

import json
import time
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils import atomic_write

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
    """

    def __init__(self, folder: Path | None, iteration: int = 0, validated: int = 0):
        self.folder = folder
        if folder is None:
            return
        self._metrics = folder / "metrics.jsonl"
        if self._metrics.exists():
            lines = self._metrics.read_text().splitlines()
            kept = [line for line in lines if _is_before(line, iteration, validated)]
            atomic_write(self._metrics, "".join(f"{line}\n" for line in kept).encode())
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def say(self, text: str) -> None:
        """Lines for people: printed above the progress bar and kept in train.log, with the local time before each."""
        if self.folder is not None:
            tqdm.write(text)
            now = time.strftime("%Y-%m-%dT%H:%M:%S")
            with open(self.folder / "train.log", "a", encoding="utf-8") as file:
                file.writelines(f"{now} {line}\n" for line in text.splitlines())

    def write(self, kind: str, iteration: int, values: dict) -> None:
        """A line of metrics.jsonl, `{"kind", "iteration", **values}`, and a TensorBoard scalar for each number."""
        if self.folder is not None:
            with open(self._metrics, "a", encoding="utf-8") as file:
                file.write(json.dumps({"kind": kind, "iteration": iteration, **values}) + "\n")
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, iteration)

    def picture(self, name: str, iteration: int, panel: np.ndarray) -> None:
        """A uint8 (H, W, 3) picture in TensorBoard."""
        if self.folder is not None:
            self._board.add_image(name, panel, iteration, dataformats="HWC")

    def close(self) -> None:
        if self.folder is not None:
            self._board.close()


def _is_before(line: str, iteration: int, validated: int) -> bool:
    """Whether a line of metrics.jsonl is of what lies behind; one cut short by a crash is not."""
    try:
        entry = json.loads(line)
        return entry["iteration"] <= (validated if entry["kind"].startswith(SCORES) else iteration)
    except (ValueError, KeyError):
        return False
