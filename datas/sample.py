"""A small data folder made of the photographs inside scikit-image, to try training and testing without downloads.

    python -m datas.sample --out ./data/sample
    python train.py ... with data_path ./data/sample, training_dataset sample, eval_sets [Sample]

Training images: Sample/Sample_train_HR; evaluation images: benchmark/Sample/HR; the subjects differ. LR images for
x2, x3 and x4 are made beside them. Where each photograph comes from is written in the docstrings of `skimage.data`:
in the public domain, CC0 or without known restrictions, but for the motorcycle (Middlebury 2014 stereo benchmark).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data

from datas.images import read_rgb, write_png
from datas.layout import SCALES, TRAINING_DATASETS, benchmark_folder
from datas.prepare import make_lr
from utils import InputError, run_command

Part = tuple[int, int, int, int]  # top, left, height and width in pixels

# Name -> (file in skimage/data, the part that is used, or None for all of it).
TRAIN: dict[str, tuple[str, Part | None]] = {
    "astronaut": ("astronaut.png", None),
    "hubble": ("hubble_deep_field.jpg", None),
    "immunohistochemistry": ("ihc.png", None),
    "motorcycle_left": ("motorcycle_left.png", None),
    "motorcycle_right": ("motorcycle_right.png", None),
    "retina": ("retina.jpg", (355, 205, 700, 1000)),
}
TEST: dict[str, tuple[str, Part | None]] = {
    "cat": ("chelsea.png", (0, 60, 300, 360)),
    "coffee": ("coffee.png", (40, 120, 320, 384)),
    "rocket": ("rocket.jpg", (0, 240, 384, 288)),
}


def make_sample(data_path, jobs: int = 2) -> int:
    """Write the sample images and their LR versions under `data_path`; what is in order already is left alone.

    Returns:
        How many files were written.

    Raises:
        InputError: scikit-image lacks a photograph, or `data_path` cannot be written to.
    """
    folders = {
        TRAINING_DATASETS["sample"].hr_folder(data_path): TRAIN,
        benchmark_folder(data_path, "Sample") / "HR": TEST,
    }
    written = 0
    for folder, photographs in folders.items():
        for name, (file, part) in photographs.items():
            written += _write_if_different(folder / f"{name}.png", _photograph(file, part))
        written += make_lr(folder, SCALES, jobs=jobs)
    return written


def _photograph(file: str, part: Part | None) -> np.ndarray:
    path = Path(skimage.data.__file__).parent / file
    if not path.exists():
        raise InputError(f"{path}: this release of scikit-image lacks it; install scikit-image>=0.24,<0.27")
    image = read_rgb(path)
    if part is None:
        return image
    top, left, height, width = part
    return image[top : top + height, left : left + width]


def _write_if_different(path: Path, image: np.ndarray) -> bool:
    try:
        if np.array_equal(read_rgb(path), image):
            return False
    except InputError:
        pass  # missing or damaged: it is written
    write_png(path, image)
    return True


def main(command_line: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m datas.sample", description="Make a small data folder to try out.")
    parser.add_argument("--out", required=True, metavar="DATA_PATH", help="data folder to write, such as ./data/sample")
    arguments = parser.parse_args(command_line)
    print(f"{arguments.out}: {make_sample(arguments.out)} files written")
    return 0


if __name__ == "__main__":
    run_command(main)
