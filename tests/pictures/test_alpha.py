"""Transparency: no fringe, and nothing that was clear or solid becomes anything else."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from models import load
from pictures import Wanted, upscale_bytes
from pictures.rows import Whole
from utils import InputError

SIDE = 48


@pytest.fixture(scope="module")
def upscaler():
    return load("x2", "cpu", "plain")


def disc(colour, hidden):
    """An antialiased disc of one colour on transparent ground, whose hidden colour is another."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    alpha = np.clip(16.5 - np.hypot(x, y), 0, 1)
    image = np.zeros((SIDE, SIDE, 4), np.uint8)
    image[..., :3] = np.where(alpha[:, :, None] > 0, colour, hidden)
    image[..., 3] = np.rint(255 * alpha)
    return image


def run(upscaler, image, kind="png", **wanted):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    data, done = upscale_bytes(upscaler, file.getvalue(), "disc.png", kind, Wanted(**wanted))
    return np.asarray(Image.open(io.BytesIO(data))), done


@pytest.mark.parametrize(("colour", "hidden"), [((255, 255, 255), (0, 0, 0)), ((200, 30, 60), (0, 255, 0))])
def test_edges_keep_their_colour_whatever_is_hidden(upscaler, colour, hidden):
    large, _ = run(upscaler, disc(colour, hidden))
    seen = large[large[:, :, 3] >= 64]
    assert len(seen) > 3000
    assert np.abs(seen[:, :3].astype(int) - colour).max() <= 1
    other, _ = run(upscaler, disc(colour, (77, 77, 77)))
    assert np.array_equal(large, other)


@pytest.mark.parametrize("wanted", [{}, {"fit": (70, 70)}])
def test_clear_areas_stay_clear_and_solid_ones_solid(upscaler, wanted):
    image = disc((255, 128, 0), (9, 9, 9))
    large, _ = run(upscaler, image, **wanted)
    place = ((np.arange(len(large)) + 0.5) * SIDE / len(large)).astype(int)
    radius = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2))[np.ix_(place, place)]
    assert not large[radius > 19].any()
    assert (large[radius < 13][:, 3] == 255).all()
    between = large[:, :, 3][(radius > 15) & (radius < 18)]
    assert len(np.unique(between)) > 20


def test_half_transparent_pictures_keep_their_detail(upscaler, photo):
    large, _ = run(upscaler, np.dstack([photo, np.full(photo.shape[:2], 128, np.uint8)]))
    assert np.abs(large[:, :, :3].astype(int) - upscaler(photo)).max() <= 1
    assert np.abs(large[:, :, 3].astype(int) - 128).max() <= 3


def test_solid_parts_of_a_photograph_are_as_without_alpha(upscaler, photo):
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[:, 28:] = 0
    large, _ = run(upscaler, np.dstack([photo, alpha]))
    difference = np.abs(large[:, :52, :3].astype(int) - upscaler(photo)[:, :52])
    assert difference.mean() < 1
    assert (difference[:, :30] <= 12).all()


def test_an_alpha_channel_that_says_nothing_is_kept_and_costs_nothing(photo, upscaler):
    calls = []

    def counted(x):
        calls.append(x)
        return upscaler.network(x)

    counting = Whole(counted, torch.device("cpu"), scale=2)
    large, _ = run(counting, np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)]))
    assert np.array_equal(large[:, :, :3], upscaler(photo))
    assert (large[:, :, 3] == 255).all()
    assert len(calls) == 1


def test_wholly_transparent_pictures(upscaler, photo):
    large, _ = run(upscaler, np.dstack([photo, np.zeros(photo.shape[:2], np.uint8)]))
    assert not large.any()


def test_grey_with_alpha_stays_that(upscaler):
    image = disc((200, 200, 200), (0, 0, 0))[:, :, [0, 3]]
    large, _ = run(upscaler, image)
    assert large.shape == (2 * SIDE, 2 * SIDE, 2)
    assert np.abs(large[large[:, :, 1] >= 64][:, 0].astype(int) - 200).max() <= 1


def test_jpeg_takes_no_transparent_parts_but_a_solid_alpha_channel(nearest, upscaler, photo):
    with pytest.raises(InputError, match=r"disc.png: has transparent parts.*choose png or webp"):
        run(upscaler, disc((1, 2, 3), (0, 0, 0)), "jpg")
    large, _ = run(upscaler, np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)]), "jpg")
    assert large.shape == (80, 112, 3)


@pytest.mark.parametrize("kind", ["webp", "tif"])
def test_other_formats_hold_alpha(upscaler, kind):
    large, _ = run(upscaler, disc((255, 255, 255), (0, 0, 0)), kind)
    assert large.shape == (2 * SIDE, 2 * SIDE, 4)
    assert not large[:8, :8, 3].any()
