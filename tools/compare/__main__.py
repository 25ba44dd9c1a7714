"""The figure of methods side by side: an image with a box, and that part of it as every method has it, with scores.

    python -m tools.compare --config configs/SSUFSR_light_x4.yml --set 'eval_sets=[Set14]' \\
        --method RCAN=results/rcan --method SSIU=results/ssiu --crop barbara:280,170,64,64 --out figure.pdf
    python -m tools.compare ... --crop auto --crop baboon:auto     where the methods differ most
    python -m tools.compare ... --without image --without LR       the crops alone, and not all of them
    python -m tools.compare ... --out figure.png --out figure.pdf  both

or, with --sr, the middle of every image, LR | bicubic | SR | HR, one row an image, without scores:

    python -m tools.compare --config configs/SSUFSR_light_x4.yml --set data_path=data/sample \\
        --set 'eval_sets=[Sample]' --sr results/demo --out comparison.png

SR images are those that `test.py --save-images` wrote, or files of any program whose names begin with the name of the
HR image. PSNR and SSIM are of the whole image (`standard`, on Y). The best is bold; the second is underlined where
three or more are compared. What is printed names every window as --crop takes it. The figure needs matplotlib
(`pip install matplotlib`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's folder, wherever this is started

from config import Config, load_config
from datas import BenchmarkSet
from evaluation.sets import open_sets
from tools.compare.figure import CROP_WIDTH, PARTS, Block, block, printed, write_figure
from tools.compare.images import all_sources, read_methods
from tools.compare.rows import write_rows
from tools.compare.windows import AUTO, read_crops
from tools.drawing import ENDINGS, need_matplotlib
from utils import InputError, run_command

SIDES = {"figure": 64, "rows": 180}
OF_FIGURE = ("crop", "without", "score_crop", "magnify")  # options that rows have no use for


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file: scale, data_path, eval_sets")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--method", action="append", metavar="NAME=DIR", help="SR images, or a folder of them per set")
    kind.add_argument("--sr", type=Path, metavar="DIR", help="draw rows of these SR images")
    parser.add_argument(
        "--crop",
        action="append",
        metavar="WINDOW",
        help=f"IMAGE:x,y,w,h in HR pixels, IMAGE:{AUTO} or {AUTO} (default)",
    )
    parser.add_argument(
        "--side", type=int, metavar="PIXELS",
        help=f"of HR, of windows of {AUTO} (default {SIDES['figure']}) and of rows (default {SIDES['rows']})",
    )  # fmt: skip
    parser.add_argument("--without", action="append", choices=PARTS, help="leave this out of the figure")
    parser.add_argument("--score-crop", action="store_true", help="scores are of the crop, not of the whole image")
    parser.add_argument(
        "--magnify", type=int, metavar="TIMES", help=f"crops (default: such that they are about {CROP_WIDTH} pixels)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="the .png to write; of a figure or .pdf",
    )
    return parser.parse_args()


def check(arguments: argparse.Namespace, config: Config) -> None:
    """Raise InputError where options do not go together or are out of range."""
    endings = ENDINGS if arguments.method else (".png",)
    for file in arguments.out:
        if file.suffix.lower() not in endings:
            raise InputError(f"--out {file}: must end in {' or '.join(endings)}")
    if not arguments.method:
        for name in OF_FIGURE:
            if getattr(arguments, name):
                raise InputError(f"--{name.replace('_', '-')}: is for --method, not for --sr")
        if len(arguments.out) > 1:
            raise InputError("--out: rows are written to one file; name one")
    if arguments.side is not None and arguments.side < config.scale:
        raise InputError(f"--side {arguments.side}: must be {config.scale} at least, the scale")
    if arguments.magnify is not None and not 1 <= arguments.magnify <= CROP_WIDTH:
        raise InputError(f"--magnify {arguments.magnify}: must be from 1 to {CROP_WIDTH}")
    if not config.eval_sets:
        raise InputError("config key 'eval_sets' is empty: there are no images to compare")


def blocks(arguments: argparse.Namespace, sets: Sequence[BenchmarkSet]) -> list[Block]:
    """What is drawn for each --crop; says its window and scores."""
    methods, found = read_methods(arguments.method), []
    crops = read_crops(arguments.crop or [AUTO], all_sources(sets), methods, arguments.side or SIDES["figure"])
    for compared, window in crops:
        one = block(compared, window, arguments.without or (), arguments.score_crop, arguments.magnify)
        found.append(one)
        scores = (f"{cell.name} {'/'.join(printed(cell.scores).values())}" for cell in one.cells if cell.scores)
        print(f"--crop {compared.source.title}:{','.join(map(str, window))}   {', '.join(scores)}")
    return found


def main() -> None:
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.set)
    check(arguments, config)
    sets = open_sets(config, arguments.set)
    if arguments.method:
        need_matplotlib("--method needs")  # said before the images are read
        write_figure(blocks(arguments, sets), arguments.out)
    else:
        write_rows(sets, arguments.sr, arguments.side or SIDES["rows"], arguments.out[0])
    for file in arguments.out:
        print(f"wrote {file}")


if __name__ == "__main__":
    run_command(main)
