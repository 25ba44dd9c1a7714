"""Networks of others under the rules of test.py: named on a command line, padded, cut into tiles, read by spandrel."""

import argparse
import copy
import csv
import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import run_script

from config import load_config
from evaluation import timing
from evaluation.network import open_model, open_network, weights_file
from evaluation.peers import add_run_options, named_config, named_tiles
from evaluation.report import Setting
from evaluation.tiles import Tiles, tiled
from models import ModelError, create_model
from models.size_needs import SizeNeeds, fit
from models.ssiu import reflect_pad
from utils import InputError

NETWORKS = """
import torch
from torch import nn
from datas import upscale

class Bicubic(nn.Module):
    '''imresize, of the same 8-bit image as that of the evaluator.'''

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        image = (255 * x[0]).round().byte().permute(1, 2, 0).cpu().numpy()
        return torch.from_numpy(upscale(image, self.scale)).permute(2, 0, 1)[None] / 255

class Local(nn.Module):
    '''A pixel depends on the three around it.'''

    def __init__(self, scale, width=6):
        super().__init__()
        sides = [(3, width), (width, width), (width, 3 * scale**2)]
        self.body = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in sides))
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x):
        return self.shuffle(self.body(x))

class Fussy(Local):
    multiple_of, minimum, square = 8, 24, True

    def forward(self, x):
        height, width = x.shape[2:]
        assert height == width and not height % 8 and height >= 24
        return super().forward(x)

class Odd(Local):
    minimum = 4.5

class SSIU(Local):
    pass
"""


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    """The module `nets` in the working directory, a folder of this test's own."""
    (tmp_path / "nets.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SSIU_BACKEND", "plain")
    yield
    sys.modules.pop("nets", None)


def network(name, scale=2, **arguments):
    torch.manual_seed(0)
    return create_model(SimpleNamespace(model=name, scale=scale, model_args=arguments)).eval()


def options(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", action="append", default=[])
    add_run_options(parser)
    return parser.parse_args(words)


def evaluate(config, *words):
    done = run_script("test.py", "--config", config, *words, "--json", "r.json", "--out", "out")
    assert done.returncode == 0, done.stderr
    lines = csv.DictReader(Path("out/per_image.csv").read_text().splitlines())
    return done.stdout, json.loads(Path("r.json").read_text()), list(lines)


def test_a_bicubic_network_scores_what_the_bicubic_baseline_does(tiny_config):
    printed, summary, lines = evaluate(tiny_config(), "--model", "nets:Bicubic")
    scores = summary["sets"]["Sample"]
    for protocol in ("standard", "official"):
        assert scores[protocol] == pytest.approx(scores["bicubic"][protocol], abs=1e-6)
    assert summary["network"] == {"name": "Bicubic", "parameters": 0, "multiply_adds": None}
    assert summary["weights"] is None
    assert summary["config"]["model"] == "nets:Bicubic"
    assert {(line["network"], line["conditions"]) for line in lines} == {("Bicubic", "")}
    assert "| set (Bicubic) | images " in printed
    assert "| SSIU's paper x2 | " in printed
    assert "weights: none; float32 on " in printed


def test_a_network_is_scored_with_its_weights_and_counted(tiny_config):
    torch.save(network("nets:Local", width=5).state_dict(), "local.pt")
    words = ["--model", "nets:Local", "--model-args", "{width: 5}", "--weights", "local.pt"]
    _, summary, _ = evaluate(tiny_config(), *words)
    products = 9 * (3 * 5 + 5 * 5 + 5 * 12)
    counts = {"parameters": products + 5 + 5 + 12, "multiply_adds": products * 640 * 360}
    assert summary["network"] == {"name": "Local", **counts}
    assert summary["weights"]["file"] == "local.pt"
    counted = run_script("tools/profile_model.py", "--config", tiny_config(), *words[:4])
    assert f"| **all** | {counts['parameters']:,} | {counts['multiply_adds'] / 1e9:.2f} | " in counted.stdout


def test_tiles_are_named_wherever_there_are_scores(tiny_config):
    torch.save(network("nets:Local").state_dict(), "local.pt")
    words = ["--model", "nets:Local", "--weights", "local.pt"]
    _, whole, _ = evaluate(tiny_config(), *words, "--self-ensemble")
    printed, cut, lines = evaluate(tiny_config(), *words, "--self-ensemble", "--tile", "14", "--overlap", "3")
    assert cut["sets"]["Sample"]["official"] == pytest.approx(whole["sets"]["Sample"]["official"], abs=1e-4)
    assert (whole["tiles"], cut["tiles"]) == (None, {"side": 14, "overlap": 3})
    about = "tiles of 14, overlap 3, self-ensemble x8"
    assert cut["conditions"] == about
    assert {line["conditions"] for line in lines} == {about}
    assert f"| set (Local, {about}) | images " in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "Local"], "--model Local: is neither package.module:Name nor spandrel:FILE"),
        (["--model", "nets:Local"], "config key 'pretrain': is empty; no weights of nets:Local come .* --weights or"),
        (["--model", "nets:Locale"], "'nets:Locale': there is no Locale in "),
        (["--model", "nets:Local", "--weights", "absent.pt"], "absent.pt: "),
        (["--model", "nets:Local", "--weights", "other.pt"], "other.pt: the weights do not fit the network: 6 missing"),
        (["--model", "nets:Odd"], r"nets:Odd: its attribute minimum is of type float \(4.5\), not a whole number from"),
        (["--model", "nets:Local", "--model-args", "[1]"], r"--model-args \[1\]: expected a mapping"),
        (["--model-args", "{width: 5}"], "--model-args: goes with --model"),
        (["--model", "nets:Local", "--set", "n_feats=8"], "--set n_feats=...: --model takes its place; leave it out"),
        (["--model", "nets:Local", "--set", "pretrain=a.pt"], "--set pretrain=...: --model .*; use --weights"),
        (["--weights", "b.pt", "--set", "pretrain=a.pt"], "--set pretrain=...: --weights takes its place"),
        (["--model", "spandrel:a.pth", "--weights", "b.pt"], "--weights b.pt: spandrel:a.pth has weights of its own"),
        (["--model", "spandrel:a.pth", "--model-args", "{a: 1}"], "--model-args: a spandrel file says itself"),
        (["--tile", "64"], "--tile: large images go through SSIU row by row; the config key 'memory'"),
        (["--overlap", "8"], "--overlap: goes with --tile"),
        (["--model", "nets:Local", "--tile", "64"], "--tile 64: must be more than twice the overlap, which is 32"),
        (["--model", "nets:Local", "--tile", "64", "--overlap", "-1"], "--overlap -1: is negative"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(words, line, tiny_config):
    torch.save({"a": torch.ones(1)}, "other.pt")
    arguments = options(*words)
    with pytest.raises((InputError, ModelError), match=line) as caught:
        config = named_config(load_config(tiny_config(), arguments.set), arguments)
        setting = Setting("", "float32", tiles=named_tiles(config, arguments))
        open_network(config, arguments.weights, torch.device("cpu"), setting, print)
    assert "\n" not in str(caught.value)


def test_weights_alone_are_those_of_the_networks_config(tiny_config):
    arguments = options("--weights", "mine.pt")
    assert named_config(load_config(tiny_config()), arguments) == load_config(tiny_config(pretrain="mine.pt"))


def test_another_network_of_our_name_says_where_it_is_from(tiny_config):
    torch.save(network("nets:SSIU").state_dict(), "theirs.pt")
    printed, summary, _ = evaluate(tiny_config(), "--model", "nets:SSIU", "--weights", "theirs.pt")
    assert summary["network"]["name"] == "SSIU of nets"
    assert "| set (SSIU of nets) | " in printed


@pytest.mark.parametrize(("height", "width"), [(37, 53), (24, 24), (1, 1), (2, 40), (30, 5)])
def test_images_are_reflected_to_the_sizes_that_a_network_takes_and_cropped(height, width):
    fussy, plain = network("nets:Fussy"), network("nets:Local")
    x = torch.rand(2, 3, height, width)
    side = max(24, -(-max(height, width) // 8) * 8)
    rows, columns = (np.pad(np.arange(n), (0, side - n), "reflect") for n in (height, width))  # as often as it takes
    with torch.no_grad():
        expected = plain(x[:, :, rows][:, :, :, columns])[..., : 2 * height, : 2 * width]
        assert torch.equal(fussy(x), expected)
    assert fussy.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("size", [(53, 37), (37, 53)])
def test_what_a_network_gets_is_one_piece_of_memory(size):
    class Flat(torch.nn.Module):
        multiple_of = 8

        def forward(self, x):
            return F.interpolate(x.view(1, 3, -1).view(x.shape), scale_factor=2)

    model = Flat()
    fit(model, 2)
    assert model(torch.rand(1, 3, *size)).shape == (1, 3, 2 * size[0], 2 * size[1])


def test_a_copy_of_a_padded_network_is_one_of_its_own():
    """As training keeps it for the average of the weights."""
    fussy, x = network("nets:Fussy"), torch.rand(1, 3, 10, 12)
    other = copy.deepcopy(fussy)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
        assert fussy(x).abs().max() > 0
        assert other(x).abs().max() == 0


def test_padding_to_multiples_alone_is_that_of_ssiu():
    x = torch.rand(1, 3, 21, 50)
    assert torch.equal(SizeNeeds(multiple_of=16).pad(x), reflect_pad(x, 16))
    assert SizeNeeds().pad(x) is x


@pytest.mark.parametrize(("height", "width"), [(40, 61), (20, 20), (21, 90), (1, 33)])
def test_tiles_of_a_local_network_are_the_whole(height, width):
    local, x, seen = network("nets:Local"), torch.rand(2, 3, height, width), []

    def watched(tile):
        seen.append(tile.shape[2:])
        return local(tile)

    with torch.no_grad():
        whole, cut = local(x), tiled(watched, Tiles(20, 3), 2)(x)
        too_close = tiled(local, Tiles(20, 2), 2)(x)
    assert (cut - whole).abs().max() <= 1e-6
    assert max(map(max, seen)) <= 20
    assert (len(seen) == 1) == (max(height, width) <= 20)
    assert ((too_close - whole).abs().max() > 1e-3) == (max(height, width) > 20)


def test_another_network_is_timed_beside_ssiu_in_turn(tiny_config, monkeypatch):
    monkeypatch.setattr(timing, "WARM_UP", 0)
    monkeypatch.setattr(timing, "ceilings", lambda device: {"copy": 1.0, "float32": 1.0, "bf16": 1.0})
    words = ["inference", "--config", tiny_config(scale=4), "--outputs", "720p", "--repeats", "1", "--device", "cpu"]
    done = run_script("benchmark.py", *words, "--model", "nets:Local", "--tile", "200", "--json", "b.json")
    assert done.returncode == 0, done.stderr
    rows = {row["path"]: row for row in json.loads(Path("b.json").read_text())["rows"]}
    theirs = rows["plain float32 of Local, tiles of 200, overlap 32"]
    assert (theirs["network"], rows["literal float32"]["network"]) == ("Local", "SSIU")
    assert theirs["ratio"] == pytest.approx(rows["literal float32"]["median_ms"] / theirs["median_ms"])
    products = 9 * (3 * 6 + 6 * 6 + 6 * 48) * 320 * 180
    assert theirs["matrix_share"] == pytest.approx(2 * products / (theirs["median_ms"] * 1e9))
    assert theirs["difference"] == 0
    assert "bandwidth_share" not in theirs


@pytest.fixture
def torchvision(monkeypatch):
    """The three names of torchvision that spandrel takes, for two architectures that no test builds."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name in ("InterpolationMode", "rotate", "normalize"):
        setattr(sys.modules["torchvision.transforms.functional"], name, None)


@pytest.fixture
def spandrel(torchvision):
    return pytest.importorskip("spandrel")


def save(model, file):
    torch.save({"params": model.state_dict()}, file)
    return f"spandrel:{file}"


@pytest.fixture
def safmn(spandrel):
    """Takes sides that are multiples of 8."""
    from spandrel.architectures.SAFMN.__arch.safmn import SAFMN

    torch.manual_seed(0)
    return SAFMN(dim=8, n_blocks=1, upscaling_factor=2).eval()


def test_a_spandrel_file_is_its_network_on_the_padded_image_not_clipped(safmn):
    peer, x = network(save(safmn, "safmn.pth")), torch.rand(1, 3, 37, 53)
    with torch.no_grad():
        expected = safmn(F.pad(x, (0, 3, 0, 3), mode="reflect"))[..., :74, :106]
        assert torch.equal(peer(x), expected)
    assert expected.min() < 0
    assert expected.max() > 1


def test_a_spandrel_file_is_scored_under_its_own_name(safmn, tiny_config):
    printed, summary, _ = evaluate(tiny_config(), "--model", save(safmn, "mine_x2.pth"))
    assert summary["network"]["name"] == "mine_x2"
    assert summary["network"]["parameters"] == sum(weight.numel() for weight in safmn.parameters())
    assert summary["network"]["multiply_adds"] > 0
    assert summary["weights"]["file"] == "mine_x2.pth"
    assert "| set (mine_x2) | " in printed
    assert "network: SAFMN x2, as spandrel found it\n" in printed


def test_of_a_spandrel_network_that_was_trained_on_the_weights_of_the_run_are_taken(safmn, tiny_config):
    model = save(safmn, "mine_x2.pth")
    other = {f"network.{name}": value + 1 for name, value in safmn.state_dict().items()}
    torch.save(other, "best.pt")
    config = named_config(load_config(tiny_config()), options("--model", model))
    config = dataclasses.replace(config, pretrain="best.pt")
    assert weights_file(config) == Path("best.pt")
    opened = open_model(config, Path("best.pt"), torch.device("cpu"))
    assert all(torch.equal(opened.state_dict()[name], value) for name, value in other.items())


def test_a_spandrel_file_that_is_no_rgb_super_resolution_of_this_scale_is_refused(safmn):
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
    from spandrel.architectures.DnCNN.__arch.network_dncnn import DnCNN

    grey = save(SRVGGNetCompact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=2), "grey.pth")
    denoiser = save(DnCNN(in_nc=3, out_nc=3, nc=8, nb=8, act_mode="R"), "noise.pth")
    torch.save({"a": torch.ones(1)}, "unknown.pth")
    Path("broken.pth").write_bytes(b"")
    for name, scale, line in (
        (save(safmn, "safmn.pth"), 4, "safmn.pth: is SAFMN x2; the scale asked for is 4: take a config of x2"),
        (grey, 2, "grey.pth: is RealESRGAN Compact that takes 1 channels and gives 1; the images are RGB"),
        (denoiser, 1, "noise.pth: is DnCNN for Restoration, not for super-resolution"),
        ("spandrel:unknown.pth", 2, "unknown.pth: holds the weights of no network that spandrel knows"),
        ("spandrel:broken.pth", 2, "broken.pth: spandrel cannot read it"),
        ("spandrel:absent.pth", 2, "absent.pth: no such file"),
    ):
        with pytest.raises(ModelError, match=line) as caught:
            network(name, scale)
        assert "\n" not in str(caught.value)


def test_where_spandrel_is_absent_the_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ModelError, match=r"install it with: pip install --no-deps spandrel==0\.4\.2"):
        network("spandrel:a.pth")


def test_where_torchvision_is_absent_the_line_says_that_spandrel_needs_it(monkeypatch, spandrel):
    for name in [name for name in sys.modules if name.partition(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match="it needs torchvision, in the release that belongs to this PyTorch"):
        network("spandrel:a.pth")
