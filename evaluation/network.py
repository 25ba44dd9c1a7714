"""The network that is evaluated: which weights, and the module with them."""

from pathlib import Path

import torch
from torch import nn

from config import Config
from models import create_model
from models.registry import SSUFSR
from models.weights import SHIPPED, load_weights, shipped_weights
from utils import InputError


def weights_file(config: Config) -> Path:
    """That of the config key `pretrain`; where it is empty, the one that comes with the project for the scale.

    Raises:
        InputError: it is empty, and the network is not the project's own.
        ModelError: no weights of this scale come with the project.
    """
    if config.pretrain:
        return Path(config.pretrain)
    if config.model != SSUFSR:
        raise InputError(f"config key 'pretrain': is empty; no weights of {config.model} come with the project")
    return shipped_weights(SHIPPED, config.scale)


def open_model(config: Config, weights: Path, device: torch.device) -> nn.Module:
    """The network with these weights, on the device and in evaluation mode. Raises ModelError if they do not fit."""
    model = create_model(config)
    load_weights(model, weights)
    return model.to(device).eval()
