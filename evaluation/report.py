"""What an evaluation leaves behind: the printed tables, the per-image CSV, the JSON and the model card."""

import csv
import dataclasses
import io
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from config import Config
from evaluation.evaluator import PROTOCOLS, SetResult
from evaluation.metrics import Scores, rounded_like_the_paper
from evaluation.tiles import Tiles
from models.weights import file_hash
from utils import InputError, atomic_write
from yaml_file import read_yaml

# The paper's table for SSIU trained on DF2K: PSNR / SSIM under the `official` protocol, rounded upwards.
PAPER = {
    2: {
        "Set5": Scores(38.31, 0.9632),
        "Set14": Scores(34.20, 0.9255),
        "B100": Scores(32.43, 0.9043),
        "Urban100": Scores(33.25, 0.9393),
        "Manga109": Scores(39.64, 0.9822),
    },
    3: {
        "Set5": Scores(34.79, 0.9323),
        "Set14": Scores(30.71, 0.8523),
        "B100": Scores(29.35, 0.8138),
        "Urban100": Scores(29.08, 0.8718),
        "Manga109": Scores(34.73, 0.9547),
    },
    4: {
        "Set5": Scores(32.64, 0.9032),
        "Set14": Scores(28.96, 0.7939),
        "B100": Scores(27.82, 0.7472),
        "Urban100": Scores(26.83, 0.8098),
        "Manga109": Scores(31.60, 0.9242),
    },
}
SSIU = "SSIU"  # the network whose figures these are
LEGEND = (
    "PSNR (dB) / SSIM on Y. standard: uint8 SR, float64 Y. official: the paper's protocol, its means rounded upwards\n"
    "as the paper prints them; 'paper' and the difference compare with those. bicubic: standard protocol."
)

BESIDE = {  # what is done while the network works: its name and its thread
    "read": ("reading and checking images", "reader"),
    "bicubic": ("bicubic upscaling", "scorer"),
    "score": ("scores of both, both protocols", "scorer"),
    "write": ("writing SR images", "scorer"),
    "look": ("pictures of the report", "scorer"),
}
TIME_LEGEND = (
    "By the clock. The reader and the scorer work while the network does, in threads of their own: where cores are\n"
    "few, all of them take longer than each would alone."
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What was evaluated, and how: `name` is that of the network, `special` what sets it apart from the usual one."""

    name: str
    precision: str
    self_ensemble: bool = False
    tiles: Tiles | None = None

    @property
    def ways(self) -> list[str]:
        """How images go through the network, where not as usual."""
        return [f"{self.tiles}"] * (self.tiles is not None) + ["self-ensemble x8"] * self.self_ensemble

    @property
    def special(self) -> str:
        """As 'self-ensemble x8, bf16'; empty for the usual evaluation."""
        return ", ".join(self.ways + [self.precision] * (self.precision != "float32"))


def table(results: list[SetResult], scale: int, setting: Setting | None = None) -> str:
    """The results as a Markdown table, one row per set; sets without HR have a time only.

    The header line names a network that is not SSIU, and what is special about the evaluation.
    """
    header, *rows = table_cells(results, scale, setting)
    return f"{_aligned([header, ['---'] * len(header), *rows])}\n\n{LEGEND}"


def table_cells(results: list[SetResult], scale: int, setting: Setting | None = None) -> list[list[str]]:
    """The header and the rows of `table`."""
    other = setting is not None and setting.name != SSIU
    about = ", ".join(filter(None, [setting.name if other else "", setting.special])) if setting else ""
    first = f"set ({about})" if about else "set"
    paper = f"{SSIU}'s paper x{scale}" if other else f"paper x{scale}"
    header = [first, "images", "standard", "official", paper, "official - paper", "bicubic", "ms / image"]
    return [header, *(_row(result, scale) for result in results)]


def _aligned(rows: list[list[str]]) -> str:
    """Rows of cells, the header's and the line below it among them, as Markdown whose columns are straight."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def _row(result: SetResult, scale: int) -> list[str]:
    paper = PAPER[scale].get(result.name)
    cells = [""] * 5
    if _scored(result):
        standard, official = (result.mean(protocol) for protocol in PROTOCOLS)
        rounded = rounded_like_the_paper(official)
        cells[:2] = f"{standard.psnr:.3f} / {standard.ssim:.4f}", f"{rounded.psnr:.2f} / {rounded.ssim:.4f}"
        if paper:
            cells[2] = f"{paper.psnr:.2f} / {paper.ssim:.4f}"
            cells[3] = f"{rounded.psnr - paper.psnr:+.2f} / {rounded.ssim - paper.ssim:+.4f}"
        if result.images[0].bicubic:
            bicubic = result.mean("standard", bicubic=True)
            cells[4] = f"{bicubic.psnr:.3f} / {bicubic.ssim:.4f}"
    return [result.name, str(len(result.images)), *cells, f"{1000 * result.seconds:.0f}"]


def time_table(results: list[SetResult], laps: dict[str, float], processes: int) -> str:
    """Where the time of test.py went, as a Markdown table.

    Args:
        laps: seconds of the main thread: 'starting', 'opening', 'evaluating' and 'reporting'.
        processes: that shared the images; of what they did for images, a row is the mean.
    """
    images = [image for result in results for image in result.images]
    network = sum(image.seconds for image in images) / processes
    beside = {step: sum(image.beside.get(step, 0.0) for image in images) / processes for step in BESIDE}
    found = [
        ("starting: imports, config", "main", laps["starting"]),
        ("opening: sets, weights, self-test", "main", laps["opening"]),
        ("network", "main", network),
        ("waiting, and between images", "main", laps["evaluating"] - network),
        ("reporting", "main", laps["reporting"]),
        ("all of the main thread", "", sum(laps.values())),
        *((name, thread, beside[step]) for step, (name, thread) in BESIDE.items()),
    ]
    header = ["step", "thread", "seconds", "of the network", "ms / image"]
    rows = [header, ["---"] * len(header)]
    for name, thread, seconds in found:
        each = 1000 * seconds * processes / len(images)
        rows.append([name, thread, f"{seconds:.2f}", f"{100 * seconds / network:.0f} %", f"{each:.1f}"])
    return f"{_aligned(rows)}\n\n{TIME_LEGEND}"


def as_json(
    results: list[SetResult], config: Config, weights: Path | None, device: str, setting: Setting, network: dict
) -> dict:
    """Everything needed to tell what was measured, with what: unrounded means and every image.

    Args:
        weights: None for a network that has none.
        network: name, parameters and multiply-adds, see `tools.profile_model.network_facts`.
    """
    return {
        "network": network,
        "config": dataclasses.asdict(config),
        "weights": {"file": str(weights), "sha256": file_hash(weights)} if weights else None,
        "device": device,
        "versions": versions(),
        "self_ensemble": setting.self_ensemble,
        "tiles": dataclasses.asdict(setting.tiles) if setting.tiles else None,
        "conditions": setting.special,
        "sets": {result.name: _set_as_json(result) for result in results},
    }


def _set_as_json(result: SetResult) -> dict:
    images = {
        image.name: {
            **{protocol: scores._asdict() for protocol, scores in image.scores.items()},
            **({"bicubic": {p: s._asdict() for p, s in image.bicubic.items()}} if image.bicubic else {}),
            "seconds": image.seconds,
        }
        for image in result.images
    }
    means = {}
    if _scored(result):
        means = {protocol: result.mean(protocol)._asdict() for protocol in PROTOCOLS}
        if result.images[0].bicubic:
            means["bicubic"] = {protocol: result.mean(protocol, bicubic=True)._asdict() for protocol in PROTOCOLS}
    return {**means, "seconds_per_image": result.seconds, "images": images}


def write_json(path, content: dict) -> None:
    atomic_write(path, (json.dumps(content, indent=1) + "\n").encode())


def write_csv(path, results: list[SetResult], setting: Setting) -> None:
    """One line per image: set, name, scores of both protocols and of bicubic, seconds, network, what is special."""
    about = setting.name, setting.special
    rows = (
        [result.name, image.name, *csv_cells(image.scores, image.bicubic), f"{image.seconds:.6f}", *about]
        for result in results
        for image in result.images
    )
    write_csv_rows(path, rows)


def write_csv_rows(path, rows: Iterable[Sequence], more: Sequence[str] = ()) -> None:
    """Rows of the columns set, image, `csv_cells`, seconds, network, conditions, and of `more` columns."""
    columns = [f"{protocol}_{metric}" for protocol in PROTOCOLS for metric in Scores._fields]
    bicubic = (f"bicubic_{column}" for column in columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "image", *columns, *bicubic, "seconds", "network", "conditions", *more])
    writer.writerows(rows)
    atomic_write(path, text.getvalue().encode())


def csv_cells(scores: dict[str, Scores], bicubic: dict[str, Scores]) -> list:
    """Those of both protocols, of an image and of bicubic; empty where there are none."""
    parts = ((part, protocol) for part in (scores, bicubic) for protocol in PROTOCOLS)
    return [value for part, protocol in parts for value in part.get(protocol, ("", ""))]


def _scored(result: SetResult) -> bool:
    return bool(result.images[0].scores)


def versions() -> dict[str, str]:
    """Versions that can change a figure, the project's own commit among them ('unknown' outside a git checkout)."""
    packages = ("torch", "numpy", "pytorch-msssim", "opencv-python-headless")
    found = {package: _version(package) for package in packages}
    return {"commit": commit(), "python": platform.python_version(), **found}


def _version(package: str) -> str:
    """'unknown' where another build is installed in its place, or its files cannot be read: no reason to stop."""
    try:
        return version(package)
    except (PackageNotFoundError, OSError):
        return "unknown"


def commit() -> str:
    """Short hash of the project's commit, with '+' where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parents[1]), "describe", "--always", "--abbrev=9", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def card_facts(weights: Path | None) -> dict:
    """Those of WEIGHTS.yml. Raises InputError where there are no weights, or no such file."""
    if weights is None:
        raise InputError("--model-card: this network has no weights, and no card of them; leave it out")
    return read_yaml(weights.with_suffix(".yml"))


def write_model_card(facts: dict, printed_table: str, summary: dict) -> Path:
    """WEIGHTS.md from the facts of WEIGHTS.yml (how they were made, written by hand) and what was just measured."""
    weights = Path(summary["weights"]["file"])
    lines = [f"# {weights.name}", ""]
    lines += [f"- **{key}**: {value}" for key, value in facts.items()]
    lines += [f"- **sha256**: `{summary['weights']['sha256']}`", "", "## Scores", ""]
    lines += [f"As printed by `{shlex.join(['python', 'test.py', *sys.argv[1:]])}`", ""]
    how = summary["conditions"]
    used = ", ".join(f"{package} {number}" for package, number in summary["versions"].items())
    lines += [printed_table, "", f"Measured on {summary['device']}{', with ' * bool(how)}{how}; {used}.", ""]
    card = weights.with_suffix(".md")
    atomic_write(card, "\n".join(lines).encode())
    return card
