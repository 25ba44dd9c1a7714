"""Another network in place of that of the config, as the options --model, --model-args and --weights name it."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from utils import InputError, shown
from yaml_file import parse_yaml

if TYPE_CHECKING:  # what imports PyTorch is imported where it is used: --help must not wait for it
    from config import Config
    from evaluation.report import Setting
    from evaluation.tiles import Tiles

OVERLAP = 32


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Those that name the network."""
    parser.add_argument(
        "--model", metavar="NETWORK", help="another network: package.module:Name, or spandrel:FILE (docs/extending.md)"
    )
    parser.add_argument("--model-args", metavar="MAPPING", help="keyword arguments of Name, such as '{channels: 24}'")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Those that name the network, and how it runs."""
    add_model_options(parser)
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights of the network; spandrel:FILE has its own"
    )
    parser.add_argument("--tile", type=int, metavar="SIDE", help="another network: cut LR images into tiles of SIDE")
    parser.add_argument("--overlap", type=int, metavar="N", help=f"LR pixels that tiles see beyond a cut ({OVERLAP})")


def named_config(config: "Config", arguments: argparse.Namespace) -> "Config":
    """The config, its network and weights replaced by those that the options name.

    Args:
        arguments: of a parser with one of the above, and `set`.

    Raises:
        InputError: options that do not go together, or a key of --set that belongs to what is replaced.
    """
    from config import FIELDS
    from models.registry import SSUFSR_KEYS

    model, weights = arguments.model, getattr(arguments, "weights", None)
    _refuse(model is None and arguments.model_args is not None, "--model-args: goes with --model; leave it out")
    if model is None and weights is None:
        return config
    changes: dict = {"pretrain": str(weights or "")}
    if model is not None:
        own = model.startswith("spandrel:")
        _refuse(":" not in model, f"--model {shown(model)}: is neither package.module:Name nor spandrel:FILE")
        _refuse(own and weights, f"--weights {weights}: {shown(model)} has weights of its own; leave it out")
        _refuse(own and arguments.model_args, "--model-args: a spandrel file says itself what it is; leave it out")
        changes |= {key: FIELDS[key].default for key in SSUFSR_KEYS}
        changes |= {"model": model, "model_args": _mapping(arguments.model_args)}
    _check_overrides(arguments.set, changes, "--model" if model else "--weights")
    try:
        return dataclasses.replace(config, **changes)
    except InputError as error:
        raise InputError(f"--model {shown(model)}: {error}") from error


def named_setting(config: "Config", arguments: argparse.Namespace) -> "Setting":
    """What is evaluated and how, of test.py's options. Raises InputError as `named_tiles` does."""
    from evaluation.report import Setting
    from models.registry import network_name

    tiles = named_tiles(config, arguments)
    return Setting(network_name(config), config.eval_precision, arguments.self_ensemble, tiles)


def named_tiles(config: "Config", arguments: argparse.Namespace) -> "Tiles | None":
    """How images are cut, if they are.

    Raises:
        InputError: sizes of which no tile can be, or a network that needs none.
    """
    from evaluation.tiles import Tiles
    from models.registry import SSUFSR

    side, overlap = arguments.tile, OVERLAP if arguments.overlap is None else arguments.overlap
    if side is None:
        _refuse(arguments.overlap is not None, "--overlap: goes with --tile; leave it out")
        return None
    rows = "large images go through SSIU row by row; the config key 'memory' says how much memory they may take"
    _refuse(config.model == SSUFSR, f"--tile: {rows}")
    _refuse(overlap < 0, f"--overlap {overlap}: is negative")
    _refuse(side <= 2 * overlap, f"--tile {side}: must be more than twice the overlap, which is {overlap}")
    return Tiles(side, overlap)


def _mapping(text: str | None) -> dict:
    found = parse_yaml(text, "--model-args", value_only=True) if text else {}
    _refuse(
        not isinstance(found, dict), f"--model-args {shown(text or '')}: expected a mapping such as {{channels: 24}}"
    )
    return found


def _check_overrides(overrides: list[str], changes: dict, option: str) -> None:
    """Raise InputError for the first key of --set that an option replaces."""
    from config import parse_overrides

    advice = {"pretrain": "use --weights", "model_args": "use --model-args"}
    for key in parse_overrides(overrides):
        _refuse(key in changes, f"--set {key}=...: {option} takes its place; {advice.get(key, 'leave it out')}")


def _refuse(wrong: object, text: str) -> None:
    if wrong:
        raise InputError(text)
