"""Losses and speed of a run since its last log line."""

import time

import torch
from torch import Tensor

from training.checkpoints import run_checkpoints
from training.run_state import Run
from utils import InputError

LOOK_EVERY = {"cpu": 1, "cuda": 100}  # steps between looks at the losses; each look waits for the device


class Meter:
    """Gathers the loss terms of steps and the time they take.

    The terms stay on the device until `look`. The clock runs from `start` to the next `look`, so that saving and
    validation in between do not count.
    """

    def __init__(self, run: Run):
        self._run = run
        self._unread: list[Tensor] = []
        self.reset()
        before = run.position.unlogged
        if before and len(before["sums"]) == len(self._sums):  # the run was stopped between two lines of its log
            self._sums += torch.tensor(before["sums"], dtype=torch.float64)
            self._steps, self._seconds = before["steps"], before["seconds"]
        self.start()

    def reset(self) -> None:
        """Begin a new mean, after a log line."""
        self._sums = torch.zeros(len(self._run.step.terms), dtype=torch.float64)
        self._steps, self._seconds = 0, 0.0

    def state(self) -> dict:
        """What the mean under way is made of, for a checkpoint."""
        return {"sums": self._sums.tolist(), "steps": self._steps, "seconds": self._seconds}

    def start(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def add(self, losses: Tensor) -> None:
        """The terms (terms,) of the step just taken, still on the device."""
        self._unread.append(losses)

    @property
    def is_full(self) -> bool:
        """Whether so many terms are unread that it is time for a look."""
        return len(self._unread) >= LOOK_EVERY[self._run.process.device.type]

    def look(self) -> float:
        """Wait for the device and read the terms, averaged over the processes; seconds since `start`.

        Raises:
            InputError: a term is not finite; names the step, the terms and the images it saw.
        """
        losses = self._run.process.average(torch.stack(self._unread)).double().cpu()
        _check_finite(losses, self._run)
        seconds = time.perf_counter() - self._started
        self._sums += losses.sum(0)
        self._steps += len(losses)
        self._seconds += seconds
        self._unread = []
        return seconds

    def means(self) -> dict[str, float]:
        """{"loss": the sum of the terms, and each term by its name}, over the steps since `reset`."""
        terms = dict(zip(self._run.step.term_names, (self._sums / self._steps).tolist(), strict=True))
        return {"loss": sum(terms.values()), **terms}

    def images_per_second(self) -> float:
        """Patches that all processes together trained on, by the seconds between `start` and `look`."""
        config, data = self._run.config, self._run.data
        mean = config.data_repeat * data.num_images / data.iterations_per_epoch  # less, where the last batch is smaller
        return self._steps * min(config.batch_size, mean) / self._seconds


def _check_finite(losses: Tensor, run: Run) -> None:
    """Raise InputError if a term of the last steps, (steps, terms), is not finite."""
    bad = (~losses.isfinite().all(dim=1)).nonzero()
    if not len(bad):
        return
    place = int(bad[0])
    number = run.position.iteration - len(losses) + place
    terms = ", ".join(
        f"{name} {value}" for name, value in zip(run.step.term_names, losses[place].tolist(), strict=True)
    )
    newest = next(iter(run_checkpoints(run.folder)), "none yet")
    raise InputError(
        f"the loss of iteration {number + 1} is not finite ({terms}); images: {', '.join(run.data.names(number))}; "
        f"the last good checkpoint is untouched: {newest}; look at those images, or lower lr, or set clip_grad"
    )
