"""Exported files against the plain network and the golden vectors: any size, any architecture, in other runtimes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from helpers import GOLDEN, load_golden

from models import ModelError, Upscaler
from models.architecture import Architecture
from models.portable import SAMPLE, Portable
from models.weights import file_hash, read_checkpoint, read_weights
from tools.export import export
from utils import InputError

SMALL = Architecture(scale=2, n_feats=8, num_heads=2, n_blocks=3)
SIZES = [(1, 1), (1, 40), (2, 3), (5, 64), (8, 9), (16, 16), (17, 31), (33, 16), (48, 64), (50, 70), (31, 97), (75, 99)]
ARCHITECTURES = {
    "no ESAM": replace(SMALL, use_esam=False),
    "no MoE-FS": replace(SMALL, use_moe=False),
    "no depthwise convolutions": replace(SMALL, msgm_depthwise=()),
    "x3, other width and heads": replace(SMALL, scale=3, n_feats=18, num_heads=3),
    "x4, six stages": replace(SMALL, scale=4, n_blocks=6),
}


def network_of(architecture):
    torch.manual_seed(0)
    return architecture.build().eval()


def images(size, batch):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_equal_at(sizes, run, network, tolerance=1e-5):
    for number, size in enumerate(sizes):
        x = images(size, batch=1 + number % 3)
        found = torch.as_tensor(run(x))
        torch.testing.assert_close(found, network(x), atol=tolerance, rtol=0, msg=lambda m, s=size: f"{s}: {m}")


def in_onnxruntime(file):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"image": x.numpy()})[0]


def in_openvino(file):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = pytest.importorskip("openvino").Core().compile_model(file, "CPU", settings)
    return lambda x: np.array(compiled(x.numpy())[0])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of weights, the network that they are of."""
    network = network_of(SMALL)
    file = tmp_path_factory.mktemp("small") / "small.pt"
    torch.save(network.state_dict(), file)
    file.with_suffix(".yml").write_text("network: small\nlicence of the training images: CC0\n")
    return file, network


@pytest.fixture(scope="module")
def small_onnx(small):
    pytest.importorskip("onnx")
    export(small[0], small[0].with_suffix(".onnx"))
    return small[0].with_suffix(".onnx")


@pytest.fixture(scope="module")
def small_pt2(small):
    """The file, the program and the metadata in it."""
    file, extra = small[0].with_suffix(".pt2"), {"metadata.json": ""}
    export(small[0], file)
    program = torch.export.load(file, extra_files=extra)
    return file, program, json.loads(extra["metadata.json"])


@pytest.mark.parametrize("runtime", [in_onnxruntime, in_openvino])
def test_onnx_gives_what_the_network_gives_at_any_size_and_batch(runtime, small, small_onnx):
    assert_equal_at(SIZES, runtime(small_onnx), small[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_onnx_of_other_architectures_gives_what_they_give(architecture, tmp_path):
    pytest.importorskip("onnx")
    network = network_of(architecture)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    export(tmp_path / "weights.pt", tmp_path / "other.onnx")
    assert_equal_at([(1, 5), (17, 34)], in_onnxruntime(tmp_path / "other.onnx"), network)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_onnx_gives_the_golden_output(path, tmp_path):
    pytest.importorskip("onnx")
    model, golden, _ = load_golden(path)
    torch.save(model.state_dict(), tmp_path / "golden.pt")
    export(tmp_path / "golden.pt", tmp_path / "golden.onnx")
    found = torch.from_numpy(in_onnxruntime(tmp_path / "golden.onnx")(golden["input"]))
    torch.testing.assert_close(found, golden["output"], atol=1e-4, rtol=0)


def test_half_is_float16_inside_float32_outside_and_near_to_the_network(small, tmp_path):
    onnx = pytest.importorskip("onnx")
    export(small[0], tmp_path / "half.onnx", half=True)
    graph = onnx.load(tmp_path / "half.onnx").graph
    kinds = {value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}
    assert kinds == {onnx.TensorProto.FLOAT}
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.name.endswith("weight")}
    assert {kind for name, kind in weights.items() if ".norm." not in name} == {onnx.TensorProto.FLOAT16}
    assert (tmp_path / "half.onnx").stat().st_size < small[0].with_suffix(".onnx").stat().st_size
    assert_equal_at([(1, 1), (17, 31)], in_onnxruntime(tmp_path / "half.onnx"), small[1], tolerance=5e-3)


def test_a_pt2_program_gives_what_the_network_gives_at_any_size_and_batch(small, small_pt2):
    assert_equal_at(SIZES, small_pt2[1].module(), small[1])


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_traced_network_gives_what_the_network_gives_at_any_size_and_batch(small):
    assert_equal_at(SIZES, torch.jit.trace(Portable(small[1]), torch.rand(SAMPLE), check_trace=False), small[1])


def test_exported_graphs_hold_no_paths_of_the_machine_that_made_them(small_onnx, small_pt2):
    for file in (small_onnx, small_pt2[0]):
        assert str(Path(__file__).parents[2]).encode() not in file.read_bytes()


def test_every_form_with_room_says_what_it_is_and_where_it_is_from(small, small_onnx, small_pt2, tmp_path):
    export(small[0], tmp_path / "small.safetensors")
    with safetensors.safe_open(tmp_path / "small.safetensors", "pt") as file:
        found = [file.metadata()]
    properties = pytest.importorskip("onnx").load(small_onnx).metadata_props
    found.append({entry.key: entry.value for entry in properties})
    for metadata in [*found, small_pt2[2]]:
        assert metadata["scale"] == "2"
        assert metadata["architecture"] == "x2, 8 channels, 3 stages, 2 heads"
        assert metadata["source"] == "small.pt"
        assert metadata["source_sha256"] == file_hash(small[0])
        assert metadata["licence of the training images"] == "CC0"
        assert "licence" not in metadata  # nobody has said so
        assert metadata["project_commit"]


def test_the_shipped_weights_are_exported_by_their_scale_with_the_projects_licence(tmp_path):
    export("x4", tmp_path / "x4.safetensors")
    shipped = Upscaler.load("x4", "cpu", "plain").model.state_dict()
    read_back = read_weights(tmp_path / "x4.safetensors")
    assert shipped.keys() == read_back.keys()
    assert all(torch.equal(shipped[key], read_back[key]) for key in shipped)
    with safetensors.safe_open(tmp_path / "x4.safetensors", "pt") as file:
        assert file.metadata()["licence"] == "MIT License"


def test_a_pt_file_is_a_plain_state_dict(small, tmp_path):
    export(small[0], tmp_path / "out.pt")
    assert read_checkpoint(tmp_path / "out.pt").keys() == small[1].state_dict().keys()


@pytest.mark.parametrize("ending", [".pth", ".ONNX", ""])
def test_another_ending_is_refused(ending, small, tmp_path):
    with pytest.raises(InputError, match=r"must end in \.pt, \.safetensors, \.onnx or \.pt2"):
        export(small[0], tmp_path / f"out{ending}")


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".pt2"])
def test_half_of_another_form_than_onnx_is_refused(ending, small, tmp_path):
    with pytest.raises(InputError, match="--half"):
        export(small[0], tmp_path / f"out{ending}", half=True)


@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_a_graph_of_another_network_is_refused_and_its_weights_are_not(ending, tmp_path):
    torch.save({"layer.weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: holds the weights of another network than SSIU"):
        export(tmp_path / "other.pt", tmp_path / f"out{ending}")
    assert export(tmp_path / "other.pt", tmp_path / "out.safetensors") == 4


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"nothing\.pt"):
        export(tmp_path / "nothing.pt", tmp_path / "out.onnx")


def test_without_the_package_onnx_one_line_says_how_to_get_it(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"needs the package onnx .*pip install -r requirements-export\.txt"):
        export(small[0], tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
