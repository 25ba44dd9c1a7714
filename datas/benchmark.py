"""Evaluation sets: pairs of whole LR and HR images, read one at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datas.images import list_images, read_rgb
from datas.layout import BENCHMARKS, benchmark_folder, checked_pairs, lr_folder
from datas.names import usable_path
from utils import InputError, did_you_mean, printable


@dataclass(frozen=True)
class Pair:
    """One evaluation image: lr (h, w, 3) uint8; hr (s h, s w, 3) uint8, or None when only LR images are read."""

    name: str
    lr: np.ndarray
    hr: np.ndarray | None


class BenchmarkSet:
    """The evaluation set `data_path/benchmark/NAME` at one scale, iterated as `Pair`s sorted by name.

    Constructing it reads headers only and checks that HR and LR files pair up and that their sizes fit. With
    `lr_only`, HR images need not exist and `Pair.hr` is None. `drop_alpha` as in `read_rgb`.

    Raises:
        InputError: the set or one of its images is missing or does not fit (constructor); an image is damaged
            (iteration).
    """

    def __init__(self, data_path, name: str, scale: int, lr_only: bool = False, drop_alpha: bool = False):
        self.name = name
        self.scale = scale
        self.drop_alpha = drop_alpha
        if not data_path:
            raise InputError("data_path: is empty; set it to the folder that holds `benchmark`")
        folder = usable_path(benchmark_folder(data_path, name))
        if not os.path.isdir(folder):
            advice = f"put the set's images into {folder / 'HR'}, or check data_path and eval_sets"
            problem = f"no such folder, so there is no evaluation set '{name}'"
            raise InputError(f"{folder}: {problem}; {advice}{_spelling_hint(folder)}")
        hr_dir, lr_dir = folder / "HR", lr_folder(folder / "HR", scale)
        self._files = _lr_files(lr_dir, scale) if lr_only else _paired_files(hr_dir, lr_dir, scale, drop_alpha)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def names(self) -> list[str]:
        """The image names in order, without the suffix and without the LR files' `x{scale}`."""
        return [name for name, _, _ in self._files]

    @property
    def hr_files(self) -> list[Path]:
        """The HR files in order; none with `lr_only`."""
        return [hr_file for _, _, hr_file in self._files if hr_file is not None]

    def __getitem__(self, index: int) -> Pair:
        name, lr_file, hr_file = self._files[index]
        lr_image = read_rgb(lr_file, self.drop_alpha)
        if hr_file is None:
            return Pair(name, lr_image, None)
        height, width = (self.scale * side for side in lr_image.shape[:2])
        return Pair(name, lr_image, read_rgb(hr_file, self.drop_alpha)[:height, :width])

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))


def open_benchmark_sets(
    data_path,
    names: Sequence[str],
    scale: int,
    lr_only: bool = False,
    named: bool = True,
    say: Callable[[str], object] = print,
    drop_alpha: bool = False,
) -> list[BenchmarkSet]:
    """The evaluation sets `names`, in their order.

    Args:
        named: whether the user asked for these very sets, so that each must be there. Otherwise a set whose folder is
            absent is skipped, with one line through `say`, as long as another one is there.
        drop_alpha: as in `read_rgb`.

    Raises:
        InputError: as `BenchmarkSet` does; if no set is there, for the first.
    """
    present = [name for name in names if os.path.isdir(usable_path(benchmark_folder(data_path, name)))]
    wanted = names if named or not present else present
    for name in names:
        if name not in wanted:
            folder = benchmark_folder(data_path, name)
            say(f"{folder}: no such folder; evaluation set '{name}' is skipped{_spelling_hint(folder)}")
    return [BenchmarkSet(data_path, name, scale, lr_only, drop_alpha) for name in wanted]


def _spelling_hint(folder: Path) -> str:
    """Which set may be meant by the folder of a set that is absent; empty if the set is a published one."""
    try:
        present = [printable(path.name) for path in folder.parent.iterdir() if path.is_dir()]
    except OSError:
        present = []
    return "" if folder.name in BENCHMARKS else did_you_mean(folder.name, [*BENCHMARKS, *present])


def _paired_files(hr_dir: Path, lr_dir: Path, scale: int, drop_alpha: bool) -> list[tuple[str, Path, Path | None]]:
    """(name, LR file, HR file) of every image."""
    pairs, _ = checked_pairs(list_images(hr_dir), hr_dir, lr_dir, scale, drop_alpha=drop_alpha)
    return [(hr_file.stem, lr_file, hr_file) for hr_file, lr_file in pairs]


def _lr_files(lr_dir: Path, scale: int) -> list[tuple[str, Path, Path | None]]:
    """(name, LR file, None) of every image."""
    return [(path.stem.removesuffix(f"x{scale}"), path, None) for path in list_images(lr_dir)]
