"""The weights of a checkpoint alone, of any network, or SSIU as a graph that runs without this project.

python -m tools.export runs/NAME/best.pt pretrain_model/SSIU_x4.pt
python -m tools.export model_x2_290.pt x2.safetensors
python -m tools.export x4 SSIU_x4.onnx             weights that come with the project
python -m tools.export x4 SSIU_x4_half.onnx --half
python -m tools.export x4 SSIU_x4.pt2
python -m tools.export runs/NAME/best.pt model_x4_290.pt --to published     what the published code loads

Weights are averaged ones where there are any, float32, under the published key names. See docs/export.md.
"""

import argparse
import sys
from pathlib import Path

import safetensors.torch
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from evaluation.report import commit
from models import ModelError, Upscaler
from models.architecture import detect_architecture
from models.upscaler import named_weights
from models.weights import HASH_LIST, SHIPPED, file_hash, listed_hash, read_weights
from tools.export_onnx import write_onnx
from tools.export_pt2 import write_pt2
from training.checkpoints import save_checkpoint
from training.published_file import published_form
from utils import InputError, atomic_write, run_command
from yaml_file import read_yaml

LICENCE = Path(__file__).resolve().parents[1] / "LICENSE"
WEIGHTS, GRAPHS = (".pt", ".safetensors"), (".onnx", ".pt2")


def export(source: str | Path, target: Path, half: bool = False) -> int:
    """Write what `source` holds to `target`; returns the number of weights.

    Args:
        source: a checkpoint of any known form, or 'x2', 'x3', 'x4' for the weights that come with the project.
        target: .pt for the state dict alone; .safetensors for it with `metadata`; .onnx or .pt2 for SSIU as a graph.
        half: the graph of an .onnx file computes in float16.

    Raises:
        ModelError: `source` holds no state dict.
        InputError: `target` has another ending or cannot be written; `half` of another form than .onnx; a graph of
            another network than SSIU; the package onnx is not there.
    """
    if target.suffix not in WEIGHTS + GRAPHS:
        raise InputError(f"{target}: must end in {', '.join((WEIGHTS + GRAPHS)[:-1])} or {GRAPHS[-1]}")
    if half and target.suffix != ".onnx":
        raise InputError(f"{target}: --half is for .onnx files; leave it out")
    file = named_weights(source)
    weights = {key: _as_float32(value) for key, value in read_weights(file).items()}
    if target.suffix == ".pt":
        save_checkpoint(target, weights)
    elif target.suffix == ".safetensors":
        atomic_write(target, safetensors.torch.save(weights, {"format": "pt", **metadata(file, weights)}))
    else:
        _write_graph(file, weights, target, half)
    if (old := listed_hash(target)) is not None:  # new weights in a shipped file's place
        sums = target.with_name(HASH_LIST)
        atomic_write(sums, sums.read_bytes().replace(old.encode(), file_hash(target).encode()))
    return sum(weight.numel() for weight in weights.values())


def export_published(source: str | Path, target: Path, raw: bool = False) -> int:
    """Write `source` to `target`, a .pt file, as the published code saves it; returns the number of weights.

    Args:
        source, raw: as in `published_form`, or 'x2', 'x3', 'x4'.

    Raises:
        ModelError, InputError: as `published_form`; `target` has another ending or cannot be written.
    """
    if target.suffix != ".pt":
        raise InputError(f"{target}: must end in .pt, as the published files do")
    content = published_form(named_weights(source), raw)
    save_checkpoint(target, content)
    return sum(weight.numel() for weight in content["model_state_dict"].values())


def metadata(file: Path, weights: dict[str, torch.Tensor], half: bool = False) -> dict[str, str]:
    """What an exported file says of itself: names and texts.

    The licence is that of the project for weights that come with it; of other weights it is what the .yml beside them
    says under keys that begin with 'licence'.
    """
    facts = {"source": file.name, "source_sha256": file_hash(file), "project_commit": commit()}
    architecture = detect_architecture(weights)
    if architecture is not None:
        facts |= {"model": "SSIU", "architecture": str(architecture), "scale": str(architecture.scale)}
        facts |= {"precision": "float16 inside, float32 in and out" if half else "float32"}
    if file.resolve().parent == SHIPPED.resolve() and listed_hash(file):
        facts["licence"] = LICENCE.read_text(encoding="utf-8").splitlines()[0]
    card = file.with_suffix(".yml")
    if card.is_file():
        facts |= {key: str(value).strip() for key, value in read_yaml(card).items() if key.startswith("licence")}
    return facts


def _write_graph(file: Path, weights: dict[str, torch.Tensor], target: Path, half: bool) -> None:
    if detect_architecture(weights) is None:
        raise InputError(
            f"{file}: holds the weights of another network than SSIU, whose graph is not known; "
            f"export them to {' or '.join(WEIGHTS)}"
        )
    network, facts = Upscaler.load(file, "cpu", "plain").model, metadata(file, weights, half)
    if target.suffix == ".onnx":
        write_onnx(target, network, facts, half)
    else:
        write_pt2(target, network, facts)


def _as_float32(value: torch.Tensor) -> torch.Tensor:
    """Floats as float32; whole numbers, such as the counts that a network of one's own keeps, as they are."""
    return (value.float() if value.is_floating_point() else value).contiguous().clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a checkpoint, or x2, x3, x4")
    parser.add_argument("target", type=Path)
    parser.add_argument("--half", action="store_true", help="an .onnx file that computes in float16")
    parser.add_argument("--to", choices=["published"], help="a .pt file with the five entries of the published code")
    parser.add_argument("--raw", action="store_true", help="with --to: not the averaged weights, those in training")
    arguments = parser.parse_args()
    if arguments.raw and not arguments.to:
        raise InputError("--raw: goes with --to published; leave it out")
    if arguments.half and arguments.to:
        raise InputError("--half: is for .onnx files, not for --to published; leave it out")
    if arguments.to:
        count = export_published(arguments.source, arguments.target, arguments.raw)
    else:
        count = export(arguments.source, arguments.target, arguments.half)
    print(f"wrote {arguments.target}: {count:,} weights")


if __name__ == "__main__":
    run_command(main, ModelError)
