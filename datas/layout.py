"""Where images lie: the folder and file names of the published layout, and what each training dataset consists of.

    data_path/DF2K/DF2K_train_HR/0001.png        data_path/DF2K/DF2K_train_LR_bicubic/X2/0001x2.png
    data_path/DIV2K/DIV2K_train_HR/0001.png      data_path/DIV2K/DIV2K_train_LR_bicubic/X2/0001x2.png
    data_path/benchmark/Set5/HR/baby.png         data_path/benchmark/Set5/LR_bicubic/X2/babyx2.png

HR and LR files may have any known suffix, and not the same one.
"""

from dataclasses import dataclass
from pathlib import Path

from utils import InputError, did_you_mean

BENCHMARKS = ("Set5", "Set14", "B100", "Urban100", "Manga109")
SCALES = (2, 3, 4)
# DIV2K's own split: these are its validation images and never belong into training.
VALIDATION_NUMBERS = range(801, 901)


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


TRAINING_DATASETS = {
    "div2k": TrainingDataset("DIV2K", (range(1, 801),)),
    "df2k": TrainingDataset("DF2K", (range(1, 801), range(901, 3551))),  # DIV2K train and Flickr2K: 3,450 images
    "sample": TrainingDataset("Sample", None),
}


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


def hr_folder(data_path, dataset: str) -> Path:
    """The HR folder of a training dataset ('div2k', 'df2k', 'sample')."""
    return training_dataset(dataset).hr_folder(data_path)


def benchmark_folder(data_path, name: str) -> Path:
    """The folder of an evaluation set; its HR images lie in `HR` inside."""
    return Path(data_path) / "benchmark" / name


def lr_root(hr_dir) -> Path:
    """The folder that holds X2, X3, X4 for an HR folder.

    `X_train_HR` -> `X_train_LR_bicubic`, `HR` -> `LR_bicubic`, any other `NAME` -> `NAME_LR_bicubic` beside it.
    """
    hr_dir = Path(hr_dir)
    name = hr_dir.resolve().name
    if name == "HR" or name.endswith("_HR"):
        return hr_dir.with_name(f"{name.removesuffix('HR')}LR_bicubic")
    return hr_dir.with_name(f"{name}_LR_bicubic")


def lr_folder(hr_dir, scale: int) -> Path:
    """The LR folder of an HR folder at `scale`: `lr_root(hr_dir)/X{scale}`."""
    return lr_root(hr_dir) / f"X{scale}"


def lr_name(stem: str, scale: int) -> str:
    """The stem of the LR file of an HR file: 'baby' at scale 2 -> 'babyx2'."""
    return f"{stem}x{scale}"
