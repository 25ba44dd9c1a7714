"""Runs as rows of the record table, and their curves as a picture.

    python -m tools.record runs/A runs/B                       a Markdown table; runs that differ by seed share a row
    python -m tools.record runs/A runs/B --plot docs/record.png --bicubic 28.42

Everything is read from the runs' own metrics.jsonl and config.yml; nothing is typed. A run needs a validation at its
end. The picture needs matplotlib (`pip install matplotlib`).
"""

import argparse
import dataclasses
import io
import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from config import Config, load_config
from evaluation.report import PAPER
from utils import InputError, atomic_write, run_command


@dataclass(frozen=True)
class Run:
    """One finished run: its configuration, how each of its pieces started, and its validations by set."""

    folder: Path
    config: Config
    starts: list[dict]
    validations: dict[str, list[dict]]  # by set, in order; each with iteration, minutes, psnr, ssim

    @property
    def last(self) -> dict[str, dict]:
        """The final validation of each set."""
        return {name: records[-1] for name, records in self.validations.items()}


def read_run(folder: Path) -> Run:
    """A run from its folder. Raises InputError if it has no records or no validation."""
    config, file = load_config(folder / "config.yml"), folder / "metrics.jsonl"
    if not file.is_file():
        raise InputError(f"{file}: no such file; is {folder} a run of train.py?")
    try:
        records = [json.loads(line) for line in file.read_text().splitlines()]
    except ValueError as error:
        raise InputError(f"{file}: a line is no record, cut short perhaps ({error}); --resume the run") from error
    validations = defaultdict(list)
    for record in records:
        if record["kind"].startswith("validation/"):
            validations[record["kind"].removeprefix("validation/")].append(record)
    if not validations:
        raise InputError(f"{file}: holds no validation; the run must reach one (config keys test_every, eval_sets)")
    return Run(folder, config, [record for record in records if record["kind"] == "start"], dict(validations))


def grouped(runs: list[Run]) -> list[list[Run]]:
    """Runs whose configurations are equal but for seed and name stand together."""
    groups = defaultdict(list)
    for run in runs:
        groups[repr(dataclasses.replace(run.config, seed=0, log_name="", log_path=""))].append(run)
    return list(groups.values())


def table(runs: list[Run]) -> str:
    """Markdown; scores are means over the seeds of the final validations (`standard`), with largest minus smallest."""
    sets = list(dict.fromkeys(name for run in runs for name in run.last))
    header = ["date", "commit", "hardware", "scale", "seeds", "minutes", "iterations", "images seen", *sets]
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    for group in grouped(runs):
        first, config = group[0].starts[0], group[0].config
        iterations = statistics.mean(max(r["iteration"] for r in run.last.values()) for run in group)
        minutes = statistics.mean(max(r["minutes"] for r in run.last.values()) for run in group)
        seeds = ", ".join(str(run.config.seed) for run in group)
        cells = [first["date"], first["commit"], first["device"], f"x{config.scale}", seeds, f"{minutes:.1f}"]
        cells += [f"{iterations:,.0f}", f"{iterations * config.batch_size:,.0f}"]
        cells += [_score([run.last[name] for run in group]) if name in group[0].last else "" for name in sets]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def _score(finals: list[dict]) -> str:
    psnr, ssim = ([final[metric] for final in finals] for metric in ("psnr", "ssim"))
    spread = f" (spread {max(psnr) - min(psnr):.3f})" if len(finals) > 1 else ""
    return f"{statistics.mean(psnr):.3f}{spread} / {statistics.mean(ssim):.4f}"


def plot(runs: list[Run], name: str, bicubic: float | None, file: Path) -> None:
    """PSNR on set `name` against minutes of training, one line a run, with bicubic and the paper as level lines."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("--plot needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = list(dict.fromkeys(known for run in runs for known in run.validations))
    if name not in known:
        raise InputError(f"--set {name}: no run has validations of it; they have {', '.join(known)}")
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for run in runs:
        points = run.validations.get(name, [])
        label = f"x{run.config.scale}, seed {run.config.seed}, {run.folder.name}"
        axes.plot([p["minutes"] for p in points], [p["psnr"] for p in points], marker=".", label=label)
    for scale in sorted({run.config.scale for run in runs}):
        if name in PAPER[scale]:
            axes.axhline(PAPER[scale][name].psnr, linestyle="--", color="black", label=f"paper x{scale} (official)")
    if bicubic is not None:
        axes.axhline(bicubic, linestyle=":", color="grey", label="bicubic")
    axes.set(xlabel="minutes of training", ylabel=f"PSNR on {name}, dB")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, bbox_inches="tight")
    atomic_write(file, picture.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw PSNR against minutes")
    parser.add_argument("--set", help="which set to draw (default: the first of the first run)")
    parser.add_argument("--bicubic", type=float, metavar="DB", help="bicubic's PSNR on that set, as test.py prints it")
    arguments = parser.parse_args()
    runs = [read_run(folder) for folder in arguments.runs]
    print(table(runs))
    if arguments.plot:
        plot(runs, arguments.set or next(iter(runs[0].validations)), arguments.bicubic, arguments.plot)
        print(f"wrote {arguments.plot}")


if __name__ == "__main__":
    run_command(main)
