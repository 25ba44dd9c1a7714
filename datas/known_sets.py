"""The lines of `known_sets.tsv` of one or more evaluation sets, printed.

    python -m datas.known_sets data/benchmark/Set5 data/benchmark/Set14

Every HR image, and its LR images where there are any, have a line with their digests (`datas.fingerprints`) at x2, x3
and x4. LR images belong into the file where MATLAB itself made them.
"""

import argparse
import csv
import os
import sys
from pathlib import Path

from datas.fingerprints import image_digest
from datas.images import list_images, read_rgb
from datas.layout import SCALES, lr_folder, lr_name
from utils import run_command


def table_rows(folder: Path) -> list[list[str]]:
    """The lines of one set: its name, 'HR' or 'LR', the image, and a digest for each scale."""
    hr_files, rows = list_images(folder / "HR"), []
    for path in hr_files:
        image = read_rgb(path)
        sides = [[length - length % scale for length in image.shape[:2]] for scale in SCALES]
        rows.append([folder.name, "HR", path.stem, *(image_digest(image[:h, :w]) for h, w in sides)])
    folders = [lr_folder(folder / "HR", scale) for scale in SCALES]
    if any(map(os.path.isdir, folders)):
        for hr_file in hr_files:
            files = [lr / f"{lr_name(hr_file.stem, scale)}.png" for lr, scale in zip(folders, SCALES, strict=True)]
            rows.append([folder.name, "LR", hr_file.stem, *(image_digest(read_rgb(path)) for path in files)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a set: it holds HR, and LR_bicubic")
    writer = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
    writer.writerow(["set", "kind", "image", *(f"x{scale}" for scale in SCALES)])
    for folder in parser.parse_args().folders:
        writer.writerows(table_rows(folder))


if __name__ == "__main__":
    run_command(main)
