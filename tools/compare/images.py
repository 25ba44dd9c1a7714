"""What is compared: the images of evaluation sets, and those that methods made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datas import BenchmarkSet, list_images, read_rgb, upscale
from evaluation.metrics import Scores, standard_of
from tools.score import begins_with, find_hr
from utils import InputError, did_you_mean, shown

LR, BICUBIC, HR = "LR", "bicubic", "HR"


@dataclass(frozen=True)
class Method:
    """A method by its name in the figure, and its folder: of SR images, or of a folder of them for each set."""

    name: str
    folder: Path
    option: str  # that named it


@dataclass(frozen=True)
class Source:
    """One image of a set, not read yet."""

    images: BenchmarkSet
    index: int

    @property
    def name(self) -> str:
        return self.images.names[self.index]

    @property
    def title(self) -> str:
        return f"{self.images.name}/{self.name}"


@dataclass(frozen=True)
class Compared:
    """An image that was read: lr (h, w, 3) uint8; HR and by name what methods made of LR (s h, s w, 3)."""

    source: Source
    lr: np.ndarray
    hr: np.ndarray
    methods: dict[str, np.ndarray]

    @property
    def scored(self) -> dict[str, np.ndarray]:
        """Bicubic and the methods."""
        return {BICUBIC: upscale(self.lr, self.source.images.scale), **self.methods}


def read_method(text: str) -> Method:
    """The method of --method NAME=DIR. Raises InputError if it is none."""
    name, _, folder = (part.strip() for part in text.partition("="))
    if not name or not folder:
        raise InputError(f"--method {shown(text)}: must be NAME=DIR, such as SSIU=results/ssiu")
    if name in (LR, BICUBIC, HR):
        raise InputError(f"--method {shown(text)}: '{name}' stands in the figure already; give another name")
    if not Path(folder).is_dir():
        raise InputError(f"--method {shown(text)}: there is no folder {shown(folder)}")
    return Method(name, Path(folder), f"--method {shown(name)}")


def read_methods(texts: Sequence[str]) -> list[Method]:
    """The methods of several --method. Raises InputError if two have one name."""
    methods = [read_method(text) for text in texts]
    for place, method in enumerate(methods):
        if method.name in [other.name for other in methods[:place]]:
            raise InputError(f"--method {method.name}=...: two methods have this name; give each its own")
    return methods


def all_sources(sets: Sequence[BenchmarkSet]) -> list[Source]:
    """Every image of the sets, in order."""
    return [Source(images, index) for images in sets for index in range(len(images))]


def find_source(sources: Sequence[Source], name: str, option: str) -> Source:
    """The image called IMAGE or SET/IMAGE. Raises InputError that begins with `option` unless it is one."""
    found = [source for source in sources if name in (source.name, source.title)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{option}: several sets have this image; write {' or '.join(one.title for one in found)}")
    sets = ", ".join(dict.fromkeys(source.images.name for source in sources))
    hint = did_you_mean(name, [source.name for source in sources])
    raise InputError(f"{option}: there is no image '{shown(name)}' in {sets}{hint or '; see config key eval_sets'}")


def read_source(source: Source, methods: Sequence[Method]) -> Compared:
    """The pixels of an image, and of every method's of it.

    Raises:
        InputError: a method has no SR image of it or several, or one of another size than HR.
    """
    pair = source.images[source.index]
    assert pair.hr is not None  # sets are read with their HR images here
    return Compared(source, pair.lr, pair.hr, {one.name: _read_sr(source, one, pair.hr) for one in methods})


def _read_sr(source: Source, method: Method, hr: np.ndarray) -> np.ndarray:
    file = sr_file(source, method)
    sr = read_rgb(file)
    if sr.shape != hr.shape:
        size, wanted = (f"{image.shape[1]}x{image.shape[0]}" for image in (sr, hr))
        raise InputError(
            f"{file}: is {size} pixels, not {wanted} as HR at x{source.images.scale}; check {method.option}"
        )
    return sr


def sr_file(source: Source, method: Method) -> Path:
    """A method's file of an image: as test.py calls it, or else the one that `tools.score` takes for this image's.

    Raises:
        InputError: there is none, or there are several.
    """
    of_set = method.folder / source.images.name
    folder = of_set if of_set.is_dir() else method.folder
    files, hr_files = list_images(folder, f"check {method.option}"), source.images.hr_files
    named = [file for file in files if file.stem == f"{source.name}_x{source.images.scale}"]
    fitting = [file for file in files if begins_with(file.stem, source.name)]
    found = named or [file for file in fitting if find_hr(file, hr_files) == hr_files[source.index]]
    if not found:
        advice = f"its name must begin with '{source.name}'; check {method.option}"
        raise InputError(f"{folder}: there is no SR image of {source.title}; {advice}")
    if len(found) > 1:
        raise InputError(f"{folder}: {found[0].name} and {found[1].name} are both of {source.title}; leave one of them")
    return found[0]


def scores(images: dict[str, np.ndarray], hr: np.ndarray, scale: int, what: str) -> dict[str, Scores]:
    """`standard` PSNR and SSIM of images (H, W, 3) by name. Raises InputError that names `what` if it is too small."""
    try:
        found = standard_of([_planes(image) for image in images.values()], _planes(hr), scale)
    except ValueError as error:
        raise InputError(f"{what}: cannot be scored: {error}") from error
    return dict(zip(images, found, strict=True))


def _planes(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
