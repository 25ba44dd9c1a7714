"""Train SSIU.

    python train.py --config ./configs/SSUFSR_light_x4.yml --set data_path=./data          one GPU (or the CPU)
    torchrun --nproc_per_node=4 train.py --config ... --set 'gpu_ids=[0, 1, 2, 3]'         several GPUs
    python train.py --resume runs/NAME                                                    go on, with the same bits
    python train.py --config ./configs/SSUFSR_light_x4.yml --set pretrain=model_x2_290.pt --set pretrain_new_tail=True

Ctrl-C or SIGTERM saves first. What a run leaves in its folder is listed in docs/training.md.
"""

import argparse
import time
from pathlib import Path

from config import Config, differences, load_config, parse_overrides
from models import ModelError
from training.checkpoints import run_checkpoints
from training.loop import open_data, source_lines, train
from utils import InputError, run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file, see configs/; may be left out with --resume")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="folder of a run to continue")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument("--report", action="store_true", help="check the data, say what share of crops it gives, stop")
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


def main() -> int:
    arguments = parse_arguments()
    if arguments.resume:
        config = resumed_config(arguments.resume, arguments.config, arguments.set)
    else:
        config = load_config(arguments.config, arguments.set)
    if arguments.report:
        print("\n".join(source_lines(open_data(config))))
        return 0
    if arguments.resume:
        return train(config, arguments.resume, resume=True)
    folder = Path(config.log_path) / (config.log_name or f"SSIU_x{config.scale}_{time.strftime('%Y%m%d-%H%M%S')}")
    if run_checkpoints(folder):
        raise InputError(f"{folder}: holds a run already; continue it with --resume {folder}, or change log_name")
    if (folder / "config.yml").exists():
        raise InputError(f"{folder}: a run ended there before its first checkpoint; remove it, or change log_name")
    return train(config, folder, resume=False)


if __name__ == "__main__":
    run_command(main, ModelError)
