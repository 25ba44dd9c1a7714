"""Training batches: pairs of LR and HR crops from packed images, addressed by the global iteration.

    train_set = open_train_set("data", "df2k", None, scale=4, patch_size=256, batch_size=40, ...)
    loader = DataLoader(train_set.shard(rank, world), batch_size=None, sampler=range(start, stop), num_workers=8)

Batch t is a pure function of t, so a resumed run, another number of workers or of processes sees the same samples.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datas.sampling import EpochPlan, Source, epoch_plan, orient
from datas.sources import checked_pairs, training_folders
from datas.store import Pack, pack
from utils import InputError


@dataclass(frozen=True)
class TrainSource:
    """Packed HR and LR images of one folder, pair i at index i of both; `weight` is its share of the crops."""

    path: Path
    hr: Pack
    lr: Pack
    weight: float


class TrainSet:
    """Batches of crops: `train_set[t]` is batch t, counted over all epochs from 0.

    Attributes:
        num_images: training images in all sources.
        rows: first row of every batch that this shard yields, and the one after its last.
        iterations_per_epoch: full batches in an epoch of `data_repeat` times `num_images` samples.
    """

    def __init__(
        self,
        sources: Sequence[TrainSource],
        scale: int,
        patch_size: int,
        batch_size: int,
        data_repeat: int,
        data_augment: bool,
        seed: int,
    ):
        self.sources = tuple(sources)
        self.scale = scale
        self.lr_patch = patch_size // scale
        self.batch_size = batch_size
        self.data_repeat = data_repeat
        self.data_augment = data_augment
        self.seed = seed
        self.num_images = sum(len(source.lr) for source in sources)
        self.iterations_per_epoch = data_repeat * self.num_images // batch_size
        self.rows = (0, batch_size)
        self._first = np.cumsum([0] + [len(source.lr) for source in sources])  # global index of each source's image 0
        self._planned = (-1, None)
        if self.iterations_per_epoch < 1:
            raise InputError(
                f"batch_size: {batch_size} is more than an epoch's {data_repeat * self.num_images} samples "
                f"({self.num_images} images times data_repeat {data_repeat}); lower it or raise data_repeat"
            )

    def __getitem__(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """LR (B, p, p, 3) and HR (B, s p, s p, 3) uint8 crops of batch `iteration` (this shard's rows of it)."""
        plan = self._batch_plan(iteration)
        side, scale = self.lr_patch, self.scale
        lr_batch = np.empty((len(plan), side, side, 3), np.uint8)
        hr_batch = np.empty((len(plan), scale * side, scale * side, 3), np.uint8)
        for row, (image, top, left, hflip, vflip, transpose) in enumerate(plan):
            source, index = self._locate(image)
            lr_crop = source.lr.crop(index, top, left, side, side)
            hr_crop = source.hr.crop(index, scale * top, scale * left, scale * side, scale * side)
            orient(lr_crop, hflip, vflip, transpose, out=lr_batch[row])
            orient(hr_crop, hflip, vflip, transpose, out=hr_batch[row])
        return torch.from_numpy(lr_batch), torch.from_numpy(hr_batch)

    def shard(self, rank: int, world: int) -> "TrainSet":
        """A view that yields rows [rank B / world, (rank + 1) B / world) of every batch.

        Raises:
            InputError: the batch cannot be divided among `world` processes.
        """
        if self.batch_size % world:
            raise InputError(
                f"batch_size: {self.batch_size} cannot be divided among {world} processes; use a multiple of {world}"
            )
        part = self.batch_size // world
        view = object.__new__(TrainSet)
        view.__dict__.update(self.__dict__, rows=(rank * part, (rank + 1) * part))
        return view

    def names(self, iteration: int) -> list[str]:
        """The HR file name of each sample of batch `iteration` (this shard's rows of it)."""
        located = (self._locate(image) for image in self._batch_plan(iteration).image.tolist())
        return [source.hr.names[index] for source, index in located]

    def plan(self, epoch: int) -> EpochPlan:
        """The samples of a whole epoch; batch b of the epoch consists of samples b B .. (b + 1) B - 1."""
        if self._planned[0] != epoch:
            sources = [Source(source.lr.heights, source.lr.widths, source.weight) for source in self.sources]
            plan = epoch_plan(self.seed, epoch, sources, self.data_repeat, self.lr_patch, self.data_augment)
            self._planned = (epoch, plan)
        return self._planned[1]

    def fingerprint(self) -> str:
        """A digest of what the samples are a function of besides the config: the images' names and sizes, in order."""
        digest = hashlib.sha256()
        for source in self.sources:
            sizes = zip(source.hr.names, source.hr.heights, source.hr.widths, strict=True)
            digest.update(repr([(name, int(height), int(width)) for name, height, width in sizes]).encode())
        return f"{self.num_images} images {digest.hexdigest()[:16]}"

    def source_report(self, iteration_count: int) -> list[tuple[Path, int, float]]:
        """(HR folder, number of images, fraction of the crops of the first `iteration_count` batches) per source."""
        drawn = np.zeros(len(self.sources), np.int64)
        for start in range(0, iteration_count, self.iterations_per_epoch):
            batches = min(self.iterations_per_epoch, iteration_count - start)
            image = self.plan(start // self.iterations_per_epoch).image[: batches * self.batch_size]
            drawn += np.histogram(image, self._first)[0]
        fractions = drawn / max(1, drawn.sum())
        return [
            (source.path, len(source.lr), float(fraction))
            for source, fraction in zip(self.sources, fractions, strict=True)
        ]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_planned": (-1, None)}  # a loader's worker plans for itself in milliseconds

    def _batch_plan(self, iteration: int) -> EpochPlan:
        epoch, batch = divmod(iteration, self.iterations_per_epoch)
        start = batch * self.batch_size
        return self.plan(epoch).rows(start + self.rows[0], start + self.rows[1])

    def _locate(self, image: int) -> tuple[TrainSource, int]:
        """The source of an image of the plan, and its index there."""
        number = int(np.searchsorted(self._first, image, side="right")) - 1
        return self.sources[number], image - int(self._first[number])


def open_train_set(
    data_path,
    training_dataset: str,
    data: Sequence[Mapping] | None,
    scale: int,
    patch_size: int,
    batch_size: int,
    data_repeat: int,
    data_augment: bool,
    seed: int,
    cache_path,
) -> TrainSet:
    """Check the training images, pack what is not packed yet, and open them.

    Args:
        data_path: folder of the datasets (see `datas.layout`).
        training_dataset: 'div2k', 'df2k' or 'sample'; not used when `data` has entries.
        data: None, or [{path: HR folder, weight: share of the crops (1.0), lr: LR folder}, ...]; `lr` may contain
            '{scale}' and defaults to the layout's rule.
        patch_size: side of the HR crops in pixels, a multiple of `scale`.
        cache_path: folder of the packed images; empty for `cache` in data_path.

    Raises:
        InputError: anything is wrong with the arguments or the images; nothing has been packed by then.
    """
    if patch_size % scale:
        raise InputError(f"patch_size: {patch_size} is the HR side and must be a multiple of scale {scale}")
    sources = training_folders(data_path, training_dataset, data, scale)
    pairs = [checked_pairs(source, scale, patch_size // scale) for source in sources]
    cache_dir = Path(cache_path or Path(data_path or ".") / "cache")
    packed = []
    for source, files in zip(sources, pairs, strict=True):
        hr_files, lr_files = zip(*files, strict=True)
        packed.append(TrainSource(source.hr_dir, pack(hr_files, cache_dir), pack(lr_files, cache_dir), source.weight))
    return TrainSet(packed, scale, patch_size, batch_size, data_repeat, bool(data_augment), seed)
