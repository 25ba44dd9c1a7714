"""The progress bar of a run."""

import sys

from tqdm import tqdm

from training.run_state import Run
from training.schedule import expected_iterations


def progress_bar(run: Run) -> tqdm:
    """A bar of iterations; seconds between its updates are few on a terminal, many in a file."""
    return tqdm(
        total=expected(run),
        initial=run.position.iteration,
        unit="it",
        disable=not run.process.is_first,
        mininterval=0.5 if sys.stderr.isatty() else 30,
    )


def show(bar: tqdm, run: Run, figures: dict[str, float]) -> None:
    """Bring the bar up to date; with max_minutes its end is the clock's."""
    bar.total = expected(run)
    postfix = {"loss": f"{figures['loss']:.5f}", "lr": f"{figures['lr']:.2e}"}
    bar.set_postfix({**postfix, "images/s": f"{figures['images_per_second']:.0f}"}, refresh=False)


def expected(run: Run) -> int | None:
    return expected_iterations(run.config, run.per_epoch, run.position.iteration, run.position.minutes)
