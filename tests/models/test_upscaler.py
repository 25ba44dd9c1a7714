"""`load` and torch.hub: architecture read off the file, one call for arrays and tensors, from anywhere."""

import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from helpers import GOLDEN, ROOT, build, load_golden

from models import ModelError, load, upscaler
from models.architecture import Architecture, detect_architecture
from models.pixels import from_network, to_network

CPU = torch.device("cpu")
FULL = Architecture(4)
KINDS = {
    "full": FULL,
    "small": Architecture(2, n_feats=16, num_heads=2, n_blocks=3),
    "x3": Architecture(3, n_feats=8, num_heads=4, n_blocks=6),
    "no ESAM": replace(FULL, n_feats=16, n_blocks=3, use_esam=False),
    "no MoE-FS": replace(FULL, n_feats=16, n_blocks=3, use_moe=False),
    "some depthwise": replace(FULL, n_feats=16, n_blocks=3, msgm_depthwise=(2, 4)),
    "no depthwise": replace(FULL, n_feats=16, n_blocks=3, msgm_depthwise=()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_architecture_is_read_off_the_weights(kind):
    assert detect_architecture(KINDS[kind].build().state_dict()) == KINDS[kind]


def test_weights_of_another_network_have_no_architecture(tmp_path):
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3), torch.nn.PixelShuffle(2))
    assert detect_architecture(other.state_dict()) is None
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(ModelError, match=r"other\.pt: holds the weights of another network"):
        load(tmp_path / "other.pt")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_loaded_file_gives_the_golden_output(path, tmp_path):
    model, golden, _ = load_golden(path)
    torch.save({"model_state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.pt")
    upscale = load(tmp_path / "w.pt", device="cpu")
    assert upscale.scale == int(path.stem[1])
    torch.testing.assert_close(upscale(golden["input"]), golden["output"], atol=1e-5, rtol=0)
    torch.testing.assert_close(upscale(golden["input"][0].double()), golden["output"][0], atol=1e-5, rtol=0)


def test_an_array_comes_back_as_test_py_would_write_it():
    upscale = load("x2", device="cpu", backend="plain")
    image = np.random.default_rng(0).integers(0, 256, (21, 17, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = from_network(upscale.model(to_network(image, CPU))[0])
    assert np.array_equal(upscale(image), expected)
    assert np.array_equal(upscale(image[:, ::-1][:, ::-1]), expected)  # strides of any sign


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 4, 8, 8),
        "x.png",
    ],
    ids=["grey", "float array", "empty", "uint8 tensor", "four channels", "a name"],
)
def test_what_is_no_image_is_refused_in_one_line(image):
    upscale = load("x4", device="cpu", backend="plain")
    with pytest.raises(ModelError, match=r"^image: .* cannot be super-resolved; give a uint8 \(H, W, 3\) array"):
        upscale(image)


def test_a_checkpoint_of_another_architecture_is_named_with_both_and_with_the_config_that_fits(tmp_path):
    small = KINDS["small"]
    torch.save(small.build().state_dict(), tmp_path / "best.pt")
    (tmp_path / "config.yml").write_text("")
    from models.weights import load_weights

    with pytest.raises(ModelError) as caught:
        load_weights(Architecture(4, n_feats=8, n_blocks=3).build(), tmp_path / "best.pt")
    message = str(caught.value)
    assert "file: x2, 16 channels, 3 stages, 2 heads; config: x4, 8 channels, 3 stages, 4 heads" in message
    assert f"({tmp_path / 'config.yml'} fits)" in message
    assert len(message) < 300 + len(str(tmp_path)) * 2
    assert asdict(small)["n_feats"] == 16


ALONE = """
import sys, torch
sys.path.insert(0, {folder!r})
import utils, config, metrics
assert utils.WHOSE == config.WHOSE == metrics.WHOSE == "a stranger's"
from models import load, training_network, inference
from models.pixels import from_network, to_network
from models.architecture import Architecture
network = load({weights!r}, device="cpu")
assert network(torch.rand(3, 20, 20)).shape == (3, 40, 40)
model = Architecture(2, n_feats=8, n_blocks=3).build()
training_network(model, torch.device("cpu"))[0](torch.rand(1, 3, 16, 16)).sum().backward()
files = [str(getattr(module, "__file__", "")) for module in sys.modules.values()]
assert not [file for file in files if file.startswith({root!r}) and ".venv" not in file]
print("works", network.backend)
"""
HUB = """
import sys, torch
sys.path.insert(0, {folder!r})
import utils, models
network = torch.hub.load({root!r}, "ssiu", scale=2, source="local", device="cpu")
assert network(torch.rand(1, 3, 16, 18)).shape == (1, 3, 32, 36)
assert utils.WHOSE == models.WHOSE == "a stranger's"
try:
    torch.hub.load({root!r}, "ssiu", scale=5, source="local")
except ValueError as error:
    print(error)
"""


def strangers(folder, names):
    folder.mkdir()
    for name in names:
        (folder / f"{name}.py").write_text('WHOSE = "a stranger\'s"\n')


def run(code, cwd):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120)


def test_models_alone_works_in_a_project_with_modules_of_the_same_names(tmp_path):
    folder = tmp_path / "theirs"
    strangers(folder, ("utils", "config", "metrics", "datas"))
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    weights = tmp_path / "w.pt"
    torch.save(KINDS["small"].build().state_dict(), weights)
    done = run(ALONE.format(folder=str(folder), weights=str(weights), root=str(ROOT)), folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("works")


def test_torch_hub_loads_from_any_directory_beside_modules_of_the_same_names(tmp_path):
    strangers(tmp_path / "theirs", ("utils", "models"))
    done = run(HUB.format(folder=str(tmp_path / "theirs"), root=str(ROOT)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("scale: 5 is not one of 2, 3, 4")


@pytest.mark.parametrize(
    ("asked", "found"), [(None, "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu"), ("cuda:2", None)]
)
def test_a_device_without_a_number_is_the_current_one(asked, found, monkeypatch):
    """As on a machine with two GPUs, of which the second is in use."""
    current = []
    for name, answer in {"is_available": True, "device_count": 2, "current_device": 1}.items():
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    if found is None:
        with pytest.raises(ModelError, match="device: 'cuda:2' does not exist; this machine has 2 CUDA"):
            upscaler._device(asked)
    else:
        assert upscaler._device(asked) == torch.device(found)
        assert current == ([] if found == "cpu" else [int(found[-1])])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(("device", "complaint"), [("cuda", "no CUDA device here"), ("gpu", "is not a device")])
def test_a_device_that_is_not_there_is_named(device, complaint):
    with pytest.raises(ModelError, match=f"device: '{device}'.*{complaint}"):
        load("x4", device=device)


@pytest.mark.parametrize("name", ["x5", "X9", 4, "none.pt"])
def test_weights_that_are_not_there_are_named_with_what_can_be_given(name):
    with pytest.raises(ModelError, match=f"^{name}: no such file; give 'x2', 'x3', 'x4' or the path of a checkpoint"):
        load(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights | {"body.2999.x": torch.zeros(1)}, "another network than SSIU"),
        (lambda weights: weights | {"body.3.norm1.weight": torch.zeros(8)}, "cannot be built"),
        (lambda weights: weights | {"head.weight": torch.zeros(4096, 3, 3, 3)}, "is not one network: 'head.bias'"),
        (lambda weights: {k: v for k, v in weights.items() if k != "moe.fuse.bias"}, "is not one network"),
    ],
    ids=["a stage of any number", "a fourth stage", "a wide head", "a missing key"],
)  # fmt: skip
def test_a_file_that_is_no_whole_network_is_refused_before_one_is_built(change, message, tmp_path):
    weights = change(build(2, n_feats=8).state_dict())
    torch.save(weights, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "x.pt")
