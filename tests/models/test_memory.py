"""Images that do not fit into the memory go through row by row; what cannot be had at all is one line."""

import os
import platform
import warnings

import pytest
import torch
from forked import Script
from helpers import build
from streams import needs_compiler

from models import ModelError, load
from models.backends import inference
from models.memory import SMALL, Bounded, free_mib, is_out_of_memory, plain_mib

CPU = torch.device("cpu")
BACKENDS = ["plain", pytest.param("cpu", marks=needs_compiler)]


def network(scale=2):
    return build(scale, n_feats=16).eval()


def image(*size):
    return torch.rand(*size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_beyond_the_limit_flows_and_gives_the_same_numbers(backend, monkeypatch):
    model, x = network(), image(2, 3, 600, 20)
    free, _ = inference(model, CPU, backend)
    tight, _ = inference(model, CPU, backend, memory_mib=free.plan(600, 20, CPU).widest.mib + 0.1)
    assert free.fits(2, 600, 20, CPU)
    assert not tight.fits(2, 600, 20, CPU)
    expected = free(x)
    monkeypatch.setattr(tight, "whole", lambda x: pytest.fail("it went through whole"))
    torch.testing.assert_close(tight(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_free_decides_where_nobody_says_how_much(backend, monkeypatch):
    bounded, _ = inference(network(), CPU, backend)
    side = 1200  # takes more than is taken without a look
    monkeypatch.setattr("models.memory.free_mib", lambda _: 100 * SMALL)
    assert bounded.fits(1, side, side, CPU)
    monkeypatch.setattr("models.memory.free_mib", lambda _: SMALL)
    assert not bounded.fits(1, side, side, CPU)
    assert bounded.fits(1, 16, 16, CPU)


@torch.no_grad()
def test_memory_that_fails_after_all_leads_to_rows_and_is_said():
    model, x = network(), image(1, 3, 37, 20)
    full, _ = inference(model, CPU, "plain")

    def failing(_x):
        return torch.empty(2**60)  # PyTorch's own message

    bounded = Bounded(failing, model, "plain", "float32")
    with pytest.warns(UserWarning, match="20x37: out of memory; it goes through row by row"):
        found = bounded(x)
    torch.testing.assert_close(found, full(x), atol=1e-5, rtol=1e-5)


def test_what_fits_in_no_way_is_one_line():
    def failing(_x):
        return torch.empty(2**60)

    with pytest.raises(ModelError, match="an image of 20x37 does not fit into the memory; close other programs"):
        Bounded(failing, torch.nn.Identity(), "plain", "float32")(image(1, 3, 37, 20))
    with pytest.raises(ModelError, match=r"400 pixels wide takes, .* at least \d+ MiB, more than the 1 that are"):
        inference(network(), CPU, "plain", memory_mib=1)[0](image(1, 3, 300, 400))


@torch.no_grad()
def test_a_gpu_that_runs_out_in_the_midst_goes_on_in_narrower_strips(monkeypatch):
    model, x = network(), image(1, 3, 120, 421)
    bounded, _ = inference(model, CPU, "plain", memory_mib=1000)
    whole_width = bounded.plan(120, 421, CPU).widest.mib
    through, calls = type(bounded.streamer).stream, []

    def running_out(self, height, width, read, write, limit_mib=None, strip=None):
        def sometimes(first, rows):
            if width > 400 and first > 60:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            write(first, rows)

        calls.append(width)
        return through(self, height, width, read, sometimes, limit_mib, strip)

    monkeypatch.setattr(type(bounded.streamer), "stream", running_out)
    monkeypatch.setattr("models.strips.reach", lambda _model: 48)  # narrow ones are allowed; seams are not looked at
    with pytest.warns(UserWarning, match=r"out of memory; narrower strips are tried: 421x120 .* strips"):
        rows = list(bounded.rows(x[0].permute(1, 2, 0).numpy(), CPU))
    assert torch.cat(rows, dim=1).shape == (3, 240, 842)
    assert calls[0] == 421
    assert max(calls[1:]) < 421
    assert bounded.plan(120, 421, CPU).widest.mib == whole_width


def test_only_failed_allocations_count_as_such():
    words = "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: Error code 12"
    assert is_out_of_memory(RuntimeError(words))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_free_memory_is_between_nothing_and_all():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert 0 < free_mib(CPU) < total


def test_the_limit_of_a_container_counts(tmp_path):
    from models.memory import _of_container

    assert _of_container(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1048576\n")
    assert _of_container(tmp_path) == []
    (tmp_path / "memory.max").write_text(f"{3 * 2**20}\n")
    assert _of_container(tmp_path) == [2.0]


def test_whole_maps_of_the_plain_path_are_estimated_from_above():
    """Beside what its largest map is by itself: the tail's, s^2 times as large as the input."""
    for scale in (2, 3, 4):
        model = build(scale, n_feats=64)
        largest = 32 * 48 * scale**2 * 64 * 4 / 2**20
        assert 3 * largest <= plain_mib(model, 1, 30, 41) < 8 * largest


def test_an_upscaler_has_a_limit():
    upscaler = load("x4", backend="plain", memory_mib=30)
    assert upscaler.flows(300, 16)
    assert not load("x4", backend="plain").flows(300, 16)
    with pytest.raises(ModelError, match="more than the 30 that are allowed"):
        upscaler.plan(3000, 4000)


@torch.no_grad()
def test_triton_says_that_rows_flow_through_the_plain_path():
    model, x = network(), image(40, 20, 3)
    bounded = Bounded(lambda _x: pytest.fail("whole"), model, "triton", "tf32x3", 1000)
    with pytest.warns(UserWarning, match="'triton' takes whole images"):
        rows = torch.cat(list(bounded.rows(x.numpy(), CPU)), dim=1)
    torch.testing.assert_close(rows, model(x.permute(2, 0, 1)[None])[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_nothing_is_said_where_all_fits():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inference(network(), CPU, "plain")[0](image(1, 3, 20, 20))


FAULTS = """
import resource, sys, torch
from models.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**26, dtype=torch.uint8)  # 64 MiB, 16,384 pages
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_is_freed_is_kept_if_that_is_asked_for(tmp_path):
    def faults(how):
        (tmp_path / "faults.py").write_text(FAULTS)
        return int(Script(tmp_path / "faults.py", how).ended())

    assert faults("keep") < faults("as ever") / 2  # a few places are tried before one comes again and again
