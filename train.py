"""Train SSIU, or a network of your own (docs/extending.md).

One GPU, or the CPU:
    python train.py --config ./configs/SSUFSR_light_x4.yml --set data_path=./data

Several GPUs of one machine, one process each:
    torchrun --nproc_per_node=4 train.py --config ./configs/SSUFSR_light_x4.yml --set 'gpu_ids=[0, 1, 2, 3]'

Several machines, the same command on each; HOST is one of them, and all see the same data_path and log_path:
    torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 \\
        train.py --config ./configs/SSUFSR_light_x4.yml --set 'gpu_ids=[0, 1, 2, 3]' --set log_name=x4

Go on with a run, with the same bits; check all that a run needs and stop; fine-tune weights of another scale:
    python train.py --resume runs/NAME
    python train.py --config ./configs/SSUFSR_light_x4.yml --dry-run
    python train.py --config ./configs/SSUFSR_light_x4.yml --set pretrain=pretrain_model/model_x2_290.pt \\
        --set pretrain_new_tail=True

Ctrl-C or SIGTERM saves first. What a run leaves in its folder is listed in docs/training.md.
"""

import argparse
import time
from pathlib import Path

from config import Config, differences, load_config, parse_overrides
from models import ModelError
from models.registry import SSUFSR
from training.checkpoints import run_checkpoints
from training.loop import train
from training.setup import dry_run
from utils import InputError, run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file, see configs/; may be left out with --resume")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="folder of a run to continue")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the config and the data, say what would be trained and what share of crops comes from where, stop",
    )
    arguments = parser.parse_args()
    if not (arguments.config or arguments.resume):
        parser.error("--config FILE or --resume DIR is needed")
    return arguments


def resumed_config(folder: Path, file: str | None, overrides: list[str]) -> Config:
    """The config of a run to be continued; what differs from before must have been named on the command line."""
    if not run_checkpoints(folder):
        reason = "ended before its first checkpoint" if (folder / "config.yml").exists() else "is not there"
        raise InputError(f"{folder}: no run to go on with: it {reason} (iteration_*.pt); start it with --config")
    saved_file = folder / "config.yml"
    saved = load_config(saved_file)
    config = load_config(file or saved_file, overrides)
    named = parse_overrides(overrides)
    changed = {key: pair for key, pair in differences(saved, config).items() if key not in named}
    if changed:
        listed = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
        raise InputError(f"{file}: differs from the run in {folder}: {listed}; name what shall change with --set")
    for key in ("pretrain", "pretrain_new_tail", "log_path", "log_name"):
        if getattr(config, key) != getattr(saved, key):
            raise InputError(f"--set {key}: is of the start of a run; it cannot change when {folder} goes on")
    return config


def new_folder(config: Config) -> Path:
    """The folder of a run that starts. Raises InputError if there is one of another run."""
    network = "SSIU" if config.model == SSUFSR else config.model.partition(":")[2]
    name = config.log_name or f"{network}_x{config.scale}_{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(config.log_path) / name
    if run_checkpoints(folder):
        raise InputError(f"{folder}: holds a run already; continue it with --resume {folder}, or change log_name")
    if (folder / "config.yml").exists():
        raise InputError(f"{folder}: a run ended there before its first checkpoint; remove it, or change log_name")
    return folder


def main() -> int:
    arguments = parse_arguments()
    if arguments.resume:
        config = resumed_config(arguments.resume, arguments.config, arguments.set)
    else:
        config = load_config(arguments.config, arguments.set)
    sets_named = "eval_sets" in parse_overrides(arguments.set)
    folder = arguments.resume or new_folder(config)
    if arguments.dry_run:
        print("\n".join(dry_run(config, arguments.resume is not None, sets_named)))
        return 0
    return train(config, folder, resume=arguments.resume is not None, sets_named=sets_named)


if __name__ == "__main__":
    run_command(main, ModelError)
