"""Which implementation of the network runs: the plain one, or a faster one that gives the same numbers.

    plain    models/ssiu.py: any device, any network, training and inference; the truth for the others
    cpu      models/cpu.py, models/cpu.cpp: inference on a CPU
    triton   models/kernels/: training and inference on a CUDA device

'auto' takes the one that the environment variable SSIU_BACKEND names, if it is set, else the fastest that fits, and
warns where one that is meant for the work cannot do it. A backend asked for by name that cannot run is an error.
"""

import os
import warnings

import torch
from torch import Tensor, nn

from . import kernels
from .cuda_graphs import GraphCache
from .errors import ModelError
from .precision import PRECISIONS, autocast, matmul_precision
from .ssiu import SSIU

FAST = ("triton", "cpu")
BACKENDS = ("auto", "plain", *FAST)
VARIABLE = "SSIU_BACKEND"


def choose_backend(model: SSIU, device: torch.device, backend: str, precision: str, training: bool) -> str:
    """The backend that will run.

    Raises:
        ModelError: an unknown one, or one named by the caller or by SSIU_BACKEND that cannot run this; says why.
    """
    wanted = (os.environ.get(VARIABLE) or "auto") if backend == "auto" else backend
    if wanted not in BACKENDS:
        raise ModelError(f"backend: {wanted!r} is not one of {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise ModelError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision in ("tf32", "tf32x3") and device.type != "cuda":
        raise ModelError(f"precision: {precision!r} is arithmetic of CUDA devices; use 'float32' here")
    if wanted in FAST:
        obstacle = _not_meant(wanted, device, precision, training) or _obstacle(wanted, model)
        if obstacle:
            raise ModelError(f"backend: {wanted!r} cannot run here: {obstacle}; use 'auto' or 'plain'")
    chosen = _fastest(model, device, precision, training) if wanted == "auto" else wanted
    if chosen == "plain" and precision == "tf32x3":
        raise ModelError("precision: 'tf32x3' is of the 'triton' backend alone; with 'plain' use 'float32' or 'tf32'")
    return chosen


def inference(model: SSIU, device: torch.device, backend: str = "auto", precision: str = "float32"):
    """(network, backend): a callable (B, 3, H, W) in [0, 1] -> float32 (B, 3, sH, sW) that follows the weights.

    On CUDA with Triton, an input shape that comes again is replayed as a CUDA graph. Call it without gradients.

    Raises:
        ModelError: see `choose_backend`.
    """
    chosen = choose_backend(model, device, backend, precision, training=False)
    if chosen == "triton":
        from .kernels.network import forward

        return GraphCache(lambda x: forward(model, x, precision)), chosen
    if chosen == "cpu":
        from .cpu import CpuInference

        return CpuInference(model), chosen

    def plain(x: Tensor) -> Tensor:
        with matmul_precision(precision), autocast(device, precision):
            return model(x).float()

    return plain, chosen


def training_network(model: SSIU, device: torch.device, backend: str = "auto", precision: str = "float32"):
    """(module, backend): what a training step calls; its gradients arrive in `model`'s parameters.

    Raises:
        ModelError: see `choose_backend`.
    """
    chosen = choose_backend(model, device, backend, precision, training=True)
    return (KernelNetwork(model, precision) if chosen == "triton" else model), chosen


class KernelNetwork(nn.Module):
    """The forward pass of `model` through the Triton kernels, as a module, so that it can be wrapped like any other."""

    def __init__(self, model: SSIU, precision: str):
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, x: Tensor) -> Tensor:
        from .kernels.network import forward

        with torch.autocast(x.device.type, enabled=False):  # the kernels see to the precision themselves
            return forward(self.model, x, self.precision)


def _fastest(model: SSIU, device: torch.device, precision: str, training: bool) -> str:
    for backend in FAST:
        if _not_meant(backend, device, precision, training) is None:
            if (obstacle := _obstacle(backend, model)) is None:
                return backend
            warnings.warn(f"backend: 'plain' runs, which is slower; {backend!r} cannot: {obstacle}", stacklevel=4)
    return "plain"


def _not_meant(backend: str, device: torch.device, precision: str, training: bool) -> str | None:
    """Why a fast backend is not for such work at all."""
    if backend == "triton":
        return "it needs a CUDA device" if device.type != "cuda" else None
    if device.type != "cpu":
        return "it is for CPUs"
    if training:
        return "it has no backward pass"
    return "it computes in float32" if precision != "float32" else None


def _obstacle(backend: str, model: SSIU) -> str | None:
    """Why a fast backend cannot do what it is for."""
    if backend == "triton":
        return kernels.unavailable() or kernels.unsupported(model)
    from . import cpu

    return cpu.unsupported(model) or cpu.unavailable()
