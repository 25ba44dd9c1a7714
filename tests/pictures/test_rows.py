"""A large picture's rows flow through the network; what comes out is what the whole picture gives."""

import numpy as np
import pytest

from models import load
from pictures.rows import sr_rows


@pytest.mark.parametrize("backend", ["plain", "auto"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_rows_of_a_large_picture_are_those_of_the_whole_one(backend, kind, photo, deep, tiny_weights, monkeypatch):
    image = {np.uint8: photo, np.uint16: deep, np.float32: photo.astype(np.float32) / 255}[kind]
    upscaler = load(tiny_weights, "cpu", backend)
    whole = np.concatenate(list(sr_rows(upscaler, image)))
    monkeypatch.setattr("models.upscaler.LARGE", 100)
    monkeypatch.setattr(upscaler.network, "whole", lambda x: pytest.fail("the picture was taken whole"))
    bands = list(sr_rows(upscaler, image))
    assert len(bands) > 1
    np.testing.assert_allclose(np.concatenate(bands), whole, atol=1e-5)
