"""Evaluation: super-resolve a benchmark set and score it under both protocols. train.py and test.py share it.

While the network works on an image, one thread reads the next and another scores the one before, on the CPU whatever
the network runs on: the scores of an SR image are the same on every device, and a GPU goes on meanwhile.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datas import BenchmarkSet, Pair, upscale, write_png
from evaluation.metrics import Scores, mean_scores, official_of, standard_of
from evaluation.overlap import overlapped
from evaluation.threads import one_thread
from models import ModelError
from models.memory import is_out_of_memory
from models.pixels import from_network, to_network
from utils import InputError, Terminal

Network = Callable[[Tensor], Tensor]
Observer = Callable[[Pair, np.ndarray, np.ndarray | None], object]
PROTOCOLS = {"standard": standard_of, "official": official_of}
LARGE = 2**22  # pixels of an SR image that is scored before the next one is super-resolved, for the memory of both


@dataclass(frozen=True)
class ImageResult:
    """One image: scores by protocol (empty without HR), those of bicubic upscaling if asked for, forward time.

    Attributes:
        seconds: of the forward pass by the clock, while other threads read and score.
        beside: seconds of what those did for it, by the clock: 'read', 'bicubic' (upscaling), 'score',
            'write' and 'look' (the observer), where done.
    """

    name: str
    scores: dict[str, Scores]
    bicubic: dict[str, Scores]
    seconds: float
    beside: dict[str, float] = field(default_factory=dict)


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
    observer: Observer | None = None,
) -> SetResult:
    """Super-resolve and score every image of a set.

    Args:
        network: float32 (1, 3, H, W) in [0, 1] -> (1, 3, sH, sW); a module must be in evaluation mode already.
        images: pairs of uint8 (H, W, 3) images; where `hr` is None, the image is super-resolved but not scored.
        with_bicubic: also score bicubic upscaling of the LR image.
        image_folder: where to write the SR images as NAME_xS.png; None writes none.
        share: the processes that do this together: each takes every world-th image, and all return the same result.
        observer: called with each image of this process when it is scored, in a thread of its own: the pair, the SR
            image and, where it is scored too, the bicubic one, uint8 (sH, sW, 3). It must not keep them all.

    Raises:
        InputError: an image that cannot be read or is too small to be scored; an output that is not finite. With
            `share`, what one process meets is raised in all of them.
    """
    share = share or Alone()
    threads = torch.get_num_threads()
    evaluation = _Evaluation(network, images, name, scale, device, with_bicubic, image_folder, threads, observer)
    own = range(share.rank, len(images), share.world)
    results: list[ImageResult] = []
    failure: Exception | None = None
    try:
        with _progress(len(own), name, share) as bar:
            steps = evaluation.read, evaluation.super_resolve, evaluation.finish
            results = overlapped(own, *steps, is_large=_is_large, done=bar.update)
    except Exception as error:  # of any kind: the other processes wait for this one, and must hear of it
        failure = error
    pieces = share.gather([(results, _message(failure, name, share))])
    _raise_first([message for _, message in pieces if message], failure)
    order = (divmod(index, share.world) for index in range(len(images)))
    return SetResult(name, [pieces[rank][0][place] for place, rank in order])


def _progress(count: int, name: str, share: Share) -> tqdm:
    """A progress bar, shown by the first process; a log file gets few lines of it, or none."""
    quiet = 0.5 if sys.stderr.isatty() else 30  # seconds before the first line and between lines
    hidden = share.rank > 0
    timing = {"delay": quiet, "mininterval": quiet}
    return tqdm(total=count, desc=name, unit="image", leave=False, **timing, disable=hidden, file=Terminal())


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


@dataclass
class _Image:
    """An image on its way, and the seconds that its steps took."""

    pair: Pair
    where: str
    seconds: dict[str, float]
    sr: Tensor = field(init=False)  # float32 (3, sH, sW) on the CPU, of `super_resolve`

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start


def _is_large(image: _Image) -> bool:
    return image.sr.shape[1] * image.sr.shape[2] > LARGE


@dataclass(frozen=True)
class _Evaluation:
    """How the images of one set are read, super-resolved and scored; see `evaluate_set`."""

    network: Network
    images: BenchmarkSet | Sequence[Pair]
    set_name: str
    scale: int
    device: torch.device
    with_bicubic: bool
    image_folder: Path | None
    threads: int  # in which PyTorch computes, outside of `one_thread`
    observer: Observer | None

    def read(self, index: int) -> _Image:
        start = time.perf_counter()
        pair = self.images[index]
        return _Image(pair, f"{self.set_name}/{pair.name}", {"read": time.perf_counter() - start})

    def super_resolve(self, image: _Image) -> _Image:
        """The image with its SR; the time taken is that of the forward pass alone."""
        with self._named(image):
            x = to_network(image.pair.lr, self.device)
            _synchronize(self.device)
            with image.timed("network"):
                sr = self.network(x)[0].float()
                _synchronize(self.device)
            image.sr = sr.cpu()
            if not image.sr.isfinite().all():
                raise InputError(
                    f"{image.where}: the network's output is not finite; look at the weights, "
                    "or set eval_precision: float32 if it is fp16"
                )
        return image

    @torch.no_grad()  # which holds in one thread
    def finish(self, image: _Image) -> ImageResult:
        """Score the SR image, and write it."""
        scores, bicubic = [], None
        with self._named(image), one_thread(self.threads):
            if image.pair.hr is not None:
                images = [image.sr]
                if self.with_bicubic:
                    with image.timed("bicubic"):
                        bicubic = upscale(image.pair.lr, self.scale)
                    images.append(_as_tensor(bicubic))
                with image.timed("score"):
                    scores = _scores(images, _as_tensor(image.pair.hr), self.scale, image.where)
            if self.image_folder is not None:
                with image.timed("write"):
                    write_png(self.image_folder / f"{image.pair.name}_x{self.scale}.png", from_network(image.sr))
            if self.observer is not None:
                with image.timed("look"):
                    self.observer(image.pair, from_network(image.sr), bicubic)
        seconds = image.seconds.pop("network")
        of_sr, of_bicubic = (*scores, {}, {})[:2]
        return ImageResult(image.pair.name, of_sr, of_bicubic, seconds, image.seconds)

    @contextmanager
    def _named(self, image: _Image) -> Iterator[None]:
        """What the network or the memory refuses becomes an InputError that names the image."""
        try:
            yield
        except ModelError as error:
            raise InputError(f"{image.where}: {error}") from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            height, width = (self.scale * side for side in image.pair.lr.shape[:2])
            advice = "close other programs, or leave the image out of the set"
            raise InputError(f"{image.where}: out of memory for its SR image, {width}x{height}; {advice}") from error


def _as_tensor(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> uint8 (3, H, W)."""
    return torch.from_numpy(image).permute(2, 0, 1)


def _scores(images: list[Tensor], hr: Tensor, scale: int, where: str) -> list[dict[str, Scores]]:
    """Of each image its scores by protocol."""
    try:
        found = {protocol: scores_of(images, hr, scale) for protocol, scores_of in PROTOCOLS.items()}
    except ValueError as error:
        raise InputError(f"{where}: cannot be scored: {error}") from error
    return [{protocol: scores[place] for protocol, scores in found.items()} for place in range(len(images))]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
