"""A run as a page of one file, run.html in its folder: made anew from metrics.jsonl, config.yml and the panels there.

So the page of a run that was resumed shows all its pieces. A page or a panel that cannot be written is warned of, and
the run goes on: weights are worth more than pictures.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from evaluation.charts import LineChart, Point
from evaluation.page import Html, document, escaped, section, table, tag, uri, webp
from training.folder import CONFIG_FILE
from utils import InputError, atomic_write, remove_leftovers

PAGE = "run.html"
PANELS = "panels"  # in a run's folder: ITERATION.webp, of validations
MOST_PANELS = 12
SIDE = 128  # pixels of each picture of a panel
QUALITY = 85
NO_LOSS = ("kind", "iteration", "minutes", "lr", "images_per_second")  # entries of "train" lines that are no loss
UNWRITABLE = (OSError, InputError, ValueError, ArithmeticError, cv2.error)  # what a page or a picture may fail by
Say = Callable[[str], object]


@dataclass
class Record:
    """The lines of metrics.jsonl by kind, those of evaluation sets by set, too; each in the order of the file."""

    starts: list[dict[str, Any]] = field(default_factory=list)
    train: list[dict[str, Any]] = field(default_factory=list)
    bicubic: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    validation: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def read_record(path: Path) -> Record:
    """What the file holds; lines that cannot be read are passed over, and where there is no file there is nothing."""
    record = Record()
    plain = {"start": record.starts, "train": record.train}
    by_set = {"bicubic": record.bicubic, "validation": record.validation}
    for entry in _entries(path):
        kind, _, name = entry["kind"].partition("/")
        if kind in plain:
            plain[kind].append(entry)
        elif kind in by_set and name:
            by_set[kind].setdefault(name, []).append(entry)
    return record


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str) and number(entry, "iteration") is not None:
            yield entry


def number(entry: dict[str, Any], key: str) -> float | None:
    """A finite number; None where there is none."""
    value = entry.get(key)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if is_number else None  # type: ignore[arg-type]


def points(entries: Sequence[dict[str, Any]], key: str) -> list[Point]:
    """(iteration, number) of the lines that have it."""
    pairs = ((entry["iteration"], number(entry, key)) for entry in entries)
    return [(float(iteration), value) for iteration, value in pairs if value is not None]


def keep_panel(folder: Path, iteration: int, panel: np.ndarray, say: Say) -> None:
    """Keep the middle of a validation's pictures, uint8 (H, 4 W, 3), and few panels in all, evenly over the run."""
    place = folder / PANELS / f"{iteration:07d}.webp"
    try:
        remove_leftovers(place.parent)  # the run is held, so nobody else writes there
        for later, path in panels(folder).items():
            if later > iteration:  # of steps that this run, resumed from before them, takes again
                path.unlink()
        atomic_write(place, webp(middle(panel), QUALITY))
        kept = panels(folder)
        for dropped in kept.keys() - evenly(list(kept)):
            kept[dropped].unlink()
    except UNWRITABLE as error:
        _warn(place, error, say)


def middle(panel: np.ndarray) -> np.ndarray:
    """Of each of the four pictures side by side a window of SIDE pixels, or all of a smaller one."""
    height, width = panel.shape[0], panel.shape[1] // 4
    top, left = max(0, height - SIDE) // 2, max(0, width - SIDE) // 2
    parts = (panel[top : top + SIDE, n * width + left : n * width + min(left + SIDE, width)] for n in range(4))
    return np.concatenate(list(parts), axis=1)


def panels(folder: Path) -> dict[int, Path]:
    """The files of a run's panels by iteration, ascending."""
    files = (folder / PANELS).glob("*.webp")
    return dict(sorted((int(path.stem), path) for path in files if path.stem.isdecimal()))


def evenly(iterations: Sequence[int]) -> set[int]:
    """MOST_PANELS of ascending iterations: while there are more, that goes which leaves the smallest gap."""
    kept = list(iterations)
    while len(kept) > MOST_PANELS:
        place = min(range(1, len(kept) - 1), key=lambda n: kept[n + 1] - kept[n - 1])
        del kept[place]
    return set(kept)


def write_page(folder: Path, say: Say) -> None:
    """Write run.html anew, as what is in the folder says. `say` takes a warning if that fails."""
    try:
        atomic_write(folder / PAGE, run_page(folder))
    except UNWRITABLE as error:
        _warn(folder / PAGE, error, say)


def _warn(path: Path, error: Exception, say: Say) -> None:
    cause = error.__cause__ if isinstance(error, InputError) else error
    say(f"warning: {path}: cannot be written ({getattr(cause, 'strerror', None) or error}); the run goes on without")


def run_page(folder: Path) -> bytes:
    """The page of the run in `folder`, a UTF-8 file. Raises OSError if a file there cannot be read."""
    record = read_record(folder / "metrics.jsonl")
    return document(
        f"{folder.resolve().name}: training",
        tag("p", _where_it_stands(record), class_="lead"),
        _best_scores(record),
        _curves(record),
        _pictures(folder, record),
        _pieces(record.starts),
        _config(folder / CONFIG_FILE),
    )


def hours(record: Record) -> list[Point]:
    """(iteration, hours of training until then), ascending."""
    lines = record.train + [entry for entries in record.validation.values() for entry in entries]
    return sorted({(iteration, minutes / 60) for iteration, minutes in points(lines, "minutes")})


def _where_it_stands(record: Record) -> str:
    reached = [int(entry["iteration"]) for entry in record.starts + record.train]
    reached += [int(entry["iteration"]) for entries in record.validation.values() for entry in entries]
    passed = hours(record)
    trained = f", {passed[-1][1]:.2f} hours of training" if passed else ""
    return f"iteration {max(reached, default=0):,}{trained}; written {time.strftime('%Y-%m-%d %H:%M')}"


def _best_scores(record: Record) -> Html:
    header = ["set", "bicubic PSNR", "last PSNR", "best PSNR", "at iteration", "best SSIM", "at iteration"]
    header += ["best official PSNR", "best official SSIM"]
    rows = []
    for name, entries in record.validation.items():
        bicubic, last = points(record.bicubic.get(name, []), "psnr"), points(entries, "psnr")
        found = [_best(points(entries, score)) for score in ("psnr", "ssim", "official_psnr", "official_ssim")]
        cells = [f"{bicubic[-1][1]:.3f}" if bicubic else "–", f"{last[-1][1]:.3f}" if last else "–"]
        for place, (best, digits) in enumerate(zip(found, (3, 4, 3, 4), strict=True)):
            at = [f"{best[0]:,.0f}" if best else "–"] * (place < 2)
            cells += [f"{best[1]:.{digits}f}" if best else "–", *at]
        rows.append([escaped(name), *cells])
    if not rows:
        return Html("")
    return section("Scores", table(header, rows, caption="Best scores of every set"))


def _best(found: Sequence[Point]) -> Point | None:
    """The first of the highest."""
    return max(found, key=lambda point: point[1], default=None)


def _curves(record: Record) -> Html:
    """Losses, learning rate and the PSNR of each set over iterations, with the hours above."""
    common: dict[str, Any] = {
        "marks": [entry["iteration"] for entry in record.starts],
        "top": hours(record),
    }
    names = dict.fromkeys(key for entry in record.train for key in entry if key not in NO_LOSS)
    losses = {name: points(record.train, name) for name in names}
    losses = {name: found for name, found in losses.items() if found}
    rate = {"lr": points(record.train, "lr")}
    charts = [
        ("Loss", LineChart("Loss over iterations", losses, logarithmic=True, **common).svg()),
        ("Learning rate", LineChart("Learning rate over iterations", rate, **common).svg()),
    ]
    for name, entries in record.validation.items():
        curve = {name: points(entries, "psnr")}
        chart = LineChart(f"PSNR of {name} over iterations", curve, "dB", dots=True, **common)
        charts.append((f"PSNR, {name}", chart.svg()))
    figures = [tag("figure", tag("figcaption", tag("b", name)), chart) for name, chart in charts if chart]
    if not figures:
        return Html("")
    resumed = any(entry["iteration"] > 0 for entry in record.starts)
    note = tag("p", "A dashed line: the run was resumed there.", class_="note") if resumed else Html("")
    return section("Curves", tag("div", *figures, class_="grid"), note)


def _pictures(folder: Path, record: Record) -> Html:
    found = panels(folder)
    if not found:
        return Html("")
    first = next(iter(record.validation), "")
    scores = dict(points(record.validation.get(first, []), "psnr"))
    figures = []
    for iteration, path in found.items():
        score = f": {scores[iteration]:.3f} dB in the mean of {first}" if iteration in scores else ""
        text = f"iteration {iteration:,}"
        picture = tag("img", src=uri(path.read_bytes()), alt=f"LR, bicubic, SR and HR at {text}", loading="lazy")
        figures.append(tag("figure", picture, tag("figcaption", tag("b", text), score)))
    note = f"LR, bicubic, SR and HR: the middle of the first image of {first or 'the first set'}."
    return section("Validation pictures", tag("p", note, class_="note"), tag("div", *figures, class_="grid"))


def _pieces(starts: Sequence[dict[str, Any]]) -> Html:
    """Where each piece of the run began, and with what."""
    if not starts:
        return Html("")
    keys = list(dict.fromkeys(key for entry in starts for key in entry if key not in ("kind", "iteration")))
    rows = [
        ["resumed" if number > 1 or entry["iteration"] else "started", f"{entry['iteration']:,}", *_values(entry, keys)]
        for number, entry in enumerate(starts, 1)
    ]
    caption = "Where each piece of the run began"
    return section("Started and resumed", table(["", "iteration", *keys], rows, caption=caption))


def _values(entry: dict[str, Any], keys: Sequence[str]) -> list[Html]:
    return [escaped(entry.get(key, "")) for key in keys]


def _config(path: Path) -> Html:
    if not path.is_file():
        return Html("")
    text = path.read_text(encoding="utf-8", errors="replace")
    return section("Config", tag("details", tag("summary", "all keys"), tag("pre", text)))
