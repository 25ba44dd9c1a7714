"""SSIU in spandrel: detected as itself alone, the same bits, the traps of docs/loaders.md, and the written files.

spandrel imports three names of torchvision, which need not be there: the stand-in is that of docs/loaders.md.
"""

import ast
import importlib
import re
import sys
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import GOLDEN, ROOT, assert_same_bits, build, load_golden, run_script

from config import load_config
from models import create_model, load
from models.architecture import architecture_of
from models.weights import read_weights
from tools import export, spandrel_file, spandrel_ssiu
from training.checkpoints import save_checkpoint
from utils import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")  # by it spandrel tries a .pt
ABLATIONS = sorted((ROOT / "configs" / "ablation").glob("*.yml"))
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "loaders.md").read_text(encoding="utf-8"), re.DOTALL)
STAND_IN = next(block for block in BLOCKS if "torchvision" in block)


@contextmanager
def modules_apart():
    """Within it, spandrel and torchvision are not imported yet; what is imported of them leaves no trace."""

    def take_out():
        names = [name for name in sys.modules if name.split(".")[0] in ("spandrel", "torchvision")]
        return {name: sys.modules.pop(name) for name in names}

    before = take_out()
    try:
        yield
    finally:
        take_out()
        sys.modules.update(before)


@pytest.fixture(scope="module")
def spandrel():
    """spandrel beside the stand-in for torchvision, SSIU registered."""
    if find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed: pip install --no-deps spandrel==0.4.2")
    with modules_apart():
        exec(STAND_IN, {})
        spandrel_ssiu.register()
        yield sys.modules["spandrel"]


@pytest.fixture
def adapter(spandrel):
    return spandrel.MAIN_REGISTRY["SSIU"].architecture


def ablated(file):
    """The network of an ablation config, narrower: its keys do not depend on the width."""
    torch.manual_seed(1)
    return create_model(replace(load_config(file), n_feats=8))


def detected(spandrel, weights):
    return [support.architecture.id for support in spandrel.MAIN_REGISTRY if support.detect(weights)]


def image(height, width):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))


@torch.no_grad()
def assert_same_network(descriptor, network, sizes=((5, 7),)):
    """The bits are those of `network`, clipped, as spandrel does."""
    assert architecture_of(descriptor.model) == architecture_of(network)
    for size in sizes:
        assert torch.equal(descriptor(image(*size)), network(image(*size)).clamp(0, 1))


@pytest.mark.parametrize("scale", (2, 3, 4))
def test_shipped_weights_are_detected_as_ssiu_alone_and_give_the_same_bits(spandrel, scale):
    file = ROOT / "pretrain_model" / f"SSIU_x{scale}.pt"
    assert detected(spandrel, read_weights(file)) == ["SSIU"]
    descriptor = spandrel.ModelLoader().load_from_file(file)
    assert (descriptor.architecture.id, descriptor.scale, descriptor.purpose) == ("SSIU", scale, "SR")
    assert descriptor.tags == ["64nf", "9nb"]
    network = load(f"x{scale}", device="cpu", backend="plain").model
    assert_same_network(descriptor, network, sizes=((1, 1), (3, 17)))


@pytest.mark.parametrize("file", ABLATIONS, ids=lambda file: file.stem)
def test_ablations_are_detected_as_ssiu_alone_and_give_the_same_bits(spandrel, file):
    network = ablated(file)
    assert detected(spandrel, network.state_dict()) == ["SSIU"]
    descriptor = spandrel.ModelLoader().load_from_state_dict(network.state_dict())
    if network.body[0].s3 is None:  # the number of heads leaves no trace, and has no effect
        network = build(4, 8, architecture_of(descriptor.model).num_heads, 9, use_esam=False)
        network.load_state_dict(descriptor.model.state_dict())
    assert_same_network(descriptor, network)


def key_sets(condition):
    """Every smallest set of keys that fulfils a KeyCondition."""
    parts = [{frozenset([key])} if isinstance(key, str) else key_sets(key) for key in condition._keys]
    if condition._kind == "any":
        return set().union(*parts)
    sets = {frozenset()}
    for part in parts:
        sets = {one | other for one in sets for other in part}
    return sets


def test_what_makes_another_network_does_not_make_ssiu(spandrel, adapter):
    others = [support.architecture for support in spandrel.MAIN_REGISTRY if support.architecture is not adapter]
    assert len(others) > 40
    for other in others:
        for keys in key_sets(other._detect):
            assert other.detect(dict.fromkeys(keys))
            assert not adapter.detect(dict.fromkeys(keys)), other.id


def test_no_other_network_of_spandrel_can_have_ssius_keys(spandrel):
    """A key of `body.0.s1.project_in1.weight` needs a module that calls something `project_in1`."""
    sources = list((Path(spandrel.__file__).parent / "architectures").rglob("*.py"))
    assert len(sources) > 80
    assert [file for file in sources if "project_in1" in file.read_text(encoding="utf-8")] == []


def test_registering_again_changes_nothing_and_a_registry_of_ones_own_can_have_it(spandrel):
    before = list(spandrel.MAIN_REGISTRY)
    spandrel_ssiu.register()
    assert list(spandrel.MAIN_REGISTRY) == before
    registry = spandrel.ArchRegistry()
    spandrel_ssiu.register(registry)
    weights = build(2, 8, 2).state_dict()
    assert spandrel.ModelLoader(registry=registry).load_from_state_dict(weights).scale == 2


def test_the_loaded_network_shares_no_memory_with_what_it_was_loaded_from(spandrel):
    weights = build(2, 8, 2).state_dict()
    descriptor = spandrel.ModelLoader().load_from_state_dict(weights)
    weights["head.bias"].fill_(7)
    assert not descriptor.model.head.bias.eq(7).any()


def test_tiles_are_discouraged_because_they_differ_from_the_whole_image(spandrel):
    descriptor = spandrel.ModelLoader().load_from_state_dict(build(2, 8, 2).state_dict())
    assert descriptor.tiling is spandrel.ModelTiling.DISCOURAGED
    assert descriptor.size_requirements.none
    with torch.no_grad():
        whole, tile = descriptor(image(32, 32)), descriptor(image(32, 32)[..., :16])
    assert not torch.allclose(whole[..., :32], tile, atol=1e-3)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_is_as_near_as_its_digits_allow(spandrel, dtype):
    weights = build(2, 8, 2).state_dict()
    exact, half = (spandrel.ModelLoader().load_from_state_dict(weights) for _ in range(2))
    half.to(dtype)
    with torch.no_grad():
        difference = half(image(16, 16).to(dtype)).float() - exact(image(16, 16))
    assert difference.abs().mean() < 4 * torch.finfo(dtype).eps


def forms():
    """Content of files of one network: raw weights, and averaged ones whose head's bias is 1 more."""
    raw = build(2, 8, 2).state_dict()
    averaged = {**raw, "head.bias": raw["head.bias"] + 1}
    return raw, averaged


def published(raw, best):
    return {"epoch": 3, "model_state_dict": {f"module.{k}": v for k, v in raw.items()}, "stat_dict": {"Set5": best}}


@pytest.mark.parametrize("suffix", (".pt", ".pth"))
@pytest.mark.parametrize("prefix", ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."))
def test_prefixes_are_removed(spandrel, tmp_path, prefix, suffix):
    raw, _ = forms()
    torch.save({prefix + key: value for key, value in raw.items()}, tmp_path / f"a{suffix}")
    assert_same_bits(spandrel.ModelLoader().load_from_file(tmp_path / f"a{suffix}").model.state_dict(), raw)


def test_of_a_runs_checkpoint_spandrel_takes_raw_weights_and_of_its_export_averaged_ones(spandrel, tmp_path):
    raw, averaged = forms()
    states = {"torch": torch.get_rng_state()}
    content = {"model_state_dict": raw, "ema_state_dict": averaged, "random_states": states, "iteration": 3}
    save_checkpoint(tmp_path / "best.pt", content)
    export.export(tmp_path / "best.pt", tmp_path / "x2.safetensors")
    loader = spandrel.ModelLoader()
    assert_same_bits(loader.load_from_file(tmp_path / "best.pt").model.state_dict(), raw)
    assert_same_bits(loader.load_from_file(tmp_path / "x2.safetensors").model.state_dict(), averaged)
    assert_same_bits(loader.load_from_state_dict(read_weights(tmp_path / "best.pt")).model.state_dict(), averaged)
    torch.save({"ema_state_dict": averaged, "epoch": 3}, tmp_path / "ema.pt")
    with pytest.raises(spandrel.UnsupportedModelError):
        loader.load_from_file(tmp_path / "ema.pt")


def test_of_published_files_those_with_numpy_scalars_do_not_load_and_their_export_does(spandrel, tmp_path):
    raw, _ = forms()
    loader = spandrel.ModelLoader()
    torch.save(published(raw, 31.9), tmp_path / "plain.pt")
    assert_same_bits(loader.load_from_file(tmp_path / "plain.pt").model.state_dict(), raw)
    for name, complaint in (("numpy.pt", "constants.pkl"), ("numpy.pth", "numpy.*scalar' is forbidden")):
        torch.save(published(raw, np.float64(31.9)), tmp_path / name)
        with pytest.raises(Exception, match=complaint):
            loader.load_from_file(tmp_path / name)
    export.export(tmp_path / "numpy.pt", tmp_path / "x2.safetensors")
    assert_same_bits(loader.load_from_file(tmp_path / "x2.safetensors").model.state_dict(), raw)


def test_half_weights_become_float32_and_nan_is_not_noticed(spandrel):
    raw, _ = forms()
    halved = spandrel.ModelLoader().load_from_state_dict({key: value.half() for key, value in raw.items()})
    assert halved.dtype == torch.float32
    assert torch.equal(halved.model.head.bias, raw["head.bias"].half().float())
    raw["head.bias"][0] = torch.nan
    assert spandrel.ModelLoader().load_from_state_dict(raw).model.head.bias.isnan().any()


def test_sizes_that_only_a_few_keys_name_take_no_memory(adapter):
    weights = {key: value.new_zeros(1) for key, value in forms()[0].items()}
    weights["head.weight"], weights["tail.0.weight"] = torch.zeros(40_000, 3, 1, 1), torch.zeros(1).expand(4, 1)
    weights["body.0.s3.rel_h"] = torch.zeros(1, 10, 1, 20_000)
    with pytest.raises(RuntimeError, match="size mismatch"):  # each 1x1 convolution of this width would take 6 GB
        adapter.load(weights)


def test_weights_that_make_no_network_are_refused(adapter):
    raw, _ = forms()
    with pytest.raises(ValueError, match="no key twice"):
        adapter.load({**raw, "_orig_mod.head.bias": raw["head.bias"]})
    with pytest.raises(ValueError, match="in a row"):
        adapter.load({key: value for key, value in raw.items() if not key.startswith("body.1.")})
    with pytest.raises(ValueError, match="n_blocks: 2 is not a positive multiple of 3"):
        adapter.load({key: value for key, value in raw.items() if not key.startswith("body.2.")})


@pytest.mark.parametrize("absent", ("spandrel", "torchvision"))
def test_without_spandrel_or_torchvision_one_line_says_how_to_install_it(absent):
    with modules_apart():
        sys.modules[absent] = None
        with pytest.raises(
            InputError, match=r"pip install spandrel==0\.4\.2, with the torchvision that belongs to this"
        ):
            spandrel_ssiu.register()


@pytest.fixture(scope="module")
def written(spandrel, tmp_path_factory):
    """The written files, imported as a part of spandrel."""
    folder = tmp_path_factory.mktemp("spandrel")
    done = run_script("tools/spandrel_file.py", "--out", folder)
    assert done.returncode == 0
    assert "ArchSupport.from_architecture(SSIU.SSIUArch())," in done.stdout
    architectures = sys.modules["spandrel.architectures"]
    architectures.__path__.append(str(folder / "architectures"))
    yield importlib.import_module("spandrel.architectures.SSIU")
    architectures.__path__.pop()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_written_network_gives_the_same_bits_as_the_network_here(written, path):
    network, golden, _ = load_golden(path)
    descriptor = written.SSIUArch().load(network.state_dict())
    assert type(descriptor.model) is written.SSIU
    with torch.no_grad():
        ours, theirs = network(golden["input"]), descriptor.model(golden["input"])
    assert torch.equal(theirs, ours)
    torch.testing.assert_close(theirs, golden["output"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ("no_esam_x4", "no_moe_x4", "no_depthwise_msgm2_x4", "stages_3_x4"))
def test_the_written_files_detect_what_the_adapter_detects(adapter, written, name):
    weights = ablated(ROOT / "configs" / "ablation" / f"{name}.yml").state_dict()
    arch = written.SSIUArch()
    assert arch.detect({f"_orig_mod.{key}": value for key, value in weights.items()})
    ours, theirs = adapter.load(weights), arch.load(weights)
    assert (theirs.tags, theirs.scale, theirs.tiling) == (ours.tags, ours.scale, ours.tiling)
    assert theirs.model.hyperparameters["n_blocks"] == len(ours.model.body)
    with torch.no_grad():
        assert torch.equal(theirs(image(5, 7)), ours(image(5, 7)))


def test_the_written_files_need_nothing_of_this_project():
    for path, text in spandrel_file.files().items():
        if path.suffix == ".py":
            nodes = list(ast.walk(ast.parse(text)))
            names = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            names |= {
                node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
            }
            assert names <= {"re", "dataclasses", "torch", "einops", "spandrel"}
            assert "models/" not in text
            assert "docs/" not in text


def test_sources_that_changed_too_much_are_named(monkeypatch):
    monkeypatch.setattr(spandrel_file, "_source", lambda name: "class Other:\n    pass\n")
    with pytest.raises(InputError, match=r"models/ssiu\.py.*change tools/spandrel_file\.py"):
        spandrel_file.network_file()
    with pytest.raises(InputError, match=r"models/architecture\.py: has no Architecture"):
        spandrel_file.architecture_file()


def test_the_python_of_the_document_runs(spandrel, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    for block in BLOCKS:
        if "ModelLoader" in block:
            exec(block, names)
    assert names["large"].shape == (1, 3, 120, 180)
    assert 0 <= names["large"].min() < names["large"].max() <= 1
    assert names["model"].architecture.id == "SSIU"
