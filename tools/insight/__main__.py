"""What a network looks at, and how SSIU's picture comes about (docs/insight.md).

    python -m tools.insight lam photo.png --window 120,80,32 --out lam.png      where the detail in a window comes from
    python -m tools.insight erf noise --out erf.png                             effective receptive field, of noise
    python -m tools.insight stages photo.png --hr large.png --out stages.png    the picture after each unfolding stage
    python -m tools.insight moe one.png two.png --out moe.png                   which stage MoE-FS takes where
    python -m tools.insight attention photo.png --stage 5 --query 40,40 --out attention.png

Pictures are LR images, or parts of them: --crop x,y,w,h. The network is SSIU with the weights that come with the
project for --scale, or those of --weights; lam and erf take any other, too: --model. All of it runs on the CPU.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's folder, wherever this is started

from datas import SCALES
from evaluation.peers import add_model_options
from models import ModelError
from tools.insight.drawing import need_drawing, save
from tools.insight.findings import FINDERS, ONE_PICTURE, check_options
from tools.insight.lam import SIGMA, STEPS
from tools.insight.opened import open_network
from tools.insight.values import need_values, save_values
from utils import InputError, run_command


def numbers(names: str):
    """A type for argparse: whole numbers from 0 up, as many as there are `names`, between commas."""

    def parse(text: str) -> tuple[int, ...]:
        if not re.fullmatch(r"\d{1,9}(,\d{1,9})" + f"{{{names.count(',')}}}", text):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {names}, whole numbers from 0 up")
        return tuple(map(int, text.split(",")))

    return parse


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=FINDERS)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="LR images; erf: or the word noise")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .png or .pdf to write")
    parser.add_argument("--palette", action="store_true", help="256 colours in the .png: half the bytes")
    parser.add_argument("--values", type=Path, action="append", default=[], metavar="FILE",
                        help="also write the numbers: .json, or .npz with the maps")  # fmt: skip
    parser.add_argument("--scale", type=int, choices=SCALES, help="of the network (default 4, or that of --weights)")
    add_model_options(parser)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights of the network")
    parser.add_argument("--crop", type=numbers("x,y,w,h"), metavar="X,Y,W,H", help="the part to take, in LR pixels")
    parser.add_argument("--window", type=numbers("x,y,size"), metavar="X,Y,SIZE",
                        help="lam: in SR pixels of the picture or crop (default: its middle)")  # fmt: skip
    parser.add_argument("--steps", type=int, help=f"lam: of the path (default {STEPS})")
    parser.add_argument("--sigma", type=float, help=f"lam: the blur it begins with, in LR pixels (default {SIGMA})")
    parser.add_argument("--hr", type=Path, metavar="FILE", help="stages: the HR image, to score against")
    parser.add_argument("--stage", type=int, metavar="N", help="attention: which, from 1 (default: the last)")
    parser.add_argument("--query", type=numbers("x,y"), metavar="X,Y",
                        help="attention: an LR pixel of the picture or crop (default: the middle)")  # fmt: skip
    parser.add_argument(
        "--mean", action="store_true", default=None, help="attention: mean over the queries of its block"
    )
    parser.add_argument("--head", type=int, metavar="N", help="attention: which, from 1 (default: all)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    check_options(arguments)
    need_drawing(arguments.out)
    need_values(arguments.values)
    if arguments.what in ONE_PICTURE and len(arguments.images) != 1:
        raise InputError(f"{arguments.what}: takes one image, {len(arguments.images)} are named")
    found = FINDERS[arguments.what](open_network(arguments), arguments)
    print("\n".join(found.lines))
    save(found.figure, arguments.out, arguments.palette)
    for file in arguments.values:
        save_values(file, found.numbers, found.maps)
    print("".join(f"wrote {file}\n" for file in (arguments.out, *arguments.values)), end="")


if __name__ == "__main__":
    run_command(main, ModelError)
