"""Which folders a training run reads, and whether everything in them fits, before any of it is packed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datas import layout
from datas.images import image_sizes, list_images
from datas.pairs import find_lr, patch_problems, prepare_advice, size_problems, stop_on
from utils import InputError, did_you_mean

_ENTRY_KEYS = ("path", "weight", "lr")


@dataclass(frozen=True)
class SourceFolders:
    """Folders of one training source; `stems` names the images to use, None means all.

    `advice` says what to do when the HR folder is missing or empty.
    """

    hr_dir: Path
    lr_dir: Path
    stems: list[str] | None
    advice: str
    weight: float = 1.0


def training_folders(data_path, training_dataset: str, data: Sequence[Mapping] | None, scale: int) -> list:
    """The `SourceFolders` of a run: those of `data` if it has entries, else those of the named dataset.

    Raises:
        InputError: a key, a dataset name or `data_path` is wrong; folders are not looked at yet.
    """
    if data:
        return [_from_entry(entry, number, scale) for number, entry in enumerate(data)]
    dataset = layout.training_dataset(training_dataset)
    if not data_path:
        raise InputError(f"data_path: is empty; set it to the folder that holds {dataset.folder}")
    hr_dir = dataset.hr_folder(data_path)
    advice = f"'{training_dataset}' lies there: set data_path to the folder that holds {dataset.folder}"
    return [SourceFolders(hr_dir, layout.lr_folder(hr_dir, scale), dataset.stems(), advice=advice)]


def checked_pairs(folders: SourceFolders, scale: int, lr_patch: int) -> list[tuple[Path, Path]]:
    """The (HR, LR) files of a source, after a look at every file's header.

    Raises:
        InputError: images are missing, unpaired, in a wrong format, of sizes that do not fit, or too small.
    """
    hr_files = _selected(list_images(folders.hr_dir, folders.advice), folders)
    extra_allowed = folders.stems is not None
    pairs, problems = find_lr(hr_files, folders.hr_dir, folders.lr_dir, scale, extra_allowed)
    stop_on(problems, prepare_advice(folders.hr_dir, scale))
    hr_sizes, lr_sizes = (image_sizes(files) for files in zip(*pairs, strict=True))
    stop_on(size_problems(pairs, hr_sizes, lr_sizes, scale), prepare_advice(folders.hr_dir, scale))
    stop_on(patch_problems(pairs, lr_sizes, lr_patch, scale), "remove what is too small, or lower patch_size")
    return pairs


def _from_entry(entry: Mapping, number: int, scale: int) -> SourceFolders:
    name = f"data[{number}]"
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
    hr_dir = Path(entry["path"])
    lr_dir = str(entry["lr"]).replace("{scale}", str(scale)) if entry.get("lr") else layout.lr_folder(hr_dir, scale)
    return SourceFolders(hr_dir, Path(lr_dir), None, f"check {name}.path", float(weight))


def _selected(hr_files: list[Path], folders: SourceFolders) -> list[Path]:
    """The files that belong to the dataset, all of which must be there."""
    if folders.stems is None:
        return hr_files
    by_stem = {path.stem: path for path in hr_files}
    missing = [stem for stem in folders.stems if stem not in by_stem]
    if missing:
        raise InputError(
            f"{folders.hr_dir}: {len(missing)} of the dataset's {len(folders.stems)} images are missing, "
            f"the first is {missing[0]}.png; complete the folder, or list it under `data` to train on what is there"
        )
    return [by_stem[stem] for stem in folders.stems]
