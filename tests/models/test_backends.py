"""Which implementation runs: the choice, forcing one, and that a refusal names its reason."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from models import ModelError, cpu, create_model, inference, matmul_precision, training_network
from models.backends import VARIABLE, choose_backend

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(cpu.unavailable() is not None, reason=f"models/cpu.cpp: {cpu.unavailable()}")


def network(**more):
    torch.manual_seed(0)
    return create_model(SimpleNamespace(scale=2, n_feats=16, num_heads=4, n_blocks=3, **more)).eval()


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@needs_compiler
def test_on_a_cpu_inference_takes_the_cpu_path_and_training_the_plain_one():
    model = network()
    assert inference(model, CPU)[1] == "cpu"
    assert training_network(model, CPU) == (model, "plain")


@needs_compiler
def test_every_backend_that_runs_here_gives_the_same_image():
    model, x = network(), torch.rand(1, 3, 21, 30)
    with torch.no_grad():
        plain = inference(model, CPU, "plain")[0](x)
        torch.testing.assert_close(inference(model, CPU, "cpu")[0](x), plain, atol=1e-5, rtol=0)
        torch.testing.assert_close(model(x), plain, atol=0, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_of_the_plain_path_is_close_and_returns_float32(precision):
    model, x = network(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        out = inference(model, CPU, "plain", precision)[0](x)
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, model(x), atol=0.02, rtol=0)
        assert not torch.equal(out, model(x))


@needs_compiler
def test_the_environment_variable_decides_where_nothing_else_names_a_backend(monkeypatch):
    monkeypatch.setenv(VARIABLE, "plain")
    assert inference(network(), CPU, "auto")[1] == "plain"
    assert inference(network(), CPU, "cpu")[1] == "cpu"  # a benchmark of paths must run the path that it names


@pytest.mark.parametrize(
    ("backend", "precision", "training", "reason"),
    [
        ("triton", "float32", False, "it needs a CUDA device"),
        ("cpu", "float32", True, "it has no backward pass"),
        ("cpu", "fp16", False, "it does not compute in fp16 on this processor"),
        ("auto", "tf32", False, "'tf32' is arithmetic of CUDA devices"),
        ("auto", "int8", False, "precision: 'int8' is not one of float32"),
        ("cuda", "float32", False, "backend: 'cuda' is not one of auto"),
    ],
)
def test_a_backend_that_cannot_run_is_refused_with_its_reason(backend, precision, training, reason):
    with pytest.raises(ModelError, match=reason):
        choose_backend(network(), CPU, backend, precision, training)


@pytest.mark.parametrize(("backend", "use_moe"), [("plain", True), ("auto", False)])
def test_what_only_the_kernels_compute_is_never_left_to_the_plain_path(backend, use_moe):
    with warnings.catch_warnings(), pytest.raises(ModelError, match="'tf32x3' is of the 'triton' backend alone"):
        warnings.simplefilter("ignore")
        choose_backend(network(use_moe=use_moe), torch.device("cuda"), backend, "tf32x3", training=True)


def test_a_network_that_the_kernels_cannot_run_is_warned_about():
    with pytest.warns(UserWarning, match="'plain' runs instead of 'triton': the network has no MoE-FS"):
        assert choose_backend(network(use_moe=False), torch.device("cuda"), "auto", "bf16", training=True) == "plain"


def test_tf32_is_allowed_only_where_asked_for_and_put_back():
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for precision, allowed in (("float32", False), ("tf32", True), ("tf32x3", False), ("bf16", False)):
        with matmul_precision(precision):
            assert [switch.allow_tf32 for switch in switches] == [allowed, allowed]
    assert [switch.allow_tf32 for switch in switches] == before
