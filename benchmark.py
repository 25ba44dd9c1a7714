"""Time and memory of SSIU and of other networks, always beside the literal reference path in the same process.

    python benchmark.py inference                               x2, x3, x4 at 720p, 1080p and 4K
    python benchmark.py inference --scales 4 --outputs 720p --repeats 5 --json x4.json
    python benchmark.py training --batch 40                     one step: crops on the device to updated weights
    python benchmark.py data --config configs/SSUFSR_light_x4.yml --set data_path=./data
    python benchmark.py inference --config mine.yml             another network, beside its own plain path
    python benchmark.py inference --model my_networks:Shallow   another network, beside SSIU
    python benchmark.py pictures --scales 4 --megapixels 12 50  row by row and whole, beside 720p (evaluation/large.py)

The reference is models/literal.py, a transcription of the network's equations (unfold, einsum, hand-written LayerNorm).
Paths take turns, so that a busy machine slows all of them; the first rounds are not counted. Given are the median and
the 95th percentile of the rounds, the ratio of medians to the reference, the peak of memory in a path's first call
above what was held before (on a CPU the growth of resident memory, which misses what earlier paths left free), and two
shares of what this device was measured to reach in the same run: of its copy bandwidth, for the traffic of
`floor_maps`, and of its matrix rate (on a CPU that of its cores' registers, where the compiled path has the
precision), for the multiply-adds that profile_model.py counts.

On a CPU the reference and PyTorch's other paths spend much of their time on fresh memory, page by page: --keep-memory
leaves that out, where the C library is glibc; the peaks then say less.
"""

import interrupts  # noqa: F401, isort: skip
import argparse
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from config import Config, load_config
from datas import ResidentTrainSet, open_train_set
from datas.images import LARGEST
from datas.sample import make_sample
from evaluation.large import HEADER as PICTURES_HEADER
from evaluation.large import Case, measure_pictures
from evaluation.paths import ITEM_BYTES, candidates, inference_paths, open_peer
from evaluation.peers import add_run_options
from evaluation.report import versions, write_json
from evaluation.timing import Timing, ceilings, measure, milliseconds_of
from models import BACKENDS, ModelError, create_model, matmul_precision, training_network
from models.determinism import deterministic
from models.devices import device_name, pick_device
from models.literal import LiteralSSIU
from models.memory import keep_freed_memory
from models.registry import SSUFSR, network_name
from tools.profile_model import network_facts, profile
from training.batches import open_batches
from training.graphed import GraphedStep
from training.processes import Process
from training.step import TrainStep
from utils import InputError, run_command

ROOT = Path(__file__).parent
MOST_THREADS = 1024
OUTPUTS = {"720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
LR_PATCH = 64
LITERAL, PLAIN = "literal float32", "plain float32"
GOES_WITH = {  # the benchmarks that read an option
    "outputs": ("inference",), "batch": ("training",), "config": ("inference", "training", "data"),
    "set": ("inference", "training", "data"), "threads": ("inference", "training"),
    "keep_memory": ("inference", "training"), "megapixels": ("pictures",), "backend": ("pictures",),
    "memory": ("pictures",),
    **dict.fromkeys(("model", "model_args", "weights", "tile", "overlap"), ("inference",)),
}  # fmt: skip


def floor_maps(scale: int, n_blocks: int) -> float:
    """Maps of C channels at LR size that fully fused passes must read or write in a forward pass.

    A stage: a, y in, v, b out (LayerNorm, MSGM_1, MSGM_2); v in and out (ESAM); v, b in, a out (MSGM_3); a in and out
    (MSGM_4): 11. MoE-FS: three stages and y in, f out: 5. The tail: f in, and for x4 its map at twice the size out and
    in again: 1 or 9. Weights, images and the three output channels are small beside these.
    """
    return 11 * n_blocks + 5 + (9 if scale == 4 else 1)


def shares(
    config: Config, precision: str, pixels: int, multiply_adds: int | None, timing: Timing, rates: dict
) -> dict[str, float]:
    """Fractions of what was measured: of the copy bandwidth, for SSIU, whose padded LR input has so many `pixels`; and
    of the matrix rate, where the multiply-adds are known."""
    found = {}
    if config.model == SSUFSR:
        traffic = floor_maps(config.scale, config.n_blocks) * config.n_feats * pixels * ITEM_BYTES[precision]
        floor_ms = traffic / rates["copy"] / 1e6
        found = {"bandwidth_floor_ms": floor_ms, "bandwidth_share": floor_ms / timing.median}
    if precision in rates and multiply_adds is not None:
        found["matrix_share"] = 2 * multiply_adds / (timing.median * 1e9) / rates[precision]
    return found


class Literal(nn.Module):
    """The reference on a model's own parameters, so that a TrainStep can train it."""

    def __init__(self, model: nn.Module, config: Config):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return LiteralSSIU(dict(self.model.named_parameters()), self.config.scale, self.config.num_heads)(x)


def reference(config: Config) -> str:
    """What a network is compared with: the literal transcription, or the plain path if there is none."""
    whole = config.model == SSUFSR and config.use_esam and config.use_moe and len(config.msgm_depthwise) == 4
    return LITERAL if whole else PLAIN


def literals(config: Config, device: torch.device) -> list[str]:
    """The literal paths, if there are any: where there is TF32, which PyTorch allows convolutions by default, also with
    that."""
    if reference(config) != LITERAL:
        return []
    return [LITERAL, *(["literal tf32"] if device.type == "cuda" else [])]


def benchmark_configs(arguments, overrides: list[str]) -> list[Config]:
    """The config of --config, or the paper's of each scale."""
    if arguments.config:
        return [load_config(arguments.config, [*arguments.set, *overrides])]
    files = (ROOT / "configs" / f"SSUFSR_light_x{scale}.yml" for scale in arguments.scales)
    return [load_config(file, [*arguments.set, *overrides]) for file in files]


def literal_inference(model: nn.Module, config: Config, name: str) -> Callable:
    """The reference's forward pass in the precision that `name` ends with."""

    def network(x: torch.Tensor) -> torch.Tensor:
        with matmul_precision(name.split()[1]):
            return Literal(model, config)(x)

    return network


def benchmark_inference(arguments, device: torch.device, rates: dict) -> list[dict]:
    """One row per scale, output size and path."""
    found = []
    configs = benchmark_configs(arguments, [])
    peers = [open_peer(config, arguments, device) if arguments.model else None for config in configs]
    for config, peer in zip(configs, peers, strict=True):
        scale = config.scale
        torch.manual_seed(0)
        model = create_model(config).to(device).eval()
        for output in arguments.outputs:
            width, height = (-(-side // scale) for side in OUTPUTS[output])
            x = torch.rand(1, 3, height, width, device=device)
            own = {name: literal_inference(model, config, name) for name in literals(config, device)}
            own |= inference_paths(model, device)
            others = peer.paths(device) if peer else {}
            runs = {name: partial(network, x) for name, network in {**own, **others}.items()}
            with torch.no_grad():
                outputs, timings = measure(runs, device, arguments.repeats)
            compared = [(config, list(own), reference(config))]
            if peer:
                compared.append((peer.config, list(others), next(iter(others))))
            del own, others, runs  # with the memory of their graphs, before the next are recorded
            pixels = (16 * -(-width // 16)) * (16 * -(-height // 16))
            for its, names, truth in compared:
                what = {"scale": scale, "output": output, "network": network_name(its)}
                errors = {name: (outputs[name] - outputs[truth]).abs().max().item() for name in names}
                multiply_adds = network_facts(its, *OUTPUTS[output])["multiply_adds"]
                found += rows(what, its, timings, timings[reference(config)], errors, pixels, multiply_adds, rates)
    return found


def benchmark_training(arguments, device: torch.device, rates: dict) -> list[dict]:
    """One row per scale and path: a step at --batch patches of 64x64 LR pixels, images already on the device."""
    found = []
    for base in benchmark_configs(arguments, [f"batch_size={arguments.batch}", "accumulate=1"]):
        scale = base.scale
        sides = (LR_PATCH, scale * LR_PATCH)
        batch = tuple(
            torch.randint(0, 256, (arguments.batch, side, side, 3), dtype=torch.uint8, device=device) for side in sides
        )
        torch.manual_seed(0)
        choices = candidates(create_model(base).to(device), device, training=True)
        precisions = {name: name.split()[1] for name in literals(base, device)}
        steps: dict[str, TrainStep | GraphedStep] = {}
        steps |= {name: _step(dataclasses.replace(base, precision=p), device) for name, p in precisions.items()}
        for backend, precision in choices:
            config = dataclasses.replace(base, precision=precision)
            steps[f"{backend} {precision}"] = _step(config, device, backend)
            if device.type == "cuda" and precision != "fp16":
                eager = _step(config, device, backend)
                steps[f"{backend} {precision} graph"] = GraphedStep(eager, required=True, say=print)
        runs: dict[str, Callable] = {name: partial(step, batch, base.lr) for name, step in steps.items()}
        in_fixed_order = partial(_step(base, device, "plain"), batch, base.lr)
        runs["plain float32 deterministic"] = deterministic(True)(in_fixed_order)
        losses, timings = measure(runs, device, arguments.repeats)
        truth = losses[reference(base)]
        errors = {name: abs(loss - truth).sum().item() for name, loss in losses.items()}
        del steps, runs, in_fixed_order  # with the memory of their graphs, before the next are recorded
        multiply_adds = 3 * arguments.batch * profile(base, scale * LR_PATCH, scale * LR_PATCH)[1][1]
        pixels = 3 * arguments.batch * LR_PATCH**2  # forward, and backward for inputs and for weights
        what, truth_timing = {"scale": scale, "batch": arguments.batch}, timings[reference(base)]
        found += rows(what, base, timings, truth_timing, errors, pixels, multiply_adds, rates)
    return found


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
    data, found = open_train_set(base), []
    sources = {f"loader, {n} processes": dataclasses.replace(base, threads=n) for n in (0, 1, 2, 4)}
    for name, config in sources.items():
        loader = open_batches(data, Process(0, 1, device), config, print)[1]
        found.append(_patches_per_second(name, loader, lambda *crops: crops, base.batch_size, device))
    resident = ResidentTrainSet(data, device)
    name = f"drawn on {device.type}"
    found.append(_patches_per_second(name, resident.batches, resident.crops, base.batch_size, device))
    for row in found:
        print(f"{row['path']:24} {row['patches_per_second']:10.0f} patches/s")
    return found


def benchmark_pictures(arguments, device: torch.device, _rates: dict) -> list[dict]:
    """One row per scale, size and way through the network, and one at 720p."""
    print(PICTURES_HEADER)
    base = Case(0, 0, 0, False, str(device), arguments.backend or "auto", arguments.memory, arguments.repeats)
    return measure_pictures(base, arguments.scales, arguments.megapixels or [12, 50], partial(print, flush=True))


def _patches_per_second(name: str, batches: Callable, draw: Callable, size: int, device: torch.device) -> dict:
    warm, counted = 20, 200
    iterator = iter(batches(0, warm + counted))
    for _ in range(warm):
        draw(*next(iterator))
    milliseconds = milliseconds_of(lambda: [draw(*batch) for batch in iterator], device)
    return {"path": name, "patches_per_second": 1000 * counted * size / milliseconds}


def rows(
    what: dict,
    config: Config,
    timings: dict[str, Timing],
    of_reference: Timing,
    errors: dict[str, float],
    pixels: int,
    multiply_adds: int | None,
    rates: dict,
) -> list[dict]:
    """The rows of the paths that `errors` names, and a printed line for each."""
    found = []
    for name, error in errors.items():
        precision, timing = name.split()[1], timings[name]
        row = {
            **what,
            "path": name,
            "median_ms": timing.median,
            "p95_ms": timing.p95,
            "rounds": len(timing.milliseconds),
            "ratio": of_reference.median / timing.median,
            "peak_mib": timing.peak_mib,
            "difference": error,
            **shares(config, precision, pixels, multiply_adds, timing, rates),
        }
        found.append(row)
        print(_line(row), flush=True)
    return found


HEADER = """
| what | path | median ms | p95 ms | times reference | peak MiB | largest difference | of bandwidth | of matrix rate |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def _line(row: dict) -> str:
    what = f"x{row['scale']} {row.get('output') or 'batch ' + str(row['batch'])}"
    peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
    bandwidth = f"{row['bandwidth_share']:.0%}" if "bandwidth_share" in row else ""
    matrix = f"{row['matrix_share']:.0%}" if "matrix_share" in row else ""
    cells = [what, row["path"], f"{row['median_ms']:.2f}", f"{row['p95_ms']:.2f}", f"{row['ratio']:.2f}"]
    cells += [peak, f"{row['difference']:.1e}", bandwidth, matrix]
    return f"| {' | '.join(cells)} |"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(BENCHMARKS))
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4], choices=(2, 3, 4))
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, help="sizes of the SR image (default: all)")
    parser.add_argument("--batch", type=int, help="patches per training step (default 40)")
    parser.add_argument("--repeats", type=int, help="counted rounds (default 20; pictures: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda, where there is one")
    parser.add_argument("--gpu", type=int, default=0, help="number of the CUDA device (default %(default)s)")
    parser.add_argument("--threads", type=int, help="of PyTorch and the compiled path (default: the cores)")
    parser.add_argument(
        "--keep-memory", action="store_true", default=None, help="keep what is freed, as train.py and test.py do"
    )
    parser.add_argument("--megapixels", type=float, nargs="+", help="pictures: sizes of the LR image (default 12 50)")
    parser.add_argument("--backend", choices=BACKENDS, help="pictures: see models/backends.py (default auto)")
    parser.add_argument("--memory", type=float, metavar="MIB", help="pictures: that the maps of rows may take")
    parser.add_argument(
        "--config", help="its network, or for data its images (default: the paper's configs, the sample)"
    )
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="override a config key")
    add_run_options(parser)
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    return parser.parse_args()


def chosen_device(arguments: argparse.Namespace) -> torch.device:
    device = pick_device([] if arguments.device == "cpu" else [arguments.gpu])
    if arguments.device == "cuda" and device.type != "cuda":
        raise InputError("--device cuda: there is no CUDA device here; use cpu")
    return device


BENCHMARKS = {
    "inference": benchmark_inference,
    "training": benchmark_training,
    "data": benchmark_data,
    "pictures": benchmark_pictures,
}


def check_options(arguments: argparse.Namespace) -> None:
    """Raise InputError for an option that nothing would read, or a number out of range; fill in defaults."""
    for name, benchmarks in GOES_WITH.items():
        if getattr(arguments, name) is not None and arguments.what not in benchmarks:
            fitting = " and ".join(benchmarks)
            raise InputError(f"{_option(name)}: goes with {fitting}, not with {arguments.what}; leave it out")
    for name in ("model_args", "weights", "tile", "overlap"):
        if getattr(arguments, name) is not None and arguments.model is None:
            raise InputError(f"{_option(name)}: goes with --model; leave it out")
    repeats = 1 if arguments.what == "pictures" else 20
    for name, value in {"repeats": repeats, "outputs": list(OUTPUTS), "batch": 40, "set": []}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.repeats < 1 or arguments.batch < 1:
        raise InputError("--repeats and --batch must be at least 1")
    if arguments.threads is not None and not 1 <= arguments.threads <= MOST_THREADS:
        raise InputError(f"--threads: must be from 1 to {MOST_THREADS}")
    if arguments.memory is not None and not arguments.memory > 0:
        raise InputError("--memory: must be above 0")
    if not all(0 < size <= LARGEST / 1e6 for size in arguments.megapixels or ()):
        raise InputError(f"--megapixels: must be above 0 and at most {LARGEST / 1e6:.0f}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def main() -> int:
    arguments = parse_arguments()
    check_options(arguments)
    device = chosen_device(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.keep_memory:
        keep_freed_memory()
    print(f"{device_name(device)}; {json.dumps(versions())}")
    rates = ceilings(device) if arguments.what in ("inference", "training") else {}
    if rates:
        print("reached here: copy {:.0f} GB/s; ".format(rates["copy"]), end="")
        print(", ".join(f"{name} {rate:.2f} TFLOP/s" for name, rate in rates.items() if name != "copy"))
        print(HEADER)
    found = BENCHMARKS[arguments.what](arguments, device, rates)
    if arguments.json:
        content = {"device": device_name(device), "versions": versions(), "ceilings": rates, "rows": found}
        write_json(arguments.json, content)
    return int(any("error" in row for row in found))


if __name__ == "__main__":
    run_command(main, ModelError)
