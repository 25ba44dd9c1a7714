"""Check a data folder: counts, pairs, sizes, readability, and evaluation images that leaked into training."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from datas import layout
from datas.images import list_images, read_rgb
from datas.layout import TrainingDataset
from datas.pairs import find_lr, prepare_advice, size_problems
from utils import InputError

_BENCHMARK_COUNTS = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100, "Manga109": 109}


@dataclass
class Report:
    """What was looked at, one line per folder, and every problem, one line each."""

    looked_at: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        count = len(self.problems)
        verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "no problem found"
        return "\n".join([*self.looked_at, *(f"problem: {line}" for line in self.problems), verdict])


@dataclass(frozen=True)
class _Decoded:
    """A decoded file's (height, width) and a digest of its pixels."""

    size: tuple[int, int]
    digest: bytes


def check_data(data_path, scales: Sequence[int] | None, jobs: int, also: Sequence[str] = ()) -> Report:
    """Check every dataset of the layout that is found under `data_path`, decoding every file in `jobs` processes.

    Args:
        scales: the scales whose LR images must be there; None for those whose folders exist.
        also: further HR folders of training images, such as those of the config key `data`.

    Raises:
        InputError: `data_path` is not a folder.
    """
    data_path = Path(data_path)
    if not data_path.is_dir():
        raise InputError(f"{data_path}: no such folder; check the path")
    report = Report()
    known = {d.hr_folder(data_path): d for d in layout.TRAINING_DATASETS.values()}
    training = {folder: known.get(folder) for folder in [*filter(Path.is_dir, known), *map(Path, also)]}
    benchmarks = [path / "HR" for path in sorted(data_path.glob("benchmark/*")) if path.is_dir()]
    if not training and not benchmarks:
        report.problems.append(f"{data_path}: holds no dataset; datas/layout.py says how the folders are called")
    with ProcessPoolExecutor(jobs) as pool:
        trained = {folder: _check_folder(folder, scales, pool, report) for folder in training}
        held_out = {folder: _check_folder(folder, scales, pool, report) for folder in benchmarks}
        validation = data_path / "DIV2K" / "DIV2K_valid_HR"
        if validation.is_dir():
            held_out[validation] = _decode(_listed(validation, report), pool, report)
    for folder in sorted(set(data_path.glob("*/*_HR")) - {*training, validation}):
        report.looked_at.append(f"{folder}: not looked at; name it with --also if it holds training images")
    for folder, dataset in training.items():
        report.problems += _training_count_problems(folder, dataset, trained[folder])
    for folder in benchmarks:
        report.problems += _benchmark_count_problems(folder, held_out[folder])
    report.problems += _leaks(trained, held_out)
    return report


def _check_folder(hr_dir: Path, scales: Sequence[int] | None, pool: Executor, report: Report) -> dict[Path, _Decoded]:
    """Check an HR folder and its LR folders; return what its readable HR files hold."""
    hr_decoded = _decode(_listed(hr_dir, report), pool, report)
    report.looked_at.append(f"{hr_dir}: {len(hr_decoded)} images")
    for scale in scales or [s for s in layout.SCALES if layout.lr_folder(hr_dir, s).is_dir()]:
        lr_dir = layout.lr_folder(hr_dir, scale)
        lr_files = _listed(lr_dir, report, prepare_advice(hr_dir, scale))
        if not lr_files:
            continue
        report.looked_at.append(f"{lr_dir}: {len(lr_files)} images")
        lr_decoded = _decode(lr_files, pool, report)
        pairs, problems = find_lr(list(hr_decoded), hr_dir, lr_dir, scale, extra_allowed=False)
        readable = [pair for pair in pairs if pair[0] in hr_decoded and pair[1] in lr_decoded]
        hr_sizes = [hr_decoded[hr_file].size for hr_file, _ in readable]
        lr_sizes = [lr_decoded[lr_file].size for _, lr_file in readable]
        report.problems += problems + size_problems(readable, hr_sizes, lr_sizes, scale)
    return hr_decoded


def _listed(folder: Path, report: Report, advice: str = "check the folder") -> list[Path]:
    try:
        return list_images(folder, advice)
    except InputError as error:
        report.problems.append(str(error))
        return []


def _decode(files: Sequence[Path], pool: Executor, report: Report) -> dict[Path, _Decoded]:
    """What the readable files hold; the others become problems of the report."""
    decoded = {}
    title = str(files[0].parent) if files else ""
    for path, result in zip(files, tqdm(pool.map(_decode_one, files), title, len(files), leave=False), strict=True):
        if isinstance(result, str):
            report.problems.append(result)
        else:
            decoded[path] = result
    return decoded


def _decode_one(path: Path) -> _Decoded | str:
    try:
        image = read_rgb(path)
    except InputError as error:
        return str(error)
    return _Decoded(image.shape[:2], hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest())


def _training_count_problems(hr_dir: Path, dataset: TrainingDataset | None, found: dict[Path, _Decoded]) -> list[str]:
    """Images of the published list that are missing, images that are not on it, and validation images by number."""
    if dataset is None or dataset.numbers is None:
        return []
    stems, expected = {path.stem for path in found}, dataset.stems()
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
    expected = _BENCHMARK_COUNTS.get(hr_dir.parent.name, len(found))
    return [] if len(found) == expected else [f"{hr_dir}: has {len(found)} readable images, expected {expected}"]


def _leaks(trained: dict, held_out: dict) -> list[str]:
    """Training images whose pixels equal those of an evaluation image; arguments: HR folder -> path -> _Decoded."""
    owner = {decoded.digest: path for files in held_out.values() for path, decoded in files.items()}
    return [
        f"{path}: has the pixels of {owner[decoded.digest]}, an evaluation image; remove it from training"
        for files in trained.values()
        for path, decoded in files.items()
        if decoded.digest in owner
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
