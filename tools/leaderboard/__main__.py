"""Results of any networks as one table for each scale, and as a picture.

    python -m tools.leaderboard results/*.json                                  Markdown, printed
    python -m tools.leaderboard results/*.json --out board                      and board.md, board.tex, board.csv
    python -m tools.leaderboard results/*.json --protocol official --paper
    python -m tools.leaderboard results/*.json --plot board.png --scale 4 --set Set5
    python -m tools.leaderboard results/*.json --times peers.json               times of benchmark.py

The files are those of `test.py --json` and `tools.score --json`. A row is a network at a scale, a column a set. The
best value of a column is bold, the second underlined; values that print alike are marked alike. Only values that can be
compared are marked: a row of other conditions (16 bits, self-ensemble, tiles) is named so and not marked, and a value
of other images than most rows have has a footnote that says in what they differ. Images are compared by their names, by
their fingerprints where the files have them, and by the scores of bicubic upscaling.

Times are medians of the forward pass of an image of one set, left out where they are of different devices. Those of
`benchmark.py inference --outputs 720p --json`, where networks take turns in one process, are better: see --times.
Tables hold rounded numbers (`official` ones rounded upwards, as the paper's are), the CSV those that were measured.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's folder, wherever this is started

from evaluation.evaluator import PROTOCOLS
from tools.leaderboard.board import Board, boards
from tools.leaderboard.plot import plot
from tools.leaderboard.read import read_result, read_times
from tools.leaderboard.text import as_csv, as_latex, as_markdown
from utils import InputError, atomic_write, run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="JSON", help="files of test.py --json")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="standard", help="of all scores (default %(default)s)")
    parser.add_argument("--paper", action="store_true", help="add the paper's figures (--protocol official)")
    parser.add_argument("--set", help="sort by it, take times of it, draw it (default: the first that all have)")
    parser.add_argument("--times", type=Path, metavar="JSON", help="a file of benchmark.py inference --json")
    parser.add_argument("--out", type=Path, metavar="NAME", help="also write NAME.md, NAME.tex and NAME.csv")
    parser.add_argument("--plot", type=Path, action="append", default=[], metavar="FILE", help="draw a .png or .pdf")
    parser.add_argument("--scale", type=int, help="which scale to draw, where there are several")
    return parser.parse_args()


def drawn(found: list[Board], scale: int | None) -> Board:
    """The board to draw. Raises InputError if there are several and none is named, or not the one that is."""
    scales = ", ".join(str(board.scale) for board in found)
    if scale is None and len(found) > 1:
        raise InputError(f"--plot: the files are of scales {scales}; add --scale")
    fitting = [board for board in found if scale in (None, board.scale)]
    if not fitting:
        raise InputError(f"--scale {scale}: no file is of it; they are of {scales}")
    return fitting[0]


def main() -> None:
    arguments = parse_arguments()
    if arguments.scale is not None and not arguments.plot:
        raise InputError("--scale: goes with --plot; leave it out")
    results = [read_result(file, arguments.protocol) for file in arguments.results]
    times = read_times(arguments.times) if arguments.times else None
    found = boards(results, arguments.protocol, arguments.paper, arguments.set, times)
    print(as_markdown(found))
    written = []
    if arguments.out:
        for ending, text in ((".md", as_markdown(found)), (".tex", as_latex(found)), (".csv", as_csv(found))):
            written.append(arguments.out.with_name(arguments.out.name + ending))
            atomic_write(written[-1], text.encode())
    for file in arguments.plot:
        plot(drawn(found, arguments.scale), file)
        written.append(file)
    print("".join(f"\nwrote {file}" for file in written))


if __name__ == "__main__":
    run_command(main)
