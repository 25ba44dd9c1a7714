"""Timing of several ways to do one thing: in turn, warm, with the peak of memory, beside what the device can reach."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from models import cpu

Result = TypeVar("Result")
WARM_UP = 3  # rounds that are not counted
ROUNDS = 5_000_000  # of `cpu.multiply_adds`: some 20 ms


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of the counted rounds of one path, and MiB of memory at its peak (None where unknown)."""

    milliseconds: list[float]
    peak_mib: float | None

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def p95(self) -> float:
        return sorted(self.milliseconds)[max(0, -(-95 * len(self.milliseconds) // 100) - 1)]


def measure(
    paths: Mapping[str, Callable[[], Result]], device: torch.device, repeats: int
) -> tuple[dict[str, Result], dict[str, Timing]]:
    """(what the first call of each path returned, Timing of each).

    Memory is that of the first call: later ones of a path that keeps its maps, or replays a graph whose memory nobody
    counts, would show nothing. Then all run in turn, WARM_UP + `repeats` times over, and the last `repeats` are timed.
    """
    results: dict[str, Result] = {}
    peaks: dict[str, float | None] = {}
    milliseconds: dict[str, list[float]] = {name: [] for name in paths}
    for name, run in paths.items():
        before = _start_watching(device)
        results[name] = run()
        peaks[name] = _peak(device, before)
    for turn in range(WARM_UP + repeats):
        for name, run in paths.items():
            elapsed = milliseconds_of(run, device)
            if turn >= WARM_UP:
                milliseconds[name].append(elapsed)
    return results, {name: Timing(milliseconds[name], peaks[name]) for name in paths}


def milliseconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, from an idle device to an idle device."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end)
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _start_watching(device: torch.device) -> int | None:
    """Reset the record of peak memory; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: sets the peak of resident memory to what is resident
    except OSError:
        return None
    return resident("VmRSS")


def _peak(device: torch.device, before: int | None) -> float | None:
    """MiB at the peak since `_start_watching`, above what was in use then."""
    if before is None:
        return None
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")
    return (peak - before) / 2**20


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def ceilings(device: torch.device) -> dict[str, float]:
    """What this device reaches now: GB/s of a copy (read + written), TFLOP/s of large products by precision.

    On a CPU with a compiler, what the compiled path computes in is what its cores do in registers: PyTorch's products
    reach less than half of that on some processors.
    """
    size = 2**30 if device.type == "cuda" else 2**28
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = {"copy": 2 * size / _best(lambda: target.copy_(source), device) / 1e6}
    side = 8192 if device.type == "cuda" else 2048
    types = {"float32": torch.float32, "bf16": torch.bfloat16}
    for precision, kind in {**types, **({"fp16": torch.float16} if device.type == "cuda" else {})}.items():
        a, b = torch.randn(2, side, side, device=device).to(kind)
        rates[precision] = 2 * side**3 / _best(partial(torch.matmul, a, b), device) / 1e9
    if device.type == "cpu" and cpu.unavailable() is None:
        for precision in filter(cpu.computes, types):
            done = cpu.multiply_adds(ROUNDS, precision)
            rates[precision] = 2 * done / _best(partial(cpu.multiply_adds, ROUNDS, precision), device) / 1e9
    return rates


def _best(run: Callable[[], object], device: torch.device) -> float:
    return min(milliseconds_of(run, device) for _ in range(6))
