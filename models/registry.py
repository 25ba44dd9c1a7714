"""Networks by name: 'SSUFSR', the published name of SSIU, any other as 'package.module:Name' or 'spandrel:FILE'."""

import importlib
import inspect
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelError
from .size_needs import fit
from .spandrel_network import SPANDREL, open_spandrel
from .ssiu import SSIU

SSUFSR = "SSUFSR"
# Config keys that are arguments of SSIU alone; the first three have no default.
SSUFSR_REQUIRED = ("n_feats", "num_heads", "n_blocks")
SSUFSR_ABLATIONS = ("use_esam", "use_moe", "msgm_depthwise")
SSUFSR_KEYS = (*SSUFSR_REQUIRED, *SSUFSR_ABLATIONS, "pretrain_new_tail")
TRIAL = (37, 53)  # height and width of the input that a network is tried on: odd, as those of real images are


def create_model(config) -> nn.Module:
    """The network that `config.model` names, with initial weights: float32 (B, 3, h, w) in [0, 1] -> (B, 3, s h, s w).

    Args:
        config: any object with the attributes model and scale. SSUFSR, which is taken where there is no `model`, needs
            n_feats, num_heads and n_blocks besides and takes use_esam, use_moe and msgm_depthwise; any other network is
            called as `Name(scale=config.scale, **config.model_args)`. One of spandrel:FILE comes with its weights.

    Raises:
        ModelError: there is no such network, it does not take these arguments, or its output has another shape.
        ValueError: sizes of SSUFSR that do not fit together.
    """
    if getattr(config, "model", SSUFSR) != SSUFSR:
        return _create_other(config.model, config.scale, config.model_args)
    ablation = {key: getattr(config, key) for key in SSUFSR_ABLATIONS if hasattr(config, key)}
    return SSIU(config.scale, config.n_feats, config.num_heads, config.n_blocks, **ablation)


def network_name(config) -> str:
    """A short name, which a folder can have: 'SSIU', the Name of package.module:Name, or the name of a spandrel:FILE
    without its ending. Another network called SSIU has what it came from added."""
    if config.model == SSUFSR:
        return "SSIU"
    name = config.model.partition(":")[2]
    if config.model.startswith(SPANDREL):
        name = Path(name).stem
    origin = "spandrel" if config.model.startswith(SPANDREL) else config.model.partition(":")[0]
    return f"SSIU of {origin}" if name == "SSIU" else name


def import_named(path: str) -> Any:
    """What 'package.module:name' names; the module may lie in the working directory.

    Raises:
        ModelError: not of this form, the module cannot be imported, or it has no such name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ModelError(f"'{path}': is not of the form package.module:name")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a file there hides no package
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the file does when it is read
        raise ModelError(f"'{path}': {module_name} cannot be imported ({type(error).__name__}: {error})") from error
    if not hasattr(module, name):
        raise ModelError(f"'{path}': there is no {name} in {module.__file__}")
    return getattr(module, name)


def _create_other(path: str, scale: int, arguments: dict[str, Any]) -> nn.Module:
    if path.startswith(SPANDREL):
        model: nn.Module = open_spandrel(Path(path.removeprefix(SPANDREL)), scale)
    else:
        model = _build(path, scale, arguments)
    try:
        fit(model, scale)
    except ModelError as error:
        raise ModelError(f"config key 'model': {path}: {error}") from error
    _try_out(model, path, scale)
    return model


def _build(path: str, scale: int, arguments: dict[str, Any]) -> nn.Module:
    try:
        factory = import_named(path)
    except ModelError as error:
        raise ModelError(f"config key 'model': {error}") from error
    if not callable(factory):
        raise ModelError(f"config key 'model': {path} is of type {type(factory).__name__}, not a class or a function")
    try:
        inspect.signature(factory).bind(scale=scale, **arguments)
    except TypeError as error:
        raise ModelError(f"config key 'model_args': {path} does not take scale and these: {error}") from error
    model = factory(scale=scale, **arguments)
    if not isinstance(model, nn.Module):
        raise ModelError(f"config key 'model': {path} gives {_kind(model)}, not a torch.nn.Module")
    return model


@torch.no_grad()
def _try_out(model: nn.Module, path: str, scale: int) -> None:
    """Raise ModelError unless a small image comes out `scale` times as large; the weights stay as they are."""
    height, width = TRIAL
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.eval()
    try:
        output = model(torch.zeros(1, 3, height, width, device=device))
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{_place(error, type(model))}"
        raise ModelError(
            f"config key 'model': {path} fails on an image of {height}x{width} pixels; it must take any size ({what})"
        ) from error
    finally:
        model.train(was_training)
    expected = (1, 3, scale * height, scale * width)
    if not isinstance(output, Tensor) or tuple(output.shape) != expected:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else _kind(output)
        raise ModelError(
            f"config key 'model': {path} must give shape {expected} for an input of shape (1, 3, {height}, {width}) "
            f"at scale {scale}, it gives {got}"
        )


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"


def _place(error: Exception, network: type[nn.Module]) -> str:
    """Where in the network's file an error arose: ', FILE line N', or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    file = getattr(sys.modules.get(network.__module__), "__file__", None)
    own = [frame for frame in frames if frame.filename == file]
    return f", {own[-1].filename} line {own[-1].lineno}" if own else ""
