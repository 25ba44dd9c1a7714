"""The progress bar of a run."""

import sys
from collections.abc import Callable
from contextlib import suppress

from tqdm import tqdm

from training.run_state import Run
from training.schedule import expected_iterations


class ProgressBar:
    """A bar of iterations on stderr; a run whose terminal is gone goes on without it.

    Seconds between its updates are few on a terminal, many in a file.
    """

    def __init__(self, run: Run):
        self._bar: tqdm | None = None
        with suppress(OSError):
            self._bar = tqdm(
                total=expected(run),
                initial=run.position.iteration,
                unit="it",
                disable=not run.process.is_first,
                mininterval=0.5 if sys.stderr.isatty() else 30,
            )

    def step(self) -> None:
        """One iteration more."""
        self._draw(lambda bar: bar.update())

    def show(self, run: Run, figures: dict[str, float]) -> None:
        """Put figures beside it; with max_minutes its end is the clock's."""
        if self._bar is None:
            return
        self._bar.total = expected(run)
        postfix = {"loss": f"{figures['loss']:.5f}", "lr": f"{figures['lr']:.2e}"}
        postfix["images/s"] = f"{figures['images_per_second']:.0f}"
        self._draw(lambda bar: bar.set_postfix(postfix, refresh=False))

    def close(self) -> None:
        self._draw(lambda bar: bar.close())

    def _draw(self, action: Callable[[tqdm], object]) -> None:
        if self._bar is None:
            return
        try:
            action(self._bar)
        except OSError:
            self._bar = None


def expected(run: Run) -> int | None:
    return expected_iterations(run.config, run.per_epoch, run.position.iteration, run.position.minutes)
