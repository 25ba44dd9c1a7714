"""Run folders of the published code: found, read, and gone on with as runs of this project.

Such a folder holds `config.yml`, whose keys are those of the published config files with `config` and `resume` beside
them, and `models/model_xS_E.pt`, weights and optimiser after epoch E. docs/differences.md says what the two programs do
differently; what the folder cannot tell is said when a run goes on.
"""

import re
from collections.abc import Callable
from pathlib import Path

from config import Config, build_config
from models import ModelError
from models.weights import extract_weights, read_checkpoint
from training.checkpoint_form import checked_form
from training.checkpoints import SavedRun
from utils import InputError, atomic_write
from yaml_file import read_yaml

NAME = re.compile(r"model_x[234]_(\d+)\.pt")
FOLDER = "models"
CONFIG_FILE, KEPT_CONFIG = "config.yml", "config.published.yml"  # the second: a copy, as this project writes the first
COMMAND_LINE = ("config", "resume")  # keys of config.yml that are no config keys
HABITS = {"warmup": "published", "drop_last": False, "data_augment": True}  # what the published code does, unasked
LATER = ("iteration", "random_states", "minutes", "best", "config")  # entries of a checkpoint that these files lack


def published_checkpoints(folder) -> list[Path]:
    """Checkpoints of a published run, that of the last epoch first; none if the folder is no such run."""
    files = (Path(folder) / FOLDER).glob("model_x*.pt")
    found = [(int(match[1]), path) for path in files if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def keep_config(folder: Path) -> None:
    """Copy the config of a published run: this project writes its own in that place, with the first checkpoint."""
    if config_file(folder).name == CONFIG_FILE:
        atomic_write(folder / KEPT_CONFIG, (folder / CONFIG_FILE).read_bytes())


def config_file(folder: Path) -> Path:
    """Where the config of a published run stands: in config.yml, until this project has written its own there."""
    file, kept = folder / CONFIG_FILE, folder / KEPT_CONFIG
    return kept if kept.is_file() and not (file.is_file() and read_yaml(file).keys() & set(COMMAND_LINE)) else file


def is_published(path: Path) -> bool:
    """Whether a checkpoint's name and place are those of the published code."""
    return path.parent.name == FOLDER and NAME.fullmatch(path.name) is not None


def read_published(path: Path) -> SavedRun:
    """A checkpoint of the published code as one of this project's: `config` added, prefixes gone.

    How many iterations an epoch has, and so its `iteration`, is known once the training images are open.

    Raises:
        ModelError: no such file, or no state dict in it.
        InputError: it holds no optimiser, or the run's config.yml cannot be used.
    """
    content = read_checkpoint(path)
    weights = extract_weights(content, path)
    kept = {"epoch": content.get("epoch"), "optimizer_state_dict": content.get("optimizer_state_dict")}
    form = checked_form({**kept, "model_state_dict": weights, "scaler_state_dict": {}}, path, LATER)
    return SavedRun(path, {**form, "config": read_config(path.parents[1]).to_yaml()})


def read_config(folder: Path) -> Config:
    """The config of a published run, with what the published code does unasked.

    Raises:
        InputError: there is none, or a key cannot be honoured.
    """
    file = config_file(folder)
    values = {key: value for key, value in read_yaml(file).items() if key not in COMMAND_LINE}
    return build_config({**values, **HABITS}, file, [])


def newest_published(folder: Path, say: Callable[[str], None]) -> SavedRun | None:
    """The newest good checkpoint of a published run; None if the folder is no such run.

    `say` takes a line on each that is not good.

    Raises:
        InputError: it is one, and its config or all of its checkpoints cannot be used.
    """
    paths = published_checkpoints(folder)
    if paths:  # what is wrong with the config is wrong for each of them
        scale = read_config(folder).scale
        paths = [path for path in paths if path.name.startswith(f"model_x{scale}_")] or paths
    for path in paths:
        try:
            return read_published(path)
        except (InputError, ModelError) as error:
            say(f"warning: {error}; the checkpoint before it is tried")
    if paths:
        raise InputError(f"{folder}: no good checkpoint to go on from in {folder / FOLDER}; start another run")
    return None


def what_is_known(saved: SavedRun, rate: float) -> str:
    """Lines for the log of a run that goes on from a published checkpoint, with this learning rate."""
    epoch, groups = saved.content["epoch"], saved.content["optimizer_state_dict"].get("param_groups") or [{}]
    before = groups[0].get("lr", "not in it")
    return (
        f"{saved.path}: of the published code, after epoch {epoch}, whose learning rate is {before}; epoch {epoch + 1} "
        f"follows, with {rate:.6g}\n"
        "not known: which crops the epochs saw, the random states, and the best scores by this project's protocols; "
        "crops are this project's from here on, and validation comes before the first step"
    )
