"""A run under way: what it was given, where it stands, and how that is saved and found again."""

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from config import Config, config_from_text
from datas import BenchmarkSet, TrainSet, same_images
from training.checkpoints import BEST, SavedRun, save_checkpoint, save_run
from training.folder import CONFIG_FILE
from training.logs import RunLog
from training.processes import Process
from training.step import TrainStep
from utils import InputError, atomic_write


@dataclass
class Position:
    """Where a run stands, saved with every checkpoint."""

    iteration: int = 0  # steps taken
    minutes: float = 0.0  # time spent in training steps, over all pieces of the run
    best: dict = field(default_factory=lambda: {"psnr": -math.inf, "iteration": 0, "set": ""})
    bests: dict = field(default_factory=dict)  # of each set and score, {"value", "iteration", "epoch"} of the best
    validated: int = 0  # iteration of the last validation
    unlogged: dict = field(default_factory=dict)  # what the meter has gathered since the last line of the log


@dataclass
class Run:
    """What a run is given, and where it stands."""

    config: Config
    folder: Path
    process: Process
    data: TrainSet
    sets: list[BenchmarkSet]
    step: TrainStep
    backend: str  # the implementation of the network that the step runs
    eval_backend: str  # and the one that validation runs
    position: Position
    log: RunLog

    @property
    def per_epoch(self) -> int:
        """Iterations of an epoch."""
        return self.data.iterations_per_epoch

    @property
    def total(self) -> int:
        """Iterations of all epochs."""
        return self.config.epochs * self.per_epoch

    def save(self, is_best: bool = False) -> None:
        """Write a checkpoint, `best.pt` too if it `is_best`; only the first process does.

        Raises:
            InputError: a weight is not finite, or there is no space.
        """
        if self.process.is_first:
            content = snapshot(self.step, self.position, self.config, self.data)
            content |= {"backend": self.backend} | ({"eval_backend": self.eval_backend} if self.sets else {})
            if is_best:
                save_checkpoint(self.folder / BEST, content)
            save_run(self.folder, content, self.config.keep_last)
            self.write_config()

    def write_config(self) -> None:
        """Write config.yml, unless it says so already. After a checkpoint: one that fails to come changes nothing."""
        path, text = self.folder / CONFIG_FILE, self.config.to_yaml().encode()
        if self.process.is_first and not (path.is_file() and path.read_bytes() == text):
            atomic_write(path, text)


def snapshot(step: TrainStep, position: Position, config: Config, data: TrainSet) -> dict:
    """A checkpoint's content.

    Raises:
        InputError: a weight is not finite; such a checkpoint would be of no use.
    """
    bad = [name for name, weight in step.model.named_parameters() if not weight.isfinite().all()]
    if bad:
        raise InputError(
            f"weights are not finite after iteration {position.iteration} (first: {bad[0]}); nothing was saved, "
            "the last good checkpoint is untouched; lower lr or set clip_grad"
        )
    cuda = [torch.cuda.get_rng_state(step.device)] if step.device.type == "cuda" else []
    return {
        "epoch": position.iteration // data.iterations_per_epoch,
        **asdict(position),
        **step.state_dict(),
        "config": config.to_yaml(),
        "data": data.fingerprint(),
        "random_states": {"torch": torch.get_rng_state(), "cuda": cuda},
    }


def restore(step: TrainStep, saved: SavedRun, config: Config, data: TrainSet) -> Position:
    """Put a checkpoint of the run into `step`; returns where it stood.

    Raises:
        InputError: it does not fit the config, or the images are not those that the run has seen.
    """
    path, content = saved
    now = data.fingerprint()
    before = content.get("data", now)
    chosen = config_from_text(content["config"], path)
    same_choice = (chosen.training_dataset, chosen.data) == (config.training_dataset, config.data)
    if same_choice and not same_images(before, now):
        what = "pixels" if before.partition(" pixels ")[0] == now.partition(" pixels ")[0] else "names or sizes"
        raise InputError(
            f"{path}: the training images are not those of the run ({now.split()[0]} images, it had "
            f"{before.split()[0]}; {what} differ); put them back, or name others with --set data=... to go on"
        )
    try:
        step.load_state_dict(content)
        _check_moments(step)
        if "random_states" in content:
            _put_random_states(content["random_states"], step.device)
        names = [entry.name for entry in fields(Position)]
        begun = {"iteration": content["epoch"] * data.iterations_per_epoch}  # of a file of the published code
        return Position(**(begun | {name: content[name] for name in names if name in content}))
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: cannot be resumed with this config ({reason})") from error


def _put_random_states(states: dict, device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"]:  # files of before hold one for every device that was there
        torch.cuda.set_rng_state(states["cuda"][min(device.index, len(states["cuda"]) - 1)], device)


def _check_moments(step: TrainStep) -> None:
    """Raise ValueError if a moment has not the shape of its parameter; optimisers of PyTorch take it as it is."""
    parameters = [parameter for group in step.optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        for name, moment in step.optimizer.state.get(parameter, {}).items():
            if name != "step" and moment.shape != parameter.shape:
                shapes = f"{tuple(moment.shape)} for {tuple(parameter.shape)}"
                raise ValueError(f"the moments of parameter {number} have another shape: {name} {shapes}")
