"""Evaluation sets: pairs of whole LR and HR images, read one at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datas import layout
from datas.images import image_sizes, list_images, read_rgb
from datas.pairs import find_lr, prepare_advice, size_problems, stop_on
from utils import InputError, did_you_mean


@dataclass(frozen=True)
class Pair:
    """One evaluation image: lr (h, w, 3) uint8; hr (s h, s w, 3) uint8, or None when only LR images are read."""

    name: str
    lr: np.ndarray
    hr: np.ndarray | None


class BenchmarkSet:
    """The evaluation set `data_path/benchmark/NAME` at one scale, iterated as `Pair`s sorted by name.

    Constructing it reads headers only and checks that HR and LR files pair up and that their sizes fit. With
    `lr_only`, HR images need not exist and `Pair.hr` is None.

    Raises:
        InputError: the set or one of its images is missing or does not fit (constructor); an image is damaged
            (iteration).
    """

    def __init__(self, data_path, name: str, scale: int, lr_only: bool = False):
        self.name = name
        self.scale = scale
        if not data_path:
            raise InputError("data_path: is empty; set it to the folder that holds `benchmark`")
        folder = _existing_folder(Path(data_path), name)
        hr_dir, lr_dir = folder / "HR", layout.lr_folder(folder / "HR", scale)
        self._files = _lr_files(lr_dir, scale) if lr_only else _checked_pairs(hr_dir, lr_dir, scale)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def names(self) -> list[str]:
        """The image names in order, without the suffix and without the LR files' `x{scale}`."""
        return [name for name, _, _ in self._files]

    def __getitem__(self, index: int) -> Pair:
        name, lr_file, hr_file = self._files[index]
        lr_image = read_rgb(lr_file)
        if hr_file is None:
            return Pair(name, lr_image, None)
        height, width = lr_image.shape[:2]
        return Pair(name, lr_image, read_rgb(hr_file)[: self.scale * height, : self.scale * width])

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))


def _existing_folder(data_path: Path, name: str) -> Path:
    folder = layout.benchmark_folder(data_path, name)
    if not folder.is_dir():
        present = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        hint = "" if name in layout.BENCHMARKS else did_you_mean(name, [*layout.BENCHMARKS, *present])
        advice = f"put the set's images into {folder / 'HR'}, or check data_path and eval_sets"
        raise InputError(f"{folder}: no such folder, so there is no evaluation set '{name}'; {advice}{hint}")
    return folder


def _checked_pairs(hr_dir: Path, lr_dir: Path, scale: int) -> list[tuple[str, Path, Path]]:
    pairs, problems = find_lr(list_images(hr_dir), hr_dir, lr_dir, scale, extra_allowed=False)
    stop_on(problems, prepare_advice(hr_dir, scale))
    hr_sizes, lr_sizes = (image_sizes(files) for files in zip(*pairs, strict=True))
    stop_on(size_problems(pairs, hr_sizes, lr_sizes, scale), prepare_advice(hr_dir, scale))
    return [(hr_file.stem, lr_file, hr_file) for hr_file, lr_file in pairs]


def _lr_files(lr_dir: Path, scale: int) -> list[tuple[str, Path, None]]:
    return [(path.stem.removesuffix(f"x{scale}"), path, None) for path in list_images(lr_dir)]
