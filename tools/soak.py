"""Does anything grow? Train for an hour and evaluate many images, and watch memory, open files and speed.

    python -m tools.soak --minutes 60 --images 500 --plot docs/soak.png          on Linux

Trains the small network of configs/sample_x4.yml on scikit-image's photographs, then runs test.py with the shipped x4
weights on crops of them, each in a process of its own. Every few seconds the memory (without pages of files) and the
open files of that process and of all its children are read from /proc. The printed lines compare the second tenth of
each part, when all is warm, with the last.
"""

import argparse
import csv
import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datas import list_images, read_rgb, write_png
from datas.prepare import make_lr
from datas.sample import make_sample
from models.devices import device_name, pick_device
from tools.drawing import need_matplotlib
from utils import InputError, atomic_write, run_command

ROOT = Path(__file__).resolve().parents[1]
EVERY = 5.0  # seconds between two looks
SHORTEST, LONGEST = 48, 160  # sides of the HR crops that are evaluated, multiples of 4


@dataclass
class Watch:
    """What was seen of a process and its children: seconds since its start, MiB, open files."""

    seconds: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def memory_mib(pid: int) -> float:
    """Resident memory of a process that is no file's; pages that n processes share count 1/n each.

    Pages of files, such as libraries, are left out: the share of them changes as other programs start and end.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) / 1024


def look(pid: int, seconds: float, seen: Watch) -> None:
    """Note what a process and its children hold now; nothing, if one of them ends meanwhile."""
    try:
        members = family(pid)
        mib = sum(memory_mib(member) for member in members)
        files = sum(len(list(Path(f"/proc/{member}/fd").iterdir())) for member in members)
    except (OSError, StopIteration):  # of a process that has just ended the file is empty
        return
    seen.seconds.append(seconds)
    seen.mib.append(mib)
    seen.files.append(files)


def watch(command: list[str]) -> Watch:
    """Run a command to its end and look at it meanwhile.

    Raises:
        InputError: it fails; what it printed is given.
    """
    seen, start = Watch(), time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None:
            look(process.pid, time.monotonic() - start, seen)
            time.sleep(EVERY)
        printed.seek(0)
        if process.returncode:
            raise InputError(f"{' '.join(command)}: exit code {process.returncode}: {printed.read()[-500:]}")
    return seen


def soak_training(folder: Path, minutes: float) -> tuple[Watch, list[float], list[float]]:
    """(what was seen, minutes of the log lines, seconds an iteration between them)."""
    keys = [f"data_path={folder / 'data'}", f"log_path={folder}", "log_name=run", f"max_minutes={minutes}"]
    keys += ["epochs=100000", "log_every=20", "gpu_ids=[]"]
    overrides = [word for key in keys for word in ("--set", key)]
    seen = watch([sys.executable, "train.py", "--config", "configs/sample_x4.yml", *overrides])
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    points = [(line["minutes"], line["iteration"]) for line in lines if line["kind"] == "train"]
    if len(points) < 3:
        raise InputError(f"--minutes {minutes:g}: too few iterations to see anything; take more")
    pairs = list(itertools.pairwise(points))
    pace = [60 * (later - sooner) / (last - first) for (sooner, first), (later, last) in pairs]
    return seen, [later for _, (later, _) in pairs], pace


def soak_evaluation(folder: Path, count: int) -> tuple[Watch, list[float]]:
    """(what was seen, seconds of each image by megapixel of its SR image)."""
    make_crops(folder, count)
    keys = [f"data_path={folder / 'data'}", "eval_sets=[Crops]", "gpu_ids=[]"]
    overrides = [word for key in keys for word in ("--set", key)]
    command = [sys.executable, "test.py", "--config", "configs/SSUFSR_light_x4.yml", "--save-images"]
    seen = watch([*command, "--out", str(folder / "out"), *overrides])
    sides = {path.stem: read_rgb(path).shape for path in (folder / "data" / "benchmark" / "Crops" / "HR").iterdir()}
    rows = list(csv.DictReader((folder / "out" / "per_image.csv").read_text().splitlines()))
    pixels = [sides[row["image"]][0] * sides[row["image"]][1] / 1e6 for row in rows]
    return seen, [float(row["seconds"]) / size for row, size in zip(rows, pixels, strict=True)]


def make_crops(folder: Path, count: int) -> None:
    """An evaluation set of crops of the sample's photographs, of many sizes."""
    random = np.random.default_rng(0)
    photographs = [read_rgb(path) for path in list_images(folder / "data" / "Sample" / "Sample_train_HR")]
    target = folder / "data" / "benchmark" / "Crops" / "HR"
    for number in range(count):
        image = photographs[number % len(photographs)]
        height, width = 4 * random.integers(SHORTEST // 4, LONGEST // 4 + 1, 2)
        top, left = random.integers(0, [image.shape[0] - height, image.shape[1] - width])
        write_png(target / f"{number:04d}.png", image[top : top + height, left : left + width])
    make_lr(target, [4])


def change(values: list[float]) -> str:
    """The medians of the second tenth and of the last."""
    tenth = max(1, len(values) // 10)
    sooner, later = statistics.median(values[tenth : 2 * tenth] or values), statistics.median(values[-tenth:])
    return f"{sooner:.4g} -> {later:.4g} ({later / sooner - 1:+.1%})"


def plot(parts: list[tuple[str, Watch, list[float], list[float], str]], file: Path) -> None:
    """Memory, open files and speed of each part, one column a part: (title, seen, x and y of the speed, its unit)."""
    need_matplotlib("--plot needs")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, len(parts), figsize=(11, 7), squeeze=False)
    for column, (title, seen, places, speed, unit) in zip(axes.T, parts, strict=True):
        minutes = [seconds / 60 for seconds in seen.seconds]
        for axis, x, y, label in (
            (column[0], minutes, seen.mib, "MiB"),
            (column[1], minutes, seen.files, "open files"),
            (column[2], places, speed, unit),
        ):
            axis.plot(x, y, marker=".", markersize=2, linewidth=0.6)
            axis.set(ylabel=label, ylim=(0, None))
            axis.grid(alpha=0.3)
        column[0].set_title(title)
    axes[2][0].set_xlabel("minutes of training")
    axes[2][-1].set_xlabel("image")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, bbox_inches="tight")
    atomic_write(file, picture.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training (default %(default)s)")
    parser.add_argument("--images", type=int, default=500, help="that are evaluated (default %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw what was seen")
    arguments = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        raise InputError("this system has no /proc/PID/smaps_rollup; the watch needs Linux")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_sample(folder / "data")
        trained, minutes, pace = soak_training(folder, arguments.minutes)
        evaluated, each = soak_evaluation(folder, arguments.images)
    print(f"{device_name(pick_device([]))}; training {arguments.minutes:g} minutes, {arguments.images} images")
    for what, seen, unit, speed in (
        ("training", trained, "seconds an iteration", pace),
        ("evaluation", evaluated, "seconds a megapixel", each),
    ):
        print(f"{what}: MiB {change(seen.mib)}; open files {change(seen.files)}; {unit} {change(speed)}")
    if arguments.plot:
        images = [float(number) for number in range(len(each))]
        parts = [
            ("train.py", trained, minutes, pace, "s an iteration"),
            ("test.py", evaluated, images, each, "s a megapixel"),
        ]
        plot(parts, arguments.plot)
        print(f"wrote {arguments.plot}")


if __name__ == "__main__":
    run_command(main)
