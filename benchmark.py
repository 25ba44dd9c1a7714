"""Time and memory of SSIU, always beside the literal reference path in the same process.

    python benchmark.py inference                               x2, x3, x4 at 720p, 1080p and 4K
    python benchmark.py inference --scales 4 --outputs 720p --repeats 5 --json x4.json
    python benchmark.py training --batch 40                     one step: crops on the device to updated weights
    python benchmark.py data --config configs/SSUFSR_light_x4.yml --set data_path=./data

The reference is models/literal.py, a transcription of the network's equations (unfold, einsum, hand-written LayerNorm).
Paths take turns, so that a busy machine slows all of them; the first rounds are not counted. Given are the median and
the 95th percentile of the rounds, the ratio of medians to the reference, the peak of memory in a path's first call
above what was held before (on a CPU the growth of resident memory, which misses what earlier paths left free), and two
shares of what this device was measured to reach in the same run: of its copy bandwidth, for the traffic of
`floor_maps`, and of its matrix rate, for the multiply-adds that profile_model.py counts.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from config import Config, load_config
from datas import ResidentTrainSet
from datas.sample import make_sample
from evaluation.report import versions, write_json
from models import ModelError, create_model, inference, matmul_precision, training_network
from models.devices import device_name, pick_device
from models.literal import LiteralSSIU
from tools.profile_model import profile
from training.loop import open_batches, open_data
from training.step import GraphedStep, TrainStep
from utils import InputError, run_command

ROOT = Path(__file__).parent
OUTPUTS = {"720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
LR_PATCH = 64
WARM_UP = 3
REFERENCE = "literal float32"
ITEM_BYTES = {"float32": 4, "tf32": 4, "tf32x3": 4, "bf16": 2, "fp16": 2}


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


def measure(paths: dict[str, Callable[[], Tensor]], device: torch.device, repeats: int) -> tuple[dict, dict]:
    """(what the first call of each path returned, Timing of each).

    Memory is that of the first call: later ones of a path that keeps its maps, or replays a graph whose memory nobody
    counts, would show nothing. Then all run in turn, WARM_UP + `repeats` times over, and the last `repeats` are timed.
    """
    results, peaks, milliseconds = {}, {}, {name: [] for name in paths}
    for name, run in paths.items():
        before = _start_watching(device)
        results[name] = run()
        peaks[name] = _peak(device, before)
    for turn in range(WARM_UP + repeats):
        for name, run in paths.items():
            elapsed = _time(run, device)
            if turn >= WARM_UP:
                milliseconds[name].append(elapsed)
    return results, {name: Timing(milliseconds[name], peaks[name]) for name in paths}


def _time(run: Callable[[], object], device: torch.device) -> float:
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
    return _resident("VmRSS")


def _peak(device: torch.device, before: int | None) -> float | None:
    """MiB at the peak since `_start_watching`, above what was in use then."""
    if before is None:
        return None
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident("VmHWM")
    return (peak - before) / 2**20


def _resident(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def ceilings(device: torch.device) -> dict[str, float]:
    """What this device reaches now: GB/s of a copy (read + written), TFLOP/s of large products by precision."""
    size = 2**30 if device.type == "cuda" else 2**28
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates = {"copy": 2 * size / _best(lambda: target.copy_(source), device) / 1e6}
    side = 8192 if device.type == "cuda" else 2048
    types = {"float32": torch.float32, "bf16": torch.bfloat16}
    for precision, kind in {**types, **({"fp16": torch.float16} if device.type == "cuda" else {})}.items():
        a, b = torch.randn(2, side, side, device=device).to(kind)
        rates[precision] = 2 * side**3 / _best(lambda a=a, b=b: a @ b, device) / 1e9
    return rates


def _best(run: Callable[[], object], device: torch.device) -> float:
    return min(_time(run, device) for _ in range(6))


def floor_maps(scale: int, n_blocks: int) -> float:
    """Maps of C channels at LR size that fully fused passes must read or write in a forward pass.

    A stage: a, y in, v, b out (LayerNorm, MSGM_1, MSGM_2); v in and out (ESAM); v, b in, a out (MSGM_3); a in and out
    (MSGM_4): 11. MoE-FS: three stages and y in, f out: 5. The tail: f in, and for x4 its map at twice the size out and
    in again: 1 or 9. Weights, images and the three output channels are small beside these.
    """
    return 11 * n_blocks + 5 + (9 if scale == 4 else 1)


def shares(config: Config, precision: str, pixels: int, multiply_adds: int, timing: Timing, rates: dict) -> dict:
    """Fractions of the measured copy bandwidth and matrix rate; `pixels` are those of the padded LR input."""
    traffic = floor_maps(config.scale, config.n_blocks) * config.n_feats * pixels * ITEM_BYTES[precision]
    floor_ms = traffic / rates["copy"] / 1e6
    found = {"bandwidth_floor_ms": floor_ms, "bandwidth_share": floor_ms / timing.median}
    if precision in rates:
        found["matrix_share"] = 2 * multiply_adds / (timing.median * 1e9) / rates[precision]
    return found


class Literal(nn.Module):
    """The reference on a model's own parameters, so that a TrainStep can train it."""

    def __init__(self, model: nn.Module, config: Config):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return LiteralSSIU(dict(self.model.named_parameters()), self.config.scale, self.config.num_heads)(x)


def references(device: torch.device) -> list[str]:
    """The reference, and where there is TF32, which PyTorch allows convolutions by default, also with that."""
    return [REFERENCE, *(["literal tf32"] if device.type == "cuda" else [])]


def literal_inference(model: nn.Module, config: Config, name: str) -> Callable:
    """The reference's forward pass in the precision that `name` ends with."""

    def network(x: torch.Tensor) -> torch.Tensor:
        with matmul_precision(name.split()[1]):
            return Literal(model, config)(x)

    return network


def candidates(model: nn.Module, device: torch.device, training: bool) -> list[tuple[str, str]]:
    """(backend, precision) pairs that can run here, the plain float32 one first."""
    wanted = [("plain", "float32")]
    if device.type == "cuda":
        wanted += [("plain", "bf16")] + [("triton", precision) for precision in ITEM_BYTES]
    else:
        wanted += [("plain", "bf16")] + ([] if training else [("cpu", "float32")])
    possible, choose = [], training_network if training else inference
    for backend, precision in wanted:
        try:
            choose(model, device, backend, precision)
        except ModelError as error:
            print(f"left out: {error}")
        else:
            possible.append((backend, precision))
    return possible


def benchmark_inference(arguments, device: torch.device, rates: dict) -> list[dict]:
    """One record per scale, output size and path."""
    records = []
    for scale in arguments.scales:
        config = load_config(ROOT / "configs" / f"SSUFSR_light_x{scale}.yml")
        torch.manual_seed(0)
        model = create_model(config).to(device).eval()
        for output in arguments.outputs:
            width, height = (-(-side // scale) for side in OUTPUTS[output])
            x = torch.rand(1, 3, height, width, device=device)
            networks = {name: literal_inference(model, config, name) for name in references(device)}
            for backend, precision in candidates(model, device, training=False):
                networks[f"{backend} {precision}"] = inference(model, device, backend, precision)[0]
            with torch.no_grad():
                runs = {name: partial(network, x) for name, network in networks.items()}
                outputs, timings = measure(runs, device, arguments.repeats)
            errors = {name: (output - outputs[REFERENCE]).abs().max().item() for name, output in outputs.items()}
            del networks, runs  # with the memory of their graphs, before the next are recorded
            pixels = (16 * -(-width // 16)) * (16 * -(-height // 16))
            multiply_adds = profile(config, *OUTPUTS[output])[1][1]
            what = {"scale": scale, "output": output}
            records += rows(what, config, timings, errors, pixels, multiply_adds, rates)
    return records


def benchmark_training(arguments, device: torch.device, rates: dict) -> list[dict]:
    """One record per scale and path: a step at --batch patches of 64x64 LR pixels, images already on the device."""
    records = []
    for scale in arguments.scales:
        base = load_config(ROOT / "configs" / f"SSUFSR_light_x{scale}.yml", [f"batch_size={arguments.batch}"])
        sides = (LR_PATCH, scale * LR_PATCH)
        batch = tuple(
            torch.randint(0, 256, (arguments.batch, side, side, 3), dtype=torch.uint8, device=device) for side in sides
        )
        torch.manual_seed(0)
        choices = candidates(create_model(base).to(device), device, training=True)
        precisions = {name: name.split()[1] for name in references(device)}
        steps = {name: _step(dataclasses.replace(base, precision=p), device) for name, p in precisions.items()}
        for backend, precision in choices:
            config = dataclasses.replace(base, precision=precision)
            steps[f"{backend} {precision}"] = _step(config, device, backend)
            if device.type == "cuda" and precision != "fp16":
                steps[f"{backend} {precision} graph"] = GraphedStep(_step(config, device, backend))
        runs = {name: partial(step, batch, base.lr) for name, step in steps.items()}
        losses, timings = measure(runs, device, arguments.repeats)
        errors = {name: abs(loss - losses[REFERENCE]).sum().item() for name, loss in losses.items()}
        del steps, runs  # with the memory of their graphs, before the next are recorded
        multiply_adds = 3 * arguments.batch * profile(base, scale * LR_PATCH, scale * LR_PATCH)[1][1]
        pixels = 3 * arguments.batch * LR_PATCH**2  # forward, and backward for inputs and for weights
        records += rows({"scale": scale, "batch": arguments.batch}, base, timings, errors, pixels, multiply_adds, rates)
    return records


def _step(config: Config, device: torch.device, backend: str | None = None) -> TrainStep:
    """A step on the initial weights of seed 0 through a backend, or through the reference for None."""
    torch.manual_seed(0)
    model = create_model(config).to(device)
    network = training_network(model, device, backend, config.precision)[0] if backend else Literal(model, config)
    return TrainStep(config, model, network, device, draw=lambda *crops: crops)


def benchmark_data(arguments, device: torch.device, _rates: dict) -> list[dict]:
    """Patches per second of the loader, by its number of processes, and of crops drawn on the device."""
    if not arguments.config:
        make_sample(ROOT / "data" / "sample")
    file = arguments.config or ROOT / "configs" / "sample_x4.yml"
    wanted = [] if arguments.config else [f"data_path={ROOT / 'data' / 'sample'}", "patch_size=256", "batch_size=40"]
    base = load_config(file, wanted + arguments.set)
    data, records = open_data(base), []
    sources = {f"loader, {n} processes": dataclasses.replace(base, threads=n) for n in (0, 1, 2, 4)}
    for name, config in sources.items():
        loader = open_batches(data, _OneProcess(device), config)[1]
        records.append(_patches_per_second(name, loader, lambda *crops: crops, base.batch_size, device))
    resident = ResidentTrainSet(data, device)
    name = f"drawn on {device.type}"
    records.append(_patches_per_second(name, resident.batches, resident.crops, base.batch_size, device))
    for record in records:
        print(f"{record['path']:24} {record['patches_per_second']:10.0f} patches/s")
    return records


@dataclasses.dataclass(frozen=True)
class _OneProcess:
    device: torch.device
    rank: int = 0
    world: int = 1


def _patches_per_second(name: str, batches: Callable, draw: Callable, size: int, device: torch.device) -> dict:
    warm, counted = 20, 200
    iterator = iter(batches(0, warm + counted))
    for _ in range(warm):
        draw(*next(iterator))
    milliseconds = _time(lambda: [draw(*batch) for batch in iterator], device)
    return {"path": name, "patches_per_second": 1000 * counted * size / milliseconds}


def rows(what: dict, config, timings: dict, errors: dict, pixels: int, multiply_adds: int, rates: dict) -> list[dict]:
    """Records of one comparison, and a printed line for each."""
    records = []
    for name, timing in timings.items():
        precision = name.split()[1]
        record = {
            **what,
            "path": name,
            "median_ms": timing.median,
            "p95_ms": timing.p95,
            "rounds": len(timing.milliseconds),
            "ratio": timings[REFERENCE].median / timing.median,
            "peak_mib": timing.peak_mib,
            "difference": errors[name],
            **shares(config, precision, pixels, multiply_adds, timing, rates),
        }
        records.append(record)
        print(_line(record), flush=True)
    return records


HEADER = """
| what | path | median ms | p95 ms | times reference | peak MiB | largest difference | of bandwidth | of matrix rate |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def _line(record: dict) -> str:
    what = f"x{record['scale']} {record.get('output') or 'batch ' + str(record['batch'])}"
    peak = "" if record["peak_mib"] is None else f"{record['peak_mib']:.0f}"
    matrix = f"{record['matrix_share']:.0%}" if "matrix_share" in record else ""
    cells = [what, record["path"], f"{record['median_ms']:.2f}", f"{record['p95_ms']:.2f}", f"{record['ratio']:.2f}"]
    cells += [peak, f"{record['difference']:.1e}", f"{record['bandwidth_share']:.0%}", matrix]
    return f"| {' | '.join(cells)} |"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("inference", "training", "data"))
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4], choices=(2, 3, 4))
    parser.add_argument("--outputs", nargs="+", default=list(OUTPUTS), choices=OUTPUTS, help="sizes of the SR image")
    parser.add_argument("--batch", type=int, default=40, help="patches per training step (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="counted rounds (default %(default)s)")
    parser.add_argument("--gpu", type=int, default=0, help="CUDA device (default %(default)s)")
    parser.add_argument("--config", help="data: whose training images to load (default: the sample photographs)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="data: override a config key")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.repeats < 1 or arguments.batch < 1:
        raise InputError("--repeats and --batch must be at least 1")
    device = pick_device([arguments.gpu])
    print(f"{device_name(device)}; {json.dumps(versions())}")
    benchmark = {"inference": benchmark_inference, "training": benchmark_training, "data": benchmark_data}
    rates = {} if arguments.what == "data" else ceilings(device)
    if rates:
        print("reached here: copy {:.0f} GB/s; ".format(rates["copy"]), end="")
        print(", ".join(f"{name} {rate:.2f} TFLOP/s" for name, rate in rates.items() if name != "copy"))
        print(HEADER)
    records = benchmark[arguments.what](arguments, device, rates)
    if arguments.json:
        content = {"device": device_name(device), "versions": versions(), "ceilings": rates, "records": records}
        write_json(arguments.json, content)


if __name__ == "__main__":
    run_command(main, ModelError)
