"""Score SR images of any method, by any program, under the rules of test.py.

    python -m tools.score --scale 4 --sr results/rcan/Set5 --hr data/benchmark/Set5/HR

An SR image belongs to the HR image whose name its own name starts with (the longest such name), so NAME.png,
NAME_x4.png and NAME_SR.png will do. HR is cropped at the top left to the size of SR.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from datas import list_images, read_rgb
from evaluation.evaluator import PROTOCOLS
from evaluation.metrics import Scores, mean_scores
from utils import InputError, run_command


def find_hr(sr_file: Path, hr_files: list[Path]) -> Path:
    """The HR image an SR image belongs to. Raises InputError if there is none."""
    fitting = [path for path in hr_files if sr_file.stem.startswith(path.stem)]
    if not fitting:
        raise InputError(f"{sr_file}: no HR image has a name that it starts with; check --hr")
    return max(fitting, key=lambda path: len(path.stem))


def score_file(sr_file: Path, hr_file: Path, scale: int) -> dict[str, Scores]:
    """Scores of one SR image by protocol. Raises InputError if it is larger than HR or too small."""
    sr, hr = read_rgb(sr_file), read_rgb(hr_file)
    height, width = sr.shape[:2]
    if any(not 0 <= full - cropped < scale for full, cropped in zip(hr.shape[:2], (height, width), strict=True)):
        size = f"{hr.shape[1]}x{hr.shape[0]}"
        raise InputError(f"{sr_file}: {width}x{height} pixels do not fit {hr_file} of {size} at x{scale}")
    sr_tensor, hr_tensor = (torch.from_numpy(image.copy()).permute(2, 0, 1) for image in (sr, hr[:height, :width]))
    try:
        return {protocol: score([sr_tensor], hr_tensor, scale)[0] for protocol, score in PROTOCOLS.items()}
    except ValueError as error:
        raise InputError(f"{sr_file}: cannot be scored: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sr", type=Path, required=True, help="folder of SR images")
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR images")
    parser.add_argument("--scale", type=int, required=True, help="the factor, and the border that is left out")
    arguments = parser.parse_args()
    hr_files, found = list_images(arguments.hr), {}
    pairs = {sr_file: find_hr(sr_file, hr_files) for sr_file in list_images(arguments.sr)}
    for sr_file, hr_file in pairs.items():
        found[sr_file.stem] = score_file(sr_file, hr_file, arguments.scale)
    without = len(set(hr_files) - set(pairs.values()))
    if without:
        print(f"{without} of {len(hr_files)} HR images have no SR image: they are not in the mean")
    found[f"mean of {len(found)}"] = {p: mean_scores([scores[p] for scores in found.values()]) for p in PROTOCOLS}
    print("| image | standard | official |\n| --- | --- | --- |")
    for name, scores in found.items():
        print(f"| {name} | " + " | ".join(f"{s.psnr:.4f} / {s.ssim:.6f}" for s in scores.values()) + " |")


if __name__ == "__main__":
    run_command(main)
