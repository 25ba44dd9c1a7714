"""Which image, crop and orientation each training sample is: a pure function of seed and epoch.

Sample i of epoch e is the same for any number of workers, processes and samples per batch, and after any resume. The
plan is made from the raw 64-bit words of numpy's Philox generator, a fixed algorithm, and not from its distributions
(`permutation`, `integers`), whose streams numpy may change between releases.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Source:
    """A set of training images: heights and widths of its LR images in pixels ((N,) int64), and its share of crops."""

    heights: np.ndarray
    widths: np.ndarray
    weight: float = 1.0


@dataclass(frozen=True)
class EpochPlan:
    """The samples of one epoch in order; every field is an (epoch length,) array.

    image counts through the images of all sources, int64; top and left are in LR pixels, int64; hflip, vflip and
    transpose are bool, applied by `orient`.
    """

    image: np.ndarray
    top: np.ndarray
    left: np.ndarray
    hflip: np.ndarray
    vflip: np.ndarray
    transpose: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def __iter__(self) -> Iterator[tuple]:
        """The samples one by one as (image, top, left, hflip, vflip, transpose), plain numbers."""
        return zip(*(getattr(self, name).tolist() for name in self.__dataclass_fields__), strict=True)

    def rows(self, start: int, stop: int) -> "EpochPlan":
        """Samples start..stop-1."""
        return EpochPlan(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))


def epoch_plan(
    seed: int, epoch: int, sources: Sequence[Source], data_repeat: int, patch: int, augment: bool
) -> EpochPlan:
    """Plan epoch `epoch`: `data_repeat` times the number of images, in random order.

    Each source gets a share of the samples in proportion to its weight, to within one sample. Within a source the
    images come in successive random permutations: none comes twice before all came once, and with a single source
    each comes exactly `data_repeat` times. Crops are uniform over all positions at which a `patch` x `patch` LR crop
    fits; with `augment`, each flip and the transpose has probability 1/2, else there are none.

    Args:
        seed, epoch: not negative.
        patch: side of the LR crop in pixels, at most the side of every image.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw
    heights = np.concatenate([source.heights for source in sources])
    widths = np.concatenate([source.widths for source in sources])
    length = data_repeat * len(heights)
    image = _image_order(words, sources, length)
    top = _below(words(length), heights[image] - patch + 1)
    left = _below(words(length), widths[image] - patch + 1)
    coins = words(length)
    hflip, vflip, transpose = (bool(augment) & ((coins & np.uint64(1 << bit)) != 0) for bit in (61, 62, 63))
    return EpochPlan(image, top, left, hflip, vflip, transpose)


def source_shares(weights: Sequence[float], length: int) -> np.ndarray:
    """Divide `length` samples among sources in proportion to their weights, by largest remainders: int64 counts."""
    exact = length * np.asarray(weights, np.float64) / np.sum(weights)
    shares = np.floor(exact).astype(np.int64)
    largest_first = np.argsort(shares - exact, kind="stable")
    shares[largest_first[: length - shares.sum()]] += 1
    return shares


def orient(crop: np.ndarray, hflip: bool, vflip: bool, transpose: bool, out: np.ndarray) -> None:
    """Write `crop` into `out`, flipped vertically, then horizontally, then transposed, each if asked for.

    crop: (H, W, 3) uint8; out: contiguous (H, W, 3) uint8, (W, H, 3) when transposed. LR and HR crops are treated
    alike. OpenCV moves whole pixels: ten times as fast as numpy's strides, which move single bytes.
    """
    if hflip or vflip:
        flipped = np.empty(crop.shape, np.uint8) if transpose else out
        crop = cv2.flip(crop, -1 if hflip and vflip else int(hflip), dst=flipped)
    if transpose:
        cv2.transpose(crop, dst=out)
    elif not (hflip or vflip):
        np.copyto(out, crop)


def _image_order(words, sources: Sequence[Source], length: int) -> np.ndarray:
    """Image index of each sample: the sources in random order, each running through its permutations."""
    shares = source_shares([source.weight for source in sources], length)
    label = np.repeat(np.arange(len(sources)), shares)[np.argsort(words(length), kind="stable")]
    image = np.empty(length, np.int64)
    first = 0
    for number, (source, share) in enumerate(zip(sources, shares, strict=True)):
        count = len(source.heights)
        rounds = -(-int(share) // count)
        permutations = np.argsort(words(rounds * count).reshape(rounds, count), axis=1, kind="stable")
        image[label == number] = first + permutations.reshape(-1)[:share]
        first += count
    return image


def _below(words: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Integers uniform in [0, limit) from 64-bit words: the upper 32 bits as a fraction of the limit (bias < 2^-32)."""
    return ((words >> np.uint64(32)) * limits.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
