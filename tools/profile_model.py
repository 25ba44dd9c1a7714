"""Parameters, multiply-adds and activations of SSIU, per module; nothing is computed, only counted.

    python -m tools.profile_model --config configs/SSUFSR_light_x4.yml
    python -m tools.profile_model --ablations                                 the table of docs/ablation.md

Convention: one forward pass for a 1280x720 output (or --output WxH); the input is padded to multiples of 16 and the
padding counts. A multiply-add is one multiplication with its addition in a convolution or in one of attention's two
products; normalisation, GELU, softmax, interpolation and additions count nothing. Activations are the elements that
those operations put out.
"""

import argparse
import math
from collections import Counter
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from config import Config, load_config
from models import ModelError, create_model
from utils import InputError, run_command

ROOT = Path(__file__).resolve().parents[1]


class OperationCounter(TorchDispatchMode):
    """Counts multiply-adds and output elements of every product and convolution, for each module on the way down."""

    def __init__(self):
        super().__init__()
        self.multiply_adds, self.activations = Counter(), Counter()
        self._tracker = ModuleTracker()

    def __enter__(self):
        self._tracker.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        self._tracker.__exit__(*error)
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket in flop_registry:
            operations = flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=out)
            for module in self._tracker.parents:
                self.multiply_adds[module] += operations // 2
                self.activations[module] += out.numel()
        return out


def profile(config: Config, width: int, height: int) -> tuple[dict[str, list[int]], list[int]]:
    """({module: [parameters, multiply-adds, activations]}, totals) for an output of width x height pixels.

    `body.0` stands for each of the equal stages; its parts follow it.
    Runs on shapes alone (torch's meta device), so any size is instant and needs no memory.
    """
    with torch.device("meta"):
        model = create_model(config)
        x = torch.empty(1, 3, math.ceil(height / config.scale), math.ceil(width / config.scale))
    counter = OperationCounter()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(x)
    stage = {f"body.0.{name}": part for name, part in model.body[0].named_children()}
    parts = {"head": model.head, "body.0": model.body[0], **stage, "moe": model.moe, "tail": model.tail, "": model}
    root, rows = type(model).__name__, {}
    for name, module in parts.items():
        if module is not None:  # left out by an ablation
            key = f"{root}.{name}".rstrip(".")
            parameters = sum(p.numel() for p in module.parameters())
            rows[name] = [parameters, counter.multiply_adds[key], counter.activations[key]]
    return rows, rows.pop("")


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
    parser.add_argument("--output", default="1280x720", metavar="WxH", help="size of the SR image in pixels")
    parser.add_argument("--ablations", action="store_true", help="one row for each of configs/ablation/")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    width, _, height = arguments.output.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"--output {arguments.output}: expected a size in pixels such as 1280x720")
    if arguments.ablations:
        files = [Path(arguments.config), *sorted((ROOT / "configs" / "ablation").glob("*.yml"))]
        configs = {path.stem: load_config(path, arguments.set) for path in files}
        print(table("config", {name: profile(config, int(width), int(height))[1] for name, config in configs.items()}))
    else:
        config = load_config(arguments.config, arguments.set)
        rows, totals = profile(config, int(width), int(height))
        print(table(f"module (x{config.scale}, {width}x{height})", {**rows, "**all**": totals}))


if __name__ == "__main__":
    run_command(main, ModelError)
