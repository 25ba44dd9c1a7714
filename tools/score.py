"""Score SR images of any method, by any program, under the rules of test.py.

    python -m tools.score --scale 4 --sr results/rcan/Set5 --hr data/benchmark/Set5/HR
    python -m tools.score ... --lr data/benchmark/Set5/LR_bicubic/X4        check that SR is of this scale
    python -m tools.score ... --name RCAN --json rcan.json --csv rcan.csv   files as test.py writes them
    python -m tools.score ... --lpips --dists                               pip install torchmetrics torchvision

An SR image belongs to the HR image whose name its own name starts with (the longest such name), so NAME.png,
NAME_x4.png and NAME_SR.png will do. HR is cropped at the top left to the size of SR.

SR files hold 8-bit images. `standard` rounds to these anyway. `official` does not: its scores of files are of the
rounded images, not those that the network's own float output has. RGB: PSNR of the mean squared error over the three
channels, SSIM as in `standard` but the mean of those of R, G and B; the border is left out as for Y. LPIPS and DISTS
are of whole RGB images.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from datas import downscale, list_images, read_rgb, upscale
from datas.fingerprints import image_digest, known_or_not
from datas.lr_origin import LrImage, difference, origins
from evaluation.evaluator import PROTOCOLS
from evaluation.metrics import Scores, crop_border, psnr
from evaluation.report import write_json
from evaluation.similarity import ssims
from tools.perceptual import PERCEPTUAL, Perceptual
from tools.scale_check import LOOKED_AT, check_scale, closeness, find_lr, likely_scale
from tools.score_files import ScoredImage, ScoredSet, as_json, mean_of, write_csv
from utils import InputError, run_command

COLUMNS = {"standard": "standard", "official": "official, of rounded images", "rgb": "RGB"}


@dataclass(frozen=True)
class Files:
    """An SR file, its HR file and, if given, its LR file."""

    sr: Path
    hr: Path
    lr: Path | None


def find_hr(sr_file: Path, hr_files: list[Path]) -> Path:
    """The HR image an SR image belongs to. Raises InputError if there is none."""
    fitting = [path for path in hr_files if begins_with(sr_file.stem, path.stem)]
    if not fitting:
        raise InputError(f"{sr_file}: no HR image has a name that it starts with; check --hr")
    return max(fitting, key=lambda path: len(path.stem))


def begins_with(name: str, start: str) -> bool:
    """Whether a name begins with another that does not end within a number, as img_1 in img_10."""
    rest = name[len(start) :]
    return name.startswith(start) and not (start[-1:].isdigit() and rest[:1].isdigit())


def find_files(sr_folder: Path, hr_folder: Path, lr_folder: Path | None) -> tuple[list[Files], int]:
    """Which files belong together, and how many HR images have no SR image.

    Raises:
        InputError: no HR or LR image of an SR image, or two SR images of one HR image.
    """
    hr_files, lr_files = list_images(hr_folder), list_images(lr_folder) if lr_folder else []
    taken: dict[Path, Path] = {}
    for sr_file in list_images(sr_folder):
        hr_file = find_hr(sr_file, hr_files)
        if hr_file in taken:
            raise InputError(f"{sr_file}: is of {hr_file}, as {taken[hr_file].name} is; leave one of them")
        taken[hr_file] = sr_file
    found = [
        Files(sr, hr, find_lr(hr, lr_files, lr_folder) if lr_folder is not None else None) for hr, sr in taken.items()
    ]
    return found, len(hr_files) - len(found)


def read_files(files: Files, scale: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """SR (H, W, 3), HR of its size, and LR if there is one. Raises InputError where sizes do not fit."""
    sr, hr = read_rgb(files.sr), read_rgb(files.hr)
    height, width = sr.shape[:2]
    lr = read_rgb(files.lr) if files.lr else None
    if files.lr and lr is not None:
        check_scale(files.sr, sr, files.lr, lr, scale)
    if any(side % scale for side in (height, width)):
        raise InputError(f"{files.sr}: {width}x{height} pixels are no multiple of {scale}, so it is not of x{scale}")
    if any(not 0 <= full - cropped < scale for full, cropped in zip(hr.shape[:2], (height, width), strict=True)):
        size = f"{hr.shape[1]}x{hr.shape[0]}"
        raise InputError(f"{files.sr}: {width}x{height} pixels do not fit {files.hr} of {size} at x{scale}")
    return sr, np.ascontiguousarray(hr[:height, :width]), lr


def rgb_scores(sr: Tensor, hr: Tensor, scale: int) -> Scores:
    """Over R, G and B of two uint8 (3, H, W) images, a border of `scale` pixels left out.

    PSNR is of the mean squared error over all three channels; SSIM is that of `standard`, the mean over the channels.
    """
    first, second = (crop_border(image, scale).double() for image in (sr, hr))
    similarities = [ssims([a], b)[0] for a, b in zip(first, second, strict=True)]
    return Scores(psnr(first, second), sum(similarities) / len(similarities))


def score_image(
    sr: np.ndarray, hr: np.ndarray, lr: np.ndarray, scale: int, perceptual: Perceptual, where: str
) -> ScoredImage:
    """The scores of one SR image and of bicubic upscaling of `lr`. Raises InputError if it is too small."""
    images = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in (sr, upscale(lr, scale), hr)]
    try:
        found = {protocol: score(images[:2], images[2], scale) for protocol, score in PROTOCOLS.items()}
        rgb = rgb_scores(images[0], images[2], scale)
    except ValueError as error:
        raise InputError(f"{where}: cannot be scored: {error}") from error
    scores, bicubic = ({protocol: both[place] for protocol, both in found.items()} for place in (0, 1))
    return ScoredImage({**scores, "rgb": rgb}, bicubic, perceptual.scores(images[0], images[2], where))


def score_set(found: list[Files], name: str, scale: int, perceptual: Perceptual) -> tuple[ScoredSet, list[str]]:
    """The scores of all images, and what there is to say of them."""
    scored = ScoredSet(name, {}, {}, {})
    close: list[dict[int, float]] = []
    others: list[LrImage] = []
    for files in found:
        sr, hr, lr = read_files(files, scale)
        matlab = downscale(hr, scale)
        if lr is not None and difference(matlab, lr).largest:
            others.append(LrImage(lr, partial(read_rgb, files.hr)))
        if len(close) < LOOKED_AT:
            close.append(closeness(sr, hr))
        given = matlab if lr is None else lr
        scored.images[files.hr.stem] = score_image(sr, hr, given, scale, perceptual, str(files.sr))
        scored.hr[files.hr.stem] = image_digest(hr)
        if lr is not None:
            scored.lr[files.hr.stem] = image_digest(lr)
    count = len(found)
    lines = [f"{name} x{scale}: {count} image{'s' * (count != 1)}, HR {known_or_not(name, scale, scored.hr)}"]
    return scored, [*lines, _scale_line(scale, close, bool(scored.lr)), *_lr_lines(others, count, scale)]


def _scale_line(scale: int, close: list[dict[int, float]], has_lr: bool) -> str:
    likely = likely_scale(close)
    if has_lr:
        return f"scale: every SR image is {scale} times as large as its LR image"
    if likely is None:
        return f"warning: that the SR images are of x{scale} was not checked; give their LR images with --lr"
    mean = sum(one[likely] for one in close) / len(close)
    same = f"shrunk by {likely} they have the pixels of HR, at {mean:.0f} dB"
    if likely != scale:
        return f"warning: the SR images look like those of x{likely}, not x{scale}: {same}; check --scale, or give --lr"
    return f"scale: the SR images look like those of x{scale}: {same}; not checked by LR images, as there is no --lr"


def _lr_lines(others: list[LrImage], count: int, scale: int) -> list[str]:
    if not others:
        return []
    told = "; ".join(origin.text(f"{origin.count}") for origin in origins(others, scale))
    return [f"warning: {len(others)} of {count} LR images differ from MATLAB's bicubic of HR: {told}"]


def table(scored: ScoredSet) -> str:
    """One row an image and their mean, as Markdown."""
    perceptual = [name for name in PERCEPTUAL if any(name in image.perceptual for image in scored.images.values())]
    header = ["image", *COLUMNS.values(), *map(str.upper, perceptual)]
    rows = [header, ["---"] * len(header)]
    for name, image in {**scored.images, f"mean of {len(scored.images)}": mean_of(scored)}.items():
        pairs = [f"{image.scores[key].psnr:.4f} / {image.scores[key].ssim:.6f}" for key in COLUMNS]
        rows.append([name, *pairs, *(f"{image.perceptual[key]:.4f}" for key in perceptual)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sr", type=Path, required=True, help="folder of SR images")
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR images")
    parser.add_argument("--scale", type=int, required=True, help="the factor, and the border that is left out")
    parser.add_argument("--lr", type=Path, help="folder of LR images, by which the scale is checked")
    parser.add_argument("--name", help="of the network in the files (default: of the folder of --sr)")
    parser.add_argument("--set-name", help="of the set (default: of the folder that holds --hr)")
    parser.add_argument("--parameters", type=int, help="of the network, for --json")
    parser.add_argument("--multiply-adds", type=int, help="of the network for an output of 1280x720, for --json")
    parser.add_argument("--json", type=Path, metavar="FILE", help="means and images, as test.py --json")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="one line per image, as test.py's per_image.csv")
    parser.add_argument("--lpips", action="store_true", help="also LPIPS (AlexNet)")
    parser.add_argument("--dists", action="store_true", help="also DISTS")
    return parser.parse_args()


def set_name(hr_folder: Path) -> str:
    """That of the set's folder: 'Set5' of data/benchmark/Set5/HR."""
    folder = hr_folder.resolve()
    return folder.parent.name if folder.name == "HR" else folder.name


def main() -> None:
    arguments = parse_arguments()
    if arguments.scale < 1:
        raise InputError(f"--scale {arguments.scale}: is no scale; use 2, 3 or 4")
    perceptual = Perceptual([name for name in PERCEPTUAL if getattr(arguments, name)])
    found, without = find_files(arguments.sr, arguments.hr, arguments.lr)
    if without:
        print(f"{without} of {without + len(found)} HR images have no SR image: they are not in the mean")
    name = arguments.set_name or set_name(arguments.hr)
    scored, lines = score_set(found, name, arguments.scale, perceptual)
    print("\n".join([*lines, "", table(scored)]))
    network = {
        "name": arguments.name or arguments.sr.resolve().name,
        "parameters": arguments.parameters,
        "multiply_adds": arguments.multiply_adds,
    }
    if arguments.json:
        write_json(arguments.json, as_json(scored, network, arguments.scale))
        print(f"wrote {arguments.json}")
    if arguments.csv:
        write_csv(arguments.csv, scored, network["name"])
        print(f"wrote {arguments.csv}")


if __name__ == "__main__":
    run_command(main)
