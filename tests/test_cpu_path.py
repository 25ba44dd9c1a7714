"""The CPU path against the plain one: scales, sizes, strips and bands, with no parameter at its default."""

import threading
from types import SimpleNamespace

import pytest
import torch
from literal import LiteralSSIU

from models import cpu, create_model
from models.cpu import CpuInference, unsupported


def build(scale=2, n_feats=64, num_heads=4, n_blocks=3, **more):
    """A network with all parameters perturbed (LayerNorm, biases and rel too) and a tail loud enough to be heard."""
    torch.manual_seed(0)
    names = {"scale": scale, "n_feats": n_feats, "num_heads": num_heads, "n_blocks": n_blocks, **more}
    model = create_model(SimpleNamespace(**names)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.tail[-1].weight *= 10
    return model


def images(*size, batch=1, seed=1):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def plain(model, x):
    """The truth, on one thread: operations this small take seconds in two on a machine that is busy otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        out = model(x)
    torch.set_num_threads(threads)
    return out


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.fixture(autouse=True)
def one_thread():
    """Where a test does not ask for two (see `plain`)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_bands(monkeypatch):
    """Two bands from 64 rows up, in strips of the least height, and a tail that goes row by row."""
    monkeypatch.setattr(cpu, "STRIP_PIXELS", 1)
    monkeypatch.setattr(cpu, "TAIL_PIXELS", 1)
    torch.set_num_threads(2)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 8), (17, 33), (70, 20)], ids=str)
def test_any_size_gives_the_plain_output(scale, size):
    model, x = build(scale), images(*size)
    assert_same(CpuInference(model)(x), plain(model, x))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("height", [16, 47])
def test_strips_leave_no_seam(scale, height, two_bands):
    torch.set_num_threads(1)
    model, x = build(scale), images(height, 20)
    assert_same(CpuInference(model)(x), plain(model, x))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("height", [64, 73, 131])
def test_bands_leave_no_seam(scale, height, two_bands):
    model, x = build(scale), images(height, 20)
    assert_same(CpuInference(model)(x), plain(model, x))


def test_four_bands_leave_no_seam(two_bands):
    model, x = build(2), images(140, 20)
    torch.set_num_threads(4)
    assert_same(CpuInference(model)(x), plain(model, x))


def test_output_agrees_with_the_literal_transcription():
    torch.set_num_threads(2)
    model, x = build(4), images(80, 130)
    assert_same(CpuInference(model)(x), plain(LiteralSSIU(model.state_dict(), 4), x))


def test_a_batch_is_its_images(two_bands):
    model, x = build(3), images(64, 24, batch=3)
    out = CpuInference(model)(x)
    assert_same(out, plain(model, x))
    assert torch.equal(out[1:2], CpuInference(model)(x[1:2]))


@pytest.mark.parametrize(("n_feats", "heads", "blocks"), [(8, 4, 3), (24, 3, 6), (20, 2, 3)])
def test_other_widths_heads_and_depths(n_feats, heads, blocks, two_bands):
    model, x = build(2, n_feats, heads, blocks), images(65, 20)
    assert_same(CpuInference(model)(x), plain(model, x))


@pytest.mark.parametrize(
    "ablation",
    [{"use_esam": False}, {"use_moe": False}, {"msgm_depthwise": (1, 4)}, {"msgm_depthwise": ()}],
    ids=str,
)
def test_ablations(ablation, two_bands):
    model, x = build(2, **ablation), images(65, 20)
    assert_same(CpuInference(model)(x), plain(model, x))


def test_public_operators_alone_give_the_same(monkeypatch, two_bands):
    monkeypatch.setattr(cpu, "fused_products", lambda: False)
    model, x = build(4), images(66, 20)
    fast = CpuInference(model)
    assert_same(fast(x), plain(model, x))
    assert fast.weights.stages[0].s1.w_1.packed is None


def missing(*args):
    raise AttributeError("no such operator")


def doubled(x, product, gate):
    return 2 * gate


@pytest.mark.parametrize(("name", "broken"), [("pack", missing), ("gated", doubled)])
def test_private_operators_that_are_gone_or_changed_are_not_used(monkeypatch, name, broken):
    monkeypatch.setattr(cpu, name, broken)
    assert cpu.fused_products.__wrapped__() is False


def test_changed_weights_are_seen(two_bands):
    model, x = build(2), images(64, 20)
    fast = CpuInference(model)
    before = fast(x)
    with torch.no_grad():
        model.body[1].s1.project_out.bias += 1.0
    assert_same(fast(x), plain(model, x))
    assert not torch.allclose(fast(x), before, atol=1e-3)
    model.load_state_dict(build(2, msgm_depthwise=(1, 2, 3, 4), n_blocks=3).state_dict())
    assert_same(fast(x), before)


def test_memory_follows_the_size_of_the_input(two_bands):
    model = build(2)
    fast = CpuInference(model)
    for seed, size in enumerate([(64, 20), (81, 20), (64, 33), (64, 20)]):
        x = images(*size, seed=seed)
        assert_same(fast(x), plain(model, x))


def test_an_output_is_not_overwritten_by_the_next(two_bands):
    model, x = build(2), images(64, 20)
    fast = CpuInference(model)
    first = fast(x)
    kept = first.clone()
    fast(1 - x)
    assert torch.equal(first, kept)


def test_calls_from_several_threads_do_not_mix(two_bands):
    model, inputs = build(2), [images(64, 20, seed=seed) for seed in range(4)]
    fast, outs = CpuInference(model), {}
    threads = [threading.Thread(target=lambda i=i: outs.update({i: fast(inputs[i])})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, x in enumerate(inputs):
        assert_same(outs[i], plain(model, x))


def test_the_number_of_threads_is_left_alone(two_bands):
    CpuInference(build(2))(images(64, 20))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == 2
    assert seen == [2]


def test_an_error_in_a_worker_reaches_the_caller(monkeypatch, two_bands):
    def attend(self, attention, v):
        if self.index == 1:
            raise RuntimeError("out of luck")

    monkeypatch.setattr(cpu.Worker, "attend", attend)
    with pytest.raises(RuntimeError, match="out of luck"):
        CpuInference(build(2))(images(64, 20))
    assert torch.get_num_threads() == 2


def test_what_cannot_run_is_refused_with_the_reason():
    assert unsupported(build(2)) is None
    assert "float64" in unsupported(build(2).double())
    assert "Linear" in unsupported(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="float64"):
        CpuInference(build(2).double())
    fast = CpuInference(build(2))
    with pytest.raises(ValueError, match="the input is"):
        fast(images(16, 16).half())
    fast.model.double()
    with pytest.raises(ValueError, match="float64"):
        fast(images(16, 16))
