"""A checkpoint in the form of the published code, which its train.py goes on from and its test.py evaluates.

A dict of five entries: the number of epochs done, weights whose names carry DataParallel's `module.`, and the states of
the optimiser, of the cosine schedule and of the best scores. The schedule's stands before the next epoch, not at the
one done: the published train.py goes on with the learning rate that it finds.
"""

from pathlib import Path
from typing import Any

import torch

from config import Config, config_from_text, load_config
from models import ModelError, create_model
from models.architecture import detect_architecture
from models.registry import SSUFSR
from models.weights import extract_weights, put_weights, read_checkpoint
from training.checkpoint_form import checked_form
from training.schedule import learning_rate
from training.step import make_optimizer, moments_in_order
from utils import InputError

PREFIX = "module."
ROOT = Path(__file__).resolve().parents[1]
RUN = ("epoch", "config", "optimizer_state_dict")  # entries of a run's checkpoint, which bare weights lack


def published_form(source: Path, raw: bool = False) -> dict[str, Any]:
    """The content of the file `source` as the published code saves it.

    A run's checkpoint keeps its epoch, moments and best scores; bare weights become a file before its first epoch, with
    the paper's recipe.

    Args:
        raw: the weights in training, in place of their moving averages where the file has both. The moments belong to
            the weights in training.

    Raises:
        ModelError: no state dict in it, or another network than SSIU's.
        InputError: its config cannot be used, or it is a file of the published code.
    """
    content = read_checkpoint(source)
    chosen = {key: value for key, value in content.items() if not (raw and key == "ema_state_dict")}
    weights = extract_weights(chosen, source)
    is_run = all(entry in content for entry in RUN)
    if "optimizer_state_dict" in content and not is_run:
        raise InputError(f"{source}: is in the form of the published code already; give a checkpoint of this project")
    content = checked_form(content, source) if is_run else content
    config = config_from_text(content["config"], source) if is_run else _paper_config(weights, source)
    if config.model != SSUFSR:
        raise ModelError(f"{source}: holds {config.model}; the published code knows SSIU only")
    model = create_model(config)
    put_weights(model, weights, source)
    optimizer = make_optimizer(model, config, torch.device("cpu"))
    epoch = content["epoch"] if is_run else 0
    if is_run:
        moments = moments_in_order(model, content)
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs, config.eta_min)
    rate = learning_rate(config, epoch, 1)  # an iteration an epoch: by epochs
    for group in optimizer.param_groups:
        group["lr"] = rate
    return {
        "epoch": epoch,
        "model_state_dict": {PREFIX + name: value.clone() for name, value in model.state_dict().items()},
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": {**schedule.state_dict(), "last_epoch": epoch, "_last_lr": [rate]},
        "stat_dict": _best_scores(content.get("bests", {}), config),
    }


def _paper_config(weights: dict, source: Path) -> Config:
    """The paper's recipe for weights alone, of their architecture."""
    found = detect_architecture(weights)
    if found is None:
        raise ModelError(f"{source}: holds the weights of another network than SSIU (expected head, body.0 and tail)")
    sizes = [f"{key}={value}" for key, value in vars(found).items() if not isinstance(value, tuple)]
    sizes.append(f"msgm_depthwise={list(found.msgm_depthwise)}")
    return load_config(ROOT / "configs" / f"SSUFSR_light_x{found.scale}.yml", sizes)


def _best_scores(bests: dict[str, dict], config: Config) -> dict[str, Any]:
    """The best PSNR and SSIM of each set, by the published protocol, with their epochs."""
    found: dict[str, Any] = {"epochs": 0, "losses": [], "ema_loss": 0.0}
    for name in config.eval_sets:
        scores = {"psnr": "official_psnr", "ssim": "official_ssim"}
        best = {score: bests.get(name, {}).get(ours, {"value": 0.0, "epoch": 0}) for score, ours in scores.items()}
        entries = {f"best_{score}": {key: entry[key] for key in ("value", "epoch")} for score, entry in best.items()}
        found[name] = {"psnrs": [], "ssims": [], **entries}
    return found
