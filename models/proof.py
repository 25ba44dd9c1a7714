"""A faster path proves itself on the machine at hand before it is used: right first, then faster.

Right: the golden vectors, and a network of the asked architecture on an image of real size, against the plain path in
float32 on the same device; in training also the gradient of every parameter. Faster: both are timed in turn on the
shape at hand. The outcome is kept in the user's cache folder under everything it may depend on (`facts`), so it is
found once for a machine and again after any change.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .architecture import Architecture
from .cache import cache_folder, digest, write_whole
from .devices import device_name
from .precision import autocast, matmul_precision
from .ssiu import SSIU

GOLDEN = Path(__file__).parent / "golden"
ROUNDS = 3  # timed calls of each path; one more of each comes first
# Largest error, |fast - plain| / |plain| as norms over a tensor.
OUTPUT_LIMIT = {"float32": 1e-5, "tf32x3": 1e-5, "tf32": 3e-3, "fp16": 3e-3, "bf16": 1e-2}
GRADIENT_LIMIT = {"float32": 1e-4, "tf32x3": 1e-4, "tf32": 2e-2, "fp16": 2e-2, "bf16": 1e-1}
# Of the sample network's weights. Larger ones amplify rounding from stage to stage, smaller ones hide stages.
GAIN = 0.7
SMALL = 1e-3  # gradients below this share of the largest are compared with that share: they are mostly rounding error


@dataclass(frozen=True)
class FastPath:
    """A path that may run in place of the plain one.

    `build(model, precision, training)` is a callable (B, 3, H, W) -> (B, 3, sH, sW) on the weights of `model`.
    `toolchain()` names what compiles it; `sources` are its files.
    """

    name: str
    build: Callable[[SSIU, str, bool], Callable[[Tensor], Tensor]]
    toolchain: Callable[[], str]
    sources: tuple[Path, ...]


@dataclass(frozen=True)
class Work:
    """What a path is proven for: `shape` is (B, H, W) of its input."""

    architecture: Architecture
    device: torch.device
    precision: str
    training: bool
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Verdict:
    """What a path's self-test found.

    `problem` is empty where it is right. `error` is the largest relative error of an output, or of a gradient in
    training. `speedup` is the plain path's time over this one's.
    """

    problem: str
    error: float
    speedup: float
    place: str = ""  # the file that keeps it; empty where it is not kept
    has_failed: bool = False  # it raised, and nothing was compared

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        return f"agrees to {self.error:.0e}, {self.speedup:.1f} times plain"


_found: dict[str, Verdict] = {}  # by key, in this process


def self_test(path: FastPath, work: Work) -> Verdict:
    """The verdict on a path, from this process, from the cache folder, or found now.

    A path that raises is not right. Only what is right and faster, or wrong, is kept on disk: the next start may be
    luckier (a busy machine, memory, a compiler).
    """
    try:
        known = facts(path, work)
    except (OSError, RuntimeError) as error:  # the toolchain is gone
        return _failed(error)
    key = digest(json.dumps(known).encode())
    if key not in _found:
        _found[key] = _read(key) or _keep(key, known, _prove_with_less(path, work))
    return _found[key]


def facts(path: FastPath, work: Work) -> dict:
    """Everything that the outcome may depend on."""
    cuda = work.device.type == "cuda"
    return {
        "path": path.name,
        "device": device_name(work.device),
        "capability": torch.cuda.get_device_capability(work.device) if cuda else platform.machine(),
        "driver": _driver() if cuda else platform.system(),
        "torch": torch.__version__,
        "toolchain": path.toolchain(),
        "sources": digest(*(file.read_bytes() for file in path.sources)),
        "precision": work.precision,
        "training": work.training,
        "architecture": str(work.architecture),
        "shape": list(work.shape),
    }


def prove(path: FastPath, work: Work) -> Verdict:
    """Run the self-test. Raises whatever the path raises."""
    errors = [golden_error(path, work)]
    model = sample_network(work.architecture, work.device)
    plain, fast = model, path.build(model, work.precision, work.training)
    batch, height, width = work.shape
    x = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)).to(work.device)
    with torch.enable_grad() if work.training else torch.no_grad():
        with matmul_precision("float32"):
            truth, truth_gradients = _run(plain, model, x, work.training)
        output, gradients = _run(fast, model, x, work.training)
        errors.append(relative_error(output, truth))
        limit = OUTPUT_LIMIT[work.precision]
        problem = _judge("output for the golden vectors", errors[0], limit) or _judge("output", errors[1], limit)
        if work.training:
            name, error = worst_gradient(gradients, truth_gradients)
            errors.append(error)
            problem = problem or _judge(f"gradient of {name}", error, GRADIENT_LIMIT[work.precision])
        speedup = 0.0 if problem else _speedup(plain, fast, model, x, work)
    return Verdict(problem, max(errors), speedup)


def golden_error(path: FastPath, work: Work) -> float:
    """Largest error of the path's outputs on the golden vectors of the scale, whose truth is the published formulas."""
    worst = 0.0
    for file in sorted(GOLDEN.glob(f"x{work.architecture.scale}_*.npz")):
        arrays = np.load(file)
        blocks = int(file.stem.split("_")[1].removeprefix("blocks"))
        model = SSIU(work.architecture.scale, n_blocks=blocks)
        model.load_state_dict({k[3:]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("sd/")})
        network = path.build(model.to(work.device).eval(), work.precision, work.training)
        with torch.no_grad():
            output = network(torch.from_numpy(arrays["input"]).to(work.device))
        worst = max(worst, relative_error(output, torch.from_numpy(arrays["output"])))
    return worst


def sample_network(architecture: Architecture, device: torch.device) -> SSIU:
    """A network whose every parameter matters: a path that leaves one out or swaps two cannot agree by chance."""
    model, generator = architecture.build(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 4 and parameter.shape[0] > 1:
                parameter.copy_(GAIN * noise * parameter[0].numel() ** -0.5)
            elif parameter.dim() == 1:
                parameter.add_(0.2 * GAIN * noise)
    return model.to(device)


def relative_error(result: Tensor, truth: Tensor) -> float:
    """|result - truth| / |truth|, norms over all elements; infinite for what is not finite or of another shape."""
    if result.shape != truth.shape:
        return float("inf")
    result, truth = result.detach().double().cpu(), truth.detach().double().cpu()
    error = ((result - truth).norm() / truth.norm().clamp_min(1e-30)).item()
    return error if error == error else float("inf")


def worst_gradient(gradients: dict[str, Tensor], truth: dict[str, Tensor]) -> tuple[str, float]:
    """The parameter whose gradient differs most, and by how much."""
    floor = SMALL * max(gradient.double().norm().item() for gradient in truth.values())
    errors = {}
    for name, expected in truth.items():
        found = gradients.get(name)
        if found is None:
            return name, float("inf")
        size = max(expected.double().norm().item(), floor)
        error = (found.double() - expected.double()).norm().item() / size
        errors[name] = error if error == error else float("inf")
    name = max(errors, key=lambda name: errors[name])
    return name, errors[name]


def _run(network: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor, training: bool):
    """(output, gradients by name) of one call; no gradients in inference."""
    model.zero_grad()
    output = network(x)
    if not training:
        return output, {}
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(x.device)
    (output.float() * weights).mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output.detach(), found


def _judge(what: str, error: float, limit: float) -> str:
    """What is wrong, or nothing."""
    return "" if error <= limit else f"its {what} is wrong by {error:.1e}; at most {limit:.0e} is allowed"


def _speedup(plain: nn.Module, fast: Callable, model: nn.Module, x: Tensor, work: Work) -> float:

    def plain_run():
        with matmul_precision(work.precision), autocast(work.device, work.precision):
            _run(plain, model, x, work.training)

    seconds: dict[str, list[float]] = {"plain": [], "fast": []}
    for _ in range(1 + ROUNDS):
        for name, run in (("plain", plain_run), ("fast", partial(_run, fast, model, x, work.training))):
            seconds[name].append(_seconds(run, work.device))
    return statistics.median(seconds["plain"][1:]) / statistics.median(seconds["fast"][1:])


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _driver() -> str:
    version = getattr(torch._C, "_cuda_getDriverVersion", None)
    return f"{version() if version else 'unknown'}, CUDA {torch.version.cuda}"


def _failed(error: Exception) -> Verdict:
    words = " ".join(str(error).split())[:300]
    return Verdict(f"it failed its self-test ({type(error).__name__}: {words})", float("inf"), 0.0, has_failed=True)


def _read(key: str) -> Verdict | None:
    """A verdict kept earlier; None where there is none that can be read."""
    try:
        file = cache_folder() / f"proof-{key[:16]}.json"
        kept = json.loads(file.read_text())
        if kept["key"] != key:
            return None
        return Verdict(str(kept["problem"]), float(kept["error"]), float(kept["speedup"]), str(file))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _prove_with_less(path: FastPath, work: Work) -> Verdict:
    """`prove`, on half the batch where the memory does not suffice: it is the plain path that needs the most."""
    while True:
        try:
            return prove(path, work)
        except torch.OutOfMemoryError as error:
            batch, height, width = work.shape
            if batch == 1:
                return _failed(error)
            work = replace(work, shape=(batch // 2, height, width))
        except Exception as error:  # whatever a path does on a machine nobody has seen, the plain one must take over
            return _failed(error)


def _keep(key: str, known: dict, verdict: Verdict) -> Verdict:
    """Write down what was found, if the next start need not find it again."""
    if verdict.has_failed or (not verdict.problem and verdict.speedup < 1):
        return verdict
    content = {"key": key, "problem": verdict.problem, "error": verdict.error, "speedup": verdict.speedup}
    try:
        file = cache_folder() / f"proof-{key[:16]}.json"
        write_whole(file, json.dumps({**content, "facts": known}, indent=1).encode())
    except OSError:
        return verdict  # said as not kept
    return replace(verdict, place=str(file))
