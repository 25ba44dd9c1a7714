"""Counted operations against the published figures and a formula."""

import pytest
from helpers import ROOT

from config import load_config
from tools.profile_model import profile

MULTIPLY_ADDS = {2: 167.2, 3: 76.6, 4: 48.9}  # G, 1280x720, padding and both products of attention included
PARAMETERS = {2: 777_827, 3: 798_627, 4: 794_467}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_totals_are_the_published_ones(scale):
    _, (parameters, multiply_adds, _) = profile(load_config(ROOT / "configs" / f"SSUFSR_light_x{scale}.yml"), 1280, 720)
    assert parameters == PARAMETERS[scale]
    assert multiply_adds / 1e9 == pytest.approx(MULTIPLY_ADDS[scale], abs=0.05)


def test_an_msgm_costs_four_products_and_a_depthwise_convolution():
    rows, _ = profile(load_config(ROOT / "configs" / "SSUFSR_light_x4.yml"), 1280, 704)
    pixels = 320 * 176
    parameters, multiply_adds, activations = rows["body.0.s1"]
    assert parameters == 4 * (64 * 64 + 64) + 9 * 64 + 64
    assert multiply_adds == pixels * (4 * 64 * 64 + 9 * 64)
    assert activations == pixels * 5 * 64
