"""The whole network on kernels against the plain path: compiled on a GPU, else in Triton's interpreter."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from models import create_model, kernels

pytest.importorskip("triton", reason="Triton is not installed")
from models.kernels import network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {"float32": 1e-5, "fp16": 3e-3} | ({"tf32x3": 1e-5, "bf16": 1e-2} if DEVICE == "cuda" else {})
pytestmark = pytest.mark.usefixtures("one_tile_for_16x16")


def build(scale, n_feats=16, num_heads=1, n_blocks=3, **more):
    torch.manual_seed(0)
    sizes = {"scale": scale, "n_feats": n_feats, "num_heads": num_heads, "n_blocks": n_blocks}
    return create_model(SimpleNamespace(**sizes, **more)).to(DEVICE)


def image(height, width, batch=1):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def error(result, truth):
    return ((result.double() - truth.double()).norm() / truth.double().norm()).item()


def output_and_gradients(model, forward, x):
    model.zero_grad()
    out = forward(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    (out * weights).sum().backward()
    return out.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


COVERED = pytest.mark.skipif(DEVICE == "cpu", reason="slow in the interpreter, where the tail's own tests cover it")


@pytest.mark.parametrize("scale", [pytest.param(2, marks=COVERED), pytest.param(3, marks=COVERED), 4])
def test_output_and_all_gradients_agree_with_the_plain_path(scale):
    model, x = build(scale), image(16, 16)
    out, gradients = output_and_gradients(model, lambda x: network.forward(model, x), x)
    expected, truth = output_and_gradients(model.double(), model, x.double())
    assert out.dtype == torch.float32
    assert error(out, expected) < 1e-5
    assert {name: e for name in truth if (e := error(gradients[name], truth[name])) > 1e-5} == {}


@pytest.mark.skipif(DEVICE == "cpu", reason="slow in the interpreter, where the kernels' own tests cover fp16")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bit_output_and_gradients_agree_with_the_plain_path(precision):
    model, x = build(2), image(16, 16)
    out, gradients = output_and_gradients(model, lambda x: network.forward(model, x, precision), x)
    expected, truth = output_and_gradients(model.double(), model, x.double())
    assert error(out, expected) < TOLERANCE[precision]
    together = [torch.cat([g[name].double().flatten() for name in truth]) for g in (gradients, truth)]
    assert error(*together) < 4 * TOLERANCE[precision]


@pytest.mark.parametrize(
    ("scale", "size", "precision"),
    [(2, (17, 3), "float32"), (3, (5, 16), "float32"), (4, (16, 16), "float32")]
    + [(3, (16, 15), name) for name in TOLERANCE if name != "float32"],
    ids=str,
)
def test_inference_agrees_with_the_plain_path_at_any_size(scale, size, precision):
    model, x = build(scale), image(*size)
    with torch.no_grad():
        out = network.forward(model, x, precision)
        assert out.shape == (1, 3, scale * size[0], scale * size[1])
        assert error(out, model.double()(x.double())) < TOLERANCE[precision]


def test_a_change_of_the_parameters_is_seen_at_once_unless_weights_were_prepared():
    model, x = build(2), image(16, 16)
    with torch.no_grad():
        weights = network.prepare(model, "float32")
        for stage in model.body:
            for parameter in stage.s1.parameters():
                parameter.data.mul_(0.5)  # leaves no trace in a version counter, like a fused optimiser
        old, new = network.forward(model, x, weights=weights), network.forward(model, x)
        assert not torch.equal(old, new)
        assert error(new, model.double()(x.double())) < 1e-5


@pytest.mark.parametrize("gradients", [False, True])
def test_kernels_are_launched_on_the_device_of_the_image(gradients, launches, monkeypatch):
    devices = [None]  # the last is the current one

    @contextmanager
    def device_of(tensor):
        devices.append(tensor.shape)
        yield
        devices.pop()

    launches.note = lambda: devices[-1]
    model, x = build(4), image(16, 16)
    with monkeypatch.context() as patch, torch.set_grad_enabled(gradients):
        patch.setattr(torch.cuda, "device_of", device_of)
        network.forward(model, x)
    assert len(launches) > 10
    assert {launch.note for launch in launches} == {x.shape}
    assert devices == [None]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
def test_a_network_on_a_device_that_is_not_the_current_one_gives_the_same_output_and_gradients():
    model, x = build(2), image(16, 16)
    out, gradients = output_and_gradients(model, lambda x: network.forward(model, x), x)
    model.to("cuda:1")
    again = network.forward(model, x.to("cuda:1"))
    torch.testing.assert_close(again.detach().to(DEVICE), out, rtol=0, atol=1e-6)
    model.zero_grad()
    (again * torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to("cuda:1")).sum().backward()
    assert {name for name, p in model.named_parameters() if error(p.grad.to(DEVICE), gradients[name]) > 1e-5} == set()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_feats": 24}, "n_feats is 24"),
        ({"n_feats": 32, "num_heads": 4}, "heads of 8 channels"),
        ({"use_esam": False}, "ESAM"),
        ({"use_moe": False}, "MoE-FS"),
        ({"msgm_depthwise": (1, 2, 3)}, "depthwise"),
    ],
)
def test_networks_that_cannot_run_are_told_why(change, reason):
    assert kernels.unsupported(build(2)) is None
    assert reason in kernels.unsupported(build(2, **change))


def test_without_triton_the_reason_is_said(monkeypatch):
    assert kernels.unavailable() is None
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "Triton cannot be imported" in kernels.unavailable()
