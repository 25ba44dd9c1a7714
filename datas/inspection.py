"""What is known of an evaluation set's images: whether LR is MATLAB's of HR, and which HR images they are.

`InspectedSet` stands in the place of a `BenchmarkSet` and looks at every pair that is read from it; `inspect` says what
was seen. An image of 481x321 pixels is looked at in milliseconds; only a set whose LR images are not MATLAB's costs
seconds more, in which they are compared with what other programs make.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from datas.benchmark import BenchmarkSet, Pair
from datas.degradation import downscale
from datas.fingerprints import deviations, image_digest, known_digests, known_or_not, set_fingerprint
from datas.images import read_rgb
from datas.layout import lr_folder, prepare_advice
from datas.lr_origin import Difference, LrImage, Origin, difference, origins


@dataclass(frozen=True)
class Seen:
    """One pair: digests of its images, and how far LR is from MATLAB's (None without HR)."""

    index: int
    name: str
    lr_digest: str
    hr_digest: str | None
    from_matlab: Difference | None


class InspectedSet(Sequence[Pair]):
    """The pairs of an evaluation set; `seen` holds what was seen of those that were read, in the order of reading."""

    def __init__(self, images: BenchmarkSet):
        self.images = images
        self.seen: list[Seen] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        pair = self.images[index]
        self.seen.append(_look(index, pair, self.images.scale))
        return pair


def _look(index: int, pair: Pair, scale: int) -> Seen:
    if pair.hr is None:
        return Seen(index, pair.name, image_digest(pair.lr), None, None)
    from_matlab = difference(downscale(pair.hr, scale), pair.lr)
    return Seen(index, pair.name, image_digest(pair.lr), image_digest(pair.hr), from_matlab)


@dataclass(frozen=True)
class Inspection:
    """Of one set: lines for people, and entries of the set's results for a program."""

    lines: list[str]
    facts: dict


def inspect(images: BenchmarkSet, seen: Sequence[Seen]) -> Inspection:
    """What is known of a set of which every image was `seen`, in any order.

    LR images that are not MATLAB's are read once more, and the smallest of them compared with what other programs make.

    Returns:
        the facts 'hr' and 'lr', fingerprints of the images ('hr' is absent where only LR images were read), and
        'inspection': how the HR images deviate from the known ones (None where none are known), how many LR images
        are MATLAB's, and what the others are.
    """
    title = f"{images.name} x{images.scale}: "
    lr = {one.name: one.lr_digest for one in seen}
    hr = {one.name: one.hr_digest for one in seen if one.hr_digest is not None}
    if not hr:
        known = known_digests(images.name, "LR", images.scale)
        same = "; they are those commonly distributed" * (bool(known) and not deviations(lr, known))
        text = f"{_count(lr, 'LR')} without HR: not checked whether they are MATLAB's{same}"
        return Inspection([title + text], {"lr": set_fingerprint(lr), "inspection": {}})
    others = sorted((one for one in seen if one.from_matlab and one.from_matlab.largest), key=lambda one: one.index)
    found = origins([_lr_image(images, one.index) for one in others], images.scale)
    inspection = {
        "hr_deviations": deviations(hr, known_digests(images.name, "HR", images.scale)),
        "lr_of_matlab": len(seen) - len(others),
        "lr_of_others": [asdict(origin) for origin in found],
    }
    facts = {"hr": set_fingerprint(hr), "lr": set_fingerprint(lr), "inspection": inspection}
    hr_text = f"{_count(hr, 'HR')}, {known_or_not(images.name, images.scale, hr)}"
    if others:
        return Inspection([title + hr_text, title + _others_text(images, len(seen), others, found)], facts)
    return Inspection([f"{title}{hr_text}; LR images are MATLAB's bicubic, bit for bit"], facts)


def _others_text(images: BenchmarkSet, count: int, others: Sequence[Seen], found: Sequence[Origin]) -> str:
    """How many LR images are not MATLAB's, by how much, what they are, and what to do."""
    first, apart = others[0], [one.from_matlab for one in others if one.from_matlab]
    mean, largest = sum(one.mean for one in apart) / len(apart), max(one.largest for one in apart)
    how_far = f"mean difference {mean:.2f} of 255, at most {largest}"
    text = f"{len(others)} of {count} LR images differ from MATLAB's bicubic of HR (first {first.name}; {how_far}): "
    alone = "they" if len(others) > 1 else "it"
    text += "; ".join(origin.text(alone if len(found) == 1 else str(origin.count)) for origin in found)
    hr_dir = images.hr_files[0].parent
    advice = f"remove {lr_folder(hr_dir, images.scale)} and {prepare_advice(hr_dir, images.scale)}"
    return f"{text}. Published scores are of MATLAB's: to compare with them, {advice}"


def _lr_image(images: BenchmarkSet, index: int) -> LrImage:
    """An LR image of the set, with its HR image uncropped."""
    hr_file = images.hr_files[index]
    return LrImage(images[index].lr, lambda: read_rgb(hr_file, images.drop_alpha))


def _count(digests: dict[str, str], kind: str) -> str:
    return f"{len(digests)} {kind} image{'s' * (len(digests) != 1)}"
