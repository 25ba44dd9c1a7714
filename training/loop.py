"""The training loop, top to bottom: batch, step, log, validate, save.

The learning rate is a function of the position, the samples of an iteration are a function of its number, and a
checkpoint holds everything else, so a run may stop after any iteration and go on with the same bits.
"""

import time
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

from config import Config
from datas import Verification
from evaluation.report import versions
from models.determinism import deterministic
from models.devices import device_name
from training.batches import Batches
from training.checkpoints import SavedRun
from training.graphed import fastest_step
from training.meter import Meter
from training.processes import Process, StopRequest
from training.progress import ProgressBar
from training.run_page import write_page
from training.run_state import Run
from training.schedule import learning_rate, out_of_time
from training.setup import set_up
from training.validation import validate


def train(config: Config, folder: Path, saved: SavedRun | None = None, sets_named: bool = True) -> int:
    """Train as `config` says, in `folder`, which `held_run` holds; from its start, or from where `saved` is.

    With `sets_named` false, an evaluation set that is absent is left out, as long as another is there.

    Returns:
        The exit code: 0 when finished, 128 + signal when stopped by one.

    Raises:
        InputError: anything wrong with the data, the weights or the devices, before the first step; a loss that is not
            finite; no space to save.
    """
    with deterministic(config.deterministic):
        process = Process.join(config)
        code = train_with(process, config, folder, saved, sets_named)
        process.leave()
    return code


def train_with(process: Process, config: Config, folder: Path, saved: SavedRun | None, sets_named: bool) -> int:
    """Set the run up and do what is left of it; returns the exit code. Nothing of the run is alive afterwards."""
    run, batches = set_up(process, config, folder, saved, sets_named)
    with closing(run.log):
        is_over = run.position.iteration >= run.total or out_of_time(config, run.position.minutes)
        return make_up_for_validation(run) if is_over else go_on(run, batches)


def go_on(run: Run, batches: Batches) -> int:
    """Train from where the run stands to its end, or to a signal; returns the exit code."""
    config, process, position, log = run.config, run.process, run.position, run.log
    log_start(run)
    update = process.watched(fastest_step(run.step, process, log.say))
    log_every = min(config.log_every, run.per_epoch)
    stop, meter = StopRequest(), Meter(run)
    last = stopped = False
    if is_validation_due(run):  # the run was stopped, or killed, before it could be made
        validate(run, last=False)
    with closing(ProgressBar(run)) as bar, verification(run) as packs:
        for batch in batches(position.iteration, run.total):
            rate = learning_rate(config, position.iteration, run.per_epoch, position.minutes)
            meter.add(update(batch, rate))
            position.iteration += 1
            bar.step()

            log_due = position.iteration % log_every == 0
            at_epochs_end = position.iteration % run.per_epoch == 0
            interrupted = stop.signal is not None and process.world == 1
            if not (log_due or at_epochs_end or interrupted or meter.is_full):
                continue
            seconds = meter.look()
            position.minutes = process.first_says(position.minutes + seconds / 60)
            last = position.iteration == run.total or out_of_time(config, position.minutes)
            look_at(packs, last)
            stopped = process.agree(stop.signal is not None) and not last
            figures = {**meter.means(), "lr": rate, "images_per_second": meter.images_per_second()}
            bar.show(run, figures)
            if log_due or last:
                log.write("train", position.iteration, {**figures, "minutes": position.minutes})
                log.say(f"iteration {position.iteration:,}: {', '.join(f'{k} {v:.4g}' for k, v in figures.items())}")
                meter.reset()

            if at_epochs_end or last or stopped:
                position.unlogged = meter.state()
                run.save()
                if (run.sets and last) or (is_validation_due(run) and not stopped):
                    validate(run, last)
                process.wait_for_all()
            if last or stopped:
                break
            meter.start()

    how = "stopped" if stopped else "finished" if position.iteration == run.total else "out of max_minutes"
    log.say(f"{how} after iteration {position.iteration:,}; saved in {run.folder}")
    if process.is_first:
        write_page(run.folder, log.say)
    return stop.exit_code if stopped else 0


def verification(run: Run) -> AbstractContextManager[Verification | None]:
    """Compares the packed images with their checksums in the background; on each machine one process does."""
    if run.process.is_first_of_machine:
        return Verification(run.data, run.position.iteration, run.log.say)
    return nullcontext()


def look_at(packs: Verification | None, last: bool) -> None:
    """Raise InputError if packed images were found to differ; before the `last` save all are compared once more."""
    if packs is not None and last:
        packs.finish()
    elif packs is not None:
        packs.check()


def is_validation_due(run: Run) -> bool:
    """Whether the run stands at the end of an epoch after which it validates, and has not done so."""
    epoch, into_epoch = divmod(run.position.iteration, run.per_epoch)
    every = run.config.test_every
    due = bool(every) and epoch > 0 and into_epoch == 0 and epoch % every == 0
    return due and bool(run.sets) and run.position.validated < run.position.iteration


def make_up_for_validation(run: Run) -> int:
    """What is left to do for a run that has taken all its steps: a validation that failed or was cut off."""
    missed = bool(run.sets) and run.position.validated < run.position.iteration
    what = "its last validation is made now" if missed else "nothing was done"
    run.log.say(f"this run is finished already; {what}")
    if missed:
        validate(run, last=True)
    return 0


def log_start(run: Run) -> None:
    """Write what this piece of the run is computed with; of a run that starts, the resolved config too."""
    if run.position.iteration == 0:
        run.write_config()
    machine = {"device": device_name(run.process.device), **versions(), "backend": run.backend}
    started = {"date": time.strftime("%Y-%m-%d"), **machine, "processes": run.process.world}
    run.log.write("start", run.position.iteration, started)
