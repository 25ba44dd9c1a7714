"""The kernels of MoE-FS and of the tail against the plain modules in float64: compiled on a GPU, else interpreted."""

import pytest
import torch
import torch.nn.functional as F

from models.ssiu import MoEFS, make_tail

pytest.importorskip("triton", reason="Triton is not installed")
from models.kernels import ARITHMETIC, common
from models.kernels import tail as kernels
from models.kernels.tail import moe_fs, tail

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# relative error allowed; TF32 exists on the matrix units alone, and the interpreter cannot multiply bf16
TOLERANCE = {"float32": 1e-5, "fp16": 3e-3} | ({"tf32": 3e-3, "tf32x3": 1e-5, "bf16": 1e-2} if DEVICE == "cuda" else {})
SCALES = (2, 3, 4)


@pytest.fixture(autouse=True)
def several_tiles_for_each_program(monkeypatch):
    monkeypatch.setattr(common, "PROGRAMS", 9)
    if DEVICE == "cpu":  # the interpreter takes its time per tile
        monkeypatch.setattr(kernels, "FULL_PIXELS", 128)
        monkeypatch.setattr(kernels, "program_pixels", lambda _: 128)


def random_maps(count, *shape, precision="float32"):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator).to(DEVICE, ARITHMETIC[precision][0]) for _ in range(count)]


def random_image(batch, height, width):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3)).to(DEVICE)


def with_gradients(module, maps, network):
    """Output of `network` and the gradients of the maps and all parameters, for a random gradient of the output."""
    maps = [x.detach().requires_grad_() for x in maps]
    module.zero_grad()
    out = network(*maps)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out)
    out.backward(weight)
    return [out.detach(), *(x.grad for x in maps), *(parameter.grad.clone() for parameter in module.parameters())]


def assert_near(results, truth, tolerance):
    for index, (result, expected) in enumerate(zip(results, truth, strict=True)):
        error = (result.double() - expected).norm() / expected.norm()
        assert error < tolerance, index


def build(kind, *args):
    torch.manual_seed(0)
    return kind(*args).to(DEVICE)


def assert_fusion_agrees(channels, size, precision):
    module, maps = build(MoEFS, channels), random_maps(4, *size, channels, precision=precision)
    results = with_gradients(module, maps, lambda *x: moe_fs(module, x[:3], x[3], precision))
    module = module.double()
    truth = with_gradients(module, [x.double() for x in maps], lambda *x: module(x[:3]) + x[3])
    assert_near(results, truth, TOLERANCE[precision])


def assert_tail_agrees(channels, size, scale, precision):
    layers, maps = build(make_tail, scale, channels), random_maps(1, *size, channels, precision=precision)
    image = random_image(*size)
    results = with_gradients(layers, maps, lambda f: tail(layers, f, image, scale, precision))
    layers = layers.double()
    skip = F.interpolate(image.double(), scale_factor=scale, mode="bilinear", align_corners=False)
    truth = with_gradients(layers, [x.double() for x in maps], lambda f: layers(f.permute(0, 3, 1, 2)) + skip)
    assert_near(results, truth, TOLERANCE[precision])


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("channels", [16, 64])
def test_fusion_and_all_its_gradients_agree_with_the_plain_module(channels, precision):
    assert_fusion_agrees(channels, (2, 16, 16), precision)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("scale", SCALES)
def test_tail_and_all_its_gradients_agree_with_the_plain_layers(scale, precision):
    assert_tail_agrees(16, (1, 16, 16), scale, precision)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_tail_of_the_published_width(precision):
    assert_tail_agrees(64, (2, 16, 16), 2, precision)


@pytest.mark.skipif(DEVICE == "cpu", reason="slow in the interpreter")
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("scale", SCALES)
def test_tail_of_the_published_width_at_every_scale(scale, precision):
    assert_tail_agrees(64, (2, 32, 48), scale, precision)


@pytest.mark.parametrize("scale", SCALES)
def test_the_skip_is_bilinear_and_the_tail_without_weights_adds_nothing_but_it(scale):
    layers, image = build(make_tail, scale, 16), random_image(1, 16, 16)
    for parameter in layers.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        out = tail(layers, *random_maps(1, 1, 16, 16, 16), image, scale, "float32")
    expected = F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_the_same_bits_twice():
    layers, image, maps = build(make_tail, 2, 16), random_image(1, 16, 16), random_maps(1, 1, 16, 16, 16)
    first, second = (with_gradients(layers, maps, lambda f: tail(layers, f, image, 2, "float32")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
