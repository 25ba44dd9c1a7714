"""Which implementation of the network runs: the plain one, or a faster one that gives the same numbers.

    plain    models/ssiu.py: any device, any network, training and inference; the truth for the others
    cpu      models/cpu.py: inference on a CPU
    triton   models/kernels/: training and inference on a CUDA device

'auto' takes the fastest that fits. The environment variable SSIU_BACKEND overrides the config key `backend`. A backend
that is asked for by name and cannot run is an error, never replaced.
"""

import os
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models import kernels
from models.precision import PRECISIONS, autocast, matmul_precision
from models.ssiu import SSIU
from utils import InputError

BACKENDS = ("auto", "plain", "cpu", "triton")
VARIABLE = "SSIU_BACKEND"
Network = Callable[[Tensor], Tensor]


def choose_backend(model: SSIU, device: torch.device, backend: str, precision: str, training: bool) -> str:
    """The backend that will run.

    Raises:
        InputError: an unknown one, or one named by the caller or by SSIU_BACKEND that cannot run this; says why.
    """
    wanted = os.environ.get(VARIABLE) or backend
    if wanted not in BACKENDS:
        raise InputError(f"backend: {wanted!r} is not one of {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "tf32" and device.type != "cuda":
        raise InputError("precision: 'tf32' is arithmetic of CUDA devices; use 'float32' here")
    if wanted == "plain":
        return "plain"
    obstacles = {
        "triton": _triton_obstacle(model, device),
        "cpu": _cpu_obstacle(model, device, precision, training),
    }
    if wanted == "auto":
        return next((name for name, obstacle in obstacles.items() if obstacle is None), "plain")
    if obstacles[wanted]:
        raise InputError(f"backend: {wanted!r} cannot run here: {obstacles[wanted]}; use 'auto' or 'plain'")
    return wanted


def inference(model: SSIU, device: torch.device, backend: str = "auto", precision: str = "float32"):
    """(network, backend): a callable (B, 3, H, W) in [0, 1] -> float32 (B, 3, sH, sW) that follows the weights.

    On CUDA with Triton, an input shape that comes again is replayed as a CUDA graph. Call it without gradients.

    Raises:
        InputError: see `choose_backend`.
    """
    chosen = choose_backend(model, device, backend, precision, training=False)
    if chosen == "triton":
        from models.kernels.network import forward

        return GraphCache(lambda x: forward(model, x, precision)), chosen
    if chosen == "cpu":
        from models.cpu import CpuInference

        return CpuInference(model), chosen

    def plain(x: Tensor) -> Tensor:
        with matmul_precision(precision), autocast(device, precision):
            return model(x).float()

    return plain, chosen


def training_network(model: SSIU, device: torch.device, backend: str = "auto", precision: str = "float32"):
    """(module, backend): what a training step calls; its gradients arrive in `model`'s parameters.

    Raises:
        InputError: see `choose_backend`.
    """
    chosen = choose_backend(model, device, backend, precision, training=True)
    return (KernelNetwork(model, precision) if chosen == "triton" else model), chosen


class KernelNetwork(nn.Module):
    """The forward pass of `model` through the Triton kernels, as a module, so that it can be wrapped like any other."""

    def __init__(self, model: SSIU, precision: str):
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, x: Tensor) -> Tensor:
        from models.kernels.network import forward

        with torch.autocast(x.device.type, enabled=False):  # the kernels see to the precision themselves
            return forward(self.model, x, self.precision)


class GraphCache:
    """Replays the network as a CUDA graph for each input shape seen more than once, the most recent `LIMIT` of them.

    The first call with a shape runs eagerly: compilation and autotuning happen there, and a shape that never comes
    again is not worth recording. The network must read its weights where they lie, inside the graph (the kernels do:
    they prepare them anew each time), so that a replay sees every change to them.
    """

    LIMIT = 8

    def __init__(self, network: Network):
        self._network, self._seen, self._graphs = network, set(), OrderedDict()

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape not in self._seen:
            self._seen.add(x.shape)
            return self._network(x)
        if x.shape not in self._graphs:
            self._graphs[x.shape] = self._record(x)
            if len(self._graphs) > self.LIMIT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(x.shape)
        graph, fixed, out = self._graphs[x.shape]
        fixed.copy_(x)
        graph.replay()
        return out.clone()

    def _record(self, x: Tensor):
        fixed, graph = x.clone(), torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(x.device)
        stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(stream):
            self._network(fixed)
        torch.cuda.current_stream(x.device).wait_stream(stream)
        with torch.cuda.graph(graph):
            out = self._network(fixed)
        return graph, fixed, out


def _triton_obstacle(model: SSIU, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "it needs a CUDA device"
    return kernels.unavailable() or kernels.unsupported(model)


def _cpu_obstacle(model: SSIU, device: torch.device, precision: str, training: bool) -> str | None:
    if device.type != "cpu":
        return "it is for CPUs"
    if training:
        return "it has no backward pass"
    if precision != "float32":
        return "it computes in float32"
    from models.cpu import unsupported

    return unsupported(model)
