"""The weights of a checkpoint alone, of any network: averaged ones where there are any, float32, published key names.

python -m tools.export runs/NAME/best.pt pretrain_model/SSIU_x4.pt
python -m tools.export model_x2_290.pt x2.safetensors
"""

import argparse
import sys
from pathlib import Path

import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from models import ModelError
from models.weights import HASH_LIST, file_hash, listed_hash, read_weights
from training.checkpoints import save_checkpoint
from utils import InputError, atomic_write, run_command


def export(source: Path, target: Path) -> int:
    """Write the state dict of `source` to `target`, a .pt or .safetensors file; returns the number of weights.

    Raises:
        ModelError: `source` holds no state dict.
        InputError: `target` has another ending or cannot be written.
    """
    weights = {key: _as_float32(value) for key, value in read_weights(source).items()}
    if target.suffix == ".safetensors":
        atomic_write(target, safetensors.torch.save(weights))
    elif target.suffix == ".pt":
        save_checkpoint(target, weights)
    else:
        raise InputError(f"{target}: must end in .pt or .safetensors")
    if (old := listed_hash(target)) is not None:  # new weights in a shipped file's place
        sums = target.with_name(HASH_LIST)
        atomic_write(sums, sums.read_bytes().replace(old.encode(), file_hash(target).encode()))
    return sum(weight.numel() for weight in weights.values())


def _as_float32(value: torch.Tensor) -> torch.Tensor:
    """Floats as float32; whole numbers, such as the counts that a network of one's own keeps, as they are."""
    return (value.float() if value.is_floating_point() else value).contiguous().clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    print(f"wrote {arguments.target}: {export(arguments.source, arguments.target):,} weights")


if __name__ == "__main__":
    run_command(main, ModelError)
