"""What LR images are that are not MATLAB's: the ways of `datas.resamplers`, tried one by one.

An answer says how sure it is: the same in every value ("bit for bit"), the same but for rounding, or only the nearest
of what was tried.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from datas.degradation import downscale
from datas.resamplers import MATLAB, SEARCHED, Make, jpegs, ways

TRIED = 3  # images on which every way is tried, the smallest ones; the others are only compared with what fits these
MOST = 3  # origins of a set of mixed ones, and ways that a line names
AS_NEAR = 1.25  # times the smallest difference: then either may be meant
SAME_PICTURE = 0.8  # correlation with MATLAB's LR image, which any way of shrinking the picture exceeds


@dataclass(frozen=True)
class Difference:
    """Of two uint8 images: the mean and the largest absolute difference, of 255."""

    mean: float
    largest: int


ROUNDING = Difference(0.05, 2)  # what other versions, and float32, explain


@dataclass(frozen=True)
class LrImage:
    """An LR image (H, W, 3) uint8 that is not MATLAB's, and a function that reads its HR image as it is stored."""

    lr: np.ndarray
    read_hr: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Origin:
    """How some LR images of a set were made.

    Attributes:
        count: images.
        ways: the way that fits best; several where they make the same of these images or are as near.
        grade: 'exact', 'rounding', 'nearest', or 'other picture' where HR and LR do not belong together.
        difference: of the first way, the mean over the images that were tried.
        tried: how many ways.
    """

    count: int
    ways: tuple[str, ...]
    grade: str
    difference: Difference
    tried: int

    def text(self, subject: str) -> str:
        """A clause about the images, which `subject` stands for."""
        more = len(self.ways) - MOST
        names = " or ".join(self.ways[:MOST]) + f" or one of {more} more" * (more > 0)
        how_far = f"mean difference {self.difference.mean:.3f}, at most {self.difference.largest}"
        alike = " (which make the same of these)" if self.grade == "exact" and len(self.ways) > 1 else ""
        are, do = ("is", "does") if self.count == 1 else ("are", "do")
        clauses = {
            "exact": f"{are} {names}{alike}, bit for bit",
            "rounding": f"{are} {names} but for rounding ({how_far})",
            "nearest": f"{are} of unknown origin; the nearest of {self.tried} ways tried: {names} ({how_far})",
            "other picture": f"{do} not show what HR shows",
        }
        return f"{subject} {clauses[self.grade]}"


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Of two uint8 images of one shape."""
    if np.array_equal(first, second):
        return Difference(0.0, 0)
    apart = np.abs(first.astype(np.int16) - second)
    return Difference(float(apart.mean()), int(apart.max()))


def origins(images: Sequence[LrImage], s: int) -> list[Origin]:
    """How LR images of scale s were made that are not MATLAB's; usually one answer for all of them."""
    found: list[Origin] = []
    rest = sorted(images, key=lambda image: image.lr.size)
    while rest:
        apart = [_differences(image, s) for image in rest[:TRIED]]
        exact = list(dict.fromkeys(name for one in apart for name, how_far in one.items() if how_far.mean == 0))
        if not exact or len(found) == MOST:
            return [*found, _nearest(rest, apart, s)]
        made_so = _made_so(rest, exact, s)
        most = max(made_so.values(), key=len)
        names = tuple(name for name in exact if made_so[name] == most)
        found.append(Origin(len(most), names, "exact", Difference(0.0, 0), len(apart[0])))
        rest = [image for place, image in enumerate(rest) if place not in most]
    return found


def _nearest(images: Sequence[LrImage], apart: Sequence[dict[str, Difference]], s: int) -> Origin:
    """What images that no way makes exactly are nearest to; `apart` has the differences of the first ones."""
    means = {
        name: float(np.mean([one[name].mean for one in apart]))
        for name in apart[0]
        if all(name in one for one in apart)
    }
    by_mean = sorted((name for name in means if not _is_chance(name, means)), key=lambda name: means[name])
    names = tuple(name for name in by_mean[:MOST] if means[name] <= AS_NEAR * means[by_mean[0]])
    names = (MATLAB,) if MATLAB in names else names  # those are changed MATLAB's as well
    how_far = Difference(means[names[0]], max(one[names[0]].largest for one in apart))
    grade = "nearest"
    if how_far.mean <= ROUNDING.mean and how_far.largest <= ROUNDING.largest:
        grade = "rounding"
    elif not any(_same_picture(image, s) for image in images[:TRIED]):
        grade = "other picture"
    return Origin(len(images), names, grade, how_far, len(means))


def _is_chance(name: str, means: dict[str, float]) -> bool:
    """Whether it is one of many qualities or places that were tried, and hardly nearer than MATLAB's own."""
    return any(part in name for part in SEARCHED) and means[name] > means[MATLAB] / 4


def _ways(image: LrImage, s: int) -> dict[str, Make]:
    found = ways(image.read_hr(), image.lr, s)
    return found | jpegs(found[MATLAB]())


def _differences(image: LrImage, s: int) -> dict[str, Difference]:
    """Of an LR image from what every way makes."""
    return {name: difference(make(), image.lr) for name, make in _ways(image, s).items()}


def _made_so(images: Sequence[LrImage], names: Sequence[str], s: int) -> dict[str, set[int]]:
    """Of each way the places of the images that it makes exactly."""
    places: dict[str, set[int]] = {name: set() for name in names}
    for place, image in enumerate(images):
        found = _ways(image, s)
        for name in names:
            if name in found and np.array_equal(found[name](), image.lr):
                places[name].add(place)
    return places


def _same_picture(image: LrImage, s: int) -> bool:
    """Whether the LR image is brighter and darker where HR is. Images without contrast are taken to be."""
    first, second = (one.mean(axis=2).ravel() for one in (downscale(image.read_hr(), s), image.lr))
    if min(first.std(), second.std()) < 1:
        return True
    return bool(np.corrcoef(first, second)[0, 1] >= SAME_PICTURE)
