"""Counted operations against the published figures and formulas."""

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT
from torch import nn

from config import load_config
from tools import profile_model
from tools.profile_model import profile
from utils import InputError

CONFIGS = ROOT / "configs"
MULTIPLY_ADDS = {2: 167.2, 3: 76.6, 4: 48.9}  # G, 1280x720, padding and both products of attention included
PARAMETERS = {2: 777_827, 3: 798_627, 4: 794_467}
NETWORKS = sorted(path.relative_to(CONFIGS) for path in CONFIGS.glob("**/*_x?.yml"))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_totals_are_the_published_ones(scale):
    _, (parameters, multiply_adds, _) = profile(load_config(CONFIGS / f"SSUFSR_light_x{scale}.yml"), 1280, 720)
    assert parameters == PARAMETERS[scale]
    assert multiply_adds / 1e9 == pytest.approx(MULTIPLY_ADDS[scale], abs=0.05)


def test_an_msgm_costs_four_products_and_a_depthwise_convolution():
    rows, _ = profile(load_config(CONFIGS / "SSUFSR_light_x4.yml"), 1280, 704)
    pixels = 320 * 176
    parameters, multiply_adds, activations = rows["body.0.s1"]
    assert parameters == 4 * (64 * 64 + 64) + 9 * 64 + 64
    assert multiply_adds == pixels * (4 * 64 * 64 + 9 * 64)
    assert activations == pixels * 5 * 64


@pytest.mark.parametrize(
    ("scale", "products", "outputs"),  # of the tail, for each pixel of the padded LR image
    [
        (2, 64 * 256 + 4 * 27 * 64, 256 + 4 * 3),
        (3, 64 * 576 + 9 * 27 * 64, 576 + 9 * 3),
        (4, 64 * 256 + 4 * 64 * 256 + 16 * 27 * 64, 256 + 4 * 256 + 16 * 3),
    ],
)
def test_the_tail_costs_its_products_and_its_last_convolution(scale, products, outputs):
    rows, _ = profile(load_config(CONFIGS / f"SSUFSR_light_x{scale}.yml"), scale * 320, scale * 190)
    assert rows["tail"][1:] == [320 * 192 * products, 320 * 192 * outputs]


@pytest.mark.parametrize("file", NETWORKS, ids=str)
def test_parts_add_up_to_the_total(file):
    config = load_config(CONFIGS / file)
    rows, totals = profile(config, 640, 360)
    direct = [counts for name, counts in rows.items() if "." not in name]
    assert set(rows) - {name for name in rows if "." in name} <= {"head", "body", "moe", "tail"}
    assert [sum(column) for column in zip(*direct, strict=True)] == totals
    assert [config.n_blocks * count for count in rows["body.0"]] == rows["body"]
    parts = [counts for name, counts in rows.items() if name.startswith("body.0.")]
    assert [sum(column) for column in zip(*parts, strict=True)] == rows["body.0"]


class Foreign(nn.Module):
    """Its own parameter, a part called, a part whose weights alone are used, and a part used in two places."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 3))
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]  # as networks with stochastic depth do
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.second = nn.Conv2d(8, 12, 1)
        self.norm = nn.LayerNorm(3)
        self.needs_numbers = False

    def forward(self, x):
        x = torch.einsum("bchw,cd->bdhw", x, self.gain)
        f = self.first(x) + self.first(x)
        if self.needs_numbers and f.mean() > 0:
            f = -f
        weight = self.second.weight.flatten(1)[:, :, None, None]
        return F.pixel_shuffle(F.conv2d(f, weight, self.second.bias), 2)


def test_any_network_has_a_row_for_each_part_and_one_for_the_rest(monkeypatch):
    monkeypatch.setattr(profile_model, "create_model", lambda config: Foreign())
    rows, totals = profile(load_config(CONFIGS / "SSUFSR_light_x2.yml"), 20, 10)
    pixels = 10 * 5
    assert rows == {
        "first": [27 * 8 + 8, 2 * pixels * 27 * 8, 2 * pixels * 8],
        "second": [8 * 12 + 12, pixels * 8 * 12, pixels * 12],
        "norm": [6, 0, 0],
        "(the rest)": [9, pixels * 3 * 3, pixels * 3],
    }
    assert totals == [sum(column) for column in zip(*rows.values(), strict=True)]


def test_a_network_of_one_part_has_a_row_for_each_part_of_that(monkeypatch):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = Foreign()

        def forward(self, x):
            return self.network(x)

    monkeypatch.setattr(profile_model, "create_model", lambda config: Wrapped())
    rows, totals = profile(load_config(CONFIGS / "SSUFSR_light_x2.yml"), 20, 10)
    assert list(rows) == ["network.first", "network.second", "network.norm", "(the rest)"]
    assert totals == [sum(column) for column in zip(*rows.values(), strict=True)]


@pytest.mark.parametrize("error", [TypeError("no numbers here"), ValueError()])
def test_whatever_keeps_a_network_from_being_counted_its_parameters_are_known(error, monkeypatch):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(7))

        def forward(self, x):
            raise error

    monkeypatch.setattr(profile_model, "create_model", lambda config: Broken())
    config = load_config(CONFIGS / "SSUFSR_light_x2.yml")
    with pytest.raises(InputError, match="Broken cannot be counted"):
        profile(config, 20, 10)
    found = profile_model.network_facts(config)
    assert (found["parameters"], found["multiply_adds"]) == (7, None)


def test_a_network_that_shapes_alone_cannot_drive_is_named(monkeypatch):
    network = Foreign()
    network.needs_numbers = True
    monkeypatch.setattr(profile_model, "create_model", lambda config: network)
    with pytest.raises(InputError, match="Foreign cannot be counted: its forward pass needs more than shapes"):
        profile(load_config(CONFIGS / "SSUFSR_light_x2.yml"), 20, 10)
