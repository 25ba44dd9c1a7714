"""A fast path that is wrong, slow or broken on this machine never runs by itself, and the plain one says so."""

import json
import re
import time
import warnings

import pytest
import torch

from models import ModelError, backends, cpu, inference, proof
from models.architecture import Architecture
from models.backends import VARIABLE, fast_path
from models.cpu import CpuInference
from models.proof import FastPath, Work, prove, relative_error, self_test, worst_gradient

CPU = torch.device("cpu")
SMALL = Architecture(2, n_feats=16, num_heads=4, n_blocks=3)
needs_compiler = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"models/cpu.cpp: {cpu.unavailable()}")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    """A machine on which nothing was proven yet; the compiled code stays where it is."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(proof, "_found", {})
    monkeypatch.setattr(proof, "cache_folder", lambda: tmp_path)
    return tmp_path


def replaced(monkeypatch, build):
    """The 'cpu' path of a machine on which it behaves as `build` makes it."""
    real = fast_path("cpu")
    broken = FastPath("cpu", build, real.toolchain, real.sources)
    monkeypatch.setattr(backends, "fast_path", lambda name: broken)


def chosen(**options):
    """What 'auto' takes for a small network, and every warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network, backend = inference(SMALL.build().eval(), CPU, shape=(1, 32, 48), **options)
    with torch.no_grad():
        assert network(torch.rand(1, 3, 16, 16)).shape == (1, 3, 32, 32)
    return backend, [str(warning.message) for warning in caught if warning.category is UserWarning]


def wrong_weight(model, _precision, _training):
    """The compiled path on weights of which one has changed."""
    changed = CpuInference(model)
    changed.model = Architecture(model.scale, model.head.out_channels, n_blocks=len(model.body)).build()
    changed.model.load_state_dict(model.state_dict())
    with torch.no_grad():
        changed.model.body[1].s4.project_in2[1].bias[3] += 0.05
    return changed


def nan(model, _precision, _training):
    return lambda x: model(x) * torch.nan


def raising(_model, _precision, _training):
    raise MemoryError("no memory\nat all")


def slow(model, _precision, _training):
    return lambda x: (time.sleep(0.2), model(x))[1]


def off_by_a_row(model, _precision, _training):
    return lambda x: model(x).roll(1, dims=2)


BROKEN = {
    "a wrong weight": (wrong_weight, "its output for the golden vectors is wrong by .*; at most 1e-05 is allowed"),
    "a NaN": (nan, "its output for the golden vectors is wrong by inf"),
    "an exception": (raising, r"it failed its self-test \(MemoryError: no memory at all\)"),
    "slowness": (slow, "it took .* times as long; the next start tries again"),
    "a shifted image": (off_by_a_row, "its output for the golden vectors is wrong"),
}


@needs_compiler
@pytest.mark.parametrize("what", BROKEN)
def test_the_plain_path_takes_over_from_one_broken_by(what, monkeypatch):
    build, complaint = BROKEN[what]
    replaced(monkeypatch, build)
    backend, said = chosen()
    assert backend == "plain"
    assert len(said) == 1
    assert said[0].startswith("backend: 'plain' runs instead of 'cpu': ")
    assert ("doctor.py --json" in said[0]) == (what != "slowness")
    assert re.search(complaint, said[0]), said[0]


@needs_compiler
@pytest.mark.parametrize("what", [what for what in BROKEN if what != "slowness"])
def test_a_broken_path_that_is_named_is_an_error(what, monkeypatch):
    replaced(monkeypatch, BROKEN[what][0])
    with pytest.raises(ModelError, match=r"^backend: 'cpu' cannot run here: it.*; use 'auto' or 'plain'$"):
        inference(SMALL.build().eval(), CPU, "cpu", shape=(1, 32, 48))


@needs_compiler
def test_a_slow_path_that_is_named_runs(monkeypatch):
    replaced(monkeypatch, slow)
    assert inference(SMALL.build().eval(), CPU, "cpu", shape=(1, 32, 48))[1] == "cpu"


def test_a_killed_compiler_leaves_the_plain_path(monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cpu.unavailable.cache_clear(), cpu.compiled.cache_clear()
    try:
        backend, said = chosen()
    finally:
        cpu.unavailable.cache_clear(), cpu.compiled.cache_clear()
    assert backend == "plain"
    assert "was killed by signal 9" in said[0]


@needs_compiler
def test_the_outcome_is_found_once_said_and_kept(nothing_known, monkeypatch):
    lines = []
    monkeypatch.setattr(proof, "_speedup", lambda *_: 3.14)
    backend, said = chosen(say=lines.append)
    assert (backend, said) == ("cpu", [])
    kept = list(nothing_known.glob("proof-*.json"))
    assert len(kept) == 1
    assert lines[0].startswith("cpu: agrees to ")
    assert lines[0].endswith(f"3.1 times plain; kept in {kept[0]}")
    monkeypatch.setattr(proof, "_found", {})
    monkeypatch.setattr(proof, "prove", lambda *_: pytest.fail("it was proven already"))
    assert chosen(say=lines.append) == ("cpu", [])
    assert lines[1] == lines[0]


@needs_compiler
@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"key": 1}', b"[]"])
def test_a_damaged_record_is_found_anew(content, nothing_known, monkeypatch):
    monkeypatch.setattr(proof, "_speedup", lambda *_: 2.0)
    chosen()
    file = next(nothing_known.glob("proof-*.json"))
    good = json.loads(file.read_text())
    file.write_bytes(content)
    monkeypatch.setattr(proof, "_found", {})
    assert chosen() == ("cpu", [])
    assert json.loads(file.read_text())["key"] == good["key"]


@needs_compiler
def test_a_failure_is_not_kept_so_that_the_next_start_tries_again(nothing_known, monkeypatch):
    with monkeypatch.context() as patch:
        replaced(patch, raising)
        assert chosen()[0] == "plain"
    assert list(nothing_known.iterdir()) == []
    monkeypatch.setattr(proof, "_found", {})
    monkeypatch.setattr(proof, "_speedup", lambda *_: 2.0)
    assert chosen()[0] == "cpu"


@needs_compiler
def test_a_slow_moment_is_not_kept(nothing_known, monkeypatch):
    monkeypatch.setattr(proof, "_speedup", lambda *_: 0.9)
    assert chosen()[0] == "plain"
    assert list(nothing_known.iterdir()) == []


@needs_compiler
def test_a_wrong_path_is_kept_and_the_warning_names_the_file(nothing_known, monkeypatch):
    replaced(monkeypatch, wrong_weight)
    backend, said = chosen()
    (kept,) = nothing_known.glob("proof-*.json")
    assert backend == "plain"
    assert said[0].endswith(f"to test it again, remove {kept}")


def test_the_plain_paths_hunger_for_memory_is_not_held_against_a_path(monkeypatch):
    """The comparison is made on a smaller batch."""
    real, asked = proof.prove, []

    def hungry(path, work):
        asked.append(work.shape)
        if work.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(path, work)

    monkeypatch.setattr(proof, "prove", hungry)
    assert self_test(path(lambda model, *_: model), work(shape=(8, 16, 16))).problem == ""
    assert asked == [(8, 16, 16), (4, 16, 16), (2, 16, 16)]
    monkeypatch.setattr(proof, "prove", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("too much")))
    assert "OutOfMemoryError: too much" in self_test(path(lambda model, *_: model), work(shape=(4, 16, 16))).problem


@needs_compiler
def test_a_cache_that_cannot_be_written_costs_the_record_only(monkeypatch):
    def unwritable():
        raise PermissionError("read-only")

    lines = []
    monkeypatch.setattr(proof, "cache_folder", unwritable)
    monkeypatch.setattr(proof, "_speedup", lambda *_: 2.0)
    assert chosen(say=lines.append)[0] == "cpu"
    assert lines[0].endswith("2.0 times plain; not kept")


def work(training=False, precision="float32", shape=(1, 32, 32)):
    return Work(SMALL, CPU, precision, training, shape)


def path(build, sources=(), toolchain="none"):
    return FastPath("made up", build, lambda: toolchain, tuple(sources))


def test_everything_that_the_outcome_depends_on_is_in_the_key(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_text("one")
    runs = []
    monkeypatch.setattr(proof, "prove", lambda *_: runs.append(1) or proof.Verdict("", 0.0, 2.0))
    plain = lambda model, *_: model  # noqa: E731
    variants = [
        (path(plain, [source]), work()),
        (path(plain, [source], toolchain="other"), work()),
        (path(plain, [source]), work(precision="bf16")),
        (path(plain, [source]), work(training=True)),
        (path(plain, [source]), work(shape=(2, 32, 32))),
    ]
    for number, variant in enumerate(variants, 1):
        self_test(*variant)
        self_test(*variant)
        assert len(runs) == number
    source.write_text("two")
    self_test(*variants[0])
    assert len(runs) == len(variants) + 1


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(_context, weight):
        return weight.clone()

    @staticmethod
    def backward(_context, gradient):
        return 1.01 * gradient


def test_in_training_one_wrong_gradient_is_named():
    def build(model, _precision, _training):
        def network(x):
            weights = dict(model.named_parameters())
            weights["moe.fc_b.bias"] = WrongGradient.apply(weights["moe.fc_b.bias"])
            return torch.func.functional_call(model, weights, (x,))

        return network

    verdict = prove(path(build), work(training=True))
    assert verdict.problem.startswith("its gradient of moe.fc_b.bias is wrong by 1.0e-02")
    right = prove(path(lambda model, *_: model), work(training=True))
    assert (right.problem, right.error < 1e-6, right.speedup > 0) == ("", True, True)


def test_in_training_a_gradient_that_does_not_arrive_is_named():
    def build(model, _precision, _training):
        frozen = {name: p.detach() if name == "head.bias" else p for name, p in model.named_parameters()}
        return lambda x: torch.func.functional_call(model, frozen, (x,))

    assert "gradient of head.bias" in prove(path(build), work(training=True)).problem


def test_errors_are_relative_norms():
    truth = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 4.5]), truth) == pytest.approx(0.1)
    assert relative_error(torch.tensor([3.0, torch.nan]), truth) == float("inf")
    assert relative_error(torch.zeros(3), truth) == float("inf")
    name, error = worst_gradient({"a": truth, "b": 2 * truth}, {"a": truth, "b": truth})
    assert (name, error) == ("b", pytest.approx(1.0))


def test_a_network_that_is_no_ssiu_takes_the_plain_path_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network, backend = inference(torch.nn.Upsample(scale_factor=2), CPU)
    assert backend == "plain"
    assert network(torch.rand(1, 3, 4, 4)).shape == (1, 3, 8, 8)
    with pytest.raises(ModelError, match="it runs SSIU, not a Upsample"):
        inference(torch.nn.Upsample(scale_factor=2), CPU, "cpu")
