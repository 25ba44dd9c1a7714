"""Of which scale SR images are: by their LR images, or, without these, by what they shrink to."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datas import SCALES, downscale
from datas.layout import lr_name
from utils import InputError

LOOKED_AT = 5  # images by which a scale is guessed
CLOSE = 50.0  # dB: networks shrink back to LR as closely as that and more at their own scale
PEAK = 3.0  # dB by which it is closer than at the scale above; anything smooth is closer at every larger scale


def find_lr(hr_file: Path, lr_files: Sequence[Path], folder: Path) -> Path:
    """The LR image of an HR image: of its name, or of its name with x2, x3 or x4 behind. Raises InputError."""
    names = {hr_file.stem, *(lr_name(hr_file.stem, scale) for scale in SCALES)}
    fitting = [path for path in lr_files if path.stem in names]
    if len(fitting) == 1:
        return fitting[0]
    problem = "several LR images" if fitting else "no LR image"
    raise InputError(f"--lr {folder}: {problem} of {hr_file.name}; name the folder of one scale, such as X4")


def check_scale(sr_file: Path, sr: np.ndarray, lr_file: Path, lr: np.ndarray, scale: int) -> None:
    """Raise InputError unless SR (H, W, 3) is `scale` times as large as its LR image."""
    if sr.shape[:2] != (scale * lr.shape[0], scale * lr.shape[1]):
        sizes = f"{sr.shape[1]}x{sr.shape[0]} pixels are not {scale} times the {lr.shape[1]}x{lr.shape[0]} of {lr_file}"
        ratio = sr.shape[0] / lr.shape[0]
        advice = f"; score with --scale {round(ratio)}" if sr.shape[1] == ratio * lr.shape[1] and ratio % 1 == 0 else ""
        raise InputError(f"{sr_file}: {sizes}{advice}")


def closeness(sr: np.ndarray, hr: np.ndarray) -> dict[int, float]:
    """PSNR in dB of the shrunk SR image with the shrunk HR image of the same size, at x2 to x5."""
    found = {}
    for scale in (*SCALES, max(SCALES) + 1):
        error = np.square(downscale(sr, scale).astype(np.float64) - downscale(hr, scale)).mean()
        found[scale] = 10 * math.log10(255**2 / error) if error else 99.0
    return found


def likely_scale(found: Sequence[dict[int, float]]) -> int | None:
    """The scale of SR images by their `closeness`; None where it cannot be told, as for bicubic and sharpened images.

    A network that was trained for a scale gives back its LR image at that scale, and not at smaller ones.
    """
    means = {scale: sum(one[scale] for one in found) / len(found) for scale in found[0]}
    return next((s for s in SCALES if means[s] >= CLOSE and means[s] >= means[s + 1] + PEAK), None)
