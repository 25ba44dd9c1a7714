"""The network against golden vectors, published parameter counts and the literal transcription."""

import pytest
import torch
from helpers import GOLDEN, build, load_golden

from models.literal import LiteralSSIU

PARAMETERS = {2: 777_827, 3: 798_627, 4: 794_467}  # SPEC section 1; the paper prints 778K, 799K, 794K


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_forward_equals_the_golden_output(path):
    model, golden, _ = load_golden(path)
    with torch.no_grad():
        torch.testing.assert_close(model(golden["input"]), golden["output"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", PARAMETERS)
def test_parameter_count_is_the_published_one(scale):
    assert sum(p.numel() for p in build(scale, n_blocks=9).parameters()) == PARAMETERS[scale]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (8, 9), (16, 16), (17, 31)], ids=str)
def test_any_input_size_agrees_with_the_literal_transcription(size):
    model = build(3).eval()
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(x)
        assert out.shape == (2, 3, 3 * size[0], 3 * size[1])
        torch.testing.assert_close(out, LiteralSSIU(model.state_dict(), 3)(x), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("n_feats", "heads", "blocks"), [(8, 4, 3), (24, 3, 6), (64, 2, 3)])
def test_other_widths_heads_and_depths_agree_with_the_literal_transcription(n_feats, heads, blocks):
    model = build(2, n_feats, heads, blocks).eval()
    x = torch.rand(1, 3, 18, 20, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        literal = LiteralSSIU(model.state_dict(), 2, heads)(x)
        torch.testing.assert_close(model(x), literal, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"n_blocks": 4}, "n_blocks"),
        ({"n_blocks": 0}, "n_blocks"),
        ({"n_feats": 60}, "n_feats"),
        ({"scale": 5}, "scale"),
        ({"msgm_depthwise": (0,)}, "msgm_depthwise"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_by_key(wrong, key):
    with pytest.raises(ValueError, match=f"^{key}: "):
        build(**{"scale": 2, **wrong})
