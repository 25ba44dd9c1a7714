"""Evaluate SSIU on benchmark sets.

    python test.py --config ./configs/SSUFSR_light_x4.yml --set data_path=./data
    python test.py --config ./configs/SSUFSR_light_x2.yml --set pretrain=pretrain_model/model_x2_290.pt --json x2.json
    python test.py --config ./configs/SSUFSR_light_x4.yml --set 'eval_sets=[Set5]' --save-images --self-ensemble
    python test.py --config ./configs/SSUFSR_light_x4.yml --set 'eval_sets=[MyPhotos]' --lr-only

Weights are those of the config key `pretrain`; where it is empty, those that come with the project for the scale.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from config import load_config, read_yaml
from datas import BenchmarkSet
from evaluation.evaluator import evaluate_set, self_ensemble
from evaluation.report import as_json, table, write_csv, write_json, write_model_card
from models import ModelError, create_model, inference
from models.devices import device_name, pick_device
from models.weights import SHIPPED, load_weights, shipped_weights
from utils import InputError, make_folder, run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, see configs/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument("--out", type=Path, help="folder of per_image.csv and SR images (default results/CONFIG)")
    parser.add_argument("--json", type=Path, help="also write means, images, config, versions and device to this file")
    parser.add_argument("--save-images", action="store_true", help="write SR images, one folder per set")
    parser.add_argument("--self-ensemble", action="store_true", help="average over 8 flips and transpositions")
    parser.add_argument("--lr-only", action="store_true", help="sets without HR: super-resolve, score nothing")
    parser.add_argument("--model-card", action="store_true", help="write the weights' model card, WEIGHTS.md")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.set)
    out = make_folder(arguments.out or Path("results") / Path(arguments.config).stem)
    if arguments.json:
        make_folder(arguments.json.parent)
    if not config.eval_sets:
        raise InputError(f"{arguments.config}: config key 'eval_sets' is empty: there is nothing to evaluate")
    sets = [BenchmarkSet(config.data_path, name, config.scale, arguments.lr_only) for name in config.eval_sets]
    weights = Path(config.pretrain) if config.pretrain else shipped_weights(SHIPPED, config.scale)
    facts = read_yaml(weights.with_suffix(".yml")) if arguments.model_card else {}
    device = pick_device(config.gpu_ids)

    model = create_model(config)
    load_weights(model, weights)
    network, backend = inference(model.to(device).eval(), device, config.backend, config.eval_precision)
    origin = "" if config.pretrain else " (shipped: pretrain is empty)"
    print(f"weights: {weights}{origin}; {config.eval_precision} on {device_name(device)}, backend {backend}")
    network = self_ensemble(network) if arguments.self_ensemble else network

    results = []
    for images in sets:
        folder = out / images.name if arguments.save_images or config.save_image else None
        bar = tqdm(images, desc=images.name, leave=False)
        results.append(evaluate_set(network, bar, images.name, config.scale, device, True, folder))

    print(table(results, config.scale))
    write_csv(out / "per_image.csv", results)
    summary = as_json(results, config, weights, device_name(device), arguments.self_ensemble)
    if arguments.json:
        write_json(arguments.json, summary)
    if arguments.model_card:
        print(f"wrote {write_model_card(weights, facts, table(results, config.scale), summary)}")


if __name__ == "__main__":
    run_command(main, ModelError)
