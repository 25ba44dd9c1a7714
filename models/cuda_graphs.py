"""CUDA graphs: work captured once and replayed, one launch in place of thousands."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

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


def capture(work: Callable[[], Result], pool=None) -> tuple[torch.cuda.CUDAGraph, Result]:
    """`work` as a CUDA graph, and what it returned: the tensors that every replay writes anew.

    Graphs that share a `pool` (torch.cuda.graph_pool_handle) share their memory, and must run one after another. Other
    threads may go on meanwhile: a loader's pins memory, which the strictest mode would take for a part of the graph.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = work()
    return graph, result


class GraphCache:
    """Replays the network as a CUDA graph for each input shape seen more than once, the most recent `LIMIT` of them.

    The first call with a shape runs eagerly: compilation and autotuning happen there, and a shape that never comes
    again is not worth capturing. The network must read its weights where they lie, inside the graph (the kernels do:
    they prepare them anew each time), so that a replay sees every change to them. The graphs share their memory.
    """

    LIMIT = 32

    def __init__(self, network: Network):
        self._network, self._pool = network, None
        self._seen: set[torch.Size] = set()
        self._graphs: OrderedDict[torch.Size, tuple] = OrderedDict()  # shape -> graph, its input, its output

    def __call__(self, x: Tensor) -> Tensor:
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

    def _capture(self, x: Tensor):
        fixed = x.clone()
        warm_up(lambda: self._network(fixed), x.device, times=1)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph, out = capture(lambda: self._network(fixed), self._pool)
        return graph, fixed, out
