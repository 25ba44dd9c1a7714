"""The picture of docs/pictures.md: what stands where in it, and that nothing but the project's needs makes it."""

import sys

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from datas import read_rgb
from datas.sample import TEST, make_sample
from tools import crops
from utils import InputError


def repeated(image):
    return image.repeat(4, axis=0).repeat(4, axis=1)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """What `python -m tools.crops` writes with a network that repeats pixels."""
    monkeypatch.setattr(crops, "load", lambda weights: repeated)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails
    monkeypatch.setattr(sys, "argv", ["crops", "--out", str(tmp_path / "out.png")])
    crops.main()
    return read_rgb(tmp_path / "out.png")


def test_columns_are_lr_bicubic_the_network_and_hr(made, tmp_path):
    width, height = 4 * crops.WIDTH, 4 * crops.HEIGHT
    assert made.shape == (28 + len(crops.CROPS) * (crops.BAR + height), 4 * width, 3)
    make_sample(tmp_path)
    for number, crop in enumerate(crops.CROPS):
        top = 28 + crops.BAR + number * (crops.BAR + height)
        low, bicubic, network, high = np.split(made[top : top + height], 4, axis=1)
        assert np.array_equal(low, network)
        assert not np.array_equal(low, bicubic)
        photograph = read_rgb(tmp_path / "benchmark" / "Sample" / "HR" / f"{crop.photograph}.png")
        if crop.reduced:
            assert np.array_equal(high, photograph[4 * crop.top :, 4 * crop.left :][:height, :width])
        else:
            assert (high == 255).all()
            part = photograph[crop.top : crop.top + crops.HEIGHT, crop.left : crop.left + crops.WIDTH]
            assert np.array_equal(low, repeated(part))


def test_the_picture_in_the_docs_is_of_this_form_small_and_of_evaluation_photographs_alone(made):
    path = ROOT / "docs" / "pictures.png"
    assert Image.open(path).size == made.shape[1::-1]
    assert path.stat().st_size <= 400_000
    assert {crop.photograph for crop in crops.CROPS} <= set(TEST)  # none with conditions, as the motorcycle has
    assert "](pictures.png)" in (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")


def test_a_crop_beyond_its_photograph_is_refused():
    image = np.zeros((crops.HEIGHT, crops.WIDTH, 3), np.uint8)
    with pytest.raises(InputError, match="reaches beyond the photograph, 48x36"):
        crops.panel(crops.Crop("cat", 1, 0, False), image, repeated(image), None)
