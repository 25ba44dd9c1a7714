"""The tables of docs/export.md: every exported form of the weights that come with the project, beside the network.

    python -m tools.export_table differences --data ./data      size, largest difference, dB where there is a difference
    python -m tools.export_table times --scales 4               milliseconds for an image of 1280x720 output
    python -m tools.export_table times --scales 4 --compile     also the .pt2 file compiled by AOTInductor

Differences are to the plain network in float32, over SIZES, of numbers in [0, 1], drawn at random. Paths that are timed
take turns in one process; the first round is not counted; given is the median. PyTorch keeps its freed memory, as in
test.py.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datas import open_benchmark_sets
from evaluation.evaluator import evaluate_set
from evaluation.timing import milliseconds_of
from models import ModelError, Upscaler
from models.devices import device_name
from models.memory import keep_freed_memory
from models.portable import SAMPLE, Portable
from models.ssiu import SCALES
from tools.export import export
from tools.export_onnx import INPUT, needed
from utils import run_command

Network = Callable[[Tensor], Tensor]
CPU = torch.device("cpu")
SIZES = (
    (1, 1),
    (1, 40),
    (2, 3),
    (5, 64),
    (8, 9),
    (16, 16),
    (17, 31),
    (33, 16),
    (48, 64),
    (50, 70),
    (31, 97),
    (75, 100),
)
BATCH = 2
SETS = ("Set5", "Set14")
SMALL = 1e-4  # a path that differs less is not scored
WIDTH, HEIGHT = 1280, 720


class Onnxruntime:
    """An .onnx file in onnxruntime; as many threads as it takes by itself where `threads` is 0."""

    def __init__(self, file: Path, threads: int):
        runtime = needed("onnxruntime", file)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {INPUT: x.numpy()})[0])


class OpenVINO:
    """An .onnx file in OpenVINO on the CPU."""

    def __init__(self, file: Path, settings: dict[str, str | int]):
        self.request = needed("openvino", file).Core().compile_model(file, "CPU", settings).create_infer_request()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.array(self.request.infer([x.numpy()])[0]))


def paths(scale: int, folder: Path, compiled: bool) -> Iterator[tuple[str, Path | None, Network]]:
    """(what, its file, what runs it), the plain network first. Files are written into `folder`."""
    threads = torch.get_num_threads()
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    files = {name: folder / f"SSIU_x{scale}{name}" for name in (".safetensors", ".onnx", "_half.onnx", ".pt2")}
    for name, file in files.items():
        export(f"x{scale}", file, half=name == "_half.onnx")
    plain = Upscaler.load(f"x{scale}", "cpu", "plain")
    yield ".safetensors, plain path", files[".safetensors"], plain.network
    yield ".safetensors, cpu path", files[".safetensors"], Upscaler.load(f"x{scale}", "cpu", "cpu").network
    for name in (".onnx", "_half.onnx"):
        label = ".onnx --half" if name == "_half.onnx" else name
        yield f"{label}, onnxruntime, {threads} threads", files[name], Onnxruntime(files[name], threads)
        if name == ".onnx":
            yield f"{label}, onnxruntime as it comes", files[name], Onnxruntime(files[name], 0)
        yield f"{label}, OpenVINO, float32, {threads} threads", files[name], OpenVINO(files[name], exact)
        if name == ".onnx":
            yield f"{label}, OpenVINO as it comes", files[name], OpenVINO(files[name], {})
    yield ".pt2, torch.export", files[".pt2"], torch.export.load(files[".pt2"]).module()
    yield "torch.jit.trace", None, torch.jit.trace(Portable(plain.model), torch.rand(SAMPLE), check_trace=False)
    if compiled:
        package = folder / f"SSIU_x{scale}_compiled.pt2"
        torch._inductor.aoti_compile_and_package(torch.export.load(files[".pt2"]), package_path=str(package))
        yield ".pt2, AOTInductor", package, torch._inductor.aoti_load_package(str(package))


def largest_difference(network: Network, plain: Network, scale: int) -> float:
    """Over SIZES. AssertionError if a shape is not as it must be."""
    found = 0.0
    generator = torch.Generator().manual_seed(0)
    for height, width in SIZES:
        x = torch.rand(BATCH, 3, height, width, generator=generator)
        out = network(x)
        assert out.shape == (BATCH, 3, scale * height, scale * width), (tuple(x.shape), tuple(out.shape))
        found = max(found, (out - plain(x)).abs().max().item())
    return found


def mean_psnr(network: Network, data: Path, scale: int) -> list[float]:
    """Of each of SETS, `standard` protocol."""
    sets = open_benchmark_sets(data, SETS, scale)
    return [evaluate_set(network, images, images.name, scale, CPU).mean("standard").psnr for images in sets]


@torch.no_grad()
def differences(arguments: argparse.Namespace, folder: Path) -> None:
    print("| scale | form | MB | largest difference | dB on " + ", ".join(SETS) + " |\n| --- | --- | --- | --- | --- |")
    for scale in arguments.scales:
        plain: Network | None = None
        truth: list[float] = []
        for what, file, network in paths(scale, folder, arguments.compile):
            plain = plain or network
            difference = largest_difference(network, plain, scale)
            cost = ""
            if difference > SMALL and arguments.data:
                truth = truth or mean_psnr(plain, arguments.data, scale)
                scores = mean_psnr(network, arguments.data, scale)
                cost = ", ".join(f"{score - true:+.4f}" for score, true in zip(scores, truth, strict=True))
            size = f"{file.stat().st_size / 1e6:.2f}" if file else ""
            print(f"| x{scale} | {what} | {size} | {difference:.1e} | {cost} |", flush=True)


@torch.no_grad()
def times(arguments: argparse.Namespace, folder: Path) -> None:
    print("| scale | form | median ms | of the cpu path | of the plain path |\n| --- | --- | --- | --- | --- |")
    keep_freed_memory()
    for scale in arguments.scales:
        x = torch.rand(1, 3, -(-HEIGHT // scale), -(-WIDTH // scale))
        networks = {what: network for what, _, network in paths(scale, folder, arguments.compile)}
        found: dict[str, list[float]] = {what: [] for what in networks}
        for turn in range(1 + arguments.repeats):
            for what, network in networks.items():
                elapsed = milliseconds_of(partial(network, x), CPU)
                if turn:
                    found[what].append(elapsed)
        medians = {what: statistics.median(elapsed) for what, elapsed in found.items()}
        plain, cpu = list(medians.values())[:2]
        for what, median in medians.items():
            print(f"| x{scale} | {what} | {median:.0f} | {median / cpu:.2f} | {median / plain:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for run in (differences, times):
        command = commands.add_parser(run.__name__)
        command.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=SCALES)
        command.add_argument("--compile", action="store_true", help="also by AOTInductor, which takes minutes")
        command.set_defaults(run=run)
        if run is differences:
            command.add_argument("--data", type=Path, help="a data_path with Set5 and Set14, for the dB")
        else:
            command.add_argument("--repeats", type=int, default=5, help="rounds that are counted")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnx", "onnxruntime", "openvino"))
    with tempfile.TemporaryDirectory() as folder:
        arguments.run(arguments, Path(folder))
    print(f"\n{device_name(CPU)}, {packages}")


if __name__ == "__main__":
    run_command(main, ModelError)
