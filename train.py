"""Train SSIU, or a network of your own (docs/extending.md).

One GPU, or the CPU:
    python train.py --config ./configs/SSUFSR_light_x4.yml --set data_path=./data

Several GPUs of one machine, one process each:
    torchrun --nproc_per_node=4 train.py --config ./configs/SSUFSR_light_x4.yml --set 'gpu_ids=[0, 1, 2, 3]'

Several machines, the same command on each; HOST is one of them, and all see the same data_path and log_path:
    torchrun --nnodes=2 --nproc_per_node=4 --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 \\
        train.py --config ./configs/SSUFSR_light_x4.yml --set 'gpu_ids=[0, 1, 2, 3]' --set log_name=x4

Go on with a run, with the same bits, or with one of the published code, from its last epoch:
    python train.py --resume runs/NAME

Check all that a run needs and stop; fine-tune weights of another scale:
    python train.py --config ./configs/SSUFSR_light_x4.yml --dry-run
    python train.py --config ./configs/SSUFSR_light_x4.yml --set pretrain=pretrain_model/model_x2_290.pt \\
        --set pretrain_new_tail=True

With torchrun --max-restarts=3 a run whose process was killed goes on by itself, from its last checkpoint.

Ctrl-C or SIGTERM saves first. What a run leaves in its folder is listed in docs/training.md.
"""

import interrupts  # noqa: F401, isort: skip
import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

PUBLISHED_DEFAULT = Path(__file__).parent / "configs" / "SSUFSR_light_x2.yml"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help=f"YAML file, see configs/ (default: {PUBLISHED_DEFAULT.name})")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="folder of a run to continue")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the config and the data, say what would be trained and what share of crops comes from where, stop",
    )
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> int:
    from config import load_config, parse_overrides
    from models.memory import keep_freed_memory
    from training.folder import find_saved, held_run, name_folder, resumed_config
    from training.launch import is_first_process
    from training.loop import train
    from training.setup import dry_run

    if not (arguments.config or arguments.resume):
        arguments.config = str(PUBLISHED_DEFAULT)
        if is_first_process():
            print(f"no --config: {PUBLISHED_DEFAULT} is taken, as by the published code", file=sys.stderr)
    resume, sets_named = arguments.resume is not None, "eval_sets" in parse_overrides(arguments.set)
    config = None if resume else load_config(arguments.config, arguments.set)
    folder = name_folder(config) if config else arguments.resume
    opened = nullcontext(find_saved(folder) if resume else None) if arguments.dry_run else held_run(folder, resume)
    with opened as saved:
        if saved is not None:
            config = resumed_config(saved, arguments.config, arguments.set)
        assert config is not None  # from the command line, or from what was saved
        if arguments.dry_run:
            print("\n".join(dry_run(config, resume, sets_named)))
            return 0
        keep_freed_memory()
        return train(config, folder, saved, sets_named)


def start() -> None:
    """Read the command line first: a wrong one, and --help, are answered before what takes seconds to import."""
    arguments = parse_arguments()
    from models import ModelError
    from training.processes import run_together

    run_together(lambda: main(arguments), ModelError)


if __name__ == "__main__":
    start()
