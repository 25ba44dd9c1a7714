"""The cache of CUDA graphs, with graphs that read memory where it lay at their capture, as those of a GPU do."""

import pytest
import torch
from torch import Tensor, nn

from models import cuda_graphs
from models.cuda_graphs import GraphCache, addresses
from models.errors import ModelError


class Scaled(nn.Module):
    """x times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Graph:
    """The product captured on a CPU: a replay reads the input and the weight that were there at the capture."""

    def __init__(self, weight: Tensor, fixed: Tensor, out: Tensor):
        self.weight, self.fixed, self.out = weight, fixed, out

    def replay(self) -> None:
        with torch.inference_mode():  # which nothing is for a GPU: it may write any tensor
            self.out.copy_(self.fixed * self.weight)


@pytest.fixture
def model():
    return Scaled()


@pytest.fixture
def cache(model, monkeypatch):
    """A cache of `model`; `cache.captured` lists (pool, stream) of its captures, `cache.eager` counts other calls."""
    given = []

    def network(x: Tensor) -> Tensor:
        given.append(x)
        return model(x)

    def capture(work, pool, stream):
        cache.captured.append((pool, stream))
        out = work()
        with torch.inference_mode(False):
            weight = model.weight.detach()
        return Graph(weight, given[-1], out), out

    pools = iter(range(100))
    monkeypatch.setattr(cuda_graphs, "capture", capture)
    monkeypatch.setattr(cuda_graphs, "warm_up", lambda work, device, times: work())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    cache = GraphCache(network, model)
    cache.captured = []
    return cache


def run(cache: GraphCache, size: int = 3, times: int = 3) -> float:
    """The factor that the last of some calls multiplies with."""
    with torch.no_grad():
        for number in range(times):
            out = cache(torch.full((size,), number + 1.0))
    assert torch.equal(out, out[:1].expand(size))
    return out[0].item() / times


def test_a_shape_is_captured_at_its_second_call_and_replayed_from_then_on(cache):
    assert run(cache, times=1) == 2
    assert cache.captured == []
    assert run(cache, times=3) == 2
    assert len(cache.captured) == 1


def test_a_change_of_the_weights_in_place_is_seen_by_the_same_graph(cache, model):
    run(cache)
    model.weight.data.mul_(3)
    assert run(cache) == 6
    assert len(cache.captured) == 1


@pytest.mark.parametrize("move", ["assigned", "converted"])
def test_weights_that_have_moved_are_seen_and_the_old_graphs_are_dropped(cache, model, move):
    run(cache, 3), run(cache, 4)
    if move == "assigned":
        model.load_state_dict({"weight": torch.tensor(5.0)}, assign=True)
    else:
        model.double()
        model.weight.data.fill_(5)
    assert run(cache, 3) == 5
    assert list(cache._graphs) == [torch.Size([3])]


def test_graphs_share_a_pool_and_a_stream_until_all_of_them_are_dropped(cache, model):
    run(cache, 3), run(cache, 4)
    model.load_state_dict({"weight": torch.tensor(5.0)}, assign=True)
    run(cache, 3)
    first, second, third = cache.captured
    assert first == second
    assert third[0] != first[0]


def test_the_pool_of_a_capture_that_failed_is_not_used_again(cache, monkeypatch):
    def fail(work, pool, stream):
        cache.captured.append((pool, stream))
        raise torch.OutOfMemoryError

    run(cache, times=1)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(cuda_graphs, "capture", fail)
        run(cache, times=1)
    assert run(cache) == 2
    failed, captured = cache.captured
    assert failed[0] != captured[0]


def test_gradients_are_refused(cache):
    with pytest.raises(ModelError, match=r"no gradients.*torch\.no_grad"):
        cache(torch.ones(3))
    run(cache)
    with pytest.raises(ModelError, match="no gradients"):
        cache(torch.ones(3))


def test_a_graph_of_inference_mode_is_replayed_outside_of_it(cache):
    with torch.inference_mode():
        for _ in range(2):
            cache(torch.ones(3))
    assert run(cache) == 2


def test_the_shapes_that_were_not_used_for_longest_are_forgotten(cache, monkeypatch):
    monkeypatch.setattr(GraphCache, "LIMIT", 2)
    for size in (1, 2, 1, 3):
        run(cache, size)
    assert list(cache._graphs) == [torch.Size([1]), torch.Size([3])]


def test_every_parameter_of_a_model_has_an_address():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5, bias=False)), nn.ReLU())
    assert addresses(model) == [parameter.data_ptr() for parameter in model.parameters()]
