"""The weights of a checkpoint alone: averaged ones where there are any, float32, published key names.

python -m tools.export runs/NAME/best.pt pretrain_model/SSIU_x4.pt
python -m tools.export model_x2_290.pt x2.safetensors
"""

import argparse
import io
import sys
from pathlib import Path

import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from models import ModelError
from models.weights import detect_architecture, read_weights
from utils import InputError, atomic_write, run_command


def export(source: Path, target: Path) -> int:
    """Write the state dict of `source` to `target`, a .pt or .safetensors file; returns the number of weights.

    Raises:
        InputError: `source` holds no state dict of this network, or `target` has another ending or cannot be written.
    """
    weights = {key: value.float().contiguous().clone() for key, value in read_weights(source).items()}
    if detect_architecture(weights) is None:
        raise InputError(f"{source}: not a network of this project (it has no tail.0.weight)")
    if target.suffix == ".safetensors":
        data = safetensors.torch.save(weights)
    elif target.suffix == ".pt":
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        data = buffer.getvalue()
    else:
        raise InputError(f"{target}: must end in .pt or .safetensors")
    atomic_write(target, data)
    return sum(weight.numel() for weight in weights.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    print(f"wrote {arguments.target}: {export(arguments.source, arguments.target):,} weights")


if __name__ == "__main__":
    run_command(main, ModelError)
