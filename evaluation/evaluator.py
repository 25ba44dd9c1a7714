"""Evaluation: super-resolve a benchmark set and score it under both protocols. train.py and test.py share it."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datas import BenchmarkSet, Pair, upscale, write_png
from evaluation.metrics import Scores, mean_scores, official_scores, standard_scores
from models import ModelError
from models.memory import is_out_of_memory
from models.pixels import from_network, to_network
from utils import InputError

Network = Callable[[Tensor], Tensor]
PROTOCOLS = {"standard": standard_scores, "official": official_scores}


@dataclass(frozen=True)
class ImageResult:
    """One image: scores by protocol (empty without HR), those of bicubic upscaling if asked for, forward time."""

    name: str
    scores: dict[str, Scores]
    bicubic: dict[str, Scores]
    seconds: float


@dataclass(frozen=True)
class SetResult:
    """One benchmark set. Means are plain means over its images, unrounded."""

    name: str
    images: list[ImageResult]

    def mean(self, protocol: str, bicubic: bool = False) -> Scores:
        return mean_scores([(image.bicubic if bicubic else image.scores)[protocol] for image in self.images])

    @property
    def seconds(self) -> float:
        """Median forward time of an image."""
        return statistics.median(image.seconds for image in self.images)


def self_ensemble(network: Network) -> Network:
    """The network averaged over the 8 flips and transpositions of its input ("x8", marked "+" in tables)."""

    def averaged(x: Tensor) -> Tensor:
        total: Any = 0
        for flips in ([], [2], [3], [2, 3]):
            for transposed in (False, True):
                view = x.flip(flips)
                view = view.transpose(2, 3) if transposed else view
                out = network(view.contiguous())
                total = total + (out.transpose(2, 3) if transposed else out).flip(flips)
        return total / 8

    return averaged


class Share(Protocol):
    """Processes that divide the images of a set among them."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def gather(self, own: list) -> list:
        """The lists of all processes, one after the other in the order of their ranks, in every process."""


@dataclass(frozen=True)
class Alone:
    """The share of a process that has the whole set to itself."""

    rank: int = 0
    world: int = 1

    def gather(self, own: list) -> list:
        return own


@torch.no_grad()
def evaluate_set(
    network: Network,
    images: BenchmarkSet | Sequence[Pair],
    name: str,
    scale: int,
    device: torch.device,
    *,
    with_bicubic: bool = False,
    image_folder: Path | None = None,
    share: Share | None = None,
) -> SetResult:
    """Super-resolve and score every image of a set.

    Args:
        network: float32 (1, 3, H, W) in [0, 1] -> (1, 3, sH, sW); a module must be in evaluation mode already.
        images: pairs of uint8 (H, W, 3) images; where `hr` is None, the image is super-resolved but not scored.
        with_bicubic: also score bicubic upscaling of the LR image.
        image_folder: where to write the SR images as NAME_xS.png; None writes none.
        share: the processes that do this together: each takes every world-th image, and all return the same result.

    Raises:
        InputError: an image that cannot be read or is too small to be scored; an output that is not finite. With
            `share`, what one process meets is raised in all of them.
    """
    share = share or Alone()
    evaluation = _Evaluation(network, name, scale, device, with_bicubic, image_folder)
    results: list[ImageResult] = []
    failure: Exception | None = None
    try:
        for index in _progress(range(share.rank, len(images), share.world), name, share):
            results.append(evaluation.of_image(images[index]))
    except Exception as error:  # of any kind: the other processes wait for this one, and must hear of it
        failure = error
    pieces = share.gather([(results, _message(failure, name, share))])
    _raise_first([message for _, message in pieces if message], failure)
    order = (divmod(index, share.world) for index in range(len(images)))
    return SetResult(name, [pieces[rank][0][place] for place, rank in order])


def _progress(indices: range, name: str, share: Share) -> Iterator[int]:
    """The indices behind a progress bar, shown by the first process; a log file gets few lines of it, or none."""
    quiet = 0.5 if sys.stderr.isatty() else 30  # seconds before the first line and between lines
    hidden = share.rank > 0
    return iter(tqdm(indices, name, unit="image", leave=False, delay=quiet, mininterval=quiet, disable=hidden))


def _message(failure: Exception | None, name: str, share: Share) -> str:
    """What the other processes are told; empty if nothing failed."""
    if failure is None or isinstance(failure, (InputError, ModelError)):
        return str(failure or "")
    return f"{name}: process {share.rank} of {share.world} failed with {type(failure).__name__}: {failure}"


def _raise_first(messages: list[str], failure: Exception | None) -> None:
    """Raise this process's own failure if it is a surprise, with its traceback; else the first message of any."""
    if failure is not None and not isinstance(failure, (InputError, ModelError)):
        raise failure
    if messages:
        raise InputError(messages[0]) from failure


@dataclass(frozen=True)
class _Evaluation:
    """How the images of one set are super-resolved and scored; see `evaluate_set`."""

    network: Network
    set_name: str
    scale: int
    device: torch.device
    with_bicubic: bool
    image_folder: Path | None

    def of_image(self, pair: Pair) -> ImageResult:
        where = f"{self.set_name}/{pair.name}"
        try:
            return self._of_image(pair, where)
        except ModelError as error:
            raise InputError(f"{where}: {error}") from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            height, width = (self.scale * side for side in pair.lr.shape[:2])
            advice = "close other programs, or leave the image out of the set"
            raise InputError(f"{where}: out of memory for its SR image, {width}x{height}; {advice}") from error

    def _of_image(self, pair: Pair, where: str) -> ImageResult:
        sr, seconds = self._super_resolve(pair.lr, where)
        scores: dict[str, Scores] = {}
        bicubic: dict[str, Scores] = {}
        if pair.hr is not None:
            hr = self._to_device(pair.hr)
            scores = _score(sr, hr, self.scale, where)
            if self.with_bicubic:
                bicubic = _score(self._to_device(upscale(pair.lr, self.scale)), hr, self.scale, where)
        if self.image_folder is not None:
            write_png(self.image_folder / f"{pair.name}_x{self.scale}.png", from_network(sr))
        return ImageResult(pair.name, scores, bicubic, seconds)

    def _super_resolve(self, lr: np.ndarray, where: str) -> tuple[Tensor, float]:
        """(SR as float32 (3, sH, sW), seconds of the forward pass alone)."""
        x = to_network(lr, self.device)
        _synchronize(self.device)
        start = time.perf_counter()
        sr = self.network(x)[0].float()
        _synchronize(self.device)
        seconds = time.perf_counter() - start
        if not sr.isfinite().all():
            raise InputError(
                f"{where}: the network's output is not finite; look at the weights, "
                "or set eval_precision: float32 if it is fp16"
            )
        return sr, seconds

    def _to_device(self, image: np.ndarray) -> Tensor:
        """uint8 (H, W, 3) -> uint8 (3, H, W)."""
        return torch.from_numpy(image).to(self.device).permute(2, 0, 1)


def _score(sr: Tensor, hr: Tensor, scale: int, where: str) -> dict[str, Scores]:
    try:
        return {protocol: score(sr, hr, scale) for protocol, score in PROTOCOLS.items()}
    except ValueError as error:
        raise InputError(f"{where}: cannot be scored: {error}") from error


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
