"""Evaluation: super-resolve a benchmark set and score it under both protocols. train.py and test.py share it."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datas import upscale, write_png
from evaluation.metrics import Scores, mean_scores, official_scores, standard_scores, to_uint8
from utils import InputError

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


def to_network(image: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (H, W, 3) -> float32 (1, 3, H, W) in [0, 1] on `device`."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255


def from_network(image: Tensor) -> np.ndarray:
    """Float (3, H, W), nominally in [0, 1] -> uint8 (H, W, 3), clipped and rounded."""
    return to_uint8(image).permute(1, 2, 0).contiguous().cpu().numpy()


def self_ensemble(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The network averaged over the 8 flips and transpositions of its input ("x8", marked "+" in tables)."""

    def averaged(x: Tensor) -> Tensor:
        total = 0
        for flips in ([], [2], [3], [2, 3]):
            for transposed in (False, True):
                view = x.flip(flips)
                view = view.transpose(2, 3) if transposed else view
                out = network(view.contiguous())
                total = total + (out.transpose(2, 3) if transposed else out).flip(flips)
        return total / 8

    return averaged


@torch.no_grad()
def evaluate_set(
    network: Callable[[Tensor], Tensor],
    images: Iterable,
    name: str,
    scale: int,
    device: torch.device,
    with_bicubic: bool = False,
    image_folder: Path | None = None,
) -> SetResult:
    """Super-resolve and score every image of a set.

    Args:
        network: float32 (1, 3, H, W) in [0, 1] -> (1, 3, sH, sW); a module must be in evaluation mode already.
        images: a `datas.BenchmarkSet`, or any iterable of pairs with `name`, `lr` and `hr` (uint8 (H, W, 3); hr may be
            None, and the image is then super-resolved but not scored).
        with_bicubic: also score bicubic upscaling of the LR image.
        image_folder: where to write the SR images as NAME_xS.png; None writes none.

    Raises:
        InputError: an image that cannot be read or is too small to be scored; an output that is not finite.
    """
    results = []
    for pair in images:
        x = to_network(pair.lr, device)
        _synchronize(device)
        start = time.perf_counter()
        sr = network(x)[0].float()
        _synchronize(device)
        seconds = time.perf_counter() - start
        if not sr.isfinite().all():
            raise InputError(
                f"{name}/{pair.name}: the network's output is not finite; look at the weights, "
                "or set eval_precision: float32 if it is fp16"
            )
        scores, bicubic = {}, {}
        if pair.hr is not None:
            hr = torch.from_numpy(pair.hr).to(device).permute(2, 0, 1)
            scores = _score(sr, hr, scale, f"{name}/{pair.name}")
            if with_bicubic:
                upscaled = torch.from_numpy(upscale(pair.lr, scale)).to(device).permute(2, 0, 1)
                bicubic = _score(upscaled, hr, scale, f"{name}/{pair.name}")
        if image_folder is not None:
            write_png(Path(image_folder) / f"{pair.name}_x{scale}.png", from_network(sr))
        results.append(ImageResult(pair.name, scores, bicubic, seconds))
    return SetResult(name, results)


def _score(sr: Tensor, hr: Tensor, scale: int, where: str) -> dict[str, Scores]:
    try:
        return {protocol: score(sr, hr, scale) for protocol, score in PROTOCOLS.items()}
    except ValueError as error:
        raise InputError(f"{where}: cannot be scored: {error}") from error


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
