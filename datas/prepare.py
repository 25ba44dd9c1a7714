"""Make LR images, and check a data folder.

    python -m datas.prepare --hr data/DF2K/DF2K_train_HR --scales 2 3 4        # LR folders beside the HR folder
    python -m datas.prepare --hr DIR --hr DIR2 --scales 4 --out OUT --jobs 8   # LR folders inside OUT
    python -m datas.prepare --check data                                       # every problem that is found

Making can be interrupted and repeated: LR images that are in order are left alone. LR images are those of MATLAB's
imresize (`datas.degradation`). A check looks at packed images too, where they lie in DATA_PATH/cache.
"""

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

from tqdm import tqdm

from datas.check import check_data
from datas.degradation import downscale
from datas.images import SUFFIXES, image_sizes, list_images, read_rgb, write_png
from datas.layout import SCALES, lr_folder, lr_name
from datas.names import usable_path
from datas.workers import JOBS, worker_pool
from utils import InputError, Terminal, held_folder, run_command


def make_lr(hr_dir, scales: Sequence[int], out_dir=None, jobs: int = 1) -> int:
    """Make the LR images of an HR folder that are missing, damaged, of the wrong size or older than their HR image.

    Args:
        hr_dir: folder of HR images.
        out_dir: where `X_LR_bicubic/X2` and so on go; None for beside `hr_dir`.
        jobs: processes.

    Returns:
        How many LR images were written.

    Raises:
        InputError: an HR image cannot be used (all headers are looked at first), an LR image cannot be written,
            another process makes them, or one of the processes was killed. What was made by then is kept.
    """
    hr_files = list_images(hr_dir)
    for path, size in zip(hr_files, image_sizes(hr_files), strict=True):
        if min(size) < max(scales):
            raise InputError(f"{path}: is {size[1]}x{size[0]} pixels, too small for x{max(scales)}; remove it")
    folders = {scale: lr_target(hr_dir, scale, out_dir) for scale in scales}
    with ExitStack() as held:
        for folder in folders.values():
            held.enter_context(held_folder(folder))
        pool = held.enter_context(worker_pool(min(jobs, len(hr_files)), "; the LR images made so far are kept"))
        written = pool.map(_make_image, hr_files, repeat(folders), chunksize=1)
        return sum(tqdm(written, f"LR of {hr_dir}", len(hr_files), unit="image", file=Terminal()))


def lr_target(hr_dir, scale: int, out_dir=None) -> Path:
    """The LR folder that `make_lr` fills: that of the layout, moved into `out_dir` if there is one.

    Raises:
        InputError: it has a name that is of no use.
    """
    folder = lr_folder(hr_dir, scale)
    return usable_path(folder if out_dir is None else Path(out_dir) / folder.parent.name / folder.name)


def _make_image(hr_file: Path, folders: dict[int, Path]) -> int:
    """Make one image's LR versions in `folders` (by scale); return how many had to be written."""
    targets = {scale: _lr_file(folder, lr_name(hr_file.stem, scale)) for scale, folder in folders.items()}
    height, width = image_sizes([hr_file])[0]
    stale = [
        scale for scale, path in targets.items() if not _in_order(path, hr_file, (height // scale, width // scale))
    ]
    if not stale:
        return 0
    image = read_rgb(hr_file)
    for scale in stale:
        if targets[scale].suffix != ".png":
            raise InputError(f"{targets[scale]}: does not fit {hr_file}, or is older; remove it and start again")
        write_png(targets[scale], downscale(image, scale))
    return len(stale)


def _lr_file(folder: Path, stem: str) -> Path:
    """The LR image of that stem whatever its suffix, or the PNG that is to be made."""
    candidates = (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if os.path.exists(path)), folder / f"{stem}.png")


def _in_order(lr_file: Path, hr_file: Path, size: tuple[int, int]) -> bool:
    try:
        newer = lr_file.stat().st_mtime_ns >= hr_file.stat().st_mtime_ns
        return newer and read_rgb(lr_file).shape[:2] == size
    except (OSError, InputError):
        return False  # missing or damaged: it is made


def _refuse_shared_targets(hr_dirs: Sequence[str], scale: int, out_dir) -> None:
    targets: dict[Path, str] = {}
    for hr_dir in hr_dirs:
        other = targets.setdefault(lr_target(hr_dir, scale, out_dir), hr_dir)
        if other != hr_dir:
            raise InputError(f"--out: {other} and {hr_dir} would share an LR folder there; run them one at a time")


def _arguments(command_line: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m datas.prepare", description="Make LR images, or check a folder.")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--hr", action="append", metavar="DIR", help="folder of HR images (may be repeated)")
    task.add_argument("--check", metavar="DATA_PATH", help="check everything found under this data folder")
    parser.add_argument(
        "--also", action="append", default=[], metavar="DIR", help="--check: a further training HR folder"
    )
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, help="needed with --hr")
    parser.add_argument("--out", metavar="DIR", help="where the LR folders go (default: beside the HR folder)")
    parser.add_argument("--jobs", type=int, default=JOBS, metavar="N", help="processes (default: all cores)")
    arguments = parser.parse_args(command_line)
    if arguments.hr and not arguments.scales:
        parser.error("--hr needs --scales, such as --scales 2 3 4")
    if arguments.check and arguments.out:
        parser.error("--out goes with --hr only")
    if arguments.hr and arguments.also:
        parser.error("--also goes with --check only")
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    return arguments


def main(command_line: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 when --check found problems."""
    arguments = _arguments(command_line)
    if arguments.check:
        findings = check_data(arguments.check, arguments.scales, arguments.jobs, arguments.also)
        print(findings.text())
        return 1 if findings.problems else 0
    _refuse_shared_targets(arguments.hr, arguments.scales[0], arguments.out)
    for hr_dir in arguments.hr:
        written = make_lr(hr_dir, arguments.scales, arguments.out, arguments.jobs)
        print(f"{hr_dir}: {written} LR images written")
    return 0


if __name__ == "__main__":
    run_command(main)
