"""Parameters, multiply-adds and activations of the network, per module; nothing is computed, only counted.

    python -m tools.profile_model --config configs/SSUFSR_light_x4.yml
    python -m tools.profile_model --model my_networks:Shallow                 another network, docs/extending.md
    python -m tools.profile_model --ablations                                 the table of docs/ablation.md

Convention: one forward pass for a 1280x720 output (or --output WxH); the input is padded to the sizes that the network
takes, for SSIU multiples of 16, and the padding counts. A multiply-add is one multiplication with its addition in a
convolution or in one of attention's two products; normalisation, GELU, softmax, interpolation and additions count
nothing. Activations are the elements that those operations put out.
"""

import argparse
import math
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from config import Config, load_config
from evaluation.peers import add_model_options, named_config
from models import SSIU, ModelError, create_model
from models.registry import network_name
from utils import InputError, run_command

ROOT = Path(__file__).resolve().parents[1]
REST = "(the rest)"
OUTPUT = (1280, 720)  # width and height of the SR image for which networks are compared


class OperationCounter(TorchDispatchMode):
    """Counts multiply-adds and output elements of every product and convolution of a network, by module.

    An operation belongs to one module: the innermost under way, or the one inside it whose parameters the operation
    uses, as a network may use a layer's weights without calling the layer.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.multiply_adds: Counter[str] = Counter()  # by module, by its dotted name; '' is the network
        self.activations: Counter[str] = Counter()
        self._under_way = [""]
        self._owners = WeakTensorKeyDictionary()  # module of each parameter, and of each tensor made of its parameters
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self._under_way.append(name))
            module.register_forward_hook(self._leave)
            for parameter in module.parameters(recurse=False):
                self._owners.setdefault(parameter, name)

    def _leave(self, *_) -> None:
        self._under_way.pop()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        owners = {self._owners.get(tensor) for tensor in tensors}
        if function.overloadpacket in flop_registry:
            operations = flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=out)
            inside = [name for name in owners if name is not None and _within(name, self._under_way[-1])]
            module = inside[0] if len(inside) == 1 else self._under_way[-1]
            self.multiply_adds[module] += operations // 2
            self.activations[module] += out.numel()
        elif len(owners) == 1 and None not in owners and isinstance(out, Tensor):
            self._owners[out] = owners.pop()  # a parameter reshaped, say
        return out


def _within(name: str, outer: str) -> bool:
    """Whether the module of one dotted name is that of another, or a part of it."""
    return not outer or name == outer or name.startswith(f"{outer}.")


def profile(config: Config, width: int, height: int) -> tuple[dict[str, list[int]], list[int]]:
    """({module: [parameters, multiply-adds, activations]}, totals) for an output of width x height pixels.

    One row for each direct part of the network, or of its only part, and one, if need be, for what belongs to none.
    SSIU's `body` is followed by its first stage, `body.0`, for which the others are alike, and the parts of that.
    Runs on shapes alone (torch's meta device), so any size is instant and needs no memory.

    Raises:
        InputError: a network whose forward pass needs numbers, not shapes alone.
    """
    return _profile(create_model(config), config.scale, width, height)


def network_facts(config: Config, width: int = OUTPUT[0], height: int = OUTPUT[1]) -> dict[str, Any]:
    """Name, parameters, and multiply-adds for an output of this size: None where they cannot be counted."""
    model, multiply_adds = create_model(config), None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with suppress(InputError):
        multiply_adds = _profile(model, config.scale, width, height)[1][1]
    return {"name": network_name(config), "parameters": parameters, "multiply_adds": multiply_adds}


def _profile(model: nn.Module, scale: int, width: int, height: int) -> tuple[dict[str, list[int]], list[int]]:
    """`profile` of a network, whose weights are gone afterwards."""
    model.eval().to("meta")
    counter = OperationCounter(model)
    x = torch.empty(1, 3, math.ceil(height / scale), math.ceil(width / scale), device="meta")
    try:
        with torch.no_grad(), torch.device("meta"), sdpa_kernel(SDPBackend.MATH), counter:
            model(x)
    except Exception as error:  # of any kind: of whatever a network does with its numbers
        reason = f"its forward pass needs more than shapes ({(str(error) or type(error).__name__).splitlines()[0]})"
        raise InputError(f"config key 'model': {type(model).__name__} cannot be counted: {reason}") from error
    parameters = Counter({name: parameter.numel() for name, parameter in model.named_parameters()})

    def row(name: str) -> list[int]:
        counters = (parameters, counter.multiply_adds, counter.activations)
        return [sum(count for place, count in by_place.items() if _within(place, name)) for by_place in counters]

    children, totals = _parts(model), row("")
    rest = [total - sum(counts) for total, *counts in zip(totals, *map(row, children), strict=True)]
    rows = {name: row(name) for child in children for name in (child, *_stage(model, child))}
    return {**rows, **({REST: rest} if any(rest) else {})}, totals


def _parts(model: nn.Module) -> list[str]:
    """Names of the direct parts of a network; where there is one alone, of its parts."""
    name, parts = "", dict(model.named_children())
    while len(parts) == 1 and (inner := dict(next(iter(parts.values())).named_children())):
        name = f"{name}{next(iter(parts))}."
        parts = inner
    return [name + part for part in parts]


def _stage(model: nn.Module, child: str) -> list[str]:
    """Names of the first of SSIU's stages and of its parts, if `child` is the list of these."""
    if not (isinstance(model, SSIU) and child == "body"):
        return []
    return ["body.0", *(f"body.0.{name}" for name, _ in model.body[0].named_children())]


def table(first_column: str, rows: dict[str, list[int]]) -> str:
    """Markdown: thousands of parameters, billions of multiply-adds, millions of activations."""
    lines = [f"| {first_column} | parameters | multiply-adds, G | activations, M |", "| --- | --- | --- | --- |"]
    for name, (parameters, multiply_adds, activations) in rows.items():
        lines.append(f"| {name} | {parameters:,} | {multiply_adds / 1e9:.2f} | {activations / 1e6:.1f} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "SSUFSR_light_x4.yml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add_model_options(parser)
    parser.add_argument(
        "--output", default="x".join(map(str, OUTPUT)), metavar="WxH", help="size of the SR image in pixels"
    )
    parser.add_argument("--ablations", action="store_true", help="one row for each of configs/ablation/")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    width, _, height = arguments.output.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"--output {arguments.output}: expected a size in pixels such as 1280x720")
    if arguments.ablations and arguments.model:
        raise InputError("--model: is one network, --ablations are several of SSIU; leave one of them out")
    if arguments.ablations:
        files = [Path(arguments.config), *sorted((ROOT / "configs" / "ablation").glob("*.yml"))]
        configs = {path.stem: load_config(path, arguments.set) for path in files}
        print(table("config", {name: profile(config, int(width), int(height))[1] for name, config in configs.items()}))
    else:
        config = named_config(load_config(arguments.config, arguments.set), arguments)
        rows, totals = profile(config, int(width), int(height))
        print(table(f"module (x{config.scale}, {width}x{height})", {**rows, "**all**": totals}))


if __name__ == "__main__":
    run_command(main, ModelError)
