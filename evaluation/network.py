"""The network that is evaluated: which weights, the module with them, and what images go through."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from config import Config
from evaluation.evaluator import Network, self_ensemble
from evaluation.report import Setting
from evaluation.tiles import tiled
from models import create_model, inference
from models.registry import SSUFSR
from models.spandrel_network import SPANDREL, SpandrelNetwork
from models.weights import SHIPPED, load_weights, shipped_weights
from utils import InputError


def weights_file(config: Config) -> Path | None:
    """That of the config key `pretrain`; where it is empty, the file of a spandrel:FILE, or the one that comes with the
    project for the scale; None for another network, which may have no weights.

    Raises:
        ModelError: no weights of this scale come with the project.
    """
    if config.pretrain:
        return Path(config.pretrain)
    if config.model.startswith(SPANDREL):
        return Path(config.model.removeprefix(SPANDREL))
    return shipped_weights(SHIPPED, config.scale) if config.model == SSUFSR else None


def open_model(config: Config, weights: Path | None, device: torch.device) -> nn.Module:
    """The network with these weights, on the device and in evaluation mode.

    Raises:
        InputError: a network with weights of its own, and no file of them.
        ModelError: they do not fit.
    """
    model = create_model(config)
    if config.pretrain or not config.model.startswith(SPANDREL):  # which comes with its weights
        if weights is not None:
            load_weights(model, weights)
        elif model.state_dict():
            advice = f"no weights of {config.model} come with the project; name a file with --weights or pretrain"
            raise InputError(f"config key 'pretrain': is empty; {advice}")
    return model.to(device).eval()


def open_network(
    config: Config, weights: Path | None, device: torch.device, setting: Setting, say: Callable[[str], None]
) -> tuple[Network, str]:
    """(what float32 (1, 3, H, W) goes through, backend), with the tiles and the self-ensemble of the setting.

    Raises:
        InputError, ModelError: see `open_model` and `models.backends.inference`.
    """
    model = open_model(config, weights, device)
    if isinstance(model, SpandrelNetwork):
        against = "; spandrel advises against tiles for it" if setting.tiles and not model.takes_tiles else ""
        say(f"network: {model.architecture} x{config.scale}, as spandrel found it{against}")
    memory = config.memory or None
    bounded, backend = inference(model, device, config.backend, setting.precision, say=say, memory_mib=memory)
    network: Network = bounded
    if setting.tiles is not None:
        network = tiled(network, setting.tiles, config.scale)
    return self_ensemble(network) if setting.self_ensemble else network, backend
