"""Evaluate SSIU, or another network under the same rules, on benchmark sets.

    python test.py --config ./configs/SSUFSR_light_x4.yml --set data_path=./data
    python test.py --config ./configs/SSUFSR_light_x2.yml --set pretrain=pretrain_model/model_x2_290.pt --json x2.json
    python test.py --config ./configs/SSUFSR_light_x4.yml --set 'eval_sets=[Set5]' --save-images --self-ensemble
    python test.py --config ./configs/SSUFSR_light_x4.yml --set 'eval_sets=[MyPhotos]' --lr-only
    python test.py --config ./configs/SSUFSR_light_x4.yml --report x4.html
    python test.py --config ./configs/SSUFSR_light_x4.yml --set 'eval_sets=[B100]' --timings
    torchrun --nproc_per_node=4 test.py --config ... --set 'gpu_ids=[0, 1, 2, 3]'       images shared among four GPUs
    python test.py --config ./configs/SSUFSR_light_x4.yml --model my_networks:Shallow --weights shallow.safetensors
    python test.py --config ./configs/SSUFSR_light_x4.yml --model spandrel:HAT_x4.pth --tile 256

Weights are those of the config key `pretrain`; where it is empty, those that come with the project for the scale.
"""

import interrupts  # noqa: F401, isort: skip
import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.peers import add_run_options, named_config, named_setting
from evaluation.spent import Laps
from utils import InputError, atomic_write, held_folder, make_folder, remove_leftovers

if TYPE_CHECKING:  # what imports PyTorch is imported where it is used: --help must not wait for it
    from config import Config
    from datas import BenchmarkSet
    from datas.inspection import Inspection
    from evaluation.evaluator import Network, SetResult
    from evaluation.gallery import Gallery
    from evaluation.report import Setting
    from training.processes import Process


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    add_run_options(parser)
    parser.add_argument("--out", type=Path, help="folder of per_image.csv and SR images (default results/CONFIG)")
    parser.add_argument("--json", type=Path, help="also write means, images, config, versions and device to this file")
    parser.add_argument("--report", type=Path, help="also write a page with scores and pictures of every image")
    parser.add_argument("--save-images", action="store_true", help="write SR images, one folder per set")
    parser.add_argument("--self-ensemble", action="store_true", help="average over 8 flips and transpositions")
    parser.add_argument("--lr-only", action="store_true", help="sets without HR: super-resolve, score nothing")
    parser.add_argument("--timings", action="store_true", help="print where the time went")
    parser.add_argument("--model-card", action="store_true", help="write the weights' model card, WEIGHTS.md")
    return parser.parse_args()


def check_file(option: str, file: Path | None, example: str) -> None:
    """Raise InputError if the file of an option cannot be written."""
    if file is not None:
        if file.is_dir():
            raise InputError(f"{option} {file}: is a folder; name a file, such as {file / example}")
        make_folder(file.parent)


def main(arguments: argparse.Namespace, laps: Laps) -> None:
    from config import load_config
    from training.launch import is_first_process

    config = named_config(load_config(arguments.config, arguments.set), arguments)
    setting = named_setting(config, arguments)
    check_file("--json", arguments.json, "x4.json")
    check_file("--report", arguments.report, "x4.html")
    if not config.eval_sets:
        raise InputError(f"{arguments.config}: config key 'eval_sets' is empty: there is nothing to evaluate")
    name = f"-{setting.name}" if arguments.model else ""
    out = arguments.out or Path("results") / f"{Path(arguments.config).stem}{name}"
    if not is_first_process():
        evaluate(arguments, config, setting, out, laps)
        return
    with held_folder(out):
        for name in config.eval_sets:
            remove_leftovers(out / name)
        evaluate(arguments, config, setting, out, laps)


@dataclass
class Found:
    """What the sets gave, all of it in the first process."""

    results: list["SetResult"] = field(default_factory=list)
    inspections: dict[str, "Inspection"] = field(default_factory=dict)  # by set
    galleries: list["Gallery"] = field(default_factory=list)  # of each process, for the page
    images: list[Path] = field(default_factory=list)  # patterns of the SR files that were written


def evaluate(arguments: argparse.Namespace, config: "Config", setting: "Setting", out: Path, laps: Laps) -> None:
    """Open everything, super-resolve and score every set, print and write what was found."""
    from evaluation import report
    from evaluation.network import open_network, weights_file
    from evaluation.sets import open_sets
    from models.devices import device_name
    from models.memory import keep_freed_memory
    from training.processes import Process

    keep_freed_memory()
    laps.end("starting")
    process = Process.join(config)
    say = print if process.is_first else lambda text: None
    sets = open_sets(config, arguments.set, arguments.lr_only, say)
    weights = weights_file(config)
    facts = report.card_facts(weights) if arguments.model_card else {}
    network, backend = open_network(config, weights, process.device, setting, say)
    origin = " (shipped: pretrain is empty)" if setting.name == report.SSIU and not config.pretrain else ""
    where = device_name(process.device) if process.world == 1 else f"{process.world} x {device_name(process.device)}"
    how = ", ".join([f"{config.eval_precision} on {where}", f"backend {backend}", *setting.ways])
    say(f"weights: {weights or 'none'}{origin}; {how}")
    laps.end("opening")

    found = evaluate_sets(arguments, config, out, process, network, sets)
    laps.end("evaluating")

    if process.is_first:
        print(report.table(found.results, config.scale, setting))
        report.write_csv(out / "per_image.csv", found.results, setting)
        written = [out / "per_image.csv", *found.images]
        if arguments.json or arguments.report or arguments.model_card:
            written += write_files(arguments, config, setting, weights, where, facts, found, laps)
        print("\n".join(["", *(f"wrote {file}" for file in written)]))
        laps.end("reporting")
        if arguments.timings:
            print(f"\n{report.time_table(found.results, laps.seconds, process.world)}")
    process.leave()


def evaluate_sets(
    arguments: argparse.Namespace,
    config: "Config",
    out: Path,
    process: "Process",
    network: "Network",
    sets: list["BenchmarkSet"],
) -> Found:
    """Super-resolve and score every set, look at its images, and say what was seen of them."""
    from datas import InspectedSet, inspect
    from evaluation.evaluator import evaluate_set
    from evaluation.gallery import Gallery

    found, gallery = Found(), Gallery()
    for images in sets:
        inspected = InspectedSet(images)
        folder = out / images.name if arguments.save_images or config.save_image else None
        if folder is not None:
            found.images.append(folder / f"*_x{config.scale}.png")
        found.results.append(
            evaluate_set(
                network, inspected, images.name, config.scale, process.device,
                with_bicubic=True, image_folder=folder, share=process,
                observer=gallery.of(images.name) if arguments.report else None,
            )
        )  # fmt: skip
        seen = process.gather(inspected.seen)
        if process.is_first:
            found.inspections[images.name] = inspect(images, seen)
            print("\n".join(found.inspections[images.name].lines))
    if arguments.report:
        found.galleries = process.gather([gallery])
    return found


def write_files(
    arguments: argparse.Namespace,
    config: "Config",
    setting: "Setting",
    weights: Path | None,
    where: str,
    facts: dict,
    found: Found,
    laps: Laps,
) -> list[Path]:
    """The files of --json, --report and --model-card; those that were written."""
    from evaluation import report
    from evaluation.gallery import merged
    from evaluation.report_page import report_page
    from tools.profile_model import network_facts

    summary = report.as_json(found.results, config, weights, where, setting, network_facts(config))
    for name, inspection in found.inspections.items():
        summary["sets"][name] |= inspection.facts
    written = []
    if arguments.json:
        report.write_json(arguments.json, summary)
        written.append(arguments.json)
    if arguments.report:
        cells = report.table_cells(found.results, config.scale, setting)
        lines = {name: inspection.lines for name, inspection in found.inspections.items()}
        atomic_write(arguments.report, report_page(summary, cells, lines, merged(found.galleries), laps.seconds))
        written.append(arguments.report)
    if arguments.model_card:
        printed = report.table(found.results, config.scale, setting)
        written.append(report.write_model_card(facts, printed, summary))
    return written


def start() -> None:
    """Read the command line first: a wrong one, and --help, are answered before what takes seconds to import."""
    laps, arguments = Laps(), parse_arguments()
    from models import ModelError
    from training.processes import run_together

    run_together(lambda: main(arguments, laps), ModelError)


if __name__ == "__main__":
    start()
