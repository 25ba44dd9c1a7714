"""A picture of what enlarging does, beside plain bicubic interpolation: LR | bicubic | SSIU | HR, one row a crop.

    python -m tools.crops --out docs/pictures.png

The photographs are those inside scikit-image that datas/sample.py takes for evaluation. In the first rows LR was made
of a photograph, which is HR; in the others the photograph itself is enlarged, so there is no HR. The shipped x4 weights
enlarge whole images; crops are cut afterwards.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from datas import open_benchmark_sets, write_png
from datas.sample import make_sample
from evaluation.pictures import side_by_side, titled
from models import ModelError, Upscaler, load
from utils import InputError, run_command

SCALE = 4
WIDTH, HEIGHT = 48, 36  # of a crop, in LR pixels
BAR = 22  # rows above each crop


@dataclass(frozen=True)
class Crop:
    """A part of a photograph of the sample; left and top in LR pixels. `reduced`: LR was made of the photograph."""

    photograph: str
    left: int
    top: int
    reduced: bool


CROPS = (
    Crop("cat", 14, 20, True),
    Crop("coffee", 30, 42, True),
    Crop("coffee", 203, 205, False),
    Crop("rocket", 186, 180, False),
)


def panel(crop: Crop, low: np.ndarray, large: np.ndarray, high: np.ndarray | None) -> np.ndarray:
    """A crop's LR | bicubic | SSIU | HR under its caption; white in place of an HR that there is not.

    Args:
        low: uint8 (H, W, 3); `large` is the network's, `high` the photograph's (4 H, 4 W, 3).
    """
    if crop.top + HEIGHT > low.shape[0] or crop.left + WIDTH > low.shape[1]:
        raise InputError(f"{crop}: reaches beyond the photograph, {low.shape[1]}x{low.shape[0]}")
    seen = np.s_[crop.top : crop.top + HEIGHT, crop.left : crop.left + WIDTH]
    window = np.s_[SCALE * crop.top :, SCALE * crop.left :]
    sr = large[window][: SCALE * HEIGHT, : SCALE * WIDTH]
    hr = np.full_like(sr, 255) if high is None else high[window][: SCALE * HEIGHT, : SCALE * WIDTH]
    whence = "LR made of the photograph" if crop.reduced else "the photograph itself is LR"
    body = side_by_side(low[seen], sr, hr, SCALE)
    return np.concatenate([caption(f"{crop.photograph}: {whence}", body.shape[1]), body])


def caption(text: str, width: int) -> np.ndarray:
    bar = np.full((BAR, width, 3), 255, np.uint8)
    cv2.putText(bar, text, (8, BAR - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return bar


def panels(upscaler: Upscaler, crops: tuple[Crop, ...]) -> np.ndarray:
    """All crops, one under the other, under titles."""
    with tempfile.TemporaryDirectory() as folder:
        make_sample(folder)
        (sample,) = open_benchmark_sets(folder, ["Sample"], SCALE)
        pairs = {pair.name: pair for pair in sample}
    rows = []
    for crop in crops:
        pair = pairs[crop.photograph]
        assert pair.hr is not None  # sets are read with their HR images here
        low, high = (pair.lr, pair.hr) if crop.reduced else (pair.hr, None)
        rows.append(panel(crop, low, upscaler(low), high))
    return titled(np.concatenate(rows), "SSIU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    arguments = parser.parse_args()
    if arguments.out.suffix != ".png":
        raise InputError(f"--out {arguments.out}: name a .png file")
    write_png(arguments.out, panels(load(f"x{SCALE}"), CROPS))
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    run_command(main, ModelError)
