"""What each precision costs in dB: every set, every precision that can run here, against the plain path in float32.

    python -m tools.precision_cost --config configs/SSUFSR_light_x4.yml --set data_path=./data --set 'eval_sets=[Set5]'

The weights are those that test.py would take. PSNR is of the `standard` protocol; a difference is to the row of the
same set in float32 on the plain path.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from config import load_config
from evaluation.evaluator import evaluate_set
from evaluation.network import open_model, weights_file
from evaluation.sets import open_sets
from models import PRECISIONS, ModelError, inference
from models.devices import device_name, pick_device
from utils import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    sets = open_sets(config, arguments.set)
    device = pick_device(config.gpu_ids)
    model = open_model(config, weights_file(config), device)

    networks, left_out = {}, []
    for backend in ("plain", "triton" if device.type == "cuda" else "cpu"):
        for precision in PRECISIONS:
            try:
                networks[f"{backend} {precision}"] = inference(model, device, backend, precision)[0]
            except ModelError as error:
                left_out.append(f"{backend} {precision}: {error}")
    print(f"x{config.scale} on {device_name(device)}\n")
    print("| set | path | PSNR | against plain float32 |\n| --- | --- | --- | --- |")
    for images in sets:
        faithful = None
        for name, network in networks.items():
            psnr = evaluate_set(network, images, images.name, config.scale, device).mean("standard").psnr
            faithful = psnr if faithful is None else faithful
            print(f"| {images.name} | {name} | {psnr:.4f} | {psnr - faithful:+.4f} |", flush=True)
    print("\n" + "\n".join(f"left out: {line}" for line in left_out))


if __name__ == "__main__":
    run_command(main, ModelError)
