"""What the tests of pictures share: photographs, and networks whose results can be written down."""

import numpy as np
import pytest
import skimage.data
import torch
from helpers import build, run_script

from pictures import upscale_bytes
from pictures.rows import Whole

NEAREST = Whole(lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3), torch.device("cpu"), scale=2)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """(40, 56, 3) uint8."""
    return np.ascontiguousarray(skimage.data.astronaut()[60:140:2, 180:292:2])


@pytest.fixture(scope="session")
def deep(photo) -> np.ndarray:
    """(40, 56, 3) uint16 whose low bytes say something, too."""
    return photo.astype(np.uint16) * 256 + np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint16)


@pytest.fixture
def nearest():
    """Function of a picture's bytes and a format: the result's bytes, every pixel repeated, x2, and what was done."""

    def run(data, kind="png", wanted=None, name="a picture"):
        return upscale_bytes(NEAREST, data, name, kind, wanted)

    return run


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """A small network of random weights, x2."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(build(2, n_feats=8).state_dict(), path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, in which commands run through the plain path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSIU_BACKEND", "plain")
    return tmp_path


@pytest.fixture
def upscale(tiny_weights):
    """Function of options of upscale.py: what came of it."""

    def run(*arguments):
        return run_script("upscale.py", *arguments, "--weights", tiny_weights, "--device", "cpu")

    return run
