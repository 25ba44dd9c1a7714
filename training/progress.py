"""The progress bar of a run."""

import sys

from tqdm import tqdm

from training.run_state import Run
from training.schedule import expected_iterations
from utils import Terminal


class ProgressBar:
    """A bar of iterations on stderr; seconds between its updates are few on a terminal, many in a file."""

    def __init__(self, run: Run):
        self._bar = tqdm(
            total=expected(run),
            initial=run.position.iteration,
            unit="it",
            disable=not run.process.is_first,
            mininterval=0.5 if sys.stderr.isatty() else 30,
            file=Terminal(),
        )

    def step(self) -> None:
        """One iteration more."""
        self._bar.update()

    def show(self, run: Run, figures: dict[str, float]) -> None:
        """Put figures beside it; with max_minutes its end is the clock's."""
        self._bar.total = expected(run)
        postfix = {"loss": f"{figures['loss']:.5f}", "lr": f"{figures['lr']:.2e}"}
        postfix["images/s"] = f"{figures['images_per_second']:.0f}"
        self._bar.set_postfix(postfix, refresh=False)

    def close(self) -> None:
        self._bar.close()


def expected(run: Run) -> int | None:
    return expected_iterations(run.config, run.per_epoch, run.position.iteration, run.position.minutes)
