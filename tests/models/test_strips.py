"""Strips of a wide image give what the whole image gives: without seams, to the bit in compiled code."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from streams import ABLATIONS, PATHS, assert_close, build, whole

from models import ModelError
from models.cpu import CpuInference
from models.pixels import to_network
from models.plain_stream import PlainStream
from models.strips import cuts, layout, reach, stream

pytestmark = pytest.mark.usefixtures("one_thread")


def whole_like(path, model, image):
    x = to_network(image, torch.device("cpu"))
    return CpuInference(model)(x)[0] if path is CpuInference else whole(model, x)[0]


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def widest_allowed(streamer, height, width, count):
    """The memory that an image takes in `count` strips, and not in fewer."""
    return streamer.plan(height, max(cut.read.width for cut in cuts(width, count, reach(streamer.model)))).mib


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("count", "width"), [(2, 421), (3, 595)])
def test_strips_give_what_the_whole_image_gives(path, scale, count, width):
    streamer, image = path(build(scale)), picture(20, width)
    limit = widest_allowed(streamer, 20, width, count)
    assert len(layout(streamer, 20, width, limit).strips) == count
    joined = torch.cat(list(stream(streamer, image, limit)), dim=1)
    expected = whole_like(path, streamer.model, image)
    assert torch.equal(joined, expected) if path is CpuInference else assert_close(joined, expected) is None


@pytest.mark.parametrize("ablation", [{}, {"use_esam": False}, {"n_blocks": 6, "n_feats": 8}], ids=str)
def test_a_strip_reaches_as_far_as_the_network_sees_and_hardly_further(ablation):
    """By the gradient: the columns of the input that a column of the output depends on."""
    model, seen = build(2, **ablation).double(), 0
    x = torch.rand(1, 3, 16, 448, dtype=torch.float64, requires_grad=True)
    out = model(x)
    for column, side in ((208, 0), (223, -1)):  # the first and the last of blocks
        pixels = out[..., 2 * column : 2 * column + 2].sum()
        columns = torch.autograd.grad(pixels, x, retain_graph=True)[0].abs().sum((0, 1, 2)).nonzero().squeeze(1)
        seen = max(seen, abs(column - int(columns[side])))
    assert seen <= reach(model) < seen + 16


def test_the_fastest_way_is_taken_and_said():
    streamer = PlainStream(build(2))
    assert "strips" not in str(layout(streamer, 20, 595))
    way = layout(streamer, 20, 595, widest_allowed(streamer, 20, 595, 3))
    assert str(way).startswith("595x20 -> 1190x40: ")
    assert str(way).endswith("1 thread, 3 strips")
    assert 1.4 < way.work < 1.7


def test_strips_that_do_not_fit_on_the_disk_are_refused_before_any_work(monkeypatch):
    streamer, image = PlainStream(build(2)), picture(20, 421)
    limit = widest_allowed(streamer, 20, 421, 2)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**10))
    with pytest.raises(ModelError, match=r"MiB of temporary files, 0 are free in .*TMPDIR"):
        stream(streamer, image, limit)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_strips_of_ablations(ablation):
    streamer, image = PlainStream(build(2, **ablation)), picture(20, 500)
    limit = widest_allowed(streamer, 20, 500, 2)
    assert len(layout(streamer, 20, 500, limit).strips) == 2
    assert_close(torch.cat(list(stream(streamer, image, limit)), dim=1), whole_like(PlainStream, streamer.model, image))
