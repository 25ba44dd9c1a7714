"""A picture of super-resolved images beside their sources: LR | bicubic | SR | HR, one row an image.

    python -m tools.compare --config configs/SSUFSR_light_x4.yml --set data_path=data/sample \\
        --set 'eval_sets=[Sample]' --sr results/demo --out comparison.png

The SR images are those that `test.py --save-images` wrote; the crop shown is the middle of each image.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from config import load_config
from datas import read_rgb, write_png
from evaluation.pictures import side_by_side
from evaluation.sets import open_sets
from utils import InputError, run_command

TITLES = ("LR", "bicubic", "SSIU", "HR")


def titled(panel: np.ndarray) -> np.ndarray:
    """The panel under a bar with the four titles."""
    bar = np.full((28, panel.shape[1], 3), 255, np.uint8)
    for place, title in enumerate(TITLES):
        origin = (place * panel.shape[1] // len(TITLES) + 8, 20)
        cv2.putText(bar, title, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, panel])


def row(lr: np.ndarray, sr: np.ndarray, hr: np.ndarray, scale: int, side: int) -> np.ndarray:
    """One image's LR | bicubic | SR | HR, cropped to the middle `side` pixels of LR (less where it is smaller)."""
    top, left = (max(0, (length - side) // 2) for length in lr.shape[:2])
    lr = lr[top : top + side, left : left + side]
    height, width = (scale * length for length in lr.shape[:2])
    window = np.s_[scale * top : scale * top + height, scale * left : scale * left + width]
    return side_by_side(lr, sr[window], hr[window], scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument("--sr", type=Path, required=True, help="folder with one folder of SR images per set")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--side", type=int, default=180, help="side of the crops in HR pixels (default %(default)s)")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    if arguments.side < config.scale or arguments.out.suffix != ".png" or not config.eval_sets:
        raise InputError(f"--side must be {config.scale} at least, --out a .png file, and eval_sets not empty")
    rows = []
    for images in open_sets(config, arguments.set):
        for pair in images:
            sr_file = arguments.sr / images.name / f"{pair.name}_x{config.scale}.png"
            sr, hr = read_rgb(sr_file), pair.hr
            assert hr is not None  # sets are read with their HR images here
            if sr.shape != hr.shape:
                raise InputError(f"{sr_file}: its size {sr.shape[:2]} is not that of the HR image, {hr.shape[:2]}")
            rows.append(row(pair.lr, sr, hr, config.scale, arguments.side // config.scale))
    width = max(panel.shape[1] for panel in rows)
    rows = [np.pad(panel, ((0, 0), (0, width - panel.shape[1]), (0, 0)), constant_values=255) for panel in rows]
    write_png(arguments.out, titled(np.concatenate(rows)))
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    run_command(main)
