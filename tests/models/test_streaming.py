"""Rows that flow give what the whole image gives, in memory that its height does not change; and how streams end."""

import os
import platform
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from helpers import ROOT
from streams import ABLATIONS, PATHS, assert_close, build, images, needs_compiler, whole

from models import ModelError, load
from models.backends import inference
from models.cpu import CpuInference
from models.literal import LiteralSSIU
from models.pixels import to_network
from models.plain_stream import PlainStream, held_by
from models.streaming import TALLEST, rows_of
from models.strips import stream

needs_proc = pytest.mark.skipif(platform.system() != "Linux", reason="reads about itself from /proc")
pytestmark = pytest.mark.usefixtures("threads_as_before")
SIZES = [(1, 1), (5, 37), (16, 16), (17, 200), (33, 20), (150, 20)]


def streamed(streamer, x, limit_mib=None):
    """The output, of rows that are asked for and handed out in order, each once."""
    (_, _, height, width), asked, lots = x.shape, [0], []

    def read(first, count):
        assert first == asked[-1]
        assert 0 < count <= height - first
        asked.append(first + count)
        return x[0, :, first : first + count]

    def write(first, rows):
        assert first == sum(lot.shape[1] for lot in lots)
        assert asked[-1] - first // plan.scale <= plan.rows
        lots.append(rows.clone())

    plan = streamer.plan(height, width, limit_mib)
    assert streamer.stream(height, width, read, write, limit_mib) == plan
    assert asked[-1] == height
    return torch.cat(lots, dim=1)[None]


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def assert_same_as_whole(path, model, x):
    """To the bit and for any number of threads in compiled code."""
    if path is PlainStream:
        return assert_close(streamed(PlainStream(model), x), whole(model, x))
    fast = CpuInference(model)
    expected = fast(x)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(streamed(fast, x), expected), threads


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rows_are_those_of_the_whole_image(path, scale, size):
    assert_same_as_whole(path, build(scale), images(*size))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ablation", ABLATIONS, ids=str)
def test_ablations(path, ablation):
    assert_same_as_whole(path, build(2, **ablation), images(65, 20))


@pytest.mark.parametrize("path", PATHS)
def test_rows_agree_with_the_literal_transcription(path):
    model, x = build(4, n_feats=64), images(40, 50)
    assert_close(streamed(path(model), x), LiteralSSIU(model.state_dict(), 4)(x).detach())


@needs_compiler
def test_changed_weights_are_seen():
    model, x = build(2), images(20, 20)
    fast = CpuInference(model)
    streamed(fast, x)
    with torch.no_grad():
        model.body[1].s1.project_out.bias += 1.0
    assert_close(streamed(fast, x), whole(model, x))


@needs_compiler
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nothing_is_read_before_it_is_written(scale):
    fast, x = CpuInference(build(scale)), images(150, 20)
    torch.set_num_threads(2)
    expected = streamed(fast, x)
    fast.memory.fill_(torch.nan)
    assert torch.equal(streamed(fast, x), expected)


@needs_compiler
def test_a_network_may_be_used_while_it_streams():
    fast, x = CpuInference(build(2)), images(40, 20)
    expected, found = fast(x), []
    fast.stream(40, 20, lambda first, count: x[0, :, first : first + count], lambda *_: found.append(fast(x)))
    assert found
    assert all(torch.equal(out, expected) for out in found)


# ---------------------------------------------------------------------------------------------------------------------
# Memory


@pytest.mark.parametrize("path", PATHS)
def test_a_plan_knows_the_width_but_not_the_height(path):
    streamer = path(build(4))
    low, tall, wide = (streamer.plan(*size) for size in ((16, 100), (100_000, 100), (16, 400)))
    assert tall.mib == low.mib
    assert tall.rows == low.rows < 400
    assert 3 < wide.mib / low.mib < 4.1
    assert str(tall).startswith(f"100x100000 -> 400x400000: {low.rows} rows in flight, {low.mib:.0f} MiB, 1 thread")


@needs_compiler
def test_more_threads_take_more_memory_but_no_more_than_is_allowed():
    fast, x = CpuInference(build(2)), images(70, 20)
    plans = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        plans.append(fast.plan(70, 20))
    assert [plan.threads for plan in plans] == [1, 2, 3]
    assert plans[0].mib < plans[1].mib < plans[2].mib
    assert fast.plan(70, 20, limit_mib=plans[1].mib) == plans[1]
    assert torch.equal(streamed(fast, x, limit_mib=plans[1].mib), fast(x))


@pytest.mark.parametrize("path", PATHS)
def test_too_little_memory_is_one_clear_error_before_any_work(path):
    streamer = path(build(2))
    with pytest.raises(ModelError, match=r"4000 columns of an image take [\d,]+ MiB, more than the 10 that are"):
        streamer.stream(3000, 4000, pytest.fail, pytest.fail, limit_mib=10)


@needs_compiler
def test_the_compiled_code_takes_what_its_plan_says():
    fast, x = CpuInference(build(2)), images(40, 20)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        fast.memory = torch.empty(0)
        streamed(fast, x)
        assert len(fast.memory) * 4 == fast.plan(40, 20).mib * 2**20


def test_the_plain_path_holds_what_its_plan_says(monkeypatch):
    model, held = build(2), []
    through = PlainStream.computed

    def watched(self, flow, x):
        for rows in through(self, flow, x):
            held.append(sum(tensor.numel() for tensor in held_by(flow)) * 4 / 2**20)
            yield rows

    monkeypatch.setattr(PlainStream, "computed", watched)
    streamer, x = PlainStream(model), images(330, 40)
    streamed(streamer, x)
    plan = streamer.plan(330, 40)
    assert 0.2 * plan.mib < max(held) < plan.mib


RESIDENT = """
import resource, sys, torch
from models.cpu import CpuInference
from models.ssiu import SSIU
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20
fast = CpuInference(SSIU(2, 64, 4, 3))
read = lambda first, count: torch.rand(3, count, 400)
fast.stream(16, 16, lambda first, count: torch.rand(3, count, 16), lambda first, rows: None)  # what is taken once
before, most = resident(), []
plan = fast.stream(int(sys.argv[1]), 400, read, lambda first, rows: most.append(resident()))
print(plan.mib, max(most) - before)
"""


@needs_compiler
@needs_proc
@pytest.mark.parametrize("height", [200, 600])
def test_what_becomes_resident_is_what_the_plan_says_at_any_height(height):
    run = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(height)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    planned, taken = map(float, run.stdout.split())
    assert planned > 20
    assert 0.9 * planned < taken < planned + 6


# ---------------------------------------------------------------------------------------------------------------------
# Ends


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", ["read", "write"])
@pytest.mark.parametrize("late", [0, 2])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_an_exception_in_a_call_surfaces_and_leaves_nothing_behind(path, where, late, error):
    streamer, x, calls = path(build(2)), images(200, 20), []
    torch.set_num_threads(3)

    def count_down(name):
        calls.append(name)
        if calls.count(where) > late:
            raise error

    def read(first, count):
        count_down("read")
        return x[0, :, first : first + count]

    with pytest.raises(type(error)) as raised:
        streamer.stream(200, 20, read, lambda *_: count_down("write"))
    assert raised.value is error
    assert calls.count(where) == late + 1
    torch.set_num_threads(1)
    assert_close(streamed(streamer, x), whole(streamer.model, x))


@needs_compiler
@needs_proc
def test_threads_of_compiled_code_end_with_the_stream_however_it_ends():
    fast, x, counts = CpuInference(build(2)), images(200, 20), []
    torch.set_num_threads(3)

    def read(first, count):
        counts.append(len(os.listdir("/proc/self/task")))
        return x[0, :, first : first + count]

    def write(first, _rows):
        if first:
            raise OSError("disk full")

    for _ in range(2):  # PyTorch starts threads of its own in the first round, and keeps them
        before = len(os.listdir("/proc/self/task"))
        with pytest.raises(OSError, match="disk full"):
            fast.stream(200, 20, read, write)
    assert max(counts) >= before + 1
    assert len(os.listdir("/proc/self/task")) == before


@pytest.mark.parametrize("path", PATHS)
def test_rows_of_another_shape_or_kind_are_refused(path):
    streamer = path(build(2))
    wrong = [torch.rand(3, 5, 20), torch.rand(3, 16, 20).double(), np.zeros((3, 16, 20))]
    for rows in wrong:
        with pytest.raises(ModelError, match=r"rows of the input: .* was read; torch.float32 \(3, \d+, 20\) is taken"):
            streamer.stream(40, 20, lambda *_, rows=rows: rows, lambda *_: None)


@pytest.mark.parametrize("path", PATHS)
def test_images_that_cannot_be_streamed_are_refused(path):
    streamer = path(build(2))
    for height, width in ((0, 16), (16, 0)):
        with pytest.raises(ModelError, match="nothing to stream"):
            streamer.plan(height, width)
    with pytest.raises(ModelError, match="taller than"):
        streamer.plan(TALLEST + 1, 16)


# ---------------------------------------------------------------------------------------------------------------------
# Images and iterators


@pytest.mark.parametrize("path", PATHS)
def test_an_image_of_integers_gives_rows_one_after_another(path):
    model = build(3)
    image = np.random.default_rng(0).integers(0, 256, (70, 20, 3), dtype=np.uint8)
    lots = list(stream(path(model), image))
    assert len(lots) > 1
    assert_close(torch.cat(lots, dim=1)[None], whole(model, to_network(image, torch.device("cpu"))))


def test_numbers_of_any_kind_become_0_to_1(tmp_path):
    eight = np.random.default_rng(0).integers(0, 256, (9, 4, 3), dtype=np.uint8)
    expected = torch.from_numpy(eight[2:5]).permute(2, 0, 1) / 255
    np.save(tmp_path / "image.npy", eight)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    for image in (eight, eight.astype(np.uint16) * 257, eight / 255, (eight / 255).astype(np.float32), mapped):
        rows = rows_of(image)(2, 3)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, expected)


def test_other_images_are_refused():
    bad = [np.zeros((4, 4)), np.zeros((4, 4, 4)), np.zeros((4, 4, 3), np.int32), np.zeros((0, 4, 3)), "image.png"]
    for image in bad:
        with pytest.raises(ModelError, match=r"image: .* cannot be streamed; give uint8, uint16 or float"):
            rows_of(image)


@pytest.mark.parametrize("path", PATHS)
def test_an_iterator_that_is_left_stops_the_network(path):
    torch.set_num_threads(2)
    before = threading.active_count()
    rows = stream(path(build(2)), np.zeros((2000, 20, 3), np.uint8))
    next(rows)
    assert threading.active_count() > before
    rows.close()
    assert threading.active_count() == before


class Torn:
    """An image whose lower rows cannot be read."""

    dtype, shape = np.dtype(np.uint8), (200, 20, 3)

    def __getitem__(self, rows):
        if rows.stop > 100:
            raise OSError("image.raw: ends early")
        return np.zeros((rows.stop - rows.start, 20, 3), np.uint8)


@pytest.mark.parametrize("path", PATHS)
def test_an_iterator_raises_what_reading_raises(path):
    before = threading.active_count()
    with pytest.raises(OSError, match="ends early"):
        list(stream(path(build(2)), Torn()))
    assert threading.active_count() == before


def test_an_iterator_refuses_before_its_first_row():
    with pytest.raises(ModelError, match="more than the 1 that are allowed"):
        stream(PlainStream(build(2)), np.zeros((20, 2000, 3), np.uint8), limit_mib=1)


def test_an_upscaler_streams_what_it_gives():
    upscaler = load("x4", backend="plain")
    image = np.random.default_rng(0).integers(0, 256, (20, 17, 3), dtype=np.uint8)
    x = to_network(image, torch.device("cpu"))
    assert_close(torch.cat(list(upscaler.stream(image)), dim=1), upscaler(x)[0])


def test_networks_without_streaming_say_so():
    bounded, _ = inference(torch.nn.Upsample(scale_factor=2), torch.device("cpu"))
    with pytest.raises(ModelError, match="it is for SSIU, not for a Upsample"):
        bounded.plan(16, 16, torch.device("cpu"))
