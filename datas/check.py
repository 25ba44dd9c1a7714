"""Check a data folder: counts, pairs, sizes, readability, packed pixels, and evaluation images among training images.

`check_data` decodes every file of a data folder. `leaks` is the quick look at the images of one run.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datas import layout
from datas.benchmark import BenchmarkSet
from datas.images import image_sizes, list_images, pixel_digest, read_rgb
from datas.manifest import PackedImage, Unusable, data_file, read_manifest
from datas.names import usable_path
from datas.store import Pack
from datas.train_set import TrainSet
from datas.verify import changed, compared
from datas.workers import worker_pool
from utils import InputError, Terminal, printable


@dataclass
class Findings:
    """What was looked at, one line per folder or pack, and every problem, one line each.

    `digests` holds the checksum of the pixels of every file that was decoded, by its path after any links.
    """

    looked_at: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        count = len(self.problems)
        verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "no problem found"
        lines = [*self.looked_at, *(f"problem: {line}" for line in self.problems), verdict]
        return "\n".join(map(printable, lines))


@dataclass(frozen=True)
class _Decoded:
    """A decoded file's (height, width) and a digest of its pixels."""

    size: tuple[int, int]
    digest: str


def check_data(data_path, scales: Sequence[int] | None, jobs: int, also: Sequence[str] = ()) -> Findings:
    """Check every dataset of the layout that is found under `data_path`, decoding every file in `jobs` processes.

    Args:
        scales: the scales whose LR images must be there; None for those whose folders exist.
        also: further HR folders of training images, such as those of the config key `data`.

    Raises:
        InputError: `data_path` is not a folder, or a process was killed.
    """
    data_path = usable_path(data_path)
    if not os.path.isdir(data_path):
        raise InputError(f"{data_path}: no such folder; check the path")
    findings = Findings()
    known = {d.hr_folder(data_path): d for d in layout.TRAINING_DATASETS.values()}
    training = {folder: known.get(folder) for folder in [*filter(os.path.isdir, known), *map(usable_path, also)]}
    benchmarks = [path / "HR" for path in sorted(data_path.glob("benchmark/*")) if os.path.isdir(path)]
    if not training and not benchmarks:
        findings.problems.append(f"{data_path}: holds no dataset; datas/layout.py says how the folders are called")
    with worker_pool(jobs) as pool:
        trained = {folder: _check_folder(folder, scales, pool, findings) for folder in training}
        held_out = {folder: _check_folder(folder, scales, pool, findings) for folder in benchmarks}
        validation = data_path / "DIV2K" / "DIV2K_valid_HR"
        if os.path.isdir(validation):
            held_out[validation] = _decode(_listed(validation, findings), pool, findings)
    for folder in sorted(set(data_path.glob("*/*_HR")) - {*training, validation}):
        findings.looked_at.append(f"{folder}: not looked at; name it with --also if it holds training images")
    for folder, dataset in training.items():
        findings.problems += _training_count_problems(folder, dataset, trained[folder])
    for folder in benchmarks:
        findings.problems += _benchmark_count_problems(folder, held_out[folder])
    owner = {decoded.digest: path for files in held_out.values() for path, decoded in files.items()}
    findings.problems += [
        _leak(path, owner[decoded.digest])
        for files in trained.values()
        for path, decoded in files.items()
        if decoded.digest in owner
    ]
    for manifest_path in sorted((data_path / "cache").glob("*.json")):
        _check_pack(manifest_path, findings)
    return findings


def leaks(data: TrainSet, sets: Sequence[BenchmarkSet]) -> list[str]:
    """A line for every training image whose HR pixels equal those of an evaluation image as it is stored.

    Only images of equal size are compared, so that few are read: an evaluation image is decoded once, training images
    are looked at where they are packed.

    Raises:
        InputError: an evaluation image that is decoded is damaged.
    """
    by_size = defaultdict(list)
    for source in data.sources:
        for index, size in enumerate(zip(source.hr.heights.tolist(), source.hr.widths.tolist(), strict=True)):
            by_size[size].append((source, index))
    owner: dict[Path, Path] = {}
    hr_files = [path for images in sets for path in images.hr_files]
    drop_alpha = any(images.drop_alpha for images in sets)
    for hr_file, (height, width) in zip(hr_files, image_sizes(hr_files, drop_alpha).tolist(), strict=True):
        if (height, width) not in by_size:
            continue
        held_out = read_rgb(hr_file, drop_alpha)
        for source, index in by_size[height, width]:
            if _same_pixels(source.hr.whole(index), held_out):
                owner[source.path / source.hr.names[index]] = hr_file
    return [_leak(path, evaluation_image) for path, evaluation_image in owner.items()]


def _same_pixels(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two images of equal size are equal; most differ in one row already, which costs a thousandth."""
    middle = len(first) // 2
    return np.array_equal(first[middle], second[middle]) and np.array_equal(first, second)


def _leak(path: Path, evaluation_image: Path) -> str:
    return f"{path}: has the pixels of {evaluation_image}, an evaluation image; remove it from training"


def _check_folder(
    hr_dir: Path, scales: Sequence[int] | None, pool: Executor, findings: Findings
) -> dict[Path, _Decoded]:
    """Check an HR folder and its LR folders; return what its readable HR files hold."""
    hr_files = _listed(hr_dir, findings)
    if not hr_files:
        return {}
    hr_decoded = _decode(hr_files, pool, findings)
    findings.looked_at.append(f"{hr_dir}: {len(hr_decoded)} images")
    for scale in scales or [s for s in layout.SCALES if os.path.isdir(layout.lr_folder(hr_dir, s))]:
        lr_dir = layout.lr_folder(hr_dir, scale)
        lr_files = _listed(lr_dir, findings, layout.prepare_advice(hr_dir, scale))
        if not lr_files:
            continue
        findings.looked_at.append(f"{lr_dir}: {len(lr_files)} images")
        lr_decoded = _decode(lr_files, pool, findings)
        pairs, problems = layout.find_lr(list(hr_decoded), hr_dir, lr_dir, scale, extra_allowed=False)
        readable = [pair for pair in pairs if pair[0] in hr_decoded and pair[1] in lr_decoded]
        hr_sizes = [hr_decoded[hr_file].size for hr_file, _ in readable]
        lr_sizes = [lr_decoded[lr_file].size for _, lr_file in readable]
        findings.problems += problems + layout.size_problems(readable, hr_sizes, lr_sizes, scale)
    return hr_decoded


def _listed(folder: Path, findings: Findings, advice: str = "check the folder") -> list[Path]:
    try:
        return list_images(folder, advice)
    except InputError as error:
        findings.problems.append(str(error))
        return []


def _decode(files: Sequence[Path], pool: Executor, findings: Findings) -> dict[Path, _Decoded]:
    """What the readable files hold; the others become problems."""
    decoded = {}
    title = str(files[0].parent) if files else ""
    results = tqdm(pool.map(_decode_one, files), title, len(files), leave=False, file=Terminal())
    for path, result in zip(files, results, strict=True):
        if isinstance(result, str):
            findings.problems.append(result)
        else:
            decoded[path] = result
            findings.digests[os.path.realpath(path)] = result.digest
    return decoded


def _decode_one(path: Path) -> _Decoded | str:
    try:
        image = read_rgb(path)
    except InputError as error:
        return str(error)
    return _Decoded(image.shape[:2], pixel_digest(image.shape, [image.reshape(-1)]))


def _check_pack(manifest_path: Path, findings: Findings) -> None:
    """Compare packed pixels with their checksums, and these with the files where they were decoded."""
    try:
        images = read_manifest(manifest_path)
    except Unusable as reason:
        findings.looked_at.append(f"{manifest_path}: {reason}; a run that needs it packs its images anew")
        return
    pack = Pack(data_file(manifest_path, images), images)
    findings.looked_at.append(f"{pack.path}: {len(pack)} packed images")
    remedy = "remove it, a run that needs it packs its images anew"
    try:
        with open(pack.path, "rb", buffering=0) as file:
            found = tqdm(compared(pack, file), pack.path.name, len(pack), leave=False, file=Terminal())
            findings.problems += [f"{changed(pack, name)}; {remedy}" for name, is_same in found if not is_same]
    except OSError as error:
        findings.problems.append(f"{pack.path}: cannot be read ({error.strerror}); {remedy}")
    findings.problems += [
        f"{image.source}: has other pixels than {pack.path} holds of it, though of the same size and time; {remedy}"
        for image in images
        if _is_as_when_packed(image) and findings.digests.get(image.source, image.pixels) != image.pixels
    ]


def _is_as_when_packed(image: PackedImage) -> bool:
    """Whether a file has the size and time that it had when it was packed; otherwise a run packs it anew anyway."""
    try:
        state = os.stat(image.source)
    except (OSError, ValueError):
        return False
    return (state.st_size, state.st_mtime_ns) == (image.size, image.mtime_ns)


def _training_count_problems(
    hr_dir: Path, dataset: layout.TrainingDataset | None, found: dict[Path, _Decoded]
) -> list[str]:
    """Images of the published list that are missing, images that are not on it, and validation images by number."""
    if dataset is None or (expected := dataset.stems()) is None:
        return []
    stems = {path.stem for path in found}
    validation = {f"{number:04d}" for number in layout.VALIDATION_NUMBERS}
    missing = [stem for stem in expected if stem not in stems]
    foreign = sorted(stems - set(expected) - validation)
    problems = [
        f"{path}: is a DIV2K validation image by its number; remove it from training"
        for path in found
        if path.stem in validation
    ]
    if missing:
        problems.append(f"{hr_dir}: {len(missing)} of {len(expected)} images are missing or damaged: {_some(missing)}")
    if foreign:
        problems.append(f"{hr_dir}: {len(foreign)} images do not belong to {dataset.folder}: {_some(foreign)}")
    return problems


def _benchmark_count_problems(hr_dir: Path, found: dict[Path, _Decoded]) -> list[str]:
    expected = layout.BENCHMARKS.get(hr_dir.parent.name, len(found))
    return [] if len(found) == expected else [f"{hr_dir}: has {len(found)} readable images, expected {expected}"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
