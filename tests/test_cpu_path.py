"""The CPU path against the plain one: sizes, strips, bands, widths, ablations, changing weights, plain products."""

from types import SimpleNamespace

import pytest
import torch
from literal import LiteralSSIU

from models import cpu, create_model
from models.cpu import CpuInference, unsupported


def build(scale=2, n_feats=16, num_heads=2, n_blocks=3, **more):
    """A network whose every parameter is off its initial value, LayerNorm and positions included."""
    torch.manual_seed(0)
    sizes = {"scale": scale, "n_feats": n_feats, "num_heads": num_heads, "n_blocks": n_blocks}
    model = create_model(SimpleNamespace(**sizes, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def image(height, width, batch=1):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def assert_agrees(model, x):
    with torch.no_grad():
        torch.testing.assert_close(CpuInference(model)(x), model(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 20), (16, 16), (35, 50), (97, 33)], ids=str)
def test_any_size_at_every_scale_agrees_with_the_plain_path(scale, size):
    assert_agrees(build(scale), image(*size))


def test_the_published_network_agrees_with_the_literal_transcription():
    model, x = build(4, 64, 4, 9), image(50, 70)
    with torch.no_grad():
        literal = LiteralSSIU(model.state_dict(), 4)(x)
        error = (CpuInference(model)(x) - literal).abs().max() / literal.abs().max()
    assert error < 1e-5


def test_every_image_of_a_batch_is_computed():
    assert_agrees(build(3), image(40, 20, batch=3))


@pytest.mark.parametrize("strip", [64, 300, 1000])
def test_strips_and_bands_of_any_height_agree(strip, monkeypatch):
    monkeypatch.setattr(cpu, "STRIP_PIXELS", strip)
    monkeypatch.setattr(cpu, "TAIL_PIXELS", 2 * strip)
    monkeypatch.setattr(cpu, "MIN_BAND", 16)
    assert_agrees(build(4), image(90, 24))


@pytest.mark.parametrize(
    "more",
    [
        {"use_esam": False},
        {"use_moe": False},
        {"msgm_depthwise": (1, 3)},
        {"msgm_depthwise": (), "use_esam": False, "use_moe": False},
        {"n_feats": 24, "num_heads": 3},
        {"n_blocks": 6},
    ],
    ids=str,
)
def test_ablations_and_other_sizes_agree(more):
    assert_agrees(build(**more), image(40, 24))


def test_changed_weights_are_noticed():
    model, x = build(), image(20, 20)
    fast = CpuInference(model)
    fast(x)
    other = build(2)
    with torch.no_grad():
        other.head.bias += 0.3
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(fast(x), other(x), atol=1e-5, rtol=0)
        model.body[1].norm.body.weight *= 1.2
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=0)


def test_without_the_private_products_the_result_is_the_same(monkeypatch):
    monkeypatch.setattr(cpu, "fused_products", lambda: False)
    assert_agrees(build(4), image(50, 30))


def test_an_input_of_another_size_in_between_changes_nothing():
    model = build()
    fast, x = CpuInference(model), image(33, 40)
    first = fast(x)
    fast(image(70, 20))
    assert torch.equal(first, fast(x))


def test_the_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    CpuInference(build())(image(80, 40))
    assert torch.get_num_threads() == before


def test_what_it_cannot_run_is_refused_with_a_reason():
    assert "head.weight is torch.float64" in unsupported(build().double())
    with pytest.raises(ValueError, match="not an SSIU"):
        CpuInference(torch.nn.Identity())
