"""The MSGM and LayerNorm kernels against the plain modules in float64: compiled on a GPU, else in the interpreter."""

import pytest
import torch

from models.ssiu import MSGM

pytest.importorskip("triton", reason="Triton is not installed")
from models.kernels import common, msgm, norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# relative error allowed; the interpreter cannot multiply bf16
# bf16: the gradient of a bias is a sum that cancels, of numbers of 8 bits
TOLERANCE = {"float32": 1e-5, "fp16": 3e-3} | ({"tf32x3": 1e-5, "bf16": 2e-2} if DEVICE == "cuda" else {})
SIZES = [(2, 3, 5), (1, 17, 9), (1, 2, 2)]


@pytest.fixture(autouse=True)
def coarser_tiles(monkeypatch):
    """The interpreter takes its time per tile: give it larger ones."""
    if DEVICE == "cpu":
        for kernel in msgm.TILES:
            monkeypatch.setitem(msgm.TILES, kernel, dict.fromkeys(msgm.TILES[kernel], (16, 8, 4, 1)))


def modules(channels=16):
    torch.manual_seed(0)
    return [MSGM(channels).to(DEVICE) for _ in range(4)]


def maps(size, channels=16, count=2, precision="float32"):
    generator = torch.Generator().manual_seed(1)
    dtype = msgm.ARITHMETIC[precision][0]
    return [torch.randn(*size, channels, generator=generator).to(DEVICE, dtype) for _ in range(count)]


def plain(m, a, y):
    """The three modes, one after the other, as in a stage without ESAM."""
    v, b = m[0](a) + a + y, m[1](a)
    a = m[2](v - b) + b
    return v, b, a, m[3](a) + a


def on_kernels(m, a, y, precision):
    pair, third, fourth = msgm.split(msgm.pack(m, precision), [2, 1, 1])
    v, b = msgm.pair(a, y, pair, precision)
    a = msgm.difference(v, b, third, precision)
    return v, b, a, msgm.residual(a, fourth, precision)


def with_gradients(m, a, y, network):
    """Outputs of `network` and the gradients of all inputs and parameters."""
    a, y = a.detach().requires_grad_(), y.detach().requires_grad_()
    for module in m:
        module.zero_grad()
    outputs = network(m, a, y)
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(output.shape, generator=generator).to(DEVICE) for output in outputs]
    sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True)).backward()
    gradients = [p.grad.clone() for module in m for p in module.parameters()]
    return [*(output.detach() for output in outputs), a.grad, y.grad, *gradients]


def assert_near(results, truth, tolerance):
    for result, expected in zip(results, truth, strict=True):
        error = (result.double() - expected.double()).norm() / expected.double().norm()
        assert error < tolerance


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_outputs_and_all_gradients_agree_with_the_plain_modules(size, precision):
    m, (a, y) = modules(), maps(size, precision=precision)
    results = with_gradients(m, a, y, lambda *x: on_kernels(*x, precision))
    truth = with_gradients([module.double() for module in m], a.double(), y.double(), plain)
    assert_near(results, truth, TOLERANCE[precision])


@pytest.mark.parametrize("precision", TOLERANCE)
def test_the_published_width(precision):
    m, (a, y) = modules(64), maps((1, 7, 8), 64, precision=precision)
    results = with_gradients(m, a, y, lambda *x: on_kernels(*x, precision))
    truth = with_gradients([module.double() for module in m], a.double(), y.double(), plain)
    assert_near(results, truth, TOLERANCE[precision])


def test_one_program_over_several_tiles_gives_the_same_gradients_and_the_same_bits_twice(monkeypatch):
    monkeypatch.setattr(common, "PROGRAMS", 1)
    for kernel in msgm.TILES:
        monkeypatch.setitem(msgm.TILES, kernel, dict.fromkeys(msgm.TILES[kernel], (4, 8, 4, 1)))
    m, (a, y) = modules(), maps((1, 4, 9))
    first, second = (with_gradients(m, a, y, lambda *x: on_kernels(*x, "float32")) for _ in range(2))
    assert all(torch.equal(x, z) for x, z in zip(first, second, strict=True))
    truth = with_gradients([module.double() for module in m], a.double(), y.double(), plain)
    assert_near(first, truth, TOLERANCE["float32"])


@pytest.mark.parametrize("route", ["structured", "dense"])
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("size", [(2, 3, 9), (1, 2, 2)], ids=str)
def test_both_routes_of_inference_agree_with_the_plain_modules(route, precision, size):
    m, (a, y) = modules(), maps(size, precision=precision)
    layer_norm = torch.nn.LayerNorm(16, eps=1e-6, device=DEVICE)
    with torch.no_grad():
        layer_norm.weight.normal_()
        layer_norm.bias.normal_()
        weights = [msgm.prepare(group, precision, route) for group in (m[:2], m[2:3], m[3:])]
        v, b = msgm.fused("pair", a, y, weights[0], precision)
        x, _ = msgm.fused("difference", v, b, weights[1], precision)
        out, normal = msgm.fused("residual", x, None, weights[2], precision, layer_norm)
        nothing, again = msgm.fused("residual", x, None, weights[2], precision, layer_norm, keep=False)
        truth = plain([module.double() for module in m], a.double(), y.double())
        assert_near([v, b, x, out], truth, TOLERANCE[precision])
        assert_near([normal], [layer_norm.double()(out.double())], 2 * TOLERANCE[precision])
    assert nothing is None
    assert torch.equal(normal, again)


def test_a_map_that_cannot_be_reflected_or_is_not_contiguous_is_refused():
    m = modules()
    weights = msgm.pack(m[3:], "float32")
    with pytest.raises(ValueError, match="1x5 pixels cannot be reflected"):
        msgm.residual(*maps((1, 1, 5), count=1), weights, "float32")
    with pytest.raises(ValueError, match="contiguous"):
        msgm.residual(maps((1, 4, 5), count=1)[0].transpose(1, 2), weights, "float32")


@pytest.mark.parametrize("precision", TOLERANCE)
def test_layer_norm_and_its_gradients_agree_with_pytorch(precision, monkeypatch):
    monkeypatch.setattr(common, "PROGRAMS", 2)
    x, weights = maps((2, 9, 7), precision=precision)
    module = torch.nn.LayerNorm(16, eps=1e-6, device=DEVICE)
    torch.nn.init.normal_(module.weight)

    def run(function, x):
        x = (3 * x + 1).detach().requires_grad_()
        module.zero_grad()
        out = function(x)
        (out * weights).sum().backward()
        return [out.detach(), x.grad, module.weight.grad.clone(), module.bias.grad.clone()]

    results = run(lambda x: norm.layer_norm(x, module), x)
    assert results[0].dtype == x.dtype
    x = ((3 * x + 1).double() - 1) / 3  # the same input, with the rounding of its type
    module.double()
    assert_near(results, run(module, x), TOLERANCE[precision])
