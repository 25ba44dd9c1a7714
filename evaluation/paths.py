"""What benchmark.py times: the ways through a network that can run here, and another network beside a config's."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from config import Config
from evaluation.network import open_model, weights_file
from evaluation.peers import named_config, named_tiles
from evaluation.tiles import Tiles, tiled
from models import ModelError, create_model, inference, training_network
from models.registry import network_name

ITEM_BYTES = {"float32": 4, "tf32": 4, "tf32x3": 4, "bf16": 2, "fp16": 2}  # of what a precision reads and writes


def candidates(model: nn.Module, device: torch.device, training: bool) -> list[tuple[str, str]]:
    """(backend, precision) pairs that can run here, the plain float32 one first."""
    wanted = [("plain", "float32")]
    if device.type == "cuda":
        wanted += [("plain", "bf16")] + [("triton", precision) for precision in ITEM_BYTES]
    else:
        wanted += [("plain", "bf16")] + ([] if training else [("cpu", "float32"), ("cpu", "bf16")])
    possible, choose = [], training_network if training else inference
    for backend, precision in wanted:
        try:
            choose(model, device, backend, precision)
        except ModelError as error:
            print(f"left out: {error}")
        else:
            possible.append((backend, precision))
    return possible


def inference_paths(model: nn.Module, device: torch.device) -> dict[str, Callable]:
    """Each way through a network as 'BACKEND PRECISION', the plain float32 one first."""
    pairs = candidates(model, device, training=False)
    return {f"{backend} {precision}": inference(model, device, backend, precision)[0] for backend, precision in pairs}


@dataclass(frozen=True)
class Peer:
    """Another network, with what it takes from the config beside which it is timed."""

    config: Config
    model: nn.Module
    tiles: Tiles | None

    def paths(self, device: torch.device) -> dict[str, Callable]:
        """As `inference_paths`, each name followed by that of the network."""
        about = network_name(self.config) + (f", {self.tiles}" if self.tiles else "")
        found = inference_paths(self.model, device)
        if self.tiles is not None:
            found = {name: tiled(network, self.tiles, self.config.scale) for name, network in found.items()}
        return {f"{name} of {about}": network for name, network in found.items()}


def open_peer(config: Config, arguments: argparse.Namespace, device: torch.device) -> Peer:
    """The network of --model, with --weights or initial ones. Raises InputError, ModelError if it cannot be had."""
    named = named_config(config, arguments)
    torch.manual_seed(0)
    model = open_model(named, weights_file(named), device) if arguments.weights else create_model(named)
    return Peer(named, model.to(device).eval(), named_tiles(named, arguments))
