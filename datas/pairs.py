"""Which LR file belongs to which HR file, and whether their sizes fit.

The checks return problems as lines of text that name the file, so that training can stop at the first and
`python -m datas.prepare --check` can list them all.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from datas import layout
from datas.images import list_images
from utils import InputError


def find_lr(hr_files: Sequence[Path], hr_dir, lr_dir, scale: int, extra_allowed: bool) -> tuple[list, list[str]]:
    """Look up the LR file of every HR file.

    Args:
        hr_files: the HR files, all in `hr_dir`.
        lr_dir: the folder with the LR files, `{stem}x{scale}` with any known suffix.
        extra_allowed: whether `lr_dir` may hold images that belong to no HR file (as when `hr_files` is a selection).

    Returns:
        pairs [(HR path, LR path), ...] in the order of `hr_files`, and the problems found.

    Raises:
        InputError: `lr_dir` is missing or has no image; the message says how to make it.
    """
    lr_files = {path.stem: path for path in list_images(lr_dir, prepare_advice(hr_dir, scale))}
    pairs, problems = [], []
    for hr_file in hr_files:
        lr_file = lr_files.pop(layout.lr_name(hr_file.stem, scale), None)
        if lr_file is None:
            problems.append(f"{hr_file}: has no LR image {layout.lr_name(hr_file.stem, scale)}.png in {lr_dir}")
        else:
            pairs.append((hr_file, lr_file))
    if not extra_allowed:
        problems += [f"{path}: has no HR image in {hr_dir}" for path in lr_files.values()]
    return pairs, problems


def prepare_advice(hr_dir, scale: int) -> str:
    """What to do about LR images that are missing or do not fit."""
    return f"make the LR images with `python -m datas.prepare --hr {hr_dir} --scales {scale}`"


def size_problems(pairs, hr_sizes: Iterable, lr_sizes: Iterable, scale: int) -> list[str]:
    """A line for every LR image that is not floor(H/s) x floor(W/s); sizes are (height, width) per pair."""
    problems = []
    for (hr_file, lr_file), (height, width), (lr_height, lr_width) in zip(pairs, hr_sizes, lr_sizes, strict=True):
        if (lr_height, lr_width) != (height // scale, width // scale):
            problems.append(
                f"{lr_file}: is {lr_width}x{lr_height} pixels, but {hr_file.name} ({width}x{height}) "
                f"at x{scale} gives {width // scale}x{height // scale}"
            )
    return problems


def patch_problems(pairs, lr_sizes: np.ndarray, lr_patch: int, scale: int) -> list[str]:
    """A line for every pair that is smaller than a training patch of `lr_patch` LR pixels."""
    return [
        f"{hr_file}: is smaller than a patch ({scale * width}x{scale * height} after cropping to the scale; "
        f"patch_size is {scale * lr_patch})"
        for (hr_file, _), (height, width) in zip(pairs, lr_sizes, strict=True)
        if min(height, width) < lr_patch
    ]


def stop_on(problems: list[str], advice: str) -> None:
    """Raise the first problem as an InputError that counts the others; nothing happens when there is none."""
    if problems:
        others = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{others}; {advice}")
