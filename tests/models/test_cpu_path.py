"""The CPU path against the plain one: scales, sizes and bands, no parameter at its default; and its compilation."""

import ctypes
import math
import os
import platform
import shutil
import subprocess
import sys
import threading

import pytest
import streams
import torch
from helpers import ROOT
from streams import assert_close as assert_same
from streams import images, needs_compiler

from models import ModelError, cpu, inference
from models.cpu import CpuInference, unsupported
from models.literal import LiteralSSIU

CPU = torch.device("cpu")
pytestmark = [needs_compiler, pytest.mark.usefixtures("one_thread")]


def build(scale=2, n_feats=64, *sizes, **more):
    return streams.build(scale, n_feats, *sizes, **more)


def plain(model, x):
    """The truth, on one thread: operations this small take seconds in two on a machine that is busy otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        out = model(x)
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def two_bands():
    torch.set_num_threads(2)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 8), (17, 33), (70, 20)], ids=str)
def test_any_size_gives_the_plain_output(scale, size):
    model, x = build(scale), images(*size)
    assert_same(CpuInference(model)(x), plain(model, x))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("height", "threads"), [(1, 2), (16, 2), (33, 2), (47, 3), (70, 8)])
def test_bands_leave_no_seam_not_even_in_the_last_bit(scale, height, threads):
    model, x = build(scale), images(height, 20)
    alone = CpuInference(model)(x)
    torch.set_num_threads(threads)
    assert torch.equal(CpuInference(model)(x), alone)
    assert_same(alone, plain(model, x))


def test_far_columns_are_interpolated_where_pytorch_does():
    """x3: the bilinear skip's positions are not binary numbers, and 1,000 pixels out their rounding is seen."""
    model, x = build(3, n_feats=16), images(16, 1100)
    torch.testing.assert_close(CpuInference(model)(x), plain(model, x), atol=4e-6, rtol=2e-6)


def test_output_agrees_with_the_literal_transcription():
    torch.set_num_threads(2)
    model, x = build(4), images(80, 130)
    assert_same(CpuInference(model)(x), plain(LiteralSSIU(model.state_dict(), 4), x))


def test_a_batch_is_its_images(two_bands):
    model, x = build(3), images(64, 24, batch=3)
    out = CpuInference(model)(x)
    assert_same(out, plain(model, x))
    assert torch.equal(out[1:2], CpuInference(model)(x[1:2]))


@pytest.mark.parametrize(("n_feats", "heads", "blocks"), [(8, 4, 3), (24, 3, 6), (20, 2, 3)])
def test_other_widths_heads_and_depths(n_feats, heads, blocks, two_bands):
    model, x = build(2, n_feats, heads, blocks), images(65, 20)
    assert_same(CpuInference(model)(x), plain(model, x))


@pytest.mark.parametrize(
    "ablation",
    [{"use_esam": False}, {"use_moe": False}, {"msgm_depthwise": (1, 4)}, {"msgm_depthwise": ()}],
    ids=str,
)
def test_ablations(ablation, two_bands):
    model, x = build(2, **ablation), images(65, 20)
    assert_same(CpuInference(model)(x), plain(model, x))


def test_changed_weights_are_seen(two_bands):
    model, x = build(2), images(64, 20)
    fast = CpuInference(model)
    before = fast(x)
    with torch.no_grad():
        model.body[1].s1.project_out.bias += 1.0
    assert_same(fast(x), plain(model, x))
    assert not torch.allclose(fast(x), before, atol=1e-3)
    model.load_state_dict(build(2, msgm_depthwise=(1, 2, 3, 4), n_blocks=3).state_dict())
    assert_same(fast(x), before)


def test_memory_serves_inputs_of_any_size_in_any_order(two_bands):
    model = build(2)
    fast = CpuInference(model)
    for seed, size in enumerate([(64, 20), (16, 200), (81, 33), (20, 20), (64, 20)]):
        x = images(*size, seed=seed)
        assert_same(fast(x), plain(model, x))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nothing_is_read_before_it_is_written(scale, two_bands):
    model, x = build(scale, n_feats=24, num_heads=3), images(33, 20)
    fast = CpuInference(model)
    first = fast(x)
    fast.memory.fill_(math.nan)
    assert torch.equal(fast(x), first)


def test_an_output_is_not_overwritten_by_the_next(two_bands):
    model, x = build(2), images(64, 20)
    fast = CpuInference(model)
    first = fast(x)
    kept = first.clone()
    fast(1 - x)
    assert torch.equal(first, kept)


def test_calls_from_several_threads_do_not_mix(two_bands):
    model, inputs = build(2), [images(64, 20, seed=seed) for seed in range(4)]
    fast, outs = CpuInference(model), {}
    threads = [threading.Thread(target=lambda i=i: outs.update({i: fast(inputs[i])})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, x in enumerate(inputs):
        assert_same(outs[i], plain(model, x))


def test_what_cannot_run_is_refused_with_the_reason():
    assert unsupported(build(2)) is None
    assert "float64" in unsupported(build(2).double())
    assert "Linear" in unsupported(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="float64"):
        CpuInference(build(2).double())
    fast = CpuInference(build(2))
    with pytest.raises(ValueError, match="the input is"):
        fast(images(16, 16).half())
    for shape in ((1, 16, 16), (1, 1, 16, 16), (1, 3, 0, 16)):
        with pytest.raises(ValueError, match="the input has the shape"):
            fast(torch.zeros(shape))
    fast.model.double()
    with pytest.raises(ValueError, match="float64"):
        fast(images(16, 16))


STARVED = """
import resource, torch
from types import SimpleNamespace
from models import create_model
from models.cpu import CpuInference
torch.set_num_threads(1)
fast = CpuInference(create_model(SimpleNamespace(scale=2, n_feats=16, num_heads=4, n_blocks=3)))
x = torch.rand(1, 3, 16, 16)
fast(x)
fast.memory = torch.empty(2 * len(fast.memory))
torch.set_num_threads(2)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**22, resource.RLIM_INFINITY))  # no room for a thread's stack
for call in (lambda: fast(x), lambda: fast.stream(16, 16, lambda *_: x[0], lambda *_: None)):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="reads its own size from /proc")
def test_threads_that_cannot_be_had_are_an_error_not_a_crash_whole_and_by_rows():
    run = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, cwd=ROOT)
    line = "the system does not give 2 threads; ask for fewer with torch.set_num_threads\n"
    assert run.stdout == 2 * line, run.stderr


def test_a_nan_in_the_input_reaches_the_output():
    model, x = build(2), images(32, 32)
    x[0, 1, 20, 20] = math.nan
    out = CpuInference(model)(x)
    assert out[0, :, 40, 40].isnan().all()


# ---------------------------------------------------------------------------------------------------------------------
# Vectors


def apply(function, x):
    """A function of compiled code that works in place, on a copy of x as float32."""
    out = x.float().contiguous()
    function(ctypes.c_void_p(out.data_ptr()), len(out))
    return out


def test_gelu_is_the_erf_form():
    x = torch.linspace(-12, 12, 160_000, dtype=torch.float64).float().double()
    truth = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    difference = (apply(cpu.compiled().ssiu_gelu, x) - truth).abs()
    assert (difference / x.abs().clamp(min=1)).max() < 1.5e-7


def count_multiply_adds(bf16):
    """(how many, the sum of all numbers) of 100 rounds of s <- s / 2 + 1, which ends at 2 wherever it begins."""
    numbers = (ctypes.c_float * 2)(0.5, 1.0)
    return cpu.compiled().ssiu_multiply_adds(ctypes.c_int64(100), numbers, bf16), numbers[0]


def test_multiply_adds_are_done_and_counted():
    one, end = count_multiply_adds(False)
    assert one % (12 * 100) == 0
    assert end == one / 100 * 2
    torch.set_num_threads(2)  # put back by the fixture of this file
    assert cpu.multiply_adds(100, "float32") == 2 * one


@pytest.mark.skipif(not cpu.computes("bf16"), reason="no AVX512-BF16 here")
def test_multiply_adds_of_pairs_count_twice():
    """A float32 number is a pair of which one is its first 16 bits; the other is multiplied by zero."""
    one, two = count_multiply_adds(False), count_multiply_adds(True)
    assert two[0] == 2 * one[0]
    assert two[1] == pytest.approx(one[1], rel=2**-8)


def test_exponential_is_within_two_roundings():
    x = torch.linspace(-87, 0, 160_000, dtype=torch.float64).float().double()
    truth = x.exp()
    assert ((apply(cpu.compiled().ssiu_exponential, x) - truth).abs() / truth).max() < 2e-7
    assert apply(cpu.compiled().ssiu_exponential, torch.full((16,), -1e4)).max() < 1e-37


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of the x86-64 family")
@pytest.mark.parametrize("architecture", ["-march=x86-64", "-march=haswell"])
def test_narrower_vectors_give_the_same(architecture, monkeypatch):
    if architecture == "-march=haswell" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this processor has no AVX2")
    monkeypatch.setattr(cpu, "compiled", lambda: cpu.load(architecture))
    model, x = build(3, n_feats=24, num_heads=3), images(40, 25)
    assert_same(CpuInference(model)(x), plain(model, x))


# ---------------------------------------------------------------------------------------------------------------------
# Compilation


SHORT = """
#include <stdexcept>
#include <vector>
extern "C" {
size_t ssiu_weights() { return std::vector<int>(3).size(); }
size_t ssiu_memory() { return 1; }
size_t ssiu_stream_memory() { return 2; }
long ssiu_multiply_adds() { throw std::runtime_error("never called"); }
}
"""


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, nothing remembered from earlier tests, and a source that is compiled in a moment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    short = tmp_path / "short.cpp"
    short.write_text(SHORT)
    monkeypatch.setattr(cpu, "SOURCE", short)
    cpu.compiled.cache_clear()
    cpu.unavailable.cache_clear()
    yield tmp_path
    cpu.compiled.cache_clear()
    cpu.unavailable.cache_clear()


def test_code_is_compiled_once_and_anew_when_the_source_changes(fresh, monkeypatch):
    cpu.load(cpu.NATIVE)
    (first,) = fresh.glob("ssiu/*.so")
    written = first.stat().st_mtime_ns
    cpu.load(cpu.NATIVE)
    assert [first] == list(fresh.glob("ssiu/*.so"))
    assert first.stat().st_mtime_ns == written
    changed = fresh / "changed.cpp"
    changed.write_text(cpu.SOURCE.read_text() + "// changed\n")
    monkeypatch.setattr(cpu, "SOURCE", changed)
    cpu.load(cpu.NATIVE)
    assert len(list(fresh.glob("ssiu/*.so"))) == 2


def test_without_a_compiler_the_plain_path_runs_and_says_so(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    model, x = build(2), images(16, 16)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler: no-such-compiler not found"):
        network, backend = inference(model, CPU)
    assert backend == "plain"
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
    with pytest.raises(ModelError, match="'cpu' cannot run here: no C\\+\\+ compiler"):
        inference(model, CPU, "cpu")


DAMAGED = {
    "cut in half": lambda whole: whole[: len(whole) // 2],  # loading it would end the process with SIGBUS
    "a flipped bit": lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    "not a library": lambda whole: b"cut short",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_in_the_cache_is_compiled_again(what, fresh):
    cpu.load(cpu.NATIVE)
    (built,) = fresh.glob("ssiu/*.so")
    whole = built.read_bytes()
    built.unlink()  # the loaded file keeps its bytes
    built.write_bytes(DAMAGED[what](whole))
    assert cpu.load(cpu.NATIVE).ssiu_weights() == 3
    assert len(built.read_bytes()) == len(whole)


@pytest.mark.parametrize(("command", "reason"), [("gcc", "undefined symbol"), ('"g++', "no command")])
def test_a_compiler_that_does_not_do_spoils_nothing_for_the_next(fresh, monkeypatch, command, reason):
    if command == "gcc" and (platform.system() != "Linux" or not shutil.which("gcc")):
        pytest.skip("shows what gcc on Linux does when it links C++ without what C++ needs")
    monkeypatch.setenv("CXX", command)
    assert reason in cpu.unavailable()
    monkeypatch.delenv("CXX")
    assert cpu.load(cpu.NATIVE)


def test_what_the_compiler_says_is_quoted(fresh, monkeypatch):
    broken = fresh / "broken.cpp"
    broken.write_text("int main( {")
    monkeypatch.setattr(cpu, "SOURCE", broken)
    assert "broken.cpp:1" in cpu.unavailable()
    assert list(fresh.glob("ssiu/*")) == []


def test_the_source_compiles_without_warnings():
    compiler = cpu.find_compiler()
    command = [*compiler, *cpu.FLAGS, cpu.NATIVE, "-Wall", "-Wextra", "-fsyntax-only", str(cpu.SOURCE)]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


UNDEFINED = """
import sys, torch
from models import cpu
from models.architecture import Architecture
cpu.FLAGS = (*cpu.FLAGS, "-O0", "-fsanitize=undefined", "-fno-sanitize-recover=all")
try:
    code = cpu.load(cpu.NATIVE)
except (OSError, RuntimeError) as error:
    sys.exit(f"no sanitizer: {error}")
cpu.compiled = lambda: code
from models.ssiu import SSIU
torch.set_num_threads(2)
for model in (SSIU(3, 8, 2, 3), SSIU(4, 8, 2, 3, use_esam=False, use_moe=False)):
    fast, x = cpu.CpuInference(model), torch.rand(3, 70, 20)
    fast(x[None])
    fast.stream(70, 20, lambda first, count: x[:, first : first + count], lambda first, rows: None)
print("done")
"""


def test_neither_way_through_the_compiled_code_does_what_is_undefined(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", UNDEFINED],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    if run.stderr.startswith("no sanitizer"):
        pytest.skip(run.stderr.splitlines()[0])
    assert run.stdout == "done\n", run.stderr
