"""Training batches: pairs of LR and HR crops from packed images, addressed by the global iteration.

    train_set = open_train_set(config)
    loader = DataLoader(train_set.shard(rank, world), batch_size=None, sampler=range(start, stop), num_workers=8)

Batch t is a pure function of t, so a resumed run, another number of workers or of processes sees the same samples.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from datas.images import list_images
from datas.layout import checked_pairs, lr_folder, stop_on, training_dataset
from datas.sampling import EpochPlan, Source, epoch_plan, orient
from datas.store import Pack, pack
from utils import InputError, did_you_mean

_ENTRY_KEYS = ("path", "weight", "lr")


class TrainConfig(Protocol):
    """The part of a `config.Config` that decides about the training batches."""

    @property
    def data_path(self) -> str: ...  # folder of the datasets, see `datas.layout`
    @property
    def training_dataset(self) -> str: ...  # a key of `TRAINING_DATASETS`; not used when `data` has entries
    @property
    def data(self) -> Sequence[Mapping]: ...  # [{path: HR folder, weight: share of the crops, lr: LR folder}, ...]
    @property
    def cache_path(self) -> str: ...  # folder of the packed images; empty for `cache` in data_path
    @property
    def scale(self) -> int: ...
    @property
    def patch_size(self) -> int: ...  # side of the HR crops in pixels, a multiple of `scale`
    @property
    def batch_size(self) -> int: ...
    @property
    def data_repeat(self) -> int: ...  # times each image is seen in an epoch
    @property
    def data_augment(self) -> bool: ...
    @property
    def drop_last(self) -> bool: ...  # leave out what remains of an epoch after its last full batch
    @property
    def seed(self) -> int: ...


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
        lr_patch: side of the LR crops in pixels.
        num_images: training images in all sources.
        share: (rank, world), which part of every batch this shard yields.
        iterations_per_epoch: batches in an epoch of `data_repeat` times `num_images` samples, the last one smaller than
            the others where `drop_last` is False and there is a rest.
        smallest_batch: samples in the smallest batch of an epoch, over all shards.
    """

    def __init__(self, sources: Sequence[TrainSource], config: TrainConfig):
        self.sources = tuple(sources)
        self.config = config
        self.lr_patch = config.patch_size // config.scale
        self.share = (0, 1)
        self._first = np.cumsum([0] + [len(source.lr) for source in sources])  # global index of each source's image 0
        self._plans: dict[int, EpochPlan] = {}  # that of the epoch asked for last
        self.num_images = int(self._first[-1])
        samples = config.data_repeat * self.num_images
        self.iterations_per_epoch, rest = divmod(samples, config.batch_size)
        keeps_rest = bool(rest) and not config.drop_last
        self.iterations_per_epoch += keeps_rest
        self.smallest_batch = rest if keeps_rest else config.batch_size
        if self.iterations_per_epoch < 1:
            raise InputError(
                f"batch_size: {config.batch_size} is more than an epoch's {samples} samples "
                f"({self.num_images} images times data_repeat {config.data_repeat}); lower it or raise data_repeat"
            )

    def __getitem__(self, iteration: int) -> tuple[torch.Tensor, torch.Tensor]:
        """LR (B, p, p, 3) and HR (B, s p, s p, 3) uint8 crops of batch `iteration` (this shard's rows of it)."""
        plan = self._batch_plan(iteration)
        side, scale = self.lr_patch, self.config.scale
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
        """A view that yields rows [rank B / world, (rank + 1) B / world) of every batch of B.

        Raises:
            InputError: the batch cannot be divided among `world` processes.
        """
        batch_size = self.config.batch_size
        if batch_size % world:
            raise InputError(
                f"batch_size: {batch_size} cannot be divided among {world} processes; use a multiple of {world}"
            )
        view = copy.copy(self)
        view.share = (rank, world)
        return view

    def rows(self, batch: int) -> slice:
        """The samples of an epoch that this shard's part of its batch `batch` consists of."""
        start, (rank, world) = batch * self.config.batch_size, self.share
        size = min(self.config.batch_size, self.config.data_repeat * self.num_images - start)
        return slice(start + rank * size // world, start + (rank + 1) * size // world)

    def names(self, iteration: int) -> list[str]:
        """The HR file name of each sample of batch `iteration` (this shard's rows of it)."""
        located = (self._locate(image) for image in self._batch_plan(iteration).image.tolist())
        return [source.hr.names[index] for source, index in located]

    def plan(self, epoch: int) -> EpochPlan:
        """The samples of a whole epoch; batch b of the epoch consists of samples b B .. (b + 1) B - 1."""
        if epoch not in self._plans:
            sources = [Source(source.lr.heights, source.lr.widths, source.weight) for source in self.sources]
            repeat, augment = self.config.data_repeat, self.config.data_augment
            self._plans = {epoch: epoch_plan(self.config.seed, epoch, sources, repeat, self.lr_patch, augment)}
        return self._plans[epoch]

    def fingerprint(self) -> str:
        """A digest of what the samples are a function of besides the config, as "6 images HEX pixels HEX".

        The first stands for the images' names and sizes, in order, the second for their HR and LR pixels as they were
        packed.
        """
        shapes, pixels = hashlib.sha256(), hashlib.sha256()
        for source in self.sources:
            sizes = zip(source.hr.names, source.hr.heights, source.hr.widths, strict=True)
            shapes.update(repr([(name, int(height), int(width)) for name, height, width in sizes]).encode())
            pixels.update(repr([source.hr.digests, source.lr.digests]).encode())
        return f"{self.num_images} images {shapes.hexdigest()[:16]} pixels {pixels.hexdigest()[:16]}"

    def shares_drawn(self, iteration_count: int) -> list[tuple[Path, int, float]]:
        """(HR folder, number of images, fraction of the crops of the first `iteration_count` batches) per source."""
        drawn = np.zeros(len(self.sources), np.int64)
        for start in range(0, iteration_count, self.iterations_per_epoch):
            batches = min(self.iterations_per_epoch, iteration_count - start)
            image = self.plan(start // self.iterations_per_epoch).image[: batches * self.config.batch_size]
            drawn += np.histogram(image, self._first)[0]
        fractions = drawn / max(1, drawn.sum())
        return [
            (source.path, len(source.lr), float(fraction))
            for source, fraction in zip(self.sources, fractions, strict=True)
        ]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_plans": {}}  # a loader's worker plans for itself in milliseconds

    def _batch_plan(self, iteration: int) -> EpochPlan:
        epoch, batch = divmod(iteration, self.iterations_per_epoch)
        rows = self.rows(batch)
        return self.plan(epoch).rows(rows.start, rows.stop)

    def _locate(self, image: int) -> tuple[TrainSource, int]:
        """The source of an image of the plan, and its index there."""
        number = int(np.searchsorted(self._first, image, side="right")) - 1
        return self.sources[number], image - int(self._first[number])


def same_images(before: str, now: str) -> bool:
    """Whether two fingerprints stand for the same images.

    `before` may be of an earlier release, which knew of names and sizes only: then `now` is compared in these.
    """
    return before in (now, now.partition(" pixels ")[0])


def open_train_set(config: TrainConfig) -> TrainSet:
    """Check the training images that the config names, pack what is not packed yet, and open them.

    Raises:
        InputError: anything is wrong with the config or the images; nothing has been packed by then.
    """
    scale, patch_size = config.scale, config.patch_size
    if patch_size % scale:
        raise InputError(f"patch_size: {patch_size} is the HR side and must be a multiple of scale {scale}")
    chosen = _chosen_folders(config)
    pairs = [_training_pairs(folders, scale, patch_size) for folders in chosen]
    cache_dir = Path(config.cache_path or Path(config.data_path or ".") / "cache")
    sources = []
    for folders, files in zip(chosen, pairs, strict=True):
        hr_files, lr_files = zip(*files, strict=True)
        sources.append(TrainSource(folders.hr, pack(hr_files, cache_dir), pack(lr_files, cache_dir), folders.weight))
    return TrainSet(sources, config)


@dataclass(frozen=True)
class _Folders:
    """Folders of one training source, not looked at yet.

    `stems` names the images to use, None means all; `advice` says what to do when the HR folder is missing or empty.
    """

    hr: Path
    lr: Path
    stems: list[str] | None
    advice: str
    weight: float = 1.0


def _chosen_folders(config: TrainConfig) -> list[_Folders]:
    """The folders of `data` if it has entries, else those of the named dataset."""
    if config.data:
        return [_entry_folders(entry, f"data[{number}]", config.scale) for number, entry in enumerate(config.data)]
    dataset = training_dataset(config.training_dataset)
    if not config.data_path:
        raise InputError(f"data_path: is empty; set it to the folder that holds {dataset.folder}")
    hr_dir = dataset.hr_folder(config.data_path)
    advice = f"'{config.training_dataset}' lies there: set data_path to the folder that holds {dataset.folder}"
    return [_Folders(hr_dir, lr_folder(hr_dir, config.scale), dataset.stems(), advice)]


def _entry_folders(entry: Mapping, name: str, scale: int) -> _Folders:
    """The folders of one entry of `data`; `lr` may contain '{scale}' and defaults to the layout's rule."""
    if not isinstance(entry, Mapping) or not entry.get("path"):
        raise InputError(f"{name}: has no path; write it as {{path: HR_FOLDER, weight: 1.0}}")
    for key in ("path", "lr"):
        if not isinstance(entry.get(key, ""), str):
            raise InputError(f"{name}.{key}: {entry[key]!r} is not the name of a folder")
    for key in entry:
        if key not in _ENTRY_KEYS:
            hint = did_you_mean(key, _ENTRY_KEYS)
            raise InputError(f"{name}.{key}: is not known; use {', '.join(_ENTRY_KEYS)}{hint}")
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise InputError(f"{name}.weight: {weight!r} is not a positive number; leave it out for 1.0")
    hr_dir, lr_pattern = Path(entry["path"]), entry.get("lr")
    lr_dir = Path(lr_pattern.replace("{scale}", str(scale))) if lr_pattern else lr_folder(hr_dir, scale)
    return _Folders(hr_dir, lr_dir, None, f"check {name}.path", float(weight))


def _training_pairs(folders: _Folders, scale: int, patch_size: int) -> list[tuple[Path, Path]]:
    """The (HR, LR) files of a source, after a look at every file's header.

    Raises:
        InputError: images are missing, unpaired, in a wrong format, of sizes that do not fit, or too small.
    """
    hr_files = _selected(list_images(folders.hr, folders.advice), folders)
    pairs, hr_sizes = checked_pairs(hr_files, folders.hr, folders.lr, scale, extra_allowed=folders.stems is not None)
    too_small = [
        f"{hr_file}: is smaller than a patch ({width}x{height} after cropping to the scale; patch_size is {patch_size})"
        for (hr_file, _), (height, width) in zip(pairs, hr_sizes // scale * scale, strict=True)
        if min(height, width) < patch_size
    ]
    stop_on(too_small, "remove what is too small, or lower patch_size")
    return pairs


def _selected(hr_files: list[Path], folders: _Folders) -> list[Path]:
    """The files that belong to the dataset, all of which must be there."""
    if folders.stems is None:
        return hr_files
    by_stem = {path.stem: path for path in hr_files}
    missing = [stem for stem in folders.stems if stem not in by_stem]
    if missing:
        raise InputError(
            f"{folders.hr}: {len(missing)} of the dataset's {len(folders.stems)} images are missing, "
            f"the first is {missing[0]}.png; complete the folder, or list it under `data` to train on what is there"
        )
    return [by_stem[stem] for stem in folders.stems]
