"""The CPU path with products in bf16, beside the transcribed equations with factors rounded by hand."""

import math

import pytest
import skimage.data
import torch
from helpers import build
from streams import images, needs_compiler

from datas import downscale
from models import ModelError, cpu, inference, load
from models.literal import LiteralSSIU
from models.pixels import to_network

CPU = torch.device("cpu")
pytestmark = [needs_compiler, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def bf16():
    """Skips where the processor does not multiply bf16."""
    if not cpu.computes("bf16"):
        pytest.skip("this processor has no AVX512-BF16")


class Rounded(LiteralSSIU):
    """1x1 convolutions and the last one multiply numbers of bf16, and add products in float32."""

    def conv(self, x, name, reflect=0, groups=1):
        weight = self.p[f"{name}.weight"]
        if weight.shape[-1] == 1 or len(weight) == 3:
            before, self.p = self.p, {**self.p, f"{name}.weight": weight.bfloat16().float()}
            x = super().conv(x.bfloat16().float(), name, reflect, groups)
            self.p = before
            return x
        return super().conv(x, name, reflect, groups)


def rms(x):
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_factors_are_rounded_and_nothing_else(bf16, scale):
    """A factor at the edge between two numbers is rounded either way, and moves later ones: so the equations, rounded,
    differ from themselves when the input moves by float32's last digit. The path differs from them as much."""
    model, x = build(scale), images(48, 80)
    rounded = Rounded(model.state_dict(), scale)
    truth = rounded(x)
    found = cpu.CpuInference(model, "bf16")(x)
    assert rms(found - truth) < 1.2 * rms(rounded(x * (1 + 1e-7)) - truth)
    assert rms(found - truth) < 0.9 * rms(LiteralSSIU(model.state_dict(), scale)(x) - truth)  # rounded as they are


@pytest.mark.parametrize("ablation", [{"use_esam": False}, {"use_moe": False}, {"msgm_depthwise": (1,)}])
@pytest.mark.parametrize("n_feats", [24, 64])
def test_ablations_and_other_widths(bf16, ablation, n_feats):
    model, x = build(2, n_feats, 2, **ablation), images(37, 50)
    with torch.no_grad():
        assert 0 < rms(cpu.CpuInference(model, "bf16")(x) - model(x)) < 5e-4


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shipped_weights_keep_60_db_on_a_photograph(bf16, scale):
    model = load(f"x{scale}", "cpu", "plain").model
    x = to_network(downscale(skimage.data.astronaut()[:384, :384], scale), CPU)
    error = rms(cpu.CpuInference(model, "bf16")(x) - cpu.CpuInference(model)(x))
    assert -20 * math.log10(error) > 60


def test_rows_that_flow_and_threads_change_no_bit(bf16):
    model, x = build(3), images(70, 52)
    fast = cpu.CpuInference(model, "bf16")
    whole = fast(x)
    torch.set_num_threads(3)
    assert torch.equal(fast(x), whole)
    rows = torch.zeros_like(whole[0])

    def write(first, block):
        rows[:, first : first + block.shape[1]] = block

    fast.stream(70, 52, lambda first, count: x[0, :, first : first + count], write)
    assert torch.equal(rows, whole[0])


def test_it_is_chosen_where_it_is_asked_for_and_nowhere_else(bf16):
    model, x = build(2), images(48, 80)
    network, backend = inference(model, CPU, "cpu", "bf16")
    assert backend == "cpu"
    with torch.no_grad():
        assert torch.equal(network(x), cpu.CpuInference(model, "bf16")(x))
        assert torch.equal(inference(model, CPU, "cpu")[0](x), cpu.CpuInference(model)(x))


def test_a_processor_that_cannot_says_so_and_auto_takes_the_plain_path(monkeypatch):
    monkeypatch.setattr(cpu, "computes", lambda precision: precision == "float32")
    model = build(2)
    with pytest.raises(ModelError, match="it does not compute in bf16 on this processor; use 'auto' or 'plain'"):
        inference(model, CPU, "cpu", "bf16")
    assert inference(model, CPU, "auto", "bf16")[1] == "plain"
    with pytest.raises(ValueError, match="does not compute in bf16"):
        cpu.CpuInference(model, "bf16")
