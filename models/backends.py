"""Which implementation of the network runs: the plain one, or a faster one that gives the same numbers.

    plain    models/ssiu.py: any device, any network, training and inference; the truth for the others
    cpu      models/cpu.py, models/cpu.cpp: inference on a CPU
    triton   models/kernels/: training and inference on a CUDA device

'auto' takes the one that the environment variable SSIU_BACKEND names, if it is set, else the fastest that fits and
that has proven itself on this machine (models/proof.py). Where one that is meant for the work cannot do it, is wrong,
or is slower, the plain one runs and a warning says why. A backend asked for by name that cannot run, or is wrong, is an
error; it may be slow.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import cpu, kernels
from .architecture import architecture_of
from .cache import digest
from .cuda_graphs import GraphCache
from .errors import ModelError
from .memory import Bounded
from .precision import PRECISIONS, autocast, matmul_precision
from .proof import FastPath, Verdict, Work, self_test
from .ssiu import SSIU

FAST = ("triton", "cpu")
BACKENDS = ("auto", "plain", *FAST)
VARIABLE = "SSIU_BACKEND"
ADVICE = "please report it with what `python doctor.py --json` prints"
TYPICAL = {"cuda": (1, 180, 320), "cpu": (1, 96, 160)}  # (B, H, W) to time on when the caller gives no shape
Shape = tuple[int, int, int]
Network = Callable[[Tensor], Tensor]


def choose_backend(
    model: nn.Module,
    device: torch.device,
    backend: str,
    precision: str,
    training: bool,
    shape: Shape | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """The backend that will run, after its self-test if it has had none on this machine.

    Args:
        shape: (B, H, W) of the inputs to come; the backends are timed on it.
        say: takes one line on what a fast backend has proven.

    Raises:
        ModelError: an unknown one, or one named by the caller or by SSIU_BACKEND that cannot run this or gives other
            numbers than the plain one; says why.
    """
    wanted = (os.environ.get(VARIABLE) or "auto") if backend == "auto" else backend
    source = f"environment variable {VARIABLE}" if backend == "auto" else "backend"
    if wanted not in BACKENDS:
        raise ModelError(f"{source}: {wanted!r} is not one of {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise ModelError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision in ("tf32", "tf32x3") and device.type != "cuda":
        raise ModelError(f"precision: {precision!r} is arithmetic of CUDA devices; use 'float32' here")
    work = _Request(model, device, precision, training, shape or TYPICAL.get(device.type, TYPICAL["cpu"]))
    if wanted in FAST:
        problem = _not_meant(wanted, work) or obstacle(wanted, model) or _self_test(wanted, work).problem
        if problem:
            raise ModelError(f"{source}: {wanted!r} cannot run here: {problem}; use 'auto' or 'plain'")
    chosen = _fastest(work, say or _silent) if wanted == "auto" else wanted
    if chosen == "plain" and precision == "tf32x3":
        raise ModelError("precision: 'tf32x3' is of the 'triton' backend alone; with 'plain' use 'float32' or 'tf32'")
    return chosen


def inference(
    model: nn.Module,
    device: torch.device,
    backend: str = "auto",
    precision: str = "float32",
    shape: Shape | None = None,
    say: Callable[[str], None] | None = None,
    memory_mib: float | None = None,
) -> tuple[Bounded, str]:
    """(network, backend): a callable (B, 3, H, W) in [0, 1] -> float32 (B, 3, sH, sW) that follows the weights.

    On CUDA with Triton, an input shape that comes again is replayed as a CUDA graph. Call it without gradients.

    Args:
        memory_mib: what the network's maps may take, beside the program, the image and the output; None for a share of
            what is free. Images whose maps take more go through row by row (models/memory.py).

    Raises:
        ModelError: see `choose_backend`.
    """
    chosen = choose_backend(model, device, backend, precision, False, shape, say)
    return Bounded(_whole(model, device, chosen, precision), model, chosen, precision, memory_mib), chosen


def _whole(model: nn.Module, device: torch.device, backend: str, precision: str) -> Network:
    if isinstance(model, SSIU) and backend in FAST:
        return fast_path(backend).build(model, precision, False)

    def plain(x: Tensor) -> Tensor:
        with matmul_precision(precision), autocast(device, precision):
            return model(x).float()

    return plain


def training_network(
    model: nn.Module,
    device: torch.device,
    backend: str = "auto",
    precision: str = "float32",
    shape: Shape | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[nn.Module, str]:
    """(module, backend): what a training step calls; its gradients arrive in `model`'s parameters.

    Raises:
        ModelError: see `choose_backend`.
    """
    chosen = choose_backend(model, device, backend, precision, True, shape, say)
    return trained_through(chosen, model, precision), chosen


def trained_through(backend: str, model: nn.Module, precision: str) -> nn.Module:
    """What a training step calls, for a backend that was chosen already."""
    return KernelNetwork(model, precision) if isinstance(model, SSIU) and backend == "triton" else model


def fast_path(name: str) -> FastPath:
    """A fast backend as its self-test takes it."""
    folder = Path(__file__).parent
    shared = (folder / "ssiu.py", folder / "backends.py")
    if name == "triton":
        sources = (*shared, folder / "cuda_graphs.py", *sorted((folder / "kernels").glob("*.py")))
        return FastPath(name, _triton, _triton_version, sources)
    own = tuple(folder / file for file in ("cpu.py", "cpu_weights.py", "cpu.cpp"))
    return FastPath(name, _cpu, _cpu_compiler, (*shared, *own))


def _triton(model: SSIU, precision: str, training: bool) -> Network:
    if training:
        return KernelNetwork(model, precision)
    from .kernels.network import forward

    return GraphCache(lambda x: forward(model, x, precision), model)


def _triton_version() -> str:
    import triton

    return f"triton {triton.__version__}"


def _cpu(model: SSIU, precision: str, _training: bool) -> Network:
    return cpu.CpuInference(model, precision)


def _cpu_compiler() -> str:
    return digest(cpu.compiler_macros(cpu.NATIVE))


class KernelNetwork(nn.Module):
    """The forward pass of `model` through the Triton kernels, as a module, so that it can be wrapped like any other."""

    def __init__(self, model: SSIU, precision: str):
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, x: Tensor) -> Tensor:
        from .kernels.network import forward

        with torch.autocast(x.device.type, enabled=False):  # the kernels see to the precision themselves
            return forward(self.model, x, self.precision)


@dataclass(frozen=True)
class _Request:
    """What a backend is wanted for."""

    model: nn.Module
    device: torch.device
    precision: str
    training: bool
    shape: Shape


def _fastest(work: _Request, say: Callable[[str], None]) -> str:
    for backend in FAST:
        if _not_meant(backend, work) is not None:
            continue
        problem = obstacle(backend, work.model)
        if problem is None:
            verdict = _self_test(backend, work)
            if not verdict.problem and verdict.speedup >= 1:
                say(f"{backend}: {verdict}; {f'kept in {verdict.place}' if verdict.place else 'not kept'}")
                return backend
            slow = f"it took {1 / max(verdict.speedup, 1e-9):.1f} times as long; the next start tries again"
            again = f"; to test it again, remove {verdict.place}" if verdict.place else ""
            problem = f"{verdict.problem}; {ADVICE}{again}" if verdict.problem else slow
        warnings.warn(f"backend: 'plain' runs instead of {backend!r}: {problem}", stacklevel=4)
    return "plain"


def _self_test(backend: str, work: _Request) -> Verdict:
    architecture = architecture_of(work.model)
    assert architecture is not None  # _not_meant has seen to it
    return self_test(fast_path(backend), Work(architecture, work.device, work.precision, work.training, work.shape))


def _not_meant(backend: str, work: _Request) -> str | None:
    """Why a fast backend is not for such work at all."""
    if not isinstance(work.model, SSIU):
        return f"it runs SSIU, not a {type(work.model).__name__}"
    if backend == "triton":
        return "it needs a CUDA device" if work.device.type != "cuda" else None
    if work.device.type != "cpu":
        return "it is for CPUs"
    if work.training:
        return "it has no backward pass"
    return None if cpu.computes(work.precision) else f"it does not compute in {work.precision} on this processor"


def obstacle(backend: str, model: nn.Module) -> str | None:
    """Why a fast backend cannot do what it is for."""
    if backend == "triton":
        return kernels.unavailable() or kernels.unsupported(model)
    return cpu.unsupported(model) or cpu.unavailable()


def _silent(_line: str) -> None:
    pass
