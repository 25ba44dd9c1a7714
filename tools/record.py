"""Runs as rows of the record table, and their curves as a picture.

    python -m tools.record runs/A runs/B                      a Markdown table; runs that differ by seed share a row
    python -m tools.record runs/A runs/B --plot docs/record.png
    python -m tools.record runs/OLD --bicubic x4.json         where metrics.jsonl has no scores of bicubic

Everything is read from the runs' own metrics.jsonl and config.yml; nothing is typed. Scores are `standard` ones of the
last validation; beside them are those of the best one, whose weights are best.pt: the one with the largest PSNR on the
first set of `eval_sets`. Core-hours are hours x processes x threads. The picture needs matplotlib
(`pip install matplotlib`).
"""

import argparse
import dataclasses
import io
import json
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project's folder, wherever this is started

from config import Config, load_config
from evaluation.metrics import Scores
from evaluation.report import PAPER
from tools.drawing import need_matplotlib
from utils import InputError, atomic_write, run_command

THREADS = re.compile(r", (\d+) threads$")  # ends the name of a CPU, see models/devices.py
Bicubic = dict[int, dict[str, Scores]]  # by scale and set


@dataclass(frozen=True)
class Run:
    """One finished run: its configuration and the lines of its metrics.jsonl, one a validation at least."""

    folder: Path
    config: Config
    lines: list[dict]

    def by_set(self, kind: str) -> dict[str, list[dict]]:
        """The lines of kind 'KIND/SET', by set, in order."""
        found = defaultdict(list)
        for line in self.lines:
            if line["kind"].startswith(f"{kind}/"):
                found[line["kind"].removeprefix(f"{kind}/")].append(line)
        return dict(found)

    @property
    def starts(self) -> list[dict]:
        """How each piece of the run started."""
        return [line for line in self.lines if line["kind"] == "start"]

    @property
    def first_set(self) -> str:
        """The set that the best weights were chosen on."""
        validated = self.by_set("validation")
        return next((name for name in self.config.eval_sets if name in validated), next(iter(validated)))

    @property
    def final(self) -> int:
        """Iteration of the last validation."""
        return max(line["iteration"] for lines in self.by_set("validation").values() for line in lines)

    @property
    def best(self) -> int:
        """Iteration of the best validation: the largest PSNR on the first set."""
        return max(self.by_set("validation")[self.first_set], key=lambda line: line["psnr"])["iteration"]

    def scores(self, iteration: int) -> dict[str, Scores]:
        """Those of the sets that were validated at this iteration."""
        validated = self.by_set("validation").items()
        found = [(name, line) for name, lines in validated for line in lines if line["iteration"] == iteration]
        return {name: Scores(line["psnr"], line["ssim"]) for name, line in found}

    def hours(self) -> Counter[str]:
        """What the run took: 'core-hours' on a CPU, 'GPU-hours' on GPUs; each piece counts with its own hardware."""
        spent: Counter[str] = Counter()
        unit, each, before = "", 0, 0.0
        for line in self.lines:
            if line["kind"] == "start":
                threads = THREADS.search(line["device"])
                unit = "core-hours" if threads else "GPU-hours"
                each = line["processes"] * (int(threads[1]) if threads else 1)
            if "minutes" in line:
                spent[unit] += each * (line["minutes"] - before) / 60
                before = line["minutes"]
        return spent


def read_run(folder: Path) -> Run:
    """A run from its folder. Raises InputError if it has no records or no validation."""
    config, file = load_config(folder / "config.yml"), folder / "metrics.jsonl"
    if not file.is_file():
        raise InputError(f"{file}: no such file; is {folder} a run of train.py?")
    try:
        run = Run(folder, config, [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line])
    except ValueError as error:
        raise InputError(f"{file}: a line is no record, cut short perhaps ({error}); --resume the run") from error
    if not run.starts or not run.by_set("validation"):
        raise InputError(f"{file}: holds no validation; the run must reach one (config keys test_every, eval_sets)")
    return run


def read_bicubic(runs: list[Run], files: list[Path]) -> Bicubic:
    """Bicubic's scores on the runs' sets: from the runs, and from files that `test.py --json` wrote.

    Raises:
        InputError: no such file, or two scores of one set differ: the images under its name are not the same.
    """
    known: Bicubic = defaultdict(dict)
    sources: dict[tuple[int, str], Path] = {}
    for source, scale, name, scores in (*_bicubic_of_runs(runs), *_bicubic_of_files(files)):
        before = known[scale].setdefault(name, scores)
        first = sources.setdefault((scale, name), source)
        if abs(before.psnr - scores.psnr) > 1e-3:
            values = f"bicubic x{scale} has {before.psnr:.3f} dB on {name} in {first}, {scores.psnr:.3f} dB in {source}"
            raise InputError(f"{values}: their images differ; make a table of each")
    return known


def _bicubic_of_runs(runs: list[Run]) -> Iterable[tuple[Path, int, str, Scores]]:
    for run in runs:
        for name, lines in run.by_set("bicubic").items():
            yield run.folder, run.config.scale, name, Scores(lines[-1]["psnr"], lines[-1]["ssim"])


def _bicubic_of_files(files: list[Path]) -> Iterable[tuple[Path, int, str, Scores]]:
    for file in files:
        try:
            content = json.loads(file.read_text())
            found = {name: means["bicubic"]["standard"] for name, means in content["sets"].items()}
            scale = content["config"]["scale"]
        except OSError as error:
            raise InputError(f"--bicubic {file}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"--bicubic {file}: holds no scores of bicubic; give a file of test.py --json") from error
        for name, scores in found.items():
            yield file, scale, name, Scores(**scores)


def grouped(runs: list[Run]) -> list[list[Run]]:
    """Runs whose configurations are equal but for seed and name stand together."""
    groups = defaultdict(list)
    for run in runs:
        groups[repr(dataclasses.replace(run.config, seed=0, log_name="", log_path=""))].append(run)
    return list(groups.values())


def table(runs: list[Run], bicubic: Bicubic) -> str:
    """Markdown: a row for each group of runs, and under them bicubic and the paper at the same scales."""
    sets = list(dict.fromkeys(name for run in runs for name in run.by_set("validation")))
    columns = ["run", "date", "commit", "hardware", "hours", "scale", "seeds", "iterations", "images seen"]
    columns += [*sets, "best iteration", *(f"{name} at the best" for name in sets)]
    rows = [_row(group, sets) for group in grouped(runs)]
    for scale in sorted({run.config.scale for run in runs}):
        known = {name: _score([scores]) for name, scores in bicubic.get(scale, {}).items()}
        paper = {name: f"{scores.psnr:.2f} / {scores.ssim:.4f}" for name, scores in PAPER[scale].items()}
        for what, scores in (("bicubic", known), ("paper, `official`", paper)):
            if scores.keys() & set(sets):
                rows.append({"run": what, "scale": f"x{scale}", **scores})
    cells = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _row(group: list[Run], sets: list[str]) -> dict[str, str]:
    """Cells by column. Numbers are means over the runs; of PSNR also the spread, the largest minus the smallest."""
    starts, config = [start for run in group for start in run.starts], group[0].config
    iterations = statistics.mean(run.final for run in group)
    hours = {unit: statistics.mean(run.hours()[unit] for run in group) for unit in group[0].hours()}
    row = {
        "run": ", ".join(run.folder.name for run in group),
        "date": starts[0]["date"],
        "commit": _different(start["commit"] for start in starts),
        "hardware": _different(_hardware(start) for start in starts),
        "hours": " + ".join(f"{value:.2f} {unit}" for unit, value in hours.items()),
        "scale": f"x{config.scale}",
        "seeds": ", ".join(str(run.config.seed) for run in group),
        "iterations": f"{iterations:,.0f}",
        "images seen": f"{iterations * config.batch_size:,.0f}",
        "best iteration": _different(f"{run.best:,} (by {run.first_set})" for run in group),
    }
    for name in sets:
        for column, scores in (
            (name, [run.scores(run.final) for run in group]),
            (f"{name} at the best", [run.scores(run.best) for run in group]),
        ):
            if all(name in found for found in scores):
                row[column] = _score([found[name] for found in scores])
    return row


def _hardware(start: dict) -> str:
    return start["device"] if start["processes"] == 1 else f"{start['processes']} x {start['device']}"


def _different(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def _score(scores: list[Scores]) -> str:
    psnr, ssim = zip(*scores, strict=True)
    spread = f" (spread {max(psnr) - min(psnr):.3f})" if len(scores) > 1 else ""
    return f"{statistics.mean(psnr):.3f}{spread} / {statistics.mean(ssim):.4f}"


def plot(runs: list[Run], name: str, bicubic: Bicubic, file: Path) -> None:
    """PSNR on set `name` against hours of training, one line a run, with bicubic and the paper as level lines."""
    need_matplotlib("--plot needs")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = list(dict.fromkeys(known for run in runs for known in run.by_set("validation")))
    if name not in known:
        raise InputError(f"--set {name}: no run has validations of it; they have {', '.join(known)}")
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for run in runs:
        points = run.by_set("validation").get(name, [])
        label = f"x{run.config.scale}, seed {run.config.seed}, {run.folder.name}"
        axes.plot([p["minutes"] / 60 for p in points], [p["psnr"] for p in points], marker=".", label=label)
    for scale in sorted({run.config.scale for run in runs}):
        if name in PAPER[scale]:
            axes.axhline(PAPER[scale][name].psnr, linestyle="--", color="black", label=f"paper x{scale} (official)")
        if name in bicubic.get(scale, {}):
            axes.axhline(bicubic[scale][name].psnr, linestyle=":", color="grey", label=f"bicubic x{scale}")
    axes.set(xlabel="hours of training", ylabel=f"PSNR on {name}, dB")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, bbox_inches="tight")
    atomic_write(file, picture.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw PSNR against hours")
    parser.add_argument("--set", help="which set to draw (default: the first of the first run)")
    parser.add_argument("--bicubic", type=Path, nargs="+", default=[], metavar="JSON", help="files of test.py --json")
    arguments = parser.parse_args()
    runs = [read_run(folder) for folder in arguments.runs]
    bicubic = read_bicubic(runs, arguments.bicubic)
    print(table(runs, bicubic))
    if arguments.plot:
        plot(runs, arguments.set or runs[0].first_set, bicubic, arguments.plot)
        print(f"wrote {arguments.plot}")


if __name__ == "__main__":
    run_command(main)
