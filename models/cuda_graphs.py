"""CUDA graphs: work captured once and replayed, one launch in place of thousands."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from .errors import ModelError

Result = TypeVar("Result")
Network = Callable[[Tensor], Tensor]


def warm_up(work: Callable[[], object], device: torch.device, times: int) -> None:
    """Run `work` on a stream of its own, as it will be captured: allocation, compilation and autotuning end here."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(times):
            work()
    torch.cuda.current_stream(device).wait_stream(stream)


def capture(
    work: Callable[[], Result], pool=None, stream: torch.cuda.Stream | None = None
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """`work` as a CUDA graph, and what it returned: the tensors that every replay writes anew.

    Graphs that share a `pool` (torch.cuda.graph_pool_handle) share their memory, and must run one after another. Other
    threads may go on meanwhile: a loader's pins memory, which the strictest mode would take for a part of the graph.

    Args:
        stream: what is captured; left out, a stream of the process, on the device of its first capture. Memory of a
            pool is used again on the stream that took it: graphs that share a pool share a stream, too.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        result = work()
    return graph, result


def addresses(module: nn.Module) -> list[int]:
    """Where its parameters lie, in a third of the time of `module.parameters()`: it is asked before every replay."""
    found = [parameter.data_ptr() for parameter in module._parameters.values() if parameter is not None]
    for child in module._modules.values():
        if child is not None:
            found += addresses(child)
    return found


class GraphCache:
    """Replays the network as a CUDA graph for each input shape seen more than once, the most recent `LIMIT` of them.

    The first call with a shape runs eagerly: compilation and autotuning happen there, and a shape that never comes
    again is not worth capturing. The network must read its weights where they lie, inside the graph (the kernels do:
    they prepare them anew each time), so that a replay sees every change to them. Where a parameter itself has moved
    (`model.to()`, `load_state_dict(assign=True)`), all graphs are dropped: they would read freed memory. The graphs
    share their memory.

    Args:
        network: what is captured, without gradients.
        model: whose parameters it reads.

    Raises:
        ModelError: a call with gradients enabled.
    """

    LIMIT = 32

    def __init__(self, network: Network, model: nn.Module):
        self._network, self._model = network, model
        self._weights: list[int] = []  # where the parameters lay at the last call
        self._start_over()

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise ModelError(
                "CUDA graphs of inference have no gradients: call the network under torch.no_grad() or "
                "torch.inference_mode(), or take it from training_network()"
            )
        weights = addresses(self._model)
        if weights != self._weights:
            self._weights = weights
            self._start_over()
        if x.shape not in self._seen:
            self._seen.add(x.shape)
            return self._network(x)
        if x.shape not in self._graphs:
            self._graphs[x.shape] = self._capture(x)
            if len(self._graphs) > self.LIMIT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(x.shape)
        graph, fixed, out = self._graphs[x.shape]
        fixed.copy_(x)
        graph.replay()
        return out.clone()

    def _start_over(self) -> None:
        self._seen: set[torch.Size] = set()
        self._graphs: OrderedDict[torch.Size, tuple] = OrderedDict()  # shape -> graph, its input, its output
        self._shared: tuple | None = None  # the graphs' pool and stream; a pool whose graphs are all gone is no more

    def _capture(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        with torch.cuda.device_of(x):
            with torch.inference_mode(False), torch.no_grad():
                fixed = x.clone()  # an inference tensor could not be written outside of inference mode
            warm_up(lambda: self._network(fixed), x.device, times=1)
            shared = self._shared or (torch.cuda.graph_pool_handle(), torch.cuda.Stream(x.device))
            graph, out = capture(lambda: self._network(fixed), *shared)
            self._shared = shared  # not before: the pool of a capture that failed, for want of memory, is no more
        return graph, fixed, out
