"""Time and memory of large pictures: row by row, beside the whole picture at once where that fits into the memory.

Every case runs in a process of its own, so that the peak of memory is its alone. Counted is what the process holds:
the program, the weights, the picture and, of a whole one, its result (on CUDA: what PyTorch has allocated there).
Pictures are noise; neither time nor memory depends on what they show.
"""

import dataclasses
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evaluation.timing import milliseconds_of, resident
from models import ModelError, Upscaler, load
from models.memory import free_mib
from models.pixels import to_network
from utils import InputError, printable, run_command

ROOT = Path(__file__).resolve().parents[1]
OUTPUT_720P = (1280, 720)  # (width, height) of the SR image that times are compared with
ASPECT = 4 / 3
WARM_SIDE = 48  # pixels of the picture that is not counted
HEADER = """
| what | input | path | seconds | seconds a megapixel | of that at 720p | peak MiB |
| --- | --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Case:
    """One picture, one way through the network.

    Attributes:
        scale: 2, 3 or 4, with the shipped weights.
        width, height: of the input, in pixels.
        by_rows: streamed; else whole.
        device, backend: as `models.load` takes them.
        memory_mib: what the maps of a streamed picture may take; None for a share of what is free.
        repeats: counted runs.
    """

    scale: int
    width: int
    height: int
    by_rows: bool
    device: str
    backend: str
    memory_mib: float | None
    repeats: int

    @property
    def megapixels(self) -> float:
        """Of the input."""
        return self.width * self.height / 1e6


def measure_pictures(base: Case, scales: list[int], megapixels: list[float], say: Callable[[str], None]) -> list[dict]:
    """One row per scale, size and path, and one at 720p, each also said as a line of a table.

    Args:
        base: what all cases share.
        megapixels: of the inputs.

    Raises:
        InputError: 720p could not be measured; the message says why.
        ModelError: see `models.load`.
    """
    found = []
    for scale in scales:
        load(f"x{scale}", base.device, base.backend, say=say)  # a self-test, if it takes one, is in no case's figures
        width, height = (-(-side // scale) for side in OUTPUT_720P)
        base = dataclasses.replace(base, scale=scale, width=width, height=height, by_rows=False)
        reference = run_case(base)
        if "seconds" not in reference:
            raise InputError(f"x{scale} at 720p: {reference.get('error') or reference['left_out']}")
        sizes = map(size_of, megapixels)
        cases = [dataclasses.replace(base, width=w, height=h, by_rows=rows) for w, h in sizes for rows in (True, False)]
        for name, case in [("720p", base), *((f"{case.megapixels:.3g} megapixels", case) for case in cases)]:
            result = reference if case is base else run_case(case)
            row = {"scale": scale, "picture": name, **dataclasses.asdict(case), **result}
            if "seconds" in result:
                row["ratio"] = result["seconds"] / case.megapixels / (reference["seconds"] / base.megapixels)
                row["seconds_per_megapixel"] = result["seconds"] / case.megapixels
            found.append(row)
            say(_line(row))
    return found


def size_of(megapixels: float) -> tuple[int, int]:
    """(width, height) of a picture of about that size, 4 to 3."""
    width = max(1, round(math.sqrt(megapixels * 1e6 * ASPECT)))
    return width, max(1, round(width / ASPECT))


def run_case(case: Case) -> dict:
    """Measure a case in a process of its own: see `measured` and `outcome`."""
    command = [sys.executable, "-m", "evaluation.large", json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    if done.returncode == 0 and done.stderr:
        print(done.stderr, end="", file=sys.stderr)  # warnings
    return outcome(done)


def outcome(done: subprocess.CompletedProcess) -> dict:
    """What a process found, or {'error': why there is nothing, in one line}."""
    if done.returncode < 0:
        return {"error": f"ended by signal {-done.returncode}; the system sends 9 where memory is short"}
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    last = lines[-1] if lines else f"exit code {done.returncode}, and nothing was said"
    if done.returncode:
        return {"error": printable(last.removeprefix("error: "))}
    return json.loads(last)


def measured(case: Case) -> dict:
    """Median seconds of the counted runs, peak of memory in MiB (None where unknown), backend, threads.

    A whole picture that does not fit is left out: {'left_out': why}.
    """
    limit = case.memory_mib if case.by_rows else None
    upscaler = load(f"x{case.scale}", case.device, case.backend, memory_mib=limit)
    run = _by_rows if case.by_rows else _whole
    if not case.by_rows and not _fits(upscaler, case):
        return {"left_out": f"not with {free_mib(upscaler.device):,.0f} MiB of free memory"}
    random = np.random.default_rng(0)
    run(upscaler, random.integers(0, 256, (WARM_SIDE, WARM_SIDE, 3), np.uint8))
    image = random.integers(0, 256, (case.height, case.width, 3), np.uint8)
    seconds = [milliseconds_of(lambda: run(upscaler, image), upscaler.device) / 1000 for _ in range(case.repeats)]
    return {
        "seconds": statistics.median(seconds),
        "peak_mib": peak_mib(upscaler.device),
        "ran_through": "plain" if case.by_rows and upscaler.backend == "triton" else upscaler.backend,
        "threads": torch.get_num_threads(),
    }


def _fits(upscaler: Upscaler, case: Case) -> bool:
    """Whether a whole picture's maps fit into the share of the free memory that is theirs, and into the rest the
    picture and its result, in float32."""
    network, device = upscaler.network, upscaler.device
    images_mib = 12 * case.width * case.height * (1 + case.scale**2) / 2**20
    rest = free_mib(device) - network.limit(device)
    return network.fits(1, case.height, case.width, device) and images_mib < rest


def peak_mib(device: torch.device) -> float | None:
    """MiB at this process's peak: on CUDA what PyTorch had allocated, else resident memory; None where unknown.

    `resource.getrusage` is of no use: on Linux its peak begins with the memory of the process that started this one.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        return resident("VmHWM") / 2**20
    except (OSError, StopIteration):
        return None


def _by_rows(upscaler: Upscaler, image: np.ndarray) -> None:
    rows = sum(lot.shape[1] for lot in upscaler.stream(image))
    assert rows == upscaler.scale * image.shape[0]


@torch.no_grad()
def _whole(upscaler: Upscaler, image: np.ndarray) -> None:
    upscaler.network.whole(to_network(image, upscaler.device)).cpu()


def _line(row: dict) -> str:
    path = "by rows" if row["by_rows"] else "whole"
    cells = [f"x{row['scale']} {row['picture']}", f"{row['width']}x{row['height']}", path]
    if "seconds" not in row:
        why = f"failed: {row['error']}" if "error" in row else row["left_out"]
        return f"| {' | '.join([*cells, f'- ({why})', '-', '-', '-'])} |"
    peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
    cells[2] += f", {row['ran_through']}"
    cells += [f"{row['seconds']:.2f}", f"{row['seconds_per_megapixel']:.2f}", f"{row['ratio']:.2f}", peak]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    print(json.dumps(measured(Case(**json.loads(sys.argv[1])))))


if __name__ == "__main__":
    run_command(main, ModelError)
