"""Where images lie: the published folder and file names, the datasets, and which LR image belongs to which HR image.

    data_path/DF2K/DF2K_train_HR/0001.png        data_path/DF2K/DF2K_train_LR_bicubic/X2/0001x2.png
    data_path/DIV2K/DIV2K_train_HR/0001.png      data_path/DIV2K/DIV2K_train_LR_bicubic/X2/0001x2.png
    data_path/benchmark/Set5/HR/baby.png         data_path/benchmark/Set5/LR_bicubic/X2/babyx2.png

HR and LR files may have any known suffix, and not the same one. The checks of pairs return problems as lines of text
that name the file: a run stops at the first, and `python -m datas.prepare --check` lists them all.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datas.images import image_sizes, list_images
from datas.names import usable_path
from utils import InputError, did_you_mean

SCALES = (2, 3, 4)


@dataclass(frozen=True)
class TrainingDataset:
    """A training dataset: its folder name and the image numbers it consists of (None: every image of the folder)."""

    folder: str
    numbers: tuple[range, ...] | None

    def hr_folder(self, data_path) -> Path:
        return Path(data_path) / self.folder / f"{self.folder}_train_HR"

    def stems(self) -> list[str] | None:
        """The file stems it must have ('0001', ...), or None when every image of the folder belongs to it."""
        return None if self.numbers is None else [f"{number:04d}" for part in self.numbers for number in part]


# A new training dataset is one line here: its name in `training_dataset`, its folder, its images.
TRAINING_DATASETS = {
    "div2k": TrainingDataset("DIV2K", (range(1, 801),)),
    "df2k": TrainingDataset("DF2K", (range(1, 801), range(901, 3551))),  # DIV2K train and Flickr2K: 3,450 images
    "sample": TrainingDataset("Sample", None),
}
# DIV2K's own split: these are its validation images and never belong into training.
VALIDATION_NUMBERS = range(801, 901)
# The published evaluation sets and their numbers of images. Any other folder of data_path/benchmark is a set too.
BENCHMARKS = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109}


def training_dataset(name: str) -> TrainingDataset:
    """The training dataset called `name`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in TRAINING_DATASETS:
        known = ", ".join(f"'{option}'" for option in TRAINING_DATASETS)
        hint = did_you_mean(name, TRAINING_DATASETS)
        raise InputError(f"training_dataset: '{name}' is not known; use one of {known}, or a `data` list{hint}")
    return TRAINING_DATASETS[name]


def benchmark_folder(data_path, name: str) -> Path:
    """The folder of an evaluation set; its HR images lie in `HR` inside."""
    return Path(data_path) / "benchmark" / name


def lr_root(hr_dir) -> Path:
    """The folder that holds X2, X3, X4 for an HR folder.

    `X_train_HR` -> `X_train_LR_bicubic`, `HR` -> `LR_bicubic`, any other `NAME` -> `NAME_LR_bicubic` beside it.

    Raises:
        InputError: `usable_path` does not take its name.
    """
    hr_dir = usable_path(hr_dir)
    true_dir = Path(os.path.realpath(hr_dir))  # Path.resolve() fails where links run in a circle
    name = true_dir.name
    parent = true_dir.parent if hr_dir.name in ("", "..") else hr_dir.parent
    if name == "HR" or name.endswith("_HR"):
        return parent / f"{name.removesuffix('HR')}LR_bicubic"
    return parent / f"{name}_LR_bicubic"


def lr_folder(hr_dir, scale: int) -> Path:
    """The LR folder of an HR folder at `scale`: `lr_root(hr_dir)/X{scale}`."""
    return lr_root(hr_dir) / f"X{scale}"


def lr_name(stem: str, scale: int) -> str:
    """The stem of the LR file of an HR file: 'baby' at scale 2 -> 'babyx2'."""
    return f"{stem}x{scale}"


def checked_pairs(
    hr_files: Sequence[Path],
    hr_dir: Path,
    lr_dir: Path,
    scale: int,
    extra_allowed: bool = False,
    drop_alpha: bool = False,
) -> tuple[list[tuple[Path, Path]], np.ndarray]:
    """The (HR, LR) files that belong together, after a look at every file's header.

    Args:
        hr_files, hr_dir, lr_dir, extra_allowed: as in `find_lr`.
        drop_alpha: as in `read_rgb`.

    Returns:
        pairs in the order of `hr_files`, and their HR sizes (N, 2) int64, height and width.

    Raises:
        InputError: images are unpaired, in a wrong format, or of sizes that do not fit; names the first of them.
    """
    advice = prepare_advice(hr_dir, scale)
    pairs, problems = find_lr(hr_files, hr_dir, lr_dir, scale, extra_allowed)
    stop_on(problems, advice)
    hr_sizes = image_sizes([hr_file for hr_file, _ in pairs], drop_alpha)
    lr_sizes = image_sizes([lr_file for _, lr_file in pairs], drop_alpha)
    stop_on(size_problems(pairs, hr_sizes, lr_sizes, scale), advice)
    return pairs, hr_sizes


def find_lr(
    hr_files: Sequence[Path], hr_dir: Path, lr_dir: Path, scale: int, extra_allowed: bool
) -> tuple[list[tuple[Path, Path]], list[str]]:
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
        lr_file = lr_files.pop(lr_name(hr_file.stem, scale), None)
        if lr_file is None:
            problems.append(f"{hr_file}: has no LR image {lr_name(hr_file.stem, scale)}.png in {lr_dir}")
        else:
            pairs.append((hr_file, lr_file))
    if not extra_allowed:
        problems += [f"{path}: has no HR image in {hr_dir}" for path in lr_files.values()]
    return pairs, problems


def size_problems(pairs: Sequence[tuple[Path, Path]], hr_sizes: Iterable, lr_sizes: Iterable, scale: int) -> list[str]:
    """A line for every LR image that is not floor(H/s) x floor(W/s); sizes are (height, width) per pair."""
    problems = []
    for (hr_file, lr_file), (height, width), (lr_height, lr_width) in zip(pairs, hr_sizes, lr_sizes, strict=True):
        if (lr_height, lr_width) != (height // scale, width // scale):
            problems.append(
                f"{lr_file}: is {lr_width}x{lr_height} pixels, but {hr_file.name} ({width}x{height}) "
                f"at x{scale} gives {width // scale}x{height // scale}"
            )
    return problems


def prepare_advice(hr_dir: Path, scale: int) -> str:
    """What to do about LR images that are missing or do not fit."""
    return f"make the LR images with `python -m datas.prepare --hr {hr_dir} --scales {scale}`"


def stop_on(problems: Sequence[str], advice: str) -> None:
    """Raise the first problem as an InputError that counts the others; nothing happens when there is none."""
    if problems:
        others = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{others}; {advice}")
