"""The kernels of ESAM with its residual against the plain module in float64: compiled on a GPU, else interpreted."""

import pytest
import torch
import torch.nn.functional as F

from models.ssiu import ESAM

pytest.importorskip("triton", reason="Triton is not installed")
from models.kernels import ARITHMETIC, common
from models.kernels.attention import esam
from models.kernels.upsample import depthwise_upsample

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# relative error allowed; TF32 exists on the matrix units alone, and the interpreter cannot multiply bf16
TOLERANCE = {"float32": 1e-5, "fp16": 3e-3} | ({"tf32": 6e-3, "tf32x3": 1e-5, "bf16": 1e-2} if DEVICE == "cuda" else {})
# heads of 16 channels are the narrowest that the matrix units take; the interpreter also runs narrower ones, faster
CHANNELS, HEADS = (64, 4) if DEVICE == "cuda" else (16, 2)


@pytest.fixture(autouse=True)
def several_tiles_for_each_program(monkeypatch):
    monkeypatch.setattr(common, "PROGRAMS", 2)


def build(channels=CHANNELS, heads=HEADS) -> ESAM:
    torch.manual_seed(0)
    return ESAM(channels, heads).to(DEVICE)


def random_map(*shape, precision="float32"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, ARITHMETIC[precision][0])


def with_gradients(module, v, network):
    """Output of `network` and the gradients of v and of all parameters, for a random gradient of the output."""
    v = v.detach().requires_grad_()
    module.zero_grad()
    out = network(v)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out)
    out.backward(weight)
    return [out.detach(), v.grad, *(parameter.grad.clone() for parameter in module.parameters())]


def assert_agrees(module, v, precision):
    names = ["output", "v", *(name for name, _ in module.named_parameters())]
    results = with_gradients(module, v, lambda v: esam(module, v, precision))
    module = module.double()
    truth = with_gradients(module, v.double(), lambda v: module(v) + v)
    for name, result, expected in zip(names, results, truth, strict=True):
        error = (result.double() - expected).norm() / expected.norm()
        assert error < TOLERANCE[precision], name


@pytest.mark.usefixtures("wide_tiles_in_esam")
@pytest.mark.parametrize("size", [(2, 16, 16), (1, 32, 48)], ids=str)
@pytest.mark.parametrize("precision", TOLERANCE)
def test_output_and_all_gradients_agree_with_the_plain_module(size, precision):
    assert_agrees(build(), random_map(*size, CHANNELS, precision=precision), precision)


@pytest.mark.usefixtures("wide_tiles_in_esam")
@pytest.mark.parametrize("precision", TOLERANCE)
def test_the_published_width(precision):
    assert_agrees(build(64, 4), random_map(1, 16, 16, 64, precision=precision), precision)


@pytest.mark.usefixtures("wide_tiles_in_esam")
def test_of_equal_values_the_first_of_a_pooling_window_gets_the_gradient():
    v = random_map(1, 16, 32, CHANNELS).round()  # values of -3 .. 3: most windows hold their maximum twice or more
    windows = v.view(8, 2, 16, 2, CHANNELS).transpose(1, 2).flatten(2, 3)
    assert ((windows == windows.amax(2, keepdim=True)).sum(2) > 1).float().mean() > 0.3
    assert_agrees(build(), v, "float32")


def test_zero_keys_outside_the_map_take_part_in_the_softmax():
    module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.qkv_conv.weight[2 * CHANNELS :, :, 0, 0] = torch.eye(CHANNELS)  # the values are v, all scores are equal
        module.LocalProp[0].weight[:, :, 1, 1] = 1.0
        v = torch.ones(1, 16, 16, CHANNELS, device=DEVICE)
        out = esam(module, v, "float32")
    torch.testing.assert_close(out, torch.full_like(v, 1.64))  # one block: 64 of its 100 keys are in the map


@pytest.mark.usefixtures("wide_tiles_in_esam")
def test_the_same_bits_twice():
    module, v = build(), random_map(1, 16, 32, CHANNELS)
    first, second = (with_gradients(module, v, lambda v: esam(module, v, "float32")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("size", [(8, 24), (16, 8)], ids=str)
def test_upsampling_takes_the_same_sources_as_pytorch(size):
    o = random_map(1, *size, 16)
    weight = torch.zeros(16, 1, 3, 3, device=DEVICE)
    weight[:, :, 1, 1] = 1.0
    v = torch.zeros(1, 2 * size[0], 2 * size[1], 16, device=DEVICE)
    result = depthwise_upsample(o, weight, torch.zeros(16, device=DEVICE), v)
    expected = F.interpolate(o.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(result.permute(0, 3, 1, 2), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter takes heads of any width")
def test_heads_too_narrow_for_the_matrix_units_are_refused():
    with pytest.raises(ValueError, match="heads of 8 channels"):
        esam(build(32, 4), random_map(1, 16, 16, 32), "float32")


@pytest.mark.parametrize("v", [random_map(1, 16, 24, 16), random_map(1, 16, 16, 32)[..., :16]], ids=["sides", "memory"])
def test_maps_that_would_be_read_out_of_bounds_are_refused(v):
    with pytest.raises(ValueError, match="must be contiguous with H and W multiples of 16"):
        esam(build(16, 1), v, "float32")
